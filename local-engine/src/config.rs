//! What the operator decides about the engine. Every value is checked before llama.cpp sees it:
//! several of them abort the process when they are out of range.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{
    drill::Drill,
    embedding::Pooling,
    error::LoadError,
    process::{Isolation, Worker},
    speculation::{DRAFT_STREAMS_MAX, DRAFT_TOKENS_MAX, Speculation},
};

/// llama.cpp's compiled-in limit on sequences in one context.
const SLOTS_MAX: u32 = 256;
/// Tokens of a step on a processor, at most, and prompt tokens in one that also generates.
const BATCH_TOKENS: u32 = 512;
const PREFILL_CHUNK: u32 = 256;
/// Both on a GPU: what it costs there is to begin another step.
const GPU_STEP_TOKENS: u32 = 2_048;

/// How the KV cache is laid out over the slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KvLayout {
    /// [`KvLayout::Unified`] up to 8 slots, [`KvLayout::Separate`] above.
    Auto,
    /// One pool of cells: sequences share prefixes and one may use all cells, but every sequence's
    /// attention walks the whole pool.
    Unified,
    /// Equal parts: faster with many slots, and each job is limited to its part.
    Separate,
}

/// Who may go on from whose cached prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PrefixSharing {
    /// A caller from its own jobs' only: what others asked cannot be guessed from how fast an
    /// answer begins or from the cached tokens in its usage.
    Caller,
    /// Everybody from everybody's: a system prompt that all callers have in common is read once.
    All,
}

/// The settings of one engine.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EngineConfig {
    /// The GGUF file.
    pub file: PathBuf,
    /// Tokens the KV cache holds, over all slots. Rounded up to a multiple of 256.
    pub context_tokens: u32,
    /// Jobs decoded together, 1 to 256.
    pub slots: u32,
    /// Jobs that may wait for a slot, at least 1.
    pub queue_max: usize,
    /// Longest wait in the queue; a job that waited longer gets [`crate::JobEvent::Expired`].
    pub queue_wait_max: Duration,
    /// Threads that compute; `None`: one less than there are cores, at least one.
    pub threads: Option<u32>,
    /// Most tokens in one decode of llama.cpp; `None`: 512, or 2,048 where all layers are on a GPU.
    pub batch_tokens: Option<u32>,
    /// Most prompt tokens read in a step that also generates: bounds the gap a long prompt causes
    /// between other jobs' tokens. `None`: 256, or 2,048 where all layers are on a GPU, which takes
    /// little longer for many than for few.
    pub prefill_chunk: Option<u32>,
    /// By how much reading prompts should lengthen a step that also generates, at most: fewer prompt
    /// tokens than `prefill_chunk` are read in it when that many would take longer, by what steps
    /// have cost so far (a prompt's last piece may be a quarter more). `None`: always as many as
    /// `prefill_chunk`.
    pub gap_target: Option<Duration>,
    /// Layers offloaded to a GPU; `None` is as many as fit. A number above 0 is kept or refused.
    pub gpu_layers: Option<u32>,
    /// The only GPU to use, by its backend's name for it (`CUDA0`, `Vulkan1`); `None` is all.
    pub gpu_device: Option<String>,
    /// The layout of the KV cache.
    pub kv_layout: KvLayout,
    /// Whether a job may start from the cells another job with the same prefix left.
    pub prefix_reuse: bool,
    /// Whose cells those may be.
    pub prefix_sharing: PrefixSharing,
    /// Prefixes kept beside the running jobs' (only in a unified cache; in separate ones each slot
    /// keeps its own). Together with `slots` at most 256.
    pub prefixes_max: u32,
    /// Cells promised to running jobs, in percent of those there are, 100 to 1000: most answers
    /// end before their cap. When cells run out the youngest job waits outside the cache and comes
    /// back. Only in a unified cache.
    pub overcommit_percent: u32,
    /// Bytes that cells of jobs outside the cache may take; what does not fit is computed again.
    pub swap_bytes_max: usize,
    /// Bytes that checkpoints may take: what a model with a sliding window needs for going back to
    /// some points of what it has read. Without any a slot only goes on from where it ends.
    pub checkpoint_bytes_max: usize,
    /// Whether tokens are guessed before they are computed. A model whose cells cannot be taken back
    /// (a sliding window, a recurrent state) goes without; a draft model for it, or one like it, is
    /// refused.
    pub speculation: Speculation,
    /// How token vectors become one where a job does not say; `None` is what the file says, or the
    /// mean.
    pub pooling: Option<Pooling>,
    /// Events a job may be ahead of its reader; then the job, and no other, pauses.
    pub reader_lag_max: usize,
    /// Longest pause for a reader that does not read; then the job ends with
    /// [`crate::JobEvent::Unread`] and its slot is free.
    pub reader_stall_max: Duration,
    /// Seconds since the Unix epoch, for templates that print the date.
    #[serde(skip, default = "system_clock")]
    pub unix_now: fn() -> i64,
    /// Whether the weights are mapped from the file, and not read into memory. A mapped file must never
    /// be written to while it is loaded: a shorter one ends the process, another one of the same length
    /// computes something else; and under pressure the system drops pages that the next token waits for.
    pub mmap: bool,
    /// A fault to rehearse.
    pub drill: Option<Drill>,
    /// Where it computes.
    #[serde(skip)]
    pub isolation: Isolation,
    /// Loads each file in a child first, which may die of it.
    #[serde(skip)]
    pub verify_load: Option<Worker>,
}

/// The system's clock, as `unix_now`.
fn system_clock() -> fn() -> i64 {
    || jiff::Timestamp::now().as_second()
}

