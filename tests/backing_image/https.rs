//! Images from servers that show a certificate: of an authority that is trusted, and of others.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use super::scene::*;
use super::server::Server;
use crate::support::node::{Node, NodeOptions};

/// An authority of the test's own.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn make(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority"))
    }

    fn write(&self, directory: &Path) -> PathBuf {
        let file = directory.join("authority.pem");
        std::fs::write(&file, self.0.pem()).expect("written");
        file
    }

    /// A server of `image` with a certificate made out to `name`.
    async fn server(&self, image: &[u8], name: &str, change: impl Fn(&mut CertificateParams)) -> Server {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        change(&mut params);
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder().with_no_client_auth();
        let config = config.with_single_cert(vec![certificate.der().clone()], key).expect("a key's certificate");
        Server::start_tls(image.to_vec(), TlsAcceptor::from(Arc::new(config))).await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_by_https_comes_from_a_server_whose_certificate_is_trusted_and_from_no_other() {
    let (ours, foreign) = (Authority::make("ours"), Authority::make("foreign"));
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = ours.write(directory.path());
    let node = Node::start(NodeOptions::named("a").set("backing_image.ca", file.to_str().expect("UTF-8"))).await;
    let (_disk, lvs) = add_disk(&node, "disk").await;
    let free = ready_disk(&node, "disk").await.free_size;
    let image = image();
    let as_it_is = |_: &mut CertificateParams| {};
    let bad = [
        (foreign.server(&image, "127.0.0.1", as_it_is).await, "UnknownIssuer"),
        (ours.server(&image, "another.host", as_it_is).await, "not valid for name"),
        (ours.server(&image, "127.0.0.1", |params| params.not_after = date_time_ymd(2001, 1, 1)).await, "expired"),
    ];
    for (server, words) in &bad {
        create(&node, order(&lvs, &image, &server.url("/image"))).await.expect("it is begun");
        let made = ended(&node, &lvs).await;
        assert_eq!(made.state, "failed", "{words}");
        for words in [words, "invalid peer certificate", "backing_image.ca", &server.url("/image")] {
            assert!(made.error_msg.contains(words), "{words:?} is not in {:?}", made.error_msg);
        }
        assert!(server.asked().is_empty(), "a server that is not trusted was asked for an image");
        delete(&node, &lvs).await.expect("a failed image is deleted");
    }
    assert_eq!(ready_disk(&node, "disk").await.free_size, free);

    let good = ours.server(&image, "127.0.0.1", as_it_is).await;
    create(&node, order(&lvs, &image, &good.url("/redirect"))).await.expect("it is begun");
    let made = ended(&node, &lvs).await;
    assert_eq!((made.state.as_str(), made.error_msg.as_str(), made.current_checksum), ("ready", "", sha512(&image)));
    delete(&node, &lvs).await.expect("it is deleted");

    // The authorities may change while the node runs.
    foreign.write(directory.path());
    create(&node, order(&lvs, &image, &bad[0].0.url("/image"))).await.expect("it is begun");
    assert_eq!(ended(&node, &lvs).await.state, "ready");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_whose_file_of_authorities_has_none_does_not_start_and_names_it() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let file = directory.path().join("authority.pem");
    std::fs::write(&file, "none").expect("written");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_corriente"));
    let file = file.to_str().expect("UTF-8");
    command.args(["serve", "--listen", "127.0.0.1:8504", "--backing-image-ca", file]).env_clear().kill_on_drop(true);
    let output = command.output().await.expect("the program starts");
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && errors.contains("authority.pem"), "{errors}");
}
