//! Where all facts about a host come from: files below a root directory, and the few system calls of [`Calls`]. The tests bring
//! a recorded tree and recorded answers; nothing else in `host` touches the machine.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

/// What the kernel tells or takes only by a call. Each error is a reason in words.
pub trait Calls {
    /// What io_uring offers, or what it lacks and how to mend that.
    fn io_uring(&self) -> Result<String, Refusal>;
    /// The unit of direct writes of files in this directory.
    fn direct_io(&self, dir: &Path) -> Result<u32, Refusal>;
    /// The device of this directory: major and minor.
    fn device(&self, dir: &Path) -> Result<(u32, u32), String>;
    /// The space of its file system.
    fn space(&self, dir: &Path) -> Result<Space, String>;
    /// How much memory this process may lock; None: no limit.
    fn memlock_bytes(&self) -> Result<Option<u64>, String>;
    /// The highest real-time priority that it may take.
    fn real_time_priority(&self) -> Result<u64, String>;
    /// The kernel's view of the clock.
    fn clock(&self) -> Result<Clock, String>;
    /// The network interface that has this address.
    fn nic_of(&self, address: Ipv4Addr) -> Result<String, String>;
    /// Its rings.
    fn rings(&self, nic: &str) -> Result<Rings, String>;
    /// Sets them.
    fn set_rings(&self, nic: &str, rings: RingSizes) -> Result<(), String>;
    /// How long it holds interrupts back.
    fn coalescing(&self, nic: &str) -> Result<Coalescing, String>;
    /// Sets that.
    fn set_coalescing(&self, nic: &str, coalescing: Coalescing) -> Result<(), String>;
}

/// The kernel refuses, and that is a fact (not an ignorance).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It was asked and refuses.
    Refused {
        /// What is.
        current: String,
        /// What to do.
        mend: String,
    },
    /// It could not be asked.
    Unknown(String),
}

/// The space below a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// What an unprivileged process may still take.
    pub free_bytes: u64,
    /// What the node's groups hold already.
    pub held_bytes: u64,
}

/// The kernel's view of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// A time daemon steers it.
    pub synchronised: bool,
    /// The largest error that the daemon vouches for.
    pub max_error_us: u64,
}

/// Descriptors of a network card's rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// For what comes in.
    pub rx: u32,
    /// For what goes out.
    pub tx: u32,
}

/// Rings as they are and as they could be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rings {
    /// As they are.
    pub now: RingSizes,
    /// The most.
    pub most: RingSizes,
}

/// How long a network card holds interrupts back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coalescing {
    /// After a datagram came in, microseconds.
    pub rx_us: u32,
    /// After one went out.
    pub tx_us: u32,
    /// The card changes `rx_us` by itself.
    pub adaptive_rx: bool,
    /// And `tx_us`.
    pub adaptive_tx: bool,
}

/// A host.
pub struct Host {
    root: PathBuf,
    /// Its system calls.
    pub calls: Box<dyn Calls>,
}

impl Host {
    /// This one.
    pub fn real() -> Host {
        Host::at(Path::new("/"), super::kernel::Kernel)
    }

    /// One whose files lie below `root`.
    pub fn at(root: &Path, calls: impl Calls + 'static) -> Host {
        Host { root: root.to_path_buf(), calls: Box::new(calls) }
    }

    /// A path of the host as one of this process.
    pub fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// A small file, without the line feed at its end; or why it cannot be read.
    pub fn read(&self, path: impl AsRef<Path>) -> Result<String, String> {
        let read = std::fs::read_to_string(self.place(&path));
        read.map(|text| text.trim_end().to_string()).map_err(|error| reason(path.as_ref(), &error))
    }

    /// The same; None if there is no such file.
    pub fn read_if_there(&self, path: impl AsRef<Path>) -> Result<Option<String>, String> {
        Ok(self.read_whole(path)?.map(|text| text.trim_end().to_string()))
    }

    /// Writes a line to a file that is there, as the files of /proc and /sys want it.
    pub fn write(&self, path: impl AsRef<Path>, text: &str) -> Result<(), String> {
        let opened = OpenOptions::new().write(true).truncate(true).open(self.place(&path));
        // In one write: each is an order to the kernel.
        let written = opened.and_then(|mut file| file.write_all(format!("{text}\n").as_bytes()));
        written.map_err(|error| reason(path.as_ref(), &error))
    }

