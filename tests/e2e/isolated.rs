//! An engine in a process of its own serves as one in the gateway's does: its requests wait, expire and
//! make room alike, and whatever becomes of that process, no request hangs and none is left behind.

use crate::harness::{Gate, eventually, signal};
use futures::{StreamExt as _, future::join_all, stream::FuturesUnordered};
use serde_json::{Value, json};

const ISOLATIONS: [&str; 2] = ["in_process", "process"];

async fn a_gate(isolation: &str, more: &str) -> Gate {
    let edge = format!("isolation = \"{isolation}\"\n{more}");
    Gate::builder().policy("edge-first").edge_with(&edge).start().await
}

async fn report(gate: &Gate) -> Value {
    gate.admin("/models/edge").await
}

async fn process(gate: &Gate) -> u64 {
    report(gate).await["process"].as_u64().expect("a process")
}

/// Whether a process computes no more: who would ask how it ended may be gone.
fn is_gone(process: u64) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    state.is_empty() || state.starts_with('Z')
}

/// The processes that this one has started.
fn children_of(parent: u32) -> Vec<u64> {
    let all = std::fs::read_dir("/proc").expect("the processes");
    let numbered = all.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u64>().ok());
    let is_child = |process: &u64| {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
        let after_state = stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1));
        after_state.and_then(|of| of.parse().ok()) == Some(parent)
    };
    numbered.filter(is_child).collect()
}

#[tokio::test]
async fn another_choice_waits_as_long_as_the_first_is_wanted() {
    for isolation in ISOLATIONS {
        let gate = a_gate(isolation, "slots = 2\nqueue_wait_max_ms = 500").await;
        let long = |tokens| {
            let ask = gate.ask("Tell me a long story.").from("edge").at_most(tokens);
            ask.set("ignore_eos", json!(true))
        };
        let mut running = long(900).streamed().open().await;
        running.read_pieces(1).await;
        let two = long(200).set("n", json!(2)).send().await.ok();
        let choices = two.json()["choices"].as_array().expect("choices").len();
        assert_eq!(choices, 2, "{isolation}");
        running.leave();
        gate.until_nothing_is_reserved().await;
    }
}

#[tokio::test]
async fn as_many_wait_as_may_wherever_the_engine_computes() {
    for isolation in ISOLATIONS {
        let gate = a_gate(isolation, "slots = 1\nqueue_max = 2\nqueue_wait_max_ms = 600000").await;
        let mut running = gate.ask("Tell me a long story.").from("edge").at_most(900);
        running = running.set("ignore_eos", json!(true));
        let mut running = running.streamed().open().await;
        running.read_pieces(1).await;
        let ask = || gate.ask("Name a color.").from("edge").at_most(2).send();
        let mut asked: FuturesUnordered<_> = (0..6).map(|_| ask()).collect();
        for _ in 0..4 {
            let refused = asked.next().await.expect("six");
            assert_eq!(refused.status, 503, "{isolation}: {}", refused.body_text());
            assert_eq!(refused.error().code.as_deref(), Some("busy"), "{isolation}");
        }
        running.leave();
        while let Some(answer) = asked.next().await {
            answer.ok();
        }
    }
}

#[tokio::test]
async fn a_process_that_takes_nothing_any_more_is_ended_also_when_the_way_to_it_is_full() {
    // Long enough that the texts have been read and sent by then: the next process would embed them.
    let gate = a_gate("process", "stuck_after_ms = 10000").await;
    let first = process(&gate).await;
    gate.ask("Hello.").from("edge").at_most(2).send().await.ok();
    signal(first, libc::SIGSTOP);
    // More than a socket holds.
    let texts = vec!["one two three four five six seven eight nine ten ".repeat(20); 300];
    let body = json!({ "model": "edge", "input": texts });
    let asked = join_all((0..2).map(|_| gate.post("/v1/embeddings", &body))).await;
    for answer in asked {
        assert_eq!(answer.status, 503, "{}", answer.body_text());
    }
    eventually("another process", || async {
        let report = report(&gate).await;
        let another = report["process"].as_u64().is_some_and(|process| process != first);
        (another && report["state"] == "loaded" && report["faults"] == 1).then_some(())
    })
    .await;
    gate.ask("Hello?").from("edge").at_most(2).send().await.ok();
}

#[tokio::test]
async fn a_process_that_hangs_while_it_loads_does_not_outlive_a_gateway_that_was_killed() {
    let mut gate = a_gate("process", "load = \"first_use\"\ndrill = \"load:3600000\"").await;
    let gateway = gate.child().pid();
    let asked = gate.ask("Tell me a long story.").from("edge").send();
    let begun =
        eventually("the engine's process", || async { children_of(gateway).first().copied() });
    let hangs = tokio::select! {
        _ = asked => panic!("it hangs"),
        process = begun => process,
    };
    assert!(!is_gone(hangs));
    gate.child().kill().await;
    eventually("the end of its engine's process", || async { is_gone(hangs).then_some(()) }).await;
}

#[tokio::test]
async fn a_process_that_hangs_does_not_outlive_a_gateway_that_was_killed() {
    let mut gate = a_gate("process", "drill = \"block:4:3600000\"").await;
    let hangs = process(&gate).await;
    let asked = gate.ask("Tell me a long story.").from("edge").at_most(64).send();
    let stuck = async {
        eventually("an old heartbeat", || async {
            let age = report(&gate).await["heartbeat_age_ms"].as_u64();
            age.is_some_and(|age| age > 2_000).then_some(())
        })
        .await;
    };
    tokio::select! {
        _ = asked => panic!("it hangs"),
        () = stuck => {}
    }
    assert!(!is_gone(hangs));
    gate.child().kill().await;
    eventually("the end of its engine's process", || async { is_gone(hangs).then_some(()) }).await;
}
