//! How nodes come and go: starts of a process, its ends by a fault, a kill or an operator, and what is demanded of each.

use crate::checks::{Checked, has_a_cause, violated};
use crate::disk::Crash;
use crate::fault::Fault;
use crate::members::change_marks;
use crate::node::Health;
use crate::sim::{Happening, Sim};
use crate::trace::What;
use synod::shard::Fatal;
use synod_wal::LogError;
use synod_wire::Slot;

/// How long a halted node waits for its operator.
const OPERATOR_MEAN_NS: u64 = 300_000_000;
/// How long a stopped node stays down.
const DOWN_MEAN_NS: u64 = 700_000_000;

impl Sim {
    /// Starts a node's process, unless it runs or has ended for good.
    pub(crate) fn start(&mut self, node: usize) -> Checked {
        if self.nodes[node].health != Health::Down {
            return Ok(());
        }
        let seed = self.rng.word();
        let now_ns = self.now_ns;
        let excused = self.nodes[node].robbed;
        match self.recover(node, seed) {
            Ok(Some(findings)) => has_a_cause(node, &findings, excused || self.nodes[node].damaged)?,
            Ok(None) => return Ok(()),
            Err(fatal) => return self.ended(node, fatal),
        }
        self.trace.note(now_ns, What::Node(node, "starts".to_owned()));
        self.coverage.mark("a process started");
        let this = &mut self.nodes[node];
        let shard = this.shard.as_ref().expect("the process runs");
        this.open_at_start = shard.core().highest_held().0.saturating_sub(shard.core().prefix().0);
        let survived = this.disk.recovered(shard.core().last_lsn(), |record| {
            // Beside a page that cannot be read the arena has no bytes; then the ballot tells.
            let (slot, ballot) = (record.header.slot, record.header.ballot);
            let value = shard.value(slot);
            value.is_some_and(|value| synod_wire::frame::checksum(value) == record.payload_crc)
                || shard.core().held(slot) == Some(ballot)
        });
        let seen = shard.applied().min(self.checks.prefix.end());
        self.checks.restarted(node, shard.core(), seen, excused, now_ns)?;
        self.checks.modes.restarted(node, shard.modes())?;
        self.checks.survived(node, &survived, shard.log().durable_lsn())?;
        if shard.applied() > seen {
            self.coverage.mark("recovery: it applies what nobody applied before");
        }
        // A recovery may be the first to apply what was chosen behind a hole.
        for slot in (seen.0 + 1..=shard.applied().0).map(Slot) {
            if let Some(Some(changed)) = self.checks.applied(node, slot, &this.value_on_disk(slot)?)? {
                change_marks(changed).for_each(|mark| self.coverage.mark(mark));
            }
        }
        self.checks.sessions.agrees(node, shard.applied(), shard.machine())?;
        self.checks.sessions.answers_are_true(node, shard.machine())?;
        self.checks.kv.agrees(node, shard.applied(), shard.embedded())?;
        if self.checks.prefix.end().0 > shard.applied().0 + self.plan.window_slots {
            self.coverage.mark("a member came back more than a window behind");
        }
        if excused && !self.only_who_remembers(node) {
            self.stop(node, false)?;
            self.nodes[node].health = Health::Dead("it lost its state, and nobody up remembers it");
            return Ok(());
        }
        if excused {
            self.robbed_node_starts(node);
        }
        self.wake_node(node);
        self.kill_after_recovery(node)
    }

    /// The process ends here and now; it is started again later.
    pub(crate) fn kill(&mut self, node: usize, power: bool) -> Checked {
        if self.nodes[node].health != Health::Up {
            return Ok(());
        }
        self.stop(node, power)?;
        let down_ns = 1_000_000 + self.chaos.exponential(DOWN_MEAN_NS);
        self.after(down_ns, Happening::Start { node });
        Ok(())
    }

