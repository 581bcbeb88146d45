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

/// Requests left, as they are called by OpenAI, Azure, Groq, xAI and another tollgate; Anthropic;
/// Mistral; Together and OpenRouter.
static REQUESTS_LEFT: [HeaderName; 4] = [
    HeaderName::from_static("x-ratelimit-remaining-requests"),
    HeaderName::from_static("anthropic-ratelimit-requests-remaining"),
    HeaderName::from_static("x-ratelimit-remaining-req-minute"),
    HeaderName::from_static("x-ratelimit-remaining"),
];
/// Tokens left: the same in their order, Mistral's older name, Together's.
static TOKENS_LEFT: [HeaderName; 5] = [
    HeaderName::from_static("x-ratelimit-remaining-tokens"),
    HeaderName::from_static("anthropic-ratelimit-tokens-remaining"),
    HeaderName::from_static("x-ratelimit-remaining-tokens-minute"),
    HeaderName::from_static("x-ratelimitbysize-remaining-minute"),
    HeaderName::from_static("x-tokenlimit-remaining"),
];
/// When requests are full again.
static REQUESTS_RESET: [HeaderName; 3] = [
    HeaderName::from_static("x-ratelimit-reset-requests"),
    HeaderName::from_static("anthropic-ratelimit-requests-reset"),
    HeaderName::from_static("x-ratelimit-reset"),
];
/// When tokens are full again.
static TOKENS_RESET: [HeaderName; 4] = [
    HeaderName::from_static("x-ratelimit-reset-tokens"),
    HeaderName::from_static("anthropic-ratelimit-tokens-reset"),
    HeaderName::from_static("ratelimitbysize-reset"),
    HeaderName::from_static("x-tokenlimit-reset"),
];
/// What the names of all of them begin with.
const FAMILIES: [&str; 4] = ["x-ratelimit", "anthropic-ratelimit", "x-tokenlimit", "ratelimit"];
/// Longest reset that is kept.
const RESET_BYTES_MAX: usize = 40;

impl RateSeen {
    /// Reads an answer's headers; `None` where they say nothing.
    #[must_use]
    pub fn read(headers: &HeaderMap) -> Option<Self> {
        // Every answer comes by here, most say nothing, and one look at their few headers is cheaper
        // than looking each of ours up.
        let begins = |name: &HeaderName| FAMILIES.iter().any(|of| name.as_str().starts_with(of));
        if !headers.keys().any(begins) {
            return None;
        }
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
    use super::{REQUESTS_LEFT, REQUESTS_RESET, RateSeen, TOKENS_LEFT, TOKENS_RESET};
    use http::{HeaderMap, HeaderValue};

    fn read(pairs: &[(&'static str, &'static str)]) -> Option<RateSeen> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.insert(*name, value.parse().unwrap());
        }
        RateSeen::read(&headers)
    }

    /// A provider's headers, and what is read: requests and tokens left, and their resets.
    type Case =
        (&'static [(&'static str, &'static str)], [Option<u64>; 2], [Option<&'static str>; 2]);

    /// As the providers' own pages show them, or their answers did.
    const CASES: [Case; 7] = [
        // https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers
        (
            &[
                ("x-ratelimit-limit-requests", "60"),
                ("x-ratelimit-remaining-requests", "59"),
                ("x-ratelimit-remaining-tokens", "149984"),
                ("x-ratelimit-reset-requests", "1s"),
                ("x-ratelimit-reset-tokens", "6m0s"),
            ],
            [Some(59), Some(149_984)],
            [Some("1s"), Some("6m0s")],
        ),
        // https://learn.microsoft.com/azure/ai-foundry/openai/how-to/quota: no reset.
        (
            &[("x-ratelimit-remaining-requests", "299"), ("x-ratelimit-remaining-tokens", "29976")],
            [Some(299), Some(29_976)],
            [None, None],
        ),
        // https://platform.claude.com/docs/en/api/rate-limits#response-headers
        (
            &[
                ("anthropic-ratelimit-requests-limit", "1000"),
                ("anthropic-ratelimit-requests-remaining", "999"),
                ("anthropic-ratelimit-requests-reset", "2025-08-21T12:40:59Z"),
                ("anthropic-ratelimit-input-tokens-remaining", "80000"),
                ("anthropic-ratelimit-tokens-remaining", "96000"),
                ("anthropic-ratelimit-tokens-reset", "2025-08-21T12:41:00Z"),
            ],
            [Some(999), Some(96_000)],
            [Some("2025-08-21T12:40:59Z"), Some("2025-08-21T12:41:00Z")],
        ),
        // https://console.groq.com/docs/rate-limits#rate-limit-headers
        (
            &[
                ("x-ratelimit-remaining-requests", "14370"),
                ("x-ratelimit-remaining-tokens", "17997"),
                ("x-ratelimit-reset-requests", "2m59.56s"),
                ("x-ratelimit-reset-tokens", "7.66s"),
            ],
            [Some(14_370), Some(17_997)],
            [Some("2m59.56s"), Some("7.66s")],
        ),
        // Mistral's answers; its pages name no headers.
        (
            &[
                ("x-ratelimit-limit-req-minute", "60"),
                ("x-ratelimit-remaining-req-minute", "59"),
                ("x-ratelimit-remaining-tokens-minute", "47196"),
                ("x-ratelimit-remaining-tokens-month", "3950246"),
            ],
            [Some(59), Some(47_196)],
            [None, None],
        ),
        // https://docs.together.ai/docs/rate-limits
        (
            &[
                ("x-ratelimit-limit", "10"),
                ("x-ratelimit-remaining", "9"),
                ("x-ratelimit-reset", "1"),
                ("x-tokenlimit-remaining", "98500"),
            ],
            [Some(9), Some(98_500)],
            [Some("1"), None],
        ),
        // https://openrouter.ai/docs/api-reference/limits: milliseconds of the epoch.
        (
            &[("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1741305600000")],
            [Some(0), None],
            [Some("1741305600000"), None],
        ),
    ];

    #[test]
    fn each_providers_headers_are_read() {
        for (headers, left, reset) in CASES {
            let seen = read(headers).unwrap();
            assert_eq!([seen.requests_left, seen.tokens_left], left, "{headers:?}");
            let resets = [seen.requests_reset.as_deref(), seen.tokens_reset.as_deref()];
            assert_eq!(resets, reset, "{headers:?}");
        }
    }

    #[test]
    fn every_header_that_is_read_is_one_that_tells() {
        let all = [&REQUESTS_LEFT[..], &TOKENS_LEFT, &REQUESTS_RESET, &TOKENS_RESET].concat();
        for name in all {
            let headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("1"))]);
            assert!(RateSeen::read(&headers).is_some(), "{name}");
        }
    }

    #[test]
    fn what_says_nothing_or_too_much_is_not_read() {
        assert_eq!(read(&[("content-type", "x")]), None);
        assert_eq!(read(&[("x-ratelimit-remaining-requests", "many")]), None);
        let long = "1234567890123456789012345678901234567890_";
        assert_eq!(read(&[("x-ratelimit-reset-tokens", long)]), None);
    }
}
