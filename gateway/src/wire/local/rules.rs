//! What a request wants its answer to match: `response_format`, and the fields of other servers
//! that say the same.
//!
//! **Invariant:** at most one of them is given, and what it says is handed over whole: a schema is
//! enforced or refused, never left out.

use super::super::{
    BadRequest, ChatRequest, check,
    fields::Field,
    json::{self, Kind},
};
use local_engine::Rule;

/// Most texts of `guided_choice`.
const OPTIONS_MAX: usize = 1_000;

/// The rule, and the parameter that says so.
pub(super) fn read(request: &ChatRequest) -> Result<Option<(&'static str, Rule)>, BadRequest> {
    let mut found = response_format(request)?;
    for field in [
        Field::JsonSchema,
        Field::GuidedJson,
        Field::Grammar,
        Field::GuidedRegex,
        Field::GuidedChoice,
    ] {
        let Some(raw) = request.given(field) else { continue };
        let Some(rule) = rule(field, raw)? else { continue };
        if let Some((other, _)) = &found {
            let name = field.name();
            let message =
                format!("`{name}` and `{other}` are both given: an answer follows one rule");
            return Err(BadRequest::value(name, message));
        }
        found = Some((field.name(), rule));
    }
    Ok(found)
}

/// What one field says; nothing if it is empty.
fn rule(field: Field, raw: &str) -> Result<Option<Rule>, BadRequest> {
    let name = field.name();
    Ok(Some(match field {
        Field::Grammar => match check::string(name, raw)?.into_owned() {
            text if text.is_empty() => return Ok(None),
            text => Rule::Gbnf(text),
        },
        Field::GuidedRegex => match check::string(name, raw)?.into_owned() {
            text if text.is_empty() => return Ok(None),
            text => Rule::Regex(text),
        },
        Field::GuidedChoice => Rule::Lark(options(name, raw)?),
        // vLLM takes a schema also as text.
        _ if json::kind(raw) == Kind::String => {
            Rule::JsonSchema(check::string(name, raw)?.into_owned())
        }
        _ => {
            check::object(name, raw)?;
            Rule::JsonSchema(raw.to_owned())
        }
    }))
}

/// One of several texts.
fn options(name: &str, raw: &str) -> Result<String, BadRequest> {
    check::array(name, raw)?;
    let mut lark = "start: OPTION\nOPTION: ".to_owned();
    let mut count = 0;
    json::elements(raw, |index, text| {
        let param = format_args!("{name}[{index}]");
        let text = check::string(param, text)?;
        if text.is_empty() || index >= OPTIONS_MAX {
            let message =
                format!("`{name}` must have 1 to {OPTIONS_MAX} texts, none of them empty");
            return Err(BadRequest::value(param, message));
        }
        if index > 0 {
            lark.push_str(" | ");
        }
        // Written anew, since only JSON's own escapes are known there.
        lark.push_str(&serde_json::Value::from(text.as_ref()).to_string());
        count += 1;
        Ok(())
    })?;
    match count {
        0 => Err(BadRequest::value(name, format!("`{name}` must have at least one text"))),
        _ => Ok(lark),
    }
}

fn response_format(request: &ChatRequest) -> Result<Option<(&'static str, Rule)>, BadRequest> {
    let Some(raw) = request.given(Field::ResponseFormat) else { return Ok(None) };
    // llama-server takes the schema beside the type too, also of a json_object.
    let [kind, wrapped, schema] =
        check::members("response_format", raw, ["type", "json_schema", "schema"])?;
    let kind = kind.map_or(Ok("".into()), |kind| check::string("response_format.type", kind))?;
    let rule = match (kind.as_ref(), wrapped, schema) {
        ("json_object", _, None) => Rule::JsonObject,
        ("json_object", _, Some(schema)) => Rule::JsonSchema(schema.to_owned()),
        ("json_schema", Some(wrapped), _) => {
            let at = "response_format.json_schema";
            let [schema] = check::members(at, wrapped, ["schema"])?;
            match schema {
                Some(schema) => Rule::JsonSchema(schema.to_owned()),
                // As OpenAI has it: a name without a schema asks for any object.
                None => Rule::JsonObject,
            }
        }
        _ => return Ok(None),
    };
    Ok(Some(("response_format", rule)))
}
