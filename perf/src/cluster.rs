//! The product's nodes: processes of the `synod` binary on loopback with their logs on a real disk, or a cluster that runs
//! already. Nodes that were started here can be killed, paused, ended and started again. Called by `bench` and by the
//! scenarios.

use crate::bench::Durability;
use crate::interrupt;
use crate::options::ShapeArgs;
use anyhow::{Context, anyhow, bail, ensure};
use std::collections::BTreeMap;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use synod::config::Wal;
use synod_client::Status;
use synod_wire::client::role;
use synod_wire::{ClusterId, GroupId, NodeId};

/// How long a node may take to end after SIGTERM.
const END_WAIT: Duration = Duration::from_secs(10);
/// How long a node may take to answer a question.
const STATUS_WAIT: Duration = Duration::from_secs(2);
/// How often nodes are asked while something is waited for: they tell their state only when asked.
const ASK_AGAIN: Duration = Duration::from_millis(5);
/// The identity of a local cluster.
const CLUSTER: ClusterId = ClusterId(0x5e7f);
/// How often a run of free ports is looked for.
const PORT_TRIES: usize = 100;

/// Nodes to measure.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Which cluster.
    pub(crate) id: ClusterId,
    /// Which of its groups.
    pub(crate) group: GroupId,
    /// The members, where clients of that group reach them.
    pub(crate) members: Vec<(NodeId, SocketAddrV4)>,
    /// Those that this program started.
    nodes: Vec<Node>,
    /// Where they lie, if this program started them.
    home: Option<Home>,
}

/// Room for the next segment of a node, or the reason why appends stop.
fn ensure_room(dir: &Path) -> anyhow::Result<()> {
    let space = rustix::fs::statvfs(dir).with_context(|| format!("cannot ask for the room in {}", dir.display()))?;
    let (free_bytes, least_bytes) = (space.f_bavail * space.f_frsize, Wal::default().segment_bytes);
    ensure!(
        free_bytes >= least_bytes,
        "the disk of {} has {} MiB left, and a node's next log segment takes {}: make room, or choose another --dir",
        dir.display(),
        free_bytes >> 20,
        least_bytes >> 20
    );
    Ok(())
}

/// What it takes to start a node again.
#[derive(Clone, Debug)]
struct Home {
    program: PathBuf,
    config: PathBuf,
    dir: PathBuf,
    peers: Vec<u16>,
    groups: u8,
    slow_logs: bool,
}

/// A cluster to start.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    /// Its nodes.
    pub(crate) nodes: u8,
    /// The groups of each.
    pub(crate) groups: u8,
    /// Entries and datagrams.
    pub(crate) shape: ShapeArgs,
    /// What an acknowledgement rests on.
    pub(crate) durability: Durability,
    /// The groups keep a key-value map.
    pub(crate) map: bool,
    /// Their logs can be slowed ([`Cluster::slow_log`]).
    pub(crate) slow_logs: bool,
    /// They answer HTTP, on the TCP ports with the numbers of their clients' UDP ports ([`Cluster::admin_addresses`]).
    pub(crate) admin: bool,
    /// Settings other than the product's defaults: section, key, value.
    pub(crate) settings: Vec<(&'static str, &'static str, u64)>,
}

impl Spec {
    /// One group and the product's defaults.
    pub(crate) fn of(nodes: u8, shape: ShapeArgs) -> Spec {
        Spec {
            nodes,
            groups: 1,
            shape,
            durability: Durability::Disk,
            map: false,
            slow_logs: false,
            admin: false,
            settings: Vec::new(),
        }
    }
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    /// None while it is down on purpose.
    child: Option<Child>,
    errors: PathBuf,
}

impl Cluster {
    /// One that runs already.
    pub(crate) fn running(file: &Path, group: u8) -> anyhow::Result<Cluster> {
        // Its text names the cause already.
        let config = synod::config::load::load(file).map_err(|error| anyhow!("{error}"))?.config;
        ensure!(usize::from(group) < config.groups.len(), "{} has no group {group}", file.display());
        let group = GroupId(group);
        let members = config.client_addresses(group);
        Ok(Cluster { id: config.cluster_id(), group, members, nodes: Vec::new(), home: None })
    }

