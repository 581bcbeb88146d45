//! Answers that must match a rule: they always do, or the rule is refused.

use local_engine::{ConstraintError, Engine, Finish, Job, Rule};
use serde_json::{Value, json};

use super::harness::{answer, ask, engine, small, warm};

/// Numbers that look random and are the same each time.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

/// A schema of bounded answers.
fn schema(numbers: &mut Numbers, depth: u64) -> Value {
    match numbers.below(if depth == 0 { 5 } else { 8 }) {
        0 => json!({ "type": "boolean" }),
        1 => json!({ "type": "integer", "minimum": 0, "maximum": 10 + numbers.below(90) }),
        2 => json!({ "enum": ["red", "green", 7, null] }),
        3 => json!({ "type": "string", "maxLength": 1 + numbers.below(6) }),
        4 => json!({ "type": "string", "pattern": "^[a-c]{2,4}$" }),
        5 => {
            json!({ "type": "array", "items": schema(numbers, depth - 1), "minItems": 1, "maxItems": 2 })
        }
        6 => json!({ "anyOf": [schema(numbers, depth - 1), { "type": "null" }] }),
        _ => {
            let count = 1 + numbers.below(3);
            let mut properties = serde_json::Map::new();
            for at in 0..count {
                properties.insert(format!("p{at}"), schema(numbers, depth - 1));
            }
            let required: Vec<_> = properties.keys().cloned().collect();
            let mut schema =
                json!({ "type": "object", "properties": properties, "required": required });
            // One that says nothing of other members gets none either.
            if numbers.below(2) == 0 {
                schema["additionalProperties"] = json!(false);
            }
            schema
        }
    }
}

#[tokio::test]
async fn a_reference_may_be_escaped() {
    let engine = engine(&small());
    for (escaped, name) in [("a~1b", "a/b"), ("a~0b", "a~b"), ("a%20b", "a b")] {
        let reference = format!("#/$defs/{escaped}");
        let schema = json!({ "$ref": reference, "$defs": { name: { "const": "yes" } } });
        let rule = Rule::JsonSchema(schema.to_string());
        let mut job = ask(&engine, "Say something.", 8);
        job.constraint = Some(engine.constrain(&rule).expect("it compiles"));
        assert_eq!(answer(&engine, job).await.text(), "\"yes\"", "{escaped}");
    }
}

#[tokio::test]
async fn bounds_at_the_end_of_64_bits_neither_end_the_process_nor_are_they_ignored() {
    let engine = engine(&small());
    let of = |bounds: Value| engine.constrain(&Rule::JsonSchema(bounds.to_string()));
    let integer =
        |least: f64, most: f64| json!({"type": "integer", "minimum": least, "maximum": most});
    // The second one's end is the first's once it is a float.
    for beyond in [
        integer(-1e30, -1e25),
        json!({"type": "integer", "minimum": i64::MIN, "maximum": -9_223_372_036_854_775_000_i64}),
        integer(1e19, 1e20),
    ] {
        assert!(of(beyond.clone()).is_err(), "{beyond}");
    }
    for all in [
        json!({"type": "integer", "minimum": i64::MIN, "maximum": i64::MAX}),
        json!({"type": "integer", "minimum": i64::MIN}),
        json!({"type": "integer", "exclusiveMaximum": u64::MAX, "allOf": [{"minimum": i64::MIN}]}),
        json!({"type": "number", "minimum": -1e30, "maximum": 1e30}),
    ] {
        assert!(of(all.clone()).is_ok(), "{all}: {:?}", of(all.clone()).err());
    }
}

