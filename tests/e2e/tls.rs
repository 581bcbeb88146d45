//! The listener under TLS: its certificate, its renewal by SIGHUP, certificates of clients, and the
//! command line that finds its server all the same; and a provider under TLS.
//!
//! The certificates are those of the gateway's own tests: for `localhost`, signed by themselves.

use crate::harness::{Child, Gate, GateBuilder, eventually};
use e2e::standin::StandIn;
use reqwest::{Certificate, Client, Identity};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../gateway/src/tls/fixtures");
    std::fs::read_to_string(format!("{folder}/{name}.pem")).unwrap()
}

/// A certificate and its key, in one file's text.
fn pair(name: &str) -> String {
    fixture(&format!("{name}.cert")) + &fixture(&format!("{name}.key"))
}

struct Case {
    cloud: StandIn,
    builder: GateBuilder,
    child: Child,
}

impl Case {
    /// A server that shows the certificate `one` on its only listener.
    async fn start(more: &str) -> Self {
        let cloud = StandIn::start().await.unwrap();
        let section =
            format!("[tls]\ncert = \"own.cert.pem\"\nprivate_key = \"own.key.pem\"\n{more}");
        let builder = Gate::builder().cloud(&cloud).section(&section);
        builder.write();
        let directory = builder.config_file().parent().unwrap().to_owned();
        show(&directory, "one");
        std::fs::write(directory.join("clients.pem"), fixture("two.cert")).unwrap();
        for name in ["one", "two", "three"] {
            std::fs::write(directory.join(format!("{name}.pem")), pair(name)).unwrap();
        }
        let child = Child::start(builder.config_file()).await;
        Self { cloud, builder, child }
    }

    fn directory(&self) -> PathBuf {
        self.builder.config_file().parent().unwrap().to_owned()
    }

    fn port(&self) -> u16 {
        self.child.address().port()
    }

    /// Whether a client that trusts `trusted` and shows `shown` is served.
    async fn serves(&self, trusted: &str, shown: Option<&str>) -> bool {
        let root = Certificate::from_pem(fixture(&format!("{trusted}.cert")).as_bytes()).unwrap();
        let mut client = Client::builder().no_proxy().tls_certs_only([root]);
        if let Some(shown) = shown {
            client = client.identity(Identity::from_pem(pair(shown).as_bytes()).unwrap());
        }
        let address = self.child.address();
        let client = client.resolve("localhost", address).build().unwrap();
        let answer = client.get(format!("https://localhost:{}/health", self.port())).send().await;
        answer.is_ok_and(|answer| answer.status() == 200)
    }

    /// Runs `tollgate routes` and says how it ended.
    async fn routes(&self, args: &[&str]) -> (i32, String) {
        let (code, out, err) = self.told(&[args, &["routes"]].concat()).await;
        (code, out + &err)
    }

    /// Runs a command of an operator who has the admin key.
    async fn told(&self, args: &[&str]) -> (i32, String, String) {
        let key = std::fs::read_to_string(self.builder.data_dir().join("admin.key")).unwrap();
        let environment = [("TOLLGATE_ADMIN_KEY", key.trim())];
        let ran = Child::run_with(&self.directory(), &environment, args).await;
        (ran.code, ran.stdout, ran.stderr)
    }
}

/// Puts a certificate where the server reads its own.
fn show(directory: &Path, name: &str) {
    for part in ["cert", "key"] {
        let text = fixture(&format!("{name}.{part}"));
        std::fs::write(directory.join(format!("own.{part}.pem")), text).unwrap();
    }
}

fn with_a_provider() {
    drop(rustls::crypto::ring::default_provider().install_default());
}

#[tokio::test]
async fn the_command_line_finds_a_server_under_tls_also_after_its_certificate_was_renewed() {
    with_a_provider();
    let case = Case::start("").await;
    assert!(case.serves("one", None).await && !case.serves("two", None).await);
    let clear = format!("http://127.0.0.1:{}/health", case.port());
    assert!(Client::builder().no_proxy().build().unwrap().get(clear).send().await.is_err());
    let (code, said) = case.routes(&[]).await;
    assert!(code == 0 && said.contains("cloud"), "{said}");

    show(&case.directory(), "two");
    case.child.signal(libc::SIGHUP);
    eventually("the new certificate", || async { case.serves("two", None).await.then_some(()) })
        .await;
    assert!(!case.serves("one", None).await, "the old one is gone");
    // The note is renewed right after.
    eventually("the command line to know it", || async {
        (case.routes(&[]).await.0 == 0).then_some(())
    })
    .await;

    // What cannot be used changes nothing.
    std::fs::write(case.directory().join("own.cert.pem"), "no certificate").unwrap();
    case.child.signal(libc::SIGHUP);
    eventually("the log to say so", || async {
        case.child.log().contains("the certificates could not be renewed").then_some(())
    })
    .await;
    assert!(case.serves("two", None).await);
    assert_eq!(case.routes(&[]).await.0, 0);
}

