//! What a request may ask of the real model in the process: choices, probabilities, rules, tools,
//! raw texts and vectors. Shape is asserted, never facts.

use crate::harness::{Answer, Gate};
use serde_json::{Value, json};

async fn an_edge() -> Gate {
    Gate::builder().edge().policy("edge-first").start().await
}

fn weather() -> Value {
    json!([{ "type": "function", "function": {
        "name": "get_weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": { "days": { "type": "integer", "minimum": 1, "maximum": 9 } },
            "required": ["days"],
            "additionalProperties": false,
        },
    } }])
}

/// The deltas of one choice of a stream.
fn deltas(answer: &Answer, choice: u64) -> Vec<Value> {
    let chunks = answer.chunks();
    let choices = chunks.iter().flat_map(|chunk| chunk["choices"].as_array().cloned().unwrap());
    choices.filter(|it| it["index"] == choice).collect()
}

#[tokio::test]
async fn choices_come_with_their_index_and_are_counted_together() {
    let gate = an_edge().await;
    let ask =
        || gate.ask("Name a color.").at_most(6).set("n", json!(3)).set("temperature", json!(1));
    let whole = ask().send().await.ok();
    let choices = whole.json()["choices"].as_array().unwrap().clone();
    let indices: Vec<_> = choices.iter().map(|choice| choice["index"].as_u64()).collect();
    assert_eq!(indices, [Some(0), Some(1), Some(2)]);
    assert!(choices.iter().all(|choice| choice["finish_reason"].is_string()));
    let completion = whole.usage()["completion_tokens"].as_u64().unwrap();
    assert!((3..=18).contains(&completion), "{completion}");
    let one = gate.ask("Name a color.").at_most(6).send().await.ok();
    assert_eq!(one.usage()["prompt_tokens"], whole.usage()["prompt_tokens"], "one prompt");
    let entry = gate.ledger().entry(whole.id()).await;
    assert_eq!(entry.only_attempt().used("output"), Some(completion));

    let stream = ask().streamed_with_usage().send().await.ok();
    assert!(stream.done());
    for choice in 0..3 {
        let deltas = deltas(&stream, choice);
        assert_eq!(deltas[0]["delta"]["role"], "assistant");
        let finishes = deltas.iter().filter(|it| !it["finish_reason"].is_null()).count();
        assert_eq!(finishes, 1, "choice {choice}");
    }
}