    /// Formats and starts the nodes of `spec` in `dir`.
    pub(crate) fn start(program: &Path, dir: &Path, spec: &Spec) -> anyhow::Result<Cluster> {
        let ports = free_ports(2 * usize::from(spec.nodes), spec.groups.into())?;
        let (peers, clients) = ports.split_at(spec.nodes.into());
        let file = dir.join("cluster.toml");
        std::fs::write(&file, config_text(dir, peers, clients, spec)).context("cannot write the configuration")?;
        let address = |port: &u16| SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port);
        let members = (0..spec.nodes).map(NodeId).zip(clients.iter().map(address)).collect();
        let home = Home {
            program: program.into(),
            config: file,
            dir: dir.into(),
            peers: peers.into(),
            groups: spec.groups,
            slow_logs: spec.slow_logs,
        };
        let mut cluster = Cluster { id: CLUSTER, group: GroupId(0), members, nodes: Vec::new(), home: None };
        for node in (0..spec.nodes).map(NodeId) {
            home.format(node)?;
            let errors = dir.join(format!("node-{node}.stderr"));
            cluster.nodes.push(Node { id: node, child: Some(home.spawn(node, &errors)?), errors });
        }
        cluster.home = Some(home);
        Ok(cluster)
    }

    /// Whether this program started the nodes.
    pub(crate) fn is_local(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The configuration of the nodes that this program started.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.home.as_ref().map(|home| home.config.as_path())
    }

    /// The processes that this program started and that are up.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().filter_map(|node| node.child.as_ref()).map(Child::id).collect()
    }

    /// An error if a node ended that should be up, or if the nodes have no room for their logs: then appends stop.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(home) = &self.home {
            ensure_room(&home.dir)?;
        }
        for node in &mut self.nodes {
            let Some(child) = &mut node.child else { continue };
            if let Some(status) = child.try_wait().context("cannot look at a node")? {
                bail!("node {} ended ({status}): {}", node.id, node.last_words());
            }
        }
        Ok(())
    }

    /// What the nodes say of themselves; those that do not answer are left out.
    pub(crate) fn status(&self) -> Vec<Status> {
        self.members.iter().filter_map(|(node, _)| self.status_of(*node, STATUS_WAIT)).collect()
    }

    /// What `node` says of itself, if it answers within `wait`.
    pub(crate) fn status_of(&self, node: NodeId, wait: Duration) -> Option<Status> {
        let (_, address) = self.members.iter().find(|(member, _)| *member == node)?;
        synod_client::status(*address, self.id, self.group, wait).ok()
    }

    /// Has the leader hand over: to this node, or to whichever is furthest.
    pub(crate) fn transfer(&self, to: Option<NodeId>, wait: Duration) -> anyhow::Result<()> {
        let told = synod_client::transfer_leader(&self.members, self.id, self.group, to, wait, &mut |_| {})?;
        ensure!(told.is_done(), "the hand-over to {to:?} ended so: {}", told.outcome.name());
        Ok(())
    }

    /// The members of `group`, where its clients reach them.
    pub(crate) fn members_of(&self, group: u8) -> Vec<(NodeId, SocketAddrV4)> {
        let shifted = |address: SocketAddrV4| {
            SocketAddrV4::new(*address.ip(), address.port() - u16::from(self.group.0) + u16::from(group))
        };
        self.members.iter().map(|(node, address)| (*node, shifted(*address))).collect()
    }

    /// Where the nodes answer HTTP, if [`Spec::admin`] has them do so.
    pub(crate) fn admin_addresses(&self) -> Vec<SocketAddrV4> {
        self.members_of(0).into_iter().map(|(_, address)| address).collect()
    }

    /// The UDP ports of a node that this program started.
    pub(crate) fn ports(&self, node: NodeId) -> Vec<u16> {
        let Some(home) = &self.home else { return Vec::new() };
        let at = usize::from(node.0);
        let bases = [home.peers[at], self.members[at].1.port()];
        bases.into_iter().flat_map(|base| (0..u16::from(home.groups)).map(move |group| base + group)).collect()
    }

    /// The directory of a node that this program started.
    pub(crate) fn directory(&self, node: NodeId) -> anyhow::Result<PathBuf> {
        Ok(node_directory(&self.home()?.dir, node))
    }

    /// Waits until another leads, whom a majority follows.
    pub(crate) fn await_leader_other_than(&mut self, old: NodeId, patience: Duration) -> anyhow::Result<NodeId> {
        let until = std::time::Instant::now() + patience;
        loop {
            let leader = self.await_leader(patience)?;
            if leader != old {
                return Ok(leader);
            }
            ensure!(std::time::Instant::now() < until, "node {old} leads still");
        }
    }

    /// Waits until one node leads and a majority follows it.
    pub(crate) fn await_leader(&mut self, patience: Duration) -> anyhow::Result<NodeId> {
        let majority = self.members.len() / 2 + 1;
        self.await_that(patience, "a leader that a majority follows", |cluster| {
            let statuses = cluster.quick_status();
            let leaders = statuses.iter().filter(|status| status.role == role::LEADER);
            let leader = leaders.max_by_key(|status| status.promised)?.node;
            let following = statuses.iter().filter(|status| status.leader == Some(leader)).count();
            (following >= majority).then_some(leader)
        })
    }

    /// Waits until every member votes and has applied what its leader knew chosen when it was asked.
    pub(crate) fn await_in_step(&mut self, patience: Duration) -> anyhow::Result<NodeId> {
        self.await_that(patience, "all members in step with one leader", Cluster::in_step)
    }

    /// The leader, if all members are in step with it.
    pub(crate) fn in_step(&mut self) -> Option<NodeId> {
        let before = self.quick_status();
        let leader = before.iter().find(|status| status.role == role::LEADER)?;
        let after = self.quick_status();
        let in_step = |status: &&Status| {
            status.leader == Some(leader.node)
                && matches!(status.role, role::FOLLOWER | role::LEADER)
                && status.applied >= leader.chosen
        };
        (after.iter().filter(in_step).count() == self.members.len()).then_some(leader.node)
    }

    /// A follower: the last of those that do not lead.
    pub(crate) fn await_follower(&mut self, patience: Duration) -> anyhow::Result<NodeId> {
        let leader = self.await_in_step(patience)?;
        let mut others = self.members.iter().map(|(node, _)| *node).filter(|node| *node != leader);
        others.next_back().context("a cluster of one node has no follower")
    }

    /// Asks until `found` has something to say.
    pub(crate) fn await_that<T>(
        &mut self,
        patience: Duration,
        what: &str,
        found: impl FnMut(&mut Cluster) -> Option<T>,
    ) -> anyhow::Result<T> {
        self.await_each(ASK_AGAIN, patience, what, found)
    }

    /// The same, asking with such a pause in between.
    pub(crate) fn await_each<T>(
        &mut self,
        pause: Duration,
        patience: Duration,
        what: &str,
        mut found: impl FnMut(&mut Cluster) -> Option<T>,
    ) -> anyhow::Result<T> {
        let until = Instant::now() + patience;
        loop {
            if let Some(found) = found(self) {
                return Ok(found);
            }
            interrupt::check()?;
            self.check()?;
            ensure!(Instant::now() < until, "no {what} within {patience:?}: {}", self.roles());
            std::thread::sleep(pause);
        }
    }

    /// Ends a node at once (SIGKILL).
    pub(crate) fn kill(&mut self, node: NodeId) -> anyhow::Result<()> {
        let mut child = self.take(node)?;
        child.kill().with_context(|| format!("cannot kill node {node}"))?;
        child.wait().with_context(|| format!("cannot wait for node {node}"))?;
        Ok(())
    }

    /// Each log write of a node begins so much later from now on.
    pub(crate) fn slow_log(&mut self, node: NodeId, by: Duration) -> anyhow::Result<()> {
        let home = self.home()?;
        let (file, aside) = (home.delay_file(node), home.dir.join("delay-new"));
        std::fs::write(&aside, by.as_micros().to_string()).context("cannot write how slow a log is to be")?;
        // Whoever looks sees all of it.
        std::fs::rename(aside, file).context("cannot put a file in its place")
    }

    /// Starts a node that was killed.
    pub(crate) fn restart(&mut self, node: NodeId) -> anyhow::Result<()> {
        let home = self.home()?.clone();
        let node = self.node(node)?;
        ensure!(node.child.is_none(), "node {} is up", node.id);
        node.child = Some(home.spawn(node.id, &node.errors)?);
        Ok(())
    }

    /// The process of a node.
    pub(crate) fn process(&self, node: NodeId) -> anyhow::Result<u32> {
        let found = self.nodes.iter().find(|other| other.id == node);
        let child = found.and_then(|node| node.child.as_ref());
        child.map(Child::id).with_context(|| format!("node {node} is not a process of this program"))
    }

    /// Stops the time of a node (SIGSTOP).
    pub(crate) fn pause(&self, node: NodeId) -> anyhow::Result<()> {
        signal(self.process(node)?, libc::SIGSTOP)
    }

    /// Lets it go on (SIGCONT).
    pub(crate) fn resume(&self, node: NodeId) -> anyhow::Result<()> {
        signal(self.process(node)?, libc::SIGCONT)
    }

    /// Ends the nodes that this program started.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(Node::stop)
    }

    /// What a node says of itself, if it answers soon.
    pub(crate) fn quick_status_of(&self, node: NodeId) -> Option<Status> {
        self.status_of(node, Duration::from_millis(20))
    }

    /// Of all members that answer soon.
    fn quick_status(&self) -> Vec<Status> {
        self.members.iter().filter_map(|(node, _)| self.quick_status_of(*node)).collect()
    }

    /// For error texts.
    fn roles(&self) -> String {
        let told = self.quick_status().into_iter().map(|status| {
            let leader = status.leader.map_or("none".into(), |leader| leader.to_string());
            format!("node {}: {}, leader {leader}, applied {}", status.node, status.role_name(), status.applied)
        });
        told.collect::<Vec<_>>().join("; ")
    }

    fn home(&self) -> anyhow::Result<&Home> {
        self.home.as_ref().context("the cluster was not started by this program")
    }

    fn node(&mut self, id: NodeId) -> anyhow::Result<&mut Node> {
        self.nodes.iter_mut().find(|node| node.id == id).with_context(|| format!("there is no node {id} here"))
    }

    fn take(&mut self, id: NodeId) -> anyhow::Result<Child> {
        self.node(id)?.child.take().with_context(|| format!("node {id} is down already"))
    }
}

