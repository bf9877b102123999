//! Who calls and what they may do: decided once for each request, before any route sees it.
//!
//! - [`access`]: the properties of a route that decide who may call it
//! - [`gate`]: the decision
//! - [`google`]: signing in with Google or another OpenID provider
//! - [`OpenTo`]: who needs no credential
//! - [`Trail`]: what the audit log says of a request
//! - [`LocalNames`]: what a browser on the server's machine may name without a credential

pub mod access;
mod client;
mod credential;
pub mod errors;
pub mod gate;
pub mod google;
mod local;
mod open_to;
mod trail;

pub use client::TrustedProxies;
pub(crate) use client::parse_network;
pub(crate) use credential::{Credential, find as find_credential};
pub use gate::{Admission, Caller, Gate};
pub use local::LocalNames;
pub(crate) use local::host_of;
pub use open_to::OpenTo;
pub use trail::{Noted, Trail, note};
