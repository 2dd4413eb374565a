//! Reads and runs the scenario scripts (`tests/scenarios/*.txt`): one command a line, `#` starts a comment.
//!
//! | command | what it does |
//! |---|---|
//! | `group 3 [quorums 2 2] [window 64] [fresh]` | starts the nodes 1 to 3; `fresh`: just formatted, not founded |
//! | `group 3 lease 100ms [drift 10%] [slow 1] [fast 2]` | leases, the drift that they allow for, and whose clocks drift by it |
//! | `propose 1 a b` | the leader 1 proposes values, one a slot |
//! | `read 1` | node 1 gets a read, which joins its next round |
//! | `transfer 1 [2]` | node 1 is told to hand over (to node 2) |
//! | `campaign 2` | node 2 hears no leader, is told that no other does, and stands for election |
//! | `deliver` | delivers datagrams until none is under way |
//! | `deliver 1->2 Accept slot=3` | delivers those now under way that match; `*` is any node; kind and fields may be left out |
//! | `drop …`, `duplicate …` | likewise; `deliver one …`: the oldest of them |
//! | `run 50ms` | time passes, timers fire, datagrams arrive at once |
//! | `timers 1 50ms` | time passes for node 1 alone; nothing arrives |
//! | `cut 1->2`, `cut 1-2`, `isolate 1`, `heal` | what is sent on a cut link is lost |
//! | `disk 1 slow`, `disk 1 fast`, `sync 1 [records]` | a slow disk syncs only when told |
//! | `crash 1`, `restart 1` | a crash loses what is not synced |
//! | `image 1`, `rollback 1`, `format 1` | keep a disk image; put it back; an empty disk (of a stopped node) |
//! | `damage 1 slot=3 named` | damages the record of a value; `nameless`: nothing tells which slot it was for |
//! | `expect …` | see `Script::expect`; `all` in place of a node: every node that is up |

use super::MS;
use super::cluster::{Cluster, Shape};
use super::disk::Damage;
use super::node::{Node, Packet};
use std::path::Path;
use synod_paxos::{Input, Lease, Message};
use synod_wire::{Ballot, NodeId, Quorums, Slot};

type Outcome = Result<(), String>;

const PPM_OF_A_PERCENT: u32 = 10_000;

/// Runs a script.
///
/// # Panics
/// With file, line and reason if the script is wrong, or the group does not do what it expects.
pub(crate) fn run(path: &Path) {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut script = Script { cluster: None, expectations: 0 };
    for (number, line) in text.lines().enumerate() {
        let command = line.split('#').next().unwrap_or_default();
        let words: Vec<&str> = command.split_whitespace().collect();
        let at = format!("{}:{}: {}", path.display(), number + 1, command.trim());
        println!("{at}");
        if let Err(reason) = script.execute(&words) {
            panic!("{at}\n  {reason}\n  under way: {:#?}", script.cluster.map(|cluster| cluster.net));
        }
    }
    assert!(script.expectations > 0, "{}: expects nothing", path.display());
}

struct Script {
    cluster: Option<Cluster>,
    expectations: usize,
}

impl Script {
    fn execute(&mut self, words: &[&str]) -> Outcome {
        match words {
            [] => Ok(()),
            ["group", nodes, options @ ..] => {
                self.cluster = Some(Cluster::new(&shape(nodes, options)?));
                Ok(())
            }
            ["expect", rest @ ..] => {
                self.expectations += 1;
                self.expect(rest)
            }
            [command, rest @ ..] => self.command(command, rest),
        }
    }

    fn cluster(&mut self) -> Result<&mut Cluster, String> {
        self.cluster.as_mut().ok_or_else(|| "a script starts with `group`".into())
    }

