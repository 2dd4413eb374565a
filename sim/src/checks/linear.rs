//! Small pieces of what clients saw, taken at random, are linearizable (S5, S7): appends, reads, questions for the tail and
//! restarts together, by a search that knows nothing of how the system works.
//!
//! Source: Herlihy and Wing, "Linearizability" (1990); the search is [`crate::linear`], the object its `Log`: the group's log
//! and each node's view of it; a fresh answer shows the whole of it. The checkers that know the total order (`order.rs`, `reads.rs`, `views.rs`) cover whole
//! runs; this one shares no reasoning with them.
//!
//! A piece is a few places of the log that follow one another. Seen through them, the log is a log again: what lies before
//! is there from the beginning, what lies behind is out of sight, and a tail counts as far as it reaches into them. So a
//! run that is linearizable has only pieces that are, whichever answers are picked, as long as no restart between them is
//! left out.

use super::order::Order;
use super::sessions::Entry;
use super::{SIMULATOR, Violation, violated};
use crate::answers::{Answer, Label, label};
use crate::linear::{self, Call, Log, LogOp, LogRet, MAX_CALLS, VIEWS, Verdict};
use crate::rng::Rng;

/// Pieces of one run.
const PIECES: usize = 160;
/// Places of the log in a piece, at most.
const MAX_PLACES: u64 = 6;
/// Answers in a piece, at most.
const MAX_ANSWERS: usize = 9;
/// How far from the first answer, in their order, others are looked for.
const NEAR: usize = 40;
/// Far more than such a piece needs: a search that gives up is an error in this file.
const MAX_STATES: usize = 50_000;

/// What a node answered, and between which moments.
#[derive(Clone, Debug)]
struct Answered {
    node: usize,
    asked_ns: u64,
    at_ns: u64,
    what: What,
}

#[derive(Clone, Debug)]
enum What {
    Acked(u64),
    Shown(Answer),
}

impl Answered {
    /// Whether it says more about the places `base + 1..=last` than that they are all there, or none.
    fn concerns(&self, base: u64, last: u64) -> bool {
        match &self.what {
            What::Acked(sequence) => (base + 1..=last).contains(sequence),
            What::Shown(answer) => {
                let shows = answer.labels().any(|(sequence, _)| (base + 1..=last).contains(&sequence));
                shows || (base..=last).contains(&answer.tail)
            }
        }
    }
}

/// See the module.
pub(crate) struct Linear {
    rng: Rng,
    /// In the order in which they came.
    answers: Vec<Answered>,
    /// Nodes' processes that started.
    starts: Vec<(u64, usize)>,
}

/// A history, and how it names entries.
struct Piece {
    base: u64,
    last: u64,
    labels: Vec<Label>,
    calls: Vec<Call<LogOp, LogRet>>,
}

impl Linear {
    pub(crate) fn new(seed: u64, nodes: usize) -> Linear {
        assert!(nodes <= VIEWS, "the object has views for {VIEWS} nodes, the plan has {nodes}");
        Linear { rng: Rng::new(seed, "linear"), answers: Vec::new(), starts: Vec::new() }
    }

    pub(crate) fn restarted(&mut self, node: usize, now_ns: u64) {
        self.starts.push((now_ns, node));
    }

    /// A node acknowledged an entry that was offered at `offered_ns`.
    pub(crate) fn acked(&mut self, node: usize, sequence: u64, offered_ns: u64, now_ns: u64) {
        self.answers.push(Answered { node, asked_ns: offered_ns, at_ns: now_ns, what: What::Acked(sequence) });
    }

    /// A reader got an answer.
    pub(crate) fn shown(&mut self, node: usize, answer: &Answer, asked_ns: u64, now_ns: u64) {
        self.answers.push(Answered { node, asked_ns, at_ns: now_ns, what: What::Shown(answer.clone()) });
    }

    /// Searches an order for some pieces of a run whose total order holds: how many, and how many of those had a
    /// reader served while an append was under way.
    pub(crate) fn check(&mut self, order: &Order, log: &[Entry]) -> Result<(usize, usize), Violation> {
        let (mut searched, mut mixed) = (0, 0);
        for _ in 0..PIECES {
            let Some(near) = self.rng.pick_index(self.answers.len()) else { break };
            let places = self.rng.between(2, MAX_PLACES);
            let back = self.rng.below(places + 1);
            let piece = self.piece(near, places, back, order, log);
            if piece.calls.len() > MAX_CALLS {
                // A node that restarts again and again while one request is under way.
                continue;
            }
            piece.search()?;
            searched += 1;
            mixed += usize::from(piece.is_mixed());
        }
        Ok((searched, mixed))
    }

