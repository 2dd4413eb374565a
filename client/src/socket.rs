//! A UDP socket that never blocks, a monotonic clock, and the wait for either. The only module of the crate that makes
//! system calls; used by the drivers.
//!
//! Several datagrams pass between it and the kernel at once where they may: out as a train ([`crate::train`]), in as what the
//! kernel received together (UDP receive offload). What is received is the same either way.

use crate::error::Unavailable;
use crate::options::nanos;
use nix::cmsg_space;
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, SockaddrIn, recvmsg, sendmsg, setsockopt, sockopt,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};
use synod_wire::client::Refusal;

/// Datagrams received before sending and events get their turn again; what came together with the last is over it.
pub(crate) const RECEIVE_BATCH: usize = 64;
/// As long as any IP packet, so that neither a datagram is cut nor what came together.
pub(crate) const RECEIVE_BYTES: usize = 1 << 16;

/// What became of datagrams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel took so many bytes of them, whole datagrams.
    Taken(usize),
    /// The socket's buffer is full: wait until it is writable.
    Full,
    /// The kernel refused so many bytes of them as the network may lose them: a retransmission will follow.
    Lost(usize),
}

/// Datagrams that came together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Received {
    bytes: usize,
    /// The length of each but the last.
    segment: usize,
    pub(crate) from: SocketAddrV4,
}

impl Received {
    /// The datagrams, in the buffer that they were received into.
    pub(crate) fn datagrams<'a>(&self, buffer: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        buffer[..self.bytes].chunks(self.segment)
    }

    /// How many there are; an empty one is no datagram to anybody.
    fn count(&self) -> usize {
        self.bytes.div_ceil(self.segment)
    }
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    udp: UdpSocket,
    epoch: Instant,
    spin_ns: u64,
    send_error: Option<io::Error>,
    /// Trains leave in one call, until the kernel says that a path cannot.
    segmentation: bool,
    /// Room for the control message of a receive.
    control: Vec<u8>,
}

impl Socket {
    pub(crate) fn bind(spin: Duration) -> io::Result<Socket> {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        udp.set_nonblocking(true)?;
        // A kernel that refuses hands datagrams out one by one.
        let _refused = setsockopt(&udp, sockopt::UdpGroSegment, &true);
        let (spin_ns, control) = (nanos(spin), cmsg_space!(i32));
        Ok(Socket { udp, epoch: Instant::now(), spin_ns, send_error: None, segmentation: true, control })
    }

    /// Monotonic nanoseconds.
    pub(crate) fn now_ns(&self) -> u64 {
        // 2^64 ns are 584 years.
        self.epoch.elapsed().as_nanos() as u64
    }

    /// The last refusal of the kernel to send, for error texts.
    pub(crate) fn send_error(&self) -> Option<String> {
        self.send_error.as_ref().map(ToString::to_string)
    }

    /// What was heard of so many members while a caller waited since `since_ns`, for error texts.
    pub(crate) fn unavailable(
        &self,
        since_ns: u64,
        members: usize,
        last_contact_ns: Option<u64>,
        last_refusal: Option<(SocketAddrV4, Refusal)>,
    ) -> Unavailable {
        Unavailable {
            members,
            waited: Duration::from_nanos(self.now_ns().saturating_sub(since_ns)),
            answered: last_contact_ns.is_some_and(|at_ns| at_ns >= since_ns),
            last_refusal,
            send_error: self.send_error(),
        }
    }

    /// Sends datagrams that are as long as `segment`, but for the last: all of them, or the first. A route or a firewall that
    /// refuses them is a loss: other members may be reachable, and this one later. Anything else is the caller's to see.
    pub(crate) fn send(&mut self, datagrams: &[u8], segment: usize, to: SocketAddrV4) -> io::Result<Sent> {
        loop {
            let is_train = self.segmentation && datagrams.len() > segment;
            let bytes = if is_train { datagrams.len() } else { segment.min(datagrams.len()) };
            let sent = match is_train {
                true => self.send_train(datagrams, segment, to),
                false => self.udp.send_to(&datagrams[..bytes], to),
            };
            match sent {
                Ok(_) => return Ok(Sent::Taken(bytes)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Full),
                Err(error) if is_loss(&error) => {
                    self.send_error = Some(error);
                    return Ok(Sent::Lost(bytes));
                }
                // This path cuts up no trains (no checksum offload, a smaller MTU): one by one from now on.
                Err(error) if is_train && is_no_train(&error) => self.segmentation = false,
                Err(error) => return Err(error),
            }
        }
    }

    fn send_train(&self, datagrams: &[u8], segment: usize, to: SocketAddrV4) -> io::Result<usize> {
        let segment = u16::try_from(segment).expect("a UDP datagram is shorter than 64 KiB");
        let control = [ControlMessage::UdpGsoSegments(&segment)];
        let pieces = [IoSlice::new(datagrams)];
        let to = SockaddrIn::from(to);
        Ok(sendmsg(self.udp.as_raw_fd(), &pieces, &control, MsgFlags::empty(), Some(&to))?)
    }