    fn command(&mut self, command: &str, words: &[&str]) -> Outcome {
        let cluster = self.cluster()?;
        match (command, words) {
            ("propose", [id, values @ ..]) => return propose(cluster, node(id)?, values),
            ("read", [id]) => cluster.step(node(id)?, Input::Read, None),
            ("transfer", [id]) => cluster.step(node(id)?, Input::Transfer { to: None }, None),
            ("transfer", [id, to]) => cluster.step(node(id)?, Input::Transfer { to: Some(node(to)?) }, None),
            ("campaign", [id]) => return cluster.campaign(node(id)?),
            ("deliver", []) => cluster.deliver_all(),
            ("deliver", ["one", filter @ ..]) => {
                let mut matching = take(cluster, filter)?;
                let oldest = matching.remove(0);
                cluster.net.extend(matching);
                cluster.deliver(oldest);
            }
            ("deliver", filter) => {
                for packet in take(cluster, filter)? {
                    cluster.deliver(packet);
                }
            }
            ("drop", filter) => drop(take(cluster, filter)?),
            ("duplicate", filter) => {
                let copies: Vec<_> = take(cluster, filter)?.into_iter().flat_map(|p| [p.clone(), p]).collect();
                cluster.net.extend(copies);
            }
            ("run", [time]) => cluster.run(nanoseconds(time)?),
            ("timers", [id, time]) => cluster.run_timers(node(id)?, nanoseconds(time)?),
            ("cut", [link]) => cut(cluster, link)?,
            ("isolate", [id]) => {
                for other in cluster.ids() {
                    cluster.cut(node(id)?, other);
                    cluster.cut(other, node(id)?);
                }
            }
            ("heal", []) => cluster.heal(),
            ("disk", [id, "slow"]) => cluster.set_slow(node(id)?, true),
            ("disk", [id, "fast"]) => cluster.set_slow(node(id)?, false),
            ("sync", [id]) => cluster.sync(node(id)?, u64::MAX),
            ("sync", [id, records]) => cluster.sync(node(id)?, number(records)?),
            ("crash", [id]) => cluster.crash(node(id)?),
            ("restart", [id]) => cluster.start(node(id)?),
            ("image", [id]) => cluster.keep_image(node(id)?),
            ("rollback", [id]) => return cluster.roll_back(node(id)?),
            ("format", [id]) => cluster.format(node(id)?),
            ("damage", [id, slot, how]) => return damage(cluster, node(id)?, slot, how),
            _ => return Err("no such command (see tests/common/script.rs)".into()),
        }
        Ok(())
    }

    /// | `expect …` | holds if |
    /// |---|---|
    /// | `1 role Leader` | the role |
    /// | `1 leader 2`, `1 leader none` | whom it follows |
    /// | `1 log - a b` | what it delivered, from slot 1; `-` is a no-op |
    /// | `1 delivered a` | it delivered this value, once |
    /// | `1 promised 2.1` | its promise: round.node |
    /// | `1 held 3 1.1`, `1 held 3 none` | the ballot of what it holds above its prefix |
    /// | `1 unknown none`, `… all`, `… 3 4` | what damage hides |
    /// | `1 halted Behind`, `… FormattedAnew`, `… BeyondRepair`, `… no` | why it halted |
    /// | `1 answered 2`, `… none` | the last round of reads that it answered, counted from 1 at each start |
    /// | `1 lease yes`, `… no` | whether its lease lasts, by its own clock |
    /// | `1 transferred Done`, `… no` | how its last hand-over ended |
    /// | `1 proposes yes`, `… no` | whether a batch may be proposed |
    /// | `sent 1->2 Accept slot=3` | such a datagram is under way |
    /// | `silent 1->2 Accept slot=3` | none is |
    /// | `one Leader` | exactly one node has this role |
    fn expect(&mut self, words: &[&str]) -> Outcome {
        let cluster = self.cluster()?;
        let now_ns = cluster.now_ns;
        match words {
            ["sent", filter @ ..] | ["silent", filter @ ..] => {
                let filter = Filter::parse(filter)?;
                let count = cluster.net.iter().filter(|packet| filter.matches(packet)).count();
                let wanted = words[0] == "sent";
                if (count > 0) == wanted { Ok(()) } else { Err(format!("{count} such datagrams are under way")) }
            }
            ["one", role] => {
                let up = cluster.nodes.iter().filter_map(|node| node.replica.as_ref());
                match up.filter(|core| format!("{:?}", core.role()) == *role).count() {
                    1 => Ok(()),
                    count => Err(format!("{count} nodes have this role")),
                }
            }
            ["all", what, rest @ ..] => {
                let mut up = cluster.nodes.iter().filter(|node| node.replica.is_some());
                up.try_for_each(|node| expect_node(node, now_ns, what, rest))
            }
            [id, what, rest @ ..] => {
                let id = node(id)?;
                expect_node(cluster.node(id), now_ns, what, rest)
            }
            _ => Err("expects what?".into()),
        }
    }
}

