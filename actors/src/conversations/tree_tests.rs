use proptest::prelude::*;

use super::*;

fn nodes(parents: &[(Option<u32>, bool)]) -> Vec<Node> {
    (0..)
        .zip(parents)
        .map(|(number, &(parent, deleted))| Node {
            number,
            parent,
            id: format!("msg_{number}"),
            created_at: 0,
            deleted,
            pending: false,
        })
        .collect()
}

fn numbers(path: &[&Node]) -> Vec<u32> {
    path.iter().map(|node| node.number).collect()
}

#[test]
fn edited_message_creates_a_branch() {
    // 0 user, 1 answer, 2 user, 3 answer; 4 is 2 edited, 5 its answer; 6 is 5 regenerated.
    let links = [None, Some(0), Some(1), Some(2), Some(1), Some(4), Some(4)].map(|parent| (parent, false));
    let nodes = nodes(&links);
    let tree = Tree::new(&nodes);
    assert_eq!(numbers(&tree.path(Some(3))), [0, 1, 2, 3]);
    assert_eq!(numbers(&tree.path(Some(6))), [0, 1, 4, 6]);
    assert_eq!(numbers(&tree.path(None)), [0u32; 0]);
    assert_eq!(
        tree.branches(),
        [
            Branch { head: 3, fork: Some(1), items: 4 },
            Branch { head: 5, fork: Some(4), items: 4 },
            Branch { head: 6, fork: Some(4), items: 4 },
        ]
    );
}

#[test]
fn deleted_items_are_skipped() {
    let nodes = nodes(&[(None, false), (Some(0), true), (Some(1), false), (Some(1), true)]);
    let tree = Tree::new(&nodes);
    assert_eq!(numbers(&tree.path(Some(2))), [0, 2]);
    assert_eq!(numbers(&tree.path(Some(3))), [0]);
    assert_eq!(tree.parent(&nodes[2]).map(|node| node.number), Some(0));
    assert_eq!(tree.branches(), [Branch { head: 2, fork: None, items: 2 }]);
}

proptest! {
    /// Compares with an implementation that examines every pair.
    #[test]
    fn paths_and_branches_match_the_naive_search(choices in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>(), 0..5u8), 0..40)) {
        let links: Vec<_> = choices.iter().enumerate().map(|(number, (index, root, deleted))| {
            let parent = (number > 0 && !root).then(|| u32::try_from(index.index(number)).unwrap());
            (parent, *deleted == 0)
        }).collect();
        let nodes = nodes(&links);
        let tree = Tree::new(&nodes);
        let is_before = |a: u32, b: u32| {
            let mut at = Some(b);
            while let Some(number) = at {
                if number == a { return true }
                at = links[number as usize].0;
            }
            false
        };
        let live: Vec<u32> = nodes.iter().filter(|node| !node.deleted).map(|node| node.number).collect();
        for node in &nodes {
            let expected: Vec<u32> = live.iter().copied().filter(|&other| is_before(other, node.number)).collect();
            prop_assert_eq!(numbers(&tree.path(Some(node.number))), expected);
        }
        let heads: Vec<u32> = tree.branches().iter().map(|branch| branch.head).collect();
        let expected: Vec<u32> =
            live.iter().copied().filter(|&a| !live.iter().any(|&b| a != b && is_before(a, b))).collect();
        prop_assert_eq!(heads, expected);
        // Every item lies on a branch.
        for number in live {
            prop_assert!(tree.branches().iter().any(|branch| is_before(number, branch.head)));
        }
    }

    #[test]
    fn damaged_links_terminate(links in proptest::collection::vec((proptest::option::of(0..20u32), any::<bool>()), 0..20)) {
        let nodes = nodes(&links);
        let tree = Tree::new(&nodes);
        for node in &nodes {
            prop_assert!(tree.path(Some(node.number)).len() <= nodes.len());
        }
    }
}
