//! The decision about a request: who it is from, whether they may, whether they have not had enough.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, Method};
use jan_actors::identity::{AuthError, ClientNet, Identity, Permission, Principal};
use jan_actors::limits::{CheckKind, Limiter, Verdict};

use super::access::{self, Access, Found};
use super::client::TrustedProxies;
use super::credential::{self, Credential};
use crate::http::ApiError;

/// Who a request is from.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, a trusted proxy's word taken.
    pub address: IpAddr,
    /// The user, the key or the address.
    pub principal: Principal,
}

impl Caller {
    /// Someone without a credential.
    #[must_use]
    pub fn anonymous(address: IpAddr) -> Self {
        Self { address, principal: Principal::anonymous(address) }
    }
}

/// What was decided.
#[derive(Debug)]
pub struct Admission {
    /// Who it is.
    pub caller: Caller,
    /// The state of the caller's buckets, for the response's headers.
    pub verdict: Verdict,
    /// Why the request goes no further.
    pub refusal: Option<ApiError>,
}

/// Decides about requests. Waits for nothing.
#[derive(Debug)]
pub struct Gate {
    identity: Identity,
    limiter: Limiter,
    proxies: TrustedProxies,
    anonymous_allowed: bool,
}

impl Gate {
    /// `anonymous_allowed`: whether callers without a credential may use what [`Access::Anonymous`] marks.
    #[must_use]
    pub fn new(
        identity: Identity,
        limiter: Limiter,
        proxies: TrustedProxies,
        anonymous_allowed: bool,
    ) -> Self {
        Self { identity, limiter, proxies, anonymous_allowed }
    }

    /// A browser's question whether it may ask. It carries no credential and costs nothing.
    #[must_use]
    pub fn preflight(&self, headers: &HeaderMap, peer: SocketAddr) -> Admission {
        let caller = Caller::anonymous(self.proxies.client(peer, headers));
        let verdict = self.limiter.peek(&caller.principal, CheckKind::Request);
        Admission { caller, verdict, refusal: None }
    }

    /// Decides about one request.
    #[must_use]
    pub fn admit(&self, method: &Method, path: &str, headers: &HeaderMap, peer: SocketAddr) -> Admission {
        let mut caller = Caller::anonymous(self.proxies.client(peer, headers));
        let found = access::find(method, path);
        let (access, inference) = match found {
            Found::Route(route) => (route.access, route.inference),
            Found::OtherMethod | Found::Unknown => (Access::Open, false),
        };
        let refusal = match self.authenticate(access, headers) {
            Ok(principal) => {
                if let Some(principal) = principal {
                    caller.principal = principal.at(caller.address);
                }
                self.permit(access, &caller.principal).err()
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
        } else if refusal.is_none() && matches!(found, Found::Unknown) {
            Some(ApiError::unknown_url(method.as_str(), path))
        } else {
            refusal
        };
        Admission { caller, verdict, refusal }
    }

    fn authenticate(&self, access: Access, headers: &HeaderMap) -> Result<Option<Principal>, Unaccepted> {
        let found = match credential::find(headers) {
            Ok(None) => Ok(None),
            Ok(Some(Credential::Key(key))) => match self.identity.authenticate_key(key) {
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

    fn permit(&self, access: Access, principal: &Principal) -> Result<(), ApiError> {
        let needed = match access {
            Access::Probe | Access::Open | Access::Proof => return Ok(()),
            Access::Anonymous(_) if principal.user().is_none() && self.anonymous_allowed => return Ok(()),
            Access::Anonymous(needed) | Access::Needs(needed) => needed,
        };
        if principal.user().is_none() {
            return Err(ApiError::credential_required());
        }
        require(principal, needed)
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
    )
}

/// Fails where `principal` lacks a permission.
///
/// # Errors
/// 403 `insufficient_permissions`, which names it.
pub fn require(principal: &Principal, needed: Permission) -> Result<(), ApiError> {
    if principal.may(needed) { Ok(()) } else { Err(ApiError::insufficient_permissions(needed, principal)) }
}

enum Unaccepted {
    Unusable(credential::CredentialError),
    Refused(AuthError),
}
