//! The models in the process: several on one machine, loaded, unloaded and exchanged while requests
//! are served, and lost without taking the gateway with them.

use crate::harness::{Child, Gate, eventually, model_file, rows, sha256, signal};
use e2e::standin::{Script, StandIn};
use serde_json::{Value, json};
use std::io::Write as _;

/// A second local route to the same file.
fn second_route(more: &str) -> String {
    format!(
        "\n[routes.second]\nkind = \"local\"\nfile = \"{}\"\nmodel = \"second\"\nslots = 2\n\
         context_tokens = 2048\nusd_per_hour = \"0.36\"\n{more}",
        model_file().display()
    )
}

async fn model(gate: &Gate, name: &str) -> Value {
    gate.admin(&format!("/models/{name}")).await
}

async fn told(gate: &Gate, name: &str, verb: &str, body: Value) -> Value {
    let answer = gate.admin_send("POST", &format!("/models/{name}/{verb}"), body).await;
    assert_eq!(answer.status, 200, "{verb}: {}", answer.body_text());
    answer.json()
}

#[tokio::test]
async fn an_engine_that_fails_is_fallen_back_from_and_comes_back() {
    // Alone in its process, which goes on when the engine in it has failed, it is lost no less.
    for isolation in ["in_process", "process"] {
        an_engine_fails(&format!("isolation = \"{isolation}\"\ndrill = \"panic:2\"")).await;
    }
}

