//! What the ledger answers.

use super::harness::{
    House, NOON, ask, complete, done, free, head, key, key_id, request, usd, used,
};
use crate::{
    admin::{
        ledger::{Ledger, Source},
        organization,
    },
    ledger::{
        Books, BooksError, Cursor, Filter, Group, GroupBy, OrderBy, Outcome, Percentiles, Reader,
        RequestId, Sessions, Summary, SummaryQuery, checkpoint,
        gather::Interner,
        rollups::{Level, SETS, Span},
    },
};
use axum::body::{Body, to_bytes};
use jiff::tz::TimeZone;
use policies::{RouteId, RuleName};
use serde_json::Value;
use std::sync::Arc;
use tower::ServiceExt as _;

/// 200 requests over 20 hours: three quarters of key_a on the cloud, the rest of key_b at home.
fn filled() -> (House, Books) {
    let house = House::new();
    let books = house.open();
    for at in 0..200_u64 {
        house.hand.set(NOON + at * 360_000);
        let (key, ask) = if at % 4 == 3 { ("key_b", free(9)) } else { ("key_a", ask("1", 9)) };
        let mut head = head(&books, key);
        head.session = Some(format!("run-{}", at % 5));
        head.decision.rule = RuleName(Arc::from(if at < 100 { "old" } else { "new" }));
        let mut entry = books.open_entry(head).unwrap();
        let (index, _ticket) = entry.reserve(ask).unwrap();
        complete(&mut entry, index, used(1, at % 10));
        let mut ending = done(index);
        ending.ttft_us = Some(1_000 + at);
        entry.finish(ending).blocking().unwrap();
    }
    (house, books)
}

#[test]
fn pages_go_from_the_newest_to_the_oldest_and_nothing_shifts_them() {
    let (house, books) = filled();
    let filter = Filter { key: Some(key_id("key_a")), ..Filter::default() };
    let mut cursor: Option<Cursor> = None;
    let mut seen = Vec::new();
    loop {
        let page = books.requests(&filter, cursor, 17).unwrap();
        seen.extend(page.entries.iter().map(|entry| entry.id));
        // Newer ones do not disturb it.
        house.hand.set(NOON + 999_000_000);
        request(&books, "key_a", ask("1", 9), used(1, 1)).unwrap();
        match page.next {
            Some(next) => cursor = Some(next.to_string().parse().unwrap()),
            None => break,
        }
    }
    assert_eq!(seen.len(), 150);
    assert!(seen.is_sorted_by(|newer, older| newer > older));
}

#[test]
fn every_filter_filters() {
    let (_house, books) = filled();
    let count = |filter: Filter| books.requests(&filter, None, 1_000).unwrap().entries.len();
    let none = Filter::default;
    assert_eq!(count(none()), 200);
    assert_eq!(count(Filter { route: Some(RouteId::new("edge")), ..none() }), 50);
    assert_eq!(count(Filter { model: Some("small".to_owned()), ..none() }), 200);
    assert_eq!(count(Filter { rule: Some(RuleName(Arc::from("old"))), ..none() }), 100);
    assert_eq!(count(Filter { outcome: Some(Outcome::Failed), ..none() }), 0);
    assert_eq!(count(Filter { session: Some("run-2".to_owned()), ..none() }), 40);
    assert_eq!(count(Filter { user: Some("ada".to_owned()), ..none() }), 200);
    assert_eq!(count(Filter { user: Some("eve".to_owned()), ..none() }), 0);
    assert_eq!(count(Filter { team: Some("red".to_owned()), ..none() }), 0);
    assert_eq!(count(Filter { tag: Some("test".to_owned()), ..none() }), 200);
    assert_eq!(count(Filter { from_unix_ms: Some(NOON + 36_000_000), ..none() }), 100);
    assert_eq!(count(Filter { to_unix_ms: Some(NOON + 3_600_000), ..none() }), 10);
    // 0.01 + 0.02 x (0 to 9), on the cloud: from 0.15 on for 7, 8, 9.
    let dear = count(Filter { min_cost: Some(usd("0.15")), ..none() });
    assert_eq!(dear, (0..200).filter(|at| at % 4 != 3 && at % 10 >= 7).count());
}

