//! The receiver's part of a transfer: from an offer to the snapshot that a recovery in the same process begins with.
//!
//! | phase | what is awaited |
//! |---|---|
//! | opening | housekeeping finds out how much of the state an earlier life has on disk |
//! | pulling | chunks, [`WINDOW`] at most; what does not come within [`TIMEOUT_NS`] is asked for again, and after [`MAX_STRIKES`] such times of another member that offered the same state |
//! | storing | housekeeping writes a group of chunks behind what is there |
//! | installing | housekeeping holds the whole to its checksum, and writes a snapshot of it (`install.rs`) |
//!
//! The shard goes on as before until the end: it votes, and learns values if somebody has them; a prefix that passes the snapshot's slot
//! ends the transfer. When the snapshot is durable the shard asks to be recovered anew, as after repaired damage. A whole that does
//! not have its checksum is thrown away and counted, and who sent it is not asked for it again for [`DISTRUST_NS`].
//!
//! Who starts again goes on with what came before, though a newer state is offered by now: where those are made faster than one comes, a
//! receiver that is killed now and then would never have one.
//!
//! How fast: no more is asked for than `catchup.max_bytes_per_s` allows.

use super::events::EventKind;
use super::install::{Installed, TransferDone, TransferJob};
use super::jobs::{Done, Job, MAX_JOBS};
use super::offers::Throttle;
use super::{Fatal, Shard, codec};
use synod_ring::{Io, RxBuf};
use synod_wal::partial::{DATA_BYTES, MAX_BLOCKS, Whole};
use synod_wire::client::Counter;
use synod_wire::frame::Kind;
use synod_wire::mutant::mutant;
use synod_wire::peer::{CHUNK_BYTES, ChunkHead, FetchChunks};
use synod_wire::{NodeId, NodeSet};
use zerocopy::IntoBytes;

use super::clients::put;

/// Chunks that are asked for at once.
const WINDOW: u64 = u64::BITS as u64;
/// What a group of chunks takes: the most that is written at once.
pub const GROUP_BYTES: usize = MAX_BLOCKS * DATA_BYTES;
const GROUP_CHUNKS: usize = GROUP_BYTES / CHUNK_BYTES;
const GROUP_WORDS: usize = GROUP_CHUNKS.div_ceil(u64::BITS as usize);
/// The largest state that is taken: a bound for what an offer may claim.
const MAX_STATE_BYTES: u64 = 16 << 30;
/// Chunks that did not come by then are asked for again.
const TIMEOUT_NS: u64 = 50_000_000;
/// As often as that in a row, and another member is asked.
const MAX_STRIKES: u32 = 8;
/// After a failure of this node's disk.
const RETRY_NS: u64 = 1_000_000_000;
/// For so long a state that was no good is not taken from who sent it.
const DISTRUST_NS: u64 = 5_000_000_000;

const _: () = assert!(GROUP_BYTES.is_multiple_of(CHUNK_BYTES));

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Pulling,
    Storing,
    Installing,
}

/// A state on its way here.
#[derive(Debug)]
struct Pull {
    whole: Whole,
    phase: Phase,
    /// Who offered it, and does not keep silent.
    sources: NodeSet,
    /// Who is asked.
    from: NodeId,
    /// Who sent some of it in this life.
    senders: NodeSet,
    /// Bytes on disk.
    stored: u64,
    /// What comes behind them, and which chunks of it are here.
    group: Vec<u8>,
    have: [u64; GROUP_WORDS],
    /// What was asked for last, in the group: from this chunk on.
    asked: (u64, u64),
    strikes: u32,
    /// When the next chunks may be asked for, as far as the pace goes.
    paced_ns: u64,
    due_ns: u64,
}

