//! One key's or user's own history, in bounded memory.
//!
//! **Invariant:** rates and averages are statistics and never money that is booked: floats stay in
//! here. What happens while an effect holds teaches the history nothing, so that abuse does not
//! become the new normal. No prompt is kept, only hashes.

use super::settings::{Settings, Signal};
use std::collections::VecDeque;

const MINUTE_MS: f64 = 60_000.0;
const FAST_MS: f64 = 5.0 * MINUTE_MS;
const HOUR_MS: f64 = 60.0 * MINUTE_MS;
/// Time constant of the history.
const SLOW_MS: f64 = 72.0 * HOUR_MS;
/// Requests before averages mean something.
const WARM: u64 = 50;
/// Requests before a new model or an odd hour means something.
const LONG: u64 = 1_000;
/// Questions remembered, models told apart.
const ASKED_MAX: usize = 64;
const MODELS_MAX: usize = 16;
/// Sessions whose growth is followed; so many turns of growth to so many tokens are too many.
const SESSIONS_MAX: usize = 32;
const GROWING_TURNS: u32 = 5;
const GROWN_TOKENS: u64 = 16_384;
/// How long a question is remembered.
const ASKED_MS: u64 = 600_000;
/// Weights of the newest request in the quick and in the settled averages.
const QUICK: f64 = 0.15;
const SETTLED: f64 = 0.002;

/// A sum that fades with time.
#[derive(Clone, Copy, Debug, Default)]
struct Fading {
    sum: f64,
    at_ms: u64,
}

/// A quick and a settled average of one quantity.
#[derive(Clone, Copy, Debug, Default)]
struct Average {
    quick: f64,
    settled: f64,
}

/// A request about to be served.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// Hash of its normalised last message.
    pub question: u64,
    /// Hash of the model that it asks for.
    pub model: u64,
    /// Hour of the day in the configured zone.
    pub hour: u8,
    /// Hash of its session, if it names one.
    pub session: Option<u64>,
    /// An estimate of its prompt's tokens.
    pub prompt_tokens: u64,
    /// What the tightest hard money budget on its path has left, in pico-USD.
    pub left: Option<u64>,
}

/// A request that was served.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What it cost, in pico-USD.
    pub cost: u64,
    /// Prompt tokens.
    pub input: u64,
    /// Answer tokens.
    pub output: u64,
}

/// What a look at a profile found.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) signal: Signal,
    /// In words and numbers.
    pub(super) seen: String,
}

/// The history.
#[derive(Clone, Debug, Default)]
pub(super) struct Profile {
    first_ms: u64,
    pub(super) last_ms: u64,
    requests: u64,
    running: u32,
    fast: Fading,
    hour: Fading,
    slow: Fading,
    cost: Average,
    output: Average,
    asked: VecDeque<(u64, u64)>,
    models: Vec<u64>,
    hours: [u32; 24],
    sessions: VecDeque<Session>,
    /// What is being done, until when, and what was seen.
    pub(super) held: Option<Held>,
}

/// What is being done.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) signal: Signal,
    pub(super) until_ms: u64,
    pub(super) seen: String,
    /// Throttled: the next request that may pass.
    pub(super) next_ms: u64,
    /// The question that came again and again; only it is held up then.
    pub(super) question: Option<u64>,
}

/// How the prompt of a session grows.
#[derive(Clone, Copy, Debug)]
struct Session {
    hash: u64,
    prompt_tokens: u64,
    /// Turns in a row in which it grew by half or more.
    turns: u32,
}

impl Fading {
    fn at(self, now_ms: u64, tau: f64) -> f64 {
        let age = f64_of(now_ms.saturating_sub(self.at_ms));
        self.sum * (-age / tau).exp()
    }

    fn add(&mut self, now_ms: u64, tau: f64, amount: f64) {
        self.sum = self.at(now_ms, tau) + amount;
        self.at_ms = self.at_ms.max(now_ms);
    }
}

impl Average {
    fn add(&mut self, value: f64, count: u64) {
        // The first requests weigh alike.
        let equal = 1.0 / f64_of(count.max(1));
        self.settled += (value - self.settled) * SETTLED.max(equal);
        self.quick += (value - self.quick) * QUICK.max(equal);
    }
}

