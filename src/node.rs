//! A node: one shard a group, each on its own thread (pinned if the configuration says so) with a housekeeping thread
//! beside it, and the main thread that waits for signals.

use crate::admin::{About, Admin, AskReload, reloads};
use crate::config::reload::Told;
use crate::config::{Config, InFlight, Writer, WriterCore};
use crate::events::Events;
use crate::interrupt;
use crate::machine::{self, MakeMachine};
use crate::service::{NEWS_MAX, News, Service};
use crate::shard::checkpoint::Maker;
use crate::shard::install::TransferJob;
use crate::shard::jobs::{self, Done, Job};
use crate::shard::{
    self, Board, CatchUpSettings, ClientSettings, Exit, OUTBOX_BYTES, Order, RetentionSettings, Shard, SnapshotSettings,
};
use crate::shard::{FailSlowSettings, Gauge, Live, LiveSettings};
use crate::without::{Lack, Lacks};
use anyhow::{Context, anyhow};
use rustix::system::uname;
use rustix::thread::CpuSet;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;
use synod_ring::{
    Arena, Backend, Doorbell, HousePort, LogThread, LogThreadGot, LogWriter, Port, Reactor, ReceiveMemory, SyscallIo,
    UringIo, Waker, Want,
};
use synod_wal::{Dir, Expect};
use synod_wire::frame::{Header, Kind};
use synod_wire::record::Configuration;
use synod_wire::{Ballot, Epoch, GroupId, Lsn, NodeId, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::{U32, U64};

/// Submissions of one turn that fit before the reactor must submit early.
pub const SQ_ENTRIES: u32 = 1_024;

/// Prepares the directory of every group of a node. Refuses a directory that is in use or formatted. A log that `joins` is of a
/// group that others founded, and waits to be added to it. Gives the incarnation of each group's log.
pub fn format(config: &Config, node: NodeId, joins: bool) -> anyhow::Result<Vec<(GroupId, u64)>> {
    let mut incarnations = Vec::new();
    for group in group_ids(config) {
        let incarnation = random_u64()?;
        incarnations.push((group, incarnation));
        let dir = config.log_dir(node, group);
        let identity = synod_wal::Identity { cluster: config.cluster_id(), group, node, incarnation };
        let (header, body) = founding_configuration(config, node, group, incarnation, joins);
        synod_wal::format(&dir, &identity, (&header, &body), &wal_settings(config))
            .with_context(|| format!("cannot format {} for node {node}, group {group}", dir.display()))?;
    }
    Ok(incarnations)
}

fn founding_configuration(
    config: &Config,
    node: NodeId,
    group: GroupId,
    incarnation: u64,
    joins: bool,
) -> (Header, Vec<u8>) {
    let (members, quorums) = (config.founders(), config.quorums());
    let body = Configuration {
        parent_epoch: U32::ZERO,
        phase1: quorums.phase1 as u8,
        phase2: quorums.phase2 as u8,
        members: members.len() as u8,
        learners: joins.into(),
        incarnation: U64::new(incarnation),
    };
    let mut payload = body.as_bytes().to_vec();
    payload.extend(members.iter().map(|member| member.0));
    payload.extend(joins.then_some(node.0));
    let header = Header {
        kind: Kind::Configuration,
        flags: 0,
        from: node,
        group,
        cluster: config.cluster_id(),
        epoch: Epoch(1),
        slot: Slot::ZERO,
        ballot: Ballot::ZERO,
        promised: Ballot::ZERO,
        lsn: Lsn(1),
    };
    (header, payload)
}

fn random_u64() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).context("getrandom failed")?;
    // 0 means "none" in the founding protocol.
    Ok(u64::from_le_bytes(bytes).max(1))
}

fn group_ids(config: &Config) -> impl Iterator<Item = GroupId> {
    (0..config.groups.len()).map(|group| GroupId(group as u8))
}

