//! The contract of the table of runs, as tests that run on any implementation.
//!
//! A new implementation gets a function that makes the tables of several servers, and a line in [`suite`].

use std::collections::BTreeMap;

use futures_util::stream;
use proptest::prelude::*;

use super::super::run::{RunEvent, RunLifetime};
use super::super::types::{Delta, EndStatus};
use super::*;
use crate::identity::{ClientNet, UserId};

/// Makes the tables of so many servers over one store.
type NewTables = fn(usize) -> Vec<Arc<dyn RunTable>>;

/// The table of the only server.
fn local(number: usize) -> Vec<Arc<dyn RunTable>> {
    let table: Arc<dyn RunTable> = Arc::<LocalRuns>::default();
    vec![table; number]
}

macro_rules! suite {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;

            #[tokio::test]
            async fn runs_are_found_everywhere_until_they_are_removed() {
                super::runs_are_found_everywhere_until_they_are_removed(super::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn the_last_place_is_taken_once() {
                super::the_last_place_is_taken_once(super::$name).await;
            }

            proptest! {
                #[test]
                fn background_places_are_exact(steps in prop::collection::vec(step(), 1..60)) {
                    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                    runtime.block_on(super::background_places_are_exact(super::$name, steps))?;
                }
            }
        }
    )* };
}

suite! { local }

async fn runs_are_found_everywhere_until_they_are_removed(tables: NewTables) {
    let tables = tables(2);
    let (id, run) = (ResponseId::new(), Run::new());
    assert!(tables[0].get(id).await.is_none());
    tables[0].insert(id, Arc::clone(&run), None).await.unwrap();
    // It has a first piece and never ends by itself.
    let delta = Delta { text: "a".to_owned(), ..Delta::default() };
    let source = stream::iter([RunEvent::Started, RunEvent::Delta(delta.clone())]);
    let source = Box::pin(futures_util::StreamExt::chain(source, stream::pending()));
    let driven = tokio::spawn({
        let run = Arc::clone(&run);
        async move { run.drive(source, RunLifetime::Always).await }
    });
    let mut readers = Vec::new();
    for table in &tables {
        let mut reader = table.get(id).await.unwrap().follow();
        assert_eq!(reader.beyond(0).await.0, std::slice::from_ref(&delta));
        readers.push(reader);
    }
    // A cancellation on another server ends it.
    tables[1].get(id).await.unwrap().cancel();
    let end = driven.await.unwrap();
    assert_eq!(end.status, EndStatus::Cancelled);
    tables[0].remove(id).await;
    run.publish(end.clone());
    for (table, reader) in tables.iter().zip(&mut readers) {
        assert!(table.get(id).await.is_none());
        assert_eq!(reader.end().await.0.end.as_ref(), Some(&end));
    }
}

async fn the_last_place_is_taken_once(tables: NewTables) {
    let tables = tables(8);
    let place = BackgroundPlace {
        party: Party::User(UserId::new()),
        limits: BackgroundLimits { per_party: 3, all: 9 },
    };
    let tasks = tables.into_iter().map(|table| {
        tokio::spawn(async move { table.insert(ResponseId::new(), Run::new(), Some(place)).await.is_ok() })
    });
    let taken = futures_util::future::join_all(tasks).await;
    assert_eq!(taken.into_iter().filter(|taken| *taken.as_ref().unwrap()).count(), 3);
}

#[derive(Clone, Debug)]
enum Step {
    /// A run in the background of a party, or one with a client that waits.
    Insert(Option<u8>),
    Check(u8),
    Remove(prop::sample::Index),
}

fn step() -> impl Strategy<Value = (Step, usize)> {
    let step = prop_oneof![
        4 => prop::option::weighted(0.8, 0..3u8).prop_map(Step::Insert),
        1 => (0..3u8).prop_map(Step::Check),
        2 => any::<prop::sample::Index>().prop_map(Step::Remove),
    ];
    (step, 0..2usize)
}

async fn background_places_are_exact(
    tables: NewTables,
    steps: Vec<(Step, usize)>,
) -> Result<(), TestCaseError> {
    let tables = tables(2);
    let limits = BackgroundLimits { per_party: 2, all: 4 };
    let place = |party: u8| BackgroundPlace { party: Party::Net(ClientNet::V4([192, 0, 2, party])), limits };
    let mut model: BTreeMap<ResponseId, (Option<u8>, usize)> = BTreeMap::new();
    // The refusal's count, if there is no room.
    let refused = |model: &BTreeMap<ResponseId, (Option<u8>, usize)>, party: u8| {
        let own = model.values().filter(|(of, _)| *of == Some(party)).count();
        let all = model.values().filter(|(of, _)| of.is_some()).count();
        (own >= limits.per_party).then_some(own).or_else(|| (all >= limits.all).then_some(all))
    };
    let count = |outcome: Result<(), ResponsesError>| match outcome {
        Ok(()) => None,
        Err(ResponsesError::TooManyInBackground { running, .. }) => Some(running),
        Err(error) => panic!("{error}"),
    };
    for (step, at) in steps {
        match step {
            Step::Check(party) => {
                let outcome = tables[at].check_room(place(party)).await;
                prop_assert_eq!(count(outcome), refused(&model, party));
            }
            Step::Insert(party) => {
                let (id, run) = (ResponseId::new(), Run::new());
                let expected = party.and_then(|party| refused(&model, party));
                prop_assert_eq!(count(tables[at].insert(id, run, party.map(place)).await), expected);
                if expected.is_none() {
                    model.insert(id, (party, at));
                }
                for table in &tables {
                    prop_assert_eq!(table.get(id).await.is_some(), expected.is_none());
                }
            }
            Step::Remove(which) if !model.is_empty() => {
                let id = *model.keys().nth(which.index(model.len())).unwrap();
                // By the server that generates it.
                let (_, at) = model.remove(&id).unwrap();
                tables[at].remove(id).await;
                for table in &tables {
                    prop_assert!(table.get(id).await.is_none());
                }
            }
            Step::Remove(_) => {}
        }
    }
    Ok(())
}
