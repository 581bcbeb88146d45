//! What an assistant thought in earlier turns (`reasoning_content`), told to a provider of OpenAI's
//! format as it wants it: some refuse the field, DeepSeek's models that think refuse a turn of calls
//! without it.
//!
//! **Invariant:** nothing else of a conversation changes.

use crate::wire::json::{self, Kind, Span};
use std::borrow::Cow;

/// The name under which most have it.
const NAME: &str = "reasoning_content";

/// What is done with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Recalls {
    /// Left out under all of these names: they are refused.
    Never(&'static [&'static str]),
    /// Told where the caller wrote it so; what it wrote in another format is left out.
    AsWritten,
    /// Told, whatever format the caller wrote it in.
    Always,
    /// The same, and where tools were called it stands in every turn: what is not known is empty.
    AmongCalls,
}

/// A member of a message, as far as it matters here.
struct Said<'a> {
    name: Cow<'a, str>,
    raw: &'a str,
    /// From the end of what stands before it.
    from: usize,
    end: usize,
}

impl Recalls {
    /// What is to be replaced in the list of messages `raw`, and by what. `converted`: the caller wrote
    /// in another format.
    pub(crate) fn in_chat(self, raw: &str, converted: bool) -> Vec<(Span, String)> {
        let mut edits = Vec::new();
        let has = |text: &str| memchr::memmem::find(raw.as_bytes(), text.as_bytes()).is_some();
        let leaves_out: &[&str] = match self {
            Self::Never(names) => names,
            Self::AsWritten if converted => &[NAME],
            Self::AsWritten | Self::Always => return edits,
            Self::AmongCalls => &[],
        };
        // Most conversations have none, and are not read again.
        if !has(if self == Self::AmongCalls { "\"tool_calls\"" } else { "\"reasoning" }) {
            return edits;
        }
        // They have been read before.
        let _ = json::elements::<serde_json::Error>(raw, |_, message| {
            let start = (message.as_ptr() as usize).saturating_sub(raw.as_ptr() as usize);
            let mut members = Vec::with_capacity(4);
            json::members::<serde_json::Error>(message, |key, member| {
                let (from, end) = (start + member.gap_start, start + member.value.end);
                let name = Cow::Owned(key.to_owned());
                members.push(Said { name, raw: member.raw, from, end });
                Ok(())
            })?;
            let is_assistants =
                member(&members, "role").is_some_and(|it| it.raw == "\"assistant\"");
            match (is_assistants, self) {
                (false, _) => {}
                (true, Self::AmongCalls) => edits.extend(filled_in(&members)),
                (true, _) => leave_out(raw, &members, leaves_out, &mut edits),
            }
            Ok(())
        });
        edits
    }
}

fn member<'m, 'a>(members: &'m [Said<'a>], name: &str) -> Option<&'m Said<'a>> {
    members.iter().find(|member| member.name == name)
}

