//! The shape of a conversation: every item hangs on the one it answers, and a branch is the way from an item back to
//! the beginning. Pure; a child's number is always greater than its parent's, so there are no circles.

use std::collections::HashMap;

/// Where an item hangs, and how it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// In the order they came in, across branches.
    pub number: u32,
    /// What it hangs on; `None`: the beginning.
    pub parent: Option<u32>,
    /// Its id.
    pub id: String,
    /// When it was added (epoch seconds).
    pub created_at: u64,
    /// Its contents are gone; what hangs on it stays where it is.
    pub deleted: bool,
    /// Its text is still to come.
    pub pending: bool,
}

/// A branch: what leads from its head back to the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Branch {
    /// The number of its last item.
    pub head: u32,
    /// The number of the last item that it shares with another branch; `None`: nothing.
    pub fork: Option<u32>,
    /// How many items it has.
    pub items: usize,
}

/// The nodes of one conversation.
#[derive(Debug)]
pub struct Tree<'a> {
    nodes: &'a [Node],
    at: HashMap<u32, usize>,
}

impl<'a> Tree<'a> {
    /// Over all nodes of a conversation.
    #[must_use]
    pub fn new(nodes: &'a [Node]) -> Self {
        let at = nodes.iter().enumerate().map(|(index, node)| (node.number, index)).collect();
        Self { nodes, at }
    }

    /// One node.
    #[must_use]
    pub fn node(&self, number: u32) -> Option<&'a Node> {
        self.at.get(&number).map(|&index| &self.nodes[index])
    }

    /// From `head` back to the beginning, deleted ones left out.
    pub fn back_from(&self, head: Option<u32>) -> impl Iterator<Item = &'a Node> {
        self.all_back_from(head).filter(|node| !node.deleted)
    }

    /// The same, deleted ones included.
    fn all_back_from(&self, head: Option<u32>) -> impl Iterator<Item = &'a Node> {
        let mut next = head;
        std::iter::from_fn(move || {
            let node = self.node(next?)?;
            // A damaged link upwards must not become a circle.
            next = node.parent.filter(|&parent| parent < node.number);
            Some(node)
        })
    }

    /// From the beginning to `head`, deleted ones left out.
    #[must_use]
    pub fn path(&self, head: Option<u32>) -> Vec<&'a Node> {
        let mut path: Vec<_> = self.back_from(head).collect();
        path.reverse();
        path
    }

    /// What an item answers: the nearest one before it that was not deleted.
    #[must_use]
    pub fn parent(&self, node: &Node) -> Option<&'a Node> {
        self.back_from(node.parent).next()
    }

    /// The branches by the number of their heads. A branch whose own items are all deleted is none.
    #[must_use]
    pub fn branches(&self) -> Vec<Branch> {
        // How many items answer one.
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
