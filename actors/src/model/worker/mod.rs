//! The server's side of worker processes: one model context each, behind the worker protocol.
//!
//! A worker is a process of its own, since llama.cpp's aborts cannot be supervised from inside one; [`link`] starts the
//! process, shakes hands and passes messages.

mod environment;
pub mod link;
