//! What one socket receives: many datagrams in one `recvmmsg`, each into a buffer of its own.
//!
//! There is one message for each buffer, bound to it once and for all, so that a call needs a run of free buffers and no other
//! preparation than what the last call used up. The lowest free run is taken: as the shard gives its buffers back within its turn, the
//! same few are used again and again, and stay in the cache. Called by: the reactor. May touch: its buffers and its table.

use crate::arena::Mapping;
use crate::buffers::{Buffers, Piece};
use crate::settings::Settings;
use crate::socket::{ADDRESS_BYTES, CONTROL_BYTES, address_of, segment_of, sockaddr};
use crate::{RxBuf, Socket};
use std::collections::VecDeque;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::Range;
use std::os::fd::RawFd;
use std::sync::Arc;

/// What the kernel writes beside a datagram.
#[derive(Clone)]
#[repr(C, align(8))]
struct Control([u8; CONTROL_BYTES]);

pub(super) struct Receiver {
    buffers: Buffers,
    /// By buffer; the first points into the other three, which are never moved.
    messages: Box<[libc::mmsghdr]>,
    _pieces: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in]>,
    controls: Box<[Control]>,
    /// What was received and not handed out yet, in order; at most one for each buffer.
    ready: VecDeque<Piece>,
    /// All buffers are held, and it was told. Nothing is received until one is free.
    ran_out: bool,
}

impl Receiver {
    pub(super) fn new(socket: Socket, settings: &Settings, offload: bool, memory: Arc<Mapping>) -> Receiver {
        let buffers = Buffers::new(socket, settings, offload, memory);
        let count = usize::from(buffers.count);
        let nowhere = sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        let mut names = vec![nowhere; count].into_boxed_slice();
        let mut controls = vec![Control([0; CONTROL_BYTES]); count].into_boxed_slice();
        let piece = |id| libc::iovec {
            // SAFETY: the start of a buffer's datagrams lies in the buffer.
            iov_base: unsafe { buffers.address(id).add(buffers.start) }.cast(),
            iov_len: buffers.stride - buffers.start,
        };
        let mut pieces: Box<[libc::iovec]> = (0..buffers.count).map(piece).collect();
        let message = |at: usize| {
            // SAFETY: all bytes zero is a valid mmsghdr.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            let header = &mut message.msg_hdr;
            (header.msg_iov, header.msg_iovlen) = (&raw mut pieces[at], 1);
            if socket == Socket::Clients {
                header.msg_name = (&raw mut names[at]).cast();
            }
            if offload {
                header.msg_control = (&raw mut controls[at]).cast();
            }
            restore(header);
            message
        };
        let messages = (0..count).map(message).collect();
        let ready = VecDeque::with_capacity(count);
        Receiver { buffers, messages, _pieces: pieces, names, controls, ready, ran_out: false }
    }

