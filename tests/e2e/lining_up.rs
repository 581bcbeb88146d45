//! A request that is short of money only because of what others hold waits for it, and then goes its
//! way as if it had been there: within its attempts and its time, through its whole plan. What an
//! attempt no longer needs is given back at once.

use crate::harness::{Gate, Key, eventually};
use e2e::standin::{Fault, Hold, Script, StandIn};
use std::{future::Future, time::Duration};

const PROMPT: &str = "What do you hold?";
/// Far below what is waited in vain otherwise, far above what a request takes.
const SOON: Duration = Duration::from_secs(10);

struct Case {
    first: StandIn,
    second: StandIn,
    gate: Gate,
    /// What one request of [`PROMPT`] holds while it runs, in pico-USD.
    each: u128,
}

/// Two routes with the same prices, a plan of both and money that is waited for up to 20 s.
async fn two_clouds(on_short: &str, of_second: &str, section: &str) -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let patient = "retry = { max = 1, backoff_ms = 1, retry_after_max_ms = 60000 }";
    let gate = Gate::builder()
        .cloud_named("first", &first, patient)
        .cloud_named("second", &second, of_second)
        .policy_text(&plan(on_short))
        .limit("budget_wait_max_ms = 20000")
        .section(section)
        .start()
        .await;
    let answer = gate.ask(PROMPT).send().await.ok();
    let each = gate.ledger().entry(answer.id()).await.only_attempt().reserved();
    Case { first, second, gate, each }
}

/// A policy whose plan is both routes.
fn plan(on_short: &str) -> String {
    let rule = "name = \"both\"\nroutes = [\"first\", \"second\"]";
    format!("on_short = \"{on_short}\"\n[[choose]]\n{rule}\n")
}

impl Case {
    /// A key with money for one and a half requests at a time.
    async fn key(&self) -> Key {
        let usd = policies::PicoUsdTotal::from_pico(self.each * 3 / 2).to_string();
        self.gate.new_key().with_budget_usd(&usd).create().await
    }

    /// Holds the money of `key` through a request on the first route while `then` runs.
    async fn while_held<T>(&self, key: &Key, hold: &Hold, then: impl Future<Output = T>) -> T {
        self.first.next(Script::says("one two").using(1, 1).held(hold));
        let mut open = self.gate.ask(PROMPT).by(key).streamed().open().await;
        open.read_pieces(1).await;
        let told = then.await;
        hold.let_go();
        open.rest().await.ok();
        told
    }

