//! What the status page shows: this node's word from its boards, noted once a second, and the others' over the wire, asked only
//! when somebody looks, at most once a second, on a thread of its own and for a bounded time.

use super::{About, Answer, Health, page, report};
use crate::node::monotonic_ns;
use crate::shard::Gauge;
use crate::view::{Sample, View, ask, own};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::time::MissedTickBehavior;

/// How often this node's boards are noted for the time line.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// Answers of the others that are no older are good enough for the next who looks.
const FRESH_NS: u64 = 1_000_000_000;
/// How long the others have to answer.
const ASK_TIME: Duration = Duration::from_millis(300);

/// See the module.
#[derive(Debug)]
pub(super) struct Viewer {
    about: About,
    view: Mutex<View>,
    /// When the others were asked last. Held while they are: who looks meanwhile gets the same answers.
    asked_ns: tokio::sync::Mutex<Option<u64>>,
}

impl Viewer {
    pub(super) fn new(about: About) -> Viewer {
        let view = Mutex::new(View::new(&about.config, monotonic_ns()));
        Viewer { about, view, asked_ns: tokio::sync::Mutex::new(None) }
    }

    fn view(&self) -> MutexGuard<'_, View> {
        // Whoever panicked left figures, each of which is whole.
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes the boards for the time line, for ever.
    pub(super) async fn note_on(&self) {
        let stuck_ns = self.about.stuck_after().as_nanos() as u64;
        let mut ticks = tokio::time::interval(NOTE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let now_ns = monotonic_ns();
            let mut view = self.view();
            for (group, (_, board)) in view.groups.iter_mut().zip(&self.about.groups) {
                let is_stuck = now_ns.saturating_sub(board.gauge(Gauge::RefreshedNs)) > stuck_ns;
                group.history.push(match is_stuck {
                    true => Sample::none(now_ns),
                    false => Sample::of_board(self.about.node, board, now_ns),
                });
            }
        }
    }

    /// The page, for one group or for those that there is room for.
    pub(super) async fn page(&self, only: Option<u8>) -> Answer {
        self.ask_others().await;
        let now_ns = monotonic_ns();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let stuck_ns = self.about.stuck_after().as_nanos() as u64;
        let mut view = self.view();
        for (group, board) in &self.about.groups {
            let Some((status, written_ns)) = own::status(self.about.node, board, now_ns) else { continue };
            let is_stuck = now_ns.saturating_sub(written_ns) > stuck_ns;
            view.hear(self.about.node, *group, (!is_stuck).then_some(status), Some(written_ns));
        }
        let health = Health::of(&report(&self.about), self.about.stuck_after());
        let shown = page::Shown { about: &self.about, view: &view, health: &health, only, now_ns, wall };
        Answer { status: 200, content_type: page::CONTENT_TYPE, body: page::render(&shown) }
    }

    async fn ask_others(&self) {
        let mut asked_ns = self.asked_ns.lock().await;
        if asked_ns.is_some_and(|at_ns| monotonic_ns().saturating_sub(at_ns) < FRESH_NS) {
            return;
        }
        let (config, me) = (self.about.config.clone(), self.about.node);
        let asked = tokio::task::spawn_blocking(move || ask(&config, ASK_TIME, |node, _| node != me)).await;
        let now_ns = monotonic_ns();
        match asked {
            Ok(Ok(answers)) => self.view().hear_all(answers, now_ns),
            Ok(Err(error)) => tracing::warn!(%error, "the other nodes could not be asked for the status page"),
            Err(error) => tracing::error!(%error, "asking the other nodes for the status page panicked"),
        }
        *asked_ns = Some(now_ns);
    }
}
