//! The data of genai-prices: a list of providers, each with models whose prices may depend on the
//! day, the hour and the service tier.

use super::{
    Imported, Model, Origin, Period,
    decimal::{self, Scale},
    our_name,
    parts::{Bucket, Parts},
};
use policies::{Fees, HoursRates, PicoUsd, RowRates, ServiceTier};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Deserialize)]
struct Provider<'a> {
    id: String,
    #[serde(default)]
    pricing_urls: Option<Vec<String>>,
    #[serde(borrow)]
    models: Vec<Written<'a>>,
}

#[derive(Deserialize)]
struct Written<'a> {
    id: String,
    #[serde(rename = "match")]
    matches: Match,
    #[serde(borrow)]
    prices: OneOrMany<'a>,
    #[serde(borrow, default)]
    price_variants: Option<Vec<Conditional<'a>>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Match {
    Equals(String),
    StartsWith(String),
    EndsWith(#[allow(dead_code, reason = "read to be passed over")] String),
    Contains(#[allow(dead_code, reason = "read to be passed over")] String),
    Regex(String),
    Or(Vec<Match>),
    And(#[allow(dead_code, reason = "read to be passed over")] Vec<Match>),
}

/// The fee for searches, which most models do only where they are asked to.
const SEARCHES: &str = "web_searches_kcount";

/// A price's parts by their names.
type Named<'a> = BTreeMap<String, &'a RawValue>;

#[derive(Deserialize)]
#[serde(transparent)]
struct OneOrMany<'a>(#[serde(borrow)] &'a RawValue);

#[derive(Clone, Deserialize)]
struct Conditional<'a> {
    #[serde(default)]
    when: BTreeMap<String, String>,
    #[serde(default)]
    constraint: Option<Constraint>,
    #[serde(borrow)]
    prices: Named<'a>,
}

#[derive(Clone, Default, Deserialize)]
#[serde(default)]
struct Constraint {
    start_date: Option<String>,
    start_time: Option<String>,
    end_time: Option<String>,
}

#[derive(Deserialize)]
struct Tiered<'a> {
    #[serde(borrow)]
    base: &'a RawValue,
    #[serde(borrow)]
    tiers: Vec<TierWritten<'a>>,
}

#[derive(Deserialize)]
struct TierWritten<'a> {
    start: u64,
    #[serde(borrow)]
    price: &'a RawValue,
}

/// Reads the data.
pub(super) fn read(text: &str, origin: &Origin) -> Result<Imported, serde_json::Error> {
    let providers: Vec<Provider<'_>> = serde_json::from_str(text)?;
    let mut all = Imported::default();
    for provider in providers {
        let name = our_name(&provider.id);
        if !origin.wants(name) {
            continue;
        }
        let page = provider.pricing_urls.as_ref().and_then(|urls| urls.first());
        let source = match page {
            Some(page) => format!("{page} by way of {}", origin.source),
            None => origin.source.clone(),
        };
        for written in &provider.models {
            let (names, snapshots) = names(written);
            let mut notes = Vec::new();
            match periods(written, origin, &mut notes) {
                Ok(periods) => {
                    let model = Model {
                        provider: name.to_owned(),
                        names,
                        snapshots,
                        source: source.clone(),
                        periods,
                        search_fee: written.is_charged_for(SEARCHES),
                        notes,
                    };
                    all.add(model, origin);
                }
                Err(why) => {
                    notes.push(why);
                    all.refuse(name, &names, notes);
                }
            }
        }
    }
    Ok(all)
}

/// The names that mean a model exactly, its id first, and whether its dated snapshots do too.
fn names(written: &Written<'_>) -> (Vec<String>, bool) {
    let mut names = vec![written.id.clone()];
    let mut snapshots = false;
    let either = match &written.matches {
        Match::Or(either) => either.as_slice(),
        one => std::slice::from_ref(one),
    };
    for one in either {
        match one {
            Match::Equals(name) if !names.contains(name) => names.push(name.clone()),
            Match::StartsWith(start) => snapshots |= *start == written.id,
            Match::Regex(regex) => {
                snapshots |= regex.starts_with(&format!("^{}-\\d{{", escaped(&written.id)));
            }
            _ => {}
        }
    }
    (names, snapshots)
}

