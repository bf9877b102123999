//! The real conversations on a real disk compared with those in memory, through any sequence of operations, crashes with and
//! without loss, and restarts.

use std::pin::Pin;
use std::sync::mpsc;

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::model::{self, End, Model, Parent, Transition, USERS};
use super::*;
use crate::conversations::commands::Opening;
use crate::store::ConversationChange;

struct Reference;

impl ReferenceStateMachine for Reference {
    type State = Model;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Model> {
        Just(Model::default()).boxed()
    }

    fn transitions(state: &Model) -> BoxedStrategy<Transition> {
        model::transitions(state)
    }

    fn apply(mut state: Model, transition: &Transition) -> Model {
        state.step(transition);
        state
    }
}

/// The real conversations, and their correspondence to the model's.
struct Real {
    disk: Disk,
    known: Vec<Known>,
    clock: u64,
}

#[derive(Clone, Debug)]
struct Known {
    id: ConversationId,
    items: Vec<String>,
    token: Option<String>,
}

impl Real {
    fn rules(&self) -> Rules {
        rules(self.clock)
    }

    fn ids(&self, conversation: usize) -> Known {
        let none = Known { id: ConversationId::new(), items: Vec::new(), token: None };
        self.known.get(conversation).cloned().unwrap_or(none)
    }

    fn item(&self, conversation: usize, item: usize) -> String {
        self.ids(conversation).items.get(item).cloned().unwrap_or_else(|| "msg_none".to_owned())
    }

    /// Returns the current owner of a conversation according to the trees.
    fn owner(&self, conversation: usize) -> UserId {
        let record = block_on(self.disk.trees().conversation(self.ids(conversation).id)).unwrap();
        record.map_or(self.disk.users[0], |record| record.user)
    }

    /// Executes a transition; returns whether it was possible.
    fn run(&mut self, transition: &Transition) -> bool {
        let rules = self.rules();
        let decision = self.decision(transition);
        let outcome = self.disk.decide(move |stores| decision(stores, rules));
        match outcome {
            Ok(noted) => {
                self.note(noted);
                true
            }
            Err(ConversationError::NotFound { .. }) => false,
            Err(error) => panic!("{transition:?}: {error}"),
        }
    }

    fn note(&mut self, noted: Noted) {
        match noted {
            Noted::Created(id, items) => self.known.push(Known { id, items, token: None }),
            Noted::Added(conversation, items) => self.known[conversation].items.extend(items),
            Noted::Shared(conversation, token) => self.known[conversation].token = token,
            Noted::Nothing => {}
        }
    }

