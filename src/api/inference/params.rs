//! Checks of further fields that inference requests share; [`super::fields`] has those of sampling and constraints.
//! Deserialization has checked the types; these functions check ranges. Source: `CreateChatCompletionRequest` and
//! `CreateCompletionRequest` in OpenAI's API description.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;
use std::sync::Arc;

use serde::de::{Error, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use utoipa::ToSchema;

use super::bounds::{self, MAX_NAME, MAX_STOP, MAX_STOPS};
use crate::http::ApiError;

/// The value of `max_tokens` that stands for no limit.
pub const NO_LIMIT: i64 = -1;

/// Maximum number of answers to one prompt.
pub const MAX_N: i64 = 128;
const MAX_METADATA: usize = 16;
const MAX_METADATA_KEY: usize = 64;
const MAX_METADATA_VALUE: usize = 512;
const MAX_SAFETY_IDENTIFIER: usize = 64;

/// `metadata`: up to 16 pairs of text.
pub type Metadata = BTreeMap<String, String>;

/// Streaming options.
#[derive(Clone, Copy, Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// Send one more chunk before `[DONE]` with the token usage and no choices.
    pub include_usage: Option<bool>,
    /// Send the token usage so far in every chunk, as in vLLM; with several answers that of all of them. Reasoning tokens are
    /// counted at the end of an answer.
    pub continuous_usage_stats: Option<bool>,
    /// Accepted and without effect: chunks carry no padding.
    #[allow(dead_code, reason = "its type is checked")]
    pub include_obfuscation: Option<bool>,
}

/// The chunks of a stream that report the usage.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UsageChunks {
    /// One more at the end.
    pub last: bool,
    /// All others.
    pub all: bool,
}

/// The service tier of the request; the only one is `default`.
#[derive(Clone, Copy, Debug, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ServiceTier {
    /// Chosen by the server.
    Auto,
    /// The only tier.
    Default,
    /// Treated as `default`.
    Flex,
    /// Treated as `default`.
    Scale,
    /// Treated as `default`.
    Priority,
    /// Treated as `default`.
    Fast,
}

/// A text, or up to four texts.
#[derive(ToSchema)]
#[schema(as = Stop)]
#[serde(untagged)]
#[allow(dead_code, reason = "describes what Stop reads")]
pub enum StopShape {
    /// One text.
    One(String),
    /// Several texts.
    Several(Vec<String>),
}

/// `stop`: a text or a list of up to four.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Stop(pub Vec<String>);

