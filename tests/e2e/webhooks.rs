//! Operators are told of what they should know: once for a window, in order, signed, and until it is
//! heard, whatever happens to the receiver or to the gateway.

use crate::harness::{
    Child, Gate, GateBuilder, Key, WEBHOOK_PATH, WEBHOOK_SECRET, eventually, rows,
};
use e2e::{
    receiver::{Down, Mood, Receiver, Told},
    standin::{Script, StandIn},
};
use serde_json::Value;

const PROMPT: &str = "How much is left?";
/// What one request comes to, in pico-USD: one prompt token and two answer tokens.
const COST: u64 = 5_000_000;
/// A limit of ten requests' cost, and room for what one holds while it runs.
const TEN: &str = "0.00005";

/// A cloud whose answers all cost [`COST`].
async fn a_cloud() -> (StandIn, GateBuilder) {
    let cloud = StandIn::start().await.unwrap();
    cloud.always(Script::default().using(1, 2));
    let builder = Gate::builder().cloud(&cloud);
    (cloud, builder)
}

/// A key with a soft budget of ten requests a day: the last one is not refused.
async fn ten_a_day(gate: &Gate) -> Key {
    let budget = serde_json::json!([{"window": "total", "money_usd": TEN, "hard": false}]);
    gate.new_key().set("budgets", budget).create().await
}

async fn spend(gate: &Gate, key: &Key, requests: usize) {
    for _ in 0..requests {
        gate.ask(PROMPT).by(key).send().await.ok();
    }
}

/// What a receiver took, oldest first.
fn taken(told: &Told) -> Vec<Value> {
    let taken = told.iter().filter(|(mood, _)| *mood == Mood::Takes);
    taken.map(|(_, asked)| asked.json()).collect()
}

fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["type"].as_str().unwrap()).collect()
}

/// The types of everything that operators were told of, oldest first.
async fn all(gate: &Gate) -> Vec<String> {
    let mut events = rows(&gate.admin("/events").await);
    events.reverse();
    types(&events).into_iter().map(str::to_owned).collect()
}

const EACH_PART: [&str; 3] = ["budget.reached_50", "budget.reached_80", "budget.reached_100"];

