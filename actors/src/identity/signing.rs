//! Signing keys of tokens: Ed25519 ([RFC 8037]).
//!
//! The newest key signs. An older key is accepted until all tokens that it signed have expired, and is then deleted. All servers
//! that accept each other's tokens share one [`SigningKeyStore`]; today that is a folder with a file for each key
//! ([`KeyFolder`]). A rotation writes one more file, so it is atomic with respect to crashes.
//!
//! [RFC 8037]: https://www.rfc-editor.org/rfc/rfc8037

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{DecodingKey, EncodingKey};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::store::files::{create_private_folder, write_private};

/// The contents of a key's file.
#[derive(Serialize, Deserialize)]
struct KeyFile {
    kid: String,
    /// Epoch milliseconds.
    created_at_ms: u64,
    /// PKCS #8, base64.
    private_key: String,
}

/// An accepted key.
#[derive(Clone)]
pub struct SigningKey {
    /// Its id: the RFC 7638 thumbprint of its public part.
    pub kid: String,
    /// The private key, which signs.
    pub encoding: EncodingKey,
    /// The public key, which verifies.
    pub decoding: DecodingKey,
    /// The public key as in a JWK (`x`).
    public: String,
    created_at_ms: u64,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey").field("kid", &self.kid).finish_non_exhaustive()
    }
}

/// The name of a key: that of its file, without the extension. Older keys sort first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct KeyName {
    /// Time of its creation (epoch milliseconds).
    pub created_at_ms: u64,
    /// Its id.
    pub kid: String,
}

impl KeyName {
    /// Returns the name in a text; `None`: it is not one.
    pub fn parse(text: &str) -> Option<Self> {
        let (created_at_ms, kid) = text.split_once('-')?;
        let is_id = |letter: char| letter.is_ascii_alphanumeric() || letter == '-' || letter == '_';
        let kid = Some(kid).filter(|kid| !kid.is_empty() && kid.chars().all(is_id))?;
        Some(Self { created_at_ms: created_at_ms.parse().ok()?, kid: kid.to_owned() })
    }
}

impl fmt::Display for KeyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.created_at_ms, self.kid)
    }
}

/// Returns the names of the keys in a folder, without reading them.
///
/// # Errors
/// The folder cannot be read.
pub fn key_files(folder: &Path) -> io::Result<BTreeSet<KeyName>> {
    let mut names = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let name = entry?.file_name();
        names.extend(name.to_str().and_then(|name| KeyName::parse(name.strip_suffix(".json")?)));
    }
    Ok(names)
}

/// Writes the file of a key, whose contents another server wrote.
///
/// # Errors
/// It is no key, or cannot be written.
pub fn put_key_file(folder: &Path, contents: &[u8]) -> io::Result<()> {
    let key = parse_key(contents)?;
    let name = KeyName { created_at_ms: key.created_at_ms, kid: key.kid };
    write_private(&folder.join(format!("{name}.json")), contents)
}

/// All accepted keys, oldest first.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<SigningKey>,
}

/// The place where signing keys are stored. Its methods block.
pub trait SigningKeyStore: fmt::Debug + Send + Sync {
    /// Reads the keys, and creates the first one where there is none. Keys replaced more than `keep_ms` ago are deleted.
    ///
    /// # Errors
    /// A key cannot be read, or is damaged.
    fn load(&self, now_ms: u64, keep_ms: u64) -> io::Result<KeyRing>;

    /// A time that differs from an earlier one if keys were added or deleted in between.
    ///
    /// # Errors
    /// It cannot be read.
    fn changed_at(&self) -> io::Result<SystemTime>;

    /// Creates a new key, which signs from then on, and returns its id (`kid`).
    ///
    /// # Errors
    /// It cannot be written.
    fn rotate(&self) -> io::Result<String>;
}

/// Signing keys in the folder `keys` of a data folder, one file each.
#[derive(Clone, Debug)]
pub struct KeyFolder(PathBuf);

impl KeyFolder {
    /// Returns the store of a data folder's keys.
    pub fn of(data_dir: &Path) -> Self {
        Self(data_dir.join("keys"))
    }
}

impl SigningKeyStore for KeyFolder {
    fn load(&self, now_ms: u64, keep_ms: u64) -> io::Result<KeyRing> {
        create_private_folder(&self.0)?;
        let mut keys = read_all(&self.0)?;
        if keys.is_empty() {
            self.rotate()?;
            keys = read_all(&self.0)?;
        }
        let created: Vec<_> = keys.iter().map(|(key, _)| key.created_at_ms).collect();
        for (key, path) in keys.drain(..dead_count(&created, now_ms, keep_ms)) {
            tracing::info!(kid = key.kid, "a signing key that was replaced has expired and is deleted");
            std::fs::remove_file(path)?;
        }
        Ok(KeyRing { keys: keys.into_iter().map(|(key, _)| key).collect() })
    }

