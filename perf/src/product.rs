//! The product's client as a target of load: the client library as an application uses it, nothing else.

use crate::audit::{Journal, MIN_ENTRY_BYTES};
use crate::cluster::Cluster;
use crate::load::Target;
use crate::options::ShapeArgs;
use crate::output;
use crate::stats::{Measured, Summary};
use anyhow::{Context, bail, ensure};
use std::fs::File;
use std::io::Read;
use std::time::{Duration, Instant};
use synod_client::{Client, Event, OfferError, Options, Stage};
use synod_wire::GroupId;
use synod_wire::kv::{COMMAND_HEAD_BYTES, Command, MAX_COMMAND_BYTES, MAX_VALUE_BYTES};

/// How long an entry may take, and how long a cluster may take to elect a leader.
const DEADLINE: Duration = Duration::from_secs(15);
/// How often a node's death is looked for while waiting for the leader.
const LOOK: Duration = Duration::from_millis(100);

/// A put without its value.
const PUT_BYTES: usize = COMMAND_HEAD_BYTES + size_of::<u64>();

/// How the client behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientSetup {
    /// Entries and datagrams.
    pub(crate) shape: ShapeArgs,
    /// The most entries in flight.
    pub(crate) window: usize,
    /// How long it polls and yields before it blocks.
    pub(crate) spin: Duration,
}

/// A session under load.
pub(crate) struct ProductClient {
    client: Client,
    entry: Vec<u8>,
    /// Entries are puts of so many keys, one after the other; 0: they are no commands.
    keys: u64,
    offered: u64,
    /// Entries after which a datagram is sent off, where fewer than fit were asked for.
    per_datagram: Option<usize>,
    since_sent: usize,
    /// Acknowledged by a poll that only sent.
    acknowledged: u64,
    journal: Option<Journal>,
    /// What the leader's receipts said, in the order of [`Stage::ALL`]; empty if none are asked for.
    stages: Vec<Measured>,
}

impl ProductClient {
    /// Opens a new session; waits for a leader.
    pub(crate) fn connect(cluster: &mut Cluster, setup: &ClientSetup) -> anyhow::Result<ProductClient> {
        ProductClient::connect_to(cluster, cluster.group, setup)
    }

    /// The same with one of the other groups.
    pub(crate) fn connect_to(
        cluster: &mut Cluster,
        group: GroupId,
        setup: &ClientSetup,
    ) -> anyhow::Result<ProductClient> {
        ProductClient::open(cluster, group, setup, false)
    }

    /// The same, and the session asks for a receipt of every append: [`ProductClient::stages`].
    pub(crate) fn connect_for_stages(cluster: &mut Cluster, setup: &ClientSetup) -> anyhow::Result<ProductClient> {
        ProductClient::open(cluster, cluster.group, setup, true)
    }

    fn open(
        cluster: &mut Cluster,
        group: GroupId,
        setup: &ClientSetup,
        receipts: bool,
    ) -> anyhow::Result<ProductClient> {
        let shape = setup.shape;
        let datagram = shape.datagram_bytes;
        let options = Options {
            window_entries: setup.window,
            window_bytes: (setup.window * shape.size).max(datagram),
            deadline: DEADLINE,
            max_datagram_bytes: datagram,
            spin: setup.spin,
            receipts,
            ..Options::default()
        };
        let client = Client::connect(cluster.id, group, cluster.members_of(group.0), random_id()?, options)?;
        let mut product = ProductClient {
            client,
            entry: vec![0; shape.size],
            keys: 0,
            offered: 0,
            per_datagram: shape.entries_per_datagram,
            since_sent: 0,
            acknowledged: 0,
            journal: None,
            stages: if receipts { vec![Measured::new(); Stage::ALL.len()] } else { Vec::new() },
        };
        let until = Instant::now() + DEADLINE;
        while !product.client.core().is_open() {
            product.take(LOOK)?;
            cluster.check()?;
            if Instant::now() > until {
                bail!("no session could be opened: {}", product.client.unavailable(0));
            }
        }
        Ok(product)
    }

    /// Numbers the entries from now on, which is before the first, and keeps what is acknowledged; `timed`: with times.
    pub(crate) fn keep_journal(&mut self, timed: bool) -> anyhow::Result<()> {
        ensure!(self.offered == 0, "entries were sent already");
        ensure!(
            self.entry.len() >= MIN_ENTRY_BYTES,
            "entries that carry a number have {MIN_ENTRY_BYTES} bytes or more"
        );
        self.journal = Some(Journal::new(self.client.core().client_id() as u64, timed));
        Ok(())
    }

