//! From phases to figures: medians over rounds, ratios and differences within a round, targets.
//!
//! Invariant: a ratio or difference is formed only from two phases of the same round and kind, and
//! a target without a figure is not met.

use serde::Serialize;

use super::measure::{Kind, MemoryRow, Phase};
use super::subject::Subject;
use crate::stats::{Ladder, Spread, percentile};

/// The figures of one subject under one kind of load. Times in milliseconds, CPU in microseconds.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) subject: Subject,
    /// Requests of all rounds.
    pub(crate) requests: u64,
    pub(crate) requests_per_s: Option<Spread>,
    pub(crate) cpu_us_per_request: Option<Spread>,
    /// Over the bare proxy's, same round.
    pub(crate) cpu_ratio: Option<Spread>,
    pub(crate) cpu_us_per_piece: Option<Spread>,
    pub(crate) cpu_piece_ratio: Option<Spread>,
    pub(crate) p50_ms: Option<Spread>,
    pub(crate) p99_ms: Option<Spread>,
    /// Of all rounds' samples together.
    pub(crate) p999_pooled_ms: Option<f64>,
    /// This subject's percentile minus direct's, same round.
    pub(crate) added_p50_ms: Option<Spread>,
    pub(crate) added_p99_ms: Option<Spread>,
    pub(crate) ttft_p50_ms: Option<Spread>,
    pub(crate) ttft_p99_ms: Option<Spread>,
    pub(crate) added_ttft_p50_ms: Option<Spread>,
    pub(crate) added_ttft_p99_ms: Option<Spread>,
    /// Shares of one core.
    pub(crate) server_share: Option<Spread>,
    pub(crate) generator_share: Option<Spread>,
    pub(crate) load_share: Option<Spread>,
    pub(crate) foreign_share: Option<Spread>,
}

/// All rows.
#[derive(Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) rows: Vec<Row>,
}

impl Summary {
    /// Rows for every kind and subject that was measured.
    pub(crate) fn of(phases: &[Phase]) -> Summary {
        let mut rows = Vec::new();
        for kind in Kind::ALL {
            for subject in Subject::ALL {
                let own = Own { phases, kind, subject };
                if own.all().next().is_some() {
                    rows.push(own.row());
                }
            }
        }
        Summary { rows }
    }

    /// The row of a subject under a load.
    pub(crate) fn row(&self, kind: Kind, subject: Subject) -> Option<&Row> {
        self.rows.iter().find(|row| row.kind == kind && row.subject == subject)
    }
}

/// One subject's phases under one kind of load.
struct Own<'a> {
    phases: &'a [Phase],
    kind: Kind,
    subject: Subject,
}

