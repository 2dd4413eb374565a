//! The contract of `Io`, as tests that every reactor of this crate passes: each is a test binary of its own, which says what its
//! `Reactor` is and what it does in its own way. Here is what they share: a reactor of small sizes on loopback, and turning it until
//! something came.

mod datagrams;
mod log_writes;
mod setting_up;
mod waiting;

use crate::{Reactor, WRITERS};
use std::net::SocketAddrV4;
use std::time::Duration;
#[allow(unused_imports, reason = "one of the reactors has these as methods of its own")]
use synod_ring::Reactor as _;
use synod_ring::{Arena, Event, HousePort, Io, ReceiveMemory, RxBuf, Settings, WaitMode, port};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn any_port() -> SocketAddrV4 {
    "127.0.0.1:0".parse().unwrap()
}

pub(crate) fn settings() -> Settings {
    let mut settings = Settings {
        peers_listen: any_port(),
        clients_listen: any_port(),
        peers: Vec::new(),
        rx_buffers_peers: 64,
        rx_buffers_clients: 64,
        rx_buffer_bytes: 2048,
        receive_offload: true,
        sq_entries: 64,
        cq_entries: 0,
        socket_buffer_bytes: 1 << 20,
        wait: WaitMode::Auto { idle_us: 50, durable_us: 500 },
        dont_fragment: true,
        max_events: 64,
        log_writer: WRITERS[0],
        log_threads: 2,
        napi_busy_poll_us: 0,
        segmentation: true,
    };
    settings.cq_entries = settings.cq_entries_min();
    settings
}

/// A reactor with its arenas and the housekeeping thread's end of its port.
pub(crate) struct Node {
    pub(crate) io: Reactor,
    pub(crate) log: Arena,
    pub(crate) send: Arena,
    pub(crate) house: HousePort<u64, u64>,
}

pub(crate) const JOBS: usize = 4;

pub(crate) fn node(settings: Settings) -> Node {
    let log = Arena::new(1 << 20).unwrap();
    let send = Arena::new(1 << 16).unwrap();
    let (core, house) = port(JOBS).unwrap();
    let receive = ReceiveMemory::new(&settings).unwrap();
    let io = Reactor::new(settings, receive, &log, &send, core).unwrap();
    Node { io, log, send, house }
}

/// A node that knows another's address as peer 0.
pub(crate) fn node_with_peer(settings: Settings, peer: &Node) -> Node {
    node(Settings { peers: vec![peer.io.peers_address()], ..settings })
}

impl Node {
    /// Submits what is queued and takes what is there.
    pub(crate) fn look(&mut self) -> Vec<Event<u64>> {
        let mut events = Vec::new();
        self.io.poll(0, false, &mut events).unwrap();
        events
    }

    /// Polls until events come.
    pub(crate) fn wait(&mut self) -> Vec<Event<u64>> {
        let mut events = Vec::new();
        let deadline_ns = self.io.now_ns() + PATIENCE.as_nanos() as u64;
        self.io.poll(deadline_ns, true, &mut events).unwrap();
        assert!(!events.is_empty(), "nothing came in {PATIENCE:?}");
        events
    }

    pub(crate) fn wait_for_datagram(&mut self) -> (RxBuf, Option<SocketAddrV4>) {
        let mut events = self.wait();
        assert_eq!(events.len(), 1, "{events:?}");
        match events.remove(0) {
            Event::Datagram { buf, from } => (buf, from),
            other => panic!("expected a datagram, got {other:?}"),
        }
    }

    pub(crate) fn send_peer(&mut self, bytes: &[u8]) {
        self.send.get_mut(0, bytes.len()).copy_from_slice(bytes);
        self.io.send_peer(0, self.send.slice(0, bytes.len()));
        self.expect_quiet();
    }

    pub(crate) fn send_client(&mut self, to: SocketAddrV4, bytes: &[u8]) {
        self.send.get_mut(0, bytes.len()).copy_from_slice(bytes);
        self.io.send_client(to, self.send.slice(0, bytes.len()));
        self.expect_quiet();
    }

    pub(crate) fn expect_quiet(&mut self) {
        let events = self.look();
        assert!(events.is_empty(), "{events:?}");
    }
}
