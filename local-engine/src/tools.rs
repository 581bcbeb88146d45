//! Tools: how a model is told of them and how its calls are kept well-formed.
//!
//! Three formats, chosen by the model's own template. A template that knows tools gets them and its
//! format is enforced; for one that does not, [`generic_prompt`] tells the model in the system
//! message, and the whole answer is one JSON object that holds either calls or a reply. In every
//! format a constraint leaves the model no other way to write a call, so a call always parses and
//! its arguments always match the function's schema, unless the answer is cut by its cap.

use serde_json::{Map, Value as Json, json};

use crate::{
    constraint::{ConstraintError, Rule, arguments_rule},
    job::{Message, Role},
};

/// Most calls of one answer.
const CALLS_MAX: u32 = 16;

/// A function the model may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name: letters, digits, `_`, `-` and `.`, not empty.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// The JSON schema of its arguments, as JSON text; it takes none where there is none.
    pub parameters: Option<String>,
}

/// What may be called, and whether something must.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tools {
    /// The functions, at least one.
    pub functions: Vec<Function>,
    /// Whether one must be called.
    pub choice: ToolChoice,
    /// Whether an answer may hold several calls. `None`: where the model's template knows tools; a
    /// model that was never taught them may not find an end.
    pub parallel: Option<bool>,
}

/// Whether a function must be called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolChoice {
    /// The model chooses.
    Auto,
    /// At least one.
    Required,
    /// This one.
    Named(String),
}

/// How a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>\n{"name": …, "arguments": …}\n</tool_call>`, text before it allowed.
    Hermes,
    /// The whole answer is `{"name": …, "parameters": …}`: one call.
    Llama,
    /// The whole answer is `{"tool_calls": [{"name": …, "arguments": …}, …]}` or
    /// `{"response": …}`.
    Generic,
}

/// The texts around a call's parts. The reader in `calls.rs` and the grammar below know no others.
pub(crate) struct Frame {
    pub(crate) open: &'static str,
    pub(crate) arguments: &'static str,
    pub(crate) close: &'static str,
    pub(crate) between: &'static str,
}

impl ToolFormat {
    /// The format a template asks its model for.
    pub(crate) fn of_template(jinja: &str) -> ToolFormat {
        if !jinja.contains("tools") {
            ToolFormat::Generic
        } else if jinja.contains(HERMES_TAG) {
            ToolFormat::Hermes
        } else if jinja.contains("\"parameters\":") {
            ToolFormat::Llama
        } else {
            ToolFormat::Generic
        }
    }

    pub(crate) fn frame(self) -> Frame {
        match self {
            ToolFormat::Hermes => Frame {
                open: "<tool_call>\n{\"name\": \"",
                arguments: "\", \"arguments\": ",
                close: "}\n</tool_call>",
                between: "\n",
            },
            ToolFormat::Llama => Frame {
                open: "{\"name\": \"",
                arguments: "\", \"parameters\": ",
                close: "}",
                between: "",
            },
            ToolFormat::Generic => Frame {
                open: "{\"name\": \"",
                arguments: "\", \"arguments\": ",
                close: "}",
                between: ", ",
            },
        }
    }
}

/// What a call of the Hermes format begins with: beside text it is what tells a call from it.
pub(crate) const HERMES_TAG: &str = "<tool_call>";

/// The inside of a JSON string, without halves of surrogate pairs.
const REPLY_TEXT: &str = concat!(
    r#"/([^"\\\x00-\x1f]|\\["\\\/bfnrt]|\\u([0-9a-cefA-CEF][0-9a-fA-F]{3}"#,
    r"|[dD][0-7][0-9a-fA-F]{2}|[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}))*/"
);

/// Before the calls of the generic format, after them, and before a reply.
pub(crate) const GENERIC_CALLS: &str = "{\"tool_calls\": [";
pub(crate) const GENERIC_CALLS_END: &str = "]}";
pub(crate) const GENERIC_REPLY: &str = "{\"response\": \"";

impl Tools {
    /// The functions in OpenAI's shape, as templates expect them.
    pub(crate) fn as_json(&self) -> Json {
        self.functions
            .iter()
            .map(|function| json!({ "type": "function", "function": function.as_json() }))
            .collect()
    }

