//! The steps of constrained answers, beside the steps of the engine.
//!
//! Computing the tokens that a constraint leaves open can take long: its lexer is built as answers lead into it. So it is done on
//! threads of its own. The engine waits a moment for the usual microseconds; a sequence whose step is not done by then sits out
//! while others continue, and comes back with its result. Callers take turns by the time that they have taken. A step that takes
//! more processor time than the budget ends its sequence, and as llguidance cannot be stopped inside an operation, its thread is
//! left behind and another one takes its place.

use std::collections::{HashMap, HashSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jan_protocol::memory;
use jan_protocol::report::SequenceEvent;

use super::constraint::GuideError;
use super::drafting::{Check, DraftCounts, Rows};
use super::running_sequence::{Buffers, Running};
use crate::llama::Model;
use crate::scheduler::{Outcome, SequenceId};

/// Threads: one more, so that a slow step of one sequence does not hold up those of others.
const THREADS: usize = 2;

/// Stack of each: a constraint can nest as deep as it is long.
const STACK: usize = 64 << 20;

/// Threads left behind after which the worker is to be replaced: each takes a core.
const MAX_LEFT_BEHIND: usize = 4;

/// Time for which a thread that was left behind may continue, and the memory that the process may take meanwhile, before the
/// worker is to be replaced.
const MAX_TIME_BEHIND: Duration = Duration::from_secs(20);
const MAX_KIB_BEHIND: u64 = 256 << 10;

/// The interval at which threads that were left behind are looked at.
pub const LOOK: Duration = Duration::from_millis(250);

/// A sequence whose step took less than this is waited for again.
const QUICK: Duration = Duration::from_millis(1);

/// Time taken at which all callers' times are halved, so that old ones count for less.
const FADING: Duration = Duration::from_secs(1);

/// A sequence whose next token is to be found.
struct Task {
    id: SequenceId,
    running: Box<Running>,
    check: Check,
    /// Those behind its last token and behind each of its drafts.
    logits: Vec<f32>,
}

/// The result of a step.
pub struct Done {
    /// The sequence.
    pub id: SequenceId,
    /// The sequence as it was handed over.
    pub running: Box<Running>,
    /// The sequence's events.
    pub events: Vec<(u64, SequenceEvent)>,
    /// The outcome of the step.
    pub outcome: Result<Outcome, GuideError>,
    /// The drafts of the step.
    pub drafts: DraftCounts,
    logits: Vec<f32>,
    /// Processor time for each of its tokens.
    took: Duration,
}

/// The current work of a thread.
struct Work {
    id: SequenceId,
    since: Instant,
    /// The thread's processor time when it began.
    cpu: Duration,
    /// The kernel's name for the thread.
    task: Option<String>,
    left_behind: bool,
    /// Memory of the process when it was left behind, in KiB.
    kib: u64,
}

#[derive(Default)]
struct Queue {
    tasks: VecDeque<Task>,
    /// Time that each caller's steps have taken.
    taken: HashMap<String, Duration>,
    /// The work by the threads' numbers.
    working: HashMap<u64, Work>,
    closed: bool,
}

impl Queue {
    /// The oldest task of the caller who has taken the least.
    fn next(&mut self) -> Option<Task> {
        let taken = |task: &Task| self.taken.get(&task.running.sequence.user).copied().unwrap_or_default();
        let index = (0..self.tasks.len()).min_by_key(|&index| taken(&self.tasks[index]))?;
        self.tasks.remove(index)
    }

    fn charge(&mut self, user: &str, took: Duration) {
        // A new caller begins beside the one who has taken the least, rather than before all others for long.
        let least = self.taken.values().min().copied().unwrap_or_default();
        let taken = self.taken.entry(user.to_owned()).or_insert(least);
        *taken += took;
        if *taken > FADING {
            self.taken.retain(|_, taken| {
                *taken /= 2;
                !taken.is_zero()
            });
        }
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See the module's description.
pub struct Masks {
    model: Arc<Model>,
    /// The maximum processor time of one step of one sequence.
    budget: Duration,
    shared: Arc<Shared>,
    done: (Sender<Done>, Receiver<Done>),
    threads: u64,
    /// Threads that were left behind, when they were last looked at.
    left_behind: usize,
    looked: Instant,
    /// Sequences whose step is not done; `true`: it is waited for.
    away: HashMap<SequenceId, bool>,
    /// Sequences that were late the last time.
    late: HashSet<SequenceId>,
    /// Buffers for logits.
    spare: Vec<Vec<f32>>,
}

impl std::fmt::Debug for Masks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Masks").field("away", &self.away).finish_non_exhaustive()
    }
}

impl Drop for Masks {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.changed.notify_all();
    }
}

