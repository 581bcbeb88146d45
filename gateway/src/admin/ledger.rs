//! The ledger, queried: of the running books, or of a directory that is only read.
//!
//! **Invariant:** a query that can be answered from the journal alone is answered so, and changes
//! nothing; both sources go through these handlers, so they answer alike.

use super::{
    Answer, List, READS, answer,
    asked::Asked,
    blocking,
    ledger_views::{EntryView, brief, session_view, summary_view, whole},
    read::{Params, bad, no_params},
    times::rfc3339,
    unreadable,
};
use crate::{
    clock::Clock,
    ledger::{
        Books, BooksError, Cursor, Entry, JournalError, KeyId, OrderBy, PAGE_MAX, Reader,
        RequestId, Sessions, SummaryQuery,
    },
    paths::Paths,
    refusal::Refusal,
};
use axum::{
    Router,
    extract::{Path, State},
    routing::{get, post},
};
use jiff::tz::TimeZone;
use policies::{Policy, Trace};
use serde_json::json;
use std::{path::PathBuf, str::FromStr, sync::Arc};

/// Requests of a page that names no limit.
const PAGE_DEFAULT: usize = 50;

/// Keys that are named where several have a session of one name.
const KEYS_NAMED_MAX: usize = 20;

/// Where the ledger is.
#[derive(Clone, Debug)]
pub(crate) enum Source {
    /// Open in this process.
    Live(Books),
    /// In this directory, which is only read.
    Kept(PathBuf),
}

/// The ledger, and what reading times needs.
#[derive(Debug)]
pub(crate) struct Ledger {
    pub(crate) source: Source,
    pub(crate) clock: Clock,
    pub(crate) zone: TimeZone,
}

impl Ledger {
    /// The ledger as it is now. Blocking.
    pub(super) fn reader(&self) -> Result<Reader, BooksError> {
        match &self.source {
            Source::Live(books) => Ok(books.reader()),
            Source::Kept(dir) => Reader::open(dir).map_err(|error| damaged(&error)),
        }
    }
}

fn damaged(error: &JournalError) -> BooksError {
    BooksError::Unreadable(error.to_string().into())
}

type Pairs = Params<Vec<(String, String)>>;

/// The paths that read the ledger.
pub(crate) fn router<S: Clone + Send + Sync + 'static>(ledger: Arc<Ledger>) -> Router<S> {
    paths().with_state(ledger).router()
}

pub(super) fn paths() -> Paths<Arc<Ledger>> {
    let without_params = Paths::new()
        .at("/ledger/requests/{id}", READS, get(request))
        .at("/ledger/verify", READS, get(verify))
        .at("/ledger/rebuild-rollups", "POST", post(rebuild_rollups));
    Paths::new()
        .at("/ledger/requests", READS, get(requests))
        .at("/ledger/summary", READS, get(summary))
        .at("/ledger/export", READS, get(super::export::export))
        .at("/sessions/{id}", READS, get(session))
        .and(without_params.unless(no_params))
}

/// Runs a query outside the async threads.
pub(super) async fn read<T: Send + 'static>(
    ledger: &Arc<Ledger>,
    query: impl FnOnce(&Reader) -> Result<T, BooksError> + Send + 'static,
) -> Result<T, Refusal> {
    let ledger = Arc::clone(ledger);
    blocking(move || query(&ledger.reader()?)).await?.map_err(unreadable)
}

/// GET /ledger/requests: newest first.
async fn requests(State(ledger): State<Arc<Ledger>>, Params(pairs): Pairs) -> Answer {
    let mut asked = Asked::new(pairs)?;
    let filter = asked.filter(&ledger)?;
    let limit = asked.parsed("limit")?.unwrap_or(PAGE_DEFAULT);
    if limit == 0 || limit > PAGE_MAX {
        return Err(bad(Some("limit"), format!("`limit` is 1 to {PAGE_MAX}")));
    }
    let cursor: Option<Cursor> = asked.parsed("cursor")?;
    asked.end()?;
    let found = read(&ledger, move |reader| {
        // Who names no time asks for what there is.
        let dropped = filter.from_unix_ms.and_then(|_| reader.dropped_before(&filter));
        Ok((reader.requests(&filter, cursor, limit)?, reader.adjusted()?.all, dropped))
    });
    let (page, adjusted, dropped) = found.await?;
    answer(&List::<EntryView<'_>> {
        object: "list",
        data: page.entries.iter().map(|entry| brief(entry, &adjusted)).collect(),
        next_cursor: page.next.map(|cursor| cursor.to_string()),
        lost: page.lost,
        dropped_before: dropped.map(rfc3339),
    })
}

