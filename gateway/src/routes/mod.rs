//! The ways to get an answer: a closed set, the model in this process or a cloud provider.

pub mod cloud;
mod fault;

pub use cloud::{CloudAnswer, CloudRoute, Place};
pub use fault::{Fault, FaultKind};
