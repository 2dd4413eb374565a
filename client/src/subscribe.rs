//! A stream of committed entries: a sans-I/O core that a node pushes to, in order, each sequence once.
//!
//! The node may send as many datagrams as [`ReadOptions::max_datagrams`], less those that wait here for their turn: that is the
//! credit, and it is renewed as entries are taken. What overtakes is held. A gap that stays for [`GAP_NS`], a node that is silent
//! or that ended the stream: each begins another round, from the first sequence that is missing, at the same node or the next.
//! What is committed never changes, so it does not matter which node goes on; and all of this is one cumulative message.
//!
//! A node that is cut off from its group, or was removed while it was away, may never learn of another entry, and its word does
//! not stop: who has had all that such a node has, asks the next one after [`CUT_OFF_NS`].
//!
//! A caller that takes nothing gives no credit, and is dropped as SLOW in the end; when it takes entries again the stream goes on
//! by itself where it was. Reads no clock, opens no socket. Called by [`crate::Subscription`].

use crate::held::{EntryRef, Holding, Kept};
use crate::options::{OptionsError, ReadOptions, check_members};
use crate::reply::{ReadEntries, Reply, finish_request};
use crate::retransmit::{Jitter, Timeout, pause_ns};
use crate::route::Route;
use std::net::SocketAddrV4;
use synod_wire::client::ReadReplyBody;
use synod_wire::frame::{Frames, HEADER_BYTES, Kind, frame_bytes};
use synod_wire::mode::Mode;
use synod_wire::mutant::mutant;
use synod_wire::stream::{StreamEnd, StreamEndBody, StreamHead, SubscribeBody};
use synod_wire::{ClusterId, GroupId, Sequence};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Bytes of the only datagram that a subscriber sends.
pub(crate) const SUBSCRIBE_BYTES: usize = frame_bytes(size_of::<SubscribeBody>());

/// A node hears from its subscriber no more seldom than this; so a lost last datagram is noticed within it.
const KEEP_ALIVE_NS: u64 = 100_000_000;
/// What was overtaken comes within this, or is lost.
const GAP_NS: u64 = 2_000_000;
/// So many questions in a row without a word: the next member is asked.
const SILENCES: u32 = 3;
/// So long a node with nothing left to send may say that it hears of nothing new (its mode is not TARGET). By default an
/// election is shorter.
const CUT_OFF_NS: u64 = 1_000_000_000;

/// What a subscriber counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SubscribeCounters {
    /// Datagrams sent.
    pub sent: u64,
    /// Of them those that no word answered in time.
    pub timeouts: u64,
    /// Rounds begun as something was missing.
    pub gaps: u64,
    /// Times that it went on at another member.
    pub moves: u64,
    /// Times that a node ended the stream.
    pub ends: u64,
    /// Datagrams that held nothing new.
    pub duplicates: u64,
    /// Datagrams dropped because the buffer was full.
    pub overruns: u64,
    /// Datagrams or frames that are not what they should be.
    pub malformed: u64,
    /// From another address than the one that serves, or of another cluster, group, stream or round.
    pub foreign: u64,
}

/// See the module. Poll as [`crate::ReadCore`].
#[derive(Debug)]
pub struct SubscribeCore {
    cluster: ClusterId,
    group: GroupId,
    options: ReadOptions,
    route: Route,
    timeout: Timeout,
    jitter: Jitter,
    stream: u64,
    round: u32,
    /// What the node that serves wants to be shown; 0: it has said nothing yet.
    cookie: u64,
    /// The highest position that came, and that was granted.
    position: u64,
    granted: u64,
    held: Holding,
    /// Behind what the node has sent in this round, as far as that is known.
    expected: u64,
    gap_since_ns: Option<u64>,
    /// Since when the node that serves has had nothing for us, and hears of nothing new.
    cut_off_since_ns: Option<u64>,
    /// When what was sent is to be answered; whether it was sent before.
    asked: Option<(u64, u64)>,
    must_send: bool,
    /// The node dropped us as we gave no credit: we come back when we can give some.
    waits_for_room: bool,
    leaving: bool,
    silences: u32,
    due_ns: u64,
    pause_until_ns: u64,
    tail: Option<Sequence>,
    last_contact_ns: Option<u64>,
    last_end: Option<(SocketAddrV4, StreamEnd)>,
    /// What comes next was trimmed: the first sequence that is left.
    trimmed: Option<Sequence>,
    counters: SubscribeCounters,
}

