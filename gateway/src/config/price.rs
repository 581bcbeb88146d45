//! From a written price to the price of a route. An unknown price is said at start and stays
//! [`RoutePrice::Unknown`], never zero.

use super::{
    check,
    error::{Finding, FromEnv, closest},
    written::{Money, Prices},
    written_routes::{Cloud, Local, Price, Rates},
};
use policies::{
    ComputePrice, Fees, PicoUsd, Power, PriceList, PriceName, Pricing, RateTable, RoutePrice,
    RowRates, TokenPrice, TokenRates,
};
use std::{path::Path, sync::Arc};
use toml::Spanned;

/// Tokens to which a written rate refers.
const TOKENS: u64 = 1_000_000;

/// The rates of `[routes.<name>.price]`, per token.
pub(super) fn rates(written: &Rates) -> Result<TokenRates, Finding> {
    let input = per_token(&written.input)?;
    let output = per_token(&written.output)?;
    let or = |rate: &Option<Spanned<Money>>, otherwise: PicoUsd| match rate {
        Some(rate) => per_token(rate),
        None => Ok(otherwise),
    };
    Ok(TokenRates {
        input,
        // A provider that names no price for a bucket charges it like any other token.
        cache_read: or(&written.cache_read, input)?,
        cache_write_5m: or(&written.cache_write_5m, input)?,
        cache_write_1h: or(&written.cache_write_1h, input)?,
        output,
        reasoning: or(&written.reasoning, output)?,
        image: or(&written.image, input)?,
        audio: or(&written.audio, input)?,
        audio_output: or(&written.audio_output, output)?,
    })
}

fn per_token(per_million: &Spanned<Money>) -> Result<PicoUsd, Finding> {
    let pico = per_million.get_ref().0.pico();
    if !pico.is_multiple_of(TOKENS) {
        let message = "a rate per million tokens has at most 6 decimal places";
        return Err(Finding::at(per_million.span(), message));
    }
    Ok(PicoUsd::from_pico(pico / TOKENS))
}

/// The price of a local route: the machine's hour, and the power of a working engine.
pub(super) fn of_local(written: &Local) -> Result<Pricing, Finding> {
    let power = match (&written.watts, &written.usd_per_kwh) {
        (None, None) => None,
        (Some(watts), Some(usd_per_kwh)) => Some(Power {
            milliwatts: u64::from(watts.get_ref().get()) * 1000,
            usd_per_kwh: usd_per_kwh.get_ref().0,
        }),
        (Some(watts), None) => {
            let message = "`watts` has no price without `usd_per_kwh`";
            return Err(Finding::at(watts.span(), message));
        }
        (None, Some(usd_per_kwh)) => {
            let message = "`usd_per_kwh` prices nothing without `watts`";
            return Err(Finding::at(usd_per_kwh.span(), message));
        }
    };
    let machine = written.usd_per_hour.map(|per_hour| per_hour.0);
    let price = match (machine, power) {
        (None, None) => return Ok(Pricing::Always(RoutePrice::Unknown)),
        (Some(per_hour), None) => ComputePrice::from_usd_per_hour(per_hour),
        (machine, Some(power)) => ComputePrice::with_power(machine.unwrap_or(PicoUsd::ZERO), power)
            .map_err(|error| {
                let span = written.usd_per_kwh.as_ref().map(Spanned::span);
                Finding { span, message: format!("`watts` x `usd_per_kwh`: {error}") }
            })?,
    };
    Ok(Pricing::Always(RoutePrice::Compute(Arc::new(price))))
}

/// The price of a cloud route: its own rates, the rows it names, or the rows of its provider and
/// model.
pub(super) fn of_cloud(
    written: &Cloud,
    provider: &str,
    prices: &PriceList,
) -> Result<Pricing, Finding> {
    let model = written.model.get_ref();
    let found = match written.price.as_ref().map(|price| (price.span(), price.get_ref())) {
        None => prices.dated(provider, model),
        Some((span, Price::Listed(name))) => {
            let Some((provider, model)) = name.split_once('/') else {
                let message = "a row of the price list is named \"provider/model\"";
                return Err(Finding::at(span, message));
            };
            prices.dated(provider, model)
        }
        Some((span, Price::Inline(inline))) => {
            let per_request = inline.per_request_usd.map_or(PicoUsd::ZERO, |money| money.0);
            let name = PriceName { provider, model, effective_from: "configured" };
            let per_image = inline.per_image_usd.map_or(PicoUsd::ZERO, |money| money.0);
            let rates = RowRates {
                standard: RateTable { base: rates(inline)?, tiers: Vec::new() },
                fees: Fees { per_request, per_image },
                ..RowRates::default()
            };
            let price = TokenPrice::new(name, rates)
                .map_err(|error| Finding::at(span, error.to_string()))?;
            return Ok(Pricing::Always(RoutePrice::Tokens(Arc::new(price))));
        }
    };
    Ok(found.map_or(Pricing::Always(RoutePrice::Unknown), |dated| Pricing::Dated(Arc::new(dated))))
}

/// What is said of a route whose `price` names a row that is not there.
pub(super) fn unlisted(written: &Cloud, prices: &PriceList) -> Option<String> {
    let Price::Listed(name) = written.price.as_ref()?.get_ref() else { return None };
    let (provider, model) = name.split_once('/')?;
    if prices.dated(provider, model).is_some() {
        return None;
    }
    let names: Vec<String> =
        prices.rows().iter().map(|row| format!("{}/{}", row.provider, row.model)).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let hint = closest(name, &names).map(|near| format!("; did you mean {near:?}?"));
    Some(format!("its `price` names no row of the price list{}", hint.unwrap_or_default()))
}

/// The shipped list, with the operator's rows over it.
pub(super) fn list(
    written: &Prices,
    base: &Path,
    from_env: &FromEnv,
) -> Result<PriceList, Finding> {
    let shipped = PriceList::shipped();
    let Some(file) = &written.file else { return Ok(shipped) };
    let path = base.join(check::path(file, "`file` of [prices]", from_env)?);
    let wrong = |why: String| Finding::at(file.span(), why);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    let own = PriceList::parse(&path.display().to_string(), &text)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(shipped.merge(own))
}