    /// Returns the decision of an operation, to be made on the store's thread.
    fn decision(&self, transition: &Transition) -> Deciding {
        let users = self.disk.users.clone();
        let said = |texts: &[String]| texts.iter().map(|text| prepared("user", text)).collect::<Vec<_>>();
        match transition.clone() {
            Transition::Create { user, texts } => {
                let (new, items) = (NewConversation::default(), said(&texts));
                Box::new(move |stores, rules| {
                    Box::pin(async move {
                        let (record, changes) =
                            commands::create(&*stores, users[user], new, items, &rules).await?;
                        let items = changes.iter().filter_map(|change| match change {
                            ConversationChange::PutItem(_, item) => Some(item.node.id.clone()),
                            _ => None,
                        });
                        Ok((Noted::Created(record.id, items.collect()), changes))
                    })
                })
            }
            Transition::Append { by, conversation, parent, texts } => {
                let id = self.ids(conversation).id;
                let items = said(&texts);
                let anchor = match parent {
                    Parent::Head => Anchor::Head,
                    Parent::Beginning => Anchor::Beginning,
                    Parent::Item(item) => Anchor::After(self.item(conversation, item)),
                };
                Box::new(move |stores, rules| {
                    Box::pin(async move {
                        let (items, changes) =
                            commands::append(&*stores, users[by], id, items, &anchor, &rules).await?;
                        let items = items.into_iter().map(|item| item.id).collect();
                        Ok((Noted::Added(conversation, items), changes))
                    })
                })
            }
            Transition::Title { conversation, title } => {
                let (id, user) = (self.ids(conversation).id, self.owner(conversation));
                let update = ConversationUpdate { title: Some(title), ..ConversationUpdate::default() };
                Box::new(move |stores, rules| {
                    Box::pin(async move {
                        Ok((Noted::Nothing, commands::update(&*stores, user, id, update, &rules).await?.1))
                    })
                })
            }
            Transition::DeleteItem { conversation, item } => {
                let (id, user) = (self.ids(conversation).id, self.owner(conversation));
                let item = self.item(conversation, item);
                Box::new(move |stores, rules| {
                    Box::pin(async move {
                        Ok((
                            Noted::Nothing,
                            commands::delete_item(&*stores, user, id, &item, &rules).await?.1,
                        ))
                    })
                })
            }
            Transition::Pick { conversation, item } => {
                let (id, user) = (self.ids(conversation).id, self.owner(conversation));
                let item = self.item(conversation, item);
                Box::new(move |stores, rules| {
                    Box::pin(async move {
                        Ok((Noted::Nothing, commands::pick(&*stores, user, id, &item, &rules).await?.1))
                    })
                })
            }
            Transition::Share { conversation } => {
                let (id, user) = (self.ids(conversation).id, self.owner(conversation));
                let token = format!("share_{}", ConversationId::new());
                Box::new(move |stores, rules| {
                    Box::pin(async move {
                        let (share, changes) =
                            commands::share(&*stores, user, id, token, None, &rules).await?;
                        Ok((Noted::Shared(conversation, Some(share.token)), changes))
                    })
                })
            }
            Transition::Unshare { conversation } => {
                let (id, user) = (self.ids(conversation).id, self.owner(conversation));
                Box::new(move |stores, _| {
                    Box::pin(async move {
                        let changes = commands::unshare(&*stores, user, id).await?.1;
                        Ok((Noted::Shared(conversation, None), changes))
                    })
                })
            }
            Transition::Delete { by, conversation } => {
                let id = self.ids(conversation).id;
                Box::new(move |stores, _| {
                    Box::pin(async move {
                        Ok((Noted::Nothing, commands::delete(&*stores, users[by], id).await?.1))
                    })
                })
            }
            Transition::MoveAll { from, to } => Box::new(move |stores, _| {
                Box::pin(async move {
                    while !stores.move_some(users[from], users[to]).await? {}
                    Ok((Noted::Nothing, Vec::new()))
                })
            }),
            Transition::DeleteAll { user } => Box::new(move |stores, _| {
                Box::pin(async move {
                    let part = stores.conversations().list(users[user], None, None, true, usize::MAX).await?;
                    let deletions = part
                        .listed
                        .iter()
                        .map(|(position, _)| ConversationChange::Delete(position.id))
                        .collect();
                    Ok((Noted::Nothing, deletions))
                })
            }),
            other => panic!("{other:?} is no single decision"),
        }
    }

    fn turn(mut self, conversation: usize, text: &str, said: &str, end: End) -> (Self, bool) {
        let Known { id, .. } = self.ids(conversation);
        let (user, rules) = (self.owner(conversation), self.rules());
        let seen = block_on(queries::before_turn(
            &*self.disk.trees(),
            &LocalLeases::default(),
            user,
            id,
            &Anchor::Head,
            false,
        ));
        let Ok(seen) = seen else { return (self, false) };
        let items = vec![prepared("user", text)];
        let opening = Opening { seen_head: seen.head, parent: seen.parent, items, model: None };
        let begun = self.disk.decide({
            let rules = rules.clone();
            async move |stores: Arc<dyn Stores>| commands::begin(&*stores, user, id, opening, &rules).await
        });
        let begun = begun.unwrap().expect("nothing came in between");
        self.known[conversation].items.extend(begun.items.iter().map(|item| item.id.clone()));
        self.known[conversation].items.push(begun.answer.node.id.clone());
        let (answer, said) = (begun.answer.clone(), said.to_owned());
        match end {
            End::By(ending) => {
                self.disk
                    .decide(async move |stores| {
                        let said =
                            commands::AnswerContents { text: said, ..commands::AnswerContents::default() };
                        commands::finish(&*stores, id, &answer, said, ending, &rules).await
                    })
                    .unwrap();
            }
            End::TakenBack => {
                self.disk
                    .decide(async move |stores| commands::take_back(&*stores, id, &begun, &rules).await)
                    .unwrap();
            }
            End::Killed => {
                self.disk
                    .decide(async move |stores| commands::checkpoint(&*stores, id, &answer, said).await)
                    .unwrap();
                self.disk = self.disk.killed();
            }
        }
        (self, true)
    }

