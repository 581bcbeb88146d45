//! A script as bytes: OpenAI's wire format of an answer, streamed and not.

use super::{Asked, Reported, Script};
use serde_json::{Value, json};

/// When every answer of the stand-in was created: it has no clock.
const CREATED: u64 = 1_750_000_000;
/// Its id.
const ID: &str = "chatcmpl-standin";

/// An answer, ready to be written.
pub(super) struct Answer {
    pub status: u16,
    pub content_type: String,
    pub body: Body,
}

/// The parts of an answer that a cut can fall between.
pub(super) enum Body {
    /// One piece, with its length in the head.
    Whole(Vec<u8>),
    /// Events of a stream: what comes before the first piece, the pieces, and the end.
    Stream { opening: Vec<u8>, pieces: Vec<Vec<u8>>, ending: Vec<u8> },
}

/// What `script` answers to `asked`.
pub(super) fn answer(asked: &Asked, script: &Script) -> Answer {
    let request = asked.json();
    let stream = request["stream"] == json!(true);
    let path = asked.path.split('?').next().unwrap_or_default();
    let (status, body) = match (asked.method.as_str(), path) {
        ("GET", "/v1/models") => (200, Body::Whole(models())),
        ("POST", "/v1/chat/completions") => match &script.body {
            Some(body) => (script.status, Body::Whole(body.clone().into_bytes())),
            None if stream => (script.status, streamed(&request, script)),
            None => (script.status, Body::Whole(whole(&request, script))),
        },
        _ => (404, Body::Whole(b"{\"error\":{\"message\":\"no such path\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}".to_vec())),
    };
    let usual = match &body {
        Body::Stream { .. } => "text/event-stream",
        Body::Whole(_) => "application/json",
    };
    let content_type = script.content_type.clone().unwrap_or_else(|| usual.to_owned());
    Answer { status, content_type, body }
}

fn models() -> Vec<u8> {
    let model =
        json!({"id": "standin-1", "object": "model", "created": CREATED, "owned_by": "standin"});
    json!({"object": "list", "data": [model]}).to_string().into_bytes()
}

/// The pieces that the request's own cap lets through, and the finish reason.
fn capped<'a>(request: &Value, script: &'a Script) -> (&'a [String], &'a str) {
    let cap = ["max_completion_tokens", "max_tokens"]
        .iter()
        .find_map(|field| request[field].as_u64())
        .and_then(|cap| usize::try_from(cap).ok())
        .unwrap_or(usize::MAX);
    if script.pieces.len() > cap {
        (&script.pieces[..cap], "length")
    } else {
        (&script.pieces, &script.finish)
    }
}

fn usage(script: &Script, pieces: usize) -> Value {
    let completion = script.completion_tokens.unwrap_or(pieces as u64 + script.reasoning_tokens);
    json!({
        "prompt_tokens": script.prompt_tokens,
        "completion_tokens": completion,
        "total_tokens": script.prompt_tokens + completion,
        "prompt_tokens_details": {"cached_tokens": script.cached_tokens, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": script.reasoning_tokens, "audio_tokens": 0},
    })
}

fn whole(request: &Value, script: &Script) -> Vec<u8> {
    let (pieces, finish) = capped(request, script);
    let message = json!({"role": "assistant", "content": pieces.concat(), "refusal": null});
    let mut answer = json!({
        "id": ID, "object": "chat.completion", "created": CREATED, "model": request["model"],
        "choices": [{"index": 0, "message": message, "logprobs": null, "finish_reason": finish}],
        "system_fingerprint": "fp_standin",
    });
    if script.reported != Reported::Never {
        answer["usage"] = usage(script, pieces.len());
    }
    answer.to_string().into_bytes()
}

fn streamed(request: &Value, script: &Script) -> Body {
    let (pieces, finish) = capped(request, script);
    let asked_usage = request["stream_options"]["include_usage"] == json!(true);
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": ID, "object": "chat.completion.chunk", "created": CREATED,
            "model": request["model"], "system_fingerprint": "fp_standin", "choices": choices,
        });
        match usage {
            Some(usage) => chunk["usage"] = usage,
            // OpenAI writes the field in every chunk once usage was asked for.
            None if asked_usage => chunk["usage"] = Value::Null,
            None => {}
        }
        format!("data: {chunk}\n\n").into_bytes()
    };
    let delta = |delta: Value, finish: Option<&str>| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let used = || Some(usage(script, pieces.len()));
    let with_finish = if script.reported == Reported::InLastDelta { used() } else { None };
    let mut ending = chunk(delta(json!({}), Some(finish)), with_finish);
    let alone = match script.reported {
        Reported::Asked if asked_usage => 1,
        Reported::Twice => 2,
        _ => 0,
    };
    for _ in 0..alone {
        ending.extend(chunk(json!([]), used()));
    }
    if script.done {
        ending.extend_from_slice(b"data: [DONE]\n\n");
    }
    Body::Stream {
        opening: chunk(
            delta(json!({"role": "assistant", "content": "", "refusal": null}), None),
            None,
        ),
        pieces: pieces
            .iter()
            .map(|piece| chunk(delta(json!({"content": piece}), None), None))
            .collect(),
        ending,
    }
}
