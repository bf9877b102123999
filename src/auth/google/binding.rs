//! Binding of a code to its requester: a code that leaks from a URL, a log or a screen is useless to others.
//!
//! Source: RFC 7636 section 4.

use oauth2::{PkceCodeChallenge, PkceCodeVerifier};
use serde::{Deserialize, Serialize};
use subtle::ConstantTimeEq;

/// The proof that redeeming a code requires.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Binding {
    /// The value of the cookie of the browser that signed in.
    Browser(String),
    /// The S256 challenge of the page that requested the code.
    Challenge(String),
}

/// The proofs presented with a code.
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a> {
    /// The value of the browser's cookie.
    pub browser: Option<&'a str>,
    /// The PKCE verifier, from which the page derived its challenge.
    pub verifier: Option<&'a str>,
}

impl Binding {
    /// Returns whether `shown` proves that the code was issued to this requester.
    pub fn fits(&self, shown: Shown<'_>) -> bool {
        match (self, shown.verifier) {
            (Self::Challenge(challenge), Some(verifier)) => {
                // A verifier has 43 to 128 characters; the next line panics with any other length.
                if !(43..=128).contains(&verifier.len()) {
                    return false;
                }
                let verifier = PkceCodeVerifier::new(verifier.to_owned());
                let made = PkceCodeChallenge::from_code_verifier_sha256(&verifier);
                bool::from(made.as_str().as_bytes().ct_eq(challenge.as_bytes()))
            }
            (Self::Browser(browser), None) => {
                bool::from(shown.browser.unwrap_or_default().as_bytes().ct_eq(browser.as_bytes()))
            }
            // RFC 9700 section 4.8.2: a verifier without a challenge means that an attacker removed the challenge.
            (Self::Challenge(_), None) | (Self::Browser(_), Some(_)) => false,
        }
    }
}

/// Returns whether challenge and method are both absent or both valid.
pub(super) fn is_usable(challenge: Option<&str>, method: Option<&str>) -> bool {
    let is_in_alphabet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    match (challenge, method) {
        (None, None) => true,
        (Some(challenge), Some("S256")) => challenge.len() == 43 && challenge.bytes().all(is_in_alphabet),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // RFC 7636 appendix B.
    const VERIFIER: &str = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
    const CHALLENGE: &str = "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM";

    #[test]
    fn codes_are_for_who_asked_for_them() {
        let page = Binding::Challenge(CHALLENGE.to_owned());
        let browser = Binding::Browser("b".to_owned());
        let shown = |browser, verifier| Shown { browser, verifier };
        assert!(page.fits(shown(None, Some(VERIFIER))) && page.fits(shown(Some("x"), Some(VERIFIER))));
        assert!(browser.fits(shown(Some("b"), None)));
        for wrong in
            [shown(None, None), shown(Some("b"), None), shown(None, Some("")), shown(None, Some(CHALLENGE))]
        {
            assert!(!page.fits(wrong), "{wrong:?}");
        }
        for wrong in [
            shown(None, None),
            shown(Some(""), None),
            shown(Some("c"), None),
            shown(Some("b"), Some(VERIFIER)),
        ] {
            assert!(!browser.fits(wrong), "{wrong:?}");
        }
    }

    #[test]
    fn challenges_are_of_s256() {
        assert!(is_usable(None, None) && is_usable(Some(CHALLENGE), Some("S256")));
        for (challenge, method) in [
            (Some(CHALLENGE), None),
            (Some(CHALLENGE), Some("plain")),
            (None, Some("S256")),
            (Some(""), Some("S256")),
            (Some(&CHALLENGE[1..]), Some("S256")),
            (Some("E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw=cM"), Some("S256")),
        ] {
            assert!(!is_usable(challenge, method), "{challenge:?} {method:?}");
        }
    }
}
