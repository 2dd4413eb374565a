//! Who the members are: questions of operators, changes that they ask a leader for, and what follows
//! from a configuration that governs. The rules are the core's ([`synod_paxos::Replica::plan_change`]).

use super::clients::put;
use super::events::EventKind;
use super::governed::Governed;
use super::jobs::{Done, Job};
use super::meters::Tally;
use super::{Fatal, Shard};
use std::net::SocketAddrV4;
use synod_paxos::{Change, ChangeError, Input, Role};
use synod_ring::Io;
use synod_wire::client::Counter;
use synod_wire::configuration::MAX_CONFIGURATION_BYTES;
use synod_wire::frame::{FrameError, Kind};
use synod_wire::members::{ChangeBody, MembersReplyBody, ProgressRow, change, outcome};
use synod_wire::{Configuration, Epoch, Member, NodeId, Slot};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// See the module.
#[derive(Debug)]
pub(super) struct Membership {
    /// What this leader was asked for and is to propose when the slots below are chosen.
    wanted: Option<Configuration>,
    /// Who the members were when.
    governed: Governed,
}

impl Membership {
    pub(super) fn new(governed: Governed) -> Membership {
        Membership { wanted: None, governed }
    }

    /// The configuration that governs a slot, if this node still knows it.
    pub(super) fn governing(&self, slot: Slot) -> Option<&Configuration> {
        self.governed.of(slot)
    }

    /// What is being proposed.
    pub(super) fn proposed(&self) -> Configuration {
        self.wanted.expect("a configuration is proposed that was asked for")
    }
}

/// A request for a change, checked.
pub(super) fn parse_change(payload: &[u8]) -> Result<(u64, Epoch, Change), FrameError> {
    let body = ChangeBody::read_from_bytes(payload).map_err(|_| FrameError::Truncated)?;
    let node = NodeId(body.node);
    let joins = Member {
        node,
        voter: false,
        incarnation: body.incarnation.get(),
        since: Epoch(0),
        peers_at: SocketAddrV4::new(body.peer_ip.into(), body.peer_port.get()),
        clients_at: SocketAddrV4::new(body.client_ip.into(), body.client_port.get()),
    };
    let reachable = joins.peers_at.port() != 0 && joins.clients_at.port() != 0;
    let change = match body.change {
        change::ADD if joins.incarnation != 0 && reachable => Change::Add(joins),
        change::PROMOTE => Change::Promote(node),
        change::REMOVE => Change::Remove(node),
        _ => return Err(FrameError::Body),
    };
    if body.node >= NodeId::LIMIT {
        return Err(FrameError::Body);
    }
    Ok((body.request_id.get(), Epoch(body.epoch.get()), change))
}

