//! Scenarios as text: a plan without chance's faults, and what strikes when. Called by the tests; the same engine, checkers
//! and phases as for seeds.
//!
//! ```text
//! # a comment
//! nodes 5 quorums 4 2              members and quorums (majorities if not said)
//! spares 1                         so many more nodes wait to be added
//! subscribers 5                    clients that follow the log; each asks another node first
//! fault TornWrite 700000           each write in flight at a crash is torn with this chance, parts per million
//! victim 2                         whose state may be lost for good
//! conditional 40                   of a hundred bursts those with entries that are appended on a condition
//! entries 1300                     the longest entry's bytes
//! snapshots 60                     one is made each so many entries
//! writes 4                         log writes that a node has in flight at most
//! pace 65536                       bytes a second that members which lag are sent
//! trims 1000                       an operator trims now and then, so many milliseconds apart on average
//! durability memory                nodes vouch for what lies in memory; who crashes does not come back
//! sees a failed write ended the shard        a mark, or `fault NAME`, that every run must come by
//! at 2000 isolate 0 3000           n0 is cut off from the others for 3,000 ms
//! at 2000 oneway 0 1 3000          what n0 sends to n1 is lost
//! at 2000 hold 0 1 3000            what n0 sends to n1 arrives after that, all at once
//! at 2000 lose Accept leader * 500 datagrams with a frame of this kind are lost on their way there (`Configuration`: with one
//!                                  that asks to accept a change of the members)
//! at 2000 call A leader            from now on A names whoever leads now; `call E other A`: the last founder that A does not name;
//!                                  `call C other A E`: nor E
//! at 2000 remove A E               A is asked to remove E from the members (with a line `changes`: they may change); `add` and
//!                                  `promote` likewise
//! at 2000 chain 3000               each node reaches its neighbours only
//! at 2000 pause leader 900         whoever leads is frozen (a number names a node)
//! at 2000 transfer leader 2        whoever leads is asked to hand over to n2; without a name: to whoever is furthest
//! at 2000 stall leader 900         its disk is
//! at 2000 fail leader              its next log write fails
//! at 2000 wall leader -3600        its wall clock jumps by so many seconds
//! at 2000 kill 1                   n1's process ends, and starts again later
//! at 2000 down 1 3000              the same, after this time
//! at 2000 catch B 3000 a segment is prepared   the same, as soon as this has happened to B next
//! at 2000 doom 1 9                 its next recovery dies after so many operations on its disk
//! at 2000 power                    all nodes lose power
//! at 2000 damage Corruption        a victim's log goes bad, and it starts again; a third word `newest`: what it wrote last does,
//!                                  of what later marks cover
//! at 2000 lie                      a victim's disk begins to lie; said again, the power shows it
//! at 2000 newdisk 2                n2 comes back with an empty disk (it is the victim)
//! at 2000 client 0                 client 0 crashes, and comes back at another node
//! at 2000 evict                    sessions open until a client's is evicted
//! at 2000 storm                    as many members as can be spared are away under load, and come back together
//! ```

use crate::checks::Checked;
use crate::fault::{Fault, Style};
use crate::load::Client;
use crate::node::Health;
use crate::plan::{MAX_BATCH_BYTES, Plan, Profile};
use crate::sim::{Happening, Sim};
use crate::trace::{End, What};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use synod_paxos::Role;
use synod_wire::batch::{CONDITION_BYTES, max_entry_bytes};
use synod_wire::frame::{Frames, Header, Kind, flags};

/// Something that a scenario makes happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, simulated milliseconds.
    pub at_ms: u64,
    /// What, and with which words.
    pub words: Vec<String>,
}

/// Datagrams that a scenario takes out of the network.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losing {
    kind: Kind,
    from: Option<usize>,
    to: Option<usize>,
    until_ns: u64,
}

impl Losing {
    /// Whether it takes this datagram.
    pub(crate) fn takes(&self, now_ns: u64, from: End, to: End, datagram: &[u8]) -> bool {
        let fits = |end, wanted: Option<usize>| wanted.is_none_or(|node| end == End::Node(node));
        let configures = |header: &Header| header.kind == Kind::Accept && header.flags & flags::CONFIGURATION != 0;
        let is_meant = |header: &Header| match self.kind {
            Kind::Configuration => configures(header),
            kind => header.kind == kind,
        };
        now_ns < self.until_ns
            && fits(from, self.from)
            && fits(to, self.to)
            && Frames::new(datagram).flatten().any(|frame| is_meant(&frame.header))
    }
}

/// A node that a scenario takes down as soon as something has happened to it.
#[derive(Clone, Debug)]
pub(crate) struct Catch {
    node: usize,
    down_ns: u64,
    what: String,
}

