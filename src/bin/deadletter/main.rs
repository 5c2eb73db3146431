//! The `deadletter` command: parse, run one verb, turn the outcome into an exit code.

#![expect(
    clippy::disallowed_methods,
    clippy::doc_markdown,
    reason = "a program has files and a clock of its own, and its arguments' comments are its help"
)]

mod archive;
mod args;
mod bytes;
mod capture;
mod checkpoint;
mod cleanup;
mod compact;
mod completions;
mod doctor;
mod drain;
mod dump;
mod expire;
mod export;
mod facets;
mod failure;
mod handler;
mod import;
mod list;
mod man;
mod output;
mod purge;
mod put;
mod rebuild_index;
mod redrive;
mod release;
mod replay;
mod resolve;
mod retry;
mod run;
mod salvage;
mod service;
mod settings;
mod show;
mod sla;
mod stats;
mod summaries;
mod tee;
mod verify;

use std::io::Write as _;
use std::panic;
use std::process::ExitCode;

use anyhow::Result;
use clap::Parser as _;

use crate::args::{Cli, Command};
use crate::failure::{Exit, StdoutClosed};
use crate::settings::Context;

fn main() -> ExitCode {
    panic::set_hook(Box::new(|info| {
        let place = info.location().map_or_else(String::new, ToString::to_string);
        output::report_bug(&place);
    }));
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are data, everything else is words; clap knows which.
            let printed = if error.use_stderr() && has_hostile_argument() {
                output::report_usage(&error.render().to_string());
                Ok(())
            } else {
                error.print().and_then(|()| std::io::stdout().flush())
            };
            return match output::of_stdout(printed) {
                Err(error) if error.is::<StdoutClosed>() => ExitCode::SUCCESS,
                Err(failed) if !error.use_stderr() => {
                    ExitCode::from(output::report(&failed, "deadletter") as u8)
                }
                _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(Exit::Usage as u8)),
            };
        }
    };
    match panic::catch_unwind(|| dispatch(&cli)) {
        Ok(Ok(code)) => ExitCode::from(code),
        Ok(Err(error)) => {
            let command = settings::command_on(cli.global.dir.as_ref());
            ExitCode::from(output::report(&error, &command) as u8)
        }
        Err(_) => ExitCode::from(Exit::Bug as u8),
    }
}

/// Whether an argument would do more to a terminal than be read; clap repeats it as it is.
fn has_hostile_argument() -> bool {
    std::env::args_os().any(|argument| {
        let argument = argument.to_string_lossy();
        output::escape(&argument) != argument
    })
}

fn dispatch(cli: &Cli) -> Result<u8> {
    let exit = match &cli.command {
        Command::Completions(args) => completions::completions(args),
        Command::Man => man::man(),
        command => {
            let context = Context::new(&cli.global)?;
            match command {
                Command::Run(args) => return run::run(&context, args),
                Command::Put(args) => put::put(&context, args),
                Command::Import(args) => import::import(&context, args),
                Command::Export(args) => export::export(&context, args),
                Command::List(args) => list::list(&context, args),
                Command::Show(args) => show::show(&context, args),
                Command::Stats(_) => stats::stats(&context),
                Command::Facets(args) => facets::facets(&context, args),
                Command::Sla(_) => sla::sla(&context),
                Command::Summaries(args) => summaries::summaries(&context, args),
                Command::Replay(args) => replay::replay(&context, args),
                Command::Retry(args) => retry::retry(&context, args),
                Command::Redrive(args) => redrive::redrive(&context, args),
                Command::Release(args) => release::release(&context, args),
                Command::Resolve(args) => resolve::resolve(&context, args),
                Command::Expire(_) => expire::expire(&context),
                Command::Archive(args) => archive::archive(&context, args),
                Command::Purge(args) => purge::purge(&context, args),
                Command::Cleanup(args) => cleanup::cleanup(&context, args),
                Command::Verify(_) => verify::verify(&context),
                Command::Salvage(args) => salvage::salvage(&context, args),
                Command::Doctor(_) => doctor::doctor(&context),
                Command::Dump(args) => dump::dump(&context, args),
                Command::RebuildIndex(_) => rebuild_index::rebuild_index(&context),
                Command::Compact(_) => compact::compact(&context),
                Command::Checkpoint(_) => checkpoint::checkpoint(&context),
                Command::Drain(_) => drain::drain(&context),
                Command::Completions(_) | Command::Man => Ok(Exit::Done),
            }
        }
    }?;
    Ok(exit as u8)
}
