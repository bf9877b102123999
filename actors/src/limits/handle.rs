//! The edge's handle to the rate limits.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::actor::{Clock, LIMITERS, RateLimiter, RateLimiterArguments};
use super::bucket::{Bucket, Rate};
use super::rate_buckets::{Charge, Entry, Limits, RateBuckets, Subject};
use super::table::Table;
use super::types::{AnswersRefused, BucketView, CheckKind, LimitName, LimitOverrides, RateLimitDecision};
use crate::config::RateLimitsConfig;
use crate::identity::{ClientNet, MAX_PARENTS, Party, Principal, PrincipalKind};
use crate::supervisor::ChildSpec;

/// Retry delay of a refused stream; the end of a running stream cannot be foreseen.
const STREAM_RETRY: Duration = Duration::from_secs(1);

/// Handle to the rate limits. Cheap to clone; no method waits.
#[derive(Clone, Debug)]
pub struct Limiter {
    buckets: Arc<dyn RateBuckets>,
    clock: Clock,
    config: Arc<RateLimitsConfig>,
}

/// A counted stream. Dropping it ends the count.
#[derive(Debug)]
#[must_use = "dropping it means that the stream is over"]
pub struct StreamPermit {
    buckets: Arc<dyn RateBuckets>,
    subjects: [Option<Subject>; MAX_ASKED],
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        for subject in self.subjects.into_iter().flatten() {
            self.buckets.end_stream(subject);
        }
    }
}

/// Number of answers per inference request where the settings contain no limit of answers.
const ANSWERS_PER_REQUEST: u32 = 10;

/// A subject whose buckets are checked, and the limits that apply there.
type Asked = (Subject, Limits);

/// Maximum number of checked subjects: a key, its ancestors, its guest, and the guest's network.
const MAX_ASKED: usize = MAX_PARENTS + 3;

impl Limiter {
    /// Returns a limiter with full buckets.
    #[must_use]
    pub fn new(config: RateLimitsConfig) -> Self {
        Self::over(Arc::new(Table::default()), config)
    }

    fn over(buckets: Arc<dyn RateBuckets>, config: RateLimitsConfig) -> Self {
        Self { buckets, clock: Clock::new(), config: Arc::new(config) }
    }

    /// Returns its actors, for a supervisor to start.
    pub(crate) fn children(&self) -> Vec<ChildSpec> {
        let child = |number| {
            let arguments =
                RateLimiterArguments { buckets: Arc::clone(&self.buckets), clock: self.clock, number };
            ChildSpec::new(format!("rate limiter #{number}"), || RateLimiter, arguments)
        };
        (0..LIMITERS).map(child).collect()
    }

    /// Counts a request, unless a bucket is empty: a refused request costs nothing.
    pub fn check(&self, principal: &Principal, kind: CheckKind) -> RateLimitDecision {
        self.check_at(principal, kind, self.clock.now_ms())
    }

    fn check_at(&self, principal: &Principal, kind: CheckKind, now: u64) -> RateLimitDecision {
        let mut verdict = RateLimitDecision::UNLIMITED;
        let asked = self.asked(principal);
        for (number, (subject, limits)) in asked.iter().flatten().enumerate() {
            let charged = self.buckets.charge(*subject, now, limits, Charge::Request(kind));
            let mode = if charged.made { CheckMode::Peek } else { CheckMode::Take };
            verdict = worse(verdict, view_all(&charged.entry, limits, kind, mode));
            if !charged.made {
                // The counts of the earlier buckets are reverted.
                for (subject, limits) in asked.iter().flatten().take(number) {
                    self.buckets.charge(*subject, now, limits, Charge::RevertRequest(kind));
                }
                break;
            }
        }
        verdict
    }

    /// Returns the result of [`check`](Self::check) without counting.
    #[must_use]
    pub fn peek(&self, principal: &Principal, kind: CheckKind) -> RateLimitDecision {
        self.peek_at(principal, kind, self.clock.now_ms())
    }

    fn peek_at(&self, principal: &Principal, kind: CheckKind, now: u64) -> RateLimitDecision {
        let asked = self.asked(principal);
        let judged = asked.iter().flatten().map(|(subject, limits)| {
            let entry = self.buckets.peek(*subject, now, limits);
            view_all(&entry, limits, kind, CheckMode::Take)
        });
        judged.fold(RateLimitDecision::UNLIMITED, worse)
    }

    /// Charges the tokens of an answer, once they are known. The bucket may go below empty; the next inference waits until the
    /// debt is paid.
    pub fn charge_tokens(&self, principal: &Principal, tokens: u32) {
        let now = self.clock.now_ms();
        for (subject, limits) in self.asked(principal).iter().flatten() {
            if !limits.tokens.is_unlimited() {
                self.buckets.charge(*subject, now, limits, Charge::Tokens(tokens));
            }
        }
    }

