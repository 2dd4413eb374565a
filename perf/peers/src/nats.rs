//! NATS JetStream: three servers with `sync_interval: always`, one stream of three replicas on files. The client publishes
//! to the stream's leader and waits for its acknowledgements.

use crate::bench::Running;
use crate::etcd::poll_some;
use crate::load::Target;
use crate::processes::{Process, free_ports, wait_all_ready};
use anyhow::{Context, ensure};
use async_nats::jetstream::context::CreateStreamErrorKind;
use async_nats::jetstream::{self, ErrorCode, stream};
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;

/// What every server says when the cluster can take a stream: the leader of itself, the others of the leader.
const READY: &str = "metadata leader";
const START_WAIT: Duration = Duration::from_secs(40);
/// Between two requests for a stream.
const ASK_AGAIN: Duration = Duration::from_millis(100);
const SUBJECT: &str = "synod";

/// Starts three servers, makes the stream, and connects to its leader.
pub(crate) fn start(dir: &Path, tools: &Path, size: usize) -> anyhow::Result<Running> {
    let program = tools.join("bin/nats-server");
    ensure!(program.is_file(), "{} is not there: run perf/peers/install.sh {}", program.display(), tools.display());
    let ports = free_ports(6)?;
    let (routes, clients) = ports.split_at(3);
    let mut processes = Vec::new();
    for (node, client) in clients.iter().enumerate() {
        let file = dir.join(format!("nats-{node}.conf"));
        std::fs::write(&file, config(dir, node, *client, routes)).context("cannot write a configuration")?;
        let mut command = Command::new(&program);
        command.arg("-c").arg(&file);
        processes.push(Process::start(&format!("nats node {node}"), &mut command, READY)?);
    }
    wait_all_ready(&processes, START_WAIT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let (version, context) = runtime.block_on(connect(clients))?;
    let target = Publishes { context, entry: vec![7; size].into(), in_flight: FuturesUnordered::new(), runtime };
    Ok(Running { version: format!("nats-server {version}"), processes, target: Box::new(target), is_log })
}

fn config(dir: &Path, node: usize, client: u16, routes: &[u16]) -> String {
    let others: Vec<String> = routes.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    let store = dir.join(format!("nats-{node}"));
    format!(
        "server_name: n{node}\nlisten: \"127.0.0.1:{client}\"\n\
         jetstream {{ store_dir: {store:?}, sync_interval: always }}\n\
         cluster {{ name: synod, listen: \"127.0.0.1:{}\", routes: [{}] }}\n",
        routes[node],
        others.join(", ")
    )
}

/// Messages, of the stream itself or of its raft group's log: both lie in blocks.
fn is_log(file: &str) -> bool {
    file.contains(".blk")
}

async fn connect(ports: &[u16]) -> anyhow::Result<(String, jetstream::Context)> {
    let url = |node: usize| format!("nats://127.0.0.1:{}", ports[node]);
    let any = async_nats::connect(url(0)).await.context("cannot connect to NATS")?;
    let leader = make_stream(&jetstream::new(any.clone())).await?;
    let node = leader.strip_prefix('n').and_then(|number| number.parse::<usize>().ok());
    let node = node.filter(|node| *node < ports.len()).with_context(|| format!("{leader} is none of our nodes"))?;
    let client = async_nats::connect(url(node)).await.context("cannot connect to the stream's leader")?;
    let version = client.server_info().version;
    let mut context = jetstream::new(client);
    context.set_timeout(Duration::from_secs(10));
    Ok((version, context))
}

/// Makes the stream; tells the server that leads it. A server that says it is ready may still be offline to the one
/// that places streams, until that one has heard from it: then it is asked again.
async fn make_stream(context: &jetstream::Context) -> anyhow::Result<String> {
    let wanted = stream::Config {
        name: "SYNOD".into(),
        subjects: vec![SUBJECT.into()],
        num_replicas: 3,
        storage: stream::StorageType::File,
        ..Default::default()
    };
    let until = Instant::now() + START_WAIT;
    let made = loop {
        match context.create_stream(wanted.clone()).await {
            Err(error) if lacks_peers(&error.kind()) && Instant::now() < until => tokio::time::sleep(ASK_AGAIN).await,
            made => break made.context("cannot make the stream")?,
        }
    };
    let leader = made.cached_info().cluster.as_ref().and_then(|cluster| cluster.leader.clone());
    leader.context("the stream has no leader")
}

fn lacks_peers(kind: &CreateStreamErrorKind) -> bool {
    matches!(kind, CreateStreamErrorKind::JetStream(error) if error.error_code() == ErrorCode::CLUSTER_NO_PEERS)
}

type Publish = Pin<Box<dyn Future<Output = anyhow::Result<Instant>>>>;

struct Publishes {
    context: jetstream::Context,
    entry: bytes::Bytes,
    in_flight: FuturesUnordered<Publish>,
    runtime: Runtime,
}

impl Target for Publishes {
    fn offer(&mut self, start: Instant) -> anyhow::Result<()> {
        let (context, entry) = (self.context.clone(), self.entry.clone());
        self.in_flight.push(Box::pin(async move {
            let sent = context.publish(SUBJECT, entry).await.context("cannot publish")?;
            sent.await.context("a message was not acknowledged")?;
            Ok(start)
        }));
        Ok(())
    }

    fn poll(&mut self, max_wait: Duration, ended: &mut Vec<Instant>) -> anyhow::Result<()> {
        poll_some(&self.runtime, &mut self.in_flight, max_wait, ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_missing_peers_are_waited_for() {
        let told = |code: u64| {
            let error = format!(r#"{{"code":400,"err_code":{code},"description":"no suitable peers for placement"}}"#);
            CreateStreamErrorKind::JetStream(serde_json::from_str(&error).unwrap())
        };
        assert!(lacks_peers(&told(10005)));
        assert!(!lacks_peers(&told(10052)) && !lacks_peers(&CreateStreamErrorKind::TimedOut));
    }

    #[test]
    fn every_server_syncs_always_and_knows_the_others() {
        let config = config(Path::new("/d"), 1, 4222, &[1, 2, 3]);
        for part in [
            "n1",
            "127.0.0.1:4222",
            "\"/d/nats-1\", sync_interval: always",
            "listen: \"127.0.0.1:2\"",
            "nats://127.0.0.1:1, nats://127.0.0.1:2, nats://127.0.0.1:3",
        ] {
            assert!(config.contains(part), "{part} is not in {config}");
        }
    }
}
