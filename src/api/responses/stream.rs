//! A response's events as server-sent events, starting at any number, during generation or afterwards.

use bytes::Bytes;
use futures_util::Stream;
use futures_util::stream::unfold;
use jan_actors::limits::StreamPermit;
use jan_actors::responses::{Progress, Reader};
use tokio_util::sync::CancellationToken;

use super::event_log::{EventLog, move_behind};
use super::events::ResponseStreamEvent;
use crate::http::{ApiError, sse};

/// The origin of the events.
#[derive(Debug)]
pub enum Origin {
    /// The response is being generated.
    Running(Reader),
    /// It has ended.
    Ended(Progress),
}

struct Stage {
    /// `None` after the end of the stream.
    origin: Option<Origin>,
    log: EventLog,
    opened: bool,
    after: Option<u64>,
    cut_off: CancellationToken,
    _permit: Option<StreamPermit>,
}

/// Returns the events after number `after`, or all. `permit` is held until they are sent.
pub fn events(
    origin: Origin,
    log: EventLog,
    after: Option<u64>,
    cut_off: CancellationToken,
    permit: Option<StreamPermit>,
) -> impl Stream<Item = Bytes> + Send + Sync {
    let stage = Stage { origin: Some(origin), log, opened: false, after, cut_off, _permit: permit };
    unfold(stage, |mut stage| async move {
        loop {
            let events = stage.next().await?;
            let buffer = framed(&events, stage.after);
            if !buffer.is_empty() {
                return Some((buffer.into(), stage));
            }
        }
    })
}

impl Stage {
    async fn next(&mut self) -> Option<Vec<ResponseStreamEvent>> {
        let origin = self.origin.take()?;
        if !self.opened {
            self.opened = true;
            self.origin = Some(origin);
            return Some(self.log.opening());
        }
        let mut reader = match origin {
            Origin::Ended(progress) => {
                let mut events = self.log.advance(progress.deltas, progress.end.as_ref());
                if progress.end.is_some_and(|end| end.is_lost()) {
                    move_behind(&mut events, self.after);
                }
                return Some(events);
            }
            Origin::Running(reader) => reader,
        };
        let (deltas, end) = tokio::select! {
            biased;
            news = reader.beyond(self.log.seen()) => news,
            () = self.cut_off.cancelled() => {
                let error = ApiError::shutting_down();
                return Some(vec![self.log.interrupted(error.code(), error.message())]);
            }
        };
        let events = self.log.advance(deltas, end.as_ref());
        if end.is_none() {
            self.origin = Some(Origin::Running(reader));
        }
        Some(events)
    }
}

fn framed(events: &[ResponseStreamEvent], after: Option<u64>) -> Vec<u8> {
    let mut buffer = Vec::new();
    for event in events {
        if after.is_none_or(|after| event.sequence_number > after) {
            sse::write_named_event(&mut buffer, event.event.name(), event);
        }
    }
    buffer
}
