//! A context on a model: its KV cache, and what computes in it. What llama.cpp would abort on is
//! refused here as a fault.

#[cfg(test)]
mod unguarded_tests;

use std::num::NonZeroU32;

use llama_cpp_2::{
    DecodeError,
    context::{
        LlamaContext,
        params::LlamaContextParams,
        session::{LlamaStateSeqFlags, SeqState},
    },
    llama_batch::LlamaBatch,
    token::LlamaToken,
};

use super::{
    Model, Sampler, backend,
    embedding::{Embedder, Embedding},
    last_error,
};
use crate::{
    config::EngineConfig,
    device::{BatchToken, Device, Fault, RoomToEmbed},
    draw::Scratch,
    embedding::Pooling,
    job::{Job, Likely, TokenLogprob},
    logprobs,
};

/// A context on a model: the KV cache and what computes.
#[derive(Debug)]
pub(crate) struct LlamaDevice<'m> {
    model: &'m Model,
    context: LlamaContext<'m>,
    batch: LlamaBatch<'static>,
    batch_max: usize,
    /// Which rows of the last batch have logits.
    rows: Vec<bool>,
    /// Room to draw in.
    scratch: Scratch,
    unified: bool,
    /// Whether cells are yet to be copied from one separate cache to another: that is done before
    /// the next batch, and until then neither has what it is said to have.
    copies: bool,
    slots: u32,
    /// The sliding window, where the file names one.
    window: Option<u32>,
    can_reuse: bool,
    can_rewind: bool,
    embedder: Embedder,
    /// Made for the first text to embed.
    embedding: Option<Embedding<'m>>,
}

impl<'m> LlamaDevice<'m> {
    /// Makes the context and computes one token, so that the first job finds the weights in memory.
    pub(crate) fn new(model: &'m Model, config: &EngineConfig) -> Result<LlamaDevice<'m>, String> {
        let threads = i32::try_from(config.threads()).unwrap_or(1);
        let _ = last_error();
        let params = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(config.context_tokens))
            .with_n_batch(config.batch_tokens())
            .with_n_ubatch(config.batch_tokens().min(512))
            .with_n_seq_max(config.sequences())
            .with_kv_unified(config.unified())
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true);
        let context = model.model.new_context(backend()?, params).map_err(|_| last_error())?;
        let batch_max = usize::try_from(context.n_batch().min(config.batch_tokens())).unwrap_or(1);
        let architecture = model.metadata("general.architecture").unwrap_or_default();
        let window = model
            .metadata(&format!("{architecture}.attention.sliding_window"))
            .and_then(|tokens| tokens.parse().ok())
            .filter(|tokens| *tokens > 0);
        let mut device = LlamaDevice {
            model,
            context,
            batch: LlamaBatch::new(batch_max, 1),
            batch_max,
            rows: Vec::new(),
            scratch: Scratch::default(),
            unified: config.unified(),
            copies: false,
            slots: config.sequences(),
            window,
            embedder: Embedder::new(model, config),
            embedding: None,
            can_reuse: config.prefix_reuse,
            can_rewind: false,
        };
        device.compute_one()?;
        let recurrent = model.model.is_recurrent() || model.model.is_hybrid();
        device.can_rewind = !recurrent && !device.forgets();
        // A checkpoint is as good as the cells that are known to be needed, and was tried on windows.
        device.can_reuse &= device.can_rewind || (!recurrent && window.is_some());
        device.context.clear_kv_cache();
        Ok(device)
    }

    /// Whether a part of slot 0's state is kept apart from its cells: a window's, which are
    /// overwritten in no order that can be seen from outside, so that a cache that was cut may have
    /// holes. The file does not always say so: some architectures have a window without naming it, and
    /// some files name one that llama.cpp does not use.
    fn forgets(&self) -> bool {
        let bytes = |flags| self.context.state_seq_get_size_ext(0, flags);
        let all = bytes(LlamaStateSeqFlags::empty());
        // What has no size could not be read: nothing is known of it.
        all == 0 || bytes(LlamaStateSeqFlags::PARTIAL_ONLY) < all
    }

    /// Computes a token in slot 0.
    fn compute_one(&mut self) -> Result<(), String> {
        let token = BatchToken { token: 0, position: 0, slot: 0, logits: true };
        let decoded = super::in_passing(|| Device::decode(self, &[token]));
        decoded.ok_or("llama.cpp panicked at its first token")?.map_err(|fault| match fault {
            Fault::Full => "the KV cache holds not even one token".to_owned(),
            Fault::Broken(reason) | Fault::Sequence(reason) => reason,
        })
    }

    /// Longest text that can be embedded.
    pub(crate) fn embed_tokens_max(&self) -> u32 {
        self.embedder.tokens_max
    }

    /// Whether a slot now holds exactly its first `keep` tokens, or those of them that a sliding
    /// window still sees.
    fn holds(&self, slot: i32, keep: u32) -> bool {
        let begin = self.context.kv_cache_seq_pos_min(slot);
        let window = if self.can_rewind { None } else { self.window };
        let oldest_needed = window.map_or(0, |window| keep.saturating_sub(window));
        self.ends(slot, keep) && i64::from(begin) <= i64::from(oldest_needed)
    }

    /// Whether so many tokens are a slot's all.
    fn ends(&self, slot: i32, keep: u32) -> bool {
        i64::from(self.context.kv_cache_seq_pos_max(slot)) == i64::from(keep) - 1
    }

    fn empty(&mut self, slot: i32) {
        // Removing a whole sequence cannot fail.
        let _ = self.context.kv_cache_seq_rm(slot, None, None);
    }

    fn slot(&self, slot: u32) -> Option<i32> {
        if slot < self.slots { i32::try_from(slot).ok() } else { None }
    }
}