#[tokio::test]
async fn what_to_do_about_a_server_that_cannot_be_asked_depends_on_why() {
    with_a_provider();
    let mut case = Case::start("").await;
    let server = format!("https://localhost:{}", case.port());
    let export = ["ledger", "export", "--format", "csv"];
    for command in [&["routes"][..], &export] {
        let args = [&["--server", &server][..], command].concat();
        let (code, out, said) = case.told(&args).await;
        assert_eq!(code, 5, "{out}");
        assert!(said.contains("invalid peer certificate"), "what is wrong: {said}");
        assert!(said.contains("--ca-cert") && !said.contains("tollgate serve"), "{said}");
    }
    let elsewhere = ["--server", &format!("https://127.0.0.1:{}", case.port())];
    let (code, said) = case.routes(&[&elsewhere[..], &["--ca-cert", "one.pem"]].concat()).await;
    assert!(code == 5 && said.contains("by a name that it is for"), "{said}");
    let (code, said) = case.routes(&["--server", &server, "--ca-cert", "one.pem"]).await;
    assert_eq!(code, 0, "{said}");

    case.child.stop().await;
    let (code, said) = case.routes(&["--server", &server]).await;
    assert!(code == 5 && said.contains("is the server running?"), "{said}");
}

#[tokio::test]
async fn another_server_at_the_noted_address_is_not_told_the_admin_key() {
    with_a_provider();
    let case = Case::start("").await;
    let note = case.builder.data_dir().join("server.json");
    let text = std::fs::read_to_string(&note).unwrap();
    let mut noted: serde_json::Value = serde_json::from_str(&text).unwrap();
    noted["certificate"] = "0".repeat(64).into();
    std::fs::write(&note, noted.to_string()).unwrap();
    let (code, said) = case.routes(&[]).await;
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("does not answer"), "{said}");
}

#[tokio::test]
async fn clients_show_a_certificate_where_one_is_asked_for_and_so_does_the_command_line() {
    with_a_provider();
    let case = Case::start("client_ca = \"clients.pem\"").await;
    assert!(case.serves("one", Some("two")).await);
    assert!(!case.serves("one", None).await, "without one");
    assert!(!case.serves("one", Some("three")).await, "with another one");

    let (code, said) = case.routes(&[]).await;
    assert_eq!(code, 5, "{said}");
    assert!(said.contains("--client-cert"), "it says what to do: {said}");
    let (code, said) = case.routes(&["--client-cert", "two.pem"]).await;
    assert_eq!(code, 0, "{said}");
    let server = format!("https://localhost:{}", case.port());
    let by_url = ["--server", &server, "--client-cert", "two.pem"];
    assert_ne!(case.routes(&by_url).await.0, 0, "nobody known has signed it");
    let (code, said) = case.routes(&[&by_url[..], &["--ca-cert", "one.pem"]].concat()).await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn a_provider_under_tls_is_asked_where_the_system_trusts_its_certificate_and_nowhere_else() {
    with_a_provider();
    let provider = Case::start("").await;
    let secret = std::fs::read_to_string(provider.builder.data_dir().join("first.key")).unwrap();
    let api_key = format!("headers = {{ x-api-key = \"{}\" }}", secret.trim());
    let asks = async |name: &str, trusted: &str| {
        let address = format!("https://{name}:{}/v1", provider.port());
        let route = Gate::builder().keyless_cloud_at("provider", &address, "auto", &api_key);
        route.trusting(&fixture(&format!("{trusted}.cert"))).start().await
    };
    let gate = asks("localhost", "one").await;
    for stream in [false, true] {
        let ask = gate.ask("Is it you?");
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        assert_eq!(gate.ledger().entry(answer.id()).await.only_attempt().outcome(), "completed");
    }
    // Another one is trusted; or this one, but not for that name.
    for (name, trusted) in [("localhost", "two"), ("127.0.0.1", "one")] {
        let gate = asks(name, trusted).await;
        let answer = gate.ask("Is it you?").send().await;
        assert!(answer.status >= 500, "{name} {trusted}: {}", answer.status);
        let attempt = gate.ledger().entry(answer.id()).await.only_attempt();
        assert_eq!((attempt.outcome().as_str(), attempt.cost()), ("not_sent", Some(0)));
    }
    assert_eq!(provider.cloud.asked().len(), 2);
}
