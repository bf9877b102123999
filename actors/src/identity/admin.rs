//! The first start's administrator, whose key opens everything.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::error::IdentityError;
use super::permissions::Permissions;
use super::restrictions::Restrictions;
use super::types::{NewKey, UserKind};
use super::{api_keys, call::Desk, now_s, users};
use crate::limits::LimitOverrides;
use crate::store::files::write_private;
use crate::store::{AccountChange, Changes};

/// Where the first administrator's key lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminKeyFile {
    /// `<data-dir>/admin.key`; it may have been moved away since.
    pub path: PathBuf,
    /// Whether this start made it.
    pub new: bool,
}

/// Why there is no administrator.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The key's file cannot be written.
    #[error("cannot write the administrator's key to {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// The administrator cannot be stored.
    #[error("cannot store the administrator: {0}")]
    Store(#[from] IdentityError),
}

/// Makes an administrator with a key in `<data-dir>/admin.key` where there is no administrator yet. Blocks.
///
/// The file comes first: a crash in between leaves a key that is none, and the next start makes another. The other
/// way round would leave an administrator whose key nobody has.
pub fn ensure(desk: &Desk, data_dir: &Path) -> Result<AdminKeyFile, AdminError> {
    let path = data_dir.join("admin.key");
    if !desk.index.users_of(UserKind::Admin).is_empty() {
        return Ok(AdminKeyFile { path, new: false });
    }
    let now = now_s();
    let admin = users::new_user(UserKind::Admin, None, "Administrator".to_owned(), now);
    let key = NewKey {
        name: "admin.key of the first start".to_owned(),
        permissions: Permissions::ALL,
        expires_at: None,
        limits: LimitOverrides::default(),
        only: Restrictions::default(),
    };
    let (hash, key) = api_keys::make(admin.id, key, now);
    write_private(&path, format!("{}\n", key.secret.reveal()).as_bytes())
        .map_err(|error| AdminError::File { path: path.clone(), error })?;
    let accounts = vec![AccountChange::PutUser(admin), AccountChange::PutKey(hash, key.record)];
    let changes = Changes::accounts(accounts);
    let (done, outcome) = mpsc::channel();
    desk.carry_out(
        move |_| Ok(((), changes)),
        move |outcome| {
            let _ = done.send(outcome);
        },
    );
    let lost = IdentityError::Storage("the store's thread has ended".to_owned());
    outcome.recv().unwrap_or(Err(lost))?;
    Ok(AdminKeyFile { path, new: true })
}
