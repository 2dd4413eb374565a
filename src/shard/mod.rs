//! One group on one core: everything between completions and submissions.
//!
//! A turn (DESIGN, "One turn of a core"): reap a bounded batch of events, hand members' messages and log completions to
//! the core, carry out what it says, then take clients' entries into the open batch, seal it, answer, and write the log
//! once. The only wait is in [`Io::poll`]. Generic over [`Io`]: the simulator runs this same code.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod.rs` | the shard, its turn |
//! | `outputs.rs` | carrying out what the core says |
//! | `clients.rs` | appends: admission, the open batch, acknowledgements, refusals |
//! | `durability.rs` | what counts as persisted: what is synced, or what lies in memory |
//! | `drain.rs` | what BUSY tells a client to wait |
//! | `evidence.rs` | who chose a slot |
//! | `reads.rs` | reads: how recent, when; catch-up, housekeeping's answers |
//! | `streams.rs` | subscribers: credit, turns, why one is dropped |
//! | `live.rs` | settings that change while it runs |
//! | `queries.rs` | questions to the state machine |
//! | `membership.rs` | who the members are; changes |
//! | `transfers.rs` | who asked this leader to hand over, and what they are told |
//! | `preference.rs` | which member is to lead |
//! | `stages.rs`, `histogram.rs` | where the time of a commit goes |
//! | `mode.rs` | what the node does for clients: modes, their changes, what each allows |
//! | `failslow.rs` | a disk that is slow, or hangs |
//! | `board.rs`, `meters.rs` | counters, gauges and histograms, for the other threads |
//! | `events.rs` | what is worth a line in the log, for the thread that writes it |
//! | `status.rs` | counters and the status reply |
//! | `revisions.rs` | which revision of the format the members speak |
//! | `whereabouts.rs` | where members are reached that the file does not name |
//! | `codec.rs`, `reply.rs` | frames of members' messages; bodies of replies |
//! | `heard.rs` | members' frames that are none for the core |
//! | `lag.rs` | how a member that lags shares its core |
//! | `slots.rs`, `outbox.rs` | where recent values lie; what this turn sends |
//! | `jobs.rs` | what housekeeping does for a shard |
//! | `front.rs` | the log's front: when it is removed |
//! | `retention.rs` | trims: an operator's, and by bytes and age |
//! | `snapshots.rs`, `checkpoint.rs` | snapshots: when, and on the housekeeping thread how |
//! | `offers.rs`, `pull.rs`, `install.rs` | a snapshot for a member that lags: the sender, the receiver, their housekeeping |
//! | `recovery.rs`, `replay.rs` | from a directory to a shard; what a log's records say |

mod board;
pub mod checkpoint;
mod clients;
mod codec;
mod drain;
mod durability;
mod events;
mod evidence;
mod failslow;
pub mod front;
mod governed;
mod heard;
mod histogram;
pub mod install;
pub mod jobs;
mod lag;
mod live;
mod membership;
mod meters;
pub mod mode;
mod offers;
mod outbox;
mod outputs;
mod preference;
mod pull;
mod queries;
mod reads;
mod recovery;
mod replay;
mod reply;
mod retention;
mod revisions;
mod slots;
mod snapshots;
mod stages;
mod status;
mod streams;
mod transfers;
mod whereabouts;

pub use board::{Board, Gauge};
pub(crate) use events::WORDS as EVENT_WORDS;
pub use events::{EventKind, EventRing, FIGURES, RING_RECORDS, ROLE_REASONS, Record};
pub use evidence::{ChosenBy, EvidenceRequest, RECENT_CHOSEN_BYTES, SlotRecords, ValueRecord};
pub use failslow::FailSlowSettings;
pub use histogram::Histogram;
pub use jobs::FAILURES;
pub use live::{ClientSettings, Live, LiveSettings};
pub use meters::{Meter, Meters, SLOW_SYNC_NS, STALL_NS, Tally};
pub use offers::CatchUpSettings;
pub use outbox::OUTBOX_BYTES;
pub use pull::GROUP_BYTES as TRANSFER_GROUP_BYTES;
pub use reads::{FRESH_READ_BYTES, MAX_FRESH as FRESH_READS};
pub use recovery::{Findings, Recovered, recover};
pub use replay::MAX_KEPT_PAYLOADS;
pub use reply::ReadRequest;
pub use retention::{LIVE_NS, RetentionSettings};
pub use slots::RECENT_SLOTS;
pub use snapshots::SnapshotSettings;
pub use stages::{HISTOGRAM_BYTES, TIMELINE_BYTES};
pub use streams::{JOB_DATAGRAMS, MAX_SUBSCRIBERS, SILENCE_NS, SUBSCRIBER_BYTES, StreamRead, Ticket};

