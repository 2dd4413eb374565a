//! A disk that is slow, or hangs: a leader whose own log takes much longer than the others' hands over, and a replica whose log has not
//! moved for long falls silent, so that the others go on without it (Huang et al., "Gray Failure", HotOS 2017; Lou et al., "Fail-slow
//! at scale", FAST 2018).
//!
//! Slow: of each slot that this leader proposed the shard knows when a quorum had chosen it and when it was durable here. Where the
//! latter takes a multiple of the former, the others' disks (and the way to them and back) are faster by so much, and they are
//! enough without this one: the group loses nothing if another leads. Judged by the means of a quarter of a second, three times in a
//! row. Where this disk is needed for the quorum both times are the same, and nobody could do better.
//!
//! Hung: nothing that the log has on its way came to its end for long. Then nothing that the core says leaves for a member: no
//! sign of life, vote or answer (chosen values and snapshots that a member asks for do; they rest on no write). What others see is a
//! leader or an acceptor that is gone; what this one sees is what they send, which it takes note of as always.

use super::events::EventKind;
use super::jobs::{Done, Job};
use super::{Fatal, Shard};
use std::cmp::Reverse;
use synod_paxos::{Input, Role};
use synod_ring::Io;
use synod_wire::client::{Counter, Durability};
use synod_wire::mutant::mutant;
use synod_wire::{Ballot, NodeId, NodeSet};

/// Between two looks at how fast the log is.
const LOOK_NS: u64 = 250_000_000;
/// Looks in a row at which it was too slow, before the leader hands over.
const SLOW_LOOKS: u32 = 3;
/// After nobody took over.
const PATIENCE_NS: u64 = 10_000_000_000;
/// After one that was: for so long it does not let itself be handed the leadership again.
const REST_NS: u64 = 60_000_000_000;

/// When a disk is too slow to lead with, and when it hangs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FailSlowSettings {
    /// How many times longer than the others' quorum this leader's log may take; 0: as long as it likes.
    pub factor: u64,
    /// A log that takes less than this is fast enough, however fast the others' are.
    pub min_ns: u64,
    /// A log write that takes longer hangs.
    pub hung_ns: u64,
}

/// Sums over the slots of a leader that came through.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Pace {
    slots: u64,
    own_ns: u64,
    quorum_ns: u64,
}

impl Pace {
    /// A slot that was durable here, and chosen, so long after it was sealed.
    pub(super) fn add(&mut self, own_ns: u64, quorum_ns: u64) {
        self.slots += 1;
        self.own_ns += own_ns;
        self.quorum_ns += quorum_ns;
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct DiskWatch {
    settings: FailSlowSettings,
    /// When the log last came forward, or had nothing to do.
    moved_ns: u64,
    durable_pos: u64,
    hung: bool,
    look_ns: u64,
    slow_looks: u32,
    /// Whom it hands over to for that, and the ballot that it leads in.
    yields_to: Option<(NodeId, Ballot)>,
    tried: Tried,
    rests_until_ns: u64,
}

/// What came of a leader's tries to hand over. In another ballot the others may be better off.
#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    ballot: Ballot,
    /// Who did not take over.
    refused: NodeSet,
    /// When it tries again, after nobody did.
    again_ns: u64,
}

/// Whether a leader never hands over for its disk. Under memory durability nobody waits for that: each is slower than the others' memory.
fn never(settings: FailSlowSettings, durability: Durability) -> bool {
    settings.factor == 0 || durability != Durability::Disk
}

impl DiskWatch {
    pub(super) fn new(settings: FailSlowSettings, durability: Durability) -> DiskWatch {
        let (moved_ns, durable_pos, hung) = (0, 0, false);
        let look_ns = if never(settings, durability) { u64::MAX } else { 0 };
        DiskWatch {
            settings,
            moved_ns,
            durable_pos,
            hung,
            look_ns,
            slow_looks: 0,
            yields_to: None,
            tried: Tried::default(),
            rests_until_ns: 0,
        }
    }

    /// It is judged otherwise from now on.
    pub(super) fn set(&mut self, settings: FailSlowSettings, durability: Durability) {
        let (was, is) = (never(self.settings, durability), never(settings, durability));
        self.settings = settings;
        if was != is {
            self.look_ns = if is { u64::MAX } else { 0 };
            self.slow_looks = 0;
        }
    }

