//! The prefix cache on disk, as the engine uses it.
//!
//! The server owns the files and hands them over ([`client`]); threads read and write them ([`threads`]), so that no step
//! waits for a disk. What the scheduler discards from host memory for lack of room is written in the background, or forgotten when
//! too much waits. A sequence that begins with a file's tokens, by more than what is computed already, is held back until a
//! thread has read the file, for a bounded time; the file becomes a copy in host memory like any other, and what it shares with the
//! sequence is decided by the scheduler. Whatever goes wrong, the tokens are read again.
//!
//! Only for memories that can be cut: those of recurrent models hold whole sequences, which no next turn begins with.

mod client;
mod fingerprint;
pub mod format;
mod known;
mod owners;
mod threads;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use jan_protocol::prefix_files::{Channel, FileId};
use jan_protocol::types::Token;

use self::client::Client;
pub use self::fingerprint::fingerprint;
use self::format::{Fingerprint, Limits, Piece};
use self::known::{Best, Known};
use self::owners::Owners;
use self::threads::{Handle, Shared, ToWrite, Wanted};
use crate::decode::engine::Command;
use crate::scheduler::Shelf;
use crate::types::{Owner, Sequence};

/// Maximum number of sequences that are held back; others are read.
const MAX_HELD: usize = 16;

/// Longest time that a sequence is held back.
const PATIENCE: Duration = Duration::from_secs(10);

/// The interval at which the engine looks after them, and shows that it is alive.
const LOOK: Duration = Duration::from_secs(1);

/// Prefixes that wait to be written: their number, and their size beyond the first.
const MAX_WAITING: usize = 64;
const MAX_WAITING_BYTES: u64 = 256 << 20;

/// A file's contents, for a sequence that is held back.
#[derive(Debug)]
pub struct Found {
    /// The sequence.
    pub id: u64,
    /// `None`: there is no file for it.
    pub loaded: Option<Loaded>,
}

/// A file that was read and is what was written.
#[derive(Debug)]
pub struct Loaded {
    /// Whose it is.
    pub owner: Owner,
    /// Its number.
    pub file: FileId,
    /// All of its tokens.
    pub tokens: Vec<Token>,
    /// Those that the sequence begins with.
    pub common: u32,
    /// Their state.
    pub pieces: Vec<Piece>,
}

/// The settings of the cache on disk.
#[derive(Clone, Debug)]
pub struct DiskSettings {
    /// What the files depend on.
    pub fingerprint: Fingerprint,
    /// Fewest tokens that are worth it.
    pub copy_min: u32,
    /// Maximum number of tokens of a file.
    pub tokens: u32,
    /// Maximum size of a file.
    pub bytes: u64,
}

/// The engine's view of the files; none by default.
#[derive(Debug, Default)]
pub struct Disk(Option<Running>);

#[derive(Debug)]
struct Running {
    shared: Handle,
    owners: Owners,
    held: BTreeMap<u64, Held>,
    to_finder: SyncSender<Wanted>,
    to_writer: SyncSender<ToWrite>,
    queued: Arc<AtomicU64>,
    /// Copies in host memory that were read from files and not used yet.
    unused: HashMap<Shelf, (Owner, FileId)>,
    /// Those that were put back into the cells, until the next step has succeeded.
    restored: Vec<(Owner, FileId)>,
}

#[derive(Debug)]
struct Held {
    sequence: Sequence,
    until: Instant,
}

impl Disk {
    /// Starts the threads over the channel to the server.
    ///
    /// # Errors
    /// The system's error.
    pub fn start(
        channel: Channel,
        settings: &DiskSettings,
        to_engine: Sender<Command>,
    ) -> std::io::Result<Self> {
        let shared = Arc::new(Shared {
            client: Client::new(channel)?,
            known: Mutex::new(Known::default()),
            fingerprint: settings.fingerprint,
            limits: Limits { tokens: settings.tokens, bytes: settings.bytes },
            copy_min: settings.copy_min.max(1),
        });
        let queued = Arc::new(AtomicU64::new(0));
        let (to_finder, wanted) = sync_channel(MAX_HELD);
        let (to_reader, worth_it) = sync_channel(MAX_HELD);
        let (to_writer, work) = sync_channel(MAX_WAITING);
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let (finder, found) = (Arc::clone(&shared), to_engine.clone());
        thread("kv find").spawn(move || threads::find(&finder, &wanted, &to_reader, &found))?;
        let reader = Arc::clone(&shared);
        thread("kv read").spawn(move || threads::read(&reader, &worth_it, &to_engine))?;
        let (writer, counter) = (Arc::clone(&shared), Arc::clone(&queued));
        thread("kv write").spawn(move || threads::write(&writer, &work, &counter))?;
        Ok(Self(Some(Running {
            shared,
            owners: Owners::default(),
            held: BTreeMap::new(),
            to_finder,
            to_writer,
            queued,
            unused: HashMap::new(),
            restored: Vec::new(),
        })))
    }

