//! Nodes as child processes: they die with this program whatever ends it, and what they said last is told. Used by every
//! peer and by `syncs`.

use anyhow::{Context, bail};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines that are kept of what a process writes to stderr.
const LAST_LINES: usize = 5;

/// A process that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    said: Arc<Mutex<VecDeque<String>>>,
    /// The line that was waited for came.
    ready: Receiver<()>,
}

impl Process {
    /// Starts it; `ready` is a part of the line on stderr by which it says that it is.
    pub(crate) fn start(name: &str, command: &mut Command, ready: &'static str) -> anyhow::Result<Process> {
        let parent = rustix::process::getpid();
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        // SAFETY: both calls are async-signal-safe and touch no memory of this process.
        unsafe {
            command.pre_exec(move || {
                rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?;
                // A parent that was gone before the line above would never be noticed.
                if rustix::process::getppid() != Some(parent) {
                    return Err(std::io::Error::other("the parent is gone"));
                }
                Ok(())
            })
        };
        let program = command.get_program().to_string_lossy().into_owned();
        let mut child = command.spawn().with_context(|| format!("cannot start {program}"))?;
        let stderr = child.stderr.take().context("stderr is a pipe")?;
        let said = Arc::new(Mutex::new(VecDeque::new()));
        let (sender, receiver) = channel();
        let keep = said.clone();
        std::thread::spawn(move || listen(stderr, ready, &keep, &sender));
        Ok(Process { name: name.into(), child, said, ready: receiver })
    }

    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits for its line.
    pub(crate) fn wait_ready(&self, until: Instant) -> anyhow::Result<()> {
        match self.ready.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(()) => Ok(()),
            Err(RecvTimeoutError::Timeout) => bail!("{} was not ready in time: {}", self.name, self.last_words()),
            Err(RecvTimeoutError::Disconnected) => bail!("{} ended: {}", self.name, self.last_words()),
        }
    }

    /// Ends it in order and waits.
    pub(crate) fn interrupt(mut self) -> anyhow::Result<()> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).context("cannot signal a process")?;
        self.child.wait().with_context(|| format!("cannot wait for {}", self.name))?;
        Ok(())
    }

    /// An error if it ended.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        match self.child.try_wait().context("cannot look at a process")? {
            Some(status) => bail!("{} ended ({status}): {}", self.name, self.last_words()),
            None => Ok(()),
        }
    }

    fn last_words(&self) -> String {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_empty() { "it said nothing".into() } else { said.iter().cloned().collect::<Vec<_>>().join(" | ") }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Where it has ended already both fail, and nothing is left to end.
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// Reads what a process says until it ends, so that its pipe never fills. Its words need not be UTF-8.
fn listen(stderr: impl Read, ready: &str, keep: &Mutex<VecDeque<String>>, sender: &Sender<()>) {
    for line in BufReader::new(stderr).split(b'\n') {
        let (line, failed) = match line {
            Ok(line) => (String::from_utf8_lossy(&line).into_owned(), false),
            Err(error) => (format!("(what it says cannot be read any more: {error})"), true),
        };
        if line.contains(ready) {
            // Nobody waits any more once the process is being dropped.
            let _given_up = sender.send(());
        }
        let mut said = keep.lock().unwrap_or_else(PoisonError::into_inner);
        if said.len() == LAST_LINES {
            said.pop_front();
        }
        said.push_back(line);
        if failed {
            return;
        }
    }
}

/// Waits until all are ready.
pub(crate) fn wait_all_ready(processes: &[Process], wait: Duration) -> anyhow::Result<()> {
    let until = Instant::now() + wait;
    processes.iter().try_for_each(|process| process.wait_ready(until))
}

/// Ports that were free a moment ago, for servers that bind theirs themselves.
pub(crate) fn free_ports(count: usize) -> anyhow::Result<Vec<u16>> {
    let listeners: Vec<_> =
        (0..count).map(|_| std::net::TcpListener::bind(("127.0.0.1", 0))).collect::<Result<_, _>>()?;
    let ports = listeners.iter().map(|listener| listener.local_addr().map(|address| address.port()));
    ports.collect::<Result<_, _>>().context("a bound socket has an address")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Process {
        Process::start("shell", Command::new("/bin/sh").args(["-c", script]), "ready").unwrap()
    }

    #[test]
    fn readiness_and_a_death_are_told_apart() {
        let until = Instant::now() + Duration::from_secs(10);
        shell("echo ready >&2; exec cat").wait_ready(until).unwrap();
        let error = shell("echo 'no disk' >&2; exit 3").wait_ready(until).unwrap_err().to_string();
        assert!(error.contains("no disk") && error.contains("ended"), "{error}");
    }

    #[test]
    fn words_that_are_no_text_hide_nothing_that_follows() {
        let until = Instant::now() + Duration::from_secs(10);
        let mut process = shell("printf '\\377\\376\\n' >&2; echo ready >&2; echo 'disk gone' >&2; exit 3");
        process.wait_ready(until).unwrap();
        process.child.wait().unwrap();
        let read_on = process.ready.recv_timeout(Duration::from_secs(10));
        assert_eq!(read_on, Err(RecvTimeoutError::Disconnected), "it read to the end");
        let error = process.check().unwrap_err().to_string();
        assert!(error.contains("disk gone"), "{error}");
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let error = Process::start("x", &mut Command::new("/no/such/program"), "").unwrap_err();
        assert!(error.to_string().contains("/no/such/program"));
    }
}
