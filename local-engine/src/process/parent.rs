//! The parent's side: starts the child, sends it the jobs from the queue, hands their events on,
//! and turns the child's end into each job's. Jobs wait here, where they take turns, expire and make
//! room for each other as in an engine of this process; the child gets those that can run, a few so that
//! no slot waits for the way there, and what is more urgent than these, which then goes first there.

use std::{
    collections::HashMap,
    io::{self, BufReader, Write},
    os::{
        fd::OwnedFd,
        unix::{
            net::UnixStream,
            process::{CommandExt, ExitStatusExt},
        },
    },
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool, atomic::Ordering::SeqCst},
    time::{Duration, Instant},
};

use super::{
    END_MAX, Worker,
    frames::{Numbers, Order, Report, read, write},
    sent::Sent,
};
use crate::{
    config::EngineConfig,
    embedding::{EmbedError, EmbedJob, Reading},
    error::LoadError,
    info::ModelInfo,
    job::{Job, JobEvent, JobUsage, Scheduling},
    meter::Meter,
    outbox::Outbox,
    placed::Claim,
    shared::Shared,
    status::EngineState,
};

/// The sending thread looks around this often.
const LOOK: Duration = Duration::from_millis(250);
/// Of so many jobs that can run one more is sent, and at least one.
const AHEAD_PART: usize = 8;

/// A child that has loaded its model.
#[derive(Debug)]
pub(crate) struct Remote {
    pub(super) shared: Arc<Shared>,
    to_child: Mutex<UnixStream>,
    pub(super) jobs: Mutex<HashMap<u64, Sent>>,
    /// Texts that are being embedded.
    embeds: Mutex<HashMap<u64, Reading>>,
    /// When the child had loaded, which has a limit of its own: from then on it shows signs of life.
    loaded: Instant,
    /// What the child last told of itself, and when.
    pub(super) seen: Mutex<Option<(Box<Numbers>, Instant)>>,
    /// Its id. Apart: who waits for its end holds the child meanwhile, and operators ask.
    process: u32,
    child: Mutex<Child>,
    /// The child's end has been dealt with.
    gone: AtomicBool,
    /// It was asked to end.
    leaving: AtomicBool,
    /// It was killed for showing no sign of life.
    stuck: AtomicBool,
    slots: usize,
    /// Jobs that the child may have; of those that wait there only the ones count that are no less
    /// urgent than the next.
    jobs_max: usize,
    /// Jobs of texts that it may have: they have a line of their own there.
    embeds_max: usize,
    queue_wait_max: Duration,
    reader_stall_max: Duration,
    stuck_after: Duration,
}

/// The way to the child. Where it is full it is looked whether the child still lives.
struct ToChild<'a> {
    remote: &'a Remote,
    socket: MutexGuard<'a, UnixStream>,
}

/// Loads a model in a child and kills the child: whether it survives is all that is asked.
///
/// # Errors
/// It cannot be loaded, or the child died of it.
pub(crate) fn try_out(config: &EngineConfig, worker: &Worker) -> Result<(), LoadError> {
    // A rehearsed fault is for the child that will compute.
    let config = EngineConfig { drill: None, ..config.clone() };
    let (mut child, socket, loaded) = launch(&config, worker)?;
    drop(socket);
    end(&mut child);
    loaded.map(|_| ())
}

/// Starts a child that loads the model. Blocks until it has.
///
/// # Errors
/// The child cannot be started, cannot load the model, or dies of it.
pub(crate) fn start(
    config: &EngineConfig,
    worker: &Worker,
    shared: &Arc<Shared>,
    claim: Claim,
) -> Result<(Arc<Remote>, ModelInfo), LoadError> {
    let (mut child, socket, loaded) = launch(config, worker)?;
    let info = match loaded {
        Ok(info) => info,
        Err(error) => {
            drop(socket);
            end(&mut child);
            return Err(error);
        }
    };
    let failed = |error: io::Error| LoadError::Start(error.to_string());
    socket.set_read_timeout(None).map_err(failed)?;
    socket.set_write_timeout(Some(LOOK)).map_err(failed)?;
    let to_child = socket.try_clone().map_err(failed)?;
    shared.gauges.loaded(&info);
    let remote = Arc::new(Remote::new(child, to_child, config, worker, Arc::clone(shared)));
    let sender = spawn("engine-orders", {
        let remote = Arc::clone(&remote);
        move || remote.send_jobs()
    })?;
    shared.set_thread(sender);
    spawn("engine-reports", {
        let remote = Arc::clone(&remote);
        move || remote.hear(socket, claim)
    })?;
    Ok((remote, info))
}

