//! A run from beginning to end: chaos first, then a healed core that must commit again and converge, then the logs on
//! disk. The two phases are TigerBeetle's: safety under anything, liveness as soon as a quorum is well.

use crate::checks::{Checked, SIMULATOR, Violation, applied_log, violated};
use crate::client::{Appender, Reader};
use crate::coverage::Coverage;
use crate::fault::Fault;
use crate::load::Client;
use crate::node::Health;
use crate::plan::Plan;
use crate::queue::NEVER;
use crate::sim::{Happening, Sim};
use crate::subscriber::Subscriber;
use crate::trace::{End, What};
use serde::{Deserialize, Serialize};
use synod_client::Consistency;
use synod_paxos::Role;
use synod_wire::Slot;

/// What the end of a run says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// The hash of the whole trace.
    pub hash: u64,
    /// Events in it.
    pub events: u64,
    /// Simulated nanoseconds.
    pub simulated_ns: u64,
    /// Entries acknowledged and reads answered.
    pub operations: u64,
    /// Entries and reads that clients asked for. Faults may leave a group without a leader for most of a run, or a client
    /// with a full window; what it asked for then is load all the same.
    pub offered: u64,
    /// Simulated nanoseconds of load: without the time in which clients only wait for their last answers.
    pub load_ns: u64,
    /// Slots chosen.
    pub slots: u64,
    /// What was come by.
    pub coverage: Coverage,
}

/// A run that broke a property.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The plan, which runs it again.
    pub plan: Plan,
    /// What did not hold.
    pub violation: Violation,
    /// When, simulated nanoseconds.
    pub at_ns: u64,
    /// The last events.
    pub events: Vec<String>,
}

/// Within so many election time-outs a healed core must have chosen something new (OmniPaxos, EuroSys'23).
const ELECTIONS_TO_COMMIT: u64 = 4;
/// With a healthy core, clients get all their answers within this.
const DRAIN_NS: u64 = 10_000_000_000;
/// And members all the slots.
const CONVERGE_NS: u64 = 10_000_000_000;
/// Who joined a moment ago has the whole log to learn, a window at a time: so much more for each slot, where members change.
const CATCH_UP_SLOT_NS: u64 = 5_000_000;
/// How long the load goes on after the healing.
const CALM_NS: u64 = 2_000_000_000;
/// A fresh read is asked for so often, an election time-out apart, of a healthy core: a leader may be lost meanwhile.
const READ_TRIES: usize = 12;
/// How often a condition is looked at.
const LOOK_NS: u64 = 10_000_000;
/// Events in a failure's report.
const REPORTED: usize = 60;

/// Runs a plan. `print` writes every event to the standard output.
///
/// # Panics
/// If an assertion of the product fails.
pub fn run(plan: &Plan, print: bool) -> Result<Outcome, Box<Failure>> {
    crate::known::switch_on(plan.mutant.as_deref());
    let mut sim = Sim::new(plan, print);
    let result = sim.whole();
    match result {
        Ok(()) => Ok(sim.outcome()),
        Err(violation) => {
            let events = sim.trace.tail(REPORTED);
            Err(Box::new(Failure { plan: plan.clone(), violation, at_ns: sim.now_ns, events }))
        }
    }
}

impl Sim {
    fn outcome(&self) -> Outcome {
        Outcome {
            hash: self.trace.hash(),
            events: self.trace.events(),
            simulated_ns: self.now_ns,
            operations: self.operations,
            offered: self.offered,
            load_ns: self.load_ns,
            slots: self.checks.prefix.end().0,
            coverage: Coverage { kinds: self.frames_sent.counts(), ..self.coverage.clone() },
        }
    }

    fn whole(&mut self) -> Checked {
        self.begin()?;
        self.run_until(self.plan.safety_ms * 1_000_000)?;
        let core = self.heal()?;
        self.must_commit(&core)?;
        self.load_on_for(CALM_NS)?;
        self.must_drain()?;
        self.must_converge(&core)?;
        self.must_answer_reads(&core)?;
        self.release_the_others()?;
        let living = self.living();
        self.must_converge(&living)?;
        self.must_stream(DRAIN_NS)?;
        if self.checks.conditions.count() > 0 {
            self.coverage.mark("an entry was not appended, as its condition was not met");
        }
        if self.checks.sessions.rested() > 0 {
            self.coverage.mark("sessions rested for too long by the log's time");
        }
        let (searched, mixed) = self.checks.real_time()?;
        (0..searched).for_each(|_| self.coverage.mark("a piece of history was searched for an order"));
        (0..mixed).for_each(|_| self.coverage.mark("a piece of history had reads during appends"));
        self.compare_logs(&living)
    }