fn refusal(error: ChangeError) -> (u8, u64) {
    match error {
        ChangeError::NotLeader => (outcome::NOT_LEADER, 0),
        ChangeError::Pending => (outcome::PENDING, 0),
        ChangeError::Stale { .. } => (outcome::STALE, 0),
        ChangeError::AlreadyMember => (outcome::ALREADY, 0),
        ChangeError::NotMember => (outcome::NOT_A_MEMBER, 0),
        ChangeError::NotCaughtUp { behind } => (outcome::NOT_CAUGHT_UP, behind),
        ChangeError::TooMany => (outcome::TOO_MANY, 0),
        ChangeError::LastVoter => (outcome::LAST_VOTER, 0),
    }
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// Whether a change was asked for that governs not yet.
    pub fn changes_members(&self) -> bool {
        self.membership.wanted.is_some()
    }

    /// An operator asks for a change.
    pub(super) fn on_change(&mut self, to: SocketAddrV4, id: u64, of: Epoch, change: Change) {
        let planned = match self.membership.wanted {
            Some(_) => Err(ChangeError::Pending),
            None => self.core.plan_change(of, change),
        };
        self.count_change(planned.as_ref().err());
        let (outcome, behind) = match planned {
            Ok(configuration) => {
                self.membership.wanted = Some(configuration);
                (outcome::BEGUN, 0)
            }
            Err(error) => refusal(error),
        };
        let (node, what) = match change {
            Change::Add(member) => (member.node, change::ADD),
            Change::Promote(node) => (node, change::PROMOTE),
            Change::Remove(node) => (node, change::REMOVE),
        };
        self.note(EventKind::ChangeAsked, (node.0, what, outcome), [of.0.into(), 0, 0, 0]);
        self.send_members(to, id, outcome, behind);
    }

    /// Holds batches back, and proposes what was asked for when everything below it is chosen. Before batches are taken in: none is
    /// open.
    pub(super) fn propose_change(&mut self) -> Result<(), Fatal> {
        if self.membership.wanted.is_none() {
            return Ok(());
        }
        let begun = self.core.is_changing();
        if self.core.role() != Role::Leader || !begun && self.core.hands_over_to().is_some() {
            // Whoever leads next is asked again.
            self.meters().count(Tally::ChangesAbandoned);
            self.membership.wanted = None;
        } else if !begun {
            self.step(Input::BeginChange, None)?;
        }
        if self.membership.wanted.is_some() && self.core.can_propose_configuration() && self.has_room_for_value() {
            self.step(Input::ProposeConfiguration, None)?;
        }
        Ok(())
    }

    /// Tells who the members are.
    pub(super) fn send_members(&mut self, to: SocketAddrV4, id: u64, outcome: u8, behind: u64) {
        let (core, now_ns) = (&self.core, self.io.now_ns());
        let configuration = *core.configuration();
        let mut bytes = [0; MAX_CONFIGURATION_BYTES];
        let used = configuration.encode(&mut bytes);
        let leads = core.role() == Role::Leader;
        let body = MembersReplyBody {
            request_id: U64::new(id),
            behind: U64::new(behind),
            prefix: U64::new(core.prefix().0),
            configured_at: U64::new(core.configured_at().0),
            incarnation: U64::new(core.incarnation()),
            outcome,
            waits: core.waits_to_be_added().into(),
            reserved: 0,
            leads: leads.into(),
            settled: (leads && core.is_settled()).into(),
            changing: self.membership.wanted.is_some().into(),
            has_leader: core.leader().is_some().into(),
            leader: core.leader().map_or(0, |node| node.0),
            configuration_bytes: U16::new(used as u16),
        };
        let me = self.settings.me;
        let heard_ms_ago = |node: NodeId| match core.heard_ns(node) {
            _ if node == me => 0,
            Some(heard_ns) => ((now_ns.saturating_sub(heard_ns)) / 1_000_000).min(u64::from(u32::MAX - 1)) as u32,
            None => u32::MAX,
        };
        let row = |member: &Member| ProgressRow {
            prefix: U64::new(core.peer_prefix(member.node).0),
            heard_ms_ago: U32::new(heard_ms_ago(member.node)),
            reserved: [0; 4],
        };
        let rows: Vec<ProgressRow> = configuration.members().iter().map(row).collect();
        self.reply(to, Kind::MembersReply, |out| {
            let mut at = put(body.as_bytes(), out);
            at += put(&bytes[..used], &mut out[at..]);
            at + put(rows.as_bytes(), &mut out[at..])
        });
    }

    /// A configuration governs from here on.
    pub(super) fn configured(&mut self, configuration: &Configuration) -> Result<(), Fatal> {
        self.membership.wanted = None;
        self.membership.governed.push(self.core.configured_at(), *configuration);
        self.counters.add(Counter::Configurations, 1);
        self.learn_addresses(configuration)?;
        let (voters, nodes) = (configuration.voters(), configuration.nodes());
        self.note(EventKind::Configuration, (0, 0, 0), [configuration.epoch.0.into(), voters.0, nodes.0, 0]);
        Ok(())
    }
}
