//! Opening stores.

use std::fmt::Debug;
#[cfg(test)]
use std::path::Path;

use super::postgres::{Access, PgFactory};
use super::sled::SledFactory;
use super::{OpenError, StoreError, Stores};
use crate::config::{StorageConfig, StorageKind};
use async_trait::async_trait;

/// Opens a store, again and again: the commit thread drops a store that failed and opens it anew.
#[async_trait]
pub trait StoreFactory: Debug + Send + Sync {
    /// Opens the store, or creates it. Blocks.
    ///
    /// The store is complete: operations that a crash interrupted are rolled back or completed, and an older schema is migrated.
    /// At most one process may have it open, unless its commits can [conflict](Stores::can_conflict).
    ///
    /// # Errors
    /// See [`OpenError`].
    async fn open(&self) -> Result<Box<dyn Stores>, OpenError>;

    /// Returns `true` if changes that were [synced](Stores::sync) survive the end of this process.
    fn is_durable(&self) -> bool;

    /// Returns `true` if there is a store already.
    async fn exists(&self) -> bool;

    /// Creates an empty store that can take the place of this one.
    ///
    /// # Errors
    /// See [`OpenError`].
    async fn draft(&self) -> Result<Box<dyn StoreDraft>, OpenError>;

    /// The error of a store that was opened, but whose contents cannot be loaded.
    fn load_error(&self, error: StoreError) -> OpenError;
}

/// A new store beside the one of its factory. Dropping it deletes it.
#[async_trait]
pub trait StoreDraft: Debug + Send + Sync {
    /// The new store.
    fn stores(&self) -> &dyn Stores;

    /// Closes the new store and puts it in the place of the one that is there. A store that is replaced may be kept
    /// beside it. A crash in between leaves the new store, or one that is refused; never a mixture of both.
    ///
    /// # Errors
    /// See [`OpenError`].
    async fn promote(self: Box<Self>) -> Result<(), OpenError>;
}

/// The factory of the configured store, for a server.
pub fn factory(storage: &StorageConfig) -> Box<dyn StoreFactory> {
    match storage.kind {
        StorageKind::Sled => Box::new(SledFactory::new(storage)),
        StorageKind::Postgres => Box::new(PgFactory::new(storage, Access::Server)),
    }
}

/// The factory of the configured store, for commands that run without a server. `alone`: the command must not run beside
/// servers either, where several processes can use one database.
pub fn offline_factory(storage: &StorageConfig, alone: bool) -> Box<dyn StoreFactory> {
    match storage.kind {
        StorageKind::Sled => Box::new(SledFactory::offline(&storage.path)),
        StorageKind::Postgres => {
            Box::new(PgFactory::new(storage, if alone { Access::Alone } else { Access::Beside }))
        }
    }
}

/// The factory of the store in a folder, as a server has it, without a reserve of disk space.
#[cfg(test)]
pub fn folder_factory(folder: &Path) -> Box<dyn StoreFactory> {
    factory(&StorageConfig { path: folder.to_owned(), min_free_mib: 0, ..StorageConfig::default() })
}
