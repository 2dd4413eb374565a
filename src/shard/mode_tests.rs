//! The whole of the transition function and of the table of operations, written out and compared with `modes.txt`; and the
//! paths that matter, step by step.

use super::*;
use std::collections::BTreeSet;
use std::fmt::Write;
use synod_wire::NodeId;

const MS: u64 = 1_000_000;
const TIMEOUT_NS: u64 = 300 * MS;
const WINDOW: u64 = 16;
/// A time at which all that is zero is long ago.
const NOW_NS: u64 = 3_600_000 * MS;

const fn ballot(round: u64) -> Ballot {
    Ballot { round, node: NodeId(1) }
}

/// A follower that hears nobody.
fn alone(now_ns: u64) -> Facts {
    Facts {
        now_ns,
        role: Role::Follower,
        halted: None,
        ballot: ballot(1),
        leader_heard_ns: None,
        watermark: None,
        applied: Slot(10),
        quorum_heard_ns: 0,
    }
}

/// A follower that hears its leader, which has this much chosen.
fn led(now_ns: u64, chosen: u64) -> Facts {
    let (heard, watermark) = (Some(now_ns), Some(Slot(chosen)));
    Facts { leader_heard_ns: heard, watermark, quorum_heard_ns: now_ns, ..alone(now_ns) }
}

fn leads(now_ns: u64) -> Facts {
    Facts { role: Role::Leader, quorum_heard_ns: now_ns, ..alone(now_ns) }
}

/// All changes of an update, as modes and reasons.
fn update(modes: &mut Modes, facts: &Facts) -> Vec<(Mode, ModeReason)> {
    let mut changes = Vec::new();
    modes.update(facts, &mut |change| changes.push((change.to, change.reason)));
    changes
}

fn fresh() -> Modes {
    Modes::new(NOW_NS, TIMEOUT_NS, WINDOW)
}

fn following() -> Modes {
    let mut modes = fresh();
    assert_eq!(update(&mut modes, &led(NOW_NS, 10)), [(Mode::Target, ModeReason::CaughtUp)]);
    modes
}

fn leading() -> Modes {
    let mut modes = fresh();
    let changes = update(&mut modes, &leads(NOW_NS));
    assert_eq!(changes, [(Mode::Election, ModeReason::LeaderSilent), (Mode::Target, ModeReason::Elected)]);
    modes
}

/// A machine in `mode`, in a ballot of its own, entered just now or a time-out ago.
fn in_mode(mode: Mode, led: bool, long_ago: bool, goal: u64) -> Modes {
    let mut modes = fresh();
    modes.mode = mode;
    modes.led = led;
    modes.ballot = ballot(1);
    modes.since_ns = if long_ago { NOW_NS - TIMEOUT_NS } else { NOW_NS };
    modes.goal = Some((ballot(1), Slot(goal)));
    modes
}

/// Every combination of what the function looks at.
fn all_facts() -> Vec<Facts> {
    let roles = [Role::Joining, Role::Follower, Role::Candidate, Role::Preparing, Role::Leader];
    let mut all = Vec::new();
    for role in roles {
        for round in [1, 2] {
            for leader_heard_ns in [None, Some(NOW_NS), Some(NOW_NS - 2 * TIMEOUT_NS)] {
                for quorum_heard_ns in [NOW_NS, NOW_NS - TIMEOUT_NS] {
                    for halted in [
                        None,
                        Some(ModeReason::DiskRolledBack),
                        Some(ModeReason::FormattedAnew),
                        Some(ModeReason::BeyondRepair),
                        Some(ModeReason::StateDiverged),
                        Some(ModeReason::Ordered),
                    ] {
                        let role = if halted.is_some() { Role::Halted } else { role };
                        let (ballot, watermark) = (ballot(round), Some(Slot(10)));
                        let facts = Facts {
                            role,
                            halted,
                            ballot,
                            leader_heard_ns,
                            watermark,
                            quorum_heard_ns,
                            ..alone(NOW_NS)
                        };
                        all.push(facts);
                    }
                }
            }
        }
    }
    all
}

fn transitions() -> BTreeSet<(Mode, Mode, ModeReason)> {
    let mut found = BTreeSet::new();
    for mode in Mode::ALL.iter().copied() {
        for (led, long_ago) in [(false, false), (false, true), (true, false), (true, true)] {
            for goal in [10, 11, 11 + WINDOW] {
                let modes = in_mode(mode, led, long_ago, goal);
                let next = all_facts().into_iter().filter_map(|facts| modes.next(&facts));
                found.extend(next.map(|(to, reason)| (mode, to, reason)));
            }
        }
    }
    found
}

