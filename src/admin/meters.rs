//! What the boards' [`Meters`](crate::shard::Meters) are called in Prometheus: histograms of times and sizes, counters by reason, and what a
//! leader knows of each member.

use super::metrics::{Groups, QUANTILES, encode_histogram, labels};
use crate::node::monotonic_ns;
use crate::shard::{Board, Gauge, Meter, Tally};
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use std::fmt;
use synod_wire::{NodeId, NodeSet};

/// Upper ends of the buckets of a count of things that a batch or a log write holds.
const COUNT_BOUNDS: &[u64] = &[1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024];
/// Upper ends of the buckets of a size, bytes.
const SIZE_BOUNDS: &[u64] = &[
    128,
    256,
    512,
    1 << 10,
    2 << 10,
    4 << 10,
    8 << 10,
    16 << 10,
    32 << 10,
    64 << 10,
    128 << 10,
    256 << 10,
    512 << 10,
    1 << 20,
    4 << 20,
];
/// Upper ends of the buckets of a time, nanoseconds: from a turn that answers one datagram to a disk that hangs.
const TIME_BOUNDS_NS: &[u64] = &[
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    5_000_000_000,
];

/// How a histogram is shown.
struct Shown {
    name: &'static str,
    help: &'static str,
    bounds: &'static [u64],
    /// Its quantiles, for those who do not have Prometheus work them out of the buckets.
    quantiles: Option<(&'static str, &'static str)>,
}

fn shown(meter: Meter) -> Shown {
    let time = |name, help| Shown { name, help, bounds: TIME_BOUNDS_NS, quantiles: None };
    let count = |name, help| Shown { name, help, bounds: COUNT_BOUNDS, quantiles: None };
    let size = |name, help| Shown { name, help, bounds: SIZE_BOUNDS, quantiles: None };
    match meter {
        Meter::LogSync => Shown {
            quantiles: Some((
                "log_sync_quantile_seconds",
                "Quantiles of the log writes since the start, exact to 1/64",
            )),
            ..time("log_sync_seconds", "From the start of a log write to its end, durable")
        },
        Meter::Turn => time("turn_seconds", "Turns of the core's loop in which something happened"),
        Meter::Heartbeat => Shown {
            quantiles: Some((
                "heartbeat_round_trip_quantile_seconds",
                "Quantiles of the heartbeats since the start, exact to 1/64",
            )),
            ..time(
                "heartbeat_round_trip_seconds",
                "From a heartbeat's leaving to a member's answer, which waits for the records that it vouches for",
            )
        },
        Meter::BatchEntries => count("batch_entries", "Entries of a batch (one slot) that this leader proposed"),
        Meter::BatchBytes => size("batch_bytes", "Bytes of a batch (one slot) that this leader proposed"),
        Meter::GroupRecords => count("group_commit_records", "Records of a log write"),
        Meter::GroupBytes => size("group_commit_bytes", "Bytes of a log write, with what pads it to blocks"),
        Meter::OutboxBytes => {
            size("outbox_turn_bytes", "Bytes of the datagrams that a turn built, of turns that built any")
        }
        Meter::ClientQueue => {
            count("client_queue_datagrams", "Datagrams of clients that a turn found waiting, of turns that found any")
        }
        Meter::SessionCredit => count(
            "session_credit_used_entries",
            "How much of its session's credit of 1024 entries was in use when a run was admitted",
        ),
    }
}

fn is_time(meter: Meter) -> bool {
    matches!(meter, Meter::LogSync | Meter::Turn | Meter::Heartbeat)
}

/// The name, the help, and the reason that tells it from others of the name.
fn told(tally: Tally) -> (&'static str, &'static str, Option<&'static str>) {
    let cause = |reason| ("election_causes", "Elections begun, by why", Some(reason));
    let refused = |reason| {
        ("configuration_changes_refused", "Changes of the members that were asked for and refused", Some(reason))
    };
    match tally {
        Tally::Stalls => ("stalls", "Turns of 5 ms and more: nothing of the group goes on meanwhile", None),
        Tally::SlowSyncs => ("slow_syncs", "Log writes of 20 ms and more", None),
        Tally::ElectionLeaderSilent => cause("leader_silent"),
        Tally::ElectionHandedOver => cause("handed_over"),
        Tally::ElectionReconfigured => cause("reconfigured"),
        Tally::ElectionStuck => cause("stuck"),
        Tally::QuorumFailures => ("quorum_failures", "Times that this leader gave up for want of a quorum", None),
        Tally::LeaderChanges => ("leader_changes", "Leaders that the node came to know, each in its ballot", None),
        Tally::ChangesAsked => ("configuration_changes_asked", "Changes of the members that were asked for", None),
        Tally::ChangeNotLeader => refused("not_leader"),
        Tally::ChangePending => refused("pending"),
        Tally::ChangeStale => refused("stale"),
        Tally::ChangeAlready => refused("already_member"),
        Tally::ChangeNotMember => refused("not_a_member"),
        Tally::ChangeNotCaughtUp => refused("not_caught_up"),
        Tally::ChangeTooMany => refused("too_many"),
        Tally::ChangeLastVoter => refused("last_voter"),
        Tally::ChangesAbandoned => {
            ("configuration_changes_abandoned", "Changes begun and given up, as the node leads no more", None)
        }
    }
}

