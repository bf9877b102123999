//! The edge's handle to web search.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use super::actor::{WebSearchActor, WebSearchArguments};
use super::budget::{Limits, LocalCredits, SearchCredits};
use super::cache::Cache;
use super::client::Client;
use super::config::WebSearchConfig;
use super::health::{Record, SearchHealth};
use super::types::{Found, SearchError, SearchQuery};
use crate::identity::now_s;
use crate::supervisor::ChildSpec;

/// Handle to web search. Cheap to clone.
#[derive(Clone, Debug)]
pub struct WebSearch {
    shared: Arc<Shared>,
}

/// The state shared with the actor that maintains it.
#[derive(Debug)]
pub(super) struct Shared {
    config: WebSearchConfig,
    client: Client,
    start: Instant,
    cache: Mutex<Cache>,
    credits: Box<dyn SearchCredits>,
    record: Mutex<Record>,
}

impl Shared {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Removes expired results; returns their number.
    pub(super) fn forget_old(&self) -> usize {
        let now_ms = self.now_ms();
        lock(&self.cache).forget_old(now_ms)
    }

    const fn limits(&self) -> Limits {
        Limits { all: self.config.credits_per_day, each: self.config.credits_per_user_per_day }
    }
}

impl WebSearch {
    /// Returns a handle with these settings. Does not contact the service.
    #[must_use]
    pub fn new(config: WebSearchConfig) -> Self {
        let shared = Shared {
            config,
            client: Client::default(),
            start: Instant::now(),
            cache: Mutex::default(),
            credits: Box::<LocalCredits>::default(),
            record: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Returns its actor, for a supervisor to start.
    pub(crate) fn child(&self) -> ChildSpec {
        let arguments = WebSearchArguments { shared: Arc::clone(&self.shared) };
        ChildSpec::new("web search", || WebSearchActor, arguments)
    }

    /// Returns the settings.
    #[must_use]
    pub fn config(&self) -> &WebSearchConfig {
        &self.shared.config
    }

    /// Checks that `payer` can search now.
    ///
    /// # Errors
    /// There is no key, or the credits are used up.
    pub async fn check(&self, payer: &str) -> Result<(), SearchError> {
        self.configured()?;
        self.shared.credits.check(payer, self.shared.limits(), now_s()).await
    }

    /// Returns the health of the service according to the last calls.
    #[must_use]
    pub fn health(&self) -> SearchHealth {
        match self.config().api_key {
            None => SearchHealth::NotConfigured,
            Some(_) => lock(&self.shared.record).health(),
        }
    }

    /// Searches, at `payer`'s expense. Cached results cost nothing. Dropping the future ends the search.
    ///
    /// # Errors
    /// The reason why there are no results. Returns within `timeout_ms`.
    pub async fn search(&self, payer: &str, mut query: SearchQuery) -> Result<Arc<Found>, SearchError> {
        let shared = &self.shared;
        self.configured()?;
        query.text = SearchQuery::words(&query.text);
        query.results = query.results.clamp(1, shared.config.max_results);
        if query.text.is_empty() {
            return Ok(Arc::default());
        }
        if let Some(found) = lock(&shared.cache).get(&query, shared.now_ms()) {
            return Ok(found);
        }
        shared.credits.take(payer, shared.limits(), now_s()).await?;
        let outcome = shared.client.search(&shared.config, &query).await;
        lock(&shared.record).note(&outcome);
        match outcome {
            Ok((found, credits)) => {
                shared.credits.charge(payer, credits.saturating_sub(1), now_s()).await;
                let found = Arc::new(found);
                let (most, ttl_ms) =
                    (shared.config.cache_entries, shared.config.cache_ttl_s.saturating_mul(1000));
                lock(&shared.cache).put(query, Arc::clone(&found), most, ttl_ms, shared.now_ms());
                Ok(found)
            }
            Err(error) => {
                // The service charges for answers only.
                shared.credits.give_back(payer, now_s()).await;
                tracing::warn!(%error, "a web search failed");
                Err(error)
            }
        }
    }

    fn configured(&self) -> Result<(), SearchError> {
        self.config().api_key.as_ref().map(|_| ()).ok_or(SearchError::NotConfigured)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The contents are consistent after every step, so a panic elsewhere leaves a consistent state.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
