//! Checks the books against themselves.
//!
//! Reads every record (checksums, gapless sequence, commit times that never fall), folds them anew
//! and checks: every reservation ends exactly once, an entry's attempts are those that were
//! reserved, its cost is the exact sum of theirs, no charge is lost; and, for the running process,
//! that its balances, open reservations and rollups are those of the fold.

use super::{
    adjusted::Adjustments,
    books::Books,
    checkpoint,
    derived::Derived,
    effect::Effect,
    entry::{Adjustment, Entry, RequestId},
    keeper::Keeper,
    query::Reader,
    retire,
    rollups::{Level, MINUTES_KEPT, Rollups, Rows, SETS, Span},
    spare::Uncounted,
};
use crate::store::{
    Lost,
    catalogue::{Block, Snapshot},
    codec::{self, Row},
    columns::Brief,
    record::Record,
};
use foldhash::fast::RandomState;
use policies::PicoUsd;
use schemars::JsonSchema;
use serde::Serialize;
use std::{collections::HashMap, sync::Arc};

/// Findings that are listed; further ones are only counted.
const FINDINGS_MAX: usize = 100;

/// What was checked and what was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[schemars(rename = "LedgerCheck")]
pub struct Report {
    /// Segment files.
    pub segments: u64,
    /// Events.
    pub events: u64,
    /// Entries among them.
    pub entries: u64,
    /// Requests that had reserved and had no entry yet: running ones, or those of a crash that the
    /// next start will settle.
    pub open_requests: u64,
    /// Events that cannot be read; each stretch is among the findings too.
    pub lost: Vec<Lost>,
    /// Events that could not be read when the balances were made anew, and whose charges a budget
    /// lacks.
    pub uncounted: Vec<Uncounted>,
    /// Whether the running process's balances, reservations and rollups were compared too.
    pub derived_checked: bool,
    /// What is wrong; empty when the books balance.
    pub findings: Vec<Finding>,
    /// Findings beyond those listed.
    pub findings_left_out: u64,
}

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Finding {
    /// The event it concerns, where it is one.
    pub seq: Option<u64>,
    /// What.
    pub what: String,
}

impl Report {
    /// Whether the books balance.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }

    fn find(&mut self, seq: Option<u64>, what: impl Into<String>) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(Finding { seq, what: what.into() });
        } else {
            self.findings_left_out += 1;
        }
    }
}

impl Books {
    /// Checks the whole ledger, and what this process derived from it. Blocking, reads everything.
    #[must_use]
    pub fn verify(&self) -> Report {
        self.catch_up();
        // The keeper may be ahead of the snapshot by now: take what it has first.
        let mut derived = self.0.keeper.derived().clone();
        derived.uncounted = self.missed();
        let snapshot = self.0.catalogue.snapshot();
        let rollups = std::mem::take(&mut derived.rollups);
        let current = rollups.current();
        let stored = |span: Span| stored(&self.0.keeper, &rollups, span);
        let kept = Kept { lasting: &current, past: &stored };
        let adjusted = Arc::clone(&derived.adjusted);
        verify(&snapshot, base(&snapshot), &adjusted, Some((&derived, kept)))
    }
}

impl Reader {
    /// Checks the journal alone. Blocking, reads everything.
    #[must_use]
    pub fn verify(&self) -> Report {
        // Where they cannot be read, what cannot is a finding.
        let adjusted = self.adjusted().unwrap_or_default().all;
        let mut report = verify(&self.snapshot, base(&self.snapshot), &adjusted, None);
        let end = self.snapshot.next_seq();
        if self.known_until > end {
            let last = self.known_until - 1;
            let what = format!(
                "the journal has lost its last events, {end} to {last}: what they added up to is \
                 kept beside it"
            );
            report.find(Some(end), what);
        }
        report
    }
}

type Stored<'a> = (&'a Derived, Kept<'a>);

