//! The first start makes what a newcomer needs, and later starts keep it.

use crate::harness::{Child, Gate, GateBuilder, eventually, not_checked};
use e2e::standin::StandIn;
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

fn mode(path: &std::path::Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

async fn a_cloud() -> (StandIn, GateBuilder) {
    let cloud = StandIn::start().await.unwrap();
    let builder = Gate::builder().cloud(&cloud);
    (cloud, builder)
}

#[tokio::test]
async fn the_first_start_writes_two_keys_that_work_and_only_the_owner_can_read() {
    let (_cloud, builder) = a_cloud().await;
    let mut gate = builder.start().await;
    let data = gate.builder_ref().data_dir();
    assert_eq!(mode(&data), 0o700);
    for file in ["first.key", "admin.key"] {
        assert_eq!(mode(&data.join(file)), 0o600, "{file}");
    }
    let first = std::fs::read_to_string(data.join("first.key")).unwrap();
    let key = crate::harness::Key { id: String::new(), secret: first.trim().to_owned() };
    gate.ask("Hello.").by(&key).send().await.ok();

    assert!(gate.log().contains("/first.key, "), "{}", gate.log());
    assert!(!gate.log().contains(first.trim()), "it says where the key is, not the key");

    gate.stop().await;
    let gate = gate.restarted_after(|_| {}).await;
    assert_eq!(std::fs::read_to_string(data.join("first.key")).unwrap(), first);
    gate.ask("Hello again.").by(&key).send().await.ok();
    assert_eq!(gate.ledger().entries().await.len(), 2, "the ledger goes on");
}

#[tokio::test]
async fn make_run_prints_a_key_and_a_curl_line_that_works() {
    let run =
        include_str!("../../Makefile").lines().find(|line| line.contains("\" serve --config"));
    assert!(run.is_some_and(|recipe| recipe.contains(" --hello")), "{run:?}");
    let (_cloud, builder) = a_cloud().await;
    builder.write();
    let child = Child::start_with_hello(builder.config_file()).await;
    let gate = Gate::of(builder, child).await;
    let first = std::fs::read_to_string(gate.builder_ref().data_dir().join("first.key")).unwrap();
    let log = gate.log();
    let told = |name: &str| {
        let line = log.lines().find_map(|line| line.strip_prefix(&format!("  {name:<8} ")));
        line.unwrap_or_else(|| panic!("no {name}: {log}")).to_owned()
    };
    assert_eq!(told("key"), first.trim());
    let curl = told("try");
    assert!(curl.starts_with("curl "), "{curl}");
    if std::process::Command::new("curl").arg("--version").output().is_err() {
        return not_checked("curl", "no curl");
    }
    // As a shell reads it; no proxy of this machine stands between.
    let mut shell = tokio::process::Command::new("bash");
    let ran = shell.args(["-c", &curl]).env("NO_PROXY", "*").output().await.unwrap();
    let answer = String::from_utf8_lossy(&ran.stdout);
    let answered: Value = serde_json::from_str(&answer).unwrap_or_else(|_| panic!("{ran:?}"));
    assert_eq!(answered["choices"][0]["message"]["content"], "All is well in the cloud.");
    assert_eq!(gate.ledger().only_entry().await.outcome(), "completed");
}

#[tokio::test]
async fn a_first_key_whose_file_is_gone_is_not_pointed_to() {
    let (_cloud, builder) = a_cloud().await;
    let mut gate = builder.start().await;
    gate.stop().await;
    let remove = |data: &std::path::Path| std::fs::remove_file(data.join("first.key")).unwrap();
    let gate = gate.restarted_after(remove).await;
    let told = || async { gate.log().contains("/admin.key").then(|| gate.log()) };
    let log = eventually("the keys to be told of", told).await;
    assert!(!log.contains("first.key"), "{log}");
}

#[tokio::test]
async fn a_second_server_on_the_same_directory_is_refused() {
    let (_cloud, builder) = a_cloud().await;
    let gate = builder.start().await;
    let dir = gate.builder_ref().data_dir();
    let ran = Child::run(dir.parent().unwrap(), &["serve", "--config", "tollgate.toml"]).await;
    assert_ne!(ran.code, 0, "{}", ran.stdout);
    gate.ask("Still there?").send().await.ok();
}

#[tokio::test]
async fn a_wrong_configuration_is_an_error_with_line_and_key() {
    let (_cloud, builder) = a_cloud().await;
    builder.write();
    let mut text = std::fs::read_to_string(builder.config_file()).unwrap();
    text.insert_str(0, "[sever]\nlisten = \"127.0.0.1:0\"\n");
    std::fs::write(builder.config_file(), text).unwrap();
    let directory = builder.config_file();
    let ran =
        Child::run(directory.parent().unwrap(), &["serve", "--config", "tollgate.toml"]).await;
    assert_ne!(ran.code, 0);
    assert!(
        ran.stderr.contains("tollgate.toml:1:") && ran.stderr.contains("sever"),
        "{}",
        ran.stderr
    );
}

#[tokio::test]
async fn init_writes_the_shipped_configuration() {
    let directory = tempfile::tempdir().unwrap();
    let ran = Child::run(directory.path(), &["init"]).await;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let written = std::fs::read_to_string(directory.path().join("tollgate.toml")).unwrap();
    let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../tollgate.toml");
    assert_eq!(written, std::fs::read_to_string(shipped).unwrap());
    let again = Child::run(directory.path(), &["init"]).await;
    assert_ne!(again.code, 0, "what is there is not overwritten");
}

#[tokio::test]
async fn sigterm_lets_answers_end_and_books_whole() {
    let cloud = StandIn::start().await.unwrap();
    let mut script = e2e::standin::Script::says("one two three");
    script.between = std::time::Duration::from_millis(150);
    cloud.next(script);
    let mut gate = Gate::builder().cloud(&cloud).start().await;
    let mut open = gate.ask("Count.").streamed().open().await;
    open.read_pieces(1).await;
    gate.stop().await;
    let answer = open.rest().await;
    assert!(answer.done(), "an answer that ran when SIGTERM came is brought to its end");
    assert_eq!(gate.ledger_verify().await.code, 0);
    let gate = gate.restarted_after(|_| {}).await;
    assert_eq!(gate.ledger().only_entry().await.outcome(), "completed");
}
