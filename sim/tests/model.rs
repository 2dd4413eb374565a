//! The core's rules as a small model, checked exhaustively: 3 acceptors, 2 slots, 2 ballots, so a leader and the one that
//! replaces it at any moment. Messages are facts that stay: they may be read late, in any order, or never.
//!
//! Rules: an acceptor promises upwards only, accepts in no ballot below its promise, and a restart forgets neither; a
//! candidate that holds the promises of a majority adopts the value of the highest ballot in each slot and fills holes with
//! no-ops; a leader counts what was accepted in its own ballot; who hears that a leader has counted enough for a slot takes
//! what it holds there as chosen if it accepted it in that leader's ballot. Each can be left out, and then the checker must
//! find the schedule that forks the log.

use stateright::{Checker, HasDiscoveries, Model, Property};

const ACCEPTORS: usize = 3;
const SLOTS: usize = 2;
const BALLOTS: usize = 2;
const MAJORITY: u32 = 2;
/// The value of a no-op; ballot b's own value is b + 1.
const NOOP: u8 = 0;

/// The ballot and the value of what is accepted in each slot.
type Accepted = [Option<(usize, u8)>; SLOTS];

#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
struct State {
    /// Each acceptor's promise, as ballot + 1; 0: none.
    promised: [usize; ACCEPTORS],
    accepted: [Accepted; ACCEPTORS],
    /// What each acceptor reported when it promised a ballot.
    reports: [[Option<Accepted>; ACCEPTORS]; BALLOTS],
    /// What a leader must propose in each slot, once it leads; None: its own.
    leads: [Option<[Option<u8>; SLOTS]>; BALLOTS],
    proposed: [[Option<u8>; SLOTS]; BALLOTS],
    /// Who accepted each proposal, as bits.
    votes: [[u8; SLOTS]; BALLOTS],
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Action {
    Promise(usize, usize),
    /// With the promises of these acceptors, as bits.
    Lead(usize, u8),
    Propose(usize, usize),
    Accept(usize, usize, usize),
    Restart(usize),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broken {
    Nothing,
    /// A leader proposes its own value everywhere.
    Adoption,
    /// An acceptor accepts below its promise.
    Promise,
    /// A restart forgets what was promised, but for what was accepted: the answer did not wait for the disk.
    Durability,
    /// One promise elects.
    Majority,
    /// Whatever an acceptor holds in a slot counts as its vote for the leader that it follows.
    Counting,
    /// Whatever a follower holds in a slot is chosen once a leader says so.
    Watermark,
}

const ONE_VALUE: &str = "one value per slot";
const TAKEN: &str = "what is taken as chosen is chosen";

impl Model for Broken {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        // The first leader has nothing to adopt: its phase 1 is over.
        vec![State { leads: [Some([None; SLOTS]), None], ..State::default() }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if *self == Broken::Durability {
            actions.extend((0..ACCEPTORS).map(Action::Restart));
        }
        for ballot in 0..BALLOTS {
            if state.leads[ballot].is_none() {
                let free = |acceptor: &usize| state.promised[*acceptor] < ballot + 1;
                actions.extend((0..ACCEPTORS).filter(free).map(|acceptor| Action::Promise(ballot, acceptor)));
                actions.extend(self.quorums(state, ballot).map(|quorum| Action::Lead(ballot, quorum)));
                continue;
            }
            for slot in 0..SLOTS {
                match state.proposed[ballot][slot] {
                    None => actions.push(Action::Propose(ballot, slot)),
                    Some(_) => {
                        let may = |acceptor: &usize| {
                            let new = state.votes[ballot][slot] & (1 << acceptor) == 0;
                            new && (state.promised[*acceptor] <= ballot + 1 || *self == Broken::Promise)
                        };
                        actions
                            .extend((0..ACCEPTORS).filter(may).map(|acceptor| Action::Accept(ballot, slot, acceptor)));
                    }
                }
            }
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Promise(ballot, acceptor) => {
                state.promised[acceptor] = ballot + 1;
                state.reports[ballot][acceptor] = Some(state.accepted[acceptor]);
            }
            Action::Lead(ballot, quorum) => state.leads[ballot] = Some(self.plan(last, ballot, quorum)),
            Action::Propose(ballot, slot) => {
                let adopted = state.leads[ballot]?[slot];
                state.proposed[ballot][slot] = Some(adopted.unwrap_or(ballot as u8 + 1));
            }
            Action::Accept(ballot, slot, acceptor) => {
                let value = state.proposed[ballot][slot]?;
                state.promised[acceptor] = state.promised[acceptor].max(ballot + 1);
                state.accepted[acceptor][slot] = Some((ballot, value));
                state.votes[ballot][slot] |= 1 << acceptor;
            }
            Action::Restart(acceptor) => {
                let accepted = state.accepted[acceptor].iter().flatten().map(|(ballot, _)| ballot + 1).max();
                state.promised[acceptor] = accepted.unwrap_or(0);
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(ONE_VALUE, |_: &Broken, state: &State| {
                (0..SLOTS).all(|slot| {
                    let mut chosen = (0..BALLOTS).filter(|b| chosen(state, *b, slot)).map(|b| state.proposed[b][slot]);
                    let first = chosen.next();
                    chosen.all(|value| Some(value) == first)
                })
            }),
            Property::always(TAKEN, |broken: &Broken, state: &State| {
                let all = (0..SLOTS).flat_map(|slot| (0..BALLOTS).map(move |ballot| (slot, ballot)));
                all.filter(|(slot, ballot)| broken.is_announced(state, *ballot, *slot)).all(|(slot, ballot)| {
                    let mut taken = (0..ACCEPTORS).filter_map(|a| broken.takes(state, a, ballot, slot));
                    taken.all(|value| is_chosen(state, slot, value))
                })
            }),
            Property::sometimes(
                "a follower holds another value than its leader got chosen",
                |_: &Broken, state: &State| {
                    let other = |slot: usize| state.accepted.iter().any(|held| held[slot] == Some((0, 1)));
                    (0..SLOTS).any(|slot| chosen(state, 1, slot) && state.proposed[1][slot] != Some(1) && other(slot))
                },
            ),
            Property::sometimes("both leaders choose in every slot", |_: &Broken, state: &State| {
                (0..SLOTS).all(|slot| (0..BALLOTS).all(|ballot| chosen(state, ballot, slot)))
            }),
            Property::sometimes("a hole is filled", |_: &Broken, state: &State| {
                chosen(state, 1, 0) && state.proposed[1][0] == Some(NOOP)
            }),
        ]
    }
}

fn chosen(state: &State, ballot: usize, slot: usize) -> bool {
    u32::from(state.votes[ballot][slot]).count_ones() >= MAJORITY
}

/// Whether some ballot got this value chosen.
fn is_chosen(state: &State, slot: usize, value: u8) -> bool {
    (0..BALLOTS).any(|ballot| chosen(state, ballot, slot) && state.proposed[ballot][slot] == Some(value))
}

impl Broken {
    /// Whether the leader of a ballot has counted enough votes to say that the slot is chosen, so that it may be heard of.
    fn is_announced(&self, state: &State, ballot: usize, slot: usize) -> bool {
        let follows = |acceptor: &usize| state.promised[*acceptor] == ballot + 1;
        let holds = |acceptor: &usize| state.accepted[*acceptor][slot].is_some();
        let anything = (0..ACCEPTORS).filter(follows).filter(holds).count() >= MAJORITY as usize;
        let counts = *self == Broken::Counting && anything && state.proposed[ballot][slot].is_some();
        counts || chosen(state, ballot, slot)
    }

    /// What an acceptor that hears of that takes as chosen. It may have promised more since: what is chosen stays so.
    fn takes(&self, state: &State, acceptor: usize, ballot: usize, slot: usize) -> Option<u8> {
        let (accepted_in, value) = state.accepted[acceptor][slot]?;
        (accepted_in == ballot || *self == Broken::Watermark).then_some(value)
    }

    /// Sets of acceptors whose promises of `ballot` are there and suffice.
    fn quorums<'a>(&self, state: &'a State, ballot: usize) -> impl Iterator<Item = u8> + 'a {
        let least = if *self == Broken::Majority { 1 } else { MAJORITY };
        let there =
            (0..ACCEPTORS).filter(move |a| state.reports[ballot][*a].is_some()).fold(0u8, |bits, a| bits | 1 << a);
        (1u8..1 << ACCEPTORS).filter(move |set| set & !there == 0 && set.count_ones() >= least)
    }

    /// The value of the highest ballot in each slot; no-ops in holes; None: free.
    fn plan(&self, state: &State, ballot: usize, quorum: u8) -> [Option<u8>; SLOTS] {
        if *self == Broken::Adoption {
            return [None; SLOTS];
        }
        let reports = || (0..ACCEPTORS).filter(|a| quorum & (1 << a) != 0).filter_map(|a| state.reports[ballot][a]);
        let mut plan: [Option<u8>; SLOTS] = std::array::from_fn(|slot| {
            let best = reports().filter_map(|report| report[slot]).max_by_key(|(ballot, _)| *ballot);
            best.map(|(_, value)| value)
        });
        let last = plan.iter().rposition(Option::is_some).unwrap_or(0);
        for value in &mut plan[..last] {
            value.get_or_insert(NOOP);
        }
        plan
    }
}

#[test]
fn every_schedule_agrees() {
    let checker = Broken::Nothing.checker().spawn_bfs().join();
    checker.assert_properties();
    assert!(
        checker.unique_state_count() > 1_000,
        "{} states are too few to mean anything",
        checker.unique_state_count()
    );
}

#[test]
fn each_rule_is_needed() {
    let rules = [
        (Broken::Adoption, ONE_VALUE),
        (Broken::Promise, ONE_VALUE),
        (Broken::Durability, ONE_VALUE),
        (Broken::Majority, ONE_VALUE),
        (Broken::Counting, TAKEN),
        (Broken::Watermark, TAKEN),
    ];
    for (broken, property) in rules {
        let failed = HasDiscoveries::AnyOf([property].into_iter().collect());
        let checker = broken.checker().finish_when(failed).spawn_bfs().join();
        assert!(checker.discovery(property).is_some(), "{broken:?} forks no log");
    }
}
