//! The command line says what the admin API says, with a server and without one.

use crate::harness::{Child, Gate, rows};
use e2e::standin::StandIn;
use serde_json::Value;
use std::path::PathBuf;

async fn a_cloud() -> (StandIn, Gate, PathBuf) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let directory = gate.builder_ref().config_file().parent().unwrap().to_owned();
    (cloud, gate, directory)
}

/// Runs a command that must succeed, and reads its JSON.
async fn json(directory: &std::path::Path, args: &[&str]) -> Value {
    let ran = Child::run(directory, &[args, &["--json"]].concat()).await;
    assert_eq!(ran.code, 0, "{args:?}: {}", ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{error}: {}", ran.stdout))
}

#[tokio::test]
async fn the_ledger_reads_alike_with_a_server_and_without() {
    let (_cloud, mut gate, directory) = a_cloud().await;
    let id = gate.ask("Write me down.").send().await.ok().id().to_owned();
    let running = json(&directory, &["ledger", "query"]).await;
    assert_eq!(rows(&running)[0]["id"], Value::from(id.as_str()));
    let shown = json(&directory, &["ledger", "show", &id]).await;
    assert_eq!(shown, gate.ledger().entry(&id).await.0);
    let sums = json(&directory, &["ledger", "summary"]).await;

    gate.stop().await;
    assert_eq!(json(&directory, &["ledger", "query"]).await, running);
    assert_eq!(json(&directory, &["ledger", "show", &id]).await, shown);
    assert_eq!(json(&directory, &["ledger", "summary"]).await["data"], sums["data"]);
    assert_eq!(json(&directory, &["ledger", "verify"]).await["clean"], true);
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
    let missing = ["ledger", "show", "req_0193aaaaaaaa7aaa8aaaaaaaaaaaaaaa"];
    assert_eq!(Child::run(&directory, &missing).await.code, 3);
    assert_eq!(Child::run(&directory, &["no-such-command"]).await.code, 2);
}

#[tokio::test]
async fn a_key_made_there_works_at_once_and_until_it_is_revoked() {
    let (_cloud, gate, directory) = a_cloud().await;
    let created =
        json(&directory, &["key", "create", "--label", "by hand", "--budget", "day=5.00"]).await;
    let text = |field: &str| created[field].as_str().unwrap().to_owned();
    let key = crate::harness::Key { id: text("id"), secret: text("secret") };
    gate.ask("Hello.").by(&key).send().await.ok();
    assert!(gate.budget(&key).await.spent() > 0);
    json(&directory, &["key", "revoke", &key.id]).await;
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