#[tokio::test]
async fn each_part_of_a_budget_is_told_once_and_signed() {
    let ((_cloud, builder), receiver) = (a_cloud().await, Receiver::start().unwrap());
    let gate = builder.webhook("ops", receiver.address(), "").start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 12).await;
    let told = receiver.until(|told| told.len() == 3).await.unwrap();
    let events = taken(&told);
    assert_eq!(types(&events), EACH_PART);
    for ((_, asked), spent) in told.iter().zip([5, 8, 10]) {
        assert_eq!((asked.method.as_str(), asked.path.contains(WEBHOOK_PATH)), ("POST", true));
        let event = asked.json();
        let data = &event["data"];
        assert_eq!(data["budget"], Value::from(format!("{}/total", key.id)));
        assert_eq!(crate::harness::pico(&data["spent_usd"]), Some(u128::from(spent * COST)));
        assert_eq!(crate::harness::pico(&data["limit_usd"]), Some(u128::from(10 * COST)));
        let signature = asked.header("tollgate-signature").expect("a signature");
        let time = signature.split_once("t=").and_then(|(_, rest)| rest.split(',').next());
        let unix_s: u64 = time.and_then(|time| time.parse().ok()).expect("its time");
        let created = event["created_unix_ms"].as_u64().unwrap();
        assert!((unix_s * 1_000).abs_diff(created) < 120_000, "the time of the attempt: {unix_s}");
        let body = std::str::from_utf8(&asked.body).unwrap();
        assert_eq!(signature, gateway::webhook::signature(WEBHOOK_SECRET, unix_s, body));
    }
    let ids: std::collections::HashSet<String> =
        events.iter().map(|event| event["id"].to_string()).collect();
    assert_eq!(ids.len(), 3, "each has an id of its own");
    // What the receiver was told is what the operator sees, in the API and on the command line.
    let mut listed = rows(&gate.admin("/events?type=budget").await);
    listed.reverse();
    assert_eq!(listed, events);
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let ran = Child::run(&directory, &["events"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert!(ran.stdout.contains("budget.reached_80") && ran.stdout.contains(&key.id), "{ran:?}");
    let ran = Child::run(&directory, &["events", "--webhooks"]).await;
    assert!(ran.stdout.contains("ops") && !ran.stdout.contains(WEBHOOK_PATH), "{ran:?}");
    let metrics = gate.metrics().await;
    assert!(
        metrics.contains(r#"webhook_attempts_total{webhook="ops",outcome="delivered"} 3"#),
        "{metrics}"
    );
    let log = gate.log();
    assert!(!log.contains(WEBHOOK_SECRET) && !log.contains(WEBHOOK_PATH), "{log}");
}

#[tokio::test]
async fn a_receiver_that_is_down_hears_everything_once_it_is_back_after_a_crash_in_between() {
    let ((_cloud, builder), down) = (a_cloud().await, Down::start().unwrap());
    let gate = builder.webhook("ops", down.address(), "").start().await;
    let key = ten_a_day(&gate).await;
    // Nobody is held up by it.
    spend(&gate, &key, 10).await;
    eventually("a failed attempt", || async {
        let hooks = rows(&gate.admin("/webhooks").await);
        let failed = hooks[0]["last_error"].is_string() && hooks[0]["waiting"] == 3;
        failed.then_some(())
    })
    .await;
    let gate = gate.killed_and_restarted().await;
    let receiver = down.up().unwrap();
    let told = receiver.until(|told| taken(told).len() == 3).await.unwrap();
    assert_eq!(types(&taken(&told)), EACH_PART);
    eventually("nothing to wait", || async {
        (rows(&gate.admin("/webhooks").await)[0]["waiting"] == 0).then_some(())
    })
    .await;
    let log = gate.log();
    assert!(!log.contains(WEBHOOK_SECRET) && !log.contains(WEBHOOK_PATH), "{log}");
}

#[tokio::test]
async fn one_that_is_unwell_or_silent_is_told_again_and_harms_no_other() {
    let (_cloud, builder) = a_cloud().await;
    let (unwell, well) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    unwell.is(Mood::Answers(500));
    let gate = builder
        .webhook("unwell", unwell.address(), "timeout_ms = 200")
        .webhook("well", well.address(), "events = [\"budget.reached_80\", \"guard\"]")
        .start()
        .await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 8).await;
    // The other one is told meanwhile, and only of what it wants.
    let told = well.until(|told| told.len() == 1).await.unwrap();
    assert_eq!(types(&taken(&told)), ["budget.reached_80"]);
    unwell.until(|told| told.len() >= 2).await.unwrap();
    unwell.is(Mood::Silent);
    unwell.until(|told| told.iter().any(|(mood, _)| *mood == Mood::Silent)).await.unwrap();
    unwell.is(Mood::Takes);
    let told = unwell.until(|told| taken(told).len() == 2).await.unwrap();
    assert_eq!(types(&taken(&told)), EACH_PART[..2]);
    // It was the same event all the time.
    let first = taken(&told)[0]["id"].clone();
    let until_taken = told.iter().take_while(|(mood, _)| *mood != Mood::Takes);
    assert!(until_taken.into_iter().all(|(_, asked)| asked.json()["id"] == first));
}

#[tokio::test]
async fn one_that_has_moved_is_not_followed_and_is_told_again_where_it_was() {
    let (_cloud, builder) = a_cloud().await;
    let (old, new) = (Receiver::start().unwrap(), Receiver::start().unwrap());
    old.is(Mood::Moved(new.address()));
    let gate = builder.webhook("ops", old.address(), "").start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 5).await;
    old.until(|told| told.len() >= 3).await.unwrap();
    let hooks = rows(&gate.admin("/webhooks").await);
    assert!(hooks[0]["last_error"].as_str().unwrap().contains("307"), "{}", hooks[0]);
    old.is(Mood::Takes);
    let told = old.until(|told| taken(told).len() == 1).await.unwrap();
    assert_eq!(types(&taken(&told)), ["budget.reached_50"]);
    assert!(new.told().is_empty(), "where it says it went was never trusted: {:?}", new.told());
}

