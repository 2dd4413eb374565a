//! Proof that a peer syncs: `strace` writes down each call of its processes that makes data durable, with the file's
//! path, while one entry at a time is committed. Background work of a peer syncs other files; only its log's count.
//!
//! A write is durable when it returns if its file was opened with O_DSYNC (or O_SYNC) or if its own flags say so; a write
//! of the kernel's AIO (libraft's) when its completion is fetched. Only calls that returned without an error count.

use crate::contract::NodeSyncs;
use crate::processes::Process;
use anyhow::{Context, bail};
use rustix::fs::OFlags;
use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The calls that are written down: what syncs, what writes a file, what completes a write, and what opens a file.
const CALLS: &str = "trace=fsync,fdatasync,msync,write,pwrite64,pwritev,pwritev2,io_submit,io_getevents,io_pgetevents,\
                     open,openat,openat2,creat";
/// How long `strace` may take to hold a process.
const ATTACH_WAIT: Duration = Duration::from_secs(10);

/// One `strace` a node.
pub(crate) struct Count {
    tracers: Vec<Tracer>,
}

struct Tracer {
    strace: Process,
    out: PathBuf,
    /// Files that its process had open to write durably when the count began.
    durable: HashSet<String>,
}

impl Count {
    /// Starts to count in these processes.
    pub(crate) fn start(processes: &[u32], dir: &Path, strace: &Path) -> anyhow::Result<Count> {
        let mut tracers = Vec::new();
        for process in processes {
            let out = dir.join(format!("strace-{process}"));
            let mut command = Command::new(strace);
            command.args(["-f", "-y", "-e", CALLS, "-o"]).arg(&out).args(["-p", &process.to_string()]);
            tracers.push(Tracer {
                strace: Process::start("strace", &mut command, "attached")?,
                out,
                durable: HashSet::new(),
            });
        }
        let until = Instant::now() + ATTACH_WAIT;
        tracers.iter().try_for_each(|tracer| tracer.strace.wait_ready(until))?;
        // Only now: what is opened from here on, `strace` sees.
        for (tracer, process) in tracers.iter_mut().zip(processes) {
            tracer.durable = open_durable(*process)?;
        }
        Ok(Count { tracers })
    }

    /// Ends it; `is_log` tells the log's files from others.
    pub(crate) fn stop(self, is_log: fn(&str) -> bool) -> anyhow::Result<Vec<NodeSyncs>> {
        let mut nodes = Vec::new();
        for Tracer { mut strace, out, durable } in self.tracers {
            strace.check()?;
            strace.interrupt()?;
            let text = std::fs::read(&out).with_context(|| format!("cannot read {}", out.display()))?;
            nodes.push(count(&String::from_utf8_lossy(&text), durable, &is_log));
        }
        Ok(nodes)
    }
}

/// The files of a process whose writes are durable when they return.
fn open_durable(process: u32) -> anyhow::Result<HashSet<String>> {
    let mut durable = HashSet::new();
    let fds = format!("/proc/{process}/fd");
    for entry in std::fs::read_dir(&fds).with_context(|| format!("cannot read {fds}"))? {
        let number = entry.with_context(|| format!("cannot read {fds}"))?.file_name();
        let number = number.to_string_lossy();
        // One that was closed meanwhile is gone, and no write to it is to come.
        let (Ok(file), Ok(info)) = (
            std::fs::read_link(format!("{fds}/{number}")),
            std::fs::read_to_string(format!("/proc/{process}/fdinfo/{number}")),
        ) else {
            continue;
        };
        if is_durable_info(&info) {
            durable.insert(file.to_string_lossy().into_owned());
        }
    }
    Ok(durable)
}

/// Reads `/proc/PID/fdinfo/FD`, where the flags stand in octal digits. O_SYNC contains O_DSYNC.
fn is_durable_info(info: &str) -> bool {
    let flags = info.lines().find_map(|line| line.strip_prefix("flags:"));
    let flags = flags.and_then(|digits| u32::from_str_radix(digits.trim(), 8).ok());
    flags.is_some_and(|flags| flags & OFlags::DSYNC.bits() != 0)
}

/// Where `strace` is: among the installed tools, or on the path.
pub(crate) fn find(tools: &Path) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let places = std::iter::once(tools.join("bin")).chain(std::env::split_paths(&path));
    match places.map(|place| place.join("strace")).find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!("strace is not installed: syncs cannot be counted; perf/peers/install.sh fetches it"),
    }
}

/// Counts in what `strace -f -y` wrote, beginning with these files open to write durably.
fn count(text: &str, durable: HashSet<String>, is_log: &dyn Fn(&str) -> bool) -> NodeSyncs {
    let mut counter = Counter { durable, aio: HashMap::new(), is_log, counted: NodeSyncs::default() };
    for line in whole_calls(text) {
        if let Some(call) = Call::parse(&line) {
            counter.take(&call);
        }
    }
    counter.counted
}

