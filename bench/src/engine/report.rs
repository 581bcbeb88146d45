//! The Markdown table of an engine run.

use super::{EngineArgs, Row, Run, gap_ladder};
use crate::output::{heading, shown};

/// Everything a reader needs, the raw data being beside it.
pub(crate) fn table(args: &EngineArgs, run: &Run) -> String {
    let mut text = heading("Engine", &run.birthplace);
    text.push_str(&format!(
        "\n{}. Prompts of about {} tokens, {} out, greedy, all requests of a batch at once; rounds \
         interleaved. Values are the median of the rounds with (min..max). Tokens/s = generated \
         tokens of the batch / time from its start to its last end, reading the prompts included. \
         TTFT = batch start to a stream's first text. Gap = between two texts of one stream.\n",
        run.subject, args.prompt_tokens, args.output_tokens
    ));
    for shared in [false, true] {
        let rows: Vec<&Row> = run.rows.iter().filter(|row| row.shared_prefix == shared).collect();
        if rows.is_empty() {
            continue;
        }
        text.push_str(if shared {
            "\n## Prompts that share all but their last words\n\n"
        } else {
            "\n## Prompts that share nothing\n\n"
        });
        text.push_str(
            "| streams | answers (short) | prompt tokens, mean | of them cached | tokens/s | \
             TTFT p50 ms | TTFT p95 ms | gap p50 ms | gap p99 ms | gap max ms |\n\
             |---|---|---|---|---|---|---|---|---|---|\n",
        );
        for row in rows {
            text.push_str(&line(row));
        }
    }
    text.push_str("\nGaps of all rounds together, prompts that share nothing:\n\n");
    for streams in &args.streams {
        if let Some(ladder) = gap_ladder(&run.batches, *streams) {
            let ms = |ns| std::time::Duration::from_nanos(ns).as_secs_f64() * 1e3;
            text.push_str(&format!(
                "- {streams} streams: n {}, p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms\n",
                ladder.n,
                ms(ladder.p50),
                ms(ladder.p95),
                ms(ladder.p99),
                ms(ladder.max)
            ));
        }
    }
    text
}

fn line(row: &Row) -> String {
    format!(
        "| {} | {} ({}) | {} | {} | {} | {} | {} | {} | {} | {} |\n",
        row.streams,
        row.answers,
        row.short_answers,
        shown(Some(&row.prompt_tokens), 0),
        shown(Some(&row.cached_tokens), 0),
        shown(Some(&row.tokens_per_s), 1),
        shown(Some(&row.ttft_p50_ms), 0),
        shown(Some(&row.ttft_p95_ms), 0),
        shown(row.gap_p50_ms.as_ref(), 1),
        shown(row.gap_p99_ms.as_ref(), 1),
        shown(row.gap_max_ms.as_ref(), 1),
    )
}
