use super::*;

fn auth(error: AuthError) -> Result<(), IdentityError> {
    Err(IdentityError::Auth(error))
}

#[tokio::test]
async fn session_is_used_refreshed_and_ended() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    let first = identity.start_session(user).await.unwrap();
    assert_eq!((first.user, first.expires_in), (user, 3600));
    let principal = fixture.access(&first).unwrap();
    assert_eq!(principal.kind, PrincipalKind::User { user, session: first.session });
    assert_eq!(principal.permissions, Permissions::MEMBER);
    assert!(!format!("{first:?}").contains(first.access_token.reveal()));

    let second = fixture.refresh(&first).await.unwrap();
    assert_eq!(second.session, first.session);
    assert_eq!(fixture.access(&second), Ok(principal));
    assert_eq!(fixture.access(&first), Ok(principal), "access tokens live out their time");
    let third = identity.refresh(RefreshProof::Access(second.access_token.reveal())).await.unwrap();

    let sessions = identity.sessions(user).await.unwrap();
    assert_eq!(sessions.len(), 1);
    assert_eq!((sessions[0].id, sessions[0].user), (first.session, user));
    assert_eq!(sessions[0].expires_at, sessions[0].refreshed_at + 30 * 24 * 3600);

    identity.revoke_session(user, first.session).await.unwrap();
    for tokens in [&first, &second, &third] {
        assert_eq!(fixture.access(tokens), Err(AuthError::SessionRevoked));
        assert_eq!(fixture.refresh(tokens).await.map(|_| ()), auth(AuthError::SessionRevoked));
    }
    assert_eq!(identity.sessions(user).await.unwrap(), []);
    let gone = IdentityError::NotFound { what: "session", id: first.session.to_string() };
    assert_eq!(identity.revoke_session(user, first.session).await, Err(gone));
}

#[tokio::test]
async fn token_used_twice_ends_the_session() {
    let fixture = Fixture::with(AuthConfig { refresh_grace_s: 0, ..AuthConfig::default() }).await;
    let user = fixture.member("somebody").await.id;
    let first = fixture.identity.start_session(user).await.unwrap();
    let other = fixture.identity.start_session(user).await.unwrap();
    let second = fixture.refresh(&first).await.unwrap();
    let third = fixture.refresh(&second).await.unwrap();
    assert_eq!(fixture.refresh(&first).await.map(|_| ()), auth(AuthError::TokenReused));
    for tokens in [&first, &second, &third] {
        assert_eq!(fixture.access(tokens), Err(AuthError::SessionRevoked));
        assert_eq!(fixture.refresh(tokens).await.map(|_| ()), auth(AuthError::SessionRevoked));
    }
    assert!(fixture.access(&other).is_ok(), "another sign-in of the user goes on");
    let fixture = fixture.restart().await;
    assert_eq!(fixture.access(&third), Err(AuthError::SessionRevoked));
    assert!(fixture.refresh(&other).await.is_ok());
}

#[tokio::test]
async fn concurrent_refreshes_get_the_same_generation() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let first = fixture.identity.start_session(user).await.unwrap();
    let (a, b, c) = tokio::join!(fixture.refresh(&first), fixture.refresh(&first), fixture.refresh(&first));
    let (a, b, c) = (a.unwrap(), b.unwrap(), c.unwrap());
    // One is refreshed; the others' tokens are of the same generation, so they count as a concurrent refresh.
    let next = fixture.refresh(&b).await.unwrap();
    assert!(fixture.refresh(&a).await.is_ok());
    assert!(fixture.refresh(&c).await.is_ok());
    assert!(fixture.refresh(&next).await.is_ok());
    // Two generations back is no concurrent refresh, however soon.
    assert_eq!(fixture.refresh(&first).await.map(|_| ()), auth(AuthError::TokenReused));
}

#[tokio::test]
async fn expired_access_token_refreshes_within_the_window() {
    let config = AuthConfig { access_token_ttl_s: 1, refresh_window_s: 3, ..AuthConfig::default() };
    let fixture = Fixture::with(config).await;
    let user = fixture.member("somebody").await.id;
    let first = fixture.identity.start_session(user).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    assert_eq!(fixture.access(&first), Err(AuthError::Expired));
    let access = first.access_token.reveal();
    let second = fixture.identity.refresh(RefreshProof::Access(access)).await.unwrap();
    assert!(fixture.access(&second).is_ok());
    tokio::time::sleep(std::time::Duration::from_millis(3100)).await;
    for proof in [
        RefreshProof::Access(second.access_token.reveal()),
        RefreshProof::Refresh(second.refresh_token.reveal()),
    ] {
        let late = fixture.identity.refresh(proof).await.map(|_| ());
        // The first attempt ends the session.
        assert!(matches!(late, Err(IdentityError::Auth(AuthError::RefreshWindowOver))), "{late:?}");
    }
}

