//! What other programs' files say is what the rows say, or the report says otherwise.

use super::{Format, Imported, Origin, Outcome, import};
use policies::{PriceList, ServiceTier, Usage, Used, write_rows};

fn read(text: &str, format: Format) -> Imported {
    let origin = Origin {
        source: "a test".to_owned(),
        source_date: "2026-11-26".to_owned(),
        effective_from: "2026-01-01".to_owned(),
        providers: Vec::new(),
    };
    let imported = import(text, format, &origin).unwrap();
    let again = PriceList::parse("rows", &write_rows(&imported.rows)).unwrap();
    assert_eq!(again.rows().len(), imported.rows.len());
    imported
}

/// What a million prompt tokens and a million answer tokens of a model cost, in USD.
fn cost(imported: &Imported, model: &str, day: &str, change: impl Fn(&mut Used)) -> String {
    let list = PriceList::parse("rows", &write_rows(&imported.rows)).unwrap();
    let price = list.find(&imported.rows[0].provider, model, day).unwrap();
    let usage = Usage { input: 1000, output: 1000, ..Usage::default() };
    let mut used = Used::tokens(usage);
    change(&mut used);
    price.cost(&used).unwrap().to_plain()
}

fn outcome<'a>(imported: &'a Imported, model: &str) -> (Outcome, &'a [String]) {
    let line = imported.report.iter().find(|line| line.model == model).unwrap();
    (line.outcome, &line.notes)
}

const GENAI: &str = r#"[{"id":"x-ai","name":"X","api_pattern":"","pricing_urls":["https://p.example"],"models":[
 {"id":"m","match":{"or":[{"equals":"m-latest"},{"regex":"^m-\\d{8}$"},{"starts_with":"q"}]},
  "prices":[
   {"prices":{"input_mtok":9,"output_mtok":9}},
   {"constraint":{"start_date":"2025-05-01"},"prices":{"input_mtok":{"base":1,"tiers":[{"start":200000,"price":2}]},"output_mtok":4,"cache_read_mtok":0.1,"web_searches_kcount":10}},
   {"constraint":{"start_date":"2026-06-01"},"prices":{"input_mtok":3,"output_mtok":5}},
   {"constraint":{"start_time":"16:30:00Z","end_time":"00:30:00Z"},"prices":{"input_mtok":0.5,"output_mtok":0.5}}],
  "price_variants":[
   {"when":{"service_tier":"default"},"prices":{}},
   {"when":{"service_tier":"flex"},"prices":{"output_mtok":2},"constraint":{"start_date":"2026-03-01"}},
   {"when":{"processing":"batch"},"prices":{"input_mtok":0.5}},
   {"when":{"speed":"fast"},"prices":{"input_mtok":100}}]},
 {"id":"fine","match":{"equals":"fine"},"prices":{"input_mtok":0.0000001,"output_mtok":1}},
 {"id":"voice","match":{"equals":"voice"},"prices":{"audio_hours":3}},
 {"id":"blank","match":{"equals":"blank"},"prices":{"input_mtok":3}},
 {"id":"text-embed","match":{"equals":"text-embed"},"prices":{"input_mtok":3}}]}]"#;