/// Reads a scenario: the plan that runs it.
pub fn scenario(text: &str, seed: u64) -> Result<Plan, String> {
    let mut plan = Plan { faults: BTreeMap::new(), victims: Vec::new(), ..Plan::new(seed, Profile::Calm) };
    (plan.nodes, plan.phase1, plan.phase2) = (3, 2, 2);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty());
    for line in lines {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match words[0].as_str() {
            "nodes" => {
                plan.nodes = number(&words, 1)? as usize;
                (plan.phase1, plan.phase2) = (plan.nodes / 2 + 1, plan.nodes / 2 + 1);
                if words.get(2).is_some_and(|word| word == "quorums") {
                    (plan.phase1, plan.phase2) = (number(&words, 3)? as usize, number(&words, 4)? as usize);
                }
            }
            "fault" => {
                let name = words.get(1).map_or("", String::as_str);
                let fault = Fault::ALL.iter().find(|fault| fault.name() == name && fault.style() == Style::Each);
                let fault =
                    fault.ok_or_else(|| format!("{line:?}: no fault of each write or datagram has this name"))?;
                plan.faults.insert(*fault, number(&words, 2)?);
            }
            "victim" => plan.victims = vec![number(&words, 1)? as usize],
            "conditional" => {
                plan.conditional_percent = number(&words, 1)?;
                let longest = max_entry_bytes(plan.max_batch_bytes) - CONDITION_BYTES;
                plan.max_entry_bytes = plan.max_entry_bytes.min(longest as u64);
            }
            "changes" => plan.change_mean_ms = 1_000,
            "subscribers" => plan.subscribers = number(&words, 1)? as usize,
            "entries" => {
                plan.max_batch_bytes = MAX_BATCH_BYTES;
                plan.max_entry_bytes = number(&words, 1)?;
            }
            "snapshots" => plan.snapshot_entries = number(&words, 1)?,
            "writes" => plan.max_in_flight = number(&words, 1)? as usize,
            "pace" => plan.catch_up_bytes_per_s = number(&words, 1)?,
            "trims" => plan.trim_mean_ms = number(&words, 1)?,
            "spares" => plan.spares = number(&words, 1)? as usize,
            "durability" => plan.memory_durability = words.get(1).is_some_and(|word| word == "memory"),
            "sees" => {}
            "at" => {
                let step = Step { at_ms: number(&words, 1)?, words: words[2..].to_vec() };
                if step.words.first().is_some_and(|what| what == "newdisk") {
                    plan.victims = vec![number(&step.words, 1)? as usize];
                }
                plan.script.push(step);
            }
            other => return Err(format!("{line:?}: nobody knows {other:?}")),
        }
    }
    plan.safety_ms = plan.script.iter().map(|step| step.at_ms).max().unwrap_or(0) + 6_000;
    Ok(plan)
}

/// What every run of a scenario must come by: marks, or `fault NAME`.
pub fn sights(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("sees "));
    lines.map(|line| line.trim().to_owned()).collect()
}

fn number(words: &[String], at: usize) -> Result<u64, String> {
    let word = words.get(at).ok_or_else(|| format!("{words:?}: word {at} is missing"))?;
    word.parse().map_err(|_| format!("{words:?}: {word:?} is no number"))
}

