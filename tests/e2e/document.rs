//! The OpenAPI document is served, is what the repository keeps, and what it says of paths, methods
//! and parameters is so. (What it says of answers is held against every answer of every test: see
//! `harness/documented.rs`.)

use crate::harness::{Answer, Gate, document, free_address};
use e2e::standin::StandIn;
use serde_json::{Value, json};

const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "TRACE"];

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).edge().start().await;
    (cloud, gate)
}

/// Every path with what it takes.
fn paths(document: &Value) -> Vec<(String, Value)> {
    let paths = document["paths"].as_object().expect("paths");
    paths.iter().map(|(path, item)| (path.clone(), item.clone())).collect()
}

/// The path with a name for each of its parameters that nothing has.
fn filled(path: &str) -> String {
    let parts = path.split('/').map(|part| if part.starts_with('{') { "nobody" } else { part });
    parts.collect::<Vec<_>>().join("/")
}

#[tokio::test]
async fn it_is_served_without_a_key_and_is_what_the_repository_keeps() {
    let (_cloud, gate) = a_cloud().await;
    let served = gate.send("GET", "/openapi.json", &[], Vec::new()).await.ok();
    assert_eq!(served.header("content-type"), "application/json");
    assert!(served.json() == *document(), "docs/openapi.json is not what is served");
}

#[tokio::test]
async fn each_listener_tells_of_its_own_plane() {
    let cloud = StandIn::start().await.unwrap();
    let (_kept_free, address) = free_address();
    let gate = Gate::builder().cloud(&cloud).admin_at(&address).start().await;
    let data = gate.send("GET", "/openapi.json", &[], Vec::new()).await.ok().json();
    let admin = gate.send_to(&format!("http://{address}/openapi.json")).await.ok().json();
    let has = |document: &Value, path: &str| !document["paths"][path].is_null();
    assert!(has(&data, "/v1/chat/completions") && !has(&data, "/admin/v1/keys"));
    assert!(has(&admin, "/admin/v1/keys") && !has(&admin, "/v1/chat/completions"));
}

#[tokio::test]
async fn every_path_takes_the_methods_it_names_and_no_other() {
    let (_cloud, gate) = a_cloud().await;
    let admin = format!("Bearer {}", gate.admin_key());
    let key = format!("Bearer {}", gate.key().secret);
    let mut seen = 0;
    for (path, item) in paths(document()) {
        let mut named: Vec<String> =
            item.as_object().unwrap().keys().map(|method| method.to_ascii_uppercase()).collect();
        named.sort();
        let plane = item.as_object().unwrap().values().next().unwrap()["security"].to_string();
        let bearer = if plane.contains("adminKey") { &admin } else { &key };
        for method in METHODS {
            let takes = named.contains(&method.to_owned());
            // What is taken is tried elsewhere; this would change the admin key.
            if takes && method != "GET" && method != "HEAD" {
                continue;
            }
            seen += 1;
            let headers = [("authorization", bearer.as_str())];
            let answer = gate.send(method, &filled(&path), &headers, Vec::new()).await;
            if takes {
                assert_ne!(answer.status, 405, "{method} {path}");
                assert!(answer.status < 500, "{method} {path}: {}", answer.status);
                assert!(method != "HEAD" || answer.body.is_empty(), "{method} {path}");
                continue;
            }
            assert_eq!(answer.status, 405, "{method} {path}");
            let mut allowed: Vec<&str> = answer.header("allow").split(", ").collect();
            allowed.sort_unstable();
            assert_eq!(allowed, named, "{method} {path}");
            // An answer to HEAD has no body.
            if method != "HEAD" {
                in_shape(&path, &answer);
            }
        }
    }
    assert!(seen > 200, "only {seen} were tried");
}

fn in_shape(path: &str, answer: &Answer) {
    if path.starts_with("/v1/messages") {
        assert_eq!(answer.json()["type"], "error", "{path}");
    } else {
        answer.error();
    }
    answer.id();
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let (_cloud, gate) = a_cloud().await;
    let key = format!("Bearer {}", gate.key().secret);
    for path in ["/health", "/ready", "/openapi.json", "/v1/models", "/v1/models/auto"] {
        let headers = [("authorization", key.as_str())];
        let get = gate.send("GET", path, &headers, Vec::new()).await.ok();
        let head = gate.send("HEAD", path, &headers, Vec::new()).await.ok();
        assert!(head.body.is_empty() && !get.body.is_empty(), "{path}");
        for name in ["content-type", "content-length"] {
            assert_eq!(head.header(name), get.header(name), "{path}: {name}");
        }
    }
    let absent = gate.send("HEAD", "/v1/models/none", &[("authorization", &key)], Vec::new()).await;
    assert_eq!((absent.status, absent.body.len()), (404, 0));
}

