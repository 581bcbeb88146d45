//! `tollgate doctor`: is each route's provider there, does it take our key, and do our clocks agree?
//! Says what is wrong and the next step. Nothing is generated and nothing is paid for: providers are
//! asked for their list of models.
//!
//! **Invariant:** no key is ever shown, in no message and no error.

use super::{
    CliError, Common, link,
    output::{self, Align, text},
};
use crate::{
    clock::Clock,
    config::{CloudConfig, Config, Environment, RouteConfig, RouteSource, Unpriced},
    providers::{lists_models, probe},
};
use reqwest::{StatusCode, header};
use serde_json::{Value, json};
use std::{error::Error as _, time::Duration};

/// Longest wait for one provider.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Largest difference of clocks that passes, in seconds: signed requests and dated prices bear it.
const SKEW_MAX_S: i64 = 60;
/// Longest list of models that is read.
const LIST_BYTES_MAX: usize = 16 << 20;
/// As much of a redirect's address is shown.
const LOCATION_BYTES_MAX: usize = 200;
const PATH_HINT: &str = "correct `base_url`: is /v1 missing, or is it another server's?";

/// What was found about one route.
struct Found {
    route: String,
    kind: String,
    ok: bool,
    found: String,
    next: Option<String>,
}

/// Looks at every route.
pub(crate) async fn run(common: &Common) -> Result<(), CliError> {
    let config = match Config::load(&common.config, Environment::Needed, &Clock::system()) {
        Ok(config) => config,
        // A missing variable is worth a word and no reason to look at nothing.
        Err(error) => {
            output::note(format!("{error}"));
            link::config(common)?
        }
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .timeout(ANSWER_MAX)
        .user_agent(concat!("tollgate/", env!("CARGO_PKG_VERSION")))
        .build()
        .map_err(|error| CliError::failed(error.to_string()))?;
    let mut all = Vec::new();
    for route in &config.routes {
        let (kind, mut found) = match &route.source {
            RouteSource::Local(local) => ("local", model_file(&local.file)),
            RouteSource::Cloud(cloud) => (cloud.kind.name(), provider(&client, cloud).await),
        };
        let now_s = Clock::system().unix_ms() / 1000;
        if found.ok {
            unpriced(route, now_s, &mut found);
        }
        all.push(Found { route: route.id.to_string(), kind: kind.to_owned(), ..found });
    }
    report(common, &all)
}

/// Its provider would answer; whether it is ever asked is another question.
fn unpriced(route: &RouteConfig, now_s: u64, found: &mut Found) {
    let Some(Unpriced { so, set }) = route.unpriced(now_s) else { return };
    found.ok = route.is_local() || route.unknown_price_max.is_some();
    found.found.push_str(&format!("; its price is not known, so {so}"));
    found.next = Some(if route.is_local() {
        format!("give it a price: {set}")
    } else {
        "give it a price: tollgate prices check".to_owned()
    });
}

fn report(common: &Common, all: &[Found]) -> Result<(), CliError> {
    let view = |found: &Found| {
        json!({
            "route": found.route,
            "kind": found.kind,
            "ok": found.ok,
            "found": found.found,
            "next": found.next,
        })
    };
    let rows: Vec<Value> = all.iter().map(view).collect();
    if common.json {
        output::json(&json!({ "object": "list", "data": rows }))?;
    } else {
        output::table(
            &rows,
            &[
                ("ROUTE", Align::Left, &|row| text(row, "/route")),
                ("KIND", Align::Left, &|row| text(row, "/kind")),
                ("OK", Align::Left, &|row| text(row, "/ok")),
                ("FOUND", Align::Left, &|row| text(row, "/found")),
                ("NEXT", Align::Left, &|row| text(row, "/next")),
            ],
        )?;
    }
    let wrong = all.iter().filter(|found| !found.ok).count();
    if wrong == 0 {
        return Ok(());
    }
    Err(CliError::failed(format!("{wrong} of {} routes would not answer", all.len())))
}

fn good(found: impl Into<String>) -> Found {
    let (route, kind) = (String::new(), String::new());
    Found { route, kind, ok: true, found: found.into(), next: None }
}

fn bad(found: impl Into<String>, next: impl Into<String>) -> Found {
    Found { ok: false, next: Some(next.into()), ..good(found) }
}

fn model_file(file: &std::path::Path) -> Found {
    match std::fs::metadata(file) {
        Ok(found) => good(format!("the model's file is there, {} MiB", found.len() >> 20)),
        Err(error) => bad(
            format!("{}: {error}", file.display()),
            "put a GGUF file there, or correct `file` of the route",
        ),
    }
}

async fn provider(client: &reqwest::Client, cloud: &CloudConfig) -> Found {
    let request = match probe(client, cloud) {
        Ok(request) => request,
        Err(why) => return bad(why, "correct the route in the configuration"),
    };
    let response = match client.execute(request).await {
        Ok(response) => response,
        Err(error) => return unreachable(&error.without_url(), cloud),
    };
    let skew = skew(response.headers().get(header::DATE), &Clock::system());
    let found = answered(client, cloud, response).await;
    match skew.filter(|_| found.ok) {
        Some(seconds) if seconds.abs() > SKEW_MAX_S => bad(
            format!("it answers, and its clock is {seconds} s from this machine's"),
            "set this machine's clock: systemctl status systemd-timesyncd, or chronyc tracking",
        ),
        _ => found,
    }
}

/// What its answer tells: only a list of models shows that it took the key.
async fn answered(
    client: &reqwest::Client,
    cloud: &CloudConfig,
    response: reqwest::Response,
) -> Found {
    let status = response.status();
    let said = status.as_u16();
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
            bad(format!("it does not take the key (status {said})"), key_hint(cloud))
        }
        StatusCode::BAD_REQUEST if cloud.kind.name() == "gemini" => {
            bad("it does not take the key (status 400)", key_hint(cloud))
        }
        StatusCode::PAYMENT_REQUIRED => {
            bad("the account has no credit left (status 402)", "top the account up")
        }
        StatusCode::TOO_MANY_REQUESTS => {
            good("it answers, and limits requests now (status 429): the key was not tried")
        }
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => {
            lists_none(client, cloud, said).await
        }
        _ if status.is_server_error() => {
            bad(format!("it fails (status {said})"), "look at its status page")
        }
        _ if status.is_redirection() => redirects(&response),
        _ if status.is_success() && is_list(response).await => good("it answers and takes the key"),
        _ => bad(
            format!("it answers with no list of models (status {said}): the key was not tried"),
            PATH_HINT,
        ),
    }
}

