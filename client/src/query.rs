//! Single questions: how a node fares, and how far the log reaches. Each call has a socket of its own and ends with it.

use crate::error::{ClientError, Unavailable};
use crate::options::{OptionsError, check_members, nanos};
use crate::read::recency_of;
use crate::reply::{Reply, finish_request, told};
use crate::socket::{RECEIVE_BATCH, RECEIVE_BYTES, Socket};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::client::{Consistency, Counter, Durability, ReadBody, Refusal, Stage, StageRow, StatusBody, role};
use synod_wire::frame::{Frame, Frames, HEADER_BYTES, Header, Kind, frame_bytes};
use synod_wire::guarantee::{Guarantee, Recency};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::picture::{COMMIT_BUCKETS, PictureBody};
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, NodeSet, Quorums, Sequence, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U16, U32, U64};

/// An unanswered question is repeated this often: far above a round trip, far below a person's patience.
const REPEAT_NS: u64 = 50_000_000;
/// Sockets are not shared between calls, so one number tells our answers.
const REQUEST_ID: u64 = 1;
/// Who does not say by then whether it leads is not waited for.
const LEADER_LOOK: Duration = Duration::from_millis(200);

/// A node's state of one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// The node that answered.
    pub node: NodeId,
    /// The configuration that it goes by.
    pub epoch: Epoch,
    /// One of [`synod_wire::client::role`]; [`Status::role_name`] says it in words.
    pub role: u8,
    /// The leader that it knows.
    pub leader: Option<NodeId>,
    /// Its promised ballot.
    pub promised: Ballot,
    /// The prefix that it holds and knows chosen.
    pub chosen: Slot,
    /// The last slot applied.
    pub applied: Slot,
    /// The highest slot accepted.
    pub accepted: Slot,
    /// The durable Lsn.
    pub durable_lsn: Lsn,
    /// The durable position in the log.
    pub durable_bytes: u64,
    /// The last sequence applied.
    pub tail: Sequence,
    /// Sessions in the table.
    pub sessions: u64,
    /// Since the shard started.
    pub uptime: Duration,
    /// The core that the pipeline is pinned to.
    pub core: Option<u32>,
    /// Slots whose vote is unknown after damage: 0 none, `u32::MAX` all above the prefix.
    pub unknown_slots: u32,
    /// The counters as they came: a newer node may have more than [`Counter`] names, an older one fewer.
    pub counters: Vec<u64>,
    /// What this node's word rests on; `None`: it does not say.
    pub durability: Option<Durability>,
    /// What it does for clients; `None`: it does not say.
    pub mode: Option<Mode>,
    /// Why it entered that mode.
    pub mode_reason: Option<ModeReason>,
    /// How long it has been in it.
    pub mode_for: Duration,
    /// How often it entered each mode since it started, in the order of [`Mode::ALL`].
    pub modes_entered: [u32; Mode::ALL.len()],
    /// How long leases are; `None`: they are off.
    pub lease: Option<Duration>,
    /// For how long the leader may still answer reads by its lease; `None`: it holds none, or does not lead.
    pub lease_left: Option<Duration>,
    /// For how long it promises to nobody but the holder of a lease that it granted; `None`: to anybody.
    pub bound_left: Option<Duration>,
    /// What this status promises: it is one node's word.
    pub guarantee: Guarantee,
    /// How long commits that it led took to reach each stage, since it started.
    pub stages: Vec<StageTimes>,
    /// What it adds for those who draw it; `None`: its datagrams have no room for it.
    pub picture: Option<Picture>,
}

/// What a node adds to its status for those who draw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    /// The first slot that its log has.
    pub first_slot: Slot,
    /// The last slot of its newest snapshot, if one is known.
    pub snapshot: Option<Slot>,
    /// Who votes.
    pub voters: NodeSet,
    /// How many of them each phase needs.
    pub quorums: Quorums,
    /// The members; on a leader with the slot up to which each is known to have delivered everything.
    pub positions: Vec<(NodeId, Option<Slot>)>,
    /// The 99.9th percentile of what clients waited for, since the node started.
    pub p999: Duration,
    /// Slots that it led by what clients waited, since it started: see [`synod_wire::picture::commit_bucket_end_ns`].
    pub commits: [u64; COMMIT_BUCKETS],
}