impl SubscribeCore {
    /// A subscriber to all entries from `from` on. `members` are asked in this order. `stream` is a random number, not zero, that
    /// no other subscriber at this address has. Of `options`, `consistency` plays no part: what is committed is sent.
    pub fn new(
        (cluster, group): (ClusterId, GroupId),
        members: Vec<SocketAddrV4>,
        options: ReadOptions,
        stream: u64,
        from: Sequence,
    ) -> Result<SubscribeCore, OptionsError> {
        options.validate()?;
        check_members(members.len())?;
        let (initial, min, max) = (options.retransmit_initial_us, options.retransmit_min_us, options.retransmit_max_us);
        let mut held = Holding::new(usize::from(options.max_datagrams));
        held.restart(from.0.max(1));
        Ok(SubscribeCore {
            cluster,
            group,
            route: Route::new(members.into_boxed_slice()),
            timeout: Timeout::new(initial, min, max),
            jitter: Jitter::new(options.seed),
            stream: stream.max(1),
            round: 1,
            cookie: 0,
            position: 0,
            granted: 0,
            expected: held.next(),
            held,
            gap_since_ns: None,
            cut_off_since_ns: None,
            asked: None,
            must_send: true,
            waits_for_room: false,
            leaving: false,
            silences: 0,
            due_ns: 0,
            pause_until_ns: 0,
            tail: None,
            last_contact_ns: None,
            last_end: None,
            trimmed: None,
            counters: SubscribeCounters::default(),
            options,
        })
    }

    /// Whether [`SubscribeCore::next_entry`] has one.
    pub fn is_ready(&self) -> bool {
        self.held.covered() > self.held.next()
    }

