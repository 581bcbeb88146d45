//! What a chat request asks of the model in this process.
//!
//! **Invariant:** nothing that would change the answer is ignored. What the engine cannot do is
//! refused by its name.

use super::{
    Ask, BadRequest, ChatRequest, check,
    fields::Field,
    json::{self, Kind},
    messages::{self, RawMessage, Speaker},
};
use local_engine::{Message, Role, Sampling};
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Longest stop string in bytes: the engine holds back that much text.
const STOP_BYTES_MAX: usize = 1024;

// What a request that says nothing about sampling gets, as in llama.cpp's own server. OpenAI's plain
// temperature 1 suits models of hundreds of billions of parameters; a small one rambles under it.
const DEFAULT_TEMPERATURE: f32 = 0.8;
const DEFAULT_TOP_P: f32 = 0.95;
const DEFAULT_TOP_K: u32 = 40;
const DEFAULT_MIN_P: f32 = 0.05;

/// A chat request in the engine's words.
#[derive(Clone, PartialEq)]
pub struct LocalAsk {
    /// The conversation.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Texts that end the answer, each non-empty.
    pub stop: Vec<String>,
}

/// Fields the engine cannot serve, whatever they say.
const UNSUPPORTED: [Field; 19] = [
    Field::BadWords,
    Field::ContinueFinalMessage,
    Field::Documents,
    Field::DryMultiplier,
    Field::Echo,
    Field::Grammar,
    Field::GuidedChoice,
    Field::GuidedGrammar,
    Field::GuidedJson,
    Field::GuidedRegex,
    Field::IgnoreEos,
    Field::JsonSchema,
    Field::MinTokens,
    Field::Mirostat,
    Field::StopTokenIds,
    Field::StructuredOutputs,
    Field::Suffix,
    Field::TypicalP,
    Field::XtcProbability,
];

/// Turns `request` into the engine's words.
///
/// # Errors
/// [`BadRequest`] naming the parameter that the engine cannot serve.
pub fn local_ask(request: &ChatRequest) -> Result<LocalAsk, BadRequest> {
    if request.ask != Ask::Chat {
        let message = "the local model serves conversations alone, at /v1/chat/completions";
        return Err(BadRequest::unsupported("model", message));
    }
    refuse_unsupported(request)?;
    Ok(LocalAsk {
        messages: conversation(request)?,
        sampling: sampling(request)?,
        stop: stop(request)?,
    })
}

fn refuse_unsupported(request: &ChatRequest) -> Result<(), BadRequest> {
    let cannot = |param: &str, what: &str| {
        BadRequest::unsupported(param, format!("the local model does not serve {what}"))
    };
    if request.choices > 1 {
        return Err(cannot("n", "more than one choice (`n`)"));
    }
    if request.needs.tools {
        let legacy = request.given(Field::Tools).is_none();
        return Err(cannot(if legacy { "functions" } else { "tools" }, "tools"));
    }
    if request.needs.logprobs {
        return Err(cannot("logprobs", "log probabilities (`logprobs`)"));
    }
    if request.needs.structured {
        return Err(cannot("response_format", "a `response_format` other than text"));
    }
    if request.given(Field::ChatTemplateKwargs).is_some_and(|raw| !is_empty_object(raw)) {
        return Err(cannot("chat_template_kwargs", "`chat_template_kwargs`"));
    }
    // A switch that is off, or an empty or zero setting, asks for nothing.
    let asks = |raw: &str| !matches!(raw, "false" | "0" | "0.0" | "[]" | "{}" | "\"\"");
    match UNSUPPORTED.iter().find(|field| request.given(**field).is_some_and(asks)) {
        Some(field) => Err(cannot(field.name(), &format!("`{}`", field.name()))),
        None => Ok(()),
    }
}

fn is_empty_object(raw: &str) -> bool {
    raw.bytes().all(|byte| matches!(byte, b'{' | b'}') || byte.is_ascii_whitespace())
}

fn conversation(request: &ChatRequest) -> Result<Vec<Message>, BadRequest> {
    let raw = request.given(Field::Messages).ok_or_else(|| BadRequest::missing("messages"))?;
    let mut conversation = Vec::with_capacity(request.messages as usize);
    json::elements(raw, |index, message: Result<RawMessage<'_>, _>| {
        conversation.push(one_message(index, &messages::element(index, message)?)?);
        Ok::<_, BadRequest>(())
    })?;
    Ok(conversation)
}

