//! The child's side: loads what it is told to, computes the jobs it is sent, and ends when the
//! parent does. Each job has a thread that waits for its events, as many as may run and wait.

use std::{
    collections::HashMap,
    io::{self, BufReader},
    os::{fd::AsFd, unix::net::UnixStream},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc},
    time::Duration,
};

use tokio::sync::watch;

use super::{
    END_MAX,
    frames::{Numbers, Order, Report, read, write},
    rules::Rules,
};
use crate::{
    config::EngineConfig,
    constraint::{Constraint, ConstraintError, Rule},
    embedding::{EmbedError, EmbedEvent, EmbedJob},
    engine::Engine,
    error::SubmitError,
    generation::Generation,
    job::{Job, JobEvent, JobUsage},
    turns::panic_text,
};

/// How often the numbers are told.
const STATUS_EVERY: Duration = Duration::from_millis(250);

/// How often it is told what a job has taken that yields nothing meanwhile: the parent charges who
/// leaves by that.
const USAGE_EVERY: Duration = Duration::from_millis(100);

/// The parent's end of the socket, written by many threads.
type ToParent = Arc<Mutex<UnixStream>>;

/// A new bound of a job's engine time, and whether it is its last; none at first.
type Bound = Option<(Duration, bool)>;

/// The rules that jobs of this engine have.
type Compiled = Arc<Rules<Constraint, ConstraintError>>;

/// What tells a job of a new bound, whether its reader has room, and, dropped, that it is cancelled.
struct Tells {
    bound: watch::Sender<Bound>,
    paused: watch::Sender<bool>,
}

/// The job's end of that.
struct Told {
    bound: watch::Receiver<Bound>,
    paused: watch::Receiver<bool>,
}

/// Serves the parent, whose end of the socket is this process's standard input, until it closes.
///
/// # Errors
/// The socket cannot be used, or the first thing on it is not an order to load.
pub fn serve_parent() -> io::Result<()> {
    let socket = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    let to_parent: ToParent = Arc::new(Mutex::new(socket.try_clone()?));
    let mut from_parent = BufReader::new(socket);
    let Order::Load(config) = read(&mut from_parent)? else {
        return Err(io::Error::other("the first order must be to load"));
    };
    let (ended, watching) = watch::channel(());
    let (load, loaded) = mpsc::sync_channel(1);
    let teller = load_and_tell(config, Arc::clone(&to_parent), load, watching)?;
    // Nothing is ordered before it is loaded; but a parent that goes away meanwhile is heard.
    let first = read(&mut from_parent);
    let Ok(engine) = loaded.try_recv() else {
        let early = || io::Error::other("an order before anything is loaded");
        return goodbye(first.and_then(|_| Err(early())));
    };
    let orders = first.and_then(|first| follow(&engine, first, &mut from_parent, &to_parent));
    let _in_time = end_in_time()?;
    drop(ended);
    let _ = teller.join();
    engine.shutdown(Duration::ZERO);
    goodbye(orders)
}

/// The parent closes its end of the socket: that is how it says goodbye.
fn goodbye(orders: io::Result<()>) -> io::Result<()> {
    orders.or_else(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => Ok(()),
        _ => Err(error),
    })
}

/// Ends this process where it has not ended in time by itself: a step that hangs would keep it for ever,
/// and with it the memory that the next one needs. The parent, which would end it, may be gone.
fn end_in_time() -> io::Result<mpsc::SyncSender<()>> {
    let (in_time, ended) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("engine-end".to_owned()).spawn(move || {
        if ended.recv_timeout(END_MAX) == Err(mpsc::RecvTimeoutError::Timeout) {
            tracing::error!("the engine does not end: its process is aborted");
            std::process::abort();
        }
    })?;
    Ok(in_time)
}

