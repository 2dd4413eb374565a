//! What strikes runs with leases: a leader that the members cannot reach and clients can, so that it is asked what it knows while
//! the others elect a rival. By chance alone that is rare. Used by the engine, in place of half of the cuts of such a run.

use crate::chaos::SPELL_MEAN_NS;
use crate::checks::Checked;
use crate::fault::Fault;
use crate::node::Health;
use crate::payload::{KEYS, Key};
use crate::plan::Timing;
use crate::sim::{Happening, Sim};
use crate::trace::End;
use synod_client::Consistency;
use synod_paxos::Role;

/// How long a process is down that starts again at once: its grants still run.
const RESTART_NS: u64 = 2_000_000;
/// How often the old leader is asked until its lease must have run out.
const QUESTIONS: u64 = 12;

impl Sim {
    pub(crate) fn aims_at_leases(&mut self) -> bool {
        self.plan.lease_ns > 0 && self.chaos.percent(50)
    }

    fn leader_up(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.role == Role::Leader && node.health == Health::Up)
    }

    fn some_other(&mut self, node: usize) -> usize {
        (node + 1 + self.chaos.below(self.plan.machines() as u64 - 1) as usize) % self.plan.machines()
    }

    /// The leader is cut off, and may stand still meanwhile, for less than the time after which it steps down by itself. Or
    /// it loses one member first, which stands for election in vain, as the others are bound to the leader; then it loses them
    /// all, and they die, forget what they granted, and are asked by the rival once more.
    pub(crate) fn cut_the_leader_off(&mut self, fault: Fault) -> Checked {
        let Some(leader) = self.leader_up() else { return Ok(()) };
        let Timing { election_min_ns, election_max_ns, .. } = self.plan.timing;
        if self.plan.rate(Fault::Kill) > 0 && self.chaos.percent(50) {
            let (rival, within_ns) = (self.some_other(leader), 2 * election_max_ns);
            self.cut_both(leader, rival, self.now_ns + 2 * within_ns);
            self.struck(fault, format!("n{leader}, which leads, loses n{rival}"));
            let in_ns = self.chaos.between(election_max_ns, within_ns);
            self.after(in_ns, Happening::Forget { leader, rival });
            return Ok(());
        }
        self.isolate_leader(fault, leader);
        if self.plan.rate(Fault::Pause) > 0 && self.chaos.percent(50) {
            let paused_ns = self.chaos.between(election_min_ns / 2, election_max_ns);
            self.nodes[leader].paused_until_ns = self.now_ns + paused_ns;
            self.struck(Fault::Pause, format!("n{leader} for {} ms", paused_ns / 1_000_000));
        }
        Ok(())
    }

    fn cut_both(&mut self, a: usize, b: usize, until_ns: u64) {
        self.net.cut(End::Node(a), End::Node(b), until_ns);
        self.net.cut(End::Node(b), End::Node(a), until_ns);
    }

    fn isolate_leader(&mut self, fault: Fault, leader: usize) {
        self.coverage.mark("a leader that held a lease was cut off");
        let until_ns = self.now_ns + self.plan.timing.election_max_ns + self.chaos.exponential(SPELL_MEAN_NS);
        for other in (0..self.plan.machines()).filter(|other| *other != leader) {
            self.net.cut(End::Node(leader), End::Node(other), until_ns);
            // One way is enough to lose it.
            if fault == Fault::Partition || self.chaos.percent(50) {
                self.net.cut(End::Node(other), End::Node(leader), until_ns);
            }
        }
        self.struck(fault, format!("n{leader}, which leads, is cut off"));
    }

    /// All but the leader and its rival start again, the leader cut off; it is asked while its lease may last.
    pub(crate) fn on_forget(&mut self, leader: usize, rival: usize) -> Checked {
        if !self.chaos_on || self.leader_up() != Some(leader) {
            return Ok(());
        }
        self.isolate_leader(Fault::Partition, leader);
        for other in (0..self.plan.machines()).filter(|other| *other != leader && *other != rival) {
            if self.nodes[other].health == Health::Up {
                self.struck(Fault::Kill, format!("kills n{other}, which starts again at once"));
                self.stop(other, false)?;
                self.after(RESTART_NS, Happening::Start { node: other });
            }
        }
        for question in 1..=QUESTIONS {
            self.after(self.plan.lease_ns * question / QUESTIONS, Happening::AskByLease);
        }
        Ok(())
    }

    /// The leader stands still for a lease's time in the turn that takes the next question, after it has read the clock.
    pub(crate) fn may_stall_the_leader(&mut self, percent: u64) {
        let may = self.chaos_on && self.plan.lease_ns > 0 && self.plan.rate(Fault::Pause) > 0;
        if let Some(leader) = self.leader_up().filter(|_| may && self.chaos.percent(percent)) {
            self.nodes[leader].stalls_ns = self.plan.lease_ns;
        }
    }

    pub(crate) fn on_ask_by_lease(&mut self) {
        self.may_stall_the_leader(50);
        self.ask_tails(self.plan.clients, Consistency::Lease);
        if self.plan.kv {
            let key = Key(self.client_rng.below(KEYS));
            self.ask_maps(self.plan.clients, Consistency::Lease, None, key);
        }
    }
}
