//! Replays what is due: runs captured commands again, or a program of the user's.

use std::collections::BTreeMap;
use std::sync::Mutex;

use anyhow::Result;
use clap::Args;
use deadletter::{
    DlqEvent, DlqService, DlqThrottleBatchReplayResult, EarlyStop, ReplayOptions, Skip,
    ThrottleConfig, Timestamp,
};
use serde::Serialize;

use crate::args::stored_domain;
use crate::failure::Exit;
use crate::handler::{self, Brake, Stop};
use crate::settings::{Context, Work};

/// The reason to stop early that is a failure.
const FAILED: &str = "failed";

/// Replay what is due, oldest first
///
/// Without --exec, an entry that `run` captured on this store is run again as it was captured,
/// without a shell. Each entry is tried at most once.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  deadletter replay
  deadletter replay --domain orders --jobs 4 --exec ./deliver
  deadletter replay --rate 5 --max 100 --exec 'curl -fsS --data-binary @- https://example.org/hook'

The program of --exec gets the entry as JSON on stdin, and DEADLETTER_ID and DEADLETTER_ATTEMPT in
its environment. Exit 0 is success; 75 asks to come back later and spends no attempt, and a last
line `retry-after: SECONDS` on stdout says when; anything else is a failure. No shell runs it.

Exits with 0 when nothing failed, 1 when something failed, and 75 when it stopped early.")]
pub struct ReplayArgs {
    /// Only entries of this domain
    #[arg(long)]
    domain: Option<String>,
    /// Only entries of this failure type
    #[arg(long = "type", value_name = "TYPE")]
    failure_type: Option<String>,
    /// Entries that are leased together, from 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 50)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=1000))]
    batch_size: u32,
    /// Attempts at most [default: all that is due]
    #[arg(long, value_name = "N")]
    max: Option<u64>,
    /// Attempts per second at most
    #[arg(long, value_name = "N", value_parser = parse_rate)]
    rate: Option<f64>,
    /// Handlers that run at the same time, from 1 to 64 [default: the setting replay_jobs]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    jobs: Option<u32>,
    /// A program that is run for each entry
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
    /// Only say what would be tried
    #[arg(long)]
    dry_run: bool,
}

/// What a replay did, in the words of the contract.
#[derive(Serialize)]
struct Report {
    processed: u64,
    success: u64,
    failed: u64,
    skipped: u64,
    throttled: u64,
    errors: Vec<String>,
    early_stop_reason: Option<&'static str>,
    remaining: u64,
    next_due: Option<Timestamp>,
    retry_after: Option<f64>,
    #[serde(skip)]
    skips: BTreeMap<Skip, u64>,
}

/// Attempts per second, written `5` or `5/s`.
fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate: f64 = number.parse().map_err(|_| "it is a number, such as 5 or 0.5".to_owned())?;
    let mut config = ThrottleConfig::default();
    config.rate_max = Some(rate);
    config.check().map_err(|_| "it must be 0.001 to 100000".to_owned())?;
    Ok(rate)
}

pub fn replay(context: &Context, args: &ReplayArgs) -> Result<Exit> {
    context.require_store()?;
    let stop = Stop::default();
    let handler = handler::handler(context, args.exec.as_deref(), &stop)?;
    let mut options = ReplayOptions::default();
    options.domain = args.domain.as_deref().map(stored_domain);
    options.failure_type.clone_from(&args.failure_type);
    options.batch_size = Some(args.batch_size);
    options.max = args.max;
    options.jobs = args.jobs;
    if !context.service_config().enabled {
        context.output.warning("nothing is replayed: the setting enabled is false");
    }
    if args.dry_run {
        let service = context.reading_service()?;
        service.handlers().register_default(handler);
        return preview(context, &service, &options);
    }
    let mut exit = Exit::Done;
    context.with_service_for(Work::Stream, |service, _| {
        service.handlers().register_default(handler);
        stop.hold()?;
        show_progress(context, service, &options)?;
        let brake = Brake::new(service.throttle(args.rate)?, stop.clone());
        let mut report = Report::from(service.replay_all_throttle_aware(&brake, &options)?);
        report.tell_of(&stop);
        exit = report.exit();
        print(context, &report)
    })?;
    Ok(exit)
}

/// Draws a bar that moves with each attempt that ends.
fn show_progress(context: &Context, service: &DlqService, options: &ReplayOptions) -> Result<()> {
    let due = service.count_due(options)?;
    let total = options.max.map_or(due, |max| due.min(max));
    let progress = Mutex::new((0, context.output.progress("replaying")));
    service.on_event(move |record| {
        let ends = matches!(
            record.event,
            DlqEvent::DlqReplayCompleted { .. }
                | DlqEvent::DlqReplayFailed { .. }
                | DlqEvent::DlqReplayThrottled { .. }
        );
        if let (true, Ok(mut progress)) = (ends, progress.lock()) {
            let (done, bar) = &mut *progress;
            *done += 1;
            bar.set(*done, total);
        }
    });
    Ok(())
}

