//! Asking a group's state machine: a sans-I/O core that asks one question until it is answered, and its UDP driver. A question
//! changes nothing, so it is sent again whenever an answer stays out, to whichever member comes next.
//!
//! What a question and its answer are is the machine's affair (`synod::machine`); [`crate::Kv`] speaks the key-value map's.

use crate::error::{ClientError, Unavailable};
use crate::line::Line;
use crate::options::{OptionsError, ReadOptions, check_members, nanos};
use crate::read::{NO_LEASE_PACE_US, recency_of};
use crate::reply::{Rejection, Reply, finish_request, told};
use crate::retransmit::{Jitter, Timeout, pause_ns};
use crate::route::Route;
use std::net::SocketAddrV4;
use synod_wire::client::{Consistency, MAX_QUESTION_BYTES, ReadBody, ReadReplyBody, Refusal};
use synod_wire::frame::{Frames, HEADER_BYTES, Kind, frame_bytes};
use synod_wire::guarantee::Guarantee;
use synod_wire::mode::Mode;
use synod_wire::{ClusterId, GroupId, NodeId, Sequence};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// The longest datagram that is sent.
const DATAGRAM_BYTES: usize = frame_bytes(size_of::<ReadBody>() + MAX_QUESTION_BYTES);

/// What a machine answered, and from which state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The answer.
    pub bytes: Vec<u8>,
    /// The last entry that the machine had applied.
    pub applied: Sequence,
    /// What may be relied on; its recency is what the node could show.
    pub guarantee: Guarantee,
    /// The mode of the node that answered, if it named one.
    pub mode: Option<Mode>,
    /// The node that answered.
    pub node: NodeId,
}

/// How a question ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Standing {
    /// It is under way, or none was asked.
    Open,
    /// It is answered.
    Answered(Answer),
    /// The machine does not take it, its answer has no place in a datagram, or it asks for a lease and leases are off; asking again
    /// would not help.
    Refused {
        /// Why.
        refusal: Refusal,
        /// What the refusal says.
        detail: u64,
    },
}

/// What is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QuestionCounters {
    /// Datagrams sent.
    pub sent: u64,
    /// Those whose answer stayed out.
    pub timeouts: u64,
    /// Refusals taken notice of.
    pub refusals: u64,
    /// Datagrams or frames that are not what they should be.
    pub malformed: u64,
    /// From an unknown address, of another cluster or group, or about another question.
    pub foreign: u64,
}

/// A datagram that was sent and is not answered.
#[derive(Clone, Copy, Debug)]
struct Request {
    id: u64,
    sent_ns: u64,
    expires_ns: u64,
}

/// See the module. [`QuestionCore::ask`], then poll as with [`crate::ReadCore`] until [`QuestionCore::standing`] says more than
/// [`Standing::Open`].
#[derive(Debug)]
pub struct QuestionCore {
    cluster: ClusterId,
    group: GroupId,
    route: Route,
    timeout: Timeout,
    jitter: Jitter,
    question: Vec<u8>,
    consistency: Consistency,
    at_least: Sequence,
    /// A question was asked and has not ended.
    wanted: bool,
    standing: Standing,
    request: Option<Request>,
    /// Of the current question.
    first_id: u64,
    next_id: u64,
    pause_until_ns: u64,
    last_contact_ns: Option<u64>,
    last_refusal: Option<(SocketAddrV4, Refusal)>,
    counters: QuestionCounters,
}

