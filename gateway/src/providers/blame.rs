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

/// The status that an error has which came under a 200: the number or the word that it gives. Its code
/// says more than its type.
pub(crate) fn status_within(error: &ProviderError) -> Option<u16> {
    [&error.code, &error.error_type].into_iter().flatten().find_map(|word| status_of(word))
}

fn status_of(word: &str) -> Option<u16> {
    if let Ok(number) = word.parse() {
        return (400..=599).contains(&number).then_some(number);
    }
    Some(match word.to_ascii_lowercase().as_str() {
        "invalid_request_error"
        | "invalid_request"
        | "bad_request"
        | "invalid_argument"
        | "failed_precondition"
        | "context_length_exceeded"
        | "content_filter"
        | "content_policy_violation" => 400,
        "authentication_error" | "invalid_api_key" | "unauthenticated" => 401,
        "billing_error" => 402,
        "permission_error" | "permission_denied" => 403,
        "not_found_error" | "not_found" | "model_not_found" => 404,
        "request_too_large" => 413,
        // OpenAI answers 429 for a spent account too.
        "rate_limit_error"
        | "rate_limit_exceeded"
        | "resource_exhausted"
        | "insufficient_quota" => 429,
        "api_error" | "server_error" | "internal_server_error" | "internal_error" | "internal" => {
            500
        }
        "service_unavailable" | "unavailable" => 503,
        "timeout_error" | "deadline_exceeded" => 504,
        "overloaded_error" => 529,
        _ => return None,
    })
}

/// Whether a 403 is about what the prompt says (OpenRouter answers so) and not about who asks.
pub(crate) fn moderated(error: &ProviderError) -> bool {
    let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
    // Not "moderation" alone: a key may be refused for that endpoint.
    ["flagged", "content policy"].iter().any(|words| message.contains(words))
}

#[cfg(test)]
mod tests {
    use super::{Blame, blame, moderated, status_within};
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
    fn an_error_under_a_200_says_which_status_it_should_have_had() {
        for (error, status) in [
            (r#"{"code":429,"message":"m"}"#, Some(429)),
            (r#"{"code":"400","message":"m"}"#, Some(400)),
            (r#"{"code":502,"type":"invalid_request_error"}"#, Some(502)),
            (r#"{"code":200}"#, None),
            (r#"{"code":1300,"type":"server_error"}"#, Some(500)),
            (r#"{"code":99999999999}"#, None),
            (r#"{"type":"overloaded_error"}"#, Some(529)),
            (r#"{"type":"rate_limit_error"}"#, Some(429)),
            (r#"{"type":"not_found_error"}"#, Some(404)),
            (r#"{"type":"api_error"}"#, Some(500)),
            (r#"{"type":"tokens","code":"rate_limit_exceeded"}"#, Some(429)),
            (r#"{"type":"invalid_request_error","code":"invalid_api_key"}"#, Some(401)),
            (r#"{"type":"invalid_request_error","code":"odd"}"#, Some(400)),
            (r#"{"status":"RESOURCE_EXHAUSTED"}"#, Some(429)),
            (r#"{"message":"m","code":"odd","type":"odd"}"#, None),
            (r#"{"message":"m"}"#, None),
        ] {
            let body = format!(r#"{{"error":{error}}}"#);
            assert_eq!(status_within(&provider_error(body.as_bytes())), status, "{error}");
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
