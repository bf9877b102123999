//! `jan-server export` and `jan-server import`.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, IsTerminal, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use clap::Args;
use jan_actors::backup::{self, Counts, ImportMode, OfflineError};

use crate::cli::SettingsArgs;
use crate::config::ConfigError;

/// Records between two reports of progress.
const PROGRESS_EVERY: u64 = 1000;

/// `export`
#[derive(Debug, Args)]
pub struct ExportArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Export the data of one user only, by id or email address.
    #[arg(long, value_name = "ID|EMAIL")]
    user: Option<String>,
    /// Output file [default: standard output]. An existing file is replaced once the export is complete.
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
}

/// `import`
#[derive(Debug, Args)]
pub struct ImportArgs {
    #[command(flatten)]
    settings: SettingsArgs,
    /// Input file [default: standard input].
    #[arg(long, short, value_name = "FILE")]
    input: Option<PathBuf>,
    /// Replace a store that has data; the old one is kept next to it.
    #[arg(long, conflicts_with = "merge")]
    replace: bool,
    /// Merge the import into a store that has data; its records replace those with the same keys.
    #[arg(long)]
    merge: bool,
    /// Import keys, sessions, users and share links in their exported state, also those that were revoked, ended or
    /// disabled since. Without this flag, revocations are kept.
    #[arg(long)]
    restore_revoked: bool,
}

/// Reasons why an export or an import fails.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A setting is wrong.
    #[error(transparent)]
    Settings(#[from] ConfigError),
    /// The export or import failed.
    #[error(transparent)]
    Backup(#[from] OfflineError),
    /// A file cannot be used.
    #[error("cannot use {path}: {error}")]
    File {
        /// The path.
        path: PathBuf,
        /// The system's error.
        error: io::Error,
    },
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> Failure {
    let path = path.to_owned();
    move |error| Failure::File { path, error }
}

/// Runs an export.
///
/// # Errors
/// See [`Failure`].
pub fn export(arguments: &ExportArgs) -> Result<(), Failure> {
    let storage = arguments.settings.load()?.storage;
    let user = arguments.user.as_deref();
    let mut progress = Progress::new("exported");
    let counts = match &arguments.output {
        None => {
            let mut output = BufWriter::new(io::stdout().lock());
            backup::export(&storage, user, &mut output, &mut |count| progress.show(count))?
        }
        Some(path) => {
            // Written to a new file first, so that an export that fails does not replace a complete one.
            let mut draft = path.clone().into_os_string();
            draft.push(".new");
            let draft = PathBuf::from(draft);
            let output = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
            let mut output = BufWriter::new(output.map_err(file(&draft))?);
            let written = backup::export(&storage, user, &mut output, &mut |count| progress.show(count));
            let synced = written.map_err(Failure::from).and_then(|counts| {
                output.get_ref().sync_all().map_err(file(&draft))?;
                std::fs::rename(&draft, path).map_err(file(path))?;
                Ok(counts)
            });
            synced.inspect_err(|_| {
                let _ = std::fs::remove_file(&draft);
            })?
        }
    };
    progress.end(&counts);
    Ok(())
}

/// Runs an import.
///
/// # Errors
/// See [`Failure`].
pub fn import(arguments: &ImportArgs) -> Result<(), Failure> {
    let storage = arguments.settings.load()?.storage;
    let mode = match (arguments.replace, arguments.merge) {
        (true, _) => ImportMode::Replace,
        (_, true) => ImportMode::Merge,
        _ => ImportMode::Fresh,
    };
    let mut input: Box<dyn Read> = match &arguments.input {
        None => Box::new(io::stdin().lock()),
        Some(path) => Box::new(File::open(path).map_err(file(path))?),
    };
    let mut progress = Progress::new("imported");
    let restore = arguments.restore_revoked;
    let counts = backup::import(&storage, mode, restore, &mut input, &mut |count| progress.show(count))?;
    progress.end(&counts);
    Ok(())
}

/// Progress on standard error: a line that is updated on a terminal, one line at the end otherwise.
struct Progress {
    verb: &'static str,
    terminal: bool,
    shown: u64,
}

impl Progress {
    fn new(verb: &'static str) -> Self {
        Self { verb, terminal: io::stderr().is_terminal(), shown: 0 }
    }

    fn show(&mut self, count: u64) {
        if self.terminal && count >= self.shown + PROGRESS_EVERY {
            self.shown = count;
            // A closed standard error is harmless.
            let _ = write!(io::stderr(), "\r{} {count} records", self.verb);
        }
    }

    fn end(&self, counts: &Counts) {
        let all: u64 = counts.values().sum();
        let kinds: Vec<String> = counts.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
        let start = if self.terminal { "\r" } else { "" };
        let _ = writeln!(io::stderr(), "{start}{} {all} records: {}", self.verb, kinds.join(", "));
    }
}
