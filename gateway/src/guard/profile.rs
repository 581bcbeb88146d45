//! One key's, user's or team's own history, in bounded memory.
//!
//! **Invariant:** averages are statistics and never money that is booked. What happens while an effect holds teaches the history nothing, so that abuse does not
//! become the new normal. No prompt is kept, only hashes.

use super::{
    seen::Seen,
    settings::{Settings, Signal},
    spending::{DAY_MS, Fading, Spending, f64_of},
};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;

/// Answers of a model before their averages mean something.
const WARM: u64 = 50;
/// Requests before a new model or an odd hour means something.
const LONG: u64 = 1_000;
/// Questions remembered, models told apart.
const ASKED_MAX: usize = 64;
const MODELS_MAX: usize = 16;
/// Keys of a user or team that are told apart.
const KEYS_MAX: usize = 128;
/// The most that `loop_max` and `new_keys_max` can tell: what is above them is not remembered.
pub(crate) const LOOP_MAX: u32 = 63;
pub(crate) const NEW_KEYS_MAX: u32 = 127;
const _: () = assert!(LOOP_MAX as usize == ASKED_MAX - 1 && NEW_KEYS_MAX as usize == KEYS_MAX - 1);
/// Times the usual spending above which new keys are more than somebody's order.
const NEW_KEYS_FACTOR: f64 = 1.5;
/// Sessions whose growth is followed; so many turns of growth to so many tokens are too many.
const SESSIONS_MAX: usize = 32;
const GROWING_TURNS: u32 = 5;
const GROWN_TOKENS: u64 = 16_384;
/// How long a question is remembered.
const ASKED_MS: u64 = 600_000;
/// Weights of the newest request in the quick and in the settled averages.
const QUICK: f64 = 0.15;
const SETTLED: f64 = 0.002;
/// Times what is too much that one answer counts for in the quick average: lengths of answers are
/// skewed, and a single long one in a hundred is no blow-up. Four in a row are.
const ONE_MAX: f64 = 2.0;

/// A quick and a settled average of one quantity.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
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

impl Asked {
    /// The question as one session's: what a loop is made of.
    pub(super) fn in_session(&self) -> Option<u64> {
        self.session.map(|session| self.question ^ session)
    }
}

/// A request that was served.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    /// When, milliseconds since the Unix epoch.
    pub unix_ms: u64,
    /// What it cost over all attempts, in pico-USD.
    pub cost: u64,
    /// Hash of the model that answered, else of the one that was asked last; `None` where none was:
    /// an answer that was kept, or another request's.
    pub model: Option<u64>,
    /// What that model answered; `None` where it did not, or nobody knows what it used.
    pub answer: Option<Answered>,
    /// Whether an effect of the guard held for it: such a request teaches nothing.
    pub held: bool,
}

/// One model's answer.
#[derive(Clone, Copy, Debug)]
pub struct Answered {
    /// What it cost by itself, in pico-USD.
    pub cost: u64,
    /// Its tokens.
    pub output: u64,
}

/// What a look at a profile found.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Found {
    pub(super) signal: Signal,
    pub(super) seen: Seen,
}

/// The history.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Profile {
    pub(super) last_ms: u64,
    requests: u64,
    /// Of this process: nothing runs after a restart.
    #[serde(skip)]
    running: u32,
    spending: Spending,
    /// What a request costs, kept answers among them: what those that run will come to.
    cost: Average,
    /// No longer looked at: it keeps the form of what is written down.
    output: Average,
    /// Of this process: not even a hash of a prompt is kept over a restart.
    #[serde(skip)]
    asked: VecDeque<(u64, u64)>,
    models_asked: Vec<u64>,
    models: Vec<Model>,
    /// Of a user or a team.
    keys: Vec<Key>,
    hours: [u32; 24],
    #[serde(skip)]
    sessions: VecDeque<Session>,
    /// What is being done, until when, and what was seen.
    pub(super) held: Option<Held>,
}

