//! Bodies of the question who chose a slot, and of a node's answer. The question is a client's; it concerns one slot, named
//! itself or by a sequence that was given in it. A node tells what it knows and no more: whoever wants to know whether the
//! nodes agree asks all of them.

use crate::frame::FrameError;
use crate::guarantee::GuaranteeBytes;
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Asks what a node knows of one slot. One of `sequence` and `slot` is 0, the other is asked for.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct EvidenceBody {
    /// Comes back in the reply.
    pub request_id: U64,
    /// The slot in which this sequence was given.
    pub sequence: U64,
    /// This slot.
    pub slot: U64,
}

impl EvidenceBody {
    /// A request's payload.
    pub fn parse(payload: &[u8]) -> Result<EvidenceBody, FrameError> {
        let body = EvidenceBody::read_from_bytes(payload).map_err(|_| FrameError::Body)?;
        if (body.sequence.get() == 0) == (body.slot.get() == 0) { Err(FrameError::Body) } else { Ok(body) }
    }
}

/// Whether a node told anything. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Told {
    /// The rest of the answer is what it knows of `slot`.
    Told = 1,
    /// It has not applied that sequence (yet).
    NotYet = 2,
    /// It knew, and its log can no longer be read there.
    Unreadable = 3,
    /// It is busy with other such questions, or has that record not on its disk yet: ask again.
    Busy = 4,
}

impl Told {
    const ALL: [Told; 4] = [Told::Told, Told::NotYet, Told::Unreadable, Told::Busy];

    /// What has this number.
    pub fn from_u8(byte: u8) -> Option<Told> {
        Told::ALL.into_iter().find(|told| *told as u8 == byte)
    }

    /// As the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Told::Told => "told",
            Told::NotYet => "not_yet",
            Told::Unreadable => "unreadable",
            Told::Busy => "busy",
        }
    }
}

/// How a node holds the value of a slot. The numbers are part of the format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Held {
    /// Not at all.
    Nothing = 0,
    /// It accepted it in `ballot`, and stands by that vote.
    Accepted = 1,
    /// A peer told it that the value, accepted there in `ballot`, was chosen.
    Learnt = 2,
    /// It accepted it in `ballot`, but its record is not durable: that is no vote yet.
    Unsynced = 3,
}

impl Held {
    const ALL: [Held; 4] = [Held::Nothing, Held::Accepted, Held::Learnt, Held::Unsynced];

    /// What has this number.
    pub fn from_u8(byte: u8) -> Option<Held> {
        Held::ALL.into_iter().find(|held| *held as u8 == byte)
    }

    /// As the command line writes it.
    pub fn name(self) -> &'static str {
        match self {
            Held::Nothing => "nothing",
            Held::Accepted => "accepted",
            Held::Learnt => "learnt",
            Held::Unsynced => "unsynced",
        }
    }
}

/// What a node knows of a slot.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned, PartialEq, Eq)]
#[repr(C)]
pub struct EvidenceReplyBody {
    /// The request's.
    pub request_id: U64,
    /// The slot; 0 where a sequence was asked for whose slot the node does not know.
    pub slot: U64,
    /// The last sequence that this node has applied.
    pub tail: U64,
    /// The ballot that the value is held in, packed.
    pub ballot: U64,
    /// The record that holds it.
    pub lsn: U64,
    /// The ballot that chose it, packed, as this node's log has it; 0: its log does not say.
    pub chosen_ballot: U64,
    /// Whose votes chose it, as [`crate::NodeSet`]; empty: that stands in the log of the ballot's leader.
    pub acceptors: U64,
    /// Those whose votes choose the slot, as [`crate::NodeSet`]; none: the node does not know any more, or not yet.
    pub members: U64,
    /// The epoch of the configuration that governs the slot; 0: the node does not know any more, or not yet.
    pub epoch: U32,
    /// The value's checksum (CRC-32C).
    pub payload_crc: U32,
    /// The value's bytes.
    pub payload_bytes: U32,
    /// The phase 1 quorum.
    pub phase1: u8,
    /// The phase 2 quorum.
    pub phase2: u8,
    /// [`Told`].
    pub told: u8,
    /// [`Held`].
    pub held: u8,
    /// 1: this node knows the slot chosen.
    pub known_chosen: u8,
    /// [`crate::mode::Mode`] of the node.
    pub mode: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// What the reply promises.
    pub guarantee: GuaranteeBytes,
}

impl EvidenceReplyBody {
    /// A reply's payload.
    pub fn parse(payload: &[u8]) -> Result<EvidenceReplyBody, FrameError> {
        let body = EvidenceReplyBody::read_from_bytes(payload).map_err(|_| FrameError::Body)?;
        let named = body.told() != Some(Told::Told) || body.slot.get() > 0;
        if body.told().is_none() || body.held().is_none() || body.known_chosen > 1 || !named {
            return Err(FrameError::Body);
        }
        Ok(body)
    }

    /// Whether the node told anything; `None`: a number that this version does not know.
    pub fn told(&self) -> Option<Told> {
        Told::from_u8(self.told)
    }

    /// How it holds the value; `None`: a number that this version does not know.
    pub fn held(&self) -> Option<Held> {
        Held::from_u8(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_names_a_slot_or_a_sequence() {
        let parse = |sequence, slot| {
            let body = EvidenceBody { request_id: U64::new(1), sequence: U64::new(sequence), slot: U64::new(slot) };
            EvidenceBody::parse(body.as_bytes())
        };
        assert!(parse(0, 5).is_ok() && parse(5, 0).is_ok());
        assert!(parse(0, 0).is_err() && parse(5, 5).is_err());
    }

    #[test]
    fn an_answer_with_unknown_numbers_or_without_its_slot_is_refused() {
        let good = EvidenceReplyBody { slot: U64::new(3), told: 1, held: 2, ..Default::default() };
        let parse = |body: EvidenceReplyBody| EvidenceReplyBody::parse(body.as_bytes());
        assert_eq!(parse(good), Ok(good));
        assert!(parse(EvidenceReplyBody { told: 0, ..good }).is_err());
        assert!(parse(EvidenceReplyBody { told: 5, ..good }).is_err());
        assert!(parse(EvidenceReplyBody { held: 4, ..good }).is_err());
        assert!(parse(EvidenceReplyBody { known_chosen: 2, ..good }).is_err());
        assert!(parse(EvidenceReplyBody { slot: U64::ZERO, ..good }).is_err());
        assert!(parse(EvidenceReplyBody { slot: U64::ZERO, told: Told::NotYet as u8, ..good }).is_ok());
        assert!(EvidenceReplyBody::parse(&good.as_bytes()[1..]).is_err(), "cut");
    }
}
