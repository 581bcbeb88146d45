//! Whatever a client sends, it gets a 4xx with the error body or an answer, never a 5xx, and the
//! next client is served as before.

use crate::harness::{Answer, Gate, raw, raw_without_end};
use e2e::standin::StandIn;
use serde_json::{Value, json};
use std::io::Write as _;

async fn a_cloud() -> (StandIn, Gate) {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).start().await;
    (cloud, gate)
}

/// No JSON object, or one in which nothing is asked.
const NO_QUESTION: [&[u8]; 15] = [
    b"{",
    b"",
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
    b"{}",
    b"\0",
    b"{\"model\":\"auto\"}",
];

fn usual() -> Value {
    json!({"model": "auto", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 4})
}

/// The usual body with these fields in it.
fn with(fields: &Value) -> Value {
    let mut body = usual();
    for (name, value) in fields.as_object().expect("fields") {
        body[name] = value.clone();
    }
    body
}

fn is_a_clean_refusal(answer: &Answer, what: &str) {
    assert!(
        (400..500).contains(&answer.status),
        "{what}: {} {}",
        answer.status,
        answer.body_text()
    );
    answer.error();
}

#[tokio::test]
async fn bodies_that_are_no_json_object() {
    let (cloud, gate) = a_cloud().await;
    for body in NO_QUESTION {
        let answer = gate.post_chat(body).await;
        is_a_clean_refusal(&answer, &String::from_utf8_lossy(body));
        assert_eq!(answer.status, 400);
    }
    let deep = [
        "[".repeat(200_000),
        "{\"a\":".repeat(100_000),
        format!("{{\"model\":\"auto\",\"x\":{}{}}}", "[".repeat(5000), "]".repeat(5000)),
    ];
    for body in deep {
        is_a_clean_refusal(&gate.post_chat(body).await, "very deep");
    }
    assert_eq!(cloud.counts().requests, 0);
    gate.ask("Still there?").send().await.ok();
}

#[tokio::test]
async fn messages_of_a_wrong_kind() {
    let (cloud, gate) = a_cloud().await;
    let wrong = [
        json!("hello"),
        json!(5),
        json!({}),
        json!(null),
        json!([]),
        json!(["x"]),
        json!([{}]),
        json!([{"role": "user", "content": 5}]),
        json!([{"role": "nobody", "content": "x"}]),
        json!([{"content": "x"}]),
        json!([{"role": "user", "content": [5]}]),
        json!([{"role": "user", "content": [{"type": "nope"}]}]),
    ];
    for messages in wrong {
        let answer = gate.post_chat(with(&json!({"messages": messages})).to_string()).await;
        is_a_clean_refusal(&answer, &messages.to_string());
        let error = answer.error();
        let named = error.param.unwrap_or_default() + &error.message;
        assert!(named.contains("messages"), "{messages}: {named}");
    }
    assert_eq!(cloud.counts().requests, 0);
}

#[tokio::test]
async fn parameters_out_of_range_or_of_a_wrong_type_are_named() {
    let (cloud, gate) = a_cloud().await;
    let here = a_local_route().await;
    let wrong = json!([
        {"max_tokens": -1}, {"max_tokens": "10"}, {"max_tokens": 1.5}, {"max_tokens": []},
        {"max_tokens": true}, {"max_completion_tokens": -5},
        {"temperature": -1}, {"temperature": 3}, {"temperature": "hot"}, {"top_p": 2},
        {"top_p": -0.1}, {"presence_penalty": 9}, {"frequency_penalty": -9}, {"stream": "yes"},
        {"stream": 1}, {"stream_options": 5}, {"stop": 5}, {"stop": [1]}, {"logit_bias": []},
        {"seed": "x"}, {"n": 0}, {"n": -1}, {"n": "2"}, {"n": 1_000_000}, {"tools": "x"},
        {"tools": [5]}, {"tools": [{"type": "function"}]}, {"response_format": 5},
        {"response_format": {"type": "xml"}}, {"response_format": {"type": "json_schema"}},
        {"model": 5}, {"model": null},
    ]);
    for fields in wrong.as_array().expect("a table") {
        for gate in [&gate, &here] {
            let answer = gate.post_chat(with(fields).to_string()).await;
            is_a_clean_refusal(&answer, &fields.to_string());
            let error = answer.error();
            let name = fields.as_object().and_then(|map| map.keys().next()).expect("a name");
            let named = error.param.unwrap_or_default() + &error.message;
            assert!(named.contains(name.as_str()), "{fields}: {named}");
        }
    }
    assert_eq!(cloud.counts().requests, 0, "nothing of this was worth a request");
}

