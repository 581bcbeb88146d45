//! A response request as the chat request that asks the same.

use super::{Keep, Kept, Marks, ResponsesAsk, items, referred::Referred, tools};
use crate::{
    ledger::{Endpoint, KeyId},
    wire::{
        BadRequest, ChatRequest, check,
        json::{self, Kind},
        name as name_at, named,
        put::Object,
        read::{members, pairs, read_chat, without_chats_own},
    },
};
use bytes::Bytes;
use http::HeaderMap;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

/// Where answers are kept, and for whom.
#[derive(Clone, Debug)]
pub struct Context<'a> {
    /// The store, where the operator keeps answers.
    pub kept: Option<&'a Arc<Kept>>,
    /// Who asks.
    pub owner: &'a KeyId,
    /// The output cap of a request that names none.
    pub output_tokens_default: u64,
}

macro_rules! known {
    ($($field:ident),* $(,)?) => {
        /// The members of a request that are known; null is absent.
        #[derive(Default)]
        struct Given<'a> {
            $($field: Option<&'a str>,)*
            /// Everything else, as it stands.
            others: Vec<(String, &'a str)>,
        }

        impl<'a> Given<'a> {
            fn slot(&mut self, key: &str) -> Option<&mut Option<&'a str>> {
                match key {
                    $(stringify!($field) => Some(&mut self.$field),)*
                    _ => None,
                }
            }
        }
    };
}

known! {
    background, conversation, include, input, instructions, max_output_tokens, max_tool_calls,
    metadata, model, parallel_tool_calls, previous_response_id, prompt, prompt_cache_key, reasoning,
    safety_identifier, service_tier, store, stream, stream_options, temperature, text, tool_choice,
    tools, top_logprobs, top_p, truncation, user,
}

/// Reads a response request.
///
/// # Errors
/// [`BadRequest`] naming the parameter or the header.
pub fn read_response(
    body: Bytes,
    headers: &HeaderMap,
    context: &Context<'_>,
) -> Result<ChatRequest, BadRequest> {
    let given = Given::read(&body)?;
    given.refuse_unserved()?;
    let (before, mut earlier) = given.before(context)?.unwrap_or_default();
    let mut conversation = Vec::from(before);
    let input = given.input.ok_or_else(|| BadRequest::missing("input"))?;
    let mut referred = Referred::new(context);
    items::messages(input, &mut referred, &mut conversation)?;
    earlier.inherit(referred.marks());
    let tools = given.tools.map(tools::read).transpose()?.unwrap_or_default();
    let inner = given.to_chat(&conversation, &tools)?;
    let stores = given.boolean("store", given.store)?.unwrap_or(true);
    let mut keep = context.kept.filter(|_| stores).map(|kept| Keep {
        kept: Arc::clone(kept),
        owner: context.owner.clone(),
        conversation: Bytes::from(conversation),
        input: Bytes::copy_from_slice(input.as_bytes()),
        marks: Marks::default(),
    });
    // The inner request has none of it: OpenAI takes that of a chat only where it is to be stored.
    let metadata = given.metadata.map_or_else(|| Ok(BTreeMap::new()), pairs)?;
    let echo = given.echo(keep.is_some());
    let request = read_chat(Bytes::from(inner), headers, context.output_tokens_default)
        .and_then(without_chats_own)
        .map_err(|bad| named(Endpoint::Responses, bad))?;
    let mut marks = Marks { tags: request.tags.clone(), metadata };
    marks.inherit(earlier);
    let marks = marks.bounded()?;
    if let Some(keep) = &mut keep {
        keep.marks = marks.clone();
    }
    let Marks { tags, metadata } = marks;
    let ask = ResponsesAsk {
        echo,
        service_tier: given.service_tier.unwrap_or("\"default\"").to_owned(),
        custom: tools.custom,
        summary: given.wants_summary()?,
        keep,
    };
    Ok(ChatRequest {
        endpoint: Endpoint::Responses,
        outer_body: Some(body),
        responses: Some(Box::new(ask)),
        tags,
        metadata,
        ..request
    })
}