#[tokio::test]
async fn members_that_may_share_a_name_are_not_counted() {
    let engine = engine(&small());
    let least = |least: u32| {
        let schema =
            json!({"type": "object", "additionalProperties": {"const": 1}, "minProperties": least});
        engine.constrain(&Rule::JsonSchema(schema.to_string()))
    };
    assert!(least(1).is_ok());
    match least(2).expect_err("{\"a\": 1, \"a\": 1} has one member") {
        ConstraintError::Refused(reason) => assert!(reason.contains("minProperties"), "{reason}"),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn an_answer_matches_one_alternative_of_one_of_and_no_other() {
    let engine = engine(&small());
    let of = |name: &str| json!({"type": "object", "properties": {name: {"type": "integer"}}, "required": [name]});
    let mut open = of("b");
    open.as_object_mut().expect("an object").remove("required");
    for alternatives in [json!([of("a"), open]), json!([of("a"), of("b")])] {
        let rule = Rule::JsonSchema(json!({ "oneOf": alternatives }).to_string());
        match engine.constrain(&rule).expect_err("{\"a\": 1, \"b\": 1} matches both") {
            ConstraintError::Refused(reason) => assert!(reason.contains("oneOf"), "{reason}"),
            other => panic!("{other}"),
        }
    }
    let kind = |kind: &str| json!({"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]});
    let rule = Rule::JsonSchema(json!({"oneOf": [kind("a"), kind("b")]}).to_string());
    let text = answer(&engine, under(&engine, &rule, 40)).await.text();
    let told: Value = serde_json::from_str(&text).expect("JSON");
    assert!(told == json!({"kind": "a"}) || told == json!({"kind": "b"}), "and no more: {told}");
}

/// Whether `value` is what `schema` describes, for the schemas made above.
fn matches(schema: &Value, value: &Value) -> bool {
    if let Some(options) = schema.get("anyOf").and_then(Value::as_array) {
        return options.iter().any(|option| matches(option, value));
    }
    if let Some(options) = schema.get("enum").and_then(Value::as_array) {
        return options.contains(value);
    }
    let number = |key: &str| schema[key].as_u64().unwrap_or(u64::MAX);
    match (schema["type"].as_str(), value) {
        (Some("boolean"), Value::Bool(_)) | (Some("null"), Value::Null) => true,
        (Some("integer"), Value::Number(n)) => n.as_u64().is_some_and(|n| n <= number("maximum")),
        (Some("string"), Value::String(text)) if schema.get("pattern").is_some() => {
            (2..=4).contains(&text.len()) && text.bytes().all(|byte| (b'a'..=b'c').contains(&byte))
        }
        (Some("string"), Value::String(text)) => text.chars().count() as u64 <= number("maxLength"),
        (Some("array"), Value::Array(items)) => {
            let count = items.len() as u64;
            number("minItems") <= count
                && count <= number("maxItems")
                && items.iter().all(|item| matches(&schema["items"], item))
        }
        (Some("object"), Value::Object(fields)) => {
            let properties = schema["properties"].as_object().expect("an object's schema");
            fields.len() == properties.len()
                && fields.iter().all(|(key, value)| {
                    properties.get(key).is_some_and(|schema| matches(schema, value))
                })
        }
        _ => false,
    }
}

fn under(engine: &Engine, rule: &Rule, max_tokens: u32) -> Job {
    let mut job = ask(engine, "Give me an example.", max_tokens);
    job.constraint = Some(engine.constrain(rule).expect("the rule can be enforced"));
    job
}

#[tokio::test]
async fn answers_match_forty_random_schemas() {
    let mut config = small();
    config.slots = 4;
    config.context_tokens = 2_048;
    let engine = engine(&config);
    let mut numbers = Numbers(42);
    let mut running = Vec::new();
    for round in 0..40 {
        let schema = schema(&mut numbers, 2);
        let mut job = under(&engine, &Rule::JsonSchema(schema.to_string()), 400);
        if round % 2 == 0 {
            job.sampling = warm(round);
        }
        running.push((schema, engine.submit(job).expect("taken")));
        if running.len() == 8 {
            for (schema, generation) in running.drain(..) {
                let answer = super::harness::read(generation).await;
                assert_eq!(answer.finish(), Finish::Stop, "{schema}: {}", answer.text());
                let value: Value = serde_json::from_str(&answer.text()).expect("valid JSON");
                assert!(matches(&schema, &value), "{schema}: {value}");
            }
        }
    }
}

#[tokio::test]
async fn any_object_is_an_object() {
    let engine = engine(&small());
    let mut job = under(&engine, &Rule::JsonObject, 300);
    // A small model writes on and on: it is the shape of what came that counts.
    job.sampling.repeat_penalty = 1.3;
    let answer = answer(&engine, job).await;
    assert!(answer.text().starts_with('{'));
    if answer.finish() == Finish::Stop {
        let value: Value = serde_json::from_str(&answer.text()).expect("valid JSON");
        assert!(value.is_object());
    }
}

#[tokio::test]
async fn a_grammar_is_followed_with_and_without_recursion() {
    let engine = engine(&small());
    let date = "root ::= year \"-\" two \"-\" two\nyear ::= [0-9]{4}\ntwo ::= [0-9] [0-9]";
    let text = answer(&engine, under(&engine, &Rule::Gbnf(date.to_owned()), 40)).await.text();
    assert_eq!(text.len(), 10);
    assert!(text.bytes().enumerate().all(|(at, byte)| match at {
        4 | 7 => byte == b'-',
        _ => byte.is_ascii_digit(),
    }));
    let list = "root ::= list\nlist ::= \"(\" (list | [a-z]{1,3}) \")\"";
    let job = under(&engine, &Rule::Gbnf(list.to_owned()), 60);
    let answer = answer(&engine, job).await;
    let text = answer.text();
    let opened = text.bytes().take_while(|byte| *byte == b'(').count();
    assert!(opened > 0);
    if answer.finish() == Finish::Stop {
        assert_eq!(text.bytes().rev().take_while(|byte| *byte == b')').count(), opened);
    }
}

#[tokio::test]
async fn a_constraint_comes_before_every_other_sampler() {
    let engine = engine(&small());
    let mut job = under(&engine, &Rule::Regex("[0-9]{3}".to_owned()), 20);
    job.sampling = warm(3);
    job.sampling.top_k = Some(1);
    job.sampling.min_p = 0.9;
    let text = answer(&engine, job).await.text();
    assert!(text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_digit()), "{text}");
}

#[test]
fn what_cannot_be_enforced_is_refused() {
    let engine = engine(&small());
    let nested = |depth: usize| {
        let open = r#"{"type":"object","properties":{"a":"#.repeat(depth);
        format!("{open}true{}", "}}".repeat(depth))
    };
    let huge: Vec<u32> = (0..30_000).collect();
    for rule in [
        Rule::JsonSchema("{".to_owned()),
        Rule::JsonSchema("7".to_owned()),
        Rule::JsonSchema("false".to_owned()),
        Rule::JsonSchema(r#"{"type":"sausage"}"#.to_owned()),
        Rule::JsonSchema(r#"{"if":{"type":"string"},"then":{"minLength":3}}"#.to_owned()),
        Rule::JsonSchema(r##"{"$ref":"http://localhost/schema"}"##.to_owned()),
        Rule::JsonSchema(r#"{"type":"string","pattern":"(?=look)ahead"}"#.to_owned()),
        Rule::JsonSchema(r#"{"type":"string","pattern":"(("}"#.to_owned()),
        Rule::JsonSchema(r#"{"x-guidance":{"lenient":true},"if":{}}"#.to_owned()),
        Rule::JsonSchema(nested(40)),
        Rule::JsonSchema(nested(5_000)),
        Rule::JsonSchema(json!({ "enum": huge }).to_string()),
        Rule::JsonSchema(format!("{{\"const\":\"{}\"}}", "x".repeat(300_000))),
        Rule::Gbnf("root ::= nothing".to_owned()),
        Rule::Regex("a(".to_owned()),
    ] {
        let refused = engine.constrain(&rule).map(|_| ()).expect_err("cannot be enforced");
        assert!(matches!(refused, ConstraintError::Refused(_)), "{refused:?}");
    }
}

#[tokio::test]
async fn a_bomb_is_refused_or_bounded_and_stops_nobody() {
    let engine = engine(&small());
    let bombs = [
        Rule::Regex("((a{0,100}){0,100}){0,100}b".to_owned()),
        Rule::Regex("(.*a){30}.*".to_owned()),
        Rule::JsonSchema(r#"{"type":"string","pattern":"^(([a-z]+)+)+$"}"#.to_owned()),
        Rule::JsonSchema(
            r##"{"$defs":{"a":{"anyOf":[{"$ref":"#/$defs/b"},{"$ref":"#/$defs/b"}]},"b":{"anyOf":[{"$ref":"#/$defs/a"},{"$ref":"#/$defs/a"},{"type":"null"}]}},"$ref":"#/$defs/a"}"##
                .to_owned(),
        ),
        Rule::Gbnf("root ::= root root | \"a\" | root \"b\"".to_owned()),
        Rule::Gbnf("root ::= root".to_owned()),
        Rule::Gbnf("root ::= ((((\"a\"{0,2000}){0,2000}){0,2000}){0,2000})".to_owned()),
    ];
    for bomb in bombs {
        let Ok(constraint) = engine.constrain(&bomb) else { continue };
        let mut job = ask(&engine, "Go on.", 12);
        job.constraint = Some(constraint);
        let other = engine.submit(ask(&engine, "Say hello.", 6)).expect("taken");
        // It ends, well or failed; the other one ends well.
        super::harness::read(engine.submit(job).expect("taken")).await;
        assert!(super::harness::read(other).await.usage().generated_tokens > 0);
    }
}
