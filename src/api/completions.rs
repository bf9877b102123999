//! `POST /completions`: the route, the handler, the request and the response.
//!
//! Source: `CreateCompletionRequest` and `CreateCompletionResponse` in OpenAI's API description.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use jan_actors::model::{GenerationRequest, Prompt, SamplingParams};
use serde::{Deserialize, Serialize};
use utoipa::{OpenApi, ToSchema};
use warp::Filter;
use warp::filters::BoxedFilter;

use super::choices::{ChoiceEvent, Choices};
use super::logprobs::CompletionLogprobs;
use super::meter::Meter;
use super::params::{self, Metadata, Sampling, Stop, StopShape, StreamOptions, choice_seed};
use super::prompt::{PromptShape, Prompts};
use super::streaming::{self, Encoder};
use super::tools::Reading;
use super::wire::{Finish, Head, Usage, UsageSum};
use super::{AppState, into_response, json, name_ignored, with};
use crate::http::body::request;
use crate::http::error::ErrorResponse;
use crate::http::json::{Given, Unsupported};
use crate::http::routes::{api_v1, other_methods};
use crate::http::{ApiError, ApiRequest, RequestContext, Response, json as http_json, sse};

/// The field that holds the prompt, for errors about it.
const PROMPT: &str = "prompt";
/// Most answers of one request, over all its prompts.
const MAX_ANSWERS: usize = 1024;
const DEFAULT_MAX_TOKENS: u32 = 16;

static UNSUPPORTED: &[Unsupported] = &[
    Unsupported { field: "suffix", harmless: &[Given::Word("")] },
    Unsupported { field: "best_of", harmless: &[Given::Number(1.0)] },
    Unsupported { field: "response_format", harmless: &[Given::ObjectOfType("text")] },
    Unsupported { field: "guided_json", harmless: &[] },
    Unsupported { field: "guided_regex", harmless: &[] },
    Unsupported { field: "guided_choice", harmless: &[] },
    Unsupported { field: "guided_grammar", harmless: &[] },
    Unsupported { field: "structured_outputs", harmless: &[] },
    Unsupported { field: "grammar", harmless: &[] },
    Unsupported { field: "prompt_logprobs", harmless: &[] },
];

/// `/completions`
pub fn routes(state: &AppState) -> BoxedFilter<(Response,)> {
    let path = api_v1().and(warp::path!("completions"));
    path.and(warp::post())
        .and(with(state))
        .and(request())
        .then(async |state, request| into_response(create(state, request).await))
        .or(other_methods(path, "POST, OPTIONS"))
        .unify()
        .boxed()
}

/// The description of this resource.
#[derive(OpenApi)]
#[openapi(
    paths(create),
    components(schemas(
        CompletionRequest,
        PromptShape,
        StopShape,
        Completion,
        CompletionChoice,
        CompletionLogprobs
    ))
)]
pub struct Doc;

