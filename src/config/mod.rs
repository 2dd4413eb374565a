//! The configuration: one TOML file for the whole cluster, overridden by the environment.
//!
//! This module holds the sections and their defaults, [`load`] reads and merges, [`check()`] refuses what cannot work.
//! Touches the file system and the environment in [`load`] only. Called by the command line; the shards get a
//! [`Config`] that was checked.

pub mod check;
#[cfg(test)]
mod every_key;
pub mod load;
pub mod reload;
mod values;

pub use check::{Finding, check};
pub use load::{ConfigError, Loaded, Origin, Problem};
pub use values::{
    Drift, Durability, Every, Format, IN_FLIGHT_MAX, InFlight, KernelIo, Level, Machine, QuorumSize, Wait, Writer,
    WriterCore,
};

use serde::{Deserialize, Serialize};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use synod_paxos::Lease;
use synod_ring::WaitMode;
use synod_wire::{ClusterId, GroupId, NodeId, Quorums};

/// The commented default configuration, as `synod config default` prints it.
pub const DEFAULT_TOML: &str = include_str!("default.toml");

/// Everything that a node is told by its operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Config {
    /// Which cluster.
    pub cluster: Cluster,
    /// The members, in the order of the file.
    #[serde(rename = "node")]
    pub nodes: Vec<Node>,
    /// The pipelines; the index is the group's number.
    #[serde(rename = "group")]
    pub groups: Vec<Group>,
    /// How cores wait.
    pub cpu: Cpu,
    /// Sockets and datagrams.
    pub net: Net,
    /// The log on disk.
    pub wal: Wal,
    /// Time-outs and windows of the protocol.
    pub consensus: Consensus,
    /// Quorum sizes.
    pub quorum: Quorum,
    /// How much of a node its clients may take.
    pub clients: Clients,
    /// What reads rest on.
    pub reads: Reads,
    /// Bounds of catching up.
    pub catchup: Catchup,
    /// Snapshots of the state.
    pub snapshot: Snapshot,
    /// What is kept of the log.
    pub retention: Retention,
    /// What is answered over HTTP.
    pub metrics: Metrics,
    /// Diagnostics.
    pub log: Log,
}

/// `[cluster]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cluster {
    /// The cluster's identity, from 1.
    pub id: u32,
}

/// One `[[node]]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// Its number, below [`NodeId::LIMIT`].
    pub id: u8,
    /// Where members reach group 0; group g is g ports higher.
    #[serde(deserialize_with = "values::address")]
    pub peer_listen: SocketAddrV4,
    /// Where clients reach group 0; group g is g ports higher.
    #[serde(deserialize_with = "values::address")]
    pub client_listen: SocketAddrV4,
    /// Where it answers HTTP: metrics, health and status.
    #[serde(with = "values::listen", default)]
    pub admin_listen: Option<SocketAddrV4>,
    /// Its directory.
    pub dir: PathBuf,
    /// It is none of those who found the groups: it was added to them later, or is to be.
    #[serde(default)]
    pub joins: bool,
}

/// One `[[group]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Group {
    /// The CPU that the pipeline is pinned to, if any.
    #[serde(with = "values::core")]
    pub core: Option<usize>,
    /// What it does with its entries besides keeping them.
    pub machine: Machine,
    /// Who is to lead it: the first of these nodes that is there.
    pub leader_priority: Vec<u8>,
}

/// `[cpu]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Cpu {
    /// How a core enters the kernel.
    pub io: KernelIo,
    /// How a core waits for work.
    pub wait: Wait,
    /// How long an idle core polls before it blocks, microseconds.
    pub yield_idle_us: u64,
    /// The same while a log write is in flight, microseconds.
    pub yield_durable_us: u64,
}

/// `[net]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Net {
    /// The largest batch: the payload of one datagram between members.
    pub max_batch_bytes: usize,
    /// Whether datagrams carry the don't-fragment bit.
    pub dont_fragment: bool,
    /// Receive buffers of the peers' socket.
    pub rx_buffers_peers: u16,
    /// Receive buffers of the clients' socket.
    pub rx_buffers_clients: u16,
    /// The kernel's buffer of each socket.
    pub socket_buffer_bytes: usize,
    /// The most completions in one turn.
    pub max_events: usize,
    /// Whether several datagrams to one receiver go to the kernel in one piece.
    pub segmentation: bool,
    /// Whether several datagrams of one sender come from the kernel in one piece.
    pub receive_offload: bool,
    /// How long a wait in the kernel polls the network cards' queues, microseconds.
    pub napi_busy_poll_us: u32,
}

