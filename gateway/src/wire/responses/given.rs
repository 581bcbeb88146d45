//! What a kept answer was given, as `/v1/responses/{id}/input_items` shows it.
//!
//! **Invariant:** as where it was read, no tree of it is built.

use super::super::{
    BadRequest,
    json::{self, Kind},
    put::{List, Object},
};
use serde_json::value::RawValue;

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
    pub fn of(&self, mut items: Vec<Item>) -> Box<RawValue> {
        if !self.ascending {
            items.reverse();
        }
        if let Some(after) = &self.after {
            let named = |item: &Item| json::text_of(&item.id).is_some_and(|id| id == *after);
            let at = items.iter().position(named);
            items.drain(..at.map_or(items.len(), |at| at + 1));
        }
        let has_more = items.len() > self.limit;
        items.truncate(self.limit);
        let mut out = Vec::new();
        let mut page = Object::begin(&mut out);
        page.text("object", "list");
        page.raw("first_id", items.first().map_or("null", |item| &item.id));
        page.raw("last_id", items.last().map_or("null", |item| &item.id));
        page.raw("has_more", if has_more { "true" } else { "false" });
        let mut data = List::begin(page.member("data"));
        items.iter().for_each(|item| item.put(data.next()));
        data.end();
        page.end();
        RawValue::from_string(String::from_utf8_lossy(&out).into_owned()).unwrap_or_default()
    }
}

/// An item of an input.
pub struct Item {
    /// Its id, as JSON.
    id: String,
    /// The object that the client wrote.
    raw: String,
}

/// The items of an `input` that has been read: a text is a message.
pub(super) fn items(input: &[u8]) -> Vec<Item> {
    let text = std::str::from_utf8(input).unwrap_or("[]");
    let mut items = Vec::new();
    if json::kind(text) == Kind::String {
        let raw = format!(r#"{{"role":"user","content":{text}}}"#);
        items.push(Item { id: r#""item_0""#.to_owned(), raw });
        return items;
    }
    // It has been read before: there is nothing in it that is no item.
    let _ = json::elements(text, |at, raw| {
        let id = member(raw, "id").map_or_else(|| format!(r#""item_{at}""#), str::to_owned);
        items.push(Item { id, raw: raw.to_owned() });
        Ok::<_, serde_json::Error>(())
    });
    items
}

/// A member of an object that has been read; `None` where it is absent or null.
fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let _ = json::members::<serde_json::Error>(object, |key, member| {
        if key == name {
            found = Some(member.raw).filter(|raw| *raw != "null");
        }
        Ok(())
    });
    found
}

impl Item {
    /// Writes it; what a client may leave out is filled in.
    fn put(&self, out: &mut Vec<u8>) {
        let own = member(&self.raw, "role") == Some(r#""assistant""#);
        let text = if own { "output_text" } else { "input_text" };
        let mut item = Object::begin(out);
        item.raw("id", &self.id);
        item.raw("type", member(&self.raw, "type").unwrap_or(r#""message""#));
        let mut has_status = false;
        let _ = json::members::<serde_json::Error>(&self.raw, |key, member| {
            has_status |= key == "status" && member.raw != "null";
            match (key, json::kind(member.raw)) {
                ("id" | "type", _) | (_, Kind::Null) => {}
                ("content", Kind::String) => {
                    let part = format!(r#"[{{"type":"{text}","text":{}}}]"#, member.raw);
                    item.raw(key, &part);
                }
                _ => item.raw(key, member.raw),
            }
            Ok(())
        });
        if !has_status {
            item.text("status", "completed");
        }
        item.end();
    }
}

/// Without its text: a prompt must not reach a log.
impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Item").field("bytes", &self.raw.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::{InputPage, items};
    use serde_json::{Value, json};

    fn page(asked: &[(&str, &str)], input: &str) -> Value {
        let asked: Vec<_> =
            asked.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let page = InputPage::read(&asked).unwrap().of(items(input.as_bytes()));
        serde_json::from_str(page.get()).unwrap()
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
        let call = r#"[{"type": "function_call", "call_id": "c", "id": null, "status": "incomplete",
            "odd": [{"": 1.50}], "name": "f", "arguments": "{}"}]"#;
        let shown = page(&[], call)["data"][0].clone();
        let whole = json!({"id": "item_0", "type": "function_call", "call_id": "c",
            "status": "incomplete", "odd": [{"": 1.5}], "name": "f", "arguments": "{}"});
        assert_eq!(shown, whole);
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
