//! What one request costs: its tokens, which limits and the ledger count, and a stream while it lasts.

use jan_actors::identity::Principal;
use jan_actors::limits::{AnswersRefused, Limiter, StreamPermit};
use jan_actors::model::{GenerationEvent, Models};
use jan_actors::usage::{UsageCounts, UsageKey, UsageLedger};

use crate::api::state::AppState;
use crate::http::{ApiError, RequestContext};

/// Counts `answers` of one request, whose number `field` says, against the caller's answers a minute.
///
/// # Errors
/// 400: more than the limit lets one request have at all. 429: not so many are left now.
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

/// Counts the tokens of a request's answers and charges them when it is over, however it ends: who leaves early has
/// used the tokens so far. The ledger gets them as they come.
#[derive(Debug)]
pub struct Meter {
    limiter: Limiter,
    principal: Principal,
    _stream: Option<StreamPermit>,
    answers_per_prompt: usize,
    prompt_tokens: u32,
    /// For each answer.
    completion_tokens: Vec<u32>,
    /// Of rounds before this one.
    earlier_tokens: u32,
    ledger: UsageLedger,
    /// `None` until it is known which model it is for.
    account: Option<UsageKey>,
    accepted: bool,
}

impl Meter {
    /// For a request for `prompts` prompts with `answers_per_prompt` answers each.
    ///
    /// # Errors
    /// 429: the caller has as many streams as they may.
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
            completion_tokens: vec![0; prompts * answers_per_prompt],
            earlier_tokens: 0,
            ledger: state.usage.clone(),
            account: None,
            accepted: false,
        })
    }

    /// The request is for that model, by its id or an alias.
    pub async fn of_model(&mut self, models: &Models, model: &str) {
        let description = models.describe(model).await;
        self.account = description.map(|model| UsageKey::of(&self.principal, &model.root));
    }

    /// The same request asks the model again, with a search's results.
    pub fn next_round(&mut self) {
        for tokens in &mut self.completion_tokens {
            self.earlier_tokens = self.earlier_tokens.saturating_add(std::mem::take(tokens));
        }
    }

    /// Returns when what was used is on disk. What a client was told to be over has been counted.
    pub async fn settle(&self) {
        if self.account.is_some() {
            self.ledger.settle().await;
        }
    }

    /// Takes note of so many tokens of a prompt that is answered with no text.
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

    /// Takes note of what answer `index` says.
    pub fn observe(&mut self, index: usize, event: &GenerationEvent) {
        let mut used = UsageCounts::default();
        // The answers to one prompt share it.
        let of_prompt = index.is_multiple_of(self.answers_per_prompt);
        let completion = &mut self.completion_tokens[index];
        match event {
            GenerationEvent::Accepted { prompt_tokens, .. } if of_prompt => {
                self.prompt_tokens = self.prompt_tokens.saturating_add(*prompt_tokens);
                used.requests = u64::from(!std::mem::replace(&mut self.accepted, true));
                used.prompt_tokens = (*prompt_tokens).into();
            }
            GenerationEvent::Started { cached_tokens } if of_prompt => {
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
