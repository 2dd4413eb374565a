//! The simulator's command line.

use synod_sim::{Plan, Profile, run};

fn main() {
    let seed = std::env::args().nth(1).map_or(1, |s| s.parse().unwrap());
    let to = std::env::args().nth(2).map_or(seed, |s| s.parse().unwrap());
    let profile = match std::env::args().nth(3).as_deref() { Some("calm") => Profile::Calm, Some("network") => Profile::Network, Some("disk") => Profile::Disk, Some("process") => Profile::Process, _ => Profile::Mixed };
    for seed in seed..=to {
        let began = std::time::Instant::now();
        match run(&Plan::new(seed, profile), std::env::var("TRACE").is_ok()) {
            Ok(o) => println!("{seed}: {:x} {} events, {} s, {} ops, {} slots, {:?}", o.hash, o.events, o.simulated_ns / 1_000_000_000, o.operations, o.slots, began.elapsed()),
            Err(f) => { println!("{seed}: {:?} at {}", f.violation, f.at_ns); for e in f.events { println!("   {e}"); } }
        }
    }
}
