//! A chat request as Anthropic's Messages API takes it.
//!
//! **Invariants:** the output cap is always there; results of tools stand together in the one
//! message that follows their calls; a client's own Messages body goes out as it is, but for the
//! model's name, the cap, the stream, and ids of calls and thinking that Anthropic does not take.

use super::unsigned::signed;
use crate::{
    ledger::Endpoint,
    providers::{
        Told,
        conversation::{Choice, Conversation, Message, Piece, Placed, empty_object, given},
    },
    wire::{
        BadRequest, ChatRequest,
        json::{self, Span},
    },
};
use bytes::Bytes;
use serde::Serialize;
use serde_json::{Value, json, value::RawValue};
use std::borrow::Cow;

#[derive(Serialize)]
struct Body<'a> {
    model: &'a str,
    max_tokens: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Value>,
    messages: Vec<Turn>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<ToolWritten<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_choice: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    stop_sequences: Vec<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    temperature: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_p: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    top_k: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    thinking: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_config: Option<OutputConfig<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<&'static str>,
    stream: bool,
}

#[derive(Serialize)]
struct Turn {
    role: &'static str,
    content: Vec<Block>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block {
    Plain(Value),
    Use {
        #[serde(rename = "type")]
        kind: &'static str,
        id: String,
        name: String,
        input: Box<RawValue>,
    },
    Raw(Box<RawValue>),
}

#[derive(Serialize)]
struct ToolWritten<'a> {
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<&'a str>,
    input_schema: Box<RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cache_control: Option<&'a Value>,
}

#[derive(Default, Serialize)]
struct OutputConfig<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    format: Option<Format<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    effort: Option<&'a str>,
}

#[derive(Serialize)]
struct Format<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    schema: &'a RawValue,
}

/// What the body is made of: the client's own where it is one of Messages, else the inner one.
pub(crate) fn source(request: &ChatRequest) -> &Bytes {
    own(request).unwrap_or(&request.body)
}

/// Whether that is the client's own.
pub(crate) fn is_own(request: &ChatRequest) -> bool {
    own(request).is_some()
}

fn own(request: &ChatRequest) -> Option<&Bytes> {
    request.outer_body.as_ref().filter(|_| request.endpoint == Endpoint::Messages)
}

/// The body for Anthropic, made of [`source`]: `model` is its name there; the answer is capped at
/// `output_cap`.
///
/// # Errors
/// [`BadRequest`] naming what Anthropic has no counterpart for.
pub(crate) fn body(
    request: &ChatRequest,
    source: &[u8],
    model: &str,
    output_cap: u64,
) -> Result<Bytes, BadRequest> {
    if own(request).is_some() {
        return verbatim(source, request, model, output_cap);
    }
    if request.choices > 1 {
        return Err(BadRequest::unsupported("n", "Anthropic answers with one choice"));
    }
    let read = Conversation::of(source)?;
    read.refuse_sampling_extras("Anthropic")?;
    let hot = |raw: &&RawValue| raw.get().parse::<f64>().is_ok_and(|temperature| temperature > 1.0);
    if given(read.temperature).filter(hot).is_some() {
        let message = "`temperature` is at most 1 with Anthropic";
        return Err(BadRequest::unsupported("temperature", message));
    }
    if read.stops().iter().any(|stop| stop.trim().is_empty()) {
        let message = "`stop`: Anthropic takes no string of white space alone";
        return Err(BadRequest::unsupported("stop", message));
    }
    let (system, messages) = turns(&read.messages)?;
    if messages.is_empty() {
        let message = "Anthropic answers a user's message: there is none with a content";
        return Err(BadRequest::unsupported("messages", message));
    }
    let functions = read.functions();
    let tools = functions.map(|function| ToolWritten {
        name: &function.name,
        description: function.description.as_deref(),
        input_schema: given(function.parameters).map_or_else(object_schema, typed),
        cache_control: function.cache_control.as_ref(),
    });
    let tool_choice = tool_choice(&read)?;
    let (thinking, effort) = match given(read.thinking) {
        Some(own) => (serde_json::from_str(&within(own.get(), request, output_cap)?).ok(), None),
        None => reasoning(&read, model, output_cap, forces(tool_choice.as_ref())),
    };
    if thinking.as_ref().is_some_and(|thinking| thinking["type"] != "disabled") {
        refuse_sampling(&read)?;
    }
    let format = format(&read)?;
    let output_config =
        (format.is_some() || effort.is_some()).then_some(OutputConfig { format, effort });
    let body = Body {
        model,
        max_tokens: output_cap,
        system,
        messages,
        tools: tools.collect(),
        tool_choice,
        stop_sequences: read.stops(),
        temperature: given(read.temperature),
        top_p: given(read.top_p),
        top_k: given(read.top_k),
        metadata: read
            .user
            .as_deref()
            .filter(|user| !is_address(user))
            .map(|user| json!({ "user_id": user })),
        thinking,
        output_config,
        service_tier: None,
        stream: request.stream,
    };
    Ok(serde_json::to_vec(&body)?.into())
}

