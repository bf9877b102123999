//! The prefix cache on disk: the owner of the folder `kv` in the data folder.
//!
//! What leaves a worker's host memory, and everything worth it at a graceful stop, becomes a file there, and a request that
//! begins with it after a restart reads only the rest. The worker encrypts and authenticates what it writes, under a key for the model
//! and the tenant that the server derives ([`secret`]); the server never looks into a file. It decides which files there are
//! ([`books`]), creates, lists and removes them, and gives each worker descriptors through a channel of its own ([`channel`]):
//! those of the tenants whose requests it sent to that worker, and of no others.
//!
//! ```text
//! kv/secret                                    without storage.kv_key_file
//! kv/<model>/u<tenant>/<number>-<party>        a file; `n` instead of `u` for what is no user
//! kv/<model>/u<tenant>/<number>-<party>.part   one that is being written: removed at the next start
//! ```
//!
//! All names but the number are tags derived from the secret, so the folder tells nobody who uses which model. A file is whole
//! before it gets its name, and nothing is synchronised with the disk: what a crash of the machine leaves half written fails its
//! authentication, and is read again from the prompt.

mod books;
mod channel;
mod model_hash;
mod secret;

use std::collections::{HashMap, HashSet};
use std::fs::{File, FileTimes, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jan_protocol::prefix_files::{Defect, FileId};

use self::books::{Books, Entry, PartyTag, Place, Tenant};
pub use self::channel::{Callers, WorkerChannel};
use self::secret::{Secret, Tag};
use crate::config::StorageConfig;
use crate::identity::UserId;
use crate::identity::credentials::CredentialMirror;
use crate::start_error::StartError;
use crate::store::files::create_private_folder;
use crate::store::{AccountChange, Changes};

/// A file that was not used for so long is removed at the next start or soon after.
const MAX_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The interval at which old files are looked for, when files are created.
const SWEEP: Duration = Duration::from_secs(3600);

/// How often a party may write the limit within [`SWEEP`], and bytes that it may write in any case: what leaves host memory
/// depends on what callers send, and must not wear the disk out.
const WRITES: u64 = 4;
const LEAST_WRITES: u64 = 64 << 20;

/// The maximum number of names that a start looks at; the rest is removed unread.
const MAX_NAMES: usize = 65_536;

/// The part of the disk, free space and these files together, that the files may take: a half.
const DISK_PART: u64 = 2;

/// The handle to the files; nothing behind it where there are none. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct PrefixFiles(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    folder: PathBuf,
    secret: Secret,
    /// Maximum size of all files together.
    limit: u64,
    /// Free space that is left on the disk.
    min_free: u64,
    /// `None` until the folder belongs to this server.
    state: Mutex<Option<State>>,
}

#[derive(Debug, Default)]
struct State {
    books: Books,
    /// Users that were deleted since the start: what workers still have of them gets no file.
    deleted: HashSet<Tag>,
    next_id: FileId,
    swept: u64,
    /// Bytes that were written for each party since then.
    written: HashMap<PartyTag, u64>,
}

/// A file that is being written. It is removed with this, unless it is committed.
#[derive(Debug)]
struct Draft {
    owner: Arc<Shared>,
    place: Place,
    id: FileId,
    party: PartyTag,
    bytes: u64,
    committed: bool,
}

impl PrefixFiles {
    /// The files that the settings describe. Nothing is touched before [`start`](Self::start).
    ///
    /// # Errors
    /// The key file lies in the data folder, or cannot be used.
    pub fn new(config: &StorageConfig) -> Result<Self, StartError> {
        let limit = u64::from(config.kv_mib) << 20;
        if limit == 0 {
            return Ok(Self::default());
        }
        let folder = config.path.join("kv");
        let secret = match &config.kv_key_file {
            Some(path) => {
                Self::check_key_file(path, &config.path)?;
                Secret::of_key_file(path).map_err(|error| {
                    StartError::Config(format!("storage.kv_key_file: cannot use {}: {error}", path.display()))
                })?
            }
            None => {
                let made = create_private_folder(&folder);
                match made.and_then(|()| Secret::of_installation(&folder.join("secret"))) {
                    Ok(secret) => secret,
                    // The disk may be full. The server works without.
                    Err(error) => {
                        tracing::warn!(folder = %folder.display(), %error, "prefixes are not kept on disk");
                        return Ok(Self::default());
                    }
                }
            }
        };
        let min_free = u64::from(config.min_free_mib) << 20;
        Ok(Self(Some(Arc::new(Shared { folder, secret, limit, min_free, state: Mutex::default() }))))
    }

