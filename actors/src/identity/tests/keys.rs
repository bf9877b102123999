use super::*;

#[tokio::test]
async fn key_is_created_used_and_revoked() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    let read = Permissions::from(Permission::Read);
    let key = fixture.key(user, read).await;
    let principal = identity.authenticate(key.secret.reveal()).unwrap();
    assert_eq!(principal.kind, PrincipalKind::Key { user, key: key.record.id });
    assert_eq!(principal.permissions, read);
    assert!(principal.may(Right::ReadUsage) && !principal.may(Right::Infer));

    let listed = identity.keys(user).await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].last_used_at.is_some(), "known before it is written down");
    assert_eq!(identity.key(user, key.record.id).await.unwrap(), listed[0]);
    let text = format!("{listed:?} {key:?}");
    assert!(!text.contains(key.secret.reveal()));

    identity.revoke_key(user, key.record.id).await.unwrap();
    assert_eq!(identity.authenticate(key.secret.reveal()), Err(AuthError::RevokedKey));
    assert_eq!(identity.keys(user).await.unwrap(), []);
    let gone = IdentityError::NotFound { what: "API key", id: key.record.id.to_string() };
    assert_eq!(identity.key(user, key.record.id).await, Err(gone.clone()));
    assert_eq!(identity.revoke_key(user, key.record.id).await, Err(gone));
    let fixture = fixture.restart().await;
    assert_eq!(fixture.identity.authenticate(key.secret.reveal()), Err(AuthError::RevokedKey));
}

#[tokio::test]
async fn wrong_keys_are_refused() {
    let fixture = Fixture::new().await;
    let key = fixture.admin_secret();
    let mut other = key.clone();
    other.replace_range(20..21, if &key[20..21] == "A" { "B" } else { "A" });
    assert_eq!(fixture.identity.authenticate(&other), Err(AuthError::UnknownKey));
    for text in ["sk-jan-", &key[..key.len() - 1], &format!("{key}0"), "sk-jan-../../etc"] {
        assert_eq!(fixture.identity.authenticate(text), Err(AuthError::Malformed), "{text}");
    }
}

#[tokio::test]
async fn keys_expire() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    let past = NewKey { expires_at: Some(now_s()), ..new_key("k", Permissions::READ_WRITE) };
    let refused = identity.create_key(user, Permissions::ALL, past).await.unwrap_err();
    assert!(matches!(refused, IdentityError::Invalid { field: "expires_at", .. }), "{refused}");
    let soon = NewKey { expires_at: Some(now_s() + 2), ..new_key("k", Permissions::READ_WRITE) };
    let key = identity.create_key(user, Permissions::ALL, soon).await.unwrap();
    assert!(identity.authenticate(key.secret.reveal()).is_ok());
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    assert_eq!(identity.authenticate(key.secret.reveal()), Err(AuthError::ExpiredKey));
    let longer = KeyUpdate { expires_at: Some(None), ..KeyUpdate::default() };
    identity.update_key(user, key.record.id, Permissions::ALL, longer).await.unwrap();
    assert!(identity.authenticate(key.secret.reveal()).is_ok());
}

#[tokio::test]
async fn keys_grant_no_more_than_their_maker_and_user_have() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    let read = Permissions::from(Permission::Read);
    let lacking = |permission| IdentityError::ExceedsMaker { lacking: Permissions::from(permission) };
    let make = |maker, wanted| identity.create_key(user, maker, new_key("k", wanted));
    assert_eq!(make(read, Permissions::READ_WRITE).await.unwrap_err(), lacking(Permission::Write));
    assert_eq!(make(Permissions::ALL, Permissions::ALL).await.unwrap_err(), lacking(Permission::Admin));
    let empty = make(Permissions::ALL, Permissions::NONE).await.unwrap_err();
    assert!(matches!(empty, IdentityError::Invalid { field: "permissions", .. }));
    let key = make(read, read).await.unwrap().record.id;
    let widen = KeyUpdate { permissions: Some(Permissions::READ_WRITE), ..KeyUpdate::default() };
    let widened = identity.update_key(user, key, read, widen.clone()).await;
    assert_eq!(widened.unwrap_err(), lacking(Permission::Write));
    let widened = identity.update_key(user, key, Permissions::ALL, widen).await.unwrap();
    assert_eq!(widened.permissions, Permissions::READ_WRITE);
}

#[tokio::test]
async fn keys_belong_to_their_user_alone() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let (a, b) = (fixture.member("a").await.id, fixture.member("b").await.id);
    let key = fixture.key(a, Permissions::READ_WRITE).await.record.id;
    let gone = IdentityError::NotFound { what: "API key", id: key.to_string() };
    assert_eq!(identity.key(b, key).await, Err(gone.clone()));
    assert_eq!(identity.revoke_key(b, key).await, Err(gone.clone()));
    let update = identity.update_key(b, key, Permissions::ALL, KeyUpdate::default()).await;
    assert_eq!(update, Err(gone));
    assert_eq!(identity.keys(b).await.unwrap(), []);
}

#[tokio::test]
async fn names_are_checked_and_limits_are_stored() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    for name in ["", "  ", "a\nb", &"x".repeat(201)] {
        let refused = identity.create_key(user, Permissions::ALL, new_key(name, Permissions::ALL)).await;
        assert!(refused.is_err(), "{name}");
    }
    let limits = LimitOverrides { requests_per_hour: Some(7), ..LimitOverrides::default() };
    let key = NewKey { limits, ..new_key(" k ", Permissions::READ_WRITE) };
    let key = identity.create_key(user, Permissions::ALL, key).await.unwrap();
    assert_eq!(key.record.name, "k");
    assert_eq!(identity.authenticate(key.secret.reveal()).unwrap().key_limits, limits);
}

#[tokio::test]
async fn last_use_of_a_key_is_stored() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let key = fixture.key(user, Permissions::READ_WRITE).await;
    fixture.identity.authenticate(key.secret.reveal()).unwrap();
    let fixture = fixture.restart().await;
    let record = fixture.identity.key(user, key.record.id).await.unwrap();
    assert!(record.last_used_at.is_some_and(|at| now_s() - at < 60));
}