impl QuestionCore {
    /// Asks nothing yet. `members` are asked in this order.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: &ReadOptions,
    ) -> Result<QuestionCore, OptionsError> {
        options.validate()?;
        check_members(members.len())?;
        let (initial, min, max) = (options.retransmit_initial_us, options.retransmit_min_us, options.retransmit_max_us);
        Ok(QuestionCore {
            cluster,
            group,
            route: Route::new(members.into_boxed_slice()),
            timeout: Timeout::new(initial, min, max),
            jitter: Jitter::new(options.seed),
            question: Vec::with_capacity(MAX_QUESTION_BYTES),
            consistency: options.consistency,
            at_least: Sequence::ZERO,
            wanted: false,
            standing: Standing::Open,
            request: None,
            first_id: 1,
            next_id: 1,
            pause_until_ns: 0,
            last_contact_ns: None,
            last_refusal: None,
            counters: QuestionCounters::default(),
        })
    }

    /// Asks, in place of whatever was asked before. The state that answers is as recent as `consistency` says, and holds the entries
    /// up to `at_least` in any case ([`Sequence::ZERO`]: it does not matter).
    ///
    /// # Panics
    /// If the question is longer than [`MAX_QUESTION_BYTES`].
    pub fn ask(&mut self, question: &[u8], consistency: Consistency, at_least: Sequence) {
        assert!(question.len() <= MAX_QUESTION_BYTES, "a question has at most {MAX_QUESTION_BYTES} bytes");
        self.question.clear();
        self.question.extend_from_slice(question);
        (self.consistency, self.at_least) = (consistency, at_least);
        (self.wanted, self.standing, self.request) = (true, Standing::Open, None);
        (self.first_id, self.last_refusal, self.pause_until_ns) = (self.next_id, None, 0);
    }

    /// How the question stands.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// When a member last said anything.
    pub fn last_contact_ns(&self) -> Option<u64> {
        self.last_contact_ns
    }

    /// The last refusal of this question, and who sent it.
    pub fn last_refusal(&self) -> Option<(SocketAddrV4, Refusal)> {
        self.last_refusal
    }

    /// What was counted.
    pub fn counters(&self) -> QuestionCounters {
        self.counters
    }

    /// Writes the next datagram into `out` (at least 512 bytes) if one is due: where it goes and its length.
    pub fn poll_transmit(&mut self, now_ns: u64, out: &mut [u8]) -> Option<(SocketAddrV4, usize)> {
        if self.request.is_some_and(|request| request.expires_ns <= now_ns) {
            self.request = None;
            self.counters.timeouts += 1;
            self.timeout.back_off();
            self.route.rotate();
        }
        if !self.wanted || self.request.is_some() || now_ns < self.pause_until_ns {
            return None;
        }
        let id = self.next_id;
        self.next_id += 1;
        self.counters.sent += 1;
        // A node holds a question for a round or two of its own: it is given that time.
        let expires_ns = now_ns + self.timeout.current_ns();
        self.request = Some(Request { id, sent_ns: now_ns, expires_ns });
        let body = ReadBody {
            request_id: U64::new(id),
            from_sequence: U64::new(self.at_least.0),
            max_entries: U32::ZERO,
            max_datagrams: U16::new(1),
            wait_ms: U16::ZERO,
            bound_ms: U32::ZERO,
            consistency: 0,
            reserved: [0; 3],
        }
        .with(self.consistency);
        let head_end = HEADER_BYTES + size_of::<ReadBody>();
        let end = head_end + self.question.len();
        out[HEADER_BYTES..head_end].copy_from_slice(body.as_bytes());
        out[head_end..end].copy_from_slice(&self.question);
        let length = finish_request(out, (Kind::Query, 0), self.cluster, self.group, id, end - HEADER_BYTES);
        Some((self.route.target(), length))
    }

    /// When to call [`QuestionCore::poll_transmit`] next even if no datagram comes; may lie in the past. `None`: nothing is asked.
    pub fn poll_timeout(&self) -> Option<u64> {
        match self.request {
            Some(request) => Some(request.expires_ns),
            None => self.wanted.then_some(self.pause_until_ns),
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
                Ok(Reply::Query(body, answer)) => self.on_answer(now_ns, from, frame.header.from, &body, answer),
                Ok(Reply::Rejected(rejection)) => self.on_rejected(now_ns, from, &rejection),
                _ => self.counters.malformed += 1,
            }
        }
    }

    /// A late answer to an earlier datagram of the same question is as good as one to the last.
    fn on_answer(&mut self, now_ns: u64, from: SocketAddrV4, node: NodeId, body: &ReadReplyBody, answer: &[u8]) {
        let id = body.request_id.get();
        if !self.wanted || !(self.first_id..self.next_id).contains(&id) {
            self.counters.foreign += 1;
            return;
        }
        let applied = Sequence(body.tail.get());
        let recent = recency_of(body).is_some_and(|recency| self.consistency.is_met_by(recency));
        if !recent || applied < self.at_least {
            self.counters.malformed += 1;
            return;
        }
        if let Some(request) = self.request.filter(|request| request.id == id) {
            self.timeout.sample(now_ns.saturating_sub(request.sent_ns));
        }
        let (guarantee, mode) = (told(body.guarantee), Mode::from_u8(body.mode));
        self.end(Standing::Answered(Answer { bytes: answer.to_vec(), applied, guarantee, mode, node }));
        self.route.settle(from);
    }

    fn end(&mut self, standing: Standing) {
        self.standing = standing;
        self.wanted = false;
        self.request = None;
    }

    /// Refusals count only from the node that is asked, about the datagram that is under way.
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
            (refusal @ (Refusal::BadQuestion | Refusal::TooLarge), _) => {
                return self.end(Standing::Refused { refusal, detail: rejection.detail });
            }
            // It leads, and nobody else can have a lease: with leases off none ever has, else one comes with the next heartbeats.
            (refusal @ Refusal::NoLease, _) if rejection.detail == 0 => {
                return self.end(Standing::Refused { refusal, detail: 0 });
            }
            (Refusal::NoLease, _) => return self.pause(now_ns, rejection.retry_after_us.max(NO_LEASE_PACE_US)),
            (Refusal::NotLeader, Some(leader)) if leader != from => self.route.redirect(leader),
            // BUSY as well: another member may have applied what this one has not.
            _ => self.route.rotate(),
        }
        if self.route.in_vain() {
            self.pause(now_ns, rejection.retry_after_us);
        }
    }

    fn pause(&mut self, now_ns: u64, retry_after_us: u32) {
        self.pause_until_ns = now_ns.saturating_add(pause_ns(retry_after_us, &mut self.jitter));
    }
}

