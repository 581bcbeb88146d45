//! The only module that names llama.cpp. It turns its aborts, null pointers and log lines into
//! checks, errors and events, and holds no policy: who is computed when is `scheduler.rs`'s.
//!
//! What is guarded here because llama.cpp answers it by killing the process: a batch longer than
//! `n_batch`, sampling at a row without logits, logits that are not numbers, `seq_cp` of a part
//! between separate caches, ids outside the vocabulary, words of thousands of characters.

mod context;
mod embedding;
mod sampler;
#[cfg(test)]
mod sampler_tests;
mod stretches;

use std::{
    ffi::{CStr, c_char, c_void},
    path::Path,
    sync::{Mutex, OnceLock, PoisonError},
};

use llama_cpp_2::{
    LlamaBackendDeviceType,
    gguf::GgufContext,
    llama_backend::LlamaBackend,
    model::{LlamaModel, params::LlamaModelParams},
    token::LlamaToken,
    token_type::LlamaTokenAttr,
};

use self::stretches::Whole;
use crate::{
    draw::{Heads, Texts},
    info::Device,
    offload::Offload,
    template::TemplateSource,
};

pub(crate) use context::LlamaDevice;
pub(crate) use sampler::Sampler;

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

/// Computes in a thread that ends with it: OpenMP keeps computing threads for every thread that ever
/// computed, and once they are more than the processors it lets all of them sleep at every barrier,
/// which costs a sixth of the speed. `None` where `work` panicked.
pub(crate) fn in_passing<T: Send>(work: impl FnOnce() -> T + Send) -> Option<T> {
    std::thread::scope(|scope| scope.spawn(work).join()).ok()
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
    /// Made for the first long text.
    whole: OnceLock<Whole>,
}

impl Model {
    /// Loads a model, its layers where `plan` puts them.
    pub(crate) fn load(file: &Path, plan: Offload, mmap: bool) -> Result<Model, String> {
        let backend = backend()?;
        let _ = last_error();
        // Weights for AMX are rearranged by several threads.
        let model = in_passing(|| {
            let mut params =
                LlamaModelParams::default().with_n_gpu_layers(plan.layers).with_use_mmap(mmap);
            // Without layers on it a GPU would still be handed large batches: none is offered then.
            let only = match plan {
                Offload { layers: 0, .. } => Some(Vec::new()),
                Offload { device, .. } => device.map(|index| vec![index]),
            };
            if let Some(devices) = only {
                params = params.with_devices(&devices).map_err(|error| error.to_string())?;
            }
            LlamaModel::load_from_file(backend, file, &params).map_err(|_| last_error())
        })
        .ok_or("llama.cpp panicked at the file")??;
        let vocabulary = model.vocab().n_tokens();
        if vocabulary <= 0 {
            return Err("it has no vocabulary".to_owned());
        }
        Ok(Model { model, vocabulary, texts: OnceLock::new(), whole: OnceLock::new() })
    }

    /// Loads only the vocabulary and the metadata: enough to make prompts, not to compute.
    pub(crate) fn vocabulary_of(file: &Path) -> Result<Model, String> {
        let backend = backend()?;
        let _ = last_error();
        let params = LlamaModelParams::default().with_vocab_only(true).with_use_mmap(false);
        let model = LlamaModel::load_from_file(backend, file, &params).map_err(|_| last_error())?;
        let vocabulary = model.vocab().n_tokens();
        Ok(Model { model, vocabulary, texts: OnceLock::new(), whole: OnceLock::new() })
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

    /// Tokens of a rendered prompt's pieces. Control texts in them become control tokens. `None`: they
    /// were no longer wanted before all was done.
    pub(crate) fn tokenize(
        &self,
        pieces: &[String],
        wanted: &dyn Fn() -> bool,
    ) -> Option<Vec<i32>> {
        let vocab = self.model.vocab();
        let mut tokens = Vec::new();
        for piece in pieces {
            if !wanted() {
                return None;
            }
            self.add_tokens(piece, &mut tokens);
        }
        // A template may write the beginning token itself; twice would disturb the model.
        if vocab.should_add_bos() && tokens.first() != Some(&vocab.bos()) {
            tokens.insert(0, vocab.bos());
        }
        Some(tokens.into_iter().map(|token| token.0).collect())
    }

    /// Tokens of a text to embed, with the marks that the file wants at its beginning and its end: a model
    /// whose vector is that of its last token was taught to put it there. Control texts in it become
    /// control tokens.
    pub(crate) fn tokenize_text(&self, text: &str) -> Vec<i32> {
        let vocab = self.model.vocab();
        let mut tokens = Vec::new();
        self.add_tokens(text, &mut tokens);
        // As llama.cpp sets them; of a vocabulary of words (BERT's) always.
        let of_words = self.metadata("tokenizer.ggml.model").as_deref() == Some("bert");
        let known = |token: &LlamaToken| (0..self.vocabulary).contains(&token.0);
        let begin = Some(vocab.bos()).filter(|_| of_words || vocab.should_add_bos());
        let end = if of_words {
            Some(vocab.sep())
        } else {
            Some(vocab.eos()).filter(|_| vocab.should_add_eos())
        };
        // The text may have them itself; twice would disturb the model.
        if let Some(begin) = begin.filter(known).filter(|begin| tokens.first() != Some(begin)) {
            tokens.insert(0, begin);
        }
        if let Some(end) = end.filter(known).filter(|end| tokens.last() != Some(end)) {
            tokens.push(end);
        }
        tokens.into_iter().map(|token| token.0).collect()
    }

    /// Adds a text's tokens, and none that the text does not have.
    fn add_tokens(&self, text: &str, tokens: &mut Vec<LlamaToken>) {
        for part in self.parts(text) {
            self.model.vocab().tokenize_into(part.as_bytes(), tokens, false, true);
        }
    }

    /// What of `text` is handed to llama.cpp at a time.
    fn parts<'t>(&self, text: &'t str) -> Vec<&'t str> {
        // Other vocabularies are not cut by a pattern, and some would have a space before each part.
        let by_pattern = || {
            let kind = self.metadata("tokenizer.ggml.model");
            kind.is_some_and(|kind| matches!(kind.as_str(), "gpt2" | "hybriddna" | "whitespace"))
        };
        if !stretches::may_be_long(text) || !by_pattern() {
            return vec![text];
        }
        let whole = self.whole.get_or_init(|| {
            let vocab = self.model.vocab();
            let attributes =
                LlamaTokenAttr::Control | LlamaTokenAttr::UserDefined | LlamaTokenAttr::Unknown;
            let tokens = (0..self.vocabulary).map(LlamaToken::new);
            let named = tokens.filter(|token| vocab.attr(*token).intersects(attributes));
            let texts = named.filter_map(|token| vocab.text(token));
            Whole::new(texts.map(|text| text.to_string_lossy().into_owned()))
        });
        stretches::parts(text, whole)
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