/// Sends `signal` to a child that is not reaped yet.
pub(crate) fn signal(process: u32, signal: i32) -> anyhow::Result<()> {
    // SAFETY: sends a signal only.
    let sent = unsafe { libc::kill(process as libc::pid_t, signal) };
    ensure!(sent == 0, "cannot send signal {signal} to process {process}: {}", std::io::Error::last_os_error());
    Ok(())
}

impl Home {
    fn format(&self, id: NodeId) -> anyhow::Result<()> {
        let (program, number) = (&self.program, id.to_string());
        let formatted =
            Command::new(program).args(["format", "--node", &number, "--config"]).arg(&self.config).output();
        let formatted = formatted.with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(formatted.status.success(), "cannot format node {id}: {}", String::from_utf8_lossy(&formatted.stderr));
        Ok(())
    }

    fn delay_file(&self, id: NodeId) -> PathBuf {
        self.dir.join(format!("delay-{id}"))
    }

    fn spawn(&self, id: NodeId, errors: &Path) -> anyhow::Result<Child> {
        let log = File::options().create(true).append(true).open(errors);
        let log = log.with_context(|| format!("cannot create {}", errors.display()))?;
        let mut command = Command::new(&self.program);
        command.args(["start", "--node", &id.to_string(), "--config"]).arg(&self.config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        if self.slow_logs {
            // The product's test hook (`ring/src/uring/delay.rs`) is in the log-writer thread.
            command.env("SYNOD_TEST_LOG_DELAY", self.delay_file(id)).env("SYNOD__WAL__WRITER", "thread");
        }
        // SAFETY: prctl is async-signal-safe and touches no memory of this process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        command.spawn().with_context(|| format!("cannot start {}", self.program.display()))
    }
}

impl Node {
    fn stop(&mut self) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        let pid = child.id() as libc::pid_t;
        // SAFETY: opens a descriptor for a child that is not reaped yet, so the number is its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        ensure!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else owns.
        let process = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        signal(child.id(), libc::SIGTERM)?;
        let mut ended = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live descriptor.
        let ready = unsafe { libc::poll(&mut ended, 1, END_WAIT.as_millis() as i32) };
        ensure!(ready == 1, "node {} did not end within {END_WAIT:?} of SIGTERM: {}", self.id, self.last_words());
        let status = child.wait().context("cannot wait for a node")?;
        ensure!(status.success(), "node {} ended badly ({status}): {}", self.id, self.last_words());
        Ok(())
    }

