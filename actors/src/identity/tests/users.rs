use super::*;

#[tokio::test]
async fn made_listed_changed_and_deleted() {
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
async fn deleting_ends_every_credential() {
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
async fn disabling_refuses_every_credential_and_enabling_takes_them_back() {
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
async fn guests_nobody_can_be_are_forgotten() {
    let fixture = Fixture::new().await;
    let (with_session, with_key, alone) = (
        fixture.identity.guest().await.unwrap().id,
        fixture.identity.guest().await.unwrap().id,
        fixture.identity.guest().await.unwrap().id,
    );
    fixture.identity.start_session(with_session).await.unwrap();
    fixture.key(with_key, Permissions::READ_WRITE).await;
    let member = fixture.member("m").await.id;
    let (sender, changes) = std::sync::mpsc::channel();
    let all = [with_session, with_key, alone, member];
    fixture.identity.desk_for_tests().store.read(move |stores| {
        let stores = stores.unwrap();
        let at = |before| super::super::users::forget_guests(stores, &all, before).unwrap().accounts;
        sender.send((at(0), at(u64::MAX))).unwrap();
    });
    let (recent, old) = changes.recv().unwrap();
    assert_eq!(recent, []);
    assert_eq!(old, [crate::store::AccountChange::DeleteUser(alone)]);
}
