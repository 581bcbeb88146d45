//! When a route is late with its first token another one starts beside it: who speaks first answers,
//! the other is cancelled and booked, and the extra calls stay within their share.

use crate::harness::{EntrySeen, Gate, eventually};
use e2e::standin::{Cut, Fault, Hold, Point, Script, StandIn};

const POLICY: &str = "description = \"hedged\"\n[[choose]]\nname = \"hedged\"\n\
                      hedge = [\"first\", \"second\"]\n";
const REQUESTS: usize = 200;
/// 2 % of the requests stall.
const STALL_EVERY: usize = 50;
/// Attempts that teach the route its usual time to the first token.
const LEARNING: usize = 16;

struct Case {
    first: StandIn,
    second: StandIn,
    gate: Gate,
}

async fn hedged(first_token_timeout_ms: u32) -> Case {
    hedged_with(first_token_timeout_ms, "", "", "").await
}

async fn hedged_with(
    first_token_timeout_ms: u32,
    limit: &str,
    hedge: &str,
    of_second: &str,
) -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let timeout = format!("first_token_timeout_ms = {first_token_timeout_ms}");
    let gate = Gate::builder()
        .cloud_named("first", &first, &timeout)
        .cloud_named("second", &second, of_second)
        .policy_text(POLICY)
        // A late answer is told from a busy machine by a wide margin.
        .section(&format!("[hedge]\ndelay_min_ms = 400\n{hedge}"))
        .limit(limit)
        .start()
        .await;
    for _ in 0..LEARNING {
        gate.ask("Learn.").streamed().send().await.ok();
    }
    Case { first, second, gate }
}

fn stalls() -> Script {
    Script::default().cut(Cut::Hang(Point::Piece(0)))
}

fn is_hedged(entry: &EntrySeen) -> bool {
    entry.attempts().iter().any(|attempt| attempt.text("role") == "hedge")
}

