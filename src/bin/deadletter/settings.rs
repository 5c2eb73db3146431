//! Where this run works and how: flags before environment before file before defaults.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use deadletter::{Background, Config, DlqConfig, Engine};

use crate::args::GlobalArgs;
use crate::failure::Refusal;
use crate::output::{self, Output};

/// What every variable of ours begins with.
const PREFIX: &str = "DEADLETTER_";
/// How long a writing verb waits for another process, unless the user says otherwise.
const LOCK_WAIT: &str = "5";
/// Variables that are not settings: flags of ours, and what a replay handler is given.
const OTHER_NAMES: [&str; 5] = ["dir", "config", "actor", "id", "attempt"];

/// Everything that is the same for all verbs.
pub struct Context {
    /// How to speak.
    pub output: Output,
    /// The data directory.
    pub dir: PathBuf,
    /// Whether the directory was named on the command line, so that hints must repeat it.
    pub dir_given: bool,
    /// Who acts, for the audit.
    pub actor: String,
    /// The settings that the user chose, by name; what a verb prefers gives way to them.
    given: BTreeSet<String>,
    config: Config,
    service: DlqConfig,
}

/// How a verb opens the store for writing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Work {
    /// One short act: no helper threads, nothing written ahead.
    Once,
    /// A stream of entries: helper threads and zeroed segments.
    Stream,
}

impl Context {
    /// Reads flags, environment and file.
    pub fn new(global: &GlobalArgs) -> Result<Self> {
        let output = Output { json: global.json, quiet: global.quiet, verbose: global.verbose > 0 };
        let file = global.config.clone().or_else(|| env_path("DEADLETTER_CONFIG"));
        let mut from_file = match &file {
            Some(path) => read_file(path)?,
            None => BTreeMap::new(),
        };
        let file_dir = from_file.remove("dir").map(PathBuf::from);
        let dir = match (&global.dir, env_path("DEADLETTER_DIR"), file_dir) {
            (Some(dir), _, _) => dir.clone(),
            (None, Some(dir), _) | (None, None, Some(dir)) => dir,
            (None, None, None) => default_dir()?,
        };
        let mut config = Config::new(&dir);
        let mut service = DlqConfig::default();
        let mut given = BTreeSet::new();
        if let Some(path) = &file {
            for (name, value) in from_file {
                let place = || format!("in the configuration file {}", path.display());
                set(&mut config, &mut service, &name, &value).with_context(place)?;
                given.insert(name);
            }
        }
        for (name, value) in read_environment(&output)? {
            let place = || format!("in the environment variable {PREFIX}{}", name.to_uppercase());
            set(&mut config, &mut service, &name, &value).with_context(place)?;
            given.insert(name);
        }
        // The engine checks its own when it opens.
        service.check().context("in the settings")?;
        let actor = global.actor.clone().or_else(login_name).unwrap_or_else(|| "unknown".into());
        output.detail(&format!("directory: {}", output::escape(&dir.to_string_lossy())));
        output.detail(&format!("actor: {}", output::escape(&actor)));
        Ok(Self { output, dir, dir_given: global.dir.is_some(), actor, given, config, service })
    }

    /// The settings for reading; also those of [`deadletter::verify`].
    pub fn config(&self) -> Config {
        self.config.clone()
    }

    /// The settings of the service: how often, how long, how fast.
    pub fn service_config(&self) -> DlqConfig {
        self.service.clone()
    }

    /// The settings for writing. What the user set wins over what the verb prefers.
    pub fn writer_config(&self, work: Work) -> Result<Config> {
        let mut config = self.config();
        let prepare = match work {
            Work::Once => "allocate",
            Work::Stream => "zero",
        };
        for (name, value) in [("lock_wait", LOCK_WAIT), ("prepare", prepare)] {
            if !self.given.contains(name) {
                config.set(name, value)?;
            }
        }
        config.background = match work {
            Work::Once => Background::Manual,
            Work::Stream => Background::Threads,
        };
        Ok(config)
    }

    /// Opens the store for writing; waits for the lock as long as the settings say.
    pub fn open_writer(&self, work: Work) -> Result<Engine> {
        let engine = Engine::open(self.writer_config(work)?)?;
        let report = engine.report();
        for damage in &report.lost {
            self.output.warning(&damage.to_string());
        }
        for file in &report.quarantined {
            self.output.warning(&format!("damaged bytes were kept in quarantine/{file}"));
        }
        Ok(engine)
    }

    /// Opens the store for reading, beside whoever writes. Never creates anything.
    pub fn open_reader(&self) -> Result<Engine> {
        self.require_store()?;
        Ok(Engine::open_read_only(self.config())?)
    }

    /// Refuses a directory in which nothing was ever stored.
    pub fn require_store(&self) -> Result<()> {
        let missing = match std::fs::read_dir(&self.dir) {
            Ok(mut names) => names.next().is_none(),
            Err(error) => error.kind() == std::io::ErrorKind::NotFound,
        };
        if missing {
            let message = format!("there is no store in {}", self.dir.display());
            return Err(Refusal::usage(message)
                .with_hint("name another directory with --dir; the first capture creates a store")
                .into());
        }
        Ok(())
    }