/// Takes members out, each with a comma.
fn leave_out(raw: &str, members: &[Said<'_>], names: &[&str], edits: &mut Vec<(Span, String)>) {
    let is_out = |member: &Said<'_>| names.contains(&member.name.as_ref());
    // Those at the beginning go with the comma behind them, as far as the first that stays.
    let first = members.iter().take_while(|member| is_out(member)).count();
    if let (Some(out), Some(stays)) = (members.first().filter(|_| first > 0), members.get(first)) {
        let behind = raw.as_bytes().get(stays.from..).unwrap_or_default();
        let comma = memchr::memchr(b',', behind).unwrap_or(0);
        edits.push((Span { start: out.from, end: stays.from + comma + 1 }, String::new()));
    }
    for member in members.iter().skip(first).filter(|member| is_out(member)) {
        edits.push((Span { start: member.from, end: member.end }, String::new()));
    }
}

/// What a message lacks that has it under another name, or not at all.
fn filled_in(members: &[Said<'_>]) -> Option<(Span, String)> {
    let is_text = |member: &&Said<'_>| json::kind(member.raw) == Kind::String;
    let known = member(members, "reasoning").filter(is_text).map_or("\"\"", |known| known.raw);
    match member(members, NAME) {
        Some(told) if is_text(&told) => None,
        Some(told) => {
            let start = told.end - told.raw.len();
            Some((Span { start, end: told.end }, known.to_owned()))
        }
        None => {
            let end = members.last()?.end;
            Some((Span { start: end, end }, format!(",\"{NAME}\":{known}")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Recalls;

    fn told(recalls: Recalls, converted: bool, messages: &str) -> String {
        let mut told = messages.to_owned();
        let mut edits = recalls.in_chat(messages, converted);
        edits.sort_by_key(|(at, _)| std::cmp::Reverse(at.start));
        for (at, with) in edits {
            told.replace_range(at.start..at.end, &with);
        }
        told
    }

    #[test]
    fn what_was_thought_is_left_out_where_it_is_refused_and_nothing_else() {
        let never = Recalls::Never(&["reasoning_content", "reasoning"]);
        for (written, left) in [
            (
                r#"{"role":"assistant","content":"a","reasoning_content":"t"}"#,
                r#"{"role":"assistant","content":"a"}"#,
            ),
            (r#"{ "reasoning_content" : "t" , "role":"assistant"}"#, r#"{ "role":"assistant"}"#),
            (
                r#"{"reasoning":"u","reasoning_content":"t","role":"assistant"}"#,
                r#"{"role":"assistant"}"#,
            ),
            (
                r#"{"reasoning":"u","role":"assistant","reasoning_content":null,"x":1}"#,
                r#"{"role":"assistant","x":1}"#,
            ),
            (
                r#"{"role":"user","reasoning_content":"t"}"#,
                r#"{"role":"user","reasoning_content":"t"}"#,
            ),
            (
                r#"{"role":"assistant","content":"\"reasoning\":1"}"#,
                r#"{"role":"assistant","content":"\"reasoning\":1"}"#,
            ),
        ] {
            let list = |message: &str| format!(r#"[{{"role":"user","content":"q"}}, {message} ]"#);
            assert_eq!(told(never, false, &list(written)), list(left));
            assert_eq!(told(Recalls::AsWritten, false, &list(written)), list(written));
            assert_eq!(told(Recalls::Always, true, &list(written)), list(written));
        }
        let thought = r#"[{"role":"assistant","reasoning_content":"t","reasoning":"u"}]"#;
        assert_eq!(
            told(Recalls::AsWritten, true, thought),
            r#"[{"role":"assistant","reasoning":"u"}]"#,
            "what another format says is told to those who want it"
        );
    }

    #[test]
    fn where_tools_were_called_every_turn_has_what_was_thought() {
        for (written, left) in [
            (r#""tool_calls":[{}]"#, r#""tool_calls":[{}],"reasoning_content":"""#),
            (r#""content":"7" "#, r#""content":"7","reasoning_content":"" "#),
            (
                r#""reasoning":"t","content":null"#,
                r#""reasoning":"t","content":null,"reasoning_content":"t""#,
            ),
            (r#""reasoning_content":null,"x":1"#, r#""reasoning_content":"","x":1"#),
            (r#""reasoning_content":"t","x":1"#, r#""reasoning_content":"t","x":1"#),
        ] {
            let list = |members: &str| {
                let called = r#"{"role":"assistant","reasoning_content":"u","tool_calls":[{}]}"#;
                format!(r#"[{{"role":"user"}},{called},{{"role":"assistant",{members}}}]"#)
            };
            assert_eq!(told(Recalls::AmongCalls, true, &list(written)), list(left), "{written}");
        }
        let without = r#"[{"role":"assistant","content":"a"}]"#;
        assert_eq!(told(Recalls::AmongCalls, true, without), without, "no tools, no need");
    }
}
