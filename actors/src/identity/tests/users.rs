use super::super::users::{GuestRetention, forget_guests};
use super::*;
use crate::store::{AccountChange, KeyHash, block_on};

const DAY: u64 = 86_400;

#[tokio::test]
async fn users_are_created_listed_changed_and_deleted() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let a = identity.create_user(" Ann@Example.COM ", " Ann ").await.unwrap();
    assert_eq!(
        (a.email.as_deref(), a.name.as_str(), a.kind),
        (Some("ann@example.com"), "Ann", UserKind::Member)
    );
    let taken = identity.create_user("ANN@example.com", "Another").await;
    assert_eq!(taken, Err(IdentityError::EmailTaken("ann@example.com".to_owned())));
    for email in ["", "ann", "@example.com", "ann@", "a b@c.d", &format!("{}@x", "a".repeat(300))] {
        let refused = identity.create_user(email, "Ann").await.unwrap_err();
        assert!(matches!(refused, IdentityError::Invalid { field: "email", .. }), "{email}");
    }
    let b = fixture.member("b").await;
    let page = identity.users(None, 2).await.unwrap();
    assert!(page.has_more);
    let rest = identity.users(Some(page.items[1].id), 2).await.unwrap();
    assert_eq!((rest.items, rest.has_more), (vec![b.clone()], false));

    let limits = LimitOverrides { inference_per_minute: Some(1), ..LimitOverrides::default() };
    let update = UserUpdate { name: Some("Bea".to_owned()), limits: Some(limits), ..UserUpdate::default() };
    let changed = identity.update_user(b.id, update).await.unwrap();
    assert_eq!(identity.user(b.id).await, Ok(changed.clone()));
    assert_eq!((changed.name.as_str(), changed.limits, changed.email), ("Bea", limits, b.email));

    identity.delete_user(b.id).await.unwrap();
    let gone = IdentityError::NotFound { what: "user", id: b.id.to_string() };
    assert_eq!(identity.user(b.id).await, Err(gone.clone()));
    assert_eq!(identity.delete_user(b.id).await, Err(gone));
    fixture.member("b").await;
}

#[tokio::test]
async fn deletion_ends_every_credential() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let key = fixture.key(user, Permissions::READ_WRITE).await;
    let tokens = fixture.identity.start_session(user).await.unwrap();
    fixture.identity.delete_user(user).await.unwrap();
    let check = |fixture: &Fixture| {
        assert_eq!(fixture.identity.authenticate(key.secret.reveal()), Err(AuthError::UnknownKey));
        assert_eq!(fixture.access(&tokens), Err(AuthError::SessionRevoked));
    };
    check(&fixture);
    let revoked = Err(IdentityError::Auth(AuthError::SessionRevoked));
    assert_eq!(fixture.refresh(&tokens).await.map(|_| ()), revoked);
    check(&fixture.restart().await);
}

#[tokio::test]
async fn disabling_refuses_every_credential_until_enabling() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    let key = fixture.key(user, Permissions::READ_WRITE).await;
    let tokens = identity.start_session(user).await.unwrap();
    let disabled = |disabled| UserUpdate { disabled: Some(disabled), ..UserUpdate::default() };
    identity.update_user(user, disabled(true)).await.unwrap();
    assert_eq!(identity.authenticate(key.secret.reveal()), Err(AuthError::UserDisabled));
    assert_eq!(fixture.access(&tokens), Err(AuthError::UserDisabled));
    let refused = Err(IdentityError::Auth(AuthError::UserDisabled));
    assert_eq!(fixture.refresh(&tokens).await.map(|_| ()), refused);
    assert_eq!(identity.start_session(user).await.map(|_| ()), refused);
    let made = identity.create_key(user, Permissions::ALL, new_key("k", Permissions::READ_WRITE)).await;
    assert_eq!(made.map(|_| ()), refused);
    identity.update_user(user, disabled(false)).await.unwrap();
    assert!(identity.authenticate(key.secret.reveal()).is_ok());
    assert!(fixture.access(&tokens).is_ok());
    assert!(fixture.refresh(&tokens).await.is_ok());
}

