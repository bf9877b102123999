//! Opening of the parts of identity: the database, the index over it, the signing keys, and an administrator.

use std::io;
use std::sync::Arc;

use super::admin::{self, AdminError, AdminKeyFile};
use super::call::IdentityWriter;
use super::credentials::CredentialNotices as _;
use super::handle::Identity;
use super::index::Index;
use super::now_s;
use super::remote::{Freshness, OrderedNotices, Remote};
use super::shared_keys::SharedKeys;
use super::signing::KeyFolder;
use super::tokens::{Tokens, keep_ms};
use crate::config::{AuthConfig, StorageConfig, StorageKind};
use crate::store::{self, OpenError, Store, StoreError};

/// The reason why users, keys and sessions cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum IdentityOpenError {
    /// The database cannot be used.
    #[error(transparent)]
    Database(#[from] OpenError),
    /// The signing keys cannot be used.
    #[error("cannot use the signing keys in {folder}/keys: {error}")]
    SigningKeys {
        /// The data folder.
        folder: String,
        /// The cause.
        error: io::Error,
    },
    /// There is no administrator and none can be created.
    #[error(transparent)]
    Admin(#[from] AdminError),
}

impl Identity {
    /// Opens the data folder. Blocks. Credentials can be checked at once; the actors for everything else still have to be
    /// started.
    pub(crate) fn open(
        storage: &StorageConfig,
        config: &AuthConfig,
    ) -> Result<(Self, AdminKeyFile), IdentityOpenError> {
        let data_dir = storage.path.as_path();
        let index = Arc::new(Index::default());
        let notices = Arc::new(OrderedNotices::default());
        notices.subscribe(Arc::clone(&index) as _);
        let is_shared = storage.kind == StorageKind::Postgres && storage.shared;
        let freshness = Arc::new(Freshness::new(is_shared.then_some(config.max_staleness_ms)));
        let signing_keys_error =
            |error| IdentityOpenError::SigningKeys { folder: data_dir.display().to_string(), error };
        let keys = shared_keys(storage, config).map_err(signing_keys_error)?;
        let remote = Arc::new(Remote::new(
            Arc::clone(&index),
            Arc::clone(&notices),
            Arc::clone(&freshness),
            keys.clone(),
        ));
        let mirror = Arc::clone(&remote);
        let store = Store::open(store::factory(storage), move |stores| {
            let mirror = Arc::clone(&mirror);
            async move { mirror.load(&*stores).await }
        })?;
        if let Some(keys) = keys {
            // Before the first key of this folder is made: the other servers may have some.
            let exchanged = store.look_blocking(|stores| async move {
                Ok::<_, StoreError>(keys.exchange(&*stores, now_s().saturating_mul(1000)).await)
            });
            exchanged.map_err(io::Error::other).and_then(|done| done).map_err(signing_keys_error)?;
        }
        let writer = IdentityWriter { store: Arc::new(store), index, notices };
        if storage.kind == StorageKind::Postgres
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(remote.follow(Arc::downgrade(&writer.store)));
        }
        let tokens = Tokens::open(config, Box::new(KeyFolder::of(data_dir)), now_s());
        let tokens = tokens.map_err(signing_keys_error)?;
        let admin_key = admin::ensure(&writer, data_dir)?;
        Ok((Self::new(writer, tokens, freshness), admin_key))
    }
}

/// The signing keys that are shared through the database, as far as the settings say so.
fn shared_keys(storage: &StorageConfig, config: &AuthConfig) -> io::Result<Option<Arc<SharedKeys>>> {
    let file = storage.key_file.as_deref().filter(|_| storage.kind == StorageKind::Postgres);
    let keep_ms = keep_ms(config.access_token_ttl_s, config.refresh_window_s);
    file.map(|file| SharedKeys::new(&storage.path, file, keep_ms).map(Arc::new)).transpose()
}
