//! What the abuse guard looks for, and what it does then.

use crate::ledger::GuardEffect;
use policies::PicoUsd;
use std::{collections::HashSet, time::Duration};

/// Something that abuse looks like.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
pub enum Signal {
    /// Money goes out much faster than this key's, user's or team's own history tells.
    SpendVelocity,
    /// A user or a team has many new keys and spends more than usual.
    NewKeys,
    /// Answers have become much longer than they were.
    OutputBlowUp,
    /// A request has become much dearer than it was.
    Amplification,
    /// The same question comes again and again.
    PromptLoop,
    /// The prompt of a session grows by half at every turn.
    SessionGrowth,
    /// A model that was little used takes much of the money.
    ModelSpend,
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
    /// What is done about a model that suddenly takes much of the money.
    pub model_spend: GuardEffect,
    /// Keys of one user or team, new within a day, that are somebody's order and not abuse.
    pub new_keys_max: u32,
    /// Times the usual at which five minutes of spending are too much.
    pub fast_factor: f64,
    /// The same for an hour. Less than this counts too, in proportion: what is above half of this
    /// excess adds up.
    pub hour_factor: f64,
    /// Times its own average at which answers or requests are out of proportion.
    pub shape_factor: f64,
    /// Spending below this is nobody's concern; also what a key without a history may spend.
    pub floor_per_hour: PicoUsd,
    /// Like questions within ten minutes that are still let through.
    pub loop_max: u32,
    /// Age of a history before anything is held up for what only a comparison with it tells. Before
    /// that it is written down: a launch or a load test is no abuse, and what protects a new key is
    /// its budget.
    pub learn: Duration,
    /// How long an effect lasts; it goes on while what caused it does.
    pub hold: Duration,
    /// Keys, and names such as `user:ada` or `team:red`, that are never held up.
    pub allow: HashSet<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            spend: GuardEffect::LocalOnly,
            prompt_loop: GuardEffect::Throttled,
            session_growth: GuardEffect::Logged,
            model_spend: GuardEffect::Logged,
            new_keys_max: 4,
            fast_factor: 5.0,
            hour_factor: 2.2,
            shape_factor: 4.0,
            // Half a dollar.
            floor_per_hour: PicoUsd::from_pico(500_000_000_000),
            loop_max: 20,
            learn: Duration::from_secs(24 * 3_600),
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
            Self::NewKeys => "new_keys",
            Self::ModelSpend => "model_spend",
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

impl Signal {
    /// Whether it is a comparison with the subject's own history.
    #[must_use]
    pub fn compares(self) -> bool {
        matches!(
            self,
            Self::SpendVelocity
                | Self::NewKeys
                | Self::ModelSpend
                | Self::OutputBlowUp
                | Self::Amplification
        )
    }

    /// The signal of a name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let all = [
            Self::SpendVelocity,
            Self::NewKeys,
            Self::ModelSpend,
            Self::OutputBlowUp,
            Self::Amplification,
            Self::PromptLoop,
            Self::SessionGrowth,
            Self::NewModel,
            Self::OddHour,
            Self::TimeToEmpty,
        ];
        all.into_iter().find(|signal| signal.name() == name)
    }
}

impl Settings {
    /// What is done about a signal.
    #[must_use]
    pub fn effect(&self, signal: Signal) -> GuardEffect {
        match signal {
            Signal::SpendVelocity
            | Signal::NewKeys
            | Signal::OutputBlowUp
            | Signal::Amplification => self.spend,
            Signal::ModelSpend => self.model_spend,
            Signal::PromptLoop => self.prompt_loop,
            Signal::SessionGrowth => self.session_growth,
            Signal::NewModel | Signal::OddHour | Signal::TimeToEmpty => GuardEffect::Logged,
        }
    }
}
