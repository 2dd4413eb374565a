//! Sessions and conditional appends against real processes: an outcome that was told once is told again by every later leader,
//! and by nodes that had to read it back from their disks; who comes back to an evicted session is told so, and nothing is
//! appended twice.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::packet::{Answer, RawSession};
use common::serial;
use std::num::NonZeroU64;
use std::process::Output;
use synod::sequencer::MAX_SESSIONS;
use synod_client::{
    Appender, ClientError, Committed, Condition, Options, Refusal, Resume, Sequence, Unmet, last_committed,
};
use synod_wire::batch;
use synod_wire::client::Decision;

const CLIENT: u128 = 0x5e55;

fn cluster(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.consensus.heartbeat_us = 5_000;
        config.consensus.election_timeout_min_us = 25_000;
        config.consensus.election_timeout_max_us = 50_000;
    });
    cluster.start_all();
    cluster
}

fn on(tail: u64, fence: u64) -> batch::Condition {
    batch::Condition { match_sequence: tail.into(), fence: fence.into() }
}

fn connect(cluster: &Cluster, client_id: u128, resume: Resume) -> Result<Appender, ClientError> {
    let members = cluster.config.client_addresses(GROUP);
    Appender::connect(cluster.config.cluster_id(), GROUP, members, client_id, Options { resume, ..cluster.options() })
}

fn committed(cluster: &Cluster, client_id: u128) -> Option<Committed> {
    let members = cluster.config.client_addresses(GROUP);
    last_committed(cluster.config.cluster_id(), GROUP, members, client_id, cluster.options()).expect("an answer")
}

/// Runs `synod append`.
fn append(cluster: &Cluster, arguments: &[&str]) -> Output {
    let config = cluster.config_file().to_str().expect("a path in UTF-8");
    cluster.synod(&[&["append", "--config", config], arguments].concat())
}

const MOVED: Answer = Answer::NotAppended(Decision::TailMoved, 1);
const FENCED: Answer = Answer::NotAppended(Decision::Fenced, 5);

/// The refused entries again: by now the first one's condition would be met.
fn refused_again(session: &RawSession) {
    session.send_if(2, &on(1, 0), b"second");
    assert_eq!(session.receive(SOON), Some(MOVED));
    session.send_if(3, &on(batch::Condition::ANY_TAIL, 9), b"third");
    assert_eq!(session.receive(SOON), Some(FENCED));
}

#[test]
fn a_refusal_is_told_again_by_the_next_leader_and_after_a_power_cut() {
    let _one = serial();
    let mut cluster = cluster("conditions");
    let (leader, ballot) = cluster.await_leader_above(GROUP, Default::default());
    let session = RawSession::new(&cluster, leader, GROUP, CLIENT);
    session.open();
    session.send_if(1, &on(0, 5), b"first");
    assert_eq!(session.receive(SOON), Some(Answer::Appended(1)));
    session.send_if(2, &on(0, 0), b"second");
    assert_eq!(session.receive(SOON), Some(MOVED));
    session.send_if(3, &on(batch::Condition::ANY_TAIL, 4), b"third");
    assert_eq!(session.receive(SOON), Some(FENCED));
    refused_again(&session);

    cluster.kill(leader);
    let (next, ballot) = cluster.await_leader_above(GROUP, ballot);
    let session = session.at(&cluster, next);
    refused_again(&session);
    session.send_if(4, &on(batch::Condition::ANY_TAIL, 4), b"a new entry of the writer that was fenced");
    assert_eq!(session.receive(SOON), Some(FENCED));

    cluster.start(leader);
    cluster.kill_all();
    cluster.start_all();
    let (last, _) = cluster.await_leader_above(GROUP, ballot);
    let session = session.at(&cluster, last);
    refused_again(&session);
    session.send_if(5, &on(1, 5), b"second entry of the log");
    assert_eq!(session.receive(SOON), Some(Answer::Appended(1)));

    assert_eq!(committed(&cluster, CLIENT), Some(Committed { session: session.number(), last_committed: 5 }));
    cluster.await_converged(GROUP);
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!((&report["ok"], &report["groups"][0]["tail"]), (&true.into(), &2.into()), "{report}");
}

