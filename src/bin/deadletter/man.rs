//! The manual pages of the command and of every verb, one after the other, written to stdout.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_mangen::Man;

use crate::args::Cli;
use crate::failure::Exit;
use crate::output;

pub fn man() -> Result<Exit> {
    let mut command = Cli::command();
    command.build();
    let mut pages = Vec::new();
    for verb in command.get_subcommands() {
        if verb.get_name() == "help" {
            continue;
        }
        let name = format!("deadletter-{}", verb.get_name());
        Man::new(verb.clone().display_name(name)).render(&mut pages)?;
    }
    let mut page = Vec::new();
    Man::new(command).render(&mut page)?;
    page.extend(pages);
    output::raw(&page)?;
    Ok(Exit::Done)
}
