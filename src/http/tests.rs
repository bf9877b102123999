//! The HTTP layer on real sockets.

use std::convert::Infallible;
use std::future::{pending, ready};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::Method;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use warp::Reply;

use super::routing::{Handler, Id, Place, Route, Router};
use super::*;
use crate::auth::TrustedProxies;
use crate::auth::access::Access;
use crate::config::HttpConfig;

const SOON: Duration = Duration::from_secs(5);
const BODY_LIMIT: u64 = 1 << 20;

struct TestServer {
    server: Server,
    address: std::net::SocketAddr,
    lifecycle: Lifecycle,
    /// One message for each handler or stream that was dropped before its end.
    dropped: mpsc::UnboundedReceiver<&'static str>,
}

struct OnDrop(&'static str, mpsc::UnboundedSender<&'static str>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        let _ = self.1.send(self.0);
    }
}

async fn start(edit: impl FnOnce(&mut HttpConfig)) -> TestServer {
    let mut config = HttpConfig {
        listen: "127.0.0.1:0".to_owned(),
        body_limit_bytes: Some(BODY_LIMIT),
        ..HttpConfig::default()
    };
    edit(&mut config);
    let lifecycle = Lifecycle::default();
    let (drops, dropped) = mpsc::unbounded_channel();
    let listener = Listener::bind(&config.listen).await.unwrap();
    let address = listener.address();
    let router = Router::new(test_routes(&config, &lifecycle, drops), ());
    let server = Server::start(listener, router, None, TrustedProxies::default(), lifecycle.clone(), config);
    TestServer { server, address, lifecycle, dropped }
}

fn route<A, H: Handler<(), A>>(method: Method, path: &str, handler: H) -> Route<()> {
    Route::new(method, path, handler, Place::Root, Access::Open)
}

fn test_routes(
    config: &HttpConfig,
    lifecycle: &Lifecycle,
    drops: mpsc::UnboundedSender<&'static str>,
) -> Vec<Route<()>> {
    let hello = async || Response::new("hello".into());
    let panics = || async {
        tokio::task::yield_now().await;
        if true {
            panic!("a bug");
        }
        Response::default()
    };
    let slow = |Id(ms): Id| async move {
        tokio::time::sleep(Duration::from_millis(ms.parse().unwrap())).await;
        Response::new("slow".into())
    };
    let drops_too = drops.clone();
    let hang = move || {
        let guard = OnDrop("hang", drops_too.clone());
        async move {
            pending::<()>().await;
            drop(guard);
            Response::default()
        }
    };
    let length = |request: ApiRequest| async move {
        request.read_json().await.map(|bytes| Response::new(bytes.len().to_string().into()))
    };
    let (keep_alive, cut_off, drops_too) = (config.keep_alive(), lifecycle.cut_off.clone(), drops.clone());
    let ticks = move |context: RequestContext| {
        let events = stream::unfold(OnDrop("ticks", drops_too.clone()), |guard| async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            Some((Bytes::from_static(b"data: 1\n\n"), guard))
        });
        ready(sse::response(events, keep_alive, &cut_off, context.id))
    };
    let flood = move || {
        let guard = Arc::new(OnDrop("flood", drops.clone()));
        let events = stream::repeat(Bytes::from_static(&[b'x'; 16384]));
        let events = events.map(move |bytes| {
            let _guard = &guard;
            Ok::<_, Infallible>(bytes)
        });
        ready(warp::reply::stream(events).into_response())
    };
    vec![
        route(Method::GET, "/hello", hello),
        route(Method::GET, "/panic", panics),
        route(Method::GET, "/slow/{ms}", slow),
        route(Method::GET, "/hang", hang),
        route(Method::POST, "/length", length),
        route(Method::GET, "/ticks", ticks),
        route(Method::GET, "/flood", flood),
    ]
}

impl TestServer {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// Sends `request` and reads until the server closes.
    async fn talk(&self, request: &str) -> String {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        read_all(&mut stream).await
    }

    async fn get(&self, path: &str) -> String {
        self.talk(&format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")).await
    }

    async fn next_drop(&mut self) -> &'static str {
        timeout(SOON, self.dropped.recv()).await.expect("dropped in time").unwrap()
    }
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    timeout(SOON, stream.read_to_end(&mut bytes)).await.expect("closed in time").unwrap();
    String::from_utf8(bytes).unwrap()
}