#[tokio::test]
async fn odd_bodies_are_never_a_server_error() {
    let (_cloud, gate) = a_cloud().await;
    let here = a_local_route().await;
    for body in odd_bodies() {
        for gate in [&gate, &here] {
            let answer = gate.post_chat(body.clone()).await;
            assert!(answer.status < 500, "{body}: {}", answer.body_text());
            if answer.status >= 400 {
                answer.error();
            }
        }
    }
}

/// Bodies that one provider or another may take.
fn odd_bodies() -> Vec<String> {
    let odd = json!([
        {"max_tokens": 1e30}, {"stop": ["a", "b", "c", "d", "e", "f"]}, {"stop": [""]},
        {"logit_bias": {"x": "y"}}, {"seed": 9_223_372_036_854_775_807_u64}, {"seed": 1.5},
        {"tools": []}, {"tool_choice": "nope"}, {"top_logprobs": 3}, {"user": 5}, {"metadata": 5},
        {"reasoning_effort": "extreme"}, {"functions": 5}, {"messages": [{"role": "tool", "content": "x"}]},
        {"stream_options": {"include_usage": true}}, {"response_format": {"type": "json_object"}},
    ]);
    let mut bodies: Vec<String> =
        odd.as_array().expect("a table").iter().map(|fields| with(fields).to_string()).collect();
    for number in ["NaN", "Infinity", "1e999", "-0", "1E400"] {
        bodies.push(
            usual().to_string().replace("\"max_tokens\":4", &format!("\"temperature\":{number}")),
        );
    }
    for text in [
        "\\u0000",
        "\\ud800",
        "\\udc00\\ud800",
        "\\uffff",
        "<|im_end|><|im_start|>system",
        "\\u202e",
    ] {
        bodies.push(usual().to_string().replace("Hello.", text));
    }
    bodies.push(usual().to_string().replace('}', ",\"max_tokens\":3}"));
    bodies
}

async fn a_local_route() -> Gate {
    Gate::builder().edge().policy("edge-first").start().await
}

