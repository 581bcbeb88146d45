//! What is asked of the engine and what it answers. Plain data, no llama.cpp in it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{constraint::Constraint, draw::Breakers};

/// Most alternatives told for each token.
pub const TOP_LOGPROBS_MAX: u32 = 20;

/// One message of a conversation, as the chat template sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The text (content parts already joined).
    pub content: String,
    /// The speaker's name, where one was given.
    pub name: Option<String>,
    /// An assistant's past tool calls as the JSON array of the OpenAI format, where there were any.
    pub tool_calls_json: Option<String>,
    /// The call a tool message answers.
    pub tool_call_id: Option<String>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions (`system` and `developer`).
    System,
    /// The caller's user.
    User,
    /// The model.
    Assistant,
    /// The result of a tool call.
    Tool,
}

/// How tokens are drawn. The default is greedy, everything else off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sampling {
    /// 0 (greedy) to 2.
    pub temperature: f32,
    /// Nucleus, in (0, 1]; 1 switches it off.
    pub top_p: f32,
    /// Only the k likeliest tokens; `None` switches it off.
    pub top_k: Option<u32>,
    /// Tokens below this share of the likeliest one's probability are dropped; 0 switches it off.
    pub min_p: f32,
    /// Locally typical sampling, in (0, 1]; 1 switches it off.
    pub typical_p: f32,
    /// Multiplicative penalty on repeated tokens; 1 switches it off.
    pub repeat_penalty: f32,
    /// Subtracted from the logit of every token in the window, -2 to 2.
    pub presence_penalty: f32,
    /// Subtracted for each time a token is in the window, -2 to 2.
    pub frequency_penalty: f32,
    /// The window of these three penalties: the last so many tokens of prompt and answer, as in
    /// llama.cpp's own server. 0 switches them off.
    pub repeat_last_n: u32,
    /// The penalty that grows with the length of a repetition, where wanted.
    pub dry: Option<Dry>,
    /// Added to a token's logit before sampling: (token id, bias in -100 to 100).
    pub logit_bias: Vec<(i32, f32)>,
    /// Seed of the draw; `None` draws one.
    pub seed: Option<u64>,
}

/// DRY: the token that would extend a repetition of `n` tokens, `n` at least `allowed_length`,
/// loses `multiplier * base ^ (n - allowed_length)` of its logit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Dry {
    /// Above 0.
    pub multiplier: f32,
    /// At least 1.
    pub base: f32,
    /// Repetitions shorter than this are free.
    pub allowed_length: u32,
    /// The window, in tokens of prompt and answer.
    pub last_n: u32,
    /// Texts that no repetition reaches across; each non-empty, without a null.
    pub breakers: Breakers,
}

impl Default for Sampling {
    fn default() -> Sampling {
        Sampling {
            temperature: 0.0,
            top_p: 1.0,
            top_k: None,
            min_p: 0.0,
            typical_p: 1.0,
            repeat_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            repeat_last_n: 64,
            dry: None,
            logit_bias: Vec::new(),
            seed: None,
        }
    }
}

/// One generation.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    /// The prompt's tokens, at least one, from [`crate::Engine::tokenize_chat`].
    pub prompt: Vec<i32>,
    /// Most tokens to generate, at least 1.
    pub max_tokens: u32,
    /// Texts that end the answer; they and what follows are never shown. Each non-empty.
    pub stop: Vec<String>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// What the answer must match, from [`crate::Engine::constrain`].
    #[serde(skip)]
    pub constraint: Option<Constraint>,
    /// Whether each token's log probability is told, and how many of the likeliest tokens in its
    /// place, at most [`TOP_LOGPROBS_MAX`].
    pub logprobs: Option<u32>,
    /// Attributed engine time after which the job ends with [`Finish::EngineTime`]: the bound a
    /// reservation was computed from.
    pub engine_time_max: Duration,
    /// Whether that bound may be raised while the job runs: then it tells
    /// [`JobEvent::EngineTimeLow`] before, and waits at the bound for its owner's word on
    /// [`crate::Generation::engine_time`].
    pub engine_time_may_grow: bool,
    /// Whose job it is and how urgent.
    pub scheduling: Scheduling,
}

