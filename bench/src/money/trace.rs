//! Reads a trace of arrivals and sizes, and deals its requests out to keys.
//!
//! Invariant: nothing is invented but who asks; that follows from a fixed seed.

use std::path::Path;

/// One request of the trace.
#[derive(Clone, Copy, Debug)]
pub(super) struct Row {
    /// Since the trace's first request.
    pub(super) at_ms: u64,
    pub(super) input: u64,
    pub(super) output: u64,
}

/// A model's price in pico-USD a token: 0.25 and 2 dollars per million.
pub(super) const INPUT_PRICE: u64 = 250_000;
/// See [`INPUT_PRICE`].
pub(super) const OUTPUT_PRICE: u64 = 2_000_000;

/// Every request in order; `None` where there is no file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<Row>>, String> {
    if !path.exists() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let mut rows = Vec::new();
    let mut first = None;
    for (at, line) in text.lines().enumerate().skip(1) {
        let wrong = || format!("{}:{}: not a row of the trace", path.display(), at + 1);
        let mut fields = line.split(',');
        let mut next = || fields.next().map(str::trim).ok_or_else(wrong);
        let time: jiff::civil::DateTime = next()?.replace(' ', "T").parse().map_err(|_| wrong())?;
        let (input, output) = (next()?, next()?);
        let ms = time.to_zoned(jiff::tz::TimeZone::UTC).map_err(|_| wrong())?;
        let ms = u64::try_from(ms.timestamp().as_millisecond()).map_err(|_| wrong())?;
        let first = *first.get_or_insert(ms);
        rows.push(Row {
            at_ms: ms.saturating_sub(first),
            input: input.parse().map_err(|_| wrong())?,
            output: output.parse().map_err(|_| wrong())?,
        });
    }
    rows.sort_by_key(|row| row.at_ms);
    if rows.is_empty() { Err(format!("{}: no rows", path.display())) } else { Ok(Some(rows)) }
}

impl Row {
    /// What it costs, in pico-USD.
    pub(super) fn cost(&self) -> u64 {
        self.input * INPUT_PRICE + self.output * OUTPUT_PRICE
    }

    /// How long it takes: half a second to the first token, then 20 ms a token.
    pub(super) fn takes_ms(&self) -> u64 {
        500 + self.output * 20
    }
}

/// Scrambles a number: a fixed seed's choice of whatever it is taken modulo.
pub(super) fn mix(number: u64) -> u64 {
    let mut mixed = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Which of `keys` keys a request belongs to: a few are busy, most are not.
pub(super) fn key_of(seed: u64, keys: u64) -> u64 {
    let mixed = mix(seed);
    let (one, other) = (mixed % keys, (mixed >> 32) % keys);
    one.min(other)
}
