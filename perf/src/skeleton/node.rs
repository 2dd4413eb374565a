//! Leader and follower: one reactor each, no protocol. A process of its own, started by [`super::Skeleton`], with which it
//! talks over stdin and stdout: its address, everybody's addresses (the client's is the last), "ready"; it ends when stdin closes, and tells what
//! its reactor did.

use super::gather::Gather;
use super::message::{HEAD_BYTES, Kind, Message, parse, write_head};
use super::{Work, ring_settings};
use crate::options::WaitArgs;
use anyhow::{Context, bail};
use clap::Args;
use std::io::{Read, Write};
use std::net::SocketAddrV4;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_ring::{Arena, Event, Io, LogThread, LogWriter, ReceiveMemory, RxBuf, UringIo, Waker, port};

/// Bytes for the small datagrams of one turn.
const SEND_BYTES: usize = 1 << 20;

/// No housekeeping here.
type Reactor = UringIo<(), ()>;

/// One process of the skeleton.
#[derive(Args, Debug)]
pub(crate) struct NodeArgs {
    /// 0 leads, the others follow.
    #[arg(long)]
    index: usize,
    #[arg(long)]
    nodes: usize,
    #[arg(long)]
    size: usize,
    #[arg(long)]
    datagram_bytes: usize,
    #[arg(long)]
    replies_per_datagram: usize,
    /// Left out: nothing is written.
    #[arg(long)]
    log: Option<PathBuf>,
    #[command(flatten)]
    wait: WaitArgs,
}

/// Runs a node until stdin closes.
pub(crate) fn run_node(args: &NodeArgs) -> anyhow::Result<()> {
    let log_arena = Arena::new(Gather::arena_bytes()).context("cannot map the log's memory")?;
    let send_arena = Arena::new(SEND_BYTES).context("cannot map the memory for sending")?;
    send_arena.populate().context("cannot fill the memory for sending")?;
    let (core, _house) = port(1)?;
    let log_writer = args.log.as_deref().map_or(LogWriter::Ring, log_writer);
    let settings = ring_settings(Vec::new(), args.datagram_bytes, args.wait.mode(), log_writer);
    let receive = ReceiveMemory::new(&settings)?;
    let mut io = UringIo::new(settings, receive, &log_arena, &send_arena, core)?;
    say(&io.peers_address().to_string())?;
    io.set_peers(&hear_peers()?)?;
    let gather = Gather::new(log_arena, args.log.is_some(), args.size, args.datagram_bytes);
    if let Some(path) = &args.log {
        gather.attach(&mut io, path)?;
    }
    let stop = stop_with_stdin(io.waker())?;
    say("ready")?;
    let mut node = Node { io, gather, send: Outgoing { arena: send_arena, used: 0 }, index: args.index };
    if args.index == 0 {
        let replies = Replies { client: args.nodes, per_datagram: args.replies_per_datagram, answered: 0 };
        let leader = Leader { durable: vec![0; args.nodes], sorted: vec![0; args.nodes], replies };
        node.lead(leader, &stop)?;
    } else {
        node.follow(&stop)?;
    }
    let work = serde_json::to_string(&Work::from(node.io.stats()))?;
    node.io.close().context("the reactor did not close cleanly")?;
    say(&work)
}

/// The product's default: whichever way is faster, the thread beside the disk's interrupt, if one CPU takes that.
fn log_writer(log: &Path) -> LogWriter {
    let cpu = log.parent().and_then(|directory| synod::interrupt::cpu_of_disk(directory).ok());
    LogWriter::Auto(cpu.map_or(LogThread { cpus: None }, LogThread::on))
}

fn say(line: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("the benchmark is gone")
}

fn hear_peers() -> anyhow::Result<Vec<SocketAddrV4>> {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).context("the benchmark is gone")?;
    let peers = line.trim_end().split(',').map(str::parse).collect::<Result<_, _>>();
    peers.with_context(|| format!("{line:?} is no list of addresses"))
}

/// Sets the flag and wakes the reactor when stdin closes: at the benchmark's will, or its death.
fn stop_with_stdin(waker: Waker) -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = stop.clone();
    let watch = move || {
        let mut rest = Vec::new();
        // An error ends the node as the end of the input does.
        let _closed = std::io::stdin().read_to_end(&mut rest);
        told.store(true, Ordering::Release);
        waker.wake();
    };
    std::thread::Builder::new().name("stdin".into()).spawn(watch).context("cannot start a thread")?;
    Ok(stop)
}

/// What leader and follower have in common.
struct Node {
    io: Reactor,
    gather: Gather,
    send: Outgoing,
    index: usize,
}

/// The leader's knowledge.
struct Leader {
    /// Behind the last durable entry of each node, its own included.
    durable: Vec<u64>,
    /// The same, sorted: kept to allocate nothing.
    sorted: Vec<u64>,
    replies: Replies,
}

/// What the client was told.
struct Replies {
    /// The client's place among the peers.
    client: usize,
    per_datagram: usize,
    answered: u64,
}

/// Where small datagrams are built; emptied after each poll.
struct Outgoing {
    arena: Arena,
    used: usize,
}

