//! Runs happen in a child process, because an assertion of the product ends the process in a release build (and because a
//! run that hangs must not hang everything). The child prints a line a seed; this is both ends of that.

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;
use synod_sim::{Failure, Outcome, Plan, Profile, Violation, run};

/// A run that takes longer than this hangs.
const HANG: Duration = Duration::from_secs(120);
/// Lines of a trace that go into a failure's report.
const REPORTED: usize = 60;

/// What a worker is to run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Order {
    /// The first seed.
    #[arg(long, default_value_t = 1)]
    from: u64,
    /// How many.
    #[arg(long, default_value_t = 1)]
    count: u64,
    /// Which faults.
    #[arg(long, value_enum, default_value = "mixed")]
    profile: Profile,
    /// How long the faults last, simulated seconds; the seed decides if not given.
    #[arg(long)]
    chaos_s: Option<u64>,
    /// A known bug to put back.
    #[arg(long)]
    mutant: Option<String>,
    /// A plan's file, instead of seeds.
    #[arg(long)]
    plan: Option<PathBuf>,
    /// Print every event.
    #[arg(long)]
    trace: bool,
}

/// A seed that passed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Passed {
    pub(crate) outcome: Outcome,
    /// The processor time that it took: no part of the outcome, which is the same at each run.
    pub(crate) cpu_ns: u64,
}

/// What became of a seed.
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    Passed(Box<Passed>),
    Failed(Failure),
}

/// How a batch ended.
#[derive(Debug, Default)]
pub(crate) struct Ended {
    /// Seeds that were run.
    pub(crate) done: u64,
    /// The failure at which the caller stopped.
    pub(crate) stopped: Option<(u64, Failure)>,
}

#[derive(Debug, Serialize, Deserialize)]
enum Line {
    Begin(u64),
    Passed(Box<Passed>),
    Failed(Box<Failure>),
}

impl Order {
    pub(crate) fn seeds(from: u64, count: u64, profile: Profile) -> Order {
        Order { from, count, profile, chaos_s: None, mutant: None, plan: None, trace: false }
    }

    pub(crate) fn for_seconds(self, chaos_s: Option<u64>) -> Order {
        Order { chaos_s, ..self }
    }

    pub(crate) fn with_mutant(self, mutant: &str) -> Order {
        Order { mutant: Some(mutant.to_owned()), ..self }
    }

    fn plans(&self) -> anyhow::Result<Vec<Plan>> {
        if let Some(path) = &self.plan {
            let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            return Ok(vec![serde_json::from_str(&text)?]);
        }
        Ok((self.from..self.from + self.count).map(|seed| self.plan_of(seed)).collect())
    }

    fn plan_of(&self, seed: u64) -> Plan {
        plan(seed, self.profile, self.chaos_s, self.mutant.clone())
    }

