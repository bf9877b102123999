//! `POST /apply-template`, `/tokenize` and `/detokenize`: the input of a model. Fields as in vLLM and llama-server.

use std::time::Duration;

use jan_actors::identity::Right;
use jan_actors::model::{ChatPrompt, Inspect, Inspected};
use jan_protocol::types::Token;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::chat::message::{Message, message_objects};
use super::chat::request::ending;
use super::inference::bounds::{self, MAX_MESSAGES};
use super::inference::reasoning::{self, Effort};
use super::inference::tools::{ChatTool, ChatTools};
use super::{
    inference::{params, permissions::check_model},
    respond::{json, name_ignored, parse_query},
    state::{AppState, Route},
};
use crate::auth::access::Access;
use crate::http::error::ErrorResponse;
use crate::http::json::Unsupported;
use crate::http::routing::{Place, RawQuery, route};
use crate::http::{ApiError, ApiRequest, RequestContext, Response};

/// Maximum length of a text to tokenize, in bytes, and maximum number of tokens to decode.
const MAX_INPUT: usize = 1 << 20;

/// `Retry-After` while a model is loaded.
const RETRY_SOON: Duration = Duration::from_secs(1);

static UNSUPPORTED: &[Unsupported] =
    &[Unsupported::new("chat_template", &[]), Unsupported::misplaced("functions", "'tools'")];

/// Returns the routes.
pub fn routes() -> Vec<Route> {
    vec![
        route!(apply_template, Place::ApiAndRoot, Access::Anonymous(Right::Infer)).inference(),
        route!(tokenize, Place::ApiAndRoot, Access::Anonymous(Right::Infer)).inference(),
        route!(detokenize, Place::ApiAndRoot, Access::Anonymous(Right::Infer)).inference(),
        route!(tokenizer_info, Place::ApiAndRoot, Access::Anonymous(Right::Infer)),
    ]
}

/// A chat to render with the model's template.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "messages": [{"role": "user", "content": "Hello"}]}))]
pub struct TemplateRequest {
    /// A model's id or alias, see `GET /models`; by default the first of them.
    model: Option<String>,
    /// As for chat completions.
    messages: Option<Vec<Message>>,
    /// As for chat completions.
    tools: Option<Vec<ChatTool>>,
    /// As for chat completions.
    #[schema(value_type = Option<Vec<Object>>)]
    documents: Option<Vec<Map<String, Value>>>,
    /// As for chat completions.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// As for chat completions.
    reasoning_effort: Option<Effort>,
    /// As for chat completions.
    #[schema(default = true)]
    add_generation_prompt: Option<bool>,
    /// As for chat completions.
    #[schema(default = false)]
    continue_final_message: Option<bool>,
}

/// The fields of a chat that are part of its prompt.
#[derive(Debug, Default)]
struct ChatFields {
    messages: Option<Vec<Message>>,
    tools: Option<Vec<ChatTool>>,
    documents: Option<Vec<Map<String, Value>>>,
    chat_template_kwargs: Option<Map<String, Value>>,
    reasoning_effort: Option<Effort>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
}

/// The prompt of a chat.
#[derive(Debug, Serialize, ToSchema)]
pub struct RenderedPrompt {
    /// The rendered text that the model reads.
    prompt: String,
}

