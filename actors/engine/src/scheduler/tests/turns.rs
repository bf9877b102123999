//! Preemption of one user's sequence for another user.

use super::cases::{config, started, talkative, text};
use super::harness::Harness;
use crate::scheduler::*;

/// Ann has all places, or all cells; bob comes and is served at once, regardless of Ann's waiting sequences.
#[test]
fn one_users_sequences_do_not_keep_another_out() {
    for in_order in [false, true] {
        for (cells, len) in [(4096, 20), (600, 60)] {
            let mut harness = Harness::new(SchedulerConfig { cells, context: 256, in_order, ..config() });
            for id in 0..30 {
                harness.submit(id, "ann", &talkative(id as i32, len, 100), 0, 100);
            }
            for _ in 0..40 {
                harness.step(256, &[]).unwrap();
            }
            let before = harness.scheduler.stats();
            assert!(before.running > 2 && before.waiting > 10, "{before:?}");
            for id in 100..104 {
                harness.submit(id, "bob", &text(id as i32, 40), 0, 5);
            }
            harness.submit(200, "cleo", &text(200, 40), 0, 5);
            let mut begun: Vec<u64> = started(&mut harness, 12, 256).into_iter().map(|(id, _)| id).collect();
            begun.retain(|id| *id >= 100);
            assert!(
                begun.contains(&100) && begun.contains(&200),
                "{begun:?} {:?}",
                harness.scheduler.stats()
            );
            harness.run_to_end(256).unwrap();
        }
    }
}

#[test]
fn nobody_loses_their_only_sequence_to_a_new_user() {
    let mut harness = Harness::new(SchedulerConfig { max_running: 3, ..config() });
    for (id, user) in [(0, "ann"), (1, "bob"), (2, "cleo")] {
        harness.submit(id, user, &talkative(id as i32, 60, 50), 0, 50);
    }
    harness.step(256, &[]).unwrap();
    harness.submit(3, "dave", &text(3, 2), 0, 1);
    assert_eq!(started(&mut harness, 20, 256), []);
    assert_eq!(harness.scheduler.stats().preemptions, 0);
    harness.run_to_end(256).unwrap();
}

/// A tenant's computations are not shared with another, while they are read and afterwards, except for the common beginning.
#[test]
fn tenants_share_only_what_anybody_may() {
    for reuse in [PrefixReuse::Partial, PrefixReuse::WholeSequence] {
        let mut scheduler =
            Scheduler::new(SchedulerConfig { reuse, archive_tokens: 1000, ..config() }).unwrap();
        let mut cached = Vec::new();
        let submit = |scheduler: &mut Scheduler, id: u64, tenant: u64| {
            let (user, tokens) = (tenant.to_string(), text(1, 100));
            let arrival =
                Arrival { id: SequenceId(id), user, tenant, common: 20, tokens, generated: 0, score: false };
            scheduler.submit(arrival).unwrap();
        };
        submit(&mut scheduler, 0, 1);
        submit(&mut scheduler, 1, 2);
        for round in 0..40 {
            let step = scheduler.plan(16);
            cached.extend(step.started.iter().map(|(id, cached)| (id.0, *cached)));
            let sampled: Vec<_> = step.batch.iter().filter_map(|token| token.sample_for).collect();
            scheduler.commit(sampled.into_iter().map(|id| (id, Outcome::Finished)));
            if round == 20 {
                submit(&mut scheduler, 2, 3);
                submit(&mut scheduler, 3, 1);
            }
        }
        cached.sort_unstable();
        assert_eq!((cached[0], cached.len()), ((0, 0), 4));
        match reuse {
            PrefixReuse::Partial => assert_eq!(cached[1..], [(1, 20), (2, 20), (3, 99)]),
            // A simultaneous arrival waits for the part that all tenants may share.
            _ => assert!(cached.iter().all(|(_, cached)| *cached <= 20), "{cached:?}"),
        }
    }
}
