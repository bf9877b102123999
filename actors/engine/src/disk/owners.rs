//! The owners behind the numbers by which the scheduler tells tenants apart. Pure.

use std::collections::{HashMap, VecDeque};

use crate::types::Owner;

/// Maximum number of owners; the earliest are forgotten first, and with them what they have in memory is not written.
const MAX_OWNERS: usize = 16_384;

/// Owners by number.
#[derive(Debug, Default)]
pub struct Owners {
    owners: HashMap<u64, Owner>,
    order: VecDeque<u64>,
}

impl Owners {
    /// Notes the owner of a number. A caller chooses how many it has (`prompt_cache_key`).
    pub fn note(&mut self, number: u64, owner: &Owner) {
        if self.owners.contains_key(&number) {
            return;
        }
        if self.order.len() >= MAX_OWNERS
            && let Some(oldest) = self.order.pop_front()
        {
            self.owners.remove(&oldest);
        }
        self.owners.insert(number, owner.clone());
        self.order.push_back(number);
    }

    /// The owner of a number.
    pub fn of(&self, number: u64) -> Option<&Owner> {
        self.owners.get(&number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_bounded() {
        let mut owners = Owners::default();
        let owner = |n: usize| Owner { tenant: n.to_string().into(), cache_key: "".into() };
        for n in 0..MAX_OWNERS + 1 {
            owners.note(n as u64, &owner(n));
            owners.note(n as u64, &owner(0));
        }
        assert_eq!(owners.owners.len(), MAX_OWNERS);
        assert_eq!(owners.of(0), None);
        assert_eq!(owners.of(1), Some(&owner(1)));
    }
}