impl Profile {
    /// Notes a request and says what is strange about it.
    pub(super) fn ask(&mut self, asked: &Asked, settings: &Settings) -> Vec<Found> {
        let mut found = Vec::new();
        if self.requests == 0 {
            self.first_ms = asked.unix_ms;
        }
        self.last_ms = asked.unix_ms;
        self.running = self.running.saturating_add(1);
        if self.held.is_some() {
            // What would have been spent: the pressure that keeps the effect up.
            let would_be = self.cost.quick;
            self.fast.add(asked.unix_ms, FAST_MS, would_be);
            self.hour.add(asked.unix_ms, HOUR_MS, would_be);
        }
        found.extend(self.spending(asked.unix_ms, settings));
        found.extend(self.looping(asked, settings));
        found.extend(self.growing(asked));
        found.extend(self.emptying(asked, settings));
        found.extend(self.unusual(asked));
        found
    }

    /// Notes what a request came to and says what is strange about it.
    pub(super) fn serve(&mut self, served: &Served, settings: &Settings) -> Vec<Found> {
        self.running = self.running.saturating_sub(1);
        let (cost, output) = (f64_of(served.cost), f64_of(served.output));
        self.fast.add(served.unix_ms, FAST_MS, cost);
        self.hour.add(served.unix_ms, HOUR_MS, cost);
        let before = (self.cost, self.output);
        self.requests += 1;
        self.cost.add(cost, self.requests);
        self.output.add(output, self.requests);
        if self.held.is_some() {
            (self.cost.settled, self.output.settled) = (before.0.settled, before.1.settled);
        } else {
            self.slow.add(served.unix_ms, SLOW_MS, cost);
        }
        self.shape(served.unix_ms, settings)
    }

