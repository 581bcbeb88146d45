//! What is asked of the model in this process.

use super::{body_of, body_with, read};
use crate::wire::{local_ask, local_sampling};
use local_engine::{Role, Rule, SamplingDefaults, ToolChoice, Tools};

#[test]
fn what_the_engine_cannot_do_is_refused_by_name() {
    let tool = r#"[{"type":"function","function":{"name":"f"}}]"#;
    for (more, param) in [
        (r#""suffix":"x""#, "suffix"),
        (r#""echo":true"#, "echo"),
        (r#""bad_words":["x"]"#, "bad_words"),
        (r#""documents":[{"text":"x"}]"#, "documents"),
        (r#""min_tokens":5"#, "min_tokens"),
        (r#""mirostat":2"#, "mirostat"),
        (r#""n_probs":5"#, "n_probs"),
        (r#""samplers":["top_k"]"#, "samplers"),
        (r#""stop_token_ids":[5]"#, "stop_token_ids"),
        (r#""structured_outputs":{"json":{}}"#, "structured_outputs"),
        (r#""guided_grammar":"root ::= x""#, "guided_grammar"),
        (r#""t_max_predict_ms":5"#, "t_max_predict_ms"),
        (r#""top_n_sigma":1.5"#, "top_n_sigma"),
        (r#""dynatemp_range":0.5"#, "dynatemp_range"),
        (r#""xtc_probability":0.5"#, "xtc_probability"),
        (r#""ignore_eos":1"#, "ignore_eos"),
        (r#""continue_final_message":true"#, "continue_final_message"),
        (&format!(r#""tools":{tool},"functions":[{{"name":"g"}}]"#), "functions"),
        (&format!(r#""tools":{tool},"logprobs":true"#), "logprobs"),
        (&format!(r#""tools":{tool},"grammar":"root ::= x""#), "grammar"),
        (
            &format!(r#""tools":{tool},"response_format":{{"type":"json_object"}}"#),
            "response_format",
        ),
        (r#""tools":[{"type":"function","function":{"name":"a b"}}]"#, "tools[0].function.name"),
        (r#""tools":[{"type":"custom","custom":{"name":"f"}}]"#, "tools[0].type"),
        (r#""grammar":"root ::= x","guided_regex":"x""#, "guided_regex"),
        (r#""json_schema":{},"response_format":{"type":"json_object"}"#, "json_schema"),
        (r#""json_schema":7"#, "json_schema"),
        (r#""guided_choice":[]"#, "guided_choice"),
        (r#""typical_p":1.5"#, "typical_p"),
        (r#""repeat_last_n":-2"#, "repeat_last_n"),
        (r#""dry_multiplier":-1"#, "dry_multiplier"),
        (r#""dry_base":0.5"#, "dry_base"),
        (r#""dry_allowed_length":-1"#, "dry_allowed_length"),
        (r#""dry_penalty_last_n":1.5"#, "dry_penalty_last_n"),
        (r#""dry_sequence_breakers":[""]"#, "dry_sequence_breakers[0]"),
        (r#""chat_template_kwargs":{"enable_thinking":false}"#, "chat_template_kwargs"),
        (r#""top_k":"many""#, "top_k"),
        (r#""min_p":2"#, "min_p"),
        (r#""repetition_penalty":0"#, "repetition_penalty"),
        (r#""repetition_penalty":1.2,"repeat_penalty":1.1"#, "repetition_penalty"),
    ] {
        let error = local_ask(&read(&body_with(more)).expect(more)).expect_err(more);
        assert_eq!(error.param.as_deref(), Some(param), "{more}: {error}");
    }
}

#[test]
fn what_other_servers_take_and_this_engine_does_not_is_refused_by_name() {
    for (more, param) in [
        (r#""add_generation_prompt":false"#, "add_generation_prompt"),
        (r#""add_special_tokens":true"#, "add_special_tokens"),
        (r#""allowed_token_ids":[5]"#, "allowed_token_ids"),
        (r#""allowed_token_ids":[]"#, "allowed_token_ids"),
        (r#""cache_prompt":false"#, "cache_prompt"),
        (r#""grammar_lazy":true"#, "grammar_lazy"),
        (r#""guided_whitespace_pattern":"""#, "guided_whitespace_pattern"),
        (r#""include_stop_str_in_output":true"#, "include_stop_str_in_output"),
        (r#""logits_processors":["x"]"#, "logits_processors"),
        (r#""lora":[{"id":0,"scale":0.5}]"#, "lora"),
        (r#""min_keep":2"#, "min_keep"),
        (r#""n_indent":4"#, "n_indent"),
        (r#""parse_tool_calls":false"#, "parse_tool_calls"),
        (r#""post_sampling_probs":true"#, "post_sampling_probs"),
        (r#""prompt_embeds":"AAAA""#, "prompt_embeds"),
        (r#""prompt_logprobs":0"#, "prompt_logprobs"),
        (r#""return_token_ids":true"#, "return_token_ids"),
        (r#""return_tokens":true"#, "return_tokens"),
        (r#""return_tokens_as_token_ids":true"#, "return_tokens_as_token_ids"),
        (r#""skip_special_tokens":false"#, "skip_special_tokens"),
        (r#""tfs_z":0.5"#, "tfs_z"),
        (r#""truncate_prompt_tokens":64"#, "truncate_prompt_tokens"),
        (r#""vllm_xargs":{"a":1}"#, "vllm_xargs"),
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
        r#""add_generation_prompt":true,"add_special_tokens":false,"skip_special_tokens":true"#,
        r#""allowed_token_ids":null,"cache_prompt":true,"prompt_logprobs":null"#,
        r#""include_stop_str_in_output":false,"lora":[],"min_keep":0,"n_cmpl":1,"tfs_z":1.0"#,
        r#""n_predict":-1,"t_max_predict_ms":-1,"top_n_sigma":-1.0,"mirostat":0"#,
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
        {"role":"assistant","function_call":{"name":"g","arguments":"{}"}},
        {"role":"assistant","content":"c","tool_calls":[ ]}]"#,
    ))
    .unwrap();
    let messages = local_ask(&request).unwrap().messages;
    let roles: Vec<_> = messages.iter().map(|message| message.role).collect();
    let (assistant, tool) = (Role::Assistant, Role::Tool);
    assert_eq!(roles, [Role::System, Role::User, assistant, tool, assistant, assistant]);
    assert_eq!(messages[0].content, "Be é.");
    assert_eq!(
        (messages[1].content.as_str(), messages[1].name.as_deref()),
        ("a\nb\n", Some("ann"))
    );
    assert!(messages[2].tool_calls_json.as_deref().unwrap().starts_with(r#"[{"id":"1""#));
    assert_eq!(messages[3].content, "7 <|im_end|> \0");
    assert_eq!(messages[3].tool_call_id.as_deref(), Some("1"));
    assert_eq!((messages[5].content.as_str(), &messages[5].tool_calls_json), ("c", &None));
    let legacy = messages[4].tool_calls_json.as_deref().unwrap();
    serde_json::from_str::<serde_json::Value>(legacy).unwrap();
}

#[test]
fn a_refusal_is_what_the_assistant_said() {
    let said = |message: &str| {
        let ask = local_ask(&read(&body_of(&format!(
            r#"[{message},{{"role":"user","content":"b"}}]"#
        )))?)?;
        Ok::<_, crate::wire::BadRequest>(ask.messages[0].content.clone())
    };
    let only = r#"{"role":"assistant","content":null,"refusal":"I \u0063annot."}"#;
    assert_eq!(said(only).unwrap(), "I cannot.");
    let both = r#"{"role":"assistant","refusal":"No.","content":[{"type":"text","text":"Hm."}]}"#;
    assert_eq!(said(both).unwrap(), "Hm.\nNo.", "as parts of one content");
    let none = r#"{"role":"assistant","content":"Yes.","refusal":null}"#;
    assert_eq!(said(none).unwrap(), "Yes.");
    let not_the_assistants = r#"{"role":"user","content":"a","refusal":7}"#;
    assert_eq!(said(not_the_assistants).unwrap(), "a");
    let wrong = said(r#"{"role":"assistant","content":null,"refusal":7}"#).unwrap_err();
    assert_eq!(wrong.param.as_deref(), Some("messages[0].refusal"));
}

#[test]
fn sampling_is_what_was_asked() {
    let request = read(&body_with(
        r#""temperature":0,"top_p":0.5,"top_k":40,"min_p":0.05,"repeat_penalty":1.1,"presence_penalty":2,
        "frequency_penalty":-2,"logit_bias":{"5":-100,"7":1.5},"seed":-2,"stop":["a","","b"]"#,
    ))
    .unwrap();
    let ask = local_ask(&request).unwrap();
    let drawn = ask.sampling;
    assert_eq!(drawn.temperature.to_bits(), 0f32.to_bits());
    assert_eq!(drawn.top_k, Some(40));
    assert_eq!(drawn.logit_bias, [(5, -100.0), (7, 1.5)]);
    assert_eq!(drawn.seed, Some(u64::MAX - 1));
    assert_eq!(ask.stop, ["a", "b"]);

    let plain = local_ask(&read(&body_with("")).unwrap()).unwrap().sampling;
    assert_eq!(plain.temperature.to_bits(), 0.8f32.to_bits(), "as llama.cpp's own server");
    assert_eq!((plain.seed, plain.top_k), (None, Some(40)));
    let drawn = local_ask(&read(&body_with(r#""seed":-1"#)).unwrap()).unwrap().sampling;
    assert_eq!(drawn.seed, None, "as llama.cpp's own server and vLLM read it");
}

#[test]
fn what_is_asked_of_the_samplers_goes_by_llama_servers_names() {
    let request = read(&body_with(
        r#""typical_p":0.5,"repeat_last_n":-1,"dry_multiplier":0.8,"dry_base":2,"dry_allowed_length":3,
        "dry_penalty_last_n":100,"dry_sequence_breakers":["\n"],"ignore_eos":true,"n":3,"logprobs":true,"top_logprobs":5"#,
    ))
    .unwrap();
    let ask = local_ask(&request).unwrap();
    assert_eq!(ask.sampling.typical_p.to_bits(), 0.5f32.to_bits());
    assert_eq!(ask.sampling.repeat_last_n, 65_536);
    let dry = ask.sampling.dry.unwrap();
    assert_eq!(
        (dry.allowed_length, dry.last_n, dry.breakers.texts()),
        (3, 100, &["\n".to_owned()][..])
    );
    assert_eq!((ask.choices, ask.logprobs, ask.ignore_end), (3, Some(5), true));
    let plain = local_ask(&read(&body_with("")).unwrap()).unwrap();
    assert_eq!((plain.choices, plain.logprobs, plain.ignore_end), (1, None, false));
    assert_eq!(plain.sampling.dry, None);
    let dry = local_ask(&read(&body_with(r#""dry_multiplier":0.8"#)).unwrap()).unwrap();
    let dry = dry.sampling.dry.unwrap();
    assert_eq!((dry.base, dry.allowed_length, dry.last_n), (1.75, 2, 64));
}

#[test]
fn what_is_not_said_is_as_the_models_file_has_it() {
    let file = SamplingDefaults {
        temperature: Some(0.6),
        top_p: Some(0.9),
        top_k: Some(0),
        min_p: Some(0.1),
        repeat_penalty: Some(1.2),
        repeat_last_n: Some(128),
    };
    let drawn = |fields: &str, file: &SamplingDefaults| {
        let request = read(&body_with(fields)).unwrap();
        let sampling = local_ask(&request).unwrap().sampling;
        local_sampling(&request, sampling, file)
    };
    let silent = drawn("", &file);
    assert_eq!((silent.temperature, silent.top_p, silent.min_p), (0.6, 0.9, 0.1));
    assert_eq!((silent.top_k, silent.repeat_penalty, silent.repeat_last_n), (None, 1.2, 128));
    let said = r#""temperature":1,"top_k":7,"repetition_penalty":1.5"#;
    let said = drawn(said, &file);
    assert_eq!((said.temperature, said.top_k, said.repeat_penalty), (1.0, Some(7), 1.5));
    let said = drawn(r#""repeat_penalty":1"#, &file);
    assert_eq!((said.repeat_penalty, said.top_p), (1.0, 0.9));
    let plain = local_ask(&read(&body_with("")).unwrap()).unwrap().sampling;
    assert_eq!(drawn("", &SamplingDefaults::default()), plain);
}

#[test]
fn a_rule_is_handed_over_whole_whoever_names_it() {
    let schema = r#"{"type":"object"}"#;
    for (more, param, rule) in [
        (
            r#""response_format":{"type":"json_object"}"#.to_owned(),
            "response_format",
            Rule::JsonObject,
        ),
        (
            format!(
                r#""response_format":{{"type":"json_schema","json_schema":{{"name":"a","schema":{schema}}}}}"#
            ),
            "response_format",
            Rule::JsonSchema(schema.to_owned()),
        ),
        (format!(r#""json_schema":{schema}"#), "json_schema", Rule::JsonSchema(schema.to_owned())),
        (format!(r#""guided_json":{schema}"#), "guided_json", Rule::JsonSchema(schema.to_owned())),
        (
            r#""grammar":"root ::= \"x\"""#.to_owned(),
            "grammar",
            Rule::Gbnf("root ::= \"x\"".to_owned()),
        ),
        (r#""guided_regex":"[0-9]+""#.to_owned(), "guided_regex", Rule::Regex("[0-9]+".to_owned())),
        (
            r#""guided_choice":["a","\"b"]"#.to_owned(),
            "guided_choice",
            Rule::Lark("start: OPTION\nOPTION: \"a\" | \"\\\"b\"".to_owned()),
        ),
    ] {
        let ask = local_ask(&read(&body_with(&more)).expect(&more)).expect(&more);
        assert_eq!(ask.rule, Some((param, rule)), "{more}");
    }
}

#[test]
fn tools_and_the_choice_among_them_are_kept() {
    let tools = r#""tools":[{"type":"function","function":{"name":"f","description":"d","parameters":{"type":"object"}}},
        {"type":"function","function":{"name":"g"}}]"#;
    for (more, choice, parallel) in [
        ("", ToolChoice::Auto, None),
        (r#","tool_choice":"auto","parallel_tool_calls":false"#, ToolChoice::Auto, Some(false)),
        (
            r#","tool_choice":"required","parallel_tool_calls":true"#,
            ToolChoice::Required,
            Some(true),
        ),
        (
            r#","tool_choice":{"type":"function","function":{"name":"g"}}"#,
            ToolChoice::Named("g".to_owned()),
            None,
        ),
    ] {
        let ask = local_ask(&read(&body_with(&format!("{tools}{more}"))).unwrap()).unwrap();
        let asked = ask.tools.unwrap();
        assert_eq!((asked.choice, asked.parallel, ask.legacy_functions), (choice, parallel, false));
        assert_eq!(asked.functions[0].parameters.as_deref(), Some(r#"{"type":"object"}"#));
        assert_eq!(asked.functions[1].name, "g");
    }
    let allowed = |mode: &str, name: &str| {
        let listed = format!(r#"[{{"type":"function","function":{{"name":"{name}"}}}}]"#);
        let more = format!(
            r#","tool_choice":{{"type":"allowed_tools","allowed_tools":{{"mode":"{mode}","tools":{listed}}}}}"#
        );
        let asked = local_ask(&read(&body_with(&format!("{tools}{more}"))).unwrap());
        let named = |tools: Tools| {
            let names = tools.functions.into_iter().map(|function| function.name);
            (tools.choice, names.collect::<Vec<_>>())
        };
        asked.map(|ask| ask.tools.map(named)).map_err(|bad| bad.param)
    };
    let g = vec!["g".to_owned()];
    assert_eq!(allowed("auto", "g"), Ok(Some((ToolChoice::Auto, g.clone()))));
    assert_eq!(allowed("required", "g"), Ok(Some((ToolChoice::Required, g))));
    assert_eq!(allowed("auto", "h"), Ok(None), "as under `none`");
    let unknown = Err(Some("tool_choice.allowed_tools.tools".to_owned()));
    assert_eq!(allowed("required", "h"), unknown);
    let mode = Err(Some("tool_choice.allowed_tools.mode".to_owned()));
    assert_eq!(allowed("none", "g"), mode);
    let legacy = r#""functions":[{"name":"f"}],"function_call":{"name":"f"}"#;
    let ask = local_ask(&read(&body_with(legacy)).unwrap()).unwrap();
    let asked = ask.tools.unwrap();
    assert_eq!((asked.choice, asked.parallel), (ToolChoice::Named("f".to_owned()), Some(false)));
    assert!(ask.legacy_functions);
}

#[test]
fn a_last_message_of_the_assistant_is_continued_unless_it_says_no() {
    let messages = r#"[{"role":"user","content":"a"},{"role":"assistant","content":"The"}]"#;
    let ask = local_ask(&read(&body_of(messages)).unwrap()).unwrap();
    assert!(ask.continued);
    let body = format!(r#"{{"model":"m","messages":{messages},"continue_final_message":false}}"#);
    assert!(!local_ask(&read(&body).unwrap()).unwrap().continued);
    // As vLLM wants it said.
    let body = format!(
        r#"{{"model":"m","messages":{messages},"continue_final_message":true,"add_generation_prompt":false}}"#
    );
    assert!(local_ask(&read(&body).unwrap()).unwrap().continued);
    let body = format!(
        r#"{{"model":"m","messages":{messages},"response_format":{{"type":"json_object"}}}}"#
    );
    let error = local_ask(&read(&body).unwrap()).unwrap_err();
    assert_eq!(error.param.as_deref(), Some("response_format"));
    // With nothing there is nothing to go on with.
    let empty = r#"[{"role":"user","content":"a"},{"role":"assistant","content":""}]"#;
    let ask = local_ask(&read(&body_of(empty)).unwrap()).unwrap();
    assert_eq!((ask.continued, ask.messages.len()), (false, 1));
    let alone = r#"[{"role":"assistant","content":""}]"#;
    assert_eq!(local_ask(&read(&body_of(alone)).unwrap()).unwrap().messages.len(), 1);
}
