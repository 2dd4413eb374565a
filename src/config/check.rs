//! What a configuration must fulfil beyond its types: ranges, and keys that depend on each other.
//!
//! Pure: a [`Config`] in, [`Finding`]s out. Called by [`super::load`]; the ranges also stand in default.toml, and a test
//! compares the two.

use super::values::DRIFT_MAX_PPM;
use super::{Config, Durability, IN_FLIGHT_MAX, KernelIo, Machine, Node, Wait, Writer};
use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddrV4};
use synod_paxos::MAX_LEASE_NS;
use synod_wal::MAX_ARENA_BYTES;
use synod_wire::NodeId;
use synod_wire::batch::MIN_BATCH_BYTES;
use synod_wire::frame::frame_bytes;

/// Groups that a configuration may have.
pub const MAX_GROUPS: usize = 64;

/// One thing that cannot work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The key, as `net.max_batch_bytes` or `node[1].dir`.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
    /// What to write instead.
    pub mend: String,
}

/// What a number must be besides within its range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Any,
    MultipleOf(u64),
    PowerOfTwo,
}

/// The range of one number.
struct Range {
    key: &'static str,
    value: fn(&Config) -> u64,
    min: u64,
    max: u64,
    form: Form,
}

const fn range(key: &'static str, value: fn(&Config) -> u64, min: u64, max: u64, form: Form) -> Range {
    Range { key, value, min, max, form }
}

const STRIDE_BYTES: u64 = 4 << 20;

const RANGES: &[Range] = &[
    range("cluster.id", |c| c.cluster.id.into(), 1, u32::MAX as u64, Form::Any),
    range("cpu.yield_idle_us", |c| c.cpu.yield_idle_us, 0, 1_000_000, Form::Any),
    range("cpu.yield_durable_us", |c| c.cpu.yield_durable_us, 0, 1_000_000, Form::Any),
    range(
        "net.max_batch_bytes",
        |c| c.net.max_batch_bytes as u64,
        MIN_BATCH_BYTES as u64,
        65_408,
        Form::MultipleOf(64),
    ),
    range("net.rx_buffers_peers", |c| c.net.rx_buffers_peers.into(), 16, 16_384, Form::PowerOfTwo),
    range("net.rx_buffers_clients", |c| c.net.rx_buffers_clients.into(), 16, 16_384, Form::PowerOfTwo),
    range("net.socket_buffer_bytes", |c| c.net.socket_buffer_bytes as u64, 65_536, 1 << 30, Form::Any),
    range("net.napi_busy_poll_us", |c| c.net.napi_busy_poll_us.into(), 0, 10_000, Form::Any),
    range("net.max_events", |c| c.net.max_events as u64, 16, 65_536, Form::Any),
    range("wal.segment_bytes", |c| c.wal.segment_bytes, 4 << 20, 16 << 30, Form::MultipleOf(STRIDE_BYTES)),
    range("wal.arena_bytes", |c| c.wal.arena_bytes as u64, 8 << 20, MAX_ARENA_BYTES, Form::MultipleOf(STRIDE_BYTES)),
    range("wal.max_in_flight", |c| c.wal.max_in_flight.most() as u64, 1, IN_FLIGHT_MAX, Form::Any),
    range("wal.max_flush_bytes", |c| c.wal.max_flush_bytes as u64, 128 << 10, 2 << 20, Form::Any),
    range("consensus.heartbeat_us", |c| c.consensus.heartbeat_us, 500, 10_000_000, Form::Any),
    range("consensus.election_timeout_min_us", |c| c.consensus.election_timeout_min_us, 5_000, 60_000_000, Form::Any),
    range("consensus.election_timeout_max_us", |c| c.consensus.election_timeout_max_us, 5_000, 120_000_000, Form::Any),
    range("consensus.retransmit_us", |c| c.consensus.retransmit_us, 500, 10_000_000, Form::Any),
    range("consensus.commit_linger_us", |c| c.consensus.commit_linger_us, 0, 1_000_000, Form::Any),
    range("consensus.fail_slow_min_us", |c| c.consensus.fail_slow_min_us, 50, 10_000_000, Form::Any),
    // 0: none does, which is no number below the least.
    range(
        "consensus.fail_slow_factor",
        |c| match c.consensus.fail_slow_factor {
            0 => 2,
            factor => factor,
        },
        2,
        1_000,
        Form::Any,
    ),
    range("wal.hung_after_us", |c| c.wal.hung_after_us, 10_000, 60_000_000, Form::Any),
    range("consensus.window_slots", |c| c.consensus.window_slots, 16, 65_536, Form::Any),
    range("clients.max_subscribers", |c| c.clients.max_subscribers.into(), 1, 1_024, Form::Any),
    range("clients.subscriber_silence_us", |c| c.clients.subscriber_silence_us, 500_000, 600_000_000, Form::Any),
    range("clients.subscriber_starved_us", |c| c.clients.subscriber_starved_us, 10_000, 600_000_000, Form::Any),
    range("clients.max_waiting_reads", |c| c.clients.max_waiting_reads.into(), 1, 4_096, Form::Any),
    range("clients.max_read_wait_us", |c| c.clients.max_read_wait_us, 1_000, 600_000_000, Form::Any),
    range("metrics.max_connections", |c| c.metrics.max_connections.into(), 1, 1_024, Form::Any),
    range("metrics.connection_timeout_us", |c| c.metrics.connection_timeout_us, 100_000, 600_000_000, Form::Any),
    range("metrics.stuck_after_us", |c| c.metrics.stuck_after_us, 100_000, 60_000_000, Form::Any),
    range("catchup.max_datagrams_in_flight", |c| c.catchup.max_datagrams_in_flight.into(), 1, 4_096, Form::Any),
    range("catchup.max_bytes_per_s", |c| c.catchup.max_bytes_per_s, 1 << 20, 10 << 30, Form::Any),
    range("snapshot.every_entries", |c| c.snapshot.every_entries.of(Machine::Log), 100, 1_000_000_000, Form::Any),
    range("snapshot.max_bytes_per_s", |c| c.snapshot.max_bytes_per_s, 1 << 20, 10 << 30, Form::Any),
    range("retention.max_bytes", |c| c.retention.max_bytes, 0, 1 << 50, Form::Any),
    range("retention.max_age_s", |c| c.retention.max_age_s, 0, 3_153_600_000, Form::Any),
    range("reads.max_clock_drift_ppm", |c| c.reads.max_clock_drift_ppm.into(), 0, 100_000, Form::Any),
    range(
        "reads.lease_clock_drift_ppm",
        |c| c.reads.lease_clock_drift_ppm.ppm().unwrap_or(1).into(),
        1,
        DRIFT_MAX_PPM as u64,
        Form::Any,
    ),
    range("reads.lease_us", |c| c.reads.lease_us, 1_000, MAX_LEASE_NS / 1_000, Form::Any),
];

