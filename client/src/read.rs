//! Reading: a sans-I/O core that fetches entries by sequence, in order, without gaps or duplicates.
//!
//! One request is under way at a time; its answer is a burst of datagrams. They are held until their turn, in order of
//! sequence. When the answer has ended, or stays out, the next request asks for the first sequence that is missing, and
//! for no more than up to what is held behind the gap: that repairs a loss and fetches ahead by one and the same rule.
//! What is committed never changes, so a late datagram of an earlier request is as good as one of the current.
//!
//! Bounds: at most `2 * max_datagrams` datagrams are held, in buffers that are used again. Reads no clock, opens no
//! socket. Called by [`crate::Reader`].

use crate::held::{EntryRef, Holding, Kept};
use crate::options::{OptionsError, ReadOptions, check_members};
use crate::reply::{ReadEntries, Rejection, Reply, finish_request, told};
use crate::retransmit::{Jitter, Timeout, pause_ns};
use crate::route::Route;
use std::net::SocketAddrV4;
use synod_wire::client::{Consistency, ReadBody, ReadReplyBody, Refusal};
use synod_wire::frame::{Frames, HEADER_BYTES, Kind, frame_bytes};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::mode::Mode;
use synod_wire::{ClusterId, GroupId, Sequence};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// Bytes of the only datagram that a reader sends.
pub(crate) const REQUEST_BYTES: usize = frame_bytes(size_of::<ReadBody>());

/// A follower of the tail asks again no sooner than this after an empty answer, should a node not hold the request.
const FOLLOW_PACE_US: u32 = 2_000;

/// A leader without a lease is asked again no sooner than this.
pub(crate) const NO_LEASE_PACE_US: u32 = 10_000;

/// What a reader counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadCounters {
    /// Requests sent.
    pub requests_sent: u64,
    /// Requests whose answer stayed out or broke off.
    pub timeouts: u64,
    /// Requests for a gap: some datagrams behind it had come.
    pub gaps_asked: u64,
    /// Datagrams that held nothing new.
    pub duplicates: u64,
    /// Datagrams dropped because the buffer was full of earlier ones.
    pub overruns: u64,
    /// Datagrams or frames that are not what they should be.
    pub malformed: u64,
    /// From an unknown address, or of another cluster, group or reader.
    pub foreign: u64,
    /// Refusals taken notice of.
    pub refusals: u64,
}

#[derive(Clone, Copy, Debug)]
struct Request {
    id: u64,
    from: u64,
    /// Behind the last entry asked for.
    end: u64,
    sent_ns: u64,
    expires_ns: u64,
    heard: bool,
}

/// See the module. [`ReadCore::read`] or [`ReadCore::follow`] says what to fetch; then poll as with [`crate::Core`].
#[derive(Debug)]
pub struct ReadCore {
    cluster: ClusterId,
    group: GroupId,
    options: ReadOptions,
    route: Route,
    timeout: Timeout,
    jitter: Jitter,
    held: Holding,
    /// Behind the last entry wanted.
    end: u64,
    /// How long a node may hold a request; `None`: read what is there.
    follow_ms: Option<u16>,
    /// The first answer's tail has bounded `end`.
    end_is_fixed: bool,
    tail: Option<Sequence>,
    /// The weakest of what the answers to the current read promised.
    guarantee: Option<Guarantee>,
    /// The mode that the last answer named.
    mode: Option<Mode>,
    request: Option<Request>,
    /// Of the current read.
    first_request_id: u64,
    next_request_id: u64,
    pause_until_ns: u64,
    silences: u32,
    last_progress_ns: u64,
    last_contact_ns: Option<u64>,
    last_refusal: Option<(SocketAddrV4, Refusal)>,
    /// The leader has said that it never has a lease.
    leases_off: bool,
    /// What comes next was trimmed: the first sequence that is left.
    trimmed: Option<Sequence>,
    counters: ReadCounters,
}

