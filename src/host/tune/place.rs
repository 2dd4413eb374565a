//! Where a change is made: how the value there is read, written and compared. Called by `tune`.

use super::super::cpus::Cpus;
use super::super::facts::{Coalescing, Host, RingSizes};
use super::super::system::chosen;
use serde::{Deserialize, Serialize};
use std::fmt;

/// What kind of value it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// One word in a file of /proc or /sys.
    Value,
    /// Words in such a file, the one in effect in brackets.
    Choice,
    /// A list of CPUs.
    List,
    /// A mask of CPUs.
    Mask,
    /// A configuration file as a whole.
    File,
    /// The length of a network card's receive rings.
    RingRx,
    /// The same to send.
    RingTx,
    /// Whether the card changes by itself how long it holds interrupts back.
    AdaptiveRx,
    /// How long it does, microseconds.
    RxUsecs,
}

impl Kind {
    /// As scripts and the state file have it.
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Value => "value",
            Kind::Choice => "choice",
            Kind::List => "list",
            Kind::Mask => "mask",
            Kind::File => "file",
            Kind::RingRx => "ring_rx",
            Kind::RingTx => "ring_tx",
            Kind::AdaptiveRx => "adaptive_rx",
            Kind::RxUsecs => "rx_usecs",
        }
    }
}

/// A value of the host; None where a file is absent.
pub type Value = Option<String>;

/// Where it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// What kind of value it is.
    pub kind: Kind,
    /// The path, or the network card.
    pub at: String,
}

impl Place {
    pub(super) fn new(kind: Kind, at: impl Into<String>) -> Place {
        Place { kind, at: at.into() }
    }

    /// What is there.
    pub fn get(&self, host: &Host) -> Result<Value, String> {
        let at = &self.at;
        match self.kind {
            Kind::Value | Kind::List | Kind::Mask => host.read(at).map(Some),
            Kind::Choice => {
                let text = host.read(at)?;
                chosen(&text).map(|word| Some(word.into())).ok_or_else(|| format!("{at} says {text:?}"))
            }
            Kind::File => host.read_whole(at),
            Kind::RingRx => host.calls.rings(at).map(|rings| Some(rings.now.rx.to_string())),
            Kind::RingTx => host.calls.rings(at).map(|rings| Some(rings.now.tx.to_string())),
            Kind::AdaptiveRx => host.calls.coalescing(at).map(|now| Some(on_off(now.adaptive_rx).into())),
            Kind::RxUsecs => host.calls.coalescing(at).map(|now| Some(now.rx_us.to_string())),
        }
    }

    /// Makes it so.
    pub(super) fn set(&self, host: &Host, value: &Value) -> Result<(), String> {
        match (self.kind, value) {
            (Kind::File, None) => host.remove(&self.at),
            (_, None) => Err(format!("{} cannot be absent", self.at)),
            (_, Some(text)) => self.set_text(host, text),
        }
    }

    fn set_text(&self, host: &Host, text: &str) -> Result<(), String> {
        let at = &self.at;
        let number = || text.parse::<u32>().map_err(|_| format!("{text:?} is no number"));
        match self.kind {
            Kind::Value | Kind::List | Kind::Mask => host.write(at, text),
            // No kernel is there to move the brackets.
            Kind::Choice if host.is_recorded() => host.write(at, &moved(&host.read(at)?, text)),
            Kind::Choice => host.write(at, text),
            Kind::File => host.write_whole(at, text),
            Kind::RingRx => {
                let now = host.calls.rings(at)?.now;
                host.calls.set_rings(at, RingSizes { rx: number()?, ..now })
            }
            Kind::RingTx => {
                let now = host.calls.rings(at)?.now;
                host.calls.set_rings(at, RingSizes { tx: number()?, ..now })
            }
            Kind::AdaptiveRx => {
                let now = host.calls.coalescing(at)?;
                host.calls.set_coalescing(at, Coalescing { adaptive_rx: text == "on", ..now })
            }
            Kind::RxUsecs => {
                let now = host.calls.coalescing(at)?;
                host.calls.set_coalescing(at, Coalescing { rx_us: number()?, ..now })
            }
        }
    }

    /// Whether two values mean the same: the kernel writes lists and masks in its own way.
    pub(super) fn same(&self, one: &Value, other: &Value) -> bool {
        let cpus = |value: &Value| match (self.kind, value) {
            (Kind::List, Some(text)) => text.parse::<Cpus>().ok(),
            (Kind::Mask, Some(text)) => Cpus::from_mask(text).ok(),
            _ => None,
        };
        one == other || cpus(one).is_some_and(|set| cpus(other) == Some(set))
    }

    /// A value in a line.
    pub fn show(&self, value: &Value) -> String {
        match (self.kind, value) {
            (_, None) => "absent".into(),
            (Kind::File, Some(text)) => format!("{} bytes", text.len()),
            (_, Some(text)) => text.clone(),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::RingRx | Kind::RingTx | Kind::AdaptiveRx | Kind::RxUsecs => {
                write!(out, "{} {}", self.at, self.kind.name())
            }
            _ => out.write_str(&self.at),
        }
    }
}

fn on_off(on: bool) -> &'static str {
    if on { "on" } else { "off" }
}

/// The words with the brackets around another.
fn moved(words: &str, to: &str) -> String {
    let bare = words.split_whitespace().map(|word| word.trim_matches(['[', ']']));
    bare.map(|word| if word == to { format!("[{word}]") } else { word.into() }).collect::<Vec<_>>().join(" ")
}
