//! The inner chat request taken apart for a provider that speaks another format.
//!
//! **Invariants:** what changes the meaning of an answer and has no counterpart is refused by name,
//! so that another route can serve it; hints (`seed`, `user`, `store`) are let go. JSON that callers
//! wrote (schemas, arguments) stays as they wrote it, to the byte.

use crate::wire::{Allowed, BadRequest, Field, json};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// Fields of other servers that change what is answered, each with the values that ask for nothing.
const EXTENSIONS: &[(Field, &[&str])] = &[
    (Field::AllowedTokenIds, &["null"]),
    (Field::BadWords, &["null", "[]"]),
    (Field::Documents, &["null", "[]"]),
    (Field::DryMultiplier, ZERO),
    (Field::Grammar, EMPTY),
    (Field::GuidedChoice, &["null", "[]"]),
    (Field::GuidedGrammar, EMPTY),
    (Field::GuidedJson, EMPTY),
    (Field::GuidedRegex, EMPTY),
    (Field::IgnoreEos, &["null", "false"]),
    (Field::JsonSchema, EMPTY),
    (Field::MinP, ZERO),
    (Field::MinTokens, ZERO),
    (Field::Mirostat, ZERO),
    (Field::RepeatPenalty, ONE),
    (Field::RepetitionPenalty, ONE),
    (Field::StopTokenIds, &["null", "[]"]),
    (Field::StructuredOutputs, EMPTY),
    (Field::TypicalP, ONE),
    (Field::XtcProbability, ZERO),
];
const EMPTY: &[&str] = &["null", "\"\"", "{}"];
const ZERO: &[&str] = &["null", "0", "0.0"];
const ONE: &[&str] = &["null", "1", "1.0"];

/// A chat request's fields as far as other formats have a place for them.
#[derive(Deserialize)]
pub(super) struct Conversation<'a> {
    #[serde(borrow)]
    pub(super) messages: Vec<Message<'a>>,
    #[serde(borrow, default)]
    pub(super) tools: Option<Vec<Tool<'a>>>,
    #[serde(borrow, default)]
    pub(super) tool_choice: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) parallel_tool_calls: Option<bool>,
    #[serde(borrow, default)]
    pub(super) response_format: Option<ResponseFormat<'a>>,
    #[serde(borrow, default)]
    pub(super) stop: Option<OneOrMany<'a>>,
    #[serde(borrow, default)]
    pub(super) temperature: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) top_p: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) top_k: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) seed: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) user: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) reasoning_effort: Option<Cow<'a, str>>,
    /// Anthropic's own field, as LiteLLM's users send it.
    #[serde(borrow, default)]
    pub(super) thinking: Option<&'a RawValue>,
    #[serde(default)]
    pub(super) frequency_penalty: Option<f64>,
    #[serde(default)]
    pub(super) presence_penalty: Option<f64>,
    #[serde(default)]
    pub(super) logprobs: Option<bool>,
    #[serde(borrow, default)]
    pub(super) logit_bias: Option<&'a RawValue>,
    #[serde(borrow, default)]
    functions: Option<&'a RawValue>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
}

/// One message.
#[derive(Deserialize)]
pub(super) struct Message<'a> {
    #[serde(borrow)]
    pub(super) role: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) content: Option<Content<'a>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Call<'a>>>,
    #[serde(borrow, default)]
    function_call: Option<&'a RawValue>,
    #[serde(borrow, default)]
    pub(super) tool_call_id: Option<Cow<'a, str>>,
    /// What an assistant said instead of a content, or beside it. Of others it says nothing.
    #[serde(borrow, default)]
    refusal: Option<&'a RawValue>,
    /// Anthropic's mark of where a cached prefix ends, beside a content that is text.
    #[serde(default)]
    pub(super) cache_control: Option<serde_json::Value>,
    /// Signed reasoning of an earlier answer, as LiteLLM's users send it back.
    #[serde(borrow, default)]
    pub(super) thinking_blocks: Option<Vec<&'a RawValue>>,
}

/// A message's content.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Content<'a> {
    /// As text.
    Text(#[serde(borrow)] Cow<'a, str>),
    /// In parts.
    Parts(Vec<Part>),
}

