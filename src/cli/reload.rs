//! `synod config reload`: has a node of this host read its configuration again, by its admin address, and prints what came of it.
//! Exit code 0 also where keys wait for a restart: all that can be done by a reload is done.

use super::ReloadArgs;
use super::output::{Failure, Outcome, Style, print, print_json};
use crate::config::reload::{Change, Told};
use anyhow::{Context, anyhow};
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::time::Duration;

/// The longest answer that is read: far more than every key of the largest configuration.
const MAX_ANSWER_BYTES: u64 = 4 << 20;

/// Asks, and prints.
pub(super) fn reload(args: &ReloadArgs) -> Outcome {
    let (config, node) = args.node.load()?;
    let Some(address) = config.node(node).and_then(|node| node.admin_listen) else {
        return Err(Failure::Failed(anyhow!(
            "node {node} has no admin_listen, where it would be asked. Give it one and restart it, or send its process a SIGHUP \
             (`systemctl reload synod@{node}`): its log says what comes of it"
        )));
    };
    let (status, body) = post(address, Duration::from_millis(args.timeout_ms)).with_context(|| {
        format!("node {node} does not answer at {address}, its admin_listen: is it up, and on this host?")
    })?;
    if !matches!(status, 200 | 422) {
        return Err(Failure::Failed(anyhow!("node {node} refuses it (HTTP status {status}): {}", body.trim_end())));
    }
    let told: Told = serde_json::from_str(&body).with_context(|| format!("what answers at {address} is no node"))?;
    if args.output == Style::Json {
        print_json(&told)?;
        return if told.problems.is_empty() { Ok(()) } else { Err(Failure::Told) };
    }
    if !told.problems.is_empty() {
        let problems = told.problems.join("\n  ");
        return Err(Failure::Failed(anyhow!(
            "node {node} takes nothing over and goes on with what it has:\n  {problems}"
        )));
    }
    print(&text(&told))
}

fn text(told: &Told) -> String {
    let mut text = format!("{}: {} taken over, {} waiting\n", told.file, told.taken.len(), told.waits.len());
    let kinds = [("taken over", &told.taken), ("waits for a restart", &told.waits)];
    for (what, Change { key, old, new }) in kinds.iter().flat_map(|(what, all)| all.iter().map(move |one| (what, one)))
    {
        writeln!(text, "{what}: {key}: {old} -> {new}").expect("a string takes what is written");
    }
    text
}

/// One request: the status, and the body of the answer, whole. HTTP/1.0, so that it comes in one piece and the connection ends with it.
fn post(address: SocketAddrV4, timeout: Duration) -> anyhow::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&address.into(), timeout)?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_write_timeout(Some(timeout))?;
    write!(stream, "POST /reload HTTP/1.0\r\nHost: {address}\r\nContent-Length: 0\r\n\r\n")?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER_BYTES).read_to_string(&mut answer)?;
    parse(&answer).ok_or_else(|| anyhow!("it does not speak HTTP"))
}

fn parse(answer: &str) -> Option<(u16, String)> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        let answer = "HTTP/1.0 422 Unprocessable Entity\r\ncontent-length: 3\r\n\r\n{}\n";
        assert_eq!(parse(answer), Some((422, "{}\n".to_owned())));
        for other in ["", "SSH-2.0-OpenSSH\r\n", "HTTP/1.1 OK\r\n\r\n", "HTTP/1.1 200 OK\r\n"] {
            assert_eq!(parse(other), None, "{other}");
        }
    }

    #[test]
    fn each_key_has_a_line_with_both_values() {
        let change = |key: &str, old: &str, new: &str| Change { key: key.into(), old: old.into(), new: new.into() };
        let (taken, waits) = (vec![change("log.level", "\"info\"", "\"warn\"")], vec![change("cluster.id", "1", "7")]);
        let told = Told { file: "f.toml".into(), taken, waits, problems: Vec::new() };
        let lines = "f.toml: 1 taken over, 1 waiting\ntaken over: log.level: \"info\" -> \"warn\"\n\
                     waits for a restart: cluster.id: 1 -> 7\n";
        assert_eq!(text(&told), lines);
    }
}
