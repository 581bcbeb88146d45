//! What an answer costs is exact to the pico-USD, whichever way the provider reports its usage.
//!
//! The stand-in's prices: 1,000,000 pico-USD a prompt token, 500,000 from a cache, 2,000,000 an
//! answer token.

use crate::harness::{Child, EntrySeen, Gate, Key, pico, rows};
use e2e::standin::{Cut, Fault, Hold, Point, Reported, Script, StandIn};
use serde_json::json;
use std::time::Duration;

const INPUT: u128 = 1_000_000;
const CACHED: u128 = 500_000;
const OUTPUT: u128 = 2_000_000;

struct Case {
    cloud: StandIn,
    gate: Gate,
}

async fn a_cloud() -> Case {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    Case { cloud, gate }
}

impl Case {
    /// The entry of a request that got this script, streamed or not.
    async fn entry_of(&self, script: Script, stream: bool) -> EntrySeen {
        self.cloud.next(script);
        let ask = self.gate.ask("How are you?");
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        assert!(answer.whole);
        self.gate.ledger().entry(answer.id()).await
    }
}

#[tokio::test]
async fn reported_tokens_times_their_prices() {
    let case = a_cloud().await;
    for stream in [true, false] {
        let entry = case.entry_of(Script::default().using(1000, 50), stream).await;
        assert_eq!(entry.cost(), Some(1000 * INPUT + 50 * OUTPUT));
        let attempt = entry.only_attempt();
        assert_eq!(attempt.text("usage_source"), "reported");
        assert_eq!(attempt.used("input"), Some(1000));
        assert_eq!(attempt.used("output"), Some(50));
        assert!(!attempt.text("price").is_empty(), "an entry names its price row");
    }
}

#[tokio::test]
async fn cached_and_reasoning_tokens_are_buckets_of_their_own() {
    let case = a_cloud().await;
    for stream in [true, false] {
        let script = Script::default().using(1000, 50).cached(400).reasoning(30);
        let entry = case.entry_of(script, stream).await;
        assert_eq!(entry.cost(), Some(600 * INPUT + 400 * CACHED + 50 * OUTPUT));
        let attempt = entry.only_attempt();
        let buckets = ["input", "cache_read", "output", "reasoning"].map(|b| attempt.used(b));
        assert_eq!(buckets, [Some(600), Some(400), Some(20), Some(30)]);
    }
}

#[tokio::test]
async fn usage_is_charged_once_wherever_it_stands() {
    let case = a_cloud().await;
    for reported in [Reported::Asked, Reported::Twice, Reported::InLastDelta] {
        let script = Script::default().using(30, 6).reporting(reported);
        let entry = case.entry_of(script, true).await;
        assert_eq!(entry.cost(), Some(30 * INPUT + 6 * OUTPUT), "{reported:?}");
        assert_eq!(entry.only_attempt().text("usage_source"), "reported");
    }
}

#[tokio::test]
async fn unreported_usage_is_estimated_and_marked_never_zero() {
    let case = a_cloud().await;
    for stream in [true, false] {
        let entry = case.entry_of(Script::default().with(Fault::NoUsage), stream).await;
        let attempt = entry.only_attempt();
        assert_eq!(attempt.text("usage_source"), "estimated");
        let cost = attempt.cost().expect("an estimate");
        assert!(cost > OUTPUT, "an estimate of prompt and answer: {cost}");
        assert!(cost <= attempt.reserved(), "an estimate stays within what was held");
    }
}

