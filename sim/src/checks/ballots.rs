//! What a node promised or accepted it never takes back, across restarts too (S3).
//!
//! Source: Lamport, "Paxos Made Simple" (2001), 2.2 and 2.5: an acceptor remembers its highest promise and its accepted
//! values even if it fails and restarts. Nodes whose disk was taken from them are excused from remembering, not from
//! silence: they must not send a vote below what they sent before.

use super::{Checked, violated};
use synod_paxos::Replica;
use synod_wire::frame::Header;
use synod_wire::frame::Kind;
use synod_wire::{Ballot, Lsn};

const PROPERTY: &str = "promises never regress";

#[derive(Clone, Copy, Debug, Default)]
struct Said {
    /// The highest ballot of a promise that was sent.
    promised: Ballot,
    /// The highest ballot that it stood for election in, in this life and in earlier ones.
    prepared: Ballot,
    prepared_before: Ballot,
    /// The highest Lsn that the node called durable.
    durable: Lsn,
}

/// See the module.
pub(crate) struct Ballots {
    said: Vec<Said>,
}

impl Ballots {
    pub(crate) fn new(nodes: usize) -> Ballots {
        Ballots { said: vec![Said::default(); nodes] }
    }

    /// A frame leaves a node.
    pub(crate) fn sent(&mut self, node: usize, header: &Header) -> Checked {
        let said = &mut self.said[node];
        let ballot = header.ballot;
        match header.kind {
            Kind::Promise if ballot < said.promised => {
                violated(PROPERTY, format!("n{node} promises ballot {ballot}, after it had promised {}", said.promised))
            }
            Kind::Promise => {
                said.promised = ballot;
                Ok(())
            }
            Kind::Accepted if ballot < said.promised => {
                violated(PROPERTY, format!("n{node} votes in ballot {ballot}, after it had promised {}", said.promised))
            }
            Kind::Prepare if ballot <= said.prepared_before => violated(
                "a ballot is never used again",
                format!("n{node} stands for election in {ballot}, as it did before its restart"),
            ),
            Kind::Prepare => {
                said.prepared = said.prepared.max(ballot);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Another life of a node's log begins.
    pub(crate) fn reborn(&mut self, node: usize) {
        self.said[node] = Said::default();
    }

    /// A node knows that its log is durable up to here.
    pub(crate) fn durable(&mut self, node: usize, lsn: Lsn) {
        let said = &mut self.said[node];
        said.durable = said.durable.max(lsn);
    }

    /// A node has read its log again. `excused`: its disk lost what it had called durable.
    pub(crate) fn restarted(&mut self, node: usize, core: &Replica, excused: bool) -> Checked {
        self.said[node].prepared_before = self.said[node].prepared;
        let said = self.said[node];
        if excused {
            self.said[node].durable = core.last_lsn();
            return Ok(());
        }
        if core.last_lsn() < said.durable {
            let detail =
                format!("n{node} lost records: its log ends at {}, {} was durable", core.last_lsn(), said.durable);
            return violated("what is durable survives", detail);
        }
        if core.promised() < said.promised {
            let detail =
                format!("n{node} restarts with the promise {}, it had promised {}", core.promised(), said.promised);
            return violated(PROPERTY, detail);
        }
        Ok(())
    }
}
