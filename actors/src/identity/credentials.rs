//! The index of credentials that every request is checked against, and the notices that keep it current.
//!
//! The store has the truth; a server checks credentials against a mirror of it in its memory, since a check must not wait. With
//! several servers over one store, each has a mirror of its own, and a notice of every change reaches all of them. With one
//! server both are in this process: [`Index`](super::index::Index) and [`LocalNotices`], chosen in `open.rs`.

use std::fmt::Debug;
use std::net::IpAddr;
use std::sync::{Arc, PoisonError, RwLock};

use super::error::{AuthError, IdentityError};
use super::guests::{GuestLimits, GuestPlace};
use super::ids::{KeyId, SessionId, UserId};
use super::party::ClientNet;
use super::restrictions::Restrictions;
use super::types::{Origin, Principal, UserKind};
use crate::store::{Changes, KeyHash};

/// A server's mirror of users, keys and sessions, which decides whether a credential is accepted.
///
/// # Contract
///
/// - No method waits for I/O or for another server: the gate calls them on the runtime's threads with every request.
/// - What is granted is durable: a mirror learns of a change by its notice, which follows the commit.
/// - A change of a record applies for good: once a check has seen it, no later one sees the record before it.
/// - Times are arguments (epoch seconds), so that expiry depends on no notice.
/// - Uses of keys are noted in the mirror that accepted them. The store keeps the latest of all servers, so a server that ends
///   loses at most the uses that it has not [taken](Self::take_used).
pub trait CredentialIndex: Debug + Send + Sync {
    /// Returns the principal of the key with that hash, presented from that address. The hash is compared in constant time.
    ///
    /// # Errors
    /// The reason why it is not accepted.
    fn key(&self, hash: &KeyHash, from: Option<IpAddr>, now: u64) -> Result<Principal, AuthError>;

    /// Returns the principal of a session. A session that began at or before `over` has ended, regardless of its tokens, which
    /// may be older than a setting.
    ///
    /// # Errors
    /// It has ended, or its user is not allowed to use it.
    fn session(&self, user: UserId, session: SessionId, over: u64) -> Result<Principal, AuthError>;

    /// Returns whether a share link that this user created at that time still works.
    fn shows_share(&self, user: UserId, made_at: u64) -> bool;

    /// Returns the restrictions of the principal's key and of the keys that it was created with.
    fn restrictions(&self, principal: &Principal) -> Vec<Arc<Restrictions>>;

    /// Returns every key and session that a credential created and that has not ended. With several servers it may lack those
    /// whose notices are under way; callers end the credential first and search until nothing is found.
    fn made_by(&self, origin: Origin) -> Vec<Origin>;

    /// Returns the time at which a key was last accepted, as far as it is known here.
    fn last_used(&self, hash: &KeyHash) -> Option<u64>;

    /// Returns the keys used here since their use was last stored, with the time; they count as stored from now on.
    fn take_used(&self) -> Vec<(UserId, KeyId, u64)>;

    /// Returns the ids of all users of that kind. Only a hint for decisions, which read each of them in the store.
    fn users_of(&self, kind: UserKind) -> Vec<UserId>;

    /// Counts a guest that is about to be created until the result is dropped, since concurrent creations are not in the index
    /// yet. With several servers, those that create guests at the same moment may together exceed a limit by one each.
    ///
    /// # Errors
    /// [`IdentityError::TooManyGuests`].
    fn reserve_guest(&self, net: ClientNet, limits: GuestLimits) -> Result<GuestPlace, IdentityError>;
}

/// A receiver of notices.
pub trait CredentialMirror: Debug + Send + Sync {
    /// Applies changes that have become durable. Applying changes again that were the last of their records changes nothing.
    fn apply(&self, changes: &Changes);
}

/// The notices of changes to users, keys and sessions, from the server that committed them to the mirrors of all servers.
///
/// # Contract
///
/// - The commit thread publishes the changes of every decision once they are durable, in the order of their commits, and
///   acknowledges the decision afterwards. Publishing cannot fail, since there is nothing to undo any more.
/// - When [`publish`](Self::publish) returns, the mirrors of this server have applied the changes: a revocation applies to every
///   request that reaches this server after its answer.
/// - The mirrors of the other servers get the same notices in the order of the commits, soon after. From the notice on, a
///   revocation applies there, too.
/// - No notice is lost in silence. An implementation that cannot rule out a gap (a connection that broke) has the mirror loaded
///   from the store again before its server accepts further credentials.
///
/// With PostgreSQL: `NOTIFY` in the transaction that commits, which is delivered in order of the commits, and a connection with
/// `LISTEN` in each server.
pub trait CredentialNotices: Debug + Send + Sync {
    /// Passes changes that have become durable to all mirrors. Called on the commit thread only.
    fn publish(&self, changes: &Changes);

    /// A place in the line of all notices, to be taken before a decision is made.
    fn place(&self) -> u64 {
        0
    }

    /// As [`publish`](Self::publish), for the changes of a decision that was made after `place` was taken. Notices of other servers
    /// that mirrors got since then and that are newer than these changes apply again.
    fn publish_after(&self, _place: u64, changes: &Changes) {
        self.publish(changes);
    }

    /// Adds a mirror of this server, which gets all notices from now on. It is to be loaded afterwards, so that it misses none.
    fn subscribe(&self, mirror: Arc<dyn CredentialMirror>);
}

/// Notices within one process: mirrors apply changes before `publish` returns.
#[derive(Debug, Default)]
pub struct LocalNotices {
    mirrors: RwLock<Vec<Arc<dyn CredentialMirror>>>,
}

impl CredentialNotices for LocalNotices {
    fn publish(&self, changes: &Changes) {
        for mirror in self.mirrors.read().unwrap_or_else(PoisonError::into_inner).iter() {
            mirror.apply(changes);
        }
    }

    fn subscribe(&self, mirror: Arc<dyn CredentialMirror>) {
        self.mirrors.write().unwrap_or_else(PoisonError::into_inner).push(mirror);
    }
}