/// Asks a group's state machine over UDP, one question at a time: blocking, in the caller's thread.
#[derive(Debug)]
pub struct Questions {
    core: QuestionCore,
    line: Line,
    options: ReadOptions,
    members: usize,
}

impl Questions {
    /// Asks `members` (client addresses) of `group` in this order: the first as long as it answers. `options` say how long a question
    /// may wait, and how recent the state must be if a question does not.
    pub fn new(
        cluster: ClusterId,
        group: GroupId,
        members: Vec<SocketAddrV4>,
        options: ReadOptions,
    ) -> Result<Questions, ClientError> {
        let count = members.len();
        let core = QuestionCore::new(cluster, group, members, &options)?;
        let line = Line::new(options.spin, DATAGRAM_BYTES)?;
        Ok(Questions { core, line, options, members: count })
    }

    /// Asks with the options' consistency, and waits for the answer.
    pub fn ask(&mut self, question: &[u8]) -> Result<Answer, ClientError> {
        self.ask_with(question, self.options.consistency, Sequence::ZERO)
    }

    /// The same of a state that is so recent and holds the entries up to `at_least`: with the sequence of an acknowledged append a
    /// caller sees its own writes at any member, with any consistency.
    pub fn ask_with(
        &mut self,
        question: &[u8],
        consistency: Consistency,
        at_least: Sequence,
    ) -> Result<Answer, ClientError> {
        if question.len() > MAX_QUESTION_BYTES {
            return Err(ClientError::QuestionTooLong { bytes: question.len() });
        }
        self.core.ask(question, consistency, at_least);
        let since_ns = self.line.socket().now_ns();
        let until_ns = since_ns.saturating_add(nanos(self.options.deadline));
        loop {
            self.line.transmit(|now_ns, out| self.core.poll_transmit(now_ns, out))?;
            self.line.receive(|now_ns, from, datagram| {
                self.core.handle(now_ns, from, datagram);
                self.core.standing() == &Standing::Open
            })?;
            match self.core.standing() {
                Standing::Answered(answer) => return Ok(answer.clone()),
                Standing::Refused { refusal: Refusal::NoLease, .. } => return Err(ClientError::LeasesOff),
                Standing::Refused { refusal, detail } => {
                    return Err(ClientError::Refused { refusal: *refusal, detail: *detail });
                }
                Standing::Open => {}
            }
            let now_ns = self.line.socket().now_ns();
            if now_ns >= until_ns {
                return Err(ClientError::NoAnswer(self.unavailable(since_ns)));
            }
            let due_ns = self.core.poll_timeout().unwrap_or(u64::MAX);
            self.line.wait(now_ns, since_ns, due_ns.min(until_ns))?;
        }
    }

