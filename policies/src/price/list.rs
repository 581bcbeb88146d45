//! The dated price list: rows read from TOML, found by provider, model and day.
//!
//! **Invariants:** a rate is written in decimal US dollars per million tokens and read exactly; a
//! file with one bad row is refused whole; a price that is not in the list is unknown, never zero.
//! A cache, image or audio rate that a row does not give is its input rate, a reasoning or audio
//! output rate its output rate: what a provider charges that has no such rate of its own.

use super::{
    DatedPrices, Fees, HoursRates, PriceName, RateTable, RowRates, ServiceTier, Tier, TokenPrice,
    TokenRates,
};
use crate::{
    PicoUsd, PriceError,
    file::{Fields, Node, Source},
};
use std::{collections::BTreeSet, sync::Arc};

/// Most rows of one file.
const ROWS_MAX: usize = 20_000;
/// Longest name of a provider or model, in bytes.
const NAME_BYTES_MAX: usize = 200;
/// The rows that tollgate ships.
const SHIPPED: [(&str, &str); 8] = [
    ("anthropic", include_str!("../../prices/anthropic.toml")),
    ("deepseek", include_str!("../../prices/deepseek.toml")),
    ("google", include_str!("../../prices/google.toml")),
    ("groq", include_str!("../../prices/groq.toml")),
    ("mistral", include_str!("../../prices/mistral.toml")),
    ("openai", include_str!("../../prices/openai.toml")),
    ("together", include_str!("../../prices/together.toml")),
    ("xai", include_str!("../../prices/xai.toml")),
];

/// Dated prices, sorted by provider, model and day.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PriceList {
    rows: Vec<PriceRow>,
}

/// One dated row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PriceRow {
    /// The provider, such as `openai`.
    pub provider: String,
    /// The model, by the provider's name.
    pub model: String,
    /// First day on which it holds, `YYYY-MM-DD`.
    pub effective_from: String,
    /// Whether dated snapshots of the model (`-2026-11-26` or `-20261126` behind its name) that have
    /// no row of their own cost the same.
    pub snapshots: bool,
    /// Where the row was read.
    pub source: String,
    /// The day on which it stood there, `YYYY-MM-DD`.
    pub source_date: String,
    /// The price.
    pub price: Arc<TokenPrice>,
}

impl PriceList {
    /// Reads a price file: `[[price]]` rows. `name` is the file's name, for errors.
    ///
    /// # Errors
    /// What is wrong and where: TOML, unknown keys, a rate that is not exact, a row given twice.
    pub fn parse(name: &str, text: &str) -> Result<Self, PriceError> {
        let doc_source = Source { name, text };
        let doc = doc_source.parse()?;
        let mut fields = Fields::of_file(doc_source, &doc);
        let items = match fields.take("price") {
            Some(node) => node.array("a list of tables, written `[[price]]`,")?,
            None => Vec::new(),
        };
        fields.finish()?;
        let mut list = Self::default();
        let mut places = BTreeSet::new();
        for item in &items {
            for row in read_row(item)? {
                if list.rows.len() >= ROWS_MAX {
                    return Err(item.error(format!("is one of more than {ROWS_MAX} rows")));
                }
                let (provider, model, from) = row.place();
                if !places.insert((provider.to_owned(), model.to_owned(), from.to_owned())) {
                    let message = format!("gives `{provider}` `{model}` from {from} a second time");
                    return Err(item.error(message));
                }
                list.rows.push(row);
            }
        }
        list.rows.sort_by(|a, b| a.place().cmp(&b.place()));
        Ok(list)
    }

    /// The list that tollgate ships.
    #[must_use]
    pub fn shipped() -> Self {
        // A test parses every shipped file, so nothing is skipped here in a build that passed.
        let parsed = SHIPPED.iter().filter_map(|(name, text)| Self::parse(name, text).ok());
        parsed.fold(Self::default(), Self::merge)
    }