/// Whose job it is and how urgent: what the scheduler shares the engine by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scheduling {
    /// The caller, by any number that is the same for all of its jobs: waiting callers get equal
    /// shares, and cached prefixes stay with their caller where they are not shared.
    pub caller: u64,
    /// Jobs of a higher priority leave the queue first.
    pub priority: Priority,
    /// Longest wait in the queue, where it is shorter than the engine's own.
    pub queue_wait_max: Option<Duration>,
    /// Whether it was submitted after another job of the same request, whose answer would break
    /// without it: it waits as long as that one's answer is wanted, and makes room for nobody.
    pub follows: bool,
}

/// How urgent a job is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Priority {
    /// Somebody waits for every token.
    High,
    /// As usual.
    #[default]
    Normal,
    /// Whenever nothing else waits.
    Low,
}

/// What a job yields, in order: `Started`, then `Text` any number of times, then one `Finished`,
/// `Unread`, `Refused`, `Stopped` or `Failed`; or `Expired` alone; or, for a job that never started,
/// `Refused`, `Stopped` or `Failed` alone. Dropping the receiver cancels the job before its next decode.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum JobEvent {
    /// The job left the queue and its prompt is being read.
    Started {
        /// Time spent in the queue.
        queued: Duration,
        /// Prompt tokens found in the KV cache.
        cached_tokens: u32,
    },
    /// Text, always whole UTF-8 characters, never part of a stop string.
    Text {
        /// The text. Empty only in the last one of an answer, where the tokens whose log
        /// probabilities it tells make no text: a character that was cut.
        text: String,
        /// Tokens generated since the last event: a text can be held back while it may become a
        /// stop string or while a character is incomplete.
        tokens: u32,
        /// The log probabilities of the tokens in the text, where they were asked for. A token that
        /// makes no whole character yet comes with the one that completes it.
        logprobs: Vec<TokenLogprob>,
    },
    /// Three quarters of the job's engine time are used, where its bound may be raised; once for
    /// each bound. Never the last event.
    EngineTimeLow,
    /// The job ended well.
    Finished {
        /// Why.
        finish: Finish,
        /// What it took.
        usage: JobUsage,
    },
    /// The engine was too busy: the job waited in the queue for `queue_wait_max`, never started and
    /// took nothing.
    Expired {
        /// Time spent in the queue.
        queued: Duration,
    },
    /// Its reader read nothing, or said nothing of more engine time, for `reader_stall_max`: it counts
    /// as one that left, and the engine is not at fault.
    Unread {
        /// What it had taken until then.
        usage: JobUsage,
    },
    /// What the request demands of its answer takes more than a request may take: it is at fault,
    /// and the engine is not.
    Refused {
        /// What it was.
        reason: String,
        /// What it had taken until then.
        usage: JobUsage,
    },
    /// The engine was ended as somebody wanted, before the job was: its model is unloaded or exchanged.
    Stopped {
        /// What it had taken until then.
        usage: JobUsage,
    },
    /// The engine could not go on with this job.
    Failed {
        /// What went wrong, for the operator's log: no prompt text in it.
        reason: String,
        /// What it had taken until then.
        usage: JobUsage,
    },
}

/// A generated token and how likely the model found it, before any sampler or constraint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenLogprob {
    /// The token.
    pub chosen: Likely,
    /// The likeliest tokens in its place, best first.
    pub top: Vec<Likely>,
}

/// A token that could have come.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Likely {
    /// Its id.
    pub token: i32,
    /// Its bytes: not always whole characters.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability.
    pub logprob: f32,
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// The model ended its turn.
    Stop,
    /// A stop text was met: its index in [`Job::stop`].
    StopText(usize),
    /// `max_tokens` were generated, or the context is full.
    Length,
    /// `engine_time_max` was reached.
    EngineTime,
}

/// Exactly what a job used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JobUsage {
    /// Tokens of the prompt.
    pub prompt_tokens: u32,
    /// Those of them found in the KV cache.
    pub cached_tokens: u32,
    /// Tokens generated, the end-of-turn token included.
    pub generated_tokens: u32,
    /// Engine time attributed to reading the prompt.
    pub prefill_time: Duration,
    /// Engine time attributed to generating, that of a draft model included.
    pub decode_time: Duration,
    /// Tokens that were guessed before they were computed.
    pub drafted_tokens: u32,
    /// Those of them that were drawn.
    pub accepted_tokens: u32,
}
