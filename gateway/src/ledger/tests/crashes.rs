//! What a crash or a torn write leaves, and what opening makes of it.

use super::harness::{
    House, all, ask, complete, done, free, head, house_of, key, key_id, money, records, request,
    segment, usd, used, written,
};
use crate::{
    caller::Window,
    config::Durability,
    ledger::{
        AttemptOutcome, Books, Entry, Filter, OpenError, Outcome, Reader, SummaryQuery, held,
    },
};
use policies::UsageSource;
use std::fs;

#[test]
fn an_open_reservation_is_settled_as_reserved_and_marked_after_a_crash() {
    let house = House::new();
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Day, "10")])).blocking().unwrap();
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (first, ticket) = entry.reserve(ask("4", 200)).unwrap();
    ticket.blocking().unwrap();
    entry.attempt(first).usage = Some(used(10, 0));
    entry.end_attempt(first, AttemptOutcome::Broken, false);
    let (_, ticket) = entry.reserve(ask("3", 200)).unwrap();
    ticket.blocking().unwrap();

    let after = house.crashed();
    let (books, recovered) = after.try_open().unwrap();
    assert_eq!(recovered.crashed_requests, 1);
    let found = &all(&books)[0];
    assert_eq!(found.outcome, Outcome::Crashed);
    assert_eq!(found.user.as_deref(), Some("ada"));
    // What had ended is booked as it ended, the rest as it was reserved.
    assert_eq!(found.attempts[0].cost, Some(usd("0.1")));
    assert_eq!(found.attempts[1].outcome, AttemptOutcome::CrashedUnknown);
    assert_eq!(found.attempts[1].usage_source, Some(UsageSource::CrashedUnknown));
    assert_eq!(found.cost, Some(usd("3.1")));
    let side = books.budgets()[0].money.unwrap();
    assert_eq!((side.spent, side.reserved.pico()), (usd("3.1").into(), 0));
    assert!(books.verify().is_clean());
    books.close();
    drop(books);
    assert_eq!(after.try_open().unwrap().1.crashed_requests, 0);
}

#[test]
fn an_acknowledged_entry_is_in_any_copy_of_the_directory_taken_afterwards() {
    let house = House::new();
    let books = house.open();
    books.put_key(key("key_a", vec![])).blocking().unwrap();
    for round in 1..=20 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
        let after = house.crashed();
        let survivor = after.open();
        assert_eq!(all(&survivor).len(), round);
        assert_eq!(survivor.keys().len(), 1);
    }
}

#[test]
fn a_closed_ledger_in_grouped_mode_has_everything() {
    let house = House::new().with(|config| config.durability = Durability::Grouped);
    let books = house.open();
    for _ in 0..100 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    books.close();
    drop(books);
    assert_eq!(all(&house.open()).len(), 100);
}

#[test]
fn wherever_the_tail_is_cut_the_committed_prefix_is_left() {
    let original = written(4);
    let bytes = fs::read(segment(&original)).unwrap();
    let records = records(&bytes);
    // Events are Reserved, Entry, Reserved, Entry, ...
    assert_eq!(records.len(), 8);
    let house = house_of(&original, &bytes);
    for cut in records[4].start..bytes.len() {
        fs::write(segment(&house), &bytes[..cut]).unwrap();
        let whole = records.iter().filter(|record| record.end <= cut).count();
        let report = Reader::open(house.data()).unwrap().verify();
        assert!(report.is_clean(), "{report:?}");
        assert_eq!((report.events, report.entries), (whole as u64, whole as u64 / 2));
    }
    let boundaries = [5, 6, 7].map(|at| records[at].start).into_iter();
    for cut in boundaries.chain((records[5].start..bytes.len()).step_by(23)) {
        let house = house_of(&original, &bytes[..cut]);
        let (books, recovered) = house.try_open().unwrap();
        let whole = records.iter().filter(|record| record.end <= cut).count();
        // A zero at its end cannot be told from room.
        let rest = &bytes[records[..whole].last().unwrap().end..cut];
        let torn = rest.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        assert_eq!(recovered.torn_bytes, torn as u64, "cut at {cut}");
        assert_eq!(recovered.replayed_events, whole as u64);
        // A Reserved without its Entry is a crashed request.
        assert_eq!(recovered.crashed_requests, (whole % 2) as u64);
        assert_eq!(all(&books).len(), whole.div_ceil(2));
        assert!(books.verify().is_clean());
        let aside = fs::read_dir(house.journal().join("torn")).map_or(0, Iterator::count);
        assert_eq!(aside, usize::from(torn > 0), "what is cut off is set aside");
    }
}

