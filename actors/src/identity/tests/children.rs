//! Keys that are created and changed with keys: at no time does one grant more than the one that it was created with.

use std::collections::HashMap;

use proptest::prelude::*;

use super::super::{api_keys, secret, sessions};
use super::crash::World;
use super::*;
use crate::identity::family::FamilyRules;

const NOW: u64 = 1000;

#[derive(Clone, Debug)]
enum Action {
    /// Creates a key with that one, or with a session.
    Make(Option<prop::sample::Index>, Permissions, Option<u64>, LimitOverrides),
    /// Changes the second with the first, or with a session.
    Change(Option<prop::sample::Index>, prop::sample::Index, KeyUpdate),
    Revoke(prop::sample::Index),
    Restart,
}

fn permissions() -> impl Strategy<Value = Permissions> {
    prop::collection::vec(prop::sample::select(&Permission::ALL[..]), 1..4)
        .prop_map(|permissions| permissions.into_iter().chain([Permission::Keys]).collect())
}

fn expiry() -> impl Strategy<Value = Option<u64>> {
    prop::option::of(NOW + 1..NOW + 20)
}

fn limits() -> impl Strategy<Value = LimitOverrides> {
    (prop::option::of(0u32..4), prop::option::of(0u32..4)).prop_map(
        |(requests_per_hour, tokens_per_minute)| LimitOverrides {
            requests_per_hour,
            tokens_per_minute,
            ..LimitOverrides::default()
        },
    )
}

fn actions() -> impl Strategy<Value = Vec<Action>> {
    let update = (prop::option::of(permissions()), prop::option::of(expiry()), prop::option::of(limits()));
    let update = update.prop_map(|(permissions, expires_at, limits)| KeyUpdate {
        permissions,
        expires_at,
        limits,
        ..KeyUpdate::default()
    });
    let with = || prop::option::weighted(0.8, any::<prop::sample::Index>());
    let action = prop_oneof![
        4 => (with(), permissions(), expiry(), limits())
            .prop_map(|(with, permissions, expiry, limits)| Action::Make(with, permissions, expiry, limits)),
        5 => (with(), any::<prop::sample::Index>(), update)
            .prop_map(|(with, target, update)| Action::Change(with, target, update)),
        1 => any::<prop::sample::Index>().prop_map(Action::Revoke),
        1 => Just(Action::Restart),
    ];
    prop::collection::vec(action, 1..40)
}

/// Returns whether a limit is no more than another; 0 is none.
fn at_most(a: Option<u32>, b: Option<u32>) -> bool {
    match (a.filter(|&a| a > 0), b.filter(|&b| b > 0)) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(a), Some(b)) => a <= b,
    }
}

fn is_no_more(a: &ApiKeyRecord, b: &ApiKeyRecord) -> bool {
    a.permissions.is_subset(b.permissions)
        && b.expires_at.is_none_or(|latest| a.expires_at.is_some_and(|expires_at| expires_at <= latest))
        && at_most(a.limits.requests_per_hour, b.limits.requests_per_hour)
        && at_most(a.limits.tokens_per_minute, b.limits.tokens_per_minute)
}

/// Every key created: its secret and its last answer.
type Made = Vec<(Secret, ApiKeyRecord)>;

fn ancestors(made: &Made, key: &ApiKeyRecord) -> Vec<usize> {
    let at: HashMap<KeyId, usize> = made.iter().enumerate().map(|(at, (_, key))| (key.id, at)).collect();
    let mut next = key.parent;
    let mut found = Vec::new();
    while let Some(parent) = next {
        found.push(at[&parent]);
        next = made[at[&parent]].1.parent;
    }
    found
}