/// The client's own body, but for the model's name, the cap, the stream, and what Anthropic does not
/// take: ids of calls, and thinking that it has not signed.
fn verbatim(
    own: &[u8],
    request: &ChatRequest,
    model: &str,
    output_cap: u64,
) -> Result<Bytes, BadRequest> {
    let text =
        std::str::from_utf8(own).map_err(|_| BadRequest::body("the request body is not UTF-8"))?;
    let mut out = format!(
        "{{\"model\":{},\"max_tokens\":{output_cap},\"stream\":{}",
        serde_json::to_string(model)?,
        request.stream,
    );
    let mut messages = None;
    json::members::<BadRequest>(text.trim(), |key, member| {
        if key == "messages" {
            messages = Some(signed(member.raw)?);
        }
        Ok(())
    })?;
    let unthought = messages.as_ref().is_some_and(|messages| messages.answers_unthought);
    json::members::<BadRequest>(text.trim(), |key, member| {
        let kept = !(unthought && needs_thinking(key, member.raw)?);
        if kept && !matches!(key, "model" | "max_tokens" | "stream") {
            out.push(',');
            out.push_str(&serde_json::to_string(key)?);
            out.push(':');
            out.push_str(&match key {
                "messages" => Told::in_messages(
                    messages.as_ref().map_or(member.raw, |messages| &*messages.messages),
                ),
                "thinking" => within(member.raw, request, output_cap)?,
                _ => Cow::Borrowed(member.raw),
            });
        }
        Ok(())
    })?;
    out.push('}');
    Ok(out.into())
}

/// Whether a member is refused where calls are answered whose thinking was left out: a budget of
/// thinking, and an edit of what was thought.
fn needs_thinking(key: &str, raw: &str) -> Result<bool, BadRequest> {
    let mut budgeted = false;
    match key {
        "thinking" if raw.starts_with('{') => {
            json::members::<BadRequest>(raw, |key, _| {
                budgeted |= key == "budget_tokens";
                Ok(())
            })?;
            Ok(budgeted)
        }
        "context_management" => Ok(raw.contains("\"clear_thinking_")),
        _ => Ok(false),
    }
}

/// A caller's own `thinking` under a cap that a budget has lowered: its tokens are below that as they
/// were below the caller's, or it is refused there.
fn within<'a>(
    thinking: &'a str,
    request: &ChatRequest,
    output_cap: u64,
) -> Result<Cow<'a, str>, BadRequest> {
    let mut budget = None;
    if output_cap < request.output_cap && thinking.starts_with('{') {
        json::members::<BadRequest>(thinking, |key, member| {
            let tokens = member.raw.parse::<u64>().ok().filter(|tokens| *tokens >= output_cap);
            if let ("budget_tokens", Some(_)) = (key, tokens) {
                budget = Some(member.value);
            }
            Ok(())
        })?;
    }
    let Some(Span { start, end }) = budget else { return Ok(Cow::Borrowed(thinking)) };
    if output_cap <= THINKING_MIN {
        let message = "what may still be spent leaves no room for thinking";
        return Err(BadRequest::unsupported("thinking", message));
    }
    let part = |range: Option<&'a str>| range.unwrap_or_default();
    let (before, after) = (part(thinking.get(..start)), part(thinking.get(end..)));
    Ok(Cow::Owned(format!("{before}{}{after}", output_cap - 1)))
}

/// Whether a user is told by an address or a telephone number: Anthropic refuses both, so the hint is
/// let go.
fn is_address(user: &str) -> bool {
    let digits = user.chars().filter(char::is_ascii_digit).count();
    let dials = |char: char| char.is_ascii_digit() || matches!(char, '+' | '-' | '(' | ')' | ' ');
    user.contains('@') || digits >= 7 && user.chars().all(dials)
}

