//! An image by HTTP: exactly the bytes that were asked for, or an error that says what came instead.

use std::time::Duration;

use bytes::{Buf, Bytes};
use futures::StreamExt;
use reqwest::redirect::Policy;
use reqwest::{Certificate, Client, Response};
use url::Url;

use super::piece::{Piece, Pieces};
use super::request::ImageSource;
use crate::error::root_cause;
use crate::{Error, Result};

/// How many redirects are followed.
const REDIRECTS: usize = 5;

/// Limits of a download.
#[derive(Debug, Clone, Copy)]
pub(super) struct HttpLimits {
    /// Connecting.
    pub(super) connect: Duration,
    /// No byte for so long.
    pub(super) stall: Duration,
}

/// A download under way.
struct Download {
    /// As errors name it.
    peer: String,
    response: Response,
    stall: Duration,
    size: u64,
    at: u64,
    rest: Bytes,
}

/// Begins a download of `size` bytes. A server's certificate must be of the system's authorities or of these.
pub(super) async fn open(
    url: &Url,
    size: u64,
    limits: HttpLimits,
    authorities: Vec<Certificate>,
) -> Result<Pieces<'static>> {
    let peer = ImageSource::Http(url.clone()).to_string();
    let failed = |error: reqwest::Error| {
        let cause = root_cause(&error.without_url());
        // As rustls begins what it says of a certificate that it does not take.
        let advice = match cause.contains("invalid peer certificate") {
            true => "; a server of authorities of your own is trusted when backing_image.ca has theirs",
            false => "",
        };
        Error::peer(&peer, format!("{cause}{advice}"))
    };
    let request = client(url, limits, authorities).map_err(failed)?.get(url.clone()).send();
    let response = within(&peer, limits.stall, request).await?.map_err(failed)?;
    if !response.status().is_success() {
        return Err(Error::peer(&peer, format!("it answers {}", response.status())));
    }
    if let Some(length) = response.content_length().filter(|length| *length != size) {
        return Err(Error::peer(&peer, format!("it has {length} bytes, {size} were asked for")));
    }
    let download = Download { peer, response, stall: limits.stall, size, at: 0, rest: Bytes::new() };
    let pieces = futures::stream::try_unfold(download, |mut download| async move {
        Ok(download.next().await?.map(|piece| (piece, download)))
    });
    Ok(pieces.boxed())
}

/// The environment's proxies are not for a node's data. A machine without certificates of authorities can do without TLS, or
/// with those that it is given.
fn client(url: &Url, limits: HttpLimits, authorities: Vec<Certificate>) -> reqwest::Result<Client> {
    let builder = || {
        Client::builder()
            .no_proxy()
            .redirect(Policy::limited(REDIRECTS))
            .connect_timeout(limits.connect)
            .user_agent(concat!("corriente/", env!("CARGO_PKG_VERSION")))
    };
    match builder().tls_certs_merge(authorities.clone()).build() {
        Err(_) if url.scheme() == "http" || !authorities.is_empty() => builder().tls_certs_only(authorities).build(),
        built => built,
    }
}

async fn within<T>(peer: &str, limit: Duration, wait: impl Future<Output = T>) -> Result<T> {
    let stalled = |_| Error::Timeout { what: format!("the next bytes of {peer}"), limit };
    tokio::time::timeout(limit, wait).await.map_err(stalled)
}

impl Download {
    async fn next(&mut self) -> Result<Option<Piece>> {
        if self.at == self.size {
            return match self.chunk().await? {
                None => Ok(None),
                Some(_) => Err(Error::peer(&self.peer, format!("it has more than the {} bytes asked for", self.size))),
            };
        }
        let mut piece = Piece::empty(self.at, self.size)?;
        let mut filled = 0;
        while filled < piece.length {
            if self.rest.is_empty() {
                let Some(chunk) = self.chunk().await? else {
                    let got = self.at + filled as u64;
                    return Err(Error::peer(&self.peer, format!("it ended after {got} of {} bytes", self.size)));
                };
                self.rest = chunk;
            }
            let part = self.rest.len().min(piece.length - filled);
            self.rest.copy_to_slice(&mut piece.buffer[filled..filled + part]);
            filled += part;
        }
        self.at += filled as u64;
        Ok(Some(piece))
    }

    /// Bytes that are left over from the piece before come first, so that none is overlooked at the end.
    async fn chunk(&mut self) -> Result<Option<Bytes>> {
        if !self.rest.is_empty() {
            return Ok(Some(std::mem::take(&mut self.rest)));
        }
        loop {
            let chunk = within(&self.peer, self.stall, self.response.chunk()).await?;
            match chunk {
                Ok(Some(chunk)) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(chunk),
                Err(error) => {
                    let problem = format!("it broke off after {} bytes: {}", self.at, root_cause(&error.without_url()));
                    return Err(Error::peer(&self.peer, problem));
                }
            }
        }
    }
}
