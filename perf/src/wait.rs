//! The command `wait`: how the product's automatic wait mode compares with the fixed ones, in four situations: a core for
//! each thread that polls; more pipelines than cores; foreign CPU hogs on the cores; idle. The modes run one after the other
//! in each round, in an order that turns, and the ratio of each round counts.
//!
//! Under load, one entry is in flight and the rate is compared: it is the inverse of the mean latency, so that a mode cannot
//! buy a good median with a few lost time slices. Idle, processor time is compared, which only has to stay small. Each
//! measurement is a `bench` of this program, in a process of its own: its environment carries the mode to the nodes, its CPU
//! set is theirs.

use crate::bench::Durability;
use crate::cluster::{self, Cluster};
use crate::files;
use crate::host::{self, Host};
use crate::interrupt;
use crate::options::{ShapeArgs, Style};
use crate::product::{ClientSetup, ProductClient};
use crate::stats::Spread;
use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How far behind the best fixed mode the automatic one may stay.
const ALLOWED: f64 = 0.9;
/// The share of a core that an idle node may use.
const IDLE_CORES: f64 = 0.1;
/// CPUs in the situations that want more threads than CPUs.
const FEW_CPUS: usize = 2;
/// Nodes there: more than CPUs, and the client comes on top.
const NODES: u8 = 3;
/// How often an interruption is looked for while nothing happens on purpose.
const LOOK: Duration = Duration::from_millis(50);

/// Arguments of `wait`.
#[derive(Args, Debug)]
pub(crate) struct WaitBenchArgs {
    /// Which situations.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Situation::ALL)]
    situation: Vec<Situation>,
    /// Rounds; each measures every mode once.
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// How long each measurement takes, without its start and warm-up.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    seconds: f64,
    /// The synod program; left out: the one beside this, built anew under cargo.
    #[arg(long, value_name = "FILE")]
    synod: Option<PathBuf>,
    /// Where the logs lie: a real disk.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Fail if the automatic mode is not within 10 % of the best fixed one, or burns a core.
    #[arg(long)]
    strict: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// What goes on around the pipelines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
enum Situation {
    /// As many nodes as leave every thread that polls a CPU.
    CoreEach,
    /// Three nodes and a client on two CPUs.
    MorePipelines,
    /// The same, with a thread on each CPU that only computes.
    Hogs,
    /// Three nodes without a client's load.
    Idle,
}

impl Situation {
    const ALL: [Situation; 4] = [Situation::CoreEach, Situation::MorePipelines, Situation::Hogs, Situation::Idle];

    fn name(self) -> String {
        self.to_possible_value().expect("no variant is skipped").get_name().to_string()
    }
}

/// The modes by their names in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
enum Mode {
    Auto,
    Spin,
    Yield,
    Block,
}

impl Mode {
    const ALL: [Mode; 4] = [Mode::Auto, Mode::Spin, Mode::Yield, Mode::Block];

    fn name(self) -> &'static str {
        match self {
            Mode::Auto => "auto",
            Mode::Spin => "spin",
            Mode::Yield => "yield",
            Mode::Block => "block",
        }
    }
}

/// One measurement under load, as `bench -o json` tells it.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
struct Loaded {
    per_second: f64,
    p50_us: f64,
    p99_us: f64,
}

/// One measurement: under load, or the cores that an idle node used on average.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
enum Found {
    Loaded(Loaded),
    Idle {
        cores: f64,
    },
    /// A fixed mode that gets nothing done in this situation.
    Failed {
        error: String,
    },
}

/// What [`run_idle`] prints.
#[derive(Debug, Deserialize, Serialize)]
struct IdleFound {
    cores: f64,
}

type Round = BTreeMap<Mode, Found>;

/// One situation.
#[derive(Debug, Serialize)]
struct Row {
    situation: Situation,
    nodes: u8,
    cpus: usize,
    rounds: Vec<Round>,
    verdict: Verdict,
}

