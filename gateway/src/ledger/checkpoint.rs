//! The derived state as keys and values (in sled, or a base of the journal), and back.
//!
//! **Invariant:** what is loaded is the state after exactly the event named in the checkpoint, or
//! nothing: a checkpoint of another schema, or one that cannot be read, is not used at all.

use super::{
    Scope,
    adjusted::Adjustments,
    derived::{Derived, Dirty, Kept},
    notice::Notice,
    rollups::{Dims, Level, MINUTES_KEPT, Rollups, Rows, SETS, Set, Span, of_set},
    tally::Tally,
};
use crate::store::{
    base::Base,
    codec::{v2, v3},
    index::{Changes, IndexError, Pairs},
};
use policies::PolicyVersion;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::sync::Arc;

/// Raise it when what is stored changes its meaning: older checkpoints are rebuilt.
const SCHEMA: u32 = 6;
/// As [`SCHEMA`], but keys have the form of version 3 of the journal.
const SCHEMA_5: u32 = 5;
/// As [`SCHEMA_5`], but keys and groups have the form of version 2 of the journal.
const SCHEMA_4: u32 = 4;
/// As [`SCHEMA_4`], but with a value for each row of a span. It is read, because what a base stands
/// for cannot be rebuilt.
const SCHEMA_3: u32 = 3;
/// Tells the packed rows of a set from the rows of schema 3.
const PACKED: u8 = 0x80;
/// Of zstd: sketches are mostly zeros, which the lowest level finds too.
const LEVEL: i32 = 1;

const ACCOUNTS: &[u8] = b"a";
const ADJUSTED: &[u8] = b"j";
const CONFIGURED: &[u8] = b"c";
const DROPPED: &[u8] = b"d";
const GROUPS: &[u8] = b"g";
const KEYS: &[u8] = b"k";
const LINEAGE: &[u8] = b"l";
const MARKS: &[u8] = b"m";
const NAMES: &[u8] = b"n";
const NOTICES: &[u8] = b"e";
const OPEN: &[u8] = b"o";
const POLICIES: &[u8] = b"p";
const REFUSED: &[u8] = b"f";
const REFUSED_BY: &[u8] = b"h";
const ROLLUPS: &[u8] = b"r";
const STANDING: &[u8] = b"s";
const TOLD: &[u8] = b"t";
/// Of a base alone: texts of policies by their versions.
const TEXTS: &[u8] = b"x";
const UNCOUNTED: &[u8] = b"u";

#[derive(Serialize, Deserialize)]
struct Meta {
    schema: u32,
    next_seq: u64,
    /// The minute that lasts; the hour and the day that last are those it is in.
    minute: u64,
}

