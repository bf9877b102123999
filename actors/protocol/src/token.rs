//! Tokens.

/// A token's number in its model's vocabulary (`llama_token`).
pub type Token = i32;