    /// All of a file to the last byte; None if there is no such file.
    pub fn read_whole(&self, path: impl AsRef<Path>) -> Result<Option<String>, String> {
        match std::fs::read_to_string(self.place(&path)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(reason(path.as_ref(), &error)),
        }
    }

    /// Makes it so.
    pub fn write_whole(&self, path: impl AsRef<Path>, text: &str) -> Result<(), String> {
        std::fs::write(self.place(&path), text).map_err(|error| reason(path.as_ref(), &error))
    }

    /// No kernel answers to what is written here.
    pub fn is_recorded(&self) -> bool {
        self.root != Path::new("/")
    }

    /// Removes a file.
    pub fn remove(&self, path: impl AsRef<Path>) -> Result<(), String> {
        std::fs::remove_file(self.place(&path)).map_err(|error| reason(path.as_ref(), &error))
    }

    /// The names in a directory, in order: numbers in them by size.
    pub fn names(&self, path: impl AsRef<Path>) -> Result<Vec<String>, String> {
        let tell = |error: io::Error| reason(path.as_ref(), &error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(self.place(&path)).map_err(tell)? {
            names.extend(entry.map_err(tell)?.file_name().into_string());
        }
        let number =
            |name: &str| name.trim_start_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or(u64::MAX);
        names.sort_by(|one, other| (number(one), one).cmp(&(number(other), other)));
        Ok(names)
    }

    /// Where a path leads once all its links are followed, as a path of the host.
    pub fn resolve(&self, path: impl AsRef<Path>) -> Result<PathBuf, String> {
        let tell = |error: io::Error| reason(path.as_ref(), &error);
        let (root, end) = (self.root.canonicalize().map_err(tell)?, self.place(&path).canonicalize().map_err(tell)?);
        let inside =
            end.strip_prefix(root).map_err(|_| format!("{} leads out of the root", path.as_ref().display()))?;
        Ok(Path::new("/").join(inside))
    }

    /// The CPUs that are online.
    pub fn online(&self) -> Result<super::cpus::Cpus, String> {
        self.read("/sys/devices/system/cpu/online")?.parse()
    }
}

fn reason(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

/// The calls of a host that is only a tree of files: none of them can be made.
#[derive(Debug)]
pub struct OnlyFiles;

const ONLY_FILES: &str = "the facts come from files (--root), and this is told by a system call";

impl Calls for OnlyFiles {
    fn io_uring(&self) -> Result<String, Refusal> {
        Err(Refusal::Unknown(ONLY_FILES.into()))
    }

    fn direct_io(&self, _dir: &Path) -> Result<u32, Refusal> {
        Err(Refusal::Unknown(ONLY_FILES.into()))
    }

    fn device(&self, _dir: &Path) -> Result<(u32, u32), String> {
        Err(ONLY_FILES.into())
    }

    fn space(&self, _dir: &Path) -> Result<Space, String> {
        Err(ONLY_FILES.into())
    }

    fn memlock_bytes(&self) -> Result<Option<u64>, String> {
        Err(ONLY_FILES.into())
    }

    fn real_time_priority(&self) -> Result<u64, String> {
        Err(ONLY_FILES.into())
    }

    fn clock(&self) -> Result<Clock, String> {
        Err(ONLY_FILES.into())
    }

    fn nic_of(&self, _address: Ipv4Addr) -> Result<String, String> {
        Err(ONLY_FILES.into())
    }

    fn rings(&self, _nic: &str) -> Result<Rings, String> {
        Err(ONLY_FILES.into())
    }

    fn set_rings(&self, _nic: &str, _rings: RingSizes) -> Result<(), String> {
        Err(ONLY_FILES.into())
    }

    fn coalescing(&self, _nic: &str) -> Result<Coalescing, String> {
        Err(ONLY_FILES.into())
    }

    fn set_coalescing(&self, _nic: &str, _coalescing: Coalescing) -> Result<(), String> {
        Err(ONLY_FILES.into())
    }
}
