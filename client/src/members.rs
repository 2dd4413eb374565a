//! Who a group's members are, and changes of them: what operators' tools ask. Each call has a socket of its own and ends with it.

use crate::error::ClientError;
use crate::options::{OptionsError, check_members, nanos};
use crate::reply::finish_request;
use crate::socket::{RECEIVE_BATCH, RECEIVE_BYTES, Socket};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::frame::{Frame, Frames, HEADER_BYTES, Kind, frame_bytes};
use synod_wire::members::{ChangeBody, MembersReplyBody, ProgressRow, change, outcome};
use synod_wire::{ClusterId, Configuration, Epoch, GroupId, NodeId, Slot};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// An unanswered question is repeated this often.
const REPEAT_NS: u64 = 50_000_000;
const REQUEST_ID: u64 = 1;

/// The members of a group, as one node knows them.
#[derive(Clone, Debug)]
pub struct Members {
    /// The node that says so.
    pub node: NodeId,
    /// Where it answers.
    pub address: SocketAddrV4,
    /// Who governs the slots above what it has delivered.
    pub configuration: Configuration,
    /// The slot that the configuration stands in; 0: the founding one.
    pub configured_at: Slot,
    /// What it has delivered.
    pub prefix: Slot,
    /// Whether it leads and serves.
    pub leads: bool,
    /// As leader: whether a quorum of the members durably knows the configuration.
    pub settled: bool,
    /// As leader: whether a change is under way.
    pub changing: bool,
    /// The life of its log.
    pub incarnation: u64,
    /// Whether it waits to be added: no member knows this life of its log.
    pub waits: bool,
    /// The leader that it knows.
    pub leader: Option<NodeId>,
    /// How far each member of the configuration is, in its order, as this node has heard.
    pub progress: Vec<Progress>,
}

/// See [`Members::progress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// What it has delivered; only a leader hears of it.
    pub prefix: Slot,
    /// How long ago it was heard; `None`: never.
    pub heard_ago: Option<Duration>,
}

/// A change of the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberChange {
    /// A learner joins, or a member that lost its log does, under another life of it.
    Add {
        /// The node.
        node: NodeId,
        /// The life of its log.
        incarnation: u64,
        /// Where members reach it.
        peers_at: SocketAddrV4,
        /// Where clients reach it.
        clients_at: SocketAddrV4,
    },
    /// A learner votes.
    Promote(NodeId),
    /// A member is none any more.
    Remove(NodeId),
}

/// What a leader made of a request for a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChangeOutcome {
    /// It is under way.
    Begun,
    /// The node does not lead, or does not serve yet.
    NotLeader,
    /// Another change is under way, or too few members know the last one.
    Pending,
    /// The members are not those any more that the change was for.
    Stale,
    /// It is a member already.
    AlreadyMember,
    /// There is no such member.
    NotMember,
    /// The learner lacks so many slots, or does not answer.
    NotCaughtUp(u64),
    /// As many vote, or are members, as may.
    TooMany,
    /// Nobody would vote.
    LastVoter,
}

impl ChangeOutcome {
    fn from_wire(outcome: u8, behind: u64) -> Option<ChangeOutcome> {
        Some(match outcome {
            outcome::BEGUN => ChangeOutcome::Begun,
            outcome::NOT_LEADER => ChangeOutcome::NotLeader,
            outcome::PENDING => ChangeOutcome::Pending,
            outcome::STALE => ChangeOutcome::Stale,
            outcome::ALREADY => ChangeOutcome::AlreadyMember,
            outcome::NOT_A_MEMBER => ChangeOutcome::NotMember,
            outcome::NOT_CAUGHT_UP => ChangeOutcome::NotCaughtUp(behind),
            outcome::TOO_MANY => ChangeOutcome::TooMany,
            outcome::LAST_VOTER => ChangeOutcome::LastVoter,
            _ => return None,
        })
    }
}

/// Asks all of `nodes` who the members of `group` are, again and again, until what they said last is what is waited for (`done`), or
/// until `timeout`; gives what each said last. Empty: nobody answered.
pub fn members(
    nodes: &[SocketAddrV4],
    cluster: ClusterId,
    group: GroupId,
    timeout: Duration,
    done: impl Fn(&[Members]) -> bool,
) -> Result<Vec<Members>, ClientError> {
    check_members(nodes.len()).map_err(|error: OptionsError| ClientError::Options(error))?;
    let told = |answers: &Answers| -> Vec<Members> { answers.iter().map(|(members, _)| members.clone()).collect() };
    let answers = Call::new(cluster, group)?.run(nodes, Kind::Members, &[], timeout, |answers| done(&told(answers)))?;
    Ok(told(&answers))
}

