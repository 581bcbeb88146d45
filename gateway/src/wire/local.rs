//! What a chat request asks of the model in this process.
//!
//! **Invariant:** nothing that would change the answer is ignored. What the engine cannot do is
//! refused by its name.

mod raw;
mod rules;
mod sampling;
mod tools;

use super::{
    BadRequest, ChatRequest, check,
    fields::Field,
    json::{self, Kind},
    messages::{self, RawMessage, Speaker},
};
use local_engine::{Message, Role, Rule, Sampling, TEMPLATE_WORDS, Tools};
use std::borrow::Cow;

/// Longest stop string in bytes: the engine holds back that much text.
const STOP_BYTES_MAX: usize = 1024;

pub use raw::{LocalCompletion, LocalEmbedding, local_completion, local_embedding};
pub use sampling::with_defaults as local_sampling;

/// A chat request in the engine's words.
#[derive(Clone, PartialEq)]
pub struct LocalAsk {
    /// The conversation.
    pub messages: Vec<Message>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Whether the model may not end its turn by itself.
    pub ignore_end: bool,
    /// Texts that end the answer, each non-empty.
    pub stop: Vec<String>,
    /// How many alternatives are wanted for each token, where log probabilities are.
    pub logprobs: Option<u32>,
    /// Choices, at least 1.
    pub choices: u32,
    /// Whether the answer goes on with the last message.
    pub continued: bool,
    /// Functions that may be called.
    pub tools: Option<Tools>,
    /// Whether they were asked for as `functions`, and a call is to be told so.
    pub legacy_functions: bool,
    /// What the answer must match, and the parameter that says so.
    pub rule: Option<(&'static str, Rule)>,
    /// What is said to a template that reads it, by the field's name.
    pub words: Vec<(&'static str, String)>,
}

/// Fields the engine cannot serve, each with the values that ask for nothing: an empty or zero
/// setting, a switch that stands where it stands anyway.
type Unserved = [(Field, &'static [&'static str])];

const OFF: &[&str] = &["false", "0", "0.0", "[]", "{}", "\"\""];
const ON: &[&str] = &["true"];
/// No value but null.
const NONE: &[&str] = &[];

/// Of conversations and of texts to continue.
const UNSERVED: &Unserved = &[
    (Field::AllowedTokenIds, NONE),
    (Field::Audio, OFF),
    (Field::BadWords, OFF),
    (Field::CachePrompt, ON),
    (Field::Documents, OFF),
    (Field::DynatempRange, OFF),
    (Field::GrammarLazy, OFF),
    (Field::GuidedGrammar, OFF),
    (Field::GuidedWhitespacePattern, NONE),
    (Field::IncludeStopStrInOutput, OFF),
    (Field::LogitsProcessors, OFF),
    (Field::Lora, OFF),
    (Field::MinKeep, OFF),
    (Field::MinTokens, OFF),
    (Field::Mirostat, OFF),
    (Field::NIndent, OFF),
    (Field::NProbs, OFF),
    (Field::PostSamplingProbs, OFF),
    (Field::Prediction, OFF),
    (Field::PromptEmbeds, OFF),
    (Field::PromptLogprobs, &["false"]),
    (Field::ReturnTokenIds, OFF),
    (Field::ReturnTokens, OFF),
    (Field::ReturnTokensAsTokenIds, OFF),
    (Field::Samplers, OFF),
    (Field::SkipSpecialTokens, ON),
    (Field::StopTokenIds, OFF),
    (Field::StructuredOutputs, OFF),
    (Field::Suffix, OFF),
    (Field::TMaxPredictMs, &["0", "-1"]),
    (Field::TfsZ, &["1", "1.0"]),
    (Field::TopNSigma, &["0", "0.0", "-1", "-1.0"]),
    (Field::TruncatePromptTokens, NONE),
    (Field::UseBeamSearch, OFF),
    (Field::VllmXargs, OFF),
    (Field::WebSearchOptions, OFF),
    (Field::XtcProbability, OFF),
];
/// Of conversations: their template has written the marks that there are.
const UNSERVED_CHAT: &Unserved = &[(Field::AddSpecialTokens, OFF), (Field::ParseToolCalls, ON)];
/// Of texts to continue, which get the mark of a beginning where the model has one.
const UNSERVED_TEXTS: &Unserved = &[
    (Field::AddSpecialTokens, ON),
    // Only a template could read them.
    (Field::ReasoningEffort, NONE),
    (Field::Verbosity, NONE),
];
/// Of texts to embed: vectors have length 1, in numbers of 32 bits, the lowest byte first.
const UNSERVED_VECTORS: &Unserved = &[
    (Field::AddSpecialTokens, ON),
    (Field::EmbdNormalize, &["2"]),
    (Field::EmbedDtype, &["\"float32\""]),
    (Field::Endianness, &["\"native\"", "\"little\""]),
    (Field::Normalize, ON),
    (Field::TruncatePromptTokens, NONE),
    (Field::UseActivation, ON),
];

/// Turns `request` into the engine's words.
///
/// # Errors
/// [`BadRequest`] naming the parameter that the engine cannot serve.
pub fn local_ask(request: &ChatRequest) -> Result<LocalAsk, BadRequest> {
    refuse_fields(request)?;
    refuse_unserved(request, UNSERVED_CHAT)?;
    if request.given(Field::Echo).is_some_and(|raw| raw != "false") {
        return Err(cannot("echo", "`echo` of a conversation"));
    }
    let (rule, tools) = (rules::read(request)?, tools::read(request)?);
    let messages = conversation(request)?;
    let continued = continued(request, &messages)?;
    if !continued && request.given(Field::AddGenerationPrompt).is_some_and(|raw| raw != "true") {
        return Err(cannot("add_generation_prompt", "a prompt without an answer's beginning"));
    }
    refuse_combinations(request, rule.as_ref(), tools.is_some(), continued)?;
    Ok(LocalAsk {
        messages,
        continued,
        legacy_functions: tools.as_ref().is_some_and(|(_, legacy)| *legacy),
        tools: tools.map(|(tools, _)| tools),
        sampling: sampling::read(request)?,
        ignore_end: ignore_end(request)?,
        stop: stop(request)?,
        logprobs: logprobs(request)?,
        choices: request.choices,
        rule,
        words: words(request)?,
    })
}

/// What is said to the template.
fn words(request: &ChatRequest) -> Result<Vec<(&'static str, String)>, BadRequest> {
    let given = |name: &'static str| {
        let raw = Field::find(name).and_then(|field| request.given(field));
        raw.map(|raw| check::string(name, raw).map(|said| (name, said.into_owned())))
    };
    TEMPLATE_WORDS.into_iter().filter_map(given).collect()
}

