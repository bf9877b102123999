//! Normalisation of JSON Schemas for constrained generation.
//!
//! A caller's schema becomes two schemas. [`Normalized::checked`] means the same in one dialect (2020-12 without
//! annotations, dialects, ids and references outside of `$defs`); finished answers are checked against it.
//! [`Normalized::enforced`] is what the grammar compiler gets: the same meaning in the keywords that the compiler can
//! enforce, and a superset where there is no such form. [`Normalized::unenforced`] names the keywords of the difference.
//!
//! All walks are bounded: in the number of values, in depth, and in what a rewrite may add.

mod alternatives;
mod canonical;
mod decimal;
mod disjoint;
mod ecma;
mod enforce;
pub mod exact;
mod formats;
mod graph;
mod negation;
mod numbers;
mod objects;
mod references;
mod relax;

use std::collections::BTreeSet;

use serde_json::Value;

pub(crate) use self::numbers::type_of;
pub use self::relax::{RELAXATIONS, relaxed};

/// The message about a schema that contradicts itself.
pub const UNSATISFIABLE: &str =
    "no answer of any length satisfies it: it contradicts itself or never comes to an end";

/// The beginning of messages about the schema of a tool; its name and a quotation mark follow.
pub const TOOL_DEFECT: &str = "the parameters of the tool '";

/// Maximum number of values of a schema, and of its normalised forms.
const MAX_VALUES: usize = 100_000;

/// Maximum depth of nested schemas without references. The parser of bodies allows 128 levels of JSON.
const MAX_DEPTH: usize = 160;

/// A schema that is not one, or that exceeds a bound.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{message}", place(.at))]
pub struct SchemaError {
    /// JSON pointer of the place; empty for the whole schema.
    pub at: String,
    /// The defect.
    pub message: String,
}

fn place(at: &str) -> String {
    if at.is_empty() { String::new() } else { format!("at '{at}': ") }
}

/// The two forms of a schema.
#[derive(Clone, Debug, PartialEq)]
pub struct Normalized {
    /// The meaning of the schema, in one dialect.
    pub checked: Value,
    /// The part that is enforced during generation.
    pub enforced: Value,
    /// The keywords that `enforced` does not cover, in alphabetical order.
    pub unenforced: BTreeSet<&'static str>,
}

/// Normalises a schema.
///
/// # Errors
/// See [`SchemaError`].
pub fn normalize(schema: &Value) -> Result<Normalized, SchemaError> {
    let checked = canonical::canonical(schema)?;
    let (enforced, unenforced) = enforce::enforceable(&checked)?;
    Ok(Normalized { checked, enforced, unenforced })
}

/// Returns `true` for a schema that accepts everything.
fn accepts_all(schema: &Value) -> bool {
    match schema {
        Value::Bool(all) => *all,
        Value::Object(fields) => fields.is_empty(),
        _ => false,
    }
}

/// The number of values in a value, itself included.
fn weight(value: &Value) -> usize {
    let (mut weight, mut left) = (0, vec![value]);
    while let Some(value) = left.pop() {
        weight += 1;
        match value {
            Value::Array(values) => left.extend(values),
            Value::Object(fields) => left.extend(fields.values()),
            _ => {}
        }
    }
    weight
}

#[cfg(test)]
mod tests;
