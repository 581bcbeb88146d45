//! The only module that names llama.cpp. It turns its aborts, null pointers and log lines into
//! checks, errors and events, and holds no policy: who is computed when is `scheduler.rs`'s.
//!
//! What is guarded here because llama.cpp answers it by killing the process: a batch longer than
//! `n_batch`, sampling at a row without logits, logits that are not numbers, `seq_cp` of a part
//! between separate caches, ids outside the vocabulary.

mod embedding;
mod sampler;
#[cfg(test)]
mod sampler_tests;
#[cfg(test)]
mod unguarded_tests;

use std::{
    ffi::{CStr, c_char, c_void},
    num::NonZeroU32,
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use llama_cpp_2::{
    DecodeError, LlamaBackendDeviceType,
    context::{
        LlamaContext,
        params::LlamaContextParams,
        session::{LlamaStateSeqFlags, SeqState},
    },
    gguf::GgufContext,
    llama_backend::LlamaBackend,
    llama_batch::LlamaBatch,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
    token_type::LlamaTokenAttr,
};

use crate::{
    config::EngineConfig,
    device::{BatchToken, Fault},
    draw::{Heads, Scratch, Texts},
    embedding::Pooling,
    info::Device,
    job::{Job, Likely, TokenLogprob},
    logprobs,
    offload::Offload,
    template::TemplateSource,
};

pub(crate) use sampler::Sampler;

use embedding::{Embedder, Embedding};

/// llama.cpp's global state: made once, never freed, since another engine may still run.
static BACKEND: OnceLock<Result<LlamaBackend, String>> = OnceLock::new();
/// llama.cpp's last complaint: its functions return null and say why only in the log.
static LAST_ERROR: Mutex<String> = Mutex::new(String::new());

fn backend() -> Result<&'static LlamaBackend, String> {
    let init = || {
        route_log();
        LlamaBackend::init().map_err(|error| error.to_string())
    };
    BACKEND.get_or_init(init).as_ref().map_err(String::clone)
}

/// What llama.cpp last complained of; forgets it.
fn last_error() -> String {
    let mut last = LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
    let text = std::mem::take(&mut *last);
    if text.is_empty() { "llama.cpp gave no reason".to_owned() } else { text }
}

#[expect(unsafe_code, reason = "the wrapper's own log bridge cannot lower llama.cpp's levels")]
fn route_log() {
    // SAFETY: the callback is a plain function that lives as long as the process, ignores the user
    // data and lets no panic out.
    unsafe {
        llama_cpp_sys_2::llama_log_set(Some(on_log), std::ptr::null_mut());
        llama_cpp_sys_2::ggml_log_set(Some(on_log), std::ptr::null_mut());
    }
}

/// llama.cpp tells dozens of lines for each load: what it calls information is detail here.
#[expect(unsafe_code, reason = "called by C with a C string")]
unsafe extern "C" fn on_log(
    level: llama_cpp_sys_2::ggml_log_level,
    text: *const c_char,
    _user_data: *mut c_void,
) {
    if text.is_null() {
        return;
    }
    // SAFETY: llama.cpp passes a null-terminated string that lives for this call.
    let text = unsafe { CStr::from_ptr(text) }.to_string_lossy();
    let _ = std::panic::catch_unwind(|| {
        let text = text.trim_end();
        match level {
            llama_cpp_sys_2::GGML_LOG_LEVEL_ERROR => {
                tracing::warn!(target: "llama_cpp", "{text}");
                let mut last = LAST_ERROR.lock().unwrap_or_else(PoisonError::into_inner);
                *last = text.chars().take(500).collect();
            }
            llama_cpp_sys_2::GGML_LOG_LEVEL_WARN | llama_cpp_sys_2::GGML_LOG_LEVEL_INFO => {
                tracing::debug!(target: "llama_cpp", "{text}");
            }
            _ => tracing::trace!(target: "llama_cpp", "{text}"),
        }
    });
}

/// The devices llama.cpp can use.
pub(crate) fn devices() -> Result<Vec<Device>, String> {
    backend()?;
    let gpu =
        |kind| matches!(kind, LlamaBackendDeviceType::Gpu | LlamaBackendDeviceType::IntegratedGpu);
    let devices = llama_cpp_2::list_llama_ggml_backend_devices();
    Ok(devices
        .into_iter()
        .map(|device| Device {
            gpu: gpu(device.device_type),
            name: device.name,
            description: device.description,
            backend: device.backend,
            memory_total: u64::try_from(device.memory_total).unwrap_or(u64::MAX),
            memory_free: u64::try_from(device.memory_free).unwrap_or(u64::MAX),
        })
        .collect())
}

/// The layers a file says it has, the output layer included.
pub(crate) fn layers_of(file: &Path) -> Option<u32> {
    let gguf = GgufContext::from_file(file)?;
    let text = |key: &str| match gguf.find_key(key) {
        at if at >= 0 => gguf.val_str(at).map(str::to_owned),
        _ => None,
    };
    let architecture = text("general.architecture")?;
    match gguf.find_key(&format!("{architecture}.block_count")) {
        at if at >= 0 && gguf.kv_type(at) == llama_cpp_sys_2::GGUF_TYPE_UINT32 => {
            gguf.val_u32(at).checked_add(1)
        }
        _ => None,
    }
}

