//! The channel of the prefix cache on disk: how a worker asks the server for files that it cannot open itself.
//!
//! A worker is confined and opens nothing, so the server, which owns the folder, sends it descriptors over a Unix socket of
//! packets that is the worker's standard output at the start. The worker asks ([`Request`]), the server answers each request
//! once ([`Reply`]). A file is read through a read-only descriptor. It is written through a pipe, whose other end the server
//! copies to the file: so no worker ever holds a descriptor with which it could change a file afterwards, or write more than it
//! announced.

use std::io;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::cmsg_space;
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// The maximum number of files of one tenant and model.
pub const MAX_FILES: usize = 32;

/// The largest message.
const MAX_PACKET: usize = 32 << 10;

/// The key that protects the files of one tenant and model. It is derived from the server's secret, from the model's contents
/// and from the tenant, so that a file under another of them cannot be read.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TenantKey(pub [u8; 32]);

impl std::fmt::Debug for TenantKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TenantKey")
    }
}

/// The number of a file, unique within its tenant and model.
pub type FileId = u64;

/// A request of a worker. Tenants are those of the requests that it was given; the server refuses others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    /// All files of a tenant, to be read: answered with [`Reply::Files`].
    List {
        /// The tenant.
        tenant: String,
    },
    /// One file, to be read: [`Reply::Files`] with that one.
    Open {
        /// The tenant.
        tenant: String,
        /// The file.
        file: FileId,
    },
    /// A new file of exactly so many bytes: [`Reply::Created`]. One at a time.
    Create {
        /// The tenant.
        tenant: String,
        /// Its size.
        bytes: u64,
    },
    /// The file that is being written is whole; those named hold no more than it does and are removed: [`Reply::Done`].
    Commit {
        /// Files of the same tenant.
        replaces: Vec<FileId>,
    },
    /// The file was used: it is kept longer, and no crash that follows is blamed on it.
    Used {
        /// The tenant.
        tenant: String,
        /// The file.
        file: FileId,
    },
    /// The file cannot be used and is to be removed.
    Discard {
        /// The tenant.
        tenant: String,
        /// The file.
        file: FileId,
        /// The reason, for the log.
        reason: Defect,
    },
}

/// The reason why a file cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "snake_case")]
pub enum Defect {
    /// It was written by another version, with other settings or on another kind of processor.
    #[error("it was written by another version, or with other settings")]
    Foreign,
    /// It is not what was written under this key: changed, cut, another tenant's or another model's.
    #[error("it is damaged, or not of this tenant and model")]
    Damaged,
    /// llama.cpp does not take its contents.
    #[error("its contents do not fit the model")]
    Unfit,
}

/// The answer of the server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    /// Files, each with its descriptor in the same order, the most recently used first.
    Files {
        /// The key of all of them.
        key: TenantKey,
        /// Their numbers.
        files: Vec<FileId>,
    },
    /// A new file, whose descriptor is the end of a pipe.
    Created {
        /// The key for it.
        key: TenantKey,
        /// Its number.
        file: FileId,
    },
    /// It is done.
    Done,
    /// It cannot be done, or not now.
    Refused,
}

/// A message with the number that pairs requests and replies.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Numbered<T> {
    /// The number.
    pub number: u64,
    /// The message.
    pub message: T,
}

/// One end of the channel.
#[derive(Debug)]
pub struct Channel(OwnedFd);

