//! The lanes of the KV cache: what goes in and comes out.

use super::KvOp;
use super::cell_map::Slot;
use super::kv_cache::{KvCache, Place, Source};
use super::lanes::{Lane, Lanes, Seat};
use super::prefix_tree::Key;

impl KvCache {
    /// The lanes, if there are any.
    pub fn lanes(&self) -> Option<&Lanes> {
        self.lanes.as_ref()
    }

    /// From now on there are `count` lanes of `cells` cells each.
    pub fn open_lanes(&mut self, count: u16, cells: u32) {
        self.lanes = Some(Lanes::new(count, cells));
    }

    /// From now on there are no lanes. False, and nothing done, where one is busy.
    pub fn close_lanes(&mut self) -> bool {
        let is_idle = self.lanes.as_ref().is_none_or(|lanes| lanes.busy().next().is_none());
        if is_idle {
            self.lanes = None;
        }
        is_idle
    }

    /// Tokens of a lane.
    pub fn lane_len(&self, lane: Lane) -> u32 {
        self.lanes.as_ref().map_or(0, |lanes| lanes.len(lane))
    }

    /// Tokens computed in a seat.
    pub fn len(&self, seat: Seat) -> u32 {
        match seat {
            Seat::Slot(slot) => self.cells().len(slot),
            Seat::Lane(lane) => self.lane_len(lane),
        }
    }

    /// Appends computed tokens to those of a live seat, as [`append`](Self::append) does to a slot's.
    #[must_use]
    pub fn append_at(&mut self, seat: Seat, tokens: &[Key]) -> bool {
        match seat {
            Seat::Slot(slot) => self.append(slot, tokens),
            Seat::Lane(lane) => self.lanes.as_mut().is_some_and(|lanes| lanes.append(lane, tokens)),
        }
    }

    /// Ends the live use of a seat. A slot's tokens become cache; of a lane's a copy is kept, if it is large enough.
    pub fn leave(&mut self, seat: Seat) {
        let lane = match seat {
            Seat::Slot(slot) => return self.release(slot),
            Seat::Lane(lane) => lane,
        };
        let Some(lanes) = &mut self.lanes else { return };
        let tokens = lanes.tokens(lane);
        lanes.clear(lane);
        if let Some(shelf) = self.shelf_for(&tokens, None) {
            self.push(KvOp::Stow { lane, shelf });
        }
        self.push(KvOp::Vacate { lane });
    }

    /// Moves a live slot's tokens to a lane, where there is one in which they fit.
    pub fn enter(&mut self, slot: Slot) -> Option<Lane> {
        let tokens = self.tokens(slot);
        let lane = self.lanes.as_mut()?.enter(&tokens)?;
        self.push(KvOp::Enter { slot, lane });
        self.release(slot);
        // The lane's copy goes to host memory later; if there is no room, the cells are the only cache.
        if self.has_room_for_copy(tokens.len()) {
            self.drop_cached_slot(slot);
        }
        Some(lane)
    }

    /// Moves a lane's tokens back to the unified cache, for which there must be room. `None` where every slot is live.
    pub fn come_back(&mut self, lane: Lane) -> Option<Slot> {
        let tokens = self.lanes.as_ref()?.tokens(lane);
        let source = Source { place: Place::Lane(lane), len: tokens.len() as u32 };
        let slot = self.open(&tokens, Some(source))?;
        self.lanes.as_mut()?.clear(lane);
        self.push(KvOp::Vacate { lane });
        Some(slot)
    }

    /// Closes a gap between the busy lanes, if there has been one for some steps: returns the lane that was moved, and the one
    /// in which its tokens are now.
    pub fn close_gap(&mut self) -> Option<(Lane, Lane)> {
        let (from, to) = self.lanes.as_mut()?.close_gap()?;
        self.push(KvOp::Shift { from, to });
        Some((from, to))
    }
}
