//! Server-sent events in OpenAI's format, <https://html.spec.whatwg.org/multipage/server-sent-events.html>: one `data:
//! {json}` line for each event and `data: [DONE]` at the end.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use serde::Serialize;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use warp::Reply;

use super::{ApiError, RequestId, Response};

/// The end of every stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";
const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// Appends one event to `buffer`. JSON has no line breaks outside its strings and escapes those inside, so one line is
/// always enough.
pub fn write_event<T: Serialize>(buffer: &mut Vec<u8>, value: &T) {
    buffer.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut *buffer, value).expect("wire types serialize and a vector takes every byte");
    buffer.extend_from_slice(b"\n\n");
}

/// Appends one event with a line `event: {name}` before it, as in the Responses API.
pub fn write_named_event<T: Serialize>(buffer: &mut Vec<u8>, name: &str, value: &T) {
    buffer.extend_from_slice(b"event: ");
    buffer.extend_from_slice(name.as_bytes());
    buffer.push(b'\n');
    write_event(buffer, value);
}

/// Returns the last events of a stream that failed: the error, then `[DONE]`, so that clients that wait for it stop.
#[must_use]
pub fn failure(error: &ApiError, request_id: &RequestId) -> Bytes {
    let mut buffer = b"data: ".to_vec();
    buffer.extend_from_slice(&error.to_json(Some(request_id.as_str())));
    buffer.extend_from_slice(b"\n\n");
    buffer.extend_from_slice(DONE);
    buffer.into()
}

/// Returns a response that sends `events` (whole events, including `[DONE]`). A comment is sent whenever nothing was
/// sent for `keep_alive`; if `cut_off` is cancelled first, the stream ends with an error event. Dropping the response
/// drops `events`.
pub fn response<S>(events: S, keep_alive: Duration, cut_off: &CancellationToken, id: RequestId) -> Response
where
    S: Stream<Item = Bytes> + Send + Sync + 'static,
{
    let stream = EventStream {
        events: Some(Box::pin(events)),
        keep_alive,
        last_sent: Instant::now(),
        timer: Box::pin(tokio::time::sleep(keep_alive)),
        cut_off: Box::pin(cut_off.clone().cancelled_owned()),
        id,
    };
    let mut response = warp::reply::stream(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Prevents nginx and similar proxies from buffering the stream.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

struct EventStream<S> {
    /// `None` after the end of the stream.
    events: Option<Pin<Box<S>>>,
    keep_alive: Duration,
    last_sent: Instant,
    timer: Pin<Box<Sleep>>,
    cut_off: Pin<Box<WaitForCancellationFutureOwned>>,
    id: RequestId,
}

impl<S: Stream<Item = Bytes>> Stream for EventStream<S> {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let Some(events) = &mut this.events else { return Poll::Ready(None) };
        if let Poll::Ready(next) = events.as_mut().poll_next(cx) {
            match next {
                Some(_) => this.last_sent = Instant::now(),
                None => this.events = None,
            }
            return Poll::Ready(next.map(Ok));
        }
        if this.cut_off.as_mut().poll(cx).is_ready() {
            this.events = None;
            return Poll::Ready(Some(Ok(failure(&ApiError::shutting_down(), &this.id))));
        }
        // The timer is reset only when it fires: tokens arrive far more often.
        while this.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let due = this.last_sent + this.keep_alive;
            if due <= now {
                this.last_sent = now;
                this.timer.as_mut().reset(now + this.keep_alive);
                return Poll::Ready(Some(Ok(Bytes::from_static(KEEP_ALIVE))));
            }
            this.timer.as_mut().reset(due);
        }
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{StreamExt, stream};
    use http_body_util::BodyExt;
    use proptest::prelude::*;

    use super::*;

    const LONG: Duration = Duration::from_secs(3600);

    fn id() -> RequestId {
        RequestId::from_header(Some(&HeaderValue::from_static("r-1")))
    }

    async fn text(response: Response) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn events_pass_unchanged_with_the_headers_of_a_stream() {
        let events = stream::iter([Bytes::from_static(b"data: {}\n\n"), Bytes::from_static(DONE)]);
        let response = response(events, LONG, &CancellationToken::new(), id());
        assert_eq!(response.headers()[CONTENT_TYPE], "text/event-stream");
        assert_eq!(response.headers()[CACHE_CONTROL], "no-cache");
        assert_eq!(response.headers()["x-accel-buffering"], "no");
        assert_eq!(text(response).await, "data: {}\n\ndata: [DONE]\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn silence_is_filled_with_comments() {
        let events = stream::once(async {
            tokio::time::sleep(Duration::from_millis(2500)).await;
            Bytes::from_static(DONE)
        });
        let response = response(events, Duration::from_secs(1), &CancellationToken::new(), id());
        assert_eq!(text(response).await, ": keep-alive\n\n: keep-alive\n\ndata: [DONE]\n\n");
    }

    #[tokio::test(start_paused = true)]
    async fn events_put_the_next_comment_off() {
        let events = stream::unfold(0, |count| async move {
            tokio::time::sleep(Duration::from_millis(700)).await;
            (count < 4).then(|| (Bytes::from_static(b"data: {}\n\n"), count + 1))
        });
        let response = response(events, Duration::from_secs(1), &CancellationToken::new(), id());
        assert_eq!(text(response).await, "data: {}\n\n".repeat(4));
    }

    #[tokio::test]
    async fn a_cut_off_stream_ends_with_an_error_and_done() {
        let cut_off = CancellationToken::new();
        let events = stream::iter([Bytes::from_static(b"data: 1\n\n")]).chain(stream::pending());
        let response = response(events, LONG, &cut_off, id());
        cut_off.cancel();
        let text = text(response).await;
        let events: Vec<&str> = text.split_terminator("\n\n").collect();
        assert_eq!(events[0], "data: 1");
        let error: serde_json::Value =
            serde_json::from_str(events[1].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(error["error"]["code"], "shutting_down");
        assert_eq!(error["error"]["request_id"], "r-1");
        assert_eq!(events[2..], ["data: [DONE]"]);
    }

    proptest! {
        /// An event with any text is one line of JSON after `data: ` and an empty line.
        #[test]
        fn events_are_framed(texts in proptest::collection::vec(any::<String>(), 1..5)) {
            let mut buffer = Vec::new();
            for text in &texts {
                write_event(&mut buffer, text);
            }
            let sent = String::from_utf8(buffer).unwrap();
            prop_assert!(sent.ends_with("\n\n"));
            let read: Vec<String> = sent
                .split_terminator("\n\n")
                .map(|event| serde_json::from_str(event.strip_prefix("data: ").unwrap()).unwrap())
                .collect();
            prop_assert_eq!(read, texts);
        }
    }
}
