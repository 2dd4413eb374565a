//! raft-rs 0.7 over raft-engine 0.4, at its best: one thread a node and no hand-over between threads, TCP without delay, the
//! leader's messages leave before its own write, all that arrived meanwhile goes into the next write and the next message,
//! log files are filled ahead, and what need not be durable (the commit index) is written with what must be. Reads of the
//! log are served from memory.
//!
//! A cluster lives for one measurement: membership is fixed, node 1 campaigns, and a lost connection ends the node.

use crate::bench::Running;
use crate::harness::{CLIENT_HELLO, Client, Link, block};
use crate::processes::{Process, wait_all_ready};
use anyhow::{Context, bail, ensure};
use clap::Args;
use protobuf::Message as _;
use raft::eraftpb::{Entry, Message};
use raft::storage::MemStorage;
use raft::{Config, RawNode, StateRole};
use raft_engine::{Engine, LogBatch, MessageExt, ReadableSize};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// As in Cargo.lock; a test holds them together.
const VERSION: &str = "raft 0.7.0, raft-engine 0.4.2";
/// What a node says when it has all its connections.
const READY: &str = "ready to serve";
const NODES: u64 = 3;
const LEADER: u64 = 1;
const TICK: Duration = Duration::from_millis(100);
const START_WAIT: Duration = Duration::from_secs(20);
/// Entries that stay in memory for followers that lag.
const KEEP_ENTRIES: u64 = 65_536;
/// The group and the key of its hard state in the engine.
const GROUP: u64 = 1;
const HARD_STATE: &[u8] = b"hard_state";

/// Arguments of a node.
#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// Which one, from 1.
    #[arg(long)]
    id: u64,
    /// An empty directory for the log.
    #[arg(long)]
    dir: PathBuf,
    /// Where the nodes listen, in their order.
    #[arg(long, value_delimiter = ',')]
    members: Vec<SocketAddr>,
    /// How long it polls and yields before it blocks.
    #[arg(long)]
    spin_us: u64,
}

/// Starts three nodes and connects to the leader. The listeners are open before any node runs, so that no connection is
/// refused.
pub(crate) fn start(dir: &Path, size: usize, spin_us: u64) -> anyhow::Result<Running> {
    let listeners: Vec<TcpListener> =
        (0..NODES).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>().context("cannot listen")?;
    let members: Vec<SocketAddr> = listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?;
    let list = members.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(",");
    let own = std::env::current_exe().context("cannot find this program's file")?;
    let mut processes = Vec::new();
    for (id, listener) in (1..).zip(listeners) {
        let mut command = Command::new(&own);
        command.args(["raft-rs-node", "--members", &list, "--id"]).arg(format!("{id}"));
        command.arg("--dir").arg(dir.join(format!("raft-rs-{id}"))).args(["--spin-us", &spin_us.to_string()]);
        command.stdin(Stdio::from(OwnedFd::from(listener)));
        processes.push(Process::start(&format!("raft-rs node {id}"), &mut command, READY)?);
    }
    wait_all_ready(&processes, START_WAIT)?;
    let target = Box::new(Client::connect(members[0], size)?);
    Ok(Running { version: VERSION.into(), processes, target, is_log })
}

/// Which files hold the log.
fn is_log(file: &str) -> bool {
    file.contains(".raftlog")
}

/// Runs a node until a connection ends.
pub(crate) fn run(args: &NodeArgs) -> anyhow::Result<()> {
    ensure!((1..=NODES).contains(&args.id) && args.members.len() as u64 == NODES, "three nodes, from 1");
    let engine = open_engine(&args.dir)?;
    let peers = connect_peers(args)?;
    eprintln!("{READY}");
    let client = if args.id == LEADER { Some(accept_client()?) } else { None };
    let mut node = Node::new(args.id, engine, peers, client)?;
    if args.id == LEADER {
        node.raw.campaign().context("cannot campaign")?;
    }
    node.turns(Duration::from_micros(args.spin_us))
}

