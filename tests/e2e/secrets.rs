//! Secrets and prompts are in no log, error, metric, file or trace.

use crate::harness::Gate;
use e2e::standin::{Fault, Script, StandIn};
use serde_json::json;
use std::path::Path;

const PROMPT: &str = "canary-prompt-9b1f";
const ANSWER: &str = "canary-answer-77e0";

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

#[tokio::test]
async fn nothing_secret_leaves_by_a_side_door() {
    let cloud = StandIn::start().await.unwrap();
    let impatient = "first_token_timeout_ms = 300\nidle_timeout_ms = 300\ntotal_timeout_ms = 900";
    let mut gate = Gate::builder().cloud_named("cloud", &cloud, impatient).start().await;
    for fault in Fault::ALL {
        if matches!(fault, Fault::SlowHead | Fault::SlowFirst | Fault::SlowBetween) {
            continue;
        }
        for stream in [true, false] {
            cloud.next(Script::says(ANSWER).with(*fault));
            let ask = gate.ask(PROMPT).set("user", json!("canary-user-31c4"));
            let _answer = if stream { ask.streamed() } else { ask }.send().await;
        }
    }
    let wrong = [("authorization", "Bearer canary-wrong-key-5d5d")];
    gate.send("GET", "/v1/models", &wrong, Vec::new()).await;
    gate.post_chat(format!("{{\"model\":\"auto\",\"messages\":\"{PROMPT}\"}}")).await;
    gate.post_chat(format!("{{\"{PROMPT}")).await;

    let key = gate.key().secret.clone();
    let metrics = gate.metrics().await;
    let ready = gate.send("GET", "/ready", &[], Vec::new()).await.body_text();
    gate.stop().await;
    let canaries =
        [PROMPT, ANSWER, "sk-upstream-cloud-canary", "canary-wrong-key-5d5d", key.as_str()];
    let log = gate.log();
    assert!(log.lines().count() > 3, "there is a log to look at");
    for canary in canaries {
        for (place, text) in [("log", &log), ("metrics", &metrics), ("ready", &ready)] {
            assert!(!text.contains(canary), "{canary} is in the {place}");
        }
        for (file, bytes) in files(&gate.builder_ref().data_dir(), &["first.key", "admin.key"]) {
            assert!(!contains(&bytes, canary), "{canary} is in {file}");
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
