//! TLS of gRPC, both ways: a node shows its certificate, and takes only clients and peers that show one of the same
//! authority. Of the TCP listener; the Unix socket is for its owner alone and speaks in the clear.
//!
//! The files are read when the process starts. Longhorn mounts them as `ca.crt`, `tls.crt` and `tls.key` in one
//! directory, and its certificates are made out to [`LONGHORN_NAME`] whatever the node.

use std::fmt;
use std::path::{Path, PathBuf};

use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig};

use crate::{Error, Result};

/// The name in the certificates that Longhorn's users make for its gRPC (Longhorn's documentation, "mTLS Support").
pub const LONGHORN_NAME: &str = "longhorn-backend.longhorn-system";

/// Where certificates and the key are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files {
    /// Certificates of the authorities whose word counts, PEM.
    pub ca: PathBuf,
    /// Our certificate, with those between it and the authority's, PEM.
    pub certificate: PathBuf,
    /// Its key, PEM.
    pub key: PathBuf,
}

impl Files {
    /// Those of a directory, by Longhorn's names.
    pub fn in_directory(directory: &Path) -> Self {
        Self { ca: directory.join("ca.crt"), certificate: directory.join("tls.crt"), key: directory.join("tls.key") }
    }
}

/// What a process shows and what it trusts.
#[derive(Clone)]
pub struct Credentials {
    ca: Certificate,
    identity: Identity,
    server_name: String,
}

impl fmt::Debug for Credentials {
    /// Without the key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("server_name", &self.server_name).finish_non_exhaustive()
    }
}

impl Credentials {
    /// Reads the files. `server_name` is who the certificate of a node must be made out to.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] names the file that cannot be read, or all of them when they do not make a pair.
    pub fn read(files: &Files, server_name: &str) -> Result<Self> {
        let read = |field: &'static str, path: &Path| {
            let failed = |error| Error::invalid(field, format!("{} cannot be read: {error}", path.display()));
            std::fs::read(path).map_err(failed)
        };
        let ca = Certificate::from_pem(read("tls.ca", &files.ca)?);
        let certificate = read("tls.certificate", &files.certificate)?;
        let identity = Identity::from_pem(certificate, read("tls.key", &files.key)?);
        let credentials = Self { ca, identity, server_name: server_name.to_owned() };
        let unusable = |error: tonic::transport::Error| {
            let Files { ca, certificate, key } = files;
            let (ca, certificate, key) = (ca.display(), certificate.display(), key.display());
            let reason = crate::error::root_cause(&error);
            Error::invalid("tls", format!("{ca}, {certificate} and {key} cannot be used together: {reason}"))
        };
        Server::builder().tls_config(credentials.server()).map_err(unusable)?;
        Endpoint::from_static("https://localhost").tls_config(credentials.client()).map_err(unusable)?;
        Ok(credentials)
    }

    /// Of a server that takes only clients with a certificate.
    pub fn server(&self) -> ServerTlsConfig {
        ServerTlsConfig::new().identity(self.identity.clone()).client_ca_root(self.ca.clone())
    }

    fn client(&self) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(self.ca.clone()).identity(self.identity.clone());
        config.domain_name(&self.server_name)
    }
}

/// Where a node answers, in the clear or with TLS. `authority` is `host:port`.
pub fn endpoint(
    authority: &str,
    credentials: Option<&Credentials>,
) -> std::result::Result<Endpoint, tonic::transport::Error> {
    match credentials {
        None => Endpoint::from_shared(format!("http://{authority}")),
        Some(credentials) => Endpoint::from_shared(format!("https://{authority}"))?.tls_config(credentials.client()),
    }
}
