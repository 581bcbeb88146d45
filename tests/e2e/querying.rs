//! What is asked of the ledger is what is in it: every filter picks what it says, and every export has
//! every attempt.

use crate::harness::{EntrySeen, Gate, eventually, pico, rows};
use e2e::standin::{Cut, Fault, Point, Script, StandIn};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Requests that differ in all that can be asked for, with what a filter that means some of them finds.
struct Asked {
    _clouds: (StandIn, StandIn),
    gate: Gate,
    /// Their ids, oldest first.
    ids: Vec<String>,
    policies: [String; 2],
    keys: [String; 2],
}

fn policy(rule: &str) -> String {
    format!(
        "description = \"{rule}\"\n\
         [[choose]]\nname = \"large\"\nwhen.tags.has_any = [\"hard\"]\nroutes = [\"large\"]\n\
         [[choose]]\nname = \"{rule}\"\nroutes = [\"small\"]\n"
    )
}

/// Seven requests: see each.
async fn seven() -> Asked {
    let (small, large) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("small", &small, "")
        .cloud_of_kind("large", &large.base_url(), "anthropic", "")
        .policy_text(&policy("usual"))
        .section("[cache]\nmode = \"asked\"")
        .start()
        .await;
    let ada = gate.new_key().set("user", json!("ada")).set("team", json!("red")).create().await;
    let bob = gate.new_key().set("user", json!("bob")).set("team", json!("blue")).create().await;
    let mut ids = Vec::new();
    // 0: Ada's, in a session.
    small.next(Script::default().using(100, 10));
    let ask = gate.ask("One?").by(&ada).header("x-session-id", "run").send().await.ok();
    ids.push(ask.id().to_owned());
    // 1: Bob's, a hard one, which goes to the dearer cloud.
    large.next(Script::default().using(1_000, 100));
    let ask = gate.ask("Two?").by(&bob).header("x-tollgate-tags", "hard").send().await.ok();
    ids.push(ask.id().to_owned());
    // 2: Bob's, at another endpoint.
    small.next(Script::default().using(50, 0));
    let body = json!({"model": "auto", "input": "Three?"});
    ids.push(gate.post_by(&bob, "/v1/embeddings", &body).await.ok().id().to_owned());
    // 3: Ada's, which fails.
    small.next(Script::default().with(Fault::Status500));
    let failed = gate.ask("Four?").by(&ada).send().await;
    assert_eq!(failed.status, 503);
    ids.push(failed.id().to_owned());
    // 4 and 5: Ada's, asked once and kept.
    small.next(Script::default().using(100, 20));
    for found in ["MISS", "HIT"] {
        let ask = gate.ask("Five?").by(&ada).header("x-tollgate-cache", "on").send().await.ok();
        assert_eq!(ask.header("x-tollgate-cache"), found);
        ids.push(ask.id().to_owned());
    }
    let old = gate.ledger().entry(&ids[0]).await;
    // 6: Bob's, decided by another policy.
    let file = gate.builder_ref().policy_file();
    let new = file.with_extension("new");
    std::fs::write(&new, policy("later")).unwrap();
    std::fs::rename(new, &file).unwrap();
    eventually("the other policy", || async {
        let now = gate.admin("/policies").await;
        (now["version"] != old.0["decision"]["version"]).then_some(())
    })
    .await;
    small.next(Script::default().using(7, 7));
    let last = gate.ask("Seven?").by(&bob).send().await.ok();
    ids.push(last.id().to_owned());
    let new = gate.ledger().entry(last.id()).await;
    let version = |entry: &EntrySeen| entry.0["decision"]["version"].as_str().unwrap().to_owned();
    let policies = [version(&old), version(&new)];
    Asked { _clouds: (small, large), gate, ids, policies, keys: [ada.id, bob.id] }
}

