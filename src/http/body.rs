//! Request bodies: their type, size and time limits.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPECT};
use http::{HeaderMap, Request};
use http_body::Body;
use http_body_util::BodyDataStream;
use hyper::body::Incoming;
use serde::de::DeserializeOwned;

use super::bodies::{Bodies, BodyLimits, cost};
use super::budget::Holding;
use super::json::{self, Elements, Parsed, Unsupported};
use super::{ApiError, RequestContext};
use crate::auth::access;

/// Maximum number of bytes of a refused request's body that are still read and discarded, so that a client that sends
/// before it reads receives the response rather than a connection reset.
const LINGER_BYTES: usize = 64 * 1024 * 1024;
/// Maximum time for discarding them.
const LINGER_TIME: Duration = Duration::from_secs(5);

/// Content types of lines of JSON; the first is the one of exports.
const LINES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

type Chunks = Pin<Box<dyn Stream<Item = Result<Bytes, warp::Error>> + Send + Sync>>;

/// The body of a request. If it is dropped before its end, the rest is read and discarded, since the next request on the
/// connection lies behind it.
pub(super) struct BodyStream {
    /// `None` once nothing is to be read any more.
    chunks: Option<Chunks>,
    /// Set by dropping a body that is not read to its end: the connection must end with the response.
    unread: Arc<AtomicBool>,
    /// `true` while the client waits to be asked for the body (`Expect`), which reading it does.
    waiting: bool,
}

impl BodyStream {
    /// Creates the body of a request from its chunks as received from warp.
    pub(super) fn new<S, B>(body: S, headers: &HeaderMap, announced: &Announced) -> Self
    where
        S: Stream<Item = Result<B, warp::Error>> + Send + Sync + 'static,
        B: Buf,
    {
        let chunks: Chunks =
            Box::pin(body.map(|chunk| chunk.map(|mut chunk| chunk.copy_to_bytes(chunk.remaining()))));
        Self {
            chunks: announced.holding.is_some().then_some(chunks),
            unread: Arc::clone(&announced.unread),
            waiting: headers.contains_key(EXPECT),
        }
    }

    /// Gives up the rest, which does not arrive.
    fn abandon(&mut self) {
        if self.chunks.take().is_some() {
            self.unread.store(true, Ordering::Release);
        }
    }
}

impl Stream for BodyStream {
    type Item = Result<Bytes, warp::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.waiting = false;
        let Some(chunks) = &mut self.chunks else { return Poll::Ready(None) };
        let next = ready!(chunks.as_mut().poll_next(cx));
        if !matches!(next, Some(Ok(_))) {
            self.chunks = None;
        }
        Poll::Ready(next)
    }
}

impl Drop for BodyStream {
    fn drop(&mut self) {
        if self.waiting {
            self.abandon();
        }
        if let Some(chunks) = self.chunks.take() {
            linger(chunks);
        }
    }
}

/// The properties of a request's body before it is read.
#[derive(Clone, Debug)]
pub(super) struct Announced {
    /// The kind of body that the route accepts.
    pub kind: access::Body,
    /// The memory reserved for it, if a body was sent or may follow.
    pub holding: Option<Arc<Holding>>,
    /// The shared state of all bodies.
    pub bodies: Bodies,
    /// Set if the connection must end with the response, because the body was not read.
    pub unread: Arc<AtomicBool>,
}

/// A request whose body has yet to be read.
pub struct ApiRequest {
    /// The request's id, peer and caller.
    pub context: RequestContext,
    headers: HeaderMap,
    announced: Announced,
    body: BodyStream,
}

impl std::fmt::Debug for ApiRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiRequest").field("context", &self.context).finish_non_exhaustive()
    }
}

impl ApiRequest {
    pub(super) fn new(
        context: RequestContext,
        headers: HeaderMap,
        announced: Announced,
        body: BodyStream,
    ) -> Self {
        Self { context, headers, announced, body }
    }

    /// Returns whether a body was sent or may follow; it may be empty.
    #[must_use]
    pub fn has_body(&self) -> bool {
        self.announced.holding.is_some()
    }

