//! What a request's prompts are made of: its texts, and the words that a template reads.

use super::{Fault, unfit};
use crate::{
    ledger::Endpoint,
    makers::Wanted,
    wire::{BadRequest, ChatRequest, Prompt},
};
use local_engine::{Engine, PromptError};

/// Bodies up to this size are tokenised on the request's own thread (mostly well under a
/// millisecond); longer ones on a blocking thread, so that they do not hold up others.
const TOKENIZE_INLINE_BYTES_MAX: usize = 4 * 1024;

/// What the model's template reads of what is said to it. What it does not read is refused, but for
/// `verbosity`, which is a wish, and the thinking that `/v1/messages` allows: that is a most, which a
/// model that does not think keeps.
pub(super) fn words(
    engine: &Engine,
    endpoint: Endpoint,
    said: Vec<(&'static str, String)>,
) -> Result<Vec<(&'static str, String)>, Fault> {
    let (read, unread): (Vec<_>, Vec<_>) =
        said.into_iter().partition(|(word, _)| engine.template_reads(word));
    match unread.iter().find(|(word, _)| *word != "verbosity") {
        Some((word, _)) if endpoint != Endpoint::Messages => {
            let message = format!("the local model's chat template does not read `{word}`");
            Err(unfit(BadRequest::unsupported(word, message)))
        }
        _ => Ok(read),
    }
}

/// Whether its prompts may be tokenised on the request's own thread.
pub(super) fn is_little(request: &ChatRequest) -> bool {
    request.body.len() <= TOKENIZE_INLINE_BYTES_MAX
}

/// The tokens of several texts.
pub(super) fn all_tokens(
    engine: &Engine,
    param: &'static str,
    prompts: Vec<Prompt>,
    tokenize: fn(&Engine, &str) -> Result<Vec<i32>, PromptError>,
    wanted: &Wanted,
) -> Result<Vec<Vec<i32>>, Fault> {
    let each = |prompt| {
        if wanted.is_so() {
            return tokens(engine, param, prompt, tokenize);
        }
        Err(prompt_fault(param, &PromptError::GivenUp))
    };
    prompts.into_iter().map(each).collect()
}

/// A text's tokens: its own, or those the caller wrote.
fn tokens(
    engine: &Engine,
    param: &'static str,
    prompt: Prompt,
    tokenize: fn(&Engine, &str) -> Result<Vec<i32>, PromptError>,
) -> Result<Vec<i32>, Fault> {
    match prompt {
        Prompt::Text(text) => tokenize(engine, &text).map_err(|error| prompt_fault(param, &error)),
        Prompt::Tokens(ids) => {
            let known = |id: u32| i32::try_from(id).ok().filter(|_| id < engine.info().vocabulary);
            ids.into_iter().map(known).collect::<Option<Vec<_>>>().ok_or_else(|| {
                let message = format!("`{param}` has a token id that this model does not know");
                unfit(BadRequest::value(param, message))
            })
        }
    }
}

/// Why there is no prompt, in the caller's terms.
pub(super) fn prompt_fault(param: &'static str, error: &PromptError) -> Fault {
    let (code, message) = match error {
        PromptError::TooLong { bytes, context_tokens } => (
            "context_length_exceeded",
            format!(
                "this model's maximum context length is {context_tokens} tokens and the prompt's \
                 {bytes} bytes are more, whatever its tokens"
            ),
        ),
        other => ("invalid_value", other.to_string()),
    };
    unfit(BadRequest { param: Some(param.to_owned()), message, code })
}
