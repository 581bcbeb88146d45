//! Past attempts rated anew: exact, once, and beside what was booked.

use super::harness::{
    House, NOON, ask, complete, done, free, head, key, key_id, money, request, segment,
    token_price, usd, used,
};
use crate::{
    caller::Window,
    config::DailyExport,
    ledger::{
        Adjustment, Books, Filter, GroupBy, OrderBy, Place, Reader, Rerate, Rerated, Summary,
        SummaryQuery, keeper::seal_all,
    },
    upkeep,
};
use policies::{Fees, PicoUsdTotal, PriceId, RouteId, RoutePrice, TokenPrice};
use std::{fs, sync::Arc};

const HOUR: u64 = 3_600_000;

/// One cent per token of input, and so many for one of output.
fn costs(output: &str) -> RoutePrice {
    let mut price = token_price();
    price.id = PriceId(Arc::from(format!("corrected-{output}")));
    price.standard.base.output = usd(output);
    RoutePrice::Tokens(Arc::new(price))
}

/// Rates what went to `cloud` with `price`, and nothing else.
fn rerate(books: &Books, filter: &Filter, price: &RoutePrice, reason: Option<&str>) -> Rerated {
    let price = |_: &_, attempt: &crate::ledger::Attempt| {
        (attempt.route == RouteId::new("cloud")).then(|| price.clone())
    };
    books.rerate(&Rerate { filter, price: &price, apply: reason }).unwrap()
}

/// Twelve hours with ten requests each, of two keys, every fourth of them free; then closed and its
/// hours are over.
fn filled(house: &House) -> Books {
    let books = house.open();
    books.put_key(key("key_a", vec![money(Window::Total, "100000")])).blocking().unwrap();
    for at in 0..120_u64 {
        house.hand.set(NOON + at * HOUR / 10);
        let (name, ask) = if at % 4 == 3 { ("key_b", free(50)) } else { ("key_a", ask("1", 50)) };
        request(&books, name, ask, used(3, at % 10)).unwrap();
    }
    house.hand.set(NOON + 24 * HOUR);
    request(&books, "key_a", ask("1", 50), used(1, 0)).unwrap();
    books
}

/// What the requests of [`filled`] cost at so many pico-USD for a token of output.
fn total(output: &str, last: bool) -> u128 {
    let paid = (0..120_u64).filter(|at| at % 4 != 3);
    let cost = |at: u64| usd("0.03").pico() + usd(output).pico() * (at % 10);
    let last = if last { usd("0.01").pico() } else { 0 };
    u128::from(paid.map(cost).sum::<u64>() + last)
}

fn summary(reader: &Reader, group_by: &[GroupBy], exact: bool) -> Summary {
    let query = SummaryQuery {
        group_by: group_by.to_vec(),
        order_by: OrderBy::Name,
        exact: Some(exact),
        ..SummaryQuery::default()
    };
    reader.summary(&query).unwrap()
}

/// Every way to sum says `cost` in all, and by rows and rollups the same of each group.
fn every_sum_says(books: &Books, cost: u128) {
    let reader = books.reader();
    let hours = [GroupBy::Hour];
    let groupings: [&[GroupBy]; 6] = [
        &[],
        &[GroupBy::Route],
        &[GroupBy::Model, GroupBy::Provider],
        &[GroupBy::Key],
        &hours,
        &[GroupBy::Route, GroupBy::Key, GroupBy::Day],
    ];
    for by in groupings {
        let (rows, rollups) = (summary(&reader, by, true), summary(&reader, by, false));
        assert!(rollups.spans_from_rollups > 0);
        for sums in [&rows, &rollups] {
            assert_eq!(sums.total.cost_usd.pico(), cost, "{by:?}");
            if !by.is_empty() {
                let groups: u128 = sums.groups.iter().map(|group| group.line.cost_usd.pico()).sum();
                assert_eq!(groups, cost, "{by:?}");
            }
        }
        let each = |sums: &Summary| -> Vec<(Vec<String>, PicoUsdTotal)> {
            sums.groups.iter().map(|group| (group.names.clone(), group.line.cost_usd)).collect()
        };
        assert_eq!(each(&rows), each(&rollups), "{by:?}");
    }
}

