//! Leases: what an acceptor grants and then refuses, and what the leader counts. Node 1 is under test, as follower of node 2
//! or as leader in ballot 1.1. A lease lasts 100 ms, of which 98 count where clocks may drift by one in a hundred.

use super::*;

const B: Ballot = Ballot { round: 1, node: ME };
const LEASE_NS: u64 = 100 * MS;
const COUNTED_NS: u64 = LEASE_NS / 101 * 99;

fn with_leases() -> Settings {
    Settings { lease: Some(Lease { length_ns: LEASE_NS, drift_ppm: 10_000 }), ..settings(1, 3) }
}

fn beat(ballot: Ballot, probe: u64) -> Message {
    Message::Heartbeat { ballot, chosen: Slot(0), probe, lease_ns: LEASE_NS }
}

fn granted(ballot: Ballot, probe: u64, lease_ns: u64) -> Message {
    Message::HeartbeatAck { ballot, prefix: Slot(0), probe, lease_ns }
}

/// A follower of node 2 in ballot 1.2 that has granted it a lease at this very moment.
fn bound() -> Bench {
    let mut bench = Bench::follower_of(with_leases(), founded());
    bench.hear(TWO, beat(ballot(1, 2), 1));
    bench.sync();
    assert_eq!(bench.core.bound_until_ns(), bench.now_ns + LEASE_NS);
    bench
}

/// A leader in ballot 1.1 whose heartbeat 1 left at this very moment.
fn leader() -> Bench {
    let mut bench = Bench::follower_of(with_leases(), founded());
    bench.election();
    bench.sync();
    bench.hear(TWO, promise(B, 0, vec![]));
    bench.sync();
    bench.hear(TWO, accepted(B, 1, [0; 4]));
    assert_eq!((bench.core.role(), bench.core.lease_until_ns()), (Role::Leader, 0));
    bench
}

#[test]
fn a_grant_waits_until_the_log_says_how_long_it_may_be() {
    let mut bench = Bench::follower_of(with_leases(), founded());
    let outputs = bench.hear(TWO, beat(ballot(1, 2), 1));
    assert_eq!(
        outputs[outputs.len() - 2..],
        [
            persist(4, ballot(1, 2), Record::Lease { longest_ns: LEASE_NS }),
            send(&[TWO], granted(ballot(1, 2), 1, LEASE_NS), Lsn(4)),
        ]
    );
    bench.sync();
    assert_eq!(
        bench.hear(TWO, beat(ballot(1, 2), 2)),
        [send(&[TWO], granted(ballot(1, 2), 2, LEASE_NS), Lsn(4))],
        "once is enough"
    );
}

#[test]
fn within_a_grant_the_promise_rises_for_its_holder_alone() {
    for message in [prepare(ballot(2, 3)), accept(ballot(2, 3), 1), beat(ballot(2, 3), 1)] {
        let mut bench = bound();
        bench.now_ns += LEASE_NS - 1;
        assert_eq!(bench.hear(THREE, message.clone()), [], "{message:?}");
        assert_eq!(bench.core.promised(), ballot(1, 2));
        bench.now_ns += 1;
        bench.hear(THREE, message);
        assert_eq!(bench.core.promised(), ballot(2, 3));
    }
    let mut bench = bound();
    bench.hear(TWO, prepare(ballot(2, 2)));
    assert_eq!(bench.core.promised(), ballot(2, 2), "who asks for more has given up what it had");
}

#[test]
fn only_a_heartbeat_above_all_before_it_is_granted() {
    let mut bench = bound();
    let until_ns = bench.core.bound_until_ns();
    bench.now_ns += MS;
    assert_eq!(bench.hear(TWO, beat(ballot(1, 2), 1)), [send(&[TWO], granted(ballot(1, 2), 1, 0), Lsn(4))]);
    assert_eq!(bench.core.bound_until_ns(), until_ns);
    bench.hear(TWO, beat(ballot(1, 2), 2));
    assert_eq!(bench.core.bound_until_ns(), until_ns + MS);
}

#[test]
fn an_acceptor_without_leases_or_with_shorter_ones_says_so() {
    let mut bench = Bench::follower();
    let outputs = bench.hear(TWO, beat(ballot(1, 2), 1));
    assert_eq!(outputs.last(), Some(&send(&[TWO], granted(ballot(1, 2), 1, 0), Lsn(3))));
    let shorter = Lease { length_ns: 30 * MS, drift_ppm: 10_000 };
    let mut bench = Bench::follower_of(Settings { lease: Some(shorter), ..settings(1, 3) }, founded());
    let outputs = bench.hear(TWO, beat(ballot(1, 2), 1));
    assert_eq!(outputs.last(), Some(&send(&[TWO], granted(ballot(1, 2), 1, 30 * MS), Lsn(4))));
}

