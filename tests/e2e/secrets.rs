//! Secrets and prompts are in no log, error, metric, file or trace.

use crate::harness::{Answer, Gate, WEBHOOK_PATH, WEBHOOK_SECRET};
use e2e::{
    receiver::Receiver,
    standin::{Fault, Script, StandIn},
};
use serde_json::json;
use std::path::Path;

const PROMPT: &str = "canary-prompt-9b1f";
const ANSWER: &str = "canary-answer-77e0";
const USER: &str = "canary-user-31c4";
const WRONG_KEY: &str = "canary-wrong-key-5d5d";

/// Every file below a directory, but those named.
fn files(below: &Path, but: &[&str]) -> Vec<(String, Vec<u8>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path, but));
        } else if !but.iter().any(|name| path.ends_with(name)) {
            found.push((path.display().to_string(), std::fs::read(&path).expect("a file")));
        }
    }
    found
}

fn contains(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|window| window == needle.as_bytes())
}

/// A gateway with a cloud, the local model and a receiver of webhooks, whose every answer is kept.
struct Watched {
    cloud: StandIn,
    receiver: Receiver,
    gate: Gate,
    seen: Vec<(String, String)>,
}

async fn watched() -> Watched {
    let (cloud, receiver) = (StandIn::start().await.unwrap(), Receiver::start().unwrap());
    let impatient = "first_token_timeout_ms = 300\nidle_timeout_ms = 300\ntotal_timeout_ms = 900";
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, impatient)
        .edge_with("budgeted = true")
        .webhook("ops", receiver.address(), "")
        .start()
        .await;
    Watched { cloud, receiver, gate, seen: Vec::new() }
}

impl Watched {
    fn keep(&mut self, place: &str, text: impl Into<String>) {
        self.seen.push((place.to_owned(), text.into()));
    }

    /// An answer is its caller's own, and the caller's to see; a refusal repeats none of it.
    fn keep_refusal(&mut self, place: &str, answer: &Answer) {
        if answer.status >= 400 {
            self.keep(place, answer.body_text());
        }
        // What is told in the middle of a stream comes behind what was the answer.
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let fails = |event: &&str| event.replace("\"error\":null", "").contains("\"error\"");
        for event in text.split("\n\n").filter(fails) {
            self.keep(place, event);
        }
        let headers = answer.headers.iter().map(|(name, value)| format!("{name}: {value:?}\n"));
        let headers = headers.collect::<String>();
        self.keep(&format!("{place}, its headers"), headers);
    }

    /// Everything that can befall a request, at either route.
    async fn ask_everything(&mut self) {
        for fault in Fault::ALL {
            if matches!(fault, Fault::SlowHead | Fault::SlowFirst | Fault::SlowBetween) {
                continue;
            }
            for stream in [true, false] {
                self.cloud.next(Script::says(ANSWER).with(*fault));
                let ask = self.gate.ask(PROMPT).from("cloud").set("user", json!(USER));
                let answer = if stream { ask.streamed() } else { ask }.send().await;
                self.keep_refusal(&format!("the answer to {}", fault.name()), &answer);
            }
        }
        self.ask_at_every_endpoint().await;
        let here = |text: &str| self.gate.ask(text).from("edge").set("user", json!(USER));
        let schema = json!({"type": "json_schema", "json_schema": {"name": "x", "schema": 5}});
        let answers = [
            here(PROMPT).at_most(4).send().await,
            here(PROMPT).at_most(4).streamed().send().await,
            here(PROMPT).at_most(1_000_000).send().await,
            here(&format!("{PROMPT} ").repeat(4_000)).send().await,
            here(PROMPT).set("stop", json!([5])).send().await,
            here(PROMPT).set("response_format", schema).send().await,
        ];
        assert_eq!(answers.iter().filter(|answer| answer.status == 200).count(), 2);
        for answer in &answers {
            self.keep_refusal("an answer of the local model", answer);
        }
        let bearer = format!("Bearer {WRONG_KEY}");
        let wrong = [("authorization", bearer.as_str())];
        let unknown = self.gate.send("GET", "/v1/models", &wrong, Vec::new()).await;
        let odd = format!("{{\"model\":\"auto\",\"messages\":\"{PROMPT}\"}}");
        let odd = self.gate.post_chat(odd).await;
        let broken = self.gate.post_chat(format!("{{\"{PROMPT}")).await;
        for answer in [unknown, odd, broken] {
            assert!(answer.status >= 400);
            self.keep_refusal("a refusal", &answer);
        }
    }

