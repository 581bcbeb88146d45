//! A route that keeps failing is left alone for a while, then tried with a few requests.
//!
//! **Invariants:** only upstream faults open it, never a caller's own; while it is open nothing is
//! sent; while it is half open at most `probes_max` attempts run at once, and each [`Pass`] gives its
//! probe back, whatever becomes of it. The closed path is a few relaxed atomics. Time is
//! `tokio::time::Instant`, which tests move.

use crate::config::BreakerConfig;
use policies::RouteId;
use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Keeps a failing route from being asked.
#[derive(Debug)]
pub struct Breaker {
    /// Whose it is, for the log.
    route: RouteId,
    config: BreakerConfig,
    /// Whether it is closed: what the hot path reads.
    closed: AtomicBool,
    /// Upstream faults in a row.
    in_a_row: AtomicU32,
    /// Answers since the window began.
    answered: AtomicU32,
    /// Times it has opened without a good answer in between. While it is closed this tells that a
    /// health check alone has closed it.
    rests: AtomicU32,
    /// Times it has opened.
    opened: AtomicU64,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    window_from: Instant,
    failed: u32,
    /// Until when nothing is sent; `None` while closed.
    open_until: Option<Instant>,
    probing: u32,
}

/// How a breaker stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakerState {
    /// Attempts pass.
    Closed,
    /// Nothing passes for so long.
    Open(Duration),
    /// A few attempts pass; `room` says whether another one would.
    HalfOpen {
        /// Whether a probe is free.
        room: bool,
    },
}

/// Leave for one attempt. Say how it began; dropped without a word (the caller left, or was at fault)
/// it counts for nothing.
#[derive(Debug)]
#[must_use = "say whether the attempt succeeded"]
pub struct Pass<'b> {
    breaker: &'b Breaker,
    probe: bool,
}

// === impl Breaker ===

impl Breaker {
    /// A closed one.
    #[must_use]
    pub fn new(route: RouteId, config: BreakerConfig) -> Self {
        let inner = Inner { window_from: Instant::now(), failed: 0, open_until: None, probing: 0 };
        Self {
            route,
            config,
            closed: AtomicBool::new(true),
            in_a_row: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            rests: AtomicU32::new(0),
            opened: AtomicU64::new(0),
            inner: Mutex::new(inner),
        }
    }

    /// How it stands now.
    #[must_use]
    pub fn state(&self) -> BreakerState {
        if self.closed.load(Ordering::Relaxed) {
            return BreakerState::Closed;
        }
        let inner = self.lock();
        match inner.open_until.map(|until| until.saturating_duration_since(Instant::now())) {
            None => BreakerState::Closed,
            Some(Duration::ZERO) => {
                BreakerState::HalfOpen { room: inner.probing < self.config.probes_max }
            }
            Some(left) => BreakerState::Open(left),
        }
    }

    /// For how long nothing passes, as far as that is known; `None` where something would.
    #[must_use]
    pub fn resting(&self) -> Option<Duration> {
        match self.state() {
            BreakerState::Closed | BreakerState::HalfOpen { room: true } => None,
            BreakerState::HalfOpen { room: false } => Some(self.config.open),
            BreakerState::Open(left) => Some(left),
        }
    }