    fn changed_at(&self) -> io::Result<SystemTime> {
        std::fs::metadata(&self.0)?.modified()
    }

    fn rotate(&self) -> io::Result<String> {
        create_private_folder(&self.0)?;
        // Never older than the newest, in case the clock was set back.
        let newest = read_all(&self.0)?.last().map_or(0, |(key, _)| key.created_at_ms);
        let created_at_ms = now_ms().max(newest + 1);
        let unspecified = |_| io::Error::other("the system gives no randomness for a signing key");
        let pair = Ed25519KeyPair::generate().map_err(unspecified)?;
        let document = pair.to_pkcs8v1().map_err(unspecified)?;
        let kid = thumbprint(&public_text(&pair));
        let private_key = STANDARD.encode(document.as_ref());
        let file = KeyFile { kid: kid.clone(), created_at_ms, private_key };
        let text = serde_json::to_vec(&file).expect("texts and a number have a JSON form");
        let name = KeyName { created_at_ms, kid };
        write_private(&self.0.join(format!("{name}.json")), &text)?;
        Ok(name.kid)
    }
}

impl KeyRing {
    /// Returns the key that signs.
    pub fn newest(&self) -> &SigningKey {
        self.keys.last().expect("a ring is made with at least one key, and never loses its last")
    }

    /// Returns the key of that id.
    pub fn find(&self, kid: &str) -> Option<&SigningKey> {
        self.keys.iter().find(|key| key.kid == kid)
    }

    /// Returns the public keys as a JWK Set (RFC 7517), newest first.
    pub fn to_jwks(&self) -> serde_json::Value {
        let keys = self.keys.iter().rev().map(|key| {
            serde_json::json!({
                "kty": "OKP",
                "crv": "Ed25519",
                "x": key.public,
                "kid": key.kid,
                "alg": "EdDSA",
                "use": "sig",
            })
        });
        serde_json::json!({ "keys": keys.collect::<Vec<_>>() })
    }

    /// Returns the ids, oldest first.
    pub fn kids(&self) -> Vec<&str> {
        self.keys.iter().map(|key| key.kid.as_str()).collect()
    }
}

/// Returns how many of the keys created at those times (oldest first) are dead: replaced for at least `keep_ms`.
pub(super) fn dead_count(created_at_ms: &[u64], now_ms: u64, keep_ms: u64) -> usize {
    let replaced_at = created_at_ms.iter().skip(1);
    replaced_at.take_while(|&&at| at.saturating_add(keep_ms) < now_ms).count()
}

/// Creates a new signing key in `<data-dir>/keys` (`jan-server keys rotate`) and returns its id (`kid`). New tokens are signed
/// with it; older keys are accepted until none of their tokens can be valid. A running server notices within seconds.
///
/// # Errors
/// The folder cannot be written.
pub fn rotate_signing_key(data_dir: &Path) -> io::Result<String> {
    KeyFolder::of(data_dir).rotate()
}

fn now_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Reads every key of the folder, oldest first.
fn read_all(folder: &Path) -> io::Result<Vec<(SigningKey, PathBuf)>> {
    let mut keys = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let key = read_key(&path).map_err(|error| {
                io::Error::new(error.kind(), format!("the signing key {}: {error}", path.display()))
            })?;
            keys.push((key, path));
        }
    }
    keys.sort_by(|(a, _), (b, _)| (a.created_at_ms, &a.kid).cmp(&(b.created_at_ms, &b.kid)));
    Ok(keys)
}

fn read_key(path: &Path) -> io::Result<SigningKey> {
    parse_key(&std::fs::read(path)?)
}

fn parse_key(contents: &[u8]) -> io::Result<SigningKey> {
    // The parser's error is not passed on: it might contain a part of the key.
    let invalid =
        |_| io::Error::new(io::ErrorKind::InvalidData, "this file is not one that the server wrote");
    let file: KeyFile = serde_json::from_slice(contents).map_err(|_| invalid(()))?;
    let private = STANDARD.decode(&file.private_key).map_err(|_| invalid(()))?;
    let pair = Ed25519KeyPair::from_pkcs8(&private).map_err(|_| invalid(()))?;
    let public = public_text(&pair);
    if thumbprint(&public) != file.kid {
        return Err(invalid(()));
    }
    Ok(SigningKey {
        kid: file.kid,
        encoding: EncodingKey::from_ed_der(&private),
        decoding: DecodingKey::from_ed_der(pair.public_key().as_ref()),
        public,
        created_at_ms: file.created_at_ms,
    })
}