fn check(world: &World, made: &Made) -> Result<(), TestCaseError> {
    for now in [NOW, NOW + 10] {
        let accepted =
            |key: &(Secret, ApiKeyRecord)| world.writer.index.key(&secret::hash(key.0.reveal()), None, now);
        for key in made {
            let above = ancestors(made, &key.1);
            let answer = accepted(key);
            let lives = |key: &ApiKeyRecord| {
                key.revoked_at.is_none() && key.expires_at.is_none_or(|expires_at| now < expires_at)
            };
            let should = lives(&key.1) && above.iter().all(|&at| lives(&made[at].1));
            prop_assert_eq!(answer.is_ok(), should, "{:?} {:?}", answer, key.1);
            let Ok(principal) = answer else { continue };
            prop_assert!(principal.permissions.is_subset(key.1.permissions));
            prop_assert!(above.len() <= MAX_PARENTS);
            for (place, &at) in principal.parents.iter().zip(&above) {
                let parent = accepted(&made[at]).unwrap();
                prop_assert!(principal.permissions.is_subset(parent.permissions));
                prop_assert_eq!(*place, Some((made[at].1.id, made[at].1.limits)), "its limits count, too");
            }
            prop_assert!(principal.parents[above.len()..].iter().all(Option::is_none));
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn keys_never_exceed_their_parent(actions in actions()) {
        let mut world = World::new();
        let user = world.user;
        let rules = FamilyRules { window_s: 1000, grace_s: 10, lifetime_s: 1000 };
        let session = world.run(move |stores| async move { sessions::start(&*stores, user, None, NOW, rules).await }).unwrap().grant.session;
        let mut made = Made::new();
        for action in actions {
            let maker = |made: &Made, with: Option<prop::sample::Index>| match with {
                Some(with) if !made.is_empty() => {
                    let (secret, key) = &made[with.index(made.len())];
                    let principal = world.writer.index.key(&secret::hash(secret.reveal()), None, NOW).ok();
                    principal.map(|principal| (Maker::from(&principal), Some(key.clone())))
                }
                _ => Some((
                    Maker {
                        permissions: Permissions::MEMBER,
                        with: Some(Origin { user, with: CredentialId::Session(session) }),
                    },
                    None,
                )),
            };
            match action {
                Action::Make(with, permissions, expires_at, limits) => {
                    let Some((maker, with)) = maker(&made, with) else { continue };
                    let key = NewKey { expires_at, limits, ..new_key("k", permissions) };
                    let answer = world.run(move |stores| async move { api_keys::create(&*stores, user, maker, key, NOW).await });
                    let Ok(created) = answer else { continue };
                    prop_assert_eq!(created.record.parent, with.as_ref().map(|key| key.id));
                    if let Some(with) = &with {
                        prop_assert!(is_no_more(&created.record, with), "{:?} {:?}", created.record, with);
                    }
                    made.push((created.secret, created.record));
                }
                Action::Change(with, target, update) => {
                    let Some((maker, with)) = maker(&made, with) else { continue };
                    if made.is_empty() { continue }
                    let target = target.index(made.len());
                    let before = made[target].1.clone();
                    let key = before.id;
                    let answer =
                        world.run(move |stores| async move { api_keys::update(&*stores, user, key, maker, update, NOW).await });
                    let Ok(after) = answer else { continue };
                    let above = ancestors(&made, &before);
                    let made_with = |id| above.iter().any(|&at| made[at].1.id == id);
                    if let Some(with) = with
                        && !made_with(with.id)
                    {
                        prop_assert!(is_no_more(&after, &before), "{:?} {:?}", after, before);
                    }
                    made[target].1 = after;
                }
                Action::Revoke(target) => {
                    if made.is_empty() { continue }
                    let target = target.index(made.len());
                    let key = made[target].1.id;
                    if world.run(move |stores| async move { api_keys::revoke(&*stores, user, key, NOW).await }).is_ok() {
                        made[target].1.revoked_at = Some(NOW);
                    }
                }
                Action::Restart => world = world.restart(),
            }
            check(&world, &made)?;
        }
    }
}

#[tokio::test]
async fn child_ends_with_its_parent() {
    let fixture = Fixture::new().await;
    let identity = &fixture.identity;
    let user = fixture.member("somebody").await.id;
    let mut last = fixture.key(user, Permissions::MEMBER).await;
    let root = last.record.id;
    let mut secrets = vec![last.secret.clone()];
    for _ in 0..MAX_PARENTS {
        let maker = identity.authenticate(last.secret.reveal()).unwrap();
        last = identity.create_key(user, &maker, new_key("child", Permissions::MEMBER)).await.unwrap();
        secrets.push(last.secret.clone());
    }
    let maker = identity.authenticate(last.secret.reveal()).unwrap();
    let further = identity.create_key(user, &maker, new_key("child", Permissions::MEMBER)).await.unwrap_err();
    assert_eq!(further, IdentityError::TooManyParents { limit: MAX_PARENTS });
    assert_eq!(identity.keys(user).await.unwrap().len(), 4);

    identity.revoke_key(user, root).await.unwrap();
    for secret in &secrets {
        assert_eq!(identity.authenticate(secret.reveal()), Err(AuthError::RevokedKey));
    }
    assert_eq!(identity.keys(user).await.unwrap(), []);
    assert!(identity.key(user, last.record.id).await.is_err());
    // A request sent before the end is decided after it: it creates no key.
    let late = identity.create_key(user, &maker, new_key("late", Permissions::MEMBER)).await.unwrap_err();
    assert_eq!(late, IdentityError::Auth(AuthError::RevokedKey));
    let fixture = fixture.restart().await;
    for secret in &secrets {
        assert_eq!(fixture.identity.authenticate(secret.reveal()), Err(AuthError::RevokedKey));
    }
}