/// Requests follow no redirect either: they carry the key and the prompt.
fn redirects(response: &reqwest::Response) -> Found {
    let said = response.status().as_u16();
    let to = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
    let to = to.map_or("elsewhere", |to| &to[..to.floor_char_boundary(LOCATION_BYTES_MAX)]);
    bad(
        format!("it redirects to {to} (status {said}), and redirects are not followed"),
        "correct `base_url`: is it https:// there, or another host?",
    )
}

/// Some servers of other kinds have no list of models: that they answer is all that can be seen, unless
/// the list is where it would be with the path that is usually forgotten.
async fn lists_none(client: &reqwest::Client, cloud: &CloudConfig, said: u16) -> Found {
    if lists_models(cloud) {
        return bad(format!("it has no list of models there (status {said})"), PATH_HINT);
    }
    let mut below = cloud.clone();
    below.base_url = format!("{}/v1", cloud.base_url.trim_end_matches('/'));
    if let Ok(request) = probe(client, &below)
        && let Ok(response) = client.execute(request).await
        && response.status().is_success()
        && is_list(response).await
    {
        let found = format!("it has no list of models there (status {said}), but one below /v1");
        return bad(found, "add /v1 to `base_url`");
    }
    good(format!("it answers, and lists no models (status {said}): the key was not tried"))
}

/// Whether an answer's body is a list of models, in anybody's format.
async fn is_list(mut response: reqwest::Response) -> bool {
    let mut body = Vec::new();
    while let Ok(Some(piece)) = response.chunk().await {
        if body.len() + piece.len() > LIST_BYTES_MAX {
            return false;
        }
        body.extend_from_slice(&piece);
    }
    match serde_json::from_slice(&body) {
        Ok(Value::Array(_)) => true,
        // Gemini's is `models`; Ollama's `data` is null where there is none.
        Ok(Value::Object(fields)) => {
            ["data", "models"].iter().any(|name| fields.get(*name).is_some_and(Value::is_array))
                || fields.get("object").is_some_and(|object| object == "list")
        }
        _ => false,
    }
}

fn key_hint(cloud: &CloudConfig) -> String {
    match cloud.kind.key_env() {
        Some(name) if cloud.api_key.is_none() => format!("set {name}, or `api_key` of the route"),
        Some(name) => format!("look at {name}, or `api_key` of the route"),
        None => "set `api_key` of the route".to_owned(),
    }
}

