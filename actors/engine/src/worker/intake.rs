//! The distribution of messages to the threads that prepare.
//!
//! A request with a constraint to be compiled goes to a thread of its own, where no other request waits for it. All messages of
//! the same kind of one request go the same way: the server learns of a shared prompt in order.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::time::{Duration, Instant};

use jan_protocol::worker_protocol::{FromWorker, ToWorker, prepared_message, to_worker};
use tokio::sync::mpsc;
use tonic::Status;

use super::backlog::{Backlog, Work};
use super::held_parts::HeldParts;
use crate::prompt::prepare::Preparer;
use crate::prompt::prepare::constraints::ToCompile;

/// The way of messages from the server to those threads.
pub struct Intake<'a> {
    preparer: &'a Preparer,
    outgoing: &'a mpsc::Sender<Result<FromWorker, Status>>,
    parts: HeldParts,
    /// The sender to the thread that compiles.
    aside: Sender<Work>,
    /// The number of messages sent to that thread, and how many of them are done.
    sent: u64,
    settled: &'a AtomicU64,
}

impl<'a> Intake<'a> {
    /// Creates the intake at the beginning of the stream.
    pub fn new(
        preparer: &'a Preparer,
        outgoing: &'a mpsc::Sender<Result<FromWorker, Status>>,
        aside: Sender<Work>,
        settled: &'a AtomicU64,
    ) -> Self {
        Self { preparer, outgoing, parts: HeldParts::default(), aside, sent: 0, settled }
    }

    /// Takes in arrived messages, and waits if there are none. `false`: nothing will come any more.
    pub fn fill(&mut self, backlog: &mut Backlog, from_server: &Receiver<ToWorker>) -> bool {
        if backlog.is_empty() {
            let Ok(message) = from_server.recv() else { return false };
            self.take(message, backlog);
        }
        from_server.try_iter().for_each(|message| self.take(message, backlog));
        true
    }

    /// Takes a message in. Parts are kept and forgotten in the order of the stream; a request holds those it names.
    fn take(&mut self, message: ToWorker, backlog: &mut Backlog) {
        match message.message {
            Some(to_worker::Message::Part(part)) => self.parts.keep(part),
            Some(to_worker::Message::Forget(forget)) => self.parts.forget(forget.id),
            Some(to_worker::Message::Submit(submit)) => {
                let id = submit.id;
                match self.parts.draft(submit) {
                    Ok(draft) => {
                        let goes_aside = match self.preparer.to_compile(&draft) {
                            ToCompile::Nothing => false,
                            // Behind those that were sent before it was known.
                            ToCompile::Known => self.sent != self.settled.load(Ordering::Acquire),
                            ToCompile::Something => true,
                        };
                        let work = Work::Submit(Box::new(draft));
                        if goes_aside { self.send_aside(work) } else { backlog.push(work) }
                    }
                    Err(rejection) => {
                        let _ = self.outgoing.blocking_send(Ok(prepared_message(id, Err(rejection))));
                    }
                }
            }
            Some(to_worker::Message::Embed(embed)) => backlog.push(Work::Embed(embed)),
            Some(to_worker::Message::Inspect(inspect)) => backlog.push(Work::Inspect(inspect)),
            Some(to_worker::Message::Cancel(cancel)) => {
                // Either has it; the engine ignores a cancel of an unknown request.
                self.send_aside(Work::Cancel(cancel.id));
                backlog.push(Work::Cancel(cancel.id));
            }
            Some(to_worker::Message::Keep(keep)) => {
                backlog.push(Work::Keep(Instant::now() + Duration::from_millis(keep.within_ms)));
            }
            Some(to_worker::Message::Hello(_)) | None => {}
        }
    }

    fn send_aside(&mut self, work: Work) {
        self.sent += 1;
        // Fails only at the end of the process.
        let _ = self.aside.send(work);
    }
}

/// Does the same for messages that went aside; `taken` counts them.
pub fn fill_aside(
    backlog: &mut Backlog,
    aside: &Receiver<Work>,
    taken: &mut u64,
    settled: &AtomicU64,
) -> bool {
    let mut take = |work| {
        *taken += 1;
        backlog.push(work);
    };
    aside.try_iter().for_each(&mut take);
    if backlog.is_empty() {
        settled.store(*taken, Ordering::Release);
        let Ok(work) = aside.recv() else { return false };
        *taken += 1;
        backlog.push(work);
    }
    true
}