/// A name as it stands in a regular expression.
fn escaped(name: &str) -> String {
    name.replace('.', "\\.")
}

/// What holds from which day: a period for each day on which something changes and that is not
/// over before the first day asked for.
fn periods(
    written: &Written<'_>,
    origin: &Origin,
    notes: &mut Vec<String>,
) -> Result<Vec<Period>, String> {
    let prices = conditional(&written.prices)?;
    let variants = written.price_variants.as_deref().unwrap_or_default();
    let mut days: BTreeSet<&str> = BTreeSet::from([origin.effective_from.as_str()]);
    days.extend(prices.iter().chain(variants).filter_map(Conditional::starts));
    days.retain(|day| *day >= origin.effective_from.as_str());
    let mut periods: Vec<Period> = Vec::new();
    for day in days {
        let (rates, rounded) = on_day(written, &prices, variants, day, notes)?;
        if periods.last().is_none_or(|last| last.rates != rates) {
            periods.push(Period { from: day.to_owned(), rates, rounded });
        }
    }
    notes.sort();
    notes.dedup();
    Ok(periods)
}

fn conditional<'a>(prices: &OneOrMany<'a>) -> Result<Vec<Conditional<'a>>, String> {
    let raw = prices.0.get();
    let read = if raw.trim_start().starts_with('[') {
        serde_json::from_str(raw)
    } else {
        serde_json::from_str(raw)
            .map(|prices| vec![Conditional { when: BTreeMap::new(), constraint: None, prices }])
    };
    read.map_err(|error| format!("its prices cannot be read: {error}"))
}

/// The rates of a day, and whether one was rounded. Later prices win over earlier ones.
fn on_day(
    written: &Written<'_>,
    prices: &[Conditional<'_>],
    variants: &[Conditional<'_>],
    day: &str,
    notes: &mut Vec<String>,
) -> Result<(RowRates, bool), String> {
    let outputs = !written.id.contains("embed");
    let mut fees = Fees::default();
    let mut hours = Vec::new();
    let mut base = None;
    for price in prices.iter().rev().filter(|price| price.holds(day)) {
        let parts = parts(&price.prices, &mut fees, notes)?;
        match price.hours()? {
            Some((from_minute, to_minute)) => hours.push((from_minute, to_minute, parts)),
            None => {
                base = Some(parts);
                break;
            }
        }
    }
    // Without a price that always holds the first one does.
    let base = match (base, prices.first()) {
        (Some(base), _) => base,
        (None, Some(first)) => parts(&first.prices, &mut fees, notes)?,
        (None, None) => return Err("it has no price".to_owned()),
    };
    let mut rounded = base.rounded;
    let hours = hours.into_iter().map(|(from_minute, to_minute, parts)| {
        rounded |= parts.rounded;
        Ok(HoursRates { from_minute, to_minute, rates: parts.table(outputs)? })
    });
    let hours = hours.collect::<Result<Vec<_>, String>>()?;
    let mut services: Vec<(ServiceTier, _)> = Vec::new();
    for variant in variants.iter().filter(|variant| variant.holds(day)) {
        let Some(tier) = variant.tier(notes) else { continue };
        let parts = parts(&variant.prices, &mut Fees::default(), notes)?;
        if parts.is_empty() || services.iter().any(|(other, _)| *other == tier) {
            continue;
        }
        let parts = parts.over(&base);
        rounded |= parts.rounded;
        services.push((tier, parts.table(outputs)?));
    }
    services.sort_by_key(|(tier, _)| *tier);
    Ok((RowRates { standard: base.table(outputs)?, hours, services, fees }, rounded))
}

impl Written<'_> {
    /// Whether any of its prices has this part.
    fn is_charged_for(&self, part: &str) -> bool {
        let prices = conditional(&self.prices).unwrap_or_default();
        prices.iter().any(|price| price.prices.contains_key(part))
    }
}

impl Conditional<'_> {
    fn starts(&self) -> Option<&str> {
        self.constraint.as_ref()?.start_date.as_deref()
    }

    fn holds(&self, day: &str) -> bool {
        self.starts().is_none_or(|from| from <= day)
    }

    /// The hours of the UTC day in which it holds, if only in some.
    fn hours(&self) -> Result<Option<(u16, u16)>, String> {
        let Some(Constraint { start_time: Some(from), end_time: Some(to), .. }) = &self.constraint
        else {
            return Ok(None);
        };
        let minute = |time: &str| {
            let utc = time.ends_with("+00:00") || time.ends_with('Z') || time.len() <= 8;
            let hour = time.get(0..2)?.parse::<u16>().ok()?;
            let minute = time.get(3..5)?.parse::<u16>().ok()?;
            (utc && hour < 24 && minute < 60).then_some(hour * 60 + minute)
        };
        match (minute(from), minute(to)) {
            (Some(from), Some(to)) => Ok(Some((from, to))),
            _ => Err(format!("its hours {from} to {to} are not whole minutes of the UTC day")),
        }
    }

    /// The service tier of a variant; `None` for the standard one, and with a note for one that a
    /// row cannot say.
    fn tier(&self, notes: &mut Vec<String>) -> Option<ServiceTier> {
        let mut when = self.when.iter();
        let (key, value) = when.next()?;
        let tier = match key.as_str() {
            "service_tier" | "processing" if when.next().is_none() => ServiceTier::from_word(value),
            _ => ServiceTier::Unknown,
        };
        match tier {
            ServiceTier::Standard => None,
            ServiceTier::Unknown => {
                notes.push(format!("not carried: the price where {key} is {value}"));
                None
            }
            tier => Some(tier),
        }
    }
}

