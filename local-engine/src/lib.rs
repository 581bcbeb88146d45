//! A model in this process: a job goes in, tokens come out.
//!
//! The engine knows no HTTP, no money and no policy. One scheduler thread owns the context; async
//! callers talk to it through bounded queues and render templates and tokenise on their own
//! threads. Start reading at [`Engine`]; the story of a job is told in `scheduler.rs`.

#[cfg(test)]
mod asking_tests;
mod attribution;
mod calls;
mod cells;
#[cfg(test)]
mod cells_tests;
mod config;
mod constraint;
mod costs;
mod device;
mod embedding;
mod engine;
mod error;
mod evictions;
mod gbnf;
mod generation;
mod info;
mod job;
mod llama;
mod load;
mod logprobs;
mod meter;
mod outbox;
mod prefix_tree;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod sequence;
mod shared;
mod slots;
#[cfg(test)]
mod state_tests;
mod status;
mod step;
mod swap;
mod template;
mod text;
mod tools;
mod validate;

pub use calls::{CallEvent, CallReader};
pub use config::{EngineConfig, KvLayout, PrefixSharing};
pub use constraint::{Constraint, ConstraintError, Rule};
pub use embedding::{EMBED_INPUTS_MAX, EmbedError, EmbedJob, Embedding, Pooling};
pub use engine::Engine;
pub use error::{LoadError, PromptError, SubmitError};
pub use evictions::{Eviction, EvictionKind, JobRef};
pub use generation::Generation;
pub use info::{Device, ModelInfo};
pub use job::{
    Dry, Finish, Job, JobEvent, JobUsage, Likely, Message, Priority, Role, Sampling, Scheduling,
    TOP_LOGPROBS_MAX, TokenLogprob,
};
pub use status::{EngineState, Status, StepCosts};
pub use template::Chat;
pub use tools::{Function, ToolChoice, ToolFormat, Tools};
