//! From a written price to the price of a route. An unknown price is said at start and stays
//! [`RoutePrice::Unknown`], never zero.

use super::{
    error::Finding,
    written::{Cloud, Money, Price, Rates},
};
use policies::{ComputePrice, PicoUsd, PriceId, RoutePrice, TokenPrice, TokenRates};
use std::sync::Arc;
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
    if pico % TOKENS != 0 {
        let message = "a rate per million tokens has at most 6 decimal places";
        return Err(Finding::at(per_million.span(), message));
    }
    Ok(PicoUsd::from_pico(pico / TOKENS))
}

/// The price of a local route.
pub(super) fn compute(usd_per_hour: Option<&Spanned<Money>>) -> Result<RoutePrice, Finding> {
    let Some(written) = usd_per_hour else { return Ok(RoutePrice::Unknown) };
    let per_hour = written.get_ref().0;
    let id = id(&format!("compute {}", per_hour.pico()));
    Ok(RoutePrice::Compute(Arc::new(ComputePrice { id, per_hour })))
}

/// The price of a cloud route.
pub(super) fn of_cloud(written: &Cloud) -> Result<RoutePrice, Finding> {
    let Some(Price::Inline(inline)) = written.price.as_ref().map(Spanned::get_ref) else {
        return Ok(RoutePrice::Unknown);
    };
    let base = rates(inline)?;
    let per_request = inline.per_request_usd.map_or(PicoUsd::ZERO, |money| money.0);
    let id = id(&format!("inline {base:?} {per_request}"));
    Ok(RoutePrice::Tokens(Arc::new(TokenPrice { id, base, tiers: Vec::new(), per_request })))
}

fn id(canonical: &str) -> PriceId {
    let hex = blake3::hash(canonical.as_bytes()).to_hex();
    PriceId(Arc::from(hex.get(..16).unwrap_or_default()))
}
