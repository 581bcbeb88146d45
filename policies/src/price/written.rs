//! Price rows as the TOML that [`super::PriceList::parse`] reads.
//!
//! **Invariant:** what is written reads back as the same rows with the same ids.

use super::{Fees, PriceRow, RateTable, TokenRates};
use crate::PicoUsd;
use std::fmt::Write;

/// Tokens to which a written rate refers.
const TOKENS: u64 = 1_000_000;

/// The rows as a price file. Rows that differ in their model alone are written once, with the other
/// names in `also`.
#[must_use]
pub fn write_rows(rows: &[PriceRow]) -> String {
    let mut out = String::new();
    let mut written = vec![false; rows.len()];
    for (at, row) in rows.iter().enumerate() {
        if written.get(at).copied().unwrap_or(true) {
            continue;
        }
        let mut also = Vec::new();
        for (later, other) in rows.iter().enumerate().skip(at + 1) {
            if same_but_model(row, other)
                && let Some(flag) = written.get_mut(later)
                && !*flag
            {
                *flag = true;
                also.push(other.model.as_str());
            }
        }
        write_row(&mut out, row, &also);
    }
    out
}

fn same_but_model(row: &PriceRow, other: &PriceRow) -> bool {
    row.provider == other.provider
        && row.effective_from == other.effective_from
        && row.snapshots == other.snapshots
        && row.source == other.source
        && row.source_date == other.source_date
        && row.price.standard == other.price.standard
        && row.price.hours == other.price.hours
        && row.price.services == other.price.services
        && row.price.fees == other.price.fees
}

fn write_row(out: &mut String, row: &PriceRow, also: &[&str]) {
    let gap = if out.is_empty() { "" } else { "\n" };
    let _ = writeln!(out, "{gap}[[price]]\nprovider = {}", quoted(&row.provider));
    let _ = writeln!(out, "model = {}", quoted(&row.model));
    if !also.is_empty() {
        let also: Vec<String> = also.iter().map(|name| quoted(name)).collect();
        let _ = writeln!(out, "also = [{}]", also.join(", "));
    }
    if row.snapshots {
        out.push_str("snapshots = true\n");
    }
    let _ = writeln!(out, "effective_from = {}", quoted(&row.effective_from));
    let price = &row.price;
    for rate in rates(&price.standard.base) {
        let _ = writeln!(out, "{rate}");
    }
    let Fees { per_request, per_image } = price.fees;
    for (name, fee) in [("per_request", per_request), ("per_image", per_image)] {
        if !fee.is_zero() {
            let _ = writeln!(out, "{name} = \"{}\"", fee.to_plain());
        }
    }
    tiers(out, &price.standard);
    let _ = writeln!(out, "source = {}", quoted(&row.source));
    let _ = writeln!(out, "source_date = {}", quoted(&row.source_date));
    for hours in &price.hours {
        let time = |minute: u16| format!("\"{:02}:{:02}\"", minute / 60, minute % 60);
        let (from, to) = (time(hours.from_minute), time(hours.to_minute));
        let _ = writeln!(out, "[[price.hours]]\nfrom = {from}\nto = {to}");
        table(out, &hours.rates);
    }
    for (tier, rates) in &price.services {
        let _ = writeln!(out, "[[price.services]]\ntier = \"{}\"", tier.as_str());
        table(out, rates);
    }
}

fn table(out: &mut String, table: &RateTable) {
    for rate in rates(&table.base) {
        let _ = writeln!(out, "{rate}");
    }
    tiers(out, table);
}

fn tiers(out: &mut String, table: &RateTable) {
    if table.tiers.is_empty() {
        return;
    }
    out.push_str("tiers = [\n");
    for tier in &table.tiers {
        let rates = rates(&tier.rates).join(", ");
        let _ =
            writeln!(out, "    {{ above_prompt_tokens = {}, {rates} }},", tier.above_prompt_tokens);
    }
    out.push_str("]\n");
}

/// The rates that are not what a row without them means.
fn rates(rates: &TokenRates) -> Vec<String> {
    let plain = TokenRates::plain(rates.input, rates.output);
    let mut lines = vec![line("input", rates.input)];
    for (name, rate, otherwise) in [
        ("cache_read", rates.cache_read, plain.cache_read),
        ("cache_write_5m", rates.cache_write_5m, plain.cache_write_5m),
        ("cache_write_1h", rates.cache_write_1h, plain.cache_write_1h),
        ("image", rates.image, plain.image),
        ("audio", rates.audio, plain.audio),
    ] {
        if rate != otherwise {
            lines.push(line(name, rate));
        }
    }
    lines.push(line("output", rates.output));
    for (name, rate, otherwise) in [
        ("reasoning", rates.reasoning, plain.reasoning),
        ("audio_output", rates.audio_output, plain.audio_output),
    ] {
        if rate != otherwise {
            lines.push(line(name, rate));
        }
    }
    lines
}

/// A rate is a price of one token; a million of the dearest that can be read still fits.
fn line(name: &str, rate: PicoUsd) -> String {
    let million = u128::from(rate.pico()) * u128::from(TOKENS);
    let total = crate::PicoUsdTotal::from_pico(million).to_string();
    let trimmed = total.trim_end_matches('0');
    let text = match trimmed.strip_suffix('.') {
        Some(whole) => whole,
        None => trimmed,
    };
    format!("{name} = \"{text}\"")
}

/// A TOML string.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => {
                out.push('\\');
                out.push(character);
            }
            control if control.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}
