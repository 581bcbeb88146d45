//! The thread that loads and unloads. It looks at every kept model, does what is due, and sleeps
//! until the next thing is: one load at a time, since two would fight for the same disk and memory.
//!
//! **Invariant:** a model with work is never unloaded to make room, nor an idle one for a load that
//! would have no room all the same: who waits for that one waits until the work is over.

use std::{
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering::SeqCst},
    thread::Thread,
    time::{Duration, Instant},
};

use crate::{
    config::EngineConfig,
    engine::Engine,
    error::LoadError,
    host,
    hosted::{Hosted, LoadWhen, Order, Standing},
    placed::Memory,
    threads::Threads,
};

/// Without anything due it looks around this often, for faults nobody has told it of.
const LOOK: Duration = Duration::from_millis(200);
/// While something drains.
const LOOK_DRAINING: Duration = Duration::from_millis(10);
/// How long a model that was idle may take to end what came at the last moment.
const IDLE_DRAIN_MAX: Duration = Duration::from_secs(60);
/// How long freeing an idle model's memory may take.
const FREE_MAX: Duration = Duration::from_secs(30);
/// A model that ran so long without a fault begins anew with short waits.
const SOUND_AFTER: Duration = Duration::from_secs(300);

/// What the keeper's thread shares with the handles.
#[derive(Debug)]
pub(crate) struct Keeper {
    threads: Threads,
    memory: Arc<Memory>,
    thread: OnceLock<Thread>,
    models: Mutex<Vec<Arc<Hosted>>>,
    closing: Mutex<Option<Instant>>,
}

/// A model that has lost its name and finishes what it has.
struct Retired {
    engine: Engine,
    until: Instant,
}

/// A model's tries.
#[derive(Default)]
struct Tries {
    failed: u32,
    /// When it was loaded, unless it has failed since.
    loaded_at: Option<Instant>,
    /// Bytes for which there is no room while others work.
    waits_for: Option<u64>,
}

impl Keeper {
    pub(crate) fn new(threads: Threads, memory: Arc<Memory>) -> Keeper {
        Keeper {
            threads,
            memory,
            thread: OnceLock::new(),
            models: Mutex::default(),
            closing: Mutex::new(None),
        }
    }

    pub(crate) fn threads(&self) -> &Threads {
        &self.threads
    }

    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    pub(crate) fn set_thread(&self, thread: Thread) {
        let _ = self.thread.set(thread);
    }

    pub(crate) fn wake(&self) {
        if let Some(thread) = self.thread.get() {
            thread.unpark();
        }
    }

    pub(crate) fn add(&self, hosted: Arc<Hosted>) {
        lock(&self.models).push(hosted);
        self.wake();
    }

    /// Ends with every model, at the latest then.
    pub(crate) fn close(&self, end_at: Instant) {
        lock(&self.closing).get_or_insert(end_at);
        self.wake();
    }
}

/// Keeps the models until the host closes.
pub(crate) fn run(keeper: &Keeper) {
    let mut round = Round { keeper, retired: Vec::new(), tries: Vec::new() };
    loop {
        let models = lock(&keeper.models).clone();
        if let Some(end_at) = *lock(&keeper.closing) {
            round.stop(&models, end_at);
            return;
        }
        round.tries.resize_with(models.len(), Tries::default);
        let mut next = LOOK;
        for (at, hosted) in models.iter().enumerate() {
            next = next.min(round.tend(at, hosted, &models));
        }
        round.free_retired(Instant::now());
        let look = if round.retired.is_empty() { next } else { LOOK_DRAINING };
        std::thread::park_timeout(look);
    }
}

struct Round<'a> {
    keeper: &'a Keeper,
    retired: Vec<Retired>,
    tries: Vec<Tries>,
}