#[tokio::test]
async fn one_that_says_when_it_will_listen_is_not_told_before() {
    let ((_cloud, builder), receiver) = (a_cloud().await, Receiver::start().unwrap());
    receiver.is(Mood::Later(2));
    let gate = builder.webhook("ops", receiver.address(), "").start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 5).await;
    receiver.until(|told| told.len() == 1).await.unwrap();
    receiver.is(Mood::Takes);
    // Its own waits are of 20 to 100 ms. Too short a look can only miss a fault, never invent one.
    tokio::time::sleep(std::time::Duration::from_millis(700)).await;
    assert_eq!(receiver.told().len(), 1);
    let told = receiver.until(|told| told.len() == 2).await.unwrap();
    assert_eq!(types(&taken(&told)), ["budget.reached_50"]);
}

#[tokio::test]
async fn what_a_receiver_will_not_take_is_given_up_when_it_is_old_and_the_next_is_told() {
    let ((_cloud, builder), receiver) = (a_cloud().await, Receiver::start().unwrap());
    receiver.is(Mood::Answers(503));
    let gate = builder.webhook("ops", receiver.address(), "give_up_after_s = 1").start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 5).await;
    eventually("the event to be given up", || async {
        (rows(&gate.admin("/webhooks").await)[0]["given_up"] == 1).then_some(())
    })
    .await;
    receiver.is(Mood::Takes);
    spend(&gate, &key, 3).await;
    let told = receiver.until(|told| !taken(told).is_empty()).await.unwrap();
    assert_eq!(types(&taken(&told)), ["budget.reached_80"]);
}

#[tokio::test]
async fn after_a_restart_nothing_is_told_twice_and_a_new_receiver_hears_only_what_is_new() {
    let ((_cloud, builder), receiver) = (a_cloud().await, Receiver::start().unwrap());
    let gate = builder.webhook("ops", receiver.address(), "").start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 5).await;
    receiver.until(|told| told.len() == 1).await.unwrap();
    // Its place is written down: of a delivery that nobody noted the event would come again.
    eventually("the delivery to be noted", || async {
        rows(&gate.admin("/webhooks").await)[0]["last_delivered"].is_string().then_some(())
    })
    .await;
    let mut gate = gate.killed_and_restarted().await;
    spend(&gate, &key, 2).await;
    assert_eq!(all(&gate).await, EACH_PART[..1]);
    gate.stop().await;
    let late = Receiver::start().unwrap();
    let config = gate.builder_ref().config_file();
    let more = format!(
        "{}\n[[webhook]]\nname = \"late\"\nurl = \"http://{}/\"\nsecret = \"{WEBHOOK_SECRET}\"\n",
        std::fs::read_to_string(&config).unwrap(),
        late.address()
    );
    let gate = gate.restarted_after(|_| std::fs::write(&config, more).unwrap()).await;
    spend(&gate, &key, 3).await;
    receiver.until(|told| told.len() == 3).await.unwrap();
    late.until(|told| told.len() == 2).await.unwrap();
    assert_eq!(types(&taken(&receiver.told())), EACH_PART);
    assert_eq!(types(&taken(&late.told())), EACH_PART[1..]);
    assert_eq!(all(&gate).await, EACH_PART);
}

#[tokio::test]
async fn lowering_a_limit_below_what_is_spent_is_told_too() {
    let (_cloud, builder) = a_cloud().await;
    let gate = builder.start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 4).await;
    assert_eq!(all(&gate).await, Vec::<String>::new());
    let half = serde_json::json!({"money_usd": "0.000025"});
    let answer = gate.admin_send("PATCH", &format!("/budgets/{}/total", key.id), half).await;
    assert_eq!(answer.status, 200, "{}", answer.body_text());
    assert_eq!(all(&gate).await, ["budget.reached_80"]);
}

#[tokio::test]
async fn who_is_kept_to_local_routes_where_none_is_hears_that_it_is_the_guard() {
    let (_cloud, builder) = a_cloud().await;
    let gate = builder.guard("learn_ms = 0\nfloor_usd_per_hour = \"0.000000000001\"").start().await;
    spend(&gate, gate.key(), 1).await;
    let refused = gate.ask(PROMPT).send().await;
    assert_eq!(refused.status, 403, "{}", refused.body_text());
    let message = refused.error().message;
    assert!(message.contains("abuse guard") && message.contains("lift"), "{message}");
    assert_eq!(all(&gate).await, ["guard.local_only"]);
}

