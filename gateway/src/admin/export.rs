//! The ledger written out: CSV, JSON lines, and FOCUS 1.2 (the FinOps Foundation's cost and usage
//! table) as CSV.
//!
//! **Invariants:** oldest first; written as it is read, so that memory does not grow with what is
//! exported; an export that cannot be finished ends as a broken body, never as a shorter one. FOCUS
//! knows no unknown cost, so an attempt whose cost is unknown is no row there: the summary of the
//! same range counts it.

use super::{
    EXPORTS,
    asked::Asked,
    focus,
    ledger::Ledger,
    ledger_views::brief,
    place,
    read::{Params, bad},
    times::rfc3339,
};
use crate::{
    config::DailyExport,
    ledger::{Adjustments, Attempt, Books, Entry, Filter},
    refusal::Refusal,
};
use axum::{
    body::{Body, Bytes},
    extract::State,
    response::Response,
};
use futures::StreamExt as _;
use http::{HeaderValue, header};
use serde::Deserialize;
use serde_json::json;
use std::{io, sync::Arc};
use tokio::sync::mpsc;

/// Bytes that are gathered before they are sent on.
const PIECE_BYTES: usize = 64 << 10;
/// Pieces that may wait for the reader.
const PIECES_MAX: usize = 8;

/// Forms of an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Form {
    /// A row for each attempt.
    Csv,
    /// An object for each request.
    Jsonl,
    /// A row for each attempt that is charged.
    Focus,
}

/// GET /ledger/export?format=csv|jsonl|focus, with the filters of a query.
pub(super) async fn export(
    State(ledger): State<Arc<Ledger>>,
    Params(pairs): Params<Vec<(String, String)>>,
) -> Result<Response, Refusal> {
    let mut asked = Asked::new(pairs)?;
    let filter = asked.filter(&ledger)?;
    let Some(form) = asked.word::<Form>("format")? else {
        return Err(bad(Some("format"), "`format` is csv, jsonl or focus"));
    };
    asked.end()?;
    let (pieces, body) = mpsc::channel(PIECES_MAX);
    let place = place(&EXPORTS).await?;
    tokio::task::spawn_blocking(move || {
        let _place = place;
        write(&ledger, &filter, form, &pieces);
    });
    let body = futures::stream::unfold(body, |mut body| async move {
        let piece = body.recv().await?;
        Some((piece, body))
    });
    let mut response = Response::new(Body::from_stream(body.boxed()));
    let kind = match form {
        Form::Csv | Form::Focus => "text/csv; charset=utf-8",
        Form::Jsonl => "application/jsonl",
    };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}

type Piece = io::Result<Bytes>;

/// Writes everything to `pieces`; an error is the last of them. Blocking.
fn write(ledger: &Ledger, filter: &Filter, form: Form, pieces: &mpsc::Sender<Piece>) {
    let mut out = String::new();
    heads(&mut out, form);
    let read = ledger.reader().and_then(|reader| {
        let adjusted = reader.adjusted()?.all;
        reader.each(filter, &mut |unix_ms, entry| {
            lines(&mut out, form, (unix_ms, &entry), &adjusted);
            out.len() < PIECE_BYTES || send(pieces, &mut out)
        })
    });
    match read {
        Ok(()) => {
            send(pieces, &mut out);
        }
        Err(error) => {
            tracing::error!(%error, "an export was broken off");
            // A reader that left needs no error.
            let _left = pieces.blocking_send(Err(io::Error::other(error.to_string())));
        }
    }
}

/// Writes what ended in a stretch of time. Blocking.
///
/// # Errors
/// What could not be read or written.
pub(crate) fn write_days(
    books: &Books,
    form: DailyExport,
    from_ms: u64,
    to_ms: u64,
    out: &mut dyn io::Write,
) -> io::Result<()> {
    let filter =
        Filter { from_unix_ms: Some(from_ms), to_unix_ms: Some(to_ms), ..Filter::default() };
    let form = match form {
        DailyExport::Csv => Form::Csv,
        DailyExport::Jsonl => Form::Jsonl,
        DailyExport::Focus => Form::Focus,
    };
    let mut text = String::new();
    heads(&mut text, form);
    let mut written = Ok(());
    let reader = books.reader();
    let adjusted = reader.adjusted().map_err(io::Error::other)?.all;
    let read = reader.each(&filter, &mut |unix_ms, entry| {
        lines(&mut text, form, (unix_ms, &entry), &adjusted);
        if text.len() >= PIECE_BYTES {
            written = out.write_all(text.as_bytes());
            text.clear();
        }
        written.is_ok()
    });
    written?;
    read.map_err(io::Error::other)?;
    out.write_all(text.as_bytes())
}

fn heads(out: &mut String, form: Form) {
    match form {
        Form::Csv => row(out, CSV.iter().map(|name| (*name).to_owned())),
        Form::Focus => row(out, focus::COLUMNS.iter().map(|name| (*name).to_owned())),
        Form::Jsonl => {}
    }
}

fn lines(out: &mut String, form: Form, (unix_ms, entry): (u64, &Entry), adjusted: &Adjustments) {
    match form {
        Form::Csv => csv(out, unix_ms, entry, adjusted),
        Form::Jsonl => {
            let mut line = json!(brief(entry, adjusted));
            super::drop_nulls(&mut line);
            out.push_str(&line.to_string());
            out.push('\n');
        }
        Form::Focus => {
            focus::rows(unix_ms, entry, adjusted).into_iter().for_each(|cells| row(out, cells));
        }
    }
}

