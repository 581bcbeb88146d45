//! A tollgate can be the cloud of another tollgate: what one writes, the other reads.

use crate::harness::Gate;
use e2e::standin::{Fault, Script, StandIn};

#[tokio::test]
async fn one_behind_another_answers_counts_and_cancels() {
    let cloud = StandIn::start().await.unwrap();
    let inner = Gate::builder().cloud(&cloud).start().await;
    let api_key = format!("headers = {{ x-api-key = \"{}\" }}", inner.key().secret);
    // The inner gateway takes its key from x-api-key only where no Authorization says otherwise.
    let outer = Gate::builder()
        .keyless_cloud_at("inner", &format!("{}/v1", inner.url()), "auto", &api_key)
        .start()
        .await;

    cloud.always(Script::says("All is well.").using(100, 20).cached(40).reasoning(8));
    for stream in [false, true] {
        let ask = outer.ask("How are you?");
        let answer = if stream { ask.streamed_with_usage() } else { ask }.send().await.ok();
        assert_eq!(answer.text(), "All is well.");
        assert_eq!(answer.usage()["prompt_tokens"], 100);
        let entry = outer.ledger().entry(answer.id()).await;
        let attempt = entry.only_attempt();
        let used = ["input", "cache_read", "output", "reasoning"].map(|b| attempt.used(b));
        assert_eq!(used, [Some(60), Some(40), Some(12), Some(8)]);
    }
    let (inside, outside) = (inner.ledger().entries().await, outer.ledger().entries().await);
    assert_eq!(inside.len(), 2);
    let costs = |entries: &[crate::harness::EntrySeen]| -> Vec<_> {
        entries.iter().map(crate::harness::EntrySeen::cost).collect()
    };
    assert_eq!(costs(&inside), costs(&outside), "the same prices make the same costs");

    // A client that leaves the outer one cancels all the way up.
    cloud.next(Script::default().with(Fault::HangMidStream));
    let mut open = outer.ask("Are you there?").streamed().open().await;
    open.read_pieces(1).await;
    open.leave();
    cloud.until(|counts| counts.left == 1).await.expect("cancelled through both");
    inner.ledger().until_entries(3).await;
    outer.ledger().until_entries(3).await;
    inner.until_nothing_is_reserved().await;
    outer.until_nothing_is_reserved().await;

    // Errors keep their shape and meaning on the way.
    cloud.next(Script::default().with(Fault::Status400));
    let answer = outer.ask("Something odd.").send().await;
    assert_eq!((answer.status, answer.error().code.as_deref()), (400, Some("bad_thing")));
}

#[tokio::test]
async fn what_another_refuses_of_one_request_opens_no_breaker_and_is_not_asked_again() {
    let another = StandIn::start().await.unwrap();
    let eager = "retry = { max = 2, backoff_ms = 1 }\n\
                 breaker = { failures_max = 1, samples_min = 1 }";
    let gate = Gate::builder()
        .cloud_of_kind("another", &another.base_url(), "tollgate", eager)
        .start()
        .await;
    let refusals = [
        (504, "server_error", "deadline_exceeded"),
        (429, "budget_exceeded", "insufficient_quota"),
        (402, "budget_exceeded", "insufficient_quota"),
        (429, "rate_limit_error", "rate_limit_exceeded"),
        (403, "permission_error", "policy_refused"),
        (403, "permission_error", "permission_denied"),
    ];
    for (asked, (status, kind, code)) in (1..).zip(refusals) {
        let mut refused = Script::error(status, kind, Some(code), "Not this one.")
            .header("x-tollgate-cost-usd", "0.000000000000");
        if status != 504 {
            refused = refused.header("x-should-retry", "false");
        }
        another.always(refused);
        let ask = gate.ask("Quick!").header("x-tollgate-deadline-ms", "20000");
        let answer = ask.send().await;
        assert_eq!((answer.status, answer.error().code.as_deref()), (status, Some(code)));
        let stops = answer.headers.get("x-should-retry").is_some_and(|word| word == "false");
        assert_eq!(stops, matches!(status, 402 | 429), "{status} {code}");
        assert_eq!(another.asked().len(), asked, "{status} {code}: asked once");
        let entry = gate.ledger().entry(answer.id()).await;
        assert_eq!(entry.only_attempt().0["upstream_status"], status);
        assert_eq!(entry.only_attempt().cost(), Some(0));
    }
    let breaker = || async { gate.get("/ready").await.json()["routes"][0]["breaker"].clone() };
    assert_eq!(breaker().await["opened"], 0);
    // Its own slow route is another matter.
    another.always(Script::error(504, "server_error", Some("deadline_exceeded"), "Slow."));
    gate.ask("No hurry.").send().await.error();
    assert_eq!(breaker().await["opened"], 1);
}

