//! Rate limits say when they open again, and tokens that were not used are given back.

use crate::harness::{Answer, Gate, eventually};
use e2e::standin::{Fault, Hold, Script, StandIn};
use futures::future::join_all;
use serde_json::json;
use std::time::Duration;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

fn is_a_rate_limit(answer: &Answer) {
    assert_eq!(answer.status, 429);
    let error = answer.error();
    assert_eq!(error.code.as_deref(), Some("rate_limit_exceeded"));
    let seconds: u64 = answer.header("retry-after").parse().expect("whole seconds");
    let millis: u64 = answer.header("retry-after-ms").parse().expect("milliseconds");
    assert!((1..=120).contains(&seconds), "{seconds}");
    assert!((1..=120_000).contains(&millis), "{millis}");
}

#[tokio::test]
async fn requests_per_minute_hold_for_their_key_alone() {
    let (cloud, gate) = a_cloud().await;
    let limited = gate.new_key().with_requests_per_minute(3).create().await;
    let mut answered = 0;
    let mut refused = None;
    for _ in 0..8 {
        let answer = gate.ask("Hi.").by(&limited).send().await;
        if answer.status == 200 { answered += 1 } else { refused = Some(answer) }
    }
    let refused = refused.expect("eight are more than three");
    is_a_rate_limit(&refused);
    assert!(refused.error().message.contains("3 requests per minute"), "{:?}", refused.error());
    assert!((3..=4).contains(&answered), "{answered}");
    assert_eq!(cloud.counts().requests, answered);
    gate.ask("Hi.").send().await.ok();
}

#[tokio::test]
async fn an_answer_tells_what_is_left() {
    let (_cloud, gate) = a_cloud().await;
    let limited =
        gate.new_key().with_requests_per_minute(30).with_tokens_per_minute(100_000).create().await;
    let answer = gate.ask("Hi.").by(&limited).send().await.ok();
    assert_eq!(answer.header("x-ratelimit-limit-requests"), "30");
    assert_eq!(answer.header("x-ratelimit-limit-tokens"), "100000");
    for name in ["remaining-requests", "remaining-tokens", "reset-requests", "reset-tokens"] {
        assert!(!answer.header(&format!("x-ratelimit-{name}")).is_empty(), "no {name}");
    }
}

