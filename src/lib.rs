//! The edge of Jan Server: command line, configuration and HTTP. It owns no state: everything that does
//! lives in [`jan_actors`], and a handler only translates between HTTP and typed messages.
//!
//! - [`cli`]: the commands; [`serve`]: what `jan-server serve` does from start to stop
//! - [`config`]: the settings, where they come from and how they are checked
//! - [`auth`]: who calls and what they may do
//! - [`backup`]: `jan-server export` and `import`
//! - [`http`]: connections, limits, errors, server-sent events
//! - [`api`]: one file a resource

pub mod api;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
mod errors;
pub mod http;
pub mod logging;
pub mod serve;
#[cfg(test)]
mod test_app;
