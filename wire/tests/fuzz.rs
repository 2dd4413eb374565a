//! Bytes from anywhere: parsing is total, what was written comes back, and what was changed on the way is noticed.
//!
//! `corpus/*.bin` are kept inputs; their names start with the verdict (`ok_`, or the error). The golden frame holds format 1
//! still: if it changes, the format has changed, and [`VERSION`] must too.

use proptest::prelude::*;
use std::path::Path;
use synod_wire::batch::*;
use synod_wire::configuration::MAX_CONFIGURATION_BYTES;
use synod_wire::evidence::{EvidenceBody, EvidenceReplyBody, Told};
use synod_wire::frame::*;
use synod_wire::kv::{Answer, Command, MAX_COMMAND_BYTES, MAX_KEY_BYTES, QUESTION_HEAD_BYTES, Question};
use synod_wire::stream::{StreamEnd, StreamEndBody, StreamHead, SubscribeBody};
use synod_wire::{Ballot, ClusterId, Configuration, Epoch, GroupId, Lsn, NodeId, Slot};
use zerocopy::IntoBytes;

/// A frame with a payload of its own length, as bytes.
fn framed(header: &Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0xaa; frame_bytes(payload.len())];
    let used = write_frame(&mut bytes, header, payload);
    assert_eq!(used, bytes.len());
    bytes
}

/// A header with a different value in every field.
fn sample(kind: Kind) -> Header {
    Header {
        kind,
        flags: flags::BARRIER,
        from: NodeId(3),
        group: GroupId(2),
        cluster: ClusterId(0x0a0b_0c0d),
        epoch: Epoch(0x0102_0304),
        slot: Slot(0x1112_1314_1516_1718),
        ballot: Ballot { round: 0x0022_2324_2526_2728, node: NodeId(5) },
        promised: Ballot { round: 0x0032_3334_3536_3738, node: NodeId(6) },
        lsn: Lsn(0x4142_4344_4546_4748),
    }
}

/// Makes the header's checksum right again after a field was changed by hand.
fn reseal(bytes: &mut [u8]) {
    let crc = checksum(&bytes[4..HEADER_BYTES]);
    bytes[..4].copy_from_slice(&crc.to_le_bytes());
}

/// A batch of two runs and an opened session.
fn sample_batch() -> Vec<u8> {
    let mut bytes = vec![0; 512];
    let mut at = BATCH_HEADER_BYTES;
    for (client, first, entries) in [(7, 5, vec![&b"alpha"[..], b"b"]), (8, 1, vec![&b"gamma"[..]])] {
        let mut run = RunBuilder::new(&mut bytes[at..], client, 3, first);
        assert!(entries.into_iter().all(|entry| run.push(entry)));
        at += run.finish(RunKind::Append).0;
    }
    at += RunBuilder::new(&mut bytes[at..], 9, open::OR_CREATE, 0).finish(RunKind::OpenSession).0;
    write_batch_header(&mut bytes, 1_234_567_890, 3);
    bytes.truncate(at);
    bytes
}

