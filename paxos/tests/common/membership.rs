//! FAULTS 31: a slot that is chosen out of order, above a configuration that is not chosen yet, is not final. Random runs come to it
//! rarely: a leader has to die between two slots of one burst, and its successor to find another's configuration in the first.

use super::{MS, ballot, founding, settings};
use synod_paxos::{Change, ChangeError, Evidence, Held, Input, Mark, Message, Output, Record, Replica, Restart, Role};
use synod_wire::{Configuration, Epoch, Lsn, Member, NodeId, NodeSet, Quorums, Slot};

/// The configuration that follows the founding one of three: node 4 learns.
fn next() -> Configuration {
    let founding = founding(3, Quorums::majority(3));
    let learner = Member { voter: false, incarnation: 104, since: Epoch(2), ..Member::founding(NodeId(4)) };
    let members = founding.members().iter().copied().chain([learner]);
    Configuration::new(Epoch(2), Epoch(1), founding.quorums, members)
}

fn heard(from: u8, epoch: u32, message: Message) -> Input {
    Input::Message { from: NodeId(from), epoch: Epoch(epoch), lsn: Lsn(100), message }
}

/// A follower of node 2 that holds this slot, accepted in ballot 1.2.
fn follower(slot: u64, mark: Mark) -> Replica {
    let restart = Restart {
        promised: ballot(1, 2),
        last_lsn: Lsn(9),
        founded: Some((1..=3).map(|node| (NodeId(node), super::founding_incarnation(node))).collect()),
        held: vec![Held { slot: Slot(slot), ballot: ballot(1, 2), chosen: None, mark, unknown: false }],
        ..Restart::default()
    };
    let settings = settings(1, 3);
    let (to_start, to_incarnation) = (settings.seed, settings.incarnation);
    let mut replica = Replica::new(settings, restart, 0);
    let (incarnation, founded_with) = (super::founding_incarnation(2), to_incarnation);
    let (counted, prefix) = (Lsn::ZERO, Slot::ZERO);
    let ack = Message::HelloAck { incarnation, to_incarnation, to_start, founded_with, counted, prefix };
    replica.step(MS, heard(2, 1, ack));
    replica
}

fn delivered(replica: &mut Replica) -> Vec<u64> {
    let mut slots = Vec::new();
    while let Some(output) = replica.poll_output() {
        slots.extend(match output {
            Output::Deliver { slot } => Some(slot.0),
            _ => None,
        });
    }
    slots
}

/// Slot 2 is chosen by votes of the founding configuration; slot 1 turns out to be the next one.
pub(crate) fn what_was_chosen_above_a_configuration_is_not_final() {
    let mut replica = follower(2, Mark::Batch);
    let acceptors: NodeSet = [NodeId(2), NodeId(3)].into_iter().collect();
    let evidence = |epoch| Evidence { first: Slot(2), last: Slot(2), ballot: ballot(1, 2), acceptors, epoch };
    let commit =
        |epoch| Message::Commit { ballot: ballot(1, 2), ranges: [evidence(Epoch(epoch))].into_iter().collect() };
    replica.step(2 * MS, heard(2, 1, commit(1)));
    assert_eq!(delivered(&mut replica), [], "a hole lies below it");
    let learn = Message::Learn { slot: Slot(1), ballot: ballot(2, 3), mark: Mark::Configuration };
    replica.step(3 * MS, heard(3, 2, learn));
    assert_eq!(delivered(&mut replica), [1], "who governs slot 2 is for the driver to read");
    replica.step(3 * MS, Input::Configured(next().into()));
    assert_eq!(delivered(&mut replica), [], "it is merely accepted");
    // Nor does the same evidence make it final when it comes again.
    replica.step(4 * MS, heard(2, 1, commit(1)));
    assert_eq!(delivered(&mut replica), []);
    replica.step(5 * MS, heard(3, 2, commit(2)));
    assert_eq!(delivered(&mut replica), [2], "votes of those who govern it do");
    let add = Change::Add(Member { incarnation: 9, ..Member::founding(NodeId(5)) });
    assert!(replica.plan_change(Epoch(2), add).is_err(), "only a leader changes the members");
}

/// A leader takes the answer to its heartbeat for the word that the member durably knows the configuration chosen.
pub(crate) fn who_names_a_configuration_delivered_has_it_on_disk() {
    let mut replica = follower(1, Mark::Configuration);
    while replica.poll_output().is_some() {}
    let beat = Message::Heartbeat { ballot: ballot(1, 2), chosen: Slot(1), probe: 1, lease_ns: 0 };
    replica.step(2 * MS, heard(2, 1, beat));
    let (mut shown_by, mut waits_for) = (Lsn::ZERO, None);
    while let Some(output) = replica.poll_output() {
        match output {
            Output::Persist { lsn, record: Record::Chosen(_), .. } => shown_by = lsn,
            Output::Send { message: Message::HeartbeatAck { prefix: Slot(1), .. }, after, .. } => {
                waits_for = Some(after)
            }
            _ => {}
        }
    }
    assert!(shown_by > Lsn::ZERO && waits_for >= Some(shown_by), "waits for {waits_for:?}; {shown_by} shows it chosen");
}

/// The leader of a group of one voter, whose learner has not been heard and lacks everything.
pub(crate) fn a_learner_that_lags_is_not_promoted() {
    let one = founding(1, Quorums::majority(1));
    let learner = Member { voter: false, incarnation: 104, since: Epoch(2), ..Member::founding(NodeId(4)) };
    let members = one.members().iter().copied().chain([learner]);
    let configuration = Configuration::new(Epoch(2), Epoch(1), one.quorums, members);
    let restart = Restart {
        promised: ballot(1, 1),
        last_lsn: Lsn(9),
        founded: Some(vec![(NodeId(1), super::founding_incarnation(1))]),
        applied: Slot(5),
        configuration: Some((Slot(5), configuration)),
        ..Restart::default()
    };
    let mut leader = Replica::new(settings(1, 1), restart, 0);
    for at in 1..1_000 {
        let mut logged = None;
        while let Some(output) = leader.poll_output() {
            if let Output::Persist { lsn, .. } = output {
                logged = Some(lsn);
            }
        }
        let input = logged.map_or(Input::Timeout, |upto| Input::Persisted { upto });
        leader.step(at * MS, input);
    }
    assert_eq!(leader.role(), Role::Leader);
    let refused = leader.plan_change(Epoch(2), Change::Promote(NodeId(4)));
    assert!(matches!(refused, Err(ChangeError::NotCaughtUp { behind }) if behind >= 5), "{refused:?}");
    let removed = leader.plan_change(Epoch(2), Change::Remove(NodeId(4)));
    assert!(removed.is_ok(), "nothing else stands against a change: {removed:?}");
}
