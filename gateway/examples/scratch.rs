//! scratch
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]
use gateway::*;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    tracing_subscriber::fmt().init();
    let config = config::Config::load(
        std::path::Path::new(&path),
        config::Environment::Needed,
        &clock::Clock::system(),
    )
    .unwrap();
    let (gw, rec) = start::start(config, clock::Clock::system()).unwrap();
    println!("{rec:?}");
    let (record, secret) = gw
        .keys
        .make(caller::NewKey { label: "x".into(), may_pin: true, ..Default::default() })
        .unwrap();
    gw.books.put_key(record.clone()).blocking().unwrap();
    gw.keys.install(record);
    println!("KEY {}", secret.reveal());
    let rt = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    rt.block_on(async {
        let listener = tokio::net::TcpListener::bind(gw.config.listen).await.unwrap();
        let limits = listen::Listening {
            connections_max: 1000,
            header_read_max: std::time::Duration::from_secs(10),
            drain_max: std::time::Duration::from_secs(3),
        };
        listen::serve(
            listener,
            serve::router(gw.clone()),
            limits,
            tokio_util::sync::CancellationToken::new(),
        )
        .await;
    });
}
