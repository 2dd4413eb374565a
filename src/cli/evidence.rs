//! `synod evidence`: who chose a slot, from running nodes or from their logs, and whether what they say fits together.

use super::output::{Failure, Outcome, Style, Table, print, print_json};
use super::{ClusterArgs, EvidenceArgs, GroupArgs, client_failure};
use crate::verify;
use serde::Serialize;
use std::time::Duration;
use synod_client::{EvidenceOf, MemberAnswer, NodeEvidence, agree, disagreements};
use synod_wire::{NodeSet, Sequence, Slot};

/// What the nodes, or their logs, tell of one slot.
#[derive(Debug, Serialize)]
struct Report {
    group: u8,
    /// What was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// Where it is; none: nobody knows.
    slot: Option<u64>,
    /// What the nodes' answers promise, taken together; none: no node was asked.
    #[serde(skip_serializing_if = "Option::is_none")]
    guarantee: Option<String>,
    /// Whether some node knows the slot chosen, and nothing that any of them tells speaks against it.
    agree: bool,
    disagreements: Vec<String>,
    nodes: Vec<Row>,
}

/// One node's word.
#[derive(Debug, Serialize)]
struct Row {
    /// None: it did not answer, and so did not say.
    node: Option<u8>,
    /// Its address, or its log's directory.
    from: String,
    /// "told", "not_yet", "unreadable", "busy" or "silent".
    answer: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    told: Option<Facts>,
}

/// What a node told.
#[derive(Debug, Serialize)]
struct Facts {
    /// "accepted", "learnt", "unsynced" or "nothing".
    held: &'static str,
    /// The ballot that it holds the value in.
    ballot: Option<String>,
    lsn: Option<u64>,
    known_chosen: bool,
    /// The ballot that chose the slot, as its log has it.
    chosen_ballot: Option<String>,
    /// Whose votes did; empty: its log does not say.
    acceptors: Vec<u8>,
    epoch: u32,
    phase1_quorum: usize,
    phase2_quorum: usize,
    members: Vec<u8>,
    /// CRC-32C of the value, in hexadecimal.
    checksum: Option<String>,
    bytes: Option<u32>,
}

impl Facts {
    fn of(told: &NodeEvidence) -> Facts {
        Facts {
            held: told.held.map_or("nothing", |held| held.how.name()),
            ballot: told.held.map(|held| held.ballot.to_string()),
            lsn: told.held.map(|held| held.lsn.0),
            known_chosen: told.known_chosen,
            chosen_ballot: told.chosen.map(|chosen| chosen.ballot.to_string()),
            acceptors: numbers(told.chosen.map_or(NodeSet::EMPTY, |chosen| chosen.acceptors)),
            epoch: told.epoch.0,
            phase1_quorum: told.quorums.phase1,
            phase2_quorum: told.quorums.phase2,
            members: numbers(told.members),
            checksum: told.held.map(|held| format!("{:08x}", held.checksum)),
            bytes: told.held.map(|held| held.bytes),
        }
    }
}

fn numbers(nodes: NodeSet) -> Vec<u8> {
    nodes.iter().map(|node| node.0).collect()
}

/// Asks the nodes, or reads their logs; exit code 1 if they disagree or nobody knows.
pub(super) fn evidence(args: &EvidenceArgs) -> Outcome {
    let of = match (args.of.sequence, args.of.slot) {
        (Some(sequence), _) => EvidenceOf::Sequence(Sequence(sequence)),
        (None, slot) => EvidenceOf::Slot(Slot(slot.unwrap_or_default())),
    };
    let report = match &args.config {
        Some(config) => from_nodes(args, config.clone(), of)?,
        None => from_logs(args, of)?,
    };
    match args.output {
        Style::Text => print(&text(&report))?,
        Style::Json => print_json(&report)?,
    }
    if report.agree { Ok(()) } else { Err(Failure::Told) }
}

fn from_nodes(args: &EvidenceArgs, config: std::path::PathBuf, of: EvidenceOf) -> Result<Report, Failure> {
    let (config, group) = GroupArgs { cluster: ClusterArgs { config }, group: args.group }.load()?;
    let clients = config.client_addresses(group);
    let addresses = clients.iter().map(|(_, address)| *address).collect();
    let timeout = Duration::from_millis(args.timeout_ms);
    let found = synod_client::evidence(addresses, config.cluster_id(), group, of, timeout).map_err(client_failure)?;
    let rows = clients.iter().zip(&found.members).map(|((node, address), (_, answer))| {
        let (answer, told) = match answer {
            MemberAnswer::Told(told) => ("told", Some(Facts::of(told))),
            MemberAnswer::Nothing(_, told) => (told.name(), None),
            MemberAnswer::Silent => ("silent", None),
        };
        Row { node: Some(node.0), from: address.to_string(), answer, told }
    });
    let guarantee = Some(found.guarantee.to_string());
    Ok(Report { guarantee, ..report(args, found.slot, &found.told(), rows.collect()) })
}

