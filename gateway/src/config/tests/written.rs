//! Promises of what may be written: what would be ignored, contradict itself or undo a promise is
//! refused where it stands.

use super::{EDGE, cloud, error, parse, parse_in};
use crate::config::{Environment, PolicySource};
use std::path::Path;

/// Each text is refused with words that begin like this.
fn refused(table: &[(String, &str)]) {
    for (text, expected) in table {
        let said = error(text);
        let expected = format!("tollgate.toml{expected}");
        assert!(said.starts_with(&expected), "\n{text}\nsaid:     {said}\nexpected: {expected}");
    }
}

fn edge(more: &str) -> String {
    format!("{EDGE}{more}")
}

#[test]
fn no_field_is_left_out_without_which_a_request_is_another_one() {
    let dropping = |field: &str| cloud(&format!("drop_fields = [\"top_p\", \"{field}\"]\n"));
    for cap in ["max_tokens", "max_completion_tokens"] {
        let expected =
            format!("tollgate.toml:6:25: `{cap}` is the output cap, without which no budget");
        assert!(error(&dropping(cap)).starts_with(&expected), "{}", error(&dropping(cap)));
    }
    for field in ["model", "messages", "input", "prompt", "stream", "n"] {
        let expected = format!("tollgate.toml:6:25: `{field}` is what is asked");
        assert!(error(&dropping(field)).starts_with(&expected), "{field}");
    }
    refused(&[(dropping(""), ":6:25: this is the name of no field")]);
    parse(&dropping("prompt_cache_key")).unwrap();
}

#[test]
fn headers_leave_the_transport_and_the_key_alone() {
    let with = |headers: &str| cloud(&format!("headers = {{ {headers} }}\napi_key = \"k1\"\n"));
    for own in
        ["Content-Length", "transfer-encoding", "Content-Type", "Connection", "Accept-Encoding"]
    {
        let said = error(&with(&format!("\"{own}\" = \"5\"")));
        let expected = format!("tollgate.toml:6:13: `{}` says how", own.to_ascii_lowercase());
        assert!(said.starts_with(&expected), "{said}");
    }
    refused(&[
        (with("authorization = \"Bearer k2\""), ":6:13: `authorization` is how `api_key` is sent"),
        (with("\"X-A\" = \"1\", \"x-a\" = \"2\""), ":6:26: another spelling of this header"),
        (
            with("\"X-Api-Key\" = \"k2\"").replace("\"openai\"", "\"anthropic\""),
            ":6:13: `x-api-key` is how",
        ),
    ]);
    // A key of another kind's is just a header.
    parse(&with("\"x-api-key\" = \"k2\"")).unwrap();
}

#[test]
fn a_directory_or_a_list_of_prices_is_never_another_one_for_want_of_a_variable() {
    for environment in [Environment::Needed, Environment::Spared] {
        let said = |text: &str| parse_in(text, environment).unwrap_err().to_string();
        for dir in ["${env.ABSENT}", "/var/lib/${env.ABSENT}"] {
            let said = said(&format!("[server]\ndata_dir = \"{dir}\"\n{EDGE}"));
            assert!(said.contains(":2:12: the environment variable ABSENT is not set"), "{said}");
        }
        for dir in ["${env.EMPTY}", ""] {
            let said = said(&format!("[server]\ndata_dir = \"{dir}\"\n{EDGE}"));
            assert!(said.contains(":2:12: `data_dir` is empty"), "{said}");
        }
        let said = said(&format!("[prices]\nfile = \"${{env.ABSENT}}\"\n{EDGE}"));
        assert!(said.contains(":2:8: the environment variable ABSENT is not set"), "{said}");
    }
    let here = parse(&format!("[server]\ndata_dir = \".\"\n{EDGE}")).unwrap();
    assert_eq!(here.data_dir, Path::new("/etc/tollgate/."));
    let policy = format!("[policy]\nfile = \"${{env.EMPTY}}\"\n{EDGE}");
    refused(&[(policy.clone(), ":2:8: `file` of [policy] is empty")]);
    // Who looks into the ledger alone needs none.
    let spared = parse_in(&policy, Environment::Spared).unwrap();
    assert!(matches!(spared.policy.source, PolicySource::File(_)));
}