    /// The end of what it wrote to stderr.
    fn last_words(&self) -> String {
        match std::fs::read_to_string(&self.errors) {
            Ok(text) if text.trim().is_empty() => "it said nothing".into(),
            Ok(text) => text.lines().rev().take(5).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("\n"),
            Err(error) => format!("{} cannot be read: {error}", self.errors.display()),
        }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let Some(child) = &mut self.child else { return };
        // After `stop` both fail, as there is nothing left to end.
        let _gone = child.kill();
        let _reaped = child.wait();
    }
}

fn node_directory(dir: &Path, node: NodeId) -> PathBuf {
    dir.join(format!("node-{node}"))
}

/// The product's defaults, but for the addresses, the directories, the size of a datagram and what `spec` sets.
fn config_text(dir: &Path, peers: &[u16], clients: &[u16], spec: &Spec) -> String {
    let mut sections: BTreeMap<&str, String> = BTreeMap::new();
    let fixed =
        [("cluster", "id", u64::from(CLUSTER.0)), ("net", "max_batch_bytes", spec.shape.max_batch_bytes() as u64)];
    for (section, key, value) in fixed.iter().chain(&spec.settings) {
        sections.entry(section).or_default().push_str(&format!("{key} = {value}\n"));
    }
    sections.entry("wal").or_default().push_str(&format!("durability = \"{}\"\n", spec.durability.name()));
    sections.entry("log").or_default().push_str("level = \"warn\"\n");
    let mut text: String = sections.iter().map(|(name, keys)| format!("[{name}]\n{keys}\n")).collect();
    for (node, (peer, client)) in (0..).map(NodeId).zip(peers.iter().zip(clients)) {
        text.push_str(&format!(
            "[[node]]\nid = {node}\npeer_listen = \"127.0.0.1:{peer}\"\nclient_listen = \"127.0.0.1:{client}\"\ndir = {:?}\n",
            node_directory(dir, node)
        ));
        let admin = if spec.admin { format!("admin_listen = \"127.0.0.1:{client}\"\n") } else { String::new() };
        text.push_str(&admin);
        text.push('\n');
    }
    if spec.groups > 1 || spec.map {
        let group = if spec.map { "[[group]]\nmachine = \"kv\"\n" } else { "[[group]]\n" };
        text.push_str(&group.repeat(spec.groups.into()));
    }
    text
}