/// Parses `bytes` in every way; whatever is accepted must be consistent.
fn try_everything(bytes: &[u8]) {
    if let Ok(frame) = parse(bytes) {
        assert!(HEADER_BYTES + frame.payload.len() <= bytes.len());
        assert_eq!(checksum(frame.payload), frame.payload_crc);
    }
    let frames: Vec<_> = Frames::new(bytes).collect();
    assert!(frames.len() <= bytes.len() / HEADER_BYTES + 1);
    let ends = |frame: &Result<Frame<'_>, FrameError>| frame.is_err_and(|error| !matches!(error, FrameError::Kind(_)));
    assert!(frames.iter().rev().skip(1).all(|frame| !ends(frame)), "nothing follows what cannot be skipped");
    if let Ok(batch) = Batch::parse(bytes) {
        let runs: Vec<_> = batch.runs().collect();
        assert_eq!(runs.len(), usize::from(batch.header.runs.get()));
        assert_eq!(batch.is_noop(), runs.is_empty());
        let used: usize = runs.iter().map(check_run).sum();
        assert_eq!(BATCH_HEADER_BYTES + used, bytes.len(), "every byte belongs to a run");
    }
    if let Ok(command) = Command::parse(bytes) {
        let mut out = [0; MAX_COMMAND_BYTES];
        let used = command.write(&mut out).expect("what was parsed has allowed lengths");
        assert_eq!(&out[..used], bytes, "one form alone");
    }
    if let Ok(question) = Question::parse(bytes) {
        let mut out = [0; QUESTION_HEAD_BYTES + MAX_KEY_BYTES];
        let used = question.write(&mut out).expect("what was parsed has allowed lengths");
        assert_eq!(&out[..used], bytes, "one form alone");
    }
    if let Ok(answer) = Answer::parse(bytes) {
        let (head, value) = answer.encode();
        assert_eq!([head.as_bytes(), value].concat(), bytes, "one form alone");
    }
    if let Ok(body) = EvidenceBody::parse(bytes) {
        assert!((body.slot.get() == 0) != (body.sequence.get() == 0), "one of the two is asked for");
    }
    if let Ok(body) = EvidenceReplyBody::parse(bytes) {
        assert!(body.held().is_some() && body.told().is_some() && body.known_chosen <= 1);
        assert!(body.told() != Some(Told::Told) || body.slot.get() > 0, "what is told is told of a slot");
    }
    if let Ok(configuration) = Configuration::parse(bytes) {
        let mut out = [0; MAX_CONFIGURATION_BYTES];
        let used = configuration.encode(&mut out);
        assert_eq!(Configuration::parse(&out[..used]), Ok(configuration), "what governs comes back");
    }
    if let Some(body) = SubscribeBody::parse(bytes) {
        assert!(body.stream.get() > 0 && body.next.get() > 0 && body.leaves <= 1);
    }
    if let Ok((run, rest)) = Run::parse(bytes) {
        assert_eq!(check_run(&run) + rest.len(), bytes.len());
    }
}

/// Checks an accepted run; returns its bytes.
fn check_run(run: &Run<'_>) -> usize {
    let entries: Vec<_> = run.entries().collect();
    assert_eq!(entries.len() as u64, run.len());
    assert!(entries.iter().all(|entry| !entry.is_empty()));
    assert!(run.first_seq().checked_add(run.len()).is_some());
    assert_eq!(run.opens_session(), run.is_empty());
    let condition_bytes = if run.condition().is_none() { 0 } else { CONDITION_BYTES };
    RUN_HEADER_BYTES + condition_bytes + entries.iter().map(|entry| ENTRY_PREFIX_BYTES + entry.len()).sum::<usize>()
}

#[test]
fn the_golden_frame_of_format_1() {
    let golden = "88375c1e 9cd6cca8 0000000000000000 01 01 01 00 03 02 0700 0d0c0b0a 04030201 \
                  1817161514131211 0528272625242322 0638373635343332 4847464544434241 \
                  70617861786f73";
    let golden: String = golden.split_whitespace().collect();
    let bytes = framed(&sample(Kind::Accept), b"paxaxos");
    let hex: String = bytes[..HEADER_BYTES + 7].iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, golden);
    assert!(bytes[HEADER_BYTES + 7..].iter().all(|byte| *byte == 0), "padding is zero");
}

#[test]
fn a_record_of_each_kind_comes_back() {
    for kind in Kind::ALL {
        let bytes = framed(&sample(kind), b"payload");
        let frame = parse(&bytes).expect("a frame just written");
        assert_eq!((frame.header, frame.payload), (sample(kind), &b"payload"[..]));
    }
}

