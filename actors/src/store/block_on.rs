//! Driving a future to its end on a thread that may block.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

/// Wakes a thread that waits for one future. Each call has its own, so that a call within another takes no wake-up of it.
struct Unpark {
    thread: Thread,
    woken: AtomicBool,
}

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        self.thread.unpark();
    }
}

/// Runs a future on this thread until it has ended. Not for threads that run asynchronous tasks.
///
/// The future is not held to tokio's budget of a task, whose scheduler would have to run to grant more.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let unpark = Arc::new(Unpark { thread: std::thread::current(), woken: AtomicBool::new(false) });
    let waker = Waker::from(Arc::clone(&unpark));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(tokio::task::unconstrained(future));
    loop {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            return outcome;
        }
        while !unpark.woken.swap(false, Ordering::Acquire) {
            std::thread::park();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn budget_of_a_task_ends_no_call_within_it() {
        let runtime = std::thread::spawn(|| tokio::runtime::Runtime::new().unwrap()).join().unwrap();
        for number in 0..1000 {
            assert_eq!(block_on(runtime.spawn(async move { number })).unwrap(), number);
        }
        runtime.shutdown_background();
    }

    #[test]
    fn wake_ups_are_not_lost_between_nested_calls() {
        let (outer, outside) = tokio::sync::oneshot::channel::<()>();
        let (inner, inside) = tokio::sync::oneshot::channel::<()>();
        let sender = std::thread::spawn(move || {
            outer.send(()).unwrap();
            std::thread::sleep(std::time::Duration::from_millis(20));
            inner.send(()).unwrap();
        });
        block_on(async {
            let mut nested = Some(inside);
            let both = std::future::poll_fn(|_| match nested.take() {
                Some(inside) => Poll::Ready(block_on(inside)),
                None => Poll::Pending,
            });
            let (outside, inside) = futures_util::future::join(outside, both).await;
            outside.unwrap();
            inside.unwrap();
        });
        sender.join().unwrap();
    }
}
