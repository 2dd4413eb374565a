//! A read is as recent as its reply says, and that is as recent as was asked for: a fresh one shows all that anybody knew
//! committed when the question left, a bounded one all that was known so many milliseconds before, in true time (S5).
//!
//! Source: Herlihy and Wing, "Linearizability" (1990), for fresh reads beside `order.rs`; SEMANTICS, "Reads" and
//! "Guarantee vector". What is known committed is what a client heard: an acknowledgement, or what a node showed.

use super::{Checked, violated};
use synod_wire::client::{Consistency, ReadReplyBody};
use synod_wire::frame::{Kind, parse};
use synod_wire::guarantee::Recency;
use zerocopy::FromBytes;

/// An answer of a machine leaves a node: one by lease does so while its lease lasts, on the node's own clock. (Answers to readers
/// may leave later than they were due: they come from disk, or were held at the tail.)
///
/// Source: SEMANTICS, "Reads": by lease only within it.
pub(crate) fn leaves_within_lease(node: usize, (local_ns, lease_until_ns): (u64, u64), datagram: &[u8]) -> Checked {
    if datagram.get(17) != Some(&(Kind::QueryReply as u8)) {
        return Ok(());
    }
    let body = parse(datagram).ok().and_then(|frame| Some(ReadReplyBody::read_from_prefix(frame.payload).ok()?.0));
    let recency = body.and_then(|body| body.guarantee.decode()).map(|guarantee| guarantee.recency);
    if recency == Some(Recency::FreshLease) && local_ns >= lease_until_ns {
        let late_ns = local_ns - lease_until_ns;
        return violated(
            "reads are as recent as they say",
            format!("n{node} answers by a lease that ended {late_ns} ns ago"),
        );
    }
    Ok(())
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fresh {
    /// When a higher sequence was known committed, and which. Both grow.
    known: Vec<(u64, u64)>,
}

impl Fresh {
    /// Somebody hears that the log reaches `sequence`.
    pub(crate) fn known(&mut self, sequence: u64, now_ns: u64) {
        if self.known.last().is_none_or(|(_, highest)| *highest < sequence) {
            self.known.push((now_ns, sequence));
        }
    }

    /// The highest sequence that was known before this moment.
    fn known_before(&self, at_ns: u64) -> u64 {
        let before = self.known.partition_point(|(then_ns, _)| *then_ns < at_ns);
        before.checked_sub(1).map_or(0, |last| self.known[last].1)
    }

    /// A node answers a question that left at `asked_ns`.
    pub(crate) fn answered(&self, node: usize, asked: (Consistency, u64), told: (Recency, u64)) -> Checked {
        let ((asked_for, asked_ns), (recency, tail)) = (asked, told);
        if !asked_for.is_met_by(recency) {
            return violated(
                "reads are as recent as asked",
                format!("n{node} answers a {asked_for} read with {recency}"),
            );
        }
        let since_ns = match recency {
            Recency::StalePossible => return Ok(()),
            Recency::BoundedStale(ms) => asked_ns.saturating_sub(u64::from(ms) * 1_000_000),
            Recency::FreshLease | Recency::FreshReadIndex => asked_ns,
        };
        let must_show = self.known_before(since_ns);
        if tail >= must_show {
            return Ok(());
        }
        let detail = format!(
            "n{node} says {recency} to a question of {asked_ns} ns, and that its log ends at {tail}; sequence {must_show} \
             was known committed before {since_ns} ns"
        );
        violated("reads are as recent as they say", detail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    /// 4 was known at 10 ms, 6 at 20 ms.
    fn fresh() -> Fresh {
        let mut fresh = Fresh::default();
        fresh.known(4, 10 * MS);
        fresh.known(3, 15 * MS);
        fresh.known(6, 20 * MS);
        fresh
    }

    fn passes(asked: Consistency, asked_ms: u64, recency: Recency, tail: u64) -> bool {
        fresh().answered(1, (asked, asked_ms * MS), (recency, tail)).is_ok()
    }

    #[test]
    fn a_fresh_read_that_lacks_what_was_known_is_found() {
        let read = |asked_ms, tail| passes(Consistency::ReadIndex, asked_ms, Recency::FreshReadIndex, tail);
        assert!(read(10, 0) && read(20, 4) && read(21, 6));
        assert!(!read(11, 3) && !read(21, 5));
    }

    #[test]
    fn a_bounded_read_may_lack_what_is_younger_than_it_says() {
        let read = |asked_ms, says, tail| passes(Consistency::Bounded(12), asked_ms, Recency::BoundedStale(says), tail);
        assert!(read(25, 5, 4) && read(25, 12, 4));
        assert!(!read(25, 4, 4), "6 was known 5 ms before");
        assert!(!read(25, 12, 3));
    }

    #[test]
    fn an_answer_that_is_weaker_than_the_question_is_found() {
        assert!(!passes(Consistency::ReadIndex, 5, Recency::BoundedStale(1), 0));
        assert!(!passes(Consistency::Bounded(5), 5, Recency::BoundedStale(6), 0));
        assert!(!passes(Consistency::Bounded(5), 5, Recency::StalePossible, 0));
        assert!(passes(Consistency::Local, 50, Recency::StalePossible, 0));
    }
}
