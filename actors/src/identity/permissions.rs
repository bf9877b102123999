//! Permissions of a principal: a small set, ordered by inclusion.
//!
//! A route requires a [`Right`]. Callers use [`Permission`]s, each of which grants several rights, so that a route can be open to
//! a permission that is narrower than another. [`Permissions`] is a set of rights.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A single right that a route requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// Read models and stored responses.
    ReadInference,
    /// Run models, and store or delete their responses.
    Infer,
    /// Read one's conversations.
    ReadConversations,
    /// Change one's conversations.
    WriteConversations,
    /// Read one's usage.
    ReadUsage,
    /// Read one's keys and sessions.
    ReadKeys,
    /// Create, change and end one's keys, sessions and account.
    ManageKeys,
    /// Read one's account and the server's state.
    ReadAccount,
    /// Change one's name.
    WriteAccount,
    /// Administer users, keys and the server.
    Administer,
}

impl Right {
    const fn bit(self) -> u16 {
        1 << self as u16
    }

    /// Returns the permissions that grant this right, the usual one first.
    pub fn granted_by(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |permission| permission.rights().has(self))
    }

    /// Returns the permission that usually grants this right.
    #[must_use]
    pub fn usual(self) -> Permission {
        self.granted_by().next().unwrap_or(Permission::Admin)
    }
}

/// A permission of a key: a name for several rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Read everything of one's own (GET).
    Read,
    /// Inference, embeddings, responses, conversations, one's own name.
    Write,
    /// Manage one's keys, sessions and account.
    Keys,
    /// Administer users, keys and the server.
    Admin,
    /// The part of `read` and `write` that concerns inference: models, answers, responses, embeddings.
    Inference,
    /// The part of `read` and `write` that concerns conversations.
    Conversations,
    /// The part of `read` that concerns one's usage.
    Usage,
}

impl Permission {
    /// All permissions in order; those contained in others come last.
    pub const ALL: [Self; 7] =
        [Self::Read, Self::Write, Self::Keys, Self::Admin, Self::Inference, Self::Conversations, Self::Usage];

    /// Returns the name as in the API.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Keys => "keys",
            Self::Admin => "admin",
            Self::Inference => "inference",
            Self::Conversations => "conversations",
            Self::Usage => "usage",
        }
    }

    /// Returns the permission of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    /// Returns all names, for messages: `` `read`, `write` ``.
    #[must_use]
    pub fn names() -> String {
        Self::ALL.map(|permission| format!("`{permission}`")).join(", ")
    }

    /// Returns the rights that it grants.
    #[must_use]
    pub const fn rights(self) -> Permissions {
        let rights: &[Right] = match self {
            Self::Read => &[
                Right::ReadInference,
                Right::ReadConversations,
                Right::ReadUsage,
                Right::ReadKeys,
                Right::ReadAccount,
            ],
            Self::Write => &[Right::Infer, Right::WriteConversations, Right::WriteAccount],
            Self::Keys => &[Right::ReadKeys, Right::ManageKeys],
            Self::Admin => &[Right::Administer],
            Self::Inference => &[Right::ReadInference, Right::Infer],
            Self::Conversations => &[Right::ReadConversations, Right::WriteConversations],
            Self::Usage => &[Right::ReadUsage],
        };
        let (mut bits, mut at) = (0, 0);
        while at < rights.len() {
            bits |= rights[at].bit();
            at += 1;
        }
        Permissions(bits)
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of rights: a lattice under inclusion, with [`meet`](Self::meet) and [`join`](Self::join).
///
/// In JSON a list of permission names without order or repetition: `["read", "write"]`. A set made of names reads back as the
/// same set.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Permissions(u16);

impl Permissions {
    /// No right.
    pub const NONE: Self = Self(0);
    /// Every right except managing keys and administering.
    pub const READ_WRITE: Self = Permission::Read.rights().join(Permission::Write.rights());
    /// The rights of a user who is not an administrator.
    pub const MEMBER: Self = Self::READ_WRITE.join(Permission::Keys.rights());
    /// Every right.
    pub const ALL: Self = Self::MEMBER.join(Permission::Admin.rights());

    /// Returns whether the set contains `right`.
    #[must_use]
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }

    /// Returns whether the set grants everything that `permission` does.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        permission.rights().is_subset(self)
    }

    /// Returns whether every right of the set is also in `other`.
    #[must_use]
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// Returns the intersection.
    #[must_use]
    pub const fn meet(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// Returns the union.
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Returns those of its permissions that `other` does not grant completely.
    #[must_use]
    pub fn lacking(self, other: Self) -> Self {
        self.iter().filter(|&permission| !other.contains(permission)).collect()
    }

    /// Returns whether the set is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Returns the permissions that the set grants completely, in order, without those contained in earlier ones.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        let mut said = Self::NONE;
        Permission::ALL.into_iter().filter(move |&permission| {
            let news = self.contains(permission) && !permission.rights().is_subset(said);
            if news {
                said = said.join(permission.rights());
            }
            news
        })
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        permissions.into_iter().fold(Self::NONE, |set, permission| set.join(permission.rights()))
    }
}

impl From<Permission> for Permissions {
    fn from(permission: Permission) -> Self {
        permission.rights()
    }
}

impl fmt::Debug for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter()).finish()
    }
}

