//! The fault matrix: everything a provider can do wrong, in every family's own format, streamed or
//! not, with a client of each format that stays or leaves. The right status and body, the right
//! fallback, exactly one entry, books that balance, nothing left open.
//!
//! One gateway serves every cell of a family and a client: `first` does what the cell says, `second` stands by.
//! Timings decide nothing: only a cell that stalls for ever is asked of a route that soon gives up.

mod client;
mod faults;

use crate::harness::{Answer, EntrySeen, Gate, eventually};
use client::{Client, Refused};
use e2e::standin::{Fault, Hold, Reported, Script, StandIn};
use faults::{Comes, FALLS, Fall, Stalls, said};

/// A family of providers: a format, or OpenAI's with a table that differs.
#[derive(Clone, Copy)]
struct Family {
    kind: &'static str,
    /// How it reports the usage of a stream where nothing is wrong.
    reports: Reported,
}

impl Family {
    /// What its provider does.
    fn does(self, fall: &Fall) -> Script {
        let mut script = (fall.script)();
        if script.reported == Reported::Asked {
            script.reported = self.reports;
        }
        script
    }
}

/// Which route meets the fault: one that waits, or one that gives up where the cell stalls. Nobody
/// listens on `closed`, and behind `alone` nobody stands by.
const POLICY: &str = r#"
description = "the matrix"
[[choose]]
name = "gives up on the first token"
when.tags.has_any = ["first-token"]
routes = ["first-token", "second"]
[[choose]]
name = "gives up in the middle"
when.tags.has_any = ["idle"]
routes = ["idle", "second"]
[[choose]]
name = "gives up on the whole"
when.tags.has_any = ["total"]
routes = ["total", "second"]
[[choose]]
name = "refused"
when.tags.has_any = ["refused"]
routes = ["closed", "second"]
[[choose]]
name = "alone"
when.tags.has_any = ["alone"]
routes = ["first"]
[[choose]]
name = "waits"
routes = ["first", "second"]
"#;

fn tag(fall: &Fall, stream: bool) -> &'static str {
    match (fall.stalls, stream) {
        (Stalls::Never, _) => "",
        (_, false) => "total",
        (Stalls::BeforeTheFirstToken, true) => "first-token",
        (Stalls::InTheMiddle, true) => "idle",
    }
}

struct Matrix {
    family: Family,
    client: Client,
    first: StandIn,
    second: StandIn,
    gate: Gate,
    /// Entries there must be.
    entries: usize,
}

async fn matrix(family: Family, client: Client) -> Matrix {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let (kind, base_url) = (family.kind, first.base_url());
    let gate = Gate::builder()
        .cloud_of_kind("first", &base_url, kind, "")
        .cloud_of_kind("first-token", &base_url, kind, "first_token_timeout_ms = 300")
        .cloud_of_kind("idle", &base_url, kind, "idle_timeout_ms = 300")
        .cloud_of_kind("total", &base_url, kind, "total_timeout_ms = 300")
        .cloud_of_kind("closed", "http://127.0.0.1:1/v1", kind, "")
        .cloud_named("second", &second, "")
        .policy_text(POLICY)
        .start()
        .await;
    second.always(Script::says("From the second.").using(10, 4));
    Matrix { family, client, first, second, gate, entries: 0 }
}

impl Matrix {
    async fn ask(&mut self, tag: &str, stream: bool) -> Answer {
        self.entries += 1;
        self.client.ask(&self.gate, stream).header("x-tollgate-tags", tag).send().await
    }

    /// A cell's name.
    fn cell(&self, name: &str, stream: bool) -> String {
        let form = if stream { "streamed" } else { "whole" };
        format!("{} for {:?}, {name}, {form}", self.family.kind, self.client)
    }