#[tokio::test]
async fn usage_that_nobody_reports_is_told_to_who_asks_for_it() {
    let case = a_cloud().await;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        case.cloud.next(Script::says("All is well.").with(Fault::NoUsage));
        let mut body = json!({"model": "auto", "max_tokens": 16, "stream": true,
            "stream_options": {"include_usage": true}});
        if path == "/v1/completions" {
            body["prompt"] = json!("How are you?");
        } else {
            body["messages"] = json!([{"role": "user", "content": "How are you?"}]);
        }
        let answer = case.gate.ask_at(path, body.clone()).send().await.ok();
        let entry = case.gate.ledger().entry(answer.id()).await;
        let attempt = entry.only_attempt();
        assert_eq!(attempt.text("usage_source"), "estimated");
        let chunks = answer.chunks();
        let (last, others) = chunks.split_last().unwrap();
        assert_eq!(last["choices"], json!([]), "{path}: {last}");
        assert_eq!(last["id"], others[0]["id"], "{path}: it is of the same answer");
        let told = ["prompt_tokens", "completion_tokens"].map(|name| last["usage"][name].as_u64());
        assert_eq!(told, [attempt.used("input"), attempt.used("output")], "{path}");
        answer.tells_cost(entry.cost().unwrap());
        assert!(answer.done());
        // Who did not ask for it is told none.
        case.cloud.next(Script::says("All is well.").with(Fault::NoUsage));
        body.as_object_mut().unwrap().remove("stream_options");
        let answer = case.gate.ask_at(path, body).send().await.ok();
        assert!(answer.chunks().iter().all(|chunk| chunk["choices"] != json!([])), "{path}");
    }
}

#[tokio::test]
async fn an_estimate_stays_within_the_cap() {
    let case = a_cloud().await;
    // Four bytes are taken for a token, and here are more in one.
    let script = || Script::pieces(vec!["=".repeat(64); 50]).with(Fault::NoUsage);
    for stream in [true, false] {
        case.cloud.next(script());
        let ask = case.gate.ask("Draw a line.").at_most(50);
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        let entry = case.gate.ledger().entry(answer.id()).await;
        let attempt = entry.only_attempt();
        assert_eq!(
            (attempt.text("usage_source").as_str(), attempt.used("output")),
            ("estimated", Some(50))
        );
        assert_eq!(attempt.0["overrun_usd"], "0.000000000000");
    }
}

#[tokio::test]
async fn where_reasoning_is_hidden_what_nobody_reports_is_booked_with_the_whole_cap() {
    let cloud = StandIn::start().await.unwrap();
    let hides = "reasoning = true\nfirst_token_timeout_ms = 200";
    let gate = Gate::builder().cloud_named("cloud", &cloud, hides).start().await;
    let used = |entry: &EntrySeen| {
        let attempt = entry.only_attempt();
        assert_eq!(attempt.text("usage_source"), "estimated");
        assert_eq!(entry.cost().unwrap().max(attempt.reserved()), attempt.reserved());
        (attempt.used("output").unwrap(), attempt.used("reasoning").unwrap())
    };
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("Thought and said.").held(&hold));
    let mut open = gate.ask("Think.").at_most(500).streamed().open().await;
    open.read_pieces(1).await;
    open.leave();
    let id = gate.ledger().until_entries(1).await.remove(0).id();
    let (output, reasoning) = used(&gate.ledger().entry(&id).await);
    assert!(output > 0 && output + reasoning == 500, "left: {output} + {reasoning}");

    cloud.next(Script::says("Thought and said.").with(Fault::NoUsage));
    let answer = gate.ask("Think.").at_most(500).send().await.ok();
    let (output, reasoning) = used(&gate.ledger().entry(answer.id()).await);
    assert!(output > 0 && output + reasoning == 500, "unreported: {output} + {reasoning}");

    cloud.next(Script::default().with(Fault::Hang));
    let refused = gate.ask("Think.").at_most(50).set("n", json!(4)).streamed().send().await;
    assert_eq!(refused.status, 504, "{}", refused.body_text());
    assert_eq!(used(&gate.ledger().entry(refused.id()).await), (0, 4 * 50));
}

#[tokio::test]
async fn a_provider_that_bills_above_its_bound_is_booked_in_full_and_marked() {
    let case = a_cloud().await;
    let entry = case.entry_of(Script::default().using(10, 10_000), false).await;
    assert_eq!(entry.cost(), Some(10 * INPUT + 10_000 * OUTPUT));
    let attempt = entry.only_attempt();
    let overrun = pico(&attempt.0["overrun_usd"]).expect("an overrun");
    assert_eq!(overrun, entry.cost().unwrap() - attempt.reserved());
}