impl<'a> Given<'a> {
    fn read(body: &'a [u8]) -> Result<Self, BadRequest> {
        let mut given = Self::default();
        let mut seen = HashSet::new();
        members(body, |key, member| {
            if !seen.insert(key.to_owned()) {
                return Err(check::twice(key));
            }
            match given.slot(key) {
                Some(slot) => *slot = (member.raw != "null").then_some(member.raw),
                None => {
                    check::in_other_case(key, |lower| given.slot(lower).map(|_| lower.to_owned()))
                        .map_or(Ok(()), |known| Err(check::other_case(known)))?;
                    given.others.push((key.to_owned(), member.raw));
                }
            }
            Ok(())
        })?;
        Ok(given)
    }

    /// Refuses what needs something that is not here.
    fn refuse_unserved(&self) -> Result<(), BadRequest> {
        for (name, given, why) in [
            (
                "conversation",
                self.conversation,
                "conversations are not kept; use previous_response_id",
            ),
            ("prompt", self.prompt, "stored prompts are not served; send the text"),
        ] {
            if given.is_some() {
                return Err(BadRequest::unsupported(name, format!("`{name}`: {why}")));
            }
        }
        for (name, _) in &self.others {
            if let Cow::Owned(own) = name_at(Endpoint::Responses, name) {
                let message = format!("`{name}` is not served here: it is called `{own}`");
                return Err(BadRequest::unsupported(name, message));
            }
        }
        if self.boolean("background", self.background)? == Some(true) {
            let message = "`background`: an answer is given while the caller waits";
            return Err(BadRequest::unsupported("background", message));
        }
        match self.truncation.map(|raw| check::string("truncation", raw)).transpose()?.as_deref() {
            None | Some("disabled") => Ok(()),
            Some("auto") => {
                let message = "`truncation`: a conversation that is too long is refused, not cut";
                Err(BadRequest::unsupported("truncation", message))
            }
            Some(_) => {
                Err(BadRequest::value("truncation", "`truncation` must be auto or disabled"))
            }
        }
    }

    #[expect(clippy::unused_self, reason = "reads as a question to the request")]
    fn boolean(&self, name: &str, raw: Option<&str>) -> Result<Option<bool>, BadRequest> {
        raw.map(|raw| check::boolean(name, raw)).transpose()
    }

    /// The conversation that is continued, and how it is marked.
    fn before(&self, context: &Context<'_>) -> Result<Option<(Bytes, Marks)>, BadRequest> {
        let Some(raw) = self.previous_response_id else { return Ok(None) };
        const NAME: &str = "previous_response_id";
        let id = check::string(NAME, raw)?;
        let Some(kept) = context.kept else {
            let message = "answers are not kept here ([responses] store = true keeps them); send \
                           the whole conversation as input";
            return Err(BadRequest::unsupported(NAME, message));
        };
        match kept.conversation(&id, context.owner) {
            Some(conversation) => Ok(Some(conversation)),
            None => Err(BadRequest {
                param: Some(NAME.to_owned()),
                message: "no answer of that id is kept".to_owned(),
                code: "previous_response_not_found",
            }),
        }
    }

    /// The chat request that asks the same.
    fn to_chat(&self, conversation: &[u8], tools: &tools::Tools) -> Result<Vec<u8>, BadRequest> {
        let mut out = Vec::with_capacity(conversation.len() + 1024);
        let mut body = Object::begin(&mut out);
        for (name, raw) in &self.others {
            body.raw(name, raw);
        }
        body.maybe("model", self.model);
        let messages = body.member("messages");
        messages.push(b'[');
        if let Some(raw) = self.instructions {
            check::string("instructions", raw)?;
            messages.extend_from_slice(b"{\"role\":\"system\",\"content\":");
            messages.extend_from_slice(raw.as_bytes());
            messages.extend_from_slice(if conversation.is_empty() { b"}" } else { b"}," });
        }
        messages.extend_from_slice(conversation);
        messages.push(b']');
        for (name, raw) in [
            ("max_completion_tokens", self.max_output_tokens),
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("stream", self.stream),
            ("user", self.user),
            ("service_tier", self.service_tier),
            ("prompt_cache_key", self.prompt_cache_key),
            ("safety_identifier", self.safety_identifier),
        ] {
            body.maybe(name, raw);
        }
        self.boolean("parallel_tool_calls", self.parallel_tool_calls)?;
        if let Some(written) = &tools.written {
            body.raw("tools", written);
            // Without tools it says nothing, and providers refuse it then.
            body.maybe("parallel_tool_calls", self.parallel_tool_calls);
        }
        if let Some(raw) = self.tool_choice {
            tools::choice(raw, tools, &mut body)?;
        }
        self.text(&mut body)?;
        self.reasoning(&mut body)?;
        self.logprobs(&mut body)?;
        body.end();
        Ok(out)
    }

