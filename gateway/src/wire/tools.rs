//! Tools and legacy functions of a chat request: their shape is checked, their schemas are left to
//! whoever serves them.

use super::{
    BadRequest, check,
    fields::Field,
    json::{self, Kind},
};
use std::borrow::Cow;

/// Most tools in one request, as OpenAI has it.
const TOOLS_MAX: usize = 128;

/// Checks `tools`, `functions`, `tool_choice` and `function_call` together. Whether any tool is
/// offered to the model.
pub(super) fn read<'a>(given: impl Fn(Field) -> Option<&'a str>) -> Result<bool, BadRequest> {
    let mut names = Vec::new();
    if let Some(tools) = given(Field::Tools) {
        check_tools(tools, &mut names)?;
    }
    let tools = names.len();
    let offered = match given(Field::ToolChoice) {
        Some(choice) => check_choice(choice, &names)? && tools > 0,
        None => tools > 0,
    };
    if let Some(functions) = given(Field::Functions) {
        check_functions(functions, &mut names)?;
    }
    let functions = names.get(tools..).unwrap_or_default();
    let legacy = match given(Field::FunctionCall) {
        Some(call) => check_call(call, functions)? && !functions.is_empty(),
        None => !functions.is_empty(),
    };
    Ok(offered || legacy)
}

fn check_tools<'a>(raw: &'a str, names: &mut Vec<Cow<'a, str>>) -> Result<(), BadRequest> {
    check::array("tools", raw)?;
    json::elements(raw, |index, tool| {
        limit("tools", index)?;
        let at = format_args!("tools[{index}]");
        let [kind, function, custom] = check::members(at, tool, ["type", "function", "custom"])?;
        let kind = kind.ok_or_else(|| BadRequest::missing(format_args!("{at}.type")))?;
        let (member, body) = match check::string(format_args!("{at}.type"), kind)?.as_ref() {
            "function" => ("function", function),
            "custom" => ("custom", custom),
            _ => {
                return Err(BadRequest::unsupported(
                    format_args!("{at}.type"),
                    "a tool's type must be function or custom; tools that a provider runs itself are not served, since they cost extra",
                ));
            }
        };
        let at = format_args!("{at}.{member}");
        let body = body.ok_or_else(|| BadRequest::missing(at))?;
        names.push(function_name(at, body)?);
        Ok(())
    })
}

fn check_functions<'a>(raw: &'a str, names: &mut Vec<Cow<'a, str>>) -> Result<(), BadRequest> {
    check::array("functions", raw)?;
    json::elements(raw, |index, function| {
        limit("functions", index)?;
        names.push(function_name(format_args!("functions[{index}]"), function)?);
        Ok(())
    })
}

fn limit(param: &str, index: usize) -> Result<(), BadRequest> {
    if index < TOOLS_MAX {
        return Ok(());
    }
    Err(BadRequest::value(param, format!("`{param}` must have at most {TOOLS_MAX} entries")))
}

fn function_name<'a>(
    at: impl std::fmt::Display + Copy,
    raw: &'a str,
) -> Result<Cow<'a, str>, BadRequest> {
    let [name, parameters] = check::members(at, raw, ["name", "parameters"])?;
    let param = format_args!("{at}.name");
    let name = check::string(param, name.ok_or_else(|| BadRequest::missing(param))?)?;
    if name.is_empty() {
        return Err(BadRequest::value(param, format!("`{param}` must not be empty")));
    }
    if let Some(parameters) = parameters {
        check::object(format_args!("{at}.parameters"), parameters)?;
    }
    Ok(name)
}

