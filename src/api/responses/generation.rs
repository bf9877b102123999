//! From a checked request to the source of a run: the messages that fit, and the generation.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;

use futures_util::stream::unfold;
use jan_actors::model::{ChatPrompt, GenerationError, GenerationRequest, Models, Prompt};
use jan_actors::responses::{Delta, DeltaKind, Problem, RunEvent, Source};
use serde_json::Value;

use super::request::PROMPT;
use super::truncation::{FirstFit, beginnings};
use crate::api::inference::choices::{AnswerPolicy, ChoiceEvent, Choices, Started};
use crate::api::inference::metering::Meter;
use crate::api::inference::structured_output::{OutputCheck, Structured, named};
use crate::api::inference::tools::ToolCallPolicy;
use crate::http::ApiError;

/// The plan of a generation.
#[derive(Debug)]
pub struct Plan {
    /// The generation request; its messages are set when it starts.
    pub request: GenerationRequest,
    /// The instructions, which are never left out.
    pub instructions: Option<Value>,
    /// The conversation.
    pub messages: Vec<Value>,
    /// Set if the oldest messages may be left out.
    pub truncate: bool,
    /// The constraint on the answer, until it has started.
    pub structured: Option<Structured>,
    /// Set if a stop sequence may end the answer before it is complete.
    pub cut: bool,
    /// The check of the finished answer, after it has started.
    pub check: Option<OutputCheck>,
    /// The keywords of schemas that are not enforced during generation.
    pub unenforced: BTreeSet<&'static str>,
    /// The number of further tries if a part of the schema is not enforced; `None` if the answer is not held back.
    pub retries: Option<u32>,
    /// The policy for its tool calls.
    pub call_policy: ToolCallPolicy,
    /// The field that constrains the answer, for errors about it.
    pub constraining: Option<&'static str>,
}

impl Plan {
    /// Returns the request with the messages from index `begin` on.
    pub fn request(&self, begin: usize) -> GenerationRequest {
        self.request_with(&self.messages[begin..])
    }

    /// Returns the request with these messages.
    pub fn request_with(&self, messages: &[Value]) -> GenerationRequest {
        let messages: Vec<Value> = self.instructions.iter().chain(messages).cloned().collect();
        let prompt = match &*self.request.prompt {
            Prompt::Chat(chat) => Prompt::Chat(ChatPrompt { messages, ..chat.clone() }),
            _ => Prompt::Chat(messages.into()),
        };
        GenerationRequest { prompt: Arc::new(prompt), ..self.request.clone() }
    }
}

/// Starts the generation; failures before the first token are errors here.
pub async fn start(models: Models, mut plan: Plan, meter: Meter) -> Result<Choices, GenerationError> {
    begin(&models, &mut plan, meter).await
}

/// Starts the generation; takes the checks of the answer out of the plan.
pub async fn begin(models: &Models, plan: &mut Plan, meter: Meter) -> Result<Choices, GenerationError> {
    let begin = if plan.truncate { first_that_fits(models, plan).await? } else { 0 };
    let request = plan.request(begin);
    let started = Started::new(models, vec![request], meter, plan.structured.as_mut()).await?;
    if let Some(structured) = plan.structured.take() {
        plan.request.constraint = Some(Arc::clone(&structured.constraint));
        plan.check = structured.output_check(1, plan.cut);
    }
    plan.unenforced.extend(started.unenforced());
    let retries = plan.retries.filter(|_| !plan.unenforced.is_empty());
    // The run that an answer belongs to handles citations and storage.
    Ok(started.with_policy(AnswerPolicy {
        call_policy: std::mem::take(&mut plan.call_policy),
        check: plan.check.take(),
        constraining: None,
        turn: None,
        sources: Vec::new(),
        retries,
    }))
}

async fn first_that_fits(models: &Models, plan: &Plan) -> Result<usize, GenerationError> {
    let beginnings = beginnings(&plan.messages);
    let wanted = plan.request.max_tokens;
    let found = first_beside(models, plan, &beginnings, wanted).await?;
    if found < beginnings.len() {
        return Ok(beginnings[found]);
    }
    // An answer that is longer than the context is cut, and leaves half of it to the prompt.
    let context = models.describe(&plan.request.model).await.and_then(|model| model.context_length);
    let most = context.map(|tokens| tokens / 2).filter(|most| wanted.is_some_and(|wanted| wanted > *most));
    let found = match most {
        Some(most) => first_beside(models, plan, &beginnings, Some(most)).await?,
        None => found,
    };
    // If not even the last message fits, the generation reports it.
    Ok(beginnings[found.min(beginnings.len() - 1)])
}

/// Returns the first of these beginnings that leaves room for an answer of that length; their number if none does.
async fn first_beside(
    models: &Models,
    plan: &Plan,
    beginnings: &[usize],
    max_tokens: Option<u32>,
) -> Result<usize, GenerationError> {
    let mut fit = FirstFit::new(beginnings.len());
    while let Some(candidate) = fit.next() {
        let request = GenerationRequest { max_tokens, ..plan.request(beginnings[candidate]) };
        match models.count_tokens(request).await {
            Ok(_) => fit.record(candidate, true),
            Err(GenerationError::ContextLengthExceeded { .. }) => fit.record(candidate, false),
            Err(error) => return Err(error),
        }
    }
    Ok(fit.found())
}

enum Stage<F> {
    Starting(F),
    Running(Box<Choices>),
    Ended,
}

/// Returns the source of a generation that has yet to start.
pub fn source<F>(starting: F, constraining: Option<&'static str>) -> Source
where
    F: Future<Output = Result<Choices, GenerationError>> + Send + 'static,
{
    Box::pin(unfold(Stage::Starting(Box::pin(starting)), move |stage| async move {
        let failed = |error| failed(error, constraining);
        match stage {
            Stage::Ended => None,
            Stage::Starting(starting) => Some(match starting.await {
                Ok(choices) => (RunEvent::Started, Stage::Running(Box::new(choices))),
                Err(error) => (failed(error), Stage::Ended),
            }),
            Stage::Running(mut choices) => match choices.next().await? {
                Ok((_, ChoiceEvent::Finished(reason, usage))) => {
                    choices.settle().await;
                    Some((RunEvent::Finished(reason, usage), Stage::Ended))
                }
                Ok((_, event)) => Some((RunEvent::Delta(delta(event)), Stage::Running(choices))),
                Err(error) => Some((failed(error), Stage::Ended)),
            },
        }
    }))
}

/// Converts an event of an answer to a delta of the response.
pub fn delta(event: ChoiceEvent) -> Delta {
    let of = |kind, text| Delta { kind, text, ..Delta::default() };
    match event {
        ChoiceEvent::Text(text, logprobs) => Delta { text, logprobs, ..Delta::default() },
        ChoiceEvent::Reasoning(text) => of(DeltaKind::Reasoning, text),
        ChoiceEvent::Call { id, name, .. } => of(DeltaKind::Call { call_id: id }, name),
        ChoiceEvent::Arguments { text, .. } => of(DeltaKind::Arguments, text),
        // Citations follow from the text and the searches.
        ChoiceEvent::Citations(_) | ChoiceEvent::Prompt(_) | ChoiceEvent::Finished(..) => Delta::default(),
    }
}

/// Returns the end of a response that failed.
pub fn failed(error: GenerationError, constraining: Option<&'static str>) -> RunEvent {
    let error = named(error, constraining);
    let shown = ApiError::from_generation(error.clone(), PROMPT);
    let problem = Problem { code: shown.code().to_owned(), message: shown.message().to_owned() };
    RunEvent::Failed(problem, Some(error))
}
