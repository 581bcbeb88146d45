//! Equal requests share one upstream call, and an answer is given again only to whom it belongs;
//! every request has an entry of its own, with what it spared.

use crate::harness::{Gate, eventually, pico, rows};
use e2e::standin::{Fault, Hold, Script, StandIn};
use serde_json::json;

const ON: &str = "[cache]\nmode = \"asked\"";

async fn a_cloud_with(section: &str) -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).section(section).start().await;
    (cloud, gate)
}

#[tokio::test]
async fn the_same_request_is_answered_again_without_asking_or_paying() {
    let (cloud, gate) = a_cloud_with(ON).await;
    cloud.always(Script::says("once and for all").using(10, 4));
    for (round, stream) in [(1, false), (2, true)] {
        let ask = || {
            let ask = gate.ask("Same?").header("x-tollgate-cache", "on");
            if stream { ask.streamed_with_usage() } else { ask }
        };
        let first = ask().send().await.ok();
        assert_eq!(first.header("x-tollgate-cache"), "MISS");
        let again = ask().send().await.ok();
        assert_eq!(again.header("x-tollgate-cache"), "HIT");
        assert_eq!(again.header("x-tollgate-attempts"), "0");
        assert_eq!((again.text(), again.finish()), (first.text(), first.finish()));
        assert_eq!(again.usage()["cost"], 0.0, "{}", again.usage());
        assert_eq!(cloud.counts().requests, round, "one call each");

        let (paid, spared) =
            (gate.ledger().entry(first.id()).await, gate.ledger().entry(again.id()).await);
        assert_eq!(spared.0["cache"], "hit");
        assert_eq!((spared.cost(), spared.attempts().len()), (Some(0), 0));
        assert_eq!(spared.0["saved_cost_usd"], paid.0["cost_usd"]);
        assert_eq!(spared.0["answer_of"], first.id());
    }
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn what_is_not_the_same_is_not_shared() {
    let (cloud, gate) = a_cloud_with(ON).await;
    let other = gate.new_key().named("other").create().await;
    let on = |text: &str| gate.ask(text).header("x-tollgate-cache", "on");
    on("Mine?").send().await.ok();
    for (what, ask) in [
        ("another key", on("Mine?").by(&other)),
        ("another text", on("Yours?")),
        ("another cap", on("Mine?").at_most(17)),
        ("another seed", on("Mine?").set("seed", json!(7))),
        ("tags", on("Mine?").header("x-tollgate-tags", "b")),
        ("other tags", on("Mine?").header("x-tollgate-tags", "c")),
        ("asked anew", gate.ask("Mine?").header("x-tollgate-cache", "refresh")),
    ] {
        assert_eq!(ask.send().await.ok().header("x-tollgate-cache"), "MISS", "{what}");
    }
    assert_eq!(cloud.counts().requests, 8);
    let out = gate.ask("Mine?").header("x-tollgate-cache", "off").send().await.ok();
    assert_eq!(out.header("x-tollgate-cache"), "BYPASS");
    let unsaid = gate.ask("Mine?").send().await.ok();
    assert_eq!(unsaid.header("x-tollgate-cache"), "BYPASS", "nobody asked for it");
    // A failure is not kept.
    cloud.next(Script::default().with(Fault::Status500));
    assert_eq!(on("Broken?").send().await.status, 503);
    assert_eq!(on("Broken?").send().await.ok().header("x-tollgate-cache"), "MISS");
}

#[tokio::test]
async fn another_policy_may_have_chosen_another_answer() {
    let policy = |words: &str| {
        format!("description = \"{words}\"\n[[choose]]\nname = \"cloud\"\nroutes = [\"cloud\"]\n")
    };
    let cloud = StandIn::start().await.unwrap();
    let builder = Gate::builder().cloud(&cloud).section(ON);
    let gate = builder.policy_text(&policy("The first.")).start().await;
    let same = || gate.ask("Same?").header("x-tollgate-cache", "on").send();
    let first = same().await.ok();
    assert_eq!(same().await.ok().header("x-tollgate-cache"), "HIT");
    let file = gate.builder_ref().policy_file();
    let new = file.with_extension("new");
    std::fs::write(&new, policy("The second.")).unwrap();
    std::fs::rename(new, file).unwrap();
    eventually("the second policy", || async {
        let answer = gate.ask("Who decides?").send().await.ok();
        let version = answer.header("x-tollgate-policy");
        (version != first.header("x-tollgate-policy")).then_some(())
    })
    .await;
    assert_eq!(same().await.ok().header("x-tollgate-cache"), "MISS");
}

#[tokio::test]
async fn an_answer_of_a_route_that_the_guards_no_longer_allow_is_not_given_again() {
    const POLICY: &str = r#"
description = "near its end a budget keeps off the first route"
[[guard]]
name = "nearly spent"
when.budget.left_fraction.lt = 0.5
deny = ["first"]
[[choose]]
name = "both"
routes = ["first", "second"]
"#;
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud_named("first", &cloud, "")
        .cloud_named("second", &cloud, "")
        .section(ON)
        .policy_text(POLICY)
        .start()
        .await;
    let key = gate.new_key().named("nearly").with_budget_usd("0.002").create().await;
    cloud.next(Script::default().using(1000, 50));
    let ask = || gate.ask("Same?").by(&key).header("x-tollgate-cache", "on").send();
    let first = ask().await.ok();
    assert_eq!(first.header("x-tollgate-route"), "first");
    gate.until_nothing_is_reserved().await;
    let now = ask().await.ok();
    let seen = (now.header("x-tollgate-cache"), now.header("x-tollgate-route"));
    assert_eq!(seen, ("MISS", "second"));
}

#[tokio::test]
async fn who_has_a_deadline_or_a_price_limit_of_its_own_waits_for_nobody_elses_call() {
    let (cloud, gate) = a_cloud_with(ON).await;
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("one by one").held(&hold));
    let ask = || gate.ask("Now?").streamed().header("x-tollgate-cache", "on");
    let first = ask().open().await;
    for (name, value) in [("x-tollgate-deadline-ms", "60000"), ("x-tollgate-max-cost-usd", "1")] {
        let own = ask().header(name, value).send().await.ok();
        assert_eq!(own.header("x-tollgate-cache"), "MISS", "{name}");
    }
    assert_eq!(cloud.counts().requests, 3, "one call each");
    hold.let_go();
    assert!(first.rest().await.ok().done());
}