fn operations(mode: Mode) -> [String; 3] {
    let modes = in_mode(mode, false, false, 10);
    let append =
        |role, known| modes.appends(role, known).map_or_else(|refusal| refusal.name().to_owned(), |()| "taken".into());
    let read = match modes.reads(Some(40)) {
        Ok(recency) if may_be_fresh(mode) => format!("{} or better", recency.name()),
        Ok(recency) => recency.name().to_owned(),
        Err(refusal) => refusal.name().to_owned(),
    };
    [append(Role::Leader, true), append(Role::Follower, true), read]
}

fn written_out() -> String {
    let mut text = String::from("# What each mode allows, as src/shard/mode.rs has it. Compared by its tests.\n\n");
    let row = |text: &mut String, cells: [&str; 4]| {
        let line = format!("{:<10}{:<21}{:<24}{}", cells[0], cells[1], cells[2], cells[3]);
        writeln!(text, "{}", line.trim_end()).expect("a string takes text");
    };
    row(&mut text, ["mode", "append, if it leads", "append, if it does not", "read without evidence"]);
    for mode in Mode::ALL.iter().copied() {
        let [leader, other, read] = operations(mode);
        row(&mut text, [mode.name(), &leader, &other, &read]);
    }
    text.push_str("\n# Every change of mode.\n\n");
    for (from, to, reason) in transitions() {
        let line = format!("{:<10}-> {:<10}{}", from.name(), to.name(), reason.name());
        writeln!(text, "{line}").expect("a string takes text");
    }
    text
}

#[test]
fn the_table_is_the_one_that_is_written_down() {
    let written = include_str!("modes.txt");
    let now = written_out();
    assert!(now == written, "the table has changed; if that is meant, modes.txt is to read:\n{now}");
}

#[test]
fn a_follower_serves_when_it_has_applied_what_the_leader_had_chosen_when_it_was_first_heard() {
    let mut modes = fresh();
    assert_eq!(update(&mut modes, &led(NOW_NS, 12)), []);
    assert_eq!(modes.reads(None), Err(Refusal::Recovering));
    assert_eq!(modes.appends(Role::Follower, true), Err(Refusal::Recovering));
    // The leader goes on; the mark stays where it was.
    let later = Facts { applied: Slot(12), ..led(NOW_NS + MS, 900) };
    assert_eq!(update(&mut modes, &later), [(Mode::Target, ModeReason::CaughtUp)]);
    assert_eq!(modes.appends(Role::Follower, true), Err(Refusal::NotLeader));
    assert_eq!(modes.appends(Role::Follower, false), Err(Refusal::NoLeader));
}

#[test]
fn a_start_that_hears_no_leader_does_not_refuse_for_ever() {
    let mut modes = fresh();
    let joining = |now_ns| Facts { role: Role::Joining, ..alone(now_ns) };
    assert_eq!(update(&mut modes, &joining(NOW_NS + TIMEOUT_NS - 1)), []);
    let due_ns = modes.due_ns(Role::Joining);
    assert_eq!(due_ns, NOW_NS + TIMEOUT_NS, "it is woken for it");
    assert_eq!(update(&mut modes, &joining(due_ns)), [(Mode::Election, ModeReason::LeaderSilent)]);
    assert_eq!(modes.reads(None), Ok(Recency::StalePossible));
    let due_ns = modes.due_ns(Role::Joining);
    assert_eq!(update(&mut modes, &joining(due_ns)), [(Mode::Degraded, ModeReason::QuorumUnheard)]);
    assert_eq!(modes.appends(Role::Joining, false), Err(Refusal::QuorumUnavailable));
    assert_eq!(modes.due_ns(Role::Joining), u64::MAX, "only a message changes that");
}

