//! Who may do what: users, API keys and login sessions.
//!
//! [`Identity`] is the edge's door. Checking a credential goes through no mailbox: it reads an index in memory
//! that is changed only after a change is on disk, so a check costs a hash and two look-ups. Everything else is a
//! message to one of two supervised actors, answered once it is on disk: [`accounts`] for users and keys, and
//! [`sessions`] for login sessions.

mod handle;
mod ids;
mod permissions;
mod signing;
mod types;

pub use handle::Identity;
pub use ids::{InvalidId, KeyId, SessionId, UserId};
pub use permissions::{Permission, Permissions};
pub use signing::rotate_signing_key;
pub use types::{
    ApiKeyRecord, AuthError, ClientNet, CreatedKey, ExternalId, ExternalProfile, IdentityError, KeyUpdate,
    NewKey, Page, Principal, PrincipalKind, RefreshProof, Secret, SessionRecord, SignIn, TokenPair, UserKind,
    UserRecord, UserUpdate,
};