    /// The request's headers.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Returns the body as it arrives, for bodies that are too large to be held in memory. An error means that it broke
    /// off or exceeds its limit.
    pub fn into_body(self) -> impl Stream<Item = Result<Bytes, ApiError>> + Send {
        let limits = self.announced.bodies.limits(self.announced.kind);
        let mut taken = 0;
        self.body.map(move |chunk| {
            let chunk = chunk.map_err(|_| broken_off())?;
            taken += chunk.len() as u64;
            if taken > limits.bytes { Err(too_many_bytes(limits)) } else { Ok(chunk) }
        })
    }

    /// Reads a JSON body and applies `check`. For large bodies, parsing and `check` run outside the threads of
    /// connections.
    ///
    /// # Errors
    /// Errors of [`Self::read_json`], [`json::parse`] and `check`.
    pub async fn read<T, R>(
        self,
        unsupported: &'static [Unsupported],
        check: impl FnOnce(Parsed<T>) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, ApiError>
    where
        T: DeserializeOwned,
        R: Send + 'static,
    {
        let (bodies, holding) = (self.announced.bodies.clone(), self.announced.holding.clone());
        let body = self.read_json().await?;
        let length = body.len();
        let parse = move || {
            let parsed = json::parse::<T>(&body, unsupported)?;
            drop(body);
            let checked = check(parsed);
            // Released even if the caller has stopped waiting.
            drop(holding);
            checked
        };
        bodies.parse(length, parse).await?
    }

    /// Reads an optional JSON body.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn read_optional<T, R>(
        self,
        check: impl FnOnce(Parsed<T>) -> Result<R, ApiError> + Send + 'static,
    ) -> Result<R, ApiError>
    where
        T: DeserializeOwned + Default,
        R: Send + 'static,
    {
        let (bodies, holding) = (self.announced.bodies.clone(), self.announced.holding.clone());
        let body = if self.has_body() { self.read_json().await? } else { Bytes::new() };
        let length = body.len();
        let parse = move || {
            let parsed = if body.is_empty() {
                Parsed { value: T::default(), ignored: Vec::new() }
            } else {
                json::parse::<T>(&body, &[])?
            };
            drop(body);
            let checked = check(parsed);
            drop(holding);
            checked
        };
        bodies.parse(length, parse).await?
    }

    /// Reads a JSON body within the limits of its route.
    ///
    /// # Errors
    /// 415 for another content type, or none with a body that is not empty; 413, 408, 503 if memory is exhausted, and
    /// 400 for a body that breaks off.
    pub async fn read_json(mut self) -> Result<Bytes, ApiError> {
        check_type(&self.headers, self.announced.kind)?;
        let limits = self.announced.bodies.limits(self.announced.kind);
        if length(&self.headers).is_some_and(|length| length > limits.bytes) {
            return Err(too_many_bytes(limits));
        }
        let collecting = collect(&mut self.body, limits, self.announced.holding.as_deref());
        match tokio::time::timeout(limits.timeout, collecting).await {
            Err(_elapsed) => {
                self.body.abandon();
                Err(ApiError::request_timeout(limits.timeout))
            }
            Ok(Err(CollectError::Broken)) => Err(broken_off()),
            Ok(Err(CollectError::Refused(error))) => Err(error),
            Ok(Ok(bytes)) if !bytes.is_empty() && !self.headers.contains_key(CONTENT_TYPE) => {
                Err(wrong_type("The body has no content type", self.announced.kind))
            }
            Ok(Ok(bytes)) => Ok(bytes),
        }
    }
}

fn broken_off() -> ApiError {
    ApiError::invalid_json("The request's body ended before its declared length.")
}

fn too_many_bytes(limits: BodyLimits) -> ApiError {
    ApiError::request_too_large(&format!("{} bytes", limits.bytes), limits.setting)
}

/// Checks the head of a request against the body that its route accepts. A request without a body needs no content
/// type.
///
/// # Errors
/// 415.
pub(super) fn check_head(request: &Request<Incoming>, kind: access::Body) -> Result<(), ApiError> {
    if request.body().is_end_stream() {
        return Ok(());
    }
    let headers = request.headers();
    check_type(headers, kind)?;
    // A body without a length may still be empty, which is known only after reading it.
    if length(headers).is_some_and(|length| length > 0) && !headers.contains_key(CONTENT_TYPE) {
        return Err(wrong_type("The body has no content type", kind));
    }
    Ok(())
}

