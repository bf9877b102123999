use serde::{Deserialize, Serialize};

/// `[structured]`
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StructuredConfig {
    /// Number of further tries of an answer that fails the check of the part of its schema that is not enforced.
    pub retries: u32,
    /// Holds streamed answers with such schemas back until they have passed, so that they can be tried again.
    pub buffer_streams: bool,
}

impl Default for StructuredConfig {
    fn default() -> Self {
        Self { retries: 2, buffer_streams: false }
    }
}

impl StructuredConfig {
    /// Returns the number of further tries of answers that are held back until they have passed; `None` if they are
    /// not, since all of their schema is enforced or because they are streamed.
    #[must_use]
    pub const fn tries(&self, stream: bool, enforced: bool) -> Option<u32> {
        if enforced || (stream && !self.buffer_streams) { None } else { Some(self.retries) }
    }
}
