//! Metering of one request: its tokens, for rate limits and the usage ledger, and its stream permit.

use std::collections::HashSet;

use jan_actors::identity::Principal;
use jan_actors::limits::{AnswersRefused, Limiter, StreamPermit};
use jan_actors::model::{GenerationEvent, Models};
use jan_actors::usage::{UsageCounts, UsageKey, UsageLedger};

use crate::api::state::AppState;
use crate::http::{ApiError, RequestContext};

/// Counts the `answers` of one request, whose number `field` sets, against the caller's limit of answers a minute.
///
/// # Errors
/// 400 if the number exceeds the whole limit; 429 if it exceeds what is left at present.
pub fn take_answers(
    state: &AppState,
    context: &RequestContext,
    answers: usize,
    field: &'static str,
) -> Result<(), ApiError> {
    let count = u32::try_from(answers).unwrap_or(u32::MAX);
    match state.limiter.take_answers(&context.caller.principal, count) {
        Ok(()) => Ok(()),
        Err(AnswersRefused::MoreThanAll { limit }) => {
            let message = format!(
                "Invalid '{field}': {answers} answers are more than the {limit} answers a minute that the caller may \
                 have (rate_limits.answers_per_minute); ask for at most {limit} in one request."
            );
            Err(ApiError::invalid_value(field, message))
        }
        Err(AnswersRefused::NotNow { limit, retry_after }) => {
            Err(ApiError::answers_limited(answers, limit, retry_after))
        }
    }
}

/// Counts the tokens of a request's answers and charges them when the request ends, including when its client
/// disconnects early. The usage ledger receives them as they arrive.
#[derive(Debug)]
pub struct Meter {
    limiter: Limiter,
    principal: Principal,
    _stream: Option<StreamPermit>,
    answers_per_prompt: usize,
    prompt_tokens: u32,
    /// Tokens of each answer's prompt that are counted, and of those the cached ones.
    counted_prompts: Vec<(u32, u32)>,
    /// One count for each answer.
    completion_tokens: Vec<u32>,
    /// Tokens of the rounds before this one.
    earlier_tokens: u32,
    /// Answers that were begun again, whose prompts are counted.
    retried: HashSet<usize>,
    ledger: UsageLedger,
    /// `None` until the model is known.
    account: Option<UsageKey>,
    accepted: bool,
}

impl Meter {
    /// Starts metering a request with `prompts` prompts and `answers_per_prompt` answers to each.
    ///
    /// # Errors
    /// 429: the caller has reached the limit of concurrent streams.
    pub fn start(
        state: &AppState,
        context: &RequestContext,
        stream: bool,
        prompts: usize,
        answers_per_prompt: usize,
    ) -> Result<Self, ApiError> {
        let principal = context.caller.principal;
        let permit = match stream {
            true => {
                Some(state.limiter.stream(&principal).map_err(|verdict| ApiError::rate_limited(&verdict))?)
            }
            false => None,
        };
        Ok(Self {
            limiter: state.limiter.clone(),
            principal,
            _stream: permit,
            answers_per_prompt,
            prompt_tokens: 0,
            counted_prompts: vec![(0, 0); prompts * answers_per_prompt],
            completion_tokens: vec![0; prompts * answers_per_prompt],
            earlier_tokens: 0,
            retried: HashSet::new(),
            ledger: state.usage.clone(),
            account: None,
            accepted: false,
        })
    }

    /// Sets the model of the request, by its id or an alias.
    pub async fn of_model(&mut self, models: &Models, model: &str) {
        let description = models.describe(model).await;
        self.account = description.map(|model| UsageKey::of(&self.principal, &model.root));
    }

    /// Begins another round of the same request, with the results of a search.
    pub fn next_round(&mut self) {
        for tokens in &mut self.completion_tokens {
            self.earlier_tokens = self.earlier_tokens.saturating_add(std::mem::take(tokens));
        }
    }

    /// Begins another try of an answer.
    pub fn next_try(&mut self, index: usize) {
        let tokens = std::mem::take(&mut self.completion_tokens[index]);
        self.earlier_tokens = self.earlier_tokens.saturating_add(tokens);
        self.retried.insert(index);
    }

    /// Returns after the usage was written to disk, so that usage is counted before a client learns of the end.
    pub async fn settle(&self) {
        if self.account.is_some() {
            self.ledger.settle().await;
        }
    }

    /// Records the tokens of a prompt that is answered without text.
    pub fn read(&mut self, tokens: u32) {
        self.prompt_tokens = self.prompt_tokens.saturating_add(tokens);
        let used = UsageCounts {
            requests: u64::from(!std::mem::replace(&mut self.accepted, true)),
            prompt_tokens: tokens.into(),
            ..UsageCounts::default()
        };
        if let Some(account) = &self.account {
            self.ledger.add(account, &used);
        }
    }

    /// Records an event of answer `index`.
    pub fn observe(&mut self, index: usize, event: &GenerationEvent) {
        let mut used = UsageCounts::default();
        // The answers to one prompt share its tokens.
        let of_prompt = index.is_multiple_of(self.answers_per_prompt) && !self.retried.contains(&index);
        let completion = &mut self.completion_tokens[index];
        match event {
            GenerationEvent::Accepted { prompt_tokens, .. } if of_prompt => {
                self.prompt_tokens = self.prompt_tokens.saturating_add(*prompt_tokens);
                self.counted_prompts[index] = (*prompt_tokens, 0);
                used.requests = u64::from(!std::mem::replace(&mut self.accepted, true));
                used.prompt_tokens = (*prompt_tokens).into();
            }
            GenerationEvent::Started { cached_tokens } if of_prompt => {
                self.counted_prompts[index].1 = *cached_tokens;
                used.cached_tokens = (*cached_tokens).into();
            }
            GenerationEvent::Output { tokens, .. } => {
                *completion = completion.saturating_add(*tokens);
                used.completion_tokens = (*tokens).into();
            }
            GenerationEvent::Finished { usage, .. } => {
                let new = usage.completion_tokens.saturating_sub(*completion);
                *completion = usage.completion_tokens;
                used.completion_tokens = new.into();
                if of_prompt {
                    // Some upstreams report the prompt's length at the end alone.
                    let (prompt, cached) = self.counted_prompts[index];
                    let prompt = usage.prompt_tokens.saturating_sub(prompt);
                    self.prompt_tokens = self.prompt_tokens.saturating_add(prompt);
                    used.prompt_tokens = prompt.into();
                    used.cached_tokens = usage.cached_tokens.saturating_sub(cached).into();
                }
            }
            _ => return,
        }
        if let Some(account) = &self.account
            && used != UsageCounts::default()
        {
            self.ledger.add(account, &used);
        }
    }
}

impl Drop for Meter {
    fn drop(&mut self) {
        let answers = self
            .completion_tokens
            .iter()
            .fold(self.earlier_tokens, |sum, tokens| sum.saturating_add(*tokens));
        self.limiter.charge_tokens(&self.principal, self.prompt_tokens.saturating_add(answers));
    }
}
