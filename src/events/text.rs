//! A record in words: what happened, to whom, why, and its figures by name.

use crate::shard::{EventKind, FAILURES, ROLE_REASONS, Record};
use std::fmt;
use std::net::Ipv4Addr;
use synod_wire::client::role;
use synod_wire::members::{change, outcome};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::stream::StreamEnd;
use synod_wire::transfer::TransferOutcome;
use synod_wire::{Ballot, NodeSet};

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// What happened.
    pub what: &'static str,
    /// To whom, from what, to what; may be empty.
    pub details: String,
    /// Why, if there is a reason.
    pub reason: Option<String>,
    /// The figures, by name.
    pub figures: Vec<(&'static str, String)>,
}

/// Figures as `name=value`.
#[derive(Debug)]
pub struct Figures<'a>(pub &'a [(&'static str, String)]);

impl fmt::Display for Figures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (name, value)) in self.0.iter().enumerate() {
            let space = if at == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

fn mode(number: u8) -> String {
    Mode::from_u8(number).map_or_else(|| format!("mode {number}"), |mode| mode.name().to_owned())
}

fn mode_reason(number: u8) -> String {
    ModeReason::from_u8(number).map_or_else(|| format!("reason {number}"), |reason| reason.name().to_owned())
}

fn role_reason(place: u8) -> String {
    let found = ROLE_REASONS.get(usize::from(place));
    found.map_or_else(|| format!("reason {place}"), |(_, name)| (*name).to_owned())
}

/// Why a node votes no longer, and what mends it, by a record of it.
fn halt(record: &Record) -> String {
    let Record { from: peer, reason, figures: [_, a, b, c], .. } = *record;
    let why = match ModeReason::from_u8(reason) {
        Some(ModeReason::DiskRolledBack) => format!(
            "this node's log ends at Lsn {b}, but node {peer} counted records up to {a}: the disk was rolled back or lost writes, and \
             votes are forgotten. It must not vote. Restore nothing by hand; replace the node"
        ),
        Some(ModeReason::FormattedAnew) => format!(
            "this directory was formatted after the group was founded (node {peer} knows this node under another incarnation): its \
             earlier votes are lost. It must not vote. Put the old directory back, or replace the node"
        ),
        Some(ModeReason::Removed) => format!(
            "this node is no member of the group any more, since epoch {a} at the latest. Stop it; to bring it back, format an empty \
             directory with `synod format --join` and add it with `synod member add`"
        ),
        Some(ModeReason::Ordered) => "its operator started it with --floor: it does not vote, and serves what its log shows committed. \
             Start it without --floor to take part again"
            .to_owned(),
        Some(ModeReason::StateDiverged) => format!(
            "after slot {a} this node's state has the checksum {:08x}, but that of the nodes {} has {:08x}: its state is wrong (a state \
             machine that is not deterministic or another than theirs, or memory that flipped). Compare its snapshot of that slot \
             with theirs; when the cause is found, replace the node",
            b >> 32,
            nodes(c),
            b as u32
        ),
        Some(ModeReason::BeyondRepair) => "all members have promised, and damage on too many of them hides what may have been chosen: \
             no leader can tell. Stop the members, put back an undamaged copy of a log that was stopped in good order, or mend its \
             disk, and start them again; `synod verify` and `synod evidence` show what each log holds"
            .to_owned(),
        _ => return mode_reason(reason),
    };
    format!("{}: {why}", mode_reason(reason))
}

fn change_name(number: u8) -> &'static str {
    match number {
        change::ADD => "add",
        change::PROMOTE => "promote",
        change::REMOVE => "remove",
        _ => "change",
    }
}

fn change_outcome(number: u8) -> String {
    let name = match number {
        outcome::BEGUN => "begun",
        outcome::NOT_LEADER => "refused: this node does not lead",
        outcome::PENDING => "refused: another change is under way",
        outcome::STALE => "refused: the members are others by now",
        outcome::ALREADY => "refused: it is a member already",
        outcome::NOT_A_MEMBER => "refused: there is no such member",
        outcome::NOT_CAUGHT_UP => "refused: it lacks too much to vote, or does not answer",
        outcome::TOO_MANY => "refused: as many as may are members",
        outcome::LAST_VOTER => "refused: nobody would vote",
        _ => return format!("outcome {number}"),
    };
    name.to_owned()
}

/// An error by the system's number of it; 0: it is none of the system's.
fn error(errno: u64) -> Option<String> {
    let errno = i32::try_from(errno).ok().filter(|errno| *errno > 0)?;
    Some(std::io::Error::from_raw_os_error(errno).to_string())
}

fn nodes(set: u64) -> String {
    let all: Vec<String> = NodeSet(set).iter().map(|node| node.to_string()).collect();
    all.join(",")
}

/// A record in words. One of a later version's kind is told by its numbers.
pub fn tell(record: &Record) -> Told {
    let Record { kind, from, to, reason, figures: [a, b, c, d], .. } = *record;
    let ballot = || ("ballot", Ballot::unpack(a).to_string());
    let us = |name, ns: u64| (name, (ns / 1_000).to_string());
    let number = |name, value: u64| (name, value.to_string());
    let told = |what, details: String, reason: Option<String>, figures: Vec<(&'static str, String)>| Told {
        what,
        details,
        reason,
        figures,
    };
    let applied = || vec![number("applied", a), number("tail", b)];
    let Some(kind) = EventKind::ALL.iter().find(|known| **known as u8 == kind) else {
        let figures = vec![number("a", a), number("b", b), number("c", c), number("d", d)];
        return told("an event of a later version", format!("kind {kind} from {from} to {to}"), None, figures);
    };
    match kind {
        EventKind::Started => told("started", String::new(), None, applied()),
        EventKind::Stopped => told("stopped in order", String::new(), None, applied()),
        EventKind::Mode => {
            let figures = vec![ballot(), number("applied", b)];
            told("mode changed", format!("{} -> {}", mode(from), mode(to)), Some(mode_reason(reason)), figures)
        }
        EventKind::Election | EventKind::Role => {
            let what = if *kind == EventKind::Election { "election" } else { "role changed" };
            let figures = vec![ballot(), number("chosen", b)];
            told(what, format!("role={}", role::name(to)), Some(role_reason(reason)), figures)
        }
        EventKind::SlowSync => {
            let figures = vec![us("slowest_us", a), number("bytes", b), number("records", c), number("slow", d)];
            told("slow sync", String::new(), None, figures)
        }
        EventKind::DiskHung if to == 1 => {
            let why =
                "nothing of the log came to its end for so long (wal.hung_after_us): the node is silent until it does";
            told("a log write hangs", String::new(), Some(why.to_owned()), vec![us("hung_after_us", a)])
        }
        EventKind::DiskHung => {
            told("the log write that hung has ended: the node speaks again", String::new(), None, vec![])
        }
        EventKind::SubscriberDropped => {
            let why =
                StreamEnd::from_u8(reason).map_or_else(|| format!("reason {reason}"), |end| end.name().to_owned());
            let who = format!("{}:{b}", Ipv4Addr::from_bits(a as u32));
            told("subscriber dropped", who, Some(why), vec![number("next", c)])
        }
        EventKind::PeerSilent => {
            let what = if to == 1 { "member dropped" } else { "member heard again" };
            let why = (to == 1).then(|| "silent for longer than an election time-out: nothing waits for it".to_owned());
            told(what, format!("member {from}"), why, vec![us("silent_us", a)])
        }
        EventKind::Overrun => told("receive buffers ran out", String::new(), None, vec![number("times", a)]),
        EventKind::Configuration => {
            let figures = vec![number("epoch", a), ("voters", nodes(b)), ("learners", nodes(c & !b))];
            told("the members changed", String::new(), None, figures)
        }
        EventKind::ChangeAsked => {
            let details = format!("{} {from}", change_name(to));
            told(
                "a change of the members was asked for",
                details,
                Some(change_outcome(reason)),
                vec![number("of_epoch", a)],
            )
        }
        EventKind::Stall => told("stall", String::new(), None, vec![us("longest_us", a), number("stalls", b)]),
        EventKind::YieldedDisk => {
            let why = "its log is much slower than the others' (consensus.fail_slow_factor)".to_owned();
            told("hands over", format!("to {to}"), Some(why), vec![us("own_us", a), us("quorum_us", b)])
        }
        EventKind::Preferred => {
            told("hands over", format!("to {to}"), Some("it comes first in leader_priority".to_owned()), vec![])
        }
        EventKind::HandedOver => {
            let why =
                TransferOutcome::from_u8(reason).map_or_else(|| format!("outcome {reason}"), |one| format!("{one:?}"));
            let leader = b.checked_sub(1).map_or("none".to_owned(), |node| node.to_string());
            told("hand-over ended", String::new(), Some(why), vec![ballot(), ("leader", leader)])
        }
        EventKind::Halted => {
            let serves = "it serves stale reads until it is stopped".to_owned();
            told("votes no longer", serves, Some(halt(record)), vec![number("applied", a)])
        }
        EventKind::Repaired => told("damage repaired: no vote is unknown any more", String::new(), None, vec![]),
        EventKind::SnapshotWritten => {
            let crc = ("state_crc", format!("{c:08x}"));
            told(
                "a snapshot is written",
                String::new(),
                None,
                vec![number("slot", a), number("bytes", b), crc, number("times", d)],
            )
        }
        EventKind::FrontRemoved => {
            let figures =
                vec![number("first_segment", a), number("first_slot", b), number("bytes", c), number("times", d)];
            told("the log's front is removed", String::new(), None, figures)
        }
        EventKind::SnapshotFetched => {
            let why = "its log, or its patience, ended before".to_owned();
            let figures = vec![number("slot", a), number("bytes", b), number("there", c)];
            told("a snapshot is fetched", format!("from member {from}"), Some(why), figures)
        }
        EventKind::SnapshotInstalled => {
            let figures = vec![number("slot", a), number("bytes", b)];
            told("a member's snapshot is installed", String::new(), None, figures)
        }
        EventKind::JobFailed => {
            let what = FAILURES.get(usize::from(to)).map_or("a failure of a later version", |(_, what)| what);
            told(what, String::new(), error(a), vec![number("slot", b), number("times", c)])
        }
        EventKind::Unreadable => {
            let what = "a value that a member asks for cannot be read";
            told(what, String::new(), error(b), vec![number("slot", a), number("times", c)])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_and_any_numbers_have_words() {
        for kind in 0..=u8::MAX {
            for byte in [0, 1, 7, u8::MAX] {
                let figures = [u64::MAX, 0, 3, 1 << 40];
                let record = Record { wall_ns: 0, monotonic_ns: 0, kind, from: byte, to: byte, reason: byte, figures };
                assert!(!tell(&record).what.is_empty());
            }
        }
    }

    #[test]
    fn who_votes_no_longer_is_told_why_by_the_figures() {
        let (peer, crcs) = (2, 0xab << 32 | 0xcd);
        for (reason, figures, words) in [
            (ModeReason::DiskRolledBack, [9, 70, 60, 0], "ends at Lsn 60, but node 2 counted records up to 70"),
            (ModeReason::FormattedAnew, [9, 0, 0, 0], "node 2 knows this node under another incarnation"),
            (ModeReason::Removed, [9, 5, 0, 0], "since epoch 5 at the latest"),
            (
                ModeReason::StateDiverged,
                [9, 8, crcs, 0b11],
                "after slot 8 this node's state has the checksum 000000ab, but that of the nodes 0,1 has 000000cd",
            ),
            (ModeReason::Ordered, [9, 0, 0, 0], "started it with --floor"),
            (ModeReason::BeyondRepair, [9, 0, 0, 0], "no leader can tell"),
        ] {
            let (kind, reason) = (EventKind::Halted as u8, reason as u8);
            let told = tell(&Record { wall_ns: 0, monotonic_ns: 0, kind, from: peer, to: 0, reason, figures });
            assert!(told.reason.as_ref().is_some_and(|reason| reason.contains(words)), "{told:?}");
            assert_eq!(Figures(&told.figures).to_string(), "applied=9");
        }
    }

    #[test]
    fn a_job_that_failed_is_told_with_the_systems_error() {
        let figures = [28, 0, 3, 0];
        let record = Record {
            wall_ns: 0,
            monotonic_ns: 0,
            kind: EventKind::JobFailed as u8,
            from: 0,
            to: 0,
            reason: 0,
            figures,
        };
        let told = tell(&record);
        assert!(told.what.starts_with("the next log segment cannot be prepared"), "{told:?}");
        assert_eq!(told.reason.as_deref(), Some("No space left on device (os error 28)"));
        assert_eq!(Figures(&told.figures).to_string(), "slot=0 times=3");
    }

    #[test]
    fn a_change_of_mode_says_from_what_to_what_and_why() {
        let figures = [Ballot::ZERO.pack(), 9, 0, 0];
        let (from, to, reason) = (Mode::Target as u8, Mode::Degraded as u8, ModeReason::QuorumLost as u8);
        let record = Record { wall_ns: 0, monotonic_ns: 0, kind: EventKind::Mode as u8, from, to, reason, figures };
        let Told { what, details, reason, figures } = tell(&record);
        assert_eq!((what, &*details, reason.as_deref()), ("mode changed", "TARGET -> DEGRADED", Some("quorum lost")));
        assert_eq!(Figures(&figures).to_string(), "ballot=0.0 applied=9");
    }
}
