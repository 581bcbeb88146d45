//! The command line says what the admin API says, with a server and without one.

use crate::harness::{Child, Gate, pico, rows};
use e2e::standin::{Fault, Script, StandIn};
use serde_json::{Value, json};
use std::path::PathBuf;

async fn a_cloud() -> (StandIn, Gate, PathBuf) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    (cloud, gate, directory)
}

/// Runs a command that must succeed, and reads its JSON.
async fn json_of(directory: &std::path::Path, args: &[&str]) -> Value {
    let ran = Child::run(directory, &[args, &["--json"]].concat()).await;
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

#[tokio::test]
async fn the_ledger_reads_alike_with_a_server_and_without() {
    let (_cloud, mut gate, directory) = a_cloud().await;
    let id = gate.ask("Write me down.").send().await.ok().id().to_owned();
    let running = json_of(&directory, &["ledger", "query"]).await;
    assert_eq!(rows(&running)[0]["id"], Value::from(id.as_str()));
    let shown = json_of(&directory, &["ledger", "show", &id]).await;
    assert_eq!(shown, gate.ledger().entry(&id).await.0);
    let sums = json_of(&directory, &["ledger", "summary"]).await;

    gate.stop().await;
    assert_eq!(json_of(&directory, &["ledger", "query"]).await, running);
    assert_eq!(json_of(&directory, &["ledger", "show", &id]).await, shown);
    assert_eq!(json_of(&directory, &["ledger", "summary"]).await["data"], sums["data"]);
    assert_eq!(json_of(&directory, &["ledger", "verify"]).await["clean"], true);
}

#[tokio::test]
async fn tables_are_for_people_and_missing_things_have_their_own_exit_code() {
    let (_cloud, gate, directory) = a_cloud().await;
    let id = gate.ask("Write me down.").send().await.ok().id().to_owned();
    for args in
        [&["ledger", "query"][..], &["ledger", "summary"], &["ledger", "show", &id], &["routes"]]
    {
        let ran = Child::run(&directory, args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        assert!(ran.stdout.contains("cloud"), "{args:?}: {}", ran.stdout);
        assert!(!ran.stdout.contains('\u{1b}'), "NO_COLOR is honoured: {args:?}");
    }
    let filter = [("TOLLGATE_LOG", "gateway=loud")];
    let ran = Child::run_with(&directory, &filter, &["routes"]).await;
    assert!(ran.code == 0 && ran.stderr.contains("TOLLGATE_LOG is no filter"), "{}", ran.stderr);
    let missing = ["ledger", "show", "req_0193aaaaaaaa7aaa8aaaaaaaaaaaaaaa"];
    assert_eq!(Child::run(&directory, &missing).await.code, 3);
    assert_eq!(Child::run(&directory, &["no-such-command"]).await.code, 2);
}

#[tokio::test]
async fn a_key_made_there_works_at_once_and_until_it_is_revoked() {
    let (_cloud, gate, directory) = a_cloud().await;
    let created =
        json_of(&directory, &["key", "create", "--label", "by hand", "--budget", "day=5.00"]).await;
    let text = |field: &str| created[field].as_str().unwrap().to_owned();
    let key = crate::harness::Key { id: text("id"), secret: text("secret") };
    gate.ask("Hello.").by(&key).send().await.ok();
    assert!(gate.budget(&key).await.spent() > 0);
    json_of(&directory, &["key", "revoke", &key.id]).await;
    assert_eq!(gate.ask("Hello.").by(&key).send().await.status, 401);
}

#[tokio::test]
async fn the_admin_key_can_be_replaced() {
    let (_cloud, gate, directory) = a_cloud().await;
    let rotated = Child::run(&directory, &["key", "rotate-admin"]).await;
    assert_eq!(rotated.code, 0, "{}", rotated.stderr);
    let old = gate.admin_send("GET", "/keys", Value::Null).await;
    assert_eq!(old.status, 401, "the old one stops working at once");
    assert_eq!(Child::run(&directory, &["key", "list"]).await.code, 0, "the file has the new one");
}

#[tokio::test]
async fn root_leaves_nothing_in_the_ledger_of_another_user() {
    let (_cloud, mut gate, directory) = a_cloud().await;
    gate.stop().await;
    let journal = gate.builder_ref().data_dir().join("journal");
    if std::os::unix::fs::chown(&journal, Some(54_321), None).is_err() {
        // Only root can give a directory away, and only root is kept from writing there.
        return;
    }
    let key = ["key", "create", "--label", "by root"];
    let refused = Child::run(&directory, &key).await;
    assert_eq!(refused.code, 5, "{}", refused.stdout);
    assert!(refused.stderr.contains("sudo -u '#54321'"), "{}", refused.stderr);
    // Reading leaves nothing there.
    assert_eq!(Child::run(&directory, &["ledger", "summary"]).await.code, 0);
    std::os::unix::fs::chown(&journal, Some(0), None).unwrap();
    assert_eq!(Child::run(&directory, &key).await.code, 0);
}

#[tokio::test]
async fn what_is_reconciled_with_a_provider_is_what_was_booked_at_that_one() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    // The same model at another provider, which answers where the first one fails.
    let other = format!(
        "[routes.other]\nkind = \"openai\"\nprovider = \"other\"\nbase_url = \"{}\"\nmodel = \"standin-1\"\n\
         api_key = \"sk-other\"\n[routes.other.price]\ninput = \"7\"\noutput = \"9\"\n",
        second.base_url()
    );
    let gate = Gate::builder()
        .cloud_named("first", &first, "")
        .section(&other)
        .policy_text("[[choose]]\nname = \"both\"\nroutes = [\"first\", \"other\"]\n")
        .start()
        .await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let answered = gate.ask("Hello.").send().await.ok();
    assert_eq!(answered.header("x-tollgate-route"), "first");
    first.next(Script::default().with(Fault::Status500));
    let answered = gate.ask("Hello again, and longer.").send().await.ok();
    assert_eq!(answered.header("x-tollgate-route"), "other");
    let entry = gate.ledger().entry(answered.id()).await;
    let second_of_today = entry.0["arrived_unix_ms"].as_u64().unwrap() / 1_000;
    let report = json!({"data": [{"start_time": second_of_today, "results": [
        {"amount": {"value": "0.5", "currency": "usd"}, "line_item": "standin-1, input"}]}]});
    std::fs::write(directory.join("report.json"), report.to_string()).unwrap();
    let booked = async |provider: &str| {
        let args = ["ledger", "reconcile", "--provider", provider, "report.json"];
        let lines = json_of(&directory, &args).await;
        let lines = rows(&lines).to_vec();
        assert_eq!(lines.len(), 1, "{lines:?}");
        pico(&lines[0]["booked_usd"])
    };
    let sums = gate.admin("/ledger/summary?group_by=provider").await;
    for provider in ["standin", "other"] {
        let all = rows(&sums);
        let row = all.iter().find(|row| row["provider"] == provider).unwrap();
        let sum = pico(&row["cost_usd"]);
        assert_eq!(booked(provider).await, sum, "{provider}");
        assert!(sum.is_some_and(|sum| sum > 0), "{sums:#}");
    }
}

#[tokio::test]
async fn a_lost_admin_key_file_can_be_stood_in_for() {
    let (_cloud, gate, directory) = a_cloud().await;
    std::fs::remove_file(gate.builder_ref().data_dir().join("admin.key")).unwrap();
    let without = Child::run(&directory, &["key", "list"]).await;
    assert_eq!(without.code, 5, "{}", without.stdout);
    assert!(without.stderr.contains("TOLLGATE_ADMIN_KEY"), "{}", without.stderr);
    let environment = [("TOLLGATE_ADMIN_KEY", gate.admin_key())];
    let with = Child::run_with(&directory, &environment, &["key", "list"]).await;
    assert_eq!(with.code, 0, "{}", with.stderr);
}

#[tokio::test]
async fn a_budget_is_corrected_by_hand_with_a_server_and_without() {
    let (_cloud, mut gate, directory) = a_cloud().await;
    let key = gate.new_key().create().await;
    let id = format!("{}/total", key.id);
    let budget = "total=1.00,100tokens,5requests";
    json_of(&directory, &["budget", "set", &key.id, budget]).await;
    let correct = |args: &[&str]| {
        let args: Vec<_> = [&["budget", "correct", &id], args].concat();
        let args: Vec<String> = args.into_iter().map(str::to_owned).collect();
        let directory = directory.clone();
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            json_of(&directory, &args).await
        }
    };
    let because = ["--reason", "the invoice says so"];
    let whole = ["--money-usd", "0.75", "--tokens", "70", "--requests", "2"];
    correct(&[&whole[..], &because].concat()).await;
    let credit = ["--money-usd", "0.5", "--tokens", "30", "--requests", "1", "--credit"];
    let credited = correct(&[&credit[..], &because].concat()).await;
    assert_eq!(credited["id"], Value::from(id.as_str()));
    let spent = |budget: &Value| {
        ["spent_usd", "spent_tokens", "spent_requests"].map(|field| budget[field].clone())
    };
    assert_eq!(spent(&credited), [json!("0.250000000000"), json!(40), json!(1)]);
    let shown = json_of(&directory, &["budget", "show", &id]).await;
    assert_eq!(shown, gate.admin(&format!("/budgets/{id}")).await);
    assert_eq!(spent(&shown), spent(&credited));
    // Of nothing: it says that nothing is missing, and changes nothing.
    assert_eq!(spent(&correct(&because).await), spent(&shown));
    let told = Child::run(&directory, &["budget", "correct", &id, "--reason", "none"]).await;
    assert_eq!((told.code, told.stdout.trim()), (0, id.as_str()));

    for (args, code) in [
        (&["budget", "correct", &id, "--money-usd", "1"][..], 2),
        (&["budget", "correct", &id, "--money-usd", "-1", "--reason", "x"], 2),
        (&["budget", "correct", &id, "--money-usd", "1", "--reason", " "], 2),
        (&["budget", "correct", "key_none/day", "--money-usd", "1", "--reason", "x"], 3),
    ] {
        let ran = Child::run(&directory, args).await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    }

    gate.stop().await;
    let alone = correct(&[&whole[..], &because].concat()).await;
    let all = [json!("1.000000000000"), json!(110), json!(3)];
    assert_eq!(spent(&alone), all, "and nothing of what was refused");
    let verified = json_of(&directory, &["ledger", "verify"]).await;
    assert_eq!(verified["clean"], true, "{verified}");
}