    /// Returns whether there are files at all.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Takes a sequence that may begin with a file, or gives it back. `computed`: tokens of it that are computed already.
    pub fn hold(&mut self, sequence: Sequence, computed: impl FnOnce(&Sequence) -> u32) -> Option<Sequence> {
        let Some(running) = &mut self.0 else { return Some(sequence) };
        running.owners.note(sequence.tenant, &sequence.owner);
        let len = sequence.prompt.len() + sequence.generated.len();
        let is_scored = sequence.score_prompt && sequence.generated.is_empty();
        if is_scored || len <= running.shared.copy_min as usize || running.held.len() >= MAX_HELD {
            return Some(sequence);
        }
        let mut tokens = sequence.prompt.to_vec();
        tokens.extend_from_slice(&sequence.generated);
        let best = running.shared.best(&sequence.owner, &tokens);
        if best == Best::Nothing {
            return Some(sequence);
        }
        let known = computed(&sequence);
        let most = match best {
            Best::File(_, common) => common,
            _ => u32::try_from(len - 1).unwrap_or(u32::MAX),
        };
        if most < known.saturating_add(running.shared.copy_min) {
            return Some(sequence);
        }
        let (id, owner, until) = (sequence.id, sequence.owner.clone(), Instant::now() + PATIENCE);
        if running.to_finder.try_send(Wanted { id, owner, tokens, known, until }).is_err() {
            return Some(sequence);
        }
        running.held.insert(id, Held { sequence, until });
        None
    }

    /// Gives back a sequence that was held. `None`: it was cancelled, or given back before.
    pub fn release(&mut self, id: u64) -> Option<Sequence> {
        Some(self.0.as_mut()?.held.remove(&id)?.sequence)
    }

    /// Gives back the sequences that were held for too long.
    pub fn overdue(&mut self) -> Vec<Sequence> {
        let Some(running) = &mut self.0 else { return Vec::new() };
        if running.held.is_empty() {
            return Vec::new();
        }
        let now = Instant::now();
        let overdue = running.held.iter().filter(|(_, held)| held.until <= now);
        let overdue: Vec<u64> = overdue.map(|(id, _)| *id).collect();
        overdue.into_iter().filter_map(|id| self.release(id)).collect()
    }

    /// Returns the time after which to look after sequences that are held; `None` if there are none.
    pub fn patience(&self) -> Option<Duration> {
        let until = self.0.as_ref()?.held.values().map(|held| held.until).min()?;
        Some(until.saturating_duration_since(Instant::now()).min(LOOK))
    }

    /// Notes the place in host memory of a file that was read.
    pub fn put(&mut self, shelf: Shelf, owner: Owner, file: FileId) {
        if let Some(running) = &mut self.0 {
            running.unused.insert(shelf, (owner, file));
        }
    }

    /// Notes that a copy in host memory was put back into the cells.
    pub fn restored(&mut self, shelf: Shelf) {
        if let Some(running) = &mut self.0
            && let Some(file) = running.unused.remove(&shelf)
        {
            running.restored.push(file);
        }
    }

    /// Notes that a step has succeeded with what was put back: the server need not suspect those files any more.
    pub fn proven(&mut self) {
        let Some(running) = self.0.as_mut().filter(|running| !running.restored.is_empty()) else { return };
        for (owner, file) in std::mem::take(&mut running.restored) {
            self.dismiss(owner, file);
        }
    }

    /// Notes that a copy in host memory has left it: it is no reason for what follows.
    pub fn gone(&mut self, shelf: Shelf) {
        let unused = self.0.as_mut().and_then(|running| running.unused.remove(&shelf));
        if let Some((owner, file)) = unused {
            self.dismiss(owner, file);
        }
    }

    /// Notes the same of a file that did not get there.
    pub fn dismiss(&mut self, owner: Owner, file: FileId) {
        self.send(ToWrite::Used { owner, file });
    }

    /// Has a prefix written whose tokens are of the tenant of that number; forgets it if too much waits already.
    pub fn keep(&mut self, tenant: u64, tokens: Vec<Token>, pieces: Vec<Piece>) {
        let Some(work) = self.work(tenant, tokens, pieces) else { return };
        self.send(work);
    }

    /// The same, but waits for room up to a time. `false`: there was none.
    pub fn keep_until(
        &mut self,
        tenant: u64,
        tokens: Vec<Token>,
        pieces: Vec<Piece>,
        until: Instant,
    ) -> bool {
        let Some(mut work) = self.work(tenant, tokens, pieces) else { return true };
        loop {
            match self.send(work) {
                Some(refused) if Instant::now() < until => work = refused,
                Some(_) => return false,
                None => return true,
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn work(&self, tenant: u64, tokens: Vec<Token>, pieces: Vec<Piece>) -> Option<ToWrite> {
        let owner = self.0.as_ref()?.owners.of(tenant)?.clone();
        let bytes = format::size(tokens.len(), &pieces);
        Some(ToWrite::Prefix { owner, tokens, pieces, bytes })
    }

    /// Queues work, or returns it.
    fn send(&self, work: ToWrite) -> Option<ToWrite> {
        let Some(running) = &self.0 else { return None };
        let size = match &work {
            ToWrite::Prefix { bytes, .. } => *bytes,
            ToWrite::Used { .. } | ToWrite::Report(_) => 0,
        };
        let waiting = running.queued.load(Ordering::Acquire);
        if size > 0 && waiting > 0 && waiting.saturating_add(size) > MAX_WAITING_BYTES {
            return Some(work);
        }
        running.queued.fetch_add(size, Ordering::AcqRel);
        match running.to_writer.try_send(work) {
            Ok(()) => None,
            Err(std::sync::mpsc::TrySendError::Full(work)) => {
                running.queued.fetch_sub(size, Ordering::AcqRel);
                Some(work)
            }
            Err(std::sync::mpsc::TrySendError::Disconnected(_)) => None,
        }
    }

    /// Waits until everything that was queued is written. Returns the number of prefixes written since the start.
    pub fn finish(&self, until: Instant) -> u32 {
        let (reply, written) = channel();
        let mut work = ToWrite::Report(reply);
        while let Some(refused) = self.send(work) {
            if Instant::now() >= until {
                return 0;
            }
            work = refused;
            std::thread::sleep(Duration::from_millis(2));
        }
        written.recv_timeout(until.saturating_duration_since(Instant::now())).unwrap_or(0)
    }
}
