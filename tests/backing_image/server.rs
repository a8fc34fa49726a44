//! An HTTP server on 127.0.0.1, in the clear or with TLS, that has one image, and serves it well or badly, by the path that
//! is asked for.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// The server; it ends when it is dropped.
pub struct Server {
    scheme: &'static str,
    address: SocketAddr,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Server {
    pub async fn start(image: Vec<u8>) -> Self {
        Self::start_with(image, None).await
    }

    /// One that shows a certificate.
    pub async fn start_tls(image: Vec<u8>, tls: TlsAcceptor) -> Self {
        Self::start_with(image, Some(tls)).await
    }

    async fn start_with(image: Vec<u8>, tls: Option<TlsAcceptor>) -> Self {
        let scheme = if tls.is_some() { "https" } else { "http" };
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
        let address = listener.local_addr().expect("its address");
        let (image, asked) = (Arc::new(image), Arc::new(Mutex::new(Vec::new())));
        let log = asked.clone();
        let task = tokio::spawn(async move {
            let mut clients = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                // A client that goes away early is what some tests want.
                let (image, log, tls) = (image.clone(), log.clone(), tls.clone());
                clients.spawn(async move {
                    match tls {
                        Some(tls) => serve(tls.accept(stream).await?, image, log).await,
                        None => serve(stream, image, log).await,
                    }
                });
            }
        });
        Server { scheme, address, asked, task }
    }

    /// `/image`, `/missing`, `/longer`, `/endless`, `/broken`, `/stalled`, `/silent`, `/redirect` or `/circle`.
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    /// The paths and queries of all requests so far.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().expect("no test panics with it").clone()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A client's stream, which may be broken off.
trait Stream: AsyncRead + AsyncWrite + Unpin {
    fn socket(&self) -> &TcpStream;
}

impl Stream for TcpStream {
    fn socket(&self) -> &TcpStream {
        self
    }
}

impl Stream for tokio_rustls::server::TlsStream<TcpStream> {
    fn socket(&self) -> &TcpStream {
        self.get_ref().0
    }
}

async fn serve(mut stream: impl Stream, image: Arc<Vec<u8>>, asked: Arc<Mutex<Vec<String>>>) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Ok(());
        }
        request.push(byte[0]);
    }
    let text = String::from_utf8_lossy(&request).into_owned();
    let target = text.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().expect("no test panics with it").push(target.clone());
    let path = target.split('?').next().unwrap_or_default();
    let size = image.len();
    let head = |status: &str, more: &str| format!("HTTP/1.1 {status}\r\nConnection: close\r\n{more}\r\n").into_bytes();
    let length = |bytes: usize| format!("Content-Length: {bytes}\r\n");
    match path {
        "/image" => {
            stream.write_all(&head("200 OK", &length(size))).await?;
            stream.write_all(&image).await?;
        }
        "/missing" => stream.write_all(&head("404 Not Found", &length(0))).await?,
        "/longer" => stream.write_all(&head("200 OK", &length(size + 512))).await?,
        "/endless" => {
            // Without a length, and more than there should be.
            stream.write_all(&head("200 OK", "")).await?;
            stream.write_all(&image).await?;
            stream.write_all(&[1; 512]).await?;
        }
        "/broken" => {
            stream.write_all(&head("200 OK", &length(size))).await?;
            stream.write_all(&image[..size / 2]).await?;
            // Whatever is in the socket still is thrown away: a reset.
            nix::sys::socket::setsockopt(stream.socket(), nix::sys::socket::sockopt::Linger, &linger())?;
        }
        "/stalled" => {
            stream.write_all(&head("200 OK", &length(size))).await?;
            stream.write_all(&image[..size / 2]).await?;
            std::future::pending::<()>().await;
        }
        "/silent" => std::future::pending::<()>().await,
        "/redirect" => stream.write_all(&head("302 Found", "Location: /image\r\nContent-Length: 0\r\n")).await?,
        "/circle" => stream.write_all(&head("302 Found", "Location: /circle\r\nContent-Length: 0\r\n")).await?,
        other => panic!("a test asks for {other}"),
    }
    stream.shutdown().await
}

fn linger() -> libc::linger {
    libc::linger { l_onoff: 1, l_linger: 0 }
}
