//! The manual pages of the command and of every verb, one after the other, written to stdout.

use anyhow::Result;
use clap::CommandFactory as _;
use clap_mangen::Man;
use deadletter::{Config, DlqConfig, Setting};

use crate::args::Cli;
use crate::failure::Exit;
use crate::output;

pub fn man() -> Result<Exit> {
    let mut command = Cli::command();
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    command = command.after_long_help(format!("{examples}\n\n{}", settings()));
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

/// Every setting with its bounds. Only the manual has them: help must stay short.
fn settings() -> String {
    let store = table("Settings of the store:\n", Config::SETTINGS);
    let service = table("Settings of the service:\n", DlqConfig::SETTINGS);
    format!("{store}\n{service}")
}

fn table<C>(title: &str, settings: &[Setting<C>]) -> String {
    let mut text = title.to_owned();
    for setting in settings {
        let default = if setting.default.is_empty() { "none" } else { setting.default };
        text.push_str(&format!(
            "  {} (default {default}; {})\n    {}\n",
            setting.name, setting.bounds, setting.help
        ));
    }
    text
}
