//! One simulated node: its directory, its disk, its clocks, and the production shard while its process lives.

use crate::checks::{Violation, value_on_disk, violated};
use crate::disk::Disk;
use crate::io::{Port, SimIo};
use crate::plan::Plan;
use crate::queue::{Due, NEVER};
use crate::storage::{MemoryDir, Store};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::rc::Rc;
use synod::machine::StateMachine;
use synod::machine::kv::{KvMap, Limits};
use synod::shard::checkpoint::Maker;
use synod::shard::jobs::{Housekeeper, Job};
use synod::shard::{self, CatchUpSettings, Fatal, Findings, OUTBOX_BYTES, RetentionSettings, Shard, SnapshotSettings};
use synod_paxos::{Lease, Role};
use synod_ring::Arena;
use synod_wal::{Dir, Expect, Identity};
use synod_wire::client::Durability;
use synod_wire::frame::{HEADER_BYTES, Header, Kind};
use synod_wire::record::Configuration;
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, Quorums, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// The cluster of every run.
pub(crate) const CLUSTER: ClusterId = ClusterId(0x51_1d);
/// Its only group.
pub(crate) const GROUP: GroupId = GroupId(0);
/// The smallest segments there are: logs enter new ones often, and scanning to their end is cheap.
pub(crate) const SEGMENT_BYTES: u64 = synod_wal::MIN_STRIDE_BYTES;
/// The simulated epoch: where all wall clocks start.
const WALL_START_NS: u64 = 1_700_000_000_000_000_000;
/// How far the clocks of a run drift, parts per million: as far as the nodes are told that they may.
pub(crate) const MAX_DRIFT_PPM: u64 = 20_000;
/// The bounds of the nodes' key-value maps: small, so that they are met.
pub(crate) const KV_LIMITS: Limits = Limits { state_bytes: 1_800, outcomes: 48 };
/// A node's monotonic clock at the start of a run.
const BOOT_NS: u64 = 1_000_000_000;

/// The address at which a node serves clients.
pub(crate) fn node_address(node: usize) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 0, 0, node as u8), 7_500)
}

/// The node that serves clients at an address.
pub(crate) fn node_at(address: SocketAddrV4) -> Option<usize> {
    let octets = address.ip().octets();
    (octets[1] == 0).then(|| usize::from(octets[3]))
}

/// A clock that runs at its own pace.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    from_ns: u64,
    local_ns: u64,
    drift_ppm: i64,
    wall_offset_ns: i64,
}

impl Clock {
    fn new() -> Clock {
        Clock { from_ns: 0, local_ns: BOOT_NS, drift_ppm: 0, wall_offset_ns: 0 }
    }

    pub(crate) fn monotonic_ns(&self, now_ns: u64) -> u64 {
        let passed = (now_ns - self.from_ns) as i64;
        self.local_ns + (passed + passed / 1_000 * self.drift_ppm / 1_000) as u64
    }

    pub(crate) fn wall_ns(&self, now_ns: u64) -> u64 {
        (WALL_START_NS + now_ns).saturating_add_signed(self.wall_offset_ns)
    }

    pub(crate) fn set_drift(&mut self, now_ns: u64, drift_ppm: i64) {
        self.local_ns = self.monotonic_ns(now_ns);
        self.from_ns = now_ns;
        self.drift_ppm = drift_ppm;
    }

    pub(crate) fn jump_wall(&mut self, by_ns: i64) {
        self.wall_offset_ns += by_ns;
    }

    /// About when this clock shows `local_ns`; asked again if it was too early.
    pub(crate) fn when(&self, now_ns: u64, local_ns: u64) -> u64 {
        let left = local_ns.saturating_sub(self.monotonic_ns(now_ns)) as i64;
        now_ns + (left - left / 1_000 * self.drift_ppm / 1_000).max(0) as u64
    }
}