    /// Every format that a request can come in, at either route, taken and refused.
    async fn ask_at_every_endpoint(&mut self) {
        let message = json!([{"role": "user", "content": PROMPT}]);
        let asked = [
            ("/v1/responses", json!({"input": PROMPT, "user": USER, "max_output_tokens": 4})),
            // Its `metadata` would be in entries: policies decide by it.
            ("/v1/messages", json!({"messages": message, "max_tokens": 4})),
            ("/v1/messages/count_tokens", json!({"messages": message})),
            ("/v1/completions", json!({"prompt": PROMPT, "user": USER, "max_tokens": 4})),
            ("/v1/embeddings", json!({"input": PROMPT, "user": USER})),
        ];
        for (path, asked) in asked {
            for (route, stream) in
                [("edge", false), ("edge", true), ("cloud", false), ("cloud", true)]
            {
                let (counts, embeds) =
                    (path.ends_with("count_tokens"), path.ends_with("embeddings"));
                let mut body = asked.clone();
                body["model"] = json!(route);
                if stream && !counts && !embeds {
                    body["stream"] = json!(true);
                }
                if route == "cloud" && !counts {
                    self.cloud.next(Script::says(ANSWER));
                }
                let answer = self.gate.post(path, &body).await;
                self.keep_refusal(&format!("{path} of {route}"), &answer);
                // What cannot be read may be quoted nowhere either.
                body[PROMPT] = json!({PROMPT: PROMPT});
                body["temperature"] = json!([PROMPT]);
                let refused = self.gate.post(path, &body).await;
                self.keep_refusal(&format!("a refusal of {path} of {route}"), &refused);
            }
        }
    }

    /// Everything that an operator, or anybody, can look at.
    async fn look_everywhere(&mut self) {
        let metrics = self.gate.metrics().await;
        self.keep("the metrics", metrics);
        let ready = self.gate.send("GET", "/ready", &[], Vec::new()).await.body_text();
        self.keep("/ready", ready);
        for path in [
            "/keys",
            "/routes",
            "/models",
            "/events",
            "/webhooks",
            "/reservations",
            "/refusals",
            "/guard",
            "/ledger/requests?limit=1000",
            "/ledger/summary",
            "/ledger/export?format=csv",
            "/ledger/export?format=jsonl",
            "/ledger/export?format=focus",
        ] {
            let text = self.gate.admin_text(path).await;
            self.keep(path, text);
        }
        for entry in self.gate.ledger().entries().await {
            let whole = self.gate.ledger().entry(&entry.id()).await;
            self.keep("an entry", whole.0.to_string());
        }
        let told = self.receiver.until(|told| !told.is_empty()).await.unwrap();
        for (_, asked) in told {
            self.keep("a webhook", String::from_utf8_lossy(&asked.body));
        }
        self.gate.stop().await;
        let log = self.gate.log();
        assert!(log.lines().count() > 3, "there is a log to look at");
        self.keep("the log", log);
    }
}

#[tokio::test]
async fn nothing_secret_leaves_by_a_side_door() {
    let mut all = watched().await;
    // Events are told of this key's budget with its first request.
    let budget = json!([{"window": "total", "money_usd": "0.000000000001", "hard": false}]);
    let key = all.gate.new_key().set("budgets", budget).create().await;
    all.gate.ask(PROMPT).by(&key).set("user", json!(USER)).send().await.ok();
    all.ask_everything().await;
    all.look_everywhere().await;
    let own = [all.gate.key().secret.clone(), key.secret, all.gate.admin_key().to_owned()];
    let canaries = [PROMPT, ANSWER, USER, WRONG_KEY, "sk-upstream-cloud-canary"];
    let canaries = canaries.into_iter().chain([WEBHOOK_SECRET, WEBHOOK_PATH]);
    let files = files(&all.gate.builder_ref().data_dir(), &["first.key", "admin.key"]);
    for canary in canaries.chain(own.iter().map(String::as_str)) {
        for (place, text) in &all.seen {
            assert!(!text.contains(canary), "{canary} is in {place}: {text:.2000}");
        }
        for (file, bytes) in &files {
            assert!(!contains(bytes, canary), "{canary} is in {file}");
        }
    }
}

#[tokio::test]
async fn a_key_is_shown_once() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let key = gate.new_key().named("shown once").create().await;
    assert!(key.secret.len() >= 43, "256 bits of randomness need 43 characters");
    let keys = gate.admin("/keys").await.to_string();
    assert!(keys.contains(&key.id) && keys.contains("shown once"));
    assert!(!keys.contains(&key.secret), "only its hint is left");
    let one = gate.admin_send("GET", &format!("/keys/{}", key.id), serde_json::Value::Null).await;
    assert!(!one.body_text().contains(&key.secret));
    assert!(!one.body_text().contains("secret_hash"), "{}", one.body_text());
}

#[tokio::test]
async fn a_providers_refusal_of_our_key_is_not_the_callers_business() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    cloud.next(Script::error(
        401,
        "authentication_error",
        Some("invalid_api_key"),
        "Incorrect API key provided: sk-upstream-cloud-canary.",
    ));
    let answer = gate.ask("Hi.").send().await;
    assert!(answer.status >= 500, "our own key was wrong, not the caller's: {}", answer.status);
    assert!(!answer.body_text().contains("canary"), "{}", answer.body_text());
}
