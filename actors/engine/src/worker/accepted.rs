//! The answer to a request that was prepared.

use jan_protocol::worker_protocol::Accepted;

use crate::prompt::prepare::Prepared;

/// The message with which a prepared request is accepted.
pub fn accepted(prepared: &Prepared) -> Accepted {
    Accepted {
        prompt: prepared.prompt.id,
        prompt_tokens: prepared.told.as_ref().map_or_else(Vec::new, |told| told.tokens.to_vec()),
        prompt_text: prepared.told.as_ref().and_then(|told| told.text.as_deref().map(str::to_owned)),
        layout: Some((&prepared.layout).into()),
    }
}
