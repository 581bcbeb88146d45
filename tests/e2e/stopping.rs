//! An orderly end: what runs is brought to its end or cut when the time for it is over, and either way
//! the books are whole.

use crate::harness::{Child, Gate, eventually, processes_in, signal};
use e2e::standin::{Fault, Hold, Script, StandIn};

/// Whether a process has ended; its parent may still have to ask how.
fn has_ended(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit(") ").next().unwrap_or_default();
    state.is_empty() || state.starts_with('Z')
}

#[tokio::test]
async fn sigint_is_as_orderly_as_sigterm() {
    let cloud = StandIn::start().await.unwrap();
    let mut gate = Gate::builder().cloud(&cloud).start().await;
    let hold = Hold::after_pieces(2);
    cloud.next(Script::says("one two three").held(&hold));
    let mut open = gate.ask("Count.").streamed().open().await;
    open.read_pieces(2).await;
    gate.child().signal(libc::SIGINT);
    let address = gate.url().trim_start_matches("http://").to_owned();
    eventually("no more connections to be accepted", || async {
        tokio::net::TcpStream::connect(&address).await.is_err().then_some(())
    })
    .await;
    let pid = gate.child().pid();
    assert!(!has_ended(pid), "an answer runs");
    hold.let_go();
    let answer = open.rest().await;
    assert!(answer.whole && answer.done(), "{}", answer.body_text());
    eventually("its end", || async { has_ended(pid).then_some(()) }).await;
    // How it ended is asked here: in order.
    gate.stop().await;
    assert_eq!(gate.ledger_verify().await.code, 0);
    let gate = gate.restarted_after(|_| {}).await;
    assert_eq!(gate.ledger().only_entry().await.outcome(), "completed");
}

#[tokio::test]
async fn an_answer_that_never_ends_is_cut_when_its_time_is_over_and_booked() {
    let cloud = StandIn::start().await.unwrap();
    let mut gate = Gate::builder().cloud(&cloud).server("drain_timeout_ms = 300").start().await;
    let key = gate.new_key().with_budget_usd("1").create().await;
    cloud.next(Script::says("one two three").with(Fault::HangMidStream));
    let mut open = gate.ask("Count.").by(&key).streamed().open().await;
    open.read_pieces(2).await;
    gate.stop().await;
    let cut = open.rest().await;
    assert!(!cut.done(), "{}", cut.body_text());
    assert_eq!(gate.ledger_verify().await.code, 0);

    let gate = gate.restarted_after(|_| {}).await;
    let entry = gate.ledger().only_entry().await;
    assert!(!["completed", "crashed"].contains(&entry.outcome().as_str()), "{:#}", entry.0);
    let attempt = entry.only_attempt();
    let cost = attempt.cost().expect("an estimate");
    assert!(cost > 0 && cost <= attempt.reserved(), "{:#}", entry.0);
    assert!(gate.reservations().await.is_empty());
    assert_eq!(gate.budget(&key).await.spent(), cost);
}

#[tokio::test]
async fn who_asks_twice_to_stop_does_not_wait_for_what_runs() {
    let cloud = StandIn::start().await.unwrap();
    // Nothing else ends the answer in time.
    let patient = "idle_timeout_ms = 300000\ntotal_timeout_ms = 300000";
    let mut gate = Gate::builder()
        .cloud_named("cloud", &cloud, patient)
        .server("drain_timeout_ms = 3600000")
        .start()
        .await;
    let hold = Hold::after_pieces(2);
    cloud.next(Script::says("one two three").held(&hold));
    let mut open = gate.ask("Count.").streamed().open().await;
    open.read_pieces(2).await;
    gate.child().signal(libc::SIGTERM);
    eventually("the first to be heard", || async {
        gate.log().contains("SIGTERM: finishing what runs").then_some(())
    })
    .await;
    gate.stop().await;
    let cut = open.rest().await;
    assert!(!cut.done(), "{}", cut.body_text());
    assert_eq!(gate.ledger_verify().await.code, 0);
    let gate = gate.restarted_after(|_| {}).await;
    let entry = gate.ledger().only_entry().await;
    assert!(!["completed", "crashed"].contains(&entry.outcome().as_str()), "{:#}", entry.0);
}

#[tokio::test]
async fn a_start_that_loads_for_long_is_ended_by_a_signal() {
    let builder = Gate::builder()
        .policy("edge-first")
        .edge_with("isolation = \"process\"\ndrill = \"load:3600000\"");
    builder.write();
    let directory = builder.config_file().parent().unwrap().to_owned();
    let serving = Child::run(&directory, &["serve", "--config", "tollgate.toml"]);
    let told = async {
        // The gateway and the process that loads.
        let both = eventually("a load", || async {
            let processes = processes_in(&directory);
            (processes.len() == 2).then_some(processes)
        })
        .await;
        signal(both[0], libc::SIGTERM);
    };
    let (ran, ()) = tokio::join!(serving, told);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    eventually("the end of what loaded", || async {
        processes_in(&directory).is_empty().then_some(())
    })
    .await;
}
