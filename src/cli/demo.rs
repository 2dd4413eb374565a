//! x
use super::DemoArgs;
use super::output::Outcome;
pub(super) fn demo(_: &DemoArgs) -> Outcome {
    Ok(())
}
