//! Streams against real processes: a subscriber goes on elsewhere when its node is killed or stopped; one that stands still is
//! dropped with the reason, and hears it when it goes on; lost datagrams are sent again.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::{Rng, await_until, serial};
use rustix::process::{Pid, Signal, kill_process};
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use synod_client::{Appender, Counter, NodeId, ReadOptions, Sequence, StreamEnd, Subscription};

fn cluster(name: &str) -> Cluster {
    let mut cluster = Cluster::prepare(name, |config| {
        config.consensus.heartbeat_us = 5_000;
        config.consensus.election_timeout_min_us = 50_000;
        config.consensus.election_timeout_max_us = 100_000;
    });
    cluster.start_all();
    cluster.await_leader(GROUP);
    cluster
}

fn appender(cluster: &Cluster) -> Appender {
    let members = cluster.config.client_addresses(GROUP);
    Appender::connect(cluster.config.cluster_id(), GROUP, members, 7, cluster.options()).expect("a session")
}

fn payload(sequence: u64) -> String {
    format!("entry {sequence:06}")
}

/// Appends the entries of these sequences.
fn append(appender: &mut Appender, first: u64, count: u64) {
    for sequence in first..first + count {
        let ack = appender.append(payload(sequence).as_bytes()).expect("a leader serves");
        assert_eq!(ack.sequence.0, sequence);
    }
}

fn subscription(cluster: &Cluster, members: Vec<SocketAddrV4>) -> Subscription {
    let (id, options) = (cluster.config.cluster_id(), ReadOptions::default());
    Subscription::new(id, GROUP, members, options, Sequence(1)).expect("a socket")
}

/// Takes the entries of these sequences, in order.
fn take(stream: &mut Subscription, first: u64, count: u64) {
    let since = Instant::now();
    let mut next = first;
    while next < first + count {
        assert!(since.elapsed() < SOON, "waits for {next}: {stream:?}");
        if let Some(entry) = stream.next_entry(Duration::from_millis(100)).expect("a member serves") {
            assert_eq!((entry.sequence.0, entry.payload), (next, payload(next).as_bytes()));
            next += 1;
        }
    }
}

fn node_at(cluster: &Cluster, address: SocketAddrV4) -> NodeId {
    let found = cluster.members().into_iter().find(|node| cluster.config.client_address(*node, GROUP) == address);
    found.expect("a member serves")
}

#[test]
fn a_subscriber_goes_on_elsewhere_when_its_node_is_killed_or_stopped() {
    let _one = serial();
    let mut cluster = cluster("streams-resume");
    let leader = cluster.await_leader(GROUP);
    let mut appender = appender(&cluster);
    append(&mut appender, 1, 200);
    // The followers first.
    let mut nodes = cluster.others(leader);
    nodes.push(leader);
    let address = |node: &NodeId| cluster.config.client_address(*node, GROUP);
    let members: Vec<_> = nodes.iter().map(address).collect();
    let mut stream = subscription(&cluster, members.clone());
    take(&mut stream, 1, 200);
    let first = stream.core().serving();
    assert_eq!(first, members[0], "the first that is asked serves");
    assert_eq!(cluster.counter(nodes[0], GROUP, Counter::Subscribers), 1);

    cluster.kill(nodes[0]);
    append(&mut appender, 201, 100);
    take(&mut stream, 201, 100);
    let second = stream.core().serving();
    assert_ne!(second, first);
    assert_eq!((stream.core().counters().moves >= 1, stream.core().last_end()), (true, None));

    // Back, so that the others are a quorum when the second is stopped in good order: it says so.
    cluster.start(nodes[0]);
    let stopped = node_at(&cluster, second);
    await_until(SOON, "the killed node is back", || cluster.status(nodes[0], GROUP));
    cluster.stop(stopped);
    append(&mut appender, 301, 100);
    take(&mut stream, 301, 100);
    assert_eq!(stream.core().last_end(), Some((second, StreamEnd::Shutdown)));
    let third = node_at(&cluster, stream.core().serving());
    stream.close().expect("a datagram more");
    await_until(SOON, "the node hears that its subscriber leaves", || {
        (cluster.counter(third, GROUP, Counter::Subscribers) == 0).then_some(())
    });
}

/// `synod subscribe` in a process of its own; killed at the end, whatever happens.
struct Printing(Child);

