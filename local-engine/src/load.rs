//! From a file to a scheduler over a device: as many layers on the GPU as were asked for or fit, the
//! facts of the model, its template compiled.

use std::{fs::File, path::Path, sync::Arc, time::Instant};

use crate::{
    config::EngineConfig,
    constraint::Compiler,
    defaults::SamplingDefaults,
    device::Device,
    digest::hex_sha256,
    draft::Drafter,
    engine::file_stem,
    error::{LoadError, PromptError},
    gguf::{self, Header},
    info::{self, DraftInfo, ModelInfo, quantisation},
    llama::{self, LlamaDevice, Model},
    offload::{self, Offload},
    scheduler::Scheduler,
    shared::Shared,
    template::{ChatTemplate, TemplateSource},
    with_model::{Models, WithModel},
};

/// Bytes of an element of the KV cache.
const KV_ELEMENT_BYTES: u64 = 2;
/// A context's work space beside its logits.
const FIXED_BYTES: u64 = 32 << 20;

/// What the callers' side needs of a loaded model.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub(crate) model: Arc<Model>,
    /// Or why there is none: texts and vectors need none.
    pub(crate) template: Result<ChatTemplate, PromptError>,
    pub(crate) constraints: Compiler,
    /// Tokens of the longest text that can be embedded.
    pub(crate) embed_tokens_max: u32,
    /// Most choices of one request.
    pub(crate) choices_max: u32,
    pub(crate) queue_max: usize,
    pub(crate) info: ModelInfo,
    /// Bytes of the longest token.
    pub(crate) token_bytes_max: usize,
}

/// Says in the system's words why a file cannot be read; llama.cpp's own would not.
pub(crate) fn check_readable(file: &Path) -> Result<(), LoadError> {
    let unreadable = |reason: String| LoadError::Unreadable { file: file.to_owned(), reason };
    let opened = File::open(file).map_err(|error| unreadable(error.to_string()))?;
    let metadata = opened.metadata().map_err(|error| unreadable(error.to_string()))?;
    if !metadata.is_file() {
        return Err(unreadable("it is not a file".to_owned()));
    }
    Ok(())
}

/// What the file's header says, once it is known that llama.cpp can read it without harm.
pub(crate) fn check_header(file: &Path) -> Result<Header, LoadError> {
    check_readable(file)?;
    let refused = |reason| LoadError::Model { file: file.to_owned(), reason };
    gguf::check_file(file).map_err(refused)
}

/// Memory the model will take, from its header: weights, KV cache, and the work space, most of
/// which are the logits of a full batch.
pub(crate) fn memory_estimate(header: &Header, config: &EngineConfig) -> u64 {
    const LOGIT_BYTES: u64 = 4;
    let kv = u64::from(config.context_tokens).saturating_mul(header.kv_elements_per_token);
    let rows = u64::from(config.batch_tokens().min(512));
    let logits = header.vocabulary.saturating_mul(rows).saturating_mul(LOGIT_BYTES);
    let sum = header.tensor_bytes.saturating_add(kv.saturating_mul(KV_ELEMENT_BYTES));
    sum.saturating_add(logits).saturating_add(FIXED_BYTES)
}

/// Memory that the context takes in which texts are embedded, of so many tokens: a KV cache of its own,
/// and its work space.
pub(crate) fn embedding_estimate(header: &Header, tokens: u32) -> u64 {
    let kv = u64::from(tokens).saturating_mul(header.kv_elements_per_token);
    kv.saturating_mul(KV_ELEMENT_BYTES).saturating_add(FIXED_BYTES)
}

