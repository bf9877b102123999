//! Responses: stored answers that are generated independently of their client's connection and can be resumed.
//!
//! A [`Run`] is one answer during its generation: a task feeds it from a model, and any number of [`Reader`]s follow it, each at
//! its own pace. [`Responses`] is the edge's handle; the supervised `registry` actor begins stored runs, stores their ends, and
//! maintains the stored responses. Decisions about a response are made on the store's thread.

mod error;
mod handle;
mod registry;
mod run;
mod run_table;
mod types;

#[cfg(test)]
mod tests;

pub use error::ResponsesError;
pub use handle::Responses;
pub use run::{NewRun, Reader, Run, RunEvent, RunLifetime, Source};
pub use types::{Delta, DeltaKind, End, EndStatus, Found, Problem, Progress, ResponseId, ResponseRecord};
