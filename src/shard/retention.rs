//! Trims: an operator's, and those that the leader proposes by the retention of its configuration. Both go through the log, as a run
//! of no session, so that every member gives up the same entries at the same slot; what leaves the disk, and when, is each
//! member's affair (`front.rs`).
//!
//! | the leader trims no further than | why |
//! |---|---|
//! | the end of the log | there is nothing |
//! | the prefix of every member heard within [`LIVE_NS`] | it would need a snapshot for what it can still be sent |
//! | what its own subscribers have been sent | they were promised the rest |
//!
//! A member that is silent for longer is sent a snapshot when it comes back, and holds all trims back until it has caught up.
//! A new leader, which has not heard all of them, waits
//! that long before it trims. A follower's subscribers are not asked: their node goes on to serve them for a while after the trim
//! (`streams.rs`), and keeps its log so long.
//!
//! By bytes: when the entries that are kept take more than five eighths of `retention.max_bytes`, they are trimmed to half of it. The
//! rest is room for what a removal waits for: the end of a segment, and a second snapshot, which a removal that waits makes due.

use super::Shard;
use super::clients::put;
use super::jobs::{Done, Job};
use crate::shard::Fatal;
use std::net::SocketAddrV4;
use synod_ring::Io;
use synod_wire::client::Refusal;
use synod_wire::frame::Kind;
use synod_wire::guarantee::Guarantee;
use synod_wire::mutant::mutant;
use synod_wire::trim::{TrimBody, TrimLimit, TrimReplyBody};
use synod_wire::{NodeId, Sequence, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// A member that was heard within this holds trims back.
pub const LIVE_NS: u64 = 10_000_000_000;
/// How often the leader looks whether there is something to trim: what bounds its trims in the log.
const PERIOD_NS: u64 = 20_000_000;
/// A removal may wait for two snapshots, and a log that rests has no slot to make one of: after a trim the leader says it again a few
/// times, without effect.
const ECHOES: u8 = 4;
/// The time between two of these.
const ECHO_NS: u64 = 1_000_000_000;
/// Requests that wait for their trim; one more is refused with BUSY.
const MAX_ASKERS: usize = 16;

/// What is kept of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RetentionSettings {
    /// Bytes of the log's files; 0: all.
    pub max_bytes: u64,
    /// For how long by the log's timestamps; 0: for ever.
    pub max_age_ns: u64,
}

impl RetentionSettings {
    fn is_on(self) -> bool {
        self.max_bytes > 0 || self.max_age_ns > 0
    }
}

/// A request whose trim is under way.
#[derive(Clone, Copy, Debug)]
struct Asker {
    to: SocketAddrV4,
    body: TrimBody,
    /// It is answered when the entries below this are trimmed.
    before: Sequence,
    limit: (TrimLimit, NodeId),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Retention {
    settings: RetentionSettings,
    askers: Vec<Asker>,
    /// Since when this node leads.
    leads_since_ns: Option<u64>,
    next_ns: u64,
    echoes_left: u8,
    echo_ns: u64,
}

impl Retention {
    pub(super) fn new(settings: RetentionSettings) -> Retention {
        Retention {
            settings,
            askers: Vec::with_capacity(MAX_ASKERS),
            leads_since_ns: None,
            next_ns: 0,
            echoes_left: 0,
            echo_ns: 0,
        }
    }

    /// Something else is to be kept from now on.
    pub(super) fn set(&mut self, settings: RetentionSettings) {
        self.settings = settings;
    }

    /// This node leads no longer: who asked asks again, and another.
    pub(super) fn clear(&mut self) {
        self.askers.clear();
        self.leads_since_ns = None;
    }

    /// A trim has had an effect.
    fn begin_echoes(&mut self, now_ns: u64) {
        (self.echoes_left, self.echo_ns) = (ECHOES, now_ns + ECHO_NS);
    }

    /// When the leader looks next.
    pub(super) fn next_ns(&self, leads: bool) -> u64 {
        if !leads {
            return u64::MAX;
        }
        let look_ns = if self.settings.is_on() { self.next_ns } else { u64::MAX };
        let echo_ns = if self.echoes_left > 0 { self.echo_ns } else { u64::MAX };
        look_ns.min(echo_ns)
    }

