//! A content in parts, as Mistral's models that think write it: what was thought stands in parts of its
//! own, which no client of OpenAI's format knows. It is told as everybody else's is.
//!
//! **Invariant:** a payload without such a part stays as it is, and of one that has some everything
//! does but those contents.

use crate::wire::json::{self, Kind, Shown};
use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

/// A part of a content, or of what was thought.
#[derive(Default, Deserialize)]
pub(super) struct Part<'a> {
    #[serde(borrow, default)]
    pub(super) text: Option<&'a RawValue>,
    #[serde(borrow, default)]
    thinking: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Written<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    delta: Option<Said<'a>>,
    #[serde(borrow, default)]
    message: Option<Said<'a>>,
}

#[derive(Deserialize)]
struct Said<'a> {
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    /// Some servers write it too, as null.
    #[serde(borrow, default, deserialize_with = "written")]
    reasoning_content: Option<&'a RawValue>,
}

/// What a content in parts says.
#[derive(Default)]
struct Content {
    text: String,
    thought: String,
    /// Whether there is a part of thinking.
    thinks: bool,
}

/// A chunk of a stream or a whole answer with what was thought as `reasoning_content` and what is said as
/// a content of text.
pub(crate) fn with_reasoning(payload: Bytes) -> Bytes {
    // Hardly any has one, and is read once more.
    if memchr::memmem::find(&payload, b"\"thinking\"").is_none() {
        return payload;
    }
    rewritten(&payload).unwrap_or(payload)
}

fn rewritten(payload: &[u8]) -> Option<Bytes> {
    let whole = std::str::from_utf8(payload).ok()?;
    let written: Written<'_> = serde_json::from_str(whole).ok()?;
    let said = written.choices?.into_iter().flat_map(|choice| [choice.delta, choice.message]);
    // What stands in place of which value.
    let mut edits: Vec<(&str, String)> = Vec::new();
    for Said { content, reasoning_content } in said.flatten() {
        let Some((raw, Content { text, thought, .. })) =
            content.and_then(|raw| Some((raw.get(), Content::of(raw.get())?)))
        else {
            continue;
        };
        let (mut text, thought) = (json_of(&text)?, json_of(&thought)?);
        match reasoning_content.map(RawValue::get) {
            None => {
                text.push_str(",\"reasoning_content\":");
                text.push_str(&thought);
            }
            Some(empty @ ("null" | "\"\"")) => edits.push((empty, thought)),
            // It is told.
            Some(_) => {}
        }
        edits.push((raw, text));
    }
    if edits.is_empty() {
        return None;
    }
    // A borrowed value stands inside the text it was read from.
    let start = |raw: &str| (raw.as_ptr() as usize).saturating_sub(whole.as_ptr() as usize);
    edits.sort_by_key(|(raw, _)| start(raw));
    let (mut out, mut from) = (String::new(), 0);
    for (raw, text) in edits {
        out.push_str(whole.get(from..start(raw))?);
        out.push_str(&text);
        from = start(raw) + raw.len();
    }
    out.push_str(whole.get(from..)?);
    Some(out.into())
}

fn json_of(text: &str) -> Option<String> {
    serde_json::to_string(text).ok()
}

/// A value as it is written, null too.
fn written<'de, D: Deserializer<'de>>(value: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(value).map(Some)
}

impl Content {
    /// What the parts say, where there is one of thinking among them.
    fn of(raw: &str) -> Option<Self> {
        if json::kind(raw) != Kind::Array {
            return None;
        }
        let mut said = Self::default();
        each_of(raw, |part| said.add(part));
        said.thinks.then_some(said)
    }

    fn add(&mut self, part: &str) {
        if json::kind(part) != Kind::Object {
            return self.text.push_str(&shown(part));
        }
        let Part { text, thinking } = serde_json::from_str(part).unwrap_or_default();
        self.text.push_str(&shown(text.map_or("", RawValue::get)));
        self.thinks |= thinking.is_some();
        each(thinking, |thought| {
            let part: Part<'_> = serde_json::from_str(thought).unwrap_or_default();
            self.thought.push_str(&shown(part.text.map_or(thought, RawValue::get)));
        });
    }
}

/// A string's text; nothing of other values.
fn shown(raw: &str) -> String {
    Shown::of(raw).unwrap_or_default().0.into_owned()
}

/// The parts of a list, or what stands in its place.
pub(super) fn each(raw: Option<&RawValue>, mut each: impl FnMut(&str)) {
    let raw = raw.map_or("", RawValue::get);
    match json::kind(raw) {
        Kind::Array => each_of(raw, each),
        _ => each(raw),
    }
}

fn each_of(list: &str, mut each: impl FnMut(&str)) {
    // The payload has been read, so the list is one.
    let _ = json::elements(list, |_, part| {
        each(part);
        Ok::<_, serde_json::Error>(())
    });
}

#[cfg(test)]
mod tests {
    use super::with_reasoning;
    use bytes::Bytes;

    #[test]
    fn what_was_thought_is_told_as_everybody_else_tells_it() {
        let told = |payload: &'static str| {
            let told = with_reasoning(Bytes::from_static(payload.as_bytes()));
            String::from_utf8(told.to_vec()).unwrap()
        };
        assert_eq!(
            told(
                r#"{"id":"1","choices":[{"delta":{"content":[{"type":"thinking","thinking":[{"type":"text","text":"H"},{"type":"text","text":"m \ud83d"}],"closed":true}]},"index":0},{"delta":{"content":"said"}}], "usage":{"prompt_tokens":1}}"#
            ),
            r#"{"id":"1","choices":[{"delta":{"content":"","reasoning_content":"Hm �"},"index":0},{"delta":{"content":"said"}}], "usage":{"prompt_tokens":1}}"#
        );
        assert_eq!(
            told(
                r#"{"choices":[{"message":{"role":"assistant","content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"It is"},{"type":"reference","reference_ids":[1]},{"type":"text","text":" 7."}],"tool_calls":null}}]}"#
            ),
            r#"{"choices":[{"message":{"role":"assistant","content":"It is 7.","reasoning_content":"Hm.","tool_calls":null}}]}"#
        );
        for (own, told_as) in [("null", "\"Hm.\""), ("\"\"", "\"Hm.\""), ("\"Hm!\"", "\"Hm!\"")] {
            let thinks = r#"[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"7"}]"#;
            for (written, expected) in [
                (
                    format!(r#""content":{thinks},"reasoning_content":{own}"#),
                    format!(r#""content":"7","reasoning_content":{told_as}"#),
                ),
                (
                    format!(r#""reasoning_content":{own},"content":{thinks}"#),
                    format!(r#""reasoning_content":{told_as},"content":"7""#),
                ),
            ] {
                let payload = format!(r#"{{"choices":[{{"message":{{{written}}}}}]}}"#);
                let told = with_reasoning(Bytes::from(payload));
                let expected = format!(r#"{{"choices":[{{"message":{{{expected}}}}}]}}"#);
                assert_eq!(told, expected);
            }
        }
        for same in [
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"thinking"}]}}]}"#,
            r#"{"choices":[{"delta":{"content":[{"type":"text","text":"a","kind":"thinking"}]}}]}"#,
            r#"{"choices":[{"delta":{"content":"\"thinking\""}}],"thinking":true}"#,
            r#"{"thinking":"#,
        ] {
            assert_eq!(told(same), same);
        }
    }
}