fn public_text(pair: &Ed25519KeyPair) -> String {
    URL_SAFE_NO_PAD.encode(pair.public_key().as_ref())
}

/// RFC 7638, section 3.1: the required members in order, without spaces.
fn thumbprint(public: &str) -> String {
    let jwk = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{public}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(jwk))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use proptest::prelude::*;

    use super::*;

    const MONTH: u64 = 30 * 24 * 3_600_000;

    #[test]
    fn first_key_is_created_and_reloaded() {
        let folder = tempfile::tempdir().unwrap();
        let made = KeyFolder::of(folder.path()).load(now_ms(), MONTH).unwrap();
        let again = KeyFolder::of(folder.path()).load(now_ms(), MONTH).unwrap();
        assert_eq!(made.kids(), again.kids());
        assert_eq!(made.to_jwks(), again.to_jwks());
        let keys = folder.path().join("keys");
        assert_eq!(std::fs::metadata(&keys).unwrap().permissions().mode() & 0o777, 0o700);
        for file in std::fs::read_dir(keys).unwrap() {
            assert_eq!(file.unwrap().metadata().unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert!(!format!("{made:?}").contains("private"));
    }

    #[test]
    fn rotation_keeps_the_old_key_until_it_expires() {
        let folder = tempfile::tempdir().unwrap();
        let first = KeyFolder::of(folder.path()).load(now_ms(), MONTH).unwrap().newest().kid.clone();
        let second = rotate_signing_key(folder.path()).unwrap();
        let third = rotate_signing_key(folder.path()).unwrap();
        let ring = KeyFolder::of(folder.path()).load(now_ms(), MONTH).unwrap();
        assert_eq!(ring.kids(), [&first, &second, &third]);
        assert_eq!(ring.newest().kid, third);
        assert_eq!(ring.to_jwks()["keys"][0]["kid"], third);
        let ring = KeyFolder::of(folder.path()).load(now_ms() + MONTH + 60_000, MONTH).unwrap();
        assert_eq!(ring.kids(), [&third]);
        let ring = KeyFolder::of(folder.path()).load(now_ms() + 100 * MONTH, MONTH).unwrap();
        assert_eq!(ring.kids(), [&third], "the last one never dies");
    }

    #[test]
    fn damaged_key_is_named_but_not_shown() {
        let folder = tempfile::tempdir().unwrap();
        KeyFolder::of(folder.path()).load(now_ms(), MONTH).unwrap();
        let path = std::fs::read_dir(folder.path().join("keys")).unwrap().next().unwrap().unwrap().path();
        std::fs::write(&path, "secret, cut off").unwrap();
        let error = KeyFolder::of(folder.path()).load(now_ms(), MONTH).unwrap_err().to_string();
        assert!(error.contains(&path.display().to_string()) && !error.contains("secret"), "{error}");
    }

    #[test]
    fn keys_of_other_servers_are_checked_and_named() {
        let [from, to] = [(); 2].map(|()| tempfile::tempdir().unwrap());
        let kid = rotate_signing_key(from.path()).unwrap();
        let folder = from.path().join("keys");
        let name = key_files(&folder).unwrap().pop_first().unwrap();
        assert_eq!((&name.kid, KeyName::parse(&name.to_string())), (&kid, Some(name.clone())));
        let contents = std::fs::read(folder.join(format!("{name}.json"))).unwrap();
        put_key_file(to.path(), &contents).unwrap();
        assert_eq!(key_files(to.path()).unwrap(), [name].into());
        assert!(put_key_file(to.path(), b"{}").is_err());
        for wrong in ["", "1", "1-", "a-b", "1-../x", "-1-a"] {
            assert_eq!(KeyName::parse(wrong), None, "{wrong}");
        }
    }

    /// The example of RFC 8037, appendix A.3.
    #[test]
    fn thumbprint_matches_the_standard() {
        assert_eq!(
            thumbprint("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    proptest! {
        #[test]
        fn key_lives_until_its_tokens_have_expired(
            mut created in prop::collection::vec(0u64..1000, 1..10), now in 0u64..3000, keep in 0u64..1000,
        ) {
            created.sort_unstable();
            let dead = dead_count(&created, now, keep);
            prop_assert!(dead < created.len());
            for (number, replaced_at) in created.iter().skip(1).enumerate() {
                prop_assert_eq!(number < dead, replaced_at + keep < now);
            }
        }
    }
}