#[tokio::test]
async fn it_is_off_unless_it_is_switched_on() {
    let (cloud, gate) = a_cloud_with("").await;
    for _ in 0..2 {
        let answer = gate.ask("Same?").header("x-tollgate-cache", "on").send().await.ok();
        assert_eq!(answer.header("x-tollgate-cache"), "BYPASS");
    }
    assert_eq!(cloud.counts().requests, 2);
    let (_cloud, gate) = a_cloud_with("[cache]\nmode = \"temperature_zero\"").await;
    let zero = || gate.ask("Same?").set("temperature", json!(0));
    zero().send().await.ok();
    assert_eq!(zero().send().await.ok().header("x-tollgate-cache"), "HIT");
    let warm = gate.ask("Same?").set("temperature", json!(0.7)).send().await.ok();
    assert_eq!(warm.header("x-tollgate-cache"), "BYPASS");
}

#[tokio::test]
async fn fifty_equal_requests_at_once_make_one_call_and_fifty_entries() {
    let (cloud, gate) = a_cloud_with(ON).await;
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("all of you").using(10, 3).held(&hold));
    let asked: Vec<_> = (0..50)
        .map(|_| gate.ask("Everybody?").streamed().header("x-tollgate-cache", "on").open())
        .collect();
    let mut open = futures::future::join_all(asked).await;
    // The one that asked leaves: the others do not notice.
    let leader = open.iter().position(|one| one.headers["x-tollgate-cache"] == "MISS").unwrap();
    open.swap_remove(leader).leave();
    hold.let_go();
    for one in open {
        let answer = one.rest().await.ok();
        assert_eq!(answer.header("x-tollgate-cache"), "COALESCED");
        assert_eq!((answer.text().as_str(), answer.done()), ("all of you", true));
    }
    assert_eq!(cloud.counts().requests, 1);
    let entries = gate.ledger().until_entries(50).await;
    let costs: u128 = entries.iter().map(|entry| entry.cost().unwrap()).sum();
    assert_eq!(costs, 10 * 1_000_000 + 3 * 2_000_000, "paid once");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_shared_call_ends_with_its_last_waiter() {
    let (cloud, gate) = a_cloud_with(ON).await;
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("anybody there").held(&hold));
    let ask = || gate.ask("Wait.").streamed().header("x-tollgate-cache", "on").open();
    let (first, second) = (ask().await, ask().await);
    first.leave();
    second.leave();
    cloud.until(|counts| counts.left == 1).await.expect("the upstream is cancelled");
    let entries = gate.ledger().until_entries(2).await;
    assert!(entries.iter().all(|entry| entry.outcome() == "client_gone"), "{entries:#?}");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn who_shares_a_question_is_not_refused_for_anothers_budget() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).section(ON).limit("budget_wait_max_ms = 20000");
    let gate = gate.start().await;
    let answer = gate.ask("Shared?").send().await.ok();
    let each = gate.ledger().entry(answer.id()).await.only_attempt().reserved();
    let usd = policies::PicoUsdTotal::from_pico(each * 3 / 2).to_string();
    let of_session = json!([{ "window": "total", "money_usd": usd }]);
    let key = gate.new_key().set("session_budgets", of_session).create().await;
    let ask = |session: &str| {
        let ask = gate.ask("Shared?").by(&key).header("x-session-id", session);
        ask.header("x-tollgate-cache", "on")
    };
    // The money of session A is held, and then used up, by another request of it.
    let hold = Hold::after_pieces(1);
    let tokens = u64::try_from(each / 2_000_000).unwrap();
    cloud.next(Script::says("one two").using(1, tokens - 1).held(&hold));
    let other = gate.ask("Another.").by(&key).header("x-session-id", "A").streamed();
    let mut open = other.open().await;
    open.read_pieces(1).await;
    // The budget of one session is shown under its id too.
    let of_a = gate.admin(&format!("/budgets/{}/session:A/total", key.id)).await;
    assert_eq!(rows(&gate.admin(&format!("/budgets?sessions_of={}", key.id)).await), [of_a]);
    let waits = || async {
        let budgets = gate.admin(&format!("/budgets?sessions_of={}", key.id)).await;
        rows(&budgets).iter().any(|budget| budget["waiting"] == 1).then_some(())
    };
    let shared = async {
        eventually("the first to stand in line", waits).await;
        let follows = ask("B").send();
        let release = async {
            eventually("the second to share", || async {
                gate.metrics().await.contains("found=\"coalesced\"} 1").then_some(())
            })
            .await;
            hold.let_go();
        };
        futures::join!(follows, release).0
    };
    let (leads, follows) = futures::join!(ask("A").send(), shared);
    assert_eq!(leads.status, 429);
    let follows = follows.ok();
    assert_eq!(follows.header("x-tollgate-cache"), "MISS", "it asked for itself");
    open.rest().await.ok();
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_request_sent_twice_under_one_key_is_answered_and_charged_once() {
    let (cloud, gate) = a_cloud_with("").await;
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("just once").using(10, 2).held(&hold));
    let ask = |text: &str| gate.ask(text).streamed().header("idempotency-key", "order-1");
    let mut first = ask("Charge me.").open().await;
    first.read_pieces(1).await;
    let running = ask("Charge me.").send().await;
    assert_eq!((running.status, running.error().code.as_deref()), (409, Some("conflict")));
    // The connection breaks; the work goes on, because the client may come back.
    first.leave();
    hold.let_go();
    let again = eventually("the first one's answer", || async {
        let again = ask("Charge me.").send().await;
        (again.status == 200).then_some(again)
    })
    .await;
    assert_eq!(again.text(), "just once");
    assert_eq!(again.header("idempotent-replayed"), "true");
    assert_eq!(cloud.counts().requests, 1);
    let entry = gate.ledger().entry(again.id()).await;
    assert_eq!((entry.cost(), &entry.0["idempotent_replay"]), (Some(0), &json!(true)));

    let other = ask("Something else.").send().await;
    assert_eq!((other.status, other.error().param.as_deref()), (400, Some("Idempotency-Key")));
    // Another caller's key of the same name is another key.
    let stranger = gate.new_key().named("stranger").create().await;
    let theirs = ask("Charge me.").by(&stranger).send().await.ok();
    assert_eq!((theirs.header("idempotent-replayed"), cloud.counts().requests), ("", 2));

    // What was paid for and broke is not paid for again.
    cloud.next(Script::says("one two three").with(Fault::CloseMidStream));
    let broken = || gate.ask("Break.").streamed().header("idempotency-key", "order-3").send();
    assert!(!broken().await.done());
    assert!(!broken().await.done());
    assert_eq!(cloud.counts().requests, 3);

    // So is a refusal after which a provider may bill.
    cloud.next(Script::default().with(Fault::ResetBeforeHead));
    let refused = || gate.ask("Lost.").header("idempotency-key", "order-4").send();
    let (first, again) = (refused().await, refused().await);
    assert_eq!((first.status, first.header("idempotent-replayed")), (503, ""));
    assert_eq!((again.status, again.header("idempotent-replayed")), (503, "true"));
    assert_eq!(again.body_text(), first.body_text());
    assert_eq!(cloud.counts().requests, 4);

    // What owed nothing may be tried again.
    cloud.next(Script::default().with(Fault::Status503));
    let retry = || gate.ask("Try.").header("idempotency-key", "order-2").send();
    assert_eq!(retry().await.status, 503);
    retry().await.ok();
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn what_was_answered_is_given_again_whatever_would_be_decided_now() {
    let cloud = StandIn::start().await.unwrap();
    let breaker = "breaker = { failures_max = 1, open_ms = 60000, open_max_ms = 60000 }";
    let gate = Gate::builder().cloud_named("cloud", &cloud, breaker).start().await;
    let order = |text: &str, key: &str| gate.ask(text).header("idempotency-key", key).send();
    let first = order("Charge me.", "order-1").await.ok();
    cloud.next(Script::default().with(Fault::ResetBeforeHead));
    let lost = order("Lost.", "order-2").await;
    assert_eq!(lost.status, 503);
    assert_eq!(gate.ask("Anyone?").send().await.status, 503, "its breaker is open");

    let again = order("Charge me.", "order-1").await.ok();
    assert_eq!((again.text(), again.header("idempotent-replayed")), (first.text(), "true"));
    assert_eq!(again.header("x-tollgate-rule"), first.header("x-tollgate-rule"));
    let entry = gate.ledger().entry(again.id()).await;
    entry.adds_up();
    assert_eq!((entry.cost(), entry.0["answer_of"].as_str()), (Some(0), Some(first.id())));
    let again = order("Lost.", "order-2").await;
    assert_eq!((again.status, again.header("idempotent-replayed")), (503, "true"));
    assert_eq!(again.body_text(), lost.body_text(), "the first one's reason, not the breaker");
    let other = order("Something else.", "order-1").await;
    assert_eq!((other.status, other.error().param.as_deref()), (400, Some("Idempotency-Key")));

    // What has not been asked is refused, and may be asked under its key when the route is well.
    for _ in 0..2 {
        let refused = order("New.", "order-3").await;
        assert_eq!((refused.status, refused.header("idempotent-replayed")), (503, ""));
    }
    assert_eq!(cloud.counts().requests, 2);
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn an_answer_that_others_may_share_tells_the_cost_that_is_booked() {
    let (cloud, gate) = a_cloud_with(ON).await;
    for header in [("idempotency-key", "order-1"), ("x-tollgate-cache", "on")] {
        cloud.next(Script::says("one two three").with(Fault::NoUsage));
        let ask = gate.ask(&"A long question. ".repeat(50)).header(header.0, header.1);
        let answer = ask.send().await.ok();
        let entry = gate.ledger().entry(answer.id()).await;
        let told = json!(answer.header("x-tollgate-cost-usd"));
        assert_eq!(pico(&told), entry.cost(), "{header:?}");
        assert!(
            entry.cost().unwrap() > 100_000_000,
            "the prompt alone is a hundred tokens and more"
        );
    }
}

#[tokio::test]
async fn an_answer_that_others_may_share_is_kept_once_for_the_next_turn() {
    let cloud = StandIn::start().await.unwrap();
    let section = "[responses]\nstore = true\nentries_max = 2";
    let gate = Gate::builder()
        .cloud(&cloud)
        .section(section)
        .section("[cache]\nmode = \"all\"")
        .start()
        .await;
    let mut paths = Vec::new();
    for said in ["the first", "the second"] {
        cloud.next(Script::says(said));
        let asked = json!({ "model": "auto", "input": said });
        let answer = gate.post("/v1/responses", &asked).await.ok();
        paths.push((said, format!("/v1/responses/{}", answer.json()["id"].as_str().unwrap())));
    }
    for (said, path) in paths {
        let kept = gate.get(&path).await.ok().json();
        assert_eq!(kept["output"][0]["content"][0]["text"], said, "{kept}");
    }
}

#[tokio::test]
async fn a_free_answer_that_broke_may_be_asked_for_again_under_its_key() {
    let cloud = StandIn::start().await.unwrap();
    let free = "retry = { max = 0 }\n[routes.cloud.price]\ninput = \"0\"\noutput = \"0\"";
    let gate = Gate::builder().unpriced_cloud_named("cloud", &cloud, free).start().await;
    for stream in [true, false] {
        cloud.next(Script::says("one two three").with(Fault::CloseMidStream));
        let ask = || {
            let ask = gate.ask("Count.").header("idempotency-key", &format!("order-{stream}"));
            if stream { ask.streamed() } else { ask }.send()
        };
        let broken = ask().await;
        assert!(broken.status != 200 || !broken.done());
        cloud.next(Script::says("one two three"));
        // The client may see the end before its key is free.
        let freed = || async { Some(ask().await).filter(|answer| answer.status != 409) };
        let whole = eventually("its key to be free", freed).await.ok();
        assert_eq!(
            (whole.text().as_str(), whole.header("idempotent-replayed")),
            ("one two three", "")
        );
        assert_eq!(ask().await.ok().header("idempotent-replayed"), "true");
    }
    assert_eq!(cloud.counts().requests, 4);
}

#[tokio::test]
async fn an_answer_that_others_may_share_tells_what_failed_before_it() {
    let (slow, cloud) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("slow", &slow, "first_token_timeout_ms = 300")
        .cloud_named("second", &cloud, "")
        .start()
        .await;
    slow.next(Script::default().with(Fault::Hang));
    let ask = gate.ask("Once.").streamed_with_usage().header("idempotency-key", "order-1");
    let answer = ask.send().await.ok();
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.attempts().len(), 2);
    assert!(entry.attempts()[0].cost().unwrap() > 0, "{entry:#?}");
    answer.tells_cost(entry.cost().unwrap());
}