#[tokio::test]
async fn a_key_without_a_history_is_noted_and_not_held_up() {
    let (_cloud, builder) = a_cloud().await;
    let gate = builder.guard("floor_usd_per_hour = \"0.000000000001\"").start().await;
    spend(&gate, gate.key(), 20).await;
    assert_eq!(all(&gate).await, ["guard.logged"]);
}

#[tokio::test]
async fn what_the_guard_does_is_told_survives_a_crash_and_can_be_lifted() {
    let ((_cloud, builder), receiver) = (a_cloud().await, Receiver::start().unwrap());
    let gate = builder
        .guard("spend = \"blocked\"\nlearn_ms = 0\nfloor_usd_per_hour = \"0.000000000001\"")
        .webhook("ops", receiver.address(), "events = [\"guard\"]")
        .start()
        .await;
    // The first request is far above what is anybody's concern here.
    spend(&gate, gate.key(), 1).await;
    let refused = gate.ask(PROMPT).send().await;
    assert_eq!(refused.status, 403, "{}", refused.body_text());
    let told = receiver.until(|told| told.len() == 1).await.unwrap();
    let event = &taken(&told)[0];
    assert_eq!(event["type"], "guard.blocked");
    let data = &event["data"];
    assert_eq!(data["subject"], Value::from(gate.key().id.as_str()));
    assert_eq!(data["signal"], "spend_velocity");
    assert!(data["seen"].as_str().unwrap().contains("USD an hour"), "{data}");
    // Before its histories were written down.
    let mut gate = gate.killed_and_restarted().await;
    assert_eq!(gate.ask(PROMPT).send().await.status, 403);
    // And from its file.
    gate.stop().await;
    let gate = gate.restarted_after(|_| {}).await;
    assert_eq!(gate.ask(PROMPT).send().await.status, 403);
    let lift = data["lift"].as_str().unwrap().to_owned();
    let words: Vec<&str> = lift.split(' ').skip(1).collect();
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let ran = Child::run(&directory, &words).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    gate.ask(PROMPT).send().await.ok();
    // What was told just before the crash may have been told twice, under one id.
    let is_lifted = |event: &Value| event["type"] == "guard.lifted";
    let told = receiver.until(|told| taken(told).iter().any(is_lifted)).await.unwrap();
    let events = taken(&told);
    let mut before = events.iter().take_while(|event| !is_lifted(event));
    assert!(before.all(|other| other["id"] == event["id"]), "{events:?}");
}

#[tokio::test]
async fn events_are_listed_page_by_page() {
    let (_cloud, builder) = a_cloud().await;
    let gate = builder.start().await;
    let key = ten_a_day(&gate).await;
    spend(&gate, &key, 10).await;
    assert_eq!(all(&gate).await, EACH_PART);
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let newest: Vec<String> = rows(&gate.admin("/events").await)
        .iter()
        .map(|event| event["id"].as_str().unwrap().to_owned())
        .collect();
    let first = Child::run(&directory, &["events", "--limit", "2"]).await;
    assert!(newest[..2].iter().all(|id| first.stdout.contains(id)), "{}", first.stdout);
    assert!(!first.stdout.contains(&newest[2]), "{}", first.stdout);
    let more = format!("--after {}", newest[1]);
    assert!(first.stderr.contains(&more), "where the next page begins: {}", first.stderr);

    let args = ["events", "--limit", "2", "--after", &newest[1], "--type", "budget", "--json"];
    let second = Child::run(&directory, &args).await;
    assert_eq!(second.code, 0, "{}", second.stderr);
    let listed = rows(&serde_json::from_str(&second.stdout).unwrap());
    assert_eq!(listed.len(), 1, "{}", second.stdout);
    assert_eq!(listed[0]["id"], Value::from(newest[2].as_str()));
    let last = Child::run(&directory, &args[..5]).await;
    assert!(!last.stderr.contains("--after"), "nothing is older: {}", last.stderr);
}