impl Pull {
    /// Nothing is here yet, as far as is known.
    fn new(whole: Whole, from: NodeId) -> Pull {
        Pull {
            whole,
            phase: Phase::Opening,
            sources: [from].into_iter().collect(),
            from,
            senders: NodeSet::EMPTY,
            stored: 0,
            group: Vec::new(),
            have: [0; GROUP_WORDS],
            asked: (0, 0),
            strikes: 0,
            paced_ns: 0,
            due_ns: 0,
        }
    }

    /// An earlier life had begun another state than the one that is offered. Any member may have that still; the next offer of who has
    /// not is taken when all were asked.
    fn go_on_with(&mut self, whole: Whole, peers: impl Iterator<Item = NodeId>) {
        self.whole = whole;
        self.sources = self.sources.iter().chain(peers).collect();
    }

    fn group_bytes(&self) -> usize {
        (self.whole.bytes - self.stored).min(GROUP_BYTES as u64) as usize
    }

    fn chunks(&self) -> u64 {
        self.group_bytes().div_ceil(CHUNK_BYTES) as u64
    }

    fn has(&self, chunk: u64) -> bool {
        self.have[(chunk / 64) as usize] & (1 << (chunk % 64)) != 0
    }

    fn is_complete(&self) -> bool {
        (0..self.chunks()).all(|chunk| self.has(chunk))
    }

    /// The first chunk that is missing, and which of the window from there on are.
    fn missing(&self) -> Option<(u64, u64)> {
        let first = (0..self.chunks()).find(|chunk| !self.has(*chunk))?;
        let end = (first + WINDOW).min(self.chunks());
        let wanted = (first..end).filter(|chunk| !self.has(*chunk));
        Some((first, wanted.fold(0, |bits, chunk| bits | 1 << (chunk - first))))
    }

    /// Whether some of what was asked for has not come.
    fn waits(&self) -> bool {
        let (first, wanted) = self.asked;
        (0..WINDOW).any(|bit| wanted & (1 << bit) != 0 && !self.has(first + bit))
    }

    /// A chunk of the state; whether it is new here.
    fn take(&mut self, number: u64, bytes: &[u8]) -> bool {
        let before = self.stored / CHUNK_BYTES as u64;
        let Some(chunk) = number.checked_sub(before).filter(|chunk| *chunk < self.chunks()) else { return false };
        if self.has(chunk) {
            return false;
        }
        let at = chunk as usize * CHUNK_BYTES;
        self.group[at..at + bytes.len()].copy_from_slice(bytes);
        self.have[(chunk / 64) as usize] |= 1 << (chunk % 64);
        true
    }

    /// Goes on behind what is on disk.
    fn begin_group(&mut self) {
        self.phase = Phase::Pulling;
        self.group.clear();
        self.group.resize(self.group_bytes(), 0);
        (self.have, self.asked, self.due_ns) = ([0; GROUP_WORDS], (0, 0), 0);
    }

    /// This member offered another state: whether it does not have the one that it is asked for any more. It offers its newest to a
    /// request for values, too, which goes on beside; to begin anew with each would never end, where they are made faster than sent.
    fn is_gone(&self, at: NodeId) -> bool {
        self.from == at && self.strikes > 0
    }

