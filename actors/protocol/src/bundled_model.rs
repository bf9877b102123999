//! Names of the model inside the program.

/// Its id.
pub const ID: &str = "jan-tiny";

/// Other ids that lead to it while no real weights are configured for them: the API examples' model.
pub const ALIASES: &[&str] = &["jan-v1-4b"];
