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
    /// Nobody's: the request does not fit this route, and may fit another.
    Fit,
    /// The operator's: there is no such model.
    Model,
    /// The operator's otherwise, or the provider's own.
    Route,
}

/// What an error says that tells whose fault it is.
enum Sign {
    /// Its code or its type.
    Word(&'static str),
    /// How its message begins, in small letters.
    Begins(&'static str),
    /// What its message has in it outside quotes, in small letters: what a caller wrote may be quoted.
    Says(&'static str),
}
use Sign::{Begins, Says, Word};

/// An account or a key that is no good.
const ACCOUNT: &[Sign] = &[
    Word("insufficient_quota"),
    Word("billing_error"),
    Word("billing_hard_limit_reached"),
    Word("billing_not_active"),
    Word("account_deactivated"),
    Word("invalid_api_key"),
    Word("authentication_error"),
    // Groq.
    Word("organization_restricted"),
    // Anthropic.
    Begins("your credit balance is too low"),
    Begins("you have reached your specified api usage limits"),
    Begins("this organization has been disabled"),
    // Gemini.
    Begins("api key not valid"),
    Begins("api key not found"),
    Begins("api key expired"),
    Begins("user location is not supported"),
    // xAI.
    Begins("incorrect api key provided"),
    Begins("invalid api key"),
];
/// A model that is not there.
const MODEL: &[Sign] = &[
    // OpenAI.
    Word("model_not_found"),
    // Mistral.
    Word("invalid_model"),
    // Groq.
    Word("model_decommissioned"),
    // xAI.
    Begins("model not found: "),
];
/// A prompt that is too long.
const TOO_LONG: &[Sign] = &[
    // OpenAI and Groq; llama-server.
    Word("context_length_exceeded"),
    Word("exceed_context_size_error"),
    Says("exceeds the available context size"),
    // OpenAI, DeepSeek, vLLM, Mistral, OpenRouter.
    Says("maximum context length"),
    Says("exceeds the context window"),
    // Newer vLLM.
    Says("longer than the maximum model length"),
    // xAI.
    Says("maximum prompt length is"),
    // Anthropic.
    Says("prompt is too long"),
    Says("exceed context limit"),
    // Gemini.
    Says("exceeds the maximum number of tokens"),
    // Cohere, Bedrock.
    Begins("too many tokens"),
    Begins("input is too long"),
];
/// What this route cannot serve, whatever the wait, and another may.
const UNFIT: &[Sign] = &[
    // OpenRouter: no provider of the model can do it.
    Begins("no endpoints found that support "),
    Begins("no endpoints found that can handle the requested parameters"),
    // OpenAI, Groq: it is above what a minute allows.
    Begins("request too large for "),
    // Groq: its model wrote a call that cannot be read.
    Word("tool_use_failed"),
];
/// A prompt whose content is refused. Not "moderation" alone: a key may be refused for that endpoint.
const MODERATED: &[Sign] = &[
    Says("input was flagged"),
    Says("prompt was flagged"),
    Says("content was flagged"),
    Says("content policy"),
];

/// An error as its signs are looked for.
struct Told<'a> {
    error: &'a ProviderError,
    message: String,
    unquoted: String,
}

impl<'a> Told<'a> {
    fn by(error: &'a ProviderError) -> Self {
        let message = error.message.as_deref().unwrap_or_default().to_ascii_lowercase();
        let unquoted = unquoted(&message);
        Self { error, message, unquoted }
    }

    fn has(&self, signs: &[Sign]) -> bool {
        signs.iter().any(|sign| match sign {
            Word(word) => [&self.error.code, &self.error.error_type]
                .iter()
                .any(|told| told.as_deref() == Some(word)),
            Begins(words) => self.message.starts_with(words),
            Says(words) => self.unquoted.contains(words),
        })
    }
}

/// A message without what stands in quotes in it. An apostrophe within a word is none.
fn unquoted(message: &str) -> String {
    let is_of_word = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
    let (mut out, mut rest) = (String::with_capacity(message.len()), message);
    while let Some(at) = rest.find(['"', '\'', '`']) {
        let (before, quoted) = rest.split_at(at);
        out.push_str(before);
        let quote = &quoted[..1];
        let mut ends = quoted.match_indices(quote).skip(1).map(|(end, _)| end);
        let end = ends.find(|end| !is_of_word(quoted[end + 1..].chars().next()));
        let opens = !is_of_word(before.chars().next_back());
        match end.filter(|_| opens) {
            Some(end) => rest = &quoted[end + 1..],
            None => {
                out.push_str(quote);
                rest = &quoted[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

/// Reads an error that came with a status that is usually the caller's or a rate limit; gives it the
/// code that OpenAI's clients know where it means the same.
pub(crate) fn blame(status: u16, error: &mut ProviderError) -> Blame {
    let told = Told::by(error);
    if told.has(ACCOUNT) {
        return Blame::Route;
    }
    if told.has(MODEL) || lacks_model(&told.message) {
        return Blame::Model;
    }
    if told.has(UNFIT) {
        return Blame::Fit;
    }
    // With 429 it is a rate: Bedrock's "too many tokens, please wait". With others it is no prompt.
    if !matches!(status, 401..=404 | 429 | 500..) && told.has(TOO_LONG) {
        error.code = Some("context_length_exceeded".to_owned());
        return Blame::Fit;
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

/// Whether a message, in small letters, says as a whole that the model is not there: DeepSeek's,
/// OpenRouter's.
fn lacks_model(message: &str) -> bool {
    let named = message.strip_suffix(" is not a valid model id");
    matches!(message, "model not exist" | "model not found")
        || named.is_some_and(|name| !name.contains(char::is_whitespace))
}

/// Whether an error of another tollgate is its refusal of this one request, for its caller's deadline
/// (`hurried`: there is one), a budget, a limit (`waits` is not set where no wait helps) or a policy:
/// it tells nothing of the route.
pub(crate) fn refused(status: u16, error: &ProviderError, waits: bool, hurried: bool) -> bool {
    match (status, error.code.as_deref()) {
        (402 | 429, Some("insufficient_quota")) => true,
        (403, Some("policy_refused" | "permission_denied")) => true,
        (429, Some("rate_limit_exceeded")) => !waits,
        (504, Some("deadline_exceeded")) => hurried,
        _ => false,
    }
}

/// Whether a 403 is about what the prompt says (OpenRouter answers so) and not about who asks.
pub(crate) fn moderated(error: &ProviderError) -> bool {
    Told::by(error).has(MODERATED)
}

#[cfg(test)]
mod tests {
    use super::{Blame, blame, moderated, refused, status_within, unquoted};
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
                Blame::Fit,
                Some("context_length_exceeded"),
            ),
            (
                400,
                r#"{"object":"error","message":"This model's maximum context length is 4096 tokens.","code":400}"#,
                Blame::Fit,
                Some("context_length_exceeded"),
            ),
            (
                400,
                r#"[{"error":{"code":400,"message":"The input token count (9) exceeds the maximum number of tokens allowed (8).","status":"INVALID_ARGUMENT"}}]"#,
                Blame::Fit,
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
    fn what_is_the_operators_is_known_whatever_its_status() {
        for (provider, status, body, expected) in [
            (
                "deepseek",
                400,
                r#"{"error":{"message":"Model Not Exist","type":"invalid_request_error","param":null,"code":"invalid_request_error"}}"#,
                Blame::Model,
            ),
            (
                "mistral",
                400,
                r#"{"object":"error","message":"Invalid model: mistral-huge","type":"invalid_model","param":null,"code":"1500"}"#,
                Blame::Model,
            ),
            (
                "openrouter",
                400,
                r#"{"error":{"message":"open/gone-1 is not a valid model ID","code":400},"user_id":"u"}"#,
                Blame::Model,
            ),
            (
                "xai",
                400,
                r#"{"code":"Client specified an invalid argument","error":"Model not found: grok-9"}"#,
                Blame::Model,
            ),
            (
                "xai",
                400,
                r#"{"code":"Client specified an invalid argument","error":"Incorrect API key provided: xa***aa. You can obtain an API key from https://console.x.ai."}"#,
                Blame::Route,
            ),
            (
                "anthropic",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"You have reached your specified API usage limits. You will regain access on 2026-01-01 at 00:00 UTC."}}"#,
                Blame::Route,
            ),
            (
                "anthropic",
                400,
                r#"{"type":"error","error":{"type":"invalid_request_error","message":"This organization has been disabled."}}"#,
                Blame::Route,
            ),
            (
                "openai",
                400,
                r#"{"error":{"message":"Billing hard limit has been reached","type":"billing_limit_user_error","param":null,"code":"billing_hard_limit_reached"}}"#,
                Blame::Route,
            ),
            (
                "gemini",
                400,
                r#"[{"error":{"code":400,"message":"User location is not supported for the API use.","status":"FAILED_PRECONDITION"}}]"#,
                Blame::Route,
            ),
        ] {
            let mut error = provider_error(body.as_bytes());
            assert_eq!(blame(status, &mut error), expected, "{provider}: {body}");
        }
    }

    #[test]
    fn a_model_and_an_account_that_are_gone_are_the_operators() {
        for (provider, status, body, expected) in [
            (
                "groq",
                400,
                r#"{"error":{"message":"The model `m` has been decommissioned and is no longer supported.","type":"invalid_request_error","code":"model_decommissioned"}}"#,
                Blame::Model,
            ),
            (
                "groq",
                400,
                r#"{"error":{"message":"Organization has been restricted.","type":"invalid_request_error","code":"organization_restricted"}}"#,
                Blame::Route,
            ),
        ] {
            let mut error = provider_error(body.as_bytes());
            assert_eq!(blame(status, &mut error), expected, "{provider}: {body}");
        }
    }

    #[test]
    fn what_does_not_fit_a_route_is_nobodys_fault() {
        for (provider, status, body) in [
            (
                "xai",
                400,
                r#"{"code":"Client specified an invalid argument","error":"This model's maximum prompt length is 131072 but the request contains 537812 tokens."}"#,
            ),
            (
                "vllm",
                400,
                r#"{"error":{"message":"The decoder prompt (length 9001) is longer than the maximum model length of 4096.","type":"BadRequestError","code":400}}"#,
            ),
            (
                "openrouter",
                400,
                r#"{"error":{"message":"Provider returned error","code":400,"metadata":{"provider_name":"Azure","raw":"{\"error\":{\"message\":\"This model's maximum context length is 128000 tokens.\",\"code\":\"context_length_exceeded\"}}"}}}"#,
            ),
            (
                "openai",
                400,
                r#"{"error":{"message":"Your input exceeds the context window of this model.","type":"invalid_request_error","code":null}}"#,
            ),
            (
                "groq",
                400,
                r#"{"error":{"message":"Failed to call a function.","type":"invalid_request_error","code":"tool_use_failed","failed_generation":"f("}}"#,
            ),
            (
                "llama-server",
                400,
                r#"{"error":{"code":400,"message":"the request is above the size","type":"exceed_context_size_error","n_prompt_tokens":9000,"n_ctx":4096}}"#,
            ),
            (
                "openai",
                400,
                r#"{"error":{"message":"Input is too big.","type":"invalid_request_error","code":"context_length_exceeded"}}"#,
            ),
            (
                "groq",
                413,
                r#"{"error":{"message":"Request too large for model `m` in organization `o` on tokens per minute (TPM): Limit 6000, Requested 9000","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ),
            (
                "openai",
                429,
                r#"{"error":{"message":"Request too large for gpt-4o in organization o on tokens per min (TPM): Limit 30000, Requested 40000.","type":"tokens","code":"rate_limit_exceeded"}}"#,
            ),
            (
                "openrouter",
                404,
                r#"{"error":{"message":"No endpoints found that support tool use. To learn more, see the docs","code":404}}"#,
            ),
            (
                "openrouter",
                404,
                r#"{"error":{"message":"No endpoints found that support image input","code":404}}"#,
            ),
            (
                "openrouter",
                404,
                r#"{"error":{"message":"No endpoints found that can handle the requested parameters.","code":404}}"#,
            ),
        ] {
            let mut error = provider_error(body.as_bytes());
            assert_eq!(blame(status, &mut error), Blame::Fit, "{provider}: {body}");
        }
    }

    #[test]
    fn a_callers_own_text_in_a_message_blames_nobody_else() {
        for message in [
            "Invalid value: 'Model not found: x'",
            "Invalid value: 'API key not valid'",
            "messages.0: 'Your credit balance is too low' is not a role",
            "Unknown field: this organization has been disabled",
            "Unknown tool: x is not a valid model ID",
            "Invalid name: No endpoints found that support tool use",
            "Model Not Existing",
            "Invalid value: 'context window'. Supported values are: 'auto'",
            "Invalid tool name \"maximum context length\"",
            "Unknown role `prompt is too long`, it's none of: user, system",
        ] {
            let body =
                serde_json::json!({ "error": { "message": message, "code": "invalid_value" } });
            let mut error = provider_error(body.to_string().as_bytes());
            assert_eq!(blame(400, &mut error), Blame::Caller, "{message}");
        }
        let mut limited =
            provider_error(br#"{"error":{"message":"Too many tokens, please wait"}}"#);
        assert_eq!(blame(429, &mut limited), Blame::Caller, "a rate");
    }

    #[test]
    fn another_tollgates_refusals_are_told_from_its_faults() {
        for (status, code, waits, hurried, expected) in [
            (504, "deadline_exceeded", true, true, true),
            (504, "deadline_exceeded", true, false, false),
            (429, "insufficient_quota", false, false, true),
            (402, "insufficient_quota", false, false, true),
            (403, "policy_refused", true, false, true),
            (403, "permission_denied", true, false, true),
            (403, "other", true, false, false),
            (429, "rate_limit_exceeded", false, false, true),
            (429, "rate_limit_exceeded", true, true, false),
            (401, "invalid_api_key", true, true, false),
            (503, "upstream_failed", true, true, false),
        ] {
            let body = serde_json::json!({ "error": { "message": "m", "code": code } });
            let error = provider_error(body.to_string().as_bytes());
            assert_eq!(refused(status, &error, waits, hurried), expected, "{status} {code}");
        }
    }

    #[test]
    fn what_is_quoted_is_not_said() {
        for (message, said) in [
            ("this model's limit isn't 'a b'.", "this model's limit isn't ."),
            ("\"it's\" `x`y z` 'open", "  'open"),
            ("no quotes", "no quotes"),
            ("''", ""),
            ("é'ü' \"", "é'ü' \""),
        ] {
            assert_eq!(unquoted(message), said, "{message}");
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
            ("Your account has been flagged for potential abuse", false),
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
