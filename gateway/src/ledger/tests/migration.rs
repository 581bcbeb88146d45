//! A journal of the first released format stays readable for ever.
//!
//! `v1/journal` was written by the program that had only version 1; `v1/entries.json` is what that
//! program read back from it: a fallback with every fact and price part, a plain request, a
//! refusal, a key, a policy, and a request that ran when the process died.

use super::harness::{
    House, all, ask, complete, done, group, head, key, money, records, request, segment, usd, used,
};
use crate::{
    caller::{BudgetSpec, KeyRecord, Priority, Window},
    ledger::{AttemptOutcome, Books, Entry, EntryHead, Filter, Reader, Scope, checkpoint},
    store::{
        base::Base,
        codec::{self, Event},
        index::{Changes, Pairs as _},
        record,
    },
};
use policies::{PicoUsd, PolicyVersion};
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
    for mut entry in entries(&books) {
        for attempt in &mut entry.attempts {
            // What that program did not have to say of its own journal.
            (attempt.retries, attempt.hedge_winner) = (3, Some(true));
            attempt.finishes = vec![Some("stop".to_owned()), None];
            attempt.service_tier = Some("flex".to_owned());
            attempt.upstream_id = Some("up".to_owned());
            (attempt.parent, attempt.avoided_cost) = (Some(1), Some(PicoUsd::from_pico(5)));
        }
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

/// Budgets as version 2 wrote them.
fn budgets_in_version_2(budgets: &[BudgetSpec]) -> impl Serialize {
    let one = |it: &BudgetSpec| (it.window, it.money, it.tokens, it.hard, it.requests);
    budgets.iter().map(one).collect::<Vec<_>>()
}

/// A record's payload as version 2 wrote it; `None` for the kinds whose form has not changed since.
fn payload_in_version_2(kind: u8, version: u8, payload: &[u8]) -> Option<Vec<u8>> {
    match (kind, codec::decode(kind, version, payload).ok()?) {
        (codec::ENTRY, _) => Some(in_version_2(&codec::decode_entry(3, payload).unwrap())),
        (codec::SETTLED, _) => Some(payload.strip_suffix(&[0]).expect("nothing guessed").to_vec()),
        (codec::KEY, Event::Key(key)) => Some(bytes(&(
            (&key.id, key.secret_hash, &key.hint, &key.label, &key.user, &key.team),
            (&key.limits, budgets_in_version_2(&key.budgets), key.may_pin, key.created_unix_ms),
            (key.expires_unix_ms, key.revoked_unix_ms),
            (budgets_in_version_2(&key.session_budgets), key.disabled_unix_ms),
        ))),
        (codec::GROUP, Event::Group(group)) => Some(bytes(&(
            (&group.scope, &group.label, &group.team, &group.limits),
            (budgets_in_version_2(&group.budgets), budgets_in_version_2(&group.session_budgets)),
            (group.created_unix_ms, group.disabled_unix_ms),
        ))),
        _ => None,
    }
}

/// A house whose journal is this one's in version 2, and the kinds of records that changed for that.
fn house_in_version_2(today: &House) -> (House, Vec<u8>) {
    let journal = fs::read(segment(today)).unwrap();
    let (mut old, mut changed) = (journal[..32].to_vec(), Vec::new());
    for place in records(&journal) {
        let (read, _) = record::read(&journal[place]).unwrap();
        let payload = payload_in_version_2(read.head.kind, read.head.version, read.payload);
        let Some(payload) = payload else {
            old.extend_from_slice(read.raw);
            continue;
        };
        changed.push(read.head.kind);
        let mut one = Vec::new();
        record::append(&mut one, read.head.kind, 2, postcard::Error::SerializeBufferFull, |out| {
            out.extend(payload);
            Ok(())
        })
        .unwrap();
        record::stamp(&mut one, read.head.seq, read.head.unix_ms, read.head.place).unwrap();
        old.extend(one);
    }
    let house = House::new();
    fs::create_dir_all(house.journal()).unwrap();
    fs::write(house.journal().join(segment(today).file_name().unwrap()), old).unwrap();
    changed.sort_unstable();
    changed.dedup();
    (house, changed)
}

#[test]
fn a_journal_of_version_2_reads_as_it_did_and_goes_on_in_the_new_version() {
    let house = House::new();
    let books = house.open();
    let mut owned = key("key_a", vec![money(Window::Day, "10")]);
    (owned.user, owned.team) = (Some("ada".to_owned()), Some("red".to_owned()));
    books.put_key(owned).blocking().unwrap();
    let team = Scope::Team("red".into());
    books.put_group(group(team, vec![money(Window::Month, "100")])).blocking().unwrap();
    let of_team = || EntryHead { team: Some("red".to_owned()), ..head(&books, "key_a") };
    let mut entry = books.open_entry(of_team()).unwrap();
    let (first, ticket) = entry.reserve(ask("4", 200)).unwrap();
    ticket.blocking().unwrap();
    entry.attempt(first).usage = Some(used(10, 0));
    entry.end_attempt(first, AttemptOutcome::Broken, false);
    let (second, ticket) = entry.reserve(ask("3", 200)).unwrap();
    ticket.blocking().unwrap();
    complete(&mut entry, second, used(1, 1));
    entry.finish(done(second)).blocking().unwrap();
    // Another one ran when the process died: of it the journal has the end of an attempt.
    let mut entry = books.open_entry(of_team()).unwrap();
    let (first, ticket) = entry.reserve(ask("2", 200)).unwrap();
    ticket.blocking().unwrap();
    entry.attempt(first).usage = Some(used(20, 0));
    entry.end_attempt(first, AttemptOutcome::Broken, false);
    let (_, ticket) = entry.reserve(ask("1", 200)).unwrap();
    ticket.blocking().unwrap();
    let today = house.crashed();
    drop(entry);

    let (old, changed) = house_in_version_2(&today);
    let kinds = [codec::SETTLED, codec::ENTRY, codec::KEY, codec::GROUP];
    assert_eq!(changed, kinds, "each kind that has another form by now");
    let (expected, _) = today.try_open().unwrap();
    let (books, recovered) = old.try_open().unwrap();
    assert_eq!(recovered.crashed_requests, 1);
    assert_eq!(all(&books), all(&expected));
    assert_eq!(books.keys(), expected.keys());
    let spent = |books: &Books| -> Vec<_> {
        let money = |it: crate::ledger::BudgetState| (it.scope, it.money.unwrap().spent);
        books.budgets().into_iter().map(money).collect()
    };
    assert_eq!(spent(&books), spent(&expected));
    // Ten, one and twenty tokens in, one out, and what was reserved when the process died.
    let of_both = spent(&books);
    assert_eq!(of_both.len(), 2);
    assert!(of_both.iter().all(|(_, spent)| *spent == usd("1.33").into()), "{of_both:?}");
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    books.close();
    drop(books);
    let books = old.open();
    assert_eq!(all(&books).len(), 3);
    assert!(books.verify().is_clean(), "both versions in one journal");
}

/// As schema 5 wrote a checkpoint: its keys ended with their tags.
fn in_schema_5(checkpoint: &Base) {
    let mut meta = checkpoint.meta().unwrap().unwrap();
    assert_eq!(meta[0], 6);
    meta[0] = 5;
    let mut changes = Changes::default();
    let each = &mut |key: &[u8], record: &[u8]| {
        let (priority, old) = record.split_last().unwrap();
        assert_eq!(*priority, 1, "as urgent as usual");
        changes.put(key, old);
        Ok(())
    };
    checkpoint.scan(b"k", each).unwrap();
    checkpoint.apply(changes, &meta).unwrap();
}

#[test]
fn a_key_of_an_older_checkpoint_is_as_urgent_as_usual_and_is_written_anew() {
    let house = House::new();
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, "10")])).blocking().unwrap();
    books.catch_up();
    let usual = books.keys().remove(0);
    let base = Base::default();
    checkpoint::save(&base, &mut books.0.keeper.derived()).unwrap();
    in_schema_5(&base);
    let mut derived = checkpoint::load(&base).unwrap().expect("it is read");
    assert_eq!(derived.keys[&usual.id], usual);

    checkpoint::save(&base, &mut derived).unwrap();
    let derived = checkpoint::load(&base).unwrap().expect("it is read");
    assert_eq!(derived.keys[&usual.id], usual);
}

#[test]
fn how_urgent_a_key_is_survives_with_the_checkpoint_and_without() {
    let house = House::new();
    let books = house.open();
    let keys = [("key_a", Priority::High), ("key_b", Priority::Normal), ("key_c", Priority::Low)];
    let keys = keys.map(|(name, priority)| KeyRecord { priority, ..key(name, Vec::new()) });
    for key in keys.clone() {
        books.put_key(key).blocking().unwrap();
    }
    books.close();
    drop(books);
    let books = house.open();
    assert_eq!(books.keys(), keys);
    books.close();
    drop(books);
    fs::remove_dir_all(house.data().join("index")).unwrap();
    assert_eq!(house.open().keys(), keys);
}
