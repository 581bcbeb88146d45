//! `thinking: {"type": "disabled"}` of a Messages caller, for models of OpenAI's format: the least effort
//! that a family takes, or its own switch. Nobody else's silence means the same, so nothing is said only
//! to what does not think, always thinks, or knows no word for it (`docs/providers.md` lists which). Nor is
//! anything said of a budget of thinking where no effort is taken: who names one lets the model think.

use super::{kinds::OPENAI_THINKS, reshape::Family};

const NONE: &str = r#""reasoning_effort":"none""#;
const MINIMAL: &str = r#""reasoning_effort":"minimal""#;
const LOW: &str = r#""reasoning_effort":"low""#;
/// DeepSeek's own (<https://api-docs.deepseek.com/guides/thinking_mode>).
const DISABLED: &str = r#""thinking":{"type":"disabled"}"#;
/// What chat templates of models that think read; others pass over it.
const UNTEMPLATED: &str = r#""chat_template_kwargs":{"enable_thinking":false}"#;
/// Nothing, since no effort is taken, whichever.
pub(crate) const UNTAKEN: &str = "";
/// OpenAI's models that answer 400 to every effort
/// (<https://platform.openai.com/docs/guides/reasoning>).
const OPENAI_UNTAKING: Family = Family {
    models: &[
        "gpt-3",
        "gpt-35",
        "gpt-4",
        "chatgpt-4",
        "ft:gpt-3",
        "ft:gpt-4",
        "gpt-5-chat",
        "o1-mini",
        "o1-preview",
    ],
    ..Family::NONE
};
/// Groq's (<https://console.groq.com/docs/reasoning>).
const GROQ_UNTAKING: Family = Family {
    models: &["llama", "meta-llama/", "gemma", "moonshotai/kimi-k2-instruct"],
    ..Family::NONE
};
/// Mistral's (<https://docs.mistral.ai/capabilities/reasoning>): Small 4 and Medium 3.5 take one.
const MISTRAL_UNTAKING: Family = Family {
    models: &[
        "codestral",
        "devstral",
        "ministral",
        "mistral-large",
        "mistral-medium-2505",
        "mistral-medium-2508",
        "mistral-small-2501",
        "mistral-small-2503",
        "mistral-small-2506",
        "mistral-tiny",
        "open-",
        "pixtral",
    ],
    ..Family::NONE
};
/// xAI's (<https://docs.x.ai/docs/guides/reasoning>), beside those that refuse a caller's own.
const XAI_UNTAKING: Family = Family {
    models: &[
        "grok-2",
        "grok-3",
        "grok-4-fast-non-reasoning",
        "grok-4-1-fast-non-reasoning",
        "grok-code-fast",
    ],
    but: &["grok-3-mini"],
    ..Family::NONE
};
/// What the names of OpenAI's models hold that take an effort of their own, or none.
const OF_THEIR_OWN: [&str; 6] = ["chat", "codex", "pro", "o1-mini", "o1-preview", "deep-research"];

/// The member that says it to `model` of a provider of this kind; [`UNTAKEN`] where it takes no effort.
pub(super) fn said(kind: &str, model: &str) -> Option<&'static str> {
    let begins = |name: &str| model.starts_with(name);
    let untaking = match kind {
        "openai" | "azure" => &OPENAI_UNTAKING,
        "groq" => &GROQ_UNTAKING,
        "mistral" => &MISTRAL_UNTAKING,
        "xai" => &XAI_UNTAKING,
        _ => &Family::NONE,
    };
    match kind {
        _ if untaking.holds(model) => Some(UNTAKEN),
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
