//! Datagrams a second, one by one and in trains: what segmentation and receive offload are worth on this host.
//!
//! One sender, one receiver, each a reactor of the product on a thread of its own, over loopback; nothing is done with what
//! comes. The sender keeps so many in flight as the receiver's socket holds, so that none is lost and what arrives is what was
//! sent. Called by `floor`.

use crate::interrupt;
use crate::options::WaitArgs;
use crate::stats::Spread;
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::net::SocketAddrV4;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};
use synod_ring::{
    Arena, Event, HousePort, Io, IoError, LogWriter, ReceiveMemory, SEGMENTS_MAX, Settings, UringIo, port,
};

/// A frame's header alone, and what fills an Ethernet frame.
const SIZES: [usize; 2] = [64, 1_472];
/// The longest that one measurement takes: it needs no percentiles.
const MEASURE_MAX: Duration = Duration::from_millis(500);
/// Before that: the threads start, and their memory is touched.
const WARM_UP: Duration = Duration::from_millis(100);
/// What a datagram of any of these sizes takes of a socket's buffer, with the kernel's bookkeeping, rounded up.
const IN_SOCKET_BYTES: u64 = 4_096;
/// Nothing arrives for so long: datagrams were lost.
const STALL: Duration = Duration::from_secs(2);
/// How long the receiver waits before it looks whether the measurement is over.
const LOOK: Duration = Duration::from_millis(10);

/// How datagrams pass through the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Way {
    /// Each by itself.
    Plain,
    /// Sent in trains.
    Gso,
    /// Sent and received in trains.
    GsoGro,
}

impl Way {
    const ALL: [Way; 3] = [Way::Plain, Way::Gso, Way::GsoGro];
}

/// What was measured of one size and way.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    size: usize,
    way: Way,
    datagrams_per_second: Spread,
}

/// The rounds so far: for each size and way, the rates.
#[derive(Debug, Default)]
pub(crate) struct Packets {
    rates: [[Vec<f64>; Way::ALL.len()]; SIZES.len()],
}

impl Packets {
    /// Measures everything once.
    pub(crate) fn round(&mut self, wait: WaitArgs, time: Duration) -> anyhow::Result<()> {
        for (size, ways) in SIZES.into_iter().zip(&mut self.rates) {
            for (way, rates) in Way::ALL.into_iter().zip(ways) {
                interrupt::check()?;
                let rate = measure(size, way, wait, time.min(MEASURE_MAX));
                rates.push(rate.with_context(|| format!("datagrams of {size} bytes, {way:?}"))?);
            }
        }
        Ok(())
    }

    /// The medians; at least one round was measured.
    pub(crate) fn rows(&self) -> Vec<Row> {
        let sizes = SIZES.into_iter().zip(&self.rates);
        let all =
            sizes.flat_map(|(size, ways)| Way::ALL.into_iter().zip(ways).map(move |(way, rates)| (size, way, rates)));
        all.map(|(size, way, rates)| Row { size, way, datagrams_per_second: Spread::of(rates.iter().copied()) })
            .collect()
    }
}

/// The rows as text: a line for each size.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text =
        format!("{:<44} {:>10} {:>10} {:>10}\n", "datagrams/s, one sender, one receiver", "plain", "GSO", "GSO+GRO");
    for ways in rows.chunks(Way::ALL.len()) {
        text += &format!("{:<44}", format!("{} bytes", ways[0].size));
        ways.iter().for_each(|row| text += &format!(" {:>10.0}", row.datagrams_per_second.median));
        text.push('\n');
    }
    text
}

/// A reactor without a log, its arena, and the other end of its port, kept.
struct Reactor {
    io: UringIo<(), ()>,
    send: Arena,
    _house: HousePort<(), ()>,
}

impl Reactor {
    fn new(way: Way, wait: WaitArgs, peers: Vec<SocketAddrV4>) -> anyhow::Result<Reactor> {
        let any = "127.0.0.1:0".parse()?;
        let mut settings = Settings {
            peers_listen: any,
            clients_listen: any,
            peers,
            rx_buffers_peers: 128,
            rx_buffers_clients: 1,
            rx_buffer_bytes: 1_472,
            receive_offload: way == Way::GsoGro,
            sq_entries: 256,
            cq_entries: 0,
            socket_buffer_bytes: 4 << 20,
            wait: wait.mode(),
            dont_fragment: true,
            max_events: 256,
            log_writer: LogWriter::Ring,
            log_threads: 1,
            napi_busy_poll_us: 0,
            segmentation: way != Way::Plain,
        };
        settings.cq_entries = settings.cq_entries_min();
        let (log, send) = (Arena::new(4_096)?, Arena::new(1 << 16)?);
        let (core, house) = port(1)?;
        send.populate()?;
        let receive = ReceiveMemory::new(&settings)?;
        Ok(Reactor { io: UringIo::new(settings, receive, &log, &send, core)?, send, _house: house })
    }