/// The first ports of `count` runs of `length` that were free a moment ago, none in two runs.
fn free_ports(count: usize, length: u16) -> anyhow::Result<Vec<u16>> {
    // All stay bound until all are found.
    let mut runs: Vec<(u16, Vec<UdpSocket>)> = Vec::new();
    for _ in 0..count + PORT_TRIES {
        if runs.len() == count {
            break;
        }
        runs.extend(free_run(length)?);
    }
    ensure!(runs.len() == count, "cannot find {count} runs of {length} free ports");
    Ok(runs.iter().map(|(first, _)| *first).collect())
}

fn free_run(length: u16) -> anyhow::Result<Option<(u16, Vec<UdpSocket>)>> {
    let first = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    let port = first.local_addr().context("a bound socket has an address")?.port();
    let Some(end) = port.checked_add(length) else { return Ok(None) };
    let rest: Result<Vec<UdpSocket>, _> =
        (port + 1..end).map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port))).collect();
    // One of them belongs to someone: another run may be free.
    let Ok(mut sockets) = rest else { return Ok(None) };
    sockets.push(first);
    Ok(Some((port, sockets)))
}

/// The `synod` binary: `given`, or the one beside this program, built anew if cargo runs this program.
pub(crate) fn program(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(given) = given {
        return Ok(given.into());
    }
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let beside = own.with_file_name("synod");
    if let Some(cargo) = std::env::var_os("CARGO") {
        let profile = if cfg!(debug_assertions) { "dev" } else { "release" };
        let built = Command::new(cargo).args(["build", "-p", "synod", "--profile", profile]).status();
        ensure!(built.context("cannot run cargo")?.success(), "the synod binary does not build");
    }
    ensure!(beside.exists(), "{} does not exist: build it with `cargo build --release -p synod`", beside.display());
    Ok(beside)
}

