//! The sequential object that a group is for its clients: a log that grows at its end, and beside it what each node shows
//! of it.
//!
//! A node answers a local read from what it has applied, and does not ask whether that is all: stale answers are allowed
//! (SEMANTICS: "committed prefix, labelled"), so read as questions to the log alone they would not be linearizable. What a node
//! may not do is to show what is not in the log, or in one life to go back. So each node's *view*, the length of the prefix
//! that it shows, is part of the object: it moves forward at any moment, as far as the log reaches, and back to nothing
//! only at a restart. An answer "not there" is then an answer like any other, and a stale one needs no exception.
//!
//! A fresh answer is two questions that are under way together: one to the log itself, how long it is, and one to the
//! node's view. They need not have one moment: a node that learns how far the log reaches, and then waits until it has
//! applied that far, shows less to a local read in between (seed 54806470).

use super::Spec;

/// Entries that the object holds, at most.
pub const CAPACITY: usize = 16;
/// Nodes that it has views for.
pub const VIEWS: usize = 16;

/// See the module. Entries are numbers; the first place is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Log {
    length: u8,
    entries: [u8; CAPACITY],
    views: [u8; VIEWS],
}

/// What may happen to it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogOp {
    /// An entry is appended.
    Append(u8),
    /// Somebody asks a node: a read, a question for the tail, or an append that it acknowledges.
    Ask(usize),
    /// Somebody asks how long the log is.
    AskLength,
    /// A node's process ends and starts again.
    Restart(usize),
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogRet {
    /// The entry has this place.
    At(u8),
    /// The node shows so many entries, these among them, from place `first` on.
    Shows {
        /// The length of what it shows.
        tail: u8,
        /// The place of the first of `entries`.
        first: u8,
        /// Some of what it shows.
        entries: Vec<u8>,
    },
    /// All that is there ends here: the answer was fresh.
    Length(u8),
    /// The node shows at least so many: it acknowledged that place.
    ShowsAtLeast(u8),
    /// The node is back.
    Restarted,
}

impl Log {
    /// The entry at a place.
    fn at(&self, place: u8) -> Option<u8> {
        self.entries[..usize::from(self.length)].get(usize::from(place).checked_sub(1)?).copied()
    }

    fn append(&mut self, entry: u8) -> bool {
        let Some(room) = self.entries.get_mut(usize::from(self.length)) else { return false };
        *room = entry;
        self.length += 1;
        true
    }

    /// A view moves forward, never back.
    fn show(&mut self, node: usize, tail: u8) -> bool {
        let fits = (self.views[node]..=self.length).contains(&tail);
        self.views[node] = tail;
        fits
    }
}

impl Spec for Log {
    type Op = LogOp;
    type Ret = LogRet;

    /// Of the views that an answer allows it leaves the shortest: whatever can follow a longer one can follow that.
    fn step(&mut self, op: &LogOp, ret: Option<&LogRet>) -> bool {
        match (op, ret) {
            (LogOp::Append(entry), None) => self.append(*entry),
            (LogOp::Append(entry), Some(LogRet::At(place))) => self.append(*entry) && self.length == *place,
            (LogOp::Ask(_) | LogOp::AskLength, None) => true,
            (LogOp::AskLength, Some(LogRet::Length(length))) => self.length == *length,
            (LogOp::Ask(node), Some(LogRet::Shows { tail, first, entries })) => {
                let shown = |(place, entry): (u8, &u8)| place <= *tail && self.at(place) == Some(*entry);
                (*first..).zip(entries).all(shown) && self.show(*node, *tail)
            }
            (LogOp::Ask(node), Some(LogRet::ShowsAtLeast(place))) => self.show(*node, self.views[*node].max(*place)),
            (LogOp::Restart(node), _) => {
                self.views[*node] = 0;
                true
            }
            _ => false,
        }
    }

    /// A restart is none: it may have to come later, behind a view that moved. A question that moves no view now would move it
    /// later at most, and a shorter view allows more.
    fn is_question(op: &LogOp) -> bool {
        matches!(op, LogOp::Ask(_) | LogOp::AskLength)
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Call, Verdict, check};
    use super::*;

    fn call(op: LogOp, began_ns: u64, ended_ns: u64, ret: LogRet) -> Call<LogOp, LogRet> {
        Call { op, began_ns, returned: Some((ended_ns, ret)) }
    }

    fn append(entry: u8, began_ns: u64, ended_ns: u64, place: u8) -> Call<LogOp, LogRet> {
        call(LogOp::Append(entry), began_ns, ended_ns, LogRet::At(place))
    }

    fn pending(entry: u8, began_ns: u64) -> Call<LogOp, LogRet> {
        Call { op: LogOp::Append(entry), began_ns, returned: None }
    }

    fn shows(node: usize, at_ns: u64, tail: u8, first: u8, entries: &[u8]) -> Call<LogOp, LogRet> {
        call(LogOp::Ask(node), at_ns, at_ns + 1, LogRet::Shows { tail, first, entries: entries.to_vec() })
    }

