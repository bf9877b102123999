use super::*;

const KINDS: [UpstreamKind; 2] = [UpstreamKind::Vllm, UpstreamKind::Openai];

fn balancer(lanes: &[(UpstreamKind, u32)]) -> Arc<Balancer> {
    let lane = |(place, (kind, max_in_flight)): (usize, &(UpstreamKind, u32))| LaneConfig {
        url: format!("http://u{place}"),
        model: "m".to_owned(),
        kind: *kind,
        max_in_flight: *max_in_flight,
        weight: 1,
    };
    let policy = BreakerPolicy { failures: 2, cooldown: Duration::from_secs(30) };
    let lanes = lanes.iter().enumerate().map(lane).collect();
    Arc::new(Balancer::new(lanes, policy, Balance { requests: 64, percent: 150 }))
}

fn probe(balancer: &Arc<Balancer>) {
    for (place, lane) in balancer.report().into_iter().enumerate() {
        balancer.probed(place, Ok(Probed { kind: lane.config.kind, context: Some(9), created: None }));
    }
}

fn wanted(kinds: &[UpstreamKind]) -> Wanted {
    Wanted { key: PromptKey::default(), kinds: kinds.to_vec(), tried: Vec::new() }
}

async fn soon<T>(future: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(Duration::from_millis(50), future).await.ok()
}

#[tokio::test]
async fn nothing_is_given_to_upstreams_that_were_not_probed_or_lack_a_feature() {
    let balancer = balancer(&[(UpstreamKind::Vllm, 1), (UpstreamKind::Openai, 1)]);
    let refused = balancer.acquire("ann", wanted(&KINDS)).await.unwrap_err();
    assert_eq!(refused.reason, "no upstream has been reached yet");
    probe(&balancer);
    let slot = balancer.acquire("ann", wanted(&[UpstreamKind::Openai])).await.unwrap();
    assert_eq!(slot.place, 1);
    assert!(balancer.acquire("ann", wanted(&[UpstreamKind::Jan])).await.is_err());
    let mut tried = wanted(&KINDS);
    tried.tried = vec![0];
    assert!(soon(balancer.acquire("ann", tried.clone())).await.is_none(), "the other one is busy");
    drop(slot);
    assert_eq!(balancer.acquire("ann", tried.clone()).await.unwrap().place, 1);
    tried.tried = vec![0, 1];
    assert!(balancer.acquire("ann", tried).await.is_ok(), "where there is no other, one is tried again");
}

#[tokio::test]
async fn callers_wait_in_turn_and_leave_without_a_trace() {
    let balancer = balancer(&[(UpstreamKind::Vllm, 1)]);
    probe(&balancer);
    let slot = balancer.acquire("ann", wanted(&KINDS)).await.unwrap();
    let wait = |caller: &'static str| {
        let balancer = Arc::clone(&balancer);
        tokio::spawn(async move { (caller, balancer.acquire(caller, wanted(&KINDS)).await.map(drop)) })
    };
    let hog: Vec<_> = (0..3).map(|_| wait("hog")).collect();
    tokio::task::yield_now().await;
    assert!(soon(balancer.acquire("gone", wanted(&KINDS))).await.is_none());
    let ann = wait("ann");
    while balancer.waiting() < 4 {
        tokio::task::yield_now().await;
    }
    drop(slot);
    assert!(ann.await.unwrap().1.is_ok());
    for one in hog {
        assert!(one.await.unwrap().1.is_ok());
    }
    let lane = &balancer.report()[0];
    assert_eq!((lane.in_flight, balancer.waiting()), (0, 0));
}

