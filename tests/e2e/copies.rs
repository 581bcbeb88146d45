//! A copy of the journal and of the key that keys are hashed with, taken while the gateway serves, is a
//! backup: it starts, knows everything that was acknowledged before it was taken, and adds up.

use crate::harness::{Gate, rows};
use e2e::standin::{Script, StandIn};
use futures::{StreamExt as _, stream::FuturesUnordered};
use std::path::Path;

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("journal")).unwrap();
    for entry in std::fs::read_dir(from.join("journal")).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.join("journal").join(entry.file_name())).unwrap();
        }
    }
    std::fs::copy(from.join("hash.key"), to.join("hash.key")).unwrap();
}

#[tokio::test]
async fn a_copy_that_is_taken_under_load_is_a_backup() {
    let cloud = StandIn::start().await.unwrap();
    cloud.always(Script::default().using(10, 5));
    let gate = Gate::builder().cloud(&cloud).start().await;
    let key = gate.new_key().named("kept").with_budget_usd("1").create().await;
    let revoked = gate.new_key().named("revoked").create().await;
    let gone = format!("/keys/{}", revoked.id);
    gate.admin_send("DELETE", &gone, serde_json::Value::Null).await.ok();
    let ask = || gate.ask("Remember me.").by(&key).send();
    let mut asks: FuturesUnordered<_> = (0..8).map(|_| ask()).collect();
    let mut promised = Vec::new();
    for _ in 0..100 {
        let answer = asks.next().await.expect("eight run").ok();
        promised.push(answer.id().to_owned());
        asks.push(ask());
    }
    let other = Gate::builder().cloud(&cloud);
    let (from, to) = (gate.builder_ref().data_dir(), other.data_dir());
    let copying = tokio::task::spawn_blocking(move || copy(&from, &to));
    let mut copied = std::pin::pin!(copying);
    loop {
        tokio::select! {
            biased;
            done = &mut copied => break done.unwrap(),
            answer = asks.next() => drop(answer.expect("eight run").ok()),
        }
        asks.push(ask());
    }
    while let Some(answer) = asks.next().await {
        answer.ok();
    }

    let copy = other.start().await;
    let verified = copy.admin("/ledger/verify").await;
    assert_eq!(verified["clean"], true, "{verified:#}");
    let entries = copy.ledger().entries().await;
    for id in &promised {
        assert!(entries.iter().any(|entry| entry.id() == *id), "{id} was acknowledged");
    }
    let spent: u128 = entries.iter().map(|entry| entry.cost().expect("a cost")).sum();
    assert_eq!(copy.budget(&key).await.spent(), spent, "what its entries sum to");
    assert!(copy.reservations().await.is_empty(), "what ran then is booked");
    copy.ask("Do you know me?").by(&key).send().await.ok();
    assert_eq!(copy.ask("And me?").by(&revoked).send().await.status, 401);
    let keys = rows(&copy.admin("/keys").await);
    assert!(keys.iter().any(|seen| seen["id"] == key.id.as_str() && seen["label"] == "kept"));
}
