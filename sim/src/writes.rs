//! What a node's disk does for it: log writes, and the jobs of its housekeeping.

use crate::checks::Checked;
use crate::disk::InFlight;
use crate::fault::Fault;
use crate::io::Arrival;
use crate::node::Health;
use crate::sim::{Happening, Sim};
use crate::trace::What;
use synod::shard::checkpoint::Progress;
use synod::shard::install::{TransferDone, TransferJob};
use synod::shard::jobs::{Done, Job};
use synod_wal::LogError;

/// How much longer a slow disk takes.
const SLOW_DISK: u64 = 50;
/// EIO.
const EIO: i32 = 5;

impl Sim {
    pub(crate) fn begin_write(&mut self, node: usize, write: InFlight) {
        self.note(What::Write(node, write.offset, write.bytes.len()));
        let disk = &mut self.nodes[node].disk;
        let mean_ns = self.plan.timing.sync_mean_ns;
        let slow = if self.now_ns < disk.slow_until_ns { SLOW_DISK } else { 1 };
        let mut took_ns = (mean_ns / 2 + self.disk_rng.exponential(mean_ns / 2)) * slow;
        took_ns += disk.stalled_until_ns.saturating_sub(self.now_ns);
        let id = disk.begin(write);
        let life = self.nodes[node].life;
        self.after(took_ns, Happening::Written { node, life, id });
    }

    pub(crate) fn on_written(&mut self, node: usize, life: u64, id: u64) -> Checked {
        let this = &mut self.nodes[node];
        if this.life != life || this.health != Health::Up {
            return Ok(());
        }
        if self.now_ns < this.disk.stalled_until_ns {
            let until_ns = this.disk.stalled_until_ns;
            self.at(until_ns, Happening::Written { node, life, id });
            return Ok(());
        }
        let Some(write) = this.disk.in_flight.remove(&id) else { return Ok(()) };
        this.disk.written_ns = this.clock.monotonic_ns(self.now_ns);
        let token = write.token;
        let result = if std::mem::take(&mut this.disk.fail_next) {
            this.write_failed = true;
            self.coverage.fault(Fault::SyncError);
            // What such a write leaves behind is anybody's guess.
            this.disk.fail(write, &mut self.disk_rng).expect("memory takes writes");
            Err(EIO)
        } else {
            let all = write.bytes.len();
            let blocks = (all / crate::disk::BLOCK_BYTES) as u64;
            let short = self.chaos_on && blocks > 1 && self.disk_rng.ppm(self.plan.rate(Fault::ShortWrite));
            let bytes =
                if short { crate::disk::BLOCK_BYTES * self.disk_rng.between(1, blocks - 1) as usize } else { all };
            if short {
                self.coverage.fault(Fault::ShortWrite);
            }
            this.disk.complete(write, bytes).expect("memory takes writes");
            Ok(bytes)
        };
        this.port.borrow_mut().inbox.push_back(Arrival::Written { token, result });
        self.note(What::Written(node, result));
        self.wake_node(node);
        Ok(())
    }

    pub(crate) fn begin_job(&mut self, node: usize, job: Job) {
        let this = &mut self.nodes[node];
        this.next_job += 1;
        let (life, id) = (this.life, this.next_job);
        this.jobs.insert(id, job);
        let took_ns = 100_000 + self.disk_rng.exponential(4 * self.plan.timing.sync_mean_ns);
        self.after(took_ns, Happening::JobDone { node, life, id });
    }

    pub(crate) fn on_job(&mut self, node: usize, life: u64, id: u64) -> Checked {
        let this = &mut self.nodes[node];
        if this.life != life || this.health != Health::Up {
            return Ok(());
        }
        let Some(job) = this.jobs.remove(&id) else { return Ok(()) };
        let fails = self.chaos_on && self.disk_rng.ppm(self.plan.rate(Fault::ReadError));
        let unreadable = || LogError::NotFormatted { dir: this.dir.path().to_path_buf() };
        let (name, done) = match job {
            Job::PrepareSegment(_) if self.now_ns < this.disk.no_space_until_ns => {
                let error =
                    LogError::NoSpace { path: this.dir.path().to_path_buf(), bytes: crate::node::SEGMENT_BYTES };
                ("no space for a segment", Done::Segment(Err(error)))
            }
            Job::Read(request, _) if fails => ("a read fails", Done::Read(request, Err(unreadable()))),
            Job::Stream(ticket, ..) if fails => {
                ("a read for a subscriber fails", Done::Stream(ticket, Err(unreadable())))
            }
            Job::CatchUp { to, first, .. } if fails => {
                ("a read for a peer fails", Done::CatchUp { to, first, values: Err(unreadable()), chosen: None })
            }
            // What it reads was never written, and its own file would be lost with it.
            Job::Checkpoint(_) if fails || this.disk.lying => {
                ("a read for a snapshot fails", Done::Checkpoint(Err(unreadable())))
            }
            Job::Transfer(TransferJob::Read(_, chunks)) if fails => {
                ("a read of chunks fails", Done::Transfer(TransferDone::Read(chunks, Err(unreadable()))))
            }
            // What it rests on was never written, and its own file would be lost with it.
            Job::Transfer(TransferJob::Install(_, whole, _)) if this.disk.lying => {
                ("a snapshot cannot be installed", Done::Transfer(TransferDone::Installed(whole, Err(unreadable()))))
            }
            Job::Evidence { request, .. } if fails => {
                ("a look for evidence fails", Done::Evidence(request, Err(unreadable())))
            }
            job => {
                let name = match job {
                    Job::PrepareSegment(_) => "a segment is prepared",
                    Job::Read(..) => "a read is served from disk",
                    Job::Stream(..) => "a subscriber is served from disk",
                    Job::CatchUp { .. } => "catch-up is served from disk",
                    Job::Evidence { .. } => "evidence is looked up on disk",
                    Job::Checkpoint(_) => "a piece of the log is read for a snapshot",
                    Job::RemoveFront(_) => "the log's front is removed",
                    Job::Transfer(TransferJob::Describe(_)) => "a node looks up its snapshots for a member",
                    Job::Transfer(TransferJob::Read(..)) => "chunks of a snapshot are read for a member",
                    Job::Transfer(TransferJob::Open { .. }) => "a transfer begins",
                    Job::Transfer(TransferJob::Store(..)) => "chunks of a snapshot are stored",
                    Job::Transfer(TransferJob::Install(..)) => "a snapshot is to be installed",
                    Job::CloseReader => "a reader lets go of removed files",
                };
                if let Job::Transfer(TransferJob::Read(_, chunks)) = &job
                    && self.checks.snapshots.newer(node, chunks.whole.slot) >= 3
                {
                    self.coverage.mark("a snapshot is sent on, though three newer were made");
                }
                let Some(done) = self.perform(node, job)? else { return Ok(()) };
                if let Done::Transfer(TransferDone::Opened(offered, Ok((begun, _)))) = &done
                    && begun != offered
                {
                    self.coverage.mark("a transfer goes on that an earlier life began, though another is offered");
                }
                if let Done::Checkpoint(Ok(Progress::Written(made))) = &done {
                    let compared = self.checks.snapshots.written(node, made)?;
                    self.coverage.mark(if compared { "two snapshots were compared" } else { "a snapshot was made" });
                }
                (name, done)
            }
        };
        if name.ends_with("fails") {
            self.coverage.fault(Fault::ReadError);
        }
        self.coverage.mark(name);
        self.nodes[node].port.borrow_mut().inbox.push_back(Arrival::Done(done));
        self.note(What::JobDone(node, name));
        self.wake_node(node);
        self.caught(node, name)
    }
}
