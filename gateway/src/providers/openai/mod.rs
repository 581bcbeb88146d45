//! OpenAI's chat format as a provider speaks it, and every server that is compatible with it.

mod body;
mod calls;
mod deltas;
mod error;
mod parts;
mod seen;
#[cfg(test)]
mod tests;
mod usage;

pub(crate) use body::{Differs, upstream_body};
pub use deltas::Reader;
pub use error::{ProviderError, provider_error};
pub(crate) use parts::with_reasoning;
pub use seen::{Payload, read_chunk, read_vectors, read_whole};
