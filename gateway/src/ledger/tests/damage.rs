//! Bytes that go bad in the middle of the journal: what is lost is said exactly, the rest is served,
//! writing goes on.

use super::harness::{
    House, NOON, all, ask, complete, copy, done, head, house_of, key, money, records, request,
    segment, usd, used, written,
};
use crate::{
    caller::Window,
    ledger::{
        BooksError, Filter, Lost, Outcome, Reader, RequestId, SummaryQuery, keeper::seal_all,
    },
    store::{codec, segment::file_header},
};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// Entries of the sealed segment: two blocks of records and a piece of a third.
const SEALED: usize = 600;

/// A directory whose first segment is sealed, closed, and what stands in it.
struct Intact {
    house: House,
    sealed: PathBuf,
    bytes: Vec<u8>,
    /// Every entry's id, by its number.
    entries: BTreeMap<u64, RequestId>,
}

fn intact() -> Intact {
    let house = House::new().with(|config| {
        config.segment_entries_max = u32::try_from(SEALED).unwrap();
        config.durability = crate::config::Durability::Grouped;
    });
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100000")])).blocking().unwrap();
    for n in 0..SEALED as u64 + 20 {
        house.hand.set(NOON + n * 1_000);
        request(&books, "key_a", ask("1", 10), used(n, 1)).unwrap();
        if n + 1 == SEALED as u64 {
            // The segment ends with this commit.
            books.catch_up();
        }
    }
    books.catch_up();
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    books.close();
    drop(books);
    let sealed = house.journal().join("00000000000000000001.sealed");
    let bytes = fs::read(&sealed).unwrap();
    let entries = entries(&Reader::open(house.data()).unwrap());
    assert_eq!(entries.len(), SEALED + 20);
    Intact { house, sealed, bytes, entries }
}

/// Every entry that can be read, by its number.
fn entries(reader: &Reader) -> BTreeMap<u64, RequestId> {
    let mut found = BTreeMap::new();
    for block in reader.snapshot.blocks() {
        let _lost = reader.snapshot.read(&block, &mut |record| {
            if record.head.kind == codec::ENTRY {
                found.insert(record.head.seq, codec::entry_id(record.payload).unwrap());
            }
        });
    }
    found
}

/// Everything, page after page; what is lost is said once for each.
fn pages(reader: &Reader) -> (Vec<RequestId>, Vec<Lost>) {
    let (mut ids, mut lost, mut cursor) = (Vec::new(), Vec::<Lost>::new(), None);
    loop {
        let page = reader.requests(&Filter::default(), cursor, 1_000).unwrap();
        ids.extend(page.entries.iter().map(|entry| entry.id));
        lost.extend(page.lost);
        cursor = page.next;
        if cursor.is_none() {
            return (ids, lost);
        }
    }
}

fn is_in(lost: &[Lost], seq: u64) -> bool {
    lost.iter().any(|lost| (lost.first_seq..=lost.last_seq).contains(&seq))
}

/// Reads a directory whose sealed segment is damaged, and holds what is said against what is.
fn what_is_left_is_served_and_the_rest_is_named(intact: &Intact, dir: &Path, what: &str) {
    let reader = Reader::open(dir).unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = entries(&reader);
    let report = reader.verify();
    for (seq, id) in &intact.entries {
        let lost = is_in(&report.lost, *seq);
        assert_eq!(found.get(seq), (!lost).then_some(id), "{what}: event {seq}");
    }
    assert!(found.len() <= intact.entries.len(), "{what}: nothing is invented");
    let named = report.findings.iter().all(|finding| finding.what.contains(".sealed"));
    assert!(named, "{what}: {:?}", report.findings);
    let events = 2 * intact.entries.len() as u64 + 1;
    let lost: u64 = report.lost.iter().map(Lost::events).sum();
    assert_eq!(report.events + lost, events, "{what}: every event is read or named");
    // A query says what of its answer is missing, and gives the rest.
    let (ids, missing) = pages(&reader);
    let expected: Vec<_> = intact.entries.iter().rev().collect();
    let left = expected.iter().filter(|(seq, _)| !is_in(&report.lost, **seq));
    assert_eq!(ids, left.map(|(_, id)| **id).collect::<Vec<_>>(), "{what}");
    for (seq, _) in expected {
        assert_eq!(is_in(&missing, *seq), is_in(&report.lost, *seq), "{what}: event {seq}");
    }
    // Sums are right where the columns are whole, and say so where they are not.
    let summary = reader.summary(&SummaryQuery::default()).unwrap();
    let summed = usize::try_from(summary.total.requests).unwrap();
    assert!(summed == intact.entries.len() || !summary.lost.is_empty(), "{what}");
    assert!(summed >= ids.len(), "{what}");
    // An export ends with an error, after everything that can be read.
    let mut exported = 0;
    let outcome = reader.each(&Filter::default(), &mut |_, _| {
        exported += 1;
        true
    });
    assert_eq!((exported, outcome.is_err()), (ids.len(), !missing.is_empty()), "{what}");
    for (seq, id) in intact.entries.iter().step_by(61) {
        match reader.request(*id) {
            Ok(entry) => assert_eq!(entry.unwrap().id, *id, "{what}"),
            Err(BooksError::Unreadable(_)) => assert!(is_in(&report.lost, *seq), "{what}"),
            Err(other) => panic!("{what}: {other}"),
        }
    }
}