/// `[wal]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wal {
    /// Size of a segment file.
    pub segment_bytes: u64,
    /// The part of the log that stays in memory.
    pub arena_bytes: usize,
    /// Log writes in flight.
    pub max_in_flight: InFlight,
    /// The most that one log write covers.
    pub max_flush_bytes: usize,
    /// How log writes go to the disk.
    pub writer: Writer,
    /// Where the log-writer thread runs.
    pub writer_core: WriterCore,
    /// When an entry counts as persisted.
    pub durability: Durability,
    /// A log write that takes longer hangs, and the node falls silent, microseconds.
    pub hung_after_us: u64,
}

/// `[consensus]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Consensus {
    /// Interval of the leader's heartbeats, microseconds.
    pub heartbeat_us: u64,
    /// Shortest election time-out, microseconds.
    pub election_timeout_min_us: u64,
    /// Longest election time-out, microseconds.
    pub election_timeout_max_us: u64,
    /// When unanswered messages are sent again, microseconds.
    pub retransmit_us: u64,
    /// The longest that news of a commit waits for other traffic, microseconds.
    pub commit_linger_us: u64,
    /// Open slots.
    pub window_slots: u64,
    /// A leader whose log takes so many times longer than the others' quorum hands over; 0: none does.
    pub fail_slow_factor: u64,
    /// A log that takes less is fast enough, microseconds.
    pub fail_slow_min_us: u64,
}

/// `[quorum]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Quorum {
    /// Promises that elect a leader.
    pub phase1: QuorumSize,
    /// Durable votes that choose a value.
    pub phase2: QuorumSize,
}

/// `[clients]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Clients {
    /// Subscribers of each group at each node.
    pub max_subscribers: u16,
    /// A subscriber that is silent for so long is dropped, microseconds.
    pub subscriber_silence_us: u64,
    /// One that lets entries wait for so long without credit is dropped, microseconds.
    pub subscriber_starved_us: u64,
    /// Reads of each group that may wait at the log's end.
    pub max_waiting_reads: u16,
    /// The longest that one of them waits, microseconds.
    pub max_read_wait_us: u64,
}

/// `[catchup]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Catchup {
    /// Datagrams of chosen values in flight to one replica.
    pub max_datagrams_in_flight: u32,
    /// How fast values and snapshots are sent to replicas that lag, bytes a second.
    pub max_bytes_per_s: u64,
}

/// `[reads]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Reads {
    /// How far a node's monotonic clock may run from true time, parts per million.
    pub max_clock_drift_ppm: u32,
    /// The same, as far as it is vouched for: leases rest on it, and are off until it is said.
    pub lease_clock_drift_ppm: Drift,
    /// How long a lease lasts, microseconds.
    pub lease_us: u64,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Metrics {
    /// Connections to the admin address at once.
    pub max_connections: u16,
    /// The longest that one lasts, microseconds.
    pub connection_timeout_us: u64,
    /// A core that has shown nothing for so long is stuck, microseconds.
    pub stuck_after_us: u64,
}

/// `[log]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Log {
    /// The least severe message that is written.
    pub level: Level,
    /// How one is written.
    pub format: Format,
}

impl Default for Cluster {
    fn default() -> Cluster {
        Cluster { id: 1 }
    }
}

impl Default for Cpu {
    fn default() -> Cpu {
        Cpu { io: KernelIo::Auto, wait: Wait::Auto, yield_idle_us: 50, yield_durable_us: 500 }
    }
}

impl Default for Net {
    fn default() -> Net {
        Net {
            max_batch_bytes: 1_408,
            dont_fragment: true,
            rx_buffers_peers: 128,
            rx_buffers_clients: 128,
            socket_buffer_bytes: 4 << 20,
            max_events: 256,
            segmentation: true,
            receive_offload: true,
            napi_busy_poll_us: 0,
        }
    }
}

