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
fn what_is_set_to_nothing_is_not_set() {
    let common = Common {
        config: PathBuf::new(),
        data_dir: None,
        server: Some(String::new()),
        ca_cert: Some(PathBuf::new()),
        client_cert: Some(PathBuf::new()),
        json: true,
    };
    let common = common.set();
    assert_eq!(common.config, PathBuf::from(CONFIG_FILE));
    assert!(common.server.is_none() && common.ca_cert.is_none() && common.client_cert.is_none());
    let named = Common { server: Some("http://h".to_owned()), ..common };
    assert_eq!(named.set().server.as_deref(), Some("http://h"));
}

#[test]
fn a_ledger_that_cannot_be_seen_is_not_said_to_be_missing() {
    let dir = tempfile::tempdir().unwrap();
    let said = |dir: &std::path::Path| link::has_ledger(dir).unwrap_err().to_string();
    assert!(said(dir.path()).starts_with("there is no ledger in"));
    let round = dir.path().join("round");
    std::os::unix::fs::symlink("round", &round).unwrap();
    assert!(!said(&round).contains("no ledger"), "{}", said(&round));
    std::fs::create_dir(dir.path().join("journal")).unwrap();
    link::has_ledger(dir.path()).unwrap();
}

#[test]
fn what_every_command_takes_stands_apart_in_help() {
    let command = Cli::command();
    let common: Vec<_> = command.get_arguments().filter(|arg| arg.is_global_set()).collect();
    assert!(common.len() > 3, "{common:?}");
    for arg in common {
        assert_eq!(arg.get_help_heading(), Some(EVERYWHERE), "--{}", arg.get_id());
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
    // A decimal comma, a comma between thousands.
    let twice = ["day=1,50", "week=1,500", "month=5,00", "total=2tokens,3tokens"];
    for twice in twice.into_iter().chain(["day=5,soft,soft", "day=5,timezone=UTC,timezone=UTC"]) {
        let said = allowance::budget(twice).unwrap_err();
        assert!(said.contains("the same thing twice"), "{twice}: {said}");
    }
}

/// The help of an argument of a command, on one line.
fn help_of(path: &[&str], argument: &str) -> String {
    let top = Cli::command();
    let command = path.iter().fold(&top, |command, name| command.find_subcommand(name).unwrap());
    let argument = command.get_arguments().find(|known| known.get_id() == argument).unwrap();
    let help = argument.get_long_help().or(argument.get_help()).unwrap().to_string();
    help.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn help_and_document_name_every_grouping_there_is() {
    let help = help_of(&["ledger", "summary"], "group_by");
    let document = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ledger.md");
    let document = std::fs::read_to_string(document).unwrap();
    let (_, document) = document.split_once("grouped by any set of").unwrap();
    let (document, _) = document.split_once("ordered by").unwrap();
    for by in crate::ledger::GroupBy::ALL {
        let name = json!(by).as_str().unwrap().to_owned();
        assert!(help.split([' ', ',', ';']).any(|word| word == name), "{name}: {help}");
        assert!(document.contains(&format!("`{name}`")), "{name}: {document}");
    }
}

#[test]
fn help_says_that_a_budget_needs_one_limit_of_three() {
    let places = [
        (&["key", "create"][..], "budgets"),
        (&["team", "create"], "budgets"),
        (&["user", "create"], "budgets"),
        (&["budget", "set"], "budget"),
    ];
    for (path, argument) in places {
        let help = help_of(path, argument);
        assert!(help.contains("at least one of `USD`, `Ntokens`, `Nrequests`"), "{path:?}: {help}");
        assert!(!help.contains("WINDOW=USD"), "{path:?}: {help}");
    }
}

#[test]
fn a_user_may_be_in_a_team_and_a_team_in_none() {
    for line in ["tollgate user create ada --team red", "tollgate user update ada --team none"] {
        parse(line).unwrap();
        let of_team = line.replace("user", "team");
        assert!(parse(&of_team).unwrap_err().use_stderr(), "{of_team}");
    }
}

#[test]
fn whatever_changes_about_limits_and_budgets_changes_alike_of_keys_teams_and_users() {
    let top = Cli::command();
    let options = |of: &str| {
        let command = top.find_subcommand(of).unwrap().find_subcommand("update").unwrap();
        let named = command.get_arguments().filter_map(|argument| argument.get_long());
        named.map(str::to_owned).collect::<Vec<_>>()
    };
    let (key, team, user) = (options("key"), options("team"), options("user"));
    assert!(team.iter().all(|option| user.contains(option)), "{team:?} {user:?}");
    assert!(user.iter().all(|option| key.contains(option)), "{user:?} {key:?}");
    let of_keys = ["user", "tag", "no-tags", "may-pin", "priority", "expires"];
    assert_eq!(key.len(), user.len() + of_keys.len());
    assert_eq!(user.len(), team.len() + ["team"].len());
}

#[test]
fn a_key_is_of_one_of_three_priorities() {
    for priority in ["high", "normal", "low"] {
        for line in ["create", "update key_a"] {
            parse(&format!("tollgate key {line} --priority {priority}")).unwrap();
        }
    }
    for line in ["create", "update key_a"] {
        let said = parse(&format!("tollgate key {line} --priority urgent")).unwrap_err();
        assert!(said.use_stderr(), "{line}");
        assert!(said.to_string().contains("--priority"), "{said}");
        assert!(said.to_string().contains("high, normal, low"), "{said}");
    }
}

#[test]
fn help_says_whom_the_guard_can_be_lifted_from() {
    let help = help_of(&["guard", "lift"], "subject");
    for of in ["key's id", "user:NAME", "team:NAME"] {
        assert!(help.contains(of), "{of}: {help}");
    }
}

#[test]
fn a_refusal_is_told_in_the_servers_own_words() {
    let told = |status: u16, body: &[u8]| {
        let status = http::StatusCode::from_u16(status).unwrap();
        let refused = link::understood(status, body).unwrap_err();
        (refused.to_string(), refused.exit())
    };
    let said = br#"{"error":{"message":"global/day has 0.10 USD left","type":"budget_exceeded"}}"#;
    for (status, exit) in [
        (400, Exit::Usage),
        (401, Exit::Refused),
        (402, Exit::Refused),
        (404, Exit::NotFound),
        (409, Exit::Refused),
        (429, Exit::Refused),
        (503, Exit::Refused),
    ] {
        assert_eq!(told(status, said), ("global/day has 0.10 USD left".to_owned(), exit));
    }
    // Not a server of ours.
    assert_eq!(told(402, b"<html>").0, "status 402 Payment Required");
}

#[test]
fn parameters_are_escaped() {
    assert_eq!(address::escaped("a b/ü&=%"), "a%20b%2F%C3%BC%26%3D%25");
}

#[test]
fn absurd_counts_of_tokens_stop_at_the_greatest_number() {
    let attempt = json!({"usage": {"input": u64::MAX, "image": 5, "output": 7, "audio_output": 2}});
    let entry = json!({"attempts": [attempt, attempt]});
    assert_eq!(entry::tokens(&entry), format!("{}+18", u64::MAX));
}

#[test]
fn amounts_lose_only_zeros() {
    let row = json!({"a": "0.000412500000", "b": "12.000000000000", "c": null});
    assert_eq!(output::usd(&row, "/a"), "0.0004125");
    assert_eq!(output::usd(&row, "/b"), "12.00");
    assert_eq!(output::usd(&row, "/c"), "-");
}

/// The words of a command line; quotes and `<…>` hold words together.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut until) = (Vec::new(), String::new(), None);
    for letter in line.chars() {
        match (until, letter) {
            (None, ' ') => words.extend((!word.is_empty()).then(|| std::mem::take(&mut word))),
            (None, '"') => until = Some('"'),
            (None, '<') => until = Some('>'),
            (Some(end), _) if letter == end => until = None,
            _ => word.push(letter),
        }
    }
    words.extend((!word.is_empty()).then_some(word));
    words
}

/// Every command line of ours in a text: indented lines and pieces of code.
fn command_lines(text: &str) -> Vec<Vec<String>> {
    let indented = text.lines().filter(|line| line.starts_with("    ")).map(str::trim_start);
    let code = text.lines().flat_map(|line| line.split('`').skip(1).step_by(2));
    let mut found = Vec::new();
    for line in indented.chain(code) {
        let line = line.strip_prefix("target/release/").unwrap_or(line);
        // Neither what is said of it nor the file that it writes to.
        let line = line.split(" #").next().unwrap_or_default();
        let line = line.split(" > ").next().unwrap_or_default();
        if !line.starts_with("tollgate ") {
            continue;
        }
        // `query|show` stands for one and the other.
        let mut lines: Vec<Vec<String>> = vec![Vec::new()];
        for word in words(line) {
            let grown = |line: &Vec<String>, choice: &str| {
                let choice = choice.trim_matches(['[', ']']).to_owned();
                line.iter().cloned().chain([choice]).collect::<Vec<_>>()
            };
            lines = lines
                .iter()
                .flat_map(|line| word.split('|').map(move |choice| grown(line, choice)))
                .collect();
        }
        found.extend(lines);
    }
    found
}

#[test]
fn commands_in_the_documents_are_understood() {
    use clap::error::ErrorKind;
    let top = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut files =
        vec![top.join("README.md"), top.join("tollgate.toml"), top.join("CHANGELOG.md")];
    for entry in std::fs::read_dir(top.join("docs")).unwrap() {
        files.push(entry.unwrap().path());
    }
    let mut seen = 0;
    for file in files {
        for line in command_lines(&std::fs::read_to_string(&file).unwrap()) {
            seen += 1;
            // A command may be named without its arguments.
            let named_or_whole = Cli::try_parse_from(&line).err().is_none_or(|error| {
                matches!(
                    error.kind(),
                    ErrorKind::DisplayHelp
                        | ErrorKind::DisplayVersion
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                        | ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                )
            });
            assert!(named_or_whole, "{}: {}", file.display(), line.join(" "));
        }
    }
    assert!(seen > 40, "{seen} commands: the search is broken");
}