impl Channel {
    /// A pair of connected ends.
    ///
    /// # Errors
    /// The system's error; systems without such sockets among them.
    pub fn pair() -> io::Result<(Self, OwnedFd)> {
        // At once, where that is possible: another process may be started meanwhile.
        #[cfg(target_os = "linux")]
        let flags = SocketFlags::CLOEXEC;
        #[cfg(not(target_os = "linux"))]
        let flags = SocketFlags::empty();
        let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
        for end in [&ours, &theirs] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
        }
        Ok((Self(ours), theirs))
    }

    /// The channel of this descriptor.
    ///
    /// # Errors
    /// It is no socket.
    pub fn of(socket: OwnedFd) -> io::Result<Self> {
        rustix::net::sockopt::socket_type(&socket)?;
        Ok(Self(socket))
    }

    /// Sets how long [`receive`](Self::receive) and [`send`](Self::send) wait.
    ///
    /// # Errors
    /// The system's error.
    pub fn set_timeout(&self, limit: Duration) -> io::Result<()> {
        set_socket_timeout(&self.0, Timeout::Recv, Some(limit))?;
        Ok(set_socket_timeout(&self.0, Timeout::Send, Some(limit))?)
    }

    /// Sends a message with descriptors.
    ///
    /// # Errors
    /// The system's error, or a message that is too large.
    pub fn send<T: Serialize>(&self, message: &T, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        let text = serde_json::to_vec(message)?;
        if text.len() > MAX_PACKET || descriptors.len() > MAX_FILES {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() && !ancillary.push(SendAncillaryMessage::ScmRights(descriptors)) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        sendmsg(&self.0, &[IoSlice::new(&text)], &mut ancillary, SendFlags::empty())?;
        Ok(())
    }

    /// Receives a message with its descriptors. `None`: the other end is closed.
    ///
    /// # Errors
    /// The system's error, a time-out among them, or a message that is none of ours.
    pub fn receive<T: DeserializeOwned>(&self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let mut bytes = vec![0; MAX_PACKET];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        #[cfg(target_os = "linux")]
        let flags = RecvFlags::CMSG_CLOEXEC;
        #[cfg(not(target_os = "linux"))]
        let flags = RecvFlags::empty();
        let mut into = [IoSliceMut::new(&mut bytes)];
        let received = loop {
            match recvmsg(&self.0, &mut into, &mut ancillary, flags) {
                Err(rustix::io::Errno::INTR) => {}
                other => break other?,
            }
        };
        let mut descriptors = Vec::new();
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(received) = message {
                descriptors.extend(received);
            }
        }
        if received.bytes == 0 {
            return Ok(None);
        }
        if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Some((serde_json::from_slice(&bytes[..received.bytes])?, descriptors)))
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::fs::File;
    use std::io::{Read, Write};

    use super::*;

    #[test]
    fn messages_and_descriptors_arrive() {
        let (server, worker) = Channel::pair().unwrap();
        let worker = Channel::of(worker).unwrap();
        let asked = Numbered { number: 7, message: Request::Create { tenant: "a\"é".into(), bytes: 3 } };
        worker.send(&asked, &[]).unwrap();
        let (got, none) = server.receive::<Numbered<Request>>().unwrap().unwrap();
        assert_eq!((got, none.len()), (asked, 0));
        let mut files: Vec<File> = (0..MAX_FILES).map(|_| tempfile::tempfile().unwrap()).collect();
        for (number, file) in files.iter_mut().enumerate() {
            write!(file, "{number}").unwrap();
            rustix::fs::seek(&file, rustix::fs::SeekFrom::Start(0)).unwrap();
        }
        let fds: Vec<_> = files.iter().map(AsFd::as_fd).collect();
        let reply = Reply::Files { key: TenantKey([3; 32]), files: (0..32).collect() };
        server.send(&reply, &fds).unwrap();
        let (got, fds) = worker.receive::<Reply>().unwrap().unwrap();
        assert_eq!(got, reply);
        for (number, fd) in fds.into_iter().enumerate() {
            let mut text = String::new();
            File::from(fd).read_to_string(&mut text).unwrap();
            assert_eq!(text, number.to_string());
        }
        drop(server);
        assert!(worker.receive::<Reply>().unwrap().is_none());
    }

    #[test]
    fn what_is_no_message_is_an_error_and_waiting_ends() {
        let (server, worker) = Channel::pair().unwrap();
        let mut file = File::from(worker);
        file.write_all(b"llama.cpp says hello").unwrap();
        assert!(server.receive::<Numbered<Request>>().is_err());
        server.set_timeout(Duration::from_millis(10)).unwrap();
        assert!(server.receive::<Numbered<Request>>().is_err());
        assert!(server.send(&"x".repeat(MAX_PACKET), &[]).is_err());
    }
}
