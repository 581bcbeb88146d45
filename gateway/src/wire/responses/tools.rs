//! Tools and the choice among them.

use crate::wire::{
    BadRequest, check,
    json::{self, Kind},
    put::{List, Object},
};
use std::{borrow::Cow, fmt::Display};

/// The tools of a request.
#[derive(Default)]
pub(super) struct Tools {
    /// As a chat's list of tools; `None` where there are none.
    pub(super) written: Option<String>,
    /// Names of those that take text.
    pub(super) custom: Vec<String>,
}

/// Reads the tools. One that OpenAI runs itself is refused by its name.
pub(super) fn read(raw: &str) -> Result<Tools, BadRequest> {
    check::array("tools", raw)?;
    let mut out = Vec::with_capacity(raw.len() + 64);
    let mut list = List::begin(&mut out);
    let mut custom = Vec::new();
    json::elements(raw, |index, raw| {
        let at = format_args!("tools[{index}]");
        let (kind, name) = kind_and_name(at, raw)?;
        let param = format_args!("{at}.name");
        let name = check::string(param, name.ok_or_else(|| BadRequest::missing(param))?)?;
        let is_custom = kind == "custom";
        if is_custom {
            custom.push(name.into_owned());
        }
        // The members beside the type stand one level deeper in a chat request.
        let mut tool = Object::begin(list.next());
        tool.text("type", &kind);
        let mut body = Object::begin(tool.member(&kind));
        json::members::<BadRequest>(raw, |key, member| {
            match key {
                "type" => {}
                _ if member.raw == "null" => {}
                "format" if is_custom => {
                    return format(format_args!("{at}.format"), member.raw, body.member(key));
                }
                _ => body.raw(key, member.raw),
            }
            Ok(())
        })?;
        body.end();
        tool.end();
        Ok::<_, BadRequest>(())
    })?;
    let any = !list.is_empty();
    list.end();
    let written = any.then(|| String::from_utf8_lossy(&out).into_owned());
    Ok(Tools { written, custom })
}

/// A tool's type, and its name as it is written. One that OpenAI runs itself is refused.
fn kind_and_name(
    at: impl Display + Copy,
    raw: &str,
) -> Result<(Cow<'_, str>, Option<&str>), BadRequest> {
    let [kind, name] = check::members(at, raw, ["type", "name"])?;
    let param = format_args!("{at}.type");
    let kind = check::string(param, kind.ok_or_else(|| BadRequest::missing(param))?)?;
    if matches!(kind.as_ref(), "function" | "custom") {
        return Ok((kind, name));
    }
    let message = format!(
        "the built-in tool `{}` is not served: only tools of type function and custom are",
        kind.escape_debug()
    );
    Err(BadRequest::unsupported(param, message))
}

/// Writes the form of a custom tool's text: what a grammar has beside its type stands one level deeper
/// in a chat request.
fn format(at: impl Display + Copy, raw: &str, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    let [kind, definition, syntax] = check::members(at, raw, ["type", "definition", "syntax"])?;
    if kind != Some("\"grammar\"") {
        out.extend_from_slice(raw.as_bytes());
        return Ok(());
    }
    let mut format = Object::begin(out);
    format.text("type", "grammar");
    let mut grammar = Object::begin(format.member("grammar"));
    grammar.maybe("definition", definition);
    grammar.maybe("syntax", syntax);
    grammar.end();
    format.end();
    Ok(())
}

/// Writes the choice among the tools.
pub(super) fn choice(raw: &str, tools: &Tools, body: &mut Object<'_>) -> Result<(), BadRequest> {
    if json::kind(raw) == Kind::String {
        let word = check::string("tool_choice", raw)?;
        if !matches!(word.as_ref(), "none" | "auto" | "required") {
            let message = "`tool_choice` must be none, auto, required, or an object";
            return Err(BadRequest::value("tool_choice", message));
        }
        // Without tools it says nothing, and providers refuse it then.
        if tools.written.is_some() || word == "required" {
            body.raw("tool_choice", raw);
        }
        return Ok(());
    }
    let [kind] = check::members("tool_choice", raw, ["type"])?;
    if kind == Some("\"allowed_tools\"") {
        return allowed(raw, body);
    }
    named("tool_choice", raw, body.member("tool_choice"))
}

/// Writes which of the tools may be called.
fn allowed(raw: &str, body: &mut Object<'_>) -> Result<(), BadRequest> {
    let [mode, tools] = check::members("tool_choice", raw, ["mode", "tools"])?;
    let mode = mode.ok_or_else(|| BadRequest::missing("tool_choice.mode"))?;
    if !matches!(check::string("tool_choice.mode", mode)?.as_ref(), "auto" | "required") {
        let message = "`tool_choice.mode` must be auto or required";
        return Err(BadRequest::value("tool_choice.mode", message));
    }
    let tools = tools.ok_or_else(|| BadRequest::missing("tool_choice.tools"))?;
    check::array("tool_choice.tools", tools)?;
    let mut choice = Object::begin(body.member("tool_choice"));
    choice.text("type", "allowed_tools");
    let mut allowed = Object::begin(choice.member("allowed_tools"));
    allowed.raw("mode", mode);
    let mut list = List::begin(allowed.member("tools"));
    json::elements(tools, |index, tool| {
        named(format_args!("tool_choice.tools[{index}]"), tool, list.next())
    })?;
    list.end();
    allowed.end();
    choice.end();
    Ok(())
}

/// Writes a tool by its name: that stands one level deeper in a chat request.
fn named(at: impl Display + Copy, raw: &str, out: &mut Vec<u8>) -> Result<(), BadRequest> {
    let (kind, name) = kind_and_name(at, raw)?;
    let param = format_args!("{at}.name");
    let name = name.ok_or_else(|| BadRequest::missing(param))?;
    check::string(param, name)?;
    out.extend_from_slice(format!(r#"{{"type":"{kind}","{kind}":{{"name":{name}}}}}"#).as_bytes());
    Ok(())
}