/// No answer: which step failed.
fn unreachable(error: &reqwest::Error, cloud: &CloudConfig) -> Found {
    let mut chain = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        chain.push_str(": ");
        chain.push_str(&cause.to_string());
        source = cause.source();
    }
    let lower = chain.to_ascii_lowercase();
    let next = if lower.contains("corrupt message") {
        "no TLS is spoken there: look at the scheme and the port of `base_url`"
    } else if lower.contains("certificate") || lower.contains("tls") {
        "its certificate is not trusted here: look at the address, or at what stands between"
    } else if lower.contains("dns") || lower.contains("resolve") || lower.contains("lookup") {
        "its name is not found: look at `base_url` and at this machine's DNS"
    } else if error.is_timeout() {
        "it does not answer in time: look at the network and the firewall"
    } else if cloud.base_url.contains("127.0.0.1") || cloud.base_url.contains("localhost") {
        "nothing listens there: start the server, or correct `base_url`"
    } else {
        "look at `base_url`, the network and the firewall"
    };
    bad(format!("no connection: {chain}"), next)
}

/// How many seconds the provider's clock is ahead of ours.
fn skew(date: Option<&header::HeaderValue>, clock: &Clock) -> Option<i64> {
    let theirs = jiff::fmt::rfc2822::parse(date?.to_str().ok()?).ok()?.timestamp().as_second();
    Some(theirs - i64::try_from(clock.unix_ms() / 1000).ok()?)
}

#[cfg(test)]
mod tests {
    use super::{
        Clock, CloudConfig, Config, Environment, Found, RouteSource, provider, skew, unpriced,
    };
    use crate::config::Surroundings;
    use reqwest::header::HeaderValue;
    use std::path::Path;
    use tokio::io::AsyncWriteExt as _;

    fn config(base_url: &str, more: &str) -> Config {
        let text = format!(
            "[routes.c]\nkind = \"openai\"\nprovider = \"p\"\nbase_url = \"{base_url}\"\n\
             model = \"m\"\n{more}"
        );
        let (environment, now_s) = (Environment::Needed, 1_795_305_600);
        let surroundings = Surroundings { lookup: &|_| None, environment, now_s };
        Config::parse(&text, Path::new("tollgate.toml"), surroundings).unwrap()
    }

    fn cloud(config: &Config) -> &CloudConfig {
        match &config.routes[0].source {
            RouteSource::Cloud(cloud) => cloud,
            RouteSource::Local(_) => panic!("a cloud"),
        }
    }

    #[tokio::test]
    async fn https_to_a_port_in_clear_is_told_as_that() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base_url = format!("https://{}/v1", listener.local_addr().unwrap());
        let serving = async {
            let (mut socket, _) = listener.accept().await.unwrap();
            socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            socket
        };
        let client = reqwest::Client::builder().no_proxy();
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let (config, client) = (config(&base_url, ""), client.build().unwrap());
        let (found, _socket) = tokio::join!(provider(&client, cloud(&config)), serving);
        let next = found.next.unwrap();
        assert!(next.starts_with("no TLS is spoken there"), "{}: {next}", found.found);
    }

    #[test]
    fn a_route_that_policies_leave_out_would_not_answer() {
        let looked = |more: &str| {
            let config = config("https://h/v1", more);
            let mut found: Found = super::good("it answers");
            unpriced(&config.routes[0], 1_795_305_600, &mut found);
            (found.ok, found.found)
        };
        let (ok, said) = looked("");
        assert!(!ok && said.ends_with("so policies leave it out"), "{said}");
        let (ok, said) = looked("unknown_price_max_usd = \"0.5\"\n");
        assert!(ok && said.contains("each attempt reserves 0.5"), "{said}");
    }

    #[test]
    fn the_clocks_are_compared_by_the_date_of_the_answer() {
        let (clock, _hand) = Clock::standing(1_795_305_600_000);
        let at = |date| skew(Some(&HeaderValue::from_static(date)), &clock);
        assert_eq!(at("Sun, 22 Nov 2026 00:00:00 GMT"), Some(0));
        assert_eq!(at("Sun, 22 Nov 2026 00:02:00 GMT"), Some(120));
        assert_eq!(at("Sat, 21 Nov 2026 23:59:00 GMT"), Some(-60));
        assert_eq!(at("yesterday"), None);
        assert_eq!(skew(None, &clock), None);
    }
}