impl<'de> Deserialize<'de> for Stop {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct StopVisitor;
        impl<'de> Visitor<'de> for StopVisitor {
            type Value = Stop;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of up to 4 strings")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Stop, E> {
                Ok(Stop(vec![text.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Stop, A::Error> {
                let mut stops = Vec::new();
                while let Some(stop) = seq.next_element()? {
                    if stops.len() == MAX_STOPS {
                        return Err(A::Error::custom("too many stop sequences, expected at most 4"));
                    }
                    stops.push(stop);
                }
                Ok(Stop(stops))
            }
        }
        deserializer.deserialize_any(StopVisitor)
    }
}

/// Returns the seed of the `index`-th answer to a prompt: a SplitMix64 step of the request's seed, so that the answers
/// differ from each other and each is reproducible with the same seed, independently of `n`.
pub fn choice_seed(seed: u64, index: u32) -> u64 {
    let mut mixed = seed.wrapping_add(u64::from(index).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Checks a number's range.
pub fn number(param: &str, value: Option<f64>, range: RangeInclusive<f64>) -> Result<Option<f64>, ApiError> {
    match value {
        Some(value) if !range.contains(&value) => Err(ApiError::invalid_value(
            param,
            format!(
                "Invalid '{param}': {value} is out of range, it must be between {} and {}.",
                range.start(),
                range.end()
            ),
        )),
        value => Ok(value),
    }
}

/// Checks an integer's range.
pub fn integer(param: &str, value: Option<i64>, range: RangeInclusive<i64>) -> Result<Option<i64>, ApiError> {
    match value {
        Some(value) if !range.contains(&value) => Err(ApiError::invalid_value(
            param,
            format!(
                "Invalid '{param}': {value} is out of range, it must be between {} and {}.",
                range.start(),
                range.end()
            ),
        )),
        value => Ok(value),
    }
}

/// Checks `max_tokens` and its synonyms: at least `least`, or -1 for no limit, as LM Studio and llama-server have it.
pub fn answer_length(param: &str, value: Option<i64>, least: i64) -> Result<Option<u32>, ApiError> {
    token_count(param, value.filter(|value| *value != NO_LIMIT), least)
}

/// Checks the names of an answer's maximum length. Returns the name that was given with its value, `None` for no limit.
pub fn one_length<const N: usize>(
    names: [(&'static str, Option<i64>); N],
    least: i64,
) -> Result<Option<(&'static str, Option<u32>)>, ApiError> {
    for (name, value) in names {
        answer_length(name, value, least)?;
    }
    let given = one_of_names(names)?;
    given.map(|(name, value)| Ok((name, answer_length(name, Some(value), least)?))).transpose()
}

/// Returns the first of several names of one field that was given.
///
/// # Errors
/// 400 for different values.
pub fn one_of_names<const N: usize>(
    names: [(&'static str, Option<i64>); N],
) -> Result<Option<(&'static str, i64)>, ApiError> {
    let mut given = names.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    let Some((first, value)) = given.next() else { return Ok(None) };
    match given.find(|(_, other)| *other != value) {
        None => Ok(Some((first, value))),
        Some((second, _)) => Err(ApiError::invalid_value(
            second,
            format!("'{second}' and '{first}' are synonyms with different values; send only one."),
        )),
    }
}

/// Reads a number, or `false` for none.
///
/// # Errors
/// Another value.
pub fn number_or_false<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<i64>, D::Error> {
    struct NumberVisitor;
    impl Visitor<'_> for NumberVisitor {
        type Value = Option<i64>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an integer")
        }

        fn visit_i64<E>(self, value: i64) -> Result<Option<i64>, E> {
            Ok(Some(value))
        }

        fn visit_u64<E: Error>(self, value: u64) -> Result<Option<i64>, E> {
            i64::try_from(value).map(Some).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
        }

        fn visit_bool<E: Error>(self, value: bool) -> Result<Option<i64>, E> {
            if value { Err(E::invalid_type(Unexpected::Bool(value), &self)) } else { Ok(None) }
        }

        fn visit_unit<E>(self) -> Result<Option<i64>, E> {
            Ok(None)
        }
    }
    deserializer.deserialize_any(NumberVisitor)
}

/// Checks fields with a number of tokens: at least `least`.
pub fn token_count(param: &str, value: Option<i64>, least: i64) -> Result<Option<u32>, ApiError> {
    let value = integer(param, value, least..=i64::from(i32::MAX))?;
    Ok(value.and_then(|value| u32::try_from(value).ok()))
}

/// Checks `n`; 1 if it is not set.
pub fn choice_count(n: Option<i64>) -> Result<u32, ApiError> {
    let n = integer("n", n, 1..=MAX_N)?.unwrap_or(1);
    Ok(u32::try_from(n).expect("the range was checked"))
}

/// Checks `best_of`, the number of answers to generate.
pub fn best_of(best_of: Option<i64>) -> Result<Option<u32>, ApiError> {
    let best_of = integer("best_of", best_of, 1..=MAX_N)?;
    Ok(best_of.and_then(|count| u32::try_from(count).ok()))
}

/// Checks chat's `logprobs` and `top_logprobs`; returns the number of most likely tokens to report, `None` for no
/// log-probabilities.
pub fn chat_logprobs(wanted: Option<bool>, top: Option<i64>) -> Result<Option<u32>, ApiError> {
    let top = integer("top_logprobs", top, 0..=20)?;
    if wanted.unwrap_or(false) {
        return Ok(Some(top.and_then(|top| u32::try_from(top).ok()).unwrap_or(0)));
    }
    match top {
        None | Some(0) => Ok(None),
        Some(_) => Err(ApiError::invalid_value(
            "top_logprobs",
            "Invalid 'top_logprobs': it requires 'logprobs' to be true.",
        )),
    }
}

/// Checks completions' `logprobs`.
pub fn completion_logprobs(top: Option<i64>) -> Result<Option<u32>, ApiError> {
    let top = integer("logprobs", top, 0..=5)?;
    Ok(top.and_then(|top| u32::try_from(top).ok()))
}

/// Checks `stop`; no stop sequences if it is not set.
pub fn stops(stop: Option<Stop>) -> Result<Arc<[String]>, ApiError> {
    let stops = stop.unwrap_or_default().0;
    if stops.iter().any(String::is_empty) {
        return Err(ApiError::invalid_value("stop", "Invalid 'stop': a stop sequence must not be empty."));
    }
    for stop in &stops {
        bounds::text("stop", Some(stop), MAX_STOP)?;
    }
    Ok(stops.into())
}

/// Checks the model's id.
pub fn model(id: &str) -> Result<(), ApiError> {
    if id.trim().is_empty() {
        return Err(ApiError::invalid_value("model", "Invalid 'model': you must name a model."));
    }
    bounds::text("model", Some(id), MAX_NAME)
}

/// Checks the fields that are labels of the caller.
pub fn labels(user: Option<&str>, prompt_cache_key: Option<&str>) -> Result<(), ApiError> {
    bounds::text("user", user, MAX_NAME)?;
    bounds::text("prompt_cache_key", prompt_cache_key, MAX_NAME)
}

/// Checks `stream_options`, which requires a stream. Returns the chunks that report the usage.
pub fn usage_chunks(stream: bool, options: Option<StreamOptions>) -> Result<UsageChunks, ApiError> {
    match options {
        Some(_) if !stream => Err(ApiError::invalid_value(
            "stream_options",
            "The 'stream_options' parameter is only allowed when 'stream' is enabled.",
        )),
        options => {
            let options = options.unwrap_or_default();
            Ok(UsageChunks {
                last: options.include_usage.unwrap_or(false),
                all: options.continuous_usage_stats.unwrap_or(false),
            })
        }
    }
}

/// Checks the fields that describe the request without affecting it.
pub fn descriptive(metadata: Option<&Metadata>, safety_identifier: Option<&str>) -> Result<(), ApiError> {
    if let Some(metadata) = metadata {
        if metadata.len() > MAX_METADATA {
            return Err(ApiError::invalid_value(
                "metadata",
                format!("Invalid 'metadata': {} pairs, at most {MAX_METADATA} are allowed.", metadata.len()),
            ));
        }
        for (key, value) in metadata {
            if key.chars().count() > MAX_METADATA_KEY {
                return Err(ApiError::invalid_value(
                    "metadata",
                    format!("Invalid 'metadata': keys have at most {MAX_METADATA_KEY} characters."),
                ));
            }
            if value.chars().count() > MAX_METADATA_VALUE {
                return Err(ApiError::invalid_value(
                    format!("metadata.{key}"),
                    format!("Invalid 'metadata': values have at most {MAX_METADATA_VALUE} characters."),
                ));
            }
        }
    }
    if safety_identifier.is_some_and(|id| id.chars().count() > MAX_SAFETY_IDENTIFIER) {
        return Err(ApiError::invalid_value(
            "safety_identifier",
            format!("Invalid 'safety_identifier': at most {MAX_SAFETY_IDENTIFIER} characters are allowed."),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn metadata_is_bounded() {
        let pairs = |count: usize| (0..count).map(|i| (format!("k{i}"), String::new())).collect::<Metadata>();
        assert!(descriptive(Some(&pairs(16)), None).is_ok());
        assert!(descriptive(Some(&pairs(17)), None).is_err());
        let one = |key: usize, value: usize| Metadata::from([("ä".repeat(key), "ä".repeat(value))]);
        assert!(descriptive(Some(&one(64, 512)), None).is_ok());
        assert!(descriptive(Some(&one(65, 0)), None).is_err());
        assert!(descriptive(Some(&one(1, 513)), None).is_err());
        assert!(descriptive(None, Some(&"x".repeat(64))).is_ok());
        assert!(descriptive(None, Some(&"x".repeat(65))).is_err());
    }

    #[test]
    fn stops_are_a_text_or_up_to_four() {
        let read = |json: &str| serde_json::from_str::<Stop>(json).map(|stop| stop.0);
        assert_eq!(read(r#""a""#).unwrap(), ["a"]);
        assert_eq!(read(r#"["a", "b", "c", "d"]"#).unwrap().len(), 4);
        assert!(read("[]").unwrap().is_empty());
        for wrong in [r#"["a", "b", "c", "d", "e"]"#, "[1]", "1", "{}", "[null]"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
        assert!(stops(Some(Stop(vec![String::new()]))).is_err());
    }

    #[test]
    fn stream_options_need_a_stream() {
        let none = StreamOptions::default();
        let last = StreamOptions { include_usage: Some(true), ..none };
        let all = StreamOptions { continuous_usage_stats: Some(true), ..none };
        for options in [none, last, all] {
            assert!(usage_chunks(false, Some(options)).is_err());
        }
        assert_eq!(usage_chunks(true, Some(last)).unwrap(), UsageChunks { last: true, all: false });
        assert_eq!(usage_chunks(true, Some(all)).unwrap(), UsageChunks { last: false, all: true });
        assert_eq!(usage_chunks(true, Some(none)).unwrap(), UsageChunks::default());
        assert_eq!(usage_chunks(true, None).unwrap(), UsageChunks::default());
        assert_eq!(usage_chunks(false, None).unwrap(), UsageChunks::default());
    }

    proptest! {
        #[test]
        fn answers_to_one_prompt_draw_differently(seed: u64, a in 0u32..128, b in 0u32..128) {
            prop_assert_eq!(choice_seed(seed, a) == choice_seed(seed, b), a == b);
        }
    }

    /// Callers rely on seeds: the same request gives the same answer in the next release.
    #[test]
    fn choice_seeds_never_change() {
        assert_eq!(choice_seed(0, 0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(choice_seed(0, 1), 0x6e78_9e6a_a1b9_65f4);
    }
}
