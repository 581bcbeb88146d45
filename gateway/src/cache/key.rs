//! What makes two requests the same: everything that could change the answer, and who asks.
//!
//! The body is hashed as JSON, not as bytes: members in any order, white space apart. Left out are
//! only the members that say how the answer is sent. **Invariants:** the key's id is part of it, so
//! one caller never gets what another asked for; no tree of the body is built, and the memory needed
//! grows with how deep it nests and not with how long it is.

use crate::{
    ledger::KeyId,
    wire::{ChatRequest, json::Key},
};
use blake3::Hasher;
use policies::PolicyVersion;
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use std::{borrow::Cow, fmt};

/// Members of the body that do not change what is answered. `stream` is part of the key beside the
/// body: an answer is kept in the form in which it came.
const UNIMPORTANT: [&str; 2] = ["stream", "stream_options"];
/// Members of one object that are sorted together. Of a larger one each lot is, so that order matters
/// between them: it may then be told from its like, never taken for another.
const LOT: usize = 2048;

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
        let mut hash = Hashers::default();
        hash.text(&caller.0);
        hash.text(&policy.0);
        hash.add(&[request.endpoint as u8, u8::from(request.stream)]);
        hash.add(&request.output_cap.to_le_bytes());
        let mut tags = request.tags.clone();
        tags.sort_unstable();
        hash.count(tags.len());
        tags.iter().for_each(|tag| hash.text(tag));
        hash.text(&request.anthropic_betas);
        if let Some(outer) = &request.outer_body {
            // Another format may say more than was converted.
            hash.json(outer)?;
        }
        hash.json(&request.body)?;
        Some(Self(hash.end()))
    }

    /// The key of an `Idempotency-Key`.
    #[must_use]
    pub(super) fn of_idempotency(key: &str, caller: &KeyId) -> Self {
        let mut hash = Hashers::default();
        hash.text(&caller.0);
        hash.text(key);
        Self(hash.end())
    }
}

/// The hash that is being made, and within it those of the members that are being read, the innermost
/// last. On the heap: a hasher is large, and bodies nest deep.
#[derive(Default)]
struct Hashers {
    whole: Hasher,
    members: Vec<Hasher>,
}

impl Hashers {
    fn add(&mut self, bytes: &[u8]) {
        self.members.last_mut().unwrap_or(&mut self.whole).update(bytes);
    }

    fn count(&mut self, count: usize) {
        self.add(&(count as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.count(text.len());
        self.add(text.as_bytes());
    }

    /// Adds a body; `None` where it is none, or nests deeper than a reader goes.
    fn json(&mut self, body: &[u8]) -> Option<()> {
        let mut reader = serde_json::Deserializer::from_slice(body);
        let value = Value { hash: self, is_body: true };
        value.deserialize(&mut reader).and_then(|()| reader.end()).ok()
    }

    /// Adds members in the order of their names.
    fn lot(&mut self, members: &mut Vec<(Cow<'_, str>, [u8; 32])>) {
        // Of those that share a name the order stays: it may say which of them holds.
        members.sort_by(|(one, _), (other, _)| one.cmp(other));
        for (_, digest) in members.drain(..) {
            self.add(b"m");
            self.add(&digest);
        }
    }

    fn end(self) -> [u8; 32] {
        *self.whole.finalize().as_bytes()
    }
}

/// Adds a value so that no two different ones add the same bytes: kinds are marked, what has no fixed
/// length has it before it or an end, and members stand there by their hashes.
struct Value<'h> {
    hash: &'h mut Hashers,
    /// Whether it is a whole body, and not within one.
    is_body: bool,
}

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        self.hash.add(b"n");
        Ok(())
    }

    fn visit_bool<E>(self, flag: bool) -> Result<(), E> {
        self.hash.add(if flag { b"t" } else { b"f" });
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.hash.add(b"u");
        self.hash.add(&number.to_le_bytes());
        Ok(())
    }

    fn visit_i64<E>(self, number: i64) -> Result<(), E> {
        self.hash.add(b"i");
        self.hash.add(&number.to_le_bytes());
        Ok(())
    }