#[test]
fn whichever_byte_of_a_sealed_segment_is_wrong_what_is_left_is_served_and_the_rest_is_named() {
    let intact = intact();
    let length = intact.bytes.len();
    let ends = (0..12).step_by(3).chain((length - 16..length).step_by(3));
    let (mut named, mut flips) = (0, 0);
    for at in ends.chain((12..length - 16).step_by(length / 30)) {
        let mut bytes = intact.bytes.clone();
        bytes[at] ^= 1 << (at % 8);
        fs::write(&intact.sealed, &bytes).unwrap();
        let what = format!("byte {at} of {length}");
        what_is_left_is_served_and_the_rest_is_named(&intact, intact.house.data(), &what);
        named += usize::from(!Reader::open(intact.house.data()).unwrap().verify().is_clean());
        flips += 1;
    }
    // All but those in which nothing depends on the bit.
    assert!(named * 100 >= flips * 95, "{named} of {flips}");
}

#[test]
fn a_segment_that_lost_its_head_its_foot_or_everything_is_read_as_far_as_it_goes() {
    let intact = intact();
    let length = intact.bytes.len();
    for (what, from, to) in [
        ("no head", 200, length),
        ("no foot", 0, length / 2),
        ("nothing", 0, 0),
        ("half a header", 0, 5),
    ] {
        fs::write(&intact.sealed, &intact.bytes[from..to]).unwrap();
        what_is_left_is_served_and_the_rest_is_named(&intact, intact.house.data(), what);
        assert!(!Reader::open(intact.house.data()).unwrap().verify().is_clean(), "{what}");
    }
    // Only its end is gone: all of its records are there.
    fs::write(&intact.sealed, &intact.bytes[..length - 30]).unwrap();
    let report = Reader::open(intact.house.data()).unwrap().verify();
    assert_eq!((report.lost.len(), report.findings.len()), (0, 1), "{report:?}");
}

/// The directory with one bit of a block's records wrong.
fn with_a_bad_block(intact: &Intact) -> House {
    let mut bytes = intact.bytes.clone();
    bytes[intact.bytes.len() / 5] ^= 1;
    let house = House::new();
    copy(intact.house.data(), house.data()).unwrap();
    fs::write(house.journal().join("00000000000000000001.sealed"), bytes).unwrap();
    house
}

#[test]
fn the_books_go_on_beside_a_damaged_segment_and_a_good_copy_heals_it() {
    let intact = intact();
    let house = with_a_bad_block(&intact);
    let damaged = fs::read(house.journal().join("00000000000000000001.sealed")).unwrap();
    let (books, recovered) = house.try_open().unwrap();
    // The checkpoint knows what the lost events spent.
    assert_eq!((recovered.replayed_events, recovered.lost.len()), (0, 0));
    let spent = books.budgets()[0].money.unwrap().spent;
    let cents: u64 = (0..SEALED as u64 + 20).map(|n| n + 2).sum();
    assert_eq!(spent, usd("0.01").times(cents).unwrap().into());
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    let report = books.verify();
    assert!(!report.is_clean() && !report.lost.is_empty() && !report.derived_checked);
    assert!(report.findings.iter().all(|found| found.what.contains(".sealed")), "{report:?}");
    // Rollups know more than the journal now: they are not made anew from it.
    assert!(matches!(books.rebuild_rollups(), Err(BooksError::Unreadable(_))));
    books.close();
    drop(books);
    assert_eq!(fs::read(house.journal().join("00000000000000000001.sealed")).unwrap(), damaged);

    fs::write(house.journal().join("00000000000000000001.sealed"), &intact.bytes).unwrap();
    let books = house.open();
    let report = books.verify();
    assert!(report.is_clean() && report.derived_checked, "{report:?}");
    assert_eq!(report.entries, intact.entries.len() as u64 + 1);
}

