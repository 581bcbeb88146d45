//! What one request may cost holds over all of its attempts together, whoever set it; and a spent
//! budget is told with the status that the operator chose.

use crate::harness::{Answer, Ask, Gate, Key};
use e2e::standin::{Cut, Fault, Point, Script, StandIn};
use serde_json::{Value, json};

/// One route after the other; an answer that the money does not suffice for is not cut.
const POLICY: &str = "description = \"both\"\non_short = \"next\"\n[[choose]]\nname = \"both\"\n\
                      routes = [\"first\", \"second\"]\n";
/// A timeout of this route is booked with all that its answer could have been.
const HIDES: &str = "reasoning = true\nfirst_token_timeout_ms = 200";

struct Case {
    first: StandIn,
    second: StandIn,
    gate: Gate,
    /// What one attempt holds while it runs, in pico-USD.
    worst: u128,
}

async fn two_clouds() -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, HIDES)
        .cloud_named("second", &second, "")
        .policy_text(POLICY)
        .start()
        .await;
    let answer = gate.ask("How much?").at_most(500).streamed().send().await.ok();
    let worst = gate.ledger().entry(answer.id()).await.only_attempt().reserved();
    Case { first, second, gate, worst }
}

fn usd(pico: u128) -> String {
    policies::PicoUsdTotal::from_pico(pico).to_string()
}

/// The limits of a key, a user or a team whose requests may each cost so much.
fn at_most(pico: u128) -> Value {
    json!({"request_cost_max_usd": usd(pico)})
}

impl Case {
    fn ask(&self, key: &Key) -> Ask<'_> {
        self.gate.ask("How much?").at_most(500).by(key)
    }

    /// Three keys whose requests may cost so much each: by their own limit, their user's, their team's.
    async fn limited(&self, pico: u128) -> Vec<(&'static str, Key)> {
        for (path, name) in [("/users", "ada"), ("/teams", "red")] {
            let body = json!({"name": name, "limits": at_most(pico)});
            assert_eq!(self.gate.admin_send("POST", path, body).await.status, 201, "{path}");
        }
        let key = || self.gate.new_key();
        vec![
            ("its own", key().set("limits", at_most(pico)).create().await),
            ("its user's", key().set("user", json!("ada")).create().await),
            ("its team's", key().set("team", json!("red")).create().await),
        ]
    }
}

#[tokio::test]
async fn what_an_attempt_was_charged_is_not_there_for_the_next() {
    let case = two_clouds().await;
    let limit = case.worst * 3 / 2;
    for (whose, key) in case.limited(limit).await {
        let before = case.second.counts().requests;
        case.first.next(Script::default().with(Fault::Hang));
        let refused = case.ask(&key).streamed().send().await;
        assert_eq!(refused.status, 429, "{whose}: {}", refused.body_text());
        let error = refused.error();
        assert_eq!(error.code.as_deref(), Some("insufficient_quota"), "{whose}");
        assert!(error.message.contains("what it may cost in all"), "{whose}: {}", error.message);
        assert_eq!(refused.header("x-should-retry"), "false", "{whose}");
        assert_eq!(case.second.counts().requests, before, "{whose}: it did not fit");
        let entry = case.gate.ledger().entry(refused.id()).await;
        assert_eq!(entry.attempts().len(), 1, "{whose}");
        let cost = entry.cost().unwrap();
        assert!(cost > case.worst / 2 && cost <= limit, "{whose}: {cost} of {limit}");

        // Where the first owes nothing the second has all of it.
        case.first.next(Script::default().with(Fault::Status503));
        let answer = case.ask(&key).streamed().send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second", "{whose}");
    }
    case.gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn who_may_spend_less_than_an_attempt_holds_sends_nothing() {
    let case = two_clouds().await;
    let before = case.first.counts().requests;
    for (whose, key) in case.limited(1_000_000).await {
        for stream in [true, false] {
            let ask = case.ask(&key);
            let refused = if stream { ask.streamed() } else { ask }.send().await;
            assert_eq!(refused.status, 429, "{whose}: {}", refused.body_text());
        }
    }
    assert_eq!(case.first.counts().requests, before);
    assert_eq!(case.second.counts().connections, 0);
    assert_eq!(case.gate.ledger().entries().await.len(), 1, "what reached no route has no entry");
}

#[tokio::test]
async fn a_hedge_is_an_attempt_like_another() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let policy = "description = \"hedged\"\n[[choose]]\nname = \"hedged\"\n\
                  hedge = [\"first\", \"second\"]\n";
    let gate = Gate::builder()
        .cloud_named("first", &first, "first_token_timeout_ms = 900")
        .cloud_named("second", &second, "")
        .policy_text(policy)
        .section("[hedge]\ndelay_min_ms = 300")
        .start()
        .await;
    // What teaches the route its usual time to the first token.
    let mut worst = 0;
    for _ in 0..16 {
        let answer = gate.ask("Learn.").streamed().send().await.ok();
        worst = gate.ledger().entry(answer.id()).await.only_attempt().reserved();
    }
    let stalls = || Script::default().cut(Cut::Hang(Point::Piece(0)));
    let asked = async |limit: u128| {
        let key = gate.new_key().set("limits", at_most(limit)).create().await;
        first.next(stalls());
        let answer = gate.ask("Learn.").by(&key).streamed().send().await.ok();
        let entry = gate.ledger().entry(answer.id()).await;
        assert!(entry.cost().unwrap() <= limit, "{:#}", entry.0);
        entry.attempts().iter().map(|attempt| attempt.text("role")).collect::<Vec<_>>()
    };
    assert_eq!(asked(2 * worst).await, ["primary", "hedge"], "there is money for both");
    // What the first has cost by then leaves enough for the second, which comes after it.
    assert_eq!(asked(2 * worst - 1).await, ["primary", "fallback"]);
    gate.until_nothing_is_reserved().await;
}

fn is_paid_for_first(answer: &Answer) {
    assert_eq!(answer.status, 402, "{}", answer.body_text());
    assert_eq!(answer.header("x-should-retry"), "false");
    assert!(answer.header("retry-after").is_empty(), "no wait helps");
}

#[tokio::test]
async fn a_spent_budget_is_told_as_402_where_the_operator_says_so() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).ledger("budget_status = 402").start().await;
    let key = gate.new_key().with_budget_usd("0.000000000001").create().await;
    for stream in [false, true] {
        let ask = gate.ask("May I?").by(&key);
        let refused = if stream { ask.streamed() } else { ask }.send().await;
        is_paid_for_first(&refused);
        assert_eq!(refused.error().code.as_deref(), Some("insufficient_quota"));
        assert_eq!(refused.error().kind, "budget_exceeded");
    }
    let body =
        json!({"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "?"}]});
    let refused = gate.post_by(&key, "/v1/messages", &body).await;
    is_paid_for_first(&refused);
    assert_eq!(refused.json()["error"]["type"], "billing_error");
    // A limit that opens again is another matter.
    let slow = gate.new_key().with_requests_per_minute(1).create().await;
    gate.ask("May I?").by(&slow).send().await.ok();
    assert_eq!(gate.ask("May I?").by(&slow).send().await.status, 429);
    assert_eq!(cloud.counts().requests, 1);
}