    fn begin(&mut self) -> Checked {
        for node in 0..self.plan.nodes {
            let incarnation = self.rng.word().max(1);
            self.format_node(node, incarnation, false);
            let at_ns = self.rng.below(50_000_000);
            self.at(at_ns, Happening::Start { node });
        }
        for spare in self.plan.nodes..self.plan.machines() {
            self.join_anew(spare)?;
        }
        for client in 0..self.plan.clients {
            self.clients.push(Client::Appender(Box::new(Appender::new(&self.plan, client, 0))));
            self.after(2_000_000, Happening::Offer { client });
        }
        for reader in self.plan.clients..self.plan.clients + self.plan.readers {
            self.clients.push(Client::Reader(Reader::new(&self.plan, reader)));
            self.after(500_000_000, Happening::Read { client: reader });
        }
        for subscriber in self.clients.len()..self.clients.len() + self.plan.subscribers {
            self.clients.push(Client::Subscriber(Subscriber::new(&self.plan, subscriber)));
        }
        for client in 0..self.clients.len() {
            self.drive(client)?;
        }
        for index in 0..self.plan.script.len() {
            self.at(self.plan.script[index].at_ms * 1_000_000, Happening::Scripted { index });
        }
        if self.plan.trim_mean_ms > 0 {
            self.after(5_000_000_000, Happening::Trim);
        }
        // A scenario is its own operator.
        if self.plan.change_mean_ms > 0 && self.plan.script.is_empty() {
            self.after(3_000_000_000, Happening::Change);
        }
        let first_ns = self.chaos.exponential(self.plan.timing.strike_mean_ns);
        self.after(first_ns, Happening::Strike);
        if self.plan.transfer_ns > 0 {
            let first_ns = self.transfers.exponential(self.plan.transfer_ns);
            self.after(first_ns, Happening::Transfer);
        }
        Ok(())
    }

    /// Ends the chaos for a core of nodes; the others stay as they are: down, or cut off. The core is all living nodes
    /// where damage or loss makes every copy count.
    fn heal(&mut self) -> Result<Vec<usize>, Violation> {
        self.chaos_on = false;
        self.net.chaos = false;
        self.net.heal();
        self.heal_subscribers()?;
        self.overload_until_ns = 0;
        let now_ns = self.now_ns;
        for node in 0..self.plan.machines() {
            if self.nodes[node].robbed && self.nodes[node].health != Health::Dead("it lost its state") {
                // It has met nobody who remembers; nobody else may tell it that all is well.
                self.stop(node, false)?;
                self.nodes[node].health = Health::Dead("it lost its state, and nobody up remembers it");
            }
            let this = &mut self.nodes[node];
            this.disk.settle();
            this.disk.stalled_until_ns = 0;
            this.disk.slow_until_ns = 0;
            this.disk.no_space_until_ns = 0;
            this.disk.fail_next = false;
            this.slow_until_ns = 0;
            this.paused_until_ns = 0;
            this.stalls_ns = 0;
            this.effects_left = None;
            this.withheld_until_ns = 0;
            this.clock.set_drift(now_ns, 0);
            // What a stalled disk holds comes now, not when the stall would have ended.
            let life = this.life;
            let ids: Vec<u64> = this.disk.in_flight.keys().copied().collect();
            for id in ids {
                self.after(1_000_000, Happening::Written { node, life, id });
            }
        }
        let mut core = self.living();
        let spare = core.len().saturating_sub(self.core_size());
        let damaged = self.nodes.iter().any(|node| node.damaged);
        // A group that is being founded needs every member, by design.
        let changes = self.plan.change_mean_ms > 0;
        if !damaged && !changes && self.nodes.iter().all(|node| node.founded) {
            for _ in 0..self.chaos.below(spare as u64 + 1) {
                // Whose silence matters most is the leader's.
                let leader = core.iter().position(|node| self.nodes[*node].role == Role::Leader);
                let leader = leader.filter(|_| self.chaos.percent(50));
                let at = leader.unwrap_or_else(|| self.chaos.below(core.len() as u64) as usize);
                let out = core.remove(at);
                self.leave_out(out)?;
            }
        }
        self.note(What::World(format!("the core {core:?} is healed")));
        for node in &core {
            self.start(*node)?;
            // A pause that is over leaves its appointment in the future.
            self.nodes[*node].turn = NEVER;
            self.wake_node(*node);
        }
        Ok(core)
    }

