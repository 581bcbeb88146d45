//! What the scheduler needs of whatever computes: a batch in, tokens out, and the KV cache moved
//! about. Pure mechanism; who runs when is decided by the scheduler. `llama.rs` has the real one,
//! the scheduler's tests a scripted one.

use crate::{
    embedding::Pooling,
    job::{Job, TokenLogprob},
};

/// One token to compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BatchToken {
    pub(crate) token: i32,
    pub(crate) position: u32,
    /// The slot whose sequence it belongs to.
    pub(crate) slot: u32,
    /// Whether the next token will be sampled after it.
    pub(crate) logits: bool,
}

/// Computing failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No KV cells for this batch. Nothing was computed; the same batch can be tried again.
    Full,
    /// The device cannot be used any more.
    Broken(String),
    /// One sequence cannot go on; the others can.
    Sequence(String),
}

/// What has room in one batch of texts to embed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoomToEmbed {
    /// Texts beside each other.
    pub(crate) texts: usize,
    /// Their tokens.
    pub(crate) tokens: usize,
}

/// Something that computes tokens. Slots are numbered from 0 to one less than
/// [`crate::EngineConfig::sequences`], and hold one sequence each.
pub(crate) trait Device {
    /// How one job draws its tokens.
    type Sampler;
    /// A slot's cells outside the cache.
    type Saved;

    /// The cells of the KV cache over all slots.
    fn cells(&self) -> u32;

    /// Whether slots share one pool of cells.
    fn unified(&self) -> bool;

    /// Whether a slot's prefix can be taken over by another sequence.
    fn can_reuse(&self) -> bool;

    /// Whether a slot's last tokens can be taken back. Where they cannot and cells can be reused all
    /// the same, a slot goes back only to a checkpoint.
    fn can_rewind(&self) -> bool;

    /// How a job draws. The job has been checked.
    fn sampler(&self, job: &Job) -> Self::Sampler;

    /// Computes a batch, which is not empty and not longer than the configured `batch_tokens`.
    fn decode(&mut self, batch: &[BatchToken]) -> Result<(), Fault>;

    /// Draws the token that follows the `row`-th token of the last batch.
    fn sample(&mut self, sampler: &mut Self::Sampler, row: usize) -> Result<i32, Fault>;

    /// How likely the model found `token` after the `row`-th token of the last batch, and the `top`
    /// likeliest tokens there.
    fn logprobs(&self, row: usize, token: i32, top: u32) -> Option<TokenLogprob>;

    /// How this model's token vectors are pooled, as its file says.
    fn pooling(&self) -> Pooling;

    /// Whether a text must be embedded in one piece.
    fn embeds_whole(&self) -> bool;

    /// Makes what embedding needs beside the model, if it is not there yet. Like loading, it is
    /// nobody's engine time.
    fn ready_to_embed(&mut self) -> Result<(), Fault>;

    /// What has room in one batch of texts.
    fn room_to_embed(&self) -> RoomToEmbed;

    /// Embeds texts, none of which sees another, and shows each token's vector with the text's number
    /// and the token's place in it. One alone may be a piece of a text whose first `from` tokens were
    /// embedded just before; else `from` is 0.
    fn embed(
        &mut self,
        texts: &[&[i32]],
        from: usize,
        show: &mut dyn FnMut(usize, usize, &[f32]),
    ) -> Result<(), Fault>;

    /// Whether a token ends the model's turn.
    fn is_end(&self, token: i32) -> bool;

    /// Appends a token's bytes.
    fn piece(&self, token: i32, bytes: &mut Vec<u8>);

    /// Keeps the first `keep` tokens of a slot, `at` being the checkpoint that was taken there: it is
    /// needed where the device cannot rewind and the slot has more. False: they could not be kept,
    /// the slot is empty.
    fn truncate(&mut self, slot: u32, keep: u32, at: Option<&Self::Saved>) -> bool;

    /// Makes a slot begin with the first `keep` tokens of another one: in the same cells where
    /// `unified`, else in a copy of all of them; in a copy too where the device cannot rewind, which
    /// needs the checkpoint taken `at` that token. False: that was not possible, the slot is empty.
    fn share(&mut self, from: u32, to: u32, keep: u32, at: Option<&Self::Saved>) -> bool;

    /// Bytes that a checkpoint of a slot takes.
    fn checkpoint_bytes(&self, slot: u32) -> usize;

    /// Saves what going back to this point of a slot needs beside its cells; none if that is not
    /// possible.
    fn checkpoint(&mut self, slot: u32) -> Option<Self::Saved>;

    /// Bytes that saving a slot takes.
    fn state_bytes(&self, slot: u32) -> usize;

    /// Saves a slot's cells; none if that is not possible, or not before the next batch.
    fn save(&mut self, slot: u32) -> Option<Self::Saved>;

    /// Bytes of what was saved.
    fn saved_bytes(saved: &Self::Saved) -> usize;

    /// Puts saved cells into an empty slot. False: that was not possible, the slot is empty.
    fn restore(&mut self, slot: u32, saved: Self::Saved) -> bool;
}
