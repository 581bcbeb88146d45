//! The operations of the admin plane, as the OpenAPI document tells them.
//!
//! **Invariant:** a body's schema is that of the type it is read into, an answer's that of the type
//! that is written; what is written without a type is closed, so that a field nobody described
//! fails the end-to-end test that sees it.

#![expect(clippy::too_many_lines, reason = "tables: a function is a list of what there is")]
#![expect(clippy::needless_pass_by_value, reason = "schemas are made where they are passed")]

mod budgets;
mod events;
mod keys;
mod ledger;
mod policies;
mod routes;

use crate::openapi::{Operation, types::Types};
use serde_json::{Map, Value, json};

const KEY: &[&str] = &["adminKey"];
/// Statuses of refusals of every path; a parameter that nobody knows is a 400 everywhere.
const ALWAYS: [&str; 5] = ["400", "401", "403", "429", "503"];

/// Everything under /admin/v1 and /v1/organization.
pub(crate) fn operations(types: &mut Types) -> Vec<Operation> {
    let mut operations = keys::of_keys(types);
    operations.extend(keys::of_groups(types));
    operations.extend(budgets::of_budgets(types));
    operations.push(budgets::of_limits(types));
    operations.push(ledger::of_idle(types));
    operations.extend(events::of_events());
    operations.extend(events::of_guard());
    operations.extend(routes::of_routes(types));
    operations.extend(routes::of_models(types));
    operations.extend(policies::of_policies(types));
    operations.extend(ledger::of_ledger(types));
    operations.extend(ledger::of_organization());
    operations
}

/// What `Operation::new` takes.
type Named = (&'static str, &'static str, &'static str, &'static str, &'static str);

fn operation(named: Named, refuses: &[&str]) -> Operation {
    let (method, path, tag, id, summary) = named;
    Operation::new(method, path, tag, id, summary)
        .wants(KEY)
        .refuses(crate::openapi::Errors::OpenAi, &ALWAYS)
        .refuses(crate::openapi::Errors::OpenAi, refuses)
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn whole() -> Value {
    json!({ "type": "integer", "minimum": 0 })
}

fn usd() -> Value {
    json!({ "type": "string", "pattern": "^[0-9]+(\\.[0-9]{1,12})?$" })
}

/// An object with these fields, all but the `may` always there.
fn object(fields: Value, may: &[&str]) -> Value {
    let names = fields.as_object().into_iter().flat_map(Map::keys);
    let required: Vec<&String> = names.filter(|name| !may.contains(&name.as_str())).collect();
    json!({ "type": "object", "properties": fields, "required": required })
}
