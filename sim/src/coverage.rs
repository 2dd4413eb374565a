//! What a run, or many, came by: faults by kind, kinds of messages, changes of roles, paths of recovery; and what there is to
//! come by. The command line prints what was never seen, and why where that is as it should be.

use crate::fault::Fault;
use crate::plan::Profile;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use synod::shard::{Board, Gauge, Meter, Tally};
use synod_paxos::Role;
use synod_wire::NodeId;
use synod_wire::client::Counter;
use synod_wire::frame::Kind;
use synod_wire::mode::Mode;

/// See the module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coverage {
    /// How often each fault happened.
    pub faults: BTreeMap<Fault, u64>,
    /// How many frames of each kind were sent.
    pub kinds: BTreeMap<u8, u64>,
    /// How often each change of role was seen.
    pub roles: BTreeMap<String, u64>,
    /// How often each change of mode was seen.
    #[serde(default)]
    pub modes: BTreeMap<String, u64>,
    /// How often each marked place was reached.
    pub marks: BTreeMap<String, u64>,
    /// What the shards' boards showed at the ends of their processes, by the names that the product's code has for it: its counters,
    /// its tallies, how often its meters recorded, and how many processes ended with a gauge that was not zero.
    #[serde(default)]
    pub metrics: BTreeMap<String, u64>,
}

/// How many frames of each kind were sent: counted at every datagram, so in place.
#[derive(Clone, Debug)]
pub(crate) struct FramesSent([u64; 256]);

impl Default for FramesSent {
    fn default() -> FramesSent {
        FramesSent([0; 256])
    }
}

impl FramesSent {
    pub(crate) fn kind(&mut self, kind: Kind) {
        self.0[usize::from(kind as u8)] += 1;
    }

    /// The first frame of a datagram to or from a client.
    pub(crate) fn message(&mut self, datagram: &[u8]) {
        if let Some(kind) = datagram.get(17) {
            self.0[usize::from(*kind)] += 1;
        }
    }

    /// Those that were sent at all.
    pub(crate) fn counts(&self) -> BTreeMap<u8, u64> {
        (0..=u8::MAX).zip(self.0).filter(|(_, count)| *count > 0).collect()
    }
}

/// Something that could have been seen, and was not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missed {
    /// What.
    pub what: String,
    /// Why it is not to be seen; none: it ought to be.
    pub because: Option<String>,
}

const ON_DISK: &str = "a record of the log, never a message";
const TRIMS: &str =
    "never written: a trim is a run of a batch, and its removals leave no record. The number stays taken";
const OVERTAKEN: &str =
    "takes a transfer that lasts, or is interrupted; rare: the scenario snapshots_overtake_one_that_is_sent.txt has it";
const SNAPSHOTS: &str = "never written: what a snapshot has lies in a file of its own. The number stays taken";

/// Kinds of frames that are not sent.
const UNSENT: &[(Kind, &str)] = &[
    (Kind::Promised, ON_DISK),
    (Kind::Configuration, ON_DISK),
    (Kind::Founded, ON_DISK),
    (Kind::PeerMarks, ON_DISK),
    (Kind::Repaired, ON_DISK),
    (Kind::Trailer, ON_DISK),
    (Kind::Segment, ON_DISK),
    (Kind::Durability, ON_DISK),
    (Kind::Lease, ON_DISK),
    (Kind::Truncated, TRIMS),
    (Kind::Retention, TRIMS),
    (Kind::SnapshotMark, SNAPSHOTS),
    (Kind::Session, SNAPSHOTS),
];

const TAKES_OVER: &str =
    "takes an offer to lead that lies, in one turn, behind the answer that lets a node vote; some in 10,000 seeds";
const REMOVED_ELSEWHERE: &str = "takes a removed node that stands for election when it hears of its removal; rare";

/// The changes of role that the core can make, as they are seen from turn to turn, and why one is not seen.
const ROLES: &[(Role, Role, Option<&str>)] = &[
    (Role::Joining, Role::Follower, None),
    (Role::Joining, Role::Halted, None),
    (Role::Joining, Role::Candidate, Some(TAKES_OVER)),
    (Role::Follower, Role::Candidate, None),
    (Role::Candidate, Role::Follower, None),
    (Role::Candidate, Role::Preparing, None),
    (Role::Preparing, Role::Leader, None),
    (Role::Preparing, Role::Follower, None),
    (Role::Preparing, Role::Candidate, None),
    (Role::Leader, Role::Follower, None),
    (Role::Leader, Role::Candidate, None),
    (Role::Follower, Role::Halted, None),
    (Role::Candidate, Role::Halted, Some(REMOVED_ELSEWHERE)),
    (Role::Preparing, Role::Halted, Some(REMOVED_ELSEWHERE)),
    (Role::Leader, Role::Halted, None),
];