/// Continue a text.
///
/// With `stream`, the answer comes as server-sent events of the same shape. With several prompts, answer
/// `p * n + k` is the `k`-th to prompt `p`. Fields that are unknown are ignored and named in the response
/// header `X-Ignored-Fields`.
#[utoipa::path(
    post,
    path = "/completions",
    tag = "completions",
    operation_id = "createCompletion",
    request_body(content = CompletionRequest, examples(
        ("answer" = (summary = "An answer", value = json!({
            "model": "jan-v1-4b", "prompt": "The meaning of life is", "max_tokens": 50
        }))),
        ("stream" = (summary = "A streamed answer", value = json!({
            "model": "jan-v1-4b", "prompt": "The meaning of life is", "max_tokens": 50, "stream": true
        }))),
    )),
    responses(
        (status = 200, description = "The answers", content(
            (Completion = "application/json"),
            (Completion = "text/event-stream"),
        )),
        (status = 400, description = "A field is missing or wrong, or the prompt is too long", body = ErrorResponse),
        (status = 404, description = "There is no such model", body = ErrorResponse),
        (status = 413, description = "The body is too large", body = ErrorResponse),
        (status = 415, description = "The body is not JSON by its content type", body = ErrorResponse),
        (status = 500, description = "The server failed", body = ErrorResponse),
        (status = 503, description = "The queue is full or the model unavailable; see Retry-After", body = ErrorResponse),
    )
)]
async fn create(state: AppState, request: ApiRequest) -> Result<Response, ApiError> {
    let context = request.context.clone();
    let body = request.read_json(state.config.body_limit_bytes, state.config.body_timeout()).await?;
    let parsed = http_json::parse::<CompletionRequest>(&body, UNSUPPORTED)?;
    drop(body);
    let checked = parsed.value.check()?;
    let (stream, include_usage) = (checked.stream, checked.include_usage);
    let with_logprobs = checked.logprobs.is_some();
    let (prompts, n) = (checked.prompts.len(), checked.n as usize);
    let head = Head::new("cmpl", &checked.model);
    let meter = Meter::start(&state, &context, stream, prompts, n)?;
    let mut choices =
        Choices::start(&state.models, generation_requests(checked, &context), Reading::default(), meter)
            .await
            .map_err(|error| ApiError::from_generation(error, PROMPT))?;
    let echoes = (0..prompts * n).map(|index| choices.take_prompt_text(index).unwrap_or_default()).collect();
    let usage = UsageSum::new(prompts, n);
    let mut response = if stream {
        let encoder = ChunkEncoder { head, include_usage, usage, echoes };
        let events = streaming::events(choices, encoder, context.id.clone(), PROMPT);
        sse::response(events, state.config.keep_alive(), &state.lifecycle.cut_off, context.id)
    } else {
        json(&collect(choices, &head, usage, echoes, with_logprobs).await?)
    };
    name_ignored(&mut response, &parsed.ignored);
    Ok(response)
}

/// Texts to be continued.
#[derive(Debug, Deserialize, ToSchema)]
#[schema(example = json!({"model": "jan-v1-4b", "prompt": "The meaning of life is", "max_tokens": 50}))]
pub struct CompletionRequest {
    /// A model's id or alias, see `GET /models`.
    pub model: String,
    /// A text, up to 128 texts, an array of tokens or up to 128 of those.
    #[schema(value_type = PromptShape)]
    pub prompt: Prompts,
    /// Most tokens of each answer.
    #[schema(minimum = 0, default = 16)]
    pub max_tokens: Option<i64>,
    /// Begin each answer with its prompt.
    #[schema(default = false)]
    pub echo: Option<bool>,
    /// 0 always takes the likeliest token; higher is more varied.
    #[schema(minimum = 0, maximum = 2, default = 1)]
    pub temperature: Option<f64>,
    /// Only the likeliest tokens whose probabilities add up to this.
    #[schema(minimum = 0, maximum = 1, default = 1)]
    pub top_p: Option<f64>,
    /// Only the k likeliest tokens; 0 or -1 is off.
    #[schema(minimum = -1, default = 0)]
    pub top_k: Option<i64>,
    /// Only tokens at least this fraction as likely as the likeliest.
    #[schema(minimum = 0, maximum = 1, default = 0)]
    pub min_p: Option<f64>,
    /// Only the most typical tokens, those whose surprise is nearest to the expected one, whose probabilities add up
    /// to this.
    #[schema(exclusive_minimum = 0, maximum = 1, default = 1)]
    pub typical_p: Option<f64>,
    /// Above 1 lowers, below 1 raises the likelihood of tokens that the prompt or the answer already has.
    #[schema(exclusive_minimum = 0, maximum = 2, default = 1)]
    pub repeat_penalty: Option<f64>,
    /// Another name of `repeat_penalty`.
    #[schema(exclusive_minimum = 0, maximum = 2, default = 1)]
    pub repetition_penalty: Option<f64>,
    /// How many answers to each prompt.
    #[schema(minimum = 1, maximum = 128, default = 1)]
    pub n: Option<i64>,
    /// The same request with the same seed gets the same answers. Answer `k` of `n` draws from a seed of its
    /// own, made from this one and `k`.
    pub seed: Option<i64>,
    /// A text, or up to four, that end the answer and are not part of it.
    #[schema(value_type = Option<StopShape>)]
    pub stop: Option<Stop>,
    /// Send the answers as server-sent events while they are made.
    #[schema(default = false)]
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Lowers the likelihood of tokens that have appeared.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub presence_penalty: Option<f64>,
    /// Lowers the likelihood of tokens with every appearance.
    #[schema(minimum = -2, maximum = 2, default = 0)]
    pub frequency_penalty: Option<f64>,
    /// Token ids and what is added to their logits, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f64>>,
    /// Say how likely each token of the answer was, and how many of the likeliest at its position. Not with `echo`.
    #[schema(minimum = 0, maximum = 5)]
    pub logprobs: Option<i64>,
    /// The caller's own name for its user; has no effect.
    #[allow(dead_code, reason = "its type is checked")]
    pub user: Option<String>,
    /// The caller's own notes, up to 16 pairs; have no effect.
    pub metadata: Option<Metadata>,
}

