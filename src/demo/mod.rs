//! `synod demo`: a cluster of real processes on loopback with logs on the real disk, a load, a SIGKILL to the leader in
//! the middle of it, and then the proof: every node's log read back and compared with the input, and `verify`.
//!
//! Starts processes of this program and a directory of its own; both are gone afterwards. Called by the command line.

mod cluster;
mod disk;
mod feed;
mod generator;
mod report;

pub use report::{Failover, InputReport, ReadBack, Report};

use crate::config::Config;
use crate::pipeline::{Measured, Pipeline};
use crate::verify;
use anyhow::{Context, anyhow, bail};
use cluster::Cluster;
use disk::Disk;
use feed::{Feed, Input};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use synod_client::{Ack, Appender, ClientError, Options as SessionOptions, ReadOptions, Reader};
use synod_wire::{GroupId, NodeId, Sequence};

/// How long the load runs at least.
const LOAD: Duration = Duration::from_secs(5);
/// After this it ends within a pass of the input too.
const LOAD_LIMIT: Duration = Duration::from_secs(15);
/// When the leader is killed.
const KILL_AFTER: Duration = Duration::from_millis(2_500);
/// How long it stays down, and how long its death and its return are kept out of the steady latency.
const DOWN: Duration = Duration::from_secs(1);
/// Entries in flight.
const OUTSTANDING: usize = 64;
/// How long an entry may take, the failover included.
const DEADLINE: Duration = Duration::from_secs(20);
/// How long the nodes may take to elect their first leader, try by try.
const FIRST_LEADER: Duration = Duration::from_secs(2);
const FIRST_LEADER_TRIES: usize = 10;
/// How long a node may take to catch up and be read back.
const READ_BACK: Duration = Duration::from_secs(40);
/// Datagrams of one reply: as many as a node gives.
const READ_DATAGRAMS: u16 = 64;
const GROUP: GroupId = GroupId(0);

/// What to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// A file of lines; generated messages without one.
    pub input: Option<PathBuf>,
    /// How many nodes.
    pub nodes: u8,
    /// Whether the directory stays.
    pub keep: bool,
}

/// Runs the demo; `progress` is told what happens, in words. SIGINT and SIGTERM end it early, and it tidies up.
pub fn run(settings: &Settings, progress: &dyn Fn(&str)) -> anyhow::Result<Report> {
    let stop = Stop::on_signals()?;
    let input = Input::new(settings.input.as_deref())?;
    let (mut dir, disk) = disk::directory()?;
    let path = dir.path().to_path_buf();
    let outcome = in_directory(&path, disk, &input, settings, &stop, progress);
    // What went wrong stands in the logs there: they go only if all held, or nobody waits for the outcome.
    let held = outcome.as_ref().is_ok_and(|report| report.ok);
    let keep = settings.keep || !(held || stop.asked());
    dir.disable_cleanup(keep);
    match outcome {
        Ok(report) => Ok(Report { kept: keep.then_some(path), ..report }),
        Err(error) if keep => Err(error.context(format!("the nodes' logs are kept in {}", path.display()))),
        Err(error) => Err(error),
    }
}

/// Whether a signal asked for an early end.
#[derive(Clone, Debug)]
struct Stop(Arc<AtomicBool>);

impl Stop {
    fn on_signals() -> anyhow::Result<Stop> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, flag.clone()).context("cannot listen for signals")?;
        }
        Ok(Stop(flag))
    }

    fn asked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.asked() { Err(anyhow!("interrupted")) } else { Ok(()) }
    }
}