/// A route whose price is known and one whose price nobody knows, and a request to each in one session.
async fn priced_and_unpriced() -> (StandIn, Gate, PathBuf) {
    let cloud = StandIn::start().await.unwrap();
    let builder = Gate::builder().cloud(&cloud);
    let unheard = "unknown_price_max_usd = \"0.01\"";
    let gate = builder.unpriced_cloud_named("unpriced", &cloud, unheard).start().await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let key = gate.new_key().that_may_pin().create().await;
    for route in ["cloud", "unpriced"] {
        cloud.next(Script::default().using(1_000, 50));
        let ask = gate.ask("How much?").from(route).by(&key);
        ask.header("x-session-id", "run").send().await.ok();
    }
    (cloud, gate, directory)
}

#[tokio::test]
async fn what_is_unknown_of_a_cost_is_shown_as_unknown_and_never_as_nothing() {
    let (_cloud, gate, directory) = priced_and_unpriced().await;
    let ran = Child::run(&directory, &["ledger", "summary"]).await;
    let line = |of: &str| {
        let line = ran.stdout.lines().find(|line| line.trim_start().starts_with(of));
        line.unwrap_or_else(|| panic!("{}", ran.stdout)).to_owned()
    };
    let cells = |of: &str| line(of).split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(cells("cloud")[4..7], ["0.0011", "1.10", "1.047619047619"], "{}", ran.stdout);
    assert_eq!(cells("unpriced")[4..7], ["-", "-", "-"], "{}", ran.stdout);
    assert_eq!(cells("all")[4..8], ["≥", "0.0011", "-", "-"], "{}", ran.stdout);
    assert!(ran.stderr.contains("1 attempts of unknown cost"), "{}", ran.stderr);

    let sums = gate.admin("/ledger/summary?group_by=route").await;
    for line in [&sums["total"], &sums["data"][1]] {
        assert_eq!(line["unknown_cost"], 1, "{line:#}");
        for unit in ["request", "1k_requests", "million_tokens", "session", "user"] {
            assert!(line.get(format!("cost_per_{unit}_usd")).is_none(), "{unit}: {line:#}");
        }
    }
    assert_eq!(sums["data"][0]["cost_per_request_usd"], "0.001100000000");

    let ran = Child::run(&directory, &["ledger", "session", "run"]).await;
    let mut lines = ran.stdout.lines().rev().map(|line| {
        let cells: Vec<_> = line.split_whitespace().collect();
        cells[cells.len() - 3..cells.len() - 1].join(" ")
    });
    let last: Vec<String> = lines.by_ref().take(2).collect();
    assert!(last.contains(&"- -".to_owned()), "{}", ran.stdout);
    assert!(last.contains(&"0.0011 0.0011".to_owned()), "{}", ran.stdout);
}

