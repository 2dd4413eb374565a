//! `synod iotune`: arguments, progress, and the report as text. The measuring is `crate::iotune`'s.

use super::output::{Failure, Outcome, Style, Table, print, print_json};
use super::{interrupts, progress_bar};
use crate::config::{Config, load};
use crate::iotune::proposal::HEAD;
use crate::iotune::{self, Report, Settings};
use anyhow::{Context, anyhow};
use clap::Args;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What the progress bar counts to.
const STEPS: u64 = 1_000;

#[derive(Debug, Args)]
pub(super) struct IotuneArgs {
    /// The directory: on the disk that the log is to lie on.
    #[arg(long, value_name = "D")]
    dir: PathBuf,
    /// How long to write, all ways of writing together.
    #[arg(long, value_name = "S", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    seconds: u64,
    /// The configuration that the proposal starts from; the defaults if left out.
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// Members that vote, of which a majority chooses.
    #[arg(long, value_name = "N", default_value_t = 3, conflicts_with = "config", value_parser = clap::value_parser!(u8).range(1..=7))]
    nodes: u8,
    /// The round trip between two members over their network (`ping` says it); measured on the loopback if left out.
    #[arg(long, value_name = "US", value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    rtt_us: Option<u64>,
    /// Write the proposal into this file; one that is there is only replaced if it is an earlier proposal.
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,
    /// Write the latencies into this file: `.hlog` (HdrHistogram's interval log, everything, tagged) or `.hgrm` (percentiles of the
    /// way that was chosen).
    #[arg(long, value_name = "FILE", value_parser = super::histogram_file)]
    histogram: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// Measures, proposes, predicts.
pub(super) fn iotune(args: &IotuneArgs) -> Outcome {
    if let Some(file) = &args.write {
        may_write(file)?;
    }
    let (config, members, votes) = match &args.config {
        Some(file) => {
            let config = load::load(file).map_err(anyhow::Error::new)?.config;
            let (members, votes) = (config.founders().len(), config.quorums().phase2);
            (config, members, votes)
        }
        None => (Config::default(), usize::from(args.nodes), usize::from(args.nodes) / 2 + 1),
    };
    let settings = Settings {
        dir: args.dir.clone(),
        measure: Duration::from_secs(args.seconds),
        round_trip: args.rtt_us.map(Duration::from_micros),
        members,
        votes,
        config,
    };
    let stop = interrupts()?;
    let bar = progress_bar(STEPS)?;
    let progress = |done: f64, what: &str| {
        bar.set_position((done * STEPS as f64) as u64);
        bar.set_message(what.to_owned());
    };
    let report = iotune::run(&settings, &stop, &progress);
    bar.finish_and_clear();
    let report = report?;
    if let Some(file) = &args.histogram {
        report.write_histogram(file)?;
    }
    if let Some(file) = &args.write {
        std::fs::write(file, report.proposal.toml()).with_context(|| format!("cannot write {}", file.display()))?;
    }
    match args.output {
        Style::Text => print(&text(&report, args.write.as_deref())),
        Style::Json => print_json(&report),
    }
}

/// Nothing but an earlier proposal is replaced: the file could be the cluster's.
fn may_write(file: &Path) -> Outcome {
    match std::fs::read_to_string(file) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(Failure::Failed(anyhow!(error).context(format!("cannot look at {}", file.display())))),
        Ok(text) if text.starts_with(HEAD) => Ok(()),
        Ok(_) => {
            let reason = anyhow!("{} is there, and is no proposal: it is not replaced", file.display());
            Err(Failure::Usage(reason.context("--write names another file")))
        }
    }
}

fn text(report: &Report, written: Option<&Path>) -> String {
    let mut text = format!("durable writes in {}\n\n", report.dir.display());
    let mut table =
        Table::new(&["way", ">KiB", ">in flight", ">writes/s", ">MB/s", ">p50 us", ">p99 us", ">p99.9 us", ">max us"]);
    for row in &report.rows {
        let of = &row.summary;
        table.row([
            row.cell.way.name().into(),
            (row.cell.block_bytes >> 10).to_string(),
            row.cell.depth.to_string(),
            format!("{:.0}", of.per_second),
            format!("{:.1}", row.bytes_per_second / 1e6),
            format!("{:.0}", of.p50_us),
            format!("{:.0}", of.p99_us),
            format!("{:.0}", of.p999_us),
            format!("{:.0}", of.max_us),
        ]);
    }
    text += &table.render();
    for note in &report.notes {
        line(&mut text, &format!("note: {note}"));
    }
    if let Some(cpu) = report.interrupt_cpu {
        line(
            &mut text,
            &format!("CPU {cpu} takes the disk's interrupts: where wal.writer_core = \"auto\" puts the thread"),
        );
    }
    text += &prediction(report);
    text.push('\n');
    for finding in &report.proposal.findings {
        line(&mut text, &format!("with the other keys of the file: {finding}"));
    }
    match written {
        Some(file) => line(&mut text, &format!("the proposal is in {}", file.display())),
        None => text += &report.proposal.toml(),
    }
    text
}

fn prediction(report: &Report) -> String {
    let p = &report.prediction;
    let source =
        if p.round_trip_on_loopback { "on the loopback; name your network's with --rtt-us" } else { "as named" };
    let mut text = format!("\ncommit latency of a cluster of such hosts, one entry in flight ({}):\n", report.chosen);
    line(&mut text, "  R + T, T: until q of n votes are durable, the leader's after S, a follower's after R + S");
    line(
        &mut text,
        "  P(T<=t) = F(t) P[q-1 or more of n-1 at F(t-R)] + (1-F(t)) P[q or more of n-1 at F(t-R)], F: of the writes S",
    );
    line(&mut text, &format!("  n = {}, q = {}, R = {:.0} us ({source})", p.members, p.votes, p.round_trip_us));
    let row = |name: &str, sync: f64, commit: f64| {
        format!(
            "  {name:<6} S = {sync:.0} us, R + T = {:.0} + {:.0} = {commit:.0} us",
            p.round_trip_us,
            commit - p.round_trip_us
        )
    };
    line(&mut text, &row("p50:", p.sync_p50_us, p.commit_p50_us));
    line(&mut text, &row("p99:", p.sync_p99_us, p.commit_p99_us));
    line(&mut text, &row("p99.9:", p.sync_p999_us, p.commit_p999_us));
    line(
        &mut text,
        "  Under load an entry also waits for the write in flight: up to one more S. The program's own time comes on top.",
    );
    text
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a string takes everything");
}
