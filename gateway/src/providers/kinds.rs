//! The kinds of providers: what each is by default, and where it differs from OpenAI's format.
//!
//! **Invariant:** a key that was found by its default name goes to the default address alone.

use super::Shape;
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
    shape: Shape,
}

/// Every `kind` of a cloud route.
pub const KIND_NAMES: [&str; 15] = [
    "openai",
    "azure",
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
        shape: Shape::NONE,
    }
}

/// What each kind is. Fields that a provider answers with an error are refused before they are sent
/// (so that another route can serve the request) where they change the answer, and left out where
/// they are hints.
static KINDS: [Facts; 15] = [
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        ..facts("openai", Some("https://api.openai.com/v1"), Some("OPENAI_API_KEY"))
    },
    Facts {
        auth: Auth::Header("api-key"),
        cap_field: CapField::MaxCompletionTokens,
        ..facts("azure", None, None)
    },
    Facts {
        format: Format::Anthropic,
        auth: Auth::Header("x-api-key"),
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
    facts("openrouter", Some("https://openrouter.ai/api/v1"), Some("OPENROUTER_API_KEY")),
    Facts {
        // Unknown fields are errors there, and usage always comes.
        shape: Shape {
            refuses: &["logprobs", "top_logprobs", "logit_bias"],
            drops: &["stream_options", "user", "store", "service_tier", "verbosity"],
            renames: &[("seed", "random_seed")],
        },
        ..facts("mistral", Some("https://api.mistral.ai/v1"), Some("MISTRAL_API_KEY"))
    },
    facts("deepseek", Some("https://api.deepseek.com/v1"), Some("DEEPSEEK_API_KEY")),
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        shape: Shape {
            refuses: &["logprobs", "top_logprobs", "logit_bias"],
            drops: &["store"],
            renames: &[],
        },
        ..facts("groq", Some("https://api.groq.com/openai/v1"), Some("GROQ_API_KEY"))
    },
    Facts {
        cap_field: CapField::MaxCompletionTokens,
        shape: Shape { refuses: &["logit_bias"], drops: &["store"], renames: &[] },
        ..facts("xai", Some("https://api.x.ai/v1"), Some("XAI_API_KEY"))
    },
    facts("together", Some("https://api.together.xyz/v1"), Some("TOGETHER_API_KEY")),
    facts("vllm", None, None),
    facts("llama-server", None, None),
    facts("ollama", Some("http://127.0.0.1:11434/v1"), None),
    Facts { cap_field: CapField::MaxCompletionTokens, ..facts("tollgate", None, None) },
    facts("openai-compatible", None, None),
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

    /// The field in which it takes the output cap.
    #[must_use]
    pub fn cap_field(self) -> CapField {
        self.0.cap_field
    }

    pub(crate) fn auth(self) -> Auth {
        self.0.auth
    }

    pub(crate) fn shape(self) -> &'static Shape {
        &self.0.shape
    }
}

#[cfg(test)]
mod tests {
    use super::{KIND_NAMES, Kind};

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
}
