//! What a replica does for clients: its mode, the one function that changes it, and what each mode allows.
//!
//! A mode restricts clients only. It is derived from what the core knows and never acts back on it: an intact acceptor
//! promises, votes and stands for election in every mode but FLOOR, or a full power cut would never end. No I/O, no clock:
//! the shard feeds [`Modes::update`] once a turn, after the events and before the clients, and carries out what it says.
//!
//! The table of all changes is `modes.txt` beside this file, compared by a test; ARCHITECTURE.md draws it.

use synod_paxos::{Halt, Role};
use synod_wire::client::Refusal;
use synod_wire::guarantee::{Guarantee, Idempotence, Recency};
use synod_wire::mode::{Mode, ModeReason};
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Slot};

/// A silent leader is given up after so many of the longest election time-outs. The core gives it up within one, but for a
/// node whose disk is full, which does not stand.
const SILENT_LEADER_TIMEOUTS: u64 = 2;

/// Changes of one update at most: away from TARGET, and the whole way back (ELECTION or DEGRADED, RECOVERY, ELECTION, TARGET).
const MAX_CHANGES: usize = 5;

/// What the core knows, at the moment of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// Now, monotonic.
    pub now_ns: u64,
    /// The role.
    pub role: Role,
    /// Why the core halted, in role [`Role::Halted`].
    pub halted: Option<ModeReason>,
    /// The promised ballot.
    pub ballot: Ballot,
    /// When the other node that leads in this ballot was heard last; `None`: none is known.
    pub leader_heard_ns: Option<u64>,
    /// The chosen watermark that the leader of this ballot has told.
    pub watermark: Option<Slot>,
    /// The last slot applied.
    pub applied: Slot,
    /// Since when a quorum has been heard: the time at which the last member needed for one was.
    pub quorum_heard_ns: u64,
}

/// A change of mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Before.
    pub from: Mode,
    /// After.
    pub to: Mode,
    /// Why.
    pub reason: ModeReason,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct Modes {
    mode: Mode,
    reason: ModeReason,
    since_ns: u64,
    /// The ballot that TARGET was entered in: it holds for no other.
    ballot: Ballot,
    /// This node led when TARGET was entered.
    led: bool,
    /// The leader's watermark as first heard in this mode: who waits for it does not chase a moving mark.
    goal: Option<(Ballot, Slot)>,
    entered: [u32; Mode::ALL.len()],
    /// The last changes: the n-th is at n modulo the length.
    recent: [Option<Change>; MAX_CHANGES],
    changes: u64,
    role_seen: Role,
    due_ns: u64,
    timeout_ns: u64,
    window_slots: u64,
}

impl Modes {
    /// A process starts in RECOVERY. `timeout_ns` is the longest election time-out.
    pub fn new(now_ns: u64, timeout_ns: u64, window_slots: u64) -> Modes {
        let mut entered = [0; Mode::ALL.len()];
        entered[Mode::Recovery.index()] = 1;
        Modes {
            mode: Mode::Recovery,
            reason: ModeReason::Started,
            since_ns: now_ns,
            ballot: Ballot::ZERO,
            led: false,
            goal: None,
            entered,
            recent: [None; MAX_CHANGES],
            changes: 0,
            role_seen: Role::Joining,
            due_ns: now_ns + timeout_ns,
            timeout_ns,
            window_slots,
        }
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Why it was entered.
    pub fn reason(&self) -> ModeReason {
        self.reason
    }

    /// Since when it holds.
    pub fn since_ns(&self) -> u64 {
        self.since_ns
    }

    /// How often each mode was entered, in the order of [`Mode::ALL`].
    pub fn entered(&self) -> [u32; Mode::ALL.len()] {
        self.entered
    }

    /// When time alone may change the mode: [`Modes::update`] is due then at the latest.
    pub fn due_ns(&self, role: Role) -> u64 {
        if role == self.role_seen { self.due_ns } else { 0 }
    }

    /// How many changes there were.
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// The changes after the first `seen`, the oldest first, as far as they are remembered: all of one update are.
    pub fn changes_after(&self, seen: u64) -> impl Iterator<Item = Change> + '_ {
        let first = seen.max(self.changes.saturating_sub(MAX_CHANGES as u64));
        (first..self.changes).filter_map(|at| self.recent[at as usize % MAX_CHANGES])
    }

