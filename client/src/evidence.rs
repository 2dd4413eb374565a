//! Who chose a slot, as each member tells it, and whether what they tell fits together. [`evidence`] asks running nodes;
//! [`disagreements`] is pure, and takes what offline tools read from logs as well.

use crate::error::{ClientError, Unavailable};
use crate::options::{check_members, nanos};
use crate::reply::{self, Reply, finish_request};
use crate::socket::{RECEIVE_BYTES, Socket};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_wire::evidence::{EvidenceBody, EvidenceReplyBody};
use synod_wire::frame::{Frame, Frames, HEADER_BYTES, Header, Kind, frame_bytes};
use synod_wire::guarantee::Guarantee;
use synod_wire::{Ballot, ClusterId, Epoch, GroupId, Lsn, NodeId, NodeSet, Quorums, Sequence, Slot};
use zerocopy::IntoBytes;
use zerocopy::little_endian::U64;

pub use synod_wire::evidence::{Held, Told};

/// An unanswered question is repeated this often: far above a round trip, far below a person's patience.
const REPEAT_NS: u64 = 50_000_000;

/// What is asked about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EvidenceOf {
    /// The slot in which this sequence was given.
    Sequence(Sequence),
    /// This slot.
    Slot(Slot),
}

/// How a node holds the value of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldValue {
    /// Accepted, learnt, or not durable yet.
    pub how: Held,
    /// The ballot it was accepted in.
    pub ballot: Ballot,
    /// The log record that holds it.
    pub lsn: Lsn,
    /// The value's checksum (CRC-32C).
    pub checksum: u32,
    /// The value's bytes.
    pub bytes: u32,
}

/// The ballot that chose a slot, and whose votes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ChosenBy {
    /// The ballot.
    pub ballot: Ballot,
    /// The acceptors; empty: that stands in the log of the ballot's leader.
    pub acceptors: NodeSet,
}

/// What one node's log says of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeEvidence {
    /// The node.
    pub node: NodeId,
    /// The slot.
    pub slot: Slot,
    /// The epoch of the configuration that governs the slot; 0: the node does not know any more, or not yet.
    pub epoch: Epoch,
    /// How many votes that epoch demands; 0 if it is not known.
    pub quorums: Quorums,
    /// Its voting members.
    pub members: NodeSet,
    /// The value, if the node holds one.
    pub held: Option<HeldValue>,
    /// What the node's log says of who chose it; `None`: nothing, because it learnt the outcome, or not yet.
    pub chosen: Option<ChosenBy>,
    /// Whether the node knows the slot chosen.
    pub known_chosen: bool,
}

/// What became of the question at one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MemberAnswer {
    /// This.
    Told(NodeEvidence),
    /// It answered, but told nothing: [`Told::NotYet`], [`Told::Unreadable`] or [`Told::Busy`].
    Nothing(NodeId, Told),
    /// It did not answer.
    Silent,
}

/// What the members told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The slot, if any of them knows it.
    pub slot: Option<Slot>,
    /// Each member's address and answer, in the order in which they were named.
    pub members: Vec<(SocketAddrV4, MemberAnswer)>,
    /// What the answers promise, taken together: the meet of theirs.
    pub guarantee: Guarantee,
}

impl Evidence {
    /// What those that told anything told.
    pub fn told(&self) -> Vec<NodeEvidence> {
        let told = self.members.iter().filter_map(|(_, answer)| match answer {
            MemberAnswer::Told(evidence) => Some(*evidence),
            MemberAnswer::Nothing(..) | MemberAnswer::Silent => None,
        });
        told.collect()
    }
}