#[test]
fn of_two_writers_that_agree_on_a_tail_one_is_appended_and_a_higher_token_shuts_the_other_out() {
    let _one = serial();
    let cluster = cluster("writers");
    let mut one = connect(&cluster, CLIENT, Resume::OrCreate).expect("a session");
    let mut other = connect(&cluster, CLIENT + 1, Resume::OrCreate).expect("a session");
    let token = |token| Condition::fence(NonZeroU64::new(token).expect("a token"));
    for tail in (0..20).map(Sequence) {
        let (first, second) = if tail.0 % 2 == 0 { (&mut one, &mut other) } else { (&mut other, &mut one) };
        assert_eq!(first.append_if(b"mine", Condition::tail(tail)).expect("it is first").sequence, tail.next());
        match second.append_if(b"mine", Condition::tail(tail)) {
            Err(ClientError::NotAppended { unmet: Unmet::TailMoved { tail: moved }, .. }) => {
                assert_eq!(moved, tail.next())
            }
            told => panic!("{told:?}"),
        }
    }
    one.append_if(b"leads", token(1)).expect("no other token was seen");
    other.append_if(b"takes over", token(2)).expect("a higher one");
    match one.append_if(b"leads still?", token(1)) {
        Err(ClientError::NotAppended { unmet: Unmet::Fenced { highest: 2 }, .. }) => {}
        told => panic!("{told:?}"),
    }
    assert_eq!(one.append(b"not fenced").expect("a plain entry").sequence, Sequence(23));
}

#[test]
fn who_comes_back_to_an_evicted_session_is_told_so_and_nothing_is_appended_twice() {
    let _one = serial();
    let mut cluster = cluster("evicted");
    let input = cluster.dir().join("input");
    std::fs::write(&input, "by the command line\n").expect("written");
    let input = input.to_str().expect("a path in UTF-8").to_owned();
    let warns = |cluster: &Cluster| {
        let output = append(cluster, &["--input", &input, "--client-id", "7"]);
        assert!(output.status.success(), "{output:?}");
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (String::from_utf8_lossy(&output.stdout).into_owned(), error.contains("nothing is decided on"), error)
    };
    let (first, new, error) = warns(&cluster);
    assert!(new, "{error}");
    let number_of_7 =
        error.lines().find_map(|line| line.strip_prefix("synod: client 0x7, session ")).expect("it is told");
    assert_eq!(warns(&cluster).0, first, "the outcome is told again");
    assert!(!warns(&cluster).1, "something is decided on in it");
    let mut appender = connect(&cluster, CLIENT, Resume::OrCreate).expect("a session");
    let number = appender.session();
    appender.append(b"once").expect("appended");
    assert_eq!(committed(&cluster, CLIENT), Some(Committed { session: number, last_committed: 1 }));
    drop(appender);
    let resumed = connect(&cluster, CLIENT, Resume::Session(number)).expect("it is still there");
    assert_eq!((resumed.session(), resumed.last_committed()), (number, 1));

    let leader = cluster.await_leader(GROUP);
    for other in 0..MAX_SESSIONS as u128 {
        RawSession::new(&cluster, leader, GROUP, (1 << 64) + other).open();
    }
    assert_eq!(committed(&cluster, CLIENT), None);
    let refused = append(&cluster, &["--input", &input, "--client-id", "7", "--session", number_of_7]);
    assert!(refused.status.code() == Some(1) && refused.stdout.is_empty(), "{refused:?}");
    assert!(String::from_utf8_lossy(&refused.stderr).contains("the server evicted the session"), "{refused:?}");
    let (second, warned, error) = warns(&cluster);
    assert!(warned && second != first, "no silent second append: {error}");
    match connect(&cluster, CLIENT, Resume::Session(number)) {
        Err(ClientError::SessionEvicted { .. }) => {}
        told => panic!("{told:?}"),
    }
    // A late copy of the first opening arrives: the id has a session again, and that takes nothing meant for the first one.
    let late = RawSession::new(&cluster, leader, GROUP, CLIENT);
    late.open();
    assert_ne!(late.number(), number);
    let retry = late.at(&cluster, leader);
    retry.set_number(number);
    retry.send(1, &[b"once"]);
    assert_eq!(retry.receive(SOON), Some(Answer::Refused(Refusal::SessionEvicted, number)));
    cluster.await_converged(GROUP);
    cluster.stop_all();
    let report = cluster.verify();
    assert_eq!((&report["ok"], &report["groups"][0]["tail"]), (&true.into(), &3.into()), "{report}");
}