fn wal_settings(config: &Config) -> synod_wal::Settings {
    synod_wal::Settings {
        segment_bytes: config.wal.segment_bytes,
        stride_bytes: synod_wal::STRIDE_BYTES,
        arena_bytes: config.wal.arena_bytes,
        max_in_flight: config.wal.max_in_flight.most(),
        adapts: config.wal.max_in_flight == InFlight::Auto,
        max_flush_bytes: config.wal.max_flush_bytes,
    }
}

/// Runs a node with the machines that its configuration names, until SIGTERM or SIGINT, or until one of its groups cannot go on. On
/// SIGHUP, and for who asks over HTTP, `reload` is asked what is to run from now on in place of what does, if anything else is
/// ([`crate::config::reload`]), and what there is to tell of it.
pub fn run(
    config: &Config,
    node: NodeId,
    order: Order,
    mut reload: impl FnMut(&Config) -> (Told, Option<Config>),
) -> anyhow::Result<()> {
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP]).context("cannot watch signals")?;
    let handle = signals.handle();
    let (tell, told) = sync_channel(NEWS_MAX);
    let news = tell.clone();
    let (ask_reload, asked) = reloads();
    let hooks = Hooks {
        on_end: Arc::new(move || handle.close()),
        on_news: Arc::new(move |of_group| {
            // Where nobody listens, nobody is told.
            let _nobody = news.send(of_group);
        }),
        reload: Some(ask_reload),
    };
    let running = Node::spawn(config, node, order, machine::built_in(config), hooks)?;
    let (boards, shared) = (running.boards.clone(), running.shared.clone());
    let service = Service::start(tell, told, boards, move || shared.wake())?;
    let mut runs = config.clone();
    // Ends with a signal, or when a pipeline closes the handle.
    let signal = loop {
        match signals.forever().next() {
            Some(SIGHUP) => {
                // Before the file is read: who comes later has another signal sent, and is told of what is read then.
                let askers: Vec<_> = asked.try_iter().collect();
                let (told, changed) = reload(&runs);
                if let Some(changed) = changed {
                    running.take_over(&changed);
                    runs = changed;
                }
                for asker in askers {
                    let _hung_up = asker.send(told.clone());
                }
            }
            other => break other,
        }
    };
    tracing::info!(%node, ?signal, "stopping");
    service.stops();
    running.stop()
}

/// A node that runs in threads of this process: what `synod start` is, and how a program embeds one.
///
/// The directory was prepared by [`format()`] before its first start. Each group runs the machine that `make` gives for it
/// ([`machine::StateMachine`]). Signals are the program's: it calls [`Node::stop`]. When a `Node` is dropped, it is stopped; only
/// [`Node::stop`] and [`Node::wait`] tell how it ended.
///
/// ```no_run
/// # struct Mine;
/// # impl synod::machine::StateMachine for Mine {
/// #     fn apply(&mut self, _: &synod::machine::Entry<'_>) {}
/// #     fn query(&self, _: &[u8], _: &mut Vec<u8>) -> Result<(), synod::machine::BadQuestion> { Ok(()) }
/// #     fn snapshot(&self, _: &mut Vec<u8>) {}
/// #     fn restore(&mut self, _: &[u8]) -> Result<(), synod::machine::BadSnapshot> { Ok(()) }
/// # }
/// use std::sync::Arc;
/// use synod::{config::load, node::Node};
/// # fn main() -> anyhow::Result<()> {
/// let config = load::load("synod.toml".as_ref())?.config;
/// let node = Node::start(&config, synod_client::NodeId(0), Arc::new(|_group| Some(Box::new(Mine))))?;
/// node.wait()
/// # }
/// ```
#[derive(Debug)]
pub struct Node {
    shared: Arc<Shared>,
    threads: Vec<thread::JoinHandle<anyhow::Result<()>>>,
    admin: Option<Admin>,
    boards: Vec<Arc<Board>>,
    /// By group.
    lives: Vec<Arc<Live>>,
    /// Ends behind the pipelines: their last records are kept.
    events: Option<Events>,
}

