//! What is older than it is to be kept goes, and nothing that it added up to is forgotten.

use super::harness::{House, NOON, ask, key, money, request, used};
use crate::{
    caller::Window,
    clock::{Clock, Hand},
    config::{Config, DailyExport, Environment, Surroundings},
    ledger::{
        Books, Filter, GroupBy, Reader, Rerate, SummaryQuery, checkpoint,
        keeper::seal_all,
        rollups::{Level, SETS, Span},
        verify::stored,
    },
    serve::Gateway,
    start,
    store::base::Base,
    upkeep,
};
use policies::{PolicyName, PolicyVersion};
use std::{fs, path::Path, sync::Arc};

const DAY_MS: u64 = 86_400_000;

/// Four days with ten requests each, five to a segment, all full ones sealed.
fn four_days() -> (House, Books) {
    let (house, books) = four_days_unsealed();
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    (house, books)
}

/// The same, sealed as far as the keeper has come.
fn four_days_unsealed() -> (House, Books) {
    let house = House::new().with(|config| config.segment_entries_max = 5);
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    let version = PolicyVersion(Arc::from("v1"));
    books.put_policy(&PolicyName(Arc::from("mine")), &version, "text").blocking().unwrap();
    for day in 0..4 {
        for at in 0..10 {
            house.hand.set(NOON + day * DAY_MS + at * 1_000);
            request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
        }
    }
    (house, books)
}

fn requests(books: &Books) -> usize {
    books.requests(&Filter::default(), None, 1_000).unwrap().entries.len()
}

#[test]
fn every_day_has_its_file_before_it_may_go_however_old_it_is() {
    let (house, books) = four_days();
    house.hand.set(NOON + 10 * DAY_MS);
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let first = NOON / DAY_MS;
    let export = || upkeep::export(&books, DailyExport::Jsonl, dir.path(), first + 411);
    let files = || {
        let files = fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().file_name());
        let mut files: Vec<String> = files.map(|name| name.into_string().unwrap()).collect();
        files.sort();
        files
    };
    // One of them cannot be written: there is a directory in its place.
    let in_the_way = dir.path().join("2026-06-02.jsonl.part");
    fs::create_dir(&in_the_way).unwrap();
    let (until, outcome) = export();
    assert!(outcome.is_err());
    assert_eq!(until, first + 1, "nothing of that day or a later one may go");
    fs::remove_dir(&in_the_way).unwrap();
    let written = files();
    assert_eq!(written[..2], ["2026-06-01.jsonl.zst", "2026-06-03.jsonl.zst"]);
    let (until, outcome) = export();
    assert_eq!((until, outcome.is_ok()), (first + 411, true));
    // Those with entries that are older than 400 days, and every later one.
    let days: Vec<String> = files().iter().map(|name| name[..10].to_owned()).collect();
    let old = ["2026-06-01", "2026-06-02", "2026-06-03", "2026-06-04", "2026-06-11", "2026-06-12"];
    assert_eq!(days[..6], old);
    assert_eq!(days.len(), 5 + 400);
    let file = fs::File::open(dir.path().join("2026-06-02.jsonl.zst")).unwrap();
    let text = String::from_utf8(zstd::decode_all(file).unwrap()).unwrap();
    assert_eq!(text.lines().count(), 10);
}

/// A server that keeps entries for two days and writes every day out, and its clock.
fn that_keeps_two_days(dir: &Path) -> (Arc<Gateway>, Hand) {
    let text = "[ledger]\nsegment_entries_max = 5\nkeep_days = 2\ndaily_export = \"jsonl\"\n\
                [policy]\nshipped = \"cloud-only\"\n[routes.c]\nkind = \"openai\"\n\
                provider = \"p\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n";
    let (environment, now_s) = (Environment::Needed, NOON / 1_000);
    let surroundings = Surroundings { lookup: &|_| None, environment, now_s };
    let config = Config::parse(text, &dir.join("tollgate.toml"), surroundings).unwrap();
    let (clock, hand) = Clock::standing(NOON);
    (start::offline(config, clock).unwrap(), hand)
}

