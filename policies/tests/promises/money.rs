//! Money is exact: what is written is what is read, sums lose nothing, a worst case is one.

use policies::{
    ComputePrice, PicoUsd, PicoUsdTotal, PriceName, RoutePrice, Tier, TokenPrice, TokenRates,
    Usage, WorstCase,
};
use proptest::{collection, prelude::*};
use std::{sync::Arc, time::Duration};

const NAME: PriceName<'_> = PriceName { provider: "p", model: "m", effective_from: "2025-01-01" };
const HOUR_NS: u128 = 3_600_000_000_000;

fn any_amount() -> impl Strategy<Value = PicoUsd> {
    prop_oneof![any::<u64>(), 0..5_000_000_000_000_u64].prop_map(PicoUsd::from_pico)
}

prop_compose! {
    fn any_rates()(pico in any::<[u32; 6]>()) -> TokenRates {
        let rate = |ix: usize| PicoUsd::from_pico(u64::from(pico[ix]));
        TokenRates {
            input: rate(0),
            cache_read: rate(1),
            cache_write_5m: rate(2),
            cache_write_1h: rate(3),
            output: rate(4),
            reasoning: rate(5),
        }
    }
}

fn dearer(rates: &TokenRates, by: &TokenRates) -> TokenRates {
    let sum = |a: PicoUsd, b: PicoUsd| a.add(b).expect("small");
    TokenRates {
        input: sum(rates.input, by.input),
        cache_read: sum(rates.cache_read, by.cache_read),
        cache_write_5m: sum(rates.cache_write_5m, by.cache_write_5m),
        cache_write_1h: sum(rates.cache_write_1h, by.cache_write_1h),
        output: sum(rates.output, by.output),
        reasoning: sum(rates.reasoning, by.reasoning),
    }
}

prop_compose! {
    /// A price whose tiers begin where prompts of these tests do.
    fn any_price()(
        base in any_rates(),
        steps in collection::vec((1..2_000_u64, any_rates()), 0..3),
        fee in 0..1_000_000_u64,
    ) -> TokenPrice {
        let mut tiers: Vec<Tier> = Vec::new();
        let (mut bound, mut rates) = (0, base);
        for (step, more) in steps {
            bound += step;
            rates = dearer(&rates, &more);
            tiers.push(Tier { above_prompt_tokens: bound, rates });
        }
        TokenPrice::new(NAME, base, tiers, PicoUsd::from_pico(fee)).expect("ascending tiers")
    }
}

prop_compose! {
    fn any_usage()(tokens in collection::vec(0..1_500_u64, 6)) -> Usage {
        Usage {
            input: tokens[0],
            cache_read: tokens[1],
            cache_write_5m: tokens[2],
            cache_write_1h: tokens[3],
            output: tokens[4],
            reasoning: tokens[5],
        }
    }
}

fn bounds(prompt_tokens: u64, output_tokens: u64, choices: u64) -> WorstCase {
    WorstCase { prompt_tokens, output_tokens, choices, engine_time: Duration::ZERO }
}

