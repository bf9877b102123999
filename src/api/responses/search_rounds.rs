//! Generation with web searches: the server searches before it asks the model, or when the model calls the tool, and
//! the model continues with the results.
//!
//! Searches are part of the response: its client sees each search begin, and dropping the source ends the search as
//! well as the generation.

use futures_util::stream::{once, select};
use futures_util::{StreamExt, future};
use jan_actors::model::{FinishReason, GenerationError, Models, Prompt, TokenUsage, ToolPlan};
use jan_actors::responses::{Delta, DeltaKind, RunEvent, Source};
use jan_actors::web_search::{SearchQuery, WebSearch};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::generation::{self, Plan};
use super::truncation::beginnings;
use crate::api::inference::choices::{ChoiceEvent, Choices};
use crate::api::inference::metering::Meter;
use crate::api::inference::web_search::{FUNCTION, SearchOptions, prompt};

/// Maximum number of events that are sent ahead of the reader.
const AHEAD: usize = 16;

/// The web search of a response.
#[derive(Debug)]
pub struct Searching {
    /// The search service.
    pub web_search: WebSearch,
    /// The key that searches are charged to.
    pub payer: String,
    /// Search options that apply to every query.
    pub options: SearchOptions,
    /// Set if the server searches first, rather than when the model calls the tool.
    pub first: bool,
    /// Maximum number of searches.
    pub most: u32,
}

/// Returns the source of such a response.
pub fn source(models: Models, plan: Plan, meter: Meter, searching: Searching) -> Source {
    let (out, said) = mpsc::channel(AHEAD);
    let constraining = plan.constraining;
    let rounds = async move {
        let mut rounds = Rounds { models, plan, searching, found: 0, out };
        let end = match rounds.run(meter).await {
            Ok((reason, usage)) => RunEvent::Finished(reason, usage),
            Err(error) => generation::failed(error, constraining),
        };
        rounds.emit(end).await;
    };
    // The rounds are part of the stream: they make progress while it is read, and end when it is dropped.
    Box::pin(select(ReceiverStream::new(said), once(rounds).filter_map(|()| future::ready(None))))
}

struct Rounds {
    models: Models,
    plan: Plan,
    searching: Searching,
    /// The number of sources so far.
    found: usize,
    out: mpsc::Sender<RunEvent>,
}

/// The actions of the model in one round.
#[derive(Debug, Default)]
struct Round {
    text: String,
    /// Its searches: the call's id and arguments.
    searches: Vec<(String, String)>,
    /// Set while the deltas belong to the last search.
    in_search: bool,
    /// Set if it called a function of the caller's.
    calls: bool,
}

impl Rounds {
    /// Emits an event. The receiver is part of the same stream, so it still exists.
    async fn emit(&self, event: RunEvent) {
        let _ = self.out.send(event).await;
    }

    async fn emit_delta(&self, kind: DeltaKind, text: &str) {
        self.emit(RunEvent::Delta(Delta { kind, text: text.to_owned(), ..Delta::default() })).await;
    }

    async fn run(&mut self, mut meter: Meter) -> Result<(FinishReason, TokenUsage), GenerationError> {
        self.emit(RunEvent::Started).await;
        if self.searching.first && self.searching.most > 0 {
            self.search_first().await?;
        }
        let mut total = TokenUsage::default();
        loop {
            if self.searching.first || self.searching.most == 0 {
                without_search(&mut self.plan);
            }
            let mut choices = generation::begin(&self.models, &mut self.plan, meter).await?;
            let mut round = Round::default();
            let (reason, usage) = self.forward(&mut choices, &mut round).await?;
            total = sum(total, usage);
            // Calls of functions are for the caller to answer, even if searches were called with them.
            if reason != FinishReason::Stop || round.searches.is_empty() || round.calls {
                choices.settle().await;
                return Ok((reason, total));
            }
            let (call_policy, check, used) = choices.into_parts();
            let missing = || GenerationError::Internal("an answer came without a meter".to_owned());
            meter = used.ok_or_else(missing)?;
            meter.next_round();
            self.plan.call_policy = call_policy;
            self.plan.check = check.map(|mut check| {
                check.next_round();
                check
            });
            self.search_as_called(round).await?;
            relax(&mut self.plan);
        }
    }

    /// Forwards one answer to its end.
    async fn forward(
        &self,
        choices: &mut Choices,
        round: &mut Round,
    ) -> Result<(FinishReason, TokenUsage), GenerationError> {
        while let Some(event) = choices.next().await {
            match event?.1 {
                ChoiceEvent::Finished(reason, usage) => return Ok((reason, usage)),
                ChoiceEvent::Call { id, name, .. } if name == FUNCTION => {
                    round.in_search = true;
                    round.searches.push((id, String::new()));
                }
                ChoiceEvent::Arguments { text, .. } if round.in_search => {
                    if let Some((_, arguments)) = round.searches.last_mut() {
                        arguments.push_str(&text);
                    }
                }
                event => {
                    match &event {
                        ChoiceEvent::Call { .. } => (round.in_search, round.calls) = (false, true),
                        ChoiceEvent::Text(text, _) => round.text.push_str(text),
                        _ => {}
                    }
                    self.emit(RunEvent::Delta(generation::delta(event))).await;
                }
            }
        }
        Err(GenerationError::Internal("a generation ended without a result".to_owned()))
    }