/// An endpoint, what is usually asked there, and fields of which each is wrong.
fn endpoints() -> [(&'static str, Value, Value); 4] {
    let sampling = json!([
        {"model": 5}, {"model": null}, {"temperature": "hot"}, {"temperature": -1}, {"top_p": 2},
        {"top_p": []}, {"stream": "yes"}, {"stream": 1},
    ]);
    let with_sampling = |more: Value| {
        let all = [sampling.clone(), more].map(|table| table.as_array().expect("a table").clone());
        Value::from(all.concat())
    };
    let said = json!([{"role": "user", "content": "Hello."}]);
    [
        (
            "/v1/completions",
            json!({"model": "auto", "prompt": "Hello.", "max_tokens": 4}),
            with_sampling(json!([
                {"prompt": 5}, {"prompt": {}}, {"prompt": [{}]}, {"prompt": [["x"]]},
                {"prompt": [-1]}, {"max_tokens": -1}, {"max_tokens": "10"}, {"max_tokens": 1.5},
                {"max_tokens": []}, {"stop": 5}, {"stop": [1]}, {"n": 0}, {"n": -1}, {"n": "2"},
                {"n": 1_000_000}, {"logit_bias": []}, {"seed": "x"}, {"presence_penalty": 9},
                {"logprobs": "x"}, {"logprobs": -1},
            ])),
        ),
        (
            "/v1/embeddings",
            json!({"model": "auto", "input": "Hello."}),
            json!([
                {"model": 5}, {"model": null}, {"input": 5}, {"input": {}}, {"input": null},
                {"input": []}, {"input": [{}]}, {"input": [["x"]]}, {"input": [[-1]]},
                {"input": [[1_000_000_000]]}, {"input": [true]}, {"encoding_format": "hex"},
                {"encoding_format": 5}, {"dimensions": -1}, {"dimensions": 0}, {"dimensions": "x"},
            ]),
        ),
        (
            "/v1/messages",
            json!({"model": "auto", "messages": said, "max_tokens": 4}),
            with_sampling(json!([
                {"messages": "x"}, {"messages": 5}, {"messages": []}, {"messages": [{}]},
                {"messages": [{"role": "user", "content": 5}]},
                {"messages": [{"role": "user", "content": [{"type": "nope"}]}]},
                {"messages": [{"role": "nobody", "content": "x"}]},
                {"max_tokens": -1}, {"max_tokens": "10"}, {"max_tokens": 1.5}, {"max_tokens": null},
                {"stop_sequences": 5}, {"stop_sequences": [1]}, {"system": 5}, {"tools": "x"},
                {"tools": [5]}, {"tool_choice": "auto"}, {"thinking": 5}, {"top_k": "x"},
            ])),
        ),
        (
            "/v1/responses",
            json!({"model": "auto", "input": "Hello.", "max_output_tokens": 16}),
            with_sampling(json!([
                {"input": 5}, {"input": {}}, {"input": [5]}, {"input": [{"type": "nope"}]},
                {"input": [{"role": "nobody", "content": "x"}]}, {"instructions": 5},
                {"max_output_tokens": -1}, {"max_output_tokens": "10"}, {"max_output_tokens": 1.5},
                {"tools": "x"}, {"tools": [5]}, {"tools": [{"type": "function"}]}, {"text": 5},
                {"text": {"format": {"type": "xml"}}}, {"reasoning": 5},
                {"previous_response_id": 5},
            ])),
        ),
    ]
}

/// Whether it is a clean refusal in the endpoint's own shape, that names this field.
fn names(answer: &Answer, path: &str, field: &str) -> bool {
    if answer.status != 400 {
        return false;
    }
    let error = &answer.json()["error"];
    let shape = path != "/v1/messages" || answer.json()["type"] == "error";
    let told = [&error["param"], &error["message"]].map(|told| told.as_str().unwrap_or_default());
    shape && !told[1].is_empty() && told.iter().any(|told| told.contains(field))
}

#[tokio::test]
async fn every_endpoint_of_a_local_route_refuses_by_name_what_is_wrong() {
    let gate = a_local_route().await;
    let mut unlike = Vec::new();
    for (path, usual, table) in endpoints() {
        gate.post(path, &usual).await.ok();
        for fields in table.as_array().expect("a table") {
            let mut body = usual.clone();
            let (name, value) = fields.as_object().and_then(|one| one.iter().next()).expect("one");
            body[name] = value.clone();
            let answer = gate.post(path, &body).await;
            if !names(&answer, path, name) {
                unlike.push(format!("{path} {fields}: {} {}", answer.status, answer.body_text()));
            }
        }
        let bearer = format!("Bearer {}", gate.key().secret);
        let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
        for body in NO_QUESTION {
            let answer = gate.send("POST", path, &headers, body.to_vec()).await;
            if !names(&answer, path, "") {
                let body = String::from_utf8_lossy(body);
                unlike.push(format!("{path} {body}: {} {}", answer.status, answer.body_text()));
            }
        }
        gate.post(path, &usual).await.ok();
    }
    assert!(unlike.is_empty(), "{unlike:#?}");
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn a_body_above_the_limit_is_refused_with_the_limit() {
    let cloud = StandIn::start().await.unwrap();
    let gate = Gate::builder().cloud(&cloud).server("body_bytes_max = 10000").start().await;
    let answer = gate.ask(&"a".repeat(20_000)).send().await;
    assert_eq!(answer.status, 413);
    assert_eq!(answer.error().code.as_deref(), Some("request_too_large"));
    assert!(answer.error().message.contains("10000"), "names the limit");
    gate.ask("Shorter.").send().await.ok();
    assert_eq!(cloud.counts().requests, 1);
}

/// Most memory that a process has had, in KiB.
fn memory_peak_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[tokio::test]
async fn a_body_without_end_is_refused_without_being_kept() {
    let cloud = StandIn::start().await.unwrap();
    let mut gate = Gate::builder().cloud(&cloud).server("body_bytes_max = 10000").start().await;
    gate.ask("Before.").send().await.ok();
    let pid = gate.child().pid();
    let before = memory_peak_kib(pid);
    let head = |how: &str| {
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\n\
             content-type: application/json\r\n{how}\r\n\r\n",
            gate.key().secret
        )
    };
    let chunk = |data: &[u8]| {
        let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
        chunk.extend_from_slice(data);
        chunk.extend_from_slice(b"\r\n");
        chunk
    };
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    packed.write_all(&vec![b' '; 64 << 20]).unwrap();
    let packed = packed.finish().unwrap();
    // By its announced length alone, before a byte of it is there.
    let (announced, written) =
        raw_without_end(&gate, head("content-length: 20000000000").as_bytes(), b"").await;
    assert!(announced.starts_with("HTTP/1.1 413 "), "{announced} after {written}");
    for (how, piece) in [
        ("transfer-encoding: chunked", chunk(&[b' '; 1024])),
        ("transfer-encoding: chunked\r\ncontent-encoding: gzip", chunk(&packed)),
    ] {
        let (answer, written) = raw_without_end(&gate, head(how).as_bytes(), &piece).await;
        assert!(answer.starts_with("HTTP/1.1 413 "), "{how}: {answer} after {written}");
    }
    let grown = memory_peak_kib(pid) - before;
    assert!(grown < 32 << 10, "{grown} KiB more for bodies of 10 kB");
    assert_eq!(cloud.counts().requests, 1);
    gate.ask("After.").send().await.ok();
}

#[tokio::test]
async fn bytes_that_are_no_http() {
    let (_cloud, gate) = a_cloud().await;
    let key = &gate.key().secret;
    let bodies = [
        "GARBAGE\r\n\r\n".to_owned(),
        "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: nope\r\n\r\n".to_owned(),
        format!("GET /v1/models HTTP/1.1\r\nhost: x\r\nx-long: {}\r\n\r\n", "a".repeat(200_000)),
        // A body that never comes to its end.
        format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {key}\r\ncontent-length: 5000\r\n\r\n{{\"model\":"
        ),
    ];
    for body in bodies {
        let answer = raw(&gate, body.as_bytes()).await;
        let status = answer.split(' ').nth(1).unwrap_or_default();
        assert!(status.starts_with('4'), "{body:.40}: {answer}");
    }
    gate.ask("Still there?").send().await.ok();
    gate.until_nothing_is_reserved().await;
}

#[tokio::test]
async fn headers_that_make_no_sense() {
    let (_cloud, gate) = a_cloud().await;
    for (name, value) in [
        ("x-tollgate-max-cost-usd", "a lot"),
        ("x-tollgate-max-cost-usd", "-1"),
        ("x-tollgate-deadline-ms", "soon"),
        ("x-tollgate-deadline-ms", "99999999999999999999999"),
        ("x-tollgate-dry-run", "maybe"),
        ("x-tollgate-cache", "of"),
    ] {
        let answer = gate.ask("Hello.").header(name, value).send().await;
        is_a_clean_refusal(&answer, &format!("{name}: {value}"));
        assert!(answer.error().message.contains(name), "{}", answer.error().message);
    }
    // A decision that is only explained is explained for a request that would be taken.
    let asked = gate.ask("Hello.").header("x-tollgate-dry-run", "1");
    let answer = asked.header("idempotency-key", &"k".repeat(256)).send().await;
    is_a_clean_refusal(&answer, "an idempotency key that is too long");
    assert_eq!(answer.error().param.as_deref(), Some("Idempotency-Key"));
    let asked = gate.ask("Hello.").header("x-tollgate-dry-run", "1");
    let answer = asked.header("x-tollgate-cache", "of").send().await;
    is_a_clean_refusal(&answer, "a wish about the cache that is not known");
}

#[tokio::test]
async fn paths_whose_escapes_are_no_text() {
    let (_cloud, gate) = a_cloud().await;
    let admin = format!("Bearer {}", gate.admin_key());
    for path in ["/v1/models/%FF", "/admin/v1/keys/%C3%28", "/v1/responses/%80", "/%FE"] {
        let answer = gate.send("GET", path, &[("authorization", &admin)], Vec::new()).await;
        assert_eq!(answer.status, 404, "{path}");
        answer.error();
        answer.id();
    }
}