impl Default for Wal {
    fn default() -> Wal {
        Wal {
            segment_bytes: 64 << 20,
            arena_bytes: 32 << 20,
            max_in_flight: InFlight::default(),
            max_flush_bytes: 256 << 10,
            writer: Writer::default(),
            writer_core: WriterCore::default(),
            durability: Durability::Disk,
            hung_after_us: 1_000_000,
        }
    }
}

impl Default for Consensus {
    fn default() -> Consensus {
        Consensus {
            heartbeat_us: 20_000,
            election_timeout_min_us: 150_000,
            election_timeout_max_us: 300_000,
            retransmit_us: 10_000,
            commit_linger_us: 500,
            window_slots: 1_024,
            fail_slow_factor: 4,
            fail_slow_min_us: 1_000,
        }
    }
}

/// `[snapshot]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Snapshot {
    /// One is made when the group's tail passes a multiple of this.
    pub every_entries: Every,
    /// How fast the log is read for it, bytes a second.
    pub max_bytes_per_s: u64,
}

impl Default for Snapshot {
    fn default() -> Snapshot {
        Snapshot { every_entries: Every::Auto, max_bytes_per_s: 64 << 20 }
    }
}

/// `[retention]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// The most that the log's files are to take on each node; 0: no limit.
    pub max_bytes: u64,
    /// For how long an entry is kept, seconds; 0: for ever.
    pub max_age_s: u64,
}

impl Default for Clients {
    fn default() -> Clients {
        Clients {
            max_subscribers: 64,
            subscriber_silence_us: 3_000_000,
            subscriber_starved_us: 2_000_000,
            max_waiting_reads: 256,
            max_read_wait_us: 10_000_000,
        }
    }
}

impl Default for Metrics {
    fn default() -> Metrics {
        Metrics { max_connections: 32, connection_timeout_us: 10_000_000, stuck_after_us: 2_000_000 }
    }
}

impl Default for Catchup {
    fn default() -> Catchup {
        Catchup { max_datagrams_in_flight: 256, max_bytes_per_s: 1 << 30 }
    }
}

impl Default for Reads {
    fn default() -> Reads {
        Reads { max_clock_drift_ppm: 500, lease_clock_drift_ppm: Drift::Off, lease_us: 100_000 }
    }
}

/// Every default, one unpinned group, and no nodes: those must be named.
impl Default for Config {
    fn default() -> Config {
        Config {
            cluster: Cluster::default(),
            nodes: Vec::new(),
            groups: vec![Group::default()],
            cpu: Cpu::default(),
            net: Net::default(),
            wal: Wal::default(),
            consensus: Consensus::default(),
            quorum: Quorum::default(),
            clients: Clients::default(),
            reads: Reads::default(),
            catchup: Catchup::default(),
            snapshot: Snapshot::default(),
            retention: Retention::default(),
            metrics: Metrics::default(),
            log: Log::default(),
        }
    }
}

impl Node {
    /// Its number as the protocol has it.
    pub fn node_id(&self) -> NodeId {
        NodeId(self.id)
    }
}

impl Config {
    /// The cluster's identity.
    pub fn cluster_id(&self) -> ClusterId {
        ClusterId(self.cluster.id)
    }

    /// The members in ascending order.
    pub fn members(&self) -> Vec<NodeId> {
        let mut members: Vec<NodeId> = self.nodes.iter().map(Node::node_id).collect();
        members.sort_unstable();
        members
    }

    /// The groups in order.
    pub fn group_ids(&self) -> impl Iterator<Item = GroupId> + use<> {
        (0..self.groups.len() as u8).map(GroupId)
    }

    /// Those who found the groups, in ascending order.
    pub fn founders(&self) -> Vec<NodeId> {
        let founder = |id: &NodeId| self.node(*id).is_some_and(|node| !node.joins);
        self.members().into_iter().filter(founder).collect()
    }

    /// The node with this number, if the file has it.
    pub fn node(&self, id: NodeId) -> Option<&Node> {
        self.nodes.iter().find(|node| node.id == id.0)
    }

    fn known(&self, id: NodeId) -> &Node {
        self.node(id).unwrap_or_else(|| panic!("node {id} is not in the configuration: callers look it up first"))
    }