fn length(headers: &HeaderMap) -> Option<u64> {
    headers.get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// Checks that the content type, if any, is accepted by the route and that the body is not compressed.
fn check_type(headers: &HeaderMap, kind: access::Body) -> Result<(), ApiError> {
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|value| *value != "identity") {
        return Err(ApiError::unsupported_media_type(format!(
            "Unsupported content encoding {encoding:?}: send the body uncompressed."
        ))
        .accepting_identity());
    }
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(()) };
    let essence = value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    let fits = match kind {
        access::Body::Export => LINES.contains(&essence.as_str()),
        _ => {
            essence == "application/json"
                || (essence.starts_with("application/") && essence.ends_with("+json"))
        }
    };
    let shown: String = value.to_str().unwrap_or("?").chars().take(100).collect();
    if fits {
        Ok(())
    } else {
        Err(wrong_type(&format!("Unsupported content type: '{}'", shown.escape_debug()), kind))
    }
}

fn wrong_type(problem: &str, kind: access::Body) -> ApiError {
    let wanted = if kind == access::Body::Export { LINES[0] } else { "application/json" };
    // OpenAI's words.
    ApiError::unsupported_media_type(format!(
        "{problem}. This API method only accepts '{wanted}' requests: send `Content-Type: {wanted}`."
    ))
    .with_param("Content-Type")
}

enum CollectError {
    Refused(ApiError),
    Broken,
}

async fn collect(
    body: &mut BodyStream,
    limits: BodyLimits,
    holding: Option<&Holding>,
) -> Result<Bytes, CollectError> {
    // Memory is reserved as bytes arrive, not by the announced length, which costs a client nothing.
    let mut all = BytesMut::new();
    let mut elements = Elements::default();
    while let Some(chunk) = body.next().await {
        let chunk = chunk.map_err(|_| CollectError::Broken)?;
        let length = (all.len() + chunk.len()) as u64;
        if length > limits.bytes {
            return Err(CollectError::Refused(too_many_bytes(limits)));
        }
        elements.add(&chunk);
        if elements.count() > limits.elements {
            let limit = format!("{} elements", limits.elements);
            let error = ApiError::request_too_large(&limit, "http.body_limit_elements");
            return Err(CollectError::Refused(error));
        }
        if let Some(holding) = holding {
            holding.grow_to(cost(length, elements)).map_err(CollectError::Refused)?;
        }
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

/// Discards the body of a request that is answered by its head alone. Returns `true` if the connection must end with the
/// response: a client that waits to be asked for the body may still send it.
pub(super) fn discard(request: Request<Incoming>) -> bool {
    if request.body().is_end_stream() {
        return false;
    }
    let waits = request.headers().contains_key(EXPECT);
    if !waits {
        linger(BodyDataStream::new(request.into_body()));
    }
    waits
}

fn linger<E: Send>(mut body: impl Stream<Item = Result<Bytes, E>> + Unpin + Send + 'static) {
    // Without a runtime the server has ended, and its connections with it.
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    runtime.spawn(async move {
        let reading = async {
            let mut taken = 0;
            while let Some(Ok(chunk)) = body.next().await {
                taken += chunk.len();
                if taken > LINGER_BYTES {
                    break;
                }
            }
        };
        // Made here: a timer needs the runtime.
        let _ = tokio::time::timeout(LINGER_TIME, reading).await;
    });
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn json_types_pass_and_others_do_not() {
        let typed =
            |text: &'static str| HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(text))]);
        let json = access::Body::Inference;
        for fine in ["application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"] {
            assert!(check_type(&typed(fine), json).is_ok(), "{fine}");
            assert_eq!(check_type(&typed(fine), access::Body::Export).unwrap_err().status(), 415, "{fine}");
        }
        for wrong in ["text/plain", "application/x-www-form-urlencoded", "json", "", "text/x+json"] {
            assert_eq!(check_type(&typed(wrong), json).unwrap_err().status(), 415, "{wrong}");
        }
        for lines in LINES {
            assert!(check_type(&typed(lines), access::Body::Export).is_ok(), "{lines}");
            assert_eq!(check_type(&typed(lines), json).unwrap_err().status(), 415, "{lines}");
        }
        assert!(check_type(&HeaderMap::new(), json).is_ok(), "whether it is needed shows with the body");
        let zipped = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
        assert_eq!(check_type(&zipped, json).unwrap_err().status(), 415);
    }
}
