//! The log on its way to disk: group commit, completions in order, idle marks, segments. Called by the shard, once a turn.

use crate::log::{EndedWrite, Flush, InFlight};
use crate::{Log, LogError, PreparedSegment};
use synod_ring::{FILE_SLOTS, Io};
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn};

impl Log {
    /// Ends a turn: if records gathered and fewer than `max_in_flight` writes run, closes the flush and starts its write;
    /// else they go on gathering (group commit). Call it (or [`Log::gather`]) once each turn, whether or not anything was appended, with no batch open:
    /// it also fixes what the next turn may append.
    ///
    /// # Panics
    /// If a batch is open: its frame lies where the trailer would go.
    pub fn flush<I: Io>(&mut self, io: &mut I, promised: Ballot) {
        assert!(!self.has_open_batch(), "a turn ended with its batch open");
        self.promised = self.promised.max(promised);
        self.note_time(io);
        self.start_writes(io);
        if self.sealed.is_empty() && self.can_write(self.open.start) && !self.open.entries.is_empty() {
            self.seal();
            self.start_writes(io);
        }
        self.begin_turn();
    }

    /// Ends a turn like [`Log::flush`], but starts no write for what gathered: for records that nothing waits for. They go to
    /// disk with the next flush.
    pub fn gather<I: Io>(&mut self, io: &mut I, promised: Ballot) {
        self.promised = self.promised.max(promised);
        // What nothing waits for is not old.
        self.turn_ns = io.now_ns();
        self.start_writes(io);
        self.begin_turn();
    }

    /// The end of a turn that wants what gathered on disk.
    fn note_time<I: Io>(&mut self, io: &I) {
        self.turn_ns = io.now_ns();
        if !self.open.entries.is_empty() {
            self.open_since_ns.get_or_insert(self.turn_ns);
        }
    }

    /// Puts the durable Lsn on disk where no flush will: writes a flush without records if the last durable mark is behind and
    /// nothing is under way. Without it, damage of the very last flush could not be told from a torn tail.
    pub fn idle_mark<I: Io>(&mut self, io: &mut I, promised: Ballot) {
        let idle = self.in_flight.is_empty() && self.sealed.is_empty() && self.open.entries.is_empty();
        let due = self.durable_mark < self.durable_lsn && !self.has_open_batch();
        if !idle || !due || !self.can_write(self.open.start) || !self.has_room(self.open.start, 0) {
            return;
        }
        assert_eq!(self.durable_lsn, self.last_lsn, "nothing is under way, so all is durable");
        self.promised = self.promised.max(promised);
        self.seal();
        self.start_writes(io);
        self.begin_turn();
    }

    /// Takes the end of a write. `Some` with the durable Lsn if it advanced: it does so in the order of the log, whatever
    /// the order of completions. After an error the shard must end: the data may be gone from the kernel's memory, so no
    /// retry could be trusted.
    ///
    /// # Panics
    /// If no such write runs.
    pub fn written<I: Io>(
        &mut self,
        io: &mut I,
        token: u64,
        result: Result<usize, i32>,
    ) -> Result<Option<Lsn>, LogError> {
        let running = |write: &InFlight| write.token == token && !write.done;
        let index = self.in_flight.iter().position(running).expect("a completion of a write that does not run");
        let InFlight { flush, from, submitted_ns, .. } = self.in_flight[index];
        let bytes = match result {
            Ok(bytes) => bytes as u64,
            Err(_) if mutant("write_error_ignored") => flush.end - from,
            Err(errno) => {
                let reason = std::io::Error::from_raw_os_error(errno).to_string();
                return Err(self.write_failed(from, flush.end, reason));
            }
        };
        let left = flush.end - from;
        if bytes == 0 || bytes > left || !bytes.is_multiple_of(self.geometry.block_bytes) {
            return Err(self.write_failed(from, flush.end, format!("the kernel reports {bytes} bytes written")));
        }
        self.in_flight[index].from += bytes;
        if bytes < left && !mutant("short_write_taken_for_whole") {
            if !self.failed {
                self.submit(io, index);
            }
            return Ok(None);
        }
        self.in_flight[index].done = true;
        let took_ns = io.now_ns().saturating_sub(submitted_ns);
        self.ended = Some(EndedWrite { took_ns, bytes: flush.end - flush.start, records: flush.records });
        self.advance(io)
    }

