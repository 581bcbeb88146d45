//! The same prompts over HTTP, against any server that speaks OpenAI's format.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::prompt::Prompt;
use super::{Answer, EngineArgs, Watch};

/// Most bytes of one line of a stream.
const LINE_BYTES_MAX: usize = 1 << 20;

/// A running server.
#[derive(Clone, Debug)]
pub(crate) struct Server {
    client: reqwest::Client,
    url: reqwest::Url,
    key: String,
    model: String,
    /// Tokens that are never drawn.
    never_tokens: Vec<i32>,
}

impl Server {
    /// The server at a base URL.
    pub(crate) fn new(base: &str, args: &EngineArgs) -> Result<Server, String> {
        Server::at(base, &args.key, &args.model, &[])
    }

    /// The server at a base URL, asked never to draw some tokens.
    pub(super) fn at(
        base: &str,
        key: &str,
        model: &str,
        never_tokens: &[i32],
    ) -> Result<Server, String> {
        let url = format!("{}/v1/chat/completions", base.trim_end_matches('/'));
        let url = url.parse().map_err(|e| format!("{url}: {e}"))?;
        // Of a server that closes idle connections, as llama-server does after seconds, none is kept:
        // a request on one that is just being closed would fail.
        let client = crate::http_builder().pool_max_idle_per_host(0).build();
        let client = client.map_err(|e| format!("client: {e}"))?;
        let never_tokens = never_tokens.to_vec();
        Ok(Server { client, url, key: key.to_owned(), model: model.to_owned(), never_tokens })
    }

    /// What was measured.
    pub(crate) fn in_words(&self) -> String {
        format!("a running server over HTTP, model {}; its settings are its own", self.model)
    }

    /// Sends all prompts at once and reads all answers.
    pub(crate) async fn batch(
        &self,
        args: &EngineArgs,
        prompts: &[Prompt],
    ) -> Result<Vec<Answer>, String> {
        let mut readers = JoinSet::new();
        let start = Instant::now();
        for prompt in prompts {
            readers.spawn(self.ask(prompt, args.output_tokens, start));
        }
        let mut answers = Vec::new();
        while let Some(answer) = readers.join_next().await {
            answers.push(answer.map_err(|e| format!("reader: {e}"))??);
        }
        Ok(answers)
    }

    /// Sends one prompt and reads its answer; times count from `start`.
    pub(super) fn ask(
        &self,
        prompt: &Prompt,
        output_tokens: u32,
        start: Instant,
    ) -> impl Future<Output = Result<Answer, String>> + Send + use<> {
        let answer = self.answer(&messages(prompt), output_tokens, start);
        async { answer.await.map(|(answer, _)| answer) }
    }

    /// Sends one prompt, and when it is answered the next turn: all that was said, and `user`. The
    /// answer to that turn.
    pub(super) async fn ask_on(
        &self,
        prompt: &Prompt,
        user: &str,
        output_tokens: u32,
    ) -> Result<Answer, String> {
        let mut said = messages(prompt);
        let (_, text) = self.answer(&said, output_tokens, Instant::now()).await?;
        said.push(json!({"role": "assistant", "content": text}));
        said.push(json!({"role": "user", "content": user}));
        let (answer, _) = self.answer(&said, output_tokens, Instant::now()).await?;
        Ok(answer)
    }

    /// An answer and its text.
    fn answer(
        &self,
        messages: &[Value],
        output_tokens: u32,
        start: Instant,
    ) -> impl Future<Output = Result<(Answer, String), String>> + Send + use<> {
        let mut body = json!({
            "model": self.model,
            "messages": messages,
            "temperature": 0,
            "max_completion_tokens": output_tokens,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        if !self.never_tokens.is_empty() {
            let never = |token: &i32| (token.to_string(), json!(-100));
            let biases: serde_json::Map<_, _> = self.never_tokens.iter().map(never).collect();
            body["logit_bias"] = Value::Object(biases);
        }
        read(self.clone(), body.to_string(), Watch::new(start))
    }
}

fn messages(prompt: &Prompt) -> Vec<Value> {
    vec![
        json!({"role": "system", "content": prompt.system}),
        json!({"role": "user", "content": prompt.user}),
    ]
}

async fn read(server: Server, body: String, mut watch: Watch) -> Result<(Answer, String), String> {
    let request = server.client.post(server.url).bearer_auth(&server.key);
    let request = request.header("content-type", "application/json").body(body);
    let mut answer = request.send().await.map_err(|e| e.to_string())?;
    if !answer.status().is_success() {
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        return Err(format!("status {status}: {text}"));
    }
    let mut buffer = Vec::new();
    let (mut usage, mut said) = (None, String::new());
    while let Some(bytes) = answer.chunk().await.map_err(|e| e.to_string())? {
        buffer.extend_from_slice(&bytes);
        while let Some(end) = memchr::memchr(b'\n', &buffer) {
            let line: Vec<u8> = buffer.drain(..=end).collect();
            match event(&line)? {
                Event::Text(text) => {
                    watch.text();
                    said.push_str(&text);
                }
                Event::Usage(found) => usage = Some(found),
                Event::Other => {}
            }
        }
        if buffer.len() > LINE_BYTES_MAX {
            return Err("a line of the stream is longer than 1 MiB".to_owned());
        }
    }
    let usage = usage.ok_or("the stream had no usage")?;
    let count = |pointer: &str| usage.pointer(pointer).and_then(Value::as_u64);
    let answer = watch.end(
        count("/prompt_tokens").ok_or("usage without prompt_tokens")?,
        count("/prompt_tokens_details/cached_tokens").unwrap_or(0),
        count("/completion_tokens").ok_or("usage without completion_tokens")?,
    )?;
    Ok((answer, said))
}

enum Event {
    Text(String),
    Usage(Value),
    Other,
}

fn event(line: &[u8]) -> Result<Event, String> {
    let Some(payload) = line.trim_ascii().strip_prefix(b"data:") else { return Ok(Event::Other) };
    if payload.trim_ascii() == b"[DONE]" {
        return Ok(Event::Other);
    }
    let json: Value = serde_json::from_slice(payload).map_err(|e| format!("stream: {e}"))?;
    if let Some(error) = json.get("error") {
        return Err(format!("the stream broke: {error}"));
    }
    if let Some(usage) = json.get("usage").filter(|usage| usage.is_object()) {
        return Ok(Event::Usage(usage.clone()));
    }
    let text = json.pointer("/choices/0/delta/content").and_then(Value::as_str);
    Ok(match text {
        None | Some("") => Event::Other,
        Some(text) => Event::Text(text.to_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_visible_text_counts_as_text() {
        let read = |line: &str| event(line.as_bytes());
        let text = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}],\"usage\":null}\r\n";
        assert!(matches!(read(text), Ok(Event::Text(text)) if text == "a"));
        let role = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n";
        assert!(matches!(read(role), Ok(Event::Other)));
        assert!(matches!(read("data: [DONE]\n"), Ok(Event::Other)));
        assert!(matches!(read(": keep-alive\n"), Ok(Event::Other)));
        let usage = "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1}}\n";
        assert!(matches!(read(usage), Ok(Event::Usage(_))));
        assert!(read("data: {\"error\":{\"message\":\"x\"}}\n").is_err());
    }
}
