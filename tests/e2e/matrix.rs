//! The fault matrix: everything a provider can do wrong, streamed or not, with a client that stays or
//! leaves. The right status and body, the right fallback, exactly one entry, books that balance,
//! nothing left open.
//!
//! One gateway serves every cell: `first` does what the cell says, `second` stands by.

use crate::harness::{EntrySeen, Gate};
use e2e::standin::{Cut, Fault, Point, Script, StandIn};
use std::time::Duration;

/// What a client sees that stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Comes {
    /// The first route's answer.
    First,
    /// The second route's, after one failed attempt that owes nothing.
    SecondFree,
    /// The second route's, after one failed attempt that may be billed.
    SecondPaid,
    /// A stream that breaks after its first byte, and says so.
    Breaks,
}

struct Fall {
    name: &'static str,
    script: fn() -> Script,
    streamed: Comes,
    whole: Comes,
}

const SAID: &str = "one two three";

fn said() -> Script {
    Script::says(SAID).using(10, 3)
}

/// The faults, and what must come of each.
const FALLS: &[Fall] = {
    use Comes::{Breaks, First, SecondFree, SecondPaid};
    &[
        Fall {
            name: "429",
            script: || said().with(Fault::RateLimited),
            streamed: SecondFree,
            whole: SecondFree,
        },
        Fall {
            name: "500",
            script: || said().with(Fault::Status500),
            streamed: SecondFree,
            whole: SecondFree,
        },
        Fall {
            name: "503 with retry-after",
            script: || said().with(Fault::Status503).header("retry-after", "3"),
            streamed: SecondFree,
            whole: SecondFree,
        },
        Fall {
            name: "reset before",
            script: || said().cut(Cut::Reset(Point::Head)),
            streamed: SecondPaid,
            whole: SecondPaid,
        },
        Fall {
            name: "reset in the first chunk",
            script: || said().cut(Cut::Reset(Point::Piece(0))),
            streamed: SecondPaid,
            whole: SecondPaid,
        },
        Fall {
            name: "reset after the first chunk",
            script: || said().cut(Cut::Reset(Point::Piece(1))),
            streamed: Breaks,
            whole: SecondPaid,
        },
        Fall {
            name: "closed in the middle",
            script: || said().cut(Cut::Close(Point::Piece(2))),
            streamed: Breaks,
            whole: SecondPaid,
        },
        Fall {
            name: "stall before the head",
            script: || said().cut(Cut::Hang(Point::Head)),
            streamed: SecondPaid,
            whole: SecondPaid,
        },
        Fall {
            name: "stall after the head",
            script: || said().cut(Cut::Hang(Point::Piece(0))),
            streamed: SecondPaid,
            whole: SecondPaid,
        },
        Fall {
            name: "stall in the middle",
            script: || said().cut(Cut::Hang(Point::Piece(2))),
            streamed: Breaks,
            whole: SecondPaid,
        },
        Fall { name: "slow drip", script: drip, streamed: First, whole: First },
        Fall {
            name: "garbage",
            script: || said().with(Fault::WrongJson),
            streamed: SecondPaid,
            whole: SecondPaid,
        },
        Fall {
            name: "a web page",
            script: || said().with(Fault::Html),
            streamed: SecondPaid,
            whole: SecondPaid,
        },
        Fall {
            name: "no usage",
            script: || said().with(Fault::NoUsage),
            streamed: First,
            whole: First,
        },
        Fall {
            name: "usage twice",
            script: || said().with(Fault::UsageTwice),
            streamed: First,
            whole: First,
        },
        Fall { name: "half UTF-8", script: halves, streamed: First, whole: First },
        Fall {
            name: "wrong content type",
            script: || said().with(Fault::WrongContentType),
            streamed: SecondPaid,
            whole: First,
        },
        Fall {
            name: "huge chunk",
            script: || said().with(Fault::HugeChunk),
            streamed: SecondPaid,
            whole: First,
        },
    ]
};

fn drip() -> Script {
    Script { segment_bytes: Some(64), between_segments: Duration::from_millis(1), ..said() }
}

/// Every byte on its own, so that characters come in halves.
fn halves() -> Script {
    Script::says("één twée ☂").using(10, 3).with(Fault::Split)
}

/// Nobody listens on `closed`; requests tagged `refused` meet it first.
const POLICY: &str = r#"
description = "the matrix"
[[choose]]
name = "refused"
when.tags.has_any = ["refused"]
routes = ["closed", "second"]
[[choose]]
name = "first"
routes = ["first", "second"]
"#;

struct Matrix {
    first: StandIn,
    second: StandIn,
    gate: Gate,
    /// Entries there must be.
    entries: usize,
}

