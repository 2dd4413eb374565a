//! What a datagram to another process and back costs on this host, where no network is: the least that a round trip between members
//! takes. Plain blocking sockets; the product's reactor is within some microseconds of it (tuning.md).

use anyhow::Context;
use std::net::{Ipv4Addr, UdpSocket};
use std::time::{Duration, Instant};

/// Round trips of which the middle one counts.
const TRIPS: usize = 301;
/// A datagram on the loopback that takes longer is lost.
const LOST: Duration = Duration::from_secs(1);
/// A consensus message with one small entry.
const BYTES: usize = 256;

/// The median round trip.
pub(super) fn on_loopback() -> anyhow::Result<Duration> {
    let socket = || -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(LOST))?;
        Ok(socket)
    };
    let (here, there) = (socket().context("no socket")?, socket().context("no socket")?);
    here.connect(there.local_addr()?).context("no socket")?;
    there.connect(here.local_addr()?).context("no socket")?;
    std::thread::scope(|scope| {
        let echo = scope.spawn(move || -> std::io::Result<()> {
            let mut bytes = [0; BYTES];
            for _ in 0..TRIPS {
                let len = there.recv(&mut bytes)?;
                there.send(&bytes[..len])?;
            }
            Ok(())
        });
        let trips = trips(&here);
        echo.join().expect("an echo does not panic").context("the echo on the loopback failed")?;
        trips.context("a round trip on the loopback failed")
    })
}

fn trips(socket: &UdpSocket) -> std::io::Result<Duration> {
    let mut bytes = [0; BYTES];
    let mut took = Vec::with_capacity(TRIPS);
    for _ in 0..TRIPS {
        let began = Instant::now();
        socket.send(&[1; BYTES])?;
        socket.recv(&mut bytes)?;
        took.push(began.elapsed());
    }
    took.sort_unstable();
    Ok(took[TRIPS / 2])
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_round_trip_takes_some_time_and_not_long() {
        let trip = super::on_loopback().unwrap();
        assert!((1_000..50_000_000).contains(&trip.as_nanos()), "{trip:?}");
    }
}
