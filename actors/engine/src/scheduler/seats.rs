//! The seats of running sequences: who decodes in a slot of the unified cache and who in a lane.

use super::lanes::{Lane, Seat};
use super::layout::{self, Member, Moving, Running};
use super::{Phase, PrefixReuse, Scheduler, SequenceId, Slot};

/// Steps between two looks at whether lanes pay, if no sequence has begun or ended meanwhile.
const LOOK: u32 = 16;

impl Scheduler {
    /// Returns `true` if sequences would be moved to lanes now if there were any. The same is true of lanes that were closed.
    pub fn would_use_lanes(&self) -> bool {
        self.may_have_lanes() && self.kv.lanes().is_none() && self.decoding_in_slots() > 1 && {
            layout::choose(&self.running_now()) != Moving::None
        }
    }

    /// Returns `true` if a sequence is in a lane.
    pub fn uses_lanes(&self) -> bool {
        self.kv.lanes().is_some_and(|lanes| lanes.busy().next().is_some())
    }

    /// Returns the number of sequences that decode in lanes or would.
    pub fn lanes_wanted(&self) -> usize {
        let busy = self.kv.lanes().map_or(0, |lanes| lanes.busy().count());
        let members = self.decoding_slots().into_iter().map(|(_, slot)| self.member(slot, true));
        busy + members.filter(|member| member.may_move).count()
    }

    /// Lets sequences leave their lanes as soon as there is room for them, so that other lanes can be opened.
    pub fn empty_lanes(&mut self) {
        self.empties_lanes = true;
    }

    /// Lets sequences decode in `count` lanes of `cells` cells each, where that is faster. Only for memory that can be cut, whose
    /// cells need not stay in order; otherwise nothing happens.
    pub fn open_lanes(&mut self, count: u16, cells: u32) {
        if self.may_have_lanes() {
            self.empties_lanes = false;
            self.kv.open_lanes(count, cells);
        }
    }

    /// Ends the use of lanes. False, and nothing done, where a sequence is in one.
    pub fn close_lanes(&mut self) -> bool {
        self.kv.close_lanes()
    }

    const fn may_have_lanes(&self) -> bool {
        matches!(self.config.reuse, PrefixReuse::Partial) && !self.config.in_order
    }

    /// Sequences whose next token takes a cell of the unified cache.
    pub(super) fn decoding_in_slots(&self) -> u32 {
        let phases = self.admitted.values().map(|id| self.sequences[id].phase);
        phases.filter(|phase| matches!(phase, Phase::Decoding(Seat::Slot(_)))).count() as u32
    }

    /// Moves sequences between slots and lanes.
    pub(super) fn choose_seats(&mut self) {
        if self.kv.lanes().is_none() {
            return;
        }
        self.leave_full_lanes();
        if self.empties_lanes {
            return self.leave_lanes();
        }
        let slots = self.decoding_slots();
        let has_changed = slots.len() != self.decoded_in_slots;
        self.layout_due = if has_changed { 0 } else { self.layout_due.saturating_sub(1) };
        if self.layout_due == 0 && !slots.is_empty() {
            self.layout_due = LOOK;
            let moving = layout::choose(&self.running_now());
            let moved = slots.into_iter().filter(|(_, slot)| moving.includes(self.member(*slot, true)));
            for (id, slot) in moved.collect::<Vec<_>>() {
                if let Some(lane) = self.kv.enter(slot) {
                    self.seat(id, Seat::Lane(lane));
                }
            }
        }
        self.decoded_in_slots = self.decoding_in_slots() as usize;
        if let Some((from, to)) = self.kv.close_gap() {
            let moved =
                self.admitted.values().copied().find(|id| self.seat_of(*id) == Some(Seat::Lane(from)));
            if let Some(id) = moved {
                self.seat(id, Seat::Lane(to));
            }
        }
    }

    /// Moves sequences whose lane is full back to the unified cache. Where there is no room, others are preempted, or they are.
    fn leave_full_lanes(&mut self) {
        let full: Vec<(SequenceId, Lane)> =
            self.admitted.values().filter_map(|&id| self.in_full_lane(id)).collect();
        for (id, lane) in full {
            // The token that has no room and a cell for each of the others.
            let needed = self.kv.lane_len(lane) + 1 + self.decoding_in_slots();
            let Some(&oldest) = self.admitted.values().next() else { return };
            while self.kv.available() < needed
                && let Some(victim) = self.victim(oldest, self.leader_of(oldest))
            {
                self.preempt(victim);
            }
            if self.kv.available() > self.kv.lane_len(lane) {
                self.come_back(id, lane);
            } else if id != oldest {
                self.preempt(id);
            }
        }
    }