#[test]
fn a_dry_run_says_exactly_what_would_change_and_writes_nothing() {
    let house = House::new();
    let books = filled(&house);
    let before = fs::metadata(segment(&house)).unwrap().len();
    let rated = rerate(&books, &Filter::default(), &costs("0.03"), None);
    // Nine of ten had a token of output; each of them costs a cent a token more.
    assert_eq!((rated.sums.before.pico(), rated.sums.now.pico()), {
        let changed = (0..120_u64).filter(|at| at % 4 != 3 && at % 10 > 0);
        let sum = |output: u64| -> u128 {
            let of = |at| u128::from(usd("0.03").pico() + usd("0.01").pico() * output * (at % 10));
            changed.clone().map(of).sum()
        };
        (sum(2), sum(3))
    });
    assert_eq!(rated.changed + rated.unchanged, 91, "every attempt with a price");
    assert_eq!(rated.left_out.values().sum::<u64>(), 30, "what has no price is said");
    assert_eq!(fs::metadata(segment(&house)).unwrap().len(), before);
    every_sum_says(&books, total("0.02", true));
}

#[test]
fn the_file_of_a_day_has_what_was_adjusted_after_it_was_written() {
    let house = House::new().with(|config| config.segment_entries_max = 40);
    let books = filled(&house);
    let dir = tempfile::tempdir().unwrap();
    let day = NOON / (24 * HOUR);
    let export = || upkeep::export(&books, DailyExport::Focus, dir.path(), day + 1).1.unwrap();
    export();
    let file = fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    // The BilledCost column is the second, and nothing before it is quoted.
    let sum = || -> i128 {
        let text = zstd::decode_all(fs::File::open(&file).unwrap()).unwrap();
        let text = String::from_utf8(text).unwrap();
        let costs = text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap().to_owned());
        let pico = |cost: String| match cost.strip_prefix('-') {
            Some(credit) => -i128::from(usd(credit).pico()),
            None => i128::from(usd(&cost).pico()),
        };
        costs.map(pico).sum()
    };
    assert_eq!(sum(), i128::try_from(total("0.02", false)).unwrap());

    rerate(&books, &Filter::default(), &costs("0.03"), Some("a typing error"));
    export();
    assert_eq!(sum(), i128::try_from(total("0.03", false)).unwrap());
    rerate(&books, &Filter::default(), &costs("0.005"), Some("cheaper after all"));
    export();
    assert_eq!(sum(), i128::try_from(total("0.005", false)).unwrap());

    // Once it has all it is left as it is, and so it is where a part of the day was dropped.
    fs::write(&file, "as it was").unwrap();
    export();
    assert_eq!(fs::read(&file).unwrap(), b"as it was");
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    assert!(books.retire(NOON + 6 * HOUR).unwrap().segments > 0);
    rerate(&books, &Filter::default(), &costs("0.03"), Some("once more"));
    export();
    assert_eq!(fs::read(&file).unwrap(), b"as it was");
}

