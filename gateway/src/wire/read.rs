//! Reading a chat request: one shallow pass over the client's bytes, every known field checked,
//! every limit known at the end.
//!
//! **Invariant:** no tree of the body is built, and nothing recurses on its depth. A field that is
//! unknown is accepted; a known one is of the right type and in range, or the request is a 400
//! that names it. `null` is "not given".

use super::{
    BadRequest, ChatRequest, Context, Needs, anthropic, check, completions, embeddings,
    fields::{Field, Fields, Place},
    json,
    messages::{self, Conversation},
    priced, responses, tools,
};
use crate::ledger::Endpoint;
use bytes::Bytes;
use http::HeaderMap;
use std::collections::BTreeMap;

/// Longest `model`, in bytes.
const MODEL_BYTES_MAX: usize = 256;
/// Most choices (`n`), as OpenAI has it.
const CHOICES_MAX: i64 = 128;
/// Most stop strings. OpenAI takes 4, other servers more.
const STOPS_MAX: usize = 16;
/// Most entries of `logit_bias`.
const BIASES_MAX: usize = 1024;
/// Most pairs of `metadata`, and their longest key and value in bytes, as OpenAI has them.
const METADATA_MAX: (usize, usize, usize) = (16, 64, 512);
/// Tokens that a template may add per message, and once: role marks, a default system prompt.
pub(super) const TEMPLATE_TOKENS: (u64, u64) = (8, 128);
/// Tokens that a template may add where tools are offered: how to call them.
pub(super) const TOOL_TEMPLATE_TOKENS: u64 = 512;
/// Tokens that one image may take at most: what the dearest published image accounting comes to, 2,833
/// and 5,667 for each of eight tiles (`gpt-4o-mini`). The bytes of an image or its address are not text
/// and are not counted.
pub(super) const IMAGE_TOKENS_MAX: u64 = 48_200;
/// Tokens that one image usually takes.
pub(super) const IMAGE_TOKENS_USUAL: u64 = 1000;

/// Reads the request of an endpoint: checks the client's body and the headers that belong to it, and
/// converts it to the one inner form.
///
/// # Errors
/// [`BadRequest`] naming the parameter, such as `messages[0].content`, or the header.
pub fn read(
    endpoint: Endpoint,
    body: Bytes,
    headers: &HeaderMap,
    context: &Context<'_>,
) -> Result<ChatRequest, BadRequest> {
    let default = context.output_tokens_default;
    match endpoint {
        Endpoint::ChatCompletions => read_chat(body, headers, default),
        Endpoint::Completions => completions::read_completion(body, headers),
        Endpoint::Embeddings => embeddings::read_embedding(body, headers),
        Endpoint::Responses => responses::read_response(body, headers, context),
        Endpoint::Messages => anthropic::read_messages(body, headers, default),
    }
}

/// Refuses what only chat's own format can answer: several choices, which would be generated and
/// paid and not shown, and the older functions, whose calls have no id that a result could name.
pub(super) fn without_chats_own(request: ChatRequest) -> Result<ChatRequest, BadRequest> {
    if request.choices > 1 {
        return Err(BadRequest::unsupported("n", "`n` above 1 is not served here: one answer is"));
    }
    for field in [Field::Functions, Field::FunctionCall] {
        if request.given(field).is_some() {
            let message = format!("`{}` is not served here: use `tools`", field.name());
            return Err(BadRequest::unsupported(field.name(), message));
        }
    }
    Ok(request)
}

