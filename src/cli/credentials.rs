//! The credentials of a backup store: from a file, so that they don't show in the list of processes.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::exit::Failure;

/// Where the credentials of a backup store are.
#[derive(Debug, Clone, clap::Args)]
pub struct CredentialOptions {
    /// A file with a line KEY=VALUE for each, as AWS_ACCESS_KEY_ID=...
    #[arg(long, value_name = "FILE")]
    credentials: Option<PathBuf>,
}

impl CredentialOptions {
    /// The keys and values; empty without a file.
    pub fn read(&self) -> Result<BTreeMap<String, String>, Failure> {
        let Some(path) = &self.credentials else { return Ok(BTreeMap::new()) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::usage(format!("{} cannot be read: {error}", path.display())))?;
        parse(&text).map_err(|line| Failure::usage(format!("{}:{line}: must be KEY=VALUE", path.display())))
    }
}

/// Lines `KEY=VALUE`; empty ones and those that start with `#` are left out. The error is a line's number.
fn parse(text: &str) -> Result<BTreeMap<String, String>, usize> {
    let lines = text.lines().map(str::trim).zip(1..);
    let lines = lines.filter(|(line, _)| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|(line, number)| match line.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
            _ => Err(number),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_have_an_equals_sign_and_a_line_must_have_one() {
        let parsed = parse("# key\n\nAWS_SECRET_ACCESS_KEY = a=b=\n").expect("valid");
        assert_eq!(parsed, BTreeMap::from([("AWS_SECRET_ACCESS_KEY".into(), "a=b=".into())]));
        assert_eq!(parse("A=1\nB\n"), Err(2));
        assert_eq!(parse("=1"), Err(1));
    }
}
