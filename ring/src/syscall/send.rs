//! What one socket is to send: datagrams and trains that were queued, all in one `sendmmsg`.
//!
//! A message points to bytes of an arena, which do not change until the call (the rule of `Io`), and to tables here. Called by: the
//! reactor. May touch: its own tables.

use crate::socket::{ADDRESS_BYTES, sockaddr};
use crate::trains::Trains;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::RawFd;

pub(super) struct Sender {
    /// The first points into the other two, and into the trains, which are never moved.
    messages: Box<[libc::mmsghdr]>,
    pieces: Box<[libc::iovec]>,
    names: Box<[libc::sockaddr_in]>,
    trains: Trains,
    queued: usize,
}

impl Sender {
    /// With room for so many messages.
    pub(super) fn new(room: usize) -> Sender {
        // SAFETY: all bytes zero is a valid mmsghdr, and a valid iovec.
        let empty = || unsafe { std::mem::zeroed::<(libc::mmsghdr, libc::iovec)>() };
        let nowhere = sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
        Sender {
            messages: (0..room).map(|_| empty().0).collect(),
            pieces: (0..room).map(|_| empty().1).collect(),
            names: vec![nowhere; room].into_boxed_slice(),
            trains: Trains::new(),
            queued: 0,
        }
    }

    /// Whether the next message must wait until those that are queued were sent.
    pub(super) fn is_full(&self) -> bool {
        self.queued == self.messages.len()
    }

    /// The same for a train.
    pub(super) fn is_full_for_train(&self) -> bool {
        self.is_full() || self.trains.is_full()
    }

    /// Queues a datagram; there is room.
    pub(super) fn queue(&mut self, to: libc::sockaddr_in, address: *const u8, len: u32) {
        let place = self.queued;
        self.names[place] = to;
        self.pieces[place] = libc::iovec { iov_base: address.cast_mut().cast(), iov_len: len as usize };
        let header = &mut self.messages[place].msg_hdr;
        (header.msg_name, header.msg_namelen) = ((&raw mut self.names[place]).cast(), ADDRESS_BYTES);
        (header.msg_iov, header.msg_iovlen) = (&raw mut self.pieces[place], 1);
        (header.msg_control, header.msg_controllen) = (std::ptr::null_mut(), 0);
        self.queued += 1;
    }

    /// Queues a train; there is room.
    pub(super) fn queue_train(&mut self, to: libc::sockaddr_in, pieces: impl Iterator<Item = (*const u8, u32)>) {
        let place = self.queued;
        self.names[place] = to;
        let message = self.trains.couple(&raw const self.names[place], pieces);
        // SAFETY: the train that was just put together, in the table of trains.
        let header = unsafe { *message };
        self.messages[place].msg_hdr = header;
        self.queued += 1;
    }

    /// Sends all that is queued, and returns how many calls that took. `failed` is told the errno of each message that the kernel
    /// refused, and whether it was a train; those behind it are sent all the same.
    pub(super) fn send(&mut self, socket: RawFd, mut failed: impl FnMut(i32, bool)) -> u64 {
        let (mut at, mut calls) = (0, 0);
        while at < self.queued {
            let messages = &mut self.messages[at..self.queued];
            calls += 1;
            // SAFETY: the messages are those that were queued; what they point to lives and does not change, see the module.
            let sent = unsafe {
                libc::sendmmsg(socket, messages.as_mut_ptr(), messages.len() as libc::c_uint, libc::MSG_DONTWAIT)
            };
            match usize::try_from(sent) {
                Ok(sent) if sent > 0 => at += sent,
                // The first of them; an error of a later one shows when it is the first.
                _ => {
                    failed(super::last_errno(), !messages[0].msg_hdr.msg_control.is_null());
                    at += 1;
                }
            }
        }
        self.queued = 0;
        self.trains.clear();
        calls
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{SocketAddr, UdpSocket};
    use std::os::fd::AsRawFd;

    #[test]
    fn a_message_that_is_refused_keeps_no_other_back() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let SocketAddr::V4(to) = receiver.local_addr().unwrap() else { panic!("not IPv4") };
        let too_long = vec![0u8; 65_508];
        let bytes = [1u8, 2, 3, 4];
        let mut sender = Sender::new(8);
        for round in 0..2 {
            for (at, byte) in bytes.iter().enumerate() {
                sender.queue(sockaddr(to), byte, 1);
                if at % 2 == round {
                    sender.queue(sockaddr(to), too_long.as_ptr(), too_long.len() as u32);
                }
            }
            let mut failures = Vec::new();
            let calls = sender.send(socket.as_raw_fd(), |errno, train| failures.push((errno, train)));
            assert_eq!(failures, [(libc::EMSGSIZE, false); 2]);
            assert!(calls <= 5, "one, and two more for each refusal: {calls}");
            for byte in bytes {
                let mut got = [0];
                assert_eq!(receiver.recv(&mut got).unwrap(), 1);
                assert_eq!(got[0], byte);
            }
        }
        assert_eq!(sender.send(socket.as_raw_fd(), |_, _| panic!("nothing is queued")), 0);
    }

    #[test]
    fn a_train_and_a_datagram_share_a_call_and_the_bound() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
        let SocketAddr::V4(to) = receiver.local_addr().unwrap() else { panic!("not IPv4") };
        let bytes = *b"aaabbbcd";
        let mut sender = Sender::new(2);
        let pieces = [(0, 3), (3, 3), (6, 1)].map(|(at, len)| (bytes[at..].as_ptr(), len));
        sender.queue_train(sockaddr(to), pieces.into_iter());
        assert!(!sender.is_full_for_train());
        sender.queue(sockaddr(to), bytes[7..].as_ptr(), 1);
        assert!(sender.is_full() && sender.is_full_for_train());
        assert_eq!(sender.send(socket.as_raw_fd(), |errno, _| panic!("{errno}")), 1);
        for expected in [&b"aaa"[..], b"bbb", b"c", b"d"] {
            let mut got = [0; 16];
            let len = receiver.recv(&mut got).unwrap();
            assert_eq!(&got[..len], expected);
        }
    }
}
