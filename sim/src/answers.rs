//! What nodes answer clients, datagram by datagram, for the checkers: a client's core passes on less than it hears, and an
//! acknowledgement only in its turn, when another node than the one that sent it may have been heard since. And the
//! questions that `check_tail` of the client library asks, put as it puts them: how far does the log of each member
//! reach, and how does it fare? And the one that `evidence` asks: who chose this? Used by the engine.

use crate::checks::{Checked, Violation, violated};
use crate::client::{Outgoing, request_header};
use crate::load::Client;
use crate::node::{MAX_DRIFT_PPM, node_address};
use crate::payload::{Key, identified};
use crate::sim::Sim;
use synod_client::{Sequence, Unmet};
use synod_paxos::Role;
use synod_wire::client::{AckHeader, AckRun, Consistency, Decision, ReadBody, ReadEntry, ReadReplyBody, StatusBody};
use synod_wire::evidence::{EvidenceBody, EvidenceReplyBody};
use synod_wire::frame::{Frame, Frames, HEADER_BYTES, Kind, frame_bytes, parse_header, write_frame};
use synod_wire::guarantee::Recency;
use synod_wire::kv::{MAX_KEY_BYTES, QUESTION_HEAD_BYTES, Question};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, IntoBytes};

/// Entries of an answer that are kept: the last, for old ones are what `reads.rs` looks at.
const KEPT: usize = 4;

/// Which entry it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Label(u64, u64);

/// The label of an entry.
pub(crate) fn label(client_id: u128, client_seq: u64) -> Label {
    // A simulated client's id fits.
    Label(client_id as u64, client_seq)
}

/// What a node said in one datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) request_id: u64,
    /// The last sequence that it has applied.
    pub(crate) tail: u64,
    /// How recent it says that is.
    pub(crate) recency: Recency,
    /// The last entries that came with it, and how many of them there are.
    last: [(u64, Label); KEPT],
    kept: usize,
}

impl Answer {
    pub(crate) fn new(request_id: u64, tail: u64) -> Answer {
        Answer { request_id, tail, recency: Recency::StalePossible, last: Default::default(), kept: 0 }
    }

    /// An entry more; the oldest may make room for it.
    pub(crate) fn push(&mut self, sequence: u64, label: Label) {
        if self.kept == KEPT {
            self.last.rotate_left(1);
            self.kept -= 1;
        }
        self.last[self.kept] = (sequence, label);
        self.kept += 1;
    }

    /// The last entries, in order: sequence and label.
    pub(crate) fn labels(&self) -> impl Iterator<Item = (u64, Label)> + '_ {
        self.last[..self.kept].iter().copied()
    }

    fn of_read(payload: &[u8]) -> Option<Answer> {
        let (body, mut rest) = ReadReplyBody::read_from_prefix(payload).ok()?;
        let recency = body.guarantee.decode()?.recency;
        let mut answer = Answer { recency, ..Answer::new(body.request_id.get(), body.tail.get()) };
        for at in 0..u64::from(body.entries.get()) {
            let (head, after) = ReadEntry::read_from_prefix(rest).ok()?;
            let (entry, after) = after.split_at_checked(usize::from(head.length.get()))?;
            rest = after;
            let Some(entry) = identified(entry) else {
                // What is kept are entries that follow one another.
                answer.kept = 0;
                continue;
            };
            let (client_id, seq) = entry.split_first_chunk::<16>()?;
            let client_seq = u64::from_le_bytes(*seq.first_chunk()?);
            answer.push(body.first_sequence.get() + at, label(u128::from_le_bytes(*client_id), client_seq));
        }
        rest.is_empty().then_some(answer)
    }
}

/// What an acknowledgement says.
#[derive(Debug, Default, PartialEq, Eq)]
struct Acks {
    client_id: u128,
    /// The last place of each run that was appended.
    places: Vec<u64>,
    /// Runs that were not: first client sequence, entries, why.
    refused: Vec<(u64, u64, Unmet)>,
}

impl Acks {
    fn of(payload: &[u8]) -> Option<Acks> {
        let (head, rest) = AckHeader::read_from_prefix(payload).ok()?;
        let (runs, rest) = <[AckRun]>::ref_from_prefix_with_elems(rest, usize::from(head.runs.get())).ok()?;
        let mut acks = Acks { client_id: head.client_id.get(), ..Acks::default() };
        for run in runs {
            let (entries, value) = (u64::from(run.entries.get()), run.first_sequence.get());
            let unmet = match Decision::from_u8(run.decision)? {
                Decision::Appended => {
                    acks.places.push((value + entries).checked_sub(1)?);
                    continue;
                }
                Decision::TailMoved => Unmet::TailMoved { tail: Sequence(value) },
                Decision::Fenced => Unmet::Fenced { highest: value },
            };
            acks.refused.push((run.first_seq.get(), entries, unmet));
        }
        rest.is_empty().then_some(acks)
    }
}

