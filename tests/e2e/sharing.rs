//! Keys that share one model: each has its turn whatever another one does, what is urgent goes first,
//! nobody goes on from another's prompt unless all may, and the operator sees whose request took cells
//! from whose. All of it wherever the engine computes.

use crate::harness::{Gate, Key, Open, eventually, rows};
use e2e::standin::{Script, StandIn};
use futures::{StreamExt as _, stream::FuturesUnordered};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const ISOLATIONS: [&str; 2] = ["in_process", "process"];
const STORY: &str = "Tell me a long story.";

async fn a_gate(isolation: &str, more: &str) -> Gate {
    let edge = format!("isolation = \"{isolation}\"\n{more}");
    Gate::builder().policy("edge-first").edge_with(&edge).start().await
}

async fn engine(gate: &Gate) -> Value {
    let routes = rows(&gate.admin("/routes").await);
    let edge = routes.iter().find(|route| route["id"] == "edge").expect("the edge");
    edge["engine"].clone()
}

/// A request that keeps its slot until it is let go.
async fn busy(gate: &Gate) -> Open {
    let ask = gate.ask(STORY).from("edge").at_most(1900).set("ignore_eos", json!(true));
    let mut running = ask.streamed().open().await;
    running.read_pieces(1).await;
    running
}

async fn until_waiting(gate: &Gate, count: u64) {
    eventually("requests in the queue", || async {
        let routes = rows(&gate.admin("/routes").await);
        (routes[0]["queued"].as_u64() >= Some(count)).then_some(())
    })
    .await;
}

/// A prompt of a few hundred tokens that begins like no other one's.
fn long(begins: &str) -> String {
    format!("{begins}: {}", "the quick brown fox jumps over the lazy dog; ".repeat(20))
}

#[tokio::test]
async fn a_key_that_floods_the_queue_is_told_so_and_shuts_no_other_out() {
    /// Requests that take so long, as far as that can be chosen, against the wait that is allowed.
    const EACH: Duration = Duration::from_millis(400);
    for isolation in ISOLATIONS {
        let gate =
            a_gate(isolation, "slots = 1\nqueue_max = 1000\nqueue_wait_max_ms = 10000").await;
        let (one, another) = (gate.new_key().create().await, gate.new_key().create().await);
        let ask = |key: &Key, tokens: u64| {
            let ask = gate.ask(STORY).by(key).at_most(tokens);
            ask.set("ignore_eos", json!(true)).send()
        };
        ask(&one, 32).await.ok();
        let begun = Instant::now();
        ask(&one, 32).await.ok();
        let each = begun.elapsed().as_millis().max(1);
        let tokens = u64::try_from(32 * EACH.as_millis() / each).unwrap_or(32).clamp(4, 400);
        ask(&one, tokens).await.ok();

        let mut flood: FuturesUnordered<_> = (0..150).map(|_| ask(&one, tokens)).collect();
        let refused = loop {
            let answer = flood.next().await.expect("one that is refused");
            if answer.status != 200 {
                break answer;
            }
        };
        let code = refused.error().code;
        assert_eq!((refused.status, code.as_deref()), (503, Some("busy")), "{isolation}");
        // At once: who was tried and waited in vain has an entry, and is not among these.
        let metrics = gate.metrics().await;
        assert!(metrics.contains("tollgate_refusals_total{code=\"busy\"}"), "{metrics}");
        for _ in 0..3 {
            let asked = ask(&another, 2);
            // The flood is read meanwhile.
            let others = async { while flood.next().await.is_some() {} };
            let answer = tokio::select! {
                answer = asked => answer,
                () = async { others.await; std::future::pending().await } => continue,
            };
            assert_eq!(answer.status, 200, "{isolation}: {}", answer.body_text());
        }
    }
}