#[tokio::test]
async fn the_answer_tells_its_cost() {
    let case = a_cloud().await;
    case.cloud.next(Script::default().using(1000, 50));
    let answer = case.gate.ask("How are you?").send().await.ok();
    assert_eq!(answer.header("x-tollgate-cost-usd"), "0.001100000000");
    let cost = answer.usage()["cost"].as_f64().expect("usage.cost");
    assert!((cost - 0.0011).abs() < 1e-12, "{cost}");
    assert!(answer.usage()["cost_details"].is_object());

    case.cloud.next(Script::default().using(1000, 50));
    let answer = case.gate.ask("How are you?").streamed_with_usage().send().await.ok();
    let cost = answer.usage()["cost"].as_f64().expect("usage.cost in the stream's usage chunk");
    assert!((cost - 0.0011).abs() < 1e-12, "{cost}");
}

#[tokio::test]
async fn of_a_providers_endless_words_the_ledger_keeps_a_part() {
    let case = a_cloud().await;
    let long = "é".repeat(5 << 20);
    let body = json!({"id": long, "object": "chat.completion", "created": 1, "model": "standin-1",
        "choices": [{"index": 0, "finish_reason": long,
                     "message": {"role": "assistant", "content": "Long."}}],
        "usage": {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}});
    let entry = case.entry_of(Script::body("application/json", &body.to_string()), false).await;
    let attempt = entry.only_attempt();
    assert_eq!(attempt.text("upstream_id"), "é".repeat(128));
    assert_eq!(attempt.text("finish"), "é".repeat(128));
    assert_eq!(entry.cost(), Some(10 * INPUT + 2 * OUTPUT));
    case.entry_of(Script::default(), false).await;
}

#[tokio::test]
async fn the_tier_that_served_an_answer_is_the_one_that_its_cost_tells() {
    let cloud = StandIn::start().await.unwrap();
    let prices = tempfile::NamedTempFile::new().unwrap();
    let row = "[[price]]\nprovider = \"standin\"\nmodel = \"standin-unheard-of\"\n\
        effective_from = \"2026-01-01\"\ninput = \"1\"\noutput = \"2\"\n\
        source = \"a test\"\nsource_date = \"2026-01-01\"\n\
        [[price.services]]\ntier = \"priority\"\ninput = \"2\"\noutput = \"4\"\n";
    std::fs::write(prices.path(), row).unwrap();
    let section = format!("[prices]\nfile = {:?}", prices.path());
    let gate = Gate::builder().unpriced_cloud(&cloud).section(&section).start().await;
    let answered = |tier: &str| {
        let usage = json!({"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12});
        let body = json!({"id": "a", "object": "chat.completion", "created": 1, "model": "m",
            "service_tier": tier, "usage": usage, "choices": [{"index": 0,
            "finish_reason": "stop", "message": {"role": "assistant", "content": "Hi."}}]});
        Script::body("application/json", &body.to_string())
    };
    for (asked, served, times) in [("priority", "default", 1), ("default", "priority", 2)] {
        cloud.next(answered(served));
        let ask = gate.ask("Quickly?").set("service_tier", json!(asked));
        let answer = ask.send().await.ok();
        let entry = gate.ledger().entry(answer.id()).await;
        assert_eq!(entry.cost(), Some(times * (10 * INPUT + 2 * OUTPUT)), "{asked}, {served}");
        answer.tells_cost(entry.cost().unwrap());
        for asked in [asked, "auto"] {
            cloud.next(answered(served));
            let asks = json!({"model": "auto", "input": "Quickly?", "service_tier": asked});
            let told = gate.post("/v1/responses", &asks).await.ok().json();
            assert_eq!(told["service_tier"], served, "{asked}");
        }
    }
}

#[tokio::test]
async fn a_route_of_unknown_price_gets_no_request() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().unpriced_cloud(&cloud).start().await;
    let answer = gate.ask("How much?").send().await;
    let error = answer.error();
    assert!((400..500).contains(&answer.status), "{}: {error:?}", answer.status);
    assert_eq!(cloud.counts().connections, 0, "nobody asked at an unknown price");
    let ready = gate.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["status"]), (503, &json!("not_ready")));
    assert_eq!(ready.json()["routes"][0]["state"], "unpriced");
    assert_eq!(rows(&gate.admin("/routes").await)[0]["state"], "unpriced");
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let shown = Child::run(&directory, &["routes"]).await.stdout;
    assert!(shown.contains("unpriced") && !shown.contains("ready"), "{shown}");
    assert!(gate.metrics().await.contains("tollgate_route_ready{route=\"cloud\"} 0"));

    let bounded = "unknown_price_max_usd = \"0.01\"";
    let gate = Gate::builder().unpriced_cloud_named("cloud", &cloud, bounded).start().await;
    let ready = gate.get("/ready").await;
    assert_eq!((ready.status, &ready.json()["routes"][0]["state"]), (200, &json!("ready")));
    gate.ask("How much?").send().await.ok();
}

