//! Which tools the model in this process is offered, in OpenAI's `tools` and the older `functions`.
//!
//! **Invariant:** what a tool demands is enforced or refused; a choice that names a tool is kept.

use super::super::{
    BadRequest, ChatRequest, check,
    fields::Field,
    json::{self, Kind},
    tools::Allowed,
};
use local_engine::{Function, ToolChoice, Tools};
use std::fmt::Display;

/// Longest name of a function, as OpenAI has it.
const NAME_BYTES_MAX: usize = 64;

/// The tools, where any may be called, and whether they were asked for as `functions`.
pub(super) fn read(request: &ChatRequest) -> Result<Option<(Tools, bool)>, BadRequest> {
    if !request.needs.tools {
        return Ok(None);
    }
    let Some(raw) = request.given(Field::Tools) else {
        return legacy(request).map(|tools| Some((tools, true)));
    };
    if request.given(Field::Functions).is_some() {
        let message = "`tools` and `functions` are both given: the local model serves one of them";
        return Err(BadRequest::unsupported("functions", message));
    }
    let mut functions = Vec::new();
    json::elements(raw, |index, tool| {
        let at = format_args!("tools[{index}]");
        let [kind, body] = check::members(at, tool, ["type", "function"])?;
        let Some(body) = body else {
            let kind = kind.unwrap_or("\"function\"");
            let message = format!("the local model does not serve tools of type {kind}");
            return Err(BadRequest::unsupported(format_args!("{at}.type"), message));
        };
        functions.push(function(format_args!("{at}.function"), body)?);
        Ok(())
    })?;
    let chosen = request.given(Field::ToolChoice);
    let allowed = chosen.map_or(Ok(None), Allowed::of)?;
    let choice = match &allowed {
        None => choice(chosen)?,
        Some(allowed) if allowed.must => ToolChoice::Required,
        Some(_) => ToolChoice::Auto,
    };
    if let Some(allowed) = allowed {
        allowed.keep(&mut functions, |function| Some(&function.name))?;
        // Nothing is allowed, as under `none`.
        if functions.is_empty() {
            return Ok(None);
        }
    }
    let parallel = request
        .given(Field::ParallelToolCalls)
        .map(|raw| check::boolean("parallel_tool_calls", raw))
        .transpose()?;
    Ok(Some((Tools { functions, choice, parallel }, false)))
}

fn choice(given: Option<&str>) -> Result<ToolChoice, BadRequest> {
    let Some(raw) = given else { return Ok(ToolChoice::Auto) };
    if json::kind(raw) == Kind::String {
        return Ok(match check::string("tool_choice", raw)?.as_ref() {
            "required" => ToolChoice::Required,
            // `none` offers no tools and does not come here.
            _ => ToolChoice::Auto,
        });
    }
    let [named] = check::members("tool_choice", raw, ["function"])?;
    let Some(named) = named else {
        let message = "the local model serves none, auto, required, or a function's name";
        return Err(BadRequest::unsupported("tool_choice", message));
    };
    let [name] = check::members("tool_choice.function", named, ["name"])?;
    let at = "tool_choice.function.name";
    let name = name.ok_or_else(|| BadRequest::missing(at))?;
    check::string(at, name).map(|name| ToolChoice::Named(name.into_owned()))
}

fn legacy(request: &ChatRequest) -> Result<Tools, BadRequest> {
    let mut functions = Vec::new();
    let raw = request.given(Field::Functions).ok_or_else(|| BadRequest::missing("functions"))?;
    json::elements(raw, |index, body| {
        functions.push(function(format_args!("functions[{index}]"), body)?);
        Ok::<_, BadRequest>(())
    })?;
    let choice = match request.given(Field::FunctionCall) {
        Some(raw) if json::kind(raw) == Kind::Object => {
            let [name] = check::members("function_call", raw, ["name"])?;
            let name = name.ok_or_else(|| BadRequest::missing("function_call.name"))?;
            ToolChoice::Named(check::string("function_call.name", name)?.into_owned())
        }
        _ => ToolChoice::Auto,
    };
    // A message of the older format holds one call.
    Ok(Tools { functions, choice, parallel: Some(false) })
}

fn function(at: impl Display + Copy, raw: &str) -> Result<Function, BadRequest> {
    let [name, description, parameters] =
        check::members(at, raw, ["name", "description", "parameters"])?;
    let param = format_args!("{at}.name");
    let name = check::string(param, name.ok_or_else(|| BadRequest::missing(param))?)?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.bytes().all(plain) {
        let message = format!(
            "`{param}` must be 1 to {NAME_BYTES_MAX} letters, digits, underscores, dashes or dots"
        );
        return Err(BadRequest::value(param, message));
    }
    let description = description
        .map(|raw| check::string(format_args!("{at}.description"), raw).map(Into::into))
        .transpose()?;
    Ok(Function { name: name.into_owned(), description, parameters: parameters.map(str::to_owned) })
}