    pub(crate) fn stop(&mut self, node: usize, power: bool) -> Checked {
        if let Some(shard) = &self.nodes[node].shard {
            self.coverage.board(shard.board());
        }
        let this = &mut self.nodes[node];
        this.stop();
        let how = Crash { chaos: self.chaos_on, power };
        let tally = this.disk.crash(&self.plan, how, &mut self.disk_rng).expect("memory takes writes");
        if power {
            this.store.lose_names(&mut self.disk_rng);
        }
        this.robbed |= tally.undone > 0;
        this.before.torn |= tally.torn > 0;
        if tally.trailers > 0 {
            this.before.trailer_over_torn = true;
            self.coverage.mark("a crash left a whole trailer over a torn record");
        }
        for (fault, count) in
            [(Fault::TornWrite, tally.torn), (Fault::LostWrite, tally.lost), (Fault::Rollback, tally.undone)]
        {
            if count > 0 {
                self.coverage.fault(fault);
            }
        }
        self.note(What::Node(node, format!("stops: writes in flight {tally:?}")));
        self.stop_who_hears_only(node)
    }

    /// A peer's memory of others is written down now and then only: what a stopped node remembered of one that was robbed may
    /// be lost, and then nothing protects the group from that one.
    fn stop_who_hears_only(&mut self, node: usize) -> Checked {
        let hears_it = |other: &usize| {
            let other = &self.nodes[*other];
            other.index != node && other.witness == Some(node) && other.health == Health::Up
        };
        let orphans: Vec<usize> = (0..self.plan.machines()).filter(hears_it).collect();
        for orphan in orphans {
            self.stop(orphan, false)?;
            self.nodes[orphan].health = Health::Dead("it lost its state, and nobody up remembers it");
        }
        Ok(())
    }

    /// A shard could not start, or could not go on.
    pub(crate) fn ended(&mut self, node: usize, fatal: Fatal) -> Checked {
        let (robbed, damaged) = (self.nodes[node].robbed, self.nodes[node].damaged);
        let failed = std::mem::take(&mut self.nodes[node].write_failed);
        // Paths differ from run to run: only the kind goes into the trace.
        let kind = match &fatal {
            Fatal::Log(LogError::WriteFailed { .. }) => "a write failed",
            Fatal::Log(_) => "its log cannot be read",
            Fatal::Io(_) => "its reactor failed",
            Fatal::Unsynced { .. } => "it had vouched for what was in memory only",
            Fatal::NotSettled => "the disk did not take its log in time",
        };
        self.note(What::Node(node, format!("ends: {kind}")));
        self.stop(node, false)?;
        match fatal {
            Fatal::Log(LogError::WriteFailed { .. }) if failed => {
                self.coverage.mark("a failed write ended the shard");
                self.after(DOWN_MEAN_NS, Happening::Start { node });
                Ok(())
            }
            Fatal::Unsynced { .. } if self.plan.memory_durability => {
                self.coverage.mark("a node that forgot what it vouched for was refused");
                self.nodes[node].health = Health::Dead("it vouched for what lay in memory only");
                Ok(())
            }
            Fatal::Log(_) if damaged || robbed => {
                self.coverage.mark("a log too damaged to be read");
                self.nodes[node].health = Health::Dead("its log is damaged");
                Ok(())
            }
            other => violated("no end without a cause", format!("n{node} ended: {other}")),
        }
    }

    /// A node is in FLOOR: it serves stale reads until its operator comes.
    pub(crate) fn halted(&mut self, node: usize) -> Checked {
        if self.was_removed(node) {
            self.coverage.mark("a removed node halted");
        } else if !self.nodes[node].robbed {
            return violated("no end without a cause", format!("n{node} halted, and has lost nothing"));
        }
        if self.nodes[node].robbed {
            self.coverage.mark("a node that lost its state halted");
        }
        let (life, after_ns) = (self.nodes[node].life, self.chaos.exponential(OPERATOR_MEAN_NS));
        self.after(after_ns, Happening::Operator { node, life });
        Ok(())
    }

    /// The operator ends a halted node: for good, unless it was removed, or is made a new member.
    pub(crate) fn on_operator(&mut self, node: usize, life: u64) -> Checked {
        if self.nodes[node].life != life || self.nodes[node].health != Health::Up {
            return Ok(());
        }
        self.note(What::Node(node, "ends: it halted".to_owned()));
        self.stop(node, false)?;
        if self.nodes[node].robbed {
            self.nodes[node].health = Health::Dead("it lost its state");
        }
        Ok(())
    }
}
