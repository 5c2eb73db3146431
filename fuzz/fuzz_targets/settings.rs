//! Any text as settings, from variables, by name, or from the configuration file of the command
//! line: refused or taken, what is taken comes back as it is, and no path leaves the store unasked.
#![no_main]

#[path = "../../src/bin/deadletter/failure.rs"]
#[allow(dead_code, reason = "the rest of the command line uses it")]
mod failure;
#[path = "../../src/bin/deadletter/output.rs"]
#[allow(dead_code, reason = "the rest of the command line uses it")]
mod output;
#[path = "../../src/bin/deadletter/settings.rs"]
#[allow(dead_code, reason = "the rest of the command line uses it")]
mod settings;

/// In the place of the command line's own, which knows all verbs: what `settings` uses of it.
mod args {
    use std::path::PathBuf;

    pub struct GlobalArgs {
        pub dir: Option<PathBuf>,
        pub config: Option<PathBuf>,
        pub json: bool,
        pub quiet: bool,
        pub verbose: u8,
        pub actor: Option<String>,
    }
}

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;
use std::sync::OnceLock;

use deadletter::{Config, DlqConfig};
use deadletter_fuzz::choice::Choice;
use deadletter_fuzz::place;
use libfuzzer_sys::fuzz_target;

const DIR: &str = "/data/store";

fuzz_target!(|data: &[u8]| {
    let [mode, rest @ ..] = data else { return };
    match mode % 3 {
        0 => file(rest),
        1 => by_name(&mut Choice::new(rest)),
        _ => variables(&mut Choice::new(rest)),
    }
});

fn file(bytes: &[u8]) {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    let path = PATH.get_or_init(|| place::folder().keep().join("deadletter.toml"));
    fs::write(path, bytes).unwrap();
    let global = args::GlobalArgs {
        dir: Some(DIR.into()),
        config: Some(path.clone()),
        json: false,
        quiet: true,
        verbose: 0,
        actor: None,
    };
    match settings::Context::new(&global) {
        Ok(context) => {
            assert_eq!(context.dir.as_os_str(), DIR, "the flag wins over the file");
            let named = std::str::from_utf8(bytes).is_ok_and(|text| text.contains("fallback_dir"));
            check(&context.config(), named);
            check_service(&context.service_config());
        }
        Err(error) => {
            assert_ne!(failure::exit_of(&error), failure::Exit::Bug, "{error:#}");
        }
    }
}

fn by_name(choice: &mut Choice<'_>) {
    let mut config = Config::new(DIR);
    let mut service = DlqConfig::default();
    let mut named = false;
    while !choice.is_empty() {
        let name = choice.below(Config::SETTINGS.len() + DlqConfig::SETTINGS.len());
        let len = choice.below(48);
        let text = String::from_utf8_lossy(choice.bytes(len)).into_owned();
        if let Some(setting) = Config::SETTINGS.get(name) {
            if config.set(setting.name, &text).is_ok() {
                named |= setting.name == "fallback_dir" && !text.is_empty();
            }
        } else {
            let _ = service.set(DlqConfig::SETTINGS[name - Config::SETTINGS.len()].name, &text);
        }
    }
    check(&config, named);
    check_service(&service);
}

fn variables(choice: &mut Choice<'_>) {
    let mut pairs = vec![(OsString::from("DEADLETTER_DIR"), OsString::from(DIR))];
    let mut named = false;
    while !choice.is_empty() {
        let name = choice.below(Config::SETTINGS.len() + DlqConfig::SETTINGS.len() + 1);
        let names = Config::SETTINGS.iter().map(|setting| setting.name);
        let mut names = names.chain(DlqConfig::SETTINGS.iter().map(|setting| setting.name));
        let name = names.nth(name).unwrap_or("no_such");
        named |= name == "fallback_dir";
        let len = choice.below(48);
        let value = OsString::from_vec(choice.bytes(len).to_vec());
        pairs.push((format!("DEADLETTER_{}", name.to_uppercase()).into(), value));
    }
    if let Ok(config) = Config::from_variables(pairs.clone()) {
        assert_eq!(config.dir.as_os_str(), DIR);
        assert_eq!(config.check().ok(), Some(()));
        check(&config, named);
    }
    if let Ok(service) = DlqConfig::from_variables(pairs) {
        assert_eq!(service.check().ok(), Some(()));
        check_service(&service);
    }
}

/// Every value is text that sets the same value again.
fn check(config: &Config, fallback_named: bool) {
    let mut copy = Config::new(DIR);
    for setting in Config::SETTINGS {
        let value = config.value(setting.name).unwrap();
        let set = copy.set(setting.name, &value);
        set.unwrap_or_else(|error| panic!("{} is {value:?}: {error}", setting.name));
        assert_eq!(copy.value(setting.name).unwrap(), value, "{}", setting.name);
    }
    assert_eq!(copy.check().is_ok(), config.check().is_ok());
    assert!(fallback_named || config.fallback_dir().starts_with(DIR));
    let (segment, ballast) = (config.segment_size(), config.ballast_size());
    assert!(ballast <= segment, "a ballast of {ballast}, segments of {segment}");
}

fn check_service(service: &DlqConfig) {
    let mut copy = DlqConfig::default();
    for setting in DlqConfig::SETTINGS {
        let value = service.value(setting.name).unwrap();
        let set = copy.set(setting.name, &value);
        set.unwrap_or_else(|error| panic!("{} is {value:?}: {error}", setting.name));
        assert_eq!(copy.value(setting.name).unwrap(), value, "{}", setting.name);
    }
    assert_eq!(copy.check().is_ok(), service.check().is_ok());
}