/// The parts of a price; one that replaces the price of tokens is an error, one for what is
/// refused anyway a note.
fn parts(named: &Named<'_>, fees: &mut Fees, notes: &mut Vec<String>) -> Result<Parts, String> {
    let mut parts = Parts::default();
    for (name, raw) in named {
        let bucket = match name.as_str() {
            "input_mtok" => Bucket::Input,
            "cache_read_mtok" => Bucket::CacheRead,
            "cache_write_mtok" | "cache_write_5m_mtok" => Bucket::CacheWrite5m,
            "cache_write_1h_mtok" => Bucket::CacheWrite1h,
            "output_mtok" => Bucket::Output,
            "output_reasoning_mtok" => Bucket::Reasoning,
            "input_image_mtok" => Bucket::Image,
            "input_audio_mtok" => Bucket::Audio,
            "output_audio_mtok" => Bucket::AudioOutput,
            "requests_kcount" => {
                fees.per_request = fee(name, raw)?;
                continue;
            }
            // Asked for by fields and parts that are refused: nothing can cost it. (What a model draws
            // or films it does without being asked: `output_image_mtok` is no such part.)
            SEARCHES
            | "storage_searches_kcount"
            | "cache_audio_read_mtok"
            | "cache_image_read_mtok"
            | "input_video_mtok" => {
                notes.push(format!("not carried: {name}"));
                continue;
            }
            other => return Err(format!("a row cannot say `{other}`")),
        };
        put(&mut parts, bucket, name, raw)?;
    }
    Ok(parts)
}

fn put(parts: &mut Parts, bucket: Bucket, name: &str, raw: &RawValue) -> Result<(), String> {
    let wrong = || format!("`{name}` is no amount");
    let amount = |raw: &RawValue| decimal::read(raw.get(), Scale::Million).ok_or_else(wrong);
    if !raw.get().starts_with('{') {
        parts.put(bucket, 0, amount(raw)?);
        return Ok(());
    }
    let tiered: Tiered<'_> = serde_json::from_str(raw.get()).map_err(|_| wrong())?;
    parts.put(bucket, 0, amount(tiered.base)?);
    for tier in tiered.tiers {
        parts.put(bucket, tier.start, amount(tier.price)?);
    }
    Ok(())
}

fn fee(name: &str, raw: &RawValue) -> Result<PicoUsd, String> {
    let amount = decimal::read(raw.get(), Scale::Thousand).filter(|amount| !amount.rounded);
    amount.map(|amount| amount.pico).ok_or_else(|| format!("`{name}` is no exact amount"))
}