    /// Searches with the user's question.
    async fn search_first(&mut self) -> Result<(), GenerationError> {
        let query = SearchQuery::words(prompt::question(&self.plan.messages).unwrap_or_default());
        let messages = self.plan.messages.clone();
        let with = |text: &str| prompt::with_sources(messages.clone(), text);
        let text = self.search(&query, prompt::failed(), with).await?;
        self.plan.messages = prompt::with_sources(messages, &text);
        Ok(())
    }

    /// Runs the searches that the model called, and appends their results to the messages.
    async fn search_as_called(&mut self, round: Round) -> Result<(), GenerationError> {
        let calls: Vec<Value> = round
            .searches
            .iter()
            .map(|(id, arguments)| {
                json!({"id": id, "type": "function", "function": {"name": FUNCTION, "arguments": arguments}})
            })
            .collect();
        let said = if round.text.is_empty() { Value::Null } else { Value::String(round.text) };
        let question = SearchQuery::words(prompt::question(&self.plan.messages).unwrap_or_default());
        self.plan.messages.push(json!({"role": "assistant", "content": said, "tool_calls": calls}));
        for (id, arguments) in round.searches {
            let result = |text: &str| json!({"role": "tool", "tool_call_id": id, "content": text});
            if self.searching.most == 0 {
                self.plan
                    .messages
                    .push(result("The search was not performed: no more searches are allowed."));
                continue;
            }
            let query = wanted(&arguments).unwrap_or_else(|| question.clone());
            let messages = self.plan.messages.clone();
            let with = |text: &str| messages.iter().cloned().chain([result(text)]).collect();
            let text = self.search(&query, prompt::failed(), with).await?;
            self.plan.messages.push(result(&text));
        }
        Ok(())
    }

    /// Runs one search, emitting its events; returns the text for the model. `with` returns the messages with such a
    /// text.
    async fn search<F>(&mut self, query: &str, failed: &str, with: F) -> Result<String, GenerationError>
    where
        F: Fn(&str) -> Vec<Value>,
    {
        self.searching.most -= 1;
        self.emit_delta(DeltaKind::Search, query).await;
        let asked = self.searching.options.query(query);
        let found = match self.searching.web_search.search(&self.searching.payer, asked).await {
            Ok(found) => found,
            // The cause is in the log and in /status: the response object has no field for it.
            Err(_) => {
                self.emit_delta(DeltaKind::Searched { sources: None }, "").await;
                return Ok(failed.to_owned());
            }
        };
        let request = |text: &str| {
            let messages = with(text);
            // With `truncation`, older messages are left out first.
            let begin = match self.plan.truncate {
                true => beginnings(&messages).last().copied().unwrap_or(0),
                false => 0,
            };
            self.plan.request_with(&messages[begin..])
        };
        let shown = prompt::fit(&self.models, query, &found, self.found, request).await?;
        self.found += shown.sources.len();
        self.emit_delta(DeltaKind::Searched { sources: Some(shown.sources) }, "").await;
        Ok(shown.text)
    }
}

/// Returns the query in a call's arguments.
fn wanted(arguments: &str) -> Option<String> {
    let arguments: Value = serde_json::from_str(arguments).ok()?;
    let words = SearchQuery::words(arguments["query"].as_str()?);
    (!words.is_empty()).then_some(words)
}

/// Removes the search from the tools.
fn without_search(plan: &mut Plan) {
    let tools = plan.request.tools.take().map(|tools| {
        let callable = tools.callable.iter().filter(|tool| tool.name != FUNCTION).cloned().collect();
        ToolPlan { callable, ..(*tools).clone() }
    });
    plan.request.tools = tools.filter(|tools| !tools.callable.is_empty()).map(Into::into);
    if let Prompt::Chat(chat) = &*plan.request.prompt {
        let mut chat = chat.clone();
        chat.tools.retain(|tool| tool["function"]["name"] != FUNCTION);
        plan.request.prompt = Prompt::Chat(chat).into();
    }
}

/// Makes further calls optional after a call was made.
fn relax(plan: &mut Plan) {
    let Some(tools) = plan.request.tools.take() else { return };
    plan.call_policy.relax(&tools);
    plan.request.tools = Some(ToolPlan { required: false, ..(*tools).clone() }.into());
}

const fn sum(a: TokenUsage, b: TokenUsage) -> TokenUsage {
    TokenUsage {
        prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
        cached_tokens: a.cached_tokens.saturating_add(b.cached_tokens),
        completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
        reasoning_tokens: a.reasoning_tokens.saturating_add(b.reasoning_tokens),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_what_to_search_for() {
        assert_eq!(wanted(r#"{"query": " rust\n news "}"#).as_deref(), Some("rust news"));
        for none in ["", "{}", "[]", r#"{"query": 1}"#, r#"{"query": " "}"#, "{\"query\": \"x"] {
            assert_eq!(wanted(none), None, "{none}");
        }
    }
}
