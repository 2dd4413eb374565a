//! The values of the configuration that are not plain numbers: how they are written, and what is said when they are not.

use serde::de::{Error, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::net::SocketAddrV4;

/// How a core waits for work.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Yields while yields come back promptly, else blocks.
    #[default]
    Auto,
    /// Never sleeps.
    Spin,
    /// Polls and yields for a while, then blocks.
    Yield,
    /// Sleeps in the kernel at once.
    Block,
}

/// How a core enters the kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KernelIo {
    /// By io_uring where it can be had, else by plain system calls.
    #[default]
    Auto,
    /// By io_uring.
    Uring,
    /// By plain system calls.
    Syscall,
}

impl From<KernelIo> for synod_ring::Want {
    fn from(io: KernelIo) -> synod_ring::Want {
        match io {
            KernelIo::Auto => synod_ring::Want::Auto,
            KernelIo::Uring => synod_ring::Want::Uring,
            KernelIo::Syscall => synod_ring::Want::Syscall,
        }
    }
}

/// What an acknowledgement rests on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// The disks of a quorum.
    #[default]
    Disk,
    /// Their memory.
    Memory,
}

impl From<Durability> for synod_wire::client::Durability {
    fn from(durability: Durability) -> synod_wire::client::Durability {
        match durability {
            Durability::Disk => synod_wire::client::Durability::Disk,
            Durability::Memory => synod_wire::client::Durability::Memory,
        }
    }
}

/// What a group does with its entries besides keeping them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Machine {
    /// Nothing: the sequencer log.
    #[default]
    Log,
    /// Takes them for puts and deletes of a key-value map.
    Kv,
}

/// How log writes go to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Writer {
    /// Through the pipeline's io_uring.
    Ring,
    /// By a thread of the pipeline's own.
    Thread,
    /// Whichever is faster at the time.
    #[default]
    Auto,
}

/// Where the log-writer thread of a pipeline runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WriterCore {
    /// On the CPU that takes the disk's interrupt, if there is one such CPU.
    #[default]
    Auto,
    /// Wherever the scheduler puts it.
    None,
    /// On this CPU.
    Cpu(usize),
}

impl Serialize for WriterCore {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WriterCore::Auto => serializer.serialize_str("auto"),
            WriterCore::None => serializer.serialize_str("none"),
            WriterCore::Cpu(cpu) => serializer.serialize_u64(*cpu as u64),
        }
    }
}

impl<'de> Deserialize<'de> for WriterCore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WriterCore, D::Error> {
        let words = [("auto", WriterCore::Auto), ("none", WriterCore::None)];
        // What a set of CPUs holds.
        let limit = rustix::thread::CpuSet::MAX_CPU as u64 - 1;
        deserializer.deserialize_any(NumberOr { words, limit, number: |cpu| WriterCore::Cpu(cpu as usize) })
    }
}

/// How many log writes are in flight at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InFlight {
    /// As many as are found to pay, up to [`InFlight::most`].
    Auto,
    /// So many.
    Fixed(usize),
}

impl Default for InFlight {
    /// Where all nodes share one disk and two processors, more than one was no gain on the whole (tuning.md).
    fn default() -> InFlight {
        InFlight::Fixed(1)
    }
}

/// The most log writes in flight that can be configured.
pub const IN_FLIGHT_MAX: u64 = 8;
/// What the automatic mode tries at most: the disks that were measured gained little beyond.
const AUTO_IN_FLIGHT: usize = 4;

impl InFlight {
    /// The most at once.
    pub fn most(self) -> usize {
        match self {
            InFlight::Auto => AUTO_IN_FLIGHT,
            InFlight::Fixed(writes) => writes,
        }
    }
}

impl Serialize for InFlight {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            InFlight::Auto => serializer.serialize_str("auto"),
            InFlight::Fixed(writes) => serializer.serialize_u64(*writes as u64),
        }
    }
}

impl<'de> Deserialize<'de> for InFlight {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<InFlight, D::Error> {
        let words = [("auto", InFlight::Auto)];
        let limit = IN_FLIGHT_MAX;
        deserializer.deserialize_any(NumberOr { words, limit, number: |writes| InFlight::Fixed(writes as usize) })
    }
}

/// After how many entries a snapshot is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Every {
    /// What suits the group's machine.
    #[default]
    Auto,
    /// So many.
    Entries(u64),
}

impl Every {
    /// The number for a group with this machine. The map's state is the more work to read again the longer its log is; the log
    /// alone keeps nothing but sessions, and is read at a gigabyte a second.
    pub fn of(self, machine: Machine) -> u64 {
        match (self, machine) {
            (Every::Entries(entries), _) => entries,
            (Every::Auto, Machine::Kv) => 10_000,
            (Every::Auto, Machine::Log) => 1_000_000,
        }
    }
}

impl Serialize for Every {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Every::Auto => serializer.serialize_str("auto"),
            Every::Entries(entries) => serializer.serialize_u64(*entries),
        }
    }
}

