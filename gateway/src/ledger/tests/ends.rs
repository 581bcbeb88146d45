//! An end of the journal that is lost after it was durable: the index or a spare knows that it was
//! there, so it is no torn tail. What it did stays, what is lost is said, and no number is given again.

use super::harness::{House, NOON, ask, copy, key, money, records, request, segment, used};
use crate::{
    caller::Window,
    ledger::{BudgetState, Filter, Lost, Reader, keeper::seal_all},
};
use std::fs;

/// What is left of a ledger that was stopped in order after eight events, the last a key, when its
/// end is lost.
#[derive(Clone, Copy, Debug)]
struct Left {
    /// Events of the journal that can be read; one byte of the next is wrong, unless it was cut there.
    events: usize,
    cut: bool,
}

#[test]
fn an_end_of_the_journal_that_was_durable_and_is_lost_is_said_and_what_it_did_stays() {
    let original = House::new();
    let books = original.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    for _ in 0..3 {
        request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    }
    books.put_key(key("key_b", Vec::new())).blocking().unwrap();
    books.close();
    let budgets = books.budgets();
    drop(books);
    let whole = fs::read(segment(&original)).unwrap();
    let records = records(&whole);
    assert_eq!(records.len(), 8);
    for (index, spares) in [(true, true), (true, false), (false, true)] {
        for (events, cut) in [(7, false), (7, true), (5, true), (5, false), (0, true)] {
            let left = Left { events, cut };
            let house = House::new();
            copy(original.data(), house.data()).unwrap();
            let mut bytes = whole.clone();
            let end = records[events].start;
            match cut {
                true => bytes.truncate(end),
                false => bytes[end + 30] ^= 1,
            }
            let damaged = segment(&house);
            fs::write(&damaged, &bytes).unwrap();
            if !index {
                fs::remove_dir_all(house.data().join("index")).unwrap();
            }
            if !spares {
                house.forget_spares();
            }
            its_end_is_lost_and_nothing_else(&house, left, &budgets);
            assert_eq!(fs::read(&damaged).unwrap(), bytes, "{left:?}: it is as it was");
            fs::write(&damaged, &whole).unwrap();
            let report = house.open().verify();
            assert_eq!((report.lost.len(), report.events), (0, 10), "{left:?}: healed");
        }
    }
}

fn its_end_is_lost_and_nothing_else(house: &House, left: Left, budgets: &[BudgetState]) {
    // Of two flipped in the middle, what comes after is read.
    let lost = if left.cut { 8 - left.events as u64 } else { 1 };
    for start in 0..2 {
        let (books, recovered) = house.try_open().unwrap();
        let what = format!("{left:?}, start {start}");
        assert_eq!(recovered.damaged.len(), 1, "{what}");
        assert_eq!((recovered.torn_bytes, recovered.crashed_requests), (0, 0), "{what}");
        assert_eq!((recovered.index_set_aside, recovered.uncounted.len()), (None, 0), "{what}");
        assert_eq!((books.keys().len(), books.budgets().as_slice()), (2, budgets), "{what}");
        let report = books.verify();
        assert_eq!(report.lost.iter().map(Lost::events).sum::<u64>(), lost, "{what}: {report:?}");
        // What is written now gets no number again.
        books.put_key(key("key_b", Vec::new())).blocking().unwrap();
        let next_seq = books.reader().snapshot.next_seq();
        assert_eq!(next_seq, 10 + start, "{what}");
        books.close();
    }
}

#[test]
fn a_last_segment_that_is_gone_leaves_its_numbers_and_what_it_did() {
    let house = House::new().with(|config| config.segment_entries_max = 2);
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    for _ in 0..5 {
        request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    }
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    books.close();
    let budgets = books.budgets();
    drop(books);
    fs::remove_file(segment(&house)).unwrap();
    let report = Reader::open(house.data()).unwrap().verify();
    assert!(report.findings[0].what.contains("lost its last events, 10 to 11"), "{report:?}");
    house.hand.set(NOON + 60_000);
    for start in 0..2 {
        let books = house.open();
        assert_eq!(books.budgets(), budgets);
        // They may have been committed at any time until this start.
        let filter = Filter { from_unix_ms: Some(NOON + 50_000), ..Filter::default() };
        let page = books.requests(&filter, None, 10).unwrap();
        assert_eq!((page.entries.len(), page.lost.len()), (0, 1), "start {start}: {page:?}");
        let report = books.verify();
        let lost: Vec<_> = report.lost.iter().map(|lost| (lost.first_seq, lost.last_seq)).collect();
        // Of eleven events the last two.
        assert_eq!(lost, [(10, 11)], "{report:?}");
        books.put_key(key("key_b", Vec::new())).blocking().unwrap();
        assert_eq!(books.reader().snapshot.next_seq(), 13 + start);
        books.close();
    }
}