/// The text or chat to tokenize.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "prompt": "Hello"}))]
pub struct TokenizeRequest {
    /// A model's id or alias, see `GET /models`; by default the first of them.
    model: Option<String>,
    /// A text; or `messages`.
    prompt: Option<String>,
    /// A text, under llama-server's name, and without special tokens unless `add_special` is set.
    content: Option<String>,
    /// Add the model's beginning-of-text token, if it has one.
    #[schema(default = true)]
    add_special_tokens: Option<bool>,
    /// The same, under llama-server's name; only with `content`.
    #[schema(default = false)]
    add_special: Option<bool>,
    /// Return `token_strs`.
    #[schema(default = false)]
    return_token_strs: Option<bool>,
    /// Return tokens as objects with their texts, as in llama-server.
    #[schema(default = false)]
    with_pieces: Option<bool>,
    /// As for chat completions.
    messages: Option<Vec<Message>>,
    /// As for chat completions.
    tools: Option<Vec<ChatTool>>,
    /// As for chat completions.
    #[schema(value_type = Option<Vec<Object>>)]
    documents: Option<Vec<Map<String, Value>>>,
    /// As for chat completions.
    #[schema(value_type = Option<Object>)]
    chat_template_kwargs: Option<Map<String, Value>>,
    /// As for chat completions.
    reasoning_effort: Option<Effort>,
    /// As for chat completions.
    #[schema(default = true)]
    add_generation_prompt: Option<bool>,
    /// As for chat completions.
    #[schema(default = false)]
    continue_final_message: Option<bool>,
}

/// Tokens.
#[derive(Debug, Serialize, ToSchema)]
pub struct Tokenized {
    /// The number of tokens.
    count: usize,
    /// The model's context in tokens.
    max_model_len: Option<u32>,
    /// The tokens' ids; with `with_pieces`, objects.
    tokens: Vec<ShownToken>,
    /// The tokens' texts; null unless requested.
    token_strs: Option<Vec<String>>,
}

/// A token's id, or with `with_pieces` the id and its text.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum ShownToken {
    /// Its id.
    Id(Token),
    /// The token with its text.
    Piece(TokenPiece),
}

/// A token with its text.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenPiece {
    /// Its id.
    id: Token,
    /// Its text, or its bytes if they are not text.
    piece: Piece,
}

/// A text, or bytes that are not text by themselves.
#[derive(Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Piece {
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// Tokens to decode.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "tokens": [1, 2, 3]}))]
pub struct DetokenizeRequest {
    /// A model's id or alias, see `GET /models`; by default the first of them.
    model: Option<String>,
    /// The tokens' ids.
    #[schema(value_type = Vec<u32>)]
    tokens: Vec<i64>,
}

/// The text of tokens, under vLLM's and llama-server's names.
#[derive(Debug, Serialize, ToSchema)]
pub struct Detokenized {
    /// The text.
    prompt: String,
    /// The text.
    content: String,
}

