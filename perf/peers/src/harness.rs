//! Our own harness around a raft library: three processes and one client, all over TCP_NODELAY.
//!
//! Client and node speak this: the client says hello with one zero byte, then sends entries, each a length (u32, little
//! endian) and its bytes. The node answers with the number of entries committed so far (u64, little endian): in order, and one
//! answer for all that were committed together. The client polls and yields like Synod's before it blocks.

use crate::load::Target;
use anyhow::{Context, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// How long the client polls and yields before it blocks: the default of `synod-perf bench --client-spin-us`.
const SPIN: Duration = Duration::from_micros(500);
/// The client's first byte.
pub(crate) const CLIENT_HELLO: u8 = 0;
/// Bytes of an answer.
const ANSWER_BYTES: usize = 8;

/// A connection that never blocks, with what was not written and not parsed yet.
pub(crate) struct Link {
    stream: TcpStream,
    received: Vec<u8>,
    parsed: usize,
    to_send: Vec<u8>,
    sent: usize,
}

impl Link {
    /// Around an open connection.
    pub(crate) fn new(stream: TcpStream) -> anyhow::Result<Link> {
        stream.set_nodelay(true).context("TCP_NODELAY")?;
        stream.set_nonblocking(true).context("O_NONBLOCK")?;
        Ok(Link { stream, received: Vec::new(), parsed: 0, to_send: Vec::new(), sent: 0 })
    }

    /// What waits to be sent; append to it, then `flush`.
    pub(crate) fn out(&mut self) -> &mut Vec<u8> {
        &mut self.to_send
    }

    /// Reads once; false if nothing came. The end of the connection is an error.
    pub(crate) fn fill(&mut self) -> anyhow::Result<bool> {
        const CHUNK: usize = 256 << 10;
        self.received.drain(..self.parsed);
        self.parsed = 0;
        let held = self.received.len();
        self.received.resize(held + CHUNK, 0);
        let read = self.stream.read(&mut self.received[held..]);
        self.received.truncate(held + *read.as_ref().unwrap_or(&0));
        match read {
            Ok(0) => Err(std::io::Error::from(ErrorKind::UnexpectedEof)).context("the connection was closed"),
            Ok(_) => Ok(true),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(false),
            Err(error) => Err(error).context("a connection failed"),
        }
    }

    /// The next bytes that came, if there are as many.
    pub(crate) fn take(&mut self, bytes: usize) -> Option<&[u8]> {
        let from = self.parsed;
        let taken = self.received.get(from..from + bytes)?;
        self.parsed += bytes;
        Some(taken)
    }

    /// The next frame: a length and as many bytes.
    #[cfg(any(feature = "raft-rs", test))]
    pub(crate) fn frame(&mut self) -> Option<&[u8]> {
        let length = self.received.get(self.parsed..self.parsed + 4)?;
        let length = u32::from_le_bytes(length.try_into().expect("four bytes")) as usize;
        if self.received.len() - self.parsed - 4 < length {
            return None;
        }
        self.take(4 + length).map(|frame| &frame[4..])
    }

    /// Writes what the socket takes.
    pub(crate) fn flush(&mut self) -> anyhow::Result<()> {
        while self.sent < self.to_send.len() {
            match self.stream.write(&self.to_send[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error).context("a connection failed"),
            }
        }
        self.to_send.clear();
        self.sent = 0;
        Ok(())
    }

    /// What to wait for.
    pub(crate) fn poll_fd(&self) -> PollFd<'_> {
        let writes = if self.to_send.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        PollFd::new(&self.stream, PollFlags::IN | writes)
    }
}

