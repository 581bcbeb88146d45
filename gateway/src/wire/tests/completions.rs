//! Completions and embeddings: what is read, and what is written.

use crate::{
    ledger::{Endpoint, KeyId},
    wire::{
        Ask, BadRequest, ChatRequest, CompletionAsk, Context, Delta, DeltaKind, EmbeddingAsk,
        FinishReason, Gathered, Likely, LocalEmbedding, Outer, Prompt, TokenLogprob,
        chat::AnswerHead, embeddings, local_completion, local_embedding, prompts, read,
    },
};
use bytes::Bytes;
use http::HeaderMap;
use local_engine::Pooling;
use policies::{ServiceTier, Usage};
use serde_json::{Value, json};

fn asked(endpoint: Endpoint, body: &Value) -> Result<ChatRequest, BadRequest> {
    let owner = KeyId("key".into());
    let context = Context { kept: None, owner: &owner, output_tokens_default: 1000 };
    read(endpoint, Bytes::from(body.to_string()), &HeaderMap::new(), &context)
}

fn completion(more: &Value) -> Result<ChatRequest, BadRequest> {
    asked(Endpoint::Completions, &merged(json!({"model": "auto", "prompt": "Once"}), more))
}

fn embedding(more: &Value) -> Result<ChatRequest, BadRequest> {
    asked(Endpoint::Embeddings, &merged(json!({"model": "auto", "input": "Once"}), more))
}

fn merged(mut body: Value, more: &Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

#[test]
fn a_completion_is_read_with_every_limit_known() {
    let request =
        completion(&json!({"prompt": ["Once", "Twice"], "n": 3, "echo": true, "logprobs": 2}));
    let request = request.unwrap();
    let ask = CompletionAsk { prompts: 2, echo: true, logprobs: Some(2) };
    assert_eq!(request.ask, Ask::Completion(ask));
    assert_eq!(request.choices, 6);
    assert_eq!(request.output_cap, 16, "as OpenAI has it");
    assert!(request.needs.logprobs && !request.output_cap_given);
    assert_eq!(
        prompts(&request).unwrap(),
        [Prompt::Text("Once".into()), Prompt::Text("Twice".into())]
    );
    // Bytes, and a mark for each text.
    assert_eq!(request.prompt_tokens_max, 4 + 5 + 2 * 2);
    let request = completion(&json!({"prompt": [1, 2, 3], "max_tokens": 5})).unwrap();
    assert_eq!((request.choices, request.output_cap, request.prompt_tokens_max), (1, 5, 5));
    assert_eq!(prompts(&request).unwrap(), [Prompt::Tokens(vec![1, 2, 3])]);
    let request = completion(&json!({"prompt": [[1], [2, 3]]})).unwrap();
    assert_eq!(prompts(&request).unwrap(), [Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])]);
}

#[test]
fn the_service_tier_is_known_so_that_it_is_priced_or_refused() {
    for (word, tier) in [
        (json!(null), ServiceTier::Standard),
        (json!("priority"), ServiceTier::Priority),
        (json!("flex"), ServiceTier::Flex),
        (json!("auto"), ServiceTier::Unknown),
    ] {
        let asked = json!({"service_tier": word});
        assert_eq!(completion(&asked).unwrap().service, tier, "{word}");
        assert_eq!(embedding(&asked).unwrap().service, tier, "{word}");
    }
}

#[test]
fn what_changes_the_price_and_messages_are_refused_by_name() {
    for (field, value) in [
        ("api_base", json!("https://elsewhere.example")),
        ("provider", json!({"order": ["x"]})),
        ("models", json!(["m"])),
        ("fallbacks", json!(["m"])),
        ("extra_body", json!({"model": "m"})),
        ("user_config", json!({"model_list": [1]})),
        ("web_search_options", json!({})),
        ("messages", json!([{"role": "user", "content": "Hi"}])),
    ] {
        for asked in [completion(&json!({field: value})), embedding(&json!({field: value}))] {
            let bad = asked.unwrap_err();
            assert_eq!((bad.param.as_deref(), bad.code), (Some(field), "unsupported_parameter"));
        }
    }
    let nothing = json!({"messages": null, "models": []});
    assert!(completion(&nothing).is_ok() && embedding(&nothing).is_ok());
}

#[test]
fn a_wrong_text_is_named() {
    let wrong = [
        json!(5),
        json!({}),
        json!(true),
        json!([{}]),
        json!([null]),
        json!([]),
        json!([[]]),
        json!(["a", 1]),
        json!([1, "a"]),
        json!([1.5]),
        json!([-1]),
        json!([["a"]]),
        json!(null),
    ];
    for value in wrong {
        let bad = completion(&json!({"prompt": value})).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some("prompt"), "{value}");
        let bad = embedding(&json!({"input": value})).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some("input"), "{value}");
    }
    for (field, value) in [
        ("n", json!(0)),
        ("logprobs", json!(true)),
        ("echo", json!(1)),
        ("max_tokens", json!(-1)),
        ("best_of", json!(2)),
        ("stream", json!("yes")),
        ("service_tier", json!("platinum")),
    ] {
        let bad = completion(&json!({field: value})).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(field));
    }
    assert!(completion(&json!({"prompt": ["a", "b"], "n": 65})).is_err(), "130 answers");
    assert!(completion(&json!({"n": 2, "best_of": 2})).is_ok(), "no more than are returned");
    assert!(completion(&json!({"n": 2, "best_of": 3})).is_err());
}

