//! Signing in with Google, or another OpenID provider: the authorization code flow with PKCE.
//!
//! Source: RFC 6749, RFC 7636, RFC 9700, RFC 9207 and OpenID Connect Core 1.0.
//!
//! A sign-in that is under way is kept in memory alone: it lives for ten minutes, and whoever was on the way while
//! the server was started again begins anew.

mod binding;
mod id_token;
mod one_time;
mod provider;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use jan_actors::identity::UserId;
use subtle::ConstantTimeEq;

use binding::Binding;
pub use binding::Shown;
pub use id_token::IdTokenError;
use id_token::{Expected, Person};
use one_time::OneTime;
use provider::Provider;
pub use provider::ProviderError;

use crate::config::GoogleConfig;

/// How long the page that a browser returns to may take to exchange its code.
const CODE_LIFETIME: Duration = Duration::from_secs(60);
/// Sign-ins under way at most; each takes about 500 bytes, and its `return_state`.
const MOST_PENDING: usize = 10_000;
/// Longest `return_state`, in bytes.
const MAX_RETURN_STATE: usize = 512;

/// Signing in with Google.
#[derive(Debug)]
pub struct Google {
    config: GoogleConfig,
    provider: Provider,
    pending: Mutex<OneTime<Pending>>,
    codes: Mutex<OneTime<(UserId, Binding)>>,
}

/// The settings without which nobody can sign in.
#[derive(Debug)]
struct Ready<'a> {
    google: &'a GoogleConfig,
    client_id: &'a str,
    client_secret: &'a str,
    redirect_url: &'a str,
}

#[derive(Debug)]
struct Pending {
    /// The browser's cookie.
    browser: String,
    nonce: String,
    verifier: String,
    guest: Option<UserId>,
    wish: Wish,
}

/// Where the browser is to go afterwards.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize)]
pub struct Wish {
    /// A page's address.
    pub return_to: Option<String>,
    /// Given back to that page, so that it knows that the sign-in is its own.
    pub return_state: Option<String>,
    /// RFC 7636: binds the code that the page gets to who asked for it. Without one it is bound to the browser.
    pub code_challenge: Option<String>,
    /// `S256`.
    pub code_challenge_method: Option<String>,
}

/// Where a browser goes, and the cookie that shows that it is the same one when it comes back.
#[derive(Debug)]
pub struct Departure {
    /// The provider's page.
    pub url: String,
    /// The value of the cookie.
    pub browser: String,
}

/// Someone who has signed in.
#[derive(Debug)]
pub struct Arrival {
    /// The provider.
    pub issuer: String,
    /// Who.
    pub person: Person,
    /// The guest who this was until now.
    pub guest: Option<UserId>,
    /// Where the browser goes on.
    pub wish: Wish,
    /// The browser's cookie.
    pub browser: String,
}

/// What the provider's redirect carries.
#[derive(Debug, Default, serde::Deserialize)]
pub struct Callback {
    /// The code, where the person agreed.
    pub code: Option<String>,
    /// Ours, coming back.
    pub state: Option<String>,
    /// Why there is no code.
    pub error: Option<String>,
    /// The provider, RFC 9207.
    pub iss: Option<String>,
}