/// Follows orders from the first one until there is no more.
fn follow(
    engine: &Engine,
    first: Order,
    from_parent: &mut impl io::Read,
    to_parent: &ToParent,
) -> io::Result<()> {
    let mut running: HashMap<u64, Tells> = HashMap::new();
    let rules: Compiled = Arc::new(Rules::new());
    let mut order = first;
    loop {
        match order {
            Order::Load(_) => return Err(io::Error::other("a second order to load")),
            Order::Cancel(id) => {
                running.remove(&id);
            }
            Order::Forget => engine.forget_prefixes(),
            Order::Bound(id, engine_time_max, last) => {
                if let Some(tells) = running.get(&id) {
                    tells.bound.send_replace(Some((engine_time_max, last)));
                }
            }
            Order::Pause(id, paused) => {
                if let Some(tells) = running.get(&id) {
                    tells.paused.send_replace(paused);
                }
            }
            Order::Submit(id, job, rule) => {
                let work = Work { id, job: *job, rule, told: begin(&mut running, id) };
                let (engine, to_parent) = (engine.clone(), Arc::clone(to_parent));
                let rules = Arc::clone(&rules);
                start(async move { work.run(&engine, &rules, &to_parent).await })?;
            }
            Order::Embed(id, job) => {
                let told = begin(&mut running, id).bound;
                let (engine, to_parent) = (engine.clone(), Arc::clone(to_parent));
                start(async move { embed(id, *job, told, &engine, &to_parent).await })?;
            }
        }
        order = read(from_parent)?;
    }
}

/// Lets a job be told what comes.
fn begin(running: &mut HashMap<u64, Tells>, id: u64) -> Told {
    running.retain(|_, tells| !tells.bound.is_closed());
    let (bound, bound_told) = watch::channel(None);
    let (paused, paused_told) = watch::channel(false);
    running.insert(id, Tells { bound, paused });
    Told { bound: bound_told, paused: paused_told }
}

/// Runs a job on a thread that waits for its events.
fn start(job: impl Future<Output = ()> + Send + 'static) -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    let thread = std::thread::Builder::new().name("engine-job".to_owned());
    thread.spawn(move || runtime.block_on(job))?;
    Ok(())
}

/// Embeds texts and tells the vectors, unless nobody wants them any more: then the other end of `told`
/// is dropped.
async fn embed(
    id: u64,
    job: EmbedJob,
    mut told: watch::Receiver<Bound>,
    engine: &Engine,
    to_parent: &ToParent,
) {
    let mut embedding = match engine.embed(job) {
        Ok(embedding) => embedding,
        Err(error) => {
            let why = match error {
                SubmitError::Stopped => EmbedError::Stopped,
                SubmitError::Failed { .. } => EmbedError::Ended,
                error => EmbedError::Unable(error.to_string()),
            };
            let report = Report::Vectors(id, Err(why), JobUsage::default());
            let _heard = tell(engine, to_parent, &report);
            return;
        }
    };
    let mut taken = Taken::new(id);
    loop {
        let event = tokio::select! {
            event = embedding.next() => event,
            () = taken.next() => {
                if taken.tell(embedding.usage(), to_parent).is_err() {
                    return;
                }
                continue;
            }
            changed = told.changed() => {
                let Some((engine_time_max, last)) = bound(changed.is_ok(), &mut told) else { return };
                embedding.engine_time().bound(engine_time_max, last);
                continue;
            }
        };
        let (report, last) = match event {
            EmbedEvent::EngineTimeLow => (Report::VectorsLow(id), false),
            EmbedEvent::Ended(vectors) => (Report::Vectors(id, vectors, embedding.usage()), true),
        };
        if tell(engine, to_parent, &report).is_err() || last {
            return;
        }
    }
}

/// The new bound that was told; `None`: the job is cancelled.
fn bound(changed: bool, told: &mut watch::Receiver<Bound>) -> Bound {
    if changed { *told.borrow_and_update() } else { None }
}

/// A job and what is told of it.
struct Work {
    id: u64,
    job: Job,
    rule: Option<Rule>,
    told: Told,
}

impl Work {
    async fn run(mut self, engine: &Engine, rules: &Compiled, to_parent: &ToParent) {
        let mut generation = match self.submit(engine, rules) {
            Ok(generation) => generation,
            Err(last) => {
                let _heard =
                    tell(engine, to_parent, &Report::Event(self.id, last, JobUsage::default()));
                return;
            }
        };
        let mut taken = Taken::new(self.id);
        loop {
            // What nobody has room for stays in the engine, which then pauses the job.
            let paused = *self.told.paused.borrow_and_update();
            let event = tokio::select! {
                event = generation.next(), if !paused => event,
                () = taken.next() => {
                    if taken.tell(generation.usage(), to_parent).is_err() {
                        return;
                    }
                    continue;
                }
                changed = self.told.bound.changed() => {
                    let bound = bound(changed.is_ok(), &mut self.told.bound);
                    let Some((engine_time_max, last)) = bound else { return };
                    generation.engine_time().bound(engine_time_max, last);
                    continue;
                }
                changed = self.told.paused.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => return,
                },
            };
            let Some(event) = event else { return };
            let report = Report::Event(self.id, event, generation.usage());
            if tell(engine, to_parent, &report).is_err() {
                return;
            }
        }
    }

    /// Submits it, or says its last word.
    fn submit(&mut self, engine: &Engine, rules: &Compiled) -> Result<Generation, JobEvent> {
        let mut job = self.job.clone();
        if let Some(rule) = &self.rule {
            let compiled = rules.compiled(rule, |rule| engine.constrain(rule));
            job.constraint = Some(compiled.map_err(|error| not_compiled(&error))?);
        }
        engine.submit(job).map_err(|error| JobEvent::Failed {
            reason: error.to_string(),
            usage: JobUsage::default(),
        })
    }
}

