//! Copies of finished sequences' states in host memory, and how much of it they take.

use std::collections::HashMap;

use crate::llama::SavedState;
use crate::scheduler::Shelf;

/// The states by the shelf that the scheduler has put them on.
#[derive(Debug, Default)]
pub struct Shelves {
    states: HashMap<Shelf, SavedState>,
    bytes: u64,
}

impl Shelves {
    /// Puts a state on a shelf.
    pub fn insert(&mut self, shelf: Shelf, state: SavedState) {
        self.bytes += state.bytes();
        if let Some(before) = self.states.insert(shelf, state) {
            self.bytes -= before.bytes();
        }
    }

    /// The state on a shelf.
    pub fn get(&self, shelf: &Shelf) -> Option<&SavedState> {
        self.states.get(shelf)
    }

    /// Empties a shelf.
    pub fn remove(&mut self, shelf: &Shelf) -> Option<SavedState> {
        let state = self.states.remove(shelf)?;
        self.bytes -= state.bytes();
        Some(state)
    }

    /// Bytes of all states.
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_follows_what_is_there() {
        let mut shelves = Shelves::default();
        shelves.insert(Shelf(1), SavedState::of_len(100));
        shelves.insert(Shelf(2), SavedState::of_len(10));
        assert_eq!(shelves.bytes(), 110);
        shelves.insert(Shelf(1), SavedState::of_len(20));
        assert_eq!(shelves.bytes(), 30);
        assert!(shelves.remove(&Shelf(3)).is_none() && shelves.remove(&Shelf(1)).is_some());
        assert_eq!(shelves.bytes(), 10);
        assert!(shelves.get(&Shelf(1)).is_none() && shelves.get(&Shelf(2)).is_some());
    }
}