    /// Leave for one attempt.
    ///
    /// # Errors
    /// How long nothing will pass, as far as that is known.
    pub fn pass(&self) -> Result<Pass<'_>, Duration> {
        if self.closed.load(Ordering::Relaxed) {
            return Ok(Pass { breaker: self, probe: false });
        }
        let mut inner = self.lock();
        let Some(until) = inner.open_until else { return Ok(Pass { breaker: self, probe: false }) };
        let left = until.saturating_duration_since(Instant::now());
        if !left.is_zero() {
            return Err(left);
        }
        if inner.probing >= self.config.probes_max {
            return Err(self.config.open);
        }
        inner.probing += 1;
        Ok(Pass { breaker: self, probe: true })
    }

    /// An answer came to a good end. Its first token alone is no success: a route that breaks every
    /// answer off would look half well.
    pub fn succeeded(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if self.in_a_row.load(Ordering::Relaxed) != 0 {
            self.in_a_row.store(0, Ordering::Relaxed);
        }
        if self.rests.load(Ordering::Relaxed) != 0 && self.closed.load(Ordering::Relaxed) {
            self.rests.store(0, Ordering::Relaxed);
        }
    }

    /// The route was at fault outside a [`Pass`]: an answer that broke after its first byte.
    pub fn failed(&self) {
        self.fail(false);
    }

    /// The route is well, as a health check has found: it is asked again, and its next fault opens it
    /// as a failed probe does. What a check asks for says little of what requests do.
    pub fn well(&self) {
        if !self.closed.load(Ordering::Relaxed) {
            let mut inner = self.lock();
            if inner.has_rested() {
                self.close(&mut inner);
            }
        }
    }

    /// A health check has found that the route is not well: it counts as a fault, and where a probe
    /// is due it was one.
    pub fn unwell(&self) {
        if !self.closed.load(Ordering::Relaxed) {
            let mut inner = self.lock();
            if inner.has_rested() {
                self.in_a_row.fetch_add(1, Ordering::Relaxed);
                self.open(&mut inner, Instant::now());
                return;
            }
        }
        self.fail(false);
    }

    /// Upstream faults in a row.
    #[must_use]
    pub fn failed_in_a_row(&self) -> u32 {
        self.in_a_row.load(Ordering::Relaxed)
    }

    /// Times it has opened since the start.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// How it stands, as operators see it.
    #[must_use]
    pub fn report(&self) -> serde_json::Value {
        let (state, opens_in) = match self.state() {
            BreakerState::Closed => ("closed", None),
            BreakerState::Open(left) => ("open", Some(left.as_millis())),
            BreakerState::HalfOpen { .. } => ("half_open", None),
        };
        serde_json::json!({
            "state": state,
            "tried_again_in_ms": opens_in.and_then(|millis| u64::try_from(millis).ok()),
            "failed_in_a_row": self.failed_in_a_row(),
            "opened": self.opened(),
        })
    }

    fn fail(&self, probe: bool) {
        let now = Instant::now();
        let row = self.in_a_row.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut inner = self.lock();
        if probe {
            inner.probing = inner.probing.saturating_sub(1);
            // Several that fail together are one failed trial.
            if inner.has_rested() {
                self.open(&mut inner, now);
                return;
            }
        }
        if inner.open_until.is_some() {
            // An attempt from before it opened: it has been heard.
            return;
        }
        if now.saturating_duration_since(inner.window_from) > self.config.window {
            inner.window_from = now;
            inner.failed = 0;
            self.answered.store(0, Ordering::Relaxed);
        }
        inner.failed = inner.failed.saturating_add(1);
        let seen = u64::from(inner.failed) + u64::from(self.answered.load(Ordering::Relaxed));
        let share = u64::from(inner.failed) * 1000 >= seen * u64::from(self.config.failed_permille);
        let by_share = seen >= u64::from(self.config.samples_min) && share;
        let on_trial = self.rests.load(Ordering::Relaxed) != 0;
        if row >= self.config.failures_max || by_share || on_trial {
            self.open(&mut inner, now);
        }
    }

    fn open(&self, inner: &mut Inner, now: Instant) {
        let doublings = self.rests.fetch_add(1, Ordering::Relaxed).min(16);
        let wait = self.config.open.saturating_mul(1 << doublings).min(self.config.open_max);
        inner.open_until = Some(now + wait);
        inner.failed = 0;
        inner.window_from = now;
        self.answered.store(0, Ordering::Relaxed);
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.closed.store(false, Ordering::Relaxed);
        tracing::warn!(
            route = %self.route,
            failed_in_a_row = self.failed_in_a_row(),
            for_ms = wait.as_millis(),
            "a route that fails is left alone"
        );
    }

    fn close(&self, inner: &mut Inner) {
        if inner.open_until.take().is_some() {
            tracing::info!(route = %self.route, "a route that was left alone is asked again");
        }
        inner.failed = 0;
        inner.window_from = Instant::now();
        self.answered.store(0, Ordering::Relaxed);
        self.in_a_row.store(0, Ordering::Relaxed);
        self.closed.store(true, Ordering::Relaxed);
    }

    fn give_back(&self) {
        let mut inner = self.lock();
        inner.probing = inner.probing.saturating_sub(1);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// Whether it is open and has been for as long as it is to be.
    fn has_rested(&self) -> bool {
        self.open_until.is_some_and(|until| until <= Instant::now())
    }
}

