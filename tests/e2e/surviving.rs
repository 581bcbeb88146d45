//! A provider that fails is survived: asked again within one budget, left alone while it keeps
//! failing, and not asked at all when the answer would come too late.

use crate::harness::{Child, Gate, eventually};
use e2e::standin::{Cut, Fault, Hold, Point, Script, StandIn};
use serde_json::json;
use std::{process::Stdio, time::Duration};

/// Retries that do not make a test wait.
const EAGER: &str = "retry = { max = 2, backoff_ms = 1, retry_after_max_ms = 1000 }";
/// Never opens of itself.
const PATIENT: &str = "breaker = { failures_max = 1000000, samples_min = 1000000 }";

async fn one_cloud(more: &str) -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud_named("cloud", &cloud, more).start().await;
    (cloud, gate)
}

#[tokio::test]
async fn a_fault_that_passes_is_survived_and_each_try_is_an_attempt() {
    let (cloud, gate) = one_cloud(EAGER).await;
    for fault in [Fault::Status503, Fault::Status500, Fault::ResetBeforeHead] {
        cloud.next(Script::default().with(fault)).next(Script::default().with(fault));
        cloud.next(Script::says("At last.").using(10, 2));
        let answer = gate.ask("Are you there?").send().await.ok();
        let what = fault.name();
        assert_eq!(answer.text(), "At last.", "{what}");
        assert_eq!(answer.header("x-tollgate-attempts"), "3", "{what}");
        let entry = gate.ledger().entry(answer.id()).await;
        entry.adds_up();
        assert_eq!(entry.outcome(), "completed", "{what}");
        let attempts = entry.attempts();
        let roles: Vec<_> = attempts.iter().map(|attempt| attempt.text("role")).collect();
        assert_eq!(roles, ["primary", "retry", "retry"], "{what}");
        assert_eq!(attempts[2].0["parent"], 1, "{what}");
        if fault != Fault::ResetBeforeHead {
            assert_eq!(attempts[0].cost(), Some(0), "{what}: an error status is not charged");
        }
    }
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn retries_end_with_their_budget_and_wait_as_they_are_told() {
    let (cloud, gate) = one_cloud(EAGER).await;
    // Told to wait a moment, it does.
    let moment = Script::default().with(Fault::RateLimited).header("retry-after-ms", "5");
    cloud.next(moment);
    let answer = gate.ask("Again?").send().await.ok();
    assert_eq!(answer.header("x-tollgate-attempts"), "2");

    // Told to wait longer than is worth it, it hands the caller the answer and the wait.
    cloud.next(Script::default().with(Fault::RateLimited));
    let before = cloud.counts().requests;
    let answer = gate.ask("Again?").send().await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, "7"));
    assert_eq!(cloud.counts().requests, before + 1);

    // Three tries and no more.
    cloud.always(Script::default().with(Fault::Status503));
    let before = cloud.counts().requests;
    let answer = gate.ask("Anyone?").send().await;
    assert_eq!(answer.status, 503);
    assert_eq!(cloud.counts().requests, before + 3);
    assert_eq!(gate.ledger().entry(answer.id()).await.attempts().len(), 3);

    // What is wrong with the key or the request is as wrong the second time.
    for fault in [Fault::Status400, Fault::Status401] {
        cloud.always(Script::default().with(fault));
        let before = cloud.counts().requests;
        gate.ask("Odd?").send().await.error();
        assert_eq!(cloud.counts().requests, before + 1, "{}", fault.name());
    }
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn nothing_is_asked_again_once_a_byte_is_out() {
    let (cloud, gate) = one_cloud(EAGER).await;
    cloud.next(Script::says("one two three").cut(Cut::Reset(Point::Piece(1))));
    let answer = gate.ask("Count.").streamed().send().await;
    assert_eq!((answer.status, answer.done()), (200, false));
    assert_eq!(cloud.counts().requests, 1);
    assert_eq!(gate.ledger().only_entry().await.attempts().len(), 1);
}