    fn spawn(&self) -> anyhow::Result<Child> {
        let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
        command.args(["worker", "--from", &self.from.to_string(), "--count", &self.count.to_string()]);
        let profile = clap::ValueEnum::to_possible_value(&self.profile).context("a profile without a name")?;
        command.args(["--profile", profile.get_name()]);
        if let Some(chaos_s) = self.chaos_s {
            command.args(["--chaos-s", &chaos_s.to_string()]);
        }
        if let Some(mutant) = &self.mutant {
            command.args(["--mutant", mutant]);
        }
        if let Some(plan) = &self.plan {
            command.arg("--plan").arg(plan);
        }
        if self.trace {
            command.arg("--trace");
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().context("cannot start a worker")
    }
}

/// The plan of a seed, but for what the caller wants otherwise.
pub(crate) fn plan(seed: u64, profile: Profile, chaos_s: Option<u64>, mutant: Option<String>) -> Plan {
    let plan = Plan { mutant, ..Plan::new(seed, profile) };
    Plan { safety_ms: chaos_s.map_or(plan.safety_ms, |seconds| seconds * 1_000), ..plan }
}

/// The child's side.
pub(crate) fn work(order: &Order) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    for plan in order.plans()? {
        if order.trace {
            drop(out);
            // Violations and panics alike are the caller's to judge; it wants the lines.
            if let Err(failure) = run(&plan, true) {
                bail!("{}", failure.violation.detail);
            }
            return Ok(());
        }
        writeln!(out, "{}", serde_json::to_string(&Line::Begin(plan.seed))?)?;
        let began_ns = cpu_ns();
        let line = match run(&plan, false) {
            Ok(outcome) => Line::Passed(Box::new(Passed { outcome, cpu_ns: cpu_ns() - began_ns })),
            Err(failure) => Line::Failed(failure),
        };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(())
}

/// The processor time of this thread so far.
fn cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Runs a batch; `on` gets each seed's verdict and says whether to go on.
pub(crate) fn supervise(order: &Order, on: &mut dyn FnMut(u64, Verdict) -> bool) -> anyhow::Result<Ended> {
    let mut ended = Ended::default();
    let mut left = order.clone();
    let mut hung_before = None;
    loop {
        let mut child = left.spawn()?;
        let (lines, errors) = (lines_of(child.stdout.take()), lines_of(child.stderr.take()));
        let mut running = None;
        let mut hung = false;
        loop {
            let line = match lines.recv_timeout(HANG) {
                Ok(line) => line,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
                Err(mpsc::RecvTimeoutError::Timeout) => {
                    hung = true;
                    break;
                }
            };
            let verdict = match serde_json::from_str(&line).with_context(|| format!("a worker said {line:?}"))? {
                Line::Begin(seed) => {
                    running = Some(seed);
                    continue;
                }
                Line::Passed(passed) => Verdict::Passed(passed),
                Line::Failed(failure) => Verdict::Failed(*failure),
            };
            let seed = running.take().context("a verdict without a seed")?;
            ended.done += 1;
            if !told(on, &mut ended, seed, verdict) {
                end(&mut child)?;
                return Ok(ended);
            }
        }
        end(&mut child)?;
        let Some(seed) = running else {
            if ended.done < order.count && order.plan.is_none() {
                bail!("a worker ended early: {}", errors.iter().collect::<Vec<_>>().join(" "));
            }
            return Ok(ended);
        };
        if hung && hung_before != Some(seed) {
            // A machine that stood still looks the same: once more, before it counts.
            hung_before = Some(seed);
            left.count = left.from + left.count - seed;
            left.from = seed;
            continue;
        }
        // It died, or hangs, in the middle of this seed.
        let said = errors.iter().collect::<Vec<_>>().join(" ");
        let detail = if hung { format!("the run did not end within {} s", HANG.as_secs()) } else { said };
        let plan = left.plans()?.into_iter().find(|plan| plan.seed == seed).context("a seed that was not ordered")?;
        let property = if hung { "the run ends" } else { "no assertion fails" };
        let violation = Violation { property: property.to_owned(), detail };
        ended.done += 1;
        if !told(on, &mut ended, seed, Verdict::Failed(Failure { plan, violation, at_ns: 0, events: Vec::new() })) {
            return Ok(ended);
        }
        if ended.done >= order.count {
            return Ok(ended);
        }
        left.count = order.from + order.count - (seed + 1);
        left.from = seed + 1;
    }
}

fn told(on: &mut dyn FnMut(u64, Verdict) -> bool, ended: &mut Ended, seed: u64, verdict: Verdict) -> bool {
    let failure = match &verdict {
        Verdict::Failed(failure) => Some(failure.clone()),
        Verdict::Passed(_) => None,
    };
    let go_on = on(seed, verdict);
    if !go_on {
        ended.stopped = failure.map(|failure| (seed, failure));
    }
    go_on
}

/// The child is ours: nobody else is ended here.
fn end(child: &mut Child) -> anyhow::Result<()> {
    if child.try_wait().context("cannot ask after a worker")?.is_none() {
        // It may end by itself in this moment; then there is nothing left to end.
        if let Err(error) = child.kill() {
            tracing::debug!(%error, "a worker had ended already");
        }
    }
    child.wait().context("cannot wait for a worker")?;
    Ok(())
}

/// Lines as they come, until the pipe closes.
fn lines_of<R: std::io::Read + Send + 'static>(pipe: Option<R>) -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel();
    if let Some(pipe) = pipe {
        std::thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
    }
    receive
}

/// Runs one plan in a child.
pub(crate) fn one(plan: &Plan) -> anyhow::Result<Verdict> {
    let file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(file.path(), serde_json::to_vec(plan)?).context("cannot write the plan")?;
    let order = Order { plan: Some(file.path().to_path_buf()), ..Order::seeds(plan.seed, 1, plan.profile) };
    let mut found = None;
    supervise(&order, &mut |_, verdict| {
        found = Some(verdict);
        true
    })?;
    found.context("the worker said nothing")
}

/// The last events of a run, by running it again with its trace on.
pub(crate) fn last_events(plan: &Plan) -> anyhow::Result<Vec<String>> {
    let file = tempfile::NamedTempFile::new().context("cannot make a temporary file")?;
    std::fs::write(file.path(), serde_json::to_vec(plan)?).context("cannot write the plan")?;
    let order =
        Order { plan: Some(file.path().to_path_buf()), trace: true, ..Order::seeds(plan.seed, 1, plan.profile) };
    let mut child = order.spawn()?;
    let (lines, _errors) = (lines_of(child.stdout.take()), lines_of(child.stderr.take()));
    let mut last = std::collections::VecDeque::new();
    while let Ok(line) = lines.recv_timeout(HANG) {
        if last.len() == REPORTED {
            last.pop_front();
        }
        last.push_back(line);
    }
    end(&mut child)?;
    Ok(last.into())
}