/// Reads a chat request: checks the client's body and the headers that belong to it.
///
/// # Errors
/// [`BadRequest`] naming the parameter, such as `messages[0].content`, or the header.
pub fn read_chat(
    body: Bytes,
    headers: &HeaderMap,
    output_tokens_default: u64,
) -> Result<ChatRequest, BadRequest> {
    let read = Read::new(&body)?;
    let model = read.model()?;
    let conversation = match read.given(Field::Messages) {
        Some(raw) => messages::read(raw)?,
        None => return Err(BadRequest::missing("messages")),
    };
    let stream = read.boolean(Field::Stream)?;
    let include_usage = read.include_usage()?;
    let output_cap = read.output_cap()?;
    let choices = read.integer(Field::N, 1, CHOICES_MAX)?.and_then(|n| u32::try_from(n).ok());
    read.sampling()?;
    let needs = Needs {
        tools: tools::read(|field| read.given(field))?,
        images: conversation.images > 0,
        structured: read.structured()?,
        logprobs: read.logprobs()?,
    };
    let metadata = read.metadata()?;
    read.rest()?;
    let service = priced::check(|field| read.given(field))?;
    let prompt_tokens_max = prompt_tokens_max(&conversation, read.extra_bytes, needs.tools);
    let prompt_tokens_estimate = estimate_prompt_tokens(
        conversation.text.ascii.saturating_add(read.extra_bytes),
        conversation.text.other,
        u64::from(conversation.messages),
        u64::from(conversation.images),
    );
    Ok(ChatRequest {
        service,
        images: conversation.images,
        stream,
        include_usage,
        prompt_tokens_max,
        prompt_tokens_estimate,
        output_cap: output_cap.unwrap_or(output_tokens_default),
        output_cap_given: output_cap.is_some(),
        choices: choices.unwrap_or(1),
        needs,
        messages: conversation.messages,
        metadata,
        ..ChatRequest::empty(model, headers)?.with(read.fields, body)
    })
}

/// The pairs of a request's `metadata`, in any format: what policies look at.
pub(super) fn pairs(raw: &str) -> Result<BTreeMap<String, String>, BadRequest> {
    let mut pairs = BTreeMap::new();
    check::object("metadata", raw)?;
    let (pairs_max, key_bytes_max, value_bytes_max) = METADATA_MAX;
    json::members(raw, |key, member| {
        if key.len() > key_bytes_max {
            let message = format!("a key of `metadata` has more than {key_bytes_max} bytes");
            return Err(BadRequest::value("metadata", message));
        }
        if member.raw == "null" {
            return Ok(());
        }
        let param = format_args!("metadata.{key}");
        let value = check::string(param, member.raw)?;
        if value.len() > value_bytes_max || pairs.len() >= pairs_max {
            let message = format!(
                "`metadata` takes {pairs_max} pairs with values of at most {value_bytes_max} bytes"
            );
            return Err(BadRequest::value(param, message));
        }
        match pairs.insert(key.to_owned(), value.into_owned()) {
            None => Ok(()),
            Some(_) => Err(check::twice(param)),
        }
    })?;
    Ok(pairs)
}

/// Tokens that `bytes` of text make, estimated: one per four bytes, rounded up.
#[must_use]
pub const fn estimate_tokens(bytes: u64) -> u64 {
    bytes.div_ceil(4)
}

/// A prompt's tokens, estimated: a token per four ASCII bytes and per three others (one CJK
/// character), four per message and three once for the template, a thousand per image. `ascii`
/// counts the bytes of tools and other JSON that reach the template too.
#[must_use]
pub const fn estimate_prompt_tokens(ascii: u64, other: u64, messages: u64, images: u64) -> u64 {
    ascii.div_ceil(4) + other.div_ceil(3) + 4 * messages + 3 + IMAGE_TOKENS_USUAL * images
}

/// No tokenizer in use makes more tokens than there are bytes: every token stands for at least
/// one. What a template adds is bounded apart.
fn prompt_tokens_max(conversation: &Conversation, extra_bytes: u64, tools: bool) -> u64 {
    let (per_message, once) = TEMPLATE_TOKENS;
    conversation.text.total()
        + conversation.other_bytes
        + extra_bytes
        + per_message * u64::from(conversation.messages)
        + once
        + if tools { TOOL_TEMPLATE_TOKENS } else { 0 }
        + IMAGE_TOKENS_MAX * u64::from(conversation.images)
}

/// Calls `each` with every member of a body, which must be a JSON object that does not nest too deep.
pub(super) fn members<'a>(
    body: &'a [u8],
    each: impl FnMut(&str, json::Member<'a>) -> Result<(), BadRequest>,
) -> Result<&'a str, BadRequest> {
    let text =
        std::str::from_utf8(body).map_err(|_| BadRequest::body("the request body is not UTF-8"))?;
    match text.trim_ascii_start().as_bytes().first() {
        Some(b'{') => {}
        None => return Err(BadRequest::body("the request body is empty")),
        Some(_) => return Err(BadRequest::body("the request body must be a JSON object")),
    }
    let levels = json::DEPTH_MAX;
    let too_deep =
        || BadRequest::body(format!("the request body nests deeper than {levels} levels"));
    json::members_of_body(text, too_deep, each)?;
    Ok(text)
}

