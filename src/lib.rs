//! The edge of Jan Server: command line, configuration and HTTP. It owns no state: [`jan_actors`] does, and a handler
//! only translates between HTTP and typed messages.
//!
//! - [`cli`]: the commands; [`serve`]: `jan-server serve` from start to stop
//! - [`config`]: the settings, their sources and their checks
//! - [`auth`]: authentication, authorisation and rate limiting
//! - [`backup`]: `jan-server export` and `import`
//! - [`http`]: connections, limits, errors, server-sent events
//! - [`api`]: one file or folder for each resource

pub mod api;
pub mod auth;
pub mod backup;
pub mod cli;
pub mod config;
#[cfg(test)]
mod documentation;
mod errors;
pub mod http;
pub mod logging;
pub mod serve;
#[cfg(test)]
mod test_app;
