//! The contract of the index of credentials and of its notices, as tests that run on any implementation.
//!
//! A new implementation gets a function that makes [`Servers`] and a line in [`suite`].

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::credentials::{CredentialIndex, CredentialNotices, LocalNotices};
use super::super::family::Family;
use super::super::guests::GuestLimits;
use super::super::{CredentialId, Origin, PrincipalKind, Restrictions, new_member};
use super::*;
use crate::store::{AccountChange, Changes, KeyHash, SessionChange, StoredSession};

/// Servers over the same credentials.
struct Servers {
    servers: Vec<Server>,
    /// Returns once every notice has reached every server.
    settle: fn(),
}

/// The parts of one server.
struct Server {
    index: Arc<dyn CredentialIndex>,
    notices: Arc<dyn CredentialNotices>,
}

type NewServers = fn(usize) -> Servers;

/// Servers in one process.
fn local(number: usize) -> Servers {
    let notices = Arc::new(LocalNotices::default());
    let server = || {
        let index = Arc::new(Index::default());
        notices.subscribe(Arc::clone(&index) as _);
        Server { index, notices: Arc::clone(&notices) as _ }
    };
    Servers { servers: (0..number).map(|_| server()).collect(), settle: || () }
}

macro_rules! suite {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;

            #[test]
            fn uses_of_keys_are_taken_once_and_where_they_were() {
                super::uses_of_keys_are_taken_once_and_where_they_were(super::$name);
            }

            #[test]
            fn guests_are_counted_while_they_are_created_and_afterwards() {
                super::guests_are_counted_while_they_are_created_and_afterwards(super::$name);
            }

            #[test]
            fn descendants_are_found_until_they_end() {
                super::descendants_are_found_until_they_end(super::$name);
            }

            proptest! {
                #[test]
                fn changes_apply_in_order_on_every_server(steps in prop::collection::vec(step(), 1..60)) {
                    super::changes_apply_in_order_on_every_server(super::$name, steps)?;
                }
            }
        }
    )* };
}

suite! { local }

const NOW: u64 = 1000;

/// Subjects of the changes: two users, three keys each, one session each.
const USERS: usize = 2;
const KEYS: usize = 6;

#[derive(Clone, Debug)]
enum Change {
    PutUser(usize, bool),
    DeleteUser(usize),
    /// Key, revoked, time of expiry.
    PutKey(usize, bool, Option<u64>),
    DeleteKey(usize),
    PutSession(usize),
    EndSession(usize),
}

/// A change, and the server that commits it.
fn step() -> impl Strategy<Value = (Change, usize)> {
    let expiry = prop::option::weighted(0.3, prop_oneof![Just(NOW - 1), Just(NOW), Just(NOW + 1)]);
    let change = prop_oneof![
        3 => (0..USERS, prop::bool::weighted(0.3)).prop_map(|(user, disabled)| Change::PutUser(user, disabled)),
        1 => (0..USERS).prop_map(Change::DeleteUser),
        4 => (0..KEYS, prop::bool::weighted(0.3), expiry).prop_map(|(key, revoked, at)| Change::PutKey(key, revoked, at)),
        1 => (0..KEYS).prop_map(Change::DeleteKey),
        3 => (0..USERS).prop_map(Change::PutSession),
        2 => (0..USERS).prop_map(Change::EndSession),
    ];
    (change, 0..2usize)
}

fn hash_of(key: usize) -> KeyHash {
    [u8::try_from(key).unwrap() + 1; 32]
}

fn key_of(id: KeyId, user: UserId) -> ApiKeyRecord {
    ApiKeyRecord {
        id,
        user,
        name: "k".to_owned(),
        hint: "sk-jan-…".to_owned(),
        permissions: Permissions::READ_WRITE,
        created_at: 1,
        last_used_at: None,
        expires_at: None,
        revoked_at: None,
        limits: LimitOverrides::default(),
        only: Restrictions::default(),
        parent: None,
        made_by: Vec::new(),
    }
}

fn session_of(id: SessionId, user: UserId) -> StoredSession {
    StoredSession { id, user, created_at: NOW, family: Family::new(NOW), made_by: Vec::new() }
}

/// The expected state: the users with whether they are disabled, keys, sessions.
#[derive(Default)]
struct Model {
    users: BTreeMap<usize, bool>,
    keys: BTreeMap<usize, ApiKeyRecord>,
    sessions: BTreeMap<usize, bool>,
}