#[test]
fn whichever_byte_of_the_last_commit_is_wrong_the_prefix_before_it_is_left() {
    let original = written(2);
    let bytes = fs::read(segment(&original)).unwrap();
    let records = records(&bytes);
    for at in records[3].clone().filter(|at| at % 5 == 0 || *at < records[3].start + 28) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 0x10;
        let house = house_of(&original, &bytes);
        let (books, recovered) = house.try_open().unwrap();
        assert_eq!(recovered.replayed_events, 3, "byte {at}");
        assert_eq!(all(&books).len(), 2);
    }
}

#[test]
fn a_deleted_or_broken_index_is_rebuilt_to_the_same_answers() {
    let house = House::new().with(|config| config.segment_entries_max = 10);
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "100")]));
    for hour in 0..30 {
        house.hand.set(super::harness::NOON + hour * 1_800_000);
        request(&books, "key_a", ask("1", 10), used(hour, 1)).unwrap();
        request(&books, "key_b", free(10), used(1, 1)).unwrap();
    }
    let answers = |books: &Books| {
        let by_rollup = SummaryQuery { exact: Some(false), ..SummaryQuery::default() };
        (all(books), books.budgets(), books.keys(), books.summary(&by_rollup).unwrap())
    };
    let before = answers(&books);
    assert!(before.3.spans_from_rollups >= 14);
    books.close();
    drop(books);

    let index = house.data().join("index");
    fs::remove_dir_all(&index).unwrap();
    let (books, recovered) = house.try_open().unwrap();
    assert!(recovered.replayed_events > 120);
    assert_eq!(answers(&books), before);
    assert!(books.verify().is_clean());
    books.close();
    drop(books);

    // Now damaged in every file it has.
    for item in fs::read_dir(&index).unwrap() {
        let path = item.unwrap().path();
        if path.is_file() {
            let length = fs::metadata(&path).unwrap().len();
            fs::write(&path, vec![0xa5; usize::try_from(length).unwrap()]).unwrap();
        }
    }
    let (books, recovered) = house.try_open().unwrap();
    assert!(recovered.index_set_aside.is_some_and(|path| path.exists()));
    assert_eq!(answers(&books), before);
    books.close();
    drop(books);

    // And whole: nothing is replayed.
    let (_books, recovered) = house.try_open().unwrap();
    assert_eq!((recovered.replayed_events, recovered.index_set_aside), (0, None));
}

#[test]
fn an_index_whose_journal_is_gone_is_not_believed() {
    let house = House::new();
    let books = house.open();
    let _durable = books.put_key(key("key_a", vec![money(Window::Day, "100")]));
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    books.close();
    drop(books);
    fs::remove_file(segment(&house)).unwrap();
    let (books, recovered) = house.try_open().unwrap();
    assert!(recovered.index_set_aside.is_some());
    assert_eq!((books.budgets().len(), books.reader().snapshot.next_seq()), (0, 1));
    assert!(books.verify().is_clean());
}

#[test]
fn two_processes_never_write_one_directory_and_readers_need_no_lock() {
    let house = House::new();
    let books = house.open();
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert!(matches!(house.try_open(), Err(OpenError::InUse(_))));
    assert!(held(house.data()).unwrap());
    let reader = Reader::open(house.data()).unwrap();
    assert_eq!(reader.requests(&Filter::default(), None, 10).unwrap().entries.len(), 1);
    assert!(reader.verify().is_clean());
    drop(books);
    assert!(!held(house.data()).unwrap());
}

