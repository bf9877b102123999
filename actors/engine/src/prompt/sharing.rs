//! The tenants that a prompt's computed beginning is shared with.
//!
//! Every caller sees in `cached_tokens`, and in the time to the first token, how much of a prompt was computed before. Were that
//! shared by all, a prompt could be guessed token by token. So a prefix is shared within a tenant (a user), and among all tenants
//! only as far as it reveals nothing: the beginning that the chat template writes, and the system prompts that the administrator
//! names.

use std::hash::{BuildHasher, RandomState};

use jan_protocol::types::Token;

use crate::types::Owner;

/// The rules of sharing.
#[derive(Debug)]
pub struct Sharing {
    /// `true` if all tenants are one.
    all: bool,
    /// Beginnings that all tenants may share.
    common: Vec<Vec<Token>>,
    /// Tenants are distinguished by a hash that no outsider can predict.
    hasher: RandomState,
}

impl Sharing {
    /// `common`: prompts whose beginnings, as far as two of them agree, may be shared by all.
    pub fn new(all: bool, common: impl IntoIterator<Item = [Vec<Token>; 2]>) -> Self {
        let agreed = |[mut one, other]: [Vec<Token>; 2]| {
            one.truncate(one.iter().zip(&other).take_while(|(a, b)| a == b).count());
            one
        };
        Self { all, common: common.into_iter().map(agreed).collect(), hasher: RandomState::new() }
    }

    /// The number of a tenant, with the key that it may give to keep its own requests apart; 0 where all share.
    pub fn tenant(&self, tenant: &str, cache_key: &str) -> u64 {
        let tenant = if self.all { "" } else { tenant };
        if tenant.is_empty() && cache_key.is_empty() {
            return 0;
        }
        self.hasher.hash_one((tenant, cache_key)).max(1)
    }

    /// What the number of [`tenant`](Self::tenant) stands for in this process.
    pub fn owner(&self, tenant: &str, cache_key: &str) -> Owner {
        let tenant = if self.all { "" } else { tenant };
        Owner { tenant: tenant.into(), cache_key: cache_key.into() }
    }

    /// Returns the number of a prompt's tokens, at its beginning, that all tenants may share.
    pub fn common(&self, prompt: &[Token]) -> u32 {
        let longest =
            self.common.iter().map(|common| common.iter().zip(prompt).take_while(|(a, b)| a == b).count());
        // No prompt is longer than a context.
        longest.max().map_or(0, |len| u32::try_from(len).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tenants_share_within_themselves() {
        let sharing = Sharing::new(false, [[vec![1, 2, 3, 4], vec![1, 2, 5]]]);
        assert_eq!(sharing.tenant("ann", ""), sharing.tenant("ann", ""));
        assert_ne!(sharing.tenant("ann", ""), sharing.tenant("bob", ""));
        assert_ne!(sharing.tenant("ann", "k"), sharing.tenant("ann", ""));
        assert_ne!(sharing.tenant("ann", "k"), sharing.tenant("annk", ""));
        assert_eq!(sharing.tenant("", ""), 0);
        assert_eq!([sharing.common(&[1, 2, 3, 4]), sharing.common(&[1, 7]), sharing.common(&[])], [2, 1, 0]);
    }

    #[test]
    fn all_can_share_but_for_their_own_keys() {
        let sharing = Sharing::new(true, []);
        assert_eq!((sharing.tenant("ann", ""), sharing.tenant("bob", "")), (0, 0));
        assert_eq!(sharing.tenant("ann", "k"), sharing.tenant("bob", "k"));
        assert_ne!(sharing.tenant("ann", "k"), 0);
    }
}
