//! Faults of many at once: sessions that open until others are evicted (39), members that come back together under full
//! load (49).

use crate::checks::Checked;
use crate::client::request_header;
use crate::fault::Fault;
use crate::load::Client;
use crate::node::Health;
use crate::sim::{Happening, Sim};
use crate::trace::{End, What};
use synod_paxos::Role;
use synod_wire::batch::{RUN_HEADER_BYTES, RunBuilder, RunKind, open};
use synod_wire::frame::{HEADER_BYTES, Kind, checksum, frame_bytes, write_header};

/// Sessions that open in one round of a crowd: what a window of the smallest size takes.
const ROUND: u64 = 40;
/// Rounds until the crowd gives up: no leader took it.
const ROUNDS: u64 = 150;
/// Between two rounds.
const ROUND_NS: u64 = 4_000_000;
/// The first id of a crowd's sessions, far from those of clients.
const FIRST_ID: u128 = 1 << 96;

/// Sessions that open one after the other, until one client's is evicted.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Crowd {
    client: usize,
    id: u128,
    session: u64,
    rounds: u64,
}

impl Sim {
    /// A crowd of sessions begins to open. One client is cut off meanwhile, with entries on their way, and comes back to a
    /// session that is gone.
    pub(crate) fn crowd(&mut self) -> Checked {
        let client = self.chaos.below(self.plan.clients as u64) as usize;
        let Client::Appender(appender) = &self.clients[client] else { return Ok(()) };
        let (id, session) = (appender.client_id, appender.session());
        // One crowd a run: the table stays full behind it, and each session that opens then costs a search for the oldest.
        let Some(session) = session.filter(|number| self.checks.sessions.has(id, *number)) else { return Ok(()) };
        if self.crowd_opened > 0 {
            return Ok(());
        }
        self.offer_now(client, 8)?;
        self.note(What::World(format!("{}: sessions open until c{client}'s is evicted", Fault::Eviction)));
        self.cut_client(client, self.now_ns + ROUNDS * ROUND_NS);
        self.crowd = Some(Crowd { client, id, session, rounds: ROUNDS });
        self.on_crowd()
    }

    fn cut_client(&mut self, client: usize, until_ns: u64) {
        for node in 0..self.plan.machines() {
            self.net.link(End::Client(client), End::Node(node)).cut_until_ns = until_ns;
            self.net.link(End::Node(node), End::Client(client)).cut_until_ns = until_ns;
        }
    }

    /// The next round of a crowd, or its end.
    pub(crate) fn on_crowd(&mut self) -> Checked {
        let Some(crowd) = self.crowd else { return Ok(()) };
        let evicted = !self.checks.sessions.has(crowd.id, crowd.session);
        if evicted || crowd.rounds == 0 || !self.chaos_on {
            if evicted {
                self.coverage.fault(Fault::Eviction);
                self.note(What::World(format!("c{}'s session is evicted", crowd.client)));
            }
            self.crowd = None;
            self.cut_client(crowd.client, 0);
            if let Some(leader) = self.serving().filter(|_| evicted && self.chaos.percent(50)) {
                self.open_late(crowd, leader);
            }
            return self.offer_now(crowd.client, 4);
        }
        if let Some(leader) = self.serving() {
            for _ in 0..ROUND {
                self.crowd_opened += 1;
                let bytes = open_session(FIRST_ID + u128::from(self.crowd_opened));
                self.frames_sent.message(&bytes);
                self.transmit(End::Stranger, End::Node(leader), false, 0, bytes);
            }
        }
        self.crowd = Some(Crowd { rounds: crowd.rounds - 1, ..crowd });
        self.after(ROUND_NS, Happening::Crowd);
        Ok(())
    }

    /// Who leads and is up.
    fn serving(&self) -> Option<usize> {
        self.nodes.iter().position(|node| node.role == Role::Leader && node.health == Health::Up)
    }

    /// A copy of the datagram that once opened the session that is gone arrives only now, ahead of what its client sends next: its
    /// id has a session again, with an empty past.
    fn open_late(&mut self, crowd: Crowd, leader: usize) {
        self.note(What::World(format!("the opening of c{}'s evicted session comes late", crowd.client)));
        self.coverage.mark("an evicted session's opening came late");
        let bytes = open_session(crowd.id);
        self.frames_sent.message(&bytes);
        self.transmit(End::Client(crowd.client), End::Node(leader), false, 0, bytes);
    }

    /// As many members as the group can spare go down at once, or are cut off, while the load is at its highest; all come back
    /// at the same moment and want what they missed.
    pub(crate) fn catch_up_storm(&mut self) -> Checked {
        let may = |node: &usize| self.nodes[*node].health == Health::Up && self.votes(*node);
        let up: Vec<usize> = (0..self.plan.machines()).filter(may).collect();
        let spare = up.len().saturating_sub(self.core_size());
        if spare == 0 {
            return Ok(());
        }
        let away_ns = 500_000_000 + self.chaos.exponential(1_500_000_000);
        let back_ns = self.now_ns + away_ns;
        self.overload_until_ns = self.overload_until_ns.max(back_ns + 500_000_000);
        let first = self.chaos.below(up.len() as u64) as usize;
        let away: Vec<usize> = (0..spare).map(|at| up[(first + at) % up.len()]).collect();
        let killed = self.chaos.percent(50);
        self.struck(Fault::CatchUpStorm, format!("{away:?} are away for {} ms", away_ns / 1_000_000));
        for node in away {
            if killed {
                self.stop(node, false)?;
                self.at(back_ns, Happening::Start { node });
                continue;
            }
            for other in (0..self.plan.machines()).filter(|other| *other != node) {
                self.net.cut(End::Node(node), End::Node(other), back_ns);
                self.net.cut(End::Node(other), End::Node(node), back_ns);
            }
        }
        Ok(())
    }
}

/// A datagram that opens a session.
fn open_session(id: u128) -> std::rc::Rc<[u8]> {
    let mut bytes = vec![0; frame_bytes(RUN_HEADER_BYTES)];
    let run = &mut bytes[HEADER_BYTES..HEADER_BYTES + RUN_HEADER_BYTES];
    RunBuilder::new(run, id, open::OR_CREATE, 0).finish(RunKind::OpenSession);
    let crc = checksum(run);
    write_header(&mut bytes, &request_header(Kind::OpenSession, 0), RUN_HEADER_BYTES, crc);
    bytes.truncate(HEADER_BYTES + RUN_HEADER_BYTES);
    bytes.into()
}
