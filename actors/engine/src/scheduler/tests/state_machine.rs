//! Any interleaving of arrivals, cancels and steps, in contexts small enough that sequences are preempted
//! often: every output equals the reference, and no cell is lost.

use proptest::prelude::*;
use proptest_state_machine::{ReferenceStateMachine, StateMachineTest, prop_state_machine};

use super::harness::Harness;
use crate::scheduler::*;

#[derive(Clone, Debug)]
pub enum Transition {
    Submit {
        user: u8,
        tokens: Vec<Token>,
        generated: u32,
        max_tokens: u32,
    },
    /// The n-th (modulo their number) of the live sequences.
    Cancel(usize),
    /// `cancel` as above, between plan and commit.
    Step {
        budget: usize,
        cancel: Option<usize>,
    },
    Steps {
        count: usize,
        budget: usize,
    },
    DropCached,
    /// Sequences leave the lanes; as soon as they have, there are others of so many cells.
    ChangeLanes(u32),
    /// A copy comes from a file.
    Adopt {
        user: u8,
        tokens: Vec<Token>,
    },
}

#[derive(Clone, Debug)]
pub struct Setup {
    config: SchedulerConfig,
    /// Cells of each lane; 0: there are none.
    lane_cells: u32,
}

fn config() -> impl Strategy<Value = SchedulerConfig> {
    let reuse = prop_oneof![3 => Just(PrefixReuse::Partial), 2 => Just(PrefixReuse::WholeSequence), 1 => Just(PrefixReuse::None)];
    let sizes = (4..40u32).prop_flat_map(|context| (Just(context), context..context * 3));
    let caches = (prop_oneof![Just(u32::MAX), 0..40u32], prop_oneof![Just(0), 1..200u32]);
    let caches = (caches, any::<bool>(), 0..40u32, any::<bool>());
    (1..7u16, 0..4u16, sizes, 0..5u32, reuse, 0..5u32, caches).prop_map(
        |(
            max_running,
            more,
            (context, cells),
            headroom,
            reuse,
            share_min,
            (caches, in_order, weights, always_lanes),
        )| {
            let (cache_cells, archive_tokens) = caches;
            SchedulerConfig {
                slots: max_running + more,
                max_running,
                cells,
                context,
                cache_cells,
                archive_tokens,
                spill: true,
                headroom,
                reuse,
                share_min,
                score_chunk: 5,
                in_order,
                weights,
                always_lanes,
            }
        },
    )
}

/// Few different beginnings, so that prefixes are shared often, and repetitive ones among them.
fn tokens(context: u32) -> impl Strategy<Value = Vec<Token>> {
    let most = context as usize;
    let tail = prop::collection::vec(0..2, 1..6);
    let shared = (0..3, 0..most).prop_map(|(kind, len)| -> Vec<Token> {
        (0..len as i32).map(|position| if kind == 2 { position % 2 } else { kind }).collect()
    });
    (shared, tail).prop_map(move |(mut shared, tail)| {
        shared.extend(tail);
        shared.truncate(most);
        shared
    })
}

impl ReferenceStateMachine for Setup {
    type State = Setup;
    type Transition = Transition;

    fn init_state() -> BoxedStrategy<Self::State> {
        (config(), prop_oneof![Just(0), 2..50u32])
            .prop_map(|(config, lane_cells)| Setup { config, lane_cells })
            .boxed()
    }

    fn transitions(state: &Self::State) -> BoxedStrategy<Self::Transition> {
        let context = state.config.context;
        let budget = || prop_oneof![Just(0usize), 1..6usize, Just(64usize)];
        prop_oneof![
            6 => (0..3u8, tokens(context), 0..4u32, 0..context).prop_map(
                |(user, tokens, generated, more)| {
                    let generated = if generated == 3 { (tokens.len() as u32).min(3) } else { 0 };
                    // A sequence that has all its tokens is not resubmitted.
                    Transition::Submit { user, tokens, generated, max_tokens: generated + 1 + more }
                }
            ),
            1 => any::<usize>().prop_map(Transition::Cancel),
            6 => (budget(), prop::option::weighted(0.1, any::<usize>()))
                .prop_map(|(budget, cancel)| Transition::Step { budget, cancel }),
            3 => (2..20usize, 1..9usize).prop_map(|(count, budget)| Transition::Steps { count, budget }),
            1 => Just(Transition::DropCached),
            1 => (2..50u32).prop_map(Transition::ChangeLanes),
            2 => (0..3u8, tokens(context)).prop_map(|(user, tokens)| Transition::Adopt { user, tokens }),
        ]
        .boxed()
    }

    fn apply(state: Self::State, _: &Self::Transition) -> Self::State {
        state
    }

    /// Shrinking may shrink the context under sequences made for a longer one.
    fn preconditions(state: &Self::State, transition: &Self::Transition) -> bool {
        match transition {
            Transition::Submit { tokens, .. } | Transition::Adopt { tokens, .. } => {
                tokens.len() <= state.config.context as usize
            }
            _ => true,
        }
    }
}

pub struct Machine {
    harness: Harness,
    next_id: u64,
}

impl Machine {
    fn pick(&self, nth: usize) -> Option<u64> {
        let live = self.harness.live();
        (!live.is_empty()).then(|| live[nth % live.len()])
    }
}

/// `prop_state_machine!` knows failure only as a panic.
fn pass<T>(result: Result<T, TestCaseError>) -> T {
    result.unwrap_or_else(|error| panic!("{error}"))
}

impl StateMachineTest for Machine {
    type SystemUnderTest = Machine;
    type Reference = Setup;

    fn init_test(state: &Setup) -> Machine {
        let lanes = if state.lane_cells == 0 { 0 } else { state.config.max_running };
        let mut harness = Harness::with_lanes(state.config.clone(), lanes, state.lane_cells);
        harness.forces = true;
        harness.holds = state.config.context.is_multiple_of(2);
        harness.drafts = state.config.context as usize % 8;
        harness.scores = true;
        harness.tenants = state.config.cells.is_multiple_of(2);
        Machine { harness, next_id: 0 }
    }

    fn apply(mut machine: Machine, _: &Setup, transition: Transition) -> Machine {
        match transition {
            Transition::Submit { user, tokens, generated, max_tokens } => {
                machine.harness.submit(machine.next_id, &user.to_string(), &tokens, generated, max_tokens);
                machine.next_id += 1;
            }
            Transition::Cancel(nth) => {
                if let Some(id) = machine.pick(nth) {
                    machine.harness.cancel(id);
                }
            }
            Transition::Step { budget, cancel } => {
                let cancel: Vec<u64> = cancel.and_then(|nth| machine.pick(nth)).into_iter().collect();
                pass(machine.harness.step(budget, &cancel));
            }
            Transition::Steps { count, budget } => {
                for _ in 0..count {
                    pass(machine.harness.step(budget, &[]));
                }
            }
            Transition::DropCached => machine.harness.scheduler.drop_cached(),
            Transition::ChangeLanes(cells) => machine.harness.change_lanes(cells),
            Transition::Adopt { user, tokens } => {
                pass(machine.harness.adopt(&user.to_string(), &tokens));
            }
        }
        machine
    }

    fn teardown(mut machine: Machine, _: Setup) {
        pass(machine.harness.run_to_end(3));
        pass(machine.harness.check_nothing_leaks());
    }
}

prop_state_machine! {
    #![proptest_config(ProptestConfig { cases: 16 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn outputs_equal_the_reference_and_nothing_is_lost(sequential 1..60 => Machine);
}
