//! An engine in a child process, for aborts that nobody foresaw (an assertion of llama.cpp, a GPU
//! error): the job protocol goes over a socket pair, and only the child computes. The parent keeps
//! the vocabulary for prompts and rules; when the child dies its jobs fail with the reason, and the
//! keeper starts another after a wait, as after any fault.
//!
//! **Invariant:** the child lives no longer than the parent's end of the socket, also while it loads, and
//! [`END_MAX`] more where a step hangs.

mod child;
mod frames;
mod parent;
mod rules;
mod sent;
mod told;

pub use child::serve_parent;
pub(crate) use parent::{Remote, start, try_out};

use std::{path::PathBuf, time::Duration};

/// How long a child may take to end in order.
const END_MAX: Duration = Duration::from_secs(10);

/// Where an engine computes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// On a thread of this process.
    #[default]
    InProcess,
    /// In a child of its own.
    Process(Worker),
}

/// A program that ends in [`serve_parent`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Worker {
    /// The program.
    pub program: PathBuf,
    /// Its arguments.
    pub args: Vec<String>,
    /// Longest wait for its model to be loaded.
    pub load_max: Duration,
    /// A child whose scheduler has shown no sign of life for so long is killed, and ends like one
    /// that died: a step of the slowest model must take less.
    pub stuck_after: Duration,
}
