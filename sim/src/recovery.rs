//! Starts of a node's process with what may go wrong in them: a process that dies inside recovery, in `format` or while it
//! prepares a segment or makes a snapshot. Which way each recovery went is marked for the coverage.

use crate::checks::Checked;
use crate::fault::Fault;
use crate::node::Health;
use crate::rng::Rng;
use crate::sim::{Happening, Sim};
use crate::trace::What;
use synod::shard::install::{TransferDone, TransferJob};
use synod::shard::jobs::{Done, Job};
use synod::shard::{Fatal, Findings};
use synod_wal::LogError;

/// The operations on its disk that a recovery, a format, the preparation of a segment or a snapshot gets to do before it dies.
const OPERATIONS: u64 = 14;
/// How many times likelier a death is where a write was torn: its cut is the rarest thing to interrupt.
const LIKELIER_TORN: u64 = 3;
/// How long the one who died stays down, on average.
const DOWN_MEAN_NS: u64 = 700_000_000;

impl Sim {
    /// Whether chance kills a process at what it begins now.
    fn dies_inside(&mut self, node: usize, most_operations: u64) -> bool {
        let likelier = if self.nodes[node].before.torn { LIKELIER_TORN } else { 1 };
        let rate = self.plan.rate(Fault::KillInRecovery) * likelier;
        if rate == 0 || !self.chaos_on || !self.chaos.ppm(rate) {
            return false;
        }
        let (operations, seed) = (self.chaos.below(most_operations), self.chaos.word());
        self.nodes[node].store.medium.dies_after(operations, Rng::new(seed, "death"));
        true
    }

    /// The production recovery and a shard, unless it dies inside. `Err`: it ended otherwise.
    pub(crate) fn recover(&mut self, node: usize, seed: u64) -> Result<Option<Findings>, Fatal> {
        let mut doomed = self.dies_inside(node, OPERATIONS);
        let this = &mut self.nodes[node];
        if let Some(operations) = this.doomed_after.take() {
            this.store.medium.dies_after(operations, Rng::new(seed, "death"));
            doomed = true;
        }
        this.store.medium.tally();
        let started = this.start(&self.plan, self.now_ns, seed);
        let died = this.store.medium.revive();
        if died {
            // What it found does not matter: nobody was told.
            this.stop();
            this.health = Health::Down;
            this.before.killed_while_cutting |= this.store.medium.tally().writes > 0;
            self.coverage.fault(Fault::KillInRecovery);
            self.coverage.mark("killed inside recovery");
            self.note(What::Node(node, "dies inside its recovery".to_owned()));
            let down_ns = 1_000_000 + self.chaos.exponential(DOWN_MEAN_NS);
            self.after(down_ns, Happening::Start { node });
            return Ok(None);
        }
        let findings = started?;
        self.choose_release(node);
        self.mark_recovery(node, &findings);
        if doomed {
            self.coverage.fault(Fault::KillInRecovery);
            self.coverage.mark("killed right after recovery");
            self.nodes[node].killed_after_recovery = true;
        }
        Ok(Some(findings))
    }

