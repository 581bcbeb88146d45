//! The stand-in cloud keeps its own promises: a test that relies on a fault can rely on it.

use e2e::standin::{Cut, Fault, Point, Reported, Script, StandIn};
use serde_json::{Value, json};

async fn post(cloud: &StandIn, body: Value) -> reqwest::Result<(u16, String)> {
    drop(rustls::crypto::ring::default_provider().install_default());
    let client = reqwest::Client::builder().no_proxy().build()?;
    let url = format!("{}/chat/completions", cloud.base_url());
    let answer = client.post(url).body(body.to_string()).send().await?;
    Ok((answer.status().as_u16(), answer.text().await?))
}

#[tokio::test]
async fn a_stream_is_text_then_finish_then_usage_then_done() {
    let cloud = StandIn::start().await.unwrap();
    cloud.next(Script::says("one two three").using(7, 3));
    let body = json!({"model": "m", "stream": true, "stream_options": {"include_usage": true}});
    let (status, text) = post(&cloud, body).await.unwrap();
    assert_eq!(status, 200);
    let events: Vec<_> = text.split_terminator("\n\n").collect();
    assert_eq!(events.len(), 1 + 3 + 1 + 1 + 1, "{text}");
    assert!(events[4].contains("\"finish_reason\":\"stop\""));
    assert!(events[5].contains("\"prompt_tokens\":7"));
    assert_eq!(events[6], "data: [DONE]");
}

#[tokio::test]
async fn usage_comes_in_a_stream_only_if_asked_for() {
    let cloud = StandIn::start().await.unwrap();
    let (_, text) = post(&cloud, json!({"model": "m", "stream": true})).await.unwrap();
    assert!(!text.contains("usage"), "{text}");
    cloud.next(Script::default().reporting(Reported::Twice));
    let (_, text) = post(&cloud, json!({"model": "m", "stream": true})).await.unwrap();
    assert_eq!(text.matches("prompt_tokens\"").count(), 2, "{text}");
}

#[tokio::test]
async fn the_requests_cap_ends_the_answer() {
    let cloud = StandIn::start().await.unwrap();
    cloud.always(Script::says("one two three four"));
    for field in ["max_tokens", "max_completion_tokens"] {
        let (_, text) = post(&cloud, json!({"model": "m", field: 2})).await.unwrap();
        let answer: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(answer["choices"][0]["message"]["content"], "one two ");
        assert_eq!(answer["choices"][0]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn a_cut_answer_never_ends_well() {
    let cloud = StandIn::start().await.unwrap();
    for cut in [
        Cut::Reset(Point::Head),
        Cut::Reset(Point::Piece(1)),
        Cut::Close(Point::Head),
        Cut::Close(Point::Piece(1)),
    ] {
        for stream in [true, false] {
            cloud.next(Script::default().cut(cut));
            let answer = post(&cloud, json!({"model": "m", "stream": stream})).await;
            assert!(answer.is_err(), "{cut:?}: {answer:?}");
        }
    }
    assert_eq!(cloud.counts().cut, 8);
    assert_eq!(cloud.counts().answered, 0);
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let cloud = StandIn::start().await.unwrap();
    cloud.next(Script::default().with(Fault::HangMidStream));
    {
        let asked = post(&cloud, json!({"model": "m", "stream": true}));
        let seen = cloud.until(|counts| counts.requests == 1);
        tokio::select! {
            answer = asked => panic!("an answer out of a hang: {answer:?}"),
            counts = seen => assert_eq!(counts.unwrap().left, 0),
        }
    }
    assert_eq!(cloud.until(|counts| counts.left == 1).await.unwrap().answered, 0);
}

#[tokio::test]
async fn split_bytes_join_to_the_same_text() {
    let cloud = StandIn::start().await.unwrap();
    let text = "naïve 日本語 🙂 ";
    cloud.next(Script::says(text).with(Fault::Split));
    let (_, seen) = post(&cloud, json!({"model": "m", "stream": true})).await.unwrap();
    assert!(seen.contains("日本語"), "{seen}");
}

#[test]
fn every_fault_has_a_name_of_its_own() {
    for fault in Fault::ALL {
        assert_eq!(fault.name().parse(), Ok(*fault));
    }
}
