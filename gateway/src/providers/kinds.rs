//! The kinds of providers: what each is by default, and where it differs from OpenAI's format.
//!
//! **Invariant:** a key that was found by its default name goes to the default address alone.

use super::{
    CallIds, Recalls, azure,
    reshape::{Family, Shape},
    unthinking,
};
use crate::config::CapField;

/// Whose format a provider speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// OpenAI's chat completions.
    OpenAi,
    /// Anthropic's Messages.
    Anthropic,
    /// Gemini's `generateContent`.
    Gemini,
}

/// How a key is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Auth {
    /// `Authorization: Bearer`.
    Bearer,
    /// In a header of its own.
    Header(&'static str),
}

/// A kind of provider, by its `kind` in the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kind(&'static Facts);

#[derive(Debug, PartialEq, Eq)]
struct Facts {
    name: &'static str,
    format: Format,
    auth: Auth,
    /// Where it is, if it is always there.
    base_url: Option<&'static str>,
    /// The environment variable in which its users keep their key.
    key_env: Option<&'static str>,
    cap_field: CapField,
    call_ids: CallIds,
    /// Whether a message may have the role `developer`; elsewhere it is `system`, which means the same.
    has_developers: bool,
    /// What is told of what an assistant thought in earlier turns.
    recalls: Recalls,
    shape: Shape,
}

/// The kind whose table goes by the version of its API.
const AZURE: &str = "azure";

/// Every `kind` of a cloud route.
pub const KIND_NAMES: [&str; 15] = [
    "openai",
    AZURE,
    "anthropic",
    "gemini",
    "openrouter",
    "mistral",
    "deepseek",
    "groq",
    "xai",
    "together",
    "vllm",
    "llama-server",
    "ollama",
    "tollgate",
    "openai-compatible",
];

const fn facts(
    name: &'static str,
    base_url: Option<&'static str>,
    key_env: Option<&'static str>,
) -> Facts {
    Facts {
        name,
        format: Format::OpenAi,
        auth: Auth::Bearer,
        base_url,
        key_env,
        cap_field: CapField::MaxTokens,
        call_ids: CallIds::Short,
        has_developers: true,
        recalls: Recalls::AsWritten,
        shape: Shape::NONE,
    }
}

/// OpenAI's models that think, up to GPT-5 (<https://platform.openai.com/docs/guides/reasoning>). From
/// 5.1 on it depends on the effort; where no name may have a dot, as some Azure deployments and price
/// lists write it, that is `gpt-5-1`. (`gpt-5-2025-08-07` is GPT-5.)
pub(super) const OPENAI_THINKS: Family = Family {
    models: &["o1", "o3", "o4-", "gpt-5"],
    but: &[
        "gpt-5.",
        "gpt-5-chat",
        "gpt-5-1",
        "gpt-5-2",
        "gpt-5-3",
        "gpt-5-4",
        "gpt-5-5",
        "gpt-5-6",
        "gpt-5-7",
        "gpt-5-8",
        "gpt-5-9",
    ],
    refuses: &[
        "temperature",
        "top_p",
        "presence_penalty",
        "frequency_penalty",
        "logprobs",
        "top_logprobs",
        "logit_bias",
    ],
    ..Family::NONE
};
/// Those of them that take no stop strings either: all but o1 and o3-mini
/// (<https://platform.openai.com/docs/api-reference/chat/create#chat-create-stop>).
pub(super) const OPENAI_UNSTOPPED: Family = Family {
    models: &["o1-mini", "o1-preview", "o3", "o4-", "gpt-5"],
    but: &[
        "o3-mini",
        "gpt-5.",
        "gpt-5-chat",
        "gpt-5-1",
        "gpt-5-2",
        "gpt-5-3",
        "gpt-5-4",
        "gpt-5-5",
        "gpt-5-6",
        "gpt-5-7",
        "gpt-5-8",
        "gpt-5-9",
    ],
    refuses: &["stop"],
    ..Family::NONE
};
/// Claude without sampling parameters: Opus from 4.7 on, and what came after
/// (<https://platform.claude.com/docs/en/about-claude/models/migration-guide>).
const CLAUDE_UNSAMPLED: Family = Family {
    models: &[
        "claude-opus-4-7",
        "claude-opus-4-8",
        "claude-opus-4-9",
        "claude-opus-5",
        "claude-sonnet-5-5",
        "claude-mythos",
        "claude-fable",
    ],
    refuses: &["temperature", "top_p", "top_k"],
    ..Family::NONE
};
/// Claude from Opus 4.1 on, as long as it samples: by one of the two
/// (<https://platform.claude.com/docs/en/about-claude/models/migrating-to-claude-4>).
const CLAUDE_SAMPLED_ONE_WAY: Family = Family {
    models: &[
        "claude-opus-4-1",
        "claude-opus-4-5",
        "claude-opus-4-6",
        "claude-sonnet-4-5",
        "claude-sonnet-4-6",
        "claude-haiku-4-5",
    ],
    apart: &[("temperature", "top_p")],
    ..Family::NONE
};
/// Grok's models that think (<https://docs.x.ai/docs/guides/reasoning>).
const GROK_THINKS: Family = Family {
    models: &["grok-3-mini", "grok-4-0709", "grok-4-fast-reasoning", "grok-4-1-fast-reasoning"],
    refuses: &["presence_penalty", "frequency_penalty", "stop"],
    ..Family::NONE
};
/// Those of them that cannot be told how hard: all but Grok 3 mini.
const GROK_THINKS_AS_IT_LIKES: Family = Family {
    models: &["grok-4-0709", "grok-4-fast-reasoning", "grok-4-1-fast-reasoning"],
    refuses: &["reasoning_effort"],
    ..Family::NONE
};
/// <https://api-docs.deepseek.com/guides/reasoning_model>
const DEEPSEEK_THINKS: Family = Family {
    models: &["deepseek-reasoner"],
    refuses: &["logprobs", "top_logprobs"],
    ..Family::NONE
};

