//! A job on its way from the parent's queue to the child.

use std::time::{Duration, Instant};

use crate::{
    job::{Job, JobEvent, Priority, Scheduling},
    outbox::Outbox,
    predict::{Basis, Played, Size},
    shared::Waiting,
};

/// A job that the child has.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) outbox: Outbox,
    pub(super) scheduling: Scheduling,
    prompt_tokens: usize,
    max_tokens: u32,
    /// Whether the child has begun it.
    pub(super) started: bool,
    /// How long it waited here.
    pub(super) waited: Duration,
    /// What the child was told: whether its reader has no room.
    paused: bool,
}

impl Sent {
    /// What is kept of a job that leaves the queue, and the job as the child gets it: it waits there for
    /// what is left of its wait.
    pub(super) fn of(waiting: Waiting, queue_wait_max: Duration, now: Instant) -> (Sent, Job) {
        let waited = waiting.waited(now);
        let left = waiting.wait_max(queue_wait_max).saturating_sub(waited);
        let is_part = waiting.is_part();
        let Waiting { mut job, outbox, .. } = waiting;
        let sent = Sent {
            outbox,
            scheduling: job.scheduling,
            prompt_tokens: job.prompt.len(),
            max_tokens: job.max_tokens,
            started: false,
            waited,
            paused: false,
        };
        job.scheduling.queue_wait_max = Some(left);
        // The child gets each choice of a request by itself.
        job.scheduling.follows = is_part;
        (sent, job)
    }

    /// Tokens of its cap that it has not used.
    pub(super) fn unused(&self) -> u64 {
        let generated = self.outbox.meter().generated_tokens();
        self.max_tokens.saturating_sub(generated).into()
    }

    /// It as it is played through. What is read of its prompt is not told: that follows from the time it
    /// has taken.
    pub(super) fn played(&self, basis: &Basis) -> Played {
        let usage = self.outbox.meter().usage();
        let generated = usage.generated_tokens;
        let unread = match generated {
            0 => basis.unread(self.prompt_tokens, &usage),
            _ => 0,
        };
        let Sent { prompt_tokens, max_tokens, .. } = *self;
        basis.played(&self.scheduling, Size { prompt_tokens, max_tokens, generated, unread })
    }

    /// Whether its reader has no room, where the child is yet to be told that.
    pub(super) fn take_paused(&mut self) -> Option<bool> {
        let paused = self.outbox.paused_since().is_some();
        (std::mem::replace(&mut self.paused, paused) != paused).then_some(paused)
    }

    /// Whether its reader has had no room for so long.
    pub(super) fn is_unread(&self, stall_max: Duration, now: Instant) -> bool {
        let since = self.outbox.paused_since();
        since.is_some_and(|since| now.saturating_duration_since(since) >= stall_max)
    }

    /// Whether the child has it where a job of this priority would wait or run there: running, or
    /// waiting and no less urgent.
    pub(super) fn is_ahead_of(&self, priority: Priority) -> bool {
        self.started || self.scheduling.priority <= priority
    }

    /// Says its last word.
    pub(super) fn close(self, last: JobEvent) {
        let waited = self.waited;
        self.outbox.close("", |_| match last {
            JobEvent::Expired { queued } => {
                JobEvent::Expired { queued: waited.saturating_add(queued) }
            }
            last => last,
        });
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use super::*;
    use crate::{scheduler_tests::greedy, shared::Shared};

    #[test]
    fn a_wait_goes_on_where_a_job_is_sent_to_and_a_part_stays_one() {
        let shared = Shared::new(4, 4);
        let (begun, limit) = (Instant::now(), Duration::from_secs(9));
        let job = greedy(&[1, 2, 3]);
        let queued = shared.enqueue_choices(vec![job.clone(), job], begun).expect("taken");
        let mut waiting = shared.queue().jobs.take(|_| true);
        let second = waiting.pop().expect("two");
        let first = waiting.pop().expect("two");
        assert!(second.after.as_ref().is_some_and(|of| Arc::ptr_eq(of, &queued[0].1)));

        let later = begun + Duration::from_secs(4);
        let (sent, job) = Sent::of(first, limit, later);
        assert_eq!(job.scheduling.queue_wait_max, Some(Duration::from_secs(5)));
        assert!(!job.scheduling.follows && sent.unused() == 1);
        let (_, job) = Sent::of(second, limit, later);
        assert!(job.scheduling.follows, "without it the first is no answer");

        let (mut events, _) = queued.into_iter().next().expect("two");
        sent.close(JobEvent::Expired { queued: Duration::from_secs(5) });
        assert_eq!(events.try_recv(), Ok(JobEvent::Expired { queued: limit }), "in all");
    }
}
