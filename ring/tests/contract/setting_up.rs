//! What keeps a reactor from being made, in words that help; and that its end leaves nothing behind.

use super::{any_port, node, settings};
use crate::Reactor;
use std::net::UdpSocket;
#[allow(unused_imports, reason = "one of the reactors has these as methods of its own")]
use synod_ring::Reactor as _;
use synod_ring::{Arena, ReceiveMemory, Settings, WaitMode, port};

fn refused(settings: Settings) -> String {
    let log = Arena::new(4096).unwrap();
    let send = Arena::new(4096).unwrap();
    let (core, _house) = port::<u64, u64>(1).unwrap();
    let receive = ReceiveMemory::new(&settings).unwrap();
    match Reactor::new(settings, receive, &log, &send, core) {
        Ok(_) => panic!("it was made"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_port_in_use_names_its_holder_and_the_cure() {
    let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
    let std::net::SocketAddr::V4(taken) = holder.local_addr().unwrap() else { panic!("not IPv4") };
    for settings in [Settings { peers_listen: taken, ..settings() }, Settings { clients_listen: taken, ..settings() }] {
        let text = refused(settings);
        assert!(text.contains(&format!("cannot listen on {taken}")), "{text}");
        assert!(
            text.contains(&format!("UDP port {} is held by process {}", taken.port(), std::process::id())),
            "{text}"
        );
        assert!(text.contains("listen on another port"), "{text}");
    }
}

#[test]
fn an_address_of_another_host_is_told() {
    let text = refused(Settings { peers_listen: "192.0.2.1:0".parse().unwrap(), ..settings() });
    assert!(text.contains("No interface of this host has the address 192.0.2.1"), "{text}");
}

#[test]
fn sizes_that_do_not_fit_are_refused_with_the_bound() {
    for (settings, words) in [
        (Settings { rx_buffers_peers: 100, ..settings() }, "power of two"),
        (Settings { rx_buffers_clients: 0, ..settings() }, "power of two"),
        (Settings { rx_buffer_bytes: 70_000, ..settings() }, "at most 65507"),
        (Settings { rx_buffer_bytes: 0, ..settings() }, "at most 65507"),
        (Settings { sq_entries: 1, ..settings() }, "Choose 8 to 32768"),
        (Settings { cq_entries: 256, ..settings() }, "Choose 257"),
        (Settings { max_events: 0, ..settings() }, "at least 1"),
    ] {
        let text = refused(settings);
        assert!(text.contains(words), "{text}");
    }
}

#[test]
fn ports_are_free_once_the_reactor_is_closed() {
    let mut fixed = settings();
    for _ in 0..20 {
        let mut node = node(fixed.clone());
        node.expect_quiet();
        fixed =
            Settings { peers_listen: node.io.peers_address(), clients_listen: node.io.clients_address(), ..settings() };
        assert_ne!(node.io.peers_address(), any_port());
        node.io.close().unwrap();
    }
}

#[test]
fn reactors_come_and_go_without_leaving_descriptors_behind() {
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    node(settings()).io.close().unwrap();
    let before = open();
    for round in 0..40 {
        let mut node = node(Settings { wait: WaitMode::Block, ..settings() });
        node.expect_quiet();
        assert!(round > 0 || open() > before);
        drop(node);
    }
    // Other tests of this binary run beside this one and open some of their own; 40 reactors would have left 160.
    assert!(open() < before + 100, "{before} descriptors before, {} after", open());
}

/// Kernels before 6.9, or without CONFIG_NET_RX_BUSY_POLL, refuse; the reactor works all the same.
#[test]
fn busy_polling_is_asked_for_and_its_refusal_is_told_not_fatal() {
    assert_eq!(node(settings()).io.napi_busy_poll(), Ok(()), "nothing was asked");
    let mut polling = node(Settings { napi_busy_poll_us: 50, wait: WaitMode::Block, ..settings() });
    let told = polling.io.napi_busy_poll();
    assert!(matches!(told, Ok(()) | Err(libc::EINVAL | libc::EOPNOTSUPP)), "{told:?}");
    polling.io.waker().wake();
    assert!(matches!(polling.wait()[..], [synod_ring::Event::Woken]));
}