/// What a node's threads call.
#[derive(Clone)]
struct Hooks {
    /// One of them ended.
    on_end: Arc<dyn Fn() + Send + Sync>,
    /// It reads its log, or serves.
    on_news: Arc<dyn Fn(News) + Send + Sync>,
    /// Somebody asks over HTTP that the configuration be read again.
    reload: Option<AskReload>,
}

/// What ends a node's pipelines.
#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    wakers: Mutex<Vec<Waker>>,
}

impl Shared {
    fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.wake();
    }

    /// Has every pipeline take a turn.
    fn wake(&self) {
        // A pipeline that panicked while it held the lock has pushed its waker or not; the others still have to end.
        for waker in self.wakers.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            waker.wake();
        }
    }
}

impl Node {
    /// Starts a node. It is up when its clients are answered; an error of a group, its log for one, ends the node and is told by
    /// [`Node::wait`] or [`Node::stop`].
    pub fn start(config: &Config, node: NodeId, make: MakeMachine) -> anyhow::Result<Node> {
        let hooks = Hooks { on_end: Arc::new(|| {}), on_news: Arc::new(|_| {}), reload: None };
        Node::spawn(config, node, Order::Serve, make, hooks)
    }

    fn spawn(config: &Config, node: NodeId, order: Order, make: MakeMachine, hooks: Hooks) -> anyhow::Result<Node> {
        let choice = Want::from(config.cpu.io).choose(SQ_ENTRIES)?;
        let (io, refused) = (choice.backend, choice.refused.map(|refused| Arc::from(refused.to_string())));
        let kernel = uname();
        tracing::info!(%node, kernel = %kernel.release().to_string_lossy(), io = io.name(), features = ?choice.features, "starting");
        // From here on what was started is stopped if the rest cannot be.
        let mut started = Node {
            shared: Arc::default(),
            threads: Vec::new(),
            admin: None,
            boards: Vec::new(),
            lives: Vec::new(),
            events: None,
        };
        let groups: Vec<(GroupId, Arc<Board>)> = group_ids(config).map(|group| (group, Arc::default())).collect();
        let listen = config.node(node).and_then(|node| node.admin_listen);
        let about =
            About { cluster: config.cluster_id(), node, config: Arc::new(config.clone()), groups: groups.clone() };
        started.admin = listen.map(|listen| Admin::start(listen, about, hooks.reload)).transpose()?;
        let followed = groups.iter().map(|(group, board)| (*group, board.clone(), config.log_dir(node, *group)));
        let events = Events::start(node, followed.collect()).context("cannot start a thread")?;
        started.events = Some(events);
        for (group, board) in groups {
            let shared = started.shared.clone();
            started.boards.push(board.clone());
            let live = Arc::<Live>::default();
            started.lives.push(live.clone());
            let ends_node = EndsNode { shared: shared.clone(), on_end: hooks.on_end.clone() };
            let (config, make, refused) = (config.clone(), make.clone(), refused.clone());
            let on_news = hooks.on_news.clone();
            let pipeline = Pipeline { config, node, group, order, shared, make, board, live, on_news, io, refused };
            let thread = thread::Builder::new().name(format!("synod-group-{group}"));
            let spawned = thread.spawn(move || {
                let _ends_node = ends_node;
                pipeline.run()
            });
            started.threads.push(spawned.context("cannot start a thread")?);
        }
        Ok(started)
    }

    /// Has every group take over what may change while it runs; the rest of `config` plays no part.
    fn take_over(&self, config: &Config) {
        for (group, live) in group_ids(config).zip(&self.lives) {
            live.set(&live_settings(config, group));
        }
        // One that sleeps would look at its next turn.
        self.shared.wake();
    }

    /// Ends the node in order.
    pub fn stop(mut self) -> anyhow::Result<()> {
        self.shared.stop();
        self.join()
    }

