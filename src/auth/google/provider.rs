//! HTTP client of the provider: two requests, each with a time limit and a size limit and without following redirects,
//! so that a faulty provider affects one sign-in only.

use std::sync::OnceLock;
use std::time::{Duration, Instant};

use jsonwebtoken::jwk::Jwk;
use oauth2::basic::{
    BasicErrorResponse, BasicErrorResponseType, BasicRevocationErrorResponse,
    BasicTokenIntrospectionResponse, BasicTokenType,
};
use oauth2::{
    AuthType, AuthUrl, AuthorizationCode, ClientId, ClientSecret, CsrfToken, EndpointNotSet, EndpointSet,
    ExtraTokenFields, HttpRequest, HttpResponse, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl,
    RequestTokenError, Scope, StandardRevocableToken, StandardTokenResponse, TokenUrl,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::Ready;

/// Maximum size of a response, in bytes. Google's keys take about 2 KiB.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Keys are fetched again after this time, and if a token names an unknown key.
const KEYS_LIFETIME: Duration = Duration::from_secs(3600);

/// Errors of the communication with the provider.
#[derive(Debug, thiserror::Error)]
pub enum ProviderError {
    /// No response in time.
    #[error("the sign-in provider did not answer within {0:?}")]
    Timeout(Duration),
    /// The connection failed or broke.
    #[error("the sign-in provider cannot be reached ({0})")]
    Unreachable(String),
    /// The response cannot be used.
    #[error("the sign-in provider's response is invalid: {0}")]
    Invalid(String),
    /// The provider rejected the code.
    #[error("the sign-in provider refused the code ({0}); a code is valid for one sign-in")]
    CodeRefused(String),
    /// The provider rejected this server's own credentials.
    #[error(
        "the sign-in provider refused this server's own credentials ({0}); check auth.google.client_id and client_secret"
    )]
    ClientRefused(String),
}

#[derive(Debug, Deserialize, Serialize)]
struct IdTokenField {
    id_token: Option<String>,
}

impl ExtraTokenFields for IdTokenField {}

type Client = oauth2::Client<
    BasicErrorResponse,
    StandardTokenResponse<IdTokenField, BasicTokenType>,
    BasicTokenIntrospectionResponse,
    StandardRevocableToken,
    BasicRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointSet,
>;

/// The URL that a browser is sent to, and the secrets to remember until it returns.
pub struct Authorization {
    /// The URL of the provider's page.
    pub url: String,
    /// Returned with the browser.
    pub state: String,
    /// Returned in the id_token.
    pub nonce: String,
    /// Proves to the provider that this server requested the code, RFC 7636.
    pub verifier: String,
}

/// The provider.
#[derive(Debug, Default)]
pub struct Provider {
    /// Built at the first sign-in: TLS and its root certificates are megabytes that most servers never need.
    http: OnceLock<reqwest::Client>,
    keys: Mutex<Keys>,
}

#[derive(Debug, Default)]
struct Keys {
    fetched: Option<Instant>,
    keys: Vec<Jwk>,
}

impl Keys {
    fn find(&self, id: Option<&str>) -> Option<&Jwk> {
        match id {
            Some(_) => self.keys.iter().find(|key| key.common.key_id.as_deref() == id),
            // Without an id the key must be unambiguous.
            None if self.keys.len() == 1 => self.keys.first(),
            None => None,
        }
    }
}

fn client(config: &Ready<'_>) -> Result<Client, ProviderError> {
    // The configuration has validated the URLs; an invalid one here is an error, not a panic.
    let wrong = |error: oauth2::url::ParseError| ProviderError::Invalid(error.to_string());
    Ok(oauth2::Client::new(ClientId::new(config.client_id.to_owned()))
        .set_client_secret(ClientSecret::new(config.client_secret.to_owned()))
        .set_auth_type(AuthType::RequestBody)
        .set_auth_uri(AuthUrl::new(config.google.auth_url.clone()).map_err(wrong)?)
        .set_token_uri(TokenUrl::new(config.google.token_url.clone()).map_err(wrong)?)
        .set_redirect_uri(RedirectUrl::new(config.redirect_url.to_owned()).map_err(wrong)?))
}

/// Creates a sign-in's secrets and the URL that the browser is sent to.
pub fn authorize(config: &Ready<'_>) -> Result<Authorization, ProviderError> {
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let nonce = CsrfToken::new_random_len(32).into_secret();
    let client = client(config)?;
    let (url, state) = client
        .authorize_url(|| CsrfToken::new_random_len(32))
        .add_scopes(["openid", "email", "profile"].map(|scope| Scope::new(scope.to_owned())))
        .set_pkce_challenge(challenge)
        .add_extra_param("nonce", nonce.clone())
        .url();
    Ok(Authorization { url: url.into(), state: state.into_secret(), nonce, verifier: verifier.into_secret() })
}