type Launched = (Child, UnixStream, Result<ModelInfo, LoadError>);

fn launch(config: &EngineConfig, worker: &Worker) -> Result<Launched, LoadError> {
    let failed = |error: io::Error| LoadError::Start(format!("the engine's process: {error}"));
    let (mut ours, theirs) = UnixStream::pair().map_err(failed)?;
    let mut child = Command::new(&worker.program)
        .args(&worker.args)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        // A terminal's Ctrl-C is the parent's to answer.
        .process_group(0)
        .spawn()
        .map_err(failed)?;
    let mut theirs = config.clone();
    theirs.drill = config.drill.as_ref().and_then(crate::drill::Drill::take);
    theirs.isolation = super::Isolation::InProcess;
    theirs.verify_load = None;
    // Everything the parent lets through fits the child's queue.
    let slots = usize::try_from(config.slots).unwrap_or(usize::MAX);
    theirs.queue_max = config.queue_max.saturating_add(slots);
    let exchanged = ours
        .set_read_timeout(Some(worker.load_max))
        .and_then(|()| write(&mut ours, &Order::Load(Box::new(theirs))))
        .and_then(|()| read(&mut ours));
    let file = config.file.clone();
    let loaded = match exchanged {
        Ok(Report::Loaded(info)) => Ok(*info),
        Ok(Report::NotLoaded(reason)) => Err(LoadError::Model { file, reason }),
        Ok(_) => Err(LoadError::Start("the engine's process speaks out of turn".to_owned())),
        Err(error) => {
            let died = child.try_wait().ok().flatten();
            let reason = died.map_or_else(|| error.to_string(), ending);
            Err(LoadError::Model { file, reason: format!("its process {reason} while loading") })
        }
    };
    Ok((child, ours, loaded))
}

impl Remote {
    /// A child that has loaded its model just now.
    fn new(
        child: Child,
        to_child: UnixStream,
        config: &EngineConfig,
        worker: &Worker,
        shared: Arc<Shared>,
    ) -> Remote {
        let slots = usize::try_from(config.slots).unwrap_or(usize::MAX);
        Remote {
            shared,
            to_child: Mutex::new(to_child),
            jobs: Mutex::default(),
            embeds: Mutex::default(),
            loaded: Instant::now(),
            seen: Mutex::new(None),
            process: child.id(),
            child: Mutex::new(child),
            gone: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            stuck: AtomicBool::new(false),
            slots,
            jobs_max: slots.saturating_add((slots / AHEAD_PART).clamp(1, config.queue_max.max(1))),
            embeds_max: config.queue_max,
            queue_wait_max: config.queue_wait_max,
            reader_stall_max: config.reader_stall_max,
            stuck_after: worker.stuck_after,
        }
    }

    /// The child's process id.
    pub(crate) fn process(&self) -> u32 {
        self.process
    }

    /// Sends jobs and cancellations until the child is gone or asked to go.
    fn send_jobs(&self) {
        let mut next = 0_u64;
        while !self.gone.load(SeqCst) {
            if self.shared.ending.load(SeqCst) && self.may_end() {
                return self.dismiss();
            }
            // First what ends: it makes room.
            self.tend_jobs();
            let now = Instant::now();
            self.shared.tidy_queue(now, self.queue_wait_max);
            self.shared.embeds.tidy(now, self.queue_wait_max);
            while let Some((id, job)) = self.next_job(&mut next) {
                if self.order(&submit(id, job)).is_err() {
                    break;
                }
            }
            while let Some((id, job)) = self.next_texts(&mut next) {
                if self.order(&Order::Embed(id, job)).is_err() {
                    break;
                }
            }
            self.end_if_stuck();
            std::thread::park_timeout(LOOK);
        }
    }

    /// A broken socket is the hearing thread's to notice.
    fn order(&self, order: &Order) -> io::Result<()> {
        write(&mut ToChild { remote: self, socket: lock(&self.to_child) }, order)
    }

