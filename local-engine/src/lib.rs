//! A model in this process: a job goes in, tokens come out.
//!
//! The engine knows no HTTP, no money and no policy. One thread per device owns every model's
//! context and takes turns between them; async callers talk to it through bounded queues and render
//! templates and tokenise on their own threads. Start reading at [`Engine`], a loaded model; the
//! story of a job is told in `scheduler.rs`, that of several models in `host.rs`.

mod arguments;
#[cfg(test)]
mod asking_tests;
mod attribution;
mod calls;
mod cells;
#[cfg(test)]
mod cells_tests;
mod checkpoints;
#[cfg(test)]
mod checkpoints_tests;
mod closing;
mod config;
mod constraint;
mod costs;
mod counted;
mod dates;
mod defaults;
mod desk;
mod device;
mod digest;
mod draft;
#[cfg(test)]
mod draft_tests;
mod draw;
mod drill;
mod embedding;
mod engine;
mod engine_time;
mod error;
mod evictions;
#[doc(hidden)]
pub mod fuzzing;
mod gbnf;
mod generation;
pub mod gguf;
#[cfg(test)]
mod growth_tests;
#[cfg(test)]
mod guard_tests;
mod host;
mod hosted;
mod info;
mod job;
mod keeper;
mod llama;
mod load;
mod logprobs;
mod lookup;
mod meter;
mod numbers;
mod offload;
mod one_of;
mod outbox;
mod placed;
mod pointers;
mod predict;
mod prefix_tree;
mod process;
mod queue;
#[cfg(test)]
mod queue_tests;
mod ranks;
#[cfg(test)]
mod ranks_tests;
mod scheduler;
#[cfg(test)]
mod scheduler_tests;
mod schemas;
mod sequence;
mod shared;
mod slots;
mod speculation;
#[cfg(test)]
mod speculation_tests;
#[cfg(test)]
mod state_tests;
mod status;
mod step;
mod swap;
mod template;
mod text;
mod threads;
mod tools;
mod turns;
mod validate;
mod with_model;

pub use calls::{CallEvent, CallReader};
pub use config::{EngineConfig, KvLayout, PrefixSharing};
pub use constraint::{COMPILERS_MAX, Constraint, ConstraintError, Rule};
pub use defaults::SamplingDefaults;
pub use draw::Breakers;
pub use drill::Drill;
pub use embedding::{EMBED_INPUTS_MAX, EmbedError, EmbedEvent, EmbedJob, Embedding, Pooling};
pub use engine::Engine;
pub use engine_time::EngineTime;
pub use error::{LoadError, NotLoaded, PromptError, SubmitError};
pub use evictions::{Eviction, EvictionKind, JobRef};
pub use generation::Generation;
pub use host::{Host, HostConfig, HostStatus};
pub use hosted::{HostedModel, Keep, LoadWhen, ModelCounts, ModelState};
pub use info::{Device, DraftInfo, ModelInfo};
pub use job::{
    Dry, Finish, Job, JobEvent, JobUsage, Likely, Message, Priority, Role, Sampling, Scheduling,
    TOP_LOGPROBS_MAX, TokenLogprob,
};
pub use predict::Prediction;
pub use process::{Isolation, Worker, serve_parent};
pub use speculation::{
    DRAFT_STREAMS_MAX, DRAFT_TOKENS_MAX, RequestClass, Speculation, SpeculationStatus,
};
pub use status::{DraftStatus, EngineState, Status, StepCosts};
pub use template::{Chat, TEMPLATE_WORDS};
pub use tools::{Function, ToolChoice, ToolFormat, Tools};