    fn now_ns(&self) -> u64 {
        self.io.now_ns()
    }
}

/// What the threads share.
#[derive(Default)]
struct Shared {
    received: AtomicU64,
    stop: AtomicBool,
}

fn measure(size: usize, way: Way, wait: WaitArgs, time: Duration) -> anyhow::Result<f64> {
    let shared = Shared::default();
    let (tell, told) = mpsc::sync_channel(1);
    std::thread::scope(|scope| {
        let receiver = scope.spawn(|| receive(way, wait, &shared, &tell));
        let sent = match told.recv_timeout(STALL) {
            Ok((to, window)) => send(size, way, wait, to, window, &shared, time),
            Err(_) => Err(anyhow::anyhow!("the receiver did not start")),
        };
        shared.stop.store(true, Ordering::Relaxed);
        let received = receiver.join().map_err(|_| anyhow::anyhow!("the receiver panicked"))?;
        received.and(sent)
    })
}

/// Receives until it is told to stop. Says first where, and how many datagrams its socket holds.
fn receive(
    way: Way,
    wait: WaitArgs,
    shared: &Shared,
    tell: &mpsc::SyncSender<(SocketAddrV4, u64)>,
) -> anyhow::Result<()> {
    let mut reactor = Reactor::new(way, wait, Vec::new())?;
    let window = (reactor.io.stats().receive_buffer_bytes_peers / IN_SOCKET_BYTES).max(2 * SEGMENTS_MAX as u64);
    // The sender may have given up; then it stops this, too.
    let _listens = tell.send((reactor.io.peers_address(), window));
    let mut events = Vec::with_capacity(256);
    while !shared.stop.load(Ordering::Relaxed) {
        let deadline_ns = reactor.now_ns() + LOOK.as_nanos() as u64;
        reactor.io.poll(deadline_ns, false, &mut events)?;
        let mut count = 0;
        for event in events.drain(..) {
            match event {
                Event::Datagram { buf, .. } => {
                    count += 1;
                    reactor.io.release(buf);
                }
                // What has no buffer stays in the socket.
                Event::Overrun(_) => {}
                other => bail!("a reactor that only receives says {other:?}"),
            }
        }
        shared.received.fetch_add(count, Ordering::Release);
    }
    Ok(reactor.io.close()?)
}

/// Sends as fast as the receiver takes; the datagrams that it took a second.
fn send(
    size: usize,
    way: Way,
    wait: WaitArgs,
    to: SocketAddrV4,
    window: u64,
    shared: &Shared,
    time: Duration,
) -> anyhow::Result<f64> {
    let mut reactor = Reactor::new(way, wait, vec![to])?;
    let began = Instant::now();
    let (mut sent, mut counted_from) = (0, None);
    let (mut last, mut last_at) = (0, began);
    loop {
        let (received, now) = (shared.received.load(Ordering::Acquire), Instant::now());
        if received > last {
            (last, last_at) = (received, now);
        }
        ensure!(now - last_at < STALL, "of {sent} datagrams {received} arrived, and no more for {STALL:?}");
        match counted_from {
            None if now - began >= WARM_UP => counted_from = Some((received, now)),
            Some((from, since)) if now - since >= time => {
                reactor.io.close()?;
                return Ok((received - from) as f64 / (now - since).as_secs_f64());
            }
            _ => {}
        }
        if sent - received + SEGMENTS_MAX as u64 > window {
            std::thread::yield_now();
            continue;
        }
        send_burst(&mut reactor, size)?;
        sent += SEGMENTS_MAX as u64;
    }
}

/// Sends as many datagrams as a train has. Whether they are one, the reactor knows.
fn send_burst(reactor: &mut Reactor, size: usize) -> anyhow::Result<()> {
    let all: Vec<_> = (0..SEGMENTS_MAX).map(|at| reactor.send.slice(at * size, size)).collect();
    reactor.io.send_peer_train(0, &all);
    let mut events: Vec<Event<()>> = Vec::new();
    let polled: Result<(), IoError> = reactor.io.poll(0, false, &mut events);
    polled?;
    match events.first() {
        None => Ok(()),
        Some(event) => bail!("a reactor that only sends says {event:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Wait;

    #[test]
    fn every_way_is_measured_and_printed_under_its_name() {
        let wait = WaitArgs { wait: Wait::Auto, yield_idle_us: 50, yield_durable_us: 500 };
        let mut packets = Packets::default();
        packets.round(wait, Duration::from_millis(20)).unwrap();
        let rows = packets.rows();
        assert_eq!(rows.len(), SIZES.len() * Way::ALL.len());
        assert!(rows.iter().all(|row| row.datagrams_per_second.median > 1_000.0), "{rows:?}");
        let text = text(&rows);
        let lengths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
        assert_eq!(lengths, [lengths[0]; 3], "columns stand under their headings");
    }
}
