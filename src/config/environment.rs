//! The environment as a list of settings: every variable with our prefix must be one that somebody reads.

use std::ffi::OsString;

use super::load::{ConfigError, Given, Origin};
use super::settings::{SETTINGS, VARIABLE_PREFIX};

/// Variables that have the prefix and are read elsewhere: by the client commands and the scripts.
const READ_ELSEWHERE: [&str; 8] = [
    "CORRIENTE_CONFIG",
    "CORRIENTE_SERVER",
    "CORRIENTE_TIMEOUT",
    "CORRIENTE_OUTPUT",
    "CORRIENTE_TLS",
    "CORRIENTE_TLS_NAME",
    "CORRIENTE_CACHE",
    "CORRIENTE_DEBIAN_MIRROR",
];

/// Kubernetes sets these in every container of a namespace that has a service called `corriente`; tests and scripts
/// own the last.
const FOREIGN_PREFIXES: [&str; 3] = ["CORRIENTE_SERVICE_", "CORRIENTE_PORT", "CORRIENTE_TEST_"];

/// Picks the settings out of the environment. A variable with our prefix that nobody reads is refused: it is a typing
/// error that would otherwise change nothing in silence.
pub fn parse(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<Given>, ConfigError> {
    let mut given = Vec::new();
    for (variable, value) in variables {
        let Some(variable) = variable.to_str().filter(|name| name.starts_with(VARIABLE_PREFIX)) else {
            continue;
        };
        let origin = Origin::Environment { variable: variable.to_owned() };
        let setting = SETTINGS.iter().find(|setting| setting.variable() == variable);
        match (setting, value.into_string()) {
            (Some(setting), Ok(text)) => given.push(Given { setting, text, origin }),
            (Some(setting), Err(_)) => {
                let problem = "is not UTF-8".into();
                return Err(ConfigError { origin, key: Some(setting.key.into()), problem });
            }
            (None, _) if is_foreign(variable) => {}
            (None, _) => {
                let problem = "is not a setting; `corriente serve --help` lists all of them".into();
                return Err(ConfigError { origin, key: None, problem });
            }
        }
    }
    Ok(given)
}

fn is_foreign(variable: &str) -> bool {
    READ_ELSEWHERE.contains(&variable) || FOREIGN_PREFIXES.iter().any(|prefix| variable.starts_with(prefix))
}