#[tokio::test]
async fn the_next_route_comes_before_a_second_try_and_all_share_one_budget() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, EAGER)
        .cloud_named("second", &second, EAGER)
        .section("[attempts]\nmax = 3")
        .start()
        .await;
    first.always(Script::default().with(Fault::Status503));
    let answer = gate.ask("Who?").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "second");
    assert_eq!(answer.header("x-tollgate-attempts"), "2", "no wait while another route is left");

    second.always(Script::default().with(Fault::Status503));
    let answer = gate.ask("Who?").send().await;
    assert_eq!(answer.status, 502);
    let attempts = gate.ledger().entry(answer.id()).await.attempts();
    let tried: Vec<_> = attempts.iter().map(|a| (a.route(), a.text("role"))).collect();
    let tried: Vec<_> = tried.iter().map(|(route, role)| (route.as_str(), role.as_str())).collect();
    assert_eq!(tried, [("first", "primary"), ("second", "fallback"), ("first", "retry")]);
}

#[tokio::test]
async fn an_outage_is_not_met_with_a_multiple_of_the_traffic() {
    let retries = "retry = { max = 2, backoff_ms = 1, extra_permille = 100 }";
    let (cloud, gate) = one_cloud(&format!("{retries}\n{PATIENT}")).await;
    cloud.always(Script::default().with(Fault::Status503));
    for _ in 0..40 {
        assert_eq!(gate.ask("Anyone?").send().await.status, 503);
    }
    // Ten saved up at the start, and a tenth of those that came after the first.
    assert_eq!(cloud.counts().requests, 40 + 13);
}

#[tokio::test]
async fn a_route_that_keeps_failing_is_left_alone_and_then_tried_with_one() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let quick = "breaker = { failures_max = 3, open_ms = 300, open_max_ms = 300 }";
    let gate = Gate::builder()
        .cloud_named("first", &first, quick)
        .cloud_named("second", &second, "")
        .start()
        .await;
    first.always(Script::default().with(Fault::Status500));
    let mut asked = 0;
    eventually("the breaker to open", || async {
        gate.ask("Who?").send().await.ok();
        let ready = gate.get("/ready").await.json();
        (ready["routes"][0]["breaker"]["state"] == "open").then_some(())
    })
    .await;
    asked += first.counts().requests;
    assert_eq!(asked, 3, "three in a row are enough");
    let answer = gate.ask("Who?").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "second");
    let entry = gate.ledger().entry(answer.id()).await;
    let left_out = entry.0["decision"]["left_out"].to_string();
    if entry.attempts().len() == 1 {
        assert!(left_out.contains("unavailable"), "the policy knew: {left_out}");
    }
    let metrics = gate.metrics().await;
    assert!(metrics.contains("tollgate_route_breaker_opened_total{route=\"first\"} "), "{metrics}");
    let routes = gate.admin("/routes").await.to_string();
    assert!(routes.contains("\"failed_in_a_row\":"), "{routes}");

    first.always(Script::default());
    let answer = eventually("it to be tried again", || async {
        let answer = gate.ask("Who?").send().await.ok();
        (answer.header("x-tollgate-route") == "first").then_some(answer)
    })
    .await;
    assert_eq!(gate.ledger().entry(answer.id()).await.attempts().len(), 1);
    let ready = gate.get("/ready").await.json();
    assert_eq!(ready["routes"][0]["breaker"]["state"], "closed", "{ready}");
}