use crate::index::Index;
use crate::machine::StateMachine;
use crate::sequencer::Sequencer;
use crate::shard::clients::Admission;
use crate::shard::offers::Offers;
use crate::shard::outbox::Outbox;
use crate::shard::pull::Pulling;
use crate::shard::reads::{Fresh, Waiters};
use crate::shard::slots::Slots;
use crate::shard::snapshots::Snapshots;
use crate::shard::stages::Stages;
use crate::shard::status::{Bad, Counters};
use crate::shard::streams::Streams;
use durability::Word;
use events::Noted;
use evidence::RecentChosen;
use failslow::DiskWatch;
use front::Front;
use heard::Heard;
use jobs::{Done, Job};
use membership::Membership;
use meters::{Beats, Known};
use mode::{Facts, Modes};
use preference::Preference;
use retention::Retention;
use std::collections::VecDeque;
use std::net::SocketAddrV4;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use synod_paxos::{BURST_SLOTS, Input, Message, Replica, Role};
use synod_ring::{Event, Io, IoError, RxBuf};
use synod_wal::{Dir, Log, LogError};
use synod_wire::client::{Counter, Durability};
use synod_wire::frame::{Frame, Frames, HEADER_BYTES, Header, Kind, frame_bytes, revision_of, unknown_frame_bytes};
use synod_wire::mode::Mode;
use synod_wire::mutant::mutant;
use synod_wire::{ClusterId, Epoch, GroupId, Lsn, NodeId, NodeSet};
use transfers::Transfers;
use whereabouts::Whereabouts;

/// What a shard is told at its start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The cluster.
    pub cluster: ClusterId,
    /// The group.
    pub group: GroupId,
    /// This node.
    pub me: NodeId,
    /// All members with their clients' addresses for this group, in the order of the reactor's peers' table.
    pub members: Vec<(NodeId, SocketAddrV4)>,
    /// The group's directory.
    pub dir: Dir,
    /// The largest batch; a datagram is one header larger.
    pub max_batch_bytes: usize,
    /// The core that the shard is pinned to, for the status.
    pub core: Option<usize>,
    /// When a record counts as persisted.
    pub durability: Durability,
    /// How far a clock may run from true time, parts per million: what a bounded read allows for.
    pub max_clock_drift_ppm: u32,
    /// What the cookies of subscribers are made with: nobody else is to know it.
    pub secret: u64,
    /// Whether it may vote at all.
    pub order: Order,
    /// When snapshots are made.
    pub snapshots: SnapshotSettings,
    /// The members that are to lead, the first of them that is there.
    pub leader_priority: Vec<NodeId>,
    /// How lagging members catch up.
    pub catch_up: CatchUpSettings,
    /// How much of it its clients may take.
    pub clients: ClientSettings,
    /// What is kept of the log.
    pub retention: RetentionSettings,
    /// When a disk is too slow.
    pub fail_slow: FailSlowSettings,
    /// What it shows to the other threads.
    pub board: Arc<Board>,
    /// What another thread changes of these while it runs.
    pub live: Arc<Live>,
}

/// What an operator wants of a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// To take part.
    #[default]
    Serve,
    /// To vote no more, and to serve stale reads: mode FLOOR.
    Floor,
}

impl Settings {
    /// The largest datagram.
    pub fn max_datagram_bytes(&self) -> usize {
        HEADER_BYTES + self.max_batch_bytes
    }
}