#[tokio::test]
async fn probabilities_are_those_of_the_text() {
    let gate = an_edge().await;
    let ask = || {
        let ask = gate.ask("Count to five.").at_most(8);
        ask.set("logprobs", json!(true)).set("top_logprobs", json!(2))
    };
    let whole = ask().send().await.ok();
    let told = whole.json()["choices"][0]["logprobs"]["content"].as_array().unwrap().clone();
    let text: String = told.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(text, whole.text());
    assert!(told.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    let stream = ask().streamed().send().await.ok();
    let told: usize = deltas(&stream, 0)
        .iter()
        .filter_map(|it| it["logprobs"]["content"].as_array().map(Vec::len))
        .sum();
    assert!(told > 0);
    let raw = json!({"model": "auto", "prompt": "One, two,", "max_tokens": 4, "logprobs": 1});
    let raw = gate.post("/v1/completions", &raw).await.ok();
    assert!(!raw.json()["choices"][0]["logprobs"]["tokens"].as_array().unwrap().is_empty());
}

#[tokio::test]
async fn an_answer_matches_its_schema_or_the_schema_is_refused() {
    let gate = an_edge().await;
    let schema = json!({
        "type": "object",
        "properties": { "color": { "enum": ["red", "green"] }, "n": { "type": "integer", "maximum": 99, "minimum": 0 } },
        "required": ["color", "n"],
        "additionalProperties": false,
    });
    let format = |schema: &Value| json!({"type": "json_schema", "json_schema": {"name": "it", "strict": true, "schema": schema}});
    let ask = |format: Value| {
        gate.ask("A color and a number.").at_most(60).set("response_format", format)
    };
    for stream in [false, true] {
        let asked = ask(format(&schema));
        let answer = if stream { asked.streamed() } else { asked }.send().await.ok();
        let value: Value = serde_json::from_str(&answer.text()).expect("JSON");
        assert!(value["color"] == "red" || value["color"] == "green", "{value}");
        assert!(value["n"].as_u64().is_some_and(|n| n <= 99), "{value}");
    }
    let refused = ask(format(&json!({"type": "object", "if": {}}))).send().await;
    assert_eq!((refused.status, refused.error().param.as_deref()), (400, Some("response_format")));
    let grammar = gate.ask("Yes or no?").set("grammar", json!("root ::= \"yes\" | \"no\""));
    let text = grammar.send().await.ok().text();
    assert!(text == "yes" || text == "no", "{text}");
    let refused = gate.ask("?").set("grammar", json!("root ::= x")).send().await;
    assert_eq!((refused.status, refused.error().param.as_deref()), (400, Some("grammar")));
}

#[tokio::test]
async fn a_rule_that_becomes_too_dear_is_its_callers_fault_and_what_it_took_is_booked() {
    let gate = an_edge().await;
    // An `x` may end a run or stand in one, so with each there are more places to go on from.
    let schema = json!({"type": "string", "pattern": "(.{1,300}x){1,300}"});
    let format = json!({"type": "json_schema", "json_schema": {"name": "it", "strict": true, "schema": schema}});
    let ask = || gate.ask("Write.").at_most(300).set("response_format", format.clone());
    let whole = ask().send().await;
    assert_eq!(whole.status, 400, "{}", whole.body_text());
    assert_eq!(whole.error().param.as_deref(), Some("response_format"));
    let entry = gate.ledger().entry(whole.id()).await;
    assert_eq!((entry.outcome().as_str(), &entry.0["status"]), ("rejected", &json!(400)));
    let attempt = entry.only_attempt();
    assert_eq!(attempt.outcome(), "cancelled", "it was computed");
    assert!(attempt.cost().is_some_and(|cost| cost > 0) && attempt.used("input") > Some(0));
    let stream = ask().streamed().send().await;
    let told = stream.body_text();
    assert!(told.contains("response_format") && told.contains("invalid_request_error"), "{told}");
    for _ in 0..6 {
        assert_eq!(ask().send().await.status, 400);
    }
    gate.ask("Hello.").at_most(2).send().await.ok();
}

#[tokio::test]
async fn a_stop_beside_tools_is_looked_for_in_what_the_caller_reads() {
    let gate = an_edge().await;
    let ask =
        |stop: &str| gate.ask("Say hello.").set("tools", weather()).set("stop", json!([stop]));
    // Each of them stands in what a call is written in, which the caller never sees.
    for stop in ["o", ":", "\"", "{", "days"] {
        let forced = ask(stop).at_most(80).set("tool_choice", json!("required")).send().await.ok();
        let choice = forced.json()["choices"][0].clone();
        assert_eq!(choice["finish_reason"], "tool_calls", "{stop}: {choice}");
        assert!(choice["message"]["content"].is_null(), "{stop}: {choice}");
        let call = &choice["message"]["tool_calls"][0]["function"];
        let arguments = call["arguments"].as_str().expect("arguments");
        assert!(serde_json::from_str::<Value>(arguments).expect("JSON").is_object(), "{stop}");
    }
    // A text ends before the first of them.
    let text = |stop: &str| ask(stop).at_most(40).set("temperature", json!(0));
    let said = text("\u{1}").send().await.ok().text();
    assert!(!said.contains("response") && said.contains('e'), "{said}");
    let expected = said.split('e').next().unwrap().to_owned();
    let whole = text("e").send().await.ok();
    assert_eq!(whole.json()["choices"][0]["finish_reason"], "stop");
    let streamed = text("e").streamed().send().await.ok();
    assert_eq!(deltas(&streamed, 0).last().unwrap()["finish_reason"], "stop");
    assert_eq!((whole.text(), streamed.text()), (expected.clone(), expected));
}

#[tokio::test]
async fn a_forced_call_is_a_call_streamed_or_not() {
    let gate = an_edge().await;
    let ask = || {
        let named = json!({"type": "function", "function": {"name": "get_weather"}});
        gate.ask("Weather?").at_most(80).set("tools", weather()).set("tool_choice", named)
    };
    let whole = ask().send().await.ok();
    let choice = whole.json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls");
    assert!(choice["message"]["content"].is_null());
    let call = &choice["message"]["tool_calls"][0];
    assert_eq!(call["function"]["name"], "get_weather");
    assert!(call["id"].as_str().unwrap().starts_with("call_"));
    let arguments: Value =
        serde_json::from_str(call["function"]["arguments"].as_str().unwrap()).expect("JSON");
    assert!(arguments["days"].as_u64().is_some_and(|days| (1..=9).contains(&days)));

    let stream = ask().streamed().send().await.ok();
    let deltas = deltas(&stream, 0);
    let parts = deltas.iter().filter_map(|it| it["delta"]["tool_calls"].get(0));
    let text: String =
        parts.clone().filter_map(|part| part["function"]["arguments"].as_str()).collect();
    assert!(serde_json::from_str::<Value>(&text).expect("JSON").is_object());
    assert_eq!(parts.filter(|part| part["id"].is_string()).count(), 1);
    assert_eq!(deltas.last().unwrap()["finish_reason"], "tool_calls");

    // The result goes back, and the older format has its own shape.
    let again = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": "rain"},
    ]);
    gate.ask("").at_most(8).set("messages", again).set("tools", weather()).send().await.ok();
    let function = weather()[0]["function"].clone();
    let legacy = gate.ask("Weather?").at_most(80).set("functions", json!([function]));
    let legacy = legacy.set("function_call", json!({"name": "get_weather"})).send().await.ok();
    let choice = legacy.json()["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "function_call");
    assert_eq!(choice["message"]["function_call"]["name"], "get_weather");
    assert!(choice["message"].get("tool_calls").is_none());
}

