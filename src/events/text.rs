//! A record in words: what happened, to whom, why, and its figures by name.

use crate::shard::{EventKind, ROLE_REASONS, Record};
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
            told("votes no longer", String::new(), Some(mode_reason(reason)), vec![number("applied", a)])
        }
        EventKind::Repaired => told("damage repaired: no vote is unknown any more", String::new(), None, vec![]),
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
    fn a_change_of_mode_says_from_what_to_what_and_why() {
        let figures = [Ballot::ZERO.pack(), 9, 0, 0];
        let (from, to, reason) = (Mode::Target as u8, Mode::Degraded as u8, ModeReason::QuorumLost as u8);
        let record = Record { wall_ns: 0, monotonic_ns: 0, kind: EventKind::Mode as u8, from, to, reason, figures };
        let Told { what, details, reason, figures } = tell(&record);
        assert_eq!((what, &*details, reason.as_deref()), ("mode changed", "TARGET -> DEGRADED", Some("quorum lost")));
        assert_eq!(Figures(&figures).to_string(), "ballot=0.0 applied=9");
    }
}
