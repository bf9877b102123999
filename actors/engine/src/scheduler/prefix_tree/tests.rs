use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const SLOTS: u16 = 6;

#[derive(Clone, Debug)]
enum Action {
    Extend(u16, Vec<Key>),
    /// Follows another slot's content, as a copy does.
    Imitate(u16, u16, usize),
    Truncate(u16, u32),
}

/// Two tokens only, and long equal runs, so that paths meet, split and join often.
fn tokens(most: usize) -> impl Strategy<Value = Vec<Key>> {
    prop_oneof![
        prop::collection::vec(0u128..2, 0..most),
        (0u128..2, 0..most).prop_map(|(token, len)| vec![token; len]),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        3 => (0..SLOTS, tokens(6)).prop_map(|(slot, tokens)| Action::Extend(slot, tokens)),
        1 => (0..SLOTS, 0..SLOTS, 0..12usize).prop_map(|(slot, like, len)| Action::Imitate(slot, like, len)),
        2 => (0..SLOTS, 0..12u32).prop_map(|(slot, len)| Action::Truncate(slot, len)),
    ]
}

fn check(tree: &PrefixTree, naive: &[Vec<Key>], query: &[Key]) -> Result<(), TestCaseError> {
    let common: Vec<usize> = naive.iter().map(|tokens| common_prefix(tokens, query)).collect();
    let longest = common.iter().copied().max().unwrap_or(0);
    let holders = |len| (0..SLOTS).map(Slot).filter(move |slot| common[slot.index()] >= len);
    match tree.longest(query) {
        None => prop_assert_eq!(longest, 0),
        Some(found) => {
            prop_assert_eq!(found.len as usize, longest);
            let slots: BTreeSet<Slot> = found.slots.iter().copied().collect();
            prop_assert_eq!(slots.len(), found.slots.len(), "a slot twice");
            prop_assert_eq!(slots, holders(longest).collect::<BTreeSet<_>>());
        }
    }
    let whole = naive.iter().filter(|tokens| tokens.len() < query.len() && query.starts_with(tokens));
    let longest_whole = whole.map(Vec::len).max().unwrap_or(0);
    match tree.longest_whole(query) {
        None => prop_assert_eq!(longest_whole, 0),
        Some((slot, len)) => {
            prop_assert_eq!(len as usize, longest_whole);
            prop_assert_eq!(&naive[slot.index()], &query[..longest_whole]);
        }
    }
    Ok(())
}

/// The tree's own rules, and its size.
fn check_shape(tree: &PrefixTree) -> Result<(), TestCaseError> {
    let mut reached = 1;
    let mut pending = vec![ROOT];
    while let Some(id) = pending.pop() {
        let node = &tree.nodes[id];
        for (first, &child_id) in &node.children {
            let child = &tree.nodes[child_id];
            reached += 1;
            prop_assert_eq!(child.parent, id);
            prop_assert_eq!(child.run.first(), Some(first));
            prop_assert!(!child.slots.is_empty());
            if id != ROOT {
                prop_assert!(child.slots.len() < node.slots.len(), "parent and child should be one node");
                prop_assert!(child.slots.iter().all(|slot| node.slots.contains(slot)));
            }
            pending.push(child_id);
        }
    }
    prop_assert_eq!(reached + tree.unused.len(), tree.nodes.len(), "a lost node");
    prop_assert!(reached <= 1 + 2 * usize::from(SLOTS));
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn finds_what_a_comparison_with_every_slot_finds(
        actions in prop::collection::vec(action(), 1..60),
        queries in prop::collection::vec(tokens(20), 1..4),
    ) {
        let mut tree = PrefixTree::new(SLOTS);
        let mut naive = vec![Vec::new(); usize::from(SLOTS)];
        for action in actions {
            match action {
                Action::Extend(slot, tokens) => {
                    tree.extend(Slot(slot), &tokens);
                    naive[usize::from(slot)].extend(tokens);
                }
                Action::Imitate(slot, like, len) => {
                    let tokens: Vec<Key> = naive[usize::from(like)].iter().take(len).copied().collect();
                    tree.truncate(Slot(slot), 0);
                    tree.extend(Slot(slot), &tokens);
                    naive[usize::from(slot)] = tokens;
                }
                Action::Truncate(slot, len) => {
                    tree.truncate(Slot(slot), len);
                    naive[usize::from(slot)].truncate(len as usize);
                }
            }
            check_shape(&tree)?;
            for slot in (0..SLOTS).map(Slot) {
                prop_assert_eq!(tree.len(slot) as usize, naive[slot.index()].len());
                check(&tree, &naive, &naive[slot.index()])?;
            }
            for query in &queries {
                check(&tree, &naive, query)?;
            }
        }
        for slot in (0..SLOTS).map(Slot) {
            tree.truncate(slot, 0);
        }
        prop_assert_eq!(tree.nodes.len() - tree.unused.len(), 1, "only the root is left");
    }
}

proptest! {
    /// A key keeps its token, and tokens of different tenants have nothing in common.
    #[test]
    fn keys_are_there_and_back(tenants in any::<[u64; 2]>(), number: Token) {
        let keys = tenants.map(|tenant| key(tenant, number));
        prop_assert_eq!(keys.map(token), [number, number]);
        prop_assert_eq!(keys[0] == keys[1], tenants[0] == tenants[1]);
    }
}
