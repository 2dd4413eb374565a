//! Streams: subscribers that are sent what is applied here, as it is, without asking for each piece.
//!
//! A subscriber says how many datagrams it may be sent, and is sent no more. What is recent comes from the arena, what is old
//! from housekeeping, one job a subscriber. All of it happens at the end of a turn, after commits had what they need, in turns
//! from subscriber to subscriber and within [`TURN_BYTES`]; nothing is queued for one that is slow, for the log is the queue:
//! it is dropped, with the reason, and may come back for what it misses.
//!
//! Who has not shown that it hears at its address holds no place in the table: see [`synod_wire::stream`]. The cookie is a hash
//! of the address and the stream with a secret of the process, so that nothing is kept to know it again.

use super::events::EventKind;
use super::jobs::{Done, Job, MAX_JOB_BLOCKS};
use super::live::ClientSettings;
use super::reply::{Label, ReadRequest};
use super::{Fatal, Shard, clients::put};
use crate::index::Lacks;
use std::collections::VecDeque;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddrV4;
use synod_paxos::Role;
use synod_ring::Io;
use synod_wal::LogError;
use synod_wire::client::{Counter, ReadBody, ReadReplyBody};
use synod_wire::frame::{HEADER_BYTES, Header, Kind, checksum, write_header};
use synod_wire::guarantee::Recency;
use synod_wire::mutant::mutant;
use synod_wire::stream::{StreamEnd, StreamEndBody, StreamHead, SubscribeBody};
use synod_wire::{Sequence, Slot};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Subscribers of a group at one node by default; one more is told TOO_MANY.
pub const MAX_SUBSCRIBERS: usize = 64;
/// A subscriber that is silent for so long is dropped by default: thirty times what the client library lets pass.
pub const SILENCE_NS: u64 = 3_000_000_000;
/// One that lets entries wait for so long without giving credit for them is dropped by default.
pub(super) const STARVED_NS: u64 = 2_000_000_000;
/// Bytes of entries that a turn sends to all subscribers; past it the last datagram is still whole. Some twenty datagrams of an
/// Ethernet frame: less time than a write to the log takes.
const TURN_BYTES: usize = 32 << 10;
/// A subscriber that was served when what it has not had yet was trimmed goes on for so long; only then is it removed from this
/// node's disk.
const TRIMMED_GRACE_NS: u64 = 10_000_000_000;
/// Datagrams that a subscriber may be owed, whatever credit it names.
const MAX_CREDIT: u64 = 1_024;
/// Jobs for subscribers that are out at once: the others are for readers and members that lag behind.
const MAX_STREAM_JOBS: usize = 4;
/// Datagrams that one of them brings.
pub const JOB_DATAGRAMS: u16 = 8;
/// What housekeeping could not take, or the disk does not have yet, is asked for again after this.
const RETRY_NS: u64 = 20_000_000;

/// Bytes in front of a datagram's [`ReadReplyBody`].
pub(super) const HEAD_BYTES: usize = size_of::<StreamHead>();

/// Which beginning of which stream a job is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ticket {
    to: SocketAddrV4,
    stream: u64,
    round: u32,
}

/// What housekeeping read for a subscriber: its datagrams without their heads.
pub type StreamRead = Result<Vec<Vec<u8>>, LogError>;

#[derive(Debug)]
struct Subscriber {
    to: SocketAddrV4,
    stream: u64,
    round: u32,
    /// The first sequence that was not sent.
    next: Sequence,
    /// The last position sent, and the highest that may be.
    sent: u64,
    credit: u64,
    heard_ns: u64,
    /// Since when entries wait for credit.
    starved_ns: Option<u64>,
    /// Since when what comes next is trimmed.
    trimmed_ns: Option<u64>,
    /// It has said something, and is owed a word.
    owed: bool,
    reading: bool,
    /// What housekeeping read for it.
    read: VecDeque<Vec<u8>>,
    /// Housekeeping is not asked before this.
    retry_ns: u64,
    /// How often it has read nothing of what comes next.
    in_vain: u32,
}

/// So many reads of the log that bring nothing show damage: another member may have what this one lacks.
const MAX_READS_IN_VAIN: u32 = 4;

