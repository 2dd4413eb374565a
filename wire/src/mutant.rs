//! Known bugs that the simulator puts back, one at a time, to test its checkers. In a build without the feature `mutants`
//! (every build but the simulator's own) [`mutant`] is `false`, and the bugs are compiled out.

#[cfg(feature = "mutants")]
static ACTIVE: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(0);

/// Whether this known bug is switched on. Inlined with its literal, so that the name's hash is a constant of the build.
#[cfg(feature = "mutants")]
#[inline(always)]
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

/// A name in one word: FNV-1a over its words of eight bytes, few enough rounds for the compiler to fold. Never 0, and
/// different, for the names in use (the simulator's tests say so).
#[cfg(feature = "mutants")]
#[inline(always)]
pub const fn number(name: &str) -> u64 {
    let bytes = name.as_bytes();
    let mut hash = 0xcbf2_9ce4_8422_2325 ^ bytes.len() as u64;
    let mut at = 0;
    while at < bytes.len() {
        let mut word = 0u64;
        let mut byte = 0;
        while byte < 8 {
            if at + byte < bytes.len() {
                word |= (bytes[at + byte] as u64) << (8 * byte);
            }
            byte += 1;
        }
        hash = (hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        at += 8;
    }
    hash
}
