//! Asking for an answer, and what came back.

use super::{Gate, Key, documented, header};
use bytes::Bytes;
use reqwest::{Method, RequestBuilder, header::HeaderMap};
use serde_json::{Value, json};

/// A request that is being put together.
pub(crate) struct Ask<'g> {
    gate: &'g Gate,
    path: &'static str,
    secret: String,
    body: Value,
    headers: Vec<(String, String)>,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    /// Whether the body came to its proper end.
    pub(crate) whole: bool,
}

/// An answer of which the head has come; dropping it is leaving.
pub(crate) struct Open {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    response: reqwest::Response,
    seen: Vec<u8>,
    /// What was asked: a method and a path.
    asked: (Method, String),
}

/// The error object of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ErrorSeen {
    pub(crate) message: String,
    pub(crate) kind: String,
    pub(crate) param: Option<String>,
    pub(crate) code: Option<String>,
}

impl Gate {
    /// Asks the policy's choice for an answer to this text.
    pub(crate) fn ask(&self, text: &str) -> Ask<'_> {
        let body = json!({
            "model": "auto",
            "messages": [{"role": "user", "content": text}],
            "max_tokens": 16,
            "temperature": 0,
        });
        self.ask_at("/v1/chat/completions", body)
    }

    /// Asks an endpoint with this body.
    pub(crate) fn ask_at(&self, path: &'static str, body: Value) -> Ask<'_> {
        let secret = self.key().secret.clone();
        Ask { gate: self, path, secret, body, headers: Vec::new() }
    }
}

impl Ask<'_> {
    /// As a stream.
    pub(crate) fn streamed(self) -> Self {
        self.set("stream", json!(true))
    }

    /// As a stream with a usage chunk.
    pub(crate) fn streamed_with_usage(self) -> Self {
        self.streamed().set("stream_options", json!({"include_usage": true}))
    }

    /// From this model or route.
    pub(crate) fn from(self, model: &str) -> Self {
        self.set("model", json!(model))
    }

    /// With at most so many answer tokens.
    pub(crate) fn at_most(self, tokens: u64) -> Self {
        self.set("max_tokens", json!(tokens))
    }

    /// With this field of the body.
    pub(crate) fn set(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self
    }

    /// With this header.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// With this key.
    pub(crate) fn by(mut self, key: &Key) -> Self {
        self.secret.clone_from(&key.secret);
        self
    }

    fn request(&self) -> RequestBuilder {
        let url = format!("{}{}", self.gate.url(), self.path);
        let mut request = self
            .gate
            .client
            .post(url)
            .bearer_auth(&self.secret)
            .header("content-type", "application/json")
            .body(self.body.to_string());
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request
    }

    /// Sends it and reads the whole answer.
    pub(crate) async fn send(self) -> Answer {
        Answer::of(self.request()).await
    }

    /// Sends it and waits for the answer's head.
    pub(crate) async fn open(self) -> Open {
        Open::of(self.request()).await
    }

    /// Sends it and leaves once `until` is over, or with the answer if that was faster.
    pub(crate) async fn leave_after(self, until: impl Future<Output = ()>) {
        let answer = self.request().send();
        tokio::select! {
            biased;
            () = until => {}
            _answered = answer => {}
        }
    }

    /// Sends it and leaves before the head, once `until` is over.
    pub(crate) async fn leave_before_head(self, until: impl Future<Output = ()>) {
        let answer = self.request().send();
        tokio::select! {
            answer = answer => panic!("answered before the client left: {answer:?}"),
            () = until => {}
        }
    }
}

