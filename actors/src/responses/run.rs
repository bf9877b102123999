//! The run of an answer and its readers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{FutureExt, Stream, StreamExt};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::types::{Delta, End, EndStatus, Problem, Progress, ResponseRecord};
use crate::identity::{Party, now_s};
use crate::model::{FinishReason, GenerationError, TokenUsage};

/// An event of a model's answer.
#[derive(Clone, Debug, PartialEq)]
pub enum RunEvent {
    /// The answer has begun.
    Started,
    /// A piece of the answer.
    Delta(Delta),
    /// The end of the answer.
    Finished(FinishReason, TokenUsage),
    /// The end without an answer: the problem to store and show, and the error that caused it.
    Failed(Problem, Option<GenerationError>),
}

/// The source of a run's answer. Dropping it cancels the generation.
pub type Source = Pin<Box<dyn Stream<Item = RunEvent> + Send>>;

/// The duration for which a run continues without readers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunLifetime {
    /// Until its end.
    Always,
    /// For this long.
    For(Duration),
}

/// A run to begin.
pub struct NewRun {
    /// The record that is stored, or would be.
    pub record: ResponseRecord,
    /// The party whose place it takes if it runs in the background.
    pub party: Party,
    /// The source of the answer.
    pub source: Source,
    /// The duration for which it continues without readers.
    pub keep: RunLifetime,
}

impl std::fmt::Debug for NewRun {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewRun")
            .field("id", &self.record.id)
            .field("keep", &self.keep)
            .finish_non_exhaustive()
    }
}

/// An answer during its generation.
#[derive(Debug)]
pub struct Run {
    progress: watch::Sender<Progress>,
    readers: watch::Sender<usize>,
    cancel: CancellationToken,
    /// In memory only: the stored record has the problem as text.
    error: std::sync::OnceLock<GenerationError>,
}

impl Run {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            progress: watch::Sender::new(Progress::default()),
            readers: watch::Sender::new(0),
            cancel: CancellationToken::new(),
            error: std::sync::OnceLock::new(),
        })
    }

    /// Begins a run that is not stored.
    #[must_use]
    pub fn unstored(source: Source) -> Reader {
        let run = Self::new();
        let reader = run.follow();
        tokio::spawn(async move {
            let end = run.drive(source, RunLifetime::For(Duration::ZERO)).await;
            run.publish(end);
        });
        reader
    }

    /// Returns a reader that starts at the run's beginning.
    pub(super) fn follow(self: &Arc<Self>) -> Reader {
        self.readers.send_modify(|readers| *readers += 1);
        Reader { run: Arc::clone(self), progress: self.progress.subscribe() }
    }

    /// Requests the run's end.
    pub(super) fn cancel(&self) {
        self.cancel.cancel();
    }

    /// Takes the answer from its source. The caller publishes the end: readers are to see only an end that is durable.
    pub(super) async fn drive(&self, mut source: Source, keep: RunLifetime) -> End {
        let driven = std::panic::AssertUnwindSafe(async {
            tokio::select! {
                biased;
                () = self.cancel.cancelled() => End::cancelled(now_s()),
                () = self.abandoned(keep) => End::cancelled(now_s()),
                end = self.listen(&mut source) => end,
            }
        });
        // A run that panicked has ended nevertheless, and its readers have to be notified.
        driven.catch_unwind().await.unwrap_or_else(|_| {
            End::failed(now_s(), "internal_error", "The server had an error while generating the response.")
        })
    }

    async fn listen(&self, source: &mut Source) -> End {
        while let Some(event) = source.next().await {
            match event {
                RunEvent::Started => self.progress.send_modify(|progress| progress.started = true),
                RunEvent::Delta(delta) => self.progress.send_modify(|progress| progress.deltas.push(delta)),
                RunEvent::Finished(reason, usage) => {
                    let status = match reason {
                        FinishReason::Stop => EndStatus::Completed,
                        FinishReason::Length => EndStatus::Incomplete,
                    };
                    return End { status, at: now_s(), problem: None, usage: Some(usage) };
                }
                RunEvent::Failed(problem, error) => {
                    if let Some(error) = error {
                        let _ = self.error.set(error);
                    }
                    return End {
                        problem: Some(problem),
                        ..End { status: EndStatus::Failed, at: now_s(), problem: None, usage: None }
                    };
                }
            }
        }
        End::failed(now_s(), "internal_error", "The answer was interrupted.")
    }

    /// Returns once the run has had no reader for the duration of `keep`.
    async fn abandoned(&self, keep: RunLifetime) {
        let RunLifetime::For(grace) = keep else { return std::future::pending().await };
        let mut readers = self.readers.subscribe();
        loop {
            // The sender is `self`, which is alive.
            let _ = readers.wait_for(|readers| *readers == 0).await;
            tokio::select! {
                biased;
                _ = readers.wait_for(|readers| *readers > 0) => {}
                () = tokio::time::sleep(grace) => return,
            }
        }
    }

    pub(super) fn deltas(&self) -> Vec<Delta> {
        self.progress.borrow().deltas.clone()
    }

    /// Publishes the end to the readers.
    pub(super) fn publish(&self, end: End) {
        self.progress.send_modify(|progress| progress.end = Some(end));
    }
}

