//! A UDP socket that never blocks, a monotonic clock, and the wait for either. The only module of the crate that makes
//! system calls; used by the drivers.

use crate::options::nanos;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::{Duration, Instant};

/// Datagrams received before sending and events get their turn again.
pub(crate) const RECEIVE_BATCH: usize = 64;
/// As long as any UDP datagram, so that none is cut.
pub(crate) const RECEIVE_BYTES: usize = 1 << 16;

/// What became of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// The kernel took it.
    Yes,
    /// The socket's buffer is full: wait until it is writable.
    Full,
    /// The kernel refused it as the network may lose it: a retransmission will follow.
    Lost,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Socket {
    udp: UdpSocket,
    epoch: Instant,
    spin_ns: u64,
    send_error: Option<io::Error>,
}

impl Socket {
    pub(crate) fn bind(spin: Duration) -> io::Result<Socket> {
        let udp = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        udp.set_nonblocking(true)?;
        Ok(Socket { udp, epoch: Instant::now(), spin_ns: nanos(spin), send_error: None })
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

    /// Sends one datagram. A route or a firewall that refuses it is a loss: other members may be reachable, and this one
    /// later. Anything else is the caller's to see.
    pub(crate) fn send(&mut self, datagram: &[u8], to: SocketAddrV4) -> io::Result<Sent> {
        loop {
            match self.udp.send_to(datagram, to) {
                Ok(_) => return Ok(Sent::Yes),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Full),
                Err(error) if is_loss(&error) => {
                    self.send_error = Some(error);
                    return Ok(Sent::Lost);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next datagram, if one is there.
    pub(crate) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<Option<(usize, SocketAddrV4)>> {
        loop {
            match self.udp.recv_from(buffer) {
                Ok((length, SocketAddr::V4(from))) => return Ok(Some((length, from))),
                Ok((_, SocketAddr::V6(from))) => unreachable!("an IPv4 socket received from {from}"),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
                // An ICMP answer to an earlier datagram: that one is lost, and the next call receives.
                Err(error) if is_loss(&error) => self.send_error = Some(error),
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits until a datagram can be received (or sent, if `writable`) or the clock shows `until_ns`. A socket that spins
    /// only yields as long as the caller's wait, begun at `since_ns`, is younger than that: the caller tries to receive
    /// again, which is cheaper than a wake-up.
    pub(crate) fn wait(&self, since_ns: u64, until_ns: u64, writable: bool) -> io::Result<()> {
        let now_ns = self.now_ns();
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_ends_with_a_datagram_or_at_the_time() {
        let mut socket = Socket::bind(Duration::ZERO).unwrap();
        let mut buffer = [0; 16];
        let start_ns = socket.now_ns();
        socket.wait(start_ns, start_ns + 3_000_000, false).unwrap();
        assert!(socket.now_ns() >= start_ns + 3_000_000);
        assert_eq!(socket.receive(&mut buffer).unwrap(), None);
        let own = SocketAddrV4::new(Ipv4Addr::LOCALHOST, socket.local_port());
        assert_eq!(socket.send(b"hello", own).unwrap(), Sent::Yes);
        socket.wait(start_ns, u64::MAX, false).unwrap();
        assert_eq!(socket.receive(&mut buffer).unwrap(), Some((5, own)));
    }

    #[test]
    fn a_spinning_socket_comes_back_to_try_again_and_blocks_when_the_spin_is_over() {
        let socket = Socket::bind(Duration::from_secs(3600)).unwrap();
        let now_ns = socket.now_ns();
        socket.wait(now_ns, u64::MAX, false).unwrap();
        let socket = Socket::bind(Duration::from_nanos(1)).unwrap();
        let now_ns = socket.now_ns();
        socket.wait(now_ns.saturating_sub(1_000_000), now_ns + 3_000_000, false).unwrap();
        assert!(socket.now_ns() >= now_ns + 3_000_000);
    }

    #[test]
    fn errors_of_the_network_are_losses_and_others_are_not() {
        assert!(is_loss(&Errno::NETUNREACH.into()));
        assert!(!is_loss(&Errno::BADF.into()));
        let mut socket = Socket::bind(Duration::ZERO).unwrap();
        let too_long = vec![0; 70_000];
        assert!(socket.send(&too_long, SocketAddrV4::new(Ipv4Addr::LOCALHOST, 9)).is_err());
    }
}
