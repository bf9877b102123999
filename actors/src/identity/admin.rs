//! The administrator created at the first start, whose key has all permissions.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::mpsc;

use super::error::IdentityError;
use super::permissions::Permissions;
use super::restrictions::Restrictions;
use super::types::{NewKey, UserKind};
use super::{api_keys, call::IdentityWriter, now_s, users};
use crate::limits::LimitOverrides;
use crate::store::files::write_private;
use crate::store::{AccountChange, Changes, StoreError, Stores};

/// Users read at a time.
const PAGE: usize = 1000;

/// The file of the first administrator's key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminKeyFile {
    /// `<data-dir>/admin.key`; an operator may have moved it since.
    pub path: PathBuf,
    /// True if this start created it.
    pub new: bool,
}

/// The reason why no administrator could be created.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// The key's file cannot be written.
    #[error("cannot write the administrator's key to {path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// The error of the operating system.
        error: io::Error,
    },
    /// The administrator cannot be stored.
    #[error("cannot store the administrator: {0}")]
    Store(#[from] IdentityError),
}

/// Creates an administrator with a key in `<data-dir>/admin.key` if there is no administrator yet. Blocks.
///
/// The file is written first: a crash in between leaves the file of a key that does not exist, and the next start creates
/// another. The reverse order would leave an administrator whose key is lost.
pub fn ensure(writer: &IdentityWriter, data_dir: &Path) -> Result<AdminKeyFile, AdminError> {
    let path = data_dir.join("admin.key");
    if !writer.index.users_of(UserKind::Admin).is_empty() {
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
    writer.carry_out(
        move |stores| async move {
            // Another server of the same database may have made one since this one read all users.
            match has_admin(&*stores).await? {
                true => Ok((false, Changes::default())),
                false => Ok((true, changes)),
            }
        },
        move |outcome| {
            let _ = done.send(outcome);
        },
    );
    let lost = IdentityError::Storage("the store's thread has ended".to_owned());
    let new = outcome.recv().unwrap_or(Err(lost))?;
    if !new {
        // The key of an administrator that there is not. What cannot be removed is of no use to anybody.
        let _ = std::fs::remove_file(&path);
    }
    Ok(AdminKeyFile { path, new })
}

/// Returns `true` if an administrator is stored. At a first start, there are few users.
async fn has_admin(stores: &dyn Stores) -> Result<bool, StoreError> {
    let mut after = None;
    loop {
        let users = stores.accounts().users(after, PAGE).await?;
        if users.iter().any(|user| user.kind == UserKind::Admin) {
            return Ok(true);
        }
        match users.last() {
            Some(last) => after = Some(last.id),
            None => return Ok(false),
        }
    }
}
