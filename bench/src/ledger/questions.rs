//! What is asked of a full ledger, and how long the answers take.

use std::time::Instant;

use gateway::ledger::{Books, Filter, GroupBy, Replay, SummaryQuery};
use policies::{Policy, RoutePrice};

use super::{BEGIN_MS, Figure, LedgerArgs, Target, memory, nanos};
use crate::stats::Ladder;

const DAY_MS: u64 = 86_400_000;

/// Asks everything several times.
pub(super) fn ask(books: &Books, args: &LedgerArgs) -> Result<Vec<Figure>, String> {
    let mut figures = Vec::new();
    let time = Filter::default;
    let one_day = Filter {
        from_unix_ms: Some(BEGIN_MS),
        to_unix_ms: Some(BEGIN_MS + DAY_MS),
        ..Filter::default()
    };
    let sums = |what: &str, target: Option<Target>, filter: Filter, by: GroupBy, exact: bool| {
        let query = SummaryQuery {
            filter,
            group_by: vec![by],
            exact: Some(exact),
            ..SummaryQuery::default()
        };
        let mut said = String::new();
        let mut taken = Vec::new();
        for _ in 0..args.rounds.max(1) {
            let began = Instant::now();
            let summary = books.summary(&query).map_err(|error| error.to_string())?;
            taken.push(nanos(began));
            said = format!(
                "{} requests in {} groups; {} entries read, {} spans from rollups; {}",
                summary.total.requests,
                summary.groups.len(),
                summary.entries_read,
                summary.spans_from_rollups,
                memory()
            );
        }
        Ok::<_, String>(Figure {
            what: what.to_owned(),
            target,
            per_s: None,
            ns: Ladder::of(&mut taken),
            note: said,
        })
    };
    let everything = format!("summary of {} entries by model, from rollups", args.entries);
    figures.push(sums(
        &everything,
        Some(Target::MedianUnderMs(50)),
        time(),
        GroupBy::Model,
        false,
    )?);
    let by_user = Filter { user: Some("user-7".to_owned()), ..one_day.clone() };
    let scan = "a day filtered by user, summed by model, from entries";
    figures.push(sums(scan, Some(Target::MedianUnderMs(1_000)), by_user, GroupBy::Model, false)?);
    let scan = "a day summed by session, from entries";
    figures.push(sums(scan, None, one_day.clone(), GroupBy::Session, false)?);
    let scan = "a day summed by rule with exact percentiles, from entries";
    figures.push(sums(scan, None, one_day.clone(), GroupBy::Rule, true)?);
    figures.push(replay(books, args, &one_day)?);
    figures.push(pages(books, args)?);
    Ok(figures)
}

/// What another policy would have done with them.
fn replay(books: &Books, args: &LedgerArgs, filter: &Filter) -> Result<Figure, String> {
    let rules = "[[choose]]\nname = \"long\"\nwhen.prompt_tokens.gt = 4096\nroutes = [\"cloud\"]\n\
                 [[choose]]\nname = \"rest\"\nroutes = [\"edge\", \"cloud\"]\n";
    let policy = Policy::parse("tried", rules).map_err(|error| error.to_string())?;
    let unknown = |_: &_, _: &_| Some(RoutePrice::Unknown);
    let mut said = String::new();
    let mut taken = Vec::new();
    for _ in 0..args.rounds.max(1) {
        let asked =
            Replay { filter, policy: &policy, price: &unknown, assumed: &|_, _| Vec::new() };
        let began = Instant::now();
        let report = books.reader().replay(&asked).map_err(|error| error.to_string())?;
        taken.push(nanos(began));
        let not: u64 = report.not_replayable.values().sum();
        said = format!(
            "{} requests, {} moved, {not} not replayable; {}",
            report.requests,
            report.moved,
            memory()
        );
    }
    Ok(Figure {
        what: "a day replayed under another policy".to_owned(),
        target: None,
        per_s: None,
        ns: Ladder::of(&mut taken),
        note: said,
    })
}

/// The newest requests of one session in the middle.
fn pages(books: &Books, args: &LedgerArgs) -> Result<Figure, String> {
    let session = format!("run-{}", args.entries / 24);
    let filter = Filter { session: Some(session), ..Filter::default() };
    let mut taken = Vec::new();
    let mut found = 0;
    for _ in 0..args.rounds.max(1) {
        let began = Instant::now();
        let page = books.requests(&filter, None, 100).map_err(|error| error.to_string())?;
        taken.push(nanos(began));
        found = page.entries.len();
    }
    Ok(Figure {
        what: "the requests of one session".to_owned(),
        target: None,
        per_s: None,
        ns: Ladder::of(&mut taken),
        note: format!("{found} requests found; {}", memory()),
    })
}