impl From<PictureBody> for Picture {
    fn from(body: PictureBody) -> Picture {
        Picture {
            first_slot: Slot(body.first_slot.get()),
            snapshot: Some(Slot(body.snapshot_slot.get())).filter(|slot| *slot != Slot::ZERO),
            voters: NodeSet(body.voters.get()),
            quorums: Quorums { phase1: body.phase1.into(), phase2: body.phase2.into() },
            positions: body.positions().collect(),
            p999: Duration::from_nanos(body.p999_ns.get().into()),
            commits: body.commits.map(|count| count.get()),
        }
    }
}

/// How long commits took to reach one stage on the leader, from the moment that a client's datagram was reaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StageTimes {
    /// The stage.
    pub stage: Stage,
    /// Slots counted.
    pub count: u64,
    /// The median.
    pub p50: Duration,
    /// The 99th percentile.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

impl StageTimes {
    fn of(stage: Stage, row: &StageRow) -> StageTimes {
        StageTimes {
            stage,
            count: row.count.get(),
            p50: Duration::from_nanos(row.p50_ns.get().into()),
            p99: Duration::from_nanos(row.p99_ns.get().into()),
            max: Duration::from_micros(row.max_us.get().into()),
        }
    }
}

impl Status {
    /// A counter, if the node has it.
    pub fn counter(&self, counter: Counter) -> Option<u64> {
        self.counters.get(counter as usize).copied()
    }

    /// The counters that have a name, in order.
    pub fn named_counters(&self) -> impl Iterator<Item = (&'static str, u64)> {
        Counter::ALL.iter().map(|counter| counter.name()).zip(self.counters.iter().copied())
    }

    /// The role in one word.
    pub fn role_name(&self) -> &'static str {
        role::name(self.role)
    }

    fn from_reply(
        header: &Header,
        body: &StatusBody,
        counters: &[U64],
        stages: &[StageRow],
        picture: Option<PictureBody>,
    ) -> Status {
        Status {
            node: header.from,
            epoch: header.epoch,
            role: body.role,
            leader: (body.has_leader == 1).then_some(NodeId(body.leader)),
            promised: Ballot::unpack(body.promised.get()),
            chosen: Slot(body.chosen.get()),
            applied: Slot(body.applied.get()),
            accepted: Slot(body.accepted.get()),
            durable_lsn: Lsn(body.durable_lsn.get()),
            durable_bytes: body.durable_bytes.get(),
            tail: Sequence(body.tail.get()),
            sessions: body.sessions.get(),
            uptime: Duration::from_nanos(body.uptime_ns.get()),
            core: Some(body.core.get()).filter(|core| *core != u32::MAX),
            unknown_slots: body.unknown_slots.get(),
            counters: counters.iter().map(|value| value.get()).collect(),
            durability: Durability::from_u8(body.durability),
            mode: Mode::from_u8(body.mode),
            mode_reason: ModeReason::from_u8(body.mode_reason),
            mode_for: Duration::from_millis(body.mode_ms.get().into()),
            modes_entered: body.modes_entered.map(|count| count.get()),
            lease: micros(body.lease_us),
            lease_left: micros(body.lease_left_us),
            bound_left: micros(body.bound_left_us),
            guarantee: told(body.guarantee),
            stages: Stage::ALL.into_iter().zip(stages).map(|(stage, row)| StageTimes::of(stage, row)).collect(),
            picture: picture.map(Picture::from),
        }
    }
}

/// A span in microseconds that is none where it is 0.
fn micros(span: U32) -> Option<Duration> {
    Some(Duration::from_micros(span.get().into())).filter(|span| !span.is_zero())
}

/// How far a group's log reaches, and who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tail {
    /// The last sequence; zero: the log is empty.
    pub sequence: Sequence,
    /// The member that said so.
    pub node: NodeId,
    /// How recent that is.
    pub recency: Recency,
}

/// Asks one node how it fares with `group`; repeats the question until `timeout`.
pub fn status(
    member: SocketAddrV4,
    cluster: ClusterId,
    group: GroupId,
    timeout: Duration,
) -> Result<Status, ClientError> {
    let mut answers = statuses(&[(group, member)], cluster, timeout)?;
    answers.pop().expect("one question has one answer")
}