#[tokio::test]
async fn openais_cost_page_has_no_value_for_what_nobody_knows() {
    let (_cloud, gate, _directory) = priced_and_unpriced().await;
    let entries = gate.ledger().entries().await;
    let since = entries[0].0["arrived_unix_ms"].as_u64().unwrap() / 1_000 - 60;
    let costs = gate.organization(&format!("/costs?start_time={since}&group_by=line_item")).await;
    let results: Vec<Value> = rows(&costs)
        .iter()
        .flat_map(|bucket| bucket["results"].as_array().unwrap().clone())
        .collect();
    let of = |model: &str| {
        results
            .iter()
            .find(|result| result["line_item"] == model)
            .unwrap_or_else(|| panic!("{costs:#}"))
    };
    assert_eq!(of("standin-1")["amount"], json!({"value": 0.0011, "currency": "usd"}));
    assert!(of("standin-1").get("unknown_cost").is_none());
    assert_eq!(of("standin-unheard-of")["amount"], json!({"currency": "usd"}));
    assert_eq!(of("standin-unheard-of")["unknown_cost"], 1);
    let costs = gate.organization(&format!("/costs?start_time={since}")).await;
    let both =
        rows(&costs).into_iter().find_map(|bucket| bucket["results"].get(0).cloned()).unwrap();
    assert_eq!((&both["amount"]["value"], &both["unknown_cost"]), (&json!(0.0011), &json!(1)));
}