/// Writes what changed since the last checkpoint, unless a part of that is no longer known.
pub(crate) fn save(index: &impl Pairs, derived: &mut Derived) -> Result<(), IndexError> {
    if !derived.rollups.given_up().is_empty() {
        return Err(IndexError::GivenUp);
    }
    let mut changes = Changes::default();
    for scope in &derived.dirty.forgotten {
        for of in [ACCOUNTS, MARKS] {
            index.remove(&scope_key(of, scope)?, &mut changes)?;
        }
    }
    for (scope, kept) in derived.accounts.iter().filter(|(_, kept)| kept.dirty) {
        let of_scope = bytes(&(kept.used_unix_ms, &kept.accounts))?;
        changes.put(&scope_key(ACCOUNTS, scope)?, &of_scope);
        if !kept.marks.is_empty() {
            changes.put(&scope_key(MARKS, scope)?, &bytes(&kept.marks)?);
        }
    }
    for scope in &derived.dirty.groups {
        if let Some(record) = derived.groups.get(scope) {
            changes.put(&[GROUPS, &bytes(scope)?].concat(), &bytes(record)?);
        }
    }
    for key in &derived.dirty.keys {
        if let Some(record) = derived.keys.get(key) {
            changes.put(&[KEYS, key.0.as_bytes()].concat(), &bytes(record)?);
        }
    }
    let policies = derived.policies.iter().enumerate().skip(derived.dirty.policies_from);
    for (at, note) in policies {
        changes.put(&[POLICIES, &number(at)].concat(), &bytes(note)?);
    }
    for (at, name) in derived.rollups.names.all().enumerate().skip(derived.dirty.names_from) {
        changes.put(&[NAMES, &number(at)].concat(), name.as_bytes());
    }
    index.remove(OPEN, &mut changes)?;
    for (id, open) in &derived.open {
        changes.put(&[OPEN, id.0.as_bytes()].concat(), &bytes(open)?);
    }
    for attempt in &derived.dirty.adjusted {
        if let Some(adjusted) = derived.adjusted.get(attempt) {
            changes.put(&[ADJUSTED, &bytes(attempt)?].concat(), &bytes(adjusted)?);
        }
    }
    if let Some(configured) = &derived.configured {
        changes.put(CONFIGURED, &bytes(configured)?);
    }
    changes.put(LINEAGE, &bytes(&derived.lineage)?);
    changes.put(STANDING, &bytes(&derived.standing)?);
    changes.put(UNCOUNTED, &bytes(&derived.uncounted)?);
    changes.put(REFUSED, &bytes(&derived.refused)?);
    changes.put(REFUSED_BY, &bytes(&derived.refused_by)?);
    put_notices(index, derived, &mut changes)?;
    put_rollups(index, &derived.rollups, &mut changes)?;
    let minute = derived.rollups.minute();
    let meta = Meta { schema: SCHEMA, next_seq: derived.next_seq, minute };
    index.apply(changes, &bytes(&meta)?)?;
    derived.rollups.forget_past();
    derived.accounts.values_mut().for_each(|kept| kept.dirty = false);
    derived.notices.saved_seq = derived.next_seq;
    derived.notices.told_dirty = false;
    derived.dirty = clean(derived);
    Ok(())
}

/// Writes the notices that came since, and forgets those that are no longer kept.
fn put_notices(
    index: &impl Pairs,
    derived: &Derived,
    changes: &mut Changes,
) -> Result<(), IndexError> {
    let notices = &derived.notices;
    for (seq, notice) in notices.all().filter(|(seq, _)| *seq >= notices.saved_seq) {
        changes.put(&[NOTICES, &seq.to_be_bytes()].concat(), &bytes(notice)?);
    }
    if notices.dropped_seq > 0 {
        let kept = [NOTICES, &(notices.dropped_seq + 1).to_be_bytes()].concat();
        index.remove_between(NOTICES, &kept, changes)?;
    }
    if notices.told_dirty || notices.newest() >= notices.saved_seq {
        changes.put(TOLD, &bytes(&(notices.dropped_seq, &notices.told))?);
    }
    Ok(())
}

/// What a base knows of the events that were dropped: when the last of them was committed, and the
/// texts of policies that are still of use.
pub(crate) fn put_dropped(
    base: &Base,
    last_ms: u64,
    texts: &[(PolicyVersion, String)],
) -> Result<(), IndexError> {
    let mut changes = Changes::default();
    changes.put(DROPPED, &last_ms.to_le_bytes());
    base.remove(TEXTS, &mut changes)?;
    for (version, text) in texts {
        changes.put(&[TEXTS, version.0.as_bytes()].concat(), text.as_bytes());
    }
    base.apply(changes, &base.meta()?.unwrap_or_default())
}

/// When the last event that was dropped was committed; `None` of a base of former versions.
pub(crate) fn dropped_until_ms(base: &Base) -> Result<Option<u64>, IndexError> {
    let found = at(base, DROPPED)?;
    let bytes = found.map(|bytes| bytes.as_slice().try_into().map_err(|_| IndexError::Value));
    Ok(bytes.transpose()?.map(u64::from_le_bytes))
}

