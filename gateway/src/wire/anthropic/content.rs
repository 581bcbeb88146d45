//! Messages and their blocks as chat messages and their parts.

use crate::wire::{
    BadRequest, check,
    json::{self, Kind},
    messages::{between, joined},
    put::{List, Object},
};
use std::fmt::Display;

/// What the blocks of one message came to.
#[derive(Default)]
struct Blocks {
    /// Parts of the content.
    parts: Vec<Part>,
    /// Tool calls of an assistant, each a JSON object.
    calls: Vec<String>,
    /// Messages with results of tools, each a JSON object.
    results: Vec<String>,
    /// What a model of another provider thought, whose format has a place for that in a chat.
    thought: String,
}

/// A part of a content.
enum Part {
    /// Its text, as a JSON string.
    Text(String),
    /// An image, by its address as a JSON string.
    Image(String),
}

/// Writes the system prompt and the messages as a chat's list of messages.
pub(super) fn messages(
    system: Option<&str>,
    raw: &str,
    out: &mut Vec<u8>,
) -> Result<(), BadRequest> {
    check::array("messages", raw)?;
    let mut list = List::begin(out);
    if let Some(system) = system {
        let mut blocks = Blocks::default();
        content("system", system, &mut blocks)?;
        message("system", &blocks, &mut list);
    }
    let before = list.is_empty();
    let mut any = false;
    json::elements(raw, |index, element| {
        any = true;
        let at = format_args!("messages[{index}]");
        let [role, said] = check::members(at, element, ["role", "content"])?;
        let param = format_args!("{at}.role");
        let role = check::string(param, role.ok_or_else(|| BadRequest::missing(param))?)?;
        if !matches!(role.as_ref(), "user" | "assistant" | "system") {
            return Err(BadRequest::value(param, "a role must be user or assistant"));
        }
        let param = format_args!("{at}.content");
        let mut blocks = Blocks::default();
        content(param, said.ok_or_else(|| BadRequest::missing(param))?, &mut blocks)?;
        if role != "assistant" && !blocks.calls.is_empty() {
            let message = "a tool_use block belongs to an assistant's message";
            return Err(BadRequest::value(param, message));
        }
        for result in &blocks.results {
            list.next().extend_from_slice(result.as_bytes());
        }
        // A message of results alone is those results and nothing else.
        if blocks.results.is_empty() || !blocks.parts.is_empty() {
            message(&role, &blocks, &mut list);
        }
        Ok(())
    })?;
    list.end();
    if !any && before {
        return Err(BadRequest::value("messages", "`messages` must have at least one message"));
    }
    Ok(())
}

fn message(role: &str, blocks: &Blocks, list: &mut List<'_>) {
    let mut message = Object::begin(list.next());
    message.text("role", role);
    let content = message.member("content");
    match (blocks.parts.as_slice(), between(role)) {
        ([], _) if !blocks.calls.is_empty() => content.extend_from_slice(b"null"),
        ([], _) => content.extend_from_slice(b"\"\""),
        ([Part::Text(text)], _) => content.extend_from_slice(text.as_bytes()),
        (parts, Some(between)) if parts.iter().all(|part| part.text().is_some()) => {
            let text = joined(parts.iter().filter_map(Part::text), between);
            content.extend_from_slice(text.as_bytes());
        }
        (parts, _) => {
            let mut list = List::begin(content);
            parts.iter().for_each(|part| part.put(list.next()));
            list.end();
        }
    }
    if !blocks.calls.is_empty() {
        put_all(&blocks.calls, message.member("tool_calls"));
    }
    if role == "assistant" && !blocks.thought.is_empty() {
        message.text("reasoning_content", &blocks.thought);
    }
    message.end();
}

fn put_all(values: &[String], out: &mut Vec<u8>) {
    let mut list = List::begin(out);
    for value in values {
        list.next().extend_from_slice(value.as_bytes());
    }
    list.end();
}

/// Reads a content: a string or a list of blocks.
fn content(at: impl Display + Copy, raw: &str, blocks: &mut Blocks) -> Result<(), BadRequest> {
    match json::kind(raw) {
        Kind::String => {
            check::string(at, raw)?;
            blocks.text(raw);
            Ok(())
        }
        Kind::Array => json::elements(raw, |index, element| {
            block(format_args!("{at}[{index}]"), element, blocks)
        }),
        _ => Err(BadRequest::kind(at, "a string or a list of blocks")),
    }
}