impl Model {
    fn key(&self, key: usize) -> Result<(), AuthError> {
        let record = self.keys.get(&key).ok_or(AuthError::UnknownKey)?;
        if record.revoked_at.is_some() {
            return Err(AuthError::RevokedKey);
        }
        if record.expires_at.is_some_and(|at| at <= NOW) {
            return Err(AuthError::ExpiredKey);
        }
        match self.users.get(&(key % USERS)) {
            None => Err(AuthError::UnknownKey),
            Some(true) => Err(AuthError::UserDisabled),
            Some(false) => Ok(()),
        }
    }

    fn session(&self, user: usize) -> Result<(), AuthError> {
        match (self.sessions.contains_key(&user), self.users.get(&user)) {
            (false, _) | (_, None) => Err(AuthError::SessionRevoked),
            (true, Some(true)) => Err(AuthError::UserDisabled),
            (true, Some(false)) => Ok(()),
        }
    }
}

fn changes_apply_in_order_on_every_server(
    servers: NewServers,
    steps: Vec<(Change, usize)>,
) -> Result<(), TestCaseError> {
    let Servers { servers, settle } = servers(2);
    let members = [(); USERS].map(|()| new_member(UserKind::Member));
    let users = [0, 1].map(|user| members[user].id);
    let key_ids = [(); KEYS].map(|()| KeyId::new());
    let session_ids = [(); USERS].map(|()| SessionId::new());
    let mut model = Model::default();
    let check = |server: &Server, model: &Model| -> Result<(), TestCaseError> {
        for key in 0..KEYS {
            let found = server.index.key(&hash_of(key), None, NOW);
            prop_assert_eq!(found.as_ref().map(|_| ()).map_err(Clone::clone), model.key(key));
            if let Ok(principal) = found {
                let kind = PrincipalKind::Key { user: users[key % USERS], key: key_ids[key] };
                prop_assert_eq!(principal.kind, kind);
            }
        }
        for user in 0..USERS {
            let found = server.index.session(users[user], session_ids[user], NOW - 1);
            prop_assert_eq!(found.map(|_| ()), model.session(user));
            let over = server.index.session(users[user], session_ids[user], NOW);
            prop_assert!(over.is_err(), "a session that began too long ago");
            prop_assert_eq!(server.index.shows_share(users[user], 1), model.users.get(&user) == Some(&false));
        }
        let mut found = server.index.users_of(UserKind::Member);
        found.sort_unstable();
        let mut expected: Vec<_> = model.users.keys().map(|user| users[*user]).collect();
        expected.sort_unstable();
        prop_assert_eq!(found, expected);
        Ok(())
    };
    for (change, by) in steps {
        let changes = match change {
            Change::PutUser(user, disabled) => {
                model.users.insert(user, disabled);
                Changes::accounts(vec![AccountChange::PutUser(UserRecord {
                    disabled,
                    ..members[user].clone()
                })])
            }
            Change::DeleteUser(user) => {
                model.users.remove(&user);
                model.keys.retain(|key, _| key % USERS != user);
                model.sessions.remove(&user);
                Changes::accounts(vec![AccountChange::DeleteUser(users[user])])
            }
            Change::PutKey(key, revoked, expires_at) => {
                let revoked_at = revoked.then_some(NOW);
                let record =
                    ApiKeyRecord { revoked_at, expires_at, ..key_of(key_ids[key], users[key % USERS]) };
                model.keys.insert(key, record.clone());
                Changes::accounts(vec![AccountChange::PutKey(hash_of(key), record)])
            }
            Change::DeleteKey(key) => {
                model.keys.remove(&key);
                let record = key_of(key_ids[key], users[key % USERS]);
                Changes::accounts(vec![AccountChange::DeleteKey(hash_of(key), record)])
            }
            Change::PutSession(user) => {
                model.sessions.insert(user, true);
                Changes::sessions(vec![SessionChange::Put(session_of(session_ids[user], users[user]))])
            }
            Change::EndSession(user) => {
                model.sessions.remove(&user);
                Changes::sessions(vec![SessionChange::End(users[user], session_ids[user])])
            }
        };
        // At once on the server that committed it, and on the others from the notice on.
        servers[by].notices.publish(&changes);
        check(&servers[by], &model)?;
        settle();
        for server in &servers {
            check(server, &model)?;
        }
    }
    Ok(())
}

