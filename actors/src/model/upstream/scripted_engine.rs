//! An engine for tests that speaks HTTP over real sockets: vLLM's dialect or another's, with scripted misbehaviour.
//!
//! The words of a prompt are its tokens, and an answer repeats them from the first, as the scripted backend's do
//! (`model/scripted.rs`). What it does with a request is scripted with [`ScriptedEngine::then`], [`ScriptedEngine::always`]; its
//! list of models, which is what probes ask for, stays good all the while, like the health routes of real engines.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::abort::AbortOnDrop;
use crate::config::UpstreamKind;

/// Tokens of its context.
const CONTEXT: usize = 256;

/// The behaviour towards a request for an answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// Answers it.
    #[default]
    Answer,
    /// Answers it byte by byte, so that characters are cut.
    CutBytes,
    /// Refuses it with this status, and with `Retry-After` in seconds.
    Refuse(u16, Option<u64>),
    /// Sends a redirect to this address.
    Redirect(String),
    /// Closes the connection behind so many tokens; 0: behind the head.
    DieAfter(usize),
    /// Closes the connection without a word.
    Hang,
    /// Sends nothing any more behind so many tokens.
    StallAfter(usize),
    /// Sends an error event behind so many tokens.
    ErrorAfter(usize),
    /// Answers with JSON instead of a stream.
    NoStream,
    /// Sends a line without an end.
    EndlessLine,
    /// Answers on this route, and refuses the others with this status.
    Only(&'static str, u16),
    /// Answers, and sends empty events behind the end until the client leaves.
    Linger,
}

/// A request that it got.
#[derive(Clone, Debug)]
pub struct Got {
    /// Its route.
    pub path: String,
    /// Its head, in lower case.
    pub head: String,
    /// Its body.
    pub body: Value,
}

#[derive(Debug, Default)]
struct Script {
    next: VecDeque<Act>,
    always: Act,
    got: Vec<Got>,
    pace: Duration,
    models_refused: bool,
    tokenize_hangs: bool,
}

#[derive(Debug)]
struct Inner {
    kind: UpstreamKind,
    script: Mutex<Script>,
    /// Streams under way.
    streams: AtomicUsize,
    /// Streams whose client left.
    left: AtomicUsize,
}

impl Inner {
    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The engine. It ends when it is dropped.
#[derive(Debug)]
pub struct ScriptedEngine {
    address: SocketAddr,
    inner: Arc<Inner>,
    accepting: Option<AbortOnDrop>,
}

impl ScriptedEngine {
    /// Starts one on a free port of loopback.
    pub async fn start(kind: UpstreamKind) -> Self {
        let inner =
            Inner { kind, script: Mutex::default(), streams: AtomicUsize::new(0), left: AtomicUsize::new(0) };
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut engine = Self { address, inner: Arc::new(inner), accepting: None };
        engine.revive().await;
        engine
    }

    /// Its API.
    pub fn url(&self) -> String {
        format!("http://{}/v1", self.address)
    }

    /// Has it do this with the next request, and then that.
    pub fn then(&self, acts: impl IntoIterator<Item = Act>) {
        self.inner.script().next.extend(acts);
    }

    /// Has it do this with all others.
    pub fn always(&self, act: Act) {
        self.inner.script().always = act;
    }

    /// Has it pause before each token.
    pub fn pace(&self, pace: Duration) {
        self.inner.script().pace = pace;
    }

    /// Has it refuse its list of models.
    pub fn refuse_models(&self, refused: bool) {
        self.inner.script().models_refused = refused;
    }

    /// Has it count no tokens any more, without a word.
    pub fn hang_tokenize(&self) {
        self.inner.script().tokenize_hangs = true;
    }

    /// The requests for answers and embeddings, in the order of their arrival.
    pub fn got(&self) -> Vec<Got> {
        self.inner.script().got.clone()
    }

    /// Streams under way, and streams whose client left.
    pub fn streams(&self) -> (usize, usize) {
        (self.inner.streams.load(Ordering::SeqCst), self.inner.left.load(Ordering::SeqCst))
    }

    /// Closes its port and all connections.
    pub fn kill(&mut self) {
        self.accepting = None;
    }

