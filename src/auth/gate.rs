//! Authentication, authorisation and rate limiting of requests.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Uri};
use jan_actors::audit::Audit;
use jan_actors::identity::{AuthError, ClientNet, Identity, Principal, Right};
use jan_actors::limits::{CheckKind, Limiter, RateLimitDecision};

use super::access::{Access, Rule};
use super::client::TrustedProxies;
use super::credential::{self, Credential};
use super::local::LocalNames;
use super::open_to::{OpenTo, is_local};
use super::trail::Trail;
use crate::http::ApiError;

/// The caller of a request.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, taken from a trusted proxy if there is one.
    pub address: IpAddr,
    /// Set if the request appears to come from the server's own machine.
    pub is_local: bool,
    /// The user, the key or the address.
    pub principal: Principal,
}

impl Caller {
    /// Creates a remote caller without a credential.
    #[must_use]
    pub fn anonymous(address: IpAddr) -> Self {
        Self { address, is_local: false, principal: Principal::anonymous(address) }
    }
}

/// The decision about a request.
#[derive(Debug)]
pub struct Admission<'r> {
    /// The caller.
    pub caller: Caller,
    /// The state of the caller's buckets, for the response's headers.
    pub verdict: RateLimitDecision,
    /// The declared properties of its route, if it has one.
    pub rule: Option<&'r Rule>,
    /// The error that refuses the request; `None` if it is admitted.
    pub refusal: Option<ApiError>,
}

/// Decides about requests. Does not block.
#[derive(Debug)]
pub struct Gate {
    identity: Identity,
    limiter: Limiter,
    proxies: TrustedProxies,
    names: LocalNames,
    anonymous: OpenTo,
    audit: Option<Audit>,
}

impl Gate {
    /// `names`: the hosts and origins that requests on loopback connections may name without a credential. `anonymous`:
    /// the callers that may use [`Access::Anonymous`] routes without one.
    #[must_use]
    pub fn new(
        identity: Identity,
        limiter: Limiter,
        proxies: TrustedProxies,
        names: LocalNames,
        anonymous: OpenTo,
    ) -> Self {
        Self { identity, limiter, proxies, names, anonymous, audit: None }
    }

    /// Records changes by requests in this audit log.
    #[must_use]
    pub fn auditing(self, audit: Audit) -> Self {
        Self { audit: Some(audit), ..self }
    }