    /// Waits until the node ends by itself: one of its groups could not go on, which the error says.
    pub fn wait(mut self) -> anyhow::Result<()> {
        self.join()
    }

    /// Where it answers HTTP, if it does.
    pub fn admin_address(&self) -> Option<SocketAddrV4> {
        self.admin.as_ref().map(Admin::address)
    }

    fn join(&mut self) -> anyhow::Result<()> {
        let mut result = Ok(());
        for thread in self.threads.drain(..) {
            let ended = thread.join().map_err(|_| anyhow!("a pipeline panicked")).flatten();
            result = result.and(ended);
        }
        result
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.shared.stop();
        if let Err(error) = self.join() {
            tracing::error!(error = format!("{error:#}"), "a node that was dropped had not ended in order");
        }
    }
}

/// What may change of a group's settings while it runs.
fn live_settings(config: &Config, group: GroupId) -> LiveSettings {
    let of_group = &config.groups[usize::from(group.0)];
    LiveSettings {
        fail_slow: FailSlowSettings {
            factor: config.consensus.fail_slow_factor,
            min_ns: config.consensus.fail_slow_min_us * 1_000,
            hung_ns: config.wal.hung_after_us * 1_000,
        },
        snapshots: SnapshotSettings {
            every_entries: config.snapshot.every_entries.of(of_group.machine),
            max_bytes_per_s: config.snapshot.max_bytes_per_s,
            every_bytes: match config.retention.max_bytes {
                0 => u64::MAX,
                max_bytes => max_bytes / 8,
            },
        },
        leader_priority: of_group.leader_priority.iter().map(|id| NodeId(*id)).collect(),
        catch_up: CatchUpSettings { max_bytes_per_s: config.catchup.max_bytes_per_s },
        clients: ClientSettings {
            max_subscribers: config.clients.max_subscribers.into(),
            silence_ns: config.clients.subscriber_silence_us * 1_000,
            starved_ns: config.clients.subscriber_starved_us * 1_000,
            max_waiting_reads: config.clients.max_waiting_reads.into(),
            max_read_wait_ns: config.clients.max_read_wait_us * 1_000,
        },
        retention: RetentionSettings {
            max_bytes: config.retention.max_bytes,
            max_age_ns: config.retention.max_age_s * 1_000_000_000,
        },
    }
}

/// What a reactor works on besides the log's arena, with all its pages.
struct Memory {
    receive: ReceiveMemory,
    send: Arena,
}

impl Memory {
    /// Long work.
    fn new(settings: &synod_ring::Settings) -> anyhow::Result<Memory> {
        let send = Arena::new(OUTBOX_BYTES).context("cannot map the outbox")?;
        send.populate().context("cannot fill the outbox's memory")?;
        Ok(Memory { receive: ReceiveMemory::new(settings)?, send })
    }
}

/// How much a thread that reads the log gives way: a tenth of what others get, where they want the same CPU.
const RECOVERY_NICE: i32 = 10;
/// The same for snapshots: a third of what others get. Nobody waits for them, but they must keep up with the log, or its front stays on
/// disk and restarts take longer: at the lowest priority none was made beside two busy loops on two CPUs.
const SNAPSHOT_NICE: i32 = 5;

