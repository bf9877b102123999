//! The engine inside a worker process: scheduler, prefix cache, sampler, text assembly, llama.cpp.

pub mod output;
pub mod sampler;
pub mod template;