#[tokio::test]
async fn a_local_route_without_a_price_answers_and_its_cost_stays_unknown() {
    let gate = Gate::builder().policy("edge-first").unpriced_edge().start().await;
    let key = gate.new_key().with_budget_usd("0.000000000001").create().await;
    let answer = gate.ask("Hi").at_most(4).by(&key).send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "edge");
    assert!(!answer.headers.contains_key("x-tollgate-cost-usd"), "{:?}", answer.headers);
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!((entry.cost(), entry.only_attempt().reserved()), (None, 0), "unknown, and not 0");

    // Nobody can say that it is within a limit.
    let limited = gate.ask("Hi").at_most(4).header("x-tollgate-max-cost-usd", "1").send().await;
    assert_eq!(limited.status, 403, "{}", limited.body_text());
    assert_eq!(limited.error().code.as_deref(), Some("policy_refused"));
    gate.until_nothing_is_reserved().await;
    let verify = gate.admin("/ledger/verify").await;
    assert_eq!(verify["clean"], true, "{verify}");
}

#[tokio::test]
async fn every_entry_tells_when_its_tokens_came() {
    let case = a_cloud().await;
    let entry = case.entry_of(Script::says("one two three four").using(9, 4), true).await;
    assert!(entry.0["ttft_us"].is_u64(), "the client's TTFT: {:#}", entry.0);
    assert!(entry.0["tpot_ns"].is_u64(), "the client's TPOT");
    let times = &entry.only_attempt().0["times"];
    assert!(times["ttft_us"].is_u64(), "the attempt's TTFT: {times:#}");
    assert!(times["gap_p50_us"].is_u64() && times["gap_max_us"].is_u64(), "{times:#}");

    let entry = case.entry_of(Script::says("one").using(9, 1), true).await;
    assert!(entry.0["tpot_ns"].is_null(), "no TPOT below two tokens");

    // Of 1,003 tokens nobody saw 1,000, which came before the others.
    let between = Duration::from_millis(5);
    let script = Script { between, ..Script::says("one two three") };
    let entry = case.entry_of(script.using(9, 1_003).reasoning(1_000), true).await;
    let attempt = entry.only_attempt();
    let (each_ns, longest_us) = (attempt.time("tpot_ns"), attempt.time("gap_max_us"));
    // Two gaps; the sketch knows the longest to a hundredth.
    assert!(2 * each_ns >= longest_us * 990, "{:#}", attempt.0);
    assert!(2 * entry.0["tpot_ns"].as_u64().unwrap() >= longest_us * 990, "{:#}", entry.0);
}

#[tokio::test]
async fn what_a_cloud_answers_in_one_piece_has_no_first_token() {
    let case = a_cloud().await;
    let ttft = || async { case.gate.admin("/routes").await["data"][0]["ttft_p50_us"].clone() };
    for _ in 0..8 {
        let entry = case.entry_of(Script::says("one two three").using(9, 3), false).await;
        assert!(entry.0["ttft_us"].is_u64(), "when its client had it: {:#}", entry.0);
        let attempt = entry.only_attempt();
        assert!(attempt.0["times"]["ttft_us"].is_null(), "{:#}", attempt.0);
    }
    assert!(ttft().await.is_null(), "its length is no time to a first token");
    let metrics = case.gate.metrics().await;
    assert!(!metrics.contains("tollgate_attempt_ttft_seconds_count{"), "{metrics}");
    for _ in 0..8 {
        case.entry_of(Script::says("one two three").using(9, 3), true).await;
    }
    assert!(ttft().await.is_u64());
    let metrics = case.gate.metrics().await;
    assert!(
        metrics.contains("tollgate_attempt_ttft_seconds_count{route=\"cloud\"} 8"),
        "{metrics}"
    );
}