/// A request that has passed every check.
#[derive(Debug)]
struct Checked {
    model: String,
    prompts: Vec<Prompt>,
    sampling: SamplingParams,
    stop: Vec<String>,
    max_tokens: u32,
    n: u32,
    echo: bool,
    stream: bool,
    include_usage: bool,
    logprobs: Option<u32>,
}

impl CompletionRequest {
    fn check(self) -> Result<Checked, ApiError> {
        params::model(&self.model)?;
        let max_tokens = params::token_count("max_tokens", self.max_tokens, 0)?.unwrap_or(DEFAULT_MAX_TOKENS);
        let n = params::choice_count(self.n)?;
        let sampling = Sampling {
            temperature: self.temperature,
            top_p: self.top_p,
            top_k: self.top_k,
            min_p: self.min_p,
            typical_p: self.typical_p,
            repeat_penalty: self.repeat_penalty,
            repetition_penalty: self.repetition_penalty,
            presence_penalty: self.presence_penalty,
            frequency_penalty: self.frequency_penalty,
            logit_bias: self.logit_bias.as_ref(),
            seed: self.seed,
        }
        .check()?;
        let echo = self.echo.unwrap_or(false);
        let logprobs = params::completion_logprobs(self.logprobs, echo)?;
        let stop = params::stops(self.stop)?;
        let stream = self.stream.unwrap_or(false);
        let include_usage = params::include_usage(stream, self.stream_options)?;
        params::descriptive(self.metadata.as_ref(), None)?;
        let prompts = self.prompt.0;
        if prompts.len() * n as usize > MAX_ANSWERS {
            return Err(ApiError::invalid_value(
                "n",
                format!(
                    "Invalid 'n': {n} answers to each of {} prompts are more than {MAX_ANSWERS}, the most of one request.",
                    prompts.len()
                ),
            ));
        }
        Ok(Checked {
            model: self.model,
            prompts,
            sampling,
            stop,
            max_tokens,
            n,
            echo,
            stream,
            include_usage,
            logprobs,
        })
    }
}

fn generation_requests(checked: Checked, context: &RequestContext) -> Vec<GenerationRequest> {
    let mut requests = Vec::with_capacity(checked.prompts.len() * checked.n as usize);
    for prompt in checked.prompts {
        let request = GenerationRequest {
            request_id: context.id.as_str().to_owned(),
            model: checked.model.clone(),
            user: context.fairness_key(),
            prompt: Arc::new(prompt),
            sampling: checked.sampling.clone(),
            stop: checked.stop.clone(),
            max_tokens: Some(checked.max_tokens),
            want_prompt_text: checked.echo,
            logprobs: checked.logprobs,
            constraint: None,
            tools: None,
            thinking_budget: None,
        };
        for index in 0..checked.n {
            let mut request = request.clone();
            request.sampling.seed = choice_seed(checked.sampling.seed, index);
            requests.push(request);
        }
    }
    requests
}