/// Blocks until one of the links is ready, at most `max_wait`.
pub(crate) fn block(links: &[&Link], max_wait: Duration) -> anyhow::Result<()> {
    let mut waits: Vec<PollFd<'_>> = links.iter().map(|link| link.poll_fd()).collect();
    let most = Timespec::try_from(max_wait).context("a wait of this length")?;
    match poll(&mut waits, Some(&most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(errno) => Err(errno).context("poll"),
    }
}

/// The client.
pub(crate) struct Client {
    link: Link,
    entry: Vec<u8>,
    starts: VecDeque<Instant>,
    acknowledged: u64,
}

impl Client {
    /// Connects to the leader.
    pub(crate) fn connect(leader: SocketAddr, size: usize) -> anyhow::Result<Client> {
        let mut link = Link::new(TcpStream::connect(leader).context("cannot connect to the leader")?)?;
        link.out().push(CLIENT_HELLO);
        link.flush()?;
        Ok(Client { link, entry: vec![0; size], starts: VecDeque::new(), acknowledged: 0 })
    }

    fn take_answers(&mut self, ended: &mut Vec<Instant>) -> anyhow::Result<()> {
        while let Some(answer) = self.link.take(ANSWER_BYTES) {
            let committed = u64::from_le_bytes(answer.try_into().expect("eight bytes"));
            let news = committed.checked_sub(self.acknowledged).context("the node counts backwards")?;
            ensure!(news <= self.starts.len() as u64, "more acknowledgements than entries");
            ended.extend(self.starts.drain(..news as usize));
            self.acknowledged = committed;
        }
        Ok(())
    }
}

impl Target for Client {
    fn offer(&mut self, start: Instant) -> anyhow::Result<()> {
        self.entry.fill(start.elapsed().subsec_nanos() as u8);
        let length = self.entry.len() as u32;
        self.link.out().extend_from_slice(&length.to_le_bytes());
        self.link.out().extend_from_slice(&self.entry);
        self.starts.push_back(start);
        Ok(())
    }

    fn poll(&mut self, max_wait: Duration, ended: &mut Vec<Instant>) -> anyhow::Result<()> {
        let start = Instant::now();
        loop {
            self.link.flush()?;
            if self.link.fill()? {
                self.take_answers(ended)?;
            }
            let waited = start.elapsed();
            if !ended.is_empty() || waited >= max_wait {
                return Ok(());
            }
            if waited < SPIN { std::thread::yield_now() } else { block(&[&self.link], max_wait - waited)? }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn one_answer_acknowledges_all_that_were_committed_together() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut client = Client::connect(listener.local_addr().unwrap(), 256).unwrap();
        let mut node = listener.accept().unwrap().0;
        (0..3).for_each(|_| client.offer(Instant::now()).unwrap());
        let mut ended = Vec::new();
        client.poll(Duration::ZERO, &mut ended).unwrap();
        let mut sent = vec![0; 1 + 3 * 260];
        node.read_exact(&mut sent).unwrap();
        assert_eq!((sent[0], &sent[1..5]), (CLIENT_HELLO, &[0, 1, 0, 0][..]));
        assert!(ended.is_empty());
        node.write_all(&2_u64.to_le_bytes()).unwrap();
        client.poll(Duration::from_secs(10), &mut ended).unwrap();
        assert_eq!((ended.len(), client.starts.len()), (2, 1));
        node.write_all(&9_u64.to_le_bytes()).unwrap();
        assert!(client.poll(Duration::from_secs(10), &mut Vec::new()).is_err(), "more than were sent");
    }

    #[test]
    fn a_frame_is_taken_when_it_is_complete() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut link = Link::new(TcpStream::connect(listener.local_addr().unwrap()).unwrap()).unwrap();
        let mut other = listener.accept().unwrap().0;
        let mut receive = |bytes: &[u8]| {
            other.write_all(bytes).unwrap();
            block(&[&link], Duration::from_secs(10)).unwrap();
            assert!(link.fill().unwrap());
            link.frame().map(<[u8]>::to_vec)
        };
        assert_eq!(receive(&[3, 0, 0, 0, 1, 2]), None);
        assert_eq!(receive(&[3, 1]), Some(vec![1, 2, 3]));
        drop(other);
        block(&[&link], Duration::from_secs(10)).unwrap();
        assert!(link.fill().is_err());
    }
}
