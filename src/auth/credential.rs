//! The credential of a request, RFC 6750 section 2.1: sent in a header, never in the URL.

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// The beginning of every key of this server.
const KEY_PREFIX: &str = "sk-jan-";
/// The beginning of a JWT: its header is a JSON object, `{"…`, in Base64.
const JWT_PREFIX: &str = "eyJ";

/// A presented credential, not yet verified.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Credential<'a> {
    /// Text that may be an API key.
    Key(&'a str),
    /// Text that may be a JWT.
    Token(&'a str),
}

// Debug output must not put a credential into a log.
impl std::fmt::Debug for Credential<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Key(_) => "Key(…)",
            Self::Token(_) => "Token(…)",
        })
    }
}

/// Reasons why the headers do not yield exactly one credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CredentialError {
    /// A scheme other than Bearer.
    Scheme,
    /// Several different credentials.
    Conflict,
    /// Bytes that cannot occur in a credential.
    Unreadable,
}

/// Returns the credential in `headers`. An empty one (`Authorization: Bearer`) counts as none: clients without a key
/// send it.
///
/// # Errors
/// See [`CredentialError`].
pub fn find(headers: &HeaderMap) -> Result<Option<Credential<'_>>, CredentialError> {
    find_among(headers, false)
}

/// Returns the credential in `headers`, for a route that needs none. One that does not have the form of this server's
/// credentials counts as none: many clients cannot be used without a key and send one that is made up.
///
/// # Errors
/// See [`CredentialError`].
pub fn find_own(headers: &HeaderMap) -> Result<Option<Credential<'_>>, CredentialError> {
    find_among(headers, true)
}

fn find_among(headers: &HeaderMap, own: bool) -> Result<Option<Credential<'_>>, CredentialError> {
    let mut found = None;
    for value in headers.get_all(AUTHORIZATION) {
        match value.to_str() {
            Ok(text) => add(&mut found, bearer(text)?.filter(|one| !own || one.has_own_form()))?,
            Err(_) if own && is_bearer(value.as_bytes()) => {}
            Err(_) => return Err(CredentialError::Unreadable),
        }
    }
    for value in headers.get_all("x-api-key") {
        match value.to_str() {
            Ok(text) => {
                let key = Some(text.trim()).filter(|text| !text.is_empty()).map(Credential::Key);
                add(&mut found, key.filter(|one| !own || one.has_own_form()))?;
            }
            Err(_) if own => {}
            Err(_) => return Err(CredentialError::Unreadable),
        }
    }
    Ok(found)
}

impl Credential<'_> {
    /// Returns whether the text has the form of a key of this server, `sk-jan-…`, or of a JWT, be it broken.
    fn has_own_form(&self) -> bool {
        let (Self::Key(text) | Self::Token(text)) = self;
        text.starts_with(KEY_PREFIX) || (text.starts_with(JWT_PREFIX) && text.contains('.')) || is_jwt(text)
    }
}

/// Returns whether the text has three parts of a JWT's alphabet. The last one, the signature, may be empty.
fn is_jwt(text: &str) -> bool {
    let parts: Vec<&str> = text.splitn(4, '.').collect();
    let [header, claims, _] = parts[..] else { return false };
    let plain = |part: &str| part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    !header.is_empty() && !claims.is_empty() && parts.iter().all(|part| plain(part))
}

fn is_bearer(value: &[u8]) -> bool {
    value.trim_ascii_start().get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer "))
}

fn add<'a>(found: &mut Option<Credential<'a>>, next: Option<Credential<'a>>) -> Result<(), CredentialError> {
    match (&found, next) {
        (_, None) => Ok(()),
        (None, Some(_)) => {
            *found = next;
            Ok(())
        }
        (Some(first), Some(second)) if *first == second => Ok(()),
        // With two different credentials the server must not guess which one is meant.
        (Some(_), Some(_)) => Err(CredentialError::Conflict),
    }
}

