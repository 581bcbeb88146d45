//! The engine's handle: load a model, make prompts, submit jobs, look at it, end it. Everything
//! here runs on the callers' threads; what computes runs on the one scheduler thread.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use crate::{
    config::EngineConfig,
    error::{LoadError, PromptError, SubmitError},
    evictions::Eviction,
    generation::Generation,
    info::ModelInfo,
    job::{Job, Message},
    load::{self, Loaded},
    scheduler::{Scheduler, Turn, fail_queue},
    shared::Shared,
    status::Status,
    validate,
};

/// A model in this process. Cheap to clone; the last handle's end is the engine's end.
#[derive(Clone, Debug)]
pub struct Engine {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    loaded: Loaded,
    shared: Arc<Shared>,
    sha256: Arc<OnceLock<Result<String, String>>>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Engine {
    /// Loads a model and starts its scheduler thread. Blocks for as long as that takes.
    ///
    /// # Errors
    /// The settings are wrong, the file is not a model, or there is not enough memory.
    pub fn load(config: &EngineConfig) -> Result<Engine, LoadError> {
        config.check()?;
        load::check_readable(&config.file)?;
        let shared = Arc::new(Shared::new(config.queue_max, config.reader_lag_max));
        let (report, loaded) = mpsc::sync_channel(1);
        let thread = spawn("engine", {
            let (config, shared) = (config.clone(), Arc::clone(&shared));
            move || run(&config, &shared, &report)
        })?;
        shared.set_thread(thread.thread().clone());
        let died = || LoadError::Start("llama.cpp's wrapper panicked while loading".to_owned());
        let loaded = loaded.recv().unwrap_or_else(|_| Err(died()))?;
        let sha256 = Arc::new(OnceLock::new());
        // The start does not wait for it: a large file takes seconds. Without the thread, whoever
        // asks for it first computes it.
        let _ = spawn("engine-sha256", {
            let (sha256, file) = (Arc::clone(&sha256), config.file.clone());
            move || {
                sha256.get_or_init(|| load::sha256_of(&file));
            }
        });
        let thread = Mutex::new(Some(thread));
        Ok(Engine { inner: Arc::new(Inner { loaded, shared, sha256, thread }) })
    }

    /// Renders messages by the model's own chat template and tokenises the prompt. A control
    /// token's text inside a message stays text. Computes for up to a
    /// millisecond per KB: call it with long prompts where blocking is allowed.
    ///
    /// # Errors
    /// The template refuses the messages, or the text cannot fit into the context.
    pub fn tokenize_chat(&self, messages: &[Message]) -> Result<Vec<i32>, PromptError> {
        let loaded = &self.inner.loaded;
        let template = loaded.template.as_ref().ok_or(PromptError::NoTemplate)?;
        let pieces = template.render(messages)?;
        let bytes: usize = pieces.iter().map(String::len).sum();
        let context_tokens = loaded.info.context_tokens;
        let most = usize::try_from(context_tokens).unwrap_or(usize::MAX);
        if bytes / loaded.token_bytes_max > most {
            return Err(PromptError::TooLong { bytes, context_tokens });
        }
        Ok(loaded.model.tokenize(&pieces))
    }

    /// Queues a job. Never waits.
    ///
    /// # Errors
    /// The job cannot be computed as asked, too many wait already, or the engine takes no jobs.
    pub fn submit(&self, job: Job) -> Result<Generation, SubmitError> {
        validate::check(&job, &self.inner.loaded.info)?;
        let shared = &self.inner.shared;
        let (events, meter) = shared.enqueue(job, Instant::now())?;
        Ok(Generation::new(events, meter, Arc::clone(shared)))
    }

    /// What is known about the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.inner.loaded.info
    }

    /// SHA-256 of the model file in hex: `None` while it is being computed, or if the file can no
    /// longer be read.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.inner.sha256.get()?.as_deref().ok()
    }

    /// Like [`Engine::sha256`], but waits for it.
    ///
    /// # Errors
    /// The system's reason why the file cannot be read.
    pub fn sha256_blocking(&self) -> Result<&str, &str> {
        let inner = &self.inner;
        let digest = inner.sha256.get_or_init(|| load::sha256_of(&inner.loaded.info.file));
        digest.as_deref().map_err(String::as_str)
    }

    /// The engine's live numbers. Takes no lock and never waits for the scheduler.
    #[must_use]
    pub fn status(&self) -> Status {
        self.inner.shared.gauges.read()
    }

    /// The last times cells of one job were taken for another, oldest first; bounded.
    #[must_use]
    pub fn evictions(&self) -> Vec<Eviction> {
        self.inner.shared.evictions.read(Instant::now())
    }

    /// Takes no more jobs, lets what was submitted go on for at most `drain_max`, fails the rest
    /// and joins the thread. Blocks until then; a second call waits for the first.
    pub fn shutdown(&self, drain_max: Duration) {
        self.inner.end(drain_max);
    }
}

impl Inner {
    fn end(&self, drain_max: Duration) {
        let now = Instant::now();
        self.shared.end(now.checked_add(drain_max).unwrap_or(now));
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(thread) = thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the engine's thread ended by a panic");
        }
    }
}

impl Drop for Inner {
    /// Waits for the step that runs, since llama.cpp must not compute while the process exits.
    fn drop(&mut self) {
        self.end(Duration::ZERO);
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LoadError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(body).map_err(|error| LoadError::Start(error.to_string()))
}

/// The scheduler thread, from loading to the end.
fn run(
    config: &EngineConfig,
    shared: &Arc<Shared>,
    report: &mpsc::SyncSender<Result<Loaded, LoadError>>,
) {
    let ended = catch_unwind(AssertUnwindSafe(|| {
        load::with_device(config, |device, loaded| {
            let mut scheduler = Scheduler::new(device, config, Arc::clone(shared));
            if report.send(Ok(loaded)).is_ok() {
                schedule(&mut scheduler);
            }
        })
    }));
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            let _ = report.send(Err(error));
        }
        Err(_) => shared.gauges.fail("llama.cpp's wrapper panicked".to_owned()),
    }
    fail_queue(shared, "the engine ended");
}

/// Takes turns until the end, which no job outlives without having been told.
pub(crate) fn schedule<D: crate::device::Device>(scheduler: &mut Scheduler<D>) {
    let turns = catch_unwind(AssertUnwindSafe(|| {
        loop {
            match scheduler.turn(Instant::now())? {
                Turn::Again => {}
                Turn::Park(time) => std::thread::park_timeout(time),
                Turn::Done => return Ok::<(), String>(()),
            }
        }
    }));
    let fault = match turns {
        Ok(Ok(())) => None,
        Ok(Err(reason)) => Some(reason),
        Err(panic) => Some(format!("the scheduler panicked: {}", panic_text(panic.as_ref()))),
    };
    match fault {
        None => {
            scheduler.shared.gauges.stop();
            scheduler.end("the engine was stopped");
        }
        Some(reason) => {
            tracing::error!(%reason, "the engine has failed");
            scheduler.shared.gauges.fail(reason.clone());
            scheduler.end(&reason);
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given")
}

/// The file's name without its extension.
pub(crate) fn file_stem(file: &Path) -> String {
    file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}