#[tokio::test]
async fn unused_guests_are_deleted_with_their_credentials() {
    let fixture = Fixture::new().await;
    let (with_session, with_key, alone) = (
        fixture.identity.guest(NET).await.unwrap().id,
        fixture.identity.guest(NET).await.unwrap().id,
        fixture.identity.guest(NET).await.unwrap().id,
    );
    fixture.identity.start_session(with_session).await.unwrap();
    fixture.key(with_key, Permissions::READ_WRITE).await;
    let member = fixture.member("m").await.id;
    let (sender, changes) = std::sync::mpsc::channel();
    let all = [with_session, with_key, alone, member];
    fixture.identity.writer_for_tests().store.read(move |stores| {
        let stores = stores.unwrap();
        let retention = GuestRetention { idle_s: 10 * DAY, access_ttl_s: 3600 };
        let used_yesterday = |_: &_| Some(now_s() + 11 * DAY);
        let at = |now, used: &(dyn Fn(&KeyHash) -> Option<u64> + Send + Sync)| {
            let changes = block_on(forget_guests(&*stores, &all, retention, now, used)).unwrap();
            let deleted = changes.accounts.iter().filter_map(|change| match change {
                AccountChange::DeleteUser(id) => Some(*id),
                _ => None,
            });
            (deleted.collect::<Vec<_>>(), changes.sessions.len(), changes.accounts.len())
        };
        let now = now_s();
        let never = |_: &_| None;
        sender.send(at(now + DAY / 2, &never)).unwrap();
        sender.send(at(now + 2 * DAY, &never)).unwrap();
        sender.send(at(now + 12 * DAY, &used_yesterday)).unwrap();
        sender.send(at(now + 12 * DAY, &never)).unwrap();
    });
    assert_eq!(changes.recv().unwrap(), (vec![], 0, 0));
    assert_eq!(changes.recv().unwrap(), (vec![alone], 0, 1), "nobody can be that one any more");
    assert_eq!(changes.recv().unwrap(), (vec![with_session, alone], 1, 2), "the other's key is in use");
    assert_eq!(
        changes.recv().unwrap(),
        (vec![with_session, with_key, alone], 1, 4),
        "a key does not keep a guest"
    );
}

#[tokio::test]
async fn guests_are_bounded_by_network_and_in_all_across_restarts() {
    let config = AuthConfig { max_guests_per_address: 2, max_guests: 3, ..AuthConfig::default() };
    let fixture = Fixture::with(config).await;
    let (here, there) = (NET, ClientNet::V6([0x20, 1, 0xd, 0xb8, 0, 0, 0, 7]));
    let made = futures_util::future::join_all((0..8).map(|_| fixture.identity.guest(here))).await;
    let guests: Vec<UserId> = made.iter().flatten().map(|guest| guest.id).collect();
    assert_eq!(guests.len(), 2, "also when they are made at the same time");
    let fixture = fixture.restart().await;
    let refused = |limit| move |made: Result<UserRecord, IdentityError>| matches!(made, Err(IdentityError::TooManyGuests { limit: told, .. }) if told == limit);
    assert!(refused(2)(fixture.identity.guest(here).await));
    fixture.identity.guest(there).await.unwrap();
    assert!(refused(3)(fixture.identity.guest(there).await));
    // A guest that signs in or is deleted no longer counts as a guest.
    let profile = ExternalProfile {
        id: ExternalId { issuer: "i".to_owned(), subject: "s".to_owned() },
        email: "ann@example.com".to_owned(),
        name: String::new(),
        picture: None,
    };
    let signed_in = fixture.identity.sign_in(profile, Some(guests[0])).await.unwrap();
    assert_eq!((signed_in.user.id, signed_in.user.guest_net), (guests[0], None));
    fixture.identity.delete_user(guests[1]).await.unwrap();
    fixture.identity.guest(here).await.unwrap();
    fixture.identity.guest(here).await.unwrap();
    assert!(refused(2)(fixture.identity.guest(here).await));
}