    /// Counts the answers of one request, all of them or none.
    ///
    /// # Errors
    /// The reason for the refusal.
    pub fn take_answers(&self, principal: &Principal, answers: u32) -> Result<(), AnswersRefused> {
        self.take_answers_at(principal, answers, self.clock.now_ms())
    }

    fn take_answers_at(&self, principal: &Principal, answers: u32, now: u64) -> Result<(), AnswersRefused> {
        let asked = self.asked(principal);
        let limited = || asked.iter().flatten().filter(|(_, limits)| !limits.answers.is_unlimited());
        if let Some(limit) = limited().map(|(_, limits)| limits.answers.limit).min().filter(|&l| l < answers)
        {
            return Err(AnswersRefused::MoreThanAll { limit });
        }
        for (number, (subject, limits)) in limited().enumerate() {
            let rate = limits.answers;
            let charged = self.buckets.charge(*subject, now, limits, Charge::Answers(answers));
            if !charged.made {
                for (subject, limits) in limited().take(number) {
                    self.buckets.charge(*subject, now, limits, Charge::RevertAnswers(answers));
                }
                let retry_after = Duration::from_millis(charged.entry.answers.many_in_ms(answers, rate));
                return Err(AnswersRefused::NotNow { limit: rate.limit, retry_after });
            }
        }
        Ok(())
    }

    /// Counts a stream for the lifetime of the permit.
    ///
    /// # Errors
    /// The refusal, if the principal has its maximum number of streams.
    pub fn stream(&self, principal: &Principal) -> Result<StreamPermit, RateLimitDecision> {
        let now = self.clock.now_ms();
        // Dropped on a refusal, the permit gives back the counts so far.
        let mut permit = StreamPermit { buckets: Arc::clone(&self.buckets), subjects: [None; MAX_ASKED] };
        for (held, (subject, limits)) in
            permit.subjects.iter_mut().zip(self.asked(principal).iter().flatten())
        {
            let limit = limits.streams;
            if limit == 0 {
                continue;
            }
            if !self.buckets.charge(*subject, now, limits, Charge::Stream).made {
                let reset_epoch_s = epoch_s_in(STREAM_RETRY);
                let nearest = BucketView { name: LimitName::Streams, limit, remaining: 0, reset_epoch_s };
                return Err(RateLimitDecision {
                    allowed: false,
                    nearest: Some(nearest),
                    retry_after: Some(STREAM_RETRY),
                });
            }
            *held = Some(*subject);
        }
        Ok(permit)
    }

    /// Returns whether a client of that network may try to sign in.
    #[must_use]
    pub fn sign_in_allowed(&self, net: ClientNet) -> RateLimitDecision {
        let limits = self.limits(self.config.anonymous_per_hour, &LimitOverrides::default());
        let entry = self.buckets.peek(net.into(), self.clock.now_ms(), &limits);
        judge_one(&entry.failures, limits.failures, LimitName::SignInFailures, CheckMode::Take)
    }

    /// Counts a failed sign-in from that network.
    pub fn sign_in_failed(&self, net: ClientNet) {
        let limits = self.limits(self.config.anonymous_per_hour, &LimitOverrides::default());
        self.buckets.charge(net.into(), self.clock.now_ms(), &limits, Charge::Failure);
    }

    /// Returns the subjects whose buckets count a principal's request: a key's own first, if it has any.
    ///
    /// A guest counts in the buckets of its network, like an anonymous caller, so that many guests together have the limits of
    /// one. Limits that an administrator set for one guest replace the network's, in buckets of its own. A key that was created
    /// with another counts in both, otherwise many small keys would add up to a large one.
    fn asked(&self, principal: &Principal) -> [Option<Asked>; MAX_ASKED] {
        let own = |subject: Subject, limits: &LimitOverrides| {
            (*limits != LimitOverrides::default()).then(|| (subject, self.own_limits(limits)))
        };
        let party = principal.party();
        let config = &self.config;
        let (guest, limits) = match (party, principal.user()) {
            (Party::User(_), _) => (None, self.limits(config.authenticated_per_hour, &principal.user_limits)),
            (Party::Net(_), user) => {
                let guest = user.and_then(|user| own(user.into(), &principal.user_limits));
                (guest, self.limits(config.anonymous_per_hour, &principal.user_limits.lifted()))
            }
        };
        let mut asked = [None; MAX_ASKED];
        let [keys @ .., guests, parties] = &mut asked;
        (*guests, *parties) = (guest, Some((party.into(), limits)));
        if let PrincipalKind::Key { key, .. } = principal.kind {
            let made_with =
                std::iter::once((key, principal.key_limits)).chain(principal.parents.into_iter().flatten());
            for (place, (key, limits)) in keys.iter_mut().zip(made_with) {
                *place = own(key.into(), &limits);
            }
        }
        asked
    }