/// One group that ends, or panics, ends the node: its operator must look.
struct EndsNode {
    shared: Arc<Shared>,
    on_end: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for EndsNode {
    fn drop(&mut self) {
        self.shared.stop();
        (self.on_end)();
    }
}

/// What a pipeline's thread needs.
struct Pipeline {
    config: Config,
    node: NodeId,
    group: GroupId,
    order: Order,
    shared: Arc<Shared>,
    make: MakeMachine,
    board: Arc<Board>,
    live: Arc<Live>,
    on_news: Arc<dyn Fn(News) + Send + Sync>,
    /// How the node enters the kernel.
    io: Backend,
    /// Why not by io_uring, where it was to be had if it can be.
    refused: Option<Arc<str>>,
}

impl Pipeline {
    fn run(&self) -> anyhow::Result<()> {
        let unpinned = thread_affinity()?;
        loop {
            (self.on_news)(News::Reads(self.group));
            let (port, house) = synod_ring::port(jobs::MAX_JOBS)?;
            let house_stop = Arc::new(AtomicBool::new(false));
            let (doorbell, stop_bell) = (house.doorbell().clone(), Doorbell::new());
            // Started before this thread is pinned: housekeeping never runs on a pipeline's core by inheritance.
            rustix::thread::sched_setaffinity(None, &unpinned).context("sched_setaffinity failed")?;
            let maker = || self.maker(&house_stop, &stop_bell);
            let housekeeping =
                housekeeping(self.group, [maker()?, maker()?, maker()?, maker()?], house, house_stop.clone())?;
            let result = self.run_shard(port, unpinned);
            house_stop.store(true, Ordering::Release);
            doorbell.ring();
            stop_bell.ring();
            for thread in housekeeping {
                thread.join().map_err(|_| anyhow!("a housekeeping thread panicked"))?;
            }
            match result {
                Ok(Exit::Stopped) => return Ok(()),
                Ok(Exit::Recover) => {
                    tracing::info!(
                        group = self.group.0,
                        "the log is read again: what damage hid was repaired, or a snapshot came from a member"
                    );
                }
                Err(error) => {
                    tracing::error!(group = self.group.0, error = format!("{error:#}"), "the group cannot go on");
                    let group = self.group;
                    return Err(error.context(format!("node {}, group {group} cannot go on", self.node)));
                }
            }
        }
    }

    fn run_shard(&self, port: Port<Job, Done>, unpinned: CpuSet) -> anyhow::Result<Exit> {
        let core = self.config.groups[usize::from(self.group.0)].core;
        if let Some(core) = core {
            let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
            if !pinned {
                return Err(anyhow!(
                    "cannot pin to core {core}: it does not exist or may not be used. Change group.core"
                ));
            }
        }
        let settings = self.shard_settings(core)?;
        let maker = self.maker(&Arc::default(), &Doorbell::new())?;
        let wal = wal_settings(&self.config);
        let ring = self.ring_settings(self.log_writer(unpinned));
        let (found, memory) = self.aside(|| {
            let found = shard::recover(&settings.dir, &maker, &wal, monotonic_ns())?;
            found.log.arena().populate().context("cannot fill the log's memory")?;
            anyhow::Ok((found, Memory::new(&ring)?))
        })??;
        tracing::info!(
            group = self.group.0,
            dir = %settings.dir.path().display(),
            last_lsn = found.core.last_lsn().0,
            applied_slot = found.core.prefix().0,
            tail = found.machine.tail().0,
            unknown_slots = ?found.core.unknown_slots(),
            snapshot_slot = found.findings.snapshot.map_or(0, |slot| slot.0),
            records = found.findings.records,
            "the log is read"
        );
        match self.io {
            Backend::Uring => self.serve::<UringIo<Job, Done>>(settings, found, ring, memory, port),
            Backend::Syscall => self.serve::<SyscallIo<Job, Done>>(settings, found, ring, memory, port),
        }
    }

    /// Runs the shard on a reactor of this kind.
    fn serve<R: Reactor<Job = Job, Done = Done>>(
        &self,
        settings: shard::Settings,
        found: shard::Recovered,
        ring: synod_ring::Settings,
        memory: Memory,
        port: Port<Job, Done>,
    ) -> anyhow::Result<Exit> {
        let io = R::new(ring, memory.receive, found.log.arena(), &memory.send, port)?;
        if let Some(got) = io.log_thread() {
            self.tell_of_log_thread(got)?;
        }
        self.tell_of_lacks(&io, found.log.is_direct());
        self.shared.wakers.lock().map_err(|_| anyhow!("another pipeline panicked"))?.push(io.waker());
        let mut shard = Shard::new(settings, io, memory.send, found)?;
        (self.on_news)(News::Serves(self.group));
        let exit = shard.run(&self.shared.stop);
        shard.into_io().close().context("the reactor did not close cleanly")?;
        Ok(exit?)
    }