    /// The rule that keeps calls in `format`.
    ///
    /// # Errors
    /// A function's schema cannot be read, or the named function is not there.
    pub fn rule(&self, format: ToolFormat) -> Result<Rule, ConstraintError> {
        let frame = format.frame();
        let literal = |text: &str| Json::from(text).to_string();
        let (mut lark, mut names) = (String::new(), Vec::new());
        for (at, schema) in self.schemas()? {
            let Some(function) = self.functions.get(at) else { continue };
            lark.push_str(&format!("a{at}: %json {schema}\n"));
            names.push((at, function.name.as_str()));
        }
        if names.is_empty() {
            return Err(ConstraintError::Refused("it names no function".to_owned()));
        }
        // A call of any function, under a name of its own, from where its frame begins.
        let call = |rule: &str, open: &str| {
            let mut calls = Vec::new();
            let mut lark = String::new();
            for (at, name) in &names {
                let before = literal(&[open, name, frame.arguments].concat());
                lark.push_str(&format!("{rule}{at}: {before} a{at} {}\n", literal(frame.close)));
                calls.push(format!("{rule}{at}"));
            }
            format!("{lark}{rule}: {}\n", calls.join(" | "))
        };
        let parallel = self.parallel.unwrap_or(format != ToolFormat::Generic);
        let several = parallel && !matches!(self.choice, ToolChoice::Named(_));
        let more = match (several, format) {
            (true, ToolFormat::Hermes | ToolFormat::Generic) => {
                format!(" ({} call){{0,{}}}", literal(frame.between), CALLS_MAX - 1)
            }
            _ => String::new(),
        };
        // The tag that ends a text is the first call's own.
        let first = match (format, &self.choice) {
            (ToolFormat::Hermes, ToolChoice::Auto) => "tagged",
            _ => "call",
        };
        if first == "tagged" {
            let open = frame.open.strip_prefix(HERMES_TAG).unwrap_or(frame.open);
            lark.push_str(&call("tagged", open));
        }
        if first == "call" || !more.is_empty() {
            lark.push_str(&call("call", frame.open));
        }
        let start = self.start(format, &format!("{first}{more}"));
        Ok(Rule::Lark(format!("{start}{lark}")))
    }