    /// Listens again, on the same port.
    ///
    /// # Panics
    /// The port is taken.
    pub async fn revive(&mut self) {
        let listener = TcpListener::bind(self.address).await.expect("the port is free");
        self.address = listener.local_addr().expect("it is bound");
        let inner = Arc::clone(&self.inner);
        self.accepting = Some(AbortOnDrop::spawn(async move {
            // Connections end with the task.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let inner = Arc::clone(&inner);
                connections.spawn(async move {
                    let _ = serve(stream, &inner).await;
                });
                while connections.try_join_next().is_some() {}
            }
        }));
    }
}

/// Serves a connection until it ends.
async fn serve(mut stream: TcpStream, inner: &Inner) -> std::io::Result<()> {
    let _ = stream.set_nodelay(true);
    let mut buffer = Vec::new();
    loop {
        let Some(got) = read_request(&mut stream, &mut buffer).await? else { return Ok(()) };
        match got.path.as_str() {
            "/v1/models" => {
                let (status, body) = match inner.script().models_refused {
                    true => (503, json!({"error": {"message": "starting"}})),
                    false => (200, models(inner.kind)),
                };
                respond(&mut stream, status, "", &body).await?;
            }
            "/tokenize" | "/v1/tokenize" => {
                if inner.script().tokenize_hangs {
                    let mut rest = [0; 64];
                    while stream.read(&mut rest).await? > 0 {}
                    return Ok(());
                }
                let count = words(&got.body).len();
                let body = json!({"count": count, "max_model_len": CONTEXT, "tokens": vec![0; count]});
                respond(&mut stream, 200, "", &body).await?;
            }
            "/apply-template" => {
                respond(&mut stream, 200, "", &json!({"prompt": words(&got.body).join(" ")})).await?;
            }
            _ => {
                let act = {
                    let mut script = inner.script();
                    script.got.push(got.clone());
                    script.next.pop_front().unwrap_or_else(|| script.always.clone())
                };
                if !answer(&mut stream, inner, &got, act).await? {
                    return Ok(());
                }
            }
        }
    }
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Got>> {
    let head_end = loop {
        if let Some(end) = buffer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end;
        }
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    };
    let head = String::from_utf8_lossy(&buffer[..head_end]).to_lowercase();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length: usize = length.and_then(|length| length.trim().parse().ok()).unwrap_or(0);
    while buffer.len() < head_end + 4 + length {
        if stream.read_buf(buffer).await? == 0 {
            return Ok(None);
        }
    }
    let body = serde_json::from_slice(&buffer[head_end + 4..head_end + 4 + length]).unwrap_or(Value::Null);
    buffer.drain(..head_end + 4 + length);
    Ok(Some(Got { path, head, body }))
}

async fn respond(stream: &mut TcpStream, status: u16, headers: &str, body: &Value) -> std::io::Result<()> {
    let body = body.to_string();
    let head = format!(
        "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n{headers}content-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await
}

fn models(kind: UpstreamKind) -> Value {
    let model = match kind {
        UpstreamKind::Vllm => {
            json!({"id": "m", "owned_by": "vllm", "root": "m", "max_model_len": CONTEXT, "created": 1})
        }
        UpstreamKind::Sglang => {
            json!({"id": "m", "owned_by": "sglang", "root": "m", "max_model_len": CONTEXT})
        }
        UpstreamKind::LlamaServer => {
            json!({"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_ctx_train": 9, "n_ctx": CONTEXT}})
        }
        UpstreamKind::Jan => {
            json!({"id": "m", "owned_by": "jan", "root": "m", "context_length": CONTEXT, "status": "ready"})
        }
        UpstreamKind::Auto | UpstreamKind::Openai => json!({"id": "m", "owned_by": "system"}),
    };
    json!({"object": "list", "data": [model]})
}

fn words(body: &Value) -> Vec<String> {
    let texts: Vec<&str> = match (&body["messages"], &body["prompt"], &body["content"]) {
        (Value::Array(messages), ..) => {
            messages.iter().filter_map(|message| message["content"].as_str()).collect()
        }
        (_, Value::String(text), _) | (_, _, Value::String(text)) => vec![text],
        _ => Vec::new(),
    };
    texts.iter().flat_map(|text| text.split_whitespace()).map(str::to_owned).collect()
}

