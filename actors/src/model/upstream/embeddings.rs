//! Embeddings of an upstream: the inputs of a request in batches, each tried as answers are.

use std::sync::Arc;
use std::time::Instant;

use jan_protocol::embeddings::{Embedding, EmbeddingInput, EmbeddingRequest};
use jan_protocol::types::GenerationError;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Shared;
use super::balancer::{Slot, Wanted};
use super::http::bounded;
use super::refusal::{Asked, TryError};
use super::request;
use super::tries::Tries;

/// Inputs of one request to an upstream.
const BATCH: usize = 32;
/// Maximum size of the answer to it: 32 vectors of 8192 numbers, and some more.
const MAX_ANSWER: usize = 32 << 20;

/// An embedding for the edge, or the end.
pub type Made = Result<Embedding, GenerationError>;

/// Makes all embeddings of a request.
pub async fn run(shared: Arc<Shared>, request: EmbeddingRequest, wanted: Wanted, made: mpsc::Sender<Made>) {
    let mut first = 0u32;
    for inputs in request.inputs.chunks(BATCH) {
        let embeddings = match batch(&shared, &request, inputs, wanted.clone()).await {
            Ok(embeddings) => embeddings,
            Err(error) => {
                let _ = made.send(Err(in_whole(error, first))).await;
                return;
            }
        };
        for (place, (vector, tokens)) in (0u32..).zip(embeddings) {
            let embedding = Embedding { index: first + place, tokens, vector };
            if made.send(Ok(embedding)).await.is_err() {
                return;
            }
        }
        first = first.saturating_add(u32::try_from(inputs.len()).unwrap_or(u32::MAX));
    }
}

/// Returns an error about a batch as one about the request.
fn in_whole(error: GenerationError, first: u32) -> GenerationError {
    match error {
        // The upstream does not say which of them.
        GenerationError::ContextLengthExceeded { limit, prompt_tokens, .. } => {
            GenerationError::InputTooLong { index: first, limit, tokens: prompt_tokens }
        }
        error => error,
    }
}

async fn batch(
    shared: &Shared,
    request: &EmbeddingRequest,
    inputs: &[EmbeddingInput],
    wanted: Wanted,
) -> Result<Vec<(Vec<f32>, u32)>, GenerationError> {
    let mut tries = Tries::new(shared, &request.user, &request.request_id, wanted);
    loop {
        let mut slot = tries.slot().await?;
        match one_try(shared, request, inputs, &mut slot).await {
            Ok(embeddings) => return Ok(embeddings),
            Err(failed) => {
                let most = shared.config.first_token_timeout();
                let is_alive = slot.last_progress().is_some_and(|last| last.elapsed() < most);
                // Others got theirs meanwhile.
                let failed = if is_alive { failed.suspected() } else { failed };
                tries.again(slot, failed).await?;
            }
        }
    }
}

async fn one_try(
    shared: &Shared,
    request: &EmbeddingRequest,
    inputs: &[EmbeddingInput],
    slot: &mut Slot,
) -> Result<Vec<(Vec<f32>, u32)>, TryError> {
    let asked = Asked { model: &shared.id, requested: 0 };
    let asking = request::embeddings(&slot.config.model, inputs, request.dimensions);
    let deadline = Instant::now() + shared.config.first_token_timeout();
    let address = &shared.addresses[slot.place];
    let answer = address.post(asking.route, &asking.body, &request.request_id, deadline, asked).await?;
    let body = bounded(answer, MAX_ANSWER, deadline, asked).await?;
    let made = read(&body, inputs).map_err(|problem| asked.broken(problem.to_owned()))?;
    slot.progressed();
    Ok(made)
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Item>,
    #[serde(default)]
    usage: Usage,
}

#[derive(Deserialize)]
struct Item {
    index: usize,
    embedding: Vec<f32>,
}

#[derive(Default, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: u32,
}

