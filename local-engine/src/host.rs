//! The host of the local models: a thread that computes for each device (`threads.rs`), one that
//! loads and unloads (`keeper.rs`), and the models that live there. Models share a device by time
//! and memory by need.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    config::EngineConfig,
    digest::Digest,
    drill::Drill,
    embedding::Room,
    error::LoadError,
    hosted::{Hosted, HostedModel, Keep},
    keeper::{self, Keeper},
    load::{self, Loaded},
    placed::{Claim, Memory, Placed},
    process::{self, Isolation, Remote, Worker},
    shared::Shared,
    threads::Threads,
    turns,
};

/// What the operator decides about all local models.
#[derive(Clone, Debug, Default)]
pub struct HostConfig {
    /// Most memory the loaded models may take together, in bytes, by estimate; `None` is no limit.
    pub memory_max: Option<u64>,
}

/// The models' host. Cheap to clone; the end of the last handle is the end of its models.
#[derive(Clone, Debug)]
pub struct Host {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Begun with the first model that is to be kept.
    keeper: Mutex<Option<JoinHandle<()>>>,
    state: Arc<Keeper>,
}

/// The host's live numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostStatus {
    /// Time since a computing thread last looked around, the one that has been silent longest; an
    /// idle one does so every second.
    pub heartbeat_age: Duration,
    /// Memory of the loaded models in bytes, by estimate.
    pub memory_used: u64,
    /// Most of it that there may be.
    pub memory_max: Option<u64>,
}

impl Host {
    /// Starts the thread that computes for models which name no device.
    ///
    /// # Errors
    /// The system starts no thread.
    pub fn start(config: &HostConfig) -> Result<Host, LoadError> {
        let memory = Arc::new(Memory::new(config.memory_max));
        let state = Arc::new(Keeper::new(Threads::start()?, memory));
        Ok(Host { inner: Arc::new(Inner { keeper: Mutex::new(None), state }) })
    }

    /// Keeps a model here under a name: loaded when `keep` says so, and again after a fault.
    /// Returns at once.
    ///
    /// # Errors
    /// The settings are wrong, or the system starts no thread.
    pub fn keep(
        &self,
        name: &str,
        config: EngineConfig,
        keep: Keep,
    ) -> Result<HostedModel, LoadError> {
        config.check()?;
        let mut thread = lock(&self.inner.keeper);
        if thread.is_none() {
            let state = Arc::clone(&self.inner.state);
            let keeping = spawn("engine-keeper", move || keeper::run(&state))?;
            self.inner.state.set_thread(keeping.thread().clone());
            *thread = Some(keeping);
        }
        let hosted = Arc::new(Hosted::new(name, config, keep));
        self.inner.state.add(Arc::clone(&hosted));
        Ok(HostedModel::new(hosted, self.clone()))
    }

    /// The live numbers. Never waits for a thread.
    #[must_use]
    pub fn status(&self) -> HostStatus {
        let memory = self.inner.state.memory();
        HostStatus {
            heartbeat_age: self.inner.state.threads().heartbeat_age(),
            memory_used: memory.used(),
            memory_max: memory.max,
        }
    }

    /// Takes no more jobs, lets what was submitted go on for at most `drain_max`, fails the rest
    /// and ends all threads. Blocks until then.
    pub fn shutdown(&self, drain_max: Duration) {
        self.inner.end(drain_max);
    }

    pub(crate) fn state(&self) -> &Keeper {
        &self.inner.state
    }
}

impl Inner {
    fn end(&self, drain_max: Duration) {
        let now = Instant::now();
        self.state.close(now.checked_add(drain_max).unwrap_or(now));
        if let Some(thread) = lock(&self.keeper).take()
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the thread that loads models ended by a panic");
        }
        self.state.threads().end();
    }
}

impl Drop for Inner {
    /// Waits for the step that runs, since llama.cpp must not compute while the process exits.
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

/// What the callers' side of a model that has moved in consists of.
#[derive(Debug)]
pub(crate) struct InPlace {
    pub(crate) loaded: Loaded,
    pub(crate) shared: Arc<Shared>,
    pub(crate) digest: Arc<Digest>,
    /// The child that computes, where it is not this process.
    pub(crate) remote: Option<Arc<Remote>>,
}

/// Loads a model and moves it in: the engine is ready when this returns. Blocks; other models
/// answer meanwhile.
pub(crate) fn place(
    config: &EngineConfig,
    threads: &Threads,
    memory: &Arc<Memory>,
    known: Option<Arc<Digest>>,
) -> Result<InPlace, LoadError> {
    config.check()?;
    let header = load::check_header(&config.file)?;
    let mut needed = load::memory_estimate(&header, config);
    if let Some(draft) = config.of_draft() {
        let header = load::check_header(&draft.file)?;
        needed = needed.saturating_add(load::memory_estimate(&header, &draft));
    }
    let room_to_embed =
        |tokens: u32| Room::new(Arc::clone(memory), load::embedding_estimate(&header, tokens));
    let claim = memory.claim(needed).map_err(|free| LoadError::Memory { needed, free })?;
    let shared = Arc::new(Shared::new(config.queue_max, config.reader_lag_max));
    let digest = Digest::begin(&config.file, known);
    if let Some(worker) = &config.verify_load {
        process::try_out(config, worker)?;
    }
    if let Isolation::Process(worker) = &config.isolation {
        let placed = place_apart(config, worker, claim, (shared, digest))?;
        placed.shared.embeds.set_room(room_to_embed(placed.loaded.embed_tokens_max));
        return Ok(placed);
    }
    let loading = AssertUnwindSafe(|| {
        config.drill.iter().for_each(Drill::rehearse_load);
        load::load(config, &shared)
    });
    let (scheduler, mut loaded) = catch_unwind(loading).unwrap_or_else(|panic| {
        let said = turns::panic_text(panic.as_ref());
        Err(LoadError::Start(format!("llama.cpp's wrapper panicked while loading: {said}")))
    })?;
    loaded.info.memory_bytes = needed;
    shared.embeds.set_room(room_to_embed(loaded.embed_tokens_max));
    let placed = Placed::new(scheduler, Arc::clone(&shared), config.drill.clone(), claim);
    threads.of(config, &loaded.info.offloaded_to)?.move_in(Box::new(placed))?;
    Ok(InPlace { loaded, shared, digest, remote: None })
}

/// Starts a child that computes. Here remains what makes prompts.
fn place_apart(
    config: &EngineConfig,
    worker: &Worker,
    claim: Claim,
    (shared, digest): (Arc<Shared>, Arc<Digest>),
) -> Result<InPlace, LoadError> {
    let needed = claim.bytes();
    let (remote, mut info) = process::start(config, worker, &shared, claim)?;
    info.memory_bytes = needed;
    let loaded = match load::vocabulary(config, info) {
        Ok(loaded) => loaded,
        Err(error) => {
            shared.end(Instant::now());
            return Err(error);
        }
    };
    Ok(InPlace { loaded, shared, digest, remote: Some(remote) })
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(body).map_err(|error| LoadError::Start(error.to_string()))
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
