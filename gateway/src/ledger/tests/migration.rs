//! A journal of the first released format stays readable for ever.
//!
//! `v1/journal` was written by the program that had only version 1; `v1/entries.json` is what that
//! program read back from it: a fallback with every fact and price part, a plain request, a
//! refusal, a key, a policy, and a request that ran when the process died.

use super::harness::House;
use crate::{
    ledger::{Books, Entry, Filter, Reader},
    store::codec::{self, Event},
};
use policies::PolicyVersion;
use serde::Serialize;
use serde_json::{Value, json};
use std::{fs, sync::Arc};

const JOURNAL: &[u8] = include_bytes!("v1/journal");
const GOLDEN: &str = include_str!("v1/entries.json");

fn house() -> House {
    let house = House::new();
    fs::create_dir_all(house.journal()).unwrap();
    fs::write(house.journal().join("00000000000000000001.journal"), JOURNAL).unwrap();
    house
}

/// Everything that `old` says stands in `new` too; what came later may stand there besides.
fn holds(new: &Value, old: &Value, at: &str) {
    match (new, old) {
        (Value::Object(new), Value::Object(old)) => {
            for (name, old) in old {
                let new = new.get(name).unwrap_or_else(|| panic!("{at}.{name} is gone"));
                holds(new, old, &format!("{at}.{name}"));
            }
        }
        (Value::Array(new), Value::Array(old)) => {
            assert_eq!(new.len(), old.len(), "{at}");
            for (index, (new, old)) in new.iter().zip(old).enumerate() {
                holds(new, old, &format!("{at}[{index}]"));
            }
        }
        _ => assert_eq!(new, old, "{at}"),
    }
}

fn entries(books: &Books) -> Vec<Entry> {
    books.requests(&Filter::default(), None, 10).unwrap().entries
}

#[test]
fn a_journal_of_version_1_reads_as_it_did_and_goes_on_in_the_new_version() {
    let house = house();
    let golden: Value = serde_json::from_str(GOLDEN).unwrap();
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!(recovered.crashed_requests, 1);
    holds(&json!(entries(&books)), &golden["entries"], "entries");
    holds(&json!(books.keys()), &golden["keys"], "keys");
    let version = PolicyVersion(Arc::from("0123456789abcdef"));
    assert_eq!(json!(books.policy_source(&version).unwrap()), golden["policy"]);
    assert_eq!(json!(books.refusals()), golden["refusals"]);
    // What was spent then is spent now: 1.08, 0.17 and, as reserved, 2 dollars.
    let spent = golden["budgets"][0]["money"]["spent"].as_str().unwrap();
    assert_eq!(books.budgets()[0].money.unwrap().spent.to_string(), spent);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    books.close();
    drop(books);

    // Both versions stand in one journal now, and a second start finds the same.
    let books = house.open();
    holds(&json!(entries(&books)), &golden["entries"], "entries");
    assert!(books.verify().is_clean());
}

#[test]
fn one_that_only_reads_leaves_a_journal_of_version_1_as_it_is() {
    let house = house();
    let read = Reader::open(house.data()).unwrap();
    let page = read.requests(&Filter::default(), None, 10).unwrap();
    assert_eq!(page.entries.len(), 2);
    let path = house.journal().join("00000000000000000001.journal");
    assert_eq!(fs::read(path).unwrap(), JOURNAL);
}

fn bytes(value: &impl Serialize) -> Vec<u8> {
    postcard::to_allocvec(value).unwrap()
}

/// As version 2 wrote it: an attempt ended with how often it was sent again.
fn in_version_2(entry: &Entry) -> Vec<u8> {
    let decision = &entry.decision;
    let mut out = bytes(&(
        (entry.id, entry.arrived_unix_ms, &entry.key, &entry.user, &entry.team, &entry.session),
        (&entry.tags, entry.endpoint, &entry.model_asked, entry.stream),
        (&decision.policy, &decision.version, &decision.rule),
    ));
    out.extend(bytes(&entry.attempts.len()));
    for attempt in &entry.attempts {
        let mut attempt = bytes(attempt);
        assert_eq!(attempt.pop(), Some(0), "nothing was guessed");
        out.extend(attempt);
    }
    out.extend(bytes(&(
        (entry.answered_by, entry.outcome, entry.status, entry.cost),
        (entry.stages, entry.ttft_us, entry.tpot_ns, entry.output_cap_asked),
        (entry.parent, &entry.step, &entry.notes),
    )));
    out.extend(bytes(&(&decision.plan, &decision.left_out, &decision.facts)));
    out
}

#[test]
fn entries_of_version_2_are_read_without_guesses() {
    let house = house();
    let (books, _) = house.try_open().unwrap();
    for entry in entries(&books) {
        assert!(!entry.attempts.is_empty());
        let old = in_version_2(&entry);
        assert_eq!(codec::decode_entry(2, &old).unwrap(), entry);
        assert_eq!(codec::entry_id(&old), Some(entry.id));
        let Event::Entry(row) = codec::decode(codec::ENTRY, 2, &old).unwrap() else {
            panic!("no entry")
        };
        assert_eq!((row.cost, row.attempts), (entry.cost, entry.attempts.clone()));
        // The end of an attempt is the attempt behind its place.
        let mut attempt = postcard::to_allocvec(&(entry.id, 3_u16, &entry.attempts[0])).unwrap();
        attempt.pop();
        let read = codec::decode(codec::SETTLED, 2, &attempt).unwrap();
        let Event::Settled(read) = read else { panic!("no settlement") };
        assert_eq!((read.attempt, &read.record), (3, &entry.attempts[0]));
        assert!(codec::decode(codec::SETTLED, 3, &attempt).is_err(), "it is not today's form");
    }
}