#[tokio::test]
async fn expired_access_token_has_its_own_window() {
    let config = AuthConfig { access_token_ttl_s: 1, expired_token_refresh_s: 1, ..AuthConfig::default() };
    let fixture = Fixture::with(config).await;
    let user = fixture.member("somebody").await.id;
    let tokens = fixture.identity.start_session(user).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(2100)).await;
    let access = RefreshProof::Access(tokens.access_token.reveal());
    let late = fixture.identity.refresh(access).await.map(|_| ());
    assert_eq!(late, auth(AuthError::RefreshWindowOver));
    assert!(fixture.refresh(&tokens).await.is_ok(), "the session goes on");
}

#[tokio::test]
async fn tokens_never_outlive_their_session() {
    let config = AuthConfig { session_lifetime_s: 100, ..AuthConfig::default() };
    let fixture = Fixture::with(config).await;
    let user = fixture.member("somebody").await.id;
    let first = fixture.identity.start_session(user).await.unwrap();
    let second = fixture.refresh(&first).await.unwrap();
    for tokens in [&first, &second] {
        assert!((95..=100).contains(&tokens.expires_in), "{}", tokens.expires_in);
    }
    let session = &fixture.identity.sessions(user).await.unwrap()[0];
    assert_eq!(session.expires_at, session.created_at + 100);
    let (folder, config) = fixture.stop().await;
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let fixture = Fixture::over(folder, AuthConfig { session_lifetime_s: 1, ..config }).await;
    assert_eq!(fixture.access(&second), Err(AuthError::SessionRevoked), "a lower setting holds at once");
    assert_eq!(fixture.refresh(&second).await.map(|_| ()), auth(AuthError::RefreshWindowOver));
}

#[tokio::test]
async fn access_and_refresh_tokens_are_not_interchangeable() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let tokens = fixture.identity.start_session(user).await.unwrap();
    let (access, refresh) = (tokens.access_token.reveal(), tokens.refresh_token.reveal());
    assert_eq!(fixture.identity.authenticate(refresh), Err(AuthError::WrongType));
    for proof in [RefreshProof::Access(refresh), RefreshProof::Refresh(access)] {
        assert_eq!(fixture.identity.refresh(proof).await.map(|_| ()), auth(AuthError::WrongType));
    }
    assert!(fixture.refresh(&tokens).await.is_ok());
}

#[tokio::test]
async fn sessions_belong_to_their_user_alone() {
    let fixture = Fixture::new().await;
    let (a, b) = (fixture.member("a").await.id, fixture.member("b").await.id);
    let tokens = fixture.identity.start_session(a).await.unwrap();
    assert_eq!(fixture.identity.sessions(b).await.unwrap(), []);
    assert!(fixture.identity.revoke_session(b, tokens.session).await.is_err());
    assert!(fixture.access(&tokens).is_ok());
    let nobody = UserId::new();
    let missing = IdentityError::NotFound { what: "user", id: nobody.to_string() };
    assert_eq!(fixture.identity.start_session(nobody).await.map(|_| ()), Err(missing));
}

#[tokio::test]
async fn rotated_keys_sign_and_old_tokens_are_accepted() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let before = fixture.identity.start_session(user).await.unwrap();
    assert!(fixture.access(&before).is_ok());
    let kid = rotate_signing_key(fixture.folder.path()).unwrap();
    let newest = || fixture.identity.jwks()["keys"][0]["kid"].as_str().unwrap().to_owned();
    for _ in 0..100 {
        if newest() == kid {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(newest(), kid, "the running server notices");
    assert_eq!(fixture.identity.jwks()["keys"].as_array().unwrap().len(), 2);
    assert!(fixture.access(&before).is_ok());
    let after = fixture.refresh(&before).await.unwrap();
    assert!(fixture.access(&after).is_ok());
    let fixture = fixture.restart().await;
    assert!(fixture.access(&before).is_ok() && fixture.access(&after).is_ok());
}

#[tokio::test]
async fn tokens_of_another_server_are_refused() {
    let (ours, theirs) = (Fixture::new().await, Fixture::new().await);
    let user = theirs.member("somebody").await.id;
    let tokens = theirs.identity.start_session(user).await.unwrap();
    assert_eq!(ours.access(&tokens), Err(AuthError::UnknownSigningKey));
    let (folder, config) = ours.stop().await;
    let renamed = AuthConfig { issuer: "another".to_owned(), ..config.clone() };
    let ours = Fixture::over(folder, config).await;
    let user = ours.member("somebody").await.id;
    let tokens = ours.identity.start_session(user).await.unwrap();
    let (folder, _) = ours.stop().await;
    let ours = Fixture::over(folder, renamed).await;
    assert_eq!(ours.access(&tokens), Err(AuthError::WrongIssuer));
}