    /// Whether the log's files take so much that what a removal waits for must not be made slowly.
    pub(super) fn presses(&self, log_bytes: u64) -> bool {
        self.settings.max_bytes > 0 && log_bytes > self.settings.max_bytes / 8 * 7
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Somebody asks for a trim.
    pub(super) fn on_trim(&mut self, to: SocketAddrV4, body: TrimBody) -> Result<(), Fatal> {
        let request_id = body.request_id.get();
        if let Err(refusal) = self.modes.appends(self.core.role(), self.core.leader().is_some()) {
            self.refuse(to, 0, request_id, refusal, 0);
            return Ok(());
        }
        if self.retention.askers.iter().any(|asker| asker.to == to && asker.body == body) {
            return Ok(());
        }
        let (before, limit) = self.allowed(Sequence(body.before.get()));
        let full = self.retention.askers.len() == MAX_ASKERS;
        if full || before > self.machine.first() && !self.log_trim(before)? {
            self.refuse(to, 0, request_id, Refusal::Busy, 0);
            return Ok(());
        }
        self.retention.askers.push(Asker { to, body, before, limit });
        Ok(())
    }

    /// Answers those whose trim is applied. At the end of the turn, with the other acknowledgements.
    pub(super) fn answer_trims(&mut self) {
        let first = self.machine.first();
        let mut at = 0;
        while let Some(asker) = self.retention.askers.get(at).copied() {
            if asker.before > first || self.recover_again {
                at += 1;
                continue;
            }
            self.retention.askers.swap_remove(at);
            let (limit, node) = match asker.limit {
                _ if first.0 >= asker.body.before.get() => (TrimLimit::Nothing, NodeId(0)),
                limit => limit,
            };
            let body = TrimReplyBody {
                request_id: asker.body.request_id,
                before: asker.body.before,
                first: U64::new(first.0),
                limit: limit as u8,
                node: node.0,
                reserved: [0; 2],
                guarantee: Guarantee::COMMITTED.encode(),
            };
            self.reply(asker.to, Kind::TrimReply, |out| put(body.as_bytes(), out));
        }
    }

    /// A trim was applied that had an effect.
    pub(super) fn on_trimmed(&mut self) {
        self.retention.begin_echoes(self.io.now_ns());
        self.front.changed();
        self.streams.wake();
    }

    /// Proposes a trim if the configuration wants less to be kept, and there is something to be had by it.
    pub(super) fn retain(&mut self) -> Result<(), Fatal> {
        let now_ns = self.io.now_ns();
        if now_ns < self.retention.next_ns(self.core.leads()) {
            return Ok(());
        }
        if self.retention.echoes_left > 0 && now_ns >= self.retention.echo_ns {
            self.retention.echoes_left -= 1;
            self.retention.echo_ns = now_ns + ECHO_NS;
            self.log_trim(self.machine.first())?;
        }
        if !self.retention.settings.is_on() || now_ns < self.retention.next_ns {
            return Ok(());
        }
        self.retention.next_ns = now_ns + PERIOD_NS;
        let wanted = self.beyond_bytes().max(self.beyond_age());
        if wanted > self.machine.first() {
            let (before, _) = self.allowed(wanted);
            if before > self.machine.first() {
                // Without room for it, it is proposed when this looks again.
                self.log_trim(before)?;
            }
        }
        Ok(())
    }

    /// The first sequence that the bytes to be kept hold.
    fn beyond_bytes(&self) -> Sequence {
        let (max_bytes, durable) = (self.retention.settings.max_bytes, self.log.durable_pos());
        let kept = self.index.block_of_sequence(self.machine.first()).unwrap_or(0);
        let kept_bytes = self.index.blocks(kept, 1).first().map_or(0, |block| durable.saturating_sub(block.start_pos));
        if max_bytes == 0 || kept_bytes <= max_bytes / 8 * 5 {
            return Sequence::ZERO;
        }
        let slot = self.index.first_slot_from(durable.saturating_sub(max_bytes / 2));
        self.first_sequence_from(slot).unwrap_or(Sequence::ZERO)
    }

    /// The first sequence that is young enough to be kept. The log's time stands still while nothing is appended; the clock does not.
    fn beyond_age(&self) -> Sequence {
        let max_age_ns = self.retention.settings.max_age_ns;
        let Some(cut_ns) = self.io.wall_ns().checked_sub(max_age_ns).filter(|_| max_age_ns > 0) else {
            return Sequence::ZERO;
        };
        if self.machine.last_timestamp_ns() <= cut_ns {
            return self.machine.tail().next();
        }
        self.index.first_sequence_since(cut_ns).unwrap_or(Sequence::ZERO)
    }

    /// How far a trim may go, and what holds it back.
    fn allowed(&mut self, wanted: Sequence) -> (Sequence, (TrimLimit, NodeId)) {
        let now_ns = self.io.now_ns();
        let me = self.settings.me;
        let leads_since_ns = *self.retention.leads_since_ns.get_or_insert(now_ns);
        let mut before = wanted;
        let mut limit = (TrimLimit::Nothing, me);
        let mut hold = |at: Sequence, by| {
            if at < before {
                (before, limit) = (at, by);
            }
        };
        hold(self.machine.tail().next(), (TrimLimit::Tail, me));
        let members =
            self.core.configuration().nodes().iter().filter(|member| *member != me && !mutant("trim_ignores_members"));
        for member in members {
            let prefix = match self.core.prefix_of(member) {
                // While another led, members had nothing to say to this node.
                Some((prefix, heard_ns)) if now_ns.saturating_sub(heard_ns.max(leads_since_ns)) < LIVE_NS => prefix,
                None if now_ns.saturating_sub(leads_since_ns) < LIVE_NS => Slot::ZERO,
                _ => continue,
            };
            // Below the log: until it has caught up with a snapshot, nothing more is taken from it.
            let first = self.first_sequence_from(prefix.next()).unwrap_or(self.machine.first());
            hold(first, (TrimLimit::Member, member));
        }
        if let Some(next) = self.first_streamed() {
            hold(next, (TrimLimit::Subscriber, me));
        }
        (before, limit)
    }

    /// The first sequence that was given in a slot or behind it, or one below it; none if the slot lies below the log.
    fn first_sequence_from(&self, slot: Slot) -> Option<Sequence> {
        if slot > self.slots.applied() {
            return Some(self.machine.tail().next());
        }
        if let Some(value) = self.slots.get(slot) {
            return Some(value.tail_before.next());
        }
        let block = self.index.block_of_slot(slot).ok()?;
        Some(self.index.blocks(block, 1)[0].tail_before.next())
    }
}
