use std::os::unix::fs::PermissionsExt;

use super::*;

#[tokio::test]
async fn first_start_creates_an_administrator_with_all_permissions() {
    let fixture = Fixture::new().await;
    assert!(fixture.admin_key.new);
    assert_eq!(fixture.admin_key.path, fixture.folder.path().join("admin.key"));
    let mode = std::fs::metadata(&fixture.admin_key.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let principal = fixture.identity.authenticate(&fixture.admin_secret()).unwrap();
    assert_eq!(principal.permissions, Permissions::ALL);
    assert_eq!(principal.user_kind, Some(UserKind::Admin));

    let secret = fixture.admin_secret();
    let fixture = fixture.restart().await;
    assert!(!fixture.admin_key.new, "and the next start makes none");
    assert_eq!(fixture.admin_secret(), secret);
    assert_eq!(fixture.identity.authenticate(&secret), Ok(principal));
    assert_eq!(fixture.identity.users(None, 10).await.unwrap().items.len(), 1);
}

#[tokio::test]
async fn key_file_may_be_moved() {
    let fixture = Fixture::new().await;
    let secret = fixture.admin_secret();
    std::fs::remove_file(&fixture.admin_key.path).unwrap();
    let fixture = fixture.restart().await;
    assert!(!fixture.admin_key.path.exists());
    assert!(fixture.identity.authenticate(&secret).is_ok());
}

#[tokio::test]
async fn crash_between_file_and_store_leaves_no_administrator_without_a_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("admin.key"), "of a start that was killed").unwrap();
    let fixture = Fixture::over(folder, AuthConfig::default()).await;
    assert!(fixture.admin_key.new);
    assert!(fixture.identity.authenticate(&fixture.admin_secret()).is_ok());
}

#[tokio::test]
async fn last_administrator_remains() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let admin = identity.authenticate(&fixture.admin_secret()).unwrap().user().unwrap();
    let last = Err(IdentityError::LastAdmin);
    let disable = UserUpdate { disabled: Some(true), ..UserUpdate::default() };
    let demote = UserUpdate { kind: Some(UserKind::Member), ..UserUpdate::default() };
    assert_eq!(identity.update_user(admin, disable.clone()).await, last);
    assert_eq!(identity.update_user(admin, demote.clone()).await, last);
    assert_eq!(identity.delete_user(admin).await, Err(IdentityError::LastAdmin));

    let second = fixture.member("second").await.id;
    let promote = UserUpdate { kind: Some(UserKind::Admin), ..UserUpdate::default() };
    identity.update_user(second, promote).await.unwrap();
    // Both at once: one of the two must remain.
    let (a, b) = tokio::join!(identity.delete_user(admin), identity.update_user(second, disable));
    assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
}

#[tokio::test]
async fn permissions_follow_the_users_kind() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let promote = UserUpdate { kind: Some(UserKind::Admin), ..UserUpdate::default() };
    fixture.identity.update_user(user, promote).await.unwrap();
    let key = fixture.key(user, Permissions::ALL).await;
    let permissions = || fixture.identity.authenticate(key.secret.reveal()).unwrap().permissions;
    assert_eq!(permissions(), Permissions::ALL);
    let demote = UserUpdate { kind: Some(UserKind::Member), ..UserUpdate::default() };
    fixture.identity.update_user(user, demote).await.unwrap();
    assert_eq!(permissions(), Permissions::MEMBER, "the key grants no more than its user has");
}