#[tokio::test]
async fn budgets_of_requests_and_of_each_session_are_shown() {
    let (_cloud, gate, directory) = a_cloud().await;
    let made = ["team", "create", "blue", "--budget", "day=1000requests"];
    let made =
        Child::run(&directory, &[&made[..], &["--session-budget", "total=2.00"]].concat()).await;
    assert_eq!(made.code, 0, "{}", made.stderr);
    assert!(
        made.stdout.contains("day: 1000 requests; total: $2.00 for each session"),
        "{}",
        made.stdout
    );
    let team = json_of(&directory, &["team", "show", "blue"]).await;
    assert_eq!(team, gate.admin("/teams/blue").await, "as the API shows it");
    let args = ["key", "create", "--team", "blue", "--session-budget", "day=7requests"];
    let key = json_of(&directory, &args).await;
    let id = key["id"].as_str().unwrap();
    let secret = key["secret"].as_str().unwrap().to_owned();
    let caller = crate::harness::Key { id: id.to_owned(), secret };
    gate.ask("Hi.").by(&caller).send().await.ok();
    gate.until_nothing_is_reserved().await;

    let shown = |text: &str, id: &str| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(id));
        let line = line.unwrap_or_else(|| panic!("{id}: {text}")).to_owned();
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    for args in [&["budgets"][..], &["budget", "list"]] {
        let ran = Child::run(&directory, args).await;
        let requests = shown(&ran.stdout, "team:blue/day");
        assert!(requests.starts_with("hard - - - - - - - - 1000 1 0 999 0 20"), "{requests}");
        let each = shown(&ran.stdout, "team:blue/sessions/total");
        assert_eq!(each, "hard, each session 2.00 - - - - - - - - - - - - -");
        let of_key = shown(&ran.stdout, &format!("{id}/sessions/day"));
        assert_eq!(of_key, "hard, each session - - - - - - - - 7 - - - - -");
    }
    let ran = Child::run(&directory, &["budget", "show", "team:blue/sessions/total"]).await;
    assert!(shown(&ran.stdout, "team:blue/sessions/total").contains("2.00"), "{}", ran.stdout);
    let all = json_of(&directory, &["budgets"]).await;
    assert!(rows(&all).iter().any(|budget| budget["id"] == "team:blue/sessions/total"), "{all:#}");
    let ran = Child::run(&directory, &["key", "show", id]).await;
    assert!(ran.stdout.contains("day: 7 requests for each session"), "{}", ran.stdout);

    let both = format!("/budgets?of_sessions=true&sessions_of={id}");
    assert_eq!(gate.admin_send("GET", &both, Value::Null).await.status, 400);
    // Of a key that is revoked no session can come.
    json_of(&directory, &["key", "revoke", id]).await;
    let left = rows(&gate.admin("/budgets?of_sessions=true").await);
    assert_eq!(left.iter().filter(|budget| budget["of_sessions"] == true).count(), 1);
}