/// A stream under way.
struct Streaming<'a>(&'a Inner);

impl Drop for Streaming<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Answers a request. `false`: the connection ends with it.
async fn answer(stream: &mut TcpStream, inner: &Inner, got: &Got, act: Act) -> std::io::Result<bool> {
    match &act {
        Act::Refuse(status, retry_after) => {
            let header = retry_after.map(|seconds| format!("retry-after: {seconds}\r\n")).unwrap_or_default();
            let error = json!({"error": {"message": "scripted", "code": status}});
            respond(stream, *status, &header, &error).await?;
            return Ok(true);
        }
        Act::Redirect(to) => {
            respond(stream, 307, &format!("location: {to}\r\n"), &json!({})).await?;
            return Ok(true);
        }
        Act::Only(path, status) if got.path != *path => {
            respond(stream, *status, "", &json!({"error": {"message": "not here"}})).await?;
            return Ok(true);
        }
        Act::Hang => return Ok(false),
        Act::NoStream => {
            respond(stream, 200, "", &json!({"choices": []})).await?;
            return Ok(true);
        }
        _ => {}
    }
    if got.path == "/v1/embeddings" {
        let count = got.body["input"].as_array().map_or(0, Vec::len);
        let vector = |index| json!({"index": index, "embedding": [2.0, 0.0, 0.0]});
        let data: Vec<Value> = (0..count).map(vector).collect();
        respond(stream, 200, "", &json!({"data": data, "usage": {"prompt_tokens": count * 2}})).await?;
        return Ok(true);
    }
    let words = words(&got.body);
    let most = got.body["max_tokens"].as_u64().or_else(|| got.body["max_completion_tokens"].as_u64());
    let asked = words.len() + most.unwrap_or(1) as usize;
    if asked > CONTEXT {
        let message = format!(
            "This model's maximum context length is {CONTEXT} tokens. However, you requested {asked} tokens ({} in the messages, {} \
             in the completion). Please reduce the length of the messages or completion.",
            words.len(),
            most.unwrap_or(1)
        );
        respond(
            stream,
            400,
            "",
            &json!({"error": {"message": message, "type": "BadRequestError", "code": 400}}),
        )
        .await?;
        return Ok(true);
    }
    inner.streams.fetch_add(1, Ordering::SeqCst);
    let _streaming = Streaming(inner);
    let written = send_stream(stream, inner, got, &words, &act).await;
    if written.is_err() {
        inner.left.fetch_add(1, Ordering::SeqCst);
    }
    written
}

async fn send_stream(
    stream: &mut TcpStream,
    inner: &Inner,
    got: &Got,
    words: &[String],
    act: &Act,
) -> std::io::Result<bool> {
    stream
        .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n")
        .await?;
    if *act == Act::EndlessLine {
        let part = "x".repeat(1 << 16);
        loop {
            write_chunk(stream, part.as_bytes()).await?;
        }
    }
    let pace = inner.script().pace;
    let (events, deaths) = events_of(inner.kind, got, words, act);
    for (tokens, event) in events {
        if deaths == Some(tokens) {
            match act {
                Act::StallAfter(_) => {
                    // It stays until the client leaves.
                    let mut rest = [0; 64];
                    while stream.read(&mut rest).await? > 0 {}
                    return Err(std::io::ErrorKind::BrokenPipe.into());
                }
                Act::ErrorAfter(_) => {
                    let error = json!({"error": {"message": "CUDA error", "type": "InternalServerError", "code": 500}});
                    write_chunk(stream, format!("data: {error}\n\n").as_bytes()).await?;
                    write_chunk(stream, b"data: [DONE]\n\n").await?;
                    write_chunk(stream, b"").await?;
                    return Ok(true);
                }
                _ => return Ok(false),
            }
        }
        let bytes = format!("data: {event}\n\n");
        if *act == Act::CutBytes {
            for byte in bytes.as_bytes() {
                write_chunk(stream, &[*byte]).await?;
                tokio::task::yield_now().await;
            }
        } else {
            write_chunk(stream, bytes.as_bytes()).await?;
        }
        if pace.is_zero() {
            tokio::task::yield_now().await;
            continue;
        }
        // A client that leaves is noticed at once, as by vLLM.
        let mut rest = [0; 64];
        match tokio::time::timeout(pace, stream.read(&mut rest)).await {
            Ok(Ok(0)) | Ok(Err(_)) => return Err(std::io::ErrorKind::BrokenPipe.into()),
            Ok(Ok(_)) | Err(_) => {}
        }
    }
    if *act == Act::Linger {
        loop {
            write_chunk(stream, b"data: {}\n\n").await?;
            tokio::task::yield_now().await;
        }
    }
    write_chunk(stream, b"data: [DONE]\n\n").await?;
    write_chunk(stream, b"").await?;
    Ok(true)
}