/// Why a shard ended.
#[derive(Debug, thiserror::Error)]
pub enum Fatal {
    /// The log cannot be trusted any more.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The reactor cannot go on.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The log's node vouched for records that its disk may not hold.
    #[error(
        "{}: this node ran under memory durability (since Lsn {since}) and did not come to an orderly end, so votes that it \
         gave may be lost with its memory. It must not vote again, whatever wal.durability says now: format a new directory \
         for a new cluster, or take the log's entries over with `synod verify` and `synod inspect`, which go on to read it",
        dir.display()
    )]
    Unsynced {
        /// The directory.
        dir: PathBuf,
        /// The record that says so.
        since: Lsn,
    },
    /// An orderly end under memory durability, but the disk did not take the rest of the log in time.
    #[error(
        "the disk did not take the rest of the log in time: this node ran under memory durability, and must not be started again \
         from this directory"
    )]
    NotSettled,
}

/// How a shard's run ended without a fault.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It was told to stop.
    Stopped,
    /// Values that only the disk holds became deliverable: recover again, in this process.
    Recover,
}

/// A datagram parked until the log has reached its Lsn.
#[derive(Debug)]
struct Parked {
    after: Lsn,
    to: NodeSet,
    message: Message,
    epoch: Epoch,
}

/// Parked messages: room for a promise of two of the largest windows, 6,554 parts.
const MAX_PARKED: usize = 8_192;

/// A log that stays idle for this long notes its durable Lsn on disk, so that damage of its last flush can be told from
/// a torn tail.
const IDLE_MARK_NS: u64 = 50_000_000;

/// How long after a failure the next segment is tried again: a full disk is not mended faster, and each try is logged.
const SEGMENT_RETRY_NS: u64 = 1_000_000_000;

/// See the module's documentation.
pub struct Shard<I: Io<Job = Job, Done = Done>> {
    settings: Settings,
    io: I,
    log: Log,
    core: Replica,
    machine: Sequencer,
    embedded: Option<Box<dyn StateMachine>>,
    index: Index,
    front: Front,
    slots: Slots,
    outbox: Outbox,
    parked: VecDeque<Parked>,
    admission: Admission,
    waiters: Waiters,
    fresh: Fresh,
    streams: Streams,
    transfers: Transfers,
    word: Word,
    revisions: revisions::Revisions,
    stages: Stages,
    modes: Modes,
    counters: Counters,
    refresh_board_at_ns: u64,
    /// What it has taken over of [`Settings::live`].
    live_generation: u64,
    jobs_out: usize,
    /// After a segment could not be prepared, the next attempt is not made before this; 0 while segments can be.
    segment_retry_ns: u64,
    membership: Membership,
    whereabouts: Whereabouts,
    started_ns: u64,
    started_wall_ns: u64,
    /// The clock of the turn before.
    turn_before_ns: u64,
    last_commit_record: Option<synod_wal::Place>,
    recent_chosen: RecentChosen,
    preference: Preference,
    disk: DiskWatch,
    beats: Beats,
    noted: Noted,
    known: Known,
    offers: Offers,
    pulling: Pulling,
    snapshots: Snapshots,
    retention: Retention,
    recover_again: bool,
    /// Something waits for a record that no flush covers yet. Evidence of what is chosen is awaited by no one: it rides
    /// with the next record that is, or goes to disk when the log has been idle for a while.
    log_awaited: bool,
    lag: lag::Lag,
    /// When the durable Lsn, and what gathered, go to disk by themselves if no flush carries them before.
    idle_mark_at_ns: u64,
    events: Vec<Event<Done>>,
    client_queue: Vec<(RxBuf, SocketAddrV4)>,
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// A shard over what [`recover`] found.
    pub fn new(settings: Settings, mut io: I, send_arena: synod_ring::Arena, found: Recovered) -> Result<Self, Fatal> {
        let Recovered {
            mut log,
            core,
            machine,
            embedded,
            index,
            slots,
            governed,
            first_segment,
            segment_bytes,
            findings,
        } = found;
        log.attach_segments(&mut io)?;
        let peers: Vec<NodeId> = settings.members.iter().map(|(node, _)| *node).collect();
        let now_ns = io.now_ns();
        settings.board.set(Gauge::SnapshotSlot, findings.snapshot.map_or(0, |slot| slot.0));
        let mut shard = Shard {
            outbox: Outbox::new(send_arena, settings.max_datagram_bytes(), &peers),
            parked: VecDeque::with_capacity(64),
            admission: Admission::new(),
            waiters: Waiters::new(settings.max_datagram_bytes(), settings.clients.max_waiting_reads),
            fresh: Fresh::new(),
            streams: Streams::new(settings.secret, settings.clients.max_subscribers),
            transfers: Transfers::default(),
            word: Word::new(settings.durability, log.durable_lsn()),
            revisions: revisions::Revisions::new(),
            stages: Stages::new(2 * core.window_slots() as usize, settings.board.clone()),
            modes: Modes::new(now_ns, core.election_max_ns(), core.window_slots()),
            disk: DiskWatch::new(settings.fail_slow, settings.durability),
            counters: Counters::new(settings.board.clone()),
            beats: Beats::new(),
            noted: Noted::default(),
            known: Known::default(),
            refresh_board_at_ns: 0,
            live_generation: 0,
            jobs_out: 0,
            segment_retry_ns: 0,
            membership: Membership::new(governed),
            whereabouts: Whereabouts::new(peers.len()),
            started_ns: now_ns,
            started_wall_ns: io.wall_ns(),
            turn_before_ns: now_ns,
            last_commit_record: None,
            recent_chosen: RecentChosen::new(),
            retention: Retention::new(settings.retention),
            snapshots: Snapshots::new(settings.snapshots, machine.tail()),
            preference: Preference::new(settings.leader_priority.clone()),
            offers: Offers::new(settings.catch_up),
            pulling: Pulling::new(settings.catch_up.max_bytes_per_s),
            recover_again: false,
            log_awaited: false,
            lag: lag::Lag::default(),
            idle_mark_at_ns: u64::MAX,
            events: Vec::with_capacity(1024),
            client_queue: Vec::with_capacity(1024),
            settings,
            io,
            log,
            core,
            machine,
            embedded,
            index,
            front: Front::new(first_segment, segment_bytes),
            slots,
        };
        let configuration = *shard.core.configuration();
        shard.learn_addresses(&configuration)?;
        shard.note_life(EventKind::Started);
        if shard.settings.order == Order::Floor {
            shard.core.halt_by_order();
            shard.carry_out_all(None)?;
        }
        Ok(shard)
    }