impl Provider {
    /// Exchanges the code for an id_token.
    pub async fn exchange(
        &self,
        config: &Ready<'_>,
        code: String,
        verifier: String,
    ) -> Result<String, ProviderError> {
        let timeout = config.google.timeout();
        let http = self.http()?;
        let send = move |request| send(http.clone(), request, timeout);
        let answer = client(config)?
            .exchange_code(AuthorizationCode::new(code))
            .set_pkce_verifier(PkceCodeVerifier::new(verifier))
            .request_async(&send)
            .await
            .map_err(refusal)?;
        let token = answer.extra_fields().id_token.clone();
        token.ok_or_else(|| ProviderError::Invalid("it has no id_token".to_owned()))
    }

    /// Returns the key with that id, fetching the keys if it is not cached.
    pub async fn key(&self, config: &Ready<'_>, id: Option<&str>) -> Result<Option<Jwk>, ProviderError> {
        // Held while fetching, since concurrent callers need the same keys.
        let mut known = self.keys.lock().await;
        let fresh = known.fetched.is_some_and(|when| when.elapsed() < KEYS_LIFETIME);
        if let Some(key) = known.find(id).filter(|_| fresh) {
            return Ok(Some(key.clone()));
        }
        known.keys = self.fetch_keys(config).await?;
        known.fetched = Some(Instant::now());
        Ok(known.find(id).cloned())
    }

    async fn fetch_keys(&self, config: &Ready<'_>) -> Result<Vec<Jwk>, ProviderError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<serde_json::Value>,
        }
        let request = http::Request::get(&config.google.jwks_url).body(Vec::new());
        let request = request.map_err(|error| ProviderError::Invalid(error.to_string()))?;
        let answer = send(self.http()?, request, config.google.timeout()).await?;
        if !answer.status().is_success() {
            return Err(ProviderError::Invalid(format!("status {} for its keys", answer.status().as_u16())));
        }
        let set: Set = serde_json::from_slice(answer.body())
            .map_err(|_| ProviderError::Invalid("its keys are no JWK set".to_owned()))?;
        // A key of an unsupported type must not hide the others.
        Ok(set.keys.into_iter().filter_map(|key| serde_json::from_value(key).ok()).collect())
    }

    /// Returns a handle to the one client.
    fn http(&self) -> Result<reqwest::Client, ProviderError> {
        if let Some(client) = self.http.get() {
            return Ok(client.clone());
        }
        let client = reqwest::Client::builder()
            // A redirect would carry the code and the client secret to its target.
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(Duration::from_secs(5))
            .pool_idle_timeout(Duration::from_secs(30))
            .user_agent(concat!("jan-server/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| ProviderError::Unreachable(cause(&error)))?;
        Ok(self.http.get_or_init(|| client).clone())
    }
}

async fn send(
    http: reqwest::Client,
    request: HttpRequest,
    timeout: Duration,
) -> Result<HttpResponse, ProviderError> {
    let request =
        reqwest::Request::try_from(request).map_err(|error| ProviderError::Invalid(cause(&error)))?;
    let exchange = async {
        let mut answer = http.execute(request).await.map_err(|error| unreachable(&error))?;
        let status = answer.status();
        if status.is_redirection() || status.is_server_error() {
            return Err(match status.is_server_error() {
                true => ProviderError::Unreachable(format!("status {}", status.as_u16())),
                false => ProviderError::Invalid(format!("a redirect ({})", status.as_u16())),
            });
        }
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(|error| unreachable(&error))? {
            if body.len() + chunk.len() > ANSWER_LIMIT {
                return Err(ProviderError::Invalid(format!("it is longer than {ANSWER_LIMIT} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = HttpResponse::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = std::mem::take(answer.headers_mut());
        Ok(response)
    };
    match tokio::time::timeout(timeout, exchange).await {
        Ok(result) => result,
        Err(_elapsed) => Err(ProviderError::Timeout(timeout)),
    }
}

fn refusal(error: RequestTokenError<ProviderError, BasicErrorResponse>) -> ProviderError {
    match error {
        RequestTokenError::Request(error) => error,
        RequestTokenError::ServerResponse(answer) => {
            // The description is free text from the provider; the code is one of a fixed set.
            let code = answer.error().to_string();
            match answer.error() {
                BasicErrorResponseType::InvalidClient | BasicErrorResponseType::UnauthorizedClient => {
                    ProviderError::ClientRefused(code)
                }
                _ => ProviderError::CodeRefused(code.chars().take(100).collect()),
            }
        }
        RequestTokenError::Parse(error, _) => ProviderError::Invalid(format!("at `{}`", error.path())),
        RequestTokenError::Other(text) => ProviderError::Invalid(text),
    }
}

fn unreachable(error: &reqwest::Error) -> ProviderError {
    ProviderError::Unreachable(cause(error))
}

/// Returns the innermost cause, without the URL, which is all that the outer errors add.
fn cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}
