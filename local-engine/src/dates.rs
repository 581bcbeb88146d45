//! Dates of a schema: the compiler's formats let every year have a 29 February.

use serde_json::{Value as Json, json};

use crate::schemas;

/// How a text begins whose date exists, where its months and days are in order already. Every fourth
/// year is a leap year, but of the hundreds every fourth alone (ISO 8601).
const EXISTS: &str = "^([0-9]{4}-(0[13-9]|1[0-2])|[0-9]{4}-02-([01]|2[0-8])\
    |([0-9]{2}(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";

/// Asks of dates that they exist.
pub(crate) fn exact(schema: &mut Json) {
    schemas::each(schema, |fields| {
        let format = fields.get("format").and_then(Json::as_str);
        if !matches!(format, Some("date" | "date-time")) {
            return;
        }
        if !fields.contains_key("pattern") {
            fields.insert("pattern".to_owned(), json!(EXISTS));
        } else if let Json::Array(all) = fields.entry("allOf").or_insert(json!([])) {
            all.push(json!({ "pattern": EXISTS }));
        }
    });
}

#[cfg(test)]
mod tests {
    use super::{EXISTS, exact};
    use serde_json::json;

    #[test]
    fn dates_are_asked_to_exist_and_data_is_left_alone() {
        let date = json!({"type": "string", "format": "date"});
        let mut schema = json!({
            "properties": {"const": date, "when": {"format": "date-time", "pattern": "Z$"}},
            "items": [date], "const": date, "enum": [date], "format": "email",
        });
        exact(&mut schema);
        let asked = json!({"type": "string", "format": "date", "pattern": EXISTS});
        let both = json!({"format": "date-time", "pattern": "Z$", "allOf": [{"pattern": EXISTS}]});
        assert_eq!(
            schema,
            json!({
                "properties": {"const": asked, "when": both},
                "items": [asked], "const": date, "enum": [date], "format": "email",
            })
        );
    }
}
