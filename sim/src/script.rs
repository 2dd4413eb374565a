//! Scenarios as text: a plan without chance's faults, and what strikes when. Called by the tests; the same engine, checkers
//! and phases as for seeds.
//!
//! ```text
//! # a comment
//! nodes 3
//! at 2000 isolate 0 3000     n0 is cut off from the others for 3,000 ms
//! at 2000 oneway 0 1 3000    what n0 sends to n1 is lost
//! at 2000 chain 3000         each node reaches its neighbours only
//! at 2000 pause leader 900   whoever leads is frozen (a number names a node)
//! at 2000 stall leader 900   its disk is
//! at 2000 kill 1             n1's process ends, and starts again later
//! at 2000 power              all nodes lose power
//! at 2000 newdisk 2          n2 comes back with an empty disk (it is the victim)
//! ```

use crate::checks::Checked;
use crate::node::Health;
use crate::plan::{Plan, Profile};
use crate::sim::Sim;
use crate::trace::{End, What};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use synod_paxos::Role;

/// Something that a scenario makes happen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// When, simulated milliseconds.
    pub at_ms: u64,
    /// What, and with which words.
    pub words: Vec<String>,
}

/// Reads a scenario: the plan that runs it.
pub fn scenario(text: &str, seed: u64) -> Result<Plan, String> {
    let mut plan = Plan { faults: BTreeMap::new(), victims: Vec::new(), ..Plan::new(seed, Profile::Calm) };
    (plan.nodes, plan.phase1, plan.phase2) = (3, 2, 2);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or("").trim()).filter(|line| !line.is_empty());
    for line in lines {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        match words[0].as_str() {
            "nodes" => {
                plan.nodes = number(&words, 1)? as usize;
                (plan.phase1, plan.phase2) = (plan.nodes / 2 + 1, plan.nodes / 2 + 1);
            }
            "at" => {
                let step = Step { at_ms: number(&words, 1)?, words: words[2..].to_vec() };
                if step.words.first().is_some_and(|what| what == "newdisk") {
                    plan.victims = vec![number(&step.words, 1)? as usize];
                }
                plan.script.push(step);
            }
            other => return Err(format!("{line:?}: nobody knows {other:?}")),
        }
    }
    plan.safety_ms = plan.script.iter().map(|step| step.at_ms).max().unwrap_or(0) + 6_000;
    Ok(plan)
}

fn number(words: &[String], at: usize) -> Result<u64, String> {
    let word = words.get(at).ok_or_else(|| format!("{words:?}: word {at} is missing"))?;
    word.parse().map_err(|_| format!("{words:?}: {word:?} is no number"))
}

impl Sim {
    /// Does what a scenario says. A bad one is its author's bug.
    pub(crate) fn scripted(&mut self, index: usize) -> Checked {
        let words = self.plan.script[index].words.clone();
        self.note(What::World(words.join(" ")));
        let arg = |at: usize| number(&words, at).unwrap_or_else(|error| panic!("{error}"));
        match words.first().map(String::as_str) {
            Some("isolate") => {
                let node = self.named(&words[1]);
                for other in (0..self.plan.nodes).filter(|other| *other != node) {
                    self.cut(node, other, arg(2));
                    self.cut(other, node, arg(2));
                }
            }
            Some("oneway") => self.cut(arg(1) as usize, arg(2) as usize, arg(3)),
            Some("chain") => {
                let nodes = self.plan.nodes;
                for (a, b) in
                    (0..nodes).flat_map(|a| (0..nodes).map(move |b| (a, b))).filter(|(a, b)| a.abs_diff(*b) > 1)
                {
                    self.cut(a, b, arg(1));
                }
            }
            Some("pause") => {
                let node = self.named(&words[1]);
                self.nodes[node].paused_until_ns = self.now_ns + arg(2) * 1_000_000;
            }
            Some("stall") => {
                let node = self.named(&words[1]);
                self.nodes[node].disk.stalled_until_ns = self.now_ns + arg(2) * 1_000_000;
            }
            Some("kill") => {
                let node = self.named(&words[1]);
                return self.kill(node, false);
            }
            Some("power") => return (0..self.plan.nodes).try_for_each(|node| self.kill(node, true)),
            Some("newdisk") => return self.amnesia(),
            other => panic!("a scenario says {other:?}, which nobody knows"),
        }
        Ok(())
    }

    fn cut(&mut self, from: usize, to: usize, ms: u64) {
        self.net.cut(End::Node(from), End::Node(to), self.now_ns + ms * 1_000_000);
    }

    /// A node by its number, or the one that leads (or else the first).
    fn named(&self, word: &str) -> usize {
        let leads = |node: &crate::node::Node| node.role == Role::Leader && node.health == Health::Up;
        match word {
            "leader" => self.nodes.iter().position(leads).unwrap_or(0),
            _ => word.parse().unwrap_or_else(|_| panic!("{word:?} is no node")),
        }
    }
}
