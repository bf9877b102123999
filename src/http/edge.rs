//! The handling common to all requests, regardless of the route: an id, a log line, CORS headers, a JSON body for
//! errors, a 500 for panics, a 503 when a request's time is over while the server stops.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{ALLOW, CONNECTION, CONTENT_LENGTH, HOST, ORIGIN, X_CONTENT_TYPE_OPTIONS};
use http::{HeaderValue, Method, Request, StatusCode, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use jan_actors::limits::RateLimitDecision;
use tower::ServiceExt;
use tracing::{Instrument, Span};
use warp::Reply;

use super::bodies::Bodies;
use super::body::{self, Announced};
use super::budget::Holding;
use super::cors::Cors;
use super::error::{prefix, without_token};
use super::io::RunningRequest;
use super::limits;
use super::routing::{Arrival, Captured, Found, Router, Target};
use super::{ApiError, Lifecycle, RequestContext, RequestId, Response};
use crate::auth::access::{Access, Rule};
use crate::auth::{Admission, Caller, Gate, Noted};

/// Answers requests with the handlers of the routes.
#[derive(Debug)]
pub struct Edge {
    router: Router,
    /// `None`: callers are not authenticated, and all are anonymous.
    gate: Option<Gate>,
    cors: Cors,
    bodies: Bodies,
    lifecycle: Lifecycle,
}

impl Edge {
    pub fn new(router: Router, gate: Option<Gate>, cors: Cors, bodies: Bodies, lifecycle: Lifecycle) -> Self {
        Self { router, gate, cors, bodies, lifecycle }
    }

    /// Answers one request. `running` lives as long as the response's body.
    pub async fn respond(
        &self,
        request: Request<Incoming>,
        peer: SocketAddr,
        running: RunningRequest,
    ) -> http::Response<EdgeBody> {
        let started = Instant::now();
        let id = RequestId::from_header(request.headers().get("x-request-id"));
        let path = request.uri().path();
        let method = request.method().clone();
        let found = self.router.find(&method, path);
        let (rule, captured) = match &found {
            Found::Route(target, captured) => (Some(&target.rule), *captured),
            Found::OtherMethod(_) | Found::Unknown => (None, Captured::default()),
        };
        let is_preflight = Cors::is_preflight(&method, request.headers());
        let version = request.version();
        // Set if the request's body was not read, so that the next request on the connection could not be found.
        let last;
        let mut admission = self.admit(rule, &request, peer, is_preflight);
        // All fields are set at once: a field that is added later costs as much as the span.
        let span = tracing::info_span!(
            "request",
            request_id = %id,
            %method,
            path = prefix(without_token(path), 200),
            peer = %peer.ip(),
            caller = admission.caller.principal.user().map(tracing::field::display),
        );
        let mut exchange = Exchange {
            span: span.clone(),
            started,
            quiet: rule.is_some_and(|rule| rule.access == Access::Probe),
            outcome: None,
            complete: false,
            holding: None,
            _running: running,
        };
        let origin = request.headers().get(ORIGIN).cloned();
        // A caller's own id can contain anything.
        let own_id = Some(id.as_str()).filter(|_| !request.headers().contains_key("x-request-id"));
        let gate = self.gate.as_ref();
        let trail = gate.and_then(|gate| gate.trail(&admission, captured.texts(path), own_id));
        let mut response = if is_preflight {
            let mut response = StatusCode::NO_CONTENT.into_response();
            self.cors.answer_preflight(request.headers(), response.headers_mut());
            last = body::discard(request);
            response
        } else {
            let refusal = admission.refusal.take().or_else(|| refusal(&found, &request));
            let refusal = refusal.or_else(|| host_error(&request));
            let mut response = match (refusal, &found) {
                (None, Found::Route(target, captured)) => {
                    let context = RequestContext { id: id.clone(), peer, caller: admission.caller };
                    let has_body = !request.body().is_end_stream();
                    let holding = has_body.then(|| self.bodies.holding(context.fairness_key()));
                    exchange.holding.clone_from(&holding);
                    let unread = Arc::new(AtomicBool::new(false));
                    let announced = Announced {
                        kind: target.rule.body,
                        holding,
                        bodies: self.bodies.clone(),
                        unread: Arc::clone(&unread),
                    };
                    let uri = request.uri().clone();
                    let arrival = Arrival { context, uri, captured: *captured, announced };
                    let response = self.dispatch(target, request, arrival).instrument(span).await;
                    last = unread.load(Ordering::Acquire);
                    response
                }
                (None, Found::OtherMethod(allow)) => {
                    let mut response = StatusCode::NO_CONTENT.into_response();
                    let methods =
                        HeaderValue::from_str(allow).expect("names of methods may stand in a header");
                    response.headers_mut().insert(ALLOW, methods);
                    last = body::discard(request);
                    response
                }
                (refusal, _) => {
                    let refusal = refusal.unwrap_or_else(|| ApiError::unknown_url(method.as_str(), path));
                    let response = refusal.into_response();
                    last = body::discard(request);
                    response
                }
            };
            self.cors.add_headers(origin.as_ref(), response.headers_mut());
            response
        };

        limits::add_headers(&admission.verdict, response.headers_mut());
        if last && version <= Version::HTTP_11 {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        let (mut parts, body) = response.into_parts();
        parts.headers.insert("x-request-id", id.to_header());
        // Stored contents and a model's output must not be interpreted as a page or a script.
        parts.headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let error = parts.extensions.remove::<ApiError>();
        let noted = parts.extensions.remove::<Noted>();
        if let Some(trail) = trail {
            trail.end(parts.status, error.as_ref(), noted);
        }
        let mut body = match &error {
            Some(error) => {
                let json = Full::new(Bytes::from(error.to_json(Some(id.as_str()))));
                json.map_err(|never| match never {}).boxed_unsync()
            }
            None => body.map_err(Into::into).boxed_unsync(),
        };
        if method == Method::HEAD {
            if let Some(length) = body.size_hint().exact().filter(|length| *length > 0) {
                parts.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            }
            body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        }
        exchange.outcome = Some((parts.status, error));
        http::Response::from_parts(parts, EdgeBody { inner: body, exchange })
    }

    fn admit<'r>(
        &self,
        rule: Option<&'r Rule>,
        request: &Request<Incoming>,
        peer: SocketAddr,
        is_preflight: bool,
    ) -> Admission<'r> {
        match &self.gate {
            Some(gate) if is_preflight => gate.preflight(request.headers(), peer),
            Some(gate) => gate.admit(rule, request.uri(), request.headers(), peer),
            None => Admission {
                caller: Caller::anonymous(peer.ip()),
                verdict: RateLimitDecision::UNLIMITED,
                rule,
                refusal: None,
            },
        }
    }

    /// Answers a request with the filter of its route.
    async fn dispatch(&self, target: &Target, mut request: Request<Incoming>, arrival: Arrival) -> Response {
        request.extensions_mut().insert(arrival);
        // In a box: 'select!' would have room for it twice.
        let answer = Box::pin(warp::service(target.filter.clone()).oneshot(request));
        tokio::select! {
            answer = AssertUnwindSafe(answer).catch_unwind() => match answer {
                Ok(Ok(response)) => response,
                Ok(Err(never)) => match never {},
                // The panic hook has logged it, in this request's span.
                Err(_panic) => ApiError::internal().into_response(),
            },
            () = self.lifecycle.cut_off.cancelled() => ApiError::shutting_down().into_response(),
        }
    }
}

