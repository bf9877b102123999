//! Crashed actors, too many calls, and what remains available meanwhile.

use super::*;

#[tokio::test]
async fn crashed_actors_are_restarted_without_loss() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let key = fixture.key(user, Permissions::READ_WRITE).await;
    let tokens = fixture.identity.start_session(user).await.unwrap();
    for _ in 0..4 {
        fixture.identity.kill_actors_for_tests().await;
        assert!(fixture.identity.authenticate(key.secret.reveal()).is_ok(), "needs no actor");
        assert!(fixture.access(&tokens).is_ok());
        assert_eq!(fixture.identity.keys(user).await.unwrap().len(), 1);
        assert_eq!(fixture.identity.sessions(user).await.unwrap().len(), 1);
    }
    assert!(fixture.refresh(&tokens).await.is_ok());
}

#[tokio::test]
async fn calls_during_a_crash_are_answered_or_refused_and_never_partial() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let calls = (0..50).map(|number| {
        let identity = fixture.identity.clone();
        tokio::spawn(async move {
            let key = new_key(&format!("{number}"), Permissions::READ_WRITE);
            identity.create_key(user, Permissions::ALL, key).await
        })
    });
    let calls: Vec<_> = calls.collect();
    fixture.identity.kill_actors_for_tests().await;
    let mut made = Vec::new();
    for call in calls {
        match call.await.unwrap() {
            Ok(key) => made.push(key),
            Err(error) => assert!(matches!(error, IdentityError::Unavailable { .. }), "{error}"),
        }
    }
    let crashed = fixture.crash().await;
    for key in &made {
        assert!(fixture.identity.authenticate(key.secret.reveal()).is_ok());
        assert!(crashed.identity.authenticate(key.secret.reveal()).is_ok());
    }
}

#[tokio::test]
async fn many_writers_share_the_disk() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let start = std::time::Instant::now();
    let sessions = (0..2000).map(|_| fixture.identity.start_session(user));
    let sessions = futures_util::future::join_all(sessions).await;
    assert!(sessions.iter().all(Result::is_ok));
    let took = start.elapsed();
    eprintln!("2000 sessions at a time, each on disk when answered: {took:?}");
    assert!(took < std::time::Duration::from_secs(20), "{took:?}");
}

#[tokio::test]
async fn calls_above_the_maximum_are_refused_at_once() {
    let fixture = Fixture::new().await;
    let user = fixture.member("somebody").await.id;
    let calls = (0..5000).map(|_| fixture.identity.user(user));
    let answers = futures_util::future::join_all(calls).await;
    let busy = answers.iter().filter(|answer| matches!(answer, Err(IdentityError::Busy { .. }))).count();
    assert!((1..=5000 - 4096).contains(&busy), "{busy}");
    assert!(fixture.identity.user(user).await.is_ok());
}