impl NodeEvidence {
    fn of(from: NodeId, body: &EvidenceReplyBody) -> NodeEvidence {
        let how = body.held().filter(|held| *held != Held::Nothing);
        let held = how.map(|how| HeldValue {
            how,
            ballot: Ballot::unpack(body.ballot.get()),
            lsn: Lsn(body.lsn.get()),
            checksum: body.payload_crc.get(),
            bytes: body.payload_bytes.get(),
        });
        let chosen_ballot = Ballot::unpack(body.chosen_ballot.get());
        let chosen = ChosenBy { ballot: chosen_ballot, acceptors: NodeSet(body.acceptors.get()) };
        NodeEvidence {
            node: from,
            slot: Slot(body.slot.get()),
            epoch: Epoch(body.epoch.get()),
            quorums: Quorums { phase1: body.phase1.into(), phase2: body.phase2.into() },
            members: NodeSet(body.members.get()),
            held,
            chosen: Some(chosen).filter(|_| chosen_ballot > Ballot::ZERO),
            known_chosen: body.known_chosen == 1,
        }
    }

    /// Whether it will not say more, however often it is asked.
    fn is_final(&self) -> bool {
        self.known_chosen && self.held.is_some_and(|held| held.how != Held::Unsynced)
    }

    /// Whether it bears out that it is one of the acceptors that chose `value` in `ballot`. An acceptor may be named for what
    /// it knew chosen already, in a lower ballot; a crash may have taken that knowledge, but not the vote, so
    /// `known_before` says whether anybody has it. What it accepts later, in a higher ballot, is that value again.
    fn bears_out(&self, ballot: Ballot, value: HeldValue, known_before: bool) -> bool {
        let Some(held) = self.held.filter(|held| held.same_value(value)) else { return false };
        match held.how {
            Held::Learnt => true,
            Held::Accepted => self.known_chosen || held.ballot >= ballot || known_before,
            Held::Nothing | Held::Unsynced => false,
        }
    }
}

impl HeldValue {
    fn same_value(&self, other: HeldValue) -> bool {
        (self.checksum, self.bytes) == (other.checksum, other.bytes)
    }
}

/// What does not fit together in what nodes tell of one slot; nothing: they agree, if any of them knows the slot chosen.
pub fn disagreements(told: &[NodeEvidence]) -> Vec<String> {
    let mut found = Vec::new();
    for (at, one) in told.iter().enumerate() {
        found.extend(by_itself(one));
        for other in &told[..at] {
            found.extend(between(other, one));
        }
        found.extend(named_acceptors(one, told));
    }
    found
}

/// Whether the nodes agree: some of them know the slot chosen, and nothing that any of them tells speaks against it.
pub fn agree(told: &[NodeEvidence]) -> bool {
    told.iter().any(|node| node.known_chosen) && disagreements(told).is_empty()
}

fn by_itself(one: &NodeEvidence) -> Vec<String> {
    let mut found = Vec::new();
    let node = one.node;
    if one.known_chosen && one.held.is_none() {
        found.push(format!("node {node} knows slot {} chosen, but holds no value", one.slot));
    }
    let Some(ChosenBy { ballot, acceptors }) = one.chosen else { return found };
    if let Some(held) = one.held.filter(|held| held.how != Held::Learnt && held.ballot < ballot) {
        let lower = held.ballot;
        found.push(format!("node {node} knows it chosen in ballot {ballot}, but accepted its value in {lower} only"));
    }
    if one.epoch == Epoch(0) {
        // Who voted then is not known here.
        return found;
    }
    let strangers = NodeSet(acceptors.0 & !one.members.0);
    if !acceptors.is_empty() && (acceptors.len() < one.quorums.phase2 || !strangers.is_empty()) {
        let (names, quorum) = (names(acceptors), one.quorums.phase2);
        found.push(format!("node {node} names the acceptors {names}, which are no quorum of {quorum} members"));
    }
    found
}

