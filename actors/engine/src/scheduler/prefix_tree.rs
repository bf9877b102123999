//! The prefix tree: which slots hold which beginnings of token sequences.
//!
//! A radix tree over runs of tokens. A node's run is held by every slot in its `slots`; a child's slots are
//! always a true subset of its parent's (where they would be equal the two nodes are one), so that the tree
//! never has more than two nodes a slot, however long the sequences are. A lookup walks from the root and
//! costs one comparison a token; a decode step appends to a leaf and costs nothing to speak of.

use std::collections::BTreeMap;

use jan_protocol::types::Token;

use super::cell_map::Slot;

/// A token in the form in which prefixes are compared: above its number the tenant that it may be shared within. Tokens that all
/// tenants may share have tenant 0.
pub type Key = u128;

/// The key of a token.
#[must_use]
pub fn key(tenant: u64, token: Token) -> Key {
    Key::from(tenant) << 32 | Key::from(token.cast_unsigned())
}

/// The token of a key.
#[must_use]
pub fn token(key: Key) -> Token {
    // The low 32 bits.
    (key as u32).cast_signed()
}

/// The tenant of a key.
#[must_use]
pub fn tenant(key: Key) -> u64 {
    // A token has 32 bits, a tenant 64.
    (key >> 32) as u64
}

type NodeId = usize;

/// The root has an empty run; every slot is in it, also one that holds nothing.
const ROOT: NodeId = 0;

#[derive(Clone, Debug, Default)]
struct Node {
    parent: NodeId,
    run: Vec<Key>,
    /// Slots that hold the whole path down to this node's end, in no order. Not kept for the root.
    slots: Vec<Slot>,
    /// The children by the first token of their run.
    children: BTreeMap<Key, NodeId>,
}

/// A prefix found in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// Tokens of the prefix.
    pub len: u32,
    /// The slots that hold it, at least one, in no order.
    pub slots: &'a [Slot],
}

/// The token sequences of all slots, by prefix.
#[derive(Clone, Debug)]
pub struct PrefixTree {
    nodes: Vec<Node>,
    unused: Vec<NodeId>,
    /// The end of each slot's sequence: always at the end of a node, and its number of tokens.
    ends: Vec<(NodeId, usize)>,
}