    async fn stays(&mut self, fall: &Fall, stream: bool) {
        let (client, what) = (self.client, self.cell(fall.name, stream));
        let script = self.family.does(fall);
        let text = script.pieces.concat();
        self.first.next(script);
        let before = self.second.counts().requests;
        let answer = self.ask(tag(fall, stream), stream).await;
        let comes = if stream { fall.streamed } else { fall.whole };
        assert_eq!(answer.status, 200, "{what}: {}", answer.body_text());
        let entry = self.gate.ledger().entry(answer.id()).await;
        client.reads_in_order(&answer, &what);
        let attempts = entry.attempts();
        let asked = self.second.counts().requests - before;
        match comes {
            Comes::First | Comes::Estimated => {
                assert_eq!((entry.outcome().as_str(), attempts.len()), ("completed", 1), "{what}");
                assert_eq!(asked, 0, "{what}: nobody else is asked");
                assert!(client.text(&answer) == text, "{what}: every character comes");
                assert!(!stream || client.ended(&answer), "{what}: {}", answer.body_text());
                let source = attempts[0].text("usage_source");
                if comes == Comes::Estimated {
                    assert_eq!(source, "estimated", "{what}");
                    assert!(attempts[0].cost().unwrap() > 0, "{what}: unknown is not free");
                } else {
                    assert_eq!(source, "reported", "{what}");
                    // 10 tokens at 1 and 3 at 2 USD a million, once.
                    assert_eq!(attempts[0].cost(), Some(16_000_000), "{what}: {:#}", entry.0);
                    assert_eq!(client.told(&answer), (10.into(), 3.into()), "{what}");
                }
            }
            Comes::SecondFree | Comes::SecondPaid => {
                assert_eq!(client.text(&answer), "From the second.", "{what}");
                assert_eq!((entry.outcome().as_str(), attempts.len()), ("completed", 2), "{what}");
                assert_eq!(asked, 1, "{what}: exactly one fallback");
                let free = attempts[0].cost() == Some(0);
                assert_eq!(free, comes == Comes::SecondFree, "{what}: {:#}", entry.0);
                assert!(!stream || client.ended(&answer), "{what}: {}", answer.body_text());
            }
            Comes::Breaks => {
                assert!(stream, "{what}: a whole answer has no middle");
                client.hears_the_break(&answer, &what);
                assert_eq!((entry.outcome().as_str(), attempts.len()), ("broken", 1), "{what}");
                assert_eq!(asked, 0, "{what}: never begun again");
                assert!(attempts[0].cost().unwrap() > 0, "{what}: what was seen is charged");
            }
        }
    }

    /// Nobody listens: nothing is sent and nothing owed.
    async fn is_refused(&mut self, stream: bool) {
        let answer = self.ask("refused", stream).await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second");
        let entry = self.gate.ledger().entry(answer.id()).await;
        let attempts = entry.attempts();
        assert_eq!((attempts[0].outcome().as_str(), attempts[0].cost()), ("not_sent", Some(0)));
    }

    /// Where nobody stands by, the caller is told how long the provider asks to wait, wherever the
    /// provider says it.
    async fn is_told_to_wait(&mut self, stream: bool) {
        self.first.next(said().with(Fault::RateLimited));
        let answer = self.ask("alone", stream).await;
        let what = self.cell("429 alone", stream);
        let kind = Refused {
            openai: ("rate_limit_error", "rate_limit_exceeded"),
            anthropic: "rate_limit_error",
        };
        self.client.is_refused(&answer, 429, kind, &what);
        assert_eq!(answer.header("retry-after"), "7", "{what}");
    }

    /// Where nobody stands by, a provider's fault is told as one, in the client's own format.
    async fn is_told_of_a_fault(&mut self, stream: bool) {
        for fault in [Fault::Status500, Fault::Html, Fault::ResetBeforeHead] {
            self.first.next(said().with(fault));
            let answer = self.ask("alone", stream).await;
            let what = self.cell(fault.name(), stream);
            let kind = Refused {
                openai: ("server_error", "upstream_failed"),
                anthropic: "overloaded_error",
            };
            self.client.is_refused(&answer, 503, kind, &what);
        }
    }

    async fn leaves(&mut self, fall: &Fall, stream: bool) {
        let seen = self.first.counts().requests;
        self.first.next(self.family.does(fall));
        let ask = self.client.ask(&self.gate, stream);
        let ask = ask.header("x-tollgate-tags", tag(fall, stream));
        let first = &self.first;
        ask.leave_after(async {
            first.until(|counts| counts.requests > seen).await.expect("it was asked");
        })
        .await;
        self.entries += 1;
    }

