//! What is tried, and what must hold whatever the bytes are. Panics and aborts are findings of
//! themselves.

use local_engine::{
    ConstraintError, Engine, EngineConfig, Message, PromptError, Role, Rule, fuzzing, gguf,
};
use std::{io::Cursor, path::PathBuf};

/// Tries one input, and tells whether it was taken or refused; an error says what did not hold.
pub(crate) type Target = Box<dyn FnMut(&[u8]) -> Result<bool, String>>;

/// Gets a target ready.
pub(crate) type Make = fn() -> Result<Target, String>;

/// Every target by name.
pub(crate) const TARGETS: &[(&str, Make)] =
    &[("gguf", header), ("text", text), ("chat", chat), ("schema", schema), ("grammar", grammar)];

/// Tokens of an answer that is drawn under a rule.
const ANSWER_TOKENS: usize = 96;

/// A model file's header: refused or sound, in bounded time.
fn header() -> Result<Target, String> {
    Ok(Box::new(|bytes| {
        let length = u64::try_from(bytes.len()).map_err(|e| e.to_string())?;
        match gguf::check(Cursor::new(bytes), length) {
            Ok(header) if header.tensor_bytes > length => {
                Err("tensors larger than the file passed".to_owned())
            }
            checked => Ok(checked.is_ok()),
        }
    }))
}

/// Token pieces and stop texts, parted by zeros: no stop text is ever shown, whole or in part where
/// it was met, and what is shown is the beginning of the whole.
fn text() -> Result<Target, String> {
    Ok(Box::new(|bytes| {
        let mut parts = bytes.split(|byte| *byte == 0);
        let stops = parts.next().unwrap_or_default().split(|byte| *byte == b'|');
        let stops: Vec<String> = stops
            .map(|stop| String::from_utf8_lossy(stop).into_owned())
            .filter(|stop| !stop.is_empty())
            .take(64)
            .collect();
        let pieces: Vec<&[u8]> = parts.collect();
        let (shown, stopped) = fuzzing::shown(&stops, &pieces);
        let whole = pieces.concat();
        if let Some(stop) = stops.iter().find(|stop| shown.contains(stop.as_str())) {
            return Err(format!("the stop text {stop:?} was shown"));
        }
        let whole = String::from_utf8_lossy(&whole);
        if !whole.starts_with(shown.as_str()) {
            return Err("what was shown is not the beginning of the whole".to_owned());
        }
        if !stopped && stops.is_empty() && whole.len() > shown.len() + 3 {
            return Err("text was lost".to_owned());
        }
        Ok(true)
    }))
}

/// A JSON schema: refused, or an answer drawn under it that ends by itself is JSON.
fn schema() -> Result<Target, String> {
    let engine = model()?;
    Ok(Box::new(move |bytes| {
        let rule = Rule::JsonSchema(String::from_utf8_lossy(bytes).into_owned());
        match answered(&engine, &rule, bytes)? {
            Drawn::Whole(text) if serde_json::from_str::<serde_json::Value>(&text).is_err() => {
                Err(format!("the answer is no JSON: {text:?}"))
            }
            drawn => Ok(drawn != Drawn::Refused),
        }
    }))
}

/// A grammar in GBNF: refused, or an answer can be drawn under it.
fn grammar() -> Result<Target, String> {
    let engine = model()?;
    Ok(Box::new(move |bytes| {
        let rule = Rule::Gbnf(String::from_utf8_lossy(bytes).into_owned());
        answered(&engine, &rule, bytes).map(|drawn| drawn != Drawn::Refused)
    }))
}

/// What came of an answer under a rule.
#[derive(PartialEq, Eq)]
enum Drawn {
    /// The rule was refused.
    Refused,
    /// It was longer than is drawn.
    Part,
    /// It ended by itself.
    Whole(String),
}

/// Draws an answer under a rule, each token by one of the bytes.
fn answered(engine: &Engine, rule: &Rule, bytes: &[u8]) -> Result<Drawn, String> {
    let mut constraint = match engine.constrain(rule) {
        Ok(constraint) => constraint,
        Err(ConstraintError::Refused(reason)) if reason.is_empty() => {
            return Err("refused without a reason".to_owned());
        }
        Err(_) => return Ok(Drawn::Refused),
    };
    let picks: Vec<u8> = bytes.iter().copied().cycle().take(ANSWER_TOKENS).collect();
    let text = fuzzing::walk(engine, &mut constraint, &picks)?;
    Ok(text.map_or(Drawn::Part, Drawn::Whole))
}

/// Messages parted by zeros, the first byte of each saying who speaks: tokens of the vocabulary, or
/// a refusal.
fn chat() -> Result<Target, String> {
    let engine = model()?;
    Ok(Box::new(move |bytes| {
        let messages: Vec<Message> = bytes.split(|byte| *byte == 0).take(64).map(message).collect();
        match engine.tokenize_chat(&messages) {
            Ok(tokens) => {
                let known =
                    |id: &i32| u32::try_from(*id).is_ok_and(|id| id < engine.info().vocabulary);
                let sound = !tokens.is_empty() && tokens.iter().all(known);
                if sound { Ok(true) } else { Err("tokens outside the vocabulary".to_owned()) }
            }
            Err(
                PromptError::Refused(_) | PromptError::ToolCalls(_) | PromptError::TooLong { .. },
            ) => Ok(false),
            Err(other) => Err(other.to_string()),
        }
    }))
}

fn model() -> Result<Engine, String> {
    let file = std::env::var_os("TOLLGATE_MODEL")
        .map_or_else(|| PathBuf::from("models/SmolLM2-135M-Instruct-Q4_1.gguf"), PathBuf::from);
    let mut config = EngineConfig::new(file);
    (config.context_tokens, config.slots) = (256, 1);
    Engine::load(&config).map_err(|e| e.to_string())
}

fn message(bytes: &[u8]) -> Message {
    let (role, content) = match bytes.split_first() {
        Some((b's', rest)) => (Role::System, rest),
        Some((b'a', rest)) => (Role::Assistant, rest),
        Some((b't', rest)) => (Role::Tool, rest),
        Some((_, rest)) => (Role::User, rest),
        None => (Role::User, bytes),
    };
    let content = String::from_utf8_lossy(content).into_owned();
    let calls = (role == Role::Assistant && content.starts_with('[')).then(|| content.clone());
    Message { role, content, name: None, tool_calls_json: calls, tool_call_id: None }
}
