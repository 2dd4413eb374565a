//! Appending on a condition: what an entry may ask for, and why it was not appended. Plain data, without I/O; used by the session
//! and by who drives it.

use std::num::NonZeroU64;
use synod_wire::Sequence;
use synod_wire::batch;
use synod_wire::client::Decision;
use zerocopy::little_endian::U64;

/// When an entry is to be appended. The group evaluates it where the entry stands in the total order, once: a retry is told the
/// first outcome, whatever has come true since.
///
/// The default asks for nothing. Where both are given the token comes first, and counts as seen even if the tail then does not
/// match.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Condition {
    /// Only if this is the last sequence of the log, so that the entry gets the next one; [`Sequence::ZERO`]: only if the log
    /// is empty.
    pub match_sequence: Option<Sequence>,
    /// A fencing token: only if the group has seen no higher one. The group remembers the highest that it has seen in any
    /// session; entries without a token are not fenced.
    pub fence: Option<NonZeroU64>,
}

impl Condition {
    /// Only if the last sequence is `tail`.
    pub fn tail(tail: Sequence) -> Condition {
        Condition { match_sequence: Some(tail), fence: None }
    }

    /// Only if no token above `token` was seen.
    pub fn fence(token: NonZeroU64) -> Condition {
        Condition { match_sequence: None, fence: Some(token) }
    }

    /// Whether it asks for nothing.
    pub fn is_none(&self) -> bool {
        *self == Condition::default()
    }

    /// As the wire has it; nothing for an entry that is appended in any case.
    pub(crate) fn to_wire(self) -> batch::Condition {
        // The last number stands for "any tail"; the one before it is as far out of reach of any log.
        let tail =
            self.match_sequence.map_or(batch::Condition::ANY_TAIL, |tail| tail.0.min(batch::Condition::ANY_TAIL - 1));
        batch::Condition { match_sequence: U64::new(tail), fence: U64::new(self.fence.map_or(0, NonZeroU64::get)) }
    }

    /// Bytes that it adds to a run.
    pub(crate) fn bytes(&self) -> usize {
        if self.is_none() { 0 } else { batch::CONDITION_BYTES }
    }
}

/// Why an entry has no sequence, and never will.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unmet {
    /// The log ended elsewhere than [`Condition::match_sequence`] asked for.
    #[error("the log ended at sequence {tail}, not where the condition asked for")]
    TailMoved {
        /// Where it ended when the entry's turn came.
        tail: Sequence,
    },
    /// A higher token than [`Condition::fence`] had been seen: another writer took over.
    #[error("it was fenced: a token of {highest} was seen before it")]
    Fenced {
        /// The highest seen when the entry's turn came.
        highest: u64,
    },
}

impl Unmet {
    /// What a decision says, if it says that an entry was not appended.
    pub(crate) fn of(decision: Decision, value: u64) -> Option<Unmet> {
        match decision {
            Decision::Appended => None,
            Decision::TailMoved => Some(Unmet::TailMoved { tail: Sequence(value) }),
            Decision::Fenced => Some(Unmet::Fenced { highest: value }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_keep_their_meaning_on_the_wire() {
        let token = NonZeroU64::new(7).unwrap();
        let both = Condition { match_sequence: Some(Sequence::ZERO), fence: Some(token) };
        assert_eq!((both.to_wire().matches(), both.to_wire().token()), (Some(0), Some(7)));
        assert_eq!(
            (Condition::tail(Sequence(4)).to_wire().matches(), Condition::fence(token).to_wire().matches()),
            (Some(4), None)
        );
        assert!(Condition::default().to_wire().is_none() && Condition::default().bytes() == 0);
        // A tail that no log has is not taken for "any".
        assert!(Condition::tail(Sequence(u64::MAX)).to_wire().matches().is_some());
    }
}
