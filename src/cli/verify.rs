//! `synod verify`.

use super::VerifyArgs;
use super::output::{Failure, Outcome, Style, print, print_json};
use crate::verify;

/// Verifies the logs; exit code 1 if anything is wrong with them.
pub(super) fn verify(args: &VerifyArgs) -> Outcome {
    let report = verify::verify(&args.dirs).map_err(anyhow::Error::new)?;
    match args.output {
        Style::Text => print(&report.to_string())?,
        Style::Json => print_json(&report)?,
    }
    if report.ok { Ok(()) } else { Err(Failure::Told) }
}
