//! Opening the UDP sockets, and saying who is in the way when that fails.
//!
//! May touch: sockets, and `/proc` once a bind was refused. Called by: the reactor's construction.

use crate::IoError;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

/// A bound socket and what the kernel granted.
#[derive(Debug)]
pub(crate) struct UdpSocket {
    pub(crate) fd: OwnedFd,
    pub(crate) address: SocketAddrV4,
    /// Bytes of its receive buffer, less than asked for where `net.core.rmem_max` caps it.
    pub(crate) receive_buffer_bytes: usize,
}

/// Opens a socket on `address`. It blocks, deliberately: io_uring arms a poll for a receive on a blocking socket, and fails
/// that on a non-blocking one with EAGAIN; sends say MSG_DONTWAIT themselves.
pub(crate) fn open(
    address: SocketAddrV4,
    socket_buffer_bytes: usize,
    dont_fragment: bool,
) -> Result<UdpSocket, IoError> {
    // SAFETY: takes no pointer.
    let fd = unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(last("socket"));
    }
    // SAFETY: a new descriptor that nobody else owns.
    let fd = unsafe { OwnedFd::from_raw_fd(fd) };
    let bytes = socket_buffer_bytes.min(i32::MAX as usize / 2) as i32;
    set_buffer(&fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, bytes)?;
    set_buffer(&fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, bytes)?;
    if dont_fragment {
        set_option(&fd, libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
            .map_err(|source| IoError::System { call: "setsockopt(IP_MTU_DISCOVER)", source })?;
    }
    bind(&fd, address)?;
    Ok(UdpSocket { address: bound_to(&fd)?, receive_buffer_bytes: receive_buffer_bytes(&fd)?, fd })
}

/// Lets datagrams that the kernel received together be handed out together, on all these sockets or on none; the errno if it
/// cannot.
pub(crate) fn receive_offload(sockets: &[UdpSocket]) -> Result<(), i32> {
    let set = |value| sockets.iter().try_for_each(|socket| set_option(&socket.fd, libc::SOL_UDP, libc::UDP_GRO, value));
    set(1).map_err(|error| {
        // Refused as it may be itself where the option is unknown; then nothing was switched on.
        let _refused = set(0);
        error.raw_os_error().unwrap_or(libc::EIO)
    })
}

/// How long a port may stay taken that no process holds, and how often to try. The kernel takes a ring apart after its
/// process has ended, in steps of 50 ms, and the sockets registered with it go last: a node that is restarted at once
/// would find its own ports taken.
const RELEASE_WAIT: Duration = Duration::from_secs(2);
const RELEASE_LOOK: Duration = Duration::from_millis(2);

/// Binds; waits for a port that only an ended process holds.
fn bind(fd: &OwnedFd, address: SocketAddrV4) -> Result<(), IoError> {
    let raw = sockaddr(address);
    let since = Instant::now();
    loop {
        // SAFETY: reads one sockaddr_in from a live local.
        let result = unsafe { libc::bind(fd.as_raw_fd(), (&raw const raw).cast(), ADDRESS_BYTES) };
        if result == 0 {
            return Ok(());
        }
        let source = std::io::Error::last_os_error();
        let taken = source.raw_os_error() == Some(libc::EADDRINUSE);
        if !taken || since.elapsed() >= RELEASE_WAIT || holder(address).is_some() {
            return Err(listen_error(address, source));
        }
        std::thread::sleep(RELEASE_LOOK);
    }
}

/// Bytes of the one form of address that the reactor speaks.
pub(crate) const ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_in>() as libc::socklen_t;

/// The kernel's form of an address.
pub(crate) fn sockaddr(address: SocketAddrV4) -> libc::sockaddr_in {
    libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: address.port().to_be(),
        sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
        sin_zero: [0; 8],
    }
}

/// What the kernel's form of an IPv4 address says.
pub(crate) fn address_of(raw: &libc::sockaddr_in) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes()), u16::from_be(raw.sin_port))
}

/// `CMSG_SPACE` of the length of a datagram, an int.
pub(crate) const CONTROL_BYTES: usize = 24;

/// The length of each datagram of a piece, if that is what a control message says (UDP_GRO), and if there is one.
pub(crate) fn segment_of(control: &[u8]) -> Option<usize> {
    let word = |at: usize| i32::from_ne_bytes(control[at..at + 4].try_into().expect("four bytes"));
    // `struct cmsghdr`: a length of 64 bits, the level, the type; then the number.
    let is_segment = word(8) == libc::SOL_UDP && word(12) == libc::UDP_GRO;
    is_segment.then(|| usize::try_from(word(16)).ok()).flatten().filter(|bytes| *bytes > 0)
}