#[tokio::test]
async fn what_another_was_charged_before_it_failed_is_booked() {
    let (slow, wrong) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let inner = Gate::builder()
        .cloud_named("slow", &slow, "first_token_timeout_ms = 100\ntotal_timeout_ms = 100")
        .cloud_named("wrong", &wrong, "")
        .start()
        .await;
    let api_key = format!("headers = {{ x-api-key = \"{}\" }}", inner.key().secret);
    let outer = Gate::builder()
        .keyless_cloud_at("inner", &format!("{}/v1", inner.url()), "auto", &api_key)
        .of_kind("tollgate")
        .start()
        .await;
    for stream in [false, true] {
        slow.next(Script::default().with(Fault::Hang));
        wrong.next(Script::default().with(Fault::Status401));
        let ask = outer.ask("Who pays?");
        let answer = if stream { ask.streamed() } else { ask }.send().await;
        assert!(answer.status >= 500, "{}", answer.body_text());
        let entry = outer.ledger().entry(answer.id()).await;
        entry.adds_up();
        assert!(entry.cost() > Some(0), "the first route may have been billed, stream {stream}");
        assert!(!entry.only_attempt().0["voided"].as_bool().unwrap());
        assert_eq!(answer.header("x-tollgate-cost-usd"), entry.0["cost_usd"].as_str().unwrap());
    }
    let (inside, outside) = (inner.ledger().entries().await, outer.ledger().entries().await);
    let costs = |entries: &[crate::harness::EntrySeen]| -> Vec<_> {
        entries.iter().map(crate::harness::EntrySeen::cost).collect()
    };
    assert_eq!(costs(&inside), costs(&outside));
    // What was asked of nobody costs nothing.
    let refused = inner.ask("").set("messages", serde_json::json!([])).send().await;
    assert_eq!((refused.status, refused.header("x-tollgate-cost-usd")), (400, "0.000000000000"));
    outer.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn another_that_fails_and_says_nothing_of_costs_may_have_had_any() {
    let another = StandIn::start().await.unwrap();
    let gate =
        Gate::builder().cloud_of_kind("another", &another.base_url(), "tollgate", "").start().await;
    another.next(Script::default().with(Fault::Status503));
    let answer = gate.ask("Who pays?").send().await;
    assert_eq!(answer.status, 503);
    assert!(answer.headers.get("x-tollgate-cost-usd").is_none(), "unknown is never 0");
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!((entry.cost(), entry.only_attempt().cost()), (None, None));
    // So it is of what comes in place of an answer under a 200.
    let error = r#"{"error":{"message":"Slow down.","code":"rate_limit_exceeded"}}"#;
    another.next(Script::body("text/event-stream", &format!("data: {error}\n\n")));
    let answer = gate.ask("Who pays?").streamed().send().await;
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.cost(), None, "{}", answer.body_text());
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn what_another_refuses_of_one_request_another_route_may_serve() {
    let (another, stranger) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_of_kind("another", &another.base_url(), "tollgate", "")
        .cloud_named("stranger", &stranger, "")
        .start()
        .await;
    let spent = Script::error(429, "budget_exceeded", Some("insufficient_quota"), "Spent.");
    another.always(spent.header("x-should-retry", "false"));
    let answer = gate.ask("Who?").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "stranger");
}

#[tokio::test]
async fn what_is_left_of_a_deadline_goes_on_to_another_tollgate_and_to_nobody_else() {
    const ASKED_MS: u64 = 20_000;
    let (another, stranger) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let eager = "retry = { max = 1, backoff_ms = 40 }";
    let gate = Gate::builder()
        .cloud_of_kind("another", &another.base_url(), "tollgate", eager)
        .cloud_named("stranger", &stranger, "")
        .start()
        .await;
    let deadline = |cloud: &StandIn| {
        let asked = cloud.asked().pop().expect("a request");
        let left = asked.header("x-tollgate-deadline-ms").map(str::to_owned);
        left.map(|left| left.parse::<u64>().expect("milliseconds"))
    };
    gate.ask("No hurry.").from("another").send().await.ok();
    assert_eq!(deadline(&another), None);

    let hurry = |route: &str| {
        gate.ask("Quick!").from(route).header("x-tollgate-deadline-ms", &ASKED_MS.to_string())
    };
    another.next(Script::default().with(Fault::Status503));
    hurry("another").send().await.ok();
    let tries = another.asked().split_off(1);
    let left: Vec<u64> = tries
        .iter()
        .map(|asked| asked.header("x-tollgate-deadline-ms").unwrap().parse().unwrap())
        .collect();
    let [first, second] = left.as_slice() else { panic!("two tries: {left:?}") };
    // The second came at least half of the backoff later.
    assert!(*first < ASKED_MS && second + 20 <= *first, "{left:?}");

    hurry("stranger").send().await.ok();
    assert_eq!(deadline(&stranger), None, "it is no business of theirs");
}
