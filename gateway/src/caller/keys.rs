//! All keys of the installation, looked up by the hash of their secret.
//!
//! **Invariants:** the record of a key that works here is already durable in the books; a right
//! key is never refused because others at its address were wrong.

use super::{
    ADMIN_KEY_FILE, BudgetSpec, Caller, GroupRecord, KeyLimits, KeyRecord, Priority, Secret,
    files::{HASH_KEY_FILE, private_dir, read_secret, write_secret},
    groups::Groups,
    secret::{self, SecretHash},
};
use crate::{
    admission::FailedAuth,
    clock::Clock,
    ledger::{KeyId, Scope},
    refusal::Refusal,
};
use arc_swap::ArcSwap;
use foldhash::fast::RandomState;
use http::HeaderMap;
use std::{
    collections::HashMap,
    io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use subtle::ConstantTimeEq as _;

/// Most keys of one installation.
const KEYS_MAX: usize = 100_000;

/// All keys of the installation, and the admin key.
pub struct Keys {
    dir: PathBuf,
    hash_key: [u8; 32],
    admin: ArcSwap<SecretHash>,
    callers: ArcSwap<Callers>,
    installing: Mutex<()>,
    changing: Arc<tokio::sync::Mutex<()>>,
    failed: FailedAuth,
    clock: Clock,
}

#[derive(Clone, Debug, Default)]
struct Callers {
    /// By keyed hashes, at which nobody outside can aim.
    by_hash: HashMap<SecretHash, Arc<Caller>, RandomState>,
    by_id: HashMap<KeyId, Arc<Caller>>,
    groups: Groups,
}

/// What the operator says about a new key.
#[derive(Clone, Debug, Default)]
pub struct NewKey {
    /// The operator's name for it.
    pub label: String,
    /// User.
    pub user: Option<String>,
    /// Team.
    pub team: Option<String>,
    /// Tags of every request.
    pub tags: Vec<String>,
    /// Limits.
    pub limits: KeyLimits,
    /// Budgets.
    pub budgets: Vec<BudgetSpec>,
    /// What each of its sessions may use.
    pub session_budgets: Vec<BudgetSpec>,
    /// Whether it may pin routes.
    pub may_pin: bool,
    /// How urgent its requests are.
    pub priority: Priority,
    /// When it stops working, milliseconds since the Unix epoch.
    pub expires_unix_ms: Option<u64>,
}

/// What the operator changes about a key: `None` leaves a thing as it is, `Some(None)` clears it.
#[derive(Clone, Debug, Default)]
pub struct KeyChange {
    /// The operator's name for it.
    pub label: Option<String>,
    /// User.
    pub user: Option<Option<String>>,
    /// Team.
    pub team: Option<Option<String>>,
    /// All its tags.
    pub tags: Option<Vec<String>>,
    /// Its limits, all of them anew.
    pub limits: Option<KeyLimits>,
    /// All its budgets.
    pub budgets: Option<Vec<BudgetSpec>>,
    /// All budgets of its sessions.
    pub session_budgets: Option<Vec<BudgetSpec>>,
    /// Whether it is disabled.
    pub disabled: Option<bool>,
    /// Whether it may pin routes.
    pub may_pin: Option<bool>,
    /// How urgent its requests are.
    pub priority: Option<Priority>,
    /// When it stops working.
    pub expires_unix_ms: Option<Option<u64>>,
}

/// Keys that cannot be opened or made.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// A key file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The hash key is not what was written.
    #[error(
        "{0} is damaged: it holds 64 hex digits. Restore it from a backup; without it no key of \
         this ledger works"
    )]
    HashKeyDamaged(PathBuf),
    /// The hash key is gone while keys exist.
    #[error(
        "{0} is missing, and without it the {1} keys of this ledger cannot be checked. Restore it \
         from a backup"
    )]
    HashKeyMissing(PathBuf, usize),
    /// The operating system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// There are [`KEYS_MAX`] already.
    #[error("there are already {KEYS_MAX} keys, the most that one installation keeps")]
    TooMany,
}

// === impl Keys ===

impl Keys {
    /// Opens the keys of a data directory, whose records come from the books. Creates the hash key
    /// and the admin key where there are none. Blocking.
    ///
    /// # Errors
    /// A key file that is unreadable, damaged or missing.
    pub fn open(
        dir: &Path,
        records: Vec<KeyRecord>,
        clock: Clock,
        failed_auth_per_minute: u32,
    ) -> Result<Self, KeysError> {
        private_dir(dir).map_err(|source| file_error(dir, "", source))?;
        let hash_key = open_hash_key(dir, records.len())?;
        let admin = match read_secret(dir, ADMIN_KEY_FILE)
            .map_err(|source| file_error(dir, ADMIN_KEY_FILE, source))?
        {
            Some(secret) if !secret.reveal().is_empty() => secret,
            _ => write_admin(dir)?,
        };
        let mut callers = Callers::default();
        for record in records {
            callers.put(record);
        }
        Ok(Self {
            dir: dir.to_owned(),
            admin: ArcSwap::from_pointee(admin.hash(&hash_key)),
            hash_key,
            callers: ArcSwap::from_pointee(callers),
            installing: Mutex::new(()),
            changing: Arc::default(),
            failed: FailedAuth::new(failed_auth_per_minute),
            clock,
        })
    }

