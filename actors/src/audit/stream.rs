//! The audit log as lines of JSON on a stream of its own: standard error or a file.
//!
//! A thread writes; a caller puts its line into a bounded queue and continues. The file is opened for appending, and reopened if
//! it was moved or removed, so that `logrotate` works with and without `copytruncate`.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::record::{AuditOutcome, AuditRecord, LOST};

/// Maximum number of records that wait to be written.
const QUEUE: usize = 4096;

/// Minimum interval between log messages about failures.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Maximum time that the server's stop waits for the last lines.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Interval at which the report of lost lines is retried while nothing else is written.
const TRY_AGAIN: Duration = Duration::from_secs(5);

/// Handle to the stream. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stream {
    lines: Arc<Mutex<Option<SyncSender<AuditRecord>>>>,
    lost: Arc<Mutex<u64>>,
    ended: Arc<Mutex<Receiver<()>>>,
}

impl Stream {
    /// Opens the stream that `audit.stream` names; `None`: no stream.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(setting: &str) -> io::Result<Option<Self>> {
        let output = match setting {
            "off" => return Ok(None),
            "stderr" => Output::Standard,
            path => Output::File(Appended::open(path.into())?),
        };
        let (lines, queue) = sync_channel(QUEUE);
        let (done, ended) = sync_channel(1);
        let lost = Arc::new(Mutex::new(0));
        let writer = Writer { output, lost: Arc::clone(&lost), warned: None };
        let thread = std::thread::Builder::new().name("audit stream".to_owned()).spawn(move || {
            writer.run(&queue);
            let _ = done.try_send(());
        });
        thread?;
        Ok(Some(Self { lines: Arc::new(Mutex::new(Some(lines))), lost, ended: Arc::new(Mutex::new(ended)) }))
    }

    /// Queues a record for writing. If the queue is full, the record is counted as lost.
    pub fn write(&self, record: &AuditRecord) {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let sent = lines.as_ref().is_some_and(|lines| lines.try_send(record.clone()).is_ok());
        if !sent {
            add(&self.lost, record.count);
        }
    }

    /// Writes the queued records. Blocks for a limited time.
    pub fn close(&self) {
        drop(self.lines.lock().unwrap_or_else(PoisonError::into_inner).take());
        let _ = self.ended.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(CLOSE_TIMEOUT);
    }
}

fn add(lost: &Mutex<u64>, count: u64) {
    let mut lost = lost.lock().unwrap_or_else(PoisonError::into_inner);
    *lost = lost.saturating_add(count);
}

struct Writer {
    output: Output,
    lost: Arc<Mutex<u64>>,
    warned: Option<Instant>,
}

impl Writer {
    fn run(mut self, queue: &Receiver<AuditRecord>) {
        loop {
            match queue.recv_timeout(TRY_AGAIN) {
                Ok(record) => {
                    self.tell_of_lost();
                    self.write(&record);
                }
                Err(RecvTimeoutError::Timeout) => self.tell_of_lost(),
                Err(RecvTimeoutError::Disconnected) => return self.tell_of_lost(),
            }
        }
    }

    /// Writes a record of the number of lost lines at the place where they are missing.
    fn tell_of_lost(&mut self) {
        let lost = std::mem::take(&mut *self.lost.lock().unwrap_or_else(PoisonError::into_inner));
        if lost > 0 {
            let record = AuditRecord { count: lost, ..AuditRecord::new(LOST, AuditOutcome::Failed) };
            self.write(&record);
        }
    }

    fn write(&mut self, record: &AuditRecord) {
        let mut line =
            serde_json::to_vec(record).expect("a record is numbers and texts, which have a JSON form");
        line.push(b'\n');
        let Err(error) = self.output.write(&line) else { return };
        add(&self.lost, record.count);
        if self.warned.is_none_or(|warned| warned.elapsed() >= WARN_EVERY) {
            self.warned = Some(Instant::now());
            tracing::warn!(%error, "a record cannot be written to the audit stream (audit.stream); it is counted as lost");
        }
    }
}

enum Output {
    Standard,
    File(Appended),
}