#[tokio::test]
async fn a_first_token_that_comes_after_many_empty_pieces_is_timed_when_it_comes() {
    let held = Duration::from_millis(300);
    let case = a_cloud().await;
    let (empty, hold) = (20, Hold::after_pieces(20));
    let pieces = std::iter::repeat_n("", empty).chain(["one ", "two"]);
    case.cloud.next(Script::pieces(pieces).using(9, 2).held(&hold));
    let asked = case.gate.ask("How are you?").at_most(100).streamed().send();
    let lets_go = async {
        case.cloud.until(|counts| counts.requests == 1).await.expect("the request");
        tokio::time::sleep(held).await;
        hold.let_go();
    };
    let (answer, ()) = tokio::join!(asked, lets_go);
    let entry = case.gate.ledger().entry(answer.ok().id()).await;
    let attempt = entry.only_attempt();
    assert!(u128::from(attempt.time("ttft_us")) >= held.as_micros(), "{:#}", attempt.0);
}

#[tokio::test]
async fn an_entry_says_how_each_of_several_choices_ended() {
    let case = a_cloud().await;
    for stream in [true, false] {
        let ask = case.gate.ask("Three, please.").at_most(2).set("n", json!(3));
        case.cloud.next(Script::says("one two three"));
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        let attempt = case.gate.ledger().entry(answer.id()).await.only_attempt();
        assert_eq!(attempt.0["finishes"], json!(["length", "length", "length"]), "{stream}");
        assert_eq!(attempt.text("finish"), "length");
    }
    let entry = case.entry_of(Script::default(), true).await;
    assert_eq!(entry.only_attempt().0["finishes"], json!([]), "of one `finish` says it");
}

#[tokio::test]
async fn how_long_answers_usually_are_is_told_by_each_choice_and_by_no_embedding() {
    let case = a_cloud().await;
    let asked = || case.gate.ask("Four, please.").at_most(1_000).set("n", json!(4));
    for _ in 0..8 {
        case.cloud.next(Script::default().using(10, 400));
        asked().send().await.ok();
    }
    let embed = json!({"model": "auto", "input": "a text"});
    for _ in 0..16 {
        case.gate.ask_at("/v1/embeddings", embed.clone()).send().await.ok();
    }
    let entry = case.gate.ledger().entry(asked().send().await.ok().id()).await;
    let facts = &entry.0["decision"]["facts"];
    let prompt = facts["request"]["prompt_tokens"]["likely"].as_u64().unwrap();
    let expected = u128::from(prompt) * INPUT + 4 * 100 * OUTPUT;
    assert_eq!(pico(&facts["routes"][0]["expected"]), Some(expected), "{facts:#}");
}

#[tokio::test]
async fn an_unstreamed_answer_reaches_its_client_when_it_is_whole() {
    let gate = Gate::builder().policy("edge-first").edge().start().await;
    let answer = gate.ask("Tell me a story.").at_most(24).send().await.ok();
    let entry = gate.ledger().entry(answer.id()).await;
    let attempt = &entry.only_attempt().0["times"];
    assert!(attempt["tpot_ns"].is_u64(), "the route streams: {attempt:#}");
    assert!(entry.0["tpot_ns"].is_null(), "its client has no rhythm: {:#}", entry.0);
    let (whole, first) = (entry.0["ttft_us"].as_u64(), attempt["ttft_us"].as_u64());
    let later = whole.unwrap() - first.unwrap();
    assert!(later >= attempt["tpot_ns"].as_u64().unwrap() / 1000, "the rest of it came later");
    let metrics = gate.metrics().await;
    assert!(!metrics.contains("tollgate_ttft_seconds_count"), "of streams alone: {metrics}");
    assert!(metrics.contains("tollgate_request_seconds_count{route=\"edge\"} 1"), "{metrics}");
}

