//! The number of tokens that a sequence may have, and of KV cells.

/// The smallest context that is taken by itself, if the model was trained for as much.
const LEAST: u32 = 8192;

/// The part of the free memory that the KV cells of all workers take by themselves: a quarter.
const PART: u64 = 4;

/// The facts that a context's size follows from.
#[derive(Clone, Copy, Debug)]
pub struct Facts {
    /// The context that the model was trained for.
    pub trained: u32,
    /// The configured context; 0: as much as the model was trained for and memory allows.
    pub context_length: u32,
    /// The configured number of KV cells; 0: twice the context.
    pub kv_cells: u32,
    /// Keys and values of one token.
    pub bytes_per_cell: u64,
    /// Free memory once the weights are in it; `None`: unknown.
    pub available: Option<u64>,
    /// Workers of this server, which share the memory.
    pub workers: u32,
}

/// Returns the context of one sequence and the number of KV cells. A context that is not configured is a power of two or the
/// trained one, so that replicas that start beside each other come to the same.
#[must_use]
pub fn of(facts: Facts) -> (u32, u32) {
    let trained = facts.trained.max(1);
    let context = match facts.context_length {
        0 if facts.kv_cells > 0 => trained.min(facts.kv_cells.max(LEAST)),
        0 => within_memory(trained, &facts),
        configured => configured.min(trained),
    };
    let cells = if facts.kv_cells == 0 { context.saturating_mul(2) } else { facts.kv_cells };
    // llama.cpp pads to 256 itself; doing it here keeps both counts the same.
    (context, cells.max(context).next_multiple_of(256))
}

/// Returns the largest context whose cells, two a token, fit in this worker's part of the memory.
fn within_memory(trained: u32, facts: &Facts) -> u32 {
    let least = trained.min(LEAST);
    let Some(available) = facts.available else { return least };
    let cells = available / PART / u64::from(facts.workers.max(1)) / facts.bytes_per_cell.max(1);
    let fitting = u32::try_from(cells / 2).unwrap_or(u32::MAX);
    if fitting >= trained {
        return trained;
    }
    // The largest power of two up to there.
    let power = fitting.checked_ilog2().map_or(0, |exponent| 1 << exponent);
    least.max(power)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn facts(trained: u32, available: Option<u64>) -> Facts {
        Facts { trained, context_length: 0, kv_cells: 0, bytes_per_cell: 131_072, available, workers: 1 }
    }

    #[test]
    fn the_trained_context_is_taken_where_there_is_room() {
        const GIB: u64 = 1 << 30;
        // 128 KiB a cell, as of a model with eight billion weights.
        assert_eq!(of(facts(131_072, Some(256 * GIB))), (131_072, 262_144));
        assert_eq!(of(facts(131_072, Some(64 * GIB))).0, 65_536);
        assert_eq!(of(facts(131_072, Some(16 * GIB))).0, 16_384);
        assert_eq!(of(facts(131_072, Some(4 * GIB))).0, 8192);
        assert_eq!(of(facts(131_072, Some(0))).0, 8192);
        assert_eq!(of(facts(131_072, None)).0, 8192);
        assert_eq!(of(facts(4096, None)), (4096, 8192));
        assert_eq!(of(Facts { workers: 4, ..facts(131_072, Some(64 * GIB)) }).0, 16_384);
        assert_eq!(of(Facts { context_length: 2048, ..facts(131_072, Some(256 * GIB)) }), (2048, 4096));
        assert_eq!(of(Facts { kv_cells: 20_000, ..facts(131_072, Some(256 * GIB)) }), (20_000, 20_224));
        assert_eq!(of(Facts { kv_cells: 100, ..facts(131_072, Some(256 * GIB)) }), (8192, 8192));
    }

    proptest! {
        #[test]
        fn a_context_by_itself_is_between_the_least_and_the_trained_one(
            trained in 0u32..2_000_000,
            bytes_per_cell in 0u64..1 << 22,
            available in prop::option::of(0u64..1 << 45),
            more in 0u64..1 << 45,
            workers in 0u32..64,
        ) {
            let facts = Facts { trained, context_length: 0, kv_cells: 0, bytes_per_cell, available, workers };
            let (context, cells) = of(facts);
            let least = trained.clamp(1, LEAST);
            prop_assert!(context >= least && context <= trained.max(1));
            prop_assert!(cells >= context && cells.is_multiple_of(256));
            // What goes beyond the least has its room.
            let Some(available) = available else {
                prop_assert_eq!(context, least);
                return Ok(());
            };
            if context > least {
                let needed = u64::from(context) * 2 * bytes_per_cell * u64::from(workers.max(1));
                prop_assert!(needed <= available / PART);
            }
            let more = Facts { available: Some(available.saturating_add(more)), ..facts };
            prop_assert!(of(more).0 >= context);
        }

        #[test]
        fn what_is_configured_holds(
            trained in 1u32..2_000_000,
            context_length in 1u32..2_000_000,
            kv_cells in 0u32..4_000_000,
            available in prop::option::of(0u64..1 << 45),
        ) {
            let facts = Facts { trained, context_length, kv_cells, bytes_per_cell: 1024, available, workers: 1 };
            let (context, cells) = of(facts);
            prop_assert_eq!(context, context_length.min(trained));
            let wanted = if kv_cells == 0 { context * 2 } else { kv_cells };
            prop_assert_eq!(cells, wanted.max(context).next_multiple_of(256));
        }
    }
}