impl EngineConfig {
    /// The default settings for a model file.
    #[must_use]
    pub fn new(file: PathBuf) -> EngineConfig {
        EngineConfig {
            file,
            context_tokens: 8_192,
            slots: 8,
            queue_max: 64,
            queue_wait_max: Duration::from_secs(30),
            threads: None,
            batch_tokens: None,
            prefill_chunk: None,
            gap_target: Some(Duration::from_millis(100)),
            gpu_layers: None,
            gpu_device: None,
            kv_layout: KvLayout::Auto,
            prefix_reuse: true,
            prefix_sharing: PrefixSharing::Caller,
            prefixes_max: 32,
            overcommit_percent: 150,
            swap_bytes_max: 512 << 20,
            checkpoint_bytes_max: 512 << 20,
            speculation: Speculation::Off,
            pooling: None,
            reader_lag_max: 64,
            reader_stall_max: Duration::from_secs(30),
            unix_now: system_clock(),
            mmap: false,
            drill: None,
            isolation: Isolation::InProcess,
            verify_load: None,
        }
    }

    /// Whether the KV cache is one pool.
    pub(crate) fn unified(&self) -> bool {
        match self.kv_layout {
            KvLayout::Auto => self.slots <= 8,
            KvLayout::Unified => true,
            KvLayout::Separate => false,
        }
    }

    /// The sequences there are: one for each running job, and in a unified cache some for prefixes
    /// that outlive their jobs.
    #[must_use]
    pub fn sequences(&self) -> u32 {
        let kept = if self.unified() && self.prefix_reuse { self.prefixes_max } else { 0 };
        self.slots.saturating_add(kept).min(SLOTS_MAX)
    }

    /// The settings of the draft model's context, where there is one: a sequence for each job that
    /// may be guessed for, in as many cells as the model itself has.
    pub(crate) fn of_draft(&self) -> Option<EngineConfig> {
        let file = self.speculation.draft_file()?.to_owned();
        let (_, streams_max) = self.speculation.limits()?;
        Some(EngineConfig {
            file,
            slots: streams_max,
            kv_layout: KvLayout::Unified,
            prefixes_max: 0,
            speculation: Speculation::Off,
            ..self.clone()
        })
    }

    /// The number of computing threads.
    pub(crate) fn threads(&self) -> u32 {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let spare = u32::try_from(cores.saturating_sub(1)).unwrap_or(u32::MAX);
        self.threads.unwrap_or(spare).clamp(1, 512)
    }

    /// Most tokens in one decode.
    pub(crate) fn batch_tokens(&self) -> u32 {
        self.batch_tokens.unwrap_or(BATCH_TOKENS)
    }

    /// Most prompt tokens of a step that also generates.
    pub(crate) fn prefill_chunk(&self) -> u32 {
        self.prefill_chunk.unwrap_or(PREFILL_CHUNK)
    }

    /// The same settings for a model all of whose layers are on a GPU. There a step costs little more
    /// for many tokens than for few, but much for a shape of its own: guesses beside other jobs'
    /// tokens cost more than they spare.
    pub(crate) fn on_gpu(&self) -> EngineConfig {
        let mut config = self.clone();
        config.batch_tokens = Some(self.batch_tokens.unwrap_or(GPU_STEP_TOKENS));
        config.prefill_chunk = Some(self.prefill_chunk.unwrap_or(GPU_STEP_TOKENS));
        config.speculation = self.speculation.for_one();
        config
    }

    /// Refuses what llama.cpp would answer by aborting the process.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let refuse = |what: &str| Err(LoadError::Config(what.to_owned()));
        if self.slots == 0 || self.slots > SLOTS_MAX {
            return refuse("slots must be 1 to 256");
        }
        if self.queue_max == 0 {
            return refuse("queue_max must be at least 1");
        }
        if !(32..=65_536).contains(&self.batch_tokens()) {
            return refuse("batch_tokens must be 32 to 65536");
        }
        if self.batch_tokens() < self.slots {
            return refuse("batch_tokens must be at least the number of slots");
        }
        if self.prefill_chunk() == 0 {
            return refuse("prefill_chunk must be at least 1");
        }
        if !(100..=1_000).contains(&self.overcommit_percent) {
            return refuse("overcommit_percent must be 100 to 1000");
        }
        if self.context_tokens < self.slots.saturating_mul(16) {
            return refuse("context_tokens must be at least 16 for each slot");
        }
        if self.context_tokens > 16_777_216 {
            return refuse("context_tokens must be at most 16777216");
        }
        if let Some((tokens_max, streams_max)) = self.speculation.limits() {
            if !(1..=DRAFT_TOKENS_MAX).contains(&tokens_max) {
                return refuse("the tokens guessed at once must be 1 to 16");
            }
            if !(1..=DRAFT_STREAMS_MAX).contains(&streams_max) {
                return refuse("the streams with guesses must be 1 to 8");
            }
        }
        if self.reader_lag_max == 0 {
            return refuse("reader_lag_max must be at least 1");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::EngineConfig;
    use crate::speculation::Speculation;

    #[test]
    fn a_gpu_reads_more_at_once_unless_told_otherwise_and_guesses_for_one() {
        let sizes = |config: &EngineConfig| (config.batch_tokens(), config.prefill_chunk());
        let mut config = EngineConfig::new("none".into());
        assert_eq!((sizes(&config), sizes(&config.on_gpu())), ((512, 256), (2_048, 2_048)));
        (config.batch_tokens, config.prefill_chunk) = (Some(600), Some(70));
        assert_eq!((sizes(&config), sizes(&config.on_gpu())), ((600, 70), (600, 70)));
        assert_eq!(config.on_gpu().speculation, Speculation::Off);
        config.speculation = Speculation::Lookup { tokens_max: 8, streams_max: 4 };
        assert_eq!(config.on_gpu().speculation.limits(), Some((8, 1)));
    }
}
