//! The clients of the matrix: how each asks, and how it reads an answer, an error and a stream that
//! breaks.

use crate::harness::{Answer, Ask, Gate};
use serde_json::{Value, json};

/// Whose format a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Client {
    /// OpenAI's chat completions.
    Chat,
    /// Anthropic's Messages.
    Messages,
    /// OpenAI's Responses.
    Responses,
}

impl Client {
    /// A request of this client, which wants to be told the usage.
    pub(super) fn ask(self, gate: &Gate, stream: bool) -> Ask<'_> {
        let said = json!([{"role": "user", "content": "Say it."}]);
        let ask = match self {
            Self::Chat if stream => return gate.ask("Say it.").streamed_with_usage(),
            Self::Chat => return gate.ask("Say it."),
            Self::Messages => gate.ask_at(
                "/v1/messages",
                json!({"model": "auto", "max_tokens": 16, "messages": said}),
            ),
            Self::Responses => gate.ask_at(
                "/v1/responses",
                json!({"model": "auto", "max_output_tokens": 16, "input": said}),
            ),
        };
        if stream { ask.streamed() } else { ask }
    }

    /// The answer's text, streamed or not.
    pub(super) fn text(self, answer: &Answer) -> String {
        let texts: Vec<Value> = match (self, answer.is_stream()) {
            (Self::Chat, _) => return answer.text(),
            (Self::Messages, true) => answer
                .named_events()
                .into_iter()
                .map(|(_, data)| data["delta"]["text"].clone())
                .collect(),
            (Self::Messages, false) => each(&answer.json()["content"], "text"),
            (Self::Responses, true) => {
                let deltas = answer.named_events().into_iter();
                let of_text = |(name, data): (String, Value)| {
                    (name == "response.output_text.delta").then(|| data["delta"].clone())
                };
                deltas.filter_map(of_text).collect()
            }
            (Self::Responses, false) => each(&answer.json()["output"][0]["content"], "text"),
        };
        texts.iter().filter_map(Value::as_str).collect()
    }

    /// Whether a stream came to its proper end.
    pub(super) fn ended(self, answer: &Answer) -> bool {
        match self {
            Self::Chat => answer.done(),
            Self::Messages => last(answer).0 == "message_stop",
            Self::Responses => {
                let (name, data) = last(answer);
                name == "response.completed" && data["response"]["status"] == "completed"
            }
        }
    }

    /// The tokens of prompt and answer that it is told.
    pub(super) fn told(self, answer: &Answer) -> (Value, Value) {
        let usage = match (self, answer.is_stream()) {
            (Self::Chat, _) => {
                let usage = answer.usage();
                return (usage["prompt_tokens"].clone(), usage["completion_tokens"].clone());
            }
            (_, false) => answer.json()["usage"].clone(),
            // Of each count the last one holds: Anthropic tells the prompt's with the beginning alone.
            (Self::Messages, true) => {
                let events = answer.named_events().into_iter();
                let told = events.filter_map(|(name, data)| match name.as_str() {
                    "message_start" => Some(data["message"]["usage"].clone()),
                    "message_delta" => Some(data["usage"].clone()),
                    _ => None,
                });
                let mut usage = json!({});
                for count in told.filter_map(|told| told.as_object().cloned()).flatten() {
                    usage[count.0] = count.1;
                }
                usage
            }
            (Self::Responses, true) => last(answer).1["response"]["usage"].clone(),
        };
        (usage["input_tokens"].clone(), usage["output_tokens"].clone())
    }

    /// Asserts that a stream which broke says so as its last word, in this client's format.
    pub(super) fn hears_the_break(self, answer: &Answer, what: &str) {
        assert!(!self.ended(answer), "{what}: no proper end");
        let message = match self {
            Self::Chat => {
                let last = answer.events().pop().expect("an event");
                let last: Value = serde_json::from_str(&last).expect("JSON");
                last["error"]["message"].clone()
            }
            Self::Messages => {
                let (name, data) = last(answer);
                assert_eq!((name.as_str(), &data["type"]), ("error", &json!("error")), "{what}");
                assert_eq!(data["error"]["type"], "api_error", "{what}: {data}");
                data["error"]["message"].clone()
            }
            Self::Responses => {
                let (name, data) = last(answer);
                assert_eq!(name, "response.failed", "{what}");
                assert_eq!(data["response"]["status"], "failed", "{what}");
                assert_eq!(data["response"]["error"]["code"], "server_error", "{what}");
                data["response"]["error"]["message"].clone()
            }
        };
        assert!(message.as_str().is_some_and(|it| !it.is_empty()), "{what}: it says why");
    }

    /// Asserts that the events of a stream stand as this format has them: named as they say of
    /// themselves, numbered without a gap where they are numbered.
    pub(super) fn reads_in_order(self, answer: &Answer, what: &str) {
        if self == Self::Chat || !answer.is_stream() {
            return;
        }
        for (at, (name, data)) in answer.named_events().iter().enumerate() {
            assert_eq!(data["type"], json!(name), "{what}");
            if self == Self::Responses {
                assert_eq!(data["sequence_number"], json!(at), "{what}: {name}");
            }
        }
    }

    /// Asserts that an error has the shape of this client's format, and is of the kind that goes
    /// with its status.
    pub(super) fn is_refused(self, answer: &Answer, status: u16, kind: Refused, what: &str) {
        assert_eq!(answer.status, status, "{what}: {}", answer.body_text());
        match self {
            Self::Chat | Self::Responses => {
                let error = answer.error();
                let found = (error.kind.as_str(), error.code.as_deref());
                assert_eq!(found, (kind.openai.0, Some(kind.openai.1)), "{what}");
            }
            Self::Messages => {
                let body = answer.json();
                assert_eq!(body["type"], "error", "{what}: {body}");
                assert_eq!(body["error"]["type"], kind.anthropic, "{what}: {body}");
                assert!(body["error"]["message"].is_string(), "{what}: {body}");
                assert_eq!(body["request_id"], answer.id(), "{what}");
            }
        }
    }
}

/// An error in the words of each format.
#[derive(Clone, Copy)]
pub(super) struct Refused {
    /// OpenAI's `type` and `code`.
    pub(super) openai: (&'static str, &'static str),
    /// Anthropic's `type`.
    pub(super) anthropic: &'static str,
}

fn each(list: &Value, member: &str) -> Vec<Value> {
    list.as_array().into_iter().flatten().map(|it| it[member].clone()).collect()
}

/// The last event of a stream whose events are named.
fn last(answer: &Answer) -> (String, Value) {
    answer.named_events().pop().expect("an event")
}