    /// Takes out the job whose turn it is, unless the child has as many as it may.
    fn next_job(&self, next: &mut u64) -> Option<(u64, Box<Job>)> {
        let mut jobs = lock(&self.jobs);
        // Looked at under the lock: when the child is gone its jobs are told once.
        if self.gone.load(SeqCst) {
            return None;
        }
        let mut queue = self.shared.queue();
        // What is less urgent and waits in the child lets it go first there.
        let priority = queue.jobs.next()?.job.scheduling.priority;
        if jobs.values().filter(|sent| sent.is_ahead_of(priority)).count() >= self.jobs_max {
            return None;
        }
        let waiting = queue.jobs.pop()?;
        queue.jobs.elsewhere = self.waiting_there(jobs.len() + 1);
        self.shared.count_queue(&queue);
        drop(queue);
        *next += 1;
        let (sent, job) = Sent::of(waiting, self.queue_wait_max, Instant::now());
        jobs.insert(*next, sent);
        Some((*next, Box::new(job)))
    }

    /// Those of the child's jobs for which it has no slot.
    fn waiting_there(&self, jobs: usize) -> usize {
        jobs.saturating_sub(self.slots)
    }

    /// A job of the child's has ended: what of its cap was not used is given back to its caller, as
    /// where the engine is in this process.
    fn settle(&self, sent: &Sent, jobs: usize) {
        let Scheduling { caller, priority, .. } = sent.scheduling;
        let mut queue = self.shared.queue();
        queue.jobs.elsewhere = self.waiting_there(jobs);
        queue.jobs.give_back(caller, priority, sent.unused());
    }

    /// Takes out texts to embed, unless the child has as many as it may.
    fn next_texts(&self, next: &mut u64) -> Option<(u64, Box<EmbedJob>)> {
        let mut embeds = lock(&self.embeds);
        if embeds.len() >= self.embeds_max || self.gone.load(SeqCst) {
            return None;
        }
        let mut reading = self.shared.embeds.take()?;
        while let Err(reason) = self.shared.embeds.take_room() {
            reading.tell(Err(EmbedError::Unable(reason)));
            reading = self.shared.embeds.take()?;
        }
        *next += 1;
        let mut job = Box::new(reading.job.clone());
        let left =
            reading.wait_max(self.queue_wait_max).saturating_sub(reading.waited(Instant::now()));
        job.scheduling.queue_wait_max = Some(left);
        embeds.insert(*next, reading);
        Some((*next, job))
    }

    /// Tells the child to give up every kept prefix.
    pub(crate) fn forget(&self) {
        let _heard = self.order(&Order::Forget);
    }

    /// Cancels what nobody reads, hands on what readers had no room for, and says who has none now.
    fn tend_jobs(&self) {
        let now = Instant::now();
        let (mut left, mut bounds) = (Vec::new(), Vec::new());
        let mut look_at_bound = |id: &u64, meter: &Meter| {
            if meter.take_bound_changed() {
                bounds.push((*id, meter.engine_time_max(), meter.has_last_bound()));
            }
        };
        let mut jobs = lock(&self.jobs);
        let (mut paused, mut over, mut unread) = (Vec::new(), Vec::new(), Vec::new());
        for (id, sent) in jobs.iter_mut() {
            sent.outbox.flush(now);
            sent.outbox.remind();
            look_at_bound(id, sent.outbox.meter());
            paused.extend(sent.take_paused().map(|paused| (*id, paused)));
            if sent.outbox.abandoned() || sent.is_unread(self.reader_stall_max, now) {
                over.push(*id);
            }
        }
        for id in over {
            if let Some(sent) = jobs.remove(&id) {
                self.settle(&sent, jobs.len());
                left.push(id);
                unread.extend((!sent.outbox.abandoned()).then_some(sent.outbox));
            }
        }
        drop(jobs);
        for outbox in unread {
            outbox.close("", |usage| JobEvent::Unread { usage });
        }
        let mut embeds = lock(&self.embeds);
        embeds.retain(|id, reading| {
            look_at_bound(id, &reading.meter);
            if reading.is_left() {
                left.push(*id);
            }
            !reading.is_left()
        });
        self.shared.embeds.count_elsewhere(embeds.len());
        drop(embeds);
        for (id, engine_time_max, last) in bounds {
            let _heard = self.order(&Order::Bound(id, engine_time_max, last));
        }
        for (id, paused) in paused {
            let _heard = self.order(&Order::Pause(id, paused));
        }
        for id in left {
            let _heard = self.order(&Order::Cancel(id));
        }
    }

