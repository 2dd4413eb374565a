//! Synod, the appliance: one shard a core, its state machine, configuration and command line.

pub mod config;
pub mod index;
pub mod sequencer;