fn in_directory(
    dir: &Path,
    disk: Disk,
    input: &Input,
    settings: &Settings,
    stop: &Stop,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Report> {
    progress(&format!("formatting {} nodes in {}", settings.nodes, dir.display()));
    let mut cluster = Cluster::prepare(dir, settings.nodes, input.longest_bytes())?;
    progress("starting the nodes");
    for node in cluster.config.members() {
        cluster.start(node)?;
    }
    let pipeline = connect(&mut cluster, stop)?;
    let flushes_before = disk.flushes();
    let load = Load::new(cluster, pipeline, input.feed()?).run(stop, progress)?;
    let disk_flushes = disk.flushes().zip(flushes_before).map(|(after, before)| after.saturating_sub(before));
    let Load { mut cluster, steady, overall, bytes, killed, .. } = load;
    let entries = overall.entries;
    let read_back = read_back(&mut cluster, input, entries, stop, progress)?;
    stop.check()?;
    progress("stopping the nodes");
    cluster.stop()?;
    progress("verifying the logs");
    let verified = verify::verify(&cluster.node_dirs())?;
    let failover = killed.context("the load ended before the leader was killed")?;
    let whole = verified.groups.iter().all(|group| group.tail == entries) && !verified.groups.is_empty();
    let total = overall.summary();
    Ok(Report {
        ok: verified.ok && whole && read_back.iter().all(|log| log.identical),
        input: input_report(input, entries, cluster.config.net.max_batch_bytes),
        nodes: settings.nodes,
        entries,
        bytes,
        seconds: total.seconds,
        entries_per_second: total.entries_per_second,
        outstanding: OUTSTANDING,
        steady_latency: steady.latency(),
        failover: Failover { longest_gap_ms: overall.longest_gap.as_secs_f64() * 1e3, ..failover },
        read_back,
        verify: verified,
        durability: "acknowledged when synced to the disks of a quorum (O_DIRECT, RWF_DSYNC)",
        disk,
        disk_flushes,
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        cpus: std::thread::available_parallelism().map_or(1, usize::from),
        kept: None,
    })
}

fn input_report(input: &Input, entries: u64, max_batch_bytes: usize) -> InputReport {
    let longest_entry_bytes = input.longest_bytes();
    let (source, generated, passes) = match input {
        Input::File { path, lines, .. } => (path.display().to_string(), false, entries as f64 / *lines as f64),
        Input::Generated => (format!("order messages, seed {}", feed::SEED), true, 1.0),
    };
    InputReport { source, generated, passes, longest_entry_bytes, max_batch_bytes }
}

/// Opens the session; that it opens shows that a leader serves. The first session is only to find that out, with short
/// tries between which the nodes are looked after; the second resumes it with the deadline of a failover.
fn connect(cluster: &mut Cluster, stop: &Stop) -> anyhow::Result<Pipeline> {
    let config = &cluster.config;
    let datagram = synod_wire::frame::HEADER_BYTES + config.net.max_batch_bytes;
    let (id, members) = (config.cluster_id(), config.client_addresses(GROUP));
    let mut options = SessionOptions {
        window_entries: OUTSTANDING,
        window_bytes: OUTSTANDING * datagram,
        deadline: FIRST_LEADER,
        max_datagram_bytes: datagram,
        ..SessionOptions::default()
    };
    for attempt in 1..=FIRST_LEADER_TRIES {
        stop.check()?;
        match Appender::connect(id, GROUP, members.clone(), u128::from(std::process::id()), options.clone()) {
            // The leader is there: from now on an entry has the time of a failover.
            Ok(_) if options.deadline == FIRST_LEADER => options.deadline = DEADLINE,
            Ok(appender) => return Ok(Pipeline::new(appender)),
            Err(error) if error.is_unavailable() && attempt < FIRST_LEADER_TRIES => cluster.check_running()?,
            Err(error) => {
                cluster.check_running()?;
                return Err(error).context("the nodes elect no leader");
            }
        }
    }
    bail!("the nodes elect no leader")
}

/// The load, and what it has come to.
struct Load<'a> {
    cluster: Cluster,
    pipeline: Pipeline,
    feed: Feed<'a>,
    /// Measured all the time.
    overall: Measured,
    /// Measured but for the failover.
    steady: Measured,
    bytes: u64,
    acknowledged: u64,
    killed: Option<Failover>,
    restarted: bool,
}

impl<'a> Load<'a> {
    fn new(cluster: Cluster, mut pipeline: Pipeline, feed: Feed<'a>) -> Load<'a> {
        let steady = pipeline.measure_anew();
        let overall = steady.clone();
        Load { cluster, pipeline, feed, overall, steady, bytes: 0, acknowledged: 0, killed: None, restarted: false }
    }

    fn run(mut self, stop: &Stop, progress: &dyn Fn(&str)) -> anyhow::Result<Load<'a>> {
        let started = Instant::now();
        let mut killed_at = started;
        progress("sequencing");
        loop {
            let elapsed = started.elapsed();
            let whole = self.feed.is_whole() || elapsed >= LOAD_LIMIT;
            if elapsed >= LOAD && whole && self.restarted {
                break;
            }
            stop.check()?;
            self.push()?;
            if self.killed.is_none() && elapsed >= KILL_AFTER {
                self.kill(progress)?;
                killed_at = Instant::now();
            }
            if self.killed.is_some() && !self.restarted && killed_at.elapsed() >= DOWN {
                self.restart(progress)?;
            }
        }
        self.drain()?;
        self.close_phase(true);
        if self.overall.entries != self.acknowledged {
            bail!("{} acknowledgements were measured, {} came", self.overall.entries, self.acknowledged);
        }
        Ok(self)
    }

    fn push(&mut self) -> anyhow::Result<()> {
        let entry = self.feed.advance()?;
        let acknowledged = &mut self.acknowledged;
        let mut order = Ok(());
        let pushed = self.pipeline.push(entry, &mut |ack| order = in_order(acknowledged, ack));
        self.bytes += entry.len() as u64;
        order?;
        pushed.map(drop).map_err(|error| self.lost(error))
    }

    fn drain(&mut self) -> anyhow::Result<()> {
        let acknowledged = &mut self.acknowledged;
        let mut order = Ok(());
        let drained = self.pipeline.drain(&mut |ack| order = in_order(acknowledged, ack));
        order?;
        drained.map_err(|error| self.lost(error))
    }

