//! The skeleton's client: the same reactor, driven by the load generator.

use super::message::{HEAD_BYTES, Kind, parse, write_head};
use super::{Setup, ring_settings};
use crate::load::Target;
use anyhow::{Context, bail, ensure};
use std::net::SocketAddrV4;
use std::time::Duration;
use synod_ring::{Arena, Event, Io, LogWriter, ReceiveMemory, RxBuf, UringIo, port};

/// Bytes for the datagrams between two polls.
const SEND_BYTES: usize = 4 << 20;
/// The client writes no log.
const NO_LOG_BYTES: usize = 4_096;

/// A client of a running skeleton.
pub(crate) struct SkeletonClient {
    io: UringIo<(), ()>,
    arena: Arena,
    /// Bytes of the arena in datagrams that were handed to the reactor or are being filled.
    used: usize,
    /// Entries of the datagram that is being filled.
    filling: usize,
    size: usize,
    per_datagram: usize,
    datagram_bytes: usize,
    acknowledged: u64,
    offered: u64,
    events: Vec<Event<()>>,
}

impl SkeletonClient {
    pub(super) fn connect(setup: &Setup, leader: SocketAddrV4) -> anyhow::Result<SkeletonClient> {
        let arena = Arena::new(SEND_BYTES).context("cannot map the client's memory")?;
        arena.populate().context("cannot fill the client's memory")?;
        let no_log = Arena::new(NO_LOG_BYTES).context("cannot map the client's memory")?;
        let (core, _house) = port(1)?;
        let settings = ring_settings(vec![leader], setup.shape.datagram_bytes, setup.wait.mode(), LogWriter::Ring);
        let receive = ReceiveMemory::new(&settings)?;
        Ok(SkeletonClient {
            io: UringIo::new(settings, receive, &no_log, &arena, core)?,
            arena,
            used: 0,
            filling: 0,
            size: setup.shape.size,
            per_datagram: setup.shape.per_datagram(),
            datagram_bytes: setup.shape.datagram_bytes,
            acknowledged: 0,
            offered: 0,
            events: Vec::with_capacity(1_024),
        })
    }

    /// Where the replies go.
    pub(super) fn address(&self) -> SocketAddrV4 {
        self.io.peers_address()
    }

    /// What its reactor did.
    pub(crate) fn work(&self) -> super::Work {
        self.io.stats().into()
    }

    fn close_datagram(&mut self) {
        if self.filling == 0 {
            return;
        }
        let len = HEAD_BYTES + self.filling * self.size;
        let first = self.offered - self.filling as u64;
        write_head(self.arena.get_mut(self.used, HEAD_BYTES), Kind::Request, 0, first, self.filling, self.size);
        self.io.send_peer(0, self.arena.slice(self.used, len));
        self.used += len;
        self.filling = 0;
    }

    fn on_datagram(&mut self, buf: &RxBuf) -> anyhow::Result<u64> {
        let message = parse(self.io.datagram(buf))?;
        ensure!(message.kind == Kind::Reply, "the client was sent a {:?}", message.kind);
        ensure!(message.first == self.acknowledged, "a reply was lost: {} of {}", message.first, self.acknowledged);
        self.acknowledged += message.entries as u64;
        Ok(message.entries as u64)
    }
}

impl Target for SkeletonClient {
    fn offer(&mut self) -> anyhow::Result<bool> {
        if self.used + self.datagram_bytes > self.arena.len() {
            return Ok(false);
        }
        let at = self.used + HEAD_BYTES + self.filling * self.size;
        self.arena.get_mut(at, self.size).fill(self.offered as u8);
        self.filling += 1;
        self.offered += 1;
        if self.filling == self.per_datagram {
            self.close_datagram();
        }
        Ok(true)
    }

    fn poll(&mut self, max_wait: Duration) -> anyhow::Result<u64> {
        self.close_datagram();
        let waits = self.offered > self.acknowledged;
        let deadline_ns = self.io.now_ns() + max_wait.as_nanos() as u64;
        let mut events = std::mem::take(&mut self.events);
        self.io.poll(deadline_ns, waits, &mut events)?;
        self.used = 0;
        let mut entries = 0;
        for event in events.drain(..) {
            match event {
                Event::Datagram { buf, .. } => {
                    let result = self.on_datagram(&buf);
                    self.io.release(buf);
                    entries += result?;
                }
                Event::Overrun(_) => bail!("the client's receive buffers ran out: choose fewer entries in flight"),
                Event::SendFailed(errno) => {
                    return Err(std::io::Error::from_raw_os_error(errno)).context("a datagram was refused");
                }
                Event::Written { .. } | Event::Done(()) | Event::Woken => {}
            }
        }
        self.events = events;
        Ok(entries)
    }
}
