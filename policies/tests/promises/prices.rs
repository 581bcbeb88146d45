//! The dated price list: exact rates, the right row for a day, and refused files.

use policies::{PicoUsd, PriceList, Usage};

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
    assert_eq!(price.base.input, PicoUsd::from_pico(1_250_000));
    assert_eq!(price.base.cache_read, PicoUsd::from_pico(125_000));
    assert_eq!(price.base.output, PicoUsd::from_pico(10_000_000));
    assert_eq!(price.per_request, PicoUsd::from_pico(10_000_000_000));
    let usage = Usage { input: 1_000, output: 100, ..Usage::default() };
    assert_eq!(price.cost(&usage).map(|cost| cost.to_string()), Ok("0.012250000000".to_owned()));
}

#[test]
fn rates_that_are_not_given_are_the_input_and_the_output_rate() {
    let price = list(LIST).find("acme", "m", "2026-01-01").expect("a row");
    assert_eq!(price.base.cache_read, price.base.input);
    assert_eq!(price.base.cache_write_5m, price.base.input);
    assert_eq!(price.base.cache_write_1h, price.base.input);
    assert_eq!(price.base.reasoning, price.base.output);
}

#[test]
fn above_a_tier_all_tokens_pay_the_higher_rate() {
    let price = list(LIST).find("acme", "m", "2025-06-01").expect("a row");
    let cost = |input| price.cost(&Usage { input, ..Usage::default() }).map(PicoUsd::pico);
    let fee = 10_000_000_000;
    assert_eq!(cost(200_000), Ok(fee + 200_000 * 1_250_000));
    assert_eq!(cost(200_001), Ok(fee + 200_001 * 2_500_000));
}

#[test]
fn the_row_of_the_day_is_found_and_no_other() {
    let list = list(LIST);
    let output = |model, date| list.find("acme", model, date).map(|p| p.base.output.pico());
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
    let price = PriceList::shipped().find("openai", "gpt-5-mini", "2026-11-01").expect("shipped");
    assert_eq!(&*price.id.0, "ae19f9873354a5a9");
}

#[test]
fn from_their_first_day_only_the_operators_rows_hold() {
    // The operator agreed on another price in April 2025; the shipped row of 2026 changes nothing.
    let own = LIST.split("\n[[price]]").nth(1).unwrap_or_default();
    let own = own.replace("2025-03-01", "2025-04-01").replace("\"10.00\"", "\"9\"");
    let merged = list(LIST).merge(list(&format!("[[price]]{own}")));
    let output = |date| merged.find("acme", "m", date).map(|p| p.base.output.pico());
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
        ("cache_read = \"0.125\"", "cached = \"0.125\"", "unknown key"),
        (
            "provider = \"acme\"\nmodel = \"m\"\nalso",
            "model = \"m\"\nalso",
            "needs the key `provider`",
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