/// The first segment as it was before it was sealed.
fn unsealed(intact: &Intact) -> Vec<u8> {
    let snapshot = Reader::open(intact.house.data()).unwrap().snapshot;
    let mut bytes = file_header(1, NOON).to_vec();
    for block in snapshot.blocks().iter().filter(|block| block.segment() == 0) {
        let lost = snapshot.read(block, &mut |record| bytes.extend_from_slice(record.raw));
        assert!(lost.is_empty());
    }
    bytes
}

#[test]
fn of_a_segment_in_both_forms_the_whole_one_is_kept_and_none_is_deleted_if_neither_is() {
    let intact = intact();
    let whole = unsealed(&intact);
    let plain = |house: &House| house.journal().join("00000000000000000001.journal");
    // A copy that was taken before the segment was sealed, put beside what is damaged now.
    let house = with_a_bad_block(&intact);
    fs::write(plain(&house), &whole).unwrap();
    let books = house.open();
    let report = books.verify();
    assert!(report.is_clean() && report.derived_checked, "{report:?}");
    assert_eq!(report.entries, intact.entries.len() as u64);
    drop(books);
    // What an interrupted sealing left.
    let house = House::new();
    copy(intact.house.data(), house.data()).unwrap();
    fs::write(plain(&house), &whole[..whole.len() / 2]).unwrap();
    assert!(house.open().verify().is_clean());
    assert!(!plain(&house).exists());
    // Neither is good.
    let house = with_a_bad_block(&intact);
    fs::write(plain(&house), &whole[..whole.len() / 2]).unwrap();
    let books = house.open();
    assert!(!books.verify().lost.is_empty());
    let aside = house.journal().join("00000000000000000001.journal.aside");
    assert_eq!(fs::read(aside).unwrap(), whole[..whole.len() / 2]);
}

#[test]
fn a_start_that_must_replay_what_is_lost_says_which_events_are_in_no_balance() {
    let intact = intact();
    let house = with_a_bad_block(&intact);
    fs::remove_dir_all(house.data().join("index")).unwrap();
    let (books, recovered) = house.try_open().unwrap();
    let report = books.verify();
    assert!(!recovered.lost.is_empty());
    assert_eq!(recovered.lost, report.lost);
    // By number: one whose entry alone is lost is booked anew, as crashed, under another.
    let kept = entries(&books.reader());
    let left = intact.entries.keys().filter(|seq| kept.contains_key(seq)).count();
    assert!((1..intact.entries.len()).contains(&left), "{left}");
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
}

#[test]
fn damage_before_the_tail_is_named_the_rest_is_read_and_a_new_segment_is_begun() {
    let original = written(5);
    let bytes = fs::read(segment(&original)).unwrap();
    let records = records(&bytes);
    for at in records[2].clone().step_by(7) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let house = house_of(&original, &bytes);
        let damaged = segment(&house);
        let (books, recovered) = house.try_open().unwrap();
        assert_eq!(recovered.damaged.len(), 1, "byte {at}");
        assert_eq!(recovered.damaged[0].0, damaged);
        let lost: Vec<_> =
            recovered.lost.iter().map(|lost| (lost.first_seq, lost.last_seq)).collect();
        assert_eq!(lost, [(3, 3)], "byte {at}");
        // Event 3 was a reservation: its entry, event 4, is read.
        assert_eq!(all(&books).len(), 5);
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
        assert_ne!(segment(&house), damaged, "a new segment");
        assert_eq!(fs::read(&damaged).unwrap(), bytes, "the damaged one is as it was");
        books.close();
        drop(books);
        // It is never sealed, and a second start finds the same.
        let (books, recovered) = house.try_open().unwrap();
        assert_eq!(recovered.damaged.len(), 1);
        seal_all(&books.0.catalogue, &false.into()).unwrap();
        assert_eq!(fs::read(&damaged).unwrap(), bytes);
        assert_eq!(all(&books).len(), 6);
        assert_eq!(books.verify().lost.len(), 1);
    }
}

