//! Every kind of provider, out and in: what one client's request becomes for it, and what is read in
//! its published answers. The files are in `providers/golden`; `UPDATE_GOLDEN=1` writes them anew, and
//! the difference is then to be read.
//!
//! The answers have the shape, and where there are any the numbers, of the examples that each
//! provider publishes at the address beside its kind; ids and texts are shortened.

use super::*;
use crate::{
    providers::{KIND_NAMES, probe},
    wire::{DeltaKind, Event, FinishReason, read_chat},
};
use http_body_util::BodyExt as _;
use policies::{ServiceTier, Usage, UsageSource};
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// A kind, a model of it, the address where it has none of its own, and where its answers are shown.
struct Case(&'static str, &'static str, Option<&'static str>, &'static str);

const CASES: [Case; 15] = [
    // The usage of a cached prompt is that of /docs/guides/prompt-caching, the stream's that of
    // /docs/guides/reasoning.
    Case("openai", "gpt-4.1", None, "https://platform.openai.com/docs/api-reference/chat"),
    Case(
        "azure",
        "my-deployment",
        Some("https://name.openai.azure.com/openai/v1"),
        "https://learn.microsoft.com/azure/ai-foundry/openai/reference",
    ),
    // The usage with one-hour writes is that of /build-with-claude/prompt-caching, the stream that of
    // /build-with-claude/streaming.
    Case(
        "anthropic",
        "claude-sonnet-4-5",
        None,
        "https://platform.claude.com/docs/en/api/messages",
    ),
    // The cached prompt is that of /docs/caching, the stream that of /docs/thinking.
    Case("gemini", "gemini-2.5-flash", None, "https://ai.google.dev/api/generate-content"),
    // A cached prompt's write is that of /docs/use-cases/usage-accounting.
    Case(
        "openrouter",
        "anthropic/claude-sonnet-4.5",
        None,
        "https://openrouter.ai/docs/api-reference/overview",
    ),
    Case("mistral", "mistral-small-latest", None, "https://docs.mistral.ai/api"),
    // The cached prompt's counts are those of /guides/kv_cache.
    Case(
        "deepseek",
        "deepseek-chat",
        None,
        "https://api-docs.deepseek.com/api/create-chat-completion",
    ),
    Case("groq", "openai/gpt-oss-120b", None, "https://console.groq.com/docs/api-reference"),
    // Reasoning is counted beside the completion: 32 + 9 + 94 = 135.
    Case("xai", "grok-4.3", None, "https://docs.x.ai/docs/api-reference"),
    Case(
        "together",
        "meta-llama/Meta-Llama-3.1-8B-Instruct-Turbo",
        None,
        "https://docs.together.ai/reference/chat-completions-1",
    ),
    Case(
        "vllm",
        "Qwen/Qwen3-8B",
        Some("http://vllm.internal:8000/v1"),
        "https://docs.vllm.ai/en/latest/features/reasoning_outputs",
    ),
    Case(
        "llama-server",
        "smollm2.gguf",
        Some("http://127.0.0.1:8080/v1"),
        "https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md",
    ),
    Case("ollama", "llama3.2", None, "https://docs.ollama.com/api/openai-compatibility"),
    Case("tollgate", "auto", Some("https://gate.internal:8655/v1"), "this repository"),
    // Usage that nobody reports is not read; who relays it estimates.
    Case(
        "openai-compatible",
        "any",
        Some("https://any.example/v1"),
        "no example: usage that nobody reports",
    ),
];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/providers/golden")
}

fn read(name: &str) -> Bytes {
    let path = folder().join(name);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).into()
}

fn compare(name: &str, found: &str) {
    let path = folder().join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{name}");
}

fn route(case: &Case) -> CloudRoute {
    route_of_version(case, None)
}

fn route_of_version(Case(kind, model, base_url, _): &Case, version: Option<&str>) -> CloudRoute {
    let kind = Kind::find(kind).unwrap();
    let base_url = base_url.or(kind.base_url()).unwrap();
    let config = CloudConfig {
        kind,
        model: (*model).to_owned(),
        cap_field: kind.cap_field(version, model),
        api_version: version.map(str::to_owned),
        headers: Vec::new(),
        ..tests::config(base_url)
    };
    CloudRoute::new(config).unwrap()
}

