//! The choice between the unified KV cache and lanes, by a model of what attention costs.
//!
//! In the unified cache a sequence's row of attention looks at every cell in use, and skips those of others; that look is cheap,
//! but there are many of them. In a lane it looks at as many cells as the longest sequence there has. Cells that several sequences
//! share are fetched from memory once in the unified cache, and once for each of them in lanes. So the unified cache is better for
//! sequences that share much, lanes for those that share little. What both have in common, the work on a sequence's own cells,
//! is left out.
//!
//! The unit is the look at a cell of another sequence. Measured on two cores with a model of 135 M weights (`llama-batched-bench`,
//! 8 sequences of 1024 tokens): 0.45 us a look, and 2.8 us for a cell to be fetched.

/// Looks that a cell costs to be fetched from memory.
const FETCH: u64 = 6;

/// Looks that copying a cell into a lane costs, spread over the steps that it is expected to serve: about 20 looks and 32 steps.
const MOVE: (u64, u64) = (20, 32);

/// The part of the cost of reading all weights once that a move has to save in each step.
const LEAST_SAVING: u64 = 64;

/// A sequence that decodes in the unified cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its cells.
    pub len: u32,
    /// Those of them that no other running sequence shares.
    pub own: u32,
    /// `true` if it may go to a lane: it fits, with room to grow.
    pub may_move: bool,
}

impl Member {
    /// Returns `true` if it shares less than half of its cells.
    fn is_loner(self) -> bool {
        self.own > self.len / 2
    }
}

/// The sequences that decode now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// The cells of those in lanes.
    pub lanes: Vec<u32>,
    /// Those in the unified cache.
    pub members: Vec<Member>,
    /// Distinct cells of those in the unified cache.
    pub distinct: u32,
    /// All cells of the unified cache in use, those of prefixes that are kept for later and of prompts that are read, too.
    pub used: u32,
    /// `true` if prompts are read meanwhile, in the unified cache.
    pub reads: bool,
    /// The number of cells as large as the weights: each batch reads both.
    pub weights: u32,
    /// `true` if all that may move do, whatever it costs.
    pub always_lanes: bool,
}

/// The sequences to be moved to lanes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moving {
    /// None.
    None,
    /// Those that share less than half of their cells.
    Loners,
    /// All that may.
    All,
}

impl Moving {
    /// Returns `true` if this one moves.
    #[must_use]
    pub fn includes(self, member: Member) -> bool {
        member.may_move
            && match self {
                Self::None => false,
                Self::Loners => member.is_loner(),
                Self::All => true,
            }
    }
}

/// Chooses the sequences that move. A sequence that runs alone never does: the same request is to be computed the same way again.
#[must_use]
pub fn choose(running: &Running) -> Moving {
    if running.members.len() + running.lanes.len() < 2 {
        return Moving::None;
    }
    if running.always_lanes {
        return Moving::All;
    }
    let stay = cost(running, Moving::None);
    let least_saving = FETCH * u64::from(running.weights) / LEAST_SAVING;
    let options = [Moving::All, Moving::Loners].map(|moving| (cost(running, moving), moving));
    // Of equal costs, the first.
    match options.into_iter().min_by_key(|(cost, _)| *cost) {
        Some((cost, moving)) if cost + least_saving < stay => moving,
        _ => Moving::None,
    }
}

