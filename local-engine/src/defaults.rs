//! How the makers of a model want its tokens drawn, as far as its file says so (`general.sampling.*`,
//! which converters take from `generation_config.json`). Values out of range are left out.

use std::{ops::RangeInclusive, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::validate::WINDOW_MAX;

/// See the file's head; what is `None` the file does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplingDefaults {
    /// 0 (greedy) to 2.
    pub temperature: Option<f32>,
    /// Above 0, to 1.
    pub top_p: Option<f32>,
    /// 0 is off.
    pub top_k: Option<u32>,
    /// 0 to 1.
    pub min_p: Option<f32>,
    /// 0.01 to 10.
    pub repeat_penalty: Option<f32>,
    /// The window of the penalties, in tokens.
    pub repeat_last_n: Option<u32>,
}

impl SamplingDefaults {
    /// Reads them from a file's metadata.
    pub(crate) fn read(metadata: impl Fn(&str) -> Option<String>) -> SamplingDefaults {
        let text = |name: &str| metadata(&format!("general.sampling.{name}"));
        let number = |name, range: RangeInclusive<f32>| within(text(name), &range);
        let whole = |name| text(name).and_then(|text| text.trim().parse::<i32>().ok());
        let window = |last: i32| match last {
            -1 => Some(WINDOW_MAX),
            last => u32::try_from(last).ok().map(|last| last.min(WINDOW_MAX)),
        };
        SamplingDefaults {
            temperature: number("temp", 0.0..=2.0),
            top_p: number("top_p", f32::EPSILON..=1.0),
            top_k: whole("top_k").map(|k| u32::try_from(k).unwrap_or(0)),
            min_p: number("min_p", 0.0..=1.0),
            repeat_penalty: number("penalty_repeat", 0.01..=10.0),
            repeat_last_n: whole("penalty_last_n").and_then(window),
        }
    }
}

fn within<T: FromStr + PartialOrd>(text: Option<String>, range: &RangeInclusive<T>) -> Option<T> {
    text?.trim().parse().ok().filter(|number| range.contains(number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_says_is_read_where_it_makes_sense() {
        let says = |key: &str| {
            let text = match key.strip_prefix("general.sampling.")? {
                "temp" => "0.600000",
                "top_k" => "20",
                "top_p" => "nan",
                "min_p" => "7",
                "penalty_last_n" => "-1",
                _ => return None,
            };
            Some(text.to_owned())
        };
        let expected = SamplingDefaults {
            temperature: Some(0.6),
            top_k: Some(20),
            repeat_last_n: Some(WINDOW_MAX),
            ..SamplingDefaults::default()
        };
        assert_eq!(SamplingDefaults::read(says), expected);
        assert_eq!(SamplingDefaults::read(|_| None), SamplingDefaults::default());
    }
}
