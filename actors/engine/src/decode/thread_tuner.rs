//! The number of compute threads that a step uses while other processes want the cores too.
//!
//! ggml's threads wait for each other many times a step, spinning. When another process takes one of the cores, the thread on it
//! is descheduled now and then and all others wait for it: on 2 cores with one busy process, 2 threads decode at a third of the
//! quiet rate and 1 thread at over half. So fewer threads are tried when the threads got less processor time than they were on
//! the clock for, and kept where steps are faster; more are tried again from time to time.

use std::time::Duration;

/// Below this share of processor time the cores are suspected to be shared.
const STARVED: f64 = 0.85;

/// Another thread count must be at least this much faster to be kept.
const BETTER: f64 = 0.93;

/// Steps that a trial may take, and how many comparable ones settle it.
const TRIAL: usize = 8;
const COMPARABLE: usize = 3;

/// Steps remembered of the present thread count.
const WINDOW: usize = 8;

/// Seconds of step time between trials: the first, and the longest for more and for fewer threads.
const FIRST_WAIT: f64 = 0.3;
const MAX_WAIT_UP: f64 = 4.0;
const MAX_WAIT_DOWN: f64 = 30.0;

/// The work of a step and the time that it took.
#[derive(Clone, Copy, Debug)]
pub struct StepSample {
    /// Sequences that got a token.
    pub decode_tokens: usize,
    /// Prompt tokens read.
    pub prefill_tokens: usize,
    /// Time on the clock.
    pub wall: Duration,
    /// Processor time of the whole process meanwhile.
    pub cpu: Duration,
}

impl StepSample {
    fn tokens(&self) -> f64 {
        (self.decode_tokens + self.prefill_tokens).max(1) as f64
    }

    /// Returns `true` if both did about the same work.
    fn comparable(&self, other: &Self) -> bool {
        let ratio = self.tokens() / other.tokens();
        (self.prefill_tokens > 0) == (other.prefill_tokens > 0) && (0.8..=1.25).contains(&ratio)
    }
}

#[derive(Clone, Debug)]
struct Trial {
    threads: usize,
    samples: Vec<StepSample>,
}

/// Decides the thread count of each step. Pure: time and processor time are passed in.
#[derive(Clone, Debug)]
pub struct ThreadTuner {
    most: usize,
    threads: usize,
    window: Vec<StepSample>,
    trial: Option<Trial>,
    /// Step time since the last trial, in seconds, and how much must pass before the next.
    since: f64,
    wait: f64,
}

impl ThreadTuner {
    /// `most`: the threads of a quiet machine.
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { most, threads: most, window: Vec::new(), trial: None, since: 0.0, wait: FIRST_WAIT }
    }

    /// Threads for the next step, 1 to `most`.
    pub fn next(&self) -> usize {
        self.trial.as_ref().map_or(self.threads, |trial| trial.threads)
    }

    /// Learns from the step that ran with [`next`](Self::next) threads.
    pub fn observe(&mut self, sample: StepSample) {
        if let Some(trial) = &mut self.trial {
            trial.samples.push(sample);
            self.judge();
            return;
        }
        self.since += sample.wall.as_secs_f64();
        if self.window.len() == WINDOW {
            self.window.remove(0);
        }
        self.window.push(sample);
        if self.window.len() >= COMPARABLE && self.since >= self.wait {
            self.trial = self.other().map(|threads| Trial { threads, samples: Vec::new() });
        }
    }

    /// The thread count worth a trial now, if any.
    fn other(&self) -> Option<usize> {
        if self.threads < self.most {
            // Half of the way back: few steps from few threads to all, on a machine with many.
            return Some(self.threads + (self.most - self.threads).div_ceil(2));
        }
        let wall: f64 = self.window.iter().map(|s| s.wall.as_secs_f64()).sum();
        let cpu: f64 = self.window.iter().map(|s| s.cpu.as_secs_f64()).sum();
        let got = cpu / wall.max(1e-9);
        // As many threads as cores were really there.
        (self.threads > 1 && got < STARVED * self.threads as f64)
            .then(|| (got as usize).clamp(1, self.threads - 1))
    }

    fn judge(&mut self) {
        let Some(trial) = &self.trial else { return };
        let pairs = || {
            trial.samples.iter().filter_map(|new| {
                let old: Vec<f64> = self.window.iter().filter(|old| old.comparable(new)).map(pace).collect();
                (!old.is_empty()).then(|| pace(new) / median(old))
            })
        };
        let ratios: Vec<f64> = pairs().collect();
        if ratios.len() < COMPARABLE && trial.samples.len() < TRIAL {
            return;
        }
        let better = ratios.len() >= COMPARABLE && median(ratios) < BETTER;
        let up = trial.threads > self.threads;
        if better {
            self.threads = trial.threads;
            self.wait = FIRST_WAIT;
        } else {
            self.wait = (self.wait * 2.0).min(if up { MAX_WAIT_UP } else { MAX_WAIT_DOWN });
        }
        self.trial = None;
        self.since = 0.0;
        self.window.clear();
    }
}

