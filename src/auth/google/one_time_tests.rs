//! The contract of one-time values, as tests that run on any implementation.
//!
//! A new implementation gets a function that makes the collections of several servers, and a line in [`suite`].

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

const LIFETIME: Duration = Duration::from_secs(600);
const CAPACITY: usize = 5;

type Values = Arc<dyn OneTimeValues<u32>>;

/// Makes the collections of so many servers that share their values, with [`LIFETIME`] and [`CAPACITY`].
type NewValues = fn(usize) -> Vec<Values>;

/// The values of the only server.
fn local(number: usize) -> Vec<Values> {
    let values: Values = Arc::new(LocalOneTime::new(LIFETIME, CAPACITY));
    vec![values; number]
}

macro_rules! suite {
    ($($name:ident)*) => { $(
        mod $name {
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn concurrent_takings_get_a_value_once() {
                super::concurrent_takings_get_a_value_once(super::$name).await;
            }

            proptest! {
                #[test]
                fn values_are_taken_once_and_in_time(steps in prop::collection::vec(step(), 1..80)) {
                    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
                    runtime.unwrap().block_on(super::values_are_taken_once_and_in_time(super::$name, steps))?;
                }
            }
        }
    )* };
}

suite! { local }

async fn concurrent_takings_get_a_value_once(values: NewValues) {
    let servers = values(8);
    for number in 0..50 {
        let secret = number.to_string();
        servers[0].put(secret.clone(), number).await;
        let tasks = servers.iter().map(|server| {
            let (server, secret) = (Arc::clone(server), secret.clone());
            tokio::spawn(async move { server.take(&secret).await })
        });
        let taken = futures_util::future::join_all(tasks).await;
        let taken: Vec<_> = taken.into_iter().filter_map(Result::unwrap).collect();
        assert_eq!(taken, [number]);
    }
}

/// Seconds that pass, and a value that is put or the one that is taken, on one of two servers.
fn step() -> impl Strategy<Value = (u64, Option<prop::sample::Index>, usize)> {
    (0u64..300, prop::option::of(any::<prop::sample::Index>()), 0..2usize)
}

async fn values_are_taken_once_and_in_time(
    values: NewValues,
    steps: Vec<(u64, Option<prop::sample::Index>, usize)>,
) -> Result<(), TestCaseError> {
    let servers = values(2);
    // The time at which a value was put; `None` once it was taken.
    let mut given: BTreeMap<u32, Option<Instant>> = BTreeMap::new();
    for (wait, take, at) in steps {
        tokio::time::advance(Duration::from_secs(wait)).await;
        let server = &servers[at];
        let Some(which) = take else {
            let number = u32::try_from(given.len()).unwrap();
            server.put(number.to_string(), number).await;
            given.insert(number, Some(Instant::now()));
            continue;
        };
        prop_assert_eq!(server.take("unknown").await, None);
        if given.is_empty() {
            continue;
        }
        let number = u32::try_from(which.index(given.len())).unwrap();
        let newer = given.len() - 1 - usize::try_from(number).unwrap();
        let since = given.insert(number, None).flatten();
        let in_time = since.is_some_and(|since| since.elapsed() < LIFETIME);
        let found = server.take(&number.to_string()).await;
        // Values that were taken may count towards the bound or not, so of those beyond it either is right.
        match (in_time, newer < CAPACITY) {
            (true, true) => prop_assert_eq!(found, Some(number)),
            (true, false) => prop_assert!(found.is_none_or(|found| found == number)),
            (false, _) => prop_assert_eq!(found, None),
        }
        prop_assert_eq!(server.take(&number.to_string()).await, None);
    }
    Ok(())
}
