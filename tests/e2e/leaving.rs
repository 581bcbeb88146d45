//! A client may leave at every point: no reservation stays open, the ledger has one entry, the
//! provider's work is cancelled, and what was used is charged.

use crate::harness::{EntrySeen, Gate, eventually};
use e2e::standin::{Cut, Fault, Point, Script, StandIn};

const PIECES: usize = 5;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

/// What is true of every request whose client left.
fn is_that_of_a_client_who_left(entry: &EntrySeen) {
    entry.adds_up();
    assert_eq!(entry.outcome(), "client_gone");
    let attempt = entry.only_attempt();
    assert_eq!(attempt.outcome(), "cancelled");
    assert_eq!(attempt.text("usage_source"), "estimated");
    assert!(attempt.cost().unwrap() > 0, "the prompt was sent: {:#}", entry.0);
    assert!(attempt.cost().unwrap() <= attempt.reserved());
}

/// Every prefix of a stream, to the whole text whose end never comes, in either durability.
#[tokio::test]
async fn after_any_number_of_pieces() {
    for durability in ["grouped", "strict"] {
        let cloud = StandIn::start().await.unwrap();
        let mode = format!("durability = \"{durability}\"");
        let gate = Gate::builder().cloud(&cloud).ledger(&mode).start().await;
        let mut costs = Vec::new();
        for pieces in 1..=PIECES {
            let text = "one two three four five";
            cloud.next(Script::says(text).cut(Cut::Hang(Point::Piece(pieces))));
            let mut open = gate.ask("Count.").streamed().open().await;
            open.read_pieces(pieces).await;
            open.leave();
            let left = pieces as u64;
            cloud.until(|counts| counts.left == left).await.expect("the upstream is cancelled");
            let entries = gate.ledger().until_entries(pieces).await;
            let entry = gate.ledger().entry(&entries.last().unwrap().id()).await;
            is_that_of_a_client_who_left(&entry);
            // It was answered until it left: nothing of that is lost, nor called settling.
            assert_eq!(entry.0["status"], 200, "{:#}", entry.0);
            assert_eq!(entry.0["answered_by"], 0);
            assert!(entry.0["ttft_us"].as_u64() > Some(0), "{:#}", entry.0);
            assert_eq!(entry.0["tpot_ns"].is_u64(), pieces > 1, "{:#}", entry.0);
            assert!(entry.0["stages"]["relay_us"].as_u64() > Some(0), "{:#}", entry.0);
            costs.push(entry.cost().unwrap());
            gate.until_nothing_is_reserved().await;
        }
        assert!(costs.is_sorted(), "more seen costs no less: {costs:?}");
        assert_eq!(gate.ledger_verify().await.code, 0);
    }
}

#[tokio::test]
async fn before_the_head() {
    let (cloud, gate) = a_cloud().await;
    for (round, stream) in [(1, true), (2, false)] {
        cloud.next(Script::default().with(Fault::Hang));
        let ask = gate.ask("Are you there?");
        let ask = if stream { ask.streamed() } else { ask };
        let arrived = async {
            cloud.until(|counts| counts.requests == round).await.unwrap();
        };
        ask.leave_before_head(arrived).await;
        cloud.until(|counts| counts.left == round).await.expect("the upstream is cancelled");
        let entries = gate.ledger().until_entries(usize::try_from(round).unwrap()).await;
        let entry = gate.ledger().entry(&entries.last().unwrap().id()).await;
        is_that_of_a_client_who_left(&entry);
        assert!(entry.0["status"].is_null(), "no status was sent");
        gate.until_nothing_is_reserved().await;
    }
}

#[tokio::test]
async fn in_the_middle_of_a_flood() {
    let (cloud, gate) = a_cloud().await;
    let long: Vec<String> = (0..20_000).map(|n| format!("word{n} ")).collect();
    cloud.next(Script::pieces(long));
    let mut open = gate.ask("Tell me everything.").at_most(30_000).streamed().open().await;
    open.read_pieces(3).await;
    open.leave();
    cloud.until(|counts| counts.left == 1).await.expect("the upstream is cancelled");
    let entry = gate.ledger().until_entries(1).await.remove(0);
    is_that_of_a_client_who_left(&gate.ledger().entry(&entry.id()).await);
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn many_at_once() {
    let (cloud, gate) = a_cloud().await;
    cloud.always(Script::default().cut(Cut::Hang(Point::Piece(1))));
    let mut open = Vec::new();
    for _ in 0..16 {
        let mut one = gate.ask("Count.").streamed().open().await;
        one.read_pieces(1).await;
        open.push(one);
    }
    assert_eq!(gate.reservations().await.len(), 16, "each running attempt holds its worst case");
    open.into_iter().for_each(crate::harness::Open::leave);
    cloud.until(|counts| counts.left == 16).await.expect("every upstream is cancelled");
    assert_eq!(gate.ledger().until_entries(16).await.len(), 16);
    gate.until_nothing_is_reserved().await;
}

/// Nothing was sent, so nothing is owed: neither an estimate nor the whole reservation.
#[tokio::test]
async fn while_waiting_for_a_place_in_the_pool() {
    let cloud = StandIn::start().await.unwrap();
    let one_place = "in_flight_max = 1\npool_wait_max_ms = 60000";
    let gate = Gate::builder().cloud_named("cloud", &cloud, one_place).start().await;
    cloud.next(Script::says("one two three").cut(Cut::Hang(Point::Piece(1))));
    let mut first = gate.ask("Take the place.").streamed().open().await;
    first.read_pieces(1).await;

    let both_hold = async {
        eventually("the second request holds its worst case", || async {
            (gate.reservations().await.len() == 2).then_some(())
        })
        .await;
    };
    gate.ask("Wait for the place.").leave_before_head(both_hold).await;

    let entry = gate.ledger().until_entries(1).await.remove(0);
    let entry = gate.ledger().entry(&entry.id()).await;
    entry.adds_up();
    assert_eq!(entry.outcome(), "client_gone");
    assert_eq!(entry.only_attempt().outcome(), "not_sent");
    assert_eq!(entry.cost(), Some(0), "{:#}", entry.0);
    assert_eq!(cloud.counts().requests, 1, "the second request never left");
    first.leave();
    gate.until_nothing_is_reserved().await;
}
