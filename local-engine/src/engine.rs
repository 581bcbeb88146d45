//! The engine's handle: load a model, make prompts, submit jobs, look at it, end it. Everything
//! here runs on the callers' threads; what computes runs on the one scheduler thread.

use std::{
    path::Path,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::{Duration, Instant},
};

use crate::{
    config::EngineConfig,
    constraint::{Constraint, ConstraintError, Rule},
    digest::Digest,
    embedding::{self, EmbedJob, Embedding},
    error::{LoadError, PromptError, SubmitError},
    evictions::Eviction,
    generation::Generation,
    host::{self, Host, HostConfig, InPlace},
    info::ModelInfo,
    job::{Job, Message, Scheduling},
    load::Loaded,
    predict::{Basis, Prediction},
    process::Remote,
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
    digest: Arc<Digest>,
    /// The child that computes, where it is not this process.
    remote: Option<Arc<Remote>>,
    /// The host, where this engine is the only model on it: after `shared`, which is ended first.
    own_host: Option<Host>,
}

impl Engine {
    /// Loads a model and starts a host for it alone. Blocks for as long as that takes.
    ///
    /// # Errors
    /// The settings are wrong, the file is not a model, or there is not enough memory.
    pub fn load(config: &EngineConfig) -> Result<Engine, LoadError> {
        let host = Host::start(&HostConfig::default())?;
        let in_place = host::place(config, host.state().threads(), host.state().memory(), None)?;
        Ok(Engine::over(in_place, Some(host)))
    }

    /// An engine over a model that has moved in at a host, which its holder keeps.
    pub(crate) fn hosted(in_place: InPlace) -> Engine {
        Engine::over(in_place, None)
    }

    fn over(in_place: InPlace, own_host: Option<Host>) -> Engine {
        let InPlace { loaded, shared, digest, remote } = in_place;
        Engine { inner: Arc::new(Inner { loaded, shared, digest, remote, own_host }) }
    }

    /// The process that computes, where it is not this one.
    #[must_use]
    pub fn process(&self) -> Option<u32> {
        self.inner.remote.as_ref().map(|remote| remote.process())
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
        self.tokenize_while(chat, &|| true)
    }

