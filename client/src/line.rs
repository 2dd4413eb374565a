//! What the drivers that have one request under way share: a socket, and the datagram that it has not taken yet. Used by
//! [`crate::Reader`] and [`crate::Questions`]; a session sends trains ([`crate::train`]).

use crate::socket::{RECEIVE_BYTES, Sent, Socket};
use std::io;
use std::net::SocketAddrV4;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub(crate) struct Line {
    socket: Socket,
    incoming: Box<[u8]>,
    outgoing: Box<[u8]>,
    unsent: Option<(SocketAddrV4, usize)>,
}

impl Line {
    /// No request is longer than `request_bytes`.
    pub(crate) fn new(spin: Duration, request_bytes: usize) -> io::Result<Line> {
        Ok(Line {
            socket: Socket::bind(spin)?,
            incoming: vec![0; RECEIVE_BYTES].into(),
            outgoing: vec![0; request_bytes].into(),
            unsent: None,
        })
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Sends what waits, or else what `next` writes and says: where it goes, and its length. What is lost here is repeated like
    /// what is lost on the way.
    pub(crate) fn transmit(
        &mut self,
        next: impl FnOnce(u64, &mut [u8]) -> Option<(SocketAddrV4, usize)>,
    ) -> io::Result<()> {
        if self.unsent.is_none() {
            self.unsent = next(self.socket.now_ns(), &mut self.outgoing);
        }
        if let Some((to, length)) = self.unsent {
            match self.socket.send(&self.outgoing[..length], length, to)? {
                Sent::Taken(_) | Sent::Lost(_) => self.unsent = None,
                Sent::Full => {}
            }
        }
        Ok(())
    }

    /// As [`Socket::receive_batch`].
    pub(crate) fn receive(&mut self, take: impl FnMut(u64, SocketAddrV4, &[u8]) -> bool) -> io::Result<usize> {
        self.socket.receive_batch(&mut self.incoming, take)
    }

    /// As [`Socket::wait`]; also for room to send, where something waits for that.
    pub(crate) fn wait(&self, now_ns: u64, since_ns: u64, until_ns: u64) -> io::Result<()> {
        self.socket.wait(now_ns, since_ns, until_ns, self.unsent.is_some())
    }
}
