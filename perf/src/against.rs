//! The command `against`: our skeleton interleaved with an independent one, so that neither is trusted alone. Ours must
//! not be the slower one by more than a little, or the floor that the product is held against would flatter it.
//!
//! The other program sends entries of 64 bytes; the shapes here are its own. Ours runs twice: waiting like the other, and
//! waiting as the product does by default.

use crate::files;
use crate::floor::run_skeleton;
use crate::host::Host;
use crate::load::{Pace, Plan};
use crate::options::{ShapeArgs, Style, Wait, WaitArgs};
use crate::skeleton::{Logs, Setup};
use crate::stats::Spread;
use anyhow::{Context, bail, ensure};
use clap::Args;
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Arguments of `against`.
#[derive(Args, Debug)]
pub(crate) struct AgainstArgs {
    /// The other skeleton's program.
    #[arg(long, value_name = "FILE")]
    skel: PathBuf,
    /// Rounds.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes; the other program ends by itself after 25 s.
    #[arg(long, value_name = "MS", default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(200..=20_000))]
    milliseconds: u64,
    /// Fail if our median is longer than the other's by more than this factor, waiting like the other.
    #[arg(long, value_name = "RATIO")]
    max_ratio: Option<f64>,
    /// Where the logs lie: a real disk.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// The other program's constants: its entries, the entries of its largest datagram, and how long it yields.
const SIZE: usize = 64;
const MOST_PER_DATAGRAM: usize = 63;
const YIELD_US: u32 = 500;

/// What both are asked to do: entries in flight, and entries in a datagram of the client.
const SHAPES: [(usize, usize); 3] = [(1, 1), (64, 1), (64, MOST_PER_DATAGRAM)];

/// The other program's JSON, as far as it is used.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Other {
    p50_us: f64,
    p99_us: f64,
    commits_per_s: f64,
}

/// One round of one shape.
#[derive(Clone, Debug, Serialize)]
struct Round {
    other: Other,
    ours: Other,
    ours_waiting_as_the_product: Other,
}

/// One shape.
#[derive(Debug, Serialize)]
struct Row {
    outstanding: usize,
    entries_per_datagram: usize,
    rounds: Vec<Round>,
    /// Ours divided by the other's, waiting alike.
    p50_ratio: Spread,
    /// Likewise.
    rate_ratio: Spread,
    /// Of the least p50 of each, waiting alike: what foreign load disturbs least.
    best_p50_ratio: f64,
    /// Ours waiting as the product does, divided by the other's.
    p50_ratio_waiting_as_the_product: Spread,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    rows: Vec<Row>,
}

/// Measures and prints.
pub(crate) fn run(args: &AgainstArgs) -> anyhow::Result<()> {
    let dir = files::directory(args.dir.as_deref())?;
    let logs = Logs::prepare(dir.path(), 3)?;
    let mut rows = Vec::new();
    for (outstanding, per_datagram) in SHAPES {
        let mut rounds = Vec::new();
        for number in 0..args.rounds {
            let round = round(args, dir.path(), &logs, (outstanding, per_datagram), number)?;
            if args.output == Style::Text {
                eprintln!("{}", round_line(outstanding, per_datagram, &round));
            }
            rounds.push(round);
        }
        rows.push(row(outstanding, per_datagram, rounds));
    }
    let report = Report { host: Host::here()?, rows };
    match args.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Style::Text => report.rows.iter().for_each(print_row),
    }
    let worst = report.rows.iter().map(|row| row.p50_ratio.median).fold(0.0, f64::max);
    match args.max_ratio {
        Some(limit) if worst > limit => {
            bail!("our skeleton's median is {worst:.2} times the other's; the limit is {limit}")
        }
        _ => Ok(()),
    }
}