    fn limits(&self, per_hour: u32, overrides: &LimitOverrides) -> Limits {
        let config = &self.config;
        Limits {
            requests: Rate::per_hour(overrides.requests_per_hour.unwrap_or(per_hour)),
            inference: Rate::per_minute(
                overrides.inference_per_minute.unwrap_or(config.inference_per_minute),
            ),
            answers: self.answers(overrides, config.inference_per_minute),
            tokens: Rate::per_minute(overrides.tokens_per_minute.unwrap_or(config.tokens_per_minute)),
            failures: Rate::per_hour(config.sign_in_failures_per_hour),
            streams: overrides.concurrent_streams.unwrap_or(config.concurrent_streams),
        }
    }

    /// Returns limits that apply in addition to others: an absent limit is unlimited here.
    fn own_limits(&self, own: &LimitOverrides) -> Limits {
        // Without inference of its own, it has no answers of its own either.
        let with_inference = own.inference_per_minute.is_some() || own.answers_per_minute.is_some();
        let none = Rate::per_minute(0);
        Limits {
            requests: Rate::per_hour(own.requests_per_hour.unwrap_or(0)),
            inference: Rate::per_minute(own.inference_per_minute.unwrap_or(0)),
            answers: if with_inference { self.answers(own, 0) } else { none },
            tokens: Rate::per_minute(own.tokens_per_minute.unwrap_or(0)),
            failures: Rate::per_hour(0),
            streams: own.concurrent_streams.unwrap_or(0),
        }
    }

    /// Returns the answers per minute, where inference requests are limited to `inference` unless `own` has a limit. A subject
    /// with its own limit of inference requests has a proportional limit of answers. Never fewer than inference requests, so that
    /// requests for one answer are bound by the limit of requests alone.
    fn answers(&self, own: &LimitOverrides, inference: u32) -> Rate {
        let set = self.config.answers_per_minute;
        let set = set.filter(|&set| set == 0 || own.inference_per_minute.is_none());
        let inference = own.inference_per_minute.unwrap_or(inference);
        let answers = own.answers_per_minute.or(set);
        Rate::per_minute(match answers.unwrap_or(inference.saturating_mul(ANSWERS_PER_REQUEST)) {
            0 => 0,
            limited => limited.max(inference),
        })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CheckMode {
    /// An empty bucket refuses.
    Take,
    /// The bucket is only shown.
    Peek,
}

fn view_all(entry: &Entry, limits: &Limits, kind: CheckKind, mode: CheckMode) -> RateLimitDecision {
    let requests = judge_one(&entry.requests, limits.requests, LimitName::Requests, mode);
    if kind == CheckKind::Request {
        return requests;
    }
    let inference = judge_one(&entry.inference, limits.inference, LimitName::Inference, mode);
    let tokens = judge_one(&entry.tokens, limits.tokens, LimitName::Tokens, mode);
    worse(worse(requests, inference), tokens)
}

fn judge_one(bucket: &Bucket, rate: Rate, name: LimitName, mode: CheckMode) -> RateLimitDecision {
    if rate.is_unlimited() {
        return RateLimitDecision::UNLIMITED;
    }
    let remaining = bucket.remaining(rate);
    let reset_epoch_s = epoch_s_in(Duration::from_millis(bucket.full_in_ms(rate)));
    let allowed = mode == CheckMode::Peek || remaining > 0;
    RateLimitDecision {
        allowed,
        nearest: Some(BucketView { name, limit: rate.limit, remaining, reset_epoch_s }),
        retry_after: (!allowed).then(|| Duration::from_millis(bucket.one_in_ms(rate))),
    }
}

/// Returns the stricter of two: the one that refuses for longer, has fewer left, or is full later.
fn worse(a: RateLimitDecision, b: RateLimitDecision) -> RateLimitDecision {
    let rank = |verdict: &RateLimitDecision| {
        let view = verdict.nearest.map(|view| (u32::MAX - view.remaining, view.reset_epoch_s));
        (verdict.retry_after, view)
    };
    if rank(&b) > rank(&a) { b } else { a }
}

/// Returns the first epoch second at least `wait` from now.
fn epoch_s_in(wait: Duration) -> u64 {
    let then = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().saturating_add(wait);
    then.as_secs() + u64::from(then.subsec_nanos() > 0)
}

#[cfg(test)]
#[path = "limits_tests.rs"]
mod tests;