#[test]
fn genais_days_hours_tiers_and_variants_become_rows() {
    let read = read(GENAI, Format::Genai);
    let at = |day, change: &dyn Fn(&mut Used)| cost(&read, "m", day, change);
    let noon = |used: &mut Used| used.at_unix_s = 12 * 3600;
    let night = |used: &mut Used| used.at_unix_s = 17 * 3600;
    assert_eq!(at("2026-01-01", &noon), "0.005", "the price of 2025, not the first of all");
    assert_eq!(at("2026-06-01", &noon), "0.008", "the price from June on");
    assert_eq!(at("2026-01-01", &night), "0.001");
    let tier = |tier| move |used: &mut Used| used.service = tier;
    assert_eq!(at("2026-01-01", &tier(ServiceTier::Batch)), "0.0045", "the rest is the standard's");
    assert_eq!(at("2026-03-01", &tier(ServiceTier::Flex)), "0.003");
    let long = |used: &mut Used| (used.usage.input, used.at_unix_s) = (300_000, 12 * 3600);
    assert_eq!(at("2026-01-01", &long), "0.604");
    let cached = |used: &mut Used| {
        used.at_unix_s = 12 * 3600;
        used.usage = Usage { cache_read: 1000, ..Usage::default() };
    };
    assert_eq!(at("2026-01-01", &cached), "0.0001");
    for name in ["m-latest", "m-20260203"] {
        assert_eq!(cost(&read, name, "2026-01-01", noon), "0.005", "{name}");
    }
    assert_eq!(read.rows[0].provider, "xai");
    assert_eq!(read.rows[0].source, "https://p.example by way of a test");
}

#[test]
fn the_report_names_what_is_rounded_and_what_a_row_cannot_say() {
    let read = read(GENAI, Format::Genai);
    let (exact, notes) = outcome(&read, "m");
    assert_eq!(exact, Outcome::Exact);
    assert!(notes.contains(&"not carried: web_searches_kcount".to_owned()), "{notes:?}");
    assert!(notes.contains(&"not carried: the price where speed is fast".to_owned()));
    assert_eq!(outcome(&read, "fine").0, Outcome::Rounded);
    let unsupported = |model| {
        let (outcome, notes) = outcome(&read, model);
        assert_eq!(outcome, Outcome::Unsupported);
        notes.to_vec()
    };
    assert_eq!(unsupported("voice"), ["a row cannot say `audio_hours`"]);
    assert_eq!(unsupported("blank"), ["it has no price for output tokens"]);
    assert_eq!(outcome(&read, "text-embed").0, Outcome::Exact, "it has no output");
    assert!(!read.rows.iter().any(|row| row.model == "voice" || row.model == "blank"));
}

const LITELLM: &str = r#"{
 "sample_spec":{"litellm_provider":"one of","mode":"chat"},
 "gemini/g":{"litellm_provider":"gemini","mode":"chat","max_tokens":8192,
  "input_cost_per_token":1.25e-06,"input_cost_per_token_above_200k_tokens":2.5e-06,
  "output_cost_per_token":1e-05,"output_cost_per_token_above_200k_tokens":1.5e-05,
  "cache_read_input_token_cost":1.25e-07,"cache_creation_input_token_cost":2e-06,
  "cache_creation_input_token_cost_above_1hr":4e-06,
  "output_cost_per_token_flex":5e-06,"search_context_cost_per_query":{"search_context_size_low":0.035}},
 "gemini/float":{"litellm_provider":"gemini","mode":"chat","input_cost_per_token":3.0000000000000004e-07,"output_cost_per_token":1e-06},
 "gemini/chars":{"litellm_provider":"gemini","mode":"chat","input_cost_per_character":1e-07},
 "gemini/paint":{"litellm_provider":"gemini","mode":"image_generation","output_cost_per_image":0.04}}"#;

#[test]
fn litellms_costs_become_rows_and_its_floats_are_told() {
    let read = read(LITELLM, Format::Litellm);
    let at = |change: &dyn Fn(&mut Used)| cost(&read, "g", "2026-01-01", change);
    assert_eq!(at(&|_| {}), "0.01125");
    assert_eq!(at(&|used| used.usage.input = 200_001), "0.5150025");
    assert_eq!(at(&|used| used.service = ServiceTier::Flex), "0.00625");
    let usage = Usage { cache_write_5m: 1000, cache_write_1h: 1000, ..Usage::default() };
    assert_eq!(at(&|used| used.usage = usage), "0.006");
    assert_eq!(read.rows[0].provider, "google");
    assert_eq!(outcome(&read, "g").0, Outcome::Exact);
    assert_eq!(outcome(&read, "float").0, Outcome::Rounded);
    assert_eq!(outcome(&read, "chars").1, ["a row cannot say `input_cost_per_character`"]);
    assert_eq!(outcome(&read, "paint").1, ["its mode is `image_generation`, which is not served"]);
    assert_eq!(read.report.len(), 4, "the sample is no model");
}