    /// Whether an update would change nothing: TARGET goes on. Asked first in every turn, as it costs little.
    pub fn stays_in_target(
        &mut self,
        now_ns: u64,
        role: Role,
        ballot: Ballot,
        leader_heard_ns: impl FnOnce() -> Option<u64>,
    ) -> bool {
        if self.mode != Mode::Target || ballot != self.ballot || role != self.role_seen {
            return false;
        }
        match role {
            Role::Leader => self.led,
            Role::Follower if !self.led => {
                // Also what the timer counts from: it never lies in the past while the leader is heard.
                let Some(heard_ns) = leader_heard_ns() else { return false };
                self.due_ns = heard_ns + SILENT_LEADER_TIMEOUTS * self.timeout_ns;
                now_ns < self.due_ns
            }
            _ => false,
        }
    }

    /// Follows the facts until the mode fits them; `on_change` hears of each change.
    pub fn update(&mut self, facts: &Facts, on_change: &mut dyn FnMut(Change)) {
        self.role_seen = facts.role;
        self.note_goal(facts);
        for _ in 0..MAX_CHANGES {
            let Some((to, reason)) = self.next(facts) else { break };
            let change = Change { from: self.mode, to, reason };
            self.enter(facts, to, reason);
            self.recent[self.changes as usize % MAX_CHANGES] = Some(change);
            self.changes += 1;
            on_change(change);
        }
        self.due_ns = self.due(facts);
    }

    fn note_goal(&mut self, facts: &Facts) {
        match (facts.watermark, self.goal) {
            (Some(_), Some((ballot, _))) if ballot == facts.ballot => {}
            (watermark, _) => self.goal = watermark.map(|slot| (facts.ballot, slot)),
        }
    }

    fn enter(&mut self, facts: &Facts, to: Mode, reason: ModeReason) {
        self.mode = to;
        self.reason = reason;
        self.since_ns = facts.now_ns;
        self.ballot = facts.ballot;
        self.led = facts.role == Role::Leader;
        self.entered[to.index()] = self.entered[to.index()].saturating_add(1);
    }

    /// The transition function: where the facts lead from here, and why; `None`: this mode fits.
    fn next(&self, facts: &Facts) -> Option<(Mode, ModeReason)> {
        if self.mode == Mode::Floor {
            return None;
        }
        if let Some(cause) = facts.halted {
            return Some((Mode::Floor, cause));
        }
        match self.mode {
            Mode::Target => self.leave_target(facts),
            Mode::Election => self.leave_election(facts),
            Mode::Degraded => self.leave_degraded(facts),
            Mode::Recovery => self.leave_recovery(facts),
            Mode::Floor => None,
        }
    }

    fn leave_target(&self, facts: &Facts) -> Option<(Mode, ModeReason)> {
        let same = facts.ballot == self.ballot;
        match facts.role {
            Role::Leader if same && self.led => None,
            Role::Follower if same && !self.led && self.hears_leader(facts) => None,
            _ if self.led && !self.hears_quorum(facts) => Some((Mode::Degraded, ModeReason::QuorumLost)),
            Role::Candidate | Role::Preparing | Role::Leader if !self.led => {
                Some((Mode::Election, ModeReason::LeaderSilent))
            }
            _ if !same => Some((Mode::Election, ModeReason::HigherBallot)),
            _ if self.led => Some((Mode::Election, ModeReason::SteppedDown)),
            _ => Some((Mode::Election, ModeReason::LeaderSilent)),
        }
    }

