//! `tollgate ledger show`: one request in words, and what the tables of requests say of each.

use super::{
    CliError, Common,
    address::escaped,
    link::Link,
    output::{self, Align, Column, ms, text, usd},
};
use serde_json::Value;
use std::fmt::Write as _;

/// Buckets of prompt tokens and of answer tokens, as [`policies::Usage`] has them.
pub(super) const PROMPT: [&str; 6] =
    ["input", "cache_read", "cache_write_5m", "cache_write_1h", "image", "audio"];
pub(super) const ANSWER: [&str; 3] = ["output", "reasoning", "audio_output"];

/// The route that answered, or those that were tried.
pub(super) fn answered_route(entry: &Value) -> String {
    let answered = entry["answered_by"].as_u64();
    match answered {
        Some(at) => text(entry, &format!("/attempts/{at}/route")),
        None => {
            let tried = entry["attempts"].as_array().map_or(&[][..], Vec::as_slice);
            let tried: Vec<String> = tried.iter().map(|attempt| text(attempt, "/route")).collect();
            if tried.is_empty() { "-".to_owned() } else { format!("({})", tried.join(", ")) }
        }
    }
}

/// Prompt and answer tokens of all attempts.
pub(super) fn tokens(entry: &Value) -> String {
    let attempts = entry["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    let known: Vec<(u64, u64)> = attempts.iter().filter_map(used).collect();
    if known.is_empty() {
        return "-".to_owned();
    }
    let (prompt, answer) = known.iter().fold((0_u64, 0_u64), |sum, one| {
        (sum.0.saturating_add(one.0), sum.1.saturating_add(one.1))
    });
    format!("{prompt}+{answer}")
}

fn used(attempt: &Value) -> Option<(u64, u64)> {
    let usage = attempt.get("usage")?;
    Some((of_buckets(usage, &PROMPT), of_buckets(usage, &ANSWER)))
}

pub(super) async fn show(common: &Common, link: &Link, id: &str) -> Result<(), CliError> {
    let entry = link.get(&format!("/ledger/requests/{}", escaped(id))).await?;
    if common.json {
        return output::json(&entry);
    }
    output::say(described(&entry))?;
    let attempts = entry["attempts"].as_array().map_or(&[][..], Vec::as_slice);
    output::say("\nattempts")?;
    let columns: &[Column<'_>] = &[
        ("ROUTE", Align::Left, &|attempt| text(attempt, "/route")),
        ("MODEL", Align::Left, &|attempt| text(attempt, "/model")),
        ("ROLE", Align::Left, &|attempt| text(attempt, "/role")),
        ("OUTCOME", Align::Left, &|attempt| text(attempt, "/outcome")),
        ("TOKENS", Align::Right, &|attempt| {
            used(attempt).map_or_else(|| "-".to_owned(), |(p, a)| format!("{p}+{a}"))
        }),
        ("GUESSED", Align::Right, &|attempt| guessed(attempt)),
        ("COUNTED", Align::Left, &|attempt| text(attempt, "/usage_source")),
        ("HELD USD", Align::Right, &|attempt| usd(attempt, "/reserved_usd")),
        ("COST USD", Align::Right, &|attempt| usd(attempt, "/cost_usd")),
        ("PRICE", Align::Left, &|attempt| text(attempt, "/price")),
        ("TTFT MS", Align::Right, &|attempt| ms(attempt, "/times/ttft_us")),
        ("GAP P50/P95/MAX MS", Align::Right, &|attempt| {
            ["gap_p50_us", "gap_p95_us", "gap_max_us"]
                .map(|gap| ms(attempt, &format!("/times/{gap}")))
                .join("/")
        }),
    ];
    output::table(attempts, columns)?;
    adjustments(&entry)?;
    output::say(format!("\nwhy\n{}", why(&entry)))
}

/// Corrections of what its attempts cost, the oldest first.
fn adjustments(entry: &Value) -> Result<(), CliError> {
    let made = entry["adjustments"].as_array().map_or(&[][..], Vec::as_slice);
    if made.is_empty() {
        return Ok(());
    }
    output::say("\nadjustments")?;
    output::table(
        made,
        &[
            ("ATTEMPT", Align::Right, &|made| text(made, "/attempt")),
            ("ADJUSTED", Align::Left, &|made| text(made, "/adjusted")),
            ("PRICE BEFORE", Align::Left, &|made| text(made, "/price_before")),
            ("PRICE", Align::Left, &|made| text(made, "/price")),
            ("USD BEFORE", Align::Right, &|made| usd(made, "/cost_before_usd")),
            ("USD", Align::Right, &|made| usd(made, "/cost_usd")),
            ("REASON", Align::Left, &|made| text(made, "/reason")),
        ],
    )
}

/// How many tokens were guessed, and how many of them were right.
fn guessed(attempt: &Value) -> String {
    match attempt["guesses"].as_object() {
        Some(_) => {
            let of = |name: &str| text(attempt, &format!("/guesses/{name}"));
            format!("{} of {}", of("accepted_tokens"), of("drafted_tokens"))
        }
        None => "-".to_owned(),
    }
}

fn described(entry: &Value) -> String {
    let mut out = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a String cannot fail.
        let _written = writeln!(out, "{name:<10} {value}");
    };
    line("request", text(entry, "/id"));
    line("arrived", text(entry, "/arrived"));
    line("key", text(entry, "/key"));
    line("model", text(entry, "/model_asked"));
    line("outcome", format!("{} (status {})", text(entry, "/outcome"), text(entry, "/status")));
    line("cost", format!("{} USD", usd(entry, "/cost_usd")));
    if entry.get("adjustments").is_some() {
        line("now", format!("{} USD", usd(entry, "/adjusted_cost_usd")));
    }
    line("ttft", format!("{} ms (arrival to first visible token)", ms(entry, "/ttft_us")));
    line("total", format!("{} ms", ms(entry, "/total_us")));
    let stages: Vec<String> = entry["stages"]
        .as_object()
        .map(|stages| {
            let stage = |name: &String| {
                format!(
                    "{} {}",
                    name.trim_end_matches("_us"),
                    ms(entry, &format!("/stages/{name}"))
                )
            };
            stages.keys().map(stage).collect()
        })
        .unwrap_or_default();
    line("stages", format!("{} ms", stages.join(", ")));
    line(
        "decision",
        format!(
            "rule {} of {} {}: {}",
            text(entry, "/decision/rule"),
            text(entry, "/decision/policy"),
            text(entry, "/decision/version"),
            text(entry, "/decision/plan")
        ),
    );
    out.trim_end().to_owned()
}

/// The trace in words.
fn why(entry: &Value) -> String {
    let Some(trace) = entry.get("trace") else {
        return format!("  no trace: {}", text(entry, "/trace_error"));
    };
    super::policy::trace_text(trace)
}

/// The tokens in some buckets. A provider's counts may be absurd: their sum stops at the greatest.
pub(super) fn of_buckets(usage: &Value, buckets: &[&str]) -> u64 {
    let counts = buckets.iter().filter_map(|bucket| usage[*bucket].as_u64());
    counts.fold(0, u64::saturating_add)
}
