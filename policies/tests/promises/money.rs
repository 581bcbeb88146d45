//! Money is exact: what is written is what is read, sums lose nothing, a worst case is one.

use policies::{
    ComputePrice, Fees, HoursRates, PicoUsd, PicoUsdTotal, Power, PriceList, PriceName, PriceRow,
    RateTable, RoutePrice, RowRates, ServiceTier, Tier, TokenPrice, TokenRates, Usage, Used,
    WorstCase, write_rows,
};
use proptest::{collection, prelude::*};
use std::{sync::Arc, time::Duration};

const NAME: PriceName<'_> = PriceName { provider: "p", model: "m", effective_from: "2025-01-01" };
const TIERS: [ServiceTier; 4] =
    [ServiceTier::Batch, ServiceTier::Flex, ServiceTier::Priority, ServiceTier::Fast];
const ALL_TIERS: [ServiceTier; 6] = [
    ServiceTier::Standard,
    ServiceTier::Batch,
    ServiceTier::Flex,
    ServiceTier::Priority,
    ServiceTier::Fast,
    ServiceTier::Unknown,
];
const HOUR_NS: u128 = 3_600_000_000_000;

fn any_amount() -> impl Strategy<Value = PicoUsd> {
    prop_oneof![any::<u64>(), 0..5_000_000_000_000_u64].prop_map(PicoUsd::from_pico)
}

