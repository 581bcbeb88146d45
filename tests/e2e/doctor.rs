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

const LIST: &str = "{\"object\":\"list\",\"data\":[]}";

/// A provider that answers everything with this head and an empty list.
async fn says(head: &'static str) -> String {
    says_to(vec![("", head, LIST)]).await
}

/// A provider that answers the first of these paths that is the end of the one it is asked for, with
/// this head and this body.
async fn says_to(answers: Vec<(&'static str, &'static str, &'static str)>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}/v1", listener.local_addr().unwrap());
    TaskTracker::new().spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut asked = [0; 4096];
            let read = socket.read(&mut asked).await.unwrap_or_default();
            let asked = String::from_utf8_lossy(&asked[..read]).into_owned();
            let path = asked.split(' ').nth(1).unwrap_or_default();
            let answer = answers.iter().find(|(ending, ..)| path.ends_with(ending));
            let (_, head, body) = answer.copied().unwrap_or(("", "404 Not Found", ""));
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
        ("lists-none", true, "lists no models (status 404): the key was not tried", ""),
        ("down", false, "no connection", "nothing listens there"),
        ("edge", false, "nowhere.gguf", "put a GGUF file there"),
    ] {
        let row = rows.iter().find(|row| row["route"] == route).expect(route);
        assert_eq!(row["ok"], ok, "{row}");
        assert!(row["found"].as_str().unwrap().contains(found), "{row}");
        assert!(row["next"].as_str().unwrap_or_default().contains(next), "{row}");
    }
}

#[tokio::test]
async fn only_a_list_of_models_shows_that_the_key_is_taken() {
    let moved = says("308 Permanent Redirect\r\nlocation: https://elsewhere.test/v1/models").await;
    let unread = says("400 Bad Request").await;
    let page = says_to(vec![("", "200 OK", "<html>Welcome</html>")]).await;
    let limited = says("429 Too Many Requests").await;
    let bare = says_to(vec![("/models", "200 OK", "[{\"id\":\"m\"}]")]).await;
    let without = says_to(vec![("/v1/models", "200 OK", LIST)]).await.replace("/v1", "");
    let none = says_to(vec![]).await;
    let builder = Gate::builder()
        .cloud_at("moved", &moved, "")
        .cloud_at("unread", &unread, "")
        .cloud_at("page", &page, "")
        .cloud_at("limited", &limited, "")
        .cloud_at("bare", &bare, "")
        .cloud_of_kind("without", &without, "openai-compatible", "")
        .cloud_of_kind("own", &none, "openai-compatible", "")
        .cloud_of_kind("known", &none, "mistral", "");
    let (code, rows) = looked(&builder).await;
    assert_eq!(code, 1, "something is wrong");
    for (route, ok, found, next) in [
        ("moved", false, "redirects to https://elsewhere.test/v1/models (status 308)", "base_url"),
        (
            "unread",
            false,
            "no list of models (status 400): the key was not tried",
            "is /v1 missing",
        ),
        ("page", false, "no list of models (status 200): the key was not tried", "is /v1 missing"),
        ("limited", true, "limits requests now (status 429): the key was not tried", ""),
        ("bare", true, "it answers and takes the key", ""),
        ("without", false, "there (status 404), but one below /v1", "add /v1 to `base_url`"),
        ("own", true, "lists no models (status 404): the key was not tried", ""),
        ("known", false, "no list of models there (status 404)", "is /v1 missing"),
    ] {
        let row = rows.iter().find(|row| row["route"] == route).expect(route);
        assert_eq!(row["ok"], ok, "{row}");
        assert!(row["found"].as_str().unwrap().contains(found), "{row}");
        assert!(row["next"].as_str().unwrap_or_default().contains(next), "{row}");
    }
}
