//! What a request's own fields make of a scripted answer: several choices, stop strings, tool calls,
//! structured output and log probabilities, and the shapes of the other endpoints.
//!
//! It invents nothing that a test could mistake for a model: arguments and structured answers are the
//! smallest values that fit the schema.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::{Map, Value, json};

/// Length of every vector.
const DIMENSIONS: usize = 8;

/// The smallest value that fits a JSON schema, as far as the stand-in reads one.
pub(super) fn example(schema: &Value) -> Value {
    if let Some(first) = schema["enum"].as_array().and_then(|values| values.first()) {
        return first.clone();
    }
    if !schema["const"].is_null() {
        return schema["const"].clone();
    }
    for any in ["anyOf", "oneOf"] {
        if let Some(first) = schema[any].as_array().and_then(|options| options.first()) {
            return example(first);
        }
    }
    let kind = schema["type"].as_str().or_else(|| schema["type"][0].as_str());
    match kind {
        Some("string") => json!("x"),
        Some("integer") => json!(1),
        Some("number") => json!(1.5),
        Some("boolean") => json!(true),
        Some("null") => Value::Null,
        Some("array") => json!([example(&schema["items"])]),
        _ => {
            let properties = schema["properties"].as_object().cloned().unwrap_or_default();
            let member = |(name, schema): (String, Value)| (name, example(&schema));
            Value::Object(properties.into_iter().map(member).collect::<Map<_, _>>())
        }
    }
}

/// The tool that the request makes the model call, with arguments; `None` where it makes it call
/// none.
pub(super) fn forced_call(request: &Value) -> Option<(String, String)> {
    let tools = request["tools"].as_array()?;
    let choice = &request["tool_choice"];
    let wanted = choice["function"]["name"].as_str();
    if choice != "required" && wanted.is_none() {
        return None;
    }
    let function = tools
        .iter()
        .map(|tool| &tool["function"])
        .find(|function| wanted.is_none_or(|wanted| function["name"] == wanted))?;
    let name = function["name"].as_str()?.to_owned();
    Some((name, example(&function["parameters"]).to_string()))
}

/// The answer's text where the request asks for a structured one.
pub(super) fn structured(request: &Value) -> Option<String> {
    let format = &request["response_format"];
    match format["type"].as_str()? {
        "json_schema" => Some(example(&format["json_schema"]["schema"]).to_string()),
        "json_object" => Some(json!({"color": "blue"}).to_string()),
        _ => None,
    }
}

/// The pieces up to the first stop string of the request, and whether one was met.
pub(super) fn stopped(request: &Value, pieces: &[String]) -> (Vec<String>, bool) {
    let stops: Vec<&str> = match &request["stop"] {
        Value::String(stop) => vec![stop],
        Value::Array(stops) => stops.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let text = pieces.concat();
    let Some(mut left) = stops.iter().filter_map(|stop| text.find(stop)).min() else {
        return (pieces.to_vec(), false);
    };
    let mut kept = Vec::new();
    for piece in pieces {
        let part = piece.get(..left.min(piece.len())).unwrap_or(piece).to_owned();
        left -= part.len();
        if !part.is_empty() {
            kept.push(part);
        }
    }
    (kept, true)
}

/// Log probabilities of a piece, where the request asks for them.
pub(super) fn logprobs(request: &Value, piece: &str) -> Value {
    if request["logprobs"] != json!(true) {
        return Value::Null;
    }
    let likely = json!({"token": piece, "logprob": -0.5, "bytes": piece.as_bytes()});
    let top = request["top_logprobs"].as_u64().unwrap_or(0);
    let mut token = likely.clone();
    token["top_logprobs"] = (0..top).map(|_| likely.clone()).collect();
    json!({"content": [token], "refusal": null})
}

/// Vectors of unit length for the inputs of an embedding request: equal texts make equal ones.
pub(super) fn vectors(request: &Value) -> Vec<Value> {
    let inputs: Vec<Value> = match &request["input"] {
        Value::Array(list) if !list.iter().all(Value::is_number) => list.clone(),
        one => vec![one.clone()],
    };
    let base64 = request["encoding_format"] == "base64";
    let one = |(index, input): (usize, &Value)| {
        let vector = vector(&input.to_string());
        let written = if base64 {
            let bytes: Vec<u8> = vector.iter().flat_map(|number| number.to_le_bytes()).collect();
            json!(STANDARD.encode(bytes))
        } else {
            json!(vector)
        };
        json!({"object": "embedding", "index": index, "embedding": written})
    };
    inputs.iter().enumerate().map(one).collect()
}

fn vector(text: &str) -> Vec<f32> {
    let mut sums = [1_u16; DIMENSIONS];
    for (at, byte) in text.bytes().enumerate() {
        let sum = &mut sums[(at + usize::from(byte)) % DIMENSIONS];
        *sum = sum.wrapping_mul(31).wrapping_add(u16::from(byte));
    }
    let numbers: Vec<f32> = sums.iter().map(|sum| f32::from(*sum) - 30_000.0).collect();
    let length = numbers.iter().map(|number| number * number).sum::<f32>().sqrt();
    numbers.iter().map(|number| number / length).collect()
}