/// One part of a content.
#[derive(Deserialize)]
pub(super) struct Part {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    text: Option<String>,
    #[serde(default)]
    refusal: Option<String>,
    #[serde(default)]
    image_url: Option<ImageUrl>,
    /// Anthropic's mark of where a cached prefix ends.
    #[serde(default)]
    cache_control: Option<serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum ImageUrl {
    Plain(String),
    Object { url: String },
}

/// What a part comes to.
pub(super) enum Piece<'p> {
    /// Text.
    Text(Cow<'p, str>),
    /// An image's own bytes.
    Inline {
        /// Its media type.
        media: &'p str,
        /// Base64.
        data: &'p str,
    },
    /// An image somewhere else.
    Address(&'p str),
}

/// A piece of a content.
pub(super) struct Placed<'p> {
    pub(super) piece: Piece<'p>,
    /// Anthropic's mark that a cached prefix ends with it.
    pub(super) mark: Option<&'p serde_json::Value>,
}

/// One tool.
#[derive(Deserialize)]
pub(super) struct Tool<'a> {
    #[serde(borrow, default)]
    function: Option<Function<'a>>,
    #[serde(default)]
    cache_control: Option<serde_json::Value>,
}

/// A function that can be called.
#[derive(Deserialize)]
pub(super) struct Function<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) description: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    pub(super) parameters: Option<&'a RawValue>,
    /// Anthropic's mark of where a cached prefix ends; it stands here or one level above.
    #[serde(default)]
    pub(super) cache_control: Option<serde_json::Value>,
}

/// A call that an earlier answer made.
#[derive(Deserialize)]
struct Call<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    #[serde(borrow, default)]
    function: Option<Called<'a>>,
}

/// The function that was called.
#[derive(Deserialize)]
pub(super) struct Called<'a> {
    #[serde(borrow)]
    pub(super) name: Cow<'a, str>,
    #[serde(borrow)]
    arguments: Cow<'a, str>,
}

/// The form of the answer.
#[derive(Deserialize)]
pub(super) struct ResponseFormat<'a> {
    #[serde(rename = "type", borrow)]
    pub(super) kind: Cow<'a, str>,
    #[serde(borrow, default)]
    pub(super) json_schema: Option<Schema<'a>>,
}

/// A schema with its name.
#[derive(Deserialize)]
pub(super) struct Schema<'a> {
    #[serde(borrow, default)]
    pub(super) schema: Option<&'a RawValue>,
}

/// A string or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum OneOrMany<'a> {
    /// One.
    One(#[serde(borrow)] Cow<'a, str>),
    /// Several.
    Many(Vec<String>),
}

/// Which tools may or must be called.
pub(super) enum Choice {
    Auto,
    None,
    Required,
    Named(String),
}

impl<'a> Conversation<'a> {
    /// Takes the inner body of a chat request apart.
    ///
    /// # Errors
    /// [`BadRequest`] naming what has no counterpart anywhere but with OpenAI: the older functions, and
    /// tools that are no functions.
    pub(super) fn of(body: &'a [u8]) -> Result<Self, BadRequest> {
        let mut read: Self = serde_json::from_slice(body)?;
        for tool in read.tools.iter_mut().flatten() {
            if let Some(function) = &mut tool.function {
                function.cache_control =
                    function.cache_control.take().or(tool.cache_control.take());
            }
        }
        for (name, given) in [("functions", read.functions), ("function_call", read.function_call)]
        {
            if given.is_some_and(|raw| raw.get() != "null") {
                let message =
                    format!("`{name}` is served by routes in OpenAI's format alone: use `tools`");
                return Err(BadRequest::unsupported(name, message));
            }
        }
        read.leave_allowed()?;
        read.refuse_other_tools()?;
        refuse_extensions(body)?;
        Ok(read)
    }

    /// Leaves out the functions that may not be called: other formats have no place for some of several.
    fn leave_allowed(&mut self) -> Result<(), BadRequest> {
        let allowed = self.tool_choice.map_or(Ok(None), |raw| Allowed::of(raw.get()))?;
        let (Some(allowed), Some(tools)) = (allowed, &mut self.tools) else { return Ok(()) };
        allowed.keep(tools, |tool| tool.function.as_ref().map(|function| function.name.as_ref()))
    }