/// Asks nodes about groups, all at once, as [`status`] does one about one: the answers are in the order of the questions.
pub fn statuses(
    asked: &[(GroupId, SocketAddrV4)],
    cluster: ClusterId,
    timeout: Duration,
) -> Result<Vec<Result<Status, ClientError>>, ClientError> {
    let mut round = Round::about(asked, cluster, None)?;
    let has_answered = |answer: &Answer| answer.status.is_some() || answer.refusal.is_some();
    round.run(timeout, |answers| answers.iter().all(has_answered))?;
    let silence = round.unavailable(timeout);
    let told = |answer: Answer| match (answer.status, answer.refusal) {
        (Some(status), _) => Ok(status),
        (None, Some((refusal, detail))) => Err(ClientError::Refused { refusal, detail }),
        (None, None) => Err(ClientError::NoAnswer(Unavailable {
            members: 1,
            answered: false,
            last_refusal: None,
            ..silence.clone()
        })),
    };
    Ok(round.answers.into_iter().map(told).collect())
}

/// Asks all members until one says that it leads, or until `timeout`: what that one says, in the highest ballot.
pub(crate) fn leader_status(
    members: Vec<SocketAddrV4>,
    cluster: ClusterId,
    group: GroupId,
    timeout: Duration,
) -> Result<Status, ClientError> {
    let mut round = Round::new(members, cluster, group, None)?;
    let leader = |answers: &[Answer]| {
        let statuses = answers.iter().filter_map(|answer| answer.status.as_ref());
        statuses.filter(|status| status.role == role::LEADER).max_by_key(|status| status.promised).cloned()
    };
    let until_ns = round.socket.now_ns().saturating_add(nanos(timeout));
    loop {
        // One that was deposed may not know it: all are heard, or given the time.
        round.run(LEADER_LOOK.min(timeout), |answers| answers.iter().all(|answer| answer.status.is_some()))?;
        if let Some(status) = leader(&round.answers) {
            return Ok(status);
        }
        if round.socket.now_ns() >= until_ns {
            return Err(ClientError::NoLeader(round.unavailable(timeout)));
        }
        round.answers.iter_mut().for_each(|answer| answer.status = None);
    }
}

/// Asks all members for the last sequence of `group`'s log. The first answer that is as recent as asked for counts: with
/// [`Consistency::ReadIndex`] any member's holds all that was acknowledged before this call, with [`Consistency::Lease`] the leader's. With [`Consistency::Local`] it is
/// the highest of the answers that come until all have come, or until `timeout`: the log may reach further.
pub fn check_tail(
    members: Vec<SocketAddrV4>,
    cluster: ClusterId,
    group: GroupId,
    timeout: Duration,
    consistency: Consistency,
) -> Result<Tail, ClientError> {
    let mut round = Round::new(members, cluster, group, Some(consistency))?;
    let waits_for_all = consistency == Consistency::Local;
    round.run(timeout, |answers| {
        let told = answers.iter().filter(|answer| answer.tail.is_some()).count();
        leases_are_off(answers) || if waits_for_all { told == answers.len() } else { told > 0 }
    })?;
    let highest = round.answers.iter().filter_map(|answer| answer.tail).max_by_key(|tail| tail.sequence);
    highest.ok_or_else(|| match leases_are_off(&round.answers) {
        true => ClientError::LeasesOff,
        false => ClientError::NoAnswer(round.unavailable(timeout)),
    })
}

/// Whether the leader has said that it never has a lease.
fn leases_are_off(answers: &[Answer]) -> bool {
    answers.iter().any(|answer| answer.refusal == Some((Refusal::NoLease, 0)))
}

/// What one member has answered about one group.
#[derive(Debug)]
struct Answer {
    group: GroupId,
    address: SocketAddrV4,
    status: Option<Status>,
    tail: Option<Tail>,
    refusal: Option<(Refusal, u64)>,
}

fn tail_question(consistency: Consistency) -> ReadBody {
    let body = ReadBody {
        request_id: U64::new(REQUEST_ID),
        from_sequence: U64::ZERO,
        max_entries: U32::ZERO,
        max_datagrams: U16::new(1),
        wait_ms: U16::ZERO,
        bound_ms: U32::ZERO,
        consistency: 0,
        reserved: [0; 3],
    };
    body.with(consistency)
}

/// The same question to some members at once, repeated until they are answered.
struct Round {
    socket: Socket,
    cluster: ClusterId,
    /// What is asked: for the tail, this recent, or for the status.
    asks_tail: Option<Consistency>,
    answers: Vec<Answer>,
    answered: bool,
}

