//! Parts that the inference endpoints (chat, completions, responses, embeddings, tokenize) share.

pub mod bounds;
pub mod call_ids;
mod choice_event;
pub mod choices;
pub mod fields;
pub mod logprobs;
pub mod metering;
pub mod params;
pub mod permissions;
pub mod prompt;
pub mod reasoning;
mod retries;
pub mod streaming;
pub mod structured_output;
pub mod tools;
pub mod usage;
pub mod web_search;
mod widening;
