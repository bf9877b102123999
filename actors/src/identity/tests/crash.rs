//! Refresh families on a real disk, through any interleaving of refresh, reuse, logout, crash and restart.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, mpsc};

use proptest::prelude::*;

use super::super::call::IdentityWriter;
use super::super::credentials::{CredentialNotices, LocalNotices};
use super::super::family::{Family, FamilyRules, Presented};
use super::super::index::Index;
use super::super::token::Grant;
use super::super::{sessions, users};
use super::*;
use crate::store::{Store, StoreError, StoredSession, Stores, commit_once, folder_factory};

const RULES: FamilyRules = FamilyRules { window_s: 1000, grace_s: 10, lifetime_s: 1500 };

#[derive(Clone, Debug)]
enum Action {
    Start,
    /// Presents the tokens of the generation that is so many behind the newest.
    Refresh(u32),
    Logout,
    /// The next request is not acknowledged: the server is killed before the change is durable.
    KilledDuringRefresh(u32),
    KilledDuringLogout,
    Killed,
    Restart,
}

fn actions() -> impl Strategy<Value = Vec<(Action, prop::sample::Index, u64)>> {
    let behind = prop_oneof![4 => Just(0u32), 2 => Just(1), 1 => 2u32..4];
    let action = prop_oneof![
        2 => Just(Action::Start),
        8 => behind.clone().prop_map(Action::Refresh),
        2 => Just(Action::Logout),
        2 => behind.prop_map(Action::KilledDuringRefresh),
        1 => Just(Action::KilledDuringLogout),
        1 => Just(Action::Killed),
        1 => Just(Action::Restart),
    ];
    let wait = prop_oneof![5 => 0u64..12, 1 => 0u64..600];
    prop::collection::vec((action, any::<prop::sample::Index>(), wait), 1..40)
}

pub(super) struct World {
    folder: TempDir,
    pub(super) writer: IdentityWriter,
    pub(super) user: UserId,
}

impl World {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { writer: open(folder.path()), folder, user: UserId::new() };
        let user =
            UserRecord { id: world.user, ..users::new_user(UserKind::Member, None, "x".to_owned(), 0) };
        let put = crate::store::AccountChange::PutUser(user);
        let changes = crate::store::Changes { accounts: vec![put], ..Default::default() };
        world.run(move |_| async move { Ok(((), changes)) }).unwrap();
        world
    }

    /// Carries out a decision and waits for its answer.
    pub(super) fn run<T: Send + 'static, F: Future<Output = users::Decision<T>>>(
        &self,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Clone + Send + 'static,
    ) -> Result<T, IdentityError> {
        let (sender, receiver) = mpsc::channel();
        self.writer.carry_out(decide, move |answer| sender.send(answer).unwrap());
        receiver.recv().unwrap()
    }

    /// Executes a decision, and is killed after its changes went to the database and before anything waited for the disk.
    fn killed_during<T: Send + 'static, F: Future<Output = users::Decision<T>>>(
        self,
        decide: impl FnOnce(Arc<dyn Stores>) -> F + Send + 'static,
    ) -> Self {
        let after = tempfile::tempdir().unwrap();
        let (from, to): (PathBuf, PathBuf) = (self.folder.path().into(), after.path().into());
        let killed = self.writer.store.write_blocking(move |stores| async move {
            let changes = decide(Arc::clone(&stores)).await.map(|(_, changes)| changes).unwrap_or_default();
            commit_once(&*stores, &changes).await?;
            copy(&from, &to);
            Ok::<_, StoreError>(())
        });
        killed.unwrap();
        Self { writer: open(after.path()), folder: after, user: self.user }
    }

    fn killed(self) -> Self {
        let after = tempfile::tempdir().unwrap();
        copy(self.folder.path(), after.path());
        Self { writer: open(after.path()), folder: after, user: self.user }
    }

    pub(super) fn restart(self) -> Self {
        self.writer.store.close();
        Self { writer: open(self.folder.path()), ..self }
    }

    fn stored(&self, id: SessionId) -> Option<StoredSession> {
        self.run(move |stores| async move {
            Ok((stores.sessions().session(id).await?, crate::store::Changes::default()))
        })
        .unwrap()
    }
}

fn open(folder: &Path) -> IdentityWriter {
    let index = Arc::new(Index::default());
    let notices = Arc::new(LocalNotices::default());
    notices.subscribe(Arc::clone(&index) as _);
    let mirror = Arc::clone(&index);
    IdentityWriter {
        store: Arc::new(
            Store::open(folder_factory(folder), move |stores| {
                let mirror = Arc::clone(&mirror);
                async move { mirror.load(&*stores).await }
            })
            .unwrap(),
        ),
        index,
        notices,
    }
}