/// GET /ledger/requests/{id}: everything, with the whole trace of the decision.
async fn request(State(ledger): State<Arc<Ledger>>, Path(id): Path<String>) -> Answer {
    let Ok(id) = RequestId::from_str(&id) else {
        return Err(Refusal::NotFound(format!("`{id}` is not the id of a request")));
    };
    let found = read(&ledger, move |reader| {
        let entry = reader.request(id)?;
        let (adjusted, adjustments) = (reader.adjusted()?.all, reader.adjustments_of(id)?);
        Ok(entry.map(|entry| {
            let trace = trace(reader, &entry);
            (entry, trace, adjusted, adjustments)
        }))
    });
    let Some((entry, trace, adjusted, adjustments)) = found.await? else {
        return Err(Refusal::NotFound(format!("there is no request `{id}` in the ledger")));
    };
    answer(&whole(&entry, trace, &adjusted, adjustments))
}

/// The decision explained by the policy that made it, from the facts it was made from.
fn trace(reader: &Reader, entry: &Entry) -> Result<Trace, String> {
    let decision = &entry.decision;
    let unknown = || format!("the text of policy version {} is not recorded", decision.version);
    let source = reader.policy_source(&decision.version).map_err(|error| error.to_string())?;
    let policy = Policy::parse(&decision.policy.0, &source.ok_or_else(unknown)?)
        .map_err(|error| error.to_string())?;
    Ok(policies::explain(&policy, &decision.facts))
}

/// GET /ledger/summary
async fn summary(State(ledger): State<Arc<Ledger>>, Params(pairs): Pairs) -> Answer {
    let mut asked = Asked::new(pairs)?;
    let query = SummaryQuery {
        filter: asked.filter(&ledger)?,
        group_by: asked.group_by()?,
        order_by: asked.word::<OrderBy>("order_by")?.unwrap_or_default(),
        top: asked.parsed("top")?,
        exact: asked.parsed("exact")?,
    };
    asked.end()?;
    let group_by = query.group_by.clone();
    let summary = read(&ledger, move |reader| reader.summary(&query)).await?;
    answer(&summary_view(&summary, &group_by))
}

/// GET /sessions/{id}: what an agent's run cost, and the tree of its requests.
async fn session(
    State(ledger): State<Arc<Ledger>>,
    Path(id): Path<String>,
    Params(pairs): Pairs,
) -> Answer {
    let mut asked = Asked::new(pairs)?;
    let key = asked.text("key").map(|key| KeyId(Arc::from(key)));
    asked.end()?;
    let name = id.clone();
    let found = read(&ledger, move |reader| {
        Ok((reader.session(&name, key.as_ref())?, reader.adjusted()?.all))
    });
    match found.await? {
        (Sessions::One(tree), adjusted) => answer(&session_view(&id, &tree, &adjusted)),
        (Sessions::None, _) => {
            Err(Refusal::NotFound(format!("no request named the session `{id}`")))
        }
        (Sessions::OfSeveral(keys), _) => Err(bad(Some("key"), of_several(&id, &keys))),
    }
}

/// A session is one key's: which is meant must be said.
fn of_several(id: &str, keys: &[KeyId]) -> String {
    let named: Vec<&str> = keys.iter().take(KEYS_NAMED_MAX).map(|key| &*key.0).collect();
    let more = match keys.len() - named.len() {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    format!(
        "{} keys have a session `{id}`; `key` says whose: {}{more}",
        keys.len(),
        named.join(", ")
    )
}

/// GET /ledger/verify: checks the whole ledger; it takes as long as reading it.
async fn verify(State(ledger): State<Arc<Ledger>>) -> Answer {
    let report = blocking(move || match &ledger.source {
        Source::Live(books) => Ok(books.verify()),
        Source::Kept(_) => ledger.reader().map(|reader| reader.verify()),
    });
    let report = report.await?.map_err(unreadable)?;
    let mut view = json!(report);
    view["clean"] = json!(report.is_clean());
    answer(&view)
}

/// POST /ledger/rebuild-rollups: makes the rollups anew from the journal.
async fn rebuild_rollups(State(ledger): State<Arc<Ledger>>) -> Answer {
    let Source::Live(books) = &ledger.source else {
        return Err(Refusal::NotFound("a directory that is only read has no rollups".to_owned()));
    };
    let books = books.clone();
    let rebuilt = blocking(move || books.rebuild_rollups()).await?.map_err(unreadable)?;
    answer(&rebuilt)
}
