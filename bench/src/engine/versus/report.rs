//! The comparison's table: each load's figures for both, and their ratio within the rounds.

use std::time::Duration;

use super::load::Load;
use super::{Answer, Run, Subject, Turn};
use crate::output::{heading, shown};
use crate::stats::{Spread, percentile};

/// Two-sided 95 % points of Student's t for 1 to 9 degrees of freedom.
const T95: [f64; 9] = [12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26];
/// For more: that of 10, which none of them exceeds.
const T95_BEYOND: f64 = 2.23;

/// What one server answered to one load in one round, turn by turn.
type Round<'a> = Vec<&'a [Answer]>;

/// A figure of one round.
type Figure = fn(&Round<'_>) -> Option<f64>;

const FIGURES: [(&str, Figure, usize); 5] = [
    ("tokens/s", tokens_per_s, 1),
    ("TTFT p50 ms", |round| over(round, firsts, 5_000), 0),
    ("TTFT p95 ms", |round| over(round, firsts, 9_500), 0),
    ("gap p99 ms", |round| over(round, gaps, 9_900), 1),
    ("gap max ms", |round| over(round, gaps, 10_000), 0),
];

pub(super) fn table(run: &Run) -> String {
    let mut text = heading("bench engine --llama-server", &run.birthplace);
    text.push_str(&format!(
        "\n{}. Both servers are up all the time and are asked in turns, in alternating order; short \
         loads have several turns a round, first one, then the other, then the other way round, and \
         count together. Values are the median of the rounds with (min..max). Ratio = tollgate / \
         llama-server within a round, its mean, and the lower and upper end of its 95 % interval over \
         the rounds (Student's t). Tokens/s = generated tokens / time from the first request of a \
         turn to its last end. TTFT = turn start to an answer's first text. Gap = between two texts \
         of one answer.\n\n\
         | load | figure | tollgate | llama-server | ratio (95 % interval) | cached, mean |\n\
         |---|---|---|---|---|---|\n",
        run.settings
    ));
    let mut loads: Vec<Load> = Vec::new();
    for turn in &run.turns {
        if !loads.contains(&turn.load) {
            loads.push(turn.load);
        }
    }
    for load in loads {
        for (name, figure, digits) in FIGURES {
            // Each of its answers counts from its own start.
            if load == Load::Steady && name == "tokens/s" {
                continue;
            }
            text.push_str(&line(&run.turns, load, (name, figure, digits)));
        }
    }
    text.push_str(&ceiling(run));
    text.push_str(&async_side(&run.turns));
    text
}

/// What everything but the engine costs beside it.
fn async_side(turns: &[Turn]) -> String {
    let shares: Vec<f64> = turns
        .iter()
        .filter_map(|turn| turn.cpu)
        .map(|cpu| 100.0 * ns(cpu.others_ns) / ns(cpu.engine_ns).max(1.0))
        .collect();
    format!(
        "\nProcessor time of tollgate's other threads (HTTP, policies, ledger) in percent of the \
         engine's, each turn: {}.\n",
        shown(Spread::of(shares).as_ref(), 2)
    )
}

fn ns(nanoseconds: u64) -> f64 {
    Duration::from_nanos(nanoseconds).as_secs_f64() * 1e9
}

/// What of llama-batched-bench's speed both reach.
fn ceiling(run: &Run) -> String {
    if run.ceiling.is_empty() {
        return String::new();
    }
    let mut text = "\nThe ceiling: llama-batched-bench, once, before the rounds, without HTTP and sampling. \
                    Shares are of its tokens/s with the prompts' reading in it.\n\n\
                    | streams | tokens/s | of them generating alone | share of tollgate | of llama-server |\n\
                    |---|---|---|---|---|\n"
        .to_owned();
    for ceiling in &run.ceiling {
        let share = |subject| {
            let load = Load::Streams(ceiling.streams);
            let own = rounds(&run.turns, load, subject);
            let all: Option<Vec<f64>> = own.iter().map(tokens_per_s).collect();
            let shares = all.map(|all| all.iter().map(|one| one / ceiling.tokens_per_s).collect());
            shown(shares.and_then(Spread::of).as_ref(), 2)
        };
        text.push_str(&format!(
            "| {} | {:.1} | {:.1} | {} | {} |\n",
            ceiling.streams,
            ceiling.tokens_per_s,
            ceiling.decode_tokens_per_s,
            share(Subject::Tollgate),
            share(Subject::LlamaServer),
        ));
    }
    text
}

/// One server's answers to one load, round by round.
fn rounds(turns: &[Turn], load: Load, subject: Subject) -> Vec<Round<'_>> {
    let mut rounds: Vec<(usize, Round<'_>)> = Vec::new();
    for turn in turns.iter().filter(|turn| turn.load == load && turn.subject == subject) {
        match rounds.last_mut().filter(|(round, _)| *round == turn.round) {
            Some((_, answers)) => answers.push(&turn.answers),
            None => rounds.push((turn.round, vec![&turn.answers])),
        }
    }
    rounds.into_iter().map(|(_, answers)| answers).collect()
}

fn line(turns: &[Turn], load: Load, (name, figure, digits): (&str, Figure, usize)) -> String {
    let of = |subject| rounds(turns, load, subject).iter().map(figure).collect::<Option<Vec<_>>>();
    let (ours, theirs) = (of(Subject::Tollgate), of(Subject::LlamaServer));
    let ratios = ours.clone().zip(theirs.clone()).map(|(ours, theirs)| {
        ours.iter().zip(&theirs).map(|(ours, theirs)| ours / theirs).collect::<Vec<f64>>()
    });
    let cached = |subject| {
        let all: Vec<f64> = rounds(turns, load, subject)
            .into_iter()
            .flatten()
            .flatten()
            .map(|answer| f64::from(u32::try_from(answer.cached_tokens).unwrap_or(u32::MAX)))
            .collect();
        mean(&all).map_or_else(|| "-".to_owned(), |mean| format!("{mean:.0}"))
    };
    format!(
        "| {} | {name} | {} | {} | {} | {} / {} |\n",
        load.name(),
        shown(ours.and_then(Spread::of).as_ref(), digits),
        shown(theirs.and_then(Spread::of).as_ref(), digits),
        ratios.and_then(|ratios| interval(&ratios)).unwrap_or_else(|| "-".to_owned()),
        cached(Subject::Tollgate),
        cached(Subject::LlamaServer),
    )
}

/// `1.02 (0.98..1.06)`: the mean and its 95 % interval; the mean alone of fewer than two rounds.
fn interval(ratios: &[f64]) -> Option<String> {
    let middle = mean(ratios)?;
    let count = f64::from(u32::try_from(ratios.len()).ok()?);
    if ratios.len() < 2 {
        return Some(format!("{middle:.3}"));
    }
    let squares: f64 = ratios.iter().map(|ratio| (ratio - middle).powi(2)).sum();
    let t = T95.get(ratios.len() - 2).copied().unwrap_or(T95_BEYOND);
    let half = t * (squares / (count - 1.0)).sqrt() / count.sqrt();
    Some(format!("{middle:.3} ({:.3}..{:.3})", middle - half, middle + half))
}

fn mean(values: &[f64]) -> Option<f64> {
    let count = f64::from(u32::try_from(values.len()).ok()?);
    (count > 0.0).then(|| values.iter().sum::<f64>() / count)
}

fn tokens_per_s(round: &Round<'_>) -> Option<f64> {
    let tokens: u64 = round.iter().copied().flatten().map(|answer| answer.output_tokens).sum();
    let ends = round.iter().map(|turn| turn.iter().map(|answer| answer.end_ns).max());
    let ns: u64 = ends.sum::<Option<u64>>()?;
    let tokens = f64::from(u32::try_from(tokens).ok()?);
    (ns > 0).then(|| tokens / Duration::from_nanos(ns).as_secs_f64())
}

fn firsts(answer: &Answer) -> Vec<u64> {
    vec![answer.first_ns]
}

fn gaps(answer: &Answer) -> Vec<u64> {
    answer.gaps_ns.clone()
}

fn over(round: &Round<'_>, pick: fn(&Answer) -> Vec<u64>, per_10_000: u16) -> Option<f64> {
    let mut all: Vec<u64> = round.iter().copied().flatten().flat_map(pick).collect();
    all.sort_unstable();
    percentile(&all, per_10_000).map(|ns| Duration::from_nanos(ns).as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::super::{Answer, Subject, Turn};
    use super::{Load, interval, rounds, tokens_per_s};

    /// A turn of one answer of ten tokens that took so many seconds.
    fn turn(round: usize, subject: Subject, seconds: u64) -> Turn {
        let answer = Answer {
            first_ns: 0,
            end_ns: seconds * 1_000_000_000,
            gaps_ns: Vec::new(),
            prompt_tokens: 1,
            cached_tokens: 0,
            output_tokens: 10,
        };
        Turn { round, subject, load: Load::Streams(1), answers: vec![answer], cpu: None }
    }

    #[test]
    fn the_turns_of_a_round_count_together() {
        let (ours, theirs) = (Subject::Tollgate, Subject::LlamaServer);
        let turns = [
            turn(0, ours, 1),
            turn(0, theirs, 50),
            turn(0, theirs, 50),
            turn(0, ours, 3),
            turn(1, theirs, 50),
            turn(1, ours, 2),
        ];
        let speeds: Vec<_> =
            rounds(&turns, Load::Streams(1), ours).iter().map(tokens_per_s).collect();
        // Twenty tokens in four seconds, then ten in two.
        assert_eq!(speeds, [Some(5.0), Some(5.0)]);
        assert!(rounds(&turns, Load::NextTurn, ours).is_empty());
    }

    #[test]
    fn the_interval_is_students_over_the_rounds() {
        assert_eq!(interval(&[1.0, 1.0, 1.0]).as_deref(), Some("1.000 (1.000..1.000)"));
        // Standard deviation 0.1 over 5 rounds: half = 2.78 x 0.1 / sqrt(5).
        let told = interval(&[0.9, 0.9, 1.0, 1.1, 1.1]);
        assert_eq!(told.as_deref(), Some("1.000 (0.876..1.124)"));
        assert_eq!(interval(&[1.5]).as_deref(), Some("1.500"));
        assert_eq!(interval(&[]), None);
    }
}
