//! The threads that read and write files beside the engine.

use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use jan_protocol::prefix_files::{Defect, FileId, TenantKey};
use jan_protocol::types::Token;

use super::client::Client;
use super::format::{self, Fingerprint, Limits, Piece};
use super::known::{Best, Known, KnownFile};
use super::{Found, Loaded};
use crate::decode::engine::Command;
use crate::types::Owner;

/// What both threads work with.
#[derive(Debug)]
pub struct Shared {
    pub client: Client,
    pub known: Mutex<Known>,
    pub fingerprint: Fingerprint,
    pub limits: Limits,
    /// Fewest tokens that are worth it.
    pub copy_min: u32,
}

/// A sequence that may begin with a file.
#[derive(Debug)]
pub struct Wanted {
    pub id: u64,
    pub owner: Owner,
    pub tokens: Vec<Token>,
    /// Tokens that are computed already.
    pub known: u32,
    /// When nobody waits for it any more.
    pub until: Instant,
}

/// Work of the thread that writes.
#[derive(Debug)]
pub enum ToWrite {
    /// A prefix.
    Prefix { owner: Owner, tokens: Vec<Token>, pieces: Vec<Piece>, bytes: u64 },
    /// A file was used.
    Used { owner: Owner, file: FileId },
    /// All before it is written: the number of prefixes so far is wanted.
    Report(Sender<u32>),
}

impl Shared {
    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The file that a sequence should begin with.
    pub fn best(&self, owner: &Owner, tokens: &[Token]) -> Best {
        self.known().best(&owner.tenant, |key| format::label(key, &owner.cache_key), tokens)
    }

    /// Reads what a tenant's files hold, unless it is known.
    fn list(&self, owner: &Owner) -> Option<TenantKey> {
        if let Some(key) = self.known().key(&owner.tenant) {
            return Some(key);
        }
        let (key, files) = self.client.list(&owner.tenant)?;
        let mut known = Vec::new();
        for (id, mut file) in files {
            match self.contents(&key, &mut file) {
                Ok(contents) => {
                    known.push(KnownFile { id, label: contents.label, tokens: contents.tokens.into() });
                }
                // There may be more memory for it another time.
                Err(Defect::Unfit) => {}
                Err(defect) => self.client.discard(&owner.tenant, id, defect),
            }
        }
        self.known().list(&owner.tenant, key.clone(), known);
        Some(key)
    }

    fn contents(&self, key: &TenantKey, file: &mut File) -> Result<format::Contents, Defect> {
        let size = file.metadata().map_err(|_| Defect::Damaged)?.len();
        format::read_contents(key, &self.fingerprint, self.limits, size, file)
    }

    /// The file that is worth reading for a sequence, and the number of tokens that it begins with.
    fn find(&self, wanted: &Wanted) -> Option<(FileId, u32)> {
        let Wanted { owner, tokens, known, until, .. } = wanted;
        if Instant::now() > *until {
            return None;
        }
        self.list(owner)?;
        match self.best(owner, tokens) {
            Best::File(file, len) if len >= known.saturating_add(self.copy_min) => Some((file, len)),
            _ => None,
        }
    }

    fn load(&self, wanted: &Wanted) -> Option<Loaded> {
        // It may have been replaced meanwhile.
        let (file, len) = self.find(wanted)?;
        let Wanted { owner, tokens, .. } = wanted;
        let Some((key, mut opened)) = self.client.open(&owner.tenant, file) else {
            self.known().remove(&owner.tenant, file);
            return None;
        };
        let begun = Instant::now();
        let read = self.contents(&key, &mut opened).and_then(|contents| {
            // It was found by these tokens, and a changed file must not get round that.
            if contents.tokens.get(..len as usize) != tokens.get(..len as usize)
                || contents.label != format::label(&key, &owner.cache_key)
            {
                return Err(Defect::Damaged);
            }
            let pieces = format::read_state(&key, &contents, &mut opened)?;
            Ok(Loaded { owner: owner.clone(), file, tokens: contents.tokens, common: len, pieces })
        });
        match read {
            Ok(loaded) => {
                tracing::debug!(tokens = loaded.tokens.len(), time = ?begun.elapsed(), "prefix read from disk");
                Some(loaded)
            }
            Err(defect) => {
                self.known().remove(&owner.tenant, file);
                self.client.discard(&owner.tenant, file, defect);
                None
            }
        }
    }

    fn keep(&self, owner: &Owner, tokens: &[Token], pieces: &[Piece]) -> Option<()> {
        let key = self.list(owner)?;
        let label = format::label(&key, &owner.cache_key);
        if self.known().covers(&owner.tenant, &label, tokens) {
            return None;
        }
        let replaces = self.known().covered(&owner.tenant, &label, tokens);
        let (key, id, mut pipe) = self.client.create(&owner.tenant, format::size(tokens.len(), pieces))?;
        let written = format::write(&key, &self.fingerprint, &label, tokens, pieces, &mut pipe);
        drop(pipe);
        if let Err(error) = written {
            tracing::debug!(%error, "a prefix could not be written to disk");
        }
        if !self.client.commit(replaces.clone()) {
            return None;
        }
        let mut known = self.known();
        replaces.into_iter().for_each(|file| known.remove(&owner.tenant, file));
        known.add(&owner.tenant, KnownFile { id, label, tokens: tokens.into() });
        Some(())
    }
}

/// Finds out which sequences begin with a file, and passes those on. Nobody waits here for another one's file.
pub fn find(
    shared: &Shared,
    wanted: &Receiver<Wanted>,
    to_reader: &SyncSender<Wanted>,
    to_engine: &Sender<Command>,
) {
    for wanted in wanted {
        let id = wanted.id;
        let is_passed_on = shared.find(&wanted).is_some() && to_reader.try_send(wanted).is_ok();
        if !is_passed_on && to_engine.send(Command::Found(Box::new(Found { id, loaded: None }))).is_err() {
            return;
        }
    }
}

/// Reads the files of sequences, one after the other. Each is answered.
pub fn read(shared: &Shared, wanted: &Receiver<Wanted>, to_engine: &Sender<Command>) {
    for wanted in wanted {
        let found = Found { id: wanted.id, loaded: shared.load(&wanted) };
        if to_engine.send(Command::Found(Box::new(found))).is_err() {
            return;
        }
    }
}

/// Writes prefixes, one after the other. `queued`: the bytes of those that wait.
pub fn write(shared: &Shared, work: &Receiver<ToWrite>, queued: &AtomicU64) {
    let mut count = 0;
    for work in work {
        match work {
            ToWrite::Prefix { owner, tokens, pieces, bytes } => {
                count += u32::from(shared.keep(&owner, &tokens, &pieces).is_some());
                queued.fetch_sub(bytes, Ordering::AcqRel);
            }
            ToWrite::Used { owner, file } => shared.client.used(&owner.tenant, file),
            ToWrite::Report(reply) => {
                let _ = reply.send(count);
            }
        }
    }
}

/// A shared handle.
pub type Handle = Arc<Shared>;