impl Open {
    /// Sends a request and waits for the answer's head.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        let (client, request) = request.build_split();
        let request = request.expect("a request");
        let asked = (request.method().clone(), request.url().path().to_owned());
        let response = client.execute(request).await.expect("an answer");
        Self {
            status: response.status().as_u16(),
            headers: response.headers().clone(),
            response,
            seen: Vec::new(),
            asked,
        }
    }

    /// Reads until so many events with visible text have come.
    pub(crate) async fn read_pieces(&mut self, pieces: usize) {
        while texts(&self.seen).len() < pieces {
            match self.response.chunk().await.expect("more of the stream") {
                Some(bytes) => self.seen.extend_from_slice(&bytes),
                None => panic!("the stream ended early: {}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }

    /// Reads until the text so far is what is waited for.
    pub(crate) async fn read_until(&mut self, is_enough: impl Fn(&str) -> bool) {
        while !is_enough(&String::from_utf8_lossy(&self.seen)) {
            match self.response.chunk().await.expect("more of the stream") {
                Some(bytes) => self.seen.extend_from_slice(&bytes),
                None => panic!("the stream ended early: {}", String::from_utf8_lossy(&self.seen)),
            }
        }
    }

    /// Reads the rest, and holds the answer against the OpenAPI document.
    pub(crate) async fn rest(mut self) -> Answer {
        let mut whole = true;
        loop {
            match self.response.chunk().await {
                Ok(Some(bytes)) => self.seen.extend_from_slice(&bytes),
                Ok(None) => break,
                Err(_) => {
                    whole = false;
                    break;
                }
            }
        }
        let (method, path) = self.asked;
        let (status, headers, body) = (self.status, self.headers, self.seen.into());
        let answer = Answer { status, headers, body, whole };
        documented::check(method.as_str(), &path, &answer);
        answer
    }

    /// Closes the connection here.
    pub(crate) fn leave(self) {
        drop(self.response);
    }
}

impl Answer {
    /// Sends a request and reads its whole answer.
    pub(crate) async fn of(request: RequestBuilder) -> Self {
        Open::of(request).await.rest().await
    }

    /// The body as text.
    pub(crate) fn body_text(&self) -> String {
        String::from_utf8(self.body.to_vec()).expect("UTF-8")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", self.body_text()))
    }

    /// Asserts that it is an answer and not an error.
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.status, 200, "{}", self.body_text());
        self
    }

    /// The header's value, empty where it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        header(&self.headers, name)
    }

    /// Its request id.
    pub(crate) fn id(&self) -> &str {
        let id = self.header("x-request-id");
        assert!(!id.is_empty(), "no x-request-id on {}", self.status);
        id
    }

    /// Whether it is a stream.
    pub(crate) fn is_stream(&self) -> bool {
        self.header("content-type").starts_with("text/event-stream")
    }

    /// The text of the answer, streamed or not.
    pub(crate) fn text(&self) -> String {
        if self.is_stream() {
            return texts(&self.body).concat();
        }
        let answer = self.json();
        answer["choices"][0]["message"]["content"]
            .as_str()
            .unwrap_or_else(|| panic!("no text in {answer}"))
            .to_owned()
    }

    /// The data of every event of a stream, `[DONE]` too.
    pub(crate) fn events(&self) -> Vec<String> {
        events(&self.body)
    }

    /// The name and the data of every event of a stream whose events are named.
    pub(crate) fn named_events(&self) -> Vec<(String, Value)> {
        let text = self.body_text();
        let events = text.split_terminator("\n\n").map(|event| {
            let (name, data) = event.split_once("\ndata: ").unwrap_or_else(|| panic!("{event}"));
            let name = name.strip_prefix("event: ").expect("a name").to_owned();
            (name, serde_json::from_str(data).expect("JSON"))
        });
        events.collect()
    }

    /// The chunks of a stream.
    pub(crate) fn chunks(&self) -> Vec<Value> {
        self.events()
            .iter()
            .filter(|data| *data != "[DONE]")
            .map(|data| serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")))
            .collect()
    }

    /// Whether a stream ended with `[DONE]`.
    pub(crate) fn done(&self) -> bool {
        self.events().last().is_some_and(|data| data == "[DONE]")
    }

    /// The finish reason.
    pub(crate) fn finish(&self) -> String {
        let found: Vec<String> = if self.is_stream() {
            let reason =
                |chunk: &Value| chunk["choices"][0]["finish_reason"].as_str().map(str::to_owned);
            self.chunks().iter().filter_map(reason).collect()
        } else {
            vec![self.json()["choices"][0]["finish_reason"].as_str().expect("a reason").to_owned()]
        };
        assert_eq!(found.len(), 1, "one finish reason, not {found:?}");
        found[0].clone()
    }

    /// The usage it reports; `null` where there is none.
    pub(crate) fn usage(&self) -> Value {
        if !self.is_stream() {
            return self.json()["usage"].clone();
        }
        let mut found: Vec<Value> =
            self.chunks().iter().map(|c| c["usage"].clone()).filter(|u| !u.is_null()).collect();
        assert!(found.len() <= 1, "usage came more than once");
        found.pop().unwrap_or_default()
    }

    /// Its `usage.cost` is so many pico-USD.
    pub(crate) fn tells_cost(&self, cost: u128) {
        // A number of JSON, and the amounts here are far below what a float tells apart.
        let said = self.usage()["cost"].as_f64().expect("usage.cost") * 1e12;
        assert!((said - cost as f64).abs() < 0.5, "{said} said, {cost} booked");
    }

    /// The error object; also asserts its shape.
    pub(crate) fn error(&self) -> ErrorSeen {
        assert!(self.status >= 400, "no error: {} {}", self.status, self.body_text());
        assert!(
            self.header("content-type").starts_with("application/json"),
            "an error is JSON, not {}",
            self.header("content-type")
        );
        ErrorSeen::read(&self.json())
    }
}

impl ErrorSeen {
    /// Reads an error object with all of its four fields.
    pub(crate) fn read(body: &Value) -> Self {
        let fields = body["error"].as_object().unwrap_or_else(|| panic!("no error object: {body}"));
        for field in ["message", "type", "param", "code"] {
            assert!(fields.contains_key(field), "an error needs `{field}`: {body}");
        }
        let text = |field: &str| fields[field].as_str().map(str::to_owned);
        let message = text("message").expect("a message");
        assert!(!message.is_empty(), "an empty message");
        Self {
            message,
            kind: text("type").expect("a type"),
            param: text("param"),
            code: text("code"),
        }
    }
}

/// The data of each whole event.
fn events(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split("\n\n")
        .filter_map(|event| event.trim_start_matches('\n').strip_prefix("data: "))
        .map(str::to_owned)
        .collect()
}

/// Every non-empty piece of text.
fn texts(bytes: &[u8]) -> Vec<String> {
    events(bytes)
        .iter()
        .filter_map(|data| serde_json::from_str::<Value>(data).ok())
        .filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned))
        .filter(|text| !text.is_empty())
        .collect()
}