    /// Turns until told to stop, or something ends the shard.
    pub fn run(&mut self, stop: &AtomicBool) -> Result<Exit, Fatal> {
        while !stop.load(Ordering::Relaxed) {
            if let Some(exit) = self.turn()? {
                return Ok(exit);
            }
        }
        let exit = self.close();
        self.note_life(EventKind::Stopped);
        exit
    }

    /// One turn of the core.
    pub fn turn(&mut self) -> Result<Option<Exit>, Fatal> {
        let deadline_ns = self.deadline_ns();
        let mut events = std::mem::take(&mut self.events);
        self.turn_before_ns = self.io.now_ns();
        self.io.poll(deadline_ns, self.waits_for_disk(), &mut events)?;
        self.outbox.reset();
        self.counters.add(Counter::Turns, 1);
        let happened = !events.is_empty();
        let moves = events.iter().any(|event| matches!(event, Event::Written { .. }));
        if !moves {
            self.watch_disk();
        }
        let parts = self.lag.look(self.io.now_ns(), self.lags());
        for event in events.drain(..) {
            self.on_event(event)?;
            if let Some(parts) = parts {
                self.io.give_way(parts);
            }
        }
        self.events = events;
        if moves {
            self.watch_disk();
        }
        // Without room a time-out waits for the log, which the turn after its completion has.
        let due = self.io.now_ns() >= self.core.poll_timeout() && !self.recover_again;
        if due && self.log.room() >= self.step_bytes() && !self.is_full() {
            self.step(Input::Timeout, None)?;
        }
        self.update_mode();
        self.prefer()?;
        self.yield_if_slow()?;
        self.propose_change()?;
        self.take_clients()?;
        self.vouch()?;
        self.answer_clients();
        self.answer_trims();
        self.answer_fresh();
        self.wake_waiters();
        self.serve_streams();
        self.serve_waiting();
        self.make_snapshots();
        self.pull_snapshot();
        self.remove_front();
        self.hand_on();
        // Asked first: it may log a last record, whose write is the event that the next turn waits for.
        let settled = self.recover_again && self.is_settled()?;
        self.write_log()?;
        if self.io.now_ns() >= self.refresh_board_at_ns {
            self.take_live();
        }
        self.refresh_board();
        if happened || due {
            self.measure_turn();
        }
        Ok(settled.then_some(Exit::Recover))
    }

