//! Multi-Paxos as a pure state machine: no I/O, no clock, no randomness, no thread, and never a payload byte.
//!
//! A driver (the shard, the simulator, a test) feeds [`Replica::step`] and drains [`Replica::poll_output`]; time comes in as
//! an argument, and [`Replica::poll_timeout`] says when to come back. Durability is data: an [`Output::Send`] names the Lsn
//! that it must wait for, so no driver can get the order wrong by the order of its calls.
//!
//! The protocol is Lamport's Multi-Paxos ("Paxos Made Simple", 2001) with Flexible Paxos quorums (Howard et al., 2016),
//! and the rules of ARCHITECTURE.md, each of which closes a schedule that loses or forks data. One deviation in form:
//! a promise reports (slot, ballot) pairs, and the candidate fetches the values that it does not hold itself.
//!
//! | file | what it holds |
//! |---|---|
//! | `replica.rs` | the state, `step`, time-outs, the one function that changes the role |
//! | `founding.rs` | who may vote: new groups, restarts, lost and rolled-back disks |
//! | `acceptor.rs` | prepare and accept, and the replies to them |
//! | `election.rs` | the candidate: phase 1 and what follows from the promises |
//! | `leader.rs` | phase 2: proposing, counting votes, retransmission, heartbeats, step-down |
//! | `learner.rs` | what is chosen, delivery, catch-up |
//! | `reach.rs` | who is heard and how lately, for the shard's mode |
//! | `reads.rs` | reads that are not stale: rounds of reads, and the leader's word that it still leads |
//! | `leases.rs` | reads by the clock: what acceptors grant, what the leader holds |
//! | `membership.rs` | who votes: changes, and what follows from one |
//! | `prevote.rs` | who hears no leader asks the others before it stands |
//! | `states.rs` | members compare their states |
//! | `transfer.rs` | a leader hands over to another member |
//! | `invariants.rs` | what holds of every state and every step |
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod acceptor;
mod election;
mod founding;
pub mod invariants;
mod leader;
mod learner;
mod leases;
mod membership;
mod prevote;
mod reach;
mod reads;
mod replica;
mod rng;
mod states;
mod transfer;
mod types;
mod window;

pub use leader::BURST_SLOTS;
pub use membership::{Change, ChangeError};
pub use replica::Replica;
pub use types::*;
