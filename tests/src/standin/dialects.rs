//! A script in the formats of providers that do not speak OpenAI's: Anthropic's Messages and
//! Gemini's `generateContent`.

use super::{
    ErrorSaid, Reported, Script,
    answer::{Body, ID},
};
use serde_json::{Value, json};

/// A provider's own format.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    Anthropic,
    Gemini { stream: bool },
}

impl Dialect {
    /// The format that a path belongs to.
    pub(super) fn of(path: &str) -> Option<Self> {
        match path {
            "/v1/messages" => Some(Self::Anthropic),
            path if path.ends_with(":generateContent") => Some(Self::Gemini { stream: false }),
            path if path.ends_with(":streamGenerateContent") => Some(Self::Gemini { stream: true }),
            _ => None,
        }
    }

    /// An error in this format. Google tells the wait in the body, and in no header.
    pub(super) fn error(
        self,
        status: u16,
        error: &ErrorSaid,
        headers: &mut Vec<(String, String)>,
    ) -> Vec<u8> {
        let message = &error.message;
        let body = match self {
            Self::Anthropic => {
                json!({"type": "error", "error": {"type": error.kind, "message": message}})
            }
            Self::Gemini { .. } => {
                let mut details = Vec::new();
                if let Some(at) = headers.iter().position(|(name, _)| name == "retry-after") {
                    let (_, seconds) = headers.remove(at);
                    details.push(json!({
                        "@type": "type.googleapis.com/google.rpc.RetryInfo",
                        "retryDelay": format!("{seconds}s"),
                    }));
                }
                let word = google_status(status);
                json!({"error": {
                    "code": status, "message": message, "status": word, "details": details,
                }})
            }
        };
        body.to_string().into_bytes()
    }

    /// What `script` says to a request in this format.
    pub(super) fn body(self, request: &Value, script: &Script) -> Body {
        match self {
            Self::Anthropic if request["stream"] == json!(true) => {
                anthropic_streamed(request, script)
            }
            Self::Anthropic => Body::Whole(anthropic_whole(request, script)),
            Self::Gemini { stream: true } => gemini_streamed(request, script),
            Self::Gemini { stream: false } => Body::Whole(gemini_whole(request, script)),
        }
    }
}

/// The pieces that the request's own cap lets through, and whether it cut them.
fn capped<'a>(cap: &Value, script: &'a Script) -> (&'a [String], bool) {
    let cap = cap.as_u64().and_then(|cap| usize::try_from(cap).ok()).unwrap_or(usize::MAX);
    match script.pieces.get(..cap) {
        Some(fits) if fits.len() < script.pieces.len() => (fits, true),
        _ => (&script.pieces, false),
    }
}

fn completion(script: &Script, pieces: usize) -> u64 {
    script.completion_tokens.unwrap_or(pieces as u64 + script.reasoning_tokens)
}

// === Anthropic ===

fn anthropic_usage(script: &Script, pieces: usize) -> Value {
    json!({
        "input_tokens": script.prompt_tokens.saturating_sub(script.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": script.cached_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": completion(script, pieces),
        "service_tier": "standard",
    })
}

fn stop_reason(script: &Script, cut: bool) -> &'static str {
    match (script.finish.as_str(), &script.call) {
        _ if cut => "max_tokens",
        (_, Some(_)) => "tool_use",
        ("length", _) => "max_tokens",
        ("content_filter", _) => "refusal",
        _ => "end_turn",
    }
}

fn anthropic_whole(request: &Value, script: &Script) -> Vec<u8> {
    let (pieces, cut) = capped(&request["max_tokens"], script);
    let content = match &script.call {
        Some((name, arguments)) => {
            let input: Value = serde_json::from_str(arguments).unwrap_or_default();
            json!([{"type": "tool_use", "id": "toolu_standin", "name": name, "input": input}])
        }
        None => json!([{"type": "text", "text": pieces.concat()}]),
    };
    let mut answer = json!({
        "id": ID, "type": "message", "role": "assistant", "model": request["model"],
        "content": content, "stop_reason": stop_reason(script, cut), "stop_sequence": null,
    });
    if script.reported != Reported::Never {
        answer["usage"] = anthropic_usage(script, pieces.len());
    }
    answer.to_string().into_bytes()
}

