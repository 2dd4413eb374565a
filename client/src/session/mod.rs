//! The session: a sans-I/O core that appends entries to one group, first in first out, each at most once.
//!
//! Reads no clock, opens no socket, starts no thread; after [`Core::new`] it allocates nothing. Called by
//! [`crate::Client`] and by whoever drives it in a test or a simulator; [`replies`] holds what datagrams do to it.
//!
//! *Window.* Entries wait in [`Window`]; `next_send` is a go-back-N cursor in it. In flight are those from the first
//! unacknowledged one up to the cursor; they are bounded by the server's credit and by `burst`, which halves on BUSY,
//! falls to one after a time-out, and grows with acknowledgements.
//!
//! *Gaps.* A server takes runs in order only, so a lost or overtaken datagram moves the cursor back to what the server
//! wants next, and everything behind it goes again. Each datagram that was under way meanwhile is refused, too, and so
//! may be each one of the second try: without a bound, a network that reorders turns every refusal into a whole window
//! of datagrams. So the cursor goes back once in a round trip for what that covers, a gap reported meanwhile is looked
//! at again when the answer is overdue, and `burst` halves if the try before was in vain.
//!
//! *Lost acknowledgements.* The server answers a session in order. So where an entry is acknowledged that left after one that is
//! not, the answer to the latter is lost or late: after a quarter of a round trip its run goes again, alone, and the server answers
//! from its table (after RACK, RFC 8985). The cursor does not move for that.
//!
//! *Time.* One timer: armed while something is in flight, re-armed when the first unacknowledged entry moves. When it
//! expires the cursor goes back to that entry; the second time in a row the next member is asked.

#[cfg(test)]
mod condition_tests;
mod replies;
#[cfg(test)]
mod tests;

use crate::condition::{Condition, Unmet};
use crate::options::{Options, OptionsError, check_members, entry_limit_of_run, nanos};
use crate::receipt::Receipt;
use crate::reply::finish_request;
use crate::retransmit::{Jitter, Timeout, pause_ns};
use crate::route::Route;
use crate::window::{AckedRun, Placed, Window};
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::ops::Range;
use synod_wire::batch::{RUN_HEADER_BYTES, RunBuilder, RunKind};
use synod_wire::client::{Durability, Refusal};
use synod_wire::frame::{HEADER_BYTES, Kind, flags};
use synod_wire::guarantee::Guarantee;
use synod_wire::{ClusterId, GroupId, NodeId, Sequence};

/// What happened. Every offered entry is in exactly one `Acked`, `NotAppended` or `Unknown`, and these come in order of
/// `client_seq`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The session is open. Comes first, once.
    Opened {
        /// The session's number: with it a client that comes back resumes this session and no other ([`crate::Resume::Session`]).
        session: u64,
        /// The last client sequence committed under this client id; 0 for a new session.
        last_committed: u64,
        /// The most entries in flight that the server grants.
        credit: u32,
        /// The longest entry that can be offered from now on.
        max_entry_bytes: usize,
    },
    /// Entries `client_seq..client_seq + entries` have the sequences from `sequence`.
    Acked {
        /// The client's sequence of the first.
        client_seq: u64,
        /// Its place in the group's total order.
        sequence: Sequence,
        /// The leader's timestamp of all of them, nanoseconds since the Unix epoch.
        timestamp_ns: u64,
        /// What the acknowledgement rests on.
        durability: Durability,
        /// What it promises.
        guarantee: Guarantee,
        /// How many; at least 1.
        entries: u32,
    },
    /// Entries `client_seq..client_seq + entries` were not appended, and never will be: their condition was not met when their
    /// turn came. The session goes on behind them.
    NotAppended {
        /// The client's sequence of the first.
        client_seq: u64,
        /// Why.
        unmet: Unmet,
        /// The timestamp of the decision, nanoseconds since the Unix epoch.
        timestamp_ns: u64,
        /// What the decision rests on.
        durability: Durability,
        /// What it promises: it is as final as an append.
        guarantee: Guarantee,
        /// How many; at least 1.
        entries: u32,
    },
    /// Where the time of a run went on the leader, if [`Options::receipts`] asks. Comes before its entries' `Acked`, and is of
    /// no consequence: an acknowledgement that was lost and came again from the session table has none.
    Receipt(Receipt),
    /// The session closed before these entries were acknowledged. Those that were sent may have been sequenced, or be sequenced
    /// yet: opened again, the session says which were.
    Unknown {
        /// The first one's client sequence.
        first: u64,
        /// The last one's.
        last: u64,
    },
    /// The server no longer knows the session. It is closed; this is its last event.
    SessionLost,
    /// A refusal that retrying does not mend. The session is closed; this is its last event.
    Refused {
        /// Why.
        refusal: Refusal,
        /// What the refusal says: for `TooLarge` the limit of an entry in bytes.
        detail: u64,
    },
}