#[test]
fn an_embedding_is_read() {
    let request =
        embedding(&json!({"input": ["a", "b"], "encoding_format": "base64", "dimensions": 4}));
    let request = request.unwrap();
    let ask = EmbeddingAsk { inputs: 2, base64: true, dimensions: Some(4) };
    assert_eq!(request.ask, Ask::Embedding(ask));
    assert_eq!(request.output_cap, 0, "nothing is generated");
    assert!(!request.stream);
    for (field, value) in [
        ("encoding_format", json!("xml")),
        ("encoding_format", json!(1)),
        ("dimensions", json!(0)),
        ("stream", json!(true)),
        ("service_tier", json!("batch")),
        ("input", json!("")),
    ] {
        let bad = embedding(&json!({field: value})).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(field));
    }
}

#[test]
fn what_would_change_a_local_vector_is_served_or_refused_by_name() {
    let asked = |more: &Value| -> Result<LocalEmbedding, BadRequest> {
        let request = embedding(more)?;
        let Ask::Embedding(ask) = request.ask.clone() else { panic!("vectors") };
        local_embedding(&request, &ask)
    };
    for (field, value) in [
        ("add_special_tokens", json!(false)),
        ("dimensions", json!(8)),
        ("embd_normalize", json!(-1)),
        ("embed_dtype", json!("float16")),
        ("endianness", json!("big")),
        ("normalize", json!(false)),
        ("pooling", json!("none")),
        ("pooling", json!(1)),
        ("truncate_prompt_tokens", json!(8)),
        ("use_activation", json!(false)),
    ] {
        let bad = asked(&json!({field: value})).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(field), "{value}");
    }
    let same = json!({"normalize": true, "embd_normalize": 2, "embed_dtype": "float32",
        "endianness": "little", "add_special_tokens": true, "truncate_prompt_tokens": null});
    assert_eq!(asked(&same).unwrap().pooling, None, "the engine's own");
    for (name, pooling) in [
        ("mean", Pooling::Mean),
        ("CLS", Pooling::First),
        ("first", Pooling::First),
        ("last", Pooling::Last),
    ] {
        assert_eq!(asked(&json!({"pooling": name})).unwrap().pooling, Some(pooling));
    }
}

#[test]
fn what_would_change_a_local_text_is_refused_by_name() {
    let asked = |more: &Value| {
        let request = completion(more)?;
        let Ask::Completion(ask) = request.ask.clone() else { panic!("texts") };
        local_completion(&request, &ask).map(|_| ())
    };
    for (field, value) in [
        ("add_special_tokens", json!(false)),
        ("allowed_token_ids", json!([1])),
        ("skip_special_tokens", json!(false)),
        ("suffix", json!("x")),
    ] {
        let bad = asked(&json!({field: value})).unwrap_err();
        assert_eq!(bad.param.as_deref(), Some(field), "{value}");
    }
    // Nothing of it is there to be changed.
    asked(&json!({"add_special_tokens": true, "add_generation_prompt": false})).unwrap();
}

fn head() -> AnswerHead {
    AnswerHead { id: "cmpl-1".into(), created: 1_700_000_000, model: "smol".into() }
}

fn usage() -> Usage {
    Usage { input: 3, output: 2, ..Usage::default() }
}

/// Two choices of one text that is echoed, with log probabilities.
fn pieces() -> Vec<Delta> {
    let token = |bytes: &[u8]| TokenLogprob {
        chosen: Likely { bytes: bytes.to_vec(), logprob: -0.5 },
        top: vec![Likely { bytes: b"x".to_vec(), logprob: -0.25 }],
    };
    let text = |choice, text: &str, bytes| Delta {
        logprobs: vec![token(bytes)],
        ..Delta::new(choice, DeltaKind::Text(text.to_owned()))
    };
    vec![
        text(0, " é", " é".as_bytes()),
        text(1, " b", b" b"),
        text(0, " c", b" c"),
        Delta::new(0, DeltaKind::Finish(FinishReason::Length)),
        Delta::new(1, DeltaKind::Finish(FinishReason::Stop)),
    ]
}

#[test]
fn a_streamed_completion_has_openais_shape() {
    let request = completion(&json!({"n": 2, "echo": true, "logprobs": 1, "stream": true}));
    let mut outer = Outer::new(head(), &request.unwrap(), 3);
    let mut frames = Vec::new();
    for delta in pieces() {
        outer.delta(&delta, &mut |frame| frames.push(frame));
    }
    let chunks: Vec<Value> = frames
        .iter()
        .map(|frame| serde_json::from_slice(&frame["data: ".len()..]).unwrap())
        .collect();
    assert_eq!(chunks[0]["object"], "text_completion");
    assert_eq!(chunks[0]["id"], "cmpl-1");
    let choices: Vec<&Value> = chunks.iter().map(|chunk| &chunk["choices"][0]).collect();
    let texts: Vec<_> = choices.iter().map(|it| (&it["index"], &it["text"])).collect();
    assert_eq!(
        json!(texts),
        json!([[0, "Once"], [0, " é"], [1, "Once"], [1, " b"], [0, " c"], [0, ""], [1, ""]])
    );
    assert_eq!(
        choices[4]["logprobs"],
        json!({
            "tokens": [" c"], "token_logprobs": [-0.5], "top_logprobs": [{"x": -0.25}], "text_offset": [6]
        })
    );
    assert_eq!(choices[5]["finish_reason"], "length");
    assert_eq!(choices[4]["finish_reason"], Value::Null);
}

