//! `synod format` and `synod start`: the commands that touch a node's directory.

use super::output::{Outcome, print};
use super::{FormatArgs, StartArgs, logging};
use crate::memory::Memory;
use crate::node;
use crate::shard::Order;

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
    logging::start(&config.log)?;
    let order = if args.floor { Order::Floor } else { Order::Serve };
    node::run(&config, id, order)?;
    Ok(())
}