/// Loads the model and makes the scheduler over it. Blocks for as long as that takes.
pub(crate) fn load(
    config: &EngineConfig,
    shared: &Arc<Shared>,
) -> Result<(WithModel, Loaded), LoadError> {
    let started = Instant::now();
    let devices = llama::devices().map_err(LoadError::Start)?;
    let all = llama::layers_of(&config.file).unwrap_or(u32::MAX);
    let plans = offload::plans(&devices, all, config.gpu_layers, config.gpu_device.as_deref())
        .map_err(LoadError::Config)?;
    let mut failure = LoadError::Start("no plan to load by".to_owned());
    for plan in plans {
        let config = &for_plan(config, plan, all);
        let of_draft = config.of_draft();
        let file = config.file.clone();
        let model = match Model::load(&config.file, plan, config.mmap) {
            Ok(model) => Arc::new(model),
            Err(reason) => {
                failure = fall_short(plan, LoadError::Model { file, reason });
                continue;
            }
        };
        let draft = match of_draft.as_ref().map(|draft| draft_model(draft, plan)).transpose() {
            Ok(draft) => draft,
            Err(error) => {
                failure = fall_short(plan, error);
                continue;
            }
        };
        if let Some((draft, config)) = draft.as_ref().zip(of_draft.as_ref()) {
            let refused = |reason| LoadError::Draft { file: config.file.clone(), reason };
            model.same_vocabulary(draft).map_err(refused)?;
        }
        let models = Models { model: Arc::clone(&model), draft };
        let made = WithModel::try_new(models, |models| {
            let device = LlamaDevice::new(&models.model, config)?;
            let mut scheduler = Scheduler::new(device, config, Arc::clone(shared));
            if let (Some(draft), Some(config)) = (&models.draft, &of_draft) {
                let device = LlamaDevice::new(draft, config)?;
                let seats = (config.slots, draft.trained_context_tokens());
                scheduler.draft_by(Drafter::new(device, seats.0, seats.1));
            }
            Ok(scheduler)
        });
        let scheduler = match made {
            Ok(scheduler) => scheduler,
            Err(reason) => {
                let context_tokens = config.context_tokens;
                failure = fall_short(plan, LoadError::Context { context_tokens, reason });
                continue;
            }
        };
        let loaded = scheduler.with_dependent(|models, scheduler| {
            can_be_drafted_for(scheduler, config)?;
            describe(models, &scheduler.device, config, plan, &devices, started)
        })?;
        tracing::info!(
            model = loaded.info.name,
            quantisation = loaded.info.quantisation,
            backend = loaded.info.backend(),
            layers = loaded.info.layers,
            layers_offloaded = loaded.info.layers_offloaded,
            offloaded_to = loaded.info.offloaded_to.join(","),
            gpu_memory_mib = loaded.info.gpu_memory_bytes >> 20,
            kv_cells = loaded.info.kv_cells,
            threads = loaded.info.threads,
            "model loaded"
        );
        return Ok((scheduler, loaded));
    }
    Err(failure)
}

/// The settings as they are for a plan, of a model of `all` layers.
fn for_plan(config: &EngineConfig, plan: Offload, all: u32) -> EngineConfig {
    if plan.layers == 0 || plan.layers < all {
        return config.clone();
    }
    let on_gpu = config.on_gpu();
    if on_gpu.speculation != config.speculation {
        tracing::info!("on a GPU tokens are guessed only while one request generates");
    }
    on_gpu
}

/// Loads a draft model, all of it on the GPU where layers of the other one are there.
fn draft_model(config: &EngineConfig, plan: Offload) -> Result<Model, LoadError> {
    let all = llama::layers_of(&config.file).unwrap_or(u32::MAX);
    let layers = if plan.layers > 0 { all } else { 0 };
    let refused = |reason| LoadError::Draft { file: config.file.clone(), reason };
    Model::load(&config.file, Offload { layers, ..plan }, config.mmap).map_err(refused)
}

/// Refuses a draft model where wrong guesses could not be taken back out of the cells.
pub(crate) fn can_be_drafted_for<D: Device>(
    scheduler: &Scheduler<D>,
    config: &EngineConfig,
) -> Result<(), LoadError> {
    let Some(drafter) = &scheduler.drafter else { return Ok(()) };
    let whose = match (drafter.can_rewind(), scheduler.device.can_rewind()) {
        (true, true) => return Ok(()),
        (false, _) => "it is a model",
        (true, false) => "the other one is a model",
    };
    let file = config.speculation.draft_file().unwrap_or(&config.file).to_owned();
    let reason = format!(
        "{whose} with a sliding window or a recurrent state, whose cells cannot be taken back"
    );
    Err(LoadError::Draft { file, reason })
}

/// Most choices of one request: as many as can be decoded together, and wait together.
fn choices_max(config: &EngineConfig) -> u32 {
    config.slots.min(u32::try_from(config.queue_max).unwrap_or(u32::MAX))
}

