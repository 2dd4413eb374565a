//! `synod transfer-leader`: a leader hands over to another member, without an election time-out in between.

use super::output::{Failure, Outcome, Style, print, print_json};
use super::{TransferArgs, client_failure, known_node};
use anyhow::anyhow;
use serde::Serialize;
use std::io::IsTerminal;
use std::time::Duration;
use synod_client::{Transfer, TransferOutcome, TransferStep};

/// What the command prints.
#[derive(Debug, Serialize)]
struct Report {
    group: u8,
    /// "done", or why not.
    outcome: &'static str,
    from: u8,
    from_ballot: String,
    /// Who leads now, as far as the old leader knows.
    leader: Option<u8>,
    ballot: String,
    took_us: u128,
}

/// Finds the leader, asks it, and waits for what becomes of it.
pub(super) fn transfer(args: &TransferArgs) -> Outcome {
    let (config, group) = args.target.load()?;
    let to = args.to.map(|node| known_node(&config, node)).transpose()?;
    let members = config.client_addresses(group);
    let watched = args.output == Style::Text && std::io::stderr().is_terminal();
    let mut progress = |step: TransferStep| {
        if watched {
            match step {
                TransferStep::Asking(node, ballot) => {
                    eprintln!("node {node} leads in ballot {ballot}; it is asked to hand over")
                }
                TransferStep::Waiting => eprintln!("… under way"),
            }
        }
    };
    let timeout = Duration::from_millis(args.timeout_ms);
    let found = synod_client::transfer_leader(&members, config.cluster_id(), group, to, timeout, &mut progress);
    let transfer = found.map_err(client_failure)?;
    match args.output {
        Style::Json => print_json(&report(args.target.group, &transfer))?,
        Style::Text if transfer.is_done() => print(&text(&transfer))?,
        Style::Text => {}
    }
    if transfer.is_done() {
        return Ok(());
    }
    let why = anyhow!("{}", why_not(&transfer));
    Err(match (transfer.outcome, args.output) {
        (TransferOutcome::NoLeader, _) => Failure::Unavailable(why),
        (TransferOutcome::NoTarget, _) => Failure::Usage(why),
        (_, Style::Json) => Failure::Told,
        (_, Style::Text) => Failure::Failed(why),
    })
}

fn report(group: u8, transfer: &Transfer) -> Report {
    Report {
        group,
        outcome: transfer.outcome.name(),
        from: transfer.from.0,
        from_ballot: transfer.from_ballot.to_string(),
        leader: transfer.leader.map(|node| node.0),
        ballot: transfer.ballot.to_string(),
        took_us: transfer.took.as_micros(),
    }
}

fn text(transfer: &Transfer) -> String {
    let leader = transfer.leader.map_or("?".to_owned(), |node| node.to_string());
    let (from, took_ms) = (transfer.from, transfer.took.as_secs_f64() * 1e3);
    format!(
        "node {from} handed over to node {leader}, which serves in ballot {} after {took_ms:.1} ms\n",
        transfer.ballot
    )
}

fn why_not(transfer: &Transfer) -> String {
    let from = transfer.from;
    match transfer.outcome {
        TransferOutcome::Done => "done".to_owned(),
        TransferOutcome::Elsewhere => {
            let leader = transfer.leader.map_or("another node".to_owned(), |node| format!("node {node}"));
            format!("{leader} was elected instead; ask it to hand over")
        }
        TransferOutcome::NotThatLeader => format!("node {from} does not lead any more; try again"),
        TransferOutcome::NoTarget => {
            format!("node {from} leads already, or there is no other voting member; name another with --to")
        }
        TransferOutcome::Silent => "the target does not answer the leader; `synod status` shows who is up".to_owned(),
        TransferOutcome::Lags => format!("the target did not catch up in an election time-out; node {from} leads on"),
        TransferOutcome::NotTaken => {
            format!("the target did not take over in an election time-out; node {from} leads on")
        }
        TransferOutcome::NoLeader => {
            format!("node {from} gave way, and nobody was elected; `synod status` shows who is up")
        }
        TransferOutcome::Busy => format!("node {from} is handing over to another node just now; try again"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::{Ballot, NodeId};

    #[test]
    fn every_outcome_but_the_good_one_says_what_to_do_or_what_is() {
        for outcome in TransferOutcome::ALL {
            let (from_ballot, ballot) = (Ballot { round: 3, node: NodeId(1) }, Ballot { round: 4, node: NodeId(2) });
            let (from, leader, took) = (NodeId(1), Some(NodeId(2)), Duration::from_micros(1_500));
            let transfer = Transfer { outcome: *outcome, from, from_ballot, leader, ballot, took };
            assert!(transfer.is_done() || why_not(&transfer).contains(' '), "{outcome:?}");
            assert_eq!(report(0, &transfer).outcome, outcome.name());
        }
    }
}