impl Device for LlamaDevice<'_> {
    type Sampler = Sampler;
    type Saved = SeqState;

    fn cells(&self) -> u32 {
        self.context.n_ctx()
    }

    fn unified(&self) -> bool {
        self.unified
    }

    fn can_reuse(&self) -> bool {
        self.can_reuse
    }

    fn can_rewind(&self) -> bool {
        self.can_rewind
    }

    fn sampler(&self, job: &Job) -> Sampler {
        Sampler::new(self.model, job)
    }

    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), Fault> {
        let broken = |reason: &str| Err(Fault::Broken(reason.to_owned()));
        if batch.is_empty() || batch.len() > self.batch_max {
            return broken("a batch of a wrong size was about to be computed");
        }
        self.batch.clear();
        self.rows.clear();
        for entry in batch {
            let position = i32::try_from(entry.position).ok();
            let (Some(slot), Some(position)) = (self.slot(entry.slot), position) else {
                return broken("a batch with a wrong slot was about to be computed");
            };
            if !(0..self.model.vocabulary).contains(&entry.token) {
                return broken("a batch with a wrong token was about to be computed");
            }
            self.batch
                .add(LlamaToken::new(entry.token), position, &[slot], entry.logits)
                .map_err(|error| Fault::Broken(error.to_string()))?;
            self.rows.push(entry.logits);
        }
        match self.context.decode(&mut self.batch) {
            // On a GPU `decode` only starts the work: without waiting, its time would be booked on
            // whoever samples first.
            Ok(()) => {
                self.context.synchronize();
                self.copies = false;
                Ok(())
            }
            Err(DecodeError::NoKvCacheSlot) => {
                self.rows.clear();
                Err(Fault::Full)
            }
            Err(error) => {
                self.rows.clear();
                Err(Fault::Broken(format!("{error}: {}", last_error())))
            }
        }
    }

    fn sample(&mut self, sampler: &mut Sampler, row: usize) -> Result<i32, Fault> {
        let index = i32::try_from(row).ok().filter(|_| self.rows.get(row) == Some(&true));
        let Some(index) = index else {
            return Err(Fault::Broken("a token without logits was about to be sampled".to_owned()));
        };
        sampler.draw(self.context.get_logits_ith(index), &mut self.scratch)
    }

    fn logprobs(&self, row: usize, token: i32, top: u32) -> Option<TokenLogprob> {
        let index = i32::try_from(row).ok().filter(|_| self.rows.get(row) == Some(&true))?;
        let (chosen, top) = logprobs::of_row(self.context.get_logits_ith(index), token, top)?;
        let likely = |(token, logprob)| {
            let bytes = self.model.token_bytes(token).0;
            Likely { token, bytes, logprob }
        };
        Some(TokenLogprob {
            chosen: likely((token, chosen)),
            top: top.into_iter().map(likely).collect(),
        })
    }

    fn pooling(&self) -> Pooling {
        self.embedder.pooling
    }

    fn embeds_whole(&self) -> bool {
        self.embedder.whole
    }

    fn ready_to_embed(&mut self) -> Result<(), Fault> {
        if self.embedding.is_none() {
            let embedding = self.embedder.context(self.model).map_err(Fault::Sequence)?;
            self.embedding = Some(embedding);
        }
        Ok(())
    }

    fn room_to_embed(&self) -> RoomToEmbed {
        self.embedder.room
    }

    fn embed(
        &mut self,
        texts: &[&[i32]],
        from: usize,
        show: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), Fault> {
        let room = self.room_to_embed();
        let most = usize::try_from(self.embedder.tokens_max).unwrap_or(usize::MAX);
        let known = |token: &i32| (0..self.model.vocabulary).contains(token);
        let fits = |text: &&[i32]| !text.is_empty() && text.iter().all(known);
        let tokens: usize = texts.iter().map(|text| text.len()).sum();
        let beside = if from == 0 { room.texts } else { 1 };
        let few = texts.len() <= beside && tokens <= room.tokens && from + tokens <= most;
        if !few || !texts.iter().all(fits) {
            return Err(Fault::Sequence("texts of a wrong size or with a wrong token".to_owned()));
        }
        match &mut self.embedding {
            Some(embedding) => embedding.read(texts, from, show),
            None => Err(Fault::Sequence("there is nothing to embed with yet".to_owned())),
        }
    }

    fn is_end(&self, token: i32) -> bool {
        self.model.model.vocab().is_eog(LlamaToken::new(token))
    }

    fn piece(&self, token: i32, bytes: &mut Vec<u8>) {
        self.model.model.vocab().token_to_piece_into(LlamaToken::new(token), bytes, false, None);
    }

    fn truncate(&mut self, slot: u32, keep: u32, at: Option<&SeqState>) -> bool {
        let Some(slot) = self.slot(slot) else { return false };
        // The window's cells as they were then; its other cells are there still, and are cut.
        let may_cut = match at {
            Some(at) => keep > 0 && self.context.state_seq_set(at, slot).is_ok(),
            None => self.can_rewind || self.ends(slot, keep),
        };
        if keep > 0
            && may_cut
            && self.context.kv_cache_seq_rm(slot, Some(keep), None).is_ok()
            && self.holds(slot, keep)
        {
            return true;
        }
        self.empty(slot);
        keep == 0
    }

    fn share(&mut self, from: u32, to: u32, keep: u32, at: Option<&SeqState>) -> bool {
        let (Some(source), Some(slot)) = (self.slot(from), self.slot(to)) else { return false };
        self.empty(slot);
        if from == to || keep == 0 {
            return false;
        }
        let kept = if self.unified {
            self.context.kv_cache_seq_cp(source, slot, Some(0), Some(keep)).is_ok()
        } else if self.can_rewind {
            // Only all of a separate cache can be copied; what is too much is cut off.
            self.copies = true;
            self.context.kv_cache_seq_cp(source, slot, None, None).is_ok()
                && self.context.kv_cache_seq_rm(slot, Some(keep), None).is_ok()
        } else {
            // Such a copy is made before the next batch, and would undo the checkpoint.
            self.save(from).is_some_and(|all| self.restore(to, all))
        };
        // Puts the window into cells of its own: shared ones would never be overwritten.
        let windowed = !self.can_rewind;
        if windowed && kept && at.is_some() {
            return self.truncate(to, keep, at);
        }
        if !windowed && kept && self.holds(slot, keep) {
            return true;
        }
        self.empty(slot);
        false
    }

    fn checkpoint_bytes(&self, slot: u32) -> usize {
        let Some(slot) = self.slot(slot) else { return usize::MAX };
        self.context.state_seq_get_size_ext(slot, LlamaStateSeqFlags::PARTIAL_ONLY)
    }

    fn checkpoint(&mut self, slot: u32) -> Option<SeqState> {
        self.context.state_seq_get(self.slot(slot)?, LlamaStateSeqFlags::PARTIAL_ONLY).ok()
    }

    fn state_bytes(&self, slot: u32) -> usize {
        let Some(slot) = self.slot(slot) else { return usize::MAX };
        self.context.state_seq_get_size_ext(slot, LlamaStateSeqFlags::empty())
    }

    fn save(&mut self, slot: u32) -> Option<SeqState> {
        if self.copies {
            return None;
        }
        self.context.state_seq_get(self.slot(slot)?, LlamaStateSeqFlags::empty()).ok()
    }

    fn saved_bytes(saved: &SeqState) -> usize {
        saved.byte_len()
    }

    fn restore(&mut self, slot: u32, saved: SeqState) -> bool {
        let Some(slot) = self.slot(slot) else { return false };
        if self.context.state_seq_set(&saved, slot).is_ok() {
            return true;
        }
        self.empty(slot);
        false
    }
}
