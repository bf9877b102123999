//! Answers as server-sent events, for chat and text completions.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use jan_actors::model::TokenUsage;

use super::choices::{ChoiceEvent, Choices};
use crate::http::{ApiError, RequestId, sse};

/// Encodes the events of answers as the chunks of one API.
pub trait Encoder: Send + Sync + 'static {
    /// Takes the usage of all answers so far, before the chunks that report it.
    fn so_far(&mut self, answers: &[TokenUsage]);
    /// Writes the chunks before the first answer's text.
    fn opening(&mut self, buffer: &mut Vec<u8>);
    /// Writes the chunks of one event of one answer.
    fn event(&mut self, index: usize, event: ChoiceEvent, buffer: &mut Vec<u8>);
    /// Writes the chunks after the last answer's end, without `[DONE]`.
    fn closing(&mut self, buffer: &mut Vec<u8>);
}

enum Stage<E> {
    Opening(Choices, E),
    Running(Choices, E),
    Ended,
}

/// Returns the events of a whole response, including `[DONE]`. A failure ends it with an error event.
pub fn events<E: Encoder>(
    choices: Choices,
    encoder: E,
    id: RequestId,
    prompt_param: &'static str,
) -> impl Stream<Item = Bytes> + Send + Sync {
    unfold((Stage::Opening(choices, encoder), id), move |(stage, id)| async move {
        let mut buffer = Vec::new();
        let (mut choices, mut encoder) = match stage {
            Stage::Ended => return None,
            Stage::Opening(choices, mut encoder) => {
                encoder.so_far(choices.so_far());
                encoder.opening(&mut buffer);
                if !buffer.is_empty() {
                    return Some((buffer.into(), (Stage::Running(choices, encoder), id)));
                }
                (choices, encoder)
            }
            Stage::Running(choices, encoder) => (choices, encoder),
        };
        match choices.next().await {
            Some(Ok((index, event))) => {
                encoder.so_far(choices.so_far());
                encoder.event(index, event, &mut buffer);
                Some((buffer.into(), (Stage::Running(choices, encoder), id)))
            }
            Some(Err(error)) => {
                let error = ApiError::from_generation(error, prompt_param);
                let message = if error.may_quote() { "" } else { error.message() };
                tracing::warn!(code = error.code(), error = message, "stream failed");
                Some((sse::failure(&error, &id), (Stage::Ended, id)))
            }
            None => {
                encoder.closing(&mut buffer);
                buffer.extend_from_slice(sse::DONE);
                Some((buffer.into(), (Stage::Ended, id)))
            }
        }
    })
}
