//! Promises of the command line that need no server.

use super::{allowance, *};
use clap::CommandFactory as _;
use serde_json::json;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(line.split(' '))
}

#[test]
fn the_commands_are_sound() {
    Cli::command().debug_assert();
}

#[test]
fn common_options_may_stand_anywhere() {
    for line in [
        "tollgate --json --config a.toml key list",
        "tollgate key --config a.toml list --json",
        "tollgate key list --json --config a.toml",
    ] {
        let cli = parse(line).unwrap();
        assert!(cli.common.json, "{line}");
        assert_eq!(cli.common.config, PathBuf::from("a.toml"));
    }
}

#[test]
fn wrong_usage_is_exit_code_two_and_help_is_not() {
    for line in
        ["tollgate", "tollgate frob", "tollgate key create --budget day", "tollgate key show"]
    {
        assert!(parse(line).unwrap_err().use_stderr(), "{line}");
    }
    let help = parse("tollgate --help").unwrap_err();
    assert!(!help.use_stderr());
    let help = help.to_string();
    for code in ["0 done", "1 failed", "2 wrong usage", "3 not found", "4 refused", "5 no server"] {
        assert!(help.contains(code), "{help}");
    }
}

#[test]
fn a_budget_is_written_as_window_and_limits() {
    let hard_money = json!({"window": "day", "hard": true, "money_usd": "5.000000000000"});
    assert_eq!(allowance::budget("day=5.00"), Ok(hard_money.clone()));
    assert_eq!(allowance::budget("day=$5"), Ok(hard_money));
    assert_eq!(
        allowance::budget("total=1000tokens,soft"),
        Ok(json!({"window": "total", "hard": false, "tokens": 1000}))
    );
    assert_eq!(
        allowance::budget("month=0.5,7tokens"),
        Ok(json!({"window": "month", "hard": true, "money_usd": "0.500000000000", "tokens": 7}))
    );
    assert_eq!(
        allowance::budget("rolling:24h=9requests"),
        Ok(json!({"window": "rolling:1d", "hard": true, "requests": 9}))
    );
    for wrong in ["5", "day", "day=", "year=5", "day=5,00x", "day=soft", "day=1.0000000000001"] {
        assert!(allowance::budget(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn parameters_are_escaped() {
    assert_eq!(ledger::escaped("a b/ü&=%"), "a%20b%2F%C3%BC%26%3D%25");
}

#[test]
fn amounts_lose_only_zeros() {
    let row = json!({"a": "0.000412500000", "b": "12.000000000000", "c": null});
    assert_eq!(output::usd(&row, "/a"), "0.0004125");
    assert_eq!(output::usd(&row, "/b"), "12.00");
    assert_eq!(output::usd(&row, "/c"), "-");
}