#[tokio::test]
async fn a_policy_sees_how_long_its_request_would_wait() {
    let cloud = StandIn::start().await.unwrap();
    cloud.always(Script::says("From the cloud.").using(1, 1));
    let policy = "description = \"by waits\"\n\
        [[choose]]\nname = \"waits\"\nwhen.routes.edge.predicted_wait.gt = \"1ms\"\nroutes = [\"cloud\"]\n\
        [[choose]]\nname = \"known\"\nwhen.routes.edge.predicted_ttft_p95.gt = \"1ms\"\nroutes = [\"edge\"]\n\
        [[choose]]\nname = \"unknown\"\nroutes = [\"edge\"]\n";
    for isolation in ISOLATIONS {
        let edge = format!("isolation = \"{isolation}\"\nslots = 1");
        let gate = Gate::builder().cloud_named("cloud", &cloud, "").edge_with(&edge);
        let gate = gate.policy_text(policy).start().await;
        let rule = || async {
            let answer = gate.ask(&long("Read this")).at_most(2).send().await.ok();
            gate.ledger().entry(answer.id()).await.rule()
        };
        assert_eq!(rule().await, "unknown", "{isolation}: nothing was computed yet");
        eventually("a percentile", || async { (rule().await == "known").then_some(()) }).await;
        let running = busy(&gate).await;
        eventually("a wait", || async { (rule().await == "waits").then_some(()) }).await;
        running.leave();
        eventually("no wait", || async { (rule().await == "known").then_some(()) }).await;
    }
}

#[tokio::test]
async fn the_wait_that_operators_see_counts_all_who_wait() {
    for isolation in ISOLATIONS {
        let gate = a_gate(isolation, "slots = 1\nqueue_wait_max_ms = 600000").await;
        let wait = || async { engine(&gate).await["predicted_wait_us"].as_u64() };
        gate.ask(STORY).at_most(64).set("ignore_eos", json!(true)).send().await.ok();
        let running = busy(&gate).await;
        let before = eventually("a wait", || async { wait().await.filter(|us| *us > 0) }).await;
        let ask = || gate.ask(STORY).at_most(64).set("ignore_eos", json!(true)).send();
        let mut asked: FuturesUnordered<_> = (0..8).map(|_| ask()).collect();
        let seen = async {
            until_waiting(&gate, 7).await;
            let after = wait().await.expect("known");
            assert!(after > before * 3, "{isolation}: {after} with eight, {before} with none");
            running.leave();
        };
        tokio::select! {
            () = seen => {}
            _ = asked.next() => panic!("the slot is taken"),
        }
        while let Some(answer) = asked.next().await {
            answer.ok();
        }
    }
}

#[tokio::test]
async fn what_is_less_urgent_comes_later_though_it_came_first() {
    for isolation in ISOLATIONS {
        let gate = a_gate(isolation, "slots = 1\nqueue_wait_max_ms = 600000").await;
        let running = busy(&gate).await;
        let ask = |tier: &str| {
            gate.ask("Name a color.").at_most(8).set("service_tier", json!(tier)).send()
        };
        let (done, order) = (std::cell::RefCell::new(Vec::new()), ["flex", "flex", "auto"]);
        let asked = async |tier: &'static str| {
            ask(tier).await.ok();
            done.borrow_mut().push(tier);
        };
        // Where the engine has a process of its own one request waits there already: the first flex one.
        let (first, second, usual) = (asked("flex"), asked("flex"), async {
            until_waiting(&gate, 2).await;
            let usual = asked("auto");
            let release = async {
                until_waiting(&gate, 3).await;
                running.leave();
            };
            futures::join!(usual, release);
        });
        futures::join!(first, second, usual);
        let done = done.into_inner();
        let last = done.last().copied();
        assert_eq!((done.len(), last), (order.len(), Some("flex")), "{isolation}: {done:?}");
        if isolation == "in_process" {
            assert_eq!(done, ["auto", "flex", "flex"]);
        }
    }
}