/// Seconds a token.
fn pace(sample: &StepSample) -> f64 {
    sample.wall.as_secs_f64() / sample.tokens()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::INFINITY)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Two cores, in seconds a decode step of one token, as measured: quiet 10 ms with 2 threads and 18 with
    /// 1; with one spinning process 29 and 18.
    fn machine(busy: bool, threads: usize, noise: f64) -> StepSample {
        let (wall, cores) = match (busy, threads) {
            (false, 1) | (true, 1) => (0.018, 1.0),
            (false, _) => (0.010, 1.95),
            (true, _) => (0.029, 1.5),
        };
        let wall = wall * (1.0 + noise);
        StepSample {
            decode_tokens: 1,
            prefill_tokens: 0,
            wall: Duration::from_secs_f64(wall),
            cpu: Duration::from_secs_f64(wall * cores),
        }
    }

    /// Runs for so many seconds; returns tokens a second.
    fn run(tuner: &mut ThreadTuner, busy: bool, seconds: f64, noise: &mut impl FnMut() -> f64) -> f64 {
        let (mut time, mut tokens) = (0.0, 0.0);
        while time < seconds {
            let sample = machine(busy, tuner.next(), noise());
            time += sample.wall.as_secs_f64();
            tokens += 1.0;
            tuner.observe(sample);
        }
        tokens / time
    }

    proptest! {
        #[test]
        fn follows_the_machine(seed in any::<u64>()) {
            let mut state = seed | 1;
            let mut noise = || {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                0.05 * ((state >> 33) as f64 / (1u64 << 31) as f64)
            };
            let mut tuner = ThreadTuner::new(2);
            let quiet = run(&mut tuner, false, 10.0, &mut noise);
            prop_assert!(quiet > 94.0, "quiet: {quiet}");
            let busy = run(&mut tuner, true, 10.0, &mut noise);
            prop_assert!(busy > 48.0, "busy: {busy}");
            run(&mut tuner, false, 5.0, &mut noise);
            let again = run(&mut tuner, false, 10.0, &mut noise);
            prop_assert!(again > 94.0, "quiet again: {again}");
        }

        #[test]
        fn stays_in_bounds(most in 1usize..64, steps in prop::collection::vec((0usize..40, 0usize..300, 1u64..100_000, 0u64..1_000_000), 0..400)) {
            let mut tuner = ThreadTuner::new(most);
            for (decode_tokens, prefill_tokens, wall, cpu) in steps {
                prop_assert!((1..=most).contains(&tuner.next()));
                let (wall, cpu) = (Duration::from_micros(wall), Duration::from_micros(cpu));
                tuner.observe(StepSample { decode_tokens, prefill_tokens, wall, cpu });
            }
        }
    }

    #[test]
    fn a_quiet_machine_is_left_alone() {
        let mut tuner = ThreadTuner::new(2);
        for _ in 0..1000 {
            assert_eq!(tuner.next(), 2);
            tuner.observe(machine(false, 2, 0.0));
        }
    }
}
