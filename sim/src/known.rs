//! The bugs that the checkers are tested with: each stands behind a switch in the product's code, compiled out of every
//! build but the simulator's with its feature `mutants`.

/// A known bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mutant {
    /// Its number in the project's list of bugs.
    pub number: u32,
    /// The name of its switch.
    pub name: &'static str,
    /// What it does.
    pub what: &'static str,
}

/// All of them.
pub const MUTANTS: &[Mutant] = &[];

/// Whether this build can put them back.
pub const fn has_mutants() -> bool {
    cfg!(feature = "mutants")
}

/// Puts a bug back, or none.
pub(crate) fn switch_on(name: Option<&str>) {
    #[cfg(feature = "mutants")]
    synod_wire::mutant::switch_on(name.unwrap_or(""));
    #[cfg(not(feature = "mutants"))]
    assert!(name.is_none(), "this build has no mutants: build with --features mutants");
}
