//! Signing keys that all servers of one database have: each keeps them in its own data folder, and they are exchanged through the
//! database, encrypted with the contents of `storage.key_file`, which every server has.
//!
//! A key that one server makes, at its first start or by a rotation, is in the database within a second and in the folders of the
//! others a second later, where they notice it as one that an operator made. A key that has expired goes from everywhere.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use aws_lc_rs::aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey};
use aws_lc_rs::hkdf;

use super::signing::{KeyName, dead_count, key_files, put_key_file};
use crate::store::files::{create_private_folder, read_key_file};
use crate::store::{StoreError, Stores};

/// The action needed for a folder and a database to have the same keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Exchange {
    /// Keys of the database that the folder lacks.
    pull: Vec<KeyName>,
    /// Keys of the folder that the database lacks.
    push: Vec<KeyName>,
    /// Keys that no token needs any more.
    dead: Vec<KeyName>,
}

impl Exchange {
    fn of(folder: &BTreeSet<KeyName>, database: &BTreeSet<KeyName>, now_ms: u64, keep_ms: u64) -> Self {
        let all: Vec<_> = folder.union(database).cloned().collect();
        let created: Vec<_> = all.iter().map(|key| key.created_at_ms).collect();
        let dead = dead_count(&created, now_ms, keep_ms);
        let (dead, alive) = all.split_at(dead);
        let lacking = |there: &BTreeSet<KeyName>| -> Vec<_> {
            alive.iter().filter(|key| !there.contains(*key)).cloned().collect()
        };
        Self { pull: lacking(folder), push: lacking(database), dead: dead.to_vec() }
    }
}

/// The signing keys of a data folder, shared through the database.
pub struct SharedKeys {
    folder: PathBuf,
    key: RandomizedNonceKey,
    keep_ms: u64,
}

impl fmt::Debug for SharedKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedKeys").field("folder", &self.folder).finish_non_exhaustive()
    }
}

