//! Linearizability of small histories: is there an order of the calls, each at one moment between its beginning and its
//! end, in which a sequential object would have given these results?
//!
//! Source: Wing and Gong, "Testing and verifying concurrent objects" (1993), with the memory of Lowe, "Testing for
//! linearizability" (2017): a set of calls already ordered is tried once with each state that it can lead to. The search is
//! exponential in the worst case; it is for a handful of calls that overlap, and gives up at a bound.
//!
//! Pure. Called by `checks/linear.rs` on pieces of a run, and by `tests/linear.rs`, which compares it with `stateright`'s.

mod log;

pub use log::{CAPACITY, Log, LogOp, LogRet, VIEWS};

use std::collections::BTreeSet;

/// Calls in one history, at most: a set of them is one word.
pub const MAX_CALLS: usize = 64;

/// A sequential object.
pub trait Spec: Clone + Ord {
    /// What is asked of it.
    type Op;
    /// What it answers.
    type Ret;

    /// Applies `op`. False: it cannot have answered `ret`, and the state does not matter any more. Without `ret` the call
    /// never returned: any answer would do.
    fn step(&mut self, op: &Self::Op, ret: Option<&Self::Ret>) -> bool;

    /// Whether it is a question: where it changes nothing, whatever may follow it later may follow without it.
    fn is_question(op: &Self::Op) -> bool;
}

/// A call, as its caller saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call<Op, Ret> {
    /// What was asked.
    pub op: Op,
    /// When the call began.
    pub began_ns: u64,
    /// When it returned, and what; none: never, so it has taken effect at any later moment, or not at all.
    pub returned: Option<(u64, Ret)>,
}

/// What the search found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This order of calls, by their indices, explains the history. Calls that never returned may be missing.
    Linearizable(Vec<usize>),
    /// No order does. This is the longest beginning of one that was found.
    NotLinearizable(Vec<usize>),
    /// The bound was reached first.
    GaveUp,
}

/// Searches an order of `calls` that `object` explains, through at most `max_states` pairs of calls ordered and state.
///
/// # Panics
/// With more than [`MAX_CALLS`] calls.
pub fn check<S: Spec>(object: &S, calls: &[Call<S::Op, S::Ret>], max_states: usize) -> Verdict {
    assert!(calls.len() <= MAX_CALLS, "{} calls are too many for one history", calls.len());
    let mut search = Search::new(calls, max_states);
    match search.extend(0, object) {
        Step::Found => Verdict::Linearizable(search.order),
        Step::Stuck => Verdict::NotLinearizable(search.longest),
        Step::GaveUp => Verdict::GaveUp,
    }
}

/// How a branch of the search ended.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Found,
    Stuck,
    GaveUp,
}

struct Search<'a, S: Spec> {
    calls: &'a [Call<S::Op, S::Ret>],
    /// Indices of `calls`, the earliest to return first: most often that is an order that explains them.
    candidates: Vec<usize>,
    /// For each call, the set of those that had returned when it began.
    before: Vec<u64>,
    /// The set of those that returned: all must be ordered.
    returned: u64,
    tried: BTreeSet<(u64, S)>,
    max_states: usize,
    order: Vec<usize>,
    longest: Vec<usize>,
}

/// The set of those for which it is true.
fn set(members: impl Iterator<Item = bool>) -> u64 {
    members.enumerate().fold(0, |set, (at, is_in)| set | u64::from(is_in) << at)
}