#[tokio::test]
async fn texts_are_continued_and_embedded() {
    let gate = an_edge().await;
    let body = json!({"model": "auto", "prompt": ["Once upon", "The sea"], "max_tokens": 3, "n": 2, "echo": true});
    let answer = gate.post("/v1/completions", &body).await.ok();
    let choices = answer.json()["choices"].as_array().unwrap().clone();
    assert_eq!(choices.len(), 4);
    for (at, begins) in ["Once upon", "Once upon", "The sea", "The sea"].iter().enumerate() {
        assert!(choices[at]["text"].as_str().unwrap().starts_with(begins), "{choices:?}");
    }
    // The first of all, and as short as can be: what embedding needs is made on nobody's time.
    let body = json!({"model": "auto", "input": "a"});
    assert_eq!(gate.post("/v1/embeddings", &body).await.ok().usage()["prompt_tokens"], 1);
    let body = json!({"model": "auto", "input": ["a cat", "a dog", "interest rates"]});
    let answer = gate.post("/v1/embeddings", &body).await.ok();
    let data = answer.json()["data"].as_array().unwrap().clone();
    assert_eq!(data.len(), 3);
    for vector in &data {
        let vector = vector["embedding"].as_array().unwrap();
        let square: f64 = vector.iter().map(|value| value.as_f64().unwrap().powi(2)).sum();
        assert!((square - 1.0).abs() < 1e-3, "{square}");
    }
    let entry = gate.ledger().entry(answer.id()).await;
    assert_eq!(entry.only_attempt().used("input"), answer.usage()["prompt_tokens"].as_u64());
    for (path, field, body) in [
        ("/v1/completions", "suffix", json!({"model": "edge", "prompt": "a", "suffix": "b"})),
        ("/v1/completions", "prompt", json!({"model": "edge", "prompt": [[999_999]]})),
        // More than the queue holds: another try would find no more room.
        ("/v1/completions", "prompt", json!({"model": "edge", "prompt": vec!["a"; 65]})),
        ("/v1/completions", "prompt", json!({"model": "edge", "prompt": [""]})),
        (
            "/v1/completions",
            "logprobs",
            json!({"model": "edge", "prompt": "a", "echo": true, "logprobs": 1}),
        ),
        ("/v1/completions", "prompt", json!({"model": "edge", "prompt": "word ".repeat(30_000)})),
        ("/v1/embeddings", "dimensions", json!({"model": "edge", "input": "a", "dimensions": 8})),
        ("/v1/embeddings", "input", json!({"model": "edge", "input": "word ".repeat(9_000)})),
    ] {
        let refused = gate.post(path, &body).await;
        assert_eq!(refused.status, 400, "{path}: {}", refused.body_text());
        assert_eq!(refused.error().param.as_deref(), Some(field), "{}", refused.body_text());
    }
}

