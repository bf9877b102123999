//! `/auth/google`: sign-in with Google or another OpenID provider.

use http::header::{ACCEPT, CACHE_CONTROL, COOKIE, LOCATION, REFERRER_POLICY, SET_COOKIE};
use http::{HeaderMap, HeaderValue, StatusCode};
use jan_actors::identity::{ExternalId, ExternalProfile, SignIn, UserKind};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;
use warp::reply::Reply;

use super::sessions::{begin_session, refusal, signed_in};
use crate::api::{
    respond::{parse_query, private},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::auth::google::{Callback, CompletedSignIn, Google, SignInOptions};
use crate::auth::note;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, Response};

/// `/auth/google` and `/auth/google/callback`
pub fn routes() -> Vec<Route> {
    vec![
        route!(begin_sign_in, Place::RootAndApi, Access::Open),
        route!(finish_sign_in, Place::RootAndApi, Access::Open).begins_session("google").without_head(),
    ]
}

/// The address to navigate to, for pages that do so themselves.
#[derive(Debug, Serialize, ToSchema)]
pub struct Departing {
    /// The provider's page.
    authorization_url: String,
}

/// Sign in with Google: redirects the browser to the provider.
///
/// With a guest's token the guest account becomes that user's, with all data. With `Accept: application/json`
/// the address is returned as JSON, because a page that sends a token cannot read the target of a redirect.
#[utoipa::path(
    get,
    path = "/auth/google",
    tag = "auth",
    operation_id = "signInWithGoogle",
    params(
        ("return_to" = Option<String>, Query, description = "The address to redirect the browser to afterwards, one of auth.google.allowed_return_urls; it gets `#code=…`, to be exchanged for tokens at `/auth/exchange`"),
        ("return_state" = Option<String>, Query, description = "Returned as `&state=…`, so that the page can verify that it started this sign-in; 1 to 512 bytes, required with return_to"),
        ("code_challenge" = Option<String>, Query, description = "RFC 7636: binds the code to this page, which passes the verifier to `/auth/exchange`; without it the code is bound to the browser by a cookie, which pages of other origins cannot send"),
        ("code_challenge_method" = Option<String>, Query, description = "`S256`, with code_challenge"),
    ),
    responses(
        (status = 302, description = "A redirect to the provider's page, with a cookie"),
        (status = 200, description = "The same as JSON", body = Departing),
        (status = 400, description = "The return address is not allowed, or its return_state is missing", body = ErrorResponse),
        (status = 503, description = "Sign-in with Google is not configured", body = ErrorResponse),
    )
)]
async fn begin_sign_in(
    state: AppState,
    request: ApiRequest,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let headers = request.headers();
    let options: SignInOptions = parse_query(&query)?;
    let principal = &request.context.caller.principal;
    let guest = principal.user().filter(|_| principal.user_kind == Some(UserKind::Guest));
    let browser = cookie(headers, cookie_name(&state.google));
    let authorization =
        state.google.begin(browser, guest, options).await.map_err(|error| ApiError::from_sign_in(&error))?;
    let mut response = if wants_json(headers) {
        private(StatusCode::OK, &Departing { authorization_url: authorization.url.clone() })
    } else {
        redirect(&authorization.url)?
    };
    response.headers_mut().insert(SET_COOKIE, set_cookie(&state.google, &authorization.browser)?);
    Ok(response)
}

/// Redirect target of the provider.
#[utoipa::path(
    get,
    path = "/auth/google/callback",
    tag = "auth",
    operation_id = "finishSignInWithGoogle",
    params(
        ("code" = Option<String>, Query, description = "The provider's code"),
        ("state" = Option<String>, Query, description = "The state that `/auth/google` passed to the browser"),
        ("error" = Option<String>, Query, description = "The reason why there is no code"),
        ("iss" = Option<String>, Query, description = "The provider, RFC 9207"),
    ),
    responses(
        (status = 200, description = "Signed in", body = super::sessions::Tokens),
        (status = 302, description = "Signed in; redirect to the return address"),
        (status = 400, description = "The state or the code is invalid, or the user did not consent", body = ErrorResponse),
        (status = 401, description = "The provider's id_token is invalid", body = ErrorResponse),
        (status = 403, description = "The user may not sign in on this server", body = ErrorResponse),
        (status = 502, description = "The provider's response is invalid", body = ErrorResponse),
        (status = 503, description = "The provider does not respond, or sign-in is not configured", body = ErrorResponse),
    )
)]
async fn finish_sign_in(
    state: AppState,
    request: ApiRequest,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    let net = request.context.caller.address.into();
    let verdict = state.limiter.sign_in_allowed(net);
    if !verdict.allowed {
        return Err(ApiError::rate_limited(&verdict));
    }
    let callback: Callback = parse_query(&query)?;
    let browser = cookie(request.headers(), cookie_name(&state.google));
    let completed = match state.google.finish(callback, browser).await {
        Ok(completed) => completed,
        Err(error) => {
            tracing::warn!(%error, "sign-in failed");
            let error = ApiError::from_sign_in(&error);
            // A provider that is down or a server that is not configured is not a failed attempt of the client.
            if error.status().is_client_error() {
                state.limiter.sign_in_failed(net);
            }
            return Err(error);
        }
    };
    complete(&state, completed).await
}

