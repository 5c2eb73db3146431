//! Replays what is due: runs captured commands again, or a program of the user's.

use std::collections::BTreeMap;

use anyhow::Result;
use clap::Args;
use deadletter::{
    AdaptiveThrottle, DlqService, DlqThrottleBatchReplayResult, Emergency, Feedback, Permit,
    ReplayOptions, Skip, Throttle, ThrottleConfig, ThrottleStats, Timestamp,
};
use serde::Serialize;

use crate::args::stored_domain;
use crate::failure::Exit;
use crate::handler::{self, Stop};
use crate::settings::{Context, Work};

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

/// A throttle that calls it an emergency when the user asked us to stop: then nothing more is
/// started, nor waited for.
#[derive(Debug)]
struct Stoppable {
    throttle: AdaptiveThrottle,
    stop: Stop,
}

impl Throttle for Stoppable {
    fn permit(&self, now_ms: u64) -> Permit {
        self.throttle.permit(now_ms)
    }

    fn feedback(&self, feedback: Feedback, latency_ms: u64, now_ms: u64) {
        self.throttle.feedback(feedback, latency_ms, now_ms);
    }

    fn emergency(&self, now_ms: u64) -> Emergency {
        if self.stop.asked() { Emergency::Emergency } else { self.throttle.emergency(now_ms) }
    }

    fn stats(&self, now_ms: u64) -> ThrottleStats {
        self.throttle.stats(now_ms)
    }
}

/// Attempts per second, written `5` or `5/s`.
fn parse_rate(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text);
    let rate: f64 = number.parse().map_err(|_| "it is a number, such as 5 or 0.5".to_owned())?;
    let mut config = ThrottleConfig::default();
    config.rate_max = Some(rate);
    config.check().map_err(|error| error.to_string())?;
    Ok(rate)
}

pub fn replay(context: &Context, args: &ReplayArgs) -> Result<Exit> {
    context.require_store()?;
    let stop = Stop::hold()?;
    let handler = handler::handler(context, args.exec.as_deref(), &stop)?;
    let mut options = ReplayOptions::default();
    options.domain = args.domain.as_deref().map(stored_domain);
    options.failure_type.clone_from(&args.failure_type);
    options.batch_size = Some(args.batch_size);
    options.max = args.max;
    options.jobs = args.jobs;
    if args.dry_run {
        let service = context.reading_service()?;
        service.handlers().register_default(handler);
        return preview(context, &service, &options);
    }
    let mut exit = Exit::Done;
    context.with_service_for(Work::Stream, |service, _| {
        service.handlers().register_default(handler);
        let throttle = AdaptiveThrottle::new(throttle_config(args))?;
        let throttle = Stoppable { throttle, stop: stop.clone() };
        let result = service.replay_all_throttle_aware(&throttle, &options)?;
        let mut report = Report::from(result);
        if stop.asked() {
            report.early_stop_reason = Some("interrupted");
        }
        exit = report.exit();
        print(context, &report)
    })?;
    Ok(exit)
}

fn throttle_config(args: &ReplayArgs) -> ThrottleConfig {
    let mut config = ThrottleConfig::default();
    config.rate_max = args.rate;
    config
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
    if *processed == 0 {
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
        let mut line = format!("stopped early: {reason}");
        if let Some(seconds) = report.retry_after {
            line.push_str(&format!("; come back in {seconds:.0} s"));
        }
        context.output.note(&line);
    }
    if report.remaining > 0 {
        context.output.note(&format!("{} are still due", report.remaining));
    } else if let Some(next_due) = report.next_due {
        context.output.note(&format!("the next one is due at {next_due}"));
    }
    Ok(())
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
            early_stop_reason: result.early_stop_reason.map(|reason| reason.as_str()),
            remaining: result.remaining,
            next_due: result.next_due,
            retry_after: result.retry_after,
        }
    }
}

impl Report {
    fn exit(&self) -> Exit {
        match (self.early_stop_reason, self.failed) {
            (Some("failed"), _) => Exit::Failed,
            (Some(_), _) => Exit::Throttled,
            (None, 0) => Exit::Done,
            (None, _) => Exit::Failed,
        }
    }
}
