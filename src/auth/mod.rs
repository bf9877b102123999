//! Authentication, authorisation and rate limiting: decided once for each request, before a handler runs.
//!
//! - [`access`]: the properties of a route that decide who may call it
//! - [`gate`]: the decision
//! - [`google`]: sign-in with Google or another OpenID provider
//! - [`OpenTo`]: the callers that need no credential
//! - [`Trail`]: the audit record of a request
//! - [`LocalNames`]: the hosts and origins that requests without a credential may name on this machine

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