// === impl Pass ===

impl Pass<'_> {
    /// The route has begun to answer: enough for a probe, and the route is asked again. How it ends, the
    /// breaker is told apart: until an answer has come to a good end its next fault opens it for twice as
    /// long.
    pub fn begun(mut self) {
        if std::mem::take(&mut self.probe) {
            let mut inner = self.breaker.lock();
            inner.probing = inner.probing.saturating_sub(1);
            // Another probe may have failed meanwhile.
            if inner.has_rested() {
                self.breaker.close(&mut inner);
            }
        }
    }

    /// The route was at fault.
    pub fn failed(mut self) {
        self.breaker.fail(std::mem::take(&mut self.probe));
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.breaker.give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    //! On a clock that tests move.

    use super::*;
    use tokio::time::advance;

    fn breaker() -> Breaker {
        let open = Duration::from_secs(5);
        let config = BreakerConfig { open, open_max: Duration::from_secs(15), ..quick() };
        Breaker::new(RouteId::new("cloud"), config)
    }

    fn quick() -> BreakerConfig {
        BreakerConfig { failures_max: 3, samples_min: 10, ..BreakerConfig::default() }
    }

    fn fail(breaker: &Breaker, times: usize) {
        for _ in 0..times {
            breaker.pass().unwrap().failed();
        }
    }

    fn answer(breaker: &Breaker) {
        breaker.pass().unwrap().begun();
        breaker.succeeded();
    }

    async fn seconds(seconds: u64) {
        advance(Duration::from_secs(seconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn faults_in_a_row_open_it_and_one_good_answer_between_does_not() {
        let breaker = breaker();
        fail(&breaker, 2);
        answer(&breaker);
        fail(&breaker, 2);
        assert_eq!(breaker.state(), BreakerState::Closed);
        fail(&breaker, 1);
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(5)));
        assert!(breaker.pass().is_err(), "nothing is sent");
    }

    #[tokio::test(start_paused = true)]
    async fn half_open_lets_one_probe_through_at_once() {
        let breaker = breaker();
        fail(&breaker, 3);
        seconds(5).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen { room: true });
        let probe = breaker.pass().unwrap();
        assert_eq!(breaker.state(), BreakerState::HalfOpen { room: false });
        assert!(breaker.pass().is_err());
        drop(probe);
        assert!(breaker.pass().is_ok(), "a caller that leaves gives its probe back");
        answer(&breaker);
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn each_failed_probe_doubles_the_rest_up_to_its_limit() {
        let breaker = breaker();
        fail(&breaker, 3);
        for wait in [10, 15, 15] {
            seconds(60).await;
            fail(&breaker, 1);
            assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(wait)));
        }
        seconds(15).await;
        answer(&breaker);
        fail(&breaker, 3);
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(5)), "forgotten");
        assert_eq!(breaker.opened(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn probes_that_run_together_are_one_trial() {
        let breaker = breaker();
        let config = BreakerConfig { probes_max: 3, ..breaker.config };
        let breaker = Breaker::new(RouteId::new("cloud"), config);
        fail(&breaker, 3);
        seconds(5).await;
        let [first, second, third] = [(); 3].map(|()| breaker.pass().unwrap());
        first.failed();
        second.failed();
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(10)));
        third.begun();
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(10)));
        seconds(10).await;
        assert_eq!(breaker.state(), BreakerState::HalfOpen { room: true });
        let [first, second] = [(); 2].map(|()| breaker.pass().unwrap());
        first.begun();
        assert_eq!(breaker.state(), BreakerState::Closed);
        second.failed();
        assert!(matches!(breaker.state(), BreakerState::Open(_)), "on trial");
    }

    #[tokio::test(start_paused = true)]
    async fn a_share_of_failures_opens_it_too_but_old_ones_do_not_count() {
        let breaker = breaker();
        for _ in 0..4 {
            fail(&breaker, 1);
            answer(&breaker);
        }
        seconds(60).await;
        fail(&breaker, 1);
        answer(&breaker);
        fail(&breaker, 1);
        assert_eq!(breaker.state(), BreakerState::Closed, "only three in this window");
        for _ in 0..4 {
            answer(&breaker);
            fail(&breaker, 1);
        }
        assert!(matches!(breaker.state(), BreakerState::Open(_)), "half of ten");
    }

    #[tokio::test(start_paused = true)]
    async fn a_health_check_closes_it_only_once_it_has_rested() {
        let breaker = breaker();
        fail(&breaker, 3);
        breaker.well();
        assert!(matches!(breaker.state(), BreakerState::Open(_)));
        seconds(5).await;
        breaker.well();
        assert_eq!(breaker.state(), BreakerState::Closed);
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_goes_well_while_requests_fail_lets_one_of_them_through_at_a_time() {
        let breaker = breaker();
        fail(&breaker, 3);
        for wait in [10, 15, 15] {
            seconds(60).await;
            breaker.well();
            fail(&breaker, 1);
            assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(wait)));
        }
        seconds(15).await;
        breaker.well();
        answer(&breaker);
        fail(&breaker, 2);
        assert_eq!(breaker.state(), BreakerState::Closed, "a good answer ends the trial");
    }

    #[tokio::test(start_paused = true)]
    async fn a_check_that_fails_is_the_probe_of_a_route_that_has_rested() {
        let breaker = breaker();
        fail(&breaker, 3);
        breaker.unwell();
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(5)), "it rests");
        seconds(5).await;
        breaker.unwell();
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(10)));
        let breaker = self::breaker();
        (0..3).for_each(|_| breaker.unwell());
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(5)));
    }

    #[tokio::test(start_paused = true)]
    async fn faults_of_attempts_from_before_it_opened_do_not_prolong_it() {
        let breaker = breaker();
        let early: Vec<_> = (0..5).map(|_| breaker.pass().unwrap()).collect();
        early.into_iter().for_each(Pass::failed);
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(5)));
        assert_eq!(breaker.opened(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_begin_and_break_off_are_no_good_end_of_a_rest() {
        let breaker = breaker();
        for _ in 0..3 {
            breaker.pass().unwrap().begun();
            breaker.failed();
        }
        for rest in [5, 10, 15] {
            assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(rest)));
            seconds(rest).await;
            breaker.pass().unwrap().begun();
            assert_eq!(breaker.state(), BreakerState::Closed, "others are let through meanwhile");
            breaker.failed();
        }
        seconds(15).await;
        breaker.pass().unwrap().begun();
        breaker.succeeded();
        breaker.pass().unwrap().begun();
        breaker.failed();
        assert_eq!(breaker.state(), BreakerState::Closed, "one fault is no reason any more");
    }

    #[tokio::test(start_paused = true)]
    async fn answers_that_begin_and_break_off_open_it() {
        let breaker = breaker();
        for _ in 0..3 {
            breaker.pass().unwrap().begun();
            breaker.failed();
        }
        assert_eq!(breaker.state(), BreakerState::Open(Duration::from_secs(5)));
    }
}
