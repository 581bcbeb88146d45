//! A model in this process: a job goes in, tokens come out.
//!
//! The engine knows no HTTP, no money and no policy. One scheduler thread owns the context; async
//! callers talk to it through bounded queues and render templates and tokenise on their own
//! threads. Start reading at [`Engine`]; the story of a job is told in `scheduler.rs`.

mod attribution;
mod cells;
#[cfg(test)]
mod cells_tests;
mod config;
mod costs;
mod device;
mod engine;
mod error;
mod evictions;
mod generation;
mod info;
mod job;
mod llama;
mod load;
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
mod validate;

pub use config::{EngineConfig, KvLayout, PrefixSharing};
pub use engine::Engine;
pub use error::{LoadError, PromptError, SubmitError};
pub use evictions::{Eviction, EvictionKind, JobRef};
pub use generation::Generation;
pub use info::{Device, ModelInfo};
pub use job::{Finish, Job, JobEvent, JobUsage, Message, Priority, Role, Sampling, Scheduling};
pub use status::{EngineState, Status, StepCosts};