fn between(one: &NodeEvidence, other: &NodeEvidence) -> Vec<String> {
    let mut found = Vec::new();
    let (a, b) = (one.node, other.node);
    if one.slot != other.slot {
        found.push(format!("it is in slot {} at node {a}, in slot {} at node {b}", one.slot, other.slot));
        return found;
    }
    if one.epoch == other.epoch && (one.quorums, one.members) != (other.quorums, other.members) {
        found.push(format!("nodes {a} and {b} know other members or quorums of epoch {}", one.epoch.0));
    }
    let (Some(x), Some(y)) = (one.held, other.held) else { return found };
    let same_ballot = x.ballot == y.ballot;
    let bound = one.is_bound_to(other) || other.is_bound_to(one);
    if !x.same_value(y) && (same_ballot || bound) {
        found.push(format!(
            "node {a} holds the value {:08x} ({} bytes), node {b} the value {:08x} ({} bytes)",
            x.checksum, x.bytes, y.checksum, y.bytes
        ));
    }
    found
}

impl NodeEvidence {
    /// Whether what this node holds must be what `other` knows chosen: it knows so too, or it voted in no lower ballot.
    fn is_bound_to(&self, other: &NodeEvidence) -> bool {
        let voted = |ballot| self.held.is_some_and(|held| held.ballot >= ballot);
        other.known_chosen && (self.known_chosen || other.chosen.is_some_and(|chosen| voted(chosen.ballot)))
    }
}

/// Each acceptor that is named, and told anything, must bear it out.
fn named_acceptors(one: &NodeEvidence, told: &[NodeEvidence]) -> Vec<String> {
    let (Some(chosen), Some(value)) = (one.chosen, one.held) else { return Vec::new() };
    let named = told.iter().filter(|other| chosen.acceptors.contains(other.node) && other.slot == one.slot);
    let known_before = chosen_below(told, chosen.ballot, value);
    let unborne = named.filter(|other| !other.bears_out(chosen.ballot, value, known_before));
    let what = |other: &NodeEvidence| {
        format!(
            "node {} names node {} as an acceptor in ballot {}, which does not hold that value accepted",
            one.node, other.node, chosen.ballot
        )
    };
    unborne.map(what).collect()
}

/// Whether what is told shows that `value` was chosen in a ballot below this one: by a node's word, or by the votes.
fn chosen_below(told: &[NodeEvidence], ballot: Ballot, value: HeldValue) -> bool {
    let votes_with = |one: &NodeEvidence| {
        let below =
            one.held.filter(|held| held.how == Held::Accepted && held.ballot < ballot && held.same_value(value));
        let alike = |other: &&NodeEvidence| {
            let held = other.held.filter(|held| held.how == Held::Accepted && held.same_value(value));
            held.map(|held| held.ballot) == below.map(|held| held.ballot)
        };
        if below.is_some() { told.iter().filter(alike).count() } else { 0 }
    };
    let word = |one: &NodeEvidence| one.known_chosen && one.chosen.is_some_and(|chosen| chosen.ballot < ballot);
    told.iter().any(|one| word(one) || votes_with(one) >= one.quorums.phase2)
}

/// Node numbers, separated by commas.
fn names(nodes: NodeSet) -> String {
    nodes.iter().map(|node| node.to_string()).collect::<Vec<_>>().join(", ")
}

/// Asks every member who chose a slot, until all have told what they know or `timeout` has passed. A question about a
/// sequence is put again as one about its slot as soon as a member has named that, so that those which have not applied
/// it yet can tell, too; and what was told before anybody knew the slot chosen is asked again, so that the answers can be
/// compared.
pub fn evidence(
    members: Vec<SocketAddrV4>,
    cluster: ClusterId,
    group: GroupId,
    of: EvidenceOf,
    timeout: Duration,
) -> Result<Evidence, ClientError> {
    check_members(members.len()).map_err(ClientError::Options)?;
    let socket = Socket::bind(Duration::ZERO)?;
    let mut round = Round { socket, cluster, group, answers: Answers::new(members, of) };
    round.run(timeout)?;
    let answers = round.answers;
    if answers.all.iter().all(|answer| answer.told == MemberAnswer::Silent) {
        return Err(ClientError::NoAnswer(Unavailable {
            members: answers.all.len(),
            waited: timeout,
            answered: false,
            last_refusal: None,
            send_error: round.socket.send_error(),
        }));
    }
    let members = answers.all.iter().map(|answer| (answer.address, answer.told)).collect();
    let guarantee = answers.all.iter().filter_map(|answer| answer.guarantee).reduce(Guarantee::meet);
    Ok(Evidence { slot: answers.slot(), members, guarantee: guarantee.unwrap_or(Guarantee::NONE) })
}

