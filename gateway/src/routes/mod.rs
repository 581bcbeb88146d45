//! The ways to get an answer: a closed set, the model in this process or a cloud provider.

mod fault;

pub use fault::{Fault, FaultKind};