fn from_logs(args: &EvidenceArgs, of: EvidenceOf) -> Result<Report, Failure> {
    let found = verify::evidence(&args.dirs, args.group, of).map_err(anyhow::Error::new)?;
    let rows = found.logs.iter().map(|log| Row {
        node: Some(log.node.0),
        from: log.dir.display().to_string(),
        answer: match &log.told {
            Some(_) => "told",
            None if log.damaged => "unreadable",
            None => "not_yet",
        },
        told: log.told.as_ref().map(Facts::of),
    });
    let rows = rows.collect();
    let told: Vec<NodeEvidence> = found.logs.iter().filter_map(|log| log.told).collect();
    Ok(report(args, found.slot, &told, rows))
}

fn report(args: &EvidenceArgs, slot: Option<Slot>, told: &[NodeEvidence], nodes: Vec<Row>) -> Report {
    Report {
        group: args.group,
        sequence: args.of.sequence,
        slot: slot.map(|slot| slot.0),
        guarantee: None,
        agree: agree(told),
        disagreements: disagreements(told),
        nodes,
    }
}

fn text(report: &Report) -> String {
    let headings = [
        "node",
        "answer",
        "holds it",
        ">in ballot",
        ">lsn",
        ">chosen in",
        "by",
        ">epoch",
        "quorums",
        ">bytes",
        "checksum",
        "from",
    ];
    let mut table = Table::new(&headings);
    for row in &report.nodes {
        let node = row.node.map_or("-".to_string(), |node| node.to_string());
        let mut cells = vec![node, row.answer.replace('_', " ")];
        match &row.told {
            Some(told) => cells.extend(cells_of(told)),
            None => cells.extend(std::iter::repeat_n("-".to_string(), headings.len() - 3)),
        }
        cells.push(row.from.clone());
        table.row(cells);
    }
    let what = match (report.sequence, report.slot) {
        (Some(sequence), Some(slot)) => format!("sequence {sequence} is in slot {slot} of group {}\n", report.group),
        (Some(sequence), None) => format!("sequence {sequence} of group {}: no node knows its slot\n", report.group),
        (None, slot) => format!("slot {} of group {}\n", slot.unwrap_or_default(), report.group),
    };
    let mut text = what + &table.render();
    for disagreement in &report.disagreements {
        text.push_str(&format!("DISAGREE: {disagreement}\n"));
    }
    let told = report.nodes.iter().filter(|row| row.told.is_some()).count();
    if report.agree {
        text.push_str(&format!("they agree: {told} of {} tell of it, and it is chosen\n", report.nodes.len()));
    } else if report.disagreements.is_empty() {
        text.push_str("nothing shows that it is chosen\n");
    }
    text
}

fn cells_of(told: &Facts) -> Vec<String> {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_string());
    let names: Vec<String> = told.acceptors.iter().map(|node| node.to_string()).collect();
    let by = match (&told.chosen_ballot, names.is_empty()) {
        (Some(_), false) => names.join(","),
        // Its leader's log names them.
        (Some(_), true) => "(by its leader's word)".to_string(),
        (None, _) => "-".to_string(),
    };
    vec![
        told.held.to_string(),
        or_none(&told.ballot),
        told.lsn.map_or("-".to_string(), |lsn| lsn.to_string()),
        or_none(&told.chosen_ballot),
        by,
        told.epoch.to_string(),
        format!("{}+{} of {}", told.phase1_quorum, told.phase2_quorum, told.members.len()),
        told.bytes.map_or("-".to_string(), |bytes| bytes.to_string()),
        or_none(&told.checksum),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_node_has_its_line() {
        let silent = |node| Row { node: Some(node), from: format!("n{node}"), answer: "silent", told: None };
        let report = Report {
            group: 0,
            sequence: Some(4),
            slot: None,
            guarantee: None,
            agree: false,
            disagreements: vec![],
            nodes: vec![silent(0), Row { answer: "not_yet", ..silent(1) }],
        };
        let text = text(&report);
        assert!(
            text.contains("no node knows its slot") && text.contains("not yet") && text.contains("silent"),
            "{text}"
        );
        assert!(text.ends_with("nothing shows that it is chosen\n"), "{text}");
    }
}