    /// Whether it has much to learn, for which no commit waits. It goes on voting, as far as its window reaches.
    fn lags(&self) -> bool {
        let told = self.core.leader_watermark().map_or(0, |slot| slot.0);
        self.modes.mode() == Mode::Recovery || told > self.slots.applied().0 + self.core.window_slots()
    }

    /// Before clients are answered: what the node does for them follows what it knows now.
    fn update_mode(&mut self) {
        let (core, now_ns) = (&self.core, self.io.now_ns());
        if self.modes.stays_in_target(now_ns, core.role(), core.promised(), || core.leader_heard_ns()) {
            return;
        }
        let facts = Facts {
            now_ns,
            role: core.role(),
            halted: core.halted().map(mode::cause),
            ballot: core.promised(),
            leader_heard_ns: core.leader_heard_ns(),
            watermark: core.leader_watermark(),
            applied: self.slots.applied(),
            quorum_heard_ns: core.quorum_heard_ns(),
        };
        let before = self.modes.changes();
        self.modes.update(&facts, &mut |_| {});
        if self.modes.changes() != before {
            // Shown at this turn's end: who has halted may take no other.
            self.refresh_board_at_ns = 0;
        }
        for change in self.modes.changes_after(before) {
            let (from, to, reason) = (change.from as u8, change.to as u8, change.reason as u8);
            self.note(EventKind::Mode, (from, to, reason), [facts.ballot.pack(), facts.applied.0, 0, 0]);
        }
    }

    fn on_event(&mut self, event: Event<Done>) -> Result<(), Fatal> {
        match event {
            // The state in memory has come to its end; only the log still has to.
            Event::Datagram { buf, .. } if self.recover_again => self.io.release(buf),
            Event::Datagram { buf, from: None } => {
                if mutant("rx_buffer_released_early") {
                    self.io.release(RxBuf { ..buf });
                }
                let result = self.on_peer_datagram(&buf);
                self.io.release(buf);
                result?;
            }
            Event::Datagram { buf, from: Some(from) } => self.client_queue.push((buf, from)),
            Event::Written { result: Err(_), .. } if mutant("failed_disk_goes_on") => {}
            Event::Written { token, result } => {
                let durable = self.log.written(&mut self.io, token, result)?;
                self.measure_write();
                if let Some(durable) = durable {
                    self.on_durable(durable)?;
                }
            }
            Event::Done(done) => self.on_done(done)?,
            Event::Overrun(_) => {
                self.counters.add(Counter::ReceiveOverruns, 1);
                self.noted.overruns.happens([0; 3]);
            }
            Event::SendFailed(_) => self.counters.add(Counter::SendErrors, 1),
            Event::Woken => {}
        }
        Ok(())
    }

    /// Every frame of a member's datagram goes to the core; the rest of a bad one is dropped and counted.
    fn on_peer_datagram(&mut self, buf: &RxBuf) -> Result<(), Fatal> {
        self.counters.add(Counter::PeerDatagrams, 1);
        if buf.cut || buf.len as usize > self.settings.max_datagram_bytes() {
            self.counters.add(Counter::DroppedOversize, 1);
            return Ok(());
        }
        let mut offset = 0;
        let revision = revision_of(self.io.datagram(buf));
        loop {
            // The frames are parsed one by one: the core's outputs copy a value out of the frame in between.
            let datagram = self.io.datagram(buf);
            let Some(frame) = datagram.get(offset..).and_then(|rest| Frames::new(rest).next()) else { return Ok(()) };
            let parsed = frame.map_err(Bad::from).and_then(|frame| {
                self.check_sender(&frame)?;
                let heard = Heard::parse(&frame).transpose()?;
                let message = if heard.is_none() { Some(codec::decode(&frame)?) } else { None };
                Ok((frame, message, heard))
            });
            let (header, payload_crc, payload_bytes, message) = match parsed {
                Ok((frame, Some(message), _)) => (frame.header, frame.payload_crc, frame.payload.len(), message),
                Ok((frame, None, heard)) => {
                    let (from, start, bytes) = (frame.header.from, offset + HEADER_BYTES, frame.payload.len());
                    offset += frame_bytes(bytes);
                    if let Some(heard) = heard {
                        self.on_heard(from, heard, buf, (start, bytes))?;
                    }
                    continue;
                }
                Err(error) => {
                    // What a later release says beside what is known here.
                    let skipped = match error {
                        Bad::Frame(error) => unknown_frame_bytes(&datagram[offset..], error),
                        _ => None,
                    };
                    self.count_bad_frame(error);
                    let Some(bytes) = skipped else { return Ok(()) };
                    offset += bytes;
                    continue;
                }
            };
            self.revisions.heard(header.from, revision);
            let value = Attached { buf, start: offset + HEADER_BYTES, bytes: payload_bytes, payload_crc };
            offset += frame_bytes(payload_bytes);
            if matches!(message, Message::Accepted { .. }) {
                self.word.heard(header.from, header.flags);
            }
            if !self.has_room_for(&message) {
                self.counters.add(Counter::DroppedNoRoom, 1);
                continue;
            }
            if matches!(message, Message::Learn { .. }) {
                self.counters.add(Counter::CatchUpLearnt, 1);
            }
            let Header { from, epoch, lsn, .. } = header;
            self.measure_answer(from, &message);
            self.step(Input::Message { from, epoch, lsn, message }, Some(&value))?;
        }
    }

