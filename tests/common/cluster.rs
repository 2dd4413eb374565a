//! A cluster of real processes on a loopback address of its own, with logs on the real disk.

use super::host::LoopDisk;
use super::refuse::Restriction;
use super::{await_until, say};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{File, OpenOptions};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsRawFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use synod::config::{Config, Node};
use synod_client::{Counter, Options, Status};
use synod_wire::client::role;
use synod_wire::{Ballot, GroupId, NodeId};
use tempfile::TempDir;

/// The program under test.
pub const SYNOD: &str = env!("CARGO_BIN_EXE_synod");
/// The first group.
pub const GROUP: GroupId = GroupId(0);
/// How long a cluster may take for what it does at once when it is well: the machine may be shared.
pub const SOON: Duration = Duration::from_secs(20);
/// How long a node may take to answer one question; it is asked again.
const ANSWER: Duration = Duration::from_millis(200);
/// Lines of each node's log that a failed test shows.
const LAST_LINES: usize = 25;

/// The processes of a cluster. Whatever still runs is killed when it is dropped.
pub struct Cluster {
    pub config: Config,
    config_file: PathBuf,
    nodes: Vec<Option<Child>>,
    namespaces: Vec<Option<File>>,
    /// What the processes of all nodes do to themselves first.
    restrictions: Vec<Restriction>,
    environment: Vec<(NodeId, String, String)>,
    /// Given back after the nodes have gone and before the directory goes: fields are dropped in this order.
    disks: Vec<(NodeId, LoopDisk)>,
    dir: Option<TempDir>,
}

impl Cluster {
    /// Three nodes with small segments, changed by `tune`; formatted, not started.
    pub fn prepare(name: &str, tune: impl FnOnce(&mut Config)) -> Cluster {
        let cluster = Cluster::unformatted(name, tune);
        for node in cluster.members() {
            let output = cluster.format(node);
            assert!(output.status.success(), "format of node {node}: {}", String::from_utf8_lossy(&output.stderr));
        }
        cluster
    }

    /// For `tune`: a cluster of so many members.
    pub fn members_are(config: &mut Config, count: u8) {
        let first = config.nodes[0].clone();
        let place = first.dir.parent().expect("a directory in the cluster's").to_path_buf();
        config.nodes = (0..count)
            .map(|id| Node {
                id,
                peer_listen: SocketAddrV4::new(*first.peer_listen.ip(), 7400 + u16::from(id) * 10),
                client_listen: SocketAddrV4::new(*first.client_listen.ip(), 7500 + u16::from(id) * 10),
                dir: place.join(format!("node-{id}")),
                admin_listen: None,
                joins: false,
            })
            .collect();
    }

    /// As [`Cluster::prepare`], without the formatting.
    pub fn unformatted(name: &str, tune: impl FnOnce(&mut Config)) -> Cluster {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let dir = tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(place).expect("a directory");
        let ip = own_loopback_address();
        let node = |id: u8| Node {
            id,
            peer_listen: SocketAddrV4::new(ip, 7400 + u16::from(id) * 10),
            client_listen: SocketAddrV4::new(ip, 7500 + u16::from(id) * 10),
            dir: dir.path().join(format!("node-{id}")),
            admin_listen: None,
            joins: false,
        };
        let mut config = Config { nodes: (0..3).map(node).collect(), ..Config::default() };
        // Small enough that preparing them is quick and that a test crosses their borders.
        config.wal.segment_bytes = 8 << 20;
        tune(&mut config);
        let config_file = dir.path().join("synod.toml");
        let nodes = config.nodes.iter().map(|_| None).collect();
        let namespaces = config.nodes.iter().map(|_| None).collect();
        let cluster = Cluster {
            config,
            config_file,
            nodes,
            namespaces,
            restrictions: Vec::new(),
            environment: Vec::new(),
            disks: Vec::new(),
            dir: Some(dir),
        };
        cluster.write_config();
        cluster
    }

