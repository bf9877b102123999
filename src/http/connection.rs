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

/// Largest request head, and most that is buffered for one connection in one direction.
const BUFFER_BYTES: usize = 64 * 1024;
/// Streams of one HTTP/2 connection at a time.
const HTTP2_STREAMS: u32 = 256;

/// What all connections share.
#[derive(Debug)]
pub struct Connections {
    edge: Edge,
    builder: auto::Builder<TokioExecutor>,
    patience: Patience,
    /// Connections finish the requests they have and close.
    draining: CancellationToken,
    /// Connections end as they are.
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
        // The stream itself is timed, see `io`.
        builder.http1().timer(TokioTimer::new()).header_read_timeout(None).max_buf_size(BUFFER_BYTES);
        builder
            .http2()
            .timer(TokioTimer::new())
            .max_concurrent_streams(HTTP2_STREAMS)
            .max_header_list_size(BUFFER_BYTES as u32)
            .max_send_buf_size(BUFFER_BYTES)
            // A client that is gone without a word holds its sequences until it is noticed.
            .keep_alive_interval(Duration::from_secs(20))
            .keep_alive_timeout(Duration::from_secs(20));
        Self { edge, builder, patience, draining, abandoned }
    }

    /// Serves one connection to its end.
    pub async fn serve(self: Arc<Self>, stream: TcpStream, peer: SocketAddr) {
        // Every token is a small write; Nagle would hold it back for the peer's delayed ACK.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "cannot set TCP_NODELAY");
        }
        let activity = Activity::new();
        let io = TokioIo::new(TimedStream::new(stream, activity.clone(), self.patience));
        let shared = &self;
        let service = service_fn(move |request| {
            let running = activity.begin_request();
            let shared = Arc::clone(shared);
            async move { Ok::<_, Infallible>(shared.edge.respond(request, peer, running).await) }
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
            // The client's doing: it went away, stalled or spoke no HTTP.
            tracing::debug!(%peer, error = &*error, "connection ended");
        }
    }
}