/// Refuses the fields that the engine cannot serve of whatever it writes.
fn refuse_fields(request: &ChatRequest) -> Result<(), BadRequest> {
    if request.given(Field::ChatTemplateKwargs).is_some_and(|raw| !is_empty_object(raw)) {
        return Err(cannot("chat_template_kwargs", "`chat_template_kwargs`"));
    }
    refuse_unserved(request, UNSERVED)
}

fn refuse_unserved(request: &ChatRequest, unserved: &Unserved) -> Result<(), BadRequest> {
    let asks = |(field, nothing): &&(Field, &[&str])| {
        request.given(*field).is_some_and(|raw| !nothing.contains(&raw))
    };
    match unserved.iter().find(asks) {
        Some((field, _)) => Err(cannot(field.name(), &format!("`{}`", field.name()))),
        None => Ok(()),
    }
}

/// What each is served alone and not together.
fn refuse_combinations(
    request: &ChatRequest,
    rule: Option<&(&'static str, Rule)>,
    tools: bool,
    continued: bool,
) -> Result<(), BadRequest> {
    let both = |param: &str, other: &str| {
        let message = format!("the local model does not serve `{param}` together with {other}");
        Err(BadRequest::unsupported(param, message))
    };
    if let Some((param, _)) = rule {
        if tools {
            return both(param, "tools: both say what the answer must be");
        }
        if continued {
            return both(param, "an answer that goes on with the last message");
        }
    }
    if tools && continued {
        return both("tools", "an answer that goes on with the last message");
    }
    if tools && request.needs.logprobs {
        return both("logprobs", "tools: a call has no text of its own");
    }
    Ok(())
}

/// Whether the answer goes on with the last message, the assistant's: as in llama.cpp's own server,
/// unless `continue_final_message` says no.
fn continued(request: &ChatRequest, messages: &[Message]) -> Result<bool, BadRequest> {
    let name = Field::ContinueFinalMessage.name();
    let asked = request.given(Field::ContinueFinalMessage);
    let asked = asked.map(|raw| check::boolean(name, raw)).transpose()?;
    let possible = messages.last().is_some_and(|last| {
        last.role == Role::Assistant && last.tool_calls_json.is_none() && !last.content.is_empty()
    });
    if asked == Some(true) && !possible {
        let message = format!("`{name}` needs a last message of the assistant with text");
        return Err(BadRequest::value(name, message));
    }
    Ok(possible && asked != Some(false))
}

fn cannot(param: &str, what: &str) -> BadRequest {
    BadRequest::unsupported(param, format!("the local model does not serve {what}"))
}

/// How many alternatives are wanted for each token, where log probabilities are.
fn logprobs(request: &ChatRequest) -> Result<Option<u32>, BadRequest> {
    if !request.needs.logprobs {
        return Ok(None);
    }
    let top = request.given(Field::TopLogprobs);
    let top = top.map(|raw| check::integer("top_logprobs", raw, 0, 20)).transpose()?;
    Ok(Some(top.and_then(|top| u32::try_from(top).ok()).unwrap_or(0)))
}

fn ignore_end(request: &ChatRequest) -> Result<bool, BadRequest> {
    request.given(Field::IgnoreEos).map_or(Ok(false), |raw| check::boolean("ignore_eos", raw))
}

fn is_empty_object(raw: &str) -> bool {
    raw.bytes().all(|byte| matches!(byte, b'{' | b'}') || byte.is_ascii_whitespace())
}

fn is_empty_list(raw: &str) -> bool {
    raw.bytes().all(|byte| matches!(byte, b'[' | b']') || byte.is_ascii_whitespace())
}

fn conversation(request: &ChatRequest) -> Result<Vec<Message>, BadRequest> {
    let raw = request.given(Field::Messages).ok_or_else(|| BadRequest::missing("messages"))?;
    let mut conversation = Vec::with_capacity(request.messages as usize);
    json::elements(raw, |index, message| {
        conversation.push(one_message(index, &RawMessage::read(index, message)?)?);
        Ok::<_, BadRequest>(())
    })?;
    // The answer goes on with what the assistant said last: with nothing it begins.
    let is_nothing = |message: &Message| {
        message.role == Role::Assistant
            && message.content.is_empty()
            && message.tool_calls_json.is_none()
    };
    if conversation.len() > 1 && conversation.last().is_some_and(is_nothing) {
        conversation.pop();
    }
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
    let role = match messages::speaker(index, message)? {
        Speaker::System => Role::System,
        Speaker::User => Role::User,
        Speaker::Assistant => Role::Assistant,
        Speaker::Tool | Speaker::Function => Role::Tool,
    };
    // The assistant's words, as a part of its content would be.
    let refusal = text("refusal", message.refusal.filter(|_| role == Role::Assistant))?;
    let content = match refusal {
        Some(refusal) if content.is_empty() => refusal,
        Some(refusal) => format!("{content}\n{refusal}"),
        None => content.into_owned(),
    };
    // Templates ask whether there is a list.
    let calls = message.tool_calls.filter(|calls| !is_empty_list(calls));
    Ok(Message {
        role,
        content,
        name: text("name", message.name)?,
        // A legacy call is the one call of the list that took its place.
        tool_calls_json: match (calls, message.function_call) {
            (Some(calls), _) => Some(calls.to_owned()),
            (None, Some(call)) => {
                Some(format!(r#"[{{"id":"call_0","type":"function","function":{call}}}]"#))
            }
            (None, None) => None,
        },
        tool_call_id: text("tool_call_id", message.tool_call_id)?,
    })
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
        json::elements(raw, |_, stop| add(stop))?;
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
