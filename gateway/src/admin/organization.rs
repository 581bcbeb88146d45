//! OpenAI's usage and cost pages, for dashboards that know them: `GET
//! /v1/organization/usage/completions` and `GET /v1/organization/costs`, with the admin key.
//!
//! A project is a team, an API key a key. **Invariants:** the shapes are OpenAI's; sums are those of
//! the ledger, exact; an amount is a JSON number, as there, written from the exact decimal, and has no
//! value where nothing of it is known. OpenAI's shape cannot say that a part is unknown: `unknown_cost`
//! beside the amount does, and `dropped_before` of a page. A page has fewer buckets than were asked for
//! where they have more groups than one summary tells apart, and goes on with the next.

use super::{
    Answer, READS,
    asked::{Asked, check_order},
    ledger::{Ledger, read},
    read::{Params, bad, unknown},
    times::rfc3339,
};
use crate::{
    ledger::{Endpoint, Filter, Group, GroupBy, NONE, OTHER, OrderBy, Summary, SummaryQuery},
    paths::Paths,
    refusal::Refusal,
};
use axum::{extract::State, response::Response, routing::get};
use http::{HeaderValue, header};
use policies::PicoUsdTotal;
use serde::Serialize;
use serde_json::{
    Map, Value, json,
    value::{RawValue, to_raw_value},
};
use std::{collections::BTreeMap, sync::Arc};

type Pairs = Params<Vec<(String, String)>>;

/// The two pages, of any ledger.
#[cfg(test)]
pub(crate) fn router(ledger: Arc<Ledger>) -> axum::Router {
    paths().with_state(ledger).router()
}

/// The two pages.
pub(super) fn paths() -> Paths<Arc<Ledger>> {
    Paths::new().at("/usage/completions", READS, get(completions)).at("/costs", READS, get(costs))
}

/// How long a bucket is: its name, its seconds, buckets of a page that names no limit, and the most.
const WIDTHS: [(&str, u64, GroupBy, u64, u64); 3] = [
    ("1m", 60, GroupBy::Minute, 60, 1_440),
    ("1h", 3_600, GroupBy::Hour, 24, 168),
    ("1d", 86_400, GroupBy::Day, 7, 31),
];
/// Of costs: days only.
const COST_DAYS_MAX: u64 = 180;

/// A dimension of a page: its name there, the parameter that filters by it, and what it is here.
type Dimension = (&'static str, &'static str, GroupBy);

const USAGE: [Dimension; 5] = [
    ("project_id", "project_ids", GroupBy::Team),
    ("user_id", "user_ids", GroupBy::User),
    ("api_key_id", "api_key_ids", GroupBy::Key),
    ("model", "models", GroupBy::Model),
    ("service_tier", "service_tiers", GroupBy::ServiceTier),
];
const COSTS: [Dimension; 3] = [
    ("project_id", "project_ids", GroupBy::Team),
    ("line_item", "line_items", GroupBy::Model),
    ("api_key_id", "api_key_ids", GroupBy::Key),
];

/// What a page asks for.
struct Page {
    from_s: u64,
    to_s: u64,
    /// Where the next page begins, if the range goes on.
    next_s: Option<u64>,
    width_s: u64,
    bucket: GroupBy,
    shown: Vec<Dimension>,
    kept: Vec<(Dimension, Vec<String>)>,
    batch: bool,
    by_batch: bool,
    dropped_before: Option<String>,
}

/// Sums of one result.
#[derive(Clone, Debug, Default)]
struct Sums {
    input: u64,
    cached: u64,
    audio: u64,
    output: u64,
    audio_output: u64,
    requests: u64,
    cost: u128,
    /// Attempts whose cost is unknown, and not in `cost`.
    unknown: u64,
}

#[derive(Serialize)]
struct PageView {
    object: &'static str,
    data: Vec<BucketView>,
    has_more: bool,
    next_page: Option<String>,
    /// Requests that ended before this are in no sum; absent where all are.
    #[serde(skip_serializing_if = "Option::is_none")]
    dropped_before: Option<String>,
}

#[derive(Serialize)]
struct BucketView {
    object: &'static str,
    start_time: u64,
    end_time: u64,
    results: Vec<Box<RawValue>>,
}