/// A request of a client that reads: its number, and what it asks for.
pub(crate) fn request(datagram: &[u8]) -> Option<(u64, Consistency)> {
    let (header, _, bytes) = parse_header(datagram).ok()?;
    let consistency = match header.kind {
        Kind::Read => {
            ReadBody::read_from_bytes(datagram.get(HEADER_BYTES..HEADER_BYTES + bytes)?).ok()?.consistency()?
        }
        Kind::Query => ReadBody::read_from_prefix(datagram.get(HEADER_BYTES..)?).ok()?.0.consistency()?,
        Kind::Status | Kind::Evidence => Consistency::Local,
        _ => return None,
    };
    Some((header.slot.0, consistency))
}

/// The two questions for a tail, under these numbers: how the node fares, and a read that is to be so recent.
pub(crate) fn questions(node: usize, status_id: u64, read_id: u64, consistency: Consistency) -> [Outgoing; 2] {
    let body = ReadBody {
        request_id: U64::new(read_id),
        from_sequence: U64::ZERO,
        max_entries: U32::ZERO,
        max_datagrams: U16::new(1),
        wait_ms: U16::ZERO,
        bound_ms: U32::ZERO,
        consistency: 0,
        reserved: [0; 3],
    }
    .with(consistency);
    [question(node, Kind::Status, status_id, &[]), question(node, Kind::Read, read_id, body.as_bytes())]
}

/// The question who chose a slot: by its number, or by a sequence; the other is 0.
pub(crate) fn evidence_question(node: usize, request_id: u64, sequence: u64, slot: u64) -> Outgoing {
    let request = EvidenceBody { request_id: U64::new(request_id), sequence: U64::new(sequence), slot: U64::new(slot) };
    question(node, Kind::Evidence, request_id, request.as_bytes())
}

/// A question to a node's key-value map, in a state that is so recent and holds the entries up to `at_least`.
pub(crate) fn kv_question(
    node: usize,
    request_id: u64,
    (consistency, at_least): (Consistency, u64),
    question: &Question<'_>,
) -> Outgoing {
    let [_, (_, read)] = questions(node, 0, request_id, consistency);
    let mut body = ReadBody::read_from_prefix(&read[HEADER_BYTES..]).expect("it was written just now").0;
    body.from_sequence.set(at_least);
    let mut asked = [0; QUESTION_HEAD_BYTES + MAX_KEY_BYTES];
    let bytes = question.write(&mut asked).expect("keys are short enough");
    let payload = [body.as_bytes(), &asked[..bytes]].concat();
    let mut out = vec![0; frame_bytes(payload.len())];
    let bytes = write_frame(&mut out, &request_header(Kind::Query, request_id), &payload);
    (node_address(node), out[..bytes].into())
}

fn question(node: usize, kind: Kind, request_id: u64, body: &[u8]) -> Outgoing {
    const _: () = assert!(size_of::<EvidenceBody>() <= size_of::<ReadBody>());
    let mut out = [0; frame_bytes(size_of::<ReadBody>())];
    let bytes = write_frame(&mut out, &request_header(kind, request_id), body);
    (node_address(node), out[..bytes].into())
}

impl Sim {
    /// A client hears a node.
    pub(crate) fn hear(&mut self, client: usize, node: usize, datagram: &[u8]) -> Checked {
        // What is damaged on the way ends here, as it does in the client's core.
        for frame in Frames::new(datagram).flatten() {
            self.hear_frame(client, node, &frame)?;
        }
        Ok(())
    }

    fn hear_frame(&mut self, client: usize, node: usize, frame: &Frame<'_>) -> Checked {
        let answer = match frame.header.kind {
            Kind::ReadReply => Answer::of_read(frame.payload),
            Kind::StatusReply => {
                let body = StatusBody::read_from_prefix(frame.payload).ok();
                body.map(|(body, _)| Answer::new(body.request_id.get(), body.tail.get()))
            }
            Kind::QueryReply => match ReadReplyBody::read_from_prefix(frame.payload) {
                Ok((body, answer)) => return self.heard_of_map(client, node, &body, answer),
                Err(_) => None,
            },
            Kind::EvidenceReply => match EvidenceReplyBody::parse(frame.payload) {
                Ok(body) => return self.heard_evidence(client, node, &body),
                Err(_) => None,
            },
            Kind::Appended => match Acks::of(frame.payload) {
                Some(acks) => return self.heard_acks(client, node, &acks),
                None => None,
            },
            _ => return Ok(()),
        };
        match answer {
            Some(answer) => self.heard(client, node, &answer),
            None => {
                let detail = format!("n{node} sent c{client} a malformed {:?}", frame.header.kind);
                violated("nothing corrupt served", detail)
            }
        }
    }

