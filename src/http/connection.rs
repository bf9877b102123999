//! One connection: HTTP/1.1 with keep-alive and pipelining, or HTTP/2 by prior knowledge.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::edge::Edge;
use super::io::{Activity, Patience, TimedStream};

/// Maximum size of a request head, and of the buffer of one connection in one direction, in bytes.
const BUFFER_BYTES: usize = 64 * 1024;
/// Maximum number of concurrent streams of one HTTP/2 connection.
const HTTP2_STREAMS: u32 = 256;

/// The shared state of all connections.
#[derive(Debug)]
pub struct Connections {
    edge: Edge,
    builder: auto::Builder<TokioExecutor>,
    patience: Patience,
    /// Cancelled to make connections finish their current requests and close.
    draining: CancellationToken,
    /// Cancelled to end connections immediately.
    abandoned: CancellationToken,
}

impl Connections {
    pub fn new(
        edge: Edge,
        patience: Patience,
        draining: CancellationToken,
        abandoned: CancellationToken,
    ) -> Self {
        let mut builder = auto::Builder::new(TokioExecutor::new());
        // The stream itself has timeouts, see `io`.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(BUFFER_BYTES as u32)
            .max_send_buf_size(BUFFER_BYTES)
            // A client that vanished keeps its sequences busy until the keep-alive detects it.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { edge, builder, patience, draining, abandoned }
    }

    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Each token is a small write, which Nagle's algorithm would delay until the peer's delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let activity = Activity::new();
        let io = TokioIo::new(TimedStream::new(stream, activity.clone(), self.patience));
        let shared = &self;
        let service = service_fn(move |request| {
            let running = activity.begin_request();
            let shared = Arc::clone(shared);
            // hyper reserves space for this future even while a connection is idle; boxed, it is one pointer.
            Box::pin(async move { Ok::<_, Infallible>(shared.edge.respond(request, peer, running).await) })
        });
        let mut connection = pin!(self.builder.serve_connection(io, service));
        let result = tokio::select! {
            result = connection.as_mut() => result,
            () = self.abandoned.cancelled() => return,
            () = self.draining.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    result = connection.as_mut() => result,
                    () = self.abandoned.cancelled() => return,
                }
            }
        };
        if let Err(error) = result {
            // Caused by the client: it disconnected, stalled or did not speak HTTP.
            tracing::debug!(%peer, error = &*error, "connection ended");
        }
    }
}