/// What is being done.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Held {
    pub(super) signal: Signal,
    pub(super) until_ms: u64,
    pub(super) seen: String,
    /// Throttled: the next request that may pass.
    pub(super) next_ms: u64,
    /// The question that came again and again; only it is held up then.
    pub(super) question: Option<u64>,
}

/// A model, and what it takes of the spending.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Model {
    hash: u64,
    hour: Fading,
    days: Fading,
    /// Written down apart ([`Profile::shapes`]).
    #[serde(skip)]
    shape: Shape,
}

/// What one model's answers are like. Each model has its own, so that who goes from a cheap one to a
/// dear one and back, as policies do, is not taken for somebody whose requests have become dearer.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(super) struct Shape {
    answers: u64,
    cost: Average,
    output: Average,
}

/// A key of a user or a team.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Key {
    hash: u64,
    first_ms: u64,
    last_ms: u64,
}

/// How the prompt of a session grows.
#[derive(Clone, Copy, Debug)]
struct Session {
    hash: u64,
    prompt_tokens: u64,
    /// Turns in a row in which it grew by half or more.
    turns: u32,
}

impl Average {
    fn add(&mut self, value: f64, count: u64) {
        self.add_within(value, count, None);
    }

    /// In the quick average it counts for `most` times the settled one and no more.
    fn add_within(&mut self, value: f64, count: u64, most: Option<f64>) {
        // The first requests weigh alike.
        let equal = 1.0 / f64_of(count.max(1));
        self.settled += (value - self.settled) * SETTLED.max(equal);
        let quick = most.map_or(value, |most| value.min(self.settled * most));
        self.quick += (quick - self.quick) * QUICK.max(equal);
    }

    fn accept(&mut self) {
        self.settled = self.settled.max(self.quick);
    }
}

impl Shape {
    fn add(&mut self, answer: &Answered, factor: f64) {
        self.answers += 1;
        let most = self.is_warm().then_some(factor * ONE_MAX);
        self.cost.add_within(f64_of(answer.cost), self.answers, most);
        self.output.add_within(f64_of(answer.output), self.answers, most);
    }

    fn is_warm(&self) -> bool {
        self.answers > WARM
    }

    /// What of it is out of proportion.
    fn found(&self, factor: f64) -> Vec<Found> {
        let mut found = Vec::new();
        if self.output.quick > self.output.settled * factor {
            found.push(Found {
                signal: Signal::OutputBlowUp,
                seen: Seen::Output { lately: self.output.quick, usual: self.output.settled },
            });
        }
        if self.cost.quick > self.cost.settled * factor {
            found.push(Found {
                signal: Signal::Amplification,
                seen: Seen::Cost { lately: self.cost.quick, usual: self.cost.settled },
            });
        }
        found
    }
}

impl Profile {
    /// Notes a request and says what is strange about it. `key`: a hash of the key, where the profile
    /// is that of its user or team.
    pub(super) fn ask(
        &mut self,
        asked: &Asked,
        key: Option<u64>,
        settings: &Settings,
    ) -> Vec<Found> {
        let mut found = Vec::new();
        if self.last_ms == 0 {
            self.spending.begin(asked.unix_ms);
        }
        self.last_ms = asked.unix_ms;
        self.running = self.running.saturating_add(1);
        if self.held.is_some() {
            // What would have been spent: the pressure that keeps the effect up.
            self.spending.add(asked.unix_ms, self.cost.quick, false, settings);
        }
        found.extend(self.spending(asked.unix_ms, settings));
        found.extend(key.and_then(|key| self.multiplying(asked.unix_ms, key, settings)));
        found.extend(self.looping(asked, settings));
        found.extend(self.growing(asked));
        found.extend(self.emptying(asked, settings));
        found.extend(self.unusual(asked));
        found
    }