#[derive(Clone, Copy, Debug)]
struct Answer {
    address: SocketAddrV4,
    told: MemberAnswer,
    guarantee: Option<Guarantee>,
}

impl Answer {
    fn is_final(&self) -> bool {
        match self.told {
            MemberAnswer::Told(evidence) => evidence.is_final(),
            MemberAnswer::Nothing(_, told) => told == Told::Unreadable,
            MemberAnswer::Silent => false,
        }
    }
}

/// The answers so far, and what is asked next.
struct Answers {
    of: EvidenceOf,
    /// Also the number of the question: answers to an earlier one do not count.
    request_id: u64,
    all: Vec<Answer>,
}

impl Answers {
    fn new(members: Vec<SocketAddrV4>, of: EvidenceOf) -> Answers {
        let all = members
            .into_iter()
            .map(|address| Answer { address, told: MemberAnswer::Silent, guarantee: None })
            .collect();
        Answers { of, request_id: 1, all }
    }

    fn slot(&self) -> Option<Slot> {
        let told = self.all.iter().find_map(|answer| match answer.told {
            MemberAnswer::Told(evidence) => Some(evidence.slot),
            MemberAnswer::Nothing(..) | MemberAnswer::Silent => None,
        });
        match self.of {
            EvidenceOf::Slot(slot) => Some(slot),
            EvidenceOf::Sequence(_) => told,
        }
    }

    fn are_final(&self) -> bool {
        self.all.iter().all(Answer::is_final)
    }

    /// Files an answer; true if there is a new question to be put at once.
    fn take(&mut self, from: SocketAddrV4, header: &Header, body: &EvidenceReplyBody) -> bool {
        let known = self.all.iter_mut().find(|answer| answer.address == from);
        let Some(answer) = known.filter(|_| body.request_id.get() == self.request_id) else { return false };
        if answer.is_final() {
            return false;
        }
        answer.told = match body.told() {
            Some(Told::Told) => MemberAnswer::Told(NodeEvidence::of(header.from, body)),
            Some(told) => MemberAnswer::Nothing(header.from, told),
            None => return false,
        };
        answer.guarantee = Some(reply::told(body.guarantee));
        let MemberAnswer::Told(evidence) = answer.told else { return false };
        // From the first that knows it chosen on, all that is told can be compared with it.
        let first = evidence.is_final() && self.request_id == 1;
        if first {
            self.request_id = 2;
            self.of = EvidenceOf::Slot(evidence.slot);
            for answer in self.all.iter_mut().filter(|answer| !answer.is_final()) {
                answer.told = MemberAnswer::Silent;
            }
        }
        first
    }

    fn question(&self) -> EvidenceBody {
        let (sequence, slot) = match self.of {
            EvidenceOf::Sequence(sequence) => (sequence.0, 0),
            EvidenceOf::Slot(slot) => (0, slot.0),
        };
        EvidenceBody { request_id: U64::new(self.request_id), sequence: U64::new(sequence), slot: U64::new(slot) }
    }
}

struct Round {
    socket: Socket,
    cluster: ClusterId,
    group: GroupId,
    answers: Answers,
}

