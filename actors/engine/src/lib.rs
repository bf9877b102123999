//! The worker process of Jan Server: llama.cpp behind the worker protocol.
//!
//! [`worker`] serves the protocol, [`prompt`] makes tokens of prompts, [`decode`] is the loop of decode steps, [`scheduler`]
//! decides what each of them computes, [`disk`] keeps computed prefixes beyond the process, [`llama`] is the only module that knows llama.cpp. The deciding parts (scheduler, prefix
//! tree, budget, threads, sampler, text assembly) are pure and know neither llama.cpp nor a clock.

pub mod bundled_model;
pub mod confinement;
pub mod decode;
pub mod disk;
pub mod embedding;
pub mod llama;
pub mod prompt;
pub mod scheduler;
pub mod types;
pub mod upkeep;
pub mod vetting;
pub mod worker;

#[cfg(test)]
mod conformance;
#[cfg(test)]
#[path = "../../../tests/fuzz/engine.rs"]
mod fuzz;