/// Whether the model may call a tool under this choice.
fn check_choice(raw: &str, names: &[Cow<'_, str>]) -> Result<bool, BadRequest> {
    let wrong = || {
        BadRequest::value(
            "tool_choice",
            "`tool_choice` must be none, auto, required, or an object that names a tool",
        )
    };
    let without_tools = || {
        let message = "`tool_choice` asks for a call and there are no `tools`";
        BadRequest::value("tool_choice", message)
    };
    if json::kind(raw) == Kind::String {
        return match check::string("tool_choice", raw)?.as_ref() {
            "none" => Ok(false),
            "auto" => Ok(true),
            "required" if names.is_empty() => Err(without_tools()),
            "required" => Ok(true),
            _ => Err(wrong()),
        };
    }
    let [kind, function, custom, allowed] =
        check::members("tool_choice", raw, ["type", "function", "custom", "allowed_tools"])?;
    let kind = check::string("tool_choice.type", kind.ok_or_else(wrong)?)?;
    let (at, body) = match kind.as_ref() {
        "function" => ("tool_choice.function", function),
        "custom" => ("tool_choice.custom", custom),
        "allowed_tools" if names.is_empty() => return Err(without_tools()),
        "allowed_tools" => {
            let allowed =
                allowed.ok_or_else(|| BadRequest::missing("tool_choice.allowed_tools"))?;
            return check::object("tool_choice.allowed_tools", allowed).map(|()| true);
        }
        _ => return Err(wrong()),
    };
    named(at, body.ok_or_else(|| BadRequest::missing(at))?, names).map(|()| true)
}

/// The tools to which a choice of the type `allowed_tools` narrows those of its request. Servers that
/// know no such choice are told of these alone.
pub(crate) struct Allowed<'a> {
    /// Whether one of them must be called.
    pub(crate) must: bool,
    /// The functions among them.
    names: Vec<Cow<'a, str>>,
}

impl<'a> Allowed<'a> {
    /// What `choice`, the `tool_choice` of a chat, says; `None` where it is one of another type.
    ///
    /// # Errors
    /// [`BadRequest`] naming what is not as it must be.
    pub(crate) fn of(choice: &'a str) -> Result<Option<Self>, BadRequest> {
        const AT: &str = "tool_choice.allowed_tools";
        if json::kind(choice) != Kind::Object {
            return Ok(None);
        }
        let [kind, allowed] = check::members("tool_choice", choice, ["type", "allowed_tools"])?;
        let kind = kind.map(|raw| check::string("tool_choice.type", raw)).transpose()?;
        if kind.as_deref() != Some("allowed_tools") {
            return Ok(None);
        }
        let allowed = allowed.ok_or_else(|| BadRequest::missing(AT))?;
        let [mode, tools] = check::members(AT, allowed, ["mode", "tools"])?;
        let param = format_args!("{AT}.mode");
        let mode = check::string(param, mode.ok_or_else(|| BadRequest::missing(param))?)?;
        if !matches!(mode.as_ref(), "auto" | "required") {
            return Err(BadRequest::value(param, format!("`{param}` must be auto or required")));
        }
        let param = format_args!("{AT}.tools");
        let tools = tools.ok_or_else(|| BadRequest::missing(param))?;
        check::array(param, tools)?;
        let mut names = Vec::new();
        json::elements(tools, |index, tool| {
            let at = format_args!("{AT}.tools[{index}]");
            let [function] = check::members(at, tool, ["function"])?;
            if let Some(function) = function {
                names.push(function_name(format_args!("{at}.function"), function)?);
            }
            Ok::<_, BadRequest>(())
        })?;
        Ok(Some(Self { must: mode == "required", names }))
    }

    /// Leaves of `tools` those that it names, and those of which `name` says that they are no functions.
    ///
    /// # Errors
    /// [`BadRequest`] where one must be called and none is left.
    pub(crate) fn keep<T>(
        &self,
        tools: &mut Vec<T>,
        name: impl Fn(&T) -> Option<&str>,
    ) -> Result<(), BadRequest> {
        tools.retain(|tool| name(tool).is_none_or(|name| self.names.iter().any(|it| it == name)));
        if self.must && tools.is_empty() {
            let param = "tool_choice.allowed_tools.tools";
            return Err(BadRequest::value(
                param,
                format!("`{param}` names no tool of this request"),
            ));
        }
        Ok(())
    }
}

/// Whether the model may call a function under this legacy choice.
fn check_call(raw: &str, names: &[Cow<'_, str>]) -> Result<bool, BadRequest> {
    if json::kind(raw) == Kind::Object {
        return named("function_call", raw, names).map(|()| true);
    }
    match check::string("function_call", raw)?.as_ref() {
        "none" => Ok(false),
        "auto" => Ok(true),
        _ => Err(BadRequest::value(
            "function_call",
            "`function_call` must be none, auto, or an object that names a function",
        )),
    }
}

/// Checks that the choice names one of the tools.
fn named(at: &str, raw: &str, names: &[Cow<'_, str>]) -> Result<(), BadRequest> {
    let [name] = check::members(at, raw, ["name"])?;
    let param = format_args!("{at}.name");
    let name = check::string(param, name.ok_or_else(|| BadRequest::missing(param))?)?;
    if names.contains(&name) {
        return Ok(());
    }
    Err(BadRequest::value(param, format!("`{param}` names no tool of this request")))
}
