//! Ids of tool calls as each provider takes them: a conversation may go on elsewhere than it began, and
//! every provider makes ids that another one refuses.
//!
//! **Invariants:** a call and its result keep one id; an id that is taken stays to the byte; one that is
//! not, or that an earlier call has where that is refused, is replaced by the same one every time, so
//! that what a provider has cached of a prompt holds.

use super::gemini;
use crate::wire::json::{self, Span};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::{borrow::Cow, collections::HashMap};

/// Longest id that OpenAI takes, in characters.
const SHORT_MAX: usize = 40;
/// Length of every id that Mistral takes.
const NINE: usize = 9;

/// An id for a call to which its provider gave none: no other call of any conversation has it.
pub(crate) fn new_id() -> String {
    format!("call_{}", uuid::Uuid::now_v7().simple())
}

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
                replaced.extend(replacement(messages, id.get(), |id| self.fit(id)));
            }
        }
        replaced
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

/// The ids of a conversation's calls as Anthropic is told them, in their order: it refuses an id that
/// two calls have, which providers make who number the calls of each answer.
#[derive(Debug, Default)]
pub(crate) struct Told {
    /// By the id: its calls, and those of them that have a result.
    times: HashMap<String, (u32, u32)>,
}

impl Told {
    /// The id of the next call, that is called `id`.
    pub(crate) fn call<'a>(&mut self, id: &'a str) -> Cow<'a, str> {
        let fit = CallIds::Plain.fit(id);
        let (calls, _) = self.times.entry(fit.to_string()).or_default();
        *calls += 1;
        nth(fit, *calls)
    }

    /// The id that the next result for `id` names: that of the first such call that has none.
    pub(crate) fn result<'a>(&mut self, id: &'a str) -> Cow<'a, str> {
        let fit = CallIds::Plain.fit(id);
        let (calls, answered) = self.times.entry(fit.to_string()).or_default();
        *answered = (*answered + 1).min(*calls);
        nth(fit, *answered)
    }

    /// The messages of a Messages request with the ids that are taken.
    pub(crate) fn in_messages(messages: &str) -> Cow<'_, str> {
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
        let (mut told, mut out, mut from) = (Self::default(), String::new(), 0);
        for message in elements::<Message<'_>>(messages) {
            for block in elements::<Block<'_>>(message.content.get()) {
                let replaced = match (block.kind.as_ref(), block.id, block.tool_use_id) {
                    ("tool_use", Some(id), _) => {
                        replacement(messages, id.get(), |id| told.call(id))
                    }
                    ("tool_result", _, Some(id)) => {
                        replacement(messages, id.get(), |id| told.result(id))
                    }
                    _ => None,
                };
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
}

/// The id of the call that is the nth of this id.
fn nth(id: Cow<'_, str>, n: u32) -> Cow<'_, str> {
    if n < 2 { id } else { Cow::Owned(CallIds::Plain.in_place_of(&format!("{id} {n}"))) }
}

/// What the JSON string `raw`, an id within `text`, is replaced by, and its place there.
fn replacement(
    text: &str,
    raw: &str,
    fit: impl for<'a> FnOnce(&'a str) -> Cow<'a, str>,
) -> Option<(Span, String)> {
    let id = json::text_of(raw)?;
    let fit = fit(&id);
    if fit == id {
        return None;
    }
    let start = (raw.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    let written = serde_json::to_string(&fit).ok()?;
    Some((Span { start, end: start + raw.len() }, written))
}

/// The elements of a list that has been read before; none where it is no list of such.
fn elements<'a, T: Deserialize<'a>>(raw: &'a str) -> Vec<T> {
    if raw.starts_with('[') { serde_json::from_str(raw).unwrap_or_default() } else { Vec::new() }
}

#[cfg(test)]
mod tests {
    use super::{CallIds, Told};

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
        assert_eq!(Told::in_messages(&messages("a.b")), messages(&fit));
        let fits = messages("toolu_1");
        assert_eq!(Told::in_messages(&fits), fits);
    }

    #[test]
    fn calls_of_one_id_are_told_apart_and_so_are_their_results() {
        let of = |calls: [&str; 2], ids: &[&str]| {
            let blocks = |kind: &str, name: &str, ids: &[&str]| {
                let block = |id: &&str| format!(r#"{{"type":"{kind}","{name}":"{id}"}}"#);
                ids.iter().map(block).collect::<Vec<_>>().join(",")
            };
            let turn = |ids: &[&str]| {
                let used = blocks("tool_use", "id", ids);
                let results = blocks("tool_result", "tool_use_id", ids);
                format!(
                    r#"{{"role":"assistant","content":[{used}]}},{{"role":"user","content":[{results}]}}"#
                )
            };
            format!("[{},{}]", turn(&calls), turn(ids))
        };
        let again =
            Told::in_messages(&of(["call_0", "call_1"], &["call_0", "call_0"])).into_owned();
        let mut told = Told::default();
        let ids = ["call_0", "call_1", "call_0", "call_0"].map(|id| told.call(id).into_owned());
        assert_eq!(again, of(["call_0", "call_1"], &[&ids[2], &ids[3]]));
        assert!(ids[2] != ids[3] && ids[2] != "call_0" && ids[3] != "call_0", "{ids:?}");
        let results = ["call_0", "call_1", "call_0", "call_0", "call_0", "other"]
            .map(|id| told.result(id).into_owned());
        assert_eq!(results[..4], ids);
        assert_eq!((&results[4], results[5].as_str()), (&ids[3], "other"));
        // Of a conversation that goes on, what has been said is told as before.
        let shorter = Told::in_messages(&of(["call_0", "call_1"], &["call_0"])).into_owned();
        assert_eq!(shorter, of(["call_0", "call_1"], &[&ids[2]]));
    }
}