#[test]
fn a_model_that_draws_or_searches_unasked_has_no_price() {
    let genai = read(
        r#"[{"id":"google","models":[
 {"id":"g-flash-draws","match":{"equals":"x"},"prices":{"input_mtok":0.3,"output_mtok":2.5,"output_image_mtok":30}},
 {"id":"g-films","match":{"equals":"x"},"prices":{"input_mtok":1,"output_mtok":9,"output_video_mtok":30}},
 {"id":"g-5-image","match":{"equals":"x"},"prices":{"input_mtok":1,"output_mtok":9}},
 {"id":"g-search-preview","match":{"equals":"x"},"prices":{"input_mtok":1,"output_mtok":9}},
 {"id":"sonar-deep","match":{"equals":"x"},"prices":{"input_mtok":1,"output_mtok":9,"web_searches_kcount":5}},
 {"id":"sonar","match":{"equals":"sonar"},"prices":{"input_mtok":1,"output_mtok":1,"requests_kcount":12}},
 {"id":"o3-deep-research","match":{"equals":"x"},"prices":{"input_mtok":1,"output_mtok":9,"web_searches_kcount":5}},
 {"id":"g-mini","match":{"or":[{"equals":"g-mini-search-preview"},{"equals":"g-mini-1"}]},"prices":{"input_mtok":1,"output_mtok":9}}]}]"#,
        Format::Genai,
    );
    let unsupported = |of: &Imported, model: &str| outcome(of, model).0 == Outcome::Unsupported;
    for model in ["g-flash-draws", "g-films", "g-5-image", "g-search-preview", "sonar-deep"] {
        assert!(unsupported(&genai, model), "{model}");
        assert!(!genai.rows.iter().any(|row| row.model == model), "{model}");
    }
    assert_eq!(outcome(&genai, "g-flash-draws").1, ["a row cannot say `output_image_mtok`"]);
    assert!(!unsupported(&genai, "sonar"), "its fee is for each request");
    assert!(!unsupported(&genai, "o3-deep-research"), "it searches where it is given a tool");
    let names: Vec<&str> = genai.rows.iter().map(|row| row.model.as_str()).collect();
    assert!(names.contains(&"g-mini-1") && !names.contains(&"g-mini-search-preview"), "{names:?}");

    let litellm = read(
        r#"{"gemini/draws":{"litellm_provider":"gemini","mode":"chat","input_cost_per_token":3e-07,"output_cost_per_token":2.5e-06,"output_cost_per_image_token":3e-05},
 "gemini/each":{"litellm_provider":"gemini","mode":"chat","input_cost_per_token":3e-07,"output_cost_per_token":2.5e-06,"output_cost_per_image":0.039},
 "gemini/g-search-api":{"litellm_provider":"gemini","mode":"chat","input_cost_per_token":3e-07,"output_cost_per_token":2.5e-06}}"#,
        Format::Litellm,
    );
    assert!(["draws", "each", "g-search-api"].iter().all(|model| unsupported(&litellm, model)));
    assert!(litellm.rows.is_empty());
}

#[test]
fn a_file_of_another_kind_is_refused() {
    let origin = Origin {
        source: String::new(),
        source_date: "2026-01-01".to_owned(),
        effective_from: "2026-01-01".to_owned(),
        providers: Vec::new(),
    };
    for text in ["", "[]x", "{\"a\":1}", "[{\"id\":1}]"] {
        assert!(import(text, Format::Litellm, &origin).is_err() || text.is_empty(), "{text}");
        assert!(import(text, Format::Genai, &origin).is_err(), "{text}");
    }
}