async fn an_engine_fails(drill: &str) {
    let cloud = StandIn::start().await.unwrap();
    let edge = format!("{drill}\nprefill_chunk_tokens = 64");
    let gate = Gate::builder().policy("edge-first").edge_with(&edge).cloud(&cloud).start().await;
    cloud.always(Script::says("From the cloud.").using(10, 3));
    // The drill comes after two steps of at most 512 tokens: this prompt needs a third.
    let met = gate.ask(&"word ".repeat(1_100)).at_most(16).send().await.ok();
    assert_eq!(met.header("x-tollgate-route"), "cloud", "{drill}");
    assert_eq!(met.text(), "From the cloud.");
    let attempts = gate.ledger().entry(met.id()).await.attempts();
    assert_eq!((attempts.len(), attempts[0].route().as_str()), (2, "edge"));
    let seen = eventually("the fault in the model's report", || async {
        let report = model(&gate, "edge").await;
        (report["faults"] == 1).then_some(report)
    })
    .await;
    if seen["state"] == "failed" {
        assert!(seen["reason"].as_str().unwrap().contains("a rehearsed panic"), "{seen}");
        gate.ask("Hello?").send().await.ok();
    }
    eventually("the model to be loaded again", || async {
        let report = model(&gate, "edge").await;
        (report["state"] == "loaded" && report["loads"] == 2).then_some(())
    })
    .await;
    let again = gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    assert_eq!(again.header("x-tollgate-route"), "edge");
    assert!(gate.metrics().await.contains("tollgate_engine_faults_total{route=\"edge\"} 1"));
    let ready = gate.get("/ready").await.ok().json();
    assert_eq!(ready["routes"][0]["engine"]["faults"], 1, "{ready}");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn two_models_share_the_machine_and_one_is_loaded_on_first_use() {
    let gate = Gate::builder()
        .edge()
        .routes(&second_route("load = \"first_use\"\nunload_after_ms = 300"))
        .policy("edge-first")
        .start()
        .await;
    assert_eq!(model(&gate, "second").await["state"], "unloaded");
    let (edge, second) = tokio::join!(
        gate.ask("Name a color.").from("edge").at_most(6).send(),
        gate.ask("Name a color.").from("second").at_most(6).send(),
    );
    assert_eq!(edge.ok().header("x-tollgate-route"), "edge");
    let second = second.ok();
    assert_eq!(second.header("x-tollgate-route"), "second");

    let entry = gate.ledger().entry(second.id()).await;
    let file = &entry.attempts()[0].0["model_file"];
    assert_eq!(file["sha256"], json!(sha256(&model_file())), "{entry:?}");
    assert_eq!(file["quantisation"], "Q4_1");
    assert_eq!(file["template_hash"], model(&gate, "edge").await["template_sha256"]);
    assert_eq!(file["template_hash"].as_str().map(str::len), Some(64));

    eventually("the idle model to be unloaded", || async {
        (model(&gate, "second").await["unloads"] == 1).then_some(())
    })
    .await;
    assert_eq!(model(&gate, "edge").await["state"], "loaded");
}

#[tokio::test]
async fn a_model_is_exchanged_under_its_name_while_it_answers() {
    let mut gate = Gate::builder().edge().policy("edge-first").start().await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let mut open =
        gate.ask("Tell me a long story.").from("edge").at_most(200).streamed().open().await;
    open.read_pieces(1).await;

    let bad = directory.join("bad.gguf");
    std::fs::write(&bad, b"GGUF, and then nothing that makes sense").unwrap();
    let refused = gate.admin_send("POST", "/models/edge/swap", json!({ "file": bad })).await;
    assert_eq!(refused.status, 400);
    assert!(refused.error().message.contains("GGUF version"), "{}", refused.error().message);
    assert_eq!(model(&gate, "edge").await["loads"], 1, "the old one stays");

    // The same model, in a file that is another by one byte behind its tensors.
    let other = directory.join("other.gguf");
    std::fs::copy(model_file(), &other).unwrap();
    std::fs::File::options().append(true).open(&other).unwrap().write_all(b"+").unwrap();
    let digests = [sha256(&model_file()), sha256(&other)];
    assert_ne!(digests[0], digests[1]);
    let before = gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    assert_eq!(model(&gate, "edge").await["sha256"], digests[0]);
    let other = other.display().to_string();
    let ran = Child::run(&directory, &["model", "swap", "edge", &other]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let listed = Child::run(&directory, &["model", "list", "--json"]).await;
    let listed: Value = serde_json::from_str(&listed.stdout).unwrap();
    assert_eq!(rows(&listed)[0]["file"], "other.gguf");
    assert_eq!(rows(&listed)[0]["sha256"], digests[1]);
    let open = open.rest().await;
    assert!(open.whole, "the old answer goes on to its end");
    let after = gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    for (answer, digest) in [(&open, 0), (&before, 0), (&after, 1)] {
        let entry = gate.ledger().entry(answer.id()).await;
        assert_eq!(entry.only_attempt().0["model_file"]["sha256"], digests[digest]);
    }

    assert_eq!(told(&gate, "edge", "unload", json!({})).await["state"], "unloaded");
    let none = gate.ask("Hello?").from("edge").at_most(4).send().await;
    assert_eq!(none.status, 503, "{}", none.body_text());
    let metrics = gate.metrics().await;
    for gone in
        ["engine_heartbeat_age_seconds", "engine_kv_cells_used", "engine_busy_seconds_total"]
    {
        assert!(!metrics.contains(&format!("{gone}{{route=\"edge\"}}")), "{gone}: {metrics}");
    }
    assert!(metrics.contains("tollgate_engine_loads_total{route=\"edge\"}"), "{metrics}");
    assert_eq!(told(&gate, "edge", "load", json!({})).await["state"], "loaded");
    gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    let missing = gate.admin_send("POST", "/models/cloud/load", json!({})).await;
    assert_eq!(missing.status, 404);
    gate.stop().await;
}

#[tokio::test]
async fn what_was_loaded_and_where_stands_in_ready_and_in_the_log() {
    for isolation in ["in_process", "process"] {
        let more = format!(
            "gpu_layers = 0\ncontext_tokens = 2048\nthreads = 1\nslots = 2\nisolation = \"{isolation}\""
        );
        let gate = Gate::builder().edge_with(&more).policy("edge-first").start().await;
        gate.ask("Hello?").at_most(4).send().await.ok();
        let ready = gate.get("/ready").await.ok().json();
        let engine = &ready["routes"][0]["engine"];
        for (field, expected) in [
            ("state", json!("loaded")),
            ("file", json!(model_file().file_name().unwrap().to_str())),
            ("sha256", json!(sha256(&model_file()))),
            ("quantisation", json!("Q4_1")),
            ("backend", json!("CPU")),
            ("offloaded_to", json!([])),
            ("layers", json!(31)),
            ("layers_offloaded", json!(0)),
            ("gpu_memory_bytes", json!(0)),
            ("context_tokens", json!(2_048)),
            ("kv_total", json!(2_048)),
            ("isolation", json!(isolation)),
            ("draft_model", Value::Null),
        ] {
            assert_eq!(engine[field], expected, "{isolation}: {field} of {engine}");
        }
        assert_eq!(engine["process"].is_u64(), isolation == "process", "{engine}");
        let devices = engine["devices"].as_array().unwrap();
        let cpu = devices.iter().find(|device| device["backend"] == "CPU").expect("a processor");
        assert_eq!(cpu["gpu"], false);
        assert!(cpu["memory_total_bytes"].as_u64() > Some(1 << 30), "{cpu}");
        // The weights and the cache: two numbers of two bytes for 3 heads of 64 in 30 layers a token.
        let least = std::fs::metadata(model_file()).unwrap().len() + 2_048 * 30 * 3 * 64 * 4;
        assert!(engine["memory_bytes"].as_u64() > Some(least * 9 / 10), "{engine}");
        assert!(engine["load_ms"].as_u64() > Some(0), "{engine}");
        let log = gate.log();
        let line = log.lines().find(|line| line.contains("model loaded")).unwrap_or_default();
        for said in [
            "quantisation=\"Q4_1\"",
            "backend=\"CPU\"",
            "layers=31",
            "layers_offloaded=0",
            "offloaded_to=\"\"",
            "gpu_memory_mib=0",
            "kv_cells=2048",
            "threads=1",
        ] {
            assert!(line.contains(said), "{isolation}: no {said} in {line:?}");
        }
    }
}

#[tokio::test]
async fn what_an_exchange_cuts_is_no_fault_of_the_model() {
    for isolation in ["in_process", "process"] {
        let more = format!("slots = 1\nisolation = \"{isolation}\"");
        let gate = Gate::builder().edge_with(&more).policy("edge-first").start().await;
        let long = gate.ask("Tell me a long story.").at_most(2_000).set("ignore_eos", json!(true));
        let mut runs = long.streamed().open().await;
        runs.read_pieces(1).await;
        let file = model_file().display().to_string();
        told(&gate, "edge", "swap", json!({"file": file, "drain_ms": 0})).await;
        let cut = runs.rest().await;
        assert!(cut.body_text().contains("unloaded or exchanged"), "{}", cut.body_text());
        let entry = gate.ledger().entry(cut.id()).await;
        assert!(entry.cost() > Some(0), "what it took is charged");
        assert_eq!(entry.only_attempt().outcome(), "cancelled");
        let ready = gate.get("/ready").await.ok().json();
        assert_eq!(ready["routes"][0]["breaker"]["failed_in_a_row"], 0, "{ready}");
        gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    }
}

#[tokio::test]
async fn who_waits_for_money_while_the_model_is_unloaded_pays_nothing() {
    for isolation in ["in_process", "process"] {
        let gate = Gate::builder()
            .edge_with(&format!("isolation = \"{isolation}\"\nbudgeted = true"))
            .policy("edge-first")
            .limit("budget_wait_max_ms = 600000")
            .start()
            .await;
        let long = || gate.ask("Tell me a long story.").set("ignore_eos", json!(true));
        let probe = long().at_most(2_000).streamed().open().await;
        probe.leave();
        let id = gate.ledger().until_entries(1).await.remove(0).id();
        let each = gate.ledger().entry(&id).await.only_attempt().reserved();
        // Not for two at once, and for a second one when the first has ended early.
        let usd = policies::PicoUsdTotal::from_pico(each * 19 / 10).to_string();
        let key = gate.new_key().with_budget_usd(&usd).create().await;
        let mut runs = long().at_most(2_000).by(&key).streamed().open().await;
        runs.read_pieces(1).await;
        let unload = async {
            eventually("a request in line", || async {
                (gate.budget(&key).await.waiting() == 1).then_some(())
            })
            .await;
            told(&gate, "edge", "unload", json!({"drain_ms": 0})).await;
            runs.rest().await
        };
        let waits = long().at_most(2_000).by(&key).send();
        let (refused, cut) = futures::join!(waits, unload);
        assert_eq!(refused.status, 503, "{isolation}: {}", refused.body_text());
        let entry = gate.ledger().entry(refused.id()).await;
        assert_eq!(entry.cost(), Some(0), "{isolation}: the engine never had it");
        assert_eq!(entry.attempts()[0].outcome(), "not_sent", "{isolation}");
        let ran = gate.ledger().entry(cut.id()).await.cost();
        assert_eq!(Some(gate.budget(&key).await.spent()), ran, "{isolation}");
        gate.until_nothing_is_reserved().await;
    }
}

#[tokio::test]
async fn who_leaves_while_the_prompt_is_read_pays_for_the_reading() {
    let gate = Gate::builder()
        .edge_with("isolation = \"process\"\nbudgeted = true")
        .policy("edge-first")
        .start()
        .await;
    gate.ask("Hello?").at_most(4).send().await.ok();
    let reads = async {
        eventually("the prompt is being read", || async {
            let ready = gate.get("/ready").await.json();
            let engine = &ready["routes"][0]["engine"];
            (engine["kv_used"].as_u64() > Some(300)).then_some(())
        })
        .await;
    };
    gate.ask(&"word ".repeat(6_000)).leave_before_head(reads).await;
    let entries = gate.ledger().until_entries(2).await;
    let left = entries.iter().find(|entry| entry.outcome() == "client_gone").unwrap();
    assert!(left.cost() > Some(0), "{left:#?}");
}

#[tokio::test]
async fn health_and_the_cloud_answer_while_the_engine_is_stuck() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .edge_with("drill = \"block:2:3000\"")
        .cloud(&cloud)
        .policy("edge-first")
        .start()
        .await;
    let stuck = gate.ask("Tell me a story.").from("edge").at_most(8).send();
    let look = async {
        eventually("an old heartbeat", || async {
            let ready = gate.get("/ready").await.ok().json();
            let age = ready["routes"][0]["engine"]["heartbeat_age_ms"].as_u64().unwrap_or(0);
            (age > 500).then_some(())
        })
        .await;
        assert_eq!(gate.get("/health").await.status, 200);
        assert_eq!(gate.ask("Hello?").from("cloud").send().await.status, 200);
    };
    let (stuck, ()) = tokio::join!(stuck, look);
    assert_eq!(stuck.ok().header("x-tollgate-route"), "edge", "and it goes on afterwards");
}

#[tokio::test]
async fn an_engine_in_a_process_of_its_own_may_be_killed_or_abort() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .policy("edge-first")
        .edge_with("isolation = \"process\"\nverify_load = true\ndrill = \"abort:8\"")
        .cloud(&cloud)
        .start()
        .await;
    let report = model(&gate, "edge").await;
    assert_eq!(report["isolation"], "process");
    let first = report["process"].as_u64().expect("a process");

    // The drill: the child aborts as an assertion of llama.cpp would make it.
    let aborted = gate.ask("Tell me a long story.").from("edge").at_most(64).send().await;
    assert!(matches!(aborted.status, 502 | 503), "{}", aborted.body_text());
    let second = eventually("another process", || async {
        let report = model(&gate, "edge").await;
        let process = report["process"].as_u64().filter(|process| *process != first);
        process.filter(|_| report["state"] == "loaded")
    })
    .await;
    let answer = gate.ask("Name a color.").from("edge").at_most(6).send().await.ok();
    let entry = gate.ledger().entry(answer.id()).await;
    assert!(entry.attempts()[0].cost().unwrap() > 0, "engine time is counted in the child");
    let body = serde_json::json!({"model": "edge", "input": ["a cat", "a dog"]});
    let answer = gate.post("/v1/embeddings", &body).await.ok();
    assert_eq!(answer.json()["data"].as_array().unwrap().len(), 2);
    let entry = gate.ledger().entry(answer.id()).await;
    assert!(entry.attempts()[0].cost().unwrap() > 0, "for texts too");

    // Killed in the middle of an answer.
    let mut open =
        gate.ask("Tell me a long story.").from("edge").at_most(300).streamed().open().await;
    open.read_pieces(2).await;
    signal(second, libc::SIGKILL);
    let broken = open.rest().await;
    assert!(broken.body_text().contains("engine failed"), "{}", broken.body_text());
    assert_eq!(gate.get("/health").await.status, 200);
    eventually("a third process", || async {
        let report = model(&gate, "edge").await;
        (report["state"] == "loaded" && report["faults"] == 2).then_some(())
    })
    .await;
    gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_process_that_is_stuck_is_ended_and_another_computes() {
    let gate = Gate::builder()
        .policy("edge-first")
        .edge_with("isolation = \"process\"\ndrill = \"block:4:3600000\"\nstuck_after_ms = 6000")
        .start()
        .await;
    let first = model(&gate, "edge").await["process"].as_u64().expect("a process");
    let stuck = gate.ask("Tell me a long story.").from("edge").at_most(64).send().await;
    assert!(matches!(stuck.status, 502 | 503), "{}", stuck.body_text());
    eventually("another process", || async {
        let report = model(&gate, "edge").await;
        let another = report["process"].as_u64().is_some_and(|process| process != first);
        (another && report["state"] == "loaded" && report["faults"] == 1).then_some(())
    })
    .await;
    gate.ask("Hello?").from("edge").at_most(4).send().await.ok();
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_loaded_model_that_works_for_nobody_costs_beside_every_request_also_over_a_restart() {
    let mut gate = Gate::builder().policy("edge-first").edge().start().await;
    let answer = gate.ask("Hello.").at_most(8).send().await.ok();
    let entry = gate.ledger().entry(answer.id()).await;
    let cost = "tollgate_engine_idle_cost_pico_usd{route=\"edge\"} ";
    let told = eventually("idle time", || async {
        let metrics = gate.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(cost)).expect("the metric");
        let pico: u128 = line.parse().expect("a number");
        (pico > 0).then_some(pico)
    })
    .await;
    // What was counted since the last minute is written at the end.
    gate.stop().await;
    let gate = gate.restarted_after(|_| {}).await;
    let idle = gate.admin("/idle").await;
    let row = &rows(&idle)[0];
    let ms = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("no {name}: {row}"));
    assert_eq!(row["route"], "edge");
    let engine_ns = entry.only_attempt().0["times"]["engine_ns"].as_u64().expect("engine time");
    assert_eq!(ms("engine_ms"), engine_ns / 1_000_000);
    assert!(ms("idle_ms") > 0, "{row}");
    assert!(ms("idle_ms") + ms("engine_ms") <= ms("loaded_ms") + 1, "{row}");
    // 0.36 USD an hour are 100,000 pico-USD a millisecond.
    let (pico, idle_ms) = (crate::harness::pico(&row["idle_cost_usd"]), ms("idle_ms").into());
    assert_eq!(pico.map(|pico| pico / 100_000), Some(idle_ms));
    assert!(pico.is_some_and(|pico| pico >= told));
    // No sum of requests has any of it.
    let total = gate.admin("/ledger/summary").await["total"]["cost_usd"].clone();
    assert_eq!(crate::harness::pico(&total), entry.cost());
    let none = gate.admin("/idle?until=2020-01-01").await;
    assert_eq!((rows(&none).len(), &none["total_idle_cost_usd"]), (0, &json!("0.000000000000")));
    assert!(gate.admin("/ledger/verify").await["clean"] == json!(true));
}
