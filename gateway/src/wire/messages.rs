//! The conversation of a chat request: its shape is checked, its size measured, its text left
//! where it stands.

use super::{
    BadRequest, check,
    json::{self, Kind, TextBytes},
};
use std::{borrow::Cow, fmt::Display};

/// What a conversation holds, as far as deciding and reserving need it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Conversation {
    /// Messages.
    pub(crate) messages: u32,
    /// Text of the contents.
    pub(crate) text: TextBytes,
    /// Bytes of everything else: roles, names, tool calls, and the JSON around them.
    pub(crate) other_bytes: u64,
    /// Image parts.
    pub(crate) images: u32,
}

/// One message, its values as they are written; null is absent.
#[derive(Default)]
pub(crate) struct RawMessage<'a> {
    pub(crate) role: Option<&'a str>,
    pub(crate) content: Option<&'a str>,
    pub(crate) name: Option<&'a str>,
    pub(crate) tool_calls: Option<&'a str>,
    pub(crate) tool_call_id: Option<&'a str>,
    pub(crate) function_call: Option<&'a str>,
    /// What the assistant said instead of a content, or beside it.
    pub(crate) refusal: Option<&'a str>,
    /// Speech of an earlier answer, by its id.
    audio: Option<&'a str>,
}

/// The members of a message that are known.
const NAMES: [&str; 8] =
    ["role", "content", "name", "tool_calls", "tool_call_id", "function_call", "refusal", "audio"];

/// Who speaks, in OpenAI's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaker {
    System,
    User,
    Assistant,
    Tool,
    Function,
}

/// One part of a content that is a list.
pub(crate) enum Part<'a> {
    /// Text, or a refusal: the string as it is written.
    Text(&'a str),
    /// An image.
    Image,
}

/// Checks the conversation in `raw` and measures it.
pub(crate) fn read(raw: &str) -> Result<Conversation, BadRequest> {
    check::array("messages", raw)?;
    let mut all = Conversation { other_bytes: raw.len() as u64, ..Conversation::default() };
    json::elements(raw, |index, message| {
        let message = RawMessage::read(index, message)?;
        all.messages = all.messages.saturating_add(1);
        measure(index, &message, &mut all)
    })?;
    if all.messages == 0 {
        return Err(BadRequest::value("messages", "`messages` must have at least one message"));
    }
    Ok(all)
}

impl<'a> RawMessage<'a> {
    /// The message in `raw`, the one at `index`.
    pub(crate) fn read(index: usize, raw: &'a str) -> Result<Self, BadRequest> {
        let at = format_args!("messages[{index}]");
        check::object(at, raw)?;
        let mut message = Self::default();
        let mut seen = [false; NAMES.len()];
        json::members(raw, |key, member| {
            let place = |key: &str| NAMES.iter().position(|name| *name == key);
            let Some(known) = place(key) else {
                let known = check::in_other_case(key, place).and_then(|known| NAMES.get(known));
                return known
                    .map_or(Ok(()), |name| Err(check::other_case(format_args!("{at}.{name}"))));
            };
            if std::mem::replace(&mut seen[known], true) {
                return Err(check::twice(format_args!("{at}.{key}")));
            }
            let slot = match known {
                0 => &mut message.role,
                1 => &mut message.content,
                2 => &mut message.name,
                3 => &mut message.tool_calls,
                4 => &mut message.tool_call_id,
                5 => &mut message.function_call,
                6 => &mut message.refusal,
                _ => &mut message.audio,
            };
            *slot = Some(member.raw).filter(|raw| *raw != "null");
            Ok::<_, BadRequest>(())
        })?;
        Ok(message)
    }
}

/// Who speaks in `message`.
pub(crate) fn speaker(index: usize, message: &RawMessage<'_>) -> Result<Speaker, BadRequest> {
    let param = format_args!("messages[{index}].role");
    let raw = message.role.ok_or_else(|| BadRequest::missing(param))?;
    Ok(match check::string(param, raw)?.as_ref() {
        "system" | "developer" => Speaker::System,
        "user" => Speaker::User,
        "assistant" => Speaker::Assistant,
        "tool" => Speaker::Tool,
        "function" => Speaker::Function,
        _ => {
            return Err(BadRequest::value(
                param,
                "a role must be one of system, developer, user, assistant, tool, function",
            ));
        }
    })
}

fn measure(
    index: usize,
    message: &RawMessage<'_>,
    all: &mut Conversation,
) -> Result<(), BadRequest> {
    let speaker = speaker(index, message)?;
    let at = format_args!("messages[{index}]");
    if let Some(name) = message.name {
        check::string(format_args!("{at}.name"), name)?;
    }
    if let Some(calls) = message.tool_calls {
        tool_calls(format_args!("{at}.tool_calls"), calls)?;
    }
    if let Some(call) = message.function_call {
        function(format_args!("{at}.function_call"), call)?;
    }
    if speaker == Speaker::Tool {
        required_string(format_args!("{at}.tool_call_id"), message.tool_call_id)?;
    }
    if speaker == Speaker::Function {
        required_string(format_args!("{at}.name"), message.name)?;
    }
    if message.audio.is_some() {
        let message = "speech of an earlier answer is not served: its size in tokens is not known";
        return Err(BadRequest::unsupported(format_args!("{at}.audio"), message));
    }
    // Of others it is a member like any unknown one.
    if let Some(refusal) = message.refusal.filter(|_| speaker == Speaker::Assistant) {
        required_string(format_args!("{at}.refusal"), Some(refusal))?;
        all.text.add(TextBytes::of_string(refusal));
        all.other_bytes -= refusal.len() as u64;
    }
    let param = format_args!("{at}.content");
    match message.content {
        Some(content) => measure_content(param, content, all),
        // An assistant that only called tools said nothing.
        None if speaker == Speaker::Assistant => Ok(()),
        None => Err(BadRequest::missing(param)),
    }
}

