//! What a backing image is asked to be, as types.

use std::path::PathBuf;

use url::Url;
use uuid::Uuid;

use super::checksum::ImageChecksum;
use crate::name::{BackingImageId, BackingImageName, HostPort};
use crate::{Error, Result};

/// What tells an HTTP server of Longhorn that the image is for the v2 engine, which wants it as raw bytes.
const FOR_V2: (&str, &str) = ("forV2Creation", "true");

/// A backing image to be made.
#[derive(Debug, Clone)]
pub struct ImageRequest {
    /// Its name.
    pub name: BackingImageName,
    /// Which making of it this is.
    pub id: BackingImageId,
    /// The lvstore it is made in.
    pub lvs_uuid: Uuid,
    /// Its bytes.
    pub size: u64,
    /// What it must be.
    pub checksum: ImageChecksum,
    /// Where it comes from.
    pub source: ImageSource,
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageSource {
    /// A download.
    Http(Url),
    /// A file or block device of this node.
    File(PathBuf),
    /// The same image on a disk of a node: of another, or of this one.
    Peer {
        /// The node's gRPC.
        node: HostPort,
        /// The lvstore it is in there.
        lvs_uuid: Uuid,
    },
}

impl ImageSource {
    /// Parses `http://…`, `https://…`, `file:///…` or `ip:port`, which goes with the lvstore `src_lvs_uuid`.
    pub fn parse(from_address: &str, src_lvs_uuid: Option<Uuid>) -> Result<Self> {
        let refused = |problem: String| Err(Error::invalid("from_address", problem));
        if from_address.is_empty() {
            return refused("must not be empty".into());
        }
        if from_address.starts_with("http://") || from_address.starts_with("https://") {
            return match Url::parse(from_address) {
                Ok(mut url) if url.host_str().is_some_and(|host| !host.is_empty()) => {
                    url.query_pairs_mut().append_pair(FOR_V2.0, FOR_V2.1);
                    Ok(Self::Http(url))
                }
                Ok(_) => refused("it names no host".into()),
                Err(error) => refused(format!("it is no URL: {error}")),
            };
        }
        if from_address.starts_with("file:") {
            // The URL's grammar would also take `file:a`, for a path from the root.
            let url = from_address.starts_with("file:///").then(|| Url::parse(from_address).ok()).flatten();
            let path = url.and_then(|url| url.to_file_path().ok());
            return match path.filter(|path| !path.as_os_str().as_encoded_bytes().contains(&0)) {
                Some(path) => Ok(Self::File(path)),
                None => refused(format!("{from_address:?} does not have the form file:///absolute/path")),
            };
        }
        let Ok(node) = HostPort::parse(from_address) else {
            let forms = "http://…, https://…, file:///… or the ip:port of a node's gRPC";
            return refused(format!("{from_address:?} is none of {forms}"));
        };
        match src_lvs_uuid {
            Some(lvs_uuid) => Ok(Self::Peer { node, lvs_uuid }),
            None => Err(Error::invalid("src_lvs_uuid", "must not be empty when from_address is a node's")),
        }
    }
}

impl std::fmt::Display for ImageSource {
    /// Without what may be secret in a URL.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Http(url) => {
                let (scheme, host, path) = (url.scheme(), url.host_str().unwrap_or_default(), url.path());
                match url.port() {
                    Some(port) => write!(f, "{scheme}://{host}:{port}{path}"),
                    None => write!(f, "{scheme}://{host}{path}"),
                }
            }
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Peer { node, lvs_uuid } => write!(f, "lvstore {lvs_uuid} of node {node}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LVS: Uuid = Uuid::from_u128(7);

    #[test]
    fn a_download_asks_for_the_v2_form_and_its_secrets_are_not_shown() {
        let source = ImageSource::parse("http://user:word@10.0.0.1:9000/v1/x?id=3", None).unwrap();
        let ImageSource::Http(url) = &source else { panic!("{source:?}") };
        assert_eq!(url.query(), Some("id=3&forV2Creation=true"));
        assert_eq!(source.to_string(), "http://10.0.0.1:9000/v1/x");
    }

    #[test]
    fn a_node_goes_with_its_lvstore_and_a_file_with_its_path() {
        let node = HostPort::parse("10.0.0.1:8504").unwrap();
        assert_eq!(ImageSource::parse("10.0.0.1:8504", Some(LVS)).unwrap(), ImageSource::Peer { node, lvs_uuid: LVS });
        assert_eq!(ImageSource::parse("file:///a%20b", None).unwrap(), ImageSource::File("/a b".into()));
        let field = |text: &str| match ImageSource::parse(text, None) {
            Err(Error::InvalidArgument { field, .. }) => field,
            other => panic!("{text:?} gave {other:?}"),
        };
        assert_eq!(field("10.0.0.1:8504"), "src_lvs_uuid");
        for wrong in ["", " ", "http://", "https://:1", "file:a", "file://host/a", "ftp://a/b", "10.0.0.1", "a\0b"] {
            assert_eq!(field(wrong), "from_address", "{wrong:?}");
        }
    }
}
