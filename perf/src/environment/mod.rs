//! The machine, as far as a latency depends on it: recorded with every report, so that figures can be compared, or be
//! known not to be comparable. Reads /proc, /sys and a configuration file; what cannot be read is told as unknown.
//!
//! The command `collect-env` prints it; `output` puts it into reports.

mod disk;
mod processor;

use crate::options::Style;
use anyhow::{Context, anyhow};
use clap::Args;
use disk::Disk;
use processor::Processor;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Arguments of `collect-env`.
#[derive(Args, Debug)]
pub(crate) struct EnvironmentArgs {
    /// The directory of the logs, whose disk is described. Left out: TMPDIR or /var/tmp.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// A configuration whose effect is recorded, the environment's overrides included. Left out: the defaults.
    #[arg(long, value_name = "F")]
    config: Option<PathBuf>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Style,
}

/// What a figure depends on besides the program.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Environment {
    /// Seconds since 1970.
    pub(crate) taken_at_unix_s: u64,
    /// The version of this program.
    pub(crate) version: &'static str,
    /// The commit that it was built from.
    pub(crate) commit: Option<&'static str>,
    /// Whether it is a release build.
    pub(crate) release_build: bool,
    /// Release and build of the kernel.
    pub(crate) kernel: Option<String>,
    /// The distribution.
    pub(crate) system: Option<String>,
    /// `/proc/cmdline`.
    pub(crate) command_line: Option<String>,
    /// What keeps the time.
    pub(crate) clock_source: Option<String>,
    /// Processors, and what is above them.
    pub(crate) processor: Processor,
    /// Bytes of memory.
    pub(crate) memory_bytes: Option<u64>,
    /// Of these, what programs could still get.
    pub(crate) memory_available_bytes: Option<u64>,
    /// What a process may lock (RLIMIT_MEMLOCK), as the kernel writes it.
    pub(crate) locked_memory_limit: Option<String>,
    /// Runnable processes over 1, 5 and 15 minutes.
    pub(crate) load: Option<String>,
    /// Where the logs lie.
    pub(crate) disk: Disk,
    /// Settings of the kernel that matter here.
    pub(crate) sysctls: BTreeMap<&'static str, Option<String>>,
    /// The configuration in effect; without a file the defaults, to which the overrides come.
    pub(crate) configuration: serde_json::Value,
    /// Variables that override the configuration of nodes.
    pub(crate) overrides: BTreeMap<String, String>,
}

/// Whether io_uring may be used; sockets' buffers; scheduling.
const SYSCTLS: [&str; 8] = [
    "kernel/io_uring_disabled",
    "net/core/rmem_max",
    "net/core/wmem_max",
    "net/core/busy_poll",
    "net/core/busy_read",
    "kernel/sched_rt_runtime_us",
    "kernel/perf_event_paranoid",
    "vm/dirty_background_ratio",
];

/// Collects and prints.
pub(crate) fn run(args: &EnvironmentArgs) -> anyhow::Result<()> {
    let dir = args.dir.clone().unwrap_or_else(crate::files::default_parent);
    let environment = Environment::of(&dir, args.config.as_deref())?;
    match args.output {
        Style::Json => println!("{}", serde_json::to_string_pretty(&environment)?),
        Style::Text => environment.rows()?.iter().for_each(|(name, value)| println!("{name:<44} {value}")),
    }
    Ok(())
}

impl Environment {
    /// This machine, with the disk below `dir`.
    pub(crate) fn of(dir: &Path, config: Option<&Path>) -> anyhow::Result<Environment> {
        let memory = text("/proc/meminfo").unwrap_or_default();
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).context("the clock is before 1970")?;
        Ok(Environment {
            taken_at_unix_s: since.as_secs(),
            version: env!("CARGO_PKG_VERSION"),
            commit: option_env!("SYNOD_PERF_COMMIT"),
            release_build: !cfg!(debug_assertions),
            kernel: kernel(),
            system: text("/etc/os-release").and_then(|release| quoted(&release, "PRETTY_NAME")),
            command_line: text("/proc/cmdline"),
            clock_source: text("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
            processor: Processor::here(),
            memory_bytes: kibibytes(&memory, "MemTotal"),
            memory_available_bytes: kibibytes(&memory, "MemAvailable"),
            locked_memory_limit: text("/proc/self/limits").and_then(|limits| locked_memory(&limits)),
            load: text("/proc/loadavg").map(|load| load.split(' ').take(3).collect::<Vec<_>>().join(" ")),
            disk: Disk::below(dir)?,
            sysctls: SYSCTLS.into_iter().map(|name| (name, text(&format!("/proc/sys/{name}")))).collect(),
            configuration: configuration(config)?,
            overrides: overrides(),
        })
    }

