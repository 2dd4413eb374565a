//! Settings of a shard that may change while it runs: a cell that another thread fills and the shard looks at every few milliseconds,
//! when it refreshes its board. One load then, and nothing is awaited or allocated; what changed is taken over between two turns.

use super::reads::{MAX_WAIT_NS, MAX_WAITERS};
use super::streams::{MAX_SUBSCRIBERS, SILENCE_NS, STARVED_NS};
use super::{CatchUpSettings, FailSlowSettings, RetentionSettings, Shard, SnapshotSettings};
use crate::shard::jobs::{Done, Job};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use synod_ring::Io;
use synod_wire::NodeId;

/// How much of a shard its clients may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSettings {
    /// Subscribers; one more is told TOO_MANY. Does not change while the shard runs.
    pub max_subscribers: usize,
    /// A subscriber that is silent for so long is dropped.
    pub silence_ns: u64,
    /// One that lets entries wait for so long without giving credit for them is dropped.
    pub starved_ns: u64,
    /// Reads held at the tail; one more is answered at once, with nothing. Does not change while the shard runs.
    pub max_waiting_reads: usize,
    /// The longest that one is held.
    pub max_read_wait_ns: u64,
}

impl Default for ClientSettings {
    fn default() -> ClientSettings {
        ClientSettings {
            max_subscribers: MAX_SUBSCRIBERS,
            silence_ns: SILENCE_NS,
            starved_ns: STARVED_NS,
            max_waiting_reads: MAX_WAITERS,
            max_read_wait_ns: MAX_WAIT_NS,
        }
    }
}

/// What may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveSettings {
    /// When snapshots are made.
    pub snapshots: SnapshotSettings,
    /// What is kept of the log.
    pub retention: RetentionSettings,
    /// How lagging members catch up.
    pub catch_up: CatchUpSettings,
    /// When a disk is too slow.
    pub fail_slow: FailSlowSettings,
    /// How much clients may take; its numbers of places stay as they were.
    pub clients: ClientSettings,
    /// The members that are to lead, the first of them that is there.
    pub leader_priority: Vec<NodeId>,
}

/// Where it is handed over. Empty, until something is.
#[derive(Debug)]
pub struct Live {
    /// How often something was. Written last, read first.
    generation: AtomicU64,
    numbers: [AtomicU64; NUMBERS],
    /// Node numbers in their order, then [`NOBODY`].
    leader_priority: [AtomicU8; MEMBERS],
}

const NUMBERS: usize = 12;
const MEMBERS: usize = NodeId::LIMIT as usize;
const NOBODY: u8 = u8::MAX;

impl Default for Live {
    fn default() -> Live {
        Live {
            generation: AtomicU64::new(0),
            numbers: std::array::from_fn(|_| AtomicU64::new(0)),
            leader_priority: std::array::from_fn(|_| AtomicU8::new(NOBODY)),
        }
    }
}

/// What a shard takes over.
#[derive(Debug, PartialEq, Eq)]
struct Taken {
    snapshots: SnapshotSettings,
    retention: RetentionSettings,
    catch_up: CatchUpSettings,
    fail_slow: FailSlowSettings,
    clients: ClientSettings,
}