impl Round<'_> {
    /// Does what is due for one model; says when to look again.
    fn tend(&mut self, at: usize, hosted: &Arc<Hosted>, models: &[Arc<Hosted>]) -> Duration {
        self.notice_fault(at, hosted);
        while let Some(order) = hosted.next_order() {
            self.follow(at, hosted, models, order);
        }
        let now = Instant::now();
        match hosted.now() {
            Standing::Loaded(engine) => {
                hosted.wanted.store(false, SeqCst);
                // An answer is use to its end, and counts which model makes room.
                if engine.has_work() {
                    hosted.used();
                }
                let Some(unload_after) = hosted.keep.unload_after else { return LOOK };
                let idle = hosted.idle();
                if idle >= unload_after && !hosted.is_waited_for() && engine.is_idle() {
                    tracing::info!(model = hosted.name, "unloading a model nobody uses");
                    self.retire(hosted, engine, now + IDLE_DRAIN_MAX, true);
                }
                unload_after.saturating_sub(idle).max(LOOK_DRAINING)
            }
            Standing::Failed { retry_at, .. } if now < retry_at => {
                retry_at.saturating_duration_since(now)
            }
            Standing::Failed { .. } if hosted.keep.load == LoadWhen::Start => {
                let _told = self.load(at, hosted, models);
                LOOK
            }
            Standing::Unloaded { .. } | Standing::Failed { .. }
                if self.is_due(at, hosted, models) =>
            {
                let _told = self.load(at, hosted, models);
                LOOK
            }
            _ => LOOK,
        }
    }

    /// Whether somebody wants it, and there is room as far as that is known.
    fn is_due(&mut self, at: usize, hosted: &Arc<Hosted>, models: &[Arc<Hosted>]) -> bool {
        let wanted = hosted.wanted.swap(false, SeqCst) || self.due_at_start(at, hosted);
        // An operator's word counts for more than who wanted it before that.
        if matches!(hosted.now(), Standing::Unloaded { on_use: false }) {
            return false;
        }
        let Some(needed) = self.tries[at].waits_for else { return wanted };
        if wanted || hosted.is_waited_for() || hosted.keep.load == LoadWhen::Start {
            return self.has_room(needed, &idle(hosted, models));
        }
        self.tries[at].waits_for = None;
        false
    }

    /// Whether it is to be loaded at the start and has not been tried.
    fn due_at_start(&self, at: usize, hosted: &Hosted) -> bool {
        let tries = &self.tries[at];
        hosted.keep.load == LoadWhen::Start && tries.loaded_at.is_none() && tries.failed == 0
    }

    /// Takes the name from an engine that has failed; it is loaded again after a wait.
    fn notice_fault(&mut self, at: usize, hosted: &Hosted) {
        let Standing::Loaded(engine) = hosted.now() else { return };
        let Some(reason) = engine.fault() else { return };
        hosted.counts.faults.fetch_add(1, SeqCst);
        let tries = &mut self.tries[at];
        if tries.loaded_at.is_some_and(|at| at.elapsed() >= SOUND_AFTER) {
            tries.failed = 0;
        }
        self.fail(at, hosted, &reason);
    }

    fn fail(&mut self, at: usize, hosted: &Hosted, reason: &str) {
        let tries = &mut self.tries[at];
        let wait = backoff(hosted.keep.reload_after, tries.failed, hosted.keep.reload_after_max);
        tries.failed = tries.failed.saturating_add(1);
        tries.loaded_at = None;
        tracing::error!(
            model = hosted.name,
            reason,
            retry_ms = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
            "a model has failed"
        );
        hosted.set(Standing::Failed { reason: reason.into(), retry_at: Instant::now() + wait });
    }

    fn follow(&mut self, at: usize, hosted: &Arc<Hosted>, models: &[Arc<Hosted>], order: Order) {
        let now = Instant::now();
        // Whoever asked may have left; the order is followed all the same.
        let _told = match order {
            Order::Load(reply) => reply.send(match hosted.now() {
                Standing::Loaded(_) => Ok(()),
                _ => {
                    let loaded = self.load(at, hosted, models);
                    // Whoever ordered it is told that there is no room, and does not wait for it.
                    self.tries[at].waits_for = None;
                    loaded
                }
            }),
            Order::Unload(drain_max, reply) => {
                let on_use = hosted.keep.load == LoadWhen::FirstUse;
                self.tries[at].waits_for = None;
                match hosted.now() {
                    Standing::Loaded(engine) => {
                        let until = now.checked_add(drain_max).unwrap_or(now);
                        self.retire(hosted, engine, until, on_use);
                    }
                    // One that failed, or waits for room, is not to be tried again either.
                    Standing::Failed { .. } | Standing::Unloaded { .. } => {
                        hosted.set(Standing::Unloaded { on_use });
                    }
                    Standing::Loading { .. } | Standing::Stopped => {}
                }
                reply.send(Ok(()))
            }
            Order::Swap(file, drain_max, reply) => {
                let mut config = hosted.config().clone();
                config.file = file;
                reply.send(self.place(hosted, &config, models).map(|engine| {
                    let old = hosted.now();
                    *hosted.config() = config;
                    self.tries[at] = Tries { loaded_at: Some(Instant::now()), ..Tries::default() };
                    hosted.used();
                    hosted.set(Standing::Loaded(engine));
                    if let Standing::Loaded(old) = old {
                        let until = now.checked_add(drain_max).unwrap_or(now);
                        self.retired.push(Retired { engine: old, until });
                    }
                }))
            }
        };
    }

    fn load(
        &mut self,
        at: usize,
        hosted: &Arc<Hosted>,
        models: &[Arc<Hosted>],
    ) -> Result<(), LoadError> {
        let before = hosted.now();
        let tries = &mut self.tries[at];
        if tries.loaded_at.is_some() {
            // It was loaded and unloaded in order: it has proved itself.
            tries.failed = 0;
        }
        tries.waits_for = None;
        hosted.set(Standing::Loading { again: tries.failed > 0 });
        let config = hosted.config().clone();
        match self.place(hosted, &config, models) {
            Ok(engine) => {
                self.tries[at].loaded_at = Some(Instant::now());
                // The time that the load took is not time without use.
                hosted.used();
                hosted.set(Standing::Loaded(engine));
                Ok(())
            }
            // Nothing is wrong with it: there will be room when others have done their work.
            Err(LoadError::Memory { needed, free }) if self.keeper.memory.could_hold(needed) => {
                tracing::info!(model = hosted.name, needed, free, "no room while others work");
                self.tries[at].waits_for = Some(needed);
                let on_use = !matches!(before, Standing::Unloaded { on_use: false });
                hosted.set(Standing::Unloaded { on_use });
                Err(LoadError::Memory { needed, free })
            }
            Err(error) => {
                hosted.counts.failed_loads.fetch_add(1, SeqCst);
                self.fail(at, hosted, &error.to_string());
                Err(error)
            }
        }
    }

    /// Loads a file, making room for it if that is needed and possible.
    fn place(
        &mut self,
        hosted: &Arc<Hosted>,
        config: &EngineConfig,
        models: &[Arc<Hosted>],
    ) -> Result<Engine, LoadError> {
        loop {
            let (threads, memory) = (&self.keeper.threads, &self.keeper.memory);
            let begun = Instant::now();
            match host::place(config, threads, memory, hosted.known_digest()) {
                Err(LoadError::Memory { needed, free }) => {
                    if !self.make_room(needed, hosted, models) {
                        return Err(LoadError::Memory { needed, free });
                    }
                }
                Ok(mut in_place) => {
                    // Every answer's entry names the file: it has been read meanwhile.
                    if let Err(reason) = in_place.digest.wait() {
                        tracing::warn!(model = hosted.name, reason, "the file's digest is unknown");
                    }
                    in_place.loaded.info.load_time = begun.elapsed();
                    let engine = Engine::hosted(in_place);
                    hosted.counts.loads.fetch_add(1, SeqCst);
                    hosted.keep_digest(engine.digest());
                    return Ok(engine);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Unloads models without work, those first that were used longest ago, and waits until so much
    /// memory is free. False: there is no room, and none is unloaded in vain.
    fn make_room(&mut self, needed: u64, but: &Arc<Hosted>, models: &[Arc<Hosted>]) -> bool {
        let waits_until = Instant::now() + FREE_MAX;
        while Instant::now() < waits_until {
            self.free_retired(Instant::now());
            if self.keeper.memory.free() >= needed {
                return true;
            }
            if self.has_room(needed, &[]) {
                std::thread::park_timeout(LOOK_DRAINING);
                continue;
            }
            let mut idle = idle(but, models);
            if !self.has_room(needed, &idle) {
                return false;
            }
            idle.sort_by_key(|(other, _)| other.idle());
            if let Some((oldest, engine)) = idle.pop() {
                tracing::info!(model = oldest.name, "unloading a model to make room for another");
                self.retire(&oldest, engine, Instant::now() + IDLE_DRAIN_MAX, true);
            }
        }
        false
    }

    /// Whether so much memory is free, or would be without the models that end and those idle ones.
    fn has_room(&self, needed: u64, idle: &[(Arc<Hosted>, Engine)]) -> bool {
        let now = Instant::now();
        let ends = |retired: &&Retired| retired.engine.is_unused() || now >= retired.until;
        let ending = self.retired.iter().filter(ends).map(|retired| &retired.engine);
        let engines = ending.chain(idle.iter().map(|(_, engine)| engine));
        let bytes = engines.map(Engine::memory_bytes);
        bytes.fold(self.keeper.memory.free(), u64::saturating_add) >= needed
    }

    /// Takes the name from a loaded model.
    fn retire(&mut self, hosted: &Hosted, engine: Engine, until: Instant, on_use: bool) {
        hosted.set(Standing::Unloaded { on_use });
        hosted.counts.unloads.fetch_add(1, SeqCst);
        self.retired.push(Retired { engine, until });
    }

    /// Ends retired models that have no more work or no more time.
    fn free_retired(&mut self, now: Instant) {
        self.retired.retain(|retired| {
            if retired.engine.is_unused() || now >= retired.until {
                retired.engine.begin_end(now);
            }
            !retired.engine.has_ended()
        });
    }

    fn stop(&mut self, models: &[Arc<Hosted>], end_at: Instant) {
        for hosted in models {
            if let Standing::Loaded(engine) = hosted.now() {
                engine.begin_end(end_at);
                self.retired.push(Retired { engine, until: end_at });
            }
            hosted.set(Standing::Stopped);
            while let Some(order) = hosted.next_order() {
                drop(order);
            }
        }
        for retired in &self.retired {
            retired.engine.begin_end(end_at);
            retired.engine.wait_end();
        }
    }
}

/// The loaded models without work that could make room for `but`.
fn idle(but: &Arc<Hosted>, models: &[Arc<Hosted>]) -> Vec<(Arc<Hosted>, Engine)> {
    let others = models.iter().filter(|other| !Arc::ptr_eq(other, but));
    let idle = others.filter_map(|other| match other.now() {
        // This look and the name hold one handle each.
        Standing::Loaded(engine) if !other.is_waited_for() && engine.is_idle() => {
            Some((Arc::clone(other), engine))
        }
        _ => None,
    });
    idle.collect()
}

/// The wait before the next try, after so many failed ones.
fn backoff(first: Duration, failed: u32, most: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(failed.min(16))).min(most)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_wanted_a_model_before_an_operator_unloaded_it_does_not_bring_it_back() {
        let memory = Arc::new(Memory::new(None));
        let keeper = Keeper::new(Threads::start().expect("threads"), memory);
        let mut round =
            Round { keeper: &keeper, retired: Vec::new(), tries: vec![Tries::default()] };
        for (load, tried) in [(LoadWhen::Start, 0), (LoadWhen::FirstUse, 1)] {
            let keep = crate::hosted::Keep { load, ..crate::hosted::Keep::default() };
            let config = EngineConfig::new("no such file.gguf".into());
            let models = [Arc::new(Hosted::new("edge", config, keep))];
            let (reply, _told) = tokio::sync::oneshot::channel();
            round.follow(0, &models[0], &models, Order::Unload(Duration::ZERO, reply));
            models[0].wanted.store(true, SeqCst);
            round.tend(0, &models[0], &models);
            assert_eq!(models[0].counts.failed_loads.load(SeqCst), tried, "{load:?}");
        }
        keeper.threads().end();
    }

    #[test]
    fn waits_double_up_to_their_maximum() {
        let wait = |failed| backoff(Duration::from_secs(1), failed, Duration::from_secs(60));
        assert_eq!([0, 1, 2, 5].map(|n| wait(n).as_secs()), [1, 2, 4, 32]);
        assert_eq!([6, 7, u32::MAX].map(|n| wait(n).as_secs()), [60, 60, 60]);
    }
}
