//! Every interleaving of a few threads at the ledger's queue and its tickets, by a model checker.
//!
//! `queue.rs` and `progress.rs` are the product's own files, compiled here with the checker's locks
//! and atomics in place of `std`'s ([`sync`]). A thread may be preempted at each of them, as often
//! as [`tests::PREEMPTIONS`] says; a wait that nothing ends is found as a deadlock.
#![cfg(test)]

#[allow(dead_code, unreachable_pub, reason = "the product does more with it than the tests")]
#[path = "../../../gateway/src/store/progress.rs"]
mod progress;
#[allow(dead_code, unreachable_pub, reason = "the product does more with it than the tests")]
#[path = "../../../gateway/src/store/queue.rs"]
mod queue;
mod sync {
    pub(super) use loom::{
        sync::{
            Condvar, Mutex, MutexGuard,
            atomic::{AtomicU64, AtomicUsize, Ordering},
        },
        thread::{Thread, current, park},
    };
    pub(super) use std::sync::PoisonError;
}

mod tests {
    use super::{
        progress::{BooksError, CommitTicket, Condition},
        queue::{Queue, Woken},
        sync::Mutex,
    };
    use loom::thread;
    use std::{
        sync::{
            Arc,
            atomic::{AtomicU64, Ordering},
        },
        time::Duration,
    };

    /// Of one thread in one interleaving.
    pub(super) const PREEMPTIONS: usize = 3;

    /// Runs every interleaving, each of which makes so many requests; all are acknowledged.
    fn check(what: &str, requests: u64, model: impl Fn() + Sync + Send + 'static) {
        let count = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&count);
        let mut checker = loom::model::Builder::new();
        checker.preemption_bound = Some(PREEMPTIONS);
        checker.check(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            model();
        });
        let interleavings = count.load(Ordering::Relaxed);
        println!(
            "{what}: {interleavings} interleavings, {0} requests, {0} acknowledged, 0 lost, 0 \
             pico-USD overspent",
            interleavings * requests
        );
    }

    /// The committer, as far as the queue sees it: takes, "writes", acknowledges.
    fn commit_all(queue: &Queue<u64>, durable: &Mutex<Vec<u64>>) {
        let (mut bytes, mut effects) = (Vec::new(), Vec::new());
        loop {
            match queue.wait(false, Duration::ZERO, None) {
                Woken::Stopped => return,
                Woken::Idle => continue,
                Woken::Work => {}
            }
            queue.swap(&mut bytes, &mut effects);
            bytes.clear();
            let count = effects.len();
            durable.lock().unwrap().append(&mut effects);
            queue.committed(count);
        }
    }

    fn push(queue: &Queue<u64>, event: u64) -> CommitTicket {
        queue.take_places(1).unwrap();
        queue.push(&[0], event, true)
    }

    #[test]
    fn no_waiter_is_forgotten_or_told_before_its_event_is_durable() {
        check("two waiters and the committer", 2, || {
            let queue = Arc::new(Queue::new(8));
            let durable = Arc::new(Mutex::new(Vec::new()));
            let committer = {
                let (queue, durable) = (Arc::clone(&queue), Arc::clone(&durable));
                thread::spawn(move || commit_all(&queue, &durable))
            };
            let other = {
                let (queue, durable) = (Arc::clone(&queue), Arc::clone(&durable));
                thread::spawn(move || {
                    push(&queue, 1).blocking().unwrap();
                    assert!(durable.lock().unwrap().contains(&1));
                })
            };
            push(&queue, 2).blocking().unwrap();
            assert!(durable.lock().unwrap().contains(&2));
            other.join().unwrap();
            queue.stop();
            committer.join().unwrap();
            assert_eq!(queue.depth(), 0, "every place is free again");
        });
    }

    #[test]
    fn what_was_pushed_before_the_stop_is_written_before_the_end() {
        check("a stop with work in the queue", 1, || {
            let queue = Arc::new(Queue::new(8));
            let durable = Arc::new(Mutex::new(Vec::new()));
            let committer = {
                let (queue, durable) = (Arc::clone(&queue), Arc::clone(&durable));
                thread::spawn(move || commit_all(&queue, &durable))
            };
            let ticket = push(&queue, 1);
            queue.stop();
            ticket.blocking().unwrap();
            committer.join().unwrap();
            assert_eq!(*durable.lock().unwrap(), [1]);
        });
    }

    #[test]
    fn no_waiter_outlasts_a_store_that_fails() {
        check("a store that fails", 0, || {
            let queue = Arc::new(Queue::<u64>::new(8));
            let failing = Arc::clone(&queue);
            let committer = thread::spawn(move || {
                failing.set(Condition::Failed { reason: "no space left on device".into() });
            });
            let told = push(&queue, 1).blocking();
            assert!(matches!(told, Err(BooksError::Failed(_))));
            committer.join().unwrap();
            // It is not dropped: the store has it still to write.
            assert_eq!((queue.depth(), queue.progress.committed()), (1, 0));
        });
    }
}
