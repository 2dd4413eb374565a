//! The memory that a node takes, as its configuration says: every pool, window and table with its bound and the sum that
//! derives it. Pure. Printed by `synod start` and `synod config show --memory`.
//!
//! What grows with the log, and so stands in no pool: the index, 56 bytes for each 64 slots.

use crate::cli::output::Table;
use crate::config::{Config, KernelIo, Machine};
use crate::events;
use crate::machine::kv;
use crate::node;
use crate::sequencer::{Answer, MAX_SESSIONS, SESSION_CREDIT};
use crate::shard::jobs::{MAX_JOB_SLOTS, MAX_JOBS};
use crate::shard::{
    EVENT_WORDS, FRESH_READ_BYTES, FRESH_READS, HISTOGRAM_BYTES, JOB_DATAGRAMS, MAX_KEPT_PAYLOADS, OUTBOX_BYTES,
    RECENT_CHOSEN_BYTES, RECENT_SLOTS, RING_RECORDS, SUBSCRIBER_BYTES, TIMELINE_BYTES, TRANSFER_GROUP_BYTES,
};
use serde::Serialize;
use synod_ring::Socket;
use synod_wire::client::MAX_QUESTION_BYTES;
use synod_wire::frame::HEADER_BYTES;

/// A slot's state in the protocol core, rounded up.
const SLOT_STATE_BYTES: usize = 96;
/// Where a recent slot's value lies, rounded up.
const SLOT_PLACE_BYTES: usize = 64;
/// A session without its answers, in the state machine and at admission, rounded up.
const SESSION_BYTES: usize = 256;
/// A submission (with its index) and a completion of the ring.
const SUBMISSION_BYTES: usize = 64 + 4;
const COMPLETION_BYTES: usize = 16;
/// Without the ring: a message with its piece, its address and its control message.
const MESSAGE_BYTES: usize = 64 + 16 + 16 + 24;

/// One kind of memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Pool {
    /// What it is.
    pub name: &'static str,
    /// How many there are, in all groups together.
    pub count: usize,
    /// The bytes of one.
    pub bytes_each: usize,
    /// The bytes of all.
    pub total_bytes: usize,
    /// The sum.
    pub derivation: String,
}

/// The memory of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Memory {
    /// Its pools.
    pub pools: Vec<Pool>,
    /// Their sum.
    pub total_bytes: usize,
    /// What the kernel may take for the sockets, as they fill.
    pub kernel_socket_bytes: usize,
}

impl Memory {
    /// The memory of each node of `config`.
    pub fn of(config: &Config) -> Memory {
        let groups = config.groups.len();
        let mut pools = Pools { groups, all: Vec::new() };
        buffers(config, &mut pools);
        tables(config, &mut pools);
        let total_bytes = pools.all.iter().map(|pool| pool.total_bytes).sum();
        let kernel_socket_bytes = groups * 2 * 2 * config.net.socket_buffer_bytes;
        Memory { pools: pools.all, total_bytes, kernel_socket_bytes }
    }

    /// The table, for people.
    pub fn table(&self) -> String {
        let mut table = Table::new(&["pool", ">count", ">bytes each", ">MiB", "from"]);
        let mib = |bytes: usize| format!("{:.2}", bytes as f64 / (1 << 20) as f64);
        for pool in &self.pools {
            let (count, each) = (pool.count.to_string(), pool.bytes_each.to_string());
            table.row([pool.name.into(), count, each, mib(pool.total_bytes), pool.derivation.clone()]);
        }
        let rest = "and 56 bytes of index for each 64 slots in the log";
        table.row(["total".into(), "".into(), "".into(), mib(self.total_bytes), rest.into()]);
        let sockets = "the kernel's, as they fill: 2 sockets, 2 directions, net.socket_buffer_bytes";
        table.row(["socket buffers".into(), "".into(), "".into(), mib(self.kernel_socket_bytes), sockets.into()]);
        table.render()
    }
}

struct Pools {
    groups: usize,
    all: Vec<Pool>,
}