    /// One more node, which is not formatted and is to join the groups; those that run have another file.
    pub fn add_node(&mut self) -> NodeId {
        let (id, like) = (self.config.nodes.len() as u8, self.config.nodes[0].clone());
        self.config.nodes.push(Node {
            id,
            peer_listen: SocketAddrV4::new(*like.peer_listen.ip(), 7400 + u16::from(id) * 10),
            client_listen: SocketAddrV4::new(*like.client_listen.ip(), 7500 + u16::from(id) * 10),
            dir: self.dir().join(format!("node-{id}")),
            admin_listen: None,
            joins: true,
        });
        self.nodes.push(None);
        self.namespaces.push(None);
        self.write_config();
        NodeId(id)
    }

    /// Writes the configuration again, after a change; nodes read it when they start.
    pub fn write_config(&self) {
        let text = toml::to_string(&self.config).expect("a configuration is TOML");
        std::fs::write(&self.config_file, text).expect("write the configuration");
    }

    /// Runs node `index` in a network namespace from now on.
    pub fn put_into_namespace(&mut self, node: NodeId, namespace: File) {
        self.namespaces[usize::from(node.0)] = Some(namespace);
    }

    /// Whatever is run of the nodes finds less than the host has from now on.
    pub fn restrict(&mut self, restriction: Restriction) {
        self.restrictions.push(restriction);
    }

    /// The same for one command.
    fn restrict_command(&self, command: &mut Command) {
        for restriction in self.restrictions.iter().copied() {
            // SAFETY: a restriction makes async-signal-safe calls only, and allocates nothing.
            unsafe { command.pre_exec(restriction) };
        }
    }

    /// Puts a node that is not formatted on a disk of its own. Needs privileges.
    pub fn put_on_disk(&mut self, node: NodeId, bytes: u64) {
        let disk = LoopDisk::new(self.dir(), &format!("disk-{node}"), bytes);
        self.config.nodes[usize::from(node.0)].dir = disk.mount.join("node");
        self.write_config();
        self.disks.push((node, disk));
    }

    /// The disk that a node was put on.
    pub fn disk(&self, node: NodeId) -> &LoopDisk {
        let disk = self.disks.iter().find(|(whose, _)| *whose == node);
        &disk.expect("the node was put on a disk").1
    }

    /// Starts a node with an override of its configuration from now on.
    pub fn set_env(&mut self, node: NodeId, key: &str, value: &str) {
        self.environment.push((node, key.to_owned(), value.to_owned()));
    }

    /// The members' numbers.
    pub fn members(&self) -> Vec<NodeId> {
        self.config.members()
    }

    /// The other members.
    pub fn others(&self, node: NodeId) -> Vec<NodeId> {
        self.members().into_iter().filter(|member| *member != node).collect()
    }

    /// The cluster's directory.
    pub fn dir(&self) -> &Path {
        self.dir.as_ref().expect("it is there until the drop").path()
    }

    /// Its configuration file.
    pub fn config_file(&self) -> &Path {
        &self.config_file
    }

    /// `synod` with these arguments.
    pub fn synod(&self, arguments: &[&str]) -> Output {
        Command::new(SYNOD).args(arguments).stdin(Stdio::null()).output().expect("run synod")
    }

    /// Runs `synod format`.
    pub fn format(&self, node: NodeId) -> Output {
        let mut command = Command::new(SYNOD);
        command.arg("format").arg("--config").arg(&self.config_file).args(["--node", &node.to_string()]);
        self.restrict_command(&mut command);
        command.stdin(Stdio::null()).output().expect("run synod")
    }