/// Why an entry was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OfferError {
    /// No room until events were polled, or acknowledgements come.
    #[error("the window of the session is full: poll its events, or raise window_entries or window_bytes")]
    Full,
    /// The format has no empty entries.
    #[error("an entry must hold at least one byte")]
    Empty,
    /// Longer than an entry can be.
    #[error("the entry is longer than {limit_bytes} bytes, the most that one datagram and the server allow")]
    TooLarge {
        /// The longest entry.
        limit_bytes: usize,
    },
    /// The session is over.
    #[error("the session is closed: {0}")]
    Closed(CloseReason),
}

/// Why a session is over. There is no way back: a new [`Core`] with the same client id goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CloseReason {
    /// The oldest entry passed its deadline.
    #[error("an entry passed its deadline without an answer; reopen with the same client id to learn its outcome")]
    DeadlinePassed,
    /// The server evicted the session.
    #[error("the server evicted it; open one with a new client id")]
    SessionEvicted,
    /// The server refused for good.
    #[error("the server refused for good: {} ({detail})", refusal.name())]
    Refused {
        /// Why.
        refusal: Refusal,
        /// As in [`Event::Refused`].
        detail: u64,
    },
}

/// What a session counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Datagrams handed out to be sent.
    pub datagrams_sent: u64,
    /// Entries sent again.
    pub entries_resent: u64,
    /// Retransmission timeouts.
    pub timeouts: u64,
    /// Refusals taken notice of.
    pub refusals: u64,
    /// Datagrams or frames that are not what they should be.
    pub malformed: u64,
    /// From an unknown address, or of another cluster, group or session.
    pub foreign: u64,
    /// Answers overtaken by events: from a node no longer asked, or about what is settled.
    pub stale: u64,
    /// Acknowledgements that contradict an earlier one. Anything but 0 is a fault of the server.
    pub conflicting_acks: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Opening,
    Open,
    Closed(CloseReason),
}

/// A session of one client with one group, without I/O.
///
/// Call [`Core::poll_transmit`] until it yields `None`, then wait for a datagram ([`Core::handle`]) or for
/// [`Core::poll_timeout`], and take events with [`Core::poll_event`] until that yields `None`; an entry's place in the
/// window is free once its event was taken.
///
/// # Resuming
///
/// Client sequences start at `last_committed + 1`, where [`Event::Opened`] tells `last_committed`. Entries offered
/// before that event are numbered from 1 by [`Core::offer`]; on opening what precedes them is added, so for a new client
/// id nothing changes. A client that comes back with the same id must first wait for `Opened`, and then offer *the
/// entries that it had offered before* from `last_committed + 1` on, in the same order: datagrams of the earlier
/// incarnation may still be under way, and whichever copy of an entry arrives first is sequenced under its client
/// sequence. A client that cannot repeat its entries takes a new id.
///
/// With [`Options::repeat_decided`] it begins earlier, at what [`Core::next_client_seq`] says once the session is open: the server
/// keeps as many outcomes as it grants credit, and each entry that is offered again ends in the event that tells its own. Nothing
/// is decided a second time, whatever is offered in its place and on whatever condition.
///
/// It also names the session by its number ([`crate::Resume::Session`]). The id alone ([`crate::Resume::OrCreate`]) opens a new session if
/// the old one was evicted meanwhile; that one has committed nothing, and a client that took its word for it would append a
/// second time what the old one had appended.
#[derive(Debug)]
pub struct Core {
    cluster: ClusterId,
    group: GroupId,
    client_id: u128,
    /// The session's number, once it is open.
    session: Option<u64>,
    options: Options,
    phase: Phase,
    route: Route,
    window: Window,
    /// The cursor: the next entry to send.
    next_send: u64,
    /// Above every entry ever sent.
    sent_end: u64,
    timeout: Timeout,
    jitter: Jitter,
    /// When what is in flight counts as lost.
    timer_ns: Option<u64>,
    /// Nothing is sent before this.
    pause_until_ns: u64,
    /// Timer expiries in a row without a word from the target.
    silences: u32,
    /// When OpenSession left, if once only.
    open_sent: OpenSent,
    /// The server's credit, at least 1.
    credit: u64,
    /// See the module.
    burst: u64,
    max_run_bytes: usize,
    max_entry_bytes: usize,
    /// The last RESEND_FROM obeyed, until something is acknowledged or given up.
    went_back: Option<WentBack>,
    /// When the youngest of the acknowledged entries left that were sent once only, and its client sequence.
    youngest_acked: (u64, u64),
    /// The first unacknowledged entry was overtaken: its client sequence, and when its run goes again.
    overtaken: Option<(u64, u64)>,
    /// Entries that go again ahead of the cursor.
    repair: Range<u64>,
    last_committed: Option<u64>,
    opened_event: Option<Event>,
    /// Receipts not yet reported, in the order they came; as many as entries fit the window.
    receipts: VecDeque<Receipt>,
    last_event: Option<Event>,
    last_refusal: Option<(SocketAddrV4, Refusal)>,
    last_contact_ns: Option<u64>,
    counters: Counters,
}

