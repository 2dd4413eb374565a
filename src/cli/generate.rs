//! `synod completions` and `synod man`: what a shell and `man` make of the command line. The package is built with both.

use super::Cli;
use super::output::{Outcome, print};
use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use std::path::Path;

/// Prints the completions for a shell.
pub(super) fn completions(shell: Shell) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "synod", &mut script);
    print(&String::from_utf8(script).context("completions are text")?)
}

/// Writes a man page for the program and for each of its commands.
pub(super) fn man(dir: &Path) -> Outcome {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    clap_mangen::generate_to(Cli::command(), dir).with_context(|| format!("cannot write into {}", dir.display()))?;
    Ok(())
}
