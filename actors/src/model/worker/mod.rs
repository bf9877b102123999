//! Worker processes: one model context each, behind the worker protocol.
//!
//! [`serve`] is the worker's side and runs in its own process, since llama.cpp's aborts cannot be supervised
//! from inside one; [`link`] is the server's side: it starts the process, shakes hands and passes messages.

mod backlog;
pub mod bundled;
mod environment;
mod intake;
pub mod link;
pub mod protocol;
pub mod serve;
