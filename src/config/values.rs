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

/// The least severe diagnostic message that is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        let number = deserializer.deserialize_any(NumberOr { word: "majority", limit: 64 })?;
        Ok(number.map_or(QuorumSize::Majority, |nodes| QuorumSize::Nodes(nodes as u8)))
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
        let number = deserializer.deserialize_any(NumberOr { word: "none", limit: 65_535 })?;
        Ok(number.map(|cpu| cpu as usize))
    }
}

/// A number up to `limit`, or one word, which gives `None`.
struct NumberOr {
    word: &'static str,
    limit: u64,
}

impl Visitor<'_> for NumberOr {
    type Value = Option<u64>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a number from 0 to {} or \"{}\"", self.limit, self.word)
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        match u64::try_from(number) {
            Ok(n) if n <= self.limit => Ok(Some(n)),
            _ => Err(E::invalid_value(Unexpected::Signed(number), &self)),
        }
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        if text == self.word { Ok(None) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }
}

/// An IPv4 address and port.
pub(super) fn address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddrV4, D::Error> {
    let text = String::deserialize(deserializer)?;
    text.parse()
        .map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &"an IPv4 address and port, as \"10.0.0.1:7400\""))
}
