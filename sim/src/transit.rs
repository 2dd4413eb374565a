//! Datagrams on their way, and where they arrive.

use crate::checks::Checked;
use crate::fault::Fault;
use crate::io::{Arrival, RX_BUFFERS, socket_index};
use crate::load::Client;
use crate::net::Fate;
use crate::node::{Health, node_address, node_at};
use crate::sim::{Happening, Sim};
use crate::trace::{End, Glance, What};
use std::rc::Rc;
use synod_ring::Socket;

impl Sim {
    /// A datagram goes on its way: lost, late, twice, damaged, or just so. `life` is the receiving client's.
    pub(crate) fn transmit(&mut self, from: End, to: End, peers: bool, life: u16, bytes: Rc<[u8]>) {
        let bytes = self.as_released(from, bytes);
        let glance = Glance::of(&bytes);
        self.note(What::Sent(from, to, glance));
        self.net.history.remember(from, to, peers, &bytes);
        if self.losing.iter().any(|losing| losing.takes(self.now_ns, from, to, &bytes)) {
            return self.note(What::Lost(from, to, glance, "script"));
        }
        let copies = 1 + u64::from(self.net.doubles());
        if copies > 1 {
            self.coverage.fault(Fault::Duplicate);
        }
        for _ in 0..copies {
            match self.net.fate(self.now_ns, from, to, bytes.len()) {
                Fate::Lost(why) => {
                    if why == "loss" {
                        self.coverage.fault(Fault::Loss);
                    }
                    self.note(What::Lost(from, to, glance, why));
                }
                Fate::Arrives { delay_ns, late } => {
                    if late {
                        self.coverage.fault(Fault::Delay);
                    }
                    let flipped = self.net.flip(&bytes);
                    if flipped.is_some() {
                        self.coverage.fault(Fault::BitFlip);
                    }
                    let bytes = flipped.unwrap_or_else(|| bytes.clone());
                    self.after(delay_ns, Happening::Datagram { from, to, peers, life, bytes });
                }
            }
        }
    }

    pub(crate) fn on_datagram(&mut self, from: End, to: End, peers: bool, life: u16, bytes: Rc<[u8]>) -> Checked {
        let glance = Glance::of(&bytes);
        match to {
            End::Node(node) => {
                if self.nodes[node].health != Health::Up {
                    self.note(What::Lost(from, to, glance, "down"));
                    return Ok(());
                }
                self.note(What::Arrived(from, to, glance));
                let socket = if peers { Socket::Peers } else { Socket::Clients };
                let address = self.address_of(from);
                let mut port = self.nodes[node].port.borrow_mut();
                if port.waiting[socket_index(socket)] >= RX_BUFFERS {
                    port.inbox.push_back(Arrival::Overrun(socket));
                    self.coverage.fault(Fault::Overrun);
                } else {
                    port.waiting[socket_index(socket)] += 1;
                    self.checks.streams.arrived(node, &bytes);
                    port.inbox.push_back(Arrival::Datagram { socket, from: (!peers).then_some(address), bytes });
                }
                drop(port);
                self.wake_node(node);
                Ok(())
            }
            End::Client(client) => {
                let now_ns = self.now_ns;
                let address = self.address_of(from);
                match &mut self.clients[client] {
                    Client::Appender(appender) if appender.life() != life => {
                        self.note(What::Lost(from, to, glance, "closed"));
                        return Ok(());
                    }
                    Client::Appender(appender) => appender.handle(now_ns, address, &bytes),
                    Client::Reader(reader) => reader.handle(now_ns, address, &bytes),
                    Client::Subscriber(subscriber) => subscriber.handle(now_ns, address, &bytes),
                }
                self.note(What::Arrived(from, to, glance));
                if let Some(node) = node_at(address) {
                    self.hear(client, node, &bytes)?;
                }
                self.drive(client)
            }
            End::Stranger => Ok(()),
        }
    }

    fn address_of(&self, end: End) -> std::net::SocketAddrV4 {
        match end {
            End::Node(node) => node_address(node),
            End::Client(client) => match &self.clients[client] {
                Client::Appender(appender) => appender.address(),
                Client::Reader(reader) => reader.address(),
                Client::Subscriber(subscriber) => subscriber.address(),
            },
            End::Stranger => std::net::SocketAddrV4::new(std::net::Ipv4Addr::new(10, 9, 9, 9), 9),
        }
    }
}
