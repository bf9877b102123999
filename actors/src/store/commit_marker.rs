//! The commit marker: the position that the database has reached, stored in a file outside it.
//!
//! sled opens a truncated file, or an old copy, without an error: as an earlier state, or as an empty database. So each
//! sync increments a number in the database and, after it, in this file. The file is not synced: after a power cut it
//! may be behind, which is harmless, but it is never ahead of the disk. A database that is behind it has lost
//! acknowledged changes.
//!
//! The length of its file is stored as well when the database is closed, which detects truncation before the next start.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// A position in the sequence of commits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CommitPosition {
    /// The number of the last sync.
    pub commit: u64,
    /// The length of the database's file when it was closed; 0 while it is open.
    pub length: u64,
}

/// The marker's file.
#[derive(Debug)]
pub struct CommitMarker {
    file: File,
}

impl CommitMarker {
    /// Opens the file, or creates it, and returns the position in it. A file that cannot be parsed counts as position 0,
    /// since a power cut in the middle of a write must not make the store unusable.
    pub fn open(path: &Path) -> io::Result<(Self, CommitPosition)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut text = [0; 41];
        let reached = match file.read_exact_at(&mut text, 0) {
            Ok(()) => parse(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => CommitPosition::default(),
            Err(error) => return Err(error),
        };
        Ok((Self { file }, reached))
    }

    /// Writes the position. In place, so that it needs no space on a full disk.
    pub fn write(&self, reached: CommitPosition) -> io::Result<()> {
        self.file.write_all_at(format!("{:020} {:020}\n", reached.commit, reached.length).as_bytes(), 0)
    }
}

fn parse(text: &[u8]) -> Option<CommitPosition> {
    let (commit, length) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(CommitPosition { commit: commit.parse().ok()?, length: length.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn position_is_read_as_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let (mark, reached) = CommitMarker::open(&path).unwrap();
        assert_eq!(reached, CommitPosition::default());
        for reached in
            [CommitPosition { commit: 7, length: 0 }, CommitPosition { commit: u64::MAX, length: 9 }]
        {
            mark.write(reached).unwrap();
            assert_eq!(CommitMarker::open(&path).unwrap().1, reached);
        }
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(CommitMarker::open(&path).unwrap().1, CommitPosition::default());
    }
}
