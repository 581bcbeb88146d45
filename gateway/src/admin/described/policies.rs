//! Policies: what they are, were and would decide.

use super::{object, operation, text, whole};
use crate::{
    admin::{policies, replay},
    openapi::{
        Operation,
        types::{Types, list_of},
    },
};
use serde_json::json;

pub(super) fn of_policies(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Policies";
    let validate = types.asked::<policies::ValidateBody>();
    let (past, replayed) =
        (types.asked::<replay::ReplayBody>(), types.told::<replay::ReplayView>());
    let rejected = object(json!({ "error": text(), "at": text(), "at_unix_ms": whole() }), &[]);
    let current = object(
        json!({
            "name": text(),
            "version": text(),
            "description": text(),
            "tests": whole(),
            "file": text(),
            "shipped": { "type": "boolean" },
            "aliases": { "type": "array", "items": text() },
            "last_error": rejected,
            "source": text(),
        }),
        &["description", "file", "last_error"],
    );
    let noted = object(
        json!({ "name": text(), "version": text(), "since": text(), "since_unix_ms": whole() }),
        &[],
    );
    let warning = object(json!({ "line": whole(), "message": text() }), &["line"]);
    let error = object(
        json!({ "message": text(), "line": whole(), "column": whole(), "key": text() }),
        &["line", "column", "key"],
    );
    let verdict = object(
        json!({
            "valid": { "type": "boolean" },
            "name": text(),
            "version": text(),
            "tests": whole(),
            "warnings": { "type": "array", "items": warning },
            "error": error,
        }),
        &["name", "version", "tests", "warnings", "error"],
    );
    let written = "[[choose]]\nname = \"all\"\nroutes = [\"edge\"]\n";
    vec![
        operation(
            (
                "GET",
                "/admin/v1/policies",
                TAG,
                "showPolicy",
                "The policy in force, and why a newer file is not.",
            ),
            &[],
        )
        .answers("200", "It.", &current),
        operation(
            (
                "POST",
                "/admin/v1/policies/reload",
                TAG,
                "reloadPolicy",
                "Reads the policy's file again, as SIGHUP does.",
            ),
            &[],
        )
        .answers("200", "The policy in force after that.", &current),
        operation(
            (
                "POST",
                "/admin/v1/policies/validate",
                TAG,
                "validatePolicy",
                "Parses a policy, runs its tests and checks it against the routes.",
            ),
            &["400", "413"],
        )
        .says("Nothing changes.")
        .body(&validate, true, &json!({ "text": written, "name": "mine" }))
        .answers("200", "Whether it could come into force.", &verdict),
        operation(
            (
                "POST",
                "/admin/v1/policies/replay",
                TAG,
                "replayPolicy",
                "Tries a policy out on the requests of the past.",
            ),
            &["400", "413"],
        )
        .says(
            "Each request is decided again from what was known then, and its plan followed along what \
             is known of its routes. What went where it would go again costs and takes what it did; \
             what would have gone elsewhere is estimated there by the tokens of its answer. Nothing is \
             written and nobody is asked; budgets and limits are not replayed.",
        )
        .body(&past, true, &json!({ "text": written, "since": "7d" }))
        .answers("200", "What would have changed.", &replayed),
        operation(
            (
                "GET",
                "/admin/v1/policies/history",
                TAG,
                "listPolicies",
                "Every version that came into force, oldest first.",
            ),
            &[],
        )
        .answers("200", "All of them.", &list_of(&noted)),
        operation(
            (
                "GET",
                "/admin/v1/policies/history/{version}",
                TAG,
                "getPolicy",
                "The text of a version.",
            ),
            &["404"],
        )
        .answers(
            "200",
            "It.",
            &object(json!({ "version": text(), "source": text() }), &[]),
        ),
    ]
}
