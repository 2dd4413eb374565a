//! Bodies of the request that a leader hand over to another member, and of its answer. The request names the leadership that is to end
//! by its ballot, so that it may be sent again and again: once that leadership is over, a copy of it ends no other.

use crate::Ballot;
use crate::frame::FrameError;
use crate::ids::NodeId;
use crate::numbered::numbered;
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// In the place of a node: none.
pub const NO_NODE: u8 = 0xff;

const _: () = assert!(NodeId::LIMIT < NO_NODE);

/// Asks the leader of a ballot to hand over.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct TransferBody {
    /// Comes back in the reply.
    pub request_id: U64,
    /// The ballot of the leadership that is to end, packed.
    pub ballot: U64,
    /// To whom; [`NO_NODE`]: to the member that is furthest of those that were heard of late.
    pub target: u8,
    /// Zero.
    pub reserved: [u8; 7],
}

impl TransferBody {
    /// A request's payload.
    pub fn parse(payload: &[u8]) -> Result<TransferBody, FrameError> {
        let body = TransferBody::read_from_bytes(payload).map_err(|_| FrameError::Body)?;
        let target = body.target == NO_NODE || body.target < NodeId::LIMIT;
        if body.ballot.get() == 0 || !target { Err(FrameError::Body) } else { Ok(body) }
    }

    /// The leadership that is to end.
    pub fn ballot(&self) -> Ballot {
        Ballot::unpack(self.ballot.get())
    }

    /// To whom, if it says.
    pub fn target(&self) -> Option<NodeId> {
        (self.target != NO_NODE).then_some(NodeId(self.target))
    }
}

numbered! {
    /// What became of a hand-over. The numbers are part of the format.
    TransferOutcome {
        /// The target leads, and serves.
        Done = 1, "done";
        /// Another member does.
        Elsewhere = 2, "elsewhere";
        /// The node does not lead in that ballot.
        NotThatLeader = 3, "not_that_leader";
        /// The target is the leader itself, or no voting member.
        NoTarget = 4, "no_target";
        /// The target, or every other member, was not heard for a heartbeat or two, or repairs its log.
        Silent = 5, "silent";
        /// The target did not catch up in an election time-out; the leader goes on.
        Lags = 6, "lags";
        /// The target did not take over in an election time-out; the leader goes on.
        NotTaken = 7, "not_taken";
        /// The leader gave way, and nobody led within the time that an election takes as a rule.
        NoLeader = 8, "no_leader";
        /// Another hand-over is under way, to another target.
        Busy = 9, "busy";
    }
}

/// What became of it.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct TransferReplyBody {
    /// The request's.
    pub request_id: U64,
    /// The promise of the one who answers, packed: the ballot of the new leader, if there is one.
    pub ballot: U64,
    /// [`TransferOutcome`].
    pub outcome: u8,
    /// Who leads, as far as the one who answers knows; [`NO_NODE`]: nobody.
    pub leader: u8,
    /// Zero.
    pub reserved: [u8; 6],
}

impl TransferReplyBody {
    /// A reply's payload.
    pub fn parse(payload: &[u8]) -> Result<TransferReplyBody, FrameError> {
        let body = TransferReplyBody::read_from_bytes(payload).map_err(|_| FrameError::Body)?;
        let leader = body.leader == NO_NODE || body.leader < NodeId::LIMIT;
        if body.outcome().is_none() || !leader { Err(FrameError::Body) } else { Ok(body) }
    }

    /// What became of it; `None`: a number that this version does not know.
    pub fn outcome(&self) -> Option<TransferOutcome> {
        TransferOutcome::from_u8(self.outcome)
    }

    /// Who leads.
    pub fn leader(&self) -> Option<NodeId> {
        (self.leader != NO_NODE).then_some(NodeId(self.leader))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_a_leadership_and_a_node_that_can_be() {
        let good = TransferBody { request_id: U64::new(1), ballot: U64::new(77), target: NO_NODE, reserved: [0; 7] };
        let parse = |body: TransferBody| TransferBody::parse(body.as_bytes());
        assert_eq!(parse(good), Ok(good));
        assert_eq!((good.target(), TransferBody { target: 3, ..good }.target()), (None, Some(NodeId(3))));
        assert!(parse(TransferBody { ballot: U64::ZERO, ..good }).is_err());
        assert!(parse(TransferBody { target: NodeId::LIMIT, ..good }).is_err());
        assert!(TransferBody::parse(&good.as_bytes()[1..]).is_err(), "cut");
    }

    #[test]
    fn an_answer_with_unknown_numbers_is_refused_and_the_outcomes_keep_theirs() {
        let good = TransferReplyBody { outcome: 1, leader: NO_NODE, ..Default::default() };
        let parse = |body: TransferReplyBody| TransferReplyBody::parse(body.as_bytes());
        assert_eq!(parse(good), Ok(good));
        assert!(parse(TransferReplyBody { outcome: 0, ..good }).is_err());
        assert!(parse(TransferReplyBody { outcome: 10, ..good }).is_err());
        assert!(parse(TransferReplyBody { leader: NodeId::LIMIT, ..good }).is_err());
        let numbers: Vec<u8> = TransferOutcome::ALL.iter().map(|outcome| *outcome as u8).collect();
        assert_eq!(numbers, (1..=9).collect::<Vec<u8>>());
    }
}
