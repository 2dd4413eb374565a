//! The modes of a replica and the reasons for its changes, as replies carry them. The machine is the shard's.

use crate::numbered::numbered;

numbered! {
    /// What a replica does for clients. A mode restricts clients only: in every mode but [`Mode::Floor`] an intact acceptor
    /// promises, votes and stands for election. The numbers are part of the format.
    Mode {
        /// It leads and serves, or follows such a leader and has caught up.
        Target = 1, "TARGET";
        /// No leader is known.
        Election = 2, "ELECTION";
        /// Fewer members than a quorum are heard.
        Degraded = 3, "DEGRADED";
        /// It started, or was cut off, and has not caught up.
        Recovery = 4, "RECOVERY";
        /// It cannot go on without an operator.
        Floor = 5, "FLOOR";
    }
}

impl Mode {
    /// Where it is counted: its place in [`Mode::ALL`].
    pub fn index(self) -> usize {
        self as usize - 1
    }
}

numbered! {
    /// Why a replica entered its mode. The numbers are part of the format.
    ModeReason {
        /// Its process started.
        Started = 1, "started";
        /// It leads, and all that it adopted is chosen and applied.
        Elected = 2, "elected";
        /// It follows a leader and has applied what that leader had chosen.
        CaughtUp = 3, "caught up with the leader";
        /// A leader was silent for an election time-out.
        LeaderSilent = 4, "leader silent";
        /// A higher ballot was seen.
        HigherBallot = 5, "higher ballot";
        /// It led, and does so no longer.
        SteppedDown = 6, "stepped down";
        /// It led, and fewer members than a quorum answered.
        QuorumLost = 7, "quorum lost";
        /// No election was won for an election time-out, in which fewer members than a quorum were heard.
        QuorumUnheard = 8, "quorum not heard";
        /// A quorum, or a leader that has one, is heard again.
        QuorumBack = 9, "quorum heard again";
        /// It follows a leader that is more than a window ahead.
        FarBehind = 10, "far behind the leader";
        /// A peer remembers records of this node that its disk has lost.
        DiskRolledBack = 11, "disk rolled back";
        /// A peer knows this node under an earlier format of its directory.
        FormattedAnew = 12, "formatted anew";
        /// Damage on too many members hides what may have been chosen.
        BeyondRepair = 13, "damaged beyond repair";
        /// An operator said so.
        Ordered = 14, "ordered by the operator";
        /// A majority of the members has another state after the same slot.
        StateDiverged = 15, "state differs from the others'";
        /// It is no member of the group any more.
        Removed = 16, "removed from the group";
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_format() {
        assert_eq!(Mode::ALL.len(), Mode::Floor as usize);
        for (at, mode) in Mode::ALL.iter().enumerate() {
            assert_eq!((mode.index(), Mode::from_u8(at as u8 + 1)), (at, Some(*mode)));
        }
        for (at, reason) in ModeReason::ALL.iter().enumerate() {
            assert_eq!((*reason as usize, ModeReason::from_u8(at as u8 + 1)), (at + 1, Some(*reason)));
        }
        assert_eq!((Mode::from_u8(0), Mode::from_u8(6)), (None, None));
        assert_eq!((ModeReason::from_u8(0), ModeReason::from_u8(17)), (None, None));
    }
}
