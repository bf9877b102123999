//! A first compilation of untrusted constraints in a process of its own.
//!
//! The cost of compiling a schema or grammar cannot be derived from its text: the regular expressions in it are intersected, and
//! some hundred bytes can take minutes and gigabytes, inside a single operation that llguidance's fuel does not end. So a worker
//! has each constraint compiled by a helper first ([`helper`], `jan-server constraints`), which the kernel and its own clock end
//! when it takes more processor time or memory than allowed. The worker compiles the constraints that passed.
//!
//! Processor time and not the time on the clock counts: a busy machine must not refuse a good schema.

pub mod helper;

use std::fmt;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jan_protocol::confinement::{self, Confinement};
use jan_protocol::memory;
use llguidance::toktrie::{TokEnv, TokenId};
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::decode::constraint::source::Source;

/// Longest frame either side takes: a vocabulary or a constraint.
const MAX_FRAME_BYTES: usize = 256 << 20;

/// The interval at which a worker shows that it lives while it waits for its helper.
const SIGN_OF_LIFE: Duration = Duration::from_millis(500);

/// A helper that was not given its processor time within this is given up, for a reason that is not the constraint's.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// The limits for the compilation of one constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompileLimits {
    /// Processor time.
    pub cpu: Duration,
    /// Memory beside the vocabulary's.
    pub memory_mib: u32,
}

impl CompileLimits {
    fn exceeded(self) -> String {
        format!(
            "compiling it takes more than {} ms of processor time or {} MiB of memory",
            self.cpu.as_millis(),
            self.memory_mib
        )
    }
}

/// The reason why a constraint is not used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The constraint is not well-formed.
    #[error("{0}")]
    Malformed(String),
    /// The constraint cannot be enforced.
    #[error("{0}")]
    Invalid(String),
    /// The constraint takes more work than it may.
    #[error("{0}")]
    TooExpensive(String),
    /// The constraint could not be tried; that is no statement about it.
    #[error("{0}")]
    Unavailable(String),
}

impl Refusal {
    /// Returns `true` if the same constraint will be refused again.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        !matches!(self, Self::Unavailable(_))
    }
}

/// The settings for vetting constraints.
#[derive(Clone)]
pub struct VettingSettings {
    /// The program that is started with the argument `constraints`.
    pub program: PathBuf,
    /// The limits for one compilation.
    pub limits: CompileLimits,
    /// The rights that it gives up beside those that its worker has given up.
    pub confinement: Confinement,
    /// Called now and then while one is waited for.
    pub sign_of_life: Arc<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for VettingSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VettingSettings").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// The worker's side: starts the helper with the first constraint, and again after it was ended.
pub struct Vetter {
    settings: VettingSettings,
    vocabulary: TokEnv,
    running: Option<Running>,
}

impl fmt::Debug for Vetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vetter").field("settings", &self.settings).finish_non_exhaustive()
    }
}

struct Running {
    child: Child,
    to: ChildStdin,
    from: ChildStdout,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A helper's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Verdict {
    refusal: Option<Refusal>,
    /// Memory that it took, in KiB.
    kib: u32,
    /// `true` if the helper ends with it.
    is_last: bool,
}

impl Vetter {
    /// Creates the client; nothing is started yet.
    #[must_use]
    pub const fn new(settings: VettingSettings, vocabulary: TokEnv) -> Self {
        Self { settings, vocabulary, running: None }
    }

    /// Lets the helper compile a constraint. Returns the amount of memory that took, in KiB.
    ///
    /// # Errors
    /// See [`Refusal`].
    pub fn vet(&mut self, source: &Source) -> Result<u32, Refusal> {
        let mut running = match self.running.take() {
            Some(running) => running,
            None => self.start().map_err(|error| {
                tracing::error!(%error, "the helper that compiles constraints cannot be started");
                Refusal::Unavailable("the process that compiles constraints cannot be started".to_owned())
            })?,
        };
        let asked = write_frame(&mut running.to, &encode(source));
        match asked.and_then(|()| self.answer(&mut running)) {
            Ok(Some(frame)) => {
                let verdict = Verdict::decode(&frame).ok_or_else(|| {
                    Refusal::Unavailable("the process that compiles constraints answered nonsense".to_owned())
                })?;
                if !verdict.is_last {
                    self.running = Some(running);
                }
                verdict.refusal.map_or(Ok(verdict.kib), Err)
            }
            Ok(None) => {
                Err(Refusal::Unavailable("the machine is too busy to compile this constraint".to_owned()))
            }
            // It was ended, by its limits or by a stack that overflowed.
            Err(error) => {
                tracing::debug!(%error, "a constraint ended its helper");
                Err(Refusal::TooExpensive(self.settings.limits.exceeded()))
            }
        }
    }

    /// The resident set of the helper in bytes; 0: there is none.
    pub fn helper_bytes(&self) -> u64 {
        let running = self.running.as_ref();
        running.and_then(|running| memory::resident_of(running.child.id())).unwrap_or(0)
    }

    /// Ends the helper, if there is one.
    pub fn end_helper(&mut self) {
        self.running = None;
    }