impl Asked {
    /// The places of those that a query finds, page by page.
    async fn found(&self, query: &str) -> Vec<usize> {
        let mut found = Vec::new();
        let mut cursor = String::new();
        loop {
            let path = format!("/ledger/requests?limit=2&{query}{cursor}");
            let page = self.gate.admin(&path).await;
            for row in rows(&page) {
                let place = self.ids.iter().position(|id| row["id"] == id.as_str());
                found.push(place.unwrap_or_else(|| panic!("{query} finds {row}")));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        assert!(found.is_sorted_by(|a, b| a > b), "{query}: newest first, each once: {found:?}");
        found.reverse();
        found
    }
}

#[tokio::test]
async fn each_filter_finds_what_it_says_and_nothing_else() {
    let asked = seven().await;
    let [ada, bob] = asked.keys.each_ref().map(|id| format!("key={id}"));
    let [old, new] = asked.policies.each_ref().map(|version| format!("policy_version={version}"));
    let all: Vec<usize> = (0..7).collect();
    for (query, expected) in [
        ("", &all[..]),
        (&ada, &[0, 3, 4, 5]),
        (&bob, &[1, 2, 6]),
        ("user=ada", &[0, 3, 4, 5]),
        ("team=blue", &[1, 2, 6]),
        ("session=run", &[0]),
        ("tag=hard", &[1]),
        ("route=large", &[1]),
        ("route=small", &[0, 2, 3, 4, 6]),
        ("provider=standin", &[0, 1, 2, 3, 4, 6]),
        ("model=standin-1", &[0, 1, 2, 3, 4, 6]),
        ("rule=large", &[1]),
        ("rule=usual", &[0, 2, 3, 4, 5]),
        ("rule=later", &[6]),
        (&old, &[0, 1, 2, 3, 4, 5]),
        (&new, &[6]),
        ("endpoint=embeddings", &[2]),
        ("endpoint=chat_completions", &[0, 1, 3, 4, 5, 6]),
        ("outcome=failed", &[3]),
        ("status=503", &[3]),
        ("status=200", &[0, 1, 2, 4, 5, 6]),
        ("cache=miss", &[4]),
        ("cache=hit", &[5]),
        ("cache=coalesced", &[]),
        // 120, 1,200, 50, nothing, 140, nothing and 21 millionths.
        ("min_cost_usd=0.00014", &[1, 4]),
        ("min_cost_usd=0.000140000001", &[1]),
        ("max_cost_usd=0.00005", &[2, 3, 5, 6]),
        ("max_cost_usd=0.000049999999", &[3, 5, 6]),
        ("min_cost_usd=0.00005&max_cost_usd=0.00014", &[0, 2, 4]),
        ("user=bob&endpoint=chat_completions", &[1, 6]),
        ("user=ada&cache=bypass&status=200", &[0]),
        ("user=nobody", &[]),
        ("since=1h", &all[..]),
        ("until=1h", &[]),
    ] {
        assert_eq!(asked.found(query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn a_summary_takes_the_same_filters() {
    let asked = seven().await;
    for (query, requests, cost) in [
        ("user=ada", 4, 260_000_000),
        ("tag=hard", 1, 1_200_000_000),
        ("endpoint=embeddings", 1, 50_000_000),
        ("outcome=failed", 1, 0),
        ("cache=hit", 1, 0),
        ("min_cost_usd=0.00014", 2, 1_340_000_000),
    ] {
        let summary = asked.gate.admin(&format!("/ledger/summary?group_by=route&{query}")).await;
        let total = &summary["total"];
        let seen = (total["requests"].as_u64(), pico(&total["cost_usd"]));
        assert_eq!(seen, (Some(requests), Some(cost)), "{query}: {total:#}");
    }
}

/// The rows of a CSV by the names of their columns.
fn table(text: &str) -> Vec<BTreeMap<String, String>> {
    let mut lines: Vec<Vec<String>> = vec![vec![String::new()]];
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(next) = chars.next() {
        let row = lines.last_mut().expect("a row");
        match next {
            '"' if quoted && chars.next_if_eq(&'"').is_some() => row.last_mut().unwrap().push('"'),
            '"' => quoted = !quoted,
            ',' if !quoted => row.push(String::new()),
            '\r' if !quoted => {}
            '\n' if !quoted => lines.push(vec![String::new()]),
            other => row.last_mut().unwrap().push(other),
        }
    }
    assert_eq!(lines.pop(), Some(vec![String::new()]), "the last line ends");
    let head = lines.remove(0);
    let row = |cells: Vec<String>| {
        assert_eq!(cells.len(), head.len(), "{cells:?}");
        head.iter().cloned().zip(cells).collect()
    };
    lines.into_iter().map(row).collect()
}

/// A gateway whose requests had one attempt, a fallback, a retry, a hedge, an unknown end and none.
async fn with_many_attempts() -> (StandIn, StandIn, Gate) {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let policy = "description = \"hedged\"\n[[choose]]\nname = \"hedged\"\n\
                  hedge = [\"first\", \"second\"]\n";
    let eager = "retry = { max = 2, backoff_ms = 1 }";
    let gate = Gate::builder()
        .cloud_named("first", &first, eager)
        .cloud_named("second", &second, eager)
        .policy_text(policy)
        .section("[hedge]\ndelay_min_ms = 300\n[cache]\nmode = \"asked\"")
        .start()
        .await;
    // What teaches the route its usual time to the first token.
    for _ in 0..16 {
        gate.ask("Learn.").streamed().send().await.ok();
    }
    first.next(Script::default().cut(Cut::Hang(Point::Piece(0))));
    gate.ask("Hedge.").streamed().send().await.ok();
    // A fallback behind an attempt that is charged, and one behind an attempt that is not.
    for fault in [Fault::WrongJson, Fault::Status503] {
        first.next(Script::default().with(fault));
        gate.ask("Fall back.").send().await.ok();
    }
    first.next(Script::default().with(Fault::Status503));
    second.next(Script::default().with(Fault::Status503));
    gate.ask("Again.").send().await.ok();
    first.next(Script::says("one two three").cut(Cut::Reset(Point::Piece(1))));
    gate.ask("Break.").streamed().send().await;
    for _ in 0..2 {
        let ask = gate.ask("Keep.").header("x-tollgate-cache", "on");
        ask.header("x-tollgate-tags", "a b,c").send().await.ok();
    }
    (first, second, gate)
}

#[tokio::test]
async fn exports_hold_every_attempt_that_failed_was_beaten_or_answered() {
    let (_first, _second, gate) = with_many_attempts().await;
    let entries = gate.ledger().until_entries(23).await;
    let mut whole = Vec::new();
    for entry in &entries {
        whole.push(gate.ledger().entry(&entry.id()).await);
    }
    let roles: Vec<_> =
        whole.iter().flat_map(EntrySeen::attempts).map(|a| a.text("role")).collect();
    for role in ["primary", "fallback", "retry", "hedge"] {
        assert!(roles.iter().any(|seen| seen == role), "no {role} in {roles:?}");
    }
    let total = pico(&gate.admin("/ledger/summary").await["total"]["cost_usd"]);
    assert_eq!(total, Some(whole.iter().map(|entry| entry.cost().unwrap()).sum()));

    // A row of CSV for each attempt, in their order, and one for a request without any.
    let csv = table(&gate.admin_text("/ledger/export?format=csv").await);
    let mut rows_left = csv.iter();
    for entry in &whole {
        let attempts = entry.attempts();
        for index in 0..attempts.len().max(1) {
            let row = rows_left.next().expect("a row");
            assert_eq!(row["id"], entry.id());
            let tags = entry.0["tags"].as_array().unwrap().iter().map(|tag| tag.as_str().unwrap());
            assert_eq!(row["tags"], tags.collect::<Vec<_>>().join(","), "they are told apart");
            let Some(attempt) = attempts.get(index) else {
                assert_eq!(row["attempt"], "");
                continue;
            };
            assert_eq!(row["attempt"], index.to_string());
            assert_eq!(row["route"], attempt.route());
            assert_eq!(row["role"], attempt.text("role"));
            assert_eq!(row["attempt_outcome"], attempt.outcome());
            assert_eq!(pico(&json!(row["cost_usd"])), attempt.cost(), "{row:?}");
        }
    }
    assert!(rows_left.next().is_none());
    let sum = |rows: &[BTreeMap<String, String>], column: &str| {
        let costs = rows.iter().filter_map(|row| row.get(column).filter(|cell| !cell.is_empty()));
        costs.map(|cell| pico(&json!(cell)).unwrap()).sum::<u128>()
    };
    assert_eq!(Some(sum(&csv, "cost_usd")), total);

    // A row of FOCUS for each that is charged.
    let focus = table(&gate.admin_text("/ledger/export?format=focus").await);
    assert_eq!(Some(sum(&focus, "BilledCost")), total);
    let charged = |rows: &[BTreeMap<String, String>], names: [&str; 3]| {
        let [id, attempt, cost] = names;
        let rows = rows.iter().filter(|row| !row[attempt].is_empty() && !row[cost].is_empty());
        let rows = rows.map(|row| [&row[id], &row[attempt], &row[cost]].map(Clone::clone));
        let mut rows: Vec<_> = rows.filter(|[.., cost]| pico(&json!(cost)) != Some(0)).collect();
        rows.sort();
        rows
    };
    let of_focus = charged(&focus, ["x_RequestId", "x_Attempt", "BilledCost"]);
    assert_eq!(of_focus, charged(&csv, ["id", "attempt", "cost_usd"]));

    // A line of JSON for each request.
    assert_eq!(gate.admin_send("GET", "/ledger/export?format=xml", Value::Null).await.status, 400);
    let lines = gate.admin_text("/ledger/export?format=jsonl").await;
    let lines: Vec<Value> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), whole.len());
    for (line, entry) in lines.iter().zip(&whole) {
        assert_eq!(line["id"], entry.id());
        assert_eq!(line["attempts"], entry.0["attempts"]);
    }
}