    /// The schemas of the arguments of those functions that may be called, with their places.
    ///
    /// # Errors
    /// One of them cannot be read, or allows no arguments.
    pub(crate) fn schemas(&self) -> Result<Vec<(usize, Json)>, ConstraintError> {
        let may_be_called = |function: &Function| match &self.choice {
            ToolChoice::Named(name) => *name == function.name,
            ToolChoice::Auto | ToolChoice::Required => true,
        };
        let offered = self.functions.iter().enumerate().filter(|(_, it)| may_be_called(it));
        let schema = |(at, function): (usize, &Function)| {
            let parameters = function.parameters.as_deref();
            let schema =
                arguments_rule(parameters.unwrap_or(r#"{"type":"object","properties":{}}"#));
            match schema {
                Ok(schema) => Ok((at, schema)),
                Err(error) => Err(ConstraintError::Parameters { at, reason: error.to_string() }),
            }
        };
        offered.map(schema).collect()
    }

    /// The rule's beginning: calls alone, or a text instead.
    fn start(&self, format: ToolFormat, calls: &str) -> String {
        let literal = |text: &str| Json::from(text).to_string();
        let free = self.choice == ToolChoice::Auto;
        match (format, free) {
            (ToolFormat::Hermes | ToolFormat::Llama, false) => format!("start: {calls}\n"),
            // A text that goes on ends where a call's tag is complete.
            (ToolFormat::Hermes, true) => format!(
                "start: TEXT | called\ncalled: begin rest\nbegin[lazy]: /(?s:.*){HERMES_TAG}/\n\
                 TEXT: /(?s:.*)/ & ~/(?s:.*){HERMES_TAG}(?s:.*)/\nrest: {calls}\n"
            ),
            (ToolFormat::Llama, true) => {
                format!("start: TEXT | {calls}\nTEXT: /[^{{](?s:.*)/\n")
            }
            (ToolFormat::Generic, _) => {
                let calls =
                    format!("{} {calls} {}", literal(GENERIC_CALLS), literal(GENERIC_CALLS_END));
                if !free {
                    return format!("start: {calls}\n");
                }
                let reply = format!("REPLY: {} {REPLY_TEXT} \"\\\"}}\"\n", literal(GENERIC_REPLY));
                format!("start: calls | REPLY\ncalls: {calls}\n{reply}")
            }
        }
    }
}

impl Function {
    fn as_json(&self) -> Json {
        let mut fields = Map::new();
        fields.insert("name".to_owned(), self.name.as_str().into());
        if let Some(description) = &self.description {
            fields.insert("description".to_owned(), description.as_str().into());
        }
        let parameters =
            self.parameters.as_deref().and_then(|text| serde_json::from_str(text).ok());
        let none = || json!({ "type": "object", "properties": {} });
        fields.insert("parameters".to_owned(), parameters.unwrap_or_else(none));
        Json::Object(fields)
    }
}

/// What a model is told whose template knows no tools.
pub(crate) fn generic_prompt(tools: &Tools) -> String {
    let functions: Vec<String> =
        tools.functions.iter().map(|function| function.as_json().to_string()).collect();
    let reply = match tools.choice {
        ToolChoice::Auto => " or answer the user with {\"response\": \"your answer\"}",
        ToolChoice::Required | ToolChoice::Named(_) => "",
    };
    format!(
        "You can call functions. Write one JSON object: call functions with \
         {{\"tool_calls\": [{{\"name\": \"a function's name\", \"arguments\": {{…}}}}]}}{reply}.\n\
         The functions, each with the JSON schema of its arguments:\n{}",
        functions.join("\n")
    )
}

/// The conversation for a template that knows no tools: the functions stand in the system message,
/// past calls and results as the JSON that the model is asked for.
pub(crate) fn generic_messages(messages: &[Message], tools: Option<&Tools>) -> Vec<Message> {
    let plain = |role, content| Message {
        role,
        content,
        name: None,
        tool_calls_json: None,
        tool_call_id: None,
    };
    let mut told = Vec::with_capacity(messages.len() + 1);
    if let Some(tools) = tools {
        let prompt = generic_prompt(tools);
        match messages.first() {
            Some(first) if first.role == Role::System => {}
            _ => told.push(plain(Role::System, prompt)),
        }
    }
    for (at, message) in messages.iter().enumerate() {
        told.push(match (message.role, &message.tool_calls_json) {
            (Role::System, _) if at == 0 => match tools {
                Some(tools) => {
                    let content = format!("{}\n\n{}", message.content, generic_prompt(tools));
                    Message { content, ..message.clone() }
                }
                None => message.clone(),
            },
            (Role::Assistant, Some(calls)) => match past_calls(calls) {
                Some(calls) if message.content.is_empty() => plain(Role::Assistant, calls),
                Some(calls) => plain(Role::Assistant, format!("{}\n{calls}", message.content)),
                None => message.clone(),
            },
            (Role::Tool, _) => {
                let id = message.tool_call_id.as_deref().or(message.name.as_deref());
                let result = json!({ "tool_response": message.content, "of": id });
                plain(Role::User, result.to_string())
            }
            _ => message.clone(),
        });
    }
    told
}

/// Past calls as the model would have written them; `None` where there are none.
fn past_calls(calls: &str) -> Option<String> {
    let calls: Vec<Json> = serde_json::from_str(calls).ok()?;
    if calls.is_empty() {
        return None;
    }
    let call = |call: &Json| {
        let function = &call["function"];
        json!({ "name": function["name"], "arguments": arguments(&function["arguments"]) })
    };
    let calls: Vec<Json> = calls.iter().map(call).collect();
    Some(json!({ "tool_calls": calls }).to_string())
}

/// A past call's arguments as the object they are JSON text of: templates write them as JSON again.
pub(crate) fn arguments(written: &Json) -> Json {
    let parsed = written.as_str().and_then(|text| serde_json::from_str::<Json>(text).ok());
    parsed.filter(Json::is_object).unwrap_or_else(|| written.clone())
}