#[tokio::test]
async fn requests_in_flight_per_key() {
    let (cloud, gate) = a_cloud().await;
    let limited = gate.new_key().with_concurrency(2).create().await;
    cloud.next(Script::default().with(Fault::HangMidStream));
    cloud.next(Script::default().with(Fault::HangMidStream));
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut one = gate.ask("Hi.").by(&limited).streamed().open().await;
        one.read_pieces(1).await;
        open.push(one);
    }
    let refused = gate.ask("Hi.").by(&limited).send().await;
    is_a_rate_limit(&refused);
    gate.ask("Hi.").send().await.ok();
    // Leaving gives the place back.
    open.pop().expect("an open stream").leave();
    cloud.until(|counts| counts.left == 1).await.unwrap();
    gate.ledger().until_entries(2).await;
    eventually("a place of this key", || async {
        let answer = gate.ask("Hi.").by(&limited).send().await;
        (answer.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_never_fits_into_a_minutes_tokens_is_not_told_to_come_again() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let limited = gate.new_key().with_tokens_per_minute(100).create().await;
    let refused = gate.ask("Hello.").by(&limited).at_most(500).send().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.error().code.as_deref(), Some("rate_limit_exceeded"));
    let said = refused.error().message;
    assert!(said.contains("above this key's limit of 100 tokens per minute"), "{said}");
    assert_eq!(refused.header("x-should-retry"), "false");
    assert!(!refused.headers.contains_key("retry-after"), "{:?}", refused.headers);
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn tokens_per_minute_are_taken_at_their_worst_and_given_back() {
    let (cloud, gate) = a_cloud().await;
    cloud.always(Script::default().using(10, 5));
    // Each asks for up to 500 answer tokens and uses 15: with nothing given back, two fit.
    let limited = gate.new_key().with_tokens_per_minute(1_300).create().await;
    for _ in 0..10 {
        gate.ask("Hi.").by(&limited).at_most(500).send().await.ok();
    }
    // A request that could never fit is told so.
    let refused = gate.ask("Hi.").by(&limited).at_most(5_000).send().await;
    assert_eq!(refused.status, 429);
    assert!(refused.error().message.contains("1300"), "{:?}", refused.error());

    // Held by an answer that runs, they are not there for another.
    cloud.always(Script::default().with(Fault::HangMidStream));
    let mut open = gate.ask("Hi.").by(&limited).at_most(600).streamed().open().await;
    open.read_pieces(1).await;
    let refused = gate.ask("Hi.").by(&limited).at_most(600).send().await;
    is_a_rate_limit(&refused);
}

/// A gateway whose one cloud route goes by `large` and `small` too, with a limit of `large`.
async fn limited_by_model(cloud: &StandIn, limit: &str) -> Gate {
    Gate::builder()
        .cloud_named("cloud", cloud, "aliases = [\"large\", \"small\"]")
        .section(&format!("[[limit]]\nmodel = \"large\"\n{limit}"))
        .start()
        .await
}

#[tokio::test]
async fn a_models_requests_per_minute_hold_over_all_keys_and_for_it_alone() {
    let cloud = StandIn::start().await.unwrap();
    let gate = limited_by_model(&cloud, "requests_per_minute = 2").await;
    let other = gate.new_key().with_requests_per_minute(1000).create().await;
    let first = gate.ask("Hi.").from("large").send().await.ok();
    assert_eq!(first.header("x-ratelimit-limit-requests"), "2");
    let second = gate.ask("Hi.").from("large").by(&other).send().await.ok();
    assert_eq!(second.header("x-ratelimit-limit-requests"), "2", "the tightest is told");
    assert_eq!(second.header("x-ratelimit-remaining-requests"), "0");
    let refused = gate.ask("Hi.").from("large").by(&other).send().await;
    is_a_rate_limit(&refused);
    let message = refused.error().message;
    assert!(message.contains("the model `large`'s limit of 2 requests per minute"), "{message}");
    assert_eq!(refused.header("x-ratelimit-limit-requests"), "2");
    assert_eq!(cloud.counts().requests, 2, "nothing was sent");
    let free = gate.ask("Hi.").from("small").by(&other).send().await.ok();
    assert_eq!(free.header("x-ratelimit-limit-requests"), "1000");

    let shown = gate.admin("/limits").await;
    assert_eq!(shown["data"][0]["model"], "large");
    assert_eq!(shown["data"][0]["limits"]["requests_per_minute"], 2);
    assert_eq!(shown["data"][0]["remaining_requests"], 0);
    let metrics = gate.metrics().await;
    assert!(metrics.contains("tollgate_model_requests_left{model=\"large\"} 0"), "{metrics}");
}

#[tokio::test]
async fn a_models_requests_in_flight_hold_until_the_last_byte() {
    let cloud = StandIn::start().await.unwrap();
    let gate = limited_by_model(&cloud, "concurrency = 1").await;
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("one two").held(&hold));
    let mut open = gate.ask("Hi.").from("large").streamed().open().await;
    open.read_pieces(1).await;
    let refused = gate.ask("Hi.").from("large").send().await;
    is_a_rate_limit(&refused);
    let message = refused.error().message;
    assert!(message.contains("the model `large`'s limit of 1 requests in flight"), "{message}");
    gate.ask("Hi.").from("small").send().await.ok();
    hold.let_go();
    open.rest().await.ok();
    eventually("the place at the model", || async {
        (gate.ask("Hi.").from("large").send().await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_models_tokens_per_minute_are_held_at_their_worst_and_told() {
    let cloud = StandIn::start().await.unwrap();
    cloud.always(Script::default().using(10, 5));
    let gate = limited_by_model(&cloud, "tokens_per_minute = 1300").await;
    let limited = gate.new_key().with_tokens_per_minute(100_000).create().await;
    for _ in 0..5 {
        let answer = gate.ask("Hi.").from("large").by(&limited).at_most(500).send().await.ok();
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), "1300");
    }
    let refused = gate.ask("Hi.").from("large").by(&limited).at_most(5_000).send().await;
    assert_eq!(refused.error().code.as_deref(), Some("rate_limit_exceeded"));
    let message = refused.error().message;
    assert!(message.contains("the model `large`'s limit of 1300 tokens per minute"), "{message}");
    assert_eq!(refused.header("x-ratelimit-limit-tokens"), "1300");
    let free = gate.ask("Hi.").from("small").by(&limited).at_most(5_000).send().await.ok();
    assert_eq!(free.header("x-ratelimit-limit-tokens"), "100000");
}

#[tokio::test]
async fn wrong_keys_from_one_address_are_slowed_down_and_right_ones_are_not() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).limit("failed_auth_per_minute = 5").start().await;
    let headers = [("authorization", "Bearer sk-wrong")];
    let tries = (0..12).map(|_| gate.send("GET", "/v1/models", &headers, Vec::new()));
    let answers = join_all(tries).await;
    let wrong = answers.iter().filter(|a| a.status == 401).count();
    assert!((5..=6).contains(&wrong), "{wrong} of 12 were answered 401");
    answers.iter().filter(|a| a.status != 401).for_each(is_a_rate_limit);
    gate.ask("Hi.").send().await.ok();
}

#[tokio::test]
async fn a_route_that_is_full_is_busy_and_says_so() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, "in_flight_max = 1\npool_wait_max_ms = 100")
        .start()
        .await;
    cloud.next(Script::default().with(Fault::HangMidStream));
    let mut open = gate.ask("Hi.").streamed().open().await;
    open.read_pieces(1).await;
    let answer = gate.ask("Hi.").send().await;
    assert!(matches!(answer.status, 429 | 503), "{}", answer.status);
    assert!(!answer.header("retry-after").is_empty());
    answer.error();
    let entry = gate.ledger().until_entries(1).await.remove(0);
    assert_eq!(gate.ledger().entry(&entry.id()).await.only_attempt().outcome(), "not_sent");
}

