//! The dated price list: exact rates, the right row for a day, and refused files.

use policies::{PicoUsd, PriceList, Pricing, RoutePrice, ServiceTier, Usage, Used};
use std::sync::Arc;

const LIST: &str = r#"
[[price]]
provider = "acme"
model = "m"
also = ["m-2025"]
effective_from = "2025-03-01"
input = "1.25"
cache_read = "0.125"
output = "10.00"
per_request = "0.01"
source = "https://example.com/prices"
source_date = "2025-03-02"
tiers = [{ above_prompt_tokens = 200000, input = "2.50", cache_read = "0.25", output = "15" }]

[[price]]
provider = "acme"
model = "m"
effective_from = "2026-01-01"
input = "1"
output = "8"
source = "https://example.com/prices"
source_date = "2026-01-01"
"#;

#[track_caller]
fn list(text: &str) -> PriceList {
    PriceList::parse("prices", text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn a_rate_is_the_millionth_part_exactly() {
    let price = list(LIST).find("acme", "m", "2025-06-01").expect("a row");
    assert_eq!(price.standard.base.input, PicoUsd::from_pico(1_250_000));
    assert_eq!(price.standard.base.cache_read, PicoUsd::from_pico(125_000));
    assert_eq!(price.standard.base.output, PicoUsd::from_pico(10_000_000));
    assert_eq!(price.fees.per_request, PicoUsd::from_pico(10_000_000_000));
    let usage = Usage { input: 1_000, output: 100, ..Usage::default() };
    assert_eq!(
        price.cost(&Used::tokens(usage)).map(|cost| cost.to_string()),
        Ok("0.012250000000".to_owned())
    );
}

#[test]
fn rates_that_are_not_given_are_the_input_and_the_output_rate() {
    let price = list(LIST).find("acme", "m", "2026-01-01").expect("a row");
    assert_eq!(price.standard.base.cache_read, price.standard.base.input);
    assert_eq!(price.standard.base.cache_write_5m, price.standard.base.input);
    assert_eq!(price.standard.base.cache_write_1h, price.standard.base.input);
    assert_eq!(price.standard.base.reasoning, price.standard.base.output);
}

#[test]
fn above_a_tier_all_tokens_pay_the_higher_rate() {
    let price = list(LIST).find("acme", "m", "2025-06-01").expect("a row");
    let cost = |input| {
        let usage = Usage { input, ..Usage::default() };
        price.cost(&Used::tokens(usage)).map(PicoUsd::pico)
    };
    let fee = 10_000_000_000;
    assert_eq!(cost(200_000), Ok(fee + 200_000 * 1_250_000));
    assert_eq!(cost(200_001), Ok(fee + 200_001 * 2_500_000));
}

#[test]
fn the_row_of_the_day_is_found_and_no_other() {
    let list = list(LIST);
    let output =
        |model, date| list.find("acme", model, date).map(|p| p.standard.base.output.pico());
    assert_eq!(output("m", "2025-02-28"), None, "before the first row");
    assert_eq!(output("m", "2025-03-01"), Some(10_000_000), "on its first day");
    assert_eq!(output("m", "2025-12-31"), Some(10_000_000));
    assert_eq!(output("m", "2026-01-01"), Some(8_000_000), "the new row begins");
    assert_eq!(output("m-2025", "2026-06-01"), Some(10_000_000), "another name, its own row");
    assert_eq!(output("m", "tomorrow"), None, "not a day");
    assert_eq!(output("unknown", "2026-06-01"), None, "unknown is none, not zero");
    assert_eq!(list.find("other", "m", "2026-06-01"), None);
}

#[test]
fn the_id_is_the_row_and_not_where_it_was_read() {
    let id = |text: &str, date| list(text).find("acme", "m", date).expect("a row").id.clone();
    let first = id(LIST, "2025-06-01");
    assert_eq!(first.0.len(), 16);
    assert_eq!(id(&LIST.replace("example.com", "example.org"), "2025-06-01"), first);
    assert_ne!(id(&LIST.replace("\"0.01\"", "\"0.02\""), "2025-06-01"), first);
    assert_ne!(id(&LIST.replace("200000", "200001"), "2025-06-01"), first);
    assert_ne!(id(LIST, "2026-06-01"), first);
    assert_ne!(list(LIST).find("acme", "m-2025", "2025-06-01").expect("a row").id, first);
}

#[test]
fn shipped_ids_do_not_change() {
    // Entries name these for ever: if this fails, rows were changed instead of added.
    let price = PriceList::shipped().find("openai", "gpt-5-mini", "2026-01-01").expect("shipped");
    assert_eq!(&*price.id.0, "ae19f9873354a5a9");
}

/// A row with hours and service tiers of its own.
const TIMES: &str = r#"
[[price]]
provider = "acme"
model = "t"
snapshots = true
effective_from = "2026-01-01"
input = "1"
output = "2"
per_image = "0.5"
source = "https://example.com/prices"
source_date = "2026-01-01"
hours = [{ from = "16:30", to = "00:30", input = "0.5", output = "1" }]
[[price.services]]
tier = "priority"
input = "2"
output = "4"
"#;

#[test]
fn the_hour_of_the_day_and_the_service_tier_choose_the_rates() {
    let price = list(TIMES).find("acme", "t", "2026-01-01").expect("a row");
    let cost = |service, minute: u64| {
        let usage = Usage { input: 1_000_000, ..Usage::default() };
        let used = Used { service, at_unix_s: minute * 60, ..Used::tokens(usage) };
        price.cost(&used).map(PicoUsd::to_plain)
    };
    let at = |minute| cost(ServiceTier::Standard, minute);
    assert_eq!(at(16 * 60 + 29), Ok("1".to_owned()));
    assert_eq!(at(16 * 60 + 30), Ok("0.5".to_owned()));
    assert_eq!(at(24 * 60 + 29), Ok("0.5".to_owned()), "past midnight");
    assert_eq!(at(24 * 60 + 30), Ok("1".to_owned()));
    assert_eq!(cost(ServiceTier::Priority, 17 * 60), Ok("2".to_owned()), "whatever the hour");
    assert_eq!(cost(ServiceTier::Flex, 17 * 60), Ok("2".to_owned()), "unpriced: the dearest");
    let images = Used { images: 3, ..Used::default() };
    assert_eq!(price.cost(&images).map(PicoUsd::to_plain), Ok("1.5".to_owned()));
    assert!(price.prices(ServiceTier::Priority) && !price.prices(ServiceTier::Flex));
}

#[test]
fn a_row_takes_effect_at_the_first_second_of_its_day() {
    let dated = list(LIST).dated("acme", "m").expect("rows");
    let pricing = Pricing::Dated(Arc::new(dated));
    let output = |unix_s| match pricing.at(unix_s) {
        RoutePrice::Tokens(price) => Some(price.standard.base.output.pico()),
        _ => None,
    };
    let (march, january) = (1_740_787_200, 1_767_225_600);
    assert_eq!(pricing.at(march - 1), RoutePrice::Unknown, "before its first row, not free");
    assert_eq!(output(march), Some(10_000_000));
    assert_eq!(output(january - 1), Some(10_000_000));
    assert_eq!(output(january), Some(8_000_000), "without a restart");
    assert_eq!(pricing.changes_after(march), Some(january));
    assert_eq!(pricing.changes_after(january), None);
}

#[test]
fn a_snapshot_without_a_row_costs_what_its_model_does_where_the_row_says_so() {
    let list = list(&format!("{LIST}{TIMES}"));
    let found = |model| list.find("acme", model, "2026-06-01").is_some();
    assert!(found("t-20260203") && found("t-2026-02-03"));
    assert!(!found("m-20260203"), "its row does not say so");
    for other in ["t-2026-02-30", "t-2026", "t-mini", "t-2026020x", "-20260203"] {
        assert!(!found(other), "{other}");
    }
    assert!(list.dated("acme", "t-20260203").is_some());
}

#[test]
fn a_row_to_come_leaves_a_snapshot_its_models_price_until_then() {
    let own = "[[price]]\nprovider = \"acme\"\nmodel = \"t-20260203\"\noutput = \"7\"\n\
        effective_from = \"2027-01-01\"\ninput = \"1\"\nsource = \"a test\"\n\
        source_date = \"2026-01-01\"\n";
    let list = list(&format!("{LIST}{TIMES}\n{own}"));
    let output = |model: &str, day: &str| {
        list.find("acme", model, day).map(|price| price.standard.base.output.pico())
    };
    assert!(output("t", "2026-12-31").is_some());
    assert_eq!(output("t-20260203", "2026-12-31"), output("t", "2026-12-31"));
    assert_eq!(output("t-20260203", "2027-01-01"), Some(7_000_000));
}

#[test]
fn from_their_first_day_only_the_operators_rows_hold() {
    // The operator agreed on another price in April 2025; the shipped row of 2026 changes nothing.
    let own = LIST.split("\n[[price]]").nth(1).unwrap_or_default();
    let own = own.replace("2025-03-01", "2025-04-01").replace("\"10.00\"", "\"9\"");
    let merged = list(LIST).merge(list(&format!("[[price]]{own}")));
    let output = |date| merged.find("acme", "m", date).map(|p| p.standard.base.output.pico());
    assert_eq!(output("2025-03-31"), Some(10_000_000), "before: as shipped");
    assert_eq!(output("2025-04-01"), Some(9_000_000));
    assert_eq!(output("2026-06-01"), Some(9_000_000), "and it stays");
    let others = merged.find("acme", "other", "2026-06-01");
    assert_eq!(others, None);
}

#[test]
fn a_bad_row_refuses_the_file_and_says_where() {
    let cases = [
        ("\"1.25\"", "1.25", "prices:7:9: price[0].input: is a float where US dollars per million"),
        ("\"1.25\"", "\"1.2500001\"", "more than 6 decimal places"),
        ("\"1.25\"", "\"-1\"", "is not an amount"),
        ("2025-03-01", "2025-02-29", "`2025-02-29` is not a day"),
        ("per_request = \"0.01\"", "per_requests = \"0.01\"", "unknown key"),
        (
            "provider = \"acme\"\nmodel = \"m\"\nalso",
            "model = \"m\"\nalso",
            "needs the key `provider`",
        ),
        (
            "tiers =",
            "hours = [{ from = \"24:00\", to = \"01:00\", input = \"1\", output = \"1\" }]\ntiers =",
            "is not a time",
        ),
        (
            "tiers =",
            "hours = [{ from = \"01:00\", to = \"01:00\", input = \"1\", output = \"1\" }]\ntiers =",
            "two different times",
        ),
        (
            "tiers =",
            "services = [{ tier = \"flexi\", input = \"1\", output = \"1\" }]\ntiers =",
            "did you mean `flex`?",
        ),
        ("\"2.50\"", "\"1.20\"", "a tier must not be cheaper than the rates below it"),
        (
            "2026-01-01\"\ninput",
            "2025-03-01\"\ninput",
            "gives `acme` `m` from 2025-03-01 a second time",
        ),
        (
            "source = \"https://example.com/prices\"\nsource_date = \"2025",
            "source_date = \"2025",
            "needs the key `source`",
        ),
    ];
    for (from, to, wanted) in cases {
        let text = LIST.replacen(from, to, 1);
        assert_ne!(text, LIST, "{from} is not in the list");
        let error = PriceList::parse("prices", &text).expect_err("a bad row").to_string();
        assert!(error.contains(wanted), "said: {error}\nwanted: {wanted}");
    }
}
