//! Leases: while it holds one, the leader answers reads by its clock alone, as no other can have been elected.
//!
//! Every heartbeat asks for a lease, and an acceptor that answers it grants one: until so much time has passed on its own clock
//! since the heartbeat came, it lets its promise rise for nobody but the holder, neither for a prepare nor for an accept request
//! or a heartbeat of a higher ballot, nor to stand itself. The leader counts a grant from the moment that the heartbeat left, on
//! its own clock, less what two clocks may drift apart; it holds the lease while n - q1 + 1 members, itself included, have
//! granted it, for so many leave no phase 1 quorum. Clocks are not compared: each measures a span of its own.
//!
//! | schedule | closed by |
//! |---|---|
//! | a late or doubled answer makes a lease longer | a grant counts from when its heartbeat left, told apart by number |
//! | a heartbeat that comes again makes an acceptor wait anew | only a number above all before it, in its ballot, is granted |
//! | an acceptor starts again, has forgotten its grant, and promises | it first waits as long as it has ever granted; its log says how long (also after the configuration says otherwise) |
//! | damage hides how long it granted | it waits as long as leases are configured now, and logs that with the repair; who shortens leases does so while no log is damaged |
//! | members that are configured differently | the shorter length counts, and the answer says what was granted: nothing, where leases are off |
//! | a leader that was paused | the driver reads its clock after it reaped the request ([`Replica::lease_until_ns`]) |
//!
//! A leader that steps down, or promises to another, has given up its lease at once: it is the same process. One that hands over
//! gives it up before (`transfer.rs`), and frees those who granted it.

use crate::replica::Replica;
use crate::types::*;
use alloc::vec::Vec;
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, Lsn, NodeId};

/// Heartbeats whose departure is remembered; an answer to an older one grants nothing. A leader sends one an interval, and
/// one a round of reads, which takes a round trip.
const REMEMBERED: usize = 64;
/// Parts in a million.
const PPM: u128 = 1_000_000;

/// What an acceptor has granted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bound {
    /// To whom; `None`: it cannot tell, and waits for everybody's sake.
    holder: Option<NodeId>,
    /// Its promise does not rise for others before this, on its own clock.
    until_ns: u64,
    /// The part of it that an earlier start may have granted, of which nobody can be sure what it was.
    unsure_until_ns: u64,
}

impl Bound {
    /// Whether the promise must not rise to a ballot of this node now.
    pub(crate) fn binds(&self, now_ns: u64, candidate: NodeId) -> bool {
        now_ns < self.until_ns && self.holder != Some(candidate)
    }
}

/// What a replica keeps for leases.
#[derive(Clone, Debug)]
pub(crate) struct Leases {
    // As acceptor.
    pub(crate) bound: Bound,
    /// The last heartbeat that was granted.
    granted: (Ballot, u64),
    /// The last ballot in which the holder gave up what this node had granted.
    pub(crate) freed: Ballot,
    /// The longest lease that was ever granted from this log, and the record that says so.
    longest_ns: u64,
    longest_lsn: Lsn,
    /// What was waited for at the start.
    waited_ns: u64,

    // As leader, in the ballot that it leads in.
    /// When the last heartbeats left: number n at n modulo the length.
    left: [(u64, u64); REMEMBERED],
    /// Given up, until it is taken up again.
    released: bool,
    /// Until when each member's grant counts.
    counted: Vec<(NodeId, u64)>,
    until_ns: u64,
}