    /// Does what takes long before this node takes part, in a thread that gives way to whoever else wants the CPU: another
    /// group's pipeline may share it, and its commits must not wait for a start. The thread runs where this one is pinned, so
    /// the memory that it touches first is this one's.
    fn aside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
        let low = || {
            if let Err(error) = rustix::process::nice(RECOVERY_NICE) {
                tracing::warn!(group = self.group.0, %error, "the log is read at normal priority");
            }
            work()
        };
        thread::scope(|scope| {
            let name = format!("synod-read-{}", self.group);
            let thread = thread::Builder::new().name(name).spawn_scoped(scope, low).context("cannot start a thread")?;
            thread.join().map_err(|_| anyhow!("the thread that reads the log panicked"))
        })
    }

    fn shard_settings(&self, core: Option<usize>) -> anyhow::Result<shard::Settings> {
        let members = self.config.members();
        // What was handed over since the start, the shard takes over in its first turn.
        let LiveSettings { snapshots, retention, catch_up, fail_slow, clients, leader_priority } =
            live_settings(&self.config, self.group);
        Ok(shard::Settings {
            cluster: self.config.cluster_id(),
            group: self.group,
            me: self.node,
            board: self.board.clone(),
            fail_slow,
            members: members.iter().map(|node| (*node, self.config.client_address(*node, self.group))).collect(),
            dir: Dir::from(&self.log_dir()),
            max_batch_bytes: self.config.net.max_batch_bytes,
            core,
            durability: self.config.wal.durability.into(),
            max_clock_drift_ppm: self.config.reads.max_clock_drift_ppm,
            secret: random_u64()?,
            order: self.order,
            snapshots,
            leader_priority,
            catch_up,
            clients,
            retention,
            live: self.live.clone(),
        })
    }

    /// What recovery, and the maker of snapshots, make of the group's log. A pause of that one ends when `stop` is set and the bell rung.
    fn maker(&self, stop: &Arc<AtomicBool>, stop_bell: &Doorbell) -> anyhow::Result<Maker> {
        let expect = Expect { cluster: self.config.cluster_id(), group: self.group, node: self.node };
        let (make, group) = (self.make.clone(), self.group);
        let (stop, stop_bell) = (stop.clone(), stop_bell.clone());
        let pause = move |pause_ns| {
            if !stop.load(Ordering::Acquire) {
                stop_bell.wait(Duration::from_nanos(pause_ns));
            }
        };
        Ok(Maker { expect, paxos: self.paxos_settings()?, make: Box::new(move || make(group)), pause: Box::new(pause) })
    }

    fn log_dir(&self) -> PathBuf {
        self.config.log_dir(self.node, self.group)
    }

    fn paxos_settings(&self) -> anyhow::Result<synod_paxos::Settings> {
        let consensus = &self.config.consensus;
        Ok(synod_paxos::Settings {
            me: self.node,
            members: self.config.founders(),
            joins: false,
            quorums: self.config.quorums(),
            incarnation: 0,
            window_slots: consensus.window_slots,
            heartbeat_ns: consensus.heartbeat_us * 1_000,
            election_min_ns: consensus.election_timeout_min_us * 1_000,
            election_max_ns: consensus.election_timeout_max_us * 1_000,
            retransmit_ns: consensus.retransmit_us * 1_000,
            commit_linger_ns: consensus.commit_linger_us * 1_000,
            fetch_slots: u64::from(self.config.catchup.max_datagrams_in_flight),
            seed: random_u64()?,
            lease: self.config.lease(),
        })
    }