    /// Where members reach `group` on `node`.
    ///
    /// # Panics
    /// If the node is not in the configuration.
    pub fn peer_address(&self, node: NodeId, group: GroupId) -> SocketAddrV4 {
        shifted(self.known(node).peer_listen, group)
    }

    /// Where clients reach `group` on `node`.
    ///
    /// # Panics
    /// If the node is not in the configuration.
    pub fn client_address(&self, node: NodeId, group: GroupId) -> SocketAddrV4 {
        shifted(self.known(node).client_listen, group)
    }

    /// Where clients reach `group` on every member, in ascending order of the members.
    pub fn client_addresses(&self, group: GroupId) -> Vec<(NodeId, SocketAddrV4)> {
        self.members().into_iter().map(|node| (node, self.client_address(node, group))).collect()
    }

    /// The directory of a group's log on `node`.
    ///
    /// # Panics
    /// If the node is not in the configuration.
    pub fn log_dir(&self, node: NodeId, group: GroupId) -> PathBuf {
        self.known(node).dir.join(format!("group-{:03}", group.0))
    }

    /// The quorum sizes in numbers.
    pub fn quorums(&self) -> Quorums {
        let members = self.founders().len();
        Quorums { phase1: self.quorum.phase1.of(members), phase2: self.quorum.phase2.of(members) }
    }

    /// Leases, as the core takes them.
    pub fn lease(&self) -> Option<Lease> {
        let drift_ppm = self.reads.lease_clock_drift_ppm.ppm()?;
        Some(Lease { length_ns: self.reads.lease_us * 1_000, drift_ppm })
    }

    /// How cores wait, as the reactor takes it.
    pub fn wait_mode(&self) -> WaitMode {
        // Within the checked range, far below what 32 bits hold.
        let us = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        let (idle_us, durable_us) = (us(self.cpu.yield_idle_us), us(self.cpu.yield_durable_us));
        match self.cpu.wait {
            Wait::Auto => WaitMode::Auto { idle_us, durable_us },
            Wait::Spin => WaitMode::Spin,
            Wait::Yield => WaitMode::Yield { idle_us, durable_us },
            Wait::Block => WaitMode::Block,
        }
    }
}

/// `base` with its port moved up by the group's number; [`check()`] made sure that it does not overflow.
fn shifted(base: SocketAddrV4, group: GroupId) -> SocketAddrV4 {
    SocketAddrV4::new(*base.ip(), base.port() + u16::from(group.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The file that `config default` prints, read back.
    fn documented() -> Config {
        load::parse(DEFAULT_TOML, "default.toml".as_ref(), std::iter::empty()).unwrap().config
    }

    #[test]
    fn the_printed_default_is_the_default_with_three_loopback_nodes() {
        let node = |id: u8| Node {
            id,
            peer_listen: format!("127.0.0.1:{}", 7400 + u16::from(id) * 10).parse().unwrap(),
            client_listen: format!("127.0.0.1:{}", 7500 + u16::from(id) * 10).parse().unwrap(),
            dir: format!("/var/lib/synod/{id}").into(),
            admin_listen: None,
            joins: false,
        };
        let expected = Config { nodes: (0..3).map(node).collect(), ..Config::default() };
        assert_eq!(documented(), expected);
        assert!(check(&expected).is_empty());
    }

    #[test]
    fn every_key_stands_in_the_printed_default_with_a_comment() {
        let all = toml::Table::try_from(documented()).unwrap();
        let text = DEFAULT_TOML.parse::<toml::Table>().unwrap();
        assert_eq!(all, text, "a key is missing from default.toml, or its value is not the default");
    }

    #[test]
    fn addresses_and_directories_move_with_the_group() {
        let config = documented();
        assert_eq!(config.peer_address(NodeId(1), GroupId(3)), "127.0.0.1:7413".parse().unwrap());
        assert_eq!(config.client_address(NodeId(2), GroupId(0)), "127.0.0.1:7520".parse().unwrap());
        assert_eq!(config.log_dir(NodeId(0), GroupId(12)), PathBuf::from("/var/lib/synod/0/group-012"));
        assert_eq!(config.members(), [NodeId(0), NodeId(1), NodeId(2)]);
        assert_eq!(config.quorums(), Quorums { phase1: 2, phase2: 2 });
        assert!(config.node(NodeId(3)).is_none());
    }
}