fn expect_node(node: &Node, now_ns: u64, what: &str, wanted: &[&str]) -> Outcome {
    let core = node.replica.as_ref().ok_or_else(|| format!("node {} is down", node.settings.me))?;
    let found = match what {
        "role" => format!("{:?}", core.role()),
        "leader" => core.leader().map_or("none".into(), |leader| leader.to_string()),
        "log" => node.applied.iter().map(|copy| copy.value.to_string()).collect::<Vec<_>>().join(" "),
        "delivered" => {
            let value = *wanted.first().ok_or("which value?")?;
            let count = node.applied.iter().filter(|copy| &*copy.value == value).count();
            if count == 1 { value.into() } else { format!("{value} {count} times") }
        }
        "promised" => core.promised().to_string(),
        "held" => {
            let slot = Slot(number(wanted.first().ok_or("which slot?")?)?);
            format!("{slot} {}", core.held(slot).map_or("none".into(), |ballot: Ballot| ballot.to_string()))
        }
        "unknown" => match (core.unknown_slots(), core.unknown()) {
            (None, _) => "all".into(),
            (Some(0), _) => "none".into(),
            (Some(_), slots) => slots.iter().map(Slot::to_string).collect::<Vec<_>>().join(" "),
        },
        "halted" => node.halted().map_or("no".into(), |halt| kind(&format!("{halt:?}")).to_string()),
        "answered" => node.answered.map_or("none".into(), |round| round.to_string()),
        "lease" => String::from(if node.holds_lease(now_ns) { "yes" } else { "no" }),
        "transferred" => node.transferred.map_or("no".into(), |outcome| format!("{outcome:?}")),
        "proposes" => String::from(if core.can_propose() { "yes" } else { "no" }),
        _ => return Err(format!("nothing is known of `{what}` (see tests/common/script.rs)")),
    };
    let wanted = wanted.join(" ");
    if found == wanted { Ok(()) } else { Err(format!("node {}: {what} is {found:?}", node.settings.me)) }
}

fn propose(cluster: &mut Cluster, id: NodeId, values: &[&str]) -> Outcome {
    for value in values {
        if !cluster.node(id).core().can_propose() {
            return Err(format!("node {id} may not propose {value}"));
        }
        cluster.step(id, Input::Propose, Some((*value).into()));
    }
    Ok(())
}

fn cut(cluster: &mut Cluster, link: &str) -> Outcome {
    if let Some((from, to)) = link.split_once("->") {
        cluster.cut(node(from)?, node(to)?);
    } else {
        let (a, b) = link.split_once('-').ok_or("a link is 1->2 or 1-2")?;
        cluster.cut(node(a)?, node(b)?);
        cluster.cut(node(b)?, node(a)?);
    }
    Ok(())
}

fn damage(cluster: &mut Cluster, id: NodeId, slot: &str, how: &str) -> Outcome {
    let slot = Slot(number(slot.strip_prefix("slot=").ok_or("damage 1 slot=3 named")?)?);
    let how = match how {
        "named" => Damage::Named,
        "nameless" => Damage::Nameless,
        _ => return Err("damage is named or nameless".into()),
    };
    let hit = cluster.node(id).disk.damage_slot(slot, how);
    if hit { Ok(()) } else { Err(format!("node {id} has no record of slot {slot}")) }
}

/// Takes the matching datagrams out of the network.
fn take(cluster: &mut Cluster, filter: &[&str]) -> Result<Vec<Packet>, String> {
    let filter = Filter::parse(filter)?;
    let (taken, left) = std::mem::take(&mut cluster.net).into_iter().partition(|packet| filter.matches(packet));
    cluster.net = left;
    let taken: Vec<Packet> = taken;
    if taken.is_empty() { Err("no such datagram is under way".into()) } else { Ok(taken) }
}

/// Which datagrams a command means.
struct Filter {
    from: Option<NodeId>,
    to: Option<NodeId>,
    kind: Option<String>,
    fields: Vec<(String, String)>,
}

impl Filter {
    fn parse(words: &[&str]) -> Result<Filter, String> {
        let (link, rest) = words.split_first().ok_or("which datagrams?")?;
        let (from, to) = link.split_once("->").ok_or("a link is 1->2; * is any node")?;
        let end = |word: &str| if word == "*" { Ok(None) } else { node(word).map(Some) };
        let mut filter = Filter { from: end(from)?, to: end(to)?, kind: None, fields: Vec::new() };
        for word in rest {
            match word.split_once('=') {
                Some((key, value)) => filter.fields.push((key.into(), value.into())),
                None => filter.kind = Some((*word).into()),
            }
        }
        Ok(filter)
    }

    fn matches(&self, packet: &Packet) -> bool {
        let name = format!("{:?}", packet.message);
        self.from.is_none_or(|from| from == packet.from)
            && self.to.is_none_or(|to| to == packet.to)
            && self.kind.as_ref().is_none_or(|wanted| wanted == kind(&name))
            && self.fields.iter().all(|(key, value)| field(&packet.message, key).as_ref() == Some(value))
    }
}

