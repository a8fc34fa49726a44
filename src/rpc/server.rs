//! The gRPC server: its listeners, what every connection is held to, and how it ends.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{TcpListener, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use super::call_log::{CallLogLayer, InFlight};
use super::panics::CatchPanicLayer;
use crate::config::NodeConfig;
use crate::error::{Error, Result, root_cause};
use crate::telemetry::Metrics;
use crate::tls::Credentials;
use crate::wire::corriente::v1::corriente_service_server::{CorrienteService, CorrienteServiceServer};
use crate::wire::spdkrpc::spdk_service_server::{SpdkService, SpdkServiceServer};

/// How often a silent connection is asked whether its peer still lives, and how long the answer may take: a watcher
/// whose node lost power is noticed within the sum. Peers are promised that a ping every 10 s is allowed, also without a
/// call; HTTP/2 here never answers a ping with a refusal.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// How long the last streams may take once no call is under way and the node stops. Ours end by themselves at once; what
/// is left belongs to a peer that does not read, or does not end its own side.
const STREAM_LIMIT: Duration = Duration::from_secs(1);

/// Our services, each held to the largest message.
pub fn services(message_bytes: usize, spdk: impl SpdkService, corriente: impl CorrienteService) -> Routes {
    Routes::default()
        .add_service(
            SpdkServiceServer::new(spdk)
                .max_decoding_message_size(message_bytes)
                .max_encoding_message_size(message_bytes),
        )
        .add_service(
            CorrienteServiceServer::new(corriente)
                .max_decoding_message_size(message_bytes)
                .max_encoding_message_size(message_bytes),
        )
}

/// Listeners that hold their addresses; calls wait until [`Listeners::serve`].
#[derive(Debug)]
pub struct Listeners {
    tcp: TcpListener,
    credentials: Option<Credentials>,
    unix: Option<UnixSocket>,
    calls_per_connection: usize,
    drain_limit: Duration,
}

impl Listeners {
    /// Takes the addresses of the configuration. Fails when another process has one.
    pub async fn bind(config: &NodeConfig, credentials: Option<Credentials>) -> Result<Self> {
        let listen = config.listen;
        let tcp = TcpListener::bind(listen)
            .await
            .map_err(|error| Error::precondition(format!("listen {listen}"), format!("cannot listen: {error}")))?;
        let unix = match &config.unix_socket.0 {
            Some(path) => Some(UnixSocket::bind(path).await?),
            None => None,
        };
        Ok(Self {
            tcp,
            credentials,
            unix,
            calls_per_connection: config.limits.calls_per_connection.get(),
            drain_limit: config.timeouts.shutdown,
        })
    }

    /// Where TCP listens.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `shutdown` is done; then takes no new connection, lets calls finish, and returns when all have, at the
    /// latest when `timeouts.shutdown` is over. Streams that do not end by themselves are not waited for. What is still
    /// open then ends with the process.
    pub async fn serve(
        self,
        routes: Routes,
        metrics: Metrics,
        shutdown: impl Future<Output = ()> + Send,
    ) -> Result<()> {
        let in_flight = InFlight::default();
        let server = |tls: Option<&Credentials>| {
            let builder = Server::builder();
            let builder = match tls {
                None => builder,
                Some(credentials) => builder
                    .tls_config(credentials.server())
                    .map_err(|error| Error::internal("TLS of gRPC", root_cause(&error)))?,
            };
            let server = builder
                .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
                .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
                .concurrency_limit_per_connection(self.calls_per_connection)
                .max_concurrent_streams(u32::try_from(self.calls_per_connection).ok())
                .layer(CallLogLayer::new(metrics.clone(), in_flight.clone()))
                .layer(CatchPanicLayer)
                .add_routes(routes.clone());
            Ok::<_, Error>(server)
        };
        let (stop, stopping) = watch::channel(false);
        let stopped = || {
            let mut stopping = stopping.clone();
            async move {
                // An error means that the sender is gone, which is a stop too.
                let _ = stopping.wait_for(|stop| *stop).await;
            }
        };
        let incoming = TcpIncoming::from(self.tcp).with_nodelay(Some(true));
        let tcp = server(self.credentials.as_ref())?.serve_with_incoming_shutdown(incoming, stopped());
        let unix_server = server(None)?;
        let unix = async {
            match self.unix {
                Some(socket) => {
                    let UnixSocket { listener, path } = socket;
                    let _remove = RemoveAtEnd(path);
                    unix_server.serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped()).await
                }
                None => Ok(()),
            }
        };
        let limit = async {
            shutdown.await;
            stop.send_replace(true);
            tokio::select! {
                () = tokio::time::sleep(self.drain_limit) => true,
                () = in_flight.none_for(STREAM_LIMIT) => false,
            }
        };
        tokio::select! {
            ended = async { tokio::try_join!(tcp, unix) } => {
                ended.map(drop).map_err(|error| Error::internal("the gRPC server", error.to_string()))
            }
            calls_are_left = limit => {
                if calls_are_left {
                    tracing::warn!(limit = ?self.drain_limit,
                        "calls did not end in time and are left to the end of the process");
                }
                Ok(())
            }
        }
    }
}

#[derive(Debug)]
struct UnixSocket {
    listener: UnixListener,
    path: PathBuf,
}

impl UnixSocket {
    /// Takes the path, and replaces a socket that a dead process left there. Only the owner may connect.
    async fn bind(path: &Path) -> Result<Self> {
        let object = || format!("unix_socket {}", path.display());
        let failed = |error: io::Error| Error::precondition(object(), format!("cannot listen: {error}"));
        if UnixStream::connect(path).await.is_ok() {
            return Err(Error::precondition(object(), "another process listens there"));
        }
        if is_socket(path) {
            std::fs::remove_file(path).map_err(failed)?;
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        let owner_only = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(path, owner_only).map_err(failed)?;
        Ok(Self { listener, path: path.to_owned() })
    }
}

fn is_socket(path: &Path) -> bool {
    use std::os::unix::fs::FileTypeExt;
    std::fs::symlink_metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

/// Removes the socket's file when the server ends. Best effort: a file left behind is replaced at the next start.
struct RemoveAtEnd(PathBuf);

impl Drop for RemoveAtEnd {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[cfg(test)]
mod tests;
