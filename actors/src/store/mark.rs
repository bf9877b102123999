//! What the database is known to have reached, kept outside it.
//!
//! sled opens a file that was cut off, or an old copy, without a word: as what it was earlier, or as nothing. So each
//! sync counts up a number in the database, and after it, here. The number here is written without a sync of its own:
//! after a power cut it may be behind, which does no harm, but it is never ahead of what is on disk. A database that is
//! behind it has lost something that was acknowledged.
//!
//! When the database is closed, its file's length is noted too: until the next start nobody may shorten it.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// The mark as it was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reached {
    /// The number of the last sync.
    pub commit: u64,
    /// The length of the database's file when it was closed; 0 while it is open.
    pub length: u64,
}

/// The file.
#[derive(Debug)]
pub struct Mark {
    file: File,
}

impl Mark {
    /// Opens the file, or makes it, and says what is in it. What cannot be read counts as nothing reached: a mark that
    /// a power cut left half written must not lock anybody out.
    pub fn open(path: &Path) -> io::Result<(Self, Reached)> {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
        let mut text = [0; 41];
        let reached = match file.read_exact_at(&mut text, 0) {
            Ok(()) => parse(&text).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Reached::default(),
            Err(error) => return Err(error),
        };
        Ok((Self { file }, reached))
    }

    /// Notes what is reached. In place, so that it needs no room on a full disk.
    pub fn write(&self, reached: Reached) -> io::Result<()> {
        self.file.write_all_at(format!("{:020} {:020}\n", reached.commit, reached.length).as_bytes(), 0)
    }
}

fn parse(text: &[u8]) -> Option<Reached> {
    let (commit, length) = std::str::from_utf8(text).ok()?.split_once(' ')?;
    Some(Reached { commit: commit.parse().ok()?, length: length.parse().ok()? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn written_and_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("mark");
        let (mark, reached) = Mark::open(&path).unwrap();
        assert_eq!(reached, Reached::default());
        for reached in [Reached { commit: 7, length: 0 }, Reached { commit: u64::MAX, length: 9 }] {
            mark.write(reached).unwrap();
            assert_eq!(Mark::open(&path).unwrap().1, reached);
        }
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(Mark::open(&path).unwrap().1, Reached::default());
    }
}
