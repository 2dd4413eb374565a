//! What a node says on stderr, by `[log]`. Called by `synod start`; a reload changes the level.

use crate::config::{Format, Level, Log};
use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, fmt, registry, reload};

/// Changes what is written. A message below the level costs its place in the code one load, before a reload and after.
pub(super) struct Logging(reload::Handle<LevelFilter, Registry>);

impl Logging {
    /// Writes from now on.
    pub(super) fn start(log: &Log) -> anyhow::Result<Logging> {
        let (filter, handle) = reload::Layer::new(filter(log.level));
        // stdout is the memory table's.
        let lines = fmt::layer().with_writer(std::io::stderr);
        let messages = registry().with(filter);
        let started = match log.format {
            Format::Text => messages.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
            Format::Json => messages.with(lines.json().flatten_event(true)).try_init(),
        };
        started.context("cannot set up logging")?;
        Ok(Logging(handle))
    }

    /// Writes what is at least as severe from now on.
    pub(super) fn set_level(&self, level: Level) {
        if let Err(error) = self.0.reload(filter(level)) {
            tracing::error!(%error, "the level of the log cannot be changed");
        }
    }
}

fn filter(level: Level) -> LevelFilter {
    LevelFilter::from_level(level.into())
}
