//! The accept loop and graceful shutdown.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::addresses::Addresses;
use super::bodies::Bodies;
use super::connection::Connections;
use super::cors::Cors;
use super::edge::Edge;
use super::io::Patience;
use super::routing::Router;
use super::{ApiError, Lifecycle};
use crate::auth::{Gate, TrustedProxies};
use crate::config::HttpConfig;

/// Maximum number of connections that wait to be accepted; the system caps it at its own limit.
const BACKLOG: u32 = 4096;
/// Time that cut-off requests have to send their final bytes.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Time that a refused connection has to receive its response.
const REFUSAL: Duration = Duration::from_secs(1);

/// The server cannot listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {problem}")]
pub struct BindError {
    address: String,
    problem: String,
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Listens on `host:port`; if a name has several addresses, on the first usable one.
    ///
    /// # Errors
    /// The name has no address, or none of them is usable.
    pub async fn bind(address: &str) -> Result<Self, BindError> {
        let failed = |problem: String| BindError { address: address.to_owned(), problem };
        let candidates = tokio::net::lookup_host(address).await.map_err(|error| failed(error.to_string()))?;
        let mut problem = "the name has no address".to_owned();
        for candidate in candidates {
            match listen(candidate) {
                Ok(listener) => {
                    let address = listener.local_addr().map_err(|error| failed(error.to_string()))?;
                    return Ok(Self { listener, address });
                }
                Err(error) => problem = explain(&error, candidate),
            }
        }
        Err(failed(problem))
    }

    /// Returns the address it listens on; with the actual port if 0 was requested.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

fn listen(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // A restart must not wait for connections of the previous run to time out.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn explain(error: &std::io::Error, address: SocketAddr) -> String {
    let advice = match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "another program listens there; stop it or choose another port with --listen {}:PORT",
                address.ip()
            )
        }
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need privileges".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        _ => return error.to_string(),
    };
    format!("{error}; {advice}")
}

/// A server that accepts connections.
#[derive(Debug)]
pub struct Server {
    lifecycle: Lifecycle,
    abandoned: CancellationToken,
    tasks: TaskTracker,
    drain_timeout: Duration,
}

impl Server {
    /// Serves the routes of `router` on `listener` until [`Self::drain`], for requests that `gate` admits. `proxies`
    /// are exempt from the limit of connections per address.
    pub fn start(
        listener: Listener,
        router: Router,
        gate: Option<Gate>,
        proxies: TrustedProxies,
        lifecycle: Lifecycle,
        config: HttpConfig,
    ) -> Self {
        let cors = Cors::new(&config.cors_allowed_origins);
        let bodies = Bodies::new(Arc::new(config.clone()));
        let edge = Edge::new(router, gate, cors, bodies, lifecycle.clone());
        let patience = Patience {
            header: Duration::from_millis(config.header_timeout_ms),
            idle: Duration::from_millis(config.idle_timeout_ms),
            write: Duration::from_millis(config.write_timeout_ms),
        };
        let abandoned = CancellationToken::new();
        let tasks = TaskTracker::new();
        let connections =
            Arc::new(Connections::new(edge, patience, lifecycle.draining.clone(), abandoned.clone()));
        let accepting = Accepting {
            listener: listener.listener,
            connections,
            lifecycle: lifecycle.clone(),
            tasks: tasks.clone(),
            limit: config.max_connections,
            addresses: Addresses::new(config.max_connections_per_address, proxies),
        };
        tasks.spawn(accepting.run());
        Self { lifecycle, abandoned, tasks, drain_timeout: config.drain_timeout() }
    }

    /// Stops the server: accepts no more connections, closes idle ones, lets running requests finish within their time,
    /// then ends streams with an error event and other requests with 503.
    pub async fn drain(self) {
        self.lifecycle.draining.cancel();
        self.tasks.close();
        if tokio::time::timeout(self.drain_timeout, self.tasks.wait()).await.is_ok() {
            return;
        }
        tracing::warn!(connections = self.lifecycle.connections(), "cutting off the requests still running");
        self.lifecycle.cut_off.cancel();
        if tokio::time::timeout(LAST_WORDS, self.tasks.wait()).await.is_err() {
            self.abandoned.cancel();
            self.tasks.wait().await;
        }
    }
}

struct Accepting {
    listener: TcpListener,
    connections: Arc<Connections>,
    lifecycle: Lifecycle,
    tasks: TaskTracker,
    limit: usize,
    addresses: Addresses,
}

impl Accepting {
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = self.lifecycle.draining.cancelled() => return,
            };
            match accepted {
                Ok((stream, peer)) => self.serve_or_refuse(stream, peer),
                // The peer disconnected before it was accepted.
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    // Usually no file descriptor is left; connections that end release some.
                    tracing::error!(%error, "cannot accept connections");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }

    fn serve_or_refuse(&self, stream: TcpStream, peer: SocketAddr) {
        let Some(of_address) = self.addresses.admit(peer.ip()) else {
            let limit = self.addresses.limit();
            // Logged at debug level, since one client could fill the log with it.
            tracing::debug!(limit, peer = %peer.ip(), "too many connections from one address");
            let message = format!(
                "Your address has {limit} connections open, which is as many as \
                 `http.max_connections_per_address` allows. Close one, or use one for several requests."
            );
            self.tasks.spawn(tokio::time::timeout(REFUSAL, refuse(stream, message)));
            return;
        };
        let Some(permit) = self.lifecycle.admit(self.limit) else {
            tracing::warn!(limit = self.limit, "too many connections");
            let message = "The server has reached its maximum number of connections.".to_owned();
            self.tasks.spawn(tokio::time::timeout(REFUSAL, refuse(stream, message)));
            return;
        };
        let serving = Arc::clone(&self.connections).serve(stream, peer);
        self.tasks.spawn(async move {
            serving.await;
            drop((permit, of_address));
        });
    }
}

/// Responds with `message` without reading the request, since the connection exceeds a limit.
async fn refuse(mut stream: TcpStream, message: String) {
    let error = ApiError::unavailable("too_many_connections", message, Duration::ZERO);
    let body = error.to_json(None);
    let head = format!(
        "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
         retry-after: 1\r\nx-content-type-options: nosniff\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The client may have disconnected, and no one else needs the error.
    let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
    let _ = stream.shutdown().await;
}
