//! Whose fault an error answer is, by the words providers use.
//!
//! **Invariant:** a spent account, a wrong key or a missing model is the operator's, whatever status
//! it comes with: it is neither told to a caller as its own mistake nor taken for a rate limit.

use super::openai::ProviderError;

/// Whose fault it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Blame {
    /// The caller's: the request itself.
    Caller,
    /// The operator's, or the provider's own.
    Route,
}

/// Reads an error that came with a status that is usually the caller's or a rate limit; gives it the
/// code that OpenAI's clients know where it means the same.
pub(crate) fn blame(status: u16, error: &mut ProviderError) -> Blame {
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    let word = |text: &str| {
        error.code.as_deref() == Some(text) || error.error_type.as_deref() == Some(text)
    };
    let account = word("insufficient_quota")
        || word("billing_error")
        || message.contains("credit balance is too low")
        || message.contains("api key not valid")
        || message.contains("api key expired");
    if account
        || status == 429 && message.contains("exceeded your current quota") && word("billing")
    {
        return Blame::Route;
    }
    let too_long = [
        "maximum context length",
        "prompt is too long",
        "exceeds the maximum number of tokens",
        "context window",
        "too many tokens",
        "exceed context limit",
        "exceeds the available context size",
    ];
    // With that status it is a rate: Bedrock's "too many tokens, please wait".
    if status != 429 && too_long.iter().any(|words| message.contains(words)) {
        error.code = Some("context_length_exceeded".to_owned());
    }
    Blame::Caller
}

/// Whether a 403 is about what the prompt says (OpenRouter answers so) and not about who asks.
pub(crate) fn moderated(error: &ProviderError) -> bool {
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    // Not "moderation" alone: a key may be refused for that endpoint.
    ["flagged", "content policy"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::{Blame, blame, moderated};
    use crate::providers::openai::provider_error;

    #[test]
    fn providers_words_are_understood() {
        for (status, body, expected, code) in [
            (
                429,
                r#"{"error":{"message":"m","type":"insufficient_quota","code":"insufficient_quota"}}"#,
                Blame::Route,
                Some("insufficient_quota"),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"Your credit balance is too low to access the Anthropic API."}}"#,
                Blame::Route,
                None,
            ),
            (
                400,
                r#"{"error":{"code":400,"message":"API key not valid. Please pass a valid API key.","status":"INVALID_ARGUMENT"}}"#,
                Blame::Route,
                Some("400"),
            ),
            (
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"prompt is too long: 210000 tokens > 200000 maximum"}}"#,
                Blame::Caller,
                Some("context_length_exceeded"),
            ),
            (
                400,
                r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}"#,
                Blame::Caller,
                Some("context_length_exceeded"),
            ),
            (
                400,
                r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8).","status":"INVALID_ARGUMENT"}}]"#,
                Blame::Caller,
                Some("context_length_exceeded"),
            ),
            (
                400,
                r#"{"error":{"message":"no","code":"content_filter"}}"#,
                Blame::Caller,
                Some("content_filter"),
            ),
        ] {
            let mut error = provider_error(body.as_bytes());
            assert_eq!(blame(status, &mut error), expected, "{body}");
            assert_eq!(error.code.as_deref(), code, "{body}");
        }
    }

    #[test]
    fn a_403_about_the_prompt_is_told_from_one_about_the_key() {
        for (message, expected) in [
            (
                "Your chosen model requires moderation and your input was flagged for \"violence\"",
                true,
            ),
            ("Country, region, or territory not supported", false),
            ("You do not have access to this model", false),
            ("Your key may not use moderation", false),
        ] {
            let body = format!(
                "{{\"error\":{{\"code\":403,\"message\":{}}}}}",
                serde_json::json!(message)
            );
            assert_eq!(moderated(&provider_error(body.as_bytes())), expected, "{message}");
        }
    }
}
