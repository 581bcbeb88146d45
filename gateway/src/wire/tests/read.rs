//! Reading chat requests.

use super::{body_of, body_with, read, read_with};
use crate::wire::{json, read_chat};
use bytes::Bytes;
use http::HeaderMap;
use policies::PicoUsd;
use std::time::Duration;

/// Members that make a good request bad, and the parameter the error must name.
const BAD_FIELDS: &[(&str, &str)] = &[
    (r#""max_tokens":-1"#, "max_tokens"),
    (r#""max_tokens":0"#, "max_tokens"),
    (r#""max_tokens":-2147483648"#, "max_tokens"),
    (r#""max_tokens":"10""#, "max_tokens"),
    (r#""max_tokens":1.5"#, "max_tokens"),
    (r#""max_tokens":1e2"#, "max_tokens"),
    (r#""max_tokens":[]"#, "max_tokens"),
    (r#""max_tokens":true"#, "max_tokens"),
    (r#""max_tokens":1180591620717411303424"#, "max_tokens"),
    (r#""max_completion_tokens":0"#, "max_completion_tokens"),
    (r#""max_tokens":5,"max_completion_tokens":6"#, "max_tokens"),
    (r#""max_tokens":5,"n_predict":6"#, "max_tokens"),
    (r#""n_predict":0"#, "n_predict"),
    (r#""n_predict":-2"#, "n_predict"),
    (r#""max_tokens":5,"max_tokens":5"#, "max_tokens"),
    (r#""max_tokens":5,"max\u005ftokens":6"#, "max_tokens"),
    (r#""Max_Tokens":6"#, "max_tokens"),
    (r#""max_token\u017f":6"#, "max_tokens"),
    (r#""N":2"#, "n"),
    (r#""Model":"other""#, "model"),
    (r#""STREAM_OPTIONS":{}"#, "stream_options"),
    (r#""stream_options":{"Include_Usage":false}"#, "stream_options.include_usage"),
    (r#""model":"other""#, "model"),
    (r#""temperature":-1"#, "temperature"),
    (r#""temperature":3"#, "temperature"),
    (r#""temperature":"hot""#, "temperature"),
    (r#""temperature":1e999"#, "temperature"),
    (r#""top_p":2"#, "top_p"),
    (r#""top_p":-0.1"#, "top_p"),
    (r#""presence_penalty":9"#, "presence_penalty"),
    (r#""frequency_penalty":-9"#, "frequency_penalty"),
    (r#""stream":"yes""#, "stream"),
    (r#""stream":1"#, "stream"),
    (r#""stream_options":5"#, "stream_options"),
    (r#""stream_options":{"include_usage":"yes"}"#, "stream_options.include_usage"),
    (r#""stop":5"#, "stop"),
    (r#""stop":[1]"#, "stop[0]"),
    (r#""stop":["a","b","c","d","e","f","g","h","i","j","k","l","m","n","o","p","q"]"#, "stop"),
    (r#""logit_bias":[]"#, "logit_bias"),
    (r#""logit_bias":{"x":"y"}"#, "logit_bias"),
    (r#""logit_bias":{"5":101}"#, "logit_bias.5"),
    (r#""seed":"x""#, "seed"),
    (r#""seed":1.5"#, "seed"),
    (r#""seed":9223372036854775808"#, "seed"),
    (r#""n":0"#, "n"),
    (r#""n":-1"#, "n"),
    (r#""n":"2""#, "n"),
    (r#""n":1000000"#, "n"),
    (r#""tools":"x""#, "tools"),
    (r#""tools":[5]"#, "tools[0]"),
    (r#""tools":[{"type":"function"}]"#, "tools[0].function"),
    (
        r#""tools":[{"type":"function","function":{"name":"","parameters":5}}]"#,
        "tools[0].function.name",
    ),
    (
        r#""tools":[{"type":"function","function":{"name":"f","parameters":5}}]"#,
        "tools[0].function.parameters",
    ),
    (r#""tools":[{"type":"web_search"}]"#, "tools[0].type"),
    (r#""tool_choice":"nope""#, "tool_choice"),
    (r#""tool_choice":5"#, "tool_choice"),
    (
        r#""tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":{"type":"function","function":{"name":"absent"}}"#,
        "tool_choice.function.name",
    ),
    (r#""functions":{}"#, "functions"),
    (r#""functions":[{"name":"f"}],"function_call":{"name":"g"}"#, "function_call.name"),
    (r#""function_call":"sometimes""#, "function_call"),
    (r#""logprobs":1"#, "logprobs"),
    (r#""logprobs":true,"top_logprobs":500"#, "top_logprobs"),
    (r#""top_logprobs":3"#, "top_logprobs"),
    (r#""response_format":5"#, "response_format"),
    (r#""response_format":{"type":"xml"}"#, "response_format.type"),
    (r#""response_format":{"type":"json_schema"}"#, "response_format.json_schema"),
    (r#""user":5"#, "user"),
    (r#""metadata":5"#, "metadata"),
    (r#""metadata":{"a":1}"#, "metadata.a"),
    (r#""metadata":{"a":"b","a":"c"}"#, "metadata.a"),
    (r#""store":"yes""#, "store"),
    (r#""parallel_tool_calls":1"#, "parallel_tool_calls"),
    (r#""reasoning_effort":5"#, "reasoning_effort"),
    (r#""verbosity":5"#, "verbosity"),
    // What an answer would cost cannot be known.
    (r#""service_tier":"batch""#, "service_tier"),
    (r#""service_tier":"platinum""#, "service_tier"),
    (r#""service_tier":5"#, "service_tier"),
    (r#""web_search_options":{}"#, "web_search_options"),
    (r#""prediction":{"type":"content","content":"x"}"#, "prediction"),
    (r#""audio":{"voice":"alloy","format":"mp3"}"#, "audio"),
    (r#""modalities":["text","audio"]"#, "modalities"),
    (r#""models":["dear/model"]"#, "models"),
    (r#""provider":{"order":["dear"]}"#, "provider"),
    (r#""plugins":[{"id":"web"}]"#, "plugins"),
    (r#""fallbacks":[{"model":"dear"}]"#, "fallbacks"),
    (r#""preset":"dear""#, "preset"),
    (r#""api_base":"https://elsewhere""#, "api_base"),
    (r#""deferred":true"#, "deferred"),
    (r#""extra_body":{"max_tokens":100000}"#, "extra_body"),
    (r#""data_sources":[{"type":"azure_search"}]"#, "data_sources"),
    (r#""speed":"fast""#, "speed"),
    (r#""inference_geo":"us""#, "inference_geo"),
    (r#""best_of":5"#, "best_of"),
    (r#""n_cmpl":5"#, "n_cmpl"),
    (r#""n":2,"n_cmpl":3"#, "n_cmpl"),
    (r#""chat_template":"{{ 'x' * 1000000 }}""#, "chat_template"),
];

/// Conversations that are none, and the parameter the error must name.
const BAD_MESSAGES: &[(&str, &str)] = &[
    (r#""hello""#, "messages"),
    ("5", "messages"),
    ("{}", "messages"),
    ("null", "messages"),
    ("[]", "messages"),
    (r#"["x"]"#, "messages[0]"),
    ("[null]", "messages[0]"),
    ("[{}]", "messages[0].role"),
    (r#"[{"content":"x"}]"#, "messages[0].role"),
    (r#"[{"role":5,"content":"x"}]"#, "messages[0].role"),
    (r#"[{"role":"nobody","content":"x"}]"#, "messages[0].role"),
    (r#"[{"role":"user","content":5}]"#, "messages[0].content"),
    (r#"[{"role":"user","content":{}}]"#, "messages[0].content"),
    (r#"[{"role":"user","content":null}]"#, "messages[0].content"),
    (r#"[{"role":"user"}]"#, "messages[0].content"),
    (r#"[{"role":"user","content":"a"},{"role":"user","content":5}]"#, "messages[1].content"),
    (r#"[{"role":"user","content":"a","content":"b"}]"#, "messages[0].content"),
    (r#"[{"role":"user","content":"a","Content":"b"}]"#, "messages[0].content"),
    (
        r#"[{"role":"user","content":[{"type":"text","text":"a","Type":"image_url"}]}]"#,
        "messages[0].content[0].type",
    ),
    (r#"[{"role":"user","content":[5]}]"#, "messages[0].content[0]"),
    (r#"[{"role":"user","content":[{"type":"nope"}]}]"#, "messages[0].content[0].type"),
    (r#"[{"role":"user","content":[{"text":"x"}]}]"#, "messages[0].content[0].type"),
    (r#"[{"role":"user","content":[{"type":"text"}]}]"#, "messages[0].content[0].text"),
    (r#"[{"role":"user","content":[{"type":"text","text":1}]}]"#, "messages[0].content[0].text"),
    (r#"[{"role":"user","content":[{"type":"image_url"}]}]"#, "messages[0].content[0].image_url"),
    (r#"[{"role":"user","content":[{"type":"input_audio"}]}]"#, "messages[0].content[0]"),
    (r#"[{"role":"user","content":[{"type":"file"}]}]"#, "messages[0].content[0]"),
    (r#"[{"role":"user","content":"x","name":5}]"#, "messages[0].name"),
    (r#"[{"role":"tool","content":"x"}]"#, "messages[0].tool_call_id"),
    (r#"[{"role":"function","content":"x"}]"#, "messages[0].name"),
    (r#"[{"role":"assistant","audio":{"id":"audio_1"}}]"#, "messages[0].audio"),
    (r#"[{"role":"assistant","tool_calls":{}}]"#, "messages[0].tool_calls"),
    (r#"[{"role":"assistant","tool_calls":[{"id":1}]}]"#, "messages[0].tool_calls[0].id"),
    (
        r#"[{"role":"assistant","tool_calls":[{"id":"a","function":{"name":"f","arguments":{}}}]}]"#,
        "messages[0].tool_calls[0].function.arguments",
    ),
];

#[test]
fn a_field_of_a_wrong_type_or_out_of_range_is_named() {
    for (more, param) in BAD_FIELDS {
        let error = read(&body_with(more)).expect_err(more);
        assert_eq!(error.param.as_deref(), Some(*param), "{more}: {error}");
        assert!(!error.message.is_empty() && !error.code.is_empty(), "{more}");
    }
}

#[test]
fn a_conversation_of_a_wrong_shape_is_named() {
    for (messages, param) in BAD_MESSAGES {
        let error = read(&body_of(messages)).expect_err(messages);
        assert_eq!(error.param.as_deref(), Some(*param), "{messages}: {error}");
    }
}

#[test]
fn a_body_that_is_no_json_object_is_refused() {
    let bodies: &[&[u8]] = &[
        b"{",
        b"",
        b"   ",
        b"[]",
        b"null",
        b"\"x\"",
        b"1",
        b"{\"model\":}",
        b"{'a':1}",
        b"\xff\xfe{}",
        b"{\"model\":\"\xff\"}",
        b"{}{}",
        b"not json",
        b"{\"temperature\":NaN}",
        b"{\"temperature\":-Infinity}",
        b"{\"a\":01}",
        b"{\"a\":\"\\ud8\"}",
        b"{\"a\":1,}",
        b"\xef\xbb\xbf{}",
    ];
    for body in bodies {
        let read = read_chat(Bytes::from_static(body), &HeaderMap::new(), 1000);
        let error = read.expect_err(&String::from_utf8_lossy(body));
        assert_eq!((error.param, error.code), (None, "invalid_json"), "{}", error.message);
    }
}

#[test]
fn what_is_missing_is_named() {
    let error = read(r#"{"messages":[{"role":"user","content":"x"}]}"#).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("model"));
    let error = read(r#"{"model":"auto"}"#).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("messages"));
}

#[test]
fn deep_nesting_is_refused_wherever_it_stands() {
    let arrays = "[".repeat(200_000);
    let objects = r#"{"a":"#.repeat(100_000);
    let unknown = body_with(&format!(r#""x":{}{}"#, "[".repeat(200_000), "]".repeat(200_000)));
    let in_tool = body_with(&format!(
        r#""tools":[{{"type":"function","function":{{"name":"f","parameters":{}1{}}}}}]"#,
        r#"{"a":"#.repeat(400),
        "}".repeat(400)
    ));
    for body in [arrays, objects, unknown, in_tool] {
        let error = read(&body).unwrap_err();
        assert_eq!(error.code, "invalid_json", "{}", error.message);
    }
    let shallow = body_with(&format!(r#""x":{}{}"#, "[".repeat(100), "]".repeat(100)));
    read(&shallow).expect("a hundred levels are fine");
    let brackets = body_of(&format!(r#"[{{"role":"user","content":"{}"}}]"#, "[{".repeat(5000)));
    read(&brackets).expect("brackets in text are text");
}

#[test]
fn null_is_not_given() {
    let names = "temperature top_p n stream stop max_tokens max_completion_tokens presence_penalty \
        frequency_penalty logit_bias logprobs top_logprobs user seed tools tool_choice \
        response_format stream_options metadata store service_tier parallel_tool_calls \
        reasoning_effort verbosity functions function_call modalities audio prediction web_search_options";
    for name in names.split_whitespace() {
        let request = read(&body_with(&format!(r#""{name}":null"#))).expect(name);
        assert_eq!(request.output_cap, 1000);
        assert!(!request.output_cap_given && !request.stream && request.choices == 1, "{name}");
        super::super::local_ask(&request).expect(name);
    }
}

#[test]
fn unknown_fields_and_harmless_known_ones_are_accepted() {
    let more = r#""foo_bar":1,"safety_identifier":"u","prompt_cache_key":"k","prompt_cache_retention":"24h",
        "metadata":{"a":"b"},"store":false,"service_tier":"auto","verbosity":"low","user":"u1",
        "parallel_tool_calls":true,"modalities":["text"],"chat_template_kwargs":{},"top_k":40,"min_p":0.0,
        "repeat_penalty":1.0,"think":false,"provider":{"order":[]},"fallbacks":[],"deferred":false,
        "speed":"standard""#;
    let request = read(&body_with(more)).unwrap();
    assert_eq!(request.metadata.get("a").map(String::as_str), Some("b"));
    super::super::local_ask(&request).unwrap();
}

#[test]
fn what_the_client_asked_for_is_read() {
    let request = read(&body_with(
        r#""stream":true,"stream_options":{"include_usage":true},"max_completion_tokens":7,"n":2,"logprobs":true,
        "response_format":{"type":"json_object"},"tools":[{"type":"function","function":{"name":"f"}}]"#,
    ))
    .unwrap();
    assert_eq!(request.model, "auto");
    assert!(request.stream && request.include_usage);
    assert_eq!((request.output_cap, request.output_cap_given, request.choices), (7, true, 2));
    assert!(request.needs.tools && request.needs.structured && request.needs.logprobs);
    assert!(!request.needs.images);
    let none = r#""tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"none""#;
    assert!(!read(&body_with(none)).unwrap().needs.tools, "tools that may not be called");
    let equal = read(&body_with(r#""max_tokens":5,"max_completion_tokens":5"#)).unwrap();
    assert_eq!(equal.output_cap, 5);
    let llama_servers = read(&body_with(r#""n_predict":5,"n":2,"n_cmpl":2"#)).unwrap();
    assert_eq!((llama_servers.output_cap, llama_servers.output_cap_given), (5, true));
}

#[test]
fn every_message_shape_of_openai_is_accepted() {
    let request = read(&body_of(
        r#"[{"role":"developer","content":[{"type":"text","text":"Be brief."}]},
        {"role":"user","content":"Weather?","name":"ann"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"1","content":[{"type":"text","text":"8"}]},
        {"role":"assistant","function_call":{"name":"f","arguments":"{}"}},
        {"role":"function","name":"f","content":"9"},
        {"role":"assistant","content":[{"type":"refusal","refusal":"No."}]},
        {"role":"user","content":[{"type":"image_url","image_url":{"url":"https://example.com/a.png"}}]}]"#,
    ))
    .unwrap();
    assert_eq!(request.messages, 8);
    assert!(request.needs.images);
}

#[test]
fn the_prompt_bound_counts_unescaped_bytes_and_never_less() {
    let plain = read(&body_of(r#"[{"role":"user","content":"日本"}]"#)).unwrap();
    let escaped = read(&body_of(r#"[{"role":"user","content":"\u65e5\u672c"}]"#)).unwrap();
    assert_eq!(plain.prompt_tokens_max, escaped.prompt_tokens_max);
    assert_eq!(plain.prompt_tokens_estimate, escaped.prompt_tokens_estimate);

    let text = "word ".repeat(1000);
    let long = read(&body_of(&format!(r#"[{{"role":"user","content":"{text}"}}]"#))).unwrap();
    assert!(long.prompt_tokens_max >= 5000 && long.prompt_tokens_max < 5300);
    assert!((1250..1300).contains(&long.prompt_tokens_estimate));

    assert!((5000..5050).contains(&long.text_bytes()), "{}", long.text_bytes());
    let image = r#"{"type":"image_url","image_url":{"url":"https://a/b","detail":"low"}}"#;
    let images = [image; 11].join(",");
    let seen =
        format!(r#"[{{"role":"user","content":[{{"type":"text","text":"{text}"}},{images}]}}]"#);
    assert!((5000..5100).contains(&read(&body_of(&seen)).unwrap().text_bytes()));

    let unknown = read(&body_with(&format!(r#""documents_of_mine":"{text}""#))).unwrap();
    assert!(unknown.prompt_tokens_max >= 5000, "a template may render what we do not know");
    let metadata = read(&body_with(r#""metadata":{"a":"b"}"#)).unwrap();
    assert_eq!(metadata.prompt_tokens_max, read(&body_with("")).unwrap().prompt_tokens_max);

    let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
    let image = read(&body_of(image)).unwrap();
    // Of gpt-4o-mini: 2,833, and 5,667 for each of eight tiles.
    let dearest = 2_833 + 8 * 5_667;
    assert!(image.prompt_tokens_max >= dearest);
    assert!((1_000..2_000).contains(&image.prompt_tokens_estimate), "usually it is far less");
    let unreported = image.prompt_tokens_unreported();
    assert!(unreported >= dearest, "what may be billed is booked where nobody says what is");
    assert!(unreported <= image.prompt_tokens_max);
    assert_eq!(long.prompt_tokens_unreported(), long.prompt_tokens_estimate);
}

#[test]
fn bytes_of_a_string_are_those_of_its_text() {
    for text in [
        "",
        "plain",
        "tab\t\"quote\" \\ nul\u{0}",
        "é ü 日本 🙂👩‍👩‍👧",
        "\u{7f}\u{80}\u{7ff}\u{800}\u{ffff}\u{10ffff}",
    ] {
        let written = serde_json::to_string(text).unwrap();
        assert_eq!(json::TextBytes::of_string(&written).total(), text.len() as u64);
        let mut units = [0; 2];
        let escaped: String = text
            .chars()
            .flat_map(|char| char.encode_utf16(&mut units).to_vec())
            .map(|unit| format!("\\u{unit:04x}"))
            .collect();
        let counted = json::TextBytes::of_string(&format!("\"{escaped}\""));
        assert_eq!(counted, json::TextBytes::of_plain(text), "{text:?}");
    }
}

#[test]
fn headers_are_read() {
    let request = read_with(&[
        ("x-tollgate-tags", "batch, local-only,,batch"),
        ("x-tollgate-tags", "more"),
        ("x-litellm-session-id", "run-7"),
        ("x-tollgate-max-cost-usd", "0.05"),
        ("x-tollgate-deadline-ms", "1500"),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
    ])
    .unwrap();
    assert_eq!(request.tags, ["batch", "local-only", "more"]);
    assert_eq!(request.session.as_deref(), Some("run-7"));
    assert_eq!(request.max_cost, Some(PicoUsd::from_pico(50_000_000_000)));
    assert_eq!(request.deadline, Some(Duration::from_millis(1500)));
    assert!(request.traceparent.is_some());
    let both = read_with(&[("x-litellm-session-id", "theirs"), ("x-session-id", "ours")]).unwrap();
    assert_eq!(both.session.as_deref(), Some("ours"));
    let odd = read_with(&[("traceparent", "garbage")]).unwrap();
    assert!(odd.traceparent.is_none(), "the standard says to ignore it");
}

#[test]
fn a_header_that_cannot_be_read_is_named() {
    let long = "x".repeat(300);
    let many = (0..17).map(|n| n.to_string()).collect::<Vec<_>>().join(",");
    for (name, value) in [
        ("x-tollgate-max-cost-usd", "five"),
        ("x-tollgate-max-cost-usd", "-1"),
        ("x-tollgate-deadline-ms", "0"),
        ("x-tollgate-deadline-ms", "1.5"),
        ("x-tollgate-deadline-ms", "99999999999999999999"),
        ("x-session-id", &long),
        ("x-session-id", "caf\u{e9}"),
        ("x-tollgate-tags", &long),
        ("x-tollgate-tags", &many),
        ("x-tollgate-tags", "batch,guard:local_only"),
    ] {
        let error = read_with(&[(name, value)]).expect_err(value);
        assert_eq!(error.param.as_deref(), Some(name), "{value}");
    }
    let behind_a_good_one = [("x-session-id", "run-7"), ("x-litellm-session-id", long.as_str())];
    let error = read_with(&behind_a_good_one).expect_err("too long");
    assert_eq!(error.param.as_deref(), Some("x-litellm-session-id"));
    let twice = [("x-tollgate-deadline-ms", "5"), ("x-tollgate-deadline-ms", "6")];
    assert!(read_with(&twice).is_err());
}

#[test]
fn no_prompt_is_in_debug() {
    let request = read(&body_of(r#"[{"role":"user","content":"my secret"}]"#)).unwrap();
    let ask = super::super::local_ask(&request).unwrap();
    assert!(!format!("{request:?} {ask:?}").contains("secret"));
}
