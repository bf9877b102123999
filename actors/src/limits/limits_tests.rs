use std::net::IpAddr;

use proptest::prelude::*;

use super::*;
use crate::identity::{KeyId, Permissions, SessionId, UserId, UserKind};

fn limiter(config: RateLimitsConfig) -> Limiter {
    Limiter::new(config)
}

fn small() -> RateLimitsConfig {
    RateLimitsConfig {
        authenticated_per_hour: 5,
        anonymous_per_hour: 3,
        inference_per_minute: 2,
        answers_per_minute: None,
        tokens_per_minute: 100,
        concurrent_streams: 2,
        sign_in_failures_per_hour: 2,
    }
}

fn user() -> Principal {
    Principal {
        kind: PrincipalKind::User { user: UserId::new(), session: SessionId::new() },
        permissions: Permissions::READ_WRITE,
        user_kind: Some(UserKind::Member),
        guest_net: None,
        user_limits: LimitOverrides::default(),
        key_limits: LimitOverrides::default(),
        parents: [None; MAX_PARENTS],
    }
}

fn key_of(principal: &Principal, key_limits: LimitOverrides) -> Principal {
    let user = principal.user().unwrap();
    Principal { kind: PrincipalKind::Key { user, key: KeyId::new() }, key_limits, ..*principal }
}

fn address(text: &str) -> Principal {
    Principal::anonymous(text.parse::<IpAddr>().unwrap())
}

fn view(verdict: RateLimitDecision) -> (bool, LimitName, u32, u32) {
    let nearest = verdict.nearest.unwrap();
    (verdict.allowed, nearest.name, nearest.limit, nearest.remaining)
}

#[test]
fn requests_count_down_and_are_refused() {
    let limiter = limiter(small());
    let (user, other) = (user(), user());
    for remaining in (0..5).rev() {
        let verdict = limiter.check_at(&user, CheckKind::Request, 0);
        assert_eq!(view(verdict), (true, LimitName::Requests, 5, remaining));
    }
    let refused = limiter.check_at(&user, CheckKind::Request, 0);
    assert_eq!(view(refused), (false, LimitName::Requests, 5, 0));
    assert_eq!(refused.retry_after, Some(Duration::from_secs(720)), "an hour for five");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    assert!((now + 3599..=now + 3601).contains(&refused.nearest.unwrap().reset_epoch_s));
    assert!(!limiter.check_at(&user, CheckKind::Request, 719_999).allowed);
    assert!(limiter.check_at(&user, CheckKind::Request, 720_000).allowed);
    assert!(limiter.check_at(&other, CheckKind::Request, 0).allowed, "somebody else");
}

#[test]
fn refused_inference_costs_no_request() {
    let limiter = limiter(small());
    let user = user();
    assert_eq!(view(limiter.check_at(&user, CheckKind::Inference, 0)), (true, LimitName::Inference, 2, 1));
    assert_eq!(view(limiter.check_at(&user, CheckKind::Inference, 0)), (true, LimitName::Inference, 2, 0));
    for _ in 0..10 {
        assert_eq!(
            view(limiter.check_at(&user, CheckKind::Inference, 0)),
            (false, LimitName::Inference, 2, 0)
        );
    }
    assert_eq!(view(limiter.check_at(&user, CheckKind::Request, 0)), (true, LimitName::Requests, 5, 2));
}