impl Groups {
    pub(super) fn meters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        for meter in Meter::ALL.iter().copied() {
            self.histogram(encoder, meter)?;
        }
        self.tallies(encoder)?;
        self.standing(encoder)?;
        self.members(encoder)
    }

    fn histogram(&self, encoder: &mut DescriptorEncoder<'_>, meter: Meter) -> fmt::Result {
        let Shown { name, help, bounds, quantiles } = shown(meter);
        let unit = if is_time(meter) { 1e9 } else { 1.0 };
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (group, board) in self.groups() {
            let labels = labels(&group, None);
            encode_histogram(family.encode_family(&labels)?, board.meters().histogram(meter), bounds, unit)?;
        }
        let Some((name, help)) = quantiles else { return Ok(()) };
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            let histogram = board.meters().histogram(meter);
            let values = histogram.quantiles(histogram.count(), QUANTILES.map(|(thousandths, _)| thousandths));
            for ((_, percentile), value) in QUANTILES.into_iter().zip(values) {
                let labels = labels(&group, Some(("percentile", percentile)));
                family.encode_family(&labels)?.encode_gauge(&(value as f64 / unit))?;
            }
        }
        Ok(())
    }

    fn tallies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut described = "";
        for first in Tally::ALL.iter().copied() {
            let (name, help, _) = told(first);
            // Those of one name follow one another.
            if name == std::mem::replace(&mut described, name) {
                continue;
            }
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (group, board) in self.groups() {
                for tally in Tally::ALL.iter().copied().filter(|tally| told(*tally).0 == name) {
                    let labels = labels(&group, told(tally).2.map(|reason| ("reason", reason)));
                    let value = board.meters().tally(tally);
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        Ok(())
    }

    fn standing(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let leads = ("leader_seconds", "For how long the known leader leads, as far as the node saw; 0: none is known");
        let now_ns = monotonic_ns();
        self.gauge(encoder, leads, |board| match board.gauge(Gauge::LeaderSinceNs) {
            0 => 0.0,
            since_ns => now_ns.saturating_sub(since_ns) as f64 / 1e9,
        })?;
        let all =
            ("subscriber_credit_datagrams", "Datagrams that subscribers may be sent before they give more credit");
        self.gauge(encoder, all, |board| board.gauge(Gauge::SubscriberCredit) as f64)?;
        let least = ("subscriber_credit_least_datagrams", "The same of the subscriber with the least");
        self.gauge(encoder, least, |board| board.gauge(Gauge::SubscriberCreditLeast) as f64)
    }

    /// What is told of each other member.
    fn members(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now_ns = monotonic_ns();
        let lag = "On a leader: bytes of its log that the member has not delivered";
        self.of_members(encoder, "follower_lag_bytes", lag, MetricType::Gauge, |board, member| {
            board.delivered(member).map(|_| board.meters().lag_bytes(member) as f64)
        })?;
        let silent = "Since the member was heard last; since the start, if it never was";
        self.of_members(encoder, "member_silent_seconds", silent, MetricType::Gauge, |board, member| {
            let heard_ns = board.meters().heard_ns(member).max(board.gauge(Gauge::StartedNs));
            Some(now_ns.saturating_sub(heard_ns) as f64 / 1e9)
        })?;
        let answered = "On a leader: heartbeats that the member answered";
        self.of_members(encoder, "heartbeats_answered", answered, MetricType::Counter, |board, member| {
            Some(board.meters().heartbeats(member).0 as f64)
        })?;
        let lost = "On a leader: heartbeats unanswered when the member answered a later one: they, or their answers, were lost or late";
        self.of_members(encoder, "heartbeats_unanswered", lost, MetricType::Counter, |board, member| {
            Some(board.meters().heartbeats(member).1 as f64)
        })
    }

    fn of_members(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        kind: MetricType,
        value: impl Fn(&Board, NodeId) -> Option<f64>,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, kind)?;
        for (group, board) in self.groups() {
            let members = NodeSet(board.gauge(Gauge::MemberSet));
            for member in members.iter().filter(|member| *member != self.node()) {
                let Some(value) = value(board, member) else { continue };
                let number = member.0.to_string();
                let labels = labels(&group, Some(("member", &number)));
                let mut metric = family.encode_family(&labels)?;
                match kind {
                    MetricType::Counter => metric.encode_counter::<NoLabelSet, _, u64>(&(value as u64), None)?,
                    _ => metric.encode_gauge(&value)?,
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tallies_of_one_name_follow_one_another_and_differ_by_reason() {
        let all: Vec<_> = Tally::ALL.iter().map(|tally| told(*tally)).collect();
        for (at, (name, _, reason)) in all.iter().enumerate() {
            let same = all.iter().enumerate().filter(|(_, other)| other.0 == *name);
            let places: Vec<usize> = same.clone().map(|(place, _)| place).collect();
            assert_eq!(places.last().unwrap() - places.first().unwrap() + 1, places.len(), "{name}");
            assert_eq!(
                same.filter(|(place, other)| *place != at && other.2 == *reason).count(),
                0,
                "{name} {reason:?}"
            );
        }
    }
}
