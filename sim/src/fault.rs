//! The faults that the simulator injects, each with its number in the project's fault list. Plain data.

use serde::{Deserialize, Serialize};

/// How a fault comes about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// Each datagram or write has this chance: the plan's rate is in parts per million.
    Each,
    /// Strikes now and then: the plan's rate is a weight among those that strike.
    Strike,
}

macro_rules! faults {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $style:ident, $area:ident;)*) => {
        /// A kind of fault.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// Every kind.
            pub const ALL: &'static [Fault] = &[$(Fault::$name),*];

            /// Its number in the fault list.
            pub fn number(self) -> u32 {
                match self { $(Fault::$name => $number,)* }
            }

            /// How it comes about.
            pub fn style(self) -> Style {
                match self { $(Fault::$name => Style::$style,)* }
            }

            /// What it breaks.
            pub fn area(self) -> Area {
                match self { $(Fault::$name => Area::$area,)* }
            }

            /// Its name.
            pub fn name(self) -> &'static str {
                match self { $(Fault::$name => stringify!($name),)* }
            }
        }
    };
}

/// What a fault breaks; profiles choose by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Area {
    /// Links between nodes, and between clients and nodes.
    Network,
    /// A node's log.
    Disk,
    /// Clocks.
    Clock,
    /// Processes: crashes and stalls.
    Process,
    /// Clients, and load.
    Client,
    /// Changes of the members: the rates are chances at each of the operator's looks.
    Members,
    /// What the nodes run.
    Releases,
}

faults! {
    /// A datagram is lost.
    Loss = 1, Each, Network;
    /// A datagram comes twice.
    Duplicate = 2, Each, Network;
    /// A datagram takes far longer than others, and is overtaken.
    Delay = 3, Each, Network;
    /// A set of nodes is cut off from the others.
    Partition = 4, Strike, Network;
    /// A link works in one direction only.
    OneWay = 5, Strike, Network;
    /// Each node reaches its neighbours only.
    Chained = 6, Strike, Network;
    /// A link holds its datagrams back for seconds.
    Clog = 7, Strike, Network;
    /// A bit flips in a datagram.
    BitFlip = 8, Each, Network;
    /// A link passes small datagrams only.
    MtuHole = 9, Strike, Network;
    /// At a crash, a write in flight is torn by sector.
    TornWrite = 10, Each, Disk;
    /// At a crash, a write in flight is lost (else it is whole).
    LostWrite = 11, Each, Disk;
    /// A sector of one node's log goes bad.
    Corruption = 12, Strike, Disk;
    /// Sectors of several nodes' logs go bad, no slot's at more than one of them.
    CorruptionEverywhere = 13, Strike, Disk;
    /// A block appears where it was not written.
    Misdirected = 14, Strike, Disk;
    /// A write is reported done and never reaches the disk.
    PhantomWrite = 15, Strike, Disk;
    /// Housekeeping cannot read the log.
    ReadError = 16, Each, Disk;
    /// A page of one node's log cannot be read when it starts again.
    Unreadable = 16, Strike, Disk;
    /// A write or its sync fails; the process ends and is started again.
    SyncError = 17, Strike, Disk;
    /// There is no space for the next segment for a while.
    NoSpace = 18, Strike, Disk;
    /// The disk stalls, or is slow.
    DiskStall = 19, Strike, Disk;
    /// A write is done in part; completions come out of order.
    ShortWrite = 20, Each, Disk;
    /// A node's disk is replaced by a freshly formatted one.
    Amnesia = 21, Strike, Disk;
    /// A node's disk is rolled back: the syncs since then were lies.
    Rollback = 22, Strike, Disk;
    /// The wall clock jumps.
    WallJump = 23, Strike, Clock;
    /// Monotonic clocks drift apart.
    Drift = 24, Strike, Clock;
    /// A process is frozen for a while.
    Pause = 25, Strike, Process;
    /// A process is killed and started again.
    Kill = 27, Strike, Process;
    /// The leader is frozen past the election time-out.
    PauseLeader = 28, Strike, Process;
    /// All nodes lose power at once.
    PowerCut = 29, Strike, Process;
    /// A process is killed inside its recovery, inside format or segment preparation, or right after recovery.
    KillInRecovery = 30, Each, Process;
    /// A core is slow while the others go on.
    SlowCore = 31, Strike, Process;
    /// Datagrams of a node of another cluster, or of no member.
    WrongIdentity = 36, Strike, Network;
    /// Clients give up early, and retry at another node under the same session.
    ClientRestart = 38, Strike, Client;
    /// So many sessions open that others are evicted, and retry.
    Eviction = 39, Strike, Client;
    /// Old datagrams are sent again, clients' from a foreign address.
    Replay = 40, Strike, Network;
    /// Datagrams of noise to both sockets.
    Fuzz = 43, Strike, Network;
    /// Several times the load for a while.
    Overload = 46, Strike, Client;
    /// The receive buffers run out.
    Overrun = 47, Strike, Process;
    /// Completions are held back, as a full completion queue's are, and come all at once: more than a turn takes.
    Bunched = 48, Strike, Process;
    /// Members that were away come back together while the load is at its highest.
    CatchUpStorm = 49, Strike, Process;
    /// A subscriber acknowledges nothing for a while: it is silent, or takes nothing. (Last, so that other kinds are drawn as
    /// they were.)
    DeafSubscriber = 41, Strike, Client;
    /// Chunks of a snapshot are read for another member, and a bit of them is not what was written.
    BadChunk = 14, Each, Disk;
    /// The leader dies in the middle of a change of the members.
    LeaderDiesInChange = 33, Each, Members;
    /// A second change is asked for while the first is under way, of the leader and of another member.
    OverlappingChanges = 34, Each, Members;
    /// A learner is cut off, and its promotion is asked for meanwhile.
    LaggingLearner = 35, Each, Members;
    /// A removed node comes back with the log and the configuration that it had.
    ReturnsRemoved = 37, Each, Members;
    /// A node that starts is of the next release.
    MixedReleases = 32, Each, Releases;
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.number())
    }
}
