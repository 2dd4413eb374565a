//! From a failing plan to a smaller one that still breaks the same property: fewer kinds of faults, fewer clients, less
//! time. Each attempt is a run in a child process.

use crate::worker::{self, Verdict};
use synod_sim::{Failure, Plan};

/// Runs that shrinking may take.
const ATTEMPTS: usize = 120;

/// Shrinks a failure; its report then has the last events.
pub(crate) fn shrink(failure: Failure) -> anyhow::Result<Failure> {
    let mut best = failure;
    let mut left = ATTEMPTS;
    loop {
        let before = best.plan.clone();
        for plan in smaller(&before) {
            // An earlier step of this round may have made it moot.
            let Some(plan) = rebase(&plan, &before, &best.plan) else { continue };
            if left == 0 {
                break;
            }
            left -= 1;
            if let Verdict::Failed(again) = worker::one(&plan)?
                && again.violation.property == best.violation.property
            {
                best = again;
            }
        }
        if best.plan == before || left == 0 {
            break;
        }
    }
    if best.events.is_empty() {
        best.events = worker::last_events(&best.plan)?;
    }
    Ok(best)
}

/// Plans that each leave out one thing.
fn smaller(plan: &Plan) -> Vec<Plan> {
    let mut all = Vec::new();
    for fault in plan.faults.keys() {
        let mut without = plan.clone();
        without.faults.remove(fault);
        all.push(without);
    }
    if plan.clients > 1 {
        all.push(Plan { clients: 1, ..plan.clone() });
    }
    if plan.readers > 0 {
        all.push(Plan { readers: 0, ..plan.clone() });
    }
    if plan.subscribers > 0 {
        all.push(Plan { subscribers: 0, ..plan.clone() });
    }
    if plan.safety_ms > 2_000 {
        all.push(Plan { safety_ms: plan.safety_ms / 2, ..plan.clone() });
    }
    if plan.entries_per_second > 10 {
        all.push(Plan { entries_per_second: plan.entries_per_second / 2, ..plan.clone() });
    }
    if plan.spares > 0 {
        all.push(Plan { spares: 0, change_mean_ms: 0, ..plan.clone() });
    }
    if plan.max_in_flight > 1 {
        all.push(Plan { max_in_flight: 1, ..plan.clone() });
    }
    all
}

/// What `step` changed of `from`, done to `to`; nothing if it makes no difference any more.
fn rebase(step: &Plan, from: &Plan, to: &Plan) -> Option<Plan> {
    let mut plan = to.clone();
    plan.faults.retain(|fault, _| step.faults.contains_key(fault) || !from.faults.contains_key(fault));
    plan.clients = plan.clients.min(step.clients);
    plan.readers = plan.readers.min(step.readers);
    plan.subscribers = plan.subscribers.min(step.subscribers);
    plan.safety_ms = plan.safety_ms.min(step.safety_ms);
    plan.entries_per_second = plan.entries_per_second.min(step.entries_per_second);
    plan.spares = plan.spares.min(step.spares);
    plan.change_mean_ms = plan.change_mean_ms.min(step.change_mean_ms);
    plan.max_in_flight = plan.max_in_flight.min(step.max_in_flight);
    (plan != *to).then_some(plan)
}

#[cfg(test)]
mod tests {
    use super::*;
    use synod_sim::Profile;

    #[test]
    fn every_step_is_smaller_and_steps_add_up() {
        let plan = Plan::new(5, Profile::Mixed);
        let steps = smaller(&plan);
        assert!(steps.len() > plan.faults.len());
        let mut all = plan.clone();
        for step in &steps {
            assert_ne!(*step, plan);
            all = rebase(step, &plan, &all).expect("each changes something of its own");
        }
        assert!(all.faults.is_empty() && all.clients == 1 && all.readers == 0);
    }
}
