//! The examples are programs that work: each starts three real nodes, checks what it shows, and ends without an error.

mod common;

#[allow(dead_code, reason = "an example's main is cargo's to call")]
#[path = "../examples/counter.rs"]
mod counter;
#[allow(dead_code, reason = "an example's main is cargo's to call")]
#[path = "../examples/lease.rs"]
mod lease;

/// On the real disk where the build lies: /tmp may be a tmpfs.
const PLACE: &str = env!("CARGO_TARGET_TMPDIR");

#[test]
fn the_counter_counts() {
    let _one_at_a_time = common::serial();
    counter::run(PLACE.as_ref()).unwrap();
}

#[test]
fn the_lease_service_hands_a_lease_on() {
    let _one_at_a_time = common::serial();
    lease::run(PLACE.as_ref()).unwrap();
}