/// Returns the number of tokens that `a` and `b` have in common from their start.
pub fn common_prefix(a: &[Key], b: &[Key]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

impl PrefixTree {
    /// A tree for slots 0 to `slots`, all empty.
    pub fn new(slots: u16) -> Self {
        Self { nodes: vec![Node::default()], unused: Vec::new(), ends: vec![(ROOT, 0); usize::from(slots)] }
    }

    /// Tokens that `slot` holds.
    pub fn len(&self, slot: Slot) -> u32 {
        self.ends[slot.index()].1 as u32
    }

    /// The longest prefix of `tokens` that any slot holds, as a part or as the whole of its sequence.
    pub fn longest(&self, tokens: &[Key]) -> Option<Found<'_>> {
        let mut found = None;
        let mut len = 0;
        let mut node = &self.nodes[ROOT];
        while let Some(&child) = tokens.get(len).and_then(|token| node.children.get(token)) {
            node = &self.nodes[child];
            let common = common_prefix(&node.run, &tokens[len..]);
            len += common;
            found = Some(Found { len: len as u32, slots: &node.slots });
            if common < node.run.len() {
                break;
            }
        }
        found
    }

    /// The slot with the longest sequence, and its length, among those whose *whole* sequence is not empty
    /// and a proper prefix of `tokens` (shorter than it).
    pub fn longest_whole(&self, tokens: &[Key]) -> Option<(Slot, u32)> {
        let mut found = None;
        let mut len = 0;
        let mut node = &self.nodes[ROOT];
        while let Some(&child) = tokens.get(len).and_then(|token| node.children.get(token)) {
            node = &self.nodes[child];
            len += node.run.len();
            if len >= tokens.len() || tokens[len - node.run.len()..len] != node.run {
                break;
            }
            let ending = node.slots.iter().find(|slot| self.ends[slot.index()].0 == child);
            found = ending.map(|&slot| (slot, len as u32)).or(found);
        }
        found
    }

    /// Returns the tokens that `slot` holds.
    pub fn tokens(&self, slot: Slot) -> Vec<Key> {
        let (mut node, len) = self.ends[slot.index()];
        let mut runs = Vec::new();
        while node != ROOT {
            runs.push(node);
            node = self.nodes[node].parent;
        }
        let mut tokens = Vec::with_capacity(len);
        for node in runs.into_iter().rev() {
            tokens.extend_from_slice(&self.nodes[node].run);
        }
        tokens
    }

    /// Appends `tokens` to those of `slot`.
    pub fn extend(&mut self, slot: Slot, mut tokens: &[Key]) {
        while let Some(first) = tokens.first() {
            let (node, len) = self.ends[slot.index()];
            if node != ROOT && self.nodes[node].slots.len() == 1 {
                // The slot is alone here and ends here: no other slot can be below.
                self.nodes[node].run.extend_from_slice(tokens);
                self.ends[slot.index()].1 = len + tokens.len();
                return;
            }
            let Some(&child) = self.nodes[node].children.get(first) else {
                let leaf =
                    Node { parent: node, run: tokens.to_vec(), slots: vec![slot], children: BTreeMap::new() };
                let leaf_id = self.insert(leaf);
                self.nodes[node].children.insert(*first, leaf_id);
                self.ends[slot.index()] = (leaf_id, len + tokens.len());
                return;
            };
            let common = common_prefix(&self.nodes[child].run, tokens);
            let joined = if common < self.nodes[child].run.len() { self.split(child, common) } else { child };
            self.nodes[joined].slots.push(slot);
            self.ends[slot.index()] = (joined, len + common);
            self.merge_with_only_child(node);
            tokens = &tokens[common..];
        }
    }

    /// Cuts `slot` to its first `len` tokens; 0 removes it.
    pub fn truncate(&mut self, slot: Slot, len: u32) {
        let len = len as usize;
        loop {
            let (node, end) = self.ends[slot.index()];
            if end <= len {
                return;
            }
            let start = end - self.nodes[node].run.len();
            if start >= len {
                self.ends[slot.index()] = (self.nodes[node].parent, start);
                self.leave(node, slot);
            } else if self.nodes[node].slots.len() == 1 {
                self.nodes[node].run.truncate(len - start);
                self.ends[slot.index()].1 = len;
            } else {
                let head = self.split(node, len - start);
                self.ends[slot.index()] = (head, len);
                self.leave(node, slot);
            }
        }
    }

    /// Puts a node that ends after `at` tokens of `node`'s run between it and its parent. `node` keeps its
    /// id, the rest of its run, its children and the slots that end in it.
    fn split(&mut self, node: NodeId, at: usize) -> NodeId {
        let rest = self.nodes[node].run.split_off(at);
        let run = std::mem::replace(&mut self.nodes[node].run, rest);
        let (first, rest_first) = (run[0], self.nodes[node].run[0]);
        let parent = self.nodes[node].parent;
        let slots = self.nodes[node].slots.clone();
        let head = self.insert(Node { parent, run, slots, children: BTreeMap::from([(rest_first, node)]) });
        self.nodes[parent].children.insert(first, head);
        self.nodes[node].parent = head;
        head
    }

    /// Takes `slot`, which has no more tokens from `node` on, out of `node`.
    fn leave(&mut self, node: NodeId, slot: Slot) {
        self.nodes[node].slots.retain(|&other| other != slot);
        if self.nodes[node].slots.is_empty() {
            let Node { parent, run, .. } = std::mem::take(&mut self.nodes[node]);
            self.nodes[parent].children.remove(&run[0]);
            self.unused.push(node);
        } else {
            self.merge_with_only_child(node);
        }
    }

    /// Keeps the rule that a child has fewer slots than its parent.
    fn merge_with_only_child(&mut self, node: NodeId) {
        if node == ROOT || self.nodes[node].children.len() != 1 {
            return;
        }
        let Some((_, &child)) = self.nodes[node].children.first_key_value() else { return };
        if self.nodes[child].slots.len() != self.nodes[node].slots.len() {
            return;
        }
        let Node { run, slots, children, .. } = std::mem::take(&mut self.nodes[child]);
        self.unused.push(child);
        for &grandchild in children.values() {
            self.nodes[grandchild].parent = node;
        }
        for slot in &slots {
            let end = &mut self.ends[slot.index()].0;
            if *end == child {
                *end = node;
            }
        }
        self.nodes[node].run.extend(run);
        self.nodes[node].children = children;
    }

    fn insert(&mut self, node: Node) -> NodeId {
        match self.unused.pop() {
            Some(id) => {
                self.nodes[id] = node;
                id
            }
            None => {
                self.nodes.push(node);
                self.nodes.len() - 1
            }
        }
    }
}

#[cfg(test)]
mod tests;