    fn leave_election(&self, facts: &Facts) -> Option<(Mode, ModeReason)> {
        if facts.role == Role::Leader {
            return Some((Mode::Target, ModeReason::Elected));
        }
        if self.hears_leader(facts) {
            let behind = self.goal.is_some_and(|(_, goal)| goal.0 > facts.applied.0 + self.window_slots);
            return match self.has_caught_up(facts) {
                true => Some((Mode::Target, ModeReason::CaughtUp)),
                false if behind => Some((Mode::Recovery, ModeReason::FarBehind)),
                false => None,
            };
        }
        let unheard = facts.now_ns >= self.since_ns + self.timeout_ns && !self.hears_quorum(facts);
        unheard.then_some((Mode::Degraded, ModeReason::QuorumUnheard))
    }

    fn leave_degraded(&self, facts: &Facts) -> Option<(Mode, ModeReason)> {
        let back = facts.role == Role::Leader || self.hears_leader(facts) || self.hears_quorum(facts);
        back.then_some((Mode::Recovery, ModeReason::QuorumBack))
    }

    fn leave_recovery(&self, facts: &Facts) -> Option<(Mode, ModeReason)> {
        match facts.role {
            Role::Candidate | Role::Preparing | Role::Leader => Some((Mode::Election, ModeReason::LeaderSilent)),
            _ if self.hears_leader(facts) => self.has_caught_up(facts).then_some((Mode::Target, ModeReason::CaughtUp)),
            _ if facts.now_ns >= self.since_ns + self.timeout_ns => Some((Mode::Election, ModeReason::LeaderSilent)),
            _ => None,
        }
    }

    fn hears_leader(&self, facts: &Facts) -> bool {
        let silent_ns = SILENT_LEADER_TIMEOUTS * self.timeout_ns;
        facts.role == Role::Follower && facts.leader_heard_ns.is_some_and(|heard| facts.now_ns < heard + silent_ns)
    }

    fn hears_quorum(&self, facts: &Facts) -> bool {
        facts.now_ns < facts.quorum_heard_ns + self.timeout_ns
    }

    fn has_caught_up(&self, facts: &Facts) -> bool {
        self.goal.is_some_and(|(ballot, goal)| ballot == facts.ballot && facts.applied >= goal)
    }

    fn due(&self, facts: &Facts) -> u64 {
        let leader_due_ns = facts.leader_heard_ns.map(|heard| heard + SILENT_LEADER_TIMEOUTS * self.timeout_ns);
        let own_due_ns = match self.mode {
            Mode::Floor => return u64::MAX,
            // A leader's own heartbeats say when it is one no longer.
            Mode::Target if self.led => return u64::MAX,
            Mode::Target | Mode::Degraded => u64::MAX,
            Mode::Election => self.since_ns.max(facts.quorum_heard_ns) + self.timeout_ns,
            Mode::Recovery => self.since_ns + self.timeout_ns,
        };
        // What is past has had its say: only a later event changes its meaning.
        let ahead = |due: &u64| *due > facts.now_ns;
        [Some(own_due_ns), leader_due_ns].into_iter().flatten().filter(ahead).min().unwrap_or(u64::MAX)
    }

    /// What an append is told, if it is not taken; `leader_known` is whether this node can name one.
    pub fn appends(&self, role: Role, leader_known: bool) -> Result<(), Refusal> {
        match self.mode {
            Mode::Degraded if mutant("degraded_serves_appends") => Ok(()),
            Mode::Target if role == Role::Leader => Ok(()),
            Mode::Target if leader_known => Err(Refusal::NotLeader),
            Mode::Target | Mode::Election => Err(Refusal::NoLeader),
            Mode::Degraded => Err(Refusal::QuorumUnavailable),
            Mode::Recovery => Err(Refusal::Recovering),
            Mode::Floor => Err(Refusal::ManualIntervention),
        }
    }