#[test]
fn rollups_and_rows_give_the_same_exact_sums_and_percentiles_within_one_percent() {
    let (_house, books) = filled();
    let groups = [
        vec![],
        vec![GroupBy::Route],
        vec![GroupBy::Model],
        vec![GroupBy::Key],
        vec![GroupBy::Route, GroupBy::Key],
    ];
    // From the middle of an hour to the middle of another: the edges are read.
    let filter = Filter {
        from_unix_ms: Some(NOON + 5_000_000),
        to_unix_ms: Some(NOON + 50_000_000),
        ..Filter::default()
    };
    for group_by in groups {
        let query = |exact| SummaryQuery {
            filter: filter.clone(),
            group_by: group_by.clone(),
            exact: Some(exact),
            ..SummaryQuery::default()
        };
        let rows = books.summary(&query(true)).unwrap();
        let rollups = books.summary(&query(false)).unwrap();
        assert_eq!(
            (rows.percentiles, rollups.percentiles),
            (Percentiles::Exact, Percentiles::Sketch)
        );
        assert!(rollups.spans_from_rollups >= 11 && rollups.entries_read < rows.entries_read);
        assert_eq!(rows.groups.len(), rollups.groups.len());
        let exact: Vec<_> = rows.groups.iter().chain([&total(&rows)]).cloned().collect();
        let sketched: Vec<_> = rollups.groups.iter().chain([&total(&rollups)]).cloned().collect();
        for (one, other) in exact.iter().zip(&sketched) {
            assert_eq!(one.names, other.names);
            let (one, other) = (&one.line, &other.line);
            assert_eq!(
                (one.requests, one.attempts, one.usage, one.cost_usd, &one.outcomes),
                (other.requests, other.attempts, other.usage, other.cost_usd, &other.outcomes)
            );
            assert_eq!(one.ttft_us.count, other.ttft_us.count);
            let (exact, sketch) = (one.ttft_us.p95.unwrap(), other.ttft_us.p95.unwrap());
            assert!(exact.abs_diff(sketch) * 100 <= exact * 2, "{exact} {sketch}");
        }
    }
}

fn total(summary: &Summary) -> Group {
    Group { names: Vec::new(), line: summary.total.clone() }
}

#[test]
fn a_summary_by_rule_reads_entries_and_groups_sum_to_the_total() {
    let (_house, books) = filled();
    let query = SummaryQuery { group_by: vec![GroupBy::Rule], ..SummaryQuery::default() };
    let summary = books.summary(&query).unwrap();
    let names: Vec<_> = summary.groups.iter().map(|group| group.names[0].as_str()).collect();
    assert_eq!(names.len(), 2);
    assert_eq!(summary.groups.iter().map(|group| group.line.requests).sum::<u64>(), 200);
    let cost: u128 = summary.groups.iter().map(|group| group.line.cost_usd.pico()).sum();
    assert_eq!(cost, summary.total.cost_usd.pico());
    assert_eq!(summary.total.ttft_us.p50, Some(1_099));
    assert_eq!(summary.total.ttft_us.p99, Some(1_197));
}

#[test]
fn sessions_and_users_are_counted_up_to_a_cap_and_nothing_of_more_is_kept() {
    let (_house, books) = filled();
    let numbers = |by: &[GroupBy], room| {
        let interner = Interner::with_room(room, usize::MAX);
        let query = SummaryQuery { group_by: by.to_vec(), ..SummaryQuery::default() };
        let summary = books.reader().summary_within(&query, &interner).unwrap();
        assert_eq!(summary.total.requests, 200);
        let groups = summary.groups.iter().map(|group| group.line.sessions);
        ([summary.total.sessions, summary.total.users], groups.collect::<Vec<_>>(), interner.len())
    };
    // Five sessions of each of two keys and one user, in the total and with each key.
    assert_eq!(numbers(&[], 11), ([Some(10), Some(1)], vec![], 8));
    assert_eq!(numbers(&[], 10).0, [None; 2]);
    let by_key = [GroupBy::Key];
    assert_eq!(numbers(&by_key, 23), ([Some(10), Some(1)], vec![Some(5); 2], 8));
    assert_eq!(numbers(&by_key, 22).0, [None; 2]);
    // One session and one user were met before there was known to be no room.
    assert_eq!(numbers(&by_key, 0), ([None; 2], vec![None; 2], 4));
}