#[test]
fn nothing_is_dropped_before_every_day_has_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let (gateway, hand) = that_keeps_two_days(dir.path());
    let books = &gateway.books;
    books.put_key(key("key_a", vec![money(Window::Total, "100")])).blocking().unwrap();
    for day in 0..4 {
        for at in 0..10 {
            hand.set(NOON + day * DAY_MS + at * 1_000);
            request(books, "key_a", ask("1", 10), used(1, 1)).unwrap();
        }
    }
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    let spent = books.budgets()[0].money.unwrap().spent;
    hand.set(NOON + 10 * DAY_MS);
    let exports = gateway.config.data_dir.join("exports");
    // One day cannot be written: there is a directory in its place.
    let in_the_way = exports.join("2026-06-02.jsonl.part");
    fs::create_dir_all(&in_the_way).unwrap();
    upkeep::once(&gateway).unwrap_err();
    assert_eq!(requests(books), 30, "all but the first day's, which has its file, are there still");

    fs::remove_dir(&in_the_way).unwrap();
    upkeep::once(&gateway).unwrap();
    assert_eq!(requests(books), 0);
    let lines = fs::read_dir(exports).unwrap().map(|file| {
        let file = fs::File::open(file.unwrap().path()).unwrap();
        String::from_utf8(zstd::decode_all(file).unwrap()).unwrap().lines().count()
    });
    assert_eq!(lines.sum::<usize>(), 40, "and are in the files");
    assert_eq!(books.budgets()[0].money.unwrap().spent, spent);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    // All that was full is gone, and what is written now is there.
    request(books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert_eq!(requests(books), 1);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    books.close();
}

#[test]
fn a_day_that_cannot_be_read_keeps_no_other_one_from_its_file_and_leaves_no_part_of_one() {
    let (house, books) = four_days();
    // The third segment holds the first half of the second day.
    let mut files: Vec<_> =
        fs::read_dir(house.journal()).unwrap().map(|item| item.unwrap().path()).collect();
    files.retain(|path| path.extension().is_some_and(|ending| ending == "sealed"));
    files.sort();
    let mut bytes = fs::read(&files[2]).unwrap();
    let middle = bytes.len() / 5;
    bytes[middle] ^= 1;
    fs::write(&files[2], bytes).unwrap();
    let (dir, first) = (tempfile::tempdir().unwrap(), NOON / DAY_MS);
    let (until, outcome) = upkeep::export(&books, DailyExport::Csv, dir.path(), first + 4);
    assert_eq!((until, outcome.is_err()), (first + 1, true));
    assert_eq!(exported(dir.path()), ["2026-06-01", "2026-06-03", "2026-06-04"]);
}

#[test]
fn a_day_of_which_entries_were_dropped_gets_no_file_of_the_rest() {
    let (_house, books) = four_days();
    assert_eq!(books.retire(NOON + DAY_MS + 5_000).unwrap().segments, 3);
    let (dir, first) = (tempfile::tempdir().unwrap(), NOON / DAY_MS);
    let (until, outcome) = upkeep::export(&books, DailyExport::Csv, dir.path(), first + 4);
    assert_eq!((until, outcome.is_ok()), (first + 4, true));
    assert_eq!(exported(dir.path()), ["2026-06-03", "2026-06-04"]);
}

/// The days of a directory's files, by name.
fn exported(dir: &Path) -> Vec<String> {
    let files = fs::read_dir(dir).unwrap().map(|file| file.unwrap().file_name());
    let mut days: Vec<_> = files
        .map(|name| name.into_string().unwrap())
        .map(|name| name.strip_suffix(".csv.zst").unwrap_or(&name).to_owned())
        .collect();
    days.sort();
    days
}