    /// What a client is told to wait that was refused for want of a leader: little, if one was lost just now and another is likely
    /// to be elected.
    pub fn no_leader_retry_us(&self, now_ns: u64) -> u32 {
        let young = self.mode == Mode::Election && now_ns.saturating_sub(self.since_ns) < YOUNG_ELECTION_NS;
        if young { YOUNG_ELECTION_RETRY_US } else { NO_LEADER_RETRY_US }
    }

    /// Whether reads that want evidence of how recent they are may ask for it.
    pub fn rounds(&self) -> Result<(), Refusal> {
        match self.mode {
            Mode::Target => Ok(()),
            Mode::Election => Err(Refusal::NoLeader),
            Mode::Degraded => Err(Refusal::QuorumUnavailable),
            Mode::Recovery => Err(Refusal::Recovering),
            Mode::Floor => Err(Refusal::ManualIntervention),
        }
    }

    /// How recent a read may call itself that brings no evidence of its own; `age_ms` is how old this node's state is at most, as
    /// far as that can be shown.
    pub fn reads(&self, age_ms: Option<u64>) -> Result<Recency, Refusal> {
        if mutant("stale_read_called_fresh") {
            return Ok(Recency::FreshReadIndex);
        }
        match self.mode {
            Mode::Recovery => Err(Refusal::Recovering),
            Mode::Degraded => Ok(age_ms.map_or(Recency::StalePossible, Recency::bounded_ms)),
            Mode::Target | Mode::Election | Mode::Floor => Ok(Recency::StalePossible),
        }
    }
}

/// What a halt of the core is called.
pub fn cause(halt: Halt) -> ModeReason {
    match halt {
        Halt::Behind { .. } => ModeReason::DiskRolledBack,
        Halt::FormattedAnew { .. } => ModeReason::FormattedAnew,
        Halt::BeyondRepair => ModeReason::BeyondRepair,
        Halt::Diverged { .. } => ModeReason::StateDiverged,
        Halt::Removed { .. } => ModeReason::Removed,
        Halt::Ordered => ModeReason::Ordered,
    }
}

/// An election that nothing hinders takes less than this.
const YOUNG_ELECTION_NS: u64 = 5_000_000;
/// What a client is told to wait while one is under way: a round trip and a sync.
const YOUNG_ELECTION_RETRY_US: u32 = 500;
/// What a client is told to wait while there is no leader, or this node catches up.
const NO_LEADER_RETRY_US: u32 = 10_000;
/// While no quorum is heard: members are started by people, and links mended.
const NO_QUORUM_RETRY_US: u32 = 50_000;
/// While an operator is awaited. Short, as a client that asks all members hears it from one of them.
const OPERATOR_RETRY_US: u32 = 100_000;

/// When to try again, microseconds; 0: the same request would be refused again. An append's BUSY has a hint of its own.
pub fn retry_after_us(refusal: Refusal) -> u32 {
    match refusal {
        Refusal::NotLeader | Refusal::NoLeader | Refusal::Recovering | Refusal::Busy | Refusal::NoLease => {
            NO_LEADER_RETRY_US
        }
        Refusal::QuorumUnavailable => NO_QUORUM_RETRY_US,
        Refusal::ManualIntervention => OPERATOR_RETRY_US,
        Refusal::TooLarge | Refusal::SessionEvicted | Refusal::ResendFrom | Refusal::BadQuestion | Refusal::Trimmed => {
            0
        }
    }
}

/// The strongest word that a read may bring in a mode: fresh needs TARGET.
pub fn may_be_fresh(mode: Mode) -> bool {
    mode == Mode::Target
}

/// What a refusal promises: it shows nothing, and the same request may be sent again, which has one effect at most.
pub fn guarantee_of_refusal(refusal: Refusal, of_a_read: bool) -> Guarantee {
    let idempotence = match refusal {
        _ if of_a_read => Idempotence::Harmless,
        // What became of the session's entries cannot be told.
        Refusal::SessionEvicted => Idempotence::None,
        _ => Idempotence::Session,
    };
    Guarantee { idempotence, ..Guarantee::NONE }
}

#[cfg(test)]
#[path = "mode_tests.rs"]
mod tests;
