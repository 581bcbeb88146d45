//! What providers say about the rate that is left, in whichever headers they say it.

use http::{HeaderMap, HeaderName};
use schemars::JsonSchema;
use serde::Serialize;

/// A provider's own rate limit as it last told it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "ProviderRate")]
pub struct RateSeen {
    /// Requests left in its window.
    pub requests_left: Option<u64>,
    /// Tokens left in its window.
    pub tokens_left: Option<u64>,
    /// When the requests are full again, in the provider's own words (`6m0s`, a date).
    pub requests_reset: Option<String>,
    /// When the tokens are full again, likewise.
    pub tokens_reset: Option<String>,
}

/// Requests left, as OpenAI, Anthropic and OpenRouter call it.
static REQUESTS_LEFT: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("x-ratelimit-remaining"),
];
/// Tokens left, as OpenAI, Anthropic and Mistral call it.
static TOKENS_LEFT: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
    HeaderName::from_static("x-ratelimitbysize-remaining-minute"),
];
static REQUESTS_RESET: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-reset-requests"),
    HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    HeaderName::from_static("x-ratelimit-reset"),
];
static TOKENS_RESET: [HeaderName; 2] = [
    HeaderName::from_static("x-ratelimit-reset-tokens"),
    HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
];
/// Longest reset that is kept.
const RESET_BYTES_MAX: usize = 40;

impl RateSeen {
    /// Reads an answer's headers; `None` where they say nothing.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        let text = |names: &[HeaderName]| {
            let found = names.iter().find_map(|name| headers.get(name))?;
            found.to_str().ok().filter(|text| text.len() <= RESET_BYTES_MAX)
        };
        let number = |names: &[HeaderName]| text(names)?.parse().ok();
        let seen = Self {
            requests_left: number(&REQUESTS_LEFT),
            tokens_left: number(&TOKENS_LEFT),
            requests_reset: text(&REQUESTS_RESET).map(str::to_owned),
            tokens_reset: text(&TOKENS_RESET).map(str::to_owned),
        };
        (seen != Self::default()).then_some(seen)
    }
}

#[cfg(test)]
mod tests {
    use super::RateSeen;
    use http::HeaderMap;

    #[test]
    fn openais_and_anthropics_headers_are_read() {
        let read = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            RateSeen::read(&headers)
        };
        assert_eq!(read(&[("content-type", "x")]), None);
        let openai = read(&[
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-remaining-tokens", "149984"),
            ("x-ratelimit-reset-requests", "1s"),
            ("x-ratelimit-reset-tokens", "6m0s"),
        ]);
        let openai = openai.unwrap();
        assert_eq!((openai.requests_left, openai.tokens_left), (Some(59), Some(149_984)));
        assert_eq!(openai.tokens_reset.as_deref(), Some("6m0s"));
        let anthropic = read(&[
            ("anthropic-ratelimit-requests-remaining", "49"),
            ("anthropic-ratelimit-tokens-reset", "2026-11-26T12:00:00Z"),
        ]);
        assert_eq!(anthropic.unwrap().requests_left, Some(49));
    }
}
