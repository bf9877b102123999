use proptest::prelude::*;
use serde_json::json;

use super::*;

fn record(action: &'static str) -> AuditRecord {
    AuditRecord::new(action, AuditOutcome::Ok)
}

#[test]
fn ids_are_in_the_order_of_seconds() {
    let id = AuditId::new();
    let second = id.made_at_s();
    assert!(AuditId::first_of(second) <= id && id < AuditId::first_of(second + 1));
    assert_eq!(AuditId::first_of(0), AuditId::from_bytes([0; 16]));
    let _ = AuditId::first_of(u64::MAX);
}

#[test]
fn stored_records_omit_absent_fields() {
    let mut record = record("settings.load");
    record.id = AuditId::first_of(7);
    record.created_at = 7;
    let stored =
        json!({"id": record.id, "created_at": 7, "action": "settings.load", "outcome": "ok", "count": 1});
    assert_eq!(serde_json::to_value(&record).unwrap(), stored);
    assert_eq!(serde_json::from_value::<AuditRecord>(stored).unwrap(), record);
}

#[test]
fn imports_contain_ids_and_names_only() {
    let good = record("key.create");
    assert_eq!(good.check(), Ok(()));
    let change: [fn(&mut AuditRecord); 10] = [
        |record| record.created_at += 10,
        |record| record.action = "Key create".into(),
        |record| record.action = "".into(),
        |record| record.code = Some("a@b.example".into()),
        |record| record.how = Some("x".repeat(65).into()),
        |record| record.target = Some("sk-jan-secret".to_owned()),
        |record| record.target = Some(format!("key_{}", "g".repeat(32))),
        |record| record.fields = vec!["name".into(); MAX_FIELDS + 1],
        |record| record.status = Some(7),
        |record| record.count = 0,
    ];
    for (number, change) in change.into_iter().enumerate() {
        let mut wrong = good.clone();
        change(&mut wrong);
        assert!(wrong.check().is_err(), "{number}: {wrong:?}");
    }
    let mut ahead = good.clone();
    ahead.created_at = now_s() + 10 * MAX_AHEAD_S;
    ahead.id = AuditId::first_of(ahead.created_at);
    assert!(ahead.check().is_err());
    let mut known = good;
    known.target = Some(KeyId::new().to_string());
    assert_eq!(known.check(), Ok(()));
}

#[test]
fn actions_are_valid_unique_names() {
    assert!(ACTIONS.iter().all(|action| is_name(action)));
    assert!(ACTIONS.iter().enumerate().all(|(at, action)| !ACTIONS[..at].contains(action)));
    for (name, outcome) in AuditOutcome::ALL {
        assert_eq!(outcome.name(), name);
        assert_eq!(serde_json::to_value(outcome).unwrap(), name);
    }
}

#[test]
fn action_families_match_whole_segments() {
    assert!(is_of("key.create", "key.create") && is_of("key.create", "key"));
    for other in ["ke", "key.", "key.c", "keys", "create"] {
        assert!(!is_of("key.create", other), "{other}");
    }
}

fn one_of(seed: u8) -> AuditRecord {
    let user = UserId::from_bytes([seed % 3; 16]);
    let outcome = AuditOutcome::ALL[usize::from(seed / 3) % 4].1;
    let mut record = AuditRecord::new(ACTIONS[usize::from(seed) % ACTIONS.len()], outcome);
    record.created_at = u64::from(seed) / 4;
    record.id = AuditId::first_of(record.created_at);
    record.user_id = (!seed.is_multiple_of(5)).then_some(user);
    record.actor = match seed % 4 {
        0 => Actor::default(),
        1 => Actor { user_id: Some(user), key_id: Some(KeyId::from_bytes([1; 16])), session_id: None },
        _ => Actor { user_id: Some(user), key_id: None, session_id: Some(SessionId::from_bytes([2; 16])) },
    };
    record
}

proptest! {
    #[test]
    fn filters_combine_their_fields(
        seed in any::<u8>(),
        user in prop::option::of(0u8..3),
        actor in prop::option::of(0u8..4),
        action in prop::option::of(prop::sample::select(vec!["key", "key.create", "session", "import", "nothing"])),
        outcome in prop::option::of(0usize..4),
        since in prop::option::of(0u64..70),
        until in prop::option::of(0u64..70),
        after in prop::option::of(0u64..70),
    ) {
        let record = one_of(seed);
        let filter = AuditFilter {
            user: user.map(|user| UserId::from_bytes([user; 16])),
            actor: actor.map(|actor| match actor {
                0 => AuditWho::Key(KeyId::from_bytes([1; 16])),
                1 => AuditWho::Session(SessionId::from_bytes([2; 16])),
                user => AuditWho::User(UserId::from_bytes([user - 2; 16])),
            }),
            action: action.map(str::to_owned),
            outcome: outcome.map(|outcome| AuditOutcome::ALL[outcome].1),
            since,
            until,
            after: after.map(AuditId::first_of),
        };
        let at = record.created_at;
        let expected = filter.user.is_none_or(|user| record.user_id == Some(user))
            && match filter.actor {
                None => true,
                Some(AuditWho::User(user)) => record.actor.user_id == Some(user),
                Some(AuditWho::Key(key)) => record.actor.key_id == Some(key),
                Some(AuditWho::Session(session)) => record.actor.session_id == Some(session),
            }
            && action.is_none_or(|action| record.action == action || record.action.starts_with(&format!("{action}.")))
            && filter.outcome.is_none_or(|outcome| record.outcome == outcome)
            && since.is_none_or(|since| at >= since)
            && until.is_none_or(|until| at < until)
            && after.is_none_or(|after| at < after);
        prop_assert_eq!(filter.lets_through(&record), expected);
    }

    #[test]
    fn parsers_never_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<AuditWho>();
        let _ = (is_name(&text), is_id(&text));
    }
}