proptest! {
    #[test]
    fn an_amount_is_read_as_it_was_written(amount in any_amount()) {
        prop_assert_eq!(amount.to_string().parse::<PicoUsd>(), Ok(amount));
        let json = serde_json::to_string(&amount).expect("written");
        prop_assert_eq!(&json, &format!("\"{amount}\""));
        prop_assert_eq!(serde_json::from_str::<PicoUsd>(&json).expect("read"), amount);
    }

    #[test]
    fn a_total_is_read_as_it_was_written(pico in any::<u128>()) {
        let total = PicoUsdTotal::from_pico(pico);
        prop_assert_eq!(total.to_string().parse::<PicoUsdTotal>(), Ok(total));
    }

    #[test]
    fn places_may_be_left_out_and_added_without_a_change(usd in 0..1_000_000_u64, micro in 0..1_000_000_u64) {
        let amount = PicoUsd::from_pico(usd * 1_000_000_000_000 + micro * 1_000_000);
        prop_assert_eq!(format!("{usd}.{micro:06}").parse(), Ok(amount));
        prop_assert_eq!(format!("0{usd}.{micro:06}00000000").parse(), Ok(amount));
    }

    #[test]
    fn text_is_an_amount_or_an_error_and_never_a_panic(text in "[0-9.+eE_ -]{0,40}|\\PC{0,20}") {
        if let Ok(amount) = text.parse::<PicoUsd>() {
            prop_assert_eq!(amount.to_string().parse(), Ok(amount));
        }
        let _ = PicoUsd::from_usd_per_million(&text);
    }

    #[test]
    fn sums_are_exact(amounts in collection::vec(any_amount(), 0..50)) {
        let total: PicoUsdTotal = amounts.iter().copied().sum();
        let exact: u128 = amounts.iter().map(|amount| u128::from(amount.pico())).sum();
        prop_assert_eq!(total.pico(), exact);
    }

    #[test]
    fn adding_and_multiplying_are_exact_or_an_error(a in any::<u64>(), b in any::<u64>()) {
        let exact = u128::from(a) + u128::from(b);
        let sum = PicoUsd::from_pico(a).add(PicoUsd::from_pico(b));
        prop_assert_eq!(sum.ok().map(|s| u128::from(s.pico())), Some(exact).filter(|e| *e <= u128::from(u64::MAX)));
        let exact = u128::from(a) * u128::from(b);
        let product = PicoUsd::from_pico(a).times(b);
        prop_assert_eq!(product.ok().map(|p| u128::from(p.pico())), Some(exact).filter(|e| *e <= u128::from(u64::MAX)));
    }

    #[test]
    fn a_million_tokens_cost_the_catalogue_price(micro in 0..100_000_000_u64) {
        let text = format!("{}.{:06}", micro / 1_000_000, micro % 1_000_000);
        let each = PicoUsd::from_usd_per_million(&text).expect("exact");
        prop_assert_eq!(each.times(1_000_000), text.parse().map_err(|_| policies::MoneyError));
    }

    #[test]
    fn no_usage_within_the_bounds_costs_more_than_the_worst_case(
        price in any_price(), usage in any_usage(),
        slack in (0..3_000_u64, 0..3_000_u64), choices in 1..4_u64,
    ) {
        let bounds = bounds(
            usage.prompt() + slack.0,
            usage.completion().div_ceil(choices) + slack.1,
            choices,
        );
        prop_assert!(price.worst_case(&bounds).expect("fits") >= price.cost(&usage).expect("fits"));
    }

    #[test]
    fn more_tokens_never_cost_less(price in any_price(), usage in any_usage(), more in any_usage()) {
        let cost = |usage: &Usage| price.cost(usage).expect("fits");
        prop_assert!(cost(&usage.plus(&more)) >= cost(&usage));
    }

    #[test]
    fn wider_bounds_never_hold_less(price in any_price(), a in (0..4_000_u64, 0..4_000_u64), b in (0..4_000_u64, 0..4_000_u64)) {
        let worst = |(prompt, output)| price.worst_case(&bounds(prompt, output, 1)).expect("fits");
        prop_assert!(worst((a.0 + b.0, a.1 + b.1)) >= worst(a));
    }

    #[test]
    fn attempts_cost_the_sum_of_their_buckets(rates in any_rates(), usage in any_usage()) {
        let price = TokenPrice::new(NAME, rates, Vec::new(), PicoUsd::ZERO).expect("no tiers");
        let exact = u128::from(rates.input.pico()) * u128::from(usage.input)
            + u128::from(rates.cache_read.pico()) * u128::from(usage.cache_read)
            + u128::from(rates.cache_write_5m.pico()) * u128::from(usage.cache_write_5m)
            + u128::from(rates.cache_write_1h.pico()) * u128::from(usage.cache_write_1h)
            + u128::from(rates.output.pico()) * u128::from(usage.output)
            + u128::from(rates.reasoning.pico()) * u128::from(usage.reasoning);
        prop_assert_eq!(u128::from(price.cost(&usage).expect("fits").pico()), exact);
    }

    #[test]
    fn engine_time_rounds_half_even(per_hour in any::<u64>(), ns in 0..10_000_000_000_u64) {
        let price = ComputePrice::from_usd_per_hour(PicoUsd::from_pico(per_hour));
        let product = u128::from(per_hour) * u128::from(ns);
        let cost = u128::from(price.cost(Duration::from_nanos(ns)).expect("fits").pico());
        // Never further than half a pico-USD from the exact quotient, and even when it is half.
        let off = (cost * HOUR_NS).abs_diff(product);
        prop_assert!(off * 2 < HOUR_NS || (off * 2 == HOUR_NS && cost.is_multiple_of(2)));
    }

    #[test]
    fn engine_time_within_the_bound_costs_no_more_than_the_worst_case(
        per_hour in any::<u64>(), ns in 0..10_000_000_000_u64, less in 0..10_000_000_000_u64,
    ) {
        let price = RoutePrice::Compute(Arc::new(ComputePrice::from_usd_per_hour(PicoUsd::from_pico(per_hour))));
        let bounds = WorstCase { engine_time: Duration::from_nanos(ns), ..bounds(0, 0, 1) };
        let worst = price.worst_case(&bounds).expect("fits");
        let cost = price.cost(&Usage::default(), Duration::from_nanos(ns.saturating_sub(less)));
        prop_assert!(worst >= cost.expect("fits"));
    }
}

