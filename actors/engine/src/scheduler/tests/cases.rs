//! The scheduler's guarantees beyond correct outputs: frequency of reads, order of service, choice of victims.

use proptest::prelude::*;

use super::backend::reference;
use super::harness::Harness;
use crate::scheduler::*;

pub fn config() -> SchedulerConfig {
    SchedulerConfig {
        slots: 16,
        max_running: 8,
        cells: 4096,
        context: 2048,
        cache_cells: u32::MAX,
        archive_tokens: 0,
        spill: true,
        headroom: 8,
        reuse: PrefixReuse::Partial,
        share_min: 16,
        score_chunk: 24,
        in_order: false,
        weights: 1000,
        always_lanes: false,
    }
}

/// `len` tokens that have no prefix in common with those of another `kind`, nor with any of the toy model's.
pub fn text(kind: i32, len: usize) -> Vec<Token> {
    (0..len as i32).map(|position| 1000 * (kind + 1) + position % 997).collect()
}

fn prompt(shared: usize, kind: i32, own: usize) -> Vec<Token> {
    [text(0, shared), text(kind, own)].concat()
}

pub fn started(harness: &mut Harness, steps: usize, budget: usize) -> Vec<(u64, u32)> {
    let steps = (0..steps).flat_map(|_| harness.step(budget, &[]).unwrap().started);
    steps.map(|(id, cached)| (id.0, cached)).collect()
}

#[test]
fn a_prefix_that_arrives_many_times_at_once_is_read_once() {
    for reuse in [PrefixReuse::Partial, PrefixReuse::WholeSequence] {
        let mut harness = Harness::new(SchedulerConfig { reuse, ..config() });
        for n in 0..8 {
            harness.submit(n, "ann", &prompt(1000, n as i32 + 1, 10), 0, 1);
        }
        let first = started(&mut harness, 1, 128);
        assert_eq!(first, [(0, 0)]);
        assert_eq!(harness.scheduler.stats().following, 7);
        let rest = started(&mut harness, 20, 128);
        assert_eq!(rest, (1..8).map(|n| (n, 1000)).collect::<Vec<_>>(), "{reuse:?}");
        harness.run_to_end(128).unwrap();
        assert_eq!(harness.prefilled, 1000 + 8 * 10, "{reuse:?}");
    }
}

#[test]
fn equal_prompts_that_arrive_at_once_are_read_once_but_for_their_last_token() {
    for reuse in [PrefixReuse::Partial, PrefixReuse::WholeSequence] {
        let mut harness = Harness::new(SchedulerConfig { reuse, ..config() });
        for n in 0..4 {
            harness.submit(n, "ann", &text(1, 100), 0, 1);
        }
        harness.run_to_end(64).unwrap();
        assert_eq!(harness.prefilled, 99 + 4, "{reuse:?}");
    }
}

#[test]
fn without_reuse_everything_is_read_and_nothing_kept() {
    let mut harness = Harness::new(SchedulerConfig { reuse: PrefixReuse::None, ..config() });
    for n in 0..4 {
        harness.submit(n, "ann", &prompt(100, n as i32 + 1, 10), 0, 3);
    }
    harness.run_to_end(128).unwrap();
    assert_eq!(harness.prefilled, 4 * 110);
    assert_eq!(harness.scheduler.stats().cached_cells, 0);
}

#[test]
fn followers_go_on_when_their_leader_is_cancelled() {
    for reuse in [PrefixReuse::Partial, PrefixReuse::WholeSequence] {
        let mut harness = Harness::new(SchedulerConfig { reuse, ..config() });
        for n in 0..4 {
            harness.submit(n, "ann", &prompt(1000, n as i32 + 1, 10), 0, 1);
        }
        harness.step(400, &[]).unwrap();
        harness.step(400, &[0]).unwrap();
        // The cancelled one's tokens are not lost, and again one goes ahead of the others.
        assert_eq!(started(&mut harness, 1, 100), [(1, 800)], "{reuse:?}");
        assert_eq!(harness.scheduler.stats().following, 2);
        harness.run_to_end(400).unwrap();
        assert_eq!(harness.prefilled, 1000 + 3 * 10, "{reuse:?}");
    }
}

