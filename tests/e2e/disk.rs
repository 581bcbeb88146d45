//! A disk that stands still, a disk that is full, a directory that another process writes: nothing
//! acknowledged is lost, nothing hangs that need not, and it goes on by itself.

use crate::harness::{Child, Gate, Key, Volume, eventually};
use e2e::standin::{Hold, Script, StandIn};
use std::{collections::BTreeSet, pin::pin, time::Duration};

/// How long a test looks at something that must not happen. Too short a look can only miss a fault,
/// never invent one.
const LOOK: Duration = Duration::from_millis(500);

/// A gateway in strict mode whose data lie on a disk of its own.
async fn on_a_disk_of_its_own(mib: u64) -> Option<(StandIn, Gate, Key, Volume)> {
    let cloud = StandIn::start().await.unwrap();
    let builder = Gate::builder().cloud(&cloud).ledger("durability = \"strict\"\nballast_mib = 8");
    let disk = Volume::mounted_at(&builder.data_dir(), mib)?;
    let gate = builder.start().await;
    let key = gate.new_key().with_budget_usd("1000").create().await;
    Some((cloud, gate, key, disk))
}

/// The first request that is answered again.
async fn paid_work_goes_on(gate: &Gate, key: &Key) -> String {
    let again = eventually("paid work to go on", || async {
        let answer = gate.ask("And now?").by(key).send().await;
        (answer.status == 200).then_some(answer)
    });
    again.await.id().to_owned()
}

/// Holds the promises against the ledger, and prints them.
async fn judged(what: &str, gate: &Gate, key: &Key, asked: usize, promised: &BTreeSet<String>) {
    gate.until_nothing_is_reserved().await;
    let kept: BTreeSet<_> = gate.ledger().entries().await.iter().map(|one| one.id()).collect();
    let lost = promised.difference(&kept).count();
    println!("{what}: {asked} requests, {} acknowledged, {lost} lost", promised.len());
    assert_eq!(lost, 0);
    let entries = gate.ledger().entries().await;
    let spent: u128 = entries.iter().filter_map(|entry| entry.cost()).sum();
    assert_eq!(gate.budget(key).await.spent(), spent, "every charge once");
    let report = gate.ledger_verify().await;
    assert_eq!(report.code, 0, "{}{}", report.stdout, report.stderr);
}

#[tokio::test]
async fn a_disk_that_stands_still_holds_up_what_must_wait_for_it_and_nothing_else() {
    let Some((cloud, gate, key, disk)) = on_a_disk_of_its_own(64).await else { return };
    let mut promised = BTreeSet::new();
    promised.insert(gate.ask("Before.").by(&key).send().await.ok().id().to_owned());
    let hold = Hold::after_pieces(2);
    cloud.next(Script::says("one two three").held(&hold));
    let mut running = gate.ask("Count.").by(&key).streamed().open().await;
    running.read_pieces(2).await;
    let asked_before = cloud.counts().requests;

    disk.freeze();
    hold.let_go();
    // The text flows on; the end waits, and so does what is not reserved yet.
    running.read_pieces(3).await;
    let mut rest = pin!(running.rest());
    let mut new = pin!(gate.ask("And me?").by(&key).send());
    let waited = async { tokio::join!(&mut rest, &mut new) };
    assert!(tokio::time::timeout(LOOK, waited).await.is_err(), "acknowledged while frozen");
    assert_eq!(cloud.counts().requests, asked_before, "sent while its reservation was not durable");
    // One that leaves is not held up by anything.
    gate.ask("I will not wait.").by(&key).leave_after(tokio::time::sleep(LOOK)).await;
    // What needs no disk answers.
    assert_eq!(gate.get("/health").await.status, 200);
    assert!(gate.metrics().await.contains("tollgate_store_healthy"));
    assert!(gate.budget(&key).await.reserved() > 0);

    disk.thaw();
    let (rest, new) = tokio::join!(rest, new);
    assert!(rest.whole && rest.done());
    promised.extend([rest.id().to_owned(), new.ok().id().to_owned()]);
    judged("a disk that stood still", &gate, &key, 4, &promised).await;
}