    /// A key beside what it protects would be copied and stolen with it.
    fn check_key_file(path: &Path, data: &Path) -> Result<(), StartError> {
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        if real(path).starts_with(real(data)) {
            return Err(StartError::Config(format!(
                "storage.kv_key_file: {} lies in the data folder {}; put it somewhere else",
                path.display(),
                data.display()
            )));
        }
        Ok(())
    }

    /// Takes the folder over: removes what cannot or must not be used any more, files of users that are none of `users` among it.
    /// Blocks. The data folder has to belong to this server. A folder that cannot be used is no reason not to start.
    pub(crate) fn start(&self, users: impl IntoIterator<Item = UserId>) {
        let Some(shared) = &self.0 else { return };
        let users: HashSet<Tag> =
            users.into_iter().map(|user| shared.tenant(&user.to_string()).tag).collect();
        match shared.open(&users) {
            Ok(state) => *shared.lock() = Some(state),
            Err(error) => {
                tracing::warn!(folder = %shared.folder.display(), %error, "prefixes are not kept on disk");
            }
        }
    }

    /// Removes a deleted user's files from now on: the receiver of the notices that are published.
    pub(crate) fn watch_deletions(&self) -> Option<Arc<dyn CredentialMirror>> {
        let shared = Arc::clone(self.0.as_ref()?);
        let (deleted, users) = mpsc::channel::<UserId>();
        let forget = move || users.iter().for_each(|user| shared.forget_user(user));
        match std::thread::Builder::new().name("prefix files".to_owned()).spawn(forget) {
            Ok(_) => Some(Arc::new(Deletions(deleted))),
            Err(error) => {
                tracing::error!(%error, "no thread to remove prefixes of deleted users; the next start does it");
                None
            }
        }
    }
}

/// Passes deletions of users on to a thread: notices come on the thread of the store, which must not wait for files.
#[derive(Debug)]
struct Deletions(mpsc::Sender<UserId>);