/// Runs all three, in an order that turns with the rounds: what drifts meets each alike.
fn round(args: &AgainstArgs, dir: &Path, logs: &Logs, shape: (usize, usize), number: u32) -> anyhow::Result<Round> {
    let like_the_other = WaitArgs { wait: Wait::Yield, yield_idle_us: YIELD_US, yield_durable_us: YIELD_US };
    let as_the_product = WaitArgs { wait: Wait::Auto, yield_idle_us: 50, yield_durable_us: 500 };
    let mut found = [None; 3];
    for turn in 0..3 {
        let which = ((number + turn) % 3) as usize;
        found[which] = Some(match which {
            0 => run_other(args, dir, shape)?,
            1 => run_ours(args, logs, shape, like_the_other)?,
            _ => run_ours(args, logs, shape, as_the_product)?,
        });
    }
    let [other, ours, waiting] = found.map(|found| found.expect("three turns run all three"));
    Ok(Round { other, ours, ours_waiting_as_the_product: waiting })
}

fn run_other(args: &AgainstArgs, dir: &Path, (outstanding, per_datagram): (usize, usize)) -> anyhow::Result<Other> {
    let coalesce = u8::from(per_datagram > 1);
    let mut command = Command::new(&args.skel);
    command.args(["io=uring", "wal=dsync", "wait=yield", "pin=-1,-1,-1,-1", "json=1"]);
    command.arg(format!("us={YIELD_US}")).arg(format!("out={outstanding}")).arg(format!("coalesce={coalesce}"));
    command.arg(format!("ms={}", args.milliseconds)).arg(format!("dir={}", dir.join("other").display()));
    let ran = command.output().with_context(|| format!("cannot run {}", args.skel.display()))?;
    let (out, errors) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.success(), "{} failed ({}): {errors}", args.skel.display(), ran.status);
    serde_json::from_str(out.trim()).with_context(|| format!("{} said {out:?} and {errors:?}", args.skel.display()))
}

fn run_ours(args: &AgainstArgs, logs: &Logs, shape: (usize, usize), wait: WaitArgs) -> anyhow::Result<Other> {
    let (outstanding, per_datagram) = shape;
    let shape = ShapeArgs { size: SIZE, entries_per_datagram: Some(per_datagram), datagram_bytes: 4_096 };
    let plan = Plan {
        pace: Pace::Closed { outstanding },
        warm_up: Duration::from_millis(200),
        measure: Duration::from_millis(args.milliseconds),
    };
    let measured = run_skeleton(&Setup { nodes: 3, durable: true, shape, wait }, logs, &plan)?.measured;
    let summary = measured.summary();
    Ok(Other { p50_us: summary.p50_us, p99_us: summary.p99_us, commits_per_s: summary.per_second })
}

fn row(outstanding: usize, entries_per_datagram: usize, rounds: Vec<Round>) -> Row {
    let ratio = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
    let best_p50_ratio = ratio(|round| round.ours.p50_us).min / ratio(|round| round.other.p50_us).min;
    Row {
        best_p50_ratio,
        outstanding,
        entries_per_datagram,
        p50_ratio: ratio(|round| round.ours.p50_us / round.other.p50_us),
        rate_ratio: ratio(|round| round.ours.commits_per_s / round.other.commits_per_s),
        p50_ratio_waiting_as_the_product: ratio(|round| round.ours_waiting_as_the_product.p50_us / round.other.p50_us),
        rounds,
    }
}

fn round_line(outstanding: usize, per_datagram: usize, round: &Round) -> String {
    let one = |found: &Other| format!("{:.1}/{:.1} µs {:.0}/s", found.p50_us, found.p99_us, found.commits_per_s);
    format!(
        "{outstanding} outstanding, {per_datagram} a datagram: other {}, ours {}, ours waiting as the product {}",
        one(&round.other),
        one(&round.ours),
        one(&round.ours_waiting_as_the_product)
    )
}

fn print_row(row: &Row) {
    println!("{} outstanding, {} entries a datagram", row.outstanding, row.entries_per_datagram);
    let p50 = crate::report::spread("  p50, ours / other, waiting alike", &row.p50_ratio);
    println!("{p50}, best rounds {:.2}", row.best_p50_ratio);
    println!("{}", crate::report::spread("  rate, ours / other, waiting alike", &row.rate_ratio));
    let waiting = &row.p50_ratio_waiting_as_the_product;
    println!("{}", crate::report::spread("  p50, ours waiting as the product / other", waiting));
}