/// The name at the start of a value's debug form.
fn kind(debug: &str) -> &str {
    debug.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default()
}

fn field(message: &Message, key: &str) -> Option<String> {
    let text = match (message, key) {
        (Message::Accept { slot, .. }, "slot") => slot.to_string(),
        (Message::Learn { slot, .. } | Message::Value { slot, .. } | Message::FetchValue { slot, .. }, "slot") => {
            slot.to_string()
        }
        (Message::Accepted { upto, .. }, "upto") => upto.to_string(),
        (Message::Promise { part, .. }, "part") => part.to_string(),
        (Message::Missing { first, .. } | Message::FetchChosen { first, .. }, "first") => first.to_string(),
        (Message::Missing { last, .. } | Message::FetchChosen { last, .. }, "last") => last.to_string(),
        (Message::Accept { ballot, .. } | Message::Accepted { ballot, .. }, "ballot") => ballot.to_string(),
        (Message::Prepare { ballot, .. } | Message::Promise { ballot, .. }, "ballot") => ballot.to_string(),
        (Message::Commit { ballot, .. } | Message::Heartbeat { ballot, .. }, "ballot") => ballot.to_string(),
        (Message::Release { ballot, .. } | Message::TakeOver { ballot, .. }, "ballot") => ballot.to_string(),
        (Message::TakeOver { upto, .. }, "upto") => upto.to_string(),
        (Message::Release { probe, .. }, "probe") => probe.to_string(),
        (Message::Heartbeat { chosen, .. }, "chosen") => chosen.to_string(),
        (Message::Heartbeat { probe, .. } | Message::HeartbeatAck { probe, .. }, "probe") => probe.to_string(),
        (Message::ReadIndex { round, .. } | Message::ReadIndexAck { round, .. }, "round") => round.to_string(),
        (Message::PreVote { round, .. } | Message::PreVoteAck { round, .. }, "round") => round.to_string(),
        (Message::PreVoteAck { granted, .. }, "granted") => granted.to_string(),
        (Message::ReadIndexAck { index, .. }, "index") => index.to_string(),
        // Of several ranges the first.
        (Message::Commit { ranges, .. }, _) => {
            let range = ranges.iter().next()?;
            match key {
                "first" => range.first.to_string(),
                "last" => range.last.to_string(),
                "acceptors" => range.acceptors.iter().map(|node| node.to_string()).collect::<Vec<_>>().join("+"),
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(text)
}

fn shape(nodes: &str, options: &[&str]) -> Result<Shape, String> {
    let nodes = number(nodes)? as u8;
    let mut shape = Shape {
        nodes,
        quorums: Quorums::majority(nodes.into()),
        window_slots: 64,
        fresh: false,
        lease: None,
        drifts: Vec::new(),
    };
    let mut rest = options;
    while !rest.is_empty() {
        rest = match rest {
            ["fresh", rest @ ..] => {
                shape.fresh = true;
                rest
            }
            ["window", slots, rest @ ..] => {
                shape.window_slots = number(slots)?;
                rest
            }
            ["quorums", phase1, phase2, rest @ ..] => {
                shape.quorums = Quorums { phase1: number(phase1)? as usize, phase2: number(phase2)? as usize };
                rest
            }
            ["lease", length, rest @ ..] => {
                shape.lease = Some(Lease { length_ns: nanoseconds(length)?, drift_ppm: 0 });
                rest
            }
            ["drift", percent, rest @ ..] => {
                let percent = number(percent.strip_suffix('%').ok_or("a drift is 10%")?)?;
                shape.lease.as_mut().ok_or("first the lease")?.drift_ppm = percent as u32 * PPM_OF_A_PERCENT;
                rest
            }
            [way @ ("slow" | "fast"), id, rest @ ..] => {
                let drift_ppm = i64::from(shape.lease.ok_or("first the lease")?.drift_ppm);
                shape.drifts.push((node(id)?, if *way == "slow" { -drift_ppm } else { drift_ppm }));
                rest
            }
            _ => return Err(format!("no such option: {rest:?}")),
        };
    }
    Ok(shape)
}

fn node(word: &str) -> Result<NodeId, String> {
    word.parse().map(NodeId).map_err(|_| format!("{word} is not a node"))
}

fn number(word: &str) -> Result<u64, String> {
    word.parse().map_err(|_| format!("{word} is not a number"))
}

fn nanoseconds(word: &str) -> Result<u64, String> {
    Ok(number(word.strip_suffix("ms").ok_or("a time is 50ms")?)? * MS)
}
