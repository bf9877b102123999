//! Sign-in with Google or another OpenID provider: the authorization code flow with PKCE.
//!
//! Source: RFC 6749, RFC 7636, RFC 9700, RFC 9207 and OpenID Connect Core 1.0.
//!
//! Sign-ins under way and codes are kept in memory only: they live for ten minutes and for one, and a restart of the server ends
//! them. Several servers would share them behind [`one_time::OneTimeValues`].

mod binding;
mod id_token;
mod one_time;
mod provider;

use std::time::Duration;

use jan_actors::identity::UserId;
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

use binding::Binding;
pub use binding::Shown;
pub use id_token::IdTokenError;
use id_token::{Expected, Person};
use one_time::{LocalOneTime, OneTimeValues};
use provider::Provider;
pub use provider::ProviderError;

use crate::config::GoogleConfig;

/// Time within which the page that a browser returns to must exchange its code.
const CODE_LIFETIME: Duration = Duration::from_secs(60);
/// Maximum number of pending sign-ins; each takes about 500 bytes plus its `return_state`.
const MAX_PENDING: usize = 10_000;
/// Maximum length of `return_state`, in bytes.
const MAX_RETURN_STATE: usize = 512;

/// Sign-in with Google.
#[derive(Debug)]
pub struct Google {
    config: GoogleConfig,
    provider: Provider,
    pending: Box<dyn OneTimeValues<Pending>>,
    codes: Box<dyn OneTimeValues<(UserId, Binding)>>,
}

/// The settings that sign-in requires.
#[derive(Debug)]
struct Ready<'a> {
    google: &'a GoogleConfig,
    client_id: &'a str,
    client_secret: &'a str,
    redirect_url: &'a str,
}

/// A sign-in under way.
#[derive(Debug, Serialize, Deserialize)]
struct Pending {
    /// The value of the browser's cookie.
    browser: String,
    nonce: String,
    verifier: String,
    guest: Option<UserId>,
    options: SignInOptions,
}

/// The destination of the browser after the sign-in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignInOptions {
    /// The URL of a page.
    pub return_to: Option<String>,
    /// Returned to that page, which can thereby recognise its own sign-in.
    pub return_state: Option<String>,
    /// RFC 7636: binds the code that the page receives to the requester. Without a challenge it is bound to the
    /// browser.
    pub code_challenge: Option<String>,
    /// `S256`.
    pub code_challenge_method: Option<String>,
}

/// The URL that a browser is sent to, and the cookie that later identifies the same browser.
#[derive(Debug)]
pub struct AuthorizationRedirect {
    /// The URL of the provider's page.
    pub url: String,
    /// The value of the cookie.
    pub browser: String,
}

/// A completed sign-in.
#[derive(Debug)]
pub struct CompletedSignIn {
    /// The provider.
    pub issuer: String,
    /// The signed-in person.
    pub person: Person,
    /// The guest account that the browser had before.
    pub guest: Option<UserId>,
    /// The destination of the browser.
    pub options: SignInOptions,
    /// The value of the browser's cookie.
    pub browser: String,
}

/// The parameters of the provider's redirect.
#[derive(Debug, Default, Deserialize)]
pub struct Callback {
    /// The code, if the person agreed.
    pub code: Option<String>,
    /// The state that this server sent.
    pub state: Option<String>,
    /// The provider's error, if there is no code.
    pub error: Option<String>,
    /// The provider, RFC 9207.
    pub iss: Option<String>,
}