/// What a job is told whose rule could not be compiled here: it was in the parent, so that the engine is
/// as good as before, and the machine too busy where it takes longer than it may.
fn not_compiled(error: &ConstraintError) -> JobEvent {
    match error {
        ConstraintError::Busy | ConstraintError::TooDear => {
            JobEvent::Expired { queued: Duration::ZERO }
        }
        ConstraintError::Refused(_) | ConstraintError::Parameters { .. } => {
            JobEvent::Refused { reason: error.to_string(), usage: JobUsage::default() }
        }
    }
}

/// What a job has taken, told every now and then.
struct Taken {
    id: u64,
    every: tokio::time::Interval,
    told: JobUsage,
}

impl Taken {
    fn new(id: u64) -> Taken {
        Taken { id, every: tokio::time::interval(USAGE_EVERY), told: JobUsage::default() }
    }

    async fn next(&mut self) {
        self.every.tick().await;
    }

    /// Tells it where it has changed.
    fn tell(&mut self, usage: JobUsage, to_parent: &ToParent) -> io::Result<()> {
        if std::mem::replace(&mut self.told, usage) == usage {
            return Ok(());
        }
        write(&mut *lock(to_parent), &Report::Usage(self.id, usage))
    }
}

/// Tells of a job. Before a failure come the engine's numbers: where it is the engine that has failed,
/// the parent knows before anybody who asks again.
fn tell(engine: &Engine, to_parent: &ToParent, report: &Report) -> io::Result<()> {
    let mut to_parent = lock(to_parent);
    if let Report::Event(_, JobEvent::Failed { .. }, _) | Report::Vectors(_, Err(_), _) = report {
        write(&mut *to_parent, &Numbers::of(engine))?;
    }
    write(&mut *to_parent, report)
}

/// Loads the engine, gives it to `load` and tells that, and then its numbers until `ended` is dropped.
fn load_and_tell(
    config: Box<EngineConfig>,
    to_parent: ToParent,
    load: mpsc::SyncSender<Engine>,
    mut ended: watch::Receiver<()>,
) -> io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("engine-status".to_owned()).spawn(move || {
        let loading = catch_unwind(AssertUnwindSafe(|| Engine::load(&config)));
        let loaded = match loading {
            Ok(loaded) => loaded.map_err(|error| error.to_string()),
            Err(panic) => Err(panic_text(panic.as_ref()).to_owned()),
        };
        let engine = match loaded {
            Ok(engine) => engine,
            Err(why) => {
                let _heard = write(&mut *lock(&to_parent), &Report::NotLoaded(why));
                return;
            }
        };
        let report = Report::Loaded(Box::new(engine.info().clone()));
        let given = load.send(engine.clone());
        if given.is_err() || write(&mut *lock(&to_parent), &report).is_err() {
            return;
        }
        runtime.block_on(async {
            while tokio::time::timeout(STATUS_EVERY, ended.changed()).await.is_err() {
                if write(&mut *lock(&to_parent), &Numbers::of(&engine)).is_err() {
                    return;
                }
            }
        });
    })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_that_is_not_compiled_is_no_fault_of_the_engine() {
        for busy in [ConstraintError::Busy, ConstraintError::TooDear] {
            assert_eq!(not_compiled(&busy), JobEvent::Expired { queued: Duration::ZERO });
        }
        let refused = ConstraintError::Refused("no such keyword".to_owned());
        let refused = not_compiled(&refused);
        assert!(
            matches!(&refused, JobEvent::Refused { reason, .. } if reason == "no such keyword")
        );
    }
}
