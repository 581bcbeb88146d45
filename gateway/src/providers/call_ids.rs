//! Ids of tool calls as each provider takes them: a conversation may go on elsewhere than it began, and
//! every provider makes ids that another one refuses.
//!
//! **Invariants:** a call and its result keep one id; an id that is taken stays to the byte; one that is
//! not is replaced by the same one every time, so that what a provider has cached of a prompt holds.

use super::gemini;
use crate::wire::json::{self, Span};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Longest id that OpenAI takes, in characters.
const SHORT_MAX: usize = 40;
/// Length of every id that Mistral takes.
const NINE: usize = 9;

/// Which ids a provider takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CallIds {
    /// Any: it may be a gateway, and have made them.
    Any,
    /// At most [`SHORT_MAX`] characters, and no signature of another provider.
    Short,
    /// Letters, digits, `_` and `-`.
    Plain,
    /// Nine letters and digits.
    Nine,
}

impl CallIds {
    /// The id under which a provider is told of the call `id`.
    pub(crate) fn fit(self, id: &str) -> Cow<'_, str> {
        if self == Self::Any {
            return Cow::Borrowed(id);
        }
        let bare = gemini::unsigned(id);
        if self.takes(bare) { Cow::Borrowed(bare) } else { Cow::Owned(self.in_place_of(bare)) }
    }

    /// What replaces ids in the messages of a chat request, each by its place there.
    pub(crate) fn in_chat(self, messages: &str) -> Vec<(Span, String)> {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(borrow, default)]
            tool_calls: Option<Vec<Call<'a>>>,
            #[serde(borrow, default)]
            tool_call_id: Option<&'a RawValue>,
        }
        #[derive(Deserialize)]
        struct Call<'a> {
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
        }
        if self == Self::Any {
            return Vec::new();
        }
        let mut replaced = Vec::new();
        for message in elements::<Message<'_>>(messages) {
            let calls = message.tool_calls.into_iter().flatten();
            for id in calls.map(|call| call.id).chain([message.tool_call_id]).flatten() {
                replaced.extend(self.replacement(messages, id.get()));
            }
        }
        replaced
    }

    /// The messages of a Messages request with the ids that are taken.
    pub(crate) fn in_messages(self, messages: &str) -> Cow<'_, str> {
        #[derive(Deserialize)]
        struct Message<'a> {
            #[serde(borrow)]
            content: &'a RawValue,
        }
        #[derive(Deserialize)]
        struct Block<'a> {
            #[serde(rename = "type", borrow)]
            kind: Cow<'a, str>,
            #[serde(borrow, default)]
            id: Option<&'a RawValue>,
            #[serde(borrow, default)]
            tool_use_id: Option<&'a RawValue>,
        }
        // Most conversations have no calls, and are not read again.
        if memchr::memmem::find(messages.as_bytes(), b"\"tool_").is_none() {
            return Cow::Borrowed(messages);
        }
        let mut out = String::new();
        let mut from = 0;
        for message in elements::<Message<'_>>(messages) {
            for block in elements::<Block<'_>>(message.content.get()) {
                let id = match block.kind.as_ref() {
                    "tool_use" => block.id,
                    "tool_result" => block.tool_use_id,
                    _ => None,
                };
                let replaced = id.and_then(|id| self.replacement(messages, id.get()));
                let Some((at, with)) = replaced else { continue };
                out.push_str(messages.get(from..at.start).unwrap_or_default());
                out.push_str(&with);
                from = at.end;
            }
        }
        if from == 0 {
            return Cow::Borrowed(messages);
        }
        out.push_str(messages.get(from..).unwrap_or_default());
        Cow::Owned(out)
    }

    /// What the JSON string `raw`, an id within `text`, is replaced by, and its place there.
    fn replacement(self, text: &str, raw: &str) -> Option<(Span, String)> {
        let id = json::text_of(raw)?;
        let fit = self.fit(&id);
        if fit == id {
            return None;
        }
        let start = (raw.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
        let written = serde_json::to_string(&fit).ok()?;
        Some((Span { start, end: start + raw.len() }, written))
    }

    fn takes(self, id: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Short => id.chars().count() <= SHORT_MAX,
            Self::Plain => {
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
                !id.is_empty() && id.bytes().all(plain)
            }
            Self::Nine => id.len() == NINE && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
        }
    }

    /// An id that is taken, made of one that is not.
    fn in_place_of(self, id: &str) -> String {
        let hash = blake3::hash(id.as_bytes());
        let letters = hash.as_bytes().iter().map(|byte| char::from(b'a' + byte % 26));
        match self {
            Self::Nine => letters.take(NINE).collect(),
            _ => ['c', 'a', 'l', 'l', '_'].into_iter().chain(letters).collect(),
        }
    }
}

/// The elements of a list that has been read before; none where it is no list of such.
fn elements<'a, T: Deserialize<'a>>(raw: &'a str) -> Vec<T> {
    if raw.starts_with('[') { serde_json::from_str(raw).unwrap_or_default() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::CallIds;

    const SIGNED: &str = "call_0199aabbccdd7eefb0123456789abcde__thought__CpcB/+ab==";

    #[test]
    fn an_id_that_is_taken_stays_and_another_is_always_replaced_by_the_same() {
        let bare = "call_0199aabbccdd7eefb0123456789abcde";
        for (ids, id, taken) in [
            (CallIds::Any, SIGNED, SIGNED),
            (CallIds::Short, SIGNED, bare),
            (CallIds::Plain, SIGNED, bare),
            (CallIds::Short, "functions.look:0", "functions.look:0"),
            (CallIds::Plain, "toolu_01A-b", "toolu_01A-b"),
            (CallIds::Nine, "D681PevKs", "D681PevKs"),
        ] {
            assert_eq!(ids.fit(id), taken, "{ids:?}");
        }
        let long = "x".repeat(41);
        for (ids, id) in [
            (CallIds::Short, long.as_str()),
            (CallIds::Plain, "functions.look:0"),
            (CallIds::Plain, ""),
            (CallIds::Nine, bare),
            (CallIds::Nine, SIGNED),
        ] {
            let fit = ids.fit(id);
            assert!(fit != id && ids.takes(&fit), "{ids:?} {id}: {fit}");
            assert_eq!(ids.fit(id), fit);
        }
        assert_ne!(CallIds::Nine.fit("call_1"), CallIds::Nine.fit("call_2"));
        assert_eq!(CallIds::Nine.fit(SIGNED), CallIds::Nine.fit(bare), "a call and its result");
    }

    #[test]
    fn nothing_else_of_a_messages_body_changes() {
        let messages = |id: &str| {
            format!(
                r#"[ {{"role":"user","content":"a.b"}}, {{"role":"assistant","content":[{{"type":"text","text":"a.b"}},
                {{"type":"tool_use","id":"{id}","name":"f","input":{{"id": "a.b"}}}}]}},{{"role":"user","content":[
                {{"type":"tool_result","tool_use_id" : "{id}","content":"a.b"}}]}} ]"#
            )
        };
        let fit = CallIds::Plain.fit("a.b");
        assert_eq!(CallIds::Plain.in_messages(&messages("a.b")), messages(&fit));
        let fits = messages("toolu_1");
        assert_eq!(CallIds::Plain.in_messages(&fits), fits);
    }
}
