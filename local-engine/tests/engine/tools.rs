//! Tools on the real model: a call always parses and matches its schema, in every format.

use local_engine::{
    CallEvent, CallReader, Chat, ConstraintError, Engine, Finish, Function, Job, Rule, ToolChoice,
    ToolFormat, Tools,
};
use serde_json::{Value, json};

use super::harness::{answer, ask, engine, small, user, warm};

fn tools(choice: ToolChoice) -> Tools {
    let weather = Function {
        name: "get_weather".to_owned(),
        description: Some("The weather in a city".to_owned()),
        parameters: Some(
            r#"{"type":"object","properties":{"city":{"type":"string","maxLength":12},"days":{"type":"integer","minimum":1,"maximum":9}},"required":["city","days"],"additionalProperties":false}"#
                .to_owned(),
        ),
    };
    let clock = Function {
        name: "now".to_owned(),
        description: None,
        parameters: Some(
            "{\"type\":\"object\",\"properties\":{},\"additionalProperties\":false}".to_owned(),
        ),
    };
    Tools { functions: vec![weather, clock], choice, parallel: Some(true) }
}

/// Text and calls of an answer.
fn read(format: ToolFormat, text: &str) -> (String, Vec<(String, String)>, u32) {
    let mut reader = CallReader::new(format, Vec::new());
    let mut events = Vec::new();
    reader.push(text, &mut events);
    reader.end(&mut events);
    let (mut said, mut calls) = (String::new(), Vec::<(String, String)>::new());
    for event in events {
        match event {
            CallEvent::Text(text) => said.push_str(&text),
            CallEvent::Call { name, .. } => calls.push((name, String::new())),
            CallEvent::Arguments { json, .. } => {
                calls.last_mut().expect("a call").1.push_str(&json);
            }
        }
    }
    (said, calls, reader.complete())
}

fn valid(call: &(String, String)) -> bool {
    let arguments: Value = serde_json::from_str(&call.1).expect("arguments are JSON");
    match call.0.as_str() {
        "get_weather" => {
            arguments["city"].is_string()
                && arguments["days"].as_u64().is_some_and(|days| (1..=9).contains(&days))
        }
        "now" => arguments == serde_json::json!({}),
        _ => false,
    }
}

fn job(engine: &Engine, format: ToolFormat, tools: &Tools, seed: u64) -> Job {
    let chat = Chat {
        messages: vec![user("What is the weather in Paris?")],
        tools: Some(tools.clone()),
        ..Chat::default()
    };
    let mut job = ask(engine, "unused", 80);
    job.prompt = engine.tokenize(&chat).expect("renders");
    job.constraint =
        Some(engine.constrain(&tools.rule(format).expect("a rule")).expect("enforced"));
    job.sampling = warm(seed);
    job
}