#[tokio::test]
async fn the_metrics_tell_what_the_cache_did() {
    let cloud = StandIn::start().await.unwrap();
    // Room for one answer of this size, not for two.
    let gate = Gate::builder()
        .cloud(&cloud)
        .section(&format!("{ON}\nmemory_mib = 1\nanswer_kib_max = 1024"))
        .start()
        .await;
    cloud.always(Script::pieces(["z".repeat(600 * 1024)]).using(10, 3));
    let on = |text: &str| gate.ask(text).header("x-tollgate-cache", "on");
    let read = |metrics: &str, name: &str| -> u64 {
        let line = metrics.lines().find(|line| line.starts_with(&format!("tollgate_{name} ")));
        let line = line.unwrap_or_else(|| panic!("no {name} in {metrics}"));
        line.rsplit(' ').next().unwrap().parse().expect("a number")
    };
    on("One?").send().await.ok();
    on("One?").send().await.ok();
    gate.ask("Unasked.").send().await.ok();
    let hold = Hold::after_pieces(1);
    cloud.next(Script::says("both of you").held(&hold));
    let (first, second) = (on("Two?").streamed().open().await, on("Two?").streamed().open().await);
    let metrics = gate.metrics().await;
    assert_eq!(read(&metrics, "cache_flights"), 1);
    hold.let_go();
    first.rest().await.ok();
    second.rest().await.ok();
    on("Three?").send().await.ok();

    // What is given up is given up in the cache's own time.
    let metrics = eventually("an answer to be given up", || async {
        let metrics = gate.metrics().await;
        (read(&metrics, "cache_evicted_total") > 0).then_some(metrics)
    })
    .await;
    for (found, count) in [("hit", 1), ("miss", 3), ("coalesced", 1)] {
        let name = format!("cache_requests_total{{found=\"{found}\"}}");
        assert_eq!(read(&metrics, &name), count, "{found}");
    }
    assert_eq!(read(&metrics, "cache_flights"), 0);
    assert!(read(&metrics, "cache_answers") >= 1);
    assert!((1..=1 << 20).contains(&read(&metrics, "cache_bytes")), "{metrics}");
}
