//! The reasons that a sled database cannot be opened, with their remedies.

use std::fmt::Display;
use std::io;
use std::path::Path;

use crate::store::error::Problem;
use crate::store::{OpenError, StoreError};

/// Another process has it open.
pub fn in_use(path: &Path) -> OpenError {
    OpenError::InUse(Problem::new(
        format!("the database {} is in use by another process", path.display()),
        "Stop that server first, or give this one a data folder of its own (--data-dir)",
    ))
}

/// The error of a store that lost its contents, or is another database.
pub fn wrong_store(path: &Path, id_file: &Path, expected: &str, found: &str) -> OpenError {
    OpenError::WrongStore(Problem::new(
        format!(
            "the database {} is not the one that belongs here: {} says {expected}, the database says {found}. It was \
             damaged or exchanged",
            path.display(),
            id_file.display()
        ),
        "Restore both from one backup; or, to begin again without any user, key or session, move both away",
    ))
}

/// A newer program wrote it.
pub fn newer(path: &Path, found: u32, known: u32) -> OpenError {
    OpenError::Newer(Problem::new(
        format!(
            "the database {} was written by a newer version of this program (schema {found}, this one knows up to \
             {known})",
            path.display()
        ),
        "Use that version, or restore a backup from before the upgrade",
    ))
}

/// The error of a store that has lost acknowledged changes.
pub fn behind(path: &Path, marker_file: &Path, expected: impl Display, found: impl Display) -> OpenError {
    let marker_file = marker_file.display();
    OpenError::Behind(Problem::new(
        format!(
            "the database {} has lost what was stored last: {marker_file} says {expected}, the database says {found}. \
             It was cut off or is an older copy",
            path.display()
        ),
        format!(
            "Restore the whole data folder from one backup; or, to go on from this older state and without what came \
             after it, delete {marker_file}"
        ),
    ))
}

/// A file cannot be used.
pub fn file(path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |error| OpenError::Backend(Problem::new(format!("cannot use {}: {error}", path.display()), ""))
}

/// sled cannot open it.
pub fn database(path: &Path, error: &StoreError) -> OpenError {
    OpenError::Backend(Problem::new(
        format!("cannot open the database {}: {error}", path.display()),
        "Where it is damaged, restore the whole data folder from one backup, or import an export (jan-server import)",
    ))
}
