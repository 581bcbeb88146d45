//! A chat request as Gemini's `generateContent` takes it.
//!
//! **Invariants:** the output cap is always there; a call goes back with the signature it came with,
//! which travels in its id, so that nothing is kept here between requests.

use super::SIGNED;
use crate::{
    providers::conversation::{Choice, Content, Conversation, Message, Piece, given},
    wire::{BadRequest, ChatRequest},
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{
    Value, json,
    value::{RawValue, to_raw_value},
};
use std::collections::HashMap;

/// What Gemini takes in place of a signature that a call never had.
const UNSIGNED: &str = "skip_thought_signature_validator";
/// Most stop strings.
const STOPS_MAX: usize = 5;
/// Words in the names of models that answer with pictures, films or speech.
const SHOWN: [&str; 4] = ["image", "banana", "omni", "tts"];

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Body<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    system_instruction: Option<Turn>,
    contents: Vec<Turn>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Tools<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_config: Option<Value>,
    generation_config: Generation<'a>,
}

#[derive(Serialize)]
struct Turn {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    parts: Vec<PartWritten>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum PartWritten {
    Plain(Value),
    #[serde(rename_all = "camelCase")]
    Call {
        function_call: CallWritten,
        #[serde(skip_serializing_if = "Option::is_none")]
        thought_signature: Option<String>,
    },
    #[serde(rename_all = "camelCase")]
    Result {
        function_response: ResultWritten,
    },
}

#[derive(Serialize)]
struct ResultWritten {
    name: String,
    response: Box<RawValue>,
}

#[derive(Serialize)]
struct CallWritten {
    name: String,
    args: Box<RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Tools<'a> {
    function_declarations: Vec<Declaration<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Declaration<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    parameters_json_schema: Option<&'a RawValue>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Generation<'a> {
    max_output_tokens: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    candidate_count: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    seed: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    presence_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    frequency_penalty: Option<f64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_mime_type: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_json_schema: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking_config: Option<Value>,
}

/// The body for Gemini, made of the inner one; the model's name stands in the path.
///
/// # Errors
/// [`BadRequest`] naming what Gemini has no counterpart for.
pub(crate) fn body(
    request: &ChatRequest,
    source: &[u8],
    model: &str,
    output_cap: u64,
) -> Result<Bytes, BadRequest> {
    refuse_unread(model)?;
    let mut read = Conversation::of(source)?;
    let penalties = (read.presence_penalty.take(), read.frequency_penalty.take());
    read.refuse_sampling_extras("Gemini")?;
    let (system, contents) = turns(&read.messages, model)?;
    if contents.is_empty() {
        let message = "Gemini answers a user's message: there is none with a content";
        return Err(BadRequest::unsupported("messages", message));
    }
    let declarations: Vec<Declaration<'_>> = read
        .functions()
        .map(|function| Declaration {
            name: &function.name,
            description: function.description.as_deref(),
            parameters_json_schema: given(function.parameters),
        })
        .collect();
    let (response_mime_type, response_json_schema) = format(&read)?;
    let generation_config = Generation {
        max_output_tokens: output_cap,
        candidate_count: (request.choices > 1).then_some(request.choices),
        temperature: given(read.temperature),
        top_p: given(read.top_p),
        top_k: given(read.top_k),
        seed: given(read.seed).filter(|seed| seed.get().parse::<i32>().is_ok()),
        presence_penalty: penalties.0,
        frequency_penalty: penalties.1,
        stop_sequences: stops(&read)?,
        response_mime_type,
        response_json_schema,
        thinking_config: thinking(&read, model, output_cap),
    };
    if read.parallel_tool_calls == Some(false) && declarations.len() > 1 {
        let message = "Gemini cannot be told to call one function at a time";
        return Err(BadRequest::unsupported("parallel_tool_calls", message));
    }
    let tools = if declarations.is_empty() {
        Vec::new()
    } else {
        vec![Tools { function_declarations: declarations }]
    };
    let system_instruction = (!system.is_empty()).then_some(Turn { role: None, parts: system });
    let tool_config = tool_config(&read)?;
    let body = Body { system_instruction, contents, tools, tool_config, generation_config };
    Ok(serde_json::to_vec(&body)?.into())
}

/// Refuses models that answer with what is no text, whatever they are asked: nobody here reads it, and
/// its tokens have a price of their own.
fn refuse_unread(model: &str) -> Result<(), BadRequest> {
    let named = |word: &str| model.split('-').any(|part| part == word);
    if SHOWN.into_iter().any(named) {
        let message = format!("`{model}` draws, films or speaks: only text is served");
        return Err(BadRequest::unsupported("model", message));
    }
    Ok(())
}

fn stops<'a>(read: &'a Conversation<'_>) -> Result<Vec<&'a str>, BadRequest> {
    let stops = read.stops();
    if stops.len() > STOPS_MAX {
        let message = format!("`stop`: Gemini takes at most {STOPS_MAX} strings");
        return Err(BadRequest::unsupported("stop", message));
    }
    Ok(stops)
}

fn turns(
    messages: &[Message<'_>],
    model: &str,
) -> Result<(Vec<PartWritten>, Vec<Turn>), BadRequest> {
    let mut system = Vec::new();
    let mut turns: Vec<Turn> = Vec::new();
    // A result names its function there, and its call here.
    let mut names: HashMap<&str, &str> = HashMap::new();
    for message in messages {
        names.extend(message.calls().map(|(id, called)| (id, called.name.as_ref())));
        let mut parts = Vec::new();
        let role = match message.role.as_ref() {
            "system" | "developer" => {
                write(message, &mut system)?;
                continue;
            }
            "assistant" => {
                write(message, &mut parts)?;
                calls(message, model, &mut parts);
                "model"
            }
            "tool" => {
                let id = message.tool_call_id.as_deref().unwrap_or_default();
                let name = names.get(id).copied().unwrap_or(id);
                parts.push(result(name, message.content.as_ref())?);
                // A result holds no image there: it is shown beside it.
                for placed in message.content.iter().flat_map(Content::pieces) {
                    let piece = placed?.piece;
                    if !matches!(piece, Piece::Text(_)) {
                        parts.push(part(&piece)?);
                    }
                }
                "user"
            }
            _ => {
                write(message, &mut parts)?;
                "user"
            }
        };
        if parts.is_empty() {
            continue;
        }
        match turns.last_mut() {
            Some(last) if last.role == Some(role) => last.parts.extend(parts),
            _ => turns.push(Turn { role: Some(role), parts }),
        }
    }
    Ok((system, turns))
}

fn write(message: &Message<'_>, out: &mut Vec<PartWritten>) -> Result<(), BadRequest> {
    for placed in message.pieces() {
        out.push(part(&placed?.piece)?);
    }
    Ok(())
}

fn part(piece: &Piece<'_>) -> Result<PartWritten, BadRequest> {
    Ok(PartWritten::Plain(match piece {
        Piece::Text(text) => json!({ "text": text }),
        Piece::Inline { media, data } => {
            json!({ "inlineData": { "mimeType": media, "data": data } })
        }
        Piece::Address(_) => {
            let message = "Gemini fetches no images: send the image itself as a data: URL";
            return Err(BadRequest::unsupported("messages", message));
        }
    }))
}

/// The calls of an earlier answer, the first with its signature.
fn calls(message: &Message<'_>, model: &str, parts: &mut Vec<PartWritten>) {
    let signs = !["gemini-1", "gemini-2", "gemma"].iter().any(|old| model.starts_with(old));
    for (index, (id, called)) in message.calls().enumerate() {
        let signature = id.split_once(SIGNED).map(|(_, signature)| signature.to_owned());
        let stand_in = (signs && index == 0).then(|| UNSIGNED.to_owned());
        parts.push(PartWritten::Call {
            function_call: CallWritten { name: called.name.to_string(), args: called.arguments() },
            thought_signature: signature.or(stand_in),
        });
    }
}

/// What a call came to: an object as it is, anything else as the result of one.
fn result(name: &str, content: Option<&Content<'_>>) -> Result<PartWritten, BadRequest> {
    let text = content.map(Content::text).unwrap_or_default();
    let object = Some(text.trim()).filter(|text| text.starts_with('{'));
    let object = object.and_then(|text| RawValue::from_string(text.to_owned()).ok());
    let response = match object {
        Some(object) => object,
        None => to_raw_value(&json!({ "result": text }))?,
    };
    let function_response = ResultWritten { name: name.to_owned(), response };
    Ok(PartWritten::Result { function_response })
}

fn tool_config(read: &Conversation<'_>) -> Result<Option<Value>, BadRequest> {
    // Without a function to choose it is refused there.
    if read.functions().next().is_none() {
        return Ok(None);
    }
    let mode = |mode: &str| json!({ "functionCallingConfig": { "mode": mode } });
    Ok(match read.choice()? {
        None => None,
        Some(Choice::Auto) => Some(mode("AUTO")),
        Some(Choice::None) => Some(mode("NONE")),
        Some(Choice::Required) => Some(mode("ANY")),
        Some(Choice::Named(name)) => Some(json!({
            "functionCallingConfig": { "mode": "ANY", "allowedFunctionNames": [name] },
        })),
    })
}

type Answered<'a> = (Option<&'static str>, Option<&'a RawValue>);

fn format<'a>(read: &Conversation<'a>) -> Result<Answered<'a>, BadRequest> {
    const JSON: Option<&str> = Some("application/json");
    let Some(format) = &read.response_format else { return Ok((None, None)) };
    match (format.kind.as_ref(), &format.json_schema) {
        ("text", _) => Ok((None, None)),
        ("json_object", _) => Ok((JSON, None)),
        ("json_schema", Some(schema)) => Ok((JSON, schema.schema)),
        (kind, _) => Err(BadRequest::unsupported(
            "response_format",
            format!("Gemini has no answer format `{kind}`"),
        )),
    }
}

/// How a family of models is told how hard to think.
enum Thinking {
    /// It does not think, or takes no word on it.
    Untold,
    /// By a budget of at least `min` tokens; 0 turns thinking off where that `ceases`.
    Budget { min: u64, ceases: bool },
    /// By one of these levels, the least first.
    Levels(&'static [&'static str]),
}