#[test]
fn a_whole_completion_has_openais_shape() {
    let request = completion(&json!({"n": 2, "echo": true, "logprobs": 1})).unwrap();
    let mut answer = Gathered::default();
    for delta in pieces() {
        answer.add(delta);
    }
    let body = Outer::new(head(), &request, 3).whole(answer, &usage(), None);
    let body: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        body["choices"],
        json!([
            {"text": "Once é c", "index": 0, "finish_reason": "length", "logprobs": {
                "tokens": [" é", " c"], "token_logprobs": [-0.5, -0.5],
                "top_logprobs": [{"x": -0.25}, {"x": -0.25}], "text_offset": [4, 6]}},
            {"text": "Once b", "index": 1, "finish_reason": "stop", "logprobs": {
                "tokens": [" b"], "token_logprobs": [-0.5], "top_logprobs": [{"x": -0.25}],
                "text_offset": [4]}},
        ])
    );
    assert_eq!(body["usage"]["total_tokens"], 5);
}

/// A character of several tokens, the first of which ends another text.
fn parts() -> Vec<TokenLogprob> {
    let likely = |bytes: &[u8]| Likely { bytes: bytes.to_vec(), logprob: -0.5 };
    [&b" \xf0\x9f"[..], b"\x98", b"\x80", b"a", b"\xff", b"b"]
        .into_iter()
        .map(|bytes| TokenLogprob {
            chosen: likely(bytes),
            top: vec![likely(b"\xf0"), likely(b"\xf1"), likely(b""), likely(b"x")],
        })
        .collect()
}

#[test]
fn parts_of_a_character_stand_at_it_and_have_names_of_their_own() {
    let request = || completion(&json!({"echo": true, "logprobs": 4})).unwrap();
    let text = |text: &str, logprobs: &[TokenLogprob]| Delta {
        logprobs: logprobs.to_vec(),
        ..Delta::new(0, DeltaKind::Text(text.to_owned()))
    };
    // A token is told with the end of its text.
    let parts = parts();
    let deltas = [text(" ", &[]), text("😀", &parts[..3]), text("a\u{FFFD}b", &parts[3..])];
    let mut answer = Gathered::default();
    for delta in deltas.clone() {
        answer.add(delta);
    }
    let body = Outer::new(head(), &request(), 3).whole(answer, &usage(), None);
    let body: Value = serde_json::from_slice(&body).unwrap();
    let told = &body["choices"][0]["logprobs"];
    assert_eq!(body["choices"][0]["text"], "Once 😀a\u{FFFD}b");
    assert_eq!(
        told["tokens"],
        json!([r"bytes: \xf0\x9f", r"bytes:\x98", r"bytes:\x80", "a", r"bytes:\xff", "b"])
    );
    assert_eq!(told["text_offset"], json!([4, 5, 5, 6, 7, 8]));
    for top in told["top_logprobs"].as_array().unwrap() {
        let names: Vec<_> = top.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names.len(), 4, "{names:?}");
        assert!(top.get(r"bytes:\xf0").is_some(), "{names:?}");
    }
    // A stream says the same.
    let mut outer = Outer::new(head(), &request(), 3);
    let mut offsets = Vec::new();
    for delta in deltas {
        outer.delta(&delta, &mut |frame| {
            let chunk: Value = serde_json::from_slice(&frame["data: ".len()..]).unwrap();
            let more = chunk["choices"][0]["logprobs"]["text_offset"].as_array().cloned();
            offsets.extend(more.unwrap_or_default());
        });
    }
    assert_eq!(json!(offsets), told["text_offset"]);
}

#[test]
fn vectors_are_written_as_numbers_or_in_base64() {
    let vectors = [vec![0.5_f32, -1.0], vec![0.0, 1e-7]];
    let usage = Usage { input: 7, ..Usage::default() };
    let body: Value =
        serde_json::from_slice(&embeddings::whole("smol", &vectors, false, &usage, None)).unwrap();
    assert_eq!(body["object"], "list");
    assert_eq!(
        body["data"][1],
        json!({"object": "embedding", "index": 1, "embedding": [0.0, 1e-7]})
    );
    assert_eq!(body["usage"], json!({"prompt_tokens": 7, "total_tokens": 7}));
    let body: Value =
        serde_json::from_slice(&embeddings::whole("smol", &vectors, true, &usage, None)).unwrap();
    assert_eq!(body["data"][0]["embedding"], "AAAAPwAAgL8=");
}
