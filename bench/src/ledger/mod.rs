//! `bench ledger`: how fast the books are, beside a bare append + fdatasync in the same run.
//!
//! Reads top to bottom: the floor, group commit, acknowledgement at a fixed rate, filling up, starting
//! again (after a stop, after a kill), questions. Invariant: every phase goes through the library's own calls, in strict
//! durability, with an entry as a real request leaves it (a reservation, then the entry with its
//! facts); each figure says over how many samples it was taken.

mod fill;
mod floor;
mod questions;
mod rates;
mod request;
mod starts;

use std::path::PathBuf;
use std::time::Instant;

use gateway::caller::BudgetSpec;
use gateway::clock::{Clock, Hand};
use gateway::config::Durability;
use gateway::ledger::{Books, BooksConfig};
use serde::Serialize;

use crate::machine::Birthplace;
use crate::output;
use crate::stats::Ladder;

/// 1 June 2026, 00:00 UTC: where the standing clock begins.
const BEGIN_MS: u64 = 1_780_272_000_000;

/// What the flags of `bench ledger` say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct LedgerArgs {
    /// Entries that are in the ledger when it is started again and asked.
    #[arg(long, default_value_t = 10_000_000)]
    entries: u64,
    /// Entries of a day of the ledger's clock.
    #[arg(long, default_value_t = 1_000_000)]
    day_entries: u64,
    /// Seconds of the floor, of group commit and of the fixed rate, each.
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// Requests in flight while group commit is measured.
    #[arg(long, default_value_t = 512)]
    in_flight: usize,
    /// Requests a second of the fixed rate.
    #[arg(long, default_value_t = 3_000)]
    rate: u64,
    /// Times each question is asked, and the ledger is started again.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Directory on the disk to measure; what is written there is removed.
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Date of the run, YYYY-MM-DD [default: today, UTC].
    #[arg(long)]
    date: Option<String>,
    /// Folder for the results; unset: `bench/runs/<date>-<machine>`.
    #[arg(long)]
    out: Option<PathBuf>,
}

/// One line of the result.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Figure {
    pub(crate) what: String,
    /// What was asked of it.
    pub(crate) target: Option<Target>,
    /// A rate per second.
    pub(crate) per_s: Option<f64>,
    /// A distribution in nanoseconds.
    pub(crate) ns: Option<Ladder>,
    /// What else there is to say.
    pub(crate) note: String,
}

/// What is asked of a figure. Where the same is measured again and again its median counts; the
/// worst stands beside it.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Target {
    PerSecondAtLeast(u32),
    P99UnderMs(u32),
    MedianUnderMs(u32),
}

/// What `ledger.json` holds.
#[derive(Debug, Serialize)]
struct Run {
    birthplace: Birthplace,
    figures: Vec<Figure>,
}

/// Where the books are, and the hand that moves their clock.
pub(crate) struct House {
    pub(crate) config: BooksConfig,
    pub(crate) clock: Clock,
    pub(crate) hand: Hand,
}

/// Runs everything and writes the results.
pub(crate) fn run(args: &LedgerArgs) -> Result<(), String> {
    let birthplace = Birthplace::look(args.date.as_deref());
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    }
    .map_err(|error| error.to_string())?;
    let mut figures = Vec::new();
    let mut done = |figure: Figure| {
        crate::progress(&line(&figure));
        figures.push(figure);
    };

    for figure in floor::measure(dir.path(), args.seconds)? {
        done(figure);
    }
    let house = House::at(dir.path().join("rates"), Clock::standing(BEGIN_MS));
    let books = house.open()?;
    done(rates::group_commit(&books, args.in_flight, args.seconds)?);
    done(rates::fixed_rate(&books, args.rate, args.seconds)?);
    books.close();
    drop(books);
    std::fs::remove_dir_all(&house.config.dir).map_err(|error| error.to_string())?;

    let house = House::at(dir.path().join("kept"), Clock::standing(BEGIN_MS));
    done(fill::fill(&house, args.entries, args.day_entries)?);
    done(starts::orderly(&house, args)?);
    done(starts::killed(&house, dir.path(), args)?);
    let books = house.open()?;
    for figure in questions::ask(&books, args)? {
        done(figure);
    }
    books.close();

    let folder = output::folder(args.out.as_deref(), &birthplace);
    let mut table = output::heading("Ledger", &birthplace);
    table.push_str("\n| what | target | per second | p50 ms | p99 ms | max ms | n | |\n");
    table.push_str("|---|---|---|---|---|---|---|---|\n");
    for figure in &figures {
        table.push_str(&row(figure));
    }
    let verdict = verdict(&figures);
    table.push_str(&format!("\n{verdict}.\n"));
    crate::say(&verdict)?;
    output::write(&folder, "ledger", &Run { birthplace, figures }, &table)
}

