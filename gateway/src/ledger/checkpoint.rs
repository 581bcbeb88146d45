//! The derived state in sled, and back.
//!
//! **Invariant:** what is loaded is the state after exactly the event named in the checkpoint, or
//! nothing: a checkpoint of another schema, or one that cannot be read, is not used at all.

use super::{
    KeyId,
    derived::{Derived, Dirty, Kept},
    rollups::{Dims, HourRows, Rollups},
    tally::Tally,
};
use crate::store::index::{Changes, Index, IndexError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// Raise it when what is stored changes its meaning: older checkpoints are rebuilt.
const SCHEMA: u32 = 2;

const ACCOUNTS: &[u8] = b"a";
const GLOBAL: &[u8] = b"g";
const KEYS: &[u8] = b"k";
const NAMES: &[u8] = b"n";
const OPEN: &[u8] = b"o";
const POLICIES: &[u8] = b"p";
const REFUSED: &[u8] = b"f";
const ROLLUPS: &[u8] = b"r";

#[derive(Serialize, Deserialize)]
struct Meta {
    schema: u32,
    next_seq: u64,
    hour: u64,
}

/// Writes what changed since the last checkpoint.
pub(crate) fn save(index: &Index, derived: &mut Derived) -> Result<(), IndexError> {
    let mut changes = Changes::default();
    if derived.dirty.global {
        changes.put(GLOBAL, &bytes(&derived.global)?);
    }
    for (key, kept) in derived.accounts.iter().filter(|(_, kept)| kept.dirty) {
        changes.put(&[ACCOUNTS, key.0.as_bytes()].concat(), &bytes(&kept.accounts)?);
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
    index.remove_all(OPEN, &mut changes)?;
    for (id, open) in &derived.open {
        changes.put(&[OPEN, id.0.as_bytes()].concat(), &bytes(open)?);
    }
    changes.put(REFUSED, &bytes(&derived.refused)?);
    for (hour, rows) in derived.rollups.hours() {
        for (dims, tally) in rows {
            changes.put(&[&hour_prefix(hour), bytes(&dims)?.as_slice()].concat(), &bytes(&tally)?);
        }
    }
    let meta = Meta { schema: SCHEMA, next_seq: derived.next_seq, hour: derived.rollups.hour() };
    index.apply(changes, &bytes(&meta)?)?;
    derived.rollups.forget_past();
    derived.accounts.values_mut().for_each(|kept| kept.dirty = false);
    derived.dirty = clean(derived);
    Ok(())
}

/// The state as last saved; `None` if there is none that this program reads.
pub(crate) fn load(index: &Index) -> Result<Option<Derived>, IndexError> {
    let Some(meta) = index.meta()? else { return Ok(None) };
    let meta: Meta = value(&meta)?;
    if meta.schema != SCHEMA {
        return Ok(None);
    }
    let mut derived = Derived::new();
    derived.next_seq = meta.next_seq;
    index.scan(GLOBAL, &mut |_, bytes| {
        derived.global = value(bytes)?;
        Ok(())
    })?;
    index.scan(ACCOUNTS, &mut |key, bytes| {
        let key = std::str::from_utf8(&key[ACCOUNTS.len()..]).map_err(|_| IndexError::Value)?;
        let kept = Kept { accounts: value(bytes)?, dirty: false };
        derived.accounts.insert(KeyId(key.into()), kept);
        Ok(())
    })?;
    index.scan(KEYS, &mut |_, bytes| {
        let record: crate::caller::KeyRecord = value(bytes)?;
        derived.keys.insert(record.id.clone(), record);
        Ok(())
    })?;
    index.scan(POLICIES, &mut |_, bytes| {
        derived.policies.push(value(bytes)?);
        Ok(())
    })?;
    index.scan(OPEN, &mut |key, bytes| {
        let id = uuid::Uuid::from_slice(&key[OPEN.len()..]).map_err(|_| IndexError::Value)?;
        derived.open.insert(super::RequestId(id), value(bytes)?);
        Ok(())
    })?;
    index.scan(REFUSED, &mut |_, bytes| {
        derived.refused = value(bytes)?;
        Ok(())
    })?;
    let mut rollups = Rollups::default();
    index.scan(NAMES, &mut |_, bytes| {
        rollups.names.push(std::str::from_utf8(bytes).map_err(|_| IndexError::Value)?);
        Ok(())
    })?;
    rollups.begin(meta.hour);
    for (dims, tally) in hour(index, meta.hour)? {
        rollups.restore(dims, tally);
    }
    derived.rollups = rollups;
    derived.dirty = clean(&derived);
    Ok(Some(derived))
}

/// The rows of one hour.
pub(crate) fn hour(index: &Index, hour: u64) -> Result<HourRows, IndexError> {
    let prefix = hour_prefix(hour);
    let mut rows = HourRows::new();
    index.scan(&prefix, &mut |key, bytes| {
        let dims: Dims = value(&key[prefix.len()..])?;
        rows.insert(dims, value::<Tally>(bytes)?);
        Ok(())
    })?;
    Ok(rows)
}

fn clean(derived: &Derived) -> Dirty {
    Dirty {
        policies_from: derived.policies.len(),
        names_from: derived.rollups.names.all().count(),
        ..Dirty::default()
    }
}

fn hour_prefix(hour: u64) -> Vec<u8> {
    [ROLLUPS, &hour.to_be_bytes()].concat()
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
