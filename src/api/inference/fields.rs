//! The sampling and constraint fields of requests: each is declared once, in [`inference_request!`], for chat completions,
//! text completions and responses.
//!
//! A macro emits the fields into each request's struct, since `serde(flatten)` would lose the names of ignored fields.
//! Sources: `CreateChatCompletionRequest`, `CreateCompletionRequest` and `CreateResponse` in OpenAI's API description;
//! `top_k`, `min_p`, `typical_p` and the repeat penalty as in vLLM and llama.cpp.

use std::collections::BTreeMap;

use jan_protocol::types::Token;

use super::bounds::{self, MAX_LOGIT_BIASES};
use super::params;
use crate::http::ApiError;

/// Declares a request's struct with the shared fields after its own, and emits their checks.
///
/// `chat` and `completion` requests have all fields; `response` requests have no constraints but `text`. In their
/// description, the fields that OpenAI's responses lack refer to chat completions.
///
/// A sampling field consists of its documentation, its bounds as in the description, its name and type, the check that
/// converts it, and the field of `SamplingParams` that it sets. A constraint field consists of its documentation and
/// schema, its name and type, and the check that turns it into a constraint; a request may contain at most one of them.
macro_rules! inference_request {
    (@all $meta:tt $name:ident $own:tt { $($openai:tt)* } { $($further:tt)* } $constraints:tt) => {
        inference_request! { @emit $meta $name $own { $($openai)* $($further)* } {} $constraints }
    };
    (@chat $($all:tt)*) => { inference_request! { @all $($all)* } };
    (@completion $($all:tt)*) => { inference_request! { @all $($all)* } };
    (@response $meta:tt $name:ident $own:tt $openai:tt $further:tt $constraints:tt) => {
        inference_request! { @emit $meta $name $own $openai $further {} }
    };
    (@emit { $($meta:tt)* } $name:ident { $($own:tt)* }
        { $(
            $(#[doc = $doc:literal])+
            $(#[schema($($bound:tt)+)])?
            $field:ident: $type:ty => $check:path, $target:ident;
        )* }
        { $(
            $(#[doc = $brief_doc:literal])+
            $(#[schema($($brief_bound:tt)+)])?
            $brief:ident: $brief_type:ty => $brief_check:path, $brief_target:ident;
        )* }
        { $(
            $(#[$constraint_meta:meta])+
            $constraint:ident: $constraint_type:ty => $constraint_check:path;
        )* }
    ) => {
        $($meta)*
        pub struct $name {
            $($own)*
            $(
                $(#[doc = $doc])+
                $(#[schema($($bound)+)])?
                pub $field: Option<$type>,
            )*
            $(
                /// As for chat completions.
                pub $brief: Option<$brief_type>,
            )*
            $(
                $(#[$constraint_meta])+
                pub $constraint: Option<$constraint_type>,
            )*
        }

        impl $name {
            /// The sampling fields with their bounds.
            #[cfg(test)]
            #[allow(dead_code, reason = "not every request's tests need it")]
            pub const SAMPLING: &[(&str, $crate::api::inference::fields::Bounds)] = &[
                $((stringify!($field), inference_request!(@bounds $($($bound)+)?)),)*
                $((stringify!($brief), inference_request!(@bounds $($($brief_bound)+)?)),)*
            ];

            /// Checks the sampling fields. Without a seed, a random one is used.
            ///
            /// # Errors
            /// 400 that names the field.
            pub fn sampling(&self) -> Result<jan_protocol::types::SamplingParams, $crate::http::ApiError> {
                let mut params = jan_protocol::types::SamplingParams::default();
                $(
                    let bounds = inference_request!(@bounds $($($bound)+)?);
                    if let Some(value) = $check(stringify!($field), self.$field.as_ref(), bounds)? {
                        params.$target = value;
                    }
                )*
                $(
                    let bounds = inference_request!(@bounds $($($brief_bound)+)?);
                    if let Some(value) = $brief_check(stringify!($brief), self.$brief.as_ref(), bounds)? {
                        params.$brief_target = value;
                    }
                )*
                let synonyms = [
                    ("repeat_penalty", self.repeat_penalty),
                    ("repetition_penalty", self.repetition_penalty),
                ];
                $crate::api::inference::fields::agree(synonyms)?;
                Ok(params)
            }
        }

        inference_request! { @constraints $name $($constraint => $constraint_check;)* }
    };
    (@constraints $name:ident) => {};
    (@constraints $name:ident $($field:ident => $check:path;)+) => {
        impl $name {
            /// Checks the constraint fields and takes their values; `None` for free text.
            ///
            /// # Errors
            /// 400 that names the field; also if two are set.
            pub fn take_constraint(
                &mut self,
            ) -> Result<Option<$crate::api::inference::structured_output::Structured>, $crate::http::ApiError>
            {
                let mut found = Vec::new();
                $(
                    if let Some(value) = self.$field.take() {
                        found.extend($check(stringify!($field), value)?);
                    }
                )+
                $crate::api::inference::structured_output::at_most_one(found)
            }
        }
    };
    (@bounds $($key:ident = $value:expr),*) => {
        $crate::api::inference::fields::Bounds {
            $($key: Some($value as f64),)*
            ..$crate::api::inference::fields::Bounds::NONE
        }
    };
    ($kind:ident: $(#[$meta:meta])* pub struct $name:ident { $($own:tt)* }) => {
        inference_request! { @$kind { $(#[$meta])* } $name { $($own)* }
            // Fields in all three of OpenAI's descriptions.
            {
                /// Sampling temperature. `0` always selects the most likely token; higher values are more random.
                #[schema(minimum = 0, maximum = 2, default = 1)]
                temperature: f64 => crate::api::inference::fields::number, temperature;
                /// Nucleus sampling: the smallest set of tokens with cumulative probability `top_p`.
                #[schema(minimum = 0, maximum = 1, default = 1)]
                top_p: f64 => crate::api::inference::fields::number, top_p;
            }
            // Fields that responses lack in OpenAI's description.
            {
                /// Samples from the `k` most likely tokens only; 0 or -1 disables it.
                #[schema(minimum = -1, default = 0)]
                top_k: i64 => crate::api::inference::fields::top_k, top_k;
                /// Minimum probability of a token, relative to the most likely one.
                #[schema(minimum = 0, maximum = 1, default = 0)]
                min_p: f64 => crate::api::inference::fields::number, min_p;
                /// Locally typical sampling: the tokens whose information content is closest to the expected one, up to
                /// this cumulative probability.
                #[schema(exclusive_minimum = 0, maximum = 1, default = 1)]
                typical_p: f64 => crate::api::inference::fields::number, typical_p;
                /// Values above 1 lower, values below 1 raise the probability of tokens that occur in the prompt or the
                /// answer.
                #[schema(exclusive_minimum = 0, maximum = 2, default = 1)]
                repeat_penalty: f64 => crate::api::inference::fields::number, repeat_penalty;
                /// Another name of `repeat_penalty`.
                #[schema(exclusive_minimum = 0, maximum = 2, default = 1)]
                repetition_penalty: f64 => crate::api::inference::fields::number, repeat_penalty;
                /// Lowers the probability of tokens that have occurred.
                #[schema(minimum = -2, maximum = 2, default = 0)]
                presence_penalty: f64 => crate::api::inference::fields::number, presence_penalty;
                /// Lowers the probability of tokens with each occurrence.
                #[schema(minimum = -2, maximum = 2, default = 0)]
                frequency_penalty: f64 => crate::api::inference::fields::number, frequency_penalty;
                /// Minimum number of tokens of each answer: before, neither the model's end nor a stop text ends it. As in vLLM.
                #[schema(minimum = 0, default = 0)]
                min_tokens: i64 => crate::api::inference::fields::tokens, min_tokens;
                /// Continue where the model would end the answer, up to the maximum length or a stop text. As in vLLM.
                ignore_eos: bool => crate::api::inference::fields::flag, ignore_eos;
                /// Token ids and the values that are added to their logits, -100 to 100.
                logit_bias: std::collections::BTreeMap<String, f64>
                    => crate::api::inference::fields::logit_bias, logit_bias;
                /// Seed for reproducible answers: the same request with the same seed gets the same answer. Answer `i` of
                /// `n` uses a seed derived from this one and `i`.
                seed: i64 => crate::api::inference::fields::seed, seed;
            }
            // Checked in this order: of two, the later one is reported.
            {
                /// The format of the answer: text, JSON, or JSON that satisfies a schema.
                response_format: crate::api::inference::structured_output::ResponseFormat
                    => crate::api::inference::structured_output::response_format;
                /// The same constraints in one field, as in vLLM.
                structured_outputs: crate::api::inference::structured_output::StructuredOutputs
                    => crate::api::inference::structured_output::structured_outputs;
                /// A JSON Schema that the answer must satisfy, as in vLLM.
                #[schema(value_type = Option<Object>)]
                guided_json: serde_json::Map<String, serde_json::Value>
                    => crate::api::inference::structured_output::schema;
                /// A JSON Schema that the answer must satisfy, as in llama-server.
                #[schema(value_type = Option<Object>)]
                json_schema: serde_json::Map<String, serde_json::Value>
                    => crate::api::inference::structured_output::schema;
                /// A regular expression that the whole answer must match, without look-around.
                guided_regex: String => crate::api::inference::structured_output::regex;
                /// Texts of which the answer must be one.
                #[schema(min_items = 1)]
                guided_choice: Vec<String> => crate::api::inference::structured_output::choice;
                /// A grammar of the answer in Lark's notation or llama.cpp's.
                guided_grammar: String => crate::api::inference::structured_output::grammar;
                /// A grammar of the answer in llama.cpp's notation, as in llama-server.
                grammar: String => crate::api::inference::structured_output::llama_grammar;
                /// As `guided_regex`, in SGLang.
                regex: String => crate::api::inference::structured_output::regex;
                /// A grammar in EBNF (llama.cpp's notation), as in SGLang.
                ebnf: String => crate::api::inference::structured_output::llama_grammar;
            }
        }
    };
}

pub(in crate::api) use inference_request;

/// Bounds of a field and its default, as in the description.
#[derive(Clone, Copy, Debug, Default)]
#[allow(dead_code, reason = "the default is for the description and the tests")]
pub struct Bounds {
    /// Minimum.
    pub minimum: Option<f64>,
    /// Exclusive minimum.
    pub exclusive_minimum: Option<f64>,
    /// Maximum.
    pub maximum: Option<f64>,
    /// Value of a request without the field.
    pub default: Option<f64>,
}

impl Bounds {
    /// No bounds.
    pub const NONE: Self = Self { minimum: None, exclusive_minimum: None, maximum: None, default: None };
}

/// Checks a number, also after its conversion to `f32`.
pub fn number(param: &str, value: Option<&f64>, bounds: Bounds) -> Result<Option<f32>, ApiError> {
    let Some(&value) = value else { return Ok(None) };
    let maximum = bounds.maximum.unwrap_or(f64::MAX);
    match bounds.exclusive_minimum {
        Some(minimum) if !(f64::from(value as f32) > minimum && value <= maximum) => {
            let message = format!(
                "Invalid '{param}': {value} is out of range, it must be above {minimum} and at most {maximum}."
            );
            Err(ApiError::invalid_value(param, message))
        }
        Some(_) => Ok(Some(value as f32)),
        None => {
            let minimum = bounds.minimum.unwrap_or(f64::MIN);
            params::number(param, Some(value), minimum..=maximum).map(|value| value.map(|value| value as f32))
        }
    }
}

/// Checks `top_k`; returns 0 if it is disabled.
pub fn top_k(param: &str, value: Option<&i64>, bounds: Bounds) -> Result<Option<u32>, ApiError> {
    let minimum = bounds.minimum.unwrap_or(0.0) as i64;
    let value = params::integer(param, value.copied(), minimum..=i64::from(i32::MAX))?;
    // vLLM disables it with -1.
    Ok(value.map(|value| u32::try_from(value).unwrap_or(0)))
}

/// Checks a number of tokens.
pub fn tokens(param: &str, value: Option<&i64>, _bounds: Bounds) -> Result<Option<u32>, ApiError> {
    params::token_count(param, value.copied(), 0)
}

/// Returns the given flag.
#[allow(clippy::unnecessary_wraps, reason = "all checks have one signature")]
pub fn flag(_param: &str, value: Option<&bool>, _bounds: Bounds) -> Result<Option<bool>, ApiError> {
    Ok(value.copied())
}

/// Returns the given seed, or a random one.
#[allow(clippy::unnecessary_wraps, reason = "all checks have one signature")]
pub fn seed(_param: &str, value: Option<&i64>, _bounds: Bounds) -> Result<Option<u64>, ApiError> {
    Ok(Some(value.map_or_else(random_seed, |seed| seed.cast_unsigned())))
}

fn random_seed() -> u64 {
    // A version 4 UUID has 122 random bits; folding its halves covers the fixed ones.
    let (high, low) = uuid::Uuid::new_v4().as_u64_pair();
    high ^ low.rotate_left(17)
}

/// Tokens with what is added to their logits.
type Biases = std::sync::Arc<[(Token, f32)]>;

/// Checks `logit_bias`.
pub fn logit_bias(
    param: &str,
    biases: Option<&BTreeMap<String, f64>>,
    _bounds: Bounds,
) -> Result<Option<Biases>, ApiError> {
    let Some(biases) = biases else { return Ok(None) };
    bounds::entries(param, biases.len(), MAX_LOGIT_BIASES)?;
    let bias = |(key, bias): (&String, &f64)| {
        let token = key.parse::<Token>().ok().filter(|token| *token >= 0).ok_or_else(|| {
            let message = format!("Invalid '{param}': its keys are token ids, integers of at least 0.");
            ApiError::invalid_value(param, message)
        })?;
        let bias = params::number(&format!("{param}.{token}"), Some(*bias), -100.0..=100.0)?.unwrap_or(0.0);
        Ok((token, bias as f32))
    };
    biases.iter().map(bias).collect::<Result<_, _>>().map(Some)
}

/// Checks that two names of one field do not have different values.
pub fn agree([(first, a), (second, b)]: [(&'static str, Option<f64>); 2]) -> Result<(), ApiError> {
    match (a, b) {
        (Some(a), Some(b)) if a as f32 != b as f32 => Err(ApiError::invalid_value(
            first,
            format!("'{first}' and '{second}' are synonyms with different values; send only one."),
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
