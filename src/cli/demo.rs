//! `synod demo`: the run with its progress on a terminal, and the report.

use super::DemoArgs;
use super::output::{Failure, Outcome, Style, print, print_json};
use crate::demo::{self, Settings};
use indicatif::{ProgressBar, ProgressStyle};
use std::time::Duration;

/// Runs the demo; exit code 0 only if all of it held.
pub(super) fn demo(args: &DemoArgs) -> Outcome {
    let settings = Settings { input: args.input.clone(), nodes: args.nodes, keep: args.keep };
    // Draws on stderr, and only where that is a terminal.
    let bar = ProgressBar::new_spinner();
    bar.set_style(ProgressStyle::with_template("{spinner} {elapsed:>4} {msg}").map_err(|e| Failure::Failed(e.into()))?);
    bar.enable_steady_tick(Duration::from_millis(100));
    let report = demo::run(&settings, &|what| bar.set_message(what.to_string()));
    bar.finish_and_clear();
    let report = report?;
    match args.output {
        Style::Text => print(&report.to_string())?,
        Style::Json => print_json(&report)?,
    }
    if report.ok { Ok(()) } else { Err(Failure::Told) }
}
