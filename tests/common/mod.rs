//! What the process tests share: a cluster of real `synod` processes, sessions that load it, the check of everything they
//! were promised, and the host's privileged means (namespaces, loop devices). Starts, kills and ends only processes that it
//! started; touches only directories of its own below the target directory.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of this module")]

pub mod check;
pub mod cluster;
pub mod host;
pub mod http;
pub mod load;
pub mod numbered;
pub mod packet;
pub mod refuse;

use std::io::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long to leave the processor to the nodes between two looks at something that cannot be awaited.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// Prints a line past libtest's capture: seeds, figures and skips are wanted from tests that pass, too.
pub fn say(text: &str) {
    // A test's result does not hang on who reads its remarks.
    let _closed: bool = writeln!(std::io::stderr().lock(), "{text}").is_err();
}

/// Looks until `look` yields something; panics with `what` when `deadline` has passed.
pub fn await_until<T>(deadline: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let since = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(since.elapsed() < deadline, "after {:.1} s still not: {what}", deadline.as_secs_f64());
        std::thread::sleep(LOOK_EVERY);
    }
}

/// One cluster at a time: a test binary's tests would take each other's processor.
pub fn serial() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    // The lock guards nothing but the machine: a test that failed leaves it in order.
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seeded randomness (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(pub u64);

impl Rng {
    /// Seeded from `SYNOD_TEST_SEED`, or anew; the seed is printed.
    pub fn announced(test: &str) -> Rng {
        let seed = match std::env::var("SYNOD_TEST_SEED") {
            Ok(text) => text.parse().expect("SYNOD_TEST_SEED is a number"),
            Err(_) => {
                let mut bytes = [0; 8];
                rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).expect("getrandom");
                u64::from_le_bytes(bytes)
            }
        };
        say(&format!("{test}: SYNOD_TEST_SEED={seed}"));
        Rng(seed)
    }

    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
