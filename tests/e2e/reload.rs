//! A policy is swapped while requests run; a bad one changes nothing and says why.

use crate::harness::{Gate, eventually};
use e2e::standin::StandIn;
use std::{fmt::Write as _, sync::mpsc::RecvTimeoutError::Timeout, time::Duration};

struct Case {
    _first: StandIn,
    _second: StandIn,
    gate: Gate,
}

fn policy_to(route: &str) -> String {
    format!("[[choose]]\nname = \"to-{route}\"\nroutes = [\"{route}\"]\n")
}

async fn with_a_policy_file() -> Case {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let gate = Gate::builder()
        .cloud_named("first", &first, "")
        .cloud_named("second", &second, "")
        .policy_text(&policy_to("first"))
        .start()
        .await;
    Case { _first: first, _second: second, gate }
}

impl Case {
    /// Replaces the file as an editor does: a new file renamed over the old one.
    fn write_policy(&self, text: &str) {
        let file = self.gate.builder_ref().policy_file();
        let new = file.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, file).unwrap();
    }

    async fn route_and_policy(&self) -> (String, String) {
        let answer = self.gate.ask("Where to?").send().await.ok();
        (
            answer.header("x-tollgate-route").to_owned(),
            answer.header("x-tollgate-policy").to_owned(),
        )
    }

    async fn until_route(&self, route: &str) -> String {
        eventually(&format!("requests to go to {route}"), || async {
            let (now, policy) = self.route_and_policy().await;
            (now == route).then_some(policy)
        })
        .await
    }

    async fn until_logged(&self, words: &[&str]) {
        eventually(&format!("{words:?} in the log"), || async {
            let log = self.gate.log();
            log.lines().any(|line| words.iter().all(|word| line.contains(word))).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn a_changed_file_takes_effect_and_entries_name_the_version_that_decided() {
    let case = with_a_policy_file().await;
    let (route, old) = case.route_and_policy().await;
    assert_eq!(route, "first");
    case.write_policy(&policy_to("second"));
    let new = case.until_route("second").await;
    assert_ne!(old, new, "another text is another version");

    let entries = case.gate.ledger().entries().await;
    let versions: Vec<_> =
        entries.iter().map(|e| e.0["decision"]["version"].as_str().unwrap().to_owned()).collect();
    assert!(old.contains(&versions[0]), "{old} names {}", versions[0]);
    assert!(new.contains(versions.last().unwrap()), "{new} names {:?}", versions.last());
    assert_eq!(entries[0].rule(), "to-first");
    assert_eq!(entries.last().unwrap().rule(), "to-second");
}

#[tokio::test]
async fn a_file_behind_a_link_is_noticed_where_it_is_written() {
    let (first, second) = (StandIn::start().await.unwrap(), StandIn::start().await.unwrap());
    let builder = Gate::builder()
        .cloud_named("first", &first, "")
        .cloud_named("second", &second, "")
        .policy_text(&policy_to("first"));
    let link = builder.policy_file();
    let [here, there] = ["here", "there"].map(|store| {
        let folder = link.parent().unwrap().join(store);
        std::fs::create_dir(&folder).unwrap();
        folder.join("kept.toml")
    });
    let lead_to = |file: &std::path::Path| {
        let new = link.with_extension("new");
        std::os::unix::fs::symlink(file, &new).unwrap();
        std::fs::rename(new, &link).unwrap();
    };
    std::fs::write(&here, policy_to("first")).unwrap();
    lead_to(&here);
    let case = Case { gate: builder.start().await, _first: first, _second: second };
    assert_eq!(case.route_and_policy().await.0, "first");
    std::fs::write(&here, policy_to("second")).unwrap();
    case.until_route("second").await;
    // Led elsewhere, it is watched there.
    std::fs::write(&there, policy_to("first")).unwrap();
    lead_to(&there);
    case.until_route("first").await;
    std::fs::write(&there, policy_to("second")).unwrap();
    case.until_route("second").await;
}

#[tokio::test]
async fn a_bad_file_keeps_the_old_policy_and_says_why_with_line_and_key() {
    let case = with_a_policy_file().await;
    let (_, old) = case.route_and_policy().await;
    let bad = [
        // An unknown key, in line 4.
        ("[[choose]]\nname = \"x\"\nroutes = [\"second\"]\nroots = 1\n", ":4:", "roots"),
        // A route that is not configured, in line 3.
        ("[[choose]]\nname = \"x\"\nroutes = [\"third\"]\n", ":3:11: choose[0].routes[0]", "third"),
        // Not TOML.
        ("[[choose\n", ":1:", ""),
        // A condition on a signal that does not exist.
        (
            "[[choose]]\nname = \"x\"\nroutes = [\"second\"]\nwhen.prompt_token.gt = 5\n",
            ":4:",
            "prompt_token",
        ),
    ];
    for (text, line, key) in bad {
        case.write_policy(text);
        case.until_logged(&["policy.toml", line, key]).await;
        assert_eq!(case.route_and_policy().await, ("first".to_owned(), old.clone()), "{text}");
    }
    case.write_policy(&policy_to("second"));
    case.until_route("second").await;
}

#[tokio::test]
async fn a_policy_that_fails_its_own_tests_is_refused() {
    let case = with_a_policy_file().await;
    let failing = format!(
        "{}\n[[test]]\nname = \"goes to the first\"\nroutes.first = {{ local = false }}\n\
         routes.second = {{ local = false }}\nexpect = {{ routes = [\"first\"] }}\n",
        policy_to("second")
    );
    case.write_policy(&failing);
    case.until_logged(&["policy.toml", "goes to the first"]).await;
    assert_eq!(case.route_and_policy().await.0, "first");
}

#[tokio::test]
async fn a_text_that_takes_long_to_check_does_not_replace_a_newer_one() {
    let case = with_a_policy_file().await;
    let mut slow = policy_to("first");
    for number in 0..2_000 {
        write!(
            slow,
            "[[test]]\nname = \"{number}\"\nroutes.first = {{ local = false }}\n\
             expect = {{ routes = [\"first\"] }}\n"
        )
        .unwrap();
    }
    case.write_policy(&slow);
    let reload = || case.gate.admin_send("POST", "/policies/reload", serde_json::json!({}));
    let newer = async {
        // The slow one is being checked by then. Too early or too late can only miss a fault.
        tokio::time::sleep(Duration::from_millis(30)).await;
        case.write_policy(&policy_to("second"));
        reload().await
    };
    let (slow, newer) = tokio::join!(reload(), newer);
    assert_eq!((slow.status, newer.status), (200, 200));
    // Whichever was done last.
    assert_eq!(case.route_and_policy().await.0, "second");
}

#[tokio::test]
async fn another_file_that_is_written_beside_the_policy_all_the_time_holds_up_no_change() {
    let mut case = with_a_policy_file().await;
    let log = case.gate.builder_ref().policy_file().with_file_name("other.log");
    let (stop, stopped) = std::sync::mpsc::sync_channel::<()>(1);
    let writer = std::thread::spawn(move || {
        let mut line = 0_u64;
        // Never quiet for as long as an editor's steps are waited for.
        while stopped.recv_timeout(Duration::from_millis(1)).is_err_and(|e| e == Timeout) {
            line += 1;
            std::fs::write(&log, line.to_string()).unwrap();
        }
    });
    case.write_policy(&policy_to("second"));
    case.until_route("second").await;
    case.write_policy(&policy_to("first"));
    case.gate.child().signal(libc::SIGHUP);
    case.until_route("first").await;
    drop(stop);
    writer.join().unwrap();
}

#[tokio::test]
async fn a_policy_that_is_gone_is_complained_about_once_whatever_else_is_written_there() {
    let case = with_a_policy_file().await;
    let file = case.gate.builder_ref().policy_file();
    std::fs::remove_file(&file).unwrap();
    case.until_logged(&["the policy file is refused", "No such file"]).await;
    for step in 0..8 {
        std::fs::write(file.with_file_name("other.log"), step.to_string()).unwrap();
        // Longer than an editor's steps are waited for: each could be a reason to read.
        tokio::time::sleep(Duration::from_millis(70)).await;
    }
    case.write_policy(&policy_to("second"));
    case.until_route("second").await;
    let log = case.gate.log();
    let complaints = log.lines().filter(|line| line.contains("the policy file is refused"));
    assert_eq!(complaints.count(), 1, "{log}");
}

#[tokio::test]
async fn a_policy_behind_a_link_that_is_moved_is_read_again() {
    let case = with_a_policy_file().await;
    let file = case.gate.builder_ref().policy_file();
    // As a mounted ConfigMap lies there: policy.toml -> current/policy.toml, current -> one version.
    let version = |name: &str, route: &str| {
        let dir = file.with_file_name(name);
        std::fs::create_dir(&dir).unwrap();
        std::fs::write(dir.join("policy.toml"), policy_to(route)).unwrap();
        let link = file.with_file_name("new");
        std::os::unix::fs::symlink(name, &link).unwrap();
        std::fs::rename(link, file.with_file_name("current")).unwrap();
    };
    version("v1", "second");
    let link = file.with_file_name("new");
    std::os::unix::fs::symlink("current/policy.toml", &link).unwrap();
    std::fs::rename(link, &file).unwrap();
    case.until_route("second").await;
    version("v2", "first");
    case.until_route("first").await;
}

#[tokio::test]
async fn a_policy_whose_directory_is_another_one_is_read_there() {
    let case = with_a_policy_file().await;
    let file = case.gate.builder_ref().policy_file();
    // Two levels down, where a change of the inner directory's name is seen by no watch of the file's own.
    let outer = file.with_file_name("outer");
    let inner = outer.join("inner");
    std::fs::create_dir_all(&inner).unwrap();
    std::fs::write(inner.join("policy.toml"), policy_to("second")).unwrap();
    let link = file.with_file_name("new");
    std::os::unix::fs::symlink("outer/inner/policy.toml", &link).unwrap();
    std::fs::rename(link, &file).unwrap();
    case.until_route("second").await;
    std::fs::rename(&inner, outer.join("before")).unwrap();
    case.until_logged(&["the policy file is refused", "No such file"]).await;
    std::fs::create_dir(&inner).unwrap();
    std::fs::write(inner.join("policy.toml"), policy_to("first")).unwrap();
    case.until_route("first").await;
    // And is watched there.
    std::fs::write(inner.join("policy.toml"), policy_to("second")).unwrap();
    case.until_route("second").await;
}

#[tokio::test]
async fn sighup_reads_the_file_again() {
    let mut case = with_a_policy_file().await;
    case.write_policy(&policy_to("second"));
    case.gate.child().signal(libc::SIGHUP);
    case.until_route("second").await;
    case.write_policy("nonsense");
    case.gate.child().signal(libc::SIGHUP);
    case.until_logged(&["policy.toml", ":1:"]).await;
    assert_eq!(case.route_and_policy().await.0, "second");
}

#[tokio::test]
async fn a_start_under_the_same_policy_is_no_new_version_of_it() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let before = gate.admin("/policies/history").await;
    assert_eq!(before["data"].as_array().map(Vec::len), Some(1), "{before}");
    let gate = gate.killed_and_restarted().await;
    assert_eq!(gate.admin("/policies/history").await, before);
}

#[tokio::test]
async fn a_bad_policy_at_the_start_is_an_error_with_its_place() {
    let cloud = StandIn::start().await.unwrap();
    let builder = Gate::builder()
        .cloud(&cloud)
        .policy_text("[[choose]]\nname = \"x\"\nroutes = [\"cloud\"]\nonshort = \"next\"\n");
    builder.write();
    let ran = crate::harness::Child::run(
        builder.data_dir().parent().unwrap(),
        &["serve", "--config", "tollgate.toml"],
    )
    .await;
    assert_ne!(ran.code, 0);
    let said = ran.stderr + &ran.stdout;
    assert!(said.contains("policy.toml:4:") && said.contains("onshort"), "{said}");
}
