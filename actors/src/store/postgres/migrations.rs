//! The schema of the tables: numbered migrations, each applied once, under a lock that all servers share.
//!
//! A migration that a program before it can live with is no `breaking` one: that program runs on beside newer ones, so
//! that servers can be replaced one after the other. Columns and tables are added in one version and removed in a later one.

use tokio_postgres::Client;

use super::errors;
use crate::store::{OpenError, Problem, SCHEMA};

/// A migration.
struct Migration {
    number: i32,
    name: &'static str,
    /// `true` if a program that does not know it must not use the tables any more.
    breaking: bool,
    /// Its statements, before the functions are made again.
    tables: &'static str,
    /// Its statements after that.
    triggers: &'static str,
}

static MIGRATIONS: &[Migration] = &[Migration {
    number: 1,
    name: "tables",
    breaking: true,
    tables: include_str!("migrations/0001_tables.sql"),
    triggers: include_str!("migrations/0001_triggers.sql"),
}];

/// The functions of the triggers, made again with every migration.
const FUNCTIONS: &str = include_str!("migrations/functions.sql");

/// The migrations of a database that are still to be applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MigrationPlan {
    /// The number of the last one that was applied; 0: there are no tables.
    pub applied: i32,
    /// The number and name of each that is missing.
    pub missing: Vec<(i32, &'static str)>,
}

fn backend(error: &tokio_postgres::Error) -> OpenError {
    OpenError::Backend(Problem::new(
        format!("the database's tables cannot be prepared: {}", errors::message(error)),
        "Its role needs a schema of its own (storage.schema) or the right to create one (GRANT CREATE ON DATABASE)",
    ))
}

/// A text with the schema in it.
pub fn in_schema(statements: &str, schema: &str) -> String {
    statements.replace("{s}", schema).replace("{name}", schema)
}

/// The functions of the triggers for a schema.
pub fn functions(schema: &str) -> String {
    in_schema(FUNCTIONS, schema)
}

/// Returns whether there are tables in a schema.
///
/// # Errors
/// The database failed.
pub async fn exists(client: &Client, schema: &str) -> Result<bool, OpenError> {
    let sql = format!("SELECT to_regclass('{schema}.migration') IS NOT NULL");
    let row = client.query_typed_one(&sql, &[]).await.map_err(|error| backend(&error))?;
    row.try_get(0).map_err(|error| backend(&error))
}

/// Compares a schema with what this program needs.
///
/// # Errors
/// A newer program changed the schema in a way that this one cannot live with, or the database failed.
pub async fn plan(client: &Client, schema: &str) -> Result<MigrationPlan, OpenError> {
    let mut applied = 0;
    if exists(client, schema).await? {
        let sql = format!("SELECT number, name, breaking FROM {schema}.migration ORDER BY number");
        let known = MIGRATIONS.last().map_or(0, |migration| migration.number);
        for row in client.query_typed(&sql, &[]).await.map_err(|error| backend(&error))? {
            let read =
                || Ok((row.try_get::<_, i32>(0)?, row.try_get::<_, String>(1)?, row.try_get::<_, bool>(2)?));
            let (number, name, breaking) = read().map_err(|error: tokio_postgres::Error| backend(&error))?;
            applied = applied.max(number);
            if number > known && breaking {
                return Err(newer(&format!(
                    "schema {schema}: migration {number}, {name}; this one knows up to {known}"
                )));
            }
        }
        let sql = format!("SELECT value FROM {schema}.meta WHERE key = 'record_schema'");
        let row = client.query_typed_opt(&sql, &[]).await.map_err(|error| backend(&error))?;
        let records: Option<String> =
            row.map(|row| row.try_get(0)).transpose().map_err(|error| backend(&error))?;
        if records.and_then(|records| records.parse::<u32>().ok()).is_some_and(|records| records > SCHEMA) {
            return Err(newer(&format!("records of a schema beyond {SCHEMA}")));
        }
    }
    let missing = MIGRATIONS.iter().filter(|migration| migration.number > applied);
    Ok(MigrationPlan {
        applied,
        missing: missing.map(|migration| (migration.number, migration.name)).collect(),
    })
}

fn newer(what: &str) -> OpenError {
    OpenError::Newer(Problem::new(
        format!("the database was written by a newer version of this program ({what})"),
        "Use that version, or restore a backup from before the upgrade",
    ))
}

/// Applies what is missing, in one transaction. Of several servers that start together, one does it and the others wait.
///
/// # Errors
/// As [`plan`].
pub async fn migrate(client: &Client, schema: &str) -> Result<(), OpenError> {
    // Most starts find everything in place, and need no lock.
    if plan(client, schema).await?.missing.is_empty() {
        return Ok(());
    }
    let run =
        async |statements: &str| client.batch_execute(statements).await.map_err(|error| backend(&error));
    run(&format!("BEGIN; SELECT pg_advisory_xact_lock(hashtextextended('jan-server migrate {schema}', 0))"))
        .await?;
    let outcome = migrate_locked(client, schema).await;
    let end = if outcome.is_ok() { "COMMIT" } else { "ROLLBACK" };
    let ended = run(end).await;
    outcome.and(ended)
}

async fn migrate_locked(client: &Client, schema: &str) -> Result<(), OpenError> {
    let run =
        async |statements: &str| client.batch_execute(statements).await.map_err(|error| backend(&error));
    // The role may own the schema without the right to create one.
    let sql = format!("SELECT count(*) FROM pg_namespace WHERE nspname = '{schema}'");
    let row = client.query_typed_one(&sql, &[]).await.map_err(|error| backend(&error))?;
    if row.try_get::<_, i64>(0).map_err(|error| backend(&error))? == 0 {
        run(&format!("CREATE SCHEMA {schema}")).await?;
    }
    run(&format!(
        "CREATE TABLE IF NOT EXISTS {schema}.migration (number integer PRIMARY KEY, name text NOT NULL, \
         breaking boolean NOT NULL, applied_at timestamptz NOT NULL DEFAULT now()); \
         CREATE TABLE IF NOT EXISTS {schema}.meta (key text PRIMARY KEY, value text NOT NULL)"
    ))
    .await?;
    // Once more: another server may have done it while this one waited for the lock.
    let missing = plan(client, schema).await?.missing;
    for migration in
        MIGRATIONS.iter().filter(|migration| missing.iter().any(|(number, _)| *number == migration.number))
    {
        tracing::info!(
            number = migration.number,
            name = migration.name,
            schema,
            "the database's tables are migrated"
        );
        run(&in_schema(migration.tables, schema)).await?;
        run(&functions(schema)).await?;
        run(&in_schema(migration.triggers, schema)).await?;
        run(&format!(
            "INSERT INTO {schema}.migration (number, name, breaking) VALUES ({}, '{}', {})",
            migration.number, migration.name, migration.breaking
        ))
        .await?;
    }
    let id = uuid::Uuid::new_v4().as_simple().to_string();
    run(&format!(
        "INSERT INTO {schema}.meta (key, value) VALUES ('store_id', '{id}'), ('record_schema', '{SCHEMA}') \
         ON CONFLICT (key) DO NOTHING"
    ))
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_consecutive_and_names_need_no_quotes() {
        for (place, migration) in (1..).zip(MIGRATIONS) {
            assert_eq!(migration.number, place);
            assert!(migration.name.chars().all(|letter| letter.is_ascii_lowercase() || letter == ' '));
        }
    }
}
