//! Books in a temporary directory, and requests that go through them.

use crate::{
    caller::{BudgetSpec, GroupRecord, KeyLimits, KeyRecord, Priority, Window},
    clock::{Clock, Hand},
    config::Durability,
    ledger::{
        Ask, AttemptIndex, AttemptOutcome, Books, BooksConfig, DecisionRecord, Ending, Endpoint,
        Entry, EntryHead, Filter, KeyId, OpenEntry, OpenError, Outcome, Recovered, Role, Scope,
        Short,
    },
    store::{disk::Disk, record},
    timeline::Timeline,
};
use policies::{
    Facts, Fees, PicoUsd, PolicyName, PolicyVersion, PriceId, RateTable, RequestFacts, RouteId,
    RoutePrice, RuleName, ServiceTier, TimeFacts, TokenPrice, TokenRates, Usage, UsageSource,
};
use std::{
    fs,
    ops::Range,
    path::{Path, PathBuf},
    sync::Arc,
};

/// 1 June 2026, 12:00 UTC.
pub(super) const NOON: u64 = 1_780_315_200_000;

/// A data directory, its clock, and how to open it.
pub(super) struct House {
    _dir: tempfile::TempDir,
    pub(super) clock: Clock,
    pub(super) hand: Hand,
    pub(super) config: BooksConfig,
}

impl House {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (clock, hand) = Clock::standing(NOON);
        let config = BooksConfig {
            dir: dir.path().join("data"),
            durability: Durability::Strict,
            low_water_bytes: 0,
            ballast_bytes: 0,
            segment_entries_max: 250_000,
            time_zone: jiff::tz::TimeZone::UTC,
            global_budgets: Vec::new(),
            global_tokens_per_minute: None,
            model_limits: Vec::new(),
        };
        Self { _dir: dir, clock, hand, config }
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut BooksConfig)) -> Self {
        change(&mut self.config);
        self
    }

    pub(super) fn open(&self) -> Books {
        self.try_open().unwrap().0
    }

    pub(super) fn try_open(&self) -> Result<(Books, Recovered), OpenError> {
        Books::open(self.config.clone(), self.clock.clone())
    }

    pub(super) fn open_on(&self, disk: Arc<dyn Disk>) -> Books {
        Books::open_on(disk, self.config.clone(), self.clock.clone()).unwrap().0
    }

    pub(super) fn data(&self) -> &Path {
        &self.config.dir
    }

    pub(super) fn journal(&self) -> PathBuf {
        self.config.dir.join("journal")
    }

    /// The balances that are kept beside the journal.
    pub(super) fn spares(&self) -> Vec<PathBuf> {
        let files = fs::read_dir(self.journal()).unwrap().map(|item| item.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|end| end == "balances")).collect()
    }

    /// Deletes them.
    pub(super) fn forget_spares(&self) {
        self.spares().into_iter().for_each(|path| fs::remove_file(path).unwrap());
    }

    /// What a crash at this moment would leave: a copy of the directory as it lies there.
    pub(super) fn crashed(&self) -> House {
        loop {
            let dir = tempfile::tempdir().unwrap();
            let mut config = self.config.clone();
            config.dir = dir.path().join("data");
            let before = names(self.data());
            // A copy takes time: one in which a file came or went is none of a moment.
            if copy(self.data(), &config.dir).is_ok() && names(self.data()) == before {
                let (clock, hand) = (self.clock.clone(), self.hand.clone());
                return House { _dir: dir, clock, hand, config };
            }
        }
    }
}

fn names(dir: &Path) -> Vec<PathBuf> {
    let items = fs::read_dir(dir).unwrap().map(|item| item.unwrap().path());
    let mut names: Vec<_> =
        items.flat_map(|path| if path.is_dir() { names(&path) } else { vec![path] }).collect();
    names.sort();
    names
}

pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::create_dir_all(to)?;
    for item in fs::read_dir(from)? {
        let item = item?;
        let target = to.join(item.file_name());
        if item.file_type()?.is_dir() {
            copy(&item.path(), &target)?;
        } else {
            fs::copy(item.path(), target)?;
        }
    }
    Ok(())
}

pub(super) fn usd(text: &str) -> PicoUsd {
    text.parse().unwrap()
}

pub(super) fn money(window: Window, limit: &str) -> BudgetSpec {
    BudgetSpec {
        window,
        money: Some(usd(limit)),
        tokens: None,
        hard: true,
        requests: None,
        zone: None,
        turn: None,
    }
}

pub(super) fn tokens(window: Window, limit: u64) -> BudgetSpec {
    BudgetSpec { tokens: Some(limit), money: None, ..money(window, "0") }
}

pub(super) fn key_id(name: &str) -> KeyId {
    KeyId(Arc::from(name))
}

pub(super) fn key(name: &str, budgets: Vec<BudgetSpec>) -> KeyRecord {
    KeyRecord {
        id: key_id(name),
        secret_hash: [7; 32],
        hint: "tg_abc".to_owned(),
        label: name.to_owned(),
        user: None,
        team: None,
        limits: KeyLimits::default(),
        budgets,
        may_pin: false,
        created_unix_ms: NOON,
        expires_unix_ms: None,
        revoked_unix_ms: None,
        session_budgets: Vec::new(),
        disabled_unix_ms: None,
        tags: Vec::new(),
        priority: Priority::Normal,
    }
}

/// The path of a key without team, user, session or tags.
pub(super) fn path(name: &str) -> crate::ledger::BudgetPath {
    let key = key_id(name);
    crate::ledger::BudgetPath::of(&crate::ledger::Payer {
        key: &key,
        team: None,
        user: None,
        session: None,
        tags: &[],
        model: None,
    })
}

/// A team, user or tag with these budgets.
pub(super) fn group(scope: Scope, budgets: Vec<BudgetSpec>) -> GroupRecord {
    GroupRecord {
        scope,
        label: String::new(),
        team: None,
        limits: KeyLimits::default(),
        budgets,
        session_budgets: Vec::new(),
        created_unix_ms: NOON,
        disabled_unix_ms: None,
    }
}

/// One cent per token of input, two per token of output.
pub(super) fn price() -> RoutePrice {
    RoutePrice::Tokens(Arc::new(token_price()))
}

pub(super) fn token_price() -> TokenPrice {
    TokenPrice {
        id: PriceId(Arc::from("test-price")),
        standard: RateTable {
            base: TokenRates { input: usd("0.01"), output: usd("0.02"), ..TokenRates::default() },
            tiers: Vec::new(),
        },
        hours: Vec::new(),
        services: Vec::new(),
        fees: Fees::default(),
    }
}

pub(super) fn facts() -> Facts {
    Facts {
        version: policies::FACTS_VERSION,
        request: RequestFacts { model: "auto".to_owned(), ..RequestFacts::default() },
        caller: Arc::default(),
        budgets: Vec::new(),
        routes: Vec::new(),
        time: TimeFacts::default(),
        draw: 42,
    }
}

pub(super) fn head(books: &Books, key: &str) -> EntryHead {
    EntryHead {
        id: books.request_id(),
        arrived_unix_ms: NOON,
        key: key_id(key),
        user: Some("ada".to_owned()),
        team: None,
        session: Some("run-1".to_owned()),
        tags: vec!["test".to_owned()],
        endpoint: Endpoint::ChatCompletions,
        model_asked: "auto".to_owned(),
        stream: true,
        decision: DecisionRecord {
            policy: PolicyName(Arc::from("edge-first")),
            version: PolicyVersion(Arc::from("0123456789abcdef")),
            rule: RuleName(Arc::from("default")),
            plan: vec![RouteId::new("cloud")],
            left_out: Vec::new(),
            facts: facts(),
        },
        output_cap_asked: 100,
        parent: None,
        step: None,
        timeline: Timeline::start(),
    }
}

