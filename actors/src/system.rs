//! The whole actor system behind one handle.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ractor::{Actor, ActorRef};
use tokio::task::JoinHandle;

use crate::audit::Audit;
use crate::backup::Backup;
use crate::config::ActorsConfig;
use crate::conversations::Conversations;
use crate::identity::{AdminKeyFile, Identity};
use crate::limits::Limiter;
use crate::model::Models;
use crate::model::catalog::Catalog;
use crate::prefix_files::PrefixFiles;
use crate::responses::Responses;
use crate::start_error::StartError;
use crate::store::files::create_private_folder;
use crate::supervision::RestartPolicy;
use crate::supervisor::{ChildSpec, Supervisor, SupervisorArguments, SupervisorMessage};
use crate::usage::UsageLedger;
use crate::web_search::WebSearch;

/// Time that workers have at a graceful stop to write their prefixes to disk.
const KEEP_PREFIXES: Duration = Duration::from_secs(10);

/// All actors behind the edge, under one root supervisor.
#[derive(Debug)]
pub struct System {
    models: Models,
    identity: Identity,
    limiter: Limiter,
    usage: UsageLedger,
    backup: Backup,
    audit: Audit,
    responses: Responses,
    conversations: Conversations,
    web_search: WebSearch,
    admin_key: AdminKeyFile,
    root: ActorRef<SupervisorMessage>,
    ended: JoinHandle<()>,
}

impl System {
    /// Starts the root supervisor and all actors under it. Models load in the background.
    ///
    /// # Errors
    /// See [`StartError`].
    pub async fn start(config: ActorsConfig) -> Result<Self, StartError> {
        let prefixes = PrefixFiles::new(&config.storage)?;
        let catalog = Catalog::new(&config, &prefixes)?;
        Self::start_over(&config, catalog, prefixes).await
    }

    /// Starts the system with one model, answered by `backend`.
    ///
    /// # Errors
    /// As of [`start`](Self::start).
    #[cfg(any(test, feature = "testing"))]
    pub async fn start_with_backend(
        config: ActorsConfig,
        id: &str,
        backend: Arc<dyn crate::model::backend::Backend>,
    ) -> Result<Self, StartError> {
        Self::start_over(&config, Catalog::of_backend(&config, id, backend), PrefixFiles::default()).await
    }

    async fn start_over(
        config: &ActorsConfig,
        catalog: Catalog,
        prefixes: PrefixFiles,
    ) -> Result<Self, StartError> {
        let folder = &config.storage.path;
        // An existing folder may be shared with others: its mode is left alone.
        create_private_folder(folder)
            .map_err(|error| StartError::Storage { path: folder.display().to_string(), error })?;
        let catalog = Arc::new(catalog);
        let models = Models::new(Arc::clone(&catalog));
        let (identity, admin_key) = open_identity(config).await?;
        open_prefixes(prefixes, &identity).await;
        let limiter = Limiter::new(config.rate_limits.clone());
        let usage = UsageLedger::new(Arc::clone(identity.store()));
        let backup = Backup::new(Arc::clone(identity.store()), identity.notices(), folder.clone());
        let conversations = Conversations::new(Arc::clone(identity.store()), config.conversations.clone());
        let audit = open_audit(&identity, config)?;
        let supervisor = || Supervisor;
        let model_supervisor =
            SupervisorArguments { children: catalog.children(), policy: RestartPolicy::default() };
        let mut children = identity.children(&config.auth);
        children.extend(limiter.children());
        children.push(usage.child());
        children.push(audit.child());
        let responses = Responses::new(Arc::clone(identity.store()), config.responses.clone());
        children.extend(responses.children());
        children.extend(conversations.children());
        let web_search = WebSearch::new(config.web_search.clone());
        children.push(web_search.child());
        children.push(ChildSpec::new("model supervisor", supervisor, model_supervisor));
        let root = SupervisorArguments { children, policy: RestartPolicy::default() };
        let (root, ended) = Actor::spawn(None, Supervisor, root)
            .await
            .map_err(|error| StartError::Actor(error.to_string()))?;
        Ok(Self {
            models,
            identity,
            limiter,
            usage,
            backup,
            audit,
            responses,
            conversations,
            web_search,
            admin_key,
            root,
            ended,
        })
    }

    /// Returns the handle to the models.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Returns the handle to users, keys and sessions.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Returns the handle to the rate limits.
    pub fn limiter(&self) -> &Limiter {
        &self.limiter
    }

    /// Returns the handle to usage.
    pub fn usage(&self) -> &UsageLedger {
        &self.usage
    }

    /// Returns the handle to exports and imports.
    pub fn backup(&self) -> &Backup {
        &self.backup
    }

    /// Returns the handle to the audit log.
    pub fn audit(&self) -> &Audit {
        &self.audit
    }

    /// Returns the handle to stored responses.
    pub fn responses(&self) -> &Responses {
        &self.responses
    }

    /// Returns the handle to conversations.
    pub fn conversations(&self) -> &Conversations {
        &self.conversations
    }

    /// Returns the handle to web search.
    pub fn web_search(&self) -> &WebSearch {
        &self.web_search
    }

    /// Returns the file of the first administrator's key, and whether this start created it.
    pub fn admin_key_file(&self) -> &AdminKeyFile {
        &self.admin_key
    }

    /// Refuses new requests, waits for running ones up to `grace`, then ends every worker.
    pub async fn shutdown(self, grace: Duration) {
        self.models.stop();
        let deadline = Instant::now() + grace;
        while self.models.in_flight() > 0 && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if !grace.is_zero() {
            self.models.keep_prefixes(KEEP_PREFIXES).await;
        }
        self.root.stop(None);
        let _ = self.ended.await;
        self.usage.close().await;
        self.audit.close().await;
        // Last, after the final writes of the actors.
        let _ = tokio::task::spawn_blocking(move || self.identity.close()).await;
    }
}

/// Opens the database, and creates the first start's keys, where blocking is allowed.
async fn open_identity(config: &ActorsConfig) -> Result<(Identity, AdminKeyFile), StartError> {
    let (storage, auth) = (config.storage.clone(), config.auth.clone());
    let opened = tokio::task::spawn_blocking(move || Identity::open(&storage, &auth)).await;
    Ok(opened.map_err(|error| StartError::Actor(error.to_string()))??)
}

/// Takes the prefix cache on disk over, where blocking is allowed: users that are deleted from now on are noticed, and those that
/// are gone already have nothing there.
async fn open_prefixes(prefixes: PrefixFiles, identity: &Identity) {
    if let Some(deletions) = prefixes.watch_deletions() {
        identity.notices().subscribe(deletions);
    }
    let users = identity.user_ids();
    let _ = tokio::task::spawn_blocking(move || prefixes.start(users)).await;
}

fn open_audit(identity: &Identity, config: &ActorsConfig) -> Result<Audit, StartError> {
    Audit::new(Arc::clone(identity.store()), config.audit.clone()).map_err(|error| {
        let stream = &config.audit.stream;
        StartError::Config(format!(
            "cannot write the audit log to {stream:?} (audit.stream): {error}; name a file in a folder that the server may \
             write to, `stderr` or `off`"
        ))
    })
}
