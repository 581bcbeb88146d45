//! What the guard saw, in numbers: put into words only where somebody is told.

use std::fmt;

/// What was seen. Money in pico-USD.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Seen {
    /// Five minutes at so much an hour.
    Fast {
        rate: f64,
        usual: f64,
        factor: f64,
    },
    /// What has gathered above the usual.
    Above {
        above: f64,
        hour: f64,
        usual: f64,
        factor: f64,
    },
    NewKeys {
        new: usize,
        rate: f64,
        usual: f64,
    },
    Model {
        hour: f64,
        usual: f64,
    },
    Output {
        lately: f64,
        usual: f64,
    },
    Cost {
        lately: f64,
        usual: f64,
    },
    Question {
        times: usize,
    },
    Growth {
        turns: u32,
        prompt_tokens: u64,
    },
    Emptying {
        left: f64,
        hour: f64,
    },
    NewModel {
        requests: u64,
    },
    OddHour {
        hour: u8,
        requests: u64,
    },
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let usd = |pico: f64| pico / 1e12;
        match *self {
            Self::Fast { rate, usual, factor } => write!(
                f,
                "{:.4} USD an hour over the last 5 minutes, usually {:.4}; the limit is {factor} times",
                usd(rate),
                usd(usual)
            ),
            Self::Above { above, hour, usual, factor } => write!(
                f,
                "{:.4} USD above what is usual, {:.4} USD an hour lately and usually {:.4}; as much as \
                 an hour at {factor} times",
                usd(above),
                usd(hour),
                usd(usual)
            ),
            Self::NewKeys { new, rate, usual } => write!(
                f,
                "{new} new keys within a day and {:.4} USD an hour over the last 5 minutes, usually \
                 {:.4}",
                usd(rate),
                usd(usual)
            ),
            Self::Model { hour, usual } => {
                write!(f, "{:.4} USD in an hour on one model, usually {:.4}", usd(hour), usd(usual))
            }
            Self::Output { lately, usual } => {
                write!(f, "answers of {lately:.0} tokens lately from one model, usually {usual:.0}")
            }
            Self::Cost { lately, usual } => {
                let (lately, usual) = (usd(lately), usd(usual));
                write!(f, "{lately:.6} USD an answer lately from one model, usually {usual:.6}")
            }
            Self::Question { times } => {
                write!(f, "one question {times} times within ten minutes")
            }
            Self::Growth { turns, prompt_tokens } => write!(
                f,
                "a session's prompt grew by half or more in {turns} turns, to about {prompt_tokens} \
                 tokens"
            ),
            Self::Emptying { left, hour } => write!(
                f,
                "{:.4} USD left and {:.4} an hour going out: empty in {:.0} minutes",
                usd(left),
                usd(hour),
                left / hour * 60.0
            ),
            Self::NewModel { requests } => {
                write!(f, "a model never asked for in {requests} requests")
            }
            Self::OddHour { hour, requests } => {
                write!(f, "{hour} o'clock, never in {requests} requests")
            }
        }
    }
}