/// Whether the reader is still there.
fn send(pieces: &mpsc::Sender<Piece>, out: &mut String) -> bool {
    pieces.blocking_send(Ok(Bytes::from(std::mem::take(out)))).is_ok()
}

/// Columns of the CSV form. New ones come last: who reads by place goes on reading right.
pub(super) const CSV: [&str; 45] = [
    "id",
    "arrived",
    "ended",
    "key",
    "user",
    "team",
    "session",
    "parent",
    "step",
    "tags",
    "endpoint",
    "model_asked",
    "stream",
    "policy",
    "policy_version",
    "rule",
    "outcome",
    "status",
    "cache",
    "total_us",
    "ttft_us",
    "tpot_ns",
    "request_cost_usd",
    "attempt",
    "route",
    "model",
    "provider",
    "role",
    "attempt_outcome",
    "upstream_status",
    "input",
    "cache_read",
    "cache_write_5m",
    "cache_write_1h",
    "output",
    "reasoning",
    "usage_source",
    "price",
    "cost_usd",
    "avoided_cost_usd",
    "adjusted_cost_usd",
    "adjusted_price",
    "image",
    "audio",
    "audio_output",
];

/// A row for each attempt, or one for a request that made none. What is unknown is empty.
fn csv(out: &mut String, ended_ms: u64, entry: &Entry, adjusted: &Adjustments) {
    if entry.attempts.is_empty() {
        row(out, cells(ended_ms, entry, None, adjusted));
    }
    for attempt in entry.attempts.iter().enumerate() {
        row(out, cells(ended_ms, entry, Some(attempt), adjusted));
    }
}

fn cells(
    ended_ms: u64,
    entry: &Entry,
    attempt: Option<(usize, &Attempt)>,
    adjusted: &Adjustments,
) -> Vec<String> {
    let decision = &entry.decision;
    let mut cells = vec![
        entry.id.to_string(),
        rfc3339(entry.arrived_unix_ms),
        rfc3339(ended_ms),
        entry.key.to_string(),
        entry.user.clone().unwrap_or_default(),
        entry.team.clone().unwrap_or_default(),
        entry.session.clone().unwrap_or_default(),
        shown(entry.parent),
        entry.step.clone().unwrap_or_default(),
        entry.tags.join(","),
        word(&entry.endpoint),
        entry.model_asked.clone(),
        entry.stream.to_string(),
        decision.policy.0.to_string(),
        decision.version.0.to_string(),
        decision.rule.0.to_string(),
        word(&entry.outcome),
        shown(entry.status),
        word(&entry.notes.cache),
        entry.stages.total_us().to_string(),
        shown(entry.ttft_us),
        shown(entry.tpot_ns),
        shown(entry.cost),
    ];
    let Some((index, attempt)) = attempt else {
        cells.resize(CSV.len(), String::new());
        return cells;
    };
    let now = adjusted.of(entry.id, index);
    let usage = |of: fn(&policies::Usage) -> u64| shown(attempt.usage.as_ref().map(of));
    cells.extend([
        index.to_string(),
        attempt.route.to_string(),
        attempt.model.clone(),
        attempt.provider.clone(),
        word(&attempt.role),
        word(&attempt.outcome),
        shown(attempt.upstream_status),
        usage(|usage| usage.input),
        usage(|usage| usage.cache_read),
        usage(|usage| usage.cache_write_5m),
        usage(|usage| usage.cache_write_1h),
        usage(|usage| usage.output),
        usage(|usage| usage.reasoning),
        attempt.usage_source.as_ref().map(word).unwrap_or_default(),
        attempt.price.as_ref().map(|price| price.0.to_string()).unwrap_or_default(),
        shown(attempt.cost),
        shown(attempt.avoided_cost),
        shown(now.and_then(|now| now.cost)),
        shown(now.and_then(|now| now.price.as_ref())),
        usage(|usage| usage.image),
        usage(|usage| usage.audio),
        usage(|usage| usage.audio_output),
    ]);
    cells
}

fn shown(value: Option<impl std::fmt::Display>) -> String {
    value.map(|value| value.to_string()).unwrap_or_default()
}

/// The word that stands for a variant.
pub(super) fn word(variant: &impl serde::Serialize) -> String {
    json!(variant).as_str().unwrap_or_default().to_owned()
}

/// Whether a cell is a negative number, such as a correction's cost.
fn is_number(cell: &str) -> bool {
    let digits = cell.strip_prefix('-').unwrap_or_default();
    digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
}

/// Appends one row of CSV (RFC 4180, lines end with CRLF).
pub(super) fn row(out: &mut String, cells: impl IntoIterator<Item = String>) {
    for (at, cell) in cells.into_iter().enumerate() {
        if at > 0 {
            out.push(',');
        }
        // A spreadsheet would take such a cell for a formula.
        let formula = cell.starts_with(['=', '+', '-', '@', '\t']) && !is_number(&cell);
        if formula || cell.contains([',', '"', '\n', '\r']) {
            out.push('"');
            if formula {
                out.push('\'');
            }
            out.push_str(&cell.replace('"', "\"\""));
            out.push('"');
        } else {
            out.push_str(&cell);
        }
    }
    out.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_could_end_a_row_or_begin_a_formula_are_quoted() {
        let mut out = String::new();
        row(&mut out, ["a,b", "say \"no\"", "=1+1", "-1+1", "-0.5", "plain"].map(str::to_owned));
        assert_eq!(out, "\"a,b\",\"say \"\"no\"\"\",\"'=1+1\",\"'-1+1\",-0.5,plain\r\n");
    }
}