/// `1_234_567`, as TOML and this file write long numbers.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push('_');
        }
        text.push(digit);
    }
    text
}

/// Everything that is wrong with `config`; empty if it can run.
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Findings(Vec::new());
    for range in RANGES {
        findings.range(range, (range.value)(config));
    }
    findings.nodes(config);
    findings.groups(config);
    findings.writer(config);
    findings.ports(config);
    findings.time_outs(config);
    findings.leases(config);
    findings.sizes(config);
    findings.retention(config);
    findings.quorums(config);
    findings.0
}

/// What works, but not as well as it could: printed, not refused.
pub fn warnings(config: &Config) -> Vec<String> {
    let mut warnings = Vec::new();
    let local = nodes_by_host(config).values().map(Vec::len).max().unwrap_or(0);
    let pinned = config.groups.iter().filter(|group| group.core.is_some()).count();
    if local > 1 && pinned > 0 {
        warnings.push(format!(
            "{local} nodes share a host, and each pins {pinned} of its groups to the same cores: set core = \"none\" there"
        ));
    }
    if config.cpu.wait == Wait::Spin && pinned < config.groups.len() {
        warnings.push("cpu.wait = \"spin\" without a core of its own starves whatever else runs there: pin every group, or use \"auto\"".into());
    }
    if config.wal.durability == Durability::Memory {
        warnings.push(
            "wal.durability = \"memory\": a node that does not stop in order cannot be started again from its directory, and \
             what a quorum held in memory only is lost with it"
                .into(),
        );
    }
    if config.founders().len().is_multiple_of(2) {
        let members = config.founders().len();
        warnings.push(format!("{members} members tolerate no more failures than {} do", members - 1));
    }
    warnings
}

