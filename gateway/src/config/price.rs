//! From a written price to the price of a route. An unknown price is said at start and stays
//! [`RoutePrice::Unknown`], never zero.

use super::{
    error::Finding,
    written::{Cloud, Money, Price, Prices, Rates},
};
use policies::{ComputePrice, PicoUsd, PriceList, PriceName, RoutePrice, TokenPrice, TokenRates};
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

/// The price of a local route.
pub(super) fn of_local(usd_per_hour: Option<Money>) -> RoutePrice {
    usd_per_hour.map_or(RoutePrice::Unknown, |per_hour| {
        RoutePrice::Compute(Arc::new(ComputePrice::from_usd_per_hour(per_hour.0)))
    })
}

/// The price of a cloud route: its own rates, the row it names, or the row of its provider and
/// model.
pub(super) fn of_cloud(
    written: &Cloud,
    prices: &PriceList,
    today: &str,
) -> Result<RoutePrice, Finding> {
    let (provider, model) = (written.provider.get_ref(), written.model.get_ref());
    let found = match written.price.as_ref().map(|price| (price.span(), price.get_ref())) {
        None => prices.find(provider, model, today),
        Some((span, Price::Listed(name))) => {
            let Some((provider, model)) = name.split_once('/') else {
                let message = "a row of the price list is named \"provider/model\"";
                return Err(Finding::at(span, message));
            };
            prices.find(provider, model, today)
        }
        Some((span, Price::Inline(inline))) => {
            let per_request = inline.per_request_usd.map_or(PicoUsd::ZERO, |money| money.0);
            let name = PriceName { provider, model, effective_from: "configured" };
            let price = TokenPrice::new(name, rates(inline)?, Vec::new(), per_request)
                .map_err(|error| Finding::at(span, error.to_string()))?;
            Some(Arc::new(price))
        }
    };
    Ok(found.map_or(RoutePrice::Unknown, RoutePrice::Tokens))
}

/// The shipped list, with the operator's rows over it.
pub(super) fn list(written: &Prices, base: &Path) -> Result<PriceList, Finding> {
    let shipped = PriceList::shipped();
    let Some(file) = &written.file else { return Ok(shipped) };
    let path = base.join(file.get_ref());
    let wrong = |why: String| Finding::at(file.span(), why);
    let text = std::fs::read_to_string(&path)
        .map_err(|error| wrong(format!("{}: {error}", path.display())))?;
    let own = PriceList::parse(&path.display().to_string(), &text)
        .map_err(|error| wrong(error.to_string()))?;
    Ok(shipped.merge(own))
}
