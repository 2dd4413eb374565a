//! `synod health` and `synod is-leader`: one question for a script, answered by the exit code.

use super::output::{Failure, Outcome, Style, print, print_json};
use super::{HealthArgs, IsLeaderArgs, client_failure, known_node};
use crate::config::Config;
use crate::view::{Answer, Standing, ask};
use anyhow::anyhow;
use serde::Serialize;
use std::time::Duration;
use synod_client::{Mode, Status};
use synod_wire::GroupId;

/// A group, as `health -o json` prints it.
#[derive(Debug, Serialize)]
struct GroupHealth {
    group: u8,
    ok: bool,
    leader: Option<u8>,
    voters: Vec<u8>,
    /// How many of them a commit needs.
    quorum: usize,
    in_step: Vec<u8>,
    /// Why the other voters are not in step.
    reasons: Vec<String>,
}

/// What `health -o json` prints.
#[derive(Debug, Serialize)]
struct Health<G> {
    ok: bool,
    groups: Vec<G>,
}

/// Whether each group has a leader, and a quorum in step; or whether one node does its work.
pub(super) fn health(args: &HealthArgs) -> Outcome {
    let config = args.cluster.load()?.config;
    let timeout = Duration::from_millis(args.timeout_ms);
    match args.node {
        Some(node) => of_node(&config, timeout, args.output, node),
        None => of_cluster(&config, timeout, args.output),
    }
}

fn of_cluster(config: &Config, timeout: Duration, output: Style) -> Outcome {
    let answers = ask(config, timeout, |_, _| true).map_err(client_failure)?;
    let standings: Vec<_> = config.group_ids().map(|group| Standing::of(config, group, &answers)).collect();
    let groups: Vec<GroupHealth> = standings.iter().map(GroupHealth::of).collect();
    let lines = standings.iter().map(Standing::line).collect();
    let ok = show(output, lines, groups, |group| group.ok)?;
    let bad: Vec<_> = standings.iter().filter(|standing| !standing.is_well()).collect();
    let names: Vec<String> = bad.iter().map(|standing| standing.group.to_string()).collect();
    match ok {
        true => Ok(()),
        false => Err(Failure::Unavailable(anyhow!("no leader, or no quorum in step: group {}", names.join(", ")))),
    }
}

impl GroupHealth {
    fn of(standing: &Standing) -> GroupHealth {
        GroupHealth {
            group: standing.group.0,
            ok: standing.is_well(),
            leader: standing.leader.map(|node| node.0),
            voters: standing.voters.iter().map(|node| node.0).collect(),
            quorum: standing.quorum,
            in_step: standing.in_step.iter().map(|node| node.0).collect(),
            reasons: standing.reasons.clone(),
        }
    }
}

/// One node's group, as `health --node -o json` prints it.
#[derive(Debug, Serialize)]
struct NodeHealth {
    node: u8,
    group: u8,
    ok: bool,
    /// What it does for clients, why, and since when; `None`: it does not answer.
    mode: Option<&'static str>,
    mode_reason: Option<&'static str>,
    mode_seconds: Option<f64>,
    role: Option<&'static str>,
    leader: Option<u8>,
}

impl NodeHealth {
    fn of(answer: &Answer) -> NodeHealth {
        let status = answer.status.as_ref().ok();
        let mode = status.and_then(|status| status.mode);
        NodeHealth {
            node: answer.node.0,
            group: answer.group.0,
            ok: mode == Some(Mode::Target),
            mode: mode.map(Mode::name),
            mode_reason: status.and_then(|status| status.mode_reason).map(|reason| reason.name()),
            mode_seconds: status.map(|status| status.mode_for.as_secs_f64()),
            role: status.map(Status::role_name),
            leader: status.and_then(|status| status.leader).map(|node| node.0),
        }
    }

    /// What a node that has no leader, or no quorum, cannot mend by itself.
    fn waits_for_others(&self) -> bool {
        [Mode::Election, Mode::Degraded].iter().any(|mode| self.mode == Some(mode.name()))
    }

    fn line(&self) -> String {
        let (node, group) = (self.node, self.group);
        let (Some(mode), Some(seconds)) = (self.mode, self.mode_seconds) else {
            return format!("node {node} group {group}: does not answer");
        };
        match (self.ok, self.leader) {
            (true, Some(leader)) if leader == node => format!("node {node} group {group}: {mode}, leads"),
            (true, leader) => {
                let leader = leader.map_or("?".to_owned(), |leader| leader.to_string());
                format!("node {node} group {group}: {mode}, follows node {leader}")
            }
            (false, _) => {
                let reason = self.mode_reason.unwrap_or("no reason given");
                format!("node {node} group {group}: {mode} for {seconds:.1} s: {reason}")
            }
        }
    }
}

fn of_node(config: &Config, timeout: Duration, output: Style, node: u8) -> Outcome {
    let node = known_node(config, node)?;
    let answers = ask(config, timeout, |one, _| one == node).map_err(client_failure)?;
    let groups: Vec<NodeHealth> = answers.iter().map(NodeHealth::of).collect();
    let lines = groups.iter().map(NodeHealth::line).collect();
    let waits = groups.iter().filter(|group| !group.ok).all(NodeHealth::waits_for_others);
    match show(output, lines, groups, |group| group.ok)? {
        true => Ok(()),
        false if waits => Err(Failure::Unavailable(anyhow!("node {node} has no leader, or hears no quorum"))),
        false => Err(Failure::Told),
    }
}

/// Prints a line, or a JSON object, for each; gives whether all are well.
fn show<G: Serialize>(
    output: Style,
    lines: Vec<String>,
    groups: Vec<G>,
    is_well: impl Fn(&G) -> bool,
) -> Result<bool, Failure> {
    let ok = groups.iter().all(is_well);
    match output {
        Style::Text => print(&(lines.join("\n") + "\n"))?,
        Style::Json => print_json(&Health { ok, groups })?,
    }
    Ok(ok)
}

/// What `is-leader -o json` prints.
#[derive(Debug, Serialize)]
struct Leadership {
    group: u8,
    node: u8,
    is_leader: bool,
    leader: Option<u8>,
}

/// Whether a node leads a group; prints who does.
pub(super) fn is_leader(args: &IsLeaderArgs) -> Outcome {
    let (config, group) = args.target.load()?;
    let node = known_node(&config, args.node)?;
    let timeout = Duration::from_millis(args.timeout_ms);
    let answers = ask(&config, timeout, |_, GroupId(one)| one == group.0).map_err(client_failure)?;
    let leader = Standing::of(&config, group, &answers).leader;
    let is_leader = leader == Some(node);
    match (args.output, leader) {
        (Style::Json, _) => {
            print_json(&Leadership { group: group.0, node: node.0, is_leader, leader: leader.map(|node| node.0) })?;
        }
        (Style::Text, Some(leader)) => print(&format!("{leader}\n"))?,
        (Style::Text, None) => {}
    }
    match leader {
        _ if is_leader => Ok(()),
        Some(_) => Err(Failure::Told),
        None => Err(Failure::Unavailable(anyhow!("no node that answers leads group {group} and serves"))),
    }
}
