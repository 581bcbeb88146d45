//! The Markdown table of an overhead run.

use super::Run;
use super::measure::Kind;
use super::summary::{Row, targets};
use crate::output::{heading, shown};

/// Everything a reader needs, the raw data being beside it.
pub(crate) fn table(run: &Run) -> String {
    let mut text = heading("Overhead", &run.birthplace);
    text.push_str(&conditions(run));
    text.push_str("\n## Targets\n\n| | at most | median (min..max) of rounds | n | |\n|---|---|---|---|---|\n");
    for target in targets(&run.summary, &run.memory) {
        let n = target.figure.as_ref().map_or(0, |figure| figure.values.len());
        text.push_str(&format!(
            "| {} | {} | {} | {n} | {} |\n",
            target.what,
            target.most,
            shown(target.figure.as_ref(), 3),
            target.verdict()
        ));
    }
    for kind in Kind::ALL {
        let rows: Vec<&Row> = run.summary.rows.iter().filter(|row| row.kind == kind).collect();
        if !rows.is_empty() {
            text.push_str(&section(run, kind, &rows));
        }
    }
    text.push_str(&memory(run));
    text.push_str(&ledgers(run));
    text
}

fn conditions(run: &Run) -> String {
    let settings = &run.settings;
    let cores = match (&settings.server_core, &settings.load_core) {
        (Some(server), Some(load)) => {
            format!("server under test on core {server}, upstream and generator on core {load}")
        }
        _ => "processes not pinned".to_owned(),
    };
    let sync = run.disk.append_sync_ns.map_or_else(String::new, |ladder| {
        format!(
            " A durable append of 600 bytes on the ledgers' disk takes {:.0} us (p50), {:.0} us (p99).",
            us(ladder.p50),
            us(ladder.p99)
        )
    });
    let steal = run.phases.iter().map(|phase| phase.machine.steal_s).sum::<f64>();
    let total = run.phases.iter().map(|phase| phase.machine.total_s).sum::<f64>();
    let quiet = run.quiet_check.busy_s / run.quiet_check.total_s.max(f64::MIN_POSITIVE) * 100.0;
    let failures = run.phases.iter().map(|phase| phase.failures.len()).sum::<usize>();
    let built = run.tollgate_built.as_deref();
    let built =
        built.map_or_else(String::new, |at| format!(" The tollgate binary was built {at}."));
    format!(
        "\n{} rounds, subjects interleaved in rotating order; {cores}. Before the start the \
         machine was {quiet:.0} % busy; the hypervisor took {:.2} % of the core time during the \
         windows; {failures} workers failed.{sync}{built}\n\nValues are the median of the rounds with \
         (min..max). Ratios and differences are formed within a round. Formulas: bench/README.md.\n",
        settings.rounds,
        steal / total.max(f64::MIN_POSITIVE) * 100.0
    ) + &doubts(run, quiet)
}

/// Core share of strangers from which a run is doubtful.
const FOREIGN_SHARE_MAX: f64 = 0.1;
/// Share of its core below which a server counts as not saturated.
const SATURATED_SHARE_MIN: f64 = 0.85;

/// What a reader must know before believing the figures; nothing when all is well.
fn doubts(run: &Run, busy_before_percent: f64) -> String {
    let mut text = String::new();
    if busy_before_percent > FOREIGN_SHARE_MAX * 100.0 {
        text.push_str("\n**Doubt: the machine was not idle before the run.**\n");
    }
    let disturbed = run.phases.iter().filter(|p| p.foreign_share() > FOREIGN_SHARE_MAX).count();
    if disturbed > 0 {
        text.push_str(&format!(
            "\n**Doubt: in {disturbed} of {} phases other processes used more than {:.0} % of a \
             core.**\n",
            run.phases.len(),
            FOREIGN_SHARE_MAX * 100.0
        ));
    }
    let starved = run.phases.iter().filter(|phase| {
        let share = phase.server_share();
        phase.kind == Kind::Saturated && share.is_some_and(|share| share < SATURATED_SHARE_MIN)
    });
    let starved = starved.count();
    if starved > 0 {
        text.push_str(&format!(
            "\n**Doubt: in {starved} saturated phases the server used less than {:.0} % of its \
             core: the generator, the upstream, the disk or other processes held it up.**\n",
            SATURATED_SHARE_MIN * 100.0
        ));
    }
    text
}

fn us(ns: u64) -> f64 {
    std::time::Duration::from_nanos(ns).as_secs_f64() * 1e6
}

