//! Tools and the choice among them.

use crate::wire::{
    BadRequest, check,
    json::{self, Kind},
    put::{List, Object},
};
use serde_json::value::RawValue;

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
    json::elements(raw, |index, tool: Result<&RawValue, _>| {
        let at = format_args!("tools[{index}]");
        let raw = tool?.get();
        let [kind, name] = check::members(at, raw, ["type", "name"])?;
        let param = format_args!("{at}.type");
        let kind = check::string(param, kind.ok_or_else(|| BadRequest::missing(param))?)?;
        if !matches!(kind.as_ref(), "function" | "custom") {
            let message = format!(
                "the built-in tool `{}` is not served: only tools of type function and custom are",
                kind.escape_debug()
            );
            return Err(BadRequest::unsupported(param, message));
        }
        let param = format_args!("{at}.name");
        let name = check::string(param, name.ok_or_else(|| BadRequest::missing(param))?)?;
        if kind == "custom" {
            custom.push(name.into_owned());
        }
        // The members beside the type stand one level deeper in a chat request.
        let mut tool = Object::begin(list.next());
        tool.text("type", &kind);
        let mut body = Object::begin(tool.member(&kind));
        json::members::<BadRequest>(raw, |key, member| {
            if key != "type" && member.raw != "null" {
                body.raw(key, member.raw);
            }
            Ok(())
        })?;
        body.end();
        tool.end();
        Ok(())
    })?;
    let any = !list.is_empty();
    list.end();
    let written = any.then(|| String::from_utf8_lossy(&out).into_owned());
    Ok(Tools { written, custom })
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
    let [kind, name] = check::members("tool_choice", raw, ["type", "name"])?;
    let kind = kind.ok_or_else(|| BadRequest::missing("tool_choice.type"))?;
    let kind = check::string("tool_choice.type", kind)?;
    match kind.as_ref() {
        "function" | "custom" => {
            let name = name.ok_or_else(|| BadRequest::missing("tool_choice.name"))?;
            check::string("tool_choice.name", name)?;
            let named = format!(r#"{{"type":"{kind}","{kind}":{{"name":{name}}}}}"#);
            body.raw("tool_choice", &named);
            Ok(())
        }
        "allowed_tools" => {
            let allowed = format!(r#"{{"type":"allowed_tools","allowed_tools":{raw}}}"#);
            body.raw("tool_choice", &allowed);
            Ok(())
        }
        other => Err(BadRequest::unsupported(
            "tool_choice.type",
            format!("the built-in tool `{}` is not served", other.escape_debug()),
        )),
    }
}
