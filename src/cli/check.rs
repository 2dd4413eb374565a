//! `synod check`: the host's conditions, as a table or JSON.

use super::output::{Failure, Outcome, Style, Table, print, print_json};
use super::{CheckArgs, ClusterArgs, HostArgs, known_node};
use crate::host::facts::{Host, OnlyFiles};
use crate::host::{Finding, Severity, Target, check as look, worst};
use std::path::Path;

/// Prints every condition; fails if one that is required does not hold (strictly: or one that is recommended).
pub(super) fn check(args: &CheckArgs) -> Outcome {
    let findings = look(&args.host.host(), &args.host.target()?);
    match args.output {
        Style::Text => print(&table(&findings))?,
        Style::Json => print_json(&findings)?,
    }
    let fails_from = if args.strict { Severity::Recommended } else { Severity::Required };
    if worst(&findings) >= fails_from { Err(Failure::Told) } else { Ok(()) }
}

/// This host, or a recorded one.
pub(super) fn host(root: Option<&Path>) -> Host {
    root.map_or_else(Host::real, |root| Host::at(root, OnlyFiles))
}

impl HostArgs {
    /// The host.
    pub(super) fn host(&self) -> Host {
        host(self.root.as_deref())
    }

    /// What it is for.
    pub(super) fn target(&self) -> Result<Target, Failure> {
        let nic = self.nic.clone();
        let (Some(config), Some(node)) = (&self.config, self.node) else {
            return Ok(Target { nic, ..Target::default() });
        };
        let config = ClusterArgs { config: config.clone() }.load()?.config;
        let id = known_node(&config, node)?;
        let node = config.node(id).cloned();
        Ok(Target { config, node, nic })
    }
}

/// The name of a network interface: a word that stands in paths, so no slash and no dots alone.
pub(super) fn parse_nic(name: &str) -> Result<String, String> {
    let sound = |letter: char| letter.is_ascii_graphic() && letter != '/';
    let good = !name.is_empty() && name.len() <= 15 && name.chars().all(sound) && !name.starts_with('.');
    if good { Ok(name.to_string()) } else { Err("not the name of a network interface".into()) }
}

fn table(findings: &[Finding]) -> String {
    let mut table = Table::new(&["condition", "required", "current", "severity", "mend"]);
    for finding in findings {
        let (required, current, mend) = (finding.required.clone(), finding.current.clone(), finding.mend.clone());
        table.row([finding.condition.to_string(), required, current, finding.severity.name().to_string(), mend]);
    }
    table.render()
}