#[tokio::test]
async fn a_wait_that_would_be_too_long_is_not_begun() {
    const HELD: Duration = Duration::from_millis(400);
    let cloud = StandIn::start().await.unwrap();
    // A place is kept for longer than anybody may wait for one.
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, "in_flight_max = 1\npool_wait_max_ms = 200")
        .start()
        .await;
    cloud.always(Script { before_head: HELD, ..Script::default() });
    gate.ask("How long?").send().await.ok();
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("one two").held(&hold));
    let mut open = gate.ask("Take the place.").streamed().open().await;
    open.read_pieces(1).await;

    let answer = gate.ask("May I wait?").send().await;
    assert_eq!((answer.status, answer.error().code.as_deref()), (503, Some("busy")));
    assert!(!answer.header("retry-after").is_empty());
    assert_eq!(cloud.counts().requests, 2, "nothing was sent");
    assert_eq!(gate.ledger().until_entries(1).await.len(), 1, "nothing was reserved or booked");
    hold.let_go();
    open.rest().await.ok();
    gate.ledger().until_entries(2).await;
}

#[tokio::test]
async fn the_wait_for_a_place_is_a_time_of_its_own() {
    const HELD: Duration = Duration::from_millis(250);
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, "in_flight_max = 1\npool_wait_max_ms = 60000")
        .start()
        .await;
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("one two").held(&hold));
    let mut open = gate.ask("Take the place.").streamed().open().await;
    open.read_pieces(1).await;
    let asked = gate.ask("I wait.").send();
    let lets_go = async {
        eventually("it to wait", || async {
            let ready = gate.get("/ready").await.json();
            (ready["routes"][0]["queued"] == 1).then_some(())
        })
        .await;
        tokio::time::sleep(HELD).await;
        hold.let_go();
    };
    let (answer, ()) = tokio::join!(asked, lets_go);
    open.rest().await.ok();
    let entry = gate.ledger().entry(answer.ok().id()).await;
    let times = &entry.only_attempt().0["times"];
    let waited = times["wait_us"].as_u64().unwrap_or_else(|| panic!("no wait in {times}"));
    assert!(Duration::from_micros(waited) >= HELD, "{times}");
    let ttft = times["ttft_us"].as_u64();
    assert!(ttft.is_none_or(|ttft| ttft <= entry.0["stages"]["attempt_us"].as_u64().unwrap()));
}

