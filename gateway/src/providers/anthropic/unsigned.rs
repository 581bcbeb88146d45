//! Thinking without a signature, taken out of a client's own Messages body: the model that thought was
//! another provider's, and Anthropic takes no block but those that it has signed.
//!
//! **Invariant:** what is signed, and everything else, stays to the byte.

use crate::wire::{
    BadRequest,
    json::{self, Kind},
};
use std::borrow::Cow;

/// Messages without unsigned thinking.
#[derive(Debug, PartialEq)]
pub(super) struct Signed<'a> {
    /// The list, as it is sent.
    pub(super) messages: Cow<'a, str>,
    /// Whether results are given to calls whose thinking was taken out: Anthropic then takes no budget.
    pub(super) answers_unthought: bool,
}

/// One message, or what is left of it.
struct Left<'a> {
    message: Cow<'a, str>,
    dropped: bool,
    is_empty: bool,
    has_result: bool,
}

/// What of `messages`, a list that has been read before, Anthropic takes.
pub(super) fn signed(messages: &str) -> Result<Signed<'_>, BadRequest> {
    let as_it_is = Signed { messages: Cow::Borrowed(messages), answers_unthought: false };
    // Most conversations have no thinking, and are not read again.
    if memchr::memmem::find(messages.as_bytes(), b"thinking\"").is_none() {
        return Ok(as_it_is);
    }
    let mut kept = Vec::new();
    let (mut dropped, mut answers_unthought) = (false, false);
    json::elements::<BadRequest>(messages, |_, message| {
        let left = left_of(message)?;
        dropped |= left.dropped;
        // A user's message without results begins another turn.
        answers_unthought = left.dropped || answers_unthought && goes_on(message, &left)?;
        if !left.is_empty {
            kept.push(left.message);
        }
        Ok(())
    })?;
    if !dropped {
        return Ok(as_it_is);
    }
    Ok(Signed { messages: Cow::Owned(format!("[{}]", kept.join(","))), answers_unthought })
}

/// Whether a message belongs to the turn before it: one of the assistant's, or of results.
fn goes_on(message: &str, left: &Left<'_>) -> Result<bool, BadRequest> {
    let [role] = members(message, ["role"])?;
    Ok(left.has_result || role.is_some_and(|role| is(role, "assistant")))
}

fn left_of(message: &str) -> Result<Left<'_>, BadRequest> {
    let mut left = Left {
        message: Cow::Borrowed(message),
        dropped: false,
        is_empty: false,
        has_result: false,
    };
    let mut content = None;
    json::members::<BadRequest>(message, |key, member| {
        if key == "content" && json::kind(member.raw) == Kind::Array {
            content = Some(member);
        }
        Ok(())
    })?;
    let Some(content) = content else { return Ok(left) };
    let mut kept = Vec::new();
    json::elements::<BadRequest>(content.raw, |_, block| {
        let [kind, signature] = members(block, ["type", "signature"])?;
        let kind = |name: &str| kind.is_some_and(|kind| is(kind, name));
        left.has_result |= kind("tool_result");
        if kind("thinking") && !signature.is_some_and(|it| it.len() > 2 && it.starts_with('"')) {
            left.dropped = true;
        } else {
            kept.push(block);
        }
        Ok(())
    })?;
    if left.dropped {
        let (before, after) =
            (message.get(..content.value.start), message.get(content.value.end..));
        let (before, after) = (before.unwrap_or_default(), after.unwrap_or_default());
        left.is_empty = kept.is_empty();
        left.message = Cow::Owned(format!("{before}[{}]{after}", kept.join(",")));
    }
    Ok(left)
}

/// Members of an object by their names; none of what is no object.
fn members<'a, const N: usize>(
    raw: &'a str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], BadRequest> {
    let mut found = [None; N];
    if json::kind(raw) == Kind::Object {
        json::members::<BadRequest>(raw, |key, member| {
            if let Some(index) = names.iter().position(|name| *name == key) {
                found[index] = Some(member.raw);
            }
            Ok(())
        })?;
    }
    Ok(found)
}

/// Whether the JSON string `raw` says `text`.
fn is(raw: &str, text: &str) -> bool {
    json::text_of(raw).is_some_and(|said| said == text)
}
