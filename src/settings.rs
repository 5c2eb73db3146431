//! The settings in the environment: `DEADLETTER_<NAME>` for every setting of [`Config`] and
//! [`DlqConfig`], and the directory.
//!
//! The only place of the library that reads environment variables, and only when it is asked to.
//! The work is done over any list of variables; a variable that is empty counts as absent.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::Once;

use crate::config::{Config, DlqConfig};
use crate::error::{Error, Result};

/// What every variable of ours begins with.
const PREFIX: &str = "DEADLETTER_";
/// Variables that are no settings: those of the command line, and what a replay handler is given.
const OTHER_NAMES: [&str; 5] = ["dir", "config", "actor", "id", "attempt"];

/// Names and values, as the system gives them.
pub(crate) type Variables = Vec<(OsString, OsString)>;

/// What variables say, as far as it is usable; what is not keeps its default.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The engine's; `None` when no directory is known.
    pub engine: Option<Config>,
    /// The service's.
    pub service: DlqConfig,
    /// What is wrong with the engine's, if anything.
    pub engine_error: Option<Error>,
    /// What is wrong with the service's, if anything.
    pub service_error: Option<Error>,
}

/// The variables of this process.
pub(crate) fn variables() -> Variables {
    static WARNED: Once = Once::new();
    let variables: Variables = std::env::vars_os().collect();
    WARNED.call_once(|| {
        for variable in unknown(&variables) {
            tracing::warn!(variable, "unknown environment variable");
        }
    });
    variables
}

/// The directory of the store when nobody names one: `DEADLETTER_DIR`, else `deadletter` in
/// `XDG_STATE_HOME`, else `.local/state/deadletter` in the home directory. Reads the environment.
///
/// # Errors
///
/// [`Error::Invalid`] when none of the three variables says where.
pub fn default_dir() -> Result<PathBuf> {
    dir_of(&variables())
}

impl Config {
    /// The settings of the engine in the environment, for a store in [`default_dir`]. A variable
    /// that is no setting is warned of once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the variable whose value is out of its bounds, or what does not
    /// fit together, or that no directory is known.
    pub fn from_settings() -> Result<Self> {
        Self::from_variables(variables())
    }

    /// As [`Config::from_settings`], from these variables instead of the process's.
    ///
    /// # Errors
    ///
    /// As [`Config::from_settings`].
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let Settings { engine, engine_error, .. } = read(&variables.into_iter().collect());
        match (engine, engine_error) {
            (_, Some(error)) => Err(error),
            (Some(config), None) => Ok(config),
            (None, None) => Err(no_dir()),
        }
    }
}

impl DlqConfig {
    /// The settings of the service in the environment. A variable that is no setting is warned of
    /// once.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] naming the variable whose value is out of its bounds, or what does not
    /// fit together.
    pub fn from_settings() -> Result<Self> {
        Self::from_variables(variables())
    }

