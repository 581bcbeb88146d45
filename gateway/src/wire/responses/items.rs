//! Input items as chat messages.

use super::referred::Referred;
use crate::wire::{
    BadRequest, check,
    json::{self, Kind},
    messages::{between, joined},
    put::Object,
};
use std::fmt::Display;

/// An assistant's message that is not closed yet: calls that follow it belong to it.
#[derive(Default)]
struct Speaking {
    thought: String,
    content: Option<String>,
    calls: Vec<String>,
}

/// A chat that is being written. In it the results of calls stand right behind them, and are text.
struct Chat<'o> {
    out: &'o mut Vec<u8>,
    /// What was thought before the assistant speaks.
    thought: String,
    speaking: Option<Speaking>,
    /// Images in results: what a user shows behind them.
    shown: Vec<String>,
    /// Messages that came between calls and their results.
    held: Vec<String>,
}

/// Writes the input as chat messages after those in `out`, separated by commas.
pub(super) fn messages(
    raw: &str,
    referred: &mut Referred<'_>,
    out: &mut Vec<u8>,
) -> Result<(), BadRequest> {
    match json::kind(raw) {
        Kind::String => {
            check::string("input", raw)?;
            put(&format!(r#"{{"role":"user","content":{raw}}}"#), out);
            Ok(())
        }
        Kind::Array => {
            let (thought, speaking) = (String::new(), None);
            let mut chat = Chat { out, thought, speaking, shown: Vec::new(), held: Vec::new() };
            json::elements(raw, |index, item| chat.item(index, item, referred))?;
            chat.close();
            if chat.out.is_empty() {
                return Err(BadRequest::value("input", "`input` must have at least one item"));
            }
            Ok(())
        }
        _ => Err(BadRequest::kind("input", "a string or a list of items")),
    }
}

impl Chat<'_> {
    fn item(
        &mut self,
        index: usize,
        raw: &str,
        referred: &mut Referred<'_>,
    ) -> Result<(), BadRequest> {
        let at = format_args!("input[{index}]");
        let [kind, role] = check::members(at, raw, ["type", "role"])?;
        let param = format_args!("{at}.type");
        let kind = kind.map(|raw| check::string(param, raw)).transpose()?;
        match kind.as_deref() {
            None | Some("message") => {
                let param = format_args!("{at}.role");
                let role = check::string(param, role.ok_or_else(|| BadRequest::missing(param))?)?;
                self.message(at, &role, raw)
            }
            Some("function_call") => {
                let [id, name, arguments] = strings(at, raw, ["call_id", "name", "arguments"])?;
                self.call(format!(
                    r#"{{"id":{id},"type":"function","function":{{"name":{name},"arguments":{arguments}}}}}"#
                ));
                Ok(())
            }
            Some("custom_tool_call") => {
                let [id, name, input] = strings(at, raw, ["call_id", "name", "input"])?;
                self.call(format!(
                    r#"{{"id":{id},"type":"custom","custom":{{"name":{name},"input":{input}}}}}"#
                ));
                Ok(())
            }
            Some("function_call_output" | "custom_tool_call_output") => self.result(at, raw),
            Some("reasoning") => self.reasoning(at, raw),
            Some("item_reference") => {
                let [id] = strings(at, raw, ["id"])?;
                let param = format_args!("{at}.id");
                let item = referred.item(param, &check::string(param, id)?)?;
                self.item(index, item.get(), referred)
            }
            Some(other) => Err(BadRequest::unsupported(
                param,
                format!("items of type `{}` are not served", other.escape_debug()),
            )),
        }
    }

    /// What a model thought, unless it is sealed: then it is its provider's alone. It goes to those who
    /// want it back.
    fn reasoning(&mut self, at: impl Display + Copy, raw: &str) -> Result<(), BadRequest> {
        let [content, summary, sealed] =
            check::members(at, raw, ["content", "summary", "encrypted_content"])?;
        if sealed.is_some() {
            return Ok(());
        }
        let before = self.thought.len();
        for (member, said) in [("content", content), ("summary", summary)] {
            // A summary says it again where the text itself stands there.
            let said = said.filter(|raw| json::kind(raw) == Kind::Array);
            let Some(said) = said.filter(|_| self.thought.len() == before) else { continue };
            json::elements(said, |index, part| {
                let at = format_args!("{at}.{member}[{index}]");
                let [kind, text] = check::members(at, part, ["type", "text"])?;
                let kind = kind.map(|kind| kind.trim_matches('"'));
                if let (Some("reasoning_text" | "summary_text"), Some(text)) = (kind, text) {
                    self.thought.push_str(&check::string(format_args!("{at}.text"), text)?);
                }
                Ok::<_, BadRequest>(())
            })?;
        }
        Ok(())
    }

    fn message(
        &mut self,
        at: impl Display + Copy,
        role: &str,
        raw: &str,
    ) -> Result<(), BadRequest> {
        let param = format_args!("{at}.content");
        let [said] = check::members(at, raw, ["content"])?;
        let said = content(param, said.ok_or_else(|| BadRequest::missing(param))?, role, None)?;
        if !matches!(role, "assistant" | "user" | "system" | "developer") {
            return Err(BadRequest::value(
                format_args!("{at}.role"),
                "a role must be one of user, assistant, system, developer",
            ));
        }
        let message = format!(r#"{{"role":"{role}","content":{said}}}"#);
        if self.speaking.as_ref().is_some_and(|speaking| !speaking.calls.is_empty()) {
            self.held.push(message);
            return Ok(());
        }
        self.close();
        let thought = std::mem::take(&mut self.thought);
        match role {
            "assistant" => {
                self.speaking = Some(Speaking { thought, content: Some(said), calls: Vec::new() });
            }
            _ => put(&message, self.out),
        }
        Ok(())
    }

    fn call(&mut self, call: String) {
        if self.speaking.is_none() {
            self.close();
        }
        let speaking = self.speaking.get_or_insert_default();
        speaking.thought.push_str(&std::mem::take(&mut self.thought));
        speaking.calls.push(call);
    }

    /// A tool's result.
    fn result(&mut self, at: impl Display + Copy, raw: &str) -> Result<(), BadRequest> {
        let [id] = strings(at, raw, ["call_id"])?;
        let [output] = check::members(at, raw, ["output"])?;
        let param = format_args!("{at}.output");
        let output = output.ok_or_else(|| BadRequest::missing(param))?;
        let mut images = Vec::new();
        let output = content(param, output, "tool", Some(&mut images))?;
        self.end_turn();
        self.shown.append(&mut images);
        put(&format!(r#"{{"role":"tool","tool_call_id":{id},"content":{output}}}"#), self.out);
        Ok(())
    }

    /// Writes all that is not written yet.
    fn close(&mut self) {
        self.end_turn();
        if !self.shown.is_empty() {
            let images = std::mem::take(&mut self.shown).join(",");
            put(&format!(r#"{{"role":"user","content":[{images}]}}"#), self.out);
        }
        for message in self.held.drain(..) {
            put(&message, self.out);
        }
    }

    /// Writes the assistant's message.
    fn end_turn(&mut self) {
        let Some(Speaking { thought, content, calls }) = self.speaking.take() else { return };
        let mut text = Vec::new();
        let mut message = Object::begin(&mut text);
        message.text("role", "assistant");
        message.raw("content", content.as_deref().unwrap_or("null"));
        if !calls.is_empty() {
            message.raw("tool_calls", &format!("[{}]", calls.join(",")));
        }
        if !thought.is_empty() {
            message.text("reasoning_content", &thought);
        }
        message.end();
        put(&String::from_utf8_lossy(&text), self.out);
    }
}

/// A content of `role` as a chat has it: a string, or a list of parts; its images are put into `images`
/// where that is given.
fn content(
    at: impl Display + Copy,
    raw: &str,
    role: &str,
    mut images: Option<&mut Vec<String>>,
) -> Result<String, BadRequest> {
    match json::kind(raw) {
        Kind::String => check::string(at, raw).map(|_| raw.to_owned()),
        Kind::Array => {
            let mut parts = Vec::new();
            let mut texts = Vec::new();
            json::elements(raw, |index, part| {
                let mut written = Vec::new();
                let kind = self::part(format_args!("{at}[{index}]"), part, &mut written)?;
                let written = String::from_utf8_lossy(&written).into_owned();
                match (kind, images.as_deref_mut()) {
                    (PartKind::Image, Some(images)) => images.push(written),
                    (PartKind::Text(text), _) => {
                        texts.push(text);
                        parts.push(written);
                    }
                    (PartKind::Image | PartKind::Refusal, _) => parts.push(written),
                }
                Ok::<_, BadRequest>(())
            })?;
            let is_text = texts.len() == parts.len();
            Ok(match (texts.as_slice(), between(role)) {
                ([text], _) if is_text => text.clone(),
                (texts, Some(between)) if is_text => {
                    joined(texts.iter().map(String::as_str), between)
                }
                _ => format!("[{}]", parts.join(",")),
            })
        }
        _ => Err(BadRequest::kind(at, "a string or a list of parts")),
    }
}

/// What a part is.
enum PartKind {
    /// Its text as a JSON string.
    Text(String),
    Refusal,
    Image,
}

/// Writes a part; returns what it is.
fn part(at: impl Display + Copy, raw: &str, out: &mut Vec<u8>) -> Result<PartKind, BadRequest> {
    let [kind] = check::members(at, raw, ["type"])?;
    let param = format_args!("{at}.type");
    let kind = check::string(param, kind.ok_or_else(|| BadRequest::missing(param))?)?;
    let mut part = Object::begin(out);
    match kind.as_ref() {
        "input_text" | "output_text" | "text" => {
            let [text] = strings(at, raw, ["text"])?;
            part.text("type", "text");
            part.raw("text", text);
            part.end();
            Ok(PartKind::Text(text.to_owned()))
        }
        "refusal" => {
            let [refusal] = strings(at, raw, ["refusal"])?;
            part.text("type", "refusal");
            part.raw("refusal", refusal);
            part.end();
            Ok(PartKind::Refusal)
        }
        "input_image" => {
            let [url, detail] = check::members(at, raw, ["image_url", "detail"])?;
            let param = format_args!("{at}.image_url");
            let url = url.ok_or_else(|| {
                BadRequest::unsupported(param, "an image must come by its image_url")
            })?;
            check::string(param, url)?;
            part.text("type", "image_url");
            let mut image = Object::begin(part.member("image_url"));
            image.raw("url", url);
            image.maybe("detail", detail);
            image.end();
            part.end();
            Ok(PartKind::Image)
        }
        other => Err(BadRequest::unsupported(
            param,
            format!("parts of type `{}` are not served", other.escape_debug()),
        )),
    }
}

/// Members that must be strings, as they are written.
fn strings<'a, const N: usize>(
    at: impl Display + Copy,
    raw: &'a str,
    names: [&str; N],
) -> Result<[&'a str; N], BadRequest> {
    let found = check::members(at, raw, names)?;
    let mut strings = [""; N];
    for ((slot, name), raw) in strings.iter_mut().zip(names).zip(found) {
        let param = format_args!("{at}.{name}");
        let raw = raw.ok_or_else(|| BadRequest::missing(param))?;
        check::string(param, raw)?;
        *slot = raw;
    }
    Ok(strings)
}

fn put(message: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(message.as_bytes());
}