    /// The session's error, or a node's that ended, which explains it.
    fn lost(&mut self, error: ClientError) -> anyhow::Error {
        match self.cluster.check_running() {
            Ok(()) => anyhow::Error::new(error).context("the load was not acknowledged"),
            Err(ended) => ended,
        }
    }

    fn kill(&mut self, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
        self.close_phase(true);
        let leader = self.leader().context("the session does not know its leader")?;
        let in_flight = self.pipeline.in_flight();
        assert!(in_flight > 0, "an entry was offered just now");
        self.cluster.kill(leader)?;
        progress(&format!("killed the leader (node {leader}) with {in_flight} entries in flight"));
        self.killed = Some(Failover { killed_node: leader.0, new_leader: None, in_flight, longest_gap_ms: 0.0 });
        Ok(())
    }

    fn restart(&mut self, progress: &dyn Fn(&str)) -> anyhow::Result<()> {
        self.close_phase(false);
        let new_leader = self.leader().map(|node| node.0);
        let failover = self.killed.as_mut().context("nothing was killed")?;
        failover.new_leader = new_leader;
        let node = NodeId(failover.killed_node);
        self.cluster.start(node)?;
        self.restarted = true;
        progress(&format!("restarted node {node}"));
        Ok(())
    }

    /// The node that the session sends to.
    fn leader(&self) -> Option<NodeId> {
        let address = self.pipeline.appender().client().core().leader()?;
        let all = self.cluster.config.client_addresses(GROUP);
        all.into_iter().find(|(_, theirs)| *theirs == address).map(|(node, _)| node)
    }

    /// Ends a phase of the measurement; `steady` says whether it counts for the steady latency.
    fn close_phase(&mut self, steady: bool) {
        let phase = self.pipeline.measure_anew();
        self.overall.absorb(&phase);
        if steady {
            self.steady.absorb(&phase);
        }
    }
}

/// The demo's session is the only one: its entries get the sequences from 1 without a gap.
fn in_order(acknowledged: &mut u64, ack: Ack) -> anyhow::Result<()> {
    *acknowledged += 1;
    if ack.sequence.0 != *acknowledged || ack.client_seq != *acknowledged {
        bail!("entry {acknowledged} got sequence {} for client sequence {}", ack.sequence, ack.client_seq);
    }
    Ok(())
}

/// Waits until each node has all entries, and compares them with the input; all nodes at once.
fn read_back(
    cluster: &mut Cluster,
    input: &Input,
    entries: u64,
    stop: &Stop,
    progress: &dyn Fn(&str),
) -> anyhow::Result<Vec<ReadBack>> {
    progress(&format!("reading back {entries} entries from each node"));
    cluster.check_running()?;
    let config = &cluster.config;
    std::thread::scope(|scope| {
        let start = |node: NodeId| {
            let thread = std::thread::Builder::new().name(format!("read-{node}"));
            thread
                .spawn_scoped(scope, move || read_node(config, node, input, entries, stop))
                .context("cannot start a thread")
        };
        let threads: Vec<_> = config.members().into_iter().map(start).collect::<Result<_, _>>()?;
        let join =
            |thread: std::thread::ScopedJoinHandle<'_, _>| thread.join().map_err(|_| anyhow!("a reader panicked"));
        threads.into_iter().map(join).collect()
    })
}

fn read_node(config: &Config, node: NodeId, input: &Input, entries: u64, stop: &Stop) -> ReadBack {
    let mut read = 0;
    let address = config.client_address(node, GROUP);
    let options = ReadOptions { deadline: READ_BACK, max_datagrams: READ_DATAGRAMS, ..ReadOptions::default() };
    let compared = Reader::new(config.cluster_id(), GROUP, vec![address], options)
        .map_err(anyhow::Error::new)
        .and_then(|mut reader| compare(&mut reader, input, entries, stop, &mut read));
    let problem = compared.err().map(|error| format!("{error:#}"));
    ReadBack { node: node.0, entries: read, identical: problem.is_none(), problem }
}

/// Follows one node's log to the last entry: a node that lags is waited for, as long as it makes progress in time.
fn compare(reader: &mut Reader, input: &Input, entries: u64, stop: &Stop, read: &mut u64) -> anyhow::Result<()> {
    let until = Instant::now() + READ_BACK;
    let mut feed = input.feed()?;
    reader.tail(Sequence(1), Duration::from_millis(500));
    while *read < entries {
        stop.check()?;
        if Instant::now() >= until {
            bail!("only {read} of {entries} entries came within {} s", READ_BACK.as_secs());
        }
        let Some(entry) = reader.next_entry()? else { continue };
        let expected = feed.advance()?;
        if entry.sequence.0 != *read + 1 || entry.payload != expected {
            bail!("sequence {} differs from entry {} of the input", entry.sequence, *read + 1);
        }
        *read += 1;
    }
    match reader.known_tail() {
        Some(tail) if tail.0 > entries => bail!("the log goes on to sequence {tail}, {entries} were appended"),
        _ => Ok(()),
    }
}