fn request(stream: bool) -> ChatRequest {
    let client = String::from_utf8(read("client.json").to_vec()).unwrap();
    let client = client.replace("\"stream\":true", &format!("\"stream\":{stream}"));
    let mut request = read_chat(client.into(), &HeaderMap::new(), 500).unwrap();
    request.answer_by = Some(Instant::now() + Duration::from_millis(1500));
    request
}

/// A request as it goes out; `KEY` stands for the key.
async fn written(mut sent: Request) -> String {
    let mut text = format!("{} {}\n", sent.method(), sent.url());
    let mut lines: Vec<String> = sent
        .headers()
        .iter()
        .map(|(name, value)| format!("{name}: {}\n", value.to_str().unwrap()))
        .collect();
    lines.sort();
    let body = sent.body_mut().take().unwrap().collect().await.unwrap().to_bytes();
    write!(text, "{}\n{}\n", lines.concat(), str::from_utf8(&body).unwrap()).unwrap();
    text.replace(tests::KEY, "KEY")
}

#[tokio::test(start_paused = true)]
async fn one_clients_request_is_what_each_kind_takes() {
    for case in CASES {
        let sent = route(&case).outbound(&request(true), 300, Departure::default()).unwrap();
        compare(&format!("{}/sent.txt", case.0), &written(sent).await);
    }
}

/// The ids of one call and of its result, as they are sent to a provider.
fn ids(sent: &Value) -> Vec<String> {
    match sent {
        Value::Object(members) => members
            .iter()
            .flat_map(|(name, value)| match (name.as_str(), value) {
                ("id" | "tool_call_id" | "tool_use_id", Value::String(id)) => vec![id.clone()],
                _ => ids(value),
            })
            .collect(),
        Value::Array(elements) => elements.iter().flat_map(ids).collect(),
        _ => Vec::new(),
    }
}

#[tokio::test]
async fn a_call_of_any_kind_is_answered_on_every_other() {
    let bare = "call_0199aabbccdd7eefb0123456789abcde";
    let made_by = [
        bare.to_owned(),
        format!("{bare}__thought__CpcB/ab+cd=="),
        "toolu_01A09q90qw90lq917835lq9".to_owned(),
        "functions.look:0".to_owned(),
        "D681PevKs".to_owned(),
    ];
    for (case, id) in CASES.iter().flat_map(|case| made_by.iter().map(move |id| (case, id))) {
        let call = json!({"id": id, "type": "function",
            "function": {"name": "look", "arguments": "{\"at\":\"a cat\"}"}});
        let asked = json!({"model": "auto", "messages": [
            {"role": "user", "content": "Look."},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": id, "content": "A cat."},
        ]});
        let asked = read_chat(asked.to_string().into(), &HeaderMap::new(), 500).unwrap();
        let sent = route(case).body(&asked, 300).unwrap();
        let sent: Value = serde_json::from_slice(&sent).unwrap();
        let takes = |id: &str| match case.0 {
            "anthropic" => {
                id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte))
            }
            "mistral" => id.len() == 9 && id.bytes().all(|byte| byte.is_ascii_alphanumeric()),
            "tollgate" | "openai-compatible" => true,
            _ => id.len() <= 40,
        };
        match ids(&sent["messages"]).as_slice() {
            [call, result] => {
                assert!(call == result && takes(call), "{}: {call} {result}", case.0);
                assert!(call == id || !takes(id), "{}: {id} is {call}", case.0);
            }
            others => assert!(case.0 == "gemini" && others.is_empty(), "{}: {others:?}", case.0),
        }
    }
}

/// The dated versions of Azure's API, from one before usage in a stream to the newest.
#[tokio::test(start_paused = true)]
async fn one_clients_request_is_what_each_version_of_azures_takes() {
    let address = Some("https://name.openai.azure.com");
    for version in ["2024-06-01", "2024-10-21", "2025-04-01-preview"] {
        let case = Case("azure", "my-deployment", address, "");
        let sent = route_of_version(&case, Some(version))
            .outbound(&request(true), 300, Departure::default())
            .unwrap();
        compare(&format!("azure/sent-{version}.txt"), &written(sent).await);
    }
}

