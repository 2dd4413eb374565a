//! A whole group in this process, on loopback: for trying out a state machine, for examples and for tests. Its nodes are real
//! ([`Node`]): each has its own threads, sockets and log, and nothing in common with the others. What it lacks beside processes of
//! their own is that one of them can die alone.

use crate::config::{self, Config, Wait};
use crate::machine::MakeMachine;
use crate::node::{self, Node};
use anyhow::{Context, bail};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::path::Path;
use synod_wire::{GroupId, NodeId};

/// The smallest segments and arena that a configuration allows: formatting them is quick.
const SEGMENT_BYTES: u64 = 4 << 20;
const ARENA_BYTES: usize = 8 << 20;

/// See the module. Dropped, it ends its nodes in order.
pub struct Local {
    config: Config,
    make: MakeMachine,
    nodes: Vec<Option<Node>>,
}

impl Local {
    /// Formats and starts `nodes` nodes of one group below `dir`, which has to lie on a real disk, with the machine that `make` gives.
    pub fn start(dir: &Path, nodes: u8, make: MakeMachine) -> anyhow::Result<Local> {
        let mut config = Config { nodes: free_addresses(dir, nodes)?, ..Config::default() };
        config.wal.segment_bytes = SEGMENT_BYTES;
        config.wal.arena_bytes = ARENA_BYTES;
        // Many nodes share a processor here.
        config.cpu.wait = Wait::Block;
        if let Some(finding) = config::check(&config).first() {
            bail!("a local group cannot have this configuration: {finding:?}");
        }
        let mut local = Local { config, make, nodes: Vec::new() };
        for node in local.config.members() {
            node::format(&local.config, node, false)?;
            local.nodes.push(None);
            local.start_node(node)?;
        }
        Ok(local)
    }

    /// The configuration of all nodes.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// Where clients reach each node.
    pub fn members(&self) -> Vec<(NodeId, SocketAddrV4)> {
        self.config.client_addresses(GroupId(0))
    }

    /// Ends a node in order.
    pub fn stop_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        let running = self.nodes[usize::from(node.0)].take();
        running.with_context(|| format!("node {node} does not run"))?.stop()
    }

    /// Starts a node that does not run.
    pub fn start_node(&mut self, node: NodeId) -> anyhow::Result<()> {
        let place = &mut self.nodes[usize::from(node.0)];
        if place.is_some() {
            bail!("node {node} runs already");
        }
        *place = Some(Node::start(&self.config, node, self.make.clone())?);
        Ok(())
    }

    /// Ends all nodes in order.
    pub fn stop(self) -> anyhow::Result<()> {
        self.nodes.into_iter().flatten().try_for_each(Node::stop)
    }
}

/// Nodes on free ports of loopback. The sockets that find them are closed before the nodes start.
pub(crate) fn free_addresses(dir: &Path, nodes: u8) -> anyhow::Result<Vec<config::Node>> {
    let mut held = Vec::new();
    let mut free = || -> anyhow::Result<SocketAddrV4> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).context("no free UDP port on loopback")?;
        let port = socket.local_addr().context("cannot tell a socket's port")?.port();
        held.push(socket);
        Ok(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))
    };
    (0..nodes)
        .map(|id| {
            let dir = dir.join(format!("node-{id}"));
            Ok(config::Node { id, peer_listen: free()?, client_listen: free()?, admin_listen: None, dir, joins: false })
        })
        .collect()
}
