//! The audit log: who did what to accounts, keys, sessions, shares and the store, from where, and with which outcome.
//!
//! A record holds ids, names of actions and fields, and an address: no name, no email address, no secret, no content.
//! Whoever records waits for nothing. What was refused is bounded by address and in all ([`coalesce`]), so that nobody
//! floods the log; what is kept is bounded by age and number, what was done apart from what was refused.

mod coalesce;
mod handle;
mod record;
mod stream;

pub use handle::{Audit, AuditError};
pub use record::{
    ACTIONS, Actor, AuditFilter, AuditId, AuditOutcome, AuditPage, AuditRecord, AuditWho, Class, LOST,
    MAX_FIELDS, OVERFLOW,
};