const LATE_WORD_MODE: &str =
    "a node that lost state hears first who remembers it, by placement, and serves nobody before";

/// The changes of mode, and why one is not seen.
const MODES: &[(Mode, Mode, Option<&str>)] = &[
    (Mode::Target, Mode::Election, None),
    (Mode::Target, Mode::Degraded, None),
    (Mode::Election, Mode::Target, None),
    (Mode::Election, Mode::Degraded, None),
    (Mode::Election, Mode::Recovery, None),
    (Mode::Degraded, Mode::Recovery, None),
    (Mode::Recovery, Mode::Target, None),
    (Mode::Recovery, Mode::Election, None),
    (Mode::Recovery, Mode::Floor, None),
    (Mode::Election, Mode::Floor, None),
    (Mode::Degraded, Mode::Floor, None),
    (Mode::Target, Mode::Floor, Some(LATE_WORD_MODE)),
];

/// Whether the core can make this change of role between two turns. `reconfigured`: the members changed in the last of them, and
/// their leader stands for election by the new ones.
pub(crate) fn is_legal(from: Role, to: Role, reconfigured: bool) -> bool {
    let stands_again = (from, to) == (Role::Leader, Role::Candidate);
    ROLES.iter().any(|(before, after, _)| (*before, *after) == (from, to)) && (reconfigured || !stands_again)
}

const APPLIED_BY_NOBODY: &str =
    "takes a hole below chosen slots on every member that was up and a recovery that fills it: some in 10,000 seeds";
const CUT_TWICE: &str = "takes a crash that tears the last flush and a death just while recovery cuts it: once in 3,000 seeds; wal's own tests have it";
const FULL_TO_THE_END: &str =
    "takes a crash just when the log has filled its last segment and no other was prepared; wal's own tests have it";
const TOO_DAMAGED: &str = "takes damage of the founding record with nothing behind it; rare";

