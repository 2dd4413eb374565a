//! A stream is the committed order, without a gap or a repetition; a node pushes no more than it has applied; its table of
//! subscribers is bounded, keeps nobody who is silent, and drops nobody without a reason (41, S7).
//!
//! Source: SEMANTICS, reads: what is shown is a piece of the chosen prefix; FAULTS 41: a subscriber that never acknowledges costs
//! bounded memory.

use super::sessions::Sessions;
use super::{Checked, violated};
use std::collections::{BTreeMap, BTreeSet};
use synod::shard::{MAX_SUBSCRIBERS, SILENCE_NS};
use synod_client::EntryRef;
use synod_wire::client::ReadReplyBody;
use synod_wire::frame::{Kind, parse};
use synod_wire::stream::{StreamEnd, StreamEndBody, StreamHead, SubscribeBody};
use zerocopy::FromBytes;

/// How much later than due a silent subscriber may go: a node that recovers anew drops nobody meanwhile.
const SLACK_NS: u64 = 10_000_000_000;

#[derive(Clone, Debug, Default)]
struct Node {
    table: BTreeSet<u64>,
    /// Streams that it has ended since its last turn, as it said.
    ended: BTreeSet<u64>,
    /// Who spoke since it last read all that had come, and when it last did so after each had spoken.
    waiting: BTreeSet<u64>,
    heard_ns: BTreeMap<u64, u64>,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Streams {
    next: BTreeMap<usize, u64>,
    nodes: Vec<Node>,
}

impl Streams {
    pub(crate) fn new(nodes: usize) -> Streams {
        Streams { next: BTreeMap::new(), nodes: vec![Node::default(); nodes] }
    }

    /// A subscriber from the log's start was handed an entry.
    pub(crate) fn delivered(&mut self, sessions: &Sessions, client: usize, entry: &EntryRef<'_>) -> Checked {
        self.in_order(client, entry.sequence.0)?;
        let Some(applied) = sessions.entries().get(entry.sequence.0 as usize - 1) else {
            return violated(
                "streams are the committed order",
                format!("c{client} was handed sequence {}, which no node applied", entry.sequence),
            );
        };
        let same = sessions.payloads().is(applied.client_id, applied.client_seq, entry.payload);
        if same && applied.timestamp_ns == entry.timestamp_ns {
            return Ok(());
        }
        violated(
            "streams are the committed order",
            format!("c{client} was handed other bytes or another time at sequence {}", entry.sequence),
        )
    }

    /// A subscriber is told that what comes next was trimmed; `model` is the first sequence that is left by what was applied anywhere.
    pub(crate) fn trimmed(&mut self, client: usize, first: u64, model: u64) -> Checked {
        let next = self.next.insert(client, first).unwrap_or(1);
        if next < first && first <= model {
            return Ok(());
        }
        let detail =
            format!("c{client} waits for {next} and is told that all before {first} is trimmed; {model} is the first");
        violated("streams are the committed order", detail)
    }

    fn in_order(&mut self, client: usize, sequence: u64) -> Checked {
        let next = self.next.entry(client).or_insert(1);
        if sequence != *next {
            let detail = format!("c{client} was handed sequence {sequence} instead of {next}");
            return violated("streams are the committed order", detail);
        }
        *next += 1;
        Ok(())
    }

    /// A datagram has come to a node.
    pub(crate) fn arrived(&mut self, node: usize, datagram: &[u8]) {
        if datagram.get(17) == Some(&(Kind::Subscribe as u8))
            && let Ok(frame) = parse(datagram)
            && let Some(body) = SubscribeBody::parse(frame.payload)
        {
            self.nodes[node].waiting.insert(body.stream.get());
        }
    }