impl Masks {
    /// Creates the set without a thread: nothing is started before it is needed.
    pub fn new(model: Arc<Model>, budget: Duration) -> Self {
        Self {
            model,
            budget,
            shared: Arc::default(),
            done: channel(),
            threads: 0,
            left_behind: 0,
            looked: Instant::now(),
            away: HashMap::new(),
            late: HashSet::new(),
            spare: Vec::new(),
        }
    }

    /// Returns `true` if steps are not done.
    pub fn is_busy(&self) -> bool {
        !self.away.is_empty()
    }

    /// Bytes of the copies of logits, those in use included.
    pub fn logits_bytes(&self) -> u64 {
        let spare: usize = self.spare.iter().map(Vec::capacity).sum();
        // Those with drafts have more than one row, and are not many.
        let away = self.away.len() as u64 * u64::from(self.model.vocabulary());
        (spare as u64 + away) * size_of::<f32>() as u64
    }

    /// Gives the spare buffers back.
    pub fn give_back(&mut self) {
        self.spare = Vec::new();
    }

    /// Takes a sequence and the logits that its next tokens are chosen from.
    pub fn begin(&mut self, id: SequenceId, running: Running, check: Check, rows: &mut impl Rows) {
        while self.threads < THREADS as u64 {
            self.start_thread();
        }
        let mut copy = self.spare.pop().unwrap_or_default();
        copy.clear();
        for index in 0..check.rows() {
            copy.extend_from_slice(rows.row(index).unwrap_or_default());
        }
        self.away.insert(id, !self.late.contains(&id));
        self.shared.lock().tasks.push_back(Task { id, running: Box::new(running), check, logits: copy });
        self.shared.changed.notify_one();
    }

    /// Forgets a sequence: whether it was here.
    pub fn cancel(&mut self, id: SequenceId) -> bool {
        self.late.remove(&id);
        self.shared.lock().tasks.retain(|task| task.id != id);
        self.away.remove(&id).is_some()
    }

    /// Returns the finished steps, at the latest after `patience`, which applies to sequences that are usually quick; or to all
    /// with `for_all`.
    pub fn collect(&mut self, patience: Duration, for_all: bool) -> Vec<Done> {
        let end = Instant::now() + patience;
        let mut collected = Vec::new();
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let is_awaited = self.away.values().any(|&awaited| awaited || for_all);
            let is_over = left.is_zero() || !is_awaited || (for_all && !collected.is_empty());
            let next =
                if is_over { self.done.1.try_recv().ok() } else { self.done.1.recv_timeout(left).ok() };
            match next {
                Some(done) => collected.extend(self.take(done)),
                None if is_over => break,
                None => {}
            }
        }
        // A sequence that was not ready is not waited for again before it was.
        for (id, awaited) in &mut self.away {
            if std::mem::take(awaited) {
                self.late.insert(*id);
            }
        }
        collected
    }

    fn take(&mut self, mut done: Done) -> Option<Done> {
        self.spare.push(std::mem::take(&mut done.logits));
        // A sequence that was cancelled meanwhile has no owner.
        self.away.remove(&done.id)?;
        let goes_on = !matches!(done.outcome, Ok(Outcome::Finished) | Err(_));
        if done.took < QUICK || !goes_on {
            self.late.remove(&done.id);
        }
        Some(done)
    }

    /// Sequences whose step takes too long. They are given up.
    pub fn give_up(&mut self) -> Vec<(SequenceId, GuideError)> {
        let mut given_up = Vec::new();
        let mut queue = self.shared.lock();
        for work in queue.working.values_mut() {
            if !work.left_behind && is_over_budget(work, self.budget) {
                work.left_behind = true;
                work.kib = memory::resident_kib().unwrap_or_default();
                given_up.push(work.id);
            }
        }
        drop(queue);
        let budget = self.budget.as_millis();
        let mut errors = Vec::new();
        for id in given_up {
            self.left_behind += 1;
            self.start_thread();
            if self.cancel(id) {
                let error =
                    format!("what may come next takes more than {budget} ms of processor time to find out");
                errors.push((id, GuideError::new(error)));
            }
        }
        errors
    }

    /// Returns `true` if any thread was left behind and may still work.
    pub const fn has_left_behind(&self) -> bool {
        self.left_behind > 0
    }

    /// Returns `true` if the work left behind has become so much that only another process helps.
    pub fn is_overrun(&mut self) -> bool {
        let now = Instant::now();
        if self.left_behind == 0 || now.saturating_duration_since(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        let queue = self.shared.lock();
        let behind: Vec<&Work> = queue.working.values().filter(|work| work.left_behind).collect();
        self.left_behind = behind.len();
        let kib = memory::resident_kib().unwrap_or_default();
        let is_too_much = |work: &&Work| {
            work.since.elapsed() > MAX_TIME_BEHIND || kib.saturating_sub(work.kib) > MAX_KIB_BEHIND
        };
        behind.len() >= MAX_LEFT_BEHIND || behind.iter().any(is_too_much)
    }

    fn start_thread(&mut self) {
        let number = self.threads;
        self.threads += 1;
        let (model, shared, done) = (Arc::clone(&self.model), Arc::clone(&self.shared), self.done.0.clone());
        let thread = std::thread::Builder::new().name("masks".to_owned()).stack_size(STACK);
        if let Err(error) = thread.spawn(move || work(number, &model, &shared, &done)) {
            tracing::error!(%error, "cannot start a thread for constrained answers");
        }
    }
}

