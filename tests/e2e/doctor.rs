//! `tollgate doctor` says of each route what is wrong and what comes next; it shows no secret, asks for
//! no answer and books nothing.

use crate::harness::{Child, Gate, GateBuilder};
use e2e::{receiver::Down, standin::StandIn};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_util::task::TaskTracker;

/// A provider that answers everything with this head and an empty list.
async fn says(head: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    TaskTracker::new().spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let _read = socket.read(&mut asked).await;
            let body = "{\"object\":\"list\",\"data\":[]}";
            let answer = format!(
                "HTTP/1.1 {head}\r\ncontent-type: application/json\r\nconnection: close\r\n\
                 content-length: {}\r\n\r\n{body}",
                body.len()
            );
            let _written = socket.write_all(answer.as_bytes()).await;
        }
    });
    base_url
}

/// What it says of a gateway that does not run: its exit code, and each route's row.
async fn looked(builder: &GateBuilder) -> (i32, Vec<Value>) {
    builder.write();
    let directory = builder.config_file().parent().unwrap().to_owned();
    let told = Child::run(&directory, &["doctor", "--json"]).await;
    let table = Child::run(&directory, &["doctor"]).await;
    assert_eq!(told.code, table.code, "{}", table.stderr);
    for text in [&told.stdout, &told.stderr, &table.stdout, &table.stderr] {
        assert!(!text.contains("canary"), "no key of a provider: {text}");
    }
    let list: Value = serde_json::from_str(&told.stdout).expect("a list");
    let rows = crate::harness::rows(&list);
    for row in &rows {
        assert!(table.stdout.contains(row["found"].as_str().unwrap()), "{}", table.stdout);
    }
    assert!(!builder.data_dir().join("journal").exists(), "nothing is booked");
    (told.code, rows)
}

#[tokio::test]
async fn what_is_well_is_said_to_be_and_nothing_is_asked_for_but_a_list() {
    let cloud = StandIn::start().await.unwrap();
    let builder = Gate::builder().cloud(&cloud).edge();
    let (code, rows) = looked(&builder).await;
    assert_eq!((code, rows.len()), (0, 2), "{rows:?}");
    assert!(rows.iter().all(|row| row["ok"] == true && row["next"].is_null()), "{rows:?}");
    let asked = cloud.asked();
    assert!(asked.iter().all(|asked| asked.method == "GET" && asked.path == "/v1/models"));
    assert!(asked.iter().all(|asked| asked.body.is_empty()));
    assert_eq!(asked.len(), 2, "once by each command");
    let key = asked[0].header("authorization");
    assert_eq!(key, Some("Bearer sk-upstream-cloud-canary"), "with the route's own key");
}

#[tokio::test]
async fn what_is_wrong_is_named_with_what_to_do() {
    let down = Down::start().unwrap();
    let refused = says("401 Unauthorized").await;
    let broken = says("503 Service Unavailable").await;
    let empty = says("402 Payment Required").await;
    let late = says("200 OK\r\ndate: Sun, 06 Nov 1994 08:49:37 GMT").await;
    let lists_none = says("404 Not Found").await;
    let builder = Gate::builder()
        .cloud_at("refused", &refused, "")
        .cloud_at("broken", &broken, "")
        .cloud_at("empty", &empty, "")
        .cloud_at("late", &late, "")
        .cloud_at("lists-none", &lists_none, "")
        .cloud_at("down", &format!("http://{}/v1", down.address()), "")
        .routes("[routes.edge]\nkind = \"local\"\nfile = \"nowhere.gguf\"\nusd_per_hour = \"1\"\n");
    let (code, rows) = looked(&builder).await;
    assert_eq!(code, 1, "something is wrong");
    for (route, ok, found, next) in [
        ("refused", false, "it does not take the key (status 401)", "`api_key` of the route"),
        ("broken", false, "it fails (status 503)", "look at its status page"),
        ("empty", false, "no credit left (status 402)", "top the account up"),
        ("late", false, "its clock is -", "set this machine's clock"),
        ("lists-none", true, "it answers, and lists no models", ""),
        ("down", false, "no connection", "nothing listens there"),
        ("edge", false, "nowhere.gguf", "put a GGUF file there"),
    ] {
        let row = rows.iter().find(|row| row["route"] == route).expect(route);
        assert_eq!(row["ok"], ok, "{row}");
        assert!(row["found"].as_str().unwrap().contains(found), "{row}");
        assert!(row["next"].as_str().unwrap_or_default().contains(next), "{row}");
    }
}