/// What makes prompts for a model that a child computes, and has described.
pub(crate) fn vocabulary(config: &EngineConfig, info: ModelInfo) -> Result<Loaded, LoadError> {
    let refused = |reason| LoadError::Model { file: config.file.clone(), reason };
    let model = Arc::new(Model::vocabulary_of(&config.file).map_err(refused)?);
    Ok(Loaded {
        token_bytes_max: model.token_bytes_max(),
        template: template(model.template(), config),
        constraints: Compiler::new(Arc::clone(&model)),
        choices_max: choices_max(config),
        queue_max: config.queue_max,
        embed_tokens_max: info.embed_tokens_max,
        model,
        info,
    })
}

/// The file's chat template, ready to render; an operator is told of one that does not parse.
fn template(
    source: Option<TemplateSource>,
    config: &EngineConfig,
) -> Result<ChatTemplate, PromptError> {
    let source = source.ok_or(PromptError::NoTemplate)?;
    ChatTemplate::compile(source, config.unix_now).inspect_err(|reason| {
        tracing::warn!(file = %config.file.display(), %reason, "the model answers no chats");
    })
}

/// Tells the operator that a plan did not fit; the next one is tried.
fn fall_short(plan: Offload, failure: LoadError) -> LoadError {
    tracing::warn!(layers_offloaded = plan.layers, reason = %failure, "the model does not load so");
    failure
}

fn describe(
    Models { model, draft }: &Models,
    device: &LlamaDevice<'_>,
    config: &EngineConfig,
    plan: Offload,
    before: &[info::Device],
    started: Instant,
) -> Result<Loaded, LoadError> {
    let source = model.template();
    let template_sha256 = source.as_ref().map(|source| hex_sha256(source.jinja.as_bytes()));
    let metadata = |key: &str| model.metadata(key).filter(|value| !value.is_empty());
    let per_job = if device.unified() { device.cells() } else { device.cells() / config.slots };
    let file_bytes = std::fs::metadata(&config.file).map_or(0, |metadata| metadata.len());
    let layers = model.layers();
    let file_type = metadata("general.file_type").unwrap_or_default();
    let info = ModelInfo {
        name: metadata("general.name").unwrap_or_else(|| file_stem(&config.file)),
        file: config.file.clone(),
        architecture: metadata("general.architecture").unwrap_or_else(|| "unknown".to_owned()),
        quantisation: quantisation(&file_type).to_owned(),
        parameters: model.parameters(),
        tensor_bytes: model.tensor_bytes(),
        file_bytes,
        sampling: SamplingDefaults::read(metadata),
        vocabulary: model.vocabulary(),
        end_tokens: model.end_tokens(),
        trained_context_tokens: model.trained_context_tokens(),
        context_tokens: per_job.min(model.trained_context_tokens()),
        kv_cells: device.cells(),
        embed_tokens_max: device.embed_tokens_max(),
        kv_unified: device.unified(),
        template_sha256,
        layers,
        layers_offloaded: plan.layers.min(layers),
        offloaded_to: plan.devices(before),
        devices: before.to_vec(),
        gpu_memory_bytes: offload::taken(before, &llama::devices().map_err(LoadError::Start)?),
        threads: config.threads(),
        batch_tokens: config.batch_tokens(),
        prefill_chunk: config.prefill_chunk(),
        draft: draft.as_ref().zip(config.speculation.draft_file()).map(|(draft, file)| {
            let metadata = |key: &str| draft.metadata(key).filter(|value| !value.is_empty());
            DraftInfo {
                name: metadata("general.name").unwrap_or_else(|| file_stem(file)),
                file: file.to_owned(),
                quantisation: quantisation(&metadata("general.file_type").unwrap_or_default())
                    .to_owned(),
                parameters: draft.parameters(),
                kv_cells: device.cells(),
            }
        }),
        load_time: started.elapsed(),
        memory_bytes: 0,
    };
    Ok(Loaded {
        model: Arc::clone(model),
        embed_tokens_max: device.embed_tokens_max(),
        choices_max: choices_max(config),
        queue_max: config.queue_max,
        constraints: Compiler::new(Arc::clone(model)),
        template: template(source, config),
        token_bytes_max: model.token_bytes_max(),
        info,
    })
}
