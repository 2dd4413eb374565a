//! `POST /reload`, the one order that the address takes, from this host alone: what SIGHUP does, with an answer. The thread that
//! answers HTTP hands it to the main thread, which reads the file ([`crate::node::run`]), and tells what came of it.

use crate::config::reload::Told;
use anyhow::{Context, anyhow};
use signal_hook::consts::SIGHUP;
use signal_hook::low_level::raise;
use std::net::IpAddr;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::oneshot;

/// Those who wait for an answer; one more is turned away.
const MAX_WAITING: usize = 8;

/// Where one who asked is told what came of it.
type Asker = oneshot::Sender<Told>;

/// Asks the main thread.
#[derive(Clone, Debug)]
pub struct AskReload(SyncSender<Asker>);

/// For who asks, and for who answers: each that comes out was followed by a SIGHUP of this process.
pub fn reloads() -> (AskReload, Receiver<Asker>) {
    let (ask, asked) = sync_channel(MAX_WAITING);
    (AskReload(ask), asked)
}

impl AskReload {
    /// What comes of it.
    pub(super) async fn ask(&self) -> anyhow::Result<Told> {
        let (tell, told) = oneshot::channel();
        self.0.try_send(tell).map_err(|_| anyhow!("the node stops, or too many ask for the same at once"))?;
        raise(SIGHUP).context("cannot send a signal to this process")?;
        told.await.context("the node stops")
    }
}

/// Whether a connection's other end is this host: the kernel drops what comes from elsewhere under an address of its own.
pub(super) fn is_from_here(peer: IpAddr, own: IpAddr) -> bool {
    peer.is_loopback() || peer == own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_host_is_from_here() {
        let address = |text: &str| text.parse().expect("an address");
        let own = address("10.0.0.7");
        assert!(is_from_here(own, own) && is_from_here(address("127.0.0.1"), address("127.1.2.3")));
        assert!(!is_from_here(address("10.0.0.8"), own));
    }
}
