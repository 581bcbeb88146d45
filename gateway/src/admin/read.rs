//! What a request of the admin plane says: bodies and query strings, refused where they are wrong.

use crate::{refusal::Refusal, wire::BadRequest};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use bytes::Bytes;
use http::request::Parts;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{
    Deserialize, Deserializer,
    de::{DeserializeOwned, MapAccess, Visitor, value::MapAccessDeserializer},
};
use std::{borrow::Cow, fmt, marker::PhantomData};

/// A JSON body. Unlike axum's own it wants no content type and refuses in our shape.
pub(super) struct Body<T>(pub(super) T);

/// A part of a body that must be an object: serde would read a struct from an array too.
#[derive(Debug, Default)]
pub(super) struct Object<T>(pub(super) T);

/// A query string. A parameter that nobody knows is refused.
pub(super) struct Params<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(|rejected| {
            if rejected.status() == http::StatusCode::PAYLOAD_TOO_LARGE {
                return Refusal::TooLarge(super::BODY_BYTES_MAX);
            }
            bad(None, "the request body ended before it was whole")
        })?;
        let text = if bytes.is_empty() { b"{}".as_slice() } else { &bytes };
        // serde would read a struct from an array too.
        if text.trim_ascii_start().first() != Some(&b'{') {
            return Err(bad(None, "the body: it must be a JSON object"));
        }
        let mut reader = serde_json::Deserializer::from_slice(text);
        let body = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let path = error.path().to_string();
            wrong("the body", Some(path.as_str()), &error.into_inner().to_string())
        })?;
        let end = reader.end().map_err(|error| wrong("the body", None, &error.to_string()));
        end.map(|()| Self(body))
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = T;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map))
            }
        }
        deserializer.deserialize_map(Fields(PhantomData)).map(Self)
    }
}

/// Its schema is that of what it holds.
impl<T: JsonSchema> JsonSchema for Object<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        Query::<T>::try_from_uri(&parts.uri).map(|Query(params)| Params(params)).map_err(|error| {
            let said = error.body_text();
            let said = said.strip_prefix("Failed to deserialize query string: ").unwrap_or(&said);
            let is_name = |text: &str| text.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            match said.split_once(": ").filter(|(name, _)| is_name(name)) {
                Some((name, message)) => wrong("the query", Some(name), message),
                None => wrong("the query", None, said),
            }
        })
    }
}

/// Refuses a query string where there is nothing to ask.
pub(super) fn no_params(request: &Request) -> Result<(), Refusal> {
    let asked = Query::<Vec<(String, String)>>::try_from_uri(request.uri());
    match asked.ok().and_then(|Query(pairs)| pairs.into_iter().next()) {
        Some((name, _)) => Err(unknown(&name)),
        None => Ok(()),
    }
}

/// A parameter of the query that nobody knows.
pub(super) fn unknown(name: &str) -> Refusal {
    bad(Some(name), format!("the query knows no parameter `{name}`"))
}

/// A refusal that names what is wrong.
pub(super) fn bad(param: Option<&str>, message: impl Into<String>) -> Refusal {
    Refusal::Bad(BadRequest {
        param: param.map(str::to_owned),
        message: message.into(),
        code: "invalid_value",
    })
}

/// A refusal in a reader's words, which names the parameter: the one that the message names, else the
/// one at `path`.
fn wrong(part: &str, path: Option<&str>, message: &str) -> Refusal {
    match (named(message), path.filter(|path| *path != ".")) {
        (None, Some(path)) => bad(Some(path), format!("{part}: `{path}`: {message}")),
        (named, _) => bad(named, format!("{part}: {message}")),
    }
}

/// The parameter that a reader's message names.
fn named(message: &str) -> Option<&str> {
    let named = ["unknown field `", "missing field `", "duplicate field `"];
    named
        .iter()
        .find_map(|words| message.split_once(words)?.1.split_once('`').map(|(name, _)| name))
}
