//! `synod iotune`: what a durable write to a directory costs, written as the log writes and in the ways that it does not; from that
//! a proposal for the configuration and a prediction of the commit latency.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | what is measured in which order, and the report |
//! | `ways.rs` | one way of writing for one slice of time |
//! | `round_trip.rs` | a datagram's round trip on the loopback |
//! | `predict.rs` | the commit latency from the distribution of writes; pure |
//! | `proposal.rs` | keys of the configuration from the report; pure |
//!
//! Each way, size and depth is a *cell*. Cells are measured in turns, round by round: a disk that is slow for a second is slow for
//! all of them. The files have no name ([`crate::measure::files::nameless`]), so that nothing stays behind, whatever ends the process.

pub mod predict;
pub mod proposal;
mod round_trip;
mod ways;

pub use proposal::{Key, Proposal};
pub use ways::{Cell, Way};

use crate::config::Config;
use crate::interrupt;
use crate::measure::files::{self, BLOCK_BYTES, LOG_BYTES};
use crate::measure::logs;
use crate::measure::stats::{Measured, Spread, Summary};
use anyhow::{Context, ensure};
use predict::Prediction;
use serde::Serialize;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use ways::Bench;

/// Writes in flight that are tried.
const DEPTHS: [usize; 4] = [1, 2, 4, 8];
/// Bytes of a write that are tried beside a block's: the largest batch with its header fits the second, a flush the others.
const SIZES_BYTES: [usize; 5] = [16 << 10, 64 << 10, 128 << 10, 256 << 10, 512 << 10];
/// A slice of a cell is as long as this where there is time for several rounds.
const SLICE: Duration = Duration::from_millis(100);
/// Rounds at most: their medians tell how far the disk drifts.
const ROUNDS_MAX: u32 = 10;
/// Files of [`LOG_BYTES`] that exist at once: the one that was written once, and the one that was not.
const FILES: u64 = 2;

/// What is to be measured.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The directory.
    pub dir: PathBuf,
    /// How long writes are made, all cells together.
    pub measure: Duration,
    /// The round trip between two members; measured on the loopback if left out.
    pub round_trip: Option<Duration>,
    /// Members that found the groups.
    pub members: usize,
    /// Durable votes that choose.
    pub votes: usize,
    /// What the proposal starts from.
    pub config: Config,
}

/// One cell's figures.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// How, how much at once, how many at once.
    #[serde(flatten)]
    pub cell: Cell,
    /// All rounds together.
    #[serde(flatten)]
    pub summary: Summary,
    /// Bytes a second.
    pub bytes_per_second: f64,
    /// Of the rounds' medians.
    pub rounds_p50_us: Spread,
    /// The whole distribution.
    #[serde(skip)]
    pub measured: Measured,
}

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The directory.
    pub dir: PathBuf,
    /// Cells in order.
    pub rows: Vec<Row>,
    /// The CPU that takes the disk's interrupts, if one takes nearly all.
    pub interrupt_cpu: Option<usize>,
    /// What could not be measured, and why.
    pub notes: Vec<String>,
    /// The cell that the proposal and the prediction rest on.
    pub chosen: Cell,
    /// The commit latency.
    pub prediction: Prediction,
    /// What to write into the configuration.
    pub proposal: Proposal,
}

impl Report {
    /// The row of a cell, if it was measured.
    pub fn row(&self, cell: Cell) -> Option<&Row> {
        row(&self.rows, cell)
    }

    /// Writes HdrHistogram's form of the measurement: `.hlog` has every cell, tagged; `.hgrm` the one that was chosen.
    pub fn write_histogram(&self, file: &Path) -> anyhow::Result<()> {
        let tags: Vec<String> = self.rows.iter().map(|row| row.cell.tag()).collect();
        let series: Vec<logs::Series<'_>> = self
            .rows
            .iter()
            .zip(&tags)
            .map(|(row, tag)| logs::Series { tag: Some(tag), intervals: &row.measured.intervals })
            .collect();
        let chosen = self.row(self.chosen).expect("the chosen cell was measured");
        logs::write(file, "synod iotune: durable writes", &series, &chosen.measured.latency_ns)
    }
}

fn row(rows: &[Row], cell: Cell) -> Option<&Row> {
    rows.iter().find(|row| row.cell == cell)
}