/// Whether the refusal of a train is no matter of the moment: this path cannot do it (no checksum offload, a smaller MTU). From then
/// on datagrams go one by one, so that only those that do not fit are lost.
pub(crate) fn refuses_trains(errno: i32) -> bool {
    [libc::EIO, libc::EINVAL, libc::EMSGSIZE, libc::EOPNOTSUPP].contains(&errno)
}

/// An address as the kernel wrote it in front of a datagram: nothing if it is not IPv4's.
pub(crate) fn parse_sockaddr(bytes: &[u8]) -> Option<SocketAddrV4> {
    let (family, rest) = bytes.split_first_chunk::<2>()?;
    let (port, rest) = rest.split_first_chunk::<2>()?;
    let (ip, _) = rest.split_first_chunk::<4>()?;
    let is_ipv4 = i32::from(u16::from_ne_bytes(*family)) == libc::AF_INET;
    is_ipv4.then(|| SocketAddrV4::new(Ipv4Addr::from(*ip), u16::from_be_bytes(*port)))
}

fn last(call: &'static str) -> IoError {
    IoError::System { call, source: std::io::Error::last_os_error() }
}

fn set_option(fd: &OwnedFd, level: i32, name: i32, value: i32) -> std::io::Result<()> {
    // SAFETY: reads one int from a live local.
    let result = unsafe {
        libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), size_of::<i32>() as libc::socklen_t)
    };
    if result == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
}

/// The forced form goes beyond `net.core.rmem_max` and needs CAP_NET_ADMIN; without that, the kernel grants what it may.
fn set_buffer(fd: &OwnedFd, forced: i32, capped: i32, bytes: i32) -> Result<(), IoError> {
    set_option(fd, libc::SOL_SOCKET, forced, bytes)
        .or_else(|_| set_option(fd, libc::SOL_SOCKET, capped, bytes))
        .map_err(|source| IoError::System { call: "setsockopt(SO_RCVBUF, SO_SNDBUF)", source })
}

fn receive_buffer_bytes(fd: &OwnedFd) -> Result<usize, IoError> {
    let mut value = 0i32;
    let mut len = size_of::<i32>() as libc::socklen_t;
    // SAFETY: writes one int and its length into live locals.
    let result = unsafe {
        libc::getsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, libc::SO_RCVBUF, (&raw mut value).cast(), &mut len)
    };
    // The kernel doubles what is asked for, to pay for its own bookkeeping, and reports that.
    if result == 0 { Ok(value.unsigned_abs() as usize / 2) } else { Err(last("getsockopt(SO_RCVBUF)")) }
}

fn bound_to(fd: &OwnedFd) -> Result<SocketAddrV4, IoError> {
    let mut raw = sockaddr(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0));
    let mut len = ADDRESS_BYTES;
    // SAFETY: writes at most `len` bytes into a live local of that size.
    let result = unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw).cast(), &mut len) };
    if result != 0 {
        return Err(last("getsockname"));
    }
    Ok(address_of(&raw))
}

fn listen_error(address: SocketAddrV4, source: std::io::Error) -> IoError {
    let mend = match source.raw_os_error() {
        Some(libc::EADDRINUSE) => {
            let holder = holder(address).unwrap_or_else(|| "another process".to_string());
            format!(
                "UDP port {} is held by {holder}; stop it, or listen on another port (`ss -ulpn` lists all)",
                address.port()
            )
        }
        Some(libc::EADDRNOTAVAIL) => {
            format!(
                "No interface of this host has the address {}; `ip -4 address` lists those that it has",
                address.ip()
            )
        }
        Some(libc::EACCES | libc::EPERM) => {
            "Ports below 1024 need CAP_NET_BIND_SERVICE; grant that, or use a higher port".to_string()
        }
        _ => "Check the address in the configuration".to_string(),
    };
    IoError::Listen { address, source, mend }
}

/// Looks at `/proc/net/udp`: a read of it misses a socket now and then, while others come and go.
const LOOKS: usize = 10;