impl Outgoing {
    fn build(&mut self, kind: Kind, from: usize, first: u64, entries: usize) -> anyhow::Result<usize> {
        let start = self.used;
        if start + HEAD_BYTES > self.arena.len() {
            bail!("more replies in a turn than fit {SEND_BYTES} bytes: choose fewer entries in flight");
        }
        write_head(self.arena.get_mut(start, HEAD_BYTES), kind, from, first, entries, 0);
        self.used += HEAD_BYTES;
        Ok(start)
    }
}

impl Node {
    fn lead(&mut self, mut leader: Leader, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(1_024);
        while !stop.load(Ordering::Acquire) {
            self.io.poll(u64::MAX, self.gather.is_writing(), &mut events)?;
            self.send.used = 0;
            for event in events.drain(..) {
                self.leader_event(&mut leader, event)?;
            }
            self.reply(&mut leader)?;
            if self.gather.is_due() {
                let nodes = leader.durable.len();
                self.gather
                    .flush(&mut self.io, |io, datagram| (1..nodes).for_each(|peer| io.send_peer(peer, datagram)));
                // Without a log the own vote needs no completion.
                self.reply(&mut leader)?;
            }
        }
        Ok(())
    }

    fn leader_event(&mut self, leader: &mut Leader, event: Event<()>) -> anyhow::Result<()> {
        match event {
            Event::Datagram { buf, .. } => {
                let result = self.leader_datagram(leader, &buf);
                self.io.release(buf);
                result
            }
            other => self.other_event(other),
        }
    }

    fn leader_datagram(&mut self, leader: &mut Leader, buf: &RxBuf) -> anyhow::Result<()> {
        let message = parse(self.io.datagram(buf))?;
        match message {
            Message { kind: Kind::Request, entries, payload, .. } => {
                for entry in payload.chunks_exact(payload.len() / entries.max(1)) {
                    self.gather.push_entry(entry)?;
                }
            }
            Message { kind: Kind::Durable, from, first, .. } => {
                let known = leader.durable.get_mut(from).context("a follower that is none")?;
                *known = first.max(*known);
            }
            other => bail!("the leader was sent a {:?}", other.kind),
        }
        Ok(())
    }

    /// Tells the client what has become durable on a majority.
    fn reply(&mut self, leader: &mut Leader) -> anyhow::Result<()> {
        leader.durable[0] = self.gather.durable_upto();
        leader.sorted.copy_from_slice(&leader.durable);
        leader.sorted.sort_unstable();
        // In ascending order, as many nodes hold what stands at this place as there are from it to the end: a majority.
        let committed = leader.sorted[(leader.sorted.len() - 1) / 2];
        let Replies { client, per_datagram, answered } = &mut leader.replies;
        while *answered < committed {
            let entries = (committed - *answered).min(*per_datagram as u64);
            let start = self.send.build(Kind::Reply, 0, *answered, entries as usize)?;
            self.io.send_peer(*client, self.send.arena.slice(start, HEAD_BYTES));
            *answered += entries;
        }
        Ok(())
    }

    fn follow(&mut self, stop: &AtomicBool) -> anyhow::Result<()> {
        let mut events = Vec::with_capacity(1_024);
        let mut told = 0;
        while !stop.load(Ordering::Acquire) {
            self.io.poll(u64::MAX, self.gather.is_writing(), &mut events)?;
            self.send.used = 0;
            for event in events.drain(..) {
                self.follower_event(event)?;
            }
            told = self.report(told)?;
            if self.gather.is_due() {
                self.gather.flush(&mut self.io, |_, _| {});
                // Without a log it is done already.
                told = self.report(told)?;
            }
        }
        Ok(())
    }

    fn follower_event(&mut self, event: Event<()>) -> anyhow::Result<()> {
        let Event::Datagram { buf, .. } = event else { return self.other_event(event) };
        let datagram = self.io.datagram(&buf);
        let result = parse(datagram).and_then(|message| match message.kind {
            Kind::Forward => self.gather.push_datagram(datagram, message.first, message.entries),
            other => bail!("a follower was sent a {other:?}"),
        });
        self.io.release(buf);
        result
    }

    /// Tells the leader what is durable here, if that is more than before.
    fn report(&mut self, told: u64) -> anyhow::Result<u64> {
        let durable = self.gather.durable_upto();
        if durable > told {
            let start = self.send.build(Kind::Durable, self.index, durable, 0)?;
            self.io.send_peer(0, self.send.arena.slice(start, HEAD_BYTES));
        }
        Ok(durable)
    }

    fn other_event(&mut self, event: Event<()>) -> anyhow::Result<()> {
        match event {
            Event::Written { token, result } => self.gather.written(token, result),
            Event::Woken | Event::Done(()) => Ok(()),
            Event::Overrun(_) => bail!("the receive buffers ran out: choose fewer entries in flight"),
            Event::SendFailed(errno) => Err(std::io::Error::from_raw_os_error(errno)).context("a datagram was refused"),
            Event::Datagram { .. } => unreachable!("leader and follower take their datagrams themselves"),
        }
    }
}
