//! A policy is tried out on the past before it is switched on, and then does what was said.

use crate::harness::{Child, Gate, pico};
use e2e::standin::{Script, StandIn};
use serde_json::Value;
use std::path::PathBuf;

struct Case {
    _first: StandIn,
    second: StandIn,
    gate: Gate,
    directory: PathBuf,
}

const ALL_TO_FIRST: &str = "[[choose]]\nname = \"all\"\nroutes = [\"first\"]\n";
const NIGHT_TO_SECOND: &str = "[[guard]]\nname = \"no games\"\nwhen.tags.has = \"games\"\n\
                               refuse = \"not here\"\n\
                               [[choose]]\nname = \"night\"\nwhen.tags.has = \"night\"\n\
                               routes = [\"second\"]\n\
                               [[choose]]\nname = \"day\"\nroutes = [\"first\", \"second\"]\n";

/// Two clouds that use 1,000 and 50 tokens for every answer, the second at a quarter of the price.
async fn two() -> Case {
    two_of(&["first", "second"]).await
}

/// The same, of which only these are configured.
async fn two_of(configured: &[&str]) -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    for cloud in [&first, &second] {
        cloud.always(Script::default().using(1000, 50));
    }
    let mut builder = Gate::builder().cloud_named("first", &first, "");
    if configured.contains(&"second") {
        builder = builder.routes(&second_route(&second));
    }
    let gate = builder.policy_text(ALL_TO_FIRST).start().await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    Case { _first: first, second, gate, directory }
}

fn second_route(cloud: &StandIn) -> String {
    route_at("second", cloud, "0.25", "0.5")
}

/// A route to a cloud at these prices, USD a million tokens.
fn route_at(name: &str, cloud: &StandIn, input: &str, output: &str) -> String {
    format!(
        "[routes.{name}]\nkind = \"openai\"\nprovider = \"standin\"\nbase_url = \"{}\"\n\
         model = \"standin-2\"\napi_key = \"sk-upstream-{name}-canary\"\n\
         [routes.{name}.price]\ninput = \"{input}\"\noutput = \"{output}\"\n",
        cloud.base_url()
    )
}

impl Case {
    /// Three requests by day, two by night, and one for games.
    async fn ask_all(&self) -> u128 {
        let mut cost = 0;
        for tags in ["day", "day", "day", "night", "night", "games"] {
            let asked = self.gate.ask("What now?").header("x-tollgate-tags", tags).streamed();
            let answer = asked.send().await;
            if answer.status == 200 {
                let entry = self.gate.ledger().entry(answer.id()).await;
                cost += entry.cost().unwrap();
            }
        }
        cost
    }

    fn candidate(&self, text: &str) -> String {
        let file = self.directory.join("candidate.toml");
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    }
}

fn requests(of: &Value) -> Vec<u64> {
    ["requests", "replayed", "unchanged", "moved", "refused"]
        .map(|name| of[name].as_u64().unwrap())
        .to_vec()
}

#[tokio::test]
async fn a_policy_does_what_its_replay_said() {
    let mut case = two().await;
    let before = case.ask_all().await;
    let file = case.candidate(NIGHT_TO_SECOND);
    let mut said = 0;
    for with_server in [true, false] {
        let ran = Child::run(&case.directory, &["policy", "replay", &file, "--json"]).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        let replayed: Value = serde_json::from_str(&ran.stdout).unwrap();
        assert_eq!(requests(&replayed), [6, 6, 3, 2, 1], "{replayed:#}");
        assert_eq!(replayed["failed"], 0);
        assert_eq!(pico(&replayed["before"]["cost_usd"]), Some(before));
        said = pico(&replayed["after"]["cost_usd"]).unwrap();
        assert_eq!(replayed["after"]["cost_unknown"], 0);
        assert_eq!(replayed["after"]["cost_estimated"], 2);
        let moved = replayed["moves"].as_array().unwrap();
        assert_eq!(moved.len(), 2, "{replayed:#}");
        let to_second = moved.iter().find(|row| row["to"] == "second").unwrap();
        assert_eq!((&to_second["from"], &to_second["rule"]), (&"first".into(), &"night".into()));
        assert!(moved.iter().any(|row| row.get("to").is_none() && row["rule"] == "no games"));
        assert!(replayed["before"]["ttft"]["p95_us"].is_u64(), "{replayed:#}");
        assert_eq!(replayed["after"]["ttft"]["unknown"], 2, "nobody was seen there");

        let told = Child::run(&case.directory, &["policy", "replay", &file]).await;
        assert_eq!(told.code, 0, "{}", told.stderr);
        for words in ["night", "(refused)", "3 as they were, 2 elsewhere, 1 refused", "less"] {
            assert!(told.stdout.contains(words), "no `{words}`: {}", told.stdout);
        }
        let none =
            Child::run(&case.directory, &["policy", "replay", &file, "--tag", "nobody"]).await;
        assert!(none.stdout.contains("no request was replayed"), "{}", none.stdout);
        if with_server {
            case.gate.stop().await;
        }
    }

    let policy = case.gate.builder_ref().policy_file();
    case.gate =
        case.gate.restarted_after(|_| std::fs::write(policy, NIGHT_TO_SECOND).unwrap()).await;
    assert_eq!(case.ask_all().await, said, "it costs what was said");
    let same =
        Child::run(&case.directory, &["policy", "replay", &file, "--rule", "night", "--json"])
            .await;
    let same: Value = serde_json::from_str(&same.stdout).unwrap();
    assert_eq!(requests(&same), [2, 2, 2, 0, 0], "and what it does now is what it would do");
    let verify = case.gate.admin("/ledger/verify").await;
    assert_eq!(verify["clean"], true, "nothing was written: {verify}");
}