/// Reasons why a sign-in fails.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Settings are missing.
    #[error("sign-in with Google is not configured: set {}", .0.join(", "))]
    NotConfigured(Vec<&'static str>),
    /// The return address is not on the list.
    #[error("the return address is not one of auth.google.allowed_return_urls")]
    ReturnAddress,
    /// The page gave no value by which it could recognise its own sign-in.
    #[error(
        "return_to requires return_state, a value that is returned to the page so that it can reject sign-ins it did not start"
    )]
    NoReturnState,
    /// The `return_state` is empty or too long.
    #[error("return_state must have 1 to {MAX_RETURN_STATE} bytes")]
    ReturnState,
    /// The challenge or its method is not of S256.
    #[error(
        "code_challenge must be the 43 characters of an S256 challenge, and code_challenge_method must be S256"
    )]
    Challenge,
    /// The state is missing, forged, used or expired, or belongs to another browser.
    #[error(
        "this sign-in was not started in this browser within the last ten minutes, or has been used already; start again at /auth/google"
    )]
    State,
    /// The response is from another provider.
    #[error("the response is from another provider than the one that the sign-in was sent to")]
    MixUp,
    /// The person declined, or the provider reported an error.
    #[error("the sign-in provider ended the sign-in: {0}")]
    Denied(String),
    /// The redirect has no code.
    #[error("the sign-in provider sent no code")]
    NoCode,
    /// Communication with the provider failed.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The id_token is invalid.
    #[error("the provider's id_token {0}")]
    IdToken(#[from] IdTokenError),
    /// The id_token names a key that the provider does not publish.
    #[error("the provider's id_token is signed with a key that the provider does not publish")]
    UnknownKey,
}

impl Google {
    /// Creates the client from these settings, without contacting the provider.
    #[must_use]
    pub fn new(config: GoogleConfig) -> Self {
        Self {
            pending: Box::new(LocalOneTime::new(config.state_ttl(), MAX_PENDING)),
            config,
            provider: Provider::default(),
            codes: Box::new(LocalOneTime::new(CODE_LIFETIME, MAX_PENDING)),
        }
    }

    /// Returns whether browsers reach this server over TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.config.redirect_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    /// Returns the origin of this server as browsers see it, if it is configured.
    #[must_use]
    pub fn own_origin(&self) -> Option<String> {
        let callback = oauth2::url::Url::parse(self.config.redirect_url.as_deref()?).ok()?;
        Some(callback.origin().ascii_serialization())
    }

    /// Returns the time within which a sign-in must be finished.
    #[must_use]
    pub fn state_ttl(&self) -> Duration {
        self.config.state_ttl()
    }