    /// Both lists. From the first day on which `other` (the operator's) prices a model, only its rows
    /// price that model: a shipped row that begins later does not undo a price that was agreed.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        self.rows.retain(|row| !other.prices_from(row));
        self.rows.extend(other.rows);
        self.rows.sort_by(|a, b| a.place().cmp(&b.place()));
        self
    }

    /// The price of a model on a day (`YYYY-MM-DD`); `None` when nobody said.
    #[must_use]
    pub fn find(&self, provider: &str, model: &str, date: &str) -> Option<Arc<TokenPrice>> {
        let rows = self.rows_of(provider, model);
        let after = rows.partition_point(|row| row.effective_from.as_str() <= date);
        let row = *rows.get(after.checked_sub(1)?)?;
        is_date(date).then(|| Arc::clone(&row.price))
    }

    /// Whether a row of the same model here holds by the day on which `row` begins.
    fn prices_from(&self, row: &PriceRow) -> bool {
        let own = self.rows_named(&row.provider, &row.model);
        own.first().is_some_and(|own| own.effective_from <= row.effective_from)
    }

    /// The rows of a model by day: its own, and until they begin those of the model it is a dated
    /// snapshot of.
    fn rows_of(&self, provider: &str, model: &str) -> Vec<&PriceRow> {
        let own = self.rows_named(provider, model);
        let others = undated(model).map(|model| self.rows_named(provider, model));
        let others = others.unwrap_or_default();
        let others = if others.iter().all(|row| row.snapshots) { others } else { &[] };
        let begins = |row: &&PriceRow| {
            own.first().is_none_or(|first| row.effective_from < first.effective_from)
        };
        others.iter().filter(begins).chain(own).collect()
    }

    fn rows_named(&self, provider: &str, model: &str) -> &[PriceRow] {
        let from = self.rows.partition_point(|row| row.place() < (provider, model, ""));
        let rows = self.rows.get(from..).unwrap_or_default();
        let same = |row: &PriceRow| row.provider == provider && row.model == model;
        rows.get(..rows.partition_point(same)).unwrap_or_default()
    }

    /// The rows of a model over time; `None` when there are none.
    #[must_use]
    pub fn dated(&self, provider: &str, model: &str) -> Option<DatedPrices> {
        let rows = self.rows_of(provider, model);
        DatedPrices::new(
            rows.iter().map(|row| (row.effective_from.as_str(), Arc::clone(&row.price))),
        )
    }

    /// Rows that are given themselves, for a list that is not read from a file.
    ///
    /// # Errors
    /// The place of a row that is given twice.
    pub fn of_rows(mut rows: Vec<PriceRow>) -> Result<Self, String> {
        rows.sort_by(|a, b| a.place().cmp(&b.place()));
        let twice = rows.windows(2).find(|pair| pair[0].place() == pair[1].place());
        match twice.and_then(|pair| pair.first()) {
            Some(row) => Err(format!(
                "gives `{}` `{}` from {} a second time",
                row.provider, row.model, row.effective_from
            )),
            None => Ok(Self { rows }),
        }
    }

    /// Every row, sorted by provider, model and day.
    #[must_use]
    pub fn rows(&self) -> &[PriceRow] {
        &self.rows
    }
}

impl PriceRow {
    fn place(&self) -> (&str, &str, &str) {
        (&self.provider, &self.model, &self.effective_from)
    }
}

/// A row, once for each model name it is for.
fn read_row(node: &Node<'_>) -> Result<Vec<PriceRow>, PriceError> {
    let mut fields = node.table("a price row")?;
    let provider = read_name(&fields.require("provider")?)?;
    let mut models = vec![read_name(&fields.require("model")?)?];
    if let Some(also) = fields.take("also") {
        for item in also.array("a list of model names")? {
            models.push(read_name(&item)?);
        }
    }
    let snapshots = fields.take("snapshots").map_or(Ok(false), |node| node.flag())?;
    let effective_from = read_date(&fields.require("effective_from")?)?;
    let source = fields.require("source")?.text("where the price was read")?;
    let source_date = read_date(&fields.require("source_date")?)?;
    let rates = read_row_rates(&mut fields)?;
    fields.finish()?;
    let row = |model: &str| {
        let name = PriceName { provider, model, effective_from };
        let price = TokenPrice::new(name, rates.clone());
        Ok(PriceRow {
            provider: provider.to_owned(),
            model: model.to_owned(),
            effective_from: effective_from.to_owned(),
            snapshots,
            source: source.to_owned(),
            source_date: source_date.to_owned(),
            price: Arc::new(price.map_err(|e| node.error(e.to_string()))?),
        })
    };
    models.into_iter().map(row).collect()
}

