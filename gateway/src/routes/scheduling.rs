//! Whose request a job of the engine is: the key's id as the number the engine shares by.
//!
//! **Invariant:** a caller can make its own request less urgent, never more.

use crate::{
    ledger::KeyId,
    wire::{ChatRequest, Field},
};
use local_engine::{Priority, Scheduling};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How the engine shares itself for a request of this key, if there is one. `service_tier: "flex"` waits behind all
/// others; a higher tier than the usual is nothing that a request can give itself.
pub(super) fn of(key: Option<&KeyId>, request: &ChatRequest) -> Scheduling {
    let flex = request.given(Field::ServiceTier) == Some("\"flex\"");
    Scheduling {
        caller: key.map_or(0, caller_number),
        priority: if flex { Priority::Low } else { Priority::Normal },
        queue_wait_max: None,
        follows: false,
    }
}

/// The number by which the engine knows a key: the same as long as this process runs.
pub(crate) fn caller_number(key: &KeyId) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.0.hash(&mut hasher);
    hasher.finish()
}