/// Places in the engine that are reached, and the ways of recovery.
const MARKS: &[(&str, Option<&str>)] = &[
    ("a bounded read was answered", None),
    ("a bunch of completions took more than one turn", None),
    ("a client was told that its session is gone", None),
    ("a client that came back was told an old outcome again", None),
    ("a client was told the value of a key", None),
    ("a client was told what a put or delete did", None),
    ("a client was told who chose a slot", None),
    ("a crash left a whole trailer over a torn record", None),
    ("a failed write ended the shard", None),
    ("a follower answered a fresh read", None),
    ("a healed core was asked to commit", None),
    ("a leader answered a fresh read", None),
    ("a leader answered by its lease", None),
    ("a leader handed over as it was asked", None),
    ("a leader that held a lease was cut off", None),
    ("a leader went on, as its successor did not take over", None),
    ("a leader went on, as its successor lagged", None),
    ("a process stood still between reading the clock and using it", None),
    ("a log too damaged to be read", Some(TOO_DAMAGED)),
    ("a leader was removed", None),
    ("a leader was asked for a change before enough knew the last one", None),
    (
        "what was chosen above a configuration is open again",
        Some(
            "takes four elections in a row, each with its own losses; the scenario chosen_above_a_configuration.txt has it",
        ),
    ),
    ("a learner may vote", None),
    ("a look for evidence fails", None),
    ("a member was removed", None),
    ("a frame of an unknown kind was sent", None),
    ("a node joined", None),
    ("a node went back to the release before", None),
    ("a node that lost its log joined again", None),
    ("a removed node halted", None),
    ("a removed node was formatted anew", None),
    ("a change of the members was refused", None),
    ("a member came back more than a window behind", None),
    (
        "a node that forgot what it vouched for was refused",
        Some("no seed draws memory durability; the scenario memory_durability.txt has it"),
    ),
    ("a node that lost its state halted", None),
    ("a piece of history had reads during appends", None),
    ("a piece of history was searched for an order", None),
    ("a process started", None),
    ("a process was killed in the middle of a turn", None),
    ("a read ended", None),
    ("a read fails", None),
    ("a piece of the log is read for a snapshot", None),
    ("a read for a peer fails", None),
    ("a read for a snapshot fails", None),
    ("a read is served from disk", None),
    ("a read for a subscriber fails", None),
    ("a segment is prepared", None),
    ("a shard asked to be recovered anew", None),
    ("a snapshot was made", None),
    ("chunks of a snapshot are read for a member", None),
    ("chunks of a snapshot are stored", None),
    ("a node looks up its snapshots for a member", None),
    ("a read of chunks fails", None),
    ("a snapshot cannot be installed", Some("takes an install on a disk that lies; rare")),
    ("a snapshot is to be installed", None),
    ("a snapshot is sent on, though three newer were made", Some(OVERTAKEN)),
    ("a transfer begins", None),
    ("a transfer goes on that an earlier life began, though another is offered", Some(OVERTAKEN)),
    ("entries were trimmed", None),
    ("the log's front is removed", None),
    ("a reader lets go of removed files", None),
    ("a reader was told that its entries were trimmed", None),
    ("a subscriber was told that its entries were trimmed", None),
    ("a subscriber is served from disk", None),
    ("a subscriber was dropped: SLOW", None),
    ("a subscriber was dropped: TIMED_OUT", None),
    ("a subscriber went on at another member", None),
    ("an entry was not appended, as its condition was not met", None),
    ("an evicted session's opening came late", None),
    ("catch-up is served from disk", None),
    ("evidence is looked up on disk", None),
    ("killed inside format", None),
    ("killed inside recovery", None),
    ("killed right after recovery", None),
    ("killed while a segment was prepared", None),
    ("killed while a snapshot was installed", None),
    ("killed while a snapshot was made", None),
    ("killed while chunks were stored", None),
    ("no space for a segment", None),
    ("recovery: a clean end", None),
    ("recovery: a cut that was interrupted, again", Some(CUT_TWICE)),
    ("recovery: a disk that was replaced or rolled back", None),
    ("recovery: a preparation left over", None),
    ("recovery: a segment's header is damaged", None),
    ("recovery: a member's snapshot and the end of the own log", None),
    ("recovery: a snapshot and what the log has behind it", None),
    ("recovery: a torn flush whose trailer is whole", None),
    ("recovery: a torn tail, nothing of it kept", None),
    ("recovery: a torn tail, whole records kept", None),
    ("recovery: chosen slots that are not here", None),
    ("recovery: damage hides all open slots", None),
    ("recovery: damage hides nothing any more", None),
    ("recovery: damage hides some slots", None),
    ("recovery: damage that is named", None),
    ("recovery: damage that is not all named", None),
    ("recovery: damage that took no record", None),
    ("recovery: it applies what nobody applied before", Some(APPLIED_BY_NOBODY)),
    ("recovery: pages that cannot be read", None),
    ("recovery: the founding is not done", None),
    ("recovery: the next segment was missing", Some(FULL_TO_THE_END)),
    ("recovery: votes above the prefix", None),
    ("sessions rested for too long by the log's time", None),
    ("two snapshots were compared", None),
];

impl Coverage {
    /// What there is to come by in a profile and was not. Only the mixed profile has everything.
    pub fn missed(&self, profile: Profile) -> Vec<Missed> {
        let mut missed = Vec::new();
        let mut miss = |what: String, because: Option<&str>| {
            missed.push(Missed { what, because: because.map(str::to_owned) });
        };
        for fault in Fault::ALL.iter().filter(|fault| profile.has(**fault) && !self.faults.contains_key(fault)) {
            miss(format!("fault {fault}"), None);
        }
        if profile != Profile::Mixed {
            return missed;
        }
        for kind in Kind::ALL.iter().filter(|kind| !self.kinds.contains_key(&(**kind as u8))) {
            let why = UNSENT.iter().find(|(unsent, _)| unsent == kind).map(|(_, why)| *why);
            miss(format!("message {kind:?}"), why);
        }
        for (from, to, why) in ROLES {
            let name = role_change(*from, *to);
            if !self.roles.contains_key(&name) {
                miss(format!("role {name}"), *why);
            }
        }
        for (from, to, why) in MODES {
            let name = mode_change(*from, *to);
            if !self.modes.contains_key(&name) {
                miss(format!("mode {name}"), *why);
            }
        }
        for (mark, why) in MARKS.iter().filter(|(mark, _)| !self.marks.contains_key(*mark)) {
            miss(format!("place {mark:?}"), *why);
        }
        missed
    }

