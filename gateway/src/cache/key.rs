//! What makes two requests the same: everything that could change the answer, and who asks.
//!
//! The body is hashed as JSON, not as bytes: members in any order, white space apart. Left out are
//! only the members that say how the answer is sent. **Invariant:** the key's id is part of it, so
//! one caller never gets what another asked for.

use crate::{ledger::KeyId, wire::ChatRequest};
use policies::PolicyVersion;
use serde_json::Value;

/// Members of the body that do not change what is answered. `stream` is part of the key beside the
/// body: an answer is kept in the form in which it came.
const UNIMPORTANT: [&str; 2] = ["stream", "stream_options"];
/// Nesting deeper than this is not hashed, and so not cached; the reader of requests has a limit of
/// its own.
const DEPTH_MAX: usize = 128;

/// What two like requests share: a BLAKE3 hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct CacheKey([u8; 32]);

impl CacheKey {
    /// The key of a request; `None` where it cannot be told apart.
    #[must_use]
    pub(super) fn of(
        request: &ChatRequest,
        caller: &KeyId,
        policy: &PolicyVersion,
    ) -> Option<Self> {
        let body: Value = serde_json::from_slice(&request.body).ok()?;
        let mut hash = blake3::Hasher::new();
        text(&mut hash, &caller.0);
        text(&mut hash, &policy.0);
        hash.update(&[request.endpoint as u8, u8::from(request.stream)]);
        hash.update(&request.output_cap.to_le_bytes());
        let mut tags = request.tags.clone();
        tags.sort_unstable();
        count(&mut hash, tags.len());
        tags.iter().for_each(|tag| text(&mut hash, tag));
        if let Some(outer) = &request.outer_body {
            // Another format may say more than was converted.
            let outer: Value = serde_json::from_slice(outer).ok()?;
            value(&mut hash, &outer, 0)?;
        }
        value(&mut hash, &body, 0)?;
        Some(Self(*hash.finalize().as_bytes()))
    }

    /// The key of an `Idempotency-Key`.
    #[must_use]
    pub(super) fn of_idempotency(key: &str, caller: &KeyId) -> Self {
        let mut hash = blake3::Hasher::new();
        text(&mut hash, &caller.0);
        text(&mut hash, key);
        Self(*hash.finalize().as_bytes())
    }
}

/// Adds a value so that no two different ones add the same bytes: kinds are marked, lengths stand
/// before contents, members are sorted by name.
fn value(hash: &mut blake3::Hasher, json: &Value, depth: usize) -> Option<()> {
    if depth > DEPTH_MAX {
        return None;
    }
    match json {
        Value::Null => drop(hash.update(b"n")),
        Value::Bool(flag) => drop(hash.update(if *flag { b"t" } else { b"f" })),
        Value::Number(number) => {
            hash.update(b"#");
            text(hash, &number.to_string());
        }
        Value::String(string) => {
            hash.update(b"s");
            text(hash, string);
        }
        Value::Array(items) => {
            hash.update(b"[");
            count(hash, items.len());
            for item in items {
                value(hash, item, depth + 1)?;
            }
        }
        Value::Object(members) => {
            let important = |name: &str| depth > 0 || !UNIMPORTANT.contains(&name);
            let mut sorted: Vec<_> = members.iter().filter(|(name, _)| important(name)).collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            hash.update(b"{");
            count(hash, sorted.len());
            for (name, member) in sorted {
                text(hash, name);
                value(hash, member, depth + 1)?;
            }
        }
    }
    Some(())
}

fn text(hash: &mut blake3::Hasher, text: &str) {
    count(hash, text.len());
    hash.update(text.as_bytes());
}

fn count(hash: &mut blake3::Hasher, count: usize) {
    hash.update(&(count as u64).to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hashed(json: &Value) -> [u8; 32] {
        let mut hash = blake3::Hasher::new();
        value(&mut hash, json, 0).unwrap();
        *hash.finalize().as_bytes()
    }

    #[test]
    fn the_order_of_members_and_how_it_is_sent_do_not_matter() {
        let one = json!({"model": "m", "stream": true, "metadata": {"a": 1, "b": 2}});
        let other = json!({"metadata": {"b": 2, "a": 1}, "stream_options": {}, "model": "m"});
        assert_eq!(hashed(&one), hashed(&other));
        let inner = |flag| json!({"messages": [{"stream": flag}]});
        assert_ne!(hashed(&inner(true)), hashed(&inner(false)), "only at the top");
    }

    #[test]
    fn whatever_could_change_the_answer_matters() {
        let all = [
            json!({"a": ["b", "c"]}),
            json!({"a": ["bc"]}),
            json!({"a": "bc"}),
            json!({"ab": "c"}),
            json!({"a": [["b"], "c"]}),
            json!({"a": 1}),
            json!({"a": 1.5}),
            json!({"a": "1"}),
            json!({"a": true}),
            json!({"a": null}),
            json!({}),
        ];
        let mut seen: Vec<_> = all.iter().map(hashed).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len());
    }
}