fn one_message(index: usize, message: &RawMessage<'_>) -> Result<Message, BadRequest> {
    let at = format_args!("messages[{index}]");
    let content = match message.content {
        None => Cow::Borrowed(""),
        Some(raw) => {
            let param = format_args!("{at}.content");
            messages::text_of(param, raw)?.ok_or_else(|| {
                BadRequest::unsupported(param, "the local model does not serve images")
            })?
        }
    };
    let text = |name: &str, raw: Option<&str>| {
        raw.map(|raw| check::string(format_args!("{at}.{name}"), raw).map(Cow::into_owned))
            .transpose()
    };
    Ok(Message {
        role: match messages::speaker(index, message)? {
            Speaker::System => Role::System,
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
            Speaker::Tool | Speaker::Function => Role::Tool,
        },
        content: content.into_owned(),
        name: text("name", message.name)?,
        // A legacy call is the one call of the list that took its place.
        tool_calls_json: match (message.tool_calls, message.function_call) {
            (Some(calls), _) => Some(calls.to_owned()),
            (None, Some(call)) => {
                Some(format!(r#"[{{"id":"call_0","type":"function","function":{call}}}]"#))
            }
            (None, None) => None,
        },
        tool_call_id: text("tool_call_id", message.tool_call_id)?,
    })
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the engine samples in f32; every value is small and has been checked"
)]
fn sampling(request: &ChatRequest) -> Result<Sampling, BadRequest> {
    let number = |field: Field, min: f64, max: f64, default: f32| {
        request.given(field).map_or(Ok(default), |raw| {
            check::number(field.name(), raw, min, max).map(|value| value as f32)
        })
    };
    let seed = request
        .given(Field::Seed)
        .map(|raw| check::integer("seed", raw, i64::MIN, i64::MAX).map(i64::cast_unsigned))
        .transpose()?;
    let penalty = number(Field::RepetitionPenalty, 0.01, 10.0, 1.0)?;
    Ok(Sampling {
        temperature: number(Field::Temperature, 0.0, 2.0, DEFAULT_TEMPERATURE)?,
        // 0 leaves the likeliest token, as the smallest positive nucleus does.
        top_p: number(Field::TopP, 0.0, 1.0, DEFAULT_TOP_P)?.max(f32::EPSILON),
        top_k: top_k(request)?,
        min_p: number(Field::MinP, 0.0, 1.0, DEFAULT_MIN_P)?,
        repeat_penalty: number(Field::RepeatPenalty, 0.01, 10.0, penalty)?,
        presence_penalty: number(Field::PresencePenalty, -2.0, 2.0, 0.0)?,
        frequency_penalty: number(Field::FrequencyPenalty, -2.0, 2.0, 0.0)?,
        logit_bias: logit_bias(request)?,
        seed,
    })
}

/// 0 and -1 switch it off.
fn top_k(request: &ChatRequest) -> Result<Option<u32>, BadRequest> {
    let Some(raw) = request.given(Field::TopK) else { return Ok(Some(DEFAULT_TOP_K)) };
    let k = check::integer("top_k", raw, -1, i64::from(i32::MAX))?;
    Ok(u32::try_from(k).ok().filter(|k| *k > 0))
}

fn logit_bias(request: &ChatRequest) -> Result<Vec<(i32, f32)>, BadRequest> {
    let mut biases = Vec::new();
    let Some(raw) = request.given(Field::LogitBias) else { return Ok(biases) };
    json::members(raw, |key, member| {
        let token = key.parse().map_err(|_| {
            BadRequest::value("logit_bias", "a key of `logit_bias` must be a token id")
        })?;
        let bias = member
            .raw
            .parse::<f32>()
            .map_err(|_| BadRequest::kind(format_args!("logit_bias.{key}"), "a number"))?;
        biases.push((token, bias));
        Ok::<_, BadRequest>(())
    })?;
    Ok(biases)
}

/// The stop strings; an empty one stops nothing.
fn stop(request: &ChatRequest) -> Result<Vec<String>, BadRequest> {
    let mut stops = Vec::new();
    let Some(raw) = request.given(Field::Stop) else { return Ok(stops) };
    let mut add = |raw: &str| {
        let stop = check::string("stop", raw)?;
        if stop.len() > STOP_BYTES_MAX {
            let message = format!("a `stop` string is longer than {STOP_BYTES_MAX} bytes");
            return Err(BadRequest::value("stop", message));
        }
        if !stop.is_empty() {
            stops.push(stop.into_owned());
        }
        Ok(())
    };
    if json::kind(raw) == Kind::String {
        add(raw)?;
    } else {
        json::elements(raw, |_, stop: Result<&RawValue, _>| add(stop?.get()))?;
    }
    Ok(stops)
}

/// Without the conversation: a prompt must not reach a log.
impl std::fmt::Debug for LocalAsk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LocalAsk")
            .field("messages", &self.messages.len())
            .field("sampling", &self.sampling)
            .field("stop", &self.stop.len())
            .finish()
    }
}
