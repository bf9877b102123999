//! Texts whose embeddings are wanted, as tokens.

use jan_protocol::embeddings::{EmbeddingInput, MAX_TOKENS};
use jan_protocol::report::{EmbeddingDraft, Rejection};
use jan_protocol::types::Token;

use super::{Preparer, check_tokens};
use crate::embedding::{EmbeddingJob, Input};
use crate::llama::Model;

impl Preparer {
    /// # Errors
    /// [`Rejection`], with the defect.
    pub fn embed(&self, model: &Model, draft: EmbeddingDraft) -> Result<EmbeddingJob, Rejection> {
        if !self.embeds {
            return Err(Rejection::InvalidParameter {
                param: "model",
                message: "this model is a cross-encoder, which scores pairs of texts and has no embeddings; name another one, or \
                          set 'models[].pooling' to embed with it nevertheless"
                    .to_owned(),
            });
        }
        let most = model.embedding_length();
        if draft.dimensions.is_some_and(|dimensions| !(1..=most).contains(&(dimensions as usize))) {
            let message = format!(
                "this model's embeddings have {most} dimensions; ask for 1 to {most}, or leave it out"
            );
            return Err(Rejection::InvalidParameter { param: "dimensions", message });
        }
        let mut inputs = Vec::with_capacity(draft.inputs.len());
        let mut total = 0usize;
        for (index, input) in draft.inputs {
            let tokens = self.input_tokens(model, index, input)?;
            total += tokens.len();
            if total > MAX_TOKENS {
                return Err(Rejection::InvalidPrompt(format!(
                    "the inputs have more than {MAX_TOKENS} tokens together, the most of one request; send fewer at a time"
                )));
            }
            inputs.push(Input { index, tokens });
        }
        Ok(EmbeddingJob { id: draft.id, user: draft.user, inputs, dimensions: draft.dimensions })
    }

    fn input_tokens(
        &self,
        model: &Model,
        index: u32,
        input: EmbeddingInput,
    ) -> Result<Vec<Token>, Rejection> {
        let limit = self.context_length;
        let too_long = |tokens: usize| Rejection::InputTooLong {
            index,
            limit,
            tokens: u32::try_from(tokens).unwrap_or(u32::MAX),
        };
        let at = |message: &str| Rejection::InvalidPrompt(format!("input {index}: {message}"));
        let tokens = match input {
            EmbeddingInput::Text(text) => {
                // As for prompts: text that cannot fit need not be tokenized.
                let least = text.len() / self.longest_piece;
                if least > limit as usize {
                    return Err(too_long(least));
                }
                model.tokenize(&text, true)
            }
            EmbeddingInput::Tokens(tokens) => {
                let vocabulary = Token::try_from(model.vocabulary()).unwrap_or(0);
                check_tokens(&tokens, vocabulary).map_err(|rejection| match rejection {
                    Rejection::InvalidPrompt(message) => at(&message),
                    other => other,
                })?;
                tokens
            }
        };
        if tokens.is_empty() {
            return Err(at("it has no tokens; give at least one"));
        }
        if tokens.len() > limit as usize {
            return Err(too_long(tokens.len()));
        }
        Ok(tokens)
    }
}