impl ReadCore {
    /// A reader that wants nothing yet. `members` are asked in this order.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: ReadOptions,
    ) -> Result<ReadCore, OptionsError> {
        options.validate()?;
        check_members(members.len())?;
        let (initial, min, max) = (options.retransmit_initial_us, options.retransmit_min_us, options.retransmit_max_us);
        let held = 2 * usize::from(options.max_datagrams);
        Ok(ReadCore {
            cluster,
            group,
            route: Route::new(members.into_boxed_slice()),
            timeout: Timeout::new(initial, min, max),
            jitter: Jitter::new(options.seed),
            held: Holding::new(held),
            end: 1,
            follow_ms: None,
            end_is_fixed: true,
            tail: None,
            guarantee: None,
            mode: None,
            request: None,
            first_request_id: 1,
            next_request_id: 1,
            pause_until_ns: 0,
            silences: 0,
            last_progress_ns: 0,
            last_contact_ns: None,
            last_refusal: None,
            leases_off: false,
            trimmed: None,
            counters: ReadCounters::default(),
            options,
        })
    }

    /// Fetch at most `count` entries from `from` on, as far as the node's log reaches when it first answers.
    pub fn read(&mut self, from: Sequence, count: u64, now_ns: u64) {
        self.restart(from, count, None, now_ns);
    }

    /// Fetch all entries from `from` on, for ever; a node may hold a request for `wait_ms` while it has nothing new.
    pub fn follow(&mut self, from: Sequence, wait_ms: u16, now_ns: u64) {
        self.restart(from, u64::MAX, Some(wait_ms), now_ns);
    }

    /// How recent the state must be that reads show which begin from now on; else as the options say.
    pub fn set_consistency(&mut self, consistency: Consistency) {
        self.options.consistency = consistency;
    }

    fn restart(&mut self, from: Sequence, count: u64, follow_ms: Option<u16>, now_ns: u64) {
        // Sequences start at 1, and 0 would ask for the tail alone.
        self.held.restart(from.0.max(1));
        self.end = self.held.next().saturating_add(count);
        self.follow_ms = follow_ms;
        self.end_is_fixed = follow_ms.is_some();
        self.request = None;
        self.guarantee = None;
        self.leases_off = false;
        self.trimmed = None;
        self.first_request_id = self.next_request_id;
        self.last_progress_ns = now_ns;
        self.silences = 0;
    }

    /// Whether [`ReadCore::next_entry`] has one.
    pub fn is_ready(&self) -> bool {
        self.held.next() < self.end && self.held.covered() > self.held.next()
    }

    /// Whether everything wanted was handed out, as far as it exists.
    pub fn is_finished(&self) -> bool {
        self.held.next() >= self.end
    }

    /// The highest tail that a node has told.
    pub fn tail(&self) -> Option<Sequence> {
        self.tail
    }

    /// What may be relied on of the current read: the meet of all answers to it. `None`: none came yet.
    pub fn guarantee(&self) -> Option<Guarantee> {
        self.guarantee
    }

    /// The mode of the node that answered last, if it named one.
    pub fn mode(&self) -> Option<Mode> {
        self.mode
    }

    /// How recent this read is: the weakest that was told with an answer to it. What was fresh when a request was sent says
    /// nothing of what came later.
    pub fn recency(&self) -> Option<Recency> {
        self.guarantee.map(|guarantee| guarantee.recency)
    }

    /// When the last new entry came, or an answer said that there is none yet.
    pub fn last_progress_ns(&self) -> u64 {
        self.last_progress_ns
    }

    /// When a member last said anything.
    pub fn last_contact_ns(&self) -> Option<u64> {
        self.last_contact_ns
    }

    /// The last refusal since the last progress, and who sent it.
    pub fn last_refusal(&self) -> Option<(SocketAddrV4, Refusal)> {
        self.last_refusal
    }

    /// Whether the leader was asked to answer by its lease and is configured to have none: asking again is in vain.
    pub fn leases_are_off(&self) -> bool {
        self.leases_off
    }

    /// What comes next was trimmed, in the whole group: the first sequence that can be read. Nothing more comes of this read when
    /// what came before is taken.
    pub fn trimmed(&self) -> Option<Sequence> {
        self.trimmed
    }

    /// How many members the reader was given.
    pub fn members(&self) -> usize {
        self.route.members()
    }

    /// The options that the reader was made with.
    pub fn options(&self) -> &ReadOptions {
        &self.options
    }

    /// What was counted.
    pub fn counters(&self) -> ReadCounters {
        self.counters
    }

    /// The next entry in order, if it has come.
    pub fn next_entry(&mut self) -> Option<EntryRef<'_>> {
        if self.is_ready() { self.held.take() } else { None }
    }

    /// Writes the next request into `out` (at least 128 bytes) if one is due: where it goes and its length.
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> Option<(SocketAddrV4, usize)> {
        if self.request.is_some_and(|request| request.expires_ns <= now_ns) {
            self.on_silence();
        }
        if now_ns < self.pause_until_ns || !self.can_ask() {
            return None;
        }
        let from = self.held.covered();
        let gap_end = self.held.gap_end(from);
        self.counters.gaps_asked += u64::from(gap_end.is_some());
        let wanted = gap_end.unwrap_or(self.end).min(self.end) - from;
        let max_entries = u32::try_from(wanted).unwrap_or(u32::MAX);
        let wait_ms = self.follow_ms.unwrap_or(0);
        let request = Request {
            id: self.next_request_id,
            from,
            end: from + u64::from(max_entries),
            sent_ns: now_ns,
            expires_ns: now_ns + u64::from(wait_ms) * 1_000_000 + self.timeout.current_ns(),
            heard: false,
        };
        self.next_request_id += 1;
        self.request = Some(request);
        self.counters.requests_sent += 1;
        let body = ReadBody {
            request_id: U64::new(request.id),
            from_sequence: U64::new(from),
            max_entries: U32::new(max_entries),
            max_datagrams: U16::new(self.options.max_datagrams),
            wait_ms: U16::new(wait_ms),
            bound_ms: U32::ZERO,
            consistency: 0,
            reserved: [0; 3],
        }
        .with(self.options.consistency);
        out[HEADER_BYTES..HEADER_BYTES + size_of::<ReadBody>()].copy_from_slice(body.as_bytes());
        let length = finish_request(out, (Kind::Read, 0), self.cluster, self.group, request.id, size_of::<ReadBody>());
        Some((self.route.target(), length))
    }

    /// When to call [`ReadCore::poll_transmit`] next even if no datagram comes; may lie in the past. `None`: not before
    /// a datagram comes or an entry is taken.
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.request {
            Some(request) => Some(request.expires_ns),
            None => self.can_ask().then_some(self.pause_until_ns),
        }
    }

    /// Takes a datagram that came from `from`. Malformed and foreign ones are counted and ignored.
    pub fn handle(&mut self, now_ns: u64, from: SocketAddrV4, datagram: &[u8]) {
        if !self.route.knows(from) {
            self.counters.foreign += 1;
            return;
        }
        for frame in Frames::new(datagram) {
            let Ok(frame) = frame else {
                self.counters.malformed += 1;
                continue;
            };
            if frame.header.cluster != self.cluster || frame.header.group != self.group {
                self.counters.foreign += 1;
                continue;
            }
            self.last_contact_ns = Some(now_ns);
            match Reply::parse(&frame) {
                Ok(Reply::Read(body, entries)) => self.on_reply(now_ns, from, &body, entries),
                Ok(Reply::Rejected(rejection)) => self.on_rejected(now_ns, from, &rejection),
                _ => self.counters.malformed += 1,
            }
        }
    }

    /// Whether a request is to be made, pause or not: something is missing, and its answer has room. What the caller
    /// waits for is always asked for; it displaces what lies furthest ahead.
    fn can_ask(&self) -> bool {
        let covered = self.held.covered();
        let room = self.held.ahead() <= usize::from(self.options.max_datagrams) || covered == self.held.next();
        self.request.is_none() && self.trimmed.is_none() && covered < self.end && room
    }

    fn on_silence(&mut self) {
        let heard = self.request.take().is_some_and(|request| request.heard);
        self.counters.timeouts += 1;
        self.timeout.back_off();
        self.silences = if heard { 0 } else { self.silences.saturating_add(1) };
        if self.silences > 1 {
            self.route.rotate();
        }
    }

    fn pause(&mut self, now_ns: u64, retry_after_us: u32) {
        self.pause_until_ns = now_ns.saturating_add(pause_ns(retry_after_us, &mut self.jitter));
    }

    fn on_reply(&mut self, now_ns: u64, from: SocketAddrV4, body: &ReadReplyBody, entries: ReadEntries<'_>) {
        let id = body.request_id.get();
        // What is late of a read that ended in TRIMMED does not make it go on.
        if !(self.first_request_id..self.next_request_id).contains(&id) || self.trimmed.is_some() {
            self.counters.foreign += 1;
            return;
        }
        let (first, count) = (body.first_sequence.get(), u64::from(body.entries.get()));
        if count > 0 && first == 0 {
            self.counters.malformed += 1;
            return;
        }
        if !recency_of(body).is_some_and(|recency| self.options.consistency.is_met_by(recency)) {
            self.counters.malformed += 1;
            return;
        }
        let tail = Sequence(body.tail.get());
        self.tail = Some(self.tail.map_or(tail, |known| known.max(tail)));
        let promised = told(body.guarantee);
        self.guarantee = Some(self.guarantee.map_or(promised, |earlier| earlier.meet(promised)));
        self.mode = Mode::from_u8(body.mode);
        if !self.end_is_fixed {
            self.end_is_fixed = true;
            self.end = self.end.min(tail.0.saturating_add(1)).max(self.held.next());
        }
        if count > 0 && self.hold(first, first + count, entries.as_bytes()) {
            self.last_progress_ns = now_ns;
            self.last_refusal = None;
            self.route.settle(from);
            self.silences = 0;
        }
        if let Some(request) = self.request.filter(|request| request.id == id) {
            self.on_current_reply(now_ns, request, body, count == 0);
        }
    }

    /// What an answer to the request under way says about that request.
    fn on_current_reply(&mut self, now_ns: u64, mut request: Request, body: &ReadReplyBody, empty: bool) {
        let (last, tail) = (body.last == 1, body.tail.get());
        if !request.heard && self.follow_ms.is_none() {
            self.timeout.sample(now_ns.saturating_sub(request.sent_ns));
        } else {
            self.timeout.progress();
        }
        request.heard = true;
        request.expires_ns = now_ns.saturating_add(self.timeout.current_ns());
        let covered = self.held.covered();
        if !last && covered < request.end {
            self.request = Some(request);
            return;
        }
        self.request = None;
        if covered > request.from || covered >= self.end {
            return;
        }
        match (empty, self.follow_ms) {
            // Nothing new at the tail: that is an answer, and the node may go on holding the next request.
            (true, Some(_)) if tail < request.from => {
                self.last_progress_ns = now_ns;
                if now_ns.saturating_sub(request.sent_ns) < u64::from(FOLLOW_PACE_US) * 1000 {
                    self.pause(now_ns, FOLLOW_PACE_US);
                }
            }
            // The entries exist, for a tail was told that covers them, but not on this node (yet), or damaged.
            (true, _) => {
                self.route.rotate();
                self.pause(now_ns, 0);
            }
            // The first datagram was lost, or overtaken by the last: the pause lets it come.
            (false, _) => self.pause(now_ns, 0),
        }
    }

    /// Refusals count only from the node that is asked, about the request that is under way.
    fn on_rejected(&mut self, now_ns: u64, from: SocketAddrV4, rejection: &Rejection) {
        let current = self.request.is_some_and(|request| request.id == rejection.reference);
        if !current || from != self.route.target() {
            self.counters.foreign += 1;
            return;
        }
        self.counters.refusals += 1;
        self.last_refusal = Some((from, rejection.refusal));
        self.request = None;
        match (rejection.refusal, rejection.leader) {
            (Refusal::Trimmed, _) if rejection.detail > self.held.covered() => {
                self.trimmed = Some(Sequence(rejection.detail));
                return;
            }
            (Refusal::Busy, _) => return self.pause(now_ns, rejection.retry_after_us),
            // It leads, and nobody else can have a lease.
            (Refusal::NoLease, _) => {
                self.leases_off = rejection.detail == 0;
                return self.pause(now_ns, rejection.retry_after_us.max(NO_LEASE_PACE_US));
            }
            (Refusal::NotLeader, Some(leader)) if leader != from => self.route.redirect(leader),
            _ => self.route.rotate(),
        }
        if self.route.in_vain() {
            self.pause(now_ns, rejection.retry_after_us);
        }
    }

    /// Keeps a datagram's entries; false if they are not wanted, known already, or do not fit.
    fn hold(&mut self, first: u64, end: u64, bytes: &[u8]) -> bool {
        let kept = if first >= self.end { Kept::Known } else { self.held.hold(first, end, bytes) };
        self.counters.duplicates += u64::from(kept == Kept::Known);
        self.counters.overruns += u64::from(matches!(kept, Kept::Full | Kept::Displaced));
        matches!(kept, Kept::New | Kept::Displaced)
    }
}

/// How recent an answer is; `None`: it says so in a way that this version does not know.
pub(crate) fn recency_of(body: &ReadReplyBody) -> Option<Recency> {
    body.guarantee.decode().map(|guarantee| guarantee.recency)
}

#[cfg(test)]
#[path = "read_tests.rs"]
mod tests;
