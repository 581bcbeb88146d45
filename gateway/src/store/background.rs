//! Threads that take no core from who serves.

/// The calling thread, once it is woken, waits for a core that is free or whose thread's turn is over,
/// and interrupts none. Where a core does both, what the committer takes at once is then all that the
/// requests in hand have queued, instead of the little that one of them had when it was interrupted:
/// on one core in `strict` a request costs 70 us instead of 98 (medians of five alternating turns).
/// Where a core is free nothing changes. Whether the system took it: a sandbox may not let it.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
#[expect(unsafe_code, reason = "the standard library and rustix set no thread's scheduling policy")]
pub(crate) fn give_way() -> bool {
    let none = libc::sched_param { sched_priority: 0 };
    // SAFETY: 0 is the calling thread, and the parameter outlives the call, which only reads it.
    unsafe { libc::sched_setscheduler(0, libc::SCHED_BATCH, &raw const none) == 0 }
}

/// Other systems have no such policy.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn give_way() -> bool {
    false
}

#[cfg(all(test, target_os = "linux", target_env = "gnu"))]
mod tests {
    use std::fs;

    #[test]
    fn a_thread_that_gives_way_is_scheduled_as_a_batch() {
        let policy = || {
            let stat = fs::read_to_string("/proc/thread-self/stat").unwrap();
            // The 41st column; the second, the name, may hold blanks.
            let after_name = stat.rsplit_once(") ").unwrap().1.to_owned();
            after_name.split(' ').nth(38).unwrap().to_owned()
        };
        std::thread::scope(|scope| {
            scope.spawn(|| {
                assert_eq!(policy(), libc::SCHED_OTHER.to_string());
                let expected =
                    if super::give_way() { libc::SCHED_BATCH } else { libc::SCHED_OTHER };
                assert_eq!(policy(), expected.to_string());
            });
        });
    }
}