    /// The caller that a request's key belongs to.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`], or [`Refusal::AuthThrottled`] after too many of them from one
    /// address.
    pub fn authenticate(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<Arc<Caller>, Refusal> {
        let why = match secret::presented(headers) {
            None => "no API key: send `Authorization: Bearer <key>`",
            Some(presented) => match self.lookup(presented) {
                Some(caller) => return Ok(caller),
                None => "this API key is not valid",
            },
        };
        Err(self.refuse(why, peer))
    }

    /// Checks that a request carries the admin key.
    ///
    /// # Errors
    /// As [`Keys::authenticate`]; [`Refusal::Forbidden`] for a key that works but is not the admin
    /// key.
    pub fn authenticate_admin(
        &self,
        headers: &HeaderMap,
        peer: Option<IpAddr>,
    ) -> Result<(), Refusal> {
        let why = match secret::presented(headers) {
            None => "no admin key: send `Authorization: Bearer <admin key>`",
            Some(presented) => {
                let hash = secret::hash(&self.hash_key, presented);
                if bool::from(hash.ct_eq(&**self.admin.load())) {
                    return Ok(());
                }
                if self.lookup(presented).is_some() {
                    return Err(Refusal::Forbidden(
                        "this key works, but not here: /admin takes the admin key".to_owned(),
                    ));
                }
                "this admin key is not valid"
            }
        };
        Err(self.refuse(why, peer))
    }

    fn lookup(&self, presented: &str) -> Option<Arc<Caller>> {
        let hash = secret::hash(&self.hash_key, presented);
        let callers = self.callers.load();
        let caller = callers.by_hash.get(&hash)?;
        // The map compares as it likes, on a keyed hash nobody outside can aim at; what decides
        // compares in constant time.
        let same = bool::from(caller.record.secret_hash.ct_eq(&hash));
        (same && caller.works_at(self.clock.unix_ms())).then(|| Arc::clone(caller))
    }

    /// A request without an address (it came through no socket) counts to nobody.
    fn refuse(&self, why: &'static str, peer: Option<IpAddr>) -> Refusal {
        match peer.map_or(Ok(()), |peer| self.failed.count(peer)) {
            Ok(()) => Refusal::Unauthenticated(why),
            Err(wait) => Refusal::AuthThrottled(wait),
        }
    }

    /// Makes a key: its record, to be put into the books and then [`Keys::install`]ed, and its
    /// secret, to be shown once.
    ///
    /// # Errors
    /// No random bytes, or too many keys.
    pub fn make(&self, new: NewKey) -> Result<(KeyRecord, Secret), KeysError> {
        if self.callers.load().by_id.len() >= KEYS_MAX {
            return Err(KeysError::TooMany);
        }
        let secret = Secret::draw()?;
        let record = KeyRecord {
            id: KeyId(secret::draw_id()?),
            secret_hash: secret.hash(&self.hash_key),
            hint: secret.hint(),
            label: new.label,
            user: new.user,
            team: new.team,
            limits: new.limits,
            budgets: new.budgets,
            may_pin: new.may_pin,
            created_unix_ms: self.clock.unix_ms(),
            expires_unix_ms: new.expires_unix_ms,
            revoked_unix_ms: None,
            session_budgets: new.session_budgets,
            disabled_unix_ms: None,
            tags: new.tags,
            priority: new.priority,
        };
        Ok((record, secret))
    }

    /// A key's record as `change` makes it, to be put into the books and then
    /// [`Keys::install`]ed; `None` if there is no such key.
    #[must_use]
    pub fn changed(&self, id: &KeyId, change: KeyChange) -> Option<KeyRecord> {
        let mut record = KeyRecord::clone(&*self.get(id)?);
        set(&mut record.limits, change.limits);
        set(&mut record.label, change.label);
        set(&mut record.user, change.user);
        set(&mut record.team, change.team);
        set(&mut record.tags, change.tags);
        set(&mut record.budgets, change.budgets);
        set(&mut record.session_budgets, change.session_budgets);
        if let Some(disabled) = change.disabled {
            let since = record.disabled_unix_ms.unwrap_or(self.clock.unix_ms());
            record.disabled_unix_ms = disabled.then_some(since);
        }
        set(&mut record.may_pin, change.may_pin);
        set(&mut record.priority, change.priority);
        set(&mut record.expires_unix_ms, change.expires_unix_ms);
        Some(record)
    }

    /// A key's record as revoking it makes it; `None` if there is no such key.
    #[must_use]
    pub fn revoked(&self, id: &KeyId) -> Option<KeyRecord> {
        let mut record = KeyRecord::clone(&*self.get(id)?);
        record.revoked_unix_ms.get_or_insert(self.clock.unix_ms());
        Some(record)
    }

    /// Lets a record take effect: a new key, or one that changed. Its counts go on.
    pub fn install(&self, record: KeyRecord) {
        let _one_at_a_time = lock(&self.installing);
        let mut callers = Callers::clone(&self.callers.load());
        callers.put(record);
        self.callers.store(Arc::new(callers));
    }

    /// Lets teams and users take effect: new ones, or ones that changed. Their counts go on.
    pub fn install_groups(&self, records: Vec<GroupRecord>) {
        let _one_at_a_time = lock(&self.installing);
        let mut callers = Callers::clone(&self.callers.load());
        records.into_iter().for_each(|record| callers.groups.put(record));
        let all: Vec<_> = callers.by_id.values().map(|caller| caller.record.clone()).collect();
        for record in all {
            callers.put(KeyRecord::clone(&record));
        }
        self.callers.store(Arc::new(callers));
    }

    /// How many keys count against a team or a user.
    #[must_use]
    pub fn count_within(&self, scope: &Scope) -> usize {
        let callers = self.callers.load();
        let within = |caller: &&Arc<Caller>| caller.path().scopes().contains(scope);
        callers.by_id.values().filter(within).count()
    }

    /// Held from reading a record to installing its successor, so that no change is lost.
    pub async fn changing(&self) -> tokio::sync::OwnedMutexGuard<()> {
        Arc::clone(&self.changing).lock_owned().await
    }

    /// Every record, oldest first.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<KeyRecord>> {
        let callers = self.callers.load();
        let mut records: Vec<_> =
            callers.by_id.values().map(|caller| Arc::clone(&caller.record)).collect();
        records.sort_by(|a, b| (a.created_unix_ms, &a.id).cmp(&(b.created_unix_ms, &b.id)));
        records
    }