    /// Bytes of log that one step of the core may fill at most: a burst of values and some small records.
    fn step_bytes(&self) -> usize {
        (BURST_SLOTS + 1) * frame_bytes(self.settings.max_batch_bytes) + (64 << 10)
    }

    /// Whether the disk has no room for another segment, and the last one none for another value. Such a node goes on to
    /// promise and to answer, but shows no sign of life as a leader and does not stand for election: the group needs a
    /// leader that can log.
    fn is_full(&self) -> bool {
        self.segment_retry_ns > 0 && !self.has_room_for_value()
    }

    fn has_room_for_value(&self) -> bool {
        self.log.room() >= 2 * self.step_bytes() + frame_bytes(self.settings.max_batch_bytes)
    }

    /// New values need room for two steps, other messages for one and what they carry: catch-up, which frees room, is
    /// never locked out by new values.
    fn has_room_for(&self, message: &Message) -> bool {
        match message {
            Message::Accept { .. } => self.has_room_for_value(),
            // Its answer takes heartbeats, and a leader that cannot log shows no sign of life.
            Message::ReadIndex { .. } if self.is_full() => false,
            // It does not stand, either.
            Message::TakeOver { .. } if self.is_full() || self.is_hung() || self.rests() => false,
            _ => self.log.room() >= self.step_bytes() + frame_bytes(self.settings.max_batch_bytes),
        }
    }

    fn check_sender(&self, frame: &Frame<'_>) -> Result<(), Bad> {
        let header = &frame.header;
        // One that is not known here may be a member by a later configuration than the one that is, or have been one by an earlier.
        let known = self.settings.members.iter().any(|(node, _)| *node == header.from);
        let says_where = header.kind == Kind::Whereabouts;
        let member = known || says_where || header.epoch > self.core.configuration().epoch;
        if header.cluster != self.settings.cluster && !mutant("foreign_cluster_heard") {
            return Err(Bad::ForeignCluster);
        }
        if header.group != self.settings.group || !member || header.from == self.settings.me {
            return Err(Bad::ForeignSender);
        }
        Ok(())
    }

    fn count_bad_frame(&mut self, bad: Bad) {
        self.counters.add(status::dropped(bad), 1);
    }

    /// Feeds the core and carries out what it says. `value` is the payload that came with a message.
    fn step(&mut self, input: Input, value: Option<&Attached<'_>>) -> Result<(), Fatal> {
        let role = self.core.role();
        self.core.step(self.io.now_ns(), input);
        self.carry_out_all(value)?;
        if self.recover_again {
            // What is chosen is known to memory alone until then: the recovery would get no further.
            self.core.log_evidence();
            self.carry_out_all(value)?;
        }
        if role == Role::Leader && self.core.role() != Role::Leader {
            self.admission.clear();
            self.retention.clear();
            self.stages.clear();
        }
        Ok(())
    }

    fn carry_out_all(&mut self, value: Option<&Attached<'_>>) -> Result<(), Fatal> {
        while let Some(output) = self.core.poll_output() {
            self.carry_out(output, value)?;
        }
        Ok(())
    }