/// The text of a policy that a base has.
pub(crate) fn text(base: &Base, version: &PolicyVersion) -> Result<Option<String>, IndexError> {
    let found = at(base, &[TEXTS, version.0.as_bytes()].concat())?;
    found.map(|bytes| String::from_utf8(bytes).map_err(|_| IndexError::Value)).transpose()
}

fn at(base: &Base, key: &[u8]) -> Result<Option<Vec<u8>>, IndexError> {
    let mut found = None;
    base.scan(key, &mut |at, bytes| {
        if at == key {
            found = Some(bytes.to_vec());
        }
        Ok(())
    })?;
    Ok(found)
}

/// All of a state that has no rollups, as a base of its own.
pub(crate) fn without_rollups(mut copy: Derived) -> Result<Base, IndexError> {
    copy.dirty = Dirty::default();
    copy.all_dirty();
    let base = Base::default();
    save(&base, &mut copy)?;
    Ok(base)
}

/// The state as last saved; `None` if there is none that this program reads.
pub(crate) fn load(index: &impl Pairs) -> Result<Option<Derived>, IndexError> {
    let Some(meta) = index.meta()? else { return Ok(None) };
    let meta: Meta = value(&meta)?;
    if ![SCHEMA, SCHEMA_5, SCHEMA_4, SCHEMA_3].contains(&meta.schema) {
        return Ok(None);
    }
    let mut derived = Derived::new();
    derived.next_seq = meta.next_seq;
    index.scan(ACCOUNTS, &mut |key, bytes| {
        let (used_unix_ms, accounts) = value(bytes)?;
        let kept = Kept { accounts, used_unix_ms, ..Kept::default() };
        derived.accounts.insert(value(&key[ACCOUNTS.len()..])?, kept);
        Ok(())
    })?;
    index.scan(MARKS, &mut |key, bytes| {
        if let Some(kept) = derived.accounts.get_mut(&value::<Scope>(&key[MARKS.len()..])?) {
            kept.marks = value(bytes)?;
        }
        Ok(())
    })?;
    index.scan(NOTICES, &mut |key, bytes| {
        let seq = key[NOTICES.len()..].first_chunk::<8>().ok_or(IndexError::Value)?;
        derived.notices.add(u64::from_be_bytes(*seq), value::<Notice>(bytes)?);
        Ok(())
    })?;
    index.scan(TOLD, &mut |_, bytes| {
        (derived.notices.dropped_seq, derived.notices.told) = value(bytes)?;
        Ok(())
    })?;
    derived.notices.saved_seq = meta.next_seq;
    load_records(index, meta.schema, &mut derived)?;
    index.scan(OPEN, &mut |key, bytes| {
        let id = uuid::Uuid::from_slice(&key[OPEN.len()..]).map_err(|_| IndexError::Value)?;
        derived.open.insert(super::RequestId(id), value(bytes)?);
        Ok(())
    })?;
    index.scan(REFUSED, &mut |_, bytes| {
        derived.refused = value(bytes)?;
        Ok(())
    })?;
    index.scan(REFUSED_BY, &mut |_, bytes| {
        derived.refused_by = value(bytes)?;
        Ok(())
    })?;
    let mut rollups = Rollups::default();
    index.scan(NAMES, &mut |_, bytes| {
        rollups.names.push(std::str::from_utf8(bytes).map_err(|_| IndexError::Value)?);
        Ok(())
    })?;
    for (level, at) in [
        (Level::Minute, meta.minute),
        (Level::Hour, meta.minute / 60),
        (Level::Day, meta.minute / (24 * 60)),
    ] {
        let span = Span { level, at };
        rollups.restore(span, span_rows(index, span, &SETS)?);
    }
    derived.rollups = rollups;
    derived.dirty = clean(&derived);
    if meta.schema != SCHEMA {
        // The next checkpoint says that all of them have today's form.
        derived.dirty.keys = derived.keys.keys().cloned().collect();
        derived.dirty.groups = derived.groups.keys().cloned().collect();
    }
    Ok(Some(derived))
}