#[test]
fn sums_exports_and_entries_have_the_corrected_cost_and_budgets_what_they_were_charged() {
    let house = House::new();
    let mut books = filled(&house);
    let spent = books.budgets()[0].money.unwrap().spent;
    let first = rerate(&books, &Filter::default(), &costs("0.03"), Some("a typing error"));
    every_sum_says(&books, total("0.03", true));
    // Done again it does nothing; another price goes on from the one before.
    let again = rerate(&books, &Filter::default(), &costs("0.03"), Some("again"));
    assert_eq!((again.changed, again.unchanged), (0, first.changed + first.unchanged));
    let cheaper = rerate(&books, &Filter::default(), &costs("0.005"), Some("cheaper after all"));
    assert_eq!(cheaper.sums.before, first.sums.now);
    // What is adjusted already takes no second place.
    assert_eq!((first.added, cheaper.added), (first.changed, 0));
    assert!(cheaper.sums.signed().starts_with('-'), "{}", cheaper.sums.signed());
    every_sum_says(&books, total("0.005", true));
    assert_eq!(books.budgets()[0].money.unwrap().spent, spent, "budgets keep what was charged");
    // Over a restart, with the index and without it, and for who only reads.
    for rebuilt in [false, true] {
        assert!(books.verify().is_clean(), "{:?}", books.verify());
        assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
        every_sum_says(&books, total("0.005", true));
        books.close();
        drop(books);
        if rebuilt {
            fs::remove_dir_all(house.data().join("index")).unwrap();
        }
        let read = Reader::open(house.data()).unwrap();
        assert_eq!(summary(&read, &[], true).total.cost_usd.pico(), total("0.005", true));
        assert!(read.verify().is_clean());
        books = house.open();
    }
    every_sum_says(&books, total("0.005", true));
    // An entry stays as it was, with its adjustments beside it.
    let filter = Filter { min_cost: Some(usd("0.07")), ..Filter::default() };
    let page = books.requests(&filter, None, 1_000).unwrap().entries;
    let dear = (0..120).filter(|at| at % 4 != 3 && at % 10 >= 8).count();
    assert_eq!(page.len(), dear, "a filter by cost looks at the cost of now");
    let made = books.reader().adjustments_of(page[0].id).unwrap();
    let steps: Vec<_> = made.iter().map(|(_, one)| (one.cost_before, one.cost)).collect();
    assert_eq!(page[0].cost, steps[0].0, "as it was booked");
    assert_eq!(steps[0].1, steps[1].0, "each goes on from the one before");
    assert_eq!(made[1].1.reason, "cheaper after all");
}

#[test]
fn only_the_time_and_the_model_that_were_meant_are_rated_anew() {
    let house = House::new();
    let books = filled(&house);
    let hour = |from, to| Filter {
        from_unix_ms: Some(NOON + from * HOUR),
        to_unix_ms: Some(NOON + to * HOUR),
        ..Filter::default()
    };
    let other = Filter { model: Some("large".to_owned()), ..Filter::default() };
    assert_eq!(rerate(&books, &other, &costs("9"), Some("no such model")).changed, 0);
    let rated = rerate(&books, &hour(2, 5), &costs("0.04"), Some("three hours"));
    let meant = (20..50_u64).filter(|at| at % 4 != 3 && at % 10 > 0);
    assert_eq!(rated.changed, meant.clone().count() as u64);
    let more: u64 = meant.map(|at| usd("0.02").pico() * (at % 10)).sum();
    every_sum_says(&books, total("0.02", true) + u128::from(more));
}

#[test]
fn what_was_unknown_becomes_known_and_what_cannot_be_rated_exactly_is_left_out() {
    let house = House::new();
    let books = house.open();
    let unpriced = || crate::ledger::Ask { price: RoutePrice::Unknown, ..ask("1", 50) };
    request(&books, "key_a", unpriced(), used(3, 4)).unwrap();
    // Nobody knows what it used.
    let mut entry = books.open_entry(head(&books, "key_a")).unwrap();
    let (index, _ticket) = entry.reserve(unpriced()).unwrap();
    entry.end_attempt(index, crate::ledger::AttemptOutcome::Broken, false);
    entry.finish(done(index)).blocking().unwrap();
    // With images, whose number is not written down.
    let mut with_images = head(&books, "key_a");
    with_images.decision.facts.request.images = true;
    let mut entry = books.open_entry(with_images).unwrap();
    let (index, _ticket) = entry.reserve(unpriced()).unwrap();
    complete(&mut entry, index, used(3, 4));
    entry.finish(done(index)).blocking().unwrap();

    let fees = Fees { per_image: usd("0.5"), ..Fees::default() };
    let price = RoutePrice::Tokens(Arc::new(TokenPrice { fees, ..token_price() }));
    let rated = rerate(&books, &Filter::default(), &price, Some("now it is known"));
    assert_eq!((rated.changed, rated.sums.unknown_before), (1, 1));
    assert_eq!(rated.left_out.len(), 2, "{:?}", rated.left_out);
    let sums = summary(&books.reader(), &[], true).total;
    assert_eq!((sums.cost_usd.pico(), sums.unknown_cost), (u128::from(usd("0.11").pico()), 2));
    assert!(books.verify().is_clean());
}