    /// Receives what waits in the socket, `most` messages at most and as many as there are free buffers in a row; how many
    /// of them hold several datagrams.
    pub(super) fn receive(&mut self, socket: RawFd, most: usize) -> Result<u64, i32> {
        let run = self.free_run(most);
        let messages = &mut self.messages[run.clone()];
        // SAFETY: each message points to tables that are not moved and to a buffer that nobody holds; their number is right.
        let got = unsafe {
            libc::recvmmsg(
                socket,
                messages.as_mut_ptr(),
                messages.len() as libc::c_uint,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let Ok(got) = usize::try_from(got) else { return Err(super::last_errno()) };
        Ok(run.take(got).map(|id| u64::from(self.take(id))).sum())
    }

    /// The lowest free buffers that lie in a row, `most` at most.
    fn free_run(&self, most: usize) -> Range<usize> {
        let count = usize::from(self.buffers.count);
        if self.buffers.held() == 0 {
            return 0..most.min(count);
        }
        let is_free = |id: &usize| !self.buffers.is_held(*id as u16);
        let first = (0..count).find(is_free).unwrap_or(count);
        first..first + (first..count).take(most).take_while(is_free).count()
    }

    /// The kernel filled this one. Says whether with several datagrams.
    fn take(&mut self, id: usize) -> bool {
        let message = &mut self.messages[id];
        let end = self.buffers.start + message.msg_len as usize;
        let has_control = !message.msg_hdr.msg_control.is_null() && message.msg_hdr.msg_controllen > 0;
        let segment = has_control.then(|| segment_of(&self.controls[id].0)).flatten();
        let from = (self.buffers.socket == Socket::Clients).then(|| address_of(&self.names[id]));
        restore(&mut message.msg_hdr);
        let piece = self.buffers.filled(id as u16, end, segment, from);
        let is_train = piece.datagrams > 1;
        self.ready.push_back(piece);
        is_train
    }

    /// The next piece that was received.
    pub(super) fn next_ready(&mut self) -> Option<Piece> {
        self.ready.pop_front()
    }

    /// Puts back what is left of a piece.
    pub(super) fn put_back(&mut self, piece: Piece) {
        self.ready.push_front(piece);
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn buffers(&self) -> &Buffers {
        &self.buffers
    }

    /// Whether the kernel has a buffer to receive into.
    pub(super) fn has_room(&self) -> bool {
        self.buffers.held() < self.buffers.count
    }

    /// Whether that there is none was told.
    pub(super) fn ran_out(&self) -> bool {
        self.ran_out
    }

    /// It is told now.
    pub(super) fn tell_that_it_ran_out(&mut self) {
        self.ran_out = true;
    }

    pub(super) fn release(&mut self, buf: &RxBuf) {
        self.ran_out &= !self.buffers.release(buf);
    }
}

/// What a call uses up of a message.
fn restore(header: &mut libc::msghdr) {
    header.msg_namelen = if header.msg_name.is_null() { 0 } else { ADDRESS_BYTES };
    header.msg_controllen = if header.msg_control.is_null() { 0 } else { CONTROL_BYTES as _ };
    header.msg_flags = 0;
}

/// Looks whether a datagram waits in the socket; it stays there. EAGAIN: none does.
pub(super) fn look(socket: RawFd) -> Result<(), i32> {
    // SAFETY: nothing is written to a buffer of no bytes.
    let peeked = unsafe { libc::recv(socket, std::ptr::null_mut(), 0, libc::MSG_PEEK | libc::MSG_DONTWAIT) };
    if peeked >= 0 { Ok(()) } else { Err(super::last_errno()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::buffers::tests::{all_of, memory, settings};
    use std::net::UdpSocket;
    use std::os::fd::AsRawFd;

    fn pair() -> (UdpSocket, UdpSocket) {
        let socket = || UdpSocket::bind("127.0.0.1:0").unwrap();
        let (from, to) = (socket(), socket());
        from.connect(to.local_addr().unwrap()).unwrap();
        (from, to)
    }

    #[test]
    fn the_lowest_free_buffers_are_used_and_those_that_are_held_are_not() {
        let (from, to) = pair();
        let [_, clients] = memory(false);
        let mut receiver = Receiver::new(Socket::Clients, &settings(false), false, clients);
        let mut held = Vec::new();
        for byte in 0..4u8 {
            from.send(&[byte]).unwrap();
            assert_eq!(receiver.receive(to.as_raw_fd(), 8), Ok(0));
            let piece = receiver.next_ready().unwrap();
            assert_eq!(piece.from.map(std::net::SocketAddr::V4), Some(from.local_addr().unwrap()));
            held.extend(all_of(receiver.buffers(), piece));
        }
        assert_eq!(held.iter().map(|buf| buf.id).collect::<Vec<_>>(), [0, 1, 2, 3]);
        assert!(!receiver.has_room());
        assert_eq!(receiver.free_run(8), 4..4);
        receiver.tell_that_it_ran_out();
        receiver.release(&held.remove(1));
        assert!(receiver.has_room() && !receiver.ran_out());
        receiver.release(&held.remove(1));
        assert_eq!((receiver.free_run(8), receiver.free_run(1)), (1..3, 1..2));
        receiver.release(&held.remove(1));
        assert_eq!(receiver.free_run(8), 1..4);
        assert_eq!(receiver.buffers().datagram(&held[0]), [0], "nobody wrote over it");
    }

    #[test]
    fn what_waits_is_seen_without_being_taken() {
        let (from, to) = pair();
        assert_eq!(look(to.as_raw_fd()), Err(libc::EAGAIN));
        from.send(&[]).unwrap();
        assert_eq!((look(to.as_raw_fd()), look(to.as_raw_fd())), (Ok(()), Ok(())));
    }
}
