//! What the abuse guard looks for, and what it does then.

use crate::ledger::GuardEffect;
use policies::PicoUsd;
use std::{collections::HashSet, time::Duration};

/// Something that abuse looks like.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Signal {
    /// Money goes out much faster than this key's or user's own history tells.
    SpendVelocity,
    /// Answers have become much longer than they were.
    OutputBlowUp,
    /// A request has become much dearer than it was.
    Amplification,
    /// The same question comes again and again.
    PromptLoop,
    /// The prompt of a session grows by half at every turn.
    SessionGrowth,
    /// A model that this key never asked for in a long history.
    NewModel,
    /// An hour of the day at which this key never works.
    OddHour,
    /// At this pace a budget is empty within the hour.
    TimeToEmpty,
}

/// What the operator set.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Whether it watches at all.
    pub enabled: bool,
    /// What is done about spending, output and cost per request out of proportion.
    pub spend: GuardEffect,
    /// What is done about a prompt that comes again and again.
    pub prompt_loop: GuardEffect,
    /// What is done about a session that grows and grows.
    pub session_growth: GuardEffect,
    /// Times its own average at which five minutes of spending are too much.
    pub fast_factor: f64,
    /// The same for an hour.
    pub hour_factor: f64,
    /// Times its own average at which answers or requests are out of proportion.
    pub shape_factor: f64,
    /// Spending below this is nobody's concern; also what a key without a history may spend.
    pub floor_per_hour: PicoUsd,
    /// Like questions within ten minutes that are still let through.
    pub loop_max: u32,
    /// How long an effect lasts; it goes on while what caused it does.
    pub hold: Duration,
    /// Keys and `user:` names that are never held up.
    pub allow: HashSet<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            spend: GuardEffect::LocalOnly,
            prompt_loop: GuardEffect::Throttled,
            session_growth: GuardEffect::Logged,
            fast_factor: 5.0,
            hour_factor: 2.2,
            shape_factor: 4.0,
            // Half a dollar.
            floor_per_hour: PicoUsd::from_pico(500_000_000_000),
            loop_max: 20,
            hold: Duration::from_secs(30 * 60),
            allow: HashSet::new(),
        }
    }
}

impl Signal {
    /// Its name in events, tags and tables.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::SpendVelocity => "spend_velocity",
            Self::OutputBlowUp => "output_blow_up",
            Self::Amplification => "amplification",
            Self::PromptLoop => "prompt_loop",
            Self::SessionGrowth => "session_growth",
            Self::NewModel => "new_model",
            Self::OddHour => "odd_hour",
            Self::TimeToEmpty => "time_to_empty",
        }
    }
}

impl Settings {
    /// What is done about a signal.
    #[must_use]
    pub fn effect(&self, signal: Signal) -> GuardEffect {
        match signal {
            Signal::SpendVelocity | Signal::OutputBlowUp | Signal::Amplification => self.spend,
            Signal::PromptLoop => self.prompt_loop,
            Signal::SessionGrowth => self.session_growth,
            Signal::NewModel | Signal::OddHour | Signal::TimeToEmpty => GuardEffect::Logged,
        }
    }
}
