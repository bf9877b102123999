//! The migrations of a database, for the command line. A server applies them by itself when it starts.

use crate::config::{StorageConfig, StorageKind};
use crate::store::{Access, MigrationPlan, OpenError, PgFactory, block_on};

/// Applies what is missing to a PostgreSQL database, and returns that. Blocks. `dry_run`: nothing is changed. `None`: the
/// store is another one, which needs none.
///
/// # Errors
/// See [`OpenError`].
pub fn migrate(storage: &StorageConfig, dry_run: bool) -> Result<Option<MigrationPlan>, OpenError> {
    if storage.kind != StorageKind::Postgres {
        return Ok(None);
    }
    let factory = PgFactory::new(storage, Access::Beside);
    let plan = block_on(factory.plan())?;
    if !dry_run && !plan.missing.is_empty() {
        block_on(factory.migrate())?;
    }
    Ok(Some(plan))
}
