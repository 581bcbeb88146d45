//! A hard budget cannot be overspent by concurrency, and does not refuse what it can afford.

use crate::harness::{Gate, Key};
use e2e::standin::{Fault, Script, StandIn};
use futures::{StreamExt, stream::FuturesUnordered};
use serde_json::json;

const PROMPT: &str = "What do you hold?";
const CALLERS: usize = 64;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

/// What one request of [`PROMPT`] holds while it runs, in pico-USD.
async fn worst_case(gate: &Gate) -> u128 {
    let answer = gate.ask(PROMPT).send().await.ok();
    gate.ledger().entry(answer.id()).await.only_attempt().reserved()
}

fn usd(pico: u128) -> String {
    policies::PicoUsdTotal::from_pico(pico).to_string()
}

/// Sends 64 requests at once, none of which ends, and returns how many reached the cloud when all
/// others had been refused.
async fn how_many_get_in(cloud: &StandIn, gate: &Gate, key: &Key, expected: usize) -> u64 {
    let before = cloud.counts().requests;
    cloud.always(Script::default().with(Fault::Hang));
    let mut asks: FuturesUnordered<_> =
        (0..CALLERS).map(|_| gate.ask(PROMPT).by(key).send()).collect();
    for _ in 0..CALLERS - expected {
        let refused = asks.next().await.expect("an answer");
        assert_eq!(refused.status, 429, "{}", refused.body_text());
        let error = refused.error();
        assert_eq!(error.kind, "budget_exceeded");
        assert_eq!(error.code.as_deref(), Some("insufficient_quota"));
        assert_eq!(refused.header("x-should-retry"), "false");
    }
    let arrived = cloud.until(|counts| counts.requests >= before + expected as u64);
    // The others go on being waited for, so that one more admission would be seen.
    let counts = tokio::select! {
        counts = arrived => counts.unwrap(),
        answer = asks.next() => panic!("an answer out of a hang: {answer:?}"),
    };
    counts.requests - before
}

#[tokio::test]
async fn a_budget_has_its_own_time_zone_and_a_change_of_it_keeps_what_is_spent() {
    let (_cloud, gate) = a_cloud().await;
    let key = gate.new_key().create().await;
    let budget = json!({
        "scope": key.id, "window": "month", "money_usd": "1", "timezone": "pacific/apia",
    });
    let made = gate.admin_send("POST", "/budgets", budget).await;
    assert_eq!((made.status, &made.json()["timezone"]), (201, &json!("Pacific/Apia")));
    gate.ask(PROMPT).by(&key).send().await.ok();
    let path = format!("/budgets/{}/month", key.id);
    let before = gate.admin(&path).await;
    assert_eq!(before["timezone"], "Pacific/Apia");
    let offset_ms = before["began_unix_ms"].as_u64().unwrap() % 86_400_000;
    assert!([10, 11].contains(&(offset_ms / 3_600_000)), "UTC+13 or +14: {before}");

    let wrong = gate.admin_send("PATCH", &path, json!({"timezone": "Mars/X"})).await;
    assert_eq!(wrong.status, 400);
    assert!(wrong.error().message.contains("unknown time zone `Mars/X`"));
    let moved = gate.admin_send("PATCH", &path, json!({"timezone": "Pacific/Pago_Pago"})).await;
    assert_eq!((moved.status, &moved.json()["timezone"]), (200, &json!("Pacific/Pago_Pago")));
    let gate = gate.killed_and_restarted().await;
    let after = gate.admin(&path).await;
    for field in ["spent_usd", "began_unix_ms", "resets_unix_ms"] {
        assert_eq!(after[field], before[field], "{field}");
    }
    assert_ne!(after["spent_usd"], "0.000000000000");
    assert_eq!(after["timezone_until_reset"], "Pacific/Apia");
}

#[tokio::test]
async fn a_correction_counts_in_the_window_that_runs_and_survives_a_crash() {
    let (_cloud, gate) = a_cloud().await;
    let key = gate.new_key().with_budget_usd("1").create().await;
    let id = format!("{}/total", key.id);
    let book = |usd: &str, credit: bool| {
        let body = json!({
            "budget": id, "money_usd": usd, "tokens": 7, "credit": credit, "reason": "the invoice",
        });
        gate.admin_send("POST", "/corrections", body)
    };
    let booked = book("0.75", false).await;
    assert_eq!((booked.status, &booked.json()["spent_usd"]), (200, &json!("0.750000000000")));
    let credited = book("0.5", true).await.json();
    assert_eq!(
        (&credited["spent_usd"], &credited["left_usd"]),
        (&json!("0.250000000000"), &json!("0.750000000000"))
    );
    for (body, status) in [
        (json!({"budget": id, "money_usd": "1"}), 400),
        (json!({"budget": id, "money_usd": "1", "reason": " "}), 400),
        (json!({"budget": id, "money_usd": "0.3", "credit": true, "reason": "x"}), 400),
        (json!({"budget": "key_none/day", "money_usd": "1", "reason": "x"}), 404),
    ] {
        assert_eq!(
            gate.admin_send("POST", "/corrections", body.clone()).await.status,
            status,
            "{body}"
        );
    }
    // What is spent by hand is spent.
    book("0.75", false).await;
    assert_eq!(gate.ask(PROMPT).by(&key).send().await.status, 429);
    let gate = gate.killed_and_restarted().await;
    let budget = gate.admin(&format!("/budgets/{id}")).await;
    assert_eq!(budget["spent_usd"], "1.000000000000");
    assert!(budget.get("uncounted_events").is_none(), "nothing is missing: {budget}");
    assert_eq!(gate.get("/ready").await.json()["store"]["uncounted_events"], 0);
}

