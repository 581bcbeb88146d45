//! Promises of the policy watch that need no clock and no signal.

use super::*;
use crate::config::{Environment, Surroundings};

fn policy_to(route: &str) -> String {
    format!("[[choose]]\nname = \"to {route}\"\nroutes = [\"{route}\"]\n")
}

struct Case {
    dir: tempfile::TempDir,
    policy: PolicyBox,
    hand: crate::clock::Hand,
}

impl Case {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("mine.toml"), policy_to("one")).unwrap();
        let (clock, hand) = Clock::standing(7);
        let policy = PolicyBox::open(&config(dir.path()), clock).unwrap();
        Self { dir, policy, hand }
    }

    fn write(&self, text: &str) {
        fs::write(self.dir.path().join("mine.toml"), text).unwrap();
    }

    fn rejected(&self) -> String {
        self.policy.last_error().expect("an error").error.clone()
    }
}

fn config(dir: &Path) -> Config {
    let route = |name: &str| format!("[routes.{name}]\nkind = \"local\"\nfile = \"m\"\n");
    let text = format!("[policy]\nfile = \"mine.toml\"\n{}{}", route("one"), route("two"));
    let surroundings =
        Surroundings { lookup: &|_| None, environment: Environment::Needed, now_s: 1_795_305_600 };
    Config::parse(&text, &dir.join("tollgate.toml"), surroundings).unwrap()
}

#[test]
fn a_changed_file_becomes_the_policy() {
    let case = Case::new();
    let before = case.policy.current();
    assert!(case.policy.candidate(false).is_none(), "the same text is no news");
    case.write(&policy_to("two"));
    case.policy.accept(case.policy.candidate(false).unwrap());
    assert_ne!(case.policy.current().version(), before.version());
    assert_eq!(before.source(), policy_to("one"), "who holds the old one keeps it");
}

#[test]
fn a_bad_file_changes_nothing_and_says_why_with_file_line_and_key() {
    let case = Case::new();
    let before = case.policy.current();
    let file = case.dir.path().join("mine.toml").display().to_string();
    for (text, place, word) in [
        ("[[choose]]\nname = \"x\"\nroutes = [\"one\"]\nroots = 1\n", ":4:1:", "roots"),
        ("[[choose]]\nname = \"x\"\nroutes = [\"three\"]\n", ":", "three"),
        ("[[choose\n", ":1:", ""),
        ("", ":", "choose"),
    ] {
        case.write(text);
        assert!(case.policy.candidate(false).is_none());
        let said = case.rejected();
        assert!(said.starts_with(&format!("{file}{place}")), "{said}");
        assert!(said.contains(word) && !said.contains('\n'), "{said}");
        assert_eq!(case.policy.current().version(), before.version());
    }
    fs::remove_file(&file).unwrap();
    assert!(case.policy.candidate(false).is_none());
    assert!(case.rejected().starts_with(&file));

    case.write(&policy_to("one"));
    assert!(case.policy.candidate(false).is_none());
    assert_eq!(case.policy.last_error(), None, "the old text is sound again");
}

#[test]
fn the_same_bad_text_is_complained_about_once_unless_asked() {
    let case = Case::new();
    case.write("[[choose\n");
    let look = |now, asked| {
        case.hand.set(now);
        assert!(case.policy.candidate(asked).is_none());
        case.policy.last_error().unwrap().unix_ms
    };
    assert_eq!(look(10, false), 10);
    assert_eq!(look(20, false), 10, "the directory changed, the file did not");
    assert_eq!(look(30, true), 30, "SIGHUP asks again");
    case.write("[[choosy\n");
    assert_eq!(look(40, false), 40);
}

#[test]
fn a_file_that_is_too_large_is_not_read_whole() {
    let case = Case::new();
    let bytes = usize::try_from(FILE_BYTES_MAX).unwrap() + 1;
    case.write(&" ".repeat(bytes));
    assert!(case.policy.candidate(false).is_none());
    assert!(case.rejected().contains("is larger than"));
}

#[test]
fn what_is_no_regular_file_is_refused_and_not_waited_for() {
    let case = Case::new();
    let file = case.dir.path().join("mine.toml");
    fs::remove_file(&file).unwrap();
    let made = std::process::Command::new("mkfifo").arg(&file).status();
    assert!(made.unwrap().success());
    assert!(case.policy.candidate(false).is_none());
    assert!(case.rejected().ends_with("mine.toml: is no regular file"), "{}", case.rejected());
    fs::remove_file(&file).unwrap();
    fs::create_dir(&file).unwrap();
    assert!(case.policy.candidate(false).is_none());
    assert!(case.rejected().ends_with("mine.toml: is no regular file"), "{}", case.rejected());
}

#[test]
fn a_bad_policy_at_the_start_is_an_error_with_its_place() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("mine.toml"), "[[choose]]\nname = 1\n").unwrap();
    let error = PolicyBox::open(&config(dir.path()), Clock::system()).unwrap_err().to_string();
    assert!(error.contains("mine.toml:2:") && error.contains("name"), "{error}");
    let standing_in = PolicyBox::open_or_stand_in(&config(dir.path()), &Clock::system()).unwrap();
    assert!(standing_in.last_error().unwrap().error.contains("mine.toml:2:"));
}

#[test]
fn every_shipped_policy_opens_with_the_shipped_routes() {
    for name in shipped::policy_names() {
        let text = shipped::policy(name).unwrap();
        let routes = [KnownRoute { id: policies::RouteId::new("edge"), local: true }];
        parse(&PolicySource::Shipped(name), text, &routes).unwrap();
    }
}
