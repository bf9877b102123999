//! Requests for embeddings on the wire.

use std::collections::BTreeMap;

use super::{Embed, EmbeddingInput, Tokens, embedding_input};
use crate::embeddings as types;
use crate::report::{EmbeddingDraft, Rejection};

impl Embed {
    /// The message for those inputs of a request that are still to be done.
    pub fn new(
        id: u64,
        request: &types::EmbeddingRequest,
        inputs: &BTreeMap<u32, types::EmbeddingInput>,
    ) -> Self {
        let input = |(&index, input): (&u32, &types::EmbeddingInput)| EmbeddingInput {
            index,
            input: Some(match input.clone() {
                types::EmbeddingInput::Text(text) => embedding_input::Input::Text(text),
                types::EmbeddingInput::Tokens(tokens) => embedding_input::Input::Tokens(Tokens { tokens }),
            }),
        };
        Self {
            id,
            request_id: request.request_id.clone(),
            user: request.user.clone(),
            inputs: inputs.iter().map(input).collect(),
            dimensions: request.dimensions,
        }
    }

    /// The worker's view of it.
    ///
    /// # Errors
    /// A message that a server of this version does not send.
    pub fn into_draft(self) -> Result<EmbeddingDraft, Rejection> {
        let input = |input: EmbeddingInput| match input.input {
            Some(embedding_input::Input::Text(text)) => Ok((input.index, types::EmbeddingInput::Text(text))),
            Some(embedding_input::Input::Tokens(tokens)) => {
                Ok((input.index, types::EmbeddingInput::Tokens(tokens.tokens)))
            }
            None => Err(Rejection::Internal("malformed embed message: an input without contents".to_owned())),
        };
        Ok(EmbeddingDraft {
            id: self.id,
            user: self.user,
            inputs: self.inputs.into_iter().map(input).collect::<Result<_, _>>()?,
            dimensions: self.dimensions,
        })
    }
}