/// Bytes of one of them.
pub const SUBSCRIBER_BYTES: usize = size_of::<Subscriber>();

/// A stream that was ended: whoever lost the word hears it again.
#[derive(Clone, Copy, Debug)]
struct Ended {
    ticket: Ticket,
    next: Sequence,
    reason: StreamEnd,
}

/// The subscribers of a group.
#[derive(Debug)]
pub(super) struct Streams {
    secret: u64,
    all: Vec<Subscriber>,
    /// Whose turn is first.
    first: usize,
    /// The last ones that were ended, as many as may be served.
    ended: VecDeque<Ended>,
    jobs: usize,
    served_tail: Sequence,
    /// Something may be sent though the tail has not moved.
    woken: bool,
    due_ns: u64,
}

impl Streams {
    pub(super) fn new(secret: u64, most: usize) -> Streams {
        Streams {
            secret,
            all: Vec::with_capacity(most),
            first: 0,
            ended: VecDeque::with_capacity(most),
            jobs: 0,
            served_tail: Sequence::ZERO,
            woken: false,
            due_ns: u64::MAX,
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// What can be read has changed.
    pub(super) fn wake(&mut self) {
        self.woken = !self.all.is_empty();
    }

    /// When the next turn is due for their sake.
    pub(super) fn next_ns(&self) -> u64 {
        match () {
            () if self.all.is_empty() => u64::MAX,
            () if self.woken => 0,
            () => self.due_ns,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.all.len()
    }

    /// Datagrams that may be sent before there is more credit: to all together, and to the one with the least.
    pub(super) fn credit(&self) -> (u64, u64) {
        let left = || self.all.iter().map(|one| one.credit.saturating_sub(one.sent));
        (left().sum(), left().min().unwrap_or(0))
    }

    /// What shows that a subscriber hears at its address.
    fn cookie(&self, to: SocketAddrV4, stream: u64) -> u64 {
        let mut hasher = DefaultHasher::new();
        (self.secret, to, stream, self.secret).hash(&mut hasher);
        hasher.finish().max(1)
    }

    fn find(&self, to: SocketAddrV4, stream: u64) -> Option<usize> {
        self.all.iter().position(|one| one.stream == stream && one.to == to)
    }

    fn due(&mut self, at_ns: u64) {
        self.due_ns = self.due_ns.min(at_ns);
    }
}

impl Subscriber {
    fn new(to: SocketAddrV4, body: &SubscribeBody) -> Subscriber {
        let mut new = Subscriber {
            to,
            stream: body.stream.get(),
            round: 0,
            next: Sequence::ZERO,
            sent: 0,
            credit: 0,
            heard_ns: 0,
            starved_ns: None,
            trimmed_ns: None,
            owed: false,
            reading: false,
            read: VecDeque::new(),
            retry_ns: 0,
            in_vain: 0,
        };
        new.begin(body);
        new
    }

    /// Begins a round.
    fn begin(&mut self, body: &SubscribeBody) {
        if mutant("stream_ignores_going_back") && self.next.0 > body.next.get() {
            self.round = body.round.get();
            return;
        }
        self.round = body.round.get();
        self.next = Sequence(body.next.get());
        self.sent = body.received.get();
        self.credit = self.sent;
        self.read.clear();
        self.retry_ns = 0;
        self.in_vain = 0;
    }

    /// Takes what a subscriber says; false if it is late.
    fn hear(&mut self, body: &SubscribeBody, now_ns: u64) -> bool {
        if body.round.get() < self.round {
            return false;
        }
        if body.round.get() > self.round {
            self.begin(body);
        }
        self.credit = self.credit.max(body.credit.get()).min(self.sent.saturating_add(MAX_CREDIT));
        self.heard_ns = now_ns;
        self.owed = true;
        true
    }

    fn ticket(&self) -> Ticket {
        Ticket { to: self.to, stream: self.stream, round: self.round }
    }

    /// Why it is dropped now, if it is.
    fn is_over(&mut self, now_ns: u64, tail: Sequence, first: Sequence, clients: &ClientSettings) -> Option<StreamEnd> {
        if mutant("subscriber_never_dropped") {
            return None;
        }
        if now_ns >= self.heard_ns + clients.silence_ns {
            return Some(StreamEnd::TimedOut);
        }
        if self.in_vain >= MAX_READS_IN_VAIN {
            return Some(if self.next < first { StreamEnd::Trimmed } else { StreamEnd::Unreadable });
        }
        self.trimmed_ns = (self.next < first).then(|| self.trimmed_ns.unwrap_or(now_ns));
        if self.trimmed_ns.is_some_and(|since_ns| now_ns >= since_ns + TRIMMED_GRACE_NS) {
            return Some(StreamEnd::Trimmed);
        }
        if self.next > tail || self.sent < self.credit {
            self.starved_ns = None;
            return None;
        }
        let since_ns = *self.starved_ns.get_or_insert(now_ns);
        (now_ns >= since_ns + clients.starved_ns).then_some(StreamEnd::Slow)
    }
}

/// Datagrams of a stream as they are sent: where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sending {
    pub(super) to: SocketAddrV4,
    cookie: u64,
    round: u32,
    position: u64,
    next: u64,
    bytes: usize,
}

impl Sending {
    /// Puts the head and the body of the next datagram; `None`: it is empty, and not sent.
    pub(super) fn put(&mut self, body: &[u8], out: &mut [u8]) -> Option<usize> {
        let (head, _) = ReadReplyBody::read_from_prefix(body).ok()?;
        if head.entries.get() == 0 {
            return None;
        }
        self.position += 1;
        self.next = head.first_sequence.get() + u64::from(head.entries.get());
        let bytes = self.put_head(out);
        let bytes = bytes + put(body, &mut out[bytes..]);
        self.bytes += HEADER_BYTES + bytes;
        Some(bytes)
    }

    /// The header of its datagrams.
    pub(super) fn header(&self, header: Header) -> Header {
        Header { slot: Slot(self.round.into()), ..header }
    }

    fn put_head(&self, out: &mut [u8]) -> usize {
        let head = StreamHead { cookie: U64::new(self.cookie), position: U64::new(self.position) };
        put(head.as_bytes(), out)
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// A subscriber says what it has and wants.
    pub(super) fn on_subscribe(&mut self, to: SocketAddrV4, body: &SubscribeBody) {
        let (stream, now_ns) = (body.stream.get(), self.io.now_ns());
        let ticket = Ticket { to, stream, round: body.round.get() };
        let next = Sequence(body.next.get());
        if body.cookie.get() != self.streams.cookie(to, stream) {
            if let Ok(label) = self.read_label(Recency::StalePossible) {
                self.send_word(ticket, body.received.get(), next, label);
            }
            return;
        }
        let at = self.streams.find(to, stream);
        if body.leaves == 1 {
            match at {
                Some(at) => drop(self.end_stream(at, StreamEnd::Closed)),
                None => drop(self.send_end(ticket, next, StreamEnd::Closed)),
            }
            return;
        }
        if let Some(at) = at {
            self.streams.woken |= self.streams.all[at].hear(body, now_ns);
            return;
        }
        if let Some(ended) = self.streams.ended.iter().find(|ended| ended.ticket == ticket).copied() {
            self.send_end(ticket, ended.next, ended.reason);
        } else if self.stands_still() {
            self.send_end(ticket, next, StreamEnd::Halted);
        } else if self.read_label(Recency::StalePossible).is_err() {
            self.send_end(ticket, next, StreamEnd::Recovering);
        } else if next < self.machine.first() {
            self.send_end(ticket, self.machine.first(), StreamEnd::Trimmed);
        } else if self.streams.all.len() >= self.settings.clients.max_subscribers {
            self.counters.add(Counter::RefusedBusy, 1);
            self.send_end(ticket, next, StreamEnd::TooMany);
        } else {
            let mut subscriber = Subscriber::new(to, body);
            subscriber.hear(body, now_ns);
            self.streams.all.push(subscriber);
            self.streams.woken = true;
        }
    }

    /// Whether nothing will be applied here any more: who subscribes would wait in vain.
    fn stands_still(&self) -> bool {
        self.core.role() == Role::Halted || self.core.waits_to_be_added()
    }

    /// Sends subscribers what they may have; a bounded piece of it each turn.
    pub(super) fn serve_streams(&mut self) {
        if self.streams.is_empty() {
            return;
        }
        let (tail, now_ns) = (self.streamed_tail(), self.io.now_ns());
        // What is delivered may not be applied: nobody is shown anything before the recovery that is about to come.
        let idle = tail == self.streams.served_tail && !self.streams.woken && now_ns < self.streams.due_ns;
        if idle || self.recover_again {
            return;
        }
        (self.streams.served_tail, self.streams.woken, self.streams.due_ns) = (tail, false, u64::MAX);
        if self.stands_still() {
            return self.end_streams(StreamEnd::Halted);
        }
        let Ok(label) = self.read_label(Recency::StalePossible) else {
            return self.end_streams(StreamEnd::Recovering);
        };
        let first = self.machine.first();
        let mut left = TURN_BYTES;
        let mut at = self.streams.first;
        for _ in 0..self.streams.all.len() {
            at = if at < self.streams.all.len() { at } else { 0 };
            if left == 0 {
                self.streams.woken = true;
                break;
            }
            match self.streams.all[at].is_over(now_ns, tail, first, &self.settings.clients) {
                // Its place is another's now.
                Some(reason) if self.end_stream(at, reason) => {}
                Some(_) => self.streams.woken = true,
                None => {
                    self.serve_subscriber(at, tail, label, &mut left);
                    at += 1;
                }
            }
        }
        self.streams.first = at;
    }

    /// How far subscribers are served: what is applied.
    fn streamed_tail(&self) -> Sequence {
        let ahead = if mutant("stream_beyond_applied") { 64 } else { 0 };
        Sequence(self.machine.tail().0 + ahead)
    }

    fn serve_subscriber(&mut self, at: usize, tail: Sequence, label: Label, left: &mut usize) {
        let now_ns = self.io.now_ns();
        let one = &mut self.streams.all[at];
        let (ticket, before) = (one.ticket(), one.sent);
        let cookie = self.streams.cookie(self.streams.all[at].to, ticket.stream);
        loop {
            let one = &mut self.streams.all[at];
            if one.next > tail || one.sent == one.credit {
                break;
            }
            if *left == 0 {
                self.streams.woken = true;
                break;
            }
            let sending =
                Sending { to: one.to, cookie, round: one.round, position: one.sent, next: one.next.0, bytes: 0 };
            let sent = match one.read.pop_front() {
                Some(body) => self.send_read_before(sending, body, label),
                None if one.reading || now_ns < one.retry_ns => break,
                None => self.send_recent(sending, at, label, *left),
            };
            let Some(sent) = sent else {
                self.read_for(at, now_ns);
                break;
            };
            let one = &mut self.streams.all[at];
            let stuck = sent.position == one.sent;
            (one.sent, one.next) = (sent.position, Sequence(sent.next));
            *left = left.saturating_sub(sent.bytes);
            self.counters.add(Counter::StreamBytes, sent.bytes as u64);
            if stuck {
                // The outbox is full, or what comes next has no place yet.
                self.streams.all[at].retry_ns = now_ns + RETRY_NS;
                break;
            }
        }
        let (silence_ns, starved_ns) = (self.settings.clients.silence_ns, self.settings.clients.starved_ns);
        let one = &mut self.streams.all[at];
        let due_ns = one.starved_ns.map_or(u64::MAX, |since_ns| since_ns + starved_ns);
        let retry_ns = if one.retry_ns > now_ns { one.retry_ns } else { u64::MAX };
        let trimmed_ns = one.trimmed_ns.map_or(u64::MAX, |since_ns| since_ns + TRIMMED_GRACE_NS);
        if one.trimmed_ns.is_some() && one.next >= self.machine.first() {
            self.front.changed();
        }
        let due_ns = due_ns.min(trimmed_ns).min(one.heard_ns + silence_ns).min(retry_ns);
        let (owed, next, sent) = (std::mem::take(&mut one.owed), one.next, one.sent);
        if owed && before == sent {
            self.send_word(ticket, sent, next, label);
        }
        self.streams.due(due_ns);
        // What was sent last may have taken the last credit: then it starves from now on.
        let one = &mut self.streams.all[at];
        if one.next <= tail && one.sent == one.credit && one.starved_ns.is_none() {
            one.starved_ns = Some(now_ns);
            self.streams.due(now_ns + starved_ns);
        }
    }

    /// Sends what the arena has from where a subscriber is, as far as its credit and the turn go; `None`: it has it no more.
    fn send_recent(&mut self, mut sending: Sending, at: usize, label: Label, left: usize) -> Option<Sending> {
        let one = &self.streams.all[at];
        let most = left.div_ceil(self.settings.max_datagram_bytes()).min((one.credit - one.sent) as usize);
        let request = request(one, u16::try_from(most).unwrap_or(u16::MAX));
        self.serve_from_memory(&request, label, Some(&mut sending)).then_some(sending)
    }

    /// Sends a datagram that housekeeping read.
    fn send_read_before(&mut self, mut sending: Sending, mut body: Vec<u8>, label: Label) -> Option<Sending> {
        label.stamp(&mut body);
        let header = sending.header(self.header(Kind::StreamData));
        if let Some(out) = self.outbox.room()
            && let Some(bytes) = sending.put(&body, &mut out[HEADER_BYTES..])
        {
            let crc = checksum(&out[HEADER_BYTES..HEADER_BYTES + bytes]);
            write_header(out, &header, bytes, crc);
            self.outbox.send_client(&mut self.io, sending.to, HEADER_BYTES + bytes);
        }
        Some(sending)
    }

    /// Asks housekeeping for what the arena has no more.
    fn read_for(&mut self, at: usize, now_ns: u64) {
        let one = &self.streams.all[at];
        let ticket = one.ticket();
        let request = request(one, JOB_DATAGRAMS.min(u16::try_from(one.credit - one.sent).unwrap_or(u16::MAX)));
        // Not on this node any more, or never: no read brings it.
        let lacks = self.index.block_of_sequence(request.from()) == Err(Lacks::Trimmed);
        let asked = self.streams.jobs < MAX_STREAM_JOBS
            && self.index.block_of_sequence(request.from()).is_ok_and(|block| {
                let mut range = self.range(block, MAX_JOB_BLOCKS);
                range.max_datagram_bytes -= HEAD_BYTES;
                self.ask(Job::Stream(ticket, request, range))
            });
        self.streams.jobs += usize::from(asked);
        let one = &mut self.streams.all[at];
        one.reading = asked;
        if lacks {
            one.in_vain = MAX_READS_IN_VAIN;
            self.streams.due(now_ns);
        } else if !asked {
            one.retry_ns = now_ns + RETRY_NS;
        }
    }

    /// Housekeeping has read for a subscriber, which may have gone, or begun anew, meanwhile.
    pub(super) fn on_stream_read(&mut self, ticket: Ticket, found: StreamRead) {
        self.jobs_out -= 1;
        self.streams.jobs -= 1;
        let retry_ns = self.io.now_ns() + RETRY_NS;
        let bodies = found.unwrap_or_default();
        let Some(at) = self.streams.find(ticket.to, ticket.stream) else { return };
        let one = &mut self.streams.all[at];
        one.reading = false;
        self.streams.woken = true;
        let one = &mut self.streams.all[at];
        if one.round != ticket.round {
            return;
        }
        one.read.extend(bodies.into_iter().filter(|body| holds_entries(body)));
        if one.read.is_empty() {
            (one.retry_ns, one.in_vain) = (retry_ns, one.in_vain + 1);
        } else {
            one.in_vain = 0;
        }
    }

    /// An empty datagram: what will come next, and what the subscriber is to show.
    fn send_word(&mut self, ticket: Ticket, position: u64, next: Sequence, label: Label) {
        let to = ticket.to;
        let cookie = self.streams.cookie(to, ticket.stream);
        let sending = Sending { to, cookie, round: ticket.round, position, next: next.0, bytes: 0 };
        let body = ReadReplyBody {
            request_id: U64::new(ticket.stream),
            first_sequence: U64::new(next.0),
            tail: U64::new(self.machine.tail().0),
            entries: U16::ZERO,
            last: 0,
            mode: label.mode as u8,
            guarantee: label.guarantee.encode(),
        };
        let header = sending.header(self.header(Kind::StreamData));
        self.reply_with(to, &header, |out| {
            let head = sending.put_head(out);
            head + put(body.as_bytes(), &mut out[head..])
        });
    }

    /// Drops a subscriber with the reason; false if there is no room to say it in this turn: then it stays.
    fn end_stream(&mut self, at: usize, reason: StreamEnd) -> bool {
        let one = &self.streams.all[at];
        let (ticket, next) = (one.ticket(), if reason == StreamEnd::Trimmed { self.machine.first() } else { one.next });
        self.front.changed();
        if !mutant("subscriber_dropped_silently") && !self.send_end(ticket, next, reason) {
            return false;
        }
        match reason {
            StreamEnd::Slow => self.counters.add(Counter::StreamsSlow, 1),
            StreamEnd::TimedOut => self.counters.add(Counter::StreamsTimedOut, 1),
            StreamEnd::TooMany
            | StreamEnd::Recovering
            | StreamEnd::Shutdown
            | StreamEnd::Closed
            | StreamEnd::Trimmed
            | StreamEnd::Unreadable
            | StreamEnd::Halted => {}
        }
        self.streams.all.swap_remove(at);
        if !matches!(reason, StreamEnd::Closed | StreamEnd::Shutdown) {
            let (ip, port) = (u32::from(*ticket.to.ip()).into(), ticket.to.port().into());
            self.note(EventKind::SubscriberDropped, (0, 0, reason as u8), [ip, port, next.0, 0]);
        }
        if self.streams.ended.len() >= self.settings.clients.max_subscribers {
            self.streams.ended.pop_front();
        }
        self.streams.ended.push_back(Ended { ticket, next, reason });
        true
    }

    /// The first sequence that a subscriber is still to be sent, if there is one.
    pub(super) fn first_streamed(&self) -> Option<Sequence> {
        self.streams.all.iter().map(|one| one.next).min()
    }

    /// Drops all of them.
    pub(super) fn end_streams(&mut self, reason: StreamEnd) {
        for at in (0..self.streams.all.len()).rev() {
            // What finds no room is said in the next turn.
            self.streams.woken |= !self.end_stream(at, reason);
        }
    }

    /// Before a node ends: its subscribers go on elsewhere at once. What they are told leaves with one last poll.
    pub(super) fn leave_subscribers(&mut self) -> Result<(), Fatal> {
        if self.streams.is_empty() {
            return Ok(());
        }
        self.end_streams(StreamEnd::Shutdown);
        self.hand_on();
        self.poll_at_end(self.io.now_ns(), false)?;
        Ok(())
    }

    fn send_end(&mut self, ticket: Ticket, next: Sequence, reason: StreamEnd) -> bool {
        if self.outbox.room().is_none() {
            return false;
        }
        let body = StreamEndBody {
            stream: U64::new(ticket.stream),
            next: U64::new(next.0),
            round: U32::new(ticket.round),
            reason: reason as u8,
            mode: self.modes.mode() as u8,
            reserved: [0; 2],
        };
        self.reply(ticket.to, Kind::StreamEnd, |out| put(body.as_bytes(), out));
        true
    }

    /// The streams of the table, for inspection.
    pub fn streams(&self) -> impl Iterator<Item = u64> + '_ {
        self.streams.all.iter().map(|one| one.stream)
    }
}

fn holds_entries(body: &[u8]) -> bool {
    ReadReplyBody::read_from_prefix(body).is_ok_and(|(head, _)| head.entries.get() > 0)
}

/// What a subscriber is to be sent, as the read that it stands for.
fn request(one: &Subscriber, max_datagrams: u16) -> ReadRequest {
    let body = ReadBody {
        request_id: U64::new(one.stream),
        from_sequence: U64::new(one.next.0),
        max_entries: U32::new(u32::MAX),
        max_datagrams: U16::new(max_datagrams),
        wait_ms: U16::ZERO,
        bound_ms: U32::ZERO,
        consistency: 0,
        reserved: [0; 3],
    };
    ReadRequest { to: one.to, body, recency: Recency::StalePossible }
}
