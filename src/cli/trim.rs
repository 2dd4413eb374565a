//! `synod trim`: gives up the entries of a group below a sequence, for good and at every member.

use super::output::{Outcome, Style, print, print_json};
use super::{TrimArgs, client_failure};
use serde::Serialize;
use std::time::Duration;
use synod_client::{TrimLimit, Trimmed};
use synod_wire::Sequence;

#[derive(Serialize)]
struct Answer {
    group: u8,
    /// What was asked for.
    before: u64,
    /// The first sequence that can be read now.
    first_sequence: u64,
    /// Why that is less than was asked for: nothing, tail, member or subscriber.
    held_back_by: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    member: Option<u8>,
}

/// Runs the command.
pub(super) fn trim(args: &TrimArgs) -> Outcome {
    let (config, group) = args.target.load()?;
    let members = config.client_addresses(group).into_iter().map(|(_, address)| address).collect();
    let deadline = Duration::from_millis(args.deadline_ms);
    let trimmed = synod_client::trim(config.cluster_id(), group, members, Sequence(args.before), deadline)
        .map_err(client_failure)?;
    match args.output {
        Style::Text => print(&format!("{}\n", trimmed.first))?,
        Style::Json => print_json(&Answer {
            group: group.0,
            before: args.before,
            first_sequence: trimmed.first.0,
            held_back_by: trimmed.limit.name().to_lowercase(),
            member: trimmed.member.map(|node| node.0),
        })?,
    }
    if let Some(reason) = reason(&trimmed) {
        eprintln!("synod: entries from {} on are kept: {reason}", trimmed.first);
    }
    Ok(())
}

/// Why less was trimmed than was asked for.
fn reason(trimmed: &Trimmed) -> Option<String> {
    match trimmed.limit {
        TrimLimit::Nothing => None,
        TrimLimit::Tail => Some("the log ends there".to_owned()),
        TrimLimit::Member => {
            let node = trimmed.member.map_or("a member".to_owned(), |node| format!("node {node}"));
            Some(format!("{node} is heard, and does not have them yet; try again when it has caught up"))
        }
        TrimLimit::Subscriber => {
            Some("a subscriber of the leader has not been sent them yet; try again when it has, or has left".to_owned())
        }
    }
}