#[test]
fn a_leader_that_hears_no_quorum_is_degraded_at_once_and_comes_back_through_recovery() {
    let mut modes = leading();
    let now_ns = NOW_NS + TIMEOUT_NS;
    let lost = Facts { quorum_heard_ns: NOW_NS, ..alone(now_ns) };
    assert_eq!(update(&mut modes, &lost), [(Mode::Degraded, ModeReason::QuorumLost)]);
    assert_eq!(modes.reads(Some(300)), Ok(Recency::BoundedStale(300)));
    assert_eq!(modes.reads(None), Ok(Recency::StalePossible), "nothing shows how old its state is");
    let back = Facts { ballot: ballot(2), ..leads(now_ns + MS) };
    let steps = [Mode::Recovery, Mode::Election, Mode::Target];
    assert_eq!(update(&mut modes, &back).iter().map(|(mode, _)| *mode).collect::<Vec<_>>(), steps);
    assert_eq!(modes.entered().iter().sum::<u32>(), 1 + 2 + 1 + 3);
    assert_eq!(modes.changes_after(3).map(|change| change.to).collect::<Vec<_>>(), steps);
}

#[test]
fn target_is_bound_to_its_ballot() {
    let mut modes = following();
    assert!(modes.stays_in_target(NOW_NS, Role::Follower, ballot(1), || Some(NOW_NS)));
    assert!(!modes.stays_in_target(NOW_NS, Role::Follower, ballot(2), || Some(NOW_NS)));
    let yielded = Facts { ballot: ballot(2), quorum_heard_ns: NOW_NS, ..alone(NOW_NS) };
    assert_eq!(update(&mut modes, &yielded), [(Mode::Election, ModeReason::HigherBallot)]);
    assert_eq!(modes.appends(Role::Follower, true), Err(Refusal::NoLeader));
    let old_word = Facts { ballot: ballot(2), watermark: None, ..led(NOW_NS, 10) };
    assert_eq!(update(&mut modes, &old_word), [], "what an earlier leader had chosen says nothing");
    let new_word = Facts { ballot: ballot(2), ..led(NOW_NS, 10) };
    assert_eq!(update(&mut modes, &new_word), [(Mode::Target, ModeReason::CaughtUp)]);
    let mut leader = leading();
    let deposed = Facts { ballot: ballot(2), ..led(NOW_NS, 10) };
    let changes = [(Mode::Election, ModeReason::HigherBallot), (Mode::Target, ModeReason::CaughtUp)];
    assert_eq!(update(&mut leader, &deposed), changes, "never from leader to follower in one step");
}

#[test]
fn a_leader_that_is_silent_is_given_up_even_by_a_node_that_does_not_stand() {
    let mut modes = following();
    let silent = |now_ns| Facts { leader_heard_ns: Some(NOW_NS), ..led(now_ns, 10) };
    let due_ns = modes.due_ns(Role::Follower);
    assert!(modes.stays_in_target(due_ns - 1, Role::Follower, ballot(1), || Some(NOW_NS)));
    assert!(!modes.stays_in_target(due_ns, Role::Follower, ballot(1), || Some(NOW_NS)));
    assert_eq!(update(&mut modes, &silent(due_ns)), [(Mode::Election, ModeReason::LeaderSilent)]);
}

#[test]
fn a_change_of_role_is_looked_at_without_delay() {
    let modes = following();
    assert!(modes.due_ns(Role::Follower) > NOW_NS);
    assert_eq!(modes.due_ns(Role::Candidate), 0);
}

#[test]
fn the_floor_is_left_by_no_fact() {
    let mut modes = following();
    let halted = Facts { role: Role::Halted, halted: Some(ModeReason::DiskRolledBack), ..alone(NOW_NS) };
    assert_eq!(update(&mut modes, &halted), [(Mode::Floor, ModeReason::DiskRolledBack)]);
    assert_eq!(modes.appends(Role::Halted, true), Err(Refusal::ManualIntervention));
    assert_eq!(modes.reads(Some(0)), Ok(Recency::StalePossible));
    assert_eq!(update(&mut modes, &leads(NOW_NS)), []);
    assert_eq!(modes.due_ns(Role::Leader), u64::MAX);
}

#[test]
fn refusals_say_when_to_try_again_and_what_a_retry_does() {
    for refusal in Refusal::ALL {
        let again = retry_after_us(refusal) > 0;
        let for_good = matches!(
            refusal,
            Refusal::TooLarge | Refusal::SessionEvicted | Refusal::ResendFrom | Refusal::BadQuestion | Refusal::Trimmed
        );
        assert_eq!(again, !for_good, "{}", refusal.name());
        let evicted = refusal == Refusal::SessionEvicted;
        let expected = if evicted { Idempotence::None } else { Idempotence::Session };
        assert_eq!(guarantee_of_refusal(refusal, false).idempotence, expected);
        assert_eq!(guarantee_of_refusal(refusal, true).idempotence, Idempotence::Harmless);
    }
}
