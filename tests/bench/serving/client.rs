//! A streaming client over a raw socket: sends one chat completion, notes when each event came.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wire;

/// Where requests go and what they have in common.
#[derive(Clone, Debug)]
pub struct Target {
    authority: String,
    model: String,
    logit_bias: Value,
    response_format: Option<Value>,
}

/// One answer's times, measured from the moment its request was sent.
#[derive(Debug)]
pub struct Answer {
    /// When the request was sent.
    pub sent: Instant,
    /// When each event with text came.
    pub events: Vec<Instant>,
    /// Tokens of the prompt, as the server counted.
    pub prompt_tokens: u64,
    /// Prompt tokens that came from a cache, as the server counted.
    pub cached_tokens: u64,
    /// Tokens of the answer, as the server counted.
    pub completion_tokens: u64,
}

impl Answer {
    /// Time to first token.
    pub fn ttft(&self) -> Option<Duration> {
        self.events.first().map(|at| *at - self.sent)
    }
}

impl Target {
    /// `url` is `http://host:port`, with any path ignored.
    pub fn new(url: &str, model: &str, ban: &[i32]) -> Result<Self, String> {
        let rest = url.strip_prefix("http://").ok_or("--url must begin with http://")?;
        let authority = rest.split('/').next().unwrap_or(rest);
        let bias = ban.iter().map(|token| (token.to_string(), json!(-100))).collect();
        let logit_bias = Value::Object(bias);
        Ok(Self {
            authority: authority.to_owned(),
            model: model.to_owned(),
            logit_bias,
            response_format: None,
        })
    }

    /// The same, with answers of that form.
    #[must_use]
    pub fn answering(&self, response_format: Value) -> Self {
        Self { response_format: Some(response_format), ..self.clone() }
    }

    /// Streams one chat completion to its end. `seen` is called at each event with text; the stream is
    /// dropped, as by a client that goes away, when it returns false.
    pub async fn chat(
        &self,
        system: Option<&str>,
        user: &str,
        tokens: u32,
        mut seen: impl FnMut(Instant) -> bool,
    ) -> Result<Answer, String> {
        let mut messages = Vec::new();
        if let Some(system) = system {
            messages.push(json!({"role": "system", "content": system}));
        }
        messages.push(json!({"role": "user", "content": user}));
        let mut body = json!({
            "model": self.model, "messages": messages, "max_tokens": tokens, "temperature": 0,
            "stream": true, "stream_options": {"include_usage": true}, "logit_bias": self.logit_bias,
        });
        if let Some(format) = &self.response_format {
            body["response_format"] = format.clone();
        }
        let body = body.to_string();
        let request = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nAccept: */*\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n{body}",
            self.authority,
            body.len()
        );
        let mut socket =
            TcpStream::connect(&self.authority).await.map_err(|e| format!("{}: {e}", self.authority))?;
        socket.set_nodelay(true).map_err(|e| e.to_string())?;
        let sent = Instant::now();
        socket.write_all(request.as_bytes()).await.map_err(|e| e.to_string())?;

        let mut answer =
            Answer { sent, events: Vec::new(), prompt_tokens: 0, cached_tokens: 0, completion_tokens: 0 };
        let (mut wire, mut done) = (wire::Answer::default(), false);
        while socket.read_buf(wire.input()).await.map_err(|e| e.to_string())? > 0 {
            let now = Instant::now();
            for line in wire.lines()? {
                let Some(data) = line.strip_prefix("data:").map(str::trim_start) else { continue };
                if data.starts_with("[DONE]") {
                    done = true;
                } else if data.starts_with("{\"error\":") {
                    return Err(data.to_owned());
                } else if data.contains("\"usage\":{") {
                    answer.note_usage(data)?;
                } else if has_text(data) {
                    answer.events.push(now);
                    if !seen(now) {
                        return Ok(answer);
                    }
                }
            }
        }
        if done { Ok(answer) } else { Err("the stream ended without [DONE]".to_owned()) }
    }
}

impl Answer {
    fn note_usage(&mut self, data: &str) -> Result<(), String> {
        let event: Value = serde_json::from_str(data).map_err(|e| format!("{data}: {e}"))?;
        let usage = &event["usage"];
        let count = |value: &Value| value.as_u64().unwrap_or(0);
        self.prompt_tokens = count(&usage["prompt_tokens"]);
        self.completion_tokens = count(&usage["completion_tokens"]);
        self.cached_tokens = count(&usage["prompt_tokens_details"]["cached_tokens"]);
        Ok(())
    }
}

/// Whether a chat chunk carries text: `"content":"x` but neither `"content":""` nor `"content":null`.
fn has_text(data: &str) -> bool {
    let Some(at) = data.find("\"content\":") else { return false };
    let value = data[at + "\"content\":".len()..].trim_start();
    value.starts_with('"') && !value.starts_with("\"\"")
}
