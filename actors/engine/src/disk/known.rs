//! The tenants' files as far as this worker knows them. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use jan_protocol::prefix_files::{FileId, TenantKey};
use jan_protocol::types::Token;

use super::format::Label;

/// The maximum number of tokens that are remembered, over all files; beyond it the tenants not asked about for longest are
/// forgotten and listed again when they come back.
const MAX_TOKENS: usize = 4 << 20;

/// The maximum number of tenants.
const MAX_TENANTS: usize = 4096;

/// A file and the tokens in it.
#[derive(Clone, Debug)]
pub struct KnownFile {
    /// Its number.
    pub id: FileId,
    /// Its partition.
    pub label: Label,
    /// Its tokens.
    pub tokens: Arc<[Token]>,
}

#[derive(Debug)]
struct Tenant {
    key: TenantKey,
    files: Vec<KnownFile>,
    asked: u64,
}

/// The answer to a question about a tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Best {
    /// The tenant's files are not known.
    Unlisted,
    /// No file is of use.
    Nothing,
    /// The file with the longest beginning, and its length.
    File(FileId, u32),
}

/// See the module's description.
#[derive(Debug, Default)]
pub struct Known {
    tenants: HashMap<Arc<str>, Tenant>,
    clock: u64,
}

impl Known {
    /// Notes all files of a tenant.
    pub fn list(&mut self, tenant: &Arc<str>, key: TenantKey, files: Vec<KnownFile>) {
        self.clock += 1;
        self.tenants.insert(Arc::clone(tenant), Tenant { key, files, asked: self.clock });
        while self.tenants.len() > 1 && (self.tenants.len() > MAX_TENANTS || self.tokens() > MAX_TOKENS) {
            let oldest = self.tenants.iter().min_by_key(|(_, tenant)| tenant.asked);
            let Some(oldest) = oldest.map(|(name, _)| Arc::clone(name)) else { return };
            self.tenants.remove(&oldest);
        }
    }

    fn tokens(&self) -> usize {
        self.tenants.values().flat_map(|tenant| &tenant.files).map(|file| file.tokens.len()).sum()
    }

    /// The key of a tenant that is listed.
    pub fn key(&self, tenant: &str) -> Option<TenantKey> {
        self.tenants.get(tenant).map(|tenant| tenant.key.clone())
    }

    /// The file whose tokens have the longest common beginning with `tokens`, of which the last is left out: it has to be computed
    /// for its logits. `label` computes the partition with the tenant's key.
    pub fn best(&mut self, tenant: &str, label: impl Fn(&TenantKey) -> Label, tokens: &[Token]) -> Best {
        self.clock += 1;
        let Some(known) = self.tenants.get_mut(tenant) else { return Best::Unlisted };
        known.asked = self.clock;
        if known.files.is_empty() {
            return Best::Nothing;
        }
        let (label, tokens) = (label(&known.key), &tokens[..tokens.len().saturating_sub(1)]);
        let files = known.files.iter().filter(|file| file.label == label);
        let lengths = files.map(|file| (common(&file.tokens, tokens), file));
        // Of equal ones the shortest, since all of it has to be read.
        match lengths.max_by_key(|(len, file)| (*len, std::cmp::Reverse(file.tokens.len()))) {
            Some((len, file)) if len > 0 => Best::File(file.id, u32::try_from(len).unwrap_or(u32::MAX)),
            _ => Best::Nothing,
        }
    }

    /// Returns `true` if a file holds all of `tokens` and maybe more.
    pub fn covers(&self, tenant: &str, label: &Label, tokens: &[Token]) -> bool {
        let files = self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.files);
        files.filter(|file| file.label == *label).any(|file| file.tokens.starts_with(tokens))
    }

    /// The files that hold nothing but a beginning of `tokens`.
    pub fn covered(&self, tenant: &str, label: &Label, tokens: &[Token]) -> Vec<FileId> {
        let files = self.tenants.get(tenant).into_iter().flat_map(|tenant| &tenant.files);
        let covered = files.filter(|file| file.label == *label && tokens.starts_with(&file.tokens));
        covered.map(|file| file.id).collect()
    }

    /// Notes a new file of a tenant that is listed.
    pub fn add(&mut self, tenant: &str, file: KnownFile) {
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.files.push(file);
        }
    }

    /// Forgets a file.
    pub fn remove(&mut self, tenant: &str, file: FileId) {
        if let Some(tenant) = self.tenants.get_mut(tenant) {
            tenant.files.retain(|known| known.id != file);
        }
    }
}

