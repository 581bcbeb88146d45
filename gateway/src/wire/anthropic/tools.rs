//! Tools and the choice among them.

use crate::wire::{
    BadRequest, check,
    put::{List, Object},
};

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
        if let Some(kind) = kind
            && check::string(format_args!("{at}.type"), kind)? != "custom"
        {
            return Err(BadRequest::unsupported(
                format_args!("{at}.type"),
                "only tools of type custom are served: the others are known to one provider alone",
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