#[tokio::test]
async fn the_second_route_answers_where_the_first_stalls_and_within_its_share() {
    let Case { first, second, gate } = hedged(20_000).await;
    second.always(Script::says("From the second.").using(10, 3));
    for number in 1..=REQUESTS {
        let stalled = number % STALL_EVERY == 0;
        if stalled {
            first.next(stalls());
        }
        let answer = gate.ask("Quick!").streamed().send().await.ok();
        if !stalled {
            continue;
        }
        assert_eq!(answer.text(), "From the second.");
        assert_eq!(answer.header("x-tollgate-route"), "second");
        let entry = gate.ledger().entry(answer.id()).await;
        assert_eq!((entry.outcome().as_str(), &entry.0["answered_by"]), ("completed", &1.into()));
        let attempts = entry.attempts();
        let (lost, won) = (&attempts[0], &attempts[1]);
        assert_eq!((lost.text("role"), won.text("role")), ("primary".into(), "hedge".into()));
        assert_eq!(
            (&lost.0["hedge_winner"], &won.0["hedge_winner"]),
            (&false.into(), &true.into())
        );
        assert_eq!(lost.outcome(), "cancelled");
        assert_eq!(lost.text("usage_source"), "estimated", "the provider may bill it");
        assert!(lost.cost().unwrap() > 0 && lost.cost().unwrap() <= lost.reserved());
        assert_eq!(won.cost(), Some(10 * 1_000_000 + 3 * 2_000_000));
    }
    let stalled = REQUESTS / STALL_EVERY;
    first.until(|counts| counts.left >= stalled as u64).await.expect("the losers are cancelled");
    let entries = gate.ledger().entries().await;
    assert_eq!(entries.len(), LEARNING + REQUESTS, "one entry each");
    let extra = usize::try_from(second.counts().requests).unwrap();
    assert!(extra >= stalled, "{extra} extra calls for {stalled} stalls");
    assert!(extra <= (LEARNING + REQUESTS) * 50 / 1000 + 1, "{extra} extra calls");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn the_share_of_extra_calls_holds_when_everything_stalls() {
    let Case { first, second, gate } = hedged(900).await;
    first.always(stalls());
    let asked: Vec<_> = (0..12).map(|_| gate.ask("Anyone?").streamed().send()).collect();
    let mut hedged = 0;
    for answer in futures::future::join_all(asked).await {
        let answer = answer.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second");
        let entry = gate.ledger().entry(answer.id()).await;
        hedged += usize::from(is_hedged(&entry));
        if !is_hedged(&entry) {
            assert_eq!(entry.attempts()[1].text("role"), "fallback", "it waited its turn");
        }
    }
    assert_eq!(second.counts().requests, 12);
    assert!((1..=(LEARNING + 12) * 50 / 1000 + 1).contains(&hedged), "{hedged} were hedged");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn an_unstreamed_request_is_not_hedged() {
    let Case { first, second, gate } = hedged(20_000).await;
    let slow = std::time::Duration::from_millis(600);
    first.next(Script { before_head: slow, ..Script::default() });
    let answer = gate.ask("Slowly.").send().await.ok();
    assert_eq!(answer.header("x-tollgate-route"), "first");
    assert_eq!(second.counts().requests, 0);
}

#[tokio::test]
async fn a_gateway_that_is_loaded_hedges_nothing() {
    // Four places, half of them taken: this request's own and one more.
    let Case { first, second, gate } =
        hedged_with(900, "in_flight_max = 4", "loaded_permille = 500", "").await;
    let busy = Hold::after_pieces(1);
    first.next(Script::says("one two").held(&busy));
    let mut open = gate.ask("Take a place.").streamed().open().await;
    open.read_pieces(1).await;

    let ask = || async {
        first.next(stalls());
        let answer = gate.ask("Quick!").streamed().send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second");
        gate.ledger().entry(answer.id()).await
    };
    let entry = ask().await;
    assert!(!is_hedged(&entry), "it waited for the first to fail: {:#}", entry.0);
    assert_eq!(entry.attempts()[0].outcome(), "first_token_timeout");

    busy.let_go();
    open.rest().await.ok();
    // Its place comes back when its entry is written.
    gate.ledger().until_entries(LEARNING + 2).await;
    gate.until_nothing_is_reserved().await;
    assert!(is_hedged(&ask().await), "and hedges again when it is not");
    assert_eq!(second.counts().requests, 2);
}

#[tokio::test]
async fn a_hedge_that_only_the_first_attempt_leaves_no_money_for_keeps_its_turn() {
    let Case { first, second, gate } = hedged(20_000).await;
    let asked = gate.ask("Quick!").streamed().send().await.ok();
    let each = gate.ledger().entry(asked.id()).await.only_attempt().reserved();
    let enough_for_one = policies::PicoUsdTotal::from_pico(each * 6 / 5).to_string();
    let key = gate.new_key().with_budget_usd(&enough_for_one).create().await;
    second.always(Script::says("From the second.").using(1, 1));
    let late = std::time::Duration::from_millis(900);
    let fails = || Script { before_head: late, ..Script::default().with(Fault::Status503) };

    first.next(fails());
    let by_budget = gate.ask("Quick!").streamed().by(&key).send().await.ok();
    assert_eq!(by_budget.text(), "From the second.");
    first.next(fails());
    let asked = gate.ask("Quick!").streamed().header("x-tollgate-max-cost-usd", &enough_for_one);
    let by_limit = asked.send().await.ok();
    assert_eq!(by_limit.text(), "From the second.");
    for answer in [by_budget, by_limit] {
        let attempts = gate.ledger().entry(answer.id()).await.attempts();
        let roles: Vec<_> = attempts.iter().map(|attempt| attempt.text("role")).collect();
        assert_eq!(roles, ["primary", "fallback"]);
    }
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_hedge_without_money_and_the_turn_that_it_keeps_are_worth_one_share_of_a_retry() {
    let retries = "retry = { max = 1, backoff_ms = 1, extra_permille = 500 }";
    let Case { first, second, gate } = hedged_with(20_000, "", "", retries).await;
    let fails = || Script::default().with(Fault::Status503);
    // Requests that fail on the second route until one is not repeated.
    let repeated = || async {
        second.always(fails());
        let mut repeated = 0;
        loop {
            let before = second.counts().requests;
            assert_eq!(gate.ask("Anyone?").from("second").send().await.status, 503);
            match second.counts().requests - before {
                1 => break repeated,
                asked => repeated += asked - 1,
            }
        }
    };
    // What was saved up at the start is used up, but for half a retry.
    assert_eq!(repeated().await, 19);
    second.always(Script::says("From the second.").using(1, 1));

    let asked = gate.ask("Quick!").streamed().send().await.ok();
    let each = gate.ledger().entry(asked.id()).await.only_attempt().reserved();
    let enough_for_one = policies::PicoUsdTotal::from_pico(each * 6 / 5).to_string();
    let late = std::time::Duration::from_millis(900);
    first.next(Script { before_head: late, ..fails() });
    let asked = gate.ask("Quick!").streamed().header("x-tollgate-max-cost-usd", &enough_for_one);
    let answer = asked.send().await.ok();
    assert_eq!(answer.text(), "From the second.");
    assert_eq!(gate.ledger().entry(answer.id()).await.attempts()[1].text("role"), "fallback");

    // That request made it a whole one, and the next two another one.
    assert_eq!(repeated().await, 2);
}

#[tokio::test]
async fn what_the_loser_held_is_free_while_the_winner_speaks() {
    let Case { first, second, gate } = hedged(20_000).await;
    let speaks = Hold::after_pieces(1);
    first.next(stalls());
    second.next(Script::says("one two").held(&speaks));
    let mut open = gate.ask("Quick!").streamed().open().await;
    open.read_pieces(1).await;
    eventually("the loser's money to be free", || async {
        let held = gate.reservations().await;
        (held.len() == 1 && held[0]["attempt"] == 1).then_some(())
    })
    .await;
    speaks.let_go();
    open.rest().await.ok();
}