    /// `places` places of the log, from `back` before the end of what answer `near` says, and what was said about them.
    fn piece(&self, near: usize, places: u64, back: u64, order: &Order, log: &[Entry]) -> Piece {
        let middle = match &self.answers[near].what {
            What::Acked(sequence) => *sequence,
            What::Shown(answer) => answer.tail,
        };
        let base = middle.saturating_sub(back);
        let last = (base + places).min(log.len() as u64).max(base);
        let mut piece = Piece { base, last, labels: Vec::new(), calls: Vec::new() };
        for entry in log.get(base as usize..last as usize).unwrap_or(&[]) {
            piece.append(entry, order);
        }
        let around = near.saturating_sub(NEAR)..(near + NEAR).min(self.answers.len());
        let concerned = self.answers[around].iter().filter(|answer| answer.concerns(base, last));
        let mut picked: Vec<&Answered> = concerned.collect();
        picked.sort_by_key(|answer| answer.at_ns.abs_diff(self.answers[near].at_ns));
        picked.truncate(MAX_ANSWERS);
        picked.iter().for_each(|answer| piece.ask(answer));
        let from_ns = picked.iter().map(|answer| answer.asked_ns).min().unwrap_or(0);
        let to_ns = picked.iter().map(|answer| answer.at_ns).max().unwrap_or(0);
        let first = self.starts.partition_point(|(at_ns, _)| *at_ns < from_ns);
        for (at_ns, node) in self.starts[first..].iter().take_while(|(at_ns, _)| *at_ns <= to_ns) {
            if picked.iter().any(|answer| answer.node == *node) {
                piece.restart(*node, *at_ns);
            }
        }
        piece
    }
}

impl Piece {
    /// The short name of an entry; one that is not expected here has a new one, which nothing explains.
    fn name(&mut self, label: Label) -> u8 {
        let known = self.labels.iter().position(|known| *known == label);
        known.unwrap_or_else(|| {
            self.labels.push(label);
            self.labels.len() - 1
        }) as u8
    }

    /// A sequence as a place of the piece.
    fn place(&self, sequence: u64) -> u8 {
        (sequence.clamp(self.base, self.last) - self.base) as u8
    }

    /// The next place's entry.
    fn append(&mut self, entry: &Entry, order: &Order) {
        let times = order.times(entry).expect("the order was checked: every entry was offered");
        let place = self.calls.len() as u8 + 1;
        let op = LogOp::Append(self.name(label(entry.client_id, entry.client_seq)));
        let returned = times.acked_ns().map(|at_ns| (at_ns, LogRet::At(place)));
        self.calls.push(Call { op, began_ns: times.offered_ns, returned });
    }

    fn ask(&mut self, answered: &Answered) {
        let ret = match &answered.what {
            What::Acked(sequence) => LogRet::ShowsAtLeast(self.place(*sequence)),
            What::Shown(answer) => {
                let inside = self.base + 1..=self.last;
                let seen = answer.labels().filter(|(sequence, _)| inside.contains(sequence));
                let (sequences, labels): (Vec<u64>, Vec<Label>) = seen.unzip();
                let first = self.place(sequences.first().copied().unwrap_or(self.base + 1));
                let entries = labels.into_iter().map(|label| self.name(label)).collect();
                LogRet::Shows { tail: self.place(answer.tail), first, entries }
            }
        };
        if let What::Shown(answer) = &answered.what
            && answer.recency.is_fresh()
        {
            let returned = Some((answered.at_ns, LogRet::Length(self.place(answer.tail))));
            self.calls.push(Call { op: LogOp::AskLength, began_ns: answered.asked_ns, returned });
        }
        let op = LogOp::Ask(answered.node);
        self.calls.push(Call { op, began_ns: answered.asked_ns, returned: Some((answered.at_ns, ret)) });
    }

    fn restart(&mut self, node: usize, at_ns: u64) {
        let returned = Some((at_ns, LogRet::Restarted));
        self.calls.push(Call { op: LogOp::Restart(node), began_ns: at_ns, returned });
    }

    /// Whether a reader was shown something while an append was under way: then there is something to search.
    fn is_mixed(&self) -> bool {
        let end_ns = |call: &Call<LogOp, LogRet>| call.returned.as_ref().map_or(u64::MAX, |(at_ns, _)| *at_ns);
        let shows = |call: &&Call<LogOp, LogRet>| matches!(call.returned, Some((_, LogRet::Shows { .. })));
        let append = |call: &&Call<LogOp, LogRet>| matches!(call.op, LogOp::Append(_));
        self.calls.iter().filter(shows).any(|shown| {
            let mut appends = self.calls.iter().filter(append);
            appends.any(|append| append.began_ns <= end_ns(shown) && shown.began_ns <= end_ns(append))
        })
    }

    fn search(&self) -> Result<(), Violation> {
        match linear::check(&Log::default(), &self.calls, MAX_STATES) {
            Verdict::Linearizable(_) => Ok(()),
            Verdict::NotLinearizable(longest) => violated("linearizability", self.describe(&longest)),
            Verdict::GaveUp => violated(SIMULATOR, format!("a search gave up: {}", self.describe(&[]))),
        }
    }

