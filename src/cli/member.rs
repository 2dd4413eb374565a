//! `synod member` and `synod recover`: who votes, and changes of that. Each change is one command of the log; the next is made when
//! a quorum of the members durably knows the one before.

use super::output::{Failure, Outcome, Style, Table, print, print_json};
use super::{
    GroupsArgs, MemberArgs, MemberCommand, MemberListArgs, RecoverArgs, ReplaceArgs, client_failure, known_node,
};
use crate::config::Config;
use crate::node;
use anyhow::anyhow;
use serde::Serialize;
use std::io::IsTerminal;
use std::net::SocketAddrV4;
use std::time::{Duration, Instant};
use synod_client::{ChangeOutcome, GroupId, MemberChange, Members, NodeId, change_members, members};
use synod_wire::Slot;

/// What is waited for longer is said on a terminal; and a change that has not been made by then is asked for again.
const PATIENCE: Duration = Duration::from_millis(500);

/// A member, as `list` prints it.
#[derive(Debug, Serialize)]
struct Row {
    group: u8,
    epoch: u32,
    node: u8,
    role: &'static str,
    leads: bool,
    incarnation: u64,
    chosen_slot: u64,
    behind_slots: Option<u64>,
    heard_ms_ago: Option<u128>,
}

/// What a change came to, as `-o json` prints it.
#[derive(Debug, Serialize)]
struct Done {
    group: u8,
    epoch: u32,
    voters: Vec<u8>,
    learners: Vec<u8>,
}

/// Runs one of the commands.
pub(super) fn member(command: &MemberCommand) -> Outcome {
    match command {
        MemberCommand::List(args) => list(args),
        MemberCommand::Add(args) => each_group(args, |task, node| task.add(node)),
        MemberCommand::Promote(args) => each_group(args, |task, node| task.promote(node)),
        MemberCommand::Remove(args) => each_group(args, |task, node| task.change(MemberChange::Remove(node))),
        MemberCommand::Replace(args) => replace(args),
    }
}

fn replace(args: &ReplaceArgs) -> Outcome {
    let config = args.member.groups.cluster.load()?.config;
    let with = known_node(&config, args.with)?;
    if args.with == args.member.node {
        let reason = anyhow!("a node that lost its log comes back with `synod recover --node {}`", args.with);
        return Err(Failure::Usage(reason));
    }
    each_group(&args.member, |task, node| {
        task.add(with)?;
        task.promote(with)?;
        task.change(MemberChange::Remove(node))
    })
}

/// Formats a node's directory anew, and has the new life of its logs join the groups.
pub(super) fn recover(args: &RecoverArgs) -> Outcome {
    let args = &args.member;
    let config = args.groups.cluster.load()?.config;
    let id = known_node(&config, args.node)?;
    if args.groups.group.is_some() {
        let reason = anyhow!("a node's directory has the logs of all groups");
        return Err(Failure::Usage(reason.context("recover takes no --group")));
    }
    let incarnations = node::format(&config, id, true)?;
    for (group, incarnation) in incarnations {
        Task::new(&config, group, args).join(id, incarnation)?;
    }
    let file = args.groups.cluster.config.display();
    print(&format!(
        "node {id} is formatted anew and a learner of all groups\nstart it:   synod start --config {file} --node {id}\nlet it vote: \
         synod member promote --config {file} --node {id}\n"
    ))
}

fn groups(args: &GroupsArgs, config: &Config) -> Result<Vec<GroupId>, Failure> {
    let all: Vec<GroupId> = config.group_ids().collect();
    match args.group {
        None => Ok(all),
        Some(group) if usize::from(group) < all.len() => Ok(vec![GroupId(group)]),
        Some(group) => {
            let reason = anyhow!("group {group} does not exist: {:?} has {}", args.cluster.config, all.len());
            Err(Failure::Usage(reason.context(format!("--group must be 0 to {}", all.len() - 1))))
        }
    }
}

fn list(args: &MemberListArgs) -> Outcome {
    let config = args.groups.cluster.load()?.config;
    let timeout = Duration::from_millis(args.timeout_ms);
    let mut rows = Vec::new();
    for group in groups(&args.groups, &config)? {
        let nodes = addresses(&config, group);
        let enough = |told: &[Members]| told.len() == nodes.len() || told.iter().any(|members| members.leads);
        let found = members(&nodes, config.cluster_id(), group, timeout, enough).map_err(client_failure)?;
        let best = found.iter().max_by_key(|members| (members.leads, members.configuration.epoch));
        let Some(best) = best.filter(|members| !members.waits) else {
            return Err(Failure::Unavailable(anyhow!(
                "no member of group {group} answers within {} ms",
                args.timeout_ms
            )));
        };
        rows.extend(rows_of(group, best));
    }
    match args.groups.output {
        Style::Json => rows.iter().try_for_each(print_json),
        Style::Text => print(&table(&rows)),
    }
}

