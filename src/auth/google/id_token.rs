//! Verification of id_tokens: signature and claims.
//!
//! Source: OpenID Connect Core 1.0 section 3.1.3.7; RFC 8725 for the JWT itself.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use subtle::ConstantTimeEq;

/// Tolerated difference between the provider's clock and this server's (seconds).
const LEEWAY: u64 = 60;
/// Maximum age of an id_token (seconds). It is used immediately, so an older one does not belong to this sign-in.
const MAX_AGE: u64 = 600;
/// OpenID Connect Core 1.0 section 2: a subject has at most 255 characters.
const MAX_SUBJECT: usize = 255;
const GOOGLE: &str = "https://accounts.google.com";

/// The values that a token is checked against.
#[derive(Clone, Copy, Debug)]
pub struct Expected<'a> {
    /// The provider.
    pub issuer: &'a str,
    /// This server's id at the provider.
    pub client_id: &'a str,
    /// The nonce of this sign-in.
    pub nonce: &'a str,
    /// Domains whose accounts may sign in; empty allows any.
    pub allowed_domains: &'a [String],
    /// Unix seconds.
    pub now: u64,
}

/// The identity that the provider asserts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// The provider's identifier of the person, the only one that never changes.
    pub subject: String,
    /// The verified email address.
    pub email: String,
    /// The display name, as the person wrote it.
    pub name: Option<String>,
    /// The URL of a picture.
    pub picture: Option<String>,
}

/// Reasons to reject a token. The texts follow "the provider's id_token ".
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdTokenError {
    /// It is not a JWT, or a claim is missing or has the wrong type.
    #[error("cannot be read: {0}")]
    Malformed(String),
    /// The algorithm does not match the key; includes `none`.
    #[error("is signed with an algorithm that does not match its key")]
    Algorithm,
    /// The key does not verify the signature.
    #[error("has a wrong signature")]
    Signature,
    /// The issuer is another one.
    #[error("is from another issuer")]
    Issuer,
    /// It was issued for another client.
    #[error("is for another audience")]
    Audience,
    /// It has expired.
    #[error("has expired")]
    Expired,
    /// Its `iat` or `nbf` is in the future.
    #[error("is from the future")]
    Future,
    /// It was issued too long ago.
    #[error("was issued too long ago")]
    Old,
    /// Its nonce belongs to another sign-in.
    #[error("does not belong to this sign-in (nonce)")]
    Nonce,
    /// The provider has not verified the email address.
    #[error("has no verified email address")]
    EmailNotVerified,
    /// The person's domain is not allowed.
    #[error("names a user outside the allowed domains")]
    Domain,
}