    /// A node that is not of the core stays down, or cut off: both ways, or so that it only hears, or only speaks (FAULTS 5).
    fn leave_out(&mut self, node: usize) -> Checked {
        if self.chaos.percent(50) {
            self.stop(node, false)?;
            self.nodes[node].health = Health::Dead(LEFT_OUT);
            return Ok(());
        }
        let (hears, speaks) = self.chaos.pick(&[(false, false), (true, false), (false, true)]);
        for other in (0..self.plan.machines()).filter(|other| *other != node) {
            if !speaks {
                self.net.cut(End::Node(node), End::Node(other), u64::MAX);
            }
            if !hears {
                self.net.cut(End::Node(other), End::Node(node), u64::MAX);
            }
        }
        self.note(What::World(format!("n{node} is left out; hears: {hears}, speaks: {speaks}")));
        self.start(node)
    }

    fn release_the_others(&mut self) -> Checked {
        self.net.heal();
        for node in 0..self.plan.machines() {
            if self.nodes[node].health == Health::Dead(LEFT_OUT) {
                self.nodes[node].health = Health::Down;
            }
            self.start(node)?;
        }
        Ok(())
    }

    fn living(&self) -> Vec<usize> {
        let lives = |node: &usize| !matches!(self.nodes[*node].health, Health::Dead(_)) && self.belongs(*node);
        (0..self.plan.machines()).filter(lives).collect()
    }

    /// Lets things happen until `done`, for at most `within_ns`; whether it was.
    pub(crate) fn run_while(&mut self, within_ns: u64, done: impl Fn(&Sim) -> bool) -> Result<bool, Violation> {
        let until_ns = self.now_ns + within_ns;
        while !done(self) {
            if self.now_ns >= until_ns {
                return Ok(false);
            }
            self.run_until((self.now_ns + LOOK_NS).min(until_ns))?;
        }
        Ok(true)
    }

    /// How long the one of a core that lags most may need for what was chosen up to `last`, at the configured pace: it takes nothing far
    /// above its prefix. Who asks a member that keeps silent in between is sent some of it twice.
    fn catch_up_ns(&self, core: &[usize], last: Slot) -> u64 {
        let applied = |node: &usize| self.nodes[*node].shard.as_ref().map_or(Slot::ZERO, |shard| shard.applied());
        let first = core.iter().map(applied).min().unwrap_or(last);
        let bytes = 2 * last.0.saturating_sub(first.0) * self.plan.max_batch_bytes as u64;
        bytes * 1_000_000_000 / self.plan.catch_up_bytes_per_s
    }

    /// L1: a healthy core chooses something new within a few election time-outs.
    fn must_commit(&mut self, core: &[usize]) -> Checked {
        if core.iter().filter(|node| self.votes(**node)).count() < self.core_size() {
            return violated(SIMULATOR, format!("only {core:?} are left, too few to demand anything of"));
        }
        let before = self.checks.highest_chosen().0;
        let began_ns = self.now_ns;
        // A successor may have to wait for one lease before it is elected.
        let elections = if self.plan.change_mean_ms > 0 { 2 * ELECTIONS_TO_COMMIT } else { ELECTIONS_TO_COMMIT };
        let within_ns =
            elections * self.plan.timing.election_max_ns + self.plan.lease_ns + self.catch_up_ns(core, before);
        // Something to commit must be there, even in a quiet moment.
        for client in 0..self.plan.clients {
            self.offer_now(client, 1)?;
        }
        let served = |sim: &Sim| sim.leads_in(core) && sim.clients.iter().all(Client::is_drained);
        let done = self.run_while(within_ns, |sim| sim.checks.highest_chosen().0 > before || served(sim))?;
        self.coverage.mark("a healed core was asked to commit");
        if done {
            return Ok(());
        }
        let detail = format!(
            "the core {core:?} chose nothing above slot {before} in {} ms, {elections} election time-outs and {} ms of a \
             lease; {}",
            (self.now_ns - began_ns) / 1_000_000,
            self.plan.lease_ns / 1_000_000,
            self.states()
        );
        violated("a healthy core commits again", detail)
    }

    fn states(&self) -> String {
        let state = |node: &crate::node::Node| match &node.shard {
            Some(shard) => {
                let core = shard.core();
                format!(
                    "n{} {:?} in {} applied {} unknown {:?} log {} of {} durable, room {}",
                    node.index,
                    core.role(),
                    core.promised(),
                    shard.applied(),
                    core.unknown_slots(),
                    shard.log().durable_lsn(),
                    shard.log().last_lsn(),
                    shard.log().room()
                )
            }
            None => format!("n{} {:?}", node.index, node.health),
        };
        self.nodes.iter().map(state).collect::<Vec<_>>().join(", ")
    }

