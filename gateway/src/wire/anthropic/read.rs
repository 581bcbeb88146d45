//! A message request as the chat request that asks the same.

use super::{content, tools};
use crate::{
    ledger::Endpoint,
    wire::{
        BadRequest, ChatRequest, check,
        json::{self, Kind, TextBytes},
        named,
        put::Object,
        read::{estimate_tokens, members, pairs, read_chat, without_chats_own},
    },
};
use bytes::Bytes;
use http::HeaderMap;
use std::collections::{BTreeMap, HashSet};

/// What Anthropic's clients look for before they send a conversation whole.
pub(super) const THREAD_UNSUPPORTED: &str = "thread_unsupported_request";
/// The members that only this format has: a chat's own are looked at when it is read.
const OWN: [&str; 10] = [
    "system",
    "stop_sequences",
    "thinking",
    "output_config",
    "output_format",
    "cache_control",
    "context_management",
    "container",
    "mcp_servers",
    "thread",
];

/// The members of a request that are not taken over as they stand; null is absent.
#[derive(Default)]
struct Given<'a> {
    max_tokens: Option<&'a str>,
    messages: Option<&'a str>,
    system: Option<&'a str>,
    temperature: Option<&'a str>,
    stop_sequences: Option<&'a str>,
    tools: Option<&'a str>,
    tool_choice: Option<&'a str>,
    thinking: Option<&'a str>,
    metadata: Option<&'a str>,
    service_tier: Option<&'a str>,
    output_config: Option<&'a str>,
    output_format: Option<&'a str>,
    /// Everything else, as it stands.
    others: Vec<(String, &'a str)>,
}

/// Reads a message request.
///
/// # Errors
/// [`BadRequest`] naming the parameter or the header.
pub fn read_messages(
    body: Bytes,
    headers: &HeaderMap,
    output_tokens_default: u64,
) -> Result<ChatRequest, BadRequest> {
    let given = Given::read(&body)?;
    if given.max_tokens.is_none() {
        return Err(BadRequest::missing("max_tokens"));
    }
    let (inner, metadata) = (Bytes::from(given.to_chat()?), given.pairs()?);
    let (own, effort_is_hint) = (given.own_tools()?, given.hints_effort()?);
    let request = read_chat(inner, headers, output_tokens_default).and_then(without_chats_own);
    let request = request.map_err(|bad| named(Endpoint::Messages, bad))?;
    Ok(ChatRequest { effort_is_hint, ..as_asked(request, body, metadata, own) })
}

/// Reads a request whose tokens are to be counted: a message request that need not say how long an
/// answer may get.
///
/// # Errors
/// [`BadRequest`] naming the parameter or the header.
pub fn read_messages_to_count(body: Bytes, headers: &HeaderMap) -> Result<ChatRequest, BadRequest> {
    let given = Given::read(&body)?;
    let (inner, metadata) = (Bytes::from(given.to_chat()?), given.pairs()?);
    let own = given.own_tools()?;
    let request = read_chat(inner, headers, 1);
    Ok(as_asked(request.map_err(|bad| named(Endpoint::Messages, bad))?, body, metadata, own))
}

/// The inner request with the client's own body beside it. A provider of this format is sent that one
/// and bills all of it, so the prompt is as long as it says, what has no counterpart here (thinking of
/// earlier turns, a document's context) included.
fn as_asked(
    inner: ChatRequest,
    body: Bytes,
    metadata: BTreeMap<String, String>,
    own: tools::Own,
) -> ChatRequest {
    let bytes =
        |json: &[u8]| std::str::from_utf8(json).map_or(0, |it| TextBytes::of_string(it).total());
    let unread = bytes(&body).saturating_sub(bytes(&inner.body));
    ChatRequest {
        endpoint: Endpoint::Messages,
        prompt_tokens_max: inner
            .prompt_tokens_max
            .saturating_add(unread)
            .saturating_add(own.tokens_max),
        prompt_tokens_estimate: inner
            .prompt_tokens_estimate
            .saturating_add(estimate_tokens(unread)),
        outer_body: Some(body),
        own_tool: own.first,
        metadata,
        ..inner
    }
}