fn measure_content(
    param: impl Display + Copy,
    raw: &str,
    all: &mut Conversation,
) -> Result<(), BadRequest> {
    // What is measured as text is no longer among the other bytes.
    match json::kind(raw) {
        Kind::String => {
            all.text.add(TextBytes::of_string(raw));
            all.other_bytes -= raw.len() as u64;
            Ok(())
        }
        Kind::Array => parts(param, raw, |part, raw_bytes| {
            match part {
                Part::Text(text) => {
                    all.text.add(TextBytes::of_string(text));
                    all.other_bytes -= text.len() as u64;
                }
                Part::Image => {
                    all.images = all.images.saturating_add(1);
                    all.other_bytes -= raw_bytes;
                }
            }
            Ok(())
        }),
        _ => Err(BadRequest::kind(param, "a string or a list of parts")),
    }
}

/// Calls `each` with every part of the content `raw`, a list, and the bytes it takes.
pub(crate) fn parts<'a>(
    param: impl Display + Copy,
    raw: &'a str,
    mut each: impl FnMut(Part<'a>, u64) -> Result<(), BadRequest>,
) -> Result<(), BadRequest> {
    json::elements(raw, |index, part| {
        let param = format_args!("{param}[{index}]");
        let [kind, text, refusal, image] =
            check::members(param, part, ["type", "text", "refusal", "image_url"])?;
        let kind = kind.ok_or_else(|| BadRequest::missing(format_args!("{param}.type")))?;
        let read = match check::string(format_args!("{param}.type"), kind)?.as_ref() {
            "text" => Part::Text(required_string(format_args!("{param}.text"), text)?),
            "refusal" => Part::Text(required_string(format_args!("{param}.refusal"), refusal)?),
            "image_url" => {
                let image =
                    image.ok_or_else(|| BadRequest::missing(format_args!("{param}.image_url")))?;
                check::object(format_args!("{param}.image_url"), image)?;
                Part::Image
            }
            known @ ("input_audio" | "file") => {
                return Err(BadRequest::unsupported(
                    param,
                    format!(
                        "parts of type `{known}` are not served: their size in tokens has no bound that could be reserved"
                    ),
                ));
            }
            _ => {
                return Err(BadRequest::value(
                    format_args!("{param}.type"),
                    "a part's type must be one of text, image_url, refusal",
                ));
            }
        };
        each(read, part.len() as u64)
    })
}

fn tool_calls(param: impl Display + Copy, raw: &str) -> Result<(), BadRequest> {
    check::array(param, raw)?;
    json::elements(raw, |index, call| {
        let param = format_args!("{param}[{index}]");
        let [id, function] = check::members(param, call, ["id", "function"])?;
        required_string(format_args!("{param}.id"), id)?;
        function.map_or(Ok(()), |call| self::function(format_args!("{param}.function"), call))
    })
}

/// A called function: its name, and its arguments as a string.
fn function(param: impl Display + Copy, raw: &str) -> Result<(), BadRequest> {
    let [name, arguments] = check::members(param, raw, ["name", "arguments"])?;
    required_string(format_args!("{param}.name"), name)?;
    required_string(format_args!("{param}.arguments"), arguments)?;
    Ok(())
}

fn required_string(param: impl Display + Copy, raw: Option<&str>) -> Result<&str, BadRequest> {
    let raw = raw.ok_or_else(|| BadRequest::missing(param))?;
    match json::kind(raw) {
        Kind::String => Ok(raw),
        _ => Err(BadRequest::kind(param, "a string")),
    }
}

/// What stands between the texts of one content of `role` that are written as one string, as JSON writes
/// it; `None` where they stay parts. All servers take parts of a user, some of nobody else. Texts of an
/// assistant are what a model wrote piece by piece, others are texts of their own.
pub(crate) fn between(role: &str) -> Option<&'static str> {
    match role {
        "user" => None,
        "assistant" => Some(""),
        _ => Some("\\n"),
    }
}

/// Texts, each a JSON string, as one, with `between` between them.
pub(crate) fn joined<'t>(texts: impl IntoIterator<Item = &'t str>, between: &str) -> String {
    let inside = |text: &'t str| text.get(1..text.len().saturating_sub(1)).unwrap_or_default();
    let texts: Vec<_> = texts.into_iter().map(inside).collect();
    format!("\"{}\"", texts.join(between))
}

/// The text of a content that is a string or a list of text parts, the parts joined by line feeds.
/// `None` where there is an image.
pub(crate) fn text_of<'a>(
    param: impl Display + Copy,
    raw: &'a str,
) -> Result<Option<Cow<'a, str>>, BadRequest> {
    if json::kind(raw) == Kind::String {
        return check::string(param, raw).map(Some);
    }
    let mut joined = String::new();
    let mut first = true;
    let mut image = false;
    parts(param, raw, |part, _| {
        match part {
            Part::Text(text) => {
                if !std::mem::take(&mut first) {
                    joined.push('\n');
                }
                joined.push_str(&check::string(param, text)?);
            }
            Part::Image => image = true,
        }
        Ok(())
    })?;
    Ok((!image).then_some(Cow::Owned(joined)))
}
