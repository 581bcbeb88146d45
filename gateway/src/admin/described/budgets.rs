//! Budgets, reservations and limits.

use super::{object, operation, text, usd, whole};
use crate::{
    admin::{budgets, corrections, model_limits, state},
    openapi::{
        Operation, query,
        types::{Types, list_of},
    },
};
use serde_json::json;

pub(super) fn of_budgets(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Budgets";
    let set = types.told::<budgets::BudgetView>();
    let either = json!({ "anyOf": [types.told::<state::BudgetView>(), set] });
    let all = list_of(&either);
    let (create, change) =
        (types.asked::<budgets::CreateBody>(), types.asked::<budgets::ChangeBody>());
    let named = json!({ "scope": "global", "window": "week", "money_usd": "20" });
    let (path, many) = ("/admin/v1/budgets/{id}", "/admin/v1/budgets");
    let of = query(
        "sessions_of",
        "The budgets of this key's sessions instead, whoever gives them.",
        text(),
        json!("key_1"),
    );
    let each = query(
        "of_sessions",
        "Beside them what is set for each session of a scope, which has no state.",
        json!({ "type": "boolean" }),
        json!(true),
    );
    let held = object(
        json!({
            "request": text(),
            "attempt": whole(),
            "key": text(),
            "reserved_usd": usd(),
            "reserved_tokens": whole(),
        }),
        &[],
    );
    vec![
        operation(
            ("GET", many, TAG, "listBudgets", "Every budget in its current window."),
            &["400"],
        )
        .takes([of, each])
        .answers("200", "All of them.", &all),
        operation(
            ("POST", many, TAG, "createBudget", "Sets a budget."),
            &["400", "404", "409", "413"],
        )
        .says("On `global`, `team:<name>`, `user:<name>`, `tag:<name>` or a key's id.")
        .body(&create, true, &named)
        .answers("201", "As it was set.", &set),
        operation(
            ("GET", path, TAG, "getBudget", "One budget, with its state if it has one."),
            &["400", "404"],
        )
        .says("Its id is its scope and its window, such as `team:red/month`.")
        .answers("200", "It.", &either),
        operation(
            ("PATCH", path, TAG, "changeBudget", "Changes a budget."),
            &["400", "404", "413"],
        )
        .says("Lowered below what is spent, it stops new work and lets running work end.")
        .body(&change, false, &json!({ "money_usd": "30" }))
        .answers("200", "As it is set now.", &set),
        operation(("DELETE", path, TAG, "removeBudget", "Removes a budget."), &["400", "404"])
            .answers("200", "As it was.", &set),
        operation(
            (
                "POST",
                "/admin/v1/corrections",
                TAG,
                "correctBudget",
                "Books a correction on a budget.",
            ),
            &["400", "404", "413"],
        )
        .says(
            "It is added to what is spent in the window that runs, or taken from it with `credit`. \
             After a loss of events it also says that what was missing of this budget is booked.",
        )
        .body(
            &types.asked::<corrections::CorrectionBody>(),
            true,
            &json!({
                "budget": "team:red/month",
                "money_usd": "1.25",
                "reason": "events 4711 to 4720, by the provider's invoice",
            }),
        )
        .answers("200", "The budget as it is now.", &types.told::<state::BudgetView>()),
        operation(
            (
                "GET",
                "/admin/v1/reservations",
                TAG,
                "listReservations",
                "Every attempt that holds money or tokens.",
            ),
            &[],
        )
        .answers("200", "All of them.", &list_of(&held)),
        operation(
            (
                "GET",
                "/admin/v1/refusals",
                TAG,
                "listRefusals",
                "Requests that were turned away, by code.",
            ),
            &[],
        )
        .says("`rules` counts those of them that a rule of the policy refused.")
        .answers(
            "200",
            "Counts since the ledger began.",
            &list_of(&object(
                json!({
                    "code": text(),
                    "count": whole(),
                    "rules": {
                        "type": "array",
                        "items": object(json!({ "rule": text(), "count": whole() }), &[]),
                    },
                }),
                &["rules"],
            )),
        ),
    ]
}

pub(super) fn of_limits(types: &mut Types) -> Operation {
    let all = types.list::<model_limits::ModelLimitsView>();
    let summary = "The limits of single models over all callers.";
    operation(("GET", "/admin/v1/limits", "Limits", "listModelLimits", summary), &[])
        .says("As `[[limit]]` sets them in the configuration, with what is left of each.")
        .answers("200", "All of them.", &all)
}
