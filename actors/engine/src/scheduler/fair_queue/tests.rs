use proptest::prelude::*;

use super::*;

fn user(name: &str) -> Arc<str> {
    Arc::from(name)
}

/// No user has a sequence running.
fn nobody(_: &str) -> bool {
    false
}

fn drain(queue: &mut FairQueue) -> Vec<u64> {
    std::iter::from_fn(|| {
        let front = queue.front(nobody);
        let popped = queue.pop_front(nobody);
        assert_eq!(front, popped);
        popped.map(|id| id.0)
    })
    .collect()
}

#[test]
fn users_take_turns_and_a_new_one_joins_at_the_tail() {
    let (ann, bob, cleo) = (user("ann"), user("bob"), user("cleo"));
    let mut queue = FairQueue::new();
    for id in 1..=3 {
        queue.push(&ann, SequenceId(id));
    }
    queue.push(&bob, SequenceId(10));
    queue.push(&bob, SequenceId(11));
    assert_eq!(queue.pop_front(nobody), Some(SequenceId(1)));
    queue.push(&cleo, SequenceId(20));
    assert_eq!(drain(&mut queue), [10, 2, 20, 11, 3]);
    assert!(queue.is_empty());
}

#[test]
fn resumed_sequences_come_first_by_age() {
    let ann = user("ann");
    let mut queue = FairQueue::new();
    queue.push(&ann, SequenceId(1));
    queue.push_resumed(&ann, 7, SequenceId(2));
    queue.push_resumed(&ann, 5, SequenceId(3));
    assert!(queue.remove(&ann, SequenceId(2)));
    assert!(!queue.remove(&ann, SequenceId(2)));
    assert_eq!(drain(&mut queue), [3, 1]);
}

#[test]
fn who_has_nothing_running_comes_first() {
    let (ann, bob, cleo) = (user("ann"), user("bob"), user("cleo"));
    let mut queue = FairQueue::new();
    queue.push_resumed(&ann, 1, SequenceId(1));
    queue.push_resumed(&bob, 2, SequenceId(2));
    queue.push(&ann, SequenceId(3));
    queue.push(&cleo, SequenceId(4));
    queue.push(&cleo, SequenceId(5));
    let mut running = vec!["ann"];
    let mut order = Vec::new();
    while !queue.is_empty() {
        let front = queue.front(|user| running.contains(&user));
        assert_eq!(queue.pop_front(|user| running.contains(&user)), front);
        let id = front.unwrap().0;
        order.push(id);
        running.push(if id == 2 {
            "bob"
        } else if id < 4 {
            "ann"
        } else {
            "cleo"
        });
    }
    assert_eq!(order, [2, 4, 1, 3, 5]);
}

proptest! {
    /// A sequence that waits at place p of its user's line is served before any other user is served p + 2 times.
    #[test]
    fn nobody_is_served_much_more_often(arrivals in prop::collection::vec(0..4usize, 1..40), gone in 0..40usize) {
        let users: Vec<Arc<str>> = (0..4).map(|n| user(&n.to_string())).collect();
        let mut queue = FairQueue::new();
        for (id, &of) in arrivals.iter().enumerate() {
            queue.push(&users[of], SequenceId(id as u64));
        }
        if let Some(&of) = arrivals.get(gone) {
            prop_assert!(queue.remove(&users[of], SequenceId(gone as u64)));
        }
        let left = arrivals.len() - usize::from(gone < arrivals.len());
        prop_assert_eq!(queue.len(), left);
        let order = drain(&mut queue);
        prop_assert_eq!(order.len(), left);
        let mut served = [0usize; 4];
        let mut last = [None; 4];
        for id in order {
            let of = arrivals[id as usize];
            prop_assert!(last[of] < Some(id), "first come, first served");
            last[of] = Some(id);
            for (other, count) in served.iter().enumerate() {
                prop_assert!(other == of || *count <= served[of] + 1);
            }
            served[of] += 1;
        }
    }
}