async fn matrix() -> Matrix {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let impatient = "first_token_timeout_ms = 500\nidle_timeout_ms = 500\ntotal_timeout_ms = 900";
    let gate = Gate::builder()
        .cloud_named("first", &first, impatient)
        .cloud_named("second", &second, "")
        .cloud_at("closed", "http://127.0.0.1:1/v1", "")
        .policy_text(POLICY)
        .start()
        .await;
    second.always(Script::says("From the second.").using(10, 4));
    Matrix { first, second, gate, entries: 0 }
}

impl Matrix {
    async fn stays(&mut self, fall: &Fall, stream: bool) {
        let what = format!("{}, {}", fall.name, if stream { "streamed" } else { "whole" });
        self.first.next((fall.script)());
        let before = self.second.counts().requests;
        let ask = self.gate.ask("Say it.");
        let answer = if stream { ask.streamed_with_usage() } else { ask }.send().await;
        self.entries += 1;
        let comes = if stream { fall.streamed } else { fall.whole };
        assert_eq!(answer.status, 200, "{what}: {}", answer.body_text());
        let entry = self.gate.ledger().entry(answer.id()).await;
        entry.adds_up();
        let attempts = entry.attempts();
        let asked = self.second.counts().requests - before;
        match comes {
            Comes::First => {
                assert_eq!((entry.outcome().as_str(), attempts.len()), ("completed", 1), "{what}");
                assert_eq!(asked, 0, "{what}: nobody else is asked");
                assert!(!stream || answer.done(), "{what}");
                assert!(attempts[0].cost().unwrap() > 0, "{what}");
            }
            Comes::SecondFree | Comes::SecondPaid => {
                assert_eq!(answer.text(), "From the second.", "{what}");
                assert_eq!((entry.outcome().as_str(), attempts.len()), ("completed", 2), "{what}");
                assert_eq!(asked, 1, "{what}: exactly one fallback");
                let free = attempts[0].cost() == Some(0);
                assert_eq!(free, comes == Comes::SecondFree, "{what}: {:#}", entry.0);
                assert!(!stream || answer.done(), "{what}");
            }
            Comes::Breaks => {
                assert!(stream && !answer.done(), "{what}: no [DONE]");
                let last: serde_json::Value =
                    serde_json::from_str(answer.events().last().expect("an event")).unwrap();
                assert!(last["error"]["message"].is_string(), "{what}: it says so: {last}");
                assert_eq!((entry.outcome().as_str(), attempts.len()), ("broken", 1), "{what}");
                assert_eq!(asked, 0, "{what}: never begun again");
                assert!(attempts[0].cost().unwrap() > 0, "{what}: what was seen is charged");
            }
        }
    }

    async fn leaves(&mut self, fall: &Fall, stream: bool) {
        let seen = self.first.counts().requests;
        self.first.next((fall.script)());
        let ask = self.gate.ask("Say it.");
        let ask = if stream { ask.streamed() } else { ask };
        let first = &self.first;
        ask.leave_after(async {
            first.until(|counts| counts.requests > seen).await.expect("it was asked");
        })
        .await;
        self.entries += 1;
    }

    /// What must be true after any number of cells.
    async fn balances(&self) {
        let entries = self.gate.ledger().until_entries(self.entries).await;
        self.gate.until_nothing_is_reserved().await;
        for entry in &entries {
            let entry: EntrySeen = self.gate.ledger().entry(&entry.id()).await;
            entry.adds_up();
            for attempt in entry.attempts() {
                assert!(
                    attempt.cost().is_some_and(|cost| cost <= attempt.reserved()),
                    "{entry:#?}"
                );
            }
        }
        let ready = self.gate.get("/ready").await.json();
        for route in ready["routes"].as_array().unwrap() {
            assert_eq!((&route["in_flight"], &route["queued"]), (&0.into(), &0.into()), "{ready}");
        }
    }
}

#[tokio::test]
async fn whatever_a_provider_does_a_client_that_stays_is_served_or_told() {
    let mut matrix = matrix().await;
    for fall in FALLS {
        for stream in [true, false] {
            matrix.stays(fall, stream).await;
        }
    }
    for stream in [true, false] {
        let ask = matrix.gate.ask("Say it.").header("x-tollgate-tags", "refused");
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        assert_eq!(answer.header("x-tollgate-route"), "second");
        let entry = matrix.gate.ledger().entry(answer.id()).await;
        let attempts = entry.attempts();
        assert_eq!((attempts[0].outcome().as_str(), attempts[0].cost()), ("not_sent", Some(0)));
        matrix.entries += 1;
    }
    matrix.balances().await;
    matrix.gate.stop().await;
    let verified = matrix.gate.ledger_verify().await;
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}

#[tokio::test]
async fn whatever_a_provider_does_a_client_that_leaves_leaves_nothing_open() {
    let mut matrix = matrix().await;
    for fall in FALLS {
        for stream in [true, false] {
            matrix.leaves(fall, stream).await;
        }
    }
    matrix.balances().await;
    matrix.gate.stop().await;
    let verified = matrix.gate.ledger_verify().await;
    assert_eq!(verified.code, 0, "{}{}", verified.stdout, verified.stderr);
}