/// Runs `tollgate prices rerate` on the files of a gate and reads its JSON.
async fn rerated(gate: &Gate, more: &[&str]) -> serde_json::Value {
    let config = gate.builder_ref().config_file();
    let args = [&["prices", "rerate", "--since", "1d", "--json"], more].concat();
    let ran = Child::run(config.parent().unwrap(), &args).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

#[tokio::test]
async fn a_price_that_was_wrong_is_corrected_beside_the_entries_and_a_crash_changes_nothing() {
    let mut case = a_cloud().await;
    let entry = case.entry_of(Script::default().using(1000, 50), false).await;
    let before = 1000 * INPUT + 50 * OUTPUT;
    assert_eq!(entry.cost(), Some(before));
    // The operator had meant 3 USD per million tokens of output, and half of that for input.
    case.gate.stop().await;
    let gate = case
        .gate
        .restarted_after(|data| {
            let file = data.parent().unwrap().join("tollgate.toml");
            let text = std::fs::read_to_string(&file).unwrap();
            let text = text.replace("output = \"2\"", "output = \"3\"");
            std::fs::write(file, text.replace("input = \"1\"", "input = \"0.5\"")).unwrap();
        })
        .await;
    let after = 1000 * INPUT / 2 + 50 * 3 * OUTPUT / 2;
    let dry = rerated(&gate, &[]).await;
    assert_eq!((&dry["applied"], &dry["changed"]), (&false.into(), &1.into()));
    assert_eq!(dry["difference_usd"], "-0.000450000000");
    assert_eq!(pico(&dry["cost_usd"]), Some(after));
    let untouched = gate.ledger().entry(&entry.id()).await;
    assert!(untouched.0.get("adjusted_cost_usd").is_none());

    let made = rerated(&gate, &["--apply", "--reason", "mistyped"]).await;
    assert_eq!((&made["applied"], &made["changed"]), (&true.into(), &1.into()));
    let gate = gate.killed_and_restarted().await;
    let again = rerated(&gate, &["--apply", "--reason", "mistyped"]).await;
    assert_eq!((&again["changed"], &again["unchanged"]), (&0.into(), &1.into()));

    let adjusted = gate.ledger().entry(&entry.id()).await;
    assert_eq!(adjusted.cost(), Some(before), "as it was booked");
    assert_eq!(pico(&adjusted.0["adjusted_cost_usd"]), Some(after));
    assert_eq!(adjusted.0["adjustments"][0]["reason"], "mistyped");
    let summary = gate.admin("/ledger/summary").await;
    assert_eq!(pico(&summary["total"]["cost_usd"]), Some(after));
    let since = entry.0["arrived_unix_ms"].as_u64().unwrap() / 1_000 - 86_400;
    let costs = gate.admin_get(&format!("/v1/organization/costs?start_time={since}")).await;
    let costs = costs.body_text();
    assert!(costs.contains("0.00065"), "{costs}");
    let csv = gate.admin_get("/admin/v1/ledger/export?format=csv").await.body_text();
    assert!(csv.contains("0.001100000000") && csv.contains(",0.000650000000,"), "{csv}");
    let focus = gate.admin_get("/admin/v1/ledger/export?format=focus").await.body_text();
    let corrected = focus.lines().find(|line| line.contains(",Correction,")).unwrap();
    assert!(corrected.contains(",-0.000450000000,"), "{corrected}");
    assert_eq!(rows(&gate.admin("/ledger/requests").await).len(), 1);
    let verify = gate.admin("/ledger/verify").await;
    assert_eq!(verify["clean"], true, "{verify:#}");
}

/// A route whose rates promise far too much: no answer is done in the time that is set aside at first.
/// One step more is held all the same, at the rate of a prompt's tokens.
fn too_fast(prefill_token_max_us: u32, more: &str) -> String {
    format!(
        "decode_token_max_us = 1\nprefill_token_max_us = {prefill_token_max_us}\nbudgeted = true\n{more}"
    )
}

#[tokio::test]
async fn an_answer_that_takes_longer_than_was_set_aside_is_whole_while_there_is_money() {
    for isolation in ["in_process", "process"] {
        let edge = too_fast(500, &format!("isolation = \"{isolation}\""));
        let gate = Gate::builder().policy("edge-first").edge_with(&edge).start().await;
        let key = gate.new_key().with_budget_usd("1").create().await;
        let ask =
            |tokens| gate.ask("Hi").by(&key).at_most(tokens).set("ignore_eos", json!(true)).send();
        let first = ask(1).await.ok();
        let held_at_first = gate.ledger().entry(first.id()).await.only_attempt().reserved();
        let long = ask(24).await.ok();
        assert_eq!(long.usage()["completion_tokens"], 24, "not a token was cut");
        let entry = gate.ledger().entry(long.id()).await;
        let attempt = entry.only_attempt();
        assert!(attempt.reserved() > held_at_first, "more than for one token: {attempt:?}");
        assert_eq!(gate.budget(&key).await.reserved(), 0, "and given back");
        gate.until_nothing_is_reserved().await;
    }
}

#[tokio::test]
async fn an_answer_is_cut_when_the_money_is_really_short_and_never_overspends() {
    let gate = Gate::builder().policy("edge-first").edge_with(&too_fast(20_000, "")).start().await;
    let probe = gate.ask("Hi").at_most(1).send().await.ok();
    let held = gate.ledger().entry(probe.id()).await.only_attempt().reserved();
    // A hundredth more than what is held at first, and far less than the whole answer takes.
    let limit = held + held / 100;
    let usd = policies::PicoUsdTotal::from_pico(limit).to_string();
    let key = gate.new_key().with_budget_usd(&usd).create().await;
    let long = gate.ask("Hi").by(&key).at_most(1_500).set("ignore_eos", json!(true));
    let long = long.send().await.ok();
    assert_eq!(long.finish(), "length");
    assert!(long.usage()["completion_tokens"].as_u64() < Some(1_500), "{}", long.usage());
    let attempt = gate.ledger().entry(long.id()).await.only_attempt();
    // All there was has been set aside before it was cut; a nanosecond costs a tenth of a pico-USD.
    assert!(limit - attempt.reserved() <= 1, "{} of {limit}", attempt.reserved());
    let budget = gate.budget(&key).await;
    assert!(budget.spent() <= limit, "{budget:?}");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn texts_that_take_longer_than_was_set_aside_are_embedded_while_there_is_money() {
    for isolation in ["in_process", "process"] {
        let edge = too_fast(20, &format!("isolation = \"{isolation}\""));
        let gate = Gate::builder().policy("edge-first").edge_with(&edge).start().await;
        let key = gate.new_key().with_budget_usd("1").create().await;
        let embed = async |words: usize, key: &Key| {
            let body = json!({"model": "auto", "input": "word ".repeat(words)});
            gate.post_by(key, "/v1/embeddings", &body).await
        };
        let first = embed(1, &key).await.ok();
        // What is held for 400 words at first, by the rates: no more than 400 times as much as for one.
        let held_at_first = 400 * gate.ledger().entry(first.id()).await.only_attempt().reserved();
        let long = embed(400, &key).await.ok();
        assert!(long.json()["data"][0]["embedding"].is_array(), "it was not cut");
        let entry = gate.ledger().entry(long.id()).await;
        let attempt = entry.only_attempt();
        assert!(attempt.reserved() > 2 * held_at_first, "more was set aside: {attempt:?}");
        assert_eq!(gate.budget(&key).await.reserved(), 0, "and given back");

        // Enough for what is held at first, and far from what it takes: it is cut, and what it took is
        // charged. That may be more than was held, since a step takes longer than these rates say.
        let usd = policies::PicoUsdTotal::from_pico(held_at_first).to_string();
        let poor = gate.new_key().with_budget_usd(&usd).create().await;
        let cut = embed(400, &poor).await;
        let error = cut.error();
        assert_eq!((cut.status, error.code.as_deref()), (429, Some("insufficient_quota")));
        gate.until_nothing_is_reserved().await;
        assert!(gate.budget(&poor).await.spent() > 0);
        let entry = gate.ledger().entry(cut.id()).await;
        let attempt = entry.only_attempt();
        assert_eq!((entry.outcome().as_str(), attempt.outcome().as_str()), ("short", "cancelled"));
        // One caller's empty purse is no fault of the route, or a few would take it from everybody.
        let ready = gate.get("/ready").await.json();
        assert_eq!(ready["routes"][0]["breaker"]["failed_in_a_row"], 0, "{ready}");
    }
}

/// An answer whose provider counts images and audio apart.
fn heard_and_seen(audio_output: u64) -> Script {
    let usage = json!({
        "prompt_tokens": 1_000, "completion_tokens": 50, "total_tokens": 1_050,
        "prompt_tokens_details": {"audio_tokens": 300, "image_tokens": 200},
        "completion_tokens_details": {"audio_tokens": audio_output},
    });
    let message = json!({"role": "assistant", "content": "Hm."});
    let answer = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "standin-1",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage,
    });
    Script::body("application/json", &answer.to_string())
}