fn anthropic_streamed(request: &Value, script: &Script) -> Body {
    let (pieces, cut) = capped(&request["max_tokens"], script);
    let frame = |kind: &str, mut data: Value| {
        data["type"] = json!(kind);
        format!("event: {kind}\ndata: {data}\n\n").into_bytes()
    };
    let reports = script.reported != Reported::Never;
    let mut message = json!({
        "id": ID, "type": "message", "role": "assistant", "model": request["model"],
        "content": [], "stop_reason": null, "stop_sequence": null,
    });
    if reports {
        message["usage"] = anthropic_usage(script, 1);
    }
    let block = match &script.call {
        Some((name, _)) => {
            json!({"type": "tool_use", "id": "toolu_standin", "name": name, "input": {}})
        }
        None => json!({"type": "text", "text": ""}),
    };
    let mut opening = frame("message_start", json!({"message": message}));
    opening.extend(frame("content_block_start", json!({"index": 0, "content_block": block})));
    opening.extend(frame("ping", json!({})));
    let delta = |delta: Value| frame("content_block_delta", json!({"index": 0, "delta": delta}));
    let written = match &script.call {
        Some((_, arguments)) => {
            vec![delta(json!({"type": "input_json_delta", "partial_json": arguments}))]
        }
        None => {
            pieces.iter().map(|text| delta(json!({"type": "text_delta", "text": text}))).collect()
        }
    };
    let mut ending = frame("content_block_stop", json!({"index": 0}));
    let mut end =
        json!({"delta": {"stop_reason": stop_reason(script, cut), "stop_sequence": null}});
    if reports {
        // The last report has all counts again: who added them up would charge the prompt twice.
        end["usage"] = anthropic_usage(script, pieces.len());
    }
    let last = frame("message_delta", end);
    if script.reported == Reported::Twice {
        // Counts are cumulative: an earlier report is smaller.
        let usage = json!({"output_tokens": 1});
        ending.extend(frame("message_delta", json!({"delta": {}, "usage": usage})));
    }
    ending.extend(last);
    if script.done {
        ending.extend(frame("message_stop", json!({})));
    }
    Body::Stream { opening, pieces: written, ending }
}

// === Gemini ===

fn google_status(status: u16) -> &'static str {
    match status {
        400 => "INVALID_ARGUMENT",
        401 => "UNAUTHENTICATED",
        429 => "RESOURCE_EXHAUSTED",
        503 => "UNAVAILABLE",
        _ => "INTERNAL",
    }
}

fn gemini_usage(script: &Script, pieces: usize) -> Value {
    // Thoughts are counted beside the candidates.
    let visible = completion(script, pieces).saturating_sub(script.reasoning_tokens);
    json!({
        "promptTokenCount": script.prompt_tokens,
        "cachedContentTokenCount": script.cached_tokens,
        "candidatesTokenCount": visible,
        "thoughtsTokenCount": script.reasoning_tokens,
        "totalTokenCount": script.prompt_tokens + visible + script.reasoning_tokens,
    })
}

fn finish_reason(script: &Script, cut: bool) -> &'static str {
    match script.finish.as_str() {
        _ if cut => "MAX_TOKENS",
        "length" => "MAX_TOKENS",
        "content_filter" => "SAFETY",
        _ => "STOP",
    }
}

fn gemini_part(script: &Script, text: &str) -> Value {
    match &script.call {
        Some((name, arguments)) => {
            let args: Value = serde_json::from_str(arguments).unwrap_or_default();
            json!({"functionCall": {"name": name, "args": args}})
        }
        None => json!({"text": text}),
    }
}

fn gemini_whole(request: &Value, script: &Script) -> Vec<u8> {
    let (pieces, cut) = capped(&request["generationConfig"]["maxOutputTokens"], script);
    let parts = json!([gemini_part(script, &pieces.concat())]);
    let mut answer = json!({
        "candidates": [{
            "content": {"role": "model", "parts": parts},
            "finishReason": finish_reason(script, cut), "index": 0,
        }],
        "modelVersion": "standin-1", "responseId": ID,
    });
    if script.reported != Reported::Never {
        answer["usageMetadata"] = gemini_usage(script, pieces.len());
    }
    answer.to_string().into_bytes()
}

fn gemini_streamed(request: &Value, script: &Script) -> Body {
    let (pieces, cut) = capped(&request["generationConfig"]["maxOutputTokens"], script);
    let chunk = |text: Option<&str>, finish: Option<&str>, usage: Option<Value>| {
        let parts: Vec<Value> = text.map(|text| gemini_part(script, text)).into_iter().collect();
        let mut candidate = json!({"content": {"role": "model", "parts": parts}, "index": 0});
        if let Some(finish) = finish {
            candidate["finishReason"] = json!(finish);
        }
        let mut chunk = json!({
            "candidates": [candidate], "modelVersion": "standin-1", "responseId": ID,
        });
        if let Some(usage) = usage {
            chunk["usageMetadata"] = usage;
        }
        format!("data: {chunk}\n\n").into_bytes()
    };
    let reports = script.reported != Reported::Never;
    let running = |so_far: usize| reports.then(|| gemini_usage(script, so_far));
    let written = if script.call.is_some() {
        vec![chunk(Some(""), None, running(1))]
    } else {
        let texts = pieces.iter().enumerate();
        texts.map(|(at, text)| chunk(Some(text), None, running(at + 1))).collect()
    };
    let ending = if script.done {
        chunk(None, Some(finish_reason(script, cut)), running(pieces.len()))
    } else {
        Vec::new()
    };
    Body::Stream { opening: b": begin\n\n".to_vec(), pieces: written, ending }
}
