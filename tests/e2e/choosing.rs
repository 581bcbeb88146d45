//! Policies that choose by weight and by speed, over real routes.

use crate::harness::Gate;
use e2e::standin::{Fault, Script, StandIn};
use std::time::Duration;

async fn two(policy: &str) -> (StandIn, StandIn, Gate) {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let policy = format!("description = \"two\"\n[[choose]]\nname = \"choice\"\n{policy}\n");
    let gate = Gate::builder()
        .cloud_named("first", &first, "")
        .cloud_named("second", &second, "")
        .policy_text(&policy)
        .start()
        .await;
    (first, second, gate)
}

#[tokio::test]
async fn a_weight_is_a_share_of_the_requests_and_the_others_stand_by() {
    const REQUESTS: u64 = 200;
    let (first, second, gate) = two("weighted = { first = 3, second = 1 }").await;
    for _ in 0..REQUESTS {
        gate.ask("Whose turn?").send().await.ok();
    }
    let shares = (first.counts().requests, second.counts().requests);
    assert_eq!(shares.0 + shares.1, REQUESTS, "one route each");
    // 150 are expected; six standard deviations are 37.
    assert!((113..=187).contains(&shares.0), "{shares:?}");

    first.always(Script::default().with(Fault::Status500));
    for _ in 0..20 {
        let answer = gate.ask("And now?").send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second", "whoever was drawn");
    }
    let entry = gate.ledger().entries().await.pop().unwrap();
    let entry = gate.ledger().entry(&entry.id()).await;
    assert!(entry.0["decision"]["facts"]["draw"].is_u64(), "a draw is kept: {:#}", entry.0);
}

#[tokio::test]
async fn the_cheapest_is_not_the_one_whose_answers_are_known_to_be_short() {
    let (first, second, gate) = two("cheapest = [\"first\", \"second\"]").await;
    // Enough for the length of its answers to be known.
    for _ in 0..12 {
        gate.ask("How long?").from("second").send().await.ok();
    }
    assert_eq!((first.counts().requests, second.counts().requests), (0, 12));
    // Both have one price: the first of the configuration is asked, though nothing is known of it.
    let answer = gate.ask("Who is cheap?").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "first");
}

#[tokio::test]
async fn a_local_route_of_the_name_that_is_asked_for_answers_where_money_is_short() {
    let cloud = StandIn::start().await.unwrap();
    let shared = "aliases = [\"shared\"]";
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, shared)
        .edge_with(shared)
        .policy_text("on_short = \"local\"\n[[choose]]\nname = \"away\"\nroutes = [\"@cloud\"]\n")
        .start()
        .await;
    let rich = gate.new_key().create().await;
    let ask = |key| gate.ask("Who pays?").by(key).at_most(4).set("model", "shared".into());
    assert_eq!(ask(&rich).send().await.ok().header("x-tollgate-route"), "cloud");
    let poor = gate.new_key().with_budget_usd("0.000000001").create().await;
    let answer = ask(&poor).send().await.ok();
    assert_eq!(answer.header("x-tollgate-rule"), "@named");
    assert_eq!(answer.header("x-tollgate-route"), "edge");
}

#[tokio::test]
async fn the_fastest_is_the_one_that_speaks_first_and_strangers_are_tried() {
    let (first, second, gate) = two("fastest = [\"first\", \"second\"]").await;
    // Two seconds are told from a busy machine.
    first.always(Script { before_first: Duration::from_secs(2), ..Script::default() });
    // Each route is a stranger until it has been seen often enough.
    for round in 0..3 {
        let asked = (0..8).map(|_| gate.ask("Who is quick?").streamed().send());
        for answer in futures::future::join_all(asked).await {
            answer.ok();
        }
        if round == 0 {
            assert_eq!(first.counts().requests, 8, "in their order while nothing is known");
        }
    }
    assert_eq!(second.counts().requests, 16, "one round to be known, one for being fast");
    let answer = gate.ask("Who is quick?").streamed().send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "second");

    second.always(Script::default().with(Fault::Status500));
    let answer = gate.ask("And now?").streamed().send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "first", "the slow one stands by");
}