impl Output {
    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        match self {
            Self::Standard => io::stderr().lock().write_all(line),
            Self::File(file) => file.write(line),
        }
    }
}

/// A file that lines are appended to, with its path.
struct Appended {
    path: PathBuf,
    file: Option<File>,
    /// True if the last line may be incomplete.
    torn: bool,
}

impl Appended {
    fn open(path: PathBuf) -> io::Result<Self> {
        let file = open(&path)?;
        Ok(Self { path, file: Some(file), torn: false })
    }

    fn write(&mut self, line: &[u8]) -> io::Result<()> {
        if !self.file.as_ref().is_some_and(|file| is_at(file, &self.path)) {
            self.file = None;
        }
        let mut file = match &self.file {
            Some(file) => file,
            None => {
                self.torn = false;
                self.file.insert(open(&self.path)?)
            }
        };
        // A line cut off by a full disk must not merge with the next line.
        let ended: &[u8] = if self.torn { b"\n" } else { b"" };
        let whole = [ended, line].concat();
        let mut written = 0;
        while written < whole.len() {
            match file.write(&whole[written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => {
                    written += more;
                    self.torn = written < whole.len();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

/// Opens a file for appending. A pipe without a reader, which would block, is refused.
fn open(path: &Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOCTTY;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(flags).open(path)
}

/// Returns whether a path still leads to that file.
fn is_at(file: &File, path: &Path) -> bool {
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn lines(path: &Path) -> Vec<AuditRecord> {
        let text = std::fs::read_to_string(path).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    #[test]
    fn lines_are_appended_to_a_private_file_and_after_a_move() {
        let folder = tempfile::tempdir().unwrap();
        let (path, moved) = (folder.path().join("audit.jsonl"), folder.path().join("audit.jsonl.1"));
        let mut file = Appended::open(path.clone()).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let record = AuditRecord::new("import", AuditOutcome::Ok);
        let mut line = serde_json::to_vec(&record).unwrap();
        line.push(b'\n');
        file.write(&line).unwrap();
        std::fs::rename(&path, &moved).unwrap();
        file.write(&line).unwrap();
        std::fs::remove_file(&path).unwrap();
        file.write(&line).unwrap();
        file.write(&line).unwrap();
        assert_eq!((lines(&moved).len(), lines(&path).len()), (1, 2));
        // copytruncate
        File::options().write(true).open(&path).unwrap().set_len(0).unwrap();
        file.write(&line).unwrap();
        assert_eq!(lines(&path), [record]);
    }

    #[test]
    fn lost_lines_are_reported_after_recovery() {
        let folder = tempfile::tempdir().unwrap();
        let (inner, path) = (folder.path().join("a"), folder.path().join("a/audit.jsonl"));
        std::fs::create_dir(&inner).unwrap();
        let stream = Stream::open(path.to_str().unwrap()).unwrap().unwrap();
        std::fs::remove_dir_all(&inner).unwrap();
        let record = AuditRecord::new("export", AuditOutcome::Ok);
        stream.write(&record);
        stream.write(&record);
        let began = Instant::now();
        while *stream.lost.lock().unwrap() < 2 {
            assert!(began.elapsed() < Duration::from_secs(10), "both are counted as lost");
            std::thread::sleep(Duration::from_millis(1));
        }
        std::fs::create_dir(&inner).unwrap();
        stream.write(&record);
        stream.close();
        let written = lines(&path);
        assert_eq!(written.len(), 2, "{written:?}");
        assert_eq!((written[0].action.as_ref(), written[0].count), (LOST, 2));
        assert_eq!(written[1], record);
        stream.write(&record);
        assert_eq!(*stream.lost.lock().unwrap(), 1, "nobody writes any more");
    }

    #[test]
    fn unusable_paths_are_refused_at_opening() {
        let folder = tempfile::tempdir().unwrap();
        assert!(Stream::open(folder.path().to_str().unwrap()).is_err(), "a folder");
        assert!(Stream::open(folder.path().join("no/such").to_str().unwrap()).is_err());
        assert!(Stream::open("off").unwrap().is_none());
    }
}