    /// Every leaf with its path, in order.
    pub(crate) fn rows(&self) -> anyhow::Result<Vec<(String, String)>> {
        let mut rows = Vec::new();
        leaves("", &serde_json::to_value(self)?, &mut rows);
        Ok(rows)
    }
}

/// A file of one value, without its line's end. Files of /proc and /sys are absent where the kernel lacks the matter.
fn text(path: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}

fn kernel() -> Option<String> {
    Some(format!("{} {}", text("/proc/sys/kernel/osrelease")?, text("/proc/sys/kernel/version")?))
}

/// The value of `NAME="value"`.
fn quoted(text: &str, name: &str) -> Option<String> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
    Some(line.trim_matches('"').to_owned())
}

/// The value of `Name:   123 kB`, in bytes.
fn kibibytes(meminfo: &str, name: &str) -> Option<u64> {
    let value = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    value.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
}

/// The soft limit.
fn locked_memory(limits: &str) -> Option<String> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max locked memory"))?;
    line.split_whitespace().next().map(str::to_owned)
}

fn configuration(file: Option<&Path>) -> anyhow::Result<serde_json::Value> {
    let config = match file {
        // Its text names the cause already.
        Some(file) => synod::config::load::load(file).map_err(|error| anyhow!("{error}"))?.config,
        None => synod::config::Config::default(),
    };
    serde_json::to_value(config).context("a configuration is no JSON")
}

/// The variables that change the nodes' configuration.
fn overrides() -> BTreeMap<String, String> {
    let shown = |value: std::ffi::OsString| value.to_string_lossy().into_owned();
    let all = std::env::vars_os().map(|(name, value)| (shown(name), shown(value)));
    all.filter(|(name, _)| name.starts_with(synod::config::load::ENVIRONMENT_PREFIX)).collect()
}

fn leaves(path: &str, value: &serde_json::Value, rows: &mut Vec<(String, String)>) {
    use serde_json::Value;
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| leaves(&below(name), value, rows)),
        Value::Array(items) => {
            items.iter().enumerate().for_each(|(index, value)| leaves(&below(&index.to_string()), value, rows));
        }
        Value::Null => rows.push((path.to_owned(), "unknown".to_owned())),
        Value::String(text) => rows.push((path.to_owned(), text.clone())),
        other => rows.push((path.to_owned(), other.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_proc_are_found() {
        let meminfo = "MemTotal:       24689404 kB\nMemFree:  1 kB\n";
        assert_eq!(kibibytes(meminfo, "MemTotal"), Some(24_689_404 << 10));
        assert_eq!(kibibytes(meminfo, "MemAvailable"), None);
        assert_eq!(quoted("ID=debian\nPRETTY_NAME=\"Debian 12\"\n", "PRETTY_NAME").as_deref(), Some("Debian 12"));
        let limits = "Max open files  1024  4096  files\nMax locked memory         8388608   unlimited    bytes\n";
        assert_eq!(locked_memory(limits).as_deref(), Some("8388608"));
    }

    #[test]
    fn this_machine_is_described() {
        let environment = Environment::of(Path::new("/var/tmp"), None).unwrap();
        assert!(environment.kernel.is_some() && environment.memory_bytes.is_some());
        assert!(environment.processor.online.is_some_and(|online| online > 0));
        assert!(environment.disk.file_system.is_some() && environment.disk.mount_options.is_some());
        let rows = environment.rows().unwrap();
        assert!(rows.iter().any(|(name, value)| name == "configuration.wal.max_in_flight" && value == "1"), "{rows:?}");
    }

    #[test]
    fn a_configuration_that_cannot_be_read_is_an_error() {
        let error = Environment::of(Path::new("/var/tmp"), Some(Path::new("/no/such/file"))).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/file"), "{error:#}");
    }
}