/// Says what a replay would try now. Nothing is leased and nothing runs.
fn preview(context: &Context, service: &DlqService, options: &ReplayOptions) -> Result<Exit> {
    let preview = service.preview_replay(options)?;
    let report = Report {
        processed: preview.due,
        success: 0,
        failed: 0,
        skipped: preview.skipped,
        throttled: 0,
        errors: Vec::new(),
        early_stop_reason: None,
        remaining: preview.remaining,
        next_due: None,
        retry_after: None,
        skips: BTreeMap::new(),
    };
    if context.output.json {
        context.output.json(&report)?;
        return Ok(Exit::Done);
    }
    let Report { processed, skipped, .. } = report;
    context.output.line(&format!("{processed} would be tried, {skipped} passed over"))?;
    Ok(Exit::Done)
}

fn print(context: &Context, report: &Report) -> Result<()> {
    if context.output.json {
        return context.output.json(report);
    }
    let Report { processed, success, failed, skipped, throttled, .. } = report;
    if *processed == 0 && report.remaining == 0 && report.early_stop_reason.is_none() {
        context.output.line("nothing is due")?;
    } else {
        let mut line = format!("{success} delivered, {failed} failed");
        for (count, what) in [(skipped, "passed over"), (throttled, "told to come back later")] {
            if *count > 0 {
                line.push_str(&format!(", {count} {what}"));
            }
        }
        context.output.line(&line)?;
    }
    for (skip, count) in &report.skips {
        context.output.note(&format!("{count} passed over: {}", reason_of(*skip)));
    }
    for error in &report.errors {
        context.output.note(&crate::output::escape(error));
    }
    if let Some(reason) = report.early_stop_reason {
        let mut line = format!("stopped early: {}", stop_of(reason));
        if let Some(seconds) = report.retry_after {
            line.push_str(&format!("; come back in {seconds:.0} s"));
        }
        context.output.note(&line);
    }
    if report.remaining > 0 {
        context.output.note(&format!("still due: {}", report.remaining));
    } else if let Some(next_due) = report.next_due {
        context.output.note(&format!("the next one is due at {next_due}"));
    }
    Ok(())
}

/// Why a replay ended early, for a person; programs get the word.
fn stop_of(reason: &'static str) -> &'static str {
    match reason {
        "emergency" => "the other side seems to be down",
        "throttled" => "the other side asks to be left alone",
        "no_permit" => "the throttle gave no permit in time",
        "runs_alone" => "another replay is running an entry that must run alone",
        FAILED => "it could not go on",
        other => other,
    }
}

/// Why an entry was passed over, and what to do about it.
fn reason_of(skip: Skip) -> &'static str {
    match skip {
        Skip::HandlerRefused => {
            "not captured by `run` on this store, or not whole; name a handler with --exec"
        }
        Skip::RequestDataTruncated => "the request was cut when it was stored",
        Skip::DuplicateSkip => "nobody wants it any more",
        Skip::TtlExpired => "its time ran out, it is expired now",
        Skip::LostRace => "somebody else was faster",
        Skip::LeaseLost => "its lease ended while it ran; the outcome was not taken",
        Skip::RunsAlone => "it must run alone, and another replay is running",
        Skip::NotWritten => "its outcome could not be written",
        _ => "no handler takes it",
    }
}

impl From<DlqThrottleBatchReplayResult> for Report {
    fn from(result: DlqThrottleBatchReplayResult) -> Self {
        Self {
            processed: result.total,
            success: result.succeeded,
            failed: result.failed,
            skipped: result.skipped,
            throttled: result.throttled,
            errors: result.errors,
            skips: result.skip_reasons,
            early_stop_reason: result.early_stop_reason.map(EarlyStop::as_str),
            remaining: result.remaining,
            next_due: result.next_due,
            retry_after: result.retry_after,
        }
    }
}

impl Report {
    /// Says why it was really stopped, if it was: the service knows only that it had to stop.
    fn tell_of(&mut self, stop: &Stop) {
        if self.early_stop_reason.is_none() || self.early_stop_reason == Some(FAILED) {
            return;
        }
        if let Some(reason) = stop.broken() {
            self.early_stop_reason = Some(FAILED);
            self.errors.push(reason.to_owned());
        } else if stop.asked() {
            self.early_stop_reason = Some("interrupted");
            self.retry_after = None;
        }
    }

    fn exit(&self) -> Exit {
        match (self.early_stop_reason, self.failed) {
            (Some(FAILED), _) => Exit::Failed,
            (Some(_), _) => Exit::Throttled,
            (None, 0) => Exit::Done,
            (None, _) => Exit::Failed,
        }
    }
}