impl Own<'_> {
    fn all(&self) -> impl Iterator<Item = &Phase> {
        self.phases.iter().filter(|p| p.kind == self.kind && p.subject == self.subject)
    }

    fn row(&self) -> Row {
        let p50 = |phase: &Phase| ms(phase.latency_ns.as_ref(), |l| l.p50);
        let p99 = |phase: &Phase| ms(phase.latency_ns.as_ref(), |l| l.p99);
        let ttft_p50 = |phase: &Phase| ms(phase.ttft_ns.as_ref(), |l| l.p50);
        let ttft_p99 = |phase: &Phase| ms(phase.ttft_ns.as_ref(), |l| l.p99);
        let mut pooled: Vec<u64> = self.all().flat_map(|p| p.latency.iter().copied()).collect();
        pooled.sort_unstable();
        Row {
            kind: self.kind,
            subject: self.subject,
            requests: self.all().map(|phase| phase.requests).sum(),
            requests_per_s: self.over(|p| Some(rate(p))),
            cpu_us_per_request: self.over(Phase::cpu_us_per_request),
            cpu_ratio: self.against(Subject::Bare, Phase::cpu_us_per_request, |a, b| a / b),
            cpu_us_per_piece: self.over(Phase::cpu_us_per_piece),
            cpu_piece_ratio: self.against(Subject::Bare, Phase::cpu_us_per_piece, |a, b| a / b),
            p50_ms: self.over(p50),
            p99_ms: self.over(p99),
            p999_pooled_ms: percentile(&pooled, 9_990).map(millis),
            added_p50_ms: self.against(Subject::Direct, p50, |a, b| a - b),
            added_p99_ms: self.against(Subject::Direct, p99, |a, b| a - b),
            ttft_p50_ms: self.over(ttft_p50),
            ttft_p99_ms: self.over(ttft_p99),
            added_ttft_p50_ms: self.against(Subject::Direct, ttft_p50, |a, b| a - b),
            added_ttft_p99_ms: self.against(Subject::Direct, ttft_p99, |a, b| a - b),
            server_share: self.over(Phase::server_share),
            generator_share: self.over(|p| Some(p.generator_share())),
            load_share: self.over(|p| Some(p.load_share())),
            foreign_share: self.over(|p| Some(p.foreign_share())),
        }
    }

    /// A figure of every round; absent when a round lacks it.
    fn over(&self, figure: impl Fn(&Phase) -> Option<f64>) -> Option<Spread> {
        Spread::of(self.all().map(figure).collect::<Option<Vec<f64>>>()?)
    }

    /// A figure of every round held against the base's figure of that round.
    fn against(
        &self,
        base: Subject,
        figure: impl Fn(&Phase) -> Option<f64>,
        compare: impl Fn(f64, f64) -> f64,
    ) -> Option<Spread> {
        if base == self.subject {
            return None;
        }
        let other = Own { phases: self.phases, kind: self.kind, subject: base };
        self.over(|phase| {
            let twin = other.all().find(|twin| twin.round == phase.round)?;
            Some(compare(figure(phase)?, figure(twin)?))
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "requests of one phase stay below 2^53")]
fn rate(phase: &Phase) -> f64 {
    phase.requests as f64 / phase.seconds
}

fn ms(ladder: Option<&Ladder>, pick: impl Fn(&Ladder) -> u64) -> Option<f64> {
    ladder.map(|ladder| millis(pick(ladder)))
}

#[expect(clippy::cast_precision_loss, reason = "nanoseconds of one run stay below 2^53")]
fn millis(ns: u64) -> f64 {
    ns as f64 / 1e6
}

/// A promise about a figure.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) most: f64,
    pub(crate) figure: Option<Spread>,
}

impl Target {
    /// Held by the median of the rounds. Says when the rounds do not agree.
    pub(crate) fn verdict(&self) -> &'static str {
        let Some(figure) = &self.figure else { return "not measured" };
        match (figure.median <= self.most, figure.min <= self.most, figure.max <= self.most) {
            (true, _, true) => "met",
            (true, ..) => "met by the median, not by every round",
            (false, true, _) => "missed by the median, met in some rounds",
            (false, ..) => "missed",
        }
    }
}

