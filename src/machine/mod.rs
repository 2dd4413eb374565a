//! State machines: what a group does with its committed entries besides keeping them. **Start here to embed Synod**: implement
//! [`StateMachine`], and give it to [`crate::node::Node::start`]; clients append commands and ask questions with
//! `synod_client` (`Appender` and `Questions`). `examples/counter.rs` and `examples/lease.rs` are whole programs.
//!
//! Every member of a group feeds its own machine the same entries in the same order, each once: those that got a sequence,
//! from 1 on, after duplicates and refused conditions were dropped. The log itself, its sequences, timestamps and sessions are the sequencer's
//! ([`crate::sequencer`]); a machine comes on top, and a group without one (`machine = "log"`) pays nothing for it.
//!
//! | built in | `[[group]] machine =` | |
//! |---|---|---|
//! | the log alone | `"log"` | no machine |
//! | [`kv::KvMap`] | `"kv"` | a key-value map |

pub mod kv;

pub use synod_ring::give_way;

use crate::config::{Config, Machine};
use crate::sequencer::Verdict;
use std::sync::Arc;
use synod_wire::batch::Run;
use synod_wire::{GroupId, Sequence};

/// A committed entry, the same at every member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry<'a> {
    /// Its place in the group's total order: dense, from 1.
    pub sequence: Sequence,
    /// The leader's timestamp, nanoseconds since the Unix epoch; never below that of an earlier entry. The only time that
    /// a machine may know: what expires, expires by it.
    pub timestamp_ns: u64,
    /// The bytes as a client appended them. Anybody may append anything: a payload that is no command must be handled like
    /// any other, at every member alike.
    pub payload: &'a [u8],
}

/// The machine does not take a question: it is malformed, or of a kind that it does not know. The asker is refused with
/// `BAD_QUESTION`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the state machine does not take this question")]
pub struct BadQuestion;

/// A snapshot that cannot be restored.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the snapshot is of no use: {0}")]
pub struct BadSnapshot(pub String);

/// Replicated state.
///
/// # Determinism
/// Members are alike because their machines are: the state after an entry, and the answer to a question, depend on the entries so
/// far and on nothing else. So no clock, no randomness, no file or network, no address of memory, no iteration over a hash map with
/// a random seed, no setting that may differ between members, no floating point whose result the compiler may choose. Limits that
/// change an outcome belong in constants, and changing one makes another machine. A member that starts again restores
/// its newest snapshot, or begins with an empty machine, and is fed the log behind that.
///
/// # Bounds
/// Memory must be bounded, and what the bound refuses must be an outcome of the command. Calls run on the pipeline's core, between a
/// datagram and its commit: a slow one delays everybody. A question has at most
/// [`MAX_QUESTION_BYTES`](synod_wire::client::MAX_QUESTION_BYTES), an answer what one datagram holds (`net.max_batch_bytes` less 32);
/// a longer one is refused with `TOO_LARGE`.
///
/// A snapshot is made and restored in threads of low priority, which share their core with pipelines that yield while they wait: call
/// [`give_way`] every so many items, here and where a large state is dropped.
///
/// It moves between threads twice: the log is read, and applied to it, in a thread of its own. A second one is fed the same entries
/// on a thread of low priority, for snapshots: what a machine takes in memory is taken twice.
///
/// # Errors
/// [`StateMachine::apply`] has none: the entry is committed, and every member must come to the same state, if only by ignoring it. A
/// panic ends the node, and, as the entry stays in the log, every member at the same place.
pub trait StateMachine: Send {
    /// Takes the next entry. Called once for each, in the order of sequences.
    fn apply(&mut self, entry: &Entry<'_>);

    /// Answers a question about the state, without changing it: appends the answer to `answer`, which is empty. How recent the state
    /// is that it sees is the asker's choice, and is seen to before this is called.
    fn query(&self, question: &[u8], answer: &mut Vec<u8>) -> Result<(), BadQuestion>;

    /// Appends the whole state to `out`. Canonical: machines in the same state write the same bytes, so that members can be compared.
    fn snapshot(&self, out: &mut Vec<u8>);

    /// Takes the state of a snapshot in place of its own, or says why not and stays as it is.
    fn restore(&mut self, snapshot: &[u8]) -> Result<(), BadSnapshot>;
}

/// Makes the machine of a group, empty, in the thread that will run it; `None`: the group keeps the log alone. Called at the start and
/// whenever a pipeline reads its log anew.
pub type MakeMachine = Arc<dyn Fn(GroupId) -> Option<Box<dyn StateMachine>> + Send + Sync>;

/// The machines that a configuration names.
pub fn built_in(config: &Config) -> MakeMachine {
    let machines: Vec<Machine> = config.groups.iter().map(|group| group.machine).collect();
    Arc::new(move |group| match machines[usize::from(group.0)] {
        Machine::Log => None,
        Machine::Kv => Some(Box::new(kv::KvMap::new())),
    })
}

/// Feeds a machine the entries of a run that got a sequence.
pub(crate) fn apply_run(machine: &mut dyn StateMachine, run: &Run<'_>, verdict: Verdict) {
    let Verdict::Decided { skip, answer } = verdict else { return };
    let timestamp_ns = answer.timestamp_ns;
    // What its condition refused has none.
    let Some(first_sequence) = answer.first_sequence() else { return };
    for (sequence, payload) in (first_sequence.0..).map(Sequence).zip(run.entries().skip(skip as usize)) {
        machine.apply(&Entry { sequence, timestamp_ns, payload });
    }
}