fn object_schema() -> Box<RawValue> {
    serde_json::value::to_raw_value(&json!({ "type": "object", "properties": {} }))
        .unwrap_or_else(|_| empty_object())
}

/// A schema with the type that every function's arguments have: OpenAI lets it be left out.
fn typed(schema: &RawValue) -> Box<RawValue> {
    let mut members = 0;
    let mut has_type = false;
    let read = json::members::<BadRequest>(schema.get(), |key, _| {
        members += 1;
        has_type |= key == "type";
        Ok(())
    });
    if read.is_err() || has_type {
        return schema.to_owned();
    }
    let comma = if members == 0 { "" } else { "," };
    let rest = schema.get().trim_start_matches('{');
    let written = format!("{{\"type\":\"object\"{comma}{rest}");
    RawValue::from_string(written).unwrap_or_else(|_| schema.to_owned())
}

/// The system's blocks and the turns.
fn turns(messages: &[Message<'_>]) -> Result<(Vec<Value>, Vec<Turn>), BadRequest> {
    let mut system = Vec::new();
    let mut turns: Vec<Turn> = Vec::new();
    let mut told = Told::default();
    let mut empty_at_end = false;
    for message in messages {
        let (role, content) = match message.role.as_ref() {
            "system" | "developer" => {
                system.extend(blocks(message)?);
                continue;
            }
            "assistant" => ("assistant", answered(message, &mut told)?),
            "tool" => ("user", vec![result(message, &mut told)?]),
            _ => ("user", blocks(message)?.into_iter().map(Block::Plain).collect()),
        };
        if content.is_empty() {
            // Without what its user says last it would go on with what it said itself.
            empty_at_end = role == "user";
            continue;
        }
        empty_at_end = false;
        match turns.last_mut() {
            Some(last) if last.role == role => last.content.extend(content),
            _ => turns.push(Turn { role, content }),
        }
    }
    if empty_at_end && turns.last().is_some_and(|last| last.role == "assistant") {
        let message = "Anthropic answers a user's message: the last one has no content";
        return Err(BadRequest::unsupported("messages", message));
    }
    Ok((system, turns))
}

fn answered(message: &Message<'_>, told: &mut Told) -> Result<Vec<Block>, BadRequest> {
    let thinking = message.thinking_blocks.iter().flatten();
    let mut content: Vec<Block> = thinking.map(|raw| Block::Raw((*raw).to_owned())).collect();
    content.extend(blocks(message)?.into_iter().map(Block::Plain));
    for (id, called) in message.calls() {
        content.push(Block::Use {
            kind: "tool_use",
            id: told.call(id).into_owned(),
            name: called.name.to_string(),
            input: called.arguments(),
        });
    }
    Ok(content)
}

fn result(message: &Message<'_>, told: &mut Told) -> Result<Block, BadRequest> {
    let content = blocks(message)?;
    let id = told.result(message.tool_call_id.as_deref().unwrap_or_default());
    let mut result = json!({ "type": "tool_result", "tool_use_id": id, "content": content });
    if let Some(mark) = &message.cache_control {
        result["cache_control"] = mark.clone();
    }
    Ok(Block::Plain(result))
}

/// A message's blocks. Texts of white space alone, which models write before a call, are refused there
/// and left out.
fn blocks(message: &Message<'_>) -> Result<Vec<Value>, BadRequest> {
    let is_blank = |placed: &Result<Placed<'_>, _>| matches!(placed, Ok(Placed { piece: Piece::Text(text), .. }) if text.trim().is_empty());
    let placed = message.pieces().filter(|placed| !is_blank(placed));
    let block = |placed: Result<Placed<'_>, _>| {
        let Placed { piece, mark } = placed?;
        let mut block = match piece {
            Piece::Text(text) => json!({ "type": "text", "text": text }),
            Piece::Inline { media, data } => json!({
                "type": "image",
                "source": { "type": "base64", "media_type": media, "data": data },
            }),
            Piece::Address(url) => {
                json!({ "type": "image", "source": { "type": "url", "url": url } })
            }
        };
        if let Some(mark) = mark {
            block["cache_control"] = mark.clone();
        }
        Ok(block)
    };
    placed.map(block).collect()
}