#[test]
fn a_kept_request_keeps_the_text_of_the_policy_that_decided_it() {
    let (house, books) = four_days();
    let [first, second] = ["v1", "v2"].map(|version| PolicyVersion(Arc::from(version)));
    let name = PolicyName(Arc::from("mine"));
    books.put_policy(&name, &second, "new text").blocking().unwrap();
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    for day in [1, 2] {
        assert_eq!(books.retire(NOON + day * DAY_MS).unwrap().segments, 2);
        let text = |version| books.policy_source(version).unwrap();
        assert_eq!(text(&first).as_deref(), Some("text"));
        assert_eq!(text(&second).as_deref(), Some("new text"));
        let versions: Vec<_> =
            books.policies().into_iter().map(|note| note.version.0.to_string()).collect();
        assert_eq!(versions, ["v1", "v2"], "none came into force anew");
    }
    let alone = Reader::open(house.data()).unwrap();
    assert_eq!(alone.policy_source(&first).unwrap().as_deref(), Some("text"));
}

#[test]
fn a_minute_that_a_checkpoint_forgot_meanwhile_is_not_missing() {
    let (house, books) = four_days();
    let keeper = &books.0.keeper;
    let minute = NOON + 3 * DAY_MS;
    let span = Span { level: Level::Minute, at: minute / Level::Minute.ms() };
    assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
    let rollups = keeper.derived().rollups.clone();
    house.hand.set(minute + 3 * DAY_MS);
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
    assert!(stored(keeper, &rollups, span).is_none());
}

#[test]
fn a_dropped_segment_that_came_back_is_nothing_to_a_start() {
    let (house, books) = four_days();
    let oldest = house.journal().join("00000000000000000001.sealed");
    let bytes = fs::read(&oldest).unwrap();
    books.retire(NOON + 2 * DAY_MS).unwrap();
    books.close();
    drop(books);
    fs::write(&oldest, bytes).unwrap();
    let books = house.open();
    assert_eq!(requests(&books), 20);
    assert!(books.verify().is_clean());
}

