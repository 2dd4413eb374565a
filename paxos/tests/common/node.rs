//! A replica with its log, its parked messages and its applied values: the part of the shard that the core relies on.

use super::checks::Checks;
use super::disk::{Copy, Disk, Logged};
use super::{NOOP, Value, configuration_of};
use std::collections::BTreeMap;
use synod_paxos::{
    Halt, Input, Mark, Message, Output, Reason, Record, Replica, Role, Settings, Source, Transferred, invariants,
};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, NodeSet, Slot};

/// Parts in a million.
const PPM: u128 = 1_000_000;

/// A datagram between two members.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    /// The sender's epoch when it left.
    pub(crate) epoch: Epoch,
    /// The sender's durable Lsn when it left.
    pub(crate) lsn: Lsn,
    pub(crate) message: Message,
    /// The bytes that travel with an accept request, a value or a learnt value.
    pub(crate) value: Option<Value>,
}

/// A send that waits for the log.
struct Parked {
    to: NodeSet,
    after: Lsn,
    message: Message,
    value: Option<Value>,
    epoch: Epoch,
}

/// One member.
pub(crate) struct Node {
    pub(crate) settings: Settings,
    /// `None` while it is down.
    pub(crate) replica: Option<Replica>,
    pub(crate) disk: Disk,
    /// How often it was started: a ballot belongs to one life.
    pub(crate) life: u32,
    /// Delivered values from slot 1.
    pub(crate) applied: Vec<Copy>,
    /// What it was, since it was started.
    pub(crate) roles: Vec<(Role, Reason)>,
    /// The last round of reads that it answered, since it was started.
    pub(crate) answered: Option<u64>,
    /// How its last hand-over ended, since its start.
    pub(crate) transferred: Option<Transferred>,
    /// By how much its clock is fast; below 0: slow. The same for the whole run, so that one moment has one reading.
    pub(crate) drift_ppm: i64,
    copies: BTreeMap<Slot, Copy>,
    parked: Vec<Parked>,
    last_ns: u64,
}

impl Node {
    /// A node with this log, which is down.
    pub(crate) fn new(settings: Settings, disk: Disk) -> Node {
        Node {
            settings,
            replica: None,
            disk,
            life: 0,
            applied: Vec::new(),
            roles: Vec::new(),
            answered: None,
            transferred: None,
            drift_ppm: 0,
            copies: BTreeMap::new(),
            parked: Vec::new(),
            last_ns: 0,
        }
    }

    /// A log that ends with the founding of the group by its members.
    pub(crate) fn founded_disk(settings: &Settings) -> Disk {
        let members = settings.members.iter().map(|node| (*node, super::founding_incarnation(node.0)));
        let record = Record::Founded(members.collect());
        let mut disk = Disk::default();
        let lsn = disk.last().next();
        disk.append(lsn, Logged { promised: Ballot::ZERO, record, value: None, marks: Vec::new(), damage: None });
        disk.sync(lsn);
        disk
    }

    /// What its clock shows.
    pub(crate) fn local_ns(&self, now_ns: u64) -> u64 {
        (u128::from(now_ns) * self.pace() / PPM) as u64
    }

    /// The first moment at which its clock shows this.
    pub(crate) fn moment_ns(&self, local_ns: u64) -> u64 {
        u64::try_from((u128::from(local_ns) * PPM).div_ceil(self.pace())).unwrap_or(u64::MAX)
    }

    /// What its clock counts in a million ticks of a true one.
    fn pace(&self) -> u128 {
        PPM.saturating_add_signed(self.drift_ppm.into())
    }

    /// When its next timer fires; `u64::MAX`: it has none, or is down.
    pub(crate) fn due_ns(&self) -> u64 {
        let local_ns = self.replica.as_ref().map_or(u64::MAX, Replica::poll_timeout);
        if local_ns == u64::MAX { u64::MAX } else { self.moment_ns(local_ns) }
    }

    /// Whether it could answer a read by its lease at this moment.
    pub(crate) fn holds_lease(&self, now_ns: u64) -> bool {
        self.local_ns(now_ns) < self.core().lease_until_ns()
    }

    /// The running replica.
    pub(crate) fn core(&self) -> &Replica {
        self.replica.as_ref().expect("the node is up")
    }

    /// Starts it from what its log holds.
    pub(crate) fn start(&mut self, now_ns: u64, checks: &mut Checks) {
        assert!(self.replica.is_none(), "started twice");
        checks.on_start(self.settings.me);
        let recovered = self.disk.recover();
        let applied = recovered.restart.applied;
        self.life += 1;
        // Each start has a seed of its own.
        self.settings.seed = self.settings.seed.wrapping_add(1 << 32);
        self.applied = (1..=applied.0).map(|slot| recovered.copies[&Slot(slot)].clone()).collect();
        self.copies = recovered.copies;
        self.roles.clear();
        self.answered = None;
        self.transferred = None;
        let replica = Replica::new(self.settings.clone(), recovered.restart, self.local_ns(now_ns));
        invariants::check_state(&replica);
        self.replica = Some(replica);
    }

    /// Stops it. Records up to `survive` reached the disk, whether or not it was told.
    pub(crate) fn crash(&mut self, survive: Lsn, checks: &mut Checks) {
        self.replica = None;
        self.parked.clear();
        for logged in self.disk.sync(survive) {
            checks.on_durable(self.settings.me, self.settings.incarnation, &logged);
        }
        self.disk.lose_unsynced();
    }