    /// Kills a child that shows no sign of life: it will not heed an order to end. The hearing thread
    /// notices its end.
    fn end_if_stuck(&self) {
        let age = match &*lock(&self.seen) {
            Some((told, at)) => told.status.heartbeat_age.saturating_add(at.elapsed()),
            None => self.loaded.elapsed(),
        };
        if age < self.stuck_after || self.stuck.swap(true, SeqCst) {
            return;
        }
        tracing::error!(seconds = age.as_secs(), "the engine's process is stuck: it is ended");
        let _ended_by_itself = lock(&self.child).kill();
    }

    fn may_end(&self) -> bool {
        let nothing_left = lock(&self.jobs).is_empty()
            && lock(&self.embeds).is_empty()
            && self.shared.embeds.is_empty();
        let queue = self.shared.queue();
        let over = queue.end_at.is_some_and(|end_at| Instant::now() >= end_at);
        over || (nothing_left && queue.jobs.is_empty())
    }

    /// Closes the socket, which is how the child is told.
    fn dismiss(&self) {
        self.leaving.store(true, SeqCst);
        let _closed = lock(&self.to_child).shutdown(std::net::Shutdown::Both);
    }

    /// Hands on what the child says until it is gone or its engine has failed, then tells every job.
    fn hear(&self, socket: UnixStream, claim: Claim) {
        let fault = self.hand_on_all(&mut BufReader::new(socket));
        let _closed = lock(&self.to_child).shutdown(std::net::Shutdown::Both);
        if fault.is_some() {
            // It has nothing left that it could end in order.
            let _ended_by_itself = lock(&self.child).kill();
        }
        let status = end(&mut lock(&self.child));
        let reason = if self.leaving.load(SeqCst) {
            self.shared.gauges.stop();
            "the engine was stopped".to_owned()
        } else {
            let how = match status {
                _ if self.stuck.load(SeqCst) => "was stuck".to_owned(),
                status => status.map_or_else(String::new, ending),
            };
            let reason = fault.unwrap_or_else(|| format!("the engine's process {how}"));
            tracing::error!(%reason, "the engine has failed");
            self.shared.gauges.fail(reason.clone());
            reason
        };
        self.gone.store(true, SeqCst);
        drop(claim);
        self.tell_all(&reason);
        self.shared.set_ended();
        self.shared.wake();
    }

    /// Hands on what the child says until it is gone, or until its engine has failed: the reason then,
    /// since a child goes on to speak for an engine that takes no more jobs.
    fn hand_on_all(&self, from_child: &mut impl io::Read) -> Option<String> {
        while let Ok(report) = read(from_child) {
            match report {
                Report::Event(id, event, usage) => self.hand_on(id, event, usage),
                Report::Usage(id, usage) => self.note_usage(id, &usage),
                Report::VectorsLow(id) => {
                    if let Some(reading) = lock(&self.embeds).get(&id) {
                        reading.tell_low();
                    }
                }
                Report::Vectors(id, vectors, usage) => {
                    let mut embeds = lock(&self.embeds);
                    let reading = embeds.remove(&id);
                    self.shared.embeds.count_elsewhere(embeds.len());
                    drop(embeds);
                    if let Some(reading) = reading {
                        reading.meter.set(&usage);
                        reading.tell(vectors);
                    }
                    // There is room for others.
                    self.shared.wake();
                }
                Report::Numbers(numbers) => {
                    let state = numbers.status.state.clone();
                    *lock(&self.seen) = Some((numbers, Instant::now()));
                    if let EngineState::Failed { reason } = state {
                        return Some(reason);
                    }
                }
                Report::Loaded(_) | Report::NotLoaded(_) => break,
            }
        }
        None
    }

    fn note_usage(&self, id: u64, usage: &JobUsage) {
        if let Some(sent) = lock(&self.jobs).get(&id) {
            self.took(&sent.outbox, usage);
        } else if let Some(reading) = lock(&self.embeds).get(&id) {
            reading.meter.set(usage);
        }
    }

