//! Samples of a process by the kernel's timer (`perf record -e cpu-clock`: a virtual machine has no counters), folded, and
//! drawn as a flame graph. `perf` need not be of the kernel's version: Debian's 6.1 was seen to work on 6.18.

use anyhow::{Context, bail, ensure};
use inferno::collapse::Collapse;
use inferno::collapse::perf::{Folder, Options as FoldOptions};
use inferno::flamegraph;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// How much of a stack a sample keeps: enough for a turn of a core.
const STACK_BYTES: u32 = 8_192;

/// A function's part of the samples.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    /// Its name.
    pub(crate) function: String,
    /// Of all samples, those in which it was the innermost.
    pub(crate) part: f64,
}

/// A `perf record` under way. Dropping it ends it.
pub(crate) struct Sampler {
    perf: Child,
    data: PathBuf,
    errors: PathBuf,
}

impl Sampler {
    /// Samples all threads of `process` from about now on; its files go into `scratch`.
    pub(crate) fn start(process: u32, frequency: u32, scratch: &Path) -> anyhow::Result<Sampler> {
        let (data, errors) = (scratch.join("perf.data"), scratch.join("perf.stderr"));
        let log = File::create(&errors).with_context(|| format!("cannot create {}", errors.display()))?;
        let mut command = Command::new("perf");
        command.args(["record", "-e", "cpu-clock", "-F", &frequency.to_string()]);
        command.arg(format!("--call-graph=dwarf,{STACK_BYTES}")).args(["-p", &process.to_string(), "-o"]).arg(&data);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let perf = command.spawn().context("cannot run perf; Debian's package is called linux-perf")?;
        Ok(Sampler { perf, data, errors })
    }

    /// Ends it; writes `flame.svg` and `stacks.folded` into `out`; the functions, those with the most samples first.
    pub(crate) fn finish(mut self, title: &str, out: &Path) -> anyhow::Result<Vec<Row>> {
        if let Some(status) = self.perf.try_wait().context("cannot look at perf")? {
            bail!("perf cannot sample here ({status}): {}", self.last_words());
        }
        // SAFETY: sends a signal to a child that was not waited for.
        let sent = unsafe { libc::kill(self.perf.id() as libc::pid_t, libc::SIGINT) };
        ensure!(sent == 0, "cannot end perf: {}", std::io::Error::last_os_error());
        self.perf.wait().context("cannot wait for perf")?;
        let folded = self.fold()?;
        ensure!(!folded.is_empty(), "perf took no samples: {}", self.last_words());
        let stacks = out.join("stacks.folded");
        std::fs::write(&stacks, &folded).with_context(|| format!("cannot write {}", stacks.display()))?;
        draw(&folded, title, &out.join("flame.svg"))?;
        rows(&folded).context("folded stacks have an unknown form")
    }

    fn last_words(&self) -> String {
        std::fs::read_to_string(&self.errors).map_or_else(|error| error.to_string(), |text| text.trim().to_owned())
    }

    /// One line a stack: `thread;outer;inner count`.
    fn fold(&self) -> anyhow::Result<String> {
        let mut command = Command::new("perf");
        // Inlined frames would each cost a search of the debug information: minutes.
        command.args(["script", "--no-inline", "-i"]).arg(&self.data);
        let mut script = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let told = script.stdout.take().context("perf script has no output")?;
        let mut folded = Vec::new();
        let folding = Folder::from(FoldOptions::default()).collapse(BufReader::new(told), &mut folded);
        let status = script.wait().context("cannot wait for perf script")?;
        folding.context("perf's stacks cannot be read")?;
        ensure!(status.success(), "perf script failed ({status})");
        String::from_utf8(folded).context("a function's name is no text")
    }
}

impl Drop for Sampler {
    fn drop(&mut self) {
        // After `finish` there is nothing left to end.
        let _gone = self.perf.kill();
        let _reaped = self.perf.wait();
    }
}

fn draw(folded: &str, title: &str, to: &Path) -> anyhow::Result<()> {
    let mut options = flamegraph::Options::default();
    options.title = title.to_owned();
    options.count_name = "samples".to_owned();
    let file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    flamegraph::from_lines(&mut options, folded.lines(), file).context("a flame graph cannot be drawn")
}

fn rows(folded: &str) -> Option<Vec<Row>> {
    let (mut counts, mut all) = (BTreeMap::<&str, u64>::new(), 0);
    for line in folded.lines() {
        let (stack, count) = line.rsplit_once(' ')?;
        let count: u64 = count.parse().ok()?;
        *counts.entry(stack.rsplit(';').next()?).or_default() += count;
        all += count;
    }
    let row = |(function, count): (&str, u64)| Row { function: function.into(), part: count as f64 / all as f64 };
    let mut rows: Vec<Row> = counts.into_iter().map(row).collect();
    rows.sort_by(|left, right| right.part.total_cmp(&left.part));
    Some(rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOLDED: &str = "group-0;turn;step 30\ngroup-0;turn 10\nhouse;step 60\n";

    #[test]
    fn the_innermost_function_has_the_sample() {
        let told = rows(FOLDED).unwrap();
        let row = |function: &str, part| Row { function: function.into(), part };
        assert_eq!(told, [row("step", 0.9), row("turn", 0.1)]);
        assert_eq!(rows("no count"), None);
    }

    #[test]
    fn a_flame_graph_is_drawn() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("flame.svg");
        draw(FOLDED, "a test", &file).unwrap();
        let svg = std::fs::read_to_string(&file).unwrap();
        assert!(svg.contains("<svg") && svg.contains("group-0") && svg.contains("a test"));
    }
}
