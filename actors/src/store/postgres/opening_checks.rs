//! The settings of a PostgreSQL server that the store relies on.

use tokio_postgres::Client;

use super::errors;
use crate::store::{OpenError, Problem};

/// The oldest version whose features the tables use.
const OLDEST_VERSION: i32 = 130_000;

/// Facts that a server states about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSettings {
    /// As in `server_version_num`.
    pub version: i32,
    /// The encoding of the database.
    pub encoding: String,
    /// `fsync`
    pub fsync: String,
    /// `full_page_writes`
    pub full_page_writes: String,
    /// `synchronous_commit` of this role and database.
    pub synchronous_commit: String,
    /// `true` if it is a standby, or all transactions are read-only.
    pub read_only: bool,
}

impl ServerSettings {
    /// Asks a server.
    ///
    /// # Errors
    /// The database failed.
    pub async fn of(client: &Client) -> Result<Self, OpenError> {
        let sql = "SELECT current_setting('server_version_num')::integer, current_setting('server_encoding'), \
                   current_setting('fsync'), current_setting('full_page_writes'), current_setting('synchronous_commit'), \
                   pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on'";
        let read = async || {
            let row = client.query_typed_one(sql, &[]).await?;
            Ok(Self {
                version: row.try_get(0)?,
                encoding: row.try_get(1)?,
                fsync: row.try_get(2)?,
                full_page_writes: row.try_get(3)?,
                synchronous_commit: row.try_get(4)?,
                read_only: row.try_get(5)?,
            })
        };
        read().await.map_err(|error: tokio_postgres::Error| {
            OpenError::Backend(Problem::new(
                format!("the database does not tell its settings: {}", errors::message(&error)),
                "",
            ))
        })
    }

    /// Checks that data is safe there.
    ///
    /// # Errors
    /// The setting, and what to do.
    pub fn check(&self, name: &str, allow_unsafe_durability: bool) -> Result<(), OpenError> {
        let wrong = |problem: String, remedy: &str| {
            Err(OpenError::Backend(Problem::new(
                format!("the database {name} cannot be used: {problem}"),
                remedy,
            )))
        };
        if self.version < OLDEST_VERSION {
            return wrong(
                format!("it is version {}, and 13 is the oldest that is supported", self.version / 10_000),
                "Upgrade it",
            );
        }
        if self.encoding != "UTF8" {
            return wrong(
                format!("its encoding is {}, which does not hold every text", self.encoding),
                "Create one with ENCODING 'UTF8' TEMPLATE template0",
            );
        }
        if self.read_only {
            return wrong(
                "it is a standby or read-only".to_owned(),
                "Name the primary in storage.url; with several hosts, the one that can be written to is chosen",
            );
        }
        let unsafe_settings = [
            ("fsync", &self.fsync),
            ("full_page_writes", &self.full_page_writes),
            ("synchronous_commit", &self.synchronous_commit),
        ];
        for (setting, value) in unsafe_settings {
            if value == "off" && !allow_unsafe_durability {
                return wrong(
                    format!("{setting} is off, so that a crash loses changes that were acknowledged"),
                    "Turn it on there; or accept that loss with storage.allow_unsafe_durability = true",
                );
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fine() -> ServerSettings {
        let on = || "on".to_owned();
        ServerSettings {
            version: 150_004,
            encoding: "UTF8".to_owned(),
            fsync: on(),
            full_page_writes: on(),
            synchronous_commit: on(),
            read_only: false,
        }
    }

    #[test]
    fn unsafe_settings_are_refused_unless_told() {
        let off = || "off".to_owned();
        assert_eq!(fine().check("db", false), Ok(()));
        for (settings, name) in [
            (ServerSettings { fsync: off(), ..fine() }, "fsync"),
            (ServerSettings { full_page_writes: off(), ..fine() }, "full_page_writes"),
            (ServerSettings { synchronous_commit: off(), ..fine() }, "synchronous_commit"),
        ] {
            let error = settings.check("db", false).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("storage.allow_unsafe_durability"), "{error}");
            assert_eq!(settings.check("db", true), Ok(()));
        }
        for remote in ["local", "remote_write", "remote_apply"] {
            let settings = ServerSettings { synchronous_commit: remote.to_owned(), ..fine() };
            assert_eq!(settings.check("db", false), Ok(()), "it waits for the disk of this server at least");
        }
    }

    #[test]
    fn unusable_servers_are_refused_in_any_case() {
        for (settings, part) in [
            (ServerSettings { version: 120_001, ..fine() }, "version 12"),
            (ServerSettings { encoding: "LATIN1".to_owned(), ..fine() }, "LATIN1"),
            (ServerSettings { read_only: true, ..fine() }, "standby"),
        ] {
            let error = settings.check("db.example:5432/jan", true).unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("db.example"), "{error}");
        }
    }
}