#[test]
fn a_section_has_its_form() {
    refused(&[
        (
            "[route.cloud]\n".to_owned(),
            ":1:2: unknown key `route` at the top of the file; did you mean `routes`?",
        ),
        (
            "[[limits]]\nmodel = \"auto\"\n".to_owned(),
            ":1:1: `limits` is one table: write [limits], or [[limit]]",
        ),
        ("limits = [60, 1000, 512, 30, 0]\n".to_owned(), ":1:10: `limits` is one table"),
        (
            "[budget]\nwindow = \"day\"\n".to_owned(),
            ":1:1: `budget` is a list of tables: write [[budget]]",
        ),
        ("budget = [[\"day\"]]\n".to_owned(), ":1:11: write a table: [[budget]]"),
        (cloud("retry = [2, 250]\n"), ":6:9: `retry` is a table: write retry = { ... }"),
        (
            "[server]\ncors_origins = \"*\"\n".to_owned(),
            ":2:16: `cors_origins`: invalid type: a text, expected a list",
        ),
        (
            "[limits]\nin_flight_max = \"30s\"\n".to_owned(),
            ":2:17: `in_flight_max`: invalid type: a text, expected an integer from 1 to 4294967295",
        ),
    ]);
}

#[test]
fn a_text_at_a_wrong_key_may_be_a_secret_and_is_not_quoted() {
    for text in [
        cloud("headers = \"Authorization: Bearer sk-SECRET\"\n"),
        cloud("health = \"https://user:sk-SECRET@x/h\"\n"),
        cloud("in_flight_max = \"sk-SECRET, expected a map\"\n"),
        edge("gpu_layers = \"sk-SECRET\"\n"),
    ] {
        let said = error(&text);
        assert!(said.contains("a text, expected ") && !said.contains("SECRET"), "{said}");
    }
}

#[test]
fn what_the_engine_could_not_take_is_found_with_its_line() {
    refused(&[
        (
            edge("queue_max = 0\n"),
            ":5:13: `queue_max`: invalid value: integer `0`, expected an integer",
        ),
        (edge("context_tokens = 4000000000\n"), ":5:18: `context_tokens` is at most 16777216"),
        (edge("slots = 257\n"), ":5:9: `slots` is at most 256"),
        (edge("threads = 513\n"), ":5:11: `threads` is at most 512"),
        (edge("model = \"\"\n"), ":5:9: `model` is empty"),
        (edge("model = \"a\\nb\"\n"), ":5:9: `model` is one line of plain text"),
        (edge("usd_per_kwh = \"1\"\n"), ":5:15: `usd_per_kwh` prices nothing without `watts`"),
        (
            edge("watts = 4000000000\nusd_per_kwh = \"9999999\"\n"),
            ":6:15: `watts` x `usd_per_kwh`: ",
        ),
        (edge("unknown_price_max_usd = \"0\"\n"), ":5:25: `unknown_price_max_usd` is more than 0"),
        (
            cloud("unknown_price_max_usd = \"0.0\"\n"),
            ":6:25: `unknown_price_max_usd` is more than 0",
        ),
        (cloud("").replace("https://h/v1", "http://127.0.0.1:99999/v1"), ":4:12: `base_url` "),
    ]);
}

#[test]
fn pairs_do_not_contradict_each_other() {
    let hook = "[[webhook]]\nname = \"w\"\nurl = \"https://h\"\nsecret = \"0123456789abcdef\"\n";
    refused(&[
        (
            cloud("retry = { backoff_ms = 20, backoff_max_ms = 10 }\n"),
            ":6:24: `backoff_ms` is more than",
        ),
        (cloud("breaker = { open_ms = 20, open_max_ms = 10 }\n"), ":6:23: `open_ms` is more than"),
        (cloud("breaker = { failed_permille = 0 }\n"), ":6:31: `failed_permille` is at least 1"),
        (
            format!("{hook}backoff_ms = 20\nbackoff_max_ms = 10\n{EDGE}"),
            ":5:14: `backoff_ms` is more than",
        ),
    ]);
    // Of a default that would be more, the written one holds.
    parse(&cloud("retry = { backoff_max_ms = 10 }\n")).unwrap();
}

#[test]
fn the_guard_promises_no_more_than_it_remembers() {
    let guard = |line: &str| format!("[guard]\n{line}\n{EDGE}");
    refused(&[
        (guard("loop_max = 64"), ":2:12: `loop_max` is at most 63"),
        (guard("new_keys_max = 128"), ":2:16: `new_keys_max` is at most 127"),
    ]);
    parse(&guard("loop_max = 63\nnew_keys_max = 127")).unwrap();
}
