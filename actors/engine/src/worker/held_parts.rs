//! Parts that several requests have in common, as the worker keeps them.

use std::collections::HashMap;
use std::sync::Arc;

use jan_protocol::report::Rejection;
use jan_protocol::types;
use jan_protocol::worker_protocol::{Infill, Part, RequestParts, Submit, part};

use crate::prompt::prepare::{Draft, SharedPrompt};

/// A part as the worker keeps it.
#[derive(Clone, Debug)]
enum Held {
    Prompt(Arc<SharedPrompt>),
    Stop(Arc<[String]>),
    LogitBias(Arc<[(types::Token, f32)]>),
    Constraint(Arc<types::Constraint>),
    Tools(Arc<types::ToolPlan>),
}

/// The parts that a worker has received and must keep.
#[derive(Debug, Default)]
pub struct HeldParts(HashMap<u64, Result<Held, Rejection>>);

impl HeldParts {
    /// Keeps a part.
    pub fn keep(&mut self, Part { id, part }: Part) {
        let malformed = |what: &str| Rejection::Internal(format!("malformed part: {what}"));
        let prompt = |prompt| Held::Prompt(Arc::new(SharedPrompt::new(id, Arc::new(prompt))));
        let constraint = |constraint| Held::Constraint(Arc::new(constraint));
        let held = match part {
            Some(part::Part::Chat(json)) => serde_json::from_str(&json)
                .map(|chat| prompt(types::Prompt::Chat(chat)))
                .map_err(|error| malformed(&error.to_string())),
            Some(part::Part::Text(text)) => Ok(prompt(types::Prompt::Text(text))),
            Some(part::Part::Tokens(tokens)) => Ok(prompt(types::Prompt::Tokens(tokens.tokens))),
            Some(part::Part::Infill(Infill { prefix, suffix })) => {
                Ok(prompt(types::Prompt::Infill { prefix, suffix }))
            }
            Some(part::Part::Stop(stop)) => Ok(Held::Stop(stop.texts.into())),
            Some(part::Part::LogitBias(biases)) => {
                Ok(Held::LogitBias(biases.biases.iter().map(|b| (b.token, b.bias)).collect()))
            }
            Some(part::Part::JsonSchema(schema)) => Ok(constraint(types::Constraint::JsonSchema(schema))),
            Some(part::Part::Regex(regex)) => Ok(constraint(types::Constraint::Regex(regex))),
            Some(part::Part::Choice(choice)) => Ok(constraint(types::Constraint::Choice(choice.texts))),
            Some(part::Part::Gbnf(grammar)) => Ok(constraint(types::Constraint::Gbnf(grammar))),
            Some(part::Part::Lark(grammar)) => Ok(constraint(types::Constraint::Lark(grammar))),
            Some(part::Part::Tools(json)) => serde_json::from_str(&json)
                .map(|tools| Held::Tools(Arc::new(tools)))
                .map_err(|error| malformed(&error.to_string())),
            None => Err(malformed("nothing in it")),
        };
        self.0.insert(id, held);
    }

    /// Forgets a part; requests that wait keep their parts of it.
    pub fn forget(&mut self, id: u64) {
        self.0.remove(&id);
    }

    /// The worker's view of a request.
    ///
    /// # Errors
    /// A message that a server of this version does not send.
    pub fn draft(&self, mut submit: Submit) -> Result<Draft, Rejection> {
        let malformed = |what: &str| Rejection::Internal(format!("malformed submit message: {what}"));
        let part = |id: u64| match (id, self.0.get(&id)) {
            (0, _) => Ok(None),
            (_, Some(held)) => held.clone().map(Some),
            (_, None) => Err(malformed("it names a part that was not told")),
        };
        let Some(Held::Prompt(prompt)) = part(submit.prompt)? else { return Err(malformed("no prompt")) };
        let parts = RequestParts {
            prompt: Arc::clone(&prompt.prompt),
            stop: match part(submit.stop)? {
                Some(Held::Stop(stop)) => stop,
                _ => Arc::default(),
            },
            logit_bias: match part(submit.logit_bias)? {
                Some(Held::LogitBias(biases)) => biases,
                _ => Arc::default(),
            },
            constraint: match part(submit.constraint)? {
                Some(Held::Constraint(constraint)) => Some(constraint),
                _ => None,
            },
            tools: match part(submit.tools)? {
                Some(Held::Tools(tools)) => Some(tools),
                _ => None,
            },
        };
        let (id, count_only) = (submit.id, submit.count_only);
        let layout = submit.layout.clone().map(Into::into);
        let generated = std::mem::take(&mut submit.generated);
        let request = submit.into_request(parts).ok_or_else(|| malformed("no sampling"))?;
        Ok(Draft { id, request, prompt, generated, layout, count_only })
    }
}