    fn ready(&self) -> Result<Ready<'_>, SignInError> {
        let config = &self.config;
        let (id, secret, url) = (&config.client_id, &config.client_secret, &config.redirect_url);
        if let (Some(client_id), Some(client_secret), Some(redirect_url)) = (id, secret, url) {
            return Ok(Ready { google: config, client_id, client_secret, redirect_url });
        }
        let settings = [
            (id, "auth.google.client_id"),
            (secret, "auth.google.client_secret"),
            (url, "auth.google.redirect_url"),
        ];
        let missing = settings.into_iter().filter(|(value, _)| value.is_none()).map(|(_, name)| name);
        Err(SignInError::NotConfigured(missing.collect()))
    }

    /// Returns whether a sign-in may return to this page: a configured one, or the API's own page on the host of the
    /// provider's redirect. URLs are compared as a whole, since one that only begins like an allowed URL can belong to
    /// anyone.
    fn may_return_to(&self, page: &str) -> bool {
        let own = || {
            let callback = oauth2::url::Url::parse(self.config.redirect_url.as_deref()?).ok()?;
            callback.join(crate::api::SWAGGER_PAGE).ok()
        };
        self.config.allowed_return_urls.iter().any(|allowed| allowed == page)
            || own().is_some_and(|own| own.as_str() == page)
    }

    /// Begins a sign-in. `browser` is the browser's cookie from an earlier sign-in, which may still be pending in
    /// another tab.
    ///
    /// # Errors
    /// Settings are missing, or the return address is not allowed.
    pub async fn begin(
        &self,
        browser: Option<&str>,
        guest: Option<UserId>,
        options: SignInOptions,
    ) -> Result<AuthorizationRedirect, SignInError> {
        let ready = self.ready()?;
        if options.return_to.as_ref().is_some_and(|url| !self.may_return_to(url)) {
            return Err(SignInError::ReturnAddress);
        }
        match &options.return_state {
            None if options.return_to.is_some() => return Err(SignInError::NoReturnState),
            Some(state) if state.is_empty() || state.len() > MAX_RETURN_STATE => {
                return Err(SignInError::ReturnState);
            }
            _ => {}
        }
        if !binding::is_usable(options.code_challenge.as_deref(), options.code_challenge_method.as_deref()) {
            return Err(SignInError::Challenge);
        }
        let authorization = provider::authorize(&ready)?;
        let browser = browser.filter(|value| is_ours(value)).map_or_else(new_secret, str::to_owned);
        let pending = Pending {
            browser: browser.clone(),
            nonce: authorization.nonce,
            verifier: authorization.verifier,
            guest,
            options,
        };
        self.pending.put(authorization.state, pending).await;
        Ok(AuthorizationRedirect { url: authorization.url, browser })
    }

    /// Finishes a sign-in with the parameters of the provider's redirect.
    ///
    /// # Errors
    /// See [`SignInError`]. The state is consumed in any case.
    pub async fn finish(
        &self,
        callback: Callback,
        browser: Option<&str>,
    ) -> Result<CompletedSignIn, SignInError> {
        let ready = self.ready()?;
        let state = callback.state.as_deref().ok_or(SignInError::State)?;
        let pending = self.pending.take(state).await.ok_or(SignInError::State)?;
        let same_browser = browser.unwrap_or_default().as_bytes().ct_eq(pending.browser.as_bytes());
        if !bool::from(same_browser) {
            return Err(SignInError::State);
        }
        if callback.iss.is_some_and(|issuer| issuer != self.config.issuer) {
            return Err(SignInError::MixUp);
        }
        if let Some(error) = callback.error {
            let plain = error.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(60);
            return Err(SignInError::Denied(plain.collect()));
        }
        let code = callback.code.filter(|code| !code.is_empty()).ok_or(SignInError::NoCode)?;
        let token = self.provider.exchange(&ready, code, pending.verifier).await?;
        let key_id = id_token::key_id(&token)?;
        let key = self.provider.key(&ready, key_id.as_deref()).await?.ok_or(SignInError::UnknownKey)?;
        let expected = Expected {
            issuer: &self.config.issuer,
            client_id: ready.client_id,
            nonce: &pending.nonce,
            allowed_domains: &self.config.allowed_domains,
            now: u64::try_from(jiff::Timestamp::now().as_second()).unwrap_or_default(),
        };
        let person = id_token::check(&token, &key, expected)?;
        let issuer = self.config.issuer.clone();
        let Pending { guest, options, browser, .. } = pending;
        Ok(CompletedSignIn { issuer, person, guest, options, browser })
    }

    /// Issues a code that [`Self::redeem`] accepts once, within a minute, and only with the challenge's verifier or
    /// from the same browser. The page that the browser returns to receives it; tokens would stay in the browser's
    /// history.
    pub async fn issue_code(&self, user: UserId, challenge: Option<String>, browser: String) -> String {
        let code = new_secret();
        let binding = challenge.map_or(Binding::Browser(browser), Binding::Challenge);
        self.codes.put(code.clone(), (user, binding)).await;
        code
    }

    /// Returns the user whom a code was issued to. The code is consumed even if the proofs do not match.
    pub async fn redeem(&self, code: &str, shown: Shown<'_>) -> Option<UserId> {
        let (user, binding) = self.codes.take(code).await?;
        binding.fits(shown).then_some(user)
    }
}

/// 256 random bits in the alphabet of URLs.
fn new_secret() -> String {
    oauth2::CsrfToken::new_random_len(32).into_secret()
}

