//! Users, keys and sessions through the actors and the disk.

mod admin;
mod children;
mod crash;
mod credentials;
mod keys;
mod restarts;
mod sessions;
mod sign_in;
mod users;

use std::path::{Path, PathBuf};

use ractor::{Actor, ActorRef};
use tempfile::TempDir;

use super::*;
use crate::config::AuthConfig;
use crate::config::StorageConfig;
use crate::limits::LimitOverrides;
use crate::supervision::RestartPolicy;
use crate::supervisor::{Supervisor, SupervisorArguments, SupervisorMessage};

/// The network of guests.
const NET: ClientNet = ClientNet::V4([192, 0, 2, 1]);

/// A data folder with all components started over it.
struct Fixture {
    folder: TempDir,
    identity: Identity,
    admin_key: AdminKeyFile,
    config: AuthConfig,
    root: ActorRef<SupervisorMessage>,
}

impl Fixture {
    async fn new() -> Self {
        Self::with(AuthConfig::default()).await
    }

    async fn with(config: AuthConfig) -> Self {
        Self::over(tempfile::tempdir().unwrap(), config).await
    }

    async fn over(folder: TempDir, config: AuthConfig) -> Self {
        let path = folder.path().to_owned();
        let storage = StorageConfig { path, min_free_mib: 0, ..StorageConfig::default() };
        let auth = config.clone();
        let opened = tokio::task::spawn_blocking(move || Identity::open(&storage, &auth)).await.unwrap();
        let (identity, admin_key) = opened.unwrap();
        let children = identity.children(&config);
        let root = SupervisorArguments { children, policy: RestartPolicy::default() };
        let (root, _) = Actor::spawn(None, Supervisor, root).await.unwrap();
        Self { folder, identity, admin_key, config, root }
    }

    /// Stops all components in order.
    async fn stop(self) -> (TempDir, AuthConfig) {
        self.root.stop_and_wait(None, None).await.unwrap();
        let identity = self.identity;
        tokio::task::spawn_blocking(move || identity.close()).await.unwrap();
        (self.folder, self.config)
    }

    async fn restart(self) -> Self {
        let (folder, config) = self.stop().await;
        Self::over(folder, config).await
    }

    /// Starts a server over a copy of the current files, as after a kill.
    async fn crash(&self) -> Self {
        let folder = tempfile::tempdir().unwrap();
        copy(self.folder.path(), folder.path());
        Self::over(folder, self.config.clone()).await
    }

    async fn member(&self, name: &str) -> UserRecord {
        self.identity.create_user(&format!("{name}@example.com"), name).await.unwrap()
    }

    async fn key(&self, user: UserId, permissions: Permissions) -> CreatedKey {
        self.identity.create_key(user, Permissions::ALL, new_key("a key", permissions)).await.unwrap()
    }

    fn admin_secret(&self) -> String {
        std::fs::read_to_string(&self.admin_key.path).unwrap().trim().to_owned()
    }

    fn access(&self, tokens: &TokenPair) -> Result<Principal, AuthError> {
        self.identity.authenticate(tokens.access_token.reveal())
    }

    async fn refresh(&self, tokens: &TokenPair) -> Result<TokenPair, IdentityError> {
        self.identity.refresh(RefreshProof::Refresh(tokens.refresh_token.reveal())).await
    }
}

fn new_key(name: &str, permissions: Permissions) -> NewKey {
    NewKey {
        name: name.to_owned(),
        permissions,
        expires_at: None,
        limits: LimitOverrides::default(),
        only: Restrictions::default(),
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target: PathBuf = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