/// `read, write`
impl fmt::Display for Permissions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, permission) in self.iter().enumerate() {
            f.write_str(if number == 0 { "" } else { ", " })?;
            f.write_str(permission.name())?;
        }
        Ok(())
    }
}

impl Serialize for Permissions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter())
    }
}

impl<'de> Deserialize<'de> for Permissions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = Vec::<String>::deserialize(deserializer)?;
        let permission = |name: &String| {
            Permission::from_name(name).ok_or_else(|| {
                D::Error::custom(format!(
                    "unknown permission `{name}`, expected one of {}",
                    Permission::names()
                ))
            })
        };
        names.iter().map(permission).collect()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sets() -> impl Strategy<Value = Permissions> {
        prop::collection::vec(prop::sample::select(&Permission::ALL[..]), 0..6)
            .prop_map(|permissions| permissions.into_iter().collect())
    }

    proptest! {
        /// The laws of a bounded distributive lattice, and that inclusion is its order.
        #[test]
        fn permissions_form_a_lattice(a in sets(), b in sets(), c in sets()) {
            prop_assert_eq!(a.meet(b), b.meet(a));
            prop_assert_eq!(a.join(b), b.join(a));
            prop_assert_eq!(a.meet(b.meet(c)), a.meet(b).meet(c));
            prop_assert_eq!(a.join(b.join(c)), a.join(b).join(c));
            prop_assert_eq!(a.meet(a.join(b)), a);
            prop_assert_eq!(a.join(a.meet(b)), a);
            prop_assert_eq!(a.meet(b.join(c)), a.meet(b).join(a.meet(c)));
            prop_assert_eq!(a.is_subset(b), a.meet(b) == a);
            prop_assert_eq!(a.is_subset(b), a.join(b) == b);
            prop_assert!(Permissions::NONE.is_subset(a) && a.is_subset(Permissions::ALL));
            prop_assert!(!(a.is_subset(b) && b.is_subset(a)) || a == b);
            prop_assert!(!(a.is_subset(b) && b.is_subset(c)) || a.is_subset(c));
        }

        /// For any chain of keys created with keys, none has rights that the first maker lacks, and no right is lost on the way.
        #[test]
        fn chains_of_meets_never_grant_more(first in sets(), chain in prop::collection::vec(sets(), 0..8)) {
            let last = chain.iter().fold(first, |maker, &wanted| maker.meet(wanted));
            prop_assert!(last.is_subset(first));
            prop_assert!(chain.iter().all(|&wanted| last.is_subset(wanted)));
            prop_assert!(last.lacking(first).is_empty());
        }

        /// A set that lacks nothing is a subset, and a subset lacks nothing.
        #[test]
        fn lacking_names_the_excess(wanted in sets(), had in sets()) {
            let lacking = wanted.lacking(had);
            prop_assert_eq!(lacking.is_empty(), wanted.is_subset(had));
            prop_assert!(lacking.is_subset(wanted));
            prop_assert!(lacking.iter().all(|permission| !had.contains(permission)));
        }

        #[test]
        fn contains_is_membership(list in prop::collection::vec(prop::sample::select(&Permission::ALL[..]), 0..6)) {
            let set: Permissions = list.iter().copied().collect();
            for &permission in &list {
                prop_assert!(set.contains(permission));
            }
            for permission in Permission::ALL {
                prop_assert_eq!(set.contains(permission), permission.rights().is_subset(set));
            }
            prop_assert_eq!(set.is_empty(), list.is_empty());
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<Permissions>(&json).unwrap(), set, "{}", json);
        }
    }

    #[test]
    fn names() {
        assert_eq!(Permissions::READ_WRITE.to_string(), "read, write");
        assert_eq!(serde_json::to_string(&Permissions::ALL).unwrap(), r#"["read","write","keys","admin"]"#);
        let error = serde_json::from_str::<Permissions>(r#"["root"]"#).unwrap_err();
        assert!(error.to_string().starts_with("unknown permission `root`, expected one of `read`, `write`"));
    }

    #[test]
    fn permissions_grant_their_rights() {
        let (read, write) = (Permission::Read.rights(), Permission::Write.rights());
        assert!(read.meet(write).is_empty());
        assert!(!Permissions::READ_WRITE.has(Right::ManageKeys), "managing keys is apart");
        assert!(!Permissions::MEMBER.has(Right::Administer));
        assert_eq!(Right::Infer.usual(), Permission::Write);
        assert_eq!(Right::ReadKeys.usual(), Permission::Read);
        assert_eq!(Right::ManageKeys.granted_by().collect::<Vec<_>>(), [Permission::Keys]);
        assert_eq!(Right::Infer.granted_by().collect::<Vec<_>>(), [Permission::Write, Permission::Inference]);
        let scopes = [Permission::Inference, Permission::Conversations, Permission::Usage];
        assert!(scopes.iter().all(|scope| scope.rights().is_subset(Permissions::READ_WRITE)));
        let (inference, write) = (Permission::Inference.rights(), Permission::Write.rights());
        assert_eq!(inference.join(write).to_string(), "write, inference");
        assert_eq!(inference.join(Permissions::READ_WRITE).to_string(), "read, write");
        assert!(!inference.has(Right::ReadConversations) && !inference.has(Right::ReadAccount));
    }
}