    /// Executes a transition; the server is killed after the change went to the database and before anything waited for the disk.
    /// The change may have happened or not; if not, it is repeated.
    fn killed_during(mut self, transition: &Transition) -> (Self, bool) {
        let before = self.everything();
        let rules = self.rules();
        let decision = self.decision(transition);
        let after = tempfile::tempdir().unwrap();
        let (from, to) = (self.disk.folder.path().to_owned(), after.path().to_owned());
        let (sender, receiver) = mpsc::channel();
        let outcome: Result<(), ConversationError> = self.disk.write(async move |stores| {
            let (noted, changes) = decision(Arc::clone(&stores), rules).await?;
            commit_once(&*stores, &Changes::conversations(changes)).await?;
            copy(&from, &to);
            sender.send(noted).unwrap();
            Ok(())
        });
        match outcome {
            Ok(()) => {}
            Err(ConversationError::NotFound { .. }) => return (self, false),
            Err(error) => panic!("{transition:?}: {error}"),
        }
        let users = self.disk.users.clone();
        self.disk = Disk { store: open(after.path()), folder: after, users };
        let (known, happened) = (self.known.clone(), receiver.recv().unwrap());
        if self.everything() == before && !matches!(happened, Noted::Nothing) {
            // Lost as a whole.
            self.known = known;
            assert!(self.run(transition), "what was possible before the crash is possible after it");
        } else if matches!(happened, Noted::Nothing) {
            // The change may have been invisible; repeating it is harmless, or nothing is left to do.
            self.run(transition);
        } else {
            self.note(happened);
        }
        (self, true)
    }

    /// Returns everything that users see, for comparison.
    fn everything(&self) -> Vec<(ConversationRecord, Vec<Item>)> {
        let trees = self.disk.trees();
        let mut all = Vec::new();
        for &user in &self.disk.users {
            for record in list_all(&*trees, user, true, 100) {
                all.push(block_on(queries::get(&*trees, &LocalLeases::default(), user, record.id)).unwrap());
            }
        }
        all
    }
}

/// A decision to be made on the store's thread.
type Deciding =
    Box<dyn FnOnce(Arc<dyn Stores>, Rules) -> Pin<Box<dyn Future<Output = Decision<Noted>>>> + Send>;

/// The objects created by a decision, which the model knows by number.
#[derive(Debug)]
enum Noted {
    Created(ConversationId, Vec<String>),
    Added(usize, Vec<String>),
    Shared(usize, Option<String>),
    Nothing,
}

pub fn list_all(
    trees: &dyn ConversationsStore,
    user: UserId,
    newest_first: bool,
    limit: usize,
) -> Vec<ConversationRecord> {
    let mut all = Vec::new();
    let mut after = None;
    loop {
        let query = ConversationQuery {
            limit,
            after,
            before: None,
            newest_first,
            model: None,
            text: None,
            shared: false,
        };
        let page = block_on(queries::list(trees, user, &query)).unwrap();
        all.extend(page.data);
        after = page.next;
        if !page.has_more {
            return all;
        }
    }
}

struct Test;

impl StateMachineTest for Test {
    type SystemUnderTest = Real;
    type Reference = Reference;

    fn init_test(_: &Model) -> Real {
        Real { disk: Disk::new(USERS), known: Vec::new(), clock: 0 }
    }