impl Round {
    fn new(
        members: Vec<SocketAddrV4>,
        cluster: ClusterId,
        group: GroupId,
        asks_tail: Option<Consistency>,
    ) -> Result<Round, ClientError> {
        check_members(members.len()).map_err(|error: OptionsError| ClientError::Options(error))?;
        let asked: Vec<_> = members.into_iter().map(|address| (group, address)).collect();
        Round::about(&asked, cluster, asks_tail)
    }

    fn about(
        asked: &[(GroupId, SocketAddrV4)],
        cluster: ClusterId,
        asks_tail: Option<Consistency>,
    ) -> Result<Round, ClientError> {
        let unanswered = |&(group, address)| Answer { group, address, status: None, tail: None, refusal: None };
        let answers = asked.iter().map(unanswered).collect();
        Ok(Round { socket: Socket::bind(Duration::ZERO)?, cluster, asks_tail, answers, answered: false })
    }

    /// Until `done` or `timeout`.
    fn run(&mut self, timeout: Duration, done: impl Fn(&[Answer]) -> bool) -> Result<(), ClientError> {
        let until_ns = self.socket.now_ns().saturating_add(nanos(timeout));
        let mut repeat_ns = 0;
        let mut buffer = vec![0; RECEIVE_BYTES];
        while !done(&self.answers) {
            let now_ns = self.socket.now_ns();
            if now_ns >= until_ns {
                break;
            }
            if now_ns >= repeat_ns {
                self.ask()?;
                repeat_ns = now_ns + REPEAT_NS;
            }
            self.socket.wait(now_ns, now_ns, until_ns.min(repeat_ns), false)?;
            for _ in 0..RECEIVE_BATCH {
                let Some(received) = self.socket.receive(&mut buffer)? else {
                    break;
                };
                for datagram in received.datagrams(&buffer) {
                    self.take(received.from, datagram);
                }
            }
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(), ClientError> {
        let mut out = [0; frame_bytes(size_of::<ReadBody>())];
        for answer in &self.answers {
            // A full socket buffer or a lost datagram: the question is repeated anyway.
            match self.asks_tail {
                None if answer.status.is_none() => {
                    let length = finish_request(&mut out, (Kind::Status, 0), self.cluster, answer.group, REQUEST_ID, 0);
                    self.socket.send(&out[..length], length, answer.address)?;
                }
                Some(consistency) if answer.tail.is_none() => {
                    let body = tail_question(consistency);
                    let bytes = size_of::<ReadBody>();
                    out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(body.as_bytes());
                    let length =
                        finish_request(&mut out, (Kind::Read, 0), self.cluster, answer.group, REQUEST_ID, bytes);
                    self.socket.send(&out[..length], length, answer.address)?;
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Files what `from` answers; what is malformed or not asked for is ignored, for the question is repeated.
    fn take(&mut self, from: SocketAddrV4, datagram: &[u8]) {
        let cluster = self.cluster;
        let ours = |frame: &Frame| frame.header.cluster == cluster;
        for frame in Frames::new(datagram).flatten().filter(ours) {
            let is_it = |answer: &&mut Answer| answer.address == from && answer.group == frame.header.group;
            let Some(answer) = self.answers.iter_mut().find(is_it) else { continue };
            self.answered = true;
            match Reply::parse(&frame) {
                Ok(Reply::Status(body, counters, stages, picture)) if body.request_id.get() == REQUEST_ID => {
                    answer.status = Some(Status::from_reply(&frame.header, &body, counters, stages, picture));
                }
                Ok(Reply::Read(body, _)) if body.request_id.get() == REQUEST_ID => {
                    let asked = self.asks_tail.unwrap_or_default();
                    let recency = recency_of(&body).filter(|recency| asked.is_met_by(*recency));
                    let sequence = Sequence(body.tail.get());
                    answer.tail =
                        recency.map(|recency| Tail { sequence, node: frame.header.from, recency }).or(answer.tail);
                }
                Ok(Reply::Rejected(rejection)) => answer.refusal = Some((rejection.refusal, rejection.detail)),
                _ => {}
            }
        }
    }

    fn unavailable(&self, waited: Duration) -> Unavailable {
        let refusal = |answer: &Answer| answer.refusal.map(|(refusal, _)| (answer.address, refusal));
        Unavailable {
            members: self.answers.len(),
            waited,
            answered: self.answered,
            // Whom the others point to has more to say than they.
            last_refusal: self
                .answers
                .iter()
                .filter_map(refusal)
                .min_by_key(|(_, refusal)| *refusal == Refusal::NotLeader),
            send_error: self.socket.send_error(),
        }
    }
}
