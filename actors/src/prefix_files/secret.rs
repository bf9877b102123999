//! The secret behind the files of the prefix cache, and what is derived from it.
//!
//! Files are encrypted and authenticated under keys derived from one secret: the contents of `storage.kv_key_file`, or a random
//! one that lies beside the files. In the second case the encryption protects against mixing up tenants and models and
//! against damage, not against somebody who can read the data folder.

use std::io;
use std::path::Path;

use aws_lc_rs::hkdf;
use jan_protocol::prefix_files::TenantKey;

use crate::store::files::{read_key_file, write_private};

/// A name derived from the secret: it reveals nothing of what it names and can be computed again after a restart.
pub type Tag = [u8; 16];

/// The secret.
pub struct Secret(hkdf::Prk);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret")
    }
}

impl Secret {
    /// The secret in a key file.
    ///
    /// # Errors
    /// It cannot be read, or its size is not that of a key.
    pub fn of_key_file(path: &Path) -> io::Result<Self> {
        read_key_file(path).map(|bytes| Self::new(&bytes))
    }

    /// The secret of this installation, which is made at the first start.
    ///
    /// # Errors
    /// The system's error.
    pub fn of_installation(path: &Path) -> io::Result<Self> {
        match std::fs::read(path) {
            Ok(bytes) if bytes.len() == 32 => return Ok(Self::new(&bytes)),
            // Another one loses nothing but a cache.
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).map_err(io::Error::other)?;
        write_private(path, &bytes)?;
        Ok(Self::new(&bytes))
    }

    fn new(bytes: &[u8]) -> Self {
        Self(hkdf::Salt::new(hkdf::HKDF_SHA256, b"jan-server prefix files").extract(bytes))
    }

    fn derive(&self, purpose: &str, parts: &[&[u8]]) -> [u8; 32] {
        let mut info = Vec::new();
        for part in std::iter::once(purpose.as_bytes()).chain(parts.iter().copied()) {
            info.extend_from_slice(&(part.len() as u64).to_le_bytes());
            info.extend_from_slice(part);
        }
        let mut derived = [0; 32];
        let info = [&info[..]];
        let expanded = self.0.expand(&info, hkdf::HKDF_SHA256).and_then(|okm| okm.fill(&mut derived));
        expanded.expect("32 bytes are the length of HKDF_SHA256's keys");
        derived
    }

    /// The tag of `value`, which says nothing about it without the secret.
    pub fn tag(&self, purpose: &str, value: &[u8]) -> Tag {
        let mut tag = Tag::default();
        tag.copy_from_slice(&self.derive(purpose, &[value])[..16]);
        tag
    }

    /// The key of a tenant's files of a model.
    pub fn tenant_key(&self, model: &[u8; 32], tenant: &str) -> TenantKey {
        TenantKey(self.derive("key", &[model, tenant.as_bytes()]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_model_and_tenant() {
        let secret = Secret::new(&[7; 32]);
        let keys = [
            secret.tenant_key(&[1; 32], "ann"),
            secret.tenant_key(&[2; 32], "ann"),
            secret.tenant_key(&[1; 32], "bob"),
            Secret::new(&[8; 32]).tenant_key(&[1; 32], "ann"),
        ];
        for (index, key) in keys.iter().enumerate() {
            assert!(!keys[..index].contains(key));
        }
        assert_eq!(keys[0], Secret::new(&[7; 32]).tenant_key(&[1; 32], "ann"));
        assert_ne!(secret.tag("a", b"x"), secret.tag("b", b"x"));
    }

    #[test]
    fn the_secret_of_an_installation_stays_and_is_private() {
        use std::os::unix::fs::PermissionsExt;

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let tag = Secret::of_installation(&path).unwrap().tag("a", b"x");
        assert_eq!(Secret::of_installation(&path).unwrap().tag("a", b"x"), tag);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        std::fs::write(&path, "short").unwrap();
        assert_ne!(Secret::of_installation(&path).unwrap().tag("a", b"x"), tag);
    }

    #[test]
    fn key_files_have_the_size_of_keys() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        for (size, accepted) in [(0, false), (15, false), (16, true), (65_536, true), (65_537, false)] {
            std::fs::write(&path, vec![b'x'; size]).unwrap();
            assert_eq!(Secret::of_key_file(&path).is_ok(), accepted, "{size}");
        }
        assert!(Secret::of_key_file(&folder.path().join("absent")).is_err());
    }
}
