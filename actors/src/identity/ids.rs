//! Ids of users, keys and sessions: a prefix that names the kind, and a UUID version 7 ([RFC 9562]), so that ids sort by time of
//! creation and cannot be guessed from one another.
//!
//! [RFC 9562]: https://www.rfc-editor.org/rfc/rfc9562

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A text that is not an id of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id of this kind reads `{prefix}` and 32 hexadecimal digits")]
pub struct InvalidId {
    /// The prefix of ids of this kind.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Uuid);

        impl $name {
            /// The prefix of the text form.
            pub const PREFIX: &'static str = $prefix;

            /// Creates a new, unique id.
            #[must_use]
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }

            /// Returns the 16 bytes, which sort in the order of creation.
            #[must_use]
            pub const fn to_bytes(self) -> [u8; 16] {
                self.0.into_bytes()
            }

            /// Returns the id of these bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(Uuid::from_bytes(bytes))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}{}", $prefix, self.0.as_simple())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;

            fn from_str(text: &str) -> Result<Self, InvalidId> {
                let digits = text.strip_prefix($prefix).filter(|digits| digits.len() == 32);
                let uuid = digits.and_then(|digits| Uuid::try_parse(digits).ok());
                uuid.map(Self).ok_or(InvalidId { prefix: $prefix })
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;

            fn try_from(text: String) -> Result<Self, InvalidId> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.to_string()
            }
        }
    };
}

pub(crate) use id;

id!(
    /// A user's id, `user_…`.
    UserId,
    "user_"
);
id!(
    /// An API key's id, `key_…`. Not the secret.
    KeyId,
    "key_"
);
id!(
    /// A login session's id, `sess_…`.
    SessionId,
    "sess_"
);

impl SessionId {
    /// Returns the time of creation (epoch seconds) that the id contains.
    pub(crate) const fn made_at_s(self) -> u64 {
        let [a, b, c, d, e, f, ..] = self.0.into_bytes();
        u64::from_be_bytes([0, 0, a, b, c, d, e, f]) / 1000
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip() {
        let id = UserId::new();
        assert_eq!(id.to_string().len(), 5 + 32);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(UserId::from_bytes(id.to_bytes()), id);
        let json = serde_json::to_string(&id).unwrap();
        assert_eq!(serde_json::from_str::<UserId>(&json).unwrap(), id);
    }

    #[test]
    fn ids_contain_their_creation_time() {
        let now = crate::identity::now_s();
        assert!(SessionId::new().made_at_s().abs_diff(now) <= 1);
        assert_eq!(SessionId::from_bytes([0; 16]).made_at_s(), 0);
    }

    #[test]
    fn other_texts_are_refused() {
        let hyphenated = format!("user_{}", Uuid::now_v7());
        for text in ["", "user_", "key_0", &KeyId::new().to_string(), &hyphenated, "user_zz"] {
            assert_eq!(text.parse::<UserId>(), Err(InvalidId { prefix: "user_" }), "{text}");
        }
    }

    #[test]
    fn ids_sort_by_time() {
        let ids: Vec<_> = (0..100).map(|_| KeyId::new()).collect();
        assert!(ids.is_sorted());
    }
}