    /// Notes what a request came to and says what is strange about it.
    pub(super) fn serve(&mut self, served: &Served, settings: &Settings) -> Vec<Found> {
        self.running = self.running.saturating_sub(1);
        let cost = f64_of(served.cost);
        let teaches = !served.held && self.held.is_none();
        self.spending.add(served.unix_ms, cost, teaches, settings);
        self.requests += 1;
        if !teaches {
            // Neither what it would have cost nor what is usual can be seen from it.
            return Vec::new();
        }
        self.cost.add(cost, self.requests);
        let Some(at) = served.model.and_then(|hash| self.place_of(hash)) else { return Vec::new() };
        let mut found = self.shape(at, served, settings);
        found.extend(self.model(at, served, settings));
        found
    }

    /// Whether there is enough of a history to compare with.
    pub(super) fn knows(&self, now_ms: u64, settings: &Settings) -> bool {
        u128::from(self.spending.age_ms(now_ms)) >= settings.learn.as_millis()
    }

    /// Requests that run.
    #[cfg(test)]
    pub(super) fn counted(&self) -> u32 {
        self.running
    }

    /// A request that was turned away is not running.
    pub(super) fn turned_away(&mut self) {
        self.running = self.running.saturating_sub(1);
    }

    /// What the requests that run will cost.
    fn running(&self) -> f64 {
        f64::from(self.running) * self.cost.quick
    }

    fn spending(&mut self, now_ms: u64, settings: &Settings) -> Option<Found> {
        let running = self.running();
        let seen = self.spending.too_much(now_ms, running, settings)?;
        Some(Found { signal: Signal::SpendVelocity, seen })
    }

    /// Many new keys of one user or team while more is spent than usual: work that is dealt out so
    /// that no key stands out.
    fn multiplying(&mut self, now_ms: u64, hash: u64, settings: &Settings) -> Option<Found> {
        match self.keys.iter_mut().find(|key| key.hash == hash) {
            Some(key) => key.last_ms = now_ms,
            None => {
                if self.keys.len() >= KEYS_MAX {
                    let oldest = self.keys.iter().enumerate().min_by_key(|(_, key)| key.last_ms);
                    let oldest = oldest.map_or(0, |(at, _)| at);
                    self.keys.swap_remove(oldest);
                }
                self.keys.push(Key { hash, first_ms: now_ms, last_ms: now_ms });
            }
        }
        // In its first day every key is new.
        if self.spending.age_ms(now_ms) < DAY_MS {
            return None;
        }
        let since = now_ms.saturating_sub(DAY_MS);
        let new = self.keys.iter().filter(|key| key.first_ms > since).count();
        if new <= usize::try_from(settings.new_keys_max).unwrap_or(usize::MAX) {
            return None;
        }
        let usual = self.spending.usual(now_ms, settings);
        let (fast, _) = self.spending.rates(now_ms, self.running());
        (fast > usual * NEW_KEYS_FACTOR).then_some(Found {
            signal: Signal::NewKeys,
            seen: Seen::NewKeys { new, rate: fast, usual },
        })
    }

    /// Where a model stands among those that are told apart.
    fn place_of(&mut self, hash: u64) -> Option<usize> {
        let known = self.models.iter().position(|model| model.hash == hash);
        if known.is_none() && self.models.len() < MODELS_MAX {
            self.models.push(Model { hash, ..Model::default() });
            return Some(self.models.len() - 1);
        }
        known
    }

    /// A model that was little used takes more than is anybody's concern.
    fn model(&mut self, at: usize, served: &Served, settings: &Settings) -> Option<Found> {
        let now_ms = served.unix_ms;
        let knows = self.spending.age_ms(now_ms) >= DAY_MS;
        let model = self.models.get_mut(at)?;
        model.hour.add_to_hour(now_ms, f64_of(served.cost));
        let hour = model.hour.of_hour(now_ms);
        model.days.add_to_days(now_ms, f64_of(served.cost));
        let usual = self.spending.average(model.days, now_ms);
        let limit = usual.max(f64_of(settings.floor_per_hour.pico())) * settings.hour_factor;
        let seen = Seen::Model { hour, usual };
        (knows && hour > limit).then_some(Found { signal: Signal::ModelSpend, seen })
    }