/// The body's fields, found and not yet checked.
pub(super) struct Read<'a> {
    text: &'a str,
    pub(super) fields: Fields,
    /// Bytes of fields other than the messages that a template could put into the prompt: tools,
    /// schemas, and everything unknown.
    pub(super) extra_bytes: u64,
}

impl<'a> Read<'a> {
    pub(super) fn new(body: &'a [u8]) -> Result<Self, BadRequest> {
        let mut fields = Fields::new();
        let mut extra_bytes = 0;
        let text = members(body, |key, member| {
            let field = Field::find(key);
            if field.is_none_or(Field::may_reach_prompt) && member.raw != "null" {
                extra_bytes += member.raw.len() as u64;
            }
            let Some(field) = field else {
                let known = check::in_other_case(key, Field::find);
                return known.map_or(Ok(()), |known| Err(check::other_case(known.name())));
            };
            let place = Place { field, value: member.value, gap_start: member.gap_start };
            if fields.insert(place) { Ok(()) } else { Err(check::twice(field.name())) }
        })?;
        Ok(Self { text, fields, extra_bytes })
    }

    /// Refuses messages where a text is continued or embedded: a server that looked at them would see
    /// what nobody here has counted.
    pub(super) fn refuse_messages(&self) -> Result<(), BadRequest> {
        if self.given(Field::Messages).is_none() {
            return Ok(());
        }
        let message = "`messages` are not served here: they belong to /v1/chat/completions";
        Err(BadRequest::unsupported("messages", message))
    }

