//! The skeleton: a client, a leader and its followers that replicate entries durably and do nothing else. No ballots, no
//! sessions, no checksums, no retransmission: what is left is what the network and the disks cost, the floor that the
//! product is compared with. It runs on the product's reactor, waits as the product does, and groups its commits as the
//! product does: what came while a write was in flight is covered by the next write.
//!
//! An entry is acknowledged when it is durable on a majority of the nodes, whichever these are. A leader without
//! followers and without a log answers at once: the bare round trip of a datagram.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | starting and stopping the processes |
//! | `message.rs` | the datagrams |
//! | `gather.rs` | group commit: two regions of memory, one being written while the other fills |
//! | `node.rs` | leader and follower |
//! | `client.rs` | the client, as a target of load |

mod client;
mod gather;
mod message;
mod node;

pub(crate) use client::SkeletonClient;
pub(crate) use node::{NodeArgs, run_node};

use crate::files;
use crate::options::{ShapeArgs, WaitArgs};
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use synod_ring::{LogWriter, Settings, Stats, WaitMode};

/// Submissions and receive buffers of every reactor here: the product's defaults.
const SQ_ENTRIES: u32 = 1_024;
const RX_BUFFERS: u16 = 512;
/// Of the clients' socket, which nobody here sends to.
const UNUSED_BUFFERS: u16 = 2;
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
const MAX_EVENTS: usize = 256;

/// What a skeleton is made of.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    /// Leader and followers.
    pub(crate) nodes: usize,
    /// Whether they write to disk.
    pub(crate) durable: bool,
    /// Entries and datagrams.
    pub(crate) shape: ShapeArgs,
    /// How they all wait, the client included.
    pub(crate) wait: WaitArgs,
}

/// Log files for a number of nodes, made once and used by one skeleton after the other.
#[derive(Debug)]
pub(crate) struct Logs {
    files: Vec<PathBuf>,
}

impl Logs {
    /// Makes them in `dir`.
    pub(crate) fn prepare(dir: &Path, nodes: usize) -> anyhow::Result<Logs> {
        let files: Vec<PathBuf> = (0..nodes).map(|node| dir.join(format!("skeleton-{node}.log"))).collect();
        files.iter().try_for_each(|file| files::prepare_log(file))?;
        Ok(Logs { files })
    }
}

/// What a reactor did, as a node tells it at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Work {
    /// Turns.
    pub(crate) polls: u64,
    /// `io_uring_enter` calls.
    pub(crate) enters: u64,
    /// Those of them that could wait.
    pub(crate) blocks: u64,
    /// `sched_yield` calls.
    pub(crate) yields: u64,
    /// Those that came back late.
    pub(crate) yields_late: u64,
    /// Datagrams received.
    pub(crate) received: u64,
    /// Datagrams sent.
    pub(crate) sent: u64,
    /// Log writes.
    pub(crate) writes: u64,
}

impl From<Stats> for Work {
    fn from(stats: Stats) -> Work {
        Work {
            polls: stats.polls,
            enters: stats.enters,
            blocks: stats.blocks,
            yields: stats.yields,
            yields_late: stats.yields_late,
            received: stats.datagrams_peers + stats.datagrams_clients,
            sent: stats.sends,
            writes: stats.writes,
        }
    }
}

/// The processes of a running skeleton. Dropping it ends them.
#[derive(Debug)]
pub(crate) struct Skeleton {
    nodes: Vec<NodeProcess>,
}

