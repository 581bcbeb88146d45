//! What is asked of the model in this process.

use super::{body_of, body_with, read};
use crate::wire::local_ask;
use local_engine::Role;

#[test]
fn what_the_engine_cannot_do_is_refused_by_name() {
    let tool = r#"[{"type":"function","function":{"name":"f"}}]"#;
    for (more, param) in [
        (r#""n":2"#, "n"),
        (&format!(r#""tools":{tool}"#), "tools"),
        (&format!(r#""tools":{tool},"tool_choice":"required""#), "tools"),
        (r#""functions":[{"name":"f"}]"#, "functions"),
        (r#""logprobs":true"#, "logprobs"),
        (r#""response_format":{"type":"json_object"}"#, "response_format"),
        (r#""suffix":"x""#, "suffix"),
        (r#""grammar":"root ::= x""#, "grammar"),
        (r#""guided_json":{"type":"object"}"#, "guided_json"),
        (r#""ignore_eos":true"#, "ignore_eos"),
        (r#""chat_template_kwargs":{"enable_thinking":false}"#, "chat_template_kwargs"),
        (r#""top_k":"many""#, "top_k"),
        (r#""min_p":2"#, "min_p"),
        (r#""repetition_penalty":0"#, "repetition_penalty"),
    ] {
        let error = local_ask(&read(&body_with(more)).expect(more)).expect_err(more);
        assert_eq!(error.param.as_deref(), Some(param), "{more}: {error}");
    }
}

#[test]
fn what_asks_for_nothing_is_no_obstacle() {
    let tool = r#"[{"type":"function","function":{"name":"f"}}]"#;
    for more in [
        r#""tools":[]"#,
        &format!(r#""tools":{tool},"tool_choice":"none""#),
        r#""logprobs":false"#,
        r#""response_format":{"type":"text"}"#,
        r#""ignore_eos":false"#,
        r#""documents":[]"#,
        r#""stop":[""]"#,
    ] {
        local_ask(&read(&body_with(more)).expect(more)).expect(more);
    }
}

#[test]
fn an_image_or_a_broken_escape_is_refused_where_it_stands() {
    let image = r#"[{"role":"user","content":[{"type":"image_url","image_url":{"url":"x"}}]}]"#;
    let lone = r#"[{"role":"user","content":"\ud800"}]"#;
    for messages in [image, lone] {
        let error = local_ask(&read(&body_of(messages)).unwrap()).unwrap_err();
        assert_eq!(error.param.as_deref(), Some("messages[0].content"));
    }
}

#[test]
fn the_conversation_is_handed_over_as_it_is() {
    let request = read(&body_of(
        r#"[{"role":"developer","content":"Be \u00e9."},
        {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b\n"}],"name":"ann"},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","type":"function","function":{"name":"f","arguments":"{}"}}]},
        {"role":"tool","tool_call_id":"1","content":"7 <|im_end|> \u0000"},
        {"role":"assistant","function_call":{"name":"g","arguments":"{}"}}]"#,
    ))
    .unwrap();
    let messages = local_ask(&request).unwrap().messages;
    let roles: Vec<_> = messages.iter().map(|message| message.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant, Role::Tool, Role::Assistant]);
    assert_eq!(messages[0].content, "Be é.");
    assert_eq!(
        (messages[1].content.as_str(), messages[1].name.as_deref()),
        ("a\nb\n", Some("ann"))
    );
    assert!(messages[2].tool_calls_json.as_deref().unwrap().starts_with(r#"[{"id":"1""#));
    assert_eq!(messages[3].content, "7 <|im_end|> \0");
    assert_eq!(messages[3].tool_call_id.as_deref(), Some("1"));
    let legacy = messages[4].tool_calls_json.as_deref().unwrap();
    serde_json::from_str::<serde_json::Value>(legacy).unwrap();
}

#[test]
fn sampling_is_what_was_asked() {
    let request = read(&body_with(
        r#""temperature":0,"top_p":0.5,"top_k":40,"min_p":0.05,"repeat_penalty":1.1,"presence_penalty":2,
        "frequency_penalty":-2,"logit_bias":{"5":-100,"7":1.5},"seed":-1,"stop":["a","","b"]"#,
    ))
    .unwrap();
    let ask = local_ask(&request).unwrap();
    let drawn = ask.sampling;
    assert_eq!(drawn.temperature.to_bits(), 0f32.to_bits());
    assert_eq!(drawn.top_k, Some(40));
    assert_eq!(drawn.logit_bias, [(5, -100.0), (7, 1.5)]);
    assert_eq!(drawn.seed, Some(u64::MAX));
    assert_eq!(ask.stop, ["a", "b"]);

    let plain = local_ask(&read(&body_with("")).unwrap()).unwrap().sampling;
    assert_eq!(plain.temperature.to_bits(), 0.8f32.to_bits(), "as llama.cpp's own server");
    assert_eq!((plain.seed, plain.top_k), (None, Some(40)));
}
