//! Tools and the choice among them.

use crate::wire::{
    BadRequest, check,
    put::{List, Object},
};

/// Tools of Anthropic's that the caller runs, by the beginnings of their types, which end with a day. Its
/// models are taught them by name alone.
const CLIENTS: [&str; 4] = ["bash_", "text_editor_", "computer_", "memory_"];
/// Tokens that teaching one of them takes at most. Published are 245 (bash), 700 (text editor) and 735
/// beside 499 of a system prompt (computer).
const CLIENT_TOKENS: u64 = 2048;

/// Tools that only Anthropic knows.
#[derive(Default)]
pub(super) struct Own {
    /// Where the first stands.
    pub(super) first: Option<String>,
    /// Tokens that they take beside what is written of them, at most.
    pub(super) tokens_max: u64,
}

/// Which of the tools are such, in a list that has been written.
pub(super) fn own(raw: &str) -> Result<Own, BadRequest> {
    let mut own = Own::default();
    crate::wire::json::elements::<BadRequest>(raw, |index, tool| {
        let at = format_args!("tools[{index}]");
        let [kind] = check::members(at, tool, ["type"])?;
        if is_clients(&check::string(format_args!("{at}.type"), kind.unwrap_or("\"\""))?) {
            own.first.get_or_insert_with(|| format!("{at}.type"));
            own.tokens_max += CLIENT_TOKENS;
        }
        Ok(())
    })?;
    Ok(own)
}

fn is_clients(kind: &str) -> bool {
    let day = CLIENTS.iter().find_map(|start| kind.strip_prefix(start));
    day.is_some_and(|day| day.len() == 8 && day.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Writes the tools as functions.
pub(super) fn list(raw: &str, body: &mut Object<'_>) -> Result<(), BadRequest> {
    check::array("tools", raw)?;
    if raw == "[]" {
        return Ok(());
    }
    let mut tools = List::begin(body.member("tools"));
    crate::wire::json::elements(raw, |index, tool| {
        let at = format_args!("tools[{index}]");
        let [kind, name, description, schema, strict] =
            check::members(at, tool, ["type", "name", "description", "input_schema", "strict"])?;
        let kind =
            kind.map_or(Ok("custom".into()), |raw| check::string(format_args!("{at}.type"), raw))?;
        if kind != "custom" && !is_clients(&kind) {
            return Err(BadRequest::unsupported(
                format_args!("{at}.type"),
                "only tools that the caller runs are served: custom, bash, text_editor, computer, memory",
            ));
        }
        let param = format_args!("{at}.name");
        let name = name.ok_or_else(|| BadRequest::missing(param))?;
        let mut tool = Object::begin(tools.next());
        tool.text("type", "function");
        let mut function = Object::begin(tool.member("function"));
        function.raw("name", name);
        function.maybe("description", description);
        function.maybe("parameters", schema);
        function.maybe("strict", strict);
        function.end();
        tool.end();
        Ok(())
    })?;
    tools.end();
    Ok(())
}

/// Writes the choice among the tools.
pub(super) fn choice(raw: &str, body: &mut Object<'_>) -> Result<(), BadRequest> {
    let [kind, name, one] =
        check::members("tool_choice", raw, ["type", "name", "disable_parallel_tool_use"])?;
    let kind = kind.ok_or_else(|| BadRequest::missing("tool_choice.type"))?;
    if let Some(name) = name {
        check::string("tool_choice.name", name)?;
    }
    match check::string("tool_choice.type", kind)?.as_ref() {
        "auto" => body.text("tool_choice", "auto"),
        "any" => body.text("tool_choice", "required"),
        "none" => body.text("tool_choice", "none"),
        "tool" => {
            let name = name.ok_or_else(|| BadRequest::missing("tool_choice.name"))?;
            let named = format!(r#"{{"type":"function","function":{{"name":{name}}}}}"#);
            body.raw("tool_choice", &named);
        }
        _ => {
            let message = "`tool_choice.type` must be auto, any, tool or none";
            return Err(BadRequest::value("tool_choice.type", message));
        }
    }
    if let Some(one) = one
        && check::boolean("tool_choice.disable_parallel_tool_use", one)?
    {
        body.raw("parallel_tool_calls", "false");
    }
    Ok(())
}