/// How the automatic mode did.
#[derive(Debug, Serialize)]
struct Verdict {
    /// The fixed mode with the best median.
    best: Option<Mode>,
    /// Under load: its rate divided by the best fixed mode's, of each round.
    rate_ratio: Option<Spread>,
    /// Idle: cores that a node used on average.
    cores: Option<Spread>,
    kept: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    host: Host,
    rows: Vec<Row>,
}

/// Measures and prints.
pub(crate) fn run(args: &WaitBenchArgs) -> anyhow::Result<()> {
    ensure!((0.5..=600.0).contains(&args.seconds), "--seconds is {}: choose 0.5 to 600", args.seconds);
    let program = cluster::program(args.synod.as_deref())?;
    let cpus = allowed_cpus()?;
    ensure!(cpus.len() >= FEW_CPUS, "this needs {FEW_CPUS} CPUs; {} may be used", cpus.len());
    let mut rows = Vec::new();
    for situation in &args.situation {
        rows.push(Setup::new(args, &program, *situation, &cpus).row()?);
    }
    let report = Report { host: Host::here()?, rows };
    match args.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&report)?),
        Style::Text => report.rows.iter().for_each(print_row),
    }
    let missed: Vec<String> =
        report.rows.iter().filter(|row| !row.verdict.kept).map(|row| row.situation.name()).collect();
    ensure!(!args.strict || missed.is_empty(), "the automatic mode falls short: {}", missed.join(", "));
    Ok(())
}

/// One situation on this machine.
struct Setup<'a> {
    args: &'a WaitBenchArgs,
    program: &'a Path,
    situation: Situation,
    nodes: u8,
    cpus: Vec<usize>,
}

impl<'a> Setup<'a> {
    fn new(args: &'a WaitBenchArgs, program: &'a Path, situation: Situation, cpus: &[usize]) -> Setup<'a> {
        // A client, and as many nodes as the other CPUs hold: three if they do.
        let alone = if cpus.len() > usize::from(NODES) { NODES } else { 1 };
        let (nodes, cpus) = match situation {
            Situation::CoreEach => (alone, cpus.to_vec()),
            _ => (NODES, cpus[..FEW_CPUS].to_vec()),
        };
        Setup { args, program, situation, nodes, cpus }
    }

    fn row(&self) -> anyhow::Result<Row> {
        let mut rounds = Vec::new();
        for number in 0..self.args.rounds as usize {
            let mut round = Round::new();
            for turn in 0..Mode::ALL.len() {
                let mode = Mode::ALL[(number + turn) % Mode::ALL.len()];
                interrupt::check()?;
                let found = self.measure(mode)?;
                if self.args.output == Style::Text {
                    eprintln!("round {}: {} {}", number + 1, self.situation.name(), found_line(mode, &found));
                }
                round.insert(mode, found);
            }
            rounds.push(round);
        }
        let verdict = if self.situation == Situation::Idle { judge_idle(&rounds) } else { judge_loaded(&rounds) };
        Ok(Row { situation: self.situation, nodes: self.nodes, cpus: self.cpus.len(), rounds, verdict })
    }

    /// A fixed mode may fail: a pure spinner among hogs elects no leader. The automatic one may not.
    fn measure(&self, mode: Mode) -> anyhow::Result<Found> {
        let found = match self.situation {
            Situation::Hogs => with_hogs(&self.cpus, || self.child(mode)),
            _ => self.child(mode),
        };
        match found {
            Err(error) if mode != Mode::Auto && interrupt::check().is_ok() => {
                Ok(Found::Failed { error: format!("{error:#}") })
            }
            other => other.with_context(|| format!("{}, {}", self.situation.name(), mode.name())),
        }
    }

    fn child(&self, mode: Mode) -> anyhow::Result<Found> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
        match self.situation {
            Situation::Idle => command.arg("wait-idle"),
            _ => command.args(["bench", "--skip-skeleton", "--outstanding", "1", "--rounds", "1", "-o", "json"]),
        };
        if self.situation == Situation::Hogs {
            // The client blocks, or its own late yields would hide those of the nodes; the automatic mode learns first.
            command.args(["--client-spin-us", "0", "--warm-up-ms", "1500"]);
        }
        command.arg("--nodes").arg(self.nodes.to_string()).arg("--seconds").arg(self.args.seconds.to_string());
        command.arg("--synod").arg(self.program).env("SYNOD__CPU__WAIT", mode.name()).stdin(Stdio::null());
        if let Some(dir) = &self.args.dir {
            command.arg("--dir").arg(dir);
        }
        bind(&mut command, &self.cpus);
        let ran = command.output().context("cannot run this program again")?;
        let errors = String::from_utf8_lossy(&ran.stderr);
        ensure!(ran.status.success(), "{} ({})", errors.trim(), ran.status);
        self.read(&ran.stdout)
    }

    fn read(&self, json: &[u8]) -> anyhow::Result<Found> {
        #[derive(Deserialize)]
        struct Level {
            product: Loaded,
        }
        #[derive(Deserialize)]
        struct Bench {
            levels: [Level; 1],
        }
        if self.situation == Situation::Idle {
            let IdleFound { cores } = serde_json::from_slice(json).context("wait-idle printed something else")?;
            return Ok(Found::Idle { cores });
        }
        let Bench { levels: [Level { product }] } =
            serde_json::from_slice(json).context("bench printed something else")?;
        Ok(Found::Loaded(product))
    }
}

