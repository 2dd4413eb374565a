//! The sender's part of a transfer: what a member that lags is sent, values or a snapshot, and how fast.
//!
//! | a member that asks for chosen values gets | when |
//! |---|---|
//! | the values | this node's log has them |
//! | word of the ballot that chose it | damage took the first of them: the member may hold it, as a vote |
//! | an offer of the newest snapshot | its log does not have them any more |
//!
//! A snapshot that is less to send than the values would do no worse for the state; but what a member did not get of the entries is on
//! fewer disks, and once all members had caught up that way, on none, though nobody trimmed it. So values go on for as long as there are
//! any.
//!
//! No more than [`BURST_VALUES`] values leave in one turn: each costs a few microseconds, which a commit of that turn would wait for.
//! The rest of a request, and of what was read from disk for it, leaves in the turns that follow.
//!
//! The receiver asks for each chunk (`pull.rs`), so loss, pace and restarts are its affair; nothing is kept here but the last time that
//! a chunk was asked for. A snapshot stays for [`HELD_NS`] from then on, though newer ones were made. Values and chunks together leave no
//! faster than `catchup.max_bytes_per_s`; past it a member's request for values waits until it is due, one request a member. Requests for
//! chunks, which their sender paces, are dropped past that and past [`MAX_READS`] reads at once, and come again. Both are counted.

use super::checkpoint::KEPT_SNAPSHOTS;
use super::clients::put;
use super::evidence::ChosenBy;
use super::install::{Chunks, TransferJob};
use super::jobs::{Done, Job, MAX_JOBS};
use super::{Shard, codec};
use std::collections::VecDeque;
use synod_ring::Io;
use synod_wal::LogError;
use synod_wal::partial::Whole;
use synod_wire::client::Counter;
use synod_wire::configuration::MAX_MEMBERS;
use synod_wire::frame::{HEADER_BYTES, Header, Kind, checksum, write_header};
use synod_wire::mutant::mutant;
use synod_wire::peer::{CHUNK_BYTES, ChunkHead};
use synod_wire::record::ChosenRange;
use synod_wire::{Ballot, NodeId, NodeSet, Slot};
use zerocopy::IntoBytes;

/// How lagging members catch up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CatchUpSettings {
    /// How fast values and chunks are sent, and chunks asked for.
    pub max_bytes_per_s: u64,
}

impl Default for CatchUpSettings {
    fn default() -> CatchUpSettings {
        CatchUpSettings { max_bytes_per_s: 1 << 30 }
    }
}

/// A snapshot is kept for so long after a chunk of it was asked for.
const HELD_NS: u64 = 10_000_000_000;
/// Reads of chunks that are out at once.
const MAX_READS: usize = 4;
/// Values that leave in one turn, at most.
pub(super) const BURST_VALUES: u64 = 32;
/// What may leave at once, in time at the configured pace.
const DEPTH_NS: u64 = 10_000_000;
/// Snapshots that may be offered or sent: those that are kept, and one that is held.
const MAX_KNOWN: usize = KEPT_SNAPSHOTS + 1;

/// A pace: bytes a second, and a little at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Throttle {
    bytes_per_s: u64,
    free_ns: u64,
}

impl Throttle {
    pub(super) fn new(bytes_per_s: u64) -> Throttle {
        Throttle { bytes_per_s, free_ns: 0 }
    }

    /// Another pace from now on; what went before counts by the old one.
    pub(super) fn set_pace(&mut self, bytes_per_s: u64) {
        self.bytes_per_s = bytes_per_s;
    }

    /// Whether more may go.
    pub(super) fn allows(&self, now_ns: u64) -> bool {
        self.free_ns <= now_ns
    }