impl Sim {
    /// Does what a scenario says. A bad one is its author's bug.
    pub(crate) fn scripted(&mut self, index: usize) -> Checked {
        let words = self.plan.script[index].words.clone();
        self.note(What::World(words.join(" ")));
        let arg = |at: usize| number(&words, at).unwrap_or_else(|error| panic!("{error}"));
        match words.first().map(String::as_str) {
            Some("isolate") => {
                let node = self.named(&words[1]);
                for other in (0..self.plan.machines()).filter(|other| *other != node) {
                    self.cut(node, other, arg(2));
                    self.cut(other, node, arg(2));
                }
            }
            Some("oneway") => self.cut(arg(1) as usize, arg(2) as usize, arg(3)),
            Some("chain") => {
                let nodes = self.plan.machines();
                for (a, b) in
                    (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a.abs_diff(*b) > 1)
                {
                    self.cut(a, b, arg(1));
                }
            }
            Some("pause") => {
                let node = self.named(&words[1]);
                self.nodes[node].paused_until_ns = self.now_ns + arg(2) * 1_000_000;
            }
            Some("transfer") => {
                let leader = self.named(&words[1]);
                let target = words.get(2).map(|word| self.named(word));
                self.ask_to_hand_over(leader, target);
            }
            Some("stall") => {
                let node = self.named(&words[1]);
                self.nodes[node].disk.stalled_until_ns = self.now_ns + arg(2) * 1_000_000;
            }
            Some("hold") => {
                let until_ns = self.now_ns + arg(3) * 1_000_000;
                let (from, to) = (self.named(&words[1]), self.named(&words[2]));
                self.net.link(End::Node(from), End::Node(to)).clogged_until_ns = until_ns;
            }
            Some("lose") => {
                let until_ns = self.now_ns + arg(4) * 1_000_000;
                let kind = Kind::ALL.iter().find(|kind| format!("{kind:?}") == words[1]);
                let kind = *kind.unwrap_or_else(|| panic!("there is no kind {:?}", words[1]));
                let end = |word: &String| (word != "*").then(|| self.named(word));
                self.losing.push(Losing { kind, from: end(&words[2]), to: end(&words[3]), until_ns });
            }
            Some("call") => {
                let node = match words[2].as_str() {
                    "other" => {
                        let but: Vec<usize> = words[3..].iter().map(|word| self.named(word)).collect();
                        (0..self.plan.nodes).rev().find(|node| !but.contains(node)).expect("a group of more")
                    }
                    word => self.named(word),
                };
                self.called.insert(words[1].clone(), node);
            }
            Some(change @ ("add" | "promote" | "remove")) => {
                let (leader, node) = (self.named(&words[1]), self.named(&words[2]));
                self.ask_for(change, leader, node);
            }
            Some("fail") => {
                let node = self.named(&words[1]);
                self.nodes[node].disk.fail_next = true;
            }
            Some("wall") => {
                let node = self.named(&words[1]);
                let by_s: i64 = words[2].parse().unwrap_or_else(|_| panic!("{:?} is no time", words[2]));
                self.nodes[node].clock.jump_wall(by_s * 1_000_000_000);
            }
            Some("down") => {
                let node = self.named(&words[1]);
                if self.nodes[node].health == Health::Up {
                    self.stop(node, false)?;
                    self.after(arg(2) * 1_000_000, Happening::Start { node });
                }
            }
            Some("catch") => {
                let (node, down_ns) = (self.named(&words[1]), arg(2) * 1_000_000);
                self.catching.push(Catch { node, down_ns, what: words[3..].join(" ") });
            }
            Some("damage") => {
                let fault = Fault::ALL.iter().find(|fault| fault.name() == words[1]);
                let fault = *fault.unwrap_or_else(|| panic!("there is no fault {:?}", words[1]));
                let victim = self.plan.victims[0];
                self.damage(fault, words.get(2).is_some_and(|word| word == "newest"))?;
                return self.kill(victim, false);
            }
            Some("doom") => self.nodes[arg(1) as usize].doomed_after = Some(arg(2)),
            Some("lie") => return self.rollback(),
            Some("client") => {
                let now_ns = self.now_ns;
                let client = arg(1) as usize;
                if let Client::Appender(appender) = &mut self.clients[client] {
                    appender.restart(now_ns);
                }
                return self.drive(client);
            }
            Some("evict") => return self.crowd(),
            Some("storm") => return self.catch_up_storm(),
            Some("kill") => {
                let node = self.named(&words[1]);
                return self.kill(node, false);
            }
            Some("power") => return (0..self.plan.machines()).try_for_each(|node| self.kill(node, true)),
            Some("newdisk") => return self.amnesia(),
            other => panic!("a scenario says {other:?}, which nobody knows"),
        }
        Ok(())
    }

    /// This has happened to a node: whether the scenario waits for it, and takes the node down.
    pub(crate) fn caught(&mut self, node: usize, what: &str) -> Checked {
        let Some(at) = self.catching.iter().position(|catch| catch.node == node && catch.what == what) else {
            return Ok(());
        };
        let catch = self.catching.swap_remove(at);
        self.stop(node, false)?;
        self.after(catch.down_ns, Happening::Start { node });
        Ok(())
    }

    fn cut(&mut self, from: usize, to: usize, ms: u64) {
        self.net.cut(End::Node(from), End::Node(to), self.now_ns + ms * 1_000_000);
    }

    /// A node by its number, by the name that it was called, or the one that leads or is about to (or else the first).
    fn named(&self, word: &str) -> usize {
        let with = |role| self.nodes.iter().position(|node| node.role == role && node.health == Health::Up);
        match word {
            "leader" => with(Role::Leader).or_else(|| with(Role::Preparing)).unwrap_or(0),
            name if self.called.contains_key(name) => self.called[name],
            _ => word.parse().unwrap_or_else(|_| panic!("{word:?} is no node")),
        }
    }
}
