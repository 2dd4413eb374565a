//! What happened at each core, for its operator: a thread of the node follows the rings that the cores write
//! ([`EventRing`](crate::shard::EventRing)), logs one structured line for each record, and keeps the records in a file in the group's
//! directory, which `synod inspect events` reads of a node that runs, and after a crash.
//!
//! The cores touch memory alone. The file is mapped by the thread, not by them: a store to a page of a file that the kernel writes back
//! at that moment waits for the disk, and what there is to note is, more often than not, that the disk hangs. A process that is
//! killed loses what happened in its last [`LOOK`].
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the thread |
//! | `file.rs` | the file |
//! | `text.rs` | a record in words |

mod file;
mod text;

pub use file::{EVENTS_FILE, EventsError, FILE_BYTES, Kept, Read, read};
pub use text::{Figures, Told, tell};

use crate::shard::{Board, EventKind, Record};
use file::EventFile;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::Duration;
use synod_wire::{GroupId, NodeId};

/// How often the rings are looked at.
pub const LOOK: Duration = Duration::from_millis(10);
/// The thread gives way to the pipelines where they share a CPU.
const EVENTS_NICE: i32 = 10;

/// The thread that follows a node's rings. When it is dropped, it looks once more and ends.
#[derive(Debug)]
pub struct Events {
    stop: Option<Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

/// One group's ring.
struct Followed {
    node: NodeId,
    group: GroupId,
    board: Arc<Board>,
    dir: PathBuf,
    /// Records seen.
    seen: u64,
    file: Option<EventFile>,
    /// The file cannot be kept, which was said.
    without: bool,
}

impl Events {
    /// Follows these groups' boards; each has its directory, which exists when its first record is there.
    pub fn start(node: NodeId, groups: Vec<(GroupId, Arc<Board>, PathBuf)>) -> std::io::Result<Events> {
        let (stop, stopped) = channel();
        let followed = groups
            .into_iter()
            .map(|(group, board, dir)| Followed { node, group, board, dir, seen: 0, file: None, without: false })
            .collect();
        let thread = thread::Builder::new().name("synod-events".into()).spawn(move || follow(followed, &stopped))?;
        Ok(Events { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        drop(self.stop.take());
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that follows the events panicked");
        }
    }
}

fn follow(mut groups: Vec<Followed>, stopped: &Receiver<()>) {
    if let Err(error) = rustix::process::nice(EVENTS_NICE) {
        tracing::warn!(%error, "events are followed at normal priority");
    }
    loop {
        let ends = !matches!(stopped.recv_timeout(LOOK), Err(RecvTimeoutError::Timeout));
        groups.iter_mut().for_each(Followed::look);
        if ends {
            return;
        }
    }
}

impl Followed {
    fn look(&mut self) {
        let written = self.board.events().written();
        for at in self.seen..written {
            match self.board.events().get(at) {
                Some(record) => {
                    // The line first: it waits for no disk.
                    log(self.group, &record);
                    self.keep(&record);
                }
                None => tracing::warn!(group = self.group.0, "an event was overwritten before it was read"),
            }
        }
        self.seen = written;
    }

    fn keep(&mut self, record: &Record) {
        // Not before the first record: then the shard holds the directory's lock.
        if self.file.is_none() && !self.without {
            let path = self.dir.join(EVENTS_FILE);
            match EventFile::open(&path, self.node, self.group) {
                Ok(file) => self.file = Some(file),
                Err(error) => {
                    self.without = true;
                    tracing::warn!(group = self.group.0, %error, "events are kept in no file, only in the log");
                }
            }
        }
        if let Some(file) = &mut self.file {
            file.append(record);
        }
    }
}

/// One line: what, why, and the figures; none where who did the job has written it, with the error's text.
fn log(group: GroupId, record: &Record) {
    let Told { what, details, reason, figures } = tell(record);
    let (group, figures) = (group.0, Figures(&figures).to_string());
    let reason = reason.unwrap_or_default();
    match EventKind::ALL.iter().find(|kind| **kind as u8 == record.kind) {
        Some(
            EventKind::SlowSync
            | EventKind::DiskHung
            | EventKind::SubscriberDropped
            | EventKind::PeerSilent
            | EventKind::Overrun
            | EventKind::Stall
            | EventKind::YieldedDisk
            | EventKind::Unreadable,
        ) => tracing::warn!(group, details, reason, figures, "{what}"),
        Some(EventKind::Halted) => tracing::error!(group, details, reason, figures, "{what}"),
        Some(EventKind::JobFailed) => {}
        _ => tracing::info!(group, details, reason, figures, "{what}"),
    }
}
