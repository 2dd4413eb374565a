//! Datagrams between two reactors on loopback.

use super::{Node, any_port, node, node_with_peer, settings};
use crate::SEND_CALLS;
use std::collections::HashSet;
use std::net::{SocketAddrV4, UdpSocket};
#[allow(unused_imports, reason = "one of the reactors has these as methods of its own")]
use synod_ring::Reactor as _;
use synod_ring::{Event, Io, RxBuf, SEGMENTS_MAX, Settings, Socket, Stats};

#[test]
fn a_member_receives_what_another_sent() {
    let mut receiver = node(settings());
    let mut sender = node_with_peer(settings(), &receiver);
    receiver.expect_quiet();
    sender.send_peer(b"prepare");
    let (buf, from) = receiver.wait_for_datagram();
    assert_eq!((buf.socket, buf.cut, from), (Socket::Peers, false, None));
    assert_eq!(receiver.io.datagram(&buf), b"prepare");
    receiver.io.release(buf);
    assert_eq!(sender.io.stats().sends, 1);
    assert_eq!(receiver.io.stats().datagrams_peers, 1);
}

#[test]
fn a_client_is_answered_at_the_address_that_the_kernel_saw() {
    let mut server = node(settings());
    let mut client = node(settings());
    client.send_client(server.io.clients_address(), b"append");
    let (buf, from) = server.wait_for_datagram();
    assert_eq!((buf.socket, from), (Socket::Clients, Some(client.io.clients_address())));
    assert_eq!(server.io.datagram(&buf), b"append");
    assert_eq!(server.io.datagram(&buf).as_ptr().addr() % 64, 0, "frames start on cache lines");
    server.io.release(buf);
    server.send_client(from.unwrap(), b"committed");
    let (buf, from) = client.wait_for_datagram();
    assert_eq!(client.io.datagram(&buf), b"committed");
    assert_eq!(from, Some(server.io.clients_address()));
    client.io.release(buf);
}

#[test]
fn many_clients_in_one_turn_get_each_their_own() {
    let mut server = node(settings());
    let clients: Vec<UdpSocket> = (0..200).map(|_| UdpSocket::bind("127.0.0.1:0").unwrap()).collect();
    for (number, client) in clients.iter().enumerate() {
        let std::net::SocketAddr::V4(to) = client.local_addr().unwrap() else { panic!("not IPv4") };
        let start = number * 4;
        server.send.get_mut(start, 4).copy_from_slice(&(number as u32).to_le_bytes());
        let bytes = server.send.slice(start, 4);
        server.io.send_client(to, bytes);
    }
    server.expect_quiet();
    for (number, client) in clients.iter().enumerate() {
        client.set_read_timeout(Some(super::PATIENCE)).unwrap();
        let mut bytes = [0; 8];
        assert_eq!(client.recv(&mut bytes).unwrap(), 4);
        assert_eq!(bytes[..4], (number as u32).to_le_bytes());
    }
    // 200 sends through a queue of 64 entries.
    assert!(server.io.stats().submits_early >= 3, "{:?}", server.io.stats());
}

/// A datagram whose every byte depends on its number.
fn pattern(number: u64, len: usize) -> Vec<u8> {
    let seed = number.to_le_bytes();
    (0..len).map(|at| if at < 8 { seed[at] } else { (number as usize * 31 + at) as u8 }).collect()
}

#[test]
fn megabytes_pass_whole_and_in_order_while_buffers_are_released() {
    const COUNT: u64 = 8_192;
    const BYTES: usize = 1_400;
    const WINDOW: usize = 16;
    let mut receiver = node(settings());
    let mut sender = node_with_peer(settings(), &receiver);
    let mut next = 0;
    let mut got = 0;
    while got < COUNT {
        for place in 0..WINDOW {
            let start = place * 2048;
            sender.send.get_mut(start, BYTES).copy_from_slice(&pattern(next, BYTES));
            let bytes = sender.send.slice(start, BYTES);
            sender.io.send_peer(0, bytes);
            next += 1;
        }
        sender.expect_quiet();
        while got < next {
            for event in receiver.wait() {
                let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
                assert_eq!(receiver.io.datagram(&buf), pattern(got, BYTES));
                receiver.io.release(buf);
                got += 1;
            }
        }
    }
    let stats = receiver.io.stats();
    assert_eq!((stats.datagrams_peers, stats.overruns, stats.datagrams_cut), (COUNT, 0, 0));
    assert!(stats.receives_rearmed < COUNT / 16, "the receive is multishot: {stats:?}");
    assert_eq!(sender.io.stats().sends_failed, 0);
}