/// A loaded model. Tokenising and detokenising need no lock.
#[derive(Debug)]
pub(crate) struct Model {
    model: LlamaModel,
    vocabulary: i32,
    /// Made for the first job with DRY.
    texts: OnceLock<Texts>,
}

impl Model {
    /// Loads a model, its layers where `plan` puts them.
    pub(crate) fn load(file: &Path, plan: Offload) -> Result<Model, String> {
        let backend = backend()?;
        let _ = last_error();
        let mut params = LlamaModelParams::default().with_n_gpu_layers(plan.layers);
        // Without layers on it a GPU would still be handed large batches: none is offered then.
        let only = match plan {
            Offload { layers: 0, .. } => Some(Vec::new()),
            Offload { device, .. } => device.map(|index| vec![index]),
        };
        if let Some(devices) = only {
            params = params.with_devices(&devices).map_err(|error| error.to_string())?;
        }
        let model = LlamaModel::load_from_file(backend, file, &params).map_err(|_| last_error())?;
        let vocabulary = model.vocab().n_tokens();
        if vocabulary <= 0 {
            return Err("it has no vocabulary".to_owned());
        }
        Ok(Model { model, vocabulary, texts: OnceLock::new() })
    }

    /// Loads only the vocabulary and the metadata: enough to make prompts, not to compute.
    pub(crate) fn vocabulary_of(file: &Path) -> Result<Model, String> {
        let backend = backend()?;
        let _ = last_error();
        let params = LlamaModelParams::default().with_vocab_only(true);
        let model = LlamaModel::load_from_file(backend, file, &params).map_err(|_| last_error())?;
        let vocabulary = model.vocab().n_tokens();
        Ok(Model { model, vocabulary, texts: OnceLock::new() })
    }

    /// A metadata value of the file.
    pub(crate) fn metadata(&self, key: &str) -> Option<String> {
        self.model.meta_val_str(key).ok()
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.model.n_params()
    }

    pub(crate) fn tensor_bytes(&self) -> u64 {
        self.model.size()
    }

    pub(crate) fn vocabulary(&self) -> u32 {
        u32::try_from(self.vocabulary).unwrap_or(0)
    }

    pub(crate) fn trained_context_tokens(&self) -> u32 {
        self.model.n_ctx_train()
    }

    /// The tokens that end a turn.
    pub(crate) fn end_tokens(&self) -> Vec<i32> {
        let vocab = self.model.vocab();
        (0..self.vocabulary).filter(|id| vocab.is_eog(LlamaToken::new(*id))).collect()
    }

    /// Whether a token means the same in `other`: only then can that one draft for this one.
    ///
    /// # Errors
    /// The first thing in which the vocabularies differ.
    pub(crate) fn same_vocabulary(&self, other: &Model) -> Result<(), String> {
        let (own, others) = (self.model.vocab(), other.model.vocab());
        if self.vocabulary != other.vocabulary {
            let (draft, model) = (other.vocabulary, self.vocabulary);
            return Err(format!("its vocabulary has {draft} tokens, and the model's {model}"));
        }
        if own.should_add_bos() != others.should_add_bos()
            || (own.bos(), own.eos()) != (others.bos(), others.eos())
            || self.end_tokens() != other.end_tokens()
        {
            return Err("its tokens that begin or end a text are not the model's".to_owned());
        }
        let differs = |id: &i32| {
            let token = LlamaToken::new(*id);
            own.text(token) != others.text(token) || own.attr(token) != others.attr(token)
        };
        match (0..self.vocabulary).find(differs) {
            Some(id) => Err(format!("its token {id} is not the model's")),
            None => Ok(()),
        }
    }

    /// Layers, the output layer included.
    pub(crate) fn layers(&self) -> u32 {
        self.model.n_layer().saturating_add(1)
    }

    /// The chat template and the texts it needs, if the file has one.
    pub(crate) fn template(&self) -> Option<TemplateSource> {
        let jinja = self.model.chat_template(None).ok()?.to_string().ok()?;
        let vocab = self.model.vocab();
        let text = |token: LlamaToken| match token.0 {
            id if (0..self.vocabulary).contains(&id) => {
                vocab.text(token).map(|text| text.to_string_lossy().into_owned())
            }
            _ => None,
        };
        let controls = (0..self.vocabulary).map(LlamaToken::new).filter(|token| {
            let attributes = vocab.attr(*token);
            attributes.intersects(LlamaTokenAttr::Control | LlamaTokenAttr::Unknown)
        });
        Some(TemplateSource {
            jinja,
            bos: text(vocab.bos()).unwrap_or_default(),
            eos: text(vocab.eos()).unwrap_or_default(),
            controls: controls.filter_map(text).collect(),
        })
    }

