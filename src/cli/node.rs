//! `synod format` and `synod start`: the commands that touch a node's directory.

use super::logging::Logging;
use super::output::{Outcome, print};
use super::{FormatArgs, StartArgs};
use crate::config::load::ConfigError;
use crate::config::reload::{self, Reload, Told};
use crate::config::{Config, load};
use crate::memory::Memory;
use crate::node;
use crate::shard::Order;
use std::path::Path;

/// Prepares a node's directory.
pub(super) fn format(args: &FormatArgs) -> Outcome {
    let (config, id) = args.node.load()?;
    let joins = args.join || config.node(id).is_some_and(|node| node.joins);
    node::format(&config, id, joins)?;
    let dir = config.node(id).expect("the node was looked up").dir.display();
    print(&format!("node {id} is formatted in {dir}, {} group(s)\n", config.groups.len()))?;
    if joins {
        print(&format!(
            "start it, and add it: synod member add --config {} --node {id}\n",
            args.node.cluster.config.display()
        ))?;
    }
    Ok(())
}

/// Runs a node until it is told to stop.
pub(super) fn start(args: &StartArgs) -> Outcome {
    let (config, id) = args.node.load()?;
    print(&format!("node {id} of cluster {}\n{}", config.cluster.id, Memory::of(&config).table()))?;
    let logging = Logging::start(&config.log)?;
    let order = if args.floor { Order::Floor } else { Order::Serve };
    node::run(&config, id, order, |running| reread(&args.node.cluster.config, running, &logging))?;
    Ok(())
}

/// Reads the file again, and the environment of the process with it. What came of it, and what is to run from now on; `None`: what
/// runs goes on.
fn reread(file: &Path, running: &Config, logging: &Logging) -> (Told, Option<Config>) {
    let place = file.display().to_string();
    let found = match find(file, running) {
        Ok(found) => found,
        Err(problems) => {
            for problem in &problems {
                tracing::error!(problem, "the configuration is not taken over; the node goes on with what it has");
            }
            return (Told { file: place, problems, ..Told::default() }, None);
        }
    };
    // What is told is told at the more talkative of both levels.
    let (old, new) = (running.log.level, found.config.log.level);
    let talks_more = new > old;
    if talks_more {
        logging.set_level(new);
    }
    for reload::Change { key, old, new } in &found.taken {
        tracing::info!(key, old, new, "taken over");
    }
    for reload::Change { key, old, new } in &found.waits {
        tracing::warn!(key, old, new, "not taken over: the node goes on with the old value until it is restarted");
    }
    let (taken_over, waiting) = (found.taken.len(), found.waits.len());
    tracing::info!(file = place, taken_over, waiting, "the configuration was read again");
    if !talks_more {
        logging.set_level(new);
    }
    let Reload { config, taken, waits } = found;
    (Told { file: place, taken, waits, problems: Vec::new() }, Some(config))
}

/// What comes of the file as it is now, or all that is wrong with it.
fn find(file: &Path, running: &Config) -> Result<Reload, Vec<String>> {
    let read = match load::load(file) {
        Ok(read) => read.config,
        Err(ConfigError::Invalid(problems)) => return Err(problems.iter().map(ToString::to_string).collect()),
        Err(error) => return Err(vec![error.to_string()]),
    };
    reload::reload(running, &read).map_err(|findings| {
        let place = file.display();
        let problem = |reload::Finding { key, reason, mend }| {
            format!("{place}: {key}: {reason}; {mend}, or restart the node for all of the file")
        };
        findings.into_iter().map(problem).collect()
    })
}