#[test]
fn a_prefix_not_worth_waiting_for_is_not_waited_for() {
    let mut harness = Harness::new(config());
    harness.submit(0, "ann", &prompt(15, 1, 100), 0, 1);
    harness.submit(1, "ann", &prompt(15, 2, 100), 0, 1);
    assert_eq!(started(&mut harness, 1, 64), [(0, 0), (1, 0)]);
}

#[test]
fn the_next_turn_of_a_conversation_goes_on_in_the_same_slot() {
    let mut harness = Harness::new(config());
    let first = text(1, 200);
    harness.submit(0, "ann", &first, 0, 1);
    harness.run_to_end(512).unwrap();
    harness.submit(1, "ann", &[first, text(2, 20)].concat(), 0, 1);
    let step = harness.step(512, &[]).unwrap();
    assert_eq!((step.ops, step.started, step.prefill_tokens), (vec![], vec![(SequenceId(1), 200)], 19));
}

#[test]
fn an_identical_request_reads_only_its_last_token() {
    let mut harness = Harness::new(config());
    harness.submit(0, "ann", &text(1, 200), 0, 1);
    harness.run_to_end(512).unwrap();
    harness.submit(1, "ann", &text(1, 200), 0, 1);
    let step = harness.step(512, &[]).unwrap();
    assert_eq!((step.started, step.prefill_tokens), (vec![(SequenceId(1), 199)], 1));
}

#[test]
fn a_running_sequence_shares_what_it_generates() {
    let mut harness = Harness::new(config());
    harness.submit(0, "ann", &text(1, 50), 0, 500);
    harness.step(512, &[]).unwrap();
    while harness.scheduler.tokens(SequenceId(0)).is_some_and(|tokens| tokens.len() < 60) {
        harness.step(512, &[]).unwrap();
    }
    let tokens = harness.scheduler.tokens(SequenceId(0)).unwrap();
    harness.submit(1, "bob", &[&tokens[..55], &text(2, 5)].concat(), 0, 1);
    let used = harness.scheduler.stats().used_cells;
    assert_eq!(started(&mut harness, 1, 512), [(1, 55)]);
    // Five of its own, and one for the token that the first one decoded.
    assert_eq!(harness.scheduler.stats().used_cells + harness.scheduler.stats().cached_cells, used + 6);
}

#[test]
fn short_prompts_pass_long_ones_which_still_get_half() {
    let mut harness = Harness::new(config());
    harness.submit(0, "ann", &text(1, 1000), 0, 1);
    harness.submit(1, "bob", &text(2, 1000), 0, 1);
    harness.submit(2, "cleo", &text(3, 30), 0, 1);
    let step = harness.step(64, &[]).unwrap();
    let mut read: Vec<(Token, usize)> = Vec::new();
    for token in &step.batch {
        let kind = token.token / 1000 - 1;
        match read.last_mut() {
            Some((last, count)) if *last == kind => *count += 1,
            _ => read.push((kind, 1)),
        }
    }
    read.sort_unstable();
    assert_eq!(read, [(1, 34), (3, 30)]);
    assert_eq!(harness.live(), [0, 1], "the short one has its token in the first step");
}

#[test]
fn a_follower_lends_its_age_to_its_leader() {
    let mut harness = Harness::new(SchedulerConfig { cells: 8192, ..config() });
    // 1 is in front of 2 by age, but follows 0's prefix only as long as 0 is there.
    harness.submit(0, "ann", &prompt(500, 1, 10), 0, 1);
    harness.submit(1, "ann", &prompt(500, 2, 10), 0, 1);
    harness.submit(2, "ann", &text(3, 400), 0, 1);
    let step = harness.step(100, &[]).unwrap();
    assert_eq!(step.batch.iter().filter(|token| token.token < 2000).count(), 50);
}