/// A paid attempt that can cost `worst` and use `tokens` at most.
pub(super) fn ask(worst: &str, tokens: u64) -> Ask {
    Ask {
        route: RouteId::new("cloud"),
        model: "small".to_owned(),
        provider: "acme".to_owned(),
        role: Role::Primary,
        parent: None,
        price: price(),
        worst_money: usd(worst),
        budgeted: true,
        worst_tokens: tokens,
        output_cap: 100,
        service: ServiceTier::Standard,
        images: 0,
        avoided: None,
        model_file: None,
        service_tier: None,
    }
}

/// The same on a route that costs nothing.
pub(super) fn free(tokens: u64) -> Ask {
    let price = TokenPrice { standard: RateTable::default(), ..token_price() };
    Ask {
        route: RouteId::new("edge"),
        provider: "local".to_owned(),
        price: RoutePrice::Tokens(Arc::new(price)),
        worst_money: PicoUsd::ZERO,
        ..ask("0", tokens)
    }
}

pub(super) fn used(input: u64, output: u64) -> Usage {
    Usage { input, output, ..Usage::default() }
}

pub(super) fn done(index: AttemptIndex) -> Ending {
    Ending {
        outcome: Outcome::Completed,
        status: Some(200),
        answered_by: Some(index),
        ttft_us: Some(1_000),
        tpot_ns: Some(5_000_000),
    }
}

/// Writes what an attempt used and ends it well.
pub(super) fn complete(entry: &mut OpenEntry, index: AttemptIndex, usage: Usage) {
    let attempt = entry.attempt(index);
    attempt.usage = Some(usage);
    attempt.usage_source = Some(UsageSource::Reported);
    attempt.times.ttft_us = Some(900);
    entry.end_attempt(index, AttemptOutcome::Completed, false);
}

/// A directory with some requests in it, closed; with its journal alone, as if nothing had been kept
/// of what it added up to.
pub(super) fn written(requests: usize) -> House {
    let house = House::new();
    let books = house.open();
    for _ in 0..requests {
        request(&books, "key_a", ask("1", 10), used(1, 1)).unwrap();
    }
    books.close();
    drop(books);
    fs::remove_dir_all(house.data().join("index")).unwrap();
    house.forget_spares();
    house
}

pub(super) fn segment(house: &House) -> PathBuf {
    let mut files: Vec<_> = fs::read_dir(house.journal())
        .unwrap()
        .map(|item| item.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "journal"))
        .collect();
    files.sort();
    files.pop().unwrap()
}

/// Where each record of a segment lies; after them there may be room.
pub(super) fn records(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut at = 32;
    let mut found = Vec::new();
    while let Ok((_, length)) = record::read(&bytes[at..]) {
        found.push(at..at + length);
        at += length;
    }
    assert!(bytes[at..].iter().all(|byte| *byte == 0), "nothing but room after {at}");
    found
}

/// A house whose journal is `bytes`.
pub(super) fn house_of(original: &House, bytes: &[u8]) -> House {
    let house = House::new();
    copy(original.data(), house.data()).unwrap();
    fs::write(segment(&house), bytes).unwrap();
    house
}

/// Every entry, newest first.
pub(super) fn all(books: &Books) -> Vec<Entry> {
    books.requests(&Filter::default(), None, 1_000).unwrap().entries
}

/// A whole request: reserves `worst`, uses `usage`, waits for its entry.
pub(super) fn request(
    books: &Books,
    key: &str,
    ask: Ask,
    usage: Usage,
) -> Result<crate::ledger::RequestId, Short> {
    let head = head(books, key);
    let id = head.id;
    let mut entry = books.open_entry(head)?;
    let (index, ticket) = entry.reserve(ask)?;
    ticket.blocking()?;
    complete(&mut entry, index, usage);
    entry.finish(done(index)).blocking()?;
    Ok(id)
}
