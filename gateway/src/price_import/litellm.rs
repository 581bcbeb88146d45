//! LiteLLM's price map: an object of models, each with costs per token under names that say the
//! bucket, the length of the prompt and the service tier.

use super::{
    Imported, Model, Origin, Period,
    decimal::{self, Scale},
    our_name,
    parts::{Bucket, Parts},
};
use policies::{Fees, RowRates, ServiceTier};
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// The fee for searches, which most models do only where they are asked to.
const SEARCHES: &str = "search_context_cost_per_query";

/// The fields of one model.
type Fields<'a> = BTreeMap<String, &'a RawValue>;

/// What a field's name says.
struct Meaning {
    bucket: Bucket,
    above: u64,
    tier: ServiceTier,
}

/// Reads the map. `sample_spec` documents the fields and is no model.
pub(super) fn read(text: &str, origin: &Origin) -> Result<Imported, serde_json::Error> {
    let models: BTreeMap<String, Fields<'_>> = serde_json::from_str(text)?;
    let mut all = Imported::default();
    for (key, fields) in models.iter().filter(|(key, _)| *key != "sample_spec") {
        let theirs = word(fields, "litellm_provider").unwrap_or("unknown");
        let provider = our_name(theirs);
        if !origin.wants(provider) {
            continue;
        }
        // A route prefix is not the provider's own name.
        let prefix = format!("{theirs}/");
        let name = key.strip_prefix(&prefix).unwrap_or(key).to_owned();
        let mut notes = Vec::new();
        match rates(fields, &mut notes) {
            Ok((rates, rounded)) => {
                let periods = vec![Period { from: origin.effective_from.clone(), rates, rounded }];
                let source = match word(fields, "source") {
                    Some(page) => format!("{page} by way of {}", origin.source),
                    None => origin.source.clone(),
                };
                let (provider, names) = (provider.to_owned(), vec![name]);
                let (snapshots, search_fee) = (false, fields.contains_key(SEARCHES));
                let model =
                    Model { provider, names, snapshots, source, periods, search_fee, notes };
                all.add(model, origin);
            }
            Err(why) => {
                notes.push(why);
                all.refuse(provider, &[name], notes);
            }
        }
    }
    Ok(all)
}

fn word<'a>(fields: &Fields<'a>, name: &str) -> Option<&'a str> {
    let text = fields.get(name)?.get();
    text.strip_prefix('"')?.strip_suffix('"').filter(|text| !text.contains('\\'))
}

fn rates(fields: &Fields<'_>, notes: &mut Vec<String>) -> Result<(RowRates, bool), String> {
    let outputs = match word(fields, "mode") {
        None | Some("chat" | "completion" | "responses") => true,
        Some("embedding") => false,
        Some(mode) => return Err(format!("its mode is `{mode}`, which is not served")),
    };
    let mut fees = Fees::default();
    let mut by_tier: BTreeMap<ServiceTier, Parts> = BTreeMap::new();
    for (name, raw) in fields {
        let amount =
            |scale| decimal::read(raw.get(), scale).ok_or_else(|| format!("`{name}` is no amount"));
        if raw.get() == "null" || !name.contains("cost") && name != "tiered_pricing" {
            continue;
        }
        match name.as_str() {
            "input_cost_per_request" => fees.per_request = amount(Scale::One)?.pico,
            "input_cost_per_image" => fees.per_image = amount(Scale::One)?.pico,
            _ => match meaning(name) {
                Some(Meaning { bucket, above, tier }) => {
                    by_tier.entry(tier).or_default().put(bucket, above, amount(Scale::One)?);
                }
                None if is_refused_anyway(name) => notes.push(format!("not carried: {name}")),
                None => return Err(format!("a row cannot say `{name}`")),
            },
        }
    }
    let base = by_tier.remove(&ServiceTier::Standard).unwrap_or_default();
    let mut rounded = base.rounded;
    let standard = base.table(outputs)?;
    let mut services = Vec::new();
    for (tier, parts) in by_tier {
        let parts = parts.over(&base);
        rounded |= parts.rounded;
        services.push((tier, parts.table(outputs)?));
    }
    Ok((RowRates { standard, hours: Vec::new(), services, fees }, rounded))
}

/// `cache_read_input_token_cost_above_200k_tokens_priority` and the like.
fn meaning(name: &str) -> Option<Meaning> {
    let (name, tier) = [
        ("_flex", ServiceTier::Flex),
        ("_priority", ServiceTier::Priority),
        ("_batches", ServiceTier::Batch),
    ]
    .into_iter()
    .find_map(|(ending, tier)| name.strip_suffix(ending).map(|name| (name, tier)))
    .unwrap_or((name, ServiceTier::Standard));
    let (name, above) = match name.split_once("_above_") {
        Some(("cache_creation_input_token_cost", "1hr")) => {
            return Some(Meaning { bucket: Bucket::CacheWrite1h, above: 0, tier });
        }
        Some((name, bound)) if bound.starts_with("1hr_above_") => {
            let bound = bound.strip_prefix("1hr_above_")?.strip_suffix("k_tokens")?;
            let above = bound.parse::<u64>().ok()?.checked_mul(1000)?;
            let known = name == "cache_creation_input_token_cost";
            return known.then_some(Meaning { bucket: Bucket::CacheWrite1h, above, tier });
        }
        Some((name, bound)) => {
            let thousands = bound.strip_suffix("k_tokens")?;
            (name, thousands.parse::<u64>().ok()?.checked_mul(1000)?)
        }
        None => (name, 0),
    };
    let bucket = match name {
        "input_cost_per_token" => Bucket::Input,
        "cache_read_input_token_cost" => Bucket::CacheRead,
        "cache_creation_input_token_cost" => Bucket::CacheWrite5m,
        "output_cost_per_token" => Bucket::Output,
        "output_cost_per_reasoning_token" => Bucket::Reasoning,
        "input_cost_per_image_token" => Bucket::Image,
        "input_cost_per_audio_token" => Bucket::Audio,
        "output_cost_per_audio_token" => Bucket::AudioOutput,
        _ => return None,
    };
    Some(Meaning { bucket, above, tier })
}

/// Costs of what requests here cannot ask for: nothing can cost it. What a model draws or films it does
/// without being asked (`output_cost_per_image`, `output_cost_per_image_token`).
fn is_refused_anyway(name: &str) -> bool {
    let shown = ["output_cost_per_image", "output_cost_per_video"];
    if shown.iter().any(|start| name.starts_with(start)) {
        return false;
    }
    [
        "search",
        "code_interpreter",
        "computer_use",
        "vector_store",
        "video",
        "annotation",
        "audio_token_cost",
        "per_second",
    ]
    .iter()
    .any(|part| name.contains(part))
}
