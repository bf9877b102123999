//! The credential of a request, RFC 6750 section 2.1: sent in a header, never in the URL.

use http::HeaderMap;
use http::header::AUTHORIZATION;

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
    let mut found = None;
    for value in headers.get_all(AUTHORIZATION) {
        let text = value.to_str().map_err(|_| CredentialError::Unreadable)?;
        add(&mut found, bearer(text)?)?;
    }
    for value in headers.get_all("x-api-key") {
        let text = value.to_str().map_err(|_| CredentialError::Unreadable)?.trim();
        add(&mut found, (!text.is_empty()).then_some(Credential::Key(text)))?;
    }
    Ok(found)
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