#[test]
fn segments_roll_over_are_sealed_and_are_read_as_one_ledger() {
    let house = House::new().with(|config| config.segment_entries_max = 7);
    let books = house.open();
    let mut ids = Vec::new();
    for at in 0..40 {
        house.hand.set(super::harness::NOON + at * 1_000);
        ids.push(request(&books, "key_a", ask("1", 10), used(at, 1)).unwrap());
    }
    let check = |books: &Books| {
        let found: Vec<_> = all(books).into_iter().map(|entry| entry.id).collect();
        assert_eq!(found, ids.iter().rev().copied().collect::<Vec<_>>());
        for id in &ids {
            assert_eq!(books.request(*id).unwrap().unwrap().id, *id);
        }
        let report = books.verify();
        assert!(report.is_clean() && report.segments == 6 && report.entries == 40, "{report:?}");
    };
    check(&books);
    books.close();
    drop(books);
    // The start seals what the close interrupted.
    let books = house.open();
    crate::ledger::keeper::seal_all(&books.0.catalogue, &false.into()).ok();
    check(&books);
    books.close();
    drop(books);
    let reader = Reader::open(house.data()).unwrap();
    assert!(reader.verify().is_clean());
    let names: Vec<_> = fs::read_dir(house.journal())
        .unwrap()
        .map(|item| item.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.iter().filter(|name| name.ends_with(".sealed")).count(), 5, "{names:?}");
    assert_eq!(names.iter().filter(|name| name.ends_with(".journal")).count(), 1, "{names:?}");
    check(&house.open());
}

#[test]
fn sums_of_longer_than_memory_holds_are_the_same_after_a_rebuild() {
    // Each request in a minute and an hour of its own: more spans than a checkpoint waits for.
    let house = House::new().with(|config| config.segment_entries_max = 400);
    let books = house.open();
    for hour in 0..300 {
        house.hand.set(super::harness::NOON + hour * 3_600_000);
        request(&books, "key_a", ask("1", 10), used(hour, 1)).unwrap();
        // What the running keeper does as time passes.
        books.catch_up();
        let index = books.0.keeper.index.as_ref().unwrap();
        crate::ledger::checkpoint::save(index, &mut books.0.keeper.derived()).unwrap();
    }
    let summed = |books: &Books| {
        let of = |exact| SummaryQuery { exact: Some(exact), ..SummaryQuery::default() };
        let [by_rollup, exact] = [false, true].map(|it| books.summary(&of(it)).unwrap().total);
        assert_eq!(by_rollup.cost_usd, exact.cost_usd);
        assert_eq!((by_rollup.requests, exact.requests), (300, 300));
        assert!(books.verify().is_clean(), "{:?}", books.verify());
    };
    summed(&books);
    books.close();
    drop(books);
    fs::remove_dir_all(house.data().join("index")).unwrap();
    let books = house.open();
    summed(&books);
    assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
    books.0.keeper.derived().rollups = crate::ledger::rollups::Rollups::default();
    books.rebuild_rollups().unwrap();
    summed(&books);
}

#[test]
fn a_segment_whose_creation_was_cut_short_is_begun_again() {
    let house = written(2);
    fs::write(house.journal().join("00000000000000000005.journal"), b"TOLL").unwrap();
    let books = house.open();
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert_eq!(all(&books).len(), 3);
    assert!(books.verify().is_clean());
}