/// What each kind is. Fields that a provider answers with an error are refused before they are sent
/// (so that another route can serve the request) where they change the answer, and left out where
/// they are hints.
static KINDS: [Facts; 15] = [
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        recalls: Recalls::Never(&["reasoning_content"]),
        shape: Shape { families: &[OPENAI_THINKS, OPENAI_UNSTOPPED], ..Shape::NONE },
        ..facts("openai", Some("https://api.openai.com/v1"), Some("OPENAI_API_KEY"))
    },
    Facts {
        // The rest goes by the version of its API.
        auth: Auth::Header("api-key"),
        recalls: Recalls::Never(&["reasoning_content"]),
        ..facts(AZURE, None, None)
    },
    Facts {
        format: Format::Anthropic,
        call_ids: CallIds::Plain,
        auth: Auth::Header("x-api-key"),
        shape: Shape { families: &[CLAUDE_UNSAMPLED, CLAUDE_SAMPLED_ONE_WAY], ..Shape::NONE },
        ..facts("anthropic", Some("https://api.anthropic.com/v1"), Some("ANTHROPIC_API_KEY"))
    },
    Facts {
        format: Format::Gemini,
        auth: Auth::Header("x-goog-api-key"),
        ..facts(
            "gemini",
            Some("https://generativelanguage.googleapis.com/v1beta"),
            Some("GEMINI_API_KEY"),
        )
    },
    Facts {
        // There may be a model that wants it behind this, and behind another tollgate.
        recalls: Recalls::Always,
        ..facts("openrouter", Some("https://openrouter.ai/api/v1"), Some("OPENROUTER_API_KEY"))
    },
    Facts {
        call_ids: CallIds::Nine,
        has_developers: false,
        recalls: Recalls::Never(&["reasoning_content", "reasoning"]),
        // Unknown fields are errors there, and usage always comes.
        shape: Shape {
            refuses: &["logprobs", "top_logprobs", "logit_bias"],
            drops: &[
                "stream_options",
                "user",
                "store",
                "service_tier",
                "verbosity",
                "metadata",
                "prompt_cache_key",
                "safety_identifier",
            ],
            renames: &[("seed", "random_seed")],
            families: &[],
        },
        ..facts("mistral", Some("https://api.mistral.ai/v1"), Some("MISTRAL_API_KEY"))
    },
    Facts {
        has_developers: false,
        // https://api-docs.deepseek.com/guides/thinking_mode
        recalls: Recalls::AmongCalls,
        shape: Shape { families: &[DEEPSEEK_THINKS], ..Shape::NONE },
        ..facts("deepseek", Some("https://api.deepseek.com/v1"), Some("DEEPSEEK_API_KEY"))
    },
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        // `reasoning` is its own name for it.
        recalls: Recalls::Never(&["reasoning_content"]),
        shape: Shape {
            // https://console.groq.com/docs/openai
            refuses: &["logprobs", "top_logprobs", "logit_bias", "n"],
            drops: &["store"],
            ..Shape::NONE
        },
        ..facts("groq", Some("https://api.groq.com/openai/v1"), Some("GROQ_API_KEY"))
    },
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        shape: Shape {
            refuses: &["logit_bias"],
            drops: &["store"],
            families: &[GROK_THINKS, GROK_THINKS_AS_IT_LIKES],
            ..Shape::NONE
        },
        ..facts("xai", Some("https://api.x.ai/v1"), Some("XAI_API_KEY"))
    },
    // With these the model's own template decides, and most know no such role.
    Facts {
        has_developers: false,
        ..facts("together", Some("https://api.together.xyz/v1"), Some("TOGETHER_API_KEY"))
    },
    Facts { has_developers: false, ..facts("vllm", None, None) },
    Facts { has_developers: false, ..facts("llama-server", None, None) },
    Facts { has_developers: false, ..facts("ollama", Some("http://127.0.0.1:11434/v1"), None) },
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        call_ids: CallIds::Any,
        recalls: Recalls::Always,
        ..facts("tollgate", None, None)
    },
    Facts { call_ids: CallIds::Any, ..facts("openai-compatible", None, None) },
];

