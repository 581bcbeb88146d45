//! `bench engine --speculation lookup|draft` and `--isolation`: the same prompts on the engine as it
//! is and on one with a single setting changed, both loaded, taking turns.
//!
//! Invariant: in every round both get prompts of the same form and number, one directly after the
//! other, and who is first alternates; a ratio is taken within its round. The engines never compute
//! at the same time.

use std::{path::PathBuf, time::Duration};

use clap::ValueEnum;
use local_engine::{EngineConfig, Isolation, Speculation, Worker};
use serde::Serialize;

use super::{
    Batch, EngineArgs, Row,
    local::Local,
    prompt::{Prompt, Prompts},
    row,
};
use crate::{
    machine::Birthplace,
    output::{self, heading, shown},
    stats::{Spread, rotated},
};

/// What the flags say.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct BesideArgs {
    /// Measure guessing tokens against not guessing: on texts to repeat, code to edit, and free ones.
    #[arg(long, value_enum)]
    pub(super) speculation: Option<Guesses>,
    /// The draft model for `--speculation draft` [default: the model itself, which cannot gain].
    #[arg(long, value_name = "FILE")]
    draft_model: Option<PathBuf>,
    /// Most tokens guessed at once.
    #[arg(long, default_value_t = 8)]
    draft_tokens_max: u32,
    /// Measure a child process that computes against computing in this one.
    #[arg(long, conflicts_with = "speculation")]
    pub(super) isolation: bool,
}

/// How tokens are guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Guesses {
    /// By what followed the same tokens before.
    Lookup,
    /// By a draft model.
    Draft,
}

/// Prompts that are alike in how well their answers can be foreseen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Class {
    /// A text to be given again.
    Repeat,
    /// A function to be given again with a name changed.
    Edit,
    /// Prose.
    Free,
}

/// One batch of one of the two.
#[derive(Debug, Serialize)]
struct Turn {
    class: Class,
    changed: bool,
    /// Tokens guessed and drawn while it ran.
    drafted: u64,
    accepted: u64,
    #[serde(flatten)]
    batch: Batch,
}

/// What the file holds.
#[derive(Debug, Serialize)]
struct Run {
    birthplace: Birthplace,
    plain: String,
    changed: String,
    turns: Vec<Turn>,
}

const TEXT: &str = "The keeper of the toll bridge rose before the sun and lit the lamp over the gate. \
    Carts came up from the valley with barrels of salt, and each driver told the keeper what he \
    carried, where he came from and who would pay. The keeper wrote it all down in the long book.";
const CODE: &str = "def total(items, rate):\n    total = 0\n    for item in items:\n        price = \
    item.price * item.count\n        if item.taxed:\n            price = price + price * rate\n        \
    total = total + price\n    return total\n";

/// Whether one of the two kinds is asked for.
pub(super) fn is_asked(args: &BesideArgs) -> bool {
    args.speculation.is_some() || args.isolation
}

/// Measures and writes the results.
pub(super) fn run(args: &EngineArgs) -> Result<(), String> {
    let birthplace = Birthplace::look(args.date.as_deref());
    let plain = Local::load(args)?;
    let changed = Local::load_with(args, |config| change(args, config))?;
    let classes: &[Class] = if args.beside.isolation {
        &[Class::Free]
    } else {
        &[Class::Repeat, Class::Edit, Class::Free]
    };
    let turns = crate::one_thread()?.block_on(measured(args, classes, [&plain, &changed]))?;
    let (plain, changed) = (plain.in_words(), changed.in_words());
    let run = Run { birthplace, plain, changed, turns };
    let table = table(args, classes, &run);
    crate::say(&table)?;
    let name = if args.beside.isolation { "engine-isolation" } else { "engine-speculation" };
    output::write(&output::folder(args.out.as_deref(), &run.birthplace), name, &run, &table)
}