/// How many targets were met, and which were not. One without a figure is not.
fn verdict(figures: &[Figure]) -> String {
    let with_target = figures.iter().filter(|figure| figure.target.is_some());
    let judged: Vec<_> =
        with_target.map(|figure| (figure, figure.met().unwrap_or(false))).collect();
    let missed: Vec<_> =
        judged.iter().filter(|(_, met)| !met).map(|(figure, _)| figure.what.as_str()).collect();
    let met = judged.len() - missed.len();
    let mut text = format!("{met} of {} targets met", judged.len());
    if !missed.is_empty() {
        text.push_str(&format!("; missed: {}", missed.join(", ")));
    }
    text
}

impl Figure {
    /// Whether it is what was asked of it; `None` where nothing was, or nothing was measured.
    fn met(&self) -> Option<bool> {
        let under = |ns: u64, ms: u32| ns < u64::from(ms) * 1_000_000;
        Some(match self.target? {
            Target::PerSecondAtLeast(wanted) => self.per_s? >= f64::from(wanted),
            Target::P99UnderMs(ms) => under(self.ns.as_ref()?.p99, ms),
            Target::MedianUnderMs(ms) => under(self.ns.as_ref()?.p50, ms),
        })
    }

    fn asked(&self) -> String {
        let target = match self.target {
            None => return String::new(),
            Some(Target::PerSecondAtLeast(wanted)) => format!("at least {wanted} a second"),
            Some(Target::P99UnderMs(ms)) => format!("p99 under {ms} ms"),
            Some(Target::MedianUnderMs(ms)) => format!("p50 under {ms} ms"),
        };
        match self.met() {
            Some(true) => format!("{target}: met"),
            Some(false) => format!("{target}: **missed**"),
            None => target,
        }
    }
}

impl House {
    pub(crate) fn at(dir: PathBuf, (clock, hand): (Clock, Hand)) -> House {
        let config = BooksConfig {
            dir,
            durability: Durability::Strict,
            low_water_bytes: 0,
            ballast_bytes: 0,
            segment_entries_max: 250_000,
            time_zone: jiff::tz::TimeZone::UTC,
            global_budgets: Vec::<BudgetSpec>::new(),
            global_tokens_per_minute: None,
            model_limits: Vec::new(),
        };
        House { config, clock, hand }
    }

    pub(crate) fn open(&self) -> Result<Books, String> {
        let opened = Books::open(self.config.clone(), self.clock.clone());
        opened.map(|(books, _)| books).map_err(|error| error.to_string())
    }
}

/// Nanoseconds since `began`.
pub(crate) fn nanos(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

/// Resident memory of this process, now and at its highest.
pub(crate) fn memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let of = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name))?;
        line.split_ascii_whitespace().nth(1)?.parse::<u64>().ok()
    };
    let mib = |kib: Option<u64>| kib.map_or_else(|| "?".to_owned(), |kib| (kib / 1024).to_string());
    format!("resident {} MiB, at most {} MiB", mib(of("VmRSS")), mib(of("VmHWM")))
}

#[expect(clippy::cast_precision_loss, reason = "for a table")]
fn ms(ns: u64) -> String {
    format!("{:.3}", ns as f64 / 1e6)
}

fn row(figure: &Figure) -> String {
    let per_s = figure.per_s.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"));
    let at = |of: fn(&Ladder) -> u64| {
        figure.ns.as_ref().map_or_else(|| "-".to_owned(), |ladder| ms(of(ladder)))
    };
    let n = figure.ns.as_ref().map_or(0, |ladder| ladder.n);
    format!(
        "| {} | {} | {per_s} | {} | {} | {} | {n} | {} |\n",
        figure.what,
        figure.asked(),
        at(|ladder| ladder.p50),
        at(|ladder| ladder.p99),
        at(|ladder| ladder.max),
        figure.note
    )
}

fn line(figure: &Figure) -> String {
    row(figure).trim().to_owned()
}
