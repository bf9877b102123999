//! What a server remembers of its database, in its own data folder: which one it is, who this server is there, and how far
//! it was written. A database that is another one, or behind that, is not used.
//!
//! | file | contents |
//! |---|---|
//! | `postgres.id` | the store's id, then this server's |
//! | `postgres.commit` | the number of this server's last sync ([`CommitMarker`]) |
//! | `postgres.lock` | locked by the server that uses the folder |

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use uuid::Uuid;

use crate::store::commit_marker::{CommitMarker, CommitPosition};
use crate::store::files::{create_private_folder, write_private};
use crate::store::{OpenError, Problem};

/// The files of a data folder.
#[derive(Debug)]
pub struct StateFiles {
    id_file: PathBuf,
    marker_file: PathBuf,
    marker: CommitMarker,
    /// The store that was used last.
    pub store: Option<String>,
    /// This server.
    pub server: Uuid,
    /// The number of its last sync.
    pub reached: u64,
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Backend(Problem::new(format!("cannot use {}: {error}", path.display()), ""))
}

/// Locks a data folder for this process.
///
/// # Errors
/// Another process has it locked, or the file cannot be made.
pub fn lock(folder: &Path) -> Result<File, OpenError> {
    create_private_folder(folder).map_err(file(folder))?;
    let path = folder.join("postgres.lock");
    let mut options = OpenOptions::new();
    let lock =
        options.write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(file(&path))?;
    match rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(_) => Err(OpenError::InUse(Problem::new(
            format!("the data folder {} is in use by another process", folder.display()),
            "Stop that server first, or give this one a data folder of its own (--data-dir)",
        ))),
    }
}

/// Returns whether a server has used that data folder.
pub fn exist(folder: &Path) -> bool {
    folder.join("postgres.id").exists()
}

impl StateFiles {
    /// Reads the files of a data folder.
    ///
    /// # Errors
    /// They cannot be read.
    pub fn open(folder: &Path) -> Result<Self, OpenError> {
        let (id_file, marker_file) = (folder.join("postgres.id"), folder.join("postgres.commit"));
        let text = match std::fs::read_to_string(&id_file) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(file(&id_file)(error)),
        };
        let mut lines = text.lines().map(str::trim);
        let store = lines.next().filter(|line| !line.is_empty()).map(str::to_owned);
        let server = lines.next().and_then(|line| Uuid::try_parse(line).ok()).unwrap_or_else(Uuid::new_v4);
        let (marker, position) = CommitMarker::open(&marker_file).map_err(file(&marker_file))?;
        Ok(Self { id_file, marker_file, marker, store, server, reached: position.commit })
    }

    /// Compares with the database: its id, the ids of the stores that it took the place of, and the number of this server's
    /// last sync there. Returns `true` if it is the same store as before.
    ///
    /// # Errors
    /// It is another one, or has lost acknowledged changes.
    pub fn check(&self, found: &str, replaced: &str, commits: u64, name: &str) -> Result<bool, OpenError> {
        let Some(expected) = &self.store else { return Ok(false) };
        if expected != found {
            if replaced.split_whitespace().any(|id| id == expected) {
                return Ok(false);
            }
            return Err(OpenError::WrongStore(Problem::new(
                format!(
                    "the database {name} is not the one that belongs here: {} says {expected}, the database says {found}",
                    self.id_file.display()
                ),
                format!(
                    "Name the right one in storage.url; or, to use this one from now on, delete {} and {}",
                    self.id_file.display(),
                    self.marker_file.display()
                ),
            )));
        }
        if commits < self.reached {
            return Err(OpenError::Behind(Problem::new(
                format!(
                    "the database {name} has lost what was stored last: {} says change {}, the database says change {commits}. \
                     It is an older copy, or a standby that was promoted without having everything",
                    self.marker_file.display(),
                    self.reached
                ),
                format!(
                    "Restore it, or promote a standby that has everything; or, to go on without what came after it, delete {}",
                    self.marker_file.display()
                ),
            )));
        }
        Ok(true)
    }

    /// Remembers the store that is used from now on, and the number of this server's last sync there.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn remember(&self, store: &str, commits: u64) -> Result<(), OpenError> {
        self.reach(commits).map_err(file(&self.marker_file))?;
        let text = format!("{store}\n{}\n", self.server.as_simple());
        write_private(&self.id_file, text.as_bytes()).map_err(file(&self.id_file))
    }

    /// Writes the number of the last sync.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn reach(&self, commits: u64) -> io::Result<()> {
        self.marker.write(CommitPosition { commit: commits, length: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_stores_and_older_states_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let files = StateFiles::open(folder.path()).unwrap();
        assert_eq!(files.check("one", "", 0, "db"), Ok(false), "the first store is any");
        files.remember("one", 7).unwrap();
        let again = StateFiles::open(folder.path()).unwrap();
        assert_eq!((again.server, again.reached), (files.server, 7));
        for commits in [7, 9] {
            assert_eq!(again.check("one", "", commits, "db"), Ok(true));
        }
        let behind = again.check("one", "", 6, "db").unwrap_err();
        assert!(
            matches!(behind, OpenError::Behind(_)) && behind.to_string().contains("change 7"),
            "{behind}"
        );
        let other = again.check("two", "zero three", 9, "db").unwrap_err();
        assert!(
            matches!(other, OpenError::WrongStore(_)) && other.to_string().contains("postgres.id"),
            "{other}"
        );
        assert_eq!(again.check("two", "zero one", 0, "db"), Ok(false), "it took the place of the one");
    }

    #[test]
    fn folder_belongs_to_one_server() {
        let folder = tempfile::tempdir().unwrap();
        let held = lock(folder.path()).unwrap();
        assert!(matches!(lock(folder.path()), Err(OpenError::InUse(_))));
        drop(held);
        lock(folder.path()).unwrap();
    }
}
