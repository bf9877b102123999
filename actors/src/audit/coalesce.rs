//! Coalescing of frequent refusals. Pure: time is an argument.
//!
//! A client can cause any number of refusals. Ten per minute of one kind from one network are recorded individually, sixty of all
//! kinds from one network, and six hundred in all. The rest is counted: one record per minute for each kind, each network and all
//! others, with the fields that they have in common.

use std::borrow::Cow;
use std::collections::HashMap;

use super::record::{Actor, AuditId, AuditOutcome, AuditRecord, OVERFLOW};
use crate::identity::{ClientNet, now_s};

/// Period over which refusals are counted together, in seconds.
pub const WINDOW_S: u64 = 60;
/// Maximum number of records of one kind from one network per period.
pub const MAX_REPEATS: u32 = 10;
/// Maximum number of records of one network per period.
pub const MAX_PER_NET: u32 = 60;
/// Maximum number of records per period.
pub const MAX_IN_ALL: u32 = 600;

/// The key by which refusals are counted together.
type Kind = (Cow<'static, str>, AuditOutcome, Option<Cow<'static, str>>);

/// Decides which refusals are recorded individually, and counts the rest.
#[derive(Debug, Default)]
pub struct Coalescer {
    began: Option<u64>,
    admitted: u32,
    nets: HashMap<Option<ClientNet>, Net>,
    rest: Option<AuditRecord>,
}

#[derive(Debug, Default)]
struct Net {
    admitted: u32,
    kinds: HashMap<Kind, Repeats>,
    rest: Option<AuditRecord>,
}

#[derive(Debug, Default)]
struct Repeats {
    admitted: u32,
    rest: Option<AuditRecord>,
}

impl Coalescer {
    /// Returns the record if it is to be recorded individually; `None`: it is counted. `now`: seconds of any monotonic clock.
    pub fn admit(&mut self, now: u64, record: AuditRecord) -> Option<AuditRecord> {
        if record.outcome == AuditOutcome::Ok {
            return Some(record);
        }
        self.began.get_or_insert(now);
        let net_key = record.address.map(ClientNet::from);
        let is_room = self.admitted < MAX_IN_ALL;
        // New keys are noted only if the record is recorded, which bounds their number.
        let Some(net) = entry(&mut self.nets, net_key, is_room) else {
            add_overflow(&mut self.rest, record, false);
            return None;
        };
        let is_room = is_room && net.admitted < MAX_PER_NET;
        let kind = (record.action.clone(), record.outcome, record.code.clone());
        let Some(repeats) = entry(&mut net.kinds, kind, is_room) else {
            add_overflow(&mut net.rest, record, true);
            return None;
        };
        if is_room && repeats.admitted < MAX_REPEATS {
            repeats.admitted += 1;
            net.admitted += 1;
            self.admitted += 1;
            return Some(record);
        }
        match &mut repeats.rest {
            Some(rest) => add(rest, &record),
            none => *none = Some(record),
        }
        None
    }

    /// Takes the counts if their period has ended.
    pub fn drain(&mut self, now: u64) -> Vec<AuditRecord> {
        match self.began {
            Some(began) if now.saturating_sub(began) >= WINDOW_S => self.drain_all(),
            _ => Vec::new(),
        }
    }

    /// Takes all counts so far.
    pub fn drain_all(&mut self) -> Vec<AuditRecord> {
        let Self { nets, rest, .. } = std::mem::take(self);
        let of_nets = nets.into_values().flat_map(|net| {
            net.kinds.into_values().filter_map(|repeats| repeats.rest).chain(net.rest).collect::<Vec<_>>()
        });
        let mut records: Vec<_> = of_nets.chain(rest).collect();
        for record in &mut records {
            (record.id, record.created_at) = (AuditId::new(), now_s());
        }
        records
    }
}

fn entry<K: std::hash::Hash + Eq, V: Default>(
    map: &mut HashMap<K, V>,
    key: K,
    is_room: bool,
) -> Option<&mut V> {
    if is_room { Some(map.entry(key).or_default()) } else { map.get_mut(&key) }
}

/// Counts one more; fields that are not the same in all records are left out.
fn add(rest: &mut AuditRecord, record: &AuditRecord) {
    rest.count = rest.count.saturating_add(record.count);
    rest.request_id = None;
    if rest.status != record.status {
        rest.status = None;
    }
    if rest.actor != record.actor {
        rest.actor = Actor::default();
    }
    if rest.address != record.address {
        rest.address = None;
    }
    if rest.user_id != record.user_id {
        rest.user_id = None;
    }
    if rest.target != record.target {
        rest.target = None;
    }
    if rest.how != record.how {
        rest.how = None;
    }
    if rest.fields != record.fields {
        rest.fields = Vec::new();
    }
}