    /// Hands datagrams on with the time and their sender, until no more are there, a batch of them was, or `take` says that it
    /// awaits no more: to be told that none are there costs a system call. How many there were.
    pub(crate) fn receive_batch(
        &mut self,
        buffer: &mut [u8],
        mut take: impl FnMut(u64, SocketAddrV4, &[u8]) -> bool,
    ) -> io::Result<usize> {
        let (mut datagrams, mut awaits) = (0, true);
        while awaits
            && datagrams < RECEIVE_BATCH
            && let Some(received) = self.receive(buffer)?
        {
            let now_ns = self.now_ns();
            for datagram in received.datagrams(buffer) {
                awaits = take(now_ns, received.from, datagram);
            }
            // An empty one counts as well, so that the loop ends.
            datagrams += received.count().max(1);
        }
        Ok(datagrams)
    }

    /// The next datagrams, if any are there.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<Received>> {
        loop {
            match self.receive_once(buffer) {
                Ok(received) => return Ok(Some(received)),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // An ICMP answer to an earlier datagram: that one is lost, and the next call receives.
                Err(error) if is_loss(&error) => self.send_error = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    fn receive_once(&mut self, buffer: &mut [u8]) -> io::Result<Received> {
        let mut pieces = [IoSliceMut::new(buffer)];
        let fd = self.udp.as_raw_fd();
        let message = recvmsg::<SockaddrIn>(fd, &mut pieces, Some(&mut self.control), MsgFlags::empty())?;
        let told = message.cmsgs()?.find_map(|control| match control {
            ControlMessageOwned::UdpGroSegments(bytes) => usize::try_from(bytes).ok().filter(|bytes| *bytes > 0),
            _ => None,
        });
        let from = message.address.expect("an IPv4 socket received without an address");
        Ok(Received { bytes: message.bytes, segment: told.unwrap_or(message.bytes.max(1)), from: from.into() })
    }

    /// Waits until a datagram can be received (or sent, if `writable`) or the clock, which showed `now_ns`, shows `until_ns`. A
    /// socket that spins only yields as long as the caller's wait, begun at `since_ns`, is younger than that: the caller tries
    /// to receive again, which is cheaper than a wake-up.
    pub(crate) fn wait(&self, now_ns: u64, since_ns: u64, until_ns: u64, writable: bool) -> io::Result<()> {
        if now_ns >= until_ns {
            return Ok(());
        }
        if now_ns < since_ns.saturating_add(self.spin_ns) {
            std::thread::yield_now();
            return Ok(());
        }
        self.poll(Duration::from_nanos(until_ns - now_ns), writable)
    }

    fn poll(&self, wait: Duration, writable: bool) -> io::Result<()> {
        let events = if writable { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut fds = [PollFd::new(&self.udp, events)];
        // A day and no longer: callers come back with a new deadline, and ppoll refuses absurd ones.
        let wait = wait.min(Duration::from_secs(86_400));
        let timeout = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: i64::from(wait.subsec_nanos()) };
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) => Ok(()),
            // A signal: the caller's loop looks at the clock and comes back.
            Err(Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The local address, for tests.
    #[cfg(test)]
    pub(crate) fn local_port(&self) -> u16 {
        self.udp.local_addr().map(|address| address.port()).expect("a bound socket has an address")
    }
}

/// Whether the kernel's refusal is one of the network's: no route, no host, a full queue, a firewall.
fn is_loss(error: &io::Error) -> bool {
    let losses = [
        Errno::NETUNREACH,
        Errno::HOSTUNREACH,
        Errno::HOSTDOWN,
        Errno::NETDOWN,
        Errno::NOBUFS,
        Errno::CONNREFUSED,
        Errno::PERM,
    ];
    error.raw_os_error().is_some_and(|code| losses.iter().any(|loss| loss.raw_os_error() == code))
}

/// Whether the kernel says that it cannot cut up a train on its way to this member.
fn is_no_train(error: &io::Error) -> bool {
    let refusals = [Errno::IO, Errno::INVAL, Errno::MSGSIZE, Errno::OPNOTSUPP];
    error.raw_os_error().is_some_and(|code| refusals.iter().any(|refusal| refusal.raw_os_error() == code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_a_datagram_or_at_the_time() {
        let mut socket = Socket::bind(Duration::ZERO).unwrap();
        let mut buffer = [0; 16];
        let start_ns = socket.now_ns();
        socket.wait(start_ns, start_ns, start_ns + 3_000_000, false).unwrap();
        assert!(socket.now_ns() >= start_ns + 3_000_000);
        assert_eq!(socket.receive(&mut buffer).unwrap(), None);
        let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_port());
        assert_eq!(socket.send(b"hello", 5, own).unwrap(), Sent::Taken(5));
        socket.wait(start_ns, start_ns, u64::MAX, false).unwrap();
        assert_eq!(socket.receive(&mut buffer).unwrap(), Some(Received { bytes: 5, segment: 5, from: own }));
    }

    /// Receives until so many datagrams came: each, and how many calls brought them.
    fn take(socket: &mut Socket, count: usize) -> (Vec<Vec<u8>>, usize) {
        let mut buffer = vec![0; RECEIVE_BYTES];
        let (mut came, mut calls) = (Vec::new(), 0);
        while came.len() < count {
            socket.wait(0, 0, u64::MAX, false).unwrap();
            let Some(received) = socket.receive(&mut buffer).unwrap() else { continue };
            assert_eq!(received.count(), received.datagrams(&buffer).count());
            came.extend(received.datagrams(&buffer).map(<[u8]>::to_vec));
            calls += 1;
        }
        (came, calls)
    }

    #[test]
    fn a_train_leaves_in_one_call_and_arrives_as_its_datagrams() {
        let mut receiver = Socket::bind(Duration::ZERO).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, receiver.local_port());
        let mut sender = Socket::bind(Duration::ZERO).unwrap();
        let bytes: Vec<u8> = (0..44 * 1_472 - 100).map(|at| (at % 251) as u8).collect();
        assert_eq!(sender.send(&bytes, 1_472, to).unwrap(), Sent::Taken(bytes.len()));
        let (came, calls) = take(&mut receiver, 44);
        assert_eq!(came, bytes.chunks(1_472).map(<[u8]>::to_vec).collect::<Vec<_>>());
        assert_eq!(calls, 1, "and is received in one");
        // Who knows nothing of trains receives the same.
        let plain = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, plain.local_addr().unwrap().port());
        assert_eq!(sender.send(&bytes[..2_500], 1_000, to).unwrap(), Sent::Taken(2_500));
        for expected in bytes[..2_500].chunks(1_000) {
            let mut buffer = [0; 2_000];
            let length = plain.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], expected);
        }
    }