#[test]
fn halves_round_to_the_even_neighbour() {
    // One pico-USD an hour: half an hour is half a pico-USD.
    let cost = |per_hour, halves: u64| {
        let price = ComputePrice::from_usd_per_hour(PicoUsd::from_pico(per_hour));
        price.cost(Duration::from_secs(1_800 * halves)).expect("fits").pico()
    };
    assert_eq!([cost(1, 1), cost(1, 3), cost(1, 5), cost(3, 1)], [0, 2, 2, 2]);
}

#[test]
fn what_is_no_amount_says_so() {
    let error = |text: &str| text.parse::<PicoUsd>().expect_err("no amount").to_string();
    for text in ["", ".", "1.", ".5", "-1", "+1", "1e3", "1,5", " 1", "1 USD", "NaN", "٣"] {
        assert!(error(text).contains("is not an amount in USD"), "{text}");
    }
    assert!(error("0.0000000000001").contains("more than 12 decimal places"));
    assert!(error("18446745").contains("larger than the largest amount, 18446744.073709551615"));
    assert!("18446744.073709551615".parse::<PicoUsd>().is_ok());
    assert!(error("99999999999999999999999999999999999999999").contains("larger than"));
    let rate = PicoUsd::from_usd_per_million("0.0000001").expect_err("too fine").to_string();
    assert!(rate.contains("more than 6 decimal places"), "{rate}");
}

#[test]
fn an_unknown_price_is_neither_free_nor_zero() {
    let unknown = RoutePrice::Unknown;
    assert_eq!(unknown.cost(&Usage { input: 1, ..Usage::default() }, Duration::ZERO), Ok(None));
    assert_eq!(unknown.worst_case(&bounds(1, 1, 1)), Ok(None));
    assert!(!unknown.is_free());
    assert_eq!(unknown.id(), None);
}

#[test]
fn a_cost_that_does_not_fit_is_an_error() {
    let rates = TokenRates { input: PicoUsd::MAX, ..TokenRates::default() };
    let price = TokenPrice::new(NAME, rates, Vec::new(), PicoUsd::ZERO).expect("no tiers");
    assert!(price.cost(&Usage { input: 2, ..Usage::default() }).is_err());
    assert!(price.worst_case(&bounds(2, 0, 1)).is_err());
    assert!(price.worst_case(&bounds(0, u64::MAX, 2)).is_err());
}