/// The one setting in which the two differ.
fn change(args: &EngineArgs, config: &mut EngineConfig) -> Result<(), String> {
    let BesideArgs { speculation, draft_model, draft_tokens_max, isolation } = &args.beside;
    // As many as may be guessed for: who wants to know more asks for more streams than this.
    let (tokens_max, streams_max) = (*draft_tokens_max, 8);
    match speculation {
        Some(Guesses::Lookup) => {
            config.speculation = Speculation::Lookup { tokens_max, streams_max };
        }
        Some(Guesses::Draft) => {
            let file = draft_model.clone().unwrap_or_else(|| config.file.clone());
            config.speculation = Speculation::Draft { file, tokens_max, streams_max };
        }
        None => {}
    }
    if *isolation {
        let program = std::env::current_exe().map_err(|e| format!("this program: {e}"))?;
        let (load_max, stuck_after) = (Duration::from_secs(600), Duration::from_secs(120));
        let args = vec![crate::ENGINE_WORKER.to_owned()];
        config.isolation = Isolation::Process(Worker { program, args, load_max, stuck_after });
    }
    Ok(())
}

async fn measured(
    args: &EngineArgs,
    classes: &[Class],
    [plain, changed]: [&Local; 2],
) -> Result<Vec<Turn>, String> {
    let mut prompts = Prompts::new(plain.words_for(args.prompt_tokens)?);
    let mut turns = Vec::new();
    // A first round that does not count finds the weights in memory.
    for round in 0..=args.rounds {
        for class in classes {
            for streams in rotated(&args.streams, round) {
                for changed_now in if round % 2 == 0 { [false, true] } else { [true, false] } {
                    let subject = if changed_now { changed } else { plain };
                    let asked: Vec<Prompt> =
                        (0..streams).map(|_| of_class(*class, prompts.next(false))).collect();
                    let before = subject.guesses();
                    let answers = subject.batch(args, &asked).await?;
                    let after = subject.guesses();
                    if round == 0 {
                        continue;
                    }
                    let batch = Batch { round, shared_prefix: false, streams, answers };
                    crate::progress(&format!(
                        "round {round} {class:?} {streams:>3} streams, {}: {:.1} tokens/s",
                        if changed_now { "changed" } else { "as it is" },
                        batch.tokens_per_s(),
                    ));
                    turns.push(Turn {
                        class: *class,
                        changed: changed_now,
                        drafted: after.0 - before.0,
                        accepted: after.1 - before.1,
                        batch,
                    });
                }
            }
        }
    }
    Ok(turns)
}

/// A prompt of a class, told apart from all others by its number.
fn of_class(class: Class, free: Prompt) -> Prompt {
    let number: String = free.system.chars().take_while(char::is_ascii_digit).collect();
    let user = match class {
        Class::Free => return free,
        Class::Repeat => format!("Give this text again, word for word, twice:\n\n{TEXT}\n\n{TEXT}"),
        Class::Edit => format!(
            "Give this function again with `rate` renamed to `tax{number}`, and then once more:\n\n\
             {CODE}\n{CODE}"
        ),
    };
    Prompt { system: format!("{number} is the number of this task. You answer exactly."), user }
}

fn table(args: &EngineArgs, classes: &[Class], run: &Run) -> String {
    let mut text = heading("Engine, one setting beside", &run.birthplace);
    text.push_str(&format!(
        "\nAs it is: {}. Changed: {}.\n\n{} tokens out, greedy, all requests of a batch at once; \
         rounds interleaved, the first not counted. Values are the median of the rounds with \
         (min..max); a ratio is changed / as it is, within a round. Accepted = guessed tokens that \
         were drawn / guessed tokens.\n\n\
         | prompts | streams | tokens/s as it is | changed | ratio | TTFT p50 ms as it is | changed | \
         gap p99 ms as it is | changed | accepted |\n|---|---|---|---|---|---|---|---|---|---|\n",
        run.plain, run.changed, args.output_tokens,
    ));
    for class in classes {
        for streams in &args.streams {
            let own = |changed| -> Vec<&Turn> {
                let turns = run.turns.iter();
                let own = turns.filter(move |turn| {
                    turn.class == *class
                        && turn.changed == changed
                        && turn.batch.streams == *streams
                });
                own.collect()
            };
            text.push_str(&line(args, (*class, *streams), &own(false), &own(true)));
        }
    }
    text
}

