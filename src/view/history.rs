//! The last minutes of a group: who led, whether the leader held a lease, how much was appended, and how long it took. Pure.

use super::latency::{Commits, Percentiles, between};
use crate::shard::{Board, Gauge};
use std::collections::VecDeque;
use std::time::Duration;
use synod_client::Status;
use synod_wire::NodeId;

/// Samples that are kept of a group: one a second makes two minutes.
pub const KEPT_SAMPLES: usize = 120;
/// How far back the percentiles of what is recent reach.
const RECENT: Duration = Duration::from_secs(10);

/// What was so at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// When, nanoseconds of the monotonic clock.
    pub at_ns: u64,
    /// Whose word it is; `None`: nobody gave it.
    pub of: Option<NodeId>,
    /// The leader.
    pub leader: Option<NodeId>,
    /// How leases are.
    pub lease: Lease,
    /// The last sequence.
    pub tail: u64,
    /// How long commits took, where the leader itself says so.
    pub commits: Option<Box<Commits>>,
}

/// How the lease was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lease {
    /// Leases are off, or it is not known.
    Off,
    /// The leader held none, or this member was bound by none.
    None,
    /// The leader held one, or this member was bound by one that it had granted.
    Held,
}

impl Lease {
    fn of(configured: bool, held: bool) -> Lease {
        match (configured, held) {
            (false, _) => Lease::Off,
            (true, false) => Lease::None,
            (true, true) => Lease::Held,
        }
    }
}

impl Sample {
    /// Nobody said anything.
    pub fn none(at_ns: u64) -> Sample {
        Sample { at_ns, of: None, leader: None, lease: Lease::Off, tail: 0, commits: None }
    }

    /// By the word of the leader.
    pub fn of_leader(status: &Status, at_ns: u64) -> Sample {
        Sample {
            at_ns,
            of: Some(status.node),
            leader: Some(status.node),
            lease: Lease::of(status.lease.is_some(), status.lease_left.is_some()),
            tail: status.tail.0,
            commits: status.picture.as_ref().map(|picture| Box::new(picture.commits)),
        }
    }

    /// By the board of this process's node.
    pub fn of_board(node: NodeId, board: &Board, at_ns: u64) -> Sample {
        let bound = board.gauge(Gauge::LeaseLeftNs).max(board.gauge(Gauge::BoundLeftNs));
        Sample {
            at_ns,
            of: Some(node),
            leader: board.gauge(Gauge::Leader).checked_sub(1).map(|leader| NodeId(leader as u8)),
            lease: Lease::of(board.gauge(Gauge::LeaseNs) > 0, bound > 0),
            tail: board.gauge(Gauge::Tail),
            commits: None,
        }
    }
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct History(VecDeque<Sample>);

impl History {
    /// One more; the oldest goes when there are as many as are kept.
    pub fn push(&mut self, sample: Sample) {
        if self.0.len() == KEPT_SAMPLES {
            self.0.pop_front();
        }
        self.0.push_back(sample);
    }

    /// The oldest first.
    pub fn samples(&self) -> impl ExactSizeIterator<Item = &Sample> {
        self.0.iter()
    }

    /// Entries a second from each sample to the next, the oldest first; `None`: one of them is nobody's word.
    pub fn rates(&self) -> Vec<Option<f64>> {
        self.pairs().map(|(earlier, later)| rate(earlier, later)).collect()
    }

    /// Entries a second, of late.
    pub fn rate(&self) -> Option<f64> {
        rate(self.recent()?, self.0.back()?)
    }

    /// The 99th percentile between each sample and the next; `None`: no commits, or not known.
    pub fn p99s(&self) -> Vec<Option<Duration>> {
        let of = |(earlier, later)| latency(earlier, later).map(|percentiles| percentiles.p99);
        self.pairs().map(of).collect()
    }

    /// How long commits took of late.
    pub fn latency(&self) -> Option<Percentiles> {
        latency(self.recent()?, self.0.back()?)
    }

    fn pairs(&self) -> impl Iterator<Item = (&Sample, &Sample)> {
        self.0.iter().zip(self.0.iter().skip(1))
    }

    /// The oldest sample of the same node's word that is recent, but for the last.
    fn recent(&self) -> Option<&Sample> {
        let last = self.0.back()?;
        let since_ns = last.at_ns.saturating_sub(RECENT.as_nanos() as u64);
        let before = self.0.iter().rev().skip(1);
        before.take_while(|sample| sample.of == last.of && sample.at_ns >= since_ns).last()
    }
}

fn rate(earlier: &Sample, later: &Sample) -> Option<f64> {
    earlier.of.and(later.of)?;
    let seconds = later.at_ns.saturating_sub(earlier.at_ns) as f64 / 1e9;
    // Another leader may not have applied yet what the one before it had.
    (seconds > 0.0).then(|| later.tail.saturating_sub(earlier.tail) as f64 / seconds)
}

fn latency(earlier: &Sample, later: &Sample) -> Option<Percentiles> {
    if earlier.of != later.of {
        return None;
    }
    Percentiles::of(&between(earlier.commits.as_ref()?, later.commits.as_ref()?)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::status;

    const SECOND_NS: u64 = 1_000_000_000;

    fn sample(second: u64, leader: u8, tail: u64, commits: u64) -> Sample {
        let mut status = status(leader, Some(leader), 1);
        status.tail.0 = tail;
        status.picture.as_mut().expect("it has one").commits =
            std::array::from_fn(|at| if at == 4 { commits } else { 0 });
        Sample::of_leader(&status, second * SECOND_NS)
    }

    #[test]
    fn rates_and_percentiles_are_of_the_time_between() {
        let mut history = History::default();
        assert_eq!((history.rate(), history.latency()), (None, None));
        for (second, tail) in [(0, 100), (1, 300), (2, 300), (3, 1_300)] {
            history.push(sample(second, 0, tail, tail / 10));
        }
        assert_eq!(history.rates(), [Some(200.0), Some(0.0), Some(1_000.0)]);
        assert_eq!(history.p99s().iter().map(Option::is_some).collect::<Vec<_>>(), [true, false, true]);
        assert_eq!(history.latency().map(|percentiles| percentiles.count), Some(120));
        assert_eq!(history.rate(), Some(400.0));
    }

    #[test]
    fn another_leaders_histogram_is_not_compared_with_the_last_ones() {
        let mut history = History::default();
        history.push(sample(0, 0, 100, 10));
        history.push(sample(1, 2, 200, 500));
        assert_eq!((history.latency(), history.p99s()), (None, vec![None]));
        assert_eq!(history.rates(), [Some(100.0)], "but the entries are the group's");
        history.push(Sample::none(2 * SECOND_NS));
        assert_eq!(history.rates(), [Some(100.0), None]);
    }

    #[test]
    fn no_more_is_kept_than_there_may_be() {
        let mut history = History::default();
        for second in 0..KEPT_SAMPLES as u64 + 5 {
            history.push(Sample::none(second));
        }
        assert_eq!(
            (history.samples().len(), history.samples().next().map(|sample| sample.at_ns)),
            (KEPT_SAMPLES, Some(5))
        );
    }
}