fn bearer(text: &str) -> Result<Option<Credential<'_>>, CredentialError> {
    let text = text.trim();
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    if text.is_empty() {
        return Ok(None);
    }
    if !scheme.eq_ignore_ascii_case("bearer") {
        return Err(CredentialError::Scheme);
    }
    let rest = rest.trim();
    if rest.is_empty() {
        return Ok(None);
    }
    // A JWT has dots between its parts and a key has none.
    let is_token = rest.contains('.') && !rest.starts_with("sk-");
    Ok(Some(if is_token { Credential::Token(rest) } else { Credential::Key(rest) }))
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in lines {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            map.append(HeaderName::from_static(name), value);
        }
        map
    }

    #[test]
    fn one_credential_is_found_wherever_it_stands() {
        for (lines, expected) in [
            (vec![], None),
            (vec![("authorization", "Bearer")], None),
            (vec![("authorization", "Bearer "), ("x-api-key", " ")], None),
            (vec![("authorization", "Bearer a.b.c")], Some(Credential::Token("a.b.c"))),
            (vec![("authorization", "bearer   sk-jan-x")], Some(Credential::Key("sk-jan-x"))),
            (vec![("authorization", "Bearer none")], Some(Credential::Key("none"))),
            (vec![("x-api-key", "sk-jan-x")], Some(Credential::Key("sk-jan-x"))),
            (
                vec![("authorization", "Bearer sk-jan-x"), ("x-api-key", "sk-jan-x")],
                Some(Credential::Key("sk-jan-x")),
            ),
        ] {
            assert_eq!(find(&headers(&lines)), Ok(expected), "{lines:?}");
        }
    }

    #[test]
    fn made_up_credentials_count_as_none_where_none_is_needed() {
        for text in [
            "none",
            "EMPTY",
            "sk-proj-x",
            "sk-no-key-required",
            "sk-jan",
            "Sk-jan-x",
            "a.b",
            "v1.2.3.4",
            "eyJ",
            "ä",
            "a b.c.d",
        ] {
            for lines in [
                vec![("authorization", format!("Bearer {text}"))],
                vec![("x-api-key", text.to_owned())],
                vec![("authorization", format!("bearer {text}")), ("x-api-key", "other".to_owned())],
            ] {
                let lines: Vec<_> = lines.iter().map(|(name, value)| (*name, value.as_str())).collect();
                assert_eq!(find_own(&headers(&lines)), Ok(None), "{lines:?}");
            }
        }
        for text in
            ["sk-jan-", "sk-jan-x", "sk-jan-x.y.z", "eyJhbGciOiJub25lIn0.e30.", "a.b.c", "eyJ.x", "eyJ.a.b.c"]
        {
            for name in ["authorization", "x-api-key"] {
                let value = if name == "authorization" { format!("Bearer {text}") } else { text.to_owned() };
                let lines = [(name, value.as_str())];
                assert_eq!(find_own(&headers(&lines)), find(&headers(&lines)), "{lines:?}");
                assert!(find_own(&headers(&lines)).unwrap().is_some(), "{lines:?}");
            }
        }
        let mixed = headers(&[("authorization", "Bearer none"), ("x-api-key", "sk-jan-x")]);
        assert_eq!(find_own(&mixed), Ok(Some(Credential::Key("sk-jan-x"))));
        assert_eq!(find_own(&headers(&[("authorization", "Basic eDp5")])), Err(CredentialError::Scheme));
    }

    #[test]
    fn ambiguous_credentials_are_refused() {
        for (lines, expected) in [
            (vec![("authorization", "Basic eDp5")], CredentialError::Scheme),
            (vec![("authorization", "sk-jan-x")], CredentialError::Scheme),
            (
                vec![("authorization", "Bearer sk-jan-x"), ("x-api-key", "sk-jan-y")],
                CredentialError::Conflict,
            ),
            (vec![("authorization", "Bearer a"), ("authorization", "Bearer b")], CredentialError::Conflict),
            (vec![("authorization", "Bearer ä")], CredentialError::Unreadable),
        ] {
            assert_eq!(find(&headers(&lines)), Err(expected), "{lines:?}");
        }
    }

    #[test]
    fn credentials_do_not_show_in_debug_lines() {
        let map = headers(&[("authorization", "Bearer sk-jan-secret")]);
        assert!(!format!("{:?}", find(&map)).contains("secret"));
    }
}