/// A reader of a run. A run with a reader is not abandoned.
#[derive(Debug)]
pub struct Reader {
    run: Arc<Run>,
    progress: watch::Receiver<Progress>,
}

impl Reader {
    /// Returns the pieces after the first `seen` ones, and the end; waits until there is either.
    pub async fn beyond(&mut self, seen: usize) -> (Vec<Delta>, Option<End>) {
        let more = |progress: &Progress| progress.deltas.len() > seen || progress.end.is_some();
        match self.progress.wait_for(more).await {
            Ok(progress) => {
                (progress.deltas[seen.min(progress.deltas.len())..].to_vec(), progress.end.clone())
            }
            // The sender is part of `self.run`, so it is alive.
            Err(_) => (Vec::new(), Some(End::lost(now_s()))),
        }
    }

    /// Waits for the end. The cause of a failed generation is known only here.
    pub async fn end(&mut self) -> (Progress, Option<GenerationError>) {
        let progress = match self.progress.wait_for(|progress| progress.end.is_some()).await {
            Ok(progress) => progress.clone(),
            Err(_) => Progress { end: Some(End::lost(now_s())), ..Progress::default() },
        };
        (progress, self.run.error.get().cloned())
    }

    /// Returns the current progress.
    #[must_use]
    pub fn now(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Requests the run's end.
    pub(super) fn cancel(&self) {
        self.run.cancel();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.run.readers.send_modify(|readers| *readers -= 1);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::stream;

    use super::*;

    fn delta(text: &str) -> RunEvent {
        RunEvent::Delta(Delta { text: text.to_owned(), ..Delta::default() })
    }

    fn finished() -> RunEvent {
        RunEvent::Finished(FinishReason::Stop, TokenUsage::default())
    }

    fn text(deltas: &[Delta]) -> String {
        deltas.iter().map(|delta| delta.text.as_str()).collect()
    }

    #[tokio::test]
    async fn readers_receive_every_event() {
        let run = Run::new();
        let mut early = run.follow();
        run.publish(
            run.drive(
                Box::pin(stream::iter([RunEvent::Started, delta("a"), delta("b"), finished()])),
                RunLifetime::Always,
            )
            .await,
        );
        let mut late = run.follow();
        for reader in [&mut early, &mut late] {
            let (deltas, end) = reader.beyond(0).await;
            assert_eq!((text(&deltas).as_str(), end.unwrap().status), ("ab", EndStatus::Completed));
            assert_eq!(text(&reader.beyond(1).await.0), "b");
            assert!(reader.beyond(9).await.0.is_empty());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn run_without_readers_ends_after_the_grace() {
        let grace = Duration::from_secs(10);
        let run = Run::new();
        let reader = run.follow();
        let driven = tokio::spawn({
            let run = Arc::clone(&run);
            async move { run.drive(Box::pin(stream::pending()), RunLifetime::For(grace)).await }
        });
        tokio::time::sleep(grace * 5).await;
        drop(reader);
        tokio::time::sleep(grace / 2).await;
        let reader = run.follow();
        tokio::time::sleep(grace * 5).await;
        assert!(!driven.is_finished());
        drop(reader);
        assert_eq!(driven.await.unwrap().status, EndStatus::Cancelled);
    }

    #[tokio::test]
    async fn cancelled_panicking_and_broken_runs_end() {
        let run = Run::new();
        run.cancel();
        assert_eq!(
            run.drive(Box::pin(stream::pending()), RunLifetime::Always).await.status,
            EndStatus::Cancelled
        );
        let run = Run::new();
        let panics = stream::poll_fn(|_| -> std::task::Poll<Option<RunEvent>> { panic!("as it must") });
        assert_eq!(run.drive(Box::pin(panics), RunLifetime::Always).await.status, EndStatus::Failed);
        let run = Run::new();
        assert_eq!(
            run.drive(Box::pin(stream::iter([delta("a")])), RunLifetime::Always).await.status,
            EndStatus::Failed
        );
        assert_eq!(text(&run.deltas()), "a");
    }
}