/// Binds a child, and what it starts, to some CPUs; it ends with this program.
fn bind(command: &mut Command, cpus: &[usize]) {
    // SAFETY: all bytes zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    for cpu in cpus {
        // SAFETY: the number came out of such a set.
        unsafe { libc::CPU_SET(*cpu, &mut set) };
    }
    // SAFETY: both calls are async-signal-safe and touch no memory but the set.
    unsafe {
        command.pre_exec(move || {
            let bound = libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
            if bound != 0 || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGTERM) != 0 {
                return Err(std::io::Error::last_os_error());
            }
            Ok(())
        })
    };
}

/// The CPUs that this process may use.
fn allowed_cpus() -> anyhow::Result<Vec<usize>> {
    // SAFETY: all bytes zero is an empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: writes one live set.
    let asked = unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set) };
    ensure!(asked == 0, "sched_getaffinity: {}", std::io::Error::last_os_error());
    // SAFETY: reads one live set, within its size.
    Ok((0..libc::CPU_SETSIZE as usize).filter(|cpu| unsafe { libc::CPU_ISSET(*cpu, &set) }).collect())
}

/// Does `work` while a process on each CPU only computes. To the scheduler of the nodes they are strangers.
fn with_hogs<T>(cpus: &[usize], work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let mut hogs = Hogs(Vec::new());
    for cpu in cpus {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program's file")?);
        command.arg("wait-hog").stdin(Stdio::null()).stdout(Stdio::null());
        bind(&mut command, &[*cpu]);
        hogs.0.push(command.spawn().context("cannot start a hog")?);
    }
    let done = work()?;
    for hog in &mut hogs.0 {
        ensure!(hog.try_wait().context("cannot look at a hog")?.is_none(), "a hog ended before its time");
    }
    Ok(done)
}

struct Hogs(Vec<std::process::Child>);

impl Drop for Hogs {
    fn drop(&mut self) {
        for hog in &mut self.0 {
            // Both fail only if it is gone already.
            let _gone = hog.kill();
            let _reaped = hog.wait();
        }
    }
}

/// The hidden command `wait-hog`: computes until a signal, or its parent's end.
pub(crate) fn run_hog() -> anyhow::Result<()> {
    loop {
        std::hint::spin_loop();
        interrupt::check()?;
    }
}