fn block(at: impl Display + Copy, raw: &str, blocks: &mut Blocks) -> Result<(), BadRequest> {
    let [kind, text, source] = check::members(at, raw, ["type", "text", "source"])?;
    let param = format_args!("{at}.type");
    let kind = check::string(param, kind.ok_or_else(|| BadRequest::missing(param))?)?;
    match kind.as_ref() {
        "text" => {
            let param = format_args!("{at}.text");
            let text = text.ok_or_else(|| BadRequest::missing(param))?;
            check::string(param, text)?;
            blocks.text(text);
            Ok(())
        }
        "image" => {
            let address = image(format_args!("{at}.source"), source)?;
            blocks.parts.push(Part::Image(address));
            Ok(())
        }
        "document" => document(format_args!("{at}.source"), source, blocks),
        "tool_use" => tool_use(at, raw, blocks),
        "tool_result" => tool_result(at, raw, blocks),
        "search_result" => search_result(at, raw, blocks),
        "thinking" => thinking(at, raw, blocks),
        // Only the provider that wrote it can read it: it gets the client's own body.
        "redacted_thinking" => Ok(()),
        other => Err(BadRequest::unsupported(
            param,
            format!("blocks of type `{}` are not served", other.escape_debug()),
        )),
    }
}

/// The image's address as a JSON string.
fn image(at: impl Display + Copy, source: Option<&str>) -> Result<String, BadRequest> {
    let raw = source.ok_or_else(|| BadRequest::missing(at))?;
    let [kind, media_type, data, url] =
        check::members(at, raw, ["type", "media_type", "data", "url"])?;
    let text = |name: &str, raw: Option<&str>| {
        let param = format!("{at}.{name}");
        let raw = raw.ok_or_else(|| BadRequest::missing(&param))?;
        check::string(&param, raw).map(std::borrow::Cow::into_owned)
    };
    match text("type", kind)?.as_str() {
        "base64" => {
            let address =
                format!("data:{};base64,{}", text("media_type", media_type)?, text("data", data)?);
            Ok(serde_json::Value::String(address).to_string())
        }
        "url" => {
            text("url", url)?;
            Ok(url.unwrap_or_default().to_owned())
        }
        _ => Err(BadRequest::unsupported(
            format_args!("{at}.type"),
            "an image must come as base64 or url; stored files are not served",
        )),
    }
}

/// A document of plain text; others are read by the provider at a price of its own.
fn document(
    at: impl Display + Copy,
    source: Option<&str>,
    blocks: &mut Blocks,
) -> Result<(), BadRequest> {
    let raw = source.ok_or_else(|| BadRequest::missing(at))?;
    let [kind, data, said] = check::members(at, raw, ["type", "data", "content"])?;
    match (kind, data, said) {
        (Some("\"text\""), Some(data), _) => {
            check::string(format_args!("{at}.data"), data)?;
            blocks.text(data);
            Ok(())
        }
        (Some("\"content\""), _, Some(said)) => content(format_args!("{at}.content"), said, blocks),
        _ => Err(BadRequest::unsupported(
            format_args!("{at}.type"),
            "a document must be text; other documents cost what cannot be known before",
        )),
    }
}

/// What was thought, unless it is signed: then it is the signer's, who gets the client's own body.
fn thinking(at: impl Display + Copy, raw: &str, blocks: &mut Blocks) -> Result<(), BadRequest> {
    let [thinking, signature] = check::members(at, raw, ["thinking", "signature"])?;
    if let (Some(thinking), None | Some("\"\"")) = (thinking, signature) {
        blocks.thought.push_str(&check::string(format_args!("{at}.thinking"), thinking)?);
    }
    Ok(())
}

