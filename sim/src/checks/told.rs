//! What a reply asserts is on its sender's disk: the promise it gives, the ballot it votes in, the slots it names (S2, S3).
//!
//! Source: Lamport, "Paxos Made Simple" (2001), 2.5: an acceptor records its intended response in stable storage before
//! actually sending it; DESIGN, "Votes and ballots": every reply, a duplicate's too, waits for the highest Lsn that it asserts.

use super::one_value::OneValue;
use super::{Checked, violated};
use crate::disk::Logged;
use synod_wire::frame::{Header, Kind};
use synod_wire::peer::AcceptedBody;
use synod_wire::{Ballot, Epoch, NodeId, Slot};
use zerocopy::FromBytes;

const PROPERTY: &str = "what a reply asserts is on disk";

/// See the module.
pub(crate) struct Told {
    /// The highest promise on each node's disk.
    promised: Vec<Ballot>,
    /// Said in this turn; what the turn made durable is not yet known when it is said.
    ballots: Vec<(usize, Kind, Ballot)>,
    votes: Vec<(usize, (Ballot, Epoch), Slot)>,
}

impl Told {
    pub(crate) fn new(nodes: usize) -> Told {
        Told { promised: vec![Ballot::ZERO; nodes], ballots: Vec::new(), votes: Vec::new() }
    }

    /// Another life of a node's log begins.
    pub(crate) fn reborn(&mut self, node: usize) {
        self.promised[node] = Ballot::ZERO;
    }

    /// A record of `node` is durable.
    pub(crate) fn logged(&mut self, node: usize, record: &Logged) {
        self.promised[node] = self.promised[node].max(record.header.promised);
    }

    /// A node has read its log again, and synced what it read.
    pub(crate) fn restarted(&mut self, node: usize, promised: Ballot) {
        self.promised[node] = self.promised[node].max(promised);
    }

    /// A frame leaves a node.
    pub(crate) fn sent(&mut self, node: usize, header: &Header, payload: &[u8]) {
        let Header { kind, ballot, slot, epoch, .. } = *header;
        if !matches!(kind, Kind::Promise | Kind::Accepted | Kind::Prepare) {
            return;
        }
        // A frame goes to one peer after the other.
        if self.ballots.last() != Some(&(node, kind, ballot)) {
            self.ballots.push((node, kind, ballot));
        }
        if kind == Kind::Accepted
            && let Ok((body, _)) = AcceptedBody::read_from_prefix(payload)
        {
            let words = body.bits.map(|word| word.get());
            let bits = (0..256).filter(|bit| words[bit / 64] >> (bit % 64) & 1 == 1);
            let named = bits.map(|bit| Slot(slot.0 + 1 + bit as u64));
            self.votes.extend(std::iter::once(slot).chain(named).map(|slot| (node, (ballot, epoch), slot)));
        }
    }

    /// The turn is over, and what it made durable is counted.
    pub(crate) fn check(&mut self, one_value: &OneValue) -> Checked {
        for (node, kind, ballot) in self.ballots.drain(..) {
            let on_disk = self.promised[node];
            if ballot > on_disk {
                let detail = format!(
                    "n{node} sends a {kind:?} of ballot {ballot}; the highest promise on its disk is {on_disk}"
                );
                return violated(PROPERTY, detail);
            }
        }
        for (node, (ballot, epoch), slot) in self.votes.drain(..) {
            let voted = one_value.voted(slot, ballot).contains(NodeId(node as u8));
            if slot > Slot::ZERO && !voted && !one_value.was_chosen(slot, epoch) {
                let detail = format!("n{node} votes for slot {slot} in ballot {ballot}, which is not on its disk");
                return violated(PROPERTY, detail);
            }
        }
        Ok(())
    }
}