impl Leases {
    /// After a start: what may have been granted before it is waited out.
    pub(crate) fn new(settings: &Settings, restart: &Restart, now_ns: u64) -> Leases {
        let damaged = !restart.damaged.is_empty();
        let configured_ns = settings.lease.map_or(0, |lease| lease.length_ns);
        // Damage may hide the record, and the promise, which names the holder.
        let longest_ns = if damaged { configured_ns.max(restart.longest_lease_ns) } else { restart.longest_lease_ns };
        let waits_ns = if mutant("restart_forgets_lease") { 0 } else { longest_ns };
        let holder = (!damaged).then_some(restart.promised.node);
        let until_ns = if waits_ns == 0 { 0 } else { now_ns + waits_ns };
        Leases {
            bound: Bound { holder, until_ns, unsure_until_ns: until_ns },
            granted: (Ballot::ZERO, 0),
            freed: Ballot::ZERO,
            longest_ns: restart.longest_lease_ns,
            longest_lsn: Lsn::ZERO,
            waited_ns: longest_ns,
            left: [(0, 0); REMEMBERED],
            released: false,
            counted: Vec::with_capacity(settings.members.len()),
            until_ns: 0,
        }
    }

    /// A leadership begins or ends, and with it the lease.
    pub(crate) fn reset_leading(&mut self) {
        self.left = [(0, 0); REMEMBERED];
        self.released = false;
        self.counted.clear();
        self.until_ns = 0;
    }

    /// The leader gives up its lease: grants that are still under way count for nothing, and no more are asked for.
    pub(crate) fn give_up(&mut self) {
        self.released = true;
        self.counted.clear();
        self.until_ns = 0;
    }

    /// It goes on after all. Only later heartbeats ask, whose numbers no release has named.
    pub(crate) fn take_up(&mut self) {
        self.released = false;
        self.left = [(0, 0); REMEMBERED];
    }

    /// Whether this leader gave it up.
    pub(crate) fn is_given_up(&self) -> bool {
        self.released
    }

    /// The holder gave up what it was granted in this ballot, up to this heartbeat. What was granted to a later one stays, and what
    /// another was granted, and what an earlier start may have granted.
    pub(crate) fn free(&mut self, ballot: Ballot, probe: u64) {
        if self.granted > (ballot, probe) && !mutant("old_release_frees") {
            return;
        }
        self.granted = self.granted.max((ballot, probe));
        if self.bound.holder == Some(ballot.node) {
            self.freed = self.freed.max(ballot);
            self.bound.until_ns = self.bound.unsure_until_ns;
        }
    }

    /// A heartbeat leaves.
    pub(crate) fn leaves(&mut self, probe: u64, now_ns: u64) {
        self.left[probe as usize % REMEMBERED] = (probe, now_ns);
    }

    /// When a heartbeat left, if that is remembered.
    pub(crate) fn left_at(&self, probe: u64) -> Option<u64> {
        let (number, left_ns) = self.left[probe as usize % REMEMBERED];
        (probe != 0 && number == probe).then_some(left_ns)
    }

    fn count(&mut self, from: NodeId, until_ns: u64) {
        match self.counted.iter_mut().find(|(node, _)| *node == from) {
            Some((_, until)) => *until = until_ns.max(*until),
            None => self.counted.push((from, until_ns)),
        }
    }

    /// Until when at least `others` grants count: the end of the `others`-th latest.
    fn shared_until_ns(&self, others: usize) -> u64 {
        let still = |end: &u64| self.counted.iter().filter(|(_, until_ns)| until_ns >= end).count() >= others;
        self.counted.iter().map(|(_, until_ns)| *until_ns).filter(still).max().unwrap_or(0)
    }
}

impl Replica {
    // As acceptor.

    /// Whether a lease that this node granted keeps its promise from rising to a ballot of this node.
    pub(crate) fn is_bound(&self, candidate: NodeId) -> bool {
        self.leases.bound.binds(self.now_ns, candidate) && !mutant("promises_within_lease")
    }

    /// Until when this node's promise rises for the holder of its lease alone; in the past: it is free.
    pub fn bound_until_ns(&self) -> u64 {
        self.leases.bound.until_ns
    }

    /// What is configured.
    fn configured_lease_ns(&self) -> u64 {
        self.settings.lease.map_or(0, |lease| lease.length_ns)
    }