    /// Moves sequences back to the unified cache, as far as there is room.
    fn leave_lanes(&mut self) {
        let ids: Vec<SequenceId> = self.admitted.values().copied().collect();
        for id in ids {
            if let Phase::Decoding(Seat::Lane(lane)) = self.sequences[&id].phase
                && self.kv.available() > self.kv.lane_len(lane) + self.decoding_in_slots()
            {
                self.come_back(id, lane);
            }
        }
    }

    fn come_back(&mut self, id: SequenceId, lane: Lane) {
        let held = self.kv.lane_len(lane);
        let Some(slot) = self.kv.come_back(lane) else { return };
        self.seat(id, Seat::Slot(slot));
        // If its copy found no place after all, its tokens are read again.
        if self.kv.cells().len(slot) < held
            && let Some(sequence) = self.sequences.get_mut(&id)
        {
            sequence.phase = Phase::Reading(Seat::Slot(slot));
        }
    }

    fn in_full_lane(&self, id: SequenceId) -> Option<(SequenceId, Lane)> {
        let (Phase::Decoding(Seat::Lane(lane)) | Phase::Reading(Seat::Lane(lane))) =
            self.sequences[&id].phase
        else {
            return None;
        };
        let is_full = self.kv.lanes().is_some_and(|lanes| lanes.room(lane) == 0);
        is_full.then_some((id, lane))
    }

    fn decoding_slots(&self) -> Vec<(SequenceId, Slot)> {
        let decoding = self.admitted.values().filter_map(|&id| match self.sequences[&id].phase {
            Phase::Decoding(Seat::Slot(slot)) => Some((id, slot)),
            _ => None,
        });
        decoding.collect()
    }

    fn running_now(&self) -> Running {
        let members = self.admitted.values().filter_map(|id| match self.sequences[id].phase {
            Phase::Decoding(Seat::Slot(slot)) => Some((slot, true)),
            Phase::Sampling(Seat::Slot(slot)) => Some((slot, false)),
            _ => None,
        });
        let members: Vec<(Slot, bool)> = members.collect();
        let cells = self.kv.cells();
        Running {
            lanes: self
                .kv
                .lanes()
                .map_or_else(Vec::new, |lanes| lanes.busy().map(|lane| lanes.len(lane)).collect()),
            distinct: cells.distinct(members.iter().map(|(slot, _)| *slot)),
            members: members.into_iter().map(|(slot, decodes)| self.member(slot, decodes)).collect(),
            used: cells.pinned() + cells.evictable(),
            reads: self.reads(),
            weights: self.config.weights,
            always_lanes: self.config.always_lanes,
        }
    }

    /// Returns `true` if a prompt is read in the unified cache.
    #[must_use]
    pub fn reads(&self) -> bool {
        let phases = self.admitted.values().map(|id| self.sequences[id].phase);
        phases.into_iter().any(|phase| matches!(phase, Phase::Reading(Seat::Slot(_))))
    }

    fn member(&self, slot: Slot, decodes: bool) -> Member {
        let cells = self.kv.cells();
        let len = cells.len(slot);
        // With room for a quarter more.
        let fits = self.kv.lanes().is_none_or(|lanes| len + len / 4 < lanes.cells());
        Member { len, own: cells.only_pinned_by(slot), may_move: decodes && fits }
    }

    fn seat_of(&self, id: SequenceId) -> Option<Seat> {
        match self.sequences.get(&id)?.phase {
            Phase::Reading(seat) | Phase::Decoding(seat) | Phase::Sampling(seat) => Some(seat),
            Phase::Waiting | Phase::Following { .. } => None,
        }
    }

    /// Notes where a sequence computes from now on.
    fn seat(&mut self, id: SequenceId, to: Seat) {
        let Some(sequence) = self.sequences.get_mut(&id) else { return };
        match &mut sequence.phase {
            Phase::Reading(seat) | Phase::Decoding(seat) | Phase::Sampling(seat) => *seat = to,
            Phase::Waiting | Phase::Following { .. } => {}
        }
    }
}
