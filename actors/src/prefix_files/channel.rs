//! The server's end of one worker's channel.
//!
//! A thread answers the worker's requests one after the other: each is a few operations on files, which block. A worker that
//! floods it waits for itself alone, and is slowed down.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use jan_protocol::prefix_files::{Channel, FileId, MAX_FILES, Numbered, Reply, Request};
use rustix::pipe::{PipeFlags, pipe_with};

use super::books::Place;
use super::{Draft, PrefixFiles, Shared, model_hash};

/// Requests that are answered within [`PACE`] without a pause.
const BURST: u32 = 256;
const PACE: Duration = Duration::from_secs(1);

/// The callers whose requests a worker was given: the party that a tenant is counted against, or `None` for a tenant that it has
/// no business with.
pub type Callers = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The channel of a running worker.
#[derive(Debug, Default)]
pub struct WorkerChannel {
    /// Tells the thread how the worker ended.
    ended: Option<mpsc::Sender<bool>>,
}

impl PrefixFiles {
    /// Opens a channel for a worker of the model in `path` (empty: the one in the program), and returns its end of it; `None`: it
    /// gets no files.
    pub fn connect(&self, path: &str, callers: Callers) -> (WorkerChannel, Option<OwnedFd>) {
        let Some(shared) = self.0.clone() else { return (WorkerChannel::default(), None) };
        let opened = Channel::pair().and_then(|(channel, theirs)| {
            let (ended, how) = mpsc::channel();
            let path = PathBuf::from(path);
            let serve = move || {
                // The worker of the bundled model names its contents in the files themselves.
                let model = match path.as_os_str().is_empty() {
                    true => Ok([0; 32]),
                    false => model_hash::of_file(&path),
                };
                let Ok(model) = model else { return };
                let mut server = Server { shared, model, callers, writing: None, opened: BTreeSet::new() };
                server.serve(&channel);
                if how.recv() == Ok(true) {
                    server.blame();
                }
            };
            std::thread::Builder::new().name("prefix channel".to_owned()).spawn(serve)?;
            Ok((WorkerChannel { ended: Some(ended) }, theirs))
        });
        match opened {
            Ok((channel, theirs)) => (channel, Some(theirs)),
            Err(error) => {
                tracing::warn!(%error, "a worker gets no files of the prefix cache");
                (WorkerChannel::default(), None)
            }
        }
    }
}

impl WorkerChannel {
    /// Notes that the worker has gone. If it `died`, the files that it had opened and not used yet may be the reason: they are
    /// discarded.
    pub fn end(self, died: bool) {
        if let Some(ended) = self.ended {
            let _ = ended.send(died);
        }
    }
}

/// A file that is being written: its pipe is copied on a thread until it is closed.
struct Writing {
    draft: Draft,
    tenant: String,
    /// `true`: the file has exactly the announced bytes.
    copying: JoinHandle<bool>,
}

struct Server {
    shared: Arc<Shared>,
    model: [u8; 32],
    callers: Callers,
    writing: Option<Writing>,
    /// Files that it opened and has not used yet.
    opened: BTreeSet<(Place, FileId)>,
}

impl Server {
    fn serve(&mut self, channel: &Channel) {
        let (mut begun, mut count) = (Instant::now(), 0);
        loop {
            let (asked, _) = match channel.receive::<Numbered<Request>>() {
                Ok(Some(asked)) => asked,
                Ok(None) => return,
                Err(error) => {
                    tracing::warn!(%error, "a worker's channel for prefixes has ended");
                    return;
                }
            };
            count += 1;
            if begun.elapsed() >= PACE {
                (begun, count) = (Instant::now(), 0);
            } else if count > BURST {
                std::thread::sleep(PACE - begun.elapsed().min(PACE));
            }
            let (reply, descriptors) = self.answer(asked.message);
            let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
            let reply = Numbered { number: asked.number, message: reply };
            if channel.send(&reply, &borrowed).is_err() {
                return;
            }
        }
    }

