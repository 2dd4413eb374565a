//! The boards as Prometheus metrics, in the OpenMetrics text format. Names follow the Prometheus conventions: base units, `_total`
//! for what only grows (the encoder adds it), one name a thing and labels for its kinds.

use super::About;
use crate::node::monotonic_ns;
use crate::shard::{Board, Gauge, Histogram};
use crate::without::{Lack, Lacks};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::Registry;
use std::fmt;
use std::sync::Arc;
use synod_wire::client::{Counter, Stage, role};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::{GroupId, NodeId};

/// What [`Metrics::text`] is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Upper ends of the buckets of a latency, nanoseconds: from what memory durability on a fast network takes to what a broken disk does.
const LATENCY_BOUNDS_NS: &[u64] = &[
    5_000,
    10_000,
    20_000,
    35_000,
    50_000,
    75_000,
    100_000,
    150_000,
    200_000,
    350_000,
    500_000,
    750_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    10_000_000_000,
];
/// Quantiles that are told beside the buckets, in thousandths.
pub(super) const QUANTILES: [(u64, &str); 3] = [(500, "50"), (990, "99"), (999, "99.9")];

/// The metrics of a node.
#[derive(Debug)]
pub struct Metrics(Registry);

impl Metrics {
    /// Over its boards.
    pub fn new(about: &About) -> Metrics {
        let labels = [("cluster", about.cluster.0.to_string()), ("node", about.node.0.to_string())];
        let labels = labels.map(|(name, value)| (name.into(), value.into()));
        let mut registry = Registry::with_prefix_and_labels("synod", labels.into_iter());
        registry.register_collector(Box::new(Groups(about.clone())));
        Metrics(registry)
    }

    /// As they are now.
    pub fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::with_capacity(64 << 10);
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }
}

/// Reads the boards at each scrape.
#[derive(Debug)]
pub(super) struct Groups(About);

impl Collector for Groups {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.counters(&mut encoder)?;
        self.gauges(&mut encoder)?;
        self.states(&mut encoder)?;
        self.lag(&mut encoder)?;
        self.latencies(&mut encoder)?;
        self.meters(&mut encoder)
    }
}

/// How a counter is shown.
struct Shown {
    name: &'static str,
    help: &'static str,
    /// The label that tells it from others of its name.
    kind: Option<(&'static str, &'static str)>,
}