/// Whether a node's process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Health {
    /// It runs.
    Up,
    /// It does not, and will be started.
    Down,
    /// It ended for good, for a reason that a fault explains.
    Dead(&'static str),
}

/// What happened to a node's disk since its last recovery.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Before {
    /// A crash left a torn write.
    pub(crate) torn: bool,
    /// A crash left a whole trailer over a torn record.
    pub(crate) trailer_over_torn: bool,
    /// A page cannot be read.
    pub(crate) unreadable: bool,
    /// A segment's header went bad.
    pub(crate) header_lost: bool,
    /// The recovery before this one was killed, after it had written to the disk.
    pub(crate) killed_while_cutting: bool,
}

/// See the module.
pub(crate) struct Node {
    pub(crate) index: usize,
    pub(crate) dir: Dir,
    /// What its directory lies on.
    pub(crate) store: Store,
    pub(crate) incarnation: u64,
    /// Its log is of a group that others founded.
    pub(crate) joins: bool,
    pub(crate) shard: Option<Shard<SimIo>>,
    pub(crate) port: Rc<RefCell<Port>>,
    pub(crate) disk: Disk,
    pub(crate) clock: Clock,
    pub(crate) health: Health,
    /// Starts of its process: what belongs to an earlier life is void.
    pub(crate) life: u64,
    pub(crate) jobs: BTreeMap<u64, Job>,
    /// Carries them out; ends with the process.
    pub(crate) keeper: Option<Housekeeper>,
    pub(crate) next_job: u64,
    /// When its next turn is due.
    pub(crate) turn: Due,
    pub(crate) paused_until_ns: u64,
    /// It stands still for so long in the turn that takes its next question, after it has read the clock; 0: it does not.
    pub(crate) stalls_ns: u64,
    pub(crate) slow_until_ns: u64,
    /// It is killed as soon as so many more of its sends, writes and jobs have left it.
    pub(crate) effects_left: Option<u64>,
    /// It is of the next release.
    pub(crate) next_release: bool,
    /// Completions are held back until then: its turns find nothing.
    pub(crate) withheld_until_ns: u64,
    /// Its process is to end right after the recovery under way.
    pub(crate) killed_after_recovery: bool,
    /// Its next recovery dies after so many operations on its disk.
    pub(crate) doomed_after: Option<u64>,
    /// How its next recovery came about, for the coverage.
    pub(crate) before: Before,
    pub(crate) role: Role,
    /// The configuration that it went by after its last turn.
    pub(crate) epoch: Epoch,
    /// Slots that its recovery found open; falls with the open slots.
    pub(crate) open_at_start: u64,
    /// It has taken part in the founding, for good.
    pub(crate) founded: bool,
    /// What it had called durable was taken from it: it may halt, and must not vote.
    pub(crate) robbed: bool,
    /// The only peer that it hears since: the one that remembers what it had.
    pub(crate) witness: Option<usize>,
    /// A write or sync was made to fail.
    pub(crate) write_failed: bool,
    /// Its log has been damaged.
    pub(crate) damaged: bool,
    /// Since its process started.
    pub(crate) damaged_since_start: bool,
}

impl Node {
    pub(crate) fn new(index: usize) -> Node {
        let (dir, store) = MemoryDir::dir(format!("n{index}").into());
        Node {
            index,
            dir,
            store,
            incarnation: 0,
            joins: false,
            shard: None,
            port: Rc::default(),
            disk: Disk::default(),
            clock: Clock::new(),
            health: Health::Down,
            life: 0,
            jobs: BTreeMap::new(),
            keeper: None,
            next_job: 0,
            turn: NEVER,
            paused_until_ns: 0,
            stalls_ns: 0,
            slow_until_ns: 0,
            effects_left: None,
            next_release: false,
            withheld_until_ns: 0,
            killed_after_recovery: false,
            doomed_after: None,
            before: Before::default(),
            role: Role::Joining,
            epoch: Epoch(1),
            open_at_start: 0,
            founded: false,
            robbed: false,
            witness: None,
            write_failed: false,
            damaged: false,
            damaged_since_start: false,
        }
    }

