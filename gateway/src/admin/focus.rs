//! FOCUS 1.2, the FinOps Open Cost and Usage Specification: the columns, and an attempt as rows.
//!
//! One row is one charge: an attempt with a known cost for which something is owed. The unit that
//! is priced is the request, because tokens of several kinds have several prices, so that list unit
//! price x quantity is the list cost exactly; what was consumed is counted in tokens.
//! **Invariant:** every mandatory column of FOCUS 1.2 is there, in its own type; what tollgate
//! cannot know (regions, invoices, commitments) is empty; columns of our own begin with `x_`.

use crate::{
    admin::{export::word, times::second},
    ledger::{Adjustments, Attempt, Entry, signed},
};
use policies::PriceId;
use serde_json::{Map, Value, json};

/// Columns, in the order in which they are written.
pub(super) const COLUMNS: [&str; 57] = [
    "AvailabilityZone",
    "BilledCost",
    "BillingAccountId",
    "BillingAccountName",
    "BillingAccountType",
    "BillingCurrency",
    "BillingPeriodEnd",
    "BillingPeriodStart",
    "CapacityReservationId",
    "CapacityReservationStatus",
    "ChargeCategory",
    "ChargeClass",
    "ChargeDescription",
    "ChargeFrequency",
    "ChargePeriodEnd",
    "ChargePeriodStart",
    "CommitmentDiscountCategory",
    "CommitmentDiscountId",
    "CommitmentDiscountName",
    "CommitmentDiscountQuantity",
    "CommitmentDiscountStatus",
    "CommitmentDiscountType",
    "CommitmentDiscountUnit",
    "ConsumedQuantity",
    "ConsumedUnit",
    "ContractedCost",
    "ContractedUnitPrice",
    "EffectiveCost",
    "InvoiceId",
    "InvoiceIssuerName",
    "ListCost",
    "ListUnitPrice",
    "PricingCategory",
    "PricingCurrency",
    "PricingQuantity",
    "PricingUnit",
    "ProviderName",
    "PublisherName",
    "RegionId",
    "RegionName",
    "ResourceId",
    "ResourceName",
    "ResourceType",
    "ServiceCategory",
    "ServiceName",
    "ServiceSubcategory",
    "SkuId",
    "SkuMeter",
    "SkuPriceDetails",
    "SkuPriceId",
    "SubAccountId",
    "SubAccountName",
    "SubAccountType",
    "Tags",
    "x_RequestId",
    "x_Attempt",
    "x_AvoidedCost",
];

/// What a row charges.
struct Charge<'a> {
    /// US dollars; of a correction with its sign.
    cost: String,
    /// The price row.
    price: Option<&'a PriceId>,
    /// Whether it corrects a charge that stands in a row of its own.
    corrects: bool,
}

/// The charges of a request that ended at `ended_ms`, and the corrections of them: what an attempt
/// costs now less what it was booked with. A cost that was unknown when it was booked is no
/// correction: it is the charge.
pub(super) fn rows(ended_ms: u64, entry: &Entry, adjusted: &Adjustments) -> Vec<Vec<String>> {
    let attempts = entry.attempts.iter().enumerate();
    let mut rows = Vec::new();
    for (index, attempt) in attempts.filter(|(_, attempt)| !attempt.voided) {
        let now = adjusted.of(entry.id, index);
        let (cost, price) = match (attempt.cost, now) {
            (None, Some(now)) => (now.cost, now.price.as_ref()),
            (booked, _) => (booked, attempt.price.as_ref()),
        };
        let Some(cost) = cost else { continue };
        let charge = Charge { cost: cost.to_string(), price, corrects: false };
        rows.push(cells(ended_ms, entry, (index, attempt), &charge));
        let corrected = attempt.cost.zip(now.and_then(|now| now.cost));
        if let (Some((booked, cost)), Some(now)) = (corrected.filter(|(a, b)| a != b), now) {
            let cost = signed(booked.pico().into(), cost.pico().into());
            let charge = Charge { cost, price: now.price.as_ref(), corrects: true };
            rows.push(cells(ended_ms, entry, (index, attempt), &charge));
        }
    }
    rows
}

