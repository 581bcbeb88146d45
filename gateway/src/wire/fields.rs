//! The fields of a chat request that tollgate knows, and where they stand in a body.
//!
//! A field that is not here is accepted and passed on. A known field given twice, or in another case, is
//! refused: two readers of one body must not see two values.

use super::json::Span;

macro_rules! fields {
    ($($variant:ident = $name:literal),* $(,)?) => {
        /// A known field.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Field { $($variant),* }

        impl Field {
            /// All of them.
            pub(crate) const ALL: &[Self] = &[$(Self::$variant),*];

            /// The field of that name.
            pub(crate) fn find(name: &str) -> Option<Self> {
                match name { $($name => Some(Self::$variant),)* _ => None }
            }

            /// Its name.
            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name),* }
            }
        }
    };
}

fields! {
    // OpenAI's.
    Audio = "audio",
    Dimensions = "dimensions",
    EncodingFormat = "encoding_format",
    FrequencyPenalty = "frequency_penalty",
    FunctionCall = "function_call",
    Functions = "functions",
    Input = "input",
    LogitBias = "logit_bias",
    Logprobs = "logprobs",
    MaxCompletionTokens = "max_completion_tokens",
    MaxTokens = "max_tokens",
    Messages = "messages",
    Metadata = "metadata",
    Modalities = "modalities",
    Model = "model",
    N = "n",
    ParallelToolCalls = "parallel_tool_calls",
    Prediction = "prediction",
    PresencePenalty = "presence_penalty",
    Prompt = "prompt",
    ReasoningEffort = "reasoning_effort",
    ResponseFormat = "response_format",
    Seed = "seed",
    ServiceTier = "service_tier",
    Stop = "stop",
    Store = "store",
    Stream = "stream",
    StreamOptions = "stream_options",
    Temperature = "temperature",
    ToolChoice = "tool_choice",
    Tools = "tools",
    TopLogprobs = "top_logprobs",
    TopP = "top_p",
    User = "user",
    Verbosity = "verbosity",
    WebSearchOptions = "web_search_options",
    // Extensions that other servers take.
    AddGenerationPrompt = "add_generation_prompt",
    AddSpecialTokens = "add_special_tokens",
    AllowedTokenIds = "allowed_token_ids",
    ApiBase = "api_base",
    BadWords = "bad_words",
    BestOf = "best_of",
    BillingPolicy = "billing_policy",
    CachePrompt = "cache_prompt",
    ChatTemplate = "chat_template",
    ChatTemplateKwargs = "chat_template_kwargs",
    Compaction = "compaction",
    ContinueFinalMessage = "continue_final_message",
    DataSources = "data_sources",
    Deferred = "deferred",
    Documents = "documents",
    DryAllowedLength = "dry_allowed_length",
    DryBase = "dry_base",
    DryMultiplier = "dry_multiplier",
    DryPenaltyLastN = "dry_penalty_last_n",
    DrySequenceBreakers = "dry_sequence_breakers",
    DynatempRange = "dynatemp_range",
    Echo = "echo",
    EmbdNormalize = "embd_normalize",
    EmbedDtype = "embed_dtype",
    Endianness = "endianness",
    ExtraBody = "extra_body",
    FallbackCreditToken = "fallback_credit_token",
    Fallbacks = "fallbacks",
    Grammar = "grammar",
    GrammarLazy = "grammar_lazy",
    GuidedChoice = "guided_choice",
    GuidedGrammar = "guided_grammar",
    GuidedJson = "guided_json",
    GuidedRegex = "guided_regex",
    GuidedWhitespacePattern = "guided_whitespace_pattern",
    IgnoreEos = "ignore_eos",
    IncludeStopStrInOutput = "include_stop_str_in_output",
    InferenceGeo = "inference_geo",
    JsonSchema = "json_schema",
    LogitsProcessors = "logits_processors",
    Lora = "lora",
    MinKeep = "min_keep",
    MinP = "min_p",
    MinTokens = "min_tokens",
    Mirostat = "mirostat",
    Models = "models",
    NCmpl = "n_cmpl",
    NIndent = "n_indent",
    NPredict = "n_predict",
    NProbs = "n_probs",
    Normalize = "normalize",
    ParseToolCalls = "parse_tool_calls",
    Plugins = "plugins",
    Pooling = "pooling",
    PostSamplingProbs = "post_sampling_probs",
    Preset = "preset",
    PromptEmbeds = "prompt_embeds",
    PromptLogprobs = "prompt_logprobs",
    Provider = "provider",
    RepeatLastN = "repeat_last_n",
    RepeatPenalty = "repeat_penalty",
    RepetitionPenalty = "repetition_penalty",
    ReturnTokenIds = "return_token_ids",
    ReturnTokens = "return_tokens",
    ReturnTokensAsTokenIds = "return_tokens_as_token_ids",
    Samplers = "samplers",
    SearchParameters = "search_parameters",
    SkipSpecialTokens = "skip_special_tokens",
    Speed = "speed",
    StopTokenIds = "stop_token_ids",
    StructuredOutputs = "structured_outputs",
    Suffix = "suffix",
    TMaxPredictMs = "t_max_predict_ms",
    TfsZ = "tfs_z",
    TopK = "top_k",
    TopNSigma = "top_n_sigma",
    TruncatePromptTokens = "truncate_prompt_tokens",
    TypicalP = "typical_p",
    UseActivation = "use_activation",
    UseBeamSearch = "use_beam_search",
    UserConfig = "user_config",
    VllmXargs = "vllm_xargs",
    XtcProbability = "xtc_probability",
}