    /// Makes the node's log anew: a founder's, or one that `joins`.
    pub(crate) fn format(&mut self, plan: &Plan, incarnation: u64, joins: bool) -> Result<(), synod_wal::LogError> {
        (self.incarnation, self.joins) = (incarnation, joins);
        let node = NodeId(self.index as u8);
        let identity = Identity { cluster: CLUSTER, group: GROUP, node, incarnation };
        let body = Configuration {
            parent_epoch: U32::ZERO,
            phase1: plan.phase1 as u8,
            phase2: plan.phase2 as u8,
            members: plan.nodes as u8,
            learners: joins.into(),
            incarnation: U64::new(incarnation),
        };
        let mut payload = body.as_bytes().to_vec();
        payload.extend(0..plan.nodes as u8);
        payload.extend(joins.then_some(node.0));
        let header = Header {
            kind: Kind::Configuration,
            flags: 0,
            from: node,
            group: GROUP,
            cluster: CLUSTER,
            epoch: Epoch(1),
            slot: Slot::ZERO,
            ballot: Ballot::ZERO,
            promised: Ballot::ZERO,
            lsn: Lsn(1),
        };
        synod_wal::format(&self.dir, &identity, (&header, &payload), &wal_settings(plan))
    }

    /// Starts the process: the production recovery, then a shard. Gives what the log's recovery found.
    pub(crate) fn start(&mut self, plan: &Plan, now_ns: u64, seed: u64) -> Result<Findings, Fatal> {
        assert!(self.shard.is_none(), "a process runs already");
        let node = NodeId(self.index as u8);
        let local_ns = self.clock.monotonic_ns(now_ns);
        let found = shard::recover(&self.dir, &maker(plan, node, seed), &wal_settings(plan), local_ns)?;
        self.keeper = Some(Housekeeper::new(maker(plan, node, seed)));
        let findings = found.findings.clone();
        self.life += 1;
        self.damaged_since_start = false;
        self.port = Rc::default();
        (self.port.borrow_mut().now_ns, self.port.borrow_mut().wall_ns) = (local_ns, self.clock.wall_ns(now_ns));
        let settings = shard_settings(plan, node, self.joins, &self.dir);
        let peers = settings.members.iter().map(|(node, _)| usize::from(node.0)).collect();
        let io = SimIo::new(self.port.clone(), HEADER_BYTES + plan.max_batch_bytes, found.log.arena(), peers);
        let arena = Arena::new(OUTBOX_BYTES).expect("memory for an outbox");
        self.shard = Some(Shard::new(settings, io, arena, found)?);
        self.health = Health::Up;
        self.role = Role::Joining;
        Ok(findings)
    }

    /// The value of a slot that it has applied, from its disk.
    pub(crate) fn value_on_disk(&self, slot: Slot) -> Result<Vec<u8>, Violation> {
        let durable = self.shard.as_ref().map_or(0, |shard| shard.log().durable_pos());
        match value_on_disk(&self.dir, durable, slot) {
            Ok(Some(value)) => Ok(value),
            Ok(None) => {
                violated("identical logs", format!("n{} applied slot {slot}, which its log has not", self.index))
            }
            Err(error) => violated("identical logs", format!("the log of n{} cannot be read: {error}", self.index)),
        }
    }

    /// The process is gone.
    pub(crate) fn stop(&mut self) {
        self.shard = None;
        self.jobs.clear();
        self.keeper = None;
        self.turn = NEVER;
        self.paused_until_ns = 0;
        self.stalls_ns = 0;
        self.effects_left = None;
        self.withheld_until_ns = 0;
        if self.health == Health::Up {
            self.health = Health::Down;
        }
    }
}

