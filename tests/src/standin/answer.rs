//! A script as bytes: OpenAI's wire format of an answer, streamed and not.

use super::{Asked, ErrorSaid, Reported, Script, dialects::Dialect, shapes};
use serde_json::{Value, json};

/// When every answer of the stand-in was created: it has no clock.
const CREATED: u64 = 1_750_000_000;

/// Its id.
pub(super) const ID: &str = "standin";
/// Where OpenAI's format is spoken.
const OPENAI: [&str; 3] = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"];

/// An answer, ready to be written.
pub(super) struct Answer {
    pub status: u16,
    pub content_type: String,
    /// Headers beside the usual ones.
    pub headers: Vec<(String, String)>,
    pub body: Body,
}

/// The parts of an answer that a cut can fall between.
pub(super) enum Body {
    /// One piece, with its length in the head.
    Whole(Vec<u8>),
    /// Events of a stream: what comes before the first piece, the pieces, and the end.
    Stream { opening: Vec<u8>, pieces: Vec<Vec<u8>>, ending: Vec<u8> },
}

/// The endpoints that generate text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Chat,
    Completion,
}

/// What is said to one request.
struct Said<'a> {
    form: Form,
    request: &'a Value,
    script: &'a Script,
    pieces: Vec<String>,
    /// A tool's name and its arguments.
    call: Option<(String, String)>,
    finish: String,
    choices: u64,
}

/// What `script` answers to `asked`.
pub(super) fn answer(asked: &Asked, script: &Script) -> Answer {
    let request = asked.json();
    let path = asked.path.split('?').next().unwrap_or_default();
    let dialect = Dialect::of(path);
    let mut headers = script.headers.clone();
    let (status, body) = match (asked.method.as_str(), path) {
        ("GET", "/v1/models") => (200, Body::Whole(models())),
        ("POST", path) if dialect.is_some() || OPENAI.contains(&path) => {
            let body = match (&script.body, &script.error, dialect) {
                (Some(body), _, _) => Body::Whole(body.clone().into_bytes()),
                (None, Some(error), Some(dialect)) => {
                    Body::Whole(dialect.error(script.status, error, &mut headers))
                }
                (None, Some(error), None) => Body::Whole(failed(error)),
                (None, None, Some(dialect)) => dialect.body(&request, script),
                (None, None, None) => scripted(path, &request, script),
            };
            (script.status, body)
        }
        _ => (404, Body::Whole(b"{\"error\":{\"message\":\"no such path\",\"type\":\"invalid_request_error\",\"param\":null,\"code\":null}}".to_vec())),
    };
    let streams = match dialect {
        Some(Dialect::Gemini { stream }) => stream,
        _ => request["stream"] == json!(true),
    };
    let usual = match &body {
        Body::Stream { .. } => "text/event-stream",
        // What is wrong with it is its text alone.
        Body::Whole(_) if streams && status == 200 => "text/event-stream",
        Body::Whole(_) => "application/json",
    };
    let content_type = script.content_type.clone().unwrap_or_else(|| usual.to_owned());
    Answer { status, content_type, headers, body }
}

fn failed(error: &ErrorSaid) -> Vec<u8> {
    let ErrorSaid { kind, code, message } = error;
    json!({"error": {"message": message, "type": kind, "param": null, "code": code}})
        .to_string()
        .into_bytes()
}

fn scripted(path: &str, request: &Value, script: &Script) -> Body {
    let form = match path {
        "/v1/embeddings" => return Body::Whole(embedded(request, script)),
        "/v1/completions" => Form::Completion,
        _ => Form::Chat,
    };
    let said = Said::new(form, request, script);
    if request["stream"] == json!(true) { said.streamed() } else { Body::Whole(said.whole()) }
}

fn models() -> Vec<u8> {
    let model =
        json!({"id": "standin-1", "object": "model", "created": CREATED, "owned_by": "standin"});
    json!({"object": "list", "data": [model]}).to_string().into_bytes()
}

fn embedded(request: &Value, script: &Script) -> Vec<u8> {
    let mut answer = json!({
        "object": "list", "data": shapes::vectors(request), "model": request["model"],
    });
    if script.reported != Reported::Never {
        let tokens = script.prompt_tokens;
        answer["usage"] = json!({"prompt_tokens": tokens, "total_tokens": tokens});
    }
    answer.to_string().into_bytes()
}

impl<'a> Said<'a> {
    fn new(form: Form, request: &'a Value, script: &'a Script) -> Self {
        let call = script.call.clone().or_else(|| shapes::forced_call(request));
        let all = match shapes::structured(request) {
            _ if call.is_some() => Vec::new(),
            Some(text) => text.split_inclusive(',').map(str::to_owned).collect(),
            None => script.pieces.clone(),
        };
        let (mut pieces, stopped) = shapes::stopped(request, &all);
        let cap = ["max_completion_tokens", "max_tokens"]
            .iter()
            .find_map(|field| request[field].as_u64())
            .and_then(|cap| usize::try_from(cap).ok())
            .unwrap_or(usize::MAX);
        let finish = match () {
            () if pieces.len() > cap => "length",
            () if call.is_some() => "tool_calls",
            () if stopped => "stop",
            () => &script.finish,
        };
        pieces.truncate(cap);
        let prompts = match &request["prompt"] {
            Value::Array(list) if !list.iter().all(Value::is_number) => list.len() as u64,
            _ => 1,
        };
        let choices = request["n"].as_u64().unwrap_or(1) * prompts;
        Said { form, request, script, pieces, call, finish: finish.to_owned(), choices }
    }

