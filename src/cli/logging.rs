//! What a node says on stderr, by `[log]`. Called by `synod start`.

use crate::config::{Format, Log};
use anyhow::Context;
use std::io::IsTerminal;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{fmt, registry};

/// Writes from now on.
pub(super) fn start(log: &Log) -> anyhow::Result<()> {
    let filter = LevelFilter::from_level(log.level.into());
    // stdout is the memory table's.
    let lines = fmt::layer().with_writer(std::io::stderr);
    let messages = registry().with(filter);
    let started = match log.format {
        Format::Text => messages.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init(),
        Format::Json => messages.with(lines.json().flatten_event(true)).try_init(),
    };
    started.context("cannot set up logging")
}