impl Kind {
    /// The kind of that name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        KINDS.iter().find(|kind| kind.name == name).map(Self)
    }

    /// Its name in the configuration.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.0.name
    }

    /// Its name in the ledger and in the price list, where the configuration gives none; `None`
    /// where it could be anybody.
    #[must_use]
    pub fn provider(self) -> Option<&'static str> {
        match self.0.name {
            "gemini" => Some("google"),
            "openai-compatible" => None,
            name => Some(name),
        }
    }

    /// Whose format it speaks.
    #[must_use]
    pub fn format(self) -> Format {
        self.0.format
    }

    /// Where it is, if it is always there.
    #[must_use]
    pub fn base_url(self) -> Option<&'static str> {
        self.0.base_url
    }

    /// The environment variable that holds its key.
    #[must_use]
    pub fn key_env(self) -> Option<&'static str> {
        self.0.key_env
    }

    /// The field in which it takes the output cap of a model; Azure by the version of its API.
    #[must_use]
    pub fn cap_field(self, api_version: Option<&str>, model: &str) -> CapField {
        match self.0.name {
            AZURE => azure::cap_field(api_version, model),
            _ => self.0.cap_field,
        }
    }

    /// Whether the version of its API can be chosen, in whose address the model then stands.
    #[must_use]
    pub fn is_versioned(self) -> bool {
        self.0.name == AZURE
    }

    /// Whether it takes what is left of a caller's deadline: another tollgate does.
    pub(crate) fn takes_deadline(self) -> bool {
        self.is_tollgate()
    }

    /// Whether it is another tollgate, whose refusals mean what ours do.
    pub(crate) fn is_tollgate(self) -> bool {
        self.0.name == "tollgate"
    }

    /// Which ids of calls it takes.
    pub(crate) fn call_ids(self) -> CallIds {
        self.0.call_ids
    }

    /// Whether it knows the role `developer`.
    pub(crate) fn has_developers(self) -> bool {
        self.0.has_developers
    }

    /// What it is told of what an assistant thought in earlier turns. Behind another address than
    /// OpenAI's own there may be anybody who speaks its format.
    pub(crate) fn recalls(self, base_url: &str) -> Recalls {
        let is_elsewhere = self.0.name == "openai" && self.base_url() != Some(base_url);
        if is_elsewhere { Recalls::AsWritten } else { self.0.recalls }
    }

    /// How its `model` is told not to think, as a member of the body: by what is nearest to that; `None`
    /// where nothing is said, since it does not think, always does, or knows no word for it, and
    /// [`unthinking::UNTAKEN`] where it is known to take no effort at all.
    pub(crate) fn unthinking(self, api_version: Option<&str>, model: &str) -> Option<&'static str> {
        if self.shape(api_version).is_refused("reasoning_effort", model) {
            return Some(unthinking::UNTAKEN);
        }
        unthinking::said(self.0.name, model)
    }

    pub(crate) fn auth(self) -> Auth {
        self.0.auth
    }

    /// Where it differs from OpenAI's format; Azure by the version of its API.
    pub(crate) fn shape(self, api_version: Option<&str>) -> &'static Shape {
        match self.0.name {
            AZURE => azure::shape(api_version),
            _ => &self.0.shape,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{KIND_NAMES, Kind, Recalls};
    use crate::providers::{UNTAKEN, reshape};
    use bytes::Bytes;

    #[test]
    fn every_name_is_a_kind_and_its_address_is_encrypted_or_at_home() {
        for name in KIND_NAMES {
            let kind = Kind::find(name).unwrap();
            assert_eq!(kind.name(), name);
            let url = kind.base_url().unwrap_or("https://");
            assert!(url.starts_with("https://") || url.starts_with("http://127.0.0.1"), "{url}");
            assert!(!url.ends_with('/') || url == "https://");
        }
        assert!(Kind::find("local").is_none());
    }
    /// The field for which a model of this kind refuses a request with all that some model refuses.
    fn refused(kind: &str, model: &str, leave_out: &[&str]) -> Option<String> {
        let all = Bytes::from_static(
            br#"{"temperature":0.5,"top_k":4,"presence_penalty":0.5,"stop":["END"],"logprobs":true}"#,
        );
        let leave_out: Vec<String> = leave_out.iter().map(|field| (*field).to_owned()).collect();
        let shaped = reshape(all, Kind::find(kind).unwrap().shape(None), model, &leave_out);
        shaped.err().and_then(|error| error.param)
    }

    #[test]
    fn models_refuse_by_name_what_their_family_does_not_take() {
        for (kind, model, field) in [
            ("openai", "o3", "temperature"),
            ("openai", "gpt-5-mini-2025-08-07", "temperature"),
            ("azure", "o3", "temperature"),
            ("openai", "gpt-5-2025-08-07", "temperature"),
            ("anthropic", "claude-opus-4-7", "temperature"),
            ("openai", "o3-mini", "temperature"),
            ("anthropic", "claude-opus-4-8", "temperature"),
            ("anthropic", "claude-opus-4-9-20270301", "temperature"),
            ("anthropic", "claude-sonnet-5-5", "temperature"),
            ("xai", "grok-4-0709", "presence_penalty"),
            ("deepseek", "deepseek-reasoner", "logprobs"),
            ("groq", "openai/gpt-oss-120b", "logprobs"),
            ("mistral", "mistral-small-latest", "logprobs"),
        ] {
            assert_eq!(refused(kind, model, &[]).as_deref(), Some(field), "{model}");
        }
        for (kind, model) in [
            ("openai", "gpt-4.1"),
            ("openai", "gpt-5.2"),
            ("openai", "gpt-5-chat-latest"),
            ("openai", "gpt-5-2"),
            ("azure", "gpt-5-1-codex"),
            ("azure", "our-deployment"),
            ("anthropic", "claude-sonnet-4-5"),
            ("anthropic", "claude-opus-4-6"),
            ("xai", "grok-4-fast-non-reasoning"),
            ("deepseek", "deepseek-chat"),
            ("openai-compatible", "gpt-5"),
        ] {
            assert_eq!(refused(kind, model, &[]), None, "{model}");
        }
        assert_eq!(refused("deepseek", "deepseek-reasoner", &["logprobs"]), None);
    }

    /// The field for which a model of this kind refuses a request.
    fn refused_of(kind: &str, model: &str, body: &'static str) -> Option<String> {
        let body = Bytes::from_static(body.as_bytes());
        let shaped = reshape(body, Kind::find(kind).unwrap().shape(None), model, &[]);
        shaped.err().and_then(|error| error.param)
    }

    #[test]
    fn stops_efforts_and_two_ways_of_sampling_are_refused_by_who_refuses_them() {
        let (stop, effort) = (r#"{"stop":["END"]}"#, r#"{"reasoning_effort":"low"}"#);
        let sampled = r#"{"temperature":0.5,"top_p":0.9}"#;
        for (kind, model, body, field) in [
            ("openai", "o3", stop, Some("stop")),
            ("openai", "o4-mini", stop, Some("stop")),
            ("openai", "gpt-5-mini", stop, Some("stop")),
            ("azure", "gpt-5", stop, Some("stop")),
            ("openai", "o3-mini", stop, None),
            ("openai", "o1", stop, None),
            ("openai", "gpt-5-chat-latest", stop, None),
            ("openai", "gpt-4.1", stop, None),
            ("openai", "o3", r#"{"stop":null}"#, None),
            ("xai", "grok-4-0709", effort, Some("reasoning_effort")),
            ("xai", "grok-4-1-fast-reasoning", effort, Some("reasoning_effort")),
            ("xai", "grok-3-mini", effort, None),
            ("anthropic", "claude-opus-4-1-20250805", sampled, Some("top_p")),
            ("anthropic", "claude-sonnet-4-5", sampled, Some("top_p")),
            ("anthropic", "claude-haiku-4-5", sampled, Some("top_p")),
            ("anthropic", "claude-haiku-4-5", r#"{"temperature":0.5,"top_p":1}"#, None),
            ("anthropic", "claude-sonnet-4-20250514", sampled, None),
            ("anthropic", "claude-3-7-sonnet-latest", sampled, None),
        ] {
            assert_eq!(refused_of(kind, model, body).as_deref(), field, "{model} {body}");
        }
    }

    #[test]
    fn each_model_is_told_not_to_think_in_the_words_that_it_takes() {
        let said = |kind: &str, version: Option<&str>, model: &str| {
            Kind::find(kind).unwrap().unthinking(version, model)
        };
        let untaken = Some(UNTAKEN);
        let (none, minimal, low) = (
            Some(r#""reasoning_effort":"none""#),
            Some(r#""reasoning_effort":"minimal""#),
            Some(r#""reasoning_effort":"low""#),
        );
        for (kind, model, expected) in [
            ("openai", "gpt-4.1", untaken),
            ("openai", "gpt-4o-2024-08-06", untaken),
            ("openai", "chatgpt-4o-latest", untaken),
            ("azure", "gpt-35-turbo", untaken),
            ("azure", "our-deployment", None),
            ("openai", "o3", low),
            ("openai", "o1-mini", untaken),
            ("openai", "gpt-5-mini", minimal),
            ("openai", "gpt-5-codex", None),
            ("openai", "gpt-5.2", none),
            ("openai", "gpt-5.2-chat-latest", None),
            ("azure", "o4-mini", low),
            ("deepseek", "deepseek-v4-flash", Some(r#""thinking":{"type":"disabled"}"#)),
            ("deepseek", "deepseek-reasoner", None),
            ("groq", "openai/gpt-oss-120b", low),
            ("groq", "qwen/qwen3-32b", none),
            ("groq", "llama-3.3-70b-versatile", untaken),
            ("groq", "another/model", None),
            ("xai", "grok-3-mini", low),
            ("xai", "grok-3", untaken),
            ("xai", "grok-4-0709", untaken),
            ("ollama", "qwen3", none),
            ("vllm", "m", Some(r#""chat_template_kwargs":{"enable_thinking":false}"#)),
            ("mistral", "mistral-large-latest", untaken),
            ("mistral", "mistral-small-latest", None),
            ("openrouter", "anthropic/claude-sonnet-4.5", None),
        ] {
            assert_eq!(said(kind, None, model), expected, "{kind} {model}");
        }
        let dated = said("azure", Some("2024-10-21"), "o3-mini");
        assert_eq!(dated, untaken, "that API knows no effort");
    }

    #[test]
    fn what_openai_refuses_may_be_wanted_at_another_address() {
        let openai = Kind::find("openai").unwrap();
        let never = Recalls::Never(&["reasoning_content"]);
        assert_eq!(openai.recalls("https://api.openai.com/v1"), never);
        assert_eq!(openai.recalls("http://vllm.internal:8000/v1"), Recalls::AsWritten);
        assert_eq!(Kind::find("azure").unwrap().recalls("https://a.example"), never);
    }
}