#[tokio::test]
async fn a_key_of_high_priority_is_served_before_others_that_came_first() {
    for isolation in ISOLATIONS {
        let gate = a_gate(isolation, "slots = 1\nqueue_wait_max_ms = 600000").await;
        let (one, another) = (gate.new_key().create().await, gate.new_key().create().await);
        let urgent = gate.new_key().of_priority("high").create().await;
        let running = busy(&gate).await;
        let done = std::cell::RefCell::new(Vec::new());
        let asked = async |key: &Key, tier: &str, name: &'static str| {
            let ask = gate.ask("Name a color.").by(key).at_most(8);
            ask.set("service_tier", json!(tier)).send().await.ok();
            done.borrow_mut().push(name);
        };
        // What a request says of itself makes it no more urgent. Where the engine has a process of its
        // own one request waits there already: the first one.
        let (first, second) =
            (asked(&one, "priority", "usual"), asked(&another, "priority", "usual"));
        let last = async {
            until_waiting(&gate, 2).await;
            let release = async {
                until_waiting(&gate, 3).await;
                running.leave();
            };
            futures::join!(asked(&urgent, "auto", "urgent"), release);
        };
        futures::join!(first, second, last);
        let done = done.into_inner();
        assert_eq!((done.len(), done.last()), (3, Some(&"usual")), "{isolation}: {done:?}");
        if isolation == "in_process" {
            assert_eq!(done, ["urgent", "usual", "usual"]);
        }
    }
}

#[tokio::test]
async fn nobody_goes_on_from_another_keys_prompt_unless_all_may() {
    for isolation in ISOLATIONS {
        for (sharing, may) in [("caller", false), ("all", true)] {
            let gate = a_gate(isolation, &format!("prefix_sharing = \"{sharing}\"")).await;
            let (one, another) = (gate.new_key().create().await, gate.new_key().create().await);
            let cached = async |key: &Key| {
                let answer = gate.ask(&long("Read this")).by(key).at_most(2).send().await.ok();
                answer.usage()["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap_or(0)
            };
            assert_eq!(cached(&one).await, 0);
            let of_another = cached(&another).await;
            assert_eq!(of_another > 100, may, "{isolation}, {sharing}: {of_another} tokens");
            if !may {
                // The template's own beginning is nobody's, and is read again all the same.
                assert_eq!(of_another, 0, "{isolation}");
            }
            assert!(cached(&one).await > 100, "its own: {isolation}, {sharing}");
        }
    }
}

#[tokio::test]
async fn an_operator_sees_whose_request_took_cells_from_whose() {
    for isolation in ISOLATIONS {
        let gate = a_gate(isolation, "slots = 1\nprefixes_max = 0").await;
        let (one, another) = (gate.new_key().create().await, gate.new_key().create().await);
        let ask = |key: &Key, text: &str| gate.ask(&long(text)).by(key).at_most(2).send();
        for (key, text) in [(&one, "One"), (&one, "One"), (&another, "Another")] {
            ask(key, text).await.ok();
        }
        let event = eventually("an eviction", || async {
            let seen = engine(&gate).await["evictions"].as_array().cloned().unwrap_or_default();
            seen.into_iter().find(|event| event["of"]["key"] == json!(one.id))
        })
        .await;
        assert_eq!(event["by"]["key"], json!(another.id), "{isolation}: {event}");
        assert_eq!(event["kind"], "prefix", "{isolation}: {event}");
        assert!(event["cells"].as_u64() > Some(100), "{isolation}: {event}");
        let seen = engine(&gate).await;
        assert!(seen["prefix_hits"].as_u64() >= Some(1), "{isolation}: {seen}");
        assert!(seen["prefix_evictions"].as_u64() >= Some(1), "{isolation}: {seen}");
        let metrics = gate.metrics().await;
        let count = |name: &str| -> u64 {
            let line = format!("tollgate_engine_{name}_total{{route=\"edge\"}} ");
            let found = metrics.lines().find_map(|told| told.strip_prefix(&line));
            found.unwrap_or_else(|| panic!("{line}in {metrics}")).parse().expect("a number")
        };
        assert_eq!(Some(count("prefix_hits")), seen["prefix_hits"].as_u64(), "{isolation}");
        assert_eq!(Some(count("prefix_evictions")), seen["prefix_evictions"].as_u64());
        assert_eq!(count("preemptions"), 0, "{isolation}");
    }
}