/// Files are filled ahead, so that a write changes no metadata; compression, which costs time at this size, is off.
fn open_engine(dir: &Path) -> anyhow::Result<Engine> {
    let config = raft_engine::Config {
        dir: dir.to_string_lossy().into_owned(),
        batch_compression_threshold: ReadableSize::kb(0),
        target_file_size: ReadableSize::mb(32),
        purge_threshold: ReadableSize::mb(128),
        enable_log_recycle: true,
        prefill_for_recycle: true,
        ..Default::default()
    };
    let engine = Engine::open(config).with_context(|| format!("cannot open {}", dir.display()))?;
    ensure!(engine.is_empty(), "{} holds a log: a measurement starts with none", dir.display());
    Ok(engine)
}

/// Connects to the nodes below, and takes the connections of those above.
fn connect_peers(args: &NodeArgs) -> anyhow::Result<Vec<(u64, Link)>> {
    let mut peers = Vec::new();
    for (id, address) in (1..args.id).zip(&args.members) {
        let mut stream = TcpStream::connect(address).with_context(|| format!("cannot connect to node {id}"))?;
        stream.write_all(&[args.id as u8])?;
        peers.push((id, Link::new(stream)?));
    }
    for _ in args.id..NODES {
        let (id, stream) = accept()?;
        ensure!(id > args.id as u8, "node {id} connected to node {}", args.id);
        peers.push((u64::from(id), Link::new(stream)?));
    }
    Ok(peers)
}

fn accept_client() -> anyhow::Result<Link> {
    let (hello, stream) = accept()?;
    ensure!(hello == CLIENT_HELLO, "a client says hello with {CLIENT_HELLO}, not {hello}");
    Link::new(stream)
}

/// The next connection of the listener that stands in for standard input, and its first byte.
fn accept() -> anyhow::Result<(u8, TcpStream)> {
    let stdin = std::io::stdin().as_fd().try_clone_to_owned().context("no listener was given")?;
    let listener = TcpListener::from(stdin);
    let (mut stream, _) = listener.accept().context("cannot accept")?;
    let mut hello = [0];
    stream.read_exact(&mut hello).context("no hello")?;
    Ok((hello[0], stream))
}

/// How entries are told to the engine.
struct Entries;

impl MessageExt for Entries {
    type Entry = Entry;

    fn index(entry: &Entry) -> u64 {
        entry.index
    }
}

struct Node {
    raw: RawNode<MemStorage>,
    engine: Engine,
    batch: LogBatch,
    peers: Vec<(u64, Link)>,
    client: Option<Link>,
    /// Entries of the client that are committed.
    committed: u64,
    /// Entries up to here are no longer in memory.
    compacted: u64,
    next_tick: Instant,
}