/// Everything a row says about money.
fn read_row_rates(fields: &mut Fields<'_>) -> Result<RowRates, PriceError> {
    let mut fee = |key| match fields.take(key) {
        Some(fee) => {
            let amount = fee.text("US dollars as text such as \"0.01\"")?.parse::<PicoUsd>();
            amount.map_err(|e| fee.value_error(e.to_string()))
        }
        None => Ok(PicoUsd::ZERO),
    };
    let fees = Fees { per_request: fee("per_request")?, per_image: fee("per_image")? };
    let (hours, services) = (fields.take("hours"), fields.take("services"));
    let standard = read_table(fields)?;
    let hours = match hours {
        Some(node) => {
            let items = node.array("a list of hours with their rates")?;
            items.iter().map(read_hours).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    let services = match services {
        Some(node) => {
            let items = node.array("a list of service tiers with their rates")?;
            items.iter().map(read_service).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    Ok(RowRates { standard, hours, services, fees })
}

/// Rates with their tiers.
fn read_table(fields: &mut Fields<'_>) -> Result<RateTable, PriceError> {
    let tiers = match fields.take("tiers") {
        Some(tiers) => {
            let items = tiers.array("a list of tiers")?;
            items.iter().map(read_tier).collect::<Result<Vec<_>, _>>()?
        }
        None => Vec::new(),
    };
    let base = read_rates(fields)?;
    RateTable::new(base, tiers).map_err(|e| fields.error(e.to_string()))
}

fn read_hours(node: &Node<'_>) -> Result<HoursRates, PriceError> {
    let mut fields = node.table("hours with their rates")?;
    let from_minute = read_time(&fields.require("from")?)?;
    let to_minute = read_time(&fields.require("to")?)?;
    let rates = read_table(&mut fields)?;
    fields.finish()?;
    Ok(HoursRates { from_minute, to_minute, rates })
}

fn read_service(node: &Node<'_>) -> Result<(ServiceTier, RateTable), PriceError> {
    let mut fields = node.table("a service tier with its rates")?;
    let name = fields.require("tier")?;
    let tier = match name.text("the name of a service tier")? {
        "batch" => ServiceTier::Batch,
        "flex" => ServiceTier::Flex,
        "priority" => ServiceTier::Priority,
        "fast" => ServiceTier::Fast,
        other => {
            let error = name.value_error(format!("`{other}` is no service tier with a price"));
            return Err(error.suggest(other, &["batch", "flex", "priority", "fast"]));
        }
    };
    let rates = read_table(&mut fields)?;
    fields.finish()?;
    Ok((tier, rates))
}

/// A time of the UTC day such as `"16:30"`, as its minute.
fn read_time(node: &Node<'_>) -> Result<u16, PriceError> {
    let text = node.text("a time of the UTC day as text such as \"16:30\"")?;
    let minute = text.split_once(':').and_then(|(hour, minute)| {
        let (hour, minute): (u16, u16) = (hour.parse().ok()?, minute.parse().ok()?);
        (text.len() == 5 && hour < 24 && minute < 60).then_some(hour * 60 + minute)
    });
    minute.ok_or_else(|| node.value_error(format!("`{text}` is not a time such as \"16:30\"")))
}

fn read_tier(node: &Node<'_>) -> Result<Tier, PriceError> {
    let mut fields = node.table("a tier")?;
    let above_prompt_tokens = fields.require("above_prompt_tokens")?.whole("a number of tokens")?;
    let rates = read_rates(&mut fields)?;
    fields.finish()?;
    Ok(Tier { above_prompt_tokens, rates })
}

/// `input` and `output` must be given; the others default as the head of this file says.
fn read_rates(fields: &mut Fields<'_>) -> Result<TokenRates, PriceError> {
    let input = read_rate(&fields.require("input")?)?;
    let output = read_rate(&fields.require("output")?)?;
    let mut or = |key, rate| fields.take(key).map_or(Ok(rate), |node| read_rate(&node));
    Ok(TokenRates {
        input,
        cache_read: or("cache_read", input)?,
        cache_write_5m: or("cache_write_5m", input)?,
        cache_write_1h: or("cache_write_1h", input)?,
        output,
        reasoning: or("reasoning", output)?,
        image: or("image", input)?,
        audio: or("audio", input)?,
        audio_output: or("audio_output", output)?,
    })
}

fn read_rate(node: &Node<'_>) -> Result<PicoUsd, PriceError> {
    let text = node.text("US dollars per million tokens as text such as \"1.25\"")?;
    PicoUsd::from_usd_per_million(text).map_err(|e| node.value_error(e.to_string()))
}

fn read_name<'d>(node: &Node<'d>) -> Result<&'d str, PriceError> {
    let text = node.text("a name")?;
    if text.is_empty() || text.len() > NAME_BYTES_MAX || text.chars().any(char::is_control) {
        return Err(node.value_error(format!("must be 1 to {NAME_BYTES_MAX} bytes of plain text")));
    }
    Ok(text)
}

fn read_date<'d>(node: &Node<'d>) -> Result<&'d str, PriceError> {
    let text = node.text("a day as text such as \"2025-08-07\"")?;
    if is_date(text) {
        return Ok(text);
    }
    Err(node.value_error(format!("`{text}` is not a day such as \"2025-08-07\"")))
}

/// A model's name without the date of a snapshot, if it ends in one.
#[must_use]
pub fn undated(model: &str) -> Option<&str> {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let cut = |length: usize| {
        let at = model.len().checked_sub(length)?;
        let (name, date) = (model.get(..at)?, model.get(at..)?.strip_prefix('-')?);
        (!name.is_empty()).then_some((name, date))
    };
    if let Some((name, date)) = cut(11)
        && is_date(date)
    {
        return Some(name);
    }
    cut(9).filter(|(_, date)| digits(date)).map(|(name, _)| name)
}

/// Whether a text is a day of the calendar, `YYYY-MM-DD`: then days sort as text.
fn is_date(text: &str) -> bool {
    let bytes = text.as_bytes();
    let shaped = bytes.len() == 10
        && bytes.iter().enumerate().all(|(ix, b)| match ix {
            4 | 7 => *b == b'-',
            _ => b.is_ascii_digit(),
        });
    let number = |range| text.get(range).and_then(|part: &str| part.parse::<u32>().ok());
    let (Some(year), Some(month), Some(day)) = (number(0..4), number(5..7), number(8..10)) else {
        return false;
    };
    let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let days = match month {
        2 => 28 + u32::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => 0,
    };
    shaped && (1..=days).contains(&day)
}
