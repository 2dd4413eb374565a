//! A run's plan: all that the seed decides before the run begins. It is what `replay` reads and what shrinking edits; a
//! plan and a commit determine a run bit for bit. Pure.

use crate::fault::{Area, Fault, Style};
use crate::node::MAX_DRIFT_PPM;
use crate::rng::Rng;
use crate::script::Step;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use synod_wire::batch::{CONDITION_BYTES, MIN_BATCH_BYTES, max_entry_bytes};

/// What fills a datagram of an Ethernet frame.
pub(crate) const MAX_BATCH_BYTES: usize = 1_408;

/// Runs with a key-value map, of a hundred.
const KV_PERCENT: u64 = 30;
/// Runs in which snapshots are sent to members that lag, of a hundred.
const TRANSFER_PERCENT: u64 = 25;
/// Runs with nodes of two releases, of a hundred.
const MIXED_RELEASES_PERCENT: u64 = 20;
/// Runs whose members change, of a hundred.
const CHANGES_PERCENT: u64 = 20;
/// A command has room for a key and for what its value is recognised by.
const MIN_KV_ENTRY_BYTES: u64 = 64;

/// Which faults a run may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Profile {
    /// None.
    Calm,
    /// Links, and what comes over them.
    Network,
    /// Disks, and the crashes that they need to show.
    Disk,
    /// Processes and clocks.
    Process,
    /// All.
    Mixed,
    /// All that may strike a group whose members change, which they do in each run.
    Members,
}

impl Profile {
    /// Whether its runs may have this fault.
    pub fn has(self, fault: Fault) -> bool {
        wanted(self, fault)
    }
}