#[tokio::test]
async fn every_limit_of_a_key_can_be_changed_and_is_shown() {
    let (_cloud, _gate, directory) = a_cloud().await;
    let made = ["--budget", "day=5", "--session-budget", "day=1", "--request-cost-max-usd", "0.5"];
    let key = json_of(&directory, &[&["key", "create"][..], &made].concat()).await;
    let id = key["id"].as_str().unwrap();
    let changed = async |args: &[&str]| {
        let ran = Child::run(&directory, &[&["key", "update", id][..], args].concat()).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        let line = |name: &str| {
            let line = ran.stdout.lines().find(|line| line.starts_with(name));
            line.map(|line| line[name.len()..].trim().to_owned()).unwrap()
        };
        (line("limits"), line("budgets"))
    };
    let own = ["--budget", "total=6", "--request-cost-max-usd", "0.25"];
    let (limits, budgets) = changed(&own).await;
    assert_eq!(limits, "$0.25 at most a request");
    assert_eq!(budgets, "total: $6.00; day: $1.00 for each session");
    let (_, budgets) = changed(&["--session-budget", "total=2,9requests"]).await;
    assert_eq!(budgets, "total: $6.00; total: $2.00 and 9 requests for each session");
    let (_, budgets) = changed(&["--no-budgets"]).await;
    assert_eq!(budgets, "total: $2.00 and 9 requests for each session", "what is left is shown");
    let (limits, budgets) =
        changed(&["--no-session-budgets", "--request-cost-max-usd", "none"]).await;
    assert_eq!((limits.as_str(), budgets.as_str()), ("-", "-"));
    let both = ["key", "update", id, "--no-session-budgets", "--session-budget", "day=1"];
    assert_eq!(Child::run(&directory, &both).await.code, 2);
}