    /// A request that was turned away is not running.
    pub(super) fn turned_away(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// The usual spending, pico-USD an hour.
    fn usual(&self, now_ms: u64) -> f64 {
        let age = f64_of(now_ms.saturating_sub(self.first_ms)).max(1.0);
        let weight = SLOW_MS * (1.0 - (-age / SLOW_MS).exp());
        // An hour of history at least: a first burst is not a habit.
        self.slow.at(now_ms, SLOW_MS) / weight.max(HOUR_MS) * HOUR_MS
    }

    fn spending(&self, now_ms: u64, settings: &Settings) -> Option<Found> {
        let floor = f64_of(settings.floor_per_hour.pico());
        let usual = self.usual(now_ms).max(floor);
        let running = f64::from(self.running) * self.cost.quick;
        let fast = (self.fast.at(now_ms, FAST_MS) + running) / FAST_MS * HOUR_MS;
        let hour = (self.hour.at(now_ms, HOUR_MS) + running) / HOUR_MS * HOUR_MS;
        let (rate, factor, over) = if fast > usual * settings.fast_factor {
            (fast, settings.fast_factor, "5 minutes")
        } else if hour > usual * settings.hour_factor {
            (hour, settings.hour_factor, "hour")
        } else {
            return None;
        };
        let usd = |pico: f64| pico / 1e12;
        Some(Found {
            signal: Signal::SpendVelocity,
            seen: format!(
                "{:.4} USD an hour over the last {over}, usually {:.4}; the limit is {factor} times",
                usd(rate),
                usd(usual)
            ),
        })
    }

    fn shape(&self, now_ms: u64, settings: &Settings) -> Vec<Found> {
        let mut found = Vec::new();
        let warm = self.requests > WARM;
        // Only where it costs more than is anybody's concern.
        let floor = f64_of(settings.floor_per_hour.pico());
        let fast = self.fast.at(now_ms, FAST_MS) / FAST_MS * HOUR_MS;
        if !warm || fast < floor {
            return found;
        }
        if self.output.quick > self.output.settled * settings.shape_factor {
            found.push(Found {
                signal: Signal::OutputBlowUp,
                seen: format!(
                    "answers of {:.0} tokens lately, usually {:.0}",
                    self.output.quick, self.output.settled
                ),
            });
        }
        if self.cost.quick > self.cost.settled * settings.shape_factor {
            found.push(Found {
                signal: Signal::Amplification,
                seen: format!(
                    "{:.6} USD a request lately, usually {:.6}",
                    self.cost.quick / 1e12,
                    self.cost.settled / 1e12
                ),
            });
        }
        found
    }

    fn looping(&mut self, asked: &Asked, settings: &Settings) -> Option<Found> {
        let since = asked.unix_ms.saturating_sub(ASKED_MS);
        while self.asked.front().is_some_and(|(at, _)| *at < since) {
            self.asked.pop_front();
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((asked.unix_ms, asked.question));
        let same = self.asked.iter().filter(|(_, question)| *question == asked.question).count();
        let max = usize::try_from(settings.loop_max).unwrap_or(ASKED_MAX).min(ASKED_MAX - 1);
        (same > max).then(|| Found {
            signal: Signal::PromptLoop,
            seen: format!("one question {same} times within ten minutes"),
        })
    }

    fn growing(&mut self, asked: &Asked) -> Option<Found> {
        let (hash, prompt_tokens) = (asked.session?, asked.prompt_tokens);
        let at = self.sessions.iter().position(|session| session.hash == hash);
        let mut session = at.and_then(|at| self.sessions.remove(at)).unwrap_or(Session {
            hash,
            prompt_tokens: u64::MAX / 2,
            turns: 0,
        });
        let grew = prompt_tokens >= session.prompt_tokens.saturating_add(session.prompt_tokens / 2);
        session.turns = if grew { session.turns + 1 } else { 0 };
        session.prompt_tokens = prompt_tokens;
        if self.sessions.len() >= SESSIONS_MAX {
            self.sessions.pop_front();
        }
        self.sessions.push_back(session);
        (session.turns >= GROWING_TURNS && prompt_tokens >= GROWN_TOKENS).then(|| Found {
            signal: Signal::SessionGrowth,
            seen: format!(
                "a session's prompt grew by half or more in {} turns, to about {prompt_tokens} \
                 tokens",
                session.turns
            ),
        })
    }

    fn emptying(&self, asked: &Asked, settings: &Settings) -> Option<Found> {
        let left = f64_of(asked.left?);
        let hour = self.hour.at(asked.unix_ms, HOUR_MS);
        let usual = self.usual(asked.unix_ms).max(f64_of(settings.floor_per_hour.pico()));
        (hour > usual && left < hour).then(|| Found {
            signal: Signal::TimeToEmpty,
            seen: format!(
                "{:.4} USD left and {:.4} an hour going out: empty in {:.0} minutes",
                left / 1e12,
                hour / 1e12,
                left / hour * 60.0
            ),
        })
    }

    fn unusual(&mut self, asked: &Asked) -> Vec<Found> {
        let mut found = Vec::new();
        let long = self.requests > LONG;
        if !self.models.contains(&asked.model) && self.models.len() < MODELS_MAX {
            self.models.push(asked.model);
            if long {
                let seen = format!("a model never asked for in {} requests", self.requests);
                found.push(Found { signal: Signal::NewModel, seen });
            }
        }
        if let Some(count) = self.hours.get_mut(usize::from(asked.hour)) {
            *count = count.saturating_add(1);
            if long && *count == 1 {
                let seen = format!("{} o'clock, never in {} requests", asked.hour, self.requests);
                found.push(Found { signal: Signal::OddHour, seen });
            }
        }
        found
    }

    /// The operator says that it is all right: what was seen becomes usual.
    pub(super) fn lift(&mut self, now_ms: u64) {
        self.held = None;
        let hour = self.hour.at(now_ms, HOUR_MS);
        let age = f64_of(now_ms.saturating_sub(self.first_ms)).max(HOUR_MS);
        let weight = SLOW_MS * (1.0 - (-age / SLOW_MS).exp());
        let usual = hour / HOUR_MS * weight;
        self.slow = Fading { sum: self.slow.at(now_ms, SLOW_MS).max(usual), at_ms: now_ms };
        self.cost.settled = self.cost.settled.max(self.cost.quick);
        self.output.settled = self.output.settled.max(self.output.quick);
        self.asked.clear();
    }
}

#[expect(clippy::cast_precision_loss, reason = "statistics, not money")]
fn f64_of(number: u64) -> f64 {
    number as f64
}