#[test]
fn kinds_keep_their_numbers() {
    let numbers: Vec<u8> = Kind::ALL.iter().map(|kind| *kind as u8).collect();
    let expected: Vec<u8> = (1..=15)
        .chain([18])
        .chain(32..=55)
        .chain(64..=67)
        .chain([70])
        .chain(72..=77)
        .chain(80..=84)
        .chain([90, 92, 93, 94])
        .chain(96..=98)
        .collect();
    assert_eq!(numbers, expected);
    for byte in 0..=u8::MAX {
        assert_eq!(Kind::from_u8(byte).map(|kind| kind as u8), expected.contains(&byte).then_some(byte));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let batch = sample_batch();
    let bytes = framed(&sample(Kind::Accept), &batch);
    for bit in 0..8 * (HEADER_BYTES + batch.len()) {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(parse(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn a_frame_cut_anywhere_is_truncated() {
    let batch = sample_batch();
    let bytes = framed(&sample(Kind::Accept), &batch);
    for length in 0..HEADER_BYTES + batch.len() {
        assert_eq!(parse(&bytes[..length]).err(), Some(FrameError::Truncated), "cut to {length} bytes");
    }
    assert!(parse(&bytes[..HEADER_BYTES + batch.len()]).is_ok(), "the padding may be left out");
}

#[test]
fn fields_that_format_1_does_not_know_are_refused_though_the_checksum_holds() {
    let refuse = |offset: usize, byte: u8, expected: FrameError| {
        let mut bytes = framed(&sample(Kind::Accept), b"payload");
        bytes[offset] = byte;
        reseal(&mut bytes);
        assert_eq!(parse(&bytes).err(), Some(expected), "offset {offset}");
    };
    refuse(16, 0, FrameError::Version(0));
    refuse(16, 2, FrameError::Version(2));
    refuse(17, 0, FrameError::Kind(0));
    refuse(17, 16, FrameError::Kind(16));
    refuse(17, 255, FrameError::Kind(255));
    refuse(19, 1, FrameError::Kind(Kind::Accept as u8)); // key id 1: an authenticated frame
    refuse(20, NodeId::LIMIT, FrameError::Body);
}

#[test]
fn a_version_is_refused_before_its_checksum_is_read() {
    let mut bytes = framed(&sample(Kind::Accept), b"payload");
    bytes[16] = 9; // another version may compute its checksum otherwise
    assert_eq!(parse(&bytes).err(), Some(FrameError::Version(9)));
}

#[test]
fn a_length_that_belongs_to_other_bytes_is_refused() {
    for (length, expected) in [
        (8u16, FrameError::Checksum), // one byte of padding taken in
        (6, FrameError::Checksum),
        (0, FrameError::Checksum),
        (65, FrameError::Truncated),
        (MAX_PAYLOAD_BYTES as u16, FrameError::Truncated),
        (MAX_PAYLOAD_BYTES as u16 + 1, FrameError::Body),
        (u16::MAX, FrameError::Body),
    ] {
        let mut bytes = framed(&sample(Kind::Accept), b"payload");
        bytes[22..24].copy_from_slice(&length.to_le_bytes());
        reseal(&mut bytes);
        assert_eq!(parse(&bytes).err(), Some(expected), "length {length}");
    }
}

#[test]
fn the_longest_payload_comes_back() {
    let payload = vec![0x5a; MAX_PAYLOAD_BYTES];
    let bytes = framed(&sample(Kind::Value), &payload);
    assert_eq!(parse(&bytes).expect("the longest frame").payload, payload);
}

#[test]
#[should_panic(expected = "does not fit a frame")]
fn a_payload_that_is_too_long_is_the_writers_bug() {
    let mut out = vec![0; 2 * MAX_PAYLOAD_BYTES];
    write_header(&mut out, &sample(Kind::Value), MAX_PAYLOAD_BYTES + 1, 0);
}

#[test]
fn the_frames_of_a_datagram_come_in_order_and_end_at_the_first_error() {
    let parts = [
        framed(&sample(Kind::Promised), b""),
        framed(&sample(Kind::Accept), b"one"),
        framed(&sample(Kind::Chosen), b"2"),
    ];
    let datagram = parts.concat();
    let kinds = |bytes: &[u8]| Frames::new(bytes).map(|frame| frame.map(|f| f.header.kind)).collect::<Vec<_>>();
    assert_eq!(kinds(&datagram), [Ok(Kind::Promised), Ok(Kind::Accept), Ok(Kind::Chosen)]);
    assert_eq!(kinds(&datagram[..datagram.len() - 60]).len(), 3, "the last one's padding may be left out");
    assert_eq!(kinds(&[]), []);
    let mut broken = datagram.clone();
    broken[2 * HEADER_BYTES + 1] ^= 1; // in the payload of the second frame
    assert_eq!(kinds(&broken), [Ok(Kind::Promised), Err(FrameError::Checksum)]);
    let trailing = [&datagram[..], b"x"].concat();
    assert_eq!(kinds(&trailing).last(), Some(&Err(FrameError::Truncated)));
}

#[test]
fn bodies_have_the_sizes_of_format_1() {
    use synod_wire::{client, peer, record, trim};
    assert_eq!((size_of::<RawHeader>(), HEADER_BYTES, ALIGN, align_of::<RawHeader>()), (64, 64, 64, 1));
    assert_eq!((BATCH_HEADER_BYTES, RUN_HEADER_BYTES, ENTRY_PREFIX_BYTES), (16, 40, 2));
    assert_eq!(CONDITION_BYTES, 16);
    assert_eq!((size_of::<peer::PromiseBody>(), size_of::<peer::PromiseReport>()), (8, 24));
    assert_eq!((size_of::<peer::AcceptedBody>(), size_of::<peer::SlotRange>(), size_of::<peer::Probe>()), (32, 16, 16));
    assert_eq!(size_of::<record::LeaseMark>(), 8);
    assert_eq!((size_of::<peer::HelloBody>(), size_of::<peer::HelloAckBody>()), (24, 40));
    assert_eq!((size_of::<record::ChosenRange>(), size_of::<record::Configuration>()), (32, 16));
    assert_eq!((size_of::<record::Trailer>(), size_of::<record::TrailerEntry>()), (24, 32));
    assert_eq!((size_of::<record::Incarnation>(), size_of::<record::PeerMark>()), (16, 16));
    assert_eq!(size_of::<record::SegmentHeader>(), 40);
    assert_eq!(size_of::<record::SnapshotHeader>(), 64);
    assert_eq!((size_of::<client::ReadBody>(), size_of::<client::ReadReplyBody>()), (32, 32));
    assert_eq!((size_of::<client::ReadEntry>(), size_of::<client::SessionBody>()), (10, 48));
    assert_eq!((size_of::<client::AckHeader>(), size_of::<client::AckRun>()), (32, 32));
    assert_eq!((size_of::<client::RefusalBody>(), size_of::<client::StatusBody>()), (52, 136));
    assert_eq!((size_of::<client::Receipt>(), size_of::<client::StageRow>()), (56, 20));
    assert_eq!(size_of::<synod_wire::picture::PictureBody>(), 440);
    assert_eq!(size_of::<record::DurabilityMark>(), 8);
    let stream = (size_of::<SubscribeBody>(), size_of::<StreamHead>(), size_of::<StreamEndBody>());
    assert_eq!(stream, (48, 16, 24));
    assert_eq!((size_of::<trim::TrimBody>(), size_of::<trim::TrimReplyBody>()), (16, 32));
    let mut body = [0; 16];
    assert_eq!(trim::TrimBody::parse(&body), None, "before no sequence");
    body[8] = 9;
    assert_eq!(trim::TrimBody::parse(&body).map(|body| body.before.get()), Some(9));
    assert_eq!(trim::TrimLimit::ALL.iter().map(|limit| *limit as u8).collect::<Vec<_>>(), [1, 2, 3, 4]);
}

/// What a stream's first answer has more than its question would be an amplifier's gain.
#[test]
fn a_node_says_no_more_to_an_unknown_address_than_it_was_sent() {
    use synod_wire::client::ReadReplyBody;
    use zerocopy::FromZeros;
    use zerocopy::little_endian::U64;
    let answer = frame_bytes(size_of::<StreamHead>() + size_of::<ReadReplyBody>());
    assert_eq!(answer, frame_bytes(size_of::<SubscribeBody>()));
    let body = SubscribeBody { stream: U64::new(7), next: U64::new(1), leaves: 1, ..SubscribeBody::new_zeroed() };
    assert_eq!(body.as_bytes()[44], 1);
    assert_eq!(SubscribeBody::parse(body.as_bytes()), Some(body));
    for wrong in [SubscribeBody { stream: U64::ZERO, ..body }, SubscribeBody { next: U64::ZERO, ..body }] {
        assert_eq!(SubscribeBody::parse(wrong.as_bytes()), None);
    }
    assert_eq!(StreamEnd::ALL.iter().map(|end| *end as u8).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6, 7, 8, 9]);
}

/// What came to the bodies of format 1 after they were first written: taken from zeroed fields, so that older bytes mean what
/// they meant.
#[test]
fn durability_receipts_and_stages_lie_where_format_1_has_them() {
    use synod_wire::client::{AckHeader, Durability, Receipt, Stage, StageRow, StatusBody};
    use synod_wire::frame::flags;
    use synod_wire::record::DurabilityMark;
    use zerocopy::FromZeros;
    use zerocopy::little_endian::{U32, U64};
    assert_eq!((flags::BARRIER, flags::MEMORY, flags::RECEIPT), (1, 2, 4));
    assert_eq!((Durability::Disk as u8, Durability::Memory as u8, Kind::Durability as u8), (1, 2, 15));
    let known: Vec<u8> = (0..=255).filter(|byte| Durability::from_u8(*byte).is_some()).collect();
    assert_eq!(known, [1, 2]);
    assert_eq!(DurabilityMark::from(Durability::Memory).as_bytes(), [2, 0, 0, 0, 0, 0, 0, 0]);
    let ack = AckHeader { durability: 2, receipts: 3, ..AckHeader::new_zeroed() };
    assert_eq!((ack.as_bytes()[18], ack.as_bytes()[19]), (2, 3));
    let status = StatusBody { stages: 5, durability: 1, ..StatusBody::new_zeroed() };
    assert_eq!((status.as_bytes()[92], status.as_bytes()[93]), (5, 1));
    let stages = [1u64, 2, 3, Receipt::NOT_YET, 5].map(U64::new);
    let receipt = Receipt { first_seq: U64::new(0x11), entries: U32::new(0x22), reserved: U32::ZERO, stages };
    let mut expected = vec![0x11, 0, 0, 0, 0, 0, 0, 0, 0x22, 0, 0, 0, 0, 0, 0, 0];
    for ns in [1u64, 2, 3, u64::MAX, 5] {
        expected.extend(ns.to_le_bytes());
    }
    assert_eq!(receipt.as_bytes(), expected);
    let row = StageRow { count: U64::new(1), p50_ns: U32::new(2), p99_ns: U32::new(3), max_us: U32::new(4) };
    assert_eq!(row.as_bytes(), [1, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0]);
    assert_eq!(Stage::ALL.map(|stage| stage as usize), [0, 1, 2, 3, 4]);
}

/// The same of what came with sessions that have numbers and with conditions: behind the fields that were there, and in a kind
/// of run of its own.
#[test]
fn session_numbers_and_conditions_lie_where_format_1_has_them() {
    use synod_wire::client::{AckHeader, AckRun, Decision, SessionBody};
    use zerocopy::{FromZeros, IntoBytes};
    assert_eq!((RunKind::Append as u8, RunKind::OpenSession as u8, RunKind::ConditionalAppend as u8), (0, 1, 2));
    assert_eq!((open::OR_CREATE, open::EXISTING), (0, u64::MAX));
    let known: Vec<u8> = (0..=255).filter(|byte| Decision::from_u8(*byte).is_some()).collect();
    assert_eq!((known, Decision::TailMoved as u8, Decision::Fenced as u8), (vec![0, 1, 2], 1, 2));
    assert_eq!(RunHeader { session: 5.into(), ..RunHeader::new_zeroed() }.as_bytes()[32], 5);
    assert_eq!(AckHeader { session: 5.into(), ..AckHeader::new_zeroed() }.as_bytes()[24], 5);
    assert_eq!(SessionBody { session: 5.into(), ..SessionBody::new_zeroed() }.as_bytes()[40], 5);
    assert_eq!(AckRun { decision: 2, ..AckRun::new_zeroed() }.as_bytes()[26], 2);
    let condition = Condition { match_sequence: 3.into(), fence: 4.into() };
    let mut run = [0; 64];
    let mut builder = RunBuilder::conditional(&mut run, 1, 2, 1, &condition);
    assert!(builder.push(b"x"));
    builder.finish(RunKind::ConditionalAppend);
    assert_eq!((run[26], run[28], run[40], run[48], run[56]), (2, 19, 3, 4, 1));
}

#[test]
fn kept_inputs_are_judged_as_their_names_say() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut seen = 0;
    for entry in std::fs::read_dir(&folder).expect("the corpus") {
        let path = entry.expect("an entry of the corpus").path();
        let name = path.file_name().expect("a file").to_string_lossy().into_owned();
        let bytes = std::fs::read(&path).expect("a kept input");
        try_everything(&bytes);
        let judged = match Frames::new(&bytes).find_map(Result::err) {
            None => {
                match Frames::new(&bytes).flatten().map(|frame| Batch::parse(frame.payload)).find_map(Result::err) {
                    Some(error) => format!("batch_{error:?}").to_lowercase(),
                    None => "ok".into(),
                }
            }
            Some(error) => format!("{error:?}").to_lowercase(),
        };
        let judged = judged.split('(').next().unwrap_or_default();
        assert!(name.starts_with(judged), "{name} is judged {judged}");
        seen += 1;
    }
    assert!(seen >= 10, "only {seen} kept inputs");
}

/// One change to some bytes.
#[derive(Clone, Debug)]
enum Change {
    Flip(usize, u8),
    Set(usize, u8),
    Cut(usize),
    Insert(usize, Vec<u8>),
    Copy(usize, usize, usize),
}

fn changes() -> impl Strategy<Value = Vec<Change>> {
    let change = prop_oneof![
        (any::<usize>(), 0..8u8).prop_map(|(at, bit)| Change::Flip(at, bit)),
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), prop::collection::vec(any::<u8>(), 1..16)).prop_map(|(at, bytes)| Change::Insert(at, bytes)),
        (any::<usize>(), any::<usize>(), 1..32usize).prop_map(|(from, to, length)| Change::Copy(from, to, length)),
    ];
    prop::collection::vec(change, 1..6)
}

fn apply(bytes: &mut Vec<u8>, changes: &[Change]) {
    for change in changes {
        let length = bytes.len().max(1);
        match change {
            _ if bytes.is_empty() => return,
            Change::Flip(at, bit) => bytes[at % length] ^= 1 << bit,
            Change::Set(at, byte) => bytes[at % length] = *byte,
            Change::Cut(at) => bytes.truncate(at % length),
            Change::Insert(at, new) => drop(bytes.splice(at % length..at % length, new.iter().copied())),
            Change::Copy(from, to, count) => {
                let from = from % length;
                let end = (from + count).min(length);
                let piece = bytes[from..end].to_vec();
                let to = to % (length - piece.len() + 1);
                bytes[to..to + piece.len()].copy_from_slice(&piece);
            }
        }
    }
}

fn header() -> impl Strategy<Value = Header> {
    let fixed = (0..Kind::ALL.len(), any::<u8>(), 0..NodeId::LIMIT, any::<u8>(), any::<u32>(), any::<u32>());
    let ballot = || (0..1u64 << 56, any::<u8>()).prop_map(|(round, node)| Ballot { round, node: NodeId(node) });
    (fixed, any::<u64>(), ballot(), ballot(), any::<u64>()).prop_map(|(fixed, slot, ballot, promised, lsn)| Header {
        kind: Kind::ALL[fixed.0],
        flags: fixed.1,
        from: NodeId(fixed.2),
        group: GroupId(fixed.3),
        cluster: ClusterId(fixed.4),
        epoch: Epoch(fixed.5),
        slot: Slot(slot),
        ballot,
        promised,
        lsn: Lsn(lsn),
    })
}

/// A client, its session's number, the first client sequence, a fencing token or 0, entries.
type Runs = Vec<(u128, u64, u64, u64, Vec<Vec<u8>>)>;

fn runs() -> impl Strategy<Value = Runs> {
    let entries = prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..6);
    let token = prop_oneof![Just(0), any::<u64>()];
    prop::collection::vec((any::<u128>(), 1..u64::MAX, 1..u64::MAX / 2, token, entries), 0..6)
}