/// Counts one more in a record of refusals of several kinds.
fn add_overflow(rest: &mut Option<AuditRecord>, record: AuditRecord, of_one_net: bool) {
    match rest {
        Some(rest) => {
            rest.count = rest.count.saturating_add(record.count);
            if rest.address != record.address {
                rest.address = None;
            }
        }
        None => {
            let address = record.address.filter(|_| of_one_net);
            *rest = Some(AuditRecord {
                address,
                count: record.count,
                ..AuditRecord::new(OVERFLOW, AuditOutcome::Refused)
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    fn refused(net: u8, code: u16) -> AuditRecord {
        let code = format!("code_{code}");
        AuditRecord {
            address: Some(IpAddr::V4(Ipv4Addr::new(192, 0, 2, net))),
            code: Some(code.into()),
            ..AuditRecord::new("key.create", AuditOutcome::Refused)
        }
    }

    #[test]
    fn repeats_are_counted_in_one_record() {
        let mut coalescer = Coalescer::default();
        let shown: Vec<_> = (0..25).filter_map(|_| coalescer.admit(5, refused(1, 1))).collect();
        assert_eq!(shown.len(), 10);
        assert!(coalescer.admit(5, AuditRecord::new("key.create", AuditOutcome::Ok)).is_some());
        assert!(coalescer.admit(5, refused(1, 2)).is_some() && coalescer.admit(5, refused(2, 1)).is_some());
        assert_eq!(coalescer.drain(64), []);
        let rest = coalescer.drain(65);
        assert_eq!(rest.iter().map(|record| record.count).collect::<Vec<_>>(), [15]);
        assert_eq!((rest[0].code.as_deref(), rest[0].action.as_ref()), (Some("code_1"), "key.create"));
        assert!(rest[0].address.is_some());
        assert!(coalescer.admit(66, refused(1, 1)).is_some(), "a new minute");
        assert_eq!(coalescer.drain_all(), []);
    }

    #[test]
    fn sums_leave_out_differing_fields() {
        let mut coalescer = Coalescer::default();
        for number in 0u8..20 {
            let user = crate::identity::UserId::from_bytes([number; 16]);
            let _ = coalescer.admit(0, AuditRecord { user_id: Some(user), ..refused(1, 1) });
        }
        let rest = coalescer.drain_all();
        assert_eq!((rest.len(), rest[0].count, rest[0].user_id), (1, 10, None));
    }

    #[test]
    fn networks_are_counted_separately() {
        let mut coalescer = Coalescer::default();
        let one = (0..10_000u16).filter(|&code| coalescer.admit(0, refused(1, code % 500)).is_some()).count();
        assert_eq!(one, 60);
        assert!(coalescer.admit(0, refused(2, 1)).is_some());
        let rest = coalescer.drain_all();
        assert_eq!(rest.iter().map(|record| record.count).sum::<u64>(), 10_000 - 60);
        let overflow: Vec<_> = rest.iter().filter(|record| record.action == OVERFLOW).collect();
        assert_eq!(overflow.len(), 1);
        assert_eq!(overflow[0].address, refused(1, 1).address);
    }

    proptest! {
        /// For any refusals, the counts are complete, and both bounds hold.
        #[test]
        fn every_refusal_is_counted_once(all in prop::collection::vec((0u8..30, 0u16..40, 1usize..40), 0..200)) {
            let mut coalescer = Coalescer::default();
            let (mut given, mut shown) = (0u64, 0u64);
            let mut by_kind: HashMap<(u8, u16), u32> = HashMap::new();
            for (net, code, times) in all {
                for _ in 0..times {
                    given += 1;
                    if coalescer.admit(1, refused(net, code)).is_some() {
                        shown += 1;
                        *by_kind.entry((net, code)).or_default() += 1;
                    }
                }
            }
            prop_assert!(by_kind.values().all(|&shown| shown <= MAX_REPEATS));
            prop_assert!(shown <= u64::from(MAX_IN_ALL));
            let rest = coalescer.drain(1 + WINDOW_S);
            prop_assert!(rest.len() as u64 <= 2 * shown + 1, "no more sums than records");
            prop_assert_eq!(shown + rest.iter().map(|record| record.count).sum::<u64>(), given);
        }
    }
}