#[tokio::test]
async fn a_forced_call_always_parses_and_matches_its_schema() {
    let mut config = small();
    config.context_tokens = 2_048;
    let engine = engine(&config);
    assert_eq!(
        engine.tool_format(),
        Some(ToolFormat::Generic),
        "SmolLM2's template knows no tools"
    );
    for format in [ToolFormat::Generic, ToolFormat::Hermes, ToolFormat::Llama] {
        for seed in 0..2 {
            let named = ToolChoice::Named("get_weather".to_owned());
            let choice = if seed % 2 == 0 { ToolChoice::Required } else { named.clone() };
            let tools = tools(choice.clone());
            let answer = answer(&engine, job(&engine, format, &tools, seed)).await;
            let (said, calls, complete) = read(format, &answer.text());
            assert_eq!(said, "", "{format:?}: {}", answer.text());
            if answer.finish() == Finish::Stop {
                assert!(!calls.is_empty() && calls.len() == complete as usize, "{}", answer.text());
                assert!(calls.iter().all(valid), "{format:?}: {calls:?}");
            }
            if choice == named {
                assert_eq!(answer.finish(), Finish::Stop, "{}", answer.text());
                assert!(calls.len() == 1 && calls[0].0 == "get_weather", "{calls:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_free_answer_is_text_or_calls_and_never_half_of_each() {
    let mut config = small();
    config.context_tokens = 2_048;
    let engine = engine(&config);
    for format in [ToolFormat::Generic, ToolFormat::Hermes, ToolFormat::Llama] {
        for seed in 0..2 {
            let tools = tools(ToolChoice::Auto);
            let answer = answer(&engine, job(&engine, format, &tools, seed)).await;
            let (said, calls, complete) = read(format, &answer.text());
            assert!(!said.contains("tool_call") && !said.contains("{\"name\""), "{said}");
            if answer.finish() == Finish::Stop {
                assert_eq!(calls.len(), complete as usize);
                assert!(calls.iter().all(valid), "{calls:?}");
            }
        }
    }
}

#[tokio::test]
async fn a_call_after_text_has_one_tag_and_it_is_not_shown() {
    let mut config = small();
    config.context_tokens = 2_048;
    let engine = engine(&config);
    for (seed, parallel) in [(0, Some(true)), (1, Some(true)), (0, Some(false))] {
        let tools = Tools { parallel, ..tools(ToolChoice::Auto) };
        let mut job = job(&engine, ToolFormat::Hermes, &tools, seed);
        // This model would hardly begin a call by itself: its text is given, up to the tag.
        let Rule::Lark(lark) = tools.rule(ToolFormat::Hermes).expect("a rule") else {
            panic!("a grammar")
        };
        let begun = lark
            .replace("start: TEXT | called\n", "start: called\n")
            .replace("/(?s:.*)<tool_call>/", "/Let me look\\.<tool_call>/");
        let without_text =
            begun.lines().filter(|line| !line.starts_with("TEXT")).collect::<Vec<_>>().join("\n");
        job.constraint = Some(engine.constrain(&Rule::Lark(without_text)).expect("enforced"));
        let answer = answer(&engine, job).await;
        let (said, calls, _) = read(ToolFormat::Hermes, &answer.text());
        assert_eq!(said, "Let me look.", "{}", answer.text());
        assert!(!calls.is_empty(), "{}", answer.text());
    }
}

#[tokio::test]
async fn one_call_is_one_call() {
    let mut config = small();
    config.context_tokens = 2_048;
    let engine = engine(&config);
    // So it is where it is not said, of a model that was never taught to call.
    for (seed, parallel) in [(0, Some(false)), (1, Some(false)), (0, None), (1, None)] {
        let tools = Tools { parallel, ..tools(ToolChoice::Required) };
        let answer = answer(&engine, job(&engine, ToolFormat::Generic, &tools, seed)).await;
        let (_, calls, _) = read(ToolFormat::Generic, &answer.text());
        assert_eq!((calls.len(), answer.finish()), (1, Finish::Stop), "{}", answer.text());
    }
}

/// Tools of which the first has no parameters and the second has these.
fn second_takes(parameters: &Value) -> Tools {
    let function =
        |name: &str, parameters| Function { name: name.to_owned(), description: None, parameters };
    let functions = vec![function("first", None), function("second", Some(parameters.to_string()))];
    Tools { functions, choice: ToolChoice::Required, parallel: None }
}

#[test]
fn parameters_that_cannot_be_enforced_are_named_and_no_grammar_is_shown() {
    let engine = engine(&small());
    for parameters in [
        json!({"type": "object", "properties": {"a": {"not": {"type": "null"}}}}),
        json!({"type": "object", "properties": {"a": {"pattern": "(("}}}),
        json!({"type": "null"}),
        json!({"type": ["string", "array"]}),
        json!({"anyOf": [{"type": "integer", "maximum": 3}]}),
        json!({"enum": [1, "two"]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}),
    ] {
        let refused = engine.constrain_calls(&second_takes(&parameters)).map(|_| ());
        let Err(ConstraintError::Parameters { at: 1, reason }) = refused else {
            panic!("{parameters}: {refused:?}");
        };
        assert!(!reason.is_empty() && !reason.contains(" | "), "{reason}");
        assert!(!reason.contains("failed to compile JSON schema"), "{reason}");
    }
}

#[tokio::test]
async fn arguments_are_an_object_whatever_else_the_schema_allows() {
    let mut config = small();
    config.context_tokens = 2_048;
    let engine = engine(&config);
    let a = json!({"a": {"type": "integer", "minimum": 1, "maximum": 9}});
    for parameters in [
        json!({"properties": a, "required": ["a"]}),
        json!({"type": ["null", "object"], "properties": a, "required": ["a"]}),
        json!({"anyOf": [{"type": "integer", "maximum": 3}, {"properties": a, "required": ["a"]}]}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"properties": a, "required": ["a"]}}}),
        json!({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object", "required": ["a"],
            "properties": {"a": a["a"], "next": {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}}}}}),
    ] {
        let mut tools = second_takes(&parameters);
        tools.choice = ToolChoice::Named("second".to_owned());
        let mut job = ask(&engine, "unused", 80);
        job.constraint = Some(engine.constrain_calls(&tools).expect("enforced"));
        job.sampling = warm(1);
        let answer = answer(&engine, job).await;
        let (said, calls, _) = read(ToolFormat::Generic, &answer.text());
        assert_eq!((said.as_str(), calls.len()), ("", 1), "{parameters}: {}", answer.text());
        if answer.finish() == Finish::Stop {
            let arguments: Value = serde_json::from_str(&calls[0].1).expect("arguments are JSON");
            assert!(arguments["a"].is_u64(), "{parameters}: {arguments}");
        }
    }
}