#[test]
fn users_are_admitted_in_turn() {
    let mut harness = Harness::new(SchedulerConfig { max_running: 1, ..config() });
    for n in 0..3 {
        harness.submit(n, "ann", &text(n as i32, 10), 0, 1);
    }
    harness.submit(10, "bob", &text(10, 10), 0, 1);
    harness.submit(11, "bob", &text(11, 10), 0, 1);
    let order: Vec<u64> = started(&mut harness, 10, 64).into_iter().map(|(id, _)| id).collect();
    assert_eq!(order, [0, 10, 1, 11, 2]);
}

#[test]
fn what_is_resumed_after_a_crash_goes_first() {
    let mut harness = Harness::new(SchedulerConfig { max_running: 1, ..config() });
    harness.submit(0, "ann", &text(0, 40), 0, 1);
    harness.submit(1, "bob", &text(1, 30), 10, 11);
    assert_eq!(started(&mut harness, 1, 64), [(1, 0)]);
    // Of a resumed one only the prompt's tokens count as cached prompt tokens.
    harness.submit(2, "bob", &text(1, 35), 15, 16);
    assert_eq!(started(&mut harness, 1, 64), [(2, 20)]);
}

#[test]
fn the_last_admitted_of_the_busiest_user_is_preempted_and_ends_none_the_worse() {
    let mut harness = Harness::new(SchedulerConfig { max_running: 3, cells: 256, context: 256, ..config() });
    for (id, user) in [(0, "ann"), (1, "ann"), (2, "bob")] {
        harness.submit(id, user, &talkative(id as i32, 60, 50), 0, 50);
        harness.step(256, &[]).unwrap();
    }
    harness.submit(3, "bob", &text(3, 2), 0, 1);
    while harness.scheduler.stats().preemptions == 0 {
        harness.step(256, &[]).unwrap();
    }
    let stats = harness.scheduler.stats();
    assert_eq!((stats.waiting, stats.running), (2, 2));
    let computes: Vec<u64> =
        harness.step(256, &[]).unwrap().batch.iter().filter_map(|token| Some(token.sample_for?.0)).collect();
    assert_eq!(computes, [0, 2], "the second of ann's had to go, though bob's came later");
    while started(&mut harness, 1, 256).is_empty() {}
    let phase = harness.scheduler.sequences.get(&SequenceId(1)).map(|sequence| sequence.phase);
    assert_ne!(phase, Some(Phase::Waiting), "the preempted one is not overtaken by a new one");
    harness.run_to_end(256).unwrap();
    assert!(harness.scheduler.stats().preemptions < 4, "no ping-pong");
}

#[test]
fn the_oldest_is_not_preempted_even_where_its_user_is_the_busiest() {
    let mut harness = Harness::new(SchedulerConfig { cells: 340, context: 340, headroom: 0, ..config() });
    harness.submit(0, "ann", &talkative(0, 100, 60), 0, 60);
    harness.submit(1, "bob", &talkative(1, 100, 60), 0, 60);
    harness.run_until(200, |harness| harness.prefilled == 200);
    // Cleo's is read so slowly that it is still not read when the cells run out, and ann's waits for it.
    harness.submit(2, "cleo", &prompt(90, 2, 10), 0, 1);
    harness.submit(3, "ann", &prompt(90, 3, 10), 0, 1);
    harness.run_until(1, |harness| harness.scheduler.stats().preemptions > 0);
    assert_eq!(harness.scheduler.stats().following, 1);
    // The harness checks in every step that it is not 0 that has to go.
    harness.run_to_end(10).unwrap();
}