async fn collect(
    mut choices: Choices,
    head: &Head,
    mut usage: UsageSum,
    echoes: Vec<String>,
    with_logprobs: bool,
) -> Result<Completion<'_>, ApiError> {
    let mut answers: Vec<CompletionChoice<'_>> = (0u32..)
        .zip(echoes)
        .map(|(index, echo)| {
            let logprobs = with_logprobs.then(CompletionLogprobs::default);
            CompletionChoice { index, text: Cow::Owned(echo), logprobs, finish_reason: Some(Finish::Stop) }
        })
        .collect();
    while let Some(event) = choices.next().await {
        match event.map_err(|error| ApiError::from_generation(error, PROMPT))? {
            (index, ChoiceEvent::Text(text, logprobs)) => {
                answers[index].text.to_mut().push_str(&text);
                if let Some(all) = &mut answers[index].logprobs {
                    all.extend(logprobs);
                }
            }
            (index, ChoiceEvent::Finished(reason, tokens)) => {
                answers[index].finish_reason = Some(reason.into());
                usage.add(index, tokens);
            }
            // A prompt that is no chat has no thinking and no tools.
            _ => {}
        }
    }
    Ok(Completion::new(head, answers, Some(Some(usage.total()))))
}

/// Answers, or one event of streamed answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct Completion<'a> {
    /// Unique; the same in all chunks of one response.
    #[schema(example = "cmpl-2f1c6a8e0d5b4f7f9a3c1e2d4b6f8a01")]
    id: &'a str,
    /// Always `text_completion`.
    object: &'static str,
    /// Unix seconds.
    created: i64,
    /// The model as it was asked for.
    model: &'a str,
    /// The answers; in a chunk, one answer's progress.
    choices: Vec<CompletionChoice<'a>>,
    /// Token counts. In chunks only with `stream_options.include_usage`: null but in the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    usage: Option<Option<Usage>>,
    /// Same build and same model: same fingerprint.
    system_fingerprint: &'a str,
}

impl<'a> Completion<'a> {
    fn new(head: &'a Head, choices: Vec<CompletionChoice<'a>>, usage: Option<Option<Usage>>) -> Self {
        Self {
            id: &head.id,
            object: "text_completion",
            created: head.created,
            model: &head.model,
            choices,
            usage,
            system_fingerprint: &head.system_fingerprint,
        }
    }
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice<'a> {
    /// Its number.
    index: u32,
    /// The text, after its prompt with `echo`.
    text: Cow<'a, str>,
    /// How likely its tokens were, in a chunk the new ones; null unless `logprobs` asks for it.
    logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null in chunks until then.
    finish_reason: Option<Finish>,
}

struct ChunkEncoder {
    head: Head,
    include_usage: bool,
    usage: UsageSum,
    /// Each answer's prompt; empty without `echo`.
    echoes: Vec<String>,
}

impl ChunkEncoder {
    fn write(&self, choices: Vec<CompletionChoice<'_>>, usage: Option<Usage>, buffer: &mut Vec<u8>) {
        let usage = self.include_usage.then_some(usage);
        sse::write_event(buffer, &Completion::new(&self.head, choices, usage));
    }

    fn write_choice(
        &self,
        index: usize,
        text: &str,
        logprobs: Option<CompletionLogprobs>,
        finish_reason: Option<Finish>,
        buffer: &mut Vec<u8>,
    ) {
        let index = u32::try_from(index).expect("there are at most 1024 answers");
        let choice = CompletionChoice { index, text: Cow::Borrowed(text), logprobs, finish_reason };
        self.write(vec![choice], None, buffer);
    }
}

impl Encoder for ChunkEncoder {
    fn opening(&mut self, buffer: &mut Vec<u8>) {
        for (index, echo) in std::mem::take(&mut self.echoes).iter().enumerate() {
            if !echo.is_empty() {
                self.write_choice(index, echo, None, None, buffer);
            }
        }
    }

    fn event(&mut self, index: usize, event: ChoiceEvent, buffer: &mut Vec<u8>) {
        match event {
            ChoiceEvent::Text(text, logprobs) => {
                let logprobs = CompletionLogprobs::of_chunk(logprobs);
                self.write_choice(index, &text, logprobs, None, buffer);
            }
            ChoiceEvent::Finished(reason, usage) => {
                self.usage.add(index, usage);
                self.write_choice(index, "", None, Some(reason.into()), buffer);
            }
            // A prompt that is no chat has no thinking and no tools.
            _ => {}
        }
    }

    fn closing(&mut self, buffer: &mut Vec<u8>) {
        if self.include_usage {
            self.write(Vec::new(), Some(self.usage.total()), buffer);
        }
    }
}

#[cfg(test)]
#[path = "completions_tests.rs"]
mod tests;