/// The rollups of the running process.
#[derive(Clone, Copy)]
struct Kept<'a> {
    lasting: &'a [(Span, Rows); 3],
    past: &'a dyn Fn(Span) -> Option<Rows>,
}

/// The rows of a span as the running process has them; `None` of a minute that is no longer kept. That
/// is asked last: a checkpoint may have forgotten it since `rollups` were what is in memory.
pub(super) fn stored(keeper: &Keeper, rollups: &Rollups, span: Span) -> Option<Rows> {
    if let Some(rows) = rollups.past().get(&span) {
        return Some(rows.clone());
    }
    let rows = checkpoint::span_rows(keeper.index.as_ref()?, span, &SETS).ok();
    let newest = keeper.derived().rollups.minute();
    let is_old = span.level == Level::Minute && span.at + MINUTES_KEPT <= newest;
    rows.filter(|_| !is_old)
}

fn to_bytes(rows: &Rows) -> Option<Vec<u8>> {
    postcard::to_allocvec(rows).ok()
}

/// The state before the first segment.
fn base(snapshot: &Snapshot) -> Result<Derived, String> {
    let Some(dir) = snapshot.dir() else { return Ok(Derived::new()) };
    retire::begin(&dir).map(|(_, derived)| derived).map_err(|error| error.to_string())
}

fn verify(
    snapshot: &Snapshot,
    base: Result<Derived, String>,
    adjusted: &Adjustments,
    derived: Option<Stored<'_>>,
) -> Report {
    let mut report = Report { segments: snapshot.segments.len() as u64, ..Report::default() };
    let end = derived.map_or(u64::MAX, |(derived, _)| derived.next_seq);
    let mut fold = base.unwrap_or_else(|error| {
        report.find(None, format!("the base of the journal cannot be read: {error}"));
        Derived::new()
    });
    // Segments that a base already stands for are only waiting to be deleted.
    let begins = fold.next_seq;
    let mut booked = Booked { adjusted, costs: HashMap::default(), whole: begins == 1 };
    let mut last_ms = 0;
    let mut gap = false;
    for segment in &snapshot.segments {
        if let Some(damage) = segment.damage() {
            report.find(None, format!("{}: {damage}", segment.path().display()));
        }
    }
    for block in snapshot.blocks() {
        let lost = snapshot.read(&block, &mut |record| {
            if record.head.seq < end && record.head.seq >= begins {
                check(&mut report, &mut fold, (&mut last_ms, &mut gap), (&mut booked, record));
            }
        });
        if lost.is_empty() && snapshot.stores_columns(&block) {
            let stored = snapshot.stored_columns(&block).ok().flatten();
            let made = snapshot.made_columns(&block).ok().map(|(columns, _)| columns);
            if stored.is_none() || stored != made {
                let path = snapshot.path(&block).display();
                let what = "its columns do not say what its records say";
                report.find(Some(block.seq), format!("{path}: {what}"));
            }
        }
        if !lost.is_empty() {
            gap = true;
            fold.next_seq = block.next_seq.min(end).max(fold.next_seq);
        }
        for lost in lost {
            let entries = entries_lost(snapshot, &block, &lost);
            report.find(Some(lost.first_seq), format!("{lost}{entries}"));
            report.lost.push(lost);
        }
        for (span, rows) in fold.rollups.take_past() {
            compare(&mut report, span, &rows, derived.filter(|_| !gap));
        }
    }
    if let Some((derived, _)) = derived {
        uncounted(&mut report, derived);
    }
    report.open_requests = fold.open.len() as u64;
    // After damage the fold is not the whole, and comparing it would only repeat the finding.
    if let Some((derived, _)) = derived.filter(|_| !gap) {
        report.derived_checked = true;
        compare_derived(&mut report, &fold, derived);
    }
    if let Some((_, stored)) = derived.filter(|_| !gap) {
        let lasting = fold.rollups.current();
        let same = lasting
            .iter()
            .zip(stored.lasting)
            .all(|((span, rows), (kept, their))| span == kept && to_bytes(rows) == to_bytes(their));
        if !same {
            report.find(None, "the rollups that still grow are not the sums of their entries");
        }
    }
    report
}