    /// How many keys there are, revoked ones included.
    #[must_use]
    pub fn count(&self) -> usize {
        self.callers.load().by_id.len()
    }

    /// A record by id.
    #[must_use]
    pub fn get(&self, id: &KeyId) -> Option<Arc<KeyRecord>> {
        self.callers.load().by_id.get(id).map(|caller| Arc::clone(&caller.record))
    }

    /// Replaces the admin key, in its file and at once in effect. Blocking.
    ///
    /// # Errors
    /// No random bytes, or the file could not be written: then the old one goes on.
    pub fn rotate_admin(&self) -> Result<Secret, KeysError> {
        let secret = write_admin(&self.dir)?;
        self.admin.store(Arc::new(secret.hash(&self.hash_key)));
        Ok(secret)
    }
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("dir", &self.dir).finish_non_exhaustive()
    }
}

impl Callers {
    fn put(&mut self, record: KeyRecord) {
        let (id, hash) = (record.id.clone(), record.secret_hash);
        let before = self.by_id.get(&id).map(|caller| &**caller);
        let caller = Arc::new(self.groups.caller(Arc::new(record), before));
        self.by_hash.insert(hash, Arc::clone(&caller));
        self.by_id.insert(id, caller);
    }
}

fn set<T>(place: &mut T, value: Option<T>) {
    if let Some(value) = value {
        *place = value;
    }
}

fn open_hash_key(dir: &Path, keys: usize) -> Result<[u8; 32], KeysError> {
    let fail = |source| file_error(dir, HASH_KEY_FILE, source);
    if let Some(text) = read_secret(dir, HASH_KEY_FILE).map_err(fail)? {
        return match blake3::Hash::from_hex(text.reveal()) {
            Ok(bytes) => Ok(*bytes.as_bytes()),
            Err(_) => Err(KeysError::HashKeyDamaged(dir.join(HASH_KEY_FILE))),
        };
    }
    if keys > 0 {
        return Err(KeysError::HashKeyMissing(dir.join(HASH_KEY_FILE), keys));
    }
    let key = secret::random::<32>()?;
    let text = blake3::Hash::from_bytes(key).to_hex().to_string();
    write_secret(dir, HASH_KEY_FILE, &Secret::from_text(text)).map_err(fail)?;
    Ok(key)
}

fn write_admin(dir: &Path) -> Result<Secret, KeysError> {
    let secret = Secret::draw_admin()?;
    write_secret(dir, ADMIN_KEY_FILE, &secret)
        .map_err(|source| file_error(dir, ADMIN_KEY_FILE, source))?;
    Ok(secret)
}

fn file_error(dir: &Path, name: &str, source: io::Error) -> KeysError {
    KeysError::File { path: dir.join(name), source }
}

fn lock(mutex: &Mutex<()>) -> MutexGuard<'_, ()> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