    /// The value of `field`; `None` where it is absent or null.
    pub(super) fn given(&self, field: Field) -> Option<&'a str> {
        let value = self.fields.get(field)?.value;
        self.text.get(value.start..value.end).filter(|raw| *raw != "null")
    }

    pub(super) fn boolean(&self, field: Field) -> Result<bool, BadRequest> {
        self.given(field).map_or(Ok(false), |raw| check::boolean(field.name(), raw))
    }

    pub(super) fn integer(
        &self,
        field: Field,
        min: i64,
        max: i64,
    ) -> Result<Option<i64>, BadRequest> {
        self.given(field).map(|raw| check::integer(field.name(), raw, min, max)).transpose()
    }

    fn number(&self, field: Field, min: f64, max: f64) -> Result<Option<f64>, BadRequest> {
        self.given(field).map(|raw| check::number(field.name(), raw, min, max)).transpose()
    }

    pub(super) fn model(&self) -> Result<String, BadRequest> {
        let raw = self.given(Field::Model).ok_or_else(|| BadRequest::missing("model"))?;
        let model = check::string("model", raw)?;
        if model.is_empty() || model.len() > MODEL_BYTES_MAX {
            let message = format!("`model` must have 1 to {MODEL_BYTES_MAX} bytes");
            return Err(BadRequest::value("model", message));
        }
        Ok(model.into_owned())
    }

    pub(super) fn include_usage(&self) -> Result<bool, BadRequest> {
        let Some(raw) = self.given(Field::StreamOptions) else { return Ok(false) };
        let [asked] = check::members("stream_options", raw, ["include_usage"])?;
        asked.map_or(Ok(false), |raw| check::boolean("stream_options.include_usage", raw))
    }

    /// The cap that the client asked for, under any of its names.
    pub(super) fn output_cap(&self) -> Result<Option<u64>, BadRequest> {
        let mut found: Option<(&str, i64)> = None;
        for field in Field::CAPS {
            // llama-server's way to ask for none.
            if field == Field::NPredict && self.given(field) == Some("-1") {
                continue;
            }
            let name = field.name();
            let Some(cap) = self.integer(field, 1, i64::from(u32::MAX))? else { continue };
            match found {
                Some((other, known)) if known != cap => {
                    let message = format!("`{other}` and `{name}` are both given and differ");
                    return Err(BadRequest::value(other, message));
                }
                _ => found = Some((name, cap)),
            }
        }
        Ok(found.map(|(_, cap)| cap.unsigned_abs()))
    }

    pub(super) fn sampling(&self) -> Result<(), BadRequest> {
        self.number(Field::Temperature, 0.0, 2.0)?;
        self.number(Field::TopP, 0.0, 1.0)?;
        self.number(Field::PresencePenalty, -2.0, 2.0)?;
        self.number(Field::FrequencyPenalty, -2.0, 2.0)?;
        self.integer(Field::Seed, i64::MIN, i64::MAX)?;
        if let Some(raw) = self.given(Field::Stop) {
            stops(raw)?;
        }
        if let Some(raw) = self.given(Field::LogitBias) {
            logit_bias(raw)?;
        }
        Ok(())
    }

    /// Whether a structured answer is asked for.
    fn structured(&self) -> Result<bool, BadRequest> {
        let Some(raw) = self.given(Field::ResponseFormat) else { return Ok(false) };
        let [kind, schema] = check::members("response_format", raw, ["type", "json_schema"])?;
        let kind = kind.ok_or_else(|| BadRequest::missing("response_format.type"))?;
        match check::string("response_format.type", kind)?.as_ref() {
            "text" => Ok(false),
            "json_object" => Ok(true),
            "json_schema" => {
                let at = "response_format.json_schema";
                let schema = schema.ok_or_else(|| BadRequest::missing(at))?;
                let [name] = check::members(at, schema, ["name"])?;
                let at = "response_format.json_schema.name";
                check::string(at, name.ok_or_else(|| BadRequest::missing(at))?)?;
                Ok(true)
            }
            _ => Err(BadRequest::value(
                "response_format.type",
                "`response_format.type` must be one of text, json_object, json_schema",
            )),
        }
    }

    /// Whether log probabilities are asked for.
    fn logprobs(&self) -> Result<bool, BadRequest> {
        let asked = self.boolean(Field::Logprobs)?;
        if self.integer(Field::TopLogprobs, 0, 20)?.is_some_and(|top| top > 0) && !asked {
            let message = "`top_logprobs` needs `logprobs` to be true";
            return Err(BadRequest::value("top_logprobs", message));
        }
        Ok(asked)
    }

    pub(super) fn metadata(&self) -> Result<BTreeMap<String, String>, BadRequest> {
        self.given(Field::Metadata).map_or_else(|| Ok(BTreeMap::new()), pairs)
    }

    /// Fields that are only checked for their type.
    fn rest(&self) -> Result<(), BadRequest> {
        for field in [Field::ParallelToolCalls, Field::Store] {
            self.boolean(field)?;
        }
        for field in [Field::User, Field::ReasoningEffort, Field::Verbosity] {
            if let Some(raw) = self.given(field) {
                check::string(field.name(), raw)?;
            }
        }
        Ok(())
    }
}

/// Checks `stop`: a string or a list of strings.
fn stops(raw: &str) -> Result<(), BadRequest> {
    if json::kind(raw) == json::Kind::String {
        return check::string("stop", raw).map(|_| ());
    }
    if json::kind(raw) != json::Kind::Array {
        return Err(BadRequest::kind("stop", "a string or a list of strings"));
    }
    json::elements(raw, |index, stop| {
        if index >= STOPS_MAX {
            let message = format!("`stop` must have at most {STOPS_MAX} strings");
            return Err(BadRequest::value("stop", message));
        }
        check::string(format_args!("stop[{index}]"), stop).map(|_| ())
    })
}

/// Checks `logit_bias`: token ids to numbers.
fn logit_bias(raw: &str) -> Result<(), BadRequest> {
    check::object("logit_bias", raw)?;
    let mut entries = 0;
    json::members(raw, |key, member| {
        entries += 1;
        if entries > BIASES_MAX {
            let message = format!("`logit_bias` must have at most {BIASES_MAX} entries");
            return Err(BadRequest::value("logit_bias", message));
        }
        if key.parse::<u32>().is_err() {
            return Err(BadRequest::value(
                "logit_bias",
                "a key of `logit_bias` must be a token id",
            ));
        }
        check::number(format_args!("logit_bias.{key}"), member.raw, -100.0, 100.0).map(|_| ())
    })
}
