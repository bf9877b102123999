//! Constraints in the notations that llguidance compiles.

/// A constraint in a notation that llguidance compiles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// JSON Schema, as JSON text.
    JsonSchema(String),
    /// Regular expression.
    Regex(String),
    /// Grammar in llguidance's variant of Lark.
    Lark(String),
}
