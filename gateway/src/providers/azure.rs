//! Azure's API by its version: a dated one answers 400 to a field that came later, so each field of
//! OpenAI's has a date here.
//!
//! The dates are those of Microsoft's own list of changes
//! (<https://learn.microsoft.com/azure/ai-services/openai/api-version-deprecation>), of its page on
//! models that think (<https://learn.microsoft.com/azure/ai-foundry/openai/how-to/reasoning>) and of the
//! specification of 2024-10-21, the last dated version that is not a preview. The undated API takes
//! what OpenAI's takes.

use super::{
    kinds::{OPENAI_THINKS, OPENAI_UNSTOPPED},
    reshape::{Family, Shape},
};
use crate::config::CapField;

/// From here on a version takes `reasoning_effort`, and `max_completion_tokens` for every model.
const THINKS_FROM: &str = "2024-12-01";
/// From here on a version takes `stream_options` and `parallel_tool_calls`, and
/// `max_completion_tokens` for models that think.
const STREAMS_USAGE_FROM: &str = "2024-09-01";

/// A deployment has the name that its operator gave it. One that is named after its model, as the
/// portal proposes, is taken for it; of others nothing is said.
const FAMILIES: &[Family] = &[OPENAI_THINKS, OPENAI_UNSTOPPED];

/// Hints that came late, the latest first; beside each run the versions that do not know it.
const HINTS: &[&str] = &[
    // None with a date.
    "verbosity",
    "prompt_cache_key",
    "safety_identifier",
    "service_tier",
    // Those before `THINKS_FROM`.
    "store",
    "metadata",
    // Those before `STREAMS_USAGE_FROM`: the usage of a stream is estimated then.
    "stream_options",
];

static UNDATED: Shape = Shape { families: FAMILIES, ..Shape::NONE };
static DATED: Shape = Shape { drops: HINTS.split_at(4).0, families: FAMILIES, ..Shape::NONE };
static BEFORE_THINKING: Shape = Shape {
    refuses: &["reasoning_effort"],
    drops: HINTS.split_at(6).0,
    families: FAMILIES,
    ..Shape::NONE
};
static BEFORE_USAGE: Shape = Shape {
    refuses: &["reasoning_effort", "parallel_tool_calls"],
    drops: HINTS,
    families: FAMILIES,
    ..Shape::NONE
};

/// Where the API of this version differs from OpenAI's; `None` is the undated one.
pub(super) fn shape(version: Option<&str>) -> &'static Shape {
    // Dates are written so that their order is that of their letters; `-preview` comes after the day.
    match version {
        None => &UNDATED,
        Some(version) if version >= THINKS_FROM => &DATED,
        Some(version) if version >= STREAMS_USAGE_FROM => &BEFORE_THINKING,
        Some(_) => &BEFORE_USAGE,
    }
}

/// The field in which this version takes the output cap of this deployment.
pub(super) fn cap_field(version: Option<&str>, deployment: &str) -> CapField {
    match version {
        Some(version) if version < STREAMS_USAGE_FROM => CapField::MaxTokens,
        Some(version) if version < THINKS_FROM && !OPENAI_THINKS.holds(deployment) => {
            CapField::MaxTokens
        }
        _ => CapField::MaxCompletionTokens,
    }
}

#[cfg(test)]
mod tests {
    use super::{cap_field, shape};
    use crate::{config::CapField, providers::reshape};
    use bytes::Bytes;

    /// What is sent to a deployment by this version of the API, or the field that it is refused for.
    fn sent(version: Option<&str>, deployment: &str, body: &'static str) -> Result<String, String> {
        let body = Bytes::from_static(body.as_bytes());
        let shaped = reshape(body, shape(version), deployment, &[]);
        match shaped {
            Ok(body) => Ok(String::from_utf8(body.to_vec()).unwrap()),
            Err(bad) => Err(bad.param.unwrap()),
        }
    }

    #[test]
    fn hints_that_a_version_does_not_know_are_left_out() {
        let body = r#"{"store":true,"stream_options":{"include_usage":true},"user":"u","prompt_cache_key":"k"}"#;
        for (version, expected) in [
            (None, body),
            (
                Some("2025-04-01-preview"),
                r#"{"store":true,"stream_options":{"include_usage":true},"user":"u"}"#,
            ),
            (Some("2024-10-21"), r#"{"stream_options":{"include_usage":true},"user":"u"}"#),
            (Some("2024-09-01-preview"), r#"{"stream_options":{"include_usage":true},"user":"u"}"#),
            (Some("2024-08-01-preview"), r#"{"user":"u"}"#),
            (Some("2024-06-01"), r#"{"user":"u"}"#),
        ] {
            assert_eq!(sent(version, "chat", body).as_deref(), Ok(expected), "{version:?}");
        }
    }

    #[test]
    fn what_changes_the_answer_is_refused_where_a_version_does_not_know_it() {
        let one = r#"{"parallel_tool_calls":false}"#;
        let several = r#"{"parallel_tool_calls":true}"#;
        let effort = r#"{"reasoning_effort":"low"}"#;
        assert_eq!(sent(Some("2024-06-01"), "chat", one).unwrap_err(), "parallel_tool_calls");
        assert!(sent(Some("2024-10-21"), "chat", one).is_ok());
        assert_eq!(sent(Some("2024-06-01"), "chat", several).unwrap(), "{}", "the default");
        assert_eq!(sent(Some("2024-10-21"), "chat", effort).unwrap_err(), "reasoning_effort");
        assert!(sent(Some("2024-12-01-preview"), "chat", effort).is_ok());
        assert!(sent(None, "chat", effort).is_ok());
    }

    #[test]
    fn a_deployment_that_is_named_after_a_model_that_thinks_refuses_what_the_model_does() {
        let warm = r#"{"temperature":0.5}"#;
        for version in [None, Some("2024-12-01-preview"), Some("2024-09-01-preview")] {
            for deployment in ["o3-mini", "gpt-5-mini"] {
                assert_eq!(sent(version, deployment, warm).unwrap_err(), "temperature");
            }
            for deployment in ["gpt-4o", "gpt-5-chat", "our-o3"] {
                assert_eq!(sent(version, deployment, warm).as_deref(), Ok(warm), "{deployment}");
            }
        }
    }

    #[test]
    fn the_cap_goes_where_the_version_and_the_model_take_it() {
        for (version, deployment, field) in [
            (None, "gpt-4o", CapField::MaxCompletionTokens),
            (Some("2025-01-01-preview"), "gpt-4o", CapField::MaxCompletionTokens),
            (Some("2024-10-21"), "gpt-4o", CapField::MaxTokens),
            (Some("2024-10-01-preview"), "o1-mini", CapField::MaxCompletionTokens),
            (Some("2024-06-01"), "gpt-4o", CapField::MaxTokens),
            (Some("2024-06-01"), "o1-mini", CapField::MaxTokens),
        ] {
            assert_eq!(cap_field(version, deployment), field, "{version:?} {deployment}");
        }
    }
}