fn common(a: &[Token], b: &[Token]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: TenantKey = TenantKey([1; 32]);

    fn name(text: &str) -> Arc<str> {
        text.into()
    }

    fn file(id: FileId, label: u8, tokens: &[Token]) -> KnownFile {
        KnownFile { id, label: [label; 16], tokens: tokens.into() }
    }

    proptest! {
        /// What is found is really the longest beginning, of the same partition, and never all of the request.
        #[test]
        fn the_longest_beginning_is_found(
            files in prop::collection::vec((0u8..2, prop::collection::vec(0i32..2, 1..10)), 0..8),
            tokens in prop::collection::vec(0i32..2, 1..12),
        ) {
            let mut known = Known::default();
            let listed = (0..).zip(&files).map(|(id, (label, tokens))| file(id, *label, tokens)).collect();
            known.list(&name("ann"), KEY, listed);
            let shareable = &tokens[..tokens.len() - 1];
            let lengths = files.iter().filter(|(label, _)| *label == 1).map(|(_, held)| common(held, shareable));
            let longest = lengths.max().unwrap_or(0);
            match known.best("ann", |_| [1; 16], &tokens) {
                Best::Unlisted => prop_assert!(false, "it is listed"),
                Best::Nothing => prop_assert_eq!(longest, 0),
                Best::File(id, len) => {
                    let (label, held) = &files[id as usize];
                    prop_assert_eq!(*label, 1);
                    prop_assert_eq!(len as usize, longest);
                    prop_assert_eq!(&held[..longest], &tokens[..longest]);
                }
            }
            prop_assert_eq!(known.best("bob", |_| [1; 16], &tokens), Best::Unlisted);
            let covers = files.iter().any(|(label, held)| *label == 1 && held.starts_with(&tokens));
            prop_assert_eq!(known.covers("ann", &[1; 16], &tokens), covers);
        }
    }

    #[test]
    fn a_longer_file_covers_its_beginnings() {
        let mut known = Known::default();
        known.list(&name("ann"), KEY, vec![file(1, 1, &[1, 2]), file(2, 1, &[1, 3]), file(3, 2, &[1, 2])]);
        assert_eq!(known.covered("ann", &[1; 16], &[1, 2, 3]), [1]);
        known.add("ann", file(4, 1, &[1, 2, 3]));
        known.remove("ann", 1);
        assert!(known.covers("ann", &[1; 16], &[1, 2]) && !known.covers("ann", &[1; 16], &[1, 2, 3, 4]));
        known.add("bob", file(5, 1, &[1]));
        assert_eq!(known.best("bob", |_| [1; 16], &[1, 2]), Best::Unlisted);
    }

    #[test]
    fn tenants_that_are_not_asked_about_are_forgotten() {
        let mut known = Known::default();
        let long: Vec<Token> = vec![1; MAX_TOKENS / 2];
        known.list(&name("ann"), KEY, vec![file(1, 1, &long)]);
        known.list(&name("bob"), KEY, vec![file(1, 1, &long)]);
        assert_ne!(known.best("ann", |_| [1; 16], &[1, 2]), Best::Unlisted);
        known.list(&name("cleo"), KEY, vec![file(1, 1, &[1])]);
        assert_eq!(known.best("bob", |_| [1; 16], &[1, 2]), Best::Unlisted);
        assert_ne!(known.best("ann", |_| [1; 16], &[1, 2]), Best::Unlisted);
        for number in 0..MAX_TENANTS {
            known.list(&name(&number.to_string()), KEY, vec![]);
        }
        assert_eq!(known.tenants.len(), MAX_TENANTS);
        assert_eq!(known.best("ann", |_| [1; 16], &[1, 2]), Best::Unlisted);
    }
}