#[test]
fn after_a_crash_in_the_middle_doing_it_again_does_the_rest_and_nothing_twice() {
    let house = House::new().with(|config| config.segment_entries_max = 40);
    let books = filled(&house);
    books.catch_up();
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    // Some were written when the process died.
    let part = Filter { to_unix_ms: Some(NOON + 4 * HOUR), ..Filter::default() };
    let some = rerate(&books, &part, &costs("0.03"), Some("a typing error"));
    let house = house.crashed();
    let books = house.open();
    let dry = rerate(&books, &Filter::default(), &costs("0.03"), None);
    let rest = rerate(&books, &Filter::default(), &costs("0.03"), Some("a typing error"));
    assert_eq!(dry, rest);
    assert_eq!(rest.unchanged, some.changed + 13, "thirteen had no token of output");
    every_sum_says(&books, total("0.03", true));
    // Sealed with its adjustments, the journal alone says the same.
    for _ in 0..50 {
        request(&books, "key_c", free(1), used(0, 0)).unwrap();
    }
    books.catch_up();
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    let read = Reader::open(house.data()).unwrap();
    assert_eq!(summary(&read, &[], true).total.cost_usd.pico(), total("0.03", true));
    assert!(books.verify().is_clean() && read.verify().is_clean());
}

#[test]
fn sums_of_days_that_were_dropped_keep_their_corrections() {
    let house = House::new().with(|config| config.segment_entries_max = 40);
    let books = filled(&house);
    rerate(&books, &Filter::default(), &costs("0.03"), Some("a typing error"));
    for _ in 0..80 {
        request(&books, "key_c", free(1), used(0, 0)).unwrap();
    }
    books.catch_up();
    seal_all(&books.0.catalogue, &false.into()).unwrap();
    house.hand.set(NOON + 40 * 24 * HOUR);
    request(&books, "key_c", free(1), used(0, 0)).unwrap();
    let dropped = books.retire(NOON + 30 * 24 * HOUR).unwrap();
    assert!(dropped.segments > 0);
    let by_day = |books: &Books| summary(&books.reader(), &[GroupBy::Day], false).total.cost_usd;
    assert_eq!(by_day(&books).pico(), total("0.03", true));
    books.close();
    drop(books);
    fs::remove_dir_all(house.data().join("index")).unwrap();
    let books = house.open();
    assert_eq!(by_day(&books).pico(), total("0.03", true));
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn an_adjustment_that_does_not_go_on_from_what_its_attempt_cost_is_found() {
    let house = House::new();
    let books = house.open();
    let id = request(&books, "key_a", ask("1", 50), used(3, 4)).unwrap();
    let place = Place {
        route: RouteId::new("cloud"),
        model: "small".into(),
        provider: "acme".into(),
        key: key_id("key_a"),
    };
    let right = Adjustment {
        id,
        attempt: 0,
        price_before: None,
        price: None,
        cost_before: Some(usd("0.11")),
        cost: Some(usd("0.2")),
        reason: "by hand".to_owned(),
        ended_unix_ms: NOON,
        place,
    };
    books.adjust(&right).blocking().unwrap();
    assert!(books.verify().is_clean(), "{:?}", books.verify());
    for wrong in [
        Adjustment { cost_before: Some(usd("0.11")), ..right.clone() },
        Adjustment { attempt: 1, ..right.clone() },
        Adjustment { id: books.request_id(), ..right },
    ] {
        let before = books.verify().findings.len();
        books.adjust(&wrong).blocking().unwrap();
        assert_eq!(books.verify().findings.len(), before + 1, "{wrong:?}");
    }
}
