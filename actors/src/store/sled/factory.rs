//! The factory of sled stores, and drafts that take the place of one.

use std::path::{Path, PathBuf};

use super::{SledStores, open, open_error};
use crate::config::StorageConfig;
use crate::store::files::{create_private_folder, sync_folder, write_private};
use crate::store::open::{StoreDraft, StoreFactory};
use crate::store::{OpenError, Quotas, StoreError, Stores};
use async_trait::async_trait;

/// The size of sled's cache for commands that do little; sled's own default is 1 GiB.
const SMALL_CACHE: u64 = 64 << 20;

/// Opens the database in a data folder.
#[derive(Clone, Debug)]
pub struct SledFactory {
    folder: PathBuf,
    cache_bytes: u64,
    min_free_bytes: u64,
    quotas: Quotas,
    /// `true` if opening removes all deleted records, since no commit thread will do it.
    cleans_up: bool,
}

impl SledFactory {
    /// The factory of a server's store.
    pub fn new(storage: &StorageConfig) -> Self {
        Self {
            folder: storage.path.clone(),
            cache_bytes: storage.cache_bytes(),
            min_free_bytes: u64::from(storage.min_free_mib) << 20,
            quotas: Quotas::new(storage),
            cleans_up: false,
        }
    }

    /// The factory of a store for commands: without quotas and without a reserve of disk space.
    pub fn offline(folder: &Path) -> Self {
        Self {
            folder: folder.to_owned(),
            cache_bytes: SMALL_CACHE,
            min_free_bytes: 0,
            quotas: Quotas::default(),
            cleans_up: true,
        }
    }

    fn database(&self) -> PathBuf {
        self.folder.join("db")
    }

    fn has_store(&self) -> bool {
        self.database().join("db").exists() || self.folder.join("store.id").exists()
    }

    fn open_stores(&self) -> Result<SledStores, OpenError> {
        let stores = open::open(&self.folder, self.cache_bytes)?;
        if self.cleans_up {
            stores.cleanup_all().map_err(|error| self.load_error(error))?;
        }
        Ok(stores.with_reserve(self.min_free_bytes).with_quotas(self.quotas))
    }
}

#[async_trait]
impl StoreFactory for SledFactory {
    async fn open(&self) -> Result<Box<dyn Stores>, OpenError> {
        Ok(Box::new(self.open_stores()?))
    }

    fn is_durable(&self) -> bool {
        true
    }

    async fn exists(&self) -> bool {
        self.has_store()
    }

    async fn draft(&self) -> Result<Box<dyn StoreDraft>, OpenError> {
        let folder = self.folder.join("import.new");
        if folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(open_error::file(&folder))?;
        }
        create_private_folder(&folder).map_err(open_error::file(&folder))?;
        let stores = Self { folder: folder.clone(), cleans_up: false, ..self.clone() }.open_stores();
        // From here on, dropping it removes the folder.
        let mut draft = SledDraft { place: self.clone(), folder, stores: None };
        draft.stores = Some(stores?);
        Ok(Box::new(draft))
    }

    fn load_error(&self, error: StoreError) -> OpenError {
        open_error::database(&self.database(), &error)
    }
}

/// A database in a folder inside the data folder.
#[derive(Debug)]
struct SledDraft {
    place: SledFactory,
    folder: PathBuf,
    /// `None`: closed.
    stores: Option<SledStores>,
}

#[async_trait]
impl StoreDraft for SledDraft {
    fn stores(&self) -> &dyn Stores {
        self.stores.as_ref().expect("a draft is open until it is promoted, which consumes it")
    }

    /// The new id is put in place before the new database, and a database without its id is refused: a crash in between
    /// leaves a store that does not open, and the one before it under its other name.
    async fn promote(mut self: Box<Self>) -> Result<(), OpenError> {
        drop(self.stores.take());
        let (place, database) = (&self.place.folder, self.place.database());
        if self.place.has_store() {
            let kept = place.join(format!("db.before-import-{}", jiff::Timestamp::now().as_second()));
            std::fs::rename(&database, &kept).map_err(open_error::file(&database))?;
        }
        for name in ["store.commit", "store.id"] {
            let (from, to) = (self.folder.join(name), place.join(name));
            let contents = std::fs::read(&from).map_err(open_error::file(&from))?;
            write_private(&to, &contents).map_err(open_error::file(&to))?;
        }
        std::fs::rename(self.folder.join("db"), &database).map_err(open_error::file(&database))?;
        sync_folder(place).map_err(open_error::file(place))?;
        std::fs::remove_dir_all(&self.folder).map_err(open_error::file(&self.folder))
    }
}

impl Drop for SledDraft {
    fn drop(&mut self) {
        drop(self.stores.take());
        // The rest of it is removed before the next draft.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
