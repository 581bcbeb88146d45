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
    constraint::{Constraint, ConstraintError, Rule},
    embedding::{self, EmbedJob, Embedding},
    error::{LoadError, PromptError, SubmitError},
    evictions::Eviction,
    generation::Generation,
    info::ModelInfo,
    job::{Job, Message},
    load::{self, Loaded},
    scheduler::{Scheduler, Turn, fail_queue},
    shared::Shared,
    status::{EngineState, Status},
    template::{Chat, ChatTemplate},
    tools::{ToolFormat, Tools},
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
    choices_max: u32,
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
        let queue_max = u32::try_from(config.queue_max).unwrap_or(u32::MAX);
        let choices_max = config.slots.min(queue_max);
        Ok(Engine { inner: Arc::new(Inner { loaded, shared, sha256, thread, choices_max }) })
    }

    /// Renders messages by the model's own chat template and tokenises the prompt. A control
    /// token's text inside a message stays text. Computes for up to a
    /// millisecond per KB: call it with long prompts where blocking is allowed.
    ///
    /// # Errors
    /// The template refuses the messages, or the text cannot fit into the context.
    pub fn tokenize_chat(&self, messages: &[Message]) -> Result<Vec<i32>, PromptError> {
        self.tokenize(&Chat { messages: messages.to_vec(), ..Chat::default() })
    }

    /// Like [`Engine::tokenize_chat`], with tools, or going on with what the assistant began.
    ///
    /// # Errors
    /// The template refuses the messages, or the text cannot fit into the context.
    pub fn tokenize(&self, chat: &Chat) -> Result<Vec<i32>, PromptError> {
        let template = self.inner.loaded.template.as_ref().ok_or(PromptError::NoTemplate)?;
        self.tokens(&template.render(chat)?)
    }

    /// Tokenises a text that is a prompt as it stands, without a template. Control tokens' texts in
    /// it are control tokens: whoever writes raw prompts writes the template's marks themself.
    ///
    /// # Errors
    /// The text cannot fit into the context.
    pub fn tokenize_raw(&self, text: &str) -> Result<Vec<i32>, PromptError> {
        self.tokens(&[text.to_owned()])
    }

    /// The tokens of a conversation's prompt: what it takes of the context.
    ///
    /// # Errors
    /// As [`Engine::tokenize`].
    pub fn count(&self, chat: &Chat) -> Result<usize, PromptError> {
        self.tokenize(chat).map(|tokens| tokens.len())
    }

    /// How this model writes calls of tools; `None` without a chat template.
    #[must_use]
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.inner.loaded.template.as_ref().map(ChatTemplate::format)
    }

    /// Compiles what keeps an answer's calls of `tools` well-formed; read the answer with a
    /// [`crate::CallReader`]. Blocks like [`Engine::constrain`].
    ///
    /// # Errors
    /// A function's schema cannot be enforced, or the model has no chat template.
    pub fn constrain_calls(&self, tools: &Tools) -> Result<Constraint, ConstraintError> {
        let no_template = || ConstraintError::Refused(PromptError::NoTemplate.to_string());
        self.constrain(&tools.rule(self.tool_format().ok_or_else(no_template)?)?)
    }

    fn tokens(&self, pieces: &[String]) -> Result<Vec<i32>, PromptError> {
        let loaded = &self.inner.loaded;
        let bytes: usize = pieces.iter().map(String::len).sum();
        let context_tokens = loaded.info.context_tokens;
        let most = usize::try_from(context_tokens).unwrap_or(usize::MAX);
        if bytes / loaded.token_bytes_max > most {
            return Err(PromptError::TooLong { bytes, context_tokens });
        }
        Ok(loaded.model.tokenize(pieces))
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

    /// Queues a job `choices` times, all or none: the answers to one prompt, which is read once where
    /// its cells can be shared. Each draws with a seed of its own, the first with the job's. They
    /// end one by one, and dropping one cancels that one. Never waits.
    ///
    /// # Errors
    /// As [`Engine::submit`]; and `choices` is 0 or more than [`Engine::choices_max`].
    pub fn submit_choices(&self, job: &Job, choices: u32) -> Result<Vec<Generation>, SubmitError> {
        let inner = &self.inner;
        validate::check(job, &inner.loaded.info)?;
        if choices == 0 || choices > self.choices_max() {
            let reason = format!("must be 1 to {}", self.choices_max());
            return Err(SubmitError::Invalid { parameter: "n", reason });
        }
        let choice = |index: u32| {
            let mut job = job.clone();
            job.sampling.seed = job.sampling.seed.map(|seed| seed.wrapping_add(u64::from(index)));
            job
        };
        let jobs = (0..choices).map(choice).collect();
        let queued = inner.shared.enqueue_choices(jobs, Instant::now())?;
        let generation =
            |(events, meter)| Generation::new(events, meter, Arc::clone(&inner.shared));
        Ok(queued.into_iter().map(generation).collect())
    }

    /// Most choices of one request: as many as can be decoded together.
    #[must_use]
    pub fn choices_max(&self) -> u32 {
        self.inner.choices_max
    }

    /// Queues texts to be embedded. Never waits.
    ///
    /// # Errors
    /// A text is empty or too long, too many jobs wait already, or the engine takes none.
    pub fn embed(&self, job: EmbedJob) -> Result<Embedding, SubmitError> {
        let Inner { loaded, shared, .. } = &*self.inner;
        validate::check_embed(&job, loaded.embed_tokens_max, &loaded.info)?;
        match shared.gauges.state() {
            EngineState::Running => embedding::submit(shared, job, Instant::now()),
            EngineState::Failed { reason } => Err(SubmitError::Failed { reason }),
            EngineState::Draining | EngineState::Stopped => Err(SubmitError::Stopped),
        }
    }

    /// Tokens of the longest text that can be embedded.
    #[must_use]
    pub fn embed_tokens_max(&self) -> u32 {
        self.inner.loaded.embed_tokens_max
    }

    /// Compiles what an answer must match, so that every token drawn can be checked. Computes for
    /// up to a second on a hostile rule: call it where blocking is allowed.
    ///
    /// # Errors
    /// The rule is malformed, too large, or asks for something that cannot be enforced.
    pub fn constrain(&self, rule: &Rule) -> Result<Constraint, ConstraintError> {
        self.inner.loaded.constraints.compile(rule)
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