#[test]
fn old_days_go_and_balances_keys_policies_and_sums_stay() {
    let (house, books) = four_days();
    let spent = books.budgets()[0].money.unwrap().spent;
    let retired = books.retire(NOON + 2 * DAY_MS).unwrap();
    assert_eq!((retired.segments, retired.entries), (4, 20));
    assert_eq!(requests(&books), 20);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
    books.close();
    drop(books);

    // The index is thrown away: what was dropped now stands in the base alone.
    fs::remove_dir_all(house.data().join("index")).unwrap();
    let books = house.open();
    assert_eq!(books.budgets()[0].money.unwrap().spent, spent);
    assert_eq!(books.keys().len(), 1);
    let version = PolicyVersion(Arc::from("v1"));
    assert_eq!(books.policy_source(&version).unwrap().as_deref(), Some("text"));
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    let all = SummaryQuery {
        filter: Filter { from_unix_ms: Some(NOON - NOON % DAY_MS), ..Filter::default() },
        group_by: vec![GroupBy::Day],
        exact: Some(false),
        ..SummaryQuery::default()
    };
    let days = books.summary(&all).unwrap();
    // Their entries are gone, their sums are not.
    assert_eq!((days.total.requests, days.groups.len()), (40, 4));
    books.close();
    drop(books);

    // And the index that was made from the base is whole.
    let books = house.open();
    assert_eq!(books.budgets()[0].money.unwrap().spent, spent);
    assert_eq!((books.keys().len(), books.summary(&all).unwrap().total.requests), (1, 40));
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_sum_over_dropped_days_has_them_or_says_that_it_has_not() {
    let (house, books) = four_days();
    let whole = books.summary(&SummaryQuery::default()).unwrap();
    books.retire(NOON + 2 * DAY_MS).unwrap();
    let kept_since = Some(NOON + 2 * DAY_MS);
    let sum = |query: &SummaryQuery| {
        let sum = books.summary(query).unwrap();
        (sum.total.requests, sum.total.cost_usd, sum.dropped_before_unix_ms)
    };
    let cost = whole.total.cost_usd;
    assert_eq!((whole.total.requests, whole.dropped_before_unix_ms), (40, None));
    assert_eq!(sum(&SummaryQuery::default()), (40, cost, None));

    // A day of which no entry is kept.
    let midnight = NOON - NOON % DAY_MS;
    let first_day = Filter {
        from_unix_ms: Some(midnight),
        to_unix_ms: Some(midnight + DAY_MS),
        ..Filter::default()
    };
    let query = SummaryQuery { filter: first_day, ..SummaryQuery::default() };
    assert_eq!((sum(&query).0, sum(&query).2), (10, None));
    assert_eq!(sum(&SummaryQuery { exact: Some(false), ..query }).0, 10);

    // What rollups do not tell.
    let by_user = SummaryQuery { group_by: vec![GroupBy::User], ..SummaryQuery::default() };
    assert_eq!((sum(&by_user).0, sum(&by_user).2), (20, kept_since));
    let exact = SummaryQuery { exact: Some(true), ..SummaryQuery::default() };
    assert_eq!((sum(&exact).0, sum(&exact).2), (20, kept_since));
    let since = Filter { from_unix_ms: kept_since, ..Filter::default() };
    assert_eq!(sum(&SummaryQuery { filter: since, ..exact }).2, None);

    // And what is rated anew.
    let rated = |filter: &Filter| {
        let asked = Rerate { filter, price: &|_, _| None, apply: None };
        books.rerate(&asked).unwrap().dropped_before_unix_ms
    };
    assert_eq!(rated(&Filter::default()), kept_since);
    assert_eq!(rated(&Filter { from_unix_ms: kept_since, ..Filter::default() }), None);

    // Nor is there anyone to ask without a server.
    let alone = Reader::open(house.data()).unwrap().summary(&SummaryQuery::default()).unwrap();
    assert_eq!((alone.total.requests, alone.dropped_before_unix_ms), (20, kept_since));
}

#[test]
fn a_rebuild_finds_and_keeps_the_minutes_since_the_last_checkpoint() {
    let (_house, books) = four_days();
    assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
    let index = books.0.keeper.index.as_ref().unwrap();
    let at = (NOON + 2 * DAY_MS) / Level::Minute.ms();
    let rows = checkpoint::span_rows(index, Span { level: Level::Minute, at }, &SETS).unwrap();
    assert!(!rows.is_empty(), "the minute was over, and only in memory");
}

#[test]
fn two_that_seal_at_once_do_not_get_in_each_others_way() {
    let (_house, books) = four_days_unsealed();
    // The last segment is full, and ended before the next event is written: none ends meanwhile.
    request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    let catalogue = &books.0.catalogue;
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| seal_all(catalogue, &false.into()).unwrap());
        }
    });
    assert!(catalogue.unsealed().is_empty());
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_second_time_goes_on_from_the_first() {
    let (house, books) = four_days();
    let spent = books.budgets()[0].money.unwrap().spent;
    books.retire(NOON + DAY_MS).unwrap();
    assert_eq!(books.retire(NOON + DAY_MS).unwrap().segments, 0);
    books.retire(NOON + 3 * DAY_MS).unwrap();
    books.close();
    drop(books);
    fs::remove_dir_all(house.data().join("index")).unwrap();
    let books = house.open();
    assert_eq!((requests(&books), books.budgets()[0].money.unwrap().spent), (10, spent));
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_crash_between_the_base_and_the_deletion_loses_and_doubles_nothing() {
    let (house, books) = four_days();
    let after = house.crashed();
    let spent = books.budgets()[0].money.unwrap().spent;
    books.retire(NOON + 2 * DAY_MS).unwrap();
    // The base is there, the segments are too.
    for item in fs::read_dir(house.journal()).unwrap() {
        let path = item.unwrap().path();
        if path.extension().is_some_and(|ending| ending == "base") {
            fs::copy(&path, after.journal().join(path.file_name().unwrap())).unwrap();
        }
    }
    fs::remove_dir_all(after.data().join("index")).unwrap();
    let books = after.open();
    assert_eq!(books.budgets()[0].money.unwrap().spent, spent);
    assert_eq!(requests(&books), 40);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_first_segment_that_is_gone_without_a_base_is_an_error() {
    let (house, books) = four_days();
    books.close();
    drop(books);
    let mut files: Vec<_> = fs::read_dir(house.journal())
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "sealed"))
        .collect();
    files.sort();
    fs::remove_file(&files[0]).unwrap();
    assert_eq!(Base::begins(&house.journal()).unwrap(), 1);
    let error = house.try_open().unwrap_err().to_string();
    assert!(error.contains("gap: event 1"), "{error}");
}
