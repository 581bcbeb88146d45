//! Keys, and the teams, users and tags that they belong to.

use super::{object, operation, text};
use crate::{
    admin::{groups, keys},
    openapi::{Operation, types::Types},
};
use serde_json::json;

pub(super) fn of_keys(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Keys";
    let (one, all) = (types.told::<keys::KeyView>(), types.list::<keys::KeyView>());
    let made = Types::whole::<keys::CreatedView>();
    let (create, change) = (types.asked::<keys::CreateBody>(), types.asked::<keys::ChangeBody>());
    let named = json!({
        "label": "nightly",
        "team": "red",
        "limits": { "requests_per_minute": 60 },
        "budgets": [{ "window": "day", "money_usd": "5.00" }],
    });
    let (path, many) = ("/admin/v1/keys/{id}", "/admin/v1/keys");
    vec![
        operation(("GET", many, TAG, "listKeys", "Every key, its secret not among it."), &[])
            .answers("200", "All keys.", &all),
        operation(("POST", many, TAG, "createKey", "Makes a key."), &["400", "409", "413"])
            .says("It expires, if at all, at a time to come.")
            .body(&create, false, &named)
            .answers("201", "The key with its secret, which is shown this once.", &made),
        operation(("GET", path, TAG, "getKey", "One key."), &["404"]).answers("200", "It.", &one),
        operation(
            ("PATCH", path, TAG, "changeKey", "Changes a key."),
            &["400", "404", "409", "413"],
        )
        .says("What is absent stays, what is null is cleared. One that is revoked stays so.")
        .body(&change, false, &json!({ "label": "nightly", "disabled": true }))
        .answers("200", "The key as it is now.", &one),
        operation(("DELETE", path, TAG, "revokeKey", "Revokes a key."), &["404"])
            .says("Its record stays, since entries name it.")
            .answers("200", "The key as it is now.", &one),
        operation(
            (
                "POST",
                "/admin/v1/keys/rotate-admin",
                TAG,
                "rotateAdminKey",
                "Makes a new admin key.",
            ),
            &[],
        )
        .says("The one that asked stops working with this answer.")
        .answers("200", "The new one.", &object(json!({ "secret": text() }), &[])),
    ]
}

pub(super) fn of_groups(types: &mut Types) -> Vec<Operation> {
    const TAG: &str = "Groups";
    let (one, all) = (types.told::<groups::GroupView>(), types.list::<groups::GroupView>());
    let create = types.asked::<groups::CreateBody>();
    let change = types.asked::<groups::ChangeBody>();
    let named = json!({ "name": "red", "budgets": [{ "window": "month", "money_usd": "100" }] });
    let kinds = [
        (
            "/admin/v1/teams",
            "/admin/v1/teams/{name}",
            ["listTeams", "createTeam", "getTeam", "changeTeam", "disableTeam"],
        ),
        (
            "/admin/v1/users",
            "/admin/v1/users/{name}",
            ["listUsers", "createUser", "getUser", "changeUser", "disableUser"],
        ),
        (
            "/admin/v1/tags",
            "/admin/v1/tags/{name}",
            ["listTags", "createTag", "getTag", "changeTag", ""],
        ),
    ];
    let of_kind = |(many, path, ids): (&'static str, &'static str, [&'static str; 5])| {
        let [list, make, get, change_id, disable] = ids;
        let mut all_of_it = vec![
            operation(("GET", many, TAG, list, "Every one."), &[]).answers(
                "200",
                "All of them.",
                &all,
            ),
            operation(("POST", many, TAG, make, "Sets one up."), &["400", "409", "413"])
                .body(&create, true, &named)
                .answers("201", "It.", &one),
            operation(("GET", path, TAG, get, "One of them."), &["404"])
                .answers("200", "It.", &one),
            operation(("PATCH", path, TAG, change_id, "Changes one."), &["400", "404", "413"])
                .says(
                    "What is absent stays, what is null is cleared. A tag has no keys that could be \
                     disabled: a budget of 0 requests stops what bears it.",
                )
                .body(&change, false, &json!({ "label": "Red", "disabled": false }))
                .answers("200", "As it is now.", &one),
        ];
        if !disable.is_empty() {
            all_of_it.push(
                operation(("DELETE", path, TAG, disable, "Disables one."), &["404"])
                    .says("None of its keys works until that is taken back. What was spent stays.")
                    .answers("200", "As it is now.", &one),
            );
        }
        all_of_it
    };
    kinds.into_iter().flat_map(of_kind).collect()
}