fn batch_of(runs: &Runs) -> Vec<u8> {
    let mut bytes = vec![0; 4_096];
    let mut at = BATCH_HEADER_BYTES;
    for (client, session, first, token, entries) in runs {
        let fence = Condition { match_sequence: Condition::ANY_TAIL.into(), fence: (*token).into() };
        let out = &mut bytes[at..];
        let (mut run, kind) = match (entries.is_empty(), token) {
            (true, _) => (RunBuilder::new(out, *client, *session, 0), RunKind::OpenSession),
            (_, 0) => (RunBuilder::new(out, *client, *session, *first), RunKind::Append),
            _ => (RunBuilder::conditional(out, *client, *session, *first, &fence), RunKind::ConditionalAppend),
        };
        assert!(entries.iter().all(|entry| run.push(entry)));
        at += run.finish(kind).0;
    }
    write_batch_header(&mut bytes, 7, runs.len() as u16);
    bytes.truncate(at);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        try_everything(&bytes);
    }

    #[test]
    fn a_frame_comes_back_as_it_was_written(
        header in header(),
        payload in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let bytes = framed(&header, &payload);
        let frame = parse(&bytes).expect("a frame just written");
        prop_assert_eq!(frame.header, header);
        prop_assert_eq!(frame.payload, &payload[..]);
        let (again, crc, length) = parse_header(&bytes).expect("its header");
        prop_assert_eq!((again, crc, length), (header, checksum(&payload), payload.len()));
    }

    #[test]
    fn changed_frames_never_panic(header in header(), runs in runs(), changes in changes()) {
        let mut bytes = framed(&header, &batch_of(&runs));
        apply(&mut bytes, &changes);
        try_everything(&bytes);
    }

    #[test]
    fn a_changed_header_that_is_sealed_again_never_panics(header in header(), runs in runs(), changes in changes()) {
        let mut bytes = framed(&header, &batch_of(&runs));
        let mut front = bytes[..HEADER_BYTES].to_vec();
        apply(&mut front, &changes);
        front.resize(HEADER_BYTES, 0);
        bytes[..HEADER_BYTES].copy_from_slice(&front);
        bytes[16] = VERSION;
        reseal(&mut bytes);
        try_everything(&bytes);
    }

    #[test]
    fn changed_batches_never_panic(runs in runs(), changes in changes()) {
        let mut bytes = batch_of(&runs);
        apply(&mut bytes, &changes);
        try_everything(&bytes);
        try_everything(bytes.get(BATCH_HEADER_BYTES..).unwrap_or_default());
    }

    #[test]
    fn changed_commands_of_the_map_never_panic(
        key in prop::collection::vec(any::<u8>(), 1..20),
        value in prop::collection::vec(any::<u8>(), 0..40),
        changes in changes(),
    ) {
        let mut out = [0; MAX_COMMAND_BYTES];
        let used = Command::Put { key: &key, value: &value }.write(&mut out).expect("allowed lengths");
        let mut bytes = out[..used].to_vec();
        prop_assert_eq!(Command::parse(&bytes), Ok(Command::Put { key: &key, value: &value }));
        apply(&mut bytes, &changes);
        try_everything(&bytes);
    }

    #[test]
    fn a_batch_comes_back_as_it_was_written(runs in runs()) {
        let bytes = batch_of(&runs);
        let batch = Batch::parse(&bytes).expect("a batch just written");
        let back: Runs = batch
            .runs()
            .map(|run| {
                let token = run.condition().token().unwrap_or(0);
                (run.client_id(), run.session(), run.first_seq(), token, run.entries().map(<[u8]>::to_vec).collect())
            })
            .collect();
        let opened = |entries: &Vec<_>, word| if entries.is_empty() { 0 } else { word };
        let wanted: Runs =
            runs.into_iter().map(|(c, s, f, t, e)| (c, s, opened(&e, f), opened(&e, t), e)).collect();
        prop_assert_eq!(back, wanted);
        for cut in 0..bytes.len() {
            prop_assert!(Batch::parse(&bytes[..cut]).is_err());
        }
    }

    #[test]
    fn an_entry_that_does_not_fit_changes_nothing(room in RUN_HEADER_BYTES..120, entries in prop::collection::vec(0..60usize, 0..8)) {
        let mut bytes = vec![0; room];
        let mut run = RunBuilder::new(&mut bytes, 1, 1, 1);
        let mut used = RUN_HEADER_BYTES;
        let mut taken = 0;
        for length in entries {
            let fits = length > 0 && used + ENTRY_PREFIX_BYTES + length <= room;
            prop_assert_eq!(run.push(&vec![1; length]), fits);
            if fits {
                used += ENTRY_PREFIX_BYTES + length;
                taken += 1;
            }
        }
        prop_assert_eq!(run.finish(RunKind::Append), (used, taken));
        prop_assert_eq!(Run::parse(&bytes[..used]).is_ok(), taken > 0);
    }
}