/// The times and sizes of a run. Nanoseconds unless the name says otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timing {
    /// Between heartbeats.
    pub heartbeat_ns: u64,
    /// The shortest election time-out.
    pub election_min_ns: u64,
    /// The longest.
    pub election_max_ns: u64,
    /// Before an unanswered message is sent again.
    pub retransmit_ns: u64,
    /// The shortest way of a datagram.
    pub delay_min_ns: u64,
    /// The mean of what comes on top.
    pub delay_mean_ns: u64,
    /// The mean of a log write with its sync.
    pub sync_mean_ns: u64,
    /// Between faults that strike, on average.
    pub strike_mean_ns: u64,
}

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// What every stream of chance starts from.
    pub seed: u64,
    /// Which faults it was drawn from.
    pub profile: Profile,
    /// Members that found the group.
    pub nodes: usize,
    /// Nodes beside them, which an operator may add.
    #[serde(default)]
    pub spares: usize,
    /// Between an operator's looks at the members, on average, milliseconds; 0: they never change.
    #[serde(default)]
    pub change_mean_ms: u64,
    /// The phase 1 quorum.
    pub phase1: usize,
    /// The phase 2 quorum.
    pub phase2: usize,
    /// How long the chaos lasts, simulated milliseconds.
    pub safety_ms: u64,
    /// Clients that append.
    pub clients: usize,
    /// Clients that read.
    pub readers: usize,
    /// Clients that subscribe to the whole log.
    #[serde(default)]
    pub subscribers: usize,
    /// Entries that all clients together append a simulated second.
    pub entries_per_second: u64,
    /// Entries offered at once, at most.
    pub burst: u64,
    /// Of a hundred bursts those in which entries are appended on a condition.
    #[serde(default)]
    pub conditional_percent: u64,
    /// The longest entry.
    pub max_entry_bytes: u64,
    /// The protocol's window.
    pub window_slots: u64,
    /// The largest batch: small ones make many slots, and promises of many parts.
    pub max_batch_bytes: usize,
    /// Log writes in flight at once.
    pub max_in_flight: usize,
    /// What the nodes' word rests on. No seed draws memory: under it nobody who crashes comes back, and what a run demands of
    /// restarts would be void. A scenario sets it.
    #[serde(default)]
    pub memory_durability: bool,
    /// How long a lease lasts; 0: leases are off.
    #[serde(default)]
    pub lease_ns: u64,
    /// How far clocks drift, parts per million.
    #[serde(default = "allowed_drift_ppm")]
    pub drift_ppm: u64,
    /// The nodes keep a key-value map, with small bounds, and clients append its commands.
    #[serde(default)]
    pub kv: bool,
    /// A snapshot is made when the tail passes a multiple of this.
    #[serde(default = "no_snapshots")]
    pub snapshot_entries: u64,
    /// How fast members that lag are sent what they lack.
    #[serde(default = "catch_up_bytes_per_s")]
    pub catch_up_bytes_per_s: u64,
    /// Bytes of the log that retention keeps; 0: all.
    #[serde(default)]
    pub retention_bytes: u64,
    /// Between an operator's trims, on average, milliseconds; 0: there are none.
    #[serde(default)]
    pub trim_mean_ms: u64,
    /// Between requests to hand over, on average; 0: there are none.
    #[serde(default)]
    pub transfer_ns: u64,
    /// Who is to lead, in this order.
    #[serde(default)]
    pub leader_priority: Vec<u8>,
    /// How many times longer than the others' quorum a leader's log may take; 0: as long as it likes.
    pub fail_slow_factor: u64,
    /// How long it may take in any case.
    pub fail_slow_min_ns: u64,
    /// A log write that takes longer hangs.
    pub hung_ns: u64,
    /// Nodes that may lose their state for good; no more than the quorums can spare.
    pub victims: Vec<usize>,
    /// Times.
    pub timing: Timing,
    /// A known bug that is put back, in builds that have them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mutant: Option<String>,
    /// What a scenario makes happen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub script: Vec<Step>,
    /// Rates: parts per million of each datagram or write, or the weight of what strikes.
    pub faults: BTreeMap<Fault, u64>,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(seed: u64, profile: Profile) -> Plan {
        let mut plan = Plan::of_founders(seed, profile);
        plan.change_members(&mut Rng::new(seed, "members"));
        plan
    }

    /// The plan of a seed, but for changes of the members: who founds the group is who it consists of.
    pub fn of_founders(seed: u64, profile: Profile) -> Plan {
        let mut rng = Rng::new(seed, "plan");
        let nodes = rng.pick(&[3, 3, 3, 3, 5, 5, 4]);
        let (phase1, phase2) = quorums(nodes, &mut rng);
        let mut plan = Plan {
            seed,
            profile,
            nodes,
            spares: 0,
            change_mean_ms: 0,
            phase1,
            phase2,
            safety_ms: rng.between(30_000, 50_000),
            clients: rng.between(2, 4) as usize,
            readers: rng.between(1, 2) as usize,
            subscribers: Rng::new(seed, "streams").pick(&[0, 0, 0, 0, 0, 1, 1, 2]),
            entries_per_second: rng.between(130, 150),
            // Each entry costs a large group more datagrams: it gets them in larger batches, fewer heartbeats, rarer strikes.
            burst: if nodes == 3 { rng.pick(&[24, 48, 96]) } else { rng.pick(&[48, 96]) },
            // From a stream of its own: no other choice hangs on it.
            conditional_percent: Rng::new(seed, "conditional").pick(&[0, 0, 10, 40]),
            max_entry_bytes: rng.pick(&[32, 32, 200, 1_300]),
            window_slots: rng.pick(&[8, 32, 64, 128]),
            max_batch_bytes: rng.pick(&[MIN_BATCH_BYTES, MAX_BATCH_BYTES, MAX_BATCH_BYTES]),
            max_in_flight: rng.pick(&[1, 1, 2, 4]),
            memory_durability: false,
            lease_ns: 0,
            drift_ppm: MAX_DRIFT_PPM,
            // A stream of its own: the rest of the plan is as it would be without.
            kv: Rng::new(seed, "machine").percent(KV_PERCENT),
            snapshot_entries: Rng::new(seed, "snapshots").pick(&[no_snapshots(), no_snapshots(), no_snapshots(), 400]),
            catch_up_bytes_per_s: catch_up_bytes_per_s(),
            retention_bytes: 0,
            trim_mean_ms: Rng::new(seed, "trims").pick(&[0, 0, 0, 2_000]),
            transfer_ns: transfer_ns(profile, &mut Rng::new(seed, "hand-over")),
            leader_priority: leader_priority(nodes, &mut Rng::new(seed, "priority")),
            victims: Vec::new(),
            fail_slow_factor: Rng::new(seed, "fail-slow").pick(&[0, 4, 4]),
            fail_slow_min_ns: 1_000_000,
            hung_ns: 0,
            timing: timing(nodes, &mut rng),
            mutant: None,
            script: Vec::new(),
            faults: BTreeMap::new(),
        };
        plan.snapshot_transfers(&mut Rng::new(seed, "transfers"));
        if plan.trim_mean_ms > 0 {
            // Enough for some segments, and for the snapshots without which none goes.
            (plan.max_entry_bytes, plan.snapshot_entries) = (1_300, plan.snapshot_entries.min(400));
        }
        let condition_bytes = if plan.conditional_percent > 0 { CONDITION_BYTES } else { 0 };
        let longest = max_entry_bytes(plan.max_batch_bytes) - condition_bytes;
        plan.max_entry_bytes = plan.max_entry_bytes.min(longest as u64);
        if plan.kv {
            plan.max_entry_bytes = plan.max_entry_bytes.max(MIN_KV_ENTRY_BYTES);
        }
        plan.hung_ns = plan.timing.election_max_ns * Rng::new(seed, "hung").pick(&[1, 2, 4]);
        plan.victims = victims(&plan, &mut rng);
        plan.faults = faults(&plan, &mut rng);
        let mut releases = Rng::new(seed, "releases");
        if wanted(profile, Fault::MixedReleases) && releases.percent(MIXED_RELEASES_PERCENT) {
            plan.faults.insert(Fault::MixedReleases, releases.pick(&[300_000, 500_000]));
        }
        plan.lease_ns = lease_ns(&plan.timing, &mut Rng::new(seed, "lease"));
        // Beyond what the nodes are told, leases promise nothing, nor do bounds; a round of reads uses no clock.
        if plan.lease_ns == 0 && Rng::new(seed, "drift").percent(30) {
            plan.drift_ppm = 5 * MAX_DRIFT_PPM;
        }
        plan
    }

    /// In some runs who lags is often sent a snapshot, as others have removed the front of their logs.
    fn snapshot_transfers(&mut self, rng: &mut Rng) {
        if !rng.percent(TRANSFER_PERCENT) {
            return;
        }
        self.snapshot_entries = rng.pick(&[200, 400]);
        self.catch_up_bytes_per_s = rng.pick(&[256 << 10, 1 << 20, 64 << 20]);
        self.trim_mean_ms = rng.pick(&[1_000, 2_000]);
    }

    /// In some runs an operator changes the members. What damages the log of a member that voted is left out: whom the group can
    /// spare changes too, and the operator's word for a lost disk is that it is replaced.
    fn change_members(&mut self, rng: &mut Rng) {
        let changes = match self.profile {
            Profile::Members => true,
            Profile::Mixed => rng.percent(CHANGES_PERCENT),
            _ => false,
        };
        if !changes {
            return;
        }
        self.spares = rng.pick(&[1, 2, 2]);
        self.change_mean_ms = rng.pick(&[700, 1_500, 3_000]);
        self.catch_up_bytes_per_s = self.catch_up_bytes_per_s.max(8 << 20);
        self.victims.clear();
        self.faults.retain(|fault, _| !ROTS.contains(fault));
        for fault in Fault::ALL.iter().filter(|fault| fault.area() == Area::Members) {
            let rate = rng.pick(&[0, 100_000, 300_000]);
            if rate > 0 {
                self.faults.insert(*fault, rate);
            }
        }
    }

    /// All nodes: the founders, then the spares.
    pub fn machines(&self) -> usize {
        self.nodes + self.spares
    }

    /// The rate of a fault; 0 if the plan has none of it.
    pub fn rate(&self, fault: Fault) -> u64 {
        self.faults.get(&fault).copied().unwrap_or(0)
    }

    /// Founders that must be up for anything to be chosen, while they are the members.
    pub fn core_size(&self) -> usize {
        self.phase1.max(self.phase2)
    }
}

