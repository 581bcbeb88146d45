//! `thinking: {"type": "disabled"}` of a Messages caller, for models of OpenAI's format: the least effort
//! that a family takes, or its own switch. Nobody else's silence means the same, so nothing is said only
//! to what does not think, always thinks, or knows no word for it (`docs/providers.md` lists which).

use super::kinds::OPENAI_THINKS;

const NONE: &str = r#""reasoning_effort":"none""#;
const MINIMAL: &str = r#""reasoning_effort":"minimal""#;
const LOW: &str = r#""reasoning_effort":"low""#;
/// DeepSeek's own (<https://api-docs.deepseek.com/guides/thinking_mode>).
const DISABLED: &str = r#""thinking":{"type":"disabled"}"#;
/// What chat templates of models that think read; others pass over it.
const UNTEMPLATED: &str = r#""chat_template_kwargs":{"enable_thinking":false}"#;
/// What the names of OpenAI's models hold that take an effort of their own, or none.
const OF_THEIR_OWN: [&str; 6] = ["chat", "codex", "pro", "o1-mini", "o1-preview", "deep-research"];

/// The member that says it to `model` of a provider of this kind.
pub(super) fn said(kind: &str, model: &str) -> Option<&'static str> {
    let begins = |name: &str| model.starts_with(name);
    match kind {
        "openai" | "azure" => openais(model),
        "deepseek" if !begins("deepseek-reasoner") => Some(DISABLED),
        "groq" if begins("qwen/qwen3") => Some(NONE),
        "groq" if begins("openai/gpt-oss") => Some(LOW),
        "xai" if begins("grok-3-mini") => Some(LOW),
        "ollama" => Some(NONE),
        "vllm" | "llama-server" => Some(UNTEMPLATED),
        _ => None,
    }
}

fn openais(model: &str) -> Option<&'static str> {
    if OF_THEIR_OWN.iter().any(|word| model.contains(word)) {
        return None;
    }
    match model {
        _ if model.starts_with("gpt-5.") => Some(NONE),
        _ if !OPENAI_THINKS.holds(model) => None,
        _ if model.starts_with("gpt-5") => Some(MINIMAL),
        _ => Some(LOW),
    }
}
