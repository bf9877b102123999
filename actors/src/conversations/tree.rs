//! The shape of a conversation: every item has the item that it answers as its parent, and a branch is the path from an item back
//! to the beginning. Pure; a child's number is always greater than its parent's, so there are no cycles.

use std::collections::HashMap;

/// The position of an item, and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// The order of arrival, across branches.
    pub number: u32,
    /// The parent; `None`: the item is at the beginning.
    pub parent: Option<u32>,
    /// The item's id.
    pub id: String,
    /// Time of its addition (epoch seconds).
    pub created_at: u64,
    /// True if its contents are deleted; its children keep their places.
    pub deleted: bool,
    /// True if its text is not complete yet.
    pub pending: bool,
}

/// A branch: the path from its head back to the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The number of its last item.
    pub head: u32,
    /// The number of the last item that it shares with another branch; `None`: it shares none.
    pub fork: Option<u32>,
    /// Number of its items.
    pub items: usize,
}

/// The nodes of one conversation.
#[derive(Debug)]
pub struct Tree<'a> {
    nodes: &'a [Node],
    at: HashMap<u32, usize>,
}

impl<'a> Tree<'a> {
    /// Returns the tree over all nodes of a conversation.
    #[must_use]
    pub fn new(nodes: &'a [Node]) -> Self {
        let at = nodes.iter().enumerate().map(|(index, node)| (node.number, index)).collect();
        Self { nodes, at }
    }

    /// Returns one node.
    #[must_use]
    pub fn node(&self, number: u32) -> Option<&'a Node> {
        self.at.get(&number).map(|&index| &self.nodes[index])
    }

    /// Returns the path from `head` back to the beginning without deleted items.
    pub fn back_from(&self, head: Option<u32>) -> impl Iterator<Item = &'a Node> {
        self.all_back_from(head).filter(|node| !node.deleted)
    }

    /// Returns the path from `head` back to the beginning with deleted items.
    fn all_back_from(&self, head: Option<u32>) -> impl Iterator<Item = &'a Node> {
        let mut next = head;
        std::iter::from_fn(move || {
            let node = self.node(next?)?;
            // A damaged parent link must not become a cycle.
            next = node.parent.filter(|&parent| parent < node.number);
            Some(node)
        })
    }

    /// Returns the path from the beginning to `head` without deleted items.
    #[must_use]
    pub fn path(&self, head: Option<u32>) -> Vec<&'a Node> {
        let mut path: Vec<_> = self.back_from(head).collect();
        path.reverse();
        path
    }

    /// Returns the item that a node answers: the nearest one before it that is not deleted.
    #[must_use]
    pub fn parent(&self, node: &Node) -> Option<&'a Node> {
        self.back_from(node.parent).next()
    }

    /// Returns the branches, ordered by the number of their heads. A branch whose own items are all deleted is left out.
    #[must_use]
    pub fn branches(&self) -> Vec<Branch> {
        // Number of items that answer one.
        let mut children: HashMap<u32, usize> = HashMap::new();
        let live: Vec<_> = self.nodes.iter().filter(|node| !node.deleted).collect();
        let parents: HashMap<u32, Option<u32>> =
            live.iter().map(|node| (node.number, self.parent(node).map(|parent| parent.number))).collect();
        for parent in parents.values().flatten() {
            *children.entry(*parent).or_default() += 1;
        }
        let is_end = |node: &&&Node| !children.contains_key(&node.number);
        let branch = |end: &&Node| {
            let path: Vec<_> = self.back_from(Some(end.number)).collect();
            let fork = path.iter().skip(1).find(|node| children.get(&node.number).is_some_and(|&n| n > 1));
            Branch { head: end.number, fork: fork.map(|node| node.number), items: path.len() }
        };
        live.iter().filter(is_end).map(branch).collect()
    }
}

#[cfg(test)]
#[path = "tree_tests.rs"]
mod tests;
