//! The loop of decode steps, and the processing of a step's logits: constraints, sampling, text, log-probabilities.

pub mod constraint;
pub mod draft_model;
pub mod draft_model_policy;
pub mod draft_policy;
pub mod drafting;
pub mod engine;
mod lanes;
pub mod logprobs;
pub mod lookup;
pub mod masks;
mod parts;
pub mod phases;
pub mod running_sequence;
pub mod sampler;
mod shelves;
pub mod text_assembler;
pub mod text_ends;
pub mod thread_tuner;

#[cfg(test)]
mod logprobs_tests;
