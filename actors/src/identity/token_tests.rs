use jsonwebtoken::EncodingKey;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::signing::{KeyFolder, SigningKeyStore, rotate_signing_key};
use super::*;

const NOW: u64 = 1_800_000_000;

struct Fixture {
    _folder: tempfile::TempDir,
    ring: KeyRing,
    parties: Parties,
    grant: Grant,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ring = KeyFolder::of(folder.path()).load(0, u64::MAX).unwrap();
        let parties = Parties { issuer: "us".to_owned(), audience: "them".to_owned() };
        let grant = Grant { user: UserId::new(), session: SessionId::new(), generation: 3 };
        Self { _folder: folder, ring, parties, grant }
    }

    fn checked(&self) -> Checked {
        let token = self.parties.issue(&self.ring, TokenType::Access, self.grant, NOW, 600);
        self.check(token.reveal()).unwrap()
    }

    fn check(&self, token: &str) -> Result<Checked, AuthError> {
        self.parties.check(&self.ring, TokenType::Access, token)
    }

    /// Returns a token signed with this server's key, with any header and claims.
    fn forge(&self, change: impl FnOnce(&mut Value, &mut Value)) -> String {
        let key = self.ring.newest();
        let mut header = json!({ "alg": "EdDSA", "typ": "at+jwt", "kid": key.kid });
        let token = self.parties.issue(&self.ring, TokenType::Access, self.grant, NOW, 600);
        let claims = URL_SAFE_NO_PAD.decode(token.reveal().split('.').nth(1).unwrap()).unwrap();
        let mut claims = serde_json::from_slice(&claims).unwrap();
        change(&mut header, &mut claims);
        signed(&header, &claims, &key.encoding)
    }
}