    /// How log writes go to the disk, and on which CPUs the thread for it may run: never on the pipeline's by inheritance.
    fn log_writer(&self, unpinned: CpuSet) -> LogWriter {
        let thread = |core: Option<usize>| core.map_or(LogThread { cpus: Some(unpinned) }, LogThread::on);
        match self.config.wal.writer {
            // A configuration that insists on both is refused; one that leaves the ring to the host gets what there is.
            Writer::Ring if self.io == Backend::Syscall => LogWriter::Thread(thread(self.writer_core())),
            Writer::Ring => LogWriter::Ring,
            Writer::Thread => LogWriter::Thread(thread(self.writer_core())),
            Writer::Auto => LogWriter::Auto(thread(self.writer_core())),
        }
    }

    fn writer_core(&self) -> Option<usize> {
        let group = self.group.0;
        match self.config.wal.writer_core {
            WriterCore::None => None,
            WriterCore::Cpu(cpu) => Some(cpu),
            WriterCore::Auto => match interrupt::cpu_of_disk(&self.log_dir()) {
                Ok(cpu) => Some(cpu),
                Err(reason) => {
                    tracing::info!(
                        group,
                        reason,
                        "the log-writer thread is not pinned: no CPU takes the disk's interrupt"
                    );
                    None
                }
            },
        }
    }

    /// A CPU that was named and is refused is an error; one that was found by itself is told.
    fn tell_of_log_thread(&self, got: LogThreadGot) -> anyhow::Result<()> {
        let group = self.group.0;
        let refusal = |errno: i32| std::io::Error::from_raw_os_error(errno);
        match (got.cpus, self.config.wal.writer_core) {
            (Ok(()), _) => {}
            (Err(errno), WriterCore::Cpu(cpu)) => {
                return Err(refusal(errno))
                    .with_context(|| format!("cannot pin the log-writer thread to CPU {cpu}. Change wal.writer_core"));
            }
            (Err(errno), _) => {
                tracing::warn!(group, error = %refusal(errno), "the log-writer thread cannot be pinned");
            }
        }
        let class = if got.real_time.is_ok() { "SCHED_FIFO" } else { "normal" };
        tracing::info!(group, thread = got.thread_id, class, "the log-writer thread runs");
        Ok(())
    }

    /// Says what the host refused, and shows it from now on.
    fn tell_of_lacks(&self, io: &impl Reactor, log_is_direct: bool) {
        let (mut lacks, group) = (Lacks::default(), self.group.0);
        if let Some(refused) = &self.refused {
            lacks.note(group, Lack::Uring, refused);
        }
        lacks.note_reactor(group, io);
        if !log_is_direct {
            lacks.note(group, Lack::DirectIo, &"EINVAL, or no alignment that would do");
        }
        self.board.set(Gauge::Lacks, lacks.0);
    }

    fn ring_settings(&self, log_writer: LogWriter) -> synod_ring::Settings {
        let net = &self.config.net;
        let members = self.config.members();
        let mut settings = synod_ring::Settings {
            peers_listen: self.config.peer_address(self.node, self.group),
            clients_listen: self.config.client_address(self.node, self.group),
            peers: members.iter().map(|node| self.config.peer_address(*node, self.group)).collect(),
            rx_buffers_peers: net.rx_buffers_peers,
            rx_buffers_clients: net.rx_buffers_clients,
            rx_buffer_bytes: synod_wire::frame::HEADER_BYTES + net.max_batch_bytes,
            sq_entries: SQ_ENTRIES,
            cq_entries: 0,
            socket_buffer_bytes: net.socket_buffer_bytes,
            wait: self.config.wait_mode(),
            dont_fragment: net.dont_fragment,
            max_events: net.max_events,
            segmentation: net.segmentation,
            receive_offload: net.receive_offload,
            napi_busy_poll_us: net.napi_busy_poll_us,
            log_writer,
            log_threads: self.config.wal.max_in_flight.most(),
        };
        settings.cq_entries = settings.cq_entries_min();
        settings
    }
}