/// The cost of a step after that move, and of the move, in looks.
fn cost(running: &Running, moving: Moving) -> u64 {
    let (moved, stayed): (Vec<Member>, Vec<Member>) =
        running.members.iter().partition(|member| moving.includes(**member));
    let left: u64 = moved.iter().map(|member| u64::from(member.own)).sum();
    let in_lanes = || running.lanes.iter().copied().chain(moved.iter().map(|member| member.len));
    let longest = u64::from(in_lanes().max().unwrap_or(0));
    let sum: u64 = in_lanes().map(u64::from).sum();
    let looks = in_lanes().count() as u64 * longest + FETCH * sum;
    let copies = MOVE.0 * moved.iter().map(|member| u64::from(member.len)).sum::<u64>() / MOVE.1;
    // Sequences in both places are computed in two batches, and so are prompts beside lanes.
    let has_second = in_lanes().next().is_some() && (running.reads || !stayed.is_empty());
    let second = if has_second { FETCH * u64::from(running.weights) } else { 0 };
    if stayed.is_empty() {
        return looks + copies + second;
    }
    let used = u64::from(running.used).saturating_sub(left);
    let unified = stayed.len() as u64 * used + FETCH * u64::from(running.distinct).saturating_sub(left);
    looks + copies + unified + second
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// 135 M weights of 4 bits, and 23 kB a cell.
    const WEIGHTS: u32 = 4000;

    /// `count` sequences of `shared` tokens that all have and `own` more.
    fn group(count: usize, shared: u32, own: u32) -> Running {
        let member = Member { len: shared + own, own, may_move: true };
        let distinct = shared + count as u32 * own;
        let members = vec![member; count];
        Running {
            lanes: Vec::new(),
            members,
            distinct,
            used: distinct,
            reads: false,
            weights: WEIGHTS,
            always_lanes: false,
        }
    }

    fn member() -> impl Strategy<Value = Member> {
        (1u32..3000, 0u32..3000, any::<bool>()).prop_map(|(len, own, may_move)| Member {
            len,
            own: own.min(len),
            may_move,
        })
    }

    fn running() -> impl Strategy<Value = Running> {
        let members = prop::collection::vec(member(), 0..20);
        (
            members,
            prop::collection::vec(1u32..3000, 0..8),
            0u32..5000,
            0u32..5000,
            0u32..100_000,
            any::<bool>(),
        )
            .prop_map(|(members, lanes, shared, others, weights, reads)| {
                let distinct = shared + members.iter().map(|member| member.own).sum::<u32>();
                Running {
                    lanes,
                    members,
                    distinct,
                    used: distinct + others,
                    reads,
                    weights,
                    always_lanes: false,
                }
            })
    }

    /// The better raw layout at each size, as measured.
    #[test]
    fn chooses_the_layout_that_was_measured_to_be_faster() {
        for (count, own) in [(8, 192), (16, 192), (4, 1056), (8, 1056), (16, 512)] {
            assert_eq!(choose(&group(count, 0, own)), Moving::All, "{count} of {own}");
        }
        for count in [2, 4, 8, 16] {
            assert_eq!(choose(&group(count, 1024, 32)), Moving::None, "{count} that share");
        }
    }

    #[test]
    fn half_of_many_that_share_stay() {
        let mut mixed = group(16, 1024, 32);
        mixed.members.extend(group(16, 0, 1056).members);
        mixed.distinct += 16 * 1056;
        mixed.used = mixed.distinct;
        assert_eq!(choose(&mixed), Moving::Loners);
    }

    #[test]
    fn one_alone_stays_whatever_lies_beside_it() {
        let alone = Running { used: 100_000, ..group(1, 0, 100) };
        assert_eq!(choose(&alone), Moving::None);
        assert_eq!(choose(&Running { always_lanes: true, ..alone }), Moving::None);
    }

    #[test]
    fn a_small_gain_waits_for_the_end_of_a_prompt() {
        assert_eq!(choose(&group(4, 0, 400)), Moving::All);
        assert_eq!(choose(&Running { reads: true, ..group(4, 0, 400) }), Moving::None);
        assert_eq!(choose(&Running { reads: true, ..group(16, 0, 1000) }), Moving::All);
    }

    #[test]
    fn all_move_where_that_is_set() {
        assert_eq!(choose(&group(2, 1000, 1)), Moving::None);
        assert_eq!(choose(&Running { always_lanes: true, ..group(2, 1000, 1) }), Moving::All);
    }

    proptest! {
        /// A move is never to a dearer place.
        #[test]
        fn moves_only_to_a_cheaper_place(running in running()) {
            let moving = choose(&running);
            if moving != Moving::None {
                prop_assert!(cost(&running, moving) < cost(&running, Moving::None));
                prop_assert!(running.members.iter().any(|member| moving.includes(*member)));
            }
        }

        /// More cells that are of no use to any of them never turn a move down.
        #[test]
        fn clutter_never_keeps_them(running in running(), clutter in 0u32..10_000) {
            let cluttered = Running { used: running.used + clutter, ..running.clone() };
            if choose(&running) != Moving::None {
                prop_assert!(choose(&cluttered) != Moving::None);
            }
        }

        /// Those that share all of their cells stay, where nothing else lies beside them.
        #[test]
        fn those_that_share_all_stay(count in 2usize..30, len in 1u32..3000) {
            prop_assert_eq!(choose(&group(count, len, 0)), Moving::None);
        }

        /// Whoever must not move does not.
        #[test]
        fn those_that_must_stay_stay(mut running in running()) {
            running.members.iter_mut().for_each(|member| member.may_move = false);
            prop_assert_eq!(choose(&running), Moving::None);
        }
    }
}