/// Families by the beginnings of their names, the longer before the shorter. What is in none of them
/// takes the levels that every model since 3.1 does.
const FAMILIES: [(&str, Thinking); 13] = [
    ("gemini-1", Thinking::Untold),
    ("gemini-2.0", Thinking::Untold),
    ("gemini-pro-1", Thinking::Untold),
    ("gemini-flash-1", Thinking::Untold),
    ("gemma", Thinking::Untold),
    ("learnlm", Thinking::Untold),
    ("gemini-2.5-pro", Thinking::Budget { min: 128, ceases: false }),
    ("gemini-2.5-flash-lite", Thinking::Budget { min: 512, ceases: true }),
    ("gemini-2", Thinking::Budget { min: 1, ceases: true }),
    ("gemini-3-pro", Thinking::Levels(&["low", "high"])),
    ("gemini-3-flash", Thinking::Levels(&["minimal", "low", "medium", "high"])),
    ("gemini-3.1-flash-lite", Thinking::Levels(&["minimal", "low", "medium", "high"])),
    ("gemini-3.5-flash", Thinking::Levels(&["minimal", "low", "medium", "high"])),
];

/// `reasoning_effort` in the words of the model's family: what it refuses becomes the next higher that
/// it takes, and nothing is said to a model that does not think or under a cap without room for it.
fn thinking(read: &Conversation<'_>, model: &str, output_cap: u64) -> Option<Value> {
    let effort = read.reasoning_effort.as_deref()?;
    let found = FAMILIES.iter().find(|(start, _)| model.starts_with(start));
    match found.map(|(_, thinking)| thinking) {
        Some(Thinking::Untold) => None,
        Some(Thinking::Budget { min, ceases }) => budget(effort, *min, *ceases, output_cap),
        Some(Thinking::Levels(levels)) => Some(level(effort, levels)),
        None => Some(level(effort, &["low", "medium", "high"])),
    }
}

fn budget(effort: &str, min: u64, ceases: bool, output_cap: u64) -> Option<Value> {
    let wanted = match effort {
        "none" if ceases => return Some(json!({ "thinkingBudget": 0, "includeThoughts": false })),
        "none" => min,
        "minimal" => 512,
        "low" => 1024,
        "medium" => 8192,
        _ => 24_576,
    };
    let budget = wanted.min(output_cap);
    (budget >= min).then(|| json!({ "thinkingBudget": budget, "includeThoughts": true }))
}

fn level(effort: &str, levels: &[&str]) -> Value {
    const ALL: [&str; 4] = ["minimal", "low", "medium", "high"];
    let wanted = if effort == "none" { "minimal" } else { effort };
    let higher = ALL.iter().skip_while(|level| **level != wanted);
    let level = higher.copied().find(|level| levels.contains(level)).unwrap_or("high");
    json!({ "thinkingLevel": level, "includeThoughts": true })
}
