//! Settings of the store.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// The database that keeps users, keys, sessions, conversations, responses, usage and the audit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StorageKind {
    /// An embedded database in the data folder.
    #[default]
    Sled,
    /// A PostgreSQL server.
    Postgres,
}

/// A connection URL, which may hold a password: its debug form does not show it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DatabaseUrl(String);

impl DatabaseUrl {
    /// A URL.
    #[must_use]
    pub fn new(url: impl Into<String>) -> Self {
        Self(url.into())
    }

    /// The URL with its password. Not for logs and errors.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DatabaseUrl(***)")
    }
}

/// `[storage]`
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StorageConfig {
    /// Folder for everything that the server keeps (`--data-dir`).
    pub path: PathBuf,
    /// The database.
    pub kind: StorageKind,
    /// The URL of the PostgreSQL database.
    pub url: Option<DatabaseUrl>,
    /// A file with that URL, so that its password need not stand in the configuration.
    pub url_file: Option<PathBuf>,
    /// A URL that leads to the database itself, where `url` leads to a connection pooler.
    pub direct_url: Option<DatabaseUrl>,
    /// A file with that URL.
    pub direct_url_file: Option<PathBuf>,
    /// The schema with this program's tables.
    pub schema: String,
    /// Most connections of this server for queries.
    pub pool_size: usize,
    /// Longest time to connect, and to wait for a free connection (milliseconds).
    pub connect_timeout_ms: u64,
    /// Longest time of one statement (milliseconds).
    pub statement_timeout_ms: u64,
    /// A file whose contents are the key that shared signing keys are encrypted with. Unset: signing keys are not shared.
    pub key_file: Option<PathBuf>,
    /// `true` if several servers may use the schema at the same time.
    pub shared: bool,
    /// `true` if a database that acknowledges before data is on disk is accepted.
    pub allow_unsafe_durability: bool,
    /// Nothing is changed while the disk has less than this free (MiB). 0: until it is full.
    pub min_free_mib: u32,
    /// Most memory for parts of the database that were read (MiB). 0: a sixteenth of the machine's, from 64 to 1024. 8 at least.
    pub cache_mib: u32,
    /// Most size of the prefix cache on disk (MiB). 0: there is none.
    pub kv_mib: u32,
    /// File with the key that it is encrypted with, outside of `path`. Unset: a key of this installation, beside it.
    pub kv_key_file: Option<PathBuf>,
    /// Most that one user may keep of conversations and responses (MiB). 0: without a limit; so for the others.
    pub max_user_mib: u32,
    /// Most conversations of one user.
    pub max_user_conversations: u32,
    /// Most stored responses of one user.
    pub max_user_responses: u32,
    /// Most that one guest may keep of conversations and responses (MiB).
    pub max_guest_mib: u32,
    /// Most conversations of one guest.
    pub max_guest_conversations: u32,
    /// Most stored responses of one guest.
    pub max_guest_responses: u32,
}

impl StorageConfig {
    /// The same with the quotas of another one.
    #[cfg(test)]
    pub(crate) fn with_quotas_of(self, other: &Self) -> Self {
        Self {
            max_user_mib: other.max_user_mib,
            max_user_conversations: other.max_user_conversations,
            max_user_responses: other.max_user_responses,
            max_guest_mib: other.max_guest_mib,
            max_guest_conversations: other.max_guest_conversations,
            max_guest_responses: other.max_guest_responses,
            ..self
        }
    }

    /// `cache_mib` in bytes.
    pub fn cache_bytes(&self) -> u64 {
        match self.cache_mib {
            0 => (jan_protocol::memory::total().unwrap_or(0) / 16).clamp(64 << 20, 1024 << 20),
            mib => u64::from(mib.max(8)) << 20,
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            path: PathBuf::from("data"),
            kind: StorageKind::default(),
            url: None,
            url_file: None,
            direct_url: None,
            direct_url_file: None,
            schema: "jan".to_owned(),
            pool_size: 16,
            connect_timeout_ms: 3000,
            statement_timeout_ms: 10_000,
            key_file: None,
            shared: false,
            allow_unsafe_durability: false,
            min_free_mib: 64,
            cache_mib: 0,
            kv_mib: 4096,
            kv_key_file: None,
            max_user_mib: 4096,
            max_user_conversations: 100_000,
            max_user_responses: 100_000,
            max_guest_mib: 32,
            max_guest_conversations: 200,
            max_guest_responses: 500,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_in_no_debug_form() {
        let url = Some(DatabaseUrl::new("postgres://jan:hunter2@db/jan"));
        let config = StorageConfig { url: url.clone(), direct_url: url, ..StorageConfig::default() };
        let text = format!("{config:?}");
        assert!(!text.contains("hunter2") && text.contains("***"), "{text}");
    }
}
