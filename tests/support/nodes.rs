//! A cluster of real processes on loopback, for tests of the command line.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]

use std::fs::File;
use std::net::{Ipv4Addr, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use tempfile::TempDir;

/// The program under test, without whatever configuration the environment holds.
pub fn synod() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_synod"));
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("SYNOD__")) {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

/// Writes a configuration of three nodes below `dir` on free ports, with small segments so that formatting is quick.
pub fn write_config(dir: &Path) -> PathBuf {
    // Held until all are found, so that none is found twice.
    let sockets: Vec<_> = (0..6).map(|_| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let port = |at: usize| sockets[at].local_addr().unwrap().port();
    let mut text = String::from("[wal]\nsegment_bytes = 4_194_304\narena_bytes = 8_388_608\n");
    for id in 0..3 {
        let (peers, clients, dir) = (port(2 * id), port(2 * id + 1), dir.join(format!("node-{id}")));
        text += &format!("[[node]]\nid = {id}\npeer_listen = \"127.0.0.1:{peers}\"\n");
        text += &format!("client_listen = \"127.0.0.1:{clients}\"\ndir = {dir:?}\n");
    }
    let file = dir.join("synod.toml");
    std::fs::write(&file, text).unwrap();
    file
}

/// Three nodes that run. What still runs at the end is killed.
pub struct Cluster {
    pub dir: TempDir,
    pub config: PathBuf,
    nodes: Vec<Option<Child>>,
}

impl Cluster {
    /// Formats and starts all three.
    pub fn start() -> Cluster {
        // On the real disk where the build lies: /tmp may be a tmpfs.
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let config = write_config(dir.path());
        let mut cluster = Cluster { dir, config, nodes: vec![None, None, None] };
        for node in 0..3 {
            let number = node.to_string();
            let formatted = cluster.command(&["format", "--node", &number]).output().unwrap();
            assert!(formatted.status.success(), "{formatted:?}");
            cluster.start_node(node);
        }
        cluster
    }

    /// A command with this cluster's configuration; its first argument names it.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = synod();
        command.arg(arguments[0]).arg("--config").arg(&self.config).args(&arguments[1..]);
        command
    }

    /// Runs a command to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    pub fn start_node(&mut self, node: usize) {
        let log = |suffix: &str| {
            let path = self.dir.path().join(format!("node-{node}.{suffix}"));
            File::options().create(true).append(true).open(path).unwrap()
        };
        let child = self.command(&["start", "--node", &node.to_string()]).stdout(log("out")).stderr(log("log")).spawn();
        self.nodes[node] = Some(child.unwrap());
    }

    /// SIGTERM, and the exit status.
    pub fn stop_node(&mut self, node: usize) -> ExitStatus {
        let mut child = self.nodes[node].take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap()
    }

    /// The node's directory.
    pub fn node_dir(&self, node: usize) -> PathBuf {
        self.dir.path().join(format!("node-{node}"))
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.nodes.iter_mut().flatten() {
            // Gone already or killed now: either is the end of it.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