    fn heard_acks(&mut self, client: usize, node: usize, acks: &Acks) -> Checked {
        for (first, entries, unmet) in &acks.refused {
            self.checks.conditions.told(&self.checks.sessions, acks.client_id, *first, *entries, *unmet)?;
        }
        match acks.places.iter().find(|place| !self.checks.node_acked(node, **place, self.now_ns)) {
            None => Ok(()),
            Some(place) => violated(
                "acknowledged entries survive",
                format!("n{node} acknowledged to c{client} what has the place {place}, where nobody's entry is"),
            ),
        }
    }

    fn heard(&mut self, client: usize, node: usize, answer: &Answer) -> Result<(), Violation> {
        let applied = self.checks.sessions.entries().len() as u64;
        if answer.tail > applied {
            let detail = format!("n{node} told c{client} of a tail {}, {applied} entries were applied", answer.tail);
            return violated("nothing corrupt served", detail);
        }
        let asked = self.checks.views.told(client, node, answer.request_id, answer.tail)?;
        let bound = matches!(answer.recency, Recency::BoundedStale(_));
        if !bound || self.plan.drift_ppm <= MAX_DRIFT_PPM {
            self.checks.fresh.answered(node, asked, (answer.recency, answer.tail))?;
        }
        self.checks.fresh.known(answer.tail, self.now_ns);
        self.note_recency(node, answer.recency);
        let (_, asked_ns) = asked;
        if answer.recency.is_fresh()
            && let Some((sequence, _)) = answer.labels().next()
        {
            self.checks.trims.shown(node, sequence, asked_ns)?;
        }
        self.checks.reads.told(client, answer.request_id, answer.tail);
        let last = answer.labels().last().map_or(0, |(sequence, _)| sequence);
        self.checks.acked.order.shown(answer.tail.max(last), self.now_ns);
        self.checks.linear.shown(node, answer, asked_ns, self.now_ns);
        Ok(())
    }

    fn heard_evidence(&mut self, client: usize, node: usize, body: &EvidenceReplyBody) -> Checked {
        self.heard(client, node, &Answer::new(body.request_id.get(), body.tail.get()))?;
        if self.checks.evidence.heard((&self.checks.one_value, &self.checks.configurations), (client, node), body)? {
            self.coverage.mark("a client was told who chose a slot");
        }
        Ok(())
    }

    /// What a node's map says is what it is in the state that the reply names, and that state is as recent as any answer's.
    fn heard_of_map(&mut self, client: usize, node: usize, body: &ReadReplyBody, answer: &[u8]) -> Checked {
        let (request_id, applied) = (body.request_id.get(), body.tail.get());
        let recency = body.guarantee.decode().map(|guarantee| guarantee.recency);
        let Some(recency) = recency else {
            return violated(
                "nothing corrupt served",
                format!("n{node} told c{client} of its map without a guarantee"),
            );
        };
        self.heard(client, node, &Answer { recency, ..Answer::new(request_id, applied) })?;
        let log = (self.checks.sessions.entries(), self.checks.sessions.payloads());
        if self.checks.kv.told(log, (client, request_id), node, applied, answer)? {
            self.coverage.mark("a client was told what a put or delete did");
        } else {
            self.coverage.mark("a client was told the value of a key");
        }
        Ok(())
    }

    /// A reader asks every member's map for a key, or for what became of an entry.
    pub(crate) fn ask_maps(&mut self, client: usize, consistency: Consistency, sequence: Option<u64>, key: Key) {
        // What was acknowledged may be asked for at any member: it answers when it has applied so much, or says that it has not.
        let at_least = sequence.unwrap_or(0);
        let key = key.bytes();
        let question = sequence.map_or(Question::Get(&key), |sequence| Question::Outcome(Sequence(sequence)));
        let mut out = Vec::new();
        if let Client::Reader(reader) = &mut self.clients[client] {
            for node in 0..self.plan.machines() {
                let id = reader.next_id();
                self.checks.kv.asked((client, id), &question);
                out.push(kv_question(node, id, (consistency, at_least), &question));
            }
        }
        self.send_all(client, &mut out);
    }