fn lengths(node: &mut Node, count: usize) -> Vec<(u32, bool)> {
    let mut lengths = Vec::new();
    while lengths.len() < count {
        for event in node.wait() {
            let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
            assert!(node.io.datagram(&buf).iter().all(|byte| *byte == 7));
            lengths.push((buf.len, buf.cut));
            node.io.release(buf);
        }
    }
    lengths
}

#[test]
fn datagrams_beyond_the_longest_arrive_cut_and_marked() {
    for receive_offload in [true, false] {
        cut_and_marked(receive_offload);
    }
}

fn cut_and_marked(receive_offload: bool) {
    let small = Settings { rx_buffer_bytes: 256, dont_fragment: false, receive_offload, ..settings() };
    let mut receiver = node(small.clone());
    let mut sender = node_with_peer(small, &receiver);
    let sizes = [255, 256, 257, 320, 321, 9_000];
    let expected = [(255, false), (256, false), (256, true), (256, true), (256, true), (256, true)];
    for size in sizes {
        sender.send_peer(&vec![7; size]);
    }
    assert_eq!(lengths(&mut receiver, sizes.len()), expected);
    let to = receiver.io.clients_address();
    for size in sizes {
        sender.send_client(to, &vec![7; size]);
    }
    assert_eq!(lengths(&mut receiver, sizes.len()), expected);
    assert_eq!(receiver.io.stats().datagrams_cut, 8);
}

#[test]
fn empty_datagrams_do_not_end_receiving() {
    let mut receiver = node(settings());
    let mut sender = node_with_peer(settings(), &receiver);
    let outside = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..200 {
        outside.send_to(&[], receiver.io.peers_address()).unwrap();
        outside.send_to(&[], receiver.io.clients_address()).unwrap();
        for event in receiver.look() {
            // The kernel may hand an empty datagram of a client out with its header.
            let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
            assert_eq!(buf.len, 0);
            receiver.io.release(buf);
        }
    }
    sender.send_peer(b"still there?");
    loop {
        let (buf, _) = receiver.wait_for_datagram();
        let text = receiver.io.datagram(&buf).to_vec();
        receiver.io.release(buf);
        if text == b"still there?" {
            break;
        }
        assert!(text.is_empty());
    }
    assert_eq!(receiver.io.stats().overruns, 0);
}