impl Node {
    fn new(id: u64, engine: Engine, peers: Vec<(u64, Link)>, client: Option<Link>) -> anyhow::Result<Node> {
        let config = Config {
            id,
            election_tick: 20,
            heartbeat_tick: 2,
            max_size_per_msg: 1 << 20,
            max_inflight_msgs: 4_096,
            batch_append: true,
            ..Default::default()
        };
        let store = MemStorage::new_with_conf_state(((1..=NODES).collect::<Vec<_>>(), Vec::new()));
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, store, &logger).context("raft-rs refuses the configuration")?;
        let next_tick = Instant::now() + TICK;
        Ok(Node { raw, engine, batch: LogBatch::default(), peers, client, committed: 0, compacted: 0, next_tick })
    }

    fn turns(&mut self, spin: Duration) -> anyhow::Result<()> {
        let mut last_work = Instant::now();
        loop {
            let worked = self.receive()?;
            let now = Instant::now();
            if now >= self.next_tick {
                self.next_tick = now + TICK;
                self.raw.tick();
            }
            self.ready()?;
            self.flush()?;
            if worked {
                last_work = now;
            } else if now - last_work < spin {
                std::thread::yield_now();
            } else {
                let links: Vec<&Link> = self.peers.iter().map(|(_, link)| link).chain(&self.client).collect();
                block(&links, self.next_tick.saturating_duration_since(now))?;
                last_work = Instant::now();
            }
        }
    }

    /// Takes what came; true if anything did. Before it leads, the leader leaves its client's entries in the socket.
    fn receive(&mut self) -> anyhow::Result<bool> {
        let mut worked = false;
        for (_, link) in &mut self.peers {
            worked |= link.fill()?;
            while let Some(frame) = link.frame() {
                let message = Message::parse_from_bytes(frame).context("a message that does not parse")?;
                self.raw.step(message).context("raft-rs refuses a message")?;
            }
        }
        if let Some(client) = &mut self.client
            && self.raw.raft.state == StateRole::Leader
        {
            worked |= client.fill()?;
            while let Some(entry) = client.frame() {
                self.raw.propose(Vec::new(), entry.to_vec()).context("raft-rs refuses an entry")?;
            }
        }
        Ok(worked)
    }

    fn ready(&mut self) -> anyhow::Result<()> {
        while self.raw.has_ready() {
            let mut ready = self.raw.ready();
            ensure!(ready.snapshot().is_empty(), "a follower fell behind what is in memory");
            self.send(ready.take_messages())?;
            self.apply(ready.take_committed_entries())?;
            self.flush()?;
            self.persist(&ready)?;
            self.send(ready.take_persisted_messages())?;
            let mut light = self.raw.advance(ready);
            if let Some(commit) = light.commit_index() {
                self.raw.mut_store().wl().mut_hard_state().set_commit(commit);
            }
            self.send(light.take_messages())?;
            self.apply(light.take_committed_entries())?;
            self.raw.advance_apply();
            self.flush()?;
        }
        self.compact()
    }

    /// Entries, terms and votes are durable when this returns. The commit index waits for the next of them.
    fn persist(&mut self, ready: &raft::Ready) -> anyhow::Result<()> {
        if ready.must_sync() {
            self.batch.add_entries::<Entries>(GROUP, ready.entries()).context("raft-engine refuses entries")?;
            if let Some(state) = ready.hs() {
                self.batch.put_message(GROUP, HARD_STATE.to_vec(), state).context("raft-engine refuses a state")?;
            }
            self.engine.write(&mut self.batch, true).context("cannot write the log")?;
        }
        let mut store = self.raw.mut_store().wl();
        store.append(ready.entries()).context("cannot keep entries")?;
        if let Some(state) = ready.hs() {
            store.set_hardstate(state.clone());
        }
        Ok(())
    }

    fn send(&mut self, messages: Vec<Message>) -> anyhow::Result<()> {
        for message in messages {
            let Some((_, link)) = self.peers.iter_mut().find(|(id, _)| *id == message.to) else {
                bail!("a message to {}, which is no peer", message.to);
            };
            let out = link.out();
            out.extend_from_slice(&message.compute_size().to_le_bytes());
            message.write_to_vec(out).context("a message that cannot be written")?;
        }
        Ok(())
    }

    /// Counts the client's entries and answers.
    fn apply(&mut self, entries: Vec<Entry>) -> anyhow::Result<()> {
        let news = entries.iter().filter(|entry| !entry.data.is_empty()).count() as u64;
        self.committed += news;
        if let (Some(client), true) = (&mut self.client, news > 0) {
            client.out().extend_from_slice(&self.committed.to_le_bytes());
        }
        Ok(())
    }

    fn compact(&mut self) -> anyhow::Result<()> {
        let applied = self.raw.raft.raft_log.applied;
        if applied < self.compacted + 2 * KEEP_ENTRIES {
            return Ok(());
        }
        self.compacted = applied - KEEP_ENTRIES;
        self.raw.mut_store().wl().compact(self.compacted).context("cannot compact what is in memory")
    }

    fn flush(&mut self) -> anyhow::Result<()> {
        self.peers.iter_mut().try_for_each(|(_, link)| link.flush())?;
        self.client.as_mut().map_or(Ok(()), Link::flush)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_told_are_those_locked() {
        let lock = include_str!("../Cargo.lock");
        for part in VERSION.split(", ") {
            let (name, version) = part.split_once(' ').unwrap();
            assert!(lock.contains(&format!("name = \"{name}\"\nversion = \"{version}\"")), "{part}");
        }
    }
}