impl Skeleton {
    /// Starts leader and followers, and the client in this process.
    pub(crate) fn start(setup: &Setup, logs: &Logs) -> anyhow::Result<(Skeleton, SkeletonClient)> {
        ensure!(
            !setup.durable || logs.files.len() >= setup.nodes,
            "{} log files for {} nodes",
            logs.files.len(),
            setup.nodes
        );
        let mut nodes = Vec::new();
        for index in 0..setup.nodes {
            let file = logs.files.get(index).filter(|_| setup.durable);
            nodes.push(NodeProcess::start(setup, index, file)?);
        }
        let client = SkeletonClient::connect(setup, nodes[0].address)?;
        // The client is the leader's last peer: its datagrams are received in the cheapest way.
        let addresses = nodes.iter().map(|node| node.address).chain([client.address()]);
        let peers: Vec<String> = addresses.map(|address| address.to_string()).collect();
        for node in &mut nodes {
            node.tell(&peers.join(","))?;
            let ready = node.hear()?;
            ensure!(ready == "ready", "node {} said {ready:?} where it should be ready", node.index);
        }
        Ok((Skeleton { nodes }, client))
    }

    /// The processes of the nodes.
    pub(crate) fn processes(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// Ends the processes and tells what each did, the leader first.
    pub(crate) fn stop(mut self) -> anyhow::Result<Vec<Work>> {
        self.nodes.iter_mut().map(NodeProcess::stop).collect()
    }
}

/// One node.
#[derive(Debug)]
struct NodeProcess {
    index: usize,
    child: Child,
    /// Closed: the node ends.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    address: SocketAddrV4,
}

impl NodeProcess {
    fn start(setup: &Setup, index: usize, file: Option<&PathBuf>) -> anyhow::Result<NodeProcess> {
        let program = std::env::current_exe().context("cannot find this program's file")?;
        let mut command = Command::new(program);
        command.arg("skeleton-node").args(["--index", &index.to_string(), "--nodes", &setup.nodes.to_string()]);
        command.args(["--datagram-bytes", &setup.shape.datagram_bytes.to_string()]);
        command.args(["--size", &setup.shape.size.to_string()]);
        command.args(["--replies-per-datagram", &setup.shape.per_datagram().to_string()]);
        command.args(setup.wait.to_arguments());
        if let Some(file) = file {
            command.arg("--log").arg(file);
        }
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        let mut child = spawned.context("cannot start a process of the skeleton")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("a child without stdout")?);
        let nowhere = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0);
        let mut node = NodeProcess { index, child, input, output, address: nowhere };
        let address = node.hear()?;
        node.address = address.parse().with_context(|| format!("node {index} said {address:?}, not its address"))?;
        Ok(node)
    }

    fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("the node was told to end")?;
        writeln!(input, "{line}").with_context(|| format!("node {} of the skeleton is gone", self.index))
    }

    fn hear(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        let bytes = self.output.read_line(&mut line).context("cannot read from a process of the skeleton")?;
        if bytes == 0 {
            bail!("node {} of the skeleton ended; its error stands above", self.index);
        }
        Ok(line.trim_end().to_string())
    }

    fn stop(&mut self) -> anyhow::Result<Work> {
        self.input = None;
        let told = self.hear()?;
        let status = self.child.wait().context("cannot wait for a process of the skeleton")?;
        ensure!(status.success(), "node {} of the skeleton failed: {status}", self.index);
        serde_json::from_str(&told).with_context(|| format!("node {} said {told:?}, not what it did", self.index))
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.input = None;
        // It ends by itself when its stdin closes; one that does not must not outlive this. Either call fails only for a
        // process that is gone already.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Settings of a reactor of the skeleton.
fn ring_settings(peers: Vec<SocketAddrV4>, datagram_bytes: usize, wait: WaitMode, log_writer: LogWriter) -> Settings {
    let any = SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0);
    let mut settings = Settings {
        peers_listen: any,
        clients_listen: any,
        peers,
        rx_buffers_peers: RX_BUFFERS,
        rx_buffers_clients: UNUSED_BUFFERS,
        rx_buffer_bytes: datagram_bytes,
        sq_entries: SQ_ENTRIES,
        cq_entries: 0,
        socket_buffer_bytes: SOCKET_BUFFER_BYTES,
        wait,
        dont_fragment: true,
        max_events: MAX_EVENTS,
        log_writer,
        log_threads: 1,
        napi_busy_poll_us: 0,
        segmentation: false,
        receive_offload: false,
    };
    settings.cq_entries = settings.cq_entries_min();
    settings
}