async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    while !String::from_utf8_lossy(&bytes).contains(end) {
        let read = timeout(SOON, stream.read_buf(&mut bytes)).await.expect("answered in time").unwrap();
        assert_ne!(read, 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
    }
    String::from_utf8(bytes).unwrap()
}

fn error_of(response: &str) -> serde_json::Value {
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/json"), "{head}");
    serde_json::from_str::<serde_json::Value>(body).unwrap()["error"].clone()
}

const HELLO: &str = "GET /hello HTTP/1.1\r\nhost: x\r\n\r\n";

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = start(|_| {}).await;
    let all = server
        .talk(&format!(
            "GET /slow/50 HTTP/1.1\r\nhost: x\r\n\r\n{HELLO}GET /nope HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
        ))
        .await;
    let places: Vec<usize> = ["slow", "hello", "unknown_url"].map(|part| all.find(part).unwrap()).to_vec();
    assert!(places.is_sorted(), "{all}");
}

#[tokio::test]
async fn a_request_id_is_kept_or_made_and_stands_in_errors() {
    let server = start(|_| {}).await;
    let kept = server
        .talk("GET /nope HTTP/1.1\r\nhost: x\r\nx-request-id: my-id.1\r\nconnection: close\r\n\r\n")
        .await;
    assert!(kept.contains("x-request-id: my-id.1\r\n"), "{kept}");
    assert_eq!(error_of(&kept)["request_id"], "my-id.1");
    let made = server.get("/hello").await;
    let id = made.split("x-request-id: ").nth(1).unwrap().split("\r\n").next().unwrap();
    assert_eq!(id.len(), 36, "{made}");
    assert!(!made.to_lowercase().contains("\r\nserver:"), "{made}");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_json_errors() {
    let server = start(|_| {}).await;
    let unknown = server.get("/nope").await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    assert_eq!(error_of(&unknown)["code"], "unknown_url");
    let wrong = server.talk("DELETE /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(wrong.starts_with("HTTP/1.1 405") && wrong.contains("allow: GET, HEAD, OPTIONS\r\n"), "{wrong}");
    assert_eq!(error_of(&wrong)["code"], "method_not_allowed");
    let options = server.talk("OPTIONS /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(options.starts_with("HTTP/1.1 204") && options.contains("allow: GET"), "{options}");
}

#[tokio::test]
async fn head_is_get_without_the_body() {
    let server = start(|_| {}).await;
    let head = server.talk("HEAD /hello HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(head.starts_with("HTTP/1.1 200") && head.contains("content-length: 5\r\n"), "{head}");
    assert!(head.ends_with("\r\n\r\n"), "{head}");
}

#[tokio::test]
async fn browsers_may_ask_first() {
    let server = start(|_| {}).await;
    let preflight = "OPTIONS /hello HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\n\
                     access-control-request-method: POST\r\naccess-control-request-headers: x-stainless-os\r\n\
                     connection: close\r\n\r\n";
    let answer = server.talk(preflight).await;
    assert!(answer.contains("access-control-allow-origin: *\r\n"), "{answer}");
    assert!(answer.contains("access-control-allow-headers: x-stainless-os\r\n"), "{answer}");
    let simple = "GET /nope HTTP/1.1\r\nhost: x\r\norigin: https://a.example\r\nconnection: close\r\n\r\n";
    let answer = server.talk(simple).await;
    assert!(answer.contains("access-control-allow-origin: *\r\n"), "errors are readable too: {answer}");
    assert!(answer.contains("access-control-expose-headers: X-Request-Id"), "{answer}");
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_connection_goes_on() {
    let server = start(|_| {}).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /panic HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    let answer = read_until(&mut stream, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 500"), "{answer}");
    assert_eq!(error_of(&answer)["code"], "internal_error");
    assert!(!answer.contains("a bug"), "{answer}");
    stream.write_all(HELLO.as_bytes()).await.unwrap();
    read_until(&mut stream, "hello").await;
}

#[tokio::test]
async fn slow_heads_are_cut_off_and_idle_connections_are_not() {
    let server = start(|config| config.header_timeout_ms = 200).await;
    let mut idle = server.connect().await;
    let mut used = server.connect().await;
    used.write_all(HELLO.as_bytes()).await.unwrap();
    read_until(&mut used, "hello").await;

    let mut slow = server.connect().await;
    let begun = Instant::now();
    slow.write_all(b"GET /hello HT").await.unwrap();
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        slow.write_all(b"T").await.unwrap();
    }
    read_all(&mut slow).await;
    let taken = begun.elapsed();
    assert!(taken >= Duration::from_millis(190) && taken < Duration::from_secs(2), "{taken:?}");

    // A second head on a reused connection is timed as well.
    let mut second = server.connect().await;
    second.write_all(format!("{HELLO}GET /he").as_bytes()).await.unwrap();
    read_until(&mut second, "hello").await;
    second.write_all(b"l").await.unwrap();
    read_all(&mut second).await;

    for connection in [&mut idle, &mut used] {
        connection.write_all(HELLO.as_bytes()).await.unwrap();
        read_until(connection, "hello").await;
    }
}

#[tokio::test]
async fn idle_connections_are_closed_in_time() {
    let server = start(|config| config.idle_timeout_ms = 200).await;
    let mut fresh = server.connect().await;
    let mut used = server.connect().await;
    used.write_all(HELLO.as_bytes()).await.unwrap();
    read_until(&mut used, "hello").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow/700 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_all(&mut fresh).await;
    read_all(&mut used).await;
    let answer = read_until(&mut busy, "slow").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn bodies_up_to_the_limit_pass() {
    let server = start(|_| {}).await;
    let body = "x".repeat(BODY_LIMIT as usize);
    let request = format!(
        "POST /length HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(server.talk(&request).await.ends_with("\r\n\r\n1048576"));
}

#[tokio::test]
async fn an_announced_giant_is_refused_before_it_is_sent() {
    let server = start(|_| {}).await;
    let mut stream = server.connect().await;
    stream
        .write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 99999999999\r\n\r\n")
        .await
        .unwrap();
    let answer = read_until(&mut stream, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(error_of(&answer)["code"], "request_too_large");
}

#[tokio::test]
async fn a_client_that_sends_before_it_reads_still_finds_the_413() {
    let server = start(|_| {}).await;
    let body = "x".repeat(8 << 20);
    let announced = format!("content-length: {}\r\n\r\n{body}", body.len());
    let chunked = format!("transfer-encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
    for rest in [announced, chunked] {
        let answer =
            server.talk(&format!("POST /length HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nconnection: close\r\n{rest}")).await;
        assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    }
}

#[tokio::test]
async fn a_slow_body_is_a_408() {
    let server = start(|config| config.body_timeout_ms = 100).await;
    let mut stream = server.connect().await;
    stream.write_all(b"POST /length HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 10\r\n\r\nab").await.unwrap();
    let answer = read_all(&mut stream).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
    assert_eq!(error_of(&answer)["code"], "request_timeout");
}

#[tokio::test]
async fn http2_by_prior_knowledge_multiplexes() {
    let server = start(|_| {}).await;
    let io = TokioIo::new(server.connect().await);
    let (client, connection) =
        hyper::client::conn::http2::handshake::<_, _, Empty<Bytes>>(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    let send = |method: &'static str, path: &'static str| {
        let uri = format!("http://{}{path}", server.address);
        let request = http::Request::builder().method(method).uri(uri).body(Empty::new()).unwrap();
        let mut client = client.clone();
        async move {
            let response = client.send_request(request).await.unwrap();
            let length = response.headers().get("content-length").cloned();
            let status = response.status().as_u16();
            (status, length, response.into_body().collect().await.unwrap().to_bytes())
        }
    };
    let begun = Instant::now();
    let (a, b, head) =
        tokio::join!(send("GET", "/slow/300"), send("GET", "/slow/300"), send("HEAD", "/hello"));
    assert!(begun.elapsed() < Duration::from_millis(590), "one after the other: {:?}", begun.elapsed());
    assert_eq!((a.0, &a.2[..], b.0), (200, &b"slow"[..], 200));
    assert_eq!((head.0, head.1.unwrap().as_bytes(), head.2.len()), (200, &b"5"[..], 0));
    assert_eq!(send("GET", "/nope").await.0, 404);
}

#[tokio::test]
async fn a_client_that_goes_away_drops_what_was_done_for_it() {
    let mut server = start(|_| {}).await;
    for path in ["hang", "ticks"] {
        let mut stream = server.connect().await;
        stream.write_all(format!("GET /{path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.unwrap();
        if path == "ticks" {
            read_until(&mut stream, "data: 1").await;
        } else {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        drop(stream);
        assert_eq!(server.next_drop().await, path);
    }
}

#[tokio::test]
async fn a_client_that_takes_nothing_is_cut_off() {
    let mut server = start(|config| config.write_timeout_ms = 200).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert_eq!(server.next_drop().await, "flood");
}

#[tokio::test]
async fn connections_over_the_limit_get_503() {
    let server = start(|config| config.max_connections = 2).await;
    let mut first = server.connect().await;
    let second = server.connect().await;
    first.write_all(HELLO.as_bytes()).await.unwrap();
    read_until(&mut first, "hello").await;
    let third = read_all(&mut server.connect().await).await;
    assert!(third.starts_with("HTTP/1.1 503") && third.contains("retry-after: 1\r\n"), "{third}");
    assert_eq!(error_of(&third)["code"], "too_many_connections");
    drop(second);
    timeout(SOON, async {
        while server.lifecycle.connections() > 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    assert!(server.get("/hello").await.ends_with("hello"));
}

#[tokio::test]
async fn draining_lets_requests_finish_and_closes_the_rest() {
    let server = start(|_| {}).await;
    let mut idle = server.connect().await;
    let mut used = server.connect().await;
    used.write_all(HELLO.as_bytes()).await.unwrap();
    read_until(&mut used, "hello").await;
    let mut busy = server.connect().await;
    busy.write_all(b"GET /slow/300 HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    let address = server.address;
    let begun = Instant::now();
    let drained = tokio::spawn(server.server.drain());
    assert_eq!(read_all(&mut idle).await, "");
    assert_eq!(read_all(&mut used).await, "");
    assert!(begun.elapsed() < Duration::from_millis(200), "idle connections close at once");
    assert!(TcpStream::connect(address).await.is_err(), "the listener is closed");
    assert!(read_all(&mut busy).await.ends_with("slow"));
    timeout(SOON, drained).await.unwrap().unwrap();
}

#[tokio::test]
async fn after_the_drain_time_streams_end_properly_and_others_get_503() {
    let mut server = start(|config| config.drain_timeout_ms = 200).await;
    let mut ticks = server.connect().await;
    ticks.write_all(b"GET /ticks HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    read_until(&mut ticks, "data: 1").await;
    let mut hang = server.connect().await;
    hang.write_all(b"GET /hang HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(50)).await;

    let begun = Instant::now();
    timeout(SOON, server.server.drain()).await.unwrap();
    assert!(begun.elapsed() >= Duration::from_millis(190), "{:?}", begun.elapsed());
    let stream = read_all(&mut ticks).await;
    assert!(stream.contains("\"code\":\"shutting_down\""), "{stream}");
    assert!(stream.contains("data: [DONE]\n\n\r\n0\r\n\r\n"), "the chunked body ends as it should: {stream}");
    let answer = read_all(&mut hang).await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("retry-after: "), "{answer}");
    assert!(server.dropped.recv().await.is_some());
}

#[tokio::test]
async fn a_stalled_client_does_not_hold_the_stop_up() {
    let server = start(|config| config.drain_timeout_ms = 50).await;
    let mut stream = server.connect().await;
    stream.write_all(b"GET /flood HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    timeout(SOON, server.server.drain()).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_explained() {
    let first = Listener::bind("127.0.0.1:0").await.unwrap();
    let message = Listener::bind(&first.address().to_string()).await.unwrap_err().to_string();
    assert!(
        message.contains(&first.address().to_string()) && message.contains("another program"),
        "{message}"
    );
    let message = Listener::bind("no.such.host.invalid:1").await.unwrap_err().to_string();
    assert!(message.starts_with("cannot listen on no.such.host.invalid:1"), "{message}");
}