fn rows_of(group: GroupId, told: &Members) -> Vec<Row> {
    let all = told.configuration.members().iter().zip(&told.progress);
    all.map(|(member, progress)| Row {
        group: group.0,
        epoch: told.configuration.epoch.0,
        node: member.node.0,
        role: if member.voter { "voter" } else { "learner" },
        leads: told.leader == Some(member.node),
        incarnation: member.incarnation,
        chosen_slot: progress.prefix.0,
        behind_slots: told.leads.then(|| told.prefix.0.saturating_sub(progress.prefix.0)),
        heard_ms_ago: progress.heard_ago.map(|ago| ago.as_millis()),
    })
    .collect()
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new(&["GROUP", "EPOCH", "NODE", "ROLE", "LEADS", ">CHOSEN", ">BEHIND", "HEARD"]);
    for row in rows {
        table.row([
            row.group.to_string(),
            row.epoch.to_string(),
            row.node.to_string(),
            row.role.to_owned(),
            if row.leads { "yes" } else { "" }.to_owned(),
            row.chosen_slot.to_string(),
            row.behind_slots.map_or("?".to_owned(), |slots| slots.to_string()),
            row.heard_ms_ago.map_or("never".to_owned(), |ms| format!("{ms} ms ago")),
        ]);
    }
    table.render()
}

fn addresses(config: &Config, group: GroupId) -> Vec<SocketAddrV4> {
    config.client_addresses(group).into_iter().map(|(_, address)| address).collect()
}

/// Makes a change in every group that is asked for, one after the other.
fn each_group(args: &MemberArgs, make: impl Fn(&Task<'_>, NodeId) -> Result<(), Failure>) -> Outcome {
    let config = args.groups.cluster.load()?.config;
    // A node that is gone for good need not be in the file any more.
    let node = NodeId(args.node);
    for group in groups(&args.groups, &config)? {
        let task = Task::new(&config, group, args);
        make(&task, node)?;
        let leader = task.leader()?;
        let configuration = &leader.configuration;
        let voters = configuration.voters();
        let numbers = |voting: bool| {
            let some = configuration.members().iter().filter(|member| voters.contains(member.node) == voting);
            some.map(|member| member.node.0).collect::<Vec<_>>()
        };
        let done =
            Done { group: group.0, epoch: configuration.epoch.0, voters: numbers(true), learners: numbers(false) };
        match args.groups.output {
            Style::Json => print_json(&done)?,
            Style::Text => print(&format!(
                "group {}: epoch {}, voters {:?}, learners {:?}\n",
                done.group, done.epoch, done.voters, done.learners
            ))?,
        }
    }
    Ok(())
}

/// Changes of one group.
struct Task<'a> {
    config: &'a Config,
    group: GroupId,
    until: Instant,
    timeout_ms: u64,
}

