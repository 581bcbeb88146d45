//! In strict mode an acknowledged entry survives `kill -9`, and what is kept beside the journal can
//! be thrown away.

use crate::harness::{Gate, Key, rows};
use e2e::standin::{Cut, Point, Script, StandIn};
use futures::{StreamExt, stream::FuturesUnordered};
use policies::PicoUsd;
use serde_json::Value;
use std::collections::BTreeSet;

/// How often the process is killed; `make test-all` does it more often.
fn rounds() -> usize {
    if std::env::var_os("TOLLGATE_SLOW_TESTS").is_some() { 50 } else { 20 }
}

async fn a_cloud(budget: &str) -> (StandIn, Gate, Key) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).ledger("durability = \"strict\"").start().await;
    let key = gate.new_key().with_budget_usd(budget).create().await;
    (cloud, gate, key)
}

/// Keeps eight requests in flight until so many answers are whole; returns their ids.
async fn acknowledged(gate: &Gate, key: &Key, answers: usize) -> BTreeSet<String> {
    let ask = |n: usize| {
        let ask = gate.ask("Remember me.").by(key);
        if n.is_multiple_of(2) { ask.streamed() } else { ask }.send()
    };
    let mut asks: FuturesUnordered<_> = (0..8).map(ask).collect();
    let mut ids = BTreeSet::new();
    while let Some(answer) = asks.next().await {
        let answer = answer.ok();
        assert!(answer.whole);
        ids.insert(answer.id().to_owned());
        if ids.len() >= answers {
            break;
        }
        asks.push(ask(ids.len()));
    }
    ids
}

/// Every sum of the books agrees: the key's spent money is the sum of its entries' costs.
async fn the_books_add_up(gate: &Gate, key: &Key) -> BTreeSet<String> {
    let entries = gate.ledger().entries().await;
    let mut spent = 0;
    for entry in &entries {
        entry.adds_up();
        let cost = entry.cost().expect("a known cost");
        spent += if entry.0["key"] == key.id { cost } else { 0 };
    }
    assert_eq!(gate.budget(key).await.spent(), spent, "spent is the sum of the entries");
    assert_eq!(gate.budget(key).await.reserved(), 0, "nothing of the dead is still held");
    let ids: BTreeSet<_> = entries.iter().map(crate::harness::EntrySeen::id).collect();
    assert_eq!(ids.len(), entries.len(), "no request has two entries");
    ids
}

#[tokio::test]
async fn no_acknowledged_entry_is_lost_to_kill_9() {
    let (cloud, mut gate, key) = a_cloud("1000").await;
    cloud.always(Script::default().using(10, 5));
    let mut promised = BTreeSet::new();
    let mut kept = BTreeSet::new();
    for round in 0..rounds() {
        // A different moment each time, always with requests in flight.
        promised.extend(acknowledged(&gate, &key, 1 + (round * 7) % 23).await);
        gate.child().kill().await;
        let report = gate.ledger_verify().await;
        assert_eq!(report.code, 0, "round {round}: {}{}", report.stdout, report.stderr);
        gate = gate.restarted_after(|_| {}).await;
        kept = the_books_add_up(&gate, &key).await;
        let lost: Vec<_> = promised.difference(&kept).collect();
        assert!(lost.is_empty(), "round {round} lost {lost:?}");
    }
    println!(
        "{} times kill -9: {} requests in the ledger, {} acknowledged, {} lost",
        rounds(),
        kept.len(),
        promised.len(),
        promised.difference(&kept).count(),
    );
}

#[tokio::test]
async fn no_crash_lets_a_budget_be_overspent() {
    let (cloud, mut gate, rich) = a_cloud("1000").await;
    cloud.always(Script::default().using(10, 5));
    fn ask<'g>(gate: &'g Gate, key: &Key) -> crate::harness::Ask<'g> {
        gate.ask("Remember me.").at_most(5).by(key)
    }
    let first = ask(&gate, &rich).send().await.ok();
    let worst = gate.ledger().entry(first.id()).await.only_attempt().reserved();
    // Each time the process dies it may hold eight of them, and some have been answered.
    let limit = 50 * worst;
    let usd = PicoUsd::from_pico(u64::try_from(limit).unwrap()).to_string();
    let key = gate.new_key().with_budget_usd(&usd).create().await;
    let (mut kills, mut refused) = (0, false);
    while !refused {
        let mut asks: FuturesUnordered<_> = (0..8).map(|_| ask(&gate, &key).send()).collect();
        for _ in 0..4 {
            let answer = asks.next().await.expect("eight were asked");
            refused |= answer.status == 429;
            assert!(matches!(answer.status, 200 | 429), "{}", answer.body_text());
        }
        // It dies before it can see that they left.
        drop(asks);
        gate.child().kill().await;
        kills += 1;
        gate = gate.restarted_after(|_| {}).await;
        the_books_add_up(&gate, &key).await;
        let spent = gate.budget(&key).await.spent();
        assert!(spent <= limit, "{spent} of {limit} after {kills} kills");
    }
    assert!(kills > 2, "a budget that is spent by {kills} rounds is not held across kills");
    // What refuses is the budget, and it refuses only what might not fit.
    let spent = gate.budget(&key).await.spent();
    let fits = spent + worst <= limit;
    let answer = ask(&gate, &key).send().await;
    assert_eq!(answer.status == 200, fits, "{spent} of {limit}: {}", answer.body_text());
}

