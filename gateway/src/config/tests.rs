//! Promises of the configuration: the shipped file is sound, and every error points at its line.

mod written;

use super::*;
use policies::{PromptTokens, RoutePrice, RouteState};
use std::path::Path;

const EDGE: &str = "[routes.edge]\nkind = \"local\"\nfile = \"m.gguf\"\nusd_per_hour = \"1\"\n";

/// 2026-11-22.
const NOW_S: u64 = 1_795_305_600;

fn parse(text: &str) -> Result<Config, ConfigError> {
    parse_in(text, Environment::Needed)
}

fn parse_in(text: &str, environment: Environment) -> Result<Config, ConfigError> {
    let lookup = |name: &str| match name {
        "SET" => Some("from-env".to_owned()),
        "ADDRESS" => Some("secret-address".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let surroundings = Surroundings { lookup: &lookup, environment, now_s: NOW_S };
    Config::parse(text, Path::new("/etc/tollgate/tollgate.toml"), surroundings)
}

fn error(text: &str) -> String {
    parse(text).unwrap_err().to_string().replace("/etc/tollgate/", "")
}

fn cloud(more: &str) -> String {
    format!(
        "[routes.c]\nkind = \"openai\"\nprovider = \"p\"\nbase_url = \"https://h/v1\"\n\
         model = \"m\"\n{more}"
    )
}

#[test]
fn the_shipped_file_is_the_default_setup() {
    let config = parse(shipped::TOLLGATE_TOML).unwrap();
    assert_eq!(config.listen, "127.0.0.1:8655".parse().unwrap());
    assert_eq!(config.data_dir, Path::new("/etc/tollgate/data"));
    assert_eq!(config.policy.source, PolicySource::Shipped("edge-first"));
    assert_eq!(config.warnings, Vec::<String>::new());
    let [edge] = &config.routes[..] else { panic!("one route") };
    let RouteSource::Local(local) = &edge.source else { panic!("a local one") };
    assert_eq!(local.file, Path::new("/etc/tollgate/models/SmolLM2-135M-Instruct-Q4_1.gguf"));
    assert!(!edge.budgeted);
}

#[test]
fn the_shipped_file_writes_the_defaults_down() {
    let written = parse(shipped::TOLLGATE_TOML).unwrap();
    let defaults = parse(
        "[routes.edge]\nkind = \"local\"\nusd_per_hour = \"0.05\"\n\
         file = \"models/SmolLM2-135M-Instruct-Q4_1.gguf\"\nmodel = \"SmolLM2-135M-Instruct\"\n\
         aliases = [\"smollm2-135m-instruct\"]\n",
    )
    .unwrap();
    assert_eq!(format!("{written:#?}"), format!("{defaults:#?}"));
}

#[test]
fn the_commented_examples_of_the_shipped_file_are_sound() {
    // Every line `# key = value` or `# [section]` is switched on.
    let is_key = |rest: &str| {
        let key = rest.split(" = ").next().unwrap_or_default();
        rest.contains(" = ")
            && key.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
    };
    let text: String = shipped::TOLLGATE_TOML
        .lines()
        .filter(|line| !line.starts_with("shipped = ") && !line.starts_with("# key = "))
        .map(|line| match line.strip_prefix("# ").map(|rest| rest.trim_start_matches("# ")) {
            // The list row and the inline rates exclude each other.
            Some(rest) if rest.starts_with("price = ") => String::new(),
            Some(rest) if rest.starts_with('[') || is_key(rest) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    // The inline rates are a section of their own, to be written after the route's keys.
    let (head, rest) = text.split_once("[routes.cloud-small.price]\n").unwrap();
    let (rates, tail) = rest.split_at(rest.find("# # Longest").unwrap());
    let text = format!("{head}{tail}\n[routes.cloud-small.price]\n{rates}")
        .replace("${env.OPENAI_API_KEY}", "x")
        .replace("${env.TOLLGATE_WEBHOOK_SECRET}", "0123456789abcdef")
        .replace("file = \"prices.toml\"", "");
    let config = parse(&text).unwrap();
    assert_eq!(config.routes.len(), 2);
    assert_eq!(config.global_budgets.len(), 1);
    assert_eq!(config.webhooks.len(), 1);
    assert_eq!(config.policy.source, PolicySource::File("/etc/tollgate/policies/mine.toml".into()));
    assert!(matches!(config.routes[1].price.at(NOW_S), RoutePrice::Tokens(_)));
}

#[test]
fn every_error_names_the_line_and_the_key() {
    let table: &[(&str, &str)] = &[
        ("[server]\nlsten = 1\n", ":2:1: unknown key `lsten` in [server]; did you mean `listen`?"),
        ("[sever]\n", ":1:2: unknown key `sever` at the top of the file; did you mean `server`?"),
        ("colour = 1\n", ":1:1: unknown key `colour` at the top of the file; known are"),
        ("[server]\nlisten = \"here\"\n", ":2:10: `listen` is an address and a port"),
        (
            "[server]\nlisten = 8655\n",
            ":2:10: `listen`: invalid type: integer `8655`, expected a text",
        ),
        ("[server]\ntime_zone = \"Mars/X\"\n", ":2:13: unknown time zone `Mars/X`"),
        (
            "[server]\nbody_bytes_max = 0\n",
            ":2:18: `body_bytes_max`: invalid value: integer `0`, expected an integer from 1 to",
        ),
        (
            "[ledger]\ndurability = \"lax\"\n",
            ":2:14: unknown value `lax`, expected `strict` or `grouped` in [ledger]",
        ),
        ("[ledger]\nbudget_status = 500\n", ":2:17: `budget_status` is 429"),
        ("[guard]\nallow = [\"key_a\", \"usr:ada\"]\n", ":2:19: `allow` has key ids"),
        ("[[budget]]\nwindow = \"day\"\n", ":1:1: a budget limits"),
        (
            "[[budget]]\nwindow = \"day\"\nmoney_usd = 5.0\n",
            ":3:13: `money_usd`: invalid type: floating point `5.0`, expected an amount in USD as a",
        ),
        (
            "[[budget]]\nwindow = \"day\"\nmoney_usd = \"5,0\"\n",
            ":3:13: `5,0` is not an amount in USD",
        ),
        ("[[budget]]\ntokens = 1\n", ":1:1: missing key `window` in [[budget]]"),
        ("[policy]\nshipped = \"edge-fist\"\n", ":2:11: no policy named \"edge-fist\" is shipped"),
        ("[policy]\nfile = \"a\"\nshipped = \"edge-first\"\n", ":2:8: [policy] has both"),
        ("[policy]\naliases = [\"a b\"]\n", ":2:12: an alias has 1 to 128 characters"),
        ("[server\n", ":1:8: "),
        ("", ": no route is configured"),
        ("[routes]\nedge = 1\n", ":2:8: write a table: [routes.edge]"),
        (
            "[routes.edge]\nfile = \"m\"\n",
            ":1:9: route `edge` has no `kind`: write kind = \"local\", \"openai\",",
        ),
        (
            "[routes.edge]\nkind = \"locl\"\n",
            ":2:8: unknown kind \"locl\" of a route; known are \"local\", \"openai\", \"azure\"",
        ),
        ("[routes.edge]\nkind = \"local\"\n", ":1:1: missing key `file` in [routes.edge]"),
        (
            "[routes.edge]\nkind = \"local\"\nfile = \"m\"\nbase_url = \"x\"\n",
            ":4:1: unknown key `base_url` in [routes.edge]; known are kind, file",
        ),
        (
            "[routes.edge]\nkind = \"local\"\nfile = \"m\"\nslots = 8\ncontext_tokens = 100\n",
            ":5:18: `context_tokens` is at least 64",
        ),
        (
            "[routes.auto]\nkind = \"local\"\nfile = \"m\"\n",
            ":1:9: `auto` is an alias of the policy",
        ),
        ("[routes.\"a b\"]\nkind = \"local\"\nfile = \"m\"\n", ":1:9: a route's name has 1 to 128"),
        (
            "[routes.a]\nkind = \"local\"\nfile = \"m\"\naliases = [\"a\"]\n",
            ":4:12: `a` already names",
        ),
    ];
    for (text, expected) in table {
        let said = error(text);
        let expected = format!("tollgate.toml{expected}");
        assert!(said.starts_with(&expected), "\n{text}\nsaid:     {said}\nexpected: {expected}");
    }
}

#[test]
fn every_error_of_a_budget_or_a_models_limit_names_the_line_and_the_key() {
    let table = [
        (
            "[[budget]]\nwindow = \"day\"\ntokens = 1\ntimezone = \"Mars/X\"\n",
            ":4:12: unknown time zone `Mars/X`",
        ),
        (
            "[[budget]]\nwindow = \"rolling:24h\"\ntokens = 1\ntimezone = \"UTC\"\n",
            ":4:12: `timezone` is for the windows hour, day, week and month",
        ),
        (
            "[[limit]]\nmodel = \"autp\"\nconcurrency = 1\n",
            ":2:9: no caller can ask for the model \"autp\"",
        ),
        ("[[limit]]\nmodel = \"auto\"\n", ":1:1: a limit has `requests_per_minute`"),
    ];
    for (text, expected) in table {
        let said = error(text);
        assert!(said.starts_with(&format!("tollgate.toml{expected}")), "{text}: {said}");
    }
}

#[test]
fn a_kind_that_is_nearly_right_is_told_which_was_meant() {
    let said = error("[routes.edge]\nkind = \"locl\"\n");
    assert!(said.ends_with("did you mean \"local\"?"), "{said}");
}

#[test]
fn every_error_of_a_cloud_route_names_the_line_and_the_key() {
    let table: &[(&str, &str)] = &[
        (
            "idle_timeout = 3\n",
            ":6:1: unknown key `idle_timeout` in [routes.c]; did you mean `idle_timeout_ms`?",
        ),
        ("api_key = \"a\\nb\"\n", ":6:11: `api_key` holds a character"),
        ("headers = { \"a b\" = \"c\" }\n", ":6:13: this is not the name of a header"),
        ("headers = { a = \"c\\n\" }\n", ":6:17: a header's value holds a character"),
        (
            "cap_field = \"max\"\n",
            ":6:13: unknown value `max`, expected `max_completion_tokens` or",
        ),
        ("connect_timeout_ms = 0\n", ":6:22: `connect_timeout_ms`: invalid value"),
        ("price = 3\n", ":6:9: `price`: invalid type: integer `3`, expected \"provider/model\""),
        ("[routes.c.price]\ninput = \"1\"\n", ":6:1: missing key `output` in [routes.c.price]"),
        ("[routes.c.price]\ninput = \"0.0000001\"\noutput = \"1\"\n", ":7:9: a rate per million"),
        (
            "[routes.c.price]\ninput = \"1\"\nouput = \"1\"\n",
            ":8:1: unknown key `ouput` in [routes.c.price]; did you mean `output`?",
        ),
    ];
    for (more, expected) in table {
        let said = error(&cloud(more));
        let expected = format!("tollgate.toml{expected}");
        assert!(said.starts_with(&expected), "\n{more}\nsaid:     {said}\nexpected: {expected}");
    }
    for url in ["api.openai.com/v1", "ftp://h/v1", "https://", "https://u:p@h/v1", "https://h?a=b"]
    {
        let text = cloud("").replace("https://h/v1", url);
        assert!(error(&text).starts_with("tollgate.toml:4:12: `base_url` "), "{url}");
    }
}

#[test]
fn the_environment_fills_strings_and_a_missing_variable_is_named() {
    let config =
        parse(&cloud("api_key = \"${env.SET}\"\nheaders = { a = \"x-${env.SET}-y\" }\n")).unwrap();
    let RouteSource::Cloud(cloud_config) = &config.routes[0].source else { panic!("cloud") };
    use secrecy::ExposeSecret as _;
    assert_eq!(cloud_config.api_key.as_ref().unwrap().expose_secret(), "from-env");
    assert_eq!(cloud_config.headers[0].1.expose_secret(), "x-from-env-y");
    assert!(!format!("{config:?}").contains("from-env"), "Debug shows no secret");

    let said = error(&cloud("api_key = \"${env.ABSENT}\"\n"));
    assert!(said.starts_with("tollgate.toml:6:11: the environment variable ABSENT is not set"));
    let said = error(&cloud("api_key = \"${ABSENT}\"\n"));
    assert!(said.starts_with("tollgate.toml:6:11: `${ABSENT}` is not a reference"));
    let said = error(&cloud("api_key = \"${env.ABSENT\"\n"));
    assert!(said.starts_with("tollgate.toml:6:11: `${` without `}`"));
}

#[test]
fn a_secret_that_is_empty_is_refused_where_it_would_be_used() {
    let hook = |url: &str, secret: &str| {
        format!("[[webhook]]\nname = \"w\"\nurl = \"{url}\"\nsecret = \"{secret}\"\n{EDGE}")
    };
    let (url, secret) = ("https://h/w", "0123456789abcdef");
    let table = [
        (cloud("api_key = \"${env.EMPTY}\"\n"), ":6:11: `api_key` is empty"),
        (cloud("api_key = \" \"\n"), ":6:11: `api_key` is empty"),
        (hook(url, ""), ":4:10: `secret` has at least 16 bytes"),
        (hook(url, "${env.EMPTY}"), ":4:10: `secret` has at least 16 bytes"),
        (hook("${env.EMPTY}", secret), ":3:7: `url` begins with https://"),
    ];
    for (text, expected) in &table {
        let said = error(text);
        assert!(said.starts_with(&format!("tollgate.toml{expected}")), "{text}: {said}");
    }
    // `tollgate ledger` needs none of them.
    for (text, _) in table.iter().filter(|(text, _)| text.contains("EMPTY")) {
        parse_in(text, Environment::Spared).unwrap();
    }
}

#[test]
fn what_stands_in_a_variable_is_not_needed_to_look_into_the_ledger() {
    for text in [
        cloud("").replace("https://h/v1", "${env.EMPTY}"),
        cloud("").replace("https://h/v1", "https://${env.EMPTY}/v1"),
        cloud("").replace("\"m\"", "\"${env.EMPTY}\""),
        cloud("").replace("\"p\"", "\"${env.EMPTY}\""),
        format!("[server]\nlisten = \"${{env.EMPTY}}\"\n{EDGE}"),
        format!("[server]\nlisten = \"127.0.0.1:${{env.EMPTY}}\"\n{EDGE}"),
        format!("[admin]\nlisten = \"${{env.EMPTY}}\"\n{EDGE}"),
    ] {
        parse(&text).unwrap_err();
        parse_in(&text, Environment::Spared).unwrap();
    }
}

#[test]
fn nothing_is_kept_longer_than_the_store_can() {
    for section in ["cache", "idempotency"] {
        let kept = |seconds: u64| parse(&format!("[{section}]\nttl_s = {seconds}\n{EDGE}"));
        let said = kept(31_536_000_001).unwrap_err().to_string();
        assert!(said.contains(":2:9: `ttl_s` is at most 31536000000"), "{said}");
        let config = kept(31_536_000_000).unwrap();
        drop(crate::cache::Idempotency::new(config.idempotency));
        drop(crate::cache::AnswerCache::new(config.cache));
    }
}

#[test]
fn kept_answers_are_not_kept_longer_either() {
    let kept = |minutes: u64| parse(&format!("[responses]\nttl_minutes = {minutes}\n{EDGE}"));
    for minutes in [525_600_001, 9_223_372_036_854_775_807] {
        let said = kept(minutes).unwrap_err().to_string();
        assert!(said.contains(":2:15: `ttl_minutes` is at most 525600000"), "{said}");
    }
    kept(525_600_000).unwrap();
}

#[test]
fn everything_together_has_no_more_budgets_than_a_key() {
    let with = |windows: &[&str]| {
        let budget = |window| format!("[[budget]]\nwindow = \"{window}\"\ntokens = 1\n");
        let budgets: String = windows.iter().map(budget).collect();
        parse(&format!("{budgets}{EDGE}"))
    };
    let most = ["hour", "day", "week", "month", "total", "rolling:1h", "rolling:24h"];
    assert_eq!(with(&most).unwrap().global_budgets.len(), 7);
    let said = with(&["rolling:1h", "rolling:2h", "day", "rolling:3h"]).unwrap_err().to_string();
    assert!(said.contains(":10:1: at most 8 budgets, of which at most 2 are rolling"), "{said}");
}

#[test]
fn a_value_of_the_environment_is_never_quoted() {
    for text in [
        format!("[server]\nlisten = \"${{env.ADDRESS}}\"\n{EDGE}"),
        format!("[limits]\nin_flight_max = \"${{env.ADDRESS}}\"\n{EDGE}"),
        cloud("cap_field = \"${env.ADDRESS}\"\n"),
        cloud("unknown_price_max_usd = \"${env.ADDRESS}\"\n"),
        cloud("").replace("https://h/v1", "${env.ADDRESS}"),
        cloud("").replace("\"openai\"", "\"${env.ADDRESS}\""),
        cloud("health = \"${env.ADDRESS}\"\n"),
        format!("[policy]\nshipped = \"${{env.ADDRESS}}\"\n{EDGE}"),
        format!("[server]\ntime_zone = \"${{env.ADDRESS}}\"\n{EDGE}"),
        format!("[[limit]]\nmodel = \"${{env.ADDRESS}}\"\nconcurrency = 1\n{EDGE}"),
        format!(
            "[[webhook]]\nname = \"w\"\nurl = \"https://h\"\nsecret = \"0123456789abcdef\"\n\
             events = [\"${{env.ADDRESS}}\"]\n{EDGE}"
        ),
    ] {
        let said = error(&text);
        assert!(!said.contains("secret-address"), "{said}");
    }
}

#[test]
fn routes_keep_the_order_of_the_file() {
    let text =
        "[routes.z]\nkind = \"local\"\nfile = \"m\"\n[routes.a]\nkind = \"local\"\nfile = \"m\"\n";
    let config = parse(text).unwrap();
    let names: Vec<&str> = config.routes.iter().map(|route| route.id.as_str()).collect();
    assert_eq!(names, ["z", "a"]);
}

#[test]
fn an_unknown_price_is_said_and_is_not_zero() {
    let config = parse(&cloud("price = \"nobody/nothing\"\n")).unwrap();
    assert_eq!(config.routes[0].price.at(NOW_S), RoutePrice::Unknown);
    assert_eq!(config.warnings.len(), 1);
    assert!(config.warnings[0].contains("the price of route `c` is unknown"));
    assert!(config.warnings[0].ends_with("its `price` names no row of the price list"));
    let near = parse(&cloud("price = \"openai/gpt-5-mni\"\n")).unwrap();
    assert!(near.warnings[0].ends_with("did you mean \"openai/gpt-5-mini\"?"), "{near:?}");
    let unset = parse(&cloud("")).unwrap();
    assert!(unset.warnings[0].ends_with("set `price` to change that"));
}

#[test]
fn a_local_route_of_unknown_price_carries_no_cost_and_no_budget_pays_for_it() {
    let unpriced = EDGE.replace("usd_per_hour = \"1\"\n", "");
    let config = parse(&unpriced).unwrap();
    let said = "the price of route `edge` is unknown: its entries carry no cost; \
                set `usd_per_hour` to change that";
    assert_eq!(config.warnings, [said]);
    let refused = error(&format!("{unpriced}budgeted = true\n"));
    assert!(refused.starts_with("tollgate.toml:1:9: `budgeted` needs a price"), "{refused}");
    let budgeted = format!("{unpriced}budgeted = true\nunknown_price_max_usd = \"0.01\"\n");
    assert!(parse(&budgeted).unwrap().warnings[0].contains("each attempt reserves 0.01"));
}

#[test]
fn a_provider_that_wants_a_key_lacks_it_where_none_is_written() {
    let lacks = |more: &str| {
        let text = format!("[routes.c]\nkind = \"openai\"\nmodel = \"m\"\n{more}");
        let config = parse(&text).unwrap();
        let RouteSource::Cloud(cloud) = &config.routes[0].source else { panic!("a cloud") };
        let warned = config.warnings.iter().any(|warning| warning.contains("has no key"));
        assert_eq!(warned, cloud.lacks_key);
        cloud.lacks_key
    };
    assert!(lacks(""));
    assert!(!lacks("api_key = \"k\"\n"));
    assert!(!lacks("headers = { \"Authorization\" = \"Bearer k\" }\n"));
    // Whoever stands at another address may want none.
    assert!(!lacks("base_url = \"http://127.0.0.1:9/v1\"\nprovider = \"p\"\n"));
}

#[test]
fn a_route_that_is_assumed_has_the_prices_that_a_request_would_have_found() {
    let rates = "[routes.c.price]\ninput = \"1\"\noutput = \"2\"\n";
    let more = format!("context_tokens = 1000\ntools = false\n{rates}");
    let config = parse(&format!(
        "{}{EDGE}prefill_token_max_us = 1000\ndecode_token_max_us = 10000\n",
        cloud(&more)
    ))
    .unwrap();
    let request = policies::RequestFacts {
        prompt_tokens: PromptTokens { min: 50, likely: 100, max: 200 },
        max_output_tokens: 500,
        choices: 2,
        ..policies::RequestFacts::default()
    };
    let usd = |text: &str| Some(text.parse().unwrap());
    let [cloud, edge] = &config.routes[..] else { panic!("two routes") };
    let assumed = cloud.assumed(&request, NOW_S, Some(10));
    assert_eq!(assumed.worst_case, usd("0.0022"), "200 and twice 500 tokens");
    assert_eq!(assumed.expected, usd("0.00014"), "100 and twice 10 tokens");
    assert_eq!((assumed.state, assumed.tools), (RouteState::Ready, Some(false)));
    assert_eq!((assumed.context_tokens, assumed.local), (Some(1000), false));
    for longest in [None, Some(9_999)] {
        let assumed = cloud.assumed(&request, NOW_S, longest);
        assert_eq!(assumed.expected, usd("0.0021"), "no answer is longer than its cap");
    }
    let assumed = edge.assumed(&request, NOW_S, Some(10));
    // A tenth of a second for the prompt, and 0.2 for two answers; at most 5 of a choice.
    assert_eq!(assumed.expected, usd("0.000083333333"));
    assert_eq!(assumed.worst_case, usd("0.001416666667"));
    assert!(assumed.local && !assumed.free);
}

#[test]
fn inline_rates_are_per_million_tokens() {
    let text =
        cloud("[routes.c.price]\ninput = \"0.25\"\noutput = \"2\"\ncache_read = \"0.025\"\n");
    let config = parse(&text).unwrap();
    let RoutePrice::Tokens(price) = config.routes[0].price.at(NOW_S) else { panic!("per token") };
    assert_eq!(price.standard.base.input, PicoUsd::from_pico(250_000));
    assert_eq!(price.standard.base.cache_read, PicoUsd::from_pico(25_000));
    assert_eq!(price.standard.base.cache_write_1h, price.standard.base.input);
    assert_eq!(price.standard.base.reasoning, price.standard.base.output);
}

#[test]
fn what_others_can_reach_is_said() {
    let config = parse(&format!("[server]\nlisten = \"0.0.0.0:8655\"\n{EDGE}")).unwrap();
    assert!(config.warnings[0].contains("without TLS"));
    let config = parse(&format!("[admin]\nlisten = \"0.0.0.0:8656\"\n{EDGE}")).unwrap();
    assert!(config.warnings[0].contains("listening on 0.0.0.0:8656"), "the admin key is one too");
    let config = parse(&format!("[admin]\nlisten = \"127.0.0.1:8656\"\n{EDGE}")).unwrap();
    assert!(config.warnings.is_empty());
    let config = parse(&cloud("api_key = \"k\"\n").replace("https://h", "http://h")).unwrap();
    assert!(config.warnings[0].contains("sends its key in clear"));
    let config = parse(&cloud("api_key = \"k\"\n").replace("https://h", "http://[::1]:9")).unwrap();
    assert!(!config.warnings[0].contains("in clear"));
}

#[test]
fn gpu_layers_are_automatic_or_a_number() {
    let layers = |line: &str| match &parse(&format!("{EDGE}{line}")).unwrap().routes[0].source {
        RouteSource::Local(local) => local.gpu_layers,
        RouteSource::Cloud(_) => panic!("it is local"),
    };
    assert_eq!(layers(""), None);
    assert_eq!(layers("gpu_layers = \"auto\"\n"), None);
    assert_eq!(layers("gpu_layers = 12\n"), Some(12));
    for wrong in ["\"all\"", "-1", "1.5"] {
        let error = parse(&format!("{EDGE}gpu_layers = {wrong}\n")).unwrap_err();
        assert!(error.to_string().contains("\"auto\" or a number of layers"), "{error}");
    }
}

#[test]
fn a_draft_model_is_a_file_beside_the_configuration() {
    let drafted = |more: &str| parse(&format!("{EDGE}speculation = \"draft\"\n{more}"));
    let config = drafted("draft_model = \"small.gguf\"\ndraft_tokens_max = 5\n").unwrap();
    let RouteSource::Local(local) = &config.routes[0].source else { panic!("a local one") };
    let file = "/etc/tollgate/small.gguf".into();
    let expected = local_engine::Speculation::Draft { file, tokens_max: 5, streams_max: 2 };
    assert_eq!(local.speculation, expected);
    let without = drafted("").unwrap_err().to_string();
    assert!(without.contains("needs a `draft_model`"), "{without}");
}

#[test]
fn the_cap_goes_where_the_version_of_azures_api_takes_it() {
    let of = |kind: &str, more: &str| {
        let written = cloud(more).replace("\"openai\"", &format!("\"{kind}\""));
        let config = parse(&written).unwrap();
        let RouteSource::Cloud(cloud) = &config.routes[0].source else { panic!("a cloud") };
        (cloud.cap_field, cloud.api_version.clone())
    };
    let dated = Some("2024-10-21".to_owned());
    assert_eq!(of("azure", "api_version = \"2024-10-21\"\n"), (CapField::MaxTokens, dated));
    assert_eq!(of("azure", ""), (CapField::MaxCompletionTokens, None));
    let refused = error(&cloud("api_version = \"2024-10-21\"\n"));
    assert!(refused.contains(":6:15: `api_version` is for routes of kind \"azure\""), "{refused}");
}