    fn start(&self) -> std::io::Result<Running> {
        let mut child = Command::new(&self.settings.program)
            .arg("constraints")
            // No secrets; a build for GPUs can need the loader's path.
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| name == "LD_LIBRARY_PATH"))
            .env(confinement::VARIABLE, self.settings.confinement.to_json())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(std::io::Error::other("no pipes"));
        };
        let mut running = Running { child, to, from };
        write_frame(&mut running.to, &self.setup())?;
        match self.answer(&mut running)? {
            Some(_) => Ok(running),
            None => Err(std::io::Error::other("it does not begin")),
        }
    }

    /// Limits and vocabulary.
    fn setup(&self) -> Vec<u8> {
        let trie = self.vocabulary.tok_trie();
        let limits = self.settings.limits;
        let cpu_ms = u32::try_from(limits.cpu.as_millis()).unwrap_or(u32::MAX);
        let mut setup = Vec::new();
        for number in [cpu_ms, limits.memory_mib, trie.eos_token()] {
            setup.extend_from_slice(&number.to_le_bytes());
        }
        for token in 0..TokenId::try_from(trie.vocab_size()).unwrap_or(TokenId::MAX) {
            let word = trie.token(token);
            setup.extend_from_slice(&u32::try_from(word.len()).unwrap_or(0).to_le_bytes());
            setup.extend_from_slice(word);
        }
        setup
    }

    /// The next frame; `None` where it does not come.
    fn answer(&self, running: &mut Running) -> std::io::Result<Option<Vec<u8>>> {
        let begin = Instant::now();
        let tick = Timespec { tv_sec: 0, tv_nsec: i64::from(SIGN_OF_LIFE.subsec_nanos()) };
        loop {
            let mut watched = [PollFd::from_borrowed_fd(running.from.as_fd(), PollFlags::IN)];
            match poll(&mut watched, Some(&tick)) {
                Ok(0) => {}
                // An answer, or the end of the process. Frames are written at once.
                Ok(_) => return read_frame(&mut running.from).map(Some),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            if begin.elapsed() > MAX_WAIT {
                return Ok(None);
            }
            (self.settings.sign_of_life)();
        }
    }
}

fn encode(source: &Source) -> Vec<u8> {
    let (kind, text) = match source {
        Source::JsonSchema(schema) => (b'j', schema),
        Source::Regex(regex) => (b'r', regex),
        Source::Lark(grammar) => (b'l', grammar),
    };
    let mut frame = vec![kind];
    frame.extend_from_slice(text.as_bytes());
    frame
}

fn decode(frame: &[u8]) -> Option<Source> {
    let (kind, text) = frame.split_first()?;
    let text = std::str::from_utf8(text).ok()?.to_owned();
    match kind {
        b'j' => Some(Source::JsonSchema(text)),
        b'r' => Some(Source::Regex(text)),
        b'l' => Some(Source::Lark(text)),
        _ => None,
    }
}

impl Verdict {
    fn encode(&self) -> Vec<u8> {
        let (kind, message) = match &self.refusal {
            None => (0, ""),
            Some(Refusal::Invalid(message)) => (1, &**message),
            Some(Refusal::TooExpensive(message)) => (2, &**message),
            Some(Refusal::Unavailable(message)) => (3, &**message),
            Some(Refusal::Malformed(message)) => (4, &**message),
        };
        let mut frame = vec![kind, u8::from(self.is_last)];
        frame.extend_from_slice(&self.kib.to_le_bytes());
        frame.extend_from_slice(message.as_bytes());
        frame
    }

    fn decode(frame: &[u8]) -> Option<Self> {
        let (&[kind, is_last], rest) = frame.split_first_chunk()?;
        let (kib, message) = rest.split_first_chunk()?;
        let message = String::from_utf8_lossy(message).into_owned();
        let refusal = match kind {
            0 => None,
            1 => Some(Refusal::Invalid(message)),
            2 => Some(Refusal::TooExpensive(message)),
            3 => Some(Refusal::Unavailable(message)),
            4 => Some(Refusal::Malformed(message)),
            _ => return None,
        };
        Some(Self { refusal, kib: u32::from_le_bytes(*kib), is_last: is_last != 0 })
    }
}

fn write_frame(to: &mut impl Write, frame: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(frame.len()).map_err(std::io::Error::other)?;
    let mut bytes = Vec::with_capacity(frame.len() + 4);
    bytes.extend_from_slice(&length.to_le_bytes());
    bytes.extend_from_slice(frame);
    to.write_all(&bytes)?;
    to.flush()
}

fn read_frame(from: &mut impl Read) -> std::io::Result<Vec<u8>> {
    let mut length = [0; 4];
    from.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(std::io::Error::other("a frame is too long"));
    }
    let mut frame = vec![0; length];
    from.read_exact(&mut frame)?;
    Ok(frame)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refusals() -> impl Strategy<Value = Option<Refusal>> {
        prop_oneof![
            Just(None),
            ".*".prop_map(|message| Some(Refusal::Malformed(message))),
            ".*".prop_map(|message| Some(Refusal::Invalid(message))),
            ".*".prop_map(|message| Some(Refusal::TooExpensive(message))),
            ".*".prop_map(|message| Some(Refusal::Unavailable(message))),
        ]
    }

    proptest! {
        #[test]
        fn frames_come_back(refusal in refusals(), kib in any::<u32>(), is_last in any::<bool>(), text in ".*", bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let verdict = Verdict { refusal, kib, is_last };
            prop_assert_eq!(Verdict::decode(&verdict.encode()), Some(verdict));
            for constraint in [Source::JsonSchema(text.clone()), Source::Regex(text.clone()), Source::Lark(text)] {
                let mut pipe = Vec::new();
                write_frame(&mut pipe, &encode(&constraint)).unwrap();
                prop_assert_eq!(decode(&read_frame(&mut &*pipe).unwrap()), Some(constraint));
            }
            // Nothing that arrives makes either side panic.
            let _ = (Verdict::decode(&bytes), decode(&bytes), read_frame(&mut &*bytes), helper::read_setup(&bytes));
        }
    }
}