    pub(crate) fn fault(&mut self, fault: Fault) {
        *self.faults.entry(fault).or_default() += 1;
    }

    pub(crate) fn role(&mut self, from: Role, to: Role) {
        *self.roles.entry(role_change(from, to)).or_default() += 1;
    }

    pub(crate) fn mode(&mut self, from: Mode, to: Mode) {
        *self.modes.entry(mode_change(from, to)).or_default() += 1;
    }

    /// A process ends: what its board shows is added. What is zero is left out.
    pub(crate) fn board(&mut self, board: &Board) {
        let counters = Counter::ALL.iter().map(|counter| (format!("{counter:?}"), board.counter(*counter)));
        let tallies = Tally::ALL.iter().map(|tally| (format!("{tally:?}"), board.meters().tally(*tally)));
        let meters = Meter::ALL.iter().map(|meter| (format!("{meter:?}"), board.meters().histogram(*meter).count()));
        let gauges = Gauge::ALL.iter().map(|gauge| (format!("Gauge{gauge:?}"), u64::from(board.gauge(*gauge) > 0)));
        let unanswered = (0..NodeId::LIMIT).map(|node| board.meters().heartbeats(NodeId(node)).1).sum();
        let unanswered = ("HeartbeatsUnanswered".to_owned(), unanswered);
        let all = counters.chain(tallies).chain(meters);
        for (name, count) in all.chain(gauges).chain([unanswered]).filter(|(_, count)| *count > 0) {
            *self.metrics.entry(name).or_default() += count;
        }
    }

    /// A place that [`MARKS`] lists is reached.
    pub(crate) fn mark(&mut self, mark: &str) {
        debug_assert!(MARKS.iter().any(|(name, _)| *name == mark), "{mark:?} is not listed");
        match self.marks.get_mut(mark) {
            Some(count) => *count += 1,
            None => drop(self.marks.insert(mark.to_owned(), 1)),
        }
    }

    /// Adds another run's.
    pub fn absorb(&mut self, other: &Coverage) {
        fn add<K: Clone + Ord>(to: &mut BTreeMap<K, u64>, from: &BTreeMap<K, u64>) {
            for (key, count) in from {
                *to.entry(key.clone()).or_default() += count;
            }
        }
        add(&mut self.faults, &other.faults);
        add(&mut self.kinds, &other.kinds);
        add(&mut self.roles, &other.roles);
        add(&mut self.modes, &other.modes);
        add(&mut self.marks, &other.marks);
        add(&mut self.metrics, &other.metrics);
    }
}

fn mode_change(from: Mode, to: Mode) -> String {
    format!("{} -> {}", from.name(), to.name())
}

fn role_change(from: Role, to: Role) -> String {
    format!("{from:?} -> {to:?}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_not_missed_and_what_cannot_be_seen_is_explained() {
        let mut coverage = Coverage::default();
        let before = coverage.missed(Profile::Mixed);
        coverage.fault(Fault::Loss);
        coverage.role(Role::Joining, Role::Follower);
        coverage.mark("a process started");
        coverage.kinds.insert(Kind::Hello as u8, 1);
        let after = coverage.missed(Profile::Mixed);
        let gone: Vec<_> = before.iter().filter(|missed| !after.contains(missed)).map(|m| m.what.as_str()).collect();
        let seen = ["fault Loss (1)", "message Hello", "role Joining -> Follower", "place \"a process started\""];
        assert_eq!(gone, seen);
        let because = |what: &str| after.iter().find(|missed| missed.what == what).unwrap().because.is_some();
        assert!(because("message Trailer") && !because("message Promise"));
        assert!(coverage.missed(Profile::Calm).is_empty(), "a calm run has nothing to come by");
    }

    #[test]
    fn a_leader_becomes_a_candidate_only_for_new_members() {
        assert!(is_legal(Role::Leader, Role::Follower, false) && !is_legal(Role::Leader, Role::Candidate, false));
        assert!(is_legal(Role::Leader, Role::Candidate, true) && !is_legal(Role::Halted, Role::Follower, true));
    }
}