    /// Who is asked keeps silent, or does not have it any more: the next one is.
    fn leave_source(&mut self) {
        self.sources.0 &= !(1 << self.from.0);
        self.strikes = 0;
        if let Some(next) = self.sources.iter().next() {
            self.from = next;
        }
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Pulling {
    pull: Option<Pull>,
    throttle: Throttle,
    not_before_ns: u64,
    distrusted: Option<(Whole, NodeSet, u64)>,
    /// What an earlier life began may be on disk.
    earlier: bool,
}

impl Pulling {
    pub(super) fn new(bytes_per_s: u64) -> Pulling {
        Pulling { pull: None, throttle: Throttle::new(bytes_per_s), not_before_ns: 0, distrusted: None, earlier: true }
    }

    /// It asks at another pace from now on.
    pub(super) fn set_pace(&mut self, bytes_per_s: u64) {
        self.throttle.set_pace(bytes_per_s);
    }

    /// Bytes of what is on its way here; 0: nothing is.
    pub(super) fn wanted_bytes(&self) -> u64 {
        self.pull.as_ref().map_or(0, |pull| pull.whole.bytes)
    }

    /// When something is to be asked for.
    pub(super) fn next_ns(&self) -> u64 {
        let pulling = self.pull.as_ref().filter(|pull| pull.phase == Phase::Pulling && !pull.sources.is_empty());
        pulling.map_or(u64::MAX, |pull| pull.due_ns)
    }

    fn distrusts(&self, whole: &Whole, from: NodeId, now_ns: u64) -> bool {
        self.distrusted
            .is_some_and(|(bad, senders, until_ns)| bad == *whole && senders.contains(from) && now_ns < until_ns)
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// A chunk came; `bytes` of payload at `start` in the buffer.
    pub(super) fn on_chunk(
        &mut self,
        from: NodeId,
        (whole, number): (Whole, u64),
        buf: &RxBuf,
        (start, bytes): (usize, usize),
    ) {
        let Some(pull) = &mut self.pulling.pull else { return };
        if pull.whole != whole || pull.phase != Phase::Pulling {
            return;
        }
        let chunk = &self.io.datagram(buf)[start + size_of::<ChunkHead>()..start + bytes];
        if pull.take(number, chunk) {
            self.counters.add(Counter::SnapshotBytesReceived, chunk.len() as u64);
            pull.senders.insert(from);
            pull.strikes = 0;
            if !pull.waits() {
                pull.due_ns = pull.paced_ns;
            }
        }
    }

    pub(super) fn on_offer(&mut self, from: NodeId, whole: Whole) {
        let now_ns = self.io.now_ns();
        let unwanted =
            whole.slot <= self.core.prefix() || whole.bytes > MAX_STATE_BYTES || self.core.halted().is_some();
        if unwanted || now_ns < self.pulling.not_before_ns || self.pulling.distrusts(&whole, from, now_ns) {
            return;
        }
        match &mut self.pulling.pull {
            Some(pull) if pull.whole == whole => {
                if pull.sources.is_empty() {
                    (pull.from, pull.due_ns) = (from, now_ns);
                }
                pull.sources.insert(from);
            }
            Some(pull) if pull.phase == Phase::Pulling => {
                if pull.is_gone(from) {
                    pull.leave_source();
                    pull.due_ns = now_ns;
                }
                if pull.sources.is_empty() {
                    self.begin_pull(from, whole);
                }
            }
            Some(_) => {}
            None => self.begin_pull(from, whole),
        }
    }

    fn begin_pull(&mut self, from: NodeId, whole: Whole) {
        let earlier = self.pulling.earlier && !mutant("earlier_parts_let_go");
        let job = TransferJob::Open { dir: self.settings.dir.clone(), offered: whole, earlier };
        if self.ask(Job::Transfer(job)) {
            (self.pulling.pull, self.pulling.earlier) = (Some(Pull::new(whole, from)), false);
        }
    }

    /// It is known which state is to come, and how much of it is there.
    fn on_opened(&mut self, (whole, bytes): (Whole, u64)) {
        let peers = self.core.configuration().nodes();
        let Some(pull) = self.pulling.pull.as_mut() else { return };
        if pull.whole != whole {
            pull.go_on_with(whole, peers.iter().filter(|node| *node != self.settings.me));
        }
        let from = pull.from;
        self.note(EventKind::SnapshotFetched, (from.0, 0, 0), [whole.slot.0, whole.bytes, bytes, 0]);
        self.on_kept(|pull| pull.stored = bytes);
    }

    /// The turn's part: asks for what is due, and hands on what is complete.
    pub(super) fn pull_snapshot(&mut self) {
        let now_ns = self.io.now_ns();
        let Some(pull) = self.pulling.pull.as_mut().filter(|pull| pull.phase == Phase::Pulling) else { return };
        if self.recover_again || pull.whole.slot <= self.core.prefix() {
            // Values were faster. What came is removed when this node makes a snapshot, or begins another transfer.
            self.pulling.pull = None;
            return;
        }
        if pull.is_complete() {
            return self.store_group();
        }
        if now_ns < pull.due_ns || pull.sources.is_empty() {
            return;
        }
        if pull.waits() {
            pull.strikes += 1;
            if pull.strikes == MAX_STRIKES {
                pull.leave_source();
                if pull.sources.is_empty() {
                    return;
                }
            }
        }
        let Some((first, wanted)) = pull.missing() else { return };
        let bytes = u64::from(wanted.count_ones()) * CHUNK_BYTES as u64;
        pull.asked = (first, wanted);
        pull.paced_ns = self.pulling.throttle.spend(now_ns, bytes);
        pull.due_ns = pull.paced_ns.max(now_ns + TIMEOUT_NS);
        let first = pull.stored / CHUNK_BYTES as u64 + first;
        let body = FetchChunks { id: codec::snapshot_id(&pull.whole), first: first.into(), wanted: wanted.into() };
        let from = pull.from;
        self.send_frame(from, Kind::FetchChunks, |out| put(body.as_bytes(), out));
    }

    fn store_group(&mut self) {
        let free = self.jobs_out < MAX_JOBS - 1;
        let Some(pull) = self.pulling.pull.as_mut() else { return };
        if !free {
            pull.due_ns = self.io.now_ns() + TIMEOUT_NS;
            return;
        }
        let data = std::mem::take(&mut pull.group);
        pull.phase = Phase::Storing;
        let job = TransferJob::Store(self.settings.dir.clone(), pull.whole, pull.stored, data);
        if !self.ask(Job::Transfer(job)) {
            self.pulling.pull = None;
        }
    }

    pub(super) fn on_pull_done(&mut self, done: TransferDone) -> Result<(), Fatal> {
        match done {
            TransferDone::Described(found) => self.on_described(found),
            TransferDone::Read(chunks, read) => self.on_chunks_read(chunks, read),
            TransferDone::Opened(_, Ok(found)) => self.on_opened(found),
            TransferDone::Stored(_, Ok(data)) => self.on_kept(|pull| {
                pull.stored += data.len() as u64;
                pull.group = data;
            }),
            TransferDone::Installed(whole, Ok(installed)) => self.on_installed(&whole, installed)?,
            TransferDone::Opened(_, Err(_)) | TransferDone::Stored(_, Err(_)) | TransferDone::Installed(_, Err(_)) => {
                self.pull_failed()
            }
        }
        Ok(())
    }

    /// More of it is on disk.
    fn on_kept(&mut self, note: impl FnOnce(&mut Pull)) {
        let Some(pull) = self.pulling.pull.as_mut() else { return };
        note(pull);
        if pull.stored < pull.whole.bytes {
            return pull.begin_group();
        }
        pull.phase = Phase::Installing;
        let job = TransferJob::Install(self.settings.dir.clone(), pull.whole, self.log.durable_pos());
        if !self.ask(Job::Transfer(job)) {
            // The next offer finds it on disk.
            self.pulling.pull = None;
        }
    }

    fn pull_failed(&mut self) {
        self.pulling.pull = None;
        self.pulling.not_before_ns = self.io.now_ns() + RETRY_NS;
    }

    fn on_installed(&mut self, whole: &Whole, installed: Installed) -> Result<(), Fatal> {
        let Some(pull) = self.pulling.pull.take() else { return Ok(()) };
        match installed {
            Installed::Refused(_) => {
                self.counters.add(Counter::SnapshotsRefused, 1);
                let mut senders = pull.senders;
                senders.insert(pull.from);
                self.pulling.distrusted = Some((*whole, senders, self.io.now_ns() + DISTRUST_NS));
                return Ok(());
            }
            Installed::Written => {
                self.counters.add(Counter::SnapshotsInstalled, 1);
                self.note(EventKind::SnapshotInstalled, (0, 0, 0), [whole.slot.0, whole.bytes, 0, 0]);
            }
            Installed::NotNewer => {}
        }
        if whole.slot > self.core.prefix() {
            self.recover_again = true;
            // What is chosen above it is known to memory alone until then.
            self.core.log_evidence();
            self.carry_out_all(None)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::Slot;

    fn pull(bytes: u64) -> Pull {
        let mut pull = Pull::new(Whole { slot: Slot(9), bytes, crc: 1 }, NodeId(1));
        pull.sources.insert(NodeId(3));
        pull.begin_group();
        pull
    }

    #[test]
    fn what_is_missing_is_asked_for_by_windows_and_comes_in_any_order() {
        let bytes = 100 * CHUNK_BYTES as u64 + 7;
        let mut pull = pull(bytes);
        assert_eq!(pull.missing(), Some((0, u64::MAX)));
        pull.asked = (0, u64::MAX);
        for number in (1..64).rev() {
            assert!(pull.take(number, &[number as u8; CHUNK_BYTES]) && pull.waits());
        }
        assert!(!pull.take(63, &[9; CHUNK_BYTES]), "it is here already");
        assert_eq!(pull.missing(), Some((0, 1)), "nothing behind the window is asked for before its front has come");
        assert!(pull.take(0, &[0; CHUNK_BYTES]) && !pull.waits());
        assert_eq!(pull.missing(), Some((64, (1 << 37) - 1)));
        (64..100).for_each(|number| assert!(pull.take(number, &[number as u8; CHUNK_BYTES])));
        assert!(!pull.is_complete() && pull.take(100, &[100; 7]) && pull.is_complete());
        assert!(!pull.take(101, &[1; 7]), "behind the end");
        assert!((0..bytes as usize).all(|at| pull.group[at] == (at / CHUNK_BYTES) as u8));
    }

    #[test]
    fn a_newer_state_does_not_end_one_that_comes() {
        let mut pull = pull(100);
        assert!(!pull.is_gone(NodeId(1)), "nothing was asked for in vain");
        pull.strikes = 1;
        assert!(pull.is_gone(NodeId(1)) && !pull.is_gone(NodeId(3)), "another is not asked for it");
    }

    #[test]
    fn what_an_earlier_life_began_is_asked_of_all_one_after_the_other() {
        let mut pull = Pull::new(Whole { slot: Slot(9), bytes: 100, crc: 1 }, NodeId(2));
        let earlier = Whole { slot: Slot(5), bytes: 70, crc: 3 };
        pull.go_on_with(earlier, [0, 2, 3].map(NodeId).into_iter());
        assert_eq!((pull.whole, pull.from), (earlier, NodeId(2)), "who offered something first");
        for next in [0, 3] {
            pull.leave_source();
            assert_eq!(pull.from, NodeId(next));
        }
        pull.leave_source();
        assert!(pull.sources.is_empty(), "then what is offered is taken");
    }

    #[test]
    fn a_group_follows_what_is_on_disk_and_a_source_the_one_that_is_silent() {
        let mut pull = pull(GROUP_BYTES as u64 + 1_000);
        pull.stored = GROUP_BYTES as u64;
        pull.begin_group();
        assert_eq!(pull.missing(), Some((0, 3)));
        assert!(!pull.take(GROUP_CHUNKS as u64 - 1, &[1; CHUNK_BYTES]), "it is on disk");
        assert!(pull.take(GROUP_CHUNKS as u64, &[1; CHUNK_BYTES]));
        pull.leave_source();
        assert_eq!((pull.from, pull.sources.len()), (NodeId(3), 1));
        pull.leave_source();
        assert!(pull.sources.is_empty());
    }
}