/// The expected state of one session: its beginning and its family, or that it has ended.
type Model = HashMap<SessionId, Option<(u64, Family)>>;

fn life(session: StoredSession) -> (u64, Family) {
    (session.created_at, session.family)
}

fn check(world: &World, model: &Model, now: u64) -> Result<(), TestCaseError> {
    for (&id, family) in model {
        let stored = world.stored(id);
        prop_assert_eq!(stored.clone().map(life), *family);
        let over = now.saturating_sub(RULES.lifetime_s);
        let lives = family.is_some_and(|(began, _)| now < RULES.ends_at(began));
        prop_assert_eq!(world.writer.index.session(world.user, id, over).is_ok(), lives);
        if let Some((began, family)) = stored.map(life) {
            let goes_on = |g| matches!(family.present(g, began, now, RULES), Presented::Next(_));
            let live = (0..family.generation + 3).filter(|&g| goes_on(g)).count();
            prop_assert!(live <= 1);
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn acknowledged_changes_survive_and_ended_sessions_stay_ended(actions in actions()) {
        let mut world = World::new();
        let mut model = Model::new();
        let mut order: Vec<SessionId> = Vec::new();
        let mut now = 100;
        for (action, which, wait) in actions {
            now += wait;
            let user = world.user;
            let chosen = (!order.is_empty()).then(|| order[which.index(order.len())]);
            let shown = |model: &Model, behind: u32| {
                let session = chosen?;
                let generation = model[&session].map_or(1, |(_, family)| family.generation).saturating_sub(behind);
                Some(Grant { user, session, generation })
            };
            match action {
                Action::Start => {
                    let granted =
                        world.run(move |stores| async move { sessions::start(&*stores, user, None, now, RULES).await }).unwrap();
                    prop_assert_eq!(granted.ends_at, RULES.ends_at(now));
                    model.insert(granted.grant.session, Some((now, Family::new(now))));
                    order.push(granted.grant.session);
                }
                Action::Refresh(behind) => {
                    let Some(shown) = shown(&model, behind) else { continue };
                    let family = model[&shown.session];
                    let answer =
                        world.run(move |stores| async move { sessions::refresh(&*stores, shown, now, RULES).await }).unwrap();
                    let (expected, after) = expect(family, shown, now);
                    prop_assert_eq!(answer.map(|granted| granted.grant), expected);
                    model.insert(shown.session, after);
                }
                Action::Logout => {
                    let Some(session) = chosen else { continue };
                    let answer = world.run(move |stores| async move { sessions::end(&*stores, user, session).await });
                    prop_assert_eq!(answer.is_ok(), model[&session].is_some());
                    model.insert(session, None);
                }
                Action::KilledDuringRefresh(behind) => {
                    let Some(shown) = shown(&model, behind) else { continue };
                    let before = model[&shown.session];
                    world = world.killed_during(move |stores| async move { sessions::refresh(&*stores, shown, now, RULES).await });
                    settle(&world, &mut model, shown.session, before, expect(before, shown, now).1)?;
                }
                Action::KilledDuringLogout => {
                    let Some(session) = chosen else { continue };
                    let before = model[&session];
                    world = world.killed_during(move |stores| async move { sessions::end(&*stores, user, session).await });
                    settle(&world, &mut model, session, before, None)?;
                }
                Action::Killed => world = world.killed(),
                Action::Restart => world = world.restart(),
            }
            check(&world, &model, now)?;
        }
    }
}

/// Returns the expected answer to a refresh, and the state expected to be stored afterwards.
fn expect(
    life: Option<(u64, Family)>,
    shown: Grant,
    now: u64,
) -> (Result<Grant, AuthError>, Option<(u64, Family)>) {
    let Some((began, family)) = life else { return (Err(AuthError::SessionRevoked), None) };
    match family.present(shown.generation, began, now, RULES) {
        Presented::Next(next) => (Ok(Grant { generation: next.generation, ..shown }), Some((began, next))),
        Presented::Again => (Ok(Grant { generation: family.generation, ..shown }), life),
        Presented::TooLate => (Err(AuthError::RefreshWindowOver), None),
        Presented::Reused => (Err(AuthError::TokenReused), None),
    }
}

/// Accepts that an unacknowledged change happened or did not happen, and nothing else.
fn settle(
    world: &World,
    model: &mut Model,
    session: SessionId,
    before: Option<(u64, Family)>,
    after: Option<(u64, Family)>,
) -> Result<(), TestCaseError> {
    let found = world.stored(session).map(life);
    prop_assert!(found == before || found == after, "{found:?}, neither {before:?} nor {after:?}");
    model.insert(session, found);
    Ok(())
}
