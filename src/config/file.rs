//! The TOML file as a list of keys with their text and line.

use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::load::{ConfigError, Given, Origin};
use super::settings::{self, SETTINGS};

/// Reads a file's text. Keys that are not settings are refused, and so are values that no setting can have.
pub fn parse(path: &Path, text: &str) -> Result<Vec<Given>, ConfigError> {
    let at = |offset: usize| Origin::File { path: path.to_owned(), line: line_of(text, offset) };
    let table = DeTable::parse(text).map_err(|error| ConfigError {
        origin: at(error.span().map_or(0, |span| span.start)),
        key: None,
        problem: error.message().to_owned(),
    })?;
    let mut given = Vec::new();
    walk("", table.get_ref(), &at, &mut given)?;
    Ok(given)
}

fn walk(
    prefix: &str,
    table: &DeTable<'_>,
    at: &dyn Fn(usize) -> Origin,
    given: &mut Vec<Given>,
) -> Result<(), ConfigError> {
    for (name, value) in table {
        let key = format!("{prefix}{}", name.get_ref());
        let origin = at(name.span().start);
        match (settings::find(&key), value.get_ref()) {
            (None, DeValue::Table(inner)) if is_section(&key) => walk(&format!("{key}."), inner, at, given)?,
            (None, _) => return Err(unknown(key, origin)),
            (Some(setting), _) => match text_of(value) {
                Some(text) => given.push(Given { setting, text, origin }),
                None => {
                    let problem = format!("cannot be a {}", value.get_ref().type_str());
                    return Err(ConfigError { origin, key: Some(key), problem });
                }
            },
        }
    }
    Ok(())
}

fn is_section(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key.split_once('.').is_some_and(|(section, _)| section == key))
}

/// The error for a key that is no setting, with the one that may have been meant.
fn unknown(key: String, origin: Origin) -> ConfigError {
    let last = key.rsplit('.').next().unwrap_or(&key);
    let meant = SETTINGS.iter().find(|setting| setting.key.rsplit('.').next() == Some(last));
    let hint = match meant {
        Some(setting) => format!("; did you mean {}?", setting.key),
        None => "; `corriente serve --help` lists all settings".into(),
    };
    ConfigError { origin, key: Some(key), problem: format!("is not a setting{hint}") }
}

/// A text, a whole number, or a list of these; a list becomes their texts with commas between.
fn text_of(value: &Spanned<DeValue<'_>>) -> Option<String> {
    match value.get_ref() {
        DeValue::String(text) => Some(text.to_string()),
        DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
        DeValue::Array(items) => {
            let items: Option<Vec<_>> = items.iter().map(text_of).collect();
            items.map(|items| items.join(","))
        }
        _ => None,
    }
}

/// The line of a byte offset, counted from 1.
fn line_of(text: &str, offset: usize) -> usize {
    1 + text.bytes().take(offset).filter(|byte| *byte == b'\n').count()
}
