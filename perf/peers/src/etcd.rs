//! etcd: three servers as they are installed, with their defaults (each synced put waits for its majority). The client talks
//! to the leader over several connections. Its three messages are written down here, so that no `protoc` is needed.

use crate::bench::Running;
use crate::load::Target;
use crate::processes::{Process, free_ports, wait_all_ready};
use anyhow::{Context, ensure};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio::runtime::Runtime;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

const READY: &str = "ready to serve client requests";
const START_WAIT: Duration = Duration::from_secs(40);
/// Connections of the client: one HTTP/2 connection is a bottleneck of its own at 256 in flight.
const CHANNELS: usize = 4;

/// `etcdserverpb.PutRequest`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct PutRequest {
    #[prost(bytes = "vec", tag = "1")]
    key: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    value: Vec<u8>,
}

/// An answer or a request of which nothing is read.
#[derive(Clone, PartialEq, prost::Message)]
struct Nothing {}

/// `etcdserverpb.ResponseHeader`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
}

/// `etcdserverpb.StatusResponse`, as far as it is used.
#[derive(Clone, PartialEq, prost::Message)]
struct Status {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
}

/// Starts three servers and connects to the leader.
pub(crate) fn start(dir: &Path, tools: &Path, size: usize) -> anyhow::Result<Running> {
    let program = tools.join("bin/etcd");
    ensure!(program.is_file(), "{} is not there: run perf/peers/install.sh {}", program.display(), tools.display());
    let ports = free_ports(6)?;
    let (peers, clients) = ports.split_at(3);
    let url = |port: &u16| format!("http://127.0.0.1:{port}");
    let cluster: Vec<String> = peers.iter().enumerate().map(|(node, port)| format!("n{node}={}", url(port))).collect();
    let mut processes = Vec::new();
    for (node, (peer, client)) in peers.iter().zip(clients).enumerate() {
        let mut command = Command::new(&program);
        command.args(["--name", &format!("n{node}"), "--initial-cluster", &cluster.join(",")]);
        command.arg("--data-dir").arg(dir.join(format!("etcd-{node}")));
        command.args(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)]);
        command.args(["--listen-client-urls", &url(client), "--advertise-client-urls", &url(client)]);
        processes.push(Process::start(&format!("etcd node {node}"), &mut command, READY)?);
    }
    wait_all_ready(&processes, START_WAIT)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start tokio")?;
    let urls: Vec<String> = clients.iter().map(url).collect();
    let (version, channels) = runtime.block_on(connect(&urls))?;
    let puts = Puts { channels, next: 0, value: vec![7; size], in_flight: FuturesUnordered::new(), runtime };
    Ok(Running { version: format!("etcd {version}"), processes, target: Box::new(puts), is_log })
}

/// Whether it is the write-ahead log, and not the database behind it.
fn is_log(file: &str) -> bool {
    file.contains("/member/wal/")
}

/// Finds the leader, and opens connections to it.
async fn connect(urls: &[String]) -> anyhow::Result<(String, Vec<Channel>)> {
    for url in urls {
        let endpoint = Endpoint::from_shared(url.clone())?.tcp_nodelay(true);
        let mut grpc = Grpc::new(endpoint.connect().await.with_context(|| format!("cannot connect to {url}"))?);
        let path = PathAndQuery::from_static("/etcdserverpb.Maintenance/Status");
        grpc.ready().await.context("etcd is not ready")?;
        let answer = grpc.unary(tonic::Request::new(Nothing {}), path, ProstCodec::<Nothing, Status>::default());
        let status = answer.await.context("etcd tells no status")?.into_inner();
        if status.header.is_some_and(|header| header.member == status.leader) {
            let mut channels = Vec::new();
            for _ in 0..CHANNELS {
                channels.push(endpoint.connect().await.with_context(|| format!("cannot connect to {url}"))?);
            }
            return Ok((status.version, channels));
        }
    }
    anyhow::bail!("no etcd node says that it leads")
}

type Put = Pin<Box<dyn Future<Output = anyhow::Result<Instant>>>>;

struct Puts {
    channels: Vec<Channel>,
    next: usize,
    value: Vec<u8>,
    in_flight: FuturesUnordered<Put>,
    runtime: Runtime,
}

impl Target for Puts {
    fn offer(&mut self, start: Instant) -> anyhow::Result<()> {
        self.next = (self.next + 1) % self.channels.len();
        let mut grpc = Grpc::new(self.channels[self.next].clone());
        let request = PutRequest { key: b"synod".to_vec(), value: self.value.clone() };
        self.in_flight.push(Box::pin(async move {
            let path = PathAndQuery::from_static("/etcdserverpb.KV/Put");
            grpc.ready().await.context("etcd is not ready")?;
            let put = grpc.unary(tonic::Request::new(request), path, ProstCodec::<PutRequest, Nothing>::default());
            put.await.context("a put failed")?;
            Ok(start)
        }));
        Ok(())
    }

    fn poll(&mut self, max_wait: Duration, ended: &mut Vec<Instant>) -> anyhow::Result<()> {
        poll_some(&self.runtime, &mut self.in_flight, max_wait, ended)
    }
}

/// Waits for one future to end, and takes all that ended with it.
pub(crate) fn poll_some<F: Future<Output = anyhow::Result<Instant>>>(
    runtime: &Runtime,
    in_flight: &mut FuturesUnordered<F>,
    max_wait: Duration,
    ended: &mut Vec<Instant>,
) -> anyhow::Result<()> {
    // Unconstrained: what tokio's budget puts off is lost when `block_on` returns before it was polled again.
    runtime.block_on(tokio::task::unconstrained(async {
        let Ok(first) = tokio::time::timeout(max_wait, in_flight.next()).await else { return Ok(()) };
        let mut next = first;
        while let Some(result) = next {
            ended.push(result?);
            // Ready without waiting, or none.
            next = futures_util::FutureExt::now_or_never(in_flight.next()).flatten();
        }
        Ok(())
    }))
}