impl Field {
    /// The names under which an answer is capped: OpenAI's two, and llama-server's own, which goes
    /// before them there.
    pub(crate) const CAPS: [Self; 3] = [Self::MaxTokens, Self::MaxCompletionTokens, Self::NPredict];

    /// Its bit: in which word, and where there.
    const fn bit(self) -> (usize, u64) {
        (self as usize / 64, 1 << (self as usize % 64))
    }

    /// Whether a template could put the field's value into the prompt. (The messages are counted
    /// apart.)
    pub(crate) fn may_reach_prompt(self) -> bool {
        matches!(
            self,
            Self::Functions
                | Self::ResponseFormat
                | Self::ToolChoice
                | Self::FunctionCall
                | Self::Tools
                | Self::ChatTemplateKwargs
                | Self::Documents
                | Self::GuidedJson
                | Self::Input
                | Self::JsonSchema
                | Self::Prompt
                | Self::PromptEmbeds
                | Self::StructuredOutputs
                | Self::Suffix
        )
    }
}

/// Where one known field stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Which.
    pub(crate) field: Field,
    /// Its value.
    pub(crate) value: Span,
    /// End of the member before it, or just inside the brace.
    pub(crate) gap_start: usize,
}

/// Words that hold a bit for each field.
const WORDS: usize = Field::ALL.len().div_ceil(64);

/// The known fields of one body, in its order: each at most once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fields {
    places: Vec<Place>,
    /// Which are there, a bit each: most that are looked for are not.
    present: [u64; WORDS],
}

impl Fields {
    /// None yet; room for those of most requests.
    pub(crate) fn new() -> Self {
        Self { places: Vec::with_capacity(12), present: [0; WORDS] }
    }

    /// Notes a field; `false` if it was there before.
    pub(crate) fn insert(&mut self, place: Place) -> bool {
        let (word, bit) = place.field.bit();
        if self.present[word] & bit != 0 {
            return false;
        }
        self.present[word] |= bit;
        self.places.push(place);
        true
    }

    /// Where `field` stands.
    pub(crate) fn get(&self, field: Field) -> Option<Place> {
        let (word, bit) = field.bit();
        if self.present[word] & bit == 0 {
            return None;
        }
        self.places.iter().find(|place| place.field == field).copied()
    }

    /// All of them, in the body's order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Place> + '_ {
        self.places.iter().copied()
    }
}