#[test]
fn whom_the_oldest_follows_is_not_preempted_either() {
    let mut harness =
        Harness::new(SchedulerConfig { cells: 208, context: 208, headroom: 0, share_min: 4, ..config() });
    let prompts = [
        ("ann", talkative(0, 20, 50), 50),
        ("ann", text(1, 100), 1),
        ("dave", talkative(2, 20, 180), 180),
        ("cleo", [text(1, 100), text(3, 10)].concat(), 1),
    ];
    for (id, (user, tokens, max_tokens)) in (0..).zip(prompts) {
        harness.submit(id, user, &tokens, 0, max_tokens);
        harness.step(20, &[]).unwrap();
        if id == 0 {
            // The last token of the only prompt.
            harness.step(20, &[]).unwrap();
        }
    }
    // 1 reads, 3 follows it; 1 is preempted, 3 reads; 0 ends, and 1 comes back, now the oldest, following 3.
    harness.run_until(1, |harness| harness.scheduler.stats().preemptions == 1);
    let follows = Phase::Following { leader: SequenceId(3), shared: 99 };
    harness.run_until(1, |harness| {
        let oldest = harness.scheduler.admitted.values().next();
        oldest == Some(&SequenceId(1)) && harness.scheduler.sequences[&SequenceId(1)].phase == follows
    });
    // Now nothing is read, until 2 needs more cells than there are.
    harness.run_until(0, |harness| harness.scheduler.stats().preemptions == 2);
    assert_eq!(harness.scheduler.sequences[&SequenceId(1)].phase, follows);
    harness.run_to_end(10).unwrap();
}

/// A prompt of `len` tokens that the toy model continues with at least `more`.
pub fn talkative(kind: i32, len: usize, more: u32) -> Vec<Token> {
    (0..).map(|n| text(10 * n + kind, len)).find(|tokens| generates(tokens, more)).unwrap()
}

fn generates(tokens: &[Token], more: u32) -> bool {
    reference(tokens, 0, more, 4096).len() == tokens.len() + more as usize
}

#[test]
fn eviction_takes_the_least_recently_used_tail_first() {
    let mut harness = Harness::new(SchedulerConfig { cells: 1000, context: 800, ..config() });
    for n in 1..4 {
        harness.submit(n, "ann", &text(n as i32, 300), 0, 1);
        harness.run_to_end(512).unwrap();
    }
    // The first is used again, so the second is now the oldest; 300 more cells are needed, 100 are free.
    harness.submit(4, "ann", &[text(1, 300), text(9, 1)].concat(), 0, 1);
    harness.run_to_end(512).unwrap();
    harness.submit(5, "ann", &text(5, 300), 0, 1);
    harness.run_to_end(512).unwrap();
    let cached = |kind| {
        let mut harness = harness.clone();
        harness.submit(6, "ann", &text(kind, 301), 0, 1);
        started(&mut harness, 1, 512)[0].1
    };
    assert_eq!(cached(1), 300);
    assert_eq!(cached(3), 300);
    // For 299 tokens, and then for the last, which takes 64 cells at once.
    assert_eq!(cached(2), 36, "cut, not dropped");
}

#[test]
fn the_cache_is_kept_within_its_limit() {
    let mut harness = Harness::new(SchedulerConfig { cache_cells: 250, ..config() });
    for n in 1..4 {
        harness.submit(n, "ann", &text(n as i32, 100), 0, 1);
    }
    harness.run_to_end(512).unwrap();
    assert_eq!(harness.scheduler.stats().cached_cells, 250);
}

#[test]
fn admission_leaves_room_for_what_has_been_admitted() {
    let mut harness = Harness::new(SchedulerConfig { cells: 1000, context: 1000, ..config() });
    harness.submit(0, "ann", &text(1, 600), 0, 1);
    harness.submit(1, "ann", &text(2, 600), 0, 1);
    harness.submit(2, "bob", &text(3, 10), 0, 1);
    harness.step(10, &[]).unwrap();
    // Bob's would fit, and takes its turn before ann's second; that one would not fit.
    let stats = harness.scheduler.stats();
    assert_eq!((stats.running, stats.waiting), (2, 1));
    harness.run_to_end(100).unwrap();
    assert_eq!(harness.scheduler.stats().preemptions, 0);
}

#[test]
fn admission_counts_cached_cells_that_it_would_pin() {
    let mut harness = Harness::new(SchedulerConfig { cells: 1000, context: 1000, ..config() });
    harness.submit(0, "ann", &text(1, 600), 0, 1);
    harness.run_to_end(600).unwrap();
    harness.submit(1, "ann", &text(2, 400), 0, 1);
    harness.submit(2, "ann", &text(1, 610), 0, 1);
    harness.step(10, &[]).unwrap();
    // It would read 10 tokens only, but the 600 that it takes over could no longer be evicted.
    assert_eq!(harness.scheduler.stats().waiting, 1);
    harness.run_to_end(100).unwrap();
    assert_eq!(harness.scheduler.stats().preemptions, 0);
}