    /// Notes what a job has taken by now.
    fn took(&self, outbox: &Outbox, usage: &JobUsage) {
        let first = outbox.meter().generated_tokens() == 0 && usage.generated_tokens > 0;
        outbox.meter().set(usage);
        if first {
            // Other choices of its request may go now.
            self.shared.wake();
        }
    }

    fn hand_on(&self, id: u64, event: JobEvent, usage: JobUsage) {
        let mut jobs = lock(&self.jobs);
        let Some(Sent { outbox, waited, started, .. }) = jobs.get_mut(&id) else { return };
        let waited = *waited;
        self.took(outbox, &usage);
        match event {
            JobEvent::Started { queued, cached_tokens } => {
                *started = true;
                outbox.started(waited.saturating_add(queued), cached_tokens);
            }
            JobEvent::Text { text, tokens, logprobs } => {
                outbox.logprobs(logprobs);
                let had_room = outbox.paused_since().is_none();
                outbox.relay(&text, tokens, Instant::now());
                if had_room && outbox.paused_since().is_some() {
                    // The child is to be told.
                    self.shared.wake();
                }
            }
            JobEvent::EngineTimeLow => outbox.low(),
            last => {
                if let Some(sent) = jobs.remove(&id) {
                    self.settle(&sent, jobs.len());
                    drop(jobs);
                    sent.close(last);
                }
                self.shared.wake();
            }
        }
    }

    /// Ends every job that runs or waits.
    fn tell_all(&self, reason: &str) {
        // Dropped, they tell that the engine ended.
        lock(&self.embeds).clear();
        let left = std::mem::take(&mut *lock(&self.jobs));
        for sent in left.into_values() {
            sent.outbox.close("", |usage| self.shared.last_event(reason, usage));
        }
        crate::scheduler::fail_queue(&self.shared, reason);
    }
}

// === impl ToChild ===

impl Write for ToChild<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.socket.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.remote.end_if_stuck();
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// A job as it is sent: its compiled rule stays here, and is compiled there again.
fn submit(id: u64, job: Box<Job>) -> Order {
    let rule = job.constraint.as_ref().and_then(|constraint| constraint.rule().cloned());
    Order::Submit(id, job, rule)
}

/// Waits for a child's end, and kills it if that takes too long.
fn end(child: &mut Child) -> Option<ExitStatus> {
    let until = Instant::now() + END_MAX;
    let _told = child.stdin.take();
    while Instant::now() < until {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) => std::thread::park_timeout(Duration::from_millis(10)),
            Err(_) => break,
        }
    }
    let _killed = child.kill();
    child.wait().ok()
}

/// How a process ended, in words.
fn ending(status: ExitStatus) -> String {
    match (status.signal(), status.code()) {
        (Some(signal), _) => format!("was ended by signal {signal}"),
        (_, Some(code)) => format!("ended with code {code}"),
        _ => "ended".to_owned(),
    }
}

fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> Result<std::thread::Thread, LoadError> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    let thread = builder.spawn(body).map_err(|error| LoadError::Start(error.to_string()))?;
    Ok(thread.thread().clone())
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_hangs_before_its_first_sign_of_life_is_ended() {
        let stuck_after = Duration::from_millis(200);
        let worker = Worker {
            program: "sleep".into(),
            args: vec!["3600".to_owned()],
            load_max: Duration::MAX,
            stuck_after,
        };
        let (ours, _theirs) = UnixStream::pair().expect("sockets");
        let child = Command::new(&worker.program).args(&worker.args).spawn().expect("a child");
        let config = EngineConfig::new("none".into());
        let shared = Arc::new(Shared::new(1, 1));
        let mut remote = Remote::new(child, ours, &config, &worker, shared);
        remote.loaded = Instant::now();
        remote.end_if_stuck();
        assert!(lock(&remote.child).try_wait().expect("a child").is_none(), "it may still speak");
        remote.loaded = Instant::now().checked_sub(stuck_after).expect("a time");
        remote.end_if_stuck();
        // SIGKILL cannot be withstood: the wait ends.
        let status = lock(&remote.child).wait().expect("its end");
        assert_eq!(ending(status), "was ended by signal 9");
    }
}