    fn answer(&mut self, request: Request) -> (Reply, Vec<OwnedFd>) {
        let refused = (Reply::Refused, Vec::new());
        let done = (Reply::Done, Vec::new());
        match request {
            Request::List { tenant } => {
                let Some((place, _)) = self.place(&tenant) else { return refused };
                let mut files = self.shared.list(place);
                files.truncate(MAX_FILES);
                self.files(&tenant, files)
            }
            Request::Open { tenant, file } => {
                let Some((place, _)) = self.place(&tenant) else { return refused };
                let Some(opened) = self.shared.read(place, file) else { return refused };
                self.opened.insert((place, file));
                self.files(&tenant, vec![(file, opened)])
            }
            Request::Create { tenant, bytes } => {
                let Some((place, party)) = self.place(&tenant) else { return refused };
                if self.writing.as_ref().is_some_and(|writing| !writing.copying.is_finished()) {
                    return refused;
                }
                self.writing = None;
                let party = self.shared.party(&party);
                let Some((draft, file)) = self.shared.create(place, party, bytes) else { return refused };
                match copier(file, bytes) {
                    Ok((pipe, copying)) => {
                        let key = self.shared.secret.tenant_key(&self.model, &tenant);
                        let reply = Reply::Created { key, file: draft.id };
                        self.writing = Some(Writing { draft, tenant, copying });
                        (reply, vec![pipe])
                    }
                    Err(error) => {
                        tracing::warn!(%error, "cannot write a file of the prefix cache");
                        refused
                    }
                }
            }
            Request::Commit { replaces } => {
                let Some(Writing { draft, tenant, copying }) = self.writing.take() else { return refused };
                let is_whole = copying.join().unwrap_or(false);
                let is_wanted = is_whole && replaces.len() <= MAX_FILES && (self.callers)(&tenant).is_some();
                if is_wanted && draft.commit(&replaces) { done } else { refused }
            }
            Request::Used { tenant, file } => {
                let Some((place, _)) = self.place(&tenant) else { return refused };
                self.opened.remove(&(place, file));
                self.shared.used(place, file);
                done
            }
            Request::Discard { tenant, file, reason } => {
                let Some((place, _)) = self.place(&tenant) else { return refused };
                self.opened.remove(&(place, file));
                self.shared.discard(place, file, Some(reason));
                done
            }
        }
    }

    fn files(&self, tenant: &str, files: Vec<(FileId, File)>) -> (Reply, Vec<OwnedFd>) {
        let key = self.shared.secret.tenant_key(&self.model, tenant);
        let (files, opened): (Vec<_>, Vec<_>) =
            files.into_iter().map(|(id, file)| (id, OwnedFd::from(file))).unzip();
        (Reply::Files { key, files }, opened)
    }

    /// The place of a tenant's files, and its party.
    fn place(&self, tenant: &str) -> Option<(Place, String)> {
        let party = (self.callers)(tenant)?;
        Some((self.shared.place(&self.model, tenant), party))
    }

    /// Discards the files that the worker had opened when it died.
    fn blame(&self) {
        for (place, file) in &self.opened {
            self.shared.discard(*place, *file, None);
        }
    }
}

/// Copies what is written to the returned pipe to `file`, which is to become exactly `bytes` long.
fn copier(mut file: File, bytes: u64) -> io::Result<(OwnedFd, JoinHandle<bool>)> {
    let (from, pipe) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut from = File::from(from);
    let copy = move || {
        let copied = io::copy(&mut from.by_ref().take(bytes), &mut file);
        copied.is_ok_and(|copied| copied == bytes) && matches!(from.read(&mut [0]), Ok(0))
    };
    let copying = std::thread::Builder::new().name("prefix copy".to_owned()).spawn(copy)?;
    Ok((pipe, copying))
}