/// What operators set up, and what else stands in single values.
fn load_records(index: &impl Pairs, schema: u32, derived: &mut Derived) -> Result<(), IndexError> {
    index.scan(GROUPS, &mut |_, bytes| {
        let record: crate::caller::GroupRecord = match schema {
            SCHEMA | SCHEMA_5 => value(bytes)?,
            _ => value::<v2::GroupRecord>(bytes)?.into(),
        };
        derived.groups.insert(record.scope.clone(), record);
        Ok(())
    })?;
    index.scan(KEYS, &mut |_, bytes| {
        let record: crate::caller::KeyRecord = match schema {
            SCHEMA => value(bytes)?,
            SCHEMA_5 => value::<v3::KeyRecord>(bytes)?.into(),
            _ => value::<v2::KeyRecord>(bytes)?.into(),
        };
        derived.keys.insert(record.id.clone(), record);
        Ok(())
    })?;
    let mut adjusted = Adjustments::default();
    index.scan(ADJUSTED, &mut |key, bytes| {
        adjusted.restore(value(&key[ADJUSTED.len()..])?, value(bytes)?);
        Ok(())
    })?;
    derived.adjusted = Arc::new(adjusted);
    // Not there before there was one: then nothing contradicts any journal.
    index.scan(LINEAGE, &mut |_, bytes| {
        derived.lineage = value(bytes)?;
        Ok(())
    })?;
    index.scan(STANDING, &mut |_, bytes| {
        derived.standing = value(bytes)?;
        Ok(())
    })?;
    index.scan(UNCOUNTED, &mut |_, bytes| {
        derived.uncounted = value(bytes)?;
        Ok(())
    })?;
    index.scan(CONFIGURED, &mut |_, bytes| {
        derived.configured = Some(value(bytes)?);
        Ok(())
    })?;
    index.scan(POLICIES, &mut |_, bytes| {
        derived.policies.push(value(bytes)?);
        Ok(())
    })?;
    Ok(())
}

/// Writes the rollups that are not there yet, and forgets minutes that are old.
pub(crate) fn put_rollups(
    index: &impl Pairs,
    rollups: &Rollups,
    changes: &mut Changes,
) -> Result<(), IndexError> {
    let current = rollups.current();
    let lasting = current.iter().map(|(span, rows)| (span, rows));
    for (span, rows) in rollups.past().iter().chain(lasting) {
        put_span(*span, rows, changes)?;
    }
    let oldest = rollups.minute().saturating_sub(MINUTES_KEPT);
    let minutes_from = |at| span_prefix(Span { level: Level::Minute, at });
    index.remove_between(&minutes_from(0), &minutes_from(oldest), changes)
}

/// The first day that has rollups.
pub(crate) fn first_day(index: &impl Pairs) -> Result<Option<u64>, IndexError> {
    let prefix = [ROLLUPS, &[Level::Day as u8]].concat();
    let mut first = None;
    let looked = index.parts(&prefix, &mut |key, _| {
        first = key[prefix.len()..].first_chunk::<8>().map(|at| u64::from_be_bytes(*at));
        // The first is enough.
        Err(IndexError::Value)
    });
    if first.is_some() { Ok(first) } else { looked.map(|()| None) }
}

/// Writes the rows of one span. Those of a set are one packed value, because they are read together:
/// a minute of a busy gateway has hundreds, nearly all of them zeros of sketches.
pub(crate) fn put_span(span: Span, rows: &Rows, changes: &mut Changes) -> Result<(), IndexError> {
    for set in SETS {
        let own: Vec<(&Dims, &Tally)> = of_set(rows, set).collect();
        if !own.is_empty() {
            let packed = zstd::bulk::compress(&bytes(&own)?, LEVEL)?;
            changes.put(&set_key(span, set), &packed);
        }
    }
    Ok(())
}