    /// Prints the damage that reading met.
    pub fn warn_of_damage(&self, engine: &Engine) {
        for damage in engine.warnings() {
            self.output.warning(&damage.to_string());
        }
    }

    /// How a command that works on the same store begins, for hints.
    pub fn command(&self) -> String {
        command_on(self.dir_given.then_some(&self.dir))
    }
}

/// How a command begins that works on the directory that was named, or else on the usual one.
pub fn command_on(dir: Option<&PathBuf>) -> String {
    match dir {
        Some(dir) => format!("deadletter --dir {}", output::shell_quoted(&dir.to_string_lossy())),
        None => "deadletter".to_owned(),
    }
}

/// Whether anybody has a setting of this name.
fn is_setting(name: &str) -> bool {
    Config::SETTINGS.iter().any(|setting| setting.name == name)
        || DlqConfig::SETTINGS.iter().any(|setting| setting.name == name)
}

/// Sets a setting wherever there is one of this name; one is in both.
fn set(config: &mut Config, service: &mut DlqConfig, name: &str, value: &str) -> Result<()> {
    if Config::SETTINGS.iter().any(|setting| setting.name == name) {
        config.set(name, value)?;
    }
    if DlqConfig::SETTINGS.iter().any(|setting| setting.name == name) {
        service.set(name, value)?;
    }
    Ok(())
}

fn read_environment(output: &Output) -> Result<BTreeMap<String, String>> {
    let mut values = BTreeMap::new();
    for (variable, value) in std::env::vars_os() {
        let Some(variable) = variable.to_str() else { continue };
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        let name = name.to_lowercase();
        if value.is_empty() || OTHER_NAMES.contains(&name.as_str()) {
            continue;
        }
        if !is_setting(&name) {
            output.warning(&format!("unknown environment variable {variable}"));
            continue;
        }
        let value = value
            .into_string()
            .map_err(|_| Refusal::usage(format!("{variable} is not valid UTF-8")))?;
        values.insert(name, value);
    }
    Ok(values)
}

fn read_file(path: &Path) -> Result<BTreeMap<String, String>> {
    let act = || format!("cannot read the configuration file {}", path.display());
    let text = std::fs::read_to_string(path)
        .map_err(|error| Refusal::usage(error.to_string()))
        .with_context(act)?;
    let table: toml::Table = text
        .parse()
        .map_err(|error: toml::de::Error| Refusal::usage(toml_reason(&text, &error)))
        .with_context(act)?;
    let mut values = BTreeMap::new();
    for (name, value) in table {
        if name != "dir" && !is_setting(&name) {
            let message = format!("unknown key {name} in {}", path.display());
            return Err(Refusal::usage(message).into());
        }
        let text = match &value {
            toml::Value::Table(table) => map_text(table),
            toml::Value::Array(parts) => list_text(parts),
            _ => plain_text(&value),
        };
        let Some(text) = text else {
            let message = format!("{name} in {} is not a plain value", path.display());
            return Err(Refusal::usage(message).into());
        };
        values.insert(name, text);
    }
    Ok(values)
}

fn plain_text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(flag) => Some(flag.to_string()),
        _ => None,
    }
}

/// An array as the text of a list: `a,b`. None if a part would not come back as it is.
fn list_text(parts: &[toml::Value]) -> Option<String> {
    let parts = parts.iter().map(plain_text).collect::<Option<Vec<_>>>()?;
    let sound = parts.iter().all(|part| !part.contains(','));
    sound.then(|| parts.join(","))
}

/// A table as the text of a map: `a=1,b=X|Y`. None if a part would not come back as it is.
fn map_text(table: &toml::Table) -> Option<String> {
    let whole = |text: &String| !text.contains(['=', ',', '|']);
    let pair = |(key, value): (&String, &toml::Value)| {
        let parts = match value {
            toml::Value::Array(parts) => {
                parts.iter().map(plain_text).collect::<Option<Vec<_>>>()?
            }
            _ => vec![plain_text(value)?],
        };
        let sound = whole(key) && parts.iter().all(whole);
        sound.then(|| format!("{key}={}", parts.join("|")))
    };
    Some(table.iter().map(pair).collect::<Option<Vec<_>>>()?.join(","))
}

/// What is wrong in which line; the error's own text draws a picture over several lines.
fn toml_reason(text: &str, error: &toml::de::Error) -> String {
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => format!("line {}: {}", before.matches('\n').count() + 1, error.message()),
        None => error.message().to_owned(),
    }
}

fn default_dir() -> Result<PathBuf> {
    deadletter::default_dir().map_err(|_| {
        Refusal::usage("there is no home directory to keep the store in")
            .with_hint("name a directory with --dir or DEADLETTER_DIR")
            .into()
    })
}

fn env_path(name: &str) -> Option<PathBuf> {
    std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

fn login_name() -> Option<String> {
    ["DEADLETTER_ACTOR", "LOGNAME", "USER"]
        .into_iter()
        .filter_map(std::env::var_os)
        .find(|value| !value.is_empty())
        .map(|value| OsStr::to_string_lossy(&value).into_owned())
}