/// Edits that clear a long history only make a prompt smaller; one that compacts it is an answer of its
/// own, beside the output cap.
fn clears_alone(raw: &str) -> Result<(), BadRequest> {
    const NAME: &str = "context_management";
    if raw == "null" {
        return Ok(());
    }
    let [edits] = check::members(NAME, raw, ["edits"])?;
    let Some(edits) = edits else { return Ok(()) };
    check::array("context_management.edits", edits)?;
    json::elements(edits, |index, edit| {
        let at = format_args!("{NAME}.edits[{index}]");
        let [kind] = check::members(at, edit, ["type"])?;
        let param = format_args!("{at}.type");
        let kind = check::string(param, kind.ok_or_else(|| BadRequest::missing(param))?)?;
        if kind.starts_with("clear_") {
            return Ok(());
        }
        let message = format!("`{kind}` is not served: it writes more than the output cap allows");
        Err(BadRequest::unsupported(param, message))
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
            let slot = match key {
                "max_tokens" => &mut given.max_tokens,
                "messages" => &mut given.messages,
                "system" => &mut given.system,
                "temperature" => &mut given.temperature,
                "stop_sequences" => &mut given.stop_sequences,
                "tools" => &mut given.tools,
                "tool_choice" => &mut given.tool_choice,
                "thinking" => &mut given.thinking,
                "metadata" => &mut given.metadata,
                "service_tier" => &mut given.service_tier,
                "output_config" => &mut given.output_config,
                "output_format" => &mut given.output_format,
                // It only says what may be cached; the price has a rate for it.
                "cache_control" => return Ok(()),
                "context_management" => return clears_alone(member.raw),
                // What came before is kept where the thread began, and is not here.
                "thread" if member.raw != "null" => {
                    let message =
                        "`thread`: conversations are not kept; send all of it as messages";
                    return Err(BadRequest {
                        param: Some(key.to_owned()),
                        message: message.to_owned(),
                        code: THREAD_UNSUPPORTED,
                    });
                }
                // Read elsewhere as another name of the cap, and before it; the client's own body passes.
                "n_predict" | "max_completion_tokens" if member.raw != "null" => {
                    let message = format!("`{key}` is not served here: it is called `max_tokens`");
                    return Err(BadRequest::unsupported(key, message));
                }
                "container" | "mcp_servers" if member.raw != "null" && member.raw != "[]" => {
                    let message = "what a provider runs itself is not served, since it costs extra";
                    return Err(BadRequest::unsupported(key, format!("`{key}`: {message}")));
                }
                "container" | "mcp_servers" => return Ok(()),
                _ => {
                    let own = |lower: &str| OWN.into_iter().find(|name| *name == lower);
                    if let Some(name) = check::in_other_case(key, own) {
                        return Err(check::other_case(name));
                    }
                    given.others.push((key.to_owned(), member.raw));
                    return Ok(());
                }
            };
            *slot = (member.raw != "null").then_some(member.raw);
            Ok(())
        })?;
        Ok(given)
    }

    /// The chat request that asks the same.
    fn to_chat(&self) -> Result<Vec<u8>, BadRequest> {
        let messages = self.messages.ok_or_else(|| BadRequest::missing("messages"))?;
        let mut out = Vec::with_capacity(messages.len() + messages.len() / 4 + 512);
        let mut body = Object::begin(&mut out);
        for (name, raw) in &self.others {
            if name == "top_k" && *raw != "null" {
                check::integer(name, raw, 0, i64::from(i32::MAX))?;
            }
            body.raw(name, raw);
        }
        content::messages(self.system, messages, body.member("messages"))?;
        body.maybe("max_tokens", self.max_tokens);
        if let Some(raw) = self.temperature {
            check::number("temperature", raw, 0.0, 1.0)?;
            body.raw("temperature", raw);
        }
        if let Some(raw) = self.stop_sequences {
            check::array("stop_sequences", raw)?;
            if raw != "[]" {
                body.raw("stop", raw);
            }
        }
        if let Some(raw) = self.tools {
            tools::list(raw, &mut body)?;
        }
        if let Some(raw) = self.tool_choice {
            tools::choice(raw, &mut body)?;
        }
        self.effort(&mut body)?;
        self.user(&mut body)?;
        if let Some(raw) = self.service_tier
            && !matches!(check::string("service_tier", raw)?.as_ref(), "auto" | "standard_only")
        {
            let message = "`service_tier` must be auto or standard_only";
            return Err(BadRequest::value("service_tier", message));
        }
        self.format(&mut body)?;
        body.end();
        Ok(out)
    }

    /// Tools that no other provider knows.
    fn own_tools(&self) -> Result<tools::Own, BadRequest> {
        self.tools.map_or_else(|| Ok(tools::Own::default()), tools::own)
    }

    /// How hard to think: the effort asked for, or what a budget of thinking tokens amounts to.
    fn effort(&self, body: &mut Object<'_>) -> Result<(), BadRequest> {
        if let Some(raw) = self.own_effort()? {
            match check::string("output_config.effort", raw)?.as_ref() {
                "max" => body.text("reasoning_effort", "high"),
                same => body.text("reasoning_effort", same),
            }
            return Ok(());
        }
        let Some(raw) = self.thinking else { return Ok(()) };
        let [kind, budget] = check::members("thinking", raw, ["type", "budget_tokens"])?;
        let kind = kind.ok_or_else(|| BadRequest::missing("thinking.type"))?;
        match check::string("thinking.type", kind)?.as_ref() {
            "enabled" => {
                let raw = budget.ok_or_else(|| BadRequest::missing("thinking.budget_tokens"))?;
                let budget = check::integer("thinking.budget_tokens", raw, 1, i64::from(u32::MAX))?;
                let effort = match budget {
                    ..=2048 => "low",
                    2049..=8192 => "medium",
                    _ => "high",
                };
                body.text("reasoning_effort", effort);
                Ok(())
            }
            "disabled" => {
                body.text("reasoning_effort", "none");
                Ok(())
            }
            "adaptive" => Ok(()),
            _ => Err(BadRequest::value(
                "thinking.type",
                "`thinking.type` must be enabled, disabled or adaptive",
            )),
        }
    }

    /// The effort asked for.
    fn own_effort(&self) -> Result<Option<&'a str>, BadRequest> {
        let Some(raw) = self.output_config else { return Ok(None) };
        check::members("output_config", raw, ["effort"]).map(|[effort]| effort)
    }

    /// Whether the effort is what a budget amounts to: who names one lets the model think, and says
    /// nothing to one that does not.
    fn hints_effort(&self) -> Result<bool, BadRequest> {
        let Some(raw) = self.thinking else { return Ok(false) };
        let [budget] = check::members("thinking", raw, ["budget_tokens"])?;
        Ok(budget.is_some() && self.own_effort()?.is_none())
    }

    /// What policies may look at. The inner request has none of it: providers of its format would be
    /// told what was written for another's.
    fn pairs(&self) -> Result<BTreeMap<String, String>, BadRequest> {
        self.metadata.map_or_else(|| Ok(BTreeMap::new()), pairs)
    }

    fn user(&self, body: &mut Object<'_>) -> Result<(), BadRequest> {
        let Some(raw) = self.metadata else { return Ok(()) };
        let [user] = check::members("metadata", raw, ["user_id"])?;
        if let Some(raw) = user {
            check::string("metadata.user_id", raw)?;
            body.raw("user", raw);
        }
        Ok(())
    }

    /// A structured answer, under the name it has or the one it had while it was new.
    fn format(&self, body: &mut Object<'_>) -> Result<(), BadRequest> {
        let of_config = match self.output_config {
            Some(raw) => check::members("output_config", raw, ["format"])?[0],
            None => None,
        };
        let Some(raw) = of_config.or(self.output_format) else { return Ok(()) };
        let at = "output_config.format";
        let [kind, schema] = check::members(at, raw, ["type", "schema"])?;
        let is_schema = kind.is_some_and(|raw| raw == "\"json_schema\"");
        let Some(schema) = schema.filter(|raw| is_schema && json::kind(raw) == Kind::Object) else {
            let message = format!("`{at}` must be a json_schema with its schema");
            return Err(BadRequest::value(at, message));
        };
        let written = format!(
            r#"{{"type":"json_schema","json_schema":{{"name":"answer","strict":true,"schema":{schema}}}}}"#
        );
        body.raw("response_format", &written);
        Ok(())
    }
}
