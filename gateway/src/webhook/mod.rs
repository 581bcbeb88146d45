//! Webhooks: who is told of what operators should know, and that it is told until it is heard.
//!
//! **Invariants:** nothing of this is on a request's path: the journal is the queue, each receiver
//! has one task and one place in it, and a receiver that is slow, wrong or gone holds up nobody
//! else. Events of a receiver come in their order, each at least once and always under the same id;
//! the place is written down after each, so that a restart goes on from there. A receiver's address
//! and secret are in no log, error or metric.

mod sign;
mod view;

pub use sign::{SIGNATURE_HEADER, signature};
pub(crate) use view::view;

use crate::{
    causes,
    clock::Clock,
    config::WebhookConfig,
    draw::{backoff, draw},
    ledger::{Books, BooksError, Next, Notice, Telling, Told},
};
use http::{HeaderMap, StatusCode, header};
use reqwest::{Client, Url, redirect};
use secrecy::ExposeSecret as _;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

/// Longest `retry-after` that is waited out.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);
/// An event that the receiver itself refuses (4xx) is given up when it is this old: it is this one
/// that it does not take, and others wait behind it.
const REFUSED_MAX: Duration = Duration::from_secs(3_600);
/// The wait after the ledger could not be read or written.
const LEDGER_WAIT: Duration = Duration::from_secs(1);

/// One receiver, and how it stands.
#[derive(Debug)]
pub struct Webhook {
    /// What the operator set.
    pub config: WebhookConfig,
    client: Client,
    url: Url,
    clock: Clock,
    state: Mutex<State>,
    delivered: AtomicU64,
    failed: AtomicU64,
    given_up: AtomicU64,
}

/// How a receiver stands at this moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Number of the last event that it has, or will never have.
    pub seq: u64,
    /// Events that wait for it.
    pub waiting: u64,
    /// Failures in a row.
    pub failures: u32,
    /// What the last failure was.
    pub last_error: Option<String>,
    /// When it took an event last, milliseconds since the Unix epoch.
    pub delivered_unix_ms: Option<u64>,
}

/// What was counted of a receiver since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events it took.
    pub delivered: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Events it was not told of in the end, or may have missed because it was too far behind.
    pub given_up: u64,
}

/// Why an attempt failed.
struct Failure {
    reason: String,
    /// The receiver says that it is the event's own fault.
    refused: bool,
    retry_after: Option<Duration>,
}

// === impl Webhook ===