/// Returns the embeddings of a batch in the order of its inputs, each of length 1, with the tokens of each.
fn read(body: &[u8], inputs: &[EmbeddingInput]) -> Result<Vec<(Vec<f32>, u32)>, &'static str> {
    let answer: Answer = serde_json::from_slice(body).map_err(|_| "its answer has no embeddings")?;
    let mut vectors: Vec<Option<Vec<f32>>> = vec![None; inputs.len()];
    for Item { index, embedding } in answer.data {
        let place = vectors.get_mut(index).ok_or("its answer has embeddings of other inputs")?;
        let length = embedding.iter().map(|x| f64::from(*x) * f64::from(*x)).sum::<f64>().sqrt();
        if !length.is_normal() {
            return Err("its answer has an embedding without direction");
        }
        // Servers differ in whether they do so.
        *place = Some(embedding.into_iter().map(|x| (f64::from(x) / length) as f32).collect());
    }
    let vectors: Option<Vec<Vec<f32>>> = vectors.into_iter().collect();
    let vectors = vectors.ok_or("its answer lacks an embedding")?;
    Ok(vectors.into_iter().zip(divide(answer.usage.prompt_tokens, inputs)).collect())
}

/// Divides the tokens that an upstream reports for all inputs among them, by their length, at least one for each.
fn divide(total: u32, inputs: &[EmbeddingInput]) -> Vec<u32> {
    let length = |input: &EmbeddingInput| match input {
        EmbeddingInput::Text(text) => text.len() as u64,
        EmbeddingInput::Tokens(tokens) => tokens.len() as u64,
    };
    let all: u64 = inputs.iter().map(length).sum::<u64>().max(1);
    let spare = u64::from(total).saturating_sub(inputs.len() as u64);
    let (mut before, mut given) = (0, 0);
    let share = |input| {
        before += length(input);
        // Of rounded sums, so that no token is lost.
        let until = spare * before / all;
        let tokens = until - given + 1;
        given = until;
        u32::try_from(tokens).unwrap_or(u32::MAX)
    };
    inputs.iter().map(share).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn texts(texts: &[&str]) -> Vec<EmbeddingInput> {
        texts.iter().map(|text| EmbeddingInput::Text((*text).to_owned())).collect()
    }

    #[test]
    fn embeddings_are_put_in_order_and_to_length_1() {
        let body = json!({"data": [{"index": 1, "embedding": [0.0, 2.0]}, {"index": 0, "embedding": [3.0, 4.0]}], "usage": {"prompt_tokens": 7}});
        let read = |body: &serde_json::Value| read(body.to_string().as_bytes(), &texts(&["aaaa", "a"]));
        assert_eq!(read(&body).unwrap(), [(vec![0.6, 0.8], 5), (vec![0.0, 1.0], 2)]);
        for (wrong, problem) in [
            (json!({"data": []}), "lacks"),
            (json!({"data": [{"index": 2, "embedding": [1.0]}]}), "other inputs"),
            (json!({"data": [{"index": 0, "embedding": [0.0]}]}), "direction"),
            (json!({"error": "x"}), "no embeddings"),
        ] {
            assert!(read(&wrong).unwrap_err().contains(problem), "{wrong}");
        }
    }

    proptest! {
        /// All tokens are divided, and every input has one.
        #[test]
        fn no_token_is_lost(total in 0u32..10_000, lengths in prop::collection::vec(0usize..50, 1..40)) {
            let inputs: Vec<EmbeddingInput> = lengths.iter().map(|length| EmbeddingInput::Text("x".repeat(*length))).collect();
            let divided = divide(total, &inputs);
            let (least, sum) = (inputs.len() as u32, divided.iter().sum::<u32>());
            prop_assert!(divided.iter().all(|tokens| *tokens >= 1));
            if lengths.iter().any(|length| *length > 0) {
                prop_assert_eq!(sum, total.max(least));
            }
        }
    }
}