async fn completions(State(ledger): State<Arc<Ledger>>, Params(pairs): Pairs) -> Answer {
    let mut page = page(&ledger, pairs, &USAGE, None)?;
    let rows = rows(&ledger, &mut page, true).await?;
    render(&page, &rows, |names, sums| {
        let mut result = Map::new();
        result.insert("object".to_owned(), json!("organization.usage.completions.result"));
        result.insert("input_tokens".to_owned(), json!(sums.input));
        result.insert("output_tokens".to_owned(), json!(sums.output));
        result.insert("input_cached_tokens".to_owned(), json!(sums.cached));
        result.insert("input_audio_tokens".to_owned(), json!(sums.audio));
        result.insert("output_audio_tokens".to_owned(), json!(sums.audio_output));
        result.insert("num_model_requests".to_owned(), json!(sums.requests));
        for (name, _, _) in USAGE {
            result.insert(name.to_owned(), names.get(name).cloned().unwrap_or(Value::Null));
        }
        let batch = if page.by_batch { json!(page.batch) } else { Value::Null };
        result.insert("batch".to_owned(), batch);
        to_raw_value(&result).ok()
    })
}

async fn costs(State(ledger): State<Arc<Ledger>>, Params(pairs): Pairs) -> Answer {
    let mut page = page(&ledger, pairs, &COSTS, Some(COST_DAYS_MAX))?;
    let rows = rows(&ledger, &mut page, false).await?;
    render(&page, &rows, |names, sums| {
        let value = number(PicoUsdTotal::from_pico(sums.cost))?;
        let name = |name: &str| names.get(name).cloned().unwrap_or(Value::Null);
        let [line_item, project, key] = ["line_item", "project_id", "api_key_id"].map(name);
        let value = match (sums.cost, sums.unknown) {
            (0, 1..) => String::new(),
            _ => format!(r#""value":{value},"#),
        };
        let unknown = match sums.unknown {
            0 => String::new(),
            attempts => format!(r#","unknown_cost":{attempts}"#),
        };
        let text = format!(
            r#"{{"object":"organization.costs.result","amount":{{{value}"currency":"usd"}},"line_item":{line_item},"project_id":{project},"api_key_id":{key}{unknown}}}"#
        );
        RawValue::from_string(text).ok()
    })
}

/// An exact decimal as a JSON number, without needless zeros.
fn number(cost: PicoUsdTotal) -> Option<String> {
    let text = cost.to_string();
    let (whole, part) = text.split_once('.')?;
    let part = part.trim_end_matches('0');
    Some(format!("{whole}.{}", if part.is_empty() { "0" } else { part }))
}

/// Reads the parameters of a page.
fn page(
    ledger: &Ledger,
    pairs: Vec<(String, String)>,
    dimensions: &[Dimension],
    days_max: Option<u64>,
) -> Result<Page, Refusal> {
    let (lists, single) = lists(pairs);
    let mut asked = Asked::new(single)?;
    let width = asked.text("bucket_width").unwrap_or_else(|| "1d".to_owned());
    let known = WIDTHS.into_iter().find(|known| known.0 == width);
    let known = known.filter(|known| days_max.is_none() || known.0 == "1d");
    let Some((_, width_s, bucket, usual, most)) = known else {
        let message = format!("`bucket_width`: `{width}` is none of this page");
        return Err(bad(Some("bucket_width"), message));
    };
    let most = days_max.unwrap_or(most);
    let limit: u64 = asked.parsed("limit")?.unwrap_or(usual);
    if limit == 0 || limit > most {
        return Err(bad(Some("limit"), format!("`limit` is 1 to {most} here")));
    }
    let Some(start): Option<u64> = asked.parsed("start_time")? else {
        return Err(bad(Some("start_time"), "`start_time` is missing: Unix seconds"));
    };
    let now_s = ledger.clock.unix_ms() / 1_000;
    let end: Option<u64> = asked.parsed("end_time")?;
    check_order(("start_time", Some(start)), ("end_time", end))?;
    let end = end.unwrap_or(now_s + 1);
    let token = asked.text("page");
    let cursor = token.as_deref().map(|token| {
        let begins = token.strip_prefix("page_").and_then(|second| second.parse::<u64>().ok());
        begins.ok_or_else(|| bad(Some("page"), format!("`page`: `{token}` is none of ours")))
    });
    let batch: Option<bool> = asked.parsed("batch")?;
    asked.end()?;
    let start = cursor.transpose()?.unwrap_or(start);
    let from_s = start - start % width_s;
    let last_s = end.min(now_s + 1).div_ceil(width_s).saturating_mul(width_s);
    let to_s = last_s.max(from_s).min(from_s.saturating_add(limit.saturating_mul(width_s)));
    let (shown, kept, by_batch) = named(lists, dimensions)?;
    Ok(Page {
        from_s,
        to_s,
        next_s: (to_s < last_s).then_some(to_s),
        width_s,
        bucket,
        shown,
        kept,
        // Nothing here is a batch job: asking for only those finds none.
        batch: batch == Some(true),
        by_batch,
        dropped_before: None,
    })
}

type Lists = BTreeMap<String, Vec<String>>;

/// OpenAI's lists: `a=1&a=2`, `a[]=1`, or with commas.
fn lists(pairs: Vec<(String, String)>) -> (Lists, Vec<(String, String)>) {
    let mut lists = Lists::new();
    let mut single = Vec::new();
    for (name, value) in pairs {
        let name = name.trim_end_matches("[]").to_owned();
        if name == "group_by" || name.ends_with("_ids") || name.ends_with('s') && name != "ids" {
            let values = value.split(',').filter(|value| !value.is_empty()).map(str::to_owned);
            lists.entry(name).or_default().extend(values);
        } else {
            single.push((name, value));
        }
    }
    (lists, single)
}

type Named = (Vec<Dimension>, Vec<(Dimension, Vec<String>)>, bool);

fn named(mut lists: Lists, dimensions: &[Dimension]) -> Result<Named, Refusal> {
    let mut shown = Vec::new();
    let mut by_batch = false;
    for name in lists.remove("group_by").unwrap_or_default() {
        match dimensions.iter().find(|dimension| dimension.0 == name) {
            Some(dimension) if shown.contains(dimension) => {}
            Some(dimension) => shown.push(*dimension),
            None if name == "batch" && dimensions.len() == USAGE.len() => by_batch = true,
            None => {
                let message = format!("`group_by`: `{name}` is nothing to group by here");
                return Err(bad(Some("group_by"), message));
            }
        }
    }
    let mut kept = Vec::new();
    for (name, values) in lists {
        match dimensions.iter().find(|dimension| dimension.1 == name) {
            Some(dimension) => kept.push((*dimension, values)),
            None => return Err(unknown(&name)),
        }
    }
    Ok((shown, kept, by_batch))
}

type Key = (u64, Vec<Option<String>>);

impl Page {
    /// Ends after the first half of its buckets; `false` if it has only one.
    fn halve(&mut self) -> bool {
        let buckets = (self.to_s - self.from_s) / self.width_s;
        if buckets < 2 {
            return false;
        }
        self.to_s = self.from_s + buckets / 2 * self.width_s;
        self.next_s = Some(self.to_s);
        true
    }
}

/// The sums of every bucket and group. Where these are more than a summary tells apart, the page ends
/// earlier.
async fn rows(
    ledger: &Arc<Ledger>,
    page: &mut Page,
    completions: bool,
) -> Result<BTreeMap<Key, Sums>, Refusal> {
    let mut rows = BTreeMap::new();
    if page.batch || page.from_s >= page.to_s {
        return Ok(rows);
    }
    let summary = loop {
        let query = query(page, completions);
        let summary = read(ledger, move |reader| reader.summary(&query)).await?;
        if !summary.groups.iter().any(is_rest) || !page.halve() {
            break summary;
        }
    };
    page.dropped_before = summary.dropped_before_unix_ms.map(rfc3339);
    // What is beyond the cap in a single bucket has names that nobody can tell.
    if (completions || !page.kept.is_empty()) && summary.groups.iter().any(is_rest) {
        let message = "one bucket has more groups than can be told apart: group or filter by less";
        return Err(bad(Some("group_by"), message));
    }
    add(&mut rows, page, &summary, completions);
    Ok(rows)
}

/// Whether a group is all that is beyond the cap of a summary, of any time.
fn is_rest(group: &Group) -> bool {
    group.names.first().is_some_and(|name| name == OTHER)
}

fn query(page: &Page, completions: bool) -> SummaryQuery {
    let mut group_by = vec![page.bucket];
    group_by.extend(page.shown.iter().chain(page.kept.iter().map(|(by, _)| by)).map(|by| by.2));
    if completions {
        group_by.push(GroupBy::Endpoint);
    }
    let filter = Filter {
        from_unix_ms: Some(page.from_s.saturating_mul(1_000)),
        to_unix_ms: Some(page.to_s.saturating_mul(1_000)),
        ..Filter::default()
    };
    SummaryQuery { filter, group_by, order_by: OrderBy::Name, exact: Some(false), top: None }
}

fn add(rows: &mut BTreeMap<Key, Sums>, page: &Page, summary: &Summary, completions: bool) {
    for group in &summary.groups {
        let Some(key) = key(page, group, completions) else { continue };
        let sums: &mut Sums = rows.entry(key).or_default();
        let (usage, line) = (&group.line.usage, &group.line);
        for (sum, tokens) in [
            (&mut sums.input, usage.prompt()),
            (&mut sums.cached, usage.cache_read),
            (&mut sums.audio, usage.audio),
            (&mut sums.output, usage.completion()),
            (&mut sums.audio_output, usage.audio_output),
        ] {
            *sum = sum.saturating_add(tokens);
        }
        sums.requests += line.requests;
        sums.cost = sums.cost.saturating_add(line.cost_usd.pico());
        sums.unknown += line.unknown_cost;
    }
}

/// The result that a group belongs to; `None` if it is not meant.
fn key(page: &Page, group: &Group, completions: bool) -> Option<Key> {
    let mut names = group.names.iter();
    let begins_s = match names.next()? {
        // Only a page of one bucket has it.
        _ if is_rest(group) => page.from_s,
        time => second(time)?,
    };
    let shown: Vec<Option<String>> = names
        .by_ref()
        .take(page.shown.len())
        .map(|name| (name != NONE).then(|| name.clone()))
        .collect();
    for (_, values) in &page.kept {
        if !values.contains(names.next()?) {
            return None;
        }
    }
    let embeddings = super::export::word(&Endpoint::Embeddings);
    if completions && *names.next()? == embeddings {
        return None;
    }
    Some((begins_s, shown))
}

/// When a minute, an hour or a day begins, by its name in a summary.
fn second(name: &str) -> Option<u64> {
    let begins = name.parse::<jiff::Timestamp>().ok().or_else(|| {
        let date = name.parse::<jiff::civil::Date>().ok()?;
        Some(date.to_zoned(jiff::tz::TimeZone::UTC).ok()?.timestamp())
    })?;
    u64::try_from(begins.as_second()).ok()
}

/// Writes the page: a bucket for every stretch of time, those without results too.
fn render(
    page: &Page,
    rows: &BTreeMap<Key, Sums>,
    result: impl Fn(&BTreeMap<&str, Value>, &Sums) -> Option<Box<RawValue>>,
) -> Answer {
    let mut data = Vec::new();
    let mut begins = page.from_s;
    while begins < page.to_s {
        let ends = begins + page.width_s;
        let of = rows.range((begins, Vec::new())..(ends, Vec::new()));
        let results = of.filter_map(|((_, shown), sums)| {
            let names = page.shown.iter().zip(shown).map(|(by, name)| (by.0, json!(name)));
            result(&names.collect(), sums)
        });
        data.push(BucketView {
            object: "bucket",
            start_time: begins,
            end_time: ends,
            results: results.collect(),
        });
        begins = ends;
    }
    let view = PageView {
        object: "page",
        data,
        has_more: page.next_s.is_some(),
        next_page: page.next_s.map(|second| format!("page_{second}")),
        dropped_before: page.dropped_before.clone(),
    };
    let text = serde_json::to_string(&view)
        .map_err(|error| Refusal::Ledger(format!("an answer cannot be written: {error}")))?;
    let mut response = Response::new(text.into());
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    Ok(response)
}