    /// What a heartbeat asks for.
    pub(crate) fn lease_asked_ns(&self) -> u64 {
        if self.leases.released { 0 } else { self.configured_lease_ns() }
    }

    /// A heartbeat of the promised ballot asks for a lease: how long a one is granted, from now on; 0: none.
    pub(crate) fn grant(&mut self, ballot: Ballot, probe: u64, asked_ns: u64) -> u64 {
        let length_ns = asked_ns.min(self.configured_lease_ns());
        if length_ns == 0 {
            return 0;
        }
        if (ballot, probe) <= self.leases.granted {
            return if mutant("replayed_heartbeat_grants") { length_ns } else { 0 };
        }
        self.leases.granted = (ballot, probe);
        if self.leases.freed == ballot {
            self.leases.freed = Ballot::ZERO;
        }
        if length_ns > self.leases.longest_ns {
            self.leases.longest_ns = length_ns;
            self.leases.longest_lsn = self.persist(Record::Lease { longest_ns: length_ns });
        }
        let bound = &mut self.leases.bound;
        if self.now_ns >= bound.until_ns {
            bound.holder = Some(ballot.node);
        }
        bound.until_ns = bound.until_ns.max(self.now_ns + length_ns);
        length_ns
    }

    /// Damage is repaired, and is no reason to wait at the next start: the log says anew what it may have hidden, how long leases
    /// were.
    pub(crate) fn log_lease_again(&mut self) {
        let Leases { longest_ns, waited_ns, .. } = self.leases;
        if longest_ns.max(waited_ns) > 0 {
            self.leases.longest_ns = longest_ns.max(waited_ns);
            self.leases.longest_lsn = self.persist(Record::Lease { longest_ns: self.leases.longest_ns });
        }
    }

    /// The record that an answer with a grant waits for: what is forgotten with the process must be known to the next.
    pub(crate) fn grant_lsn(&self) -> Lsn {
        self.leases.longest_lsn
    }

    // As leader.

    /// A member answered a heartbeat of this ballot, and granted so much.
    pub(crate) fn count_grant(&mut self, from: NodeId, probe: u64, granted_ns: u64) {
        let Some(lease) = self.settings.lease.filter(|_| granted_ns > 0 && !self.leases.released) else { return };
        let Some(mut since_ns) = self.leases.left_at(probe) else { return };
        if mutant("lease_from_answer") || mutant("replayed_heartbeat_grants") {
            since_ns = self.now_ns;
        }
        self.leases.count(from, since_ns + lease.counted_ns(granted_ns));
        self.leases.until_ns = self.leases.shared_until_ns(self.confirmation_quorum() - 1);
    }

    /// Until when this node's lease lasts, on its own clock: it answers reads with what it has delivered if the clock, read
    /// after the request was reaped, shows less. 0: it has none.
    pub fn lease_until_ns(&self) -> u64 {
        match self.settings.lease {
            // A configuration that is proposed voids it, and one that leaves has none.
            _ if !self.votes() || self.leading.proposed.is_some() => 0,
            Some(_) if self.leases.released => 0,
            Some(_) if self.role == Role::Leader && self.confirmation_quorum() == 1 => u64::MAX,
            Some(_) if self.role == Role::Leader => self.leases.until_ns,
            _ => 0,
        }
    }

    /// How long a lease is configured; `None`: they are off.
    pub fn lease_length_ns(&self) -> Option<u64> {
        self.settings.lease.map(|lease| lease.length_ns)
    }
}

impl Lease {
    /// What is left of a grant for its holder: the granter's clock may run fast by the whole drift, and the holder's slow.
    pub fn counted_ns(&self, granted_ns: u64) -> u64 {
        let drift = u128::from(self.drift_ppm).min(PPM);
        let counted = u128::from(granted_ns.min(self.length_ns)) * (PPM - drift) / (PPM + drift);
        // No longer than what was granted.
        counted as u64
    }
}