/// Measures, tells `progress` how much of it is done (0 to 1) and what comes next, and ends with an error once `stop` is set.
pub fn run(settings: &Settings, stop: &AtomicBool, progress: &dyn Fn(f64, &str)) -> anyhow::Result<Report> {
    check_directory(&settings.dir)?;
    progress(0.0, "a file is written and synced");
    let interrupt_cpu = interrupt::cpu_of_disk(&settings.dir);
    let mut bench = Bench::prepare(&settings.dir, interrupt_cpu.clone().ok(), settings.config.wait_mode())?;
    let round_trip = match settings.round_trip {
        Some(named) => (named, false),
        None => (round_trip::on_loopback()?, true),
    };
    let cells = bench.cells();
    let rows = measure(&mut bench, &cells, settings.measure, stop, progress)?;
    let mut notes = bench.notes();
    notes.extend(interrupt_cpu.as_ref().err().map(|reason| format!("the log-writer thread was not pinned: {reason}")));
    let chosen = proposal::choose(&rows);
    let measured = &row(&rows, chosen).expect("a cell of the rows").measured;
    let prediction = predict::of(&measured.latency_ns, settings.members, settings.votes, round_trip.0, round_trip.1);
    let proposal = proposal::of(&settings.config, &rows, chosen, &prediction);
    let (dir, interrupt_cpu) = (settings.dir.clone(), interrupt_cpu.ok());
    Ok(Report { dir, rows, interrupt_cpu, notes, chosen, prediction, proposal })
}

fn check_directory(dir: &Path) -> anyhow::Result<()> {
    ensure!(dir.is_dir(), "{} is no directory. Name one on the disk that the log is to lie on", dir.display());
    ensure!(
        !files::lies_in_memory(dir)?,
        "{} lies in memory: its figures would say nothing. Name a directory on a disk",
        dir.display()
    );
    let space = rustix::fs::statvfs(dir).with_context(|| format!("cannot look at {}", dir.display()))?;
    let (free, needed) = (space.f_bavail * space.f_frsize, (FILES + 1) * LOG_BYTES);
    ensure!(
        free >= needed,
        "{} has {} MiB free, and {} MiB are needed for the time of the measurement",
        dir.display(),
        free >> 20,
        needed >> 20
    );
    Ok(())
}

fn measure(
    bench: &mut Bench,
    cells: &[Cell],
    time: Duration,
    stop: &AtomicBool,
    progress: &dyn Fn(f64, &str),
) -> anyhow::Result<Vec<Row>> {
    let count = u32::try_from(cells.len()).expect("some dozen cells");
    let rounds = ((time.as_secs_f64() / (SLICE * count).as_secs_f64()) as u32).clamp(1, ROUNDS_MAX);
    let slice = time / (rounds * count);
    let mut found: Vec<Vec<Measured>> = vec![Vec::new(); cells.len()];
    let mut done = 0;
    for _ in 0..rounds {
        for (cell, found) in cells.iter().zip(&mut found) {
            progress(f64::from(done) / f64::from(rounds * count), &cell.to_string());
            found.push(bench.slice(*cell, slice, stop).with_context(|| cell.to_string())?);
            ensure!(!stop.load(Ordering::Relaxed), "interrupted; nothing was left behind");
            done += 1;
        }
    }
    Ok(cells.iter().zip(found).map(|(cell, rounds)| of_rounds(*cell, &rounds)).collect())
}

fn of_rounds(cell: Cell, rounds: &[Measured]) -> Row {
    let mut measured = Measured::new();
    rounds.iter().for_each(|round| measured.add(round));
    let summary = measured.summary();
    Row {
        cell,
        bytes_per_second: summary.per_second * cell.block_bytes as f64,
        summary,
        rounds_p50_us: Spread::of(rounds.iter().map(|round| round.summary().p50_us)),
        measured,
    }
}

/// Every cell that a bench can have; `ring` and `direct` say what the host allows.
fn all_cells(ring: bool, direct: bool) -> Vec<Cell> {
    let block = |way, depth| Cell { way, block_bytes: BLOCK_BYTES, depth };
    let mut cells = Vec::new();
    if ring && direct {
        for way in [Way::Ring, Way::Thread] {
            cells.extend(DEPTHS.map(|depth| block(way, depth)));
        }
    }
    if direct {
        cells.extend([Way::Inline, Way::Unsynced, Way::Unwritten, Way::DirectThenSync].map(|way| block(way, 1)));
    }
    cells.push(block(Way::Buffered, 1));
    let base = if ring && direct {
        Way::Ring
    } else if direct {
        Way::Inline
    } else {
        Way::Buffered
    };
    cells.extend(SIZES_BYTES.map(|block_bytes| Cell { way: base, block_bytes, depth: 1 }));
    cells
}
