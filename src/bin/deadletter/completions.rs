//! Shell completions, written to stdout.

use anyhow::Result;
use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Cli;
use crate::failure::Exit;
use crate::output;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_help = "Example:
  deadletter completions bash > ~/.local/share/bash-completion/completions/deadletter")]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

pub fn completions(args: &CompletionsArgs) -> Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "deadletter", &mut script);
    output::raw(&script)?;
    Ok(Exit::Done)
}