async fn complete(state: &AppState, completed: CompletedSignIn) -> Result<Response, ApiError> {
    let person = completed.person;
    let profile = ExternalProfile {
        id: ExternalId { issuer: completed.issuer, subject: person.subject },
        email: person.email,
        name: person.name.unwrap_or_default(),
        picture: person.picture,
    };
    let signed = state.identity.sign_in(profile, completed.guest).await.map_err(refusal)?;
    tracing::info!(user = %signed.user.id, created = signed.created, "signed in");
    if let Some(mut address) = completed.options.return_to {
        address.push_str("#code=");
        let challenge = completed.options.code_challenge;
        let code = state.google.issue_code(signed.user.id, challenge, completed.browser.clone()).await;
        address.push_str(&code);
        if let Some(text) = &completed.options.return_state {
            address.push_str("&state=");
            address.extend(utf8_percent_encode(text, NON_ALPHANUMERIC));
        }
        let mut response = redirect(&address)?;
        // The code may be bound to the cookie, which must therefore outlive it.
        response.headers_mut().insert(SET_COOKIE, set_cookie(&state.google, &completed.browser)?);
        // The session begins when the code is exchanged.
        note_sign_in(&mut response, &signed, "sign_in");
        return Ok(response);
    }
    let mut response = signed_in(StatusCode::OK, begin_session(state, signed.user.id).await?);
    note_sign_in(&mut response, &signed, "session.begin");
    Ok(response)
}

/// Adds the result to the audit record.
fn note_sign_in(response: &mut Response, signed: &SignIn, action: &'static str) {
    note(response, |noted| {
        noted.user = Some(signed.user.id);
        noted.actions = vec![action];
        if signed.created {
            noted.actions.push("user.create");
        }
    });
}

/// Returns a 302 that caches must not store and whose target does not receive the referrer.
fn redirect(address: &str) -> Result<Response, ApiError> {
    let mut response = StatusCode::FOUND.into_response();
    let headers = response.headers_mut();
    headers.insert(LOCATION, HeaderValue::from_str(address).map_err(|_| ApiError::internal())?);
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    Ok(response)
}

fn wants_json(headers: &HeaderMap) -> bool {
    let accept = headers.get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.contains("application/json") && !accept.contains("text/html")
}

/// Returns the cookie of the browser in which a sign-in was begun.
pub fn sign_in_cookie<'a>(google: &Google, headers: &'a HeaderMap) -> Option<&'a str> {
    cookie(headers, cookie_name(google))
}

/// Returns the cookie's name. Browsers accept one with this prefix only from the host itself and over TLS, so that no
/// sibling domain can set it.
fn cookie_name(google: &Google) -> &'static str {
    if google.is_secure() { "__Host-jan_sign_in" } else { "jan_sign_in" }
}

fn set_cookie(google: &Google, browser: &str) -> Result<HeaderValue, ApiError> {
    let secure = if google.is_secure() { "; Secure" } else { "" };
    let cookie = format!(
        "{}={}; Path=/; Max-Age={}; HttpOnly; SameSite=Lax{secure}",
        cookie_name(google),
        browser,
        google.state_ttl().as_secs()
    );
    HeaderValue::from_str(&cookie).map_err(|_| ApiError::internal())
}

fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let lines = headers.get_all(COOKIE).iter().filter_map(|line| line.to_str().ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(given, _)| *given == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::GoogleConfig;

    fn google(url: &str) -> Google {
        Google::new(GoogleConfig { redirect_url: Some(url.to_owned()), ..GoogleConfig::default() })
    }

    #[test]
    fn cookies_are_for_this_host_and_no_script() {
        let text = |google: &Google| set_cookie(google, "b").unwrap().to_str().unwrap().to_owned();
        let secure = text(&google("https://jan.example/auth/google/callback"));
        assert_eq!(secure, "__Host-jan_sign_in=b; Path=/; Max-Age=600; HttpOnly; SameSite=Lax; Secure");
        let plain = text(&google("http://localhost:8080/auth/google/callback"));
        assert_eq!(plain, "jan_sign_in=b; Path=/; Max-Age=600; HttpOnly; SameSite=Lax");
    }

    #[test]
    fn the_cookie_is_found_among_others() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1; xjan_sign_in=2"));
        assert_eq!(cookie(&headers, "jan_sign_in"), None);
        headers.append(COOKIE, HeaderValue::from_static("b=3;jan_sign_in=4"));
        assert_eq!(cookie(&headers, "jan_sign_in"), Some("4"));
    }

    #[test]
    fn queries_are_strict() {
        let callback: Callback = parse_query("code=a%2Fb&state=s&scope=x&prompt=none").unwrap();
        assert_eq!((callback.code.as_deref(), callback.state.as_deref()), (Some("a/b"), Some("s")));
        assert!(parse_query::<Callback>("code=a&code=b").is_err());
        assert!(parse_query::<Callback>("").unwrap().code.is_none());
    }
}
