//! Whose request a job of the engine is, the key's id as the number the engine shares by, and how urgent
//! it is.
//!
//! **Invariant:** how urgent a request may be is the operator's word about its key; a caller can make its
//! own request less urgent, never more.

use crate::{
    caller,
    ledger::KeyId,
    wire::{ChatRequest, Field},
};
use local_engine::{Priority, Scheduling};
use std::hash::{DefaultHasher, Hash, Hasher};

/// How the engine shares itself for a request of this key, if there is one.
pub(super) fn of(key: Option<&KeyId>, request: &ChatRequest) -> Scheduling {
    Scheduling {
        caller: key.map_or(0, caller_number),
        priority: priority(request),
        queue_wait_max: None,
        follows: false,
    }
}

/// As the key's, but `service_tier: "flex"` waits behind all others; a higher tier than the usual is
/// nothing that a request can give itself.
fn priority(request: &ChatRequest) -> Priority {
    if request.given(Field::ServiceTier) == Some("\"flex\"") {
        return Priority::Low;
    }
    match request.key_priority {
        caller::Priority::High => Priority::High,
        caller::Priority::Normal => Priority::Normal,
        caller::Priority::Low => Priority::Low,
    }
}

/// The number by which the engine knows a key: the same as long as this process runs.
pub(crate) fn caller_number(key: &KeyId) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.0.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::read_chat;
    use http::HeaderMap;
    use serde_json::json;

    #[test]
    fn a_request_is_as_urgent_as_its_key_or_less_and_never_more() {
        let of = |of_key, tier: Option<&str>| {
            let messages = json!([{"role": "user", "content": "Hi"}]);
            let mut body = json!({"model": "auto", "messages": messages});
            if let Some(tier) = tier {
                body["service_tier"] = json!(tier);
            }
            let mut asked = read_chat(body.to_string().into(), &HeaderMap::new(), 50).unwrap();
            assert_eq!(asked.key_priority, caller::Priority::Normal, "{tier:?} says nothing of it");
            asked.key_priority = of_key;
            of(Some(&KeyId("key_a".into())), &asked).priority
        };
        for (of_key, usual) in [
            (caller::Priority::High, Priority::High),
            (caller::Priority::Normal, Priority::Normal),
            (caller::Priority::Low, Priority::Low),
        ] {
            for tier in [None, Some("auto"), Some("default"), Some("priority")] {
                assert_eq!(of(of_key, tier), usual, "{of_key:?}, {tier:?}");
            }
            assert_eq!(of(of_key, Some("flex")), Priority::Low, "{of_key:?}");
        }
    }
}
