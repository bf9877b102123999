//! Errors about credentials, permissions and signing in.

use std::time::Duration;

use http::StatusCode;
use jan_actors::identity::{Permission, Principal, Right};

use super::credential::CredentialError;
use super::google::{IdTokenError, ProviderError, SignInError};
use crate::http::ApiError;
use crate::http::error::capitalize;

/// `Retry-After` of failures that may be temporary.
const RETRY_SOON: Duration = Duration::from_secs(5);
// RFC 6750 section 3: the challenge has no error code if the request had no credential.
const CHALLENGE: &str = "Bearer realm=\"jan-server\"";
pub(crate) const INVALID_TOKEN: &str = "Bearer realm=\"jan-server\", error=\"invalid_token\"";
const INVALID_REQUEST: &str = "Bearer realm=\"jan-server\", error=\"invalid_request\"";

impl ApiError {
    pub(crate) fn unauthorized(
        code: &'static str,
        message: impl Into<String>,
        challenge: &'static str,
    ) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, code, message).with_challenge(challenge)
    }

    /// 401 `missing_credentials`.
    #[must_use]
    pub fn credential_required() -> Self {
        // OpenAI's words.
        let message = "You didn't provide an API key. You need to provide your API key, or an access token, in an \
                       Authorization header using Bearer auth (i.e. Authorization: Bearer YOUR_KEY).";
        Self::unauthorized("missing_credentials", message, CHALLENGE)
    }

    /// 401: the headers do not contain exactly one usable credential.
    #[must_use]
    pub fn unusable_credential(error: CredentialError) -> Self {
        let (code, message) = match error {
            CredentialError::Scheme => (
                "unsupported_auth_scheme",
                "The Authorization header has a scheme other than Bearer; send `Authorization: Bearer …`.",
            ),
            CredentialError::Conflict => {
                ("conflicting_credentials", "The request carries several different credentials; send one.")
            }
            CredentialError::Unreadable => ("malformed_token", "The credential contains invalid characters."),
        };
        Self::unauthorized(code, message, INVALID_REQUEST)
    }

    /// 403 `insufficient_permissions`.
    #[must_use]
    pub fn insufficient_permissions(needed: Right, principal: &Principal) -> Self {
        macro_rules! challenge {
            ($scope:literal) => {
                concat!("Bearer realm=\"jan-server\", error=\"insufficient_scope\", scope=\"", $scope, "\"")
            };
        }
        let challenge = match needed.usual() {
            Permission::Read => challenge!("read"),
            Permission::Write => challenge!("write"),
            Permission::Keys => challenge!("keys"),
            Permission::Admin => challenge!("admin"),
            Permission::Inference => challenge!("inference"),
            Permission::Conversations => challenge!("conversations"),
            Permission::Usage => challenge!("usage"),
        };
        let has = match principal.permissions.to_string() {
            none if none.is_empty() => "none".to_owned(),
            some => some,
        };
        let needed: Vec<_> = needed.granted_by().map(|permission| format!("`{permission}`")).collect();
        let needed = needed.join(" or ");
        let message = format!("This route requires the permission {needed}; the credential has: {has}.");
        Self::new(StatusCode::FORBIDDEN, "insufficient_permissions", message).with_challenge(challenge)
    }

    /// 403 `model_not_allowed`.
    #[must_use]
    pub fn model_not_allowed(model: &str) -> Self {
        let message = format!(
            "The API key does not permit the model `{model}`; its `models` lists the permitted ones."
        );
        Self::forbidden("model_not_allowed", message).with_param("model")
    }

    /// 403 with the given code.
    pub fn forbidden(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, code, message)
    }

    /// 400 with the given code.
    pub fn bad_request(code: &'static str, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 404 `not_found`.
    #[must_use]
    pub fn not_found(what: &str, id: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", format!("The {what} `{id}` does not exist."))
            .with_param("id")
    }

    /// Maps an error of a sign-in at the provider.
    #[must_use]
    pub fn from_sign_in(error: &SignInError) -> Self {
        let message = format!("{}.", capitalize(&error.to_string()));
        match error {
            SignInError::NotConfigured(_) => {
                Self::unavailable("oauth_not_configured", message, Duration::from_secs(300))
            }
            SignInError::ReturnAddress => {
                Self::bad_request("oauth_return_url_not_allowed", message).with_param("return_to")
            }
            SignInError::NoReturnState => {
                Self::bad_request("missing_required_parameter", message).with_param("return_state")
            }
            SignInError::ReturnState => Self::invalid_value("return_state", message),
            SignInError::Challenge => Self::invalid_value("code_challenge", message),
            SignInError::State => Self::bad_request("oauth_state_invalid", message).with_param("state"),
            SignInError::MixUp => Self::bad_request("oauth_issuer_mismatch", message).with_param("iss"),
            SignInError::Denied(_) => Self::bad_request("oauth_denied", message),
            SignInError::NoCode => Self::bad_request("oauth_code_missing", message).with_param("code"),
            SignInError::Provider(error) => match error {
                ProviderError::Timeout(_) => Self::unavailable("oauth_provider_timeout", message, RETRY_SOON),
                ProviderError::Unreachable(_) => {
                    Self::unavailable("oauth_provider_unreachable", message, RETRY_SOON)
                }
                ProviderError::CodeRefused(_) => {
                    Self::bad_request("oauth_code_refused", message).with_param("code")
                }
                ProviderError::Invalid(_) | ProviderError::ClientRefused(_) => {
                    Self::new(StatusCode::BAD_GATEWAY, "oauth_provider_error", message)
                }
            },
            SignInError::IdToken(error) => match error {
                IdTokenError::EmailNotVerified => Self::forbidden("email_not_verified", message),
                IdTokenError::Domain => Self::forbidden("domain_not_allowed", message),
                _ => Self::unauthorized("oauth_id_token_invalid", message, CHALLENGE),
            },
            SignInError::UnknownKey => Self::unauthorized("oauth_id_token_invalid", message, CHALLENGE),
        }
    }
}