#[test]
fn exact_percentiles_are_refused_of_more_values_than_are_held() {
    let (_house, books) = filled();
    let sum = |by: &[GroupBy], exact, room| {
        let interner = Interner::with_room(usize::MAX, room);
        let group_by = by.to_vec();
        let query = SummaryQuery { group_by, exact: Some(exact), ..SummaryQuery::default() };
        books.reader().summary_within(&query, &interner).map(|summary| summary.total.requests)
    };
    assert_eq!(sum(&[], true, 3 * 200), Ok(200));
    assert_eq!(sum(&[], true, 3 * 200 - 1), Err(BooksError::TooManyValues(599)));
    assert_eq!(sum(&[GroupBy::Rule], true, 6 * 200), Ok(200));
    assert_eq!(sum(&[GroupBy::Rule], true, 6 * 200 - 1), Err(BooksError::TooManyValues(1_199)));
    assert_eq!(sum(&[GroupBy::Rule], false, 0), Ok(200));
}

#[test]
fn spellings_of_a_tag_are_one() {
    let house = House::new();
    let books = house.open();
    for tags in [&["Nightly"][..], &["nightly", "b"], &["NIGHTLY", "B"], &["b"], &[]] {
        let mut head = head(&books, "key_a");
        head.tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
        let mut entry = books.open_entry(head).unwrap();
        let (index, _ticket) = entry.reserve(ask("1", 9)).unwrap();
        complete(&mut entry, index, used(1, 1));
        entry.finish(done(index)).blocking().unwrap();
    }
    let count = |tag: &str| {
        let filter = Filter { tag: Some(tag.to_owned()), ..Filter::default() };
        books.requests(&filter, None, 9).unwrap().entries.len()
    };
    assert_eq!(["nightly", "nIGHTLY", "B", "nightl", ""].map(count), [3, 3, 3, 0, 0]);
    let query = SummaryQuery {
        group_by: vec![GroupBy::Tag],
        order_by: OrderBy::Name,
        ..SummaryQuery::default()
    };
    let summary = books.summary(&query).unwrap();
    let group = |group: &Group| (group.names[0].clone(), group.line.requests);
    let groups: Vec<_> = summary.groups.iter().map(group).collect();
    let expected = [("-", 1), ("b", 3), ("nightly", 3)];
    assert_eq!(groups, expected.map(|(name, requests)| (name.to_owned(), requests)));
    let kept = books.requests(&Filter::default(), None, 9).unwrap().entries;
    assert_eq!(kept.last().unwrap().tags, ["Nightly"], "as it was written");
}

#[test]
fn an_unknown_request_is_not_found() {
    let (_house, books) = filled();
    assert_eq!(books.request(books.request_id()).unwrap(), None);
    let text = "req_00000000000000000000000000000000".parse().unwrap();
    assert_eq!(books.request(text).unwrap(), None);
}

#[test]
fn an_unfiltered_day_by_hour_comes_from_rollups_as_from_rows() {
    let (_house, books) = filled();
    for group_by in [vec![GroupBy::Hour], vec![GroupBy::Day], vec![GroupBy::Day, GroupBy::Key]] {
        let query = |exact| SummaryQuery {
            group_by: group_by.clone(),
            order_by: OrderBy::Name,
            exact: Some(exact),
            ..SummaryQuery::default()
        };
        let figures = |summary: Summary| -> Vec<_> {
            let line = |group: Group| (group.names, group.line.requests, group.line.cost_usd);
            summary.groups.into_iter().map(line).collect()
        };
        let rollups = books.summary(&query(false)).unwrap();
        assert!(rollups.spans_from_rollups > 0);
        assert_eq!(figures(rollups), figures(books.summary(&query(true)).unwrap()));
    }
}

