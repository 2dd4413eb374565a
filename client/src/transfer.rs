//! Asking a leader to hand over to another member: blocking, in the caller's thread. The request names the leadership that is to end,
//! so it is repeated until it is answered, and ends no later one.

use crate::error::{ClientError, Unavailable};
use crate::options::nanos;
use crate::query::{Status, leader_status};
use crate::reply::{Reply, finish_request};
use crate::socket::{RECEIVE_BYTES, Socket};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::frame::{Frame, Frames, HEADER_BYTES, Kind, frame_bytes};
use synod_wire::transfer::{NO_NODE, TransferBody, TransferReplyBody};
use synod_wire::{Ballot, ClusterId, GroupId, NodeId};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

pub use synod_wire::transfer::TransferOutcome;

/// An unanswered request is repeated this often.
const REPEAT_NS: u64 = 50_000_000;
/// Comes back in the reply: a socket asks once.
const REQUEST_ID: u64 = 1;

/// How a hand-over goes, for who watches it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransferStep {
    /// This node leads in this ballot, and is asked to hand over.
    Asking(NodeId, Ballot),
    /// It has not answered yet.
    Waiting,
}

/// How a hand-over ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfer {
    /// What became of it.
    pub outcome: TransferOutcome,
    /// Who led.
    pub from: NodeId,
    /// The ballot in which it did.
    pub from_ballot: Ballot,
    /// Who leads now, as far as that one knows.
    pub leader: Option<NodeId>,
    /// The highest ballot that it knows.
    pub ballot: Ballot,
    /// From the request to the answer.
    pub took: Duration,
}

impl Transfer {
    /// Whether it did what was asked for: the member that was named leads, or, if none was, another one than before.
    pub fn is_done(&self) -> bool {
        self.outcome == TransferOutcome::Done
    }

    fn of(status: &Status, to: Option<NodeId>, body: &TransferReplyBody, took: Duration) -> Option<Transfer> {
        let (leader, ballot) = (body.leader(), Ballot::unpack(body.ballot.get()));
        let outcome = match body.outcome()? {
            // The answer to an earlier copy of the request was lost: what it led to is what is seen now.
            TransferOutcome::NotThatLeader if ballot > status.promised => match (leader, to) {
                (None, _) => return None,
                (Some(leader), None) if leader != status.node => TransferOutcome::Done,
                (Some(leader), Some(to)) if leader == to => TransferOutcome::Done,
                _ => TransferOutcome::Elsewhere,
            },
            outcome => outcome,
        };
        Some(Transfer { outcome, from: status.node, from_ballot: status.promised, leader, ballot, took })
    }
}

/// Finds `group`'s leader among `members` and has it hand over to `to`, or, without one, to the member that is furthest. The answer
/// says what became of it; an error, that no leader was found, or that its answer stayed out for `timeout`.
pub fn transfer_leader(
    members: &[(NodeId, SocketAddrV4)],
    cluster: ClusterId,
    group: GroupId,
    to: Option<NodeId>,
    timeout: Duration,
    progress: &mut dyn FnMut(TransferStep),
) -> Result<Transfer, ClientError> {
    let addresses = members.iter().map(|(_, address)| *address).collect();
    let status = leader_status(addresses, cluster, group, timeout)?;
    let address = members.iter().find(|(node, _)| *node == status.node).map(|(_, address)| *address);
    let Some(address) = address else {
        return Err(ClientError::NoLeader(Unavailable {
            members: members.len(),
            waited: timeout,
            answered: true,
            last_refusal: None,
            send_error: None,
        }));
    };
    progress(TransferStep::Asking(status.node, status.promised));
    let mut asking = Asking { socket: Socket::bind(Duration::ZERO)?, cluster, group, address, to, status };
    asking.run(timeout, progress)
}

struct Asking {
    socket: Socket,
    cluster: ClusterId,
    group: GroupId,
    address: SocketAddrV4,
    to: Option<NodeId>,
    status: Status,
}

impl Asking {
    fn run(&mut self, timeout: Duration, progress: &mut dyn FnMut(TransferStep)) -> Result<Transfer, ClientError> {
        let since_ns = self.socket.now_ns();
        let until_ns = since_ns.saturating_add(nanos(timeout));
        let mut repeat_ns = 0;
        let mut buffer = vec![0; RECEIVE_BYTES];
        loop {
            let now_ns = self.socket.now_ns();
            if now_ns >= until_ns {
                return Err(ClientError::NoAnswer(Unavailable {
                    members: 1,
                    waited: timeout,
                    answered: false,
                    last_refusal: None,
                    send_error: self.socket.send_error(),
                }));
            }
            if now_ns >= repeat_ns {
                if repeat_ns > 0 {
                    progress(TransferStep::Waiting);
                }
                self.ask()?;
                repeat_ns = now_ns + REPEAT_NS;
            }
            self.socket.wait(now_ns, now_ns, until_ns.min(repeat_ns), false)?;
            if let Some(transfer) = self.receive(&mut buffer, since_ns)? {
                return Ok(transfer);
            }
        }
    }

    fn ask(&mut self) -> Result<(), ClientError> {
        let mut out = [0; frame_bytes(size_of::<TransferBody>())];
        let body = TransferBody {
            request_id: U64::new(REQUEST_ID),
            ballot: U64::new(self.status.promised.pack()),
            target: self.to.map_or(NO_NODE, |node| node.0),
            reserved: [0; 7],
        };
        let bytes = size_of::<TransferBody>();
        out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(body.as_bytes());
        let kind = (Kind::TransferLeader, 0);
        let length = finish_request(&mut out, kind, self.cluster, self.group, REQUEST_ID, bytes);
        // A full socket buffer or a lost datagram: the request is repeated anyway.
        self.socket.send(&out[..length], length, self.address)?;
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], since_ns: u64) -> Result<Option<Transfer>, ClientError> {
        let mut found = None;
        let (address, cluster, group, status, to) = (self.address, self.cluster, self.group, &self.status, self.to);
        self.socket.receive_batch(buffer, |now_ns, from, datagram| {
            let ours = |frame: &Frame| frame.header.cluster == cluster && frame.header.group == group;
            for frame in Frames::new(datagram).flatten().filter(|frame| from == address && ours(frame)) {
                // What is malformed is ignored, for the request is repeated.
                if let Ok(Reply::Transfer(body)) = Reply::parse(&frame)
                    && body.request_id.get() == REQUEST_ID
                {
                    let took = Duration::from_nanos(now_ns.saturating_sub(since_ns));
                    found = found.or(Transfer::of(status, to, &body, took));
                }
            }
            true
        })?;
        Ok(found)
    }
}