    fn id(&self) -> &'static str {
        match self.form {
            Form::Chat => "chatcmpl-standin",
            Form::Completion => "cmpl-standin",
        }
    }

    fn usage(&self) -> Value {
        let script = self.script;
        let pieces = self.pieces.len() as u64 + u64::from(self.call.is_some());
        let said = pieces * self.choices + script.reasoning_tokens;
        let completion = script.completion_tokens.unwrap_or(said);
        json!({
            "prompt_tokens": script.prompt_tokens,
            "completion_tokens": completion,
            "total_tokens": script.prompt_tokens + completion,
            "prompt_tokens_details": {"cached_tokens": script.cached_tokens, "audio_tokens": 0},
            "completion_tokens_details": {"reasoning_tokens": script.reasoning_tokens, "audio_tokens": 0},
        })
    }

    fn whole(&self) -> Vec<u8> {
        let choices: Vec<Value> = (0..self.choices).map(|index| self.whole_choice(index)).collect();
        let object = match self.form {
            Form::Chat => "chat.completion",
            Form::Completion => "text_completion",
        };
        let mut answer = json!({
            "id": self.id(), "object": object, "created": CREATED,
            "model": self.request["model"], "choices": choices, "system_fingerprint": "fp_standin",
        });
        if self.script.reported != Reported::Never {
            answer["usage"] = self.usage();
        }
        answer.to_string().into_bytes()
    }

    fn whole_choice(&self, index: u64) -> Value {
        let text = self.pieces.concat();
        if self.form == Form::Completion {
            return json!({"text": text, "index": index, "logprobs": null, "finish_reason": self.finish});
        }
        let mut message = json!({"role": "assistant", "content": text, "refusal": null});
        if let Some((name, arguments)) = &self.call {
            message["content"] = Value::Null;
            let function = json!({"name": name, "arguments": arguments});
            message["tool_calls"] =
                json!([{"id": "call_standin", "type": "function", "function": function}]);
        }
        let mut logprobs = Value::Null;
        for piece in &self.pieces {
            let one = shapes::logprobs(self.request, piece);
            match (logprobs["content"].as_array_mut(), one["content"].as_array()) {
                (Some(all), Some(one)) => all.extend(one.iter().cloned()),
                _ => logprobs = one,
            }
        }
        json!({"index": index, "message": message, "logprobs": logprobs, "finish_reason": self.finish})
    }

    fn asked_usage(&self) -> bool {
        self.request["stream_options"]["include_usage"] == json!(true)
    }

    fn chunk(&self, choices: &Value, usage: Option<Value>) -> Vec<u8> {
        let object = match self.form {
            Form::Chat => "chat.completion.chunk",
            Form::Completion => "text_completion",
        };
        let mut chunk = json!({
            "id": self.id(), "object": object, "created": CREATED,
            "model": self.request["model"], "system_fingerprint": "fp_standin", "choices": choices,
        });
        match usage {
            Some(usage) => chunk["usage"] = usage,
            // OpenAI writes the field in every chunk once usage was asked for.
            None if self.asked_usage() => chunk["usage"] = Value::Null,
            None => {}
        }
        format!("data: {chunk}\n\n").into_bytes()
    }

    /// One chunk for each choice.
    fn chunks(&self, delta: &Value, logprobs: &Value, finish: Option<&str>) -> Vec<u8> {
        let one = |index| {
            let choice = match self.form {
                Form::Chat => {
                    json!({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish})
                }
                Form::Completion => {
                    let text = delta["content"].as_str().unwrap_or_default();
                    json!({"text": text, "index": index, "logprobs": null, "finish_reason": finish})
                }
            };
            self.chunk(&json!([choice]), None)
        };
        (0..self.choices).flat_map(one).collect()
    }

    fn streamed(&self) -> Body {
        let quiet = Value::Null;
        let mut ending = match self.script.reported {
            Reported::InLastDelta => {
                let choice = json!([{"index": 0, "delta": {}, "logprobs": null, "finish_reason": self.finish}]);
                self.chunk(&choice, Some(self.usage()))
            }
            _ => self.chunks(&json!({}), &quiet, Some(&self.finish)),
        };
        let alone = match self.script.reported {
            Reported::Asked if self.asked_usage() => 1,
            Reported::Twice => 2,
            _ => 0,
        };
        for _ in 0..alone {
            ending.extend(self.chunk(&json!([]), Some(self.usage())));
        }
        if self.script.done {
            ending.extend_from_slice(b"data: [DONE]\n\n");
        }
        let opening = match self.form {
            Form::Chat => {
                let role = json!({"role": "assistant", "content": "", "refusal": null});
                self.chunks(&role, &quiet, None)
            }
            Form::Completion => Vec::new(),
        };
        Body::Stream { opening, pieces: self.pieces(), ending }
    }

    fn pieces(&self) -> Vec<Vec<u8>> {
        let text = |piece: &String| {
            let logprobs = shapes::logprobs(self.request, piece);
            self.chunks(&json!({"content": piece}), &logprobs, None)
        };
        let mut pieces: Vec<_> = self.pieces.iter().map(text).collect();
        if let Some((name, arguments)) = &self.call {
            let begin = json!({"tool_calls": [{"index": 0, "id": "call_standin", "type": "function",
                "function": {"name": name, "arguments": ""}}]});
            pieces.push(self.chunks(&begin, &Value::Null, None));
            for part in arguments.split_inclusive(':') {
                let delta = json!({"tool_calls": [{"index": 0, "function": {"arguments": part}}]});
                pieces.push(self.chunks(&delta, &Value::Null, None));
            }
        }
        pieces
    }
}
