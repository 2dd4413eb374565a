//! What the words of a group's nodes come to: who leads, and who of the voters is in step. Pure.

use super::Answer;
use crate::config::Config;
use synod_client::{Picture, Status};
use synod_wire::client::role;
use synod_wire::mode::Mode;
use synod_wire::{GroupId, NodeId, NodeSet};

/// How a group stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    /// The group.
    pub group: GroupId,
    /// The node that says that it leads and serves; of several the one in the highest ballot.
    pub leader: Option<NodeId>,
    /// Who votes, as the leader says, or else the node with the latest configuration; as the file says where no node does.
    pub voters: NodeSet,
    /// How many of them a commit needs.
    pub quorum: usize,
    /// The voters in mode TARGET who follow that leader, and the leader.
    pub in_step: NodeSet,
    /// Why the other voters are not.
    pub reasons: Vec<String>,
}

impl Standing {
    /// Of the answers about `group`; others are passed over.
    pub fn of(config: &Config, group: GroupId, answers: &[Answer]) -> Standing {
        let of_group = answers.iter().filter(|answer| answer.group == group);
        let told: Vec<(NodeId, Option<&Status>)> =
            of_group.map(|answer| (answer.node, answer.status.as_ref().ok())).collect();
        Standing::told(config, group, &told)
    }

    /// The same of what each node said; `None`: it did not answer.
    pub fn told(config: &Config, group: GroupId, told: &[(NodeId, Option<&Status>)]) -> Standing {
        let statuses = || told.iter().filter_map(|(_, status)| *status);
        let led = statuses().filter(|status| serves(status)).max_by_key(|status| status.promised);
        let leader = led.map(|status| status.node);
        let latest = statuses().filter(|status| status.picture.is_some()).max_by_key(|status| status.epoch);
        let picture = led.and_then(|led| led.picture.as_ref()).or(latest.and_then(|latest| latest.picture.as_ref()));
        let known = picture.filter(|picture| !picture.voters.is_empty());
        let voters = known.map_or_else(|| config.founders().into_iter().collect(), |picture| picture.voters);
        let quorum = known.map_or(config.quorums().phase2, |picture: &Picture| picture.quorums.phase2);
        let (mut in_step, mut reasons) = (NodeSet::EMPTY, Vec::new());
        for voter in voters.iter() {
            let status = told.iter().find(|(node, _)| *node == voter).and_then(|(_, status)| *status);
            match why_not(status, leader) {
                None => {
                    in_step.insert(voter);
                }
                Some(reason) => reasons.push(format!("node {voter} {reason}")),
            }
        }
        Standing { group, leader, voters, quorum, in_step, reasons }
    }

    /// Whether it has a leader, and a quorum in step with it.
    pub fn is_well(&self) -> bool {
        self.leader.is_some() && self.in_step.len() >= self.quorum
    }

    /// In a line.
    pub fn line(&self) -> String {
        let Standing { group, leader, voters, quorum, in_step, reasons } = self;
        let (in_step, voters) = (in_step.len(), voters.len());
        let mut line = match leader {
            Some(leader) if self.is_well() => {
                format!("group {group}: node {leader} leads, {in_step} of {voters} voters in step")
            }
            Some(leader) => format!(
                "group {group}: no quorum: node {leader} leads, {in_step} of {voters} voters in step, {quorum} are needed"
            ),
            None => format!("group {group}: no leader"),
        };
        for reason in reasons {
            line.push_str("; ");
            line.push_str(reason);
        }
        line
    }
}

/// Whether the node says that it leads and serves.
pub(super) fn serves(status: &Status) -> bool {
    status.role == role::LEADER && status.mode == Some(Mode::Target)
}

/// Why a voter is not in step with the leader; `None`: it is.
fn why_not(status: Option<&Status>, leader: Option<NodeId>) -> Option<String> {
    let Some(status) = status else { return Some("does not answer".to_owned()) };
    let Some(mode) = status.mode else { return Some("does not say its mode".to_owned()) };
    if mode != Mode::Target {
        let reason = status.mode_reason.map_or("no reason given", |reason| reason.name());
        return Some(format!("is in {} for {:.1} s: {reason}", mode.name(), status.mode_for.as_secs_f64()));
    }
    match (leader, status.leader) {
        // Its word is older than the election, or the leader's is.
        (Some(leader), Some(other)) if leader != other => Some(format!("follows node {other}")),
        (Some(_), _) => None,
        (None, Some(other)) => Some(format!("follows node {other}, which does not say that it leads")),
        (None, None) => Some("knows no leader".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::view::testing::{status, three_nodes};
    use synod_wire::Quorums;

    fn stands(told: &[(u8, Option<Status>)]) -> Standing {
        let told: Vec<_> = told.iter().map(|(node, status)| (NodeId(*node), status.as_ref())).collect();
        Standing::told(&three_nodes(), GroupId(0), &told)
    }

    #[test]
    fn of_two_who_say_that_they_lead_the_higher_ballot_is_believed() {
        let (old, new) = (status(0, Some(0), 4), status(2, Some(2), 5));
        let standing = stands(&[(0, Some(old)), (1, Some(status(1, Some(2), 5))), (2, Some(new))]);
        assert_eq!((standing.leader, standing.in_step.0), (Some(NodeId(2)), 0b110));
        assert_eq!(standing.line(), "group 0: node 2 leads, 2 of 3 voters in step; node 0 follows node 0");
    }

    #[test]
    fn a_leader_without_a_quorum_in_step_is_told_apart_from_none() {
        let mut behind = status(1, Some(0), 4);
        (behind.mode, behind.mode_reason) = (Some(Mode::Recovery), None);
        let standing = stands(&[(0, Some(status(0, Some(0), 4))), (1, Some(behind.clone())), (2, None)]);
        assert!(!standing.is_well());
        let line = "group 0: no quorum: node 0 leads, 1 of 3 voters in step, 2 are needed; node 1 is in RECOVERY for 1.0 s: \
                    no reason given; node 2 does not answer";
        assert_eq!(standing.line(), line);
        let standing = stands(&[(0, None), (1, Some(status(1, Some(0), 4))), (2, Some(behind))]);
        assert_eq!((standing.leader, standing.in_step.len(), standing.is_well()), (None, 0, false));
        assert!(
            standing
                .line()
                .contains("group 0: no leader; node 0 does not answer; node 1 follows node 0, which does not")
        );
    }

    #[test]
    fn who_votes_is_what_the_leader_says_and_the_file_only_where_nobody_does() {
        let mut leader = status(0, Some(0), 4);
        let picture = leader.picture.as_mut().expect("it has one");
        (picture.voters, picture.quorums) = (NodeSet(0b1), Quorums { phase1: 1, phase2: 1 });
        assert!(stands(&[(0, Some(leader)), (1, None), (2, None)]).is_well(), "the others were removed");
        let standing = stands(&[(0, None), (1, None), (2, None)]);
        assert_eq!((standing.voters.len(), standing.quorum, standing.is_well()), (3, 2, false));
    }
}