impl<'de> Deserialize<'de> for Every {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Every, D::Error> {
        let words = [("auto", Every::Auto)];
        deserializer.deserialize_any(NumberOr { words, limit: i64::MAX as u64, number: Every::Entries })
    }
}

/// How far a clock may run from true time, where somebody has to vouch for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Drift {
    /// Nobody does.
    #[default]
    Off,
    /// So many parts per million.
    Ppm(u32),
}

/// The largest drift that can be configured.
pub(super) const DRIFT_MAX_PPM: u32 = 100_000;

impl Drift {
    /// The bound, if there is one.
    pub fn ppm(self) -> Option<u32> {
        match self {
            Drift::Off => None,
            Drift::Ppm(ppm) => Some(ppm),
        }
    }
}

impl Serialize for Drift {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Drift::Off => serializer.serialize_str("off"),
            Drift::Ppm(ppm) => serializer.serialize_u32(*ppm),
        }
    }
}

impl<'de> Deserialize<'de> for Drift {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Drift, D::Error> {
        let words = [("off", Drift::Off)];
        let limit = u64::from(u32::MAX);
        deserializer.deserialize_any(NumberOr { words, limit, number: |ppm| Drift::Ppm(ppm as u32) })
    }
}

/// The least severe diagnostic message that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// What stops a node.
    Error,
    /// What an operator should look at.
    Warn,
    /// Changes of state.
    #[default]
    Info,
    /// More of them.
    Debug,
    /// Everything.
    Trace,
}

/// How a diagnostic message is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// A line for people.
    #[default]
    Text,
    /// A line of JSON.
    Json,
}

impl From<Level> for tracing::Level {
    fn from(level: Level) -> tracing::Level {
        match level {
            Level::Error => tracing::Level::ERROR,
            Level::Warn => tracing::Level::WARN,
            Level::Info => tracing::Level::INFO,
            Level::Debug => tracing::Level::DEBUG,
            Level::Trace => tracing::Level::TRACE,
        }
    }
}

/// How many members a quorum has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum QuorumSize {
    /// More than half of them.
    #[default]
    Majority,
    /// This many.
    Nodes(u8),
}

impl QuorumSize {
    /// The number, in a group of `members`.
    pub fn of(self, members: usize) -> usize {
        match self {
            QuorumSize::Majority => members / 2 + 1,
            QuorumSize::Nodes(nodes) => usize::from(nodes),
        }
    }
}

impl Serialize for QuorumSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            QuorumSize::Majority => serializer.serialize_str("majority"),
            QuorumSize::Nodes(nodes) => serializer.serialize_u8(*nodes),
        }
    }
}

impl<'de> Deserialize<'de> for QuorumSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<QuorumSize, D::Error> {
        let words = [("majority", QuorumSize::Majority)];
        deserializer.deserialize_any(NumberOr { words, limit: 64, number: |nodes| QuorumSize::Nodes(nodes as u8) })
    }
}

/// `core = N | "none"`.
pub(super) mod core {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(core: &Option<usize>, serializer: S) -> Result<S::Ok, S::Error> {
        match core {
            None => serializer.serialize_str("none"),
            Some(cpu) => serializer.serialize_u64(*cpu as u64),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<usize>, D::Error> {
        let words = [("none", None)];
        deserializer.deserialize_any(NumberOr { words, limit: MAX_CPU, number: |cpu| Some(cpu as usize) })
    }
}

/// `admin_listen = "IPv4:port" | "none"`.
pub(super) mod listen {
    use super::*;

    pub(in crate::config) fn serialize<S: Serializer>(at: &Option<SocketAddrV4>, to: S) -> Result<S::Ok, S::Error> {
        match at {
            None => to.serialize_str("none"),
            Some(address) => to.collect_str(address),
        }
    }

    pub(in crate::config) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<SocketAddrV4>, D::Error> {
        let text = String::deserialize(from)?;
        let expected = "\"none\", or an IPv4 address and port, as \"127.0.0.1:7600\"";
        match text.as_str() {
            "none" => Ok(None),
            text => text.parse().map(Some).map_err(|_| D::Error::invalid_value(Unexpected::Str(text), &expected)),
        }
    }
}

/// The highest number of a CPU that may be written.
const MAX_CPU: u64 = 65_535;

/// A number up to `limit`, or one of some words.
struct NumberOr<T: Copy, const WORDS: usize> {
    words: [(&'static str, T); WORDS],
    limit: u64,
    number: fn(u64) -> T,
}

impl<T: Copy, const WORDS: usize> Visitor<'_> for NumberOr<T, WORDS> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number from 0 to {}", self.limit)?;
        self.words.iter().try_for_each(|(word, _)| write!(f, " or \"{word}\""))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        match u64::try_from(number) {
            Ok(n) if n <= self.limit => Ok((self.number)(n)),
            _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let found = self.words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }
}

/// An IPv4 address and port.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddrV4, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"an IPv4 address and port, as \"10.0.0.1:7400\""))
}