    fn length(at_ns: u64, length: u8) -> Call<LogOp, LogRet> {
        call(LogOp::AskLength, at_ns, at_ns + 1, LogRet::Length(length))
    }

    fn holds(calls: &[Call<LogOp, LogRet>]) -> bool {
        match check(&Log::default(), calls, 10_000) {
            Verdict::Linearizable(_) => true,
            Verdict::NotLinearizable(_) => false,
            Verdict::GaveUp => panic!("a handful of calls"),
        }
    }

    #[test]
    fn appends_keep_real_time_and_their_places() {
        assert!(holds(&[append(1, 0, 10, 2), append(2, 5, 15, 1)]), "they overlap");
        assert!(!holds(&[append(1, 0, 10, 2), append(2, 11, 15, 1)]), "the first was over");
        assert!(!holds(&[append(1, 0, 10, 1), append(2, 5, 15, 1)]), "one place, two entries");
        assert!(!holds(&[append(1, 0, 10, 1), append(2, 5, 15, 3)]), "a place is left out");
        assert!(holds(&[append(1, 0, 10, 1), append(2, 5, 15, 3), pending(3, 2)]), "unless somebody may have it");
    }

    #[test]
    fn what_is_shown_was_appended_and_stays() {
        assert!(holds(&[pending(1, 0), shows(0, 5, 1, 1, &[1])]), "an append without an answer may have happened");
        assert!(!holds(&[pending(1, 9), shows(0, 5, 1, 1, &[1])]), "not before it was asked for");
        assert!(!holds(&[pending(1, 0), shows(0, 5, 1, 1, &[1]), append(2, 7, 8, 1)]), "and it does not go away");
        assert!(!holds(&[append(1, 0, 10, 1), shows(0, 11, 1, 1, &[2])]), "another entry");
        assert!(!holds(&[append(1, 0, 10, 1), shows(0, 11, 0, 1, &[1])]), "more than is there");
        assert!(!holds(&[append(1, 0, 10, 1), shows(0, 11, 2, 1, &[1])]), "a tail that nobody appended");
        // Known committed, though nobody was told the place: what is offered later stands behind it.
        assert!(!holds(&[pending(1, 0), shows(0, 5, 1, 1, &[]), append(2, 7, 8, 1)]));
    }

    #[test]
    fn a_view_may_be_stale_but_does_not_go_back() {
        let appended = [append(1, 0, 1, 1), append(2, 2, 3, 2)];
        let and = |more: &[Call<LogOp, LogRet>]| holds(&[&appended[..], more].concat());
        assert!(and(&[shows(0, 10, 2, 1, &[1, 2]), shows(1, 12, 0, 1, &[]), shows(1, 14, 1, 1, &[1])]));
        assert!(!and(&[shows(0, 10, 2, 1, &[]), shows(0, 12, 1, 1, &[])]), "one node, back");
        let restart = |at_ns| call(LogOp::Restart(0), at_ns, at_ns, LogRet::Restarted);
        assert!(and(&[shows(0, 10, 2, 1, &[]), restart(11), shows(0, 12, 1, 1, &[])]), "a restart forgets");
        assert!(!and(&[shows(0, 10, 2, 1, &[]), shows(0, 12, 1, 1, &[]), restart(14)]), "too late");
    }

    #[test]
    fn a_fresh_answer_shows_all_that_was_acknowledged_before_it_was_asked_for() {
        assert!(holds(&[append(1, 0, 5, 1), length(6, 1)]));
        assert!(!holds(&[append(1, 0, 5, 1), length(6, 0)]));
        assert!(holds(&[append(1, 0, 9, 1), length(6, 0)]), "it was not over");
        assert!(!holds(&[append(1, 0, 9, 1), length(6, 1), length(8, 0)]), "but then a later one shows it, too");
        assert!(holds(&[append(1, 0, 9, 1), length(6, 1), shows(0, 8, 0, 1, &[])]), "a stale one need not");
    }

    #[test]
    fn a_view_may_lag_while_a_fresh_answer_waits_for_it() {
        let waits = [append(1, 0, 5, 1), append(2, 4, 9, 2)];
        let asked = [
            call(LogOp::AskLength, 6, 15, LogRet::Length(1)),
            call(LogOp::Ask(0), 6, 15, LogRet::Shows { tail: 1, first: 1, entries: vec![1] }),
        ];
        let and = |more| holds(&[&waits[..], &asked[..], &[more]].concat());
        assert!(and(shows(0, 11, 0, 1, &[])), "in between");
        assert!(!and(shows(0, 16, 0, 1, &[])), "not after it");
    }

    #[test]
    fn who_acknowledges_shows_it() {
        let acked = |node, at_ns, place| call(LogOp::Ask(node), at_ns, at_ns + 1, LogRet::ShowsAtLeast(place));
        assert!(holds(&[append(1, 0, 5, 1), acked(0, 4, 1), shows(1, 6, 0, 1, &[])]));
        assert!(!holds(&[append(1, 0, 5, 1), acked(0, 4, 1), shows(0, 6, 0, 1, &[])]));
        assert!(!holds(&[pending(1, 9), acked(0, 4, 1)]), "nothing there yet");
    }
}