impl Live {
    /// Hands over. Of one thread alone; a shard that looks meanwhile looks again, for the generation has changed once more.
    pub fn set(&self, settings: &LiveSettings) {
        let LiveSettings { snapshots, retention, catch_up, fail_slow, clients, leader_priority } = settings;
        let numbers: [u64; NUMBERS] = [
            snapshots.every_entries,
            snapshots.max_bytes_per_s,
            snapshots.every_bytes,
            retention.max_bytes,
            retention.max_age_ns,
            catch_up.max_bytes_per_s,
            fail_slow.factor,
            fail_slow.min_ns,
            fail_slow.hung_ns,
            clients.silence_ns,
            clients.starved_ns,
            clients.max_read_wait_ns,
        ];
        for (cell, number) in self.numbers.iter().zip(numbers) {
            cell.store(number, Ordering::Relaxed);
        }
        let nodes = leader_priority.iter().map(|node| node.0).chain(std::iter::repeat(NOBODY));
        for (cell, node) in self.leader_priority.iter().zip(nodes) {
            cell.store(node, Ordering::Relaxed);
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// What was handed over last, but for who is to lead; `clients` has the numbers of places, which stay.
    fn get(&self, clients: ClientSettings) -> Taken {
        let numbers: [u64; NUMBERS] = std::array::from_fn(|at| self.numbers[at].load(Ordering::Relaxed));
        let [every_entries, snapshot_pace, every_bytes, max_bytes, max_age_ns, pace, ..] = numbers;
        let [.., factor, min_ns, hung_ns, silence_ns, starved_ns, max_read_wait_ns] = numbers;
        Taken {
            snapshots: SnapshotSettings { every_entries, max_bytes_per_s: snapshot_pace, every_bytes },
            retention: RetentionSettings { max_bytes, max_age_ns },
            catch_up: CatchUpSettings { max_bytes_per_s: pace },
            fail_slow: FailSlowSettings { factor, min_ns, hung_ns },
            clients: ClientSettings { silence_ns, starved_ns, max_read_wait_ns, ..clients },
        }
    }

    /// The members that are to lead.
    fn leaders(&self) -> impl Iterator<Item = NodeId> {
        let nodes = self.leader_priority.iter().map(|cell| cell.load(Ordering::Relaxed));
        nodes.take_while(|node| *node != NOBODY).map(NodeId)
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Takes over what was handed over since it looked last. Run when the board is due, at a turn's end.
    pub(super) fn take_live(&mut self) {
        let live = &self.settings.live;
        let generation = live.generation.load(Ordering::Acquire);
        if generation == self.live_generation {
            return;
        }
        self.live_generation = generation;
        let taken = live.get(self.settings.clients);
        self.snapshots.set(taken.snapshots, self.machine.tail());
        self.retention.set(taken.retention);
        self.offers.throttle.set_pace(taken.catch_up.max_bytes_per_s);
        self.pulling.set_pace(taken.catch_up.max_bytes_per_s);
        self.disk.set(taken.fail_slow, self.settings.durability);
        self.preference.set(live.leaders());
        self.settings.clients = taken.clients;
        // Their times are counted anew.
        self.streams.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_handed_over_arrives_and_places_stay() {
        let clients = ClientSettings {
            max_subscribers: 7,
            silence_ns: 10,
            starved_ns: 11,
            max_waiting_reads: 9,
            max_read_wait_ns: 12,
        };
        let settings = LiveSettings {
            snapshots: SnapshotSettings { every_entries: 1, max_bytes_per_s: 2, every_bytes: 3 },
            retention: RetentionSettings { max_bytes: 4, max_age_ns: 5 },
            catch_up: CatchUpSettings { max_bytes_per_s: 6 },
            fail_slow: FailSlowSettings { factor: 7, min_ns: 8, hung_ns: 9 },
            clients,
            leader_priority: vec![NodeId(63), NodeId(0)],
        };
        let live = Live::default();
        assert_eq!((live.generation.load(Ordering::Acquire), live.leaders().count()), (0, 0));
        live.set(&settings);
        let LiveSettings { snapshots, retention, catch_up, fail_slow, .. } = settings.clone();
        let places = ClientSettings { max_subscribers: 70, max_waiting_reads: 90, ..ClientSettings::default() };
        let arrived = ClientSettings { max_subscribers: 70, max_waiting_reads: 90, ..clients };
        assert_eq!(live.get(places), Taken { snapshots, retention, catch_up, fail_slow, clients: arrived });
        assert_eq!(live.leaders().collect::<Vec<_>>(), settings.leader_priority);
        assert_eq!(live.generation.load(Ordering::Acquire), 1);
        // All nodes that there can be, and then none.
        let all = LiveSettings { leader_priority: (0..NodeId::LIMIT).map(NodeId).collect(), ..settings.clone() };
        live.set(&all);
        assert_eq!(live.leaders().collect::<Vec<_>>(), all.leader_priority);
        live.set(&LiveSettings { leader_priority: Vec::new(), ..settings });
        assert_eq!(live.leaders().count(), 0);
    }
}
