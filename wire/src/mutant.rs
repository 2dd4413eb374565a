//! Known bugs that the simulator puts back, one at a time, to test its checkers. In a build without the feature `mutants`
//! (every build but the simulator's own) [`mutant`] is `false`, and the bugs are compiled out.

#[cfg(feature = "mutants")]
static ACTIVE: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Whether this known bug is switched on.
#[cfg(feature = "mutants")]
pub fn mutant(name: &str) -> bool {
    ACTIVE.load(core::sync::atomic::Ordering::Relaxed) == number(name)
}

/// Whether this known bug is switched on: never, in this build.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub const fn mutant(_name: &str) -> bool {
    false
}

/// Switches a bug on for the whole process, or, with an empty name, all off.
#[cfg(feature = "mutants")]
pub fn switch_on(name: &str) {
    let number = if name.is_empty() { 0 } else { number(name) };
    ACTIVE.store(number, core::sync::atomic::Ordering::Relaxed);
}

/// FNV-1a: a name in one word, never 0 for the names in use.
#[cfg(feature = "mutants")]
fn number(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}