/// Another program of this workspace, which lies beside this one once `how` was run.
pub(crate) fn beside(name: &str, how: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let program = own.with_file_name(name);
    ensure!(program.exists(), "{} does not exist: run `{how}`", program.display());
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_product_takes_the_configuration_and_keeps_its_defaults() {
        let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cluster.toml");
        let spec = Spec { durability: Durability::Memory, ..Spec::of(3, shape) };
        std::fs::write(&file, config_text(dir.path(), &[7001, 7002, 7003], &[7011, 7012, 7013], &spec)).unwrap();
        let config = synod::config::load::load(&file).unwrap().config;
        let defaults = synod::config::Config::default();
        assert_eq!(config.net, defaults.net);
        let wal = synod::config::Wal { durability: synod::config::Durability::Memory, ..defaults.wal };
        assert_eq!((config.cpu, config.wal, config.groups), (defaults.cpu, wal, defaults.groups));
        assert_eq!((config.consensus, config.quorum), (defaults.consensus, defaults.quorum));
        let cluster = Cluster::running(&file, 0).unwrap();
        assert_eq!(cluster.members[2], (NodeId(2), "127.0.0.1:7013".parse().unwrap()));
        assert!(!cluster.is_local());
        assert!(Cluster::running(&file, 1).is_err());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
        let dir = tempfile::tempdir().unwrap();
        let error = Cluster::start(Path::new("/no/such/synod"), dir.path(), &Spec::of(3, shape)).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/synod"), "{error:#}");
    }

    #[test]
    fn a_node_that_ends_by_itself_is_noticed() {
        let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
        let dir = tempfile::tempdir().unwrap();
        // It succeeds at formatting, and at starting it is done at once.
        let mut cluster = Cluster::start(Path::new("/bin/true"), dir.path(), &Spec::of(1, shape)).unwrap();
        cluster.nodes[0].child.as_mut().unwrap().wait().unwrap();
        let error = cluster.check().unwrap_err();
        assert!(error.to_string().contains("node 0 ended"), "{error}");
    }

    #[test]
    fn settings_and_groups_reach_the_configuration() {
        let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
        let settings = vec![("consensus", "heartbeat_us", 2_000), ("wal", "segment_bytes", 4 << 20)];
        let spec = Spec { groups: 3, map: true, settings, ..Spec::of(1, shape) };
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("cluster.toml");
        std::fs::write(&file, config_text(dir.path(), &[7001], &[7011], &spec)).unwrap();
        let config = synod::config::load::load(&file).unwrap().config;
        assert_eq!((config.consensus.heartbeat_us, config.wal.segment_bytes), (2_000, 4 << 20));
        let maps = config.groups.iter().filter(|group| group.machine == synod::config::Machine::Kv);
        assert_eq!((config.groups.len(), maps.count()), (3, 3));
        let cluster = Cluster::running(&file, 2).unwrap();
        assert_eq!(cluster.members, [(NodeId(0), "127.0.0.1:7013".parse().unwrap())]);
        assert_eq!(cluster.members_of(1), [(NodeId(0), "127.0.0.1:7012".parse().unwrap())]);
    }

    #[test]
    fn runs_of_free_ports_do_not_overlap() {
        let firsts = free_ports(6, 4).unwrap();
        let mut all: Vec<u16> = firsts.iter().flat_map(|first| *first..first + 4).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 24);
    }
}