/// Render a chat's prompt.
///
/// The model's chat template renders it; nothing is generated.
#[utoipa::path(
    post,
    path = "/apply-template",
    tag = "chat",
    operation_id = "applyTemplate",
    request_body = TemplateRequest,
    responses(
        (status = 200, description = "The prompt", body = RenderedPrompt),
        (status = 400, description = "A field is missing or invalid, or the template rejects the messages", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 503, description = "The model is unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn apply_template(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let parsed = request.read::<TemplateRequest, _>(UNSUPPORTED, Ok).await?;
    let wanted = parsed.value;
    let chat = ChatFields {
        messages: wanted.messages,
        tools: wanted.tools,
        documents: wanted.documents,
        chat_template_kwargs: wanted.chat_template_kwargs,
        reasoning_effort: wanted.reasoning_effort,
        add_generation_prompt: wanted.add_generation_prompt,
        continue_final_message: wanted.continue_final_message,
    };
    let chat = chat.check()?.ok_or_else(|| ApiError::missing("messages"))?;
    let model = model_or_first(&state, &context, wanted.model).await?;
    let inspected =
        inspect(&state, &context, &model, Inspect::Chat { chat, tokens: false }, "messages").await?;
    let mut response = json(&RenderedPrompt { prompt: inspected.text });
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Tokenize a text or a chat.
#[utoipa::path(
    post,
    path = "/tokenize",
    tag = "chat",
    operation_id = "tokenize",
    request_body = TokenizeRequest,
    responses(
        (status = 200, description = "The tokens", body = Tokenized),
        (status = 400, description = "A field is missing or invalid, or the template rejects the messages", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 503, description = "The model is unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn tokenize(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let parsed = request.read::<TokenizeRequest, _>(UNSUPPORTED, Ok).await?;
    let wanted = parsed.value;
    let chat = ChatFields {
        messages: wanted.messages,
        tools: wanted.tools,
        documents: wanted.documents,
        chat_template_kwargs: wanted.chat_template_kwargs,
        reasoning_effort: wanted.reasoning_effort,
        add_generation_prompt: wanted.add_generation_prompt,
        continue_final_message: wanted.continue_final_message,
    };
    let chat = chat.check()?;
    let text = |text: String, add_special, field| {
        if text.len() > MAX_INPUT {
            let message =
                format!("Invalid '{field}': it has {} bytes, and {MAX_INPUT} are allowed.", text.len());
            return Err(ApiError::invalid_value(field, message));
        }
        Ok((Inspect::Text { text, add_special }, field))
    };
    let (what, field) = match (wanted.prompt, wanted.content, chat) {
        (Some(prompt), None, None) => text(prompt, wanted.add_special_tokens.unwrap_or(true), "prompt")?,
        (None, Some(content), None) => text(content, wanted.add_special.unwrap_or(false), "content")?,
        (None, None, Some(chat)) => (Inspect::Chat { chat, tokens: true }, "messages"),
        (None, None, None) => return Err(ApiError::missing("prompt")),
        _ => {
            let message = "'prompt', 'content' and 'messages' are mutually exclusive; send only one.";
            return Err(ApiError::invalid_value("prompt", message));
        }
    };
    let model = model_or_first(&state, &context, wanted.model).await?;
    let inspected = inspect(&state, &context, &model, what, field).await?;
    let described = state.models.describe(&model).await;
    let with_pieces = wanted.with_pieces.unwrap_or(false);
    let piece = |(token, piece): (&Token, &Vec<u8>)| match with_pieces {
        false => ShownToken::Id(*token),
        true => {
            let text = String::from_utf8(piece.clone());
            let piece = text.map_or_else(|error| Piece::Bytes(error.into_bytes()), Piece::Text);
            ShownToken::Piece(TokenPiece { id: *token, piece })
        }
    };
    let strings =
        || inspected.pieces.iter().map(|piece| String::from_utf8_lossy(piece).into_owned()).collect();
    let answer = Tokenized {
        count: inspected.tokens.len(),
        max_model_len: described.and_then(|model| model.context_length),
        tokens: inspected.tokens.iter().zip(&inspected.pieces).map(piece).collect(),
        token_strs: wanted.return_token_strs.unwrap_or(false).then(strings),
    };
    let mut response = json(&answer);
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Decode tokens to text.
#[utoipa::path(
    post,
    path = "/detokenize",
    tag = "chat",
    operation_id = "detokenize",
    request_body = DetokenizeRequest,
    responses(
        (status = 200, description = "The text", body = Detokenized),
        (status = 400, description = "A field is missing or invalid", body = ErrorResponse),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 503, description = "The model is unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn detokenize(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let parsed = request.read::<DetokenizeRequest, _>(&[], Ok).await?;
    let DetokenizeRequest { model, tokens } = parsed.value;
    if tokens.len() > MAX_INPUT {
        let message = format!("Invalid 'tokens': there are {}, and {MAX_INPUT} are allowed.", tokens.len());
        return Err(ApiError::invalid_value("tokens", message));
    }
    let token = |(index, token): (usize, i64)| {
        Token::try_from(token).ok().filter(|token| *token >= 0).ok_or_else(|| {
            let param = format!("tokens[{index}]");
            ApiError::invalid_value(&param, format!("Invalid '{param}': {token} is not the id of a token."))
        })
    };
    let tokens = tokens.into_iter().enumerate().map(token).collect::<Result<_, _>>()?;
    let model = model_or_first(&state, &context, model).await?;
    let text = inspect(&state, &context, &model, Inspect::Tokens(tokens), "tokens").await?.text;
    let mut response = json(&Detokenized { prompt: text.clone(), content: text });
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// A model's tokenizer, in the form of a Hugging Face configuration.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenizerInfo {
    /// The model's id.
    model: String,
    /// The text of the token that begins a text; null if there is none.
    bos_token: Option<String>,
    /// The text of the token that ends an answer; null if there is none.
    eos_token: Option<String>,
    /// Always null: inputs are not padded.
    pad_token: Option<String>,
    /// The source of the chat template, in Jinja.
    chat_template: String,
    /// The model's context in tokens.
    model_max_length: Option<u32>,
}

/// Show a model's tokenizer.
///
/// As `GET /tokenizer_info` of vLLM, for clients that use `/tokenize` and `/detokenize` as their tokenizer.
#[utoipa::path(
    get,
    path = "/tokenizer_info",
    tag = "chat",
    operation_id = "getTokenizerInfo",
    params(("model" = Option<String>, Query, description = "A model's id or alias; by default the first model")),
    responses(
        (status = 200, description = "The tokenizer", body = TokenizerInfo),
        (status = 404, description = "The model does not exist", body = ErrorResponse),
        (status = 503, description = "The model is not loaded; see Retry-After", body = ErrorResponse),
    )
)]
async fn tokenizer_info(
    state: AppState,
    context: RequestContext,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    #[derive(Default, Deserialize)]
    struct Wanted {
        model: Option<String>,
    }
    let model = model_or_first(&state, &context, parse_query::<Wanted>(&query)?.model).await?;
    params::model(&model)?;
    check_model(&state, &context, &model).await?;
    let described = state.models.describe(&model).await.ok_or_else(|| ApiError::model_not_found(&model))?;
    let facts = state.models.tokenizer(&model).ok_or_else(|| {
        let message = format!("The model `{model}` is not loaded; try again soon.");
        ApiError::unavailable("model_unavailable", message, RETRY_SOON)
    })?;
    let token = |text: String| Some(text).filter(|text| !text.is_empty());
    Ok(json(&TokenizerInfo {
        model,
        bos_token: token(facts.bos),
        eos_token: token(facts.eos),
        pad_token: None,
        chat_template: facts.chat_template,
        model_max_length: described.context_length,
    }))
}

/// Returns the model that is named, or the first that the caller may use.
async fn model_or_first(
    state: &AppState,
    context: &RequestContext,
    named: Option<String>,
) -> Result<String, ApiError> {
    if let Some(model) = named {
        return Ok(model);
    }
    for model in state.models.list().await {
        if check_model(state, context, &model.id).await.is_ok() {
            return Ok(model.id);
        }
    }
    Err(ApiError::missing("model"))
}

async fn inspect(
    state: &AppState,
    context: &RequestContext,
    model: &str,
    what: Inspect,
    field: &'static str,
) -> Result<Inspected, ApiError> {
    params::model(model)?;
    check_model(state, context, model).await?;
    let inspected = state.models.inspect(model, what, &context.fairness_key()).await;
    inspected.map_err(|error| ApiError::from_generation(error, field))
}

impl ChatFields {
    /// Returns the chat; `None` if there are no messages.
    fn check(self) -> Result<Option<ChatPrompt>, ApiError> {
        let tools = ChatTools { tools: self.tools, ..ChatTools::default() }.check()?;
        bounds::template(self.documents.as_ref(), self.chat_template_kwargs.as_ref())?;
        bounds::entries("messages", self.messages.as_ref().map_or(0, Vec::len), MAX_MESSAGES)?;
        let Some(messages) = self.messages else { return Ok(None) };
        if messages.is_empty() {
            return Err(ApiError::invalid_value("messages", "Invalid 'messages': at least one is needed."));
        }
        let mut chat = ChatPrompt {
            messages: message_objects(messages)?,
            tools: tools.shown,
            documents: self.documents.unwrap_or_default().into_iter().map(Value::Object).collect(),
            ending: ending(self.add_generation_prompt, self.continue_final_message)?,
            ..ChatPrompt::default()
        };
        reasoning::apply(self.reasoning_effort, None, self.chat_template_kwargs, &mut chat);
        Ok(Some(chat))
    }
}