    fn text(&self, body: &mut Object<'_>) -> Result<(), BadRequest> {
        let Some(raw) = self.text else { return Ok(()) };
        let [format, verbosity] = check::members("text", raw, ["format", "verbosity"])?;
        body.maybe("verbosity", verbosity);
        let Some(raw) = format else { return Ok(()) };
        let at = "text.format";
        let [kind] = check::members(at, raw, ["type"])?;
        let kind = kind.ok_or_else(|| BadRequest::missing("text.format.type"))?;
        match check::string("text.format.type", kind)?.as_ref() {
            // The members beside the type stand one level deeper in a chat request.
            "json_schema" => {
                let mut format = Object::begin(body.member("response_format"));
                format.text("type", "json_schema");
                let mut schema = Object::begin(format.member("json_schema"));
                json::members::<BadRequest>(raw, |key, member| {
                    if key != "type" {
                        schema.raw(key, member.raw);
                    }
                    Ok(())
                })?;
                schema.end();
                format.end();
            }
            _ => body.raw("response_format", raw),
        }
        Ok(())
    }

    fn reasoning(&self, body: &mut Object<'_>) -> Result<(), BadRequest> {
        let Some(raw) = self.reasoning else { return Ok(()) };
        let [effort] = check::members("reasoning", raw, ["effort"])?;
        body.maybe("reasoning_effort", effort);
        Ok(())
    }

    /// Whether what is thought is to be told as a summary.
    fn wants_summary(&self) -> Result<bool, BadRequest> {
        let Some(raw) = self.reasoning else { return Ok(false) };
        let [summary, older] = check::members("reasoning", raw, ["summary", "generate_summary"])?;
        Ok(summary.or(older).is_some())
    }

    fn logprobs(&self, body: &mut Object<'_>) -> Result<(), BadRequest> {
        let mut wanted = self.top_logprobs.is_some_and(|raw| raw != "0");
        if let Some(raw) = self.include {
            check::array("include", raw)?;
            json::elements(raw, |index, name| {
                let name = check::string(format_args!("include[{index}]"), name)?;
                wanted |= name == "message.output_text.logprobs";
                Ok::<_, BadRequest>(())
            })?;
        }
        if wanted {
            body.raw("logprobs", "true");
            body.maybe("top_logprobs", self.top_logprobs);
        }
        Ok(())
    }

    /// The members of the response object that repeat the request.
    fn echo(&self, stored: bool) -> String {
        let mut out = Vec::with_capacity(512);
        let mut object = Object::begin(&mut out);
        let reasoning = self.reasoning.filter(|raw| json::kind(raw) == Kind::Object);
        let text = self.text.filter(|raw| raw.contains("\"format\""));
        for (name, raw, otherwise) in [
            ("instructions", self.instructions, "null"),
            ("max_output_tokens", self.max_output_tokens, "null"),
            ("max_tool_calls", self.max_tool_calls, "null"),
            ("metadata", self.metadata, "{}"),
            ("parallel_tool_calls", self.parallel_tool_calls, "true"),
            ("previous_response_id", self.previous_response_id, "null"),
            ("prompt_cache_key", self.prompt_cache_key, "null"),
            ("reasoning", reasoning, r#"{"effort":null,"summary":null}"#),
            ("safety_identifier", self.safety_identifier, "null"),
            ("temperature", self.temperature, "null"),
            ("text", text, r#"{"format":{"type":"text"}}"#),
            ("tool_choice", self.tool_choice, "\"auto\""),
            ("tools", self.tools, "[]"),
            ("top_logprobs", self.top_logprobs, "0"),
            ("top_p", self.top_p, "null"),
            ("truncation", self.truncation, "\"disabled\""),
            ("user", self.user, "null"),
        ] {
            object.raw(name, raw.unwrap_or(otherwise));
        }
        object.raw("background", "false");
        object.raw("store", if stored { "true" } else { "false" });
        object.end();
        let written = String::from_utf8_lossy(&out);
        written.get(1..written.len().saturating_sub(1)).unwrap_or_default().to_owned()
    }
}