    /// Returns the beginning of a request's audit record, if it is to be recorded.
    #[must_use]
    pub fn trail<'p>(
        &self,
        admission: &Admission<'_>,
        captured: impl Iterator<Item = &'p str>,
        request_id: Option<&str>,
    ) -> Option<Trail> {
        Trail::begin(self.audit.as_ref()?, admission, captured, request_id)
    }

    /// Admits a browser's preflight. It carries no credential and counts against no limit.
    #[must_use]
    pub fn preflight(&self, headers: &HeaderMap, peer: SocketAddr) -> Admission<'static> {
        let caller = self.unauthenticated(headers, peer);
        let verdict = self.limiter.peek(&caller.principal, CheckKind::Request);
        Admission { caller, verdict, rule: None, refusal: None }
    }

    /// Decides about one request. `rule`: that of its route; `None` if there is no such route, which any caller may
    /// learn.
    #[must_use]
    pub fn admit<'r>(
        &self,
        rule: Option<&'r Rule>,
        uri: &Uri,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Admission<'r> {
        let mut caller = self.unauthenticated(headers, peer);
        let (access, inference) = rule.map_or((Access::Open, false), |rule| (rule.access, rule.inference));
        let refusal = match self.authenticate(access, headers, &caller) {
            Ok(principal) => {
                if let Some(principal) = principal {
                    caller.principal = principal.at(caller.address);
                }
                let permitted = self.permit(access, &caller);
                permitted.and_then(|()| self.check_names(access, &caller, uri, headers, peer)).err()
            }
            // Requests with an invalid credential are treated as anonymous for rate limiting.
            Err(error) => Some(self.unaccepted(error, caller.address.into())),
        };
        let verdict = match access {
            Access::Probe => self.limiter.peek(&caller.principal, CheckKind::Request),
            _ if inference && refusal.is_none() => {
                self.limiter.check(&caller.principal, CheckKind::Inference)
            }
            _ => self.limiter.check(&caller.principal, CheckKind::Request),
        };
        let refusal = if !verdict.allowed && access != Access::Probe {
            Some(ApiError::rate_limited(&verdict))
        } else {
            refusal
        };
        Admission { caller, verdict, rule, refusal }
    }

    /// Returns the caller before authentication.
    fn unauthenticated(&self, headers: &HeaderMap, peer: SocketAddr) -> Caller {
        let address = self.proxies.client(peer, headers);
        Caller { is_local: is_local(peer, headers), ..Caller::anonymous(address) }
    }

    fn authenticate(
        &self,
        access: Access,
        headers: &HeaderMap,
        caller: &Caller,
    ) -> Result<Option<Principal>, Unaccepted> {
        let needs_none = match access {
            Access::Probe | Access::Open => true,
            Access::Anonymous(_) => self.anonymous.includes(caller.is_local),
            Access::Proof | Access::Needs(_) => false,
        };
        let credential = if needs_none { credential::find_own(headers) } else { credential::find(headers) };
        let found = match credential {
            Ok(None) => Ok(None),
            Ok(Some(Credential::Key(key))) => match self.identity.authenticate_key(key, Some(caller.address))
            {
                Ok(principal) => Ok(Some(principal)),
                // Text presented as a key that does not look like one is reported as an unknown key.
                Err(AuthError::Malformed) => Err(Unaccepted::Refused(AuthError::UnknownKey)),
                Err(error) => Err(Unaccepted::Refused(error)),
            },
            Ok(Some(Credential::Token(token))) => {
                self.identity.authenticate_token(token).map(Some).map_err(Unaccepted::Refused)
            }
            Err(error) => Err(Unaccepted::Unusable(error)),
        };
        // A credential that is refused here may still be accepted by the route, on the limits of the address.
        if access == Access::Proof { Ok(found.unwrap_or_default()) } else { found }
    }

    fn permit(&self, access: Access, caller: &Caller) -> Result<(), ApiError> {
        let principal = &caller.principal;
        let needed = match access {
            Access::Probe | Access::Open | Access::Proof => return Ok(()),
            Access::Anonymous(_)
                if principal.user().is_none() && self.anonymous.includes(caller.is_local) =>
            {
                return Ok(());
            }
            Access::Anonymous(needed) | Access::Needs(needed) => needed,
        };
        if principal.user().is_none() {
            return Err(ApiError::credential_required());
        }
        require(principal, needed)
    }

    /// Checks that a request over a loopback connection without an accepted credential cannot have been sent by a web
    /// page of another origin through a browser on this machine.
    fn check_names(
        &self,
        access: Access,
        caller: &Caller,
        uri: &Uri,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<(), ApiError> {
        // A route with [`Access::Proof`] itself rejects requests without proof.
        let is_known = caller.principal.user().is_some() || access == Access::Proof;
        // Clients forwarded by a proxy on this machine are not local.
        let is_local = peer.ip().to_canonical().is_loopback() && caller.address.is_loopback();
        if is_known || !is_local { Ok(()) } else { self.names.check(uri, headers) }
    }

    fn unaccepted(&self, error: Unaccepted, net: ClientNet) -> ApiError {
        let error = match error {
            Unaccepted::Unusable(error) => return ApiError::unusable_credential(error),
            Unaccepted::Refused(error) => error,
        };
        if is_guess(error) {
            let verdict = self.limiter.sign_in_allowed(net);
            if !verdict.allowed {
                return ApiError::rate_limited(&verdict);
            }
            self.limiter.sign_in_failed(net);
        }
        ApiError::from_auth(error)
    }
}

/// Returns whether such a credential was never one of this server's. Credentials that were once valid do not count as
/// guesses: a client whose token has expired must not lock out its neighbours.
#[must_use]
pub fn is_guess(error: AuthError) -> bool {
    !matches!(
        error,
        AuthError::Expired
            | AuthError::RefreshWindowOver
            | AuthError::SessionRevoked
            | AuthError::TokenReused
            | AuthError::UserDisabled
            | AuthError::ExpiredKey
            | AuthError::RevokedKey
            | AuthError::AddressNotAllowed
            | AuthError::Unchecked
    )
}

/// Fails where `principal` lacks a right.
///
/// # Errors
/// 403 `insufficient_permissions`, which names the permissions that grant it.
pub fn require(principal: &Principal, needed: Right) -> Result<(), ApiError> {
    if principal.may(needed) { Ok(()) } else { Err(ApiError::insufficient_permissions(needed, principal)) }
}

enum Unaccepted {
    Unusable(credential::CredentialError),
    Refused(AuthError),
}