    /// Registers the segments that were prepared, each as soon as the one whose slot of the reactor's file table it takes has
    /// no write before it or in flight. Call it once after recovery, before the first turn.
    pub fn attach_segments<I: Io>(&mut self, io: &mut I) -> Result<(), LogError> {
        let replaceable_end = self.geometry.segment(self.unwritten()) + u64::from(FILE_SLOTS);
        while let Some(segment) = self.unattached.pop_front_if(|segment| segment.index < replaceable_end) {
            assert_eq!(segment.index, self.attached_end, "segments are attached in order");
            let PreparedSegment { path, file, index } = segment;
            io.attach(Log::slot(index), file).map_err(|source| LogError::Attach { segment: path, source })?;
            self.attached_end += 1;
        }
        Ok(())
    }

    /// Takes the segment that [`Log::wants_segment`] asked for.
    ///
    /// # Panics
    /// If it is not the one that was asked for, or [`Log::attach_segments`] was not called yet.
    pub fn segment_ready<I: Io>(&mut self, io: &mut I, segment: PreparedSegment) -> Result<(), LogError> {
        assert!(std::mem::take(&mut self.asked), "no segment was asked for");
        assert_eq!(segment.index, self.prepared_end, "another segment was asked for");
        self.prepared_end += 1;
        self.unattached.push_back(segment);
        self.attach_segments(io)
    }

    /// Whether a write at `pos` could start now.
    fn can_write(&self, pos: u64) -> bool {
        let free = self.in_flight.len() < self.depth.limit();
        !self.failed && free && self.geometry.segment(pos) < self.attached_end
    }

    fn start_writes<I: Io>(&mut self, io: &mut I) {
        while let Some(flush) = self.sealed.front().copied().filter(|flush| self.can_write(flush.start)) {
            self.sealed.pop_front();
            let submitted_ns = io.stage_ns();
            self.in_flight.push_back(InFlight { flush, token: 0, from: flush.start, done: false, submitted_ns });
            self.submit(io, self.in_flight.len() - 1);
        }
    }

    /// Queues the rest of a flush. Each write has a token of its own: a completion never counts for another write.
    fn submit<I: Io>(&mut self, io: &mut I, index: usize) {
        self.next_token += 1;
        let write = &mut self.in_flight[index];
        write.token = self.next_token;
        let InFlight { flush, from, token, .. } = *write;
        let segment = self.geometry.segment(from);
        let bytes = self.arena.slice(self.at(from), (flush.end - from) as usize);
        io.write(Log::slot(segment), self.geometry.offset(from), bytes, token);
    }

    fn advance<I: Io>(&mut self, io: &mut I) -> Result<Option<Lsn>, LogError> {
        let before = self.durable_lsn;
        let ended = |write: &InFlight| write.done || mutant("completion_covers_earlier_writes");
        while let Some(InFlight { flush, .. }) = self.in_flight.front().copied().filter(ended) {
            self.in_flight.pop_front();
            let Flush { next, last_lsn, mark, records, since_ns, met_another, .. } = flush;
            self.depth.ended(met_another, records, io.now_ns().saturating_sub(since_ns));
            assert!(last_lsn >= self.durable_lsn && next > self.durable_pos && mark >= self.durable_mark);
            (self.durable_lsn, self.durable_pos, self.durable_mark) = (last_lsn, next, mark);
        }
        self.attach_segments(io)?;
        self.start_writes(io);
        Ok((self.durable_lsn > before).then_some(self.durable_lsn))
    }
}