/// A line for each call. One of a thread that blocks is written in two parts: `12  fdatasync(7</path> <unfinished ...>`
/// and `12  <... fdatasync resumed>) = 0`. Of a call that began before `strace` came, only the second part is there.
fn whole_calls(text: &str) -> Vec<String> {
    let mut begun = HashMap::new();
    let mut whole = Vec::new();
    for line in text.lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let call = call.trim_start();
        if let Some(beginning) = call.strip_suffix("<unfinished ...>") {
            begun.insert(thread, beginning);
        } else if let Some(resumed) = call.strip_prefix("<... ") {
            if let (Some(beginning), Some((_, end))) = (begun.remove(thread), resumed.split_once(" resumed>")) {
                whole.push(format!("{beginning}{end}"));
            }
        } else {
            whole.push(call.into());
        }
    }
    whole
}

/// A call that returned without an error.
struct Call<'a> {
    name: &'a str,
    arguments: &'a str,
    result: &'a str,
}

impl Call<'_> {
    /// Reads `name(arguments) = result`.
    fn parse(line: &str) -> Option<Call<'_>> {
        let (name, rest) = line.split_once('(')?;
        let (arguments, result) = rest.rsplit_once(" = ")?;
        let arguments = arguments.trim_end().strip_suffix(')')?;
        result.starts_with(|first: char| first.is_ascii_digit()).then_some(Call { name, arguments, result })
    }
}

/// What is known after some of the calls.
struct Counter<'a> {
    /// Files that are open to write durably.
    durable: HashSet<String>,
    /// Durable writes of the kernel's AIO that were submitted, by what the program will know them again by: their files.
    aio: HashMap<String, String>,
    is_log: &'a dyn Fn(&str) -> bool,
    counted: NodeSyncs,
}

impl Counter<'_> {
    fn take(&mut self, call: &Call<'_>) {
        match call.name {
            "open" | "openat" | "openat2" | "creat" => self.open(call),
            "fsync" | "fdatasync" => self.add(call.name, file(call.arguments)),
            "msync" if call.arguments.contains("MS_SYNC") => self.add(call.name, file(call.arguments)),
            "write" | "pwrite64" | "pwritev" | "pwritev2" => {
                let file = file(call.arguments);
                if self.durable.contains(file) || says_durable(call.arguments) {
                    self.add(call.name, file);
                }
            }
            "io_submit" => self.submit(call),
            "io_getevents" | "io_pgetevents" => self.complete(call),
            _ => {}
        }
    }

    fn add(&mut self, name: &str, file: &str) {
        *self.counted.calls.entry(name.into()).or_default() += 1;
        self.counted.log += u64::from((self.is_log)(file));
    }

    /// `openat(AT_FDCWD</>, "/d/open-1", O_WRONLY|O_CREAT|O_DSYNC, 0600) = 16</d/open-1>`
    fn open(&mut self, call: &Call<'_>) {
        let file = file(call.result);
        if ["O_DSYNC", "O_SYNC"].iter().any(|flag| call.arguments.contains(flag)) {
            self.durable.insert(file.into());
        } else {
            self.durable.remove(file);
        }
    }

    /// `io_submit(0x7f, 1, [{aio_data=0x56, aio_rw_flags=RWF_NOWAIT, aio_lio_opcode=IOCB_CMD_PWRITEV,
    /// aio_fildes=16</d/open-1>, aio_buf=[…], aio_offset=0}]) = 1`. What was submitted before under the same name was
    /// refused, or is done.
    fn submit(&mut self, call: &Call<'_>) {
        for request in call.arguments.split("{aio_data=").skip(1) {
            let Some((name, request)) = request.split_once(',') else { continue };
            let Some((_, target)) = request.split_once("aio_fildes=") else { continue };
            let file = file(target);
            let syncs = request.contains("IOCB_CMD_FSYNC") || request.contains("IOCB_CMD_FDSYNC");
            let writes = request.contains("IOCB_CMD_PWRITE");
            if syncs || writes && (self.durable.contains(file) || says_durable(request)) {
                self.aio.insert(name.into(), file.into());
            } else {
                self.aio.remove(name);
            }
        }
    }

    /// `io_getevents(0x7f, 1, 1, [{data=0x56, obj=0x57, res=4096, res2=0}], NULL) = 1`; an error stands in `res`.
    fn complete(&mut self, call: &Call<'_>) {
        for event in call.arguments.split("{data=").skip(1) {
            let name = event.split(',').next().unwrap_or_default();
            let result = event.split_once(" res=").map_or("", |(_, result)| result);
            if let (Some(file), false) = (self.aio.remove(name), result.starts_with('-')) {
                self.add("io_submit", &file);
            }
        }
    }
}

/// The path of a descriptor's file: `16</d/open-1>` or, after it was unlinked, `16</d/open-1>(deleted)`.
fn file(arguments: &str) -> &str {
    let path = arguments.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    path.map_or("", |(path, _)| path)
}

