use super::*;

fn profile(subject: &str, email: &str) -> ExternalProfile {
    ExternalProfile {
        id: ExternalId { issuer: "https://id.example".to_owned(), subject: subject.to_owned() },
        email: email.to_owned(),
        name: "Ann".to_owned(),
        picture: Some("https://id.example/ann.png".to_owned()),
    }
}

#[tokio::test]
async fn new_user_is_later_found_by_the_subject() {
    let fixture = Fixture::new().await;
    let first = fixture.identity.sign_in(profile("1", "Ann@example.com"), None).await.unwrap();
    assert!(first.created && first.merged_guest.is_none());
    assert_eq!(first.user.kind, UserKind::Member);
    assert_eq!(first.user.email.as_deref(), Some("ann@example.com"));
    let fixture = fixture.restart().await;
    // The address may change; the subject doesn't.
    let again = fixture.identity.sign_in(profile("1", "ann@new.example"), None).await.unwrap();
    assert!(!again.created);
    assert_eq!((again.user.id, again.user.email.as_deref()), (first.user.id, Some("ann@new.example")));
    // Another subject with the address of an existing user is not that user.
    let taken = fixture.identity.sign_in(profile("2", "ann@new.example"), None).await;
    assert_eq!(taken, Err(IdentityError::EmailTaken("ann@new.example".to_owned())));
}

#[tokio::test]
async fn user_created_by_an_administrator_is_found_by_the_address() {
    let fixture = Fixture::new().await;
    let made = fixture.member("ann").await;
    let signed_in = fixture.identity.sign_in(profile("1", "ANN@example.com"), None).await.unwrap();
    assert_eq!((signed_in.user.id, signed_in.created), (made.id, false));
    assert_eq!(signed_in.user.name, "ann", "the name that was given stays");
    let bob = fixture.member("bob").await;
    // Found by the subject, with an address that is bob's by now: bob keeps it.
    let again = fixture.identity.sign_in(profile("1", "bob@example.com"), None).await.unwrap();
    assert_eq!((again.user.id, again.user.email.as_deref()), (made.id, Some("ann@example.com")));
    assert_eq!(fixture.identity.user(bob.id).await, Ok(bob));
}

#[tokio::test]
async fn guest_becomes_a_member_and_its_old_credentials_end() {
    let fixture = Fixture::new().await;
    let guest = fixture.identity.guest(NET).await.unwrap();
    assert_eq!((guest.kind, guest.email.as_ref()), (UserKind::Guest, None));
    let tokens = fixture.identity.start_session(guest.id).await.unwrap();
    let key = fixture.key(guest.id, Permissions::READ_WRITE).await;
    let signed_in = fixture.identity.sign_in(profile("1", "ann@example.com"), Some(guest.id)).await.unwrap();
    assert_eq!((signed_in.user.id, signed_in.user.kind), (guest.id, UserKind::Member));
    assert!(signed_in.created && signed_in.merged_guest.is_none());
    assert_eq!(fixture.access(&tokens), Err(AuthError::SessionRevoked));
    assert_eq!(fixture.identity.authenticate(key.secret.reveal()), Err(AuthError::UnknownKey));
    assert!(fixture.identity.start_session(guest.id).await.is_ok());
}

#[tokio::test]
async fn guest_of_an_existing_user_is_merged() {
    let fixture = Fixture::new().await;
    let ann = fixture.identity.sign_in(profile("1", "ann@example.com"), None).await.unwrap().user;
    let guest = fixture.identity.guest(NET).await.unwrap().id;
    let tokens = fixture.identity.start_session(guest).await.unwrap();
    let signed_in = fixture.identity.sign_in(profile("1", "ann@example.com"), Some(guest)).await.unwrap();
    assert_eq!((signed_in.user.id, signed_in.merged_guest), (ann.id, Some(guest)));
    assert!(fixture.identity.user(guest).await.is_err());
    assert_eq!(fixture.access(&tokens), Err(AuthError::SessionRevoked));
}

#[tokio::test]
async fn only_a_guest_is_merged() {
    let fixture = Fixture::new().await;
    let member = fixture.member("bob").await;
    let signed_in = fixture.identity.sign_in(profile("1", "ann@example.com"), Some(member.id)).await.unwrap();
    assert_ne!(signed_in.user.id, member.id);
    assert_eq!(signed_in.merged_guest, None);
    assert_eq!(fixture.identity.user(member.id).await, Ok(member));
}

#[tokio::test]
async fn disabled_user_cannot_sign_in() {
    let fixture = Fixture::new().await;
    let ann = fixture.identity.sign_in(profile("1", "ann@example.com"), None).await.unwrap().user;
    let disable = UserUpdate { disabled: Some(true), ..UserUpdate::default() };
    fixture.identity.update_user(ann.id, disable).await.unwrap();
    let guest = fixture.identity.guest(NET).await.unwrap().id;
    let refused = fixture.identity.sign_in(profile("1", "ann@example.com"), Some(guest)).await;
    assert_eq!(refused, Err(IdentityError::Auth(AuthError::UserDisabled)));
    assert!(fixture.identity.user(guest).await.is_ok(), "nothing happens to the guest");
}