#[test]
fn anonymous_callers_by_network() {
    let limiter = limiter(small());
    let (a, b) = (address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff::9"));
    for remaining in (0..3).rev() {
        assert_eq!(
            view(limiter.check_at(&a, CheckKind::Request, 0)),
            (true, LimitName::Requests, 3, remaining)
        );
    }
    assert!(!limiter.check_at(&b, CheckKind::Request, 0).allowed, "the same /64");
    assert!(limiter.check_at(&address("2001:db8:1:3::1"), CheckKind::Request, 0).allowed);
    for _ in 0..3 {
        assert!(limiter.check_at(&address("192.0.2.7"), CheckKind::Request, 0).allowed);
    }
    assert!(!limiter.check_at(&address("::ffff:192.0.2.7"), CheckKind::Request, 0).allowed, "the same host");
    assert!(limiter.check_at(&address("192.0.2.8"), CheckKind::Request, 0).allowed);
}

fn guest(text: &str) -> Principal {
    Principal { user_kind: Some(UserKind::Guest), ..user() }.at(text.parse().unwrap())
}

#[test]
fn answers_are_taken_as_a_whole_and_come_back() {
    let limiter = limiter(small());
    let user = user();
    assert_eq!(limiter.take_answers_at(&user, 21, 0), Err(AnswersRefused::MoreThanAll { limit: 20 }));
    assert_eq!(limiter.take_answers_at(&user, 15, 0), Ok(()));
    let wait = Duration::from_secs(15);
    let refused = Err(AnswersRefused::NotNow { limit: 20, retry_after: wait });
    assert_eq!(limiter.take_answers_at(&user, 10, 0), refused);
    assert_eq!(limiter.take_answers_at(&user, 5, 0), Ok(()));
    assert!(limiter.take_answers_at(&user, 10, 29_999).is_err());
    assert_eq!(limiter.take_answers_at(&user, 10, 30_000), Ok(()));
    // The buckets of the API reference do not show it.
    assert_eq!(view(limiter.peek_at(&user, CheckKind::Inference, 0)), (true, LimitName::Inference, 2, 2));
}

#[test]
fn answers_follow_an_own_inference_limit() {
    let given = |inference, answers| LimitOverrides {
        inference_per_minute: inference,
        answers_per_minute: answers,
        ..LimitOverrides::default()
    };
    let most = |config: &RateLimitsConfig, user_limits, key_limits| {
        let principal = key_of(&Principal { user_limits, ..user() }, key_limits);
        match limiter(config.clone()).take_answers_at(&principal, u32::MAX, 0) {
            Err(AnswersRefused::MoreThanAll { limit }) => Some(limit),
            other => other.map(|()| None).unwrap(),
        }
    };
    let (unset, none) = (small(), LimitOverrides::default());
    assert_eq!(most(&unset, none, none), Some(20));
    assert_eq!(most(&unset, given(Some(7), None), none), Some(70));
    assert_eq!(most(&unset, given(None, Some(3)), none), Some(3));
    assert_eq!(most(&unset, given(Some(7), Some(3)), none), Some(7), "never fewer than requests");
    assert_eq!(most(&unset, given(None, Some(0)), none), None);
    assert_eq!(most(&unset, none, given(Some(1), None)), Some(10), "a key's own beside its user's");
    assert_eq!(most(&unset, none, given(Some(9), None)), Some(20));
    assert_eq!(most(&unset, none, given(Some(0), None)), Some(20));
    let set = RateLimitsConfig { answers_per_minute: Some(50), ..small() };
    assert_eq!(most(&set, none, none), Some(50));
    assert_eq!(most(&set, given(Some(7), None), none), Some(70));
    let unlimited = RateLimitsConfig { answers_per_minute: Some(0), ..small() };
    assert_eq!(most(&unlimited, given(Some(7), None), given(Some(7), None)), None);
    let guest = Principal { user_limits: given(Some(7), None), ..guest("192.0.2.1") };
    let refused = limiter(small()).take_answers_at(&guest, u32::MAX, 0);
    assert_eq!(refused, Err(AnswersRefused::MoreThanAll { limit: 70 }));
}

proptest! {
    /// With any settings, as many requests for one answer pass at once as the limit of requests allows.
    #[test]
    fn requests_for_one_answer_meet_the_limit_of_requests_alone(
        inference in 1u32..80,
        set in prop::option::of(0u32..200),
        own in prop::option::of(1u32..80),
        own_answers in prop::option::of(0u32..200),
    ) {
        let config = RateLimitsConfig {
            authenticated_per_hour: 0, inference_per_minute: inference, answers_per_minute: set, ..small()
        };
        let limiter = limiter(config);
        let user_limits = LimitOverrides {
            inference_per_minute: own, answers_per_minute: own_answers, tokens_per_minute: Some(0),
            ..LimitOverrides::default()
        };
        let user = Principal { user_limits, ..user() };
        for _ in 0..own.unwrap_or(inference) {
            prop_assert!(limiter.check_at(&user, CheckKind::Inference, 0).allowed);
            prop_assert_eq!(limiter.take_answers_at(&user, 1, 0), Ok(()));
        }
        prop_assert!(!limiter.check_at(&user, CheckKind::Inference, 0).allowed);
    }

    /// No minute has more answers than the bucket holds and refills meanwhile, and a refused request passes after the time that
    /// the refusal names.
    #[test]
    fn answers_are_bounded_and_the_wait_is_the_one_named(
        asked in prop::collection::vec((0u64..20_000, 1u32..25), 1..60),
    ) {
        let limiter = limiter(small());
        let key = key_of(&user(), LimitOverrides { answers_per_minute: Some(15), ..Default::default() });
        let (mut now, mut taken) = (0, Vec::new());
        for (pause, answers) in asked {
            now += pause;
            match limiter.take_answers_at(&key, answers, now) {
                Ok(()) => taken.push((now, u64::from(answers))),
                Err(AnswersRefused::MoreThanAll { limit }) => prop_assert!(limit == 15 && answers > 15),
                Err(AnswersRefused::NotNow { retry_after, .. }) => {
                    let wait = u64::try_from(retry_after.as_millis()).unwrap();
                    prop_assert!(answers <= 15 && wait > 0);
                    now += wait;
                    // The user's bucket may take longer than the key's own.
                    let mut tries = 0;
                    while let Err(AnswersRefused::NotNow { retry_after, .. }) = limiter.take_answers_at(&key, answers, now) {
                        now += u64::try_from(retry_after.as_millis()).unwrap();
                        tries += 1;
                        prop_assert!(tries <= 2);
                    }
                    taken.push((now, u64::from(answers)));
                }
            }
            let within: u64 = taken.iter().filter(|(at, _)| now - at < 60_000).map(|(_, answers)| answers).sum();
            prop_assert!(within <= 30, "{within}");
        }
    }
}

#[test]
fn guests_of_a_network_share_its_buckets_with_anonymous_callers() {
    let limiter = limiter(small());
    let callers = [
        guest("2001:db8:1:2::1"),
        address("2001:db8:1:2::2"),
        key_of(&guest("2001:db8:1:2::3"), LimitOverrides::default()),
    ];
    for (caller, remaining) in callers.iter().zip((0..3).rev()) {
        let verdict = limiter.check_at(caller, CheckKind::Request, 0);
        assert_eq!(view(verdict), (true, LimitName::Requests, 3, remaining));
    }
    assert!(callers.iter().all(|caller| !limiter.check_at(caller, CheckKind::Request, 0).allowed));
    assert!(limiter.check_at(&guest("2001:db8:1:3::1"), CheckKind::Request, 0).allowed);
    let elsewhere = Principal { guest_net: guest("192.0.2.7").guest_net, ..callers[0] };
    assert!(limiter.check_at(&elsewhere, CheckKind::Request, 0).allowed, "by where the request comes from");
    let member = user().at("2001:db8:1:2::1".parse().unwrap());
    assert_eq!(view(limiter.check_at(&member, CheckKind::Request, 0)), (true, LimitName::Requests, 5, 4));
    // The same applies to streams.
    let streams: Vec<_> = (0..3).map(|_| limiter.stream(&guest("192.0.2.9"))).collect();
    assert_eq!(streams.iter().filter(|stream| stream.is_ok()).count(), 2);
}

#[test]
fn limits_of_a_guest_replace_its_networks() {
    let limiter = limiter(small());
    let given = LimitOverrides { inference_per_minute: Some(1), ..Default::default() };
    let narrow = Principal { user_limits: given, ..guest("192.0.2.7") };
    assert!(limiter.check_at(&narrow, CheckKind::Inference, 0).allowed);
    assert_eq!(view(limiter.check_at(&narrow, CheckKind::Inference, 0)), (false, LimitName::Inference, 1, 0));
    let other = guest("192.0.2.7");
    assert_eq!(view(limiter.check_at(&other, CheckKind::Inference, 0)), (true, LimitName::Requests, 3, 1));
    let more = LimitOverrides { requests_per_hour: Some(0), ..Default::default() };
    let wide = Principal { user_limits: more, ..guest("192.0.2.7") };
    for _ in 0..10 {
        assert!(limiter.check_at(&wide, CheckKind::Request, 0).allowed);
    }
}

#[test]
fn keys_share_their_users_buckets() {
    let limiter = limiter(small());
    let user = user();
    let plain = key_of(&user, LimitOverrides::default());
    for _ in 0..2 {
        assert!(limiter.check_at(&plain, CheckKind::Request, 0).allowed);
        assert!(limiter.check_at(&user, CheckKind::Request, 0).allowed);
    }
    assert!(limiter.check_at(&plain, CheckKind::Request, 0).allowed);
    assert!(!limiter.check_at(&user, CheckKind::Request, 0).allowed);
}

#[test]
fn key_limit_applies_in_addition_to_its_users() {
    let limiter = limiter(small());
    let user = user();
    let narrow = key_of(&user, LimitOverrides { requests_per_hour: Some(1), ..Default::default() });
    assert_eq!(view(limiter.check_at(&narrow, CheckKind::Request, 0)), (true, LimitName::Requests, 1, 0));
    assert_eq!(view(limiter.check_at(&narrow, CheckKind::Request, 0)), (false, LimitName::Requests, 1, 0));
    assert_eq!(view(limiter.check_at(&user, CheckKind::Request, 0)), (true, LimitName::Requests, 5, 3));

    let wide = key_of(&user, LimitOverrides { requests_per_hour: Some(1000), ..Default::default() });
    for _ in 0..3 {
        assert!(limiter.check_at(&wide, CheckKind::Request, 0).allowed);
    }
    assert!(!limiter.check_at(&wide, CheckKind::Request, 0).allowed, "no more than the user has");
    // The key's bucket got back the requests that the user's bucket refused: 3 of 1000 are used.
    let more = Principal {
        user_limits: LimitOverrides { requests_per_hour: Some(0), ..Default::default() },
        ..wide
    };
    assert_eq!(view(limiter.check_at(&more, CheckKind::Request, 0)), (true, LimitName::Requests, 1000, 996));
}

#[test]
fn overrides_replace_the_settings() {
    let limiter = limiter(small());
    let overrides =
        LimitOverrides { requests_per_hour: Some(0), inference_per_minute: Some(3), ..Default::default() };
    let user = Principal { user_limits: overrides, ..user() };
    assert_eq!(limiter.check_at(&user, CheckKind::Request, 0), RateLimitDecision::UNLIMITED);
    assert_eq!(view(limiter.check_at(&user, CheckKind::Inference, 0)), (true, LimitName::Inference, 3, 2));
}

#[test]
fn tokens_are_charged_after_the_answer() {
    let limiter = limiter(RateLimitsConfig { inference_per_minute: 0, ..small() });
    let user = Principal {
        user_limits: LimitOverrides { requests_per_hour: Some(0), ..Default::default() },
        ..user()
    };
    let now = limiter.clock.now_ms();
    assert_eq!(view(limiter.check_at(&user, CheckKind::Inference, now)), (true, LimitName::Tokens, 100, 100));
    limiter.charge_tokens(&user, 150);
    let refused = limiter.check_at(&user, CheckKind::Inference, now);
    assert_eq!(view(refused), (false, LimitName::Tokens, 100, 0));
    let wait = refused.retry_after.unwrap();
    assert!((Duration::from_millis(30_400)..=Duration::from_millis(30_600)).contains(&wait), "{wait:?}");
    assert!(limiter.check_at(&user, CheckKind::Request, now).allowed, "needs no tokens");
    assert!(limiter.check_at(&user, CheckKind::Inference, now + 31_000).allowed);
}

#[test]
fn streams_are_counted_while_they_last() {
    let limiter = limiter(small());
    let user = user();
    let first = limiter.stream(&user).unwrap();
    let _second = limiter.stream(&user).unwrap();
    let refused = limiter.stream(&user).unwrap_err();
    assert_eq!(view(refused), (false, LimitName::Streams, 2, 0));
    drop(first);
    let third = limiter.stream(&user).unwrap();
    // A key with one stream of its own left, of a user with none left: the refusal gives the key's back.
    let key = key_of(&user, LimitOverrides { concurrent_streams: Some(1), ..Default::default() });
    assert!(limiter.stream(&key).is_err());
    drop(third);
    let _key_stream = limiter.stream(&key).unwrap();
    assert_eq!(view(limiter.stream(&key).unwrap_err()), (false, LimitName::Streams, 1, 0));
}

#[test]
fn failed_sign_ins_by_network() {
    let limiter = limiter(small());
    let net = ClientNet::from("192.0.2.1".parse::<IpAddr>().unwrap());
    for _ in 0..2 {
        assert!(limiter.sign_in_allowed(net).allowed);
        limiter.sign_in_failed(net);
    }
    assert_eq!(view(limiter.sign_in_allowed(net)), (false, LimitName::SignInFailures, 2, 0));
    assert!(limiter.check_at(&address("192.0.2.1"), CheckKind::Request, 0).allowed, "other things go on");
}

#[test]
fn idle_principals_are_removed_and_others_are_not() {
    let table = Arc::new(Table::default());
    let limiter = Limiter::over(Arc::clone(&table) as _, small());
    let (idle, streaming, busy) = (user(), user(), user());
    limiter.check_at(&idle, CheckKind::Request, 0);
    let _permit = limiter.stream(&streaming).unwrap();
    limiter.check_at(&busy, CheckKind::Request, 3_000_000);
    let forget =
        |now| (0..super::super::rate_buckets::PARTS).map(|part| table.forget_idle(part, now)).sum::<usize>();
    assert_eq!((forget(3_500_000), table.len()), (0, 3));
    assert_eq!((forget(3_700_000), table.len()), (1, 2));
    assert_eq!(view(limiter.peek_at(&busy, CheckKind::Request, 3_700_000)).3, 4);
    assert_eq!((forget(9_000_000), table.len()), (1, 1));
}

#[test]
fn peeking_counts_nothing() {
    let table = Arc::new(Table::default());
    let limiter = Limiter::over(Arc::clone(&table) as _, small());
    let user = user();
    for _ in 0..10 {
        assert_eq!(view(limiter.peek_at(&user, CheckKind::Inference, 0)), (true, LimitName::Inference, 2, 2));
    }
    assert_eq!(table.len(), 0);
}

proptest! {
    /// For any steps of the clock: over any span no more is admitted than the capacity and the refill while the clock goes
    /// forward. A clock that was set back makes no caller wait for it to catch up.
    #[test]
    fn clock_steps_admit_no_more(steps in prop::collection::vec((0u64..4_000_000, any::<bool>(), 0u32..8), 1..40), limit in 1u32..20) {
        let limiter = limiter(RateLimitsConfig { authenticated_per_hour: limit, ..small() });
        let user = user();
        let (mut now, mut forward) = (10_000_000u64, 0u64);
        let mut admitted = Vec::new();
        for (step, back, attempts) in steps {
            now = if back { now.saturating_sub(step) } else { now + step };
            forward += if back { 0 } else { step };
            for _ in 0..attempts {
                if limiter.check_at(&user, CheckKind::Request, now).allowed {
                    admitted.push(forward);
                }
            }
        }
        let (limit, hour) = (u128::from(limit), u128::from(Rate::HOUR_MS));
        for first in 0..admitted.len() {
            for last in first..admitted.len() {
                let (count, span) = ((last - first + 1) as u128, u128::from(admitted[last] - admitted[first]));
                prop_assert!(count * hour <= limit * hour + span * limit);
            }
        }
        while limiter.check_at(&user, CheckKind::Request, now).allowed {}
        limiter.peek_at(&user, CheckKind::Request, 0);
        prop_assert!(!limiter.check_at(&user, CheckKind::Request, 0).allowed);
        let wait = limiter.peek_at(&user, CheckKind::Request, 0).retry_after.unwrap().as_millis();
        prop_assert!(wait <= hour.div_ceil(limit));
    }

    /// The headers of any sequence of requests are those of a bucket kept in exact fractions.
    #[test]
    fn headers_equal_the_model(waits in prop::collection::vec((0u64..1_500_000, any::<bool>()), 1..60)) {
        let limiter = limiter(small());
        let user = user();
        let (mut requests, mut inference) = (5.0f64, 2.0f64);
        let mut now = 0;
        for (wait, infer) in waits {
            now += wait;
            requests = (requests + 5.0 * wait as f64 / 3_600_000.0).min(5.0);
            inference = (inference + 2.0 * wait as f64 / 60_000.0).min(2.0);
            let kind = if infer { CheckKind::Inference } else { CheckKind::Request };
            // Floating point: near a whole number either result is right.
            let near = |x: f64| (x - x.round()).abs() < 1e-6;
            if near(requests) || near(inference) {
                requests = if near(requests) { requests.round() } else { requests };
                inference = if near(inference) { inference.round() } else { inference };
            }
            let allowed = requests >= 1.0 && (!infer || inference >= 1.0);
            let verdict = limiter.check_at(&user, kind, now);
            prop_assert_eq!(verdict.allowed, allowed);
            if allowed {
                requests -= 1.0;
                inference -= if infer { 1.0 } else { 0.0 };
                let expected = if infer { requests.floor().min(inference.floor()) } else { requests.floor() };
                prop_assert_eq!(f64::from(verdict.nearest.unwrap().remaining), expected);
                prop_assert_eq!(verdict.retry_after, None);
            } else {
                prop_assert_eq!(verdict.nearest.unwrap().remaining, 0);
                let missing = |have: f64, limit: f64, ms: f64| (1.0 - have).max(0.0) / limit * ms;
                let mut wait = missing(requests, 5.0, 3_600_000.0);
                if infer {
                    wait = wait.max(missing(inference, 2.0, 60_000.0));
                }
                let promised = verdict.retry_after.unwrap().as_secs_f64() * 1000.0;
                // The next whole millisecond, within the error of floating point.
                prop_assert!((-0.001..=1.001).contains(&(promised - wait)), "{promised} {wait}");
            }
        }
    }
}

/// Keys created with one key together do no more than that key is allowed.
#[test]
fn keys_created_with_a_key_count_in_its_limits() {
    let limiter = limiter(RateLimitsConfig::default());
    let user = user();
    let two =
        LimitOverrides { requests_per_hour: Some(2), concurrent_streams: Some(1), ..Default::default() };
    let parent = key_of(&user, two);
    let PrincipalKind::Key { key, .. } = parent.kind else { panic!() };
    let child = |_| Principal { parents: [Some((key, two)), None, None], ..key_of(&user, two) };
    let children: Vec<_> = (0..3).map(child).collect();
    let allowed = children.iter().filter(|child| limiter.check_at(child, CheckKind::Request, 0).allowed);
    assert_eq!(allowed.count(), 2);
    assert!(!limiter.check_at(&parent, CheckKind::Request, 0).allowed);
    let _held = limiter.stream(&children[0]).unwrap();
    assert!(limiter.stream(&children[1]).is_err());
    assert!(limiter.check_at(&user, CheckKind::Request, 0).allowed);
}

#[test]
fn limits_of_a_key_within_those_of_another() {
    let of = |requests_per_hour| LimitOverrides { requests_per_hour, ..LimitOverrides::default() };
    for (wanted, bound, held) in [
        (None, None, Ok(None)),
        (None, Some(5), Ok(Some(5))),
        (Some(5), Some(5), Ok(Some(5))),
        (Some(6), Some(5), Err(("requests_per_hour", 5))),
        (Some(0), Some(5), Err(("requests_per_hour", 5))),
        (Some(0), Some(0), Ok(Some(0))),
        (Some(9), Some(0), Ok(Some(9))),
        (Some(9), None, Ok(Some(9))),
    ] {
        assert_eq!(of(wanted).within(&of(bound)), held.map(of), "{wanted:?} within {bound:?}");
    }
    assert_eq!(of(Some(3)).meet(&of(Some(5))), of(Some(3)));
    assert_eq!(of(Some(0)).meet(&of(Some(5))), of(Some(5)), "0 is no limit");
    assert_eq!(of(None).meet(&of(Some(5))), of(Some(5)));
}
