//! TLS over real sockets. The certificates in `fixtures/` are for `localhost`, sign themselves and
//! protect nothing.

use super::*;
use crate::listen::{Listening, Stop, serve};
use axum::{Router, routing::get};
use rustls::{ClientConfig, pki_types::ServerName};
use std::{net::SocketAddr, time::Duration};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;

struct Pair {
    cert: &'static str,
    key: &'static str,
}

macro_rules! pair {
    ($name:literal) => {
        &Pair {
            cert: include_str!(concat!("fixtures/", $name, ".cert.pem")),
            key: include_str!(concat!("fixtures/", $name, ".key.pem")),
        }
    };
}

const ONE: &Pair = pair!("one");
const TWO: &Pair = pair!("two");
const THREE: &Pair = pair!("three");

struct Case {
    dir: TempDir,
    tls: Arc<Tls>,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Case {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

#[expect(clippy::disallowed_methods, reason = "a test has nothing to settle")]
async fn serving(own: &Pair, clients: Option<&Pair>) -> Case {
    let dir = tempfile::tempdir().unwrap();
    write(&dir, own);
    let client_ca = clients.map(|clients| {
        std::fs::write(dir.path().join("clients.pem"), clients.cert).unwrap();
        dir.path().join("clients.pem")
    });
    let (cert, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
    let tls = Tls::load(TlsConfig { cert, key, client_ca }).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let limits = Listening {
        connections_max: 8,
        header_read_max: Duration::from_secs(20),
        idle_max: Duration::from_secs(20),
        write_stall_max: Duration::from_secs(20),
        drain_max: Duration::from_secs(1),
    };
    let stop = CancellationToken::new();
    let router = Router::new().route("/", get(|| async { "under TLS" }));
    tokio::spawn(serve(
        listener,
        router,
        limits,
        Stop { asked: stop.clone(), ..Stop::default() },
        Some(Arc::clone(&tls)),
    ));
    Case { dir, tls, address, stop }
}

fn write(dir: &TempDir, pair: &Pair) {
    std::fs::write(dir.path().join("cert.pem"), pair.cert).unwrap();
    std::fs::write(dir.path().join("key.pem"), pair.key).unwrap();
}

/// Asks over TLS, trusting `trusted` and showing `own`.
async fn ask(case: &Case, trusted: &Pair, own: Option<&Pair>) -> io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(trusted.cert.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let config = match own {
        None => config.with_no_client_auth(),
        Some(own) => config
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(own.cert.as_bytes()).unwrap()],
                PrivateKeyDer::from_pem_slice(own.key.as_bytes()).unwrap(),
            )
            .unwrap(),
    };
    let stream = TcpStream::connect(case.address).await?;
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    match stream.read_to_string(&mut answer).await {
        Err(error) if answer.is_empty() => Err(error),
        _ => Ok(answer),
    }
}

#[tokio::test]
async fn who_trusts_the_certificate_is_served_and_nobody_in_clear() {
    let case = serving(ONE, None).await;
    assert!(ask(&case, ONE, None).await.unwrap().ends_with("under TLS"));
    assert!(ask(&case, TWO, None).await.is_err(), "another certificate is trusted");

    let mut clear = TcpStream::connect(case.address).await.unwrap();
    clear.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _closed = clear.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/"), "{}", String::from_utf8_lossy(&answer));
}

#[tokio::test]
async fn a_client_shows_a_certificate_where_one_is_asked_for() {
    let case = serving(ONE, Some(TWO)).await;
    assert!(ask(&case, ONE, Some(TWO)).await.unwrap().ends_with("under TLS"));
    assert!(ask(&case, ONE, None).await.is_err(), "without one");
    assert!(ask(&case, ONE, Some(THREE)).await.is_err(), "with another one");
}

#[tokio::test]
async fn new_files_take_effect_and_bad_ones_change_nothing() {
    let case = serving(ONE, None).await;
    write(&case.dir, TWO);
    case.tls.reload().unwrap();
    assert!(ask(&case, TWO, None).await.unwrap().ends_with("under TLS"));
    assert!(ask(&case, ONE, None).await.is_err());

    for bad in ["", "no certificate"] {
        std::fs::write(case.dir.path().join("cert.pem"), bad).unwrap();
        assert!(case.tls.reload().unwrap_err().contains("cert.pem"));
        assert!(ask(&case, TWO, None).await.unwrap().ends_with("under TLS"));
    }
    // A key that is not the certificate's.
    std::fs::write(case.dir.path().join("cert.pem"), ONE.cert).unwrap();
    assert!(case.tls.reload().is_err());
    assert!(ask(&case, TWO, None).await.unwrap().ends_with("under TLS"));
}
