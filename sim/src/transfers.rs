//! An operator who has leaders hand over: now and then, to a member by name or to whichever is furthest, whatever else goes on. From a
//! stream of chance of its own. Used by the engine.

use crate::checks::{Checked, violated};
use crate::fault::Fault;
use crate::history::Old;
use crate::node::{CLUSTER, GROUP, Health};
use crate::sim::{Happening, Sim};
use crate::trace::{End, What};
use std::rc::Rc;
use synod_paxos::Role;
use synod_wire::frame::{HEADER_BYTES, Header, Kind, frame_bytes, write_frame};
use synod_wire::transfer::{NO_NODE, TransferBody, TransferOutcome, TransferReplyBody};
use synod_wire::{Ballot, Epoch, Lsn, NodeId, Slot};
use zerocopy::little_endian::U64;
use zerocopy::{FromBytes, IntoBytes};

impl Sim {
    /// Asks whoever leads to hand over, and will again.
    pub(crate) fn on_transfer(&mut self) {
        if !self.chaos_on || self.plan.transfer_ns == 0 {
            return;
        }
        let next_ns = self.transfers.exponential(self.plan.transfer_ns);
        self.after(next_ns, Happening::Transfer);
        let Some(leader) = self.nodes.iter().position(|node| node.role == Role::Leader && node.health == Health::Up)
        else {
            return;
        };
        let target = self.transfers.below(self.plan.machines() as u64 + 1) as usize;
        let target = Some(target).filter(|target| *target < self.plan.machines());
        self.ask_to_hand_over(leader, target);
        if self.plan.rate(Fault::Replay) > 0 {
            self.repeat_releases();
        }
    }

    /// A request to hand over arrives at a node.
    pub(crate) fn ask_to_hand_over(&mut self, leader: usize, target: Option<usize>) {
        let Some(shard) = &self.nodes[leader].shard else { return };
        let ballot = shard.core().promised();
        self.transfer_id += 1;
        let body = TransferBody {
            request_id: U64::new(self.transfer_id),
            ballot: U64::new(ballot.pack()),
            target: target.map_or(NO_NODE, |node| node as u8),
            reserved: [0; 7],
        };
        let header = Header {
            kind: Kind::TransferLeader,
            flags: 0,
            from: NodeId(0),
            group: GROUP,
            cluster: CLUSTER,
            epoch: Epoch(0),
            slot: Slot(self.transfer_id),
            ballot: Ballot::ZERO,
            promised: Ballot::ZERO,
            lsn: Lsn::ZERO,
        };
        let mut bytes = vec![0; frame_bytes(size_of::<TransferBody>())];
        write_frame(&mut bytes, &header, body.as_bytes());
        self.frames_sent.message(&bytes);
        self.note(What::World(format!("n{leader} is asked to hand over to {target:?}")));
        let (from, to) = (End::Stranger, End::Node(leader));
        self.after(0, Happening::Datagram { from, to, peers: false, life: 0, bytes: bytes.into() });
    }

    /// Earlier releases come again while other leases run.
    fn repeat_releases(&mut self) {
        for node in 0..self.plan.machines() {
            let old = self.net.history.pick_answer(node, Kind::Release, &mut self.transfers).cloned();
            let Some(Old { from, to, peers, bytes }) = old else { continue };
            let delay_ns = self.transfers.below(4 * self.plan.timing.heartbeat_ns);
            self.after(delay_ns, Happening::Datagram { from, to, peers, life: 0, bytes });
        }
    }

    /// What an asker is told.
    pub(crate) fn transfer_told(&mut self, bytes: &Rc<[u8]>) {
        let payload = bytes.get(HEADER_BYTES..).unwrap_or(&[]);
        let outcome = TransferReplyBody::read_from_prefix(payload).ok().and_then(|(body, _)| body.outcome());
        match outcome {
            Some(TransferOutcome::Done) => self.coverage.mark("a leader handed over as it was asked"),
            Some(TransferOutcome::Lags) => self.coverage.mark("a leader went on, as its successor lagged"),
            Some(TransferOutcome::NotTaken) => {
                self.coverage.mark("a leader went on, as its successor did not take over")
            }
            _ => {}
        }
    }

    /// A node was elected: nobody else holds a lease at this moment, but for the leader of a higher ballot, of whom it has not heard
    /// yet: nothing that it proposes can be chosen.
    ///
    /// Source: Gray and Cheriton, "Leases" (1989); SEMANTICS, "Reads": who answers by a lease is the only one who can be the leader.
    pub(crate) fn nobody_else_holds_a_lease(&self, elected: usize) -> Checked {
        let ballot = self.nodes[elected].shard.as_ref().map(|shard| shard.core().promised());
        for (at, node) in self.nodes.iter().enumerate().filter(|(at, _)| *at != elected) {
            let Some(shard) = node.shard.as_ref().filter(|_| node.health == Health::Up) else { continue };
            let (local_ns, until_ns) = (node.clock.monotonic_ns(self.now_ns), shard.core().lease_until_ns());
            if local_ns < until_ns && ballot > Some(shard.core().promised()) {
                let left_ns = until_ns - local_ns;
                let detail = format!("n{elected} is elected while n{at} holds a lease for {left_ns} ns more");
                return violated("one lease at a time", detail);
            }
        }
        Ok(())
    }
}