#[test]
fn a_last_segment_of_which_nothing_is_left_is_an_error_for_its_numbers_were_given() {
    let original = written(3);
    let nothing = vec![0; fs::read(segment(&original)).unwrap().len()];
    let house = house_of(&original, &nothing);
    let error = house.try_open().unwrap_err().to_string();
    assert!(error.contains("00000000000000000001.journal"), "{error}");
    assert_eq!(fs::read(segment(&house)).unwrap(), nothing);
}

#[test]
fn an_open_reservation_whose_event_is_lost_is_still_ended_at_a_start() {
    let house = House::new();
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    let mut running = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, ticket) = running.reserve(ask("4", 10)).unwrap();
    ticket.blocking().unwrap();
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    books.close();
    let after = House::new();
    copy(house.data(), after.data()).unwrap();
    complete(&mut running, index, used(1, 1));
    drop(running.finish(done(index)));
    drop(books);
    // Event 1 is the key, event 2 the reservation.
    let path = segment(&after);
    let mut bytes = fs::read(&path).unwrap();
    let reserved = records(&bytes)[1].clone();
    bytes[reserved.start + 40] ^= 1;
    fs::write(&path, bytes).unwrap();

    let (books, recovered) = after.try_open().unwrap();
    assert_eq!(recovered.crashed_requests, 1);
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.reserved.pico()), (usd("4.03").into(), 0), "as it was held");
    let crashed = all(&books).into_iter().find(|entry| entry.outcome == Outcome::Crashed).unwrap();
    assert_eq!((crashed.cost, crashed.attempts[0].reserved), (None, usd("4")), "never nothing");
}

#[test]
fn old_segments_are_dropped_damaged_or_not() {
    let intact = intact();
    let house = with_a_bad_block(&intact);
    let books = house.open();
    let retired = books.retire(NOON + 86_400_000).unwrap();
    assert_eq!(retired.segments, 1);
    let spent = books.budgets()[0].money.unwrap().spent;
    assert!(books.verify().lost.is_empty());
    books.close();
    drop(books);
    assert_eq!(house.open().budgets()[0].money.unwrap().spent, spent);
}

/// A directory without its index in which `lost` of many events of a budget cannot be read, and what
/// they all spent.
fn with_lost_charges(spares: bool) -> (House, String) {
    let original = House::new();
    let books = original.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    for n in 0..20 {
        request(&books, "key_a", ask("1", 10), used(n, 1)).unwrap();
    }
    let spent = books.budgets()[0].money.unwrap().spent.to_string();
    books.close();
    drop(books);
    fs::remove_dir_all(original.data().join("index")).unwrap();
    let mut bytes = fs::read(segment(&original)).unwrap();
    // Events 6 and 7: a reservation and its entry, as if they had never been.
    for at in &records(&bytes)[5..7] {
        bytes[at.start + 30] ^= 1;
    }
    let house = house_of(&original, &bytes);
    if !spares {
        house.forget_spares();
    }
    (house, spent)
}

#[test]
fn a_rebuild_across_lost_events_gives_no_budget_back_for_the_balances_are_kept_beside_the_journal()
{
    let (house, spent) = with_lost_charges(true);
    let (books, recovered) = house.try_open().unwrap();
    assert_eq!((recovered.lost.is_empty(), recovered.uncounted.len()), (false, 0));
    let budget = &books.budgets()[0];
    assert_eq!((budget.money.unwrap().spent.to_string(), budget.uncounted_events), (spent, 0));
    assert_eq!(recovered.crashed_requests, 0, "what is over is not booked again");
    assert_eq!(books.uncounted(), 0);
}

#[test]
fn keys_that_only_lost_events_told_of_are_there_after_a_rebuild() {
    let original = House::new();
    let books = original.open();
    for name in ["key_a", "key_b", "key_c"] {
        books.put_key(key(name, vec![money(Window::Total, "1")])).blocking().unwrap();
    }
    books.close();
    drop(books);
    fs::remove_dir_all(original.data().join("index")).unwrap();
    let mut bytes = fs::read(segment(&original)).unwrap();
    let second = records(&bytes)[1].clone();
    bytes[second.start + 30] ^= 1;
    let books = house_of(&original, &bytes).open();
    assert_eq!((books.keys().len(), books.budgets().len()), (3, 3));
}