async fn write_chunk(stream: &mut TcpStream, bytes: &[u8]) -> std::io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    stream.write_all(&chunk).await
}

/// The events of an answer, each with the number of tokens before it, and that at which the script intervenes.
fn events_of(
    kind: UpstreamKind,
    got: &Got,
    words: &[String],
    act: &Act,
) -> (Vec<(usize, Value)>, Option<usize>) {
    let body = &got.body;
    let most = body["max_tokens"].as_u64().or_else(|| body["max_completion_tokens"].as_u64());
    let most = most.map_or(words.len(), |most| most as usize);
    let stops: Vec<&str> = body["stop"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let is_chat = got.path.ends_with("/chat/completions");
    let (continuous, wants_usage) = (
        body["stream_options"]["continuous_usage_stats"] == true,
        body["stream_options"]["include_usage"] == true,
    );
    let usage = |tokens: usize| {
        json!({"prompt_tokens": words.len(), "completion_tokens": tokens, "total_tokens": words.len() + tokens,
            "prompt_tokens_details": {"cached_tokens": 1}})
    };
    let chunk = |tokens: usize, mut choice: Value, finish: Option<&str>| {
        choice["index"] = json!(0);
        choice["finish_reason"] = json!(finish);
        let mut chunk = json!({"id": "x", "choices": [choice]});
        if continuous {
            chunk["usage"] = usage(tokens);
        }
        if kind == UpstreamKind::LlamaServer && body["return_progress"] == true && tokens == 0 {
            chunk["prompt_progress"] =
                json!({"total": words.len(), "cache": 0, "processed": words.len(), "time_ms": 1});
        }
        chunk
    };
    let said = |text: &str| match (is_chat, text.strip_prefix("think:"), text.strip_prefix("call:")) {
        (true, Some(thought), _) => json!({"delta": {"reasoning_content": format!("{thought} ")}}),
        (true, _, Some(name)) => json!({"delta": {"tool_calls": [
            {"index": 0, "id": "c", "type": "function", "function": {"name": name, "arguments": "{}"}}]}}),
        (true, ..) => json!({"delta": {"content": format!("{text} ")}}),
        (false, ..) => json!({"text": format!("{text} ")}),
    };
    let mut events = Vec::new();
    if !is_chat && kind == UpstreamKind::LlamaServer {
        events.push((0, chunk(0, json!({"text": ""}), None)));
    }
    if is_chat {
        events.push((0, chunk(0, json!({"delta": {"role": "assistant", "content": ""}}), None)));
    }
    let (mut tokens, mut reason) =
        (0, if most <= words.len() && body["max_tokens"].is_null() { "stop" } else { "length" });
    for word in words.iter().cycle().take(if words.is_empty() { 0 } else { most }) {
        let text = format!("{word} ");
        if stops.iter().any(|stop| text.contains(stop)) {
            reason = "stop";
            break;
        }
        let before = tokens;
        tokens += 1;
        events.push((before, chunk(tokens, said(word), None)));
    }
    let last = if is_chat { json!({"delta": {}}) } else { json!({"text": ""}) };
    events.push((tokens, chunk(tokens, last, Some(reason))));
    if wants_usage {
        events.push((tokens, json!({"id": "x", "choices": [], "usage": usage(tokens)})));
    }
    let deaths = match act {
        Act::DieAfter(tokens) | Act::StallAfter(tokens) | Act::ErrorAfter(tokens) => Some(*tokens),
        _ => None,
    };
    (events, deaths)
}
