//! The engine inside a worker process: scheduler, prefix cache, sampler, text assembly, llama.cpp.

pub mod cells;
pub mod prefix;
pub mod queue;
pub mod scheduler;