#[test]
fn what_a_failed_beginning_of_a_segment_left_is_passed_over() {
    let header = crate::store::segment::file_header(3, super::harness::NOON);
    for left in [&header[..], b"TOLL", b""] {
        for (seal, segment_entries_max) in [(false, 100), (false, 5), (true, 5)] {
            let house = House::new().with(|it| it.segment_entries_max = segment_entries_max);
            let books = house.open();
            for _ in 0..8 {
                request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
            }
            if seal {
                crate::ledger::keeper::seal_all(&books.0.catalogue, &false.into()).ok();
            }
            books.close();
            drop(books);
            let leftover = house.journal().join("00000000000000000003.journal");
            fs::write(&leftover, left).unwrap();
            let reader = Reader::open(house.data()).unwrap();
            assert!(reader.verify().is_clean(), "{:?}", reader.verify());
            assert_eq!(reader.requests(&Filter::default(), None, 10).unwrap().entries.len(), 8);
            drop(reader);
            let books = house.open();
            assert!(!leftover.exists());
            assert_eq!(all(&books).len(), 8);
            request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
            assert!(books.verify().is_clean());
        }
    }
}

#[test]
fn a_missing_segment_is_an_error() {
    let house = House::new().with(|config| config.segment_entries_max = 2);
    let books = house.open();
    for _ in 0..6 {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    books.close();
    drop(books);
    let mut files: Vec<_> =
        fs::read_dir(house.journal()).unwrap().map(|item| item.unwrap().path()).collect();
    // An interrupted sealing leaves its unfinished file beside the segment.
    files.retain(|path| path.is_file() && path.extension().is_none_or(|ending| ending != "tmp"));
    files.sort();
    fs::remove_file(&files[1]).unwrap();
    let error = house.try_open().unwrap_err().to_string();
    assert!(error.contains("gap: event 5"), "{error}");
}

#[test]
fn verify_finds_an_entry_that_does_not_balance() {
    let house = House::new();
    let books = house.open();
    let id = request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    let entry = books.request(id).unwrap().unwrap();
    // The same entry again, with another sum.
    books.0.queue.take_places(1).unwrap();
    let twice = Entry { cost: Some(usd("9")), ..entry };
    let _ticket = books.0.write_entry(true, twice);
    let report = books.verify();
    let findings: Vec<_> = report.findings.iter().map(|found| found.what.as_str()).collect();
    assert_eq!(findings.len(), 2, "{findings:?}");
    assert!(findings[0].ends_with("1 attempts, 0 reserved"));
    assert!(findings[1].ends_with("its cost is not the sum of its attempts'"));
}

#[test]
fn what_was_queued_before_the_close_is_there_after_it() {
    let house = House::new();
    let books = house.open();
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(ask("1", 10)).unwrap();
    complete(&mut entry, index, used(1, 1));
    let _ticket = entry.finish(done(index));
    books.close();
    assert!(books.open_entry(head(&books, "key_a")).is_err());
    drop(books);
    assert_eq!(all(&house.open())[0].key, key_id("key_a"));
}

#[test]
fn an_index_that_was_made_of_another_journal_is_not_believed() {
    let ours = House::new();
    let books = ours.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    let branched = ours.crashed();
    for n in 0..20 {
        ours.hand.set(super::harness::NOON + n * 1_000);
        request(&books, "key_a", ask("1", 10), used(10, 20)).unwrap();
    }
    let told = |books: &Books| (books.keys(), books.budgets());
    let before = told(&books);
    books.close();
    drop(books);

    // A directory of its own, and a copy that went its own way.
    let another = House::new();
    another.hand.set(super::harness::NOON + 500);
    for (other, name) in [(another, "key_b"), (branched, "key_c")] {
        let books = other.open();
        for n in 0..5 {
            other.hand.set(super::harness::NOON + 7_700 + n * 100);
            books.put_key(key(name, Vec::new())).blocking().unwrap();
        }
        books.close();
        drop(books);
        fs::remove_dir_all(other.journal()).unwrap();
        super::harness::copy(&ours.journal(), &other.journal()).unwrap();
        let (books, recovered) = other.try_open().unwrap();
        assert!(recovered.index_set_aside.is_some(), "{name}");
        assert_eq!(told(&books), before, "{name}");
        assert!(books.verify().is_clean(), "{name}: {:?}", books.verify());
        books.close();
        drop(books);
        let (_books, recovered) = other.try_open().unwrap();
        assert_eq!(recovered.index_set_aside, None, "{name}: its own is believed");
    }
}