    /// The log stands at `durable_pos` and has writes on their way, or none. Whether that is a new spell of hanging, or the end of one.
    fn see(&mut self, now_ns: u64, in_flight: bool, durable_pos: u64) -> Option<bool> {
        if !in_flight || durable_pos != self.durable_pos {
            (self.moved_ns, self.durable_pos) = (now_ns, durable_pos);
        }
        let hangs = in_flight && now_ns >= self.moved_ns + self.settings.hung_ns;
        (std::mem::replace(&mut self.hung, hangs) != hangs).then_some(hangs)
    }

    /// What was tried in this ballot.
    fn tried(&mut self, ballot: Ballot) -> &mut Tried {
        if self.tried.ballot != ballot {
            self.tried = Tried { ballot, ..Tried::default() };
        }
        &mut self.tried
    }

    /// Whether the leader is to hand over after what it measured since the last look; `waits_ns`: how long its log has taken already
    /// for what the others have chosen.
    fn judge(&mut self, pace: Pace, waits_ns: u64) -> Option<(u64, u64)> {
        let mean = |sum_ns: u64| sum_ns.checked_div(pace.slots).unwrap_or(0);
        let (own_ns, quorum_ns) = (mean(pace.own_ns).max(waits_ns), mean(pace.quorum_ns));
        if pace.slots == 0 && waits_ns < self.settings.min_ns {
            // Nothing was asked of it, or too lately to tell.
            return None;
        }
        let slow = own_ns >= self.settings.min_ns && own_ns / self.settings.factor >= quorum_ns;
        self.slow_looks = if slow { self.slow_looks + 1 } else { 0 };
        (self.slow_looks >= SLOW_LOOKS).then_some((own_ns, quorum_ns))
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Looks whether the log moves, once a turn: before its events are handled, or after them if a write's end is among them, as a
    /// process that stood still finds it.
    pub(super) fn watch_disk(&mut self) {
        if self.settings.durability != Durability::Disk {
            return;
        }
        let (in_flight, durable_pos) = (self.log.in_flight(), self.log.durable_pos());
        let hung_ns = self.disk.settings.hung_ns;
        let Some(hangs) = self.disk.see(self.io.now_ns(), in_flight, durable_pos) else { return };
        if hangs {
            self.counters.add(Counter::DiskHung, 1);
        }
        self.note(EventKind::DiskHung, (0, hangs.into(), 0), [hung_ns, 0, 0, 0]);
    }

    /// When the next look is due while a write is on its way: nothing else may happen before.
    pub(super) fn disk_watch_ns(&self) -> u64 {
        let watched = self.log.in_flight() && !self.disk.hung && self.settings.durability == Durability::Disk;
        if watched { self.disk.moved_ns + self.disk.settings.hung_ns } else { u64::MAX }
    }

    /// Whether the log has not moved for long: nothing that the core of such a node says leaves.
    pub(super) fn is_hung(&self) -> bool {
        let moved = self.log.durable_pos() != self.disk.durable_pos;
        self.disk.hung && !moved && !mutant("hung_disk_votes")
    }

    /// Whether it handed over as its disk was slow, and takes nothing back yet.
    pub(super) fn rests(&self) -> bool {
        self.io.now_ns() < self.disk.rests_until_ns
    }

    /// Hands over if this leader's log has been much slower than the others' for long enough.
    pub(super) fn yield_if_slow(&mut self) -> Result<(), Fatal> {
        let now_ns = self.io.now_ns();
        if now_ns < self.disk.look_ns {
            return Ok(());
        }
        self.disk.look_ns = now_ns + LOOK_NS;
        let pace = self.stages.take_pace();
        let ballot = self.core.promised();
        let waits = now_ns < self.disk.tried(ballot).again_ns;
        if self.core.role() != Role::Leader || self.core.hands_over_to().is_some() || self.core.is_changing() || waits {
            self.disk.slow_looks = 0;
            return Ok(());
        }
        let Some((own_ns, quorum_ns)) = self.disk.judge(pace, self.stages.waits_for_own_disk_ns(now_ns)) else {
            return Ok(());
        };
        if mutant("fail_slow_never_yields") {
            return Ok(());
        }
        let near = self.near_voters();
        let tried = self.disk.tried(ballot);
        let free = NodeSet(near.0 & !tried.refused.0);
        let Some(to) = free.iter().max_by_key(|node| (self.core.peer_prefix(*node), Reverse(*node))) else {
            // Nobody is near, or nobody took over: then once more from the first, after a while.
            if !std::mem::take(&mut tried.refused).is_empty() {
                tried.again_ns = now_ns + PATIENCE_NS;
            }
            return Ok(());
        };
        self.disk.slow_looks = 0;
        self.disk.yields_to = Some((to, ballot));
        self.counters.add(Counter::SlowDiskYields, 1);
        self.note(EventKind::YieldedDisk, (0, to.0, 0), [own_ns, quorum_ns, 0, 0]);
        self.step(Input::Transfer { to: Some(to) }, None)
    }

    /// A hand-over has ended.
    pub(super) fn yielded(&mut self) {
        let Some((to, ballot)) = self.disk.yields_to.take() else { return };
        if self.core.role() != Role::Leader {
            self.disk.rests_until_ns = self.io.now_ns() + REST_NS;
        } else if self.core.promised() == ballot {
            self.disk.tried(ballot).refused.insert(to);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;
    const SETTINGS: FailSlowSettings = FailSlowSettings { factor: 4, min_ns: MS, hung_ns: 1_000 * MS };

    fn pace(slots: u64, own_ns: u64, quorum_ns: u64) -> Pace {
        let mut pace = Pace::default();
        (0..slots).for_each(|_| pace.add(own_ns, quorum_ns));
        pace
    }

    #[test]
    fn a_disk_is_slow_if_it_is_so_for_long_enough() {
        let mut disk = DiskWatch::new(SETTINGS, Durability::Disk);
        let slow = pace(10, 8 * MS, 2 * MS);
        assert_eq!(disk.judge(slow, 0), None);
        assert_eq!(disk.judge(slow, 0), None);
        assert_eq!(
            disk.judge(pace(10, 7 * MS, 2 * MS), 0),
            None,
            "less than four times as slow: counted from the start"
        );
        assert_eq!(disk.judge(slow, 0), None);
        assert_eq!(disk.judge(Pace::default(), 0), None, "nothing was asked of it: that says nothing");
        assert_eq!(disk.judge(slow, 0), None);
        assert_eq!(disk.judge(slow, 0), Some((8 * MS, 2 * MS)));
    }

    #[test]
    fn judging_begins_and_ends_while_it_runs() {
        let off = FailSlowSettings { factor: 0, ..SETTINGS };
        let mut disk = DiskWatch::new(off, Durability::Disk);
        assert_eq!(disk.look_ns, u64::MAX);
        disk.set(SETTINGS, Durability::Disk);
        assert_eq!(disk.look_ns, 0);
        disk.look_ns = 5;
        disk.set(FailSlowSettings { hung_ns: MS, ..SETTINGS }, Durability::Disk);
        assert_eq!((disk.look_ns, disk.see(0, true, 1)), (5, None), "it goes on as it was");
        assert_eq!(disk.see(MS, true, 1), Some(true), "and hangs sooner");
        disk.set(off, Durability::Disk);
        assert_eq!(disk.look_ns, u64::MAX);
        disk.set(SETTINGS, Durability::Memory);
        assert_eq!(disk.look_ns, u64::MAX, "nobody waits for the disk");
    }

    #[test]
    fn a_fast_disk_is_fast_enough_and_one_that_has_not_answered_is_as_slow_as_that() {
        let mut disk = DiskWatch::new(SETTINGS, Durability::Disk);
        assert!((0..10).all(|_| disk.judge(pace(10, MS - 1, 1), 0).is_none()));
        assert_eq!(disk.judge(Pace::default(), 300 * MS), None);
        assert_eq!(disk.judge(Pace::default(), 550 * MS), None);
        assert_eq!(disk.judge(Pace::default(), 800 * MS), Some((800 * MS, 0)));
    }

    #[test]
    fn nobody_yields_for_a_disk_that_nobody_waits_for() {
        assert_eq!(DiskWatch::new(SETTINGS, Durability::Disk).look_ns, 0);
        assert_eq!(DiskWatch::new(SETTINGS, Durability::Memory).look_ns, u64::MAX);
        assert_eq!(DiskWatch::new(FailSlowSettings { factor: 0, ..SETTINGS }, Durability::Disk).look_ns, u64::MAX);
    }

    #[test]
    fn a_log_hangs_if_nothing_on_its_way_comes_to_its_end() {
        let mut disk = DiskWatch::new(SETTINGS, Durability::Disk);
        assert_eq!(disk.see(5_000 * MS, true, 100), None, "the first look counts from itself");
        assert_eq!(disk.see(5_999 * MS, true, 100), None);
        assert_eq!(disk.see(6_000 * MS, true, 100), Some(true));
        assert_eq!(disk.see(7_000 * MS, true, 100), None, "told once");
        assert_eq!(disk.see(7_001 * MS, true, 200), Some(false), "it moves, though more is on its way");
        assert_eq!(disk.see(9_000 * MS, false, 200), None, "nothing to do");
        assert_eq!(disk.see(9_500 * MS, true, 200), None);
        assert_eq!(disk.see(10_000 * MS, true, 200), Some(true));
    }
}