impl Round {
    fn run(&mut self, timeout: Duration) -> Result<(), ClientError> {
        let until_ns = self.socket.now_ns().saturating_add(nanos(timeout));
        let mut repeat_ns = 0;
        let mut buffer = vec![0; RECEIVE_BYTES];
        while !self.answers.are_final() {
            let now_ns = self.socket.now_ns();
            if now_ns >= until_ns {
                break;
            }
            if now_ns >= repeat_ns {
                self.ask()?;
                repeat_ns = now_ns + REPEAT_NS;
            }
            self.socket.wait(now_ns, now_ns, until_ns.min(repeat_ns), false)?;
            let (answers, cluster, group) = (&mut self.answers, self.cluster, self.group);
            self.socket.receive_batch(&mut buffer, |_, from, datagram| {
                let ours = |frame: &Frame| frame.header.cluster == cluster && frame.header.group == group;
                for frame in Frames::new(datagram).flatten().filter(ours) {
                    // What is malformed is ignored, for the question is repeated.
                    if let Ok(Reply::Evidence(body)) = Reply::parse(&frame)
                        && answers.take(from, &frame.header, &body)
                    {
                        repeat_ns = 0;
                    }
                }
                true
            })?;
        }
        Ok(())
    }

    fn ask(&mut self) -> Result<(), ClientError> {
        let mut out = [0; frame_bytes(size_of::<EvidenceBody>())];
        let body = self.answers.question();
        let bytes = size_of::<EvidenceBody>();
        out[HEADER_BYTES..HEADER_BYTES + bytes].copy_from_slice(body.as_bytes());
        let id = self.answers.request_id;
        let length = finish_request(&mut out, (Kind::Evidence, 0), self.cluster, self.group, id, bytes);
        for answer in self.answers.all.iter().filter(|answer| !answer.is_final()) {
            // A full socket buffer or a lost datagram: the question is repeated anyway.
            self.socket.send(&out[..length], length, answer.address)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;
    use zerocopy::little_endian::U32;

    fn ballot(round: u64) -> Ballot {
        Ballot { round, node: NodeId(0) }
    }

    fn set(nodes: &[u8]) -> NodeSet {
        nodes.iter().map(|node| NodeId(*node)).collect()
    }

    /// Node `node` of three, which accepted value 5 in ballot 1 and knows it chosen.
    fn row(node: u8, acceptors: &[u8]) -> NodeEvidence {
        let held = HeldValue { how: Held::Accepted, ballot: ballot(1), lsn: Lsn(9), checksum: 5, bytes: 40 };
        NodeEvidence {
            node: NodeId(node),
            slot: Slot(7),
            epoch: Epoch(1),
            quorums: Quorums { phase1: 2, phase2: 2 },
            members: set(&[0, 1, 2]),
            held: Some(held),
            chosen: Some(ChosenBy { ballot: ballot(1), acceptors: set(acceptors) }),
            known_chosen: true,
        }
    }

    fn holding(mut row: NodeEvidence, change: impl FnOnce(&mut HeldValue)) -> NodeEvidence {
        change(row.held.as_mut().unwrap());
        row
    }

    #[test]
    fn what_fits_together_agrees() {
        assert!(agree(&[row(0, &[0, 1, 2]), row(1, &[]), row(2, &[])]));
        let learnt = holding(row(2, &[]), |held| held.how = Held::Learnt);
        assert!(agree(&[row(0, &[0, 1]), row(1, &[0, 1]), NodeEvidence { chosen: None, ..learnt }]));
        // The next leader chose it again, with an acceptor that knew the outcome before.
        let again = holding(row(0, &[0, 1]), |held| held.ballot = ballot(2));
        let again = NodeEvidence { chosen: Some(ChosenBy { ballot: ballot(2), acceptors: set(&[0, 1]) }), ..again };
        assert!(agree(&[again, row(1, &[1, 2])]));
        // Accepted in a lower ballot than was chosen: another value, of a leader that failed.
        let older = holding(row(2, &[]), |held| (held.ballot, held.checksum) = (ballot(0), 6));
        assert!(agree(&[row(0, &[0, 1]), NodeEvidence { chosen: None, known_chosen: false, ..older }]));
    }

    #[test]
    fn what_nobody_knows_chosen_is_no_agreement() {
        assert!(!agree(&[]));
        let open = NodeEvidence { chosen: None, known_chosen: false, ..row(0, &[]) };
        assert!(!agree(&[open]) && disagreements(&[open]).is_empty());
    }

    #[test]
    fn each_contradiction_is_told() {
        let told = |rows: &[NodeEvidence], what: &str| {
            let found = disagreements(rows);
            assert!(found.iter().any(|found| found.contains(what)), "{what}: {found:?}");
            assert!(!agree(rows));
        };
        let leader = row(0, &[0, 1]);
        told(&[leader, holding(row(2, &[]), |held| held.checksum = 6)], "the value 00000006");
        told(&[leader, NodeEvidence { slot: Slot(8), ..row(1, &[]) }], "slot 8 at node 1");
        told(&[row(0, &[0])], "no quorum");
        told(&[row(0, &[0, 9])], "no quorum");
        told(&[leader, NodeEvidence { held: None, known_chosen: false, chosen: None, ..row(1, &[]) }], "names node 1");
        told(&[leader, holding(row(1, &[]), |held| held.how = Held::Unsynced)], "names node 1");
        let lower = holding(row(1, &[]), |held| held.ballot = ballot(0));
        told(&[leader, NodeEvidence { known_chosen: false, chosen: None, ..lower }], "names node 1");
        told(&[holding(leader, |held| held.ballot = ballot(0))], "in 0.0 only");
        told(&[NodeEvidence { held: None, ..leader }], "holds no value");
        told(&[leader, NodeEvidence { quorums: Quorums { phase1: 1, phase2: 3 }, ..row(1, &[]) }], "of epoch 1");
        // A vote in a ballot above the one that chose, for another value.
        let later = holding(row(2, &[]), |held| (held.ballot, held.checksum) = (ballot(2), 6));
        told(&[leader, NodeEvidence { known_chosen: false, chosen: None, ..later }], "the value 00000006");
    }

    fn address(node: u8) -> SocketAddrV4 {
        SocketAddrV4::new(Ipv4Addr::LOCALHOST, 7000 + u16::from(node))
    }

    fn reply(node: u8, request_id: u64, slot: u64, told: Told, known_chosen: bool) -> (Header, EvidenceReplyBody) {
        let header = Header {
            kind: Kind::EvidenceReply,
            flags: 0,
            from: NodeId(node),
            group: GroupId(0),
            cluster: ClusterId(1),
            epoch: Epoch(1),
            slot: Slot::ZERO,
            ballot: Ballot::ZERO,
            promised: Ballot::ZERO,
            lsn: Lsn::ZERO,
        };
        let body = EvidenceReplyBody {
            request_id: U64::new(request_id),
            slot: U64::new(slot),
            ballot: U64::new(ballot(1).pack()),
            payload_crc: U32::new(5),
            told: told as u8,
            held: if told == Told::Told { Held::Accepted as u8 } else { 0 },
            known_chosen: known_chosen.into(),
            ..Default::default()
        };
        (header, body)
    }

    #[test]
    fn when_one_knows_the_slot_the_others_are_asked_about_it_and_old_answers_do_not_count() {
        let mut answers = Answers::new((0..3).map(address).collect(), EvidenceOf::Sequence(Sequence(4)));
        let mut take = |node: u8, (header, body): (Header, EvidenceReplyBody)| {
            let again = answers.take(address(node), &header, &body);
            (again, answers.question().slot.get(), answers.all[usize::from(node)].told != MemberAnswer::Silent)
        };
        assert_eq!(take(1, reply(1, 1, 0, Told::NotYet, false)), (false, 0, true));
        assert_eq!(take(0, reply(0, 1, 9, Told::Told, true)), (true, 9, true));
        assert_eq!(take(1, reply(1, 1, 0, Told::NotYet, false)), (false, 9, false), "told before");
        assert_eq!(take(1, reply(1, 2, 9, Told::Told, false)), (false, 9, true));
        assert_eq!(take(2, reply(2, 2, 9, Told::Told, true)), (false, 9, true));
        assert!(!answers.are_final(), "node 1 may come to know it chosen");
        let (header, body) = reply(1, 2, 9, Told::Told, true);
        answers.take(address(1), &header, &body);
        assert!(answers.are_final());
        assert_eq!(answers.slot(), Some(Slot(9)));
    }
}