/// The targets of the project, each beside what was measured.
pub(crate) fn targets(summary: &Summary, memory: &[MemoryRow]) -> Vec<Target> {
    let take = |kind, subject, pick: fn(&Row) -> &Option<Spread>| {
        summary.row(kind, subject).and_then(|row| pick(row).clone())
    };
    let idle = |subject| {
        let row = memory.iter().find(|row| row.subject == subject)?;
        Spread::of(vec![row.idle_mib])
    };
    let mut targets = Vec::new();
    let mut target = |what: &str, most, figure| {
        targets.push(Target { what: what.to_owned(), most, figure });
    };
    use Kind::{Open, Saturated, Streams};
    use Subject::{Grouped, Strict};
    let ratio: fn(&Row) -> &Option<Spread> = |row| &row.cpu_ratio;
    target("CPU per request, grouped, saturated, x bare", 1.6, take(Saturated, Grouped, ratio));
    target("CPU per request, strict, saturated, x bare", 2.0, take(Saturated, Strict, ratio));
    target("added p50, grouped, open loop, ms", 0.15, take(Open, Grouped, |r| &r.added_p50_ms));
    target("added p99, grouped, open loop, ms", 0.5, take(Open, Grouped, |r| &r.added_p99_ms));
    for (name, subject) in [("grouped", Grouped), ("strict", Strict)] {
        let ttft = take(Streams, subject, |r| &r.added_ttft_p50_ms);
        target(&format!("added TTFT p50, {name}, streams, ms"), 0.2, ttft);
        let piece = take(Streams, subject, |r| &r.cpu_piece_ratio);
        target(&format!("CPU per chunk, {name}, streams, x bare"), 1.5, piece);
        target(&format!("resident memory idle, no model, {name}, MiB"), 40.0, idle(subject));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::MachineUse;

    fn phase(round: usize, subject: Subject, cpu_ns: u64, latency: &[u64]) -> Phase {
        let mut sorted = latency.to_vec();
        Phase {
            round,
            position: 0,
            subject,
            kind: Kind::Saturated,
            seconds: 2.0,
            requests: latency.len() as u64,
            pieces: 0,
            latency_ns: Ladder::of(&mut sorted),
            ttft_ns: None,
            lag_ns: None,
            server_cpu_ns: (subject != Subject::Direct).then_some(cpu_ns),
            upstream_cpu_ns: 0,
            generator_cpu_ns: 0,
            machine: MachineUse { busy_s: 0.0, steal_s: 0.0, total_s: 4.0 },
            failures: vec![],
            latency: sorted,
        }
    }

    #[test]
    fn figures_are_compared_within_their_round() {
        let phases = [
            phase(0, Subject::Direct, 0, &[1_000_000]),
            phase(0, Subject::Bare, 10_000, &[2_000_000]),
            phase(0, Subject::Grouped, 15_000, &[3_000_000]),
            phase(1, Subject::Grouped, 60_000, &[9_000_000]),
            phase(1, Subject::Direct, 0, &[4_000_000]),
            phase(1, Subject::Bare, 20_000, &[5_000_000]),
        ];
        let summary = Summary::of(&phases);
        let row = summary.row(Kind::Saturated, Subject::Grouped).unwrap();
        assert_eq!(row.cpu_ratio.as_ref().unwrap().values, [1.5, 3.0]);
        assert_eq!(row.added_p50_ms.as_ref().unwrap().values, [2.0, 5.0]);
        assert_eq!(row.requests, 2);
        assert!(row.cpu_piece_ratio.is_none(), "no pieces, no figure");
        let direct = summary.row(Kind::Saturated, Subject::Direct).unwrap();
        assert!(direct.cpu_us_per_request.is_none() && direct.added_p50_ms.is_none());
    }

    #[test]
    fn a_missing_base_leaves_the_ratio_out() {
        let phases = [
            phase(0, Subject::Bare, 10_000, &[1]),
            phase(0, Subject::Grouped, 10_000, &[1]),
            phase(1, Subject::Grouped, 10_000, &[1]),
        ];
        let summary = Summary::of(&phases);
        assert!(summary.row(Kind::Saturated, Subject::Grouped).unwrap().cpu_ratio.is_none());
    }

    #[test]
    fn a_target_can_be_missed_and_can_be_without_a_figure() {
        let target = |values: Vec<f64>| Target {
            what: String::new(),
            most: 1.6,
            figure: Spread::of(values),
        };
        assert_eq!(target(vec![1.5, 1.6]).verdict(), "met");
        assert_eq!(target(vec![1.4, 1.5, 1.7]).verdict(), "met by the median, not by every round");
        assert_eq!(
            target(vec![1.5, 1.7, 1.8]).verdict(),
            "missed by the median, met in some rounds"
        );
        assert_eq!(target(vec![1.7, 1.9]).verdict(), "missed");
        assert_eq!(target(vec![]).verdict(), "not measured");
        let nothing = Summary::of(&[]);
        assert!(targets(&nothing, &[]).iter().all(|target| target.verdict() == "not measured"));
    }
}