    /// The next entry in order, if it has come.
    pub fn next_entry(&mut self) -> Option<EntryRef<'_>> {
        self.held.take()
    }

    /// The sequence that [`SubscribeCore::next_entry`] hands out next.
    pub fn next_sequence(&self) -> Sequence {
        Sequence(self.held.next())
    }

    /// The highest tail that a node has told.
    pub fn tail(&self) -> Option<Sequence> {
        self.tail
    }

    /// When the node that serves last said anything.
    pub fn last_contact_ns(&self) -> Option<u64> {
        self.last_contact_ns
    }

    /// Who ended the stream last, and why. It went on by itself since, or will.
    pub fn last_end(&self) -> Option<(SocketAddrV4, StreamEnd)> {
        self.last_end
    }

    /// What comes next was trimmed, in the whole group: the first sequence that can be had. The stream is over when what came before
    /// is taken; another one may begin there.
    pub fn trimmed(&self) -> Option<Sequence> {
        self.trimmed
    }

    /// Who serves, or is asked to.
    pub fn serving(&self) -> SocketAddrV4 {
        self.route.target()
    }

    /// How many members the subscriber was given.
    pub fn members(&self) -> usize {
        self.route.members()
    }

    /// The options that the subscriber was made with.
    pub fn options(&self) -> &ReadOptions {
        &self.options
    }

    /// The number of the stream.
    pub fn stream(&self) -> u64 {
        self.stream
    }

    /// What was counted.
    pub fn counters(&self) -> SubscribeCounters {
        self.counters
    }

    /// The next datagram says that the subscriber leaves; it is lost as any other may be, and then the node finds out by itself.
    pub fn leave(&mut self) {
        self.leaving = true;
        self.must_send = true;
        self.pause_until_ns = 0;
    }

    /// The highest position that may be sent now.
    fn credit(&self) -> u64 {
        self.granted.max(self.position + self.room())
    }

    fn room(&self) -> u64 {
        u64::from(self.options.max_datagrams).saturating_sub(self.held.ahead() as u64)
    }

    /// Whether so much credit came together that it is worth a datagram, or the node may be out of it.
    fn grants(&self) -> bool {
        let more = self.credit() - self.granted;
        more >= u64::from(self.options.max_datagrams).div_ceil(2) || more > 0 && self.position >= self.granted
    }

    /// Begins another round: what lies behind a gap is sent again.
    fn begin_round(&mut self) {
        self.round += 1;
        self.held.drop_behind_gap();
        self.expected = self.held.covered();
        self.granted = self.position;
        self.gap_since_ns = None;
        self.asked = None;
        self.must_send = true;
    }

    /// Goes on at the next member.
    fn move_on(&mut self, now_ns: u64) {
        self.counters.moves += 1;
        self.route.rotate();
        self.cookie = 0;
        self.silences = 0;
        self.cut_off_since_ns = None;
        self.begin_round();
        if self.route.in_vain() {
            self.pause_until_ns = now_ns.saturating_add(pause_ns(10_000, &mut self.jitter));
        }
    }

    /// Writes the next datagram into `out` (at least 128 bytes) if one is due: where it goes and its length.
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> Option<(SocketAddrV4, usize)> {
        if self.asked.is_some_and(|(_, expires_ns)| expires_ns <= now_ns) {
            self.on_silence(now_ns);
        }
        if self.gap_since_ns.is_some_and(|since_ns| now_ns >= since_ns + GAP_NS) {
            self.counters.gaps += 1;
            self.begin_round();
        }
        if self.waits_for_room && self.room() >= u64::from(self.options.max_datagrams).div_ceil(2) {
            self.waits_for_room = false;
            self.begin_round();
        }
        if (self.waits_for_room || self.trimmed.is_some()) && !self.leaving || now_ns < self.pause_until_ns {
            return None;
        }
        let keeps_alive = now_ns >= self.due_ns && self.asked.is_none();
        if !self.must_send && !self.grants() && !keeps_alive {
            return None;
        }
        self.must_send = false;
        self.due_ns = now_ns.saturating_add(KEEP_ALIVE_NS);
        self.granted = self.credit();
        if self.asked.is_none() && !self.leaving {
            self.asked = Some((now_ns, now_ns.saturating_add(self.timeout.current_ns())));
        }
        self.counters.sent += 1;
        Some((self.route.target(), self.write(out)))
    }

    fn write(&self, out: &mut [u8]) -> usize {
        let body = SubscribeBody {
            stream: U64::new(self.stream),
            next: U64::new(self.held.covered()),
            cookie: U64::new(self.cookie),
            received: U64::new(self.position),
            credit: U64::new(self.granted),
            round: U32::new(self.round),
            leaves: u8::from(self.leaving),
            reserved: [0; 3],
        };
        let bytes = size_of::<SubscribeBody>();
        out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(body.as_bytes());
        finish_request(out, (Kind::Subscribe, 0), self.cluster, self.group, self.stream, bytes)
    }

    /// When to call [`SubscribeCore::poll_transmit`] next even if no datagram comes; may lie in the past. `None`: not before
    /// entries are taken.
    pub fn poll_timeout(&self) -> Option<u64> {
        if self.trimmed.is_some() {
            return None;
        }
        if self.waits_for_room {
            let room = self.room() >= u64::from(self.options.max_datagrams).div_ceil(2);
            return room.then_some(self.pause_until_ns);
        }
        let gap_ns = self.gap_since_ns.map_or(u64::MAX, |since_ns| since_ns + GAP_NS);
        let expires_ns = self.asked.map_or(self.due_ns, |(_, expires_ns)| expires_ns);
        let send_ns = if self.must_send || self.grants() { self.pause_until_ns } else { u64::MAX };
        Some(gap_ns.min(expires_ns.max(self.pause_until_ns)).min(send_ns))
    }

    fn on_silence(&mut self, now_ns: u64) {
        self.asked = None;
        self.counters.timeouts += 1;
        self.timeout.back_off();
        self.silences += 1;
        self.must_send = true;
        if self.silences >= SILENCES {
            self.move_on(now_ns);
        }
    }

    /// Takes a datagram that came from `from`. Malformed and foreign ones are counted and ignored.
    pub fn handle(&mut self, now_ns: u64, from: SocketAddrV4, datagram: &[u8]) {
        if from != self.route.target() {
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
            match Reply::parse(&frame) {
                Ok(Reply::Stream(round, head, body, entries)) => {
                    self.on_data(now_ns, from, (round, &head), (&body, entries));
                }
                Ok(Reply::StreamEnd(body, reason)) => self.on_end(now_ns, from, &body, reason),
                _ => self.counters.malformed += 1,
            }
        }
    }

    fn on_data(
        &mut self,
        now_ns: u64,
        from: SocketAddrV4,
        (round, head): (u64, &StreamHead),
        (body, entries): (&ReadReplyBody, ReadEntries<'_>),
    ) {
        let (first, count) = (body.first_sequence.get(), u64::from(body.entries.get()));
        // What is late of a stream that ended in TRIMMED does not make it go on.
        if body.request_id.get() != self.stream || round > u64::from(self.round) || self.trimmed.is_some() {
            self.counters.foreign += 1;
            return;
        }
        if first == 0 {
            self.counters.malformed += 1;
            return;
        }
        self.heard(now_ns, from);
        let tail = Sequence(body.tail.get());
        self.tail = Some(self.tail.map_or(tail, |known| known.max(tail)));
        if head.cookie.get() != self.cookie {
            self.cookie = head.cookie.get();
            self.must_send = true;
        }
        if count > 0 {
            self.hold(first, first + count, entries.as_bytes());
        }
        if round == u64::from(self.round) {
            self.position = self.position.max(head.position.get());
            self.expected = self.expected.max(first + count);
        }
        let gap = self.held.covered() < self.expected;
        self.gap_since_ns = gap.then(|| self.gap_since_ns.unwrap_or(now_ns));
        self.leave_if_cut_off(now_ns, body);
    }

    fn leave_if_cut_off(&mut self, now_ns: u64, body: &ReadReplyBody) {
        let cut_off = body.mode != Mode::Target as u8 && self.held.covered() > body.tail.get();
        self.cut_off_since_ns = cut_off.then(|| self.cut_off_since_ns.unwrap_or(now_ns));
        if self.cut_off_since_ns.is_some_and(|since_ns| now_ns >= since_ns + CUT_OFF_NS)
            && !mutant("subscriber_stays_with_a_node_cut_off")
        {
            self.move_on(now_ns);
        }
    }

    fn hold(&mut self, first: u64, end: u64, bytes: &[u8]) {
        match self.held.hold(first, end, bytes) {
            Kept::New => {}
            Kept::Known => self.counters.duplicates += 1,
            Kept::Full | Kept::Displaced => self.counters.overruns += 1,
        }
    }

    fn heard(&mut self, now_ns: u64, from: SocketAddrV4) {
        self.last_contact_ns = Some(now_ns);
        self.route.settle(from);
        if let Some((asked_ns, _)) = self.asked.take() {
            match self.silences {
                0 => self.timeout.sample(now_ns.saturating_sub(asked_ns)),
                _ => self.timeout.progress(),
            }
        }
        self.silences = 0;
    }

    fn on_end(&mut self, now_ns: u64, from: SocketAddrV4, body: &StreamEndBody, reason: StreamEnd) {
        if body.stream.get() != self.stream || body.round.get() != self.round {
            self.counters.foreign += 1;
            return;
        }
        self.last_contact_ns = Some(now_ns);
        self.counters.ends += 1;
        self.last_end = Some((from, reason));
        match reason {
            // Until there is room, the same would come of it again.
            StreamEnd::Slow => {
                self.asked = None;
                self.waits_for_room = true;
            }
            StreamEnd::Trimmed if body.next.get() > self.held.covered() => {
                self.trimmed = Some(Sequence(body.next.get()));
            }
            StreamEnd::TimedOut | StreamEnd::Closed | StreamEnd::Trimmed => self.begin_round(),
            StreamEnd::TooMany
            | StreamEnd::Recovering
            | StreamEnd::Shutdown
            | StreamEnd::Unreadable
            | StreamEnd::Halted => self.move_on(now_ns),
        }
    }
}

#[cfg(test)]
#[path = "subscribe_tests.rs"]
mod tests;
