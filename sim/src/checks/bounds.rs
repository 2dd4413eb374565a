//! Queues and datagrams stay within their bounds, whatever the load (L2).
//!
//! Source: DESIGN, "every queue, window, pool and retry has a named bound".

use super::{Checked, violated};
use crate::plan::Plan;
use synod::sequencer::MAX_SESSIONS;
use synod::shard::jobs::MAX_JOBS;
use synod::shard::{OUTBOX_BYTES, RECENT_SLOTS};
use synod_wire::frame::HEADER_BYTES;

/// What one turn asked for, and what it left.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Turn {
    pub(crate) datagrams: usize,
    pub(crate) longest: usize,
    pub(crate) writes_in_flight: usize,
    pub(crate) jobs_out: usize,
    pub(crate) sessions: usize,
    pub(crate) open_slots: u64,
}

/// See the module.
pub(crate) struct Bounds {
    max_datagram_bytes: usize,
    max_in_flight: usize,
    window_slots: u64,
    nodes: usize,
}

impl Bounds {
    pub(crate) fn new(plan: &Plan) -> Bounds {
        Bounds {
            max_datagram_bytes: HEADER_BYTES + plan.max_batch_bytes,
            max_in_flight: plan.max_in_flight,
            window_slots: plan.window_slots,
            nodes: plan.machines(),
        }
    }

    pub(crate) fn turn(&self, node: usize, turn: &Turn) -> Checked {
        // The outbox holds that many of the smallest frames, each for every peer; log frames come on top.
        let datagrams = (OUTBOX_BYTES / synod_wire::frame::ALIGN + RECENT_SLOTS) * self.nodes;
        let rows = [
            ("datagrams of one turn", turn.datagrams, datagrams),
            ("bytes of a datagram", turn.longest, self.max_datagram_bytes),
            ("log writes in flight", turn.writes_in_flight, self.max_in_flight),
            ("housekeeping jobs", turn.jobs_out, MAX_JOBS),
            ("sessions", turn.sessions, MAX_SESSIONS),
            ("open slots", turn.open_slots as usize, 2 * self.window_slots as usize + 1),
        ];
        match rows.iter().find(|(_, is, most)| is > most) {
            None => Ok(()),
            Some((what, is, most)) => {
                violated("bounded queues", format!("n{node}: {what}: {is}, at most {most} allowed"))
            }
        }
    }
}