#[test]
fn sums_that_the_index_never_got_are_read_from_the_entries_and_added_up_at_the_next_start() {
    let house = House::new();
    let mut books = house.open();
    books.put_key(key("key_a", Vec::new())).blocking().unwrap();
    // More spans than are held until a checkpoint, which does not come.
    for minute in 0..400_u64 {
        house.hand.set(NOON + minute * 60_000);
        request(&books, "key_a", ask("1", 9), used(1, 0)).unwrap();
        books.catch_up();
    }
    house.hand.set(NOON + 400 * 60_000);
    request(&books, "key_a", ask("1", 9), used(1, 0)).unwrap();
    for restarted in [false, true] {
        let summary = |group_by: GroupBy| {
            let query = SummaryQuery {
                group_by: vec![group_by],
                exact: Some(false),
                top: None,
                ..SummaryQuery::default()
            };
            books.reader().summary(&query).unwrap()
        };
        for by in [GroupBy::Minute, GroupBy::Hour, GroupBy::Key] {
            let summary = summary(by);
            let grouped: u64 = summary.groups.iter().map(|group| group.line.requests).sum();
            assert_eq!((summary.total.requests, grouped), (401, 401), "{by:?} {restarted}");
        }
        let index = books.0.keeper.index.as_ref().unwrap();
        let minute = Span { level: Level::Minute, at: NOON / 60_000 };
        let stored = checkpoint::span_rows(index, minute, &SETS).unwrap();
        assert_eq!(stored.is_empty(), !restarted);
        books.close();
        drop(books);
        books = house.open();
    }
}

#[test]
fn every_grouping_adds_up_and_top_leaves_the_total_whole() {
    let (_house, books) = filled();
    for by in GroupBy::ALL {
        let query = SummaryQuery { group_by: vec![by], ..SummaryQuery::default() };
        let summary = books.summary(&query).unwrap();
        let requests: u64 = summary.groups.iter().map(|group| group.line.requests).sum();
        assert_eq!(requests, 200, "{by:?}");
        assert_eq!(summary.total.requests, 200);
    }
    let query = SummaryQuery {
        group_by: vec![GroupBy::Session],
        order_by: OrderBy::Requests,
        top: Some(2),
        ..SummaryQuery::default()
    };
    let summary = books.summary(&query).unwrap();
    assert_eq!((summary.groups.len(), summary.groups_left_out), (2, 3));
    assert_eq!((summary.total.requests, summary.total.sessions), (200, Some(10)));
    let line = &summary.total;
    assert_eq!(line.cost_per_session_usd.unwrap().pico(), line.cost_usd.pico() / 10);
    assert_eq!(line.cost_per_request_usd.unwrap().pico(), line.cost_usd.pico() / 200);
}

#[test]
fn a_session_is_a_tree_of_its_requests_with_the_cost_of_every_branch() {
    let house = House::new();
    let books = house.open();
    let ask_under = |parent: Option<RequestId>, step: &str| {
        let mut head = head(&books, "key_a");
        let id = head.id;
        head.parent = parent;
        head.step = Some(step.to_owned());
        head.session = Some("run".to_owned());
        let mut entry = books.open_entry(head).unwrap();
        let (index, _ticket) = entry.reserve(ask("1", 9)).unwrap();
        complete(&mut entry, index, used(1, 0));
        entry.finish(done(index)).blocking().unwrap();
        id
    };
    let root = ask_under(None, "plan");
    let one = ask_under(Some(root), "search");
    ask_under(Some(one), "read");
    ask_under(Some(root), "write");
    ask_under(Some(books.request_id()), "stray");
    let Sessions::One(tree) = books.session("run", None).unwrap() else { panic!("it is there") };
    assert_eq!(tree.key, key_id("key_a"));
    let shape: Vec<_> = tree
        .nodes
        .iter()
        .map(|node| {
            let cents = node.branch_cost.pico() / usd("0.01").pico() as u128;
            (node.entry.step.clone().unwrap(), node.depth, cents)
        })
        .collect();
    let expected =
        [("plan", 0, 4), ("search", 1, 2), ("read", 2, 1), ("write", 1, 1), ("stray", 0, 1)];
    assert_eq!(shape, expected.map(|(step, depth, cents)| (step.to_owned(), depth, cents)));
    assert_eq!(tree.sums.total.requests, 5);
    assert_eq!(books.session("no such run", None).unwrap(), Sessions::None);
}