    /// Tokens of a rendered prompt's pieces. Control texts in them become control tokens.
    pub(crate) fn tokenize(&self, pieces: &[String]) -> Vec<i32> {
        let vocab = self.model.vocab();
        let mut tokens = Vec::new();
        for piece in pieces {
            vocab.tokenize_into(piece.as_bytes(), &mut tokens, false, true);
        }
        // A template may write the beginning token itself; twice would disturb the model.
        if vocab.should_add_bos() && tokens.first() != Some(&vocab.bos()) {
            tokens.insert(0, vocab.bos());
        }
        tokens.into_iter().map(|token| token.0).collect()
    }

    /// A token's bytes; a control token's are its name, and it is told so.
    pub(crate) fn token_bytes(&self, token: i32) -> (Vec<u8>, bool) {
        let mut bytes = Vec::new();
        if !(0..self.vocabulary).contains(&token) {
            return (bytes, false);
        }
        let (vocab, token) = (self.model.vocab(), LlamaToken::new(token));
        vocab.token_to_piece_into(token, &mut bytes, false, None);
        if !bytes.is_empty() {
            return (bytes, false);
        }
        vocab.token_to_piece_into(token, &mut bytes, true, None);
        (bytes, true)
    }

    /// The tokens that DRY's breakers begin with. Looks through the vocabulary for those it does not
    /// know yet, which takes milliseconds.
    pub(crate) fn heads(&self, breakers: &[String]) -> Heads {
        let vocab = self.model.vocab();
        let texts = self.texts.get_or_init(|| {
            let text = |id| vocab.detokenize(&[LlamaToken::new(id)], false, true);
            Texts::new((0..self.vocabulary).map(text))
        });
        texts.heads(breakers, |text| {
            let tokens = vocab.tokenize(text, false, false);
            tokens.into_iter().map(|token| token.0).collect()
        })
    }

    /// The longest token's bytes: no text of n bytes has fewer than n / this many tokens.
    pub(crate) fn token_bytes_max(&self) -> usize {
        let vocab = self.model.vocab();
        let texts = (0..self.vocabulary).filter_map(|id| vocab.text(LlamaToken::new(id)));
        texts.map(|text| text.to_bytes().len()).max().unwrap_or(1).max(1)
    }
}

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
            .with_n_batch(config.batch_tokens)
            .with_n_ubatch(config.batch_tokens.min(512))
            .with_n_seq_max(config.sequences())
            .with_kv_unified(config.unified())
            .with_n_threads(threads)
            .with_n_threads_batch(threads)
            .with_no_perf(true);
        let context = model.model.new_context(backend()?, params).map_err(|_| last_error())?;
        let batch_max = usize::try_from(context.n_batch().min(config.batch_tokens)).unwrap_or(1);
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
        bytes(LlamaStateSeqFlags::PARTIAL_ONLY) < bytes(LlamaStateSeqFlags::empty())
    }

    /// Computes a token in slot 0. In a thread that ends with it: OpenMP keeps computing threads
    /// for every thread that ever computed, and once they are more than the processors it lets all of
    /// them sleep at every barrier, which costs a sixth of the speed.
    fn compute_one(&mut self) -> Result<(), String> {
        let token = BatchToken { token: 0, position: 0, slot: 0, logits: true };
        let decoded = std::thread::scope(|scope| {
            scope.spawn(|| crate::device::Device::decode(self, &[token])).join()
        });
        decoded.map_err(|_| "llama.cpp panicked at its first token".to_owned())?.map_err(|fault| {
            match fault {
                Fault::Full => "the KV cache holds not even one token".to_owned(),
                Fault::Broken(reason) | Fault::Sequence(reason) => reason,
            }
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

impl crate::device::Device for LlamaDevice<'_> {
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

    fn embed(
        &mut self,
        tokens: &[i32],
        from: usize,
        show: &mut dyn FnMut(usize, &[f32]),
    ) -> Result<(), Fault> {
        let most = usize::try_from(self.embedder.tokens_max).unwrap_or(usize::MAX);
        let known = |token: &i32| (0..self.model.vocabulary).contains(token);
        if tokens.is_empty() || from + tokens.len() > most || !tokens.iter().all(known) {
            return Err(Fault::Sequence("a text of a wrong size or with a wrong token".to_owned()));
        }
        match &mut self.embedding {
            Some(embedding) => embedding.read(tokens, from, show),
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
            self.context.kv_cache_seq_cp(source, slot, None, None).is_ok()
                && self.context.kv_cache_seq_rm(slot, Some(keep), None).is_ok()
        } else {
            // Such a copy is made before the next batch, and would undo the checkpoint.
            self.save(from).is_some_and(|all| self.restore(to, all))
        };
        if !self.can_rewind {
            // Puts the window into cells of its own: shared ones would never be overwritten.
            return kept && at.is_some() && self.truncate(to, keep, at);
        }
        if kept && self.holds(slot, keep) {
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
