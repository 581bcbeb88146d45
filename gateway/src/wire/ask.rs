//! What a request asks for: a conversation continued, a text continued, or vectors.

use super::{
    BadRequest, ChatRequest, check,
    fields::Field,
    json::{self, Kind},
};

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ask {
    /// The next message of a conversation; the body is a chat request in OpenAI's format.
    Chat,
    /// Texts continued as they stand, without a template; the body is a request in the format of
    /// OpenAI's `/v1/completions`.
    Completion(CompletionAsk),
    /// Vectors; the body is a request in the format of OpenAI's `/v1/embeddings`.
    Embedding(EmbeddingAsk),
}

/// How texts are continued. The texts themselves stay in the body: [`prompts`] reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompletionAsk {
    /// Texts to continue, at least 1. Choices are numbered text by text: those of text `t` are
    /// `t * n` to `t * n + n - 1`.
    pub prompts: u32,
    /// Whether an answer begins with its prompt.
    pub echo: bool,
    /// Likeliest tokens to be shown with each, where they were asked for (0: only the chosen one).
    pub logprobs: Option<u32>,
}

/// Which vectors are wanted. The texts stay in the body: [`prompts`] reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmbeddingAsk {
    /// Texts, at least 1; each makes one vector.
    pub inputs: u32,
    /// Whether vectors are written in base64 and not as numbers.
    pub base64: bool,
    /// Length of the vectors, where the client wants another than the model's own.
    pub dimensions: Option<u32>,
}

/// One text of a completion or embedding request.
#[derive(Clone, PartialEq, Eq)]
pub enum Prompt {
    /// As text.
    Text(String),
    /// As token ids of the model's own vocabulary.
    Tokens(Vec<u32>),
}

/// The texts of a completion or embedding request, in order; none of a conversation.
///
/// # Errors
/// [`BadRequest`] naming the parameter. A request that has been read has none.
pub fn prompts(request: &ChatRequest) -> Result<Vec<Prompt>, BadRequest> {
    let field = match request.ask {
        Ask::Chat => return Ok(Vec::new()),
        Ask::Completion(_) => Field::Prompt,
        Ask::Embedding(_) => Field::Input,
    };
    let raw = request.given(field).ok_or_else(|| BadRequest::missing(field.name()))?;
    let mut prompts = Vec::new();
    each(field.name(), raw, |text| {
        prompts.push(match text {
            Raw::Text(at, raw) => Prompt::Text(check::string(at, raw)?.into_owned()),
            Raw::Tokens(raw) => {
                let mut tokens = Vec::new();
                json::elements(raw, |_, token| {
                    tokens.push(serde_json::from_str::<u32>(token)?);
                    Ok::<_, BadRequest>(())
                })?;
                Prompt::Tokens(tokens)
            }
        });
        Ok(())
    })?;
    Ok(prompts)
}

/// One text as it is written.
pub(super) enum Raw<'a> {
    /// The parameter's name and a JSON string.
    Text(&'a str, &'a str),
    /// A list of integers.
    Tokens(&'a str),
}

/// Calls `take` with each text of `raw`: a string, a list of strings, a list of token ids, or a list
/// of such lists.
pub(super) fn each<'a>(
    param: &'a str,
    raw: &'a str,
    mut take: impl FnMut(Raw<'a>) -> Result<(), BadRequest>,
) -> Result<(), BadRequest> {
    let wrong = || {
        BadRequest::kind(param, "a string, a list of strings, or token ids in one or more lists")
    };
    match json::kind(raw) {
        Kind::String => return take(Raw::Text(param, raw)),
        Kind::Array => {}
        _ => return Err(wrong()),
    }
    let mut one_list = false;
    let mut texts = 0_u32;
    json::elements(raw, |index, element| {
        let kind = json::kind(element);
        match kind {
            Kind::Number if index == 0 || one_list => {
                one_list = true;
                token(param, element)
            }
            Kind::String if !one_list => {
                texts += 1;
                take(Raw::Text(param, element))
            }
            Kind::Array if !one_list => {
                texts += 1;
                tokens(param, element)?;
                take(Raw::Tokens(element))
            }
            _ => Err(wrong()),
        }
    })?;
    if one_list {
        return take(Raw::Tokens(raw));
    }
    if texts == 0 {
        return Err(BadRequest::value(param, format!("`{param}` must not be an empty list")));
    }
    Ok(())
}

fn tokens(param: &str, raw: &str) -> Result<(), BadRequest> {
    let mut any = false;
    json::elements(raw, |_, element| {
        any = true;
        token(param, element)
    })?;
    if any {
        return Ok(());
    }
    Err(BadRequest::value(param, format!("`{param}` has an empty list of token ids")))
}

fn token(param: &str, raw: &str) -> Result<(), BadRequest> {
    check::integer(param, raw, 0, i64::from(i32::MAX)).map(|_| ())
}

/// Without the text: a prompt must not reach a log.
impl std::fmt::Debug for Prompt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Tokens(tokens) => write!(f, "Tokens({})", tokens.len()),
        }
    }
}
