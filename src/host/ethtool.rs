//! The rings and the interrupt coalescing of a network card, by the ioctl that `ethtool` used before netlink: every driver still
//! answers it. Touches a socket of its own, closed at once. Called by `kernel`.

use super::facts::{Coalescing, RingSizes, Rings};
use std::net::UdpSocket;
use std::os::fd::AsRawFd;

// linux/ethtool.h
const GET_COALESCE: u32 = 0x0e;
const SET_COALESCE: u32 = 0x0f;
const GET_RINGS: u32 = 0x10;
const SET_RINGS: u32 = 0x11;

/// `struct ethtool_ringparam`: the command, then what is most and what is now, each as rx, rx mini, rx jumbo, tx.
type RingWords = [u32; 9];
const RX_MOST: usize = 1;
const TX_MOST: usize = 4;
const RX_NOW: usize = 5;
const TX_NOW: usize = 8;

/// `struct ethtool_coalesce`.
type CoalesceWords = [u32; 23];
const RX_US: usize = 1;
const TX_US: usize = 5;
const ADAPTIVE_RX: usize = 10;
const ADAPTIVE_TX: usize = 11;

pub(super) fn rings(nic: &str) -> Result<Rings, String> {
    let words = get_rings(nic)?;
    let now = RingSizes { rx: words[RX_NOW], tx: words[TX_NOW] };
    Ok(Rings { now, most: RingSizes { rx: words[RX_MOST], tx: words[TX_MOST] } })
}

pub(super) fn set_rings(nic: &str, rings: RingSizes) -> Result<(), String> {
    let mut words = get_rings(nic)?;
    (words[0], words[RX_NOW], words[TX_NOW]) = (SET_RINGS, rings.rx, rings.tx);
    ask(nic, &mut words, "set its rings")
}

fn get_rings(nic: &str) -> Result<RingWords, String> {
    let mut words: RingWords = [0; 9];
    words[0] = GET_RINGS;
    ask(nic, &mut words, "tell its rings")?;
    Ok(words)
}

pub(super) fn coalescing(nic: &str) -> Result<Coalescing, String> {
    let words = get_coalescing(nic)?;
    let adaptive = |at: usize| words[at] != 0;
    let (adaptive_rx, adaptive_tx) = (adaptive(ADAPTIVE_RX), adaptive(ADAPTIVE_TX));
    Ok(Coalescing { rx_us: words[RX_US], tx_us: words[TX_US], adaptive_rx, adaptive_tx })
}

pub(super) fn set_coalescing(nic: &str, to: Coalescing) -> Result<(), String> {
    let mut words = get_coalescing(nic)?;
    (words[0], words[RX_US], words[TX_US]) = (SET_COALESCE, to.rx_us, to.tx_us);
    (words[ADAPTIVE_RX], words[ADAPTIVE_TX]) = (to.adaptive_rx.into(), to.adaptive_tx.into());
    ask(nic, &mut words, "set its coalescing")
}

fn get_coalescing(nic: &str) -> Result<CoalesceWords, String> {
    let mut words: CoalesceWords = [0; 23];
    words[0] = GET_COALESCE;
    ask(nic, &mut words, "tell its coalescing")?;
    Ok(words)
}

/// Hands the words to the driver, which changes them.
fn ask<const N: usize>(nic: &str, words: &mut [u32; N], what: &str) -> Result<(), String> {
    let tell = |error: std::io::Error| format!("{nic} does not {what}: {error}");
    let socket = UdpSocket::bind("127.0.0.1:0").map_err(tell)?;
    // SAFETY: all bytes zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if nic.len() >= request.ifr_name.len() {
        return Err(format!("{nic:?} is no name of a network interface"));
    }
    request.ifr_name.iter_mut().zip(nic.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    request.ifr_ifru.ifru_data = words.as_mut_ptr().cast();
    // SAFETY: the request and the words that it points to live; both structures of the kernel are as long as their words, and
    // the first of them says which one it is.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(tell(std::io::Error::last_os_error())) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_has_no_rings_and_says_so() {
        assert!(rings("lo").unwrap_err().contains("lo does not tell its rings"), "{:?}", rings("lo"));
        assert!(coalescing("no-such-card-at-all").unwrap_err().contains("no name"));
    }
}