#[test]
fn of_equal_sources_one_in_use_is_preferred() {
    let mut harness = Harness::new(config());
    // Too short to be waited for: both read it.
    harness.submit(0, "ann", &prompt(10, 1, 300), 0, 1);
    harness.submit(1, "ann", &prompt(10, 2, 10), 0, 1);
    harness.step(100, &[]).unwrap();
    harness.submit(2, "ann", &prompt(10, 3, 300), 0, 1);
    harness.step(100, &[]).unwrap();
    let stats = harness.scheduler.stats();
    assert_eq!((stats.running, stats.cached_cells), (2, 20), "what the finished one read may be evicted");
}

#[test]
fn a_sequence_ends_where_the_context_does() {
    let mut harness = Harness::new(SchedulerConfig { cells: 64, context: 64, ..config() });
    harness.submit(0, "ann", &talkative(1, 60, 20), 0, 20);
    harness.run_to_end(64).unwrap();
    assert_eq!(harness.prefilled, 60);
    assert_eq!(harness.steps, 6, "one more token is sampled than there are positions to decode");
}

#[test]
fn bad_configurations_are_refused() {
    let new = |change: fn(&mut SchedulerConfig)| {
        let mut config = config();
        change(&mut config);
        Scheduler::new(config).err()
    };
    assert_eq!(new(|_| ()), None);
    assert_eq!(new(|config| config.max_running = 0), Some(ConfigError::Zero));
    assert_eq!(new(|config| config.context = 0), Some(ConfigError::Zero));
    assert_eq!(
        new(|config| config.max_running = 17),
        Some(ConfigError::TooFewSlots { max_running: 17, slots: 16 })
    );
    assert_eq!(
        new(|config| config.cells = 2047),
        Some(ConfigError::TooFewCells { context: 2048, cells: 2047 })
    );
}

#[test]
fn bad_arrivals_are_refused() {
    let mut scheduler = Scheduler::new(config()).unwrap();
    let mut submit = |len: usize, generated| {
        let user = "ann".to_owned();
        scheduler.submit(Arrival {
            id: SequenceId(1),
            user,
            tenant: 0,
            common: 0,
            tokens: text(1, len),
            generated,
            score: false,
        })
    };
    assert_eq!(submit(0, 0), Err(SubmitError::Empty));
    assert_eq!(submit(2049, 0), Err(SubmitError::TooLong { len: 2049, context: 2048 }));
    assert_eq!(submit(3, 4), Err(SubmitError::Generated { generated: 4, len: 3 }));
    assert_eq!(submit(2048, 0), Ok(()));
    assert_eq!(submit(5, 0), Err(SubmitError::Duplicate(SequenceId(1))));
    assert!(scheduler.cancel(SequenceId(1)));
    assert!(!scheduler.cancel(SequenceId(1)));
    assert!(!scheduler.has_work());
    assert_eq!(scheduler.plan(10), Step::default());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Clients that arrive at any time while the prefix is read, with any tails: it is read once, but for the
    /// few tokens that are not worth waiting for.
    #[test]
    fn a_shared_prefix_is_read_once_whenever_its_users_arrive(
        mut arrivals in prop::collection::vec((0..12usize, 1..20usize), 1..8),
        budget in 8..200usize,
    ) {
        let mut harness = Harness::new(config());
        arrivals.sort_unstable();
        for (id, &(at, own)) in arrivals.iter().enumerate() {
            while harness.steps < at {
                harness.step(budget, &[])?;
            }
            harness.submit(id as u64, "ann", &prompt(600, id as i32 + 1, own), 0, 1);
        }
        harness.run_to_end(budget)?;
        let least = 600 + arrivals.iter().map(|(_, own)| own).sum::<usize>();
        let not_worth_waiting = config().share_min as usize - 1;
        prop_assert!(harness.prefilled >= least);
        prop_assert!(harness.prefilled <= least + not_worth_waiting * (arrivals.len() - 1));
    }
}

