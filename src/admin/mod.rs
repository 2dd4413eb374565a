//! What a node tells over HTTP: metrics for Prometheus, health and status for scripts, a page for people. One thread of its own, far
//! from the pipelines' cores; it reads their boards ([`crate::shard::Board`]) and asks them nothing, so that no scrape can hold up a
//! commit. The page asks the *other* nodes, as `synod status` does.
//!
//! | file | what |
//! |---|---|
//! | `mod.rs` | the thread, and what it answers to which path |
//! | `metrics.rs`, `meters.rs` | the boards as Prometheus metrics |
//! | `report.rs` | health and status |
//! | `viewer.rs`, `page.rs`, `drawing.rs` | the page: what it knows, its HTML, its pictures |
//! | `order.rs` | the one order that is taken |
//! | `server.rs` | HTTP: bounded connections, bounded time |

mod drawing;
mod meters;
mod metrics;
mod order;
mod page;
mod report;
mod server;
mod viewer;

pub use metrics::Metrics;
pub use order::{AskReload, reloads};
pub use report::{Health, report};

use crate::config::Config;
use crate::shard::Board;
use anyhow::Context;
use std::net::{SocketAddrV4, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::Duration;
use synod_wire::{ClusterId, GroupId, NodeId};
use tokio::sync::Notify;
use viewer::Viewer;

/// The threads that answer give way to the pipelines where they share a CPU.
const ADMIN_NICE: i32 = 10;

/// Whom the answers are about.
#[derive(Clone, Debug)]
pub struct About {
    /// The cluster.
    pub cluster: ClusterId,
    /// The node.
    pub node: NodeId,
    /// What it runs by: where the other nodes are, for one.
    pub config: Arc<Config>,
    /// Its groups' boards.
    pub groups: Vec<(GroupId, Arc<Board>)>,
}

impl About {
    /// A core that has not shown its state for so long is stuck.
    fn stuck_after(&self) -> Duration {
        Duration::from_micros(self.config.metrics.stuck_after_us)
    }
}

/// The thread that answers. Ends when it is dropped.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddrV4,
    stop: Arc<Notify>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Admin {
    /// Listens at `listen`, whose port may be 0: any that is free. Without `reload` nobody can ask for one.
    pub fn start(listen: SocketAddrV4, about: About, reload: Option<AskReload>) -> anyhow::Result<Admin> {
        let socket = TcpListener::bind(listen)
            .with_context(|| format!("cannot listen on {listen} (node.admin_listen): is another process there?"))?;
        let address = match socket.local_addr().context("cannot tell a socket's address")? {
            std::net::SocketAddr::V4(address) => address,
            std::net::SocketAddr::V6(_) => listen,
        };
        socket.set_nonblocking(true).context("cannot make a socket non-blocking")?;
        let stop = Arc::new(Notify::new());
        let (stopped, node) = (stop.clone(), about.node);
        let answers = Answers { metrics: Metrics::new(&about), viewer: Viewer::new(about.clone()), about, reload };
        let serve = move || {
            if let Err(error) = rustix::process::nice(ADMIN_NICE) {
                tracing::warn!(%error, "HTTP is answered at normal priority");
            }
            if let Err(error) = server::serve(socket, Arc::new(answers), &stopped) {
                tracing::error!(%node, error = format!("{error:#}"), "HTTP is answered no more; the groups go on");
            }
        };
        let thread = thread::Builder::new().name("synod-admin".into()).spawn(serve).context("cannot start a thread")?;
        tracing::info!(%node, %address, "answering HTTP: /, /metrics, /health, /status");
        Ok(Admin { address, stop, thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddrV4 {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.notify_one();
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the thread that answers HTTP panicked");
        }
    }
}

const JSON: &str = "application/json";
const TEXT: &str = "text/plain; charset=utf-8";

/// An answer to a path.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answer {
    status: u16,
    content_type: &'static str,
    body: String,
}

/// What there is to answer with.
#[derive(Debug)]
struct Answers {
    metrics: Metrics,
    about: About,
    viewer: Viewer,
    reload: Option<AskReload>,
}

impl Answers {
    /// The answer to a path with its query.
    async fn to_path(&self, path: &str, query: &str) -> Answer {
        match path {
            "/" => self.viewer.page(query.strip_prefix("group=").and_then(|group| group.parse().ok())).await,
            path => self.at_once(path),
        }
    }

    /// Has the node read its configuration again.
    async fn reload(&self) -> Answer {
        let text = |status, body| Answer { status, content_type: TEXT, body };
        let Some(reload) = &self.reload else {
            return text(404, "this node was started by a program, and reads no file again\n".to_owned());
        };
        match reload.ask().await {
            Ok(told) => {
                let status = if told.problems.is_empty() { 200 } else { 422 };
                Answer { status, content_type: JSON, body: report::json(&told) }
            }
            Err(error) => text(503, format!("{error:#}\n")),
        }
    }

    /// What this node knows by itself.
    fn at_once(&self, path: &str) -> Answer {
        let json = |status, body| Answer { status, content_type: JSON, body };
        match path {
            "/metrics" => match self.metrics.text() {
                Ok(body) => Answer { status: 200, content_type: metrics::CONTENT_TYPE, body },
                Err(error) => Answer { status: 500, content_type: TEXT, body: error.to_string() },
            },
            "/health" => {
                let health = Health::of(&report(&self.about), self.about.stuck_after());
                json(if health.ok { 200 } else { 503 }, report::json(&health))
            }
            "/status" => json(200, report::json(&report(&self.about))),
            _ => {
                let body = "there are /, /metrics, /health and /status, and POST /reload\n".to_owned();
                Answer { status: 404, content_type: TEXT, body }
            }
        }
    }
}