    /// Which ways a recovery went.
    fn mark_recovery(&mut self, node: usize, findings: &Findings) {
        let this = &mut self.nodes[node];
        let (before, tally) = (std::mem::take(&mut this.before), this.store.medium.tally());
        let shard = this.shard.as_ref().expect("the process runs");
        let core = shard.core();
        let lost = || findings.damage.iter().filter(|damage| damage.lost() > 0);
        let ways = [
            ("recovery: a clean end", findings.torn.is_none() && findings.damage.is_empty()),
            ("recovery: a torn tail, nothing of it kept", findings.torn.is_some_and(|torn| torn.kept == 0)),
            ("recovery: a torn tail, whole records kept", findings.torn.is_some_and(|torn| torn.kept > 0)),
            ("recovery: a snapshot and what the log has behind it", findings.snapshot.is_some()),
            (
                "recovery: a member's snapshot and the end of the own log",
                findings.installed && 2 * findings.records < shard.log().last_lsn().0,
            ),
            ("recovery: a torn flush whose trailer is whole", findings.torn.is_some() && before.trailer_over_torn),
            ("recovery: a cut that was interrupted, again", findings.torn.is_some() && before.killed_while_cutting),
            ("recovery: damage that is named", lost().any(|damage| damage.complete)),
            ("recovery: damage that is not all named", lost().any(|damage| !damage.complete)),
            ("recovery: damage that took no record", findings.damage.iter().any(|damage| damage.lost() == 0)),
            ("recovery: pages that cannot be read", before.unreadable && !findings.damage.is_empty()),
            ("recovery: a segment's header is damaged", before.header_lost && !findings.damage.is_empty()),
            ("recovery: a preparation left over", tally.leftovers > 0),
            ("recovery: the next segment was missing", tally.named > 0),
            ("recovery: damage hides some slots", core.unknown_slots().is_some_and(|slots| slots > 0)),
            ("recovery: damage hides all open slots", core.unknown_slots().is_none()),
            ("recovery: damage hides nothing any more", lost().next().is_some() && core.unknown_slots() == Some(0)),
            ("recovery: votes above the prefix", core.highest_held() > core.prefix()),
            ("recovery: chosen slots that are not here", core.known_chosen() > core.prefix()),
            ("recovery: the founding is not done", !core.is_founded()),
            ("recovery: a disk that was replaced or rolled back", this.robbed),
        ];
        for (way, went) in ways {
            if went {
                self.coverage.mark(way);
            }
        }
    }

    /// Makes a node's log anew; a process that dies inside is started again, and the directory it left is used.
    pub(crate) fn format_node(&mut self, node: usize, incarnation: u64, joins: bool) {
        self.checks.born(node, incarnation);
        self.dies_inside(node, OPERATIONS);
        let this = &mut self.nodes[node];
        let formatted = this.format(&self.plan, incarnation, joins);
        if !this.store.medium.revive() {
            return formatted.expect("memory takes a log");
        }
        self.coverage.mark("killed inside format");
        match this.format(&self.plan, incarnation, joins) {
            // The segment had its name already: it is whole.
            Ok(()) | Err(LogError::Formatted { .. }) => {}
            Err(error) => panic!("n{node}: a format that was interrupted cannot be repeated: {error}"),
        }
    }

    /// Carries out a job of housekeeping. None: the process died inside it.
    pub(crate) fn perform(&mut self, node: usize, job: Job) -> Result<Option<Done>, crate::checks::Violation> {
        let dies = match &job {
            Job::PrepareSegment(_) => Some(("killed while a segment was prepared", OPERATIONS)),
            Job::Checkpoint(_) => Some(("killed while a snapshot was made", OPERATIONS)),
            // One write, which is torn.
            Job::Transfer(TransferJob::Store(..)) => Some(("killed while chunks were stored", 1)),
            Job::Transfer(TransferJob::Install(..)) => Some(("killed while a snapshot was installed", OPERATIONS)),
            _ => None,
        };
        if let Some((_, operations)) = dies {
            self.dies_inside(node, operations);
        }
        let keeper = self.nodes[node].keeper.as_mut().expect("a process that runs has its housekeeper");
        let mut done = keeper.perform(job);
        if !self.nodes[node].store.medium.revive() {
            self.damage_chunks(node, &mut done);
            return Ok(Some(done));
        }
        self.coverage.mark(dies.expect("nobody dies in another job").0);
        self.kill(node, false)?;
        Ok(None)
    }

    /// What a member reads for another of its snapshot is not always what was written: only the checksum of the whole tells.
    fn damage_chunks(&mut self, node: usize, done: &mut Done) {
        let rate = self.plan.rate(Fault::BadChunk);
        let Done::Transfer(TransferDone::Read(_, Ok(bytes))) = done else { return };
        if rate == 0 || !self.chaos_on || bytes.is_empty() || !self.chaos.ppm(rate) {
            return;
        }
        let at = self.chaos.below(bytes.len() as u64) as usize;
        bytes[at] ^= 1 << self.chaos.below(8);
        self.coverage.fault(Fault::BadChunk);
        self.note(What::Node(node, format!("reads a wrong byte {at} of chunks")));
    }

    /// What recovery is followed by, if chance wants it.
    pub(crate) fn kill_after_recovery(&mut self, node: usize) -> Checked {
        match std::mem::take(&mut self.nodes[node].killed_after_recovery) {
            true => self.kill(node, false),
            false => Ok(()),
        }
    }
}