    /// A reader asks every member who chose the slot of an entry.
    pub(crate) fn ask_evidence(&mut self, client: usize, sequence: u64, by_slot: bool) {
        let Some(entry) = self.checks.sessions.entries().get(sequence as usize - 1) else { return };
        let slot = entry.slot;
        let mut out = Vec::new();
        if let Client::Reader(reader) = &mut self.clients[client] {
            for node in 0..self.plan.machines() {
                let id = reader.next_id();
                self.checks.evidence.asked(client, id, slot);
                let (sequence, slot) = if by_slot { (0, slot.0) } else { (sequence, 0) };
                out.push(evidence_question(node, id, sequence, slot));
            }
        }
        self.send_all(client, &mut out);
    }

    fn note_recency(&mut self, node: usize, recency: Recency) {
        let leads = self.nodes[node].role == Role::Leader;
        match recency {
            Recency::StalePossible => {}
            Recency::BoundedStale(_) => self.coverage.mark("a bounded read was answered"),
            Recency::FreshLease => {
                self.answered_lease = true;
                self.coverage.mark("a leader answered by its lease");
            }
            Recency::FreshReadIndex => {
                self.answered_fresh.insert(node);
                self.coverage.mark(if leads {
                    "a leader answered a fresh read"
                } else {
                    "a follower answered a fresh read"
                });
            }
        }
    }

    /// A reader asks every member how far its log reaches, as recently as this.
    pub(crate) fn ask_tails(&mut self, client: usize, consistency: Consistency) {
        let mut out = Vec::new();
        if let Client::Reader(reader) = &mut self.clients[client] {
            (0..self.plan.machines()).for_each(|node| out.extend(reader.ask_tail(node, consistency)));
        }
        self.send_all(client, &mut out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::guarantee::{Guarantee, GuaranteeBytes};
    use zerocopy::little_endian::U128;

    #[test]
    fn an_answer_keeps_its_last_entries() {
        let mut answer = Answer::new(1, 9);
        (1..=6).for_each(|sequence| answer.push(sequence, label(7, sequence)));
        assert_eq!(answer.labels().map(|(sequence, _)| sequence).collect::<Vec<_>>(), [3, 4, 5, 6]);
        assert_eq!(answer.labels().last(), Some((6, label(7, 6))));
    }

    #[test]
    fn what_is_malformed_is_no_answer() {
        let entry = [7; 24];
        let head = ReadEntry { timestamp_ns: U64::new(1), length: U16::new(24) };
        let body = ReadReplyBody {
            request_id: U64::new(5),
            first_sequence: U64::new(2),
            tail: U64::new(2),
            entries: U16::new(1),
            last: 1,
            mode: 0,
            guarantee: Guarantee::read(Recency::BoundedStale(9)).encode(),
        };
        let bytes = [body.as_bytes(), head.as_bytes(), &entry].concat();
        let answer = Answer::of_read(&bytes).expect("it is well formed");
        assert_eq!(answer.recency, Recency::BoundedStale(9));
        let seven = u64::from_le_bytes([7; 8]);
        assert_eq!(answer.labels().collect::<Vec<_>>(), [(2, Label(seven, seven))]);
        assert_eq!(Answer::of_read(&bytes[..bytes.len() - 1]), None, "cut");
        assert_eq!(Answer::of_read(&[&bytes[..], &[0]].concat()), None, "with something behind");
    }

    #[test]
    fn acknowledgements_name_the_last_place_of_each_run_and_what_has_none() {
        let head = AckHeader {
            client_id: U128::new(1),
            runs: U16::new(3),
            durability: 1,
            receipts: 0,
            credit: U32::new(9),
            session: U64::new(1),
        };
        let run = |first_sequence, entries, decision: Decision| AckRun {
            first_seq: U64::new(1),
            first_sequence: U64::new(first_sequence),
            timestamp_ns: U64::new(1),
            entries: U16::new(entries),
            decision: decision as u8,
            reserved: 0,
            guarantee: GuaranteeBytes::default(),
        };
        let runs = [run(5, 3, Decision::Appended), run(8, 2, Decision::Fenced), run(20, 1, Decision::Appended)];
        let bytes = [head.as_bytes(), runs.as_bytes()].concat();
        let refused = vec![(1, 2, Unmet::Fenced { highest: 8 })];
        assert_eq!(Acks::of(&bytes), Some(Acks { client_id: 1, places: vec![7, 20], refused }));
        assert_eq!(Acks::of(&bytes[..bytes.len() - 1]), None, "cut");
        assert_eq!(Acks::of(&[&bytes[..], &[0]].concat()), None, "with something behind");
    }

    #[test]
    fn a_question_has_its_number() {
        let [status, read] = questions(1, 8, 9, Consistency::Bounded(7));
        assert_eq!(request(&status.1), Some((8, Consistency::Local)));
        assert_eq!(request(&read.1), Some((9, Consistency::Bounded(7))));
        assert_eq!(request(b"noise"), None);
    }
}