    /// Answers of a model that have become longer or dearer than its others were.
    fn shape(&mut self, at: usize, served: &Served, settings: &Settings) -> Vec<Found> {
        let (fast, _) = self.spending.rates(served.unix_ms, 0.0);
        let (Some(model), Some(answer)) = (self.models.get_mut(at), &served.answer) else {
            return Vec::new();
        };
        model.shape.add(answer, settings.shape_factor);
        // Only where it costs more than is anybody's concern.
        let floor = f64_of(settings.floor_per_hour.pico());
        if !model.shape.is_warm() || fast < floor {
            return Vec::new();
        }
        model.shape.found(settings.shape_factor)
    }

    /// What its models' answers are like, in their order.
    pub(super) fn shapes(&self) -> Vec<Shape> {
        self.models.iter().map(|model| model.shape).collect()
    }

    /// Takes back what [`Profile::shapes`] told.
    pub(super) fn reshape(&mut self, shapes: &[Shape]) {
        for (model, shape) in self.models.iter_mut().zip(shapes) {
            model.shape = *shape;
        }
    }

    /// A question asked over and over in one session. Without a session many callers of one
    /// application ask the same (a classifier, a health check), which is no loop.
    fn looping(&mut self, asked: &Asked, settings: &Settings) -> Option<Found> {
        let question = asked.in_session()?;
        let since = asked.unix_ms.saturating_sub(ASKED_MS);
        while self.asked.front().is_some_and(|(at, _)| *at < since) {
            self.asked.pop_front();
        }
        if self.asked.len() >= ASKED_MAX {
            self.asked.pop_front();
        }
        self.asked.push_back((asked.unix_ms, question));
        let same = self.asked.iter().filter(|(_, other)| *other == question).count();
        let max = usize::try_from(settings.loop_max).unwrap_or(ASKED_MAX).min(ASKED_MAX - 1);
        (same > max)
            .then_some(Found { signal: Signal::PromptLoop, seen: Seen::Question { times: same } })
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
        (session.turns >= GROWING_TURNS && prompt_tokens >= GROWN_TOKENS).then_some(Found {
            signal: Signal::SessionGrowth,
            seen: Seen::Growth { turns: session.turns, prompt_tokens },
        })
    }

    fn emptying(&mut self, asked: &Asked, settings: &Settings) -> Option<Found> {
        let left = f64_of(asked.left?);
        let (_, hour) = self.spending.rates(asked.unix_ms, 0.0);
        let usual = self.spending.usual(asked.unix_ms, settings);
        (hour > usual && left < hour)
            .then_some(Found { signal: Signal::TimeToEmpty, seen: Seen::Emptying { left, hour } })
    }

    fn unusual(&mut self, asked: &Asked) -> Vec<Found> {
        let mut found = Vec::new();
        let long = self.requests > LONG;
        let known = self.models_asked.contains(&asked.model);
        if !known && self.models_asked.len() < MODELS_MAX {
            self.models_asked.push(asked.model);
            if long {
                let seen = Seen::NewModel { requests: self.requests };
                found.push(Found { signal: Signal::NewModel, seen });
            }
        }
        if let Some(count) = self.hours.get_mut(usize::from(asked.hour)) {
            *count = count.saturating_add(1);
            if long && *count == 1 {
                let seen = Seen::OddHour { hour: asked.hour, requests: self.requests };
                found.push(Found { signal: Signal::OddHour, seen });
            }
        }
        found
    }

    /// The operator says that it is all right: what was seen becomes usual.
    pub(super) fn lift(&mut self, now_ms: u64) {
        self.held = None;
        self.spending.accept(now_ms, self.running());
        for key in &mut self.keys {
            key.first_ms = 0;
        }
        for model in &mut self.models {
            model.days = self.spending.accepted(model.hour.of_hour(now_ms), now_ms);
            model.shape.cost.accept();
            model.shape.output.accept();
        }
        self.asked.clear();
    }
}
