//! The audit log: actors, actions on accounts, keys, sessions, shares and the store, addresses and outcomes.
//!
//! A record contains ids, names of actions and fields, and an address: no name, no email address, no secret, no content.
//! Recording does not wait. Refusals are bounded by address and in all ([`coalesce`]), so that no client can flood the log;
//! stored records are bounded by age and number, successful actions separately from refusals.

mod coalesce;
mod handle;
mod record;
mod stream;

pub use handle::{Audit, AuditError};
pub use record::{
    ACTIONS, Actor, AuditFilter, AuditId, AuditOutcome, AuditPage, AuditRecord, AuditWho, Class, LOST,
    MAX_FIELDS, OVERFLOW,
};
