//! The outer format of an answer: what a client is written in, chosen by the endpoint it asked.
//!
//! **Invariant:** a provider's bytes pass through where the client speaks the provider's format;
//! everything else goes through deltas, whatever the route.

use super::{
    Ask, ChatRequest, Delta, Gathered, Pieces,
    anthropic::Messages,
    chat::{self, AnswerHead, Chunks, Cost},
    completions::Completion,
    embeddings,
    responses::{Responses, ResponsesAsk},
    sse,
};
use crate::{ledger::Endpoint, refusal::Refusal};
use bytes::Bytes;
use policies::{ServiceTier, Usage};

/// Writes one answer in its client's format.
#[derive(Debug)]
pub enum Outer {
    /// `/v1/chat/completions`.
    Chat(Box<Chat>),
    /// `/v1/completions`.
    Completion(Box<Completion>),
    /// `/v1/messages`.
    Messages(Box<Messages>),
    /// `/v1/responses`.
    Responses(Box<Responses>),
    /// `/v1/embeddings`: never streamed.
    Embedding {
        /// The model that answers.
        model: String,
        /// Whether vectors are written in base64.
        base64: bool,
    },
}

/// A chat answer.
#[derive(Debug)]
pub struct Chat {
    head: AnswerHead,
    include_usage: bool,
    /// Made with the first delta: a provider's stream passes by without it.
    chunks: Option<Chunks>,
}

// === impl Outer ===

impl Outer {
    /// A writer for the answer to `request`, whose prompt has about so many tokens.
    #[must_use]
    pub fn new(head: AnswerHead, request: &ChatRequest, prompt_tokens: u64) -> Self {
        match &request.ask {
            Ask::Chat if request.endpoint == Endpoint::Messages => {
                Self::Messages(Box::new(Messages::new(head, prompt_tokens)))
            }
            Ask::Chat if let Some(ask) = &request.responses => {
                Self::Responses(Box::new(Responses::new(head, ResponsesAsk::clone(ask))))
            }
            Ask::Chat => Self::Chat(Box::new(Chat {
                head,
                include_usage: request.include_usage,
                chunks: None,
            })),
            Ask::Completion(_) => Self::Completion(Box::new(Completion::new(&head, request))),
            Ask::Embedding(ask) => Self::Embedding { model: head.model, base64: ask.base64 },
        }
    }

    /// Whether bytes in OpenAI's format are the client's own format.
    #[must_use]
    pub fn passes(&self) -> bool {
        !matches!(self, Self::Messages(_) | Self::Responses(_))
    }

    /// An event of a stream as a provider wrote it that speaks the client's own format.
    pub fn own(&mut self, data: &[u8]) -> Bytes {
        match self {
            Self::Messages(messages) => messages.own(data),
            _ => sse::event(data),
        }
    }

    /// Writes a piece of a streamed answer.
    pub fn delta(&mut self, delta: &Delta, out: &mut impl FnMut(Bytes)) {
        match self {
            Self::Chat(chat) => chat.chunks().delta(delta, out),
            Self::Completion(completion) => completion.delta(delta, out),
            Self::Messages(messages) => messages.delta(delta, out),
            Self::Responses(responses) => responses.delta(delta, out),
            Self::Embedding { .. } => {}
        }
    }

    /// Writes the usage of a streamed answer, where the client asked for it.
    pub fn usage(&mut self, usage: &Usage, cost: Option<&Cost>, out: &mut impl FnMut(Bytes)) {
        match self {
            Self::Chat(chat) if chat.include_usage => out(chat.chunks().usage(usage, cost)),
            Self::Completion(completion) if completion.include_usage() => {
                out(completion.usage(usage, cost));
            }
            _ => {}
        }
    }

    /// Writes the usage behind the chunks of a provider that told none, where the client asked for it:
    /// under the `id` of those chunks.
    pub fn belated_usage(
        &mut self,
        id: Option<&str>,
        usage: &Usage,
        cost: Option<&Cost>,
        out: &mut impl FnMut(Bytes),
    ) {
        match (&mut *self, id) {
            (Self::Chat(chat), Some(id)) if chat.chunks.is_none() => {
                id.clone_into(&mut chat.head.id);
            }
            (Self::Completion(completion), Some(id)) => completion.rename(id),
            _ => {}
        }
        self.usage(usage, cost, out);
    }

    /// Notes the service tier that served the answer, before its end is written.
    pub fn served(&mut self, service: ServiceTier) {
        if let Self::Responses(responses) = self {
            responses.served(service);
        }
    }

    /// What ends a whole stream.
    pub fn end(&mut self, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        match self {
            Self::Messages(messages) => messages.end(usage, cost),
            Self::Responses(responses) => responses.end(usage, cost),
            Self::Chat(_) | Self::Completion(_) | Self::Embedding { .. } => {
                Bytes::from_static(sse::DONE)
            }
        }
    }

    /// What a stream that broke ends with.
    pub fn broken(&mut self, refusal: &Refusal) -> Bytes {
        match self {
            Self::Messages(messages) => messages.broken(refusal),
            Self::Responses(responses) => responses.broken(refusal),
            Self::Chat(_) | Self::Completion(_) | Self::Embedding { .. } => {
                sse::event(refusal.to_json().as_bytes())
            }
        }
    }

    /// Whether all that is long in a whole answer is the same for all who share it ([`Self::content`]). A
    /// response has its own id in every item of its output, and is kept by it.
    #[must_use]
    pub fn has_content(&self) -> bool {
        !matches!(self, Self::Responses(_))
    }

    /// What is the same in the whole answers of all who share this one; nothing where there is no such.
    #[must_use]
    pub fn content(self, answer: &Gathered) -> Bytes {
        match self {
            Self::Chat(_) => chat::content(answer),
            Self::Completion(completion) => completion.content(answer),
            Self::Messages(_) => Messages::content(answer),
            Self::Responses(_) => Bytes::new(),
            Self::Embedding { base64, .. } => embeddings::content(&answer.vectors, base64),
        }
    }

    /// The whole unstreamed answer around that.
    #[must_use]
    pub fn around(self, content: Bytes, usage: &Usage, cost: Option<&Cost>) -> Pieces {
        match self {
            Self::Chat(it) => chat::around(&it.head, content, usage, cost),
            Self::Completion(completion) => completion.around(content, usage, cost),
            Self::Messages(messages) => messages.around(content, usage, cost),
            Self::Responses(_) => content.into(),
            Self::Embedding { model, .. } => embeddings::around(&model, content, usage, cost),
        }
    }

    /// The whole unstreamed answer.
    #[must_use]
    pub fn whole(self, answer: Gathered, usage: &Usage, cost: Option<&Cost>) -> Bytes {
        match self {
            Self::Chat(it) => chat::whole(&it.head, &answer, usage, cost),
            Self::Completion(completion) => completion.whole(&answer, usage, cost),
            Self::Messages(messages) => messages.whole(&answer, usage, cost),
            Self::Responses(responses) => responses.whole(answer, usage, cost),
            Self::Embedding { model, base64 } => {
                embeddings::whole(&model, &answer.vectors, base64, usage, cost)
            }
        }
    }
}

// === impl Chat ===

impl Chat {
    fn chunks(&mut self) -> &mut Chunks {
        self.chunks.get_or_insert_with(|| Chunks::new(&self.head, self.include_usage))
    }
}

/// What the id of an answer begins with.
#[must_use]
pub fn id_prefix(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Completions => "cmpl-",
        Endpoint::Responses => "resp_",
        Endpoint::Messages => "msg_",
        Endpoint::ChatCompletions | Endpoint::Embeddings => "chatcmpl-",
    }
}