/// Returns the error of an HTTP/1.1 request that does not name one host.
fn host_error(request: &Request<Incoming>) -> Option<ApiError> {
    let named = request.headers().get_all(HOST).iter().count();
    (request.version() == Version::HTTP_11 && named != 1).then(ApiError::invalid_host)
}

/// Returns the error of a request that the gate admits, if its path is known and it cannot be dispatched.
fn refusal(found: &Found<'_, Arc<Target>>, request: &Request<Incoming>) -> Option<ApiError> {
    let (method, path) = (request.method(), request.uri().path());
    match found {
        Found::Route(target, _) => body::check_head(request, target.rule.body).err(),
        Found::OtherMethod(_) if *method == Method::OPTIONS => None,
        Found::OtherMethod(allow) => Some(ApiError::method_not_allowed(method.as_str(), path, allow)),
        Found::Unknown => None,
    }
}

/// One request from its head to the end of its response; writes the log line when it is dropped.
#[derive(Debug)]
struct Exchange {
    span: Span,
    started: Instant,
    /// Probes arrive every few seconds and would bury all other log lines.
    quiet: bool,
    outcome: Option<(StatusCode, Option<ApiError>)>,
    complete: bool,
    /// The memory of the request's body, which its parsed form keeps using until the end of the response.
    holding: Option<Arc<Holding>>,
    _running: RunningRequest,
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let _span = self.span.enter();
        let duration_ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match &self.outcome {
            None => tracing::info!(duration_ms, "client went away before the response"),
            Some((status, _)) if !self.complete => {
                tracing::info!(status = status.as_u16(), duration_ms, "client went away during the response");
            }
            Some((status, Some(error))) => {
                let (status, code) = (status.as_u16(), error.code());
                // The message may quote the request, whose contents must not be logged.
                let message = if error.may_quote() { "" } else { error.message() };
                if self.quiet {
                    tracing::debug!(status, duration_ms, code, error = message, "probe failed");
                } else if status >= 500 {
                    tracing::warn!(status, duration_ms, code, error = message, "request failed");
                } else {
                    tracing::info!(status, duration_ms, code, "request refused");
                    tracing::debug!(error = error.message(), "why the request was refused");
                }
            }
            Some((status, None)) if self.quiet => {
                tracing::debug!(status = status.as_u16(), duration_ms, "request answered");
            }
            Some((status, None)) => {
                tracing::info!(status = status.as_u16(), duration_ms, "request answered");
            }
        }
    }
}

/// A response's body that records whether it was sent completely or dropped.
#[derive(Debug)]
pub struct EdgeBody {
    inner: UnsyncBoxBody<Bytes, Box<dyn std::error::Error + Send + Sync>>,
    exchange: Exchange,
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let _span = this.exchange.span.enter();
        let frame = ready!(Pin::new(&mut this.inner).poll_frame(cx));
        if frame.is_none() {
            this.exchange.complete = true;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl Drop for EdgeBody {
    fn drop(&mut self) {
        // hyper need not poll for the end of a body whose length is known.
        self.exchange.complete |= self.inner.is_end_stream();
    }
}