impl Printing {
    fn start(cluster: &Cluster, node: NodeId) -> Printing {
        let mut command = Command::new(env!("CARGO_BIN_EXE_synod"));
        command.arg("subscribe").arg("--config").arg(cluster.config_file());
        command.args(["--group", &GROUP.to_string(), "--from", "1", "--node", &node.to_string(), "-o", "json"]);
        Printing(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the program starts"))
    }

    fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.0), signal).expect("a signal to a process of this test");
    }
}

impl Drop for Printing {
    fn drop(&mut self) {
        // Gone already or killed now: either is the end of it.
        // It may have ended by itself, and a drop cannot fail.
        let _killed: bool = self.0.kill().is_ok();
        let _ = self.0.wait();
    }
}

#[test]
fn a_subscriber_that_stands_still_is_dropped_and_told_why_when_it_goes_on() {
    let _one = serial();
    let cluster = cluster("streams-stopped");
    let leader = cluster.await_leader(GROUP);
    let mut appender = appender(&cluster);
    append(&mut appender, 1, 20);
    let mut printing = Printing::start(&cluster, leader);
    let mut lines = BufReader::new(printing.0.stdout.take().expect("piped")).lines();
    let mut expect = |first: u64, last: u64| {
        for sequence in first..=last {
            let line = lines.next().expect("it goes on").expect("text");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            assert_eq!((&line["sequence"], &line["payload"]), (&sequence.into(), &payload(sequence).into()));
        }
    };
    expect(1, 20);
    // Little comes while it stands still: it is silent. Much: it lets entries wait, which is noticed sooner.
    for (first, count, dropped) in [(21, 3, Counter::StreamsTimedOut), (24, 500, Counter::StreamsSlow)] {
        printing.signal(Signal::STOP);
        append(&mut appender, first, count);
        await_until(SOON, "the leader drops a subscriber that stands still", || {
            (cluster.counter(leader, GROUP, dropped) == 1).then_some(())
        });
        assert_eq!(cluster.counter(leader, GROUP, Counter::Subscribers), 0);
        printing.signal(Signal::CONT);
        expect(first, first + count - 1);
    }
    printing.signal(Signal::INT);
    let mut said = String::new();
    printing.0.stderr.take().expect("piped").read_to_string(&mut said).expect("text");
    for reason in ["TIMED_OUT", "SLOW"] {
        assert!(said.contains(&format!("ended the stream: {reason}")), "{said:?}");
    }
    assert!(printing.0.wait().expect("it ends").success());
}

/// Datagrams between a client and a node, every third of the node's lost.
fn lossy(node: SocketAddrV4, stop: Arc<AtomicBool>) -> (SocketAddrV4, std::thread::JoinHandle<u64>) {
    let bind = || UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    let (front, back) = (bind(), bind());
    back.connect(node).expect("connect");
    let wait = Some(Duration::from_millis(1));
    front.set_read_timeout(wait).expect("a time-out above zero");
    back.set_read_timeout(wait).expect("a time-out above zero");
    let std::net::SocketAddr::V4(address) = front.local_addr().expect("bound") else { panic!("IPv4") };
    let mut rng = Rng::announced("streams");
    let relay = move || {
        let (mut buffer, mut client, mut lost) = ([0; 65_536], None, 0_u64);
        while !stop.load(Ordering::Relaxed) {
            // Nothing in time, or word that nobody listens: either is looked at again.
            if let Ok((bytes, from)) = front.recv_from(&mut buffer) {
                client = Some(from);
                back.send(&buffer[..bytes]).expect("send");
            }
            while let (Ok(bytes), Some(client)) = (back.recv(&mut buffer), client) {
                // By chance: each third would be the first one of every round where rounds have a multiple of three.
                if rng.below(3) == 0 {
                    lost += 1;
                } else {
                    front.send_to(&buffer[..bytes], client).expect("send");
                }
            }
        }
        lost
    };
    (address, std::thread::spawn(relay))
}

#[test]
fn what_is_lost_on_the_way_is_sent_again() {
    let _one = serial();
    let cluster = cluster("streams-loss");
    let leader = cluster.await_leader(GROUP);
    let mut appender = appender(&cluster);
    append(&mut appender, 1, 600);
    let stop = Arc::new(AtomicBool::new(false));
    let (proxy, relay) = lossy(cluster.config.client_address(leader, GROUP), stop.clone());
    let mut stream = subscription(&cluster, vec![proxy]);
    take(&mut stream, 1, 600);
    append(&mut appender, 601, 100);
    take(&mut stream, 601, 100);
    stop.store(true, Ordering::Relaxed);
    let lost = relay.join().expect("the relay ends");
    assert!(lost > 3 && stream.core().counters().gaps > 0, "{lost} lost, {stream:?}");
}