/// What was lost when the balances were made anew.
fn uncounted(report: &mut Report, derived: &Derived) {
    for missed in &derived.uncounted {
        let missed = &missed.events;
        let (first, last) = (missed.first_seq, missed.last_seq);
        let what = format!(
            "the charges of events {first} to {last} could not be read when the balances were \
             made anew: budgets show it until a correction is booked"
        );
        report.find(Some(first), what);
        report.uncounted.push(missed.clone());
    }
}

/// Compares what the running process derived with the fold of the journal.
fn compare_derived(report: &mut Report, fold: &Derived, derived: &Derived) {
    let lately = |of: &Derived| -> Vec<_> {
        let balances = of.balances().into_iter();
        balances.map(|(scope, accounts)| (scope, accounts.lately())).collect()
    };
    if lately(fold) != lately(derived) {
        report.find(None, "the budgets' balances are not those of the entries");
    }
    if fold.standing != derived.standing {
        report.find(None, "how long models were loaded is not what the journal says");
    }
    if fold.keys != derived.keys || fold.groups != derived.groups {
        report.find(None, "the keys, teams, users or tags are not those of the journal");
    }
    if fold.adjusted != derived.adjusted {
        report.find(None, "the adjusted costs are not those of the adjustments");
    }
    if fold.open != derived.open {
        report.find(None, "the open reservations are not those of the journal");
    }
}

/// What the columns beside a damaged block still know of the entries that are lost with it.
fn entries_lost(snapshot: &Snapshot, block: &Block, lost: &Lost) -> String {
    let Ok(Some(columns)) = snapshot.stored_columns(block) else { return String::new() };
    let gone = |brief: &Brief<'_>| (lost.first_seq..=lost.last_seq).contains(&brief.seq);
    let count = columns.entries().filter(gone).count();
    format!("; {count} entries among them, whose sums are kept beside them")
}

/// Compares the rows of a span with those of the fold, to the byte; old minutes are not kept.
fn compare(report: &mut Report, span: Span, rows: &Rows, derived: Option<Stored<'_>>) {
    let Some((_, stored)) = derived else { return };
    let Some(stored) = (stored.past)(span) else { return };
    if to_bytes(&stored) != to_bytes(rows) {
        let (level, begins) = (span.level, span.at * span.level.ms());
        let what = format!(
            "the rollups of the {level:?} that begins at {begins} ms are not the \
                            sums of its entries"
        );
        report.find(None, what);
    }
}