    /// The provider speaks, and hears that nobody listens any more.
    async fn leaves_in_the_middle(&mut self) {
        let hold = Hold::after_pieces(1);
        let left = self.first.counts().left;
        self.first.next(said().held(&hold));
        let mut open = self.client.ask(&self.gate, true).open().await;
        let id = open.headers["x-request-id"].to_str().unwrap().to_owned();
        open.read_until(|so_far| so_far.contains("\"one \"")).await;
        open.leave();
        self.entries += 1;
        self.first.until(|counts| counts.left > left).await.expect("it is cancelled");
        let entry = self.gate.ledger().entry(&id).await;
        assert_eq!(entry.outcome(), "client_gone", "{}", self.family.kind);
        assert!(entry.only_attempt().cost().unwrap() > 0, "what was seen is charged");
    }

    /// What must be true after any number of cells.
    async fn balances(mut self) {
        let entries = self.gate.ledger().until_entries(self.entries).await;
        self.gate.until_nothing_is_reserved().await;
        for entry in &entries {
            let entry: EntrySeen = self.gate.ledger().entry(&entry.id()).await;
            for attempt in entry.attempts() {
                assert!(
                    attempt.cost().is_some_and(|cost| cost <= attempt.reserved()),
                    "{entry:#?}"
                );
            }
        }
        eventually("every place to be given back", || async {
            let ready = self.gate.get("/ready").await.json();
            let idle = |route: &serde_json::Value| route["in_flight"] == 0 && route["queued"] == 0;
            ready["routes"].as_array().unwrap().iter().all(idle).then_some(())
        })
        .await;
        self.gate.stop().await;
        let verified = self.gate.ledger_verify().await;
        assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
    }
}

async fn a_client_that_stays_is_served_or_told(family: Family, client: Client) {
    let mut matrix = matrix(family, client).await;
    for stream in [true, false] {
        for fall in FALLS {
            matrix.stays(fall, stream).await;
        }
        matrix.is_refused(stream).await;
        matrix.is_told_to_wait(stream).await;
        matrix.is_told_of_a_fault(stream).await;
    }
    matrix.balances().await;
}

async fn a_client_that_leaves_leaves_nothing_open(family: Family, client: Client) {
    let mut matrix = matrix(family, client).await;
    for stream in [true, false] {
        for fall in FALLS {
            matrix.leaves(fall, stream).await;
        }
    }
    matrix.leaves_in_the_middle().await;
    matrix.balances().await;
}

macro_rules! rows {
    ($($name:ident: $family:ident for $client:ident,)*) => {$(
        mod $name {
            use super::{$family, Client};

            #[tokio::test]
            async fn whatever_it_does_a_client_that_stays_is_served_or_told() {
                super::a_client_that_stays_is_served_or_told($family, Client::$client).await;
            }

            #[tokio::test]
            async fn whatever_it_does_a_client_that_leaves_leaves_nothing_open() {
                super::a_client_that_leaves_leaves_nothing_open($family, Client::$client).await;
            }
        }
    )*};
}

const fn family(kind: &'static str) -> Family {
    Family { kind, reports: Reported::Asked }
}

const OPENAI: Family = family("openai");
const AZURE: Family = family("azure");
/// It is not asked for usage and always tells it, with the finish reason.
const MISTRAL: Family = Family { kind: "mistral", reports: Reported::InLastDelta };
const GROQ: Family = family("groq");
const XAI: Family = family("xai");
const COMPATIBLE: Family = family("openai-compatible");
const ANTHROPIC: Family = family("anthropic");
const GEMINI: Family = family("gemini");

// The other clients meet each format once: what differs among those that speak OpenAI's is met before
// an answer is written.
rows! {
    openai: OPENAI for Chat,
    azure: AZURE for Chat,
    mistral: MISTRAL for Chat,
    groq: GROQ for Chat,
    xai: XAI for Chat,
    compatible: COMPATIBLE for Chat,
    anthropic: ANTHROPIC for Chat,
    gemini: GEMINI for Chat,
    openai_for_messages: OPENAI for Messages,
    mistral_for_messages: MISTRAL for Messages,
    anthropic_for_messages: ANTHROPIC for Messages,
    gemini_for_messages: GEMINI for Messages,
    openai_for_responses: OPENAI for Responses,
    mistral_for_responses: MISTRAL for Responses,
    anthropic_for_responses: ANTHROPIC for Responses,
    gemini_for_responses: GEMINI for Responses,
}