/// Faults that take something of a member's log.
const ROTS: &[Fault] = &[
    Fault::Corruption,
    Fault::CorruptionEverywhere,
    Fault::Unreadable,
    Fault::Misdirected,
    Fault::PhantomWrite,
    Fault::Rollback,
];

fn quorums(nodes: usize, rng: &mut Rng) -> (usize, usize) {
    let majority = nodes / 2 + 1;
    if nodes > 3 && rng.percent(25) {
        // Flexible quorums: a small phase 2, paid for by phase 1.
        return (nodes - 1, 2);
    }
    (majority, majority)
}

fn timing(nodes: usize, rng: &mut Rng) -> Timing {
    let heartbeats: &[u64] =
        if nodes == 3 { &[40_000_000, 60_000_000, 100_000_000] } else { &[60_000_000, 100_000_000] };
    let heartbeat_ns = rng.pick(heartbeats);
    let election_min_ns = heartbeat_ns * rng.between(5, 8);
    Timing {
        heartbeat_ns,
        election_min_ns,
        election_max_ns: election_min_ns * 2,
        retransmit_ns: rng.pick(&[10_000_000, 20_000_000, 50_000_000]),
        delay_min_ns: rng.pick(&[20_000, 100_000, 1_000_000]),
        delay_mean_ns: rng.pick(&[20_000, 200_000, 2_000_000]),
        sync_mean_ns: rng.pick(&[100_000, 2_000_000, 8_000_000]),
        strike_mean_ns: rng.between(500, 1_600) * 1_000_000 * nodes as u64 / 3,
    }
}

fn allowed_drift_ppm() -> u64 {
    MAX_DRIFT_PPM
}

/// More than any run needs.
fn catch_up_bytes_per_s() -> u64 {
    64 << 20
}

/// More than any run appends.
fn no_snapshots() -> u64 {
    1 << 40
}

/// Half of the runs have leases: shorter than any election time-out, as long as the shortest, or longer, so that a successor has
/// to wait.
fn lease_ns(timing: &Timing, rng: &mut Rng) -> u64 {
    let min_ns = timing.election_min_ns;
    rng.pick(&[0, 0, 0, min_ns / 2, min_ns, timing.election_max_ns])
}

