//! A whole server in this process, for tests of HTTP behaviour: all routes, the gate and the actors over a store in a
//! temporary folder, on a real socket, with a scripted backend in place of llama.cpp.
//!
//! ```text
//! let app = TestApp::start().await;
//! let answer = app.post("/v1/chat/completions").json(&chat("Hello there")).send().await;
//! assert_eq!((answer.status, answer.json()["choices"][0]["message"]["content"].as_str()), (200, Some("Hello there ")));
//! ```
//!
//! [`scripted`](jan_actors::model::scripted) defines how an answer follows from its prompt.

mod tests;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use http::{HeaderMap, Method};
use jan_actors::System;
use jan_actors::model::backend::Backend;
use jan_actors::model::scripted::Scripted;
use serde_json::Value;

use crate::config::Config;
use crate::http::{Listener, Server};
use crate::serve::{OpenAccess, start_server};

/// The id of the model.
pub const MODEL: &str = "scripted";
/// Time limit of every wait in a test: a guard against hanging.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running server. Its tasks end with the runtime of the test.
pub struct TestApp {
    /// Its address.
    pub address: SocketAddr,
    /// An administrator's key.
    pub key: String,
    /// Backend of the model.
    pub backend: Arc<Scripted>,
    client: reqwest::Client,
    server: Server,
    system: System,
    _folder: tempfile::TempDir,
}

impl TestApp {
    /// Starts a server with the default settings.
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// Starts a server with edited settings.
    pub async fn start_with(edit: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut config = Config::default();
        config.storage.path = folder.path().join("data");
        edit(&mut config);
        let backend = Arc::new(Scripted::default());
        let as_backend: Arc<dyn Backend> = backend.clone();
        let system = System::start_with_backend(config.actors(), MODEL, as_backend).await.unwrap();
        let key = std::fs::read_to_string(&system.admin_key_file().path).unwrap().trim().to_owned();
        let listener = Listener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.address();
        let server = start_server(listener, &system, &config, OpenAccess::new(&config, address)).unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        Self { address, key, backend, client, server, system, _folder: folder }
    }

    /// Creates a request.
    pub fn request(&self, method: Method, path: &str) -> Call {
        Call(self.client.request(method, format!("http://{}{path}", self.address)))
    }

    /// Creates a GET request.
    pub fn get(&self, path: &str) -> Call {
        self.request(Method::GET, path)
    }

    /// Creates a POST request.
    pub fn post(&self, path: &str) -> Call {
        self.request(Method::POST, path)
    }

    /// Waits until the backend is idle.
    pub async fn is_idle(&self) {
        let idle = async {
            while self.backend.load() > 0 {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.expect("the work is given up");
    }

    /// Stops the server as a signal would.
    pub async fn stop(self) {
        self.server.drain().await;
        self.system.shutdown(Duration::ZERO).await;
    }
}

/// A request that is yet to be sent.
pub struct Call(reqwest::RequestBuilder);

impl Call {
    /// Adds an API key.
    pub fn key(self, key: &str) -> Self {
        Self(self.0.bearer_auth(key))
    }

    /// Adds a header.
    pub fn header(self, name: &str, value: &str) -> Self {
        Self(self.0.header(name, value))
    }

    /// Adds a body.
    pub fn json(self, body: &Value) -> Self {
        Self(self.0.json(body))
    }

    /// Sends the request and reads the whole response.
    pub async fn send(self) -> Answer {
        let response = self.0.send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, body: response.text().await.unwrap() }
    }

    /// Sends the request and reads the response as server-sent events.
    pub async fn stream(self) -> Events {
        let response = self.0.send().await.unwrap();
        assert_eq!(response.status(), 200, "{}", response.text().await.unwrap());
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let chunks = response.bytes_stream().map(|chunk| chunk.unwrap().to_vec());
        Events { chunks: Box::pin(chunks), read: Vec::new() }
    }
}

/// A complete response.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: String,
}

impl Answer {
    /// Returns a header; empty if it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map(|value| value.to_str().unwrap()).unwrap_or_default()
    }

    /// Returns the body as JSON.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("{}", self.body))
    }

    /// Returns the code of an error.
    pub fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_else(|| panic!("{}", self.body)).to_owned()
    }
}

/// A response that is read event by event. Dropping it closes the connection.
pub struct Events {
    chunks: std::pin::Pin<Box<dyn futures_util::Stream<Item = Vec<u8>> + Send>>,
    read: Vec<u8>,
}

impl Events {
    /// Returns the data of the next event; `None` at the end.
    pub async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let rest = self.read.split_off(end + 2);
                let event = String::from_utf8(std::mem::replace(&mut self.read, rest)).unwrap();
                // Comments have no data.
                if let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) {
                    return Some(data.to_owned());
                }
                continue;
            }
            self.read.extend(self.chunks.next().await?);
        }
    }

    /// Returns the data of all remaining events.
    pub async fn rest(mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(data) = self.next().await {
            all.push(data);
        }
        all
    }
}
