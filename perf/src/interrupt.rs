//! Ctrl-C and SIGTERM end a measurement in order, so that its directory of several hundred megabytes does not stay behind.
//! A second one ends the program at once. Called by `main` and, between two polls, by the load generator.

use anyhow::{Context, bail};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// What a shell expects of a program that a signal ended: 128 and SIGINT's number.
const EXIT_CODE: i32 = 130;

/// Watches for the signals from now on.
pub(crate) fn watch() -> anyhow::Result<()> {
    let interrupted = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        // In this order: the first signal finds the flag down, and only then raises it.
        flag::register_conditional_shutdown(signal, EXIT_CODE, interrupted.clone()).context("cannot watch signals")?;
        flag::register(signal, interrupted.clone()).context("cannot watch signals")?;
    }
    Ok(())
}

/// An error once a signal came.
pub(crate) fn check() -> anyhow::Result<()> {
    match INTERRUPTED.get() {
        Some(interrupted) if interrupted.load(Ordering::Relaxed) => bail!("interrupted"),
        _ => Ok(()),
    }
}