fn cells(
    ended_ms: u64,
    entry: &Entry,
    (index, attempt): (usize, &Attempt),
    charge: &Charge<'_>,
) -> Vec<String> {
    let (month, next_month) = months(ended_ms);
    // A period ends after it begins, and has whole seconds.
    let from = entry.arrived_unix_ms.min(ended_ms) / 1_000 * 1_000;
    let to = (ended_ms / 1_000 + 1) * 1_000;
    let Charge { cost, price, corrects } = charge;
    // A correction has neither a quantity nor a unit price of its own.
    let unless = |text: &str| if *corrects { String::new() } else { text.to_owned() };
    let model = format!("{}/{}", attempt.provider, attempt.model);
    let tokens = attempt.usage.map(|usage| usage.total().to_string());
    let consumed = if tokens.is_some() { "Tokens" } else { "" };
    COLUMNS
        .iter()
        .map(|column| match *column {
            "BilledCost" | "ContractedCost" | "EffectiveCost" | "ListCost" => cost.clone(),
            "ContractedUnitPrice" | "ListUnitPrice" => unless(cost),
            "BillingAccountId" | "BillingAccountName" => attempt.provider.clone(),
            "InvoiceIssuerName" | "ProviderName" | "PublisherName" => attempt.provider.clone(),
            "BillingAccountType" => "Provider".to_owned(),
            "BillingCurrency" | "PricingCurrency" => "USD".to_owned(),
            "BillingPeriodStart" => month.clone(),
            "BillingPeriodEnd" => next_month.clone(),
            "ChargeCategory" => "Usage".to_owned(),
            "ChargeClass" if *corrects => "Correction".to_owned(),
            "ChargeDescription" if *corrects => {
                format!("Correction of {} on {model}", word(&entry.endpoint))
            }
            "ChargeDescription" => format!("{} on {model}", word(&entry.endpoint)),
            "ChargeFrequency" => "Usage-Based".to_owned(),
            "ChargePeriodStart" => second(from),
            "ChargePeriodEnd" => second(to),
            "ConsumedQuantity" => unless(tokens.as_deref().unwrap_or_default()),
            "ConsumedUnit" => unless(consumed),
            "PricingCategory" => "Standard".to_owned(),
            "PricingQuantity" => unless("1"),
            "PricingUnit" => unless("Requests"),
            "ResourceId" => model.clone(),
            "ResourceName" => attempt.model.clone(),
            "ResourceType" => "Model".to_owned(),
            "ServiceCategory" => "AI and Machine Learning".to_owned(),
            "ServiceName" => word(&entry.endpoint),
            "ServiceSubcategory" => "Generative AI".to_owned(),
            "SkuId" => model.clone(),
            "SkuMeter" => "Requests".to_owned(),
            // A free route has no row of prices.
            "SkuPriceId" => {
                price.map_or_else(|| format!("{model}/free"), |price| price.0.to_string())
            }
            "SubAccountId" | "SubAccountName" => entry.key.to_string(),
            "SubAccountType" => "Key".to_owned(),
            "Tags" => tags(entry, attempt),
            "x_RequestId" => entry.id.to_string(),
            "x_Attempt" => index.to_string(),
            "x_AvoidedCost" if !*corrects => {
                attempt.avoided_cost.map(|cost| cost.to_string()).unwrap_or_default()
            }
            _ => String::new(),
        })
        .collect()
}

fn tags(entry: &Entry, attempt: &Attempt) -> String {
    let mut tags = Map::new();
    let named = [("user", &entry.user), ("team", &entry.team), ("session", &entry.session)];
    for (name, value) in named {
        if let Some(value) = value {
            tags.insert(name.to_owned(), json!(value));
        }
    }
    tags.insert("route".to_owned(), json!(attempt.route));
    tags.insert("rule".to_owned(), json!(entry.decision.rule));
    for tag in &entry.tags {
        tags.insert(format!("tag/{tag}"), Value::from("true"));
    }
    Value::Object(tags).to_string()
}

/// The month (UTC) of a time, and the next one: their first seconds.
fn months(unix_ms: u64) -> (String, String) {
    let time =
        i64::try_from(unix_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let month = time.unwrap_or(jiff::Timestamp::MAX).to_zoned(jiff::tz::TimeZone::UTC).date();
    let first = month.first_of_month();
    let next = first.saturating_add(jiff::Span::new().months(1));
    let shown = |date: jiff::civil::Date| date.strftime("%Y-%m-%dT00:00:00Z").to_string();
    (shown(first), shown(next))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What FOCUS 1.2 demands of every dataset (chapter 3, "Mandatory" columns).
    const MANDATORY: [&str; 27] = [
        "BilledCost",
        "BillingAccountId",
        "BillingAccountName",
        "BillingCurrency",
        "BillingPeriodEnd",
        "BillingPeriodStart",
        "ChargeCategory",
        "ChargeClass",
        "ChargeDescription",
        "ChargePeriodEnd",
        "ChargePeriodStart",
        "ContractedCost",
        "EffectiveCost",
        "InvoiceIssuerName",
        "ListCost",
        "PricingQuantity",
        "PricingUnit",
        "ProviderName",
        "PublisherName",
        "ServiceCategory",
        "ServiceName",
        "ConsumedQuantity",
        "ConsumedUnit",
        "ListUnitPrice",
        "ContractedUnitPrice",
        "SkuId",
        "SkuPriceId",
    ];

    #[test]
    fn every_mandatory_column_of_focus_is_there_once_and_our_own_are_marked() {
        for column in MANDATORY {
            assert!(COLUMNS.contains(&column), "{column}");
        }
        let mut sorted = COLUMNS.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        assert_eq!(sorted.len(), COLUMNS.len());
        let ours = COLUMNS.iter().filter(|column| column.starts_with("x_")).count();
        assert_eq!(ours, 3);
    }

    #[test]
    fn a_billing_period_is_the_month_in_utc() {
        let (from, to) = months(1_798_761_599_000);
        assert_eq!((from.as_str(), to.as_str()), ("2026-12-01T00:00:00Z", "2027-01-01T00:00:00Z"));
    }
}