/// What recovery and housekeeping are told.
pub(crate) fn maker(plan: &Plan, me: NodeId, seed: u64) -> Maker {
    let kv = plan.kv;
    Maker {
        expect: Expect { cluster: CLUSTER, group: GROUP, node: me },
        paxos: paxos_settings(plan, me, seed),
        make: Box::new(move || kv.then(|| -> Box<dyn StateMachine> { Box::new(KvMap::with_limits(KV_LIMITS)) })),
        pause: Box::new(|_| {}),
    }
}

pub(crate) fn wal_settings(plan: &Plan) -> synod_wal::Settings {
    synod_wal::Settings {
        segment_bytes: SEGMENT_BYTES,
        stride_bytes: SEGMENT_BYTES,
        arena_bytes: 2 * SEGMENT_BYTES as usize,
        max_in_flight: plan.max_in_flight,
        // Two are fixed; with four it is found out how many pay.
        adapts: plan.max_in_flight > 2,
        max_flush_bytes: 128 << 10,
    }
}

pub(crate) fn shard_settings(plan: &Plan, me: NodeId, joins: bool, dir: &Dir) -> shard::Settings {
    shard::Settings {
        board: Default::default(),
        live: Default::default(),
        fail_slow: shard::FailSlowSettings {
            factor: plan.fail_slow_factor,
            min_ns: plan.fail_slow_min_ns,
            hung_ns: plan.hung_ns,
        },
        cluster: CLUSTER,
        group: GROUP,
        me,
        // A founder's configuration file names the founders: of others it hears through the log. Who joins has a newer file.
        members: (0..if joins { plan.machines() } else { plan.nodes })
            .map(|node| (NodeId(node as u8), node_address(node)))
            .collect(),
        dir: dir.clone(),
        max_batch_bytes: plan.max_batch_bytes,
        core: None,
        durability: if plan.memory_durability { Durability::Memory } else { Durability::Disk },
        max_clock_drift_ppm: MAX_DRIFT_PPM as u32,
        secret: plan.seed ^ u64::from(me.0),
        order: shard::Order::Serve,
        snapshots: SnapshotSettings {
            every_entries: plan.snapshot_entries,
            max_bytes_per_s: 64 << 20,
            every_bytes: u64::MAX,
        },
        leader_priority: plan.leader_priority.iter().map(|node| NodeId(*node)).collect(),
        catch_up: CatchUpSettings { max_bytes_per_s: plan.catch_up_bytes_per_s },
        clients: shard::ClientSettings::default(),
        retention: RetentionSettings { max_bytes: plan.retention_bytes, ..RetentionSettings::default() },
    }
}

pub(crate) fn paxos_settings(plan: &Plan, me: NodeId, seed: u64) -> synod_paxos::Settings {
    let timing = &plan.timing;
    synod_paxos::Settings {
        me,
        joins: false,
        members: (0..plan.nodes).map(|node| NodeId(node as u8)).collect(),
        quorums: Quorums { phase1: plan.phase1, phase2: plan.phase2 },
        incarnation: 0,
        window_slots: plan.window_slots,
        heartbeat_ns: timing.heartbeat_ns,
        election_min_ns: timing.election_min_ns,
        election_max_ns: timing.election_max_ns,
        retransmit_ns: timing.retransmit_ns,
        commit_linger_ns: 500_000,
        fetch_slots: 64,
        seed,
        lease: (plan.lease_ns > 0).then_some(Lease { length_ns: plan.lease_ns, drift_ppm: MAX_DRIFT_PPM as u32 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_drifts_never_runs_backwards() {
        let mut clock = Clock::new();
        let mut last = 0;
        for step in 0..1_000u64 {
            let now = step * 777_777;
            if step % 10 == 0 {
                clock.set_drift(now, [-50_000, 0, 50_000][(step / 10 % 3) as usize]);
            }
            let local = clock.monotonic_ns(now);
            assert!(local >= last);
            last = local;
            let due = clock.when(now, local + 1_000_000);
            assert!((900_000..1_200_000).contains(&(due - now)), "{}", due - now);
        }
    }
}
