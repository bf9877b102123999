//! What a principal may do: a small set, ordered by inclusion.

use std::fmt;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// One thing that a principal may do. None contains another: an administrator's credential has all three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Permission {
    /// Look at things (GET).
    Read,
    /// Change state, inference included.
    Write,
    /// Administer users, keys and the server.
    Admin,
}

impl Permission {
    /// All of them, in order.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// As in the API: `read`, `write`, `admin`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }

    /// The permission of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|permission| permission.name() == name)
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A set of permissions: a lattice under inclusion, with [`meet`](Self::meet) and [`join`](Self::join).
///
/// In JSON a list of names without order or repetition: `["read", "write"]`.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Permissions(u8);

impl Permissions {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// What a user has who is no administrator.
    pub const READ_WRITE: Self = Self(Permission::Read.bit() | Permission::Write.bit());
    /// Everything.
    pub const ALL: Self = Self(Self::READ_WRITE.0 | Permission::Admin.bit());

    /// Whether `permission` is in it.
    #[must_use]
    pub const fn contains(self, permission: Permission) -> bool {
        self.0 & permission.bit() != 0
    }

    /// Whether everything in it is in `other`, too.
    #[must_use]
    pub const fn is_subset(self, other: Self) -> bool {
        self.0 & !other.0 == 0
    }

    /// What is in both.
    #[must_use]
    pub const fn meet(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in either.
    #[must_use]
    pub const fn join(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in it and not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether it is empty.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its permissions, in order.
    pub fn iter(self) -> impl Iterator<Item = Permission> {
        Permission::ALL.into_iter().filter(move |&permission| self.contains(permission))
    }
}

impl FromIterator<Permission> for Permissions {
    fn from_iter<I: IntoIterator<Item = Permission>>(permissions: I) -> Self {
        Self(permissions.into_iter().fold(0, |bits, permission| bits | permission.bit()))
    }
}

impl From<Permission> for Permissions {
    fn from(permission: Permission) -> Self {
        Self(permission.bit())
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
                D::Error::custom(format!("unknown permission `{name}`, expected read, write or admin"))
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
        fn a_lattice(a in sets(), b in sets(), c in sets()) {
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

        /// However keys are made of keys, none has what the first maker lacks, and none is lost on the way.
        #[test]
        fn no_chain_of_meets_grants_more(first in sets(), chain in prop::collection::vec(sets(), 0..8)) {
            let last = chain.iter().fold(first, |maker, &wanted| maker.meet(wanted));
            prop_assert!(last.is_subset(first));
            prop_assert!(chain.iter().all(|&wanted| last.is_subset(wanted)));
            let lacking = chain.iter().fold(Permissions::NONE, |lacking, &wanted| {
                lacking.join(first.without(wanted))
            });
            prop_assert_eq!(last, first.without(lacking));
        }

        #[test]
        fn contains_is_membership(list in prop::collection::vec(prop::sample::select(&Permission::ALL[..]), 0..6)) {
            let set: Permissions = list.iter().copied().collect();
            for permission in Permission::ALL {
                prop_assert_eq!(set.contains(permission), list.contains(&permission));
            }
            prop_assert_eq!(set.is_empty(), list.is_empty());
            let json = serde_json::to_string(&set).unwrap();
            prop_assert_eq!(serde_json::from_str::<Permissions>(&json).unwrap(), set);
        }
    }

    #[test]
    fn names() {
        assert_eq!(Permissions::READ_WRITE.to_string(), "read, write");
        assert_eq!(serde_json::to_string(&Permissions::ALL).unwrap(), r#"["read","write","admin"]"#);
        let error = serde_json::from_str::<Permissions>(r#"["root"]"#).unwrap_err();
        assert!(error.to_string().starts_with("unknown permission `root`, expected read, write or admin"));
    }
}