#[tokio::test]
async fn money_for_exactly_seven_lets_exactly_seven_of_sixty_four_in() {
    let (cloud, gate) = a_cloud().await;
    let each = worst_case(&gate).await;
    let key = gate.new_key().with_budget_usd(&usd(7 * each)).create().await;
    assert_eq!(how_many_get_in(&cloud, &gate, &key, 7).await, 7);
    // The clients have left by now: what was held has become a cost within the limit.
    gate.until_nothing_is_reserved().await;
    let budget = gate.budget(&key).await;
    assert_eq!(budget.reserved(), 0);
    assert!(budget.spent() <= 7 * each, "{budget:?}");
}

#[tokio::test]
async fn tokens_for_exactly_five_let_exactly_five_of_sixty_four_in() {
    let (cloud, gate) = a_cloud().await;
    let each = worst_case(&gate).await;
    // Bounds: p prompt tokens at 1,000,000 and 16 answer tokens at 2,000,000 pico-USD.
    let tokens = u64::try_from((each - 16 * 2_000_000) / 1_000_000).unwrap() + 16;
    let key = gate.new_key().with_budget_tokens(5 * tokens).create().await;
    assert_eq!(how_many_get_in(&cloud, &gate, &key, 5).await, 5);
    gate.until_nothing_is_reserved().await;
    assert!(gate.budget(&key).await.spent_tokens() <= 5 * tokens);
}

#[tokio::test]
async fn a_budget_over_everything_holds_for_all_keys_together() {
    let cloud = StandIn::start().await.unwrap();
    let probe = Gate::builder().cloud(&cloud).start().await;
    let each = worst_case(&probe).await;
    let gate = Gate::builder()
        .cloud(&cloud)
        .global_budget(&format!("window = \"total\"\nmoney_usd = \"{}\"", usd(3 * each)))
        .start()
        .await;
    let key = gate.new_key().create().await;
    assert_eq!(how_many_get_in(&cloud, &gate, &key, 3).await, 3);
}

#[tokio::test]
async fn unused_money_returns_so_work_that_can_be_afforded_is_not_refused() {
    let (cloud, gate) = a_cloud().await;
    let each = worst_case(&gate).await;
    cloud.always(Script::default().using(1, 1));
    // One worst case and nine true costs of 3,000,000 pico-USD: room for ten, one after another.
    let key = gate.new_key().with_budget_usd(&usd(each + 9 * 3_000_000)).create().await;
    for _ in 0..10 {
        gate.ask(PROMPT).by(&key).send().await.ok();
    }
    assert_eq!(gate.budget(&key).await.spent(), 10 * 3_000_000);
    let refused = gate.ask(PROMPT).by(&key).send().await;
    assert_eq!(refused.status, 429);
    assert_eq!(refused.error().code.as_deref(), Some("insufficient_quota"));
}