/// What a later release of the same format says beside what is known here is skipped; what is of another format ends the datagram.
#[test]
fn a_later_revision_is_read_and_a_frame_of_an_unknown_kind_is_skipped() {
    let known = framed(&sample(Kind::Heartbeat), b"probe");
    let mut later = known.clone();
    later[VERSION_OFFSET] = VERSION | (REVISION + 1) << VERSION_BITS.count_ones();
    reseal(&mut later);
    let mut unknown = framed(&sample(Kind::Heartbeat), b"of a kind that comes later");
    unknown[VERSION_OFFSET + 1] = 0xfe;
    reseal(&mut unknown);
    assert_eq!((revision_of(&known), revision_of(&later), revision_of(&[])), (REVISION, REVISION + 1, REVISION));
    let datagram = [&unknown[..], &later, &unknown, &known].concat();
    let kinds: Vec<_> = Frames::new(&datagram).map(|frame| frame.map(|frame| frame.header.kind)).collect();
    let skipped = Err(FrameError::Kind(0xfe));
    assert_eq!(kinds, [skipped, Ok(Kind::Heartbeat), skipped, Ok(Kind::Heartbeat)]);

    let mut other = known.clone();
    other[VERSION_OFFSET] = VERSION + 1;
    reseal(&mut other);
    let datagram = [&other[..], &known].concat();
    let read: Vec<_> = Frames::new(&datagram).map(|frame| frame.map(drop)).collect();
    assert_eq!(read, [Err(FrameError::Version(VERSION + 1))]);
}
