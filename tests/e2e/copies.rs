//! `tollgate ledger backup` copies the ledger while the gateway serves: the copy starts, knows everything
//! that was acknowledged before it was taken, and adds up.

use crate::harness::{Child, Gate, rows};
use e2e::standin::{Script, StandIn};
use futures::{StreamExt as _, stream::FuturesUnordered};
use std::path::Path;

/// `tollgate ledger backup`, beside the server that holds the directory.
async fn backup(from: &Path, to: &Path) {
    let directory = from.parent().expect("a directory");
    let (from, to) = (from.display().to_string(), to.display().to_string());
    let ran =
        Child::run(directory, &["ledger", "backup", &to, "--data-dir", &from, "--json"]).await;
    assert_eq!(ran.code, 0, "{} {}", ran.stdout, ran.stderr);
    let said: serde_json::Value = serde_json::from_str(&ran.stdout).expect("JSON");
    assert_eq!(said["check"]["clean"], true, "{said:#}");
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
    let mut copied = std::pin::pin!(async {
        // The second one brings the first up to date.
        backup(&from, &to).await;
        backup(&from, &to).await;
    });
    loop {
        tokio::select! {
            biased;
            () = &mut copied => break,
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