#[tokio::test]
async fn a_refusal_names_the_limit_and_what_is_left() {
    let (cloud, gate) = a_cloud().await;
    let key = gate.new_key().with_budget_usd("0.000000000001").create().await;
    for stream in [true, false] {
        let ask = gate.ask(PROMPT).by(&key);
        let refused = if stream { ask.streamed() } else { ask }.send().await;
        assert_eq!(refused.status, 429);
        let message = refused.error().message;
        assert!(message.contains("0.000000000001"), "names the limit: {message}");
        let wait = refused.header("retry-after").parse().unwrap_or(0);
        assert!(wait <= 120, "no SDK sleeps over a spent budget: {wait}");
    }
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn a_cap_far_above_what_answers_need_keeps_nobody_else_out() {
    let (cloud, gate) = a_cloud().await;
    let each = worst_case(&gate).await;
    cloud.always(Script::default().using(1, 40));
    // What answers of this route need is known after a few.
    for _ in 0..8 {
        gate.ask(PROMPT).send().await.ok();
    }
    // Five times what the policy's smallest answer of 256 tokens holds; each asks for 100,000.
    let clamped = each - 16 * 2_000_000 + 256 * 2_000_000;
    let key = gate.new_key().with_budget_usd(&usd(5 * clamped)).create().await;
    cloud.always(Script::default().with(Fault::Hang));
    let before = cloud.counts().requests;
    let mut asks: FuturesUnordered<_> =
        (0..6).map(|_| gate.ask(PROMPT).at_most(100_000).by(&key).send()).collect();
    let refused = asks.next().await.expect("an answer");
    assert_eq!(refused.status, 429, "{}", refused.body_text());
    let arrived = cloud.until(|counts| counts.requests >= before + 5);
    tokio::select! {
        counts = arrived => assert_eq!(counts.unwrap().requests - before, 5),
        answer = asks.next() => panic!("an answer out of a hang: {answer:?}"),
    }
    assert_eq!(gate.budget(&key).await.reserved(), 5 * clamped);
}

#[tokio::test]
async fn an_answer_that_is_paid_by_the_hour_is_cut_to_what_there_is_money_for() {
    // Far more than a token takes, so that no answer outgrows its first bound.
    let rates = "budgeted = true\nprefill_token_max_us = 1000000\ndecode_token_max_us = 1000000";
    let policy = "on_short = \"clamp\"\nmin_output_tokens = 256\n[[choose]]\nname = \"home\"\n\
                  routes = [\"edge\"]\n";
    let gate = Gate::builder().edge_with(rates).policy_text(policy).start().await;
    let ask = |tokens| gate.ask("Say hi.").at_most(tokens).set("stop", json!(["\n"]));
    let affordable = ask(350).send().await.ok();
    let held = gate.ledger().entry(affordable.id()).await.only_attempt().reserved();

    let key = gate.new_key().with_budget_usd(&usd(held)).create().await;
    let answer = ask(1_000).by(&key).send().await.ok();
    let attempt = gate.ledger().entry(answer.id()).await.only_attempt();
    assert_eq!((attempt.0["output_cap"].as_u64(), attempt.reserved()), (Some(350), held));

    // Less than the policy's smallest answer is not worth it.
    let key = gate.new_key().with_budget_usd(&usd(held / 2)).create().await;
    let refused = ask(1_000).by(&key).send().await;
    assert_eq!(refused.error().code.as_deref(), Some("insufficient_quota"));
}

#[tokio::test]
async fn a_soft_budget_warns_and_lets_through() {
    let (_cloud, gate) = a_cloud().await;
    let budget =
        serde_json::json!([{"window": "total", "money_usd": "0.000000000001", "hard": false}]);
    let key = gate.new_key().set("budgets", budget).create().await;
    for _ in 0..2 {
        gate.ask(PROMPT).by(&key).send().await.ok();
    }
    assert!(gate.budget(&key).await.spent() > 1);
    // Once: what the first charge has passed the second does not pass again.
    let events = crate::harness::rows(&gate.admin("/events?type=budget").await);
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["type"], "budget.reached_100");
    assert_eq!(events[0]["data"]["budget"], format!("{}/total", key.id));
}

#[tokio::test]
async fn the_budgets_spent_is_the_sum_of_the_entries() {
    let (cloud, gate) = a_cloud().await;
    let key = gate.new_key().with_budget_usd("1").create().await;
    let mut sum = 0;
    for n in 1..=12 {
        let script = Script::default().using(10 * n, n);
        cloud.next(if n % 4 == 0 { script.with(Fault::Status500) } else { script });
        let answer = gate.ask(PROMPT).by(&key).send().await;
        sum += gate.ledger().entry(answer.id()).await.cost().expect("a known cost");
    }
    assert_eq!(gate.budget(&key).await.spent(), sum);
}

#[tokio::test]
async fn another_spelling_of_a_tag_gets_round_no_budget_of_it() {
    let (_cloud, gate) = a_cloud().await;
    let budget = json!({"scope": "tag:Nightly", "window": "total", "requests": 2});
    let made = gate.admin_send("POST", "/budgets", budget).await;
    assert_eq!((made.status, &made.json()["id"]), (201, &json!("tag:nightly/total")));
    let ask = |tags: &'static str| gate.ask(PROMPT).header("x-tollgate-tags", tags);
    // Named twice it is one tag, and it stands in the entry as it was written.
    let answer = ask("NIGHTLY,nightly").send().await.ok();
    assert_eq!(gate.ledger().entry(answer.id()).await.0["tags"], json!(["NIGHTLY"]));
    let key = gate.new_key().set("tags", json!(["nightLY"])).create().await;
    ask("Nightly").by(&key).send().await.ok();
    for tags in ["nightly", "Nightly", "nightlY"] {
        let refused = ask(tags).send().await;
        assert_eq!(refused.status, 429, "{}", refused.body_text());
    }
    assert_eq!(gate.ask(PROMPT).by(&key).send().await.status, 429);
    gate.ask(PROMPT).send().await.ok();
    // Nor does one look like a tag of the abuse guard.
    assert_eq!(ask("Guard:spend_velocity").send().await.status, 400);
}
