//! The context of a request: its properties besides path, headers and body.

use std::net::SocketAddr;

use super::RequestId;
use crate::auth::Caller;

/// The properties of a request besides its path, headers and body.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request's id.
    pub id: RequestId,
    /// The address of the peer of the connection.
    pub peer: SocketAddr,
    /// The caller.
    pub caller: Caller,
}

impl RequestContext {
    /// Returns the fair-queueing key: a user, or an address for callers without one; a guest counts as its address.
    #[must_use]
    pub fn fairness_key(&self) -> String {
        self.caller.principal.fairness_key()
    }

    /// Returns the tenant, within which results computed for the request may be shared: the user, guests included, or an
    /// address for callers without one.
    #[must_use]
    pub fn tenant(&self) -> String {
        match self.caller.principal.user() {
            Some(user) => user.to_string(),
            None => self.fairness_key(),
        }
    }
}
