//! The timeouts of an answer that is coming in.

use crate::routes::FaultKind;
use std::{pin::Pin, time::Duration};
use tokio::time::{Instant, Sleep, sleep_until};

/// How long a sign of its end is waited for after an answer that has said all it has to say.
const LINGER: Duration = Duration::from_secs(1);
/// How long its usage is waited for after an answer that is whole without it.
const USAGE_WAIT: Duration = Duration::from_secs(5);

/// A route's timeouts.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the request sent to the first token; streamed answers only.
    pub(super) first_token: Duration,
    /// Between pieces after the first token.
    pub(super) idle: Duration,
    /// For everything.
    pub(super) total: Duration,
}

/// The timeouts of one answer, its head's too. One timer serves them all: it is moved only when it
/// fires.
pub(super) struct Watch {
    /// Longest silence between pieces after the first token.
    idle: Duration,
    first_by: Option<Instant>,
    total_by: Instant,
    /// Until when its end is waited for, once it is whole.
    end_by: Option<Instant>,
    /// When the last piece came, once idling counts.
    heard: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

// === impl Watch ===

impl Watch {
    /// Of an answer to what is `sent` now.
    pub(super) fn new(limits: Limits, sent: Instant, streamed: bool) -> Self {
        let total_by = sent + limits.total;
        let first_by = streamed.then(|| sent + limits.first_token);
        let timer = Box::pin(sleep_until(first_by.unwrap_or(total_by).min(total_by)));
        Self { idle: limits.idle, first_by, total_by, end_by: None, heard: None, timer }
    }

    /// A token came: from the first on silence between pieces counts. A whole answer that goes on was
    /// none.
    pub(super) fn spoke(&mut self) {
        self.end_by = None;
        if self.first_by.take().is_some() {
            self.heard = Some(Instant::now());
            // From here deadlines only move on, which `passed` sees to.
            self.wake_in_time();
        }
    }

    /// A piece came.
    pub(super) fn heard(&mut self) {
        if let Some(heard) = &mut self.heard {
            *heard = Instant::now();
        }
    }

    /// The answer is whole: its usage, where that is not `told`, and its end are not waited for much
    /// longer, whatever comes but a token.
    pub(super) fn is_whole(&mut self, told: bool) {
        let by = Instant::now() + if told { LINGER } else { USAGE_WAIT };
        if self.end_by.is_none_or(|end_by| by < end_by) {
            self.end_by = Some(by);
            self.wake_in_time();
        }
    }

    fn wake_in_time(&mut self) {
        let by = self.ends_by();
        self.timer.as_mut().reset(by);
    }

    /// When the next timeout passes.
    pub(super) fn ends_by(&self) -> Instant {
        self.next_deadline().0
    }

    /// Waits until a timeout passes; says which.
    pub(super) async fn passed(&mut self) -> FaultKind {
        loop {
            self.timer.as_mut().await;
            let (by, kind) = self.next_deadline();
            if Instant::now() >= by {
                return kind;
            }
            self.timer.as_mut().reset(by);
        }
    }

    fn next_deadline(&self) -> (Instant, FaultKind) {
        let idle = self.heard.map(|heard| (heard + self.idle, FaultKind::Idle));
        let first = self.first_by.map(|by| (by, FaultKind::FirstToken));
        let end = self.end_by.map(|by| (by, FaultKind::Idle));
        let soonest = first.or(idle).into_iter().chain(end).min_by_key(|(by, _)| *by);
        match soonest {
            Some((by, kind)) if by < self.total_by => (by, kind),
            _ => (self.total_by, FaultKind::Total),
        }
    }
}

#[cfg(test)]
mod tests {
    //! The watch alone, on a clock that tests move.

    use super::{Duration, FaultKind, Instant, LINGER, Limits, USAGE_WAIT, Watch};

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn watch(first_token: u64, idle: u64, total: u64, streamed: bool) -> Watch {
        let limits = Limits {
            first_token: seconds(first_token),
            idle: seconds(idle),
            total: seconds(total),
        };
        Watch::new(limits, Instant::now(), streamed)
    }

    #[tokio::test(start_paused = true)]
    async fn each_timeout_passes_when_it_should() {
        let began = Instant::now();
        assert_eq!(watch(5, 1, 60, true).passed().await, FaultKind::FirstToken);
        assert_eq!(began.elapsed(), seconds(5));

        let began = Instant::now();
        assert_eq!(watch(5, 1, 60, false).passed().await, FaultKind::Total);
        assert_eq!(began.elapsed(), seconds(60));

        // Idle counts from the first token on, also where it is shorter than what is left.
        let began = Instant::now();
        let mut watch = watch(50, 2, 60, true);
        tokio::time::advance(seconds(10)).await;
        watch.spoke();
        assert_eq!(watch.passed().await, FaultKind::Idle);
        assert_eq!(began.elapsed(), seconds(12));
    }

    #[tokio::test(start_paused = true)]
    async fn after_the_last_word_little_is_waited_for_whatever_comes() {
        let began = Instant::now();
        let mut watch = watch(5, 30, 60, true);
        watch.spoke();
        watch.is_whole(true);
        for _ in 0..9 {
            tokio::time::advance(Duration::from_millis(100)).await;
            watch.heard();
            watch.is_whole(true);
        }
        watch.passed().await;
        assert_eq!(began.elapsed(), LINGER);
    }

    #[tokio::test(start_paused = true)]
    async fn usage_is_waited_for_longer_and_a_token_after_the_end_takes_it_back() {
        let began = Instant::now();
        let mut waits = watch(5, 30, 60, true);
        waits.spoke();
        waits.is_whole(false);
        waits.passed().await;
        assert_eq!(began.elapsed(), USAGE_WAIT);

        let began = Instant::now();
        let mut waits = watch(5, 30, 60, true);
        waits.spoke();
        waits.is_whole(false);
        tokio::time::advance(seconds(2)).await;
        waits.is_whole(true);
        waits.passed().await;
        assert_eq!(began.elapsed(), seconds(2) + LINGER, "the usage came");

        let began = Instant::now();
        let mut goes_on = watch(5, 30, 60, true);
        goes_on.spoke();
        goes_on.is_whole(true);
        goes_on.spoke();
        goes_on.passed().await;
        assert_eq!(began.elapsed(), seconds(30), "as idle as ever");
    }

    #[tokio::test(start_paused = true)]
    async fn a_steady_stream_is_not_idle_and_ends_at_its_total() {
        let began = Instant::now();
        let mut watch = watch(5, 3, 20, true);
        watch.spoke();
        for _ in 0..9 {
            tokio::select! {
                kind = watch.passed() => panic!("{kind:?}"),
                () = tokio::time::sleep(seconds(2)) => watch.heard(),
            }
        }
        assert_eq!(watch.passed().await, FaultKind::Total);
        assert_eq!(began.elapsed(), seconds(20));
    }
}
