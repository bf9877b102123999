//! The helper process: compiles one constraint after the other, and ends when one takes too much.

use std::process::ExitCode;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use jan_protocol::confinement::Confinement;
use jan_protocol::memory;
use llguidance::toktrie::{ApproximateTokEnv, TokEnv, TokRxInfo, TokTrie};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{CompileLimits, Refusal, Verdict, decode, read_frame, write_frame};
use crate::confinement::confine_helper;
use crate::decode::constraint::Grammars;

/// Stack of the thread that compiles. Only the used part of it takes memory.
const STACK: usize = 256 << 20;

/// The interval at which the clock is checked.
const TICK: Duration = Duration::from_millis(10);

/// A helper whose memory has grown by this ends after its answer, so that the next one begins small.
const MAX_GROWTH_KIB: u64 = 64 << 10;

/// The helper's main function: answers the worker until its input ends.
pub fn main() -> ExitCode {
    // The content of its memory at its end is of no use.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    if let Ok(confinement) = Confinement::from_environment() {
        confine_helper(&confinement);
    }
    let serve = std::thread::Builder::new().name("compile".to_owned()).stack_size(STACK).spawn(serve);
    match serve.map(std::thread::JoinHandle::join) {
        Ok(Ok(Some(()))) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

fn serve() -> Option<()> {
    let (mut input, mut output) = (std::io::stdin().lock(), std::io::stdout().lock());
    let (limits, vocabulary) = read_setup(&read_frame(&mut input).ok()?)?;
    let grammars = Grammars::with_vocabulary(vocabulary).ok()?;
    let clock = Clock::start(limits.cpu)?;
    limit_memory(limits.memory_mib);
    let at_first = memory::resident_kib();
    write_frame(&mut output, &[]).ok()?;
    while let Ok(frame) = read_frame(&mut input) {
        let constraint = decode(&frame)?;
        let before = memory::resident_kib();
        clock.begin();
        let compiled = grammars.compile(&constraint);
        clock.end();
        let now = memory::resident_kib();
        let since = |before: Option<u64>| now.unwrap_or_default().saturating_sub(before.unwrap_or_default());
        let refusal: Option<Refusal> = compiled.as_ref().err().cloned();
        drop(compiled);
        let kib = u32::try_from(since(before)).unwrap_or(u32::MAX);
        let is_last = since(at_first) > MAX_GROWTH_KIB;
        write_frame(&mut output, &Verdict { refusal, kib, is_last }.encode()).ok()?;
        if is_last {
            break;
        }
    }
    Some(())
}

/// Reads limits and vocabulary.
pub(super) fn read_setup(mut setup: &[u8]) -> Option<(CompileLimits, TokEnv)> {
    let number = |setup: &mut &[u8]| {
        let (number, rest) = setup.split_first_chunk()?;
        *setup = rest;
        Some(u32::from_le_bytes(*number))
    };
    let cpu = Duration::from_millis(number(&mut setup)?.into());
    let memory_mib = number(&mut setup)?;
    let end = number(&mut setup)?;
    let mut words = Vec::new();
    while !setup.is_empty() {
        let length = number(&mut setup)? as usize;
        let (word, rest) = setup.split_at_checked(length)?;
        words.push(word.to_vec());
        setup = rest;
    }
    let size = u32::try_from(words.len()).ok().filter(|size| end < *size)?;
    let trie = TokTrie::from(&TokRxInfo::new(size, end), &words);
    Some((CompileLimits { cpu, memory_mib }, Arc::new(ApproximateTokEnv::new(trie))))
}

/// Limits further memory of this process to `mib`.
fn limit_memory(mib: u32) {
    // Writable memory counts; addresses that are merely taken, as allocators do, have room of their own.
    let limits = [
        (Resource::Data, memory::data_kib(), u64::from(mib)),
        (Resource::As, memory::virtual_kib(), u64::from(mib) * 2 + 256),
    ];
    for (resource, taken, mib) in limits {
        let Some(taken) = taken else { continue };
        let most = (taken << 10).saturating_add(mib << 20);
        let maximum = getrlimit(resource).maximum;
        let most = maximum.map_or(most, |maximum| maximum.min(most));
        let _ = setrlimit(resource, Rlimit { current: Some(most), maximum });
    }
}

/// Ends the process when a compilation has taken its processor time.
struct Clock {
    limit: Duration,
    /// The processor time of the process at which it ends, while one is compiled.
    end: Arc<(Mutex<Option<Duration>>, Condvar)>,
}

impl Clock {
    fn start(limit: Duration) -> Option<Self> {
        let end = Arc::new((Mutex::new(None), Condvar::new()));
        let watched = Arc::clone(&end);
        std::thread::Builder::new().name("clock".to_owned()).spawn(move || watch(&watched)).ok()?;
        Some(Self { limit, end })
    }

    fn begin(&self) {
        let end = cpu_time() + self.limit;
        // The kernel's own limit has whole seconds: later than this program's, for a clock that is not run.
        let hard = getrlimit(Resource::Cpu).maximum;
        let _ = setrlimit(Resource::Cpu, Rlimit { current: Some(end.as_secs() + 2), maximum: hard });
        *self.end.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        self.end.1.notify_one();
    }

    fn end(&self) {
        *self.end.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

fn watch((end, changed): &(Mutex<Option<Duration>>, Condvar)) {
    let mut waiting = end.lock().unwrap_or_else(PoisonError::into_inner);
    loop {
        match *waiting {
            None => waiting = changed.wait(waiting).unwrap_or_else(PoisonError::into_inner),
            Some(end) if cpu_time() > end => {
                let _ =
                    rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL);
            }
            Some(_) => {
                let waited = changed.wait_timeout(waiting, TICK);
                waiting = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        }
    }
}

/// Processor time that this process has used.
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