impl Task<'_> {
    fn new<'a>(config: &'a Config, group: GroupId, args: &MemberArgs) -> Task<'a> {
        let until = Instant::now() + Duration::from_millis(args.timeout_ms);
        Task { config, group, until, timeout_ms: args.timeout_ms }
    }

    /// What is left of the time, or the failure that says what was waited for.
    fn left(&self, what: &str) -> Result<Duration, Failure> {
        let left = self.until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let reason = anyhow!("group {}: waits {what}, and {} ms are over", self.group, self.timeout_ms);
            return Err(Failure::Unavailable(reason));
        }
        Ok(left)
    }

    /// What one of `nodes` says, as soon as it says what is waited for; none within `patience`.
    fn look(
        &self,
        nodes: &[SocketAddrV4],
        patience: Duration,
        wanted: impl Fn(&Members) -> bool,
    ) -> Result<Option<Members>, Failure> {
        let done = |told: &[Members]| told.iter().any(&wanted);
        let found = members(nodes, self.config.cluster_id(), self.group, patience, done).map_err(client_failure)?;
        // An old leader may not know yet that it is deposed.
        Ok(found.into_iter().filter(|told| wanted(told)).max_by_key(|told| told.prefix))
    }

    /// The same, for as long as there is time.
    fn await_told(
        &self,
        nodes: &[SocketAddrV4],
        what: &str,
        wanted: impl Fn(&Members) -> bool,
    ) -> Result<Members, Failure> {
        if let Some(told) = self.look(nodes, self.left(what)?.min(PATIENCE), &wanted)? {
            return Ok(told);
        }
        if std::io::stderr().is_terminal() {
            eprintln!("group {}: waits {what}", self.group);
        }
        loop {
            if let Some(told) = self.look(nodes, self.left(what)?, &wanted)? {
                return Ok(told);
            }
        }
    }

    /// What the leader says, once there is one that serves and whose members know who they are.
    fn leader(&self) -> Result<Members, Failure> {
        let settled = |told: &Members| told.leads && told.settled && !told.changing;
        self.await_told(&addresses(self.config, self.group), "for a leader whose members know who they are", settled)
    }

    /// Adds the life of a node's log that runs and waits.
    fn add(&self, node: NodeId) -> Result<(), Failure> {
        known_node(self.config, node.0)?;
        let address = self.config.client_address(node, self.group);
        let what = format!("for node {node}, which is to run (synod start) before it is added");
        let told = self.await_told(&[address], &what, |_| true)?;
        // A second call of the same command finds it added.
        let added = told.configuration.member(node).is_some_and(|member| member.incarnation == told.incarnation);
        if !told.waits && !added {
            let reason =
                anyhow!("node {node} does not wait to be added: it is a member, or was formatted without --join");
            return Err(Failure::Failed(reason));
        }
        self.join(node, told.incarnation)
    }

    /// A life of a node's log joins as a learner.
    fn join(&self, node: NodeId, incarnation: u64) -> Result<(), Failure> {
        let peers_at = self.config.peer_address(node, self.group);
        let clients_at = self.config.client_address(node, self.group);
        self.change(MemberChange::Add { node, incarnation, peers_at, clients_at })
    }

    fn promote(&self, node: NodeId) -> Result<(), Failure> {
        self.change(MemberChange::Promote(node))
    }

    /// Asks the leader until the change is made, or cannot be.
    fn change(&self, wanted: MemberChange) -> Result<(), Failure> {
        let mut waits_for = "for the members to change".to_owned();
        loop {
            // Out of time it tells what it waited for, not that it would ask once more.
            self.left(&waits_for)?;
            let leader = self.leader()?;
            if is_made(&leader, wanted) {
                return Ok(());
            }
            let of = leader.configuration.epoch;
            let patience = self.left(&waits_for)?.min(PATIENCE);
            let asked = change_members(leader.address, self.config.cluster_id(), self.group, of, wanted, patience);
            let next = |told: &Members| told.leads && told.settled && told.configuration.epoch > of;
            let nodes = addresses(self.config, self.group);
            match asked.map_err(client_failure)? {
                Some(ChangeOutcome::NotCaughtUp(behind)) => {
                    waits_for = format!("until the learner has caught up ({behind} slots)");
                    let patience = self.left(&waits_for)?;
                    // It answers, and has what the leader had.
                    let (node, had) = (node_of(wanted), progress(&leader, node_of(wanted)));
                    let enough = leader.prefix.max(had.next());
                    self.look(&nodes, patience.min(PATIENCE), |told| told.leads && progress(told, node) >= enough)?;
                }
                // A proposal may be lost with its leader: then it is made anew.
                Some(
                    ChangeOutcome::Begun | ChangeOutcome::NotLeader | ChangeOutcome::Stale | ChangeOutcome::Pending,
                )
                | None => {
                    "for the members to know of a change".clone_into(&mut waits_for);
                    self.look(&nodes, self.left(&waits_for)?.min(PATIENCE), next)?;
                }
                Some(refused) => return Err(Failure::Failed(self.refusal(refused, wanted))),
            }
        }
    }

    fn refusal(&self, refused: ChangeOutcome, wanted: MemberChange) -> anyhow::Error {
        let group = self.group;
        let node = node_of(wanted);
        match refused {
            ChangeOutcome::AlreadyMember => anyhow!("group {group}: node {node} is a member already"),
            ChangeOutcome::NotMember => {
                anyhow!("group {group}: node {node} is no member; `synod member list` shows who is")
            }
            ChangeOutcome::TooMany => anyhow!("group {group}: it has as many members as a group may; remove one first"),
            ChangeOutcome::LastVoter => {
                anyhow!("group {group}: nobody would vote without node {node}; promote another first")
            }
            other => anyhow!("group {group}: the leader refuses: {other:?}"),
        }
    }
}

fn node_of(wanted: MemberChange) -> NodeId {
    match wanted {
        MemberChange::Add { node, .. } | MemberChange::Promote(node) | MemberChange::Remove(node) => node,
    }
}

/// How far a member is, as the leader has heard.
fn progress(leader: &Members, node: NodeId) -> Slot {
    let at = leader.configuration.members().iter().position(|member| member.node == node);
    at.and_then(|at| leader.progress.get(at)).map_or(Slot::ZERO, |progress| progress.prefix)
}

/// Whether the leader's members are already what is asked for.
fn is_made(leader: &Members, wanted: MemberChange) -> bool {
    let member = |node| leader.configuration.member(node);
    match wanted {
        MemberChange::Add { node, incarnation, .. } => {
            member(node).is_some_and(|member| member.incarnation == incarnation)
        }
        MemberChange::Promote(node) => member(node).is_some_and(|member| member.voter),
        MemberChange::Remove(node) => member(node).is_none(),
    }
}
