//! The OpenAPI 3.1 document, made from the code: `/openapi.json`, and `docs/openapi.json` as a
//! snapshot of it.
//!
//! Schemas of the admin plane come from the types that parse and serialise ([`types`]). The data
//! plane's reader builds no tree and has no such types: its schemas are written in `wire::described`,
//! and a test here puts every one of their bounds to the reader. **Invariants:** every path of the router
//! is described and nothing else is; what an end-to-end test sees of an answer is what stands here.

mod data;
mod operation;
mod shared;
#[cfg(test)]
mod tests;
pub(crate) mod types;

pub(crate) use operation::{Errors, Operation, query, reference};

use crate::serve::{self, Planes};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::sync::OnceLock;
use types::Types;

/// What the document says of itself.
const ABOUT: &str = "A gateway between applications and language models. The data plane speaks \
    OpenAI's and Anthropic's formats: what is described here is what tollgate reads, checks and \
    writes. A field that is not described is accepted and passed on to a cloud route, and an answer \
    that a provider wrote may hold more than is described. The admin plane wants the admin key; what \
    is unknown is absent there, money is a decimal string in US dollars, and a parameter nobody knows \
    is refused. A method that a path does not take gets 405 and `Allow`.";

/// The document of a listener, as it is served: written once.
pub(crate) fn served(planes: Planes) -> Bytes {
    static BOTH: OnceLock<Bytes> = OnceLock::new();
    static DATA: OnceLock<Bytes> = OnceLock::new();
    static ADMIN: OnceLock<Bytes> = OnceLock::new();
    let kept = match planes {
        Planes::Both => &BOTH,
        Planes::Data => &DATA,
        Planes::Admin => &ADMIN,
    };
    kept.get_or_init(|| Bytes::from(document(planes).to_string())).clone()
}

/// The document of a listener.
pub(crate) fn document(planes: Planes) -> Value {
    let mut types = Types::new();
    let mut operations = described(&mut types);
    let routed = serve::listed(planes);
    operations.retain(|operation| routed.iter().any(|listed| operation.is_of(listed)));
    let by_head = |operation: &Operation| routed.iter().find_map(|path| operation.by_head(path));
    let heads: Vec<Operation> = operations.iter().filter_map(by_head).collect();
    operations.extend(heads);
    let mut schemas = shared::schemas();
    schemas.extend(crate::wire::described());
    schemas.extend(types.definitions());
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "tollgate",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Language models behind one address, with policies, budgets and a ledger.",
            "description": ABOUT,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
        },
        "servers": [{ "url": "/" }],
        "tags": tags(&operations),
        "paths": paths(operations),
        "components": {
            "securitySchemes": shared::security_schemes(),
            "parameters": shared::parameters(),
            "headers": shared::headers(),
            "responses": shared::responses(),
            "schemas": schemas,
        },
    })
}

/// Every operation, of every listener.
fn described(types: &mut Types) -> Vec<Operation> {
    let mut operations = data::operations();
    operations.extend(crate::admin::operations(types));
    operations
}

fn paths(operations: Vec<Operation>) -> Map<String, Value> {
    let mut paths = Map::new();
    for operation in operations {
        let (path, method) = (operation.path, operation.method.to_ascii_lowercase());
        let place = paths.entry(path).or_insert_with(|| json!({}));
        place[method] = operation.written();
    }
    paths
}

fn tags(operations: &[Operation]) -> Vec<Value> {
    let all = [
        ("Answers", "Asking models, in OpenAI's and Anthropic's formats."),
        ("Models", "What can be asked."),
        ("State", "Whether it lives, and whether it can serve."),
        ("Keys", "Who may ask."),
        ("Groups", "Teams, users and tags."),
        ("Budgets", "What may be spent, and what is held now."),
        ("Guard", "What the abuse guard does."),
        ("Routes", "Where answers come from, and what they cost."),
        ("Policies", "The policy in force, its history, and trying another one."),
        ("Ledger", "What was asked and what it cost."),
        ("Organization", "Usage and costs in OpenAI's shapes."),
    ];
    all.into_iter()
        .filter(|(name, _)| operations.iter().any(|operation| operation.tag == *name))
        .map(|(name, description)| json!({ "name": name, "description": description }))
        .collect()
}