/// Every endpoint of a dated version, and what asks whether the provider is there, name the version.
#[test]
fn each_request_to_a_dated_version_of_azures_names_it() {
    let address = "https://name.openai.azure.com";
    let config = CloudConfig {
        kind: Kind::find("azure").unwrap(),
        model: "my-deployment".to_owned(),
        api_version: Some("2024-10-21".to_owned()),
        ..tests::config(address)
    };
    let urls = Urls::of_provider(&config).unwrap();
    for (url, path) in [
        (&urls.chat, "chat/completions"),
        (&urls.streamed_chat, "chat/completions"),
        (&urls.completions, "completions"),
        (&urls.embeddings, "embeddings"),
    ] {
        let expected =
            format!("{address}/openai/deployments/my-deployment/{path}?api-version=2024-10-21");
        assert_eq!(url.as_str(), expected);
    }
    let probed = probe(&client(&config).unwrap(), &config).unwrap();
    let expected = format!("{address}/openai/models?api-version=2024-10-21");
    assert_eq!(probed.url().as_str(), expected);
}

#[tokio::test]
async fn what_each_kind_answers_is_read() {
    for case in CASES {
        for (name, stream) in [("whole.json", false), ("stream.sse", true)] {
            let file = format!("{}/{name}", case.0);
            let seen = answered(&case, read(&file), stream).await;
            compare(&format!("{file}.seen.txt"), &format!("{seen}\nfrom {}\n", case.3));
        }
    }
}

#[test]
fn no_kind_is_left_out() {
    assert_eq!(CASES.map(|case| case.0), KIND_NAMES);
}

/// What is read in an answer of these bytes.
async fn answered(case: &Case, body: Bytes, stream: bool) -> String {
    let route = route(case);
    let content_type = if stream { "text/event-stream" } else { "application/json" };
    let response = http::Response::builder().header("content-type", content_type);
    let response = response.body(body).unwrap().into();
    let place = route.place().await.unwrap();
    let watch = Watch::new(route.limits, Instant::now(), stream);
    let format = route.kind.format();
    let errors = Arc::clone(&route.errors);
    let mut answer =
        CloudAnswer::new(response, place, &request(stream), watch, format, errors).unwrap();
    let mut read = Summary::default();
    while let Some(event) = answer.next().await {
        read.add(event.unwrap());
    }
    read.service = read.service.or(answer.service());
    read.shown()
}

/// What an answer's events come to.
#[derive(Default)]
struct Summary {
    visible: u64,
    reasoning: u64,
    finish: Option<FinishReason>,
    usage: Option<Usage>,
    source: Option<UsageSource>,
    service: Option<ServiceTier>,
}

impl Summary {
    fn add(&mut self, event: Event) {
        match event {
            Event::Chunk { seen, .. } | Event::Whole { seen, .. } | Event::Own { seen, .. } => {
                self.visible += u64::from(seen.visible_bytes);
                self.reasoning += u64::from(seen.reasoning_bytes);
                self.finish = seen.finish.or(self.finish.take());
                self.source = seen.usage.map(|_| UsageSource::Reported).or(self.source);
                self.usage = seen.usage.or(self.usage);
                self.service = seen.service.or(self.service);
            }
            Event::Delta(delta) => {
                self.visible += delta.visible_bytes();
                self.reasoning += delta.reasoning_bytes();
                if let DeltaKind::Finish(reason) = delta.kind {
                    self.finish = Some(reason);
                }
            }
            Event::End { usage, source, .. } => {
                self.usage = Some(usage);
                self.source = Some(source);
            }
            Event::Begin { .. } => {}
            Event::Vectors(_) => panic!("vectors of a chat"),
            Event::Written { .. } => panic!("nobody shares it"),
        }
    }

    fn shown(&self) -> String {
        let Self { visible, reasoning, finish, usage, source, service } = self;
        let usage = usage.map_or_else(
            || "no usage".to_owned(),
            |usage| {
                let Usage { input, cache_read, cache_write_5m, cache_write_1h, .. } = usage;
                let Usage { output, reasoning, .. } = usage;
                format!(
                    "input {input} + read {cache_read} + write {cache_write_5m} + write for an \
                     hour {cache_write_1h}, output {output} + reasoning {reasoning}"
                )
            },
        );
        format!(
            "{visible} bytes visible, {reasoning} of reasoning; finish {finish:?}; {usage}; \
             {source:?}; {service:?}"
        )
    }
}
