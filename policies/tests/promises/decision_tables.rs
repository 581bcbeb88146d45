//! The tables of `cases/` and the shipped policies, run as tests.

use policies::{Policy, PriceList, SHIPPED, shipped};
use std::{fs, path::PathBuf};

fn cases(folder: &str) -> Vec<(String, String)> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("cases").join(folder);
    let mut files: Vec<PathBuf> = fs::read_dir(dir)
        .expect("the folder of cases")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "toml"))
        .collect();
    files.sort();
    assert!(!files.is_empty(), "no cases in {folder}");
    let stem = |path: &PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
    files
        .iter()
        .map(|path| (stem(path), fs::read_to_string(path).expect("a readable file")))
        .collect()
}

#[track_caller]
fn parsed(name: &str, text: &str) -> Policy {
    Policy::parse(name, text).unwrap_or_else(|error| panic!("{error}"))
}

#[test]
fn shipped_policies_pass_their_own_tests() {
    for (name, text) in SHIPPED {
        let policy = parsed(name, text);
        assert!(policy.tests() >= 4, "{name} shows too few tests");
        assert!(policy.description().is_some(), "{name} does not say what it does");
    }
}

#[test]
fn shipped_policies_pass_their_decision_tables() {
    let tables = cases("");
    for (name, _) in SHIPPED {
        let (_, table) = tables.iter().find(|(stem, _)| stem == name).expect("a table for each");
        let policy = parsed(name, shipped(name).expect("shipped"));
        match policy.run_tests(&format!("cases/{name}"), table) {
            Ok(run) => assert!(run > 0, "{name} has an empty table"),
            Err(error) => panic!("{error}"),
        }
    }
}

#[test]
fn every_word_of_the_language_means_what_the_tables_say() {
    for (name, text) in cases("language") {
        assert!(parsed(&name, &text).tests() > 0, "{name} has no test");
    }
}

#[test]
fn a_bad_policy_is_refused_with_place_key_and_suggestion() {
    #[derive(serde::Deserialize)]
    struct Table {
        case: Vec<Case>,
    }
    #[derive(serde::Deserialize)]
    struct Case {
        policy: String,
        error: String,
    }
    let tables = cases("");
    let (_, text) = tables.iter().find(|(stem, _)| stem == "refused").expect("the table");
    let table: Table = toml::from_str(text).expect("a readable table");
    for case in table.case {
        match Policy::parse("p", &case.policy) {
            Ok(_) => panic!("accepted:\n{}", case.policy),
            Err(error) => assert!(
                error.to_string().contains(&case.error),
                "said:   {error}\nwanted: {}\nof:{}",
                case.error,
                case.policy
            ),
        }
    }
}

#[test]
fn shipped_prices_are_read_whole() {
    let list = PriceList::shipped();
    assert!(list.rows().len() >= 16, "a shipped price file was skipped");
    for row in list.rows() {
        assert!(row.source.starts_with("https://"), "{} has no source", row.model);
        let found = list.find(&row.provider, &row.model, "9999-12-31");
        assert!(found.is_some(), "{} is not found", row.model);
        let costs_more = |word: &&str| ["image", "banana", "omni", "search"].contains(word);
        let worded = row.model.split(['-', '.', '/']).find(costs_more);
        assert_eq!(worded, None, "{} draws or searches unasked: tokens are not all", row.model);
    }
    for (provider, model) in [
        ("google", "gemini-2.5-flash-image"),
        ("google", "gemini-3-pro-image-preview"),
        ("openai", "gpt-4o-mini-search-preview"),
        ("openai", "gpt-5-search-api"),
    ] {
        assert!(list.find(provider, model, "9999-12-31").is_none(), "{model}");
    }
    assert!(list.find("openai", "gpt-4o-mini", "9999-12-31").is_some());
}

#[test]
fn the_examples_of_the_reference_work() {
    let reference = include_str!("../../../docs/policies.md");
    let examples: Vec<&str> =
        reference.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(examples.len() >= 4, "the reference lost its examples");
    for text in examples {
        parsed("docs/policies.md", text);
    }
}