/// `None`: it is a gauge, and shown as one.
fn shown(counter: Counter) -> Option<Shown> {
    let plain = |name, help| Some(Shown { name, help, kind: None });
    let dropped = |reason| {
        let help = "Datagrams, or frames of them, that were dropped";
        Some(Shown { name: "dropped_frames", help, kind: Some(("reason", reason)) })
    };
    let refused = |reason| {
        let help = "Requests of clients that were refused";
        Some(Shown { name: "refused_requests", help, kind: Some(("reason", reason)) })
    };
    let received =
        |from| Some(Shown { name: "received_datagrams", help: "Datagrams received", kind: Some(("from", from)) });
    let elections = |what| Some(Shown { name: "elections", help: "Elections", kind: Some(("event", what)) });
    let catch_up = |what| {
        Some(Shown {
            name: "catch_up_values",
            help: "Chosen values for replicas that lag",
            kind: Some(("direction", what)),
        })
    };
    let streams = |reason| {
        let help = "Subscribers that were dropped";
        Some(Shown { name: "dropped_subscribers", help, kind: Some(("reason", reason)) })
    };
    let snapshots = |event| Some(Shown { name: "snapshots", help: "Snapshots", kind: Some(("event", event)) });
    let snapshot_bytes = |what| {
        let help = "Bytes of snapshots sent to and received from members";
        Some(Shown { name: "snapshot_transfer_bytes", help, kind: Some(("direction", what)) })
    };
    match counter {
        Counter::Turns => plain("turns", "Turns of the core's loop"),
        Counter::EntriesApplied => plain("entries_applied", "Client entries sequenced and applied"),
        Counter::RunsAcknowledged => plain("runs_acknowledged", "Runs of entries that were acknowledged"),
        Counter::Flushes => plain("log_writes", "Log writes (group commits)"),
        Counter::FlushedBytes => plain("log_written_bytes", "Bytes written to the log"),
        Counter::PeerDatagrams => received("members"),
        Counter::ClientDatagrams => received("clients"),
        Counter::DatagramsSent => plain("sent_datagrams", "Datagrams sent"),
        Counter::SendErrors => plain("send_errors", "Sends that the kernel refused"),
        Counter::DroppedTruncated => dropped("truncated"),
        Counter::DroppedVersion => dropped("version"),
        Counter::DroppedKind => dropped("kind"),
        Counter::DroppedChecksum => dropped("checksum"),
        Counter::DroppedBody => dropped("body"),
        Counter::DroppedCluster => dropped("foreign_cluster"),
        Counter::DroppedSender => dropped("foreign_sender"),
        Counter::DroppedOversize => dropped("oversize"),
        Counter::DroppedNoRoom => dropped("no_room"),
        Counter::ReceiveOverruns => plain("receive_overruns", "Times that the receive buffers ran out"),
        Counter::RefusedBusy => refused("busy"),
        Counter::RefusedNotLeader => refused("not_leader"),
        Counter::RefusedTooLarge => refused("too_large"),
        Counter::RefusedQuorum => refused("quorum_unavailable"),
        Counter::RefusedSession => refused("session"),
        Counter::RefusedBadQuestion => refused("bad_question"),
        Counter::RefusedTrimmed => refused("trimmed"),
        Counter::ElectionsStarted => elections("started"),
        Counter::ElectionsWon => elections("won"),
        Counter::Retransmitted => plain("retransmitted_accepts", "Accept requests sent again"),
        Counter::MissingSent => plain("missing_requests", "Gaps that were asked for (NAKs)"),
        Counter::CatchUpSent => catch_up("sent"),
        Counter::CatchUpLearnt => catch_up("learnt"),
        Counter::CatchUpTrimmed => plain("catch_up_below_log", "Requests for slots below what is left of the log"),
        Counter::CatchUpThrottled => plain("catch_up_throttled", "Requests of lagging members that had to wait"),
        Counter::HousekeepingFull => plain("housekeeping_full", "Requests that found the housekeeping queue full"),
        Counter::DuplicatesAnswered => plain("duplicates_answered", "Runs answered from the session table"),
        Counter::OutboxFull => plain("outbox_full", "Datagrams not built, as one turn had filled the outbox"),
        Counter::RingEnters => plain("ring_enters", "System calls of the reactor"),
        Counter::RingBlocks => plain("ring_blocks", "Those of them that could sleep"),
        Counter::Yields => plain("yields", "Calls of sched_yield"),
        Counter::YieldsLate => plain("yields_late", "Yields that came back after a millisecond or more"),
        Counter::BlocksBackedOff => plain("blocks_backed_off", "Times that the wait mode auto slept for a late yield"),
        Counter::WritesByThread => plain("log_writes_by_thread", "Log writes by the log-writer thread"),
        Counter::Trains => plain("sent_trains", "Submissions that carried several datagrams"),
        Counter::TrainsReceived => plain("received_trains", "Receives that brought several datagrams"),
        Counter::SnapshotsWritten => snapshots("written"),
        Counter::SnapshotsFailed => snapshots("failed"),
        Counter::SnapshotsInstalled => snapshots("installed"),
        Counter::SnapshotsRefused => snapshots("refused"),
        Counter::SnapshotBytesReceived => snapshot_bytes("received"),
        Counter::SnapshotBytesSent => snapshot_bytes("sent"),
        Counter::StreamBytes => plain("stream_bytes", "Bytes of datagrams with entries sent to subscribers"),
        Counter::StreamsSlow => streams("slow"),
        Counter::StreamsTimedOut => streams("timed_out"),
        Counter::Configurations => plain("configurations", "Configurations that came to govern"),
        Counter::SlowDiskYields => plain("slow_disk_yields", "Leaderships given up for a slow disk"),
        Counter::DiskHung => plain("disk_hung", "Times that a log write hung, and the node fell silent"),
        Counter::SegmentsRemoved => plain("log_segments_removed", "Segments removed from the log's front"),
        Counter::Subscribers | Counter::FirstSequence | Counter::LogBytes | Counter::SnapshotBytesWanted => None,
    }
}

/// Counters that go up and down, and are shown as gauges.
const COUNTED_GAUGES: [(Counter, &str, &str); 4] = [
    (Counter::FirstSequence, "first_sequence", "The first sequence that can be read"),
    (Counter::LogBytes, "log_bytes", "Bytes of the log's files"),
    (Counter::Subscribers, "subscribers", "Subscribers"),
    (Counter::SnapshotBytesWanted, "snapshot_wanted_bytes", "Bytes of the snapshot that is being received; 0: none is"),
];

