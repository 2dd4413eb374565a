//! Synod's deterministic simulator: a network, disks, clocks and processes made from a seed, around the production shard,
//! log and protocol core, in one thread. A seed and a commit give the same run, bit for bit.
//!
//! | file | what it holds |
//! |---|---|
//! | `plan.rs` | what the seed decides beforehand |
//! | `run.rs` | a run's phases: chaos, then a healed core that must commit and converge |
//! | `sim.rs` | the engine: the queue of happenings, and who carries each out |
//! | `lives.rs`, `turn.rs`, `writes.rs`, `transit.rs` | how nodes come and go; a node's turn; its disk; datagrams on their way |
//! | `queue.rs` | what is going to happen, in order |
//! | `script.rs` | scenarios as text, in `sim/scenarios` |
//! | `chaos.rs`, `fault.rs`, `crowd.rs`, `rivals.rs` | the faults that strike, and where they may |
//! | `recovery.rs` | starts of a process, and deaths inside them |
//! | `io.rs`, `node.rs` | the simulated `Io`; one node |
//! | `net.rs`, `disk.rs`, `storage.rs` | what links and disks do; files in memory |
//! | `history.rs` | old datagrams, to be sent again |
//! | `load.rs` | what the clients of a run offer, read and learn |
//! | `client.rs`, `subscriber.rs`, `payload.rs` | clients around the production client cores |
//! | `trims.rs`, `members.rs`, `transfers.rs` | operators who trim, change the members, and have leaders hand over |
//! | `answers.rs` | what readers hear, for the checkers |
//! | `checks/` | what must hold, one property a file |
//! | `linear/` | linearizability of small histories, and the log as a sequential object |
//! | `drive.rs` | commits to be counted: the same shards without faults, checks or randomness |
//! | `known.rs` | the bugs that mutants put back |
//! | `trace.rs`, `coverage.rs` | what happened; what was come by |

mod answers;
mod chaos;
mod checks;
mod client;
mod coverage;
mod crowd;
mod disk;
pub mod drive;
mod fault;
mod history;
mod io;
mod known;
pub mod linear;
mod lives;
mod load;
mod members;
mod net;
mod node;
mod payload;
mod plan;
mod queue;
mod recovery;
mod releases;
mod rivals;
mod rng;
mod run;
mod script;
mod sim;
mod storage;
mod subscriber;
mod trace;
mod transfers;
mod transit;
mod trims;
mod turn;
mod writes;

pub use checks::{SIMULATOR, Violation};
pub use coverage::{Coverage, Missed};
pub use fault::{Area, Fault, Style};
pub use known::{Ground, MUTANTS, Mutant, has_mutants};
pub use plan::{Plan, Profile, Timing};
pub use rng::Rng;
pub use run::{Failure, Outcome, run};
pub use script::{Step, scenario, sights};