fn tool_choice(read: &Conversation<'_>) -> Result<Option<Value>, BadRequest> {
    // Without a tool to choose it is refused there.
    if read.functions().next().is_none() {
        return Ok(None);
    }
    let choice = read.choice()?;
    let one = read.parallel_tool_calls == Some(false);
    let mut written = match choice {
        None if one => json!({ "type": "auto" }),
        None => return Ok(None),
        Some(Choice::Auto) => json!({ "type": "auto" }),
        Some(Choice::None) => return Ok(Some(json!({ "type": "none" }))),
        Some(Choice::Required) => json!({ "type": "any" }),
        Some(Choice::Named(name)) => json!({ "type": "tool", "name": name }),
    };
    if one {
        written["disable_parallel_tool_use"] = json!(true);
    }
    Ok(Some(written))
}

fn format<'a>(read: &Conversation<'a>) -> Result<Option<Format<'a>>, BadRequest> {
    let Some(format) = &read.response_format else { return Ok(None) };
    match (format.kind.as_ref(), &format.json_schema) {
        ("text", _) => Ok(None),
        ("json_schema", Some(schema)) if schema.schema.is_some() => {
            Ok(schema.schema.map(|schema| Format { kind: "json_schema", schema }))
        }
        ("json_schema", _) => Err(BadRequest::unsupported(
            "response_format",
            "Anthropic needs the schema that `response_format.json_schema` names",
        )),
        (kind, _) => Err(BadRequest::unsupported(
            "response_format",
            format!("Anthropic has no answer format `{kind}`: give a `json_schema`"),
        )),
    }
}

/// Smallest thinking budget that Anthropic takes, in tokens.
const THINKING_MIN: u64 = 1024;

/// Whether a tool must be called, which goes together with no thinking there.
fn forces(choice: Option<&Value>) -> bool {
    choice.is_some_and(|choice| choice["type"] == "any" || choice["type"] == "tool")
}

/// Thinking takes no other temperature than 1, and no `top_k`.
fn refuse_sampling(read: &Conversation<'_>) -> Result<(), BadRequest> {
    let warm = |raw: &&RawValue| raw.get().parse() != Ok(1.0);
    for (name, field) in
        [("temperature", given(read.temperature).filter(warm)), ("top_k", given(read.top_k))]
    {
        if field.is_some() {
            let message = format!("`{name}` and thinking do not go together with Anthropic");
            return Err(BadRequest::unsupported(name, message));
        }
    }
    Ok(())
}

/// How hard to think: `reasoning_effort` as an effort where the
/// model knows one and as a budget of tokens below the cap where it does not. Where a tool is `forced`
/// the effort alone is said; while calls are answered whose thinking is not there, no budget.
fn reasoning<'a>(
    read: &'a Conversation<'_>,
    model: &str,
    output_cap: u64,
    forced: bool,
) -> (Option<Value>, Option<&'a str>) {
    let effort = match read.reasoning_effort.as_deref() {
        None | Some("none" | "minimal") => return (None, None),
        Some(effort) => effort,
    };
    if knows_effort(model) {
        return ((!forced).then(|| json!({ "type": "adaptive" })), Some(effort));
    }
    if forced || answers_calls_unthought(&read.messages) {
        return (None, None);
    }
    let budget = match effort {
        "low" => THINKING_MIN,
        "medium" => 2 * THINKING_MIN,
        _ => 4 * THINKING_MIN,
    };
    let budget = budget.min(output_cap.saturating_sub(1));
    let thinks = budget >= THINKING_MIN;
    (thinks.then(|| json!({ "type": "enabled", "budget_tokens": budget })), None)
}

/// Whether results are given to calls whose thinking did not come back with them: Anthropic then takes no
/// budget, and OpenAI's clients do not send it.
fn answers_calls_unthought(messages: &[Message<'_>]) -> bool {
    let last = messages.iter().rfind(|message| message.role == "assistant");
    let unthought =
        |message: &Message<'_>| message.thinking_blocks.iter().flatten().next().is_none();
    last.is_some_and(|message| message.calls().next().is_some() && unthought(message))
}

/// Models before 4.6 take a budget, later ones an effort.
fn knows_effort(model: &str) -> bool {
    let old = ["claude-2", "claude-3", "claude-opus-4-0", "claude-opus-4-1", "claude-opus-4-2025"];
    let older =
        ["claude-sonnet-4-0", "claude-sonnet-4-2025", "claude-opus-4-5", "claude-sonnet-4-5"];
    let last = ["claude-haiku-4-5", "claude-v1"];
    !old.iter().chain(&older).chain(&last).any(|start| model.starts_with(start))
}