/// Gauges that are shown as the numbers that they are.
const PLAIN_GAUGES: [(Gauge, &str, &str); 15] = [
    (Gauge::BallotRound, "ballot_round", "The round of the ballot that the node promised"),
    (Gauge::Epoch, "configuration_epoch", "The epoch of the configuration that governs"),
    (Gauge::Voters, "voters", "Voters of the configuration that governs"),
    (Gauge::ChosenSlot, "chosen_slot", "Slots up to it are chosen and delivered"),
    (Gauge::AcceptedSlot, "accepted_slot", "The highest slot that something is held at"),
    (Gauge::AppliedSlot, "applied_slot", "Slots up to it are applied"),
    (Gauge::DurableLsn, "durable_lsn", "The log is durable up to this record"),
    (Gauge::Tail, "tail_sequence", "The last sequence"),
    (Gauge::Sessions, "sessions", "Sessions in the table"),
    (Gauge::OpenSlots, "open_slots", "Slots that this leader proposed and that have not come through all stages"),
    (Gauge::ParkedMessages, "parked_messages", "Messages that wait for the log"),
    (Gauge::JobsOut, "housekeeping_jobs", "Requests to the housekeeping threads that are not done"),
    (
        Gauge::SnapshotSlot,
        "snapshot_slot",
        "The last slot of the newest snapshot that this process wrote or began with",
    ),
    (Gauge::SnapshotBytes, "snapshot_bytes", "The size of that snapshot"),
    (
        Gauge::BehindInRevision,
        "format_revision_behind",
        "1: a member speaks a later revision than this node, which is to be upgraded",
    ),
];

impl Groups {
    pub(super) fn groups(&self) -> impl Iterator<Item = (String, &Arc<Board>)> {
        self.0.groups.iter().map(|(GroupId(group), board)| (group.to_string(), board))
    }