impl Webhook {
    /// A receiver that goes on where `told` says. Opens no connection.
    ///
    /// # Errors
    /// What is wrong with its address, in the operator's terms.
    pub fn new(config: WebhookConfig, told: Told, clock: Clock) -> Result<Self, String> {
        let url =
            Url::parse(config.url.expose_secret()).map_err(|error| format!("url: {error}"))?;
        let client = Client::builder()
            .timeout(config.timeout)
            // Like every other client here: who is told is who is configured.
            .no_proxy()
            .redirect(redirect::Policy::none())
            .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
            .pool_max_idle_per_host(1)
            .build()
            .map_err(|error| format!("no client: {error}"))?;
        Ok(Self {
            client,
            url,
            clock,
            state: Mutex::new(State { seq: told.seq, ..State::default() }),
            delivered: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            config,
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How it stands.
    #[must_use]
    pub fn state(&self) -> State {
        self.lock().clone()
    }

    /// What was counted since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts {
            delivered: self.delivered.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
            given_up: self.given_up.load(Ordering::Relaxed),
        }
    }

    /// Whether it is told of this.
    fn wants(&self, notice: &Notice) -> bool {
        self.config.events.is_empty() || self.config.events.iter().any(|event| notice.is(event))
    }

    /// Tells it of everything that comes, until `stop`.
    pub async fn run(self: Arc<Self>, books: Books, stop: CancellationToken) {
        let mut news = books.news();
        let telling = async {
            loop {
                // Before looking: what comes while it looks is news again.
                news.borrow_and_update();
                let (hook, looking) = (Arc::clone(&self), books.clone());
                let look = tokio::task::spawn_blocking(move || hook.next(&looking)).await;
                match look {
                    Ok(Next { notice: Some((seq, notice)), .. }) => {
                        let how = self.deliver(&notice, &books).await;
                        self.note(&books, seq, how).await;
                    }
                    Ok(Next { notice: None, .. }) => {
                        if news.changed().await.is_err() {
                            return;
                        }
                    }
                    Err(_) => sleep(LEDGER_WAIT).await,
                }
            }
        };
        stop.run_until_cancelled(telling).await;
    }

    /// What it is told next. Blocking.
    fn next(&self, books: &Books) -> Next {
        let seq = self.lock().seq;
        let next = books.next_notice(seq, |notice| self.wants(notice));
        let mut state = self.lock();
        state.waiting = next.waiting;
        // What lies between concerns others, or is gone.
        state.seq = next.notice.as_ref().map_or(next.newest, |(seq, _)| seq - 1);
        if next.missed {
            self.given_up.fetch_add(1, Ordering::Relaxed);
            tracing::error!(
                webhook = %self.config.name,
                "it was so far behind that events it was not told of are only in the ledger"
            );
        }
        next
    }

    /// Counts what waits for it while it does not take an event. Blocking, but not for the disk.
    pub fn count(&self, books: &Books) {
        let seq = self.lock().seq;
        let waiting = books.next_notice(seq, |notice| self.wants(notice)).waiting;
        self.lock().waiting = waiting;
    }

    /// Posts one event until it is taken or given up.
    async fn deliver(self: &Arc<Self>, notice: &Notice, books: &Books) -> Telling {
        let mut failures = 0_u32;
        loop {
            let Err(failure) = self.post(notice).await else { return Telling::Delivered };
            self.failed.fetch_add(1, Ordering::Relaxed);
            failures = failures.saturating_add(1);
            let (name, reason) = (&self.config.name, &failure.reason);
            tracing::warn!(webhook = %name, event = %notice.id, failures, %reason, "not delivered");
            {
                let mut state = self.lock();
                state.failures = failures;
                state.last_error = Some(failure.reason.clone());
            }
            let (hook, looking) = (Arc::clone(self), books.clone());
            // A thread that died has counted nothing; the next attempt does.
            let _counted = tokio::task::spawn_blocking(move || hook.count(&looking)).await;
            let age = self.clock.unix_ms().saturating_sub(notice.unix_ms);
            let refused = if failure.refused { REFUSED_MAX } else { Duration::MAX };
            let patience = self.config.give_up_after.min(refused);
            if u128::from(age) >= patience.as_millis() {
                tracing::error!(webhook = %name, event = %notice.id, "given up: it is too old");
                return Telling::GivenUp;
            }
            let own = backoff(self.config.backoff, self.config.backoff_max, failures - 1, draw());
            sleep(failure.retry_after.unwrap_or_default().min(RETRY_AFTER_MAX).max(own)).await;
        }
    }

    async fn post(&self, notice: &Notice) -> Result<(), Failure> {
        let body = view(notice).to_string();
        let unix_s = self.clock.unix_ms() / 1_000;
        let signed = signature(self.config.secret.expose_secret(), unix_s, &body);
        let sent = self
            .client
            .post(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(SIGNATURE_HEADER, signed)
            .body(body)
            .send()
            .await;
        match sent {
            // Its words are of no interest, and may be endless.
            Ok(answer) if answer.status().is_success() => Ok(()),
            Ok(answer) => Err(Failure::of_status(answer.status(), answer.headers())),
            Err(error) => Err(Failure {
                reason: causes::of_request(error),
                refused: false,
                retry_after: None,
            }),
        }
    }

    /// Writes down how it stands with an event; goes on when that is durable, or with the store as
    /// it is: at worst the event is told once more after a restart.
    async fn note(&self, books: &Books, seq: u64, how: Telling) {
        match how {
            Telling::Delivered => {
                self.delivered.fetch_add(1, Ordering::Relaxed);
            }
            Telling::GivenUp => {
                self.given_up.fetch_add(1, Ordering::Relaxed);
            }
            Telling::Begins => {}
        }
        let noted = books.put_told(&self.config.name, seq, how).committed().await;
        if let Err(error) = noted {
            let name = &self.config.name;
            tracing::warn!(webhook = %name, %error, "its place is not written down");
            if error != BooksError::Closed {
                sleep(LEDGER_WAIT).await;
            }
        }
        let mut state = self.lock();
        state.seq = seq;
        if how == Telling::Delivered {
            state.failures = 0;
            state.last_error = None;
            state.delivered_unix_ms = Some(self.clock.unix_ms());
        }
    }
}

impl Failure {
    fn of_status(status: StatusCode, headers: &HeaderMap) -> Self {
        let seconds = headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        Self {
            reason: format!("answered {}", status.as_u16()),
            refused: status.is_client_error() && !matches!(status.as_u16(), 408 | 409 | 425 | 429),
            retry_after: seconds.and_then(|text| text.parse().ok()).map(Duration::from_secs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_events_own_fault_is_told_from_what_may_pass() {
        let of = |code: u16| {
            let status = StatusCode::from_u16(code).unwrap();
            Failure::of_status(status, &HeaderMap::new()).refused
        };
        assert!(of(400) && of(404) && of(410));
        assert!(!of(408) && !of(429) && !of(500) && !of(301));
    }

    #[test]
    fn a_receiver_says_how_long_to_wait_in_seconds_and_nothing_else_is_believed() {
        let of = |text: &'static str| {
            let headers = [(header::RETRY_AFTER, http::HeaderValue::from_static(text))];
            Failure::of_status(StatusCode::SERVICE_UNAVAILABLE, &headers.into_iter().collect())
        };
        assert_eq!(of("7").retry_after, Some(Duration::from_secs(7)));
        assert_eq!(of("soon").retry_after, None);
    }
}