    /// Like [`Engine::tokenize`], and given up where nobody waits for the prompt any more.
    ///
    /// # Errors
    /// As there, and [`PromptError::GivenUp`].
    pub fn tokenize_while(
        &self,
        chat: &Chat,
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<i32>, PromptError> {
        self.tokens(&self.template()?.render_while(chat, wanted)?, wanted)
    }

    /// Tokenises a text that is a prompt as it stands, without a template. Control tokens' texts in
    /// it are control tokens: whoever writes raw prompts writes the template's marks themself.
    ///
    /// # Errors
    /// The text cannot fit into the context.
    pub fn tokenize_raw(&self, text: &str) -> Result<Vec<i32>, PromptError> {
        self.tokens(&[text.to_owned()], &|| true)
    }

    /// Tokenises a text to embed, with the marks at its beginning and its end that the model's file asks
    /// for. Control tokens' texts in it are control tokens.
    ///
    /// # Errors
    /// The text cannot fit into the context.
    pub fn tokenize_text(&self, text: &str) -> Result<Vec<i32>, PromptError> {
        self.check_bytes(text.len())?;
        Ok(self.inner.loaded.model.tokenize_text(text))
    }

    fn template(&self) -> Result<&ChatTemplate, PromptError> {
        self.inner.loaded.template.as_ref().map_err(PromptError::clone)
    }

    /// How this model writes calls of tools; `None` without a chat template that can be used.
    #[must_use]
    pub fn tool_format(&self) -> Option<ToolFormat> {
        self.template().ok().map(ChatTemplate::format)
    }

    /// Whether this model's chat template reads one of [`crate::TEMPLATE_WORDS`].
    #[must_use]
    pub fn template_reads(&self, word: &str) -> bool {
        self.inner.loaded.template.as_ref().is_ok_and(|template| template.reads(word))
    }

    /// Compiles what keeps an answer's calls of `tools` well-formed; read the answer with a
    /// [`crate::CallReader`]. Blocks like [`Engine::constrain`].
    ///
    /// # Errors
    /// A function's schema cannot be enforced, or the model has no chat template.
    pub fn constrain_calls(&self, tools: &Tools) -> Result<Constraint, ConstraintError> {
        let no_template = |reason: PromptError| ConstraintError::Refused(reason.to_string());
        let rule = tools.rule(self.template().map_err(no_template)?.format())?;
        let compiled = self.constrain(&rule);
        if let Err(ConstraintError::Refused(_)) = &compiled {
            self.constrain_each(tools)?;
        }
        compiled
    }

    /// Finds the function whose schema is to blame where all together were refused.
    fn constrain_each(&self, tools: &Tools) -> Result<(), ConstraintError> {
        for (at, schema) in tools.schemas()? {
            match self.constrain(&Rule::JsonSchema(schema.to_string())) {
                Ok(_) => {}
                Err(ConstraintError::Refused(reason)) => {
                    return Err(ConstraintError::Parameters { at, reason });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn tokens(
        &self,
        pieces: &[String],
        wanted: &dyn Fn() -> bool,
    ) -> Result<Vec<i32>, PromptError> {
        self.check_bytes(pieces.iter().map(String::len).sum())?;
        self.inner.loaded.model.tokenize(pieces, wanted).ok_or(PromptError::GivenUp)
    }

    /// Whether a text of so many bytes may fit into the context.
    fn check_bytes(&self, bytes: usize) -> Result<(), PromptError> {
        let loaded = &self.inner.loaded;
        let context_tokens = loaded.info.context_tokens;
        let most = usize::try_from(context_tokens).unwrap_or(usize::MAX);
        if bytes / loaded.token_bytes_max > most {
            return Err(PromptError::TooLong { bytes, context_tokens });
        }
        Ok(())
    }

    /// Queues a job. Never waits.
    ///
    /// # Errors
    /// The job cannot be computed as asked, too many wait already, or the engine takes no jobs.
    pub fn submit(&self, mut job: Job) -> Result<Generation, SubmitError> {
        validate::check(&job, &self.inner.loaded.info)?;
        self.find_breakers(&mut job);
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
        let mut job = job.clone();
        self.find_breakers(&mut job);
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

    /// Looks for the tokens of DRY's breakers here, so that the scheduler does not have to.
    fn find_breakers(&self, job: &mut Job) {
        if let Some(dry) = &mut job.sampling.dry {
            dry.breakers.find(|texts| self.inner.loaded.model.heads(texts));
        }
    }

    /// Most choices of one request: as many as can be decoded together.
    #[must_use]
    pub fn choices_max(&self) -> u32 {
        self.inner.loaded.choices_max
    }

    /// Most jobs that can wait: so many can be submitted at once to an engine without work.
    #[must_use]
    pub fn queue_max(&self) -> usize {
        self.inner.loaded.queue_max
    }

    /// Queues texts to be embedded. Never waits.
    ///
    /// # Errors
    /// A text is empty or too long, too many jobs wait already, or the engine takes none.
    pub fn embed(&self, job: EmbedJob) -> Result<Embedding, SubmitError> {
        let Inner { loaded, shared, .. } = &*self.inner;
        validate::check_embed(&job, loaded.embed_tokens_max, &loaded.info)?;
        embedding::submit(shared, job, Instant::now())
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

    /// A token's bytes, as they are shown.
    pub(crate) fn token_bytes(&self, token: i32) -> Vec<u8> {
        match self.inner.loaded.model.token_bytes(token) {
            (bytes, false) => bytes,
            (_, true) => Vec::new(),
        }
    }

    /// What is known about the model.
    #[must_use]
    pub fn info(&self) -> &ModelInfo {
        &self.inner.loaded.info
    }

    /// Memory that the model takes in bytes, by estimate; with that for texts to embed, once there were
    /// some.
    #[must_use]
    pub fn memory_bytes(&self) -> u64 {
        let to_embed = self.inner.shared.embeds.room_taken();
        self.inner.loaded.info.memory_bytes.saturating_add(to_embed)
    }

    /// SHA-256 of the model file in hex: `None` while it is being computed, or if the file can no
    /// longer be read.
    #[must_use]
    pub fn sha256(&self) -> Option<&str> {
        self.inner.digest.now()
    }

    /// Like [`Engine::sha256`], but waits for it.
    ///
    /// # Errors
    /// The system's reason why the file cannot be read.
    pub fn sha256_blocking(&self) -> Result<&str, &str> {
        self.inner.digest.wait()
    }

    /// The engine's live numbers. Takes no lock and never waits for the scheduler.
    #[must_use]
    pub fn status(&self) -> Status {
        match &self.inner.remote {
            None => self.inner.shared.gauges.read(),
            Some(remote) => remote.status(),
        }
    }

    /// What a parent predicts waits from, where this process computes for one.
    pub(crate) fn basis(&self) -> Option<Basis> {
        self.inner.shared.forecast.basis()
    }

    /// When a job of this caller and priority, with so many prompt tokens, could be expected to begin
    /// to answer if it came now; `None` before anything was computed. Never waits for the scheduler.
    #[must_use]
    pub fn predict(&self, of: &Scheduling, prompt_tokens: usize) -> Option<Prediction> {
        let Inner { shared, remote, .. } = &*self.inner;
        match remote {
            None => shared.predict(of, prompt_tokens),
            Some(remote) => remote.predict(of, prompt_tokens),
        }
    }

    /// How long a job would wait in the queue behind all who wait now; `None` before anything was
    /// computed. Never waits for the scheduler.
    #[must_use]
    pub fn wait_behind_all(&self) -> Option<Duration> {
        let Inner { shared, remote, .. } = &*self.inner;
        match remote {
            None => shared.wait_behind_all(),
            Some(remote) => remote.wait_behind_all(),
        }
    }

    /// The last times cells of one job were taken for another, oldest first; bounded.
    #[must_use]
    pub fn evictions(&self) -> Vec<Eviction> {
        match &self.inner.remote {
            None => self.inner.shared.evictions.read(Instant::now()),
            Some(remote) => remote.evictions(),
        }
    }

    /// Gives up every prefix that is kept for later jobs, before the next step. Running jobs lose
    /// nothing.
    pub fn forget_prefixes(&self) {
        match &self.inner.remote {
            Some(remote) => remote.forget(),
            None => self.inner.shared.forget.store(true, Relaxed),
        }
        self.inner.shared.wake();
    }

    /// Takes no more jobs, lets what was submitted go on for at most `drain_max`, fails the rest
    /// and waits for the end. A second call waits for the first.
    pub fn shutdown(&self, drain_max: Duration) {
        let now = Instant::now();
        self.begin_end(now.checked_add(drain_max).unwrap_or(now));
        self.wait_end();
    }

    /// Takes no more jobs and ends at the latest at `end_at`.
    pub(crate) fn begin_end(&self, end_at: Instant) {
        self.inner.shared.end(end_at);
    }

    /// Waits until its memory is free.
    pub(crate) fn wait_end(&self) {
        self.inner.shared.wait_ended();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.inner.shared.has_ended()
    }

    /// Why it has failed, if it has.
    pub(crate) fn fault(&self) -> Option<String> {
        match self.inner.shared.gauges.state() {
            EngineState::Failed { reason } => Some(reason),
            _ => None,
        }
    }

    /// Whether only its name and the asker hold it, and nothing is computed or waits.
    pub(crate) fn is_idle(&self) -> bool {
        Arc::strong_count(&self.inner) <= 2 && !self.has_work()
    }

    /// Whether only the asker holds it, and nothing is computed or waits.
    pub(crate) fn is_unused(&self) -> bool {
        Arc::strong_count(&self.inner) <= 1 && !self.has_work()
    }

    /// Whether something is computed or waits. Who may still submit is counted before, so that what they
    /// submitted is counted here.
    pub(crate) fn has_work(&self) -> bool {
        !self.inner.shared.has_no_jobs()
    }

    pub(crate) fn digest(&self) -> Arc<Digest> {
        Arc::clone(&self.inner.digest)
    }
}

impl Drop for Inner {
    /// What nobody can read any more is not computed; an own host waits for the step that runs.
    fn drop(&mut self) {
        self.shared.end(Instant::now());
        drop(self.own_host.take());
    }
}

/// The file's name without its extension.
pub(crate) fn file_stem(file: &Path) -> String {
    file.file_stem().map_or_else(String::new, |stem| stem.to_string_lossy().into_owned())
}