#[tokio::test]
async fn a_deadline_bounds_a_whole_answer_to_its_end_and_a_stream_to_its_beginning() {
    // Once, a step takes longer than anybody waits, however fast the machine is.
    let stands_still = "drill = \"block:20:4000\"";
    let gate = Gate::builder().edge_with(stands_still).policy("edge-first").start().await;
    let ask = || {
        let ask = gate.ask("Tell me a long story.").at_most(900).set("ignore_eos", json!(true));
        ask.header("x-tollgate-deadline-ms", "3000")
    };
    let whole = ask().send().await;
    assert_eq!(whole.status, 504, "{}", whole.body_text());
    assert_eq!(whole.error().code.as_deref(), Some("deadline_exceeded"));
    let entry = gate.ledger().entry(whole.id()).await;
    let attempt = entry.only_attempt();
    assert_eq!(attempt.outcome(), "cancelled");
    assert!(attempt.cost().is_some_and(|cost| cost > 0), "it was computed until then");
    let stream = ask().streamed().send().await.ok();
    assert!(stream.done(), "what has begun in time goes on");
    let routes = gate.admin("/routes").await;
    assert!(!routes.to_string().contains("\"failed_in_a_row\":1"), "{routes}");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_callers_own_deadline_and_price_limit_hold() {
    let (cloud, gate) = a_cloud().await;
    cloud.next(Script::default().with(Fault::Hang));
    let answer = gate.ask("Hi.").header("x-tollgate-deadline-ms", "300").send().await;
    assert_eq!(answer.status, 504);
    assert_eq!(answer.error().code.as_deref(), Some("deadline_exceeded"));

    let before = cloud.counts().requests;
    let answer = gate.ask("Hi.").header("x-tollgate-max-cost-usd", "0.000000000001").send().await;
    assert!((400..500).contains(&answer.status), "{}", answer.body_text());
    answer.error();
    assert_eq!(cloud.counts().requests, before, "nothing was sent above the caller's own limit");
}

#[tokio::test]
async fn what_is_never_sent_takes_nothing_of_a_models_limit_from_others() {
    let cloud = StandIn::start().await.unwrap();
    let limit = "[[limit]]\nmodel = \"auto\"\nrequests_per_minute = 2";
    let gate = Gate::builder().cloud(&cloud).section(limit).start().await;
    let poor = gate.new_key().with_budget_usd("0.000000000001").create().await;
    for _ in 0..5 {
        let refused = gate.ask("Anything?").by(&poor).send().await;
        assert_eq!(refused.error().code.as_deref(), Some("insufficient_quota"));
        let unstreamed = gate.ask("Anything?").by(&poor).header("idempotency-key", "order-1");
        assert_eq!(unstreamed.send().await.error().code.as_deref(), Some("insufficient_quota"));
    }
    for _ in 0..2 {
        gate.ask("Hi.").send().await.ok();
    }
    is_a_rate_limit(&gate.ask("Hi.").send().await);
    assert_eq!(cloud.counts().requests, 2);
}

#[tokio::test]
async fn answers_that_are_kept_or_shared_take_nothing_of_a_models_limit() {
    let cloud = StandIn::start().await.unwrap();
    let limit = "[[limit]]\nmodel = \"auto\"\nrequests_per_minute = 3\n[cache]\nmode = \"asked\"";
    let gate = Gate::builder().cloud(&cloud).section(limit).start().await;
    for _ in 0..4 {
        let same = gate.ask("The same?").set("temperature", 0.into());
        same.header("x-tollgate-cache", "on").send().await.ok();
    }
    assert_eq!(cloud.counts().requests, 1);
    for _ in 0..4 {
        gate.ask("Once?").header("idempotency-key", "order-1").send().await.ok();
    }
    assert_eq!(cloud.counts().requests, 2);
    gate.ask("Hi.").send().await.ok();
    is_a_rate_limit(&gate.ask("Hi.").send().await);
    assert_eq!(cloud.counts().requests, 3);
}

#[tokio::test]
async fn bodies_in_flight_have_a_bound_together() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud(&cloud)
        .server("body_bytes_max = 1048576")
        .limit("bodies_mib = 1")
        .start()
        .await;
    let other = gate.new_key().create().await;
    let long = "word ".repeat(140_000);
    let hold = Hold::after_pieces(0);
    cloud.next(Script::says("at last").held(&hold));
    let first = gate.ask(&long).streamed();
    let others = async {
        eventually("the first one to be asked", || async {
            (cloud.counts().requests == 1).then_some(())
        })
        .await;
        let second = gate.ask(&long).send().await;
        is_a_rate_limit(&second);
        let told = second.error().message;
        assert!(
            told.starts_with("this key's share of the gateway's limit of 1048576 bytes"),
            "{told}"
        );
        let others = gate.ask(&long).by(&other).send().await;
        assert_eq!((others.status, others.error().code.as_deref()), (503, Some("busy")));
        let told = others.error().message;
        assert!(told.contains("the bodies of other requests"), "{told}");
        gate.ask("A short one.").send().await.ok();
        hold.let_go();
    };
    let (first, ()) = futures::join!(first.send(), others);
    first.ok();
    gate.ask(&long).send().await.ok();
}