    /// The command that starts a node in the foreground; it dies with the thread that spawns it.
    pub fn start_command(&self, node: NodeId) -> Command {
        let mut command = Command::new(SYNOD);
        command.arg("start").arg("--config").arg(&self.config_file).args(["--node", &node.to_string()]);
        command.env("NO_COLOR", "1").stdin(Stdio::null());
        let own = self.environment.iter().filter(|(whose, ..)| *whose == node);
        command.envs(own.map(|(_, key, value)| (key, value)));
        // First, as another user's process gets no signal at its parent's death that it asked for before.
        self.restrict_command(&mut command);
        let parent = rustix::process::getpid();
        let namespace = self.namespaces[usize::from(node.0)].as_ref().map(AsRawFd::as_raw_fd);
        // SAFETY: between fork and exec only async-signal-safe calls are made (prctl, getppid, setns), and nothing is
        // allocated: errors are made from the errno.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
                // The parent may have died before the line above.
                if rustix::process::getppid() != Some(parent) {
                    return Err(std::io::ErrorKind::Interrupted.into());
                }
                match namespace {
                    Some(namespace) if libc::setns(namespace, libc::CLONE_NEWNET) != 0 => {
                        Err(std::io::Error::last_os_error())
                    }
                    _ => Ok(()),
                }
            });
        }
        command
    }

    /// Starts a node that does not run; what it says is appended to its log file.
    pub fn start(&mut self, node: NodeId) {
        self.start_with(node, &[]);
    }

    /// The same, with more arguments.
    pub fn start_with(&mut self, node: NodeId, arguments: &[&str]) {
        let index = usize::from(node.0);
        assert!(self.nodes[index].is_none(), "node {node} runs already");
        let mut command = self.start_command(node);
        command.args(arguments);
        let file = |suffix| {
            let path = self.dir().join(format!("node-{node}.{suffix}"));
            OpenOptions::new().create(true).append(true).open(path).expect("a log file")
        };
        command.stdout(file("out")).stderr(file("log"));
        self.nodes[index] = Some(command.spawn().expect("start a node"));
    }

    /// Starts every node that does not run.
    pub fn start_all(&mut self) {
        for node in self.members() {
            if self.nodes[usize::from(node.0)].is_none() {
                self.start(node);
            }
        }
    }

    /// The process of a node that runs.
    pub fn pid(&self, node: NodeId) -> u32 {
        self.nodes[usize::from(node.0)].as_ref().expect("the node runs").id()
    }

    /// A signal to a node that runs.
    pub fn signal(&self, node: NodeId, signal: Signal) {
        let pid = i32::try_from(self.pid(node)).ok().and_then(Pid::from_raw).expect("the process runs");
        kill_process(pid, signal).expect("a signal to a process of this test");
    }

    /// What a node has said on stderr, in all its lives.
    pub fn log(&self, node: NodeId) -> String {
        let path = self.dir().join(format!("node-{node}.log"));
        let bytes = std::fs::read(path).expect("a node's log file");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// SIGKILL; returns when the process is gone.
    pub fn kill(&mut self, node: NodeId) {
        let mut child = self.nodes[usize::from(node.0)].take().expect("the node to be killed runs");
        assert_eq!(child.try_wait().expect("look at a node"), None, "node {node} had ended by itself");
        child.kill().expect("kill a node");
        child.wait().expect("wait for a node");
    }

    /// SIGKILL to every node before any of them is waited for.
    pub fn kill_all(&mut self) {
        for (index, child) in self.nodes.iter_mut().enumerate() {
            let child = child.as_mut().expect("every node runs");
            assert_eq!(child.try_wait().expect("look at a node"), None, "node {index} had ended by itself");
            child.kill().expect("kill a node");
        }
        for child in &mut self.nodes {
            child.take().expect("every node was there").wait().expect("wait for a node");
        }
    }

    /// Waits for a node that ends by itself.
    pub fn await_end(&mut self, node: NodeId) -> ExitStatus {
        let child = self.nodes[usize::from(node.0)].as_mut().expect("the node runs");
        let status = await_until(SOON, "the node ends", || child.try_wait().expect("look at a node"));
        self.nodes[usize::from(node.0)] = None;
        status
    }

    /// SIGTERM; the node must end with exit code 0.
    pub fn stop(&mut self, node: NodeId) {
        let child = self.nodes[usize::from(node.0)].as_ref().expect("the node runs");
        kill_process(Pid::from_child(child), Signal::TERM).expect("send SIGTERM");
        let status = self.await_end(node);
        assert!(status.success(), "node {node} did not end cleanly after SIGTERM: {status}");
    }

    /// Ends every node that runs, cleanly.
    pub fn stop_all(&mut self) {
        for node in self.members() {
            if self.nodes[usize::from(node.0)].is_some() {
                self.stop(node);
            }
        }
    }

    /// What a node says of a group, if it answers.
    pub fn status(&self, node: NodeId, group: GroupId) -> Option<Status> {
        let address = self.config.client_address(node, group);
        synod_client::status(address, self.config.cluster_id(), group, ANSWER).ok()
    }

    /// A counter of a node that must answer soon.
    pub fn counter(&self, node: NodeId, group: GroupId, counter: Counter) -> u64 {
        let status = await_until(SOON, "the node answers", || self.status(node, group));
        status.counter(counter).expect("the node has every counter")
    }

    /// Waits for a leader that serves.
    pub fn await_leader(&self, group: GroupId) -> NodeId {
        self.await_leader_above(group, Ballot::ZERO).0
    }

    /// Waits for a leader that serves in a ballot above `ballot`; that node, and its ballot.
    pub fn await_leader_above(&self, group: GroupId, ballot: Ballot) -> (NodeId, Ballot) {
        await_until(SOON, "a leader serves", || {
            let answers = self.members().into_iter().filter_map(|node| self.status(node, group));
            let leading = answers.filter(|status| status.role == role::LEADER && status.promised > ballot);
            leading.map(|status| (status.promised, status.node)).max().map(|(ballot, node)| (node, ballot))
        })
    }

    /// Waits until every node has applied the same, and nothing is open.
    pub fn await_converged(&self, group: GroupId) {
        await_until(SOON, "every node has applied the same", || {
            let all: Vec<Status> = self.members().into_iter().filter_map(|node| self.status(node, group)).collect();
            let applied = all.first()?.applied;
            let settled = |status: &Status| status.applied == applied && status.accepted <= applied;
            let led = all.iter().any(|status| status.role == role::LEADER);
            (all.len() == self.nodes.len() && led && all.iter().all(settled)).then_some(())
        });
    }

    /// Waits until every node has come as far as the furthest was, while the load goes on.
    pub fn await_converged_under_load(&self, group: GroupId) {
        let furthest = self.members().into_iter().filter_map(|node| self.status(node, group)).map(|s| s.applied).max();
        for node in self.members() {
            await_until(SOON, "every node catches up", || {
                (self.status(node, group).map(|status| status.applied) >= furthest).then_some(())
            });
        }
    }

    /// Options of a session that fits this cluster's datagrams.
    pub fn options(&self) -> Options {
        let max_datagram_bytes = synod_wire::frame::HEADER_BYTES + self.config.net.max_batch_bytes;
        Options { max_datagram_bytes, deadline: Duration::from_secs(30), ..Options::default() }
    }

    /// Runs `synod verify` over every node's directory (the nodes must have ended), and returns its report.
    pub fn verify(&self) -> serde_json::Value {
        let mut command = Command::new(SYNOD);
        command.arg("verify").args(self.config.nodes.iter().map(|node| &node.dir)).args(["-o", "json"]);
        let output = command.output().expect("run synod verify");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(
            output.status.success(),
            "verify found something ({}): {text}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        serde_json::from_str(&text).expect("verify prints JSON")
    }

    fn show_logs(&self) {
        for node in self.members() {
            let path = self.dir().join(format!("node-{node}.log"));
            let Ok(bytes) = std::fs::read(path) else { continue };
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let skipped = text.lines().count().saturating_sub(LAST_LINES);
            let last: Vec<&str> = text.lines().skip(skipped).collect();
            say(&format!("--- node {node} said last:\n{}", last.join("\n")));
        }
    }
}

impl Drop for Cluster {
    /// Whatever still runs is killed; a failed test keeps its directory and shows what the nodes said.
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            // It may have ended by itself, and a drop cannot fail.
            let _gone: bool = child.kill().is_err() | child.wait().is_err();
        }
        if std::thread::panicking() {
            self.show_logs();
            if let Some(dir) = self.dir.take() {
                say(&format!("--- kept: {}", dir.keep().display()));
            }
        }
    }
}

/// An address in 127.0.0.0/8 that no other test process and no other cluster of this one uses: clusters never race for
/// ports. The process id has at most 22 bits, so that two are left for this process's clusters that live at once.
fn own_loopback_address() -> Ipv4Addr {
    static CLUSTERS: AtomicU32 = AtomicU32::new(0);
    let number = CLUSTERS.fetch_add(1, Ordering::Relaxed) % 4;
    let unique = (std::process::id() << 2 | number) & 0x00ff_ffff;
    // 127.0.0.0/24 belongs to everyone, 127.255.255.255 is a broadcast: neither comes of a user's process id.
    Ipv4Addr::from(0x7f00_0000 | unique)
}
