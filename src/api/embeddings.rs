//! `POST /embeddings`.
//!
//! Source: `CreateEmbeddingRequest` and `CreateEmbeddingResponse` in OpenAI's API description.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jan_actors::identity::Right;
use jan_actors::model::{EmbeddingInput, EmbeddingRequest, GenerationError, Prompt};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::inference::metering::Meter;
use super::inference::prompt::PromptList;
use super::{
    inference::{params, permissions::check_model},
    respond::{json, name_ignored},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::routing::{Place, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// The field that holds the texts, for errors about it.
const INPUT: &str = "input";
/// Maximum number of texts in one request.
const MAX_INPUTS: usize = 2048;

/// `/embeddings`
pub fn routes() -> Vec<Route> {
    vec![route!(create, Place::Api, Access::Anonymous(Right::Infer)).inference()]
}

/// Create embeddings.
///
/// Each text becomes a vector of length 1; texts with similar meaning have vectors with similar directions,
/// so their dot product measures their similarity. Unknown fields are ignored and named in the response
/// header `X-Ignored-Fields`.
#[utoipa::path(
    post,
    path = "/embeddings",
    tag = "embeddings",
    operation_id = "createEmbedding",
    request_body = EmbeddingsRequest,
    responses(
        (status = 200, description = "The embeddings, in the order of the texts", body = EmbeddingList),
        (status = 400, description = "A field is missing or invalid, or a text is too long", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The content type of the body is not JSON", body = ErrorResponse),
        (status = 500, description = "The server failed", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let parsed = request.read::<EmbeddingsRequest, _>(&[], Ok).await?;
    let model = parsed.value.model.clone();
    let format = parsed.value.encoding_format.unwrap_or(EncodingFormat::Float);
    let request = parsed.value.check(&context)?;
    let count = request.inputs.len();
    check_model(&state, &context, &model).await?;
    let mut meter = Meter::start(&state, &context, false, count, 1)?;
    meter.of_model(&state.models, &model).await;
    let (vectors, tokens) = embed(&state, request, &mut meter).await.map_err(error)?;
    meter.settle().await;
    // On a blocking thread: a thousand vectors are megabytes of digits.
    let answer = move || json(&EmbeddingList::new(model, vectors, format, tokens));
    let mut response = tokio::task::spawn_blocking(answer).await.map_err(|_| ApiError::internal())?;
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Returns the vectors in the order of the inputs, and the number of input tokens.
async fn embed(
    state: &AppState,
    request: EmbeddingRequest,
    meter: &mut Meter,
) -> Result<(Vec<Vec<f32>>, u32), GenerationError> {
    let mut vectors = vec![None; request.inputs.len()];
    let mut tokens = 0u32;
    let mut embeddings = state.models.embed(request).await?;
    while let Some(embedding) = embeddings.recv().await {
        let embedding = embedding?;
        meter.read(embedding.tokens);
        tokens = tokens.saturating_add(embedding.tokens);
        if let Some(place) = vectors.get_mut(embedding.index as usize) {
            *place = Some(embedding.vector);
        }
    }
    let all: Option<Vec<_>> = vectors.into_iter().collect();
    let all = all.ok_or_else(|| GenerationError::Internal("the worker left embeddings out".to_owned()))?;
    Ok((all, tokens))
}

fn error(error: GenerationError) -> ApiError {
    match error {
        // Embeddings use no chat template.
        GenerationError::InvalidPrompt { message } => {
            ApiError::invalid_value(INPUT, format!("Invalid '{INPUT}': {message}."))
        }
        GenerationError::InvalidParameter { param, message } => {
            ApiError::invalid_value(param, format!("Invalid '{param}': {message}."))
        }
        other => ApiError::from_generation(other, INPUT),
    }
}

/// Texts to embed.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "input": ["How do I reset my password?", "I forgot my password"]}))]
pub struct EmbeddingsRequest {
    /// A model's id or alias, see `GET /models`.
    model: String,
    /// A text, up to 2048 texts, an array of tokens or up to 2048 of those; none may be empty, and each must
    /// fit the model's context. All together may have 300,000 tokens.
    #[schema(value_type = InputShape)]
    input: PromptList<MAX_INPUTS>,
    /// `float` for an array of numbers, `base64` for their bytes, which is shorter and the default of
    /// OpenAI's SDKs.
    #[schema(default = "float")]
    encoding_format: Option<EncodingFormat>,
    /// Number of dimensions to keep, from the beginning of each embedding, for models trained for that; by
    /// default all.
    #[schema(minimum = 1)]
    dimensions: Option<i64>,
    /// The caller's id for its user; has no effect.
    user: Option<String>,
}

/// A text, up to 2048 texts, an array of tokens, or up to 2048 of those.
#[derive(ToSchema)]
#[schema(as = EmbeddingInput)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what PromptList reads")]
pub enum InputShape {
    /// A text.
    Text(String),
    /// Texts.
    Texts(Vec<String>),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Lists of tokens.
    TokenLists(Vec<Vec<u32>>),
}

/// The encoding of vectors.
// Deserialized from a text first: serde_json reports a number in place of an enum as a syntax error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(rename_all = "snake_case")]
pub enum EncodingFormat {
    /// An array of numbers.
    Float,
    /// The numbers' bytes (32-bit floats, little-endian) in base64.
    Base64,
}

impl TryFrom<String> for EncodingFormat {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        match &*name {
            "float" => Ok(Self::Float),
            "base64" => Ok(Self::Base64),
            _ => Err(format!("unknown format {name:?}, expected `float` or `base64`")),
        }
    }
}

impl EmbeddingsRequest {
    fn check(self, context: &RequestContext) -> Result<EmbeddingRequest, ApiError> {
        params::model(&self.model)?;
        params::labels(self.user.as_deref(), None)?;
        let dimensions = match self.dimensions {
            None => None,
            Some(given) if given < 1 => {
                let message = format!("Invalid 'dimensions': {given} is out of range, expected at least 1.");
                return Err(ApiError::invalid_value("dimensions", message));
            }
            // The model knows its number of dimensions.
            Some(given) => Some(u32::try_from(given).unwrap_or(u32::MAX)),
        };
        let one = matches!(&*self.input.0, [Prompt::Text(_)]);
        let input = |(index, prompt): (usize, Prompt)| match prompt {
            Prompt::Text(text) if text.is_empty() => {
                let param = if one { INPUT.to_owned() } else { format!("{INPUT}[{index}]") };
                let message = format!("Invalid '{param}': it is empty; there is nothing to embed.");
                Err(ApiError::invalid_value(param, message))
            }
            Prompt::Text(text) => Ok(EmbeddingInput::Text(text)),
            Prompt::Tokens(tokens) => Ok(EmbeddingInput::Tokens(tokens)),
            // No JSON input deserializes to these.
            Prompt::Chat(_) | Prompt::Infill { .. } => Err(ApiError::internal()),
        };
        Ok(EmbeddingRequest {
            request_id: context.id.as_str().to_owned(),
            model: self.model,
            user: context.fairness_key(),
            inputs: self.input.0.into_iter().enumerate().map(input).collect::<Result<_, _>>()?,
            dimensions,
        })
    }
}

/// Embeddings.
#[derive(Debug, Serialize, ToSchema)]
pub struct EmbeddingList {
    /// Always `list`.
    object: &'static str,
    /// One per text, in the same order.
    data: Vec<EmbeddingObject>,
    /// The model as requested.
    model: String,
    /// Token counts.
    usage: EmbeddingUsage,
}

/// The embedding of one text.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Embedding)]
pub struct EmbeddingObject {
    /// Always `embedding`.
    object: &'static str,
    /// The index of its text in the request.
    index: usize,
    /// The vector, of length 1.
    embedding: Vector,
}

/// A vector: numbers, or with `base64` their bytes.
#[derive(Debug, PartialEq, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Vector {
    /// The numbers.
    Numbers(Vec<f32>),
    /// Their bytes in base64.
    Base64(String),
}

/// Exact token counts of an embeddings request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct EmbeddingUsage {
    /// Tokens of all texts.
    prompt_tokens: u32,
    /// The same.
    total_tokens: u32,
}

impl EmbeddingList {
    fn new(model: String, vectors: Vec<Vec<f32>>, format: EncodingFormat, tokens: u32) -> Self {
        let object = |(index, vector)| EmbeddingObject {
            object: "embedding",
            index,
            embedding: Vector::new(vector, format),
        };
        Self {
            object: "list",
            data: vectors.into_iter().enumerate().map(object).collect(),
            model,
            usage: EmbeddingUsage { prompt_tokens: tokens, total_tokens: tokens },
        }
    }
}

impl Vector {
    fn new(numbers: Vec<f32>, format: EncodingFormat) -> Self {
        match format {
            EncodingFormat::Float => Self::Numbers(numbers),
            EncodingFormat::Base64 => {
                let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_le_bytes()).collect();
                Self::Base64(STANDARD.encode(bytes))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use crate::http::json as http_json;

    use super::*;

    fn read(body: &Value) -> Result<EmbeddingsRequest, ApiError> {
        http_json::parse(body.to_string().as_bytes(), &[]).map(|parsed| parsed.value)
    }

    #[test]
    fn an_answer_is_openais_object() {
        let list = EmbeddingList::new("m".to_owned(), vec![vec![0.6, -0.8]], EncodingFormat::Float, 3);
        let expected = serde_json::json!({
            "object": "list", "model": "m", "usage": {"prompt_tokens": 3, "total_tokens": 3},
            "data": [{"object": "embedding", "index": 0, "embedding": [0.6, -0.8]}],
        });
        // Compared as text, since a tree would hold 64-bit floats.
        assert_eq!(serde_json::from_str::<Value>(&serde_json::to_string(&list).unwrap()).unwrap(), expected);
        let list = EmbeddingList::new("m".to_owned(), vec![vec![1.0, -2.0]], EncodingFormat::Base64, 3);
        assert_eq!(serde_json::to_value(list).unwrap()["data"][0]["embedding"], "AACAPwAAAMA=");
    }

    #[test]
    fn inputs_are_bounded_in_number() {
        let body = |count| serde_json::json!({"model": "m", "input": vec!["a"; count]});
        assert_eq!(read(&body(MAX_INPUTS)).unwrap().input.0.len(), MAX_INPUTS);
        let error = read(&body(MAX_INPUTS + 1)).unwrap_err();
        assert_eq!((error.status().as_u16(), error.param()), (400, Some("input")));
        assert!(error.message().contains("2048"), "{}", error.message());
    }

    proptest! {
        #[test]
        fn base64_comes_back_as_it_was(numbers in prop::collection::vec(any::<f32>(), 0..50)) {
            let Vector::Base64(text) = Vector::new(numbers.clone(), EncodingFormat::Base64) else { panic!() };
            let bytes = STANDARD.decode(text).unwrap();
            let back: Vec<u32> =
                bytes.chunks_exact(4).map(|four| u32::from_le_bytes(four.try_into().unwrap())).collect();
            prop_assert_eq!(back, numbers.iter().map(|number| number.to_bits()).collect::<Vec<_>>());
        }
    }
}