    /// Refuses tools that are no functions, and calls in the formats of OpenAI's alone.
    fn refuse_other_tools(&self) -> Result<(), BadRequest> {
        let tools = self.tools.iter().flatten().enumerate();
        let mut tools = tools.filter(|(_, tool)| tool.function.is_none());
        let mut said = self.messages.iter().enumerate();
        let tool = tools.next().map(|(at, _)| format!("tools[{at}].type"));
        let other = tool.or_else(|| {
            said.find_map(|(at, said)| Some(format!("messages[{at}].{}", said.other_calls()?)))
        });
        let Some(at) = other else { return Ok(()) };
        let message =
            format!("`{at}`: only routes in OpenAI's format serve other tools than functions");
        Err(BadRequest::unsupported(at, message))
    }

    /// `tool_choice` and `tools` together.
    ///
    /// # Errors
    /// [`BadRequest`] for a choice of another form.
    pub(super) fn choice(&self) -> Result<Option<Choice>, BadRequest> {
        #[derive(Deserialize)]
        struct Named {
            function: Name,
        }
        #[derive(Deserialize)]
        struct Name {
            name: String,
        }
        let Some(raw) = self.tool_choice.map(RawValue::get) else { return Ok(None) };
        Ok(match raw {
            "null" => None,
            "\"auto\"" => Some(Choice::Auto),
            "\"none\"" => Some(Choice::None),
            "\"required\"" => Some(Choice::Required),
            other => Some(match Allowed::of(other)? {
                // The others are left out.
                Some(allowed) if allowed.must => Choice::Required,
                Some(_) => Choice::Auto,
                None => {
                    let named: Named = serde_json::from_str(other).map_err(|_| {
                        BadRequest::unsupported("tool_choice", "this choice of tools is not served")
                    })?;
                    Choice::Named(named.function.name)
                }
            }),
        })
    }

    /// The functions offered.
    pub(super) fn functions(&self) -> impl Iterator<Item = &Function<'a>> {
        self.tools.iter().flatten().filter_map(|tool| tool.function.as_ref())
    }

    /// The stop strings.
    pub(super) fn stops(&self) -> Vec<&str> {
        match &self.stop {
            None => Vec::new(),
            Some(OneOrMany::One(one)) => vec![one.as_ref()],
            Some(OneOrMany::Many(many)) => many.iter().map(String::as_str).collect(),
        }
    }

    /// Refuses what a provider has no counterpart for: log probabilities, a bias, penalties.
    ///
    /// # Errors
    /// [`BadRequest`] naming the first.
    pub(super) fn refuse_sampling_extras(&self, provider: &str) -> Result<(), BadRequest> {
        let biased = self.logit_bias.is_some_and(|raw| !matches!(raw.get(), "null" | "{}"));
        let says = |penalty: Option<f64>| penalty.is_some_and(|by| by != 0.0);
        for (name, given) in [
            ("logprobs", self.logprobs == Some(true)),
            ("logit_bias", biased),
            ("frequency_penalty", says(self.frequency_penalty)),
            ("presence_penalty", says(self.presence_penalty)),
        ] {
            if given {
                let message = format!("`{name}` has no counterpart with {provider}");
                return Err(BadRequest::unsupported(name, message));
            }
        }
        Ok(())
    }
}

/// Refuses other servers' fields that change an answer and that no provider of another format knows.
fn refuse_extensions(body: &[u8]) -> Result<(), BadRequest> {
    // It has been read before.
    let text = std::str::from_utf8(body).unwrap_or("{}");
    json::members(text.trim(), |key, member| {
        let known = Field::find(key).and_then(|field| EXTENSIONS.iter().find(|it| it.0 == field));
        match known {
            Some((_, nothing)) if !nothing.contains(&member.raw) => {
                let message = format!("`{key}` is not served by a provider of another format");
                Err(BadRequest::unsupported(key, message))
            }
            _ => Ok(()),
        }
    })
}

impl<'a> Message<'a> {
    /// The functions that an earlier answer called, each with the call's id.
    pub(super) fn calls(&self) -> impl Iterator<Item = (&str, &Called<'a>)> {
        let calls = self.tool_calls.iter().flatten();
        calls.filter_map(|call| Some((call.id.as_ref(), call.function.as_ref()?)))
    }