/// The threads that work for a pipeline.
///
/// | thread | priority | does |
/// |---|---|---|
/// | `synod-house` | normal | what the pipeline waits for, and reads what members lack that lag: at a low priority they might never catch up beside a full load |
/// | `synod-prep` | normal | prepares the log's next segment, which takes its time |
/// | `synod-snap` | a third of normal | reads the log for snapshots, writes them, and removes the log's front |
/// | `synod-move` | as a start's | what a member waits for that is sent a snapshot, while `synod-snap` waits: both change the same files |
///
/// They end when told to stop.
fn housekeeping(
    group: GroupId,
    [maker, segment_maker, snapshot_maker, move_maker]: [Maker; 4],
    house: HousePort<Job, Done>,
    stop: Arc<AtomicBool>,
) -> anyhow::Result<[thread::JoinHandle<()>; 4]> {
    let house = Arc::new(house);
    let (snapshots, asked) = std::sync::mpsc::sync_channel(4);
    let (moves, to_move) = std::sync::mpsc::sync_channel(1);
    let (moved, was_moved) = std::sync::mpsc::sync_channel(1);
    let (segments, to_prepare) = std::sync::mpsc::sync_channel(1);
    let done = house.clone();
    let segment_thread = spawn(group, "prep", 0, move || {
        let mut keeper = jobs::Housekeeper::new(segment_maker);
        for job in to_prepare {
            done.done(keeper.perform(job));
        }
    })?;
    let done = house.clone();
    let move_thread = spawn(group, "move", RECOVERY_NICE, move || {
        let mut keeper = jobs::Housekeeper::new(move_maker);
        for job in to_move {
            moved.send(keeper.perform(job)).expect("the thread for snapshots waits for it");
        }
    })?;
    let snapshot_thread = spawn(group, "snap", SNAPSHOT_NICE, move || {
        let mut keeper = jobs::Housekeeper::new(snapshot_maker);
        for job in asked {
            if let Job::Transfer(_) = job {
                keeper.make_way(&job);
                moves.send(job).expect("the thread that moves snapshots ends after this one");
                done.done(was_moved.recv().expect("the thread that moves snapshots ends after this one"));
            } else {
                done.done(keeper.perform(job));
            }
        }
    })?;
    let thread = spawn(group, "house", 0, move || {
        let mut keeper = jobs::Housekeeper::new(maker);
        while let Some(job) = house.next(&stop) {
            match job {
                // One of each is out at a time, of the last two one of both: this never waits.
                Job::PrepareSegment(_) => segments.send(job).expect("the thread for segments ends after this one"),
                Job::Checkpoint(_)
                | Job::RemoveFront(_)
                | Job::Transfer(TransferJob::Describe(_))
                | Job::Transfer(TransferJob::Open { .. } | TransferJob::Install(..)) => {
                    snapshots.send(job).expect("the thread for snapshots ends after this one")
                }
                job => house.done(keeper.perform(job)),
            }
        }
    })?;
    Ok([move_thread, snapshot_thread, segment_thread, thread])
}

/// Starts a thread that gives way to others by so much.
fn spawn(
    group: GroupId,
    what: &'static str,
    nice: i32,
    work: impl FnOnce() + Send + 'static,
) -> anyhow::Result<thread::JoinHandle<()>> {
    let begin = move || {
        if let Err(error) = rustix::process::nice(nice) {
            tracing::warn!(%group, %error, "synod-{what} runs at normal priority");
        }
        work();
    };
    let thread = thread::Builder::new().name(format!("synod-{what}-{group}")).spawn(begin);
    thread.with_context(|| format!("cannot start the thread synod-{what}-{group}"))
}

fn thread_affinity() -> anyhow::Result<CpuSet> {
    rustix::thread::sched_getaffinity(None).context("sched_getaffinity failed")
}

pub(crate) fn monotonic_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64
}