    fn apply(mut real: Real, model: &Model, transition: Transition) -> Real {
        real.clock = model.clock;
        let possible;
        match &transition {
            Transition::Kill => (real.disk, possible) = (real.disk.killed(), true),
            Transition::Restart => (real.disk, possible) = (real.disk.restarted(), true),
            Transition::KillDuring(inner) => (real, possible) = real.killed_during(inner),
            Transition::Turn { conversation, text, said, end } => {
                (real, possible) = real.turn(*conversation, text, said, *end);
            }
            other => possible = real.run(other),
        }
        assert_eq!(possible, model.possible, "{transition:?}");
        real
    }

    fn check_invariants(real: &Real, model: &Model) {
        let trees = real.disk.trees();
        for (number, &user) in real.disk.users.iter().enumerate() {
            let mut expected: Vec<_> = (0..model.conversations.len())
                .filter(|&c| model.conversations[c].user == Some(number))
                .map(|c| (std::cmp::Reverse(model.conversations[c].updated), real.known[c].id))
                .collect();
            expected.sort();
            let mut ids: Vec<_> = expected.into_iter().map(|(_, id)| id).collect();
            for newest_first in [true, false] {
                let listed = list_all(&*trees, user, newest_first, 2);
                assert_eq!(listed.iter().map(|record| record.id).collect::<Vec<_>>(), ids);
                ids.reverse();
            }
        }
        for (known, expected) in real.known.iter().zip(&model.conversations) {
            check_one(real, &*trees, known, expected);
        }
    }
}

fn check_one(real: &Real, trees: &dyn ConversationsStore, known: &Known, expected: &model::Conversation) {
    let running = LocalLeases::default();
    let shown = |items: &[Item]| -> Vec<(String, String, String, String)> {
        let text = |item: &Item, name: &str| item.body[name].as_str().unwrap().to_owned();
        items
            .iter()
            .map(|item| {
                (item.id.clone(), text(item, "role"), item::text_of(&item.body), text(item, "status"))
            })
            .collect()
    };
    let path = |head| -> Vec<(String, String, String, String)> {
        let item = |number: usize| {
            let item = &expected.items[number];
            (known.items[number].clone(), item.role.to_owned(), item.text.clone(), item.status.to_owned())
        };
        expected.path(head).into_iter().map(item).collect()
    };
    for (number, &user) in real.disk.users.iter().enumerate() {
        let got = block_on(queries::get(trees, &running, user, known.id));
        if expected.user != Some(number) {
            assert!(matches!(got, Err(ConversationError::NotFound { .. })), "{got:?}");
            continue;
        }
        let (record, items) = got.unwrap();
        assert_eq!(shown(&items), path(expected.head));
        assert_eq!(record.title, expected.title);
        assert_eq!(record.updated_us, expected.updated);
        let live = expected.items.iter().filter(|item| !item.deleted).count();
        assert_eq!((record.items as usize, record.next as usize), (live, expected.items.len()));
        let whole = block_on(queries::whole(trees, &running, user, known.id)).unwrap();
        assert_eq!(whole.items.len(), live);
        let bytes: usize = whole
            .items
            .iter()
            .map(|item| block_on(trees.item_number(known.id, &item.id)).unwrap().unwrap())
            .map(|number| item::size(&block_on(trees.item(known.id, number)).unwrap().unwrap().body))
            .sum();
        assert_eq!(record.bytes, bytes as u64, "limits count what is there");
    }
    let shared = known.token.as_deref().map(|token| {
        let id = block_on(trees.shared(token)).unwrap().ok_or_else(queries::no_share)?;
        block_on(queries::shared(trees, &running, id, token))
    });
    match (&expected.share, shared) {
        (Some(head), Some(shared)) if expected.user.is_some() => {
            assert_eq!(shown(&shared.unwrap().1), path(*head));
        }
        (_, Some(Ok(shared))) => panic!("a link leads to {shared:?}"),
        (Some(_), None) if expected.user.is_some() => panic!("a link is missing"),
        _ => {}
    }
    if expected.user.is_none() {
        assert!(block_on(trees.nodes(known.id)).unwrap().is_empty(), "nothing is left of what was deleted");
        for id in &known.items {
            assert_eq!(block_on(trees.item_number(known.id, id)).unwrap(), None);
        }
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 24, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn sequences_match_the_model(sequential 1..30 => Test);
}