/// Something that was found: what it is called and where it is, and its text, all in one part.
fn search_result(
    at: impl Display + Copy,
    raw: &str,
    blocks: &mut Blocks,
) -> Result<(), BadRequest> {
    let [source, title, said] = check::members(at, raw, ["source", "title", "content"])?;
    let text = |name: &str, raw: Option<&str>| {
        let param = format!("{at}.{name}");
        let raw = raw.ok_or_else(|| BadRequest::missing(&param))?;
        check::string(&param, raw).map(std::borrow::Cow::into_owned)
    };
    let (title, source) = (text("title", title)?, text("source", source)?);
    let param = format_args!("{at}.content");
    let said = said.ok_or_else(|| BadRequest::missing(param))?;
    check::array(param, said)?;
    let before = blocks.parts.len();
    blocks.text(&serde_json::Value::String(format!("{title}\n{source}")).to_string());
    content(param, said, blocks)?;
    let (images, text) = apart(blocks.parts.split_off(before));
    blocks.text(&text);
    blocks.parts.extend(images);
    Ok(())
}

fn tool_use(at: impl Display + Copy, raw: &str, blocks: &mut Blocks) -> Result<(), BadRequest> {
    let [id, name, input] = check::members(at, raw, ["id", "name", "input"])?;
    let string = |field: &str, raw: Option<&'_ str>| {
        let param = format!("{at}.{field}");
        let raw = raw.ok_or_else(|| BadRequest::missing(&param))?;
        check::string(&param, raw)?;
        Ok::<_, BadRequest>(raw.to_owned())
    };
    let (id, name) = (string("id", id)?, string("name", name)?);
    let input = input.unwrap_or("{}");
    check::object(format_args!("{at}.input"), input)?;
    let arguments = serde_json::Value::String(input.to_owned());
    blocks.calls.push(format!(
        r#"{{"id":{id},"type":"function","function":{{"name":{name},"arguments":{arguments}}}}}"#
    ));
    Ok(())
}

/// What a result begins with that is an error, which a chat's tool message has no other place for.
const FAILED: &str = r#""Error: ""#;

/// Images of a tool's content, and its texts as one, a JSON string.
fn apart(parts: Vec<Part>) -> (Vec<Part>, String) {
    let (texts, images): (Vec<_>, Vec<_>) =
        parts.into_iter().partition(|part| part.text().is_some());
    let text = joined(texts.iter().filter_map(Part::text), between("tool").unwrap_or_default());
    (images, text)
}

/// A result becomes a message of its own, before what else the user says; one that is an error says so.
/// An image in it, which a chat's tool message cannot hold, becomes part of what the user says.
fn tool_result(at: impl Display + Copy, raw: &str, blocks: &mut Blocks) -> Result<(), BadRequest> {
    let [id, said, failed] = check::members(at, raw, ["tool_use_id", "content", "is_error"])?;
    let param = format_args!("{at}.tool_use_id");
    let id = id.ok_or_else(|| BadRequest::missing(param))?;
    check::string(param, id)?;
    let mut inner = Blocks::default();
    let failed =
        failed.map(|raw| check::boolean(format_args!("{at}.is_error"), raw)).transpose()?;
    if let Some(said) = said {
        content(format_args!("{at}.content"), said, &mut inner)?;
    }
    let (images, mut text) = apart(inner.parts);
    if failed == Some(true) {
        text = joined([FAILED, text.as_str()], "");
    }
    let mut result = Vec::new();
    let mut message = Object::begin(&mut result);
    message.text("role", "tool");
    message.raw("tool_call_id", id);
    message.raw("content", &text);
    message.end();
    blocks.results.push(String::from_utf8_lossy(&result).into_owned());
    blocks.parts.extend(images);
    Ok(())
}

impl Blocks {
    /// A part of text, given as a JSON string.
    fn text(&mut self, raw: &str) {
        self.parts.push(Part::Text(raw.to_owned()));
    }
}

impl Part {
    /// Its text, where it is one.
    fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image(_) => None,
        }
    }

    /// Writes it as a chat has it.
    fn put(&self, out: &mut Vec<u8>) {
        let written = match self {
            Self::Text(text) => format!(r#"{{"type":"text","text":{text}}}"#),
            Self::Image(address) => {
                format!(r#"{{"type":"image_url","image_url":{{"url":{address}}}}}"#)
            }
        };
        out.extend_from_slice(written.as_bytes());
    }
}
