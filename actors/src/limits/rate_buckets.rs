//! The buckets of all principals, behind the trait that another implementation would have.

use std::fmt::Debug;

use super::bucket::{Bucket, Rate};
use super::types::CheckKind;
use crate::identity::{ClientNet, KeyId, Party, UserId};

/// Number of parts in which idle subjects are removed, so that none takes long.
pub const PARTS: usize = 64;

/// The owner of buckets: a user, a key or a network. 16 bytes for all three: ids are UUIDs of version 7, whose version is in the
/// seventh byte, where a network has 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Subject([u8; 16]);

impl From<UserId> for Subject {
    fn from(id: UserId) -> Self {
        Self(id.to_bytes())
    }
}

impl From<KeyId> for Subject {
    fn from(id: KeyId) -> Self {
        Self(id.to_bytes())
    }
}

impl From<ClientNet> for Subject {
    fn from(net: ClientNet) -> Self {
        let mut bytes = [0; 16];
        match net {
            ClientNet::V4(octets) => bytes[12..].copy_from_slice(&octets),
            ClientNet::V6(prefix) => {
                bytes[7] = 1;
                bytes[8..].copy_from_slice(&prefix);
            }
        }
        Self(bytes)
    }
}

impl From<Party> for Subject {
    fn from(party: Party) -> Self {
        match party {
            Party::User(user) => user.into(),
            Party::Net(net) => net.into(),
        }
    }
}

impl Subject {
    /// Returns the number of its part. The last bytes are the random ones of an id and the distinguishing ones of a network.
    pub fn part(self) -> usize {
        let mix = self.0[8..].iter().fold(0u32, |mix, &byte| mix.wrapping_mul(31).wrapping_add(byte.into()));
        mix as usize % PARTS
    }
}

/// One subject's buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Time of the last refill (milliseconds).
    pub last_ms: u64,
    /// Requests per hour.
    pub requests: Bucket,
    /// Inference requests per minute.
    pub inference: Bucket,
    /// Answers per minute.
    pub answers: Bucket,
    /// Tokens per minute.
    pub tokens: Bucket,
    /// Failed sign-ins per hour.
    pub failures: Bucket,
    /// Number of open streams.
    pub streams: u32,
}

/// The limits that apply to one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Requests per hour.
    pub requests: Rate,
    /// Inference requests per minute.
    pub inference: Rate,
    /// Answers per minute.
    pub answers: Rate,
    /// Tokens per minute.
    pub tokens: Rate,
    /// Failed sign-ins per hour.
    pub failures: Rate,
    /// Maximum number of concurrent streams; 0: unlimited.
    pub streams: u32,
}

/// A charge to one subject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Charge {
    /// A request, in all buckets that count its kind. One for inference needs a token in the bucket of tokens, and takes none.
    Request(CheckKind),
    /// Reverts [`Charge::Request`].
    RevertRequest(CheckKind),
    /// So many answers.
    Answers(u32),
    /// Reverts [`Charge::Answers`].
    RevertAnswers(u32),
    /// So many tokens, even if fewer are left.
    Tokens(u32),
    /// A failed sign-in, if one is left.
    Failure,
    /// An open stream, until [`RateBuckets::end_stream`].
    Stream,
}

/// The outcome of a charge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Charged {
    /// `true` if it was made. Otherwise a bucket has too little left, and none has changed.
    pub made: bool,
    /// The subject's buckets afterwards.
    pub entry: Entry,
}

impl Entry {
    /// Refills the buckets up to `now_ms`. If the clock was set back, time continues from there: the bucket neither fills nor
    /// waits for the clock to catch up.
    pub fn pass(&mut self, now_ms: u64, limits: &Limits) {
        let elapsed = now_ms.saturating_sub(self.last_ms);
        self.last_ms = now_ms;
        self.requests.refill(elapsed, limits.requests);
        self.inference.refill(elapsed, limits.inference);
        self.answers.refill(elapsed, limits.answers);
        self.tokens.refill(elapsed, limits.tokens);
        self.failures.refill(elapsed, limits.failures);
    }

    /// Makes a charge, or changes nothing; returns whether it was made.
    pub fn charge(&mut self, limits: &Limits, charge: Charge) -> bool {
        match charge {
            Charge::Request(kind) => {
                let has = |bucket: &Bucket, rate: Rate| rate.is_unlimited() || bucket.remaining(rate) > 0;
                let is_inference = kind == CheckKind::Inference;
                if !has(&self.requests, limits.requests)
                    || is_inference
                        && !(has(&self.inference, limits.inference) && has(&self.tokens, limits.tokens))
                {
                    return false;
                }
                self.requests.take(limits.requests);
                if is_inference {
                    self.inference.take(limits.inference);
                }
            }
            Charge::RevertRequest(kind) => {
                self.requests.give_back(limits.requests);
                if kind == CheckKind::Inference {
                    self.inference.give_back(limits.inference);
                }
            }
            Charge::Answers(answers) => return self.answers.take_many(answers, limits.answers),
            Charge::RevertAnswers(answers) => self.answers.give_back_many(answers, limits.answers),
            Charge::Tokens(tokens) => self.tokens.charge(tokens, limits.tokens),
            Charge::Failure => return self.failures.take(limits.failures),
            Charge::Stream => {
                if limits.streams > 0 && self.streams >= limits.streams {
                    return false;
                }
                self.streams += 1;
            }
        }
        true
    }
}

/// The buckets of all subjects, of all servers that are under the same limits.
///
/// # Contract
///
/// - No method waits for I/O or for another server: the gate calls them on the runtime's threads with every request. An
///   implementation for several servers therefore spends an allowance that its server has taken from the shared bucket before,
///   gets the next one in the background, and is told by notices what others have charged (tokens, which are known late).
/// - A charge is atomic: it is made in all buckets that it concerns or in none, and concurrent charges never spend the same unit.
///   A charge that is reverted leaves the buckets as they would be without it.
/// - Over any time, all servers together grant no more than the limit and what refills meanwhile. A server may refuse although
///   another one has some of its allowance left; it may not grant more.
/// - Streams count until [`end_stream`](Self::end_stream), or until their server ends.
/// - Times are milliseconds of this server's own clock, which is monotonic and starts with it: they are not compared with those
///   of other servers.
/// - Limits are arguments, since they change with users and keys: a changed limit applies from the next call on.
pub trait RateBuckets: Debug + Send + Sync {
    /// Refills a subject's buckets up to `now_ms`, and makes a charge.
    fn charge(&self, subject: Subject, now_ms: u64, limits: &Limits, charge: Charge) -> Charged;

    /// Returns a subject's buckets as they are at `now_ms`, without changing anything.
    fn peek(&self, subject: Subject, now_ms: u64, limits: &Limits) -> Entry;

    /// Ends a stream of a subject.
    fn end_stream(&self, subject: Subject);

    /// Removes subjects of one of the [`PARTS`] whose buckets are full whatever their limits are, and who have no stream; returns
    /// how many. No bucket changes by it.
    fn forget_idle(&self, part: usize, now_ms: u64) -> usize;
}