fn part(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn signed(header: &Value, claims: &Value, key: &EncodingKey) -> String {
    let message = format!("{}.{}", part(header), part(claims));
    let signature = jsonwebtoken::crypto::sign(message.as_bytes(), key, Algorithm::EdDSA).unwrap();
    format!("{message}.{signature}")
}

#[test]
fn tokens_are_issued_and_checked() {
    let fixture = Fixture::new();
    let checked = Checked { grant: fixture.grant, iat: NOW, nbf: NOW, exp: NOW + 600 };
    assert_eq!(fixture.checked(), checked);
    assert_eq!(fixture.check(&fixture.forge(|_, _| {})), Ok(checked));
}

#[test]
fn errors_name_their_cause() {
    let fixture = Fixture::new();
    let valid = fixture.forge(|_, _| {});
    let (message, signature) = valid.rsplit_once('.').unwrap();
    let (header, claims) = message.split_once('.').unwrap();
    let other = Fixture::new();
    let with = |header: Value, signature: &str| format!("{}.{claims}.{signature}", part(&header));
    let kid = &fixture.ring.newest().kid;
    let refresh = fixture.parties.issue(&fixture.ring, TokenType::Refresh, fixture.grant, NOW, 600);
    for (token, error) in [
        (String::new(), AuthError::Malformed),
        ("a.b.c".to_owned(), AuthError::Malformed),
        (format!("{header}.{claims}"), AuthError::Malformed),
        (format!("{valid}.{signature}"), AuthError::Malformed),
        (format!("{valid}{}", "A".repeat(MAX_LENGTH)), AuthError::TooLong),
        (with(json!({ "alg": "none" }), ""), AuthError::WrongAlgorithm),
        (with(json!({ "alg": "nOnE", "kid": kid }), signature), AuthError::WrongAlgorithm),
        (with(json!({ "alg": "HS256", "kid": kid }), signature), AuthError::WrongAlgorithm),
        (with(json!({ "alg": "ES256", "kid": kid }), signature), AuthError::WrongAlgorithm),
        (fixture.forge(|header, _| header["crit"] = json!(["exp"])), AuthError::Malformed),
        (fixture.forge(|header, _| header["kid"] = json!("another")), AuthError::UnknownSigningKey),
        (fixture.forge(|header, _| header["kid"] = Value::Null), AuthError::UnknownSigningKey),
        (other.forge(|_, _| {}), AuthError::UnknownSigningKey),
        (other.forge(|header, _| header["kid"] = json!(kid)), AuthError::BadSignature),
        (
            format!("{message}.{}", &other.forge(|_, _| {}).rsplit_once('.').unwrap().1),
            AuthError::BadSignature,
        ),
        (format!("{message}."), AuthError::BadSignature),
        (fixture.forge(|_, claims| claims["iss"] = json!("we")), AuthError::WrongIssuer),
        (fixture.forge(|_, claims| claims["aud"] = json!("you")), AuthError::WrongAudience),
        (fixture.forge(|_, claims| claims["typ"] = json!("refresh")), AuthError::WrongType),
        (fixture.forge(|header, _| header["typ"] = json!("JWT")), AuthError::WrongType),
        (fixture.forge(|header, _| header["typ"] = json!("rt+jwt")), AuthError::WrongType),
        (refresh.reveal().to_owned(), AuthError::WrongType),
        (fixture.forge(|_, claims| claims["sub"] = json!("someone")), AuthError::Malformed),
        (fixture.forge(|_, claims| claims["exp"] = json!("never")), AuthError::Malformed),
        (fixture.forge(|_, claims| *claims = json!([])), AuthError::Malformed),
    ] {
        assert_eq!(fixture.check(&token), Err(error), "{token}");
    }
}

#[test]
fn key_in_the_token_is_not_used() {
    let fixture = Fixture::new();
    let other = Fixture::new();
    let jwk = other.ring.to_jwks()["keys"][0].clone();
    let token = other.forge(|header, _| header["jwk"] = jwk);
    assert_eq!(fixture.check(&token), Err(AuthError::UnknownSigningKey));
}

#[test]
fn tokens_of_a_replaced_key_are_accepted_while_the_key_is() {
    let fixture = Fixture::new();
    let token = fixture.forge(|_, _| {});
    rotate_signing_key(fixture._folder.path()).unwrap();
    let rotated = KeyFolder::of(fixture._folder.path()).load(0, u64::MAX).unwrap();
    let check = |ring| fixture.parties.check(ring, TokenType::Access, &token);
    assert!(check(&rotated).is_ok());
    let later = KeyFolder::of(fixture._folder.path()).load(u64::MAX, 1000).unwrap();
    assert_eq!(check(&later), Err(AuthError::UnknownSigningKey));
}

#[test]
fn times_are_checked() {
    let checked = Fixture::new().checked();
    let at = |now| checked.check_times(now, 600);
    assert_eq!(at(NOW - LEEWAY_S - 1), Err(AuthError::NotYetValid));
    assert_eq!(at(NOW - LEEWAY_S), Ok(()));
    assert_eq!(at(NOW + 599), Ok(()));
    assert_eq!(at(NOW + 600), Err(AuthError::Expired));
    assert_eq!(checked.check_start(NOW + 600, 600), Ok(()));
    assert_eq!(checked.check_times(NOW, 599), Err(AuthError::LifetimeTooLong));
}

proptest! {
    /// No single change of a token's text leaves it valid, and none panics.
    #[test]
    fn changed_tokens_are_refused(position in any::<prop::sample::Index>(), byte in 0x20u8..0x7f) {
        thread_local!(static TOKEN: (Fixture, String) = {
            let fixture = Fixture::new();
            let token = fixture.forge(|_, _| {});
            (fixture, token)
        });
        TOKEN.with(|(fixture, token)| {
            let mut bytes = token.clone().into_bytes();
            let position = position.index(bytes.len());
            prop_assume!(bytes[position] != byte);
            bytes[position] = byte;
            let changed = String::from_utf8(bytes).unwrap();
            prop_assert!(fixture.check(&changed).is_err(), "{changed}");
            Ok(())
        })?;
    }

    #[test]
    fn arbitrary_texts_are_refused(text in "\\PC{0,200}(\\.\\PC{0,50}){0,4}") {
        thread_local!(static FIXTURE: Fixture = Fixture::new());
        FIXTURE.with(|fixture| {
            prop_assert!(fixture.check(&text).is_err());
            Ok(())
        })?;
    }
}