prop_compose! {
    fn any_rates()(pico in any::<[u32; 9]>()) -> TokenRates {
        let rate = |ix: usize| PicoUsd::from_pico(u64::from(pico[ix]));
        TokenRates {
            input: rate(0),
            cache_read: rate(1),
            cache_write_5m: rate(2),
            cache_write_1h: rate(3),
            output: rate(4),
            reasoning: rate(5),
            image: rate(6),
            audio: rate(7),
            audio_output: rate(8),
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
        image: sum(rates.image, by.image),
        audio: sum(rates.audio, by.audio),
        audio_output: sum(rates.audio_output, by.audio_output),
    }
}

prop_compose! {
    /// Rates whose tiers begin where prompts of these tests do.
    fn any_table()(
        base in any_rates(),
        steps in collection::vec((1..2_000_u64, any_rates()), 0..3),
    ) -> RateTable {
        let mut tiers: Vec<Tier> = Vec::new();
        let (mut bound, mut rates) = (0, base);
        for (step, more) in steps {
            bound += step;
            rates = dearer(&rates, &more);
            tiers.push(Tier { above_prompt_tokens: bound, rates });
        }
        RateTable::new(base, tiers).expect("ascending tiers")
    }
}

prop_compose! {
    /// A price with hours and service tiers of its own.
    fn any_price()(
        standard in any_table(),
        hours in collection::vec((0..1_440_u16, 1..1_440_u16, any_table()), 0..3),
        services in collection::vec(any_table(), 0..=4),
        fees in (0..1_000_000_u64, 0..1_000_000_u64),
    ) -> TokenPrice {
        let hours = hours.into_iter().map(|(from_minute, length, rates)| HoursRates {
            from_minute,
            to_minute: (from_minute + length) % 1_440,
            rates,
        });
        let (per_request, per_image) = (PicoUsd::from_pico(fees.0), PicoUsd::from_pico(fees.1));
        let rates = RowRates {
            standard,
            hours: hours.collect(),
            services: TIERS.into_iter().zip(services).collect(),
            fees: Fees { per_request, per_image },
        };
        TokenPrice::new(NAME, rates).expect("a sound price")
    }
}

fn plain(base: TokenRates) -> TokenPrice {
    let standard = RateTable { base, tiers: Vec::new() };
    TokenPrice::new(NAME, RowRates { standard, ..RowRates::default() }).expect("a sound price")
}

prop_compose! {
    fn any_use()(
        usage in any_usage(), tier in 0..6_usize, images in 0..5_u32, at_unix_s in 0..4_000_000_000_u64,
    ) -> Used {
        Used { usage, service: ALL_TIERS[tier], images, at_unix_s, ..Used::default() }
    }
}

prop_compose! {
    fn any_usage()(tokens in collection::vec(0..1_500_u64, 9)) -> Usage {
        Usage {
            input: tokens[0],
            cache_read: tokens[1],
            cache_write_5m: tokens[2],
            cache_write_1h: tokens[3],
            output: tokens[4],
            reasoning: tokens[5],
            image: tokens[6],
            audio: tokens[7],
            audio_output: tokens[8],
        }
    }
}

fn bounds(prompt_tokens: u64, output_tokens: u64, choices: u64) -> WorstCase {
    WorstCase { prompt_tokens, output_tokens, choices, ..WorstCase::default() }
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
        price in any_price(), used in any_use(),
        slack in (0..3_000_u64, 0..3_000_u64), choices in 1..4_u64,
    ) {
        let (prompt, output) = (used.usage.prompt(), used.usage.completion().div_ceil(choices));
        let bounds = WorstCase {
            service: used.service,
            images: used.images,
            ..bounds(prompt + slack.0, output + slack.1, choices)
        };
        prop_assert!(price.worst_case(&bounds).expect("fits") >= price.cost(&used).expect("fits"));
    }

    #[test]
    fn more_tokens_never_cost_less(price in any_price(), used in any_use(), more in any_usage()) {
        let cost = |used: &Used| price.cost(used).expect("fits");
        let longer = Used { usage: used.usage.plus(&more), ..used };
        prop_assert!(cost(&longer) >= cost(&used));
    }

    #[test]
    fn the_parts_sum_to_the_cost(price in any_price(), used in any_use()) {
        let parts = price.parts(&used).expect("fits");
        let sum: PicoUsdTotal = parts.iter().map(|(_, part)| *part).sum();
        prop_assert_eq!(sum, PicoUsdTotal::from(price.cost(&used).expect("fits")));
    }

    #[test]
    fn a_tier_that_nobody_knows_costs_as_much_as_the_dearest(price in any_price(), used in any_use()) {
        let cost = |service| price.cost(&Used { service, ..used }).expect("fits");
        let unknown = cost(ServiceTier::Unknown);
        for tier in ALL_TIERS {
            prop_assert!(price.services.is_empty() || unknown >= cost(tier), "{:?}", tier);
        }
    }

    #[test]
    fn a_written_row_reads_back_as_the_same_row(price in any_price()) {
        let row = PriceRow {
            provider: "p".to_owned(),
            model: "m".to_owned(),
            effective_from: "2025-01-01".to_owned(),
            snapshots: true,
            source: "a \"source\"".to_owned(),
            source_date: "2025-01-02".to_owned(),
            price: Arc::new(price),
        };
        let text = write_rows(std::slice::from_ref(&row));
        let list = PriceList::parse("written", &text).map_err(|error| TestCaseError::fail(format!("{error}\n{text}")))?;
        prop_assert_eq!(list.rows(), &[row]);
    }

    #[test]
    fn wider_bounds_never_hold_less(price in any_price(), a in (0..4_000_u64, 0..4_000_u64), b in (0..4_000_u64, 0..4_000_u64)) {
        let worst = |(prompt, output)| price.worst_case(&bounds(prompt, output, 1)).expect("fits");
        prop_assert!(worst((a.0 + b.0, a.1 + b.1)) >= worst(a));
    }

    #[test]
    fn attempts_cost_the_sum_of_their_buckets(rates in any_rates(), usage in any_usage()) {
        let price = plain(rates);
        let exact = u128::from(rates.input.pico()) * u128::from(usage.input)
            + u128::from(rates.cache_read.pico()) * u128::from(usage.cache_read)
            + u128::from(rates.cache_write_5m.pico()) * u128::from(usage.cache_write_5m)
            + u128::from(rates.cache_write_1h.pico()) * u128::from(usage.cache_write_1h)
            + u128::from(rates.output.pico()) * u128::from(usage.output)
            + u128::from(rates.reasoning.pico()) * u128::from(usage.reasoning)
            + u128::from(rates.image.pico()) * u128::from(usage.image)
            + u128::from(rates.audio.pico()) * u128::from(usage.audio)
            + u128::from(rates.audio_output.pico()) * u128::from(usage.audio_output);
        let cost = price.cost(&Used::tokens(usage)).expect("fits");
        prop_assert_eq!(u128::from(cost.pico()), exact);
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
        let engine_time = Duration::from_nanos(ns.saturating_sub(less));
        let cost = price.cost(&Used { engine_time, ..Used::default() });
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
fn watts_are_priced_by_the_kilowatt_hour_and_idling_costs_the_machine_alone() {
    let usd = |text: &str| text.parse::<PicoUsd>().expect("an amount");
    let power = Power { milliwatts: 65_000, usd_per_kwh: usd("0.30") };
    let price = ComputePrice::with_power(usd("0.05"), power).expect("fits");
    assert_eq!(price.per_hour, usd("0.0695"));
    assert_eq!(price.power_per_hour, usd("0.0195"));
    assert_eq!(price.cost(Duration::from_secs(60)), Ok(usd("0.001158333333")));
    assert_eq!(price.idle_cost(Duration::from_secs(1_800)), Ok(usd("0.025")));
    assert_ne!(price.id, ComputePrice::from_usd_per_hour(usd("0.0695")).id);
    let too_much = Power { milliwatts: u64::MAX, usd_per_kwh: PicoUsd::MAX };
    assert!(ComputePrice::with_power(PicoUsd::ZERO, too_much).is_err());
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
    let used = Used::tokens(Usage { input: 1, ..Usage::default() });
    assert_eq!(unknown.cost(&used), Ok(None));
    assert_eq!(unknown.worst_case(&bounds(1, 1, 1)), Ok(None));
    assert!(!unknown.is_free());
    assert_eq!(unknown.id(), None);
}

#[test]
fn a_cost_that_does_not_fit_is_an_error() {
    let rates = TokenRates { input: PicoUsd::MAX, ..TokenRates::default() };
    let price = plain(rates);
    assert!(price.cost(&Used::tokens(Usage { input: 2, ..Usage::default() })).is_err());
    assert!(price.worst_case(&bounds(2, 0, 1)).is_err());
    assert!(price.worst_case(&bounds(0, u64::MAX, 2)).is_err());
}
