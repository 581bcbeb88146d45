//! What waits for the disk, and what does not: seen by stopping the one thread that writes the
//! journal while everything else runs.

use crate::harness::{Frozen, Gate, not_checked};
use e2e::standin::{Cut, Hold, Point, Script, StandIn};
use serde_json::json;
use std::{pin::pin, time::Duration};

/// How long a test looks at something that must not happen. Too short a look can only miss a fault,
/// never invent one.
const LOOK: Duration = Duration::from_millis(300);

async fn a_cloud(durability: &str) -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let durability = format!("durability = \"{durability}\"");
    let gate = Gate::builder().cloud(&cloud).ledger(&durability).start().await;
    (cloud, gate)
}

/// Stops the thread of a gateway's process that writes the journal; `None` where a parent may not trace
/// its child.
fn stopped_disk(pid: u32) -> Option<Frozen> {
    match Frozen::thread(pid, "ledger-commit") {
        Ok(frozen) => Some(frozen),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            not_checked("ptrace", "this system lets no parent trace its child");
            None
        }
        Err(error) => panic!("the committer cannot be stopped: {error}"),
    }
}

#[tokio::test]
async fn in_strict_mode_nothing_is_sent_before_its_reservation_is_on_disk() {
    let (cloud, mut gate) = a_cloud("strict").await;
    let Some(disk) = stopped_disk(gate.child().pid()) else { return };
    let mut answer = pin!(gate.ask("Wait for me.").send());
    assert!(tokio::time::timeout(LOOK, &mut answer).await.is_err());
    assert_eq!(cloud.counts().requests, 0, "paid work waits for its reservation");
    disk.thaw();
    answer.await.ok();
    assert_eq!(cloud.counts().requests, 1);
}

#[tokio::test]
async fn in_strict_mode_no_answer_ends_before_its_entry_is_on_disk() {
    let (cloud, mut gate) = a_cloud("strict").await;
    let hold = Hold::after_pieces(2);
    cloud.next(Script::says("one two three").held(&hold));
    let mut open = gate.ask("Count.").streamed().open().await;
    open.read_pieces(2).await;
    let Some(disk) = stopped_disk(gate.child().pid()) else { return };
    hold.let_go();
    // The text flows on; only the end waits.
    open.read_pieces(3).await;
    let mut rest = pin!(open.rest());
    assert!(tokio::time::timeout(LOOK, &mut rest).await.is_err(), "acknowledged before written");
    disk.thaw();
    let answer = rest.await;
    assert!(answer.whole && answer.done());
    assert_eq!(gate.ledger().entry(answer.id()).await.outcome(), "completed");
}

#[tokio::test]
async fn in_strict_mode_no_whole_answer_is_there_before_its_entry_is_on_disk() {
    let (cloud, mut gate) = a_cloud("strict").await;
    let pid = gate.child().pid();
    let messages = json!([{"role": "user", "content": "Count."}]);
    for (path, body) in [
        ("/v1/chat/completions", json!({"model": "auto", "messages": messages})),
        ("/v1/embeddings", json!({"model": "auto", "input": "Count."})),
    ] {
        let hold = Hold::after_pieces(0);
        cloud.next(Script::says("one two three").held(&hold));
        let ask = gate.ask_at(path, body);
        let before = cloud.counts().requests;
        let mut answer = pin!(ask.send());
        tokio::select! {
            _ = &mut answer => panic!("{path}: it is held"),
            asked = cloud.until(|counts| counts.requests > before) => drop(asked.unwrap()),
        }
        let Some(disk) = stopped_disk(pid) else { return };
        hold.let_go();
        cloud.until(|counts| counts.answered > before).await.unwrap();
        let waited = tokio::time::timeout(LOOK, &mut answer).await;
        assert!(waited.is_err(), "{path}: acknowledged before written");
        disk.thaw();
        let answer = answer.await.ok();
        assert_eq!(gate.ledger().entry(answer.id()).await.outcome(), "completed");
    }
}

#[tokio::test]
async fn in_strict_mode_what_breaks_or_fails_is_told_after_its_entry_is_on_disk() {
    let (cloud, mut gate) = a_cloud("strict").await;
    let pid = gate.child().pid();
    let hold = Hold::after_pieces(2);
    cloud.next(Script::says("one two three").held(&hold).cut(Cut::Reset(Point::Piece(3))));
    let mut open = gate.ask("Count.").streamed().open().await;
    open.read_pieces(2).await;
    let Some(disk) = stopped_disk(pid) else { return };
    hold.let_go();
    let mut rest = pin!(open.rest());
    assert!(tokio::time::timeout(LOOK, &mut rest).await.is_err(), "told before it was written");
    disk.thaw();
    let answer = rest.await;
    assert!(!answer.done());
    assert_eq!(gate.ledger().entry(answer.id()).await.outcome(), "broken");

    let hold = Hold::after_pieces(0);
    cloud.next(Script::error(400, "invalid_request_error", None, "no").held(&hold));
    let before = cloud.counts().requests;
    let mut answer = pin!(gate.ask("Fail.").send());
    tokio::select! {
        _ = &mut answer => panic!("it is held"),
        asked = cloud.until(|counts| counts.requests > before) => drop(asked.unwrap()),
    }
    let Some(disk) = stopped_disk(pid) else { return };
    hold.let_go();
    assert!(tokio::time::timeout(LOOK, &mut answer).await.is_err(), "told before it was written");
    disk.thaw();
    let answer = answer.await;
    assert_eq!(answer.status, 400);
    assert_eq!(gate.ledger().entry(answer.id()).await.outcome(), "rejected");
}

#[tokio::test]
async fn waiting_for_the_disk_is_not_late_with_an_idempotency_key_either() {
    let (cloud, mut gate) = a_cloud("strict").await;
    let pid = gate.child().pid();
    let hold = Hold::after_pieces(0);
    cloud.next(Script::says("one two three").held(&hold));
    let ask = gate.ask("Count.").header("idempotency-key", "order-1");
    let mut answer = pin!(ask.header("x-tollgate-deadline-ms", "2000").send());
    tokio::select! {
        _ = &mut answer => panic!("it is held"),
        asked = cloud.until(|counts| counts.requests > 0) => drop(asked.unwrap()),
    }
    let Some(disk) = stopped_disk(pid) else { return };
    hold.let_go();
    cloud.until(|counts| counts.answered > 0).await.unwrap();
    let beyond = Duration::from_millis(2_500);
    assert!(tokio::time::timeout(beyond, &mut answer).await.is_err(), "told before it was written");
    disk.thaw();
    let answer = answer.await.ok();
    assert_eq!(gate.ledger().entry(answer.id()).await.outcome(), "completed");
}

#[tokio::test]
async fn in_grouped_mode_nothing_waits_for_the_disk() {
    let (_cloud, mut gate) = a_cloud("grouped").await;
    let Some(disk) = stopped_disk(gate.child().pid()) else { return };
    for stream in [true, false] {
        let ask = gate.ask("Do not wait.");
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        assert!(answer.whole);
    }
    disk.thaw();
    assert_eq!(gate.ledger().until_entries(2).await.len(), 2);
}