#[derive(Deserialize)]
struct Claims {
    iss: String,
    sub: String,
    aud: Audience,
    azp: Option<String>,
    exp: u64,
    iat: u64,
    nbf: Option<u64>,
    nonce: Option<String>,
    email: Option<String>,
    email_verified: Option<Flag>,
    name: Option<String>,
    picture: Option<String>,
    /// Google's claim that names the organisation that owns the account.
    hd: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

/// A boolean that some providers write as text.
#[derive(Deserialize)]
#[serde(untagged)]
enum Flag {
    Bool(bool),
    Text(String),
}

/// Returns the id of the signing key that `token` names.
///
/// # Errors
/// The token is not a JWT.
pub fn key_id(token: &str) -> Result<Option<String>, IdTokenError> {
    let header = jsonwebtoken::decode_header(token).map_err(|error| malformed(&error))?;
    Ok(header.kid)
}

/// Returns the one algorithm that a key is used with. It follows from the key, never from the token (RFC 8725 section
/// 3.1).
fn algorithm(key: &Jwk) -> Option<Algorithm> {
    let algorithm = match &key.algorithm {
        AlgorithmParameters::RSA(_) => Algorithm::RS256,
        AlgorithmParameters::EllipticCurve(parameters) => match parameters.curve {
            EllipticCurve::P256 => Algorithm::ES256,
            EllipticCurve::P384 => Algorithm::ES384,
            _ => return None,
        },
        AlgorithmParameters::OctetKeyPair(_) => Algorithm::EdDSA,
        _ => return None,
    };
    match key.common.key_algorithm {
        Some(named) if named != KeyAlgorithm::from(algorithm) => None,
        _ => Some(algorithm),
    }
}

/// Verifies signature and claims.
///
/// # Errors
/// The first check that fails.
pub fn check(token: &str, key: &Jwk, expected: Expected<'_>) -> Result<Person, IdTokenError> {
    let algorithm = algorithm(key).ok_or(IdTokenError::Algorithm)?;
    let decoding = DecodingKey::from_jwk(key).map_err(|error| malformed(&error))?;
    // The library checks the signature alone: the claims are checked below, against a clock that is passed in.
    let mut validation = Validation::new(algorithm);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    use jsonwebtoken::errors::ErrorKind;
    let claims = match jsonwebtoken::decode::<Claims>(token, &decoding, &validation) {
        Ok(data) => data.claims,
        Err(error) => {
            return Err(match error.kind() {
                ErrorKind::InvalidSignature => IdTokenError::Signature,
                ErrorKind::InvalidAlgorithm | ErrorKind::UnsupportedAlgorithm => IdTokenError::Algorithm,
                _ => malformed(&error),
            });
        }
    };
    check_claims(claims, expected)
}

fn malformed(error: &jsonwebtoken::errors::Error) -> IdTokenError {
    IdTokenError::Malformed(error.to_string())
}

fn check_claims(claims: Claims, expected: Expected<'_>) -> Result<Person, IdTokenError> {
    // Google has also used its issuer without the scheme.
    let is_google = expected.issuer == GOOGLE && claims.iss == "accounts.google.com";
    if claims.iss != expected.issuer && !is_google {
        return Err(IdTokenError::Issuer);
    }
    let for_us = match &claims.aud {
        Audience::One(audience) => audience == expected.client_id,
        Audience::Many(all) => {
            let presenter_is_us = claims.azp.as_deref() == Some(expected.client_id);
            all.iter().any(|audience| audience == expected.client_id) && (all.len() == 1 || presenter_is_us)
        }
    };
    if !for_us || claims.azp.as_deref().is_some_and(|azp| azp != expected.client_id) {
        return Err(IdTokenError::Audience);
    }
    if claims.exp.saturating_add(LEEWAY) <= expected.now {
        return Err(IdTokenError::Expired);
    }
    let latest = expected.now.saturating_add(LEEWAY);
    if claims.iat > latest || claims.nbf.is_some_and(|nbf| nbf > latest) {
        return Err(IdTokenError::Future);
    }
    if claims.iat.saturating_add(MAX_AGE + LEEWAY) <= expected.now {
        return Err(IdTokenError::Old);
    }
    let nonce = claims.nonce.unwrap_or_default();
    if !bool::from(nonce.as_bytes().ct_eq(expected.nonce.as_bytes())) {
        return Err(IdTokenError::Nonce);
    }
    if claims.sub.is_empty() || claims.sub.len() > MAX_SUBJECT {
        return Err(IdTokenError::Malformed("its subject is empty or too long".to_owned()));
    }
    let verified = match claims.email_verified {
        Some(Flag::Bool(verified)) => verified,
        Some(Flag::Text(text)) => text == "true",
        None => false,
    };
    let email = claims.email.filter(|email| verified && email.contains('@'));
    let email = email.ok_or(IdTokenError::EmailNotVerified)?;
    if !domain_is_allowed(&email, claims.hd.as_deref(), expected) {
        return Err(IdTokenError::Domain);
    }
    Ok(Person { subject: claims.sub, email, name: claims.name, picture: claims.picture })
}

/// According to Google, an email address alone does not show who manages the account; the `hd` claim does. Other
/// providers have no such claim.
fn domain_is_allowed(email: &str, organisation: Option<&str>, expected: Expected<'_>) -> bool {
    let allowed = |domain: &str| expected.allowed_domains.iter().any(|one| one.eq_ignore_ascii_case(domain));
    if expected.allowed_domains.is_empty() {
        return true;
    }
    let of_email = email.rsplit_once('@').is_some_and(|(_, domain)| allowed(domain));
    match organisation {
        Some(organisation) => allowed(organisation) && of_email,
        None => of_email && expected.issuer != GOOGLE,
    }
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{EncodingKey, Header};
    use serde_json::{Value, json};

    use super::*;

    const NOW: u64 = 1_800_000_000;
    /// Generated for this test: the key of RFC 8037 appendix A.1 in PKCS#8.
    const KEY_DER: [u8; 48] = [
        0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20, 0x9d,
        0x61, 0xb1, 0x9d, 0xef, 0xfd, 0x5a, 0x60, 0xba, 0x84, 0x4a, 0xf4, 0x92, 0xec, 0x2c, 0xc4, 0x44, 0x49,
        0xc5, 0x69, 0x7b, 0x32, 0x69, 0x19, 0x70, 0x3b, 0xac, 0x03, 0x1c, 0xae, 0x7f, 0x60,
    ];

    fn key() -> Jwk {
        serde_json::from_value(json!({
            "kty": "OKP", "crv": "Ed25519", "kid": "k1",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo",
        }))
        .unwrap()
    }

    fn claims() -> Value {
        json!({
            "iss": "https://id.example", "aud": "us", "sub": "s-1", "exp": NOW + 300, "iat": NOW - 1, "nonce": "n",
            "email": "ann@corp.example", "email_verified": true, "name": "Ann",
        })
    }

    fn checked_in(claims: &Value, domains: &[&str], issuer: &str) -> Result<Person, IdTokenError> {
        let domains: Vec<String> = domains.iter().map(|&domain| domain.to_owned()).collect();
        let signing = EncodingKey::from_ed_der(&KEY_DER);
        let token = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), claims, &signing).unwrap();
        let expected = Expected { issuer, client_id: "us", nonce: "n", allowed_domains: &domains, now: NOW };
        check(&token, &key(), expected)
    }

    fn with(changes: Value) -> Result<Person, IdTokenError> {
        let mut claims = claims();
        for (name, value) in changes.as_object().unwrap() {
            claims[name] = value.clone();
        }
        checked_in(&claims, &[], "https://id.example")
    }

    #[test]
    fn a_good_token_names_its_person() {
        let person = with(json!({})).unwrap();
        assert_eq!((person.subject.as_str(), person.email.as_str()), ("s-1", "ann@corp.example"));
        assert!(with(json!({"aud": ["us"], "email_verified": "true"})).is_ok());
        assert!(with(json!({"aud": ["us", "them"], "azp": "us"})).is_ok());
        let mut of_google = claims();
        of_google["iss"] = "accounts.google.com".into();
        assert!(checked_in(&of_google, &[], GOOGLE).is_ok(), "Google's scheme may be missing");
    }

    #[test]
    fn every_lie_is_found() {
        for (changes, error) in [
            (json!({"iss": "https://evil.example"}), IdTokenError::Issuer),
            (json!({"iss": "id.example"}), IdTokenError::Issuer),
            (json!({"aud": "them"}), IdTokenError::Audience),
            (json!({"aud": ["us", "them"]}), IdTokenError::Audience),
            (json!({"azp": "them"}), IdTokenError::Audience),
            (json!({"exp": NOW - 61}), IdTokenError::Expired),
            (json!({"iat": NOW + 120}), IdTokenError::Future),
            (json!({"nbf": NOW + 120}), IdTokenError::Future),
            (json!({"iat": NOW - 3600}), IdTokenError::Old),
            (json!({"nonce": "m"}), IdTokenError::Nonce),
            (json!({"nonce": null}), IdTokenError::Nonce),
            (json!({"email_verified": false}), IdTokenError::EmailNotVerified),
            (json!({"email_verified": null}), IdTokenError::EmailNotVerified),
            (json!({"email_verified": "yes"}), IdTokenError::EmailNotVerified),
            (json!({"email": null}), IdTokenError::EmailNotVerified),
        ] {
            assert_eq!(with(changes.clone()), Err(error), "{changes}");
        }
        for changes in
            [json!({"sub": ""}), json!({"sub": null}), json!({"exp": "x"}), json!({"sub": "x".repeat(256)})]
        {
            assert!(matches!(with(changes.clone()), Err(IdTokenError::Malformed(_))), "{changes}");
        }
    }

    #[test]
    fn domains_are_held_to() {
        let with_domains = |email: &str, hd: Option<&str>, issuer: &str| {
            let mut claims = claims();
            claims["email"] = email.into();
            claims["iss"] = issuer.into();
            claims["hd"] = hd.map_or(Value::Null, Value::from);
            checked_in(&claims, &["corp.example"], issuer)
        };
        let (other, google) = ("https://id.example", GOOGLE);
        assert!(with_domains("a@CORP.example", None, other).is_ok());
        assert!(with_domains("a@corp.example", Some("corp.example"), google).is_ok());
        for (email, hd, issuer) in [
            ("a@corp.example", None, google),
            ("a@corp.example", Some("evil.example"), other),
            ("a@evil.example", Some("corp.example"), other),
            ("a@evil.example", None, other),
            ("corp.example@evil.example", None, other),
            ("a@sub.corp.example", None, other),
        ] {
            assert_eq!(with_domains(email, hd, issuer), Err(IdTokenError::Domain), "{email} {hd:?} {issuer}");
        }
    }

    #[test]
    fn the_key_decides_the_algorithm() {
        let expected = Expected { issuer: "i", client_id: "us", nonce: "n", allowed_domains: &[], now: NOW };
        // The known attack: the public key as the secret of an HMAC.
        let secret = EncodingKey::from_secret(b"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(), &secret).unwrap();
        assert_eq!(check(&token, &key(), expected), Err(IdTokenError::Algorithm));
        let none = "eyJhbGciOiJub25lIn0.e30.";
        assert!(check(none, &key(), expected).is_err() && key_id(none).is_err());
        let symmetric: Jwk = serde_json::from_value(json!({"kty": "oct", "k": "c2VjcmV0"})).unwrap();
        assert_eq!(check(&token, &symmetric, expected), Err(IdTokenError::Algorithm));
        let signing = EncodingKey::from_ed_der(&KEY_DER);
        let good = jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims(), &signing).unwrap();
        let (head, signature) = good.rsplit_once('.').unwrap();
        let forged = format!("{head}.{}", signature.chars().rev().collect::<String>());
        assert!(check(&forged, &key(), expected).is_err());
    }
}
