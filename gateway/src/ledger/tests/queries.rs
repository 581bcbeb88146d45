//! What the ledger answers.

use super::harness::{House, NOON, ask, complete, done, free, head, key_id, request, usd, used};
use crate::ledger::{Books, Cursor, Filter, GroupBy, Outcome, Percentiles, SummaryQuery};
use policies::{RouteId, RuleName};
use std::sync::Arc;

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
        };
        let rows = books.summary(&query(true)).unwrap();
        let rollups = books.summary(&query(false)).unwrap();
        assert_eq!(
            (rows.percentiles, rollups.percentiles),
            (Percentiles::Exact, Percentiles::Sketch)
        );
        assert!(rollups.hours_from_rollups >= 11 && rollups.entries_read < rows.entries_read);
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

fn total(summary: &crate::ledger::Summary) -> crate::ledger::Group {
    crate::ledger::Group { names: Vec::new(), line: summary.total.clone() }
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
fn an_unknown_request_is_not_found() {
    let (_house, books) = filled();
    assert_eq!(books.request(books.request_id()).unwrap(), None);
    let text = "req_00000000000000000000000000000000".parse().unwrap();
    assert_eq!(books.request(text).unwrap(), None);
}