/// Arguments of the hidden command `wait-idle`.
#[derive(Args, Debug)]
pub(crate) struct IdleArgs {
    #[arg(long)]
    nodes: u8,
    #[arg(long)]
    seconds: f64,
    #[arg(long)]
    synod: PathBuf,
    #[arg(long)]
    dir: Option<PathBuf>,
}

/// Starts a cluster, waits until it serves, leaves it alone, and prints what it used meanwhile.
pub(crate) fn run_idle(args: &IdleArgs) -> anyhow::Result<()> {
    let dir = files::directory(args.dir.as_deref())?;
    let shape = ShapeArgs { size: 256, entries_per_datagram: None, datagram_bytes: 1_472 };
    let mut cluster = Cluster::start(&args.synod, dir.path(), args.nodes, &shape, Durability::Disk)?;
    // A session can be opened only when a leader serves.
    drop(ProductClient::connect(&mut cluster, &ClientSetup { shape, window: 1, spin: Duration::ZERO })?);
    let processes = cluster.processes();
    let (begun, before) = (Instant::now(), host::processor_seconds(&processes)?);
    while begun.elapsed().as_secs_f64() < args.seconds {
        std::thread::sleep(LOOK);
        interrupt::check()?;
    }
    let used = host::processor_seconds(&processes)? - before;
    let cores = used / begun.elapsed().as_secs_f64() / f64::from(args.nodes);
    cluster.check()?;
    cluster.stop()?;
    println!("{}", serde_json::to_string(&IdleFound { cores })?);
    Ok(())
}

fn rate(found: &Found) -> Option<f64> {
    match found {
        Found::Loaded(loaded) => Some(loaded.per_second),
        Found::Failed { .. } => Some(0.0),
        Found::Idle { .. } => None,
    }
}

fn judge_loaded(rounds: &[Round]) -> Verdict {
    let median = |mode: Mode| Spread::of(rounds.iter().filter_map(|round| rate(&round[&mode]))).median;
    let fixed = [Mode::Spin, Mode::Yield, Mode::Block];
    let best = fixed.into_iter().max_by(|one, other| median(*one).total_cmp(&median(*other)));
    // A round in which the best fixed mode got nothing done has no ratio.
    let ratios = best.map(|best| {
        rounds.iter().filter_map(move |round| {
            let (auto, fixed) = (rate(&round[&Mode::Auto])?, rate(&round[&best])?);
            (fixed > 0.0).then_some(auto / fixed)
        })
    });
    let ratios: Vec<f64> = ratios.into_iter().flatten().collect();
    let rate_ratio = (!ratios.is_empty()).then(|| Spread::of(ratios));
    // With no ratio at all, no fixed mode works here and the automatic one does.
    let kept = rate_ratio.is_none_or(|ratio| ratio.median >= ALLOWED);
    Verdict { best, rate_ratio, cores: None, kept }
}

fn judge_idle(rounds: &[Round]) -> Verdict {
    let cores = rounds.iter().filter_map(|round| match round[&Mode::Auto] {
        Found::Idle { cores } => Some(cores),
        _ => None,
    });
    let cores = Spread::of(cores);
    Verdict { best: None, rate_ratio: None, cores: Some(cores), kept: cores.median <= IDLE_CORES }
}

fn found_line(mode: Mode, found: &Found) -> String {
    match found {
        Found::Loaded(Loaded { per_second, p50_us, p99_us }) => {
            format!("{:<6} {per_second:>8.0}/s  p50 {p50_us:>8.1} µs  p99 {p99_us:>8.1} µs", mode.name())
        }
        Found::Idle { cores } => format!("{:<6} {cores:.3} cores a node", mode.name()),
        Found::Failed { error } => format!("{:<6} failed: {error}", mode.name()),
    }
}

