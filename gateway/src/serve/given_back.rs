//! Promises of what a request gives back that asked no route, whoever still waits for it: over the real
//! gateway, without a socket and without a route that answers.

use super::{Front, Gateway, Planes};
use crate::{
    caller::{ADMIN_KEY_FILE, read_secret},
    clock::Clock,
    config::{Config, Environment, Surroundings},
    start,
};
use axum::{body::Body, response::Response};
use futures::poll;
use http::Request;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use std::{convert::Infallible, future::Future, sync::Arc};
use tower::ServiceExt as _;

/// 2027-01-15T08:00:00Z
const NOW: u64 = 1_800_000_000_000;

struct Plane {
    _dir: tempfile::TempDir,
    gateway: Arc<Gateway>,
    admin: String,
}

impl Plane {
    /// One route, whose provider takes no connection, and two requests a minute for its callers.
    fn open() -> Self {
        let text = "[policy]\nshipped = \"cloud-only\"\n[routes.c]\nkind = \"openai\"\n\
                    provider = \"p\"\nbase_url = \"http://127.0.0.1:9/v1\"\nmodel = \"m\"\n\
                    api_key = \"sk-upstream-secret\"\nretry = { max = 0 }\n\
                    price = { input = \"1\", output = \"2\" }\n\
                    [[limit]]\nmodel = \"auto\"\nrequests_per_minute = 2\n";
        let dir = tempfile::tempdir().unwrap();
        let surroundings = Surroundings {
            lookup: &|_| None,
            environment: Environment::Needed,
            now_s: 1_795_305_600,
        };
        let config = Config::parse(text, &dir.path().join("tollgate.toml"), surroundings).unwrap();
        let (gateway, _) = start::start(config, Clock::standing(NOW).0).unwrap();
        let admin = read_secret(&dir.path().join("data"), ADMIN_KEY_FILE).unwrap().unwrap();
        Self { _dir: dir, gateway, admin: admin.reveal().to_owned() }
    }

    /// A request on its way.
    fn send(
        &self,
        path: &str,
        key: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let mut request = Request::post(path).header("authorization", format!("Bearer {key}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.to_string())).unwrap();
        Front::new(Arc::clone(&self.gateway), Planes::Both).oneshot(request)
    }

    /// The id and the secret of a new key with so much money.
    async fn key(&self, usd: &str) -> (String, String) {
        let body = json!({"budgets": [{"window": "total", "money_usd": usd}]});
        let created = self.send("/admin/v1/keys", &self.admin, &[], &body).await.unwrap();
        let created = created.into_body().collect().await.unwrap().to_bytes();
        let created: Value = serde_json::from_slice(&created).unwrap();
        let text = |field: &str| created[field].as_str().unwrap().to_owned();
        (text("id"), text("secret"))
    }

    fn ask(
        &self,
        secret: &str,
        headers: &[(&str, &str)],
    ) -> impl Future<Output = Result<Response, Infallible>> + use<> {
        let body = json!({"model": "auto", "messages": [{"role": "user", "content": "Hi."}]});
        self.send("/v1/chat/completions", secret, headers, &body)
    }

    /// Requests that may still come to the route in this minute.
    fn left(&self) -> u64 {
        self.gateway.admission.model("auto").unwrap().rate.unwrap().remaining
    }

    /// Every flight has ended.
    async fn landed(&self) {
        self.gateway.tasks.close();
        self.gateway.tasks.wait().await;
    }

    async fn refusals(&self) -> Vec<(String, u64)> {
        let gateway = Arc::clone(&self.gateway);
        tokio::task::spawn_blocking(move || gateway.books.refusals()).await.unwrap()
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.gateway.books.close();
    }
}

#[tokio::test]
async fn a_flight_that_is_refused_after_its_leader_left_is_counted_as_refused_and_no_longer_as_running()
 {
    let plane = Plane::open();
    let (id, secret) = plane.key("0.000000000001").await;
    let mut asked = Box::pin(plane.ask(&secret, &[("idempotency-key", "order-1")]));
    assert!(poll!(&mut asked).is_pending(), "it waits for its flight");
    assert_eq!(plane.gateway.guard.running(&id), 1);
    drop(asked);
    plane.landed().await;
    assert_eq!(plane.gateway.guard.running(&id), 0);
    assert_eq!(plane.refusals().await, [("insufficient_quota".to_owned(), 1)]);
    assert_eq!(plane.left(), 2);
    // One whose leader waits is counted once, too.
    let refused = plane.ask(&secret, &[("idempotency-key", "order-2")]).await.unwrap();
    assert_eq!(refused.status(), 429);
    assert_eq!(plane.refusals().await, [("insufficient_quota".to_owned(), 2)]);
    assert_eq!(plane.gateway.guard.running(&id), 0);
}

#[tokio::test]
async fn what_was_never_sent_counts_against_no_models_minute() {
    let plane = Plane::open();
    let (id, secret) = plane.key("1").await;
    for _ in 0..4 {
        let failed = plane.ask(&secret, &[]).await.unwrap();
        assert!(failed.status().is_server_error(), "{failed:?}");
        assert_eq!(plane.left(), 2, "no connection was opened");
        assert_eq!(plane.gateway.guard.running(&id), 0);
    }
}