/// Half of the runs have leaders hand over, some of them often.
/// In a quarter of the runs, one or two nodes.
fn leader_priority(nodes: usize, rng: &mut Rng) -> Vec<u8> {
    let count = rng.pick(&[0, 0, 0, 0, 0, 0, 1, 2]);
    (0..count).map(|_| rng.below(nodes as u64) as u8).collect()
}

fn transfer_ns(profile: Profile, rng: &mut Rng) -> u64 {
    if profile == Profile::Calm { 0 } else { rng.pick(&[0, 0, 1_500_000_000, 6_000_000_000]) }
}

fn victims(plan: &Plan, rng: &mut Rng) -> Vec<usize> {
    let spare = plan.nodes - plan.core_size();
    let mut all: Vec<usize> = (0..plan.nodes).collect();
    let mut victims = Vec::new();
    for _ in 0..spare {
        victims.push(all.swap_remove(rng.below(all.len() as u64) as usize));
    }
    victims.sort_unstable();
    victims
}

/// Some runs have most kinds of faults, others a few of them often: what a few lead to, more would often prevent (Groce and
/// others, "Swarm testing", 2012).
fn faults(plan: &Plan, rng: &mut Rng) -> BTreeMap<Fault, u64> {
    let mut faults = BTreeMap::new();
    let kinds_percent = rng.pick(&[15, 30, 55, 80]);
    for fault in Fault::ALL.iter().filter(|fault| !matches!(fault.area(), Area::Members | Area::Releases)) {
        // Drawn for every kind, so that a profile does not change the others' rates.
        let chosen = rng.percent(kinds_percent);
        let rate = match fault.style() {
            Style::Each => each_rate(*fault, rng),
            Style::Strike => rng.between(1, 10),
        };
        if chosen && wanted(plan.profile, *fault) {
            faults.insert(*fault, rate);
        }
    }
    if faults.contains_key(&Fault::CorruptionEverywhere) {
        // One or the other: a victim's copy must not be the only good one.
        for fault in [
            Fault::Corruption,
            Fault::Unreadable,
            Fault::Amnesia,
            Fault::Rollback,
            Fault::Misdirected,
            Fault::PhantomWrite,
        ] {
            faults.remove(&fault);
        }
    }
    if plan.subscribers == 0 {
        faults.remove(&Fault::DeafSubscriber);
    }
    if Rng::new(plan.seed, "crowd").percent(50) {
        // A thousand sessions that open are a fifth of a run's datagrams.
        faults.remove(&Fault::Eviction);
    }
    faults
}

fn each_rate(fault: Fault, rng: &mut Rng) -> u64 {
    match fault {
        Fault::Loss => rng.pick(&[1_000, 20_000, 100_000, 300_000]),
        Fault::Duplicate => rng.pick(&[1_000, 20_000, 100_000, 500_000]),
        Fault::Delay => rng.pick(&[1_000, 20_000, 100_000]),
        Fault::BitFlip => rng.pick(&[1_000, 20_000]),
        Fault::ShortWrite => rng.pick(&[5_000, 100_000]),
        Fault::ReadError | Fault::BadChunk => rng.pick(&[20_000, 300_000]),
        Fault::KillInRecovery => rng.pick(&[50_000, 250_000]),
        Fault::TornWrite | Fault::LostWrite => rng.between(100_000, 700_000),
        _ => rng.between(100_000, 500_000),
    }
}

fn wanted(profile: Profile, fault: Fault) -> bool {
    let crash = matches!(fault, Fault::Kill | Fault::PowerCut);
    match profile {
        Profile::Calm => false,
        Profile::Network => fault.area() == Area::Network || fault == Fault::ClientRestart,
        Profile::Disk => fault.area() == Area::Disk || crash,
        Profile::Process => {
            matches!(fault.area(), Area::Process | Area::Clock) || matches!(fault, Fault::TornWrite | Fault::LostWrite)
        }
        Profile::Mixed => true,
        Profile::Members => !ROTS.contains(&fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_wire::Quorums;

    #[test]
    fn quorums_intersect_and_leave_the_victims_out() {
        for seed in 0..500 {
            let plan = Plan::of_founders(seed, Profile::Mixed);
            assert!(Quorums { phase1: plan.phase1, phase2: plan.phase2 }.intersect(plan.nodes), "{plan:?}");
            assert_eq!(plan.victims.len() + plan.core_size(), plan.nodes, "{plan:?}");
        }
    }

    #[test]
    fn a_plan_survives_its_file() {
        let plan = Plan::new(3, Profile::Mixed);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(serde_json::from_str::<Plan>(&text).unwrap(), plan);
    }
}