    fn counters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let all: Vec<(Counter, Shown)> =
            Counter::ALL.iter().filter_map(|counter| Some((*counter, shown(*counter)?))).collect();
        // Those of one name together: a name is described once.
        let is_first = |at: usize| !all[..at].iter().any(|(_, before)| before.name == all[at].1.name);
        for first in (0..all.len()).filter(|at| is_first(*at)).map(|at| &all[at].1) {
            let mut family = encoder.encode_descriptor(first.name, first.help, None, MetricType::Counter)?;
            for (group, board) in self.groups() {
                for (counter, shown) in all.iter().filter(|(_, shown)| shown.name == first.name) {
                    let labels = labels(&group, shown.kind);
                    let value = board.counter(*counter);
                    family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&value, None)?;
                }
            }
        }
        let help = "Times that the mode was entered";
        let mut family = encoder.encode_descriptor("mode_entered", help, None, MetricType::Counter)?;
        for (group, board) in self.groups() {
            for (mode, entered) in Mode::ALL.iter().zip(board.modes_entered()) {
                let labels = labels(&group, Some(("mode", mode.name())));
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&entered, None)?;
            }
        }
        Ok(())
    }

    pub(super) fn node(&self) -> NodeId {
        self.0.node
    }

    pub(super) fn gauge(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        (name, help): (&str, &str),
        value: impl Fn(&Board) -> f64,
    ) -> fmt::Result {
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            family.encode_family(&labels(&group, None))?.encode_gauge(&value(board))?;
        }
        Ok(())
    }

    fn gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let now_ns = monotonic_ns();
        for (gauge, name, help) in PLAIN_GAUGES {
            self.gauge(encoder, (name, help), |board| board.gauge(gauge) as f64)?;
        }
        for (counter, name, help) in COUNTED_GAUGES {
            self.gauge(encoder, (name, help), |board| board.counter(counter) as f64)?;
        }
        let since = |board: &Board, gauge| match board.gauge(gauge) {
            0 => 0.0,
            at_ns => now_ns.saturating_sub(at_ns) as f64 / 1e9,
        };
        for (gauge, name, help) in [
            (Gauge::StartedNs, "uptime_seconds", "Since the group's core started"),
            (
                Gauge::RefreshedNs,
                "core_silent_seconds",
                "Since the core last showed its state: it is stuck if this grows",
            ),
            (Gauge::ModeSinceNs, "mode_seconds", "For how long the node is in its mode"),
            (Gauge::SnapshotNs, "snapshot_age_seconds", "Since this process wrote a snapshot; 0: it has not"),
        ] {
            self.gauge(encoder, (name, help), |board| since(board, gauge))?;
        }
        let lease = ("lease_left_seconds", "How long this leader's lease lasts yet");
        self.gauge(encoder, lease, |board| board.gauge(Gauge::LeaseLeftNs) as f64 / 1e9)?;
        let unknown = ("unknown_slots", "Slots that damage hides; -1: all that are open");
        self.gauge(encoder, unknown, |board| match board.gauge(Gauge::UnknownSlots) {
            u64::MAX => -1.0,
            slots => slots as f64,
        })?;
        let without = "1: the host refuses this, and the group does without";
        let mut family = encoder.encode_descriptor("host_lacks", without, None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            let lacks = Lacks(board.gauge(Gauge::Lacks));
            for lack in Lack::ALL {
                let labels = labels(&group, Some(("what", lack.name())));
                family.encode_family(&labels)?.encode_gauge(&i64::from(lacks.has(lack)))?;
            }
        }
        let leader = ("leader_node", "The leader that the node knows; -1: none");
        self.gauge(encoder, leader, |board| board.gauge(Gauge::Leader) as f64 - 1.0)
    }

    /// One of several names is 1, and the others 0.
    fn states(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor("mode", "1: the node is in this mode", None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            for mode in Mode::ALL.iter().copied() {
                let is = board.gauge(Gauge::Mode) == mode as u64;
                family.encode_family(&labels(&group, Some(("mode", mode.name()))))?.encode_gauge(&i64::from(is))?;
            }
        }
        let mut family = encoder.encode_descriptor("role", "1: the node has this role", None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            for number in role::ALL {
                let is = board.gauge(Gauge::Role) == u64::from(number);
                family
                    .encode_family(&labels(&group, Some(("role", role::name(number)))))?
                    .encode_gauge(&i64::from(is))?;
            }
        }
        let help = "1: why the node is in its mode";
        let mut family = encoder.encode_descriptor("mode_reason", help, None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            if let Some(reason) = ModeReason::from_u8(board.gauge(Gauge::ModeReason) as u8) {
                family.encode_family(&labels(&group, Some(("reason", reason.name()))))?.encode_gauge(&1i64)?;
            }
        }
        Ok(())
    }

    /// Of a leader's followers.
    fn lag(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "On a leader: slots that the member is behind";
        let mut family = encoder.encode_descriptor("follower_lag_slots", help, None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            let chosen = board.gauge(Gauge::ChosenSlot);
            for member in (0..NodeId::LIMIT).map(NodeId) {
                let Some(delivered) = board.delivered(member) else { continue };
                let member = member.0.to_string();
                let labels = labels(&group, Some(("member", &member)));
                family.encode_family(&labels)?.encode_gauge(&(chosen.saturating_sub(delivered.0) as i64))?;
            }
        }
        Ok(())
    }

    fn latencies(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let help = "From the receipt of an entry by its leader to each stage of its commit";
        let mut family = encoder.encode_descriptor("commit_latency_seconds", help, None, MetricType::Histogram)?;
        for (group, board) in self.groups() {
            for stage in Stage::ALL {
                let labels = labels(&group, Some(("stage", stage.name())));
                encode_histogram(family.encode_family(&labels)?, board.stage(stage), LATENCY_BOUNDS_NS, 1e9)?;
            }
        }
        let help = "Quantiles of the same since the start, exact to 1/64";
        let mut family = encoder.encode_descriptor("commit_latency_quantile_seconds", help, None, MetricType::Gauge)?;
        for (group, board) in self.groups() {
            for stage in Stage::ALL {
                let histogram = board.stage(stage);
                let values = histogram.quantiles(histogram.count(), QUANTILES.map(|(thousandths, _)| thousandths));
                for ((_, percentile), value_ns) in QUANTILES.into_iter().zip(values) {
                    let labels = [("group", &*group), ("stage", stage.name()), ("percentile", percentile)];
                    family.encode_family(&labels)?.encode_gauge(&(value_ns as f64 / 1e9))?;
                }
            }
        }
        Ok(())
    }
}

/// A histogram in buckets up to these bounds; `unit` of what it holds make one of what is shown.
pub(super) fn encode_histogram(
    mut encoder: MetricEncoder<'_>,
    histogram: &Histogram,
    bounds: &[u64],
    unit: f64,
) -> fmt::Result {
    let mut upto = vec![0; bounds.len()];
    histogram.count_at_or_below(bounds, &mut upto);
    let count = histogram.count().max(upto.last().copied().unwrap_or(0));
    let mut below = 0;
    let mut buckets: Vec<(f64, u64)> = Vec::with_capacity(upto.len() + 1);
    for (bound, upto) in bounds.iter().zip(upto) {
        buckets.push((*bound as f64 / unit, upto - below));
        below = upto;
    }
    buckets.push((f64::INFINITY, count - below));
    encoder.encode_histogram::<NoLabelSet>(histogram.sum() as f64 / unit, count, &buckets, None)
}

/// The group, and what tells one of a name from the others.
pub(super) fn labels<'a>(group: &'a str, kind: Option<(&'a str, &'a str)>) -> Vec<(&'a str, &'a str)> {
    std::iter::once(("group", group)).chain(kind).collect()
}
