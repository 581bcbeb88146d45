//! One operation of the document: a method on a path, what it takes and what it answers.

#![expect(clippy::needless_pass_by_value, reason = "schemas are made where they are passed")]

use crate::paths::Listed;
use serde_json::{Map, Value, json};

/// The name of what HEAD is refused with.
pub(super) const BARE_REFUSAL: &str = "RefusalWithoutBody";

/// Whose errors an operation answers with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errors {
    /// OpenAI's shape.
    OpenAi,
    /// Anthropic's.
    Anthropic,
}

/// A method on a path.
#[derive(Debug)]
pub(crate) struct Operation {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(super) tag: &'static str,
    id: String,
    summary: &'static str,
    description: Option<String>,
    parameters: Vec<Value>,
    body: Option<Value>,
    answers: Map<String, Value>,
    security: Vec<Value>,
}

/// A reference to a part of the document.
pub(crate) fn reference(part: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{part}/{name}") })
}

/// A parameter of a query string, with a value that is taken.
pub(crate) fn query(name: &str, description: &str, schema: Value, example: Value) -> Value {
    json!({
        "name": name,
        "in": "query",
        "description": description,
        "schema": schema,
        "example": example,
    })
}

impl Operation {
    /// Nothing but its name; every parameter of the path is a string.
    pub(crate) fn new(
        method: &'static str,
        path: &'static str,
        tag: &'static str,
        id: &'static str,
        summary: &'static str,
    ) -> Self {
        let parameters = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
        let parameter = |name| {
            json!({
                "name": name,
                "in": "path",
                "required": true,
                "schema": { "type": "string", "minLength": 1 },
            })
        };
        Self {
            method,
            path,
            tag,
            id: id.to_owned(),
            summary,
            description: None,
            parameters: parameters.map(parameter).collect(),
            body: None,
            answers: Map::new(),
            security: Vec::new(),
        }
    }

    /// Whether it belongs to this path.
    pub(super) fn is_of(&self, listed: &Listed) -> bool {
        listed.path == self.path && listed.methods().any(|method| method == self.method)
    }

    /// The same by HEAD, where the path takes that beside this GET: no answer has a body.
    pub(super) fn by_head(&self, listed: &Listed) -> Option<Self> {
        if self.method != "GET" || listed.path != self.path || !listed.takes_head() {
            return None;
        }
        let bare = |(status, answer): (&String, &Value)| match answer.get("$ref") {
            Some(_) => {
                let class = status.get(..1).unwrap_or_default();
                (format!("{class}XX"), reference("responses", BARE_REFUSAL))
            }
            None => {
                let (description, headers) = (&answer["description"], &answer["headers"]);
                (status.clone(), json!({ "description": description, "headers": headers }))
            }
        };
        Some(Self {
            method: "HEAD",
            path: self.path,
            tag: self.tag,
            id: format!("{}Head", self.id),
            summary: "As GET, without a body.",
            description: None,
            parameters: self.parameters.clone(),
            body: None,
            answers: self.answers.iter().map(bare).collect(),
            security: self.security.clone(),
        })
    }

    /// What there is to say beyond the summary.
    pub(crate) fn says(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }

    /// It wants one of these keys.
    pub(crate) fn wants(mut self, schemes: &[&str]) -> Self {
        self.security = schemes.iter().map(|scheme| json!({ *scheme: [] })).collect();
        self
    }

    /// It takes these parameters.
    pub(crate) fn takes(mut self, parameters: impl IntoIterator<Item = Value>) -> Self {
        self.parameters.extend(parameters);
        self
    }

    /// It takes a JSON body, with an example that is taken.
    pub(crate) fn body(mut self, schema: &Value, required: bool, example: &Value) -> Self {
        self.body = Some(json!({
            "required": required,
            "content": { "application/json": { "schema": schema, "example": example } },
        }));
        self
    }

    /// It answers with JSON.
    pub(crate) fn answers(self, status: &str, description: &str, schema: &Value) -> Self {
        let content = json!({ "application/json": { "schema": schema } });
        self.answers_with(status, description, &content, &["x-request-id"])
    }

    /// It answers with this content and these headers.
    pub(crate) fn answers_with(
        mut self,
        status: &str,
        description: &str,
        content: &Value,
        headers: &[&str],
    ) -> Self {
        let headers: Map<String, Value> =
            headers.iter().map(|name| ((*name).to_owned(), reference("headers", name))).collect();
        let answer = json!({ "description": description, "headers": headers, "content": content });
        self.answers.insert(status.to_owned(), answer);
        self
    }

    /// It refuses with these statuses.
    pub(crate) fn refuses(mut self, errors: Errors, statuses: &[&str]) -> Self {
        let prefix = match errors {
            Errors::OpenAi => "Error",
            Errors::Anthropic => "MessagesError",
        };
        for status in statuses {
            let refusal = reference("responses", &format!("{prefix}{status}"));
            self.answers.insert((*status).to_owned(), refusal);
        }
        self
    }

    /// As it stands in the document.
    pub(crate) fn written(self) -> Value {
        let mut written = json!({
            "tags": [self.tag],
            "operationId": self.id,
            "summary": self.summary,
        });
        if let Some(description) = self.description {
            written["description"] = Value::String(description);
        }
        if !self.parameters.is_empty() {
            written["parameters"] = Value::Array(self.parameters);
        }
        if let Some(body) = self.body {
            written["requestBody"] = body;
        }
        written["responses"] = Value::Object(self.answers);
        written["security"] = Value::Array(self.security);
        written
    }
}
