//! The status page of real processes: each figure stands where it is drawn, and is what the nodes say; what is not known is said not
//! to be. In headless Chromium, where there is one, it is drawn, and the picture is kept: `target/status-page.png`.

mod common;

use common::cluster::{Cluster, GROUP, SOON};
use common::http::{admin, ask, listen};
use common::{await_until, say, serial};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use synod_client::Appender;
use synod_wire::NodeId;

const PORT: u16 = 7600;
const ENTRIES: u64 = 300;

/// A tag of the page: its name, its attributes, and the text behind it.
#[derive(Debug)]
struct Tag<'a> {
    name: &'a str,
    attributes: BTreeMap<&'a str, &'a str>,
    text: &'a str,
}

impl Tag<'_> {
    fn get(&self, attribute: &str) -> &str {
        self.attributes.get(attribute).unwrap_or_else(|| panic!("no {attribute}: {self:?}"))
    }

    fn number(&self, attribute: &str) -> u64 {
        self.get(attribute).parse().unwrap_or_else(|_| panic!("{attribute} is no number: {self:?}"))
    }
}

/// All tags that open. The page's attributes are all in quotes, and hold no angle brackets.
fn tags(page: &str) -> Vec<Tag<'_>> {
    let open = page.split('<').skip(1).filter(|piece| !piece.starts_with(['/', '!']));
    open.map(|piece| {
        let (tag, text) = piece.split_once('>').unwrap_or_else(|| panic!("a tag that does not end: {piece:?}"));
        let (name, mut rest) = tag.split_once(' ').unwrap_or((tag, ""));
        let mut attributes = BTreeMap::new();
        while let Some((attribute, value)) = rest.trim_start().split_once("=\"") {
            let (value, behind) = value.split_once('"').unwrap_or_else(|| panic!("a value that does not end: {tag:?}"));
            attributes.insert(attribute, value);
            rest = behind;
        }
        assert!(rest.trim().is_empty(), "what is left of {tag:?}: {rest:?}");
        Tag { name, attributes, text }
    })
    .collect()
}

/// The tags of a class.
fn of_class<'a, 'p>(tags: &'a [Tag<'p>], class: &str) -> Vec<&'a Tag<'p>> {
    tags.iter().filter(|tag| tag.attributes.get("class") == Some(&class)).collect()
}

fn page(cluster: &Cluster, node: NodeId) -> String {
    let (status, head, body) = ask(cluster, node, "GET /");
    assert_eq!(status, 200, "{body}");
    assert!(head.contains("content-type: text/html; charset=utf-8"), "{head}");
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(body.starts_with("<!DOCTYPE html>") && body.ends_with("</html>"), "it is whole");
    body
}

fn append(cluster: &Cluster, entries: u64) {
    let members = cluster.config.client_addresses(GROUP);
    let session = Appender::connect(cluster.config.cluster_id(), GROUP, members, 1, cluster.options());
    let mut session = session.expect("a session");
    for _ in 0..entries {
        session.append(b"an entry").expect("an acknowledgement");
    }
}

#[test]
fn the_page_shows_what_the_nodes_say_and_says_what_is_not_known() {
    let _one = serial();
    let mut cluster = Cluster::prepare("page", |config| listen(config, PORT));
    cluster.start_all();
    let leader = cluster.await_leader(GROUP);
    append(&cluster, ENTRIES);
    cluster.await_converged(GROUP);
    let applied = cluster.status(leader, GROUP).expect("it answers").applied.0;
    // A follower's page: what it shows of the others it was told.
    let looker = cluster.others(leader)[0];
    let body = await_until(SOON, "the leader has heard how far its members are", || {
        let body = page(&cluster, looker);
        let tags = tags(&body);
        let rows = of_class(&tags, "position").into_iter().map(|tag| tag.attributes.get("data-matched").copied());
        let known = rows.filter(|matched| *matched == Some(&*applied.to_string())).count() >= 2;
        // The time line is noted once a second: a group that was quick has none with a leader yet.
        let noted = of_class(&tags, "leader").last().is_some_and(|tag| tag.attributes.contains_key("data-leader"));
        (known && noted).then_some(body)
    });
    let tags = tags(&body);
    shows_modes(&cluster, &tags, leader, None);
    let section = tags.iter().find(|tag| tag.name == "section").expect("a group");
    assert_eq!((section.number("data-group"), section.number("data-leader")), (0, u64::from(leader.0)));
    let log = of_class(&tags, "log")[0];
    assert_eq!(
        (log.number("data-first"), log.number("data-committed"), log.number("data-accepted")),
        (1, applied, applied)
    );
    let positions = of_class(&tags, "position");
    assert_eq!(positions.len(), 3);
    for (node, position) in cluster.members().into_iter().zip(positions) {
        assert_eq!(position.number("data-node"), u64::from(node.0));
        assert_eq!((position.number("data-chosen"), position.number("data-behind")), (applied, 0), "{position:?}");
    }
    let led = of_class(&tags, "leader").into_iter().map(|tag| tag.number("data-samples")).sum::<u64>();
    assert!(
        led >= 1
            && of_class(&tags, "leader").last().is_some_and(|tag| tag.number("data-leader") == u64::from(leader.0))
    );
    assert_eq!(of_class(&tags, "lease").last().map(|tag| tag.get("data-lease")), Some("off"));
    shows_latency(&tags);
    is_drawn(&cluster, leader);

    // One that goes is unknown, with the time; the leader still knows where it was.
    let gone = cluster.others(leader)[1];
    cluster.kill(gone);
    let body = await_until(SOON, "the page says that the node is not known", || {
        Some(page(&cluster, leader)).filter(|body| body.contains("unknown since"))
    });
    let tags = self::tags(&body);
    shows_modes(&cluster, &tags, leader, Some(gone));
    let said: Vec<_> = tags.iter().filter(|tag| tag.attributes.contains_key("data-unknown")).collect();
    assert!(said.len() == 1 && said[0].number("data-unknown") == u64::from(gone.0), "{said:?}");
    assert!(said[0].text.starts_with(&format!("node {gone} group 0: unknown since ")), "{said:?}");
    let positions = of_class(&tags, "position");
    let position = positions.iter().find(|tag| tag.number("data-node") == u64::from(gone.0)).expect("it is drawn");
    assert!(!position.attributes.contains_key("data-chosen"), "{position:?}");
    assert_eq!(position.number("data-matched"), applied);
    cluster.stop_all();
}

