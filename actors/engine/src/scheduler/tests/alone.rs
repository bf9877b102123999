//! A sequence that runs alone: the cells of its positions, and its last prompt token by itself.

use super::cases::{config, text};
use super::harness::Harness;
use crate::scheduler::*;

#[test]
fn the_last_token_of_a_lone_prompt_is_computed_alone() {
    let mut harness = Harness::new(config());
    harness.submit(0, "ann", &text(1, 200), 0, 1);
    assert_eq!(harness.step(512, &[]).unwrap().prefill_tokens, 199);
    // Also if others come meanwhile; they do not delay it.
    harness.submit(1, "bob", &text(2, 200), 0, 1);
    assert_eq!(harness.step(512, &[]).unwrap().prefill_tokens, 1);
    harness.submit(2, "ann", &text(3, 200), 0, 1);
    assert_eq!(harness.step(512, &[]).unwrap().prefill_tokens, 400);
}

#[test]
fn a_few_cached_cells_do_not_keep_attention_looking_at_many() {
    let run = |archive_tokens| {
        let config = SchedulerConfig { cache_cells: 40, archive_tokens, ..config() };
        let mut harness = Harness::new(config);
        for n in 0..8 {
            harness.submit(n, "ann", &text(n as i32 + 1, 100), 0, 1);
        }
        // All at once, so that their cells lie beside one another.
        harness.run_to_end(1000).unwrap();
        assert!(harness.scheduler.stats().cached_cells > 0);
        harness.submit(9, "ann", &text(20, 10), 0, 1);
        harness.run_to_end(256).unwrap();
        let cached = harness.scheduler.stats().cached_cells;
        harness.submit(10, "ann", &[text(8, 100), text(30, 1)].concat(), 0, 1);
        harness.run_to_end(256).unwrap();
        (cached, harness.prefilled)
    };
    // Only the next one's own stay. The others are put back for who begins with them, who then reads one token; without
    // room for copies they are left.
    assert_eq!(run(2000), (10, 811));
    let (cached, read) = run(0);
    assert!(cached > 10 && read > 811, "{cached} cells, {read} tokens");
}
