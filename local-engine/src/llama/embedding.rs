//! The context that embeds: made for the first text, beside the one that generates and on the same
//! weights. It has no pooling of its own, so that a text can be read in chunks and pooled by the
//! caller; a model whose attention looks both ways must read a text whole.

#[cfg(test)]
mod tests;

use std::num::NonZeroU32;

use llama_cpp_2::{
    context::{
        LlamaContext,
        params::{LlamaContextParams, LlamaPoolingType},
    },
    llama_batch::LlamaBatch,
    token::LlamaToken,
};

use super::{Model, backend, last_error};
use crate::{
    config::EngineConfig,
    device::{Fault, RoomToEmbed},
    embedding::Pooling,
};

/// Longest text that is read whole: its attention's buffers grow with the square.
const WHOLE_TOKENS_MAX: u32 = 512;
/// Texts beside each other. Short ones gain most: a batch reads the weights once, however many tokens
/// it has.
const TEXTS_MAX: u32 = 32;

/// What is known before a context is made.
#[derive(Clone, Copy, Debug)]
pub(super) struct Embedder {
    pub(super) pooling: Pooling,
    pub(super) whole: bool,
    pub(super) tokens_max: u32,
    pub(super) room: RoomToEmbed,
    texts_max: u32,
    batch_tokens: u32,
    threads: i32,
}

/// The context.
#[derive(Debug)]
pub(super) struct Embedding<'m> {
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
}

impl Embedder {
    /// Reads the model's own word on it.
    pub(super) fn new(model: &Model, config: &EngineConfig) -> Embedder {
        let architecture = model.metadata("general.architecture").unwrap_or_default();
        let value = |key: &str| model.metadata(&format!("{architecture}.{key}"));
        let whole = value("attention.causal").as_deref() == Some("false");
        // 0 is none, 1 mean, 2 the first token's (`cls`), 3 the last one's.
        let of_file = || match value("pooling_type").as_deref() {
            Some("2") => Pooling::First,
            Some("3") => Pooling::Last,
            _ => Pooling::Mean,
        };
        let context = config.context_tokens.min(model.trained_context_tokens());
        let tokens_max = if whole { context.min(WHOLE_TOKENS_MAX) } else { context };
        let batch_tokens = if whole { WHOLE_TOKENS_MAX } else { config.batch_tokens() };
        // A state that is no cells is taken for every sequence, whether there is one or not.
        let recurrent = model.model.is_recurrent() || model.model.is_hybrid();
        let texts_max = if recurrent { 1 } else { TEXTS_MAX };
        let size = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
        Embedder {
            pooling: config.pooling.unwrap_or_else(of_file),
            whole,
            tokens_max,
            room: RoomToEmbed {
                texts: size(texts_max),
                tokens: size(batch_tokens.min(tokens_max)),
            },
            texts_max,
            batch_tokens,
            threads: i32::try_from(config.threads()).unwrap_or(1),
        }
    }

    pub(super) fn context<'m>(&self, model: &'m Model) -> Result<Embedding<'m>, String> {
        let _ = last_error();
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(self.tokens_max))
            .with_n_batch(self.batch_tokens)
            .with_n_ubatch(self.batch_tokens.min(512))
            .with_n_seq_max(self.texts_max)
            // One pool of cells: a long text may have them all.
            .with_kv_unified(true)
            .with_embeddings(true)
            .with_pooling_type(LlamaPoolingType::None)
            .with_n_threads(self.threads)
            .with_n_threads_batch(self.threads)
            .with_no_perf(true);
        let context = model.model.new_context(backend()?, params).map_err(|_| last_error())?;
        let tokens = usize::try_from(self.batch_tokens).unwrap_or(usize::MAX);
        Ok(Embedding { context, batch: LlamaBatch::new(tokens, 1) })
    }
}

impl Embedding<'_> {
    /// Reads checked texts, or what follows the first `from` tokens of the last one, and shows each
    /// token's vector.
    pub(super) fn read(
        &mut self,
        texts: &[&[i32]],
        from: usize,
        show: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), Fault> {
        let broken = |reason: String| Fault::Sequence(reason);
        if from == 0 {
            self.context.clear_kv_cache();
        }
        self.batch.clear();
        for (sequence, tokens) in (0..).zip(texts) {
            for (position, token) in (from..).zip(*tokens) {
                let position = i32::try_from(position).unwrap_or(i32::MAX);
                self.batch
                    .add(LlamaToken::new(*token), position, &[sequence], true)
                    .map_err(|error| broken(error.to_string()))?;
            }
        }
        self.context.decode(&mut self.batch).map_err(|error| broken(error.to_string()))?;
        self.context.synchronize();
        let tokens = texts.iter().enumerate();
        let tokens = tokens.flat_map(|(text, tokens)| (0..tokens.len()).map(move |at| (text, at)));
        for (row, (text, offset)) in (0..).zip(tokens) {
            let vector =
                self.context.embeddings_ith(row).map_err(|error| broken(error.to_string()))?;
            if !vector.iter().all(|value| value.is_finite()) {
                return Err(broken("the model computed no numbers".to_owned()));
            }
            show(text, offset, vector);
        }
        Ok(())
    }
}