fn shows_modes(cluster: &Cluster, tags: &[Tag<'_>], leader: NodeId, unknown: Option<NodeId>) {
    let modes = of_class(tags, "mode");
    assert_eq!(modes.len(), cluster.members().len());
    for (node, mode) in cluster.members().into_iter().zip(modes) {
        let expected = if Some(node) == unknown { "unknown" } else { "TARGET" };
        assert_eq!((mode.number("data-node"), mode.get("data-mode")), (u64::from(node.0), expected), "{mode:?}");
        assert_eq!(mode.get("data-leads"), (node == leader).to_string(), "{mode:?}");
    }
}

fn shows_latency(tags: &[Tag<'_>]) {
    let buckets = of_class(tags, "bucket");
    let counted: u64 = buckets.iter().map(|bucket| bucket.number("data-count")).sum();
    assert!(counted > 0 && counted <= ENTRIES + 10, "{counted}");
    assert!(buckets.is_sorted_by_key(|bucket| bucket.number("data-from-ns")));
    let told: Vec<_> = of_class(tags, "percentile")
        .into_iter()
        .map(|tag| (tag.get("data-percentile"), tag.number("data-ns")))
        .collect();
    assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["p50", "p99", "p99.9"]);
    assert!(told.is_sorted_by_key(|(_, ns)| *ns) && told[0].1 > 0, "{told:?}");
    // The median lies in the bucket that holds it.
    let mut below = 0;
    let of_median = buckets.iter().position(|bucket| {
        below += bucket.number("data-count");
        below >= counted.div_ceil(2)
    });
    let at = of_median.expect("one holds it");
    let next = buckets.get(at + 1).map_or(u64::MAX, |bucket| bucket.number("data-from-ns"));
    let from = buckets[at].number("data-from-ns");
    assert!(from <= told[0].1 + told[0].1 / 32 && told[0].1 <= next, "{told:?}, {from} to {next}");
}

/// Renders it as people see it, if the program is there.
fn is_drawn(cluster: &Cluster, node: NodeId) {
    const TEST: &str = "the_page_in_chromium";
    let Some(chromium) = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(found) else {
        return say(&format!("SKIPPED {TEST}: no Chromium is installed (apt-get install chromium)"));
    };
    // Beside the directory of the tests: where it is looked for after a run.
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("a target directory").join("status-page.png");
    let profile = cluster.dir().join("chromium");
    let mut command = Command::new(chromium);
    command.args(["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]);
    command.arg(format!("--user-data-dir={}", profile.display())).arg("--window-size=1040,1400");
    command
        .arg(format!("--screenshot={}", place.display()))
        .arg("--dump-dom")
        .arg(format!("http://{}/", admin(cluster, node)));
    command.stdin(Stdio::null());
    let _old: bool = std::fs::remove_file(&place).is_ok();
    let output = run_for(command, Duration::from_secs(20));
    let dom = String::from_utf8_lossy(&output);
    // As the browser understood it, not as it was sent.
    let tags = tags(&dom);
    shows_modes(cluster, &tags, node, None);
    assert_eq!(of_class(&tags, "position").len(), 3);
    let png = std::fs::read(&place).expect("a screenshot");
    assert!(png.starts_with(b"\x89PNG\r\n\x1a\n"), "it is a picture");
    let size = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    assert_eq!((size(16), size(20)), (1_040, 1_400));
    assert!(png.len() > 30_000, "{} bytes: an empty page takes a few thousand", png.len());
    say(&format!("{TEST}: {} ({} bytes)", place.display(), png.len()));
}

fn found(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A process that does not outlive the test, whatever becomes of it.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It has ended by itself, if all is well, and a drop cannot fail.
        let _gone: bool = self.0.kill().is_err() | self.0.wait().is_err();
    }
}

/// What a program printed that ends by itself in time.
fn run_for(mut command: Command, time: Duration) -> Vec<u8> {
    let mut child = Ended(command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("it starts"));
    let mut out = child.0.stdout.take().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        std::io::Read::read_to_end(&mut out, &mut bytes).map(|_| bytes)
    });
    let status = await_until(time, "Chromium ends", || child.0.try_wait().expect("look at it"));
    assert!(status.success(), "{status}");
    reader.join().expect("the reader lives").expect("its output")
}
