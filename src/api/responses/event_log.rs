//! The log of a response's events: which there are at each moment, and their numbers.

use jan_actors::responses::{Delta, End, EndStatus};

use super::events::{Event, ResponseStreamEvent};
use super::object::{ResponseObject, ResponseStatus};
use super::output::Output;

/// Numbers the events of one response in the order of their creation.
#[derive(Debug)]
pub struct EventLog {
    /// The response object at its creation.
    shown: ResponseObject,
    output: Output,
    seen: usize,
    next: u64,
}

impl EventLog {
    /// Creates the log of a response without output.
    pub fn new(shown: ResponseObject) -> Self {
        let output = Output::of(&shown);
        Self { shown, output, seen: 0, next: 0 }
    }

    /// Returns the number of deltas so far.
    pub const fn seen(&self) -> usize {
        self.seen
    }

    /// Returns the events before the first output.
    pub fn opening(&mut self) -> Vec<ResponseStreamEvent> {
        let with = |status| Box::new(ResponseObject { status, ..self.shown.bare() });
        let mut events = Vec::new();
        if self.shown.background {
            events.push(Event::Created { response: with(ResponseStatus::Queued) });
            events.push(Event::Queued { response: with(ResponseStatus::Queued) });
        } else {
            events.push(Event::Created { response: with(ResponseStatus::InProgress) });
        }
        events.push(Event::InProgress { response: with(ResponseStatus::InProgress) });
        self.number(events)
    }

    /// Returns the events of further deltas, and of the end if it is given.
    pub fn advance(&mut self, deltas: Vec<Delta>, end: Option<&End>) -> Vec<ResponseStreamEvent> {
        let mut events = Vec::new();
        for delta in &deltas {
            self.output.push(delta, &mut events);
        }
        self.seen += deltas.len();
        if let Some(end) = end {
            self.output.end(end, &mut events);
            let mut response = Box::new(self.shown.ended_as(end));
            response.output = self.output.items();
            match end.status {
                EndStatus::Completed => events.push(Event::Completed { response }),
                EndStatus::Incomplete | EndStatus::Cancelled => events.push(Event::Incomplete { response }),
                EndStatus::Failed => {
                    let problem = end.problem.clone();
                    let (code, message) =
                        problem.map_or((None, String::new()), |p| (Some(p.code), p.message));
                    events.push(Event::Error { code, message, param: None });
                    events.push(Event::Failed { response });
                }
            }
        }
        self.number(events)
    }

    /// Returns an error event that is not an error of the response: it ends the stream, and generation continues.
    pub fn interrupted(&mut self, code: &str, message: &str) -> ResponseStreamEvent {
        let event = Event::Error { code: Some(code.to_owned()), message: message.to_owned(), param: None };
        ResponseStreamEvent { event, sequence_number: self.next }
    }

    fn number(&mut self, events: Vec<Event>) -> Vec<ResponseStreamEvent> {
        let first = self.next;
        self.next += events.len() as u64;
        (first..)
            .zip(events)
            .map(|(sequence_number, event)| ResponseStreamEvent { event, sequence_number })
            .collect()
    }
}

/// Renumbers the end of a response that was lost with its server. None of its output is stored; its end is numbered
/// after the events that its client has received, so that a client that resumes the stream receives it.
pub fn move_behind(events: &mut [ResponseStreamEvent], after: Option<u64>) {
    let (Some(after), Some(first)) = (after, events.first().map(|event| event.sequence_number)) else {
        return;
    };
    let shift = after.saturating_add(1).saturating_sub(first);
    for event in events {
        event.sequence_number = event.sequence_number.saturating_add(shift);
    }
}

#[cfg(test)]
#[path = "event_log_tests.rs"]
mod tests;