#[test]
fn sessions_of_one_name_of_several_keys_are_several() {
    let (_house, books) = filled();
    let keys = ["key_a", "key_b"].map(key_id);
    assert_eq!(books.session("run-1", None).unwrap(), Sessions::OfSeveral(keys.to_vec()));
    for (key, requests) in keys.iter().zip([30, 10]) {
        let Sessions::One(tree) = books.session("run-1", Some(key)).unwrap() else {
            panic!("each has one")
        };
        assert_eq!((&tree.key, tree.sums.total.requests), (key, requests));
        assert_eq!(tree.nodes.len() as u64, requests);
        assert!(tree.nodes.iter().all(|node| node.entry.key == *key));
    }
    let none = books.session("run-1", Some(&key_id("key_c"))).unwrap();
    assert_eq!(none, Sessions::None);
}

#[test]
fn sealed_segments_answer_as_plain_ones_do() {
    let plain = House::new();
    let sealed = House::new().with(|config| config.segment_entries_max = 50);
    let answers = |house: &House| {
        let books = house.open();
        for at in 0..180_u64 {
            house.hand.set(NOON + at * 1_000);
            let mut head = head(&books, if at % 3 == 0 { "key_a" } else { "key_b" });
            head.session = Some(format!("run-{}", at / 10));
            let mut entry = books.open_entry(head).unwrap();
            let (index, _ticket) = entry.reserve(ask("1", 9)).unwrap();
            complete(&mut entry, index, used(1, at % 10));
            entry.finish(done(index)).blocking().unwrap();
        }
        books.close();
        drop(books);
        // Sealing goes on after the start.
        let books = house.open();
        crate::ledger::keeper::seal_all(&books.0.catalogue, &false.into()).unwrap();
        let filter = Filter { session: Some("run-7".to_owned()), ..Filter::default() };
        let found = books.requests(&filter, None, 100).unwrap().entries.len();
        let group_by = vec![GroupBy::Key, GroupBy::Session];
        let query = SummaryQuery { group_by, ..SummaryQuery::default() };
        let mut sums = books.summary(&query).unwrap();
        // How long each took is not the same twice.
        for line in sums.groups.iter_mut().map(|group| &mut group.line).chain([&mut sums.total]) {
            line.total_us = crate::ledger::Quantiles::default();
        }
        assert!(books.verify().is_clean(), "{:?}", books.verify());
        let kept = Reader::open(house.data()).unwrap();
        assert_eq!(kept.requests(&filter, None, 100).unwrap().entries.len(), found);
        (found, sums.groups, sums.total)
    };
    assert_eq!(answers(&plain), answers(&sealed));
    let files = std::fs::read_dir(sealed.journal()).unwrap();
    let names = files.map(|file| file.unwrap().file_name().to_string_lossy().into_owned());
    assert_eq!(names.filter(|name| name.ends_with(".sealed")).count(), 3);
}

#[test]
fn rollups_that_were_damaged_are_rebuilt_to_the_byte() {
    let (house, books) = filled();
    books.close();
    drop(books);
    let books = house.open();
    assert_eq!(books.rebuild_rollups().unwrap().spans_changed, 0);
    books.0.keeper.derived().rollups = crate::ledger::rollups::Rollups::default();
    assert!(!books.verify().is_clean());
    let rebuilt = books.rebuild_rollups().unwrap();
    assert_eq!(rebuilt.entries, 200);
    assert!(rebuilt.spans_changed > 0);
    assert!(books.verify().is_clean(), "{:?}", books.verify());
}

