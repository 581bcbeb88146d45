//! Names of a request's fields in the format that its caller wrote: an error about the inner request,
//! whose names are those of chat completions, names what the caller can change.

use super::BadRequest;
use crate::ledger::Endpoint;
use std::borrow::Cow;

/// The error under the names of `endpoint`.
#[must_use]
pub fn named(endpoint: Endpoint, bad: BadRequest) -> BadRequest {
    let Some(param) = bad.param.as_deref() else { return bad };
    let Cow::Owned(outer) = name(endpoint, param) else { return bad };
    BadRequest {
        message: bad.message.replace(&format!("`{param}`"), &format!("`{outer}`")),
        param: Some(outer),
        code: bad.code,
    }
}

/// What a field of a chat completion is called at `endpoint`; borrowed where it has no other name.
#[must_use]
pub fn name(endpoint: Endpoint, param: &str) -> Cow<'_, str> {
    let (field, inner) = param.split_at(param.find(['[', '.']).unwrap_or(param.len()));
    let outer = match (endpoint, field) {
        (Endpoint::Responses | Endpoint::Embeddings, "messages") => "input",
        (Endpoint::Completions, "messages") => "prompt",
        // Its places are those of the inner conversation, which has others.
        (Endpoint::Messages, "messages") if !inner.is_empty() => "messages",
        (Endpoint::Responses, "max_completion_tokens" | "max_tokens" | "n_predict") => {
            "max_output_tokens"
        }
        (Endpoint::Responses, "reasoning_effort") => "reasoning.effort",
        (Endpoint::Responses, "response_format") => "text.format",
        (Endpoint::Responses, "verbosity") => "text.verbosity",
        (Endpoint::Responses, "tools" | "tool_choice") => {
            let deeper = [".function", ".allowed_tools"];
            return renamed(param, deeper.iter().any(|it| inner.contains(it)), || {
                deeper.iter().fold(param.to_owned(), |param, it| param.replace(it, ""))
            });
        }
        (Endpoint::Messages, "max_completion_tokens" | "n_predict") => "max_tokens",
        (Endpoint::Messages, "stop") => "stop_sequences",
        (Endpoint::Messages, "user") => "metadata.user_id",
        (Endpoint::Messages, "reasoning_effort") => "output_config.effort",
        (Endpoint::Messages, "response_format") => "output_config.format",
        (Endpoint::Messages, "parallel_tool_calls") => "tool_choice.disable_parallel_tool_use",
        (Endpoint::Messages, "tools" | "tool_choice") => {
            return renamed(param, inner.contains(".function"), || {
                param.replace(".function.parameters", ".input_schema").replace(".function", "")
            });
        }
        _ => return Cow::Borrowed(param),
    };
    Cow::Owned(outer.to_owned())
}

fn renamed(param: &str, differs: bool, outer: impl FnOnce() -> String) -> Cow<'_, str> {
    if differs { Cow::Owned(outer()) } else { Cow::Borrowed(param) }
}

#[cfg(test)]
mod tests {
    use super::{BadRequest, Endpoint, name, named};

    #[test]
    fn a_field_is_named_as_its_caller_wrote_it() {
        for (endpoint, inner, outer) in [
            (Endpoint::ChatCompletions, "messages[0].content", "messages[0].content"),
            (Endpoint::Completions, "messages", "prompt"),
            (Endpoint::Embeddings, "messages", "input"),
            (Endpoint::Responses, "messages[2].content", "input"),
            (Endpoint::Responses, "max_completion_tokens", "max_output_tokens"),
            (Endpoint::Responses, "response_format.json_schema.schema", "text.format"),
            (Endpoint::Responses, "tool_choice.allowed_tools.tools", "tool_choice.tools"),
            (Endpoint::Responses, "tools[1].function.parameters", "tools[1].parameters"),
            (Endpoint::Responses, "tool_choice.function.name", "tool_choice.name"),
            (Endpoint::Messages, "messages[2].content", "messages"),
            (Endpoint::Messages, "tools[1].function.parameters", "tools[1].input_schema"),
            (Endpoint::Messages, "tools[1].function.name", "tools[1].name"),
            (Endpoint::Messages, "stop[0]", "stop_sequences"),
            (Endpoint::Messages, "temperature", "temperature"),
        ] {
            assert_eq!(name(endpoint, inner), outer, "{endpoint:?} {inner}");
        }
        let bad = BadRequest::value("max_completion_tokens", "`max_completion_tokens` is 0");
        let told = named(Endpoint::Responses, bad);
        assert_eq!(told.param.as_deref(), Some("max_output_tokens"));
        assert_eq!(told.message, "`max_output_tokens` is 0");
    }
}