#[test]
fn what_is_evicted_comes_back_from_host_memory() {
    let config = SchedulerConfig { cache_cells: 0, archive_tokens: 1000, ..config() };
    let mut harness = Harness::new(config);
    let prompt: Vec<Token> = (0..40).map(|n| n % 3).collect();
    harness.submit(1, "a", &prompt, 0, 1);
    harness.run_to_end(64).unwrap();
    let stats = harness.scheduler.stats();
    assert_eq!((stats.cached_cells, stats.archived_tokens), (0, 40));
    harness.submit(2, "a", &prompt, 0, 1);
    let step = harness.step(64, &[]).unwrap();
    // All but the last token, which is decoded for its logits.
    assert_eq!(step.started, [(SequenceId(2), 39)]);
    assert_eq!(step.prefill_tokens, 1);
}

#[test]
fn a_preempted_sequence_is_put_back_rather_than_read_again() {
    let config = SchedulerConfig {
        cells: 64,
        context: 64,
        slots: 2,
        max_running: 2,
        headroom: 0,
        cache_cells: 0,
        archive_tokens: 1000,
        ..config()
    };
    // Prompts that the toy model continues for 30 tokens, so that both together outgrow the cells.
    let long = |kind: i32| {
        let mut prompts = (0..).map(|n| text(100 * kind + n, 28));
        prompts.find(|prompt| reference(prompt, 0, 30, 64).len() == 58).unwrap()
    };
    let mut harness = Harness::new(config);
    harness.submit(1, "a", &long(1), 0, 30);
    harness.submit(2, "b", &long(2), 0, 30);
    harness.run_to_end(64).unwrap();
    assert!(harness.scheduler.stats().preemptions > 0);
    // Both prompts, and the one token that is decoded for its logits whenever one came back.
    assert!(harness.prefilled < 56 + 10, "{} tokens read", harness.prefilled);
}

#[test]
fn a_prompt_that_is_scored_is_read_whole_and_in_small_steps() {
    let mut harness = Harness::new(config());
    harness.scores = true;
    harness.submit(1, "ann", &text(1, 100), 0, 1);
    harness.run_to_end(64).unwrap();
    // Its number has the logits of its prompt wanted; the harness sees that each is given.
    harness.submit(3, "ann", &text(1, 100), 0, 1);
    let step = harness.step(64, &[]).unwrap();
    assert_eq!((step.started, step.prefill_tokens), (vec![(SequenceId(3), 0)], 24));
    harness.run_to_end(64).unwrap();
    assert_eq!(harness.prefilled, 200);
}

#[test]
fn what_comes_from_a_file_is_begun_from() {
    let config = SchedulerConfig { archive_tokens: 100, ..config() };
    let mut harness = Harness::new(config);
    harness.tenants = true;
    let prompt = text(1, 60);
    assert!(harness.adopt("ann", &prompt[..50]).unwrap());
    assert!(!harness.adopt("ann", &prompt[..40]).unwrap(), "it is there");
    assert!(!harness.adopt("ann", &text(2, 101)).unwrap(), "there is no room");
    harness.submit(1, "bob", &prompt, 0, 1);
    harness.submit(2, "ann", &prompt, 0, 1);
    assert_eq!(started(&mut harness, 1, 512), [(1, 0), (2, 50)]);
    harness.run_to_end(512).unwrap();
}

#[test]
fn what_leaves_host_memory_is_spilled() {
    let config = SchedulerConfig { cache_cells: 0, archive_tokens: 100, ..config() };
    let mut harness = Harness::new(config);
    for n in 1..4 {
        harness.submit(n, "ann", &text(n as i32, 50), 0, 1);
        harness.run_to_end(512).unwrap();
    }
    // The next step has the operations; the harness checks the tokens.
    harness.submit(9, "ann", &text(9, 10), 0, 1);
    let ops = harness.step(512, &[]).unwrap().ops;
    assert!(ops.iter().any(|op| matches!(op, KvOp::Spill { .. })), "{ops:?}");
    let kept: Vec<usize> = harness.scheduler.contents().iter().map(|(.., tokens)| tokens.len()).collect();
    assert_eq!(kept, [50, 50]);
}