#[tokio::test]
async fn a_disk_that_is_really_full_stops_paid_work_settles_what_runs_and_heals() {
    let Some((cloud, gate, key, disk)) = on_a_disk_of_its_own(64).await else { return };
    let mut promised = BTreeSet::new();
    for _ in 0..10 {
        promised.insert(gate.ask("Before.").by(&key).send().await.ok().id().to_owned());
    }
    let hold = Hold::after_pieces(2);
    cloud.next(Script::says("one two three").held(&hold));
    let mut running = gate.ask("Count.").by(&key).streamed().open().await;
    running.read_pieces(2).await;

    let filler = disk.fill();
    let refused = eventually("paid work to be refused", || async {
        let answer = gate.ask("Is there room?").by(&key).send().await;
        (answer.status == 503).then_some(answer)
    })
    .await;
    assert_eq!(refused.error().code.as_deref(), Some("ledger_unavailable"));
    // What runs ends, told or not that it is on disk: the ballast gives it room.
    hold.let_go();
    let rest = running.rest().await;
    if rest.whole {
        promised.insert(rest.id().to_owned());
    }

    std::fs::remove_file(filler).unwrap();
    promised.insert(paid_work_goes_on(&gate, &key).await);
    assert_eq!(gate.ledger().entry(rest.id()).await.outcome(), "completed");
    judged("a full disk", &gate, &key, 12, &promised).await;
}

#[tokio::test]
async fn a_start_on_a_full_disk_serves_and_keeps_its_index() {
    let Some((_cloud, mut gate, key, disk)) = on_a_disk_of_its_own(64).await else { return };
    let mut promised = BTreeSet::new();
    promised.insert(gate.ask("Before.").by(&key).send().await.ok().id().to_owned());
    gate.stop().await;
    let filler = disk.fill();
    let gate = gate.restarted_after(|_| {}).await;
    assert!(!gate.log().contains("the index was damaged"), "{}", gate.log());
    let names = std::fs::read_dir(gate.builder_ref().data_dir()).unwrap();
    let names: Vec<_> = names.map(|item| item.unwrap().file_name()).collect();
    let aside = names.iter().any(|name| name.to_string_lossy().contains("broken"));
    assert!(!aside, "{names:?}");
    std::fs::remove_file(filler).unwrap();
    promised.insert(paid_work_goes_on(&gate, &key).await);
    judged("a start on a full disk", &gate, &key, 2, &promised).await;
}

#[tokio::test]
async fn a_data_directory_that_goes_is_told_and_paid_work_stops_until_it_is_back() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let ready = || async { gate.get("/ready").await };
    gate.ask("Before.").send().await.ok();
    assert_eq!(ready().await.status, 200);
    let data = gate.builder_ref().data_dir();
    let away = data.with_extension("away");
    std::fs::rename(&data, &away).unwrap();
    let refused = gate.ask("Is there a ledger?").send().await;
    assert_eq!(refused.status, 503);
    assert_eq!(refused.error().code.as_deref(), Some("ledger_unavailable"));
    let told = ready().await;
    assert_eq!((told.status, &told.json()["status"]), (503, &"not_ready".into()));
    assert_eq!(told.json()["store"]["condition"]["state"], "failed");
    assert_eq!(cloud.counts().requests, 1);

    std::fs::rename(&away, &data).unwrap();
    let well = || async { (ready().await.status == 200).then_some(()) };
    eventually("it to be found again", well).await;
    gate.ask("And now?").send().await.ok();
    assert_eq!(gate.ledger_verify().await.code, 0);
}

#[tokio::test]
async fn a_gateway_is_ready_without_a_ledger_where_a_route_is_not_paid_for() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder()
        .cloud_named("ours", &cloud, "budgeted = false")
        .cloud_named("paid", &cloud, "")
        .start()
        .await;
    std::fs::remove_dir_all(gate.builder_ref().data_dir()).unwrap();
    eventually("the loss to be found", || async {
        let told = gate.get("/ready").await;
        assert_eq!(told.status, 200);
        (told.json()["store"]["condition"]["state"] == "failed").then_some(())
    })
    .await;
    let served = gate.ask("Are you there?").from("ours").send().await;
    assert_eq!(served.status, 200, "{}", served.body_text());
    let refused = gate.ask("And you?").from("paid").send().await;
    assert_eq!(refused.status, 503, "{}", refused.body_text());
}

#[tokio::test]
async fn a_second_process_is_turned_away_and_the_first_goes_on() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).ledger("durability = \"strict\"").start().await;
    let dir = gate.builder_ref().config_file().parent().unwrap().to_owned();
    let second = Child::run(&dir, &["serve"]).await;
    assert_ne!(second.code, 0);
    assert!(second.stderr.contains("in use by another tollgate process"), "{}", second.stderr);
    gate.ask("Are you still there?").send().await.ok();
    let entries = gate.ledger().entries().await;
    assert_eq!(entries.len(), 1);
    assert_eq!(gate.ledger_verify().await.code, 0);
}