    /// So much goes. When more may.
    pub(super) fn spend(&mut self, now_ns: u64, bytes: u64) -> u64 {
        let took_ns = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_s);
        let from_ns = self.free_ns.max(now_ns.saturating_sub(DEPTH_NS));
        self.free_ns = from_ns.saturating_add(u64::try_from(took_ns).unwrap_or(u64::MAX));
        self.free_ns
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Offers {
    /// What this node has, in the order of the slots, as far as it is known.
    known: Vec<Whole>,
    /// Whether what earlier lives left is known too.
    described: bool,
    describing: bool,
    /// The state that a chunk was asked of last, and when.
    fetched: Option<(Slot, u64)>,
    reads: usize,
    /// Requests for values that came faster than the pace allows: whose, and the slots; one a member.
    waiting: VecDeque<(NodeId, Slot, Slot)>,
    /// Values that were read from disk and have not left: of one job each, which counts as out until then.
    read: VecDeque<(NodeId, std::vec::IntoIter<Value>)>,
    pub(super) throttle: Throttle,
}

/// A value that was read from the log: its record's header, and the batch.
pub(super) type Value = (Header, Vec<u8>);

impl Offers {
    pub(super) fn new(settings: CatchUpSettings) -> Offers {
        let throttle = Throttle::new(settings.max_bytes_per_s);
        let (waiting, read) = (VecDeque::with_capacity(MAX_MEMBERS), VecDeque::with_capacity(MAX_JOBS));
        let known = Vec::with_capacity(MAX_KNOWN + 1);
        Offers { known, described: false, describing: false, fetched: None, reads: 0, waiting, read, throttle }
    }

    /// A request for values is to wait. One that goes on where the member's last ends is part of it; another takes its place.
    pub(super) fn wait(&mut self, to: NodeId, first: Slot, last: Slot) {
        let room = self.waiting.len() < MAX_MEMBERS;
        match self.waiting.iter_mut().find(|(node, ..)| *node == to) {
            Some((_, _, end)) if end.next() == first => *end = last,
            Some(request) => *request = (to, first, last),
            None if room => self.waiting.push_back((to, first, last)),
            None => {}
        }
    }

    /// Whether a request of this member's waits, or the rest of one.
    pub(super) fn has_waiting(&self, of: NodeId) -> bool {
        self.waiting.iter().any(|(node, ..)| *node == of)
    }

    /// The request that is due.
    pub(super) fn due(&mut self, now_ns: u64) -> Option<(NodeId, Slot, Slot)> {
        if self.waiting.is_empty() || !self.throttle.allows(now_ns) {
            return None;
        }
        self.waiting.pop_front()
    }

    /// When something is to leave.
    pub(super) fn next_ns(&self) -> u64 {
        match (self.read.is_empty(), self.waiting.is_empty()) {
            (false, _) => 0,
            (true, false) => self.throttle.free_ns,
            (true, true) => u64::MAX,
        }
    }

    /// A snapshot was made; older ones are removed, as far as nobody fetches one.
    pub(super) fn made(&mut self, whole: Whole, now_ns: u64) {
        self.known.retain(|other| other.slot < whole.slot);
        self.known.push(whole);
        let held = self.held(now_ns).filter(|_| !mutant("held_snapshot_forgotten"));
        let mut old = self.known.len().saturating_sub(KEPT_SNAPSHOTS);
        self.known.retain(|known| {
            let is_old = old > 0;
            old -= usize::from(is_old);
            !is_old || Some(known.slot) == held
        });
    }

    /// What was found on disk; what was made since the start is known better.
    fn found(&mut self, mut found: Vec<Whole>) {
        let made = self.known.first().map_or(Slot(u64::MAX), |whole| whole.slot);
        found.retain(|whole| whole.slot < made);
        self.known.splice(..0, found);
        self.described = true;
    }

    /// A snapshot cannot be read: what there is, is looked up anew.
    fn forget(&mut self) {
        self.known.clear();
        self.described = false;
    }

    /// The snapshot that somebody is fetching.
    pub(super) fn held(&self, now_ns: u64) -> Option<Slot> {
        self.fetched.filter(|(_, at_ns)| now_ns < at_ns + HELD_NS).map(|(slot, _)| slot)
    }

    fn newest(&self) -> Option<Whole> {
        self.known.last().copied()
    }