impl Pools {
    /// Adds a pool with `count` items in each group.
    fn add(&mut self, name: &'static str, count: usize, bytes_each: usize, derivation: impl Into<String>) {
        self.add_for(self.groups, name, count, bytes_each, derivation);
    }

    /// The same for some of the groups.
    fn add_for(
        &mut self,
        groups: usize,
        name: &'static str,
        count: usize,
        bytes_each: usize,
        derivation: impl Into<String>,
    ) {
        let count = count * groups;
        let derivation = match groups {
            1 => derivation.into(),
            groups => format!("{groups} groups: {}", derivation.into()),
        };
        self.all.push(Pool { name, count, bytes_each, total_bytes: count * bytes_each, derivation });
    }
}

fn buffers(config: &Config, pools: &mut Pools) {
    let datagram = HEADER_BYTES + config.net.max_batch_bytes;
    pools.add("log arena", 1, config.wal.arena_bytes, "wal.arena_bytes");
    pools.add("outbox", 1, OUTBOX_BYTES, "fixed");
    let peers = usize::from(config.net.rx_buffers_peers);
    let clients = usize::from(config.net.rx_buffers_clients);
    let offload = config.net.receive_offload;
    let bytes_each = |socket| synod_ring::receive_buffer_bytes(socket, datagram, offload);
    let sum =
        if offload { "64 KiB + header, for net.receive_offload" } else { "frame header + net.max_batch_bytes + 1" };
    let (for_peers, for_clients) = (bytes_each(Socket::Peers), bytes_each(Socket::Clients));
    pools.add("receive buffers, peers", peers, for_peers, format!("net.rx_buffers_peers x ({sum})"));
    let sum = if offload { sum.to_string() } else { format!("address + {sum}") };
    pools.add("receive buffers, clients", clients, for_clients, format!("net.rx_buffers_clients x ({sum})"));
    if config.cpu.io == KernelIo::Syscall {
        pools.add("messages to send", 2 * node::SQ_ENTRIES as usize, MESSAGE_BYTES, "2 sockets x 1024");
        pools.add("messages to receive", peers + clients, MESSAGE_BYTES, "receive buffers");
        return;
    }
    // Where "auto" has to do without the ring, those above take its place, and less than half a MiB.
    pools.add("ring, submissions", node::SQ_ENTRIES as usize, SUBMISSION_BYTES, "fixed");
    let completions = (peers + clients + node::SQ_ENTRIES as usize + synod_ring::WRITES_MAX + 1).next_power_of_two();
    pools.add(
        "ring, completions",
        completions,
        COMPLETION_BYTES,
        "receive buffers + submissions + writes, power of two",
    );
}

