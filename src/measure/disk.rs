//! Durable writes as the log makes them: through the product's reactor, which waits as the product does, by the ring or by
//! log-writer threads, a fixed number of them in flight. Called by `synod iotune` and by `synod-perf floor`.

use super::files::LOG_BYTES;
use anyhow::{Context, bail};
use std::fs::File;
use std::sync::Arc;
use std::time::Duration;
use synod_ring::{Arena, Event, FileSlot, Io, LogWriter, ReceiveMemory, Settings, Stats, UringIo, WaitMode, port};

/// How much is written at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// The bytes of one write, a multiple of the disk's block.
    pub block_bytes: usize,
    /// Writes in flight.
    pub depth: usize,
}

/// A file of [`LOG_BYTES`] that is written from its beginning to its end, again and again.
pub struct Disk {
    io: UringIo<(), ()>,
    arena: Arena,
    shape: Shape,
    offset: u64,
    in_flight: usize,
    events: Vec<Event<()>>,
}

impl Disk {
    /// Writes to `file`, opened for direct writes.
    pub fn open(file: File, shape: Shape, writer: LogWriter, wait: WaitMode) -> anyhow::Result<Disk> {
        let (mut log, send) = (Arena::new(shape.block_bytes)?, Arena::new(shape.block_bytes)?);
        fill(log.get_mut(0, shape.block_bytes));
        let (core, _house) = port(1)?;
        let any = "127.0.0.1:0".parse()?;
        let mut settings = Settings {
            peers_listen: any,
            clients_listen: any,
            peers: Vec::new(),
            rx_buffers_peers: 16,
            rx_buffers_clients: 16,
            rx_buffer_bytes: 64,
            sq_entries: 16,
            cq_entries: 0,
            socket_buffer_bytes: 1 << 16,
            wait,
            dont_fragment: false,
            log_writer: writer,
            log_threads: shape.depth,
            napi_busy_poll_us: 0,
            segmentation: false,
            receive_offload: false,
            max_events: 16,
        };
        settings.cq_entries = settings.cq_entries_min();
        let receive = ReceiveMemory::new(&settings)?;
        let mut io = UringIo::new(settings, receive, &log, &send, core)?;
        io.attach(FileSlot(0), Arc::new(file))?;
        Ok(Disk { io, arena: log, shape, offset: 0, in_flight: 0, events: Vec::new() })
    }

    /// Begins the next write; false if as many are in flight as may be.
    pub fn begin(&mut self, token: u64) -> bool {
        if self.in_flight == self.shape.depth {
            return false;
        }
        let bytes = self.shape.block_bytes;
        if self.offset + bytes as u64 > LOG_BYTES {
            self.offset = 0;
        }
        self.io.write(FileSlot(0), self.offset, self.arena.slice(0, bytes), token);
        self.offset += bytes as u64;
        self.in_flight += 1;
        true
    }

    /// Submits what was begun, waits for an end for at most `max_wait`, and adds the tokens of the writes that ended.
    pub fn reap(&mut self, max_wait: Duration, ended: &mut Vec<u64>) -> anyhow::Result<()> {
        let eager = self.in_flight > 0;
        self.io.poll(self.io.now_ns() + max_wait.as_nanos() as u64, eager, &mut self.events)?;
        for event in self.events.drain(..) {
            match event {
                Event::Written { token, result: Ok(bytes) } if bytes == self.shape.block_bytes => ended.push(token),
                Event::Written { result: Ok(bytes), .. } => bail!("a write ended after {bytes} bytes"),
                Event::Written { result: Err(errno), .. } => {
                    return Err(std::io::Error::from_raw_os_error(errno)).context("a write failed");
                }
                other => bail!("a reactor that only writes says {other:?}"),
            }
            self.in_flight -= 1;
        }
        Ok(())
    }

    /// Writes that have not ended.
    pub fn in_flight(&self) -> usize {
        self.in_flight
    }

    /// What the reactor counted.
    pub fn stats(&self) -> Stats {
        self.io.stats()
    }

    /// Ends it in order, its threads and writes with it.
    pub fn close(self) -> anyhow::Result<()> {
        self.io.close().context("the reactor did not close cleanly")
    }
}

/// Bytes that no device can compress, or tell to be zeros.
pub fn fill(bytes: &mut [u8]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for word in bytes.chunks_mut(8) {
        // xorshift64
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        word.copy_from_slice(&state.to_le_bytes()[..word.len()]);
    }
}