/// Whether a write's own flags make it durable.
fn says_durable(arguments: &str) -> bool {
    arguments.contains("RWF_DSYNC") || arguments.contains("RWF_SYNC")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(text: &str, durable: &[&str]) -> (u64, Vec<(String, u64)>) {
        let durable = durable.iter().map(|file| file.to_string()).collect();
        let counted = count(text, durable, &|file| file.contains("/wal/"));
        (counted.log, counted.calls.into_iter().collect())
    }

    #[test]
    fn only_calls_that_make_the_log_durable_count() {
        let text = "12  fdatasync(7</d/wal/1>) = 0\n\
                    12  fdatasync(7</d/wal/1> <unfinished ...>\n\
                    13  fsync(9</d/db>) = 0\n\
                    12  <... fdatasync resumed>) = 0\n\
                    12  fdatasync(7</d/wal/1>) = -1 EIO (Input/output error)\n\
                    12  fdatasync(7</d/wal/1> <unfinished ...>\n\
                    12  <... fdatasync resumed>) = -1 EIO (Input/output error)\n\
                    12  pwritev2(7</d/wal/1>, [{iov_base=\"\", iov_len=1}], 1, 0, RWF_DSYNC) = 1\n\
                    12  pwritev2(7</d/wal/1>, [{iov_base=\"\", iov_len=1}], 1, 0, 0) = 1\n\
                    12  msync(0x7f, 4096, MS_ASYNC) = 0\n\
                    14  <... fdatasync resumed>) = 0\n\
                    12  fdatasync(7</d/wal/1> <detached ...>\n";
        let calls = [("fdatasync".into(), 2), ("fsync".into(), 1), ("pwritev2".into(), 1)];
        assert_eq!(counted(text, &[]), (3, calls.into()));
    }

    #[test]
    fn a_write_is_durable_where_its_file_was_opened_so() {
        let text = "12  write(7</d/wal/1>, \"x\", 1) = 1\n\
                    12  write(8</d/wal/2>, \"x\", 1) = 1\n\
                    12  openat(AT_FDCWD</>, \"/d/wal/2\", O_WRONLY|O_CREAT|O_DSYNC, 0600 <unfinished ...>\n\
                    12  <... openat resumed>) = 8</d/wal/2>\n\
                    12  pwrite64(8</d/wal/2>, \") = 1\", 5, 0) = 5\n\
                    12  openat(AT_FDCWD</>, \"/d/wal/1\", O_WRONLY) = 9</d/wal/1>\n\
                    12  write(9</d/wal/1>, \"x\", 1) = 1\n";
        assert_eq!(counted(text, &["/d/wal/1"]), (2, vec![("pwrite64".into(), 1), ("write".into(), 1)]));
    }

    #[test]
    fn an_asynchronous_write_counts_when_its_completion_is_fetched() {
        let submit = |data: &str, flags: &str, file: &str| {
            format!(
                "12  io_submit(0x7f, 1, [{{aio_data={data}{flags}, aio_lio_opcode=IOCB_CMD_PWRITEV, aio_fildes=16<{file}>, \
                 aio_buf=[{{iov_base=\"x\", iov_len=4096}}], aio_offset=0}}]) = 1\n"
            )
        };
        let complete = |data: &str, result: i32| {
            format!("12  io_getevents(0x7f, 1, 1, [{{data={data}, obj=0x57, res={result}, res2=0}}], NULL) = 1\n")
        };
        let text = [
            submit("0x56", ", aio_rw_flags=RWF_NOWAIT", "/d/wal/open-1"),
            // It would have blocked: a thread of the pool tries again.
            complete("0x56", -11),
            submit("0x56", "", "/d/wal/open-1"),
            "13  io_getevents(0x7f, 1, 1,  <unfinished ...>\n".into(),
            "13  <... io_getevents resumed>[{data=0x56, obj=0x57, res=4096, res2=0}], NULL) = 1\n".into(),
            submit("0x58", ", aio_rw_flags=RWF_DSYNC", "/d/wal/open-2"),
            complete("0x58", 4096),
            submit("0x58", "", "/d/wal/open-2"),
            complete("0x58", 4096),
            submit("0x59", "", "/d/wal/open-1"),
        ];
        assert_eq!(counted(&text.concat(), &["/d/wal/open-1"]), (2, vec![("io_submit".into(), 2)]));
    }

    #[test]
    fn the_kernel_tells_which_files_are_open_durably() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str, flags: OFlags| {
            let (path, mode) = (dir.path().join(name), rustix::fs::Mode::RUSR);
            rustix::fs::open(&path, OFlags::CREATE | OFlags::WRONLY | flags, mode).unwrap()
        };
        let _files = [open("dsync", OFlags::DSYNC), open("sync", OFlags::SYNC), open("cached", OFlags::empty())];
        let durable = open_durable(std::process::id()).unwrap();
        let ours = |name: &str| durable.contains(dir.path().join(name).to_str().unwrap());
        assert_eq!((ours("dsync"), ours("sync"), ours("cached")), (true, true, false));
    }
}
