//! How loading, prompting and submitting can fail, in the caller's terms. No message holds text of
//! a prompt.

use std::{path::PathBuf, time::Duration};

/// The model could not be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// A setting is out of range.
    #[error("the engine's settings are wrong: {0}")]
    Config(String),
    /// The file cannot be read.
    #[error("the model file {} cannot be read: {reason}", file.display())]
    Unreadable {
        /// The file.
        file: PathBuf,
        /// The system's reason.
        reason: String,
    },
    /// The file is not a model llama.cpp can load.
    #[error("the model file {} cannot be loaded: {reason}", file.display())]
    Model {
        /// The file.
        file: PathBuf,
        /// llama.cpp's last words.
        reason: String,
    },
    /// The draft model is none for this model.
    #[error("the draft model {} cannot be used: {reason}", file.display())]
    Draft {
        /// Its file.
        file: PathBuf,
        /// What keeps it from being one.
        reason: String,
    },
    /// The context (KV cache and buffers) could not be made, most often for want of memory.
    #[error("no context of {context_tokens} tokens could be made: {reason}")]
    Context {
        /// The cells asked for.
        context_tokens: u32,
        /// llama.cpp's last words.
        reason: String,
    },
    /// The models' share of the memory does not hold it, and unloading what is idle would not do.
    #[error(
        "it needs about {} MiB of memory, and {} MiB of what the models may take are free",
        mib(*needed), mib(*free)
    )]
    Memory {
        /// Bytes it needs, by estimate.
        needed: u64,
        /// Bytes that are free.
        free: u64,
    },
    /// The system would not start a thread, or llama.cpp its backend.
    #[error("the engine could not start: {0}")]
    Start(String),
}

/// A kept model is not there for a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotLoaded {
    /// It failed and is not tried again yet.
    #[error("the model has failed: {reason}")]
    Failed {
        /// Why, for the operator.
        reason: String,
    },
    /// As many requests wait for it to be loaded as may.
    #[error("the model is being loaded, and too many requests wait for it already")]
    TooManyWait,
    /// It took too long to load.
    #[error("the model was not loaded within {} ms", waited.as_millis())]
    Timeout {
        /// The longest wait.
        waited: Duration,
    },
    /// An operator has unloaded it.
    #[error("the model is unloaded")]
    Unloaded,
    /// The host has ended.
    #[error("the engine is stopped")]
    Stopped,
}

/// Messages could not be made into a prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptError {
    /// There are no messages.
    #[error("there are no messages")]
    Empty,
    /// There is none before the one to go on with, and the model's template needs one.
    #[error(
        "there is no message before the one that the answer goes on with: the model's chat template needs one"
    )]
    OnlyContinued,
    /// The model has no chat template.
    #[error("this model has no chat template: it cannot answer chats")]
    NoTemplate,
    /// The model's chat template does not parse.
    #[error("the model's chat template does not parse, so that it cannot answer chats: {0}")]
    Template(String),
    /// The model's template refuses these messages, for example two users in a row.
    #[error("the model's chat template refuses these messages: {0}")]
    Refused(String),
    /// Nobody waits for the prompt any more.
    #[error("the prompt was given up")]
    GivenUp,
    /// A message's past tool calls are not JSON.
    #[error("tool_calls of message {0} is not valid JSON")]
    ToolCalls(usize),
    /// The text is so long that it cannot fit, whatever its tokens.
    #[error(
        "the prompt has {bytes} bytes: more than {context_tokens} tokens, the context length, can hold"
    )]
    TooLong {
        /// Bytes of the rendered prompt.
        bytes: usize,
        /// The context length of one job.
        context_tokens: u32,
    },
}

/// A job was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// As many jobs wait as may wait.
    #[error("the engine is busy: {queued} requests are waiting already")]
    QueueFull {
        /// Jobs waiting.
        queued: usize,
    },
    /// The prompt and the answer do not fit into the context.
    #[error(
        "the context length is {context_tokens} tokens, but {prompt_tokens} of the prompt and {max_tokens} of the answer were asked for"
    )]
    ContextOverflow {
        /// Tokens of the prompt.
        prompt_tokens: u32,
        /// Tokens of the answer asked for.
        max_tokens: u32,
        /// The context length of one job.
        context_tokens: u32,
    },
    /// The prompt has no token.
    #[error("the prompt is empty")]
    EmptyPrompt,
    /// A parameter is out of range.
    #[error("{parameter}: {reason}")]
    Invalid {
        /// The field of [`crate::Job`] or [`crate::Sampling`].
        parameter: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine was shut down.
    #[error("the engine is stopped")]
    Stopped,
    /// The engine failed and takes no jobs.
    #[error("the engine has failed: {reason}")]
    Failed {
        /// Why, for the operator.
        reason: String,
    },
}

fn mib(bytes: u64) -> u64 {
    bytes >> 20
}
