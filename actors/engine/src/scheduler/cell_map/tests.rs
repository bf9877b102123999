use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const CELLS: u32 = 24;
const SLOTS: u16 = 4;

#[derive(Clone, Debug)]
enum Action {
    Append(u16, u32),
    Share(u16, u16, u32),
    Truncate(u16, u32),
    Pin(u16, bool),
}

fn action() -> impl Strategy<Value = Action> {
    let slot = 0..SLOTS;
    prop_oneof![
        (slot.clone(), 0..8u32).prop_map(|(slot, count)| Action::Append(slot, count)),
        (slot.clone(), slot.clone(), 0..16u32).prop_map(|(from, to, len)| Action::Share(from, to, len)),
        (slot.clone(), 0..12u32).prop_map(|(slot, len)| Action::Truncate(slot, len)),
        (slot, any::<bool>()).prop_map(|(slot, pinned)| Action::Pin(slot, pinned)),
    ]
}

/// Cells as sets of slots, counted from scratch each time.
#[derive(Default)]
struct Naive {
    /// Each slot's cells by position, and whether it is pinned; a cell is known by a number never used twice.
    slots: Vec<(Vec<u64>, bool)>,
    next: u64,
}

impl Naive {
    fn cells(&self, wanted: impl Fn(&(Vec<u64>, bool)) -> bool) -> BTreeSet<u64> {
        self.slots.iter().filter(|slot| wanted(slot)).flat_map(|(cells, _)| cells.iter().copied()).collect()
    }

    fn held(&self) -> u32 {
        self.cells(|_| true).len() as u32
    }

    fn pinned(&self) -> BTreeSet<u64> {
        self.cells(|(_, pinned)| *pinned)
    }
}

proptest! {
    #[test]
    fn counts_equal_sets_of_slots(actions in prop::collection::vec(action(), 1..80)) {
        let mut map = CellMap::new(CELLS, SLOTS);
        let mut naive = Naive { slots: vec![(Vec::new(), false); usize::from(SLOTS)], next: 0 };
        for action in actions {
            match action {
                Action::Append(slot, count) => {
                    let fits = naive.held() + count <= CELLS;
                    prop_assert_eq!(map.append(Slot(slot), count), fits);
                    if fits {
                        let first = naive.next;
                        naive.next += u64::from(count);
                        naive.slots[usize::from(slot)].0.extend(first..naive.next);
                    }
                }
                Action::Share(from, to, len) => {
                    if from != to && naive.slots[usize::from(to)].0.is_empty() {
                        map.share(Slot(from), Slot(to), len);
                        naive.slots[usize::from(to)].0 =
                            naive.slots[usize::from(from)].0.iter().take(len as usize).copied().collect();
                    }
                }
                Action::Truncate(slot, len) => {
                    map.truncate(Slot(slot), len);
                    naive.slots[usize::from(slot)].0.truncate(len as usize);
                }
                Action::Pin(slot, pinned) => {
                    map.set_pinned(Slot(slot), pinned);
                    naive.slots[usize::from(slot)].1 = pinned;
                }
            }
            let pinned = naive.pinned();
            prop_assert_eq!(map.free(), CELLS - naive.held());
            prop_assert_eq!(map.pinned(), pinned.len() as u32);
            prop_assert_eq!(map.evictable(), naive.held() - pinned.len() as u32);
            prop_assert_eq!(map.available(), CELLS - pinned.len() as u32);
            for slot in (0..SLOTS).map(Slot) {
                let (cells, is_pinned) = &naive.slots[slot.index()];
                prop_assert_eq!(map.len(slot), cells.len() as u32);
                let unpinned = cells.iter().take(3).filter(|cell| !pinned.contains(cell)).count() as u32;
                prop_assert_eq!(map.unpinned_in(slot, 3), unpinned);
                let mut without = naive.slots.clone();
                without[slot.index()].1 = false;
                let still = Naive { slots: without, next: 0 }.pinned();
                prop_assert_eq!(map.only_pinned_by(slot), (pinned.len() - still.len()) as u32);
                let _ = is_pinned;
                for want in 1..4 {
                    let len = map.length_that_frees(slot, want);
                    let freed = |len: u32| {
                        let mut cut = naive.slots.clone();
                        cut[slot.index()].0.truncate(len as usize);
                        naive.held() - Naive { slots: cut, next: 0 }.held()
                    };
                    prop_assert!(freed(len) >= want || len == 0);
                    if len < map.len(slot) && freed(len) >= want {
                        prop_assert!(freed(len + 1) < want, "cut deeper than needed");
                    }
                }
            }
        }
        for slot in (0..SLOTS).map(Slot) {
            map.truncate(slot, 0);
        }
        prop_assert_eq!(map.free(), CELLS);
    }
}