    #[test]
    fn what_comes_when_nothing_is_awaited_stays_for_the_next_call() {
        let mut socket = Socket::bind(Duration::ZERO).unwrap();
        let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_port());
        // Of different lengths, so that the kernel hands them out one by one.
        for datagram in [&b"one"[..], b"second", b"the third"] {
            assert_eq!(socket.send(datagram, datagram.len(), own).unwrap(), Sent::Taken(datagram.len()));
        }
        let mut buffer = vec![0; RECEIVE_BYTES];
        let mut came = Vec::new();
        let mut receive = |most: usize| {
            let taken = socket.receive_batch(&mut buffer, |_, from, datagram| {
                assert_eq!(from, own);
                came.push(datagram.len());
                came.len() < most
            });
            (taken.unwrap(), came.clone())
        };
        assert_eq!(receive(1), (1, vec![3]));
        assert_eq!(receive(9), (2, vec![3, 6, 9]));
        assert_eq!(receive(9).0, 0);
    }

    #[test]
    fn a_path_that_takes_no_trains_gets_single_datagrams_from_then_on() {
        let mut sender = Socket::bind(Duration::ZERO).unwrap();
        let mut receiver = Socket::bind(Duration::ZERO).unwrap();
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, receiver.local_port());
        // A device without the offload refuses with EIO, which none here does; EINVAL means the same.
        assert_eq!(sender.send(&[7; 300], 1, to).unwrap(), Sent::Taken(1), "more segments than a kernel takes");
        assert!(!sender.segmentation);
        assert_eq!(sender.send(&[7; 300], 200, to).unwrap(), Sent::Taken(200));
        assert_eq!(sender.send(&[7; 100], 200, to).unwrap(), Sent::Taken(100));
        let (came, _) = take(&mut receiver, 3);
        assert_eq!(came.iter().map(Vec::len).collect::<Vec<_>>(), [1, 200, 100]);
    }

    #[test]
    fn a_spinning_socket_comes_back_to_try_again_and_blocks_when_the_spin_is_over() {
        let socket = Socket::bind(Duration::from_secs(3600)).unwrap();
        let now_ns = socket.now_ns();
        socket.wait(now_ns, now_ns, u64::MAX, false).unwrap();
        let socket = Socket::bind(Duration::from_nanos(1)).unwrap();
        let now_ns = socket.now_ns();
        socket.wait(now_ns, now_ns.saturating_sub(1_000_000), now_ns + 3_000_000, false).unwrap();
        assert!(socket.now_ns() >= now_ns + 3_000_000);
    }

    #[test]
    fn errors_of_the_network_are_losses_and_others_are_not() {
        assert!(is_loss(&Errno::NETUNREACH.into()));
        assert!(!is_loss(&Errno::BADF.into()));
        let mut socket = Socket::bind(Duration::ZERO).unwrap();
        let too_long = vec![0; 70_000];
        assert!(socket.send(&too_long, too_long.len(), SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9)).is_err());
    }
}