impl<'a, S: Spec> Search<'a, S> {
    fn new(calls: &'a [Call<S::Op, S::Ret>], max_states: usize) -> Search<'a, S> {
        let ends_ns: Vec<Option<u64>> =
            calls.iter().map(|call| call.returned.as_ref().map(|(at_ns, _)| *at_ns)).collect();
        let over_before = |moment_ns: u64| set(ends_ns.iter().map(|end| end.is_some_and(|end_ns| end_ns < moment_ns)));
        let mut candidates: Vec<usize> = (0..calls.len()).collect();
        candidates.sort_by_key(|at| ends_ns[*at].unwrap_or(u64::MAX));
        Search {
            calls,
            candidates,
            before: calls.iter().map(|call| over_before(call.began_ns)).collect(),
            returned: set(ends_ns.iter().map(Option::is_some)),
            tried: BTreeSet::new(),
            max_states,
            order: Vec::new(),
            longest: Vec::new(),
        }
    }

    /// Orders the rest behind the set `ordered`, which led to `object`. The order found is in `self.order`.
    fn extend(&mut self, ordered: u64, object: &S) -> Step {
        if self.returned & !ordered == 0 {
            return Step::Found;
        }
        // A question that could come next and changes nothing may as well come now, and no other order need be tried: else many
        // reads at one time would be in each other's way.
        for rank in 0..self.candidates.len() {
            let question = S::is_question(&self.calls[self.candidates[rank]].op);
            let idle = |(_, next): &(usize, S)| question && next == object;
            if let Some((at, next)) = self.next(rank, ordered, object).filter(idle) {
                return self.follow(at, ordered, next);
            }
        }
        for rank in 0..self.candidates.len() {
            let Some((at, next)) = self.next(rank, ordered, object) else { continue };
            let step = self.follow(at, ordered, next);
            if step != Step::Stuck {
                return step;
            }
        }
        Step::Stuck
    }

    /// The candidate of this rank, if it can come next, and what the object is after it.
    fn next(&self, rank: usize, ordered: u64, object: &S) -> Option<(usize, S)> {
        let at = self.candidates[rank];
        if ordered & 1 << at != 0 || self.before[at] & !ordered != 0 {
            return None;
        }
        let call = &self.calls[at];
        let mut next = object.clone();
        let fits = next.step(&call.op, call.returned.as_ref().map(|(_, ret)| ret));
        // Nobody waits for one that never returned, and nobody would notice it if it changes nothing.
        (fits && (call.returned.is_some() || next != *object)).then_some((at, next))
    }

    /// Orders this call next.
    fn follow(&mut self, at: usize, ordered: u64, next: S) -> Step {
        let set = ordered | 1 << at;
        if !self.tried.insert((set, next.clone())) {
            return Step::Stuck;
        }
        if self.tried.len() > self.max_states {
            return Step::GaveUp;
        }
        self.order.push(at);
        if self.order.len() > self.longest.len() {
            self.longest.clone_from(&self.order);
        }
        let step = self.extend(set, &next);
        if step == Step::Stuck {
            self.order.pop();
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A register: Some(value) writes, None reads.
    #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Register(u8);

    impl Spec for Register {
        type Op = Option<u8>;
        type Ret = u8;

        fn step(&mut self, op: &Option<u8>, ret: Option<&u8>) -> bool {
            if let Some(value) = op {
                self.0 = *value;
            }
            ret.is_none_or(|ret| *ret == self.0)
        }

        fn is_question(op: &Option<u8>) -> bool {
            op.is_none()
        }
    }

    fn write(value: u8, began_ns: u64, ended_ns: Option<u64>) -> Call<Option<u8>, u8> {
        Call { op: Some(value), began_ns, returned: ended_ns.map(|at_ns| (at_ns, value)) }
    }

    fn read(value: u8, began_ns: u64, ended_ns: u64) -> Call<Option<u8>, u8> {
        Call { op: None, began_ns, returned: Some((ended_ns, value)) }
    }

    fn holds(calls: &[Call<Option<u8>, u8>]) -> bool {
        match check(&Register(0), calls, 1_000) {
            Verdict::Linearizable(order) => {
                let mut register = Register(0);
                let fits = |at: &usize| register.step(&calls[*at].op, calls[*at].returned.as_ref().map(|(_, ret)| ret));
                assert!(order.iter().all(fits), "the order {order:?} explains nothing");
                true
            }
            Verdict::NotLinearizable(_) => false,
            Verdict::GaveUp => panic!("a handful of calls"),
        }
    }

    #[test]
    fn histories_of_a_register() {
        assert!(holds(&[]));
        assert!(holds(&[write(1, 0, Some(10)), read(0, 1, 2), read(1, 3, 4)]), "a write has its moment between reads");
        assert!(!holds(&[write(1, 0, Some(10)), read(1, 1, 2), read(0, 3, 4)]), "and is not undone");
        assert!(!holds(&[write(1, 0, Some(10)), read(0, 11, 12)]), "nor late");
        assert!(holds(&[write(1, 0, Some(10)), read(0, 10, 12)]), "what meets in a moment may be either way round");
        assert!(!holds(&[read(1, 0, 1), write(1, 2, Some(3))]), "nor early");
    }

    #[test]
    fn a_call_that_never_returned_may_have_happened_or_not() {
        assert!(holds(&[write(1, 0, None), read(0, 5, 6), read(1, 90, 91)]));
        assert!(holds(&[write(1, 0, None), read(0, 5, 6)]));
        assert!(!holds(&[write(1, 7, None), read(1, 5, 6)]), "not before it began");
        assert!(!holds(&[write(1, 0, None), read(1, 5, 6), read(0, 7, 8)]));
    }

    #[test]
    fn the_search_ends_at_its_bound() {
        let mut calls: Vec<_> = (0..20).map(|value| write(value, 0, Some(100))).collect();
        calls.push(read(99, 101, 102));
        assert_eq!(check(&Register(0), &calls, 500), Verdict::GaveUp);
    }

    #[test]
    fn many_reads_at_one_time_are_no_search() {
        let writes = (1..=4).map(|value| write(value, 0, Some(100)));
        let calls: Vec<_> = writes.chain((0..40).map(|at| read(1 + at % 4, 0, 100))).collect();
        assert!(holds(&calls));
    }

    #[test]
    fn a_failure_shows_how_far_an_order_goes() {
        let calls = [write(1, 0, Some(1)), read(1, 2, 3), read(0, 4, 5)];
        assert_eq!(check(&Register(0), &calls, 100), Verdict::NotLinearizable(vec![0, 1]));
    }
}