/// Servers that know one user with one key.
fn with_a_key(servers: NewServers, number: usize) -> (Servers, ApiKeyRecord) {
    let servers = servers(number);
    let user = new_member(UserKind::Member);
    let key = key_of(KeyId::new(), user.id);
    servers.servers[0].notices.publish(&Changes::accounts(vec![
        AccountChange::PutUser(user),
        AccountChange::PutKey(hash_of(0), key.clone()),
    ]));
    (servers.settle)();
    (servers, key)
}

fn uses_of_keys_are_taken_once_and_where_they_were(servers: NewServers) {
    let (Servers { servers, settle }, key) = with_a_key(servers, 2);
    let [a, b] = &servers[..] else { unreachable!("two were asked for") };
    assert_eq!(a.index.last_used(&hash_of(0)), None);
    a.index.key(&hash_of(0), None, NOW).unwrap();
    a.index.key(&hash_of(0), None, NOW - 5).unwrap();
    assert_eq!(a.index.last_used(&hash_of(0)), Some(NOW));
    assert_eq!(a.index.take_used(), [(key.user, key.id, NOW)]);
    assert_eq!((a.index.take_used(), b.index.take_used()), (vec![], vec![]));
    // A use that is newer than the stored one outlasts a change of the key.
    b.index.key(&hash_of(0), None, NOW + 9).unwrap();
    let stored = ApiKeyRecord { last_used_at: Some(NOW), ..key.clone() };
    a.notices.publish(&Changes::accounts(vec![AccountChange::PutKey(hash_of(0), stored)]));
    settle();
    assert_eq!(b.index.last_used(&hash_of(0)), Some(NOW + 9));
    assert_eq!(b.index.take_used(), [(key.user, key.id, NOW + 9)]);
    assert_eq!(a.index.take_used(), []);
}

fn guests_are_counted_while_they_are_created_and_afterwards(servers: NewServers) {
    let Servers { servers, settle } = servers(1);
    let server = &servers[0];
    let limits = GuestLimits { per_net: 2, all: 3 };
    let there = ClientNet::V4([192, 0, 2, 9]);
    let (first, second) =
        (server.index.reserve_guest(NET, limits).unwrap(), server.index.reserve_guest(NET, limits).unwrap());
    assert!(matches!(
        server.index.reserve_guest(NET, limits),
        Err(IdentityError::TooManyGuests { limit: 2, .. })
    ));
    let guest = UserRecord { guest_net: Some(NET), ..new_member(UserKind::Guest) };
    let id = guest.id;
    server.notices.publish(&Changes::accounts(vec![AccountChange::PutUser(guest)]));
    drop((first, second));
    settle();
    let place = server.index.reserve_guest(NET, limits).unwrap();
    assert!(server.index.reserve_guest(NET, limits).is_err());
    let other = server.index.reserve_guest(there, limits).unwrap();
    assert!(matches!(
        server.index.reserve_guest(there, limits),
        Err(IdentityError::TooManyGuests { limit: 3, .. })
    ));
    drop((place, other));
    server.notices.publish(&Changes::accounts(vec![AccountChange::DeleteUser(id)]));
    settle();
    let places = [NET, NET].map(|net| server.index.reserve_guest(net, limits));
    assert!(places.iter().all(Result::is_ok));
}

fn descendants_are_found_until_they_end(servers: NewServers) {
    let (Servers { servers, settle }, key) = with_a_key(servers, 2);
    let [a, b] = &servers[..] else { unreachable!("two were asked for") };
    let origin = Origin { user: key.user, with: CredentialId::Key(key.id) };
    let made_by = vec![origin];
    let (made, session) = (KeyId::new(), SessionId::new());
    let made_key = ApiKeyRecord { made_by: made_by.clone(), ..key_of(made, key.user) };
    a.notices.publish(&Changes {
        accounts: vec![AccountChange::PutKey(hash_of(1), made_key.clone())],
        sessions: vec![SessionChange::Put(StoredSession { made_by, ..session_of(session, key.user) })],
        ..Changes::default()
    });
    settle();
    let found =
        |server: &Server| server.index.made_by(origin).iter().map(|made| made.with).collect::<Vec<_>>();
    assert_eq!(found(b), [CredentialId::Key(made), CredentialId::Session(session)]);
    b.notices.publish(&Changes {
        accounts: vec![AccountChange::PutKey(hash_of(1), ApiKeyRecord { revoked_at: Some(1), ..made_key })],
        sessions: vec![SessionChange::End(key.user, session)],
        ..Changes::default()
    });
    settle();
    assert_eq!((found(a), found(b)), (vec![], vec![]));
}