impl CredentialMirror for Deletions {
    fn apply(&self, changes: &Changes) {
        for change in &changes.accounts {
            if let AccountChange::DeleteUser(user) = change {
                let _ = self.0.send(*user);
            }
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Option<State>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tenant(&self, tenant: &str) -> Tenant {
        let is_user = UserId::from_str(tenant).is_ok();
        Tenant { is_user, tag: self.secret.tag("tenant", tenant.as_bytes()) }
    }

    fn party(&self, party: &str) -> PartyTag {
        let tag = self.secret.tag("party", party.as_bytes());
        PartyTag::from_le_bytes([tag[0], tag[1], tag[2], tag[3], tag[4], tag[5], tag[6], tag[7]])
    }

    fn place(&self, model: &[u8; 32], tenant: &str) -> Place {
        Place { model: self.secret.tag("model", model), tenant: self.tenant(tenant) }
    }

    fn folder_of(&self, place: Place) -> PathBuf {
        let kind = if place.tenant.is_user { 'u' } else { 'n' };
        self.folder.join(hex(&place.model)).join(format!("{kind}{}", hex(&place.tenant.tag)))
    }

    fn path(&self, place: Place, file: FileId, party: PartyTag, suffix: &str) -> PathBuf {
        self.folder_of(place).join(format!("{file:016x}-{party:016x}{suffix}"))
    }

    /// Reads the folder's names. Another secret than the last time leaves nothing that could be read.
    fn open(&self, users: &HashSet<Tag>) -> io::Result<State> {
        create_private_folder(&self.folder)?;
        let mark = self.folder.join("of-secret");
        let tag = hex(&self.secret.tag("mark", b""));
        if std::fs::read_to_string(&mark).is_ok_and(|found| found != tag) {
            tracing::warn!(
                "the key of the prefix cache is another one; the files under the old one are removed"
            );
        }
        let is_same = std::fs::read_to_string(&mark).is_ok_and(|found| found == tag);
        if !is_same {
            crate::store::files::write_private(&mark, tag.as_bytes())?;
        }
        let mut state = State { next_id: 1, swept: now_ms(), ..State::default() };
        let mut names = 0;
        for model in folders(&self.folder)? {
            let Some(model_tag) = model.file_name().and_then(|name| unhex(name.to_str()?)) else { continue };
            for tenant in folders(&model)? {
                let name = tenant.file_name().and_then(|name| name.to_str()).unwrap_or_default();
                let is_user = name.starts_with('u');
                let Some(tag) = name.strip_prefix(['u', 'n']).and_then(unhex) else { continue };
                let place = Place { model: model_tag, tenant: Tenant { is_user, tag } };
                if !is_same || names > MAX_NAMES || is_user && !users.contains(&tag) {
                    remove_folder(&tenant);
                    continue;
                }
                for file in std::fs::read_dir(&tenant)?.flatten() {
                    names += 1;
                    self.enter(&mut state, place, &file);
                }
                // Succeeds if it is empty.
                let _ = std::fs::remove_dir(&tenant);
            }
            let _ = std::fs::remove_dir(&model);
        }
        let gone = self.beyond_limit(&state.books);
        for (place, file) in gone {
            self.remove(&mut state, place, file);
        }
        let files = state.books.select(|_, _| true).len();
        if files > 0 {
            tracing::info!(files, mib = state.books.bytes() >> 20, "prefixes are on disk");
        }
        Ok(state)
    }

    /// Enters a file that lies in the folder, or removes it.
    fn enter(&self, state: &mut State, place: Place, file: &std::fs::DirEntry) {
        let name = file.file_name();
        let numbers = name.to_str().and_then(|name| name.split_once('-'));
        let numbers = numbers.and_then(|(id, party)| {
            let number = |text: &str| (text.len() == 16).then(|| u64::from_str_radix(text, 16).ok())?;
            Some((number(id)?, number(party)?))
        });
        let metadata = std::fs::symlink_metadata(file.path());
        let (Some((id, party)), Ok(metadata)) = (numbers, metadata) else {
            // A half file, or none of ours.
            if name.to_str().is_some_and(|name| name.ends_with(".part")) {
                let _ = std::fs::remove_file(file.path());
            }
            return;
        };
        if !metadata.is_file() {
            return;
        }
        let used = metadata.modified().ok().and_then(|time| time.duration_since(UNIX_EPOCH).ok());
        let used = used.unwrap_or_default();
        let age = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_sub(used);
        if age > MAX_AGE {
            let _ = std::fs::remove_file(file.path());
            return;
        }
        state.next_id = state.next_id.max(id.saturating_add(1));
        let used = used.as_millis() as u64;
        state.books.insert(place, id, Entry { bytes: metadata.len(), party, used, is_whole: true });
    }

    /// The files that a limit which was lowered leaves no room for.
    fn beyond_limit(&self, books: &Books) -> Vec<(Place, FileId)> {
        let nowhere = Place { model: Tag::default(), tenant: Tenant { is_user: false, tag: Tag::default() } };
        books.make_room(nowhere, 0, 0, self.limit).unwrap_or_default()
    }

    fn list(&self, place: Place) -> Vec<(FileId, File)> {
        let files = self.lock().as_ref().map(|state| state.books.of(place)).unwrap_or_default();
        files.into_iter().filter_map(|id| Some((id, self.read(place, id)?))).collect()
    }

    /// Opens a file for reading; one that has gone is forgotten.
    fn read(&self, place: Place, file: FileId) -> Option<File> {
        let mut state = self.lock();
        let state = state.as_mut()?;
        let entry = *state.books.get(place, file).filter(|entry| entry.is_whole)?;
        let mut options = OpenOptions::new();
        options.read(true).custom_flags(rustix::fs::OFlags::NOFOLLOW.bits().cast_signed());
        match options.open(self.path(place, file, entry.party, "")) {
            Ok(opened)
                if opened.metadata().is_ok_and(|found| found.is_file() && found.len() == entry.bytes) =>
            {
                Some(opened)
            }
            result => {
                let error = result.err().map(|error| error.to_string());
                tracing::warn!(file, error, "a file of the prefix cache was changed; it is removed");
                self.remove(state, place, file);
                None
            }
        }
    }

    /// Makes room for a file of exactly `bytes` and creates it. `None`: it gets none.
    fn create(self: &Arc<Self>, place: Place, party: PartyTag, bytes: u64) -> Option<(Draft, File)> {
        let mut state = self.lock();
        let state = state.as_mut()?;
        if bytes == 0 || state.deleted.contains(&place.tenant.tag) {
            return None;
        }
        self.sweep(state);
        let limit = self.limit_now(&state.books)?;
        let written = state.written.entry(party).or_default();
        if written.saturating_add(bytes) > self.limit.saturating_mul(WRITES).max(LEAST_WRITES) {
            return None;
        }
        *written += bytes;
        for (place, file) in state.books.make_room(place, party, bytes, limit)? {
            self.remove(state, place, file);
        }
        if self.free()? < bytes.saturating_add(self.min_free.saturating_mul(2)) {
            return None;
        }
        let id = state.next_id;
        state.next_id += 1;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let opened = create_private_folder(&self.folder_of(place))
            .and_then(|()| options.open(self.path(place, id, party, ".part")));
        match opened {
            Ok(file) => {
                state.books.insert(place, id, Entry { bytes, party, used: now_ms(), is_whole: false });
                Some((Draft { owner: Arc::clone(self), place, id, party, bytes, committed: false }, file))
            }
            Err(error) => {
                tracing::warn!(%error, "cannot create a file of the prefix cache");
                None
            }
        }
    }

    fn free(&self) -> Option<u64> {
        let disk = rustix::fs::statvfs(&self.folder).ok()?;
        Some(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// The limit, but not more than a part of the disk.
    fn limit_now(&self, books: &Books) -> Option<u64> {
        Some(self.limit.min(self.free()?.saturating_add(books.bytes()) / DISK_PART))
    }

    fn used(&self, place: Place, file: FileId) {
        let mut state = self.lock();
        let Some(entry) = state.as_mut().and_then(|state| state.books.get_mut(place, file)) else { return };
        entry.used = now_ms();
        // The order is to survive a restart.
        let path = self.path(place, file, entry.party, "");
        let time = FileTimes::new().set_modified(SystemTime::now());
        let _ = File::options().write(true).open(path).and_then(|file| file.set_times(time));
    }

    /// Removes a file that the worker cannot use.
    fn discard(&self, place: Place, file: FileId, reason: Option<Defect>) {
        let mut state = self.lock();
        let Some(state) = state.as_mut() else { return };
        if state.books.get(place, file).is_none() {
            return;
        }
        match reason {
            Some(reason) => tracing::warn!(file, %reason, "a file of the prefix cache is discarded"),
            None => tracing::warn!(file, "a worker died with a file of the prefix cache; it is discarded"),
        }
        self.remove(state, place, file);
    }

    fn remove(&self, state: &mut State, place: Place, file: FileId) {
        let Some(entry) = state.books.remove(place, file) else { return };
        let suffix = if entry.is_whole { "" } else { ".part" };
        let path = self.path(place, file, entry.party, suffix);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "cannot remove a file of the prefix cache");
            }
            _ => {}
        }
    }

    /// Removes files that were not used for long, of models that are no longer served among them.
    fn sweep(&self, state: &mut State) {
        let now = now_ms();
        if now.saturating_sub(state.swept) < SWEEP.as_millis() as u64 {
            return;
        }
        state.swept = now;
        state.written.clear();
        let old = now.saturating_sub(MAX_AGE.as_millis() as u64);
        for (place, file) in state.books.select(|_, entry| entry.is_whole && entry.used < old) {
            self.remove(state, place, file);
        }
    }

    fn forget_user(&self, user: UserId) {
        let tag = self.tenant(&user.to_string()).tag;
        // Where all callers share, anybody's text is in the files of all.
        let all = self.tenant("").tag;
        let mut state = self.lock();
        let Some(state) = state.as_mut() else { return };
        state.deleted.insert(tag);
        for (place, file) in state.books.select(|place, _| place.tenant.tag == tag || place.tenant.tag == all)
        {
            self.remove(state, place, file);
            let _ = std::fs::remove_dir(self.folder_of(place));
        }
    }
}

impl Draft {
    /// Gives the file its name, and removes those that it replaces. `false`: it is not to be kept.
    fn commit(mut self, replaces: &[FileId]) -> bool {
        let owner = Arc::clone(&self.owner);
        let mut state = owner.lock();
        let Some(state) = state.as_mut() else { return false };
        let Some(entry) = state.books.get_mut(self.place, self.id) else { return false };
        let path = |suffix| owner.path(self.place, self.id, self.party, suffix);
        if std::fs::metadata(path(".part")).map_or(0, |found| found.len()) != self.bytes
            || std::fs::rename(path(".part"), path("")).is_err()
        {
            state.books.remove(self.place, self.id);
            return false;
        }
        entry.is_whole = true;
        self.committed = true;
        for file in replaces.iter().filter(|file| **file != self.id) {
            if state.books.get(self.place, *file).is_some_and(|entry| entry.is_whole) {
                owner.remove(state, self.place, *file);
            }
        }
        true
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        if let Some(state) = self.owner.lock().as_mut() {
            state.books.remove(self.place, self.id);
        }
        let _ = std::fs::remove_file(self.owner.path(self.place, self.id, self.party, ".part"));
    }
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Option<Tag> {
    let mut tag = Tag::default();
    if text.len() != 2 * tag.len() || !text.is_ascii() {
        return None;
    }
    for (index, byte) in tag.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(tag)
}

/// The folders in a folder; what a link leads to is none.
fn folders(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(path)?.flatten();
    let folders = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    Ok(folders.map(|entry| entry.path()).collect())
}

fn remove_folder(path: &Path) {
    if let Err(error) = std::fs::remove_dir_all(path) {
        tracing::warn!(path = %path.display(), %error, "cannot remove files of the prefix cache");
    }
}

#[cfg(test)]
mod tests;
