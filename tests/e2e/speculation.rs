//! Guessed tokens, as an operator sees them: in an entry, in the engine's numbers, in the metrics.
//! That an answer does not change by them is the engine's own promise, and tested there.

use crate::harness::{Gate, model_file};
use serde_json::json;

const ASKED: &str = "Count from 1 to 60, with commas.";

fn drafting(more: &str) -> String {
    let model = model_file();
    let model = model.display();
    format!("speculation = \"draft\"\ndraft_model = \"{model}\"\ndraft_tokens_max = 4\n{more}")
}

#[tokio::test]
async fn a_draft_model_is_told_of_in_the_entry_and_in_the_numbers() {
    for isolation in ["in_process", "process"] {
        let more = drafting(&format!("isolation = \"{isolation}\""));
        let gate = Gate::builder().policy("edge-first").edge_with(&more).start().await;
        let ask = || gate.ask(ASKED).at_most(32);
        ask().send().await.ok();
        let entry = gate.ledger().only_entry().await;
        let attempt = entry.only_attempt().0;
        let guesses = &attempt["guesses"];
        let (drafted, accepted) = (&guesses["drafted_tokens"], &guesses["accepted_tokens"]);
        assert!(drafted.as_u64() > Some(0), "{isolation}: {attempt}");
        assert!(accepted.as_u64() <= drafted.as_u64() && accepted.as_u64() > Some(0), "{guesses}");

        let ready = gate.get("/ready").await.ok().json();
        assert!(ready["routes"][0]["engine"]["draft_model"].is_string(), "{ready}");
        let route = gate.admin("/routes").await;
        let metrics = gate.metrics().await;
        assert!(
            metrics.contains("tollgate_engine_draft_busy_seconds_total{route=\"edge\"}"),
            "{metrics}"
        );
        if isolation == "in_process" {
            let engine = &route["data"][0]["engine"];
            let draft = &engine["draft_model"];
            assert!(draft["tokens"].as_u64() > Some(0), "{route}");
            assert!(draft["busy_us"].as_u64() <= engine["busy_us"].as_u64(), "{route}");
            assert!(draft["kv_cells_used"].as_u64() <= draft["kv_cells"].as_u64(), "{route}");
        }
    }
}

#[tokio::test]
async fn without_speculation_nothing_is_said_of_guesses() {
    let gate = Gate::builder().policy("edge-first").edge().start().await;
    gate.ask(ASKED).at_most(8).send().await.ok();
    let entry = gate.ledger().only_entry().await;
    assert_eq!(entry.only_attempt().0["guesses"], json!(null));
}