    /// What was counted.
    pub fn counters(&self) -> QuestionCounters {
        self.core.counters()
    }

    fn unavailable(&self, since_ns: u64) -> Unavailable {
        let core = &self.core;
        self.line.socket().unavailable(since_ns, self.members, core.last_contact_ns(), core.last_refusal())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::*;
    use synod_wire::frame::parse;
    use synod_wire::guarantee::Recency;
    use zerocopy::FromBytes;

    fn core(members: &[u16]) -> QuestionCore {
        let members = members.iter().map(|port| address(*port)).collect();
        QuestionCore::new(CLUSTER, GROUP, members, &ReadOptions::default()).unwrap()
    }

    /// What the core sends now: port, body, question.
    fn sent(core: &mut QuestionCore, now_ns: u64) -> Option<(u16, ReadBody, Vec<u8>)> {
        let mut out = [0; DATAGRAM_BYTES];
        let (to, length) = core.poll_transmit(now_ns, &mut out)?;
        let frame = parse(&out[..length]).expect("a client sends valid frames");
        assert_eq!(frame.header.kind, Kind::Query);
        let (body, question) = ReadBody::read_from_prefix(frame.payload).expect("a whole body");
        Some((to.port(), body, question.to_vec()))
    }

    fn answer(id: u64, applied: u64, recency: Recency, bytes: &[u8]) -> Vec<u8> {
        let body = ReadReplyBody {
            request_id: U64::new(id),
            first_sequence: U64::ZERO,
            tail: U64::new(applied),
            entries: U16::ZERO,
            last: 1,
            mode: Mode::Target as u8,
            guarantee: Guarantee::read(recency).encode(),
        };
        datagram(&header(Kind::QueryReply), &[body.as_bytes(), bytes].concat())
    }

    fn refuse(id: u64, refusal: Refusal) -> Vec<u8> {
        Refuse { reference: id, detail: 7, ..Refuse::with(refusal) }.datagram()
    }

    #[test]
    fn a_question_is_asked_once_and_its_answer_ends_it() {
        let mut core = core(&[1, 2]);
        assert!(sent(&mut core, 0).is_none() && core.poll_timeout().is_none());
        core.ask(b"how many?", Consistency::ReadIndex, Sequence(4));
        let (port, body, question) = sent(&mut core, 0).expect("it is due");
        assert_eq!((port, &question[..], body.from_sequence.get()), (1, &b"how many?"[..], 4));
        assert_eq!(body.consistency(), Some(Consistency::ReadIndex));
        assert!(sent(&mut core, 0).is_none(), "one at a time");
        core.handle(MS, address(1), &answer(1, 9, Recency::FreshReadIndex, b"three"));
        let Standing::Answered(told) = core.standing() else { panic!("it is answered") };
        assert_eq!((&told.bytes[..], told.applied, told.node), (&b"three"[..], Sequence(9), NodeId(1)));
        assert!(core.poll_timeout().is_none());
        core.handle(2 * MS, address(1), &answer(1, 9, Recency::FreshReadIndex, b"three"));
        assert_eq!(core.counters().foreign, 1, "the same answer again");
    }

    #[test]
    fn what_is_less_than_was_asked_for_is_no_answer() {
        let mut core = core(&[1]);
        core.ask(b"q", Consistency::Bounded(20), Sequence(4));
        sent(&mut core, 0).unwrap();
        for (applied, recency) in
            [(9, Recency::StalePossible), (9, Recency::BoundedStale(21)), (3, Recency::FreshReadIndex)]
        {
            core.handle(MS, address(1), &answer(1, applied, recency, b"old"));
            assert_eq!(core.standing(), &Standing::Open);
        }
        core.handle(MS, address(3), &answer(1, 9, Recency::FreshReadIndex, b"from nobody"));
        assert_eq!((core.counters().malformed, core.counters().foreign), (3, 1));
    }

    #[test]
    fn silence_and_refusals_lead_to_the_next_member() {
        let mut core = core(&[1, 2, 3]);
        core.ask(b"q", Consistency::Local, Sequence::ZERO);
        assert_eq!(sent(&mut core, 0).unwrap().0, 1);
        let due_ns = core.poll_timeout().expect("it waits for an answer");
        let (port, body, _) = sent(&mut core, due_ns).expect("it is due again");
        assert_eq!((port, body.request_id.get()), (2, 2));
        core.handle(due_ns, address(2), &refuse(1, Refusal::Recovering));
        assert_eq!(core.counters().foreign, 1, "about an earlier datagram");
        core.handle(due_ns, address(2), &refuse(2, Refusal::Recovering));
        assert_eq!(sent(&mut core, due_ns).unwrap().0, 3);
        core.handle(due_ns, address(1), &answer(1, 0, Recency::StalePossible, b"late"));
        assert!(matches!(core.standing(), Standing::Answered(answer) if answer.bytes == b"late"));
    }

    #[test]
    fn a_round_of_refusals_is_followed_by_a_pause() {
        let mut core = core(&[1, 2]);
        core.ask(b"q", Consistency::Local, Sequence::ZERO);
        for id in 1..=3 {
            let (port, ..) = sent(&mut core, 0).expect("another member is asked at once");
            core.handle(0, address(port), &refuse(id, Refusal::Busy));
        }
        assert!(sent(&mut core, 0).is_none());
        let due_ns = core.poll_timeout().expect("it goes on");
        assert!((MS..2 * MS).contains(&due_ns), "the refusal asked for 1 ms: {due_ns}");
        assert!(sent(&mut core, due_ns).is_some());
    }

    #[test]
    fn a_leader_without_a_lease_is_asked_again_and_one_with_leases_off_ends_the_question() {
        let mut core = core(&[1, 2]);
        core.ask(b"q", Consistency::Lease, Sequence::ZERO);
        sent(&mut core, 0).unwrap();
        core.handle(MS, address(1), &refuse(1, Refusal::NoLease));
        assert_eq!((sent(&mut core, MS), core.standing()), (None, &Standing::Open), "a lease may come");
        let due_ns = core.poll_timeout().expect("it goes on");
        assert!((11 * MS..14 * MS).contains(&due_ns), "no sooner than in 10 ms: {due_ns}");
        assert_eq!(sent(&mut core, due_ns).expect("it is due again").0, 1, "nobody else can have one");
        let off = Refuse { reference: 2, ..Refuse::with(Refusal::NoLease) }.datagram();
        core.handle(due_ns, address(1), &off);
        assert_eq!(core.standing(), &Standing::Refused { refusal: Refusal::NoLease, detail: 0 });
        assert!(core.poll_timeout().is_none());
    }

    #[test]
    fn a_question_that_the_machine_does_not_take_ends() {
        let mut core = core(&[1, 2]);
        core.ask(b"q", Consistency::Local, Sequence::ZERO);
        sent(&mut core, 0).unwrap();
        core.handle(MS, address(1), &refuse(1, Refusal::BadQuestion));
        assert_eq!(core.standing(), &Standing::Refused { refusal: Refusal::BadQuestion, detail: 7 });
        assert!(core.poll_timeout().is_none());
        core.ask(b"another", Consistency::Local, Sequence::ZERO);
        assert_eq!(sent(&mut core, MS).unwrap().1.request_id.get(), 2);
    }
}