impl SharedKeys {
    /// The keys in the folder `keys` of a data folder, encrypted with the contents of a file. A replaced key is kept for
    /// `keep_ms`.
    ///
    /// # Errors
    /// The key file cannot be read, or has a size that no key has.
    pub fn new(data_dir: &Path, key_file: &Path, keep_ms: u64) -> io::Result<Self> {
        let named = |error: io::Error| {
            io::Error::new(error.kind(), format!("{} (storage.key_file): {error}", key_file.display()))
        };
        let secret = read_key_file(key_file).map_err(named)?;
        let unspecified = |_| io::Error::other("no key can be derived from it");
        let secret = hkdf::Salt::new(hkdf::HKDF_SHA256, b"jan-server secrets").extract(&secret);
        let mut key = [0; 32];
        let info = [b"signing keys".as_slice()];
        let derived = secret.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut key));
        derived.map_err(unspecified).map_err(named)?;
        let key = RandomizedNonceKey::new(&AES_256_GCM, &key).map_err(unspecified).map_err(named)?;
        Ok(Self { folder: data_dir.join("keys"), key, keep_ms })
    }

    /// Exchanges keys until folder and database have the same.
    ///
    /// # Errors
    /// The database or the folder failed, or a key was encrypted with another key file.
    pub async fn exchange(&self, stores: &dyn Stores, now_ms: u64) -> io::Result<()> {
        let failed = |error: StoreError| io::Error::other(error.to_string());
        create_private_folder(&self.folder)?;
        let sealed = stores.secrets().await.map_err(failed)?;
        let database: BTreeSet<_> = sealed.iter().filter_map(|(name, _)| KeyName::parse(name)).collect();
        let folder = key_files(&self.folder)?;
        let Exchange { pull, push, dead } = Exchange::of(&folder, &database, now_ms, self.keep_ms);
        for (name, sealed) in &sealed {
            if KeyName::parse(name).is_some_and(|name| pull.contains(&name)) {
                put_key_file(&self.folder, &self.open(name, sealed)?)?;
            }
        }
        let mut add = Vec::with_capacity(push.len());
        for name in push.iter().map(KeyName::to_string) {
            let contents = std::fs::read(self.folder.join(format!("{name}.json")))?;
            add.push((name.clone(), self.seal(&name, contents)?));
        }
        let remove: Vec<String> =
            dead.iter().filter(|name| database.contains(*name)).map(KeyName::to_string).collect();
        if !add.is_empty() || !remove.is_empty() {
            stores.change_secrets(add, remove).await.map_err(failed)?;
        }
        Ok(())
    }

    /// Encrypts a key under its name.
    fn seal(&self, name: &str, mut contents: Vec<u8>) -> io::Result<Vec<u8>> {
        let nonce = self.key.seal_in_place_append_tag(Aad::from(name), &mut contents);
        let nonce = nonce.map_err(|_| io::Error::other("a signing key cannot be encrypted"))?;
        Ok([nonce.as_ref().as_slice(), &contents].concat())
    }

    /// Decrypts a key.
    fn open(&self, name: &str, sealed: &[u8]) -> io::Result<Vec<u8>> {
        let wrong = || {
            let message = "a signing key in the database was encrypted with another key file, or is damaged; every server \
                           needs the same storage.key_file";
            io::Error::new(io::ErrorKind::InvalidData, message)
        };
        let (nonce, rest) = sealed.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
        let mut contents = rest.to_vec();
        let nonce = Nonce::assume_unique_for_key(*nonce);
        let opened = self.key.open_in_place(nonce, Aad::from(name), &mut contents).map_err(|_| wrong())?;
        Ok(opened.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name(at: u64) -> KeyName {
        KeyName { created_at_ms: at, kid: format!("kid{at}") }
    }

    fn names(times: &BTreeSet<u64>) -> BTreeSet<KeyName> {
        times.iter().copied().map(name).collect()
    }

    fn key_file(bytes: &[u8]) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        file
    }

    #[test]
    fn keys_are_read_with_the_same_file_and_name_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (one, other) = (key_file(&[1; 32]), key_file(&[2; 32]));
        let keys = |file: &tempfile::NamedTempFile| SharedKeys::new(folder.path(), file.path(), 1).unwrap();
        let sealed = keys(&one).seal("1-a", b"a private key".to_vec()).unwrap();
        assert!(!sealed.windows(7).any(|part| part == b"private"));
        assert_eq!(keys(&one).open("1-a", &sealed).unwrap(), b"a private key");
        let wrong = keys(&other).open("1-a", &sealed).unwrap_err().to_string();
        assert!(wrong.contains("storage.key_file"), "{wrong}");
        assert!(keys(&one).open("1-b", &sealed).is_err() && keys(&one).open("1-a", &sealed[..9]).is_err());
        let short = SharedKeys::new(folder.path(), key_file(b"short").path(), 1).unwrap_err().to_string();
        assert!(short.contains("storage.key_file") && short.contains("16"), "{short}");
    }

    proptest! {
        /// Whatever each of two servers has, both have all that lives after some exchanges, and nothing of the rest comes back.
        #[test]
        fn folders_and_database_become_the_same(
            one: BTreeSet<u8>, two: BTreeSet<u8>, database: BTreeSet<u8>, now in 0u64..600, keep in 0u64..300,
        ) {
            let times = |set: BTreeSet<u8>| set.into_iter().map(u64::from).collect::<BTreeSet<_>>();
            let mut folders = [names(&times(one)), names(&times(two))];
            let mut database = names(&times(database));
            let all: BTreeSet<_> = folders[0].union(&folders[1]).chain(&database).cloned().collect();
            for server in [0, 1, 0, 1] {
                let Exchange { pull, push, dead } = Exchange::of(&folders[server], &database, now, keep);
                folders[server].extend(pull);
                database.extend(push);
                for key in &dead {
                    database.remove(key);
                }
                // As when the folder is read.
                folders[server].retain(|key| !dead.contains(key));
            }
            prop_assert_eq!(&folders[0], &database);
            prop_assert_eq!(&folders[1], &database);
            prop_assert_eq!(database.last(), all.last(), "the newest one stays");
        }
    }
}
