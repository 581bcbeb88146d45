//! Anthropic's Messages API as a provider speaks it.

mod own;
mod request;
mod stream;
#[cfg(test)]
mod tests;
mod unsigned;
mod usage;

pub(crate) use own::whole_own;
pub(crate) use request::{body, is_own, source};
pub(crate) use stream::{Stream, whole};