fn nodes_by_host(config: &Config) -> BTreeMap<Ipv4Addr, Vec<(usize, &Node)>> {
    let mut hosts: BTreeMap<Ipv4Addr, Vec<(usize, &Node)>> = BTreeMap::new();
    for (index, node) in config.nodes.iter().enumerate() {
        hosts.entry(*node.peer_listen.ip()).or_default().push((index, node));
    }
    hosts
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, key: impl Into<String>, reason: impl Into<String>, mend: impl Into<String>) {
        self.0.push(Finding { key: key.into(), reason: reason.into(), mend: mend.into() });
    }

    fn range(&mut self, range: &Range, value: u64) {
        let (min, max) = (grouped(range.min), grouped(range.max));
        if value < range.min || value > range.max {
            self.add(range.key, format!("{value} is out of range"), format!("write {min} to {max}"));
            return;
        }
        match range.form {
            Form::MultipleOf(unit) if !value.is_multiple_of(unit) => {
                let (below, above) = (value / unit * unit, value.next_multiple_of(unit));
                let near = if below < range.min { above } else { below };
                let mend = format!("write a multiple, as {}", grouped(near));
                self.add(range.key, format!("{value} is not a multiple of {}", grouped(unit)), mend);
            }
            Form::PowerOfTwo if !value.is_power_of_two() => {
                let mend = format!("write {}", value.next_power_of_two().min(range.max));
                self.add(range.key, format!("{value} is not a power of two"), mend);
            }
            _ => {}
        }
    }

    fn nodes(&mut self, config: &Config) {
        if config.nodes.is_empty() {
            self.add(
                "node",
                "no [[node]] is given",
                "write one [[node]] for each member (`synod config default` shows three)",
            );
        }
        if !config.nodes.is_empty() && config.nodes.iter().all(|node| node.joins) {
            let mend = "leave it out for the nodes that the groups begin with";
            self.add("node[0].joins", "no node founds the groups", mend);
        }
        let voters = synod_wire::configuration::MAX_VOTERS;
        if config.founders().len() > voters {
            self.add(
                "node",
                format!("{} nodes found the groups", config.founders().len()),
                format!("write {voters} at most"),
            );
        }
        let mut seen = BTreeMap::new();
        for (index, node) in config.nodes.iter().enumerate() {
            let key = |name: &str| format!("node[{index}].{name}");
            if node.id >= NodeId::LIMIT {
                self.add(
                    key("id"),
                    format!("{} is out of range", node.id),
                    format!("write 0 to {}", NodeId::LIMIT - 1),
                );
            }
            if let Some(first) = seen.insert(node.id, index) {
                let reason = format!("{} is also the id of node[{first}]", node.id);
                self.add(key("id"), reason, "give each node a number of its own");
            }
            if !node.dir.is_absolute() {
                let reason = format!("{:?} is not absolute", node.dir);
                self.add(
                    key("dir"),
                    reason,
                    "write the whole path: a node must find its log wherever it is started from",
                );
            }
            if node.peer_listen.ip() != node.client_listen.ip() && node.peer_listen.ip().is_loopback() {
                let mend = "write an address that the other members can reach, or keep both on loopback";
                self.add(key("peer_listen"), "is on loopback while client_listen is not", mend);
            }
            // Metrics may be served on all addresses of a host; nobody sends to it by this file.
            if let Some(address) =
                node.admin_listen.filter(|address| address.port() == 0 || address.ip().is_multicast())
            {
                let mend = "write an address of this host and a port from 1 to 65_535, or \"none\"";
                self.add(key("admin_listen"), format!("{address} cannot be listened on"), mend);
            }
            for (name, address) in [("peer_listen", node.peer_listen), ("client_listen", node.client_listen)] {
                let ip = address.ip();
                if ip.is_unspecified() || ip.is_multicast() || ip.is_broadcast() {
                    let mend = "write the address that the others send to";
                    self.add(key(name), format!("{ip} is not the address of one host"), mend);
                }
            }
        }
        self.reachability(config);
        self.directories(config);
    }

    fn reachability(&mut self, config: &Config) {
        let (local, remote): (Vec<_>, Vec<_>) =
            config.nodes.iter().enumerate().partition(|(_, node)| node.peer_listen.ip().is_loopback());
        if let (Some((index, _)), Some((other, _))) = (local.first(), remote.first()) {
            let reason = format!("is on loopback, where node[{other}], which is not, cannot reach it");
            self.add(format!("node[{index}].peer_listen"), reason, "put all members on loopback or none");
        }
    }

    fn directories(&mut self, config: &Config) {
        for nodes in nodes_by_host(config).values() {
            for (i, (index, node)) in nodes.iter().enumerate() {
                let clash =
                    |(_, other): &&(usize, &Node)| node.dir.starts_with(&other.dir) || other.dir.starts_with(&node.dir);
                if let Some((other, _)) = nodes[..i].iter().find(clash) {
                    let reason = format!("{:?} and the directory of node[{other}] contain one another", node.dir);
                    self.add(format!("node[{index}].dir"), reason, "give each node on a host a directory of its own");
                }
            }
        }
    }

    fn groups(&mut self, config: &Config) {
        if config.groups.is_empty() || config.groups.len() > MAX_GROUPS {
            self.add("group", format!("{} groups are given", config.groups.len()), format!("write 1 to {MAX_GROUPS}"));
        }
        for (index, group) in config.groups.iter().enumerate() {
            let named = &group.leader_priority;
            let odd = named
                .iter()
                .enumerate()
                .find(|(at, id)| named[..*at].contains(id) || !config.nodes.iter().any(|node| node.id == **id));
            if let Some((_, id)) = odd {
                let reason = format!("{id} is no node's id, or named twice");
                self.add(
                    format!("group[{index}].leader_priority"),
                    reason,
                    "name each node once, by the id of its [[node]]",
                );
            }
        }
        let mut seen = BTreeMap::new();
        for (index, group) in config.groups.iter().enumerate() {
            let Some(core) = group.core else { continue };
            if let Some(first) = seen.insert(core, index) {
                let reason = format!("core {core} also runs group[{first}]");
                self.add(
                    format!("group[{index}].core"),
                    reason,
                    "pin each group to a core of its own, or write \"none\"",
                );
            }
        }
    }

    /// A log is not written through a ring that there is not to be.
    fn writer(&mut self, config: &Config) {
        if config.cpu.io == KernelIo::Syscall && config.wal.writer == Writer::Ring {
            let reason = "\"ring\" is the pipeline's io_uring, and cpu.io = \"syscall\" is to do without it";
            self.add("wal.writer", reason, "write \"auto\" or \"thread\", or cpu.io = \"uring\"");
        }
    }

    /// Each listener takes one port a group; on one address no two may overlap.
    fn ports(&mut self, config: &Config) {
        let groups = config.groups.len() as u32;
        let mut taken: Vec<(String, SocketAddrV4)> = Vec::new();
        // TCP, and one a node.
        let admin = |(index, node): (usize, &Node)| Some((index, node.admin_listen?));
        let admins: Vec<(usize, SocketAddrV4)> = config.nodes.iter().enumerate().filter_map(admin).collect();
        for (at, (index, address)) in admins.iter().enumerate() {
            if let Some((other, _)) = admins[..at].iter().find(|(_, other)| other == address) {
                let reason = format!("{address} is that of node[{other}] too");
                self.add(format!("node[{index}].admin_listen"), reason, "give each node on a host a port of its own");
            }
        }
        for (index, node) in config.nodes.iter().enumerate() {
            for (name, address) in [("peer_listen", node.peer_listen), ("client_listen", node.client_listen)] {
                let key = format!("node[{index}].{name}");
                let port = u32::from(address.port());
                if port == 0 || port + groups - groups.min(1) > u32::from(u16::MAX) {
                    let mend = format!("write a port from 1 to {}", u32::from(u16::MAX) + 1 - groups.max(1));
                    self.add(&key, format!("port {port} leaves no room for {groups} group(s)"), mend);
                }
                let clash = |(_, other): &&(String, SocketAddrV4)| {
                    other.ip() == address.ip() && u32::from(other.port()).abs_diff(port) < groups
                };
                if let Some((other, theirs)) = taken.iter().find(clash) {
                    let reason = format!("ports {port} + group overlap those of {other} ({})", theirs.port());
                    self.add(&key, reason, format!("leave at least {groups} port(s) between them"));
                }
                taken.push((key, address));
            }
        }
    }

    fn time_outs(&mut self, config: &Config) {
        let c = &config.consensus;
        if c.heartbeat_us > c.election_timeout_min_us / 2 {
            let reason = format!(
                "{} is more than half of election_timeout_min_us: one lost heartbeat starts an election",
                c.heartbeat_us
            );
            self.add("consensus.heartbeat_us", reason, format!("write at most {}", c.election_timeout_min_us / 2));
        }
        if c.election_timeout_max_us <= c.election_timeout_min_us {
            let reason =
                format!("{} is not above election_timeout_min_us: candidates would collide", c.election_timeout_max_us);
            let mend = format!("write about {}", c.election_timeout_min_us.saturating_mul(2));
            self.add("consensus.election_timeout_max_us", reason, mend);
        }
        if c.commit_linger_us > c.heartbeat_us {
            let reason = format!("{} is more than heartbeat_us, which tells of commits too", c.commit_linger_us);
            self.add("consensus.commit_linger_us", reason, format!("write at most {}", c.heartbeat_us));
        }
        if c.retransmit_us > c.election_timeout_min_us {
            let reason = format!(
                "{} is more than election_timeout_min_us: a lost message would cost the leadership",
                c.retransmit_us
            );
            self.add("consensus.retransmit_us", reason, format!("write at most {}", c.election_timeout_min_us));
        }
        // A core that has nothing to do sleeps until the next heartbeat, and shows nothing before.
        let stuck_after_us = config.metrics.stuck_after_us;
        if stuck_after_us < c.heartbeat_us.saturating_mul(2) {
            let reason = format!(
                "{stuck_after_us} is less than two heartbeats: a core that has nothing to do would count as stuck"
            );
            let mend = format!("write at least {}", c.heartbeat_us.saturating_mul(2));
            self.add("metrics.stuck_after_us", reason, mend);
        }
    }

    /// A lease must outlast a lost heartbeat for its holder, and must not outlast an election time-out for who waits for it.
    fn leases(&mut self, config: &Config) {
        let Some(lease) = config.lease() else { return };
        let (c, lease_us) = (&config.consensus, config.reads.lease_us);
        let counted_us = lease.counted_ns(lease.length_ns) / 1_000;
        let needed_us = 2 * c.heartbeat_us;
        if counted_us < needed_us {
            let reason = format!(
                "{lease_us} leaves the leader {counted_us} us of each heartbeat's grant when clocks may drift by {} parts per \
                 million, less than two heartbeats ({needed_us} us): it would hold a lease by chance only",
                lease.drift_ppm
            );
            let (drift, all) = (u128::from(lease.drift_ppm), 1_000_000u128);
            let least_us = (u128::from(needed_us) * (all + drift)).div_ceil(all.saturating_sub(drift).max(1)) + 1;
            let mend = format!("write at least {least_us}, or send heartbeats more often (consensus.heartbeat_us)");
            self.add("reads.lease_us", reason, mend);
        }
        if lease_us > c.election_timeout_max_us {
            let reason = format!(
                "{lease_us} is more than election_timeout_max_us: a leader without answers steps down before, and its \
                 successor would wait for nothing"
            );
            let mend = format!("write at most {}, better at most election_timeout_min_us", c.election_timeout_max_us);
            self.add("reads.lease_us", reason, mend);
        }
    }

    fn sizes(&mut self, config: &Config) {
        let frame = frame_bytes(config.net.max_batch_bytes) as u64;
        let room = config.wal.arena_bytes as u64 / 2;
        let window = config.consensus.window_slots.saturating_mul(frame);
        if window > room {
            let reason = format!(
                "{} slots of {frame} bytes do not fit half of wal.arena_bytes, so open slots could leave memory",
                config.consensus.window_slots
            );
            let arena = (window * 2).next_multiple_of(STRIDE_BYTES);
            let mend = format!("write at most {}, or raise wal.arena_bytes to {}", room / frame, grouped(arena));
            self.add("consensus.window_slots", reason, mend);
        }
    }

    /// Segments leave the disk whole, and a snapshot must have passed them.
    fn retention(&mut self, config: &Config) {
        let (max_bytes, least) = (config.retention.max_bytes, config.wal.segment_bytes.saturating_mul(8));
        if max_bytes > 0 && max_bytes < least {
            let reason = format!("{max_bytes} bytes are fewer than 8 segments of {}", config.wal.segment_bytes);
            let mend = format!(
                "write at least {}, or 0 to keep everything, or make wal.segment_bytes smaller",
                grouped(least)
            );
            self.add("retention.max_bytes", reason, mend);
        }
    }

    fn quorums(&mut self, config: &Config) {
        let members = config.founders().len();
        let quorums = config.quorums();
        for (key, size) in [("quorum.phase1", quorums.phase1), ("quorum.phase2", quorums.phase2)] {
            if members > 0 && (size == 0 || size > members) {
                let mend = format!("write 1 to {members}, or \"majority\"");
                self.add(key, format!("{size} of {members} members is no quorum"), mend);
                return;
            }
        }
        if members > 0 && !quorums.intersect(members) {
            let reason = format!(
                "{} + {} does not exceed the {members} members: a new leader could miss a chosen value",
                quorums.phase1, quorums.phase2
            );
            self.add("quorum.phase1", reason, format!("write at least {}", members + 1 - quorums.phase2));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{DEFAULT_TOML, Drift, Group, InFlight, QuorumSize, load};

    fn valid() -> Config {
        load::parse(DEFAULT_TOML, "default.toml".as_ref(), std::iter::empty()).unwrap().config
    }

    /// The keys found wrong after `change`.
    fn keys_after(change: impl FnOnce(&mut Config)) -> Vec<String> {
        let mut config = valid();
        change(&mut config);
        check(&config).into_iter().map(|finding| finding.key).collect()
    }

    #[test]
    fn the_documented_ranges_are_the_checked_ones() {
        for range in RANGES {
            let (section, key) = range.key.split_once('.').unwrap();
            let body = DEFAULT_TOML.split(&format!("\n[{section}]\n")).nth(1).unwrap();
            let before = body.split(&format!("\n{key} =")).next().unwrap();
            let comment = before.lines().rev().take_while(|line| line.starts_with('#')).collect::<Vec<_>>();
            let text: String = comment.into_iter().rev().map(|line| line.trim_start_matches('#')).collect();
            let mut expected = format!("Range: {} to {}", grouped(range.min), grouped(range.max));
            match range.form {
                Form::MultipleOf(unit) => expected += &format!(", a multiple of {}", grouped(unit)),
                Form::PowerOfTwo => expected += ", a power of two",
                Form::Any => {}
            }
            assert!(text.contains(&expected), "{}: default.toml says {text:?}, checked is {expected:?}", range.key);
        }
    }

    #[test]
    fn values_out_of_range_or_of_the_wrong_form_are_refused() {
        assert_eq!(keys_after(|c| c.cluster.id = 0), ["cluster.id"]);
        assert_eq!(keys_after(|c| c.net.max_batch_bytes = 1_400), ["net.max_batch_bytes"]);
        assert_eq!(keys_after(|c| c.net.rx_buffers_peers = 500), ["net.rx_buffers_peers"]);
        assert_eq!(keys_after(|c| c.wal.segment_bytes = (4 << 20) + 1), ["wal.segment_bytes"]);
        assert_eq!(keys_after(|c| c.wal.max_in_flight = InFlight::Fixed(0)), ["wal.max_in_flight"]);
        assert_eq!(keys_after(|c| c.consensus.election_timeout_min_us = 4_999)[0], "consensus.election_timeout_min_us");
    }

    #[test]
    fn who_is_to_lead_is_a_node_and_named_once() {
        let keys = |order: &[u8]| keys_after(|c| c.groups[0].leader_priority = order.to_vec());
        assert_eq!(keys(&[2, 0, 1]), Vec::<String>::new());
        assert_eq!(keys(&[2, 2]), ["group[0].leader_priority"]);
        assert_eq!(keys(&[7]), ["group[0].leader_priority"]);
    }

    #[test]
    fn nodes_must_be_distinct_and_reachable() {
        assert_eq!(keys_after(|c| c.nodes.clear()), ["node"]);
        assert_eq!(keys_after(|c| c.nodes[1].id = 0), ["node[1].id"]);
        assert_eq!(keys_after(|c| c.nodes[2].id = 64), ["node[2].id"]);
        assert_eq!(keys_after(|c| c.nodes[1].dir = "/var/lib/synod/0/x".into()), ["node[1].dir"]);
        assert_eq!(keys_after(|c| c.nodes[1].dir = "relative".into()), ["node[1].dir"]);
        assert_eq!(
            keys_after(|c| c.nodes[0].client_listen = "0.0.0.0:7500".parse().unwrap())[1],
            "node[0].client_listen"
        );
        let remote = |c: &mut Config| {
            c.nodes[2].peer_listen = "10.0.0.1:7400".parse().unwrap();
            c.nodes[2].client_listen = "10.0.0.1:7500".parse().unwrap();
        };
        assert_eq!(keys_after(remote), ["node[0].peer_listen"]);
    }

    #[test]
    fn no_log_is_written_through_a_ring_that_is_not_there() {
        let both = |io, writer| keys_after(|c| (c.cpu.io, c.wal.writer) = (io, writer));
        assert_eq!(both(KernelIo::Syscall, Writer::Ring), ["wal.writer"]);
        for (io, writer) in [
            (KernelIo::Syscall, Writer::Thread),
            (KernelIo::Syscall, Writer::Auto),
            (KernelIo::Uring, Writer::Ring),
            (KernelIo::Auto, Writer::Ring),
        ] {
            assert!(both(io, writer).is_empty(), "{io:?} {writer:?}");
        }
    }

    #[test]
    fn ports_of_groups_must_not_overlap() {
        assert_eq!(
            keys_after(|c| c.nodes[1].peer_listen = "127.0.0.1:7520".parse().unwrap()),
            ["node[2].client_listen"]
        );
        let groups = |count: usize| move |c: &mut Config| c.groups = vec![Group::default(); count];
        assert!(keys_after(groups(10)).is_empty());
        assert_eq!(keys_after(groups(11)).len(), 4, "each of the neighbours ten ports apart overlaps");
        assert_eq!(keys_after(|c| c.nodes[0].peer_listen = "127.0.0.1:0".parse().unwrap()), ["node[0].peer_listen"]);
    }

    #[test]
    fn dependent_keys_are_compared() {
        assert_eq!(keys_after(|c| c.consensus.heartbeat_us = 75_001), ["consensus.heartbeat_us"]);
        assert!(keys_after(|c| c.consensus.heartbeat_us = 75_000).is_empty());
        assert_eq!(
            keys_after(|c| c.consensus.election_timeout_max_us = 150_000),
            ["consensus.election_timeout_max_us"]
        );
        assert_eq!(keys_after(|c| c.consensus.commit_linger_us = 20_001), ["consensus.commit_linger_us"]);
        let slow = |stuck_after_us| {
            move |c: &mut Config| {
                (c.consensus.heartbeat_us, c.metrics.stuck_after_us) = (60_000, stuck_after_us);
            }
        };
        assert_eq!(keys_after(slow(119_999)), ["metrics.stuck_after_us"]);
        assert!(keys_after(slow(120_000)).is_empty());
        assert_eq!(keys_after(|c| c.consensus.window_slots = 60_000), ["consensus.window_slots"]);
        assert_eq!(keys_after(|c| c.net.max_batch_bytes = 65_408), ["consensus.window_slots"]);
        assert_eq!(keys_after(|c| c.groups = vec![Group { core: Some(1), ..Group::default() }; 2]), ["group[1].core"]);
    }

    #[test]
    fn a_lease_that_could_not_be_held_is_refused_once_leases_are_on() {
        let lease = |ppm: u32, us: u64| {
            move |c: &mut Config| (c.reads.lease_clock_drift_ppm, c.reads.lease_us) = (Drift::Ppm(ppm), us)
        };
        assert!(keys_after(lease(500, 100_000)).is_empty());
        assert!(keys_after(|c| c.reads.lease_us = 30_000).is_empty(), "leases are off");
        // Two heartbeats of 20 ms.
        assert_eq!(keys_after(lease(500, 40_000)), ["reads.lease_us"]);
        assert!(keys_after(lease(500, 40_041)).is_empty());
        assert_eq!(keys_after(lease(100_000, 48_000)), ["reads.lease_us"]);
        assert!(keys_after(lease(100_000, 49_000)).is_empty());
        assert!(keys_after(lease(500, 300_000)).is_empty());
        assert_eq!(keys_after(lease(500, 300_001)), ["reads.lease_us"]);
        assert_eq!(keys_after(lease(0, 100_000)), ["reads.lease_clock_drift_ppm"]);
        assert_eq!(keys_after(lease(100_001, 100_000)), ["reads.lease_clock_drift_ppm"]);
    }

    #[test]
    fn quorums_must_meet() {
        let set = |one, two| {
            move |c: &mut Config| (c.quorum.phase1, c.quorum.phase2) = (QuorumSize::Nodes(one), QuorumSize::Nodes(two))
        };
        assert!(keys_after(set(3, 1)).is_empty());
        assert_eq!(keys_after(set(2, 1)), ["quorum.phase1"]);
        assert_eq!(keys_after(set(0, 3)), ["quorum.phase1"]);
        assert_eq!(keys_after(set(3, 4)), ["quorum.phase2"]);
    }
}
