//! What all targets share: inputs made of a corpus by proptest, so that a failing one is shrunk.
//!
//! Without `JAN_FUZZ_SECONDS`, each target tries some hundred inputs, always the same ones, and every file of its corpus
//! as it stands. With it, each goes on for so long, from a seed of its own. The input at hand is in
//! `target/fuzz/TARGET.input`, for an end of the process that leaves no time to say anything, a stack overflow for one.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::{Config, RngAlgorithm, TestError, TestRng, TestRunner};

/// Inputs of a short run.
const SHORT: u32 = 400;
/// Longest input that is made, in bytes.
const MAX_LENGTH: usize = 4096;
/// Most that one step is repeated: enough for every limit of nesting that is a fixed number.
const MAX_TIMES: usize = 600;

/// A change of an input.
#[derive(Clone, Debug)]
enum Edit {
    /// Bytes are taken out, from here and so many.
    Cut(Index, usize),
    /// A part is said again and again, which is how depth comes about.
    Repeat(Index, usize, usize),
    /// Bytes are put in.
    Insert(Index, Vec<u8>),
    /// Something that means something to the parser is put in, many times or once.
    Word(Index, Index, usize),
    /// A part of another file of the corpus is put in.
    Splice(Index, Index, Index, usize),
    /// One byte is another one.
    Byte(Index, u8),
}

fn edit() -> impl Strategy<Value = Edit> {
    let place = any::<Index>;
    let times = || prop_oneof![6 => 1_usize..4, 2 => 4_usize..60, 1 => 60_usize..MAX_TIMES];
    prop_oneof![
        2 => (place(), 1_usize..40).prop_map(|(at, length)| Edit::Cut(at, length)),
        2 => (place(), 1_usize..24, times()).prop_map(|(at, length, times)| Edit::Repeat(at, length, times)),
        1 => (place(), prop::collection::vec(any::<u8>(), 1..6)).prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
        3 => (place(), place(), times()).prop_map(|(at, word, times)| Edit::Word(at, word, times)),
        2 => (place(), place(), place(), 1_usize..200)
            .prop_map(|(at, file, from, length)| Edit::Splice(at, file, from, length)),
        1 => (place(), any::<u8>()).prop_map(|(at, byte)| Edit::Byte(at, byte)),
    ]
}

/// A target: its corpus, and words of what it reads.
pub struct Target {
    name: &'static str,
    words: &'static [&'static str],
    corpus: Vec<Vec<u8>>,
    longest: usize,
}

impl Target {
    /// The target of this name; its corpus lies in the folder of that name.
    pub fn new(name: &'static str, words: &'static [&'static str]) -> Self {
        let folder = root().join("tests/fuzz/corpus").join(name);
        let files = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        // In one order everywhere.
        paths.sort();
        let corpus: Vec<_> = paths.iter().map(|path| fs::read(path).unwrap()).collect();
        assert!(!corpus.is_empty(), "{} is empty", folder.display());
        Self { name, words, corpus, longest: MAX_LENGTH }
    }

    /// With inputs of so many bytes at most.
    #[allow(dead_code, reason = "the targets of some crates need no bound")]
    pub fn up_to(self, longest: usize) -> Self {
        Self { longest, ..self }
    }

    fn edited(&self, first: &Index, edits: &[Edit]) -> Vec<u8> {
        let mut input = first.get(&self.corpus).clone();
        for edit in edits {
            let at = |index: &Index| index.index(input.len() + 1);
            let (at, put) = match edit {
                Edit::Cut(from, length) => {
                    let from = at(from);
                    let end = (from + length).min(input.len());
                    input.drain(from..end);
                    continue;
                }
                Edit::Repeat(from, length, times) => {
                    let from = at(from);
                    let end = (from + length).min(input.len());
                    (end, input[from..end].repeat(*times))
                }
                Edit::Insert(place, bytes) => (at(place), bytes.clone()),
                Edit::Word(place, word, times) => (at(place), word.get(self.words).as_bytes().repeat(*times)),
                Edit::Splice(place, file, from, length) => {
                    let file = file.get(&self.corpus);
                    let from = from.index(file.len() + 1);
                    (at(place), file[from..(from + length).min(file.len())].to_vec())
                }
                Edit::Byte(place, byte) => {
                    let at = at(place);
                    if let Some(there) = input.get_mut(at) {
                        *there = *byte;
                    }
                    continue;
                }
            };
            input.splice(at..at, put);
        }
        input.truncate(self.longest);
        input
    }

    /// Tries inputs; fails with the smallest one at which `check` panics.
    pub fn run(&self, check: impl Fn(&[u8])) {
        let folder = root().join("target/fuzz");
        fs::create_dir_all(&folder).unwrap();
        let current = folder.join(format!("{}.input", self.name));
        let file = fs::File::create(&current).unwrap();
        let check = |input: &[u8]| {
            file.set_len(0).and_then(|()| file.write_all_at(input, 0)).unwrap();
            check(input);
        };
        for file in &self.corpus {
            check(file);
        }
        let seconds = std::env::var("JAN_FUZZ_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
        let until = seconds.map(|seconds| Instant::now() + Duration::from_secs(seconds));
        let config = Config { cases: SHORT, failure_persistence: None, ..Config::default() };
        let inputs = (any::<Index>(), prop::collection::vec(edit(), 0..12));
        let mut tried = 0;
        loop {
            // One that is through with its cases tries no others.
            let mut runner = match until {
                Some(_) => TestRunner::new(config.clone()),
                None => {
                    TestRunner::new_with_rng(config.clone(), TestRng::deterministic_rng(RngAlgorithm::ChaCha))
                }
            };
            let outcome = runner.run(&inputs, |(first, edits)| {
                check(&self.edited(&first, &edits));
                Ok(())
            });
            match outcome {
                Ok(()) => tried += SHORT,
                Err(TestError::Fail(reason, (first, edits))) => {
                    let input = self.edited(&first, &edits);
                    panic!("{}: {reason}: {}", self.name, input.escape_ascii());
                }
                Err(error) => panic!("{}: {error}", self.name),
            }
            if until.is_none_or(|until| Instant::now() > until) {
                break;
            }
        }
        let _ = fs::remove_file(&current);
        #[expect(clippy::print_stdout, reason = "shown with --nocapture, which `make fuzz` gives")]
        {
            println!("{}: {tried} inputs", self.name);
        }
    }
}

fn root() -> PathBuf {
    // The crates lie in the root or below it.
    let mut folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
    folders.find(|folder| folder.join("tests/fuzz").exists()).expect("the checkout is whole").to_owned()
}