fn section(run: &Run, kind: Kind, rows: &[&Row]) -> String {
    let s = &run.settings;
    let (title, streamed) = match kind {
        Kind::Saturated => (format!("Unstreamed, {} connections saturated", s.connections), false),
        Kind::Open => (format!("Unstreamed, open loop at {} requests/s", s.rate), false),
        Kind::Streams => (
            format!(
                "{} concurrent streams of {} pieces, {} ms apart",
                s.streams, s.pieces, s.pace_ms
            ),
            true,
        ),
        Kind::StreamsSaturated => {
            (format!("Streams of {} pieces unpaced, {} connections", s.pieces, s.connections), true)
        }
    };
    let mut text = format!("\n## {title}\n\n");
    text.push_str(&cpu_table(rows, streamed));
    text.push_str(&time_table(rows, streamed));
    text
}

fn cpu_table(rows: &[&Row], streamed: bool) -> String {
    let mut text =
        String::from("| | requests | requests/s | CPU us/request (= CPU ms per 1,000) | x bare | ");
    text.push_str(if streamed { "CPU us/chunk | x bare | " } else { "" });
    text.push_str("server's core % | generator % | upstream + generator % | others % |\n|---|");
    text.push_str(&"---|".repeat(if streamed { 10 } else { 8 }));
    text.push('\n');
    let percent = |spread: Option<&crate::stats::Spread>| {
        spread.map_or_else(|| "-".to_owned(), |s| format!("{:.0}", s.median * 100.0))
    };
    for row in rows {
        let chunk = if streamed {
            format!(
                "{} | {} | ",
                shown(row.cpu_us_per_piece.as_ref(), 2),
                shown(row.cpu_piece_ratio.as_ref(), 2)
            )
        } else {
            String::new()
        };
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {chunk}{} | {} | {} | {} |\n",
            row.subject.name(),
            row.requests,
            shown(row.requests_per_s.as_ref(), 0),
            shown(row.cpu_us_per_request.as_ref(), 1),
            shown(row.cpu_ratio.as_ref(), 2),
            percent(row.server_share.as_ref()),
            percent(row.generator_share.as_ref()),
            percent(row.load_share.as_ref()),
            percent(row.foreign_share.as_ref()),
        ));
    }
    text
}

fn time_table(rows: &[&Row], streamed: bool) -> String {
    let mut text = String::from("\n| ms | p50 | p99 | p99.9 pooled | added p50 | added p99 |");
    text.push_str(if streamed {
        " TTFT p50 | TTFT p99 | added TTFT p50 | added TTFT p99 |"
    } else {
        ""
    });
    text.push_str("\n|---|");
    text.push_str(&"---|".repeat(if streamed { 9 } else { 5 }));
    text.push('\n');
    for row in rows {
        text.push_str(&format!(
            "| {} | {} | {} | {} | {} | {} |",
            row.subject.name(),
            shown(row.p50_ms.as_ref(), 3),
            shown(row.p99_ms.as_ref(), 3),
            row.p999_pooled_ms.map_or_else(|| "-".to_owned(), |ms| format!("{ms:.3}")),
            shown(row.added_p50_ms.as_ref(), 3),
            shown(row.added_p99_ms.as_ref(), 3),
        ));
        if streamed {
            for spread in
                [&row.ttft_p50_ms, &row.ttft_p99_ms, &row.added_ttft_p50_ms, &row.added_ttft_p99_ms]
            {
                text.push_str(&format!(" {} |", shown(spread.as_ref(), 3)));
            }
        }
        text.push('\n');
    }
    text
}

fn memory(run: &Run) -> String {
    let mut text = String::from(
        "\n## Resident memory, MiB\n\n| | idle, before the first request | after the last phase | peak |\n|---|---|---|---|\n",
    );
    let shown = |mib: Option<f64>| mib.map_or_else(|| "-".to_owned(), |mib| format!("{mib:.1}"));
    for row in &run.memory {
        text.push_str(&format!(
            "| {} | {:.1} | {} | {} |\n",
            row.subject.name(),
            row.idle_mib,
            shown(row.loaded_mib),
            shown(row.peak_mib)
        ));
    }
    text
}

fn ledgers(run: &Run) -> String {
    let mut text = String::new();
    for check in &run.ledgers {
        text.push_str(&format!("\n{}", check.sentence()));
    }
    if !text.is_empty() {
        text.insert_str(0, "\n## Books\n");
        text.push('\n');
    }
    text
}