    /// The turn's one log write; and the next segment, ahead of need.
    fn write_log(&mut self) -> Result<(), Fatal> {
        let hold = self.slots.lowest_open().unwrap_or(self.log.head_pos());
        self.log.set_hold(hold);
        let idle = self.io.now_ns() >= self.idle_mark_at_ns;
        // If no write can start now, what gathered goes to disk as soon as one can: an idle mark's end sets no timer.
        self.log_awaited |= idle;
        if self.log_awaited || self.recover_again || !self.parked.is_empty() {
            self.log.flush(&mut self.io, self.core.promised());
            // With a write in flight they gather on, to be flushed when it ends.
            self.log_awaited &= self.log.gathers();
        } else {
            self.log.gather(&mut self.io, self.core.promised());
        }
        if idle {
            self.idle_mark_at_ns = u64::MAX;
            self.log.idle_mark(&mut self.io, self.core.promised());
        }
        let submitted = self.log.submitted_lsn();
        if self.stages.awaits_write(submitted) {
            self.stages.written(submitted, self.io.stage_ns());
        }
        if self.io.now_ns() >= self.segment_retry_ns
            && let Some(spec) = self.log.wants_segment()
            && self.io.request(Job::PrepareSegment(spec)).is_err()
        {
            self.log.segment_failed();
            self.counters.add(Counter::HousekeepingFull, 1);
        }
        Ok(())
    }

    fn header(&self, kind: Kind) -> Header {
        Header {
            kind,
            flags: 0,
            from: self.settings.me,
            group: self.settings.group,
            cluster: self.settings.cluster,
            epoch: self.core.configuration().epoch,
            slot: synod_wire::Slot::ZERO,
            ballot: synod_wire::Ballot::ZERO,
            promised: self.core.promised(),
            lsn: self.vouched(),
        }
    }

    /// The reactor, for its end.
    pub fn into_io(self) -> I {
        self.io
    }

    /// When the next turn is due if nothing happens before: what [`Shard::turn`] waits for.
    pub fn deadline_ns(&self) -> u64 {
        if self.recover_again {
            // The state in memory has come to its end; what is awaited is the log's write, an event.
            return u64::MAX;
        }
        let waits_for_log = self.log.in_flight() && self.log.room() < self.step_bytes();
        let core_ns = match self.is_full() {
            true => self.segment_retry_ns,
            false if waits_for_log => u64::MAX,
            false => self.core.poll_timeout(),
        };
        let mode_ns = self.modes.due_ns(self.core.role());
        let clients_ns = self.waiters.next_ns().min(self.fresh.next_ns()).min(self.streams.next_ns());
        let disk_ns = self
            .idle_mark_at_ns
            .min(self.snapshots.next_ns())
            .min(self.pulling.next_ns())
            .min(self.offers.next_ns())
            .min(self.retention.next_ns(self.core.leads()));
        core_ns.min(clients_ns).min(disk_ns).min(mode_ns).min(self.disk_watch_ns())
    }

    /// The core, for inspection.
    pub fn core(&self) -> &Replica {
        &self.core
    }

    /// What it shows, for inspection.
    pub fn board(&self) -> &Board {
        &self.settings.board
    }

    /// A counter, for inspection.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.settings.board.counter(counter)
    }

    /// The log, for inspection.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The mode, for inspection.
    pub fn modes(&self) -> &Modes {
        &self.modes
    }

    /// The state machine, for inspection.
    pub fn machine(&self) -> &Sequencer {
        &self.machine
    }

    /// The machine that was given to it, for inspection.
    pub fn embedded(&self) -> Option<&dyn StateMachine> {
        self.embedded.as_deref()
    }

    /// The last slot applied, for inspection.
    pub fn applied(&self) -> synod_wire::Slot {
        self.slots.applied()
    }

    /// The value held at a recent slot, while its bytes are in memory; for inspection.
    pub fn value(&self, slot: synod_wire::Slot) -> Option<&[u8]> {
        self.slots.place(slot).and_then(|place| self.log.payload(place))
    }
}

/// The payload of the message of this step, where it lies in a receive buffer.
struct Attached<'a> {
    buf: &'a RxBuf,
    start: usize,
    bytes: usize,
    payload_crc: u32,
}