#[test]
fn an_acceptor_that_starts_again_waits_as_long_as_it_ever_granted_whatever_is_configured_now() {
    let restart = Restart { longest_lease_ns: LEASE_NS, ..restart(ballot(1, 2), 0, vec![]) };
    for settings in [with_leases(), settings(1, 3)] {
        let mut bench = Bench::follower_of(settings, restart.clone());
        bench.now_ns = LEASE_NS - 1;
        bench.hear(THREE, prepare(ballot(2, 3)));
        assert_eq!(bench.core.promised(), ballot(1, 2));
        bench.now_ns = LEASE_NS;
        bench.hear(THREE, prepare(ballot(2, 3)));
        assert_eq!(bench.core.promised(), ballot(2, 3));
    }
    let never = Restart { longest_lease_ns: 0, ..restart };
    let mut bench = Bench::follower_of(with_leases(), never);
    bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!(bench.core.promised(), ballot(2, 3), "it never granted one");
}

#[test]
fn after_damage_nobody_is_taken_for_the_holder_and_the_configured_length_is_waited() {
    let damaged = vec![LsnRun { first: Lsn(9), last: Lsn(9) }];
    let restart = Restart { damaged, ..restart(ballot(1, 2), 0, vec![]) };
    let mut bench = Bench::follower_of(with_leases(), restart);
    for (peer, candidate) in [(TWO, ballot(2, 2)), (THREE, ballot(2, 3))] {
        bench.hear(peer, prepare(candidate));
        assert_eq!(bench.core.promised(), ballot(1, 2));
    }
    assert_eq!(bench.core.bound_until_ns(), LEASE_NS);
}

#[test]
fn a_candidate_waits_for_the_end_of_what_it_granted() {
    let long = Lease { length_ns: 400 * MS, drift_ppm: 10_000 };
    let mut bench = Bench::follower_of(Settings { lease: Some(long), ..settings(1, 3) }, founded());
    bench.hear(TWO, Message::Heartbeat { ballot: ballot(1, 2), chosen: Slot(0), probe: 1, lease_ns: 400 * MS });
    let heard_ns = bench.now_ns;
    bench.sync();
    bench.election();
    let waited_ms = (bench.now_ns - heard_ns) / MS;
    // The lease, two heartbeats, and up to the difference of the time-outs.
    assert!((440..=590).contains(&waited_ms), "{waited_ms} ms");
}

#[test]
fn a_lease_counts_from_when_its_heartbeat_left() {
    let mut bench = leader();
    let left_ns = bench.now_ns;
    bench.now_ns += 30 * MS;
    bench.hear(TWO, granted(B, 1, LEASE_NS));
    let until_ns = bench.core.lease_until_ns();
    assert!(until_ns <= left_ns + COUNTED_NS + 99 && until_ns >= left_ns + COUNTED_NS, "{until_ns} after {left_ns}");
    bench.now_ns += 30 * MS;
    bench.hear(TWO, granted(B, 1, LEASE_NS));
    bench.hear(THREE, granted(B, 77, LEASE_NS));
    assert_eq!(bench.core.lease_until_ns(), until_ns, "the same answer again, and one to a heartbeat that never left");
    bench.hear(THREE, granted(B, 1, 0));
    bench.hear(THREE, granted(ballot(1, 2), 1, LEASE_NS));
    assert_eq!(bench.core.lease_until_ns(), until_ns, "nothing granted, or in another ballot");
}

#[test]
fn what_is_granted_counts_less_the_drift_and_never_more_than_was_asked_for() {
    let lease = Lease { length_ns: LEASE_NS, drift_ppm: 10_000 };
    // A fast clock shows the grant's end after g / (1 + d), a slow one what is counted after c / (1 - d).
    let (counted, true_ns) = (lease.counted_ns(LEASE_NS) as f64, LEASE_NS as f64 / 1.01);
    assert!(counted / 0.99 <= true_ns && counted / 0.99 > true_ns - 2.0);
    assert_eq!(lease.counted_ns(u64::MAX), lease.counted_ns(LEASE_NS));
    assert_eq!(Lease { drift_ppm: 1_000_000, ..lease }.counted_ns(LEASE_NS), 0);
}

#[test]
fn so_many_grants_that_no_other_leader_can_have_a_quorum() {
    let quorums = Quorums { phase1: 1, phase2: 3 };
    let mut bench = Bench::follower_of(Settings { quorums, ..with_leases() }, founded());
    bench.election();
    bench.sync();
    bench.sync();
    for peer in [TWO, THREE] {
        bench.hear(peer, accepted(B, 1, [0; 4]));
    }
    bench.hear(TWO, granted(B, 1, LEASE_NS));
    assert_eq!(bench.core.lease_until_ns(), 0, "one promise makes another leader: all must grant");
    bench.hear(THREE, granted(B, 1, 50 * MS));
    assert_eq!(bench.core.lease_until_ns() - bench.now_ns, 50 * MS * 99 / 101, "the shorter one");
}

#[test]
fn whoever_leads_no_longer_has_no_lease() {
    let mut bench = leader();
    bench.hear(TWO, granted(B, 1, LEASE_NS));
    assert!(bench.core.lease_until_ns() > bench.now_ns);
    bench.hear(THREE, prepare(ballot(2, 3)));
    assert_eq!((bench.core.promised(), bench.core.lease_until_ns()), (ballot(2, 3), 0));
    bench.hear(TWO, granted(B, 1, LEASE_NS));
    assert_eq!(bench.core.lease_until_ns(), 0, "nor by an answer that is late");
}