    /// Feeds one input and carries the outputs out. `value` is what came with it.
    pub(crate) fn step(&mut self, now_ns: u64, input: Input, value: Option<Value>, checks: &mut Checks) -> Vec<Packet> {
        let mut sent = Vec::new();
        let local_ns = self.local_ns(now_ns);
        self.last_ns = local_ns;
        let Some(replica) = &mut self.replica else { return sent };
        let before = replica.clone();
        checks.at(now_ns);
        if input == Input::Read {
            checks.on_read(self.settings.me, replica.read_round());
        }
        replica.step(local_ns, input);
        invariants::check_step(&before, replica);
        invariants::check_state(replica);
        while let Some(output) = self.replica.as_mut().and_then(Replica::poll_output) {
            self.carry_out(output, value.as_ref(), checks, &mut sent);
        }
        sent
    }

    /// The log is synced up to `upto`: the replica is told, and what waited goes out first.
    pub(crate) fn synced(&mut self, now_ns: u64, upto: Lsn, checks: &mut Checks) -> Vec<Packet> {
        for logged in self.disk.sync(upto) {
            checks.on_durable(self.settings.me, self.settings.incarnation, &logged);
        }
        let mut sent = Vec::new();
        let (ready, parked) = std::mem::take(&mut self.parked).into_iter().partition(|parked| parked.after <= upto);
        self.parked = parked;
        for parked in ready {
            self.release(parked, checks, &mut sent);
        }
        sent.extend(self.step(now_ns, Input::Persisted { upto }, None, checks));
        sent
    }

    fn carry_out(&mut self, output: Output, value: Option<&Value>, checks: &mut Checks, sent: &mut Vec<Packet>) {
        match output {
            Output::Persist { lsn, promised, record } => {
                let value = self.bytes_of(&record, value);
                let marks = match record {
                    Record::PeerMarks => self.core().peer_marks().collect(),
                    _ => Vec::new(),
                };
                let logged = Logged { promised, record, value, marks, damage: None };
                checks.on_logged(self.settings.me, &logged);
                self.disk.append(lsn, logged);
            }
            Output::Send { to, message, after, epoch } => {
                let value = match message {
                    Message::Accept { slot, .. } | Message::Value { slot, .. } => {
                        Some(self.copies[&slot].value.clone())
                    }
                    _ => None,
                };
                assert!(!to.contains(self.settings.me), "a message to itself");
                let send = Parked { to, after, message, value, epoch };
                if after <= self.disk.durable() {
                    self.release(send, checks, sent);
                } else {
                    assert!(after <= self.disk.last(), "a message waits for a record that was never logged");
                    self.parked.push(send);
                }
            }
            Output::Deliver { slot } => {
                assert_eq!(slot.0, self.applied.len() as u64 + 1, "delivered in order, without gaps");
                let copy = self.copies[&slot].clone();
                checks.on_deliver(self.settings.me, slot, &copy.value);
                let configuration = configuration_of(&copy.value);
                assert_eq!(configuration.is_some(), copy.mark == Mark::Configuration, "the mark says what it is");
                self.applied.push(copy);
                if let Some(configuration) = configuration {
                    let now_ns = self.last_ns;
                    let replica = self.replica.as_mut().expect("the node is up");
                    let before = replica.clone();
                    replica.step(now_ns, Input::Configured(configuration.into()));
                    invariants::check_step(&before, replica);
                    invariants::check_state(replica);
                }
            }
            Output::ServeCatchUp { to, first, last } => {
                for slot in (first.0..=last.0).map(Slot) {
                    let Copy { value, ballot, mark } = self.applied[slot.0 as usize - 1].clone();
                    let message = Message::Learn { slot, ballot, mark };
                    let to = [to].into_iter().collect();
                    let epoch = self.core().configuration().epoch;
                    self.release(Parked { to, after: Lsn::ZERO, message, value: Some(value), epoch }, checks, sent);
                }
            }
            Output::Became { role, reason } => self.roles.push((role, reason)),
            Output::ReadsReady { round } => {
                let (me, delivered) = (self.settings.me, Slot(self.applied.len() as u64));
                self.answered = Some(round);
                checks.on_reads_ready(me, round, delivered);
                let current_at_ns = self.core().current_at_ns();
                checks.on_current(me, self.moment_ns(current_at_ns.expect("a round was answered")), delivered);
            }
            Output::Repaired => {}
            Output::Configured(configuration) => assert_eq!(*configuration, *self.core().configuration()),
            Output::Transferred(outcome) => self.transferred = Some(outcome),
            Output::Halt(halt) => assert_eq!(self.core().halted(), Some(halt)),
        }
    }

    /// The bytes that a record holds, which are then what the node holds at the slot.
    fn bytes_of(&mut self, record: &Record, value: Option<&Value>) -> Option<Value> {
        let (slot, ballot, mark, bytes) = match *record {
            Record::Accepted { slot, ballot, mark, source } => {
                let bytes = match source {
                    Source::Message | Source::Proposal | Source::Configuration => {
                        value.expect("a value came with the input").clone()
                    }
                    Source::Held => self.copies[&slot].value.clone(),
                    Source::Noop => NOOP.into(),
                };
                (slot, ballot, mark, bytes)
            }
            Record::Learnt { slot, ballot, mark, .. } => (slot, ballot, mark, value.expect("a learnt value").clone()),
            _ => return None,
        };
        self.copies.insert(slot, Copy { value: bytes.clone(), ballot, mark });
        Some(bytes)
    }

    fn release(&mut self, send: Parked, checks: &mut Checks, sent: &mut Vec<Packet>) {
        checks.on_send(self.settings.me, self.life, &send.message, &mut self.disk);
        for to in send.to.iter() {
            sent.push(Packet {
                from: self.settings.me,
                to,
                epoch: send.epoch,
                lsn: self.disk.durable(),
                message: send.message.clone(),
                value: send.value.clone(),
            });
        }
    }

    /// Why it halted.
    pub(crate) fn halted(&self) -> Option<Halt> {
        self.replica.as_ref().and_then(Replica::halted)
    }
}