/// Why nobody was signed in.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Settings are missing.
    #[error("sign-in with Google is not configured: set {}", .0.join(", "))]
    NotConfigured(Vec<&'static str>),
    /// The address is not on the list.
    #[error("the return address is not one of auth.google.allowed_return_urls")]
    ReturnAddress,
    /// A page is to be returned to, and gave nothing that it could know its own sign-in by.
    #[error(
        "return_to requires return_state, a value that is returned to the page so that it can reject sign-ins it did not start"
    )]
    NoReturnState,
    /// It is empty, or too long.
    #[error("return_state must have 1 to {MAX_RETURN_STATE} bytes")]
    ReturnState,
    /// It is none of S256.
    #[error(
        "code_challenge must be the 43 characters of an S256 challenge, and code_challenge_method must be S256"
    )]
    Challenge,
    /// The state is missing, forged, used or too old, or it is another browser's.
    #[error(
        "this sign-in was not started in this browser within the last ten minutes, or has been used already; start again at /auth/google"
    )]
    State,
    /// The answer is another provider's.
    #[error("the response is from another provider than the one that the sign-in was sent to")]
    MixUp,
    /// The person did not agree, or the provider has an error.
    #[error("the sign-in provider ended the sign-in: {0}")]
    Denied(String),
    /// The redirect has no code.
    #[error("the sign-in provider sent no code")]
    NoCode,
    /// Talking to the provider failed.
    #[error(transparent)]
    Provider(#[from] ProviderError),
    /// The id_token does not hold.
    #[error("the provider's id_token {0}")]
    IdToken(#[from] IdTokenError),
    /// The id_token names no key of the provider's.
    #[error("the provider's id_token is signed with a key that the provider does not publish")]
    UnknownKey,
}

impl Google {
    /// With these settings. Talks to nobody.
    #[must_use]
    pub fn new(config: GoogleConfig) -> Self {
        Self {
            pending: Mutex::new(OneTime::new(config.state_ttl(), MOST_PENDING)),
            config,
            provider: Provider::default(),
            codes: Mutex::new(OneTime::new(CODE_LIFETIME, MOST_PENDING)),
        }
    }

    /// Whether the browser reaches this server by TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.config.redirect_url.as_deref().is_some_and(|url| url.starts_with("https://"))
    }

    /// How long a sign-in can be finished after it began.
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

    /// Whether a sign-in may return to this page: one that is configured, or the API's own page on the host that the
    /// provider sends browsers back to. Compared as a whole: what merely begins like an allowed address can be anyone's.
    fn may_return_to(&self, page: &str) -> bool {
        let own = || {
            let callback = oauth2::url::Url::parse(self.config.redirect_url.as_deref()?).ok()?;
            callback.join(crate::api::SWAGGER_PAGE).ok()
        };
        self.config.allowed_return_urls.iter().any(|allowed| allowed == page)
            || own().is_some_and(|own| own.as_str() == page)
    }

    /// Begins a sign-in. `browser` is the cookie that the browser has from another one, which may still be under way
    /// in another tab.
    ///
    /// # Errors
    /// Settings are missing, or the return address is not allowed.
    pub fn begin(
        &self,
        browser: Option<&str>,
        guest: Option<UserId>,
        wish: Wish,
    ) -> Result<Departure, SignInError> {
        let ready = self.ready()?;
        if wish.return_to.as_ref().is_some_and(|url| !self.may_return_to(url)) {
            return Err(SignInError::ReturnAddress);
        }
        match &wish.return_state {
            None if wish.return_to.is_some() => return Err(SignInError::NoReturnState),
            Some(state) if state.is_empty() || state.len() > MAX_RETURN_STATE => {
                return Err(SignInError::ReturnState);
            }
            _ => {}
        }
        if !binding::is_usable(wish.code_challenge.as_deref(), wish.code_challenge_method.as_deref()) {
            return Err(SignInError::Challenge);
        }
        let authorization = provider::authorize(&ready)?;
        let browser = browser.filter(|value| is_ours(value)).map_or_else(new_secret, str::to_owned);
        let pending = Pending {
            browser: browser.clone(),
            nonce: authorization.nonce,
            verifier: authorization.verifier,
            guest,
            wish,
        };
        lock(&self.pending).insert(Instant::now(), authorization.state, pending);
        Ok(Departure { url: authorization.url, browser })
    }

    /// Ends a sign-in with what the provider sent the browser back with.
    ///
    /// # Errors
    /// See [`SignInError`]. The state is used up in any case.
    pub async fn finish(&self, callback: Callback, browser: Option<&str>) -> Result<Arrival, SignInError> {
        let ready = self.ready()?;
        let state = callback.state.as_deref().ok_or(SignInError::State)?;
        let pending = lock(&self.pending).take(Instant::now(), state).ok_or(SignInError::State)?;
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
        let Pending { guest, wish, browser, .. } = pending;
        Ok(Arrival { issuer, person, guest, wish, browser })
    }

    /// A code that [`Self::redeem`] takes once, within a minute, from whoever asked for it: the one with the challenge's
    /// verifier, or the same browser. It goes to the page that the browser returns to: tokens would stay in the
    /// browser's history.
    #[must_use]
    pub fn issue_code(&self, user: UserId, challenge: Option<String>, browser: String) -> String {
        let code = new_secret();
        let binding = challenge.map_or(Binding::Browser(browser), Binding::Challenge);
        lock(&self.codes).insert(Instant::now(), code.clone(), (user, binding));
        code
    }

    /// Whom a code is for. It is used up, also where the rest of what is shown does not fit it.
    #[must_use]
    pub fn redeem(&self, code: &str, shown: Shown<'_>) -> Option<UserId> {
        let (user, binding) = lock(&self.codes).take(Instant::now(), code)?;
        binding.fits(shown).then_some(user)
    }
}

