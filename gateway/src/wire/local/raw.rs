//! What is asked of the model in this process without a conversation: texts to continue as they
//! stand, and texts to embed.

use super::super::{
    BadRequest, ChatRequest, CompletionAsk, EmbeddingAsk, Prompt, ask, check, fields::Field,
};
use super::{
    UNSERVED_TEXTS, UNSERVED_VECTORS, cannot, ignore_end, refuse_fields, refuse_unserved, rules,
    sampling, stop,
};
use local_engine::{Pooling, Rule, Sampling};

/// Texts to continue, in the engine's words.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalCompletion {
    /// The texts, each answered [`LocalCompletion::choices`] times.
    pub prompts: Vec<Prompt>,
    /// How tokens are drawn.
    pub sampling: Sampling,
    /// Whether the model may not end by itself.
    pub ignore_end: bool,
    /// Texts that end an answer, each non-empty.
    pub stop: Vec<String>,
    /// How many alternatives are wanted for each token, where log probabilities are.
    pub logprobs: Option<u32>,
    /// Choices of each text, at least 1.
    pub choices: u32,
    /// What an answer must match, and the parameter that says so.
    pub rule: Option<(&'static str, Rule)>,
}

/// Turns a completion request into the engine's words.
///
/// # Errors
/// [`BadRequest`] naming the parameter that the engine cannot serve.
pub fn local_completion(
    request: &ChatRequest,
    asked: &CompletionAsk,
) -> Result<LocalCompletion, BadRequest> {
    refuse_fields(request)?;
    refuse_unserved(request, UNSERVED_TEXTS)?;
    let prompts = ask::prompts(request)?;
    if asked.echo && asked.logprobs.is_some() {
        return Err(cannot("logprobs", "`logprobs` of an echoed prompt"));
    }
    if asked.echo && prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(_))) {
        return Err(cannot("echo", "`echo` of token ids"));
    }
    for field in [Field::Tools, Field::Functions] {
        if request.given(field).is_some_and(|raw| raw != "[]") {
            return Err(cannot(field.name(), "tools outside a conversation"));
        }
    }
    Ok(LocalCompletion {
        sampling: sampling::read(request)?,
        ignore_end: ignore_end(request)?,
        stop: stop(request)?,
        logprobs: asked.logprobs,
        choices: request.choices / asked.prompts.max(1),
        rule: rules::read(request)?,
        prompts,
    })
}

/// Texts to embed, in the engine's words.
#[derive(Clone, Debug, PartialEq)]
pub struct LocalEmbedding {
    /// The texts.
    pub texts: Vec<Prompt>,
    /// How their tokens' vectors become one; `None` is the engine's own way.
    pub pooling: Option<Pooling>,
}

/// Turns an embedding request into the engine's words.
///
/// # Errors
/// [`BadRequest`] naming the parameter that the engine cannot serve.
pub fn local_embedding(
    request: &ChatRequest,
    asked: &EmbeddingAsk,
) -> Result<LocalEmbedding, BadRequest> {
    refuse_unserved(request, UNSERVED_VECTORS)?;
    if asked.dimensions.is_some() {
        let message = "the local model's vectors have one length: it was not trained to be cut";
        return Err(BadRequest::unsupported("dimensions", message));
    }
    Ok(LocalEmbedding { texts: ask::prompts(request)?, pooling: pooling(request)? })
}

/// By the names of the route's configuration, or by those of other servers.
fn pooling(request: &ChatRequest) -> Result<Option<Pooling>, BadRequest> {
    let Some(raw) = request.given(Field::Pooling) else { return Ok(None) };
    match check::string("pooling", raw)?.to_ascii_lowercase().as_str() {
        "mean" => Ok(Some(Pooling::Mean)),
        "first" | "cls" => Ok(Some(Pooling::First)),
        "last" => Ok(Some(Pooling::Last)),
        _ => Err(cannot("pooling", "another `pooling` than mean, first (cls) or last")),
    }
}