    fn leads_in(&self, core: &[usize]) -> bool {
        let serves = |node: &usize| self.nodes[*node].shard.as_ref().is_some_and(|s| s.core().role() == Role::Leader);
        core.iter().any(serves)
    }

    fn load_on_for(&mut self, ns: u64) -> Checked {
        self.run_until(self.now_ns + ns)?;
        self.load_on = false;
        self.load_ns = self.now_ns;
        Ok(())
    }

    /// Every entry offered gets its answer.
    fn must_drain(&mut self) -> Checked {
        if self.run_while(DRAIN_NS, |sim| sim.clients.iter().all(Client::is_drained))? {
            return Ok(());
        }
        violated(
            "clients are answered",
            format!("some client still waits {} s after the load ended; {}", DRAIN_NS / 1_000_000_000, self.states()),
        )
    }

    /// All of `nodes` apply all that was ever applied.
    fn must_converge(&mut self, nodes: &[usize]) -> Checked {
        let converged = |sim: &Sim| {
            let end = sim.checks.prefix.end();
            let has_all = |node: &usize| sim.nodes[*node].shard.as_ref().is_some_and(|shard| shard.applied() == end);
            nodes.iter().all(|node| has_all(node) || !sim.belongs(*node))
        };
        let slots = if self.plan.change_mean_ms > 0 { self.checks.prefix.end().0 } else { 0 };
        if self.run_while(CONVERGE_NS + slots * CATCH_UP_SLOT_NS, converged)? {
            return Ok(());
        }
        let end = self.checks.prefix.end();
        violated("members converge", format!("not all of {nodes:?} have applied slot {end}; {}", self.states()))
    }

    /// Every member of a healthy core answers a fresh read.
    fn must_answer_reads(&mut self, core: &[usize]) -> Checked {
        if self.plan.readers == 0 {
            return Ok(());
        }
        self.answered_fresh.clear();
        let all = |sim: &Sim| core.iter().all(|node| sim.answered_fresh.contains(node) || !sim.belongs(*node));
        for _ in 0..READ_TRIES {
            self.ask_tails(self.plan.clients, Consistency::ReadIndex);
            if self.run_while(self.plan.timing.election_min_ns, all)? {
                return self.must_answer_by_lease();
            }
        }
        let silent: Vec<&usize> = core.iter().filter(|node| !self.answered_fresh.contains(node)).collect();
        violated("members answer reads", format!("{silent:?} of the core answer no fresh read; {}", self.states()))
    }

    /// And the leader by its lease.
    fn must_answer_by_lease(&mut self) -> Checked {
        self.answered_lease = self.plan.lease_ns == 0;
        for _ in 0..READ_TRIES {
            self.ask_tails(self.plan.clients, Consistency::Lease);
            if self.run_while(self.plan.timing.election_min_ns, |sim| sim.answered_lease)? {
                return Ok(());
            }
        }
        violated("members answer reads", format!("no leader answers by its lease; {}", self.states()))
    }

    /// The processes end, and what they leave on disk is compared.
    fn compare_logs(&mut self, nodes: &[usize]) -> Checked {
        let quiet = |sim: &Sim| {
            let mut shards = nodes.iter().filter_map(|node| sim.nodes[*node].shard.as_ref());
            shards.all(|shard| shard.log().durable_lsn() == shard.log().last_lsn())
        };
        if !self.run_while(CONVERGE_NS, quiet)? {
            return violated("members converge", format!("a log does not become durable; {}", self.states()));
        }
        for node in nodes {
            if let Some(shard) = &self.nodes[*node].shard {
                self.checks.sessions.answers_are_true(*node, shard.machine())?;
            }
            let applied: Slot = self.nodes[*node].shard.as_ref().map_or(Slot::ZERO, |shard| shard.applied());
            self.stop(*node, false)?;
            let this = &self.nodes[*node];
            let damaged = |slot| self.damaged_slots.contains(&(slot, *node));
            applied_log(&this.dir, *node, applied, &self.checks.prefix, &damaged)?;
        }
        let most = self.checks.acked.count();
        self.trace.mix(most);
        if self.plan.rate(Fault::PowerCut) == 0 && self.plan.faults.is_empty() && most == 0 {
            return violated("clients are answered", "a calm run acknowledged nothing");
        }
        Ok(())
    }
}

const LEFT_OUT: &str = "left out of the core";
