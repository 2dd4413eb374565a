//! Trims in the simulator: an operator who gives up entries now and then, and what readers and subscribers do who find theirs gone.
//! Who is away for longer than trims wait for it comes back by a snapshot of another's.

use crate::checks::Checked;
use crate::client::request_header;
use crate::load::Client;
use crate::node::Health;
use crate::sim::{Happening, Sim};
use crate::trace::{End, What};
use synod::shard::LIVE_NS;
use synod_paxos::Role;
use synod_wire::NodeId;
use synod_wire::frame::{Kind, frame_bytes, write_frame};
use synod_wire::trim::TrimBody;
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

impl Sim {
    /// The operator looks, and perhaps trims.
    pub(crate) fn on_operators_trim(&mut self) -> Checked {
        if !self.chaos_on {
            return Ok(());
        }
        let next_ns = self.trims_rng.exponential(self.plan.trim_mean_ms * 1_000_000);
        self.after(next_ns, Happening::Trim);
        let leads = |node: &usize| self.nodes[*node].role == Role::Leader && self.nodes[*node].health == Health::Up;
        let Some(leader) = (0..self.plan.machines()).find(leads) else { return Ok(()) };
        let tail = self.checks.sessions.entries().len() as u64;
        let first = self.checks.sessions.first();
        // Mostly what a retention would give up; now and then all of it, and more.
        let most = if self.trims_rng.percent(30) { tail + 3 } else { tail.saturating_sub(100).max(first) };
        let before = self.trims_rng.between(first.min(most), most).max(1);
        self.note(What::World(format!("a trim before {before} is asked for")));
        let request_id = self.trims_rng.word();
        let body = TrimBody { request_id: U64::new(request_id), before: U64::new(before) };
        let mut bytes = vec![0; frame_bytes(size_of::<TrimBody>())];
        let length = write_frame(&mut bytes, &request_header(Kind::Trim, request_id), body.as_bytes());
        bytes.truncate(length);
        self.frames_sent.message(&bytes);
        // A follower says who leads.
        let to = if self.trims_rng.percent(90) {
            leader
        } else {
            self.trims_rng.below(self.plan.machines() as u64) as usize
        };
        self.transmit(End::Stranger, End::Node(to), false, 0, bytes.into());
        Ok(())
    }

    /// A node has taken a turn: how far it has got and trimmed, and whether everybody whom a leader hears has what it kept.
    pub(crate) fn observe_trims(&mut self, node: usize) -> Checked {
        let this = &self.nodes[node];
        let Some(shard) = &this.shard else { return Ok(()) };
        let (tail, first) = (shard.machine().tail().0, shard.machine().first().0);
        // What is delivered is in its log, and may be applied only by the recovery that is about to come.
        let delivered = self.checks.sessions.tail_after(shard.core().prefix()).unwrap_or(0);
        self.checks.trims.has(node, tail.max(delivered));
        if this.role != Role::Leader {
            self.checks.trims.follows(node);
        } else if self.plan.trim_mean_ms > 0 {
            let local_ns = this.clock.monotonic_ns(self.now_ns);
            for other in (0..self.plan.machines()).filter(|other| *other != node) {
                let heard = shard.core().prefix_of(NodeId(other as u8));
                let heard = heard.is_some_and(|(_, at_ns)| local_ns.saturating_sub(at_ns) < LIVE_NS);
                self.checks.trims.hears(node, other, heard, self.now_ns);
            }
        }
        if !self.checks.trims.trimmed(node, first) {
            return Ok(());
        }
        self.coverage.mark("entries were trimmed");
        if this.role != Role::Leader {
            return Ok(());
        }
        self.checks.trims.leaves_to_all(node, first, self.now_ns)
    }

    /// A reader or a subscriber whose next entry is gone: it begins anew, a reader when it wants to read next.
    pub(crate) fn go_on_behind_trim(&mut self, client: usize) -> Checked {
        let model = self.checks.sessions.first();
        match &mut self.clients[client] {
            Client::Reader(reader) => {
                let Some(first) = reader.trimmed() else { return Ok(()) };
                if self.checks.reads.trimmed(client, first, model)? {
                    self.coverage.mark("a reader was told that its entries were trimmed");
                }
            }
            Client::Subscriber(subscriber) => {
                let Some(first) = subscriber.trimmed() else { return Ok(()) };
                self.checks.streams.trimmed(client, first, model)?;
                self.coverage.mark("a subscriber was told that its entries were trimmed");
                let seed = self.plan.seed;
                subscriber.begin_at(first, self.plan.machines(), seed);
            }
            Client::Appender(_) => {}
        }
        Ok(())
    }
}