    fn describe(&self, longest: &[usize]) -> String {
        let mut out = format!("sequences {}..={}, no order of these calls explains them:", self.base + 1, self.last);
        let mut calls: Vec<(usize, &Call<LogOp, LogRet>)> = self.calls.iter().enumerate().collect();
        calls.sort_by_key(|(_, call)| call.began_ns);
        for (at, call) in calls {
            let rank = longest.iter().position(|ordered| *ordered == at);
            let rank = rank.map_or_else(|| "-".to_owned(), |rank| (rank + 1).to_string());
            let ended = call.returned.as_ref();
            let ended = ended.map_or_else(|| "…".to_owned(), |(at_ns, ret)| format!("{at_ns} {ret:?}"));
            out.push_str(&format!(" [{rank}: {:?} {}..{ended}]", call.op, call.began_ns));
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::Slot;
    use synod_wire::guarantee::Recency;

    fn entry(client_seq: u64) -> Entry {
        Entry { client_id: 1, client_seq, slot: Slot(1), timestamp_ns: 0 }
    }

    /// Entry s of a hundred is offered at 10 s and acknowledged by n0 at 10 s + 15: each overlaps the next.
    fn run() -> (Linear, Order, Vec<Entry>) {
        let (mut linear, mut order) = (Linear::new(1, 3), Order::default());
        let log: Vec<Entry> = (1..=100).map(entry).collect();
        for sequence in 1..=100 {
            order.offered(1, sequence, 10 * sequence);
            order.acked(1, sequence, 10 * sequence + 15);
            linear.acked(0, sequence, 10 * sequence, 10 * sequence + 15);
        }
        (linear, order, log)
    }

    /// n1 is asked at `at_ns`, and shows the end of the log up to `tail` at once.
    fn show(linear: &mut Linear, at_ns: u64, tail: u64, entries: &[u64]) {
        let mut answer = Answer::new(1, tail);
        for (sequence, client_seq) in (tail + 1 - entries.len() as u64..).zip(entries) {
            answer.push(sequence, label(1, *client_seq));
        }
        linear.shown(1, &answer, at_ns, at_ns + 1);
    }

    fn verdict(linear: &mut Linear, order: &Order, log: &[Entry]) -> Result<(usize, usize), String> {
        linear.check(order, log).map_err(|violation| violation.property)
    }

    #[test]
    fn a_run_in_order_passes_and_is_searched() {
        let (mut linear, order, log) = run();
        (1..=100).for_each(|s| show(&mut linear, 10 * s + 12, s, &[s]));
        let (searched, mixed) = linear.check(&order, &log).expect("nothing is wrong");
        assert!(searched == PIECES && mixed > PIECES / 2, "{searched}, {mixed}");
    }

    #[test]
    fn entries_against_real_time_are_found() {
        let (mut linear, order, mut log) = run();
        // As if each pair of entries two apart stood the other way round: the first was over when the second began.
        for at in (0..96).step_by(4) {
            log.swap(at, at + 2);
        }
        assert_eq!(verdict(&mut linear, &order, &log), Err("linearizability".to_owned()));
    }

    #[test]
    fn a_tail_that_goes_back_is_found() {
        let (mut linear, order, log) = run();
        for s in (4..=100).step_by(3) {
            show(&mut linear, 10 * s + 12, s, &[]);
            show(&mut linear, 10 * s + 14, s - 1, &[]);
        }
        assert_eq!(verdict(&mut linear, &order, &log), Err("linearizability".to_owned()));
        // With a restart in between it may.
        for s in (4..=100).step_by(3) {
            linear.restarted(1, 10 * s + 13);
        }
        assert!(linear.check(&order, &log).is_ok());
    }

    #[test]
    fn a_fresh_answer_that_lacks_an_entry_is_found() {
        let fresh = |lacking: u64| {
            let (mut linear, order, log) = run();
            for s in lacking + 1..=100 {
                let mut answer = Answer::new(1, s - lacking);
                answer.recency = Recency::FreshReadIndex;
                linear.shown(1, &answer, 10 * s + 16, 10 * s + 17);
            }
            verdict(&mut linear, &order, &log)
        };
        assert!(fresh(0).is_ok());
        assert_eq!(fresh(1), Err("linearizability".to_owned()), "it was acknowledged before the question");
    }

    #[test]
    fn an_entry_that_is_not_there_is_found() {
        let (mut linear, order, log) = run();
        (2..=100).for_each(|s| show(&mut linear, 10 * s + 12, s, &[s - 1, s]));
        assert!(linear.check(&order, &log).is_ok());
        (2..=100).for_each(|s| show(&mut linear, 10 * s + 12, s, &[s, s - 1]));
        assert_eq!(verdict(&mut linear, &order, &log), Err("linearizability".to_owned()));
    }

    #[test]
    fn an_entry_before_its_time_is_found() {
        let (mut linear, order, log) = run();
        (1..=100).for_each(|s| show(&mut linear, 10 * s - 5, s, &[s]));
        assert_eq!(verdict(&mut linear, &order, &log), Err("linearizability".to_owned()));
    }
}