fn tables(config: &Config, pools: &mut Pools) {
    let window = config.consensus.window_slots as usize;
    pools.add("open slots", 2 * window, SLOT_STATE_BYTES, "2 x consensus.window_slots");
    pools.add("recent values", RECENT_SLOTS + 2 * window, SLOT_PLACE_BYTES, "8192 + 2 x consensus.window_slots");
    pools.add("recent evidence", 1, RECENT_CHOSEN_BYTES, "fixed");
    pools.add("commit stages, slots", 2 * window, TIMELINE_BYTES, "2 x consensus.window_slots");
    pools.add("reads that wait for a round", FRESH_READS, FRESH_READ_BYTES, "fixed");
    pools.add("histograms of times and sizes", 1, HISTOGRAM_BYTES, "fixed");
    pools.add("events", RING_RECORDS, 8 * EVENT_WORDS, "fixed");
    pools.add("events, the file's map", 1, events::FILE_BYTES, "fixed");
    let session = SESSION_BYTES + SESSION_CREDIT * size_of::<Answer>();
    let from = "2 (snapshots are made of a second state) x 1024 sessions x 1024 answers, allocated as they are used";
    pools.add("sessions", 2 * MAX_SESSIONS, session, from);
    let maps = config.groups.iter().filter(|group| group.machine == Machine::Kv).count();
    if maps > 0 {
        let outcomes = kv::MAX_OUTCOMES * kv::OUTCOME_BYTES;
        let from = "groups with machine = \"kv\" x 2 x (64 MiB of keys and values + 4096 outcomes), allocated as they are used";
        pools.add_for(maps, "key-value maps", 2, kv::MAX_STATE_BYTES + outcomes, from);
        pools.add_for(
            maps,
            "questions that wait for a round",
            FRESH_READS,
            MAX_QUESTION_BYTES,
            "allocated as they are used",
        );
    }
    let value = config.net.max_batch_bytes;
    pools.add(
        "snapshots, values above them",
        MAX_KEPT_PAYLOADS,
        value,
        "8192 x net.max_batch_bytes, allocated as they come",
    );
    let subscribers = usize::from(config.clients.max_subscribers);
    pools.add("subscribers", subscribers, SUBSCRIBER_BYTES, "clients.max_subscribers");
    pools.add("a member's snapshot on its way here", 1, TRANSFER_GROUP_BYTES, "allocated when one comes");
    let datagram = HEADER_BYTES + config.net.max_batch_bytes;
    let from = "clients.max_subscribers x 8 datagrams of old entries, allocated as they are used";
    pools.add("read for subscribers", subscribers * usize::from(JOB_DATAGRAMS), datagram, from);
    let job = MAX_JOB_SLOTS as usize * (HEADER_BYTES + config.net.max_batch_bytes);
    pools.add("housekeeping jobs", MAX_JOBS, job, "16 jobs x 256 slots x (frame header + net.max_batch_bytes)");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Group;

    #[test]
    fn a_node_with_defaults_stays_below_256_mib() {
        let memory = Memory::of(&Config::default());
        assert!(memory.total_bytes < 256 << 20, "{}", memory.table());
        assert_eq!(memory.total_bytes, memory.pools.iter().map(|pool| pool.count * pool.bytes_each).sum::<usize>());
    }

    #[test]
    fn every_group_has_its_own_pools() {
        let two = Config { groups: vec![Group::default(); 2], ..Config::default() };
        assert_eq!(Memory::of(&two).total_bytes, 2 * Memory::of(&Config::default()).total_bytes);
    }

    #[test]
    fn a_map_counts_for_the_groups_that_have_one() {
        let kv = Group { machine: Machine::Kv, ..Group::default() };
        let one = Config { groups: vec![Group::default(), kv], ..Config::default() };
        let maps = Memory::of(&one).pools.into_iter().find(|pool| pool.name == "key-value maps").unwrap();
        assert_eq!((maps.count, maps.total_bytes > 2 * kv::MAX_STATE_BYTES), (2, true));
    }

    #[test]
    fn what_takes_the_rings_place_is_counted_where_there_is_to_be_none() {
        let mut config = Config::default();
        let named = |config: &Config, name: &str| {
            Memory::of(config).pools.iter().filter(|pool| pool.name.starts_with(name)).count()
        };
        assert_eq!((named(&config, "ring, "), named(&config, "messages ")), (2, 0));
        config.cpu.io = KernelIo::Syscall;
        assert_eq!((named(&config, "ring, "), named(&config, "messages ")), (0, 2));
    }

    #[test]
    fn pools_follow_the_configuration() {
        let mut config = Config::default();
        let before = Memory::of(&config).total_bytes;
        config.wal.arena_bytes += 4 << 20;
        assert_eq!(Memory::of(&config).total_bytes, before + (4 << 20));
        config.net.max_batch_bytes = 2_816;
        config.net.receive_offload = false;
        let pool = |name: &str| Memory::of(&config).pools.into_iter().find(|pool| pool.name == name).unwrap();
        assert_eq!(pool("receive buffers, peers").bytes_each, 2_944);
        assert_eq!(pool("receive buffers, clients").bytes_each, 3_008);
        config.net.receive_offload = true;
        let pool = |name: &str| Memory::of(&config).pools.into_iter().find(|pool| pool.name == name).unwrap();
        assert_eq!(pool("receive buffers, peers").bytes_each, 65_600);
    }
}
