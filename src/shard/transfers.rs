//! Requests that this leader hand over, and what those who asked are told: when a successor serves, or why there is none. The core
//! does the rest (`synod_paxos`, `transfer.rs`).

use super::clients::put;
use super::events::EventKind;
use super::jobs::{Done, Job};
use super::{Fatal, Shard};
use std::net::SocketAddrV4;
use synod_paxos::{Input, Role, Transferred};
use synod_ring::Io;
use synod_wire::frame::Kind;
use synod_wire::transfer::{NO_NODE, TransferBody, TransferOutcome, TransferReplyBody};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

/// Who is told of one hand-over at most: an operator, and a script or two beside. Others are told that it is busy.
const MAX_ASKERS: usize = 8;

/// Who waits for the hand-over under way.
#[derive(Debug, Default)]
pub(super) struct Transfers {
    asked: Vec<(SocketAddrV4, u64)>,
}

impl<I: Io<Job = Job, Done = Done>> Shard<I> {
    /// A request to hand over.
    pub(super) fn on_transfer(&mut self, from: SocketAddrV4, body: TransferBody) -> Result<(), Fatal> {
        let asker = (from, body.request_id.get());
        if self.transfers.asked.contains(&asker) {
            return Ok(());
        }
        if self.core.promised() != body.ballot() || self.core.role() != Role::Leader {
            self.tell_transfer(asker, TransferOutcome::NotThatLeader);
            return Ok(());
        }
        let other = self.core.hands_over_to().is_some_and(|to| body.target().is_some_and(|target| target != to));
        if other || self.transfers.asked.len() == MAX_ASKERS {
            self.tell_transfer(asker, TransferOutcome::Busy);
            return Ok(());
        }
        self.transfers.asked.push(asker);
        // What this turn took of clients is proposed before the leader takes no more.
        self.seal()?;
        self.step(Input::Transfer { to: body.target() }, None)
    }

    /// A hand-over has ended.
    pub(super) fn on_transferred(&mut self, outcome: Transferred) {
        let told = match outcome {
            Transferred::Done => TransferOutcome::Done,
            Transferred::Elsewhere => TransferOutcome::Elsewhere,
            Transferred::NotThatLeader => TransferOutcome::NotThatLeader,
            Transferred::NoTarget => TransferOutcome::NoTarget,
            Transferred::Silent => TransferOutcome::Silent,
            Transferred::Lags => TransferOutcome::Lags,
            Transferred::NotTaken => TransferOutcome::NotTaken,
            Transferred::NoLeader => TransferOutcome::NoLeader,
        };
        let leader = self.core.leader().map_or(0, |node| u64::from(node.0) + 1);
        self.note(EventKind::HandedOver, (0, 0, told as u8), [self.core.promised().pack(), leader, 0, 0]);
        self.yielded();
        while let Some(asker) = self.transfers.asked.pop() {
            self.tell_transfer(asker, told);
        }
    }

    fn tell_transfer(&mut self, (to, request_id): (SocketAddrV4, u64), outcome: TransferOutcome) {
        let body = TransferReplyBody {
            request_id: U64::new(request_id),
            ballot: U64::new(self.core.promised().pack()),
            outcome: outcome as u8,
            leader: self.core.leader().map_or(NO_NODE, |node| node.0),
            reserved: [0; 6],
        };
        self.reply(to, Kind::TransferReply, |out| put(body.as_bytes(), out));
    }
}
