//! `synod format` and `synod start`: the commands that touch a node's directory.

use super::output::{Failure, Outcome, print};
use super::{FormatArgs, StartArgs};
use crate::memory::Memory;
use crate::node;
use crate::shard::Order;
use std::io::IsTerminal;

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
    // Diagnostics go to stderr, so that stdout stays the table above.
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(config.log.level))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .try_init()
        .map_err(|error| Failure::Failed(anyhow::anyhow!("cannot set up logging: {error}")))?;
    let order = if args.floor { Order::Floor } else { Order::Serve };
    node::run(&config, id, order)?;
    Ok(())
}
