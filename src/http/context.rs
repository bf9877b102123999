//! The facts about a request that its handler gets beside path, headers and body.

use std::net::SocketAddr;

use super::RequestId;
use crate::auth::Caller;

/// Facts about a request beyond its path, headers and body.
#[derive(Clone, Debug)]
pub struct RequestContext {
    /// The request's id.
    pub id: RequestId,
    /// Address of the other end of the connection.
    pub peer: SocketAddr,
    /// The caller.
    pub caller: Caller,
}

impl RequestContext {
    /// The party to be fair to: a user, or an address without one; a guest is its address.
    #[must_use]
    pub fn fairness_key(&self) -> String {
        self.caller.principal.fairness_key()
    }

    /// The party that may share what is computed for the request: the user, guests included, or an address without one.
    #[must_use]
    pub fn tenant(&self) -> String {
        match self.caller.principal.user() {
            Some(user) => user.to_string(),
            None => self.fairness_key(),
        }
    }
}