#[tokio::test]
async fn what_ran_when_the_process_died_is_booked_and_marked() {
    let (cloud, mut gate, key) = a_cloud("1000").await;
    cloud.always(Script::default().cut(Cut::Hang(Point::Piece(2))));
    let mut open = gate.ask("Remember me.").by(&key).streamed().open().await;
    open.read_pieces(2).await;
    let held = gate.budget(&key).await.reserved();
    assert!(held > 0);
    gate = gate.killed_and_restarted().await;
    open.leave();

    let entry = gate.ledger().only_entry().await;
    entry.adds_up();
    assert_eq!(entry.outcome(), "crashed");
    let attempt = entry.only_attempt();
    assert_eq!(attempt.outcome(), "crashed_unknown");
    assert_eq!(attempt.cost(), Some(held), "booked as it was reserved");
    let budget = gate.budget(&key).await;
    assert_eq!((budget.spent(), budget.reserved()), (held, 0));

    // A second start changes nothing: it is settled once.
    gate = gate.killed_and_restarted().await;
    assert_eq!(gate.budget(&key).await.spent(), held);
    assert_eq!(gate.ledger().entries().await.len(), 1);
}

/// Everything the books answer that does not depend on when they are asked.
async fn answers_of_the_books(gate: &Gate) -> Value {
    let mut all = Vec::new();
    for entry in gate.ledger().entries().await {
        all.push(gate.ledger().entry(&entry.id()).await.0);
    }
    for by in ["route", "model", "key", "rule"] {
        all.push(gate.admin(&format!("/ledger/summary?group_by={by}")).await["data"].clone());
    }
    all.push(gate.admin("/budgets").await["data"].clone());
    all.push(gate.admin("/keys").await["data"].clone());
    Value::Array(all)
}

#[tokio::test]
async fn the_index_is_rebuilt_from_the_journal_to_the_same_answers() {
    let (cloud, mut gate, key) = a_cloud("1000").await;
    for n in 1..=20 {
        cloud.next(Script::default().using(100 * n, n));
        let ask = gate.ask("Remember me.").by(&key);
        if n % 2 == 0 { ask.streamed() } else { ask }.send().await.ok();
    }
    let before = answers_of_the_books(&gate).await;
    assert_eq!(rows(&gate.admin("/ledger/requests?limit=100").await).len(), 20);

    gate.stop().await;
    gate = gate.restarted_after(|_| {}).await;
    assert_eq!(answers_of_the_books(&gate).await, before, "after an orderly restart");

    gate.child().kill().await;
    gate = gate
        .restarted_after(|data| {
            std::fs::remove_dir_all(data.join("index")).expect("an index to delete");
        })
        .await;
    assert_eq!(answers_of_the_books(&gate).await, before, "after the index was deleted");

    gate.stop().await;
    gate = gate
        .restarted_after(|data| {
            for file in std::fs::read_dir(data.join("index")).expect("an index") {
                let path = file.expect("a file").path();
                if path.is_file() {
                    std::fs::write(path, b"not what was here before").expect("to break it");
                }
            }
        })
        .await;
    assert_eq!(answers_of_the_books(&gate).await, before, "after the index was broken");
}

#[tokio::test]
async fn keys_and_budgets_outlive_a_crash() {
    let (cloud, mut gate, key) = a_cloud("0.001").await;
    cloud.always(Script::default().using(900, 10));
    gate.ask("Remember me.").by(&key).send().await.ok();
    let spent = gate.budget(&key).await.spent();
    assert_eq!(spent, 920_000_000);
    gate = gate.killed_and_restarted().await;
    assert_eq!(gate.budget(&key).await.spent(), spent);
    let refused = gate.ask("And again?").by(&key).send().await;
    assert_eq!(refused.error().code.as_deref(), Some("insufficient_quota"));
}

#[tokio::test]
async fn a_broken_journal_is_found() {
    let (_cloud, mut gate, key) = a_cloud("1000").await;
    gate.ask("Remember me.").by(&key).send().await.ok();
    gate.ask("Remember me.").by(&key).send().await.ok();
    gate.stop().await;
    assert_eq!(gate.ledger_verify().await.code, 0);
    let journal = gate.builder_ref().data_dir().join("journal");
    let segment = std::fs::read_dir(journal)
        .expect("a journal")
        .map(|file| file.expect("a file").path())
        .find(|path| path.metadata().is_ok_and(|m| m.is_file() && m.len() > 200))
        .expect("a segment");
    let mut bytes = std::fs::read(&segment).expect("its bytes");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&segment, bytes).expect("to break it");
    let report = gate.ledger_verify().await;
    assert_ne!(report.code, 0, "a flipped bit is found: {}{}", report.stdout, report.stderr);
}