    fn has(&self, whole: &Whole) -> bool {
        self.known.contains(whole)
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Offers the newest snapshot to who lacks what the log does not have any more.
    pub(super) fn offer(&mut self, to: NodeId) {
        let Some(newest) = self.offers.newest() else { return self.describe() };
        let id = codec::snapshot_id(&newest);
        self.send_frame(to, Kind::SnapshotOffer, |out| put(id.as_bytes(), out));
    }

    fn describe(&mut self) {
        if self.offers.described || self.offers.describing {
            return;
        }
        let job = TransferJob::Describe(self.settings.dir.clone());
        self.offers.describing = self.ask(Job::Transfer(job));
    }

    pub(super) fn on_described(&mut self, found: Result<Vec<Whole>, LogError>) {
        self.offers.describing = false;
        if let Ok(found) = found {
            self.offers.found(found);
        }
    }

    /// Values were read for a member.
    pub(super) fn on_values_read(&mut self, to: NodeId, values: Vec<Value>) {
        self.offers.read.push_back((to, values.into_iter()));
    }

    /// Damage took a value here that a member lacks. It may hold it, and not know that it was chosen: it is told in which ballot, and
    /// takes that as any evidence. In no ballot: whoever says so need not lead, or be taken for one that does.
    pub(super) fn tell_chosen(&mut self, to: NodeId, slot: Slot, chosen: ChosenBy) {
        let ChosenBy { ballot, acceptors, epoch } = chosen;
        let (first, last) = (slot.0.into(), slot.0.into());
        let row = ChosenRange { first, last, ballot: ballot.pack().into(), acceptors: acceptors.0.into() };
        let header = Header { epoch, promised: Ballot::ZERO, ..self.header(Kind::Chosen) };
        self.send_under(to, &header, |out| put(row.as_bytes(), out));
    }

    /// The turn's part: some of what was read for members that lag, and a request that had to wait and is due.
    pub(super) fn serve_waiting(&mut self) {
        if self.recover_again {
            return;
        }
        let mut left = BURST_VALUES;
        while left > 0
            && let Some((to, values)) = self.offers.read.front_mut()
        {
            let (to, value) = (*to, values.next());
            let Some((held, payload)) = value else {
                self.offers.read.pop_front();
                self.jobs_out -= 1;
                continue;
            };
            left -= 1;
            self.offers.throttle.spend(self.io.now_ns(), payload.len() as u64);
            self.send_read([to].into_iter().collect(), Kind::Learnt, &held, &payload);
        }
        if let Some((to, first, last)) = self.offers.due(self.io.now_ns()) {
            self.serve_catch_up(to, first, last);
        }
    }

    /// A member asks for chunks.
    pub(super) fn on_fetch_chunks(&mut self, chunks: Chunks) {
        let now_ns = self.io.now_ns();
        if !self.offers.has(&chunks.whole) {
            // It was removed meanwhile, or an earlier life of this node made it: who has a part of that gets the rest.
            return if self.offers.described { self.offer(chunks.to) } else { self.describe() };
        }
        self.offers.fetched = Some((chunks.whole.slot, now_ns));
        if !self.offers.throttle.allows(now_ns) || self.offers.reads >= MAX_READS {
            return self.counters.add(Counter::CatchUpThrottled, 1);
        }
        if self.ask(Job::Transfer(TransferJob::Read(self.settings.dir.clone(), chunks))) {
            self.offers.reads += 1;
            self.offers.throttle.spend(now_ns, u64::from(chunks.wanted.count_ones()) * CHUNK_BYTES as u64);
        }
    }

    pub(super) fn on_chunks_read(&mut self, chunks: Chunks, read: Result<Vec<u8>, LogError>) {
        self.offers.reads -= 1;
        let Ok(bytes) = read else {
            // It is looked up anew what there is: who asks is offered that.
            self.offers.forget();
            return;
        };
        let id = codec::snapshot_id(&chunks.whole);
        for (at, bytes) in (0u64..).zip(bytes.chunks(CHUNK_BYTES)) {
            if at >= u64::BITS.into() || chunks.wanted & (1 << at) == 0 {
                continue;
            }
            let head = ChunkHead { id, number: (chunks.first + at).into() };
            self.send_frame(chunks.to, Kind::Chunk, |out| {
                let head_bytes = put(head.as_bytes(), out);
                head_bytes + put(bytes, &mut out[head_bytes..])
            });
            self.counters.add(Counter::SnapshotBytesSent, bytes.len() as u64);
        }
    }

    /// Sends a frame to a member that is none of the core's.
    pub(super) fn send_frame(&mut self, to: NodeId, kind: Kind, fill: impl FnOnce(&mut [u8]) -> usize) {
        self.send_under(to, &self.header(kind), fill);
    }

    fn send_under(&mut self, to: NodeId, header: &Header, fill: impl FnOnce(&mut [u8]) -> usize) {
        if self.outbox.crowded() {
            self.hand_on();
        }
        let Some(out) = self.outbox.room() else { return };
        let bytes = fill(&mut out[HEADER_BYTES..]);
        let crc = checksum(&out[HEADER_BYTES..HEADER_BYTES + bytes]);
        write_header(out, header, bytes, crc);
        let to: NodeSet = [to].into_iter().collect();
        self.outbox.push(to, HEADER_BYTES + bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_throttle_keeps_its_pace_after_a_little_at_once() {
        let mut throttle = Throttle::new(1_000_000);
        let start_ns = 1_000_000_000;
        assert_eq!(throttle.spend(start_ns, 10_000), start_ns, "ten milliseconds' worth may go at once");
        assert!(throttle.allows(start_ns));
        assert_eq!(throttle.spend(start_ns, 5_000), start_ns + 5_000_000);
        assert!(!throttle.allows(start_ns + 4_999_999) && throttle.allows(start_ns + 5_000_000));
        assert_eq!(throttle.spend(start_ns + 5_000_000, 1_000), start_ns + 6_000_000);
        throttle.set_pace(2_000_000);
        assert_eq!(throttle.spend(start_ns + 6_000_000, 1_000), start_ns + 6_500_000, "twice as fast from now on");
    }

    #[test]
    fn a_request_past_the_pace_waits_and_goes_on_with_the_next() {
        let mut offers = Offers::new(CatchUpSettings { max_bytes_per_s: 1_000_000 });
        let start_ns = 1_000_000_000;
        let due_ns = offers.throttle.spend(start_ns, 20_000);
        assert_eq!((offers.next_ns(), offers.due(due_ns)), (u64::MAX, None), "nobody asked");
        offers.wait(NodeId(1), Slot(1), Slot(8));
        offers.wait(NodeId(2), Slot(5), Slot(6));
        offers.wait(NodeId(1), Slot(9), Slot(12));
        offers.wait(NodeId(2), Slot(30), Slot(31));
        assert_eq!((offers.next_ns(), offers.due(due_ns - 1)), (due_ns, None));
        assert_eq!(offers.due(due_ns), Some((NodeId(1), Slot(1), Slot(12))));
        assert_eq!(offers.due(due_ns), Some((NodeId(2), Slot(30), Slot(31))), "it wants something else by now");
    }

    #[test]
    fn the_newest_is_offered_and_as_many_are_known_as_there_may_be() {
        let whole = |slot| Whole { slot: Slot(slot), bytes: slot, crc: 7 };
        let mut offers = Offers::new(CatchUpSettings::default());
        assert_eq!(offers.newest(), None, "what there is was not looked up yet");
        offers.made(whole(2), 0);
        assert_eq!((offers.newest(), offers.has(&whole(1))), (Some(whole(2)), false));
        offers.found(vec![whole(1), whole(2)]);
        assert_eq!((offers.newest(), offers.has(&whole(1))), (Some(whole(2)), true));
        (3..=4).for_each(|slot| offers.made(whole(slot), 0));
        assert_eq!((offers.newest(), offers.has(&whole(3)), offers.has(&whole(2))), (Some(whole(4)), true, false));
        offers.fetched = Some((Slot(3), 100));
        assert_eq!((offers.held(100 + HELD_NS - 1), offers.held(100 + HELD_NS)), (Some(Slot(3)), None));
        (5..=9).for_each(|slot| offers.made(whole(slot), 100));
        assert_eq!(
            offers.known,
            [3, 8, 9].map(whole),
            "one that somebody fetches stays, however many are made meanwhile"
        );
        offers.made(whole(10), 100 + HELD_NS);
        assert_eq!(offers.known, [9, 10].map(whole));
    }
}