    /// A datagram to a client leaves a node that has applied entries up to `tail`.
    pub(crate) fn sent(&mut self, node: usize, tail: u64, datagram: &[u8]) -> Checked {
        let kind = datagram.get(17).copied().and_then(Kind::from_u8);
        let Some(kind @ (Kind::StreamData | Kind::StreamEnd)) = kind else { return Ok(()) };
        let Ok(frame) = parse(datagram) else {
            return violated("streams are the committed order", format!("n{node} sends what is no frame"));
        };
        if kind == Kind::StreamEnd {
            return match StreamEndBody::read_from_bytes(frame.payload) {
                Ok(body) if StreamEnd::from_u8(body.reason).is_some() => {
                    self.nodes[node].ended.insert(body.stream.get());
                    Ok(())
                }
                _ => violated("nobody is dropped without a reason", format!("n{node} ends a stream for none")),
            };
        }
        let body = frame.payload.get(size_of::<StreamHead>()..).map(ReadReplyBody::read_from_prefix);
        let Some(Ok((body, _))) = body else {
            return violated("streams are the committed order", format!("n{node} sends a stream without a body"));
        };
        let end = body.first_sequence.get() + u64::from(body.entries.get());
        if body.tail.get() > tail || body.entries.get() > 0 && end > tail + 1 {
            let detail =
                format!("n{node} pushes entries below {end} of a log up to {}, and has applied {tail}", body.tail);
            return violated("streams are the committed order", detail);
        }
        Ok(())
    }

    /// A node has a new table.
    pub(crate) fn restarted(&mut self, node: usize) {
        self.nodes[node] = Node::default();
    }

    /// A node has taken a turn; `reads_all`: nothing that came to it is left unread.
    pub(crate) fn turned(
        &mut self,
        node: usize,
        table: impl Iterator<Item = u64>,
        reads_all: bool,
        now_ns: u64,
    ) -> Checked {
        let this = &mut self.nodes[node];
        for stream in &this.waiting {
            this.heard_ns.insert(*stream, now_ns);
        }
        if reads_all {
            this.waiting.clear();
        }
        let table: BTreeSet<u64> = table.collect();
        if let Some(gone) = this.table.difference(&table).find(|stream| !this.ended.contains(stream)) {
            let detail = format!("n{node} drops stream {gone:x}, and does not say why");
            return violated("nobody is dropped without a reason", detail);
        }
        if table.len() > MAX_SUBSCRIBERS {
            return violated("bounded queues", format!("n{node} has {} subscribers", table.len()));
        }
        let silent =
            |stream: &&u64| this.heard_ns.get(stream).is_none_or(|heard_ns| now_ns > heard_ns + SILENCE_NS + SLACK_NS);
        if let Some(stream) = table.iter().find(silent) {
            let detail = format!("n{node} keeps stream {stream:x}, whose client is silent");
            return violated("who is silent is dropped", detail);
        }
        this.ended.clear();
        this.table = table;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_and_a_repetition_are_found() {
        let mut streams = Streams::new(1);
        assert!(streams.in_order(3, 1).is_ok() && streams.in_order(3, 2).is_ok());
        assert!(streams.clone().in_order(3, 4).is_err() && streams.clone().in_order(3, 2).is_err());
        assert!(streams.in_order(4, 2).is_err(), "each begins at the start");
    }

    #[test]
    fn who_goes_without_a_reason_or_stays_without_a_sign_of_life_is_found() {
        let mut streams = Streams::new(1);
        streams.nodes[0].waiting.insert(7);
        assert!(streams.turned(0, [7].into_iter(), false, 1).is_ok());
        assert!(streams.clone().turned(0, [].into_iter(), true, 2).is_err(), "no reason");
        let mut told = streams.clone();
        told.nodes[0].ended.insert(7);
        assert!(told.turned(0, [].into_iter(), true, 2).is_ok());
        let late_ns = 3 + SILENCE_NS + SLACK_NS;
        assert!(streams.clone().turned(0, [7].into_iter(), true, late_ns).is_ok(), "it had not been read");
        assert!(streams.turned(0, [7].into_iter(), true, 2).is_ok());
        assert!(streams.turned(0, [7].into_iter(), true, late_ns).is_err(), "silent");
        let crowd = 0..MAX_SUBSCRIBERS as u64 + 1;
        streams.nodes[0].waiting.extend(crowd.clone());
        assert!(streams.turned(0, crowd, true, late_ns).is_err(), "too many");
    }
}
