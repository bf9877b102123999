//! The worker's end of the channel to the server, which owns the files.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jan_protocol::prefix_files::{Channel, Defect, FileId, Numbered, Reply, Request, TenantKey};

/// The server answers at once, unless its disk is stuck; then there are no files any more.
const PATIENCE: Duration = Duration::from_secs(10);

/// The channel; requests of several threads follow one another.
#[derive(Debug)]
pub struct Client(Mutex<Option<Open>>);

#[derive(Debug)]
struct Open {
    channel: Channel,
    number: u64,
}

impl Client {
    /// The end of this channel.
    ///
    /// # Errors
    /// The system's error.
    pub fn new(channel: Channel) -> std::io::Result<Self> {
        channel.set_timeout(PATIENCE)?;
        Ok(Self(Mutex::new(Some(Open { channel, number: 0 }))))
    }

    fn ask(&self, request: Request) -> Option<(Reply, Vec<OwnedFd>)> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Open { channel, number } = open.as_mut()?;
        *number += 1;
        let asked = Numbered { number: *number, message: request };
        let answer = channel.send(&asked, &[]).and_then(|()| channel.receive::<Numbered<Reply>>());
        match answer {
            Ok(Some((reply, descriptors))) if reply.number == *number => Some((reply.message, descriptors)),
            answer => {
                let error = answer.err().map(|error| error.to_string());
                tracing::warn!(
                    error,
                    "the server answers no more about prefixes on disk; there are none from now on"
                );
                *open = None;
                None
            }
        }
    }

    /// All files of a tenant.
    pub fn list(&self, tenant: &str) -> Option<(TenantKey, Vec<(FileId, File)>)> {
        self.files(Request::List { tenant: tenant.to_owned() })
    }

    /// One file of a tenant.
    pub fn open(&self, tenant: &str, file: FileId) -> Option<(TenantKey, File)> {
        let (key, mut files) = self.files(Request::Open { tenant: tenant.to_owned(), file })?;
        Some((key, files.pop()?.1))
    }

    fn files(&self, request: Request) -> Option<(TenantKey, Vec<(FileId, File)>)> {
        match self.ask(request)? {
            (Reply::Files { key, files }, descriptors) if files.len() == descriptors.len() => {
                Some((key, files.into_iter().zip(descriptors.into_iter().map(File::from)).collect()))
            }
            _ => None,
        }
    }

    /// A new file of exactly `bytes`, and the pipe that it is written through.
    pub fn create(&self, tenant: &str, bytes: u64) -> Option<(TenantKey, FileId, File)> {
        match self.ask(Request::Create { tenant: tenant.to_owned(), bytes })? {
            (Reply::Created { key, file }, mut descriptors) => {
                Some((key, file, File::from(descriptors.pop()?)))
            }
            _ => None,
        }
    }

    /// Ends the new file, whose pipe is closed. `false`: it was not taken.
    pub fn commit(&self, replaces: Vec<FileId>) -> bool {
        matches!(self.ask(Request::Commit { replaces }), Some((Reply::Done, _)))
    }

    /// Notes that a file was used.
    pub fn used(&self, tenant: &str, file: FileId) {
        self.ask(Request::Used { tenant: tenant.to_owned(), file });
    }

    /// Has a file removed that cannot be used.
    pub fn discard(&self, tenant: &str, file: FileId, reason: Defect) {
        self.ask(Request::Discard { tenant: tenant.to_owned(), file, reason });
    }
}