/// Asks `leader` for a change of the configuration with the number `of`. `None`: it did not answer.
pub fn change_members(
    leader: SocketAddrV4,
    cluster: ClusterId,
    group: GroupId,
    of: Epoch,
    wanted: MemberChange,
    timeout: Duration,
) -> Result<Option<ChangeOutcome>, ClientError> {
    let body = change_body(of, wanted);
    let answers = Call::new(cluster, group)?
        .run(&[leader], Kind::ChangeMembers, body.as_bytes(), timeout, |all| !all.is_empty())?;
    Ok(answers.first().and_then(|(_, outcome)| *outcome))
}

fn change_body(of: Epoch, wanted: MemberChange) -> ChangeBody {
    let mut body = ChangeBody::new_zeroed();
    body.request_id = U64::new(REQUEST_ID);
    body.epoch = U32::new(of.0);
    match wanted {
        MemberChange::Add { node, incarnation, peers_at, clients_at } => {
            body.change = change::ADD;
            body.node = node.0;
            body.incarnation = U64::new(incarnation);
            (body.peer_ip, body.peer_port) = (peers_at.ip().octets(), U16::new(peers_at.port()));
            (body.client_ip, body.client_port) = (clients_at.ip().octets(), U16::new(clients_at.port()));
        }
        MemberChange::Promote(node) => (body.change, body.node) = (change::PROMOTE, node.0),
        MemberChange::Remove(node) => (body.change, body.node) = (change::REMOVE, node.0),
    }
    body
}

type Answers = Vec<(Members, Option<ChangeOutcome>)>;

/// One question to some nodes, repeated until it is answered.
struct Call {
    socket: Socket,
    cluster: ClusterId,
    group: GroupId,
}

impl Call {
    fn new(cluster: ClusterId, group: GroupId) -> Result<Call, ClientError> {
        Ok(Call { socket: Socket::bind(Duration::ZERO)?, cluster, group })
    }

    fn run(
        &mut self,
        nodes: &[SocketAddrV4],
        kind: Kind,
        payload: &[u8],
        timeout: Duration,
        done: impl Fn(&Answers) -> bool,
    ) -> Result<Answers, ClientError> {
        let until_ns = self.socket.now_ns().saturating_add(nanos(timeout));
        let (mut repeat_ns, mut answers) = (0, Answers::new());
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut out = vec![0; frame_bytes(payload.len())];
        while !done(&answers) {
            let now_ns = self.socket.now_ns();
            if now_ns >= until_ns {
                break;
            }
            if now_ns >= repeat_ns {
                out[HEADER_BYTES..HEADER_BYTES + payload.len()].copy_from_slice(payload);
                let length = finish_request(&mut out, (kind, 0), self.cluster, self.group, REQUEST_ID, payload.len());
                for node in nodes {
                    self.socket.send(&out[..length], length, *node)?;
                }
                repeat_ns = now_ns + REPEAT_NS;
            }
            self.socket.wait(now_ns, now_ns, until_ns.min(repeat_ns), false)?;
            for _ in 0..RECEIVE_BATCH {
                let Some(received) = self.socket.receive(&mut buffer)? else { break };
                for datagram in received.datagrams(&buffer) {
                    let ours = |frame: &Frame| frame.header.cluster == self.cluster && frame.header.group == self.group;
                    let told = Frames::new(datagram).flatten().filter(ours);
                    let asked = nodes.contains(&received.from);
                    for answer in told.filter_map(|frame| parse(&frame, received.from)).filter(|_| asked) {
                        answers.retain(|(members, _)| members.address != received.from);
                        answers.push(answer);
                    }
                }
            }
        }
        Ok(answers)
    }
}

/// Reads an answer; what is malformed is ignored, for the question is repeated.
fn parse(frame: &Frame<'_>, from: SocketAddrV4) -> Option<(Members, Option<ChangeOutcome>)> {
    if frame.header.kind != Kind::MembersReply {
        return None;
    }
    let (body, rest) = MembersReplyBody::read_from_prefix(frame.payload).ok()?;
    let (configuration, rest) = rest.split_at_checked(body.configuration_bytes.get().into())?;
    let configuration = Configuration::parse(configuration).ok()?;
    let rows = <[ProgressRow]>::ref_from_bytes(rest).ok()?;
    if rows.len() != configuration.members().len() || body.request_id.get() != REQUEST_ID {
        return None;
    }
    let progress = rows.iter().map(|row| Progress {
        prefix: Slot(row.prefix.get()),
        heard_ago: Some(row.heard_ms_ago.get()).filter(|ms| *ms != u32::MAX).map(|ms| Duration::from_millis(ms.into())),
    });
    let members = Members {
        node: frame.header.from,
        address: from,
        configuration,
        configured_at: Slot(body.configured_at.get()),
        prefix: Slot(body.prefix.get()),
        leads: body.leads == 1,
        settled: body.settled == 1,
        changing: body.changing == 1,
        incarnation: body.incarnation.get(),
        waits: body.waits == 1,
        leader: (body.has_leader == 1).then_some(NodeId(body.leader)),
        progress: progress.collect(),
    };
    Some((members, ChangeOutcome::from_wire(body.outcome, body.behind.get())))
}