#[tokio::test]
async fn waiting_requests_are_refused_when_nothing_is_left_to_wait_for() {
    let balancer = balancer(&[(UpstreamKind::Vllm, 1), (UpstreamKind::Vllm, 1)]);
    probe(&balancer);
    let slots = [balancer.acquire("a", wanted(&KINDS)).await, balancer.acquire("b", wanted(&KINDS)).await];
    let waits = Arc::clone(&balancer);
    let waiting = tokio::spawn(async move { waits.acquire("c", wanted(&KINDS)).await.map(drop) });
    while balancer.waiting() == 0 {
        tokio::task::yield_now().await;
    }
    balancer.failed(0, Failure::Stalled, "silent", Some("a"));
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished(), "the other one may take it");
    balancer.failed(1, Failure::Stalled, "silent", Some("b"));
    let refused = waiting.await.unwrap().unwrap_err();
    assert_eq!(refused.reason, "no upstream that can answer this request works");
    drop(slots);
    // Probes do not bring it back; a token of a trial does.
    probe(&balancer);
    assert!(balancer.acquire("c", wanted(&KINDS)).await.is_err());
    assert!(balancer.begin_trial(0), "a trial finds out at once");
    balancer.failed(0, Failure::Stalled, "silent", None);
    assert!(!balancer.begin_trial(0), "the next one comes later");
    let refused = balancer.acquire("c", wanted(&[UpstreamKind::Openai])).await.unwrap_err();
    assert!(refused.retry_after > Duration::from_secs(20), "{refused:?}");
    balancer.progressed(0);
    assert_eq!(balancer.acquire("c", wanted(&KINDS)).await.unwrap().place, 0);
}

#[tokio::test]
async fn a_pause_is_kept_and_a_long_one_is_told() {
    let balancer = balancer(&[(UpstreamKind::Vllm, 9), (UpstreamKind::Vllm, 9)]);
    probe(&balancer);
    balancer.rests(0, Duration::from_secs(60));
    let lane = &balancer.report()[0];
    assert_eq!(lane.problem.as_deref(), Some("it is overloaded and asked for a pause"));
    assert!(lane.retry_after > Duration::from_secs(50), "{lane:?}");
    for _ in 0..4 {
        assert_eq!(balancer.acquire("a", wanted(&KINDS)).await.unwrap().place, 1);
    }
    balancer.rests(1, Duration::from_millis(20));
    assert!(soon(balancer.acquire("a", wanted(&KINDS))).await.is_none(), "nobody has looked since");
    balancer.dispatch();
    assert!(balancer.acquire("a", wanted(&KINDS)).await.is_ok());
    balancer.rests(1, Duration::from_secs(50));
    let refused = balancer.acquire("a", wanted(&KINDS)).await.unwrap_err();
    assert!(refused.retry_after > Duration::from_secs(40), "{refused:?}");
}

#[tokio::test]
async fn a_prompt_goes_where_its_beginning_is_known() {
    let balancer = balancer(&[(UpstreamKind::Vllm, 9), (UpstreamKind::Vllm, 9), (UpstreamKind::Vllm, 9)]);
    probe(&balancer);
    for conversation in 0..20 {
        let key = |turns: u64| PromptKey {
            blocks: (0..turns * 4).map(|n| conversation << 32 | n).collect(),
            conversation,
        };
        let with = |turns| Wanted { key: key(turns), ..wanted(&KINDS) };
        let first = balancer.acquire("a", with(1)).await.unwrap().place;
        for turns in 2..5 {
            let slots: Vec<_> = [balancer.acquire("b", wanted(&KINDS)).await.unwrap()].into();
            assert_eq!(balancer.acquire("a", with(turns)).await.unwrap().place, first);
            drop(slots);
        }
    }
}

#[tokio::test]
async fn one_caller_alone_does_not_shut_an_upstream() {
    let balancer = balancer(&[(UpstreamKind::Vllm, 9)]);
    probe(&balancer);
    for _ in 0..20 {
        balancer.failed(0, Failure::Suspect, "500", Some("ann"));
    }
    assert!(balancer.acquire("bob", wanted(&KINDS)).await.is_ok());
    balancer.failed(0, Failure::Suspect, "500", Some("bob"));
    assert!(balancer.acquire("bob", wanted(&KINDS)).await.is_err(), "two callers are two failures");
}
