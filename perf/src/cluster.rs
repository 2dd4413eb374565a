//! The product's nodes: three or five processes of the `synod` binary on loopback with their logs on a real disk, or a
//! cluster that runs already. Called by `bench`.

use crate::bench::Durability;
use crate::options::ShapeArgs;
use anyhow::{Context, anyhow, bail, ensure};
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use synod_client::Status;
use synod_wire::{ClusterId, GroupId, NodeId};

/// How long a node may take to end after SIGTERM.
const END_WAIT: Duration = Duration::from_secs(10);
/// How long a node may take to answer a question.
const STATUS_WAIT: Duration = Duration::from_secs(2);
/// The identity of a local cluster.
const CLUSTER: ClusterId = ClusterId(0x5e7f);

/// Nodes to measure.
#[derive(Debug)]
pub(crate) struct Cluster {
    /// Which cluster.
    pub(crate) id: ClusterId,
    /// Which of its groups.
    pub(crate) group: GroupId,
    /// The members, where clients reach them.
    pub(crate) members: Vec<(NodeId, SocketAddrV4)>,
    /// Those that this program started.
    nodes: Vec<Node>,
    /// The configuration that it wrote for them.
    config: Option<PathBuf>,
}

#[derive(Debug)]
struct Node {
    id: NodeId,
    child: Child,
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
        Ok(Cluster { id: config.cluster_id(), group, members, nodes: Vec::new(), config: None })
    }

    /// Formats and starts `nodes` nodes in `dir`.
    pub(crate) fn start(
        program: &Path,
        dir: &Path,
        nodes: u8,
        shape: &ShapeArgs,
        durability: Durability,
    ) -> anyhow::Result<Cluster> {
        let ports = free_ports(2 * usize::from(nodes))?;
        let (peers, clients) = ports.split_at(usize::from(nodes));
        let file = dir.join("cluster.toml");
        std::fs::write(&file, config_text(dir, peers, clients, shape, durability))
            .context("cannot write the configuration")?;
        let address = |port: &u16| SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port);
        let members = (0..nodes).map(NodeId).zip(clients.iter().map(address)).collect();
        let mut cluster =
            Cluster { id: CLUSTER, group: GroupId(0), members, nodes: Vec::new(), config: Some(file.clone()) };
        for node in (0..nodes).map(NodeId) {
            cluster.nodes.push(Node::start(program, &file, dir, node)?);
        }
        Ok(cluster)
    }

    /// Whether this program started the nodes.
    pub(crate) fn is_local(&self) -> bool {
        !self.nodes.is_empty()
    }

    /// The configuration of the nodes that this program started.
    pub(crate) fn config(&self) -> Option<&Path> {
        self.config.as_deref()
    }

    /// The processes that this program started.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// An error if a node ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        for node in &mut self.nodes {
            if let Some(status) = node.child.try_wait().context("cannot look at a node")? {
                bail!("node {} ended ({status}): {}", node.id, node.last_words());
            }
        }
        Ok(())
    }

    /// What the nodes say of themselves; those that do not answer are left out.
    pub(crate) fn status(&self) -> Vec<Status> {
        let ask = |(_, address): &(NodeId, SocketAddrV4)| {
            synod_client::status(*address, self.id, self.group, STATUS_WAIT).ok()
        };
        self.members.iter().filter_map(ask).collect()
    }

    /// Ends the nodes that this program started.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        self.nodes.iter_mut().try_for_each(Node::stop)
    }
}

impl Node {
    fn start(program: &Path, config: &Path, dir: &Path, id: NodeId) -> anyhow::Result<Node> {
        let number = id.to_string();
        let formatted = Command::new(program).args(["format", "--node", &number, "--config"]).arg(config).output();
        let formatted = formatted.with_context(|| format!("cannot run {}", program.display()))?;
        ensure!(formatted.status.success(), "cannot format node {id}: {}", String::from_utf8_lossy(&formatted.stderr));
        let errors = dir.join(format!("node-{id}.stderr"));
        let log = File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let mut command = Command::new(program);
        command.args(["start", "--node", &number, "--config"]).arg(config);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        // SAFETY: prctl is async-signal-safe and touches no memory of this process.
        unsafe {
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(std::io::Error::last_os_error()),
            })
        };
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Node { id, child, errors })
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.child.id() as libc::pid_t;
        // SAFETY: opens a descriptor for a child that is not reaped yet, so the number is its own.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        ensure!(fd >= 0, "pidfd_open: {}", std::io::Error::last_os_error());
        // SAFETY: a new descriptor that nobody else owns.
        let process = unsafe { OwnedFd::from_raw_fd(fd as i32) };
        // SAFETY: as above; sends a signal only.
        let sent = unsafe { libc::kill(pid, libc::SIGTERM) };
        ensure!(sent == 0, "cannot end node {}: {}", self.id, std::io::Error::last_os_error());
        let mut ended = libc::pollfd { fd: process.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one live descriptor.
        let ready = unsafe { libc::poll(&mut ended, 1, END_WAIT.as_millis() as i32) };
        ensure!(ready == 1, "node {} did not end within {END_WAIT:?} of SIGTERM: {}", self.id, self.last_words());
        let status = self.child.wait().context("cannot wait for a node")?;
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
        // After `stop` both fail, as there is nothing left to end.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The product's defaults, but for the addresses, the directories and the size of a datagram.
fn config_text(dir: &Path, peers: &[u16], clients: &[u16], shape: &ShapeArgs, durability: Durability) -> String {
    let mut text = format!(
        "[cluster]\nid = {}\n\n[net]\nmax_batch_bytes = {}\n\n[wal]\ndurability = \"{}\"\n\n[log]\nlevel = \"warn\"\n",
        CLUSTER.0,
        shape.max_batch_bytes(),
        durability.name()
    );
    for (node, (peer, client)) in peers.iter().zip(clients).enumerate() {
        text.push_str(&format!(
            "\n[[node]]\nid = {node}\npeer_listen = \"127.0.0.1:{peer}\"\nclient_listen = \"127.0.0.1:{client}\"\ndir = {:?}\n",
            dir.join(format!("node-{node}"))
        ));
    }
    text
}

/// Ports that were free a moment ago.
fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let sockets: Vec<UdpSocket> = (0..count)
        .map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect::<Result<_, _>>()
        .context("cannot find free ports")?;
    let ports = sockets.iter().map(|socket| socket.local_addr().map(|address| address.port()));
    ports.collect::<Result<_, _>>().context("a bound socket has an address")
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
        std::fs::write(
            &file,
            config_text(dir.path(), &[7001, 7002, 7003], &[7011, 7012, 7013], &shape, Durability::Memory),
        )
        .unwrap();
        let config = synod::config::load::load(&file).unwrap().config;
        let defaults = synod::config::Config::default();
        assert_eq!(config.net, defaults.net);
        assert_eq!((config.cpu, config.wal, config.groups), (defaults.cpu, defaults.wal, defaults.groups));
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
        let error = Cluster::start(Path::new("/no/such/synod"), dir.path(), 3, &shape, Durability::Disk).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/synod"), "{error:#}");
    }

    #[test]
    fn a_node_that_ends_by_itself_is_noticed() {
        let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
        let dir = tempfile::tempdir().unwrap();
        // It succeeds at formatting, and at starting it is done at once.
        let mut cluster = Cluster::start(Path::new("/bin/true"), dir.path(), 1, &shape, Durability::Disk).unwrap();
        cluster.nodes[0].child.wait().unwrap();
        let error = cluster.check().unwrap_err();
        assert!(error.to_string().contains("node 0 ended"), "{error}");
    }
}