#[test]
fn a_focus_export_has_a_row_for_every_charge_and_sums_to_the_ledger() {
    let (_house, books) = filled();
    let mut out = Vec::new();
    let form = crate::config::DailyExport::Focus;
    crate::admin::write_days(&books, form, 0, u64::MAX, &mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    // The BilledCost column is the second, and nothing before it is quoted.
    let costs = text.lines().skip(1).map(|line| line.split(',').nth(1).unwrap());
    let costs: Vec<u128> = costs.map(|cost| u128::from(usd(cost).pico())).collect();
    assert_eq!(costs.len(), 200);
    let total = books.summary(&SummaryQuery::default()).unwrap().total;
    assert_eq!(costs.iter().sum::<u128>(), total.cost_usd.pico());
    // `scripts/slow/focus.sh` gives it to FOCUS' own validator.
    if let Some(path) = std::env::var_os("TOLLGATE_FOCUS_EXPORT") {
        std::fs::write(path, text).unwrap();
    }
}

/// What one of OpenAI's pages answers: the status and the page.
fn page(house: &House, books: &Books, path: &str) -> (u16, Value) {
    let (source, clock) = (Source::Live(books.clone()), house.clock.clone());
    let ledger = Ledger { source, clock, zone: TimeZone::UTC };
    let pages = organization::router(Arc::new(ledger));
    let request = http::Request::get(path).body(Body::empty()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let response = pages.oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        let body = to_bytes(response.into_body(), usize::MAX).await.unwrap();
        (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
    })
}

/// The amounts of a page in whole cents, as text.
fn cents(page: &Value) -> String {
    let buckets = page["data"].as_array().unwrap().iter();
    let results = buckets.flat_map(|bucket| bucket["results"].as_array().unwrap());
    let amounts = results.map(|result| result["amount"]["value"].as_f64().unwrap() * 100.0);
    format!("{:.0}", amounts.sum::<f64>())
}

#[test]
fn a_page_of_costs_loses_nothing_beyond_the_groups_that_are_told_apart() {
    let house = House::new();
    let books = house.open();
    let days = [(0, 10_050), (1, 50)];
    for (day, teams) in days {
        house.hand.set(NOON + day * 86_400_000);
        for at in 0..teams {
            let mut head = head(&books, "key_a");
            head.team = Some(format!("team-{at}"));
            let mut entry = books.open_entry(head).unwrap();
            let (index, _ticket) = entry.reserve(ask("1", 9)).unwrap();
            complete(&mut entry, index, used(1, 0));
            let ticket = entry.finish(done(index));
            if at % 256 == 0 || at + 1 == teams {
                ticket.blocking().unwrap();
            }
        }
    }
    let from = format!("/costs?start_time={}&limit=2", NOON / 1_000);
    let (_, whole) = page(&house, &books, &from);
    assert_eq!((cents(&whole).as_str(), &whole["has_more"]), ("10100", &Value::Bool(false)));

    // By team both days have more groups than one page tells apart, and so has the first alone.
    let by_team = format!("{from}&group_by=project_id");
    let (_, first) = page(&house, &books, &by_team);
    assert_eq!((cents(&first).as_str(), &first["has_more"]), ("10050", &Value::Bool(true)));
    let results = first["data"][0]["results"].as_array().unwrap();
    assert!(results.iter().any(|result| result["project_id"] == "other"), "the rest has a name");
    let next = first["next_page"].as_str().unwrap();
    let (_, second) = page(&house, &books, &format!("{by_team}&page={next}"));
    assert_eq!((cents(&second).as_str(), &second["has_more"]), ("50", &Value::Bool(false)));

    // Whose the rest is nobody can say.
    assert_eq!(page(&house, &books, &format!("{from}&project_ids=team-1")).0, 400);
    let second_day = format!("/costs?start_time={}&project_ids=team-1", NOON / 1_000 + 86_400);
    assert_eq!(cents(&page(&house, &books, &second_day).1), "1");
}
