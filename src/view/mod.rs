//! A cluster as its nodes tell it: what `synod status`, `health`, `is-leader` and `top`, and the status page of the admin address
//! show. Asks the nodes over the wire, bounded in time; a process that is a node itself takes its own word from its boards. Draws
//! nothing: [`crate::cli`] and [`crate::admin`] do.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | asking; the answers |
//! | `standing.rs` | what they come to: who leads, who is in step |
//! | `log.rs` | a group's log as it lies on its members |
//! | `history.rs`, `latency.rs` | the last minutes; percentiles |
//! | `own.rs` | the word of a node of this process, from its boards |

mod history;
pub mod latency;
mod log;
pub mod own;
mod standing;
#[cfg(test)]
pub(crate) mod testing;

pub use history::{History, KEPT_SAMPLES, Lease, Sample};
pub use log::{LogPicture, Position};
pub use standing::Standing;

use crate::config::Config;
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_client::{ClientError, Status};
use synod_wire::{GroupId, NodeId};

/// A node, a group, where it was asked, and what it said.
#[derive(Debug)]
pub struct Answer {
    /// The node.
    pub node: NodeId,
    /// The group.
    pub group: GroupId,
    /// Where it was asked.
    pub address: SocketAddrV4,
    /// Its word.
    pub status: Result<Status, ClientError>,
}

/// Asks those nodes that `whom` names about those groups, all at once; what has not come by `timeout` is an error. In the order of
/// groups, then nodes.
pub fn ask(
    config: &Config,
    timeout: Duration,
    whom: impl Fn(NodeId, GroupId) -> bool,
) -> Result<Vec<Answer>, ClientError> {
    let places = config.group_ids().flat_map(|group| {
        config.client_addresses(group).into_iter().map(move |(node, address)| (node, group, address))
    });
    let places: Vec<_> = places.filter(|(node, group, _)| whom(*node, *group)).collect();
    let asked: Vec<_> = places.iter().map(|(_, group, address)| (*group, *address)).collect();
    let told = synod_client::statuses(&asked, config.cluster_id(), timeout)?;
    let answer = |((node, group, address), status)| Answer { node, group, address, status };
    Ok(places.into_iter().zip(told).map(answer).collect())
}

/// What is known of a cluster: each node's last word on each group, and the last minutes.
#[derive(Clone, Debug)]
pub struct View {
    /// Its groups in order.
    pub groups: Vec<GroupView>,
    /// When this began.
    pub since_ns: u64,
}

/// One group of it.
#[derive(Clone, Debug)]
pub struct GroupView {
    /// The group.
    pub group: GroupId,
    /// The nodes that the configuration names, in ascending order.
    pub cells: Vec<Cell>,
    /// The last minutes.
    pub history: History,
}

/// A node's word on a group.
#[derive(Clone, Debug)]
pub struct Cell {
    /// The node.
    pub node: NodeId,
    /// What it said in the last round.
    pub word: Word,
    /// When it was heard last; `None`: never.
    pub heard_ns: Option<u64>,
}

/// What a node said.
#[derive(Clone, Debug)]
pub enum Word {
    /// This.
    Said(Box<Status>),
    /// Nothing.
    Unknown,
}

impl View {
    /// Nothing is known yet.
    pub fn new(config: &Config, now_ns: u64) -> View {
        let cell = |node| Cell { node, word: Word::Unknown, heard_ns: None };
        let cells: Vec<Cell> = config.members().into_iter().map(cell).collect();
        let group = |group| GroupView { group, cells: cells.clone(), history: History::default() };
        View { groups: config.group_ids().map(group).collect(), since_ns: now_ns }
    }

    /// What a node said, `None`: nothing; and when it was heard last, if that is news.
    pub fn hear(&mut self, node: NodeId, group: GroupId, status: Option<Status>, heard_ns: Option<u64>) {
        let group = self.groups.get_mut(usize::from(group.0));
        let Some(cell) = group.and_then(|group| group.cells.iter_mut().find(|cell| cell.node == node)) else { return };
        cell.heard_ns = heard_ns.or(cell.heard_ns);
        cell.word = status.map_or(Word::Unknown, |status| Word::Said(Box::new(status)));
    }

    /// What nodes answered by `now_ns`.
    pub fn hear_all(&mut self, answers: Vec<Answer>, now_ns: u64) {
        for Answer { node, group, status, .. } in answers {
            let heard_ns = status.is_ok().then_some(now_ns);
            self.hear(node, group, status.ok(), heard_ns);
        }
    }
}

impl GroupView {
    /// Who leads and who is in step.
    pub fn standing(&self, config: &Config) -> Standing {
        let told: Vec<_> = self.cells.iter().map(|cell| (cell.node, cell.current())).collect();
        Standing::told(config, self.group, &told)
    }

    /// What the leader said.
    pub fn led(&self, standing: &Standing) -> Option<&Status> {
        self.cells.iter().filter_map(Cell::current).find(|status| Some(status.node) == standing.leader)
    }

    /// Notes what is so now, by the leader's word.
    pub fn note(&mut self, standing: &Standing, now_ns: u64) {
        let sample = self.led(standing).map_or_else(|| Sample::none(now_ns), |led| Sample::of_leader(led, now_ns));
        self.history.push(sample);
    }
}

impl Cell {
    /// What the node said in the last round.
    pub fn current(&self) -> Option<&Status> {
        match &self.word {
            Word::Said(status) => Some(status),
            Word::Unknown => None,
        }
    }

    /// For how long nothing is known of it; what began at `since_ns` has not heard it before. `None`: it answered.
    pub fn unknown_for(&self, since_ns: u64, now_ns: u64) -> Option<Duration> {
        let from_ns = self.heard_ns.unwrap_or(since_ns);
        self.current().is_none().then(|| Duration::from_nanos(now_ns.saturating_sub(from_ns)))
    }
}

/// The time of day of a moment since the Unix epoch.
pub fn clock(moment: Duration) -> String {
    let second = moment.as_secs();
    format!("{:02}:{:02}:{:02} UTC", second / 3_600 % 24, second / 60 % 60, second % 60)
}