fn line(
    args: &EngineArgs,
    (class, streams): (Class, u32),
    plain: &[&Turn],
    changed: &[&Turn],
) -> String {
    let of = |turns: &[&Turn]| -> Option<Row> {
        let batches: Vec<&Batch> = turns.iter().map(|turn| &turn.batch).collect();
        row(args, streams, false, &batches)
    };
    let (as_it_is, with) = (of(plain), of(changed));
    let speed = |turn: &Turn| turn.batch.tokens_per_s();
    let ratios = changed.iter().zip(plain).map(|(with, without)| speed(with) / speed(without));
    let figure = |row: &Option<Row>, pick: fn(&Row) -> Option<&Spread>, digits| {
        shown(row.as_ref().and_then(pick), digits)
    };
    let drafted: u64 = changed.iter().map(|turn| turn.drafted).sum();
    let accepted: u64 = changed.iter().map(|turn| turn.accepted).sum();
    let share = (accepted * 1_000).checked_div(drafted);
    format!(
        "| {class:?} | {streams} | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        figure(&as_it_is, |row| Some(&row.tokens_per_s), 1),
        figure(&with, |row| Some(&row.tokens_per_s), 1),
        shown(Spread::of(ratios.collect()).as_ref(), 3),
        figure(&as_it_is, |row| Some(&row.ttft_p50_ms), 0),
        figure(&with, |row| Some(&row.ttft_p50_ms), 0),
        figure(&as_it_is, |row| row.gap_p99_ms.as_ref(), 1),
        figure(&with, |row| row.gap_p99_ms.as_ref(), 1),
        share.map_or_else(|| "-".to_owned(), |share| format!("{}.{} %", share / 10, share % 10)),
    )
}

#[cfg(test)]
mod tests {
    use super::{super::Answer, *};

    fn turn(changed: bool, end_ns: u64, guesses: (u64, u64)) -> Turn {
        let answer = Answer {
            first_ns: 1_000_000,
            end_ns,
            gaps_ns: vec![1_000_000; 9],
            prompt_tokens: 10,
            cached_tokens: 0,
            output_tokens: 100,
        };
        let batch = Batch { round: 1, shared_prefix: false, streams: 1, answers: vec![answer] };
        let (drafted, accepted) = guesses;
        Turn { class: Class::Repeat, changed, drafted, accepted, batch }
    }

    #[test]
    fn a_ratio_is_taken_within_its_round_and_acceptance_over_all() {
        let args = <crate::Cli as clap::Parser>::parse_from(["bench", "engine", "--streams", "1"]);
        let crate::Command::Engine(args) = args.command else { panic!("it is the engine's") };
        let plain = [turn(false, 2_000_000_000, (0, 0)), turn(false, 1_000_000_000, (0, 0))];
        let changed = [turn(true, 1_000_000_000, (8, 6)), turn(true, 1_000_000_000, (8, 7))];
        let told = line(
            &args,
            (Class::Repeat, 1),
            &plain.iter().collect::<Vec<_>>(),
            &changed.iter().collect::<Vec<_>>(),
        );
        assert!(told.contains("| 1.500 (1.000..2.000) |"), "{told}");
        assert!(told.contains("| 81.2 % |"), "{told}");
    }

    #[test]
    fn prompts_of_a_class_are_told_apart_by_their_number() {
        let mut prompts = Prompts::new(4);
        let mut next = |class| of_class(class, prompts.next(false));
        for class in [Class::Repeat, Class::Edit, Class::Free] {
            assert_ne!(next(class).system, next(class).system);
        }
    }
}