#[tokio::test]
async fn the_policy_in_force_changes_nothing_where_money_was_short_or_a_route_too_dear() {
    let (dear, cheap) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    for cloud in [&dear, &cheap] {
        cloud.always(Script::default().using(1000, 50));
    }
    let rules = "on_short = \"next\"\n[[choose]]\nname = \"all\"\n\
                 routes = [\"dear\", \"second\"]\n";
    // An answer of the dear one could cost 0.0512 USD by its cap alone, of the other 0.000128.
    let gate = Gate::builder()
        .routes(&route_at("dear", &dear, "200", "200"))
        .routes(&second_route(&cheap))
        .policy_text(rules)
        .global_budget("window = \"total\"\nmoney_usd = \"0.01\"")
        .start()
        .await;
    for _ in 0..3 {
        gate.ask("What now?").at_most(256).streamed().send().await.ok();
    }
    let limited = gate.ask("What now?").at_most(256).header("x-tollgate-max-cost-usd", "0.001");
    limited.streamed().send().await.ok();
    assert!(dear.asked().is_empty(), "nobody could pay it");
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let file = gate.builder_ref().policy_file();
    let replay = async |file: &str| {
        let ran = Child::run(&directory, &["policy", "replay", file, "--json"]).await;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        serde_json::from_str::<Value>(&ran.stdout).unwrap()
    };
    let same = replay(file.to_str().unwrap()).await;
    assert_eq!(requests(&same), [4, 4, 4, 0, 0], "{same:#}");
    assert_eq!(same["after"], same["before"], "{same:#}");
    assert_eq!(pico(&same["difference_usd"]), Some(0));
    let alone = directory.join("alone.toml");
    std::fs::write(&alone, rules.replace(", \"second\"", "")).unwrap();
    let alone = replay(alone.to_str().unwrap()).await;
    assert_eq!(requests(&alone), [4, 4, 0, 0, 4], "it could not be paid: {alone:#}");
    assert_eq!(pico(&alone["after"]["cost_usd"]), Some(0));
}

#[tokio::test]
async fn a_route_that_is_new_is_tried_out_on_what_came_before_it() {
    let mut case = two_of(&["first"]).await;
    let before = case.ask_all().await;
    case.gate.stop().await;
    let config = case.gate.builder_ref().config_file();
    let mut text = std::fs::read_to_string(&config).unwrap();
    text.push_str(&second_route(&case.second));
    std::fs::write(&config, text).unwrap();
    case.gate = case.gate.restarted_after(|_| {}).await;
    let file = case.candidate("[[choose]]\nname = \"cheap\"\ncheapest = [\"first\", \"second\"]\n");
    let replay = async |more: &[&str]| {
        let args = [&["policy", "replay", &file], more].concat();
        Child::run(&case.directory, &args).await
    };
    let ran = replay(&["--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let unknown: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(requests(&unknown), [6, 0, 0, 0, 0], "{unknown:#}");
    assert_eq!(unknown["not_replayable"][0]["route"], "second");
    let told = replay(&[]).await;
    assert!(told.stderr.contains("`--assume second`"), "{}", told.stderr);

    let ran = replay(&["--assume", "second", "--json"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let replayed: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(requests(&replayed), [6, 6, 0, 6, 0], "{replayed:#}");
    assert_eq!(replayed["assumed"][0], serde_json::json!({ "route": "second", "requests": 6 }));
    assert_eq!(pico(&replayed["before"]["cost_usd"]), Some(before));
    // 1,000 and 50 tokens at 0.25 and 0.5 USD a million.
    assert_eq!(pico(&replayed["after"]["cost_usd"]), Some(6 * 275_000_000));
    let told = replay(&["--assume", "second"]).await;
    assert!(told.stderr.contains("not configured when 6 of them"), "{}", told.stderr);
    let nowhere = replay(&["--assume", "third"]).await;
    assert_ne!(nowhere.code, 0);
    assert!(nowhere.stderr.contains("no route `third`"), "{}", nowhere.stderr);
}

#[tokio::test]
async fn a_policy_that_could_not_come_into_force_is_not_replayed() {
    let case = two().await;
    case.ask_all().await;
    for (text, words) in [
        ("[[choose]]\nname = \"x\"\nroutes = [\"third\"]\n", "`third`"),
        ("[[choose]]\nname = \"x\"\n", "candidate"),
    ] {
        let file = case.candidate(text);
        let ran = Child::run(&case.directory, &["policy", "replay", &file]).await;
        assert_ne!(ran.code, 0);
        assert!(ran.stderr.contains(words), "{}", ran.stderr);
    }
    let nowhere = Child::run(&case.directory, &["policy", "replay", "nowhere.toml"]).await;
    assert_eq!(nowhere.code, 3, "{}", nowhere.stderr);
    let body = serde_json::json!({ "text": ALL_TO_FIRST, "since": "soon" });
    let refused = case.gate.admin_send("POST", "/policies/replay", body).await;
    assert_eq!((refused.status, refused.error().param.as_deref()), (400, Some("since")));
}
