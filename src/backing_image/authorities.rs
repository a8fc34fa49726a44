//! Whose word counts for a server of images, besides the authorities of the system.

use std::path::PathBuf;

use reqwest::Certificate;

use crate::config::NodeConfig;
use crate::{Error, Result};

/// The setting that names the file.
const SETTING: &str = "backing_image.ca";

/// Where the certificates of more authorities are, if there are any.
#[derive(Debug, Clone)]
pub(super) struct Authorities(Option<PathBuf>);

/// Whether the file that a configuration names can be used, for the start of a node.
///
/// # Errors
/// As a download's.
pub fn require_authorities(config: &NodeConfig) -> Result<()> {
    Authorities::of(config).read().map(drop)
}

impl Authorities {
    /// Those of a node's configuration.
    pub(super) fn of(config: &NodeConfig) -> Self {
        Self(config.backing_image.ca.0.clone())
    }

    /// Reads them anew, as authorities may change while a node runs.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the file when it cannot be read or has no certificate.
    pub(super) fn read(&self) -> Result<Vec<Certificate>> {
        let Some(file) = &self.0 else { return Ok(Vec::new()) };
        let wrong = |problem: String| Error::invalid(SETTING, format!("{}: {problem}", file.display()));
        let text = std::fs::read(file).map_err(|error| wrong(format!("it cannot be read: {error}")))?;
        match Certificate::from_pem_bundle(&text) {
            Ok(certificates) if !certificates.is_empty() => Ok(certificates),
            Ok(_) => Err(wrong("it has no certificate in PEM".into())),
            Err(error) => Err(wrong(crate::error::root_cause(&error))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_missing_or_has_no_certificate_is_named() {
        assert!(Authorities(None).read().unwrap().is_empty());
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("ca.pem");
        for text in [None, Some(""), Some("no certificate")] {
            if let Some(text) = text {
                std::fs::write(&file, text).unwrap();
            }
            let error = Authorities(Some(file.clone())).read().unwrap_err().to_string();
            assert!(error.contains(SETTING) && error.contains("ca.pem"), "{error}");
        }
    }
}