#[tokio::test]
async fn a_callers_bad_requests_open_no_breaker() {
    let (cloud, gate) = one_cloud("breaker = { failures_max = 1, samples_min = 1 }").await;
    cloud.always(Script::default().with(Fault::Status400));
    for _ in 0..20 {
        assert_eq!(gate.ask("Odd.").send().await.status, 400);
    }
    for status in [413, 415, 422] {
        cloud.always(Script::error(status, "invalid_request_error", None, "Odd as well."));
        gate.ask("Odd.").send().await.error();
    }
    // Nor does an endpoint that they chose and the provider lacks, or a prompt that it moderates.
    cloud.always(Script::error(404, "invalid_request_error", None, "Not found."));
    for _ in 0..5 {
        let body = json!({"model": "cloud", "input": "a"});
        let refused = gate.post("/v1/embeddings", &body).await;
        assert_eq!((refused.status, refused.error().param.as_deref()), (400, Some("model")));
        let entry = gate.ledger().entry(refused.id()).await;
        assert_eq!(entry.only_attempt().0["upstream_status"], 404);
        assert_eq!(entry.only_attempt().cost(), Some(0));
    }
    // Nor what it has no provider for, or what is too long for it.
    let none = "No endpoints found that support image input";
    cloud.always(Script::error(404, "invalid_request_error", None, none));
    assert_eq!(gate.ask("Look.").send().await.status, 400);
    let code = Some("context_length_exceeded");
    cloud.always(Script::error(400, "invalid_request_error", code, "Too long."));
    assert_eq!(gate.ask("Long.").send().await.error().code.as_deref(), code);
    cloud.always(Script::error(403, "moderation", None, "Your input was flagged."));
    assert_eq!(gate.ask("Violence.").send().await.status, 403);
    cloud.always(Script::default());
    gate.ask("Ordinary.").send().await.ok();
    let opened = || async { gate.get("/ready").await.json()["routes"][0]["breaker"].clone() };
    assert_eq!(opened().await["opened"], 0);
    // A chat that is not there is the operator's mistake: the model's name is theirs.
    cloud.always(Script::error(404, "invalid_request_error", None, "No such model."));
    gate.ask("Ordinary.").send().await.error();
    assert_eq!(opened().await["opened"], 1);
}

#[tokio::test]
async fn what_befell_a_route_is_told_and_not_that_it_is_left_alone_since() {
    let breaker = "breaker = { failures_max = 1, open_ms = 60000 }";
    let (cloud, gate) = one_cloud(&format!("{EAGER}\n{breaker}")).await;
    // It opens the breaker, and would be worth another try.
    cloud.always(Script::default().with(Fault::RateLimited).header("retry-after-ms", "5"));
    let answer = gate.ask("Well?").send().await;
    assert_eq!((answer.status, answer.error().kind.as_str()), (429, "rate_limit_error"));
    assert_eq!(answer.header("retry-after"), "1");
    assert_eq!(cloud.counts().requests, 1);
}

#[tokio::test]
async fn when_a_provider_may_be_asked_again_is_told_of_a_503_too() {
    let (cloud, gate) = one_cloud(PATIENT).await;
    cloud.next(Script::default().with(Fault::Status503).header("retry-after", "7"));
    let answer = gate.ask("Well?").send().await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "7"));
}

#[tokio::test]
async fn alone_and_resting_a_route_is_a_503_that_sends_nothing() {
    let (cloud, gate) = one_cloud("breaker = { failures_max = 1, open_ms = 60000 }").await;
    cloud.next(Script::default().with(Fault::Status500));
    assert_eq!(gate.ask("Well?").send().await.status, 503);
    let answer = gate.ask("Well?").send().await;
    assert_eq!((answer.status, answer.error().code.as_deref()), (503, Some("upstream_failed")));
    let after: u64 = answer.header("retry-after").parse().expect("when it is tried again");
    assert!((1..=60).contains(&after), "{after}");
    assert_eq!(cloud.counts().requests, 1);
    assert_eq!(gate.ledger().until_entries(1).await.len(), 1, "nothing was tried");
}

#[tokio::test]
async fn beside_the_one_that_tries_a_resting_route_others_are_told_when_to_come_again() {
    let (cloud, gate) = one_cloud("breaker = { failures_max = 1, open_ms = 100 }").await;
    cloud.next(Script::default().with(Fault::Status500));
    assert_eq!(gate.ask("Well?").send().await.status, 503);
    eventually("the breaker to let one try", || async {
        let ready = gate.get("/ready").await.json();
        (ready["routes"][0]["breaker"]["state"] == "half_open").then_some(())
    })
    .await;
    let hold = Hold::after_pieces(0);
    cloud.next(Script::says("Well again.").held(&hold));
    let first = gate.ask("Well?").streamed().send();
    let beside = async {
        cloud.until(|counts| counts.requests == 2).await.expect("the one that tries");
        let beside = gate.ask("Well?").send().await;
        hold.let_go();
        beside
    };
    let (first, beside) = tokio::join!(first, beside);
    assert_eq!((first.status, beside.status), (200, 503), "{}", beside.body_text());
    assert_eq!(beside.header("retry-after-ms"), "100");
    assert_eq!(cloud.counts().requests, 2);
}