#[tokio::test]
async fn tokens_of_images_and_audio_are_shown_wherever_tokens_are() {
    let case = a_cloud().await;
    let entry = case.entry_of(heard_and_seen(20), false).await;
    let buckets = ["input", "image", "audio", "output", "audio_output"];
    let used = buckets.map(|bucket| entry.only_attempt().used(bucket).unwrap());
    assert_eq!(used, [500, 200, 300, 30, 20]);

    let csv = case.gate.admin_text("/ledger/export?format=csv").await;
    let mut lines = csv.lines().map(|line| line.split(',').collect::<Vec<_>>());
    let (head, cells) = (lines.next().unwrap(), lines.next().unwrap());
    let cell = |name: &str| cells[head.iter().position(|column| *column == name).unwrap()];
    assert_eq!(["image", "audio", "audio_output"].map(cell), ["200", "300", "20"]);
    assert_eq!(head[41], "adjusted_price", "the columns there were stay where they were");

    let directory = case.gate.builder_ref().config_file().parent().unwrap().to_owned();
    for (args, shown) in [
        (&["ledger", "query"][..], "1000+50"),
        (&["ledger", "show", &entry.id()], "1000+50"),
        (&["ledger", "summary"], " 1000      50 "),
    ] {
        let ran = Child::run(&directory, args).await;
        assert!(ran.stdout.contains(shown), "{args:?}: {}", ran.stdout);
    }

    let since = entry.0["arrived_unix_ms"].as_u64().unwrap() / 1_000 - 60;
    let page = case.gate.organization(&format!("/usage/completions?start_time={since}")).await;
    let bucket = rows(&page).into_iter().find_map(|bucket| bucket["results"].get(0).cloned());
    let bucket = bucket.unwrap();
    let names = ["input_tokens", "input_audio_tokens", "output_tokens", "output_audio_tokens"];
    assert_eq!(names.map(|name| bucket[name].as_u64().unwrap()), [1_000, 300, 50, 20]);

    let metrics = case.gate.metrics().await;
    for (bucket, tokens) in [("image", 200), ("audio", 300), ("audio_output", 20)] {
        let line = format!("tollgate_tokens_total{{route=\"cloud\",bucket=\"{bucket}\"}} {tokens}");
        assert!(metrics.contains(&line), "{line}: {metrics}");
    }
}

/// Of how large an image is nothing is known before the provider tells its tokens.
#[tokio::test]
async fn an_image_whose_tokens_nobody_told_is_booked_at_its_bound() {
    let case = a_cloud().await;
    let shown = json!([{"role": "user", "content": [
        {"type": "text", "text": "What is this?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}},
    ]}]);
    let cut = Script::says("one two three").cut(Cut::Close(Point::Piece(1)));
    for (script, stream) in [
        (cut, true),
        (Script::default().with(Fault::NoUsage), true),
        (Script::default().with(Fault::NoUsage), false),
    ] {
        case.cloud.next(script);
        let ask = case.gate.ask("").set("messages", shown.clone());
        let answer = if stream { ask.streamed() } else { ask }.send().await;
        let entry = case.gate.ledger().entry(answer.id()).await;
        let attempt = entry.only_attempt();
        assert_eq!(attempt.text("usage_source"), "estimated");
        assert!(attempt.used("input").unwrap() >= 48_169, "{attempt:?}");
        assert!(attempt.cost().unwrap() <= attempt.reserved());
    }
}
