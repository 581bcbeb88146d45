//! A model in this process: a job goes in, tokens come out.
//!
//! The engine knows no HTTP, no money and no policy. One scheduler thread owns the context; async
//! callers talk to it through bounded queues and render templates and tokenise on their own
//! threads. Start reading at [`Engine`].

mod job;

pub use job::{Finish, Job, JobEvent, JobUsage, Message, Role, Sampling};