/// The rows of one span, of these sets.
pub(crate) fn span_rows(index: &impl Pairs, span: Span, sets: &[Set]) -> Result<Rows, IndexError> {
    let mut rows = Rows::new();
    for set in sets {
        let mut packed = false;
        index.scan(&set_key(span, *set), &mut |_, stored| {
            packed = true;
            let unpacked = zstd::stream::decode_all(stored)?;
            rows.extend(value::<Vec<(Dims, Tally)>>(&unpacked)?);
            Ok(())
        })?;
        if !packed {
            rows_of_schema_3(index, span, *set, &mut rows)?;
        }
    }
    Ok(rows)
}

/// The rows of a span that was over before schema 4: a row's key begins with its set.
fn rows_of_schema_3(
    index: &impl Pairs,
    span: Span,
    set: Set,
    rows: &mut Rows,
) -> Result<(), IndexError> {
    let prefix = span_prefix(span);
    index.scan(&[prefix.as_slice(), &[set as u8]].concat(), &mut |key, stored| {
        rows.insert(value(&key[prefix.len()..])?, value(stored)?);
        Ok(())
    })
}

fn clean(derived: &Derived) -> Dirty {
    Dirty {
        policies_from: derived.policies.len(),
        names_from: derived.rollups.names.all().count(),
        ..Dirty::default()
    }
}

fn scope_key(prefix: &[u8], scope: &Scope) -> Result<Vec<u8>, IndexError> {
    Ok([prefix, &bytes(scope)?].concat())
}

fn set_key(span: Span, set: Set) -> Vec<u8> {
    [span_prefix(span).as_slice(), &[PACKED | set as u8]].concat()
}

fn span_prefix(span: Span) -> Vec<u8> {
    [ROLLUPS, &[span.level as u8], &span.at.to_be_bytes()].concat()
}

fn number(at: usize) -> [u8; 8] {
    (at as u64).to_be_bytes()
}

fn bytes<T: Serialize>(value: &T) -> Result<Vec<u8>, IndexError> {
    postcard::to_allocvec(value).map_err(|_| IndexError::Value)
}

fn value<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, IndexError> {
    postcard::from_bytes(bytes).map_err(|_| IndexError::Value)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dims(set: Set, key: u32) -> Dims {
        Dims { set, route: 2, model: 3, provider: 4, key }
    }

    fn rows() -> Rows {
        let tally = |requests| Tally { requests, ..Tally::default() };
        let keys = (5..400).map(|key| (dims(Set::RouteModelKey, key), tally(u64::from(key))));
        keys.chain([(dims(Set::All, 0), tally(7))]).collect()
    }

    fn saved(changes: Changes) -> Base {
        let base = Base::default();
        base.apply(changes, b"meta").unwrap();
        base
    }

    fn counts(rows: &Rows) -> Vec<(Dims, u64)> {
        rows.iter().map(|(dims, tally)| (*dims, tally.requests)).collect()
    }

    #[test]
    fn a_spans_rows_are_read_as_they_were_written_in_this_schema_and_the_one_before() {
        let span = Span { level: Level::Hour, at: 77 };
        let rows = rows();
        let mut packed = Changes::default();
        put_span(span, &rows, &mut packed).unwrap();
        let mut single = Changes::default();
        for (dims, tally) in &rows {
            let key = [span_prefix(span), bytes(dims).unwrap()].concat();
            single.put(&key, &bytes(tally).unwrap());
        }
        for base in [saved(packed), saved(single)] {
            assert_eq!(counts(&span_rows(&base, span, &SETS).unwrap()), counts(&rows));
            let all = span_rows(&base, span, &[Set::All]).unwrap();
            assert_eq!(counts(&all), [(dims(Set::All, 0), 7)]);
            assert!(span_rows(&base, Span { at: 78, ..span }, &SETS).unwrap().is_empty());
        }
    }
}