#[test]
fn what_nothing_covers_is_said_of_every_budget_until_the_operator_books_it() {
    let (house, spent) = with_lost_charges(false);
    let (mut books, recovered) = house.try_open().unwrap();
    assert_eq!(recovered.uncounted.len(), 1);
    assert_eq!(recovered.uncounted[0].events(), 2);
    // Also after another start, which replays nothing.
    for _ in 0..2 {
        let budget = &books.budgets()[0];
        assert_eq!(budget.uncounted_events, 2, "never nothing for unknown");
        assert_ne!(budget.money.unwrap().spent.to_string(), spent);
        let report = books.verify();
        assert_eq!(report.uncounted, recovered.uncounted);
        assert!(report.findings.iter().any(|found| found.what.contains("events 6 to 7")));
        books.close();
        drop(books);
        books = house.open();
    }
    // The third request had used two tokens of prompt and one of answer.
    let charge = crate::ledger::Amount { money: usd("0.04"), tokens: 3, requests: 1 };
    let scope = crate::ledger::Scope::Key(super::harness::key_id("key_a"));
    let both = (charge, crate::ledger::Amount::default());
    let ticket = books.correct(&scope, Window::Total, both, "by the invoice").unwrap();
    ticket.blocking().unwrap();
    assert!(books.correct(&scope, Window::Day, both, "no such budget").is_none());
    for rebuilt in [false, true] {
        books.catch_up();
        let budget = &books.budgets()[0];
        assert_eq!(
            (budget.money.unwrap().spent.to_string(), budget.uncounted_events),
            (spent.clone(), 0)
        );
        // Nothing is left to be booked; that the entries are gone stays a finding.
        let report = books.verify();
        assert_eq!((books.uncounted(), report.uncounted.len()), (0, 0));
        assert_eq!(report.findings.len(), report.lost.len() + 1, "{report:?}");
        books.close();
        drop(books);
        if rebuilt {
            fs::remove_dir_all(house.data().join("index")).unwrap();
        }
        books = house.open();
    }
    assert_eq!(books.budgets()[0].money.unwrap().spent.to_string(), spent);
}

#[test]
fn a_spare_that_is_older_than_the_checkpoint_takes_nothing_back() {
    // Something was lost long ago and is in no spare.
    let (house, _) = with_lost_charges(false);
    let spend = |requests: u64| {
        let books = house.open();
        for n in 0..requests {
            request(&books, "key_a", ask("1", 10), used(n, 1)).unwrap();
        }
        let state = (books.budgets()[0].money.unwrap().spent, entries(&books.reader()).len());
        books.close();
        state
    };
    spend(1);
    let known = house.spares();
    let spent = spend(5);
    // As when a checkpoint was due and a spare was not.
    let newer = house.spares().into_iter().filter(|path| !known.contains(path));
    assert_eq!(newer.map(|path| fs::remove_file(path).unwrap()).count(), 1);
    assert!(!house.spares().is_empty());
    for _ in 0..2 {
        assert_eq!(spend(0), spent);
        let (books, recovered) = house.try_open().unwrap();
        assert_eq!((recovered.replayed_events, recovered.uncounted.len()), (0, 1));
        books.close();
    }
}

#[test]
fn a_budget_whose_window_began_after_the_loss_misses_nothing() {
    let (house, _) = with_lost_charges(false);
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, "100")])).blocking().unwrap();
    assert_eq!(books.budgets()[0].uncounted_events, 2, "today's may");
    house.hand.set(NOON + 86_400_000);
    assert_eq!(books.budgets()[0].uncounted_events, 0, "tomorrow's does not");
}

#[test]
fn a_base_made_of_damaged_segments_takes_the_balances_that_are_kept_or_says_what_it_lacks() {
    let intact = intact();
    for spares in [true, false] {
        let house = with_a_bad_block(&intact);
        let books = house.open();
        let spent = books.budgets()[0].money.unwrap().spent;
        if !spares {
            house.forget_spares();
        }
        assert_eq!(books.retire(NOON + 86_400_000).unwrap().segments, 1);
        let crashed = house.crashed();
        drop(books);
        fs::remove_dir_all(crashed.data().join("index")).unwrap();
        let books = crashed.open();
        let budgets = books.budgets();
        if spares {
            let budget = &budgets[0];
            assert_eq!((budget.money.unwrap().spent, budget.uncounted_events), (spent, 0));
        } else {
            // Even the key may be among what is lost; where it is not, its budget says so itself.
            assert!(books.uncounted() > 0);
            assert!(budgets.iter().all(|budget| budget.uncounted_events > 0), "{budgets:?}");
        }
    }
}