#[tokio::test]
async fn options_is_answered_only_where_a_browser_may_ask() {
    let (_cloud, gate) = a_cloud().await;
    let admin = format!("Bearer {}", gate.admin_key());
    let origin = [("origin", "https://app.example.com"), ("access-control-request-method", "POST")];
    for (path, _) in paths(document()) {
        let path = filled(&path);
        let preflight = gate.send("OPTIONS", &path, &origin, Vec::new()).await;
        let open = path.starts_with("/v1/") && !path.starts_with("/v1/organization");
        assert_eq!(preflight.status == 204, open, "{path}: {}", preflight.status);
        let allowed = preflight.header("access-control-allow-methods");
        assert_eq!(allowed.contains("POST"), open, "{path}: {allowed}");
        // Without a browser's question it is a method like any other.
        let plain = gate.send("OPTIONS", &path, &[("authorization", &admin)], Vec::new()).await;
        assert_eq!(plain.status, 405, "{path}");
    }
}

#[tokio::test]
async fn every_parameter_of_a_query_is_taken() {
    let (_cloud, gate) = a_cloud().await;
    let mut tried = 0;
    for (path, item) in paths(document()) {
        let parameters = item["get"]["parameters"].as_array().cloned().unwrap_or_default();
        let asked: Vec<&Value> = parameters.iter().filter(|it| it["in"] == "query").collect();
        let pair = |parameter: &Value| {
            let example = match &parameter["example"] {
                Value::Array(several) => several[0].clone(),
                one => one.clone(),
            };
            let name = parameter["name"].as_str().expect("a name");
            let value = example.as_str().map_or_else(|| example.to_string(), str::to_owned);
            format!("{name}={value}")
        };
        let needed: Vec<String> =
            asked.iter().filter(|it| it["required"] == true).map(|it| pair(it)).collect();
        for parameter in asked {
            if parameter["required"] == true {
                continue;
            }
            if parameter["example"].is_null() {
                // What only an answer can give: a page begins where another one ended, and a session
                // is a key's.
                let name = parameter["name"].as_str().unwrap();
                assert!(
                    ["cursor", "after", "page", "key"].contains(&name),
                    "{path}: {name} has no example"
                );
                continue;
            }
            tried += 1;
            let mut pairs = needed.clone();
            pairs.push(pair(parameter));
            let path = format!("{}?{}", filled(&path), pairs.join("&"));
            let answer = gate.admin_get(&path).await;
            let taken = answer.status == 200 || path.starts_with("/v1/responses");
            assert!(taken, "{path}: {} {}", answer.status, answer.body_text());
        }
    }
    assert!(tried > 50, "only {tried} parameters");
}

#[tokio::test]
async fn every_example_of_a_body_is_taken_for_what_it_is() {
    let (_cloud, gate) = a_cloud().await;
    let mut tried = 0;
    for (path, item) in paths(document()) {
        for (method, operation) in item.as_object().unwrap() {
            let example = &operation["requestBody"]["content"]["application/json"]["example"];
            if example.is_null() || !path.starts_with("/admin/v1") {
                continue;
            }
            tried += 1;
            let at = filled(path.trim_start_matches("/admin/v1"));
            let answer = gate.admin_send(&method.to_ascii_uppercase(), &at, example.clone()).await;
            let message = answer.body_text();
            assert!(
                matches!(answer.status, 200 | 201 | 404 | 409),
                "{method} {path}: {} {message}",
                answer.status
            );
            let mut more = example.clone();
            more["nobody_knows"] = json!(1);
            let refused = gate.admin_send(&method.to_ascii_uppercase(), &at, more).await;
            assert_eq!(refused.status, 400, "{method} {path}");
            assert_eq!(refused.error().param.as_deref(), Some("nobody_knows"), "{method} {path}");
        }
    }
    assert!(tried > 12, "only {tried} bodies");
}

#[tokio::test]
async fn models_are_told_in_the_shape_of_who_asks() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    let key = gate.key().secret.clone();
    let asked = async |path: &str| {
        let headers = [("x-api-key", key.as_str()), ("anthropic-version", "2023-06-01")];
        gate.send("GET", path, &headers, Vec::new()).await.ok().json()
    };
    let list = asked("/v1/models").await;
    let all = list["data"].as_array().expect("a list");
    for model in all {
        assert_eq!((&model["type"], &model["display_name"]), (&json!("model"), &model["id"]));
        assert!(model["created_at"].as_str().is_some_and(|at| at.ends_with('Z')), "{model}");
        assert!(model.get("object").is_none(), "{model}");
    }
    let ends = (all.first().map(|it| &it["id"]), all.last().map(|it| &it["id"]));
    assert_eq!((Some(&list["first_id"]), Some(&list["last_id"])), ends);
    assert_eq!(list["has_more"], false);
    assert_eq!(asked("/v1/models/auto").await, all[0]);
    assert_eq!(gate.get("/v1/models/auto").await.json()["object"], "model");
}
