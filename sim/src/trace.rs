//! What happened, in order: a hash over all of it, the last events for a failure's report, and, if asked for, every one
//! as a line. Fed by the engine; decides nothing.

use std::collections::VecDeque;
use std::fmt;
use synod_wire::client::Refusal;
use synod_wire::frame::{HEADER_BYTES, Kind};

/// Events kept for the report of a failure.
const KEPT: usize = 400;

/// Somebody who sends or receives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    /// A node, by its index.
    Node(usize),
    /// A client, by its index.
    Client(usize),
    /// Nobody known: noise.
    Stranger,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            End::Node(node) => write!(f, "n{node}"),
            End::Client(client) => write!(f, "c{client}"),
            End::Stranger => write!(f, "??"),
        }
    }
}

/// What a datagram's first frame says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Glance {
    kind: u8,
    slot: u64,
    ballot: u64,
    bytes: usize,
    crcs: u64,
    /// Of a refusal: why; 0 of anything else.
    refusal: u8,
}

/// Where a refusal says why: behind its frame's header, a client id, two numbers and a time.
const REFUSAL_AT: usize = HEADER_BYTES + 36;

impl Glance {
    /// Reads the first header without checking it.
    pub(crate) fn of(datagram: &[u8]) -> Glance {
        let word =
            |at: usize| datagram.get(at..at + 8).map_or(0, |b| u64::from_le_bytes(b.try_into().unwrap_or([0; 8])));
        let kind = datagram.get(17).copied().unwrap_or(0);
        let refusal = if kind == Kind::Rejected as u8 { datagram.get(REFUSAL_AT).copied().unwrap_or(0) } else { 0 };
        Glance { kind, slot: word(32), ballot: word(40), bytes: datagram.len(), crcs: word(0), refusal }
    }
}

impl fmt::Display for Glance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match Kind::from_u8(self.kind) {
            Some(Kind::Rejected) => {
                return write!(f, "Rejected {}", Refusal::from_u8(self.refusal).map_or("?", Refusal::name));
            }
            Some(kind) => write!(f, "{kind:?}")?,
            None => write!(f, "kind {}", self.kind)?,
        }
        write!(f, " slot {} ballot {}.{} {}B", self.slot, self.ballot >> 8, self.ballot & 0xff, self.bytes)
    }
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A datagram was sent.
    Sent(End, End, Glance),
    /// A datagram was lost, and why.
    Lost(End, End, Glance, &'static str),
    /// A datagram arrived.
    Arrived(End, End, Glance),
    /// A node queued a log write: offset, bytes.
    Write(usize, u64, usize),
    /// A log write ended: bytes, or the errno.
    Written(usize, Result<usize, i32>),
    /// Housekeeping finished a job.
    JobDone(usize, &'static str),
    /// A client acknowledged entries: client sequence, sequence, count.
    Acked(usize, u64, u64, u32),
    /// A slot was applied for the first time anywhere.
    Applied(usize, u64),
    /// Anything else about a node.
    Node(usize, String),
    /// Anything else.
    World(String),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Trace {
    hash: u64,
    events: u64,
    last: VecDeque<(u64, What)>,
    print: bool,
}

impl Trace {
    /// Empty. `print` writes every event to the standard output.
    pub(crate) fn new(print: bool) -> Trace {
        Trace { hash: 0, events: 0, last: VecDeque::with_capacity(KEPT + 1), print }
    }

    /// Mixes a number into the hash.
    pub(crate) fn mix(&mut self, word: u64) {
        self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, at_ns: u64, what: What) {
        self.events += 1;
        self.mix(at_ns);
        self.mix_what(&what);
        if self.print {
            println!("{}", line(at_ns, &what));
        }
        if self.last.len() == KEPT {
            self.last.pop_front();
        }
        self.last.push_back((at_ns, what));
    }

    fn mix_what(&mut self, what: &What) {
        let end = |end: &End| match end {
            End::Node(node) => *node as u64,
            End::Client(client) => 1_000 + *client as u64,
            End::Stranger => 9_999,
        };
        match what {
            What::Sent(from, to, glance) | What::Arrived(from, to, glance) | What::Lost(from, to, glance, _) => {
                let tag = matches!(what, What::Sent(..)) as u64 + 2 * matches!(what, What::Lost(..)) as u64;
                self.mix(tag << 32 | end(from) << 16 | end(to));
                self.mix(glance.crcs ^ glance.bytes as u64);
            }
            What::Write(node, offset, bytes) => self.mix(((*node as u64) << 56) ^ (offset << 20) ^ *bytes as u64),
            What::Written(node, result) => {
                self.mix((*node as u64) << 56 ^ result.map_or_else(|errno| errno as u64, |bytes| bytes as u64));
            }
            What::JobDone(node, name) => {
                self.mix(*node as u64);
                self.text(name);
            }
            What::Acked(client, seq, sequence, count) => {
                self.mix(*client as u64 ^ seq << 8 ^ sequence << 32);
                self.mix(u64::from(*count));
            }
            What::Applied(node, slot) => self.mix((*node as u64) << 56 ^ slot),
            What::Node(node, text) => {
                self.mix(*node as u64);
                self.text(text);
            }
            What::World(text) => self.text(text),
        }
    }

    fn text(&mut self, text: &str) {
        for chunk in text.as_bytes().chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.mix(u64::from_le_bytes(word));
        }
    }

    /// The hash of all events so far.
    pub(crate) fn hash(&self) -> u64 {
        self.hash
    }

    /// How many events there were.
    pub(crate) fn events(&self) -> u64 {
        self.events
    }

    /// The last events, as lines.
    pub(crate) fn tail(&self, count: usize) -> Vec<String> {
        let skip = self.last.len().saturating_sub(count);
        self.last.iter().skip(skip).map(|(at_ns, what)| line(*at_ns, what)).collect()
    }
}

fn line(at_ns: u64, what: &What) -> String {
    let at = format!("{:>4}.{:06}", at_ns / 1_000_000_000, at_ns / 1_000 % 1_000_000);
    match what {
        What::Sent(from, to, glance) => format!("{at}  {from} -> {to}   {glance}"),
        What::Lost(from, to, glance, why) => format!("{at}  {from} -x {to}   {glance} ({why})"),
        What::Arrived(from, to, glance) => format!("{at}  {to} <- {from}   {glance}"),
        What::Write(node, offset, bytes) => format!("{at}  n{node}         write {bytes}B at {offset}"),
        What::Written(node, Ok(bytes)) => format!("{at}  n{node}         written {bytes}B"),
        What::Written(node, Err(errno)) => format!("{at}  n{node}         write failed, errno {errno}"),
        What::JobDone(node, name) => format!("{at}  n{node}         housekeeping: {name}"),
        What::Acked(client, seq, sequence, count) => {
            format!("{at}  c{client}         acked {seq}..+{count} at sequence {sequence}")
        }
        What::Applied(node, slot) => format!("{at}  n{node}         applies slot {slot}"),
        What::Node(node, text) => format!("{at}  n{node}         {text}"),
        What::World(text) => format!("{at}  --         {text}"),
    }
}
