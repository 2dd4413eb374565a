//! Synod, the appliance: one shard a core, its state machine, configuration and command line.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod index;
pub mod interrupt;
pub mod local;
pub mod machine;
pub mod memory;
pub mod node;
pub mod pipeline;
pub mod sequencer;
pub mod shard;
pub mod verify;
pub mod view;
