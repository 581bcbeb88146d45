//! What a kept answer was given, as `/v1/responses/{id}/input_items` shows it.

use super::super::BadRequest;
use serde_json::{Map, Value, json};

/// Items of a page that names no limit, and the most.
const LIMITS: (usize, usize) = (20, 100);

/// Which page of the items is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPage {
    ascending: bool,
    limit: usize,
    after: Option<String>,
}

impl InputPage {
    /// Reads a query string's pairs; what is not known here is passed over, as elsewhere in the data
    /// plane.
    ///
    /// # Errors
    /// [`BadRequest`] naming the parameter.
    pub fn read(asked: &[(String, String)]) -> Result<Self, BadRequest> {
        let (limit, most) = LIMITS;
        let mut page = Self { ascending: false, limit, after: None };
        for (name, value) in asked {
            match (name.as_str(), value.as_str()) {
                ("order", "asc") => page.ascending = true,
                ("order", "desc") => page.ascending = false,
                ("order", _) => {
                    return Err(BadRequest::value("order", "`order` must be asc or desc"));
                }
                ("limit", text) => {
                    let limit = text.parse().ok().filter(|limit| (1..=most).contains(limit));
                    page.limit = limit.ok_or_else(|| {
                        BadRequest::value("limit", format!("`limit` must be 1 to {most}"))
                    })?;
                }
                ("after", id) => page.after = Some(id.to_owned()),
                _ => {}
            }
        }
        Ok(page)
    }

    /// The page, as OpenAI writes it.
    #[must_use]
    pub fn of(&self, mut items: Vec<Value>) -> Value {
        if !self.ascending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let at = items.iter().position(|item| item["id"] == **after);
            items.drain(..at.map_or(items.len(), |at| at + 1));
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let id = |item: Option<&Value>| item.map_or(Value::Null, |item| item["id"].clone());
        json!({
            "object": "list",
            "first_id": id(items.first()),
            "last_id": id(items.last()),
            "has_more": has_more,
            "data": items,
        })
    }
}

/// The items of an `input` that has been read: a text is a message, and what a client may leave out is
/// filled in.
pub(super) fn items(input: &[u8]) -> Vec<Value> {
    match serde_json::from_slice(input).unwrap_or_default() {
        Value::Array(items) => {
            items.into_iter().enumerate().filter_map(|(at, item)| filled(at, item)).collect()
        }
        text => filled(0, json!({ "role": "user", "content": text })).into_iter().collect(),
    }
}

fn filled(at: usize, item: Value) -> Option<Value> {
    let Value::Object(written) = item else { return None };
    let mut item = Map::new();
    item.insert("id".to_owned(), json!(format!("item_{at}")));
    item.insert("type".to_owned(), json!("message"));
    item.extend(written.into_iter().filter(|(_, value)| !value.is_null()));
    let own = item.get("role").is_some_and(|role| role == "assistant");
    if let Some(content) = item.get_mut("content").filter(|content| content.is_string()) {
        let kind = if own { "output_text" } else { "input_text" };
        *content = json!([{ "type": kind, "text": content }]);
    }
    item.entry("status").or_insert_with(|| json!("completed"));
    Some(Value::Object(item))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page(asked: &[(&str, &str)], input: &str) -> Value {
        let asked: Vec<_> =
            asked.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        InputPage::read(&asked).unwrap().of(items(input.as_bytes()))
    }

    #[test]
    fn a_text_is_a_message_and_what_was_left_out_is_filled_in() {
        let shown = page(&[], r#""Hi.""#);
        let message = json!({"id": "item_0", "type": "message", "role": "user",
            "content": [{"type": "input_text", "text": "Hi."}], "status": "completed"});
        assert_eq!(shown["data"], json!([message]));
        let shown = page(&[], r#"[{"role": "assistant", "content": "Yes?", "id": "msg_1"}]"#);
        assert_eq!(shown["data"][0]["id"], "msg_1");
        assert_eq!(shown["data"][0]["content"][0]["type"], "output_text");
    }

    #[test]
    fn pages_follow_each_other_in_either_order() {
        let input = json!(["a", "b", "c"].map(|text| json!({"role": "user", "content": text})));
        let input = input.to_string();
        let first = page(&[("order", "asc"), ("limit", "2")], &input);
        assert_eq!((&first["first_id"], &first["last_id"]), (&json!("item_0"), &json!("item_1")));
        assert_eq!(first["has_more"], true);
        let rest = page(&[("order", "asc"), ("limit", "2"), ("after", "item_1")], &input);
        assert_eq!((&rest["first_id"], &rest["has_more"]), (&json!("item_2"), &json!(false)));
        assert_eq!(page(&[], &input)["first_id"], "item_2", "the last comes first unless asked");
        let beyond = page(&[("after", "item_9")], &input);
        assert_eq!((&beyond["data"], &beyond["first_id"]), (&json!([]), &Value::Null));
    }

    #[test]
    fn a_wrong_page_is_refused_by_name() {
        for (name, value) in [("limit", "0"), ("limit", "101"), ("limit", "x"), ("order", "up")] {
            let asked = [(name.to_owned(), value.to_owned())];
            assert_eq!(InputPage::read(&asked).unwrap_err().param.as_deref(), Some(name));
        }
    }
}
