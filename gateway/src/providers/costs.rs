//! A provider's own report of what it charged: OpenAI's `organization/costs` and Anthropic's
//! `cost_report`, by model and day.
//!
//! **Invariant:** amounts are read to the digit and are never floats; a page that says there are more
//! is told, so that half a report is not taken for a whole one.

use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

/// What a provider charged.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Charged {
    /// Pico-USD by day (`YYYY-MM-DD`, UTC) and model; below zero where credits are more. What names no
    /// model stands under `-`.
    pub(crate) by: BTreeMap<(String, String), i128>,
    /// The days that it tells of, those without any charge too.
    pub(crate) days: BTreeSet<String>,
    /// Lines without an amount.
    pub(crate) unknown: u64,
    /// Whether the report has further pages.
    pub(crate) has_more: bool,
}

impl Charged {
    /// Adds another page, which may tell of the same days and models.
    pub(crate) fn add(&mut self, page: Self) {
        for (at, amount) in page.by {
            self.charge(at, amount);
        }
        self.days.extend(page.days);
        self.unknown += page.unknown;
        self.has_more = page.has_more;
    }

    fn charge(&mut self, at: (String, String), amount: i128) {
        let sum = self.by.entry(at).or_default();
        *sum = sum.saturating_add(amount);
    }
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
    /// Anthropic: of `amount`.
    #[serde(default)]
    currency: Option<String>,
    /// OpenAI: `gpt-4o-2024-08-06, input`.
    #[serde(default)]
    line_item: Option<String>,
    /// Anthropic.
    #[serde(default)]
    model: Option<String>,
}

#[derive(Deserialize)]
struct Value<'a> {
    /// Absent where nothing is known of it.
    #[serde(borrow, default)]
    value: Option<&'a RawValue>,
    #[serde(default)]
    currency: Option<String>,
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
        all.days.insert(day.clone());
        for line in bucket.results {
            let Some(amount) = amount(&line)? else {
                all.unknown += 1;
                continue;
            };
            let model = line.model.clone().or_else(|| {
                let item = line.line_item.as_deref()?;
                Some(item.split(", ").next().unwrap_or(item).to_owned())
            });
            all.charge((day.clone(), model.unwrap_or_else(|| "-".to_owned())), amount);
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

/// The amount of a line in pico-USD, finer digits cut; `None` where it has none.
fn amount(line: &Line<'_>) -> Result<Option<i128>, String> {
    let raw = line.amount.get();
    if !raw.starts_with('{') {
        // Anthropic counts cents.
        return in_usd(line.currency.as_deref(), Some(raw), 10);
    }
    let value: Value<'_> = serde_json::from_str(raw).map_err(|error| error.to_string())?;
    in_usd(value.currency.as_deref(), value.value.map(RawValue::get), 12)
}

fn in_usd(currency: Option<&str>, raw: Option<&str>, shift: i32) -> Result<Option<i128>, String> {
    if let Some(other) = currency.filter(|currency| !currency.eq_ignore_ascii_case("usd")) {
        return Err(format!("it is in `{other}`, and the ledger in USD"));
    }
    raw.filter(|raw| *raw != "null").map(|raw| signed(raw, shift)).transpose()
}

/// A credit is below zero.
fn signed(raw: &str, shift: i32) -> Result<i128, String> {
    let text = raw.trim_matches('"');
    let (digits, sign) = text.strip_prefix('-').map_or((text, 1), |digits| (digits, -1));
    let pico = i128::try_from(pico(digits, shift)?).map_err(|_| format!("`{raw}` is no amount"))?;
    Ok(sign * pico)
}

/// Decimal digits, with an exponent or without, times ten to the power of `shift`.
fn pico(text: &str, shift: i32) -> Result<u128, String> {
    let wrong = || format!("`{text}` is no amount");
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

    fn read(text: &str) -> Vec<(String, String, i128)> {
        let charged = charged(text).unwrap();
        let rows = charged.by.into_iter();
        rows.map(|((day, model), sum)| (day, model, sum)).collect()
    }

    fn row(day: &str, model: &str, sum: i128) -> (String, String, i128) {
        (day.to_owned(), model.to_owned(), sum)
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
                row("2024-11-01", "-", 1_000_000_000_000),
                row("2024-11-01", "gpt-4o-2024-08-06", 61_500_000_000),
            ]
        );
        assert!(charged(text).unwrap().has_more);
    }

    #[test]
    fn anthropics_amounts_are_cents() {
        let text = r#"{"data":[{"starting_at":"2025-08-01T00:00:00Z","ending_at":"2025-08-02T00:00:00Z","results":[
            {"currency":"USD","amount":"123.78912","workspace_id":null,"description":"x","cost_type":"tokens","model":"claude-sonnet-4-20250514","token_type":"uncached_input_tokens"}]}],
            "has_more":false,"next_page":null}"#;
        let expected = row("2025-08-01", "claude-sonnet-4-20250514", 1_237_891_200_000);
        assert_eq!(read(text), [expected]);
    }

    #[test]
    fn credits_are_below_zero_and_what_has_no_amount_is_counted() {
        let text = r#"{"data":[
            {"start_time":1730419200,"results":[
                {"amount":{"value":0.5,"currency":"usd"},"line_item":"gpt-5, input"},
                {"amount":{"value":-2e-1,"currency":"usd"},"line_item":"gpt-5, input"},
                {"amount":{"value":null,"currency":"usd"},"line_item":"gpt-5, output"},
                {"amount":{"currency":"usd"},"line_item":"gpt-5, output"},
                {"amount":{"value":-1,"currency":"usd"},"line_item":null}]},
            {"start_time":1730505600,"results":[]}]}"#;
        let page = charged(text).unwrap();
        let expected = [
            row("2024-11-01", "-", -1_000_000_000_000),
            row("2024-11-01", "gpt-5", 300_000_000_000),
        ];
        assert_eq!(read(text), expected);
        assert_eq!(page.unknown, 2);
        let days: Vec<_> = page.days.iter().map(String::as_str).collect();
        assert_eq!(days, ["2024-11-01", "2024-11-02"], "one without a charge is a day too");

        let mut both = page.clone();
        both.add(page);
        assert_eq!(both.by.values().sum::<i128>(), -1_400_000_000_000, "pages add up");
    }

    #[test]
    fn what_is_no_report_is_refused() {
        for text in [
            "",
            "[]",
            "{}",
            r#"{"data":[{"results":[]}]}"#,
            r#"{"data":[{"start_time":1,"results":[{"amount":"--1"}]}]}"#,
            r#"{"data":[{"start_time":1,"results":[{"amount":"1","currency":"EUR"}]}]}"#,
            r#"{"data":[{"start_time":1,"results":[{"amount":{"value":1,"currency":"eur"}}]}]}"#,
        ] {
            assert!(charged(text).is_err(), "{text}");
        }
    }
}
