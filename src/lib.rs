//! Synod, the appliance: one shard a core, its state machine, configuration and command line.

pub mod admin;
pub mod cli;
pub mod config;
pub mod demo;
pub mod events;
pub mod host;
pub mod index;
pub mod interrupt;
pub mod iotune;
pub mod jitter;
pub mod local;
pub mod machine;
pub mod measure;
pub mod memory;
pub mod node;
pub mod pipeline;
pub mod sequencer;
mod service;
pub mod shard;
pub mod verify;
pub mod view;
pub mod without;