#[tokio::test]
async fn how_urgent_a_key_is_is_said_and_shown() {
    let (_cloud, mut gate, directory) = a_cloud().await;
    let made = json_of(&directory, &["key", "create", "--priority", "high"]).await;
    assert_eq!(made["priority"], "high");
    let id = made["id"].as_str().unwrap();
    assert_eq!(json_of(&directory, &["key", "create"]).await["priority"], "normal");
    let shown = json_of(&directory, &["key", "update", id, "--label", "ci"]).await;
    assert_eq!((&shown["label"], &shown["priority"]), (&json!("ci"), &json!("high")));
    let list = Child::run(&directory, &["key", "list"]).await.stdout;
    let line = |of: &str| list.lines().find(|line| line.contains(of)).unwrap_or_default();
    assert!(line("STATE").contains("PRIORITY") && line(id).contains("high"), "{list}");

    let lowered = json_of(&directory, &["key", "update", id, "--priority", "low"]).await;
    assert_eq!(lowered, gate.admin(&format!("/keys/{id}")).await, "as the API shows it");
    gate.stop().await;
    let shown = Child::run(&directory, &["key", "show", id]).await.stdout;
    assert!(shown.lines().any(|line| line == "priority  low"), "{shown}");
    let urgent = Child::run(&directory, &["key", "update", id, "--priority", "urgent"]).await;
    assert!(urgent.code == 2 && urgent.stderr.contains("--priority"), "{}", urgent.stderr);
}

#[tokio::test]
async fn what_a_team_or_user_may_use_is_changed_as_a_keys_is() {
    let (_cloud, gate, directory) = a_cloud().await;
    let made = ["--budget", "day=5", "--session-budget", "day=1", "--concurrency", "2"];
    for of in ["team", "user"] {
        let changed = async |args: &[&str]| {
            let shown = json_of(&directory, &[&[of, "update", "red"][..], args].concat()).await;
            assert_eq!(shown, gate.admin(&format!("/{of}s/red")).await, "as the API shows it");
            shown
        };
        json_of(&directory, &[&[of, "create", "red", "--label", "Red"][..], &made].concat()).await;
        let shown = changed(&["--tokens-per-minute", "900", "--budget", "total=6"]).await;
        let limits = json!({"requests_per_minute": null, "tokens_per_minute": 900,
            "concurrency": 2, "request_cost_max_usd": null});
        assert!(of_limits(&limits, &shown["limits"]), "{shown:#}");
        assert_eq!((&shown["label"], windows(&shown)), (&json!("Red"), "total day".to_owned()));
        let shown = changed(&["--label", "", "--no-budgets", "--concurrency", "none"]).await;
        let limits = json!({"concurrency": null, "tokens_per_minute": 900});
        assert!(of_limits(&limits, &shown["limits"]), "{shown:#}");
        assert_eq!((&shown["label"], windows(&shown)), (&json!(""), "day".to_owned()));
        let nothing = Child::run(&directory, &[of, "update", "red"]).await;
        assert_eq!(nothing.code, 2, "{}", nothing.stdout);
        assert!(nothing.stderr.contains("nothing to change"), "{}", nothing.stderr);
    }
    let team = async |team: &str| {
        json_of(&directory, &["user", "update", "red", "--team", team]).await["team"].clone()
    };
    assert_eq!((team("red").await, team("none").await), (json!("red"), Value::Null));
    assert_eq!(Child::run(&directory, &["user", "update", "eve", "--team", "red"]).await.code, 3);
}

/// Whether limits are shown as expected; what is not set is absent.
fn of_limits(expected: &Value, shown: &Value) -> bool {
    let expected = expected.as_object().unwrap();
    expected.iter().all(|(name, limit)| shown.get(name).unwrap_or(&Value::Null) == limit)
}

/// The windows of its budgets, and after them those of its sessions'.
fn windows(shown: &Value) -> String {
    let of = |field: &str| shown[field].as_array().cloned().unwrap_or_default();
    let all = [of("budgets"), of("session_budgets")].concat();
    all.iter().map(|budget| budget["window"].as_str().unwrap()).collect::<Vec<_>>().join(" ")
}