/// Which process holds a UDP port, if `/proc` lets us see.
fn holder(address: SocketAddrV4) -> Option<String> {
    let inode = (0..LOOKS).find_map(|_| {
        let table = std::fs::read_to_string("/proc/net/udp").ok()?;
        table.lines().skip(1).find_map(|line| inode_of(line, address).map(str::to_string))
    })?;
    let wanted = format!("socket:[{inode}]");
    let processes = std::fs::read_dir("/proc").ok()?;
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.map(|pid| (pid, Path::new("/proc").join(pid.to_string()))).find(|(_, path)| has_open(path, &wanted)).map(
        |(pid, path)| {
            let name = std::fs::read_to_string(path.join("comm")).unwrap_or_default();
            format!("process {pid} ({})", name.trim())
        },
    )
}

/// The socket's inode, if a line of `/proc/net/udp` is about `address` (or either of the two is for all addresses).
fn inode_of(line: &str, address: SocketAddrV4) -> Option<&str> {
    let mut fields = line.split_whitespace();
    let (ip, port) = fields.nth(1)?.split_once(':')?;
    let ip = Ipv4Addr::from(u32::from_str_radix(ip, 16).ok()?.to_ne_bytes());
    let port = u16::from_str_radix(port, 16).ok()?;
    let overlaps = ip == *address.ip() || ip.is_unspecified() || address.ip().is_unspecified();
    if port == address.port() && overlaps { fields.nth(7) } else { None }
}

fn has_open(process: &Path, wanted: &str) -> bool {
    let Ok(files) = std::fs::read_dir(process.join("fd")) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mend(errno: i32) -> String {
        listen_error("10.9.8.7:20".parse().unwrap(), std::io::Error::from_raw_os_error(errno)).to_string()
    }

    #[test]
    fn each_refusal_names_its_cure() {
        assert!(mend(libc::EADDRNOTAVAIL).contains("has the address 10.9.8.7"));
        assert!(mend(libc::EACCES).contains("CAP_NET_BIND_SERVICE"));
        assert!(mend(libc::EADDRINUSE).contains("UDP port 20 is held by another process"));
        assert!(mend(libc::EADDRINUSE).starts_with("cannot listen on 10.9.8.7:20: "));
    }

    #[test]
    fn addresses_survive_the_kernels_form() {
        let address: SocketAddrV4 = "192.0.2.17:45678".parse().unwrap();
        let raw = sockaddr(address);
        // SAFETY: a sockaddr_in has no padding.
        let bytes =
            unsafe { std::slice::from_raw_parts((&raw const raw).cast::<u8>(), size_of::<libc::sockaddr_in>()) };
        assert_eq!(parse_sockaddr(bytes), Some(address));
        assert_eq!(parse_sockaddr(&bytes[..7]), None);
        assert_eq!(parse_sockaddr(&[10, 0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0, 0]), None, "IPv6");
    }

    #[test]
    fn a_line_of_proc_net_udp_names_the_socket() {
        let line = " 123: 0100007F:1F90 00000000:0000 07 00000000:00000000 00:00000000 00000000  0  0 98765 2 0 0";
        assert_eq!(inode_of(line, "127.0.0.1:8080".parse().unwrap()), Some("98765"));
        assert_eq!(inode_of(line, "0.0.0.0:8080".parse().unwrap()), Some("98765"));
        assert_eq!(inode_of(line, "127.0.0.2:8080".parse().unwrap()), None);
        assert_eq!(inode_of(line, "127.0.0.1:8081".parse().unwrap()), None);
    }

    fn offload_of(socket: &UdpSocket) -> i32 {
        let mut value = -1i32;
        let mut len = size_of::<i32>() as libc::socklen_t;
        // SAFETY: writes one int and its length into live locals.
        let result = unsafe {
            libc::getsockopt(socket.fd.as_raw_fd(), libc::SOL_UDP, libc::UDP_GRO, (&raw mut value).cast(), &mut len)
        };
        assert_eq!(result, 0);
        value
    }

    #[test]
    fn a_socket_that_knows_no_offload_keeps_the_others_from_it() {
        let any = "127.0.0.1:0".parse().unwrap();
        let udp = open(any, 1 << 16, false).unwrap();
        receive_offload(std::slice::from_ref(&udp)).unwrap();
        assert_eq!(offload_of(&udp), 1);
        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let other = UdpSocket { fd: tcp.into(), address: any, receive_buffer_bytes: 0 };
        let both = [udp, other];
        assert!(receive_offload(&both).is_err());
        assert_eq!(offload_of(&both[0]), 0);
    }
}