/// 256 random bits in the alphabet of URLs.
fn new_secret() -> String {
    oauth2::CsrfToken::new_random_len(32).into_secret()
}

/// Whether a cookie looks like one of ours.
fn is_ours(cookie: &str) -> bool {
    cookie.len() == 43
        && cookie.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    // What is inside is whole after every step, so a panic elsewhere leaves nothing half done.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn missing_settings_are_named() {
        let message =
            Google::new(GoogleConfig::default()).begin(None, None, Wish::default()).unwrap_err().to_string();
        for name in ["auth.google.client_id", "auth.google.client_secret", "auth.google.redirect_url"] {
            assert!(message.contains(name), "{message}");
        }
    }

    #[test]
    fn every_departure_has_secrets_of_its_own_and_one_browser() {
        let google = google();
        let first = google.begin(None, None, Wish::default()).unwrap();
        let second = google.begin(Some(&first.browser), None, Wish::default()).unwrap();
        assert_eq!(first.browser, second.browser, "both tabs can come back");
        let (a, b) = (parameters(&first.url), parameters(&second.url));
        for name in ["state", "nonce", "code_challenge"] {
            assert!(a[name].len() >= 43 && a[name] != b[name], "{name}");
        }
        assert_eq!((a["code_challenge_method"].as_str(), a["response_type"].as_str()), ("S256", "code"));
        assert_eq!(a["scope"], "openid email profile");
        assert_ne!(google.begin(Some("made-up"), None, Wish::default()).unwrap().browser, "made-up");
    }

    #[test]
    fn return_addresses_are_compared_as_a_whole() {
        let google = google();
        let to = |url: &str| Wish {
            return_to: Some(url.to_owned()),
            return_state: Some("s".to_owned()),
            ..Wish::default()
        };
        assert!(google.begin(None, None, to("https://app.example/in")).is_ok());
        assert!(google.begin(None, None, to("https://jan.example/api/swagger/index.html")).is_ok());
        for wrong in [
            "https://app.example/in/",
            "https://app.example/in?x",
            "https://app.example.evil/in",
            "/in",
            "",
            "https://jan.example/",
            "http://jan.example/api/swagger/index.html",
        ] {
            assert!(google.begin(None, None, to(wrong)).is_err(), "{wrong}");
        }
    }

    #[test]
    fn return_states_are_bounded_and_asked_for() {
        let google = google();
        let begin = |state: Option<&str>| {
            let return_to = Some("https://app.example/in".to_owned());
            let wish = Wish { return_to, return_state: state.map(str::to_owned), ..Wish::default() };
            google.begin(None, None, wish)
        };
        assert!(begin(Some("x")).is_ok() && begin(Some(&"x".repeat(512))).is_ok());
        assert!(matches!(begin(None), Err(SignInError::NoReturnState)));
        for wrong in [String::new(), "x".repeat(513)] {
            assert!(matches!(begin(Some(&wrong)), Err(SignInError::ReturnState)));
        }
    }

    #[tokio::test]
    async fn a_state_is_for_one_browser_and_one_use() {
        let google = google();
        let departure = google.begin(None, None, Wish::default()).unwrap();
        let callback = || Callback {
            state: Some(parameters(&departure.url)["state"].clone()),
            error: Some("access_denied".to_owned()),
            ..Callback::default()
        };
        assert!(matches!(google.finish(callback(), Some("other")).await, Err(SignInError::State)));
        // It is gone, for its own browser too.
        assert!(matches!(google.finish(callback(), Some(&departure.browser)).await, Err(SignInError::State)));
        assert!(matches!(google.finish(Callback::default(), None).await, Err(SignInError::State)));
    }

    #[test]
    fn codes_are_redeemed_once() {
        let google = google();
        let user = UserId::new();
        let mine = Shown { browser: Some("b"), verifier: None };
        let code = google.issue_code(user, None, "b".to_owned());
        assert_eq!(google.redeem(&code, mine), Some(user));
        assert_eq!(google.redeem(&code, mine), None);
        let code = google.issue_code(user, None, "b".to_owned());
        assert_eq!(google.redeem(&code, Shown { browser: Some("other"), verifier: None }), None);
        assert_eq!(google.redeem(&code, mine), None, "a thief has used it up");
    }
}
