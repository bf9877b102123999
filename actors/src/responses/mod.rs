//! Responses: answers that are kept, go on without their client, and can be taken up again.
//!
//! A [`Run`] is one answer while it is made: a task feeds it from a model, and any number of [`Reader`]s follow it,
//! each at its own pace. [`Responses`] is the edge's door; the supervised `registry` actor begins stored runs, writes
//! down how they end, and looks after what is stored. What becomes of a response is decided on the store's thread.

mod error;
mod handle;
mod registry;
mod run;
mod types;

#[cfg(test)]
mod tests;

pub use error::ResponsesError;
pub use handle::Responses;
pub use run::{Keep, NewRun, Reader, Run, RunEvent, Source};
pub use types::{Delta, DeltaKind, End, EndStatus, Found, Problem, Progress, ResponseId, ResponseRecord};