/// The cursor went back for a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct WentBack {
    /// What the server wanted next.
    from: u64,
    /// Above everything that goes again by it.
    upto: u64,
    at_ns: u64,
    /// What the server said last that it wants, too soon after `at_ns` to tell whether it knew of the second try.
    again: Option<u64>,
}

/// How often OpenSession was sent, as far as Karn's rule asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum OpenSent {
    Never,
    Once(u64),
    Repeatedly,
}

impl Core {
    /// A session about to open. `members` are the nodes' client addresses; they are asked in this order.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        client_id: u128,
        members: Vec<(NodeId, SocketAddrV4)>,
        options: Options,
        now_ns: u64,
    ) -> Result<Core, OptionsError> {
        options.validate()?;
        check_members(members.len())?;
        if client_id == 0 {
            return Err(OptionsError::ZeroClientId);
        }
        let seed = options.seed ^ (client_id as u64) ^ ((client_id >> 64) as u64);
        Ok(Core {
            cluster,
            group,
            client_id,
            session: None,
            phase: Phase::Opening,
            route: Route::new(members.into_iter().map(|(_, address)| address).collect()),
            window: Window::new(options.window_entries, options.window_bytes),
            next_send: 1,
            sent_end: 1,
            timeout: Timeout::new(options.retransmit_initial_us, options.retransmit_min_us, options.retransmit_max_us),
            jitter: Jitter::new(seed),
            timer_ns: None,
            pause_until_ns: now_ns,
            silences: 0,
            open_sent: OpenSent::Never,
            credit: 1,
            burst: options.window_entries as u64,
            max_run_bytes: options.max_payload_bytes(),
            max_entry_bytes: options.max_entry_bytes(),
            went_back: None,
            youngest_acked: (0, 0),
            overtaken: None,
            repair: 0..0,
            last_committed: None,
            opened_event: None,
            receipts: VecDeque::with_capacity(if options.receipts { options.window_entries } else { 0 }),
            last_event: None,
            last_refusal: None,
            last_contact_ns: None,
            counters: Counters::default(),
            options,
        })
    }

    /// Takes a copy of `entry`; returns its client sequence (before [`Event::Opened`]: see [`Core`]). Never blocks.
    pub fn offer(&mut self, entry: &[u8], now_ns: u64) -> Result<u64, OfferError> {
        self.offer_if(entry, Condition::default(), now_ns)
    }

    /// The same for an entry that is appended on a condition, and else ends in [`Event::NotAppended`]. It may be up to
    /// [`CONDITION_BYTES`](synod_wire::batch::CONDITION_BYTES) shorter than others.
    ///
    /// Entries that match a tail leave one a datagram, in order; each is decided on by itself. One whose predecessor is still
    /// under way cannot know the tail that it will find.
    pub fn offer_if(&mut self, entry: &[u8], condition: Condition, now_ns: u64) -> Result<u64, OfferError> {
        if let Phase::Closed(reason) = self.phase {
            return Err(OfferError::Closed(reason));
        }
        if entry.is_empty() {
            return Err(OfferError::Empty);
        }
        let limit_bytes = self.max_entry_bytes.saturating_sub(condition.bytes());
        if entry.len() > limit_bytes {
            return Err(OfferError::TooLarge { limit_bytes });
        }
        let deadline_ns = now_ns.saturating_add(nanos(self.options.deadline));
        self.window.push(entry, condition, deadline_ns).ok_or(OfferError::Full)
    }

    /// Writes the next datagram into `out`, which holds at least `max_datagram_bytes`; returns where it goes and its
    /// length. Call until `None`: that comes after at most a window's entries. Also does what is due at `now_ns`.
    ///
    /// # Panics
    /// If `out` is shorter than `max_datagram_bytes`.
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> Option<(SocketAddrV4, usize)> {
        assert!(out.len() >= self.options.max_datagram_bytes, "the buffer is shorter than the largest datagram");
        self.expire(now_ns);
        if now_ns < self.pause_until_ns || !self.can_send() {
            return None;
        }
        let length = match self.phase {
            Phase::Opening => self.write_open_session(now_ns, out),
            Phase::Open if !self.repair.is_empty() => self.write_repair(now_ns, out),
            Phase::Open => self.write_append(now_ns, out),
            Phase::Closed(_) => unreachable!("a closed session has nothing to send"),
        };
        if self.timer_ns.is_none() {
            self.arm(now_ns);
        }
        self.counters.datagrams_sent += 1;
        Some((self.route.target(), length))
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some(event) = self.opened_event.take() {
            return Some(event);
        }
        if let Some(receipt) = self.receipts.pop_front() {
            return Some(Event::Receipt(receipt));
        }
        if let Some(AckedRun { client_seq, first, entries }) = self.window.take_acked() {
            let Placed { decision, value, timestamp_ns, durability, guarantee } = first;
            let sequence = Sequence(value);
            return Some(match Unmet::of(decision, value) {
                None => Event::Acked { client_seq, sequence, timestamp_ns, durability, guarantee, entries },
                Some(unmet) => Event::NotAppended { client_seq, unmet, timestamp_ns, durability, guarantee, entries },
            });
        }
        if !matches!(self.phase, Phase::Closed(_)) {
            return None;
        }
        match self.window.take_unacked() {
            Some((first, last)) => Some(Event::Unknown { first, last }),
            None => self.last_event.take(),
        }
    }

    /// When to call [`Core::poll_transmit`] next even if no datagram comes; may lie in the past. `None`: never.
    pub fn poll_timeout(&self) -> Option<u64> {
        if matches!(self.phase, Phase::Closed(_)) {
            return None;
        }
        let send_ns = self.can_send().then_some(self.pause_until_ns);
        let overtaken_ns = self.overtaken.map(|(_, due_ns)| due_ns);
        let due_ns = [self.timer_ns, self.window.first_deadline_ns(), send_ns, self.gap_due_ns(), overtaken_ns];
        due_ns.into_iter().flatten().min()
    }

    /// Whether the session is open: it was opened and is not closed.
    pub fn is_open(&self) -> bool {
        self.phase == Phase::Open
    }

    /// Why the session is closed, if it is.
    pub fn closed(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed(reason) => Some(reason),
            _ => None,
        }
    }

    /// The session's number, which [`Event::Opened`] said, or will say.
    pub fn session(&self) -> Option<u64> {
        self.session
    }

    /// What [`Event::Opened`] said, or will say; `None`: the session never opened, so nothing was appended by it.
    pub fn last_committed(&self) -> Option<u64> {
        self.last_committed
    }

    /// Entries offered whose event has not been taken.
    pub fn outstanding(&self) -> u64 {
        self.window.len()
    }

    /// Whether the session is open and all that was offered is answered: nothing that comes from the members is awaited.
    pub(crate) fn is_quiet(&self) -> bool {
        self.is_open() && self.window.first_unacked() == self.window.end()
    }

    /// The client sequence that the next entry offered gets.
    pub fn next_client_seq(&self) -> u64 {
        self.window.end()
    }

    /// The client id.
    pub fn client_id(&self) -> u128 {
        self.client_id
    }

    /// The longest entry that [`Core::offer`] takes.
    pub fn max_entry_bytes(&self) -> usize {
        self.max_entry_bytes
    }

    /// The options that the session was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// How many members the session was given.
    pub fn members(&self) -> usize {
        self.route.members()
    }

    /// The last refusal since the last success, and who sent it.
    pub fn last_refusal(&self) -> Option<(SocketAddrV4, Refusal)> {
        self.last_refusal
    }

    /// The node that last opened the session or acknowledged an entry, until it is given up.
    pub fn leader(&self) -> Option<SocketAddrV4> {
        self.route.leader()
    }

    /// When a member last said anything.
    pub fn last_contact_ns(&self) -> Option<u64> {
        self.last_contact_ns
    }

    /// What was counted.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn in_flight(&self) -> u64 {
        self.next_send - self.window.first_unacked()
    }

    /// The most entries in flight.
    fn flight_limit(&self) -> u64 {
        self.credit.min(self.window.capacity())
    }

    /// Whether there is something to send, pause or not.
    fn can_send(&self) -> bool {
        match self.phase {
            Phase::Opening => self.timer_ns.is_none(),
            Phase::Open if !self.repair.is_empty() => true,
            Phase::Open => self.next_send < self.window.end() && self.in_flight() < self.flight_limit().min(self.burst),
            Phase::Closed(_) => false,
        }
    }

    fn arm(&mut self, now_ns: u64) {
        self.timer_ns = Some(now_ns.max(self.pause_until_ns).saturating_add(self.timeout.current_ns()));
    }

    /// Deadline and timer.
    fn expire(&mut self, now_ns: u64) {
        if matches!(self.phase, Phase::Closed(_)) {
            return;
        }
        if self.window.first_deadline_ns().is_some_and(|deadline_ns| deadline_ns <= now_ns) {
            self.close(CloseReason::DeadlinePassed, None);
            return;
        }
        if self.timer_ns.is_some_and(|timer_ns| timer_ns <= now_ns) {
            self.timer_ns = None;
            self.on_silence();
        }
        if self.gap_due_ns().is_some_and(|due_ns| due_ns <= now_ns) {
            self.on_gap_overdue(now_ns);
        }
        if self.overtaken.is_some_and(|(_, due_ns)| due_ns <= now_ns) {
            self.on_overtaken();
        }
    }

    /// The timer expired: what was in flight is sent again, one datagram first; the second time to the next member.
    fn on_silence(&mut self) {
        if self.phase == Phase::Open && self.window.first_unacked() == self.window.end() {
            return;
        }
        self.counters.timeouts += 1;
        self.silences = self.silences.saturating_add(1);
        // A silent member while the session opens is left at once: most members do not lead, and one may be down.
        if self.phase == Phase::Opening || self.silences > 1 {
            self.route.rotate();
            if self.route.in_vain() {
                self.timeout.back_off();
            }
        } else {
            self.timeout.back_off();
        }
        self.start_over();
    }

    /// Everything unacknowledged is to be sent again, beginning with one datagram.
    fn start_over(&mut self) {
        self.next_send = self.window.first_unacked();
        self.burst = 1;
        self.went_back = None;
        self.overtaken = None;
        self.repair = 0..0;
        self.timer_ns = None;
    }

    /// Nothing is sent for the time that a refusal asks for.
    fn pause(&mut self, now_ns: u64, retry_after_us: u32) {
        let until_ns = now_ns.saturating_add(pause_ns(retry_after_us, &mut self.jitter));
        self.pause_until_ns = self.pause_until_ns.max(until_ns);
    }

    /// The only way into [`Phase::Closed`].
    fn close(&mut self, reason: CloseReason, last_event: Option<Event>) {
        assert!(!matches!(self.phase, Phase::Closed(_)), "a session closes once");
        self.phase = Phase::Closed(reason);
        self.timer_ns = None;
        self.last_event = last_event;
    }

    fn write_open_session(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        self.open_sent = match self.open_sent {
            OpenSent::Never => OpenSent::Once(now_ns),
            OpenSent::Once(_) | OpenSent::Repeatedly => OpenSent::Repeatedly,
        };
        let payload = &mut out[HEADER_BYTES..HEADER_BYTES + RUN_HEADER_BYTES];
        let which = self.options.resume.to_wire();
        let (bytes, _) = RunBuilder::new(payload, self.client_id, which, 0).finish(RunKind::OpenSession);
        finish_request(out, (Kind::OpenSession, 0), self.cluster, self.group, 0, bytes)
    }

    /// A run of as many entries from the cursor on as datagram, credit and acknowledgements allow.
    fn write_append(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        let allowed = self.flight_limit() - self.in_flight();
        let end = self.window.end().min(self.next_send + allowed);
        let (length, at) = self.write_run(self.next_send..end, now_ns, out);
        self.move_cursor(at);
        self.sent_end = self.sent_end.max(self.next_send);
        length
    }

    /// A run of entries whose acknowledgement was lost.
    fn write_repair(&mut self, now_ns: u64, out: &mut [u8]) -> usize {
        let (length, at) = self.write_run(self.repair.clone(), now_ns, out);
        self.repair.start = at;
        self.trim_repair();
        length
    }

    /// Takes what is acknowledged from the start of the range that goes again.
    fn trim_repair(&mut self) {
        let Range { start, end } = self.repair;
        let start = start.max(self.window.first_unacked());
        self.repair.start = (start..end).find(|client_seq| !self.window.is_acked(*client_seq)).unwrap_or(end);
    }

    /// A run of entries from the start of `range`, none of them acknowledged, all on the same condition: the datagram's length,
    /// and where the run ends.
    fn write_run(&mut self, range: Range<u64>, now_ns: u64, out: &mut [u8]) -> (usize, u64) {
        let payload = &mut out[HEADER_BYTES..HEADER_BYTES + self.max_run_bytes];
        let session = self.session.expect("the session is open");
        let condition = self.window.condition(range.start);
        let (mut run, kind) = match condition.is_none() {
            true => (RunBuilder::new(payload, self.client_id, session, range.start), RunKind::Append),
            false => {
                let wire = condition.to_wire();
                let run = RunBuilder::conditional(payload, self.client_id, session, range.start, &wire);
                (run, RunKind::ConditionalAppend)
            }
        };
        let most = if condition.match_sequence.is_some() { 1 } else { u64::MAX };
        // The server answers from its table only runs that it has decided on whole.
        let decided_end = self.last_committed.expect("the session is open") + 1;
        let end = if range.start < decided_end { range.end.min(decided_end) } else { range.end };
        let mut at = range.start;
        while at < end
            && at - range.start < most
            && !self.window.is_acked(at)
            && self.window.condition(at) == condition
            && run.push(self.window.entry(at))
        {
            self.window.sent(at, now_ns);
            at += 1;
        }
        let (bytes, entries) = run.finish(kind);
        assert!(entries > 0, "entry {at} was taken, but no datagram can hold it");
        self.counters.entries_resent += self.sent_end.min(at).saturating_sub(range.start);
        let receipt = if self.options.receipts { flags::RECEIPT } else { 0 };
        let length = finish_request(out, (Kind::Append, receipt), self.cluster, self.group, 0, bytes);
        (length, at)
    }

    /// Puts the cursor at `at` or the first entry behind it that is not acknowledged.
    fn move_cursor(&mut self, at: u64) {
        let mut at = at.max(self.window.first_unacked());
        while at < self.window.end() && self.window.is_acked(at) {
            at += 1;
        }
        self.next_send = at;
    }

    /// The limits that the server told. False if they leave no room for an entry.
    fn take_limits(&mut self, max_run_bytes: u32, max_entry_bytes: u32) -> bool {
        let max_run_bytes = self.options.max_payload_bytes().min(max_run_bytes as usize);
        let max_entry_bytes = entry_limit_of_run(max_run_bytes).min(max_entry_bytes as usize);
        if max_entry_bytes == 0 {
            return false;
        }
        self.max_run_bytes = max_run_bytes;
        self.max_entry_bytes = max_entry_bytes;
        true
    }
}
