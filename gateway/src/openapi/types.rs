//! Schemas made from the types that parse and serialise, and words for those of other crates.
//!
//! **Invariant:** a request's schema follows its `Deserialize`, an answer's its `Serialize`; the admin
//! plane leaves out what is unknown, so a field that may be null in the type is one that may be
//! absent in the answer.

use schemars::{
    JsonSchema, Schema, SchemaGenerator,
    generate::{Contract, SchemaSettings},
    json_schema,
};
use serde_json::{Map, Value, json};
use std::borrow::Cow;

/// Makes schemas, and keeps those that answers refer to.
#[derive(Debug)]
pub(crate) struct Types {
    asked: SchemaGenerator,
    told: SchemaGenerator,
}

impl Types {
    pub(super) fn new() -> Self {
        let settings = || {
            let mut settings = SchemaSettings::draft2020_12();
            settings.meta_schema = None;
            settings
        };
        let mut asked = settings();
        asked.inline_subschemas = true;
        let mut told = settings();
        told.definitions_path = "/components/schemas".into();
        told.contract = Contract::Serialize;
        Self { asked: asked.into_generator(), told: told.into_generator() }
    }

    /// What a request's body must be.
    pub(crate) fn asked<T: JsonSchema>(&mut self) -> Value {
        self.asked.subschema_for::<T>().to_value()
    }

    /// What an answer's body is.
    pub(crate) fn told<T: JsonSchema>(&mut self) -> Value {
        let mut schema = self.told.subschema_for::<T>().to_value();
        unknown_is_absent(&mut schema);
        schema
    }

    /// The same in full, to which more can be added.
    pub(crate) fn whole<T: JsonSchema>() -> Value {
        let mut settings = SchemaSettings::draft2020_12();
        settings.meta_schema = None;
        settings.inline_subschemas = true;
        settings.contract = Contract::Serialize;
        let mut schema = settings.into_generator().subschema_for::<T>().to_value();
        unknown_is_absent(&mut schema);
        schema
    }

    /// A list of such.
    pub(crate) fn list<T: JsonSchema>(&mut self) -> Value {
        let items = self.told::<T>();
        list_of(&items)
    }

    /// What answers refer to.
    pub(super) fn definitions(mut self) -> Map<String, Value> {
        let mut definitions = self.told.take_definitions(true);
        definitions.values_mut().for_each(unknown_is_absent);
        definitions
    }
}

/// A list, as every list of the admin plane looks.
pub(crate) fn list_of(items: &Value) -> Value {
    json!({
        "type": "object",
        "properties": {
            "object": { "const": "list" },
            "data": { "type": "array", "items": items },
            "next_cursor": {
                "type": "string",
                "description": "Where the next page begins, if there is one.",
            },
        },
        "required": ["object", "data"],
    })
}

/// A property that may be null is one that may be absent.
fn unknown_is_absent(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            let mut absent = Vec::new();
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                for (name, property) in properties.iter_mut() {
                    if without_null(property) {
                        property.as_object_mut().and_then(|it| it.remove("default"));
                        absent.push(name.clone());
                    }
                }
            }
            if let Some(Value::Array(required)) = fields.get_mut("required") {
                required.retain(|name| !absent.iter().any(|absent| name == absent));
            }
            fields.values_mut().for_each(unknown_is_absent);
        }
        Value::Array(items) => items.iter_mut().for_each(unknown_is_absent),
        _ => {}
    }
}

/// Takes null out of what a schema allows; whether it was there.
fn without_null(schema: &mut Value) -> bool {
    if let Some(Value::Array(types)) = schema.get_mut("type") {
        let before = types.len();
        types.retain(|kind| kind != "null");
        let had = types.len() < before;
        if let [one] = types.as_slice() {
            schema["type"] = one.clone();
        }
        return had;
    }
    if let Some(Value::Array(choices)) = schema.get_mut("anyOf") {
        let before = choices.len();
        choices.retain(|choice| choice != &json!({ "type": "null" }));
        let had = choices.len() < before;
        if let ([one], true) = (choices.as_slice(), had) {
            let mut one = one.clone();
            if let (Some(said), Some(fields)) = (schema.get("description"), one.as_object_mut()) {
                fields.insert("description".to_owned(), said.clone());
            }
            *schema = one;
        }
        return had;
    }
    false
}

/// Words of other crates, for `#[schemars(with = "…")]`.
macro_rules! words {
    ($($(#[$about:meta])* $name:ident = $schema:tt;)*) => {$(
        $(#[$about])*
        #[derive(Debug)]
        pub(crate) struct $name;

        impl JsonSchema for $name {
            fn inline_schema() -> bool {
                true
            }

            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    )*};
}

words! {
    /// An amount of money.
    Usd = {
        "type": "string",
        "description": "US dollars, exact.",
        "pattern": "^[0-9]{1,8}(\\.[0-9]{1,12})?$",
        "examples": ["0.000412500000"],
    };
    /// A sum of money.
    UsdTotal = {
        "type": "string",
        "description": "US dollars, exact.",
        "pattern": "^[0-9]+(\\.[0-9]{1,12})?$",
        "examples": ["12.500000000000"],
    };
    /// A difference of money.
    UsdSigned = {
        "type": "string",
        "description": "US dollars, exact, with a minus where it is less.",
        "pattern": "^-?[0-9]+(\\.[0-9]{1,12})?$",
        "examples": ["-0.000412500000"],
    };
    /// A budget's window.
    WindowText = {
        "type": "string",
        "description": "hour, day, week, month, total, or rolling: such as `rolling:24h`.",
        "pattern": "^(hour|day|week|month|total|rolling:[1-9][0-9]{0,7}[smhd])$",
        "examples": ["day"],
    };
    /// A time zone.
    ZoneName = {
        "type": "string",
        "description": "A name of the tz database.",
        "pattern": "^[A-Za-z0-9_+/-]{1,64}$",
        "examples": ["Europe/Berlin"],
    };
    /// What somebody called something.
    Name = { "type": "string" };
    /// On or off, of which null is neither.
    Switch = { "type": "boolean" };
    /// A limit of at least one.
    AtLeastOne = { "type": ["integer", "null"], "minimum": 1, "maximum": 4_294_967_295_u32 };
    /// A limit of tokens, at least one.
    AtLeastOneToken = { "type": ["integer", "null"], "minimum": 1, "maximum": u64::MAX };
    /// Tokens by bucket.
    UsageWords = {
        "type": "object",
        "description": "Tokens by bucket; the buckets are disjoint.",
        "additionalProperties": { "type": "integer", "minimum": 0 },
        "required": ["input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "reasoning"],
    };
    /// Facts and traces of the policy language.
    Open = { "type": "object", "additionalProperties": true };
}
