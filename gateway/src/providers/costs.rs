//! A provider's own report of what it charged: OpenAI's `organization/costs` and Anthropic's
//! `cost_report`, by model and day.
//!
//! **Invariant:** amounts are read to the digit and are never floats; a page that says there are more
//! is told, so that half a report is not taken for a whole one.

use policies::PicoUsdTotal;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// What a provider charged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charged {
    /// By day (`YYYY-MM-DD`, UTC) and model; what names no model stands under `-`.
    pub(crate) by: BTreeMap<(String, String), PicoUsdTotal>,
    /// Whether the report has further pages.
    pub(crate) has_more: bool,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow)]
    data: Vec<Bucket<'a>>,
    #[serde(default)]
    has_more: bool,
}

#[derive(Deserialize)]
struct Bucket<'a> {
    /// OpenAI: second of the Unix epoch.
    #[serde(default)]
    start_time: Option<i64>,
    /// Anthropic: RFC 3339.
    #[serde(default)]
    starting_at: Option<String>,
    #[serde(borrow)]
    results: Vec<Line<'a>>,
}

#[derive(Deserialize)]
struct Line<'a> {
    /// OpenAI: `{"value":0.06,"currency":"usd"}`; Anthropic: cents as text.
    #[serde(borrow)]
    amount: &'a RawValue,
    /// OpenAI: `gpt-4o-2024-08-06, input`.
    #[serde(default)]
    line_item: Option<String>,
    /// Anthropic.
    #[serde(default)]
    model: Option<String>,
}

#[derive(Deserialize)]
struct Value<'a> {
    #[serde(borrow)]
    value: &'a RawValue,
}

/// Reads one page.
///
/// # Errors
/// What is wrong with it.
pub(crate) fn charged(text: &str) -> Result<Charged, String> {
    let page: Page<'_> = serde_json::from_str(text)
        .map_err(|error| format!("this is no cost report of OpenAI or Anthropic: {error}"))?;
    let mut all = Charged { has_more: page.has_more, ..Charged::default() };
    for bucket in page.data {
        let day = day(&bucket).ok_or("a bucket does not say when it begins")?;
        for line in bucket.results {
            let amount = amount(line.amount.get())?;
            let model = line.model.clone().or_else(|| {
                let item = line.line_item.as_deref()?;
                Some(item.split(", ").next().unwrap_or(item).to_owned())
            });
            let at = (day.clone(), model.unwrap_or_else(|| "-".to_owned()));
            let sum = all.by.entry(at).or_insert(PicoUsdTotal::ZERO);
            *sum = PicoUsdTotal::from_pico(sum.pico().saturating_add(amount));
        }
    }
    Ok(all)
}

fn day(bucket: &Bucket<'_>) -> Option<String> {
    match (&bucket.starting_at, bucket.start_time) {
        (Some(at), _) => at.get(..10).map(str::to_owned),
        (None, Some(second)) => {
            Some(jiff::Timestamp::from_second(second).ok()?.strftime("%Y-%m-%d").to_string())
        }
        (None, None) => None,
    }
}

/// An amount in pico-USD, finer digits cut.
fn amount(raw: &str) -> Result<u128, String> {
    if raw.starts_with('{') {
        let value: Value<'_> = serde_json::from_str(raw).map_err(|error| error.to_string())?;
        return pico(value.value.get(), 12);
    }
    // Anthropic counts cents.
    pico(raw, 10)
}

/// Decimal digits, with an exponent or without, times ten to the power of `shift`.
fn pico(raw: &str, shift: i32) -> Result<u128, String> {
    let wrong = || format!("`{raw}` is no amount");
    let text = raw.trim_matches('"');
    let (digits, exponent) = match text.split_once(['e', 'E']) {
        Some((digits, exponent)) => (digits, exponent.parse::<i32>().map_err(|_| wrong())?),
        None => (text, 0),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let all = format!("{whole}{fraction}");
    let mantissa: u128 = all.parse().map_err(|_| wrong())?;
    let places = i32::try_from(fraction.len()).map_err(|_| wrong())?;
    let power = exponent.saturating_add(shift).saturating_sub(places);
    let ten = 10_u128.checked_pow(power.unsigned_abs());
    match (power >= 0, ten) {
        (true, Some(ten)) => mantissa.checked_mul(ten).ok_or_else(wrong),
        (false, Some(ten)) => Ok(mantissa / ten),
        (true, None) => Err(wrong()),
        (false, None) => Ok(0),
    }
}

#[cfg(test)]
mod tests {
    use super::charged;

    fn read(text: &str) -> Vec<(String, String, String)> {
        let charged = charged(text).unwrap();
        let rows = charged.by.into_iter();
        rows.map(|((day, model), sum)| (day, model, sum.to_string())).collect()
    }

    fn row(day: &str, model: &str, sum: &str) -> (String, String, String) {
        (day.to_owned(), model.to_owned(), sum.to_owned())
    }

    #[test]
    fn openais_costs_are_read_by_model_and_day() {
        let text = r#"{"object":"page","data":[{"object":"bucket","start_time":1730419200,"end_time":1730505600,"results":[
            {"object":"organization.costs.result","amount":{"value":0.06,"currency":"usd"},"line_item":"gpt-4o-2024-08-06, input","project_id":null},
            {"object":"organization.costs.result","amount":{"value":1.5e-3,"currency":"usd"},"line_item":"gpt-4o-2024-08-06, output","project_id":null},
            {"object":"organization.costs.result","amount":{"value":1,"currency":"usd"},"line_item":null,"project_id":null}]}],
            "has_more":true,"next_page":"x"}"#;
        assert_eq!(
            read(text),
            [
                row("2024-11-01", "-", "1.000000000000"),
                row("2024-11-01", "gpt-4o-2024-08-06", "0.061500000000"),
            ]
        );
        assert!(charged(text).unwrap().has_more);
    }

    #[test]
    fn anthropics_amounts_are_cents() {
        let text = r#"{"data":[{"starting_at":"2025-08-01T00:00:00Z","ending_at":"2025-08-02T00:00:00Z","results":[
            {"currency":"USD","amount":"123.78912","workspace_id":null,"description":"x","cost_type":"tokens","model":"claude-sonnet-4-20250514","token_type":"uncached_input_tokens"}]}],
            "has_more":false,"next_page":null}"#;
        let expected = row("2025-08-01", "claude-sonnet-4-20250514", "1.237891200000");
        assert_eq!(read(text), [expected]);
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"data":[{"results":[]}]}"#,
            r#"{"data":[{"start_time":1,"results":[{"amount":"-1"}]}]}"#,
        ] {
            assert!(charged(text).is_err(), "{text}");
        }
    }
}
