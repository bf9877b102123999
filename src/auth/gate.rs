//! The decision about a request: who it is from, whether they may, whether they have not had enough.

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

/// Who a request is from.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, a trusted proxy's word taken.
    pub address: IpAddr,
    /// Whether the request was made on the server's own machine, as far as can be told.
    pub is_local: bool,
    /// The user, the key or the address.
    pub principal: Principal,
}

impl Caller {
    /// Someone without a credential, elsewhere.
    #[must_use]
    pub fn anonymous(address: IpAddr) -> Self {
        Self { address, is_local: false, principal: Principal::anonymous(address) }
    }
}

/// What was decided.
#[derive(Debug)]
pub struct Admission<'r> {
    /// Who it is.
    pub caller: Caller,
    /// The state of the caller's buckets, for the response's headers.
    pub verdict: RateLimitDecision,
    /// The declared properties of its route, if it has one.
    pub rule: Option<&'r Rule>,
    /// Why the request goes no further.
    pub refusal: Option<ApiError>,
}

/// Decides about requests. Waits for nothing.
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
    /// `names`: what requests on loopback connections may show without a credential. `anonymous`: which callers
    /// without one may use what [`Access::Anonymous`] marks.
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

    /// Records there what requests change.
    #[must_use]
    pub fn auditing(self, audit: Audit) -> Self {
        Self { audit: Some(audit), ..self }
    }

    /// The beginning of a request's record in the audit log, where it is to have one.
    #[must_use]
    pub fn trail<'p>(
        &self,
        admission: &Admission<'_>,
        captured: impl Iterator<Item = &'p str>,
        request_id: Option<&str>,
    ) -> Option<Trail> {
        Trail::begin(self.audit.as_ref()?, admission, captured, request_id)
    }

    /// A browser's question whether it may ask. It carries no credential and costs nothing.
    #[must_use]
    pub fn preflight(&self, headers: &HeaderMap, peer: SocketAddr) -> Admission<'static> {
        let caller = self.nobody_yet(headers, peer);
        let verdict = self.limiter.peek(&caller.principal, CheckKind::Request);
        Admission { caller, verdict, rule: None, refusal: None }
    }

    /// Decides about one request. `rule`: of its route; anyone may learn that there is none.
    #[must_use]
    pub fn admit<'r>(
        &self,
        rule: Option<&'r Rule>,
        uri: &Uri,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Admission<'r> {
        let mut caller = self.nobody_yet(headers, peer);
        let (access, inference) = rule.map_or((Access::Open, false), |rule| (rule.access, rule.inference));
        let refusal = match self.authenticate(access, headers, caller.address) {
            Ok(principal) => {
                if let Some(principal) = principal {
                    caller.principal = principal.at(caller.address);
                }
                let permitted = self.permit(access, &caller);
                permitted.and_then(|()| self.check_names(access, &caller, uri, headers, peer)).err()
            }
            // Whoever shows a credential that is not accepted is nobody in particular.
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

    /// Who it is before anything was shown.
    fn nobody_yet(&self, headers: &HeaderMap, peer: SocketAddr) -> Caller {
        let address = self.proxies.client(peer, headers);
        Caller { is_local: is_local(peer, headers), ..Caller::anonymous(address) }
    }

    fn authenticate(
        &self,
        access: Access,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Option<Principal>, Unaccepted> {
        let found = match credential::find(headers) {
            Ok(None) => Ok(None),
            Ok(Some(Credential::Key(key))) => match self.identity.authenticate_key(key, Some(from)) {
                Ok(principal) => Ok(Some(principal)),
                // Whatever is shown as a key and looks like none is a key that does not exist.
                Err(AuthError::Malformed) => Err(Unaccepted::Refused(AuthError::UnknownKey)),
                Err(error) => Err(Unaccepted::Refused(error)),
            },
            Ok(Some(Credential::Token(token))) => {
                self.identity.authenticate_token(token).map(Some).map_err(Unaccepted::Refused)
            }
            Err(error) => Err(Unaccepted::Unusable(error)),
        };
        // What is not accepted here may still be by the route, at the address's expense.
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

    /// Whether a request that comes over a loopback connection, with nothing to show who sent it, is one that a page
    /// elsewhere cannot have made this machine's browser send.
    fn check_names(
        &self,
        access: Access,
        caller: &Caller,
        uri: &Uri,
        headers: &HeaderMap,
        peer: SocketAddr,
    ) -> Result<(), ApiError> {
        // A route of this kind refuses whoever proves nothing.
        let is_known = caller.principal.user().is_some() || access == Access::Proof;
        // Not those whom a proxy on this machine speaks for.
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

/// Whether such a credential was never one of this server's. Those that once were good cost nothing: a client whose
/// token has expired must not lock its neighbours out.
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