    /// Entries are puts of `keys` keys from now on, for a group that keeps a map.
    pub(crate) fn put(&mut self, keys: u64) -> anyhow::Result<()> {
        let longest = MAX_VALUE_BYTES + PUT_BYTES;
        ensure!((PUT_BYTES..=longest).contains(&self.entry.len()), "a put here has {PUT_BYTES} to {longest} bytes");
        self.keys = keys;
        Ok(())
    }

    /// What was acknowledged since [`ProductClient::keep_journal`].
    pub(crate) fn journal(&self) -> anyhow::Result<&Journal> {
        self.journal.as_ref().context("no journal was asked for")
    }

    /// Datagrams that the session sent, and entries that it sent again.
    pub(crate) fn sent(&self) -> (u64, u64) {
        let counters = self.client.core().counters();
        (counters.datagrams_sent, counters.entries_resent)
    }

    /// How long after its reception by the leader each stage was reached: of the runs that had reached it when they were
    /// answered.
    pub(crate) fn stages(&self) -> Vec<output::Stage> {
        let told = Stage::ALL.iter().zip(&self.stages).map(|(stage, measured)| (stage.name(), measured.summary()));
        told.map(|(name, Summary { p50_us, p99_us, .. })| output::Stage { name: name.into(), p50_us, p99_us }).collect()
    }

    /// Polls and keeps count of what was acknowledged.
    fn take(&mut self, max_wait: Duration) -> anyhow::Result<()> {
        let mut entries_acked = 0;
        let mut bad = None;
        let journal = &mut self.journal;
        let stages = &mut self.stages;
        self.client.poll(max_wait, &mut |event| match event {
            Event::Acked { client_seq, sequence, entries, .. } => {
                entries_acked += u64::from(entries);
                if let Some(journal) = journal {
                    journal.acknowledged(client_seq, sequence.0, entries.into(), Instant::now());
                }
            }
            Event::Opened { .. } => {}
            Event::Receipt(receipt) => {
                for (stage, measured) in Stage::ALL.into_iter().zip(stages.iter_mut()) {
                    receipt.reached(stage).into_iter().for_each(|reached| measured.record(reached));
                }
            }
            other => bad = bad.or(Some(other)),
        })?;
        self.acknowledged += entries_acked;
        match bad {
            None => Ok(()),
            Some(event) => bail!("the session ended: {event:?}; {}", self.client.unavailable(0)),
        }
    }
}

impl Target for ProductClient {
    fn offer(&mut self) -> anyhow::Result<bool> {
        match &self.journal {
            // A new session numbers its entries from 1.
            Some(journal) => journal.fill(self.offered + 1, &mut self.entry),
            None if self.keys > 0 => fill_put(self.offered, self.keys, &mut self.entry),
            None => self.entry.fill(self.offered as u8),
        }
        match self.client.offer(&self.entry) {
            Ok(_) => {}
            Err(OfferError::Full) => return Ok(false),
            Err(error) => return Err(error.into()),
        }
        self.offered += 1;
        self.since_sent += 1;
        if self.per_datagram == Some(self.since_sent) {
            self.since_sent = 0;
            self.take(Duration::ZERO)?;
        }
        Ok(true)
    }

    fn poll(&mut self, max_wait: Duration) -> anyhow::Result<u64> {
        self.since_sent = 0;
        self.take(if self.acknowledged > 0 { Duration::ZERO } else { max_wait })?;
        Ok(std::mem::take(&mut self.acknowledged))
    }
}

/// A put of the next of so many keys, as long as the entry.
fn fill_put(number: u64, keys: u64, entry: &mut [u8]) {
    let (key, value) = ((number % keys).to_le_bytes(), [number as u8; MAX_VALUE_BYTES]);
    let mut out = [0; MAX_COMMAND_BYTES];
    let put = Command::Put { key: &key, value: &value[..entry.len() - PUT_BYTES] };
    let bytes = put.write(&mut out).expect("a put of an allowed length");
    entry.copy_from_slice(&out[..bytes]);
}

/// A client for each of `groups` groups, from the cluster's own on.
pub(crate) fn connect_groups(
    cluster: &mut Cluster,
    groups: u8,
    setup: &ClientSetup,
) -> anyhow::Result<Vec<ProductClient>> {
    let first = cluster.group.0;
    let groups = (first..first.saturating_add(groups)).map(GroupId);
    groups.map(|group| ProductClient::connect_to(cluster, group, setup)).collect()
}

fn random_id() -> anyhow::Result<u128> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes)).context("cannot read /dev/urandom")?;
    // Zero stands for "no session".
    Ok(u128::from_le_bytes(bytes).max(1))
}