    /// The pieces of its content, and of an assistant's refusal behind it.
    ///
    /// # Errors
    /// [`BadRequest`] for a kind of part that only OpenAI has.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Result<Placed<'_>, BadRequest>> {
        let mark = match &self.content {
            Some(Content::Text(_)) if self.role != "tool" => self.cache_control.as_ref(),
            _ => None,
        };
        let content = self.content.iter().flat_map(Content::pieces);
        let content = content.map(move |placed| {
            placed.map(|placed| Placed { mark: placed.mark.or(mark), ..placed })
        });
        let refusal = given(self.refusal).filter(|_| self.role == "assistant");
        let refusal = refusal.and_then(|raw| json::text_of(raw.get()));
        let refusal = refusal.filter(|text| !text.is_empty());
        content.chain(refusal.map(|text| Ok(Placed { piece: Piece::Text(text), mark: None })))
    }

    /// The member that holds calls which are none of functions, or are in the older format.
    fn other_calls(&self) -> Option<&'static str> {
        if self.function_call.is_some_and(|raw| raw.get() != "null") {
            return Some("function_call");
        }
        let mut calls = self.tool_calls.iter().flatten();
        calls.any(|call| call.function.is_none()).then_some("tool_calls")
    }
}

impl Content<'_> {
    /// Its pieces in their order, each with its part where it was written as one. Empty texts, which
    /// other formats refuse, are left out.
    ///
    /// # Errors
    /// [`BadRequest`] for a kind of part that only OpenAI has.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Result<Placed<'_>, BadRequest>> {
        let (text, parts) = match self {
            Self::Text(text) => (Some(Piece::Text(Cow::Borrowed(text))), &[][..]),
            Self::Parts(parts) => (None, parts.as_slice()),
        };
        let text = text.into_iter().map(|piece| Ok(Placed { piece, mark: None }));
        let parts = parts
            .iter()
            .map(|part| Ok(Placed { piece: part.piece()?, mark: part.cache_control.as_ref() }));
        let is_empty = |placed: &Result<Placed<'_>, _>| matches!(placed, Ok(Placed { piece: Piece::Text(text), .. }) if text.is_empty());
        text.chain(parts).filter(move |placed| !is_empty(placed))
    }

    /// All text of it, joined.
    pub(super) fn text(&self) -> Cow<'_, str> {
        match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Parts(parts) => {
                let texts = parts.iter().filter_map(|part| match part.piece() {
                    Ok(Piece::Text(text)) => Some(text),
                    _ => None,
                });
                Cow::Owned(texts.collect())
            }
        }
    }
}

impl Part {
    /// What it holds.
    ///
    /// # Errors
    /// [`BadRequest`] for a kind of part that only OpenAI has.
    fn piece(&self) -> Result<Piece<'_>, BadRequest> {
        if let Some(text) = self.text.as_ref().or(self.refusal.as_ref()) {
            return Ok(Piece::Text(Cow::Borrowed(text)));
        }
        match &self.image_url {
            Some(ImageUrl::Plain(url) | ImageUrl::Object { url }) => Ok(inline(url)),
            None => {
                let message = format!("content parts of type `{}` are not served here", self.kind);
                Err(BadRequest::unsupported("messages", message))
            }
        }
    }
}

/// `data:image/png;base64,…`, or an address.
fn inline(url: &str) -> Piece<'_> {
    let data = url.strip_prefix("data:").and_then(|rest| rest.split_once(";base64,"));
    data.map_or(Piece::Address(url), |(media, data)| Piece::Inline { media, data })
}

impl Called<'_> {
    /// The arguments as a JSON object; what is none is the only member of one.
    pub(super) fn arguments(&self) -> Box<RawValue> {
        let text = self.arguments.trim();
        let object = match text.starts_with('{') {
            true => RawValue::from_string(text.to_owned()).ok(),
            false => None,
        };
        let inside = || serde_json::json!({ "arguments": text });
        let other = || serde_json::value::to_raw_value(&inside()).ok().filter(|_| !text.is_empty());
        object.or_else(other).unwrap_or_else(empty_object)
    }
}

/// `{}`
pub(super) fn empty_object() -> Box<RawValue> {
    serde_json::value::to_raw_value(&serde_json::Map::new()).unwrap_or_default()
}

/// The field of an answer is not there or null.
pub(super) fn given(raw: Option<&RawValue>) -> Option<&RawValue> {
    raw.filter(|raw| raw.get() != "null")
}
