//! Input items as chat messages.

use crate::wire::{
    BadRequest, check,
    json::{self, Kind},
    put::{List, Object},
};
use serde_json::value::RawValue;
use std::fmt::Display;

/// An assistant's message that is not closed yet: calls that follow it belong to it.
#[derive(Default)]
struct Speaking {
    content: Option<String>,
    calls: Vec<String>,
}

/// Writes the input as chat messages after those in `out`, separated by commas.
pub(super) fn messages(raw: &str, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    match json::kind(raw) {
        Kind::String => {
            check::string("input", raw)?;
            put(&format!(r#"{{"role":"user","content":{raw}}}"#), out);
            Ok(())
        }
        Kind::Array => {
            let mut speaking = None;
            json::elements(raw, |index, item: Result<&RawValue, _>| {
                one(index, item?.get(), &mut speaking, out)
            })?;
            close(&mut speaking, out);
            if out.is_empty() {
                return Err(BadRequest::value("input", "`input` must have at least one item"));
            }
            Ok(())
        }
        _ => Err(BadRequest::kind("input", "a string or a list of items")),
    }
}

fn one(
    index: usize,
    raw: &str,
    speaking: &mut Option<Speaking>,
    out: &mut Vec<u8>,
) -> Result<(), BadRequest> {
    let at = format_args!("input[{index}]");
    let [kind, role] = check::members(at, raw, ["type", "role"])?;
    let param = format_args!("{at}.type");
    let kind = kind.map(|raw| check::string(param, raw)).transpose()?;
    match kind.as_deref() {
        None | Some("message") => {
            let param = format_args!("{at}.role");
            let role = check::string(param, role.ok_or_else(|| BadRequest::missing(param))?)?;
            message(at, &role, raw, speaking, out)
        }
        Some("function_call") => {
            let [id, name, arguments] = strings(at, raw, ["call_id", "name", "arguments"])?;
            let call = format!(
                r#"{{"id":{id},"type":"function","function":{{"name":{name},"arguments":{arguments}}}}}"#
            );
            speaking.get_or_insert_default().calls.push(call);
            Ok(())
        }
        Some("custom_tool_call") => {
            let [id, name, input] = strings(at, raw, ["call_id", "name", "input"])?;
            let call = format!(
                r#"{{"id":{id},"type":"custom","custom":{{"name":{name},"input":{input}}}}}"#
            );
            speaking.get_or_insert_default().calls.push(call);
            Ok(())
        }
        Some("function_call_output" | "custom_tool_call_output") => {
            close(speaking, out);
            result(at, raw, out)
        }
        // What a model thought is its provider's to keep; it is not shown to another.
        Some("reasoning") => Ok(()),
        Some(other) => Err(BadRequest::unsupported(
            param,
            format!("items of type `{}` are not served", other.escape_debug()),
        )),
    }
}

fn message(
    at: impl Display + Copy,
    role: &str,
    raw: &str,
    speaking: &mut Option<Speaking>,
    out: &mut Vec<u8>,
) -> Result<(), BadRequest> {
    let param = format_args!("{at}.content");
    let [said] = check::members(at, raw, ["content"])?;
    let said = content(param, said.ok_or_else(|| BadRequest::missing(param))?)?;
    close(speaking, out);
    match role {
        "assistant" => *speaking = Some(Speaking { content: Some(said), calls: Vec::new() }),
        "user" | "system" | "developer" => {
            put(&format!(r#"{{"role":"{role}","content":{said}}}"#), out);
        }
        _ => {
            return Err(BadRequest::value(
                format_args!("{at}.role"),
                "a role must be one of user, assistant, system, developer",
            ));
        }
    }
    Ok(())
}

/// A content as a chat has it: a string, or a list of parts.
fn content(at: impl Display + Copy, raw: &str) -> Result<String, BadRequest> {
    match json::kind(raw) {
        Kind::String => check::string(at, raw).map(|_| raw.to_owned()),
        Kind::Array => {
            let mut out = Vec::new();
            let mut parts = List::begin(&mut out);
            let mut only_text = None;
            json::elements(raw, |index, part: Result<&RawValue, _>| {
                let text = self::part(format_args!("{at}[{index}]"), part?.get(), parts.next())?;
                only_text = text.filter(|_| index == 0);
                Ok::<_, BadRequest>(())
            })?;
            parts.end();
            Ok(only_text.unwrap_or_else(|| String::from_utf8_lossy(&out).into_owned()))
        }
        _ => Err(BadRequest::kind(at, "a string or a list of parts")),
    }
}

/// Writes a part; returns its text as a JSON string where it is text.
fn part(
    at: impl Display + Copy,
    raw: &str,
    out: &mut Vec<u8>,
) -> Result<Option<String>, BadRequest> {
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
            Ok(Some(text.to_owned()))
        }
        "refusal" => {
            let [refusal] = strings(at, raw, ["refusal"])?;
            part.text("type", "refusal");
            part.raw("refusal", refusal);
            part.end();
            Ok(None)
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
            Ok(None)
        }
        other => Err(BadRequest::unsupported(
            param,
            format!("parts of type `{}` are not served", other.escape_debug()),
        )),
    }
}

/// A tool's result.
fn result(at: impl Display + Copy, raw: &str, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    let [id] = strings(at, raw, ["call_id"])?;
    let [output] = check::members(at, raw, ["output"])?;
    let param = format_args!("{at}.output");
    let output = content(param, output.ok_or_else(|| BadRequest::missing(param))?)?;
    put(&format!(r#"{{"role":"tool","tool_call_id":{id},"content":{output}}}"#), out);
    Ok(())
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

fn close(speaking: &mut Option<Speaking>, out: &mut Vec<u8>) {
    let Some(Speaking { content, calls }) = speaking.take() else { return };
    let mut text = Vec::new();
    let mut message = Object::begin(&mut text);
    message.text("role", "assistant");
    message.raw("content", content.as_deref().unwrap_or("null"));
    if !calls.is_empty() {
        message.raw("tool_calls", &format!("[{}]", calls.join(",")));
    }
    message.end();
    put(&String::from_utf8_lossy(&text), out);
}

fn put(message: &str, out: &mut Vec<u8>) {
    if !out.is_empty() {
        out.push(b',');
    }
    out.extend_from_slice(message.as_bytes());
}