    /// As [`DlqConfig::from_settings`], from these variables instead of the process's.
    ///
    /// # Errors
    ///
    /// As [`DlqConfig::from_settings`].
    ///
    /// # Example
    ///
    /// ```
    /// let variables = [("DEADLETTER_EXPIRY_HOURS".into(), "24".into())];
    /// assert_eq!(deadletter::DlqConfig::from_variables(variables)?.expiry_hours, 24);
    /// # Ok::<(), deadletter::Error>(())
    /// ```
    pub fn from_variables(
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Self> {
        let Settings { service, service_error, .. } = read(&variables.into_iter().collect());
        service_error.map_or(Ok(service), Err)
    }
}

/// Reads everything, and does not stop at the first mistake.
pub(crate) fn read(variables: &Variables) -> Settings {
    let dir = dir_of(variables);
    let mut engine = Config::new(dir.as_deref().unwrap_or("none".as_ref()));
    let mut service = DlqConfig::default();
    let mut engine_result = Ok(());
    let mut service_result = Ok(());
    for (variable, name, value) in ours(variables) {
        let text = value.to_str().ok_or_else(|| not_text(variable));
        if Config::SETTINGS.iter().any(|setting| setting.name == name) {
            let set = text.and_then(|text| engine.set(&name, text));
            engine_result = engine_result.and(set.map_err(|error| of_variable(error, variable)));
        }
        let text = value.to_str().ok_or_else(|| not_text(variable));
        if DlqConfig::SETTINGS.iter().any(|setting| setting.name == name) {
            let set = text.and_then(|text| service.set(&name, text));
            service_result = service_result.and(set.map_err(|error| of_variable(error, variable)));
        }
    }
    let engine_error = match &dir {
        Ok(_) => engine_result.and_then(|()| engine.check()).err(),
        Err(_) => Some(no_dir()),
    };
    let service_error = service_result.and_then(|()| service.check()).err();
    Settings { engine: dir.is_ok().then_some(engine), service, engine_error, service_error }
}

/// Variables of ours that are nobody's setting.
fn unknown(variables: &Variables) -> impl Iterator<Item = &str> {
    let known = |name: &str| {
        Config::SETTINGS.iter().any(|setting| setting.name == name)
            || DlqConfig::SETTINGS.iter().any(|setting| setting.name == name)
            || OTHER_NAMES.contains(&name)
    };
    ours(variables).filter(move |(_, name, _)| !known(name)).map(|(variable, ..)| variable)
}

/// The variables with our prefix: their own name, the setting's, and the value.
fn ours(variables: &Variables) -> impl Iterator<Item = (&str, String, &OsStr)> {
    variables.iter().filter(|(_, value)| !value.is_empty()).filter_map(|(variable, value)| {
        let variable = variable.to_str()?;
        Some((variable, variable.strip_prefix(PREFIX)?.to_lowercase(), value.as_os_str()))
    })
}

fn dir_of(variables: &Variables) -> Result<PathBuf> {
    let path = |wanted: &str| {
        let found = variables.iter().rev().find(|(name, _)| name == wanted);
        found.filter(|(_, value)| !value.is_empty()).map(|(_, value)| PathBuf::from(value))
    };
    if let Some(dir) = path("DEADLETTER_DIR") {
        return Ok(dir);
    }
    // A relative path there is to be ignored, says the standard that defines it.
    if let Some(state) = path("XDG_STATE_HOME").filter(|state| state.is_absolute()) {
        return Ok(state.join("deadletter"));
    }
    path("HOME").map(|home| home.join(".local/state/deadletter")).ok_or_else(no_dir)
}

fn no_dir() -> Error {
    let bound = "the path of a directory, because there is no home directory either";
    Error::invalid("DEADLETTER_DIR", "not set", bound)
}

fn not_text(variable: &str) -> Error {
    Error::invalid(variable, "something else", "valid UTF-8")
}

/// Names the variable instead of the setting, for whoever has to correct it.
fn of_variable(error: Error, variable: &str) -> Error {
    match error {
        Error::Invalid { value, bound, .. } => Error::invalid(variable, value, bound),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_variables_of_ours_are_unknown() {
        let pairs = ["DEADLETTER_NO_SUCH", "DEADLETTER_ID", "DEADLETTER_ENABLED", "OTHER"];
        let variables = pairs.map(|name| (name.into(), "1".into())).to_vec();
        assert_eq!(unknown(&variables).collect::<Vec<_>>(), ["DEADLETTER_NO_SUCH"]);
    }

    #[test]
    fn what_is_usable_is_used() {
        let pairs = [
            ("DEADLETTER_DIR", "/a"),
            ("DEADLETTER_SEGMENT_BYTES", "1"),
            ("DEADLETTER_MAX_LAG_MS", "7"),
            ("DEADLETTER_EXPIRY_HOURS", "0"),
            ("DEADLETTER_BATCH_SIZE", "7"),
        ];
        let variables = pairs.map(|(name, value)| (name.into(), value.into())).to_vec();
        let settings = read(&variables);
        assert_eq!(settings.engine.unwrap().max_lag_ms, 7);
        assert_eq!(settings.service.batch_size, 7);
        let errors = (settings.engine_error.unwrap(), settings.service_error.unwrap());
        assert!(errors.0.to_string().contains("DEADLETTER_SEGMENT_BYTES is 1"), "{}", errors.0);
        assert!(errors.1.to_string().contains("DEADLETTER_EXPIRY_HOURS is 0"), "{}", errors.1);
    }
}