fn check(
    report: &mut Report,
    fold: &mut Derived,
    (last_ms, gap): (&mut u64, &mut bool),
    (booked, record): (&mut Booked<'_>, Record<'_>),
) {
    let head = record.head;
    let seq = Some(head.seq);
    report.events += 1;
    // What is missing is said by whoever reads; here it explains what comes after it.
    *gap |= head.seq != fold.next_seq;
    if head.unix_ms < *last_ms {
        report.find(seq, "its commit time lies before that of the event before it");
    }
    *last_ms = head.unix_ms;
    let effect: Effect = match codec::decode(head.kind, head.version, record.payload) {
        Ok(event) => event.into(),
        Err(error) => {
            report.find(seq, error.to_string());
            fold.next_seq = head.seq + 1;
            return;
        }
    };
    match &effect {
        Effect::Entry(row) => {
            report.entries += 1;
            booked.note(row);
            check_entry(report, fold, (head.seq, *gap), row);
        }
        Effect::Reserved(hold) => {
            let expected = fold.open.get(&hold.id).map_or(0, |open| open.attempts.len());
            if usize::from(hold.attempt) != expected && !*gap {
                report.find(seq, format!("{}: attempt {} reserves twice", hold.id, hold.attempt));
            }
        }
        Effect::Extended { id, attempt, .. } => {
            let open = fold.open.get(id).and_then(|open| open.attempts.get(usize::from(*attempt)));
            if open.is_none_or(|open| open.settled_seq.is_some()) && !*gap {
                report.find(seq, format!("{id}: attempt {attempt} gets more and is not open"));
            }
        }
        Effect::Settled { id, attempt, .. } => {
            let open = fold.open.get(id).and_then(|open| open.attempts.get(usize::from(*attempt)));
            let twice = open.is_none_or(|open| open.settled_seq.is_some());
            if twice && !*gap {
                report.find(seq, format!("{id}: attempt {attempt} settles and is not open"));
            }
        }
        Effect::Adjustment(adjustment) => {
            if let Some(what) = booked.disagrees(fold, adjustment, *gap) {
                report.find(seq, format!("{}: {what}", adjustment.id));
            }
        }
        Effect::Refused(_)
        | Effect::Key(_)
        | Effect::Group(_)
        | Effect::Policy(_)
        | Effect::Notice(_)
        | Effect::Told(_)
        | Effect::Configured(_)
        | Effect::Corrected(_)
        | Effect::Stood(_) => {}
    }
    fold.apply(head.seq, head.unix_ms, effect);
}

/// What the attempts that were adjusted later had been booked with.
struct Booked<'a> {
    adjusted: &'a Adjustments,
    costs: HashMap<RequestId, Vec<Option<PicoUsd>>, RandomState>,
    /// Whether the journal begins with its first event: then every adjusted entry is in it.
    whole: bool,
}

impl Booked<'_> {
    fn note(&mut self, row: &Row) {
        if self.adjusted.has(row.id) {
            let costs = row.attempts.iter().map(|attempt| attempt.cost);
            self.costs.insert(row.id, costs.collect());
        }
    }

    /// What is wrong with an adjustment: it goes on from what its attempt cost before.
    fn disagrees(
        &self,
        fold: &Derived,
        adjustment: &Adjustment,
        gap: bool,
    ) -> Option<&'static str> {
        let at = usize::from(adjustment.attempt);
        let before = match fold.adjusted.of(adjustment.id, at) {
            Some(adjusted) => adjusted.cost,
            None => match self.costs.get(&adjustment.id).map(|costs| costs.get(at)) {
                Some(Some(booked)) => *booked,
                Some(None) => return Some("an attempt is adjusted that it has not"),
                None if self.whole && !gap => return Some("it is adjusted and has no entry"),
                None => return None,
            },
        };
        (before != adjustment.cost_before && !gap)
            .then_some("an adjustment does not go on from what the attempt cost before")
    }
}

fn check_entry(report: &mut Report, fold: &Derived, (seq, gap): (u64, bool), row: &Row) {
    let seq = Some(seq);
    let open = fold.open.get(&row.id).map_or(&[][..], |open| &open.attempts);
    // Its reservations may have been lost, which is said already.
    if open.len() != row.attempts.len() && !gap {
        let (reserved, has) = (open.len(), row.attempts.len());
        report.find(seq, format!("{}: {has} attempts, {reserved} reserved", row.id));
    }
    for (open, attempt) in open.iter().zip(&row.attempts) {
        let held = open.hold.held;
        if (held.money, held.tokens) != (attempt.reserved, attempt.reserved_tokens) {
            report.find(seq, format!("{}: an attempt held what was not reserved", row.id));
        }
        if let Some(cost) = attempt.cost
            && attempt.budgeted
            && attempt.overrun != cost.less(attempt.reserved)
        {
            report.find(seq, format!("{}: an overrun is not what was above the hold", row.id));
        }
    }
    if row.cost != Entry::sum(&row.attempts) {
        report.find(seq, format!("{}: its cost is not the sum of its attempts'", row.id));
    }
}