fn print_row(row: &Row) {
    println!("\n{}: {} nodes, {} CPUs", row.situation.name(), row.nodes, row.cpus);
    for mode in Mode::ALL {
        println!("  {}", median_line(mode, &row.rounds));
    }
    let Verdict { best, rate_ratio, cores, kept } = &row.verdict;
    let mark = if *kept { "" } else { "  FAIL" };
    match (best, rate_ratio, cores) {
        (Some(best), Some(ratio), _) => {
            let what = format!("  rate, auto / {}, the best fixed mode", best.name());
            println!("{}{mark}", crate::report::spread(&what, ratio));
        }
        (_, _, Some(cores)) => println!("{}{mark}", crate::report::spread("  auto, cores a node", cores)),
        _ => println!("  no fixed mode works here"),
    }
}

/// A mode's medians over the rounds.
fn median_line(mode: Mode, rounds: &[Round]) -> String {
    let median = |of: fn(&Found) -> Option<f64>| {
        let values: Vec<f64> = rounds.iter().filter_map(|round| of(&round[&mode])).collect();
        (!values.is_empty()).then(|| Spread::of(values).median)
    };
    let failed = rounds.iter().filter(|round| matches!(round[&mode], Found::Failed { .. })).count();
    let per_second = median(|found| if let Found::Loaded(loaded) = found { Some(loaded.per_second) } else { None });
    let p50_us = median(|found| if let Found::Loaded(loaded) = found { Some(loaded.p50_us) } else { None });
    let p99_us = median(|found| if let Found::Loaded(loaded) = found { Some(loaded.p99_us) } else { None });
    let cores = median(|found| if let Found::Idle { cores } = found { Some(*cores) } else { None });
    let text = match (per_second, p50_us, p99_us, cores) {
        (Some(per_second), Some(p50_us), Some(p99_us), _) => {
            found_line(mode, &Found::Loaded(Loaded { per_second, p50_us, p99_us }))
        }
        (.., Some(cores)) => found_line(mode, &Found::Idle { cores }),
        _ => format!("{:<6} nothing", mode.name()),
    };
    if failed > 0 { format!("{text}  ({failed} of {} rounds failed)", rounds.len()) } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn loaded(per_second: f64) -> Found {
        Found::Loaded(Loaded { per_second, p50_us: 1.0, p99_us: 2.0 })
    }

    fn round(auto: f64, spin: Option<f64>, yields: f64, block: f64) -> Round {
        let spin = spin.map_or(Found::Failed { error: "no leader".into() }, loaded);
        [(Mode::Auto, loaded(auto)), (Mode::Spin, spin), (Mode::Yield, loaded(yields)), (Mode::Block, loaded(block))]
            .into()
    }

    #[test]
    fn auto_is_held_against_the_best_fixed_mode_round_by_round() {
        let rounds = [round(900.0, None, 1_000.0, 500.0), round(95.0, Some(1.0), 100.0, 50.0)];
        let verdict = judge_loaded(&rounds);
        assert_eq!(verdict.best, Some(Mode::Yield));
        let ratio = verdict.rate_ratio.unwrap();
        assert!((ratio.min - 0.9).abs() < 1e-9 && (ratio.max - 0.95).abs() < 1e-9, "{ratio:?}");
        assert!(verdict.kept);
        assert!(!judge_loaded(&[round(800.0, None, 1_000.0, 500.0)]).kept);
        assert_eq!(
            median_line(Mode::Spin, &rounds),
            "spin          1/s  p50      1.0 µs  p99      2.0 µs  (1 of 2 rounds failed)"
        );
    }

    #[test]
    fn an_idle_node_must_not_burn_a_core() {
        let idle = |cores| Round::from(Mode::ALL.map(|mode| (mode, Found::Idle { cores })));
        assert!(judge_idle(&[idle(0.02)]).kept);
        assert!(!judge_idle(&[idle(0.9)]).kept);
    }
}
