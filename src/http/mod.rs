//! HTTP: connections and their limits, the handling common to every request (an id, a log line, CORS, panics as 500s),
//! errors in OpenAI's format, routes, request bodies and server-sent events.

mod addresses;
mod bodies;
pub mod body;
mod budget;
mod connection;
mod context;
mod cors;
mod edge;
pub mod error;
mod io;
pub mod json;
mod lifecycle;
mod limits;
mod request_id;
pub mod routing;
mod server;
pub mod sse;

pub use body::ApiRequest;
pub use context::RequestContext;
pub use error::ApiError;
pub use lifecycle::Lifecycle;
pub use request_id::RequestId;
pub use server::{BindError, Listener, Server};

/// The response type of handlers.
pub type Response = warp::reply::Response;

#[cfg(test)]
mod tests;