/// Datagrams until an overrun, all of them held.
fn hold_until_overrun(receiver: &mut Node, socket: Socket) -> Vec<RxBuf> {
    let mut held = Vec::new();
    loop {
        for event in receiver.wait() {
            match event {
                Event::Datagram { buf, .. } => held.push(buf),
                Event::Overrun(which) => {
                    assert_eq!(which, socket);
                    return held;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }
}

fn overrun(socket: Socket) {
    let few = Settings { rx_buffers_peers: 4, rx_buffers_clients: 4, ..settings() };
    let mut receiver = node(few);
    let mut sender = node_with_peer(settings(), &receiver);
    let to = receiver.io.clients_address();
    for number in 0..16u8 {
        match socket {
            Socket::Peers => sender.send_peer(&[number]),
            Socket::Clients => sender.send_client(to, &[number]),
        }
    }
    let mut held = hold_until_overrun(&mut receiver, socket);
    assert_eq!(held.len(), 4);
    receiver.expect_quiet();
    let mut seen = Vec::new();
    while seen.len() < 16 {
        for buf in held.drain(..) {
            seen.push(receiver.io.datagram(&buf)[0]);
            receiver.io.release(buf);
        }
        if seen.len() < 16 {
            let events = receiver.wait().into_iter();
            held.extend(
                events.filter_map(|event| if let Event::Datagram { buf, .. } = event { Some(buf) } else { None }),
            );
        }
    }
    assert_eq!(seen, (0..16).collect::<Vec<u8>>(), "what waited in the socket is not lost");
    assert!(receiver.io.stats().overruns >= 1);
}

#[test]
fn running_out_of_buffers_is_told_and_ends_when_they_come_back_members() {
    overrun(Socket::Peers);
}

#[test]
fn running_out_of_buffers_is_told_and_ends_when_they_come_back_clients() {
    overrun(Socket::Clients);
}

#[test]
fn a_poll_is_bounded_and_leaves_the_rest_for_the_next() {
    let mut receiver = node(Settings { max_events: 3, ..settings() });
    let mut sender = node_with_peer(settings(), &receiver);
    for number in 0..10u8 {
        sender.send_peer(&[number]);
    }
    let mut seen = Vec::new();
    while seen.len() < 10 {
        let events = receiver.wait();
        assert!(events.len() <= 3);
        for event in events {
            let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
            seen.push(receiver.io.datagram(&buf)[0]);
            receiver.io.release(buf);
        }
    }
    assert_eq!(seen, (0..10).collect::<Vec<u8>>());
}

#[test]
fn a_send_that_the_kernel_refuses_is_told() {
    let receiver = node(settings());
    let mut sender = node_with_peer(settings(), &receiver);
    let bytes = sender.send.slice(0, 65_508);
    sender.io.send_peer(0, bytes);
    let events = sender.wait();
    assert!(matches!(events[..], [Event::SendFailed(libc::EMSGSIZE)]), "{events:?}");
    assert_eq!(sender.io.stats().sends_failed, 1);
}

#[test]
fn sending_to_a_port_that_nobody_has_does_not_end_receiving() {
    let mut receiver = node(settings());
    let nobody = {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let std::net::SocketAddr::V4(address) = socket.local_addr().unwrap() else { panic!("not IPv4") };
        address
    };
    for _ in 0..10 {
        receiver.send.get_mut(0, 4).copy_from_slice(b"lost");
        let bytes = receiver.send.slice(0, 4);
        receiver.io.send_client(nobody, bytes);
        for event in receiver.look() {
            assert!(matches!(event, Event::SendFailed(libc::ECONNREFUSED)), "{event:?}");
        }
    }
    let mut sender = node(settings());
    let to = receiver.io.clients_address();
    sender.send_client(to, b"found");
    let (buf, _) = receiver.wait_for_datagram();
    assert_eq!(receiver.io.datagram(&buf), b"found");
    receiver.io.release(buf);
}

#[test]
fn sent_bytes_may_change_once_the_poll_returned() {
    let mut receiver = node(settings());
    let mut sender = node_with_peer(settings(), &receiver);
    for number in 0..60u8 {
        // The same bytes of the arena, again and again.
        sender.send_peer(&[number; 64]);
    }
    let mut seen = Vec::new();
    while seen.len() < 60 {
        for event in receiver.wait() {
            let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
            let bytes = receiver.io.datagram(&buf);
            assert!(bytes.iter().all(|byte| *byte == bytes[0]));
            seen.push(bytes[0]);
            receiver.io.release(buf);
        }
    }
    assert_eq!(seen, (0..60).collect::<Vec<u8>>());
}

#[test]
#[should_panic(expected = "from an arena that this reactor was not made with")]
fn bytes_of_a_foreign_arena_are_refused() {
    let receiver = node(settings());
    let mut sender = node_with_peer(settings(), &receiver);
    sender.io.send_peer(0, receiver.send.slice(0, 1));
}

/// Bytes for a train of these datagrams, one counter over all of them.
fn fill_train(sender: &mut Node, lengths: &[usize]) -> Vec<(usize, usize)> {
    let all: usize = lengths.iter().sum();
    sender.send.get_mut(0, all).iter_mut().enumerate().for_each(|(at, byte)| *byte = at as u8);
    let starts = lengths.iter().scan(0, |next, len| {
        *next += len;
        Some(*next - len)
    });
    starts.zip(lengths.iter().copied()).collect()
}

/// Queues a train to a receiver's socket.
fn send_train_to(sender: &mut Node, receiver: SocketAddrV4, socket: Socket, lengths: &[usize]) {
    let places = fill_train(sender, lengths);
    let slices: Vec<_> = places.iter().map(|(start, len)| sender.send.slice(*start, *len)).collect();
    match socket {
        Socket::Peers => sender.io.send_peer_train(0, &slices),
        Socket::Clients => sender.io.send_client_train(receiver, &slices),
    }
}

fn send_train(sender: &mut Node, lengths: &[usize]) {
    send_train_to(sender, any_port(), Socket::Peers, lengths);
}

/// Takes this many datagrams, each released at once: their lengths and whether they were cut. Checks that their bytes are one
/// counter.
fn take_train(receiver: &mut Node, from: Option<SocketAddrV4>, count: usize) -> Vec<(usize, bool)> {
    let mut expected = (0..).map(|at: usize| at as u8);
    let mut came = Vec::new();
    while came.len() < count {
        for event in receiver.wait() {
            let Event::Datagram { buf, from: sender } = event else { panic!("expected a datagram, got {event:?}") };
            assert_eq!(sender, from);
            came.push((receiver.io.datagram(&buf).len(), buf.cut));
            assert!(receiver.io.datagram(&buf).iter().all(|byte| Some(*byte) == expected.next()));
            receiver.io.release(buf);
        }
    }
    came
}

fn trains_arrive_whole(socket: Socket, segmentation: bool, receive_offload: bool) {
    let mut receiver = node(Settings { receive_offload, ..settings() });
    receiver.expect_quiet();
    let mut sender = node_with_peer(Settings { segmentation, ..settings() }, &receiver);
    let from = (socket == Socket::Clients).then(|| sender.io.clients_address());
    for lengths in [&[100, 100, 100][..], &[1_472, 1_472, 1_472, 7], &[50], &[1_000; SEGMENTS_MAX], &[1_001, 999]] {
        let before = (sender.io.stats(), receiver.io.stats());
        let to = receiver.io.clients_address();
        send_train_to(&mut sender, to, socket, lengths);
        sender.expect_quiet();
        let after = sender.io.stats();
        assert_eq!(after.sends - before.0.sends, lengths.len() as u64);
        let is_train = segmentation && lengths.len() > 1;
        assert_eq!(after.trains - before.0.trains, u64::from(is_train));
        assert_eq!(after.enters - before.0.enters, SEND_CALLS);
        let whole: Vec<_> = lengths.iter().map(|len| (*len, false)).collect();
        assert_eq!(take_train(&mut receiver, from, lengths.len()), whole);
        let after = receiver.io.stats();
        assert_eq!(after.trains_received - before.1.trains_received, u64::from(is_train && receive_offload));
        let datagrams = |stats: Stats| stats.datagrams_peers + stats.datagrams_clients;
        assert_eq!(datagrams(after) - datagrams(before.1), lengths.len() as u64);
    }
}

#[test]
fn a_train_arrives_as_the_datagrams_that_it_was_made_of() {
    for socket in [Socket::Peers, Socket::Clients] {
        for (segmentation, receive_offload) in [(true, true), (true, false), (false, true), (false, false)] {
            trains_arrive_whole(socket, segmentation, receive_offload);
        }
    }
}

#[test]
fn a_train_beyond_the_bound_of_a_poll_goes_on_in_the_next() {
    let mut receiver = node(Settings { max_events: 3, ..settings() });
    receiver.expect_quiet();
    let mut sender = node_with_peer(settings(), &receiver);
    send_train(&mut sender, &[8; 10]);
    sender.expect_quiet();
    let mut seen = Vec::new();
    for expected in [3, 3, 3, 1] {
        let events = receiver.wait();
        assert_eq!(events.len(), expected);
        for event in events {
            let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
            seen.extend_from_slice(receiver.io.datagram(&buf));
            receiver.io.release(buf);
        }
    }
    assert_eq!(seen, (0..80).collect::<Vec<u8>>());
    assert_eq!(receiver.io.stats().trains_received, 1);
    receiver.expect_quiet();
}

#[test]
fn a_buffer_is_free_only_with_the_last_of_its_datagrams() {
    let mut receiver = node(Settings { rx_buffers_peers: 4, ..settings() });
    receiver.expect_quiet();
    let mut sender = node_with_peer(settings(), &receiver);
    for _ in 0..5 {
        send_train(&mut sender, &[16, 16, 16]);
    }
    sender.expect_quiet();
    let mut held = hold_until_overrun(&mut receiver, Socket::Peers);
    assert_eq!(held.len(), 12, "four buffers of three");
    // One datagram of each buffer stays: the kernel has none to receive the fifth train into.
    let kept: Vec<RxBuf> = (0..4).map(|at| held.remove(2 * at + at % 3)).collect();
    assert_eq!(kept.iter().map(|buf| buf.id).collect::<HashSet<_>>().len(), 4);
    held.into_iter().for_each(|buf| receiver.io.release(buf));
    receiver.expect_quiet();
    for buf in &kept {
        let at = buf.start as usize % 64;
        assert_eq!(receiver.io.datagram(buf), (at as u8..).take(16).collect::<Vec<u8>>(), "nobody wrote over it");
    }
    for buf in kept {
        receiver.io.release(buf);
    }
    assert_eq!(take_train(&mut receiver, None, 3), [(16, false); 3]);
}

#[test]
fn datagrams_of_a_train_beyond_the_longest_arrive_cut_and_marked() {
    let small = Settings { rx_buffer_bytes: 256, ..settings() };
    let mut receiver = node(small);
    receiver.expect_quiet();
    let mut sender = node_with_peer(settings(), &receiver);
    send_train(&mut sender, &[512, 512, 512, 200]);
    sender.expect_quiet();
    // 512 is a multiple of the counter's period, so that each datagram begins anew, cut or not.
    assert_eq!(take_train(&mut receiver, None, 4), [(256, true), (256, true), (256, true), (200, false)]);
    assert_eq!(receiver.io.stats().datagrams_cut, 3);
    send_train(&mut sender, &[32_000, 32_000]);
    sender.expect_quiet();
    assert_eq!(take_train(&mut receiver, None, 2), [(256, true); 2], "as long as a train can be");
}

#[test]
fn more_trains_than_places_are_sent_early_and_none_is_lost() {
    const TRAINS: usize = 150;
    let mut receiver = node(Settings { rx_buffers_peers: 512, cq_entries: 1_024, ..settings() });
    receiver.expect_quiet();
    let mut sender = node_with_peer(settings(), &receiver);
    for _ in 0..TRAINS {
        send_train(&mut sender, &[64, 64]);
    }
    sender.expect_quiet();
    assert_eq!(sender.io.stats().trains, TRAINS as u64);
    let mut came = 0;
    while came < 2 * TRAINS {
        for event in receiver.wait() {
            let Event::Datagram { buf, .. } = event else { panic!("expected a datagram, got {event:?}") };
            came += 1;
            receiver.io.release(buf);
        }
    }
}

#[test]
fn a_path_that_takes_no_trains_gets_single_datagrams_from_then_on() {
    // No datagram goes to port 0; a device that cannot cut up trains refuses them with the same error.
    let mut sender = node(Settings { peers: vec![any_port()], ..settings() });
    send_train(&mut sender, &[64, 64]);
    assert!(matches!(sender.look()[..], [Event::SendFailed(libc::EINVAL)]));
    send_train(&mut sender, &[64, 64]);
    let events = sender.look();
    assert!(matches!(events[..], [Event::SendFailed(_), Event::SendFailed(_)]), "{events:?}");
    assert_eq!((sender.io.stats().trains, sender.io.stats().sends), (1, 4));
    // The clients' paths are others.
    let mut receiver = node(settings());
    receiver.expect_quiet();
    let to = receiver.io.clients_address();
    send_train_to(&mut sender, to, Socket::Clients, &[64, 64]);
    sender.expect_quiet();
    assert_eq!(take_train(&mut receiver, Some(sender.io.clients_address()), 2), [(64, false); 2]);
    assert_eq!(sender.io.stats().trains, 2);
}

#[test]
fn a_client_at_port_0_switches_no_trains_off() {
    let mut sender = node(settings());
    send_train_to(&mut sender, any_port(), Socket::Clients, &[64, 64]);
    let events = sender.look();
    assert!(matches!(events[..], [Event::SendFailed(_), Event::SendFailed(_)]), "{events:?}");
    let receiver = node(settings());
    send_train_to(&mut sender, receiver.io.clients_address(), Socket::Clients, &[64, 64]);
    sender.expect_quiet();
    assert_eq!(sender.io.stats().trains, 1);
}
