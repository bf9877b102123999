//! The state that handlers share.

use std::ops::Deref;
use std::sync::Arc;

use jan_actors::System;
use jan_actors::audit::Audit;
use jan_actors::backup::Backup;
use jan_actors::conversations::Conversations;
use jan_actors::identity::Identity;
use jan_actors::limits::Limiter;
use jan_actors::model::Models;
use jan_actors::responses::Responses;
use jan_actors::usage::UsageLedger;
use jan_actors::web_search::WebSearch;

use crate::auth::OpenTo;
use crate::auth::google::Google;
use crate::config::{Config, HttpConfig, StructuredConfig};
use crate::http::Lifecycle;
use crate::http::routing::{self, Call, Extract};

/// Shared state of the handlers. Every request gets it, so that a clone is one pointer.
#[derive(Clone, Debug)]
pub struct AppState(Arc<Services>);

impl Deref for AppState {
    type Target = Services;

    fn deref(&self) -> &Services {
        &self.0
    }
}

impl AppState {
    /// The state over `system`. `guests`: the callers who may become guests.
    #[must_use]
    pub fn new(system: &System, config: &Config, guests: OpenTo) -> Self {
        Self(Arc::new(Services {
            models: system.models().clone(),
            identity: system.identity().clone(),
            limiter: system.limiter().clone(),
            usage: system.usage().clone(),
            backup: system.backup().clone(),
            audit: system.audit().clone(),
            conversations: system.conversations().clone(),
            responses: system.responses().clone(),
            web_search: system.web_search().clone(),
            google: Arc::new(Google::new(config.auth.google.clone())),
            guests,
            lifecycle: Lifecycle::default(),
            config: Arc::new(config.http.clone()),
            structured: config.structured.clone(),
        }))
    }
}

/// Handles to the actors, and settings.
#[derive(Debug)]
pub struct Services {
    /// The served models.
    pub models: Models,
    /// Users, keys and sessions.
    pub identity: Identity,
    /// Rate limits.
    pub limiter: Limiter,
    /// Exports and imports.
    pub backup: Backup,
    /// The audit log.
    pub audit: Audit,
    /// The usage ledger.
    pub usage: UsageLedger,
    /// Conversations.
    pub conversations: Conversations,
    /// Stored responses.
    pub responses: Responses,
    /// Web search.
    pub web_search: WebSearch,
    /// Sign-in with Google.
    pub google: Arc<Google>,
    /// Policy for becoming a guest.
    pub guests: OpenTo,
    /// The server's phase between start and stop.
    pub lifecycle: Lifecycle,
    /// Limits and timeouts.
    pub config: Arc<HttpConfig>,
    /// Answers with a schema.
    pub structured: StructuredConfig,
}

/// A route of the API.
pub type Route = routing::Route<AppState>;

impl Extract<Self> for AppState {
    fn extract(state: &Self, _: &mut Call) -> Self {
        state.clone()
    }
}