/// Returns whether a cookie has the form of this server's cookies.
fn is_ours(cookie: &str) -> bool {
    cookie.len() == 43
        && cookie.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn google() -> Google {
        Google::new(GoogleConfig {
            client_id: Some("us".to_owned()),
            client_secret: Some("s".to_owned()),
            redirect_url: Some("https://jan.example/auth/google/callback".to_owned()),
            allowed_return_urls: vec!["https://app.example/in".to_owned()],
            ..GoogleConfig::default()
        })
    }

    fn parameters(url: &str) -> std::collections::HashMap<String, String> {
        oauth2::url::Url::parse(url).unwrap().query_pairs().into_owned().collect()
    }

    #[tokio::test]
    async fn missing_settings_are_named() {
        let message = Google::new(GoogleConfig::default())
            .begin(None, None, SignInOptions::default())
            .await
            .unwrap_err()
            .to_string();
        for name in ["auth.google.client_id", "auth.google.client_secret", "auth.google.redirect_url"] {
            assert!(message.contains(name), "{message}");
        }
    }

    #[tokio::test]
    async fn every_redirect_has_secrets_of_its_own_and_one_browser() {
        let google = google();
        let first = google.begin(None, None, SignInOptions::default()).await.unwrap();
        let second = google.begin(Some(&first.browser), None, SignInOptions::default()).await.unwrap();
        assert_eq!(first.browser, second.browser, "both tabs can come back");
        let (a, b) = (parameters(&first.url), parameters(&second.url));
        for name in ["state", "nonce", "code_challenge"] {
            assert!(a[name].len() >= 43 && a[name] != b[name], "{name}");
        }
        assert_eq!((a["code_challenge_method"].as_str(), a["response_type"].as_str()), ("S256", "code"));
        assert_eq!(a["scope"], "openid email profile");
        let made_up = google.begin(Some("made-up"), None, SignInOptions::default()).await.unwrap();
        assert_ne!(made_up.browser, "made-up");
    }

    #[tokio::test]
    async fn return_addresses_are_compared_as_a_whole() {
        let google = google();
        let to = |url: &str| SignInOptions {
            return_to: Some(url.to_owned()),
            return_state: Some("s".to_owned()),
            ..SignInOptions::default()
        };
        assert!(google.begin(None, None, to("https://app.example/in")).await.is_ok());
        assert!(google.begin(None, None, to("https://jan.example/api/swagger/index.html")).await.is_ok());
        for wrong in [
            "https://app.example/in/",
            "https://app.example/in?x",
            "https://app.example.evil/in",
            "/in",
            "",
            "https://jan.example/",
            "http://jan.example/api/swagger/index.html",
        ] {
            assert!(google.begin(None, None, to(wrong)).await.is_err(), "{wrong}");
        }
    }

    #[tokio::test]
    async fn return_states_are_bounded_and_asked_for() {
        let google = google();
        let begin = async |state: Option<&str>| {
            let return_to = Some("https://app.example/in".to_owned());
            let options = SignInOptions {
                return_to,
                return_state: state.map(str::to_owned),
                ..SignInOptions::default()
            };
            google.begin(None, None, options).await
        };
        assert!(begin(Some("x")).await.is_ok() && begin(Some(&"x".repeat(512))).await.is_ok());
        assert!(matches!(begin(None).await, Err(SignInError::NoReturnState)));
        for wrong in [String::new(), "x".repeat(513)] {
            assert!(matches!(begin(Some(&wrong)).await, Err(SignInError::ReturnState)));
        }
    }

    #[tokio::test]
    async fn a_state_is_for_one_browser_and_one_use() {
        let google = google();
        let redirect = google.begin(None, None, SignInOptions::default()).await.unwrap();
        let callback = || Callback {
            state: Some(parameters(&redirect.url)["state"].clone()),
            error: Some("access_denied".to_owned()),
            ..Callback::default()
        };
        assert!(matches!(google.finish(callback(), Some("other")).await, Err(SignInError::State)));
        // The state is consumed, for its own browser too.
        assert!(matches!(google.finish(callback(), Some(&redirect.browser)).await, Err(SignInError::State)));
        assert!(matches!(google.finish(Callback::default(), None).await, Err(SignInError::State)));
    }

    #[tokio::test]
    async fn codes_are_redeemed_once() {
        let google = google();
        let user = UserId::new();
        let mine = Shown { browser: Some("b"), verifier: None };
        let code = google.issue_code(user, None, "b".to_owned()).await;
        assert_eq!(google.redeem(&code, mine).await, Some(user));
        assert_eq!(google.redeem(&code, mine).await, None);
        let code = google.issue_code(user, None, "b".to_owned()).await;
        assert_eq!(google.redeem(&code, Shown { browser: Some("other"), verifier: None }).await, None);
        assert_eq!(google.redeem(&code, mine).await, None, "a thief has used it up");
    }
}
