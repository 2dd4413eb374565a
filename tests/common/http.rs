//! One request to a node's admin address.

use super::cluster::{Cluster, SOON};
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use synod_wire::NodeId;

/// Where a node of this cluster answers, on a port behind those of its members and clients: for `tune`.
pub fn listen(config: &mut synod::config::Config, port: u16) {
    for node in &mut config.nodes {
        node.admin_listen = Some(SocketAddrV4::new(*node.client_listen.ip(), port + u16::from(node.id)));
    }
}

/// Where a node answers.
pub fn admin(cluster: &Cluster, node: NodeId) -> SocketAddrV4 {
    cluster.config.node(node).and_then(|node| node.admin_listen).expect("it was configured")
}

/// One request; the status, the head and the body.
pub fn ask(cluster: &Cluster, node: NodeId, request: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(admin(cluster, node)).expect("the admin address answers");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    write!(stream, "{request} HTTP/1.1\r\nHost: synod\r\nConnection: close\r\n\r\n").expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    (status, head.to_owned(), body.to_owned())
}
