//! A session (an agent's run): what it cost, and the tree of its requests.
//!
//! **Invariants:** a session is one key's: those of the same name of several keys are never put
//! together; every request of the session is in the tree exactly once, under the request that
//! its caller named as its parent if that one is in the session too, else at the top; a circle of
//! parents is cut where it is first met.

use super::{
    adjusted::Adjustments,
    books::Books,
    entry::{Entry, KeyId, RequestId},
    filter::Filter,
    query::{PAGE_MAX, Reader},
    summary::{GroupBy, Summary, SummaryQuery},
};
use crate::store::BooksError;
use policies::PicoUsdTotal;
use std::collections::HashMap;

/// Requests of a session that are shown; the sums are of all.
const NODES_MAX: usize = 10_000;

/// What there is by a session's name.
#[derive(Clone, Debug, PartialEq)]
pub enum Sessions {
    /// No request named it.
    None,
    /// One key's.
    One(Box<SessionTree>),
    /// Of these keys each has one.
    OfSeveral(Vec<KeyId>),
}

/// A session's cost and tree.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionTree {
    /// Whose it is.
    pub key: KeyId,
    /// The sums of all its requests.
    pub sums: Summary,
    /// Its requests, each followed by those it caused, by arrival.
    pub nodes: Vec<SessionNode>,
    /// Whether older requests were left out of `nodes`.
    pub cut: bool,
}

/// One request of a session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionNode {
    /// The request.
    pub entry: Entry,
    /// How many requests lie above it.
    pub depth: u32,
    /// Known cost of this request and of all it caused.
    pub branch_cost: PicoUsdTotal,
    /// Requests among these whose cost is unknown.
    pub branch_unknown: u64,
}

impl Books {
    /// A session of `key`; with `None` of whichever key has one of this name. Blocking.
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn session(&self, id: &str, key: Option<&KeyId>) -> Result<Sessions, BooksError> {
        self.reader().session(id, key)
    }
}

impl Reader {
    /// See [`Books::session`].
    ///
    /// # Errors
    /// [`BooksError::Unreadable`].
    pub fn session(&self, id: &str, key: Option<&KeyId>) -> Result<Sessions, BooksError> {
        let filter =
            Filter { session: Some(id.to_owned()), key: key.cloned(), ..Filter::default() };
        let query = SummaryQuery {
            filter: filter.clone(),
            group_by: vec![GroupBy::Key],
            ..SummaryQuery::default()
        };
        let sums = self.summary(&query)?;
        let mut keys = sums.groups.iter().filter_map(|group| group.names.first());
        let key = match (keys.next(), keys.next()) {
            (None, _) => return Ok(Sessions::None),
            (Some(key), None) => KeyId(key.as_str().into()),
            (Some(_), Some(_)) => {
                let keys = sums.groups.iter().flat_map(|group| &group.names);
                let mut keys: Vec<KeyId> = keys.map(|key| KeyId(key.as_str().into())).collect();
                keys.sort_unstable();
                return Ok(Sessions::OfSeveral(keys));
            }
        };
        // One that arrives meanwhile may be another key's.
        let filter = Filter { key: Some(key.clone()), ..filter };
        let mut entries = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.requests(&filter, cursor, PAGE_MAX)?;
            entries.extend(page.entries);
            cursor = page.next;
            if cursor.is_none() || entries.len() >= NODES_MAX {
                break;
            }
        }
        let adjusted = self.adjusted()?.all;
        let (nodes, cut) = (tree(entries, &adjusted), cursor.is_some());
        Ok(Sessions::One(Box::new(SessionTree { key, sums, nodes, cut })))
    }
}

/// Puts requests into the order of their tree.
fn tree(mut entries: Vec<Entry>, adjusted: &Adjustments) -> Vec<SessionNode> {
    entries.sort_by_key(|entry| (entry.arrived_unix_ms, entry.id));
    let places: HashMap<RequestId, usize> =
        entries.iter().enumerate().map(|(at, entry)| (entry.id, at)).collect();
    let parent = |entry: &Entry| entry.parent.and_then(|parent| places.get(&parent).copied());
    let mut children = vec![Vec::new(); entries.len()];
    let mut tops = Vec::new();
    for (at, entry) in entries.iter().enumerate() {
        match parent(entry) {
            Some(above) if above != at => children[above].push(at),
            _ => tops.push(at),
        }
    }
    let mut seen = vec![false; entries.len()];
    let mut order: Vec<(usize, u32)> = Vec::with_capacity(entries.len());
    // What no top leads to is in a circle: it begins with its earliest request.
    for top in tops.into_iter().chain(0..entries.len()) {
        let mut open = vec![(top, 0)];
        while let Some((at, depth)) = open.pop() {
            if !std::mem::replace(&mut seen[at], true) {
                order.push((at, depth));
                open.extend(children[at].iter().rev().map(|child| (*child, depth + 1)));
            }
        }
    }
    let mut slots: Vec<Option<Entry>> = entries.into_iter().map(Some).collect();
    let mut nodes: Vec<SessionNode> = order
        .into_iter()
        .filter_map(|(at, depth)| {
            let entry = slots[at].take()?;
            let cost = adjusted.of_entry(&entry).unwrap_or(entry.cost);
            let known = cost.map_or(0, |cost| u128::from(cost.pico()));
            let branch_unknown = u64::from(cost.is_none());
            Some(SessionNode {
                entry,
                depth,
                branch_cost: PicoUsdTotal::from_pico(known),
                branch_unknown,
            })
        })
        .collect();
    // From the end: a request's branch is complete before it is added to the one above.
    let mut above: Vec<usize> = Vec::new();
    let mut parents = vec![None; nodes.len()];
    for (at, node) in nodes.iter().enumerate() {
        above.truncate(node.depth as usize);
        parents[at] = above.last().copied();
        above.push(at);
    }
    for at in (0..nodes.len()).rev() {
        if let Some(parent) = parents[at] {
            let (cost, unknown) = (nodes[at].branch_cost, nodes[at].branch_unknown);
            let sum = nodes[parent].branch_cost.pico().saturating_add(cost.pico());
            nodes[parent].branch_cost = PicoUsdTotal::from_pico(sum);
            nodes[parent].branch_unknown += unknown;
        }
    }
    nodes
}
