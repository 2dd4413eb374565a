//! Arguments that several commands share, and their bounds.

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use synod_ring::WaitMode;
use synod_wire::batch::max_entry_bytes;
use synod_wire::frame::{ALIGN, HEADER_BYTES};

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Style {
    /// Tables.
    #[default]
    Text,
    /// One JSON value.
    Json,
}

/// How the skeleton's processes wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Wait {
    /// The product's default: yields while that pays, else blocks.
    Auto,
    /// Yields up to the budgets, then blocks.
    Yield,
    /// Blocks at once.
    Block,
    /// Never gives the core away.
    Spin,
}

/// The wait mode with its budgets; the defaults are the product's.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct WaitArgs {
    /// How the skeleton's processes wait.
    #[arg(long, value_enum, default_value = "auto")]
    pub(crate) wait: Wait,
    /// How long they yield while no log write is in flight.
    #[arg(long, value_name = "US", default_value_t = 50)]
    pub(crate) yield_idle_us: u32,
    /// How long they yield while one is.
    #[arg(long, value_name = "US", default_value_t = 500)]
    pub(crate) yield_durable_us: u32,
}

impl WaitArgs {
    /// As the reactor takes it.
    pub(crate) fn mode(self) -> WaitMode {
        let (idle_us, durable_us) = (self.yield_idle_us, self.yield_durable_us);
        match self.wait {
            Wait::Auto => WaitMode::Auto { idle_us, durable_us },
            Wait::Yield => WaitMode::Yield { idle_us, durable_us },
            Wait::Block => WaitMode::Block,
            Wait::Spin => WaitMode::Spin,
        }
    }

    /// As a child process takes it.
    pub(crate) fn to_arguments(self) -> Vec<String> {
        let wait = self.wait.to_possible_value().expect("no variant is skipped").get_name().to_string();
        let budget = |name: &str, us: u32| [name.to_string(), us.to_string()];
        let budgets =
            [budget("--yield-idle-us", self.yield_idle_us), budget("--yield-durable-us", self.yield_durable_us)];
        [vec!["--wait".to_string(), wait], budgets.concat()].concat()
    }
}

/// What is sent.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct ShapeArgs {
    /// Bytes of an entry.
    #[arg(long, value_name = "BYTES", default_value_t = 256)]
    pub(crate) size: usize,
    /// The most entries in one datagram of the client; left out: as many as are ready and fit.
    #[arg(long, value_name = "N")]
    pub(crate) entries_per_datagram: Option<usize>,
    /// The largest datagram.
    #[arg(long, value_name = "BYTES", default_value_t = 1_472)]
    pub(crate) datagram_bytes: usize,
}

impl ShapeArgs {
    /// Checks the bounds, which are the product's: what it refuses, the skeleton is not asked either.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        let Self { size, datagram_bytes, .. } = *self;
        ensure!(
            (256..=65_472).contains(&datagram_bytes) && datagram_bytes.is_multiple_of(ALIGN),
            "--datagram-bytes is {datagram_bytes}: choose a multiple of {ALIGN} from 256 to 65472"
        );
        let longest = max_entry_bytes(self.max_batch_bytes());
        ensure!((1..=longest).contains(&size), "--size is {size}: choose 1 to {longest}, or a larger --datagram-bytes");
        let most = self.most_per_datagram();
        let asked = self.entries_per_datagram.unwrap_or(1);
        ensure!(
            (1..=most).contains(&asked),
            "--entries-per-datagram is {asked}: {most} entries of {size} bytes fit {datagram_bytes}; raise --datagram-bytes"
        );
        Ok(())
    }

    /// The product's `net.max_batch_bytes` for these datagrams.
    pub(crate) fn max_batch_bytes(&self) -> usize {
        self.datagram_bytes / ALIGN * ALIGN - HEADER_BYTES
    }

    /// Entries that the client puts into one datagram at most.
    pub(crate) fn per_datagram(&self) -> usize {
        self.entries_per_datagram.unwrap_or_else(|| self.most_per_datagram())
    }

    /// What fits a datagram of the product, whose headers are the longer ones: a batch header, a run header, and a length
    /// before each entry.
    fn most_per_datagram(&self) -> usize {
        let room = max_entry_bytes(self.max_batch_bytes()) + 2;
        room / (self.size + 2)
    }
}

/// How often and how long.
#[derive(Args, Clone, Debug)]
pub(crate) struct RoundArgs {
    /// Entries in flight: each of these is measured.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_value = "1,64,256")]
    pub(crate) outstanding: Vec<usize>,
    /// Rounds; each measures everything once, in alternating order.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) rounds: u32,
    /// How long each measurement of a round takes, without its warm-up.
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    pub(crate) seconds: f64,
    /// How long each measurement runs before it counts.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    pub(crate) warm_up_ms: u64,
    /// Where the logs lie: a real disk. Left out: below TMPDIR or /var/tmp.
    #[arg(long, value_name = "DIR")]
    pub(crate) dir: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Style,
    /// Also write a report into this directory: page, histogram logs, percentile files, JSON, environment.
    #[arg(long, value_name = "DIR")]
    pub(crate) report: Option<PathBuf>,
}

impl RoundArgs {
    /// Checks the bounds, and that a report can be written: a long measurement must not end in a wrong path.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if let Some(dir) = &self.report {
            std::fs::create_dir_all(dir).with_context(|| format!("cannot make {} for the report", dir.display()))?;
        }
        ensure!(
            self.seconds.is_finite() && (0.1..=3_600.0).contains(&self.seconds),
            "--seconds is {}: choose 0.1 to 3600",
            self.seconds
        );
        ensure!(!self.outstanding.is_empty(), "--outstanding is empty: name at least one number");
        Ok(())
    }

    /// The measured time.
    pub(crate) fn measure(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    /// The time before it.
    pub(crate) fn warm_up(&self) -> Duration {
        Duration::from_millis(self.warm_up_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Waits {
        #[command(flatten)]
        wait: WaitArgs,
    }

    fn shape(size: usize, entries_per_datagram: Option<usize>, datagram_bytes: usize) -> ShapeArgs {
        ShapeArgs { size, entries_per_datagram, datagram_bytes }
    }

    #[test]
    fn a_wait_mode_survives_the_way_to_a_child() {
        let given = WaitArgs { wait: Wait::Yield, yield_idle_us: 7, yield_durable_us: 8 };
        let arguments = [vec!["x".to_string()], given.to_arguments()].concat();
        let read = Waits::parse_from(arguments).wait;
        assert_eq!(read.mode(), WaitMode::Yield { idle_us: 7, durable_us: 8 });
    }

    #[test]
    fn the_default_wait_mode_is_the_products() {
        let ours = Waits::parse_from(["x"]).wait.mode();
        assert_eq!(ours, synod::config::Config::default().wait_mode());
    }

    #[test]
    fn five_entries_of_256_bytes_fit_the_default_datagram() {
        let default = shape(256, None, 1_472);
        default.check().unwrap();
        assert_eq!((default.per_datagram(), default.max_batch_bytes()), (5, 1_408));
        shape(256, Some(5), 1_472).check().unwrap();
        shape(256, Some(6), 1_472).check().unwrap_err();
    }

    #[test]
    fn sizes_out_of_bounds_are_refused() {
        shape(1_350, None, 1_472).check().unwrap();
        shape(1_359, None, 1_472).check().unwrap_err();
        shape(0, None, 1_472).check().unwrap_err();
        shape(64, None, 1_473).check().unwrap_err();
    }
}
