//! What the service manager is told (`sd_notify(3)`, systemd's `Type=notify`): that the node serves, that all of its pipelines make
//! progress, that it stops. A thread of its own, only where somebody listens (`NOTIFY_SOCKET`). Called by `node::run`.
//!
//! `READY=1` is sent once every group has read its log, listens and takes turns: clients are answered from then on, be it that there is
//! no leader yet. It cannot wait for one, or nodes that are started one after the other would wait for each other.
//!
//! `WATCHDOG=1` is sent only if each pipeline has taken a turn since the last time. A pipeline with nothing to do may sleep for as long
//! as it likes, so it is woken after each look: one turn every few seconds. One that hangs, in a system call or in an endless loop, keeps
//! the node from being patted, and systemd kills it (`WatchdogSec=` in `scripts/systemd/synod@.service`). A disk that hangs is not
//! that: its pipeline goes on, in silence (`wal.hung_after_us`). A log that is being read counts as progress.

use crate::shard::Board;
use anyhow::Context;
use sd_notify::NotifyState;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use synod_wire::GroupId;
use synod_wire::client::Counter;

/// News of pipelines that wait for the thread: each says two things when it starts, and two when it reads its log again.
pub(crate) const NEWS_MAX: usize = 4 * crate::config::check::MAX_GROUPS;
/// Pats within the time that systemd waits for one.
const PATS: u32 = 3;

/// What the thread is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum News {
    /// A group reads its log.
    Reads(GroupId),
    /// A group listens, and takes turns from now on.
    Serves(GroupId),
    /// The node stops.
    Stops,
}

/// The thread that tells.
#[derive(Debug)]
pub(crate) struct Service {
    news: SyncSender<News>,
    thread: Option<JoinHandle<()>>,
}

impl Service {
    /// Starts it, if somebody listens. `news` is the other end of `told`; `wake` has every pipeline take a turn.
    pub(crate) fn start(
        news: SyncSender<News>,
        told: Receiver<News>,
        boards: Vec<Arc<Board>>,
        wake: impl Fn() + Send + 'static,
    ) -> anyhow::Result<Service> {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Ok(Service { news, thread: None });
        }
        let watchdog = sd_notify::watchdog_enabled();
        let mut watch = Watch { boards, progress: Progress::default(), serves: Vec::new(), ready: false };
        watch.serves.resize(watch.boards.len(), false);
        let run = move || watch.run(&told, watchdog, &wake);
        let thread = std::thread::Builder::new().name("synod-watch".into()).spawn(run);
        Ok(Service { news, thread: Some(thread.context("cannot start a thread")?) })
    }

    /// Tells that the node stops, and nothing from then on.
    pub(crate) fn stops(mut self) {
        // With nobody who listens there is nobody to tell.
        let _nobody = self.news.send(News::Stops);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that tells the service manager panicked");
        }
    }
}

struct Watch {
    boards: Vec<Arc<Board>>,
    progress: Progress,
    /// By group: whether it takes turns.
    serves: Vec<bool>,
    ready: bool,
}

impl Watch {
    fn run(&mut self, told: &Receiver<News>, watchdog: Option<Duration>, wake: &dyn Fn()) {
        let interval = watchdog.map(|time| time / PATS);
        let mut look_at = interval.map(|interval| Instant::now() + interval);
        loop {
            let news = match look_at {
                Some(at) => told.recv_timeout(at.saturating_duration_since(Instant::now())),
                None => told.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match news {
                Ok(News::Stops) | Err(RecvTimeoutError::Disconnected) => {
                    return tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
                }
                Ok(News::Reads(group)) => self.phase(group, false),
                Ok(News::Serves(group)) => self.phase(group, true),
                Err(RecvTimeoutError::Timeout) => {
                    self.look();
                    wake();
                    look_at = interval.map(|interval| Instant::now() + interval);
                }
            }
        }
    }

    fn phase(&mut self, group: GroupId, serves: bool) {
        self.serves[usize::from(group.0)] = serves;
        let count = self.serves.iter().filter(|serves| **serves).count();
        let status = match self.serves.len() - count {
            0 => format!("{count} group(s) serve"),
            reading => format!("{reading} group(s) read their log, {count} serve"),
        };
        let ready = !self.ready && count == self.serves.len();
        self.ready |= ready;
        let states = [NotifyState::Status(&status), NotifyState::Ready];
        tell(&states[..1 + usize::from(ready)]);
    }

    fn look(&mut self) {
        let turns = |(board, serves): (&Arc<Board>, &bool)| serves.then(|| board.counter(Counter::Turns));
        let turns: Vec<Option<u64>> = self.boards.iter().zip(&self.serves).map(turns).collect();
        match self.progress.look(&turns) {
            None => tell(&[NotifyState::Watchdog]),
            Some(group) => {
                tracing::error!(group, "the group takes no turns: the service manager's watchdog is not patted")
            }
        }
    }
}

/// Judges whether pipelines make progress. Pure.
#[derive(Debug, Default)]
struct Progress {
    before: Vec<Option<u64>>,
}

impl Progress {
    /// By group, the turns that it took so far; none while it reads its log. Gives the first group that took none since the last
    /// look.
    fn look(&mut self, turns: &[Option<u64>]) -> Option<usize> {
        let before = std::mem::replace(&mut self.before, turns.to_vec());
        before.iter().zip(turns).position(|(before, now)| now.is_some() && before == now)
    }
}

/// Tells the service manager. That it does not hear changes nothing for the groups.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager cannot be told");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pipeline_must_have_moved_since_the_last_look() {
        let mut progress = Progress::default();
        assert_eq!(progress.look(&[None, Some(5)]), None, "the first look has nothing to compare with");
        assert_eq!(progress.look(&[None, Some(6)]), None, "a log that is read counts as progress");
        assert_eq!(progress.look(&[Some(0), Some(7)]), None, "it serves now");
        assert_eq!(progress.look(&[Some(0), Some(8)]), Some(0), "and does not move");
        assert_eq!(progress.look(&[Some(0), Some(9)]), Some(0), "as long as it does not");
        assert_eq!(progress.look(&[Some(1), Some(9)]), Some(1), "another one");
        assert_eq!(progress.look(&[Some(2), None]), None, "which reads its log again");
        assert_eq!(progress.look(&[Some(3), Some(0)]), None, "in the process whose turns begin anew");
    }
}