    async fn until_one_waits(&self, key: &Key) {
        eventually("a request in line", || async {
            (self.gate.budget(key).await.waiting() == 1).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_route_that_fails_after_the_wait_leaves_its_turn_to_the_next() {
    for on_short in ["refuse", "next", "local"] {
        let case = two_clouds(on_short, "", "").await;
        let Case { first, second, gate, .. } = &case;
        let (key, hold) = (case.key().await, Hold::after_pieces(1));
        second.always(Script::says("From the second.").using(1, 1));
        let answer = case.while_held(&key, &hold, async {
            let asked = gate.ask(PROMPT).by(&key).send();
            let release = async {
                case.until_one_waits(&key).await;
                first.always(Script::default().with(Fault::Status503));
                hold.let_go();
            };
            futures::join!(asked, release).0
        });
        let answer = answer.await.ok();
        assert_eq!(answer.text(), "From the second.", "{on_short}");
        let entry = gate.ledger().entry(answer.id()).await;
        let attempts = entry.attempts();
        let tried: Vec<_> = attempts.iter().map(|a| (a.route(), a.text("role"))).collect();
        let expected = [("first", "primary"), ("second", "fallback")];
        assert_eq!(tried, expected.map(|(a, b)| (a.to_owned(), b.to_owned())), "{on_short}");
        gate.until_nothing_is_reserved().await;
    }
}

#[tokio::test]
async fn nobody_waits_for_an_attempt_or_a_moment_that_it_does_not_have() {
    // The second route needs no budget and uses up the only attempt.
    let case = two_clouds("next", "budgeted = false", "[attempts]\nmax = 1").await;
    let (key, hold) = (case.key().await, Hold::after_pieces(1));
    case.second.always(Script::default().with(Fault::Status503));
    let asked = tokio::time::timeout(SOON, case.gate.ask(PROMPT).by(&key).send());
    let answer = case.while_held(&key, &hold, asked).await.expect("an answer without a wait");
    assert_eq!(case.gate.ledger().entry(answer.id()).await.attempts().len(), 1);

    // No attempt begins two seconds after the request came.
    let case = two_clouds("refuse", "", "[attempts]\ntime_max_ms = 2000").await;
    let (key, hold) = (case.key().await, Hold::after_pieces(1));
    let asked = tokio::time::timeout(SOON, case.gate.ask(PROMPT).by(&key).send());
    let answer = case.while_held(&key, &hold, asked).await.expect("an answer after a short wait");
    assert_eq!((answer.status, answer.error().code.as_deref()), (429, Some("insufficient_quota")));
}

#[tokio::test]
async fn a_request_that_a_provider_found_wrong_waits_for_no_money_and_is_not_sent_again() {
    // The first lacks money that is held; the second needs none.
    let case = two_clouds("next", "budgeted = false", "").await;
    let (key, hold) = (case.key().await, Hold::after_pieces(1));
    case.second.always(Script::default().with(Fault::Status400));
    let asked = tokio::time::timeout(SOON, case.gate.ask(PROMPT).by(&key).send());
    let answer = case.while_held(&key, &hold, asked).await.expect("an answer without a wait");
    assert_eq!((answer.status, answer.error().code.as_deref()), (400, Some("bad_thing")));
    assert_eq!(case.second.counts().requests, 1);
}

#[tokio::test]
async fn who_may_only_go_home_sleeps_for_no_cloud() {
    // The first may be asked again in 30 s; the second costs more than there is.
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let dear = format!(
        "[routes.second]\nkind = \"openai\"\nprovider = \"standin\"\nbase_url = \"{}\"\n\
         model = \"dear\"\napi_key = \"sk\"\n[routes.second.price]\ninput = \"1\"\noutput = \"200\"\n",
        second.base_url()
    );
    let gate = Gate::builder()
        .cloud_named("first", &first, "retry = { max = 1, retry_after_max_ms = 60000 }")
        .routes(&dear)
        .policy_text(&plan("local"))
        .start()
        .await;
    let answer = gate.ask(PROMPT).send().await.ok();
    let each = gate.ledger().entry(answer.id()).await.only_attempt().reserved();
    let usd = policies::PicoUsdTotal::from_pico(each * 2).to_string();
    let key = gate.new_key().with_budget_usd(&usd).create().await;
    first.always(Script::default().with(Fault::Status503).header("retry-after", "30"));
    let asked = tokio::time::timeout(SOON, gate.ask(PROMPT).by(&key).send());
    assert_eq!(asked.await.expect("an answer at once").status, 429);
    assert_eq!((first.counts().requests, second.counts().requests), (2, 0));
}

#[tokio::test]
async fn what_a_failed_attempt_held_is_free_while_its_retry_is_waited_for() {
    let case = two_clouds("refuse", "", "").await;
    let Case { first, second, gate, .. } = &case;
    second.always(Script::default().with(Fault::Status503));
    first.next(Script::default().with(Fault::Status503).header("retry-after-ms", "3000"));
    first.next(Script::says("At last."));
    let before = first.counts().requests;
    let free = eventually("the money to be free", || async {
        let failed = second.counts().requests > 0;
        (failed && gate.reservations().await.is_empty()).then(|| first.counts().requests)
    });
    let (answer, asked_when_free) = futures::join!(gate.ask(PROMPT).send(), free);
    assert_eq!(answer.ok().text(), "At last.");
    assert_eq!(asked_when_free, before + 1, "before it is asked again");
}