    fn visit_f64<E>(self, number: f64) -> Result<(), E> {
        self.hash.add(b".");
        self.hash.add(&number.to_le_bytes());
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.hash.add(b"s");
        self.hash.text(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let hash = self.hash;
        hash.add(b"[");
        while items.next_element_seed(Value { hash: &mut *hash, is_body: false })?.is_some() {}
        hash.add(b"]");
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let Self { hash, is_body } = self;
        hash.add(b"{");
        let mut lot = Vec::new();
        while let Some(Key(name)) = members.next_key()? {
            if is_body && UNIMPORTANT.contains(&name.as_ref()) {
                members.next_value::<IgnoredAny>()?;
                continue;
            }
            hash.members.push(Hasher::new());
            hash.text(&name);
            members.next_value_seed(Value { hash: &mut *hash, is_body: false })?;
            let digest = hash.members.pop().unwrap_or_default().finalize();
            lot.push((name, *digest.as_bytes()));
            if lot.len() >= LOT {
                hash.lot(&mut lot);
            }
        }
        hash.lot(&mut lot);
        hash.add(b"}");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Hashers, LOT};

    fn hashed(json: &str) -> [u8; 32] {
        let mut hash = Hashers::default();
        hash.json(json.as_bytes()).expect(json);
        hash.end()
    }

    #[test]
    fn the_order_of_members_and_how_it_is_sent_do_not_matter() {
        let one = r#"{"model":"m","stream":true,"metadata":{"a":1,"b":[2]}}"#;
        let other =
            r#" {"metadata": {"\u0062": [ 2 ], "a": 1}, "stream_options": {}, "model":"m"}"#;
        assert_eq!(hashed(one), hashed(other));
        let inner = |flag| hashed(&format!(r#"{{"messages":[{{"stream":{flag}}}]}}"#));
        assert_ne!(inner(true), inner(false), "only at the top");
    }

    #[test]
    fn whatever_could_change_the_answer_matters() {
        let all = [
            r#"{"a":["b","c"]}"#,
            r#"{"a":["bc"]}"#,
            r#"{"a":"bc"}"#,
            r#"{"ab":"c"}"#,
            r#"{"a":[["b"],"c"]}"#,
            r#"{"a":[["b","c"]]}"#,
            r#"{"a":{"b":"c"}}"#,
            r#"{"a":{},"b":"c"}"#,
            r#"{"a":1}"#,
            r#"{"a":-1}"#,
            r#"{"a":1.0}"#,
            r#"{"a":1.5}"#,
            r#"{"a":"1"}"#,
            r#"{"a":true}"#,
            r#"{"a":null}"#,
            r#"{"a":1,"a":2}"#,
            r#"{"a":2,"a":1}"#,
            r#"{}"#,
        ];
        let mut seen: Vec<_> = all.map(hashed).to_vec();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), all.len());
    }

    #[test]
    fn what_is_no_json_or_nests_too_deep_has_no_key() {
        let nested = |depth: usize| format!("{}1{}", r#"{"a":"#.repeat(depth), "}".repeat(depth));
        for text in ["{", "{} {}", &nested(4096)] {
            assert!(Hashers::default().json(text.as_bytes()).is_none());
        }
        hashed(&nested(120));
    }

    #[test]
    fn an_object_of_more_members_than_are_sorted_at_once_is_itself_alone() {
        let of = |numbers: &mut dyn Iterator<Item = usize>| {
            let members: Vec<_> = numbers.map(|number| format!(r#""{number}":{number}"#)).collect();
            hashed(&format!("{{{}}}", members.join(",")))
        };
        let most = LOT - 1;
        assert_eq!(of(&mut (0..most)), of(&mut (0..most).rev()));
        assert_eq!(of(&mut (0..3 * LOT)), of(&mut (0..3 * LOT)));
        assert_ne!(of(&mut (0..3 * LOT)), of(&mut (1..=3 * LOT)));
    }
}