#[tokio::test]
async fn a_revoked_key_is_not_enabled_and_an_expired_one_not_made() {
    let (_cloud, _gate, directory) = a_cloud().await;
    let key = json_of(&directory, &["key", "create"]).await;
    let id = key["id"].as_str().unwrap();
    json_of(&directory, &["key", "revoke", id]).await;
    let ran = Child::run(&directory, &["key", "enable", id]).await;
    assert_eq!(ran.code, 4, "{}", ran.stdout);
    assert!(ran.stderr.contains("revoked for good"), "{}", ran.stderr);
    let ran = Child::run(&directory, &["key", "create", "--expires", "2020-01-01"]).await;
    assert_eq!(ran.code, 2, "{}", ran.stdout);
    assert!(ran.stderr.contains("would never work"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_key_of_this_machine_is_sent_to_no_other_server() {
    let (cloud, gate, directory) = a_cloud().await;
    let (there, here) = (format!("http://{}", cloud.address()), gate.url());
    for server in [&there, &here] {
        let ran = Child::run(&directory, &["--server", server, "key", "list"]).await;
        assert_eq!(ran.code, 2, "{}", ran.stdout);
        assert!(ran.stderr.contains("TOLLGATE_ADMIN_KEY"), "{}", ran.stderr);
    }
    assert_eq!(cloud.counts().connections, 0);
    let environment = [("TOLLGATE_ADMIN_KEY", gate.admin_key())];
    let args = ["--server", &here, "key", "list"];
    let elsewhere = tempfile::tempdir().unwrap();
    let ran = Child::run_with(elsewhere.path(), &environment, &args).await;
    assert_eq!(ran.code, 0, "no configuration is needed: {}", ran.stderr);
}

#[tokio::test]
async fn the_prices_that_are_shown_are_those_of_the_server_that_is_named() {
    let cloud = StandIn::start().await.unwrap();
    let prices = tempfile::NamedTempFile::new().unwrap();
    let row = |from: &str, more: &str| {
        format!(
            "[[price]]\nprovider = \"standin\"\nmodel = \"m\"\neffective_from = \"{from}\"\n\
             input = \"1\"\noutput = \"2\"\nsource = \"a test\"\nsource_date = \"2026-01-01\"\n{more}"
        )
    };
    let rows_of_m =
        ["2026-01-01", "2026-02-01", "2999-01-01"].map(|from| row(from, "snapshots = true\n"));
    std::fs::write(prices.path(), rows_of_m.concat()).unwrap();
    let section = format!("[prices]\nfile = {:?}", prices.path());
    let gate = Gate::builder().cloud(&cloud).section(&section).start().await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let (here, elsewhere) = (gate.url(), tempfile::tempdir().unwrap());
    let environment = [("TOLLGATE_ADMIN_KEY", gate.admin_key())];
    for name in ["standin/m", "standin/m-20260101"] {
        let show = ["prices", "show", name, "--json"];
        let at_home = Child::run(&directory, &show).await;
        let there = [&["--server", here.as_str()][..], &show].concat();
        let there = Child::run_with(elsewhere.path(), &environment, &there).await;
        assert_eq!((at_home.code, there.code), (0, 0), "{} {}", at_home.stderr, there.stderr);
        let [at_home, there] = [at_home, there].map(|ran| {
            let shown: Value = serde_json::from_str(&ran.stdout).unwrap();
            let rows = rows(&shown);
            rows.iter().map(|row| row["holds_today"].clone()).collect::<Vec<_>>()
        });
        assert_eq!(at_home, [json!(false), json!(true), json!(false)], "{name}");
        assert_eq!(there, at_home, "{name}");
    }
    let missing = ["--server", &here, "prices", "show", "standin/other"];
    assert_eq!(Child::run_with(elsewhere.path(), &environment, &missing).await.code, 3);
}

#[tokio::test]
async fn a_decision_is_explained_by_the_policy_that_made_it() {
    let cloud = StandIn::start().await.unwrap();
    let policy = |rule: &str, route: &str| {
        format!("description = \"one\"\n[[choose]]\nname = \"{rule}\"\nroutes = [\"{route}\"]\n")
    };
    let mut gate = Gate::builder()
        .cloud_named("first", &cloud, "")
        .cloud_named("second", &cloud, "")
        .policy_text(&policy("early", "first"))
        .start()
        .await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let before = gate.ask("Why?").send().await.ok().id().to_owned();
    std::fs::write(gate.builder_ref().policy_file(), policy("late", "second")).unwrap();
    let reloaded = Child::run(&directory, &["policy", "reload"]).await;
    assert_eq!(reloaded.code, 0, "{}", reloaded.stderr);
    let after = gate.ask("Why?").send().await.ok().id().to_owned();
    for with_server in [true, false] {
        for (id, rule, planned, left_out) in
            [(&before, "early", "first", "second"), (&after, "late", "second", "first")]
        {
            let told = Child::run(&directory, &["policy", "explain", id]).await;
            assert_eq!(told.code, 0, "{}", told.stderr);
            for words in [
                format!("choose rule {rule}: "),
                format!("route {planned}: place 1 of the plan"),
                format!("route {left_out}: left out"),
            ] {
                assert!(told.stdout.contains(&words), "no `{words}`: {}", told.stdout);
            }
            let other = if rule == "early" { "rule late" } else { "rule early" };
            assert!(!told.stdout.contains(other), "{}", told.stdout);
            let trace = json_of(&directory, &["policy", "explain", id]).await;
            assert_eq!(trace["verdict"]["route"]["plan"], json!([planned]));
        }
        if with_server {
            gate.stop().await;
        }
    }
    let none = ["policy", "explain", "req_0193aaaaaaaa7aaa8aaaaaaaaaaaaaaa"];
    assert_eq!(Child::run(&directory, &none).await.code, 3);
}

#[tokio::test]
async fn what_a_caller_wrote_does_nothing_to_an_operators_terminal() {
    let cloud = StandIn::start().await.unwrap();
    let policy = "[[choose]]\nname = \"one\"\nwhen.metadata.team.eq = \"red\"\nroutes = [\"cloud\"]\n\
                  [[choose]]\nname = \"rest\"\nroutes = [\"cloud\"]\n";
    let gate = Gate::builder()
        .cloud_named("cloud", &cloud, "drop_fields = [\"metadata\"]")
        .policy_text(policy)
        .start()
        .await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let wrote = "\u{1b}[31m\u{1b}]0;mine\u{7}\u{9b}2J\r\n\u{202e}";
    let metadata = json!({"team": wrote, "other": "o"});
    let asked = gate.ask("Hello.").set("metadata", metadata).set("user", json!(wrote));
    let id = asked.send().await.ok().id().to_owned();
    for args in [
        &["policy", "explain", &id][..],
        &["ledger", "show", &id],
        &["ledger", "summary", "--group-by", "user"],
        &["policy", "explain", &id, "--json"],
        &["ledger", "show", &id, "--json"],
    ] {
        let ran = Child::run(&directory, args).await;
        assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
        let obeyed = |c: char| (c.is_control() && c != '\n') || c == '\u{202e}';
        assert!(!ran.stdout.contains(obeyed), "{args:?}: {:?}", ran.stdout);
    }
    let told = Child::run(&directory, &["policy", "explain", &id]).await.stdout;
    let shown = "signal metadata.team = \\u{1b}[31m\\u{1b}]0;mine\\u{7}\\u{9b}2J\\r\\n\\u{202e}";
    assert!(told.contains(shown), "{told}");
    let trace = json_of(&directory, &["policy", "explain", &id]).await;
    assert!(trace["signals"].as_array().unwrap().iter().any(|signal| signal["value"] == wrote));
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_every_command_quietly() {
    let (_cloud, mut gate, directory) = a_cloud().await;
    let id = gate.ask("Write me down.").send().await.ok().id().to_owned();
    let commands: [&[&str]; 9] = [
        &["ledger", "export", "--format", "csv"],
        &["ledger", "export", "--format", "jsonl"],
        &["ledger", "export", "--format", "focus"],
        &["ledger", "query"],
        &["ledger", "show", &id],
        &["ledger", "summary", "--json"],
        &["key", "list"],
        &["routes"],
        &["--help"],
    ];
    for with_server in [true, false] {
        for args in commands {
            let ran = Child::run_unread(&directory, args).await;
            assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
            assert!(!ran.stderr.contains("pipe"), "{args:?}: {}", ran.stderr);
        }
        if with_server {
            gate.stop().await;
        }
    }
}
