//! Keys made for a test through the admin API.

use super::Gate;
use serde_json::{Value, json};

/// A key that a test may use.
#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
}

/// A key to be created.
pub(crate) struct NewKey<'g> {
    gate: &'g Gate,
    body: Value,
}

impl Gate {
    /// A key without limits that may not pin routes.
    pub(crate) fn new_key(&self) -> NewKey<'_> {
        NewKey { gate: self, body: json!({"label": "test", "budgets": [], "limits": {}}) }
    }
}

impl NewKey<'_> {
    /// With this label.
    pub(crate) fn named(self, label: &str) -> Self {
        self.set("label", json!(label))
    }

    /// That may pin routes.
    pub(crate) fn that_may_pin(self) -> Self {
        self.set("may_pin", json!(true))
    }

    /// Of this priority.
    pub(crate) fn of_priority(self, priority: &str) -> Self {
        self.set("priority", json!(priority))
    }

    /// That may spend so much and no more, ever.
    pub(crate) fn with_budget_usd(mut self, usd: &str) -> Self {
        self.push_budget(json!({"window": "total", "money_usd": usd, "hard": true}));
        self
    }

    /// That may use so many tokens and no more, ever.
    pub(crate) fn with_budget_tokens(mut self, tokens: u64) -> Self {
        self.push_budget(json!({"window": "total", "tokens": tokens, "hard": true}));
        self
    }

    fn push_budget(&mut self, budget: Value) {
        self.body["budgets"].as_array_mut().expect("an array").push(budget);
    }

    /// That may send so many requests a minute.
    pub(crate) fn with_requests_per_minute(mut self, requests: u32) -> Self {
        self.body["limits"]["requests_per_minute"] = json!(requests);
        self
    }

    /// That may use so many tokens a minute.
    pub(crate) fn with_tokens_per_minute(mut self, tokens: u64) -> Self {
        self.body["limits"]["tokens_per_minute"] = json!(tokens);
        self
    }

    /// That may have so many requests in flight.
    pub(crate) fn with_concurrency(mut self, requests: u32) -> Self {
        self.body["limits"]["concurrency"] = json!(requests);
        self
    }

    /// With this field.
    pub(crate) fn set(mut self, field: &str, value: Value) -> Self {
        self.body[field] = value;
        self
    }

    /// Creates it.
    pub(crate) async fn create(self) -> Key {
        let answer = self.gate.admin_send("POST", "/keys", self.body).await;
        assert_eq!(answer.status, 201, "{}", answer.body_text());
        let created = answer.json();
        let text = |field: &str| {
            created[field].as_str().unwrap_or_else(|| panic!("no {field} in {created}")).to_owned()
        };
        Key { id: text("id"), secret: text("secret") }
    }
}
