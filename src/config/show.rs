//! The effective configuration as text: a file that would give it again, each line with the origin of its value.

use std::fmt::Write;

use super::load::Loaded;
use super::settings::SETTINGS;

/// TOML with one setting a line.
pub fn show(loaded: &Loaded) -> String {
    let mut text = String::new();
    let mut section = "";
    for setting in SETTINGS {
        let (its_section, name) = setting.key.split_once('.').unwrap_or(("", setting.key));
        if its_section != section {
            section = its_section;
            // Writing into a String cannot fail.
            let _ = write!(text, "\n[{section}]\n");
        }
        let value = toml::Value::String((setting.show)(&loaded.config));
        let _ = writeln!(text, "{:<48}# {}", format!("{name} = {value}"), loaded.origin(setting.key));
    }
    let _ = write!(text, "\n# data address: {}\n", loaded.config.data_ip);
    text
}
