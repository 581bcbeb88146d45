//! What the data plane reads and writes, as JSON schemas for the OpenAPI document. Tests of
//! `openapi` put every bound that stands here to the reader; the end-to-end tests hold every answer
//! against the rest.

mod chat;
mod messages;
mod responses;
mod texts;

use crate::openapi::reference;
use serde_json::{Map, Value};

/// All of them, by name.
pub(crate) fn schemas() -> Map<String, Value> {
    let mut schemas = chat::schemas();
    for written in [texts::schemas(), responses::schemas(), messages::schemas()] {
        schemas.extend(written);
    }
    schemas
}