#[tokio::test]
async fn what_cannot_come_in_time_is_refused_before_it_costs() {
    let (cloud, gate) = one_cloud("").await;
    let slow = Script { before_head: Duration::from_millis(120), ..Script::default() };
    cloud.always(slow);
    for _ in 0..8 {
        gate.ask("Slowly.").send().await.ok();
    }
    let answer = gate.ask("Quick!").header("x-tollgate-deadline-ms", "60").send().await;
    assert_eq!((answer.status, answer.error().code.as_deref()), (504, Some("deadline_exceeded")));
    assert!(answer.error().message.contains("deadline"), "{}", answer.body_text());
    assert_eq!(cloud.counts().requests, 8, "nothing was sent");
    assert_eq!(gate.ledger().until_entries(8).await.len(), 8, "and nothing booked");
    gate.ask("In time.").header("x-tollgate-deadline-ms", "20000").send().await.ok();
}

#[tokio::test]
async fn a_log_that_cannot_be_written_harms_no_request_and_no_orderly_end() {
    let cloud = StandIn::start().await.unwrap();
    let full = || std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let unread = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        writer
    };
    let streams: [(Stdio, Stdio); 3] = [
        (Stdio::piped(), unread().into()),
        (Stdio::piped(), full().into()),
        (full().into(), Stdio::piped()),
    ];
    for (out, err) in streams {
        let builder = Gate::builder()
            .cloud_at("nowhere", "http://127.0.0.1:1/v1", "")
            .cloud_named("cloud", &cloud, "");
        builder.write();
        let child = Child::start_to(builder.config_file(), out, err).await;
        let mut gate = Gate::of(builder, child).await;
        let answer = gate.ask("Who answers?").send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "cloud", "the next one, as ever");
        let entry = gate.ledger().entry(answer.id()).await;
        assert_eq!(entry.attempts()[0].outcome(), "not_sent");
        gate.stop().await;
    }
}

#[tokio::test]
async fn the_admin_plane_can_have_an_address_of_its_own() {
    let cloud = StandIn::start().await.unwrap();
    // A port that is free now is free in a moment.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let gate = Gate::builder().cloud(&cloud).admin_at(&address).start().await;
    gate.ask("Hello.").send().await.ok();
    assert_eq!(gate.ledger().until_entries(1).await.len(), 1, "operators ask there");
    assert!(gate.metrics().await.contains("tollgate_requests_total"));
    for path in ["/admin/v1/keys", "/metrics", "/v1/organization/costs"] {
        assert_eq!(gate.get(path).await.status, 404, "{path} is not served to callers");
    }
    for (path, status) in [("/v1/models", 404), ("/health", 200)] {
        let there = gate.send_to(&format!("http://{address}{path}")).await;
        assert_eq!(there.status, status, "{path}: callers are not served there");
    }
}

#[tokio::test]
async fn a_health_check_finds_that_a_route_is_well_again_before_a_caller_does() {
    let health = "health = { interval_ms = 50, timeout_ms = 5000 }";
    let resting = "breaker = { failures_max = 1, open_ms = 100, open_max_ms = 100 }";
    let (cloud, gate) = one_cloud(&format!("{health}\n{resting}")).await;
    cloud.next(Script::default().with(Fault::Status500));
    assert_eq!(gate.ask("Well?").send().await.status, 503);
    eventually("a check to close the breaker", || async {
        let ready = gate.get("/ready").await.json();
        (ready["routes"][0]["breaker"]["state"] == "closed").then_some(())
    })
    .await;
    let checks = cloud.asked().iter().filter(|asked| asked.path == "/v1/models").count();
    assert!(checks > 0, "it was asked for its models");
    assert_eq!(gate.ledger().until_entries(1).await.len(), 1, "a check is no request");
    let log = gate.log();
    assert!(log.contains("a route that fails is left alone"), "{log}");
    assert!(log.contains("is asked again"), "{log}");
}