fn work(number: u64, model: &Model, shared: &Shared, results: &Sender<Done>) {
    let mut buffers = Buffers::default();
    let task_name = own_task();
    loop {
        let mut queue = shared.lock();
        let task = loop {
            if queue.closed {
                return;
            }
            match queue.next() {
                Some(task) => break task,
                None => queue = shared.changed.wait(queue).unwrap_or_else(PoisonError::into_inner),
            }
        };
        let (begin, id) = (thread_cpu(), task.id);
        let (since, task_name) = (Instant::now(), task_name.clone());
        queue
            .working
            .insert(number, Work { id, since, cpu: begin, task: task_name, left_behind: false, kib: 0 });
        drop(queue);
        let Task { mut running, mut check, mut logits, .. } = task;
        let mut events = Vec::new();
        let size = logits.len() / check.rows();
        let mut rows = WatchedRows { logits: &mut logits, size, number, shared, steps: 0 };
        let next = AssertUnwindSafe(|| {
            let (running, events) = (&mut running, &mut events);
            check.advance(running, &mut rows, false, model, &mut buffers, events)
        });
        let outcome = catch_unwind(next)
            .ok()
            .flatten()
            .unwrap_or_else(|| Err(GuideError::new("it cannot be followed any further".to_owned())));
        let (took, steps) = (thread_cpu().saturating_sub(begin), rows.steps.max(1));
        let mut queue = shared.lock();
        if queue.working.remove(&number).is_none_or(|work| work.left_behind) {
            return;
        }
        queue.charge(&running.sequence.user, took);
        drop(queue);
        let (drafts, took) = (check.counts(), took / steps);
        if results.send(Done { id, running, events, outcome, drafts, logits, took }).is_err() {
            return;
        }
    }
}

/// The logits of a sequence that a thread works on. Each token of it has the whole budget.
struct WatchedRows<'a> {
    logits: &'a mut [f32],
    /// Logits of a row.
    size: usize,
    /// The thread's number.
    number: u64,
    shared: &'a Shared,
    steps: u32,
}

impl Rows for WatchedRows<'_> {
    fn row(&mut self, index: usize) -> Option<&mut [f32]> {
        self.steps += 1;
        if self.steps > 1 {
            let mut queue = self.shared.lock();
            let work = queue.working.get_mut(&self.number).filter(|work| !work.left_behind)?;
            (work.since, work.cpu) = (Instant::now(), thread_cpu());
        }
        self.logits.get_mut(index * self.size..(index + 1) * self.size)
    }
}

fn is_over_budget(work: &Work, budget: Duration) -> bool {
    let elapsed = work.since.elapsed();
    if elapsed <= budget {
        return false;
    }
    match work.task.as_deref().and_then(cpu_of) {
        Some(cpu) => cpu.saturating_sub(work.cpu) > budget,
        // Without a way to ask: a machine that is not too busy gives it in time.
        None => elapsed > budget * 8,
    }
}

/// Processor time of the calling thread.
fn thread_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// The kernel's name for the calling thread.
fn own_task() -> Option<String> {
    let link = std::fs::read_link("/proc/thread-self").ok()?;
    Some(link.file_name()?.to_str()?.to_owned())
}

/// Processor time of one of this process's threads.
fn cpu_of(task: &str) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{task}/stat")).ok()?;
    // Behind the name, which can have any characters: the state, and the 11th and 12th from there are the times, in
    // hundredths of a second.
    let mut fields = stat.rsplit(')').next()?.split_ascii_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(Duration::from_millis(ticks * 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_processor_time_of_a_thread_is_known() {
        let (task, begin) = (own_task().unwrap(), thread_cpu());
        let mut sum = 0u64;
        while thread_cpu() - begin < Duration::from_millis(100) {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        let seen = cpu_of(&task).unwrap();
        assert!(seen >= begin + Duration::from_millis(60), "{seen:?} and {begin:?} before");
    }

    #[test]
    fn whoever_has_taken_least_is_next_and_old_times_fade() {
        let mut queue = Queue::default();
        queue.charge("a", Duration::from_millis(900));
        queue.charge("b", Duration::from_millis(10));
        assert_eq!(queue.taken["b"], Duration::from_millis(910));
        queue.charge("a", Duration::from_millis(200));
        assert_eq!(queue.taken["a"], Duration::from_millis(550));
    }
}