#[tokio::test]
async fn parameters_that_are_no_object_or_cannot_be_enforced_are_refused_by_their_place() {
    let gate = an_edge().await;
    let function = |parameters: &Value| json!({"name": "a", "parameters": parameters});
    for parameters in [
        json!({"type": "string"}),
        json!({"anyOf": [{"type": "integer", "maximum": 3}]}),
        json!({"type": "object", "properties": {"a": {"not": {}}}}),
    ] {
        let mut tools = weather();
        let tool = json!({"type": "function", "function": function(&parameters)});
        tools.as_array_mut().unwrap().push(tool);
        let refused = gate.ask("?").set("tools", tools).send().await;
        let error = refused.error();
        let param = error.param.as_deref();
        assert_eq!((refused.status, param), (400, Some("tools[1].function.parameters")));
        assert!(!refused.body_text().contains("tool_call"), "{}", refused.body_text());
        let legacy = gate.ask("?").set("functions", json!([function(&parameters)])).send().await;
        assert_eq!(legacy.error().param.as_deref(), Some("functions[0].parameters"));
    }
    let either = function(&json!({"anyOf": [{"type": "integer"}, {"properties": {}}]}));
    let tools = json!([{"type": "function", "function": either}]);
    let ask = gate.ask("?").at_most(80).set("tools", tools);
    let answer = ask.set("tool_choice", json!("required")).send().await.ok();
    let message = answer.json()["choices"][0]["message"].clone();
    assert!(message["content"].is_null(), "{message}");
    let arguments = message["tool_calls"][0]["function"]["arguments"].as_str().unwrap();
    assert_eq!(serde_json::from_str::<Value>(arguments).expect("JSON"), json!({}));
}

#[tokio::test]
async fn a_character_of_several_tokens_has_a_probability_for_each() {
    let gate = an_edge().await;
    let body = |cap: u32, stream: bool| {
        json!({"model": "auto", "prompt": "Emoji: ", "max_tokens": cap, "logprobs": 10,
        "grammar": "root ::= \"😀ab\"", "stream": stream})
    };
    let whole = gate.post("/v1/completions", &body(8, false)).await.ok().json();
    let told = whole["choices"][0]["logprobs"].clone();
    let tokens = told["tokens"].as_array().unwrap();
    let of_one = |token: &&Value| token.as_str().unwrap().starts_with(r"bytes:\x");
    let parts = tokens.iter().take_while(of_one).count();
    assert!(parts > 1 && tokens[0].as_str().unwrap().starts_with(r"bytes:\xf0"), "{told}");
    // The letters are drawn as one token or as two.
    let letters: &[i32] = if tokens[parts] == "ab" { &[1] } else { &[1, 2] };
    let offsets = [vec![0; parts].as_slice(), letters].concat();
    assert_eq!(told["text_offset"], json!(offsets));
    for top in told["top_logprobs"].as_array().unwrap().iter().take(parts) {
        assert_eq!(top.as_object().unwrap().len(), 10, "{top}");
    }
    // Of a character that the cap cut there is no text, but what was drawn is told.
    for stream in [false, true] {
        let ask = gate.ask("Emoji: ").at_most(1).set("logprobs", json!(true));
        let ask = ask.set("grammar", json!("root ::= \"😀\""));
        let answer = if stream { ask.streamed() } else { ask }.send().await.ok();
        let choices =
            if stream { deltas(&answer, 0) } else { vec![answer.json()["choices"][0].clone()] };
        let told: Vec<Value> = choices
            .iter()
            .filter_map(|it| it["logprobs"]["content"].as_array().cloned())
            .flatten()
            .collect();
        assert_eq!(told.len(), 1, "{told:?}");
        assert_eq!(told[0]["bytes"][0], 0xF0);
        assert_eq!(answer.text(), "");
    }
}
