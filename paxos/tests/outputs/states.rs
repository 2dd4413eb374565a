//! Members compare their states.

use super::*;
use synod_paxos::{StateMark, StateMarks};

fn mark(slot: u64, crc: u32) -> StateMark {
    StateMark { slot: Slot(slot), crc }
}

fn marks(all: &[StateMark]) -> Message {
    let mut marks = StateMarks::default();
    all.iter().for_each(|mark| marks.push(*mark));
    Message::StateMarks { marks }
}

#[test]
fn a_checkpoint_is_told_to_all_with_those_before_it() {
    let mut bench = Bench::follower();
    let told = |all: &[StateMark]| Output::Send {
        to: set(&[TWO, THREE]),
        message: marks(all),
        after: Lsn::ZERO,
        epoch: Epoch(1),
    };
    assert_eq!(bench.step(Input::Checkpoint(mark(10, 1))), [told(&[mark(10, 1)])]);
    for slot in 20..24 {
        bench.step(Input::Checkpoint(mark(slot, 1)));
    }
    let last = [mark(21, 1), mark(22, 1), mark(23, 1), mark(24, 9)];
    assert_eq!(bench.step(Input::Checkpoint(mark(24, 9))), [told(&last)]);
}

#[test]
fn one_that_differs_from_a_majority_halts_whichever_was_told_first() {
    let halt = Halt::Diverged { slot: Slot(10), mine: 7, theirs: 8, agree: set(&[TWO, THREE]) };
    let mut bench = Bench::follower();
    bench.step(Input::Checkpoint(mark(10, 7)));
    assert_eq!(bench.hear(TWO, marks(&[mark(10, 8)])), []);
    let outputs = bench.hear(THREE, marks(&[mark(5, 1), mark(10, 8)]));
    assert_eq!(outputs.last(), Some(&Output::Halt(halt)));
    assert_eq!((bench.core.role(), bench.core.halted()), (Role::Halted, Some(halt)));
    let mut late = Bench::follower();
    late.hear(TWO, marks(&[mark(10, 8)]));
    late.hear(THREE, marks(&[mark(10, 8)]));
    assert_eq!(late.step(Input::Checkpoint(mark(10, 7))).last(), Some(&Output::Halt(halt)));
}

#[test]
fn one_of_others_that_disagree_is_no_reason_to_halt() {
    let mut bench = Bench::follower();
    bench.step(Input::Checkpoint(mark(10, 7)));
    bench.hear(TWO, marks(&[mark(10, 8)]));
    bench.hear(THREE, marks(&[mark(10, 9)]));
    assert_eq!(bench.core.halted(), None, "nobody has a majority");
    bench.hear(THREE, marks(&[mark(10, 7)]));
    assert_eq!(bench.core.halted(), None, "the other one is wrong");
    bench.hear(THREE, marks(&[mark(11, 8)]));
    assert_eq!(bench.core.halted(), None, "another slot");
}
