//! Some seeds of every profile, as they are: the properties hold, and the faults that they promise happen.

use synod_sim::{Area, Coverage, Fault, Plan, Profile, run};

fn run_some(profile: Profile, seeds: u64) -> Coverage {
    let mut coverage = Coverage::default();
    for seed in 0..seeds {
        let outcome = run(&Plan::new(seed, profile), false);
        let outcome = outcome.unwrap_or_else(|failure| {
            panic!("seed {seed}: {:?}\n{}", failure.violation, failure.events.join("\n"));
        });
        assert!(outcome.operations > 0 && outcome.slots > 0, "seed {seed} did nothing");
        coverage.absorb(&outcome.coverage);
    }
    coverage
}

#[test]
fn calm_runs_have_no_faults() {
    assert_eq!(run_some(Profile::Calm, 3).faults.keys().filter(|fault| fault.area() != Area::Network).count(), 0);
}

#[test]
fn the_network_profile_breaks_links_and_nothing_else() {
    let faults = run_some(Profile::Network, 5).faults;
    assert!(faults.contains_key(&Fault::Loss) && faults.contains_key(&Fault::Partition));
    assert!(!faults.contains_key(&Fault::Kill) && !faults.contains_key(&Fault::Corruption));
}

#[test]
fn the_disk_profile_damages_logs() {
    let coverage = run_some(Profile::Disk, 12);
    let damage = [Fault::Corruption, Fault::CorruptionEverywhere, Fault::Misdirected, Fault::PhantomWrite];
    assert!(damage.iter().any(|fault| coverage.faults.contains_key(fault)));
    assert!(coverage.faults.contains_key(&Fault::TornWrite));
}

#[test]
fn the_process_profile_kills_and_freezes() {
    let faults = run_some(Profile::Process, 5).faults;
    assert!(faults.contains_key(&Fault::Kill) && faults.contains_key(&Fault::PauseLeader));
}

/// Seeds that failed once, and what was wrong.
const FAILED_ONCE: &[(u64, &str)] = &[
    (721, "a member that could not take an offered snapshot got no values for three seconds"),
    (8_000_221, "a new leader trimmed what a member lacked that it had heard when it led before"),
    (8_000_235, "a read from disk met an older vote below a record that was not durable yet"),
    (8_000_325, "the checker of leases took an election that comes too late for one that counts"),
    (9_300_043, "a cut's mark was taken for proof of the trailer before it, which the same crash had torn off"),
    (9_400_255, "the checker of pre-votes took a leader that begins phase 1 anew for one that deposes another"),
    (9_601_264, "all members had caught up by snapshots, and nobody had entries that were never trimmed"),
    (44_684_924, "a leader with a slow disk waited ten seconds after a moment without anybody near to hand over to"),
    (70_246_021, "a node may vote, and takes over, in one turn"),
];

/// The same of runs whose members change. The seeds above are from before there were any.
const FAILED_WITH_CHANGES: &[(u64, Profile, &str)] = &[
    (
        5,
        Profile::Members,
        "a leader that removed itself stepped down too early, and nobody told it that the others knew",
    ),
    (9, Profile::Mixed, "a learner refused pre-votes, as it did not know yet that it may vote"),
    (14, Profile::Mixed, "a node that waits to be added kept a subscriber that waited for good"),
    (84, Profile::Mixed, "a node was taken for removed, as an earlier life of its log had been"),
    (162, Profile::Members, "an answer to hello left under a later epoch than it was said under"),
    (
        827,
        Profile::Members,
        "an answer by a lease was held to the lease that the same turn gave up (the simulator's fault)",
    ),
    (
        48_599_703,
        Profile::Mixed,
        "a cut that was interrupted had taken the only marks that told damage from a torn tail",
    ),
];

fn must_pass(plan: &Plan, what: &str) {
    if let Err(failure) = run(plan, false) {
        panic!("seed {} ({what}): {:?}\n{}", plan.seed, failure.violation, failure.events.join("\n"));
    }
}

#[test]
fn seeds_that_failed_once_pass() {
    FAILED_ONCE.iter().for_each(|(seed, what)| must_pass(&Plan::of_founders(*seed, Profile::Mixed), what));
    FAILED_WITH_CHANGES.iter().for_each(|(seed, profile, what)| must_pass(&Plan::new(*seed, *profile), what));
}

#[test]
fn members_come_go_and_come_back() {
    let coverage = run_some(Profile::Members, 8);
    let seen = |mark: &str| coverage.marks.contains_key(mark);
    let changes = ["a node joined", "a learner may vote", "a member was removed", "a removed node was formatted anew"];
    assert!(changes.iter().all(|mark| seen(mark)), "{:?}", coverage.marks);
}
